//! Target after target, until one answers or none is left: when the next one is dialled, and what the caller is told when there is none.

use super::context::Context;
use super::dial::Dialled;
use super::failure::{Failure, upstream};
use super::reason::cause_of;
use super::{Call, CallPhase, Cause};
use crate::ids::ResolveId;
use crate::io::{ResolveError, Target};
use crate::sip::readable;

impl Call {
    /// Dials the next target, once claim and ports are decided.
    pub(super) fn try_dial(&mut self, cx: &mut Context) {
        let ready = matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling)
            && self.claim.may_dial()
            && !self.media.is_opening()
            && !self.uac.is_asking();
        if !ready {
            if self.phase == CallPhase::Preparing {
                self.dialler().look_ahead(cx);
            }
            return;
        }
        let Dialled::Exhausted(otherwise) = self.dialler().next(cx) else { return };
        match self.uac.take_failure() {
            Some(failure) if failure.response.is_some() && self.uas.is_open() => self.pass_failure(cx, &failure),
            Some(failure) => self.fail(cx, upstream(failure.status), "no target"),
            None => self.fail(cx, otherwise, "no target"),
        }
    }

    /// The called side's refusal goes to the caller.
    pub(super) fn pass_failure(&mut self, cx: &mut Context, failure: &Failure) {
        let Some(response) = &failure.response else { return };
        let Some(status) = self.answering().pass_failure(cx, failure) else { return };
        self.q850 = cause_of(response).or(self.q850);
        self.sides.leave_both();
        self.finish(cx, Cause { origin: "callee", status, reason: readable(response.reason()).into_owned() });
    }

    /// Nothing comes of a target: the next one.
    pub(super) fn try_another(&mut self, cx: &mut Context, status: u16) {
        self.uac.note_failure(status, None);
        self.try_dial(cx);
    }

    /// The DNS answered.
    pub fn on_resolved(&mut self, cx: &mut Context, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        if let Ok(failed) = self.courier().on_resolved(cx, id, &result) {
            let lost = self.bridge().on_failed(cx, failed);
            return self.settle(cx, lost);
        }
        if !self.uac.targets.on_resolved(id, result.as_deref().ok()) {
            return;
        }
        match result {
            Ok(_) => self.try_dial(cx),
            Err(_) => self.try_another(cx, 480),
        }
    }

    /// Ports or the DNS took too long: on without them.
    pub(super) fn on_prepare_limit(&mut self, cx: &mut Context) {
        self.uac.preparation_over();
        // A later target may be on another side than the ports, and wait for others.
        let waits = self.phase == CallPhase::Dialling && self.media.is_opening();
        if self.phase != CallPhase::Preparing && !waits {
            return;
        }
        if self.media.is_opening() {
            self.media.on_open_failed();
        }
        match self.uac.targets.stop_waiting() {
            true => self.try_another(cx, 480),
            false => self.try_dial(cx),
        }
    }

    /// The target gave no answer at all, or could not be reached.
    pub fn on_dial_lost(&mut self, cx: &mut Context, index: u32, status: u16) {
        if self.uac.lost(cx, index, self.phase == CallPhase::Dialling) {
            self.try_another(cx, status);
        }
    }

    /// No final response to the INVITE of an attempt will come, or matter, any more.
    pub fn on_attempt_gone(&mut self, cx: &mut Context, index: u32) {
        self.uac.abandon(cx, index);
    }

    /// The called side has rung long enough: another one, where there is one.
    pub(super) fn on_ring_timeout(&mut self, cx: &mut Context) {
        self.uas.ringing.timed_out();
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
        self.try_another(cx, 480);
    }
}
