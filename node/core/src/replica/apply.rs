//! Applying entries: one function a command.

use std::sync::Arc;

use bytes::Bytes;

use super::blocks::BlockLog;
use super::config_log::Applied;
use super::level::{self, level_of};
use super::records::{DURATIONS, cdr, detached, detached_leg, moment};
use super::{
    ApplyError, BESIDE_LEVEL, BUDGETS_LEVEL, CDR_LIMITS, CLAIM_RETENTION_MS, CallEntry, EMERGENCY_CDR_LIMITS, ENTRY_VERSION,
    EVENT_LIMITS, Effect, MAX_COMMANDS, ORDINARY_EVENT_LIMITS, OWNER_LOST_LEVEL, Phase, REVISIONS_PER_ENTRY, Replica,
    StaleReason, UNCOMMITTED_LEVEL,
};
use crate::ids::{CallUid, NodeId};
use crate::store_pb::command::Kind;
use crate::store_pb::{
    Alarm, Answer, Cdr, Claim, Command, ConfigRevision, ConfirmConfig, DialogRecord, End, EndCause, Entry, Event, EventKind,
    MediaTotals, Notice, Progress, Refresh,
};

/// The level of the log from which on configurations can wait for a confirmation.
const CONFIRM_LEVEL: u32 = 2;

/// What one entry has done so far.
pub(super) struct Run {
    index: u64,
    /// Next free position among the entry's revisions.
    position: u64,
    pub(super) effects: Vec<Effect>,
}

impl Run {
    fn revision(&mut self) -> u64 {
        let revision = self.index * REVISIONS_PER_ENTRY + self.position;
        self.position += 1;
        revision
    }

    fn is_full(&self) -> bool {
        self.position >= REVISIONS_PER_ENTRY
    }

    pub(super) fn stale(&mut self, call: Option<CallUid>, reason: StaleReason) {
        self.effects.push(Effect::Stale { call, reason });
    }
}

/// The end of a call.
struct Over {
    cause: EndCause,
    media: MediaTotals,
    /// When, as its record says it.
    ended: u64,
}

/// Which of the three dialog records a command is.
enum Change<'a> {
    Progress(&'a Progress),
    Answer(&'a Answer),
    Refresh(&'a Refresh),
    Notice(&'a Notice),
}

impl Replica {
    /// Applies one committed entry. An entry at or below [`Replica::applied_index`] was applied before and changes nothing.
    ///
    /// On an error nothing has changed, and the node must stop: it must not go on with the next entry.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Result<Vec<Effect>, ApplyError> {
        if index <= self.applied_index {
            return Ok(Vec::new());
        }
        check(index, entry)?;
        level::check(index, entry, self.knows)?;
        let mut run = Run { index, position: 0, effects: Vec::new() };
        for command in &entry.commands {
            self.command(&mut run, command);
        }
        self.roll_back(&mut run);
        if self.level() < OWNER_LOST_LEVEL {
            self.end_orphans(&mut run);
        }
        self.expire(&mut run);
        if self.blocks.expire(self.clock_ms) {
            run.effects.push(Effect::Blocks);
        }
        self.applied_index = index;
        Ok(run.effects)
    }

    fn command(&mut self, run: &mut Run, command: &Command) {
        let at = self.advance(command);
        // `check` has seen to it that there is one.
        let Some(kind) = &command.kind else { return };
        if level_of(kind) > self.level {
            return run.stale(None, StaleReason::Level);
        }
        match kind {
            Kind::Claim(c) => self.on_claim(run, c, at),
            Kind::Progress(c) => self.on_change(run, Change::Progress(c), at),
            Kind::Answer(c) => self.on_change(run, Change::Answer(c), at),
            Kind::Refresh(c) => self.on_change(run, Change::Refresh(c), at),
            Kind::Notice(c) => self.on_change(run, Change::Notice(c), at),
            Kind::End(c) => self.on_end(run, c, at),
            Kind::Config(c) => self.on_config(run, c, at),
            Kind::NodeUp(c) => self.on_node_up(run, c, at),
            Kind::Readmit(c) => self.on_readmit(run, c.node),
            Kind::Block(b) => self.on_blocks(run, |blocks| blocks.block(b, at)),
            Kind::Unblock(u) => self.on_blocks(run, |blocks| blocks.unblock(&u.prefix)),
            Kind::Level(l) => self.on_level(run, l.level),
            Kind::Alarm(a) => self.on_alarm(run, a, at),
            Kind::ConfirmConfig(c) => self.on_confirm(run, c, at),
            Kind::Withdraw(w) => self.on_withdraw(w).unwrap_or_else(|reason| run.stale(None, reason)),
            Kind::NodeReport(r) => self.on_node_report(r).unwrap_or_else(|reason| run.stale(None, reason)),
            Kind::Tick(_) => {}
            Kind::NodeDown(c) => self.on_node_down(run, *c, at),
            Kind::NodeBack(c) => self.on_node_back(run, *c, at),
            Kind::Adopt(c) => self.on_adopt(run, c, at),
        }
    }

    /// `check` has seen to it that this node knows it.
    fn on_level(&mut self, run: &mut Run, level: u32) {
        if level <= self.level {
            return run.stale(None, StaleReason::Level);
        }
        self.level = level;
        if level >= BUDGETS_LEVEL {
            self.events.split(ORDINARY_EVENT_LIMITS, EVENT_LIMITS);
            self.cdrs.split(CDR_LIMITS, EMERGENCY_CDR_LIMITS);
        }
        run.effects.push(Effect::Level(level));
    }

    fn on_alarm(&mut self, run: &mut Run, alarm: &Alarm, at: u64) {
        // One that arose before the node started again says nothing of the node that it is now.
        let node = u16::try_from(alarm.node).map(NodeId);
        if node.is_ok_and(|n| self.nodes.get(&n).is_some_and(|now| now.incarnation > alarm.incarnation)) {
            return run.stale(None, StaleReason::OldIncarnation);
        }
        if !self.alarms.change(alarm, at) {
            return run.stale(None, StaleReason::SameAlarm);
        }
        let kind = if alarm.raised { EventKind::AlarmRaised } else { EventKind::AlarmCleared };
        let (name, detail) = (alarm.kind.clone(), alarm.detail.clone());
        self.event(run, Event { kind: kind.into(), unix_ms: at, node: alarm.node, alarm: name, detail, ..Event::default() });
    }

    fn on_claim(&mut self, run: &mut Run, claim: &Claim, at: u64) {
        let ids = (CallUid::from_bytes(&claim.call), <[u8; 16]>::try_from(&claim.key[..]), u16::try_from(claim.owner));
        let (Some(uid), Ok(key), Ok(owner)) = ids else { return run.stale(ids.0, StaleReason::Malformed) };
        if owner == 0 || claim.epoch == 0 || claim.packet_key.len() != 16 {
            return run.stale(Some(uid), StaleReason::Malformed);
        }
        let beside = self.level() >= BESIDE_LEVEL && !claim.beside.is_empty();
        if let Some(winner) = self.claim(&key).filter(|winner| !beside || winner.uid == uid) {
            let won = winner.uid == uid;
            let same_packet = winner.packet_key() == &claim.packet_key[..];
            return run.effects.push(Effect::Claimed { call: uid, won, winner: winner.uid, same_packet });
        }
        if self.calls.contains_key(&uid) {
            // The same call under another key: no node does that.
            return run.stale(Some(uid), if beside { StaleReason::Replay } else { StaleReason::Malformed });
        }
        let mut entry = CallEntry::claimed(uid, key, claim, at);
        entry.state_mut().lost_unix_ms = self.down_since(NodeId(owner)).unwrap_or(0);
        self.live += 1;
        // Proposed before the owner started again, committed after: it is recorded, and ends with this entry.
        if self.is_orphan(&entry) {
            self.orphans.insert(uid);
        }
        self.place(run, entry);
        run.effects.push(match beside {
            true => Effect::Recorded { call: uid, seq: 0 },
            false => Effect::Claimed { call: uid, won: true, winner: uid, same_packet: true },
        });
        self.call_event(run, uid, (EventKind::Received, 1), at);
    }

    fn on_change(&mut self, run: &mut Run, change: Change<'_>, at: u64) {
        let (call, epoch, seq) = match &change {
            Change::Progress(c) => (&c.call, c.epoch, c.seq),
            Change::Answer(c) => (&c.call, c.epoch, c.seq),
            Change::Refresh(c) => (&c.call, c.epoch, c.seq),
            Change::Notice(c) => (&c.call, c.epoch, c.seq),
        };
        let Some(uid) = CallUid::from_bytes(call) else { return run.stale(None, StaleReason::Malformed) };
        let level = self.level();
        let Some(entry) = self.calls.get_mut(&uid) else { return run.stale(Some(uid), StaleReason::UnknownCall) };
        if !entry.is_live() {
            return run.stale(Some(uid), StaleReason::Ended);
        }
        if epoch != entry.state().epoch {
            return run.stale(Some(uid), StaleReason::Fenced);
        }
        let answered = entry.phase() == Phase::Answered;
        if seq <= entry.state().seq || (answered && matches!(change, Change::Progress(_))) {
            return run.stale(Some(uid), StaleReason::Replay);
        }
        let entry = Arc::make_mut(entry);
        let old = entry.callee().cloned();
        entry.state_mut().seq = seq;
        let event = match change {
            Change::Progress(p) => progress(entry, p, moment(level, entry.state(), p.after_ms, at)),
            Change::Answer(a) => {
                entry.state_mut().dialog = a.dialog.as_ref().map(detached);
                if answered {
                    // The first one that is not a Refresh's own.
                    Some((EventKind::Updated, 0))
                } else {
                    entry.set_phase(Phase::Answered);
                    entry.state_mut().answered_unix_ms = moment(level, entry.state(), a.after_ms, at);
                    Some((EventKind::Answered, 1))
                }
            }
            Change::Refresh(r) => {
                entry.state_mut().dialog = r.dialog.as_ref().map(detached);
                Some((EventKind::Updated, r.number))
            }
            Change::Notice(_) => None,
        };
        self.legs.insert(uid, old.as_ref(), entry.callee());
        run.effects.push(Effect::Recorded { call: uid, seq });
        if let Some(event) = event {
            self.call_event(run, uid, event, at);
        }
        if let Change::Notice(notice) = change {
            let kinds = [
                (notice.location, (EventKind::LocationUpdated, notice.location_number)),
                (notice.data, (EventKind::AdditionalData, notice.data_number)),
            ];
            for (_, kind) in kinds.into_iter().filter(|(there, _)| *there) {
                // A copy: the record shares the buffer of its whole batch.
                self.message_event(run, uid, kind, at, Bytes::copy_from_slice(&notice.message));
            }
        }
    }

    fn on_end(&mut self, run: &mut Run, end: &End, at: u64) {
        let Some(uid) = CallUid::from_bytes(&end.call) else { return run.stale(None, StaleReason::Malformed) };
        let Some(entry) = self.calls.get(&uid) else { return run.stale(Some(uid), StaleReason::UnknownCall) };
        if !entry.is_live() {
            return run.stale(Some(uid), StaleReason::Ended);
        }
        if end.epoch != entry.state().epoch {
            return run.stale(Some(uid), StaleReason::Fenced);
        }
        if self.level() >= DURATIONS && entry.phase() != Phase::Answered {
            self.answer_by_end(run, uid, end);
        }
        let Some(state) = self.calls.get(&uid).map(|entry| entry.state()) else { return };
        let talked = end.duration_ms.filter(|_| self.level() >= DURATIONS && state.answered_unix_ms > 0);
        let ended = match talked {
            Some(ms) => state.answered_unix_ms.saturating_add(ms),
            // Of a call whose owner has started again, nobody knows better.
            None if end.after_ms.is_none() && state.lost_unix_ms > 0 => state.lost_unix_ms,
            None => moment(self.level(), state, end.after_ms, at),
        };
        let over = Over { cause: end.cause.clone().unwrap_or_default(), media: end.media.unwrap_or_default(), ended };
        self.finish(run, uid, over, at);
    }

    /// Of a call that was answered, and whose Answer is not here, for it failed or comes later: its end says when that was.
    fn answer_by_end(&mut self, run: &mut Run, uid: CallUid, end: &End) {
        let (Some(after), Some(talked)) = (end.after_ms, end.duration_ms) else { return };
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return };
        let answered = entry.state().claimed_unix_ms.saturating_add(after.saturating_sub(talked));
        entry.set_phase(Phase::Answered);
        entry.state_mut().answered_unix_ms = answered;
        self.call_event(run, uid, (EventKind::Answered, 1), answered);
    }

    /// Ends a live call: phase, event, the one CDR.
    fn finish(&mut self, run: &mut Run, uid: CallUid, over: Over, at: u64) {
        let Over { cause, media, ended } = over;
        let (clock, level) = (self.clock_ms, self.level());
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut).filter(|e| e.is_live()) else { return };
        let abandoned = entry.phase() != Phase::Answered && cause.origin == "caller";
        if let Some(leg) = entry.callee() {
            self.legs.remove(uid, leg);
        }
        entry.set_phase(Phase::Ended);
        let state = entry.state_mut();
        state.ended_unix_ms = ended.max(state.claimed_unix_ms).max(state.answered_unix_ms);
        state.ended_log_ms = clock;
        state.cause = Some(cause);
        self.ended.insert((clock, uid));
        self.orphans.remove(&uid);
        self.live -= 1;
        run.effects.push(Effect::Ended { call: uid });
        let revision = self.call_event(run, uid, (if abandoned { EventKind::Abandoned } else { EventKind::Ended }, 1), at);
        let due = self.on_ended(uid);
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return };
        let state = entry.state_mut();
        let recorded_unix_ms = if level >= DURATIONS { clock } else { 0 };
        if due {
            self.cdrs.push(Cdr { recorded_unix_ms, ..cdr(revision, state, media) });
        }
        // What only a live call needs.
        state.dialog = None;
        if let Some(claim) = &mut state.claim {
            claim.invite = Bytes::new();
        }
    }

    fn on_config(&mut self, run: &mut Run, command: &ConfigRevision, at: u64) {
        let request_id = command.request_id.clone();
        match self.config.apply(command, at, self.clock_ms, self.level() >= CONFIRM_LEVEL) {
            Applied::New => self.changed_config(run, EventKind::Config, request_id, at),
            Applied::Repeated(revision) => run.effects.push(Effect::ConfigRepeated { request_id, revision }),
            Applied::Refused => run.effects.push(Effect::ConfigRefused { request_id, current: self.config.revision() }),
        }
    }

    fn on_confirm(&mut self, run: &mut Run, command: &ConfirmConfig, at: u64) {
        if !self.config.confirm(command, at) {
            run.stale(None, StaleReason::NothingToConfirm);
        }
    }

    /// Takes a configuration back that nobody has confirmed in time.
    fn roll_back(&mut self, run: &mut Run) {
        if self.config.expire(self.clock_ms) {
            self.changed_config(run, EventKind::ConfigRolledBack, String::new(), self.clock_ms);
        }
    }

    fn changed_config(&mut self, run: &mut Run, kind: EventKind, request_id: String, at: u64) {
        let (revision, text) = (self.config.revision(), self.config.text().to_owned());
        run.effects.push(Effect::Config { revision, text, request_id });
        self.event(run, Event { kind: kind.into(), unix_ms: at, config_revision: revision, ..Event::default() });
    }

    fn on_blocks(&mut self, run: &mut Run, change: impl FnOnce(&mut BlockLog) -> bool) {
        if change(&mut self.blocks) { run.effects.push(Effect::Blocks) } else { run.stale(None, StaleReason::NoBlock) }
    }

    /// Ends calls whose owner lost them by starting again, as many as this entry has revisions left; the rest with the next.
    fn end_orphans(&mut self, run: &mut Run) {
        let at = self.clock_ms;
        while !run.is_full() {
            let Some(uid) = self.orphans.pop_first() else { return };
            let cause = EndCause { origin: "node".to_owned(), status: 0, reason: "owner restarted".to_owned(), q850: 0 };
            self.finish(run, uid, Over { cause, media: MediaTotals::default(), ended: at }, at);
        }
    }

    /// Forgets ended calls after their retention, and old events and CDRs.
    fn expire(&mut self, run: &mut Run) {
        while let Some((ended, uid)) = self.ended.first().copied() {
            // A CDR takes a revision.
            if ended.saturating_add(CLAIM_RETENTION_MS) > self.clock_ms || run.is_full() {
                break;
            }
            self.ended.pop_first();
            if let Some(state) = self.forget(uid) {
                let recorded_unix_ms = self.clock_ms;
                self.cdrs.push(Cdr { recorded_unix_ms, ..cdr(run.revision(), &state, MediaTotals::default()) });
            }
        }
        self.events.compact(self.clock_ms);
        self.cdrs.compact(self.clock_ms);
    }

    /// Derives an event of a call, with the call's next sequence number.
    pub(super) fn call_event(&mut self, run: &mut Run, uid: CallUid, kind: (EventKind, u32), at: u64) -> u64 {
        let claim = self.calls.get(&uid).filter(|_| kind.0 == EventKind::Received).map(|c| c.claim().invite.clone());
        self.message_event(run, uid, kind, at, claim.unwrap_or_default())
    }

    /// The same with the message that brought it.
    fn message_event(&mut self, run: &mut Run, uid: CallUid, kind: (EventKind, u32), at: u64, message: Bytes) -> u64 {
        let kind_number = if self.level() >= UNCOMMITTED_LEVEL { kind.1 } else { 0 };
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return 0 };
        entry.state_mut().event_sequence += 1;
        let state = entry.state();
        let claim = entry.claim();
        let event = Event {
            kind: kind.0.into(),
            kind_number,
            unix_ms: at,
            call: claim.call.clone(),
            call_sequence: state.event_sequence,
            node: state.owner,
            epoch: state.epoch,
            emergency: claim.emergency,
            parties: claim.parties.clone(),
            cause: state.cause.clone(),
            target: state.target.clone(),
            invite: message,
            emergency_info: claim.emergency_info.clone(),
            ..Event::default()
        };
        let revision = self.event(run, event);
        if let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) {
            entry.state_mut().revision = revision;
        }
        revision
    }

    pub(super) fn event(&mut self, run: &mut Run, mut event: Event) -> u64 {
        let revision = run.revision();
        event.revision = revision;
        self.events.push(event);
        run.effects.push(Effect::Event(revision));
        revision
    }
}

/// Refuses what this node does not know, before anything changes.
fn check(index: u64, entry: &Entry) -> Result<(), ApplyError> {
    if entry.version != ENTRY_VERSION {
        return Err(ApplyError::UnknownVersion { index, version: entry.version, known: ENTRY_VERSION });
    }
    if entry.commands.len() > MAX_COMMANDS {
        return Err(ApplyError::TooManyCommands { index, commands: entry.commands.len() });
    }
    match entry.commands.iter().position(|c| c.kind.is_none()) {
        Some(position) => Err(ApplyError::UnknownCommand { index, position }),
        None => Ok(()),
    }
}

/// A call is asked at a target, or rings there. The first 18x makes the one RINGING event.
fn progress(entry: &mut CallEntry, progress: &Progress, at: u64) -> Option<(EventKind, u32)> {
    let state = entry.state_mut();
    state.target = progress.target.clone();
    if let Some(callee) = &progress.callee {
        let dialog = state.dialog.get_or_insert_with(DialogRecord::default);
        dialog.callee = Some(detached_leg(callee));
    }
    if !(180..200).contains(&progress.status) || entry.phase() != Phase::Trying {
        return None;
    }
    entry.set_phase(Phase::Ringing);
    entry.state_mut().ringing_unix_ms = at;
    Some((EventKind::Ringing, 1))
}
