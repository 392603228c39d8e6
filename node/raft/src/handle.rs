//! Starting Raft, and the handle to it.

use std::collections::BTreeSet;
use std::fs;
use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::metrics::WaitError;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use crate::config::{Connector, PeerConfig, RaftConfig};
use crate::error::{AdminError, ReadError, StartError};
use crate::log_store::LogStore;
use crate::monitor::{self, Monitor};
use crate::network::{Identity, Peers};
use crate::proposer::{Proposal, Proposer, Queue};
use crate::service::PeerService;
use crate::snapshot::SnapshotStore;
use crate::state_machine::{Machine, StateMachine};
use crate::status::RaftStatus;
use crate::types::{Member, Raft, TypeConfig};

/// Longest wait for a change of members: a learner has to catch up first, perhaps by a snapshot.
const CHANGE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for a leadership to be taken over: an election with its retries.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

/// Starts Raft on the current tokio runtime: restores the newest snapshot into `machine` and goes on from the log on disk.
/// A node that was never part of a cluster waits for [`RaftHandle::initialize`], on it or on another.
///
/// # Errors
/// See [`StartError`]; nothing runs then.
pub async fn start(
    config: RaftConfig,
    connector: Arc<dyn Connector>,
    machine: Arc<dyn StateMachine>,
) -> Result<(RaftHandle, PeerService), StartError> {
    config.validate()?;
    let openraft = config.openraft()?;
    let identity = Identity::new(&config.cluster_id, config.group, config.node_id)?;
    let data = |source| StartError::Data { path: config.data_dir.clone(), source };
    fs::create_dir_all(&config.data_dir).map_err(data)?;
    check_identity(&config)?;
    let log = LogStore::open(&config.data_dir.join("log")).map_err(data)?;
    let snapshots = SnapshotStore::open(config.data_dir.join("snapshots")).map_err(data)?;
    let snapshot_due = Arc::new(Notify::new());
    let (machine, applied) =
        Machine::restore(machine, snapshots.clone(), config.snapshot_log_bytes, snapshot_due.clone()).await.map_err(data)?;
    let snapshot = *applied.borrow();
    if let Some(purged) = log.purged().map(|id| id.index)
        && snapshot.is_none_or(|snapshot| snapshot < purged)
    {
        return Err(StartError::SnapshotLost { purged, snapshot });
    }
    let peers = Peers::new(identity.clone(), connector);
    let raft = Raft::new(config.node_id, openraft, peers.clone(), log, machine)
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
    let service = PeerService::new(raft.clone(), identity, snapshots, config.admitted.clone());
    Ok((RaftHandle::spawn(config, raft, peers, applied, snapshot_due), service))
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

/// The handle to a running Raft; clones share it. Raft runs until [`shutdown`](RaftHandle::shutdown).
#[derive(Clone)]
pub struct RaftHandle {
    config: Arc<RaftConfig>,
    raft: Raft,
    peers: Peers,
    queue: Queue,
    applied: watch::Receiver<Option<u64>>,
    status: Arc<watch::Sender<RaftStatus>>,
    tasks: Arc<Mutex<Vec<AbortHandle>>>,
}

impl RaftHandle {
    fn spawn(
        config: RaftConfig,
        raft: Raft,
        peers: Peers,
        applied: watch::Receiver<Option<u64>>,
        snapshot_due: Arc<Notify>,
    ) -> RaftHandle {
        let node = config.node_id;
        let status = Arc::new(watch::Sender::new(RaftStatus::new(node)));
        // One confirmation is asked for at a time.
        let (confirmations, confirmed) = mpsc::channel(1);
        let (queue, proposer) =
            Proposer::new(raft.clone(), peers.clone(), node, config.encode_entry.clone(), config.propose_timeout);
        let monitor = Monitor {
            raft: raft.clone(),
            node,
            lease: config.lease,
            applied: applied.clone(),
            confirmed,
            status: status.clone(),
            reverted: peers.reverted.clone(),
        };
        let confirm = monitor::confirm(raft.clone(), peers.clone(), node, config.heartbeat, confirmations);
        // The monitor ends by itself: it has to tell of the end.
        tokio::spawn(monitor.run());
        let tasks = [
            tokio::spawn(confirm).abort_handle(),
            tokio::spawn(proposer.run()).abort_handle(),
            tokio::spawn(take_snapshots(raft.clone(), snapshot_due)).abort_handle(),
        ];
        let tasks = Arc::new(Mutex::new(tasks.to_vec()));
        RaftHandle { config: Arc::new(config), raft, peers, queue, applied, status, tasks }
    }

    /// Proposes one command; never blocks. The future is resolved within [`RaftConfig::propose_timeout`]; it need not be
    /// awaited for the command to be sent.
    pub fn propose(&self, command: Bytes) -> Proposal {
        self.queue.propose(command)
    }

    /// The status as of now.
    pub fn status(&self) -> RaftStatus {
        self.status.borrow().clone().at(Instant::now())
    }

    /// The status as it changes, leases that run out included. What it holds is as old as the change: ask
    /// [`status`](RaftHandle::status), or [`RaftStatus::at`], where a lease decides.
    pub fn watch(&self) -> watch::Receiver<RaftStatus> {
        self.status.subscribe()
    }

    /// Waits until this node has applied everything that was committed when this was called: a linearizable read of the
    /// state machine may follow.
    ///
    /// # Errors
    /// [`ReadError`], after `limit` at the latest.
    pub async fn read_barrier(&self, limit: Duration) -> Result<u64, ReadError> {
        let mut applied = self.applied.clone();
        let barrier = async {
            let index = monitor::ask_leader(&self.raft, &self.peers, self.config.node_id).await?;
            let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= index)).await;
            reached.map(|_| index).map_err(|_| ReadError::Stopped)
        };
        tokio::time::timeout(limit, barrier).await.unwrap_or(Err(ReadError::Timeout))
    }

    /// Makes a cluster of the configured members, this node and its peers. Does nothing where one exists already.
    ///
    /// # Errors
    /// [`AdminError::Stopped`].
    pub async fn initialize(&self) -> Result<(), AdminError> {
        match self.raft.initialize(self.config.members()).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(AdminError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(AdminError::Stopped(fatal.to_string())),
        }
    }

    /// At the leader: adds a member without a vote and waits until it has caught up.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn add_learner(&self, peer: PeerConfig) -> Result<(), AdminError> {
        let member: Member = peer.member();
        self.change(async { self.raft.add_learner(peer.id, member, true).await.map(drop) }).await
    }

    /// At the leader: gives a learner its vote.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn promote(&self, id: u64) -> Result<(), AdminError> {
        let members = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        self.change(async { self.raft.change_membership(members, true).await.map(drop) }).await
    }

    /// At the leader: removes a member, voter or learner. Its id must not be used again.
    ///
    /// # Errors
    /// [`AdminError`]; the last voter is refused.
    pub async fn remove(&self, id: u64) -> Result<(), AdminError> {
        let status = self.status();
        let ids = BTreeSet::from([id]);
        let members = if status.voters.contains(&id) {
            ChangeMembers::RemoveVoters(ids)
        } else if status.learners.contains(&id) {
            ChangeMembers::RemoveNodes(ids)
        } else {
            return Ok(());
        };
        self.change(async { self.raft.change_membership(members, false).await.map(drop) }).await
    }

    async fn change(
        &self,
        change: impl Future<Output = Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
    ) -> Result<(), AdminError> {
        match tokio::time::timeout(CHANGE_WAIT, change).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(AdminError::NotLeader { leader: to.leader_id })
            }
            Ok(Err(RaftError::APIError(error))) => Err(AdminError::Refused(error.to_string())),
            Ok(Err(RaftError::Fatal(fatal))) => Err(AdminError::Stopped(fatal.to_string())),
            Err(_) => Err(AdminError::Timeout),
        }
    }

    /// At the leader: hands the leadership to another voter and waits until it leads.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn transfer_leader(&self, to: u64) -> Result<(), AdminError> {
        let status = self.status();
        if status.leader == Some(to) {
            return Ok(());
        }
        if status.leader != Some(self.config.node_id) {
            return Err(AdminError::NotLeader { leader: status.leader });
        }
        if !status.voters.contains(&to) {
            return Err(AdminError::Refused(format!("node {to} has no vote")));
        }
        self.raft.trigger().transfer_leader(to).await.map_err(|fatal| AdminError::Stopped(fatal.to_string()))?;
        let wait = self.raft.wait(Some(TRANSFER_WAIT));
        match wait.metrics(|metrics| metrics.current_leader == Some(to), "leadership transferred").await {
            Ok(_) => Ok(()),
            Err(WaitError::Timeout(..)) => Err(AdminError::Timeout),
            Err(error) => Err(AdminError::Stopped(error.to_string())),
        }
    }

    /// Takes a snapshot of this node's state; does not wait for it.
    ///
    /// # Errors
    /// [`AdminError::Stopped`].
    pub async fn trigger_snapshot(&self) -> Result<(), AdminError> {
        self.raft.trigger().snapshot().await.map_err(|fatal| AdminError::Stopped(fatal.to_string()))
    }

    /// Stops. Proposals that are not answered fail with [`ProposeError::Stopped`](crate::ProposeError::Stopped).
    pub async fn shutdown(&self) {
        for task in self.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "raft ended by a panic");
        }
    }
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
