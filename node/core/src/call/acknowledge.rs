//! ACKs of far ends for our 2xx, ours for theirs, BYE once there may be one; and a 2xx that nobody wants: cancelled, late, or of a second fork
//! (RFC 3261 §13.2.2.4, §15).

use super::attempt::Attempt;
use super::body;
use super::bridge::Bridge;
use super::context::Context;
use super::two_hundred::{RepeatOutcome, SentAck};
use super::ways::{FarEnd, NextHop};
use crate::crossing::{Purpose, Way};
use crate::dialog::{Dialog, DialogRef};
use crate::io::{CallOutcome, Counter, MisrouteAction, ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};

impl Bridge<'_> {
    /// An ACK of our own for the 2xx to the INVITE of ours with this CSeq number.
    pub(super) fn acknowledge(&mut self, cx: &mut Context, to: DialogRef, cseq: u32) {
        let ack = self.sides.session_ids.ack(&self.sides.pairs[to].dialog, to.side, cseq);
        self.send_own(cx, to, ack, Purpose::Ack(cseq));
    }

    /// Time to repeat a 2xx, or to give up waiting for its ACK. True: it is given up, and so is the session.
    pub(super) fn on_repeat_due(&mut self, cx: &mut Context, side: Side) -> bool {
        match self.underway.two_hundred.on_due(cx, side) {
            RepeatOutcome::Nothing => false,
            RepeatOutcome::Repeated | RepeatOutcome::Waits => {
                if self.about.emergency {
                    self.media.ask(cx);
                }
                false
            }
            RepeatOutcome::GivenUp => self.give_up_2xx(cx, side),
        }
    }

    /// No ACK came. An emergency caller that is heard has the 2xx: its ACK went astray, to a node that is cut off or to an address that
    /// nobody reads, and is no reason to end its call (AC-55). RFC 3261 §13.3.1.4 says SHOULD.
    fn give_up_2xx(&mut self, cx: &mut Context, side: Side) -> bool {
        // An answer that it waited for will not come: the other leg's 2xx gets its ACK before the BYE.
        self.ack_unanswered(cx);
        self.underway.two_hundred.forget(side);
        let heard = self.media.is_heard(cx.now.mono, side) != Some(false);
        if self.is_answered() && self.about.emergency && heard {
            cx.count(Counter::Misrouted("ACK", MisrouteAction::Missing));
            self.flush_bye(cx, side);
            return false;
        }
        cx.count(Counter::CallEnded(CallOutcome::NoAck, self.about.class()));
        true
    }

    /// The far end's ACK for a 2xx. `message` may carry the answer.
    pub(super) fn on_ack(&mut self, cx: &mut Context, side: Side, back: &ReturnPath, message: &Message) {
        self.sides.received(cx, side, back, message);
        let at = self.sides.toward(side);
        let (leg, half) = self.sides.leg_and_half(at);
        leg.learn_path(&half.dialog, back);
        let Some(owed) = self.underway.two_hundred.acked(cx, side, message.cseq()) else { return };
        if let Some(owed) = owed.filter(|_| !self.sides.leg(side.other()).gone) {
            let mut ack = self.sides.pairs[at.other()].dialog.ack(owed.cseq);
            self.pass(cx, at, message, &mut ack);
            self.send_own(cx, at.other(), ack, Purpose::Ack(owed.cseq));
            if let Some(before) = owed.before.filter(|_| body::find_sdp(message).is_none()) {
                // RFC 3261 §13.2.2.4 wants an answer here. Without one the offer came to nothing.
                self.offer_answer().take_back(cx, before);
            }
        }
        self.flush_bye(cx, side);
    }

    /// A 2xx whose ACK still waits for the other leg's answer is acknowledged without one, for its BYE to be lawful.
    pub(super) fn ack_unanswered(&mut self, cx: &mut Context) {
        for side in [Side::Caller, Side::Callee] {
            if let Some(cseq) = self.underway.two_hundred.take_unanswered(side) {
                self.acknowledge(cx, self.sides.toward(side.other()), cseq);
            }
        }
    }

    /// BYE to the legs that stand, but that of the far end which has sent its own; `reason`: of our own.
    pub(super) fn hang_up(&mut self, cx: &mut Context, from: Option<(Side, &Message)>, reason: Option<&str>) {
        self.refuse_open(cx, |_| true);
        self.ack_unanswered(cx);
        for side in [Side::Caller, Side::Callee] {
            if from.is_some_and(|(s, _)| s == side) || self.sides.leg(side).gone {
                continue;
            }
            let to = self.sides.toward(side);
            let mut bye = self.sides.pairs[to].dialog.request(&Method::Bye);
            match from {
                Some((_, request)) => self.pass(cx, to.other(), request, &mut bye),
                None => {
                    if let Some(reason) = reason {
                        bye.push(HeaderId::Reason, reason);
                    }
                    self.sides.session_ids.put(side, &mut bye);
                }
            }
            self.say_bye(cx, side, bye);
        }
    }

    fn say_bye(&mut self, cx: &mut Context, side: Side, bye: Draft) {
        if let Some(bye) = self.underway.two_hundred.pass_bye(side, bye) {
            self.sides.leg_mut(side).gone = true;
            self.send_own(cx, self.sides.toward(side), bye, Purpose::Alone);
        }
    }

    /// The ACK came, or will not: a BYE that waited for it goes out.
    pub(super) fn flush_bye(&mut self, cx: &mut Context, side: Side) {
        if let Some(bye) = self.underway.two_hundred.take_bye(side) {
            self.say_bye(cx, side, bye);
        }
    }

    /// A 2xx that nobody wants any more (cancelled, late, or from a second fork): ACK and BYE at once.
    pub(super) fn reject_answer(&mut self, cx: &mut Context, attempt: &Attempt, response: &Message) {
        let mut dialog: Dialog = attempt.dialog.clone();
        dialog.on_dialog_response(response);
        cx.drop_own_routes(&mut dialog);
        let used = self.sides.pairs.cseq_of(attempt.index, response.to_tag());
        dialog.local_cseq = dialog.local_cseq.max(used.unwrap_or(0));
        let way = rejected_way(cx, attempt, &dialog);
        if self.courier().repeat_ack(cx, Side::Callee, attempt.cseq, dialog.remote_tag.as_deref()) {
            return;
        }
        let mut ack = dialog.ack(attempt.cseq);
        self.sides.session_ids.put(Side::Callee, &mut ack);
        self.sides.peer(Side::Callee).authorize(cx, &mut ack);
        let branch = cx.mint_branch();
        ack.insert_first(HeaderId::Via, cx.via(&way.back.path, &branch));
        if let Some(payload) = cx.encode(&ack) {
            let (to, remote_tag) = (self.sides.toward(Side::Callee), dialog.remote_tag.clone());
            let (cseq, again) = (attempt.cseq, None);
            self.sides.sent(cx, Side::Callee, &way.back, &ack);
            cx.send(way.back, way.tls_name.clone(), payload.clone());
            self.underway.two_hundred.keep_refused(SentAck { to, cseq, remote_tag, way: way.clone(), payload, again });
        }
        let mut bye = dialog.request(&Method::Bye);
        self.sides.session_ids.put(Side::Callee, &mut bye);
        let plain = bye.clone();
        let mut peer = self.sides.peer(Side::Callee);
        peer.authorize(cx, &mut bye);
        let authenticated = peer.authenticated(cx, Some(&plain), &way);
        let branch = cx.mint_branch();
        bye.insert_first(HeaderId::Via, cx.via(&way.back.path, &branch));
        self.sides.sent(cx, Side::Callee, &way.back, &bye);
        if let Some(payload) = cx.encode(&bye) {
            cx.send_after_bye(self.about.id, branch.into(), way.back, way.tls_name, payload, authenticated);
        }
    }
}

/// Where the ACK for a 2xx that nobody wants goes, and its BYE (RFC 3261 §12.2.1.1). A name is not waited for: where the INVITE went is nearly
/// always right.
fn rejected_way(cx: &Context, attempt: &Attempt, dialog: &Dialog) -> Way {
    let tls_name = attempt.tls_name.clone();
    let far = FarEnd {
        realm: attempt.candidate.realm,
        trunk: &attempt.candidate.trunk,
        dialog,
        path: &attempt.path,
        ingress: None,
        tls_name: tls_name.as_deref(),
        secure: false,
    };
    let path = match far.next_hop(cx) {
        NextHop::Known { path, .. } => path,
        NextHop::Ask(_) => attempt.path,
    };
    Way { back: ReturnPath::here(path), tls_name }
}
