//! Orders to the media engine and what it reports.
//!
//! A session has one stream per m-line, and each stream two sides: toward the caller and toward the called party. Each
//! side of each stream is one port pair (RTP even, RTCP odd, RFC 3550 §11) on this node's unicast or core address.

use std::net::{IpAddr, SocketAddr};

use super::Realm;
use crate::ids::MediaId;

/// A leg of a call, seen from the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Toward the caller.
    Caller,
    /// Toward the called party.
    Callee,
}

impl Side {
    /// The other leg.
    pub fn other(self) -> Side {
        match self {
            Side::Caller => Side::Callee,
            Side::Callee => Side::Caller,
        }
    }
}

/// The ports of one stream: RTP ports; RTCP is RTP + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPorts {
    /// Our RTP port toward the caller.
    pub caller: u16,
    /// Our RTP port toward the called party.
    pub callee: u16,
}

impl StreamPorts {
    /// Our RTP port toward a side.
    pub fn toward(self, side: Side) -> u16 {
        match side {
            Side::Caller => self.caller,
            Side::Callee => self.callee,
        }
    }
}

/// Where packets of a stream are to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There.
    At(SocketAddr),
    /// To that port of a host that was named (RFC 8866 §5.7) or left out. Nobody looks it up: the first packet from the far end tells.
    Named(u16),
}

impl Place {
    /// At an address, where there is one.
    pub fn new(ip: Option<IpAddr>, port: u16) -> Place {
        ip.map_or(Place::Named(port), |ip| Place::At((ip, port).into()))
    }

    /// The address.
    pub fn addr(self) -> Option<SocketAddr> {
        match self {
            Place::At(addr) => Some(addr),
            Place::Named(_) => None,
        }
    }

    /// The port.
    pub fn port(self) -> u16 {
        match self {
            Place::At(addr) => addr.port(),
            Place::Named(port) => port,
        }
    }
}

/// Where a far end said that it wants a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamRemote {
    /// RTP.
    pub rtp: Place,
    /// RTCP (RFC 3605), RTP + 1 where not named.
    pub rtcp: Place,
    /// RTP and RTCP on one port (RFC 5761).
    pub rtcp_mux: bool,
    /// Which of its descriptions said so, counted in this call: another one re-opens the latch, though it says the same address.
    pub description: u32,
    /// What it sends.
    pub carries: Carries,
    /// Packets go where the far end is heard from (RFC 7362 §4), else where it said (RFC 3264 §5.1).
    pub latching: bool,
}

/// What the packets of a stream are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Carries {
    /// RTP and RTCP.
    #[default]
    Rtp,
    /// These and what keys them on the same ports (RFC 7983): DTLS and STUN, untouched.
    DtlsRtp,
    /// Anything, on the even port alone.
    Datagrams,
}

/// Orders to the engine. Orders for one session are carried out in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaCommand {
    /// Bind the ports for streams `first..first + count`. Answered by `Opened` or `OpenFailed`.
    Open {
        /// The session; created by its first `Open`.
        media: MediaId,
        /// Index of the first stream to open.
        first: u8,
        /// How many.
        count: u8,
        /// Realm of the caller's side and of the called side.
        realms: [Realm; 2],
        /// Of an emergency call: it gets what is kept for such.
        urgent: bool,
    },
    /// Where `side`'s far end wants the stream; until a packet from there is seen (latching) packets go there. `None`: the
    /// stream is rejected or off: forward nothing to that side. Another description re-opens the latch.
    Remote {
        /// The session.
        media: MediaId,
        /// m-line index.
        stream: u8,
        /// Whose far end.
        side: Side,
        /// The address in its SDP.
        remote: Option<StreamRemote>,
    },
    /// What has the session heard of its far ends? Answered by `Heard`, where it is open.
    Ask {
        /// The session.
        media: MediaId,
    },
    /// Release everything. Answered by `Closed`. An `Open` behind it begins the session anew, on other sides if need be.
    Close {
        /// The session.
        media: MediaId,
    },
}

/// Counters of one direction of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// RTP packets, and datagrams of other media, received from that side.
    pub rtp_packets: u64,
    /// Their octets, with RTP's headers.
    pub rtp_octets: u64,
    /// RTCP packets received from that side.
    pub rtcp_packets: u64,
    /// Dropped: not from the latched source, or not RTP/RTCP.
    pub dropped: u64,
}

/// What was heard of one far end so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideHeard {
    /// RTP and RTCP packets that were taken from it, over all streams.
    pub packets: u64,
    /// Where the RTP of its first stream that is latched comes from.
    pub source: Option<SocketAddr>,
}

/// Counters of a session, summed over its streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaStats {
    /// Received from the caller.
    pub caller: StreamStats,
    /// Received from the called party.
    pub callee: StreamStats,
}

impl MediaStats {
    /// Adds what another session of the same call counted.
    pub fn add(&mut self, other: &MediaStats) {
        for (sum, more) in [(&mut self.caller, &other.caller), (&mut self.callee, &other.callee)] {
            sum.rtp_packets += more.rtp_packets;
            sum.rtp_octets += more.rtp_octets;
            sum.rtcp_packets += more.rtcp_packets;
            sum.dropped += more.dropped;
        }
    }
}

/// Reports of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// The ports for streams `first..first + ports.len()` are bound.
    Opened {
        /// The session.
        media: MediaId,
        /// Index of the first of them.
        first: u8,
        /// Their ports.
        ports: Vec<StreamPorts>,
    },
    /// No ports, no descriptors, or the engine is down.
    OpenFailed {
        /// The session.
        media: MediaId,
        /// For people.
        reason: Box<str>,
    },
    /// That side's far end is heard from another source than before; at first from any.
    Latched {
        /// The session.
        media: MediaId,
        /// m-line index.
        stream: u8,
        /// From whom.
        side: Side,
        /// Its observed source.
        source: SocketAddr,
    },
    /// The answer to `Ask`.
    Heard {
        /// The session.
        media: MediaId,
        /// The caller's side.
        caller: SideHeard,
        /// The called side.
        callee: SideHeard,
    },
    /// The session is gone; its last counters.
    Closed {
        /// The session.
        media: MediaId,
        /// Totals.
        stats: MediaStats,
    },
}
