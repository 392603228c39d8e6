//! The engine on real sockets of 127.0.42.0/24. Each test has an address of its own, so that they run side by side.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sbc_core::ids::MediaId;
use sbc_core::io::{
    Addresses, Carries, MediaCommand, MediaEvent, MediaStats, Place, Realm, Side, SideHeard, StreamPorts, StreamRemote,
};
use tokio::sync::mpsc;

use super::{MAX_STREAMS, MediaConfig, MediaEngine, MediaHandle, MediaKind};

/// Longer than anything here takes, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(10);
const REALMS: [Realm; 2] = [Realm::External, Realm::Core];

struct Bench {
    external: IpAddr,
    core: IpAddr,
    phones: IpAddr,
    handle: MediaHandle,
    events: mpsc::Receiver<MediaEvent>,
    config: MediaConfig,
}

impl Bench {
    fn start(n: u8, range: (u16, u16), guard: Duration, threads: usize) -> Bench {
        Bench::with_events(n, range, guard, threads, 1_024)
    }

    /// Test `n` has 127.0.42.n, .n+1 (engine) and .n+2 (phones).
    fn with_events(n: u8, port_range: (u16, u16), guard_window: Duration, threads: usize, capacity: usize) -> Bench {
        let [external, core, phones] = [0, 1, 2].map(|i| IpAddr::from([127, 0, 42, n + i]));
        let config = MediaConfig {
            kind: MediaKind::Embedded,
            external: external.into(),
            core: core.into(),
            port_range,
            sockets: 100_000,
            threads,
            guard_window,
        };
        let (tx, events) = mpsc::channel(capacity);
        let handle = MediaEngine::start(&config, &tx).unwrap();
        Bench { external, core, phones, handle, events, config }
    }

    fn with_sockets(n: u8, range: (u16, u16), sockets: usize) -> Bench {
        let mut bench = Bench::start(n, range, GUARD, 1);
        let (tx, events) = mpsc::channel(1_024);
        let config = MediaConfig { sockets, ..bench.config };
        (bench.handle, bench.events, bench.config) = (MediaEngine::start(&config, &tx).unwrap(), events, config);
        bench
    }

    fn event(&mut self) -> MediaEvent {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.events.try_recv() {
                Ok(event) => return event,
                Err(_) => assert!(Instant::now() < end, "no event"),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn order_open(&self, media: u64, first: u8, count: u8) {
        self.handle.command(MediaCommand::Open { media: MediaId(media), first, count, realms: REALMS, urgent: false }).unwrap();
    }

    fn open(&mut self, media: u64, first: u8, count: u8) -> Vec<StreamPorts> {
        self.order_open(media, first, count);
        loop {
            match self.event() {
                MediaEvent::Opened { media: m, first: f, ports } if m.0 == media && f == first => return ports,
                // Of a source that was heard before, and that the test did not ask for.
                MediaEvent::Latched { .. } => {}
                other => panic!("not opened: {other:?}"),
            }
        }
    }

    fn open_failure(&mut self, media: u64, first: u8, count: u8) -> Box<str> {
        self.order_open(media, first, count);
        match self.event() {
            MediaEvent::OpenFailed { media: m, reason } if m.0 == media => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn remote(&self, media: u64, side: Side, remote: Option<StreamRemote>) {
        self.handle.command(MediaCommand::Remote { media: MediaId(media), stream: 0, side, remote }).unwrap();
    }

    /// Orders are carried out in turn: when this one is answered, those before it are done.
    fn settle(&mut self, media: u64) {
        self.open(media, 0, 1);
    }

    fn close(&mut self, media: u64) -> MediaStats {
        self.handle.command(MediaCommand::Close { media: MediaId(media) }).unwrap();
        match self.event() {
            MediaEvent::Closed { media: m, stats } if m.0 == media => stats,
            other => panic!("not closed: {other:?}"),
        }
    }

    fn latched(&mut self, media: u64, side: Side, source: SocketAddr) {
        let want = MediaEvent::Latched { media: MediaId(media), stream: 0, side, source };
        assert_eq!(self.event(), want);
    }

    fn no_event(&mut self) {
        if let Ok(event) = self.events.try_recv() {
            panic!("unexpected {event:?}");
        }
    }

    fn stats(&self, media: u64) -> MediaStats {
        self.handle.stats(MediaId(media)).unwrap()
    }

    fn wait(&self, media: u64, what: &str, holds: impl Fn(&MediaStats) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(&self.stats(media)) {
            assert!(Instant::now() < end, "{what}: {:?}", self.stats(media));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn phone(&self) -> Phone {
        Phone::new(self.phones)
    }
}

/// A far end: an RTP and an RTCP socket, on any two ports.
struct Phone {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

impl Phone {
    fn new(ip: IpAddr) -> Phone {
        let bind = || {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        Phone { rtp: bind(), rtcp: bind() }
    }

    fn rtp_addr(&self) -> SocketAddr {
        self.rtp.local_addr().unwrap()
    }

    fn remote(&self, rtcp_mux: bool) -> Option<StreamRemote> {
        let rtcp = if rtcp_mux { self.rtp_addr() } else { self.rtcp.local_addr().unwrap() };
        Some(StreamRemote {
            rtp: Place::At(self.rtp_addr()),
            rtcp: Place::At(rtcp),
            rtcp_mux,
            description: 0,
            carries: Carries::Rtp,
            latching: true,
        })
    }

    /// The same in another description.
    fn again(&self, description: u32) -> Option<StreamRemote> {
        self.remote(false).map(|r| StreamRemote { description, ..r })
    }

    /// The same with other packets.
    fn carrying(&self, carries: Carries) -> Option<StreamRemote> {
        self.remote(false).map(|r| StreamRemote { carries, ..r })
    }

    /// The same from a far end that is where it says.
    fn fixed(&self) -> Option<StreamRemote> {
        self.remote(false).map(|r| StreamRemote { latching: false, ..r })
    }
}

fn rtp(sequence: u16) -> Vec<u8> {
    let mut p = vec![0x80, 0];
    p.extend(sequence.to_be_bytes());
    p.extend([0, 0, 0, 160, 0xca, 0xfe, 0xba, 0xbe]);
    p.resize(172, 0xd5);
    p
}

fn rtcp(ssrc: u8) -> Vec<u8> {
    vec![0x80, 201, 0, 1, 0, 0, 0, ssrc]
}

#[track_caller]
fn expect(socket: &UdpSocket, packet: &[u8], from: (IpAddr, u16)) {
    let mut buffer = [0; 3_000];
    let (n, source) = socket.recv_from(&mut buffer).expect("a packet within PATIENCE");
    assert_eq!((&buffer[..n], source), (packet, SocketAddr::from(from)));
}

#[track_caller]
fn expect_nothing(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv_from(&mut [0; 3_000]);
    socket.set_nonblocking(false).unwrap();
    assert!(got.is_err(), "unexpected packet {got:?}");
}

const GUARD: Duration = MediaConfig::GUARD_WINDOW;

#[test]
fn both_directions_rtp_and_rtcp() {
    let mut b = Bench::start(1, (20_000, 20_099), GUARD, 2);
    let (x, p) = (b.phone(), b.phone());
    let ports = b.open(7, 0, 1)[0];
    assert_eq!((ports.caller % 2, ports.callee % 2), (0, 0));
    b.remote(7, Side::Caller, x.remote(false));
    b.remote(7, Side::Callee, p.remote(false));
    b.settle(7);

    x.rtp.send_to(&rtp(1), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(1), (b.core, ports.callee));
    b.latched(7, Side::Caller, x.rtp_addr());
    p.rtp.send_to(&rtp(2), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(2), (b.external, ports.caller));
    b.latched(7, Side::Callee, p.rtp_addr());
    x.rtcp.send_to(&rtcp(3), (b.external, ports.caller + 1)).unwrap();
    expect(&p.rtcp, &rtcp(3), (b.core, ports.callee + 1));
    p.rtcp.send_to(&rtcp(4), (b.core, ports.callee + 1)).unwrap();
    expect(&x.rtcp, &rtcp(4), (b.external, ports.caller + 1));

    // Neither RTP nor RTCP, too long: dropped, counted, not forwarded before the packet that follows.
    x.rtp.send_to(b"\0\x01\0\0\x21\x12\xa4\x42stun", (b.external, ports.caller)).unwrap();
    x.rtp.send_to(b"", (b.external, ports.caller)).unwrap();
    x.rtp.send_to(&[0x80; 2_049], (b.external, ports.caller)).unwrap();
    x.rtp.send_to(&[0x80; 2_048], (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &[0x80; 2_048], (b.core, ports.callee));
    x.rtcp.send_to(&rtp(5), (b.external, ports.caller + 1)).unwrap();
    b.wait(7, "RTP on the RTCP port is dropped", |s| s.caller.dropped == 4);
    b.no_event();

    b.handle.command(MediaCommand::Ask { media: MediaId(7) }).unwrap();
    let heard = |phone: &Phone, packets| SideHeard { packets, source: Some(phone.rtp_addr()) };
    assert_eq!(b.event(), MediaEvent::Heard { media: MediaId(7), caller: heard(&x, 3), callee: heard(&p, 2) });
    let stats = b.close(7);
    assert_eq!((stats.caller.rtp_packets, stats.caller.rtp_octets), (2, 172 + 2_048));
    assert_eq!((stats.caller.rtcp_packets, stats.caller.dropped), (1, 4));
    assert_eq!((stats.callee.rtp_packets, stats.callee.rtcp_packets, stats.callee.dropped), (1, 1, 0));
    assert_eq!(b.handle.stats(MediaId(7)), None);
    let totals = b.handle.totals();
    assert_eq!((totals.rtp_forwarded, totals.rtcp_forwarded, totals.dropped_invalid), (3, 2, 4));
    assert_eq!((totals.sessions, totals.streams), (0, 0));
}

#[test]
fn rtcp_mux_on_either_side() {
    let mut b = Bench::start(4, (20_000, 20_099), GUARD, 1);
    let (x, p) = (b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, x.remote(true));
    b.remote(1, Side::Callee, p.remote(false));
    b.settle(1);
    // mux → no mux and back
    x.rtp.send_to(&rtcp(1), (b.external, ports.caller)).unwrap();
    expect(&p.rtcp, &rtcp(1), (b.core, ports.callee + 1));
    p.rtcp.send_to(&rtcp(2), (b.core, ports.callee + 1)).unwrap();
    expect(&x.rtp, &rtcp(2), (b.external, ports.caller));
    // mux → mux
    b.remote(1, Side::Callee, p.remote(true));
    b.settle(1);
    x.rtp.send_to(&rtcp(3), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtcp(3), (b.core, ports.callee));
    // RTCP latched nothing; RTP still does, and RTCP from elsewhere is then foreign.
    b.no_event();
    let nat = b.phone();
    nat.rtp.send_to(&rtp(4), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(4), (b.core, ports.callee));
    b.latched(1, Side::Caller, nat.rtp_addr());
    x.rtp.send_to(&rtcp(5), (b.external, ports.caller)).unwrap();
    b.wait(1, "foreign RTCP is dropped", |s| s.caller.dropped == 1);
    assert_eq!(b.stats(1).caller.rtcp_packets, 2);
    assert_eq!(b.stats(1).callee.rtcp_packets, 1);
}

#[test]
fn nat_latches_and_foreign_sources_are_dropped() {
    // Nobody of another host is heard in this test's time but the signalled one.
    let mut b = Bench::start(7, (20_000, 20_099), Duration::from_secs(3_600), 1);
    let (signalled, x, p, foreign) = (b.phone(), b.phone(), b.phone(), Phone::new([127, 0, 42, 251].into()));
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, signalled.remote(false));
    b.remote(1, Side::Callee, p.remote(false));
    b.settle(1);
    // Until a packet is seen, the signalled address gets the media.
    p.rtp.send_to(&rtp(1), (b.core, ports.callee)).unwrap();
    expect(&signalled.rtp, &rtp(1), (b.external, ports.caller));
    b.latched(1, Side::Callee, p.rtp_addr());
    // Then the observed source.
    x.rtp.send_to(&rtp(2), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(2), (b.core, ports.callee));
    b.latched(1, Side::Caller, x.rtp_addr());
    foreign.rtp.send_to(&rtp(66), (b.external, ports.caller)).unwrap();
    foreign.rtp.send_to(&rtp(67), (b.external, ports.caller)).unwrap();
    b.wait(1, "foreign packets are dropped", |s| s.caller.dropped == 2);
    p.rtp.send_to(&rtp(3), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(3), (b.external, ports.caller));
    expect_nothing(&p.rtp);
    expect_nothing(&signalled.rtp);
    // RTCP follows the latched host's own port.
    x.rtcp.send_to(&rtcp(4), (b.external, ports.caller + 1)).unwrap();
    expect(&p.rtcp, &rtcp(4), (b.core, ports.callee + 1));
    p.rtcp.send_to(&rtcp(5), (b.core, ports.callee + 1)).unwrap();
    expect(&x.rtcp, &rtcp(5), (b.external, ports.caller + 1));
    // RTCP of another host is not the far end's.
    let elsewhere = Phone::new([127, 0, 42, 250].into());
    elsewhere.rtcp.send_to(&rtcp(6), (b.external, ports.caller + 1)).unwrap();
    b.wait(1, "foreign RTCP is dropped", |s| s.caller.dropped == 3);
    b.no_event();
}

#[test]
fn signalled_source_wins_within_the_guard_window_and_a_change_reopens() {
    // The window cannot end during the test.
    let mut b = Bench::start(10, (20_000, 20_099), Duration::from_secs(3_600), 1);
    let (x, p, attacker) = (b.phone(), b.phone(), Phone::new([127, 0, 42, 252].into()));
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, x.remote(false));
    b.remote(1, Side::Callee, p.remote(false));
    b.settle(1);
    attacker.rtp.send_to(&rtp(1), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(1), (b.core, ports.callee));
    b.latched(1, Side::Caller, attacker.rtp_addr());
    x.rtp.send_to(&rtp(2), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(2), (b.core, ports.callee));
    b.latched(1, Side::Caller, x.rtp_addr());
    attacker.rtp.send_to(&rtp(3), (b.external, ports.caller)).unwrap();
    b.wait(1, "the attacker lost the latch", |s| s.caller.dropped == 1);
    p.rtp.send_to(&rtp(4), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(4), (b.external, ports.caller));
    b.latched(1, Side::Callee, p.rtp_addr());

    // The same address again (a session refresh) leaves the latch; another one opens it.
    b.remote(1, Side::Caller, x.remote(false));
    b.settle(1);
    attacker.rtp.send_to(&rtp(5), (b.external, ports.caller)).unwrap();
    b.wait(1, "a refresh does not open the latch", |s| s.caller.dropped == 2);
    let y = Phone::new([127, 0, 42, 253].into());
    b.remote(1, Side::Caller, y.remote(false));
    b.settle(1);
    p.rtp.send_to(&rtp(6), (b.core, ports.callee)).unwrap();
    expect(&y.rtp, &rtp(6), (b.external, ports.caller));
    y.rtp.send_to(&rtp(7), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(7), (b.core, ports.callee));
    b.latched(1, Side::Caller, y.rtp_addr());
    x.rtp.send_to(&rtp(8), (b.external, ports.caller)).unwrap();
    b.wait(1, "the old address is foreign now", |s| s.caller.dropped == 3);
    b.no_event();
    b.settle(1);
    assert_eq!(b.handle.totals().dropped_foreign, 3);
}

/// AC-54: the NAT before the caller forgets its mapping in mid-call.
#[test]
fn a_new_port_is_heard_when_the_old_one_is_silent() {
    let mut b = Bench::start(73, (20_000, 20_099), GUARD, 1);
    let (signalled, x, y, z, p) = (b.phone(), b.phone(), b.phone(), b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, signalled.remote(false));
    b.remote(1, Side::Callee, p.remote(false));
    b.settle(1);
    x.rtp.send_to(&rtp(1), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(1), (b.core, ports.callee));
    b.latched(1, Side::Caller, x.rtp_addr());
    // The first packets of the new port may come too soon.
    let end = Instant::now() + PATIENCE;
    while b.stats(1).caller.rtp_packets < 2 {
        assert!(Instant::now() < end, "never heard again");
        y.rtp.send_to(&rtp(2), (b.external, ports.caller)).unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    b.latched(1, Side::Caller, y.rtp_addr());
    p.rtp.send_to(&rtp(3), (b.core, ports.callee)).unwrap();
    expect(&y.rtp, &rtp(3), (b.external, ports.caller));
    b.latched(1, Side::Callee, p.rtp_addr());
    // Another description with the same address: whoever is next is heard at once, and until then the old source gets the media.
    b.remote(1, Side::Caller, signalled.again(1));
    b.settle(1);
    p.rtp.send_to(&rtp(4), (b.core, ports.callee)).unwrap();
    expect(&y.rtp, &rtp(4), (b.external, ports.caller));
    z.rtp.send_to(&rtp(5), (b.external, ports.caller)).unwrap();
    b.latched(1, Side::Caller, z.rtp_addr());
    p.rtp.send_to(&rtp(6), (b.core, ports.callee)).unwrap();
    expect(&z.rtp, &rtp(6), (b.external, ports.caller));
}

/// RFC 3264 §5.1: a PSAP that sends from another port than it listens on.
#[test]
fn without_latching_media_go_where_the_description_says() {
    let mut b = Bench::start(76, (20_000, 20_099), GUARD, 1);
    let (x, p, sender) = (b.phone(), b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, x.remote(false));
    b.remote(1, Side::Callee, p.fixed());
    b.settle(1);
    sender.rtp.send_to(&rtp(1), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(1), (b.external, ports.caller));
    b.latched(1, Side::Callee, sender.rtp_addr());
    sender.rtcp.send_to(&rtcp(2), (b.core, ports.callee + 1)).unwrap();
    expect(&x.rtcp, &rtcp(2), (b.external, ports.caller + 1));
    x.rtp.send_to(&rtp(3), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(3), (b.core, ports.callee));
    x.rtcp.send_to(&rtcp(4), (b.external, ports.caller + 1)).unwrap();
    expect(&p.rtcp, &rtcp(4), (b.core, ports.callee + 1));
}

/// RFC 7983, RFC 5764: handshakes on both ports of a stream, before and beside its media.
#[test]
fn dtls_and_stun_cross_where_they_were_described() {
    let mut b = Bench::start(85, (20_000, 20_099), GUARD, 1);
    let (nat, x, p) = (b.phone(), b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, x.carrying(Carries::DtlsRtp));
    b.remote(1, Side::Callee, p.carrying(Carries::DtlsRtp));
    b.settle(1);
    let (hello, stun) = ([[22, 254, 253].as_slice(), &[7; 90]].concat(), b"\0\x01\0\0\x21\x12\xa4\x42stun".to_vec());
    // From behind a NAT: the handshake latches, as there is nothing else before it ends.
    nat.rtp.send_to(&hello, (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &hello, (b.core, ports.callee));
    b.latched(1, Side::Caller, nat.rtp_addr());
    p.rtp.send_to(&hello, (b.core, ports.callee)).unwrap();
    expect(&nat.rtp, &hello, (b.external, ports.caller));
    p.rtp.send_to(&stun, (b.core, ports.callee)).unwrap();
    expect(&nat.rtp, &stun, (b.external, ports.caller));
    nat.rtcp.send_to(&hello, (b.external, ports.caller + 1)).unwrap();
    expect(&p.rtcp, &hello, (b.core, ports.callee + 1));
    nat.rtp.send_to(&rtp(1), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(1), (b.core, ports.callee));
    // Neither toward who did not say that it takes such, nor from there.
    b.remote(1, Side::Callee, p.again(1));
    b.settle(1);
    nat.rtp.send_to(&hello, (b.external, ports.caller)).unwrap();
    nat.rtp.send_to(&rtp(2), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(2), (b.core, ports.callee));
    p.rtp.send_to(&stun, (b.core, ports.callee)).unwrap();
    b.wait(1, "STUN beside plain RTP is dropped", |s| s.callee.dropped == 1);
}

/// T.38, BFCP: any datagram, one port.
#[test]
fn other_datagrams_cross_untouched() {
    let mut b = Bench::start(88, (20_000, 20_099), GUARD, 1);
    let (x, p) = (b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    b.remote(1, Side::Caller, x.carrying(Carries::Datagrams));
    b.remote(1, Side::Callee, p.carrying(Carries::Datagrams));
    b.settle(1);
    for datagram in [&b"\0\x01\x01\x06\0\0"[..], b"x", b"", &[0x80; 300]] {
        x.rtp.send_to(datagram, (b.external, ports.caller)).unwrap();
        expect(&p.rtp, datagram, (b.core, ports.callee));
        p.rtp.send_to(datagram, (b.core, ports.callee)).unwrap();
        expect(&x.rtp, datagram, (b.external, ports.caller));
    }
    x.rtcp.send_to(b"x", (b.external, ports.caller + 1)).unwrap();
    b.wait(1, "there is no second port", |s| s.caller.dropped == 1);
    assert_eq!((b.stats(1).caller.rtp_packets, b.handle.totals().other_forwarded), (4, 8));
}

#[test]
fn hold_and_rejected_streams() {
    let mut b = Bench::start(13, (20_000, 20_099), GUARD, 1);
    let (x, p) = (b.phone(), b.phone());
    let ports = b.open(1, 0, 1)[0];
    // Early media of the called party before its SDP is heard, the caller's has nowhere to go.
    b.remote(1, Side::Caller, x.remote(false));
    b.settle(1);
    p.rtp.send_to(&rtp(1), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(1), (b.external, ports.caller));
    x.rtp.send_to(&rtp(2), (b.external, ports.caller)).unwrap();
    b.latched(1, Side::Caller, x.rtp_addr());
    assert_eq!(b.handle.totals().unroutable, 1);
    // Old hold: 0.0.0.0. It keeps sending (music), gets nothing.
    let zero = |port| Place::At(SocketAddr::from(([0, 0, 0, 0], port)));
    let held = StreamRemote {
        rtp: zero(4_000),
        rtcp: zero(4_001),
        rtcp_mux: false,
        description: 1,
        carries: Carries::Rtp,
        latching: true,
    };
    b.remote(1, Side::Callee, Some(held));
    b.settle(1);
    p.rtp.send_to(&rtp(3), (b.core, ports.callee)).unwrap();
    expect(&x.rtp, &rtp(3), (b.external, ports.caller));
    b.latched(1, Side::Callee, p.rtp_addr());
    x.rtp.send_to(&rtp(4), (b.external, ports.caller)).unwrap();
    b.wait(1, "received under hold", |s| s.caller.rtp_packets == 2);
    // Resumed.
    b.remote(1, Side::Callee, p.remote(false));
    b.settle(1);
    x.rtp.send_to(&rtp(5), (b.external, ports.caller)).unwrap();
    expect(&p.rtp, &rtp(5), (b.core, ports.callee));
    // Off: nothing to it, nothing from it.
    b.remote(1, Side::Callee, None);
    b.settle(1);
    x.rtp.send_to(&rtp(6), (b.external, ports.caller)).unwrap();
    p.rtp.send_to(&rtp(7), (b.core, ports.callee)).unwrap();
    b.wait(1, "off", |s| s.caller.rtp_packets == 4 && s.callee.dropped == 1);
    expect_nothing(&p.rtp);
    expect_nothing(&x.rtp);
    b.settle(1);
    assert_eq!(b.handle.totals().unroutable, 3);
}

#[test]
fn open_is_idempotent_and_adds_streams() {
    let mut b = Bench::start(16, (20_000, 20_099), GUARD, 1);
    let first = b.open(1, 0, 2);
    assert_eq!(b.open(1, 0, 2), first);
    let all = b.open(1, 1, 3);
    assert_eq!(all.len(), 3);
    assert_eq!(all[0], first[1]);
    let mut ports: Vec<u16> = b.open(1, 0, 4).iter().map(|p| p.caller).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 4);
    assert_eq!((b.handle.totals().sessions, b.handle.totals().streams), (1, 4));
    for (first, count) in [(0, 0), (0, MAX_STREAMS + 1), (MAX_STREAMS, 1), (255, 255)] {
        assert!(b.open_failure(1, first, count).contains("streams"));
    }
    assert_eq!(b.open(1, 0, MAX_STREAMS).len(), usize::from(MAX_STREAMS));
    b.remote(99, Side::Caller, None);
    assert_eq!(b.close(99), MediaStats::default());
    assert_eq!(b.handle.totals().remote_ignored, 1);
}

#[test]
fn exhaustion_rolls_back_and_a_released_pair_rests() {
    // Three pairs on each address.
    let mut b = Bench::start(19, (20_000, 20_005), GUARD, 2);
    b.open(1, 0, 2);
    assert!(b.open_failure(2, 0, 2).contains("no free media port"));
    // What session 2 had taken went back (and rests), session 1 is untouched.
    assert_eq!((b.handle.totals().sessions, b.handle.totals().streams), (1, 2));
    assert_eq!(b.handle.stats(MediaId(2)), None);
    assert!(b.open_failure(2, 0, 1).contains("no free media port"));
    let ports = b.open(1, 0, 1)[0];
    b.close(1);
    // The sockets are closed, by another thread: somebody else can have the port, though the engine lets it rest.
    let end = Instant::now() + PATIENCE;
    while let Err(error) = UdpSocket::bind((b.external, ports.caller)) {
        assert!(Instant::now() < end, "the socket stays open: {error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(b.open_failure(3, 0, 1).contains("no free media port"));
    assert_eq!(b.handle.totals().open_failed, 3);
    let end = Instant::now() + PATIENCE;
    loop {
        b.order_open(3, 0, 3);
        match b.event() {
            MediaEvent::Opened { ports, .. } => return assert_eq!(ports.len(), 3),
            _ => assert!(Instant::now() < end, "rested pairs come back"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Neither ports nor descriptors run out for the next emergency call because ordinary ones came before.
#[test]
fn the_last_ports_and_sockets_are_for_emergency_calls() {
    // 16 pairs, 2 of them kept; then sockets for 8 sessions, 1 of them kept.
    for (n, sockets, ordinary, urgent) in [(91, 100_000, 14, 2), (94, 32, 7, 1)] {
        let mut b = Bench::with_sockets(n, (20_000, 20_031), sockets);
        let open = |b: &mut Bench, media, urgent| {
            b.handle.command(MediaCommand::Open { media: MediaId(media), first: 0, count: 1, realms: REALMS, urgent }).unwrap();
            matches!(b.event(), MediaEvent::Opened { .. })
        };
        assert_eq!((0..20).filter(|i| open(&mut b, *i, false)).count(), ordinary, "ordinary calls");
        assert_eq!((20..30).filter(|i| open(&mut b, *i, true)).count(), urgent, "emergency calls");
        assert_eq!(b.handle.room().refused, 30 - ordinary as u64 - urgent as u64);
        assert!(b.handle.room().pairs.1 == 0 || b.handle.room().sockets.1 == 0);
        // One that ends makes room for one, of its own kind.
        b.close(0);
        assert!(!open(&mut b, 40, false));
        assert!(open(&mut b, 41, true), "a pair that rests is better than none");
    }
}

#[test]
fn ports_of_other_processes_are_passed_over() {
    let mut b = Bench::start(22, (20_000, 20_007), GUARD, 1);
    // One even and one odd port are somebody else's: two pairs of four are left.
    let _others = [20_000, 20_005].map(|port| UdpSocket::bind((b.external, port)).unwrap());
    let mut callers = [b.open(1, 0, 1)[0].caller, b.open(2, 0, 1)[0].caller];
    callers.sort_unstable();
    assert_eq!(callers, [20_002, 20_006]);
    assert!(b.open_failure(3, 0, 1).contains("no free media port"));
}

/// A port toward the caller is open on both families: whichever it speaks, it and a PSAP by IPv4 hear each other.
#[test]
fn a_realm_of_both_families() {
    let (v4, v6) = (IpAddr::from([127, 0, 42, 80]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
    let core = IpAddr::from([127, 0, 42, 81]);
    let (tx, events) = mpsc::channel(16);
    let config = MediaConfig {
        kind: MediaKind::Embedded,
        external: Addresses::pair(v4, v6).unwrap(),
        core: core.into(),
        port_range: (20_000, 20_099),
        sockets: 100_000,
        threads: 1,
        guard_window: Duration::ZERO,
    };
    let handle = MediaEngine::start(&config, &tx).unwrap();
    let mut b = Bench { external: v4, core, phones: core, handle, events, config };
    for (media, own) in [(1, v4), (2, v6)] {
        let ports = b.open(media, 0, 1)[0];
        let caller = UdpSocket::bind((if own.is_ipv4() { core } else { v6 }, 0)).unwrap();
        let psap = UdpSocket::bind((core, 0)).unwrap();
        let at = |socket: &UdpSocket| {
            let rtp = socket.local_addr().unwrap();
            let rtcp = Place::new(Some(rtp.ip()), rtp.port() ^ 1);
            Some(StreamRemote {
                rtp: Place::At(rtp),
                rtcp,
                rtcp_mux: false,
                description: 0,
                carries: Carries::Rtp,
                latching: true,
            })
        };
        b.remote(media, Side::Caller, at(&caller));
        b.remote(media, Side::Callee, at(&psap));
        b.settle(media);
        caller.send_to(&rtp(1), (own, ports.caller)).unwrap();
        expect(&psap, &rtp(1), (core, ports.callee));
        psap.send_to(&rtp(2), (core, ports.callee)).unwrap();
        expect(&caller, &rtp(2), (own, ports.caller));
        let other = if own.is_ipv4() { v6 } else { v4 };
        assert!(UdpSocket::bind((other, ports.caller)).is_err(), "it is open there, too");
        b.handle.command(MediaCommand::Close { media: MediaId(media) }).unwrap();
        while !matches!(b.event(), MediaEvent::Closed { .. }) {}
        drop(UdpSocket::bind((other, ports.caller)).unwrap());
    }
}

#[test]
fn an_address_that_is_not_ours_is_a_failure_with_its_reason() {
    let (tx, events) = mpsc::channel(16);
    let config = MediaConfig {
        kind: MediaKind::Embedded,
        external: IpAddr::from([198, 51, 100, 1]).into(),
        core: IpAddr::from([127, 0, 42, 25]).into(),
        port_range: (20_000, 20_099),
        sockets: 100_000,
        threads: 1,
        guard_window: GUARD,
    };
    let handle = MediaEngine::start(&config, &tx).unwrap();
    let [external, core] = [config.external.first(), config.core.first()];
    let mut b = Bench { external, core, phones: core, handle, events, config };
    let reason = b.open_failure(1, 0, 1);
    assert!(reason.contains("198.51.100.1"), "{reason}");
}

#[test]
fn two_hundred_sessions_at_once() {
    let mut b = Bench::start(28, (20_000, 20_999), GUARD, 2);
    const CALLS: u16 = 200;
    let count = u64::from(CALLS);
    for media in 0..count {
        b.order_open(media, 0, 1);
    }
    let mut ports = BTreeMap::new();
    for _ in 0..CALLS {
        match b.event() {
            MediaEvent::Opened { media, ports: p, .. } => assert_eq!(ports.insert(media.0, p[0]), None),
            other => panic!("{other:?}"),
        }
    }
    let ports: Vec<StreamPorts> = ports.into_values().collect();
    // All calls share two phones' sockets; the sequence number says which call a packet is of.
    let (x, p) = (b.phone(), b.phone());
    for media in 0..count {
        b.remote(media, Side::Caller, x.remote(false));
        b.remote(media, Side::Callee, p.remote(false));
        b.settle(media);
    }
    // Sixteen at a time: a phone's socket buffer holds them.
    let calls: Vec<u16> = (0..CALLS).collect();
    for batch in calls.chunks(16) {
        for &n in batch {
            x.rtp.send_to(&rtp(n), (b.external, ports[usize::from(n)].caller)).unwrap();
        }
        for _ in batch {
            let mut buffer = [0; 200];
            let (len, from) = p.rtp.recv_from(&mut buffer).unwrap();
            let n = u16::from_be_bytes([buffer[2], buffer[3]]);
            assert_eq!(from, SocketAddr::from((b.core, ports[usize::from(n)].callee)));
            p.rtp.send_to(&buffer[..len], from).unwrap();
            let (_, from) = x.rtp.recv_from(&mut buffer).unwrap();
            let n = u16::from_be_bytes([buffer[2], buffer[3]]);
            assert_eq!(from, SocketAddr::from((b.external, ports[usize::from(n)].caller)));
        }
    }
    let totals = b.handle.totals();
    assert_eq!((totals.sessions, totals.streams, totals.dropped_foreign), (count, count, 0));
    let end = Instant::now() + PATIENCE;
    while b.handle.totals().rtp_forwarded != 2 * count {
        assert!(Instant::now() < end, "{:?}", b.handle.totals());
    }
    for _ in 0..2 * CALLS {
        assert!(matches!(b.event(), MediaEvent::Latched { .. }));
    }
    for media in 0..count {
        let stats = b.close(media);
        assert_eq!((stats.caller.rtp_packets, stats.callee.rtp_packets), (1, 1));
    }
    assert_eq!(b.handle.totals().sessions, 0);
}

#[test]
fn a_reader_that_stands_still_loses_no_answer_and_stops_no_packet() {
    let mut b = Bench::with_events(31, (20_000, 20_199), GUARD, 1, 1);
    let (x, p) = (b.phone(), b.phone());
    let ports = b.open(0, 0, 1)[0];
    b.remote(0, Side::Caller, x.remote(false));
    b.remote(0, Side::Callee, p.remote(false));
    b.settle(0);
    for media in 1..=40 {
        b.order_open(media, 0, 1);
    }
    // The channel has room for one answer and nobody reads.
    for n in 0..50 {
        x.rtp.send_to(&rtp(n), (b.external, ports.caller)).unwrap();
        expect(&p.rtp, &rtp(n), (b.core, ports.callee));
    }
    let mut opened = Vec::new();
    let mut latched = 0;
    while opened.len() < 40 {
        match b.event() {
            MediaEvent::Opened { media, .. } => opened.push(media.0),
            MediaEvent::Latched { .. } => latched += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(opened, (1..=40).collect::<Vec<u64>>());
    assert_eq!((latched, b.handle.totals().events_dropped), (1, 0));
}

#[test]
fn a_full_queue_refuses_all_but_close() {
    let mut b = Bench::with_events(34, (20_000, 20_099), GUARD, 1, 512);
    // Nobody reads the answers: when the channel is full and one more waits, no order is carried out.
    b.open(1, 0, 1);
    let mut taken = 0;
    let refused = loop {
        match b.handle.command(MediaCommand::Open { media: MediaId(1), first: 0, count: 1, realms: REALMS, urgent: false }) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 4 * super::COMMAND_QUEUE, "the queue has a limit");
    };
    assert!(taken >= super::COMMAND_QUEUE);
    assert!(matches!(refused.into_event(), MediaEvent::OpenFailed { media: MediaId(1), .. }));
    b.handle.command(MediaCommand::Close { media: MediaId(1) }).unwrap();
    for _ in 0..taken {
        assert!(matches!(b.event(), MediaEvent::Opened { .. }));
    }
    assert!(matches!(b.event(), MediaEvent::Closed { .. }));
    assert!(b.handle.totals().commands_refused >= 1);
}

#[test]
fn shutdown_frees_the_ports_and_refuses_orders() {
    let mut b = Bench::start(37, (20_000, 20_099), GUARD, 2);
    let ports = b.open(1, 0, 1)[0];
    assert!(UdpSocket::bind((b.external, ports.caller)).is_err());
    b.handle.shutdown();
    drop(UdpSocket::bind((b.external, ports.caller)).unwrap());
    assert_eq!((b.handle.totals().sessions, b.handle.stats(MediaId(1))), (0, None));
    let refused = b.handle.command(MediaCommand::Close { media: MediaId(1) }).unwrap_err();
    assert_eq!(refused.reason, "media engine is down");
    b.handle.shutdown();
}

#[test]
fn the_last_handle_ends_the_engine() {
    let mut b = Bench::start(40, (20_000, 20_099), GUARD, 1);
    let ports = b.open(1, 0, 1)[0];
    let external = b.external;
    let clone = b.handle.clone();
    drop(b);
    assert!(UdpSocket::bind((external, ports.caller)).is_err());
    drop(clone);
    drop(UdpSocket::bind((external, ports.caller)).unwrap());
}

#[test]
fn the_none_engine_refuses_every_order() {
    let (tx, _events) = mpsc::channel(16);
    let config = MediaConfig {
        kind: MediaKind::None,
        external: IpAddr::from([127, 0, 42, 43]).into(),
        core: IpAddr::from([127, 0, 42, 43]).into(),
        port_range: (0, 0),
        sockets: 0,
        threads: 0,
        guard_window: GUARD,
    };
    let handle = MediaEngine::start(&config, &tx).unwrap();
    let open = MediaCommand::Open { media: MediaId(5), first: 0, count: 1, realms: REALMS, urgent: false };
    let event = handle.command(open).unwrap_err().into_event();
    assert_eq!(event, MediaEvent::OpenFailed { media: MediaId(5), reason: "media engine is off".into() });
    assert_eq!((handle.stats(MediaId(5)), handle.totals()), (None, super::MediaTotals::default()));
}

#[test]
fn a_live_engine_says_so_as_often_as_it_is_asked() {
    let bench = Bench::start(70, (40_000, 40_010), Duration::ZERO, 2);
    let asked = Instant::now();
    // Longer than a stuck thread is given: an idle one must have answered.
    while asked.elapsed() < Duration::from_millis(2_200) {
        assert!(bench.handle.is_alive());
        std::thread::sleep(Duration::from_millis(100));
    }
    bench.handle.shutdown();
    assert!(!bench.handle.is_alive());
}
