//! What a peer without a link has of the call of an INVITE (AC-55): asked by OPTIONS at its addresses, for its SIP may live where its links
//! do not. It alone knows that the call is over.
//!
//! What is kept true: a node that is known not to answer costs no call any time, and a question is answered for its asker only, as a
//! member's question how a node is (`neighbours.rs`).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::context::{BRANCH_COOKIE, Context};
use crate::ids::{NodeId, PacketKey};
use crate::io::{Addresses, ClaimStage, NodeView, Output, PeerMessage, Realm, ReturnPath, Transport};
use crate::local::bracketed;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::time::Instant;
use crate::transaction::{ClientTxId, ClientUser, NewRequest};

/// Names the call: its claim key and its packet key, in hexadecimal digits. In the answer: how far it is there, under seal.
pub const CLAIM_FIELD: &str = "X-SBC-Claim";
/// A node that was asked, and has said nothing for so long, is not waited for: twice the claim's budget by default.
const MUTE_AFTER: Duration = Duration::from_millis(300);
/// How often a node is asked that nobody waits for: it may have come back.
const MUTE_EVERY: Duration = Duration::from_millis(250);
/// A peer that has its link again tells the log what it has done meanwhile; until then it is asked by its link. As long as a copy of an INVITE
/// counts.
const BACK: Duration = Duration::from_secs(32);
/// How long an answer counts.
const LIMIT: Duration = Duration::from_secs(2);
/// Questions under way: some hundred calls a second, asked thrice at both addresses of a node. Beyond it calls go on unasked.
const MOST: usize = 2000;
/// Peers that are asked; a cluster has fewer.
const MAX_PEERS: usize = 16;

/// The questions under way, and who answers such.
#[derive(Debug, Default)]
pub struct Inquiries {
    asked: HashMap<ClientTxId, Inquiry>,
    order: VecDeque<(Instant, ClientTxId)>,
    peers: HashMap<NodeId, AskedPeer>,
}

/// What a member says of the call that it is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InquiryAnswer {
    /// It does not know of it.
    Nothing,
    /// It has the call, or had it, and how far it is.
    Has(ClaimStage),
    /// The caller has cancelled there, where nobody knew the INVITE: it has heard 481, and its INVITE waits for its answer.
    Cancelled,
    /// It has the call by another way of the caller's INVITE, which it answers alone: the way that was asked about hears nothing from there.
    HasByAnotherWay(ClaimStage),
}

impl InquiryAnswer {
    const ALL: [InquiryAnswer; 10] = [
        InquiryAnswer::Nothing,
        InquiryAnswer::Has(ClaimStage::Preparing),
        InquiryAnswer::Has(ClaimStage::Dialling),
        InquiryAnswer::Has(ClaimStage::Won),
        InquiryAnswer::Has(ClaimStage::Answered),
        InquiryAnswer::Cancelled,
        InquiryAnswer::HasByAnotherWay(ClaimStage::Preparing),
        InquiryAnswer::HasByAnotherWay(ClaimStage::Dialling),
        InquiryAnswer::HasByAnotherWay(ClaimStage::Won),
        InquiryAnswer::HasByAnotherWay(ClaimStage::Answered),
    ];

    /// As it is sealed: its place in the list, to which later versions only add.
    fn code(self) -> u8 {
        InquiryAnswer::ALL.iter().position(|told| *told == self).and_then(|n| u8::try_from(n).ok()).unwrap_or(0)
    }
}

/// A question.
#[derive(Debug)]
pub struct Inquiry {
    /// Who was asked.
    pub node: NodeId,
    /// Of which claim.
    pub key: [u8; 16],
    /// The same with the packet's branch.
    pub packet_key: PacketKey,
    /// What the answer is sealed for.
    pub challenge: Box<str>,
}

#[derive(Debug, Default)]
struct AskedPeer {
    /// When it was asked first since it has last answered.
    unanswered: Option<Instant>,
    asked: Option<Instant>,
    /// When its link came back.
    back: Option<Instant>,
}

impl Inquiries {
    /// The link of a peer is up again.
    pub fn on_link(&mut self, now: Instant, node: NodeId) {
        self.peers.insert(node, AskedPeer { back: Some(now), ..AskedPeer::default() });
    }

    fn is_back(&self, now: Instant, node: NodeId) -> bool {
        let back = self.peers.get(&node).and_then(|peer| peer.back);
        back.is_some_and(|at| now.since(at) < BACK)
    }

    /// An answer has come, or never will.
    pub fn take(&mut self, tx: ClientTxId) -> Option<Inquiry> {
        self.asked.remove(&tx)
    }

    /// A peer answers.
    pub fn on_heard(&mut self, node: NodeId) {
        self.peers.entry(node).or_default().unanswered = None;
    }

    fn is_mute(&self, now: Instant, node: NodeId) -> bool {
        let since = self.peers.get(&node).and_then(|peer| peer.unanswered);
        since.is_some_and(|at| now.since(at) >= MUTE_AFTER)
    }
}

impl Context {
    /// Where SIP reaches a member, from our own address of that side.
    pub fn addresses_of(&self, node: &NodeView) -> [(Realm, SocketAddr); 2] {
        let port = self.local.port_of(Transport::Udp);
        let at = |own: Addresses, peers: Addresses| SocketAddr::new(peers.like(own.first()), port);
        [(Realm::External, at(self.local.unicast, node.unicast)), (Realm::Core, at(self.local.core, node.core))]
    }

    /// Sends a member's question. Its transaction, and its branch, by which the member knows that it is one.
    pub fn ask_member(
        &mut self,
        user: ClientUser,
        realm: Realm,
        to: SocketAddr,
        field: Option<(&str, &str)>,
    ) -> Option<(ClientTxId, Box<str>)> {
        let path = self.path_to(realm, Transport::Udp, to);
        let (branch, serial) = (self.mint_branch(), self.serial());
        let own = bracketed(self.local.own_address(realm, to.ip()));
        let mut draft = Draft::request(&Method::Options, &format!("sip:{to}"));
        draft.push(HeaderId::Via, self.via(&path, &branch));
        draft.push(HeaderId::MaxForwards, "0");
        draft.push(HeaderId::From, format!("<sip:node@{own}>;tag={serial}"));
        draft.push(HeaderId::To, format!("<sip:{to}>"));
        draft.push(HeaderId::CallId, format!("{}@{own}", &branch[BRANCH_COOKIE.len()..]));
        draft.push(HeaderId::CSeq, "1 OPTIONS");
        if let Some((name, value)) = field {
            draft.push_named(name, value);
        }
        let (payload, branch): (_, Box<str>) = (self.encode(&draft)?, branch.into());
        let way = ReturnPath::here(path);
        let request = NewRequest { user, branch: branch.clone(), invite: false, way, tls_name: None, payload };
        let tx = self.send_request(request)?;
        Some((tx, branch))
    }

    /// Asks the peers that have no link here, or had none lately, what they have of an INVITE's call. Those whose answer may be waited for.
    pub fn inquire(&mut self, key: [u8; 16], packet_key: PacketKey) -> Vec<NodeId> {
        self.end_inquiries();
        let own = self.local.node;
        let silent = self.view.nodes.iter().filter(|n| n.id != own && !n.alive).take(MAX_PEERS);
        let silent: Vec<_> = silent.map(|n| (n.id, self.addresses_of(n))).collect();
        let named = format!("{:032x} {:032x}", u128::from_be_bytes(key), u128::from_be_bytes(packet_key.0));
        let back = |n: &&NodeView| n.id != own && n.alive && self.inquiries.is_back(self.now.mono, n.id);
        let mut awaited: Vec<NodeId> = self.view.nodes.iter().filter(back).map(|n| n.id).collect();
        for to in &awaited {
            self.output(Output::Peer { to: *to, message: PeerMessage::AskClaim { key } });
        }
        for (node, addresses) in silent {
            let (now, mute) = (self.now.mono, self.inquiries.is_mute(self.now.mono, node));
            let peer = self.inquiries.peers.entry(node).or_default();
            if self.inquiries.asked.len() >= MOST || (mute && peer.asked.is_some_and(|at| now.since(at) < MUTE_EVERY)) {
                continue;
            }
            peer.asked = Some(now);
            peer.unanswered.get_or_insert(now);
            for (realm, to) in addresses {
                let Some((tx, branch)) = self.ask_member(ClientUser::Inquiry, realm, to, Some((CLAIM_FIELD, &named))) else {
                    continue;
                };
                let challenge = challenge(&branch, &named);
                self.inquiries.asked.insert(tx, Inquiry { node, key, packet_key, challenge });
                self.inquiries.order.push_back((now, tx));
            }
            if !mute {
                awaited.push(node);
            }
        }
        awaited
    }

    /// True for a peer without a link that answers such questions, as far as is known.
    pub fn may_answer_inquiry(&self, node: NodeId) -> bool {
        !self.reachable_peer(node) && !self.inquiries.is_mute(self.now.mono, node)
    }

    /// Gives up the questions that nobody has answered.
    pub fn end_inquiries(&mut self) {
        let now = self.now.mono;
        while let Some(&(_, tx)) = self.inquiries.order.front().filter(|(at, _)| now.since(*at) >= LIMIT) {
            self.inquiries.order.pop_front();
            if self.inquiries.take(tx).is_some() {
                self.tx.abandon_client(tx);
            }
        }
    }

    /// The keys that a member asks about.
    pub fn asked_about(request: &Message) -> Option<([u8; 16], PacketKey)> {
        let (key, packet_key) = request.first_named(CLAIM_FIELD)?.split_once(' ')?;
        let read = |digits: &str| u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes);
        Some((read(key)?, PacketKey(read(packet_key)?)))
    }

    /// What a member is told of a call, for its question alone.
    pub fn seal_told(&self, request: &Message, told: InquiryAnswer) -> String {
        let named = request.first_named(CLAIM_FIELD).unwrap_or_default();
        let challenge = challenge(request.top_via().branch().unwrap_or_default(), named);
        self.key.seal_state(self.local.node, self.local.incarnation, told.code(), &challenge)
    }

    /// What a peer says in its answer; `None`: nothing that can be believed.
    pub fn open_told(&self, inquiry: &Inquiry, response: &Message) -> Option<InquiryAnswer> {
        let (node, _, code) = self.key.open_state(response.first_named(CLAIM_FIELD)?, &inquiry.challenge)?;
        (node == inquiry.node).then(|| InquiryAnswer::ALL.get(usize::from(code)).copied().unwrap_or(InquiryAnswer::Nothing))
    }
}

fn challenge(branch: &str, named: &str) -> Box<str> {
    format!("{branch} {named}").into()
}
