//! A session from its first connection to its end, against a router on a simulated link.

use std::time::Duration;

use rustbgpd_wire::Message;

use super::fsm::State;
use super::pair_tests::{NODE, Pair, ROUTER, config, ms, route};
use super::{Notification, Output, Peer, Report, Side, message};

const V4: &str = "198.18.112.112/32";
const V6: &str = "2001:db8:a::53/128";

fn up() -> Pair {
    let mut pair = Pair::new(1);
    pair.listens[NODE] = false;
    pair.peers[NODE].handle_routes(&[route(V4), route(V6)]);
    pair.start();
    pair.until(1000, |p| p.is_up() && p.rib.len() == 2);
    pair
}

#[test]
fn a_session_comes_up_and_the_router_has_the_prefixes() {
    let mut pair = up();
    assert_eq!(pair.peers[NODE].status().hold, Duration::from_secs(3));
    assert_eq!(pair.connections(), 1);
    pair.run(60_000);
    assert!(pair.is_up());
    assert_eq!(pair.updates(), 2, "each prefix once");
    assert_eq!(pair.peers[NODE].status().established, 1);
}

#[test]
fn what_does_not_change_is_not_said_again() {
    let mut pair = up();
    for _ in 0..50 {
        pair.peers[NODE].handle_routes(&[route(V6), route(V4)]);
        pair.peers[NODE].handle_stalled(false);
        pair.run(100);
    }
    assert_eq!(pair.updates(), 2);
    let worse = super::Route { prepend: 2, ..route(V4) };
    pair.peers[NODE].handle_routes(&[worse, route(V6)]);
    pair.run(100);
    assert_eq!(pair.updates(), 3, "only what changed");
}

#[test]
fn a_withdrawal_leaves_the_session_and_the_other_family() {
    let mut pair = up();
    pair.peers[NODE].handle_routes(&[route(V6)]);
    pair.until(10, |p| p.prefixes() == [V6.to_owned()].into());
    pair.peers[NODE].handle_routes(&[]);
    pair.until(10, |p| p.rib.is_empty());
    pair.run(20_000);
    assert!(pair.is_up());
    assert_eq!((pair.peers[NODE].status().established, pair.updates()), (1, 4));
}

#[test]
fn a_withdrawn_prefix_stays_so_through_reconnect_and_restart() {
    let mut pair = up();
    pair.peers[NODE].handle_routes(&[route(V6)]);
    pair.until(10, |p| p.rib.len() == 1);
    pair.reset_connections();
    pair.until(5000, Pair::is_up);
    pair.run(100);
    assert_eq!(pair.prefixes(), [V6.to_owned()].into());
    pair.restart_router(9);
    pair.until(8000, |p| p.is_up() && p.rib.len() == 1);
    assert_eq!(pair.prefixes(), [V6.to_owned()].into());
    assert_eq!(pair.peers[NODE].status().established, 3);
}

#[test]
fn a_stalled_node_loses_its_routes_by_the_hold_time_and_comes_back() {
    let mut pair = up();
    pair.peers[NODE].handle_stalled(true);
    let from = pair.now;
    pair.until(4000, |p| p.rib.is_empty());
    assert!(pair.delivered.iter().all(|(at, _)| *at <= from + 3), "nothing was said");
    pair.run(20_000);
    assert!(pair.rib.is_empty() && pair.delivered.iter().all(|(at, _)| *at <= from + 3), "and no new session begins");
    pair.peers[NODE].handle_stalled(false);
    pair.until(20_000, |p| p.is_up() && p.rib.len() == 2);
}

#[test]
fn a_stalled_node_withdraws_and_announces_nothing() {
    let mut pair = up();
    pair.peers[NODE].handle_stalled(true);
    pair.peers[NODE].handle_routes(&[route("198.18.3.0/24")]);
    pair.until(20, |p| p.rib.is_empty());
    pair.peers[NODE].handle_stalled(false);
    pair.until(20, |p| p.prefixes() == ["198.18.3.0/24".to_owned()].into());
}

#[test]
fn a_silent_link_ends_the_session_and_bfd_ends_it_sooner() {
    let mut pair = up();
    pair.link = false;
    let at = pair.now;
    pair.until(4000, |p| p.reports[NODE].iter().any(|r| matches!(r, Report::Down { .. })));
    assert!(pair.now - at > 2000);
    let mut pair = up();
    pair.peers[NODE].handle_bfd_down(ms(pair.now));
    pair.carry_out();
    assert!(pair.reports[NODE].contains(&Report::Down { reason: "BFD is down".into() }));
    pair.run(10);
    assert!(pair.reports[ROUTER].contains(&Report::Down { reason: "the router ended it: Cease, BFD Down".into() }));
    pair.until(5000, |p| p.is_up() && p.rib.len() == 2);
}

#[test]
fn an_operators_end_has_words_and_is_not_tried_again() {
    let mut pair = up();
    pair.peers[NODE].handle_stop("node-a is drained", ms(pair.now));
    pair.run(30_000);
    let status = pair.peers[ROUTER].status();
    assert!(pair.reports[ROUTER].iter().any(
        |r| matches!(r, Report::Down { reason } if reason == "the router ended it: Cease, Administrative Shutdown: node-a is drained")
    ));
    assert_ne!(status.state, Some(State::Established));
    assert_eq!(pair.peers[NODE].status().state, Some(State::Idle));
    pair.peers[NODE].handle_start(ms(pair.now));
    pair.until(20_000, |p| p.is_up() && p.rib.len() == 2);
}

#[test]
fn of_two_connections_the_one_of_the_higher_identifier_stays() {
    let mut pair = Pair::new(5);
    pair.peers[NODE].handle_routes(&[route(V4)]);
    pair.start(); // Both dial at once, and both listen.
    pair.until(2000, |p| p.is_up() && p.rib.len() == 1);
    pair.run(30_000);
    assert_eq!((pair.connections(), pair.updates()), (1, 1));
    assert!(pair.is_up());
    assert_eq!(pair.peers[ROUTER].status().established, 1, "the router's identifier is higher: its own connection");
    let outgoing = pair.peers[ROUTER].status();
    assert_eq!(outgoing.retries, 0, "and was not dropped");
}

#[test]
fn a_router_that_dials_only_is_served_too() {
    let mut pair = Pair::new(6);
    pair.listens = [true, false];
    pair.peers[NODE].handle_routes(&[route(V4)]);
    pair.start();
    pair.until(5000, |p| p.is_up() && p.rib.len() == 1);
    pair.run(30_000);
    assert!(pair.is_up());
    assert_eq!((pair.connections(), pair.peers[NODE].status().established), (1, 1));
}

/// A node whose router is these octets.
fn opened() -> Peer {
    let mut peer = Peer::new(config(NODE), 3);
    peer.handle_start(ms(0));
    peer.handle_connected(Side::Outgoing, [10, 0, 0, 1].into(), ms(1));
    peer
}

fn outputs(peer: &mut Peer) -> Vec<Output> {
    std::iter::from_fn(|| peer.poll_output()).collect()
}

fn notified(peer: &mut Peer) -> Option<(u8, u8)> {
    outputs(peer).iter().find_map(|o| match o {
        Output::Send(_, octets) if octets[18] == 3 => Some((octets[19], octets[20])),
        _ => None,
    })
}

#[test]
fn an_open_that_is_not_good_is_refused_with_the_reason() {
    let good = message::open(65_000, 9, [10, 0, 0, 2].into());
    let changed = |at: usize, to: &[u8]| {
        let mut octets = good.clone();
        octets[at..at + to.len()].copy_from_slice(to);
        octets
    };
    let rows = [
        ("another AS", message::open(65_009, 9, [10, 0, 0, 2].into()), (2, 2)),
        ("version 3", changed(19, &[3]), (2, 1)),
        ("hold time 0", changed(22, &[0, 0]), (2, 6)),
        ("hold time 2", changed(22, &[0, 2]), (2, 6)),
        ("no identifier", changed(24, &[0; 4]), (2, 3)),
        ("an unknown parameter", changed(29, &[1]), (2, 4)),
        ("a length too long", changed(28, &[200]), (2, 0)),
        ("a capability too long", changed(32, &[200]), (2, 0)),
        ("a marker with a hole", changed(3, &[0]), (1, 1)),
        ("a length too short", changed(16, &[0, 20]), (1, 2)),
        ("a length too long for BGP", changed(16, &[0x10, 1]), (1, 2)),
        ("an unknown type", changed(18, &[9]), (1, 3)),
        ("a KEEPALIVE before it", message::keepalive(), (5, 1)),
    ];
    for (what, octets, expected) in rows {
        let mut peer = opened();
        outputs(&mut peer);
        peer.handle_octets(Side::Outgoing, &octets, ms(2));
        assert_eq!(notified(&mut peer), Some(expected), "{what}");
        assert_eq!(peer.status().state, Some(State::Idle), "{what}");
    }
    let mut peer = opened();
    outputs(&mut peer);
    peer.handle_octets(Side::Outgoing, &good, ms(2));
    assert_eq!(peer.status().state, Some(State::OpenConfirm));
}

#[test]
fn octets_come_in_any_pieces_and_updates_are_counted_and_dropped() {
    let mut stream = message::open(65_000, 9, [10, 0, 0, 2].into());
    stream.extend(message::keepalive());
    for n in 0..3 {
        stream.extend(message::update(&[0, 0, 0, n, 1, 2, 3, 4, 5]));
    }
    let mut peer = opened();
    for octet in &stream {
        peer.handle_octets(Side::Outgoing, &[*octet], ms(2));
    }
    let status = peer.status();
    assert_eq!((status.state, status.updates_dropped, status.received), (Some(State::Established), 3, 5));
}

#[test]
fn a_router_without_ipv6_is_told_of_ipv4_and_the_rest_is_reported_once() {
    let mut peer = opened();
    peer.handle_routes(&[route(V4), route(V6)]);
    let mut open = message::open(65_000, 9, [10, 0, 0, 2].into());
    // No capability at all: IPv4 unicast, and two octets of AS.
    open.truncate(28);
    open.push(0);
    open[16..18].copy_from_slice(&29u16.to_be_bytes());
    open.extend(message::keepalive());
    peer.handle_octets(Side::Outgoing, &open, ms(2));
    peer.handle_routes(&[route(V4), route(V6)]);
    let reports: Vec<Output> = outputs(&mut peer).into_iter().filter(|o| matches!(o, Output::Report(_))).collect();
    let expected = [
        Report::Up { hold: Duration::from_secs(3) },
        Report::Announced(V4.parse().unwrap()),
        Report::NotAnnounced { prefix: V6.parse().unwrap(), reason: "the router does not take the family" },
    ];
    assert_eq!(reports, expected.map(Output::Report));
}

#[test]
fn a_router_may_ask_for_a_family_again() {
    let mut pair = up();
    let refresh = |afi: u8| {
        let mut octets = vec![0xff; 16];
        octets.extend_from_slice(&[0, 23, 5, 0, afi, 0, 1]);
        octets
    };
    pair.peers[NODE].handle_octets(Side::Outgoing, &refresh(2), ms(pair.now));
    pair.run(20);
    assert_eq!((pair.updates(), pair.prefixes().len()), (3, 2));
    pair.peers[NODE].handle_octets(Side::Outgoing, &refresh(9), ms(pair.now));
    pair.run(20);
    assert!(pair.updates() == 3 && pair.is_up());
}

#[test]
fn a_notification_is_reported_in_words_and_never_answered() {
    for n in [Notification::shutdown("maintenance until 4"), Notification::hold_timer_expired(), Notification::open(1, &[0, 4])] {
        let mut peer = opened();
        outputs(&mut peer);
        peer.handle_octets(Side::Outgoing, &message::notification(&n), ms(2));
        let said = outputs(&mut peer);
        assert!(!said.iter().any(|o| matches!(o, Output::Send(..))), "{said:?}");
        assert!(peer.status().last_error.unwrap().ends_with(&n.to_string()));
    }
}

#[test]
fn the_first_message_is_the_open_and_nothing_is_said_before_the_routers_keepalive() {
    let mut pair = up();
    let kinds: Vec<&str> = pair
        .delivered
        .drain(..)
        .map(|(_, m)| match m {
            Message::Open(_) => "open",
            Message::Keepalive => "keepalive",
            Message::Update(_) => "update",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["open", "keepalive", "update", "update"]);
}
