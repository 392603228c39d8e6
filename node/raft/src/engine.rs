//! Runs openraft, and begins again when the disk under the log has failed and can be written again.
//!
//! What outlives a run: the queue of proposals, the state that was applied, the status, the connections. A run that begins again
//! writes a snapshot of what has been applied before anything else, for the log may have lost the end of it; entries that were
//! acknowledged are flushed and stay. In between this node is as good as dead for its group: no vote, no acknowledgement, no lease.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::config::RaftConfig;
use crate::error::StartError;
use crate::ledger::Ledger;
use crate::log_store::LogStore;
use crate::monitor::{self, Monitor};
use crate::network::Peers;
use crate::proposer::{Commands, Proposer};
use crate::snapshot::SnapshotStore;
use crate::state_machine::{Machine, blocking};
use crate::status::{RaftStatus, Role};
use crate::storage::{Storage, is_disk_trouble};
use crate::types::Raft;

/// Pause before a log that has failed is tried again. Short against the work of whoever makes room, long against a try.
const AGAIN: Duration = Duration::from_secs(3);
/// How often the free space is asked for.
const LOOK_AT_SPACE: Duration = Duration::from_secs(2);
/// How long the tasks of an ended run may hold the log: they end by themselves.
const LET_GO: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Engine {
    pub(crate) config: Arc<RaftConfig>,
    pub(crate) openraft: Arc<openraft::Config>,
    pub(crate) peers: Peers,
    pub(crate) machine: Machine,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) snapshot_due: Arc<Notify>,
    pub(crate) storage: Storage,
    pub(crate) ledger: Ledger,
    pub(crate) running: watch::Sender<Option<Raft>>,
    pub(crate) status: Arc<watch::Sender<RaftStatus>>,
}

/// A run of openraft.
pub(crate) struct Run {
    pub(crate) raft: Raft,
    /// Whether any task of it still holds the log.
    holds_log: Box<dyn Fn() -> bool + Send>,
}

impl Engine {
    /// Opens log and state, and starts openraft on them. `again`: the disk has failed before.
    pub(crate) async fn open(&mut self, again: bool) -> Result<Run, StartError> {
        if self.machine.is_running() {
            return Err(StartError::Raft("the last run has not ended".into()));
        }
        let dir = self.config.data_dir.clone();
        let data = |source| StartError::Data { path: dir.clone(), source };
        let (config, storage, snapshots) = (self.config.clone(), self.storage.clone(), self.snapshots.clone());
        let opened = tokio::task::spawn_blocking(move || open_files(&config, storage, &snapshots, again)).await;
        let log = opened.map_err(|error| data(io::Error::other(error)))??;
        let applied = self.machine.restore().await.map_err(data)?;
        log.fit(applied).await.map_err(data)?;
        let snapshot = applied.map(|id| id.index);
        if let Some(purged) = log.purged().map(|id| id.index)
            && snapshot.is_none_or(|snapshot| snapshot < purged)
        {
            return Err(StartError::SnapshotLost { purged, snapshot, path: dir });
        }
        if applied.is_some() || log.has_entries() {
            self.ledger.forget_vote();
        }
        let holds_log = Box::new(log.held());
        let raft = Raft::new(self.config.node_id, self.openraft.clone(), self.peers.clone(), log, self.machine.clone())
            .await
            .map_err(|error| match self.storage.failed() {
                Some(why) => StartError::Data {
                    path: self.config.data_dir.clone(),
                    source: io::Error::new(io::ErrorKind::StorageFull, why),
                },
                None => StartError::Raft(error.to_string()),
            })?;
        Ok(Run { raft, holds_log })
    }

    /// Runs until Raft ends by something else than the disk. `first`: what `open` gave, if it did.
    pub(crate) async fn run(mut self, mut first: Option<Run>, mut queue: Commands) {
        let space = Tasks(vec![tokio::spawn(watch_space(self.storage.clone(), self.status.clone())).abort_handle()]);
        loop {
            let run = match first.take() {
                Some(run) => run,
                None => self.open_again(&mut queue).await,
            };
            let holds_log = run.holds_log;
            queue = self.serve(run.raft, queue).await;
            if self.storage.failed().is_none() {
                return drop(space);
            }
            let ended = Instant::now();
            while (holds_log() || self.machine.is_running()) && ended.elapsed() < LET_GO {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// One run; ends when openraft does.
    async fn serve(&self, raft: Raft, queue: Commands) -> Commands {
        let node = self.config.node_id;
        // One confirmation is asked for at a time.
        let (confirmations, confirmed) = mpsc::channel(1);
        let monitor = Monitor {
            raft: raft.clone(),
            node,
            lease: self.config.lease,
            applied: self.machine.watch(),
            confirmed,
            status: self.status.clone(),
            reverted: self.peers.reverted.clone(),
            storage: self.storage.clone(),
        };
        let confirm = monitor::confirm(raft.clone(), self.peers.clone(), node, self.config.heartbeat, confirmations);
        // The monitor ends by itself: it has to tell of the end.
        let monitor = tokio::spawn(monitor.run());
        let _tasks = Tasks(vec![
            tokio::spawn(confirm).abort_handle(),
            tokio::spawn(take_snapshots(raft.clone(), self.snapshot_due.clone())).abort_handle(),
        ]);
        self.running.send_replace(Some(raft.clone()));
        let proposer = Proposer::new(raft.clone(), self.peers.clone(), node, self.config.encode_entry.clone(), queue);
        let queue = proposer.run().await;
        self.running.send_replace(None);
        let _ = monitor.await;
        if raft.shutdown().await.is_err() {
            tracing::error!("raft ended by a panic");
        }
        queue
    }

    /// Tries until it has a run. What is proposed meanwhile fails at once.
    async fn open_again(&mut self, queue: &mut Commands) -> Run {
        loop {
            let again = async {
                sleep(AGAIN).await;
                self.open(true).await
            };
            let refuse = async {
                queue.refuse().await;
                std::future::pending().await
            };
            let opened = tokio::select! {
                opened = again => opened,
                never = refuse => never,
            };
            match opened {
                Ok(run) => {
                    self.storage.mended();
                    tracing::warn!("the log can be written again: this node takes part in Raft");
                    return run;
                }
                Err(error) => {
                    self.storage.still_failing(error.to_string());
                    if self.status.send_if_modified(|status| replace(&mut status.storage, self.storage.state())) {
                        tracing::warn!(%error, "the log cannot be opened again yet");
                    }
                }
            }
        }
    }

    /// Says that Raft does not run yet, for the disk's sake.
    pub(crate) fn failed_at_start(&self, error: &StartError) {
        self.storage.fail(error.to_string());
        self.status.send_modify(|status| {
            status.role = Role::Stopped;
            status.storage = self.storage.state();
        });
    }
}

fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let changed = *old != new;
    *old = new;
    changed
}

/// Tasks that end with this value.
struct Tasks(Vec<AbortHandle>);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

fn open_files(config: &RaftConfig, storage: Storage, snapshots: &SnapshotStore, again: bool) -> Result<LogStore, StartError> {
    let data = |source| StartError::Data { path: config.data_dir.clone(), source };
    fs::create_dir_all(&config.data_dir).map_err(data)?;
    storage.probe(again).map_err(data)?;
    check_identity(config)?;
    snapshots.prepare().map_err(data)?;
    storage.begin();
    let path = config.data_dir.join("log");
    LogStore::open(&path, storage).map_err(|source| match source {
        source if is_disk_trouble(&source) => StartError::Data { path, source },
        source => StartError::Log { path, source },
    })
}

/// A data directory belongs to one node of one cluster for ever: a node that came up on another's log would vote twice.
fn check_identity(config: &RaftConfig) -> Result<(), StartError> {
    let path = config.data_dir.join("identity");
    let wanted = format!("cluster {} group {} node {}\n", config.cluster_id, config.group, config.node_id);
    let data = |source| StartError::Data { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(found) if found == wanted => Ok(()),
        Ok(found) => Err(StartError::Identity { path, found: found.trim().to_owned(), wanted: wanted.trim().to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_durably(&config.data_dir, &path, wanted.as_bytes()).map_err(data)
        }
        Err(error) => Err(data(error)),
    }
}

fn write_durably(dir: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(dir)?.sync_all()
}

/// Takes a snapshot whenever the log has grown by as much as configured.
async fn take_snapshots(raft: Raft, due: Arc<Notify>) {
    loop {
        due.notified().await;
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}

/// Asks for the free space, off the runtime: a disk that hangs must not hold Raft.
async fn watch_space(storage: Storage, status: Arc<watch::Sender<RaftStatus>>) {
    loop {
        let asked = storage.clone();
        let _ = blocking(move || {
            asked.look();
            Ok(())
        })
        .await;
        status.send_if_modified(|status| replace(&mut status.storage, storage.state()));
        sleep(LOOK_AT_SPACE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use tonic::transport::{Channel, Endpoint};

    use super::*;
    use crate::status::StorageState;
    use crate::{AppliedEntry, Connector, PeerConfig, ProposeError, RaftHandle, StateMachine};

    /// Far longer than anything should take.
    const LIMIT: Duration = Duration::from_secs(30);

    struct Nowhere;

    impl Connector for Nowhere {
        fn channel(&self, _: &PeerConfig) -> Channel {
            Endpoint::from_static("http://127.0.0.1:9").connect_lazy()
        }
    }

    #[derive(Default)]
    struct Record {
        entries: Mutex<Vec<u8>>,
        installs: AtomicU64,
    }

    #[tonic::async_trait]
    impl StateMachine for Record {
        async fn apply(&self, entries: Vec<AppliedEntry>) -> io::Result<()> {
            self.entries.lock().unwrap().extend(entries.iter().flat_map(|entry| entry.entry.iter()));
            Ok(())
        }

        async fn snapshot(&self) -> io::Result<Bytes> {
            Ok(self.entries.lock().unwrap().clone().into())
        }

        async fn install(&self, _: u64, state: Bytes) -> io::Result<()> {
            self.installs.fetch_add(1, Ordering::Relaxed);
            *self.entries.lock().unwrap() = state.to_vec();
            Ok(())
        }
    }

    async fn started(dir: &Path, machine: Arc<Record>) -> RaftHandle {
        let config = RaftConfig {
            node_id: 1,
            cluster_id: "test".into(),
            name: "n1".into(),
            advertise: "127.0.0.1:9".into(),
            data_dir: dir.to_owned(),
            ..RaftConfig::default()
        };
        let (handle, _) = crate::start(config, Arc::new(Nowhere), machine).await.expect("starts");
        assert!(handle.is_new().await, "before it is a cluster");
        handle.initialize().await.expect("a cluster of one");
        handle
    }

    async fn until(handle: &RaftHandle, what: &str, wanted: impl FnMut(&RaftStatus) -> bool) {
        let mut watch = handle.watch();
        let waited = tokio::time::timeout(LIMIT, watch.wait_for(wanted)).await;
        assert!(waited.is_ok(), "{what}: {:?}", handle.status());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_log_that_fails_is_opened_again_when_the_disk_works_and_nothing_is_lost() {
        let dir = std::env::temp_dir().join(format!("sbc-raft-engine-{}", std::process::id()));
        let machine = Arc::new(Record::default());
        let handle = started(&dir, machine.clone()).await;
        until(&handle, "it leads", |status| status.role == Role::Leader && status.caught_up).await;
        handle.propose(Bytes::from_static(b"a")).await.expect("alone it is a quorum");
        assert!(!handle.is_new().await);
        for round in 0..2 {
            handle.break_disk(true);
            let outcome = handle.propose(Bytes::from_static(b"x")).await;
            assert!(matches!(outcome, Err(ProposeError::Stopped | ProposeError::Timeout)), "{outcome:?}");
            let failed =
                |status: &RaftStatus| matches!(&status.storage, StorageState::Failed { why } if why.contains("os error 5"));
            until(&handle, "it tells of its disk", |status| failed(status) && status.role == Role::Stopped).await;
            let status = handle.status();
            assert_eq!((status.fatal, status.lease_until, status.leader), (None, None, None), "the process goes on");
            let asked = Instant::now();
            assert_eq!(handle.propose(Bytes::from_static(b"y")).await, Err(ProposeError::Stopped));
            assert!(asked.elapsed() < Duration::from_secs(1), "no call waits for it");
            assert!(handle.read_barrier(Duration::from_secs(1)).await.is_err());
            assert!(handle.initialize().await.is_err());
            assert!(!handle.is_new().await, "what it cannot read may be there");
            handle.break_disk(false);
            until(&handle, "it leads again", |status| status.role == Role::Leader && status.caught_up).await;
            assert_eq!(handle.status().storage, StorageState::Good);
            handle.propose(Bytes::from_static(b"b")).await.expect("alone it is a quorum");
            let entries = machine.entries.lock().unwrap().clone();
            let known: Vec<u8> = entries.iter().copied().filter(|entry| *entry != b'x').collect();
            assert_eq!(known, [b"a", &b"bb"[..=round]].concat(), "each once, in order");
            assert_eq!(machine.installs.load(Ordering::Relaxed), 0, "the state in use is not taken away");
        }
        let entries = machine.entries.lock().unwrap().clone();
        handle.shutdown().await;
        // From the disk alone.
        let machine = Arc::new(Record::default());
        let mut again = None;
        for _ in 0..500 {
            let config = handle.config();
            match crate::start(config, Arc::new(Nowhere), machine.clone()).await {
                Ok((handle, _)) => {
                    again = Some(handle);
                    break;
                }
                Err(StartError::Log { .. }) => sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
        let again = again.expect("the log is let go of");
        assert!(!again.is_new().await, "before anything is applied");
        until(&again, "it leads from its disk", |status| status.role == Role::Leader && status.caught_up).await;
        assert_eq!(*machine.entries.lock().unwrap(), entries);
        again.shutdown().await;
        // Its flush thread may still be at work.
        let _ = fs::remove_dir_all(dir);
    }
}
