//! What a call works with: transactions, timers, outputs, and what is known about this node and the cluster.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use bytes::Bytes;

use super::challenge::{Lone, NonceCounts};
use super::timer::Timer;
use crate::ctx::LocalConfig;
use crate::health::Health;
use crate::ids::{CallUid, MediaId, NodeId, ProposalId, ResolveId, SendId};
use crate::io::{Counter, Output, Path, PeerMessage, ReturnPath, Transmit, Transport};
use crate::policy::ClusterConfig;
use crate::replica::Replica;
use crate::sip::{Draft, HeaderId, Message, Method, Via};
use crate::store_pb;
use crate::time::{Instant, Now};
use crate::timer::{TimerId, TimerWheel};
use crate::token::{ClusterKey, OwnerToken, TokenKind};
use crate::transaction::{ClientTxId, ServerTxId, Transactions};

/// Transactions of this node at the most: at 2 KB each this bounds them at 800 MB, far above the sizing goal's need.
const MAX_TRANSACTIONS: usize = 400_000;

/// The cookie of RFC 3261 branches (§8.1.1.7).
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// What a response to a client transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientUse {
    /// The called leg's first INVITE, by attempt.
    Dial(u32),
    /// A request passed from one leg to the other, by its number in the call.
    Forward(u64),
}

/// Shared by all calls of a node.
pub struct Services {
    /// The time of the input in hand.
    pub now: Now,
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
    /// All timers of calls.
    pub timers: TimerWheel<Timer>,
    /// Outputs not yet polled.
    pub out: VecDeque<Output>,
    /// Who waits for a client transaction.
    pub client_use: HashMap<ClientTxId, (u64, ClientUse)>,
    /// Which call a server transaction belongs to.
    pub server_use: HashMap<ServerTxId, u64>,
    /// Which call a DNS question belongs to.
    pub resolving: HashMap<ResolveId, u64>,
    /// Uses of others' nonces.
    pub nonces: NonceCounts,
    /// Requests that no call waits for, by transaction: bounded as those are.
    pub alone: HashMap<ClientTxId, Lone>,
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
            local,
            config,
            key,
            view: Default::default(),
            replica,
            tx: Transactions::new(MAX_TRANSACTIONS),
            health: Health::default(),
            timers: TimerWheel::new(now.mono),
            out: VecDeque::new(),
            client_use: HashMap::new(),
            server_use: HashMap::new(),
            resolving: HashMap::new(),
            nonces: NonceCounts::default(),
            alone: HashMap::new(),
            next: 0,
        }
    }

    /// A number never given before in this incarnation.
    pub fn serial(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// An id in this node's present incarnation.
    pub fn own_uid(&self, serial: u64) -> CallUid {
        CallUid { node: self.local.node, incarnation: self.local.incarnation, serial }
    }

    /// A new Via branch (rule A).
    pub fn mint_branch(&mut self) -> String {
        let serial = self.serial();
        let token = self.key.seal(OwnerToken { kind: TokenKind::Branch, uid: self.own_uid(serial) });
        format!("{BRANCH_COOKIE}{token}")
    }

    /// Sets a timer.
    pub fn start_timer(&mut self, after: std::time::Duration, timer: Timer) -> TimerId {
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

    /// Asks the DNS for a call.
    pub fn resolve(&mut self, call: u64, request: crate::io::ResolveRequest) -> ResolveId {
        let id = ResolveId(self.serial());
        self.resolving.insert(id, call);
        self.out.push_back(Output::Resolve { id, request });
        id
    }

    /// Proposes a record of a call, whose number is the proposal's.
    pub fn propose(&mut self, call: u64, kind: store_pb::command::Kind) {
        let id = ProposalId(call);
        let command = Box::new(store_pb::Command { unix_ms: self.now.unix.0, kind: Some(kind) });
        self.out.push_back(Output::Propose { id, command });
    }

    /// A media session id.
    pub fn mint_media(&mut self) -> MediaId {
        MediaId(self.serial())
    }

    /// Sends bytes that no transaction looks after (ACK for 2xx, a 2xx repeated, a stateless response).
    pub fn send(&mut self, back: ReturnPath, tls_name: Option<Box<str>>, payload: Bytes) {
        let transmit = Transmit { path: back.path, tls_name, payload, id: SendId(0) };
        match back.ingress.filter(|n| *n != self.local.node) {
            None => self.out.push_back(Output::Transmit(transmit)),
            Some(to) => self.out.push_back(Output::Peer { to, message: PeerMessage::Emit(transmit) }),
        }
    }

    /// Encodes; a message that cannot be written is counted and dropped (a value with a line break in it).
    pub fn encode(&mut self, draft: &Draft) -> Option<Bytes> {
        match draft.encode() {
            Ok(bytes) => Some(bytes),
            Err(_) => {
                self.count(Counter::Dropped("unwritable"));
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
        finish_response(&mut draft, request, status, local_tag, &self.local.name);
        self.respond(tx, &mut draft);
    }

    /// A response without a transaction (RFC 3261 §8.2.7).
    pub fn reject_stateless(&mut self, back: ReturnPath, request: &Message, status: u16) {
        let tag = self.stateless_tag(request);
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, &tag, &self.local.name);
        fill_via(&mut draft, &back);
        if let Some(payload) = self.encode(&draft) {
            self.count(Counter::ResponseSent(u8::try_from(status / 100).unwrap_or(0)));
            self.send(back, None, payload);
        }
    }

    /// The same tag for each copy of a request (RFC 3261 §8.2.7).
    pub fn stateless_tag(&self, request: &Message) -> String {
        let key = self.key.claim_key(request.call_id(), request.from_tag().unwrap_or(""), request.cseq());
        self.key.callee_identity(key, 0, u32::from(self.local.node.0)).from_tag
    }

    /// Our Via value for a request over this path.
    pub fn via(&self, path: &Path, branch: &str) -> String {
        format!("SIP/2.0/{} {};branch={branch};rport", path.transport.via_token(), path.local)
    }

    /// The path of a request of ours to `remote`.
    pub fn path_to(&self, realm: crate::io::Realm, transport: Transport, remote: SocketAddr) -> Path {
        let role = LocalConfig::own_role(realm);
        Path { role, transport, local: self.local.address(role, transport), remote, flow: None }
    }

    /// A member that is another node and reachable.
    pub fn reachable_peer(&self, node: NodeId) -> bool {
        node != self.local.node && self.view.node(node).is_some_and(|n| n.alive)
    }

    /// Deadline of something that starts now.
    pub fn after(&self, d: std::time::Duration) -> Instant {
        self.now.mono + d
    }
}

/// Fills in where the request came from (RFC 3261 §18.2.1, RFC 3581 §4): `back` leads to its source address.
pub fn fill_via(draft: &mut Draft, back: &ReturnPath) {
    let Some(via) = draft.first(HeaderId::Via).and_then(|v| Via::parse(v).ok()) else { return };
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
        405 => {
            draft.push(HeaderId::Allow, ALLOW);
        }
        503 | 500 => {
            // 1-3 s, spread by the request, so that refused ones do not all come back at once (rule G).
            let seconds = 1 + request.cseq() % 3;
            draft.push(HeaderId::RetryAfter, seconds.to_string());
        }
        _ => {}
    }
    draft.push(HeaderId::Server, server);
}

/// The methods that we take part in.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, PRACK, MESSAGE, REFER, NOTIFY, SUBSCRIBE";

/// True for methods of [`ALLOW`].
pub fn allowed(method: &Method) -> bool {
    !matches!(method, Method::Register | Method::Publish | Method::Other(_))
}
