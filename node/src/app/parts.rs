//! What the node's configuration makes of each part.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sbc_core::ids::Incarnation;
use sbc_core::local::LocalConfig;
use sbc_core::policy::ClusterConfig;
use sbc_core::replica::Replica;
use sbc_proto::peer::AdmitResponse;
use sbc_raft::{PeerConfig, RaftConfig, RaftHandle};

use super::certificates::Certificates;
use super::descriptors::{self, Shares, Wants};
use super::disk;
use crate::config::{AnnounceDriver, MediaEngine as EngineChoice, Member, NodeConfig, SecretsDir, parse_cluster};
use crate::dns::{DnsConfig, QUERIES_MAX};
use crate::driver::ParseConfig;
use crate::media::{MediaConfig, MediaKind};
use crate::peer::LogFacts;
use crate::store::encode_entry;
use crate::transport::{AnycastMode, Limits, Ports, TransportConfig};

pub(super) fn local_config(config: &NodeConfig, incarnation: u32) -> LocalConfig {
    LocalConfig {
        node: config.id,
        incarnation: Incarnation(incarnation),
        name: config.name.as_str().into(),
        anycast: config.sip.anycast,
        unicast: config.sip.unicast,
        core: config.sip.core,
        port: config.sip.port,
        tls_port: config.sip.tls_port,
        anchored: config.media.engine == EngineChoice::Embedded,
    }
}

pub(super) fn transport_config(config: &NodeConfig, certificates: &Certificates, shares: &Shares) -> TransportConfig {
    let most = |share: u64| usize::try_from(share).unwrap_or(usize::MAX);
    let ports = Ports { sip: config.sip.port, sips: config.sip.tls_port };
    TransportConfig {
        unicast: config.sip.unicast,
        anycast: Some(config.sip.anycast),
        core: config.sip.core,
        external_ports: ports,
        core_ports: ports,
        anycast_mode: match config.announce.driver {
            AnnounceDriver::Bind => AnycastMode::OnDemand,
            AnnounceDriver::Exec | AnnounceDriver::Bgp | AnnounceDriver::None => AnycastMode::Always,
        },
        tls: Some(certificates.sip.clone()),
        limits: Limits { flows: most(shares.accepted), flows_opened: most(shares.opened), ..Limits::default() },
    }
}

pub(super) fn dns_config(config: &NodeConfig, shares: &Shares) -> DnsConfig {
    // Of a name's IPv4 and IPv6 addresses each is a question on a socket of its own.
    let questions = usize::try_from(shares.questions / 2).map_or(QUERIES_MAX, |n| n.min(QUERIES_MAX));
    DnsConfig { servers: config.dns_servers.clone(), questions }
}

/// Says how many descriptors whoever grows with the load may have, and logs it.
pub(super) fn share_out(config: &NodeConfig, media: &MediaConfig) -> Shares {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let limits = Limits::default();
    let wants = Wants {
        peers: count(config.cluster.members.len().saturating_sub(1)),
        // The runtimes' own, and a few to spare.
        threads: count(media.threads) + 8,
        media: if media.kind == MediaKind::Embedded { count(media.sockets_wanted()) } else { 0 },
        accepted: count(limits.flows),
        opened: count(limits.flows_opened),
    };
    let shares = Shares::of(descriptors::raise(), &wants);
    let Shares { limit, reserved, questions, accepted, opened, media: sockets } = shares;
    let pairs = 2 * (config.sip.unicast.iter().count() + config.sip.core.iter().count());
    let streams = sockets / count(pairs);
    tracing::info!(
        limit,
        reserved,
        questions,
        accepted,
        opened,
        sockets,
        streams,
        "descriptors are shared out: so many media streams at once"
    );
    if sockets < wants.media {
        tracing::warn!(limit, streams, "the limit of open files (LimitNOFILE) is too low for all media ports at once");
    }
    shares
}

pub(super) fn media_config(config: &NodeConfig) -> MediaConfig {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    MediaConfig {
        kind: match config.media.engine {
            EngineChoice::Embedded => MediaKind::Embedded,
            EngineChoice::None => MediaKind::None,
        },
        external: config.sip.unicast,
        core: config.sip.core,
        port_range: (config.media.ports[0], config.media.ports[1]),
        threads: config.media.threads.unwrap_or(threads),
        guard_window: MediaConfig::GUARD_WINDOW,
        sockets: 0,
    }
}

/// A member, as Raft knows it.
pub(super) fn peer_config(m: &Member) -> PeerConfig {
    PeerConfig { id: m.id.0.into(), name: m.name.clone(), addr: m.peer.to_string() }
}

/// What a peer may ask of the log.
pub(super) fn log_facts(replica: &Arc<RwLock<Replica>>, raft: &RaftHandle) -> LogFacts {
    let (of_level, of_nodes, raft) = (replica.clone(), replica.clone(), raft.clone());
    LogFacts {
        level: Box::new(move || of_level.read().unwrap_or_else(PoisonError::into_inner).level()),
        admit: Box::new(move |node, data_id| {
            let (raft, of_nodes) = (raft.clone(), of_nodes.clone());
            Box::pin(async move {
                // What is in a log and not applied is not known here, and there all the same.
                let empty = raft.is_new().await;
                let caught_up = raft.status().caught_up;
                let replica = of_nodes.read().unwrap_or_else(PoisonError::into_inner);
                let known = replica.node(node).filter(|n| !n.vacant);
                AdmitResponse {
                    // Before data ids only its starts are known: one that has started before is not new.
                    known_otherwise: known.is_some_and(|n| n.data_id != data_id),
                    caught_up,
                    empty,
                }
            })
        }),
    }
}

pub(super) fn raft_config(config: &NodeConfig, incarnation: u32) -> RaftConfig {
    let own = config.this_member();
    let node = u32::from(config.id.0);
    RaftConfig {
        node_id: config.id.0.into(),
        cluster_id: config.cluster.id.clone(),
        name: own.name.clone(),
        advertise: own.peer.to_string(),
        data_dir: config.data_dir.join("raft"),
        peers: config.cluster.members.iter().filter(|m| m.id != config.id).map(peer_config).collect(),
        heartbeat: config.raft.heartbeat,
        election_min: config.raft.election[0],
        election_max: config.raft.election[1],
        lease: config.raft.lease,
        snapshot_log_bytes: config.raft.snapshot_log_bytes,
        encode_entry: Arc::new(move |commands| encode_entry(node, incarnation, commands)),
        ..RaftConfig::default()
    }
}

/// Where the last configuration of the log is kept, for a start without quorum.
fn cache_path(data_dir: &Path) -> PathBuf {
    data_dir.join("last-cluster.toml")
}

pub(super) fn cached_cluster(config: &NodeConfig) -> Option<ClusterConfig> {
    let text = std::fs::read_to_string(cache_path(&config.data_dir)).ok()?;
    let mut cluster = parse_cluster(&text, 0).ok()?;
    fill_secrets(&config.secrets(), &mut cluster);
    Some(cluster)
}

/// A secret that is not there takes the configuration out of force no more than a dead trunk does: calls go on, and its own
/// challenges are not answered.
fn fill_secrets(secrets: &SecretsDir, cluster: &mut ClusterConfig) {
    for missing in secrets.fill(cluster) {
        tracing::error!(%missing, "a secret of the configuration is not on this node");
    }
}

pub(super) fn parse_and_cache(config: &NodeConfig) -> ParseConfig {
    let (data_dir, secrets) = (config.data_dir.clone(), config.secrets());
    Arc::new(move |revision, text| {
        let mut config = parse_cluster(text, revision).map_err(|faults| faults.render("cluster configuration", text))?;
        fill_secrets(&secrets, &mut config);
        if let Err(error) = disk::replace(&cache_path(&data_dir), text.as_bytes()) {
            tracing::warn!(%error, "the configuration is in force, but not kept for a start without quorum");
        }
        Ok(config)
    })
}
