//! Puts a node together: parse, validate, build, spawn, drain. Nothing is bound before everything is read and checked.

mod alarms;
mod certificates;
mod control;
mod descriptors;
mod disk;
mod grpc;
mod level;
mod life;
mod log_health;
mod membership;
mod readings;
mod reload;
mod reports;
mod service_alarms;
mod view;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use sbc_core::ctx::LocalConfig;
use sbc_core::ids::{Incarnation, NodeId};
use sbc_core::io::NodeState;
use sbc_core::policy::ClusterConfig;
use sbc_core::replica::{LEVEL, Replica};
use sbc_core::sbc::Sbc;
use sbc_core::token::ClusterKey;
use sbc_proto::peer::AdmitResponse;
use sbc_raft::{Connector, PeerConfig, RaftConfig, RaftHandle, StorageState};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use certificates::{Certificates, CheckedPems};
pub use control::Draining;
use descriptors::{Shares, Wants};
pub use disk::DiskError;
use reload::Reload;

use crate::announce::{AnnounceConfig, AnnounceState, Announcer, AnnouncerHandle, Driver as AnnounceBy, Exec};
use crate::config::{
    AnnounceDriver, Fault, Faults, KeyFault, LogSection, MediaEngine as EngineChoice, Member, NodeConfig, SecretsDir,
    builtin_cluster, parse_cluster, review_cluster,
};
use crate::control::{Intents, NodeStatus};
use crate::dns::{DnsConfig, QUERIES_MAX, Resolver};
use crate::driver::{Clock, Driver, DriverHandle, ParseConfig, Parts, Queues};
use crate::media::{MediaConfig, MediaEngine, MediaHandle, MediaKind};
use crate::peer::{LinkService, LogFacts, Myself, PeerLinks};
use crate::store::{Store, encode_entry};
use crate::telemetry::{self, Alarms, HealthPage, Metrics};
use crate::tls;
use crate::transport::{AnycastMode, Limits, Ports, Transport, TransportConfig, TransportHandle};

/// Messages off sockets that the driver has not sorted yet: it takes all of them in each of its turns.
const TRANSPORT_QUEUE: usize = 4096;
/// Media events that wait: two for each call that could be set up in a second.
const MEDIA_QUEUE: usize = 16_384;
/// Packets and questions of peers that wait.
const PEER_QUEUE: usize = 8_192;
/// Batches of the log that wait: Raft waits in turn.
const STORE_QUEUE: usize = 16;
/// How long a stopping node waits for its last sends and its log.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// How the node is to start.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// This node makes the cluster out of all configured members, if that has not been done.
    pub init: bool,
}

/// Why a node does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// A file of its own.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Files that keys of the node's configuration name.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Files(Vec<KeyFault>),
    /// The cluster's configuration file, with the place.
    #[error("{path}:\n{faults}")]
    ClusterConfig {
        /// Which file.
        path: PathBuf,
        /// As for people.
        faults: String,
    },
    /// Sockets, ports, resolver: what, and why.
    #[error("{what}: {why}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The node ran, and cannot go on.
    #[error("stopped: {0}")]
    Fatal(String),
}

fn start_error<E: ToString>(what: &'static str) -> impl FnOnce(E) -> AppError {
    move |e| AppError::Start { what, why: e.to_string() }
}

/// The secret octets that `[cluster]` names, by their keys.
#[derive(Clone, PartialEq, Eq)]
struct Keys {
    own: [u8; 32],
    others: Vec<[u8; 32]>,
    identity: Option<[u8; 32]>,
}

impl Keys {
    fn load(config: &NodeConfig) -> Result<Keys, DiskError> {
        Ok(Keys {
            own: disk::read_key(&config.cluster.key_file)?,
            others: config.cluster.other_key_files.iter().map(|p| disk::read_key(p)).collect::<Result<Vec<_>, _>>()?,
            identity: config.cluster.identity_key_file.as_deref().map(disk::read_key).transpose()?,
        })
    }

    fn ring(&self) -> ClusterKey {
        ClusterKey::ring(&self.own, &self.others, self.identity.as_ref())
    }

    /// The keys whose files have another content.
    fn differ(&self, other: &Keys) -> impl Iterator<Item = &'static str> {
        let differ = [
            ("cluster.key_file", self.own != other.own),
            ("cluster.previous_key_file, cluster.next_key_file", self.others != other.others),
            ("cluster.identity_key_file", self.identity != other.identity),
        ];
        differ.into_iter().filter_map(|(key, differs)| differs.then_some(key))
    }
}

/// Everything that is read before anything is bound.
pub struct Checked {
    path: PathBuf,
    text: String,
    config: Arc<NodeConfig>,
    pems: CheckedPems,
    keys: Keys,
    cluster_text: Option<String>,
    cluster: ClusterConfig,
}

impl Checked {
    /// How it logs.
    pub fn log(&self) -> &LogSection {
        &self.config.log
    }

    /// What is no reason not to start, for people.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.pems.warnings(&self.config);
        if let (Some(path), Some(text)) = (&self.config.cluster.config_file, &self.cluster_text) {
            let found = review_cluster(text, &self.cluster).into_iter().filter(Fault::needs_force);
            warnings.extend(found.map(|f| format!("{}:{}: {}", path.display(), f.line, f.message)));
        }
        warnings
    }
}

/// Reads and checks a node's configuration and all files that it names: what `--check-config` does. The error is for people, with places.
pub fn read(path: &Path) -> Result<Checked, String> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    let base = path.parent().map(PathBuf::from).unwrap_or_default();
    let config = NodeConfig::parse(&text, &base).map_err(|faults| faults.render(&file, &text))?;
    telemetry::check_log_filter(&config.log.filter).map_err(|e| format!("{file}: {e}"))?;
    match check(path, &text, config) {
        Ok(checked) => Ok(checked),
        Err(AppError::Files(faults)) => Err(Faults::at_keys(&text, &faults).render(&file, &text)),
        Err(other) => Err(other.to_string()),
    }
}

fn check(path: &Path, text: &str, config: NodeConfig) -> Result<Checked, AppError> {
    let pems = CheckedPems::load(&config)?;
    let keys = Keys::load(&config)?;
    let (cluster_text, cluster) = match &config.cluster.config_file {
        None => (None, builtin_cluster()),
        Some(path) => {
            let text = read_text(path)?;
            let mut cluster = parse_cluster(&text, 0).map_err(|faults| AppError::ClusterConfig {
                path: path.clone(),
                faults: faults.render(&path.display().to_string(), &text),
            })?;
            let missing = config.secrets().fill(&mut cluster);
            if !missing.is_empty() {
                return Err(AppError::ClusterConfig { path: path.clone(), faults: missing.join("\n") });
            }
            (Some(text), cluster)
        }
    };
    Ok(Checked { path: path.to_owned(), text: text.to_owned(), config: Arc::new(config), pems, keys, cluster_text, cluster })
}

fn read_text(path: &Path) -> Result<String, AppError> {
    std::fs::read_to_string(path).map_err(|source| DiskError::Io { path: path.to_owned(), source }.into())
}

/// Threads of their own for what must not wait for each other.
struct Runtimes {
    sip: Runtime,
    raft: Runtime,
    control: Runtime,
}

impl Runtimes {
    fn new() -> Result<Runtimes, AppError> {
        let build = |name: &str, threads: usize| {
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
        };
        let failed = start_error::<std::io::Error>("threads");
        let make = || -> Result<Runtimes, std::io::Error> {
            Ok(Runtimes { sip: build("sip", 1)?, raft: build("raft", 1)?, control: build("control", 2)? })
        };
        make().map_err(failed)
    }
}

/// Runs the node until it is told to stop (SIGTERM, SIGINT) or cannot go on.
pub fn run(checked: Checked, options: &StartOptions) -> Result<(), AppError> {
    for warning in checked.warnings() {
        tracing::warn!(%warning, "of this node's configuration");
    }
    let runtimes = Runtimes::new()?;
    // From here on SIGHUP does not end the process any more; one that comes while the node starts is heard afterwards.
    let hup = runtimes.control.block_on(async { signal(SignalKind::hangup()) }).map_err(start_error("signals"))?;
    let node = runtimes.control.block_on(Node::start(&runtimes, checked, options))?;
    tracing::info!(node = %node.config.name, incarnation = node.incarnation, "serving");
    let result = runtimes.control.block_on(node.wait(hup));
    runtimes.control.block_on(node.stop());
    for runtime in [runtimes.sip, runtimes.raft, runtimes.control] {
        runtime.shutdown_timeout(STOP_LIMIT);
    }
    result
}

/// A node that runs.
pub(crate) struct Node {
    pub(crate) config: Arc<NodeConfig>,
    pub(crate) incarnation: u32,
    pub(crate) replica: Arc<RwLock<Replica>>,
    pub(crate) driver: DriverHandle,
    pub(crate) raft: RaftHandle,
    pub(crate) peers: PeerLinks,
    pub(crate) transport: TransportHandle,
    pub(crate) media: MediaHandle,
    pub(crate) announcer: AnnouncerHandle,
    pub(crate) announced: watch::Receiver<AnnounceState>,
    pub(crate) draining: Draining,
    pub(crate) intents: Arc<Intents>,
    pub(crate) metrics: Metrics,
    pub(crate) alarms: Alarms,
    pub(crate) clock: Clock,
    pub(crate) peer_channels: HashMap<NodeId, Channel>,
    pub(crate) reload: Arc<Reload>,
    pub(crate) started_unix_ms: u64,
    pub(crate) status: watch::Sender<NodeStatus>,
    pub(crate) shutdown: watch::Sender<bool>,
    /// Why it cannot go on, once that is so.
    fatal: watch::Sender<Option<String>>,
}

impl Node {
    async fn start(runtimes: &Runtimes, checked: Checked, options: &StartOptions) -> Result<Arc<Node>, AppError> {
        let Checked { path, text, config, pems, keys, cluster_text, cluster } = checked;
        let metrics = Metrics::new();
        let alarms = Alarms::new(&metrics);
        let knows = config.cluster.format_level.map_or(LEVEL, |held| held.min(LEVEL));
        level::check(&config.data_dir, knows)?;
        let certificates = Certificates::new(&config, &pems, &metrics)?;
        let grpc_tls = tls::grpc_server(&certificates.control)?;
        let listener = grpc::bind(config.grpc_listen).await.map_err(start_error("[grpc] listen"))?;
        let clock = Clock::default();
        let data = membership::data_id(&config.data_dir.join("raft"))?;
        let admitted = Arc::new(AtomicBool::new(!data.fresh));
        let now_s = u32::try_from(clock.now().unix.0 / 1000).unwrap_or(0);
        let incarnation = disk::next_incarnation(&config.data_dir, now_s)?;
        let replica = Arc::new(RwLock::new(Replica::knowing(knows)));
        let (driver, orders) = DriverHandle::new();
        let (to_store, store) = mpsc::channel(STORE_QUEUE);
        let (to_peers, from_peers) = mpsc::channel(PEER_QUEUE);
        let (to_transport, from_transport) = mpsc::channel(TRANSPORT_QUEUE);
        let (to_media, from_media) = mpsc::channel(MEDIA_QUEUE);

        let media_config = media_config(&config);
        let shares = share_out(&config, &media_config);
        let sockets = usize::try_from(shares.media).unwrap_or(usize::MAX);
        let media = MediaEngine::start(&MediaConfig { sockets, ..media_config }, &to_media).map_err(start_error("[media]"))?;
        let transport = Transport::start(transport_config(&config, &certificates, &shares), to_transport);
        let transport = runtimes.sip.spawn(transport).await.map_err(start_error("SIP"))?.map_err(start_error("SIP sockets"))?;
        metrics.read_from(readings::readings(&transport, &media));
        let connector: Arc<dyn Connector> = Arc::new(grpc::PeerConnector::new(pems.control, &config));
        let raft_config = RaftConfig { admitted: admitted.clone(), ..raft_config(&config, incarnation) };
        let channel = |p: &PeerConfig| Some((NodeId(u16::try_from(p.id).ok()?), connector.channel(p)));
        let peer_channels = raft_config.peers.iter().filter_map(channel).collect();
        let myself = Myself { node: config.id, incarnation, cluster_id: config.cluster.id.clone(), level: knows };
        let own_state = watch::Sender::default();
        let peers = PeerLinks::start(&myself, &raft_config.peers, &connector, raft_config.lease, &own_state.subscribe());

        // The core serves before the log does: a call that comes now goes on degraded, and is published later.
        let raft_slot = Arc::new(OnceLock::new());
        let counts = metrics.clone();
        let first = Arc::new(cached_cluster(&config).unwrap_or(cluster));
        let probed = metrics.clone();
        let parts = Parts {
            sbc: Sbc::new(clock.now(), local_config(&config, incarnation), keys.ring(), first, replica.clone()),
            clock,
            transport: transport.clone(),
            resolver: Arc::new(Resolver::new(&dns_config(&config, &shares)).map_err(start_error("[dns]"))?),
            media: media.clone(),
            raft: raft_slot.clone(),
            peers: peers.clone(),
            parse_config: parse_and_cache(&config),
            alarm: {
                let alarms = alarms.clone();
                Arc::new(move |kind, raised| alarms.set(kind, raised))
            },
            count: Arc::new(move |counter| counts.count(counter)),
            probed: Arc::new(move |trunk, up, rtt| probed.trunk_probed(trunk, up, rtt)),
        };
        let queues = Queues { transport: from_transport, media: from_media, peers: from_peers, store, orders };
        {
            let _sip = runtimes.sip.enter();
            Driver::spawn(parts, queues, &driver);
        }

        let machine = Arc::new(Store::new(replica.clone(), to_store));
        let starting = sbc_raft::start(raft_config, connector, machine);
        let (raft, raft_service) =
            runtimes.raft.spawn(starting).await.map_err(start_error("Raft"))?.map_err(start_error("Raft"))?;
        // Set once, here.
        let _ = raft_slot.set(raft.clone());

        let announcer = Announcer::spawn(announce_config(&config), announce_by(&config, &transport));
        let node = Arc::new(Node {
            announced: announcer.watch(),
            config: config.clone(),
            incarnation,
            replica: replica.clone(),
            driver,
            raft: raft.clone(),
            peers: peers.clone(),
            transport,
            media,
            announcer,
            draining: Draining::default(),
            intents: Arc::default(),
            metrics,
            alarms,
            clock,
            peer_channels,
            reload: Arc::new(Reload::new(path, text, keys, certificates)),
            started_unix_ms: clock.now().unix.0,
            status: watch::Sender::default(),
            shutdown: watch::Sender::new(false),
            fatal: watch::Sender::new(None),
        });
        let members = config.cluster.members.iter().map(|m| (m.id, m.name.clone())).collect();
        let facts = log_facts(&replica, &raft);
        let link_service = LinkService::new(myself, members, to_peers, facts, peers.words().clone(), own_state.subscribe());
        control::serve(&node, listener, grpc_tls, raft_service, link_service);
        node.spawn_tasks(runtimes, own_state, cluster_text.filter(|_| options.init)).await?;
        if options.init && matches!(raft.status().storage, StorageState::Failed { .. }) {
            tracing::warn!("--init is left out: the log cannot be written");
        } else if options.init && !data.fresh {
            raft.initialize().await.map_err(start_error("--init"))?;
        }
        runtimes.control.spawn(node.clone().join(data, admitted, options.init));
        Ok(node)
    }

    /// Takes part in Raft when it may, makes the cluster where it is to, and tells the log of this start.
    async fn join(self: Arc<Node>, data: membership::DataId, admitted: Arc<AtomicBool>, init: bool) {
        let (id, name) = (self.config.id, self.config.name.clone());
        let own = (id, name.as_str(), self.config.cluster.id.as_str());
        let dir = self.config.data_dir.join("raft");
        if let Err(why) = membership::ask(own, &data, &dir, &self.peer_channels, &admitted).await {
            self.fatal.send_replace(Some(why));
            return;
        }
        if init
            && data.fresh
            && let Err(error) = self.raft.initialize().await
        {
            self.fatal.send_replace(Some(format!("--init: {error}")));
            return;
        }
        let starting = membership::Starting {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            node: id,
            name,
            incarnation: self.incarnation,
            data_id: data.id,
            admitted,
        };
        self.fatal.send_replace(Some(membership::say_up(starting).await));
    }

    /// The tasks that go on as long as the node does.
    async fn spawn_tasks(
        &self,
        runtimes: &Runtimes,
        own: watch::Sender<NodeState>,
        first_config: Option<String>,
    ) -> Result<(), AppError> {
        let (health, healthy) = watch::channel(HealthPage::default());
        if let Some(listen) = self.config.metrics_listen {
            telemetry::serve_http(listen, self.metrics.clone(), healthy, &grpc::member_addresses(&self.config))
                .await
                .map_err(start_error("metrics"))?;
        }
        let sources = view::Sources {
            config: self.config.clone(),
            clock: self.clock,
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            announcer: self.announcer.clone(),
            announced: self.announced.clone(),
            draining: self.draining.clone(),
            driver: self.driver.clone(),
            transport: self.transport.clone(),
            media: self.media.clone(),
            alarms: self.alarms.clone(),
            replica: self.replica.clone(),
            status: self.status.clone(),
            metrics: self.metrics.clone(),
            health,
            own,
        };
        let reports = reports::Reports {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            intents: self.intents.clone(),
            announcer: self.announcer.clone(),
            draining: self.draining.clone(),
            own: sources.own.subscribe(),
            node: self.config.id,
            incarnation: self.incarnation,
        };
        runtimes.control.spawn(reports.run());
        runtimes.control.spawn(sources.run());
        let own = self.config.id;
        let levels = level::Levels {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            peers: self.peers.clone(),
            others: self.config.cluster.members.iter().map(|m| m.id).filter(|id| *id != own).collect(),
            data_dir: self.config.data_dir.clone(),
        };
        let reporter = alarms::Reporter {
            raft: self.raft.clone(),
            clock: self.clock,
            replica: self.replica.clone(),
            alarms: self.alarms.clone(),
            node: own,
            incarnation: self.incarnation,
        };
        runtimes.control.spawn(levels.run());
        runtimes.control.spawn(reporter.run());
        runtimes.raft.spawn(view::tick(self.raft.clone(), self.clock, self.replica.clone()));
        let life = life::Life {
            node: self.config.id,
            incarnation: self.incarnation,
            members: self.config.cluster.members.iter().map(|m| m.id).collect(),
            raft: self.raft.clone(),
            peers: self.peers.clone(),
            replica: self.replica.clone(),
            clock: self.clock,
        };
        runtimes.raft.spawn(life.run());
        if let Some(text) = first_config {
            runtimes.raft.spawn(view::first_config(self.raft.clone(), self.clock, self.replica.clone(), text));
        }
        Ok(())
    }

    /// Until a signal, or until the node cannot go on. SIGHUP reads the configuration and the certificates again.
    async fn wait(&self, mut hup: Signal) -> Result<(), AppError> {
        let mut term = signal(SignalKind::terminate()).map_err(start_error("signals"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(start_error("signals"))?;
        let mut halted = self.driver.halted();
        let mut raft = self.raft.watch();
        let mut fatal = self.fatal.subscribe();
        loop {
            if let Some(reason) = fatal.borrow_and_update().clone() {
                return Err(AppError::Fatal(reason));
            }
            if let Some(reason) = halted.borrow_and_update().clone() {
                return Err(AppError::Fatal(reason));
            }
            if let Some(reason) = raft.borrow_and_update().fatal.clone() {
                return Err(AppError::Fatal(format!("Raft: {reason}")));
            }
            tokio::select! {
                _ = term.recv() => return Ok(()),
                _ = int.recv() => return Ok(()),
                _ = hup.recv() => {
                    let reload = self.reload.clone();
                    // What came of it stands in the log.
                    drop(tokio::task::spawn_blocking(move || reload.run()));
                }
                _ = halted.changed() => {}
                _ = fatal.changed() => {}
                changed = raft.changed() => if changed.is_err() {
                    return Err(AppError::Fatal("Raft has stopped".into()));
                },
            }
        }
    }

    /// Withdraws first, so that no new call comes; then closes.
    async fn stop(&self) {
        tracing::info!("stopping");
        self.shutdown.send_replace(true);
        let stop = async {
            // Forced: a node that is told to stop does not stay because it is the last.
            let _ = self.announcer.withdraw(true, 0).await;
            self.transport.shutdown().await;
            self.raft.shutdown().await;
        };
        let _ = tokio::time::timeout(STOP_LIMIT, stop).await;
        self.media.shutdown();
    }
}

fn local_config(config: &NodeConfig, incarnation: u32) -> LocalConfig {
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

fn transport_config(config: &NodeConfig, certificates: &Certificates, shares: &Shares) -> TransportConfig {
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
            AnnounceDriver::Exec | AnnounceDriver::None => AnycastMode::Always,
        },
        tls: Some(certificates.sip.clone()),
        limits: Limits { flows: most(shares.accepted), flows_opened: most(shares.opened), ..Limits::default() },
    }
}

fn dns_config(config: &NodeConfig, shares: &Shares) -> DnsConfig {
    // Of a name's IPv4 and IPv6 addresses each is a question on a socket of its own.
    let questions = usize::try_from(shares.questions / 2).map_or(QUERIES_MAX, |n| n.min(QUERIES_MAX));
    DnsConfig { servers: config.dns_servers.clone(), questions }
}

/// Says how many descriptors whoever grows with the load may have, and logs it.
fn share_out(config: &NodeConfig, media: &MediaConfig) -> Shares {
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

fn media_config(config: &NodeConfig) -> MediaConfig {
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
fn peer_config(m: &Member) -> PeerConfig {
    PeerConfig { id: m.id.0.into(), name: m.name.clone(), addr: m.peer.to_string() }
}

/// What a peer may ask of the log.
fn log_facts(replica: &Arc<RwLock<Replica>>, raft: &RaftHandle) -> LogFacts {
    let (of_level, of_nodes, raft) = (replica.clone(), replica.clone(), raft.clone());
    LogFacts {
        level: Box::new(move || of_level.read().unwrap_or_else(PoisonError::into_inner).level()),
        admit: Box::new(move |node, data_id| {
            let caught_up = raft.status().caught_up;
            let replica = of_nodes.read().unwrap_or_else(PoisonError::into_inner);
            let known = replica.node(node).filter(|n| !n.vacant);
            AdmitResponse {
                // Before data ids only its starts are known: one that has started before is not new.
                known_otherwise: known.is_some_and(|n| n.data_id != data_id),
                caught_up,
                empty: replica.applied_index() == 0,
            }
        }),
    }
}

fn raft_config(config: &NodeConfig, incarnation: u32) -> RaftConfig {
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

fn announce_config(config: &NodeConfig) -> AnnounceConfig {
    AnnounceConfig {
        wanted: config.announce.at_start,
        preference: config.announce.preference,
        up_after: Duration::ZERO,
        // An emergency call is not refused for the store's sake (rule B), so a node without quorum takes calls too.
        allow_degraded: true,
    }
}

fn announce_by(config: &NodeConfig, transport: &TransportHandle) -> AnnounceBy {
    match config.announce.driver {
        AnnounceDriver::Bind => AnnounceBy::Bind(transport.clone()),
        AnnounceDriver::Exec => AnnounceBy::Exec(Exec { command: config.announce.command.clone(), anycast: config.sip.anycast }),
        AnnounceDriver::None => AnnounceBy::None,
    }
}

/// Where the last configuration of the log is kept, for a start without quorum.
fn cache_path(data_dir: &Path) -> PathBuf {
    data_dir.join("last-cluster.toml")
}

fn cached_cluster(config: &NodeConfig) -> Option<ClusterConfig> {
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

fn parse_and_cache(config: &NodeConfig) -> ParseConfig {
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
