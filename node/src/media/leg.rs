//! One side of one stream: its port pair and what is known of the far end.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use sbc_core::io::{Addresses, Carries, StreamRemote};
use socket2::{Domain, Protocol, Socket, Type};

use super::latch::{Latch, Signalled, Verdict};
use super::limits::BIND_TRIES;
use super::packet::{Channel, PacketKind, classify};
use super::ports::PortPools;
use super::sockets::{SocketGrant, SocketShare};

/// Expedited forwarding (RFC 4594 §4.1 for telephony), as the octet that holds the code point.
const DSCP_EF: u32 = 46 << 2;

/// What port pairs are made of; all threads of an engine share it.
#[derive(Clone, Debug)]
pub(super) struct Supply {
    pub(super) pools: Arc<Mutex<PortPools>>,
    pub(super) sockets: Arc<SocketShare>,
}

/// Why a port pair could not be had; becomes the reason of `OpenFailed`.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    /// Every pair of the range is taken or rests: the range is too small for the load.
    #[error("no free media port on {0}")]
    Exhausted(IpAddr),
    /// Other processes hold the ports: the range overlaps with theirs.
    #[error("{BIND_TRIES} media port pairs of {0} are held by other processes")]
    Busy(IpAddr),
    /// The engine's share of descriptors is used up.
    #[error("no free media socket")]
    Sockets,
    /// The kernel: no descriptors, or an address that this machine does not have.
    #[error("media port on {0}: {1}")]
    Io(IpAddr, io::Error),
}

impl BindError {
    /// There are too few of something that comes back when calls end.
    pub(super) fn is_exhaustion(&self) -> bool {
        match self {
            BindError::Exhausted(_) | BindError::Sockets | BindError::Busy(_) => true,
            // EMFILE, ENFILE: the process's limit, or the machine's.
            BindError::Io(_, e) => matches!(e.raw_os_error(), Some(24 | 23)),
        }
    }
}

/// The sockets of a port pair on one address.
#[derive(Debug)]
struct Pair {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Pair {
    fn bind(ip: IpAddr, port: u16) -> io::Result<Pair> {
        Ok(Pair { rtp: bind_udp(ip, port)?, rtcp: bind_udp(ip, port + 1)? })
    }

    fn socket(&self, channel: Channel) -> &UdpSocket {
        match channel {
            Channel::Rtp => &self.rtp,
            Channel::Rtcp => &self.rtcp,
        }
    }
}

/// A port pair, bound on each address of a realm; gives its ports back when dropped. Both families are open, since nobody knows
/// which one the far end will have: the ports are asked for before it is called.
#[derive(Debug)]
struct PortPair {
    v4: Option<Pair>,
    v6: Option<Pair>,
    /// Whose pool the port is of.
    ip: IpAddr,
    port: u16,
    pools: Arc<Mutex<PortPools>>,
    _grant: SocketGrant,
}

impl PortPair {
    fn bind(addresses: Addresses, supply: &Supply, urgent: bool) -> Result<PortPair, BindError> {
        let ip = addresses.first();
        let pools = &supply.pools;
        for _ in 0..BIND_TRIES {
            let grant = supply.sockets.take(2 * addresses.iter().count(), urgent).ok_or(BindError::Sockets)?;
            let taken = pools.lock().unwrap_or_else(PoisonError::into_inner).take(ip, urgent, Instant::now());
            let port = taken.ok_or(BindError::Exhausted(ip))?;
            // From here on the pair goes back to the pool however this ends.
            let mut pair = PortPair { v4: None, v6: None, ip, port, pools: Arc::clone(pools), _grant: grant };
            match pair.fill(addresses) {
                Ok(()) => return Ok(pair),
                Err((_, e)) if e.kind() == io::ErrorKind::AddrInUse => {}
                Err((ip, e)) => return Err(BindError::Io(ip, e)),
            }
        }
        Err(BindError::Busy(ip))
    }

    fn fill(&mut self, addresses: Addresses) -> Result<(), (IpAddr, io::Error)> {
        for ip in addresses.iter() {
            let pair = Pair::bind(ip, self.port).map_err(|e| (ip, e))?;
            *(if ip.is_ipv4() { &mut self.v4 } else { &mut self.v6 }) = Some(pair);
        }
        Ok(())
    }

    fn of(&self, family: Family) -> Option<&Pair> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

impl Drop for PortPair {
    fn drop(&mut self) {
        // Closed first: the next owner must be able to bind.
        (self.v4, self.v6) = (None, None);
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).release(self.ip, self.port, Instant::now());
    }
}

/// Of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

fn bind_udp(ip: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, port)), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Marking is a courtesy of the network: a kernel that refuses it still forwards.
    let _ = match ip {
        IpAddr::V4(_) => socket.set_tos_v4(DSCP_EF),
        IpAddr::V6(_) => socket.set_tclass_v6(DSCP_EF),
    };
    socket.bind(&SocketAddr::new(ip, port).into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Forward it. `latched`: the RTP source is new.
    Forward { kind: PacketKind, latched: bool },
    /// From a source that is not heard.
    Foreign,
    /// Neither RTP nor RTCP.
    Invalid,
}

/// One side of one stream.
#[derive(Debug)]
pub(super) struct Leg {
    pair: PortPair,
    rtp: Latch,
    rtcp: Latch,
    mux: bool,
    carries: Carries,
}

impl Leg {
    pub(super) fn bind(addresses: Addresses, supply: &Supply, urgent: bool, guard: Duration) -> Result<Leg, BindError> {
        let pair = PortPair::bind(addresses, supply, urgent)?;
        Ok(Leg { pair, rtp: Latch::new(guard), rtcp: Latch::new(guard), mux: false, carries: Carries::default() })
    }

    /// Our RTP port.
    pub(super) fn port(&self) -> u16 {
        self.pair.port
    }

    /// `None`: the realm has no address of that family.
    pub(super) fn socket(&self, family: Family, channel: Channel) -> Option<&UdpSocket> {
        Some(self.pair.of(family)?.socket(channel))
    }

    pub(super) fn socket_mut(&mut self, family: Family, channel: Channel) -> Option<&mut UdpSocket> {
        let pair = match family {
            Family::V4 => self.pair.v4.as_mut()?,
            Family::V6 => self.pair.v6.as_mut()?,
        };
        Some(match channel {
            Channel::Rtp => &mut pair.rtp,
            Channel::Rtcp => &mut pair.rtcp,
        })
    }

    /// Where RTP of the far end comes from, once it has come.
    pub(super) fn source(&self) -> Option<SocketAddr> {
        self.rtp.source()
    }

    /// Sets where the far end said that it is.
    pub(super) fn signal(&mut self, remote: Option<StreamRemote>) {
        let said = |place, r: StreamRemote| Signalled { place, description: r.description, latching: r.latching };
        self.rtp.signal(remote.map(|r| said(r.rtp, r)));
        self.rtcp.signal(remote.map(|r| said(r.rtcp, r)));
        self.mux = remote.is_some_and(|r| r.rtcp_mux);
        self.carries = remote.map_or(self.carries, |r| r.carries);
    }

    /// Judges a packet from the far end and moves the latches.
    pub(super) fn admit(&mut self, channel: Channel, packet: &[u8], source: SocketAddr, now: Instant) -> Admission {
        let Some(kind) = classify(self.carries, channel, self.mux, packet) else { return Admission::Invalid };
        let verdict = match (kind, channel) {
            (PacketKind::Rtp | PacketKind::Opaque(Channel::Rtp), _) => {
                let verdict = self.rtp.admit(source, now);
                if verdict == Verdict::Latched {
                    self.check_rtcp_source();
                }
                verdict
            }
            // RFC 5761: one source for both; RTCP alone does not latch the stream.
            (PacketKind::Rtcp, Channel::Rtp) if self.rtp.hears(source) => Verdict::Accept,
            (PacketKind::Rtcp, Channel::Rtp) => Verdict::Drop,
            (_, Channel::Rtcp) if self.is_plausible_rtcp(source) => self.rtcp.admit(source, now),
            (_, Channel::Rtcp) => Verdict::Drop,
            (PacketKind::Opaque(Channel::Rtcp), Channel::Rtp) => Verdict::Drop,
        };
        match verdict {
            Verdict::Drop => Admission::Foreign,
            Verdict::Accept => Admission::Forward { kind, latched: false },
            Verdict::Latched => Admission::Forward { kind, latched: channel == Channel::Rtp },
        }
    }

    /// The socket and the address by which a packet of `kind` leaves to the far end; `None`: it is not sent.
    pub(super) fn route(&self, kind: PacketKind) -> Option<(&UdpSocket, SocketAddr)> {
        let (channel, target) = match kind {
            // Only to who expects such.
            PacketKind::Opaque(_) if self.carries == Carries::Rtp => return None,
            PacketKind::Rtcp | PacketKind::Opaque(Channel::Rtcp) if !self.mux => (Channel::Rtcp, self.rtcp.target()?),
            PacketKind::Rtp | PacketKind::Rtcp | PacketKind::Opaque(_) => (Channel::Rtp, self.rtp.target()?),
        };
        Some((self.socket(Family::of(target.ip()), channel)?, target))
    }

    /// RTCP comes from the host that sends the RTP, or from where it was signalled.
    fn is_plausible_rtcp(&self, source: SocketAddr) -> bool {
        self.rtp.source().is_none_or(|rtp| rtp.ip() == source.ip()) || self.rtcp.address() == Some(source)
    }

    /// RTP found its source: an RTCP source from before that cannot be the same far end is forgotten.
    fn check_rtcp_source(&mut self) {
        if self.rtcp.source().is_some_and(|source| !self.is_plausible_rtcp(source)) {
            self.rtcp.reopen();
        }
    }
}
