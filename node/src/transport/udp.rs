//! One UDP socket: batches in, single packets out, with a chosen source address.
//!
//! quinn-udp sends (IP_PKTINFO), and [`batch`] reads. Quinn's `UdpSocketState::new` sets QUIC's options on the socket it is
//! shown (no fragmentation, receive offload, ECN): wrong for SIP, where a response over 1500 bytes must go out in fragments
//! (RFC 3261 §18.2.2 leaves no other way). So the state is made on a throw-away socket, and the real one keeps the kernel's
//! defaults. The destination address of a packet needs no ancillary data: each address has a socket of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quinn_udp::{UdpSockRef, UdpSocketState};
use sbc_core::io::{AddressRole, Path, Transport};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::batch::{self, Batch, Datagram};
use super::{Arrived, TransportEvent, TransportStats};

/// Largest datagram: nothing that arrives is cut.
const DATAGRAM_MAX: usize = 65_535;

/// Datagrams read by one system call.
const BATCH_SIZE: usize = 32;
/// Batches read from one socket in a row, before the others get their turn.
const MAX_BATCHES: usize = 8;

/// Kernel buffers: at 390,000 packets a second a core is busy for 10 ms with this much. The kernel caps it at rmem_max.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// A bound UDP socket.
pub(crate) struct UdpEndpoint {
    socket: UdpSocket,
    state: UdpSocketState,
    role: AddressRole,
    local: SocketAddr,
    batch: Mutex<Batch>,
}

impl UdpEndpoint {
    /// Binds. Never with SO_REUSEADDR: that the address is held by one process at a time is what the `bind` driver rests on.
    pub(crate) fn bind(local: SocketAddr, role: AddressRole) -> io::Result<UdpEndpoint> {
        let socket = std::net::UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        let sock = SockRef::from(&socket);
        // Best effort: a smaller buffer works too.
        let _ = sock.set_recv_buffer_size(SOCKET_BUFFER);
        batch::prepare(&socket, SOCKET_BUFFER);
        let _ = sock.set_send_buffer_size(SOCKET_BUFFER);
        let any = if local.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        let throw_away = std::net::UdpSocket::bind((any, 0))?;
        let state = UdpSocketState::new(UdpSockRef::from(&throw_away))?;
        let batch = Batch::new(BATCH_SIZE, DATAGRAM_MAX);
        Ok(UdpEndpoint { socket: UdpSocket::from_std(socket)?, state, role, local, batch: Mutex::new(batch) })
    }

    /// Whether it reaches IPv4 far ends; else IPv6.
    pub(crate) fn is_ipv4(&self) -> bool {
        self.local.is_ipv4()
    }

    /// Sends one datagram, from `source` where it is given and from the bound address else; the port is always the bound one.
    /// Never waits: a full send buffer is `WouldBlock`.
    pub(crate) fn send(&self, remote: SocketAddr, source: Option<IpAddr>, payload: &[u8]) -> io::Result<()> {
        let transmit =
            quinn_udp::Transmit { destination: remote, ecn: None, contents: payload, segment_size: None, src_ip: source };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit)
    }

    /// Reads until the driver's end of the queue is gone. Cancel-safe: to stop it, abort its task.
    pub(crate) async fn receive(self: Arc<UdpEndpoint>, sink: mpsc::Sender<TransportEvent>, stats: Arc<TransportStats>) {
        while self.socket.readable().await.is_ok() && !sink.is_closed() {
            // WouldBlock, or an ICMP error of an earlier send: nothing to do about either.
            let _ = self.socket.try_io(Interest::READABLE, || self.read(&sink, &stats).map(drop));
        }
    }

    /// Reads what is there, without waiting for anybody to say so: the driver asks, before it takes something for missing.
    pub(crate) fn read_all(&self, sink: &mpsc::Sender<TransportEvent>, stats: &TransportStats) {
        for _ in 0..MAX_BATCHES {
            if !self.read(sink, stats).is_ok_and(|n| n == BATCH_SIZE) {
                return;
            }
        }
    }

    /// Queues one batch. Whoever reads, the order of the socket is that of the queue.
    fn read(&self, sink: &mpsc::Sender<TransportEvent>, stats: &TransportStats) -> io::Result<usize> {
        let mut batch = self.batch.lock().expect("no panic while held");
        let read = batch.read(&self.socket)?;
        for datagram in batch.datagrams() {
            self.deliver(&datagram, sink, stats);
        }
        Ok(read)
    }

    /// Queues one datagram.
    fn deliver(&self, datagram: &Datagram<'_>, sink: &mpsc::Sender<TransportEvent>, stats: &TransportStats) {
        let Datagram { payload, from: remote, at } = *datagram;
        // RFC 5626 §4.4.1 and the NULs that NATed phones send.
        if payload.is_empty() || sbc_core::sip::is_keepalive(payload) {
            stats.keep_alives.inc();
            return;
        }
        stats.udp.received.inc();
        let path = Path { role: self.role, transport: Transport::Udp, local: self.local, remote, flow: None };
        let arrived = Arrived { path, payload: Bytes::copy_from_slice(payload), at, turn: None };
        if let Err(mpsc::error::TrySendError::Full(_)) = sink.try_send(TransportEvent::Received(arrived)) {
            // UDP's sender retransmits; holding packets back would only make them old.
            stats.udp_queue_full.inc();
        }
    }
}
