//! Applying entries: one function a command.

use std::sync::Arc;

use bytes::Bytes;

use super::blocks::BlockLog;
use super::config_log::Applied;
use super::level::{self, level_of};
use super::{
    ApplyError, BUDGETS_LEVEL, CDR_LIMITS, CLAIM_RETENTION_MS, CallEntry, EMERGENCY_CDR_LIMITS, ENTRY_VERSION, EVENT_LIMITS,
    Effect, MAX_COMMANDS, ORDINARY_EVENT_LIMITS, Phase, REVISIONS_PER_ENTRY, Replica, StaleReason,
};
use crate::ids::{CallUid, Incarnation, NodeId};
use crate::store_pb::command::Kind;
use crate::store_pb::{
    Alarm, Answer, CallState, Cdr, Claim, Command, ConfigRevision, ConfirmConfig, DialogRecord, End, EndCause, Entry, Event,
    EventKind, LegRecord, MediaTotals, NodeUp, Notice, Progress, Refresh,
};

/// The level of the log from which on configurations can wait for a confirmation.
const CONFIRM_LEVEL: u32 = 2;

/// What one entry has done so far.
struct Run {
    index: u64,
    /// Next free position among the entry's revisions.
    position: u64,
    effects: Vec<Effect>,
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

    fn stale(&mut self, call: Option<CallUid>, reason: StaleReason) {
        self.effects.push(Effect::Stale { call, reason });
    }
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
        self.end_orphans(&mut run);
        self.expire();
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
        if owner == 0 || claim.epoch == 0 || claim.exact.len() != 16 {
            return run.stale(Some(uid), StaleReason::Malformed);
        }
        if let Some(winner) = self.claim(&key) {
            let won = winner.uid == uid;
            let exact_match = winner.exact() == &claim.exact[..];
            return run.effects.push(Effect::Claimed { call: uid, won, winner: winner.uid, exact_match });
        }
        if self.calls.contains_key(&uid) {
            // The same call under another key: no node does that.
            return run.stale(Some(uid), StaleReason::Malformed);
        }
        let entry = CallEntry::claimed(uid, key, claim, at);
        self.by_key.insert(key, uid);
        self.live += 1;
        // Proposed before the owner started again, committed after: it is recorded, and ends with this entry.
        if self.is_orphan(&entry) {
            self.orphans.insert(uid);
        }
        self.calls.insert(uid, Arc::new(entry));
        run.effects.push(Effect::Claimed { call: uid, won: true, winner: uid, exact_match: true });
        self.call_event(run, uid, EventKind::Received, at);
    }

    fn on_change(&mut self, run: &mut Run, change: Change<'_>, at: u64) {
        let (call, epoch, seq) = match &change {
            Change::Progress(c) => (&c.call, c.epoch, c.seq),
            Change::Answer(c) => (&c.call, c.epoch, c.seq),
            Change::Refresh(c) => (&c.call, c.epoch, c.seq),
            Change::Notice(c) => (&c.call, c.epoch, c.seq),
        };
        let Some(uid) = CallUid::from_bytes(call) else { return run.stale(None, StaleReason::Malformed) };
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
            Change::Progress(p) => progress(entry, p, at),
            Change::Answer(a) => {
                entry.state_mut().dialog = a.dialog.as_ref().map(detached);
                if answered {
                    Some(EventKind::Updated)
                } else {
                    entry.set_phase(Phase::Answered);
                    entry.state_mut().answered_unix_ms = at;
                    Some(EventKind::Answered)
                }
            }
            Change::Refresh(r) => {
                entry.state_mut().dialog = r.dialog.as_ref().map(detached);
                Some(EventKind::Updated)
            }
            Change::Notice(_) => None,
        };
        self.legs.insert(uid, old.as_ref(), entry.callee());
        run.effects.push(Effect::Recorded { call: uid, seq });
        if let Some(kind) = event {
            self.call_event(run, uid, kind, at);
        }
        if let Change::Notice(notice) = change {
            let kinds = [(notice.location, EventKind::LocationUpdated), (notice.data, EventKind::AdditionalData)];
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
        self.finish(run, uid, end.cause.clone().unwrap_or_default(), end.media.unwrap_or_default(), at);
    }

    /// Ends a live call: phase, event, the one CDR.
    fn finish(&mut self, run: &mut Run, uid: CallUid, cause: EndCause, media: MediaTotals, at: u64) {
        let clock = self.clock_ms;
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut).filter(|e| e.is_live()) else { return };
        let abandoned = entry.phase() != Phase::Answered && cause.origin == "caller";
        if let Some(leg) = entry.callee() {
            self.legs.remove(uid, leg);
        }
        entry.set_phase(Phase::Ended);
        let state = entry.state_mut();
        state.ended_unix_ms = at.max(state.claimed_unix_ms).max(state.answered_unix_ms);
        state.ended_log_ms = clock;
        state.cause = Some(cause);
        self.ended.insert((clock, uid));
        self.orphans.remove(&uid);
        self.live -= 1;
        run.effects.push(Effect::Ended { call: uid });
        let revision = self.call_event(run, uid, if abandoned { EventKind::Abandoned } else { EventKind::Ended }, at);
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return };
        let state = entry.state_mut();
        self.cdrs.push(cdr(revision, state, media));
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

    fn on_node_up(&mut self, run: &mut Run, up: &NodeUp, at: u64) {
        let (Ok(node @ 1..), incarnation @ 1..) = (u16::try_from(up.node), up.incarnation) else {
            return run.stale(None, StaleReason::Malformed);
        };
        let (node, incarnation) = (NodeId(node), Incarnation(incarnation));
        let data_id = if self.level >= 2 { Bytes::copy_from_slice(&up.data_id) } else { Bytes::new() };
        if let Some(known) = self.nodes.get_mut(&node) {
            if !known.vacant && !known.data_id.is_empty() && known.data_id != data_id {
                return run.stale(None, StaleReason::OtherData);
            }
            if known.incarnation == incarnation.0 && known.data_id.is_empty() && !data_id.is_empty() && !known.vacant {
                // It started before the log had reached the level of data ids.
                known.data_id = data_id;
                return;
            }
            if known.incarnation >= incarnation.0 {
                return run.stale(None, StaleReason::OldIncarnation);
            }
        }
        self.nodes.insert(node, NodeUp { node: up.node, incarnation: up.incarnation, data_id, vacant: false });
        self.alarms.forget(node);
        self.announcers.forget(node);
        let orphans: Vec<CallUid> =
            self.calls.values().filter(|c| c.is_live() && c.owner() == node && self.is_orphan(c)).map(|c| c.uid).collect();
        self.orphans.extend(orphans);
        run.effects.push(Effect::NodeUp { node, incarnation });
        self.event(run, Event { kind: EventKind::NodeUp.into(), unix_ms: at, node: up.node, ..Event::default() });
    }

    /// The node's next start brings a new log directory.
    fn on_readmit(&mut self, run: &mut Run, node: u32) {
        let known = u16::try_from(node).ok().and_then(|n| self.nodes.get_mut(&NodeId(n)));
        let Some(known) = known else { return run.stale(None, StaleReason::Malformed) };
        known.vacant = true;
        known.data_id = Bytes::new();
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
            self.finish(run, uid, cause, MediaTotals::default(), at);
        }
    }

    /// Forgets ended calls after their retention, and old events and CDRs.
    fn expire(&mut self) {
        while let Some((ended, uid)) = self.ended.first().copied() {
            if ended.saturating_add(CLAIM_RETENTION_MS) > self.clock_ms {
                break;
            }
            self.ended.pop_first();
            if let Some(entry) = self.calls.remove(&uid) {
                self.by_key.remove(&entry.claim_key);
            }
        }
        self.events.compact(self.clock_ms);
        self.cdrs.compact(self.clock_ms);
    }

    /// Derives an event of a call, with the call's next sequence number.
    fn call_event(&mut self, run: &mut Run, uid: CallUid, kind: EventKind, at: u64) -> u64 {
        let claim = self.calls.get(&uid).filter(|_| kind == EventKind::Received).map(|c| c.claim().invite.clone());
        self.message_event(run, uid, kind, at, claim.unwrap_or_default())
    }

    /// The same with the message that brought it.
    fn message_event(&mut self, run: &mut Run, uid: CallUid, kind: EventKind, at: u64, message: Bytes) -> u64 {
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return 0 };
        entry.state_mut().event_sequence += 1;
        let state = entry.state();
        let claim = entry.claim();
        let event = Event {
            kind: kind.into(),
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

    fn event(&mut self, run: &mut Run, mut event: Event) -> u64 {
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
fn progress(entry: &mut CallEntry, progress: &Progress, at: u64) -> Option<EventKind> {
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
    Some(EventKind::Ringing)
}

fn cdr(revision: u64, state: &CallState, media: MediaTotals) -> Cdr {
    let claim = state.claim.as_ref();
    Cdr {
        revision,
        call: claim.map(|c| c.call.clone()).unwrap_or_default(),
        owner: state.owner,
        epoch: state.epoch,
        emergency: claim.is_some_and(|c| c.emergency),
        trunk: claim.map(|c| c.trunk.clone()).unwrap_or_default(),
        target: state.target.clone(),
        parties: claim.and_then(|c| c.parties.clone()),
        received_unix_ms: state.claimed_unix_ms,
        ringing_unix_ms: state.ringing_unix_ms,
        answered_unix_ms: state.answered_unix_ms,
        ended_unix_ms: state.ended_unix_ms,
        cause: state.cause.clone(),
        media: Some(media),
        emergency_info: claim.and_then(|c| c.emergency_info.clone()),
    }
}

/// Octet fields of a decoded entry share its whole buffer: what is kept must not.
fn detached(dialog: &DialogRecord) -> DialogRecord {
    DialogRecord {
        caller: dialog.caller.as_ref().map(detached_leg),
        callee: dialog.callee.as_ref().map(detached_leg),
        media_profile: dialog.media_profile.clone(),
    }
}

fn detached_leg(leg: &LegRecord) -> LegRecord {
    LegRecord {
        local_sdp: Bytes::copy_from_slice(&leg.local_sdp),
        remote_sdp: Bytes::copy_from_slice(&leg.remote_sdp),
        ..leg.clone()
    }
}
