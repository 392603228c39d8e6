//! Nodes, network, log, media engine, DNS and phones, moved by one queue of events in virtual time.

mod event;
mod faults;
mod log;
mod lost;
mod wire;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use sbc_core::ids::{CallUid, CommandId, FlowId, Incarnation, NodeId, ProposalId, SendId};
use sbc_core::io::{
    AddressRole, Addresses, Command, CommandReply, Counter, Explanation, HostAndPort, Input, LadderEntry, MediaCommand,
    MediaEvent, MediaStats, NodeState, NodeView, Output, Path, PeerMessage, Realm, Received, RouteOrigin, SendFailure, Side,
    SideHeard, StreamPorts, StreamRemote, Target, Transmit, Transport, View,
};
use sbc_core::local::LocalConfig;
use sbc_core::policy::{ClusterConfig, MisroutePolicy, Prefix, Route, RouteMatch, Settings, Trunk, TrunkTarget};
use sbc_core::replica::{ENTRY_VERSION, EarlyCalls, LEVEL, OWNER_LOST_LEVEL, Replica, event_id};
use sbc_core::sbc::Sbc;
use sbc_core::sip::Message;
use sbc_core::store_pb;
use sbc_core::time::{Instant, Now, UnixMs};
use sbc_core::token::ClusterKey;

use event::{Event, Queued};
pub(crate) use event::{Fault, Net};
pub(crate) use lost::Answered;

use crate::invariants::{media_where_it_is_open, no_anycast_leak};
use crate::phone::{LegState, Phone};
use crate::plan::{Plan, Who};
use crate::rng::Rng;

/// The address that every node serves, in each family.
pub(crate) const ANYCAST: [&str; 2] = ["198.18.112.112:5060", "[2001:db8:112::112]:5060"];
/// Microseconds in a millisecond.
pub(crate) const MS: u64 = 1000;
/// The cluster's key.
const KEY: [u8; 32] = [7; 32];
/// The wall clock at virtual time 0.
pub(crate) const UNIX: u64 = 1_800_000_000_000;
/// How often a node's lease is renewed.
const LEASE_TICK: u64 = 500 * MS;
/// A node that was not heard for so long is taken for dead.
const DOWN_AFTER: u64 = 3000 * MS;
/// Steps of one world at the most: a world that does not come to rest is a failure.
const MAX_STEPS: u64 = 400_000;

/// One simulated node.
pub(crate) struct Node {
    pub(crate) sbc: Sbc,
    pub(crate) replica: Arc<RwLock<Replica>>,
    /// What it tells of its calls without the log.
    pub(crate) early: EarlyCalls,
    /// Ids of all events that it told so in this life.
    pub(crate) told: BTreeSet<String>,
    /// Its peer links are cut.
    pub(crate) cut_links: bool,
    /// It has no part in the log.
    pub(crate) cut_log: bool,
    pub(crate) dead: bool,
    /// Its process is stopped until then.
    frozen: u64,
    /// Its incarnation.
    pub(crate) life: u32,
    /// Its links are not up before.
    links_at: u64,
    /// Since when it has neither the log nor a peer, µs.
    apart_since: Option<u64>,
    /// Since when it has the log with a quorum, µs.
    log_since: Option<u64>,
    /// Since when it has not heard each node.
    unheard: Vec<Option<u64>>,
    pub(crate) unicast: SocketAddr,
    pub(crate) core: SocketAddr,
    pub(crate) unicast6: SocketAddr,
    pub(crate) core6: SocketAddr,
    pub(crate) counters: BTreeMap<Counter, u64>,
    timer: Option<u64>,
    /// When what it proposed last is to be committed.
    pub(crate) last_commit: u64,
    applied: usize,
    lease_until: u64,
    /// The last port given out on each side.
    next_port: u16,
}

impl Node {
    /// A port pair of that side's addresses.
    fn bind(&mut self, realm: Realm) -> u16 {
        self.next_port += 2;
        media_where_it_is_open::first_port(realm) + self.next_port
    }
}

/// One packet that was put on the wire.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Bytes,
    /// The node that sent it; `None`: a phone.
    pub(crate) node: Option<usize>,
    /// By a stream: which, the connection, and for a new one the name that was checked.
    pub(crate) stream: Option<(Transport, Option<FlowId>, Option<Box<str>>)>,
}

/// The whole.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) phones: Vec<Phone>,
    pub(crate) anycast: SocketAddr,
    /// The node that the anycast address reaches.
    pub(crate) route: usize,
    pub(crate) net: Net,
    pub(crate) rng: Rng,
    pub(crate) violations: Vec<String>,
    /// Everything sent, in order; only kept when asked for.
    pub(crate) sent: Option<Vec<Sent>>,
    /// Where nodes were told that media go, by side and port, in order.
    pub(crate) remotes: Vec<(Side, Option<u16>)>,
    /// The same, whole.
    pub(crate) streams: Vec<(u8, Side, Option<StreamRemote>)>,
    /// What nodes answered to orders.
    pub(crate) replies: Vec<CommandReply>,
    /// What nodes found of trunks: node, trunk, up, round trip.
    pub(crate) probed: Vec<(usize, Box<str>, bool, Option<Duration>)>,
    /// What nodes heard of peers by asking them: who heard, of whom, what.
    pub(crate) said: Vec<(usize, NodeId, NodeState)>,
    /// Connections that far ends have opened to nodes, each with its far end.
    pub(crate) connections: BTreeMap<(usize, FlowId), SocketAddr>,
    /// Addresses where nobody takes a connection.
    pub(crate) refusing: Vec<SocketAddr>,
    /// Connections take no more: what is to be sent over one does not fit its queue.
    pub(crate) congested: bool,
    /// What each name stands for; empty: the PSAP.
    pub(crate) names: Vec<Target>,
    /// The log has no quorum anywhere, though all links work.
    pub(crate) no_quorum: bool,
    /// Nothing can be sent there, and nodes are told so: a connection that is refused.
    pub(crate) unreachable: Option<SocketAddr>,
    /// Where media of the callers and of the called sides come from, by node; `None`: there are none.
    pub(crate) speaking: Vec<[Option<SocketAddr>; 2]>,
    /// INVITEs reach another node too, of the other part while a node is cut off, the second one after so long.
    pub(crate) copies: Option<(u64, u64)>,
    /// Nodes do not reach each other by SIP.
    pub(crate) sip_apart: bool,
    /// A node was cut off at some time.
    pub(crate) was_cut: bool,
    /// Links were cut at some time for longer than a node is believed to live without.
    pub(crate) was_down: bool,
    /// What nodes proposed to the log.
    pub(crate) proposals: u64,
    /// Calls that were open when a node died.
    pub(crate) victims: BTreeSet<usize>,
    pub(crate) killed_at: Vec<u64>,
    /// Calls that the log had not heard of when a node died.
    pub(crate) unrecorded: BTreeSet<usize>,
    /// Answers that callers were sent, by Call-ID, node and its life.
    pub(crate) answers: BTreeMap<(String, usize, u32), Answered>,
    key: ClusterKey,
    pub(crate) config: Arc<ClusterConfig>,
    /// The wall clocks are off by so much.
    pub(crate) wall_off_ms: i64,
    /// Print as it happens.
    pub(crate) trace: bool,
    log: Vec<Arc<store_pb::Entry>>,
    queue: BinaryHeap<Reverse<Queued>>,
    sequence: u64,
    steps: u64,
}

/// An address of the test networks.
pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Callers and a PSAP.
pub(crate) fn config(misroute: MisroutePolicy, named: bool) -> ClusterConfig {
    let prefix = |text: &str| Prefix { addr: text.parse().expect("an address"), len: if text.contains(':') { 48 } else { 24 } };
    let host = if named { "psap.test" } else { "198.18.20.1" };
    let target = TrunkTarget { host: HostAndPort { host: host.into(), port: None }, transport: Some(Transport::Udp) };
    let trunk = |name: &str, realm, sources: &[&str], targets| Trunk {
        sources: sources.iter().map(|s| prefix(s)).collect(),
        targets,
        misroute,
        ..Trunk::new(name, realm)
    };
    ClusterConfig {
        revision: 1,
        trunks: vec![
            trunk("callers", Realm::External, &["198.18.10.0", "2001:db8:10::"], vec![]),
            trunk("psap", Realm::Core, &["198.18.20.0"], vec![target]),
        ],
        routes: vec![Route { name: "emergency".into(), matches: vec![RouteMatch::Emergency(true)], trunks: vec!["psap".into()] }],
        emergency_numbers: vec!["112".into()],
        // Worlds are at rest sooner so (`scenario::AT_REST`); `patience` has the ten minutes of the default.
        settings: Settings { emergency_ring_timeout: Duration::from_secs(180), ..Settings::default() },
        ..ClusterConfig::default()
    }
}

impl World {
    /// `count` nodes, one caller phone and the PSAP for these calls.
    pub(crate) fn new(seed: u64, count: usize, plans: Vec<Plan>, net: Net) -> World {
        World::with_policy(seed, count, plans, net, MisroutePolicy::Relay)
    }

    /// The same with another misroute policy.
    pub(crate) fn with_policy(seed: u64, count: usize, plans: Vec<Plan>, net: Net, misroute: MisroutePolicy) -> World {
        World::with_config(seed, count, plans, net, |named| config(misroute, named))
    }

    /// The same with another configuration; it is told whether targets are to be names.
    pub(crate) fn with_config(
        seed: u64,
        count: usize,
        plans: Vec<Plan>,
        net: Net,
        config: impl FnOnce(bool) -> ClusterConfig,
    ) -> World {
        let [anycast, caller] =
            if net.ipv6 { [ANYCAST[1], "[2001:db8:10::1]:5060"] } else { [ANYCAST[0], "198.18.10.1:5060"] }.map(addr);
        let mut rng = Rng::new(seed);
        let config = Arc::new(config(rng.per_mille(300)));
        let key = ClusterKey::new(&KEY, None);
        let start = Now { mono: Instant::from_micros(0), unix: UnixMs(UNIX) };
        let nodes = (0..count).map(|i| make_node(i, count, &key, &config, start)).collect();
        let phones = vec![
            Phone::new(caller, Who::Caller, anycast, plans.clone(), seed),
            Phone::new(addr("198.18.20.1:5060"), Who::Psap, anycast, plans, seed.wrapping_add(1)),
        ];
        let mut world = World {
            now: 0,
            nodes,
            phones,
            anycast,
            route: 0,
            net,
            rng,
            violations: Vec::new(),
            sent: None,
            remotes: Vec::new(),
            streams: Vec::new(),
            replies: Vec::new(),
            probed: Vec::new(),
            said: Vec::new(),
            connections: BTreeMap::new(),
            refusing: Vec::new(),
            congested: false,
            names: Vec::new(),
            no_quorum: false,
            unreachable: None,
            speaking: vec![[None, None]; count],
            copies: None,
            sip_apart: false,
            was_cut: false,
            was_down: false,
            proposals: 0,
            victims: BTreeSet::new(),
            killed_at: Vec::new(),
            unrecorded: BTreeSet::new(),
            answers: BTreeMap::new(),
            key,
            config,
            wall_off_ms: 0,
            trace: false,
            log: Vec::new(),
            queue: BinaryHeap::new(),
            sequence: 0,
            steps: 0,
        };
        for i in 0..count {
            world.renew(i);
            world.arm_node(i);
        }
        for i in 0..world.phones.len() {
            world.arm_phone(i);
        }
        world
    }

    /// Every node gets a changed configuration, now.
    pub(crate) fn reconfigure(&mut self, change: impl Fn(&mut ClusterConfig)) {
        let mut config = config(MisroutePolicy::Relay, false);
        change(&mut config);
        let config = Arc::new(config);
        self.config = Arc::clone(&config);
        for i in 0..self.nodes.len() {
            self.input(i, Input::Reconfigured(Arc::clone(&config)));
        }
    }

    /// A node starts again at once, with its links: all that is not in the log is gone.
    pub(crate) fn start_again(&mut self, i: usize, incarnation: u32) {
        let local = LocalConfig { incarnation: Incarnation(incarnation), ..self.nodes[i].sbc.local().clone() };
        let replica = Arc::clone(&self.nodes[i].replica);
        self.nodes[i].sbc = Sbc::new(self.time(), local, self.key.clone(), Arc::clone(&self.config), replica);
        (self.nodes[i].timer, self.nodes[i].life) = (None, incarnation);
        self.send_view(i);
    }

    /// A node's loop is that busy.
    pub(crate) fn load(&mut self, node: usize, percent: u8) {
        self.input(node, Input::Load(percent));
    }

    /// The ladder of a node's call, as an operator sees it.
    pub(crate) fn ladder(&mut self, node: usize, call: CallUid) -> Vec<LadderEntry> {
        self.input(node, Input::Command { id: CommandId(1), command: Command::Ladder { call } });
        match self.replies.pop() {
            Some(CommandReply::Ladder { entries, .. }) => entries,
            other => panic!("no ladder: {other:?}"),
        }
    }

    /// An operator's order, and what the node says.
    pub(crate) fn command(&mut self, node: usize, id: CommandId, command: Command) -> CommandReply {
        self.input(node, Input::Command { id, command });
        self.replies.pop().expect("each command has its answer")
    }

    /// What a node says that its gate would do with an INVITE, as an operator asks.
    pub(crate) fn explain(&mut self, node: usize, source: SocketAddr, message: Bytes) -> Explanation {
        let command = Command::Explain { origin: RouteOrigin::Address(Realm::External, source.ip()), message };
        self.input(node, Input::Command { id: CommandId(1), command });
        match self.replies.pop() {
            Some(CommandReply::Explained(explanation)) => explanation,
            other => panic!("no explanation: {other:?}"),
        }
    }

    /// Plans a fault.
    pub(crate) fn fault_at(&mut self, at_ms: u64, fault: Fault) {
        self.push(at_ms * MS, Event::Fault(fault));
    }

    /// A node takes no turn before then, as when its process is stopped: what came meanwhile it finds all at once.
    pub(crate) fn freeze(&mut self, i: usize, until_ms: u64) {
        self.nodes[i].frozen = until_ms * MS;
        self.push(until_ms * MS, Event::NodeTimer(i));
        self.nodes[i].timer = Some(until_ms * MS);
    }

    /// Something from a socket that is no phone of ours.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        let at = self.now + 1;
        self.push(at, Event::Packet { from, to, bytes });
    }

    /// A message on a connection that this far end has opened to an address of a node, by TCP or TLS.
    pub(crate) fn stream_by(
        &mut self,
        transport: Transport,
        node: usize,
        flow: u64,
        role: AddressRole,
        remote: SocketAddr,
        payload: Bytes,
    ) {
        let local = match role {
            AddressRole::Anycast => self.anycast,
            AddressRole::Unicast => self.nodes[node].unicast,
            AddressRole::Core => self.nodes[node].core,
        };
        let flow = FlowId(flow);
        self.connections.insert((node, flow), remote);
        let path = Path { role, transport, local, remote, flow: Some(flow) };
        self.input(node, Input::Received(Received { path, payload, at: self.time().mono }));
    }

    /// A connection is gone, and the node knows it.
    pub(crate) fn close(&mut self, node: usize, flow: u64) {
        self.connections.remove(&(node, FlowId(flow)));
        self.input(node, Input::FlowClosed(FlowId(flow)));
    }

    /// Something that one node tells another.
    pub(crate) fn tell(&mut self, from: usize, to: usize, message: PeerMessage) {
        let at = self.now + 1;
        self.push(at, Event::Peer { from, to, message });
    }

    /// Runs until this time.
    pub(crate) fn run_until(&mut self, ms: u64) {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.0 > ms * MS {
                break;
            }
            let Some(Reverse(Queued(at, _, event))) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            if let Some(until) = self.frozen_for(&event) {
                self.push(until, event);
                continue;
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                self.violations.push(format!("no rest after {MAX_STEPS} steps at {} ms", self.now / MS));
                return;
            }
            self.step(event);
        }
        self.now = self.now.max(ms * MS);
    }

    /// The sum of a counter over all nodes.
    pub(crate) fn counted(&self, counter: Counter) -> u64 {
        self.nodes.iter().filter_map(|n| n.counters.get(&counter)).sum()
    }

    /// What happens to a node that is stopped happens when it goes on.
    fn frozen_for(&self, event: &Event) -> Option<u64> {
        let (Event::NodeTimer(node)
        | Event::Apply(node)
        | Event::Lease(node)
        | Event::Peer { to: node, .. }
        | Event::ProposeFailed { node, .. }
        | Event::Media { node, .. }
        | Event::Resolved { node, .. }) = event
        else {
            return None;
        };
        Some(self.nodes[*node].frozen).filter(|until| *until > self.now)
    }

    fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse(Queued(at, self.sequence, event)));
    }

    fn delay(&mut self, range: (u64, u64)) -> u64 {
        self.now + if range.1 > range.0 { self.rng.range(range.0, range.1) } else { range.0 }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Packet { from, to, bytes } => self.deliver(from, to, bytes),
            Event::Copy { read_by, from, to, bytes } => self.copied(read_by, from, to, bytes),
            Event::Peer { from, to, message } => {
                if self.linked(from, to) {
                    let from = NodeId(u16::try_from(from + 1).expect("few nodes"));
                    self.input(to, Input::Peer { from, message });
                }
            }
            Event::NodeTimer(i) => {
                if self.nodes[i].timer == Some(self.now) {
                    self.nodes[i].timer = None;
                    self.input(i, Input::Timeout);
                }
            }
            Event::PhoneTimer(i) => {
                if self.phones[i].next_wake().is_some_and(|at| at <= self.now) {
                    let now = self.now;
                    self.phones[i].on_wake(now);
                    self.flush_phone(i);
                }
            }
            Event::Commit { node, life, id, command } => self.commit(node, life, id, *command),
            Event::Apply(i) => self.apply(i),
            Event::ProposeFailed { node, life, id } => self.input_of(node, life, Input::ProposeFailed { id }),
            Event::Media { node, life, event } => self.input_of(node, life, Input::Media(event)),
            Event::SendFailed { node, .. } if self.nodes[node].dead => {}
            Event::SendFailed { node, id } => {
                let reason = if self.congested { SendFailure::Congested } else { SendFailure::Refused };
                self.input(node, Input::SendFailed { id, reason });
            }
            Event::Resolved { node, life, id, .. } if !self.names.is_empty() => {
                let result = Ok(self.names.clone());
                self.input_of(node, life, Input::Resolved { id, result });
            }
            Event::Resolved { node, life, id, port } => {
                let target = Target { addr: (addr("198.18.20.1:1").ip(), port).into(), transport: Transport::Udp };
                self.input_of(node, life, Input::Resolved { id, result: Ok(vec![target]) });
            }
            Event::Started { node, life } => self.started(node, life),
            Event::Lease(i) => self.renew(i),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    pub(crate) fn time(&self) -> Now {
        Now { mono: Instant::from_micros(self.now), unix: UnixMs(self.unix_ms()) }
    }

    fn unix_ms(&self) -> u64 {
        (UNIX + self.now / MS).saturating_add_signed(self.wall_off_ms)
    }

    /// What a node asked for in that life of its own.
    fn input_of(&mut self, i: usize, life: u32, input: Input) {
        if self.nodes[i].life == life {
            self.input(i, input);
        }
    }

    fn input(&mut self, i: usize, input: Input) {
        // What a node that is stopped would be told of the others it is told again.
        if self.nodes[i].dead || (self.now < self.nodes[i].frozen && matches!(input, Input::ViewChanged(_))) {
            return;
        }
        let now = self.time();
        self.nodes[i].sbc.handle_input(now, input);
        while let Some(output) = self.nodes[i].sbc.poll_output() {
            self.output(i, output);
        }
        self.arm_node(i);
    }

    fn output(&mut self, i: usize, output: Output) {
        match output {
            Output::Transmit(transmit) => self.transmit(i, transmit),
            Output::Peer { to, message } => {
                let to = usize::from(to.0) - 1;
                self.say(|| format!("    n{i} to n{to}: {}", peer_line(&message)));
                if let PeerMessage::SendFor(t) = &message {
                    self.scan_for_leaks(&t.payload);
                }
                if self.linked(i, to) && !self.rng.per_mille(self.net.peer_loss) {
                    let at = self.delay(self.net.delay);
                    self.push(at, Event::Peer { from: i, to, message: message.aged(Duration::from_micros(at - self.now)) });
                }
            }
            Output::Resolve { id, request } => {
                let at = self.delay((MS, 30 * MS));
                let (life, port) = (self.nodes[i].life, request.target.port.unwrap_or(5060));
                self.push(at, Event::Resolved { node: i, life, id, port });
            }
            Output::Media(command) => self.media(i, command),
            Output::Propose { id, command } => {
                self.proposals += 1;
                // One batcher a node: what it proposes stays in order.
                let at = self.delay(self.net.commit).max(self.nodes[i].last_commit);
                self.nodes[i].last_commit = at;
                self.say(|| format!("    n{i} proposes {}", kind_of(&command)));
                self.push(at, Event::Commit { node: i, life: self.nodes[i].life, id, command });
            }
            Output::Count(counter) => *self.nodes[i].counters.entry(counter).or_default() += 1,
            Output::Halt(reason) => self.violations.push(format!("node {i} halted: {reason}")),
            Output::Reply { reply, .. } => self.replies.push(reply),
            Output::TrunkProbed { trunk, up, rtt } => self.probed.push((i, trunk, up, rtt)),
            Output::PeerSaid { node, state, .. } => self.said.push((i, node, state)),
            Output::Uncommitted(told) => {
                let told = *told;
                self.nodes[i].told.extend(told.events.iter().map(|early| event_id(&early.event)));
                self.nodes[i].early.set(told.call, told.entry, told.events, told.last);
            }
            Output::ConfigChanged { .. } | Output::Alarm { .. } | Output::EventsChanged => {}
        }
    }

    fn media(&mut self, i: usize, command: MediaCommand) {
        let event = match command {
            MediaCommand::Open { media, first, count, realms, .. } => {
                let node = &mut self.nodes[i];
                let ports =
                    (0..count).map(|_| StreamPorts { caller: node.bind(realms[0]), callee: node.bind(realms[1]) }).collect();
                MediaEvent::Opened { media, first, ports }
            }
            MediaCommand::Ask { media } => {
                let [caller, callee] = self.heard(i);
                MediaEvent::Heard { media, caller, callee }
            }
            MediaCommand::Close { media } => MediaEvent::Closed { media, stats: MediaStats::default() },
            MediaCommand::Remote { stream, side, remote, .. } => {
                self.remotes.push((side, remote.map(|r| r.rtp.port())));
                self.streams.push((stream, side, remote));
                return;
            }
        };
        let at = self.delay((100, 3000));
        self.push(at, Event::Media { node: i, life: self.nodes[i].life, event });
    }

    /// What a node's media engine hears, as far as a test says so.
    fn heard(&self, node: usize) -> [SideHeard; 2] {
        // 50 packets a second.
        let packets = self.now / (20 * MS);
        self.speaking[node].map(|source| source.map_or(SideHeard::default(), |at| SideHeard { packets, source: Some(at) }))
    }

    fn arm_node(&mut self, i: usize) {
        if self.nodes[i].dead {
            return;
        }
        let Some(due) = self.nodes[i].sbc.poll_timeout() else { return };
        let due = due.as_micros().max(self.now);
        if self.nodes[i].timer.is_none_or(|at| due < at || at < self.now) {
            self.nodes[i].timer = Some(due);
            self.push(due, Event::NodeTimer(i));
        }
    }

    fn arm_phone(&mut self, i: usize) {
        if let Some(at) = self.phones[i].next_wake() {
            let at = at.max(self.now);
            self.push(at, Event::PhoneTimer(i));
        }
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>10.3} {}", Duration::from_micros(self.now).as_secs_f64(), text());
        }
    }
}

fn both(first: SocketAddr, second: SocketAddr) -> Addresses {
    Addresses::pair(first.ip(), second.ip()).expect("two families")
}

fn make_node(i: usize, count: usize, key: &ClusterKey, config: &Arc<ClusterConfig>, now: Now) -> Node {
    let at = |text: String| -> SocketAddr { addr(&text) };
    let (unicast, core) = (at(format!("198.18.0.{}:5060", i + 1)), at(format!("198.18.1.{}:5060", i + 1)));
    let (unicast6, core6) = (at(format!("[2001:db8::{}]:5060", i + 1)), at(format!("[2001:db8:1::{}]:5060", i + 1)));
    let local = LocalConfig {
        node: NodeId(u16::try_from(i + 1).expect("few nodes")),
        incarnation: Incarnation(1),
        name: format!("n{i}").into(),
        anycast: both(addr(ANYCAST[0]), addr(ANYCAST[1])),
        unicast: both(unicast, unicast6),
        core: both(core, core6),
        port: 5060,
        tls_port: 5061,
        anchored: true,
    };
    let replica = Arc::new(RwLock::new(Replica::new()));
    Node {
        sbc: Sbc::new(now, local, key.clone(), config.clone(), replica.clone()),
        replica,
        early: EarlyCalls::default(),
        told: BTreeSet::new(),
        cut_links: false,
        cut_log: false,
        dead: false,
        frozen: 0,
        life: 1,
        links_at: 0,
        apart_since: None,
        log_since: Some(0),
        unheard: vec![None; count],
        unicast,
        core,
        unicast6,
        core6,
        counters: BTreeMap::new(),
        timer: None,
        last_commit: 0,
        applied: 0,
        lease_until: 0,
        next_port: 0,
    }
}

fn first_line(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    let first = text.lines().next().unwrap_or_default();
    let cseq = text.lines().find(|l| l.starts_with("CSeq:")).unwrap_or_default();
    let id = text.lines().find(|l| l.starts_with("Call-ID:")).unwrap_or_default();
    format!("{first} | {cseq} | {id}")
}

fn peer_line(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Relay(e) => format!("Relay {}", first_line(&e.payload)),
        PeerMessage::SendFor(t) => format!("SendFor {}", first_line(&t.payload)),
        other => format!("{other:?}"),
    }
}

fn kind_of(command: &store_pb::Command) -> String {
    use store_pb::command::Kind;
    let (what, call) = match &command.kind {
        Some(Kind::Claim(c)) if !c.beside.is_empty() => ("Claim beside".into(), &c.call),
        Some(Kind::Claim(c)) => ("Claim".into(), &c.call),
        Some(Kind::Progress(p)) => (format!("Progress seq {}", p.seq), &p.call),
        Some(Kind::Answer(a)) => (format!("Answer seq {}", a.seq), &a.call),
        Some(Kind::Refresh(r)) => (format!("Refresh seq {}", r.seq), &r.call),
        Some(Kind::End(e)) => ("End".into(), &e.call),
        _ => return "other".into(),
    };
    let uid = CallUid::from_bytes(call).map(|uid| uid.to_string()).unwrap_or_default();
    format!("{what} of {uid}")
}
