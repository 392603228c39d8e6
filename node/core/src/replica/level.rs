//! The format level of the log: which kinds of command may stand in it, and what they mean.
//!
//! A node stops at a command that it does not know, so a new kind, or a new meaning of an old one, waits until every member knows it:
//! each says in its Hello which level it knows, and the leader commits `Level`. From that entry on, on every node alike, the new holds.
//! What changes within one release is one level.

use super::ApplyError;
use crate::store_pb::Entry;
use crate::store_pb::command::Kind;

/// The newest level that this version knows. 1: before there were levels. 2: alarms, data ids of nodes, and what else is marked so in [`level_of`];
/// times of calls by their owners' monotonic clocks; calls that lost their owner live until it has told their far ends; ids of events.
/// 3: calls are adopted.
pub const LEVEL: u32 = 3;

/// From this level on calls are adopted.
pub const ADOPT_LEVEL: u32 = 3;

/// The level from which on a kind of command may stand in the log.
pub fn level_of(kind: &Kind) -> u32 {
    match kind {
        Kind::Claim(_)
        | Kind::Progress(_)
        | Kind::Answer(_)
        | Kind::Refresh(_)
        | Kind::End(_)
        | Kind::Config(_)
        | Kind::NodeUp(_)
        | Kind::Tick(_)
        | Kind::Notice(_)
        | Kind::Block(_)
        | Kind::Unblock(_)
        // An older node stops at it for not knowing the kind, which is what it is for.
        | Kind::Level(_) => 1,
        Kind::Alarm(_)
        | Kind::Readmit(_)
        | Kind::ConfirmConfig(_)
        | Kind::Withdraw(_)
        | Kind::NodeReport(_)
        | Kind::NodeDown(_)
        | Kind::NodeBack(_) => 2,
        Kind::Adopt(_) => 3,
    }
}

/// Refuses an entry that lifts the log above what this node knows.
pub(super) fn check(index: u64, entry: &Entry, knows: u32) -> Result<(), ApplyError> {
    let highest = entry.commands.iter().filter_map(|c| match &c.kind {
        Some(Kind::Level(l)) => Some(l.level),
        _ => None,
    });
    match highest.max() {
        Some(level) if level > knows => Err(ApplyError::NewerLevel { index, level, knows }),
        _ => Ok(()),
    }
}
