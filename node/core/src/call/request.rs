//! Requests within the dialog: refused, answered here (BYE), or passed to the other leg (`forward`).

use super::bridge::Bridge;
use super::context::Context;
use super::provisional::Pracked;
use super::reason::cause_of;
use super::reliable::RAck;
use super::takeover::LegEvent;
use super::{Call, CallPhase, Cause, body};
use crate::crossing::{Asked, Loss};
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::local::AGENT;
use crate::policy::{MethodPolicy, ReferPolicy};
use crate::sip::{Message, Method};
use crate::transaction::{ClientTxId, ResponseAction, ServerTxId};

impl Bridge<'_> {
    /// The status that refuses a request without a look at what it is about.
    fn refused(&mut self, cx: &Context, at: DialogRef, asked: &Asked) -> Option<u16> {
        let request = &asked.request;
        if self.phase == CallPhase::Over || self.sides.leg(at.side).gone {
            // RFC 5407 §3.2.1: the dialog is there until our own BYE is answered, and one that crosses it is as good.
            let ending = cx.after_bye.is_ending(self.about.id) || self.underway.two_hundred.holds_bye();
            return Some(if request.method() == &Method::Bye && ending { 200 } else { 481 });
        }
        if self.sides.pairs[at].dialog.on_request(request.cseq()).is_err() {
            return Some(500);
        }
        let (leg, half) = self.sides.leg_and_half(at);
        leg.learn_path(&half.dialog, &asked.back);
        // An emergency call was taken with whatever it asks for, and goes on so.
        let refreshes = matches!(request.method(), Method::Invite | Method::Update);
        let too_little = refreshes && !self.about.emergency && super::asks_too_little(request);
        let trunk = cx.config.trunk(&leg.trunk);
        match request.method() {
            Method::Refer if trunk.is_some_and(|t| t.requests.refer == ReferPolicy::Reject) => Some(403),
            Method::Other(_) if trunk.is_some_and(|t| t.requests.unknown_methods == MethodPolicy::Refuse) => Some(501),
            _ => too_little.then_some(422),
        }
    }
}

impl Call {
    /// A request other than ACK and CANCEL within the dialog, new on `tx`.
    pub fn on_request(&mut self, cx: &mut Context, side: Side, tx: ServerTxId, back: ReturnPath, request: &Message) {
        self.sides.received(cx, side, &back, request);
        if request.method() != &Method::Bye {
            self.on_takeover(cx, side, LegEvent::Spoke);
        }
        let at = self.sides.pairs.at_request(side, request);
        let asked = Asked { request: request.clone(), server: tx, back };
        if let Some(status) = self.bridge().refused(cx, at, &asked) {
            return self.sides.refuse(cx, side, &asked, status);
        }
        let refreshes = matches!(request.method(), Method::Invite | Method::Update);
        if let Some(fault) = body::unusable_within(request).filter(|_| refreshes) {
            // Nobody could anchor that offer. The call goes on with what it has, an emergency too.
            let mut draft = request.response(fault.status(), None);
            let (name, value) = fault.field(AGENT);
            draft.push_named(name, value);
            self.sides.respond(cx, side, tx, &back, &mut draft);
            return;
        }
        match request.method() {
            Method::Bye => self.on_bye(cx, at, &asked),
            Method::Prack => self.on_prack(cx, at, asked),
            _ => self.bridge().on_request(cx, at, asked),
        }
    }

    fn on_bye(&mut self, cx: &mut Context, at: DialogRef, asked: &Asked) {
        let (side, request) = (at.side, &asked.request);
        self.sides.refuse(cx, side, asked, 200);
        let mut bridge = self.bridge();
        if !bridge.is_answered() && bridge.end_early(cx, at, request) {
            return;
        }
        bridge.ack_unanswered(cx);
        self.sides.leg_mut(side).gone = true;
        // A BYE says that the far end has the first 2xx, whether or not its ACK came through. A later one may have been lost:
        // it is repeated until its ACK, for the re-INVITE must get its final answer.
        if side == Side::Caller {
            self.underway.two_hundred.acked(cx, side, self.about.invite.cseq());
        }
        self.q850 = cause_of(request).or(self.q850);
        let origin = if side == Side::Caller { "caller" } else { "callee" };
        let status = if self.phase == CallPhase::Answered { 200 } else { 487 };
        self.hang_up(cx, Some((side, request)), Cause { origin, status, reason: "BYE".into() }, None);
    }

    fn on_prack(&mut self, cx: &mut Context, at: DialogRef, asked: Asked) {
        let Some(rack) = RAck::of(&asked.request) else { return self.sides.refuse(cx, at.side, &asked, 400) };
        let first = at.side == Side::Caller && rack.cseq == self.about.invite.cseq() && &*rack.method == "INVITE";
        if !first {
            // Of a re-INVITE that the other far end was asked: its responses pass as they come.
            return match self.underway.reinvite_there(cx.now.mono, at.side, rack.cseq) {
                Some(cseq) => self.bridge().forward(cx, at, asked, Some(format!("{} {cseq} {}", rack.rseq, rack.method))),
                None => self.sides.refuse(cx, at.side, &asked, 481),
            };
        }
        match self.provisional().on_prack(cx, at, &asked, rack.rseq) {
            Pracked::Refused => return,
            Pracked::Answered => {}
            Pracked::PassOn(rack) => self.bridge().forward(cx, at, asked, Some(rack)),
        }
        self.release_answer(cx);
        self.provisional().send_next(cx, at.pair);
    }

    /// The far end's ACK for a 2xx. `message` may carry the answer.
    pub fn on_ack(&mut self, cx: &mut Context, side: Side, back: &ReturnPath, message: &Message) {
        self.bridge().on_ack(cx, side, back, message);
        self.on_takeover(cx, side, LegEvent::Acked);
    }

    /// A response to a request that crossed, or to a refresh.
    pub fn on_crossing_response(
        &mut self,
        cx: &mut Context,
        id: u64,
        of: (ClientTxId, ResponseAction),
        back: &ReturnPath,
        response: &Message,
    ) {
        let lost = self.bridge().on_response(cx, id, of, back, response);
        self.settle(cx, lost);
    }

    /// Nothing comes of a request by this transaction.
    pub fn on_lost(&mut self, cx: &mut Context, tx: ClientTxId, loss: Loss) {
        let lost = self.bridge().on_lost(cx, tx, loss);
        self.settle(cx, lost);
    }
}
