//! A called side that rings for long: how long it may, and what the caller hears meanwhile. People wait in a PSAP's queue for minutes.

use std::time::Duration;

use super::reliable::{Waiting, Wish};
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase};
use crate::dialog::PairId;
use crate::io::Side;
use crate::sip::Draft;

/// RFC 3261 §13.3.1.1: a provisional response each minute, lest the timer C of a proxy between the caller and us (§16.6: above three
/// minutes) ends the call.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// A provisional response as the caller had it, and can have it again.
#[derive(Debug)]
pub(super) struct Progress {
    draft: Draft,
    /// It was a reliable one (without its number and body here), in this early dialog.
    reliable: Option<PairId>,
}

impl Call {
    /// Timer C (RFC 3261 §16.6 step 11): each 101 to 199 of the called side starts it anew (§16.7 step 2).
    pub(super) fn restart_ring(&mut self, cx: &mut Services) {
        let settings = &cx.config.settings;
        let usual = if self.emergency { settings.emergency_ring_timeout } else { settings.ring_timeout };
        let ring = cx.config.trunk(&self.callee.trunk).and_then(|t| t.ring_timeout).unwrap_or(usual);
        let next = cx.start_timer(ring, Timer::Call(self.id, CallTimer::Ring));
        let mut old = self.timers.ring.replace(next);
        cx.stop_timer(&mut old);
    }

    /// The called side has rung long enough: another one, where there is one.
    pub(super) fn on_ring_timeout(&mut self, cx: &mut Services) {
        self.timers.ring = None;
        if !matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling) {
            return;
        }
        let next = self.phase == CallPhase::Dialling
            && !self.claim.is_ceded()
            && self.uac.held_answer().is_none()
            && self.uac.targets.has_untried();
        if !next {
            self.fail(cx, 480, "ring timeout");
            return;
        }
        self.uac.cancel(cx, Some("SIP;cause=408;text=\"ring timeout\""));
        self.uac.note_failure(480, None);
        self.try_dial(cx);
    }

    /// The caller was sent a provisional response.
    pub(super) fn note_progress(&mut self, cx: &mut Services, draft: Draft, reliable: Option<PairId>) {
        // 199 ends an early dialog (RFC 6228): said again it says nothing of the call.
        if draft.status() != Some(199) {
            self.progress = Some(Progress { draft, reliable });
        }
        let mut old = self.timers.progress.take();
        cx.stop_timer(&mut old);
        self.await_progress(cx);
    }

    /// From now on the caller is to hear something each minute.
    pub(super) fn await_progress(&mut self, cx: &mut Services) {
        if self.timers.progress.is_none() {
            let timer = Timer::Call(self.id, CallTimer::Progress);
            self.timers.progress = Some(cx.start_timer(PROGRESS_EVERY, timer));
        }
    }

    /// The caller has heard nothing for a minute: the last word again, or one of our own.
    pub(super) fn on_no_progress(&mut self, cx: &mut Services) {
        self.timers.progress = None;
        let Some(tx) = self.invite_tx.filter(|_| self.phase == CallPhase::Dialling) else { return };
        self.await_progress(cx);
        let lives = |p: &&Progress| p.reliable.is_none_or(|pair| self.pairs.lives(pair));
        let again = self.progress.as_ref().filter(lives).map(|p| (p.draft.clone(), p.reliable));
        let mut draft = match again {
            Some((draft, Some(pair))) => {
                // RFC 3262 §3: with a number of its own; while one waits for its PRACK, its copies are word enough.
                let sender = &mut self.pairs.early(pair).sender;
                if sender.open.is_none() {
                    sender.put(Waiting { draft, theirs: None, sdp: false });
                    self.send_reliable(cx, pair);
                }
                return;
            }
            Some((draft, None)) => draft,
            // A caller that takes reliable ones alone would need an early dialog for it: none has begun.
            None if Wish::of(&self.invite) == Wish::Required => return,
            None => {
                let mut draft = self.own_response(cx, self.pairs.current(), 183, None);
                self.put_session_id(Side::Caller, &mut draft);
                draft
            }
        };
        self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
        cx.respond(tx, &mut draft);
    }
}
