//! Requests within the dialog: answered here (BYE, ACK) or passed to the other leg, their responses back.

use super::forward::Forward;
use super::outgoing::Purpose;
use super::services::{ClientUse, Services};
use super::{Call, CallPhase, Cause, body, headers};
use crate::ids::MediaId;
use crate::io::{Counter, MediaEvent, ReturnPath, Side};
use crate::sip::{HeaderId, Message, Method, Sdp};
use crate::store_pb::{self, command::Kind};
use crate::transaction::{ResponseAction, ServerTxId};

/// Requests of one call under way at once: a UA has one of each kind open, and a broken one must not fill memory.
const MAX_FORWARDS: usize = 32;

impl Call {
    /// True when the request's Call-ID and tags are this leg's (RFC 3261 §12.2.2).
    pub fn fits(&self, side: Side, request: &Message) -> bool {
        let d = &self.leg(side).dialog;
        let tag = |a: Option<&str>, b: Option<&str>| match (a, b) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        *d.call_id == *request.call_id()
            && tag(request.to_tag(), Some(&d.local_tag))
            && (tag(request.from_tag(), d.remote_tag.as_deref())
                // A forked early dialog of the called side that is not the latest one.
                || (side == Side::Callee && self.phase == CallPhase::Dialling))
    }

    /// A request other than ACK and CANCEL within the dialog, new on `tx`.
    pub fn on_request(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let realm = self.leg(side).realm;
        self.ladder.received(cx.now.unix, realm, &back, request);
        cx.server_use.insert(tx, self.serial);
        if self.phase == CallPhase::Over || self.leg(side).gone {
            self.refuse_request(cx, side, tx, &back, request, 481);
            return;
        }
        if self.leg_mut(side).dialog.on_request(request.cseq()).is_err() {
            self.refuse_request(cx, side, tx, &back, request, 500);
            return;
        }
        self.learn_path(side, &back);
        match request.method() {
            Method::Bye => self.on_bye(cx, side, tx, &back, request),
            Method::Invite => self.on_reinvite(cx, side, tx, back, request),
            _ => self.forward(cx, side, tx, back, request),
        }
    }

    /// A connection that the far end uses now is the way to it.
    fn learn_path(&mut self, side: Side, back: &ReturnPath) {
        let leg = self.leg_mut(side);
        if back.ingress.is_none() && back.path.transport.is_reliable() && leg.path.transport == back.path.transport {
            leg.path = back.path;
        }
    }

    fn refuse_request(
        &mut self,
        cx: &mut Services,
        side: Side,
        tx: ServerTxId,
        back: &ReturnPath,
        request: &Message,
        status: u16,
    ) {
        let mut draft = request.response(status, None);
        if status == 500 {
            draft.push(HeaderId::RetryAfter, (1 + request.cseq() % 9).to_string());
        }
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
    }

    fn on_bye(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: &ReturnPath, request: &Message) {
        self.refuse_request(cx, side, tx, back, request, 200);
        self.ack_unanswered(cx);
        self.leg_mut(side).gone = true;
        // A BYE says that the far end has the first 2xx, whether or not its ACK came through. A later one may have been lost:
        // it is repeated until its ACK, for the re-INVITE must get its final answer.
        let first = self.invite.cseq();
        let pending = self.leg_mut(side).pending_2xx.take_if(|p| side == Side::Caller && p.cseq == first);
        if let Some(mut pending) = pending {
            cx.stop_timer(&mut pending.timer);
        }
        let origin = if side == Side::Caller { "caller" } else { "callee" };
        let reason = request.first(HeaderId::Reason).map(str::to_owned);
        let status = if self.phase == CallPhase::Answered { 200 } else { 487 };
        let cause = Cause { origin, status, reason: "BYE".into() };
        self.hang_up(cx, Some(side), cause, reason);
    }

    fn on_reinvite(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let busy_here = self.forwards.iter().any(|f| f.from == side && f.request.method() == &Method::Invite);
        let early = self.phase != CallPhase::Answered;
        if busy_here || (early && side == Side::Caller) {
            // RFC 3261 §14.2: an INVITE of the same far end is still open.
            self.refuse_request(cx, side, tx, &back, request, 500);
            return;
        }
        let glare =
            self.leg(side).inviting || self.leg(side).pending_2xx.is_some() || self.leg(side.other()).pending_2xx.is_some();
        let other_way = self.forwards.iter().any(|f| f.from == side.other() && f.request.method() == &Method::Invite);
        if glare || other_way || early {
            self.refuse_request(cx, side, tx, &back, request, 491);
            return;
        }
        cx.respond(tx, &mut request.response(100, None));
        self.forward(cx, side, tx, back, request);
    }

    fn forward(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let to = self.leg(side.other());
        let status = match headers::next_max_forwards(request) {
            _ if to.gone || to.dialog.remote_tag.is_none() => Some(481),
            _ if self.forwards.len() >= MAX_FORWARDS => Some(500),
            Err(headers::MaxForwardsError::Exhausted) => Some(483),
            Err(headers::MaxForwardsError::Malformed) => Some(400),
            Ok(_) => None,
        };
        if let Some(status) = status {
            self.refuse_request(cx, side, tx, &back, request, status);
            return;
        }
        if matches!(request.method(), Method::Invite | Method::Update) {
            self.leg_mut(side).dialog.on_target_refresh(request);
        }
        let sdp = body::find_sdp(request).and_then(|span| Sdp::parse(&body::sdp_bytes(request, &span)).ok());
        let streams = sdp.map_or(0, |sdp| sdp.media().len());
        let ready = self.media.ensure(cx, streams);
        let id = cx.serial();
        self.forwards.push(Forward {
            id,
            from: side,
            request: request.clone(),
            server_tx: Some(tx),
            back,
            client_tx: None,
            cseq: 0,
            offered: streams > 0,
            cancelled: false,
            held: !ready,
            provisional: false,
            retry: None,
            tries: 0,
        });
        if request.method() == &Method::Invite {
            self.leg_mut(side.other()).inviting = true;
        }
        if ready {
            self.send_forward(cx, id);
        }
    }

    fn send_forward(&mut self, cx: &mut Services, id: u64) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else { return };
        self.forwards[at].held = false;
        let (from, request) = (self.forwards[at].from, self.forwards[at].request.clone());
        let to = from.other();
        let mut draft = self.leg_mut(to).dialog.request(request.method());
        self.forwards[at].cseq = self.leg(to).dialog.local_cseq;
        if let Ok(n) = headers::next_max_forwards(&request) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        if request.first(HeaderId::Contact).is_some() || matches!(request.method(), Method::Invite | Method::Update) {
            draft.push(HeaderId::Contact, self.leg(to).contact(cx));
        }
        headers::copy_through(&request, &mut draft);
        if let Some(rack) = request.first(HeaderId::RAck) {
            draft.push(HeaderId::RAck, self.map_rack(from, rack));
        }
        self.put_body(cx, from, &request, &mut draft);
        self.send_on(cx, to, draft, Purpose::Use(ClientUse::Forward(id)));
    }

    /// RFC 3262 §7.2: RAck names the INVITE by its CSeq number, which is another one on the other leg.
    fn map_rack(&self, from: Side, rack: &str) -> String {
        let mut parts = rack.split_whitespace();
        let (Some(rseq), Some(cseq), Some(method)) = (parts.next(), parts.next(), parts.next()) else { return rack.to_owned() };
        let first = (from == Side::Caller && cseq == self.invite.cseq().to_string())
            .then(|| self.attempts.iter().rev().find(|a| !a.unwanted).map(|a| a.cseq))
            .flatten();
        let mapped = first.or_else(|| {
            // Of a re-INVITE that the other far end asked for.
            self.forwards.iter().find(|f| f.from == from && cseq == f.request.cseq().to_string()).map(|f| f.cseq)
        });
        match mapped {
            Some(mapped) => format!("{rseq} {mapped} {method}"),
            None => rack.to_owned(),
        }
    }

    /// A response to a request that was passed on.
    pub fn on_forward_response(
        &mut self,
        cx: &mut Services,
        id: u64,
        action: ResponseAction,
        back: &ReturnPath,
        response: &Message,
    ) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else {
            // A 2xx to a re-INVITE, repeated because our ACK was lost.
            self.on_late_2xx(cx, response);
            return;
        };
        let to = self.forwards[at].from.other();
        self.ladder.received(cx.now.unix, self.leg(to).realm, back, response);
        if action == ResponseAction::Absorb {
            return;
        }
        let status = response.status().unwrap_or(500);
        let invite = self.forwards[at].request.method() == &Method::Invite;
        if status < 200 {
            self.forwards[at].provisional = true;
            if self.forwards[at].cancelled {
                self.cancel_forward(cx, id);
            }
            if status > 100 && invite {
                self.answer_forward(cx, at, status, response);
            }
            return;
        }
        if action == ResponseAction::NeedAck {
            self.ack_forward_failure(cx, at, response);
        }
        if self.is_challenge(action, status) && self.on_forward_challenge(cx, at, response) {
            return;
        }
        if (200..300).contains(&status) {
            self.leg_mut(to).dialog.on_target_refresh(response);
        }
        self.answer_forward(cx, at, status, response);
        let forward = self.forwards.remove(at);
        if invite {
            self.leg_mut(to).inviting = false;
        }
        if (200..300).contains(&status) && matches!(forward.request.method(), Method::Invite | Method::Update) {
            self.record_refresh(cx);
        }
    }

    fn on_late_2xx(&self, cx: &mut Services, response: &Message) {
        if response.method() == &Method::Invite && response.status().is_some_and(|s| (200..300).contains(&s)) {
            for side in [Side::Caller, Side::Callee] {
                if self.leg(side).dialog.call_id.as_ref() == response.call_id() {
                    self.repeat_ack(cx, side, response.cseq(), response.to_tag());
                }
            }
        }
    }

    fn ack_forward_failure(&self, cx: &mut Services, at: usize, response: &Message) {
        let f = &self.forwards[at];
        let Some(tx) = f.client_tx else { return };
        let leg = self.leg(f.from.other());
        let mut ack = leg.dialog.ack(f.cseq);
        ack.set(HeaderId::To, response.to());
        let Some(branch) = cx.tx.client_branch(tx).map(str::to_owned) else { return };
        let Some(path) = cx.tx.path(tx) else { return };
        ack.insert_first(HeaderId::Via, cx.via(&path, &branch));
        if let Some(payload) = cx.encode(&ack) {
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
        let (side, request, back, offered, cseq) = (f.from, f.request.clone(), f.back, f.offered, f.cseq);
        let invite = request.method() == &Method::Invite;
        let mut draft = request.response(status, Some(response.reason()));
        if status < 300 && (invite || response.first(HeaderId::Contact).is_some() || request.method() == &Method::Update) {
            // Rule K: whatever way the request came, the far end learns the owner's own address again.
            draft.push(HeaderId::Contact, self.leg(side).contact(cx));
        }
        headers::copy_through(response, &mut draft);
        self.put_body(cx, side.other(), response, &mut draft);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        let payload = cx.respond(tx, &mut draft);
        if invite && (200..300).contains(&status) {
            let delayed = !offered && body::find_sdp(response).is_some();
            if let Some(payload) = payload {
                self.await_ack(cx, side, tx, request.cseq(), payload, back, delayed.then_some(cseq));
            }
            if !delayed {
                let ack = self.leg(side.other()).dialog.ack(cseq);
                self.send_on(cx, side.other(), ack, Purpose::Ack(cseq));
            }
        }
    }

    /// A request that was passed on got no response, or could not be sent.
    pub fn on_forward_failed(&mut self, cx: &mut Services, id: u64, status: u16) {
        let Some(at) = self.forwards.iter().position(|f| f.id == id) else { return };
        let forward = self.forwards.remove(at);
        let invite = forward.request.method() == &Method::Invite;
        if invite {
            self.leg_mut(forward.from.other()).inviting = false;
        }
        if let Some(tx) = forward.server_tx {
            // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
            let status = if status == 408 && !invite { 504 } else { status };
            self.refuse_request(cx, forward.from, tx, &forward.back, &forward.request, status);
        }
    }

    /// CANCEL for a re-INVITE under way. False: it is none of this call's.
    pub(super) fn on_cancel_forward(&mut self, cx: &mut Services, invite: ServerTxId) -> bool {
        let Some(f) = self.forwards.iter_mut().find(|f| f.server_tx == Some(invite)) else { return false };
        f.cancelled = true;
        let id = f.id;
        self.cancel_forward(cx, id);
        true
    }

    fn cancel_forward(&self, cx: &mut Services, id: u64) {
        let Some(f) = self.forwards.iter().find(|f| f.id == id && f.provisional) else { return };
        let Some(tx) = f.client_tx else { return };
        let (Some(branch), Some(path)) = (cx.tx.client_branch(tx).map(str::to_owned), cx.tx.path(tx)) else { return };
        let leg = self.leg(f.from.other());
        let mut cancel = leg.dialog.ack(f.cseq);
        cancel.set(HeaderId::CSeq, format!("{} CANCEL", f.cseq));
        let Some(uri) = cancel.request_uri().map(str::to_owned) else { return };
        let mut draft = crate::sip::Draft::request(&Method::Cancel, &uri);
        for field in cancel.headers() {
            draft.push_field(&field);
        }
        draft.insert_first(HeaderId::Via, cx.via(&path, &branch));
        if let Some(payload) = cx.encode(&draft) {
            cx.tx.send_request(cx.now.mono, branch.into(), false, path, None, payload);
        }
    }

    fn record_refresh(&mut self, cx: &mut Services) {
        let record = store_pb::Refresh {
            call: self.uid.to_bytes().to_vec().into(),
            epoch: 1,
            seq: self.journal.next_seq(),
            dialog: Some(self.record()),
        };
        self.journal.push(cx, self.serial, Kind::Refresh(record));
    }

    /// The media engine reports on this call's session.
    pub fn on_media(&mut self, cx: &mut Services, event: &MediaEvent) {
        match event {
            MediaEvent::Opened { first, ports, .. } => self.media.on_opened(*first, ports),
            MediaEvent::OpenFailed { .. } => {
                cx.count(Counter::Dropped("media_ports"));
                self.media.on_open_failed();
            }
            MediaEvent::Latched { .. } => return,
            MediaEvent::Closed { stats, .. } => {
                self.media.on_closed(*stats);
                self.on_media_closed(cx);
                return;
            }
        }
        if self.phase == CallPhase::Over {
            return;
        }
        self.try_dial_if_preparing(cx);
        self.release_answer(cx);
        let held: Vec<u64> = self.forwards.iter().filter(|f| f.held).map(|f| f.id).collect();
        for id in held {
            self.send_forward(cx, id);
        }
    }

    fn try_dial_if_preparing(&mut self, cx: &mut Services) {
        if self.phase == CallPhase::Preparing {
            self.try_dial(cx);
        }
    }

    /// The session that an event must name to be this call's.
    pub fn is_media(&self, id: MediaId) -> bool {
        self.media.id == id
    }

    /// Final answers to whatever is still open, when the call ends.
    pub(super) fn refuse_open_forwards(&mut self, cx: &mut Services) {
        for forward in std::mem::take(&mut self.forwards) {
            if let Some(client) = forward.client_tx {
                cx.client_use.remove(&client);
                cx.tx.abandon_client(client);
            }
            if let Some(tx) = forward.server_tx {
                let status = if forward.request.method() == &Method::Invite { 487 } else { 481 };
                self.refuse_request(cx, forward.from, tx, &forward.back, &forward.request, status);
            }
        }
        self.caller.inviting = false;
        self.callee.inviting = false;
    }
}
