//! Where calls go: RFC 3263 against a real DNS server, the next target when one fails, and what is left when that server is gone.

use std::collections::HashSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, PSAP, SIPS_PORT, Shared, anycast, core, unicast};
use cluster_tests::dnsmasq::{self, DNS, Dnsmasq, TTL};
use cluster_tests::message::{Message, unique};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::stream::StreamPhone;
use cluster_tests::wait;

/// Nobody is there; a zone prefers it.
const DEAD: &str = "127.0.2.9";
/// `failover_after`.
const FAILOVER: Duration = Duration::from_secs(2);
/// A target that says at once that it cannot is left within this, on a busy machine too.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Calls for shares by weight.
const CALLS: usize = 200;

fn cluster() -> Shared {
    Cluster::shared(Options { set: vec![format!("dns.servers=[\"{DNS}\"]")], ..Options::with_own_psap() })
}

/// An emergency call whose From, which crosses, no other has.
fn invite(caller: &Phone) -> Message {
    let from = format!("<sip:{}@{}>;tag=1", unique("c"), caller.at());
    Message::invite("sip:112@127.0.0.100", caller.at(), "UDP").replace("From", &from)
}

/// A call that this phone turns away; returns how long it took to get there.
#[track_caller]
fn reaches(caller: &mut Phone, called: &mut Phone) -> Duration {
    let (invite, began) = (invite(caller), Instant::now());
    caller.send(&invite, anycast());
    called.turn_away(invite.uri("From"), 486, &[]);
    let took = began.elapsed();
    assert_eq!(caller.final_of(&invite).status(), 486);
    took
}

#[test]
fn naptr_srv_a_dead_first_target_and_an_outage_of_the_dns() {
    let cluster = cluster();
    // To UDP, with the dead host before the PSAP, and a decoy for those who ask no NAPTR.
    let server = Dnsmasq::start([
        "naptr-record=psap.test,20,10,s,SIP+D2U,,_sip._udp.desk.test",
        "naptr-record=psap.test,10,10,s,SIP+D2S,,_sip._sctp.desk.test",
        "srv-host=_sip._udp.psap.test,dead.test,5999,1,0",
        "srv-host=_sip._udp.desk.test,dead.test,5060,10,100",
        &format!("srv-host=_sip._udp.desk.test,alive.test,{},20,0", PSAP.port()),
        &format!("host-record=dead.test,{DEAD}"),
        &format!("host-record=alive.test,{}", PSAP.ip()),
    ]);
    cluster.with_psap("\"psap.test\"", "", || {
        let Scene { mut caller, mut psap } = Scene::new();
        let first = reaches(&mut caller, &mut psap);
        assert!(first >= FAILOVER, "the dead host was not tried first: {first:?}");
        let second = reaches(&mut caller, &mut psap);
        assert!(second < FAILOVER, "the dead host is held down: {second:?}");

        // The server is gone, and what has its port now never answers: no call waits for it, while the records grow too old.
        let (hung, began) = (server.hang(), Instant::now());
        hung.set_nonblocking(true).expect("a socket");
        let mut asked = false;
        wait::until("the records are too old, and the server was asked in vain", Duration::from_secs(10), || {
            let took = reaches(&mut caller, &mut psap);
            assert!(took < FAILOVER, "a hung server holds no call: {took:?}\n{}", cluster.logs());
            asked |= hung.recv_from(&mut [0; 512]).is_ok();
            if asked && began.elapsed() > TTL * 2 { Ok(()) } else { Err((asked, began.elapsed())) }
        });
    });
}

/// RFC 3263 §4.1: the domain prefers TCP, which is used; when it refuses, UDP is next, at once (§4.3).
#[test]
fn naptr_prefers_tcp_and_udp_is_next_when_it_refuses() {
    let cluster = cluster();
    let _server = Dnsmasq::start([
        "naptr-record=both.test,20,10,s,SIP+D2U,,_sip._udp.both.test",
        "naptr-record=both.test,10,10,s,SIP+D2T,,_sip._tcp.both.test",
        "srv-host=_sip._udp.both.test,both-host.test,5060,10,100",
        "srv-host=_sip._tcp.both.test,both-host.test,5071,10,100",
        &format!("host-record=both-host.test,{}", PSAP.ip()),
    ]);
    cluster.with_psap("\"both.test\"", "", || {
        let Scene { mut caller, mut psap } = Scene::new();
        let listener = TcpListener::bind((PSAP.ip(), 5071)).expect("nobody has the port");
        let first = invite(&caller);
        caller.send(&first, anycast());
        let mut desk = StreamPhone::accept(&listener);
        let by_tcp = desk.expect("the INVITE", |m| m.method() == "INVITE");
        assert!(by_tcp.header("Via").starts_with("SIP/2.0/TCP ") && by_tcp.start.contains("@both.test"), "{by_tcp:?}");
        desk.send(&by_tcp.response(486, "Busy Here", "d"));
        desk.expect("the ACK", |m| m.method() == "ACK");
        assert_eq!(caller.final_of(&first).status(), 486);
        drop((desk, listener));
        let took = reaches(&mut caller, &mut psap);
        assert!(took < AT_ONCE, "it waited after the refusal: {took:?}");
    });
}

/// RFC 3263 §4.2: a port in the name means addresses, whatever SRV there is.
#[test]
fn a_name_with_a_port_and_only_an_a_record() {
    let cluster = cluster();
    let _server = Dnsmasq::start([
        "naptr-record=plain.test,10,10,s,SIP+D2U,,_sip._udp.plain.test",
        "srv-host=_sip._udp.plain.test,decoy.test,5060,10,100",
        &format!("host-record=decoy.test,{DEAD}"),
        "host-record=plain.test,127.0.2.24",
    ]);
    let (mut caller, mut desk) = (Phone::bind("127.0.3.1:0"), Phone::bind("127.0.2.24:5091"));
    cluster.with_psap("\"plain.test:5091\"", "", || {
        let took = reaches(&mut caller, &mut desk);
        assert!(took < FAILOVER, "the decoy was tried: {took:?}");
    });
}

/// A trunk's name is looked up for its probes, each address is asked by the name, and what is found spares the first call the silent one.
#[test]
fn probes_of_a_name_ask_each_address() {
    let cluster = cluster();
    let _server = Dnsmasq::start([
        "srv-host=_sip._udp.asked.test,dead.asked.test,5060,10,0",
        "srv-host=_sip._udp.asked.test,alive.asked.test,5060,20,0",
        &format!("host-record=dead.asked.test,{DEAD}"),
        "host-record=alive.asked.test,127.0.2.27",
    ]);
    cluster.with_psap("\"asked.test\"", "probe_s = 5", || {
        let (mut dead, mut alive) = (Phone::bind(format!("{DEAD}:5060")), Phone::bind("127.0.2.27:5060"));
        let node = core(cluster.holder());
        // The next one of the node that takes the calls: a new request, no copy.
        let asked = |phone: &mut Phone, before: &str| {
            let ours = |m: &Message| m.method() == "OPTIONS" && m.header("Via").contains(&node.to_string());
            let probe = phone.wait(Duration::from_secs(10), |m| ours(m) && m.header("Call-ID") != before).expect("a probe");
            assert_eq!((probe.0.start.as_str(), probe.1), ("OPTIONS sip:asked.test SIP/2.0", node));
            probe.0
        };
        let first = [asked(&mut dead, ""), asked(&mut alive, "")];
        alive.send(&first[1].response(200, "OK", "p"), node);
        // A node gives a silent target up before it asks anew.
        asked(&mut dead, first[0].header("Call-ID"));
        let next = asked(&mut alive, first[1].header("Call-ID"));
        alive.send(&next.response(200, "OK", "p"), node);
        let mut caller = Phone::bind("127.0.3.1:0");
        let took = reaches(&mut caller, &mut alive);
        assert!(took < FAILOVER, "the silent one was tried first: {took:?}");
    });
}

/// RFC 2782: of targets with one priority each gets its share of the calls. 150 of 200 with a deviation of 6; five of them are allowed.
#[test]
fn srv_weights_are_shares_of_the_calls() {
    let cluster = cluster();
    let _server = Dnsmasq::start([
        "srv-host=_sip._udp.share.test,much.test,5060,10,75",
        "srv-host=_sip._udp.share.test,little.test,5060,10,25",
        "host-record=much.test,127.0.2.25",
        "host-record=little.test,127.0.2.26",
    ]);
    cluster.with_psap("\"share.test\"", "", || {
        let (mut caller, done) = (Phone::bind("127.0.3.1:0"), AtomicBool::new(false));
        let shares = std::thread::scope(|scope| {
            let desks = ["127.0.2.25:5060", "127.0.2.26:5060"].map(|at| scope.spawn(|| busy_desk(at, &done)));
            let stop = StopOnDrop(&done);
            // A few at a time: more would fill the sockets of a busy machine.
            for _ in 0..CALLS / 10 {
                let invites: Vec<Message> = (0..10).map(|_| invite(&caller)).collect();
                invites.iter().for_each(|i| caller.send(i, anycast()));
                invites.iter().for_each(|i| assert_eq!(caller.final_of(i).status(), 486));
            }
            drop(stop);
            desks.map(|desk| desk.join().expect("it does not panic"))
        });
        assert_eq!(shares[0] + shares[1], CALLS, "each call rings once: {shares:?}");
        assert!((120..=180).contains(&shares[0]), "{shares:?}");
    });
}

/// Turns away every call until it is told to stop; how many there were.
fn busy_desk(at: &str, done: &AtomicBool) -> usize {
    let (mut desk, mut calls) = (Phone::bind(at), HashSet::new());
    while !done.load(Ordering::Relaxed) {
        if let Some((invite, from)) = desk.wait(Duration::from_millis(50), |m| m.method() == "INVITE") {
            desk.send(&invite.response(486, "Busy Here", "d"), from);
            calls.insert(invite.header("Call-ID").to_owned());
        }
    }
    calls.len()
}

/// Sets the flag when the calls are over, also by a panic.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// RFC 3263 §4.3: a transport error. Then it is held down: the next call does not even try.
#[test]
fn a_target_that_refuses_tcp_is_left_at_once() {
    let cluster = cluster();
    let refused: SocketAddr = "127.0.2.21:5060".parse().expect("an address");
    cluster.with_psap(&format!("\"{refused};transport=tcp\", \"{PSAP};transport=udp\""), "", || {
        let Scene { mut caller, mut psap } = Scene::new();
        let took = reaches(&mut caller, &mut psap);
        assert!(took < AT_ONCE, "it waited after the refusal: {took:?}");
        let listener = TcpListener::bind(refused).expect("nobody has the port");
        reaches(&mut caller, &mut psap);
        listener.set_nonblocking(true).expect("a socket");
        assert!(listener.accept().is_err(), "it is held down");
    });
}

/// RFC 3263 §4.3, RFC 3261 §21.5.4: the next target gets the call, and the calls after it for as long as Retry-After says.
#[test]
fn a_503_with_retry_after_is_left_for_so_long() {
    let cluster = cluster();
    let mut first = Phone::bind("127.0.2.22:5060");
    cluster.with_psap(&format!("\"{};transport=udp\", \"{PSAP};transport=udp\"", first.at()), "", || {
        let Scene { mut caller, mut psap } = Scene::new();
        let (invite, began) = (invite(&caller), Instant::now());
        caller.send(&invite, anycast());
        first.turn_away(invite.uri("From"), 503, &[("Retry-After", "2")]);
        let asked = Instant::now();
        psap.turn_away(invite.uri("From"), 486, &[]);
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert_eq!(caller.final_of(&invite).status(), 486);
        let mut calls = 0;
        wait::until("a call goes to the first again", Duration::from_secs(10), || {
            let next = self::invite(&caller);
            caller.send(&next, anycast());
            let ours = |m: &Message| m.method() == "INVITE" && m.uri("From") == next.uri("From");
            let held = psap.wait(AT_ONCE, ours);
            let is_held = held.is_some();
            let (at_desk, from) = held.unwrap_or_else(|| first.expect("the INVITE that the second did not get", ours));
            let desk = if is_held { &psap } else { &first };
            desk.send(&at_desk.response(486, "Busy Here", "d"), from);
            assert_eq!(caller.final_of(&next).status(), 486);
            calls += usize::from(is_held);
            if is_held { Err(calls) } else { Ok(()) }
        });
        assert!(asked.elapsed() >= Duration::from_secs(2) && calls > 0, "after {:?} and {calls} calls", asked.elapsed());
    });
}

/// AC-30, RFC 3261 §18.1.1: an INVITE above 1300 octets goes by TCP first; where that fails, by UDP, and the next one at once.
#[test]
fn ac30_a_large_invite_goes_by_tcp_and_falls_back_to_udp() {
    let cluster = cluster();
    cluster.with_psap(&format!("\"{PSAP}\""), "", || {
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
        assert_eq!(scene.caller.final_of(&first).status(), 486);
        drop(listener);

        let second = large(&scene);
        let began = Instant::now();
        scene.caller.send(&second, anycast());
        let (by_udp, from) = scene.psap.expect_request("INVITE");
        assert!(began.elapsed() < FAILOVER, "TCP there is held down: {:?}", began.elapsed());
        scene.psap.send(&by_udp.response(486, "Busy Here", "psap"), from);
        assert_eq!(scene.caller.final_of(&second).status(), 486);
    });
}

/// A line of a zone file in the words of dnsmasq.
fn option(record: &str) -> String {
    let fields: Vec<&str> = record.split(' ').map(|f| f.trim_matches('"').trim_end_matches('.')).collect();
    match fields[..] {
        [name, "IN", "NAPTR", order, preference, flags, service, regexp, target] => {
            format!("naptr-record={name},{order},{preference},{flags},{service},{regexp},{target}")
        }
        [name, "IN", "SRV", priority, weight, port, target] => format!("srv-host={name},{target},{port},{priority},{weight}"),
        [name, "IN", "A", ip] => format!("host-record={name},{ip}"),
        _ => panic!("no record: {record}"),
    }
}

/// RFC 3263, the cluster as the server: what `dns zone` prints is served, `dns check` is content until a record is gone or another, and a
/// phone that asks for SRV finds the anycast address first and each node after it.
#[test]
fn the_cluster_is_found_by_its_own_zone() {
    let cluster = cluster();
    let zone = cluster.ctl(&["dns", "zone", "SBC.test", "--ttl", "60"]).stdout;
    assert!(zone.contains("\n$ORIGIN sbc.test.\n$TTL 60\n"), "{zone}");
    let records: Vec<&str> = zone.lines().filter(|l| !l.starts_with([';', '$'])).collect();
    assert_eq!(records.len(), 3 + 3 * 4 + 4, "three services, four hosts:\n{zone}");
    let check = || cluster.try_ctl(&["dns", "check", "sbc.test", "--server", &DNS.to_string()]);
    {
        let _server = Dnsmasq::start(records.iter().map(|r| option(r)));
        let done = check();
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{}", done.stderr);
        assert!(done.stderr.contains("all 19 records are served"), "{}", done.stderr);

        let found = dnsmasq::srv("_sip._udp.sbc.test");
        let expected = [(10, anycast()), (20, unicast(0)), (20, unicast(1)), (20, unicast(2))];
        assert_eq!(found, expected);
        let Scene { mut caller, mut psap } = Scene::new();
        for (_, at) in found {
            let invite = invite(&caller);
            caller.send(&invite, at);
            psap.turn_away(invite.uri("From"), 486, &[]);
            assert_eq!(caller.final_of(&invite).status(), 486, "by {at}");
        }
        let tcp = dnsmasq::srv("_sip._tcp.sbc.test");
        assert_eq!(tcp, expected);
        StreamPhone::tcp(tcp[0].1);
        assert_eq!(dnsmasq::srv("_sips._tcp.sbc.test")[0].1.port(), SIPS_PORT);
    }
    // One of each kind.
    for gone in [1, 5, 17] {
        let _server = Dnsmasq::start(records.iter().enumerate().filter(|(n, _)| *n != gone).map(|(_, r)| option(r)));
        let done = check();
        assert_eq!((done.code, done.stdout.trim_end()), (Some(9), &*format!("missing: {}", records[gone])), "{}", done.stderr);
    }
    let moved = records.iter().map(|r| option(&r.replace("IN A 127.0.0.12", "IN A 127.0.0.99")));
    let _server = Dnsmasq::start(moved);
    let done = check();
    let says = "missing: node-b.sbc.test. IN A 127.0.0.12\nwrong: node-b.sbc.test. IN A 127.0.0.99\n";
    assert_eq!((done.code, done.stdout.as_str()), (Some(9), says), "{}", done.stderr);
    assert_eq!(cluster.try_ctl(&["dns", "zone", "a b"]).code, Some(2));
}
