//! The walk over targets, as a table of what happens and what comes next.

use super::*;

fn hop(host: &str, choice: TransportChoice) -> Hop {
    let host = HostAndPort { host: host.into(), port: None };
    Hop { trunk: "psap".into(), realm: Realm::Core, host, choice, uri: None }
}

fn udp(last: u8) -> Target {
    Target { addr: ([192, 0, 2, last], 5060).into(), transport: Transport::Udp }
}

fn tcp(last: u8) -> Target {
    Target { transport: Transport::Tcp, ..udp(last) }
}

fn set(limit: usize, hops: &[&str]) -> TargetSet {
    let mut set = TargetSet::new(limit);
    hops.iter().for_each(|host| set.push(hop(host, TransportChoice::Any)));
    set
}

/// What comes next, tried where it is a target: `u1` UDP to 192.0.2.1, `t1` TCP, `?name`, `wait`, `end`. Those named in `bad` failed lately.
fn step(set: &mut TargetSet, bad: &[Target]) -> String {
    match set.next(|c| bad.contains(&c.target)) {
        NextTarget::Try(candidate) => {
            set.on_tried(candidate.target.clone());
            name(&candidate.target)
        }
        NextTarget::LookUp(hop) => {
            let question = format!("?{}", hop.host.host);
            set.asked(ResolveId(1), hop);
            question
        }
        NextTarget::Wait => "wait".into(),
        NextTarget::Exhausted => "end".into(),
    }
}

fn name(target: &Target) -> String {
    let IpAddr::V4(ip) = target.addr.ip() else { panic!("an IPv4 address") };
    let transport = if target.transport == Transport::Tcp { 't' } else { 'u' };
    format!("{transport}{}", ip.octets()[3])
}

#[test]
fn literals_and_names_in_their_order() {
    let mut set = set(16, &["192.0.2.1", "psap.example", "192.0.2.4"]);
    assert_eq!(step(&mut set, &[]), "u1");
    assert_eq!(step(&mut set, &[]), "?psap.example");
    assert_eq!(step(&mut set, &[]), "wait");
    assert!(!set.on_resolved(ResolveId(2), Some(&[udp(9)])), "another question");
    assert!(set.on_resolved(ResolveId(1), Some(&[udp(2), udp(3)])));
    assert!(!set.on_resolved(ResolveId(1), Some(&[udp(9)])), "answered twice");
    for expected in ["u2", "u3", "u4", "end", "end"] {
        assert_eq!(step(&mut set, &[]), expected);
    }
}

#[test]
fn what_failed_lately_comes_last_and_comes() {
    for (bad, expected) in [
        (vec![], ["u1", "u2", "u3", "end"]),
        (vec![udp(1)], ["u2", "u3", "u1", "end"]),
        (vec![udp(2)], ["u1", "u3", "u2", "end"]),
        (vec![udp(1), udp(2), udp(3)], ["u1", "u2", "u3", "end"]),
    ] {
        let mut set = set(16, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        for next in expected {
            assert_eq!(step(&mut set, &bad), next, "{bad:?}");
        }
    }
}

#[test]
fn no_more_are_tried_than_the_limit() {
    let mut set = set(3, &["many.example", "192.0.2.200"]);
    assert_eq!(step(&mut set, &[]), "?many.example");
    set.on_resolved(ResolveId(1), Some(&(1..100).map(udp).collect::<Vec<_>>()));
    for expected in ["u1", "u2", "u3", "end"] {
        assert!(expected == "end" || set.has_untried());
        assert_eq!(step(&mut set, &[]), expected);
    }
    assert!(!set.has_untried() && !set.has_better(|_, _| false), "the last name is beyond the limit");
}

#[test]
fn a_dns_that_fails_or_is_not_waited_for() {
    let mut set = set(16, &["one.example", "two.example", "192.0.2.7"]);
    assert_eq!(step(&mut set, &[]), "?one.example");
    assert!(set.on_resolved(ResolveId(1), None));
    assert_eq!(step(&mut set, &[]), "?two.example");
    assert!(set.stop_waiting() && !set.stop_waiting());
    assert!(!set.on_resolved(ResolveId(1), Some(&[udp(9)])), "nobody waits for it any more");
    assert_eq!(step(&mut set, &[]), "u7");
}

#[test]
fn a_name_is_looked_up_before_its_turn_and_once() {
    let mut set = set(16, &["psap.example", "192.0.2.2"]);
    let first = set.look_ahead().expect("its name");
    assert_eq!(set.first_hop().map(|hop| &*hop.host.host), Some("192.0.2.2"));
    set.asked(ResolveId(1), first);
    assert!(set.look_ahead().is_none());
    set.on_resolved(ResolveId(1), Some(&[udp(1)]));
    assert!(set.look_ahead().is_none(), "there is one to be tried");
    assert_eq!(step(&mut set, &[]), "u1");
    assert!(set.look_ahead().is_none(), "an address needs no question");
    assert_eq!(step(&mut set, &[]), "u2");
}

#[test]
fn large_requests_go_by_tcp_first() {
    let large = |choice, bad: &[Target]| {
        let mut set = TargetSet::new(16);
        set.push(hop("192.0.2.1", choice));
        let NextTarget::Try(candidate) = set.next(|_| false) else { panic!("it is an address") };
        let by_tcp = set.by_tcp(&candidate, |c| bad.contains(&c.target));
        (set, by_tcp)
    };
    let (mut set, by_tcp) = large(TransportChoice::Any, &[]);
    let by_tcp = by_tcp.expect("the transport is open");
    assert_eq!(by_tcp.target, tcp(1));
    assert!(set.by_tcp(&by_tcp, |_| false).is_none(), "once");
    set.on_tried(by_tcp.target);
    let NextTarget::Try(udp_after) = set.next(|_| false) else { panic!("UDP, should TCP fail") };
    assert_eq!((&udp_after.target, udp_after.large), (&udp(1), Large::AfterTcp));
    assert!(set.by_tcp(&udp_after, |_| false).is_none(), "never in circles");

    let (mut set, _) = large(TransportChoice::Any, &[]);
    set.on_answer(udp(2).addr);
    assert!(set.has_untried(), "another target's answer");
    set.on_answer(udp(1).addr);
    assert!(!set.has_untried(), "it answered by TCP: the same by UDP would be another request");

    assert!(large(TransportChoice::Any, &[tcp(1)]).1.is_none(), "TCP failed there lately");
    assert!(large(TransportChoice::Fixed(Transport::Udp), &[]).1.is_none(), "UDP was asked for");
    assert!(large(TransportChoice::Fixed(Transport::Tcp), &[]).1.is_none(), "it goes by TCP anyway");
}

#[test]
fn a_redirect_comes_before_what_was_to_be_tried() {
    let mut set = set(16, &["192.0.2.1", "192.0.2.2"]);
    set.push_front(Candidate {
        target: udp(9),
        trunk: "psap".into(),
        realm: Realm::Core,
        host: "192.0.2.9".into(),
        large: Large::Stay,
        uri: None,
        again: None,
    });
    set.redirect(vec![hop("192.0.2.5", TransportChoice::Any), hop("192.0.2.6", TransportChoice::Any)]);
    for expected in ["u5", "u6", "u1", "u2", "u9", "end"] {
        assert_eq!(step(&mut set, &[]), expected);
    }
}

#[test]
fn tries_are_counted_by_target() {
    let mut set = set(16, &["192.0.2.1"]);
    set.on_tried(udp(1));
    set.on_tried(tcp(1));
    set.on_tried(udp(1));
    assert_eq!((set.tries(&udp(1)), set.tries(&tcp(1)), set.tries(&udp(2))), (2, 1, 0));
    set.drop_untried();
    assert!(!set.has_untried());
}

#[test]
fn better_is_what_is_not_known_to_have_failed() {
    let held = |bad: &'static [u8]| move |_: Realm, target: &Target| bad.iter().any(|last| udp(*last).addr == target.addr);
    let mut two = set(16, &["192.0.2.1", "192.0.2.2"]);
    assert!(two.has_better(held(&[1])) && !two.has_better(held(&[1, 2])));
    assert_eq!(step(&mut two, &[]), "u1");
    assert!(!two.has_better(held(&[2])) && two.has_untried());
    let mut name = set(16, &["psap.example"]);
    assert!(name.has_better(held(&[])), "what a name leads to is not known");
    assert_eq!(step(&mut name, &[]), "?psap.example");
    assert!(name.has_better(held(&[])));
}
