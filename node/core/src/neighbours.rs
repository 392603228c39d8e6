//! How a peer is that this node has no link to: OPTIONS to its unicast and core address, and what its answer says under seal.
//!
//! It matters who else serves while this node is cut off from the quorum, or its disk has failed; and of a node that is cut off itself, whether it has
//! its calls all the same (`sbc/takeover.rs`). One question to an address at a time. A member's question is known by its branch, which only members can mint, and by its source; nobody else is told
//! anything, and a member's answer can be read by members alone, and for no other question.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::call::{BRANCH_COOKIE, Context, TimerUser};
use crate::ids::NodeId;
use crate::io::{NodeState, Output, Realm, ReturnPath};
use crate::sip::Message;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::token::TokenKind;
use crate::transaction::{ClientTxId, ClientUser};

/// How often each address of a peer is asked: four times within the time that a word counts (`peer::WORD_LIMIT` in the node).
const EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take: by UDP the question has had three copies by then (RFC 3261 §17.1.2.2: 0, 0.5, 1.5 s).
const LIMIT: Duration = Duration::from_secs(2);
/// A node that has been asked for so long, twice at each address, and has not answered.
const SILENCE: Duration = Duration::from_secs(1);
/// Peers that are asked; a cluster has fewer.
const MAX_PEERS: usize = 16;
/// Where the answer says how the node is.
const STATE: &str = "X-SBC-State";

/// The questions under way.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// Set while somebody is to be asked.
    timer: Option<TimerId>,
    asked: HashMap<ClientTxId, Question>,
    /// Since when nodes without a link are asked, and when they last answered.
    heard: HashMap<NodeId, (Instant, Option<Instant>)>,
}

#[derive(Debug)]
struct Question {
    node: NodeId,
    to: SocketAddr,
    branch: Box<str>,
    at: Instant,
}

impl Neighbours {
    /// The view is new: questions begin where there is somebody to ask.
    pub(crate) fn plan(&mut self, cx: &mut Context) {
        if self.timer.is_none() && !unheard(cx).is_empty() {
            self.timer = Some(cx.start_timer(EVERY, TimerUser::Neighbours));
        }
    }

    /// Time to ask, and to give up whoever was silent for too long.
    pub(crate) fn on_tick(&mut self, cx: &mut Context) {
        let now = cx.now.mono;
        self.timer = None;
        let late: Vec<ClientTxId> = self.asked.iter().filter(|(_, q)| now >= q.at + LIMIT).map(|(tx, _)| *tx).collect();
        for tx in late {
            self.asked.remove(&tx);
            cx.tx.abandon_client(tx);
        }
        let unheard = unheard(cx);
        self.heard.retain(|node, _| unheard.iter().any(|(asked, _)| asked == node));
        for (node, addresses) in unheard {
            self.heard.entry(node).or_insert((now, None));
            for (realm, to) in addresses {
                if !self.asked.values().any(|q| q.to == to) {
                    self.ask(cx, node, realm, to);
                }
            }
        }
        self.plan(cx);
    }

    /// True for a node without a link that has been asked for a while, and does not answer. One that answers has its calls, whatever has become
    /// of its links.
    pub(crate) fn is_silent(&self, now: Instant, node: NodeId) -> bool {
        self.heard
            .get(&node)
            .is_some_and(|(asked, answered)| now.since(*asked) >= SILENCE && answered.is_none_or(|at| now.since(at) >= LIMIT))
    }

    fn ask(&mut self, cx: &mut Context, node: NodeId, realm: Realm, to: SocketAddr) {
        if let Some((tx, branch)) = cx.ask_member(ClientUser::Neighbour, realm, to, None) {
            self.asked.insert(tx, Question { node, to, branch, at: cx.now.mono });
        }
    }

    /// A response to a question.
    pub(crate) fn on_response(&mut self, cx: &mut Context, tx: ClientTxId, response: &Message) {
        let Some(question) = self.asked.remove(&tx) else { return };
        let said = response.first_named(STATE).and_then(|text| cx.key.open_state(text, &question.branch));
        if let Some((node, incarnation, bits)) = said.filter(|(node, ..)| *node == question.node) {
            // A later start of it, which the log does not know yet, has none of its calls.
            let same_start = cx.replica().node_incarnation(node).is_none_or(|known| known == incarnation);
            if let Some((_, answered)) = self.heard.get_mut(&node).filter(|_| same_start) {
                *answered = Some(cx.now.mono);
            }
            // Who has a quorum, and a disk, hears over its links who is well.
            if cx.now.mono >= cx.view.lease_until || cx.view.own.disk_failed {
                cx.output(Output::PeerSaid { node, incarnation, state: NodeState::from_bits(bits) });
            }
        }
    }

    /// A question got no response, or could not be sent.
    pub(crate) fn on_lost(&mut self, tx: ClientTxId) {
        self.asked.remove(&tx);
    }
}

/// The peers that have to be asked, each with its addresses: those without a link.
fn unheard(cx: &Context) -> Vec<(NodeId, [(Realm, SocketAddr); 2])> {
    let view = &cx.view;
    let others = view.nodes.iter().filter(|n| n.id != cx.local.node && !n.alive).take(MAX_PEERS);
    others.map(|n| (n.id, cx.addresses_of(n))).collect()
}

/// True when this OPTIONS is a member's question.
pub(crate) fn is_a_members(cx: &Context, back: &ReturnPath, request: &Message) -> bool {
    let branch = request.top_via().branch().and_then(|b| cx.key.open(b.get(BRANCH_COOKIE.len()..)?));
    let Some(token) = branch.filter(|t| t.kind == TokenKind::Branch && t.uid.node != cx.local.node) else {
        return false;
    };
    let source = back.path.remote.ip();
    cx.view.node(token.uid.node).is_some_and(|n| n.unicast.contains(source) || n.core.contains(source))
}

/// The header field that tells the asking member how this node is.
pub(crate) fn own_state(cx: &Context, request: &Message) -> (&'static str, String) {
    let challenge = request.top_via().branch().unwrap_or_default();
    (STATE, cx.key.seal_state(cx.local.node, cx.local.incarnation, cx.view.own.to_bits(), challenge))
}
