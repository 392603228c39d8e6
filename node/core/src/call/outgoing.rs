//! Requests of ours within a dialog: next hop, Via, transaction, and the other ways that there are when one fails.
//!
//! A far end's connection may be gone, a name may stand for several addresses (RFC 3263 §4.3), and what is too large for a datagram is
//! tried by TCP first (RFC 3261 §18.1.1). Whichever it is: what could not be sent, or was met by silence, goes another way.

use std::collections::VecDeque;

use super::dial::DATAGRAM_MAX;
use super::leg::NextHop;
use super::services::{ClientUse, Services};
use super::timer::{CallTimer, Timer};
use super::{Call, SentAck};
use crate::ids::ResolveId;
use crate::io::{ResolveError, ReturnPath, Side, Target, Transport};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::timer::TimerId;
use crate::transaction::ClientTxId;

/// ACKs kept for repetition: one a side, and some forks.
const MAX_ACKS: usize = 4;
/// Addresses of one name that are tried: each costs the time of a failover.
const MAX_WAYS: usize = 8;

/// A request whose next hop is being looked up.
#[derive(Debug)]
pub(super) struct PendingSend {
    id: ResolveId,
    /// The name that is looked up, and that a certificate there must bear (RFC 5922 §7.1).
    host: Box<str>,
    side: Side,
    draft: Draft,
    purpose: Purpose,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Its responses concern the call.
    Use(ClientUse),
    /// Nobody waits for its responses (BYE).
    Alone,
    /// An ACK for the 2xx to the INVITE with this CSeq number: no transaction.
    Ack(u32),
}

/// One way that a request may go.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// Where, by which node.
    pub(super) back: ReturnPath,
    /// The name that the far end's certificate must bear, for a new TLS connection.
    pub(super) tls_name: Option<Box<str>>,
}

/// The ways that a request may go, the best one first.
#[derive(Clone, Debug, Default)]
pub(super) struct Ways {
    next: VecDeque<Way>,
    /// TCP was put before UDP, for its size: once is enough.
    by_tcp: bool,
}

impl Ways {
    fn one(way: Way) -> Ways {
        Ways { next: [way].into(), by_tcp: false }
    }
}

/// A request as it was before Via and credentials, and how else it may go.
#[derive(Clone, Debug)]
pub(super) struct Again {
    draft: Draft,
    ways: Ways,
}

/// A request under way that could go another way, until something comes back.
#[derive(Debug)]
pub(super) struct Within {
    tx: ClientTxId,
    side: Side,
    purpose: Purpose,
    way: Way,
    again: Again,
    silence: Option<TimerId>,
}

/// A request as it goes out.
struct Written {
    way: Way,
    branch: String,
    payload: bytes::Bytes,
    retry: Option<super::challenge::Retry>,
    /// Present where there is another way.
    again: Option<Again>,
}

impl Call {
    /// Sends a request on a leg, now or when its next hop is known.
    pub(super) fn send_on(&mut self, cx: &mut Services, side: Side, draft: Draft, purpose: Purpose) {
        match self.leg(side).next_hop(cx) {
            NextHop::Known { path, ingress } => {
                let way = Way { back: ReturnPath::through(ingress, path), tls_name: self.leg(side).tls_name.clone() };
                self.send_along(cx, side, draft, purpose, Ways::one(way));
            }
            NextHop::Ask(request) => {
                let host = request.target.host.clone();
                let id = cx.resolve(self.serial, request);
                self.sends.push(PendingSend { id, host, side, draft, purpose });
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
        let PendingSend { host, side, draft, purpose, .. } = self.sends.remove(at);
        let leg = self.leg(side);
        let targets = result.as_deref().unwrap_or_default();
        let targets = &targets[..targets.len().min(MAX_WAYS)];
        let way = |target: &Target| {
            // The dialled domain has proved itself there: its connection serves on, whatever its Contact calls the host.
            let proved = target.addr == leg.path.remote && leg.tls_name.is_some();
            let tls_name = if proved { leg.tls_name.clone() } else { Some(host.clone()) };
            Way { back: ReturnPath::here(cx.path_to(leg.realm, target.transport, target.addr)), tls_name }
        };
        let mut next: VecDeque<Way> = targets.iter().map(way).collect();
        // RFC 3263 §4.3: those that failed lately come last.
        if let Some(first) = targets.iter().position(|target| !cx.defers(leg.realm, target)) {
            next.rotate_left(first);
        }
        if next.is_empty() {
            // No DNS: where the far end was last seen is the best that is left, and mostly right.
            let back = ReturnPath::here(leg.own_path(cx, leg.path.transport));
            next.push_back(Way { back, tls_name: leg.tls_name.clone() });
        }
        self.send_along(cx, side, draft, purpose, Ways { next, by_tcp: false });
        true
    }

    fn send_along(&mut self, cx: &mut Services, side: Side, draft: Draft, purpose: Purpose, ways: Ways) {
        let mut draft = draft;
        let Some(written) = self.write_request(cx, side, &mut draft, ways) else { return };
        let Written { way, branch, payload, retry, again } = written;
        let (realm, back, tls_name) = (self.leg(side).realm, way.back, way.tls_name.clone());
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        let sent = match purpose {
            Purpose::Ack(cseq) => {
                self.keep_ack(side, cseq, way, payload.clone(), again);
                return cx.send(back, tls_name, payload);
            }
            Purpose::Alone => {
                let sent = cx.tx.send_request_by(cx.now.mono, branch.into(), false, back, tls_name, payload);
                if let Some(tx) = sent {
                    cx.alone_of.insert(tx, self.serial);
                }
                if let (Some(tx), Some(retry)) = (sent, retry) {
                    self.keep_lone(cx, side, tx, retry, way.clone());
                }
                sent
            }
            Purpose::Use(purpose) => {
                let invite = draft.method() == Some(&Method::Invite);
                if let (ClientUse::Forward(id), Some(retry)) = (purpose, retry) {
                    self.keep_forward(id, retry);
                }
                let sent = cx.tx.send_request_by(cx.now.mono, branch.into(), invite, back, tls_name, payload);
                match sent {
                    Some(tx) => self.on_sent(cx, tx, purpose),
                    None => self.on_not_sent(cx, purpose),
                }
                sent
            }
        };
        if let (Some(tx), Some(again)) = (sent, again) {
            let after = cx.config.trunk(&self.leg(side).trunk).and_then(|t| t.failover_after);
            let after = after.unwrap_or(cx.config.settings.failover_after);
            let silent = || Timer::Call(self.serial, CallTimer::Silent(tx));
            // A stream tells by itself that nobody is there.
            let waits = !again.ways.next.is_empty() && !back.path.transport.is_reliable();
            let silence = waits.then(|| cx.start_timer(after, silent()));
            self.within.push(Within { tx, side, purpose, way, again, silence });
        }
    }

    /// Credentials, Via, octets; by TCP where they are too many for a datagram. `None`: it cannot be written.
    fn write_request(&mut self, cx: &mut Services, side: Side, draft: &mut Draft, mut ways: Ways) -> Option<Written> {
        let mut way = ways.next.pop_front()?;
        let plain = draft.clone();
        let retry = self.authorize(cx, side, draft);
        let branch = cx.mint_branch();
        draft.insert_first(HeaderId::Via, cx.via(&way.back.path, &branch));
        let mut payload = cx.encode(draft)?;
        if payload.len() > DATAGRAM_MAX
            && !ways.by_tcp
            && let Some(by_tcp) = self.by_tcp_first(cx, side, &way)
        {
            ways.by_tcp = true;
            ways.next.push_front(std::mem::replace(&mut way, by_tcp));
            draft.replace_first(HeaderId::Via, cx.via(&way.back.path, &branch));
            payload = cx.encode(draft)?;
        }
        let again = (way.back.path.flow.is_some() || !ways.next.is_empty()).then_some(Again { draft: plain, ways });
        Some(Written { way, branch, payload, retry, again })
    }

    /// The same hop by TCP. `None`: it is not for this leg, or TCP failed there lately.
    fn by_tcp_first(&self, cx: &mut Services, side: Side, way: &Way) -> Option<Way> {
        let (leg, path) = (self.leg(side), way.back.path);
        let target = Target { addr: path.remote, transport: Transport::Tcp };
        if path.transport != Transport::Udp || !leg.takes_tcp(cx) || cx.defers(leg.realm, &target) {
            return None;
        }
        Some(Way { back: ReturnPath::here(cx.path_to(leg.realm, Transport::Tcp, path.remote)), tls_name: None })
    }

    fn keep_ack(&mut self, side: Side, cseq: u32, way: Way, payload: bytes::Bytes, again: Option<Again>) {
        let remote_tag = self.leg(side).dialog.remote_tag.clone();
        self.acks.retain(|a| a.side != side || a.cseq != cseq || a.remote_tag != remote_tag);
        self.acks.push(SentAck { side, cseq, remote_tag, way, payload, again: again.map(Box::new) });
        // The last ACK of each side is the only one whose 2xx can still be repeated, besides forks'.
        if self.acks.len() > MAX_ACKS {
            self.acks.remove(0);
        }
    }

    fn on_sent(&mut self, cx: &mut Services, tx: ClientTxId, purpose: ClientUse) {
        cx.client_use.insert(tx, (self.serial, purpose));
        if let ClientUse::Forward(id) = purpose
            && let Some(f) = self.forwards.iter_mut().find(|f| f.id == id)
        {
            f.client_tx = Some(tx);
        }
    }

    fn on_not_sent(&mut self, cx: &mut Services, purpose: ClientUse) {
        if let ClientUse::Forward(id) = purpose {
            self.on_forward_failed(cx, id, 503);
        }
    }

    /// Something came back for a request (`None`: its transaction is over): it needs no other way.
    pub fn on_way_settled(&mut self, cx: &mut Services, tx: ClientTxId, response: Option<&Message>) {
        let Some(at) = self.within.iter().position(|w| w.tx == tx) else { return };
        let mut within = self.within.remove(at);
        cx.stop_timer(&mut within.silence);
        if let Some(response) = response.filter(|_| within.way.back.path.flow.is_none()) {
            cx.target_responded(&within.way.back.path, response.status().unwrap_or(500), response);
        }
    }

    /// A request could not be sent (503), or got no response (408). True: it went another way.
    pub fn resend(&mut self, cx: &mut Services, tx: ClientTxId, status: u16) -> bool {
        let Some(at) = self.within.iter().position(|w| w.tx == tx) else { return false };
        let Within { side, purpose, way, again, mut silence, .. } = self.within.remove(at);
        cx.stop_timer(&mut silence);
        let over_flow = way.back.path.flow.is_some();
        if over_flow {
            self.leg_mut(side).forget_flow(&way.back);
        } else {
            cx.target_failed(&way.back.path, None);
        }
        let wanted = match purpose {
            // Who waits for the answer to what was in vain for 32 s does so no longer.
            Purpose::Use(ClientUse::Forward(id)) => {
                !(over_flow && status == 408) && self.forwards.iter().any(|f| f.id == id && !f.cancelled)
            }
            Purpose::Use(ClientUse::Dial(_)) | Purpose::Ack(_) => false,
            Purpose::Alone => true,
        };
        if !wanted || (!over_flow && again.ways.next.is_empty()) {
            return false;
        }
        cx.client_use.remove(&tx);
        cx.alone_of.remove(&tx);
        cx.alone.remove(&tx);
        if over_flow {
            self.send_on(cx, side, again.draft, purpose);
        } else {
            self.send_along(cx, side, again.draft, purpose, again.ways);
        }
        true
    }

    /// The first of several addresses has been silent for too long.
    pub(super) fn on_silent(&mut self, cx: &mut Services, tx: ClientTxId) {
        let Some(within) = self.within.iter_mut().find(|w| w.tx == tx) else { return };
        within.silence = None;
        let (side, purpose) = (within.side, within.purpose);
        let cseq = self.forwards.iter().find(|f| purpose == Purpose::Use(ClientUse::Forward(f.id))).map(|f| f.cseq);
        let invite = self.forwards.iter().any(|f| f.client_tx == Some(tx) && f.request.method() == &Method::Invite);
        if !self.resend(cx, tx, 408) {
            return;
        }
        cx.tx.stop_retransmitting(tx);
        match cseq.filter(|_| invite) {
            // Should it have arrived all the same, its final response gets an ACK.
            Some(cseq) => self.leave_invite(cx, side, tx, cseq),
            None => cx.tx.abandon_client(tx),
        }
    }

    /// Repeats the ACK for a 2xx that came again, by another way where there is one. False: none was sent for it.
    pub(super) fn repeat_ack(&mut self, cx: &mut Services, side: Side, cseq: u32, remote_tag: Option<&str>) -> bool {
        let fits = |a: &SentAck| a.side == side && a.cseq == cseq && a.remote_tag.as_deref() == remote_tag;
        let Some(at) = self.acks.iter().position(fits) else { return false };
        let ack = &mut self.acks[at];
        let closed = ack.way.back.path.flow.is_some_and(|flow| !cx.is_open(flow, ack.way.back.ingress));
        let again = ack.again.take_if(|again| closed || !again.ways.next.is_empty());
        match again {
            Some(again) if closed => self.send_on(cx, side, again.draft, Purpose::Ack(cseq)),
            Some(mut again) => {
                again.ways.next.push_back(ack.way.clone());
                self.send_along(cx, side, again.draft, Purpose::Ack(cseq), again.ways);
            }
            None => cx.send(ack.way.back, ack.way.tls_name.clone(), ack.payload.clone()),
        }
        true
    }
}
