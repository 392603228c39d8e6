//! Puts a node together: parse, validate, build, spawn, drain. Nothing is bound before everything is read and checked.

mod alarms;
mod announcing;
mod certificates;
mod checked;
mod control;
mod descriptors;
mod disk;
mod grpc;
mod level;
mod life;
mod log_health;
mod membership;
mod parts;
mod readings;
mod reload;
mod reports;
mod service_alarms;
mod tasks;
mod view;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use sbc_core::ids::NodeId;
use sbc_core::replica::{LEVEL, Replica};
use sbc_core::sbc::Sbc;
use sbc_raft::{Connector, PeerConfig, RaftConfig, RaftHandle, StorageState};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use announcing::{announce_by, announce_config};
use certificates::Certificates;
pub use checked::{Checked, read};
pub use control::Draining;
pub use disk::DiskError;
use parts::{
    cached_cluster, dns_config, local_config, log_facts, media_config, parse_and_cache, raft_config, share_out, transport_config,
};
use reload::Reload;

use crate::announce::{AnnounceState, Announcer, AnnouncerHandle, BgpHandle, IN_FLIGHT};
use crate::config::{KeyFault, NodeConfig};
use crate::control::{Intents, NodeStatus};
use crate::dns::Resolver;
use crate::driver::{Clock, Driver, DriverHandle, Parts, Queues};
use crate::media::{MediaConfig, MediaEngine, MediaHandle};
use crate::peer::{LinkService, Myself, PeerLinks};
use crate::store::Store;
use crate::telemetry::{Alarms, Metrics};
use crate::tls;
use crate::transport::{Transport, TransportHandle};

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
    /// Where the node speaks to routers itself.
    pub(crate) bgp: Option<BgpHandle>,
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
            lease: config.raft.lease,
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

        let (announce_by, bgp) = announce_by(&config, incarnation, (&transport, &driver, &media))?;
        let announcer = Announcer::spawn(announce_config(&config), announce_by);
        let node = Arc::new(Node {
            announced: announcer.watch(),
            bgp,
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
            if let Some(bgp) = &self.bgp {
                // What routers sent before they heard of it is still served.
                tokio::time::sleep(IN_FLIGHT).await;
                bgp.stop(&format!("{} stops", self.config.name)).await;
            }
            self.transport.shutdown().await;
            self.raft.shutdown().await;
        };
        let _ = tokio::time::timeout(STOP_LIMIT, stop).await;
        self.media.shutdown();
    }
}
