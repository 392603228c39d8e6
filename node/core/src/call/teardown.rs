//! The end of a call: both legs are told, the ports released, the log told once.

use std::time::Duration;

use super::reason::{cause_of, reasons};
use super::services::{Services, finish_response};
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, Cause};
use crate::ctx::AGENT;
use crate::io::{CallOutcome, Counter, Side};
use crate::sip::{HeaderId, Message, Method};
use crate::store_pb::{self, command::Kind};
use crate::transaction::ServerTxId;

/// The engine closes in microseconds; a second means that it is gone, and the CDR must not wait for it.
const MEDIA_CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl Call {
    /// No final response to that INVITE will come, or matter, any more.
    pub fn on_attempt_gone(&mut self, cx: &mut Services, index: u32) {
        self.uac.abandon(cx, index);
    }

    /// The log applied records of this call.
    pub fn on_recorded(&mut self, cx: &mut Services) {
        self.journal.on_applied(cx);
    }

    /// Its caller has cancelled at another node, which did not know of the INVITE.
    pub fn on_cancelled_elsewhere(&mut self, cx: &mut Services) {
        if self.invite_tx.is_some() && matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling) {
            self.cancelled(cx, None);
        }
    }

    /// CANCEL for the transaction `invite`. False: this call does not wait on it (any more).
    pub fn on_cancel(&mut self, cx: &mut Services, invite: ServerTxId, request: &Message) -> bool {
        if self.invite_tx != Some(invite) {
            return self.on_cancel_crossing(cx, invite, request);
        }
        self.q850 = cause_of(request).or(self.q850);
        self.cancelled(cx, reasons(request).as_deref());
        true
    }

    fn cancelled(&mut self, cx: &mut Services, reason: Option<&str>) {
        self.refuse(cx, 487);
        self.uac.cancel(cx, reason);
        self.caller.gone = true;
        self.callee.gone = true;
        self.finish(cx, Cause { origin: "caller", status: 487, reason: "cancelled".into() });
    }

    /// Ends the call before its answer with a status toward the caller.
    pub(super) fn fail(&mut self, cx: &mut Services, status: u16, reason: &str) {
        if self.phase == CallPhase::Over {
            return;
        }
        self.refuse(cx, status);
        let why = format!("SIP;cause={status};text=\"{reason}\"");
        self.uac.cancel(cx, Some(&why));
        self.caller.gone = true;
        self.callee.gone = true;
        self.finish(cx, Cause { origin: "node", status, reason: reason.into() });
    }

    /// Answers the caller's INVITE with a failure of our own.
    pub(super) fn refuse(&mut self, cx: &mut Services, status: u16) {
        let Some(tx) = self.invite_tx.take() else { return };
        let mut draft = self.invite.response(status, None);
        finish_response(&mut draft, &self.invite, status, self.tag(), AGENT);
        self.session_ids.put(Side::Caller, &mut draft);
        if self.uac.lacks_secure_target() && status == 480 {
            // RFC 5630: what is there cannot be reached as was dialled.
            draft.push(HeaderId::Warning, format!("380 {AGENT} \"SIPS Not Allowed\""));
        }
        self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
        cx.respond(tx, &mut draft);
    }

    /// An operator ends the call.
    pub fn terminate(&mut self, cx: &mut Services, reason: &str) {
        match self.phase {
            CallPhase::Preparing | CallPhase::Dialling => {
                self.refuse(cx, 480);
                self.uac.cancel(cx, None);
                self.caller.gone = true;
                self.callee.gone = true;
                self.finish(cx, Cause { origin: "operator", status: 480, reason: reason.into() });
            }
            CallPhase::Answered => {
                let cause = Cause { origin: "operator", status: 200, reason: reason.into() };
                self.hang_up(cx, None, cause, Some("Q.850;cause=16;text=\"Ended by operator\"".into()));
            }
            CallPhase::Over => {}
        }
    }

    /// Ends an answered (or early) call: BYE to each leg but the one that sent its own, which crosses. `reason`: of our own BYE.
    pub(super) fn hang_up(&mut self, cx: &mut Services, from: Option<(Side, &Message)>, cause: Cause, reason: Option<String>) {
        if self.phase == CallPhase::Over {
            return;
        }
        if self.phase != CallPhase::Answered {
            // BYE on an early dialog (RFC 3261 §15): the INVITEs go with it.
            self.refuse(cx, 487);
            let reason = from.map_or(reason, |(_, request)| reasons(request));
            self.uac.cancel(cx, reason.as_deref());
            self.caller.gone = true;
            self.callee.gone = true;
            self.finish(cx, cause);
            return;
        }
        self.refuse_open_forwards(cx);
        self.ack_unanswered(cx);
        for side in [Side::Caller, Side::Callee] {
            if from.is_some_and(|(s, _)| s == side) || self.leg(side).gone {
                continue;
            }
            let to = self.toward(side);
            let mut bye = self.pairs[to].dialog.request(&Method::Bye);
            match from {
                Some((_, request)) => self.pass(cx, to.other(), request, &mut bye),
                None => {
                    if let Some(reason) = &reason {
                        bye.push(HeaderId::Reason, reason.as_str());
                    }
                    self.session_ids.put(side, &mut bye);
                }
            }
            self.say_bye(cx, side, bye);
        }
        self.finish(cx, cause);
    }

    /// Both legs are told: releases what the call holds, and writes its end when the counters are known.
    pub(super) fn finish(&mut self, cx: &mut Services, cause: Cause) {
        if self.phase == CallPhase::Over {
            return;
        }
        self.phase = CallPhase::Over;
        self.course.end(cx.now.mono);
        self.budget.stop(cx);
        self.uac.prepared(cx);
        self.ringing.stop(cx);
        self.pairs.close_senders(cx);
        self.caller.session.stop(cx);
        self.callee.session.stop(cx);
        self.refuse_open_forwards(cx);
        self.drop_held_answer(cx);
        if !self.ended_in_log {
            cx.count(Counter::CallEnded(outcome(&cause), self.class()));
        }
        self.end = Some(cause);
        if self.media.close(cx) {
            self.media.closing = Some(cx.start_timer(MEDIA_CLOSE_LIMIT, Timer::Call(self.id, CallTimer::MediaClose)));
        } else {
            self.on_media_closed(cx);
        }
    }

    /// The counters are final: the log is told.
    pub(super) fn on_media_closed(&mut self, cx: &mut Services) {
        cx.stop_timer(&mut self.media.closing);
        if self.ended_in_log {
            return;
        }
        let Some(cause) = self.end.clone() else { return };
        self.ended_in_log = true;
        let (caller, callee) = (self.media.stats().caller, self.media.stats().callee);
        let end = store_pb::End {
            call: self.uid.to_bytes().to_vec().into(),
            epoch: self.epoch.0,
            cause: Some(store_pb::EndCause {
                origin: cause.origin.into(),
                status: u32::from(cause.status),
                reason: cause.reason,
                q850: u32::from(self.q850.unwrap_or(0)),
            }),
            media: Some(store_pb::MediaTotals {
                caller_packets: caller.rtp_packets,
                caller_octets: caller.rtp_octets,
                callee_packets: callee.rtp_packets,
                callee_octets: callee.rtp_octets,
            }),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
            duration_ms: self.course.duration_ms(cx.now.mono),
        };
        self.journal.push(cx, Kind::End(end));
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
