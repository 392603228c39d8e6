//! What can go wrong, by boundary: starting, proposing, reading, changing the members.

use std::io;
use std::path::PathBuf;

/// Raft could not be started. The operator's to repair; the node must not run without.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error("raft configuration: {0}")]
    Config(String),
    /// The data directory belongs to another cluster or node.
    #[error("{path} holds the data of {found}, not of {wanted}")]
    Identity {
        /// The file that says so.
        path: PathBuf,
        /// What stands there.
        found: String,
        /// What the configuration says.
        wanted: String,
    },
    /// The data directory cannot be used. A disk in trouble is no reason not to start: Raft is then tried again and again.
    #[error("raft data in {path}: {source}")]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log cannot be read: another process has it, or it is damaged, and not at its torn end.
    #[error(
        "the log in {path} cannot be read: {source}. If no other process has it, it is damaged: keep a copy, move the directory above \
         it away, and start; the node then counts as one with a new disk, and says what the others need to be told"
    )]
    Log {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log begins after what the newest sound snapshot covers.
    #[error(
        "the log in {path} begins after index {purged}, but the newest sound snapshot ends at {snapshot:?}: its state is lost. Keep a copy, \
         move the directory away, and start; the node then counts as one with a new disk, and says what the others need to be told"
    )]
    SnapshotLost {
        /// The directory.
        path: PathBuf,
        /// Last index that the log no longer has.
        purged: u64,
        /// Last index of the snapshot found.
        snapshot: Option<u64>,
    },
    /// Raft itself refused.
    #[error("raft: {0}")]
    Raft(String),
}

impl StartError {
    /// The disk is full, broken or read-only: it may be written again one day.
    pub(crate) fn is_disk_trouble(&self) -> bool {
        matches!(self, StartError::Data { source, .. } if crate::storage::is_disk_trouble(source))
    }
}

/// A proposal has no known place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The queue is full: more is proposed than the cluster takes. Not proposed; go on without the store.
    #[error("the queue of proposals is full")]
    QueueFull,
    /// Longer than an entry may be. Not proposed; the caller's mistake.
    #[error("the command is too long for a log entry")]
    TooLarge,
    /// No answer in time: no leader, no quorum, or slow. It may still be applied.
    #[error("no quorum confirmed the proposal in time")]
    Timeout,
    /// Raft has stopped. It may still be applied if it was sent.
    #[error("raft has stopped")]
    Stopped,
}

/// A linearizable read could not be confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader is known, or it answers that it is none. Retry, or answer without knowledge (rule G).
    #[error("no leader")]
    NoLeader,
    /// Neither leader nor quorum confirmed, or this node did not apply as far, in time.
    #[error("not confirmed in time")]
    Timeout,
    /// The leader could not be asked.
    #[error("the leader cannot be asked: {0}")]
    Unreachable(String),
    /// Raft has stopped.
    #[error("raft has stopped")]
    Stopped,
}

/// A change of members or of the leader did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Ask the leader.
    #[error("not the leader; the leader is {leader:?}")]
    NotLeader {
        /// Its node id, where known.
        leader: Option<u64>,
    },
    /// The caller's request is wrong or comes at the wrong time.
    #[error("refused: {0}")]
    Refused(String),
    /// No quorum, or the other side did not take over. It may still happen.
    #[error("not confirmed in time")]
    Timeout,
    /// Raft has stopped.
    #[error("raft has stopped: {0}")]
    Stopped(String),
}
