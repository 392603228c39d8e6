//! A node that is quiet about a call, because another one has the called side: when it dials all the same, and when never (AC-55). Each of
//! these rules alone keeps the called side from ringing once more, so each has a world in which no other one does.

use crate::cases::{callers, repeat_at, world};
use crate::plan::{ContactHabit, Plan, PsapPlan, Who};
use crate::world::{Fault, World, addr};
use sbc_core::sip::Method;

/// The INVITE; by then no node has a lease.
const START: u64 = 3000;
/// The called side rings: the first node is cut off, and cannot be asked by SIP either.
const RINGS: u64 = START + 300;

/// An INVITE at the first node and, ten ms later, at the second one, which asks, hears that the first one has it, and is quiet. There is no
/// quorum, so nobody has the claim.
fn quiet(plan: Plan) -> World {
    let mut w = world(Plan { start: START, ..plan });
    w.speaking = vec![[Some(addr("198.18.10.1:20000")), Some(addr("198.18.20.1:20000"))]; 3];
    w.sip_apart = true;
    w.no_quorum = true;
    w.run_until(START + 10);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.run_until(RINGS);
    assert_eq!(asked(&w), 1, "one of two");
    w
}

/// How often the called side was asked: it rang, or said that it knows the leg.
fn asked(w: &World) -> usize {
    w.phones[1].legs.len() + w.phones[1].merged.len()
}

/// The first node is cut off, and the others have a quorum from then on: the claim becomes the second one's.
fn cut_off(w: &mut World, elected: u64) {
    w.fault_at(RINGS, Fault::Cut(0));
    w.fault_at(elected, Fault::Elected);
}

#[test]
fn who_is_quiet_dials_where_the_node_that_has_the_call_is_gone() {
    let mut w = quiet(Plan { psap: PsapPlan::RingOnly, ..Plan::plain(0) });
    cut_off(&mut w, RINGS + 100);
    w.run_until(START + 31_000);
    assert!(asked(&w) > 1, "nobody has said that the caller is served, and it waits");
}

/// The same, but that the caller has given up at the quiet node, which said 481.
#[test]
fn a_caller_that_has_cancelled_at_the_quiet_node_is_not_dialled_for() {
    let mut w = quiet(Plan { psap: PsapPlan::RingOnly, cancel: Some(1000), ..Plan::plain(0) });
    cut_off(&mut w, RINGS + 100);
    w.run_until(START + 60_000);
    assert_eq!(asked(&w), 1);
}

/// The same, but that the caller acknowledges there what the other node has answered.
#[test]
fn a_caller_that_acknowledges_at_the_quiet_node_is_not_dialled_for() {
    let psap = PsapPlan::Answer { ring: 100, answer: 400 };
    let mut w = quiet(Plan { psap, habit: ContactHabit::Ignores, hang_up: (Who::Caller, 50_000), ..Plan::plain(0) });
    cut_off(&mut w, RINGS + 100);
    w.run_until(START + 49_000);
    assert!(w.phones[0].legs[0].answered);
    assert_eq!(asked(&w), 1);
}

/// RFC 3261 §17.1.1.2: after 64 × T1 its sender has given up, whoever could dial then.
#[test]
fn who_is_quiet_dials_for_no_invite_that_is_older_than_its_sender_waits() {
    // What waits is proposed with the lease: in the second world at the age of 33 s.
    for (elected, again) in [(START + 9000, true), (START + 33_000, false)] {
        let mut w = quiet(Plan { psap: PsapPlan::RingOnly, ..Plan::plain(0) });
        cut_off(&mut w, elected);
        w.run_until(START + 100_000);
        assert_eq!(asked(&w) > 1, again, "the claim could be decided from {elected} ms on");
    }
}

/// The log gives the claim to the quiet node, which learns of it late, because it was paused: when the call, which the first node served, is
/// over there and forgotten, as one that the log has no place for. Nobody but that node's memory of what it has served knows.
fn learns_late(talk: u64) -> (World, u64) {
    let psap = PsapPlan::Answer { ring: 100, answer: 400 };
    let mut w = quiet(Plan { psap, hang_up: (Who::Caller, talk), ..Plan::plain(0) });
    // The first node does not propose its own claim first.
    w.fault_at(RINGS, Fault::CutLog(0));
    // The call is answered by then: what waits is proposed with the next lease.
    w.fault_at(RINGS + 300, Fault::Elected);
    w.run_until(RINGS + 400);
    let before = w.nodes[1].last_commit;
    while w.nodes[1].last_commit == before {
        w.run_until(w.now / 1000 + 1);
    }
    let proposed = w.now / 1000;
    w.freeze(1, proposed + 2500);
    // Nor is it told meanwhile that the call was answered.
    w.fault_at(proposed + 50, Fault::CutLinks(1));
    w.fault_at(proposed + 2400, Fault::HealLinks(1));
    w.fault_at(proposed + 100, Fault::HealLog(0));
    w.run_until(proposed + 12_000);
    (w, proposed - START)
}

#[test]
fn a_call_that_was_served_and_is_forgotten_is_not_dialled_again() {
    let (_, proposed) = learns_late(60_000);
    let (w, _) = learns_late(proposed - 400 + 1000);
    assert!(w.phones[0].legs[0].ended_at.is_some_and(|at| at / 1000 < START + proposed + 2000), "over before the pause is");
    assert_eq!(asked(&w), 1);
}
