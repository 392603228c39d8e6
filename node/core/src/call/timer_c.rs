//! A called side that rings for long: how long it may, and what the caller hears meanwhile. People wait in a PSAP's queue for minutes.

use std::time::Duration;

use super::context::Context;
use super::timer::{CallTimer, TimerUser};
use crate::dialog::PairId;
use crate::ids::LocalId;
use crate::sip::Draft;
use crate::timer::TimerId;

/// RFC 3261 §13.3.1.1: a provisional response each minute, lest the timer C of a proxy between the caller and us (§16.6: above three
/// minutes) ends the call.
const PROGRESS_EVERY: Duration = Duration::from_secs(60);

/// A provisional response as the caller had it, and can have it again.
#[derive(Debug)]
struct Progress {
    draft: Draft,
    /// It was a reliable one (without its number and body here), in this early dialog.
    reliable: Option<PairId>,
}

/// How long the called side has rung, and what the caller last heard of it.
#[derive(Debug)]
pub(super) struct Ringing {
    call: LocalId,
    emergency: bool,
    /// Timer C.
    ring: Option<TimerId>,
    /// The caller is to hear something.
    word: Option<TimerId>,
    last: Option<Progress>,
    /// The log was told that it rings.
    told: bool,
}

impl Ringing {
    pub(super) fn new(call: LocalId, emergency: bool) -> Ringing {
        Ringing { call, emergency, ring: None, word: None, last: None, told: false }
    }

    /// Timer C (RFC 3261 §16.6 step 11): each 101 to 199 of the called side, on that trunk, starts it anew (§16.7 step 2).
    pub(super) fn restart(&mut self, cx: &mut Context, trunk: &str) {
        let settings = &cx.config.settings;
        let usual = if self.emergency { settings.emergency_ring_timeout } else { settings.ring_timeout };
        let ring = cx.config.trunk(trunk).and_then(|t| t.timers.ring_timeout).unwrap_or(usual);
        cx.stop_timer(&mut self.ring);
        self.ring = Some(cx.start_timer(ring, TimerUser::Call(self.call, CallTimer::Ring)));
    }

    /// Timer C has fired.
    pub(super) fn timed_out(&mut self) {
        self.ring = None;
    }

    /// The call is no longer at its called side: that may ring.
    pub(super) fn stop_timer_c(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.ring);
    }

    /// The caller was sent a provisional response.
    pub(super) fn said(&mut self, cx: &mut Context, draft: Draft, reliable: Option<PairId>) {
        // 199 ends an early dialog (RFC 6228): said again it says nothing of the call.
        if draft.status() != Some(199) {
            self.last = Some(Progress { draft, reliable });
        }
        cx.stop_timer(&mut self.word);
        self.await_word(cx);
    }

    /// From now on the caller is to hear something each minute.
    pub(super) fn await_word(&mut self, cx: &mut Context) {
        if self.word.is_none() {
            self.word = Some(cx.start_timer(PROGRESS_EVERY, TimerUser::Call(self.call, CallTimer::Progress)));
        }
    }

    /// That minute is over.
    pub(super) fn word_is_due(&mut self) {
        self.word = None;
    }

    /// What the caller last heard, unless its early dialog is over.
    pub(super) fn last_word(&self, lives: impl Fn(PairId) -> bool) -> Option<(Draft, Option<PairId>)> {
        let last = self.last.as_ref().filter(|p| p.reliable.is_none_or(lives))?;
        Some((last.draft.clone(), last.reliable))
    }

    /// The first 180 or above: the log is to hear of it. False: it has.
    pub(super) fn is_news(&mut self, status: u16) -> bool {
        status >= 180 && !std::mem::replace(&mut self.told, true)
    }

    /// It is over, and in the log.
    pub(super) fn restored(&mut self) {
        self.told = true;
    }

    /// Answered, or over.
    pub(super) fn stop(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.ring);
        cx.stop_timer(&mut self.word);
    }
}
