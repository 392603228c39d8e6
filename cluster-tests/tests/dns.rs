//! A trunk that is a name: RFC 3263 against a real DNS server, and what is left when that server is gone.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast};
use cluster_tests::command::{self, Running};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 53)), 5353);
/// Nobody is there; the zone prefers it.
const DEAD: &str = "127.0.2.9";
/// `failover_after`.
const FAILOVER: Duration = Duration::from_secs(2);
/// Time to live of all records.
const TTL: Duration = Duration::from_secs(1);

/// dnsmasq with NAPTR to UDP, SRV with the dead host before the PSAP, and a decoy for those who ask no NAPTR.
fn dns_server() -> Running {
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts", "--local=/test/"]);
    dnsmasq.args(["--bind-interfaces", "--except-interface=none"]);
    dnsmasq.arg(format!("--listen-address={}", DNS.ip())).arg(format!("--port={}", DNS.port()));
    dnsmasq.arg(format!("--local-ttl={}", TTL.as_secs()));
    dnsmasq.arg("--naptr-record=psap.test,20,10,s,SIP+D2U,,_sip._udp.desk.test");
    dnsmasq.arg("--naptr-record=psap.test,10,10,s,SIP+D2S,,_sip._sctp.desk.test");
    dnsmasq.arg("--srv-host=_sip._udp.psap.test,dead.test,5999,1,0");
    dnsmasq.arg("--srv-host=_sip._udp.desk.test,dead.test,5060,10,100");
    dnsmasq.arg(format!("--srv-host=_sip._udp.desk.test,alive.test,{},20,0", PSAP.port()));
    dnsmasq.arg(format!("--host-record=dead.test,{DEAD}")).arg(format!("--host-record=alive.test,{}", PSAP.ip()));
    command::spawn(&mut dnsmasq).expect("dnsmasq is there: deploy/setup.sh test installs it")
}

/// One whole call; returns how long it took to be answered.
fn call(cluster: &Cluster, scene: &mut Scene) -> Duration {
    let before = cluster.cdrs().len();
    let began = Instant::now();
    let mut call = scene.established(anycast());
    let took = began.elapsed();
    scene.hang_up(&mut call, anycast());
    cluster.settled(before + 1);
    took
}

#[test]
fn naptr_srv_a_dead_first_target_and_an_outage_of_the_dns() {
    let set = vec![format!("dns.servers=[\"{DNS}\"]")];
    let cluster = Cluster::start(Options { set, ..Options::with_own_psap() });
    let mut server = dns_server();
    wait::until("dnsmasq serves", Duration::from_secs(10), || {
        assert!(server.is_running(), "{}", server.stderr());
        UdpSocket::bind(DNS).map_or(Ok(()), |_| Err("the port is free"))
    });
    let config = cluster.config_text();
    let literal = format!("\"{PSAP};transport=udp\"");
    assert!(config.contains(&literal), "{config}");
    cluster.apply_config(&config.replace(&literal, "\"psap.test\""));
    let mut scene = Scene::new();

    let first = call(&cluster, &mut scene);
    assert!(first >= FAILOVER, "the dead host was not tried first: {first:?}");
    let second = call(&cluster, &mut scene);
    assert!(second < FAILOVER, "the dead host is held down: {second:?}");

    // The server is gone, and what has its port now never answers.
    drop(server);
    let hung = wait::until("the port is free", Duration::from_secs(10), || UdpSocket::bind(DNS));
    // Time itself is what is waited for: the records are too old after it.
    std::thread::sleep(TTL * 2);
    let third = call(&cluster, &mut scene);
    assert!(third < FAILOVER, "a hung server holds no call: {third:?}\n{}", cluster.logs());
    hung.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    assert!(hung.recv_from(&mut [0; 512]).is_ok(), "the server was asked in vain");
}

/// AC-30, RFC 3261 §18.1.1: an INVITE above 1300 octets goes by TCP first; where that fails, by UDP, and the next one at once.
#[test]
fn ac30_a_large_invite_goes_by_tcp_and_falls_back_to_udp() {
    let cluster = Cluster::start(Options::with_own_psap());
    let config = cluster.config_text();
    cluster.apply_config(&config.replace(&format!("\"{PSAP};transport=udp\""), &format!("\"{PSAP}\"")));
    let mut scene = Scene::new();
    let listener = TcpListener::bind(PSAP).expect("nobody has the port");
    let large = |scene: &Scene| scene.invite().with("X-Location", &"x".repeat(1300));

    let first = large(&scene);
    scene.caller.send(&first, anycast());
    listener.set_nonblocking(true).expect("a socket");
    let (mut stream, _) = wait::until("the node connects", Duration::from_secs(5), || listener.accept());
    stream.set_nonblocking(false).expect("a socket");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    let mut start = [0; 400];
    stream.read_exact(&mut start).expect("the INVITE is longer");
    let start = String::from_utf8_lossy(&start).into_owned();
    assert!(start.starts_with("INVITE ") && start.contains("Via: SIP/2.0/TCP "), "{start}");
    // It never answers there: UDP.
    let (by_udp, from) = scene.psap.expect_request("INVITE");
    assert!(by_udp.header("Via").starts_with("SIP/2.0/UDP "), "{by_udp:?}");
    scene.psap.send(&by_udp.response(486, "Busy Here", "psap"), from);
    assert_eq!(scene.caller.expect_final(&first).0.status(), 486);
    drop(listener);

    let second = large(&scene);
    let began = Instant::now();
    scene.caller.send(&second, anycast());
    let (by_udp, from) = scene.psap.expect_request("INVITE");
    assert!(began.elapsed() < FAILOVER, "TCP there is held down: {:?}", began.elapsed());
    scene.psap.send(&by_udp.response(486, "Busy Here", "psap"), from);
    assert_eq!(scene.caller.expect_final(&second).0.status(), 486);
}
