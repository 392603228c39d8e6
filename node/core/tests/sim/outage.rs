//! The log is without a quorum for long: calls go on, what is over costs little, and the log learns of all of it in the end, with the times
//! at which it happened.

use sbc_core::io::{Counter, Limit};
use sbc_core::policy::{MisroutePolicy, RouteMatch};

use crate::invariants;
use crate::plan::Plan;
use crate::world::{Net, UNIX, World, config};

/// One after the other, so many ms apart.
fn calls(count: u64, apart: u64) -> Vec<Plan> {
    (0..count).map(|n| Plan::plain(5000 + n * apart)).collect()
}

/// A trunk that may have one ordinary call at a time, and no quorum from the start.
fn world(count: u64) -> World {
    let mut config = config(MisroutePolicy::Relay, false);
    config.emergency_numbers = vec!["911".into()];
    config.routes[0].matches = vec![RouteMatch::User("112".into())];
    config.trunks[0].limits.max_calls = 1;
    let mut w = World::with_config(3, 3, calls(count, 10_000), Net::calm(), |_| config);
    w.trace = std::env::var_os("SIM_TRACE").is_some();
    w.no_quorum = true;
    w
}

fn unrecorded(w: &World) -> usize {
    w.nodes.iter().map(|n| n.sbc.unrecorded_count()).sum()
}

#[test]
fn calls_that_are_over_count_as_none_while_the_log_cannot_hear_of_them() {
    let mut w = world(8);
    w.run_until(100_000);
    let got: Vec<_> = w.phones[0].legs.iter().map(|l| l.final_status).collect();
    assert_eq!(got, [Some(200); 8], "the trunk's limit is for calls that are up");
    assert_eq!(w.counted(Counter::Limited(Limit::TrunkMaxCalls)), 0);
    w.run_until(200_000);
    assert_eq!(unrecorded(&w), 8, "only their records are kept");
    let tried = w.proposals;
    w.run_until(3_600_000);
    assert_eq!(w.proposals, tried, "nothing is proposed to a log that cannot commit it");
    w.no_quorum = false;
    w.run_until(3_700_000);
    assert_eq!(unrecorded(&w), 0);
    let wrong = invariants::check(&w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What waited does not sit out the wait that has grown meanwhile: a node that dies a moment later has told it.
#[test]
fn what_waited_is_told_within_a_moment_of_the_quorums_return() {
    for at in [100_000, 100_700, 131_000, 1_234_500] {
        let mut w = world(8);
        w.run_until(at);
        assert_eq!(unrecorded(&w), 8);
        w.no_quorum = false;
        // The lease comes with the next beat, at most 500 ms later.
        w.run_until(at + 600);
        assert_eq!(unrecorded(&w), 0, "{at}");
    }
}

#[test]
fn a_cdr_tells_when_the_call_was_not_when_the_quorum_came_back() {
    let mut w = world(1);
    w.run_until(3 * 3_600_000);
    w.no_quorum = false;
    w.run_until(3 * 3_600_000 + 100_000);
    let cdrs = w.nodes[0].replica.read().expect("no thread of ours panics").cdrs(0, 10).expect("none was compacted");
    assert_eq!(cdrs.len(), 1);
    let since = |at: u64| at - UNIX;
    assert_eq!(since(cdrs[0].received_unix_ms) / 100, 50);
    assert_eq!(since(cdrs[0].answered_unix_ms) / 100, 61);
    assert_eq!(since(cdrs[0].ended_unix_ms) / 100, 91);
}

/// The wall clock jumps by an hour in mid-call, on or back: the call is as long as it was.
#[test]
fn a_clock_that_jumps_makes_no_call_longer() {
    for hour in [3_600_000, -3_600_000] {
        let mut w = World::new(3, 3, calls(1, 0), Net::calm());
        w.raise_level();
        w.run_until(7500);
        w.wall_off_ms = hour;
        w.run_until(200_000);
        let cdrs = w.nodes[1].replica.read().expect("no thread of ours panics").cdrs(0, 10).expect("none was compacted");
        let [cdr] = &cdrs[..] else { panic!("{cdrs:?}") };
        let since = |at: u64| (at - UNIX) / 100;
        assert_eq!([since(cdr.received_unix_ms), since(cdr.answered_unix_ms), since(cdr.ended_unix_ms)], [50, 60, 90], "{hour}");
    }
}
