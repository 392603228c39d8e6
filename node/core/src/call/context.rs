//! What a call works with: transactions, timers, outputs, and what is known about this node and the cluster. How it answers by itself is in
//! `respond`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::after_bye::AfterBye;
use super::challenge::NonceCounts;
use super::inquiry::Inquiries;
use super::ladder::Note;
use super::timer::TimerUser;
use super::timers::Timers;
use crate::health::Health;
use crate::ids::{CallUid, FlowId, LocalId, MediaId, NodeId, ProposalId, ResolveId, SendId};
use crate::io::{AddressRole, Counter, DropReason, Output, Path, PeerMessage, ReturnPath, SendFailure, Transmit, Transport};
use crate::local::LocalConfig;
use crate::policy::{ClusterConfig, Passing, apply_header_rules, apply_profile};
use crate::replica::Replica;
use crate::sip::{Draft, Message, Method, NameAddr, Uri};
use crate::store_pb;
use crate::time::{Instant, Now, UnixMs};
use crate::timer::TimerId;
use crate::token::{ClusterKey, OwnerToken, TokenKind};
use crate::transaction::{ClientTxId, NewRequest, QuestionUser, ServerKey, ServerTxId, ServerUser, Transactions};

/// Transactions of this node at the most: at 2 KB each this bounds them at 800 MB, far above the sizing goal's need.
const MAX_TRANSACTIONS: usize = 400_000;

/// The cookie of RFC 3261 branches (§8.1.1.7).
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// Shared by all calls of a node. What has to be kept in step is private: it is asked for, and told, by verbs.
pub struct Context {
    /// The time of the input in hand.
    pub now: Now,
    /// When a kernel had the message in hand, here or at its ingress; where it is no message, `now`.
    pub arrived: Instant,
    /// This node.
    pub local: LocalConfig,
    /// The cluster's configuration.
    pub config: Arc<ClusterConfig>,
    /// The cluster's key.
    pub key: ClusterKey,
    /// The cluster.
    pub view: crate::io::View,
    /// The replicated state.
    replica: Arc<RwLock<Replica>>,
    /// All transactions.
    pub tx: Transactions,
    /// Targets that lately failed.
    pub health: Health,
    /// All timers but those of transactions.
    pub timers: Timers,
    /// Outputs not yet polled.
    out: VecDeque<Output>,
    /// Who asked the DNS what, until it has answered.
    questions: HashMap<ResolveId, QuestionUser>,
    /// Uses of others' nonces.
    pub(super) nonces: NonceCounts,
    /// Requests that no call waits for.
    pub after_bye: AfterBye,
    /// This node's connections on which something came in and that are not closed: as many as the transport allows.
    flows: HashSet<FlowId>,
    /// What peers without a link are asked about calls.
    pub inquiries: Inquiries,
    /// Messages to be filed in ladders.
    notes: Vec<Note>,
    next: u64,
}

impl Context {
    /// With nothing in it yet.
    pub fn new(
        now: Now,
        local: LocalConfig,
        key: ClusterKey,
        config: Arc<ClusterConfig>,
        replica: Arc<RwLock<Replica>>,
    ) -> Context {
        Context {
            now,
            arrived: now.mono,
            local,
            config,
            key,
            view: Default::default(),
            replica,
            tx: Transactions::new(MAX_TRANSACTIONS),
            health: Health::default(),
            timers: Timers::new(now.mono),
            out: VecDeque::new(),
            questions: HashMap::new(),
            nonces: NonceCounts::default(),
            after_bye: AfterBye::default(),
            flows: HashSet::new(),
            inquiries: Inquiries::default(),
            notes: Vec::new(),
            next: 0,
        }
    }

    /// Hands out to the node.
    pub fn output(&mut self, output: Output) {
        self.out.push_back(output);
    }

    /// The oldest output that was not handed out yet.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// The replicated state, which the node's other threads read too. Not to be held while something is applied.
    pub fn replica(&self) -> RwLockReadGuard<'_, Replica> {
        // Nothing panics in the middle of a change: the state is whole whoever poisoned it.
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, to apply what was committed.
    pub fn replica_mut(&self) -> RwLockWriteGuard<'_, Replica> {
        self.replica.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages came on this connection: it can be sent on.
    pub fn flow_opened(&mut self, flow: FlowId) {
        self.flows.insert(flow);
    }

    /// This connection is closed.
    pub fn flow_closed(&mut self, flow: FlowId) {
        self.flows.remove(&flow);
    }

    /// What was noted for ladders since the last time.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Notes for a call's ladder that a message goes out.
    pub fn note_sent(&mut self, call: LocalId, back: ReturnPath, draft: &Draft) {
        self.notes.push(Note::sent(call, self.now.unix, back, draft));
    }

    /// Notes for a call's ladder that a message came in.
    pub fn note_received(&mut self, call: LocalId, back: ReturnPath, message: &Message) {
        self.notes.push(Note::received(call, self.now.unix, back, message));
    }

    /// A number never given before in this incarnation.
    pub fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A place in this node's tables.
    pub fn local_id(&mut self) -> LocalId {
        LocalId(self.serial())
    }

    /// The id that a call or subscription has which begins at this place, in this node's present incarnation.
    pub fn own_uid(&self, id: LocalId) -> CallUid {
        CallUid { node: self.local.node, incarnation: self.local.incarnation, serial: id.0 }
    }

    /// True for what this start of the node began.
    pub fn is_own(&self, uid: CallUid) -> bool {
        uid.node == self.local.node && uid.incarnation == self.local.incarnation
    }

    /// A new Via branch (rule A).
    pub fn mint_branch(&mut self) -> String {
        let id = self.local_id();
        let token = self.key.seal(OwnerToken { kind: TokenKind::Branch, uid: self.own_uid(id) });
        format!("{BRANCH_COOKIE}{token}")
    }

    /// Sets a timer.
    pub fn start_timer(&mut self, after: std::time::Duration, timer: TimerUser) -> TimerId {
        self.timers.insert(self.now.mono + after, timer)
    }

    /// Stops a timer, if it is set.
    pub fn stop_timer(&mut self, id: &mut Option<TimerId>) {
        if let Some(id) = id.take() {
            self.timers.cancel(id);
        }
    }

    /// Counts.
    pub fn count(&mut self, counter: Counter) {
        self.output(Output::Count(counter));
    }

    /// Asks the DNS.
    pub fn resolve(&mut self, user: QuestionUser, request: crate::io::ResolveRequest) -> ResolveId {
        let id = ResolveId(self.serial());
        self.questions.insert(id, user);
        self.output(Output::Resolve { id, request });
        id
    }

    /// The DNS has answered: who had asked. `None`: nobody waits for it any more.
    pub fn resolved(&mut self, id: ResolveId) -> Option<QuestionUser> {
        self.questions.remove(&id)
    }

    /// The transaction of a new request. `None`: there is no room, or the key is taken.
    pub fn create_server(&mut self, user: ServerUser, key: ServerKey, invite: bool, back: ReturnPath) -> Option<ServerTxId> {
        self.tx.create_server(self.now.mono, user, key, invite, back)
    }

    /// Sends a request and waits for its responses. `None`: it was not sent.
    pub fn send_request(&mut self, request: NewRequest) -> Option<ClientTxId> {
        self.tx.send_request(self.now.mono, request)
    }

    /// Proposes a record of a call, whose number is the proposal's, with the time it arose at.
    pub fn propose(&mut self, call: LocalId, at: UnixMs, kind: store_pb::command::Kind) {
        let id = ProposalId(call.0);
        let command = Box::new(store_pb::Command { unix_ms: at.0, kind: Some(kind) });
        self.output(Output::Propose { id, command });
    }

    /// A media session id.
    pub fn mint_media(&mut self) -> MediaId {
        MediaId(self.serial())
    }

    /// Sends bytes that no transaction looks after (ACK for 2xx, a 2xx repeated, a stateless response).
    pub fn send(&mut self, back: ReturnPath, tls_name: Option<Box<str>>, payload: Bytes) {
        let transmit = Transmit { path: back.path, reopen: back.reopen, tls_name, payload, id: SendId(0) };
        match back.ingress {
            None => self.output(Output::Transmit(transmit)),
            Some(to) => self.send_for(to, transmit),
        }
    }

    /// Sends from the socket of the node that the request came to (rule E), and from here where that node is gone: an answer from
    /// the anycast address is as good from any node, and one from another address of ours better than none.
    pub fn send_for(&mut self, to: NodeId, mut transmit: Transmit) {
        if self.reachable_peer(to) {
            self.output(Output::Peer { to, message: PeerMessage::SendFor(transmit) });
            return;
        }
        if transmit.id != SendId(0) {
            // A request that was to go over a connection of that node.
            self.tx.on_send_for_failed(self.now.mono, to, transmit.id, SendFailure::Refused);
            return;
        }
        let path = &mut transmit.path;
        path.flow = None;
        if path.role != AddressRole::Anycast {
            path.local = self.local.address(path.role, path.transport, path.remote.ip());
        }
        self.output(Output::Transmit(transmit));
    }

    /// True for a connection that is there, as far as this node knows: its own, or one of a node that lives.
    pub fn is_open(&self, flow: FlowId, ingress: Option<NodeId>) -> bool {
        match ingress.filter(|n| *n != self.local.node) {
            None => self.flows.contains(&flow),
            Some(node) => self.reachable_peer(node),
        }
    }

    /// Encodes; a message that cannot be written is counted and dropped (a value with a line break in it).
    pub fn encode(&mut self, draft: &Draft) -> Option<Bytes> {
        match draft.encode() {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                self.count(Counter::Dropped(DropReason::Unwritable));
                None
            }
        }
    }

    /// Our Via value for a request over this path. A connection to the anycast address is one to this node all the same (rule F).
    pub fn via(&self, path: &Path, branch: &str) -> String {
        let local = match path.role {
            AddressRole::Anycast => self.local.address(AddressRole::Unicast, path.transport, path.remote.ip()),
            AddressRole::Unicast | AddressRole::Core => path.local,
        };
        format!("SIP/2.0/{} {local};branch={branch};rport", path.transport.via_token())
    }

    /// What our Via of an INVITE says of where the call was to go: the same on every node, and telling nobody else anything.
    pub fn loop_cookie(&self, invite: &Message) -> String {
        let uri = invite.request_uri().unwrap_or_default();
        let user = Uri::parse(uri).ok().and_then(|u| crate::routing::dialled(&u));
        let destination = user.unwrap_or_else(|| uri.to_ascii_lowercase());
        let mac = self.key.authenticate(&[b"loop", destination.as_bytes()]);
        mac[..8].iter().map(|octet| format!("{octet:02x}")).collect()
    }

    /// The path of a request of ours to `remote`.
    pub fn path_to(&self, realm: crate::io::Realm, transport: Transport, remote: SocketAddr) -> Path {
        let role = LocalConfig::own_role(realm);
        Path { role, transport, local: self.local.address(role, transport, remote.ip()), remote, flow: None }
    }

    /// True when the host of a URI is this cluster: any of its addresses, or one of its names.
    pub fn leads_here(&self, uri: &Uri) -> bool {
        self.local.is_our_host(&self.view, &self.config.settings.own_names, uri)
    }

    /// Takes this cluster's own addresses out of a route set: whoever put them there, a request along it would come back to us, and
    /// would name the anycast address (rules F, AC-34).
    pub fn drop_own_routes(&self, dialog: &mut crate::dialog::Dialog) {
        let ours = |value: &str| NameAddr::parse(value).is_ok_and(|route| self.leads_here(&route.uri));
        dialog.route_set.retain(|route| !ours(route));
    }

    /// Profiles and header rules for what goes from one trunk to another. `method`: of a response its request's.
    pub fn shape(&self, from: &str, to: &str, method: &Method, emergency: bool, draft: &mut Draft) {
        apply_profile(self.config.trunk(from), self.config.trunk(to), method, emergency, draft);
        if self.config.header_rules.is_empty() {
            return;
        }
        let passing = Passing { from, to, method: method.as_str(), response: draft.status().is_some(), emergency };
        apply_header_rules(&self.config.header_rules, &passing, draft);
    }

    /// True while a quorum has confirmed this node lately (rule I): without it a node begins nothing that ends a call.
    pub fn has_lease(&self) -> bool {
        self.now.mono < self.view.lease_until
    }

    /// A member that is another node and reachable.
    pub fn reachable_peer(&self, node: NodeId) -> bool {
        node != self.local.node && self.view.node(node).is_some_and(|n| n.alive)
    }

    /// Asks the peers that are reachable whether they have the call of a claim. How many were asked.
    pub fn ask_peers(&mut self, key: [u8; 16]) -> usize {
        self.tell_peers(&PeerMessage::AskClaim { key })
    }

    /// Says something to all peers that are reachable. How many there are.
    pub fn tell_peers(&mut self, message: &PeerMessage) -> usize {
        let own = self.local.node;
        let peers: Vec<_> = self.view.nodes.iter().filter(|n| n.alive && n.id != own).map(|n| n.id).collect();
        for to in &peers {
            self.output(Output::Peer { to: *to, message: message.clone() });
        }
        peers.len()
    }

    /// Deadline of something that starts now.
    pub fn after(&self, d: std::time::Duration) -> Instant {
        self.now.mono + d
    }
}

#[cfg(test)]
impl Context {
    /// Of a node alone, for tests of what works with them.
    pub(super) fn for_tests() -> Context {
        let at = |n: u8| crate::io::Addresses::from(std::net::IpAddr::from([192, 0, 2, n]));
        let local = LocalConfig {
            node: NodeId(1),
            incarnation: crate::ids::Incarnation(1),
            name: "n1".into(),
            anycast: at(1),
            unicast: at(2),
            core: at(3),
            port: 5060,
            tls_port: 5061,
            anchored: false,
        };
        Context::new(
            Now::default(),
            local,
            ClusterKey::new(&[7; 32], None),
            Arc::default(),
            Arc::new(RwLock::new(Replica::new())),
        )
    }
}
