//! Whose call is it when nodes die, start again, lose each other or the log: nobody rings twice without need, and nobody who asks for
//! help at another node is told that it was asked already (AC-01, AC-03, AC-07, AC-25, AC-28, AC-47).

use std::collections::BTreeSet;

use bytes::Bytes;
use sbc_core::io::{ClaimOutcome, Counter, MisrouteAction};
use sbc_core::sip::{Message, Method};

use crate::cases::{at_rest, by_nodes, callers, relayed, repeat_at, responses, world};
use crate::plan::{Plan, PsapPlan};
use crate::rig::far::wait;
use crate::world::{Fault, Net, World, addr};

const START: u64 = 100;

/// A called side that rings for a while before it answers.
fn slow(answer: u64) -> Plan {
    Plan { psap: PsapPlan::Answer { ring: 100, answer }, ..Plan::plain(START) }
}

/// The nodes that sent an INVITE to the PSAP.
fn diallers(w: &World) -> BTreeSet<usize> {
    let psap = w.phones[1].addr;
    by_nodes(w, |s, m| s.to == psap && m.is_request() && m.method() == &Method::Invite && m.to_tag().is_none())
        .into_iter()
        .map(|(node, _)| node)
        .collect()
}

fn merged(w: &World) -> usize {
    responses(w, 482, &Method::Invite).len()
}

fn final_status(w: &World) -> Option<u16> {
    w.phones[0].legs[0].final_status
}

/// The owner dies with the claim in the log; what calls for the caller tries another node after `after` ms.
fn owner_died(after: u64, restart: Option<u64>) -> World {
    let mut w =
        world(Plan { failover: Some((after, 1)), psap: PsapPlan::Answer { ring: 2000, answer: 3000 }, ..Plan::plain(START) });
    w.fault_at(300, Fault::Kill(0));
    if let Some(at) = restart {
        w.fault_at(at, Fault::Restart(0));
    }
    w.run_until(120_000);
    assert_eq!(final_status(&w), Some(200), "the caller got through");
    assert_eq!(merged(&w), 0, "and was not told that it asks twice");
    assert_eq!(diallers(&w), BTreeSet::from([0, 1]));
    w
}

#[test]
fn ac_47_a_caller_whose_owner_died_is_served_elsewhere() {
    owner_died(4500, None);
}

#[test]
fn ac_47_a_caller_that_is_faster_than_the_lease_waits_for_it() {
    let w = owner_died(1000, None);
    assert!(w.counted(Counter::Misrouted("INVITE", MisrouteAction::Hold)) > 4, "looked at until the owner was down");
}

#[test]
fn ac_47_a_caller_whose_owner_started_again_is_served_elsewhere() {
    owner_died(1500, Some(500));
}

#[test]
fn ac_47_a_restarted_owner_does_not_lose_to_its_former_self() {
    let mut w = world(slow(2000));
    w.net.apply = (5000, 5001);
    w.fault_at(108, Fault::CutLog(0));
    w.fault_at(110, Fault::Kill(0));
    w.fault_at(200, Fault::Restart(0));
    w.fault_at(242, Fault::HealLog(0));
    w.run_until(238);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 0, invite);
    w.run_until(60_000);
    assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Orphaned)), 1, "its claim lost to the one before its restart");
    assert_eq!(final_status(&w), Some(200));
}

#[test]
fn ac_28_the_same_request_by_another_way() {
    let mut w = world(Plan { failover: Some((50, 1)), ..slow(1000) });
    at_rest(&mut w);
    assert_eq!(merged(&w), 1, "while the first is served");
    assert_eq!(final_status(&w), Some(200));
    assert_eq!(w.phones[1].legs.len(), 1);
}

/// The way that nobody else can answer is refused, though the other node has no link and the log says nothing (RFC 3261 §8.2.2.2).
#[test]
fn ac_28_the_same_request_by_another_way_while_the_first_has_no_link() {
    for cut in [Fault::Cut(0), Fault::Cut(1)] {
        let psap = PsapPlan::Answer { ring: 1500, answer: 2500 };
        let mut w = world(Plan { psap, failover: Some((400, 1)), ..slow(0) });
        w.fault_at(20, cut);
        w.run_until(60_000);
        assert_eq!(final_status(&w), Some(200), "{cut:?}");
        assert_eq!(merged(&w), 1, "{cut:?}: the second way has its answer");
        assert_eq!(w.phones[1].legs.len(), 1, "{cut:?}");
        assert_eq!(diallers(&w), BTreeSet::from([0]), "{cut:?}");
    }
}

#[test]
fn a_ringing_call_is_not_given_up_for_a_dead_winner() {
    let mut w = world(slow(4000));
    w.net.apply = (20_000, 20_001);
    w.fault_at(50, Fault::CutLog(1));
    // Its claim is committed, and not applied anywhere.
    w.fault_at(110, Fault::Kill(0));
    w.fault_at(1000, Fault::HealLog(1));
    w.run_until(115);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.run_until(60_000);
    assert_eq!(w.counted(Counter::Claim(ClaimOutcome::LateOrphaned)), 1);
    assert_eq!(w.phones[1].legs.len(), 1);
    assert!(!w.phones[1].legs[0].cancelled);
    assert_eq!(final_status(&w), Some(200));
}

#[test]
fn ac_03_the_callers_482_is_no_answer_while_the_twin_rings() {
    let mut w = world(slow(3000));
    w.sip_apart = true;
    w.fault_at(0, Fault::Flip(1));
    w.fault_at(50, Fault::Cut(1));
    w.run_until(400);
    assert_eq!(diallers(&w), BTreeSet::from([1]));
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 0, invite);
    // The twin was asked by SIP first, for a while and in vain.
    w.run_until(700);
    assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Twin)), 1);
    assert_eq!((merged(&w), w.phones[1].merged.len()), (0, 1), "the PSAP's 482 goes no further");
    assert_eq!(w.phones[1].legs.len(), 2, "the winner has a leg of its own");
    w.fault_at(1000, Fault::Heal(1));
    at_rest(&mut w);
    assert!(w.phones[1].legs[0].cancelled, "the twin hands over as soon as it has the log");
    assert!(w.phones[1].legs[1].answered);
    assert_eq!(final_status(&w), Some(200));
}

#[test]
fn ac_03_a_twin_with_links_hands_over_at_once() {
    let mut w = world(slow(3000));
    w.fault_at(0, Fault::Flip(1));
    w.fault_at(50, Fault::CutLog(1));
    w.run_until(400);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 0, invite);
    w.run_until(500);
    assert_eq!(w.phones[1].legs.len(), 2);
    assert!(w.phones[1].legs[0].cancelled, "told whose the claim is");
    assert_eq!(merged(&w), 0);
    w.fault_at(5000, Fault::HealLog(1));
    at_rest(&mut w);
    assert_eq!(final_status(&w), Some(200));
    assert_eq!(w.phones[1].legs.iter().filter(|l| l.answered).count(), 1);
}

/// Copies of one INVITE at two nodes, so many ms apart: by their own addresses, so that they may come at once.
fn two_copies(w: &mut World, nodes: [usize; 2], apart: u64) {
    let invite = callers(w, &Method::Invite);
    for (node, after) in nodes.into_iter().zip([0, apart]) {
        wait(w, after);
        let (from, to) = (w.phones[0].addr, w.nodes[node].unicast);
        w.inject(from, to, invite.clone());
    }
}

const ORDERS: [[usize; 2]; 2] = [[1, 2], [2, 1]];

/// Nobody is at the address that the phone sends its own to.
fn unrouted(plan: Plan) -> World {
    let mut w = world(plan);
    w.fault_at(0, Fault::Kill(0));
    w.fault_at(1, Fault::Kill(1));
    w.fault_at(1, Fault::Kill(2));
    w.fault_at(START + 5, Fault::Restart(1));
    w.fault_at(START + 5, Fault::Restart(2));
    w
}

#[test]
fn ac_03_without_a_lease_exactly_one_of_two_dials() {
    for (order, apart) in ORDERS.into_iter().flat_map(|order| [0, 1, 2, 5, 60, 140].map(|apart| (order, apart))) {
        let mut w = unrouted(slow(1000));
        w.no_quorum = true;
        w.run_until(440);
        two_copies(&mut w, order, apart);
        wait(&mut w, 1000);
        assert_eq!(diallers(&w).len(), 1, "{order:?} {apart} ms apart");
        assert!(w.phones[1].merged.is_empty(), "{order:?} {apart} ms apart");
        w.no_quorum = false;
        w.run_until(60_000);
        assert_eq!(final_status(&w), Some(200), "{order:?} {apart} ms apart");
    }
}

#[test]
fn ac_03_the_peers_are_asked_while_a_lease_lasts_that_says_nothing() {
    for (order, apart) in ORDERS.into_iter().flat_map(|order| [0, 1, 5, 60].map(|apart| (order, apart))) {
        let mut w = unrouted(slow(1000));
        w.run_until(520);
        // The leader dies: leases last, proposals hang.
        w.no_quorum = true;
        two_copies(&mut w, order, apart);
        wait(&mut w, 1000);
        assert_eq!(diallers(&w).len(), 1, "{order:?} {apart} ms apart");
        w.no_quorum = false;
        w.run_until(60_000);
        assert_eq!(final_status(&w), Some(200), "{order:?} {apart} ms apart");
    }
}

#[test]
fn ac_03_orphans_are_asked_about_with_a_lease_too() {
    for (order, apart) in ORDERS.into_iter().flat_map(|order| [0, 1, 5, 100, 300].map(|apart| (order, apart))) {
        let mut w = world(slow(1000));
        w.fault_at(130, Fault::Kill(0));
        w.run_until(5000);
        two_copies(&mut w, order, apart);
        w.run_until(60_000);
        assert_eq!(diallers(&w).len(), 2, "{order:?} {apart} ms apart: the dead owner, and one of the others");
        assert_eq!(final_status(&w), Some(200), "{order:?} {apart} ms apart");
    }
}

#[test]
fn ac_03_cut_off_from_the_log_the_owner_is_asked() {
    let mut w = world(Plan { psap: PsapPlan::Answer { ring: 100, answer: 6000 }, ..Plan::plain(START) });
    w.fault_at(0, Fault::CutLog(1));
    w.run_until(3000);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.run_until(3500);
    assert_eq!(diallers(&w), BTreeSet::from([0]));
    assert_eq!(relayed(&w, "INVITE"), 1);
    w.fault_at(4000, Fault::HealLog(1));
    at_rest(&mut w);
    assert_eq!(w.phones[1].legs.len(), 1);
}

#[test]
fn ac_03_cut_off_from_all_it_is_dialled() {
    let mut w = world(slow(1000));
    w.fault_at(0, Fault::Flip(1));
    w.fault_at(0, Fault::Cut(1));
    w.run_until(400);
    assert_eq!(diallers(&w), BTreeSet::from([1]));
    assert_eq!(w.counted(Counter::Degraded), 1);
    w.fault_at(20_000, Fault::Heal(1));
    at_rest(&mut w);
    assert_eq!(final_status(&w), Some(200));
}

#[test]
fn ac_25_a_link_that_blips_is_no_dead_owner() {
    let mut w = world(slow(4000));
    w.fault_at(300, Fault::CutLinks(1));
    w.run_until(320);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.fault_at(1500, Fault::HealLinks(1));
    w.run_until(1400);
    assert_eq!(diallers(&w), BTreeSet::from([0]), "held");
    w.run_until(2000);
    assert_eq!(relayed(&w, "INVITE"), 1, "and relayed when the link is back");
    at_rest(&mut w);
    assert_eq!(w.phones[1].legs.len(), 1);
}

#[test]
fn ac_25_a_node_that_has_just_started_takes_nobody_for_dead() {
    let mut w = world(slow(4000));
    w.fault_at(0, Fault::Kill(1));
    w.fault_at(300, Fault::Restart(1));
    w.run_until(310);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    at_rest(&mut w);
    assert_eq!(diallers(&w), BTreeSet::from([0]));
    assert_eq!(final_status(&w), Some(200));
}

/// CANCEL at one node, its INVITE at another: after the 481, or while the first one still asks.
#[test]
fn ac_07_a_cancelled_invite_rings_at_no_node() {
    let table = [false, true].into_iter().flat_map(|quorum| [150, 190, 199, 230, 20_000].map(|after| (quorum, after)));
    for (quorum, after) in table {
        let mut w = World::new(3, 3, Vec::new(), Net::calm());
        w.sent = Some(Vec::new());
        w.no_quorum = !quorum;
        w.run_until(5000);
        let packet = |method: &str| {
            Bytes::from(format!(
                "{method} sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.9:5060;branch=z9hG4bKzz;rport\r\n\
                 From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>\r\nCall-ID: over\r\nCSeq: 1 {method}\r\n\
                 Max-Forwards: 70\r\nContact: <sip:c9@198.18.10.9>\r\nContent-Length: 0\r\n\r\n"
            ))
        };
        let from = addr("198.18.10.9:5060");
        let [first, second] = [w.nodes[1].unicast, w.nodes[2].unicast];
        w.inject(from, first, packet("CANCEL"));
        wait(&mut w, after);
        w.inject(from, second, packet("INVITE"));
        wait(&mut w, 3000);
        let told = by_nodes(&w, |s, m| s.to == from && m.method() == &Method::Invite && m.status() > Some(100));
        assert_eq!(told.first().and_then(|(_, m)| m.status()), Some(487), "quorum {quorum}, {after} ms later");
        assert!(w.phones[1].legs.iter().all(|leg| leg.cancelled), "quorum {quorum}, {after} ms later");
    }
}

#[test]
fn ac_07_cancel_that_overtakes_its_invite_without_quorum() {
    let mut w = World::new(3, 3, Vec::new(), Net::calm());
    w.sent = Some(Vec::new());
    w.no_quorum = true;
    w.run_until(5000);
    let packet = |method: &str| {
        Bytes::from(format!(
            "{method} sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.9:5060;branch=z9hG4bKzz;rport\r\n\
             From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>\r\nCall-ID: over\r\nCSeq: 1 {method}\r\n\
             Max-Forwards: 70\r\nContact: <sip:c9@198.18.10.9>\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    let (from, to) = (addr("198.18.10.9:5060"), w.anycast);
    w.inject(from, to, packet("CANCEL"));
    wait(&mut w, 50);
    w.inject(from, to, packet("INVITE"));
    wait(&mut w, 1000);
    let answers = by_nodes(&w, |s, _| s.to == from);
    let finals: Vec<(Option<u16>, Method)> = answers
        .iter()
        .filter(|(_, m)| m.status() > Some(100))
        .map(|(_, m): &(usize, Message)| (m.status(), m.method().clone()))
        .collect();
    assert!(finals.contains(&(Some(200), Method::Cancel)), "{finals:?}");
    assert!(finals.contains(&(Some(487), Method::Invite)), "{finals:?}");
    assert!(diallers(&w).is_empty() && w.phones[1].legs.is_empty(), "nobody rings");
}
