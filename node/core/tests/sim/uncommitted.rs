//! What a node tells of its calls before the log has it, or when the log cannot take it.

use std::collections::{BTreeMap, BTreeSet};

use sbc_core::ids::{CallUid, CommandId};
use sbc_core::io::{Command, CommandReply};
use sbc_core::replica::{Phase, event_id};
use sbc_core::store_pb::{Event, EventKind};

use crate::invariants;
use crate::plan::{Plan, PsapPlan, Who};
use crate::world::{Fault, Net, World};

fn world(net: Net) -> World {
    let plan = Plan { hang_up: (Who::Caller, 20_000), ..Plan::plain(5000) };
    let mut w = World::new(3, 3, vec![plan], net);
    w.raise_level();
    w.trace = std::env::var_os("SIM_TRACE").is_some();
    w
}

fn told(w: &World, node: usize) -> Vec<Event> {
    w.nodes[node].early.events(0).map(|(_, _, early)| (*early.event).clone()).collect()
}

fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(Event::kind).collect()
}

/// Events of calls, by id.
fn committed(w: &World, node: usize) -> BTreeMap<String, Event> {
    let events = w.nodes[node].replica.read().expect("one thread").events(0, usize::MAX).expect("none is compacted");
    events.iter().filter(|e| !e.call.is_empty()).map(|e| (event_id(e), (**e).clone())).collect()
}

fn at_rest(w: &mut World) {
    w.no_quorum = false;
    w.run_until(290_000);
    let wrong = invariants::check(w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn call(w: &World, node: usize) -> (CallUid, Phase) {
    let call = w.nodes[node].early.calls(None).next().expect("a call");
    (call.uid, call.phase())
}

#[test]
fn without_quorum_a_call_is_told_at_once_and_later_confirmed() {
    use EventKind::{Answered, Ended, Received, Ringing};
    let mut w = world(Net::calm());
    w.no_quorum = true;
    w.run_until(5010);
    let first = told(&w, 0);
    assert_eq!(kinds(&first), [Received], "no 10 s, and no budget: there is no lease");
    assert!(first[0].emergency && !first[0].invite.is_empty() && first[0].parties.is_some());
    assert_eq!((first[0].revision, first[0].call_sequence), (0, 0));
    w.run_until(8000);
    assert_eq!(kinds(&told(&w, 0)), [Received, Ringing, Answered]);
    assert_eq!(call(&w, 0).1, Phase::Answered);
    assert!(told(&w, 1).is_empty(), "each node tells of its own");
    w.run_until(60_000);
    let last = told(&w, 0);
    assert_eq!(kinds(&last), [Received, Ringing, Answered, Ended]);
    assert_eq!(call(&w, 0).1, Phase::Ended);
    at_rest(&mut w);
    for node in 0..3 {
        let log = committed(&w, node);
        assert_eq!(log.len(), 4);
        for (n, early) in (1..).zip(&last) {
            let late = &log[&event_id(early)];
            assert_eq!((late.call_sequence, late.revision > 0), (n, true));
            assert_eq!(Event { revision: 0, call_sequence: 0, ..late.clone() }, *early);
        }
    }
    assert!(told(&w, 0).is_empty() && w.nodes[0].early.calls(None).next().is_none());
}

#[test]
fn a_log_that_is_in_time_makes_it_unnecessary() {
    let mut w = world(Net::calm());
    at_rest(&mut w);
    assert!(w.nodes.iter().all(|n| n.told.is_empty()));
}

#[test]
fn a_log_that_is_late_is_not_waited_for() {
    let mut w = world(Net { commit: (900_000, 900_001), ..Net::calm() });
    w.run_until(5140);
    assert!(told(&w, 0).is_empty(), "the claim has 150 ms");
    w.run_until(5170);
    assert_eq!(kinds(&told(&w, 0)), [EventKind::Received]);
    w.run_until(6000);
    assert!(!kinds(&told(&w, 0)).contains(&EventKind::Received), "it is confirmed");
    at_rest(&mut w);
    assert!(w.nodes[0].told.contains(&committed(&w, 1).into_keys().find(|id| id.contains("received")).expect("one call")));
}

#[test]
fn an_operator_ends_what_only_its_node_knows() {
    let mut w = world(Net::calm());
    w.no_quorum = true;
    w.run_until(8000);
    let (uid, _) = call(&w, 0);
    let command = Command::Terminate { call: uid, reason: "test".into(), emergency: true };
    assert_eq!(w.command(0, CommandId(9), command), CommandReply::Done);
    w.run_until(8100);
    assert_eq!(call(&w, 0).1, Phase::Ended);
    assert_eq!(told(&w, 0).last().and_then(|e| e.cause.clone()).map(|c| c.origin).as_deref(), Some("operator"));
    at_rest(&mut w);
}

/// Both sides of a cut dial, each without the other: one of them is to take back what it said.
#[test]
fn the_loser_of_a_claim_takes_back_what_it_told() {
    let mut retracted = 0;
    for seed in 0..60 {
        let psap = PsapPlan::Answer { ring: 2000, answer: 9000 };
        let plan = Plan { psap, failover: Some((400, 1)), ..Plan::plain(5000) };
        let mut w = World::new(seed, 3, vec![plan], Net::calm());
        w.raise_level();
        // Else one of them would hear of the other by SIP, and refuse its way.
        w.sip_apart = true;
        w.fault_at(1000, Fault::Cut(0));
        w.fault_at(5300 + seed * 20, Fault::Heal(0));
        w.run_until(290_000);
        let wrong = invariants::check(&w);
        assert!(wrong.is_empty(), "{seed}: {wrong:#?}");
        for node in &w.nodes {
            for (_, call, early) in node.early.events(0).filter(|(_, _, e)| e.event.kind() == EventKind::Retracted) {
                retracted += 1;
                assert!(!early.event.retracted.is_empty() && node.early.call(call).is_none());
                let replica = node.replica.read().expect("one thread");
                assert!(replica.call(call).is_none(), "the log does not have it");
            }
        }
    }
    assert!(retracted > 0, "no world had one");
}

/// There is no quorum while a call rings and is answered, and one when it ends: its End comes before what was to come before it. What the log
/// has then stands; what it will never have is taken back, and no more than that.
#[test]
fn an_end_that_overtakes_what_was_told_takes_back_what_the_log_will_not_have() {
    let mut taken_back = 0;
    let answered = |talk| Plan { hang_up: (Who::Caller, talk), ..Plan::plain(5000) };
    let abandoned = || Plan { psap: PsapPlan::RingOnly, cancel: Some(1400), ..Plan::plain(5000) };
    // From before the ringing, or the answer, until before the end, or after it.
    for (lost, back, plan) in [
        (5050, 6300, answered(400)),
        (5050, 6300, answered(200)),
        (5500, 6300, answered(400)),
        (5500, 6300, answered(700)),
        (5050, 6300, abandoned()),
        (5050, 9000, abandoned()),
    ] {
        let what = format!("without a quorum from {lost} to {back}: {plan:?}");
        let mut w = World::new(3, 3, vec![plan], Net::calm());
        w.raise_level();
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.fault_at(lost, Fault::Leaderless);
        w.fault_at(back, Fault::Elected);
        w.run_until(290_000);
        let log = committed(&w, 0);
        let early: Vec<Event> = told(&w, 0);
        let retracted: BTreeSet<String> = early.iter().flat_map(|e| e.retracted.iter().cloned()).collect();
        let missing: BTreeSet<String> =
            w.nodes[0].told.iter().filter(|id| !log.contains_key(*id) && !id.contains("retracted")).cloned().collect();
        assert_eq!(retracted, missing, "{what}: {:?} of {:?}", log.keys(), w.nodes[0].told);
        taken_back += retracted.len();
        at_rest(&mut w);
    }
    assert!(taken_back > 0, "no world had one");
}
