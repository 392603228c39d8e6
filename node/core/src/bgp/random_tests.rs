//! Seeded faults on the link between a node and its router: whatever happens, what the router has is what the node thinks it was told, and
//! when the faults are over it is what is wanted.

use std::collections::BTreeSet;

use super::pair_tests::{NODE, Pair, ROUTER, ms, route};
use super::{Report, Route};

/// Longest pause of a damped session, its jitter, a hold time, and a try.
const HEALED: u64 = 24_000;

struct Seed(u64);

impl Seed {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn routes(seed: &mut Seed) -> Vec<Route> {
    let all = ["198.18.112.112/32", "198.18.3.0/24", "2001:db8:a::53/128", "2001:db8:3::/48"];
    let mut wanted: Vec<Route> = all.iter().filter(|_| seed.below(2) == 0).map(|p| route(p)).collect();
    wanted.iter_mut().for_each(|r| r.prepend = u8::try_from(seed.below(2)).unwrap());
    wanted
}

fn fault(pair: &mut Pair, seed: &mut Seed, wanted: &mut Vec<Route>) {
    match seed.below(9) {
        0 => pair.link = !pair.link,
        1 => pair.reset_connections(),
        2 => pair.listens[NODE] = !pair.listens[NODE],
        3 => pair.listens[ROUTER] = !pair.listens[ROUTER],
        4 => pair.restart_router(seed.below(1000)),
        5 => pair.peers[NODE].handle_bfd_down(ms(pair.now)),
        6 => pair.peers[NODE].handle_stalled(seed.below(2) == 0),
        _ => {
            *wanted = routes(seed);
            pair.peers[NODE].handle_routes(wanted);
        }
    }
    pair.carry_out();
}

fn run(number: u64) {
    println!("seed {number}");
    let mut seed = Seed(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut pair = Pair::new(number);
    let mut wanted = Vec::new();
    pair.start();
    for round in 0..40 {
        if round % 10 < 9 {
            fault(&mut pair, &mut seed, &mut wanted);
            pair.run(1 + seed.below(1500));
            continue;
        }
        (pair.link, pair.listens) = (true, [true, true]);
        pair.peers[NODE].handle_stalled(false);
        pair.carry_out();
        let expected: BTreeSet<String> = wanted.iter().map(|r| r.prefix.to_string()).collect();
        pair.until(HEALED, |p| p.is_up() && p.prefixes() == expected);
        pair.run(500);
        let told: BTreeSet<String> = pair.peers[NODE].status().announced.iter().map(ToString::to_string).collect();
        assert_eq!((pair.prefixes(), told), (expected.clone(), expected), "seed {number}");
        assert_eq!(pair.connections(), 1, "seed {number}: one connection stays");
        let (updates, session) = (pair.updates(), pair.peers[NODE].status().established);
        pair.run(10_000);
        assert!(pair.is_up() && pair.peers[NODE].status().established == session, "seed {number}: it stays up");
        assert_eq!(pair.updates(), updates, "seed {number}: nothing is said twice");
    }
    balanced(&pair, number);
}

/// Up and Down take turns, and nothing is announced outside of a session.
fn balanced(pair: &Pair, number: u64) {
    let mut up = false;
    for report in &pair.reports[NODE] {
        match report {
            Report::Up { .. } => assert!(!std::mem::replace(&mut up, true), "seed {number}: up twice"),
            Report::Down { .. } => assert!(std::mem::replace(&mut up, false), "seed {number}: down twice"),
            Report::Announced(_) | Report::Withdrawn(_) => assert!(up, "seed {number}: {report:?} without a session"),
            Report::Failed { .. } | Report::NotAnnounced { .. } => {}
        }
    }
}

#[test]
fn whatever_happens_the_router_has_what_is_wanted_in_the_end() {
    (0..60).for_each(run);
}
