//! Requests of ours within a dialog: next hop, Via, transaction.

use super::leg::NextHop;
use super::services::{ClientUse, Services};
use super::{Call, SentAck};
use crate::ids::ResolveId;
use crate::io::{ResolveError, ReturnPath, Side, Target};
use crate::sip::{Draft, HeaderId, Method};
use crate::transaction::ClientTxId;

/// A request whose next hop is being looked up.
#[derive(Debug)]
pub(super) struct PendingSend {
    id: ResolveId,
    /// What is looked up, and what the certificate there must bear (RFC 5922 §7.1).
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

impl Call {
    /// Sends a request on a leg, now or when its next hop is known.
    pub(super) fn send_on(&mut self, cx: &mut Services, side: Side, draft: Draft, purpose: Purpose) {
        match self.leg(side).next_hop(cx) {
            NextHop::Known { path, ingress } => {
                let tls_name = self.leg(side).tls_name.clone();
                self.send_to(cx, side, draft, purpose, ReturnPath { ingress, path }, tls_name);
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
        let (path, tls_name) = match result.as_ref().ok().and_then(|t| t.first()) {
            // The dialled domain has proved itself there: its connection serves on, whatever its Contact calls the host.
            Some(target) if target.addr == leg.path.remote && leg.tls_name.is_some() => {
                (cx.path_to(leg.realm, target.transport, target.addr), leg.tls_name.clone())
            }
            Some(target) => (cx.path_to(leg.realm, target.transport, target.addr), Some(host)),
            // No DNS: where the far end was last seen is the best that is left, and mostly right.
            None => (leg.own_path(cx, leg.path.transport), leg.tls_name.clone()),
        };
        self.send_to(cx, side, draft, purpose, ReturnPath { ingress: None, path }, tls_name);
        true
    }

    fn send_to(
        &mut self,
        cx: &mut Services,
        side: Side,
        mut draft: Draft,
        purpose: Purpose,
        back: ReturnPath,
        tls_name: Option<Box<str>>,
    ) {
        let path = back.path;
        let retry = self.authorize(cx, side, &mut draft);
        let branch = cx.mint_branch();
        draft.insert_first(HeaderId::Via, cx.via(&path, &branch));
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, &back, &draft);
        let Some(payload) = cx.encode(&draft) else { return };
        match purpose {
            Purpose::Ack(cseq) => {
                let remote_tag = self.leg(side).dialog.remote_tag.clone();
                self.acks.retain(|a| a.side != side || a.cseq != cseq || a.remote_tag != remote_tag);
                self.acks.push(SentAck { side, cseq, remote_tag, back, tls_name: tls_name.clone(), payload: payload.clone() });
                // The last ACK of each side is the only one whose 2xx can still be repeated, besides forks'.
                if self.acks.len() > MAX_ACKS {
                    self.acks.remove(0);
                }
                cx.send(back, tls_name, payload);
            }
            Purpose::Alone => {
                let sent = cx.tx.send_request(cx.now.mono, branch.into(), false, path, tls_name.clone(), payload);
                if let Some(tx) = sent {
                    cx.alone_of.insert(tx, self.serial);
                }
                if let (Some(tx), Some(retry)) = (sent, retry) {
                    self.keep_lone(cx, side, tx, retry, path, tls_name);
                }
            }
            Purpose::Use(purpose) => {
                let invite = draft.method() == Some(&Method::Invite);
                if let (ClientUse::Forward(id), Some(retry)) = (purpose, retry) {
                    self.keep_forward(id, retry);
                }
                let sent = cx.tx.send_request(cx.now.mono, branch.into(), invite, path, tls_name, payload);
                match sent {
                    Some(tx) => self.on_sent(cx, tx, purpose),
                    None => self.on_not_sent(cx, purpose),
                }
            }
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

    /// Repeats the ACK for a 2xx that came again. False: none was sent for it.
    pub(super) fn repeat_ack(&self, cx: &mut Services, side: Side, cseq: u32, remote_tag: Option<&str>) -> bool {
        let Some(ack) = self.acks.iter().find(|a| a.side == side && a.cseq == cseq && a.remote_tag.as_deref() == remote_tag)
        else {
            return false;
        };
        cx.send(ack.back, ack.tls_name.clone(), ack.payload.clone());
        true
    }
}

/// ACKs kept for repetition: one a side, and some forks.
const MAX_ACKS: usize = 4;
