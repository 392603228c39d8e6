//! Requests within the dialog: refused, answered here (BYE), or passed to the other leg (`forward`).

use super::journal::Counted;
use super::reason::cause_of;
use super::services::Services;
use super::{Call, CallPhase, Cause, body};
use crate::dialog::{DialogRef, PairId};
use crate::io::{ReturnPath, Side};
use crate::policy::{MethodPolicy, ReferPolicy};
use crate::sip::{HeaderId, Message, Method};
use crate::store_pb::{self, command::Kind};
use crate::transaction::ServerTxId;

impl Call {
    /// A request other than ACK and CANCEL within the dialog, new on `tx`.
    pub fn on_request(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let realm = self.leg(side).realm;
        self.ladder.received(cx.now.unix, realm, &back, request);
        self.session_ids.learn(side, request);
        let at = self.dialog_of(side, request);
        if self.phase == CallPhase::Over || self.leg(side).gone {
            // RFC 5407 §3.2.1: the dialog is there until our own BYE is answered, and one that crosses it is as good.
            let crosses = request.method() == &Method::Bye && (cx.after_bye.is_ending(self.id) || self.two_hundred.holds_bye());
            self.refuse_request(cx, side, tx, &back, request, if crosses { 200 } else { 481 });
            return;
        }
        if self.pairs[at].dialog.on_request(request.cseq()).is_err() {
            self.refuse_request(cx, side, tx, &back, request, 500);
            return;
        }
        let (leg, half) = self.leg_and_half(at);
        leg.learn_path(&half.dialog, &back);
        if let Some(status) = self.refused_by_trunk(cx, side, request.method()) {
            self.refuse_request(cx, side, tx, &back, request, status);
            return;
        }
        let refreshes = matches!(request.method(), Method::Invite | Method::Update);
        // An emergency call was taken with whatever it asks for, and goes on so.
        if refreshes && !self.emergency && super::asks_too_little(request) {
            self.refuse_request(cx, side, tx, &back, request, 422);
            return;
        }
        if let Some(fault) =
            body::unusable_within(request).filter(|_| matches!(request.method(), Method::Invite | Method::Update))
        {
            self.refuse_unusable(cx, side, tx, &back, request, fault);
            return;
        }
        match request.method() {
            Method::Bye => self.on_bye(cx, at, tx, &back, request),
            Method::Invite => self.on_reinvite(cx, at, tx, back, request),
            Method::Prack => self.on_prack(cx, at, tx, back, request),
            Method::Update => self.on_update(cx, at, tx, back, request),
            _ => self.forward(cx, at, tx, back, request),
        }
    }

    /// What the trunk's configuration keeps from the other side.
    fn refused_by_trunk(&self, cx: &Services, side: Side, method: &Method) -> Option<u16> {
        let trunk = cx.config.trunk(&self.leg(side).trunk)?;
        match method {
            Method::Refer if trunk.refer == ReferPolicy::Reject => Some(403),
            Method::Other(_) if trunk.unknown_methods == MethodPolicy::Refuse => Some(501),
            _ => None,
        }
    }

    pub(super) fn refuse_request(
        &mut self,
        cx: &mut Services,
        side: Side,
        tx: ServerTxId,
        back: &ReturnPath,
        request: &Message,
        status: u16,
    ) {
        let mut draft = request.response(status, None);
        if status == 501 {
            draft.push(HeaderId::Allow, super::ALLOW);
        }
        if status == 422 {
            draft.push(HeaderId::MinSe, super::session_timer::MIN_SE.to_string());
        }
        if status == 500 {
            draft.push(HeaderId::RetryAfter, (1 + request.cseq() % 9).to_string());
        }
        self.session_ids.put(side, &mut draft);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
    }

    fn on_bye(&mut self, cx: &mut Services, at: DialogRef, tx: ServerTxId, back: &ReturnPath, request: &Message) {
        let side = at.side;
        self.refuse_request(cx, side, tx, back, request, 200);
        if self.bye_early(cx, at, request) {
            return;
        }
        self.ack_unanswered(cx);
        self.leg_mut(side).gone = true;
        // A BYE says that the far end has the first 2xx, whether or not its ACK came through. A later one may have been lost:
        // it is repeated until its ACK, for the re-INVITE must get its final answer.
        if side == Side::Caller {
            self.two_hundred.acked(cx, side, self.invite.cseq());
        }
        self.q850 = cause_of(request).or(self.q850);
        let origin = if side == Side::Caller { "caller" } else { "callee" };
        let status = if self.phase == CallPhase::Answered { 200 } else { 487 };
        let cause = Cause { origin, status, reason: "BYE".into() };
        self.hang_up(cx, Some((side, request)), cause, None);
    }

    fn on_reinvite(&mut self, cx: &mut Services, at: DialogRef, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let side = at.side;
        let open = self.crossings.refuse_invite(side);
        let early = self.phase != CallPhase::Answered;
        if open == Some(500) || (early && side == Side::Caller) {
            // RFC 3261 §14.2: an INVITE of the same far end is still open.
            self.refuse_request(cx, side, tx, &back, request, 500);
            return;
        }
        if open.is_some() || self.two_hundred.any_pending() || early || self.open_offer(at).is_some() {
            self.refuse_request(cx, side, tx, &back, request, 491);
            return;
        }
        let mut trying = request.response(100, None);
        self.ladder.sent(cx.now.unix, self.leg(side).realm, &back, &trying);
        cx.respond(tx, &mut trying);
        self.forward(cx, at, tx, back, request);
    }

    /// The session of a pair of dialogs has changed: an early one too, of which the log has no other news.
    pub(super) fn record_refresh(&mut self, cx: &mut Services, pair: PairId) {
        let record = store_pb::Refresh {
            call: self.uid.to_bytes().to_vec().into(),
            epoch: self.epoch.0,
            seq: self.journal.next_seq(),
            dialog: Some(self.record(pair)),
            number: self.journal.count(Counted::Update),
        };
        self.journal.push(cx, Kind::Refresh(record));
    }
}
