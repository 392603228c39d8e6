//! The end of a call: both legs are told, the ports released, the log told once.

use std::time::Duration;

use super::context::Context;
use super::reason::{cause_of, reasons};
use super::timer::{CallTimer, TimerUser};
use super::{Call, CallPhase, Cause};
use crate::io::{CallOutcome, Counter, Side};
use crate::sip::Message;
use crate::transaction::ServerTxId;

/// The engine closes in microseconds; a second means that it is gone, and the CDR must not wait for it.
const MEDIA_CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl Call {
    /// Its caller has cancelled at another node, which did not know of the INVITE.
    pub fn on_cancelled_elsewhere(&mut self, cx: &mut Context) {
        if self.uas.is_open() && matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling) {
            self.give_up(cx, 487, None, Cause { origin: "caller", status: 487, reason: "cancelled".into() });
        }
    }

    /// CANCEL for the transaction `invite`. False: this call does not wait on it (any more).
    pub fn on_cancel(&mut self, cx: &mut Context, invite: ServerTxId, request: &Message) -> bool {
        if self.uas.tx() != Some(invite) {
            return self.bridge().on_cancel(cx, invite, request);
        }
        self.q850 = cause_of(request).or(self.q850);
        let cause = Cause { origin: "caller", status: 487, reason: "cancelled".into() };
        self.give_up(cx, 487, reasons(request).as_deref(), cause);
        true
    }

    /// Ends the call before its answer with a status toward the caller.
    pub(super) fn fail(&mut self, cx: &mut Context, status: u16, reason: &str) {
        if self.phase != CallPhase::Over {
            let why = format!("SIP;cause={status};text=\"{reason}\"");
            self.give_up(cx, status, Some(&why), Cause { origin: "node", status, reason: reason.into() });
        }
    }

    /// Ends the call before its answer: a final response to the caller, and CANCEL, with that reason, to the called side.
    fn give_up(&mut self, cx: &mut Context, status: u16, reason: Option<&str>, cause: Cause) {
        let unsecured = self.uac.lacks_secure_target();
        self.answering().refuse(cx, status, unsecured);
        self.uac.cancel(cx, reason);
        self.sides.leave_both();
        self.finish(cx, cause);
    }

    /// An operator ends the call.
    pub fn terminate(&mut self, cx: &mut Context, reason: &str) {
        let cause = |status| Cause { origin: "operator", status, reason: reason.into() };
        match self.phase {
            CallPhase::Preparing | CallPhase::Dialling => self.give_up(cx, 480, None, cause(480)),
            CallPhase::Answered => self.hang_up(cx, None, cause(200), Some("Q.850;cause=16;text=\"Ended by operator\"")),
            CallPhase::Over => {}
        }
    }

    /// Ends an answered (or early) call: BYE to each leg but the one that sent its own, which crosses. `reason`: of our own BYE.
    pub(super) fn hang_up(&mut self, cx: &mut Context, from: Option<(Side, &Message)>, cause: Cause, reason: Option<&str>) {
        match self.phase {
            CallPhase::Over => {}
            CallPhase::Answered => {
                self.bridge().hang_up(cx, from, reason);
                self.finish(cx, cause);
            }
            CallPhase::Preparing | CallPhase::Dialling => {
                // BYE on an early dialog (RFC 3261 §15): the INVITEs go with it.
                let said = from.and_then(|(_, request)| reasons(request));
                let reason = if from.is_some() { said.as_deref() } else { reason };
                self.give_up(cx, 487, reason, cause);
            }
        }
    }

    /// Nobody is there at a far end any more: both legs end. `what`: how that showed, for the record; `text`: for the far ends.
    pub(super) fn lose(&mut self, cx: &mut Context, what: &str, text: &str, status: u16) {
        let why = format!("{what}: {}", if status == 481 { "no such call" } else { "no answer" });
        // RFC 4028 §10 names no cause; 408 and 481 are what the far end's silence or answer means (RFC 3326).
        let reason = format!("SIP;cause={status};text=\"{text}\"");
        self.hang_up(cx, None, Cause { origin: "node", status: 200, reason: why }, Some(&reason));
    }

    /// Both legs are told: releases what the call holds, and writes its end when the counters are known.
    pub(super) fn finish(&mut self, cx: &mut Context, cause: Cause) {
        if self.phase == CallPhase::Over {
            return;
        }
        self.phase = CallPhase::Over;
        self.takeover = None;
        self.records.course.end(cx.now.mono);
        self.budget.stop(cx);
        self.uac.prepared(cx);
        self.uas.ringing.stop(cx);
        self.sides.pairs.close_senders(cx);
        self.sides.caller.session.stop(cx);
        self.sides.callee.session.stop(cx);
        self.bridge().refuse_open(cx, |_| true);
        if let Some((index, response)) = self.uac.take_answer() {
            self.reject_answer(cx, index, &response);
        }
        if !self.records.has_ended() {
            cx.count(Counter::CallEnded(outcome(&cause), self.about.class()));
        }
        self.end = Some(cause);
        if self.media.close(cx) {
            self.media.closing = Some(cx.start_timer(MEDIA_CLOSE_LIMIT, TimerUser::Call(self.about.id, CallTimer::MediaClose)));
        } else {
            self.on_media_closed(cx);
        }
    }

    /// The counters are final: the log is told.
    pub(super) fn on_media_closed(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.media.closing);
        if let Some(cause) = self.end.clone() {
            self.records.end(cx, &self.about, (cause, self.q850), &self.media);
        }
    }

    /// A 2xx to the INVITE of an attempt that nobody wants any more.
    pub(super) fn reject_answer(&mut self, cx: &mut Context, index: u32, response: &Message) {
        let (mut bridge, uac) = self.bridge_and_uac();
        if let Some(attempt) = uac.attempt(index) {
            bridge.reject_answer(cx, attempt, response);
        }
    }
}

fn outcome(cause: &Cause) -> CallOutcome {
    match (cause.status, cause.origin) {
        (200..=299, _) => CallOutcome::Answered,
        (487, "caller") => CallOutcome::Abandoned,
        (486 | 600, _) => CallOutcome::Busy,
        (_, "callee") => CallOutcome::Refused,
        _ => CallOutcome::Failed,
    }
}
