//! What a node knows of its Raft group.

use crate::boot::BootTime;

/// This node's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes entries; does not vote.
    Learner,
    /// Votes.
    Follower,
    /// Stands for election: there is no leader that it knows.
    Candidate,
    /// Leads, or thinks so: see the lease.
    Leader,
    /// Has stopped.
    Stopped,
}

/// How it stands with the disk that the log is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StorageState {
    /// There is room.
    #[default]
    Good,
    /// Less than [`RaftConfig::disk_low`](crate::RaftConfig::disk_low) is free: the time to act.
    Low,
    /// The log cannot be written. The node takes no part in Raft: it has no lease, gives no vote and acknowledges nothing. It
    /// tries again by itself.
    Failed {
        /// What the system says.
        why: String,
    },
}

/// State of the group as seen by this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// This node.
    pub node_id: u64,
    /// Its part.
    pub role: Role,
    /// The leader that it knows of, itself included.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// Last index in this node's log.
    pub last_log_index: Option<u64>,
    /// Last index that this node knows to be committed.
    pub committed: Option<u64>,
    /// Last index applied to the state machine here.
    pub applied: Option<u64>,
    /// Last index that the newest snapshot covers.
    pub snapshot_index: Option<u64>,
    /// Until when the last confirmation by a quorum counts (rule I). May lie in the past.
    pub lease_until: Option<BootTime>,
    /// Until when the newest confirmation counts whose entries are all applied here (rule G). May lie in the past.
    pub caught_up_until: Option<BootTime>,
    /// `lease_until` lay in the future when this was made.
    pub has_lease: bool,
    /// `caught_up_until` lay in the future when this was made.
    pub caught_up: bool,
    /// Members with a vote, ascending.
    pub voters: Vec<u64>,
    /// Members without, ascending.
    pub learners: Vec<u64>,
    /// The disk that the log is on.
    pub storage: StorageState,
    /// What the cluster has committed is not applied here, and nothing has been for [`STUCK_AFTER`](crate::STUCK_AFTER).
    pub stuck: bool,
    /// At the leader: members that have lost entries which they had acknowledged, until they have them again, and for a minute.
    pub reverted: Vec<u64>,
    /// Why Raft has stopped, where it did by an error that is not the disk's. The process has to end.
    pub fatal: Option<String>,
}

impl RaftStatus {
    pub(crate) fn new(node_id: u64) -> RaftStatus {
        RaftStatus {
            node_id,
            role: Role::Learner,
            leader: None,
            term: 0,
            last_log_index: None,
            committed: None,
            applied: None,
            snapshot_index: None,
            lease_until: None,
            caught_up_until: None,
            has_lease: false,
            caught_up: false,
            voters: Vec::new(),
            learners: Vec::new(),
            storage: StorageState::Good,
            stuck: false,
            reverted: Vec::new(),
            fatal: None,
        }
    }

    /// The same as of `now`: what runs out with time.
    #[must_use]
    pub fn at(mut self, now: BootTime) -> RaftStatus {
        self.has_lease = self.lease_until.is_some_and(|until| now < until);
        self.caught_up = self.caught_up_until.is_some_and(|until| now < until);
        self
    }
}
