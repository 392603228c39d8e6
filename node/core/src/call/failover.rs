//! From a silent target to the next one, and back to it should it speak after all (RFC 3263 §4.3; RFC 3261 §16.7: the first 2xx wins).
//!
//! A target is passed over for its silence alone, and silence is also what a slow one and a lost packet sound like. So its INVITE is sent
//! no more, but its responses still count: while nothing else has responded, the one that does has the call. Two that ring
//! at once is the failure that counts: whoever speaks second is cancelled.

use std::time::Duration;

use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Attempt, Call, CallPhase};
use crate::targets::{AttemptEvent, AttemptState};

/// How much longer a silent target has where all others are known to have failed lately: its INVITE is repeated once or twice more (3.5 s
/// and 7.5 s after the first), and the caller does not wait for timer B.
const SPARED_FOR: Duration = Duration::from_secs(6);

impl Call {
    /// True when another target could be tried, or waited for.
    pub(super) fn has_alternative(&self) -> bool {
        self.targets.has_untried() || self.silent().is_some()
    }

    /// The last target that was passed over and may still answer.
    fn silent(&self) -> Option<usize> {
        self.attempts.iter().rposition(|a| a.state == AttemptState::PassedOver)
    }

    /// The target has been silent for too long: the next one, if there is one.
    pub(super) fn on_failover(&mut self, cx: &mut Services, index: u32) {
        let better = self.targets.has_better(|realm, target| cx.is_held(realm, target));
        let untried = self.targets.has_untried();
        let id = self.id;
        let Some(attempt) = self.attempts.iter_mut().find(|a| a.index == index) else { return };
        attempt.timer = None;
        let AttemptState::Calling { spared } = attempt.state else { return };
        attempt.state.note(AttemptEvent::Spare);
        if !spared {
            cx.target_failed(&attempt.path, None);
        }
        if !better && !spared && untried {
            attempt.timer = Some(cx.start_timer(SPARED_FOR, Timer::Call(id, CallTimer::Failover(index))));
        }
        if !untried || !(better || spared) {
            return;
        }
        pass_over(cx, attempt);
        self.note_failure(480, None);
        self.try_dial(cx);
    }

    /// A response came, before anything is done with it: one of a target that was passed over may bring that back.
    pub(super) fn reconsider(&mut self, cx: &mut Services, at: usize, status: u16) {
        if self.attempts[at].state != AttemptState::PassedOver || self.phase != CallPhase::Dialling {
            return;
        }
        let others = |which: fn(AttemptState) -> bool| self.attempts.iter().any(|a| which(a.state));
        let too_late = match status {
            // A challenge is a word too, and another try.
            ..200 | 401 | 407 => others(|state| matches!(state, AttemptState::Proceeding { .. })),
            200..300 => self.held_answer.is_some() || others(|state| state == AttemptState::Proceeding { rang: true }),
            _ => return,
        };
        if !too_late {
            self.revive(cx, at);
        }
    }

    /// Nothing is left to dial: what was passed over is waited for after all. False: there is no such target.
    pub(super) fn back_to_the_silent(&mut self, cx: &mut Services) -> bool {
        let Some(at) = self.silent() else { return false };
        self.revive(cx, at);
        cx.tx.resume_retransmitting(cx.now.mono, self.attempts[at].tx);
        true
    }

    /// None of the targets that were passed over may have the call back: what they say now is too late.
    pub(super) fn forget_passed_over(&mut self) {
        for attempt in &mut self.attempts {
            attempt.state.note(AttemptEvent::Forget);
        }
    }

    /// The leg toward a target that was passed over is the one that counts again.
    fn revive(&mut self, cx: &mut Services, at: usize) {
        for other in self.attempts.iter_mut().filter(|a| a.state.is_open()) {
            match other.state {
                AttemptState::Calling { .. } => pass_over(cx, other),
                _ => other.cancel(cx, None),
            }
        }
        let attempt = &mut self.attempts[at];
        attempt.state.note(AttemptEvent::Revive);
        let (pair, candidate) = (attempt.pair, attempt.candidate.clone());
        let (path, tls_name) = (attempt.path, attempt.tls_name.clone());
        self.pairs.return_to(cx, pair);
        self.callee.secure = super::address::is_sips(&self.attempts[at].uri);
        self.callee.realm = candidate.realm;
        self.callee.trunk = candidate.trunk;
        (self.callee.path, self.callee.tls_name) = (path, tls_name);
        self.early_target = format!("{}/{}", self.callee.trunk, candidate.target.addr);
    }
}

fn pass_over(cx: &mut Services, attempt: &mut Attempt) {
    cx.stop_timer(&mut attempt.timer);
    attempt.state.note(AttemptEvent::PassOver);
    cx.tx.stop_retransmitting(attempt.tx);
}
