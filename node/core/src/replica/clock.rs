//! The log's clock: there is no other in the replicated state, and the nodes whose clocks make it may be wrong.

use super::{MAX_CLOCK_LEAD_MS, Replica};
use crate::store_pb::Command;
use crate::store_pb::command::Kind;

impl Replica {
    /// Moves the log's clock, and gives the time to write into records: the command's own, unless that is ahead of all others.
    ///
    /// What is written and what is forgotten go by different clocks. Times in records follow the newest Tick at once, so that they are right
    /// after the cluster was off for a week. What expires goes by `clock_ms`, which a Tick moves by a bounded step, forward or back: one
    /// leader with a wrong clock takes nobody's events and CDRs away, and a cluster whose first Tick was wrong finds back.
    pub(super) fn advance(&mut self, command: &Command) -> u64 {
        let (is_tick, first) = (matches!(command.kind, Some(Kind::Tick(_))), self.tick_ms == 0);
        if is_tick {
            self.tick_ms = self.tick_ms.max(command.unix_ms);
        }
        let limit = if self.tick_ms == 0 { u64::MAX } else { self.tick_ms.saturating_add(MAX_CLOCK_LEAD_MS) };
        let at = command.unix_ms.min(limit);
        if is_tick && !first {
            let back = self.clock_ms.saturating_sub(MAX_CLOCK_LEAD_MS);
            // A little ahead is a clock that runs unevenly, or the lead of another node: it waits, and does not go back.
            let low = if command.unix_ms < back { back } else { self.clock_ms };
            self.clock_ms = command.unix_ms.clamp(low, self.stepped_ms.saturating_add(MAX_CLOCK_LEAD_MS).max(low));
            self.stepped_ms = self.clock_ms;
        } else {
            let most = if self.tick_ms == 0 || first { u64::MAX } else { self.stepped_ms.saturating_add(MAX_CLOCK_LEAD_MS) };
            self.clock_ms = self.clock_ms.max(at.min(most));
            if is_tick {
                self.stepped_ms = self.clock_ms;
            }
        }
        at
    }
}
