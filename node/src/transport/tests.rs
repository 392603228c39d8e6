//! The transport against plain sockets on loopback. Each test has addresses of its own: 127/8 by process and test.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sbc_core::io::{Addresses, Path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::*;

/// No condition in these tests takes longer on a machine that works.
pub(super) const WAIT: Duration = Duration::from_secs(10);

pub(super) const OPTIONS: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n";
pub(super) const OK: &[u8] = b"SIP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n";

/// An address that no other test, and no other test process, uses.
pub(super) fn fresh_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 64 | (pid[2] & 63), pid[3], NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(super) struct Stand {
    pub(super) config: TransportConfig,
    pub(super) handle: TransportHandle,
    events: mpsc::Receiver<TransportEvent>,
}

pub(super) fn config() -> TransportConfig {
    TransportConfig {
        unicast: fresh_ip().into(),
        anycast: Some(fresh_ip().into()),
        core: fresh_ip().into(),
        external_ports: Ports::default(),
        core_ports: Ports::default(),
        anycast_mode: AnycastMode::OnDemand,
        tls: None,
        limits: Limits::default(),
    }
}

pub(super) async fn start(config: TransportConfig) -> Stand {
    start_with_queue(config, 100).await
}

async fn start_with_queue(config: TransportConfig, queue: usize) -> Stand {
    let (tx, events) = mpsc::channel(queue);
    let handle = Transport::start(config.clone(), tx).await.unwrap();
    Stand { config, handle, events }
}

/// Messages hold a place in a queue and are not compared; what else there is, is what it shows.
impl PartialEq for TransportEvent {
    fn eq(&self, other: &TransportEvent) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl Stand {
    /// The next event, but for what certificates say.
    pub(super) async fn event(&mut self) -> TransportEvent {
        loop {
            match self.any_event().await {
                TransportEvent::FlowProved { .. } => {}
                event => return event,
            }
        }
    }

    pub(super) async fn any_event(&mut self) -> TransportEvent {
        timeout(WAIT, self.events.recv()).await.expect("an event in time").expect("the transport runs")
    }

    pub(super) async fn received(&mut self) -> Arrived {
        match self.event().await {
            TransportEvent::Received(r) => r,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    pub(super) fn addr(&self, role: AddressRole, transport: Proto) -> SocketAddr {
        let ip = self.config.addresses(role).unwrap().first();
        SocketAddr::new(ip, self.config.port(role, transport))
    }

    pub(super) fn transmit(&self, role: AddressRole, transport: Proto, remote: SocketAddr, payload: &'static [u8]) -> Transmit {
        let path = Path { role, transport, local: self.addr(role, transport), remote, flow: None };
        Transmit { path, reopen: None, tls_name: None, payload: Bytes::from_static(payload), id: SendId(7) }
    }
}

pub(super) fn answer(request: &Arrived, payload: &'static [u8]) -> Transmit {
    Transmit { path: request.path, reopen: None, tls_name: None, payload: Bytes::from_static(payload), id: SendId(8) }
}

pub(super) async fn until(what: &str, mut f: impl FnMut() -> bool) {
    timeout(WAIT, async {
        while !f() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}

pub(super) async fn read_exactly(s: &mut (impl AsyncReadExt + Unpin), expected: &[u8]) {
    let mut buf = vec![0; expected.len()];
    timeout(WAIT, s.read_exact(&mut buf)).await.expect("in time").expect("octets");
    assert_eq!(String::from_utf8_lossy(&buf), String::from_utf8_lossy(expected));
}

#[tokio::test]
async fn udp_arrives_with_its_role_and_leaves_from_the_address_asked() {
    let mut t = start(config()).await;
    t.handle.bind_anycast().await.unwrap();
    let phone = UdpSocket::bind((fresh_ip(), 0)).await.unwrap();
    for role in [AddressRole::Anycast, AddressRole::Unicast, AddressRole::Core] {
        let to = t.addr(role, Proto::Udp);
        phone.send_to(OPTIONS, to).await.unwrap();
        let r = t.received().await;
        assert_eq!((r.path.role, r.path.local, r.path.remote), (role, to, phone.local_addr().unwrap()));
        assert_eq!(&r.payload[..], OPTIONS);
        t.handle.send(answer(&r, OK)).unwrap();
        let mut buf = [0; 2000];
        let (n, from) = timeout(WAIT, phone.recv_from(&mut buf)).await.unwrap().unwrap();
        assert_eq!((&buf[..n], from), (OK, to));
    }
    assert_eq!((t.handle.stats().udp.received.get(), t.handle.stats().udp.sent.get()), (3, 3));
}

#[tokio::test]
async fn udp_leaves_from_the_anycast_address_that_another_node_holds() {
    let t = start(config()).await;
    let holder = UdpSocket::bind(t.addr(AddressRole::Anycast, Proto::Udp)).await.unwrap();
    let phone = UdpSocket::bind((fresh_ip(), 0)).await.unwrap();
    t.handle.send(t.transmit(AddressRole::Anycast, Proto::Udp, phone.local_addr().unwrap(), OK)).unwrap();
    let mut buf = [0; 2000];
    let (n, from) = timeout(WAIT, phone.recv_from(&mut buf)).await.unwrap().unwrap();
    assert_eq!((&buf[..n], from), (OK, holder.local_addr().unwrap()));
}

#[tokio::test]
async fn udp_over_the_mtu_is_sent_and_over_64k_is_refused() {
    let t = start(config()).await;
    let phone = UdpSocket::bind((fresh_ip(), 0)).await.unwrap();
    let mut big = t.transmit(AddressRole::Unicast, Proto::Udp, phone.local_addr().unwrap(), OK);
    big.payload = Bytes::from(vec![b'x'; 65_000]);
    t.handle.send(big.clone()).unwrap();
    let mut buf = vec![0; 70_000];
    assert_eq!(timeout(WAIT, phone.recv_from(&mut buf)).await.unwrap().unwrap().0, 65_000);
    big.payload = Bytes::from(vec![b'x'; 65_600]);
    assert_eq!(t.handle.send(big), Err(SendFailure::Refused));
    assert_eq!(t.handle.stats().udp_send_errors.get(), 1);
}

#[tokio::test]
async fn udp_keep_alives_end_here_and_a_full_queue_drops() {
    let mut t = start_with_queue(config(), 1).await;
    let phone = UdpSocket::bind((fresh_ip(), 0)).await.unwrap();
    let to = t.addr(AddressRole::Unicast, Proto::Udp);
    let stats = t.handle.stats();
    for keep_alive in [&b"\r\n\r\n"[..], b"\r\n", b"\0\0\0\0", b""] {
        phone.send_to(keep_alive, to).await.unwrap();
    }
    until("keep-alives counted", || stats.keep_alives.get() == 4).await;
    for _ in 0..3 {
        phone.send_to(OPTIONS, to).await.unwrap();
    }
    until("drops counted", || stats.udp_queue_full.get() == 2).await;
    t.received().await;
    phone.send_to(OPTIONS, to).await.unwrap();
    t.received().await;
}

/// One role on both families: each far end is spoken to from the address of its own, and a family that is not served is refused.
#[tokio::test]
async fn one_role_has_an_address_of_each_family() {
    let v6: IpAddr = "::1".parse().unwrap();
    let mut c = config();
    (c.anycast, c.external_ports.sip) = (None, 0);
    c.unicast = Addresses::pair(fresh_ip(), v6).unwrap();
    let (tx, events) = mpsc::channel(10);
    let handle = loop {
        c.external_ports.sip = UdpSocket::bind((v6, 0)).await.unwrap().local_addr().unwrap().port();
        // A port that is free for UDP may be taken for TCP.
        if let Ok(handle) = Transport::start(c.clone(), tx.clone()).await {
            break handle;
        }
    };
    let mut t = Stand { config: c, handle, events };
    for ip in t.config.unicast.iter() {
        let own = SocketAddr::new(ip, t.config.external_ports.sip);
        let phone = UdpSocket::bind((if ip.is_ipv4() { fresh_ip() } else { v6 }, 0)).await.unwrap();
        phone.send_to(OPTIONS, own).await.unwrap();
        let r = t.received().await;
        assert_eq!((r.path.local, r.path.remote), (own, phone.local_addr().unwrap()));
        t.handle.send(answer(&r, OK)).unwrap();
        let mut buf = [0; 100];
        assert_eq!(timeout(WAIT, phone.recv_from(&mut buf)).await.unwrap().unwrap(), (OK.len(), own));
        let psap = TcpListener::bind(phone.local_addr().unwrap()).await.unwrap();
        t.handle.send(t.transmit(AddressRole::Unicast, Proto::Tcp, psap.local_addr().unwrap(), OPTIONS)).unwrap();
        let (mut s, from) = timeout(WAIT, psap.accept()).await.unwrap().unwrap();
        assert_eq!(from.ip(), ip);
        read_exactly(&mut s, OPTIONS).await;
        drop(s);
        assert!(matches!(t.event().await, TransportEvent::FlowClosed(_)));
    }
    for transport in [Proto::Udp, Proto::Tcp] {
        let to = t.transmit(AddressRole::Core, transport, (v6, 9).into(), OPTIONS);
        assert_eq!(t.handle.send(to), Err(SendFailure::Refused), "the core side has no IPv6");
    }
}

/// UDP and TCP over IPv6; there is only one loopback address, so each role has a port of its own.
#[tokio::test]
async fn ipv6_works_alike() {
    let ip: IpAddr = "::1".parse().unwrap();
    let mut c = config();
    (c.unicast, c.core, c.anycast) = (ip.into(), ip.into(), None);
    let free = || async {
        let udp = UdpSocket::bind((ip, 0)).await.unwrap();
        udp.local_addr().unwrap().port()
    };
    let (tx, events) = mpsc::channel(10);
    // A port that is free for UDP may be taken for TCP: look until both are.
    let handle = loop {
        c.external_ports.sip = free().await;
        c.core_ports.sip = free().await;
        if let Ok(handle) = Transport::start(c.clone(), tx.clone()).await {
            break handle;
        }
    };
    let mut t = Stand { config: c, handle, events };
    let phone = UdpSocket::bind((ip, 0)).await.unwrap();
    phone.send_to(OPTIONS, t.addr(AddressRole::Unicast, Proto::Udp)).await.unwrap();
    let r = t.received().await;
    t.handle.send(answer(&r, OK)).unwrap();
    let mut buf = [0; 2000];
    let (n, from) = timeout(WAIT, phone.recv_from(&mut buf)).await.unwrap().unwrap();
    assert_eq!((&buf[..n], from), (OK, r.path.local));
    let mut tcp = TcpStream::connect(t.addr(AddressRole::Core, Proto::Tcp)).await.unwrap();
    tcp.write_all(OPTIONS).await.unwrap();
    let r = t.received().await;
    assert_eq!(r.path.role, AddressRole::Core);
    t.handle.send(answer(&r, OK)).unwrap();
    read_exactly(&mut tcp, OK).await;
}

#[tokio::test]
async fn tcp_frames_pongs_and_answers_on_the_flow() {
    let mut t = start(config()).await;
    let mut phone = TcpStream::connect(t.addr(AddressRole::Unicast, Proto::Tcp)).await.unwrap();
    phone.write_all(b"\r\n\r\n").await.unwrap();
    read_exactly(&mut phone, b"\r\n").await;
    phone.write_all(&OPTIONS[..10]).await.unwrap();
    phone.write_all(&OPTIONS[10..]).await.unwrap();
    phone.write_all(&[OPTIONS, OPTIONS].concat()).await.unwrap();
    let first = t.received().await;
    for _ in 0..2 {
        let next = t.received().await;
        assert_eq!((next.path, &next.payload), (first.path, &first.payload));
        assert!(next.at >= first.at);
    }
    assert!(first.path.flow.is_some());
    assert_eq!(first.path.remote, phone.local_addr().unwrap());
    t.handle.send(answer(&first, OK)).unwrap();
    read_exactly(&mut phone, OK).await;
    // A response without the flow's id finds it by its far end; a request does not.
    let mut by_remote = answer(&first, OK);
    by_remote.path.flow = None;
    t.handle.send(by_remote.clone()).unwrap();
    read_exactly(&mut phone, OK).await;
    by_remote.payload = Bytes::from_static(OPTIONS);
    t.handle.send(by_remote).unwrap();
    assert_eq!(t.event().await, TransportEvent::SendFailed { id: SendId(8), reason: SendFailure::Refused });
    // Closing writes what is queued, then ends the stream.
    t.handle.send(answer(&first, OK)).unwrap();
    t.handle.close_flow(first.path.flow.unwrap());
    read_exactly(&mut phone, OK).await;
    assert_eq!(phone.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(t.event().await, TransportEvent::FlowClosed(first.path.flow.unwrap()));
    assert_eq!(t.handle.stats().flows_open.get(), 0);
}

#[tokio::test]
async fn tcp_what_is_not_sip_and_what_never_ends_is_closed() {
    let mut c = config();
    c.limits.message = Duration::from_millis(100);
    let mut t = start(c).await;
    let to = t.addr(AddressRole::Unicast, Proto::Tcp);
    let stats = t.handle.stats();
    let mut http = TcpStream::connect(to).await.unwrap();
    http.write_all(b"OPTIONS sip:a SIP/2.0\r\nContent-Length: x\r\n\r\n").await.unwrap();
    assert_eq!(timeout(WAIT, http.read(&mut [0; 10])).await.unwrap().unwrap_or(0), 0);
    assert!(matches!(t.event().await, TransportEvent::FlowClosed(_)));
    assert_eq!(stats.framing_errors.get(), 1);
    // Silent from the start, and silent in mid-message.
    let mut silent = TcpStream::connect(to).await.unwrap();
    assert_eq!(timeout(WAIT, silent.read(&mut [0; 10])).await.unwrap().unwrap(), 0);
    let mut slow = TcpStream::connect(to).await.unwrap();
    slow.write_all(OPTIONS).await.unwrap();
    slow.write_all(&OPTIONS[..5]).await.unwrap();
    assert_eq!(timeout(WAIT, slow.read(&mut [0; 10])).await.unwrap().unwrap(), 0);
    until("both timed out", || stats.timed_out.get() == 2).await;
    until("none left", || stats.flows_open.get() == 0).await;
}

/// RFC 3261 §18.3, §20.14: a message whose end cannot be found is answered, even where more of it follows, and then the connection ends.
#[tokio::test]
async fn tcp_answers_a_message_that_has_no_end() {
    let mut stand = start(config()).await;
    let mut s = TcpStream::connect(stand.addr(AddressRole::Unicast, Proto::Tcp)).await.expect("it listens");
    let bad =
        b"OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1;rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
        Call-ID: x\r\nCSeq: 1 OPTIONS\r\nContent-Length: -1\r\n\r\n";
    s.write_all(bad).await.expect("it is open");
    s.write_all(&[b'x'; 200_000]).await.expect("it is open");
    let mut answer = Vec::new();
    timeout(WAIT, s.read_to_end(&mut answer)).await.expect("it ends").expect("without a reset");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("SIP/2.0 400 Bad Content-Length\r\n") && text.contains(";received=127."), "{text}");
    stand.event().await;
}

#[tokio::test]
async fn tcp_limits_hold_per_source() {
    let mut c = config();
    c.limits.flows_per_source = 2;
    let t = start(c).await;
    let to = t.addr(AddressRole::Core, Proto::Tcp);
    let stats = t.handle.stats();
    let _a = TcpStream::connect(to).await.unwrap();
    let _b = TcpStream::connect(to).await.unwrap();
    until("two open", || stats.flows_open.get() == 2).await;
    let mut c = TcpStream::connect(to).await.unwrap();
    assert!(!matches!(timeout(WAIT, c.read(&mut [0; 1])).await.unwrap(), Ok(n) if n > 0));
    assert_eq!(stats.refused_source.get(), 1);
}

#[tokio::test]
async fn tcp_half_open_messages_hold_per_source() {
    let mut c = config();
    c.limits.half_open_per_source = 2;
    let mut t = start(c).await;
    let to = t.addr(AddressRole::Core, Proto::Tcp);
    let stats = t.handle.stats();
    let mut begun = Vec::new();
    for _ in 0..2 {
        let mut s = TcpStream::connect(to).await.unwrap();
        s.write_all(&OPTIONS[..20]).await.unwrap();
        begun.push(s);
    }
    // Whichever of the three is read last is one too many.
    let mut third = TcpStream::connect(to).await.unwrap();
    third.write_all(&OPTIONS[..20]).await.unwrap();
    begun.push(third);
    until("one is refused", || stats.refused_half_open.get() == 1).await;
    assert!(matches!(t.event().await, TransportEvent::FlowClosed(_)));
    for s in &mut begun {
        // A write to the one that was closed may fail; the others become whole, and make room.
        let _ = s.write_all(&OPTIONS[20..]).await;
    }
    for _ in 0..2 {
        t.received().await;
    }
    let mut s = TcpStream::connect(to).await.unwrap();
    s.write_all(&OPTIONS[..20]).await.unwrap();
    s.write_all(&OPTIONS[20..]).await.unwrap();
    t.received().await;
    assert_eq!(stats.refused_half_open.get(), 1);
}

/// Keep-alives keep a connection for a while; one that has carried a message stays.
#[tokio::test]
async fn tcp_keep_alives_alone_do_not_hold_a_connection() {
    let mut c = config();
    c.limits.idle_unused = Duration::from_millis(50);
    let mut t = start(c).await;
    let to = t.addr(AddressRole::Core, Proto::Tcp);
    let (mut unused, mut used) = (TcpStream::connect(to).await.unwrap(), TcpStream::connect(to).await.unwrap());
    used.write_all(OPTIONS).await.unwrap();
    let r = t.received().await;
    for s in [&mut unused, &mut used] {
        s.write_all(b"\r\n\r\n").await.unwrap();
        read_exactly(s, b"\r\n").await;
    }
    assert!(!matches!(timeout(WAIT, unused.read(&mut [0; 1])).await.unwrap(), Ok(n) if n > 0), "closed");
    assert!(matches!(t.event().await, TransportEvent::FlowClosed(id) if Some(id) != r.path.flow));
    t.handle.send(answer(&r, OK)).unwrap();
    read_exactly(&mut used, OK).await;
}

#[tokio::test]
async fn tcp_opens_from_the_right_address_reuses_and_reports() {
    let mut t = start(config()).await;
    let psap = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let remote = psap.local_addr().unwrap();
    t.handle.send(t.transmit(AddressRole::Core, Proto::Tcp, remote, OPTIONS)).unwrap();
    t.handle.send(t.transmit(AddressRole::Core, Proto::Tcp, remote, OPTIONS)).unwrap();
    let (mut s, from) = timeout(WAIT, psap.accept()).await.unwrap().unwrap();
    assert_eq!(from.ip(), t.config.core.first());
    read_exactly(&mut s, &[OPTIONS, OPTIONS].concat()).await;
    s.write_all(OK).await.unwrap();
    let r = t.received().await;
    assert_eq!((r.path.role, r.path.local), (AddressRole::Core, t.addr(AddressRole::Core, Proto::Tcp)));
    assert_eq!(t.handle.stats().opened.get(), 1);
    drop(s);
    assert_eq!(t.event().await, TransportEvent::FlowClosed(r.path.flow.unwrap()));
    // Its flow is gone: RFC 3261 §18.2.2, a new connection.
    t.handle.send(answer(&r, OK)).unwrap();
    let (mut s, _) = timeout(WAIT, psap.accept()).await.unwrap().unwrap();
    read_exactly(&mut s, OK).await;
    drop((s, psap));
    assert!(matches!(t.event().await, TransportEvent::FlowClosed(_)));
    t.handle.send(t.transmit(AddressRole::Core, Proto::Tcp, remote, OPTIONS)).unwrap();
    assert_eq!(t.event().await, TransportEvent::SendFailed { id: SendId(7), reason: SendFailure::Refused });
    let v6 = t.transmit(AddressRole::Core, Proto::Tcp, "[::1]:5060".parse().unwrap(), OPTIONS);
    assert_eq!(t.handle.send(v6), Err(SendFailure::Refused));
}

/// A far end that listens at one port, and has connected from another.
async fn connected(t: &Stand) -> (TcpListener, TcpStream) {
    let ip = fresh_ip();
    let listens = TcpListener::bind((ip, 0)).await.unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((ip, 0).into()).unwrap();
    let mut s = socket.connect(t.addr(AddressRole::Unicast, Proto::Tcp)).await.unwrap();
    s.write_all(OPTIONS).await.unwrap();
    (listens, s)
}

/// RFC 3261 §18.2.2: where the sender's connection is gone, its response goes to where its Via says that it listens.
#[tokio::test]
async fn tcp_a_response_outlives_its_connection_and_a_request_does_not() {
    let mut t = start(config()).await;
    let (listens, s) = connected(&t).await;
    let r = t.received().await;
    assert_ne!(r.path.remote, listens.local_addr().unwrap());
    drop(s);
    assert_eq!(t.event().await, TransportEvent::FlowClosed(r.path.flow.unwrap()));
    let mut ok = answer(&r, OK);
    ok.reopen = Some(listens.local_addr().unwrap());
    t.handle.send(ok.clone()).unwrap();
    let (mut s, _) = timeout(WAIT, listens.accept()).await.unwrap().unwrap();
    read_exactly(&mut s, OK).await;
    t.handle.send(ok).unwrap();
    read_exactly(&mut s, OK).await;
    assert_eq!(t.handle.stats().opened.get(), 1, "one connection for both");
    // Nobody knows where the far end takes requests but the core.
    assert_eq!(t.handle.send(answer(&r, OPTIONS)), Err(SendFailure::Refused));
    assert_eq!(t.handle.stats().connect_failures.get(), 0);
}

/// Ids begin again when a node starts: what another node remembers of an earlier start may name another far end's connection.
#[tokio::test]
async fn tcp_an_id_of_another_far_end_leads_nowhere() {
    let mut t = start(config()).await;
    let (listens, mut a) = connected(&t).await;
    let mine = t.received().await;
    let (_other, b) = connected(&t).await;
    let theirs = t.received().await;
    let mut request = answer(&theirs, OPTIONS);
    request.path.flow = mine.path.flow;
    assert_eq!(t.handle.send(request), Err(SendFailure::Refused));
    drop(b);
    assert!(matches!(t.event().await, TransportEvent::FlowClosed(_)));
    let mut ok = answer(&theirs, OK);
    (ok.path.flow, ok.reopen) = (mine.path.flow, Some(listens.local_addr().unwrap()));
    t.handle.send(ok).unwrap();
    let (mut s, _) = timeout(WAIT, listens.accept()).await.unwrap().unwrap();
    read_exactly(&mut s, OK).await;
    t.handle.send(answer(&mine, OPTIONS)).unwrap();
    read_exactly(&mut a, OPTIONS).await;
}

#[tokio::test]
async fn tcp_connect_times_out() {
    let mut c = config();
    c.limits.connect = Duration::from_millis(200);
    let mut t = start(c).await;
    // A listener that does not accept, its backlog full: further SYNs go unanswered.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(fresh_ip(), 0)).unwrap();
    let remote = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut fill = Vec::new();
    while let Ok(s) = timeout(Duration::from_millis(300), TcpStream::connect(remote)).await {
        fill.push(s);
        assert!(fill.len() < 10, "the backlog has no end");
    }
    t.handle.send(t.transmit(AddressRole::Unicast, Proto::Tcp, remote, OPTIONS)).unwrap();
    assert_eq!(t.event().await, TransportEvent::SendFailed { id: SendId(7), reason: SendFailure::TimedOut });
}

#[tokio::test]
async fn tcp_write_queue_is_bounded() {
    let mut c = config();
    c.limits.write_queue = 4;
    c.limits.write = Duration::from_millis(200);
    let mut t = start(c).await;
    // The far end accepts in the kernel and never reads.
    let psap = TcpListener::bind((fresh_ip(), 0)).await.unwrap();
    let mut big = t.transmit(AddressRole::Unicast, Proto::Tcp, psap.local_addr().unwrap(), OPTIONS);
    big.payload = Bytes::from(vec![b'x'; 16 << 20]);
    let mut congested = false;
    for _ in 0..100 {
        if t.handle.send(big.clone()) == Err(SendFailure::Congested) {
            congested = true;
            break;
        }
    }
    assert!(congested);
    assert_eq!(t.handle.stats().write_queue_full.get(), 1);
    // The write limit ends the connection, what is left is tried once more elsewhere, then reported.
    assert!(matches!(t.event().await, TransportEvent::SendFailed { .. } | TransportEvent::FlowClosed(_)));
}

#[tokio::test]
async fn anycast_is_exclusive_and_release_resets() {
    let mut a = start(config()).await;
    let mut shared = config();
    shared.anycast = a.config.anycast;
    let mut b = start(shared).await;
    assert_eq!(b.handle.probe_anycast().await.unwrap(), AnycastProbe::Free);
    a.handle.bind_anycast().await.unwrap();
    a.handle.bind_anycast().await.unwrap();
    assert_eq!(b.handle.probe_anycast().await.unwrap(), AnycastProbe::InUse);
    assert!(matches!(b.handle.bind_anycast().await, Err(BindError::InUse { .. })));
    let any = a.addr(AddressRole::Anycast, Proto::Tcp);
    let mut on_any = TcpStream::connect(any).await.unwrap();
    on_any.write_all(OPTIONS).await.unwrap();
    assert_eq!(a.received().await.path.role, AddressRole::Anycast);
    let mut on_unicast = TcpStream::connect(a.addr(AddressRole::Unicast, Proto::Tcp)).await.unwrap();
    on_unicast.write_all(OPTIONS).await.unwrap();
    let r = a.received().await;
    // Idle, with nothing sent yet: reset as well.
    let mut idle = TcpStream::connect(any).await.unwrap();
    a.handle.release_anycast().await;
    b.handle.bind_anycast().await.unwrap();
    for s in [&mut on_any, &mut idle] {
        let error = timeout(WAIT, s.read(&mut [0; 1])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    // The unicast connection lives.
    assert!(matches!(a.event().await, TransportEvent::FlowClosed(_)));
    a.handle.send(answer(&r, OK)).unwrap();
    read_exactly(&mut on_unicast, OK).await;
    let mut again = TcpStream::connect(any).await.unwrap();
    again.write_all(OPTIONS).await.unwrap();
    assert_eq!(b.received().await.path.local, any);
}

#[tokio::test]
async fn anycast_always_is_open_from_the_start_and_stays() {
    let mut c = config();
    c.anycast_mode = AnycastMode::Always;
    let mut t = start(c).await;
    t.handle.release_anycast().await;
    assert!(t.handle.anycast_bound());
    let phone = UdpSocket::bind((fresh_ip(), 0)).await.unwrap();
    phone.send_to(OPTIONS, t.addr(AddressRole::Anycast, Proto::Udp)).await.unwrap();
    assert_eq!(t.received().await.path.role, AddressRole::Anycast);
    t.handle.shutdown().await;
    UdpSocket::bind(t.addr(AddressRole::Anycast, Proto::Udp)).await.unwrap();
    UdpSocket::bind(t.addr(AddressRole::Core, Proto::Udp)).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_fails_the_start_and_leaves_nothing_bound() {
    let c = config();
    let (tx, _rx) = mpsc::channel(1);
    let (core, unicast) =
        (SocketAddr::new(c.core.first(), c.core_ports.sip), SocketAddr::new(c.unicast.first(), c.external_ports.sip));
    // What is taken is named as the configuration names it.
    let taken = UdpSocket::bind(core).await.unwrap();
    let error = Transport::start(c.clone(), tx.clone()).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), format!("the core address {core} (UDP) is in use by another process"));
    drop(taken);
    let taken = TcpListener::bind(unicast).await.unwrap();
    let error = Transport::start(c.clone(), tx.clone()).await.map(drop).unwrap_err();
    assert_eq!(error.to_string(), format!("the unicast address {unicast} (TCP) is in use by another process"));
    drop(taken);
    let nowhere = TransportConfig { core: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)).into(), ..c.clone() };
    let error = Transport::start(nowhere, tx.clone()).await.map(drop).unwrap_err().to_string();
    assert!(error.starts_with("cannot bind the core address 203.0.113.1:") && error.contains("(UDP)"), "{error}");
    Transport::start(c, tx).await.unwrap();
}

#[tokio::test]
async fn the_core_side_is_bound_until_the_shutdown() {
    let t = start(config()).await;
    assert!(t.handle.core_bound());
    t.handle.shutdown().await;
    assert!(!t.handle.core_bound());
}
