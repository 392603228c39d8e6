//! A cluster of nodes in one process, each with its directory and its server.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sbc_raft::{AppliedEntry, Connector, PeerConfig, PeerService, RaftConfig, RaftHandle, Role, StartError, StateMachine};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Server};

/// Far longer than anything should take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Plaintext;

impl Connector for Plaintext {
    fn channel(&self, peer: &PeerConfig) -> Channel {
        Endpoint::from_shared(format!("http://{}", peer.addr))
            .expect("an address")
            .connect_timeout(Duration::from_millis(300))
            .connect_lazy()
    }
}

/// Keeps all commands, in order.
#[derive(Default)]
struct Record {
    commands: Mutex<Vec<String>>,
    entries: AtomicU64,
    installs: AtomicU64,
}

fn encode(commands: Vec<Bytes>) -> Bytes {
    let texts: Vec<_> = commands.iter().map(|command| String::from_utf8_lossy(command).into_owned()).collect();
    texts.join("\n").into()
}

fn decode(entry: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(entry).lines().map(str::to_owned).collect()
}

#[tonic::async_trait]
impl StateMachine for Record {
    async fn apply(&self, entries: Vec<AppliedEntry>) -> io::Result<()> {
        for entry in entries {
            let commands = decode(&entry.entry);
            if commands.iter().any(|command| command == "fail") {
                return Err(io::Error::other("told to fail"));
            }
            self.entries.fetch_add(1, Ordering::Relaxed);
            self.commands.lock().unwrap().extend(commands);
        }
        Ok(())
    }

    async fn snapshot(&self) -> io::Result<Bytes> {
        Ok(self.commands.lock().unwrap().join("\n").into())
    }

    async fn install(&self, _index: u64, state: Bytes) -> io::Result<()> {
        self.installs.fetch_add(1, Ordering::Relaxed);
        *self.commands.lock().unwrap() = decode(&state);
        Ok(())
    }
}

struct Running {
    handle: RaftHandle,
    machine: Arc<Record>,
    /// Everything of the node runs here, so that it can be killed.
    runtime: Runtime,
}

/// Starts Raft, again while a killed predecessor has not yet let go of its files.
async fn started(config: RaftConfig, machine: Arc<Record>) -> (RaftHandle, PeerService) {
    let start = Instant::now();
    loop {
        match sbc_raft::start(config.clone(), Arc::new(Plaintext), machine.clone()).await {
            Ok(started) => return started,
            Err(StartError::Log { .. } | StartError::Data { .. }) if start.elapsed() < DEADLINE => {
                tokio::time::sleep(Duration::from_millis(10)).await
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// See the module.
pub(crate) struct Cluster {
    dir: PathBuf,
    configs: BTreeMap<u64, RaftConfig>,
    nodes: BTreeMap<u64, Running>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Cluster {
    pub(crate) async fn start(size: u64) -> Cluster {
        Cluster::configured(size, |_| {}).await
    }

    pub(crate) async fn configured(size: u64, adjust: impl Fn(&mut RaftConfig)) -> Cluster {
        let cluster = Cluster::configured_without_init(size, adjust).await;
        cluster.handle(1).initialize().await.expect("a new cluster");
        cluster.leader().await;
        cluster
    }

    pub(crate) async fn configured_without_init(size: u64, adjust: impl Fn(&mut RaftConfig)) -> Cluster {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("sbc-raft-{}-{number}", std::process::id()));
        let mut listeners = BTreeMap::new();
        let mut peers = Vec::new();
        for id in 1..=size {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let addr = listener.local_addr().expect("bound").to_string();
            peers.push(PeerConfig { id, name: format!("n{id}"), addr });
            listeners.insert(id, listener);
        }
        let mut cluster = Cluster { dir, configs: BTreeMap::new(), nodes: BTreeMap::new() };
        for (id, listener) in listeners {
            let own = peers.iter().find(|peer| peer.id == id).expect("made above").clone();
            let others = peers.iter().filter(|peer| peer.id != id).cloned().collect();
            let mut config = cluster.config(own, others);
            adjust(&mut config);
            cluster.configs.insert(id, config);
            cluster.run(id, listener).await;
        }
        cluster
    }

    fn config(&self, own: PeerConfig, peers: Vec<PeerConfig>) -> RaftConfig {
        RaftConfig {
            node_id: own.id,
            cluster_id: "test".into(),
            name: own.name,
            advertise: own.addr,
            data_dir: self.dir.join(own.id.to_string()),
            peers,
            encode_entry: Arc::new(encode),
            ..RaftConfig::default()
        }
    }

    async fn run(&mut self, id: u64, listener: TcpListener) {
        let machine = Arc::new(Record::default());
        let config = self.configs[&id].clone();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let state = machine.clone();
        let handle = runtime
            .spawn(async move {
                let (handle, service) = started(config, state).await;
                let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                tokio::spawn(Server::builder().add_service(service.into_server()).serve_with_incoming(incoming));
                handle
            })
            .await
            .expect("starts");
        self.nodes.insert(id, Running { handle, machine, runtime });
    }

    /// Starts a node that no other knows of.
    pub(crate) async fn join(&mut self, id: u64) -> PeerConfig {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound").to_string();
        let peer = PeerConfig { id, name: format!("n{id}"), addr };
        self.configs.insert(id, self.config(peer.clone(), Vec::new()));
        self.run(id, listener).await;
        peer
    }

    pub(crate) fn handle(&self, id: u64) -> &RaftHandle {
        &self.nodes[&id].handle
    }

    pub(crate) fn addr(&self, id: u64) -> &str {
        &self.configs[&id].advertise
    }

    /// The leader on which all that run agree.
    pub(crate) async fn leader(&self) -> u64 {
        let mut found = None;
        until("a leader", async || {
            let leaders: Vec<_> = self.nodes.values().map(|node| node.handle.status().leader).collect();
            found = leaders[0];
            let running = found.and_then(|leader| self.nodes.get(&leader));
            running.is_some_and(|node| node.handle.status().role == Role::Leader) && leaders.iter().all(|leader| *leader == found)
        })
        .await;
        found.expect("waited for")
    }

    pub(crate) async fn caught_up(&self, id: u64) {
        until("a node to catch up", async || self.handle(id).status().caught_up).await;
    }

    pub(crate) async fn all_applied(&self, count: usize) {
        until("all commands on all nodes", async || self.nodes.keys().all(|id| self.commands(*id).len() == count)).await;
    }

    pub(crate) fn commands(&self, id: u64) -> Vec<String> {
        self.nodes[&id].machine.commands.lock().unwrap().clone()
    }

    pub(crate) fn entries(&self, id: u64) -> u64 {
        self.nodes[&id].machine.entries.load(Ordering::Relaxed)
    }

    pub(crate) fn installs(&self, id: u64) -> u64 {
        self.nodes[&id].machine.installs.load(Ordering::Relaxed)
    }

    pub(crate) fn snapshot_files(&self, id: u64) -> usize {
        let dir = self.configs[&id].data_dir.join("snapshots");
        std::fs::read_dir(dir).expect("a directory").count()
    }

    pub(crate) fn data_dir(&self, id: u64) -> &std::path::Path {
        &self.configs[&id].data_dir
    }

    /// Kills a node: its tasks are dropped where they stand, its connections break.
    pub(crate) async fn stop(&mut self, id: u64) {
        let node = self.nodes.remove(&id).expect("running");
        tokio::task::spawn_blocking(move || node.runtime.shutdown_timeout(DEADLINE)).await.expect("ends");
    }

    /// Stops a node in order.
    pub(crate) async fn shut_down(&mut self, id: u64) {
        self.handle(id).shutdown().await;
        self.stop(id).await;
    }

    /// Starts a stopped node from its disk, at the same address.
    pub(crate) async fn restart(&mut self, id: u64) {
        let addr = self.configs[&id].advertise.clone();
        let mut listener = None;
        until("the old address", async || {
            listener = TcpListener::bind(&addr).await.ok();
            listener.is_some()
        })
        .await;
        self.run(id, listener.expect("waited for")).await;
    }

    pub(crate) async fn stop_all(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        for id in ids {
            self.shut_down(id).await;
        }
    }

    pub(crate) async fn start_error(&self, id: u64, adjust: impl Fn(&mut RaftConfig)) -> StartError {
        let mut config = self.configs[&id].clone();
        adjust(&mut config);
        match sbc_raft::start(config, Arc::new(Plaintext), Arc::new(Record::default())).await {
            Err(error) => error,
            Ok(_) => panic!("started"),
        }
    }
}
