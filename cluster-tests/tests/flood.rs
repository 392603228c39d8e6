//! Garbage at every listener: nobody dies, nobody stops serving.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use cluster_tests::cluster::{ANYCAST, Cluster, Options, PSAP, SETTLE, SIPS_PORT, anycast, core, list, unicast};
use cluster_tests::flood::{self, Callers, Flood, Psap};
use cluster_tests::message::{Message, sdp};
use cluster_tests::phone::{ANSWER, Phone};
use cluster_tests::scene::Scene;
use cluster_tests::{process, wait};

/// All datagrams together.
const DATAGRAMS: usize = 100_000;
/// Sent between two short rests, so that most reach the nodes and do not end in a full socket buffer.
const BURST: usize = 50;
/// The rest after a burst: 50 a millisecond or two is 25,000 to 50,000 a second.
const REST: Duration = Duration::from_millis(1);
/// Streams of garbage to each TCP and TLS listener.
const STREAMS: usize = 40;
/// What a node may grow by: far more than any cache of a quiet node, far less than what the flood has sent (80 MB).
const MAX_GROWTH: u64 = 64 << 20;

/// Initial INVITEs, mutated.
const INVITES: usize = 2_000;
/// Of them, sent before it is waited for the answer to a whole one.
const ROUND: usize = 50;

/// How long callers call beside a flood.
const FLOOD: Duration = Duration::from_secs(6);
/// And how many.
const CALLERS: u32 = 12;
/// An INVITE that waits so long has been sent three times.
const REPEATED_TWICE: Duration = Duration::from_millis(1500);
/// INVITEs at the PSAP for a hundred calls.
const MOST_ASKED: u64 = 102;

/// An alarm is looked for once a second, and stands for ten seconds more.
const OVERLOAD: Duration = Duration::from_secs(40);

/// When a call that the PSAP never saw or that it could not refuse is over: timer B, and what is left of the call after it.
const GIVEN_UP: Duration = Duration::from_secs(60);

/// xorshift64*: the seed stands in the message of a failure.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).unwrap_or(0)
    }

    fn octet(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

fn seeds(from: SocketAddr) -> Vec<Vec<u8>> {
    let invite = Message::invite("sip:112@127.0.0.100", from, "UDP");
    let to = "<sip:112@127.0.0.100>;tag=x";
    let mut all: Vec<Message> = ["BYE", "ACK", "CANCEL", "OPTIONS", "INFO", "REGISTER", "PRACK", "FOO"]
        .iter()
        .map(|method| Message {
            start: format!("{method} sip:112@127.0.0.100 SIP/2.0"),
            ..invite.clone().replace("CSeq", &format!("1 {method}")).replace("To", to)
        })
        .collect();
    all.push(invite.response(200, "OK", "y").with("Contact", "<sip:a@127.0.0.1>").with_sdp(sdp(from, 1, "sendrecv")));
    all.push(invite.response(180, "Ringing", "y"));
    all.push(invite.response(407, "No", "y"));
    // Those of mutated initial INVITEs that are still calls would ring the PSAP: `two_thousand_invites…` has them. Theirs have a To-tag here, or no Via.
    all.push(invite.clone().replace("To", to));
    all.push(invite.without("Via"));
    all.iter().map(Message::bytes).collect()
}

fn mutate(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(6) {
        let (at, len) = (random.below(bytes.len()), random.below(40));
        let end = (at + len).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.octet(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => bytes.truncate(at.max(1)),
            4 => {
                let words: [&[u8]; 8] = [
                    b"\r\n",
                    b"\r\n\r\n",
                    b"Content-Length: 4294967296\r\n",
                    b"\"",
                    b"<",
                    b";tag=",
                    b"Via: SIP/2.0/UDP [::1\r\n",
                    b"\0\xff",
                ];
                bytes.splice(at..at, words[random.below(8)].iter().copied());
            }
            _ => {
                let n = random.below(300);
                let filler = random.octet();
                bytes.splice(at..at, std::iter::repeat_n(filler, n));
            }
        }
        if bytes.is_empty() {
            bytes.push(random.octet());
        }
    }
    bytes.truncate(1400);
    bytes
}

fn noise(random: &mut Random) -> Vec<u8> {
    (0..random.below(1400)).map(|_| random.octet()).collect()
}

fn listeners() -> Vec<SocketAddr> {
    let mut all = vec![anycast()];
    all.extend((0..3).flat_map(|n| [unicast(n), core(n)]));
    all
}

#[test]
fn a_hundred_thousand_datagrams_and_a_few_hundred_streams() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    let mut lasting = scene.established(anycast());
    let pids: Vec<u32> = (0..3).map(|n| cluster.pid(n).expect("it runs")).collect();
    let memory: Vec<u64> = pids.iter().map(|p| process::resident(*p).expect("it runs")).collect();

    let mut random = Random(0x5bc0_2026_1123_0001);
    let socket = UdpSocket::bind("127.0.3.9:0").expect("loopback is free");
    let seeds = seeds(socket.local_addr().expect("it is bound"));
    let listeners = listeners();
    for n in 0..DATAGRAMS {
        let bytes = if n % 4 == 0 {
            noise(&mut random)
        } else {
            let i = random.below(seeds.len());
            mutate(&mut random, &seeds[i])
        };
        // EAGAIN or an ICMP error of an earlier one: the flood goes on.
        let _ = socket.send_to(&bytes, listeners[n % listeners.len()]);
        if n % BURST == 0 {
            std::thread::sleep(REST);
        }
    }
    flood_streams(&mut random, &listeners, &seeds);

    for (n, (pid, before)) in pids.iter().zip(&memory).enumerate() {
        let now = process::resident(*pid).unwrap_or_else(|| panic!("node {n} died:\n{}", cluster.logs()));
        assert!(now < before + MAX_GROWTH, "node {n} grew from {before} to {now} octets");
    }
    // All serve: a call in at each, its BYE at the next, and the call that was there before.
    for node in 0..3 {
        scene.psap.settle(core(node));
        scene.caller.settle(unicast(node));
    }
    for node in 0..3 {
        let mut call = scene.established(unicast(node));
        scene.hang_up(&mut call, unicast((node + 1) % 3));
    }
    scene.hang_up(&mut lasting, anycast());
    for node in 0..3 {
        assert!(cluster.is_up(node));
    }
}

/// Mutated initial INVITEs at a live node, whose PSAP refuses what is a call still. The PSAP may get no more calls than were sent.
#[test]
fn two_thousand_invites_of_which_many_are_calls_still() {
    // All of them are of one address, as fast as they are answered.
    let set = ["settings.emergency_source_rate=0".to_owned()].into();
    let cluster = Cluster::start(Options { set, ..Options::with_own_psap() });
    let mut random = Random(0x5bc0_2026_1128_0002);
    let mut caller = Phone::bind("127.0.3.8:0").hearing_anything();
    let mut psap = Phone::bind(PSAP).hearing_anything();
    let mut rung = HashSet::new();
    for n in 0..INVITES {
        let uri = if n % 2 == 0 { "sip:112@127.0.0.100" } else { "urn:service:sos" };
        caller.send_raw(&mutate(&mut random, &Message::invite(uri, caller.at(), "UDP").bytes()), anycast());
        if n % ROUND != ROUND - 1 {
            continue;
        }
        // A whole one behind them: when it is answered, they have been dealt with, and no queue overflows.
        let whole = Message::invite(uri, caller.at(), "UDP");
        caller.send(&whole, anycast());
        wait::until(&format!("the answer to the call behind {n} others"), ANSWER, || {
            refuse_calls(&mut psap, &mut rung);
            let answer = |m: &Message| m.header("Call-ID") == whole.header("Call-ID") && m.status() >= 200;
            let (answer, _) = caller.wait(Duration::from_millis(1), answer).ok_or(())?;
            caller.send(&acknowledgement(&whole, &answer), anycast());
            assert_eq!(answer.status(), 486, "{answer:?}");
            Ok::<(), ()>(())
        });
        caller.gather(Duration::ZERO, |_| true);
    }
    assert!((INVITES / 8..=INVITES + INVITES / ROUND).contains(&rung.len()), "{} calls rang", rung.len());
    // What could not be refused in time has been given up, what was refused is over.
    wait::until("no call is left", GIVEN_UP, || {
        refuse_calls(&mut psap, &mut rung);
        let left: Vec<_> = (0..3).flat_map(|node| cluster.calls_at(node)).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    drop((psap, caller));
    let mut scene = Scene::new();
    for node in 0..3 {
        let mut call = scene.established(unicast(node));
        scene.hang_up(&mut call, unicast((node + 1) % 3));
        wait::until_equal("no call is left", SETTLE, &Vec::new(), || cluster.calls_at(node));
        assert!(cluster.is_up(node));
    }
}

/// The PSAP is busy.
fn refuse_calls(psap: &mut Phone, rung: &mut HashSet<String>) {
    while let Some((request, from)) = psap.wait(Duration::from_millis(1), |m| !["", "ACK"].contains(&m.method())) {
        if request.method() == "INVITE" {
            rung.insert(request.header("Call-ID").to_owned());
            psap.send(&request.response(486, "Busy Here", "psap"), from);
        } else {
            psap.send(&request.response(200, "OK", "psap"), from);
        }
    }
    psap.gather(Duration::ZERO, |_| true);
}

/// The ACK of a refusal (RFC 3261 §17.1.1.3).
fn acknowledgement(invite: &Message, answer: &Message) -> Message {
    let ack = Message { start: invite.start.replacen("INVITE", "ACK", 1), body: Vec::new(), ..invite.clone() };
    ack.without("Content-Type").replace("CSeq", "1 ACK").replace("To", answer.header("To"))
}

/// Callers beside a flood of more than the nodes can do: how many a second that is changes with the machine, what they get does not.
fn beside_a_flood(uri: &str, rate: u32) -> Cluster {
    let cluster = Cluster::start(Options::with_own_psap());
    let psap = Psap::start(PSAP);
    let pids: Vec<_> = (0..3).map(|n| cluster.pid(n).expect("it runs")).collect();
    let flood = Flood { to: anycast(), uri, rate, sources: 200, time: FLOOD };
    let callers = Callers { to: anycast(), uri: "sip:112@127.0.0.100", every: FLOOD / CALLERS, count: CALLERS };
    let figures = flood::run(flood, callers);
    let (invites, calls) = psap.asked();
    println!("{:.0} a second, median {:?}, p99 {:?}", figures.rate(), figures.quantile(0.5), figures.quantile(0.99));
    println!("{invites} INVITEs at the PSAP for {calls} calls");
    assert!(figures.flooded > u64::from(rate), "no flood: {figures:?}");
    assert_eq!(figures.connected, figures.callers, "{figures:?}");
    assert!(figures.quantile(0.9) < REPEATED_TWICE, "{figures:?}");
    assert!(invites * 100 <= calls * MOST_ASKED, "{invites} INVITEs for {calls} calls");
    for (node, pid) in (0..3).zip(pids) {
        assert!(cluster.pid(node) == Some(pid) && cluster.is_up(node), "node {node} ended:\n{}", cluster.logs());
    }
    cluster
}

/// Its callers are of many addresses, each with a flood of its own; who is not of them is connected.
#[test]
fn who_does_not_flood_is_connected_beside_a_flood_of_emergency_calls() {
    beside_a_flood("urn:service:sos", 2500);
}

#[test]
fn emergency_calls_are_connected_beside_a_flood_of_ordinary_calls() {
    let cluster = beside_a_flood("sip:service@127.0.0.100", 2500);
    // So many make messages wait; of emergency calls most are refused by their source before they do.
    let holder = cluster.holder();
    let overload = || cluster.metric(holder, "sbc_alarm{alarm=\"overload\"}");
    wait::until_equal("the alarm while it is too much, and a while after", OVERLOAD, &1, overload);
    wait::until_equal("it is over", OVERLOAD, &0, overload);
    for kind in ["EVENT_KIND_ALARM_RAISED", "EVENT_KIND_ALARM_CLEARED"] {
        wait::until("the log has it", SETTLE, || {
            let events = list(&cluster.json(&["event", "list"]), "events");
            let told = events.iter().any(|e| e["kind"] == kind && e["alarm"] == "overload");
            if told { Ok(()) } else { Err((kind, events)) }
        });
    }
}

fn flood_streams(random: &mut Random, listeners: &[SocketAddr], seeds: &[Vec<u8>]) {
    let tls = [ANYCAST, unicast(0).ip(), unicast(1).ip(), unicast(2).ip()].map(|ip| SocketAddr::new(ip, SIPS_PORT));
    for to in listeners.iter().chain(&tls) {
        for n in 0..STREAMS {
            // A listener may refuse for a moment; it must be there at the end, which the calls show.
            let Ok(mut stream) = TcpStream::connect_timeout(to, Duration::from_secs(2)) else { continue };
            let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            for _ in 0..8 {
                let seed = random.below(seeds.len());
                let bytes = if n % 2 == 0 { noise(random) } else { mutate(random, &seeds[seed]) };
                if stream.write_all(&bytes).is_err() {
                    break;
                }
            }
            let _ = stream.read(&mut [0; 4096]);
        }
    }
}
