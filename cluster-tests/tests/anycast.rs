//! A thousand calls of a UA that ignores Contact, while the anycast address moves every second.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, anycast};
use cluster_tests::sipp::Sipp;

const CALLS: usize = 1000;
/// 1,000 calls of 3 s at 50 a second take 23 s; the rest is for what is repeated and for a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// How often the route moves.
const FLIP_EVERY: Duration = Duration::from_secs(1);

fn thousand_calls(caller: u8, transport: &str) -> Sipp {
    let local = IpAddr::V4(Ipv4Addr::new(127, 0, 3, caller));
    Sipp::built_in("uac", local, LIMIT).args(&["-d", "3000", "-r", "50", "-m", &CALLS.to_string(), "-t", transport]).to(anycast())
}

#[test]
fn udp_with_the_address_flipped_every_second() {
    let cluster = Cluster::shared(Options::with_phone());
    let before = cluster.cdrs().len();
    let mut run = thousand_calls(1, "u1").start();
    let mut next = Instant::now() + FLIP_EVERY;
    let (mut flips, mut holder) = (0, cluster.holder());
    while run.is_running() {
        if Instant::now() < next {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        }
        next += FLIP_EVERY;
        holder = (holder + 1) % 3;
        cluster.flip(holder);
        flips += 1;
    }
    let report = run.succeed();
    assert_eq!((report.successful, report.failed), (1000, 0));
    assert!(flips >= 15, "only {flips} flips in the time: a flip takes too long");
    println!("1000 calls, {flips} flips, {} retransmissions", report.retransmissions);
    cluster.settled(before + CALLS);
}

#[test]
fn tcp_without_flips() {
    let cluster = Cluster::shared(Options::with_phone());
    let before = cluster.cdrs().len();
    let report = thousand_calls(2, "t1").start().succeed();
    assert_eq!((report.successful, report.failed), (1000, 0));
    cluster.settled(before + CALLS);
}
