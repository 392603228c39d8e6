//! Starting Raft, and the handle to it.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, RaftError};
use openraft::metrics::WaitError;
use openraft::{ChangeMembers, Instant as _};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::boot::BootTime;
use crate::config::{Connector, PeerConfig, RaftConfig};
use crate::engine::{Engine, Run};
use crate::error::{AdminError, ProposeError, ReadError, StartError};
use crate::ledger::Ledger;
use crate::monitor;
use crate::network::{Identity, Peers};
use crate::proposer::{self, Commands, Outcome, Proposal, Queue};
use crate::service::PeerService;
use crate::snapshot::SnapshotStore;
use crate::state_machine::{Machine, StateMachine};
use crate::status::RaftStatus;
use crate::storage::{Space, Storage};
use crate::types::{LeaderId, Member, Raft, TypeConfig};

/// Longest wait for a change of members: a learner has to catch up first, perhaps by a snapshot.
const CHANGE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait for a leadership to be taken over: an election with its retries.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

/// Starts Raft on the current tokio runtime: restores the newest snapshot into `machine` and goes on from the log on disk.
/// A node that was never part of a cluster waits for [`RaftHandle::initialize`], on it or on another. Where the disk is in trouble
/// the handle says so ([`RaftStatus::storage`]), and Raft starts when it is written again.
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
    let config = Arc::new(config);
    let admitted = config.admitted.clone();
    let identity = Identity::new(&config.cluster_id, config.group, config.node_id)?;
    let storage = Storage::new(&config.data_dir, config.disk_low);
    let snapshots = SnapshotStore::new(config.data_dir.join("snapshots"));
    let snapshot_due = Arc::new(Notify::new());
    let machine = Machine::new(machine, snapshots.clone(), storage.clone(), config.snapshot_log_bytes, snapshot_due.clone());
    let (proposals, queue) = Commands::channel(config.propose_timeout);
    let mut engine = Engine {
        openraft,
        peers: Peers::new(identity.clone(), connector),
        machine,
        snapshots: snapshots.clone(),
        snapshot_due,
        storage,
        ledger: Ledger::new(config.lease, config.election_max),
        running: watch::Sender::new(None),
        status: Arc::new(watch::Sender::new(RaftStatus::new(config.node_id))),
        config,
    };
    let first = match engine.open(false).await {
        Ok(run) => {
            // Whoever has the handle has a Raft.
            engine.running.send_replace(Some(run.raft.clone()));
            Some(run)
        }
        Err(error) if error.is_disk_trouble() => {
            engine.failed_at_start(&error);
            None
        }
        Err(error) => return Err(error),
    };
    let service = PeerService::new(engine.running.subscribe(), identity, snapshots, admitted, engine.ledger.clone());
    Ok((RaftHandle::spawn(engine, first, queue, proposals), service))
}

/// The handle to a Raft that runs, or waits for its disk; clones share it. It goes on until [`shutdown`](RaftHandle::shutdown).
#[derive(Clone)]
pub struct RaftHandle {
    config: Arc<RaftConfig>,
    running: watch::Receiver<Option<Raft>>,
    peers: Peers,
    queue: Queue,
    applied: watch::Receiver<Option<u64>>,
    status: Arc<watch::Sender<RaftStatus>>,
    storage: Storage,
    ledger: Ledger,
    engine: AbortHandle,
}

impl RaftHandle {
    fn spawn(engine: Engine, first: Option<Run>, commands: Commands, queue: Queue) -> RaftHandle {
        let (config, peers, status) = (engine.config.clone(), engine.peers.clone(), engine.status.clone());
        let (applied, running, storage) = (engine.machine.watch(), engine.running.subscribe(), engine.storage.clone());
        let ledger = engine.ledger.clone();
        let engine = tokio::spawn(engine.run(first, commands)).abort_handle();
        RaftHandle { config, running, peers, queue, applied, status, storage, ledger, engine }
    }

    /// What a broken disk does, for tests.
    #[cfg(test)]
    pub(crate) fn break_disk(&self, broken: bool) {
        self.storage.break_disk(broken);
    }

    #[cfg(test)]
    pub(crate) fn config(&self) -> RaftConfig {
        RaftConfig::clone(&self.config)
    }

    fn raft(&self) -> Option<Raft> {
        self.running.borrow().clone()
    }

    /// Openraft, for whoever changes something.
    fn admin(&self) -> Result<Raft, AdminError> {
        self.raft().ok_or_else(|| AdminError::Stopped("the log cannot be written".into()))
    }

    /// The disk that the log is on, as of the last seconds; `None`: it does not say.
    pub fn space(&self) -> Option<Space> {
        self.storage.seen()
    }

    /// Proposes one command; never blocks. The future is resolved within [`RaftConfig::propose_timeout`]; it need not be
    /// awaited for the command to be sent.
    pub fn propose(&self, command: Bytes) -> Proposal {
        self.queue.propose(command)
    }

    /// The status as of now.
    pub fn status(&self) -> RaftStatus {
        self.status.borrow().clone().at(BootTime::now())
    }

    /// The status as it changes, leases that run out included. What it holds is as old as the change: ask
    /// [`status`](RaftHandle::status), or [`RaftStatus::at`], where a lease decides.
    pub fn watch(&self) -> watch::Receiver<RaftStatus> {
        self.status.subscribe()
    }

    /// At the leader: when a member last acknowledged a heartbeat or entries of this leader; `None`: it has not, or another leads.
    pub fn last_acknowledged(&self, node: u64) -> Option<Instant> {
        let metrics = self.raft()?.metrics();
        let metrics = metrics.borrow_watched();
        let acknowledged = (*metrics.heartbeat.as_ref()?.get(&node)?)?;
        Instant::now().checked_sub(acknowledged.elapsed())
    }

    /// Says in which term this node leads with a quorum, `None` where it does not: what [`declare_down`](RaftHandle::declare_down) goes by.
    pub fn leads(&self, term: Option<u64>) {
        self.ledger.lead(term);
    }

    /// At the leader, of a member other than itself: writes that it is down, if no lease of it can run any more. From the decision on the
    /// member gets no confirmation until that is committed, and it is committed in the term of the decision or not at all: neither may a lease
    /// begin in between. Where it is not known whether it is committed, the member stays without a confirmation: call again.
    ///
    /// # Errors
    /// [`ProposeError`]. `Ok(None)` is none: a lease may still run, or another leads.
    pub async fn declare_down(&self, node: u64, command: Bytes) -> Result<Option<u64>, ProposeError> {
        let raft = self.raft().ok_or(ProposeError::Stopped)?;
        let Some(term) = self.ledger.declare(node) else { return Ok(None) };
        let entry = (self.config.encode_entry)(vec![command]);
        let append = proposer::append_in_term(&raft, LeaderId { term, node_id: self.config.node_id }, entry);
        match tokio::time::timeout(self.config.propose_timeout, append).await.map_err(|_| ProposeError::Timeout)? {
            Outcome::Index(index) => {
                self.ledger.lift(node);
                Ok(Some(index))
            }
            // In the log of a leader that no more leads, or in none.
            Outcome::NotLeader(_) => Err(ProposeError::Timeout),
            Outcome::Stopped => Err(ProposeError::Stopped),
        }
    }

    /// Waits until this node has applied everything that was committed when this was called: a linearizable read of the
    /// state machine may follow.
    ///
    /// # Errors
    /// [`ReadError`], after `limit` at the latest.
    pub async fn read_barrier(&self, limit: Duration) -> Result<u64, ReadError> {
        let mut applied = self.applied.clone();
        let barrier = async {
            let raft = self.raft().ok_or(ReadError::Stopped)?;
            let index = monitor::ask_leader(&raft, &self.peers, self.config.node_id).await?;
            let reached = applied.wait_for(|applied| applied.is_some_and(|applied| applied >= index)).await;
            reached.map(|_| index).map_err(|_| ReadError::Stopped)
        };
        tokio::time::timeout(limit, barrier).await.unwrap_or(Err(ReadError::Timeout))
    }

    /// True where the log holds nothing but, at the most, the members that the cluster was made with: nothing was acknowledged here. False
    /// where that cannot be said, for the disk's sake.
    pub async fn is_new(&self) -> bool {
        let Some(raft) = self.raft() else { return false };
        raft.with_raft_state(|state| state.log_ids.last().is_none_or(|id| id.index == 0)).await.unwrap_or(false)
    }

    /// Makes a cluster of the configured members, this node and its peers. Does nothing where one exists already.
    ///
    /// # Errors
    /// [`AdminError::Stopped`].
    pub async fn initialize(&self) -> Result<(), AdminError> {
        match self.admin()?.initialize(self.config.members()).await {
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
        let (raft, member): (Raft, Member) = (self.admin()?, peer.member());
        self.change(async { raft.add_learner(peer.id, member, true).await.map(drop) }).await
    }

    /// At the leader: gives a learner its vote.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn promote(&self, id: u64) -> Result<(), AdminError> {
        let members = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        let raft = self.admin()?;
        self.change(async { raft.change_membership(members, true).await.map(drop) }).await
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
        let raft = self.admin()?;
        self.change(async { raft.change_membership(members, false).await.map(drop) }).await
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
        let raft = self.admin()?;
        self.ledger.forget_vote();
        raft.trigger().transfer_leader(to).await.map_err(|fatal| AdminError::Stopped(fatal.to_string()))?;
        let wait = raft.wait(Some(TRANSFER_WAIT));
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
        self.admin()?.trigger().snapshot().await.map_err(|fatal| AdminError::Stopped(fatal.to_string()))
    }

    /// Stops. Proposals that are not answered fail with [`ProposeError::Stopped`].
    pub async fn shutdown(&self) {
        let raft = self.raft();
        self.engine.abort();
        if let Some(raft) = raft
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!(%error, "raft ended by a panic");
        }
    }
}
