//! Requests within the dialog on their way from one leg to the other, and their responses back: how they are written on the other side, and
//! what their answers mean for the call. On their way they are `crossing`'s.

use std::time::Duration;

use super::courier::{Answer, Failed};
use super::failure::upstream;
use super::offer_answer::Agreed;
use super::outgoing::Purpose;
use super::reliable::{self, Wish};
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::two_hundred::Accepted;
use super::{Call, CallPhase, body, headers, offer_answer};
use crate::crossing::{Asked, Crossing, Loss, Origin, State};
use crate::dialog::{DialogRef, PairId};
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ResponseAction, ServerTxId};

/// Requests of one call under way at once: a UA has one of each kind open, and a broken one must not fill memory.
const MAX_CROSSINGS: usize = 32;
/// RFC 3261 §16.6 step 11 as a model: a re-INVITE of which its far end has said nothing but 100 for so long is given up.
const STALE: Duration = Duration::from_secs(180);

/// What a request that crosses means for offers and answers, and what is taken back should it come to nothing.
#[derive(Debug, Default)]
pub struct Exchange {
    /// It has an offer.
    pub(super) offered: bool,
    /// A reliable provisional response has answered that offer (RFC 3262 §5).
    pub(super) answered: bool,
    /// It has none, and a reliable provisional response has: the PRACK for that answers.
    pub(super) early_offer: bool,
    /// What stood before its offer; `None`: nothing is to be taken back.
    pub(super) before: Option<Agreed>,
    /// How often it was sent again with a longer interval (422).
    raises: u8,
    /// What our Contacts said of the far ends before it came, the caller's leg first; `None`: it changed nothing of that.
    contacts: Option<[Box<str>; 2]>,
}

impl Exchange {
    /// Of a refresh.
    pub(super) fn of_refresh(offered: bool) -> Exchange {
        Exchange { offered, ..Exchange::default() }
    }
}

/// True for requests that, with their 2xx, say where further requests go: RFC 3261 §12.2, RFC 3311 §5.1, RFC 6665 §4.4.1, RFC 3515 §2.2.
/// In a 200 to OPTIONS a Contact means something else (RFC 3261 §11.2).
fn refreshes_target(method: &Method) -> bool {
    matches!(method, Method::Invite | Method::Update | Method::Subscribe | Method::Notify | Method::Refer)
}

impl Call {
    pub(super) fn forward(&mut self, cx: &mut Services, from: DialogRef, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let to = from.other();
        let status = match headers::next_max_forwards(request) {
            // A far end of RFC 2543 has no tag, and a dialog all the same (RFC 3261 §12.1.1, §12.1.2).
            _ if self.leg(to.side).gone => Some(481),
            // There is a dialog with this side, and none yet with the other: not now (RFC 3261 §21.5.1).
            _ if self.pairs[to].dialog.remote_tag.is_none() && self.phase != CallPhase::Answered => Some(500),
            _ if self.crossings.count() >= MAX_CROSSINGS => Some(500),
            Err(headers::MaxForwardsError::Exhausted) => Some(483),
            Err(headers::MaxForwardsError::Malformed) => Some(400),
            Ok(_) => None,
        };
        if let Some(status) = status {
            self.refuse_request(cx, from.side, tx, &back, request, status);
            return;
        }
        self.note_for_dispatch(cx, request);
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
        let facts = Exchange { offered, ..Exchange::default() };
        let asked = Asked { request: request.clone(), server: tx, back };
        let crossing = Crossing::new(cx.serial(), to, Origin::FarEnd(asked), facts);
        self.cross(cx, crossing, ready);
    }

    /// A request is under way from now on. `ready`: it goes out at once.
    pub(super) fn cross(&mut self, cx: &mut Services, crossing: Crossing<Exchange>, ready: bool) {
        let id = crossing.id();
        self.crossings.insert(crossing);
        if ready {
            self.send_crossing(cx, id);
        }
    }

    /// The ports are there: those that waited for them go out.
    pub(super) fn release_crossings(&mut self, cx: &mut Services) {
        let held: Vec<u64> = self.crossings.iter().filter(|c| c.is_held()).map(Crossing::id).collect();
        for id in held {
            self.send_crossing(cx, id);
        }
    }

    fn send_crossing(&mut self, cx: &mut Services, id: u64) {
        let Some(crossing) = self.crossings.get(id) else { return };
        let to = crossing.to();
        let Some(method) = crossing.method().cloned() else { return };
        let request = crossing.asked().map(|asked| asked.request.clone());
        let draft = self.write_crossing(cx, id, to, &method, request.as_ref());
        let cseq = self.pairs[to].dialog.local_cseq;
        if let Some(crossing) = self.crossings.get_mut(id) {
            crossing.write(cseq, draft);
        }
        if method == Method::Invite {
            cx.start_timer(STALE, Timer::Call(self.id, CallTimer::Stale(id)));
        }
        let failed = self.courier().send(cx, id);
        self.on_crossing_failed(cx, failed);
    }

    /// The request as it goes out. `request`: that of the far end, of which this one brings what crosses; `None`: it is a refresh of ours.
    fn write_crossing(&mut self, cx: &mut Services, id: u64, to: DialogRef, method: &Method, request: Option<&Message>) -> Draft {
        let from = to.other();
        let session = matches!(method, Method::Invite | Method::Update);
        let mut draft = self.pairs[to].dialog.request(method);
        if let Some(n) = request.and_then(|request| headers::next_max_forwards(request).ok()) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        if session || request.is_some_and(|request| request.first(HeaderId::Contact).is_some()) {
            let contacts = [Side::Caller, Side::Callee].map(|side| self.leg(side).contact_params.clone());
            if let Some(crossing) = self.crossings.get_mut(id) {
                crossing.facts.contacts.get_or_insert(contacts);
            }
            let (leg, half) = self.leg_and_half(to);
            let contact = match request {
                Some(request) => leg.contact_for(cx, half, request),
                None => leg.contact(cx, half),
            };
            draft.push(HeaderId::Contact, contact);
        }
        if let Some(request) = request {
            headers::copy_through(request, &mut draft);
        }
        cx.shape(&self.leg(from.side).trunk, &self.leg(to.side).trunk, method, self.emergency, &mut draft);
        if let Some(request) = request {
            self.map_transfer(cx, from.side, request, &mut draft);
            if let Some(rack) = self.map_rack(cx, from, request) {
                draft.push(HeaderId::RAck, rack);
            }
        }
        // RFC 4028 §7.4: nothing is refreshed before there is a session.
        if session && (self.phase == CallPhase::Answered || method == &Method::Invite) {
            let leg = self.leg(to.side);
            leg.session.offer(cx, &leg.trunk, &mut draft);
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
                if method == &Method::Invite {
                    draft.set_body(Some("application/sdp"), self.pairs[to].local_sdp.clone());
                }
                self.session_ids.put(to.side, &mut draft);
            }
        }
        draft
    }

    /// A response to a request that crossed, or to a refresh.
    pub fn on_crossing_response(
        &mut self,
        cx: &mut Services,
        id: u64,
        (tx, action): (ClientTxId, ResponseAction),
        back: &ReturnPath,
        response: &Message,
    ) {
        let Some(crossing) = self.crossings.get(id) else {
            // A 2xx to a re-INVITE, repeated because our ACK was lost.
            self.on_late_2xx(cx, response);
            return;
        };
        let to = crossing.to();
        self.ladder.received(cx.now.unix, self.leg(to.side).realm, back, response);
        self.session_ids.learn(to.side, response);
        if action == ResponseAction::Absorb {
            return;
        }
        match self.courier().on_response(cx, tx, action, response) {
            Answer::None => {}
            Answer::Failed(failed) => self.on_crossing_failed(cx, Some(failed)),
            Answer::Provisional => self.on_crossing_provisional(cx, id, response),
            Answer::Final => self.on_crossing_final(cx, id, tx, response),
        }
    }

    fn on_crossing_provisional(&mut self, cx: &mut Services, id: u64, response: &Message) {
        let Some(crossing) = self.crossings.get(id).filter(|c| c.is(&Method::Invite)) else { return };
        let (from, exchanged, asked) = (crossing.from(), (crossing.facts.offered, crossing.cseq()), crossing.asked().cloned());
        if response.status().is_none_or(|status| status <= 100) {
            return;
        }
        if let Some(asked) = asked {
            // RFC 3262 §3: who requires reliable ones is sent no others, and a re-INVITE is as well off without.
            if reliable::rseq_of(response).is_none() && Wish::of(&asked.request) == Wish::Required {
                return;
            }
            self.answer_crossing(cx, from, &asked, exchanged, response);
        }
        self.note_early_answer(id, response);
    }

    fn on_crossing_final(&mut self, cx: &mut Services, id: u64, tx: ClientTxId, response: &Message) {
        let status = response.status().unwrap_or(500);
        let accepted = (200..300).contains(&status);
        if status == 422 && self.raise_crossing(cx, id, tx, response) {
            return;
        }
        let Some(mut crossing) = self.courier().take(cx, id, Some(tx)) else { return };
        let (from, to) = (crossing.from(), crossing.to());
        if accepted && refreshes_target(response.method()) {
            // RFC 3261 §12.2.2: with the acceptance, and not before: a request that is refused changes nothing.
            if let Some(asked) = crossing.asked() {
                self.pairs[from].dialog.on_target_refresh(&asked.request);
            }
            self.pairs[to].dialog.on_target_refresh(response);
        }
        if status >= 300 {
            self.take_contacts_back(&mut crossing.facts);
        }
        if let Some(asked) = crossing.asked() {
            self.answer_crossing(cx, from, asked, (crossing.facts.offered, crossing.cseq()), response);
        }
        self.conclude(cx, &mut crossing, response);
        let session = accepted && matches!(response.method(), Method::Invite | Method::Update);
        match crossing.asked() {
            Some(Asked { request, .. }) => {
                match request.method() {
                    Method::Invite => self.keep_reinvite(cx, from.side, request.cseq(), crossing.cseq()),
                    Method::Refer if accepted => self.keep_refer(from.side, request.cseq(), crossing.cseq()),
                    Method::Notify => self.note_last(from.side, request),
                    _ => {}
                }
                if session {
                    let leg = self.leg_mut(to.side);
                    leg.session.on_accepted(cx, &leg.trunk, response);
                }
            }
            None => self.on_refreshed(cx, to, crossing.cseq(), response),
        }
        if session {
            self.record_refresh(cx, to.pair);
        }
    }

    /// A request came to nothing: our Contacts say of the far ends what they said before.
    fn take_contacts_back(&mut self, facts: &mut Exchange) {
        if let Some([caller, callee]) = facts.contacts.take() {
            (self.caller.contact_params, self.callee.contact_params) = (caller, callee);
        }
    }

    /// The far end wants a longer session interval: the same request with it. False: it said nothing of use, or too often.
    fn raise_crossing(&mut self, cx: &mut Services, id: u64, tx: ClientTxId, response: &Message) -> bool {
        let Some(crossing) = self.crossings.get(id) else { return false };
        let (to, raises) = (crossing.to(), crossing.facts.raises);
        let wanted = matches!(crossing.state(), State::Sent(_));
        if !wanted || raises >= super::session_timer::MAX_RAISES || !self.leg_mut(to.side).session.raise(response) {
            return false;
        }
        self.courier().restart(cx, id, tx);
        if let Some(crossing) = self.crossings.get_mut(id) {
            crossing.facts.raises += 1;
        }
        self.send_crossing(cx, id);
        true
    }

    fn on_late_2xx(&mut self, cx: &mut Services, response: &Message) {
        if response.method() == &Method::Invite && response.status().is_some_and(|s| (200..300).contains(&s)) {
            for side in [Side::Caller, Side::Callee] {
                if self.pairs[self.toward(side)].dialog.call_id.as_ref() == response.call_id() {
                    self.courier().repeat_ack(cx, side, response.cseq(), response.to_tag());
                }
            }
        }
    }

    /// A response to the far end that asked in that dialog, with what crosses of the other one's. `offered`: its request had an offer;
    /// `cseq`: its number on the other leg.
    fn answer_crossing(
        &mut self,
        cx: &mut Services,
        at: DialogRef,
        asked: &Asked,
        (offered, cseq): (bool, u32),
        response: &Message,
    ) {
        let Asked { request, server: tx, back } = asked;
        let status = response.status().unwrap_or(500);
        let invite = request.method() == &Method::Invite;
        let told = upstream(status);
        let mut draft = request.response(told, (told == status).then(|| response.reason()));
        if status < 300 && (invite || response.first(HeaderId::Contact).is_some() || request.method() == &Method::Update) {
            // Rule K: whatever way the request came, the far end learns the owner's own address again.
            let (leg, half) = self.leg_and_half(at);
            draft.push(HeaderId::Contact, leg.contact_for(cx, half, response));
        }
        headers::copy_through(response, &mut draft);
        if told != status {
            draft.remove(HeaderId::RetryAfter);
        }
        cx.shape(&self.leg(at.side.other()).trunk, &self.leg(at.side).trunk, request.method(), self.emergency, &mut draft);
        let refreshes = matches!(request.method(), Method::Invite | Method::Update) && self.phase == CallPhase::Answered;
        if refreshes && (200..300).contains(&status) {
            let leg = self.leg_mut(at.side);
            leg.session.accept(cx, &leg.trunk, request, &mut draft);
        }
        self.offer_answer().put(cx, at.other(), response, offered, &mut draft);
        let realm = self.leg(at.side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        let payload = cx.respond(*tx, &mut draft);
        if invite && (200..300).contains(&status) {
            let delayed = !offered && body::find_sdp(response).is_some();
            if let Some(payload) = payload {
                let (answers, cseq) = (delayed.then_some(cseq), request.cseq());
                self.two_hundred.accepted(cx, at.side, Accepted { tx: *tx, cseq, payload, back: *back, answers });
            }
            if !delayed {
                let ack = self.session_ids.ack(&self.pairs[at.other()].dialog, at.side.other(), cseq);
                self.send_on(cx, at.other(), ack, Purpose::Ack(cseq));
            }
        }
    }

    /// A request got no response, or could not be sent.
    pub(super) fn fail_crossing(&mut self, cx: &mut Services, id: u64, status: u16) {
        let Some(mut crossing) = self.courier().take(cx, id, None) else { return };
        self.take_contacts_back(&mut crossing.facts);
        if let Some(before) = crossing.facts.before.take() {
            self.offer_answer().take_back(cx, before);
        }
        let (from, to, invite) = (crossing.from(), crossing.to(), crossing.is(&Method::Invite));
        let Some(asked) = crossing.into_asked() else { return self.on_refresh_failed(cx, to.side, status) };
        // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
        let status = if status == 408 && !invite { 504 } else { upstream(status) };
        self.refuse_request(cx, from.side, asked.server, &asked.back, &asked.request, status);
    }

    /// Nothing comes of a request by this transaction.
    pub fn on_lost(&mut self, cx: &mut Services, tx: ClientTxId, loss: Loss) {
        let failed = self.courier().on_lost(cx, tx, loss);
        self.on_crossing_failed(cx, failed);
    }

    /// A request has been silent for as long as one is waited for where there are other ways.
    pub(super) fn on_silent(&mut self, cx: &mut Services, tx: ClientTxId) {
        let failed = self.courier().on_silent(cx, tx);
        self.on_crossing_failed(cx, failed);
    }

    /// A request came to nothing, if it did.
    pub(super) fn on_crossing_failed(&mut self, cx: &mut Services, failed: Option<Failed>) {
        if let Some(Failed { id, status }) = failed {
            self.fail_crossing(cx, id, status);
        }
    }

    /// CANCEL for a re-INVITE under way. False: it is none of this call's.
    pub(super) fn on_cancel_crossing(&mut self, cx: &mut Services, invite: ServerTxId, request: &Message) -> bool {
        let Some(id) = self.crossings.of_server(invite).map(Crossing::id) else { return false };
        let reason = super::reason::reasons(request);
        if self.courier().on_cancel(cx, id, reason.as_deref()) {
            self.fail_crossing(cx, id, 487);
        }
        true
    }

    /// RFC 3261 §9.1: 64 × T1 after its CANCEL a re-INVITE is given up, so that another can be sent.
    pub(super) fn on_crossing_abandoned(&mut self, cx: &mut Services, id: u64) {
        if self.crossings.get(id).is_some_and(|c| c.state().is_given_up()) {
            self.fail_crossing(cx, id, 487);
        }
    }

    /// Final answers to whatever is still open, when the call ends.
    pub(super) fn refuse_open_forwards(&mut self, cx: &mut Services) {
        self.refuse_forwards(cx, |_| true);
    }

    /// Final answers to the open requests of those pairs of dialogs: they are not waited for any more.
    pub(super) fn refuse_forwards(&mut self, cx: &mut Services, which: impl Fn(PairId) -> bool) {
        let refused = |c: &&Crossing<Exchange>| !c.is_own() && which(c.to().pair);
        let refused: Vec<u64> = self.crossings.iter().filter(refused).map(Crossing::id).collect();
        for id in refused {
            let Some(crossing) = self.courier().take(cx, id, None) else { continue };
            let (from, invite) = (crossing.from(), crossing.is(&Method::Invite));
            if let Some(asked) = crossing.into_asked() {
                let status = if invite { 487 } else { 481 };
                self.refuse_request(cx, from.side, asked.server, &asked.back, &asked.request, status);
            }
        }
    }
}
