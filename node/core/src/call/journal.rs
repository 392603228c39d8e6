//! What a call has told the log, until the log has it.
//!
//! Records go out the moment they arise, so that nothing waits for the store. What fails, or is applied without effect
//! because an earlier record is missing, is proposed again in order: after a lost quorum this republishes live calls.

use std::collections::VecDeque;
use std::time::Duration;

use super::services::Services;
use super::timer::{CallTimer, Timer};
use crate::ids::CallUid;
use crate::store_pb::command::Kind;

/// How long to wait before proposing again; spread over twice this time by call, which limits the rate.
const RETRY: Duration = Duration::from_secs(1);
/// Records kept for one call. A call that changes more often without quorum drops its oldest refresh or notice.
const MAX_RECORDS: usize = 16;

/// The records of one call that are not known to be applied.
#[derive(Debug, Default)]
pub(super) struct Journal {
    records: VecDeque<(u32, Kind)>,
    next_seq: u32,
    retrying: bool,
    degraded: bool,
    abandoned: bool,
}

impl Journal {
    /// The number that the next record must carry: 0 for the claim.
    pub(super) fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// True when everything is applied.
    pub(super) fn is_settled(&self) -> bool {
        self.records.is_empty()
    }

    /// True once a proposal of this call failed or came late.
    pub(super) fn is_degraded(&self) -> bool {
        self.degraded
    }

    /// True once the log has no place for this call.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Notes that the call went on without the store.
    pub(super) fn set_degraded(&mut self) {
        self.degraded = true;
    }

    /// Keeps a record and proposes it.
    pub(super) fn push(&mut self, cx: &mut Services, call: u64, kind: Kind) {
        if self.abandoned {
            return;
        }
        if self.records.len() >= MAX_RECORDS
            && let Some(at) = self.records.iter().position(|(_, k)| matches!(k, Kind::Refresh(_) | Kind::Notice(_)))
        {
            self.records.remove(at);
        }
        self.records.push_back((self.next_seq, kind.clone()));
        self.next_seq += 1;
        // While earlier ones wait for their retry, this one waits with them: out of order it would have no effect.
        if !self.retrying {
            cx.propose(call, kind);
        }
    }

    /// The log applied something of this call: forgets what the replica now has.
    pub(super) fn on_applied(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        if self.abandoned {
            return;
        }
        let recorded = {
            let replica = cx.replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            replica.call(uid).map(|c| (c.state().seq, !c.is_live()))
        };
        match recorded {
            Some((_, true)) => self.records.clear(),
            Some((seq, false)) => self.records.retain(|(s, k)| *s > seq || matches!(k, Kind::End(_))),
            // Not even the claim: an entry of ours came through out of order.
            None => self.retry_later(cx, call, uid),
        }
    }

    /// A proposal failed, or its fate is unknown.
    pub(super) fn on_failed(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        self.degraded = true;
        if !self.records.is_empty() {
            self.retry_later(cx, call, uid);
        }
    }

    /// Proposes again everything that is not applied, in order.
    pub(super) fn on_retry(&mut self, cx: &mut Services, call: u64) {
        self.retrying = false;
        for (_, kind) in &self.records {
            cx.propose(call, kind.clone());
        }
    }

    /// Gives up for good: the claim is another call's, and no record of this one can take effect.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
        self.records.clear();
    }

    fn retry_later(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        if self.retrying {
            return;
        }
        self.retrying = true;
        let spread = Duration::from_millis(uid.serial % 1000);
        cx.start_timer(RETRY + spread, Timer::Call(call, CallTimer::Journal));
    }
}
