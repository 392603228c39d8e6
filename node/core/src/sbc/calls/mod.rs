//! The calls of this node: those that are up, and of those that are over what the log and late copies of their INVITE still need; with all
//! the ways to find one.

mod known;
mod source;
mod unrecorded;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::memory::{PastLadders, Recent};
use crate::call::{Call, Context, Ended, Journal, Ladder, Usage};
use crate::ids::{CallUid, LocalId, MediaId};
use crate::io::{Counter, DropReason};
use crate::time::Instant;

use unrecorded::Unrecorded;

/// When a quorum comes back, the records of one call after the other are proposed: five thousand calls, a node's share at a country's load, in
/// a second, and the most that may wait in four.
const PROPOSE_EVERY: Duration = Duration::from_micros(200);

/// All calls, each found by its place, its id, its claim or its media session.
pub(super) struct Calls {
    /// Not forgotten, each at its place.
    /// Boxed, for a table that grows moves what it holds.
    open: HashMap<LocalId, Box<Call>>,
    /// Of these, those that another start or another node began.
    elsewhere: HashMap<CallUid, LocalId>,
    by_claim: HashMap<[u8; 16], LocalId>,
    by_media: HashMap<MediaId, LocalId>,
    /// Calls that are over, and of which the log does not know it yet.
    unrecorded: Unrecorded,
    /// Claims of calls that this node has served, and forgotten (AC-55).
    served: Recent<[u8; 16], CallUid>,
    ladders: PastLadders,
    /// How many of each trunk are up.
    by_trunk: HashMap<Box<str>, u32>,
    /// How many are up, by class.
    active: BTreeMap<&'static str, u64>,
}

/// What a call leaves to others that has been worked on.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// It is over, or forgotten: it takes room from nobody any more.
    pub(super) over: bool,
    /// Its REFERs wait for their last NOTIFY (RFC 5057 §4.2).
    pub(super) usage: Option<Usage>,
}

impl Default for Calls {
    fn default() -> Calls {
        Calls {
            open: HashMap::new(),
            elsewhere: HashMap::new(),
            by_claim: HashMap::new(),
            by_media: HashMap::new(),
            unrecorded: Unrecorded::default(),
            served: Recent::default(),
            ladders: PastLadders::default(),
            by_trunk: HashMap::new(),
            active: [("none", 0), ("sos", 0)].into(),
        }
    }
}

impl Calls {
    /// The call at a place; also one that another node has won.
    pub(super) fn get(&self, id: LocalId) -> Option<&Call> {
        self.open.get(&id).map(|call| &**call)
    }

    pub(super) fn get_mut(&mut self, id: LocalId) -> Option<&mut Call> {
        self.open.get_mut(&id).map(|call| &mut **call)
    }

    /// The call of this node with that id.
    pub(super) fn own(&self, cx: &Context, uid: CallUid) -> Option<&Call> {
        self.get(self.place(cx, uid)?).filter(|call| !call.claim.is_lost())
    }

    /// Where what has that id is, or would be: what this start of the node began is where it began.
    pub(super) fn place(&self, cx: &Context, uid: CallUid) -> Option<LocalId> {
        if cx.is_own(uid) { Some(LocalId(uid.serial)) } else { self.elsewhere.get(&uid).copied() }
    }

    /// Where the call is that is over, of which the log does not know it, and that has that id.
    pub(super) fn unrecorded_place(&self, cx: &Context, uid: CallUid) -> Option<LocalId> {
        self.place(cx, uid).filter(|id| self.unrecorded.get(*id).is_some_and(|ended| ended.uid == uid))
    }

    /// The call of a claim, over or not.
    pub(super) fn of_claim(&self, key: &[u8; 16]) -> Option<LocalId> {
        self.by_claim.get(key).copied()
    }

    /// The call of a media session.
    pub(super) fn of_media(&self, media: MediaId) -> Option<LocalId> {
        self.by_media.get(&media).copied()
    }

    /// The journal of a call that is up or over.
    pub(super) fn journal_mut(&mut self, id: LocalId) -> Option<&mut Journal> {
        let open = self.open.get_mut(&id).map(|call| &mut call.records.journal);
        open.or_else(|| self.unrecorded.get_mut(id).map(|ended| &mut ended.journal))
    }

    /// Those that are up, and those that are over and wait for the log.
    pub(super) fn ids(&self) -> (Vec<LocalId>, Vec<LocalId>) {
        (self.open.keys().copied().collect(), self.unrecorded.ids())
    }

    /// All, and of these the ones that are over and wait for the log.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.open.len() + self.unrecorded.len(), self.unrecorded.len())
    }

    /// How many are up.
    pub(super) fn active(&self) -> u64 {
        self.active.values().sum()
    }

    /// The same by class.
    pub(super) fn by_class(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.active.iter().map(|(class, calls)| (*class, *calls))
    }

    /// How many of a trunk are up.
    pub(super) fn of_trunk(&self, trunk: &str) -> u32 {
        self.by_trunk.get(trunk).copied().unwrap_or(0)
    }

    /// The messages of a call, which may have ended lately.
    pub(super) fn ladder(&self, cx: &Context, uid: CallUid) -> Option<&Ladder> {
        self.own(cx, uid).map(|call| &call.sides.ladder).or_else(|| self.ladders.get(uid))
    }

    /// Files messages that were noted in the ladder of their call, or the memory of it.
    pub(super) fn file(&mut self, cx: &mut Context) {
        for note in cx.take_notes() {
            match self.open.get_mut(&note.call) {
                Some(call) => call.sides.ladder.add(note),
                None => self.ladders.add(note),
            }
        }
    }

    /// A call begins, or comes back, at its place.
    pub(super) fn insert(&mut self, cx: &Context, call: Call) {
        let id = call.about.id;
        if let Some(old) = self.open.remove(&id) {
            self.by_media.remove(&old.media.id());
            if old.counted {
                self.uncount(&old.sides.caller.trunk, old.about.class());
            }
        }
        if !cx.is_own(call.about.uid) {
            self.elsewhere.insert(call.about.uid, id);
        }
        self.by_claim.insert(call.about.claim_key.0, id);
        self.by_media.insert(call.media.id(), id);
        *self.by_trunk.entry(call.sides.caller.trunk.clone()).or_default() += 1;
        *self.active.entry(call.about.class()).or_default() += 1;
        self.open.insert(id, Box::new(call));
    }

    fn uncount(&mut self, trunk: &str, class: &'static str) {
        if let Some(calls) = self.active.get_mut(class) {
            *calls = calls.saturating_sub(1);
        }
        if let Some(calls) = self.by_trunk.get_mut(trunk) {
            *calls = calls.saturating_sub(1);
            if *calls == 0 {
                self.by_trunk.remove(trunk);
            }
        }
    }

    /// Works on a call, and forgets it when it is done. `None`: there is none.
    pub(super) fn with<R>(
        &mut self,
        cx: &mut Context,
        id: LocalId,
        f: impl FnOnce(&mut Call, &mut Context) -> R,
    ) -> Option<(R, Left)> {
        let call = self.open.get_mut(&id)?;
        let result = f(call, cx);
        let mut left = Left { over: false, usage: call.take_usage() };
        let done = call.is_done();
        if call.phase.is_over() && std::mem::take(&mut call.counted) {
            // A limit is for calls that are up; what the log has to hear of others, it may hear late.
            let (trunk, class) = (call.sides.caller.trunk.clone(), call.about.class());
            self.uncount(&trunk, class);
            left.over = true;
        }
        if done {
            left.over |= self.forget(cx, id);
        }
        Some((result, left))
    }

    /// A call is done. What the log has still to hear of it is kept. True: it was counted until now.
    fn forget(&mut self, cx: &mut Context, id: LocalId) -> bool {
        let Some(call) = self.open.remove(&id) else { return false };
        cx.timers.remove_call(id);
        let counted = call.counted;
        if counted {
            self.uncount(&call.sides.caller.trunk, call.about.class());
        }
        self.by_media.remove(&call.media.id());
        let lost = call.claim.is_lost();
        let (ended, ladder) = Ended::of(*call);
        if !lost {
            self.ladders.keep(id, ended.uid, ladder);
            if !ended.failed && !ended.abandoned {
                self.served.keep(cx.now.mono, ended.claim_key.0, ended.uid);
            }
        }
        if ended.journal.is_settled() {
            self.release(&ended);
        } else if let Some(mut dropped) = self.unrecorded.keep(id, ended) {
            dropped.journal.drop_records(cx);
            cx.count(Counter::Dropped(DropReason::UnsettledCall));
            self.release(&dropped);
        }
        counted
    }

    /// Nothing of a call is left: its claim and its id lead nowhere, or to a later call.
    fn release(&mut self, ended: &Ended) {
        if self.elsewhere.get(&ended.uid) == Some(&ended.id) {
            self.elsewhere.remove(&ended.uid);
        }
        if self.by_claim.get(&ended.claim_key.0) == Some(&ended.id) {
            self.by_claim.remove(&ended.claim_key.0);
        }
    }

    /// Works on the records of a call that is over, and forgets them when the log has them.
    pub(super) fn with_unrecorded(&mut self, cx: &mut Context, id: LocalId, f: impl FnOnce(&mut Ended, &mut Context)) {
        let Some(ended) = self.unrecorded.get_mut(id) else { return };
        f(ended, cx);
        if ended.journal.is_settled()
            && let Some(ended) = self.unrecorded.remove(id)
        {
            self.release(&ended);
        }
    }

    /// There is a quorum again: what the log has not heard is proposed one call after the other, those that are up first, and of these, as of
    /// the others, the emergency calls.
    pub(super) fn on_lease(&mut self, cx: &mut Context) {
        let up = self.open.iter().filter(|(_, call)| call.records.journal.is_overdue(cx));
        let mut up: Vec<_> = up.map(|(id, call)| (!call.about.emergency, *id)).collect();
        up.sort_unstable();
        let over = self.unrecorded.ids().into_iter();
        let over = over.filter(|id| self.unrecorded.get(*id).is_some_and(|ended| ended.journal.is_overdue(cx)));
        let mut wait = Duration::ZERO;
        for id in up.into_iter().map(|(_, id)| id).chain(over).collect::<Vec<_>>() {
            let Some(journal) = self.journal_mut(id) else { continue };
            journal.on_lease(cx, wait);
            wait += PROPOSE_EVERY;
        }
    }

    /// Forgets what was served too long ago.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.served.sweep(now);
    }
}

#[cfg(test)]
impl Calls {
    /// As if a call of that trunk were up.
    pub(super) fn pretend(&mut self, trunk: &str) {
        *self.by_trunk.entry(trunk.into()).or_default() += 1;
    }
}
