//! One stream: two legs and the packets between them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mio::{Interest, Registry, Token};
use sbc_core::ids::MediaId;
use sbc_core::io::{Side, StreamPorts};

use super::counters::{SessionCounters, ThreadTotals, add};
use super::leg::{Admission, Family, Leg};
use super::limits::{MAX_DATAGRAM, PACKETS_PER_SOCKET};
use super::packet::{Channel, PacketKind};

/// Room for one datagram and one octet more, by which one that is too long is known.
pub(super) type Buffer = [u8; MAX_DATAGRAM + 1];

/// One of the sockets of a stream, below [`SocketIndex::COUNT`]: of a side, a family and a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketIndex(pub(super) usize);

impl SocketIndex {
    /// So many there are at the most.
    pub(super) const COUNT: usize = 8;

    fn all() -> impl Iterator<Item = SocketIndex> {
        (0..SocketIndex::COUNT).map(SocketIndex)
    }

    fn side(self) -> Side {
        if self.0 & 2 == 0 { Side::Caller } else { Side::Callee }
    }

    fn family(self) -> Family {
        if self.0 & 4 == 0 { Family::V4 } else { Family::V6 }
    }

    fn channel(self) -> Channel {
        if self.0 & 1 == 0 { Channel::Rtp } else { Channel::Rtcp }
    }
}

/// One stream of a session.
#[derive(Debug)]
pub(super) struct Stream {
    /// Whose.
    pub(super) media: MediaId,
    /// m-line index.
    pub(super) index: u8,
    caller: Leg,
    callee: Leg,
    counters: Arc<SessionCounters>,
    /// Bit n: socket n waits in the thread's list of readable sockets.
    queued: u8,
}

/// What reading a socket came to.
#[derive(Debug, Default)]
pub(super) struct Pumped {
    /// There may be more to read.
    pub(super) more: bool,
    /// The side has a new source: to be reported.
    pub(super) latched: Option<(Side, SocketAddr)>,
}

impl Stream {
    pub(super) fn new(media: MediaId, index: u8, caller: Leg, callee: Leg, counters: Arc<SessionCounters>) -> Stream {
        Stream { media, index, caller, callee, counters, queued: 0 }
    }

    pub(super) fn ports(&self) -> StreamPorts {
        StreamPorts { caller: self.caller.port(), callee: self.callee.port() }
    }

    pub(super) fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    pub(super) fn leg_mut(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// Adds the sockets to the poll under `token(socket)`.
    pub(super) fn register(&mut self, registry: &Registry, token: impl Fn(SocketIndex) -> Token) -> io::Result<()> {
        for index in SocketIndex::all() {
            if let Some(socket) = self.leg_mut(index.side()).socket_mut(index.family(), index.channel()) {
                registry.register(socket, token(index), Interest::READABLE)?;
            }
        }
        Ok(())
    }

    /// Takes the sockets out of the poll. One that is not in it is no error: registering may have failed half-way.
    pub(super) fn deregister(&mut self, registry: &Registry) {
        for index in SocketIndex::all() {
            let _ = self.leg_mut(index.side()).socket_mut(index.family(), index.channel()).map(|s| registry.deregister(s));
        }
    }

    /// Marks a socket as waiting to be read; false: it was already.
    pub(super) fn enqueue(&mut self, socket: SocketIndex) -> bool {
        let bit = 1 << socket.0;
        let new = self.queued & bit == 0;
        self.queued |= bit;
        new
    }

    /// Reads and forwards at most [`PACKETS_PER_SOCKET`] packets of one socket.
    pub(super) fn pump(&mut self, socket: SocketIndex, buffer: &mut Buffer, now: Instant, totals: &ThreadTotals) -> Pumped {
        self.queued &= !(1 << socket.0);
        let (side, channel) = (socket.side(), socket.channel());
        let mut pumped = Pumped::default();
        for _ in 0..PACKETS_PER_SOCKET {
            let Some(readable) = self.leg_mut(side).socket(socket.family(), channel) else { return pumped };
            match readable.recv_from(buffer) {
                Ok((n, source)) => {
                    if self.forward(side, channel, &buffer[..n], source, now, totals) {
                        pumped.latched = Some((side, source));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return pumped,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Linux hands an ICMP error over once per call: the next one reads on.
                Err(_) => add(&totals.socket_errors, 1),
            }
        }
        pumped.more = true;
        pumped
    }

    /// Judges, counts and sends one packet on; true: it has a new source.
    fn forward(
        &mut self,
        side: Side,
        channel: Channel,
        packet: &[u8],
        source: SocketAddr,
        now: Instant,
        totals: &ThreadTotals,
    ) -> bool {
        let (from, to) = match side {
            Side::Caller => (&mut self.caller, &self.callee),
            Side::Callee => (&mut self.callee, &self.caller),
        };
        let counters = self.counters.side(side);
        let admission = if packet.len() > MAX_DATAGRAM { Admission::Invalid } else { from.admit(channel, packet, source, now) };
        let (kind, latched) = match admission {
            Admission::Forward { kind, latched } => (kind, latched),
            Admission::Foreign => {
                add(&counters.dropped, 1);
                add(&totals.dropped_foreign, 1);
                return false;
            }
            Admission::Invalid => {
                add(&counters.dropped, 1);
                add(&totals.dropped_invalid, 1);
                return false;
            }
        };
        let forwarded = match kind {
            PacketKind::Rtp | PacketKind::Opaque(_) => {
                add(&counters.rtp_packets, 1);
                add(&counters.rtp_octets, packet.len() as u64);
                if kind == PacketKind::Rtp { &totals.rtp_forwarded } else { &totals.other_forwarded }
            }
            PacketKind::Rtcp => {
                add(&counters.rtcp_packets, 1);
                &totals.rtcp_forwarded
            }
        };
        match to.route(kind).map(|(socket, target)| socket.send_to(packet, target)) {
            Some(Ok(_)) => add(forwarded, 1),
            // A full send buffer drops the packet as a full router would.
            Some(Err(_)) => add(&totals.socket_errors, 1),
            None => add(&totals.unroutable, 1),
        }
        latched
    }
}
