//! What a call has told the log, until the log has it.
//!
//! Records go out the moment they arise, so that nothing waits for the store. What fails, or is applied without effect
//! because an earlier record is missing, is proposed again in order: after a lost quorum this republishes live calls. Each keeps the time
//! it arose at, however late it is committed: a CDR tells when a call was, not when the quorum came back.
//!
//! What the log has not taken within a claim's budget, or cannot take, is told by this node itself (`Output::Uncommitted`): each time the
//! whole of it, until the log has it.

use std::collections::VecDeque;
use std::time::Duration;

use super::context::Context;
use super::timer::{CallTimer, TimerUser};
use crate::ids::{CallUid, LocalId};
use crate::io::{Output, Uncommitted};
use crate::replica::{BESIDE_LEVEL, CallEntry, EarlyEvent, UNCOMMITTED_LEVEL, event_id};
use crate::store_pb::command::Kind;
use crate::store_pb::{Event, EventKind};
use crate::time::{Instant, UnixMs};
use crate::timer::TimerId;

/// How long to wait before proposing again; spread over twice this time by call, which limits the rate.
const RETRY: Duration = Duration::from_secs(1);
/// The longest wait while there is no quorum; when that comes back, it ends ([`Journal::on_lease`]).
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Records kept for one call. A call that changes more often without quorum drops its oldest refresh or notice.
const MAX_RECORDS: usize = 16;
/// How often it is looked, under a quorum, whether an old proposal was committed after all: a new leader has decided that by then.
const LOOKS: u32 = 5;

#[derive(Debug)]
struct JournalRecord {
    seq: u32,
    /// When it arose.
    at: UnixMs,
    since: Instant,
    kind: Kind,
}

/// What is numbered besides records, for the ids of events.
#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Update,
    Location,
    Data,
}

/// The records of one call that are not known to be applied.
#[derive(Debug)]
pub struct Journal {
    id: LocalId,
    uid: CallUid,
    records: VecDeque<JournalRecord>,
    next_seq: u32,
    /// When all of it is proposed again.
    retry: Option<TimerId>,
    /// Retries for which there was no quorum.
    fruitless: u32,
    /// The log has no place for this call.
    placeless: bool,
    /// The key is another call's: this one is recorded beside it.
    beside: bool,
    /// Its claim is proposed no more; only where the log has it after all is it told the rest.
    waits: Option<u32>,
    /// How many of each kind there were.
    counts: [u32; 3],
    /// The log is late, or has no place for the call: what is here is told.
    early: bool,
    /// Something of the call was told that stands.
    shown: bool,
    /// A timer will see whether it is.
    awaited: bool,
    /// Events that were told and that the log is not known to have: their records, kinds and ids.
    told: Vec<(u32, EventKind, String)>,
}

impl Journal {
    /// Of a call that begins.
    pub fn new(id: LocalId, uid: CallUid) -> Journal {
        Journal {
            id,
            uid,
            records: VecDeque::new(),
            next_seq: 0,
            retry: None,
            placeless: false,
            beside: false,
            fruitless: 0,
            waits: None,
            counts: [0; 3],
            early: false,
            shown: false,
            awaited: false,
            told: Vec::new(),
        }
    }

    /// The number that the next record must carry: 0 for the claim.
    pub(super) fn next_seq(&self) -> u32 {
        self.next_seq
    }

    /// The log has the records up to this number.
    pub(super) fn continue_after(&mut self, seq: u32) {
        self.next_seq = seq + 1;
    }

    /// True when everything is applied that the log can take.
    pub fn is_settled(&self) -> bool {
        self.placeless || self.records.is_empty()
    }

    /// The next number of that kind.
    pub(super) fn count(&mut self, what: Counted) -> u32 {
        let count = &mut self.counts[what as usize];
        *count += 1;
        *count
    }

    /// True once the log has no place for this call.
    pub(super) fn has_no_place(&self) -> bool {
        self.placeless
    }

    /// True for a call that is recorded beside the one that has its key.
    pub(super) fn is_beside(&self) -> bool {
        self.beside
    }

    /// True for a call that has not its key, and another identity toward the called side.
    pub(super) fn has_no_key(&self) -> bool {
        self.placeless || self.beside
    }

    /// Keeps a record and proposes it.
    pub(super) fn push(&mut self, cx: &mut Context, kind: Kind) {
        if self.records.len() >= MAX_RECORDS
            && let Some(at) = self.records.iter().position(|r| matches!(r.kind, Kind::Refresh(_) | Kind::Notice(_)))
        {
            self.records.remove(at);
        }
        self.records.push_back(JournalRecord { seq: self.next_seq, at: cx.now.unix, since: cx.now.mono, kind: kind.clone() });
        self.next_seq += 1;
        // While earlier ones wait for their retry, this one waits with them: out of order it would have no effect.
        if self.retry.is_none() && !self.placeless && self.waits.is_none() {
            cx.propose(self.id, cx.now.unix, kind);
        }
        if self.early || self.placeless || self.retry.is_some() || !cx.has_lease() {
            self.tell(cx);
        } else if !self.awaited {
            self.awaited = true;
            cx.start_timer(cx.config.settings.claim_budget, TimerUser::Call(self.id, CallTimer::Early));
        }
    }

    /// The oldest record may be late.
    pub fn on_early(&mut self, cx: &mut Context) {
        self.awaited = false;
        let Some(oldest) = self.records.front() else { return };
        let (budget, waited) = (cx.config.settings.claim_budget, cx.now.mono.since(oldest.since));
        if waited >= budget || !cx.has_lease() {
            self.tell(cx);
        } else {
            self.awaited = true;
            cx.start_timer(budget.saturating_sub(waited), TimerUser::Call(self.id, CallTimer::Early));
        }
    }

    /// Tells what the log does not have.
    fn tell(&mut self, cx: &mut Context) {
        let uid = self.uid;
        let preview = {
            let replica = cx.replica();
            if replica.level() < UNCOMMITTED_LEVEL {
                return;
            }
            replica.preview(uid, self.records.iter().map(|r| (r.seq, r.at.0, &r.kind)))
        };
        self.early = !self.records.is_empty();
        let Some(preview) = preview.filter(|_| self.early) else { return self.untell(cx) };
        for early in &preview.events {
            let id = event_id(&early.event);
            if self.told.iter().all(|(_, _, known)| *known != id) {
                self.told.push((early.seq, early.event.kind(), id));
            }
        }
        let (entry, events) = (Some(preview.entry), preview.events);
        self.shown = true;
        let last = self.placeless && entry.as_ref().is_some_and(|entry| !entry.is_live());
        cx.output(Output::Uncommitted(Box::new(Uncommitted { call: uid, entry, events, last })));
    }

    /// The log has what was told.
    fn untell(&mut self, cx: &mut Context) {
        if std::mem::take(&mut self.shown) {
            cx.output(Output::Uncommitted(Box::new(Uncommitted {
                call: self.uid,
                entry: None,
                events: Vec::new(),
                last: false,
            })));
        }
    }

    /// Another node has the call: takes back what was told of it here.
    fn retract(&mut self, cx: &mut Context) {
        let uid = self.uid;
        let told: Vec<String> = std::mem::take(&mut self.told).into_iter().map(|(_, _, id)| id).collect();
        if told.is_empty() {
            return;
        }
        let known = cx.replica().call(uid).map(|c| c.claim().clone());
        let of_record = |r: &JournalRecord| if let Kind::Claim(claim) = &r.kind { Some(claim.clone()) } else { None };
        let Some(claim) = known.or_else(|| self.records.iter().find_map(of_record)) else { return };
        let event = Event {
            kind: EventKind::Retracted.into(),
            kind_number: 1,
            unix_ms: cx.now.unix.0,
            call: claim.call,
            node: claim.owner,
            epoch: claim.epoch,
            emergency: claim.emergency,
            parties: claim.parties,
            emergency_info: claim.emergency_info,
            retracted: told,
            ..Event::default()
        };
        self.shown = false;
        let events = vec![EarlyEvent { seq: self.next_seq, event: std::sync::Arc::new(event) }];
        cx.output(Output::Uncommitted(Box::new(Uncommitted { call: uid, entry: None, events, last: true })));
    }

    /// The call is another node's. What was proposed of it may still be committed, and then has to end; nothing is proposed anew.
    pub(super) fn wait(&mut self) {
        self.waits = Some(0);
    }

    /// The log applied the record with this number. One that came after another that was lost leaves that one's events untold (`on_change` in
    /// `replica`): they are taken back with the end.
    pub fn confirm(&mut self, seq: u32) {
        self.told.retain(|(told, ..)| *told != seq);
    }

    /// A snapshot took the place of the log: which records it has, it does not say.
    pub fn on_snapshot(&mut self, cx: &mut Context) {
        let recorded = {
            let replica = cx.replica();
            replica.call(self.uid).map(|entry| entry.state().seq)
        };
        self.told.retain(|(told, ..)| recorded.is_none_or(|seq| *told > seq));
        self.on_applied(cx);
    }

    /// The log applied something of this call: forgets what the replica now has.
    pub fn on_applied(&mut self, cx: &mut Context) {
        if self.placeless {
            return;
        }
        let recorded = {
            let replica = cx.replica();
            replica.call(self.uid).map(|c| {
                if !c.is_live() {
                    self.told.retain(|told| !stands(c, told));
                }
                (c.state().seq, !c.is_live())
            })
        };
        match recorded {
            Some((_, true)) if !self.told.is_empty() => {
                // The end came before what was to come before it.
                self.retract(cx);
                self.early = false;
                self.records.clear();
            }
            Some((_, true)) => self.records.clear(),
            Some((seq, false)) => {
                self.records.retain(|r| r.seq > seq || matches!(r.kind, Kind::End(_)));
                if self.waits.take().is_some() {
                    self.propose_all(cx);
                }
            }
            // Not even the claim: an entry of ours came through out of order.
            None => self.retry_later(cx),
        }
        if self.early {
            self.tell(cx);
        }
    }

    /// A proposal failed, or its fate is unknown.
    pub fn on_failed(&mut self, cx: &mut Context) {
        if !self.is_settled() {
            self.retry_later(cx);
            if !self.early {
                self.tell(cx);
            }
        }
    }

    /// Proposes again everything that is not applied, in order. Without a quorum it would fail again: that is tried ever more rarely.
    pub fn on_retry(&mut self, cx: &mut Context) {
        self.retry = None;
        if self.is_settled() {
            return;
        }
        if !cx.has_lease() {
            self.fruitless = self.fruitless.saturating_add(1);
            return self.retry_later(cx);
        }
        self.fruitless = 0;
        match &mut self.waits {
            None => self.propose_all(cx),
            Some(looks) if *looks >= LOOKS => self.leave(cx),
            Some(looks) => {
                *looks += 1;
                // It may be there already: nobody tells a call that has lost.
                self.on_applied(cx);
            }
        }
    }

    /// True for records that were proposed while there was no quorum, or that the log should have by now.
    pub fn is_overdue(&self, cx: &Context) -> bool {
        let late = |r: &JournalRecord| cx.now.mono.since(r.since) >= cx.config.settings.claim_budget;
        !self.is_settled() && (self.retry.is_some() || self.records.front().is_some_and(late))
    }

    /// There is a quorum again: what is overdue is proposed after that wait, not after the one that grew while there was none. A node that dies
    /// soon has told the log by then.
    pub fn on_lease(&mut self, cx: &mut Context, wait: Duration) {
        cx.stop_timer(&mut self.retry);
        self.fruitless = 0;
        self.retry = Some(cx.start_timer(wait, TimerUser::Call(self.id, CallTimer::Journal)));
    }

    fn propose_all(&self, cx: &mut Context) {
        for record in &self.records {
            cx.propose(self.id, record.at, record.kind.clone());
        }
    }

    /// Gives the log up for good: the claim is another call's, and no record of this one can take effect. The call itself goes on here.
    pub fn give_up(&mut self, cx: &mut Context) {
        self.placeless = true;
        if !self.records.is_empty() {
            self.tell(cx);
        }
    }

    /// The key is that of `winner`, and this call is served all the same: it is recorded beside that one, where the log has a place for it.
    pub(super) fn stand_beside(&mut self, cx: &mut Context, winner: CallUid) {
        let level = cx.replica().level();
        let claim = self.records.iter_mut().find_map(|r| if let Kind::Claim(claim) = &mut r.kind { Some(claim) } else { None });
        let Some(claim) = claim.filter(|_| level >= BESIDE_LEVEL) else { return self.give_up(cx) };
        claim.beside = winner.to_bytes().to_vec().into();
        (self.beside, self.placeless) = (true, false);
        if self.retry.is_none() {
            self.propose_all(cx);
        }
    }

    /// The same for a call that another node has.
    pub fn leave(&mut self, cx: &mut Context) {
        self.placeless = true;
        self.retract(cx);
        self.early = false;
        self.records.clear();
    }

    /// Its records are dropped, for there are too many of others.
    pub fn drop_records(&mut self, cx: &mut Context) {
        self.records.clear();
        self.told.clear();
        self.untell(cx);
    }

    fn retry_later(&mut self, cx: &mut Context) {
        if self.retry.is_none() {
            let wait = retry_after(self.fruitless, self.uid.serial);
            self.retry = Some(cx.start_timer(wait, TimerUser::Call(self.id, CallTimer::Journal)));
        }
    }
}

/// True when an event that was told is one of those that the log has of this call, which is over.
fn stands(entry: &CallEntry, (_, kind, _): &(u32, EventKind, String)) -> bool {
    match kind {
        EventKind::Received => true,
        EventKind::Ended => !entry.was_abandoned(),
        EventKind::Abandoned => entry.was_abandoned(),
        EventKind::Answered => entry.state().answered_unix_ms > 0,
        // Its record was applied, or it is not there: [`Journal::confirm`].
        _ => false,
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

    /// However long there was no quorum: when it is back, the wait is the one that is given, and the one before it is over.
    #[test]
    fn a_quorum_that_comes_back_ends_the_wait() {
        let mut cx = Context::for_tests();
        let uid = CallUid { node: crate::ids::NodeId(1), incarnation: crate::ids::Incarnation(1), serial: 7 };
        let mut journal = Journal::new(LocalId(7), uid);
        assert!(!journal.is_overdue(&cx), "there is nothing");
        journal.push(&mut cx, Kind::Notice(Default::default()));
        assert!(!journal.is_overdue(&cx), "the log has still time");
        journal.on_failed(&mut cx);
        for _ in 0..8 {
            cx.now.mono = cx.now.mono + MAX_RETRY;
            journal.on_retry(&mut cx);
        }
        assert!(journal.is_overdue(&cx) && journal.fruitless == 8);
        cx.view.lease_until = cx.now.mono + MAX_RETRY * 2;
        let (wait, retry) = (Duration::from_millis(5), TimerUser::Call(LocalId(7), CallTimer::Journal));
        journal.on_lease(&mut cx, wait);
        // Those of the retries above have not fired, for nobody has asked for them; the last one is taken back.
        let due = |cx: &mut Context, after: Duration| {
            let at = cx.now.mono + after;
            std::iter::from_fn(|| cx.timers.pop_expired(super::super::Lane::Ordinary, at)).filter(|t| *t == retry).count()
        };
        assert_eq!(due(&mut cx, Duration::ZERO), 8);
        assert_eq!(due(&mut cx, wait), 1);
        assert_eq!(due(&mut cx, MAX_RETRY), 0);
        while cx.poll_output().is_some() {}
        journal.on_retry(&mut cx);
        let said: Vec<Output> = std::iter::from_fn(|| cx.poll_output()).collect();
        assert!(said.iter().any(|out| matches!(out, Output::Propose { .. })), "{said:?}");
    }

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
