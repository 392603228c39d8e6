//! Requests of ours within a dialog: next hop, Via, transaction, and the other ways that there are when one fails.
//!
//! A far end's connection may be gone, a name may stand for several addresses (RFC 3263 §4.3), and what is too large for a datagram is
//! tried by TCP first (RFC 3261 §18.1.1). Whichever it is: what could not be sent, or was met by silence, goes another way.

use super::Call;
use super::forward::Forward;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::two_hundred::{Repeat, SentAck};
use super::ways::{NextHop, Way, Ways, Written};
use crate::dialog::DialogRef;
use crate::ids::ResolveId;
use crate::io::{ResolveError, Side, Target};
use crate::sip::{Draft, Message, Method};
use crate::timer::TimerId;
use crate::transaction::{CallUse, ClientTxId, ClientUser, NewRequest, QuestionUser};

/// A request whose next hop is being looked up.
#[derive(Debug)]
pub(super) struct PendingSend {
    id: ResolveId,
    /// The name that is looked up, and that a certificate there must bear (RFC 5922 §7.1).
    host: Box<str>,
    to: DialogRef,
    draft: Draft,
    purpose: Purpose,
}

/// Why nothing comes of a request by the way that it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It has been silent for `failover_after`.
    Silent,
    /// Timer B or F.
    TimedOut,
    /// It could not be sent.
    NotSent,
    /// Its connection is there and takes no more for now.
    Congested,
}

impl Loss {
    /// The status that stands for it (RFC 3261 §8.1.3.1).
    pub fn status(self) -> u16 {
        match self {
            Loss::Silent | Loss::TimedOut => 408,
            Loss::NotSent | Loss::Congested => 503,
        }
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its responses concern the call.
    Use(CallUse),
    /// Nobody waits for its responses (BYE).
    Alone,
    /// An ACK for the 2xx to the INVITE with this CSeq number: no transaction.
    Ack(u32),
}

/// A request as it was before Via and credentials, and how else it may go.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) draft: Draft,
    pub(super) ways: Ways,
}

/// A request under way that could go another way, until something comes back.
#[derive(Debug)]
pub(super) struct Within {
    tx: ClientTxId,
    to: DialogRef,
    purpose: Purpose,
    way: Way,
    again: Again,
    silence: Option<TimerId>,
}

impl Call {
    /// Sends a request in a dialog, now or when its next hop is known.
    pub(super) fn send_on(&mut self, cx: &mut Services, to: DialogRef, draft: Draft, purpose: Purpose) {
        match self.far(to).next_hop(cx) {
            NextHop::Known { path, ingress } => {
                let way = self.far(to).way(path, ingress);
                self.send_along(cx, to, draft, purpose, Ways::one(way));
            }
            NextHop::Ask(request) => {
                let host = request.target.host.clone();
                let id = cx.resolve(QuestionUser::Call(self.id), request);
                self.sends.push(PendingSend { id, host, to, draft, purpose });
            }
        }
    }

    /// The DNS answered for a request within a dialog. False: it was not one of these.
    pub(super) fn on_send_resolved(
        &mut self,
        cx: &mut Services,
        id: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) -> bool {
        let Some(at) = self.sends.iter().position(|s| s.id == id) else { return false };
        let PendingSend { host, to, draft, purpose, .. } = self.sends.remove(at);
        let ways = self.far(to).ways(cx, &host, result);
        self.send_along(cx, to, draft, purpose, ways);
        true
    }

    fn send_along(&mut self, cx: &mut Services, to: DialogRef, draft: Draft, purpose: Purpose, ways: Ways) {
        let mut draft = draft;
        let mut ways = ways;
        let plain = draft.clone();
        let retry = self.authorize(cx, to.side, &mut draft);
        let Some(Written { way, branch, payload }) = ways.write(cx, self.far(to), &mut draft) else {
            // Too large, or with a line break in a value: who asked is told.
            if let Purpose::Use(purpose) = purpose {
                self.on_not_sent(cx, purpose);
            }
            return;
        };
        let again = (way.is_connection() || !ways.is_empty()).then_some(Again { draft: plain, ways });
        let (realm, back, tls_name) = (self.leg(to.side).realm, way.back, way.tls_name.clone());
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        let sent = match purpose {
            Purpose::Ack(cseq) => {
                let remote_tag = self.pairs[to].dialog.remote_tag.clone();
                let (again, copy) = (again.map(Box::new), payload.clone());
                self.two_hundred.keep(SentAck { to, cseq, remote_tag, way, payload: copy, again });
                return cx.send(back, tls_name, payload);
            }
            Purpose::Alone => {
                let authenticated = retry.map(|retry| self.authenticated(to.side, retry, &way));
                cx.send_after_bye(self.id, branch, back, tls_name, payload, authenticated)
            }
            Purpose::Use(purpose) => {
                let invite = draft.method() == Some(&Method::Invite);
                if let (CallUse::Forward(id), Some(retry)) = (purpose, retry) {
                    self.keep_forward(id, retry);
                }
                let user = ClientUser::Call { id: self.id, purpose };
                let sent = cx.send_request(NewRequest { user, branch, invite, way: back, tls_name, payload });
                match sent {
                    Some(tx) => self.on_sent(tx, purpose, &way),
                    None => self.on_not_sent(cx, purpose),
                }
                sent
            }
        };
        if let (Some(tx), Some(again)) = (sent, again) {
            let after = cx.config.failover_after(&self.leg(to.side).trunk);
            let silent = || Timer::Call(self.id, CallTimer::Silent(tx));
            // A stream tells by itself that nobody is there.
            let waits = !again.ways.is_empty() && !back.path.transport.is_reliable();
            let silence = waits.then(|| cx.start_timer(after, silent()));
            self.within.push(Within { tx, to, purpose, way, again, silence });
        }
    }

    fn on_sent(&mut self, tx: ClientTxId, purpose: CallUse, way: &Way) {
        if let CallUse::Forward(id) = purpose
            && let Some(f) = self.forwards.iter_mut().find(|f| f.id == id)
        {
            (f.client_tx, f.tls_name) = (Some(tx), way.tls_name.clone());
        }
    }

    fn on_not_sent(&mut self, cx: &mut Services, purpose: CallUse) {
        if let CallUse::Forward(id) = purpose {
            self.on_forward_failed(cx, id, 503);
        }
    }

    /// Something came back for a request (`None`: its transaction is over): it needs no other way.
    pub fn on_way_settled(&mut self, cx: &mut Services, tx: ClientTxId, response: Option<&Message>) {
        let Some(at) = self.within.iter().position(|w| w.tx == tx) else { return };
        let mut within = self.within.remove(at);
        cx.stop_timer(&mut within.silence);
        if let Some(response) = response.filter(|_| !within.way.is_connection()) {
            cx.target_responded(&within.way.back.path, response.status().unwrap_or(500), response);
        }
    }

    /// Nothing comes of a request by the way that it went. True: it went another.
    pub fn resend(&mut self, cx: &mut Services, tx: ClientTxId, loss: Loss) -> bool {
        let Some(at) = self.within.iter().position(|w| w.tx == tx) else { return false };
        let Within { to, purpose, way, again, mut silence, .. } = self.within.remove(at);
        cx.stop_timer(&mut silence);
        let over_flow = way.is_connection();
        let asked = matches!(purpose, Purpose::Use(_));
        if loss == Loss::Congested && over_flow && asked {
            // It is there, and busy: whoever is behind a NAT has no other way.
            return false;
        }
        if over_flow {
            let (leg, half) = self.leg_and_half(to);
            leg.forget_flow(&half.dialog, &way);
        } else {
            cx.target_failed(&way.back.path, None);
        }
        let wanted = match purpose {
            // Who waits for the answer to what was in vain for 32 s does so no longer; for ours nobody waits.
            Purpose::Use(CallUse::Forward(id)) => {
                let asked = |f: &Forward| f.id == id && !f.cancelled && (f.own || loss != Loss::TimedOut);
                self.forwards.iter().any(asked)
            }
            Purpose::Use(CallUse::Dial(_) | CallUse::Doubt(_)) | Purpose::Ack(_) => false,
            Purpose::Alone => true,
        };
        if !wanted || (!over_flow && again.ways.is_empty()) {
            return false;
        }
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        cx.after_bye.forget(tx);
        if over_flow {
            self.send_on(cx, to, again.draft, purpose);
        } else {
            self.send_along(cx, to, again.draft, purpose, again.ways);
        }
        true
    }

    /// The first of several addresses has been silent for too long.
    pub(super) fn on_silent(&mut self, cx: &mut Services, tx: ClientTxId) {
        let Some(within) = self.within.iter_mut().find(|w| w.tx == tx) else { return };
        within.silence = None;
        let purpose = within.purpose;
        let Purpose::Use(CallUse::Forward(id)) = purpose else {
            if self.resend(cx, tx, Loss::Silent) {
                cx.tx.abandon_client(tx);
            }
            return;
        };
        if !self.resend(cx, tx, Loss::Silent) {
            return;
        }
        // A slow one sounds no other than a dead one: while none has answered, it may still be the first.
        cx.tx.stop_retransmitting(tx);
        match self.forwards.iter_mut().find(|f| f.id == id) {
            Some(f) => {
                f.earlier.push(tx);
                let purpose = CallUse::Forward(id);
                cx.tx.set_client_user(tx, ClientUser::Call { id: self.id, purpose });
            }
            None => cx.tx.abandon_client(tx),
        }
    }

    /// Repeats the ACK for a 2xx that came again, by another way where there is one. False: none was sent for it.
    pub(super) fn repeat_ack(&mut self, cx: &mut Services, side: Side, cseq: u32, remote_tag: Option<&str>) -> bool {
        match self.two_hundred.repeat(cx, side, cseq, remote_tag) {
            Repeat::Unknown => return false,
            Repeat::Done => {}
            Repeat::Anew(to, draft) => self.send_on(cx, to, draft, Purpose::Ack(cseq)),
            Repeat::ByOther(to, again) => self.send_along(cx, to, again.draft, Purpose::Ack(cseq), again.ways),
        }
        true
    }
}
