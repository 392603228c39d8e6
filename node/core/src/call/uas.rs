//! The caller's INVITE until its one final answer (RFC 3261 §13.3), and its responses as they are written.

use bytes::Bytes;

use super::ALLOW;
use super::about::About;
use super::body;
use super::context::Context;
use super::failure::{Failure, upstream};
use super::headers;
use super::media::CallMedia;
use super::offer_answer::OfferAnswer;
use super::respond::finish_response;
use super::sides::Sides;
use super::timer_c::Ringing;
use super::two_hundred::Accepted;
use crate::dialog::PairId;
use crate::io::{ReturnPath, Side};
use crate::local::AGENT;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ServerTxId, ServerUser};

/// The user agent server of a call's first INVITE.
#[derive(Debug)]
pub struct Uas {
    /// The INVITE's transaction, until it has its final answer.
    open: Option<Unanswered>,
    /// The INVITE's way back.
    pub back: ReturnPath,
    /// How long the called side has rung, as the caller hears it.
    pub(super) ringing: Ringing,
}

/// The INVITE's transaction while it has no final answer: who gives that takes it, and there is no second one.
#[derive(Debug)]
pub(super) struct Unanswered(ServerTxId);

impl Unanswered {
    /// The transaction.
    pub(super) fn tx(&self) -> ServerTxId {
        self.0
    }
}

impl Uas {
    /// `tx`: the INVITE's transaction; `None`: another node answers it.
    pub(super) fn new(tx: Option<ServerTxId>, back: ReturnPath, ringing: Ringing) -> Uas {
        Uas { open: tx.map(Unanswered), back, ringing }
    }

    /// True while the INVITE has no final answer from here.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Its transaction, while it has no final answer.
    pub(super) fn tx(&self) -> Option<ServerTxId> {
        self.open.as_ref().map(Unanswered::tx)
    }

    /// Its final answer is to be given.
    pub(super) fn take(&mut self) -> Option<Unanswered> {
        self.open.take()
    }

    /// It is not given after all.
    pub(super) fn put_back(&mut self, unanswered: Unanswered) {
        self.open = Some(unanswered);
    }

    /// This node answers it again, on that transaction.
    pub(super) fn reopen(&mut self, tx: Option<ServerTxId>) {
        self.open = tx.map(Unanswered);
    }

    /// The same on a transaction of its own: nobody has answered it from here. False: there is no room for one.
    pub(super) fn reopen_anew(&mut self, cx: &mut Context, about: &About) -> bool {
        let tx = self.transaction_anew(cx, about);
        self.reopen(tx);
        self.is_open()
    }

    /// A transaction for the INVITE of a call whose own was left to another node.
    pub(super) fn transaction_anew(&self, cx: &mut Context, about: &About) -> Option<ServerTxId> {
        let key = headers::server_key(&about.invite, &Method::Invite);
        cx.create_server(ServerUser::Call(about.id), key, true, self.back)
    }

    /// Another node answers it from now on.
    pub(super) fn leave(&mut self, cx: &mut Context) {
        if let Some(Unanswered(tx)) = self.open.take() {
            cx.tx.drop_server(tx);
        }
    }
}

/// What the responses to the caller's INVITE touch.
pub(super) struct Answering<'a> {
    pub(super) about: &'a About,
    pub(super) uas: &'a mut Uas,
    pub(super) sides: &'a mut Sides,
    pub(super) media: &'a mut CallMedia,
}

impl Answering<'_> {
    /// What a description on its way changes.
    pub(super) fn offer_answer(&mut self) -> OfferAnswer<'_> {
        OfferAnswer { media: self.media, sides: self.sides, class: self.about.class() }
    }

    /// A response that makes an early dialog, or the dialog.
    pub(super) fn own_response(&self, cx: &Context, pair: PairId, status: u16, reason: Option<&str>) -> Draft {
        let invite = &self.about.invite;
        let mut draft = invite.response(status, reason);
        let half = &self.sides.pairs[pair.caller()];
        draft.set(HeaderId::To, format!("{};tag={}", invite.to(), half.dialog.local_tag));
        // RFC 3261 §12.1.1: what makes a dialog returns the route.
        for route in invite.all(HeaderId::RecordRoute) {
            draft.push(HeaderId::RecordRoute, route);
        }
        draft.push(HeaderId::Contact, self.sides.caller.contact(cx, half));
        draft
    }

    /// The same with the fields of the called side's response that cross.
    pub(super) fn passed_on(&mut self, cx: &Context, pair: PairId, status: u16, response: &Message) -> Draft {
        self.sides.caller.learn_contact(response);
        let mut draft = self.own_response(cx, pair, status, (response.status() == Some(status)).then(|| response.reason()));
        headers::copy_through(response, &mut draft);
        let (here, there) = (&self.sides.callee.trunk, &self.sides.caller.trunk);
        cx.shape(here, there, &Method::Invite, self.about.emergency, &mut draft);
        draft
    }

    /// Sends a provisional response: its octets. `None`: the INVITE has its final answer, or this could not be written.
    pub(super) fn say(&mut self, cx: &mut Context, draft: &mut Draft) -> Option<Bytes> {
        let tx = self.uas.tx()?;
        self.sides.respond(cx, Side::Caller, tx, &self.uas.back, draft)
    }

    /// Sends the final response: its octets, where it could be written.
    pub(super) fn finish(&mut self, cx: &mut Context, unanswered: Unanswered, mut draft: Draft) -> Option<Bytes> {
        let Unanswered(tx) = unanswered;
        self.sides.respond(cx, Side::Caller, tx, &self.uas.back, &mut draft)
    }

    /// The 2xx for the called side's, in the dialog of that pair, with what both session timers agree on. `owed`: the caller has had the answer to
    /// its offer only unreliably.
    pub(super) fn accept(&mut self, cx: &mut Context, pair: PairId, owed: bool, response: &Message) -> Draft {
        let mut draft = self.passed_on(cx, pair, response.status().unwrap_or(200), response);
        let Sides { caller, callee, .. } = self.sides;
        caller.session.accept(cx, &caller.trunk, &self.about.invite, &mut draft);
        callee.session.on_accepted(cx, &callee.trunk, response);
        let has_offer = body::find_sdp(&self.about.invite).is_some();
        self.offer_answer().put(cx, pair.callee(), response, has_offer, &mut draft);
        if owed && body::find_sdp(response).is_none() {
            // Its offer has no other answer (RFC 3261 §13.2.1): more than any other body, which comes from a gateway, needs.
            draft.set_body(Some("application/sdp"), self.sides.pairs[pair.caller()].local_sdp.clone());
        }
        draft
    }

    /// The 2xx once more, for a call that another node has answered: as the log has it, with our address and ports.
    pub(super) fn accept_again(&mut self, cx: &mut Context) -> Option<Accepted> {
        if !self.uas.reopen_anew(cx, self.about) {
            return None;
        }
        let unanswered = self.uas.take()?;
        let pair = self.sides.pairs.current();
        let mut draft = self.own_response(cx, pair, 200, None);
        let caller = &mut self.sides.caller;
        caller.session.accept(cx, &caller.trunk, &self.about.invite, &mut draft);
        draft.push(HeaderId::Allow, ALLOW);
        self.sides.session_ids.put(Side::Caller, &mut draft);
        let described = &self.sides.pairs[pair.caller()].local_sdp;
        if !described.is_empty() {
            draft.set_body(Some("application/sdp"), described.clone());
        }
        let (tx, cseq, back) = (unanswered.tx(), self.about.invite.cseq(), self.uas.back);
        let payload = self.finish(cx, unanswered, draft)?;
        Some(Accepted { tx, cseq, payload, back, answers: None })
    }

    /// Answers with a failure of our own. `unsecured`: what is there cannot be reached as was dialled (RFC 5630).
    pub(super) fn refuse(&mut self, cx: &mut Context, status: u16, unsecured: bool) {
        let Some(unanswered) = self.uas.take() else { return };
        let mut draft = self.about.invite.response(status, None);
        finish_response(&mut draft, &self.about.invite, status, self.sides.tag(), AGENT);
        self.sides.session_ids.put(Side::Caller, &mut draft);
        if unsecured && status == 480 {
            draft.push(HeaderId::Warning, format!("380 {AGENT} \"SIPS Not Allowed\""));
        }
        self.finish(cx, unanswered, draft);
    }

    /// The called side's refusal goes to the caller: the status that it gets. `None`: it has its final answer, or nothing was refused there.
    pub(super) fn pass_failure(&mut self, cx: &mut Context, failure: &Failure) -> Option<u16> {
        let response = failure.response.as_ref()?;
        let unanswered = self.uas.take()?;
        let status = upstream(failure.status);
        let pair = self.sides.pairs.current();
        let mut draft = self.passed_on(cx, pair, status, response);
        draft.remove(HeaderId::Contact);
        if status != failure.status {
            draft.remove(HeaderId::RetryAfter);
        }
        if (300..400).contains(&status) {
            for contact in response.all(HeaderId::Contact) {
                draft.push(HeaderId::Contact, contact);
            }
        }
        self.offer_answer().put(cx, pair.callee(), response, false, &mut draft);
        self.finish(cx, unanswered, draft);
        Some(status)
    }
}
