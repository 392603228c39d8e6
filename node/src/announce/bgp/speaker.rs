//! The thread that speaks: it waits for sockets, timers and orders, and asks a few times a second whether what serves calls lives.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant as Clock};

use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Token, Waker};
use sbc_core::bgp::Route;
use sbc_core::time::Instant;
use tokio::sync::{oneshot, watch};

use super::addresses::{self, Families};
use super::neighbor::Neighbor;
use super::socket::{self, Protection};
use super::{BgpConfig, NeighborStatus, Pulse, Told};

/// RFC 4271 §8.
const BGP_PORT: u16 = 179;
/// How often it is asked whether what serves calls takes its turns: BFD has as long to say that it does not.
const PULSE: Duration = Duration::from_millis(100);
/// How often it is looked whether the addresses are there.
const ADDRESSES: Duration = Duration::from_secs(1);

const WAKE: usize = 0;
const LISTEN: [usize; 2] = [1, 2];
const BFD: [usize; 2] = [3, 4];
const FIRST_NEIGHBOR: usize = 8;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    Announce(bool, oneshot::Sender<()>),
    Last(bool),
    Stop(String, Option<oneshot::Sender<()>>),
}

/// The way to the thread.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    queue: Arc<Mutex<VecDeque<Order>>>,
    waker: Arc<Waker>,
}

impl Orders {
    /// They come from the announcer, one at a time; that the thread does not answer is noticed there.
    pub(super) fn push(&self, order: Order) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(order);
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "the BGP thread cannot be woken");
        }
    }

    fn pop(&self) -> Option<Order> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

struct Speaker {
    poll: Poll,
    origin: Clock,
    orders: Orders,
    neighbors: Vec<Neighbor>,
    listeners: [Option<TcpListener>; 2],
    receivers: [Option<UdpSocket>; 2],
    routes: Vec<Route>,
    watched: Vec<sbc_core::io::Addresses>,
    announces: bool,
    last: bool,
    /// Why KEEPALIVEs are held back.
    stalled: Option<&'static str>,
    families: Families,
    pulse: Pulse,
    pulse_at: Clock,
    addresses_at: Clock,
    told: watch::Sender<Told>,
    status: Arc<Mutex<Vec<NeighborStatus>>>,
}

/// Opens what is needed, and starts the thread.
pub(super) fn start(
    config: BgpConfig,
    pulse: Pulse,
    told: watch::Sender<Told>,
    status: Arc<Mutex<Vec<NeighborStatus>>>,
) -> io::Result<Orders> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), Token(WAKE))?);
    let orders = Orders { queue: Arc::default(), waker };
    let origin = Clock::now();
    let mut neighbors = Vec::new();
    for (n, of) in config.neighbors.iter().enumerate() {
        neighbors.push(Neighbor::new(&config, of.clone(), n, FIRST_NEIGHBOR + 2 * n, Instant::default())?);
    }
    let speaker = Speaker {
        listeners: listeners(&config, &poll)?,
        receivers: receivers(&config, &poll)?,
        poll,
        origin,
        orders: orders.clone(),
        neighbors,
        families: addresses::look(&config.addresses),
        routes: config.routes,
        watched: config.addresses,
        announces: false,
        last: false,
        stalled: None,
        pulse,
        pulse_at: origin,
        addresses_at: origin,
        told,
        status,
    };
    speaker.publish();
    std::thread::Builder::new().name("bgp".into()).spawn(move || speaker.run())?;
    Ok(orders)
}

fn any(ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

fn named(what: &str) -> impl Fn(io::Error) -> io::Error {
    move |e| io::Error::new(e.kind(), format!("{what}: {e}"))
}

fn listeners(config: &BgpConfig, poll: &Poll) -> io::Result<[Option<TcpListener>; 2]> {
    let mut listeners = [None, None];
    let routers: Vec<(IpAddr, Protection)> =
        config.neighbors.iter().map(|n| (n.address, Protection { md5: n.password.clone(), gtsm: n.ttl_security })).collect();
    for (slot, ipv4) in [true, false].into_iter().enumerate() {
        if !config.listen || !routers.iter().any(|(ip, _)| ip.is_ipv4() == ipv4) {
            continue;
        }
        let mut listener =
            socket::listen(SocketAddr::new(any(ipv4), BGP_PORT), &routers).map_err(named("TCP port 179 for BGP"))?;
        poll.registry().register(&mut listener, Token(LISTEN[slot]), Interest::READABLE)?;
        listeners[slot] = Some(listener);
    }
    Ok(listeners)
}

fn receivers(config: &BgpConfig, poll: &Poll) -> io::Result<[Option<UdpSocket>; 2]> {
    let mut receivers = [None, None];
    for (slot, ipv4) in [true, false].into_iter().enumerate() {
        if !config.neighbors.iter().any(|n| n.bfd.is_some() && n.address.is_ipv4() == ipv4) {
            continue;
        }
        let mut receiver = socket::bfd_receiver(ipv4, socket::BFD_PORT).map_err(named("UDP port 3784 for BFD"))?;
        poll.registry().register(&mut receiver, Token(BFD[slot]), Interest::READABLE)?;
        receivers[slot] = Some(receiver);
    }
    Ok(receivers)
}

impl Speaker {
    fn now(&self) -> Instant {
        Instant::default() + self.origin.elapsed()
    }

    fn run(mut self) {
        let now = self.now();
        self.neighbors.iter_mut().for_each(|n| n.peer().handle_start(now));
        let mut events = Events::with_capacity(64);
        loop {
            self.settle();
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the BGP thread ends: its sockets cannot be watched");
                    return;
                }
            }
            for token in events.iter().map(|e| e.token().0) {
                self.on_ready(token);
            }
            let now = self.now();
            self.neighbors.iter_mut().for_each(|n| n.read_on(now));
            self.look();
            while let Some(order) = self.orders.pop() {
                match order {
                    Order::Stop(words, done) => return self.stop(&words, done),
                    Order::Last(last) => self.last = last,
                    Order::Announce(announces, done) => {
                        self.announces = announces;
                        self.want();
                        self.settle();
                        // Nobody waits any more: no matter.
                        let _ = done.send(());
                    }
                }
            }
            let now = self.now();
            self.neighbors.iter_mut().for_each(|n| n.handle_timeout(now));
        }
    }

    fn wait(&self) -> Duration {
        if self.neighbors.iter().any(Neighbor::has_unread) {
            return Duration::ZERO;
        }
        let now = self.now();
        let timer = self.neighbors.iter().filter_map(Neighbor::poll_timeout).min().map(|at| at.since(now));
        let pulse = PULSE.saturating_sub(self.pulse_at.elapsed());
        timer.map_or(pulse, |timer| timer.min(pulse))
    }

    fn settle(&mut self) {
        let now = self.now();
        let registry = self.poll.registry();
        self.neighbors.iter_mut().for_each(|n| n.settle(registry, now));
        self.publish();
    }

    fn on_ready(&mut self, token: usize) {
        let now = self.now();
        if let Some(slot) = LISTEN.iter().position(|t| *t == token) {
            self.accept(slot, now);
        } else if let Some(slot) = BFD.iter().position(|t| *t == token) {
            self.receive(slot, now);
        } else if let Some(n) = token.checked_sub(FIRST_NEIGHBOR).map(|t| t / 2)
            && let Some(neighbor) = self.neighbors.get_mut(n)
        {
            neighbor.on_ready(token, now);
        }
    }

    fn accept(&mut self, slot: usize, now: Instant) {
        let Some(listener) = &self.listeners[slot] else { return };
        // A stranger's connection is closed at once, unread.
        while let Ok((stream, from)) = listener.accept() {
            let from = from.ip().to_canonical();
            if let Some(neighbor) = self.neighbors.iter_mut().find(|n| n.address() == from) {
                neighbor.on_accepted(stream, self.poll.registry(), now);
            }
        }
    }

    fn receive(&mut self, slot: usize, now: Instant) {
        let Some(receiver) = &self.receivers[slot] else { return };
        let mut buffer = [0; 256];
        loop {
            match socket::receive(receiver, &mut buffer) {
                Ok(Some((from, length))) => {
                    if let Some(neighbor) = self.neighbors.iter_mut().find(|n| n.address() == from) {
                        neighbor.on_bfd(&buffer[..length], now);
                    }
                }
                Ok(None) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return tracing::debug!(%error, "BFD packets cannot be received"),
            }
        }
    }

    /// What serves calls, and the addresses.
    fn look(&mut self) {
        if self.pulse_at.elapsed() >= PULSE {
            self.pulse_at = Clock::now();
            // Nobody else is heard who would serve: better a node that may recover than none.
            let stalled = (self.pulse)().err().filter(|_| !self.last);
            if stalled != self.stalled {
                match stalled {
                    Some(what) => tracing::error!(what, "it has stopped taking its turns: no KEEPALIVE goes to any router"),
                    None => tracing::warn!("what serves calls takes its turns again: KEEPALIVEs go to the routers"),
                }
                self.stalled = stalled;
                let now = self.now();
                self.neighbors.iter_mut().for_each(|n| n.set_stalled(stalled.is_some(), now));
            }
        }
        if self.addresses_at.elapsed() >= ADDRESSES {
            self.addresses_at = Clock::now();
            let families = addresses::look(&self.watched);
            if families != self.families {
                tracing::warn!(from = ?self.families, to = ?families, "families whose addresses are all there");
                self.families = families;
                self.want();
            }
        }
    }

    fn want(&mut self) {
        let wanted = |route: &&Route| self.announces && self.families.has(route.prefix.addr().is_ipv4());
        let routes: Vec<Route> = self.routes.iter().filter(wanted).cloned().collect();
        self.neighbors.iter_mut().for_each(|n| n.wants(&routes));
    }

    fn publish(&self) {
        let told = if self.neighbors.iter().any(Neighbor::has_routes) {
            Ok(())
        } else if !self.families.ipv4 && !self.families.ipv6 {
            Err("the addresses are not this machine's".to_owned())
        } else {
            let each: Vec<String> = self.neighbors.iter().map(Neighbor::why_not).collect();
            Err(format!("no router has a route of this node: {}", each.join("; ")))
        };
        self.told.send_if_modified(|old| std::mem::replace(old, told.clone()) != told);
        let status: Vec<NeighborStatus> = self.neighbors.iter().map(Neighbor::status).collect();
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn stop(mut self, words: &str, done: Option<oneshot::Sender<()>>) {
        let now = self.now();
        self.neighbors.iter_mut().for_each(|n| n.stop(words, now));
        self.settle();
        // Whoever asked may be gone.
        let _ = done.map(|done| done.send(()));
    }
}
