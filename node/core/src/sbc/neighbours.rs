//! How a peer is that this node has no link to: OPTIONS to its unicast and core address, and what its answer says under seal.
//!
//! Authenticated only while this node is cut off from the quorum, or its disk has failed: only then does it matter who else serves. One question to
//! an address at a time. A member's question is known by its branch, which only members can mint, and by its source; nobody else is told
//! anything, and a member's answer can be read by members alone, and for no other question.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::Sbc;
use crate::call::{BRANCH_COOKIE, CLAIM_FIELD, Services, Timer, Told};
use crate::ids::NodeId;
use crate::io::{ClaimStage, NodeState, Output, Realm, ReturnPath};
use crate::sip::Message;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::token::TokenKind;
use crate::transaction::{ClientTxId, ClientUser};

/// How often each address of a peer is asked: four times within the time that a word counts (`peer::WORD_LIMIT` in the node).
const EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take: by UDP the question has had three copies by then (RFC 3261 §17.1.2.2: 0, 0.5, 1.5 s).
const LIMIT: Duration = Duration::from_secs(2);
/// Peers that are asked; a cluster has fewer.
const MAX_PEERS: usize = 16;
/// Where the answer says how the node is.
const STATE: &str = "X-SBC-State";

/// The questions under way.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    /// Set while somebody is to be asked.
    timer: Option<TimerId>,
    asked: HashMap<ClientTxId, Question>,
}

#[derive(Debug)]
struct Question {
    node: NodeId,
    to: SocketAddr,
    branch: Box<str>,
    at: Instant,
}

impl Sbc {
    /// The peers that have to be asked, each with its addresses: those without a link.
    fn unheard(&self) -> Vec<(NodeId, [(Realm, SocketAddr); 2])> {
        let view = &self.cx.view;
        if self.cx.now.mono < view.lease_until && !view.own.disk_failed {
            return Vec::new();
        }
        let others = view.nodes.iter().filter(|n| n.id != self.cx.local.node && !n.alive).take(MAX_PEERS);
        others.map(|n| (n.id, self.cx.addresses_of(n))).collect()
    }

    /// The view is new: questions begin where there is somebody to ask.
    pub(super) fn plan_neighbours(&mut self) {
        if self.neighbours.timer.is_none() && !self.unheard().is_empty() {
            self.neighbours.timer = Some(self.cx.start_timer(EVERY, Timer::Neighbours));
        }
    }

    pub(super) fn on_neighbours_tick(&mut self) {
        let now = self.cx.now.mono;
        self.neighbours.timer = None;
        let late: Vec<ClientTxId> =
            self.neighbours.asked.iter().filter(|(_, q)| now >= q.at + LIMIT).map(|(tx, _)| *tx).collect();
        for tx in late {
            self.neighbours.asked.remove(&tx);
            self.cx.tx.abandon_client(tx);
        }
        for (node, addresses) in self.unheard() {
            for (realm, to) in addresses {
                if !self.neighbours.asked.values().any(|q| q.to == to) {
                    self.ask_neighbour(node, realm, to);
                }
            }
        }
        self.plan_neighbours();
    }

    fn ask_neighbour(&mut self, node: NodeId, realm: Realm, to: SocketAddr) {
        if let Some((tx, branch)) = self.cx.ask_member(ClientUser::Neighbour, realm, to, None) {
            self.neighbours.asked.insert(tx, Question { node, to, branch, at: self.cx.now.mono });
        }
    }

    /// A response to a question.
    pub(super) fn on_neighbour_response(&mut self, tx: ClientTxId, response: &Message) {
        let Some(question) = self.neighbours.asked.remove(&tx) else { return };
        let said = response.first_named(STATE).and_then(|text| self.cx.key.open_state(text, &question.branch));
        if let Some((node, incarnation, bits)) = said.filter(|(node, ..)| *node == question.node) {
            self.cx.out.push_back(Output::PeerSaid { node, incarnation, state: NodeState::from_bits(bits) });
        }
    }

    /// A question got no response, or could not be sent.
    pub(super) fn on_neighbour_lost(&mut self, tx: ClientTxId) {
        self.neighbours.asked.remove(&tx);
    }

    /// True when this OPTIONS is a member's question.
    pub(super) fn is_a_members(&self, back: &ReturnPath, request: &Message) -> bool {
        let branch = request.top_via().branch().and_then(|b| self.cx.key.open(b.get(BRANCH_COOKIE.len()..)?));
        let Some(token) = branch.filter(|t| t.kind == TokenKind::Branch && t.uid.node != self.cx.local.node) else {
            return false;
        };
        let source = back.path.remote.ip();
        self.cx.view.node(token.uid.node).is_some_and(|n| n.unicast.contains(source) || n.core.contains(source))
    }

    /// The header fields that tell the asking member how this node is, and what it has of the call that is named.
    pub(super) fn told_to_member(&self, request: &Message) -> Vec<(&'static str, String)> {
        let local = &self.cx.local;
        let challenge = request.top_via().branch().unwrap_or_default();
        let state = self.cx.key.seal_state(local.node, local.incarnation, self.cx.view.own.to_bits(), challenge);
        let call = Services::asked_about(request).map(|(key, exact)| {
            let told = match self.what_it_has(&key) {
                Some((_, stage)) => Told::Has(stage),
                None if self.tombstones.contains(self.cx.now.mono, &exact) => Told::Cancelled,
                // A copy of what has failed rings nobody either.
                None if self.has_failed_here(&key, &exact) => Told::Has(ClaimStage::Answered),
                None => Told::Nothing,
            };
            (CLAIM_FIELD, self.cx.seal_told(request, told))
        });
        [(STATE, state)].into_iter().chain(call).collect()
    }

    /// A response to a question about a call.
    pub(super) fn on_inquiry_response(&mut self, tx: ClientTxId, response: &Message) {
        let Some(inquiry) = self.cx.inquiries.take(tx) else { return };
        let Some(told) = self.cx.open_told(&inquiry, response) else { return };
        self.cx.inquiries.on_heard(inquiry.node);
        match told {
            Told::Has(stage) => self.on_claim_found(inquiry.node, inquiry.key, stage),
            Told::Cancelled => self.on_cancelled_elsewhere(&inquiry.key, inquiry.exact),
            Told::Nothing => {
                if let Some(&serial) = self.by_claim.get(&inquiry.key) {
                    self.with_call(serial, |call, cx| call.on_peer_has_not(cx, inquiry.node));
                }
            }
        }
    }
}
