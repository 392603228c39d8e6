//! A node and a router on a simulated link, for the tests of this module: time jumps, connections fail, octets wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rustbgpd_wire::{Message, ParsedUpdate, PathAttribute, Prefix};

use super::fsm::State;
use super::{Output, Peer, PeerConfig, Report, Route, Side};
use crate::time::Instant;

pub(super) const NODE: usize = 0;
pub(super) const ROUTER: usize = 1;
/// Milliseconds that octets and connections take.
const DELAY: u64 = 3;

pub(super) fn ms(n: u64) -> Instant {
    Instant::from_micros(n * 1000)
}

pub(super) fn config(who: usize) -> PeerConfig {
    let asn = [65_001, 65_000];
    PeerConfig {
        local_as: asn[who],
        remote_as: asn[1 - who],
        identifier: [10, 0, 0, u8::try_from(who).unwrap() + 1].into(),
        hold_time: Duration::from_secs(3),
        connect_retry: Duration::from_secs(1),
        next_hop4: None,
        next_hop6: Some("2001:db8::1".parse().unwrap()),
    }
}

pub(super) fn route(prefix: &str) -> Route {
    Route { prefix: prefix.parse().unwrap(), prepend: 0, communities: vec![], large_communities: vec![] }
}

/// One TCP connection, by who made it.
#[derive(Debug, Default)]
enum Tcp {
    #[default]
    None,
    Opens(u64),
    /// What is on the way to each, and whether its sender has closed.
    Stands {
        toward: [VecDeque<(u64, Vec<u8>)>; 2],
        closed: [bool; 2],
    },
}

/// See the module.
pub(super) struct Pair {
    pub(super) now: u64,
    pub(super) peers: [Peer; 2],
    tcp: [Tcp; 2],
    /// Octets and connections pass.
    pub(super) link: bool,
    /// Who takes connections.
    pub(super) listens: [bool; 2],
    /// What the router has of the node, as an independent reader reads it.
    pub(super) rib: BTreeMap<IpNet, Vec<PathAttribute>>,
    /// Messages of the node that were delivered, with the time.
    pub(super) delivered: Vec<(u64, Message)>,
    pub(super) reports: [Vec<Report>; 2],
}

impl Pair {
    pub(super) fn new(seed: u64) -> Pair {
        Pair {
            now: 0,
            peers: [Peer::new(config(NODE), seed), Peer::new(config(ROUTER), seed ^ 0xff)],
            tcp: Default::default(),
            link: true,
            listens: [true, true],
            rib: BTreeMap::new(),
            delivered: Vec::new(),
            reports: Default::default(),
        }
    }

    pub(super) fn start(&mut self) {
        for who in [NODE, ROUTER] {
            self.peers[who].handle_start(ms(self.now));
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.peers.iter().all(|p| p.status().state == Some(State::Established))
    }

    /// Until it is so; fails after so many milliseconds.
    pub(super) fn until(&mut self, limit: u64, what: impl Fn(&Pair) -> bool) {
        let end = self.now + limit;
        while !what(self) {
            assert!(self.now < end, "not within {limit} ms, at {}: {:?} {:?}", self.now, self.peers, self.reports);
            self.turn();
        }
    }

    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.turn();
        }
    }

    /// A router that has started again: it knows nothing, and its connections are gone.
    pub(super) fn restart_router(&mut self, seed: u64) {
        self.reset_connections();
        self.peers[ROUTER] = Peer::new(config(ROUTER), seed);
        self.rib.clear();
        self.peers[ROUTER].handle_start(ms(self.now));
    }

    /// Both ends see a reset.
    pub(super) fn reset_connections(&mut self) {
        for maker in [NODE, ROUTER] {
            match std::mem::take(&mut self.tcp[maker]) {
                Tcp::None => {}
                Tcp::Opens(_) => self.peers[maker].handle_disconnected(Side::Outgoing, "reset", ms(self.now)),
                Tcp::Stands { .. } => {
                    for who in [NODE, ROUTER] {
                        self.peers[who].handle_disconnected(side(maker, who), "reset", ms(self.now));
                    }
                }
            }
        }
        self.carry_out();
    }

    /// A millisecond.
    pub(super) fn turn(&mut self) {
        self.now += 1;
        for maker in [NODE, ROUTER] {
            self.move_connection(maker);
            self.carry_out();
        }
        for who in [NODE, ROUTER] {
            if self.peers[who].poll_timeout().is_some_and(|at| at <= ms(self.now)) {
                self.peers[who].handle_timeout(ms(self.now));
            }
        }
        self.carry_out();
    }

    fn move_connection(&mut self, maker: usize) {
        let (now, taker) = (self.now, 1 - maker);
        if !self.link {
            return;
        }
        match &mut self.tcp[maker] {
            Tcp::None => {}
            Tcp::Opens(at) if now < *at => {}
            Tcp::Opens(_) if !self.listens[taker] => {
                self.tcp[maker] = Tcp::None;
                self.peers[maker].handle_disconnected(Side::Outgoing, "refused", ms(now));
            }
            Tcp::Opens(_) => {
                self.tcp[maker] = Tcp::Stands { toward: Default::default(), closed: [false; 2] };
                let local = |who: usize| IpAddr::from([10, 0, 0, u8::try_from(who).unwrap() + 1]);
                self.peers[maker].handle_connected(Side::Outgoing, local(maker), ms(now));
                self.carry_out();
                self.peers[taker].handle_connected(Side::Incoming, local(taker), ms(now));
            }
            Tcp::Stands { toward, closed } => {
                let arrived = [NODE, ROUTER].map(|who| toward[who].pop_front_if(|(at, _)| *at <= now).map(|(_, o)| o));
                let ended = [NODE, ROUTER].map(|who| toward[who].is_empty() && closed[1 - who]);
                for (who, octets) in arrived.into_iter().enumerate() {
                    if let Some(octets) = octets {
                        self.deliver(maker, who, &octets);
                    }
                }
                for who in [NODE, ROUTER] {
                    if ended[who] && matches!(self.tcp[maker], Tcp::Stands { closed, .. } if !closed[who]) {
                        self.peers[who].handle_disconnected(side(maker, who), "closed by the far end", ms(now));
                        self.tcp[maker] = Tcp::None;
                    } else if ended == [true; 2] {
                        self.tcp[maker] = Tcp::None;
                    }
                }
            }
        }
    }

    fn deliver(&mut self, maker: usize, who: usize, octets: &[u8]) {
        if who == ROUTER {
            let message = read(octets);
            if let Message::Update(update) = &message {
                apply(&mut self.rib, &update.parse(true, false, &[]).expect("an UPDATE of ours reads"));
            }
            self.delivered.push((self.now, message));
        }
        self.peers[who].handle_octets(side(maker, who), octets, ms(self.now));
    }

    /// What both sides want done.
    pub(super) fn carry_out(&mut self) {
        for who in [NODE, ROUTER] {
            while let Some(output) = self.peers[who].poll_output() {
                self.carry(who, output);
            }
        }
    }

    fn carry(&mut self, who: usize, output: Output) {
        let maker_of = |s: Side| if s == Side::Outgoing { who } else { 1 - who };
        match output {
            Output::Connect => self.tcp[who] = Tcp::Opens(self.now + DELAY),
            Output::Send(side, octets) => {
                let Tcp::Stands { toward, closed } = &mut self.tcp[maker_of(side)] else {
                    panic!("{who} sends on a connection that is not there")
                };
                assert!(!closed[who], "{who} sends after its close");
                toward[1 - who].push_back((self.now + DELAY, octets));
            }
            Output::Close(side) => match &mut self.tcp[maker_of(side)] {
                Tcp::Stands { closed, toward } => {
                    closed[who] = true;
                    toward[who].clear();
                }
                opens => *opens = Tcp::None,
            },
            Output::Report(report) => {
                if who == ROUTER && matches!(report, Report::Down { .. }) {
                    self.rib.clear();
                }
                self.reports[who].push(report);
            }
        }
    }

    /// How many connections have not been closed by either.
    pub(super) fn connections(&self) -> usize {
        self.tcp.iter().filter(|t| matches!(t, Tcp::Stands { closed: [false, false], .. })).count()
    }

    pub(super) fn updates(&self) -> usize {
        self.delivered.iter().filter(|(_, m)| matches!(m, Message::Update(_))).count()
    }

    pub(super) fn prefixes(&self) -> BTreeSet<String> {
        self.rib.keys().map(ToString::to_string).collect()
    }
}

/// What a connection is to one of its ends.
fn side(maker: usize, who: usize) -> Side {
    if maker == who { Side::Outgoing } else { Side::Incoming }
}

/// One whole message, by the independent reader.
pub(super) fn read(octets: &[u8]) -> Message {
    let mut octets = bytes::Bytes::copy_from_slice(octets);
    let message = rustbgpd_wire::decode_message(&mut octets, rustbgpd_wire::MAX_MESSAGE_LEN).expect("a message of ours reads");
    assert!(octets.is_empty(), "one message a send");
    message
}

pub(super) fn net(prefix: &Prefix) -> IpNet {
    match prefix {
        Prefix::V4(p) => IpNet::new(p.addr.into(), p.len).unwrap(),
        Prefix::V6(p) => IpNet::new(p.addr.into(), p.len).unwrap(),
    }
}

fn apply(rib: &mut BTreeMap<IpNet, Vec<PathAttribute>>, update: &ParsedUpdate) {
    for entry in &update.withdrawn {
        rib.remove(&net(&Prefix::V4(entry.prefix)));
    }
    for entry in &update.announced {
        rib.insert(net(&Prefix::V4(entry.prefix)), update.attributes.clone());
    }
    for attribute in &update.attributes {
        match attribute {
            PathAttribute::MpReachNlri(mp) => {
                mp.announced.iter().for_each(|e| drop(rib.insert(net(&e.prefix), update.attributes.clone())));
            }
            PathAttribute::MpUnreachNlri(mp) => mp.withdrawn.iter().for_each(|e| drop(rib.remove(&net(&e.prefix)))),
            _ => {}
        }
    }
}
