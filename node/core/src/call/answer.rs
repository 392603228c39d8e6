//! The called side's responses to the first INVITE, and what becomes of the call by them.

use super::challenge::Challenged;
use super::claim::{ClaimEvent, Then};
use super::context::Context;
use super::records::dialog_record;
use super::two_hundred::Accepted;
use super::uas::Unanswered;
use super::{Call, CallPhase, body};
use crate::dialog::PairId;
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, Message};
use crate::targets::AttemptState;
use crate::transaction::{ResponseAction, ServerTxId};

impl Call {
    /// A response to the INVITE of an attempt. `back`: how it came.
    pub fn on_dial_response(
        &mut self,
        cx: &mut Context,
        index: u32,
        action: ResponseAction,
        back: &ReturnPath,
        response: &Message,
    ) {
        let status = response.status().unwrap_or(0);
        if self.uac.attempt(index).is_none() {
            return;
        }
        self.sides.ladder.received(cx.now.unix, self.sides.callee.realm, back, response);
        if action == ResponseAction::Absorb {
            return;
        }
        if self.phase == CallPhase::Dialling
            && let Some(revived) = self.uac.reconsider(cx, index, status)
        {
            self.dialler().return_to(cx, revived);
        }
        let Some(attempt) = self.uac.attempt_mut(index) else { return };
        cx.stop_timer(&mut attempt.timer);
        let path = attempt.path;
        cx.target_responded(&path, status, response);
        if (100..=199).contains(&status) {
            attempt.on_provisional(cx, status);
        }
        let wanted = attempt.state.is_wanted();
        self.uac.targets.on_answer(path.remote);
        match status {
            100..=199 => {
                if wanted && status > 100 && self.phase == CallPhase::Dialling {
                    self.uas.ringing.restart(cx, &self.sides.callee.trunk);
                    self.provisional().on_response(cx, index, response);
                }
            }
            200..=299 => self.on_success(cx, index, response),
            _ => self.on_failure(cx, index, action, response),
        }
    }

    fn on_success(&mut self, cx: &mut Context, index: u32, response: &Message) {
        let confirmed = &self.sides.pairs[self.sides.toward(Side::Callee)].dialog;
        let same_fork = self.phase == CallPhase::Answered && confirmed.remote_tag.as_deref() == response.to_tag();
        if same_fork && self.courier().repeat_ack(cx, Side::Callee, response.cseq(), response.to_tag()) {
            return;
        }
        let Some(attempt) = self.uac.attempt_mut(index) else { return };
        attempt.finish();
        let wanted = attempt.state.is_wanted();
        if same_fork {
            return; // Its ACK waits for the caller's.
        }
        if self.phase != CallPhase::Dialling || !wanted {
            self.reject_answer(cx, index, response);
            return;
        }
        let streams = body::Descriptions::of(response).streams();
        if let Some(held) = self.uac.held_answer() {
            if held.to_tag() != response.to_tag() {
                self.reject_answer(cx, index, response);
            }
            return;
        }
        // Ports first: without them the release comes with them.
        if !self.media.ensure(cx, streams) || self.provisional().holds_2xx(cx, index, response) {
            self.uac.hold_answer(index, response.clone());
            return;
        }
        self.answer(cx, index, response);
    }

    /// Goes on with a 2xx that waited for ports or a PRACK.
    pub(super) fn release_answer(&mut self, cx: &mut Context) {
        if self.phase != CallPhase::Dialling || self.media.is_opening() {
            return;
        }
        let Some((index, response)) = self.uac.take_answer() else { return };
        if self.provisional().holds_2xx(cx, index, &response) {
            self.uac.hold_answer(index, response);
            return;
        }
        self.answer(cx, index, &response);
    }

    fn answer(&mut self, cx: &mut Context, index: u32, response: &Message) {
        let Some(unanswered) = self.uas.take() else { return };
        // A dialog that was ended is answered by nobody.
        self.sides.session_ids.learn(Side::Callee, response);
        let Some(pair) = self.sides.pairs.of_response(cx, self.about.uid, index, response) else {
            self.uas.put_back(unanswered);
            self.reject_answer(cx, index, response);
            return;
        };
        let agreed = self.sides.pairs.early(pair).agreed;
        // RFC 3262 §5: agreed in a reliable response, it need not be in the 2xx; a caller that had that unreliably needs it there.
        let owed = agreed && self.sides.pairs[pair.caller()].offer == Some(Side::Caller);
        self.phase = CallPhase::Answered;
        self.records.course.answer(cx.now.mono);
        self.uas.ringing.stop(cx);
        self.bridge().confirm(cx, pair);
        let dialog = &mut self.sides.pairs[pair.callee()].dialog;
        dialog.on_dialog_response(response);
        cx.drop_own_routes(dialog);
        if let Some(attempt) = self.uac.attempt(index) {
            self.sides.callee.path = attempt.path;
        }
        self.sides.begin_keep_alive(cx, self.about.id);
        let draft = self.answering().accept(cx, pair, owed, response);
        self.send_2xx(cx, pair, (unanswered, draft), agreed, response);
        self.uac.cancel_others(cx, index, "SIP;cause=200;text=\"Call completed elsewhere\"");
        let mut record = dialog_record(&self.sides, &self.media, pair);
        if let Some(callee) = &mut record.callee {
            callee.invite_cseq = response.cseq();
        }
        self.records.answer(cx, &self.about, record);
    }

    /// The 2xx goes to the caller, and is acknowledged where that need not wait for the caller's answer. `agreed`: offer and answer were exchanged
    /// before it.
    fn send_2xx(
        &mut self,
        cx: &mut Context,
        pair: PairId,
        (unanswered, draft): (Unanswered, Draft),
        agreed: bool,
        response: &Message,
    ) {
        let cseq = response.cseq();
        let has_offer = body::find_sdp(&self.about.invite).is_some();
        // A 2xx to an INVITE without an offer carries the offer: its ACK must wait for the caller's answer.
        let delayed = !agreed && !has_offer && body::find_sdp(response).is_some();
        let (tx, back) = (unanswered.tx(), self.uas.back);
        if let Some(payload) = self.answering().finish(cx, unanswered, draft) {
            let accepted = Accepted { tx, cseq: self.about.invite.cseq(), payload, back, answers: delayed.then_some(cseq) };
            self.underway.two_hundred.accepted(cx, Side::Caller, accepted);
        }
        if !delayed {
            self.bridge().acknowledge(cx, pair.callee(), cseq);
        }
    }

    /// A final response other than 2xx to the INVITE of an attempt.
    fn on_failure(&mut self, cx: &mut Context, index: u32, action: ResponseAction, response: &Message) {
        let status = response.status().unwrap_or(0);
        let Some(attempt) = self.uac.attempt_mut(index) else { return };
        if action == ResponseAction::NeedAck {
            attempt.ack_failure(cx, &mut self.sides.ladder, response);
        }
        let passed_over = attempt.state == AttemptState::PassedOver;
        attempt.finish();
        if self.phase != CallPhase::Dialling || !attempt.state.is_wanted() {
            // Of a target that was passed over: should nothing better come, the caller hears of it.
            if passed_over && status >= 400 && !matches!(status, 401 | 407 | 482) {
                self.uac.note_failure(status, Some(response));
            }
            return;
        }
        match status {
            401 | 407 => match self.dialler().on_challenge(cx, index, response) {
                Challenged::Answered => return,
                Challenged::Refused => {
                    // Our own fault, which the caller cannot mend with a password: another target may know us.
                    self.uac.note_failure(502, None);
                    return self.try_dial(cx);
                }
                Challenged::NotOurs => {}
            },
            422 if self.dialler().may_dial_longer(index, response) => return self.try_dial(cx),
            482 => match self.tell_claim(cx, ClaimEvent::Merged) {
                Then::PassOn => {}
                Then::Redial => {
                    self.uac.repeat(index);
                    return self.try_dial(cx);
                }
                _ => return,
            },
            _ => {}
        }
        match self.dialler().on_refused(cx, response) {
            Some(failure) => self.pass_failure(cx, &failure),
            None => self.try_dial(cx),
        }
    }

    /// A copy of the INVITE came by another way.
    pub fn on_invite_copy(&mut self, cx: &mut Context, tx: ServerTxId, back: ReturnPath) {
        if back.ingress.is_some() {
            // What that node had dialled, it gives up.
            self.tell_claim(cx, ClaimEvent::Yielded);
        }
        self.underway.two_hundred.on_copy(cx, tx, back);
    }
}
