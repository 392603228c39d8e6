//! An operator cannot silence the service by accident: of all nodes that are withdrawn or drained, the last stays.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options, list};
use cluster_tests::command::Finished;
use cluster_tests::{upgrade, wait};
use serde_json::Value;

/// A node tells the log within half a second how it is; the rest is a busy machine.
const TOLD: Duration = Duration::from_secs(20);
/// A standby takes a free address within a second.
const TAKEN: Duration = Duration::from_secs(15);

fn nodes(cluster: &Cluster) -> Vec<Value> {
    list(&cluster.json(&["node", "list"]), "nodes")
}

fn announcing(nodes: &[Value]) -> usize {
    nodes.iter().filter(|n| n["announced"] == true).count()
}

fn start() -> Cluster {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    cluster
}

fn said(done: &Finished) -> String {
    format!("{:?} {}{}", done.code, done.stdout, done.stderr)
}

#[test]
fn three_withdrawals_within_a_second_leave_one() {
    let cluster = start();
    // Until the log knows that others would serve, nobody may go.
    let first = NODES[usize::from(cluster.holder())];
    wait::until("the holder may withdraw", TOLD, || {
        let done = cluster.try_ctl(&["node", "withdraw", first, "--yes"]);
        if done.code == Some(0) { Ok(()) } else { Err(said(&done)) }
    });
    cluster.ctl(&["node", "announce", first]);
    // All at once, twice: whatever each of them finds, one that serves is left.
    for _ in 0..2 {
        let all: Vec<Finished> = std::thread::scope(|scope| {
            let withdraw = |node: &'static str| scope.spawn(|| cluster.try_ctl(&["node", "withdraw", node, "--yes"]));
            let threads: Vec<_> = NODES.map(withdraw).into_iter().collect();
            threads.into_iter().map(|t| t.join().expect("it runs")).collect()
        });
        assert!(all.iter().any(|done| done.code != Some(0)), "{:?}", all.iter().map(said).collect::<Vec<_>>());
        for refused in all.iter().filter(|done| done.code != Some(0)) {
            let text = said(refused);
            assert!(text.contains("LAST_ANNOUNCER") || text.contains("NOT_ANNOUNCING"), "{text}");
        }
        wait::until("one announces", TAKEN, || Some(nodes(&cluster)).filter(|n| announcing(n) == 1).ok_or("nobody"));
    }
    // One after the other: the last holder is refused, and goes on.
    let refused = wait::until("a holder is refused", TAKEN, || {
        let holder = NODES[usize::from(cluster.holder())];
        let done = cluster.try_ctl(&["node", "withdraw", holder, "--yes"]);
        if said(&done).contains("LAST_ANNOUNCER") { Ok(holder) } else { Err(said(&done)) }
    });
    let now = nodes(&cluster);
    assert!(now.iter().all(|n| (n["announced"] == true) == (n["name"] == refused)), "{now:?}");
    // A node that has nothing is not withdrawn with success; the order that was carried out is.
    let idle = NODES.into_iter().find(|n| *n != refused).expect("three nodes");
    let again = cluster.try_ctl(&["node", "withdraw", idle, "--yes"]);
    assert!(again.code != Some(0) && said(&again).contains("NOT_ANNOUNCING"), "{}", said(&again));
    // Forced, and back.
    cluster.ctl(&["node", "withdraw", refused, "--yes", "--force"]);
    assert_eq!(announcing(&nodes(&cluster)), 0);
    cluster.ctl(&["node", "announce", refused, "--exclusive"]);
    assert_eq!(announcing(&nodes(&cluster)), 1);
}

#[test]
fn draining_one_after_the_other_stops_at_the_last_and_a_standby_is_not_withdrawn() {
    let cluster = start();
    let holder = NODES[usize::from(cluster.holder())];
    let standby = NODES.into_iter().find(|n| *n != holder).expect("three nodes");
    let done = cluster.try_ctl(&["node", "withdraw", standby, "--yes"]);
    assert!(done.code != Some(0) && said(&done).contains("NOT_ANNOUNCING"), "{}", said(&done));
    let state = |name: &str| nodes(&cluster).into_iter().find(|n| n["name"] == name).map(|n| n["announceState"].clone());
    assert_eq!(state(standby), Some("ANNOUNCE_STATE_STANDBY".into()), "it stands by as before");
    for node in [NODES[0], NODES[1]] {
        wait::until("it may be drained", TOLD, || {
            let done = cluster.try_ctl(&["node", "drain", node, "--yes", "--wait", "20"]);
            if done.code == Some(0) { Ok(()) } else { Err(said(&done)) }
        });
    }
    let last = cluster.try_ctl(&["node", "drain", NODES[2], "--yes", "--wait", "5"]);
    assert!(last.code != Some(0) && said(&last).contains("LAST_ANNOUNCER"), "{}", said(&last));
    wait::until("the last announces", TAKEN, || {
        let now = nodes(&cluster);
        let good = now.iter().any(|n| n["name"] == NODES[2] && n["announced"] == true && n["draining"] != true);
        if good { Ok(()) } else { Err(now) }
    });
    // Another one is back: now it may go.
    cluster.ctl(&["node", "undrain", NODES[0]]);
    wait::until("the last may be drained", TOLD, || {
        let done = cluster.try_ctl(&["node", "drain", NODES[2], "--yes", "--wait", "20"]);
        if done.code == Some(0) { Ok(()) } else { Err(said(&done)) }
    });
    wait::until("the first announces", TAKEN, || {
        let now = nodes(&cluster);
        if now.iter().any(|n| n["name"] == NODES[0] && n["announced"] == true) { Ok(()) } else { Err(now) }
    });
    // Without a quorum only a forced order counts.
    cluster.kill(1);
    cluster.kill(2);
    let done = wait::until("no quorum", TAKEN, || {
        let done = cluster.try_ctl(&["node", "withdraw", NODES[0], "--yes"]);
        if said(&done).contains("NO_QUORUM") || said(&done).contains("NO_LEADER") { Ok(done) } else { Err(said(&done)) }
    });
    assert!(said(&done).contains("force"), "{}", said(&done));
    assert_eq!(announcing(&nodes(&cluster)), 1);
    cluster.ctl(&["node", "withdraw", NODES[0], "--yes", "--force"]);
    assert_eq!(announcing(&nodes(&cluster)), 0);
}
