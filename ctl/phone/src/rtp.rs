//! Real RTP of a phone: speaks 50 packets a second, or echoes what it hears (RFC 3550, PCMU of RFC 3551).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::lock;

/// Samples of 20 ms at 8 kHz, one octet each.
const SAMPLES: usize = 160;
/// Payload type (RFC 3551 §6).
const PCMU: u8 = 0;
/// 50 packets a second.
const PERIOD: Duration = Duration::from_millis(20);
/// Tries to find an even port whose neighbour is free too.
const BIND_TRIES: usize = 64;
/// Returned sequence numbers that are told apart: 2^16, all there are. 8 KiB a phone.
const SEQUENCES: usize = 65_536;

/// A packet of 20 ms of silence in µ-law (RFC 3550 §5.1). `kind`: marker and payload type.
pub fn packet(kind: u8, sequence: u16, timestamp: u32, ssrc: u32) -> [u8; 12 + SAMPLES] {
    let mut packet = [0xff; 12 + SAMPLES];
    packet[..2].copy_from_slice(&[0x80, kind]);
    packet[2..4].copy_from_slice(&sequence.to_be_bytes());
    packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}

/// What a phone's stream has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtpStats {
    /// Packets sent (by an echo: returned).
    pub sent: u64,
    /// RTP packets received.
    pub received: u64,
    /// Of those, the ones that repeated a sequence number of this stream.
    pub duplicates: u64,
    /// Datagrams that were not RTP.
    pub invalid: u64,
    /// Where the last packet came from.
    pub last_source: Option<SocketAddr>,
    /// The longest silence between two packets received.
    pub longest_gap: Duration,
    /// Time since the last packet received.
    pub silent_for: Option<Duration>,
}

impl RtpStats {
    /// Packets sent and not returned, while an echo answers; some 20 ms of them are on their way.
    pub fn missing(&self) -> u64 {
        self.sent.saturating_sub(self.received - self.duplicates)
    }

    /// Sums counters; gaps and sources are those of the worse and the later one.
    pub(crate) fn absorb(&mut self, other: &RtpStats) {
        self.sent += other.sent;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.invalid += other.invalid;
        self.last_source = other.last_source.or(self.last_source);
        self.longest_gap = self.longest_gap.max(other.longest_gap);
        self.silent_for = match (self.silent_for, other.silent_for) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// What the stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RtpMode {
    /// Sends to the remote address and counts what returns.
    Talk,
    /// Returns each packet to where it came from.
    Echo,
    /// Only counts.
    Listen,
}

#[derive(Debug)]
struct Shared {
    socket: UdpSocket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    remote: Option<SocketAddr>,
    sends: bool,
    stats: RtpStats,
    last: Option<Instant>,
    seen: Box<[u64]>,
}

/// One stream; ends when dropped.
#[derive(Debug)]
pub(crate) struct RtpSession {
    shared: Arc<Shared>,
    /// Holds the odd port: RTCP that arrives is not answered with an ICMP error.
    _rtcp: UdpSocket,
    tasks: Vec<JoinHandle<()>>,
}

impl RtpSession {
    /// Binds a port pair on `ip` and starts. It sends once it has a remote address and a direction that sends.
    pub(crate) async fn start(ip: IpAddr, mode: RtpMode) -> io::Result<RtpSession> {
        let (socket, rtcp) = bind_pair(ip).await?;
        let seen = vec![0; SEQUENCES / 64].into_boxed_slice();
        let state = State { remote: None, sends: mode == RtpMode::Echo, stats: RtpStats::default(), last: None, seen };
        let shared = Arc::new(Shared { socket, state: Mutex::new(state) });
        let mut tasks = vec![tokio::spawn(receive(Arc::clone(&shared), mode))];
        if mode == RtpMode::Talk {
            tasks.push(tokio::spawn(talk(Arc::clone(&shared))));
        }
        Ok(RtpSession { shared, _rtcp: rtcp, tasks })
    }

    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Where to send, and whether.
    pub(crate) fn set(&self, remote: Option<SocketAddr>, sends: bool) {
        let mut state = lock(&self.shared.state);
        state.remote = remote;
        state.sends = sends;
    }

    pub(crate) fn stats(&self) -> RtpStats {
        let state = lock(&self.shared.state);
        RtpStats { silent_for: state.last.map(|t| t.elapsed()), ..state.stats }
    }
}

impl Drop for RtpSession {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn bind_pair(ip: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..BIND_TRIES {
        // The kernel picks a free port; its even number and the next must both be ours.
        let probe = UdpSocket::bind((ip, 0)).await?;
        let port = probe.local_addr()?.port() & !1;
        drop(probe);
        match (UdpSocket::bind((ip, port)).await, UdpSocket::bind((ip, port + 1)).await) {
            (Ok(rtp), Ok(rtcp)) => return Ok((rtp, rtcp)),
            (Err(e), _) | (_, Err(e)) => last = e,
        }
    }
    Err(last)
}

async fn receive(shared: Arc<Shared>, mode: RtpMode) {
    let mut buffer = [0; 2_048];
    loop {
        let Ok((n, source)) = shared.socket.recv_from(&mut buffer).await else {
            // An ICMP error of an earlier packet, handed over once; the pause keeps a broken socket from spinning.
            tokio::time::sleep(PERIOD).await;
            continue;
        };
        let packet = &buffer[..n];
        let echo = {
            let mut state = lock(&shared.state);
            state.on_packet(packet, source) && mode == RtpMode::Echo && state.sends
        };
        if echo && shared.socket.send_to(packet, source).await.is_ok() {
            lock(&shared.state).stats.sent += 1;
        }
    }
}

impl State {
    /// Counts a packet; true: it is RTP.
    fn on_packet(&mut self, packet: &[u8], source: SocketAddr) -> bool {
        if packet.len() < 12 || packet[0] >> 6 != 2 {
            self.stats.invalid += 1;
            return false;
        }
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.stats.longest_gap = self.stats.longest_gap.max(now - last);
        }
        self.stats.received += 1;
        self.stats.last_source = Some(source);
        let sequence = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let (word, bit) = (sequence / 64, 1 << (sequence % 64));
        if self.seen[word] & bit != 0 {
            self.stats.duplicates += 1;
        }
        self.seen[word] |= bit;
        // Half the circle ahead is forgotten, so that a number counts anew in the next round (22 minutes a round).
        self.seen[(word + SEQUENCES / 128) % (SEQUENCES / 64)] = 0;
        true
    }
}

async fn talk(shared: Arc<Shared>) {
    let ssrc = getrandom::u32().unwrap_or(1);
    let (mut sequence, mut timestamp) = (0_u16, 0_u32);
    let mut tick = tokio::time::interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let remote = {
            let state = lock(&shared.state);
            state.remote.filter(|_| state.sends)
        };
        timestamp = timestamp.wrapping_add(160);
        let Some(remote) = remote else { continue };
        // The marker on the first packet (RFC 3551 §4.1).
        let first = if sequence == 0 { 0x80 } else { 0 };
        let packet = packet(first | PCMU, sequence, timestamp, ssrc);
        if shared.socket.send_to(&packet, remote).await.is_ok() {
            lock(&shared.state).stats.sent += 1;
        }
        sequence = sequence.wrapping_add(1);
    }
}
