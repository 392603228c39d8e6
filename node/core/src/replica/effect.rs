//! What applying an entry tells those who wait for it.

use crate::ids::{CallUid, Incarnation, NodeId};

/// One consequence of a committed entry, in the order of its commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A claim was decided (anycast.md, rule B): the first committed one wins.
    Claimed {
        /// The call that claimed.
        call: CallUid,
        /// True: the claim is this call's. A replay of a won claim says so again.
        won: bool,
        /// The call that has the claim.
        winner: CallUid,
        /// The winner came with the same top Via: a retransmission, not a merged request (AC-28).
        same_packet: bool,
    },
    /// A Progress, Answer or Refresh now stands in the replicated state.
    Recorded {
        /// Which call.
        call: CallUid,
        /// Up to which of its records.
        seq: u32,
    },
    /// A call was recorded beside the one that has its key: its owner has it answered, or it rings there.
    Beside {
        /// Which call.
        call: CallUid,
        /// The one that has the key.
        winner: CallUid,
    },
    /// A call is over; its CDR is written, unless another call of the same INVITE has it.
    Ended {
        /// Which call.
        call: CallUid,
    },
    /// A new configuration is in force.
    Config {
        /// Its revision.
        revision: u64,
        /// Its TOML text.
        text: String,
        /// The Apply that brought it.
        request_id: String,
    },
    /// This Apply was carried out before.
    ConfigRepeated {
        /// The Apply.
        request_id: String,
        /// The revision it had brought.
        revision: u64,
    },
    /// Another revision than the expected one is current, or the text is too long.
    ConfigRefused {
        /// The Apply.
        request_id: String,
        /// The revision in force.
        current: u64,
    },
    /// Other sources are blocked than before.
    Blocks,
    /// The log has reached a format level.
    Level(u32),
    /// An event was derived.
    Event(u64),
    /// A node started.
    NodeUp {
        /// Which node.
        node: NodeId,
        /// Its new incarnation.
        incarnation: Incarnation,
    },
    /// A node is down.
    NodeDown {
        /// Which node.
        node: NodeId,
        /// Which start of it.
        incarnation: Incarnation,
    },
    /// A node goes on with a call that another one had, or an earlier start of it.
    Adopted {
        /// Which call.
        call: CallUid,
        /// Its owner from now on.
        owner: NodeId,
        /// Which start of it.
        incarnation: Incarnation,
    },
    /// A command changed nothing.
    Stale {
        /// The call it names, where it names one.
        call: Option<CallUid>,
        /// Why.
        reason: StaleReason,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaleReason {
    /// A record of this (epoch, seq) or a later one is there: a replay.
    Replay,
    /// Its epoch is not the call's: the proposer has lost the call (rule J).
    Fenced,
    /// Its call never claimed, or is long over. The owner of a degraded call claims late and sends its records again.
    UnknownCall,
    /// The call has ended.
    Ended,
    /// The node has started again since.
    OldIncarnation,
    /// The call's owner is there.
    OwnerLives,
    /// The node has another log directory than the log knows it by: its disk was lost.
    OtherData,
    /// There are too many blocks, or there is none of that prefix.
    NoBlock,
    /// An alarm that stands so already.
    SameAlarm,
    /// Of a format level that the log has not reached, or has passed.
    Level,
    /// No configuration of that revision waits for its confirmation.
    NothingToConfirm,
    /// A field has a length or value that no node writes.
    Malformed,
}

/// An entry that this node must not skip: it stops (design.md, Replication).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Written by a newer version of the software: upgrade this node.
    #[error("entry {index} has format version {version}; this node knows {known}")]
    UnknownVersion {
        /// Log index.
        index: u64,
        /// Its version.
        version: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The log has gone beyond what this node knows: upgrade this node.
    #[error(
        "entry {index} lifts the log to format level {level}; this node takes part in {knows}: upgrade it, or let go of `format_level` in [cluster]"
    )]
    NewerLevel {
        /// Log index.
        index: u64,
        /// Its level.
        level: u32,
        /// The newest level that this node takes part in.
        knows: u32,
    },
    /// A command of a kind that this node does not know: upgrade this node.
    #[error("entry {index} has a command of unknown kind at position {position}")]
    UnknownCommand {
        /// Log index.
        index: u64,
        /// Position in the entry.
        position: usize,
    },
    /// More commands than revisions can number. The batcher never writes so many.
    #[error("entry {index} has {commands} commands; the most is {}", super::MAX_COMMANDS)]
    TooManyCommands {
        /// Log index.
        index: u64,
        /// How many.
        commands: usize,
    },
}

/// The records after that revision are gone: ask again from `oldest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compacted; the oldest that can be asked for is after revision {oldest}")]
pub struct Compacted {
    /// The lowest revision after which everything is still there.
    pub oldest: u64,
}

/// Why a snapshot cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The log was at a newer format level than this node takes part in: upgrade this node.
    #[error(
        "the snapshot is of format level {level}; this node takes part in {knows}: upgrade it, or let go of `format_level` in [cluster]"
    )]
    NewerLevel {
        /// The snapshot's.
        level: u32,
        /// This node's.
        knows: u32,
    },
    /// A record in it is damaged.
    #[error("snapshot is damaged: {0}")]
    Damaged(&'static str),
}
