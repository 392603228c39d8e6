//! Requests within the dialog on their way from one leg to the other, and their responses back: how they are written on the other side, and
//! what their answers mean for the call. On their way they are `crossing`'s.

use std::time::Duration;

use super::bridge::{Bridge, Exchange, Outcome, Reinvite};
use super::context::Context;
use super::courier::{Failed, ResponseKind};
use super::failure::upstream;
use super::reliable::{self, Wish};
use super::timer::{CallTimer, TimerUser};
use super::two_hundred::Accepted;
use super::{body, headers, offer_answer};
use crate::crossing::{Asked, Crossing, CrossingState, Loss, Origin};
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ResponseAction, ServerTxId};

/// Requests of one call under way at once: a UA has one of each kind open, and a broken one must not fill memory.
const MAX_CROSSINGS: usize = 32;
/// RFC 3261 §16.6 step 11 as a model: a re-INVITE of which its far end has said nothing but 100 for so long is given up.
const STALE: Duration = Duration::from_secs(180);

/// True for requests that, with their 2xx, say where further requests go: RFC 3261 §12.2, RFC 3311 §5.1, RFC 6665 §4.4.1, RFC 3515 §2.2.
/// In a 200 to OPTIONS a Contact means something else (RFC 3261 §11.2).
fn refreshes_target(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer)
}

impl Bridge<'_> {
    /// A far end's request other than BYE and PRACK: refused, answered here, or passed on.
    pub(super) fn on_request(&mut self, cx: &mut Context, at: DialogRef, asked: Asked) {
        let refused = match asked.request.method() {
            Method::Update if self.is_refresh(at.side, &asked.request) => return self.answer_refresh(cx, at, &asked),
            Method::Update => self.refuse_update(at, &asked.request),
            Method::Invite => self.refuse_reinvite(at),
            _ => None,
        };
        if let Some(status) = refused {
            return self.sides.refuse(cx, at.side, &asked, status);
        }
        if asked.request.method() == &Method::Invite {
            let mut trying = asked.request.response(100, None);
            self.sides.respond(cx, at.side, asked.server, &asked.back, &mut trying);
        }
        self.forward(cx, at, asked, None);
    }

    /// A far end's request goes to the other side, or is refused. `rack`: which response it acknowledges, in the other leg's numbers.
    pub(super) fn forward(&mut self, cx: &mut Context, from: DialogRef, asked: Asked, rack: Option<String>) {
        let to = from.other();
        let status = match headers::next_max_forwards(&asked.request) {
            // A far end of RFC 2543 has no tag, and a dialog all the same (RFC 3261 §12.1.1, §12.1.2).
            _ if self.sides.leg(to.side).gone => Some(481),
            // There is a dialog with this side, and none yet with the other: not now (RFC 3261 §21.5.1).
            _ if self.sides.pairs[to].dialog.remote_tag.is_none() && !self.is_answered() => Some(500),
            _ if self.underway.crossings.count() >= MAX_CROSSINGS => Some(500),
            Err(headers::MaxForwardsError::Exhausted) => Some(483),
            Err(headers::MaxForwardsError::Malformed) => Some(400),
            Ok(_) => None,
        };
        if let Some(status) = status {
            return self.sides.refuse(cx, from.side, &asked, status);
        }
        let request = &asked.request;
        self.records.notice(cx, self.about, request);
        let streams = if offer_answer::counts(request) { body::Descriptions::of(request).streams() } else { 0 };
        if matches!(request.method(), Method::Invite | Method::Update) {
            self.media.on_offer();
        }
        let ready = self.media.ensure(cx, streams);
        let offered = match request.method() {
            Method::Invite | Method::Update => streams > 0,
            Method::Prack => streams > 0 && self.prack_offers(from),
            _ => false,
        };
        let facts = Exchange { offered, rack, ..Exchange::default() };
        let crossing = Crossing::new(cx.serial(), to, Origin::FarEnd(asked), facts);
        let lost = self.cross(cx, crossing, ready);
        debug_assert_eq!(lost, None, "a far end's request is no refresh");
    }

    /// A request is under way from now on. `ready`: it goes out at once.
    pub(super) fn cross(&mut self, cx: &mut Context, crossing: Crossing<Exchange>, ready: bool) -> Option<Outcome> {
        let id = crossing.id();
        self.underway.crossings.insert(crossing);
        if ready { self.send(cx, id) } else { None }
    }

    /// The ports are there: those that waited for them go out.
    pub(super) fn release(&mut self, cx: &mut Context) -> Option<Outcome> {
        let held: Vec<u64> = self.underway.crossings.iter().filter(|c| c.is_held()).map(Crossing::id).collect();
        held.into_iter().filter_map(|id| self.send(cx, id)).last()
    }

    fn send(&mut self, cx: &mut Context, id: u64) -> Option<Outcome> {
        let crossing = self.underway.crossings.get(id)?;
        let to = crossing.to();
        let method = crossing.method().cloned()?;
        let request = crossing.asked().map(|asked| asked.request.clone());
        let draft = self.write(cx, id, to, &method, request.as_ref());
        let cseq = self.sides.pairs[to].dialog.local_cseq;
        if let Some(crossing) = self.underway.crossings.get_mut(id) {
            crossing.write(cseq, draft);
        }
        if method == Method::Invite {
            cx.start_timer(STALE, TimerUser::Call(self.about.id, CallTimer::Stale(id)));
        }
        let failed = self.courier().send(cx, id);
        self.on_failed(cx, failed)
    }

    /// The request as it goes out. `request`: that of the far end, of which this one brings what crosses; `None`: it is a refresh of ours.
    fn write(&mut self, cx: &mut Context, id: u64, to: DialogRef, method: &Method, request: Option<&Message>) -> Draft {
        let from = to.other();
        let session = matches!(method, Method::Invite | Method::Update);
        let mut draft = self.sides.pairs[to].dialog.request(method);
        if let Some(n) = request.and_then(|request| headers::next_max_forwards(request).ok()) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        if session || request.is_some_and(|request| request.first(HeaderId::Contact).is_some()) {
            let contact = self.contact_of(cx, id, to, request);
            draft.push(HeaderId::Contact, contact);
        }
        if let Some(request) = request {
            headers::copy_through(request, &mut draft);
        }
        let (here, there) = (self.sides.leg(from.side), self.sides.leg(to.side));
        cx.shape(&here.trunk, &there.trunk, method, self.about.emergency, &mut draft);
        if let Some(request) = request {
            self.underway.refers.translate(cx, from.side, there, request, &mut draft);
        }
        if let Some(rack) = self.underway.crossings.get(id).and_then(|c| c.facts.rack.as_deref()) {
            draft.push(HeaderId::RAck, rack);
        }
        // RFC 4028 §7.4: nothing is refreshed before there is a session.
        if session && (self.is_answered() || method == &Method::Invite) {
            there.session.offer(cx, &there.trunk, &mut draft);
        }
        if method == &Method::Invite {
            reliable::bridge(&mut draft);
        }
        match request {
            Some(request) => {
                let offers = self.keep_agreed(id);
                self.offer_answer().put(cx, from, request, !offers, &mut draft);
            }
            None => {
                let offers = self.underway.crossings.get(id).is_some_and(|c| c.facts.offered);
                if offers && !self.sides.pairs[to].local_sdp.is_empty() {
                    draft.set_body(Some("application/sdp"), self.sides.pairs[to].local_sdp.clone());
                }
                self.sides.session_ids.put(to.side, &mut draft);
            }
        }
        draft
    }

    /// Our Contact in a request that crosses; what our Contacts said before it is kept.
    fn contact_of(&mut self, cx: &Context, id: u64, to: DialogRef, request: Option<&Message>) -> String {
        let contacts = [Side::Caller, Side::Callee].map(|side| self.sides.leg(side).contact_params.clone());
        if let Some(crossing) = self.underway.crossings.get_mut(id) {
            crossing.facts.contacts.get_or_insert(contacts);
        }
        let (leg, half) = self.sides.leg_and_half(to);
        match request {
            Some(request) => leg.contact_for(cx, half, request),
            None => leg.contact(cx, half),
        }
    }

    /// A response to a request that crossed, or to a refresh.
    pub(super) fn on_response(
        &mut self,
        cx: &mut Context,
        id: u64,
        (tx, action): (ClientTxId, ResponseAction),
        back: &ReturnPath,
        response: &Message,
    ) -> Option<Outcome> {
        let Some(crossing) = self.underway.crossings.get(id) else {
            // A 2xx to a re-INVITE, repeated because our ACK was lost.
            self.on_late_2xx(cx, response);
            return None;
        };
        let to = crossing.to();
        self.sides.received(cx, to.side, back, response);
        if action == ResponseAction::Absorb {
            return None;
        }
        match self.courier().on_response(cx, tx, action, response) {
            ResponseKind::None => None,
            ResponseKind::Failed(failed) => self.on_failed(cx, Some(failed)),
            ResponseKind::Provisional => {
                self.on_provisional(cx, id, response);
                None
            }
            ResponseKind::Final => self.on_final(cx, id, tx, response),
        }
    }

    fn on_provisional(&mut self, cx: &mut Context, id: u64, response: &Message) {
        let Some(crossing) = self.underway.crossings.get(id).filter(|c| c.is(&Method::Invite)) else { return };
        let (from, exchanged, asked) = (crossing.from(), (crossing.facts.offered, crossing.cseq()), crossing.asked().cloned());
        if response.status().is_none_or(|status| status <= 100) {
            return;
        }
        if let Some(asked) = asked {
            // RFC 3262 §3: who requires reliable ones is sent no others, and a re-INVITE is as well off without.
            if reliable::rseq_of(response).is_none() && Wish::of(&asked.request) == Wish::Required {
                return;
            }
            self.answer(cx, from, &asked, exchanged, response);
        }
        self.note_early_answer(id, response);
    }

    fn on_final(&mut self, cx: &mut Context, id: u64, tx: ClientTxId, response: &Message) -> Option<Outcome> {
        let status = response.status().unwrap_or(500);
        let accepted = (200..300).contains(&status);
        if status == 422 && self.may_raise(id, response) {
            self.courier().restart(cx, id, tx);
            return self.send(cx, id);
        }
        let mut crossing = self.courier().take(cx, id, Some(tx))?;
        let (from, to) = (crossing.from(), crossing.to());
        if accepted && refreshes_target(response.method()) {
            // RFC 3261 §12.2.2: with the acceptance, and not before: a request that is refused changes nothing.
            if let Some(asked) = crossing.asked() {
                self.sides.pairs[from].dialog.on_target_refresh(&asked.request);
            }
            self.sides.pairs[to].dialog.on_target_refresh(response);
        }
        if status >= 300 {
            self.take_contacts_back(&mut crossing.facts);
        }
        if let Some(asked) = crossing.asked() {
            self.answer(cx, from, asked, (crossing.facts.offered, crossing.cseq()), response);
        }
        self.conclude(cx, &mut crossing, response);
        let session = accepted && matches!(response.method(), Method::Invite | Method::Update);
        let lost = match crossing.asked() {
            Some(Asked { request, .. }) => {
                self.note_done(cx, from.side, request, crossing.cseq(), accepted);
                if session {
                    let leg = self.sides.leg_mut(to.side);
                    leg.session.on_accepted(cx, &leg.trunk, response);
                }
                None
            }
            None if crossing.facts.takes_over => self.on_taken_over(cx, to, crossing.cseq(), response),
            None => self.on_refreshed(cx, to, crossing.cseq(), response),
        };
        if session {
            self.record_refresh(cx, to.pair);
        }
        lost
    }

    /// What is kept of a far end's request that has its final response. `there`: its CSeq number on the other leg.
    fn note_done(&mut self, cx: &Context, from: Side, request: &Message, there: u32, accepted: bool) {
        let here = request.cseq();
        match request.method() {
            Method::Invite => {
                self.underway.reinvites.keep(Reinvite { from, here, there, until: cx.after(reliable::GIVE_UP) });
            }
            Method::Refer if accepted => self.underway.refers.keep(from, here, there),
            Method::Notify => self.underway.refers.note_last(from, request),
            _ => {}
        }
    }

    /// A request came to nothing: our Contacts say of the far ends what they said before.
    fn take_contacts_back(&mut self, facts: &mut Exchange) {
        if let Some([caller, callee]) = facts.contacts.take() {
            (self.sides.caller.contact_params, self.sides.callee.contact_params) = (caller, callee);
        }
    }

    /// The far end wants a longer session interval: the same request is to go out with it. False: it said nothing of use, or too often.
    fn may_raise(&mut self, id: u64, response: &Message) -> bool {
        let Some(crossing) = self.underway.crossings.get_mut(id) else { return false };
        let (to, raises) = (crossing.to(), crossing.facts.raises);
        let wanted = matches!(crossing.state(), CrossingState::Sent(_));
        if !wanted || raises >= super::session_timer::MAX_RAISES || !self.sides.leg_mut(to.side).session.raise(response) {
            return false;
        }
        crossing.facts.raises += 1;
        true
    }

    fn on_late_2xx(&mut self, cx: &mut Context, response: &Message) {
        if response.method() == &Method::Invite && response.status().is_some_and(|s| (200..300).contains(&s)) {
            for side in [Side::Caller, Side::Callee] {
                if self.sides.pairs[self.sides.toward(side)].dialog.call_id.as_ref() == response.call_id() {
                    self.courier().repeat_ack(cx, side, response.cseq(), response.to_tag());
                }
            }
        }
    }

    /// A response to the far end that asked in that dialog, with what crosses of the other one's. `offered`: its request had an offer;
    /// `cseq`: its number on the other leg.
    fn answer(&mut self, cx: &mut Context, at: DialogRef, asked: &Asked, (offered, cseq): (bool, u32), response: &Message) {
        let Asked { request, server: tx, back } = asked;
        let status = response.status().unwrap_or(500);
        let invite = request.method() == &Method::Invite;
        let told = upstream(status);
        let mut draft = request.response(told, (told == status).then(|| response.reason()));
        if status < 300 && (invite || response.first(HeaderId::Contact).is_some() || request.method() == &Method::Update) {
            // Rule K: whatever way the request came, the far end learns the owner's own address again.
            let (leg, half) = self.sides.leg_and_half(at);
            draft.push(HeaderId::Contact, leg.contact_for(cx, half, response));
        }
        headers::copy_through(response, &mut draft);
        if told != status {
            draft.remove(HeaderId::RetryAfter);
        }
        let (here, there) = (&self.sides.leg(at.side.other()).trunk, &self.sides.leg(at.side).trunk);
        cx.shape(here, there, request.method(), self.about.emergency, &mut draft);
        let refreshes = matches!(request.method(), Method::Invite | Method::Update) && self.is_answered();
        if refreshes && (200..300).contains(&status) {
            let leg = self.sides.leg_mut(at.side);
            leg.session.accept(cx, &leg.trunk, request, &mut draft);
        }
        self.offer_answer().put(cx, at.other(), response, offered, &mut draft);
        let payload = self.sides.respond(cx, at.side, *tx, back, &mut draft);
        if invite && (200..300).contains(&status) {
            let delayed = !offered && body::find_sdp(response).is_some();
            if let Some(payload) = payload {
                let (answers, cseq) = (delayed.then_some(cseq), request.cseq());
                self.underway.two_hundred.accepted(cx, at.side, Accepted { tx: *tx, cseq, payload, back: *back, answers });
            }
            if !delayed {
                self.acknowledge(cx, at.other(), cseq);
            }
        }
    }

    /// A request got no response, or could not be sent.
    fn fail(&mut self, cx: &mut Context, id: u64, status: u16) -> Option<Outcome> {
        let mut crossing = self.courier().take(cx, id, None)?;
        self.take_contacts_back(&mut crossing.facts);
        if let Some(before) = crossing.facts.before.take() {
            self.offer_answer().take_back(cx, before);
        }
        let (from, to, invite) = (crossing.from(), crossing.to(), crossing.is(&Method::Invite));
        let takes_over = crossing.facts.takes_over;
        let Some(asked) = crossing.into_asked() else {
            return match takes_over {
                true => Some(Outcome::Asked { side: to.side, status, retry_after: None }),
                false => self.on_refresh_failed(cx, to.side, status),
            };
        };
        // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
        let status = if status == 408 && !invite { 504 } else { upstream(status) };
        self.sides.refuse(cx, from.side, &asked, status);
        None
    }

    /// Nothing comes of a request by this transaction.
    pub(super) fn on_lost(&mut self, cx: &mut Context, tx: ClientTxId, loss: Loss) -> Option<Outcome> {
        let failed = self.courier().on_lost(cx, tx, loss);
        self.on_failed(cx, failed)
    }

    /// A request has been silent for as long as one is waited for where there are other ways.
    pub(super) fn on_silent(&mut self, cx: &mut Context, tx: ClientTxId) -> Option<Outcome> {
        let failed = self.courier().on_silent(cx, tx);
        self.on_failed(cx, failed)
    }

    /// A request came to nothing, if it did.
    pub(super) fn on_failed(&mut self, cx: &mut Context, failed: Option<Failed>) -> Option<Outcome> {
        let Failed { id, status } = failed?;
        self.fail(cx, id, status)
    }

    /// CANCEL for a re-INVITE under way. False: it is none of this call's.
    pub(super) fn on_cancel(&mut self, cx: &mut Context, invite: ServerTxId, request: &Message) -> bool {
        let Some(id) = self.underway.crossings.of_server(invite).map(Crossing::id) else { return false };
        let reason = super::reason::reasons(request);
        if self.courier().on_cancel(cx, id, reason.as_deref()) {
            let lost = self.fail(cx, id, 487);
            debug_assert_eq!(lost, None, "nobody cancels a refresh");
        }
        true
    }

    /// RFC 3261 §9.1: 64 × T1 after its CANCEL a re-INVITE is given up, so that another can be sent.
    pub(super) fn on_abandoned(&mut self, cx: &mut Context, id: u64) -> Option<Outcome> {
        let given_up = self.underway.crossings.get(id).is_some_and(|c| c.state().is_given_up());
        if given_up { self.fail(cx, id, 487) } else { None }
    }
}
