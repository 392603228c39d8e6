//! What a call works with: transactions, timers, outputs, and what is known about this node and the cluster.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::after_bye::AfterBye;
use super::challenge::NonceCounts;
use super::inquiry::Inquiries;
use super::ladder::Note;
use super::timer::TimerUser;
use super::timers::Timers;
use crate::ctx::{AGENT, LocalConfig};
use crate::health::Health;
use crate::ids::{CallUid, FlowId, LocalId, MediaId, NodeId, ProposalId, ResolveId, SendId};
use crate::io::{AddressRole, Counter, DropReason, Output, Path, PeerMessage, ReturnPath, SendFailure, Transmit, Transport};
use crate::policy::{ClusterConfig, Passing, apply_header_rules, apply_profile};
use crate::replica::Replica;
use crate::sip::{Draft, HeaderId, Message, Method, NameAddr, Uri, Via};
use crate::store_pb;
use crate::time::{Instant, Now, UnixMs};
use crate::timer::TimerId;
use crate::token::{ClusterKey, OwnerToken, TokenKind};
use crate::transaction::{ClientTxId, NewRequest, QuestionUser, ServerKey, ServerTxId, ServerUser, Transactions};

/// Transactions of this node at the most: at 2 KB each this bounds them at 800 MB, far above the sizing goal's need.
const MAX_TRANSACTIONS: usize = 400_000;

/// The cookie of RFC 3261 branches (§8.1.1.7).
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// Shared by all calls of a node.
pub struct Services {
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
    pub replica: Arc<RwLock<Replica>>,
    /// All transactions.
    pub tx: Transactions,
    /// Targets that lately failed.
    pub health: Health,
    /// All timers but those of transactions.
    pub timers: Timers,
    /// Outputs not yet polled.
    pub out: VecDeque<Output>,
    /// Who asked the DNS what, until it has answered.
    pub questions: HashMap<ResolveId, QuestionUser>,
    /// Uses of others' nonces.
    pub nonces: NonceCounts,
    /// Requests that no call waits for.
    pub after_bye: AfterBye,
    /// This node's connections on which something came in and that are not closed: as many as the transport allows.
    pub flows: HashSet<FlowId>,
    /// What peers without a link are asked about calls.
    pub inquiries: Inquiries,
    /// Messages to be filed in ladders.
    pub notes: Vec<Note>,
    next: u64,
}

impl Services {
    /// With nothing in it yet.
    pub fn new(
        now: Now,
        local: LocalConfig,
        key: ClusterKey,
        config: Arc<ClusterConfig>,
        replica: Arc<RwLock<Replica>>,
    ) -> Services {
        Services {
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
        self.out.push_back(Output::Count(counter));
    }

    /// Asks the DNS.
    pub fn resolve(&mut self, user: QuestionUser, request: crate::io::ResolveRequest) -> ResolveId {
        let id = ResolveId(self.serial());
        self.questions.insert(id, user);
        self.out.push_back(Output::Resolve { id, request });
        id
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
        self.out.push_back(Output::Propose { id, command });
    }

    /// A media session id.
    pub fn mint_media(&mut self) -> MediaId {
        MediaId(self.serial())
    }

    /// Sends bytes that no transaction looks after (ACK for 2xx, a 2xx repeated, a stateless response).
    pub fn send(&mut self, back: ReturnPath, tls_name: Option<Box<str>>, payload: Bytes) {
        let transmit = Transmit { path: back.path, reopen: back.reopen, tls_name, payload, id: SendId(0) };
        match back.ingress {
            None => self.out.push_back(Output::Transmit(transmit)),
            Some(to) => self.send_for(to, transmit),
        }
    }

    /// Sends from the socket of the node that the request came to (rule E), and from here where that node is gone: an answer from
    /// the anycast address is as good from any node, and one from another address of ours better than none.
    pub fn send_for(&mut self, to: NodeId, mut transmit: Transmit) {
        if self.reachable_peer(to) {
            self.out.push_back(Output::Peer { to, message: PeerMessage::SendFor(transmit) });
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
        self.out.push_back(Output::Transmit(transmit));
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

    /// Encodes and sends a response of a server transaction.
    pub fn respond(&mut self, tx: ServerTxId, draft: &mut Draft) -> Option<Bytes> {
        let status = draft.status().unwrap_or(500);
        if let Some(back) = self.tx.server_back(tx) {
            fill_via(draft, &back);
        }
        let payload = self.encode(draft)?;
        self.count(Counter::ResponseSent(u8::try_from(status / 100).unwrap_or(0)));
        self.tx.respond(self.now.mono, tx, status, payload.clone());
        Some(payload)
    }

    /// A plain final response: tag, Allow and Retry-After where they belong.
    pub fn reject(&mut self, tx: ServerTxId, request: &Message, status: u16, local_tag: &str) {
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, local_tag, AGENT);
        self.respond(tx, &mut draft);
    }

    /// A response without a transaction (RFC 3261 §8.2.7).
    pub fn reject_stateless(&mut self, back: ReturnPath, request: &Message, status: u16) {
        self.reject_with(back, request, status, &[]);
    }

    /// The same with the header fields that say why, in the place of those of the same name that it would have.
    pub fn reject_with(&mut self, back: ReturnPath, request: &Message, status: u16, fields: &[(&str, String)]) {
        let tag = self.stateless_tag(request);
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, &tag, AGENT);
        for (name, value) in fields {
            draft.remove_named(name);
            draft.push_named(name, value.as_str());
        }
        fill_via(&mut draft, &back);
        if let Some(payload) = self.encode(&draft) {
            self.count(Counter::ResponseSent(u8::try_from(status / 100).unwrap_or(0)));
            self.send(back, None, payload);
        }
    }

    /// 200 to a BYE that crosses ours (RFC 5407 §3.2.1), and to its copies, whatever becomes of ours meanwhile.
    pub fn answer_crossed_bye(&mut self, back: ReturnPath, bye: &Message) {
        match self.create_server(ServerUser::Nobody, super::server_key(bye, &Method::Bye), false, back) {
            Some(tx) => self.reject(tx, bye, 200, ""),
            None => self.reject_stateless(back, bye, 200),
        }
    }

    /// 100, without a transaction (RFC 3261 §8.2.6.1): its sender need not repeat it.
    pub fn answer_trying(&mut self, back: ReturnPath, request: &Message) {
        let mut draft = request.response(100, None);
        fill_via(&mut draft, &back);
        if let Some(payload) = self.encode(&draft) {
            self.count(Counter::ResponseSent(1));
            self.send(back, None, payload);
        }
    }

    /// The same tag for each copy of a request (RFC 3261 §8.2.7).
    pub fn stateless_tag(&self, request: &Message) -> String {
        let key = self.key.claim_key(request.call_id(), request.from_tag().unwrap_or(""), request.cseq());
        self.key.callee_identity(key, 0, u32::from(self.local.node.0)).from_tag
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
            self.out.push_back(Output::Peer { to: *to, message: message.clone() });
        }
        peers.len()
    }

    /// Deadline of something that starts now.
    pub fn after(&self, d: std::time::Duration) -> Instant {
        self.now.mono + d
    }
}

#[cfg(test)]
impl Services {
    /// Of a node alone, for tests of what works with them.
    pub(super) fn for_tests() -> Services {
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
        Services::new(
            Now::default(),
            local,
            ClusterKey::new(&[7; 32], None),
            Arc::default(),
            Arc::new(RwLock::new(Replica::new())),
        )
    }
}

/// Fills in where the request came from (RFC 3261 §18.2.1, RFC 3581 §4): `back` leads to its source address.
pub fn fill_via(draft: &mut Draft, back: &ReturnPath) {
    let Some(via) = draft.first(HeaderId::Via).and_then(|v| Via::parse_any_version(v).ok()) else { return };
    let filled = via.with_received(back.path.remote);
    if filled != via.as_str() {
        draft.replace_first(HeaderId::Via, filled);
    }
}

/// What every final response of our own has besides the copied fields.
pub fn finish_response(draft: &mut Draft, request: &Message, status: u16, local_tag: &str, server: &str) {
    if status > 100 && request.to_tag().is_none() {
        draft.set(HeaderId::To, format!("{};tag={local_tag}", request.to()));
    }
    match status {
        // RFC 3261 §21.4.6 for 405; whoever hears 501 wants to know as well.
        405 | 501 => {
            draft.push(HeaderId::Allow, ALLOW);
        }
        503 => {
            // 1-3 s, spread by the request, so that refused ones do not all come back at once (rule G).
            let seconds = 1 + request.cseq() % 3;
            draft.push(HeaderId::RetryAfter, seconds.to_string());
        }
        _ => {}
    }
    draft.push(HeaderId::Server, server);
}

/// Via parameter of our INVITEs that holds the loop cookie (RFC 3261 §16.6 step 8).
pub const LOOP_PARAM: &str = "loop";

/// The methods that we take part in.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, MESSAGE, REFER, NOTIFY, SUBSCRIBE, PUBLISH";
/// The same for a trunk whose subscriptions and publications are refused.
pub const ALLOW_NO_EVENTS: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, MESSAGE, REFER, NOTIFY";

/// True for methods of [`ALLOW`].
pub fn allowed(method: &Method) -> bool {
    !matches!(method, Method::Register | Method::Other(_))
}
