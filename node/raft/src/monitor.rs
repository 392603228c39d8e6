//! Lease and `caught_up`: one task that has the quorum confirmed and keeps the [`RaftStatus`] current.
//!
//! How a confirmation works, the same on leader and followers: the node notes the time `t`, asks the leader for a read
//! index, the leader has its leadership acknowledged by a quorum *after* the question came and answers with an index that
//! nothing committed before exceeds. Hence at a moment after `t` the leader led with a quorum. The lease runs from `t` by this
//! node's own clock, one that counts suspends, so no clocks are compared; a leader cut off from its quorum cannot answer, so it prolongs neither its
//! own lease nor its followers'. A follower that only hears heartbeats gains nothing from them.
//!
//! `caught_up` holds from the same `t` as soon as this node has applied the index of the answer. What is committed later
//! than `t` may be missing here for as long as the lease; a node that must exclude that too asks `RaftHandle::read_barrier`.
//! After a restart nothing is confirmed, so `caught_up` is false until the first answer's index is applied.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{LinearizerOption, ServerState};
use tokio::sync::{mpsc, watch};

use crate::boot::BootTime;
use crate::error::ReadError;
use crate::network::Peers;
use crate::reverted::Reverted;
use crate::status::{RaftStatus, Role};
use crate::storage::Storage;
use crate::types::{Member, Raft, StoredMembership};

/// Longest wait for a quorum, at the leader. Shorter than the asker's, so that it hears why.
const QUORUM_WAIT: Duration = Duration::from_millis(700);
/// Longest wait for the leader's answer. Half the default lease: one question may be lost.
const ANSWER_WAIT: Duration = Duration::from_secs(1);
/// How long a node may apply nothing, while it knows of something to apply and hears a quorum, before it is called stuck: two
/// leases. Whoever catches up applies something all the time, but for the installation of a snapshot.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Confirmations whose entries are not yet applied: eight are asked for within a default lease.
const MAX_PENDING: usize = 64;

/// Has a quorum confirm that this node leads; the index that nothing committed before exceeds.
pub(crate) async fn read_index(raft: &Raft) -> Result<u64, ReadError> {
    let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(QUORUM_WAIT);
    match tokio::time::timeout(ANSWER_WAIT, raft.get_read_linearizer(option)).await {
        Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
        Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => Err(ReadError::NoLeader),
        Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => Err(ReadError::Timeout),
        Ok(Err(RaftError::Fatal(_))) => Err(ReadError::Stopped),
    }
}

/// The same from anywhere: asks the leader.
pub(crate) async fn ask_leader(raft: &Raft, peers: &Peers, node: u64) -> Result<u64, ReadError> {
    let (leader, member) = leader(raft).ok_or(ReadError::NoLeader)?;
    if leader == node {
        return read_index(raft).await;
    }
    let member = member.ok_or(ReadError::NoLeader)?;
    match tokio::time::timeout(ANSWER_WAIT, peers.client(leader, &member).read_index()).await {
        Ok(Ok(index)) => Ok(index),
        Ok(Err(status)) if status.code() == tonic::Code::FailedPrecondition => Err(ReadError::NoLeader),
        Ok(Err(status)) => Err(ReadError::Unreachable(status.to_string())),
        Err(_) => Err(ReadError::Timeout),
    }
}

/// The leader that this node knows of, and where it is.
pub(crate) fn leader(raft: &Raft) -> Option<(u64, Option<Member>)> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader?;
    Some((leader, metrics.membership_config.get_node(&leader).cloned()))
}

/// Asks again and again; reports when it asked and what was answered.
pub(crate) async fn confirm(raft: Raft, peers: Peers, node: u64, every: Duration, out: mpsc::Sender<(BootTime, u64)>) {
    loop {
        let asked = BootTime::now();
        let known = leader(&raft).map(|(leader, _)| leader);
        match ask_leader(&raft, &peers, node).await {
            Ok(index) => {
                if out.send((asked, index)).await.is_err() {
                    return;
                }
            }
            Err(ReadError::Stopped) => return,
            Err(error) => tracing::debug!(leader = known, %error, "lease not confirmed"),
        }
        // A new leader is asked at once; a timeout is the rule.
        let wait = raft.wait(Some(every.saturating_sub(BootTime::now().since(asked))));
        let other = |leader: Option<u64>| leader.is_some() && leader != known;
        let _ = wait.metrics(|metrics| other(metrics.current_leader), "another leader").await;
        if BootTime::now().since(asked) < Duration::from_millis(10) {
            // Never in a tight loop, whatever the leader's state does.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Confirmations, and which of them count as caught up.
#[derive(Debug, Default)]
struct Confirmations {
    newest: Option<BootTime>,
    caught_up: Option<BootTime>,
    pending: VecDeque<(BootTime, u64)>,
    /// Highest index that is known to be committed.
    known: Option<u64>,
}

impl Confirmations {
    fn confirmed(&mut self, asked: BootTime, index: u64, applied: Option<u64>) {
        self.newest = self.newest.max(Some(asked));
        self.known = self.known.max(Some(index));
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((asked, index));
        self.applied(applied);
    }

    fn applied(&mut self, applied: Option<u64>) {
        let Some(applied) = applied else { return };
        let caught_up = &mut self.caught_up;
        self.pending.retain(|(asked, index)| {
            let done = *index <= applied;
            if done {
                *caught_up = (*caught_up).max(Some(*asked));
            }
            !done
        });
    }
}

/// Whether this node applies what it knows to be committed.
#[derive(Debug)]
struct Progress {
    applied: Option<u64>,
    /// Since when it has stood still; now, while there is nothing to apply.
    since: Instant,
}

impl Progress {
    /// When the node is stuck, or will be if nothing changes; `None`: it has applied all that it knows of.
    fn stuck_at(&mut self, now: Instant, applied: Option<u64>, known: Option<u64>) -> Option<Instant> {
        if applied >= known || applied != self.applied {
            *self = Progress { applied, since: now };
        }
        (applied < known).then(|| self.since + STUCK_AFTER)
    }
}

/// Keeps the status. Ends when Raft does.
pub(crate) struct Monitor {
    pub(crate) raft: Raft,
    pub(crate) node: u64,
    pub(crate) lease: Duration,
    pub(crate) applied: watch::Receiver<Option<u64>>,
    pub(crate) confirmed: mpsc::Receiver<(BootTime, u64)>,
    pub(crate) status: Arc<watch::Sender<RaftStatus>>,
    pub(crate) reverted: Reverted,
    pub(crate) storage: Storage,
}

impl Monitor {
    pub(crate) async fn run(mut self) {
        let mut metrics = self.raft.metrics();
        let mut confirmations = Confirmations::default();
        let mut progress = Progress { applied: None, since: Instant::now() };
        loop {
            let (now, boot) = (Instant::now(), BootTime::now());
            let mut status = self.current(&confirmations).at(boot);
            let known = confirmations.known.max(status.committed);
            let stuck_at = progress.stuck_at(now, status.applied, known);
            // Without a quorum it is another fault, and told as such.
            status.stuck = status.has_lease && stuck_at.is_some_and(|at| at <= now);
            let leases = [status.lease_until, status.caught_up_until].into_iter().flatten().map(|at| at.since(boot));
            let times = leases.chain(stuck_at.map(|at| at.saturating_duration_since(now)));
            let runs_out = times.filter(|left| !left.is_zero()).min();
            let ended = status.role == Role::Stopped;
            self.status.send_if_modified(|old| {
                let changed = *old != status;
                *old = status;
                changed
            });
            if ended {
                return;
            }
            let timer = async {
                match runs_out {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = metrics.changed() => if changed.is_err() { return self.stopped() },
                // Closed with the state machine, a moment before the metrics say why.
                Ok(()) = self.applied.changed() => confirmations.applied(*self.applied.borrow_and_update()),
                Some((asked, index)) = self.confirmed.recv() => {
                    confirmations.confirmed(asked, index, *self.applied.borrow());
                }
                () = timer => {}
            }
        }
    }

    fn current(&self, confirmations: &Confirmations) -> RaftStatus {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let fatal = match &metrics.running_state {
            Ok(()) | Err(openraft::errors::Fatal::Stopped) => None,
            // It begins again.
            Err(_) if self.storage.failed().is_some() => None,
            Err(fatal) => Some(fatal.to_string()),
        };
        let role = match metrics.state {
            _ if metrics.running_state.is_err() => Role::Stopped,
            ServerState::Learner => Role::Learner,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Leader => Role::Leader,
            ServerState::Shutdown => Role::Stopped,
        };
        let running = role != Role::Stopped;
        let until = |from: Option<BootTime>| from.filter(|_| running).map(|at| at + self.lease);
        RaftStatus {
            role,
            leader: metrics.current_leader.filter(|_| running),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index,
            committed: metrics.local_committed.map(|id| id.index),
            applied: *self.applied.borrow(),
            snapshot_index: metrics.snapshot.map(|id| id.index),
            lease_until: until(confirmations.newest),
            caught_up_until: until(confirmations.caught_up),
            voters: metrics.membership_config.voter_ids().collect(),
            learners: metrics.membership_config.membership().learner_ids().collect(),
            reverted: if role == Role::Leader { self.reverted(&metrics.membership_config) } else { Vec::new() },
            storage: self.storage.state(),
            fatal,
            ..RaftStatus::new(self.node)
        }
    }

    fn reverted(&self, members: &StoredMembership) -> Vec<u64> {
        self.reverted.members(Instant::now()).into_iter().filter(|id| members.get_node(id).is_some()).collect()
    }

    /// Raft's task is gone without a word, as after a panic.
    fn stopped(&self) {
        let mut status = self.current(&Confirmations::default());
        if status.role != Role::Stopped && self.storage.failed().is_none() {
            status.fatal = Some("raft's task has ended without a word".to_owned());
        }
        status.role = Role::Stopped;
        status.leader = None;
        self.status.send_replace(status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caught_up_counts_from_the_newest_confirmation_that_is_applied() {
        let start = BootTime::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut state = Confirmations::default();
        state.confirmed(at(0), 5, None);
        assert_eq!((state.newest, state.caught_up), (Some(at(0)), None));
        state.confirmed(at(250), 9, Some(4));
        assert_eq!(state.caught_up, None);
        state.applied(Some(7));
        assert_eq!(state.caught_up, Some(at(0)));
        state.confirmed(at(500), 9, Some(8));
        assert_eq!((state.newest, state.caught_up), (Some(at(500)), Some(at(0))));
        state.applied(Some(9));
        assert_eq!(state.caught_up, Some(at(500)));
        assert!(state.pending.is_empty());
    }

    #[test]
    fn stuck_is_who_knows_of_more_and_applies_nothing() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut progress = Progress { applied: None, since: start };
        assert_eq!(progress.stuck_at(at(0), None, None), None);
        assert_eq!(progress.stuck_at(at(60), Some(7), Some(7)), None);
        assert_eq!(progress.stuck_at(at(61), Some(7), Some(9)), Some(at(60) + STUCK_AFTER));
        assert_eq!(progress.stuck_at(at(64), Some(8), Some(90)), Some(at(64) + STUCK_AFTER), "it moves");
        assert_eq!(progress.stuck_at(at(80), Some(8), Some(95)), Some(at(64) + STUCK_AFTER));
        assert_eq!(progress.stuck_at(at(81), Some(95), Some(95)), None);
        // As after a restart from an older copy.
        assert_eq!(progress.stuck_at(at(82), Some(3), Some(95)), Some(at(82) + STUCK_AFTER));
    }

    #[test]
    fn pending_confirmations_are_bounded() {
        let mut state = Confirmations::default();
        for index in 0..1000 {
            state.confirmed(BootTime::now(), index, None);
        }
        assert_eq!(state.pending.len(), MAX_PENDING);
    }
}
