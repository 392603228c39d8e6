//! A message came in, from a socket of this node or through a peer: parse, match, place.

use std::net::SocketAddr;

use bytes::Bytes;

use super::Sbc;
use super::gate::{Entrance, RateLimits, drops};
use super::held_invites::Waited;
use super::options::answer_options;
use super::refuse;
use super::relay::relay;
use super::send_for::send_for;
pub(super) use crate::call::server_key;
use crate::call::{ClaimEvent, Context, allowed};
use crate::ids::NodeId;
use crate::io::{Counter, DropReason, Envelope, Output, Path, PeerMessage, ReturnPath, Transport};
use crate::local::is_private;
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
            Err(error) => return answer_unreadable(&mut self.cx, &mut self.gate.limits, path, ingress, &payload, &error),
        };
        let back = return_path(ingress, path, message.top_via());
        if message.is_request() {
            self.cx.count(Counter::RequestReceived(message.method().label()));
            self.on_request(path, back, &message);
        } else {
            self.on_response(path, back, &message);
        }
    }

    /// A peer sent something.
    pub(super) fn on_peer(&mut self, from: NodeId, message: PeerMessage) {
        match message {
            PeerMessage::Relay(Envelope { path, payload, age, .. }) => {
                self.cx.arrived = self.cx.now.mono - age;
                self.on_message(path, Some(from), payload);
            }
            PeerMessage::SendFor(transmit) => send_for(&mut self.cx, from, transmit),
            PeerMessage::SendForFailed { id, reason } => self.cx.tx.on_send_for_failed(self.cx.now.mono, from, id, reason),
            PeerMessage::AskClaim { key } => {
                let call = self.calls.what_it_has(&self.cx, &key);
                self.cx.output(Output::Peer { to: from, message: PeerMessage::ClaimIs { key, call } });
            }
            PeerMessage::Cancelled { key, packet_key } => self.on_cancelled_elsewhere(&key, packet_key),
            PeerMessage::ClaimIs { key, call: Some((_, stage)) } => self.on_claim_found(from, key, stage, false),
            PeerMessage::ClaimIs { key, call: None } => {
                if let Some(id) = self.calls.of_claim(&key) {
                    self.with_call(id, |call, cx| call.tell_claim(cx, ClaimEvent::PeerHasNot(from)));
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
            Method::Invite => self.place_invite(path, back, message, Waited::default()),
            Method::Options => {
                answer_options(&mut self.cx, &mut self.gate.limits, &self.calls, &self.tombstones, back, message);
            }
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
            self.cx.count(Counter::Dropped(DropReason::ForeignResponse));
            return;
        };
        if token.uid.node != self.cx.local.node {
            return relay(&mut self.cx, token.uid.node, path, back.ingress, message);
        }
        let invite = message.method() == &Method::Invite;
        let Some(tx) = self.cx.tx.find_client(branch, invite) else {
            self.cx.count(Counter::Dropped(DropReason::LateResponse));
            return;
        };
        let action = self.cx.tx.on_response(self.cx.now.mono, tx, message.status().unwrap_or(500));
        self.on_outcome(tx, action, back, message);
    }
}

fn answer_unreadable(
    cx: &mut Context,
    limits: &mut RateLimits,
    path: Path,
    ingress: Option<NodeId>,
    payload: &[u8],
    error: &ParseError,
) {
    cx.count(Counter::ParseError(error.label()));
    let (Some(via), Some(mut draft)) = (error.salvaged_via(), error.reply()) else { return };
    let back = return_path(ingress, path, via);
    if !calls_for_help(cx, payload) && !limits.may_answer(cx, &back) {
        return;
    }
    crate::call::fill_via(&mut draft, &back);
    if let Some(payload) = cx.encode(&draft) {
        cx.count(Counter::ResponseSent(4));
        cx.send(back, None, payload);
    }
}

/// True when the first line of what cannot be read is that of an emergency call.
fn calls_for_help(cx: &Context, payload: &[u8]) -> bool {
    let uri = payload.strip_prefix(b"INVITE ").and_then(|rest| rest.split(|octet| *octet == b' ').next());
    let uri = uri.and_then(|uri| Uri::parse(std::str::from_utf8(uri).ok()?).ok());
    uri.is_some_and(|uri| crate::routing::is_emergency(&cx.config, &uri))
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
