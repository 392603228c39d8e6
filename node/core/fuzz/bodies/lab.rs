//! One node without a network: its log commits at once, its media engine and DNS answer at once, what it sends is kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use sbc_core::auth::{AuthHeader, Hash};
use sbc_core::ids::{Incarnation, NodeId};
use sbc_core::io::{
    AddressRole, HostAndPort, Input, MediaCommand, MediaEvent, MediaStats, NodeView, Output, Path, Realm, Received, StreamPorts,
    Target, Transmit, Transport, View,
};
use sbc_core::local::LocalConfig;
use sbc_core::policy::{Challenger, ClusterConfig, Prefix, Route, RouteMatch, Trunk, TrunkAuth, TrunkTarget};
use sbc_core::replica::{ENTRY_VERSION, Replica};
use sbc_core::sbc::Sbc;
use sbc_core::store_pb;
use sbc_core::time::{Instant, Now, UnixMs};
use sbc_core::token::ClusterKey;

/// The anycast address.
pub(crate) const ANYCAST: &str = "198.18.112.112:5060";
/// The node's own address toward callers.
pub(crate) const UNICAST: &str = "198.18.0.1:5060";
/// The node's own address toward the PSAP.
pub(crate) const CORE: &str = "198.18.1.1:5060";
/// The PSAP.
pub(crate) const PSAP: &str = "198.18.20.1:5060";
/// A caller.
pub(crate) const CALLER: &str = "198.18.10.1:5060";
/// A caller whose trunk challenges (RFC 3261 §22.1).
pub(crate) const CHALLENGED: &str = "198.18.11.1:5060";
/// Timers that one call of [`Lab::advance`] fires at the most: more means that they fire without end.
const MAX_TIMERS: u32 = 100_000;

/// A node that serves calls between callers and a PSAP.
pub(crate) struct Lab {
    sbc: Sbc,
    replica: Arc<RwLock<Replica>>,
    /// Microseconds.
    now: u64,
    applied: u64,
    next_port: u16,
    /// What the node sent, in order.
    pub(crate) sent: Vec<Transmit>,
}

/// An address.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn config() -> ClusterConfig {
    let prefix = |text: &str| Prefix { addr: text.parse().expect("an address"), len: 24 };
    let target =
        TrunkTarget { host: HostAndPort { host: "198.18.20.1".into(), port: Some(5060) }, transport: Some(Transport::Udp) };
    let challenger = Challenger {
        realm: "corpus".into(),
        asks: AuthHeader::User,
        users: Vec::new(),
        algorithms: vec![Hash::Sha256],
        emergency: false,
        nonce_life: Challenger::NONCE_LIFE,
    };
    ClusterConfig {
        revision: 1,
        trunks: vec![
            Trunk { sources: vec![prefix("198.18.10.0")], ..Trunk::new("callers", Realm::External) },
            Trunk {
                sources: vec![prefix("198.18.11.0")],
                auth: TrunkAuth { credentials: None, challenger: Some(challenger) },
                ..Trunk::new("challenged", Realm::External)
            },
            Trunk { sources: vec![prefix("198.18.20.0")], targets: vec![target], ..Trunk::new("psap", Realm::Core) },
        ],
        routes: vec![
            Route { name: "emergency".into(), matches: vec![RouteMatch::Emergency(true)], trunks: vec!["psap".into()] },
            Route { name: "all".into(), matches: vec![], trunks: vec!["psap".into()] },
        ],
        emergency_numbers: vec!["112".into()],
        ..ClusterConfig::default()
    }
}

impl Lab {
    /// In service, with a lease that does not end.
    pub(crate) fn new() -> Lab {
        let ip = |text: &str| -> IpAddr { at(text).ip() };
        let local = LocalConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            name: "n1".into(),
            anycast: ip(ANYCAST).into(),
            unicast: ip(UNICAST).into(),
            core: ip(CORE).into(),
            port: 5060,
            tls_port: 5061,
            anchored: true,
        };
        let replica = Arc::new(RwLock::new(Replica::new()));
        let now = Now { mono: Instant::from_micros(0), unix: UnixMs(1_800_000_000_000) };
        let sbc = Sbc::new(now, local, ClusterKey::new(&[7; 32], None), Arc::new(config()), Arc::clone(&replica));
        let mut lab = Lab { sbc, replica, now: 0, applied: 0, next_port: 10_000, sent: Vec::new() };
        let nodes = vec![NodeView {
            id: NodeId(1),
            name: "n1".into(),
            unicast: ip(UNICAST).into(),
            core: ip(CORE).into(),
            alive: true,
            down: false,
        }];
        lab.input(Input::ViewChanged(View {
            nodes,
            leader: Some(NodeId(1)),
            lease_until: Instant::from_micros(u64::MAX / 4),
            caught_up: true,
            announced: true,
            draining: false,
            own: Default::default(),
        }));
        lab
    }

    /// A datagram from `from` to the anycast, the unicast or (from the PSAP) the core address.
    pub(crate) fn receive(&mut self, from: SocketAddr, to: SocketAddr, octets: impl Into<Bytes>) {
        let role = if to == at(ANYCAST) {
            AddressRole::Anycast
        } else if to == at(UNICAST) {
            AddressRole::Unicast
        } else {
            AddressRole::Core
        };
        let path = Path { role, transport: Transport::Udp, local: to, remote: from, flow: None };
        self.input(Input::Received(Received { path, payload: octets.into(), at: Instant::from_micros(self.now) }));
    }

    /// Time passes, and timers fire as they fall due.
    pub(crate) fn advance(&mut self, ms: u64) {
        let end = self.now + ms * 1000;
        let mut fired = 0;
        while let Some(due) = self.sbc.poll_timeout().map(Instant::as_micros).filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.input(Input::Timeout);
            fired += 1;
            assert!(fired < MAX_TIMERS, "timers fire without end");
        }
        self.now = end;
    }

    /// Calls in the replicated state.
    pub(crate) fn replicated_calls(&self) -> usize {
        self.replica.read().expect("one thread").calls(None).count()
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now = Now { mono: Instant::from_micros(self.now), unix: UnixMs(1_800_000_000_000 + self.now / 1000) };
            self.sbc.handle_input(now, input);
            while let Some(output) = self.sbc.poll_output() {
                if let Some(answer) = self.output(output) {
                    inputs.insert(0, answer);
                }
            }
        }
    }

    fn output(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Transmit(transmit) => {
                self.sent.push(transmit);
                None
            }
            Output::Resolve { id, .. } => {
                let target = Target { addr: at(PSAP), transport: Transport::Udp };
                Some(Input::Resolved { id, result: Ok(vec![target]) })
            }
            Output::Media(command) => self.media(command),
            Output::Propose { command, .. } => {
                self.applied += 1;
                let entry = store_pb::Entry { version: ENTRY_VERSION, proposer: 1, incarnation: 1, commands: vec![*command] };
                Some(Input::Applied { index: self.applied, entry: Arc::new(entry) })
            }
            Output::Halt(reason) => panic!("the node halted: {reason}"),
            _ => None,
        }
    }

    fn media(&mut self, command: MediaCommand) -> Option<Input> {
        match command {
            MediaCommand::Open { media, first, count, .. } => {
                let ports = (0..count)
                    .map(|_| {
                        self.next_port = if self.next_port > 60_000 { 10_000 } else { self.next_port + 4 };
                        StreamPorts { caller: self.next_port, callee: self.next_port + 2 }
                    })
                    .collect();
                Some(Input::Media(MediaEvent::Opened { media, first, ports }))
            }
            MediaCommand::Ask { media } => {
                let silence = Default::default();
                Some(Input::Media(MediaEvent::Heard { media, caller: silence, callee: silence }))
            }
            MediaCommand::Close { media } => Some(Input::Media(MediaEvent::Closed { media, stats: MediaStats::default() })),
            MediaCommand::Remote { .. } => None,
        }
    }
}
