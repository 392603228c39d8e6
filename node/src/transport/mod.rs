//! SIP sockets: UDP, TCP and TLS on the anycast, unicast and core addresses of this node.
//!
//! What comes in goes to the driver through its bounded queue: datagrams are dropped when it is full (their senders
//! retransmit), streams wait. What goes out never waits in the caller: a datagram is handed to the kernel at once, a stream
//! message to the bounded queue of its connection. Answers leave from the address that was asked (anycast.md, rule E), also
//! when this node does not hold the anycast socket: then the unicast socket sends with the anycast source address.

mod anycast;
mod batch;
mod config;
mod last_words;
mod stats;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tls;
#[cfg(test)]
mod tls_tests;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Instant;

use bytes::Bytes;
use sbc_core::ids::{FlowId, SendId};
use sbc_core::io::{AddressRole, Path, SendFailure, Transmit, Transport as Proto};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedSemaphorePermit, mpsc};

pub use anycast::{AnycastProbe, BindError};
pub use config::{AnycastMode, Limits, Ports, TransportConfig};
pub use stats::{Count, Handshakes, MessageCounts, TransportStats};

use stream::Flow;
use table::{AcceptKey, FlowTable, OpenKey, Queued, Queueing};
use udp::UdpEndpoint;

/// One SIP message (a datagram, or one message framed out of a stream), as received.
#[derive(Debug)]
pub struct Arrived {
    /// How it came.
    pub path: Path,
    /// Its bytes, never empty.
    pub payload: Bytes,
    /// When the kernel had it; of a stream, when it was read.
    pub at: Instant,
    /// Of a connection: one of the few messages that it may have waiting; it reads on when they are dropped.
    pub turn: Option<OwnedSemaphorePermit>,
}

/// What the transport tells the driver.
#[derive(Debug)]
pub enum TransportEvent {
    /// A message came in.
    Received(Arrived),
    /// A message that was accepted by [`TransportHandle::send`] could not be sent after all.
    SendFailed {
        /// Which; never 0.
        id: SendId,
        /// Why.
        reason: SendFailure,
    },
    /// The far end of a connection has shown a certificate that is believed, with SIP domains in it. Comes before everything
    /// that was received on it.
    FlowProved {
        /// Which.
        flow: FlowId,
        /// The domains, the first few.
        names: Box<[Box<str>]>,
    },
    /// A connection is gone. Comes after everything that was received on it.
    FlowClosed(FlowId),
}

/// The state that the handle and all tasks share.
pub(crate) struct Shared {
    config: TransportConfig,
    runtime: Runtime,
    sink: mpsc::Sender<TransportEvent>,
    stats: Arc<TransportStats>,
    /// The UDP sockets for senders.
    sockets: RwLock<Sockets>,
    /// Unicast and core, until the shutdown.
    fixed: AsyncMutex<Vec<anycast::Bound>>,
    /// The anycast sockets with their tasks; locked while they are opened or closed.
    anycast: AsyncMutex<Option<anycast::Bound>>,
    anycast_sockets: AtomicUsize,
    anycast_closed: Notify,
    flows: Mutex<FlowTable>,
}

/// The open UDP sockets of each role, at most one a family.
#[derive(Default)]
struct Sockets {
    anycast: Vec<Arc<UdpEndpoint>>,
    unicast: Vec<Arc<UdpEndpoint>>,
    core: Vec<Arc<UdpEndpoint>>,
}

impl Sockets {
    fn of(&self, role: AddressRole) -> &[Arc<UdpEndpoint>] {
        match role {
            AddressRole::Anycast => &self.anycast,
            AddressRole::Unicast => &self.unicast,
            AddressRole::Core => &self.core,
        }
    }

    fn set(&mut self, role: AddressRole, sockets: Vec<Arc<UdpEndpoint>>) {
        match role {
            AddressRole::Anycast => self.anycast = sockets,
            AddressRole::Unicast => self.unicast = sockets,
            AddressRole::Core => self.core = sockets,
        }
    }
}

/// The transport; only its start lives here, all else at [`TransportHandle`].
pub struct Transport;

impl Transport {
    /// Binds unicast and core (and anycast in mode `Always`) and serves them on the current tokio runtime until
    /// [`TransportHandle::shutdown`].
    pub async fn start(config: TransportConfig, sink: mpsc::Sender<TransportEvent>) -> Result<TransportHandle, BindError> {
        let always = config.anycast_mode == AnycastMode::Always && config.anycast.is_some();
        let shared = Arc::new(Shared {
            config,
            runtime: Runtime::current(),
            sink,
            stats: Arc::default(),
            sockets: RwLock::default(),
            fixed: AsyncMutex::default(),
            anycast: AsyncMutex::new(None),
            anycast_sockets: AtomicUsize::new(0),
            anycast_closed: Notify::new(),
            flows: Mutex::default(),
        });
        let unicast = anycast::open(&shared, AddressRole::Unicast)?;
        let core = match anycast::open(&shared, AddressRole::Core) {
            Ok(core) => core,
            Err(e) => {
                close(unicast).await;
                return Err(e);
            }
        };
        shared.set_sockets(AddressRole::Unicast, &unicast.udp);
        shared.set_sockets(AddressRole::Core, &core.udp);
        shared.fixed.lock().await.extend([unicast, core]);
        let handle = TransportHandle { shared };
        if always && let Err(e) = handle.bind_anycast().await {
            handle.shutdown().await;
            return Err(e);
        }
        Ok(handle)
    }
}

async fn close(mut bound: anycast::Bound) {
    bound.close_listeners().await;
    bound.close_udp().await;
}

/// Sends, and opens and closes the anycast address. Cheap to clone.
#[derive(Clone)]
pub struct TransportHandle {
    shared: Arc<Shared>,
}

impl TransportHandle {
    /// Sends one message; never waits.
    ///
    /// `Err`: it was not sent, and no [`TransportEvent::SendFailed`] follows (the caller reports it to the core where
    /// `transmit.id` is not 0). `Ok`: it was handed to the kernel (UDP), or a connection will try; a later failure comes as
    /// `SendFailed` unless the id is 0.
    pub fn send(&self, transmit: Transmit) -> Result<(), SendFailure> {
        match transmit.path.transport {
            Proto::Udp => self.shared.send_udp(&transmit),
            Proto::Tcp | Proto::Tls => self.shared.send_stream(Queued { transmit, moved: false }),
        }
    }

    /// Reads what the UDP sockets hold into the driver's queue, so that nothing that is here already is taken for missing.
    pub fn read_all(&self) {
        let shared = &self.shared;
        // Held while it is read: whoever closes a socket takes it out of here first.
        let sockets = shared.sockets.read().expect("no panic while held");
        for socket in [&sockets.core, &sockets.unicast, &sockets.anycast].into_iter().flatten() {
            socket.read_all(&shared.sink, &shared.stats);
        }
    }

    /// Lets a connection write what is queued on it, and then closes it.
    #[cfg(test)]
    pub(crate) fn close_flow(&self, flow: FlowId) {
        self.shared.table().close(flow);
    }

    /// Opens the anycast address: UDP, TCP and TLS, all or none. Nothing to do when it is open.
    pub async fn bind_anycast(&self) -> Result<(), BindError> {
        anycast::bind(&self.shared).await
    }

    /// Closes the anycast address and resets its connections. In mode `Always` nothing happens.
    pub async fn release_anycast(&self) {
        anycast::release(&self.shared).await;
    }

    /// Looks whether any process holds the anycast address.
    pub async fn probe_anycast(&self) -> Result<AnycastProbe, BindError> {
        anycast::probe(&self.shared).await
    }

    /// True while this node's anycast sockets are open.
    pub fn anycast_bound(&self) -> bool {
        self.shared.is_open(AddressRole::Anycast)
    }

    /// True while the core side's sockets are open and its addresses are this machine's: an interface that went away takes the
    /// address with it, and the sockets do not notice. One of two is not enough: another node has both.
    pub fn core_bound(&self) -> bool {
        // Other failures (no port left) say nothing about the address.
        let gone = |e: io::Error| e.kind() == io::ErrorKind::AddrNotAvailable;
        self.shared.is_open(AddressRole::Core)
            && !self.shared.config.core.iter().any(|ip| std::net::UdpSocket::bind((ip, 0)).is_err_and(gone))
    }

    /// The counters.
    pub fn stats(&self) -> Arc<TransportStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Closes everything. Messages already queued on connections are still written (within the write limit).
    pub async fn shutdown(&self) {
        for role in [AddressRole::Anycast, AddressRole::Unicast, AddressRole::Core] {
            self.shared.set_sockets(role, &[]);
        }
        let anycast = self.shared.anycast.lock().await.take();
        for bound in self.shared.fixed.lock().await.drain(..).chain(anycast) {
            close(bound).await;
        }
        let mut table = self.shared.table();
        for id in table.ids() {
            table.close(id);
        }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, FlowTable> {
        self.flows.lock().expect("no panic while held")
    }

    /// The socket of a role from which `far` can be reached.
    fn socket(&self, role: AddressRole, far: IpAddr) -> Option<Arc<UdpEndpoint>> {
        let sockets = self.sockets.read().expect("no panic while held");
        sockets.of(role).iter().find(|socket| socket.is_ipv4() == far.is_ipv4()).cloned()
    }

    fn is_open(&self, role: AddressRole) -> bool {
        !self.sockets.read().expect("no panic while held").of(role).is_empty()
    }

    fn set_sockets(&self, role: AddressRole, sockets: &[Arc<UdpEndpoint>]) {
        self.sockets.write().expect("no panic while held").set(role, sockets.to_vec());
    }

    fn finish(&self, id: FlowId) {
        self.table().finish(id);
        self.stats.flows_open.dec();
    }

    fn send_udp(&self, transmit: &Transmit) -> Result<(), SendFailure> {
        let path = transmit.path;
        let far = path.remote.ip();
        let (socket, source) = match (path.role, self.socket(path.role, far)) {
            // Rule E: the anycast source address through the unicast socket, which has the same port.
            (AddressRole::Anycast, None) => {
                (self.socket(AddressRole::Unicast, far), self.config.anycast.and_then(|any| any.of(far)))
            }
            (_, socket) => (socket, None),
        };
        // None after the shutdown, and for a family that is not served.
        let Some(socket) = socket else { return Err(SendFailure::Refused) };
        let sent = socket.send(path.remote, source, &transmit.payload);
        match sent {
            Ok(()) => {
                self.stats.udp.sent.inc();
                Ok(())
            }
            Err(error) => {
                self.stats.udp_send_errors.inc();
                Err(match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => SendFailure::Congested,
                    _ => SendFailure::Refused,
                })
            }
        }
    }

    /// RFC 3261 §18.2.2 for responses, §18.1.1 for requests: the connection named, else one that fits, else a new one: for a
    /// response to where its Via says that somebody listens.
    fn send_stream(self: &Arc<Shared>, mut message: Queued) -> Result<(), SendFailure> {
        let path = message.transmit.path;
        let response = stream::is_response(&message.transmit.payload);
        let reopen = message.transmit.reopen.filter(|_| response);
        let Some((bind_ip, role)) = self.outgoing_address(path.role, path.remote.ip()) else { return Err(SendFailure::Refused) };
        if path.transport == Proto::Tls && self.config.tls.is_none() {
            return Err(SendFailure::Refused);
        }
        let mut open = OpenKey {
            transport: path.transport,
            local: bind_ip,
            remote: path.remote,
            tls_name: message.transmit.tls_name.clone().filter(|_| path.transport == Proto::Tls),
        };
        let mut table = self.table();
        let named = path.flow.and_then(|id| table.find(id, path.transport, path.remote));
        if path.flow.is_some() && !response {
            // The way to a far end that need not listen: without it the core must find another.
            return match named.map(|id| table.queue(id, message)) {
                Some(Queueing::Done) => Ok(()),
                Some(Queueing::Full) => {
                    self.stats.write_queue_full.inc();
                    Err(SendFailure::Congested)
                }
                Some(Queueing::Gone(_)) | None => Err(SendFailure::Refused),
            };
        }
        let accepted = AcceptKey { transport: path.transport, local: path.local.ip(), remote: path.remote };
        // A connection that the far end opened carries requests only where the core names it: its source address proves
        // nothing (RFC 5923 §9.3).
        let by_accept = response.then(|| table.find_accepted(&accepted)).flatten();
        let by_open = table.find_opened(&open);
        open.remote = reopen.unwrap_or(path.remote);
        for id in [named, by_accept, by_open, table.find_opened(&open)].into_iter().flatten() {
            match table.queue(id, message) {
                Queueing::Done => return Ok(()),
                Queueing::Full => {
                    self.stats.write_queue_full.inc();
                    return Err(SendFailure::Congested);
                }
                Queueing::Gone(back) => message = back,
            }
        }
        let Ok(ends) = table.open(role, open.clone(), &self.config.limits) else {
            self.stats.refused_total.inc();
            return Err(SendFailure::Congested);
        };
        // A new queue has room for one.
        table.queue(ends.id, message);
        drop(table);
        self.stats.flows_open.inc();
        let local = SocketAddr::new(bind_ip, self.config.port(role, path.transport));
        let flow = Flow { shared: Arc::clone(self), ends, role, transport: path.transport, local, remote: open.remote };
        self.runtime.spawn(flow.open(open));
        Ok(())
    }

    /// The address that a new connection is opened from. From the anycast address only while this node holds it: else the
    /// far end's SYN-ACK would reach another node. `None`: the far end's family is not served.
    fn outgoing_address(&self, role: AddressRole, far: IpAddr) -> Option<(IpAddr, AddressRole)> {
        let role = match role {
            AddressRole::Anycast if self.socket(AddressRole::Anycast, far).is_none() => AddressRole::Unicast,
            role => role,
        };
        Some((self.config.addresses(role)?.of(far)?, role))
    }

    /// A message whose connection broke before it was written: once more, over another connection (RFC 3261 §18.2.2).
    async fn move_elsewhere(self: &Arc<Shared>, mut message: Queued) {
        let id = message.transmit.id;
        let bound = message.transmit.path.flow.is_some() && !stream::is_response(&message.transmit.payload);
        if message.moved || bound {
            return self.report(id, SendFailure::Refused).await;
        }
        message.moved = true;
        message.transmit.path.flow = None;
        self.stats.moved.inc();
        if let Err(reason) = self.send_stream(message) {
            self.report(id, reason).await;
        }
    }

    async fn report(&self, id: SendId, reason: SendFailure) {
        if id != SendId(0) {
            // The driver may have stopped.
            let _ = self.sink.send(TransportEvent::SendFailed { id, reason }).await;
        }
    }
}
