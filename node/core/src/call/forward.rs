//! Requests within the dialog on their way from one leg to the other, and their responses back.

use std::time::Duration;

use super::challenge::Retry;
use super::describe::Agreed;
use super::failure::upstream;
use super::outgoing::Purpose;
use super::reliable::{self, Wish};
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::two_hundred::Accepted;
use super::{Call, CallPhase, body, describe, headers};
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::sip::{HeaderId, Message, Method};
use crate::transaction::{CallUse, ClientTxId, ClientUser, ResponseAction, ServerTxId};

/// Requests of one call under way at once: a UA has one of each kind open, and a broken one must not fill memory.
const MAX_FORWARDS: usize = 32;
/// RFC 3261 §16.6 step 11 as a model: a re-INVITE of which its far end has said nothing but 100 for so long is given up.
const STALE: Duration = Duration::from_secs(180);

/// One such request.
#[derive(Debug)]
pub(super) struct Forward {
    /// Its number in the call.
    pub(super) id: u64,
    /// The dialog that it came in.
    pub(super) from: DialogRef,
    /// As received.
    pub(super) request: Message,
    /// Its transaction on that leg; `None` once answered.
    pub(super) server_tx: Option<ServerTxId>,
    /// Its way back.
    pub(super) back: ReturnPath,
    /// Its transaction on the other leg, once sent.
    pub(super) client_tx: Option<ClientTxId>,
    /// Its transactions by ways that were passed over for their silence: an answer to one of them is as good.
    pub(super) earlier: Vec<ClientTxId>,
    /// The name that was to be proved where it went.
    pub(super) tls_name: Option<Box<str>>,
    /// The CSeq number that it has there.
    pub(super) cseq: u32,
    /// The Via branch and value are kept by the transaction; CANCEL needs the request itself.
    pub(super) offered: bool,
    /// A reliable provisional response has answered that offer (RFC 3262 §5).
    pub(super) answered: bool,
    /// It has none, and a reliable provisional response has: the PRACK for that answers.
    pub(super) early_offer: bool,
    /// The far end that asked has cancelled it.
    pub(super) cancelled: bool,
    /// Why.
    pub(super) cancel_reason: Option<Box<str>>,
    /// It waits for ports: not sent yet.
    pub(super) held: bool,
    /// A provisional response came.
    pub(super) provisional: bool,
    /// More than 100.
    pub(super) rang: bool,
    /// As sent, where the far end may ask who we are.
    pub(super) retry: Option<Retry>,
    /// How often it was sent again for that.
    pub(super) tries: u8,
    /// A refresh of ours (RFC 4028): nobody waits for its answer.
    pub(super) own: bool,
    /// What stood before its offer; `None`: nothing is to be taken back.
    pub(super) before: Option<Agreed>,
    /// How often it was sent again with a longer interval (422).
    pub(super) raises: u8,
    /// What our Contacts said of the far ends before it came, the caller's leg first; `None`: it changed nothing of that.
    pub(super) contacts: Option<[Box<str>; 2]>,
}

impl Call {
    pub(super) fn forward(&mut self, cx: &mut Services, from: DialogRef, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let to = from.other();
        let status = match headers::next_max_forwards(request) {
            // A far end of RFC 2543 has no tag, and a dialog all the same (RFC 3261 §12.1.1, §12.1.2).
            _ if self.leg(to.side).gone => Some(481),
            // There is a dialog with this side, and none yet with the other: not now (RFC 3261 §21.5.1).
            _ if self.pairs[to].dialog.remote_tag.is_none() && self.phase != CallPhase::Answered => Some(500),
            _ if self.forwards.len() >= MAX_FORWARDS => Some(500),
            Err(headers::MaxForwardsError::Exhausted) => Some(483),
            Err(headers::MaxForwardsError::Malformed) => Some(400),
            Ok(_) => None,
        };
        if let Some(status) = status {
            self.refuse_request(cx, from.side, tx, &back, request, status);
            return;
        }
        self.note_for_dispatch(cx, request);
        let streams = if describe::counts(request) { body::Descriptions::of(request).streams() } else { 0 };
        if matches!(request.method(), Method::Invite | Method::Update) {
            self.media.on_offer();
        }
        let ready = self.media.ensure(cx, streams);
        let id = cx.serial();
        let offered = match request.method() {
            Method::Invite | Method::Update => streams > 0,
            Method::Prack => streams > 0 && self.prack_offers(from),
            _ => false,
        };
        self.forwards.push(Forward {
            id,
            from,
            request: request.clone(),
            server_tx: Some(tx),
            back,
            client_tx: None,
            earlier: Vec::new(),
            tls_name: None,
            cseq: 0,
            offered,
            answered: false,
            early_offer: false,
            cancelled: false,
            cancel_reason: None,
            held: !ready,
            provisional: false,
            rang: false,
            retry: None,
            tries: 0,
            own: false,
            before: None,
            raises: 0,
            contacts: None,
        });
        if request.method() == &Method::Invite {
            self.leg_mut(to.side).inviting = true;
        }
        if ready {
            self.send_forward(cx, id);
        }
    }

    pub(super) fn send_forward(&mut self, cx: &mut Services, id: u64) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else { return };
        self.forwards[at].held = false;
        let (from, request) = (self.forwards[at].from, self.forwards[at].request.clone());
        let to = from.other();
        let dialog = &mut self.pairs[to].dialog;
        let mut draft = dialog.request(request.method());
        self.forwards[at].cseq = dialog.local_cseq;
        if let Ok(n) = headers::next_max_forwards(&request) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        if request.first(HeaderId::Contact).is_some() || matches!(request.method(), Method::Invite | Method::Update) {
            let contacts = [Side::Caller, Side::Callee].map(|side| self.leg(side).contact_params.clone());
            self.forwards[at].contacts.get_or_insert(contacts);
            let (leg, half) = self.leg_and_half(to);
            draft.push(HeaderId::Contact, leg.contact_for(cx, half, &request));
        }
        headers::copy_through(&request, &mut draft);
        cx.shape(&self.leg(from.side).trunk, &self.leg(to.side).trunk, request.method(), self.emergency, &mut draft);
        self.map_transfer(cx, from.side, &request, &mut draft);
        if let Some(rack) = self.map_rack(cx, from, &request) {
            draft.push(HeaderId::RAck, rack);
        }
        if matches!(request.method(), Method::Invite | Method::Update) {
            // RFC 4028 §7.4: nothing is refreshed before there is a session.
            if self.phase == CallPhase::Answered || request.method() == &Method::Invite {
                let leg = self.leg(to.side);
                leg.session.offer(cx, &leg.trunk, &mut draft);
            }
        }
        if request.method() == &Method::Invite {
            reliable::bridge(&mut draft);
            cx.start_timer(STALE, Timer::Call(self.id, CallTimer::Stale(id)));
        }
        if self.forwards[at].own {
            if request.method() == &Method::Invite {
                draft.set_body(Some("application/sdp"), self.pairs[to].local_sdp.clone());
            }
            self.put_session_id(to.side, &mut draft);
        } else {
            let offers = self.keep_agreed(at);
            self.put_body(cx, from, &request, !offers, &mut draft);
        }
        self.send_on(cx, to, draft, Purpose::Use(CallUse::Forward(id)));
    }

    /// A response to a request that was passed on.
    pub fn on_forward_response(
        &mut self,
        cx: &mut Services,
        id: u64,
        (tx, action): (ClientTxId, ResponseAction),
        back: &ReturnPath,
        response: &Message,
    ) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else {
            // A 2xx to a re-INVITE, repeated because our ACK was lost.
            self.on_late_2xx(cx, response);
            return;
        };
        let to = self.forwards[at].from.other();
        self.ladder.received(cx.now.unix, self.leg(to.side).realm, back, response);
        self.learn_session_id(to.side, response);
        if action == ResponseAction::Absorb {
            return;
        }
        let status = response.status().unwrap_or(500);
        let invite = self.forwards[at].request.method() == &Method::Invite;
        if status >= 300 && self.forwards[at].earlier.contains(&tx) {
            // It was left for its silence, and cannot: whoever was asked after it may.
            if action == ResponseAction::NeedAck {
                self.ack_forward_failure(cx, at, tx, response);
            }
            self.has_other_ways(cx, id, tx);
            return;
        }
        self.turn_to(cx, at, tx, response);
        if status < 200 {
            self.forwards[at].provisional = true;
            if self.forwards[at].cancelled {
                self.cancel_forward(cx, id);
            }
            self.forwards[at].rang |= status > 100;
            // RFC 3262 §3: who requires reliable ones is sent no others, and a re-INVITE is as well off without.
            let wanted = reliable::rseq_of(response).is_some() || Wish::of(&self.forwards[at].request) != Wish::Required;
            if status > 100 && invite && wanted {
                self.answer_forward(cx, at, status, response);
                self.note_early_answer(at, response);
            }
            return;
        }
        if action == ResponseAction::NeedAck {
            self.ack_forward_failure(cx, at, tx, response);
        }
        // RFC 3261 §8.2.2.2: the far end has it by another way already, and will answer there.
        if matches!(status, 482 | 500) && self.has_other_ways(cx, id, tx) {
            return;
        }
        if self.is_challenge(action, status) && self.on_forward_challenge(cx, at, response) {
            return;
        }
        if status == 422 && self.raise_forward(cx, at, response) {
            return;
        }
        if (200..300).contains(&status) && describe::refreshes_target(response.method()) {
            // RFC 3261 §12.2.2: with the acceptance, and not before: a request that is refused changes nothing.
            if !self.forwards[at].own {
                let request = self.forwards[at].request.clone();
                self.pairs[to.other()].dialog.on_target_refresh(&request);
            }
            self.pairs[to].dialog.on_target_refresh(response);
        }
        if status >= 300 {
            self.take_contacts_back(at);
        }
        if !self.forwards[at].own {
            self.answer_forward(cx, at, status, response);
        }
        let mut forward = self.forwards.remove(at);
        self.leave_earlier(cx, &forward);
        self.conclude(cx, &mut forward, response);
        self.keep_reinvite(cx, &forward);
        if invite {
            self.leg_mut(to.side).inviting = false;
        }
        if forward.request.method() == &Method::Refer && (200..300).contains(&status) {
            self.keep_refer(forward.from.side, forward.request.cseq(), forward.cseq);
        } else if forward.request.method() == &Method::Notify {
            self.note_last(forward.from.side, &forward.request);
        }
        if forward.own {
            self.on_refreshed(cx, to, forward.cseq, response);
        } else if (200..300).contains(&status) && matches!(forward.request.method(), Method::Invite | Method::Update) {
            let leg = self.leg_mut(to.side);
            leg.session.on_accepted(cx, &leg.trunk, response);
        }
        if (200..300).contains(&status) && matches!(forward.request.method(), Method::Invite | Method::Update) {
            self.record_refresh(cx);
        }
    }

    /// A request came to nothing: our Contacts say of the far ends what they said before.
    fn take_contacts_back(&mut self, at: usize) {
        if let Some([caller, callee]) = self.forwards[at].contacts.take() {
            (self.caller.contact_params, self.callee.contact_params) = (caller, callee);
        }
    }

    /// Who sent a request that was passed on has waited for a while: it hears that we have it (RFC 4320 §4.1).
    pub fn on_trying_due(&mut self, cx: &mut Services, tx: ServerTxId) {
        let Some(f) = self.forwards.iter().find(|f| f.server_tx == Some(tx)) else { return };
        let mut draft = f.request.response(100, None);
        let (realm, back) = (self.leg(f.from.side).realm, f.back);
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        cx.respond(tx, &mut draft);
    }

    /// The far end wants a longer session interval: the same request with it. False: it said nothing of use, or too often.
    fn raise_forward(&mut self, cx: &mut Services, at: usize, response: &Message) -> bool {
        let (id, to) = (self.forwards[at].id, self.forwards[at].from.other());
        if self.forwards[at].raises >= super::session_timer::MAX_RAISES || !self.leg_mut(to.side).session.raise(response) {
            return false;
        }
        self.forget_earlier(cx, at);
        self.forwards[at].raises += 1;
        self.forwards[at].provisional = false;
        if let Some(old) = self.forwards[at].client_tx.take() {
            cx.tx.set_client_user(old, ClientUser::Nobody);
        }
        self.send_forward(cx, id);
        true
    }

    fn on_late_2xx(&mut self, cx: &mut Services, response: &Message) {
        if response.method() == &Method::Invite && response.status().is_some_and(|s| (200..300).contains(&s)) {
            for side in [Side::Caller, Side::Callee] {
                if self.pairs[self.toward(side)].dialog.call_id.as_ref() == response.call_id() {
                    self.repeat_ack(cx, side, response.cseq(), response.to_tag());
                }
            }
        }
    }

    fn ack_forward_failure(&mut self, cx: &mut Services, at: usize, tx: ClientTxId, response: &Message) {
        let f = &self.forwards[at];
        let mut ack = self.own_ack(f.from.other(), f.cseq);
        ack.set(HeaderId::To, response.to());
        let Some(branch) = cx.tx.client_branch(tx).map(str::to_owned) else { return };
        let Some(way) = cx.tx.way(tx) else { return };
        ack.insert_first(HeaderId::Via, cx.via(&way.path, &branch));
        if let Some(payload) = cx.encode(&ack) {
            // Before the request that may follow at once.
            self.ladder.sent(cx.now.unix, way.path.role.realm(), &way, &ack);
            cx.tx.set_ack(cx.now.mono, tx, payload);
        }
    }

    /// A response to the far end that asked, with what crosses of the other one's.
    fn answer_forward(&mut self, cx: &mut Services, at: usize, status: u16, response: &Message) {
        let f = &mut self.forwards[at];
        let Some(tx) = f.server_tx else { return };
        if status >= 200 {
            f.server_tx = None;
        }
        let (from, request, back, offered, cseq) = (f.from, f.request.clone(), f.back, f.offered, f.cseq);
        let invite = request.method() == &Method::Invite;
        let told = upstream(status);
        let mut draft = request.response(told, (told == status).then(|| response.reason()));
        if status < 300 && (invite || response.first(HeaderId::Contact).is_some() || request.method() == &Method::Update) {
            // Rule K: whatever way the request came, the far end learns the owner's own address again.
            let (leg, half) = self.leg_and_half(from);
            draft.push(HeaderId::Contact, leg.contact_for(cx, half, response));
        }
        headers::copy_through(response, &mut draft);
        if told != status {
            draft.remove(HeaderId::RetryAfter);
        }
        cx.shape(&self.leg(from.side.other()).trunk, &self.leg(from.side).trunk, request.method(), self.emergency, &mut draft);
        let refreshes = matches!(request.method(), Method::Invite | Method::Update) && self.phase == CallPhase::Answered;
        if refreshes && (200..300).contains(&status) {
            let leg = self.leg_mut(from.side);
            leg.session.accept(cx, &leg.trunk, &request, &mut draft);
        }
        self.put_body(cx, from.other(), response, offered, &mut draft);
        let realm = self.leg(from.side).realm;
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        let payload = cx.respond(tx, &mut draft);
        if invite && (200..300).contains(&status) {
            let delayed = !offered && body::find_sdp(response).is_some();
            if let Some(payload) = payload {
                let (answers, cseq) = (delayed.then_some(cseq), request.cseq());
                self.two_hundred.accepted(cx, from.side, Accepted { tx, cseq, payload, back, answers });
            }
            if !delayed {
                let ack = self.own_ack(from.other(), cseq);
                self.send_on(cx, from.other(), ack, Purpose::Ack(cseq));
            }
        }
    }

    /// A request that was passed on got no response, or could not be sent.
    pub fn on_forward_failed(&mut self, cx: &mut Services, id: u64, status: u16) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else { return };
        self.take_contacts_back(at);
        let forward = self.forwards.remove(at);
        self.leave_earlier(cx, &forward);
        let invite = forward.request.method() == &Method::Invite;
        if invite {
            self.leg_mut(forward.from.side.other()).inviting = false;
        }
        if let Some(before) = forward.before {
            self.take_back(cx, before);
        }
        if forward.own {
            self.on_refresh_failed(cx, forward.from.side.other(), status);
            return;
        }
        if let Some(tx) = forward.server_tx {
            // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
            let status = if status == 408 && !invite { 504 } else { upstream(status) };
            self.refuse_request(cx, forward.from.side, tx, &forward.back, &forward.request, status);
        }
    }
}
