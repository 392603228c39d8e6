//! A session with one router: the connections to and from it, their collision (RFC 4271 §6.8), and what it has been told.
//!
//! What is wanted and what was told are two sets, and only their difference is sent: a health check that repeats itself sends nothing, a
//! prefix that is withdrawn stays so through reconnects and the router's restarts, and a withdrawal leaves the session as it is.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::adj_rib_out::AdjRibOut;
use super::fsm::{Action, Event, Fsm, State};
use super::message::{self, Message, Open, Reader};
use super::notification::Notification;
use super::report::{Output, Report, Side, Status};
use super::update::{Route, Writer};
use crate::time::Instant;

/// What a session is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// The own AS.
    pub local_as: u32,
    /// The router's.
    pub remote_as: u32,
    /// The own BGP Identifier.
    pub identifier: Ipv4Addr,
    /// Proposed; whole seconds, 3 at least.
    pub hold_time: Duration,
    /// Between tries.
    pub connect_retry: Duration,
    /// Where packets for IPv4 prefixes go; `None`: the session's own address where it is of that family.
    pub next_hop4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub next_hop6: Option<Ipv6Addr>,
}

#[derive(Debug)]
struct Connection {
    fsm: Fsm,
    reader: Reader,
    local: Option<IpAddr>,
    open: Option<Open>,
    /// Why it is about to end, in words.
    reason: Option<String>,
}

impl Connection {
    fn new(fsm: Fsm) -> Connection {
        Connection { fsm, reader: Reader::default(), local: None, open: None, reason: None }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Peer {
    config: PeerConfig,
    outgoing: Connection,
    incoming: Option<Connection>,
    /// Since an order to start, until one to stop.
    started: bool,
    stalled: bool,
    routes: AdjRibOut,
    established: Option<Side>,
    status: Status,
    seed: u64,
    outputs: VecDeque<Output>,
}

impl Peer {
    /// Nothing is done before `handle_start`. `seed`: for jitter; another one for each session.
    pub fn new(config: PeerConfig, seed: u64) -> Peer {
        Peer {
            config,
            outgoing: Connection::new(Fsm::new(config.connect_retry, seed)),
            incoming: None,
            started: false,
            stalled: false,
            routes: AdjRibOut::default(),
            established: None,
            status: Status::default(),
            seed,
            outputs: VecDeque::new(),
        }
    }

    /// The session is wanted.
    pub fn handle_start(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.started, true) {
            self.event(Side::Outgoing, Event::ManualStart, now);
        }
    }

    /// The operator ends the session; the words go to the router's operator (RFC 8203).
    pub fn handle_stop(&mut self, words: &str, now: Instant) {
        self.started = false;
        for side in [Side::Outgoing, Side::Incoming] {
            self.fails(side, "stopped by the operator");
            self.event(side, Event::ManualStop(Notification::shutdown(words)), now);
        }
    }

    /// A connection stands, ours or the router's; `local`: our address of it.
    pub fn handle_connected(&mut self, side: Side, local: IpAddr, now: Instant) {
        if side == Side::Incoming && !self.may_accept() {
            self.outputs.push_back(Output::Close(Side::Incoming));
            return;
        }
        if side == Side::Incoming {
            self.seed = self.seed.rotate_left(7) ^ 0x5bd1_e995;
            self.incoming = Some(Connection::new(Fsm::passive(self.config.connect_retry, self.seed)));
        }
        if let Some(connection) = self.connection(side) {
            connection.local = Some(local);
            (connection.reader, connection.open) = (Reader::default(), None);
        }
        self.event(side, Event::TcpConnected, now);
    }

    /// §6.8: a second connection while one is Established is refused, and so is one while sessions that failed are damped.
    fn may_accept(&self) -> bool {
        let damped = self.outgoing.fsm.state() == State::Idle && self.outgoing.fsm.retries() > 1;
        self.started && !self.stalled && !damped && self.incoming.is_none() && self.established.is_none()
    }

    /// A connection could not be made, or has ended.
    pub fn handle_disconnected(&mut self, side: Side, reason: &str, now: Instant) {
        self.fails(side, reason);
        self.event(side, Event::TcpConnectionFails, now);
    }

    /// Octets of the router.
    pub fn handle_octets(&mut self, side: Side, octets: &[u8], now: Instant) {
        let Some(connection) = self.connection(side) else { return };
        connection.reader.push(octets);
        loop {
            // Each message may end the connection, and then what follows it counts for nothing.
            let Some(connection) = self.connection(side) else { return };
            if connection.fsm.state() < State::OpenSent {
                return;
            }
            match connection.reader.next() {
                Ok(None) => return,
                Ok(Some(message)) => {
                    self.status.received += 1;
                    self.on_message(side, message, now);
                }
                Err(why) => {
                    self.fails(side, &format!("it sent what is no BGP message: {why}"));
                    let open = why.code == super::notification::OPEN;
                    self.event(side, if open { Event::OpenMsgErr(why) } else { Event::HeaderErr(why) }, now);
                }
            }
        }
    }

    /// What is to be announced, all of it; the router is told what differs.
    pub fn handle_routes(&mut self, routes: &[Route]) {
        self.routes.want(routes);
        self.tell();
    }

    /// What serves the prefixes has stopped taking its turns, or takes them again: until then no KEEPALIVE goes out, and no route.
    pub fn handle_stalled(&mut self, stalled: bool) {
        self.stalled = stalled;
        self.outgoing.fsm.handle_stalled(stalled);
        if let Some(incoming) = &mut self.incoming {
            incoming.fsm.handle_stalled(stalled);
        }
        self.tell();
    }

    /// BFD has seen that the router cannot be reached (RFC 5882 §4.3, RFC 9384).
    pub fn handle_bfd_down(&mut self, now: Instant) {
        if let Some(side) = self.established {
            self.fails(side, "BFD is down");
            self.event(side, Event::AutomaticStop(Notification::bfd_down()), now);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for side in [Side::Outgoing, Side::Incoming] {
            let waits = side == Side::Outgoing && self.incoming.is_some();
            let Some(connection) = self.connection(side) else { continue };
            if waits && connection.fsm.state() == State::Idle {
                continue; // The router's own connection is further.
            }
            if connection.fsm.poll_timeout().is_none_or(|at| at > now) {
                continue;
            }
            connection.fsm.handle_timeout(now);
            self.follow(side, now);
        }
    }

    /// When `handle_timeout` is wanted. Changes with every input.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waits = self.incoming.is_some() && self.outgoing.fsm.state() == State::Idle;
        let own = self.outgoing.fsm.poll_timeout().filter(|_| !waits);
        let theirs = self.incoming.as_ref().and_then(|c| c.fsm.poll_timeout());
        own.into_iter().chain(theirs).min()
    }

    /// The next thing to do; `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Send(..)) = output {
            self.status.sent += 1;
        }
        output
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let states = [Some(&self.outgoing), self.incoming.as_ref()].into_iter().flatten();
        let established = self.established.and_then(|side| self.connection_ref(side));
        Status {
            state: states.map(|c| c.fsm.state()).max(),
            hold: established.map_or(Duration::ZERO, |c| c.fsm.hold()),
            announced: self.routes.told(),
            retries: self.outgoing.fsm.retries(),
            ..self.status.clone()
        }
    }

    fn connection(&mut self, side: Side) -> Option<&mut Connection> {
        match side {
            Side::Outgoing => Some(&mut self.outgoing),
            Side::Incoming => self.incoming.as_mut(),
        }
    }

    fn connection_ref(&self, side: Side) -> Option<&Connection> {
        match side {
            Side::Outgoing => Some(&self.outgoing),
            Side::Incoming => self.incoming.as_ref(),
        }
    }

    fn fails(&mut self, side: Side, reason: &str) {
        if let Some(connection) = self.connection(side) {
            connection.reason = Some(reason.to_owned());
        }
    }

    fn on_message(&mut self, side: Side, message: Message, now: Instant) {
        match message {
            Message::Open(open) => self.on_open(side, open, now),
            Message::Keepalive => self.event(side, Event::KeepAliveMsg, now),
            Message::Update => {
                self.status.updates_dropped += 1;
                self.event(side, Event::UpdateMsg, now);
            }
            Message::Notification(why) => {
                self.fails(side, &format!("the router ended it: {why}"));
                self.event(side, if why.is_version() { Event::NotifMsgVerErr } else { Event::NotifMsg }, now);
            }
            Message::RouteRefresh(family) => {
                self.event(side, Event::UpdateMsg, now);
                if self.established == Some(side)
                    && let Some(family) = family
                {
                    self.routes.forget(family);
                    self.tell();
                }
            }
        }
    }

    fn on_open(&mut self, side: Side, open: Open, now: Instant) {
        if open.asn != self.config.remote_as {
            self.fails(side, &format!("the router is of AS {}, not {}", open.asn, self.config.remote_as));
            self.event(side, Event::OpenMsgErr(Notification::open(2, &[])), now);
            return;
        }
        let Some(connection) = self.connection(side).filter(|c| c.fsm.state() == State::OpenSent) else {
            self.event(side, Event::BgpOpen { hold: Duration::ZERO }, now);
            return;
        };
        connection.open = Some(open);
        // §6.8, with RFC 6286 §2.3 where the identifiers are equal: whose is higher keeps the connection that it made.
        let other = side.other();
        let rival = self.connection_ref(other).map_or(State::Idle, |c| c.fsm.state());
        let ours = (self.config.identifier, self.config.local_as) > (open.identifier, open.asn);
        let winner = if ours { Side::Outgoing } else { Side::Incoming };
        match rival {
            State::Established => {
                self.fails(side, "the other connection is Established");
                return self.event(side, Event::OpenCollisionDump, now);
            }
            State::OpenConfirm if winner == other => {
                self.fails(side, "collision: the other connection stays");
                return self.event(side, Event::OpenCollisionDump, now);
            }
            State::OpenConfirm => {
                self.fails(other, "collision: the other connection stays");
                self.event(other, Event::OpenCollisionDump, now);
            }
            _ => {}
        }
        let hold = self.config.hold_time.min(Duration::from_secs(open.hold_time.into()));
        self.event(side, Event::BgpOpen { hold }, now);
    }

    fn event(&mut self, side: Side, event: Event, now: Instant) {
        let Some(connection) = self.connection(side) else { return };
        connection.fsm.handle_event(event, now);
        self.follow(side, now);
        if let Some(connection) = self.connection(side).filter(|c| c.fsm.state() == State::Idle) {
            connection.reason = None; // It was for an end that did not come.
        }
    }

    /// Carries out what a connection's machine wants, and sees whether the session has come or gone.
    fn follow(&mut self, side: Side, now: Instant) {
        let PeerConfig { local_as, hold_time, identifier, .. } = self.config;
        while let Some(action) = self.connection(side).and_then(|c| c.fsm.poll_action()) {
            let seconds = u16::try_from(hold_time.as_secs()).unwrap_or(u16::MAX);
            let output = match action {
                Action::Connect => Output::Connect,
                Action::Drop => Output::Close(side),
                Action::SendOpen => Output::Send(side, message::open(local_as, seconds, identifier)),
                Action::SendKeepalive => Output::Send(side, message::keepalive()),
                Action::SendNotification(why) => {
                    if self.connection_ref(side).is_some_and(|c| c.reason.is_none()) {
                        self.fails(side, &why.to_string());
                    }
                    Output::Send(side, message::notification(&why))
                }
            };
            let dropped = matches!(output, Output::Close(_));
            self.outputs.push_back(output);
            if dropped {
                self.on_dropped(side);
            }
        }
        let up = self.connection_ref(side).is_some_and(|c| c.fsm.state() == State::Established);
        if up && self.established != Some(side) {
            self.on_established(side, now);
        }
    }

    fn on_dropped(&mut self, side: Side) {
        let Some(connection) = self.connection(side) else { return };
        let reason = connection.reason.take().unwrap_or_else(|| "no answer in time".to_owned());
        (connection.reader, connection.open) = (Reader::default(), None);
        if side == Side::Incoming {
            self.incoming = None;
        }
        self.status.last_error = Some(reason.clone());
        let report = if self.established == Some(side) {
            self.established = None;
            self.routes.clear();
            Report::Down { reason }
        } else {
            Report::Failed { reason }
        };
        self.outputs.push_back(Output::Report(report));
    }

    fn on_established(&mut self, side: Side, now: Instant) {
        let other = side.other();
        if self.connection_ref(other).is_some_and(|c| c.fsm.state() > State::Idle) {
            self.fails(other, "the other connection is Established");
            self.event(other, Event::OpenCollisionDump, now);
        }
        self.established = Some(side);
        self.status.established += 1;
        self.status.last_error = None;
        let hold = self.connection_ref(side).map_or(Duration::ZERO, |c| c.fsm.hold());
        self.outputs.push_back(Output::Report(Report::Up { hold }));
        self.tell();
    }

    /// Sends what differs between what is wanted and what was told.
    fn tell(&mut self) {
        let Some(side) = self.established else { return };
        let Some(connection) = self.connection_ref(side) else { return };
        let Some(open) = connection.open else { return };
        let (v4, v6) = match connection.local {
            Some(IpAddr::V4(ip)) => (Some(ip), None),
            Some(IpAddr::V6(ip)) => (None, Some(ip)),
            None => (None, None),
        };
        let writer = Writer {
            asn: self.config.local_as,
            four_octet_as: open.four_octet_as,
            next_hop4: self.config.next_hop4.or(v4),
            next_hop6: self.config.next_hop6.or(v6),
        };
        for (octets, report) in self.routes.differences(&writer, &open, self.stalled) {
            self.outputs.extend(octets.map(|octets| Output::Send(side, octets)));
            self.outputs.push_back(Output::Report(report));
        }
    }
}
