//! The called side's responses to the first INVITE, brought to the caller.

use super::challenge::Challenged;
use super::claim::{ClaimEvent, Then};
use super::failure::Failure;
use super::outgoing::Purpose;
use super::redirect::Redirector;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::two_hundred::Accepted;
use super::{Call, CallPhase, body, headers};
use crate::dialog::{DialogRef, PairId};
use crate::io::{Counter, ReturnPath, Side, TargetChange};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::store_pb::{self, command::Kind};
use crate::targets::AttemptState;
use crate::transaction::{ResponseAction, ServerTxId};

impl Call {
    /// A response to the INVITE of an attempt. `back`: how it came.
    pub fn on_dial_response(
        &mut self,
        cx: &mut Services,
        index: u32,
        action: ResponseAction,
        back: &ReturnPath,
        response: &Message,
    ) {
        let status = response.status().unwrap_or(0);
        if self.uac.attempt(index).is_none() {
            return;
        }
        self.ladder.received(cx.now.unix, self.callee.realm, back, response);
        if action == ResponseAction::Absorb {
            return;
        }
        if self.phase == CallPhase::Dialling
            && let Some(revived) = self.uac.reconsider(cx, index, status)
        {
            self.return_to(cx, revived);
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
                    self.ringing.restart(cx, &self.callee.trunk);
                    self.on_provisional(cx, index, response);
                }
            }
            200..=299 => self.on_success(cx, index, response),
            _ => self.on_failure(cx, index, status, action, response),
        }
    }

    fn on_success(&mut self, cx: &mut Services, index: u32, response: &Message) {
        let same_fork = self.pairs[self.toward(Side::Callee)].dialog.remote_tag.as_deref() == response.to_tag();
        let repeated = self.phase == CallPhase::Answered && same_fork;
        if repeated && self.courier().repeat_ack(cx, Side::Callee, response.cseq(), response.to_tag()) {
            return;
        }
        let Some(attempt) = self.uac.attempt_mut(index) else { return };
        attempt.finish();
        let wanted = attempt.state.is_wanted();
        if self.phase == CallPhase::Answered && same_fork {
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
        if !self.media.ensure(cx, streams) || self.must_wait_for_prack(cx, index, response) {
            self.uac.hold_answer(index, response.clone());
            return;
        }
        self.answer(cx, index, response);
    }

    /// Goes on with a 2xx that waited for ports or a PRACK.
    pub(super) fn release_answer(&mut self, cx: &mut Services) {
        if self.phase != CallPhase::Dialling || self.media.is_opening() {
            return;
        }
        let Some((index, response)) = self.uac.take_answer() else { return };
        if self.must_wait_for_prack(cx, index, &response) {
            self.uac.hold_answer(index, response);
            return;
        }
        self.answer(cx, index, &response);
    }

    fn answer(&mut self, cx: &mut Services, index: u32, response: &Message) {
        let Some(tx) = self.invite_tx.take() else { return };
        // A dialog that was ended is answered by nobody.
        self.session_ids.learn(Side::Callee, response);
        let Some(pair) = self.pairs.of_response(cx, self.uid, index, response) else {
            self.invite_tx = Some(tx);
            self.reject_answer(cx, index, response);
            return;
        };
        let (caller, called) = (pair.caller(), pair.callee());
        let agreed = self.pairs.early(pair).agreed;
        // RFC 3262 §5: agreed in a reliable response, it need not be in the 2xx; a caller that had that unreliably needs it there.
        let has_offer = body::find_sdp(&self.invite).is_some();
        let owed = agreed && self.pairs[caller].offer == Some(Side::Caller);
        self.phase = CallPhase::Answered;
        self.course.answer(cx.now.mono);
        self.ringing.stop(cx);
        self.confirm(cx, pair);
        let dialog = &mut self.pairs[called].dialog;
        dialog.on_dialog_response(response);
        cx.drop_own_routes(dialog);
        if let Some(attempt) = self.uac.attempt(index) {
            self.callee.path = attempt.path;
        }
        for at in [caller, called] {
            if self.far(at).is_behind_nat() {
                self.await_keep_alive(cx, at.side);
            }
        }
        let status = response.status().unwrap_or(200);
        let mut draft = self.toward_caller(cx, pair, status, response);
        let invite = self.invite.clone();
        self.caller.session.accept(cx, &self.caller.trunk, &invite, &mut draft);
        self.callee.session.on_accepted(cx, &self.callee.trunk, response);
        self.offer_answer().put(cx, called, response, has_offer, &mut draft);
        if owed && body::find_sdp(response).is_none() {
            // Its offer has no other answer (RFC 3261 §13.2.1): more than any other body, which comes from a gateway, needs.
            draft.set_body(Some("application/sdp"), self.pairs[caller].local_sdp.clone());
        }
        self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
        let cseq = response.cseq();
        // A 2xx to an INVITE without an offer carries the offer: its ACK must wait for the caller's answer.
        let delayed = !agreed && !has_offer && body::find_sdp(response).is_some();
        let payload = cx.respond(tx, &mut draft);
        if let Some(payload) = payload {
            let (back, answers) = (self.back, delayed.then_some(cseq));
            self.two_hundred.accepted(cx, Side::Caller, Accepted { tx, cseq: self.invite.cseq(), payload, back, answers });
        }
        if !delayed {
            let ack = self.session_ids.ack(&self.pairs[called].dialog, Side::Callee, cseq);
            self.send_on(cx, called, ack, Purpose::Ack(cseq));
        }
        self.uac.cancel_others(cx, index, "SIP;cause=200;text=\"Call completed elsewhere\"");
        let record = store_pb::Answer {
            call: self.uid.to_bytes().to_vec().into(),
            epoch: self.epoch.0,
            seq: self.journal.next_seq(),
            dialog: Some(self.record(pair)),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
        };
        self.journal.push(cx, Kind::Answer(record));
    }

    /// A final response other than 2xx to the INVITE of an attempt.
    fn on_failure(&mut self, cx: &mut Services, index: u32, status: u16, action: ResponseAction, response: &Message) {
        let Some(attempt) = self.uac.attempt_mut(index) else { return };
        if action == ResponseAction::NeedAck {
            attempt.ack_failure(cx, &mut self.ladder, response);
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
        if matches!(status, 401 | 407) {
            match self.on_dial_challenge(cx, index, response) {
                Challenged::Answered => return,
                Challenged::Refused => {
                    // Our own fault, which the caller cannot mend with a password: another target may know us.
                    self.uac.note_failure(502, None);
                    self.try_dial(cx);
                    return;
                }
                Challenged::NotOurs => {}
            }
        }
        if status == 482 {
            match self.tell_claim(cx, ClaimEvent::Merged) {
                Then::PassOn => {}
                Then::Redial => {
                    self.uac.repeat(index);
                    return self.try_dial(cx);
                }
                _ => return,
            }
        }
        if status == 422 && self.dial_longer(index, response) {
            self.try_dial(cx);
            return;
        }
        self.uac.note_failure(status, Some(response));
        let to = self.toward(Side::Callee);
        let from =
            Redirector { trunk: &self.callee.trunk, realm: self.callee.realm, dialled: &self.pairs[to].dialog.remote_target };
        let followed = (300..400).contains(&status) && self.uac.follow(cx, &from, response);
        if followed {
            cx.count(Counter::Target(TargetChange::Redirected));
        }
        // RFC 3263 §4.3: a 5xx says that this target cannot; another may. 408 is its word that nobody answered there (RFC 3261 §21.4.9),
        // 430 that the way to it is gone (RFC 5626 §5.3). Anything else is the user's answer, a 6xx everywhere.
        let cannot = (500..600).contains(&status) || matches!(status, 408 | 430);
        if followed || (cannot && self.uac.has_alternative()) {
            self.try_dial(cx);
            return;
        }
        // The user's answer goes at once. What other targets said before tells less.
        let last = Failure { status, response: Some(response.clone()) };
        let failure = if cannot { self.uac.take_failure().unwrap_or(last) } else { last };
        self.pass_failure(cx, &failure);
    }

    /// The target gave no answer at all, or could not be reached.
    pub fn on_dial_lost(&mut self, cx: &mut Services, index: u32, status: u16) {
        if self.uac.lost(cx, index, self.phase == CallPhase::Dialling) {
            self.uac.note_failure(status, None);
            self.try_dial(cx);
        }
    }

    /// The target has been silent for too long: the next one, if there is one.
    pub(super) fn on_failover(&mut self, cx: &mut Services, index: u32) {
        if self.uac.on_silence(cx, index) {
            self.uac.note_failure(480, None);
            self.try_dial(cx);
        }
    }

    /// A response to the caller, with the fields of the called side's that cross.
    pub(super) fn toward_caller(&mut self, cx: &Services, pair: PairId, status: u16, response: &Message) -> Draft {
        self.caller.learn_contact(response);
        let mut draft = self.own_response(cx, pair, status, (response.status() == Some(status)).then(|| response.reason()));
        headers::copy_through(response, &mut draft);
        cx.shape(&self.callee.trunk, &self.caller.trunk, &Method::Invite, self.emergency, &mut draft);
        draft
    }

    /// A response to the caller that makes an early dialog, or the dialog.
    pub(super) fn own_response(&self, cx: &Services, pair: PairId, status: u16, reason: Option<&str>) -> Draft {
        let mut draft = self.invite.response(status, reason);
        let half = &self.pairs[pair.caller()];
        draft.set(HeaderId::To, format!("{};tag={}", self.invite.to(), half.dialog.local_tag));
        // RFC 3261 §12.1.1: what makes a dialog returns the route.
        for route in self.invite.all(HeaderId::RecordRoute) {
            draft.push(HeaderId::RecordRoute, route);
        }
        draft.push(HeaderId::Contact, self.caller.contact(cx, half));
        draft
    }

    /// A copy of the INVITE came by another way.
    pub fn on_invite_copy(&mut self, cx: &mut Services, tx: ServerTxId, back: ReturnPath) {
        if back.ingress.is_some() {
            // What that node had dialled, it gives up.
            self.tell_claim(cx, ClaimEvent::Yielded);
        }
        self.two_hundred.on_copy(cx, tx, back);
    }

    /// A far end behind a NAT that forgets UDP soon: two CRLFs (the ping of RFC 5626 §3.5.1) now and then, lest the BYE of the other one be lost
    /// after minutes in which only media flowed.
    pub(super) fn on_keep_alive(&self, cx: &mut Services, side: Side) {
        let far = self.far(self.toward(side));
        if self.phase != CallPhase::Answered || self.leg(side).gone || !far.is_behind_nat() {
            return;
        }
        far.keep_alive(cx);
        self.await_keep_alive(cx, side);
    }

    pub(super) fn await_keep_alive(&self, cx: &mut Services, side: Side) {
        cx.start_timer(super::ways::keep_alive_after(cx), Timer::Call(self.id, CallTimer::KeepAlive(side)));
    }

    /// What crosses of a message that ends something, or acknowledges it: fields, header rules, body.
    pub(super) fn pass(&mut self, cx: &mut Services, from: DialogRef, message: &Message, draft: &mut Draft) {
        if let Ok(n) = headers::next_max_forwards(message) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        headers::copy_through(message, draft);
        let (here, there) = (&self.leg(from.side).trunk, &self.leg(from.side.other()).trunk);
        cx.shape(here, there, message.method(), self.emergency, draft);
        headers::strip_our_credentials(cx, here, draft);
        // Only the answer to a delayed offer says anything of media here.
        self.offer_answer().put(cx, from, message, message.method() == &Method::Ack, draft);
    }
}
