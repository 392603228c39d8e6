//! ACKs of far ends for our 2xx, ours for theirs, and what either means for the call; and a 2xx that nobody wants: cancelled, late, or of a second
//! fork (RFC 3261 §13.2.2.4).

use super::outgoing::Purpose;
use super::services::Services;
use super::two_hundred::{Due, SentAck};
use super::ways::{FarEnd, NextHop};
use super::{Call, CallPhase, Cause, body};
use crate::crossing::Way;
use crate::dialog::Dialog;
use crate::io::{CallOutcome, Counter, MisrouteAction, ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};

impl Call {
    /// Time to repeat a 2xx, or to give up waiting for its ACK.
    pub(super) fn on_repeat_2xx(&mut self, cx: &mut Services, side: Side) {
        match self.two_hundred.on_due(cx, side) {
            Due::Nothing => {}
            Due::Repeated if !self.emergency => {}
            Due::Repeated | Due::Waits => self.media.ask(cx),
            Due::GivenUp => self.give_up_2xx(cx, side),
        }
    }

    /// No ACK came. An emergency caller that is heard has the 2xx: its ACK went astray, to a node that is cut off or to an address that
    /// nobody reads, and is no reason to end its call (AC-55). RFC 3261 §13.3.1.4 says SHOULD.
    fn give_up_2xx(&mut self, cx: &mut Services, side: Side) {
        // An answer that it waited for will not come: the other leg's 2xx gets its ACK before the BYE.
        self.ack_unanswered(cx);
        self.two_hundred.forget(side);
        if self.phase == CallPhase::Answered && self.emergency && self.media.is_heard(cx.now.mono, side) != Some(false) {
            cx.count(Counter::Misrouted("ACK", MisrouteAction::Missing));
            return self.flush_bye(cx, side);
        }
        cx.count(Counter::CallEnded(CallOutcome::NoAck, self.class()));
        if self.phase == CallPhase::Answered {
            // RFC 3261 §13.3.1.4: the dialog is confirmed, but the session goes.
            self.hang_up(cx, None, Cause { origin: "node", status: 200, reason: "no ACK".into() }, None);
        }
        self.flush_bye(cx, side);
    }

    /// The far end's ACK for a 2xx. `message` may carry the answer.
    pub fn on_ack(&mut self, cx: &mut Services, side: Side, back: &ReturnPath, message: &Message) {
        self.ladder.received(cx.now.unix, self.leg(side).realm, back, message);
        self.session_ids.learn(side, message);
        let at = self.toward(side);
        let (leg, half) = self.leg_and_half(at);
        leg.learn_path(&half.dialog, back);
        let Some(owed) = self.two_hundred.acked(cx, side, message.cseq()) else { return };
        if let Some(owed) = owed.filter(|_| !self.leg(side.other()).gone) {
            let mut ack = self.pairs[at.other()].dialog.ack(owed.cseq);
            self.pass(cx, at, message, &mut ack);
            self.send_on(cx, at.other(), ack, Purpose::Ack(owed.cseq));
            if let Some(before) = owed.before.filter(|_| body::find_sdp(message).is_none()) {
                // RFC 3261 §13.2.2.4 wants an answer here. Without one the offer came to nothing.
                self.offer_answer().take_back(cx, before);
            }
        }
        self.flush_bye(cx, side);
    }

    /// A 2xx whose ACK still waits for the other leg's answer is acknowledged without one, for its BYE to be lawful.
    pub(super) fn ack_unanswered(&mut self, cx: &mut Services) {
        for side in [Side::Caller, Side::Callee] {
            if let Some(cseq) = self.two_hundred.take_unanswered(side) {
                let to = self.toward(side.other());
                let ack = self.session_ids.ack(&self.pairs[to].dialog, to.side, cseq);
                self.send_on(cx, to, ack, Purpose::Ack(cseq));
            }
        }
    }

    pub(super) fn say_bye(&mut self, cx: &mut Services, side: Side, bye: Draft) {
        if let Some(bye) = self.two_hundred.pass_bye(side, bye) {
            self.leg_mut(side).gone = true;
            self.send_on(cx, self.toward(side), bye, Purpose::Alone);
        }
    }

    /// The ACK came, or will not: a BYE that waited for it goes out.
    fn flush_bye(&mut self, cx: &mut Services, side: Side) {
        if let Some(bye) = self.two_hundred.take_bye(side) {
            self.say_bye(cx, side, bye);
        }
    }

    /// A 2xx that still waits when the call ends.
    pub(super) fn drop_held_answer(&mut self, cx: &mut Services) {
        if let Some((index, response)) = self.uac.take_answer() {
            self.reject_answer(cx, index, &response);
        }
    }

    /// A 2xx that nobody wants any more (cancelled, late, or from a second fork): ACK and BYE at once.
    pub(super) fn reject_answer(&mut self, cx: &mut Services, index: u32, response: &Message) {
        let Some(attempt) = self.uac.attempt(index) else { return };
        let mut dialog: Dialog = attempt.dialog.clone();
        dialog.on_dialog_response(response);
        cx.drop_own_routes(&mut dialog);
        dialog.local_cseq = dialog.local_cseq.max(self.pairs.cseq_of(attempt.index, response.to_tag()).unwrap_or(0));
        let (tls_name, cseq) = (attempt.tls_name.clone(), attempt.cseq);
        let candidate = &attempt.candidate;
        let far = FarEnd {
            realm: candidate.realm,
            trunk: &candidate.trunk,
            dialog: &dialog,
            path: &attempt.path,
            ingress: None,
            tls_name: tls_name.as_deref(),
            secure: false,
        };
        // RFC 3261 §12.2.1.1. A name is not waited for: where the INVITE went is nearly always right.
        let path = match far.next_hop(cx) {
            NextHop::Known { path, .. } => path,
            NextHop::Ask(_) => attempt.path,
        };
        let back = ReturnPath::here(path);
        if self.courier().repeat_ack(cx, Side::Callee, cseq, dialog.remote_tag.as_deref()) {
            return;
        }
        let mut ack = dialog.ack(cseq);
        self.session_ids.put(Side::Callee, &mut ack);
        self.peer(Side::Callee).authorize(cx, &mut ack);
        let branch = cx.mint_branch();
        ack.insert_first(HeaderId::Via, cx.via(&path, &branch));
        if let Some(payload) = cx.encode(&ack) {
            let (to, remote_tag) = (self.toward(Side::Callee), dialog.remote_tag.clone());
            let way = Way { back, tls_name: tls_name.clone() };
            let sent = SentAck { to, cseq, remote_tag, way, payload: payload.clone(), again: None };
            self.two_hundred.keep_refused(sent);
            self.ladder.sent(cx.now.unix, self.callee.realm, &back, &ack);
            cx.send(back, tls_name.clone(), payload);
        }
        let mut bye = dialog.request(&Method::Bye);
        self.session_ids.put(Side::Callee, &mut bye);
        let (plain, way) = (bye.clone(), Way { back, tls_name });
        let mut peer = self.peer(Side::Callee);
        peer.authorize(cx, &mut bye);
        let authenticated = peer.authenticated(cx, Some(&plain), &way);
        let branch = cx.mint_branch();
        bye.insert_first(HeaderId::Via, cx.via(&path, &branch));
        self.ladder.sent(cx.now.unix, self.callee.realm, &back, &bye);
        if let Some(payload) = cx.encode(&bye) {
            cx.send_after_bye(self.id, branch.into(), way.back, way.tls_name, payload, authenticated);
        }
    }
}
