//! Against a small DNS server on loopback.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex as StdMutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{NAPTR, SRV};
use hickory_resolver::proto::rr::{Name, Record};
use tokio::net::UdpSocket;

use super::*;

type Zone = HashMap<(String, RecordType), Vec<RData>>;

struct Server {
    addr: SocketAddr,
    silent: Arc<AtomicBool>,
    /// It answers questions for addresses only, SERVFAIL to others.
    poor: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    names: Arc<StdMutex<Vec<String>>>,
}

async fn serve(zone: Zone) -> Server {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let s = Server {
        addr: socket.local_addr().unwrap(),
        silent: Arc::default(),
        poor: Arc::default(),
        asked: Arc::default(),
        names: Arc::default(),
    };
    let (silent, asked, names) = (Arc::clone(&s.silent), Arc::clone(&s.asked), Arc::clone(&s.names));
    let poor = Arc::clone(&s.poor);
    tokio::spawn(async move {
        let mut buf = [0; 1500];
        while let Ok((n, from)) = socket.recv_from(&mut buf).await {
            asked.fetch_add(1, Ordering::SeqCst);
            let query = Message::from_vec(&buf[..n]).unwrap();
            let q = query.queries[0].clone();
            let name = q.name().to_string().to_ascii_lowercase();
            names.lock().unwrap().push(name.clone());
            if silent.load(Ordering::SeqCst) {
                continue;
            }
            let mut response = Message::response(query.metadata.id, query.metadata.op_code);
            response.add_query(q.clone());
            let address = matches!(q.query_type(), RecordType::A | RecordType::AAAA);
            match zone.get(&(name.clone(), q.query_type())) {
                _ if poor.load(Ordering::SeqCst) && !address => response.metadata.response_code = ResponseCode::ServFail,
                Some(data) => {
                    response.add_answers(data.iter().map(|d| Record::from_rdata(q.name().clone(), 1, d.clone())));
                }
                None if zone.keys().any(|(n, _)| *n == name) => {}
                None => response.metadata.response_code = ResponseCode::NXDomain,
            }
            socket.send_to(&response.to_vec().unwrap(), from).await.unwrap();
        }
    });
    s
}

fn name(s: &str) -> Name {
    s.parse().unwrap()
}

fn zone() -> Zone {
    let a = |ip: &str| RData::from(ip.parse::<IpAddr>().unwrap());
    let naptr = |order, preference, service: &[u8], to: &str| {
        let none = Vec::new().into_boxed_slice();
        RData::NAPTR(NAPTR::new(order, preference, b"s".to_vec().into(), service.into(), none, name(to)))
    };
    let srv = |p, w, port, t: &str| RData::SRV(SRV::new(p, w, port, name(t)));
    HashMap::from([
        (("one.test.".into(), RecordType::A), vec![a("127.0.0.1")]),
        (("two.test.".into(), RecordType::A), vec![a("127.0.0.2")]),
        (("two.test.".into(), RecordType::AAAA), vec![a("::2")]),
        (("_sip._udp.trunk.test.".into(), RecordType::SRV), vec![srv(20, 0, 5070, "one.test."), srv(10, 0, 5080, "two.test.")]),
        (("_sips._tcp.trunk.test.".into(), RecordType::SRV), vec![srv(1, 0, 5091, "one.test.")]),
        (
            ("naptr.test.".into(), RecordType::NAPTR),
            vec![
                naptr(20, 1, b"SIP+D2U", "_sip._udp.trunk.test."),
                naptr(10, 2, b"SIP+D2T", "tcp.elsewhere.test."),
                naptr(10, 1, b"SIP+D2S", "_sip._sctp.trunk.test."),
                naptr(30, 1, b"SIPS+D2T", "_sips._tcp.trunk.test."),
            ],
        ),
        (("tcp.elsewhere.test.".into(), RecordType::SRV), vec![srv(1, 0, 5062, "one.test.")]),
        (("_sip._tcp.naptr.test.".into(), RecordType::SRV), vec![srv(1, 0, 5069, "one.test.")]),
        (("_sip._udp.tcponly.test.".into(), RecordType::SRV), vec![srv(0, 0, 0, ".")]),
        (("_sip._tcp.tcponly.test.".into(), RecordType::SRV), vec![srv(1, 0, 5060, "one.test.")]),
    ])
}

fn ask(host: &str, port: Option<u16>, transport: TransportChoice) -> ResolveRequest {
    ResolveRequest { target: HostAndPort { host: host.into(), port }, transport }
}

fn at(addr: &str, transport: Transport) -> Target {
    Target { addr: addr.parse().unwrap(), transport }
}

#[tokio::test]
async fn literals_ask_nobody() {
    let server = serve(Zone::new()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    let any = TransportChoice::Any;
    assert_eq!(r.resolve(ask("127.0.0.9", None, any)).await, Ok(vec![at("127.0.0.9:5060", Transport::Udp)]));
    let secure = TransportChoice::Secure;
    assert_eq!(r.resolve(ask("::1", None, secure)).await, Ok(vec![at("[::1]:5061", Transport::Tls)]));
    let tcp = TransportChoice::Fixed(Transport::Tcp);
    assert_eq!(r.resolve(ask("[::1]", Some(5999), tcp)).await, Ok(vec![at("[::1]:5999", Transport::Tcp)]));
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn names_go_by_srv_and_by_address() {
    let server = serve(zone()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    let any = TransportChoice::Any;
    // By priority; the first host has both families.
    let by_srv = r.resolve(ask("trunk.test", None, any)).await.unwrap();
    assert_eq!(by_srv.len(), 3);
    assert_eq!(by_srv[2], at("127.0.0.1:5070", Transport::Udp));
    assert!(by_srv[..2].contains(&at("127.0.0.2:5080", Transport::Udp)));
    assert!(by_srv[..2].contains(&at("[::2]:5080", Transport::Udp)));
    let secure = r.resolve(ask("trunk.test", None, TransportChoice::Secure)).await;
    assert_eq!(secure, Ok(vec![at("127.0.0.1:5091", Transport::Tls)]));
    // UDP is declared not to be offered: TCP.
    assert_eq!(r.resolve(ask("tcponly.test", None, any)).await, Ok(vec![at("127.0.0.1:5060", Transport::Tcp)]));
    // NAPTR: by order, what we do not speak left out, and `sips:` by TLS only.
    let by_naptr = r.resolve(ask("naptr.test", None, any)).await.unwrap();
    assert_eq!(by_naptr[0], at("127.0.0.1:5062", Transport::Tcp));
    assert_eq!(by_naptr[3], at("127.0.0.1:5070", Transport::Udp));
    assert_eq!(by_naptr[4..], [at("127.0.0.1:5091", Transport::Tls)]);
    let secure = r.resolve(ask("naptr.test", None, TransportChoice::Secure)).await;
    assert_eq!(secure, Ok(vec![at("127.0.0.1:5091", Transport::Tls)]));
    // A transport that is given makes NAPTR superfluous.
    let tcp = TransportChoice::Fixed(Transport::Tcp);
    assert_eq!(r.resolve(ask("naptr.test", None, tcp)).await, Ok(vec![at("127.0.0.1:5069", Transport::Tcp)]));
    // A port: no SRV is asked for.
    let before = server.names.lock().unwrap().len();
    assert_eq!(r.resolve(ask("one.test", Some(5066), any)).await, Ok(vec![at("127.0.0.1:5066", Transport::Udp)]));
    assert!(server.names.lock().unwrap()[before..].iter().all(|n| !n.ends_with("._udp.one.test.")));
    // No SRV: address and default port.
    let tls = TransportChoice::Fixed(Transport::Tls);
    assert_eq!(r.resolve(ask("one.test", None, tls)).await, Ok(vec![at("127.0.0.1:5061", Transport::Tls)]));
    assert_eq!(r.resolve(ask("nowhere.test", None, any)).await, Err(ResolveError::NotFound));
    assert_eq!(r.resolve(ask("a..b", Some(1), any)).await, Err(ResolveError::NotFound));
}

/// RFC 3263 §4.2: who cannot tell of services can still tell an address, and so can the hosts file while no server answers.
#[tokio::test]
async fn a_server_that_fails_at_srv_still_has_addresses() {
    let server = serve(zone()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    server.poor.store(true, Ordering::SeqCst);
    let any = TransportChoice::Any;
    assert_eq!(r.resolve(ask("one.test", None, any)).await, Ok(vec![at("127.0.0.1:5060", Transport::Udp)]));
    // Not found is said by a server that could tell.
    assert_eq!(r.resolve(ask("nowhere.test", None, any)).await, Err(ResolveError::Unavailable));
    server.silent.store(true, Ordering::SeqCst);
    let targets = r.resolve(ask("localhost", None, any)).await.unwrap();
    assert!(targets.iter().all(|t| t.addr.ip().is_loopback() && t.transport == Transport::Udp), "{targets:?}");
}

#[tokio::test]
async fn an_outage_is_served_from_old_answers() {
    let server = serve(zone()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    let request = || ask("naptr.test", None, TransportChoice::Secure);
    let expected = Ok(vec![at("127.0.0.1:5091", Transport::Tls)]);
    assert_eq!(r.resolve(request()).await, expected);
    server.silent.store(true, Ordering::SeqCst);
    let asked = server.asked.load(Ordering::SeqCst);
    // The records live for a second; no server answers from now on. NAPTR, SRV and address wait once each, a little.
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let started = Instant::now();
    assert_eq!(r.resolve(request()).await, expected);
    assert!(started.elapsed() < SERVER_LIMIT * 2, "a hung server holds nobody who has an answer: {:?}", started.elapsed());
    assert!(server.asked.load(Ordering::SeqCst) > asked, "stale: asked again, in vain");
    // The outage is known once the questions have failed; then nobody waits at all.
    let known = async {
        loop {
            let started = Instant::now();
            assert_eq!(r.resolve(request()).await, expected);
            if started.elapsed() < STALE_WAIT {
                return;
            }
        }
    };
    timeout(QUERY_LIMIT * 2, known).await.expect("the outage is known now");
    let started = Instant::now();
    let unknown = r.resolve(ask("two.test", None, TransportChoice::Any)).await;
    assert_eq!(unknown, Err(ResolveError::Unavailable));
    assert!(started.elapsed() < LOOK_UP_LIMIT + SERVER_LIMIT, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_question_is_asked_once_for_all() {
    let server = serve(zone()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    let request = || r.resolve(ask("one.test", Some(5060), TransportChoice::Any));
    for answer in futures::future::join_all((0..50).map(|_| request())).await {
        assert_eq!(answer, Ok(vec![at("127.0.0.1:5060", Transport::Udp)]));
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 2, "A and AAAA");
    // Near the end of its time it is used still, and asked for behind the back.
    tokio::time::sleep(TTL_MIN * 4 / 5).await;
    assert!(request().await.is_ok());
    let renewed = async {
        while server.asked.load(Ordering::SeqCst) < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(5), renewed).await.expect("renewed in the background");
}

#[tokio::test]
async fn the_hosts_file_counts() {
    let server = serve(Zone::new()).await;
    let r = Resolver::new(&DnsConfig { servers: vec![server.addr], ..DnsConfig::default() }).unwrap();
    let targets = r.resolve(ask("localhost", Some(5060), TransportChoice::Any)).await.unwrap();
    assert!(targets.iter().all(|t| t.addr.ip().is_loopback()));
}
