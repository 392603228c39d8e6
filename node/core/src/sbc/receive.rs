//! A message came in, from a socket of this node or through a peer: parse, match, place.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Sbc;
use super::gate::{Entrance, KNOWN_EXTENSIONS, drops};
use super::refuse;
pub(super) use crate::call::server_key;
use crate::call::{CLAIM_FIELD, Services, Told, allowed};
use crate::ctx::{AGENT, is_private};
use crate::ids::NodeId;
use crate::io::{ClaimStage, Counter, Envelope, Output, Path, PeerMessage, ReturnPath, Transport};
use crate::neighbours;
use crate::sip::{Message, Method, ParseError, Uri, Via};
use crate::token::TokenKind;
use crate::transaction::ServerUser;

impl Sbc {
    /// Bytes off a socket (`ingress` none) or out of an envelope.
    pub(super) fn on_message(&mut self, path: Path, ingress: Option<NodeId>, payload: Bytes) {
        if ingress.is_none()
            && let Some(why) = drops(&self.cx, &self.gate, path.role.realm(), path.remote.ip())
        {
            return refuse::note(&mut self.cx, &mut self.gate, &path, &why);
        }
        let message = match Message::parse(payload.clone()) {
            Ok(message) => message,
            Err(error) => return self.on_unreadable(path, ingress, &payload, &error),
        };
        let back = return_path(ingress, path, message.top_via());
        if message.is_request() {
            self.cx.count(Counter::RequestReceived(message.method().label()));
            self.on_request(path, back, &message);
        } else {
            self.on_response(path, back, &message);
        }
    }

    fn on_unreadable(&mut self, path: Path, ingress: Option<NodeId>, payload: &[u8], error: &ParseError) {
        self.cx.count(Counter::ParseError(error.label()));
        let (Some(via), Some(mut draft)) = (error.salvaged_via(), error.reply()) else { return };
        let back = return_path(ingress, path, via);
        if !self.calls_for_help(payload) && !self.gate.limits.may_answer(&mut self.cx, &back) {
            return;
        }
        crate::call::fill_via(&mut draft, &back);
        if let Some(payload) = self.cx.encode(&draft) {
            self.cx.count(Counter::ResponseSent(4));
            self.cx.send(back, None, payload);
        }
    }

    /// True when the first line of what cannot be read is that of an emergency call.
    fn calls_for_help(&self, payload: &[u8]) -> bool {
        let uri = payload.strip_prefix(b"INVITE ").and_then(|rest| rest.split(|octet| *octet == b' ').next());
        let uri = uri.and_then(|uri| Uri::parse(std::str::from_utf8(uri).ok()?).ok());
        uri.is_some_and(|uri| crate::routing::is_emergency(&self.cx.config, &uri))
    }

    /// A peer sent something.
    pub(super) fn on_peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Relay(Envelope { path, payload, age, .. }) => {
                self.cx.arrived = self.cx.now.mono - age;
                self.on_message(path, Some(from), payload);
            }
            PeerMessage::Emit(transmit) => self.on_emit(from, transmit),
            PeerMessage::EmitFailed { id, reason } => self.cx.tx.on_emit_failed(self.cx.now.mono, from, id, reason),
            PeerMessage::AskClaim { key } => {
                let call = self.calls.what_it_has(&self.cx, &key);
                self.cx.out.push_back(Output::Peer { to: from, message: PeerMessage::ClaimIs { key, call } });
            }
            PeerMessage::Cancelled { key, exact } => self.on_cancelled_elsewhere(&key, exact),
            PeerMessage::ClaimIs { key, call: Some((_, stage)) } => self.on_claim_found(from, key, stage),
            PeerMessage::ClaimIs { key, call: None } => {
                if let Some(id) = self.calls.of_claim(&key) {
                    self.with_call(id, |call, cx| call.on_peer_has_not(cx, from));
                }
            }
        }
    }

    fn on_request(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let key = server_key(message, message.method());
        match message.method() {
            Method::Ack => {
                // What the transaction does not take acknowledges a 2xx, of a UA that gave it the branch of the INVITE.
                if let Some(tx) = self.cx.tx.find_server(&key) {
                    // Asked before: on a reliable transport the ACK ends the transaction (timer I is zero).
                    let user = self.cx.tx.server_user(tx);
                    if !self.cx.tx.on_ack(self.cx.now.mono, tx) {
                        if let ServerUser::Call(call) = user {
                            self.cx.note_received(call, back, message);
                        }
                        return;
                    }
                }
                return self.on_in_dialog(path, back, message);
            }
            Method::Cancel => return self.on_cancel(path, back, message, &key),
            _ => {}
        }
        if let Some(tx) = self.cx.tx.find_server(&key) {
            self.cx.tx.on_request_retransmission(self.cx.now.mono, tx, back);
            if let ServerUser::Call(id) = self.cx.tx.server_user(tx) {
                self.cx.note_received(id, back, message);
                if message.method() == &Method::Invite {
                    self.with_call(id, |call, cx| call.on_invite_copy(cx, tx, back));
                }
            }
            return;
        }
        if message.to_tag().is_some() {
            return self.on_in_dialog(path, back, message);
        }
        if let Some(refusal) = Entrance::by_path(self.sights(), &path, back.ingress, message).first() {
            return self.turn_away(&path, back, message, &refusal);
        }
        match message.method() {
            Method::Invite => self.on_initial_invite(path, back, message),
            Method::Options => self.on_options(back, message),
            Method::Message | Method::Publish | Method::Subscribe => self.on_standalone(path, back, message),
            // RFC 3261 §15.1.2, §12.2.2; RFC 6665 §4.1.3: they are about a dialog, and without a tag of ours there is none.
            Method::Bye | Method::Prack | Method::Update | Method::Info | Method::Notify => {
                self.refuse(back, message, 481);
            }
            method if allowed(method) || method == &Method::Register => {
                self.refuse(back, message, 405);
            }
            _ => self.refuse(back, message, 501),
        }
    }

    fn on_response(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let Some(branch) = message.top_via().branch() else { return };
        let token = branch.get(crate::call::BRANCH_COOKIE.len()..).and_then(|t| self.cx.key.open(t));
        let Some(token) = token.filter(|t| t.kind == TokenKind::Branch) else {
            self.cx.count(Counter::Dropped("foreign_response"));
            return;
        };
        if token.uid.node != self.cx.local.node {
            return self.relay(token.uid.node, path, back.ingress, message);
        }
        let invite = message.method() == &Method::Invite;
        let Some(tx) = self.cx.tx.find_client(branch, invite) else {
            self.cx.count(Counter::Dropped("late_response"));
            return;
        };
        let action = self.cx.tx.on_response(self.cx.now.mono, tx, message.status().unwrap_or(500));
        self.on_outcome(tx, action, back, message);
    }

    /// Hands a packet to its owner as it came, unless it came from a peer already (rule D).
    pub(super) fn relay(&mut self, to: NodeId, path: Path, ingress: Option<NodeId>, message: &Message) {
        let label = message.method().label();
        if ingress.is_some() {
            self.cx.count(Counter::Misrouted(label, "hop"));
            return;
        }
        if !self.cx.reachable_peer(to) {
            self.cx.count(Counter::Misrouted(label, "unreachable"));
            return;
        }
        self.cx.count(Counter::Misrouted(label, "relay"));
        let age = self.cx.now.mono.since(self.cx.arrived);
        let envelope = Envelope { ingress: self.cx.local.node, path, payload: message.raw().clone(), age };
        self.cx.out.push_back(Output::Peer { to, message: PeerMessage::Relay(envelope) });
    }

    /// The header fields that tell the asking member how this node is, and what it has of the call that is named.
    fn told_to_member(&self, request: &Message) -> Vec<(&'static str, String)> {
        let call = Services::asked_about(request).map(|(key, exact)| {
            let told = match self.calls.what_it_has(&self.cx, &key) {
                Some((_, stage)) => Told::Has(stage),
                None if self.tombstones.contains(self.cx.now.mono, &exact) => Told::Cancelled,
                // A copy of what has failed rings nobody either.
                None if self.calls.has_failed_here(&self.cx, &key, &exact) => Told::Has(ClaimStage::Answered),
                None => Told::Nothing,
            };
            (CLAIM_FIELD, self.cx.seal_told(request, told))
        });
        [neighbours::own_state(&self.cx, request)].into_iter().chain(call).collect()
    }

    /// OPTIONS to the node itself (RFC 3261 §11.2, AC-40).
    fn on_options(&mut self, back: ReturnPath, request: &Message) {
        let of_member = neighbours::is_a_members(&self.cx, &back, request);
        if !of_member && !self.gate.limits.may_answer(&mut self.cx, &back) {
            return;
        }
        let told = if of_member { self.told_to_member(request) } else { Vec::new() };
        if self.cx.view.draining {
            self.cx.reject_with(back, request, 503, &told);
            return;
        }
        let mut draft = request.response(200, None);
        let tag = self.cx.stateless_tag(request);
        crate::call::finish_response(&mut draft, request, 200, &tag, AGENT);
        draft.push(crate::sip::HeaderId::Allow, crate::call::ALLOW);
        draft.push(crate::sip::HeaderId::Accept, "application/sdp");
        draft.push_named("Accept-Encoding", "identity");
        draft.push(crate::sip::HeaderId::Supported, KNOWN_EXTENSIONS.join(", "));
        let ip = self.cx.local.own_address(back.path.role.realm(), back.path.remote.ip());
        let port = self.cx.local.port_of(back.path.transport);
        let parameter = back.path.transport.contact_parameter();
        draft.push(crate::sip::HeaderId::Contact, format!("<sip:{}:{port}{parameter}>", crate::ctx::bracketed(ip)));
        for (name, value) in told {
            draft.push_named(name, value);
        }
        crate::call::fill_via(&mut draft, &back);
        if let Some(payload) = self.cx.encode(&draft) {
            self.cx.count(Counter::ResponseSent(2));
            self.cx.send(back, None, payload);
        }
    }
}

/// Where the responses to a request go (RFC 3261 §18.2.2, RFC 3581 §4).
fn return_path(ingress: Option<NodeId>, path: Path, via: &Via) -> ReturnPath {
    let port = via.port().unwrap_or(if path.transport == Transport::Tls { 5061 } else { 5060 });
    let listens = SocketAddr::new(path.remote.ip(), port);
    if path.transport.is_reliable() {
        return ReturnPath { ingress, path, reopen: Some(listens) };
    }
    // A private address that is not the one the request came from is behind a NAT, whose mapping is the source port alone.
    let source = path.remote.ip().to_canonical();
    let behind_nat = via.host().parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical() != source && is_private(ip));
    let remote = if via.has_rport() || behind_nat { path.remote } else { listens };
    ReturnPath::through(ingress, Path { remote, ..path })
}
