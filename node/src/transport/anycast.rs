//! Taking and giving up the anycast address.
//!
//! The UDP socket (of the first address, where there is one of each family) is the lock: it is bound first and given up last, never
//! shared (no SO_REUSEADDR), so at any moment at most one process on a machine serves the address. Giving up resets the TCP and TLS connections on the address.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sbc_core::io::{AddressRole, Transport};
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::stream::Flow;
use super::table::{AcceptKey, Refusal};
use super::udp::UdpEndpoint;
use super::{AnycastMode, Shared};

/// Connections that the kernel completes before we accept them.
const BACKLOG: u32 = 1024;

/// Pause after `accept` failed (out of descriptors): the listener stays readable, and would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a release waits for its connections' tasks to let go of their sockets; each needs one wake-up.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Why the sockets of a role could not be opened.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process has the port. Of the anycast address: it serves it; try again when it may have gone.
    #[error("the {} address {addr} ({}) is in use by another process", role_word(*.role), transport_word(*.transport))]
    InUse {
        /// Of which role.
        role: AddressRole,
        /// Which one.
        addr: SocketAddr,
        /// For what.
        transport: Transport,
    },
    /// This node has no anycast address: an error of its configuration.
    #[error("no anycast address is configured")]
    NotConfigured,
    /// Anything else, such as an address that this host does not have.
    #[error("cannot bind the {} address {addr} ({}): {source}", role_word(*.role), transport_word(*.transport))]
    Io {
        /// Of which role.
        role: AddressRole,
        /// The address.
        addr: SocketAddr,
        /// For what.
        transport: Transport,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl BindError {
    fn from_io(role: AddressRole, addr: SocketAddr, transport: Transport, source: io::Error) -> BindError {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { role, addr, transport },
            _ => BindError::Io { role, addr, transport, source },
        }
    }
}

/// As the configuration calls it.
fn role_word(role: AddressRole) -> &'static str {
    match role {
        AddressRole::Anycast => "anycast",
        AddressRole::Unicast => "unicast",
        AddressRole::Core => "core",
    }
}

fn transport_word(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
        Transport::Tls => "TLS",
    }
}

/// What a look at the anycast address shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnycastProbe {
    /// Nobody holds it.
    Free,
    /// A process holds it, perhaps this one.
    InUse,
}

/// The sockets of one role that are open, and the tasks that serve them.
pub(crate) struct Bound {
    /// One an address.
    pub(crate) udp: Vec<Arc<UdpEndpoint>>,
    udp_tasks: Vec<JoinHandle<()>>,
    listeners: Vec<JoinHandle<()>>,
}

/// Opens UDP, TCP and (where TLS is configured) TLS of a role on each of its addresses; all or nothing.
pub(crate) fn open(shared: &Arc<Shared>, role: AddressRole) -> Result<Bound, BindError> {
    let addresses = shared.config.addresses(role).ok_or(BindError::NotConfigured)?;
    let (mut udp, mut sockets) = (Vec::new(), Vec::new());
    for ip in addresses.iter() {
        let addr = SocketAddr::new(ip, shared.config.port(role, Transport::Udp));
        let bound = UdpEndpoint::bind(addr, role).map_err(|e| BindError::from_io(role, addr, Transport::Udp, e))?;
        udp.push(Arc::new(bound));
    }
    for (ip, transport) in addresses.iter().flat_map(|ip| [(ip, Transport::Tcp), (ip, Transport::Tls)]) {
        if transport == Transport::Tls && shared.config.tls.is_none() {
            continue;
        }
        let addr = SocketAddr::new(ip, shared.config.port(role, transport));
        let listener = listen(addr).map_err(|e| BindError::from_io(role, addr, transport, e))?;
        sockets.push((transport, addr, listener));
    }
    let listeners = sockets
        .into_iter()
        .map(|(transport, addr, listener)| shared.runtime.spawn(accept_loop(Arc::clone(shared), role, transport, addr, listener)))
        .collect();
    let receive = |udp: &Arc<UdpEndpoint>| Arc::clone(udp).receive(shared.sink.clone(), Arc::clone(&shared.stats));
    let udp_tasks = udp.iter().map(|udp| shared.runtime.spawn(receive(udp))).collect();
    Ok(Bound { udp, udp_tasks, listeners })
}

impl Bound {
    /// Closes the listeners, so that nothing more is accepted.
    pub(crate) async fn close_listeners(&mut self) {
        for task in self.listeners.drain(..) {
            stop(task).await;
        }
    }

    /// Closes the UDP sockets (as soon as a send that is under way on another thread ends).
    pub(crate) async fn close_udp(self) {
        for task in self.udp_tasks {
            stop(task).await;
        }
    }
}

async fn stop(task: JoinHandle<()>) {
    task.abort();
    // Cancelled, which is what was asked for; its socket is closed when this returns.
    let _ = task.await;
}

fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections in TIME_WAIT must not keep a new holder out; two listeners on one address stay impossible.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

async fn accept_loop(shared: Arc<Shared>, role: AddressRole, transport: Transport, local: SocketAddr, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, remote)) => admit(&shared, role, transport, local, tcp, remote),
            Err(error) => {
                shared.stats.accept_errors.inc();
                tracing::warn!(%local, %error, "accept failed");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit(shared: &Arc<Shared>, role: AddressRole, transport: Transport, local: SocketAddr, tcp: TcpStream, remote: SocketAddr) {
    let key = AcceptKey { transport, local: local.ip(), remote };
    let admitted = shared.table().admit(role, key, &shared.config.limits);
    match admitted {
        Ok(ends) => {
            shared.stats.flows_open.inc();
            let flow = Flow { shared: Arc::clone(shared), ends, role, transport, local, remote };
            shared.runtime.spawn(flow.accepted(tcp));
        }
        Err(refusal) => {
            match refusal {
                Refusal::Total => shared.stats.refused_total.inc(),
                Refusal::Source => shared.stats.refused_source.inc(),
            }
            // RST: no TIME_WAIT for what a flood opened.
            let _ = tcp.set_zero_linger();
        }
    }
}

/// Opens the anycast address; nothing to do when it is open.
pub(crate) async fn bind(shared: &Arc<Shared>) -> Result<(), BindError> {
    let mut slot = shared.anycast.lock().await;
    if slot.is_some() {
        return Ok(());
    }
    let bound = open(shared, AddressRole::Anycast)?;
    shared.set_sockets(AddressRole::Anycast, &bound.udp);
    *slot = Some(bound);
    Ok(())
}

/// Closes the anycast address and resets its connections; nothing to do when it is closed, or always open.
pub(crate) async fn release(shared: &Arc<Shared>) {
    let mut slot = shared.anycast.lock().await;
    if shared.config.anycast_mode == AnycastMode::Always {
        return;
    }
    let Some(mut bound) = slot.take() else { return };
    bound.close_listeners().await;
    shared.table().reset_role(AddressRole::Anycast);
    let all_closed = async {
        loop {
            let closed = shared.anycast_closed.notified();
            tokio::pin!(closed);
            // Registered before the look, so that no wake-up is lost.
            closed.as_mut().enable();
            if shared.anycast_sockets.load(Ordering::SeqCst) == 0 {
                return;
            }
            closed.await;
        }
    };
    if timeout(RELEASE_LIMIT, all_closed).await.is_err() {
        tracing::warn!("connections on the anycast address are still open after its release");
    }
    shared.set_sockets(AddressRole::Anycast, &[]);
    bound.close_udp().await;
}

/// Looks whether anybody holds the anycast address, by binding its UDP port for the time of two system calls. Two nodes that
/// look at the same instant see each other; whoever waits for it to be free then waits once more.
pub(crate) async fn probe(shared: &Arc<Shared>) -> Result<AnycastProbe, BindError> {
    let slot = shared.anycast.lock().await;
    if slot.is_some() {
        return Ok(AnycastProbe::InUse);
    }
    let addresses = shared.config.anycast.ok_or(BindError::NotConfigured)?;
    for ip in addresses.iter() {
        let addr = SocketAddr::new(ip, shared.config.port(AddressRole::Anycast, Transport::Udp));
        let role = AddressRole::Anycast;
        match std::net::UdpSocket::bind(addr).map_err(|e| BindError::from_io(role, addr, Transport::Udp, e)) {
            Ok(_) => {}
            Err(BindError::InUse { .. }) => return Ok(AnycastProbe::InUse),
            Err(other) => return Err(other),
        }
    }
    Ok(AnycastProbe::Free)
}
