//! One router: its session, its BFD session, and their sockets.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use sbc_core::bfd;
use sbc_core::bgp::{self, Output, Peer, PeerConfig, Report, Route, Side};
use sbc_core::time::Instant;

use super::socket::{self, Protection};
use super::{BfdConfig, BgpConfig, NeighborConfig, NeighborStatus};

/// Octets that wait for a router that does not read. What is said in a session is a few hundred.
const OUT_MAX: usize = 64 << 10;
/// Reads of one router in a turn, 16 KiB each: one that sends its whole table must not keep BFD and the others waiting.
const READS_MAX: usize = 16;

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    connecting: bool,
}

struct Bfd {
    session: bfd::Session,
    config: BfdConfig,
    socket: std::net::UdpSocket,
    to: SocketAddr,
    since: u64,
}

/// See the module.
pub(super) struct Neighbor {
    config: NeighborConfig,
    protection: Protection,
    peer: Peer,
    connections: [Option<Connection>; 2],
    bfd: Option<Bfd>,
    /// Tokens of its two connections: this, and the next.
    token: usize,
    /// Something was left unread in the last turn.
    unread: [bool; 2],
    since: u64,
    announced: BTreeMap<String, u64>,
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Incoming)
}

impl Neighbor {
    pub(super) fn new(of: &BgpConfig, config: NeighborConfig, n: usize, token: usize, now: Instant) -> io::Result<Neighbor> {
        let seed = of.seed.rotate_left(u32::try_from(n).unwrap_or(0)) ^ u64::try_from(n).unwrap_or(0);
        let peer = Peer::new(
            PeerConfig {
                local_as: of.local_as,
                remote_as: config.remote_as,
                identifier: of.identifier,
                hold_time: of.hold_time,
                connect_retry: of.connect_retry,
                next_hop4: config.next_hop4,
                next_hop6: config.next_hop6,
            },
            seed,
        );
        let bfd = config.bfd.map(|bfd| Bfd::new(&config, bfd, seed, n, now)).transpose()?;
        Ok(Neighbor {
            protection: Protection { md5: config.password.clone(), gtsm: config.ttl_security },
            config,
            peer,
            connections: [None, None],
            bfd,
            token,
            unread: [false; 2],
            since: 0,
            announced: BTreeMap::new(),
        })
    }

    pub(super) fn address(&self) -> IpAddr {
        self.config.address
    }

    /// The session; `settle` carries out what comes of it.
    pub(super) fn peer(&mut self) -> &mut Peer {
        &mut self.peer
    }

    pub(super) fn wants(&mut self, routes: &[Route]) {
        self.peer.handle_routes(routes);
    }

    pub(super) fn set_stalled(&mut self, stalled: bool, now: Instant) {
        self.peer.handle_stalled(stalled);
        if let Some(bfd) = &mut self.bfd {
            bfd.session.handle_stalled(stalled, now);
        }
    }

    /// The end, with words; what is still to be sent is sent.
    pub(super) fn stop(&mut self, words: &str, now: Instant) {
        if let Some(bfd) = &mut self.bfd {
            bfd.session.handle_admin_down(now);
        }
        self.peer.handle_stop(words, now);
    }

    /// A BFD packet of this router.
    pub(super) fn on_bfd(&mut self, octets: &[u8], now: Instant) {
        if let Some(bfd) = &mut self.bfd {
            bfd.session.handle_octets(octets, now);
        }
    }

    /// A connection of the router's.
    pub(super) fn on_accepted(&mut self, mut stream: TcpStream, registry: &Registry, now: Instant) {
        let at = index(Side::Incoming);
        if self.connections[at].is_some() {
            return; // RFC 4271 §6.8 would refuse it: one at a time.
        }
        let ready = socket::accepted(&stream, self.config.address, &self.protection).and_then(|()| {
            registry.register(&mut stream, Token(self.token + at), Interest::READABLE | Interest::WRITABLE)?;
            stream.local_addr()
        });
        match ready {
            Ok(local) => {
                self.connections[at] = Some(Connection { stream, out: Vec::new(), connecting: false });
                self.peer.handle_connected(Side::Incoming, local.ip().to_canonical(), now);
            }
            Err(error) => tracing::warn!(router = %self.config.address, %error, "its BGP connection could not be taken"),
        }
    }

    /// A token of ours is ready.
    pub(super) fn on_ready(&mut self, token: usize, now: Instant) {
        let side = if token == self.token { Side::Outgoing } else { Side::Incoming };
        let Some(connection) = &mut self.connections[index(side)] else { return };
        if connection.connecting {
            let error = connection.stream.take_error().and_then(|e| e.map_or(Ok(()), Err));
            match error.and_then(|()| connection.stream.peer_addr()).and_then(|_| connection.stream.local_addr()) {
                Ok(local) => {
                    connection.connecting = false;
                    self.peer.handle_connected(side, local.ip().to_canonical(), now);
                }
                // Not yet.
                Err(e) if e.kind() == io::ErrorKind::NotConnected => return,
                Err(e) => return self.broken(side, &e, now),
            }
        }
        self.flush(side, now);
        self.read(side, now);
    }

    /// What was left unread in the last turn.
    pub(super) fn read_on(&mut self, now: Instant) {
        for side in [Side::Outgoing, Side::Incoming] {
            if std::mem::take(&mut self.unread[index(side)]) {
                self.read(side, now);
            }
        }
    }

    pub(super) fn has_unread(&self) -> bool {
        self.unread != [false; 2]
    }

    fn read(&mut self, side: Side, now: Instant) {
        let mut buffer = [0; 16 << 10];
        for _ in 0..READS_MAX {
            let Some(connection) = &mut self.connections[index(side)] else { return };
            if connection.connecting {
                return;
            }
            match connection.stream.read(&mut buffer) {
                Ok(0) => {
                    self.connections[index(side)] = None;
                    return self.peer.handle_disconnected(side, "the router has closed the connection", now);
                }
                Ok(n) => self.peer.handle_octets(side, &buffer[..n], now),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.broken(side, &e, now),
            }
        }
        self.unread[index(side)] = true;
    }

    fn broken(&mut self, side: Side, error: &io::Error, now: Instant) {
        self.connections[index(side)] = None;
        self.peer.handle_disconnected(side, &error.to_string(), now);
    }

    fn flush(&mut self, side: Side, now: Instant) {
        let Some(connection) = &mut self.connections[index(side)] else { return };
        while !connection.connecting && !connection.out.is_empty() {
            match connection.stream.write(&connection.out) {
                Ok(n) => drop(connection.out.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return self.broken(side, &e, now),
            }
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.peer.poll_timeout().is_some_and(|at| at <= now) {
            self.peer.handle_timeout(now);
        }
        if let Some(bfd) = &mut self.bfd
            && bfd.session.poll_timeout().is_some_and(|at| at <= now)
        {
            bfd.session.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let bfd = self.bfd.as_ref().and_then(|b| b.session.poll_timeout());
        self.peer.poll_timeout().into_iter().chain(bfd).min()
    }

    /// Carries out what both sessions want.
    pub(super) fn settle(&mut self, registry: &Registry, now: Instant) {
        self.settle_bfd(now);
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Connect => self.dial(registry, now),
                Output::Send(side, octets) => {
                    let Some(connection) = &mut self.connections[index(side)] else { continue };
                    connection.out.extend_from_slice(&octets);
                    if connection.out.len() > OUT_MAX {
                        self.broken(side, &io::Error::other("the router does not read"), now);
                    } else {
                        self.flush(side, now);
                    }
                }
                Output::Close(side) => {
                    if let Some(connection) = self.connections[index(side)].take() {
                        // The NOTIFICATION before the end of the stream, instead of a reset that overtakes it.
                        let _ = connection.stream.shutdown(std::net::Shutdown::Write);
                    }
                }
                Output::Report(report) => self.report(&report),
            }
        }
    }

    fn settle_bfd(&mut self, now: Instant) {
        let router = self.config.address;
        let Some(bfd) = &mut self.bfd else { return };
        while let Some(output) = bfd.session.poll_output() {
            match output {
                // One that is lost is like one lost on the way.
                bfd::Output::Send(octets) => drop(bfd.socket.send_to(&octets, bfd.to)),
                bfd::Output::Up { detection } => {
                    bfd.since = unix_ms();
                    tracing::info!(%router, detection_ms = detection.as_millis(), "BFD is up");
                }
                bfd::Output::Down { diagnostic, administratively } => {
                    bfd.since = unix_ms();
                    tracing::warn!(%router, ?diagnostic, administratively, "BFD is down");
                    // RFC 5882 §3.2: an operator's end of BFD says nothing about the path. What this node says of itself is no reason to
                    // end the session either: the router ends it.
                    if !administratively && diagnostic != bfd::Diagnostic::ForwardingPlaneReset {
                        self.peer.handle_bfd_down(now);
                    }
                }
            }
        }
    }

    fn dial(&mut self, registry: &Registry, now: Instant) {
        let at = index(Side::Outgoing);
        let far = SocketAddr::new(self.config.address, self.config.port);
        let dialled = socket::dial(self.config.local, far, &self.protection).and_then(|mut stream| {
            registry.register(&mut stream, Token(self.token + at), Interest::READABLE | Interest::WRITABLE)?;
            Ok(stream)
        });
        match dialled {
            Ok(stream) => self.connections[at] = Some(Connection { stream, out: Vec::new(), connecting: true }),
            Err(e) => self.peer.handle_disconnected(Side::Outgoing, &e.to_string(), now),
        }
    }

    fn report(&mut self, report: &Report) {
        let router = self.config.address;
        match report {
            Report::Up { hold } => {
                self.since = unix_ms();
                tracing::info!(%router, hold_s = hold.as_secs(), "the BGP session is Established");
            }
            Report::Down { reason } => {
                self.since = unix_ms();
                self.announced.clear();
                tracing::warn!(%router, %reason, "the BGP session has ended");
            }
            // Once a try: a router that is away for a day is a line a second, so only for who looks.
            Report::Failed { reason } => tracing::debug!(%router, %reason, "the BGP session does not come up"),
            Report::Announced(prefix) => {
                self.announced.insert(prefix.to_string(), unix_ms());
                tracing::info!(%router, %prefix, "announced");
            }
            Report::Withdrawn(prefix) => {
                self.announced.remove(&prefix.to_string());
                tracing::info!(%router, %prefix, "withdrawn");
            }
            Report::NotAnnounced { prefix, reason } => tracing::warn!(%router, %prefix, reason, "not announced"),
        }
    }

    /// The router has a route of ours.
    pub(super) fn has_routes(&self) -> bool {
        !self.announced.is_empty()
    }

    pub(super) fn status(&self) -> NeighborStatus {
        NeighborStatus {
            address: self.config.address,
            remote_as: self.config.remote_as,
            session: self.peer.status(),
            since_unix_ms: self.since,
            announced: self.announced.iter().map(|(prefix, at)| (prefix.clone(), *at)).collect(),
            bfd: self.bfd.as_ref().map(|b| b.session.state()),
            bfd_since_unix_ms: self.bfd.as_ref().map_or(0, |b| b.since),
        }
    }

    /// Why it has none, for people.
    pub(super) fn why_not(&self) -> String {
        let status = self.peer.status();
        let state = status.state.map_or("Idle", bgp::State::as_str);
        let reason = status.last_error.map_or_else(String::new, |why| format!(" ({why})"));
        format!("{}: {state}{reason}", self.config.address)
    }
}

impl Bfd {
    fn new(of: &NeighborConfig, config: BfdConfig, seed: u64, n: usize, now: Instant) -> io::Result<Bfd> {
        // Not zero, and another one for each router: the low bits count.
        let number = u32::try_from(n + 1).unwrap_or(1);
        let discriminator = u32::try_from(seed >> 40).unwrap_or(0) << 8 | number & 0xff;
        let start = u16::try_from(seed >> 48).unwrap_or(0);
        let interval = config.interval.max(Duration::from_millis(1));
        let session_config = bfd::SessionConfig { interval, detect_mult: config.multiplier.max(1), discriminator };
        Ok(Bfd {
            session: bfd::Session::new(session_config, seed, now),
            config,
            socket: socket::bfd_sender(of.local, of.address, start)?,
            to: SocketAddr::new(of.address, socket::BFD_PORT),
            since: 0,
        })
    }
}

impl std::fmt::Debug for Bfd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} to {}", self.config, self.to)
    }
}
