//! What a call has told the log, until the log has it.
//!
//! Records go out the moment they arise, so that nothing waits for the store. What fails, or is applied without effect
//! because an earlier record is missing, is proposed again in order: after a lost quorum this republishes live calls. Each keeps the time
//! it arose at, however late it is committed: a CDR tells when a call was, not when the quorum came back.

use std::collections::VecDeque;
use std::time::Duration;

use super::services::Services;
use super::timer::{CallTimer, Timer};
use crate::ids::CallUid;
use crate::store_pb::command::Kind;
use crate::time::UnixMs;

/// How long to wait before proposing again; spread over twice this time by call, which limits the rate.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait while there is no quorum: what waited is written within this time after it comes back, spread by call.
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Records kept for one call. A call that changes more often without quorum drops its oldest refresh or notice.
const MAX_RECORDS: usize = 16;
/// How often it is looked, under a quorum, whether an old proposal was committed after all: a new leader has decided that by then.
const LOOKS: u32 = 5;

#[derive(Debug)]
struct Record {
    seq: u32,
    /// When it arose.
    at: UnixMs,
    kind: Kind,
}

/// The records of one call that are not known to be applied.
#[derive(Debug, Default)]
pub struct Journal {
    records: VecDeque<Record>,
    next_seq: u32,
    retrying: bool,
    /// Retries for which there was no quorum.
    fruitless: u32,
    degraded: bool,
    abandoned: bool,
    /// Its claim is proposed no more; only where the log has it after all is it told the rest.
    waits: Option<u32>,
}

impl Journal {
    /// The number that the next record must carry: 0 for the claim.
    pub(super) fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// True when everything is applied.
    pub fn is_settled(&self) -> bool {
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
            && let Some(at) = self.records.iter().position(|r| matches!(r.kind, Kind::Refresh(_) | Kind::Notice(_)))
        {
            self.records.remove(at);
        }
        self.records.push_back(Record { seq: self.next_seq, at: cx.now.unix, kind: kind.clone() });
        self.next_seq += 1;
        // While earlier ones wait for their retry, this one waits with them: out of order it would have no effect.
        if !self.retrying && self.waits.is_none() {
            cx.propose(call, cx.now.unix, kind);
        }
    }

    /// The call is another node's. What was proposed of it may still be committed, and then has to end; nothing is proposed anew.
    pub(super) fn wait(&mut self) {
        self.waits = Some(0);
    }

    /// The log applied something of this call: forgets what the replica now has.
    pub fn on_applied(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        if self.abandoned {
            return;
        }
        let recorded = {
            let replica = cx.replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            replica.call(uid).map(|c| (c.state().seq, !c.is_live()))
        };
        match recorded {
            Some((_, true)) => self.records.clear(),
            Some((seq, false)) => {
                self.records.retain(|r| r.seq > seq || matches!(r.kind, Kind::End(_)));
                if self.waits.take().is_some() {
                    self.propose_all(cx, call);
                }
            }
            // Not even the claim: an entry of ours came through out of order.
            None => self.retry_later(cx, call, uid),
        }
    }

    /// A proposal failed, or its fate is unknown.
    pub fn on_failed(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        self.degraded = true;
        if !self.records.is_empty() {
            self.retry_later(cx, call, uid);
        }
    }

    /// Proposes again everything that is not applied, in order. Without a quorum it would fail again: that is tried ever more rarely.
    pub fn on_retry(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        self.retrying = false;
        if self.records.is_empty() {
            return;
        }
        if !cx.has_lease() {
            self.fruitless = self.fruitless.saturating_add(1);
            return self.retry_later(cx, call, uid);
        }
        self.fruitless = 0;
        match &mut self.waits {
            None => self.propose_all(cx, call),
            Some(looks) if *looks >= LOOKS => self.abandon(),
            Some(looks) => {
                *looks += 1;
                self.retry_later(cx, call, uid);
            }
        }
    }

    fn propose_all(&self, cx: &mut Services, call: u64) {
        for record in &self.records {
            cx.propose(call, record.at, record.kind.clone());
        }
    }

    /// Gives up for good: the claim is another call's, and no record of this one can take effect.
    pub fn abandon(&mut self) {
        self.abandoned = true;
        self.records.clear();
    }

    fn retry_later(&mut self, cx: &mut Services, call: u64, uid: CallUid) {
        if self.retrying {
            return;
        }
        self.retrying = true;
        cx.start_timer(retry_after(self.fruitless, uid.serial), Timer::Call(call, CallTimer::Journal));
    }
}

/// The wait before a retry, after so many for which there was no quorum.
fn retry_after(fruitless: u32, serial: u64) -> Duration {
    let base = RETRY.saturating_mul(1 << fruitless.min(5)).min(MAX_RETRY / 2);
    let spread = serial % u64::try_from(base.as_millis()).unwrap_or(1000);
    base + Duration::from_millis(spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_grow_rarer_and_are_spread() {
        assert_eq!(retry_after(0, 1000), Duration::from_secs(1));
        assert_eq!(retry_after(0, 999), Duration::from_millis(1999));
        assert_eq!(retry_after(2, 0), Duration::from_secs(4));
        for serial in 0..20_000 {
            let wait = retry_after(u32::MAX, serial);
            assert!(wait >= MAX_RETRY / 2 && wait < MAX_RETRY);
        }
    }
}
