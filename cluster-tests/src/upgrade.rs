//! A cluster whose nodes are replaced one by one under calls: what a rolling upgrade is, whatever changes with it.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, NODES, anycast, grpc, list, number, unicast};
use crate::scene::Scene;
use crate::wait;

/// A node starts again, elects, and the leader hears of it: seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// The format level that the log has reached, as the n-th node tells it; 0: it does not say.
pub fn level(cluster: &Cluster, node: u8) -> u64 {
    let status = cluster.try_json(&["status", "--endpoint", &grpc(node)]).unwrap_or_default();
    number(&status["formatLevel"])
}

/// The newest format level that the n-th node knows.
///
/// # Panics
/// It is not listed.
pub fn newest(cluster: &Cluster, node: u8) -> u64 {
    let nodes = list(&cluster.json(&["node", "list"]), "nodes");
    number(&nodes.iter().find(|n| n["name"] == NODES[usize::from(node)]).expect("it is a member")["formatLevel"])
}

/// Waits until each node has reached a format level, or a later one.
///
/// # Panics
/// One does not.
pub fn reaches(cluster: &Cluster, wanted: u64) {
    for node in 0..3 {
        wait::until(&format!("format level {wanted} at {}", NODES[usize::from(node)]), LIMIT, || match level(cluster, node) {
            reached if reached >= wanted => Ok(()),
            reached => Err(reached),
        });
    }
}

/// The format level that all nodes have, and none a later one.
///
/// # Panics
/// One has not.
pub fn stays(cluster: &Cluster, wanted: u64) {
    for node in 0..3 {
        wait::until_equal(&format!("format level at {}", NODES[usize::from(node)]), LIMIT, &wanted, || level(cluster, node));
    }
}

/// Replaces one node after the other by `replace`, which ends the process and starts another. Before each a call is established at a node
/// that stays; it lives through the replacement and is ended through the new node; between them calls go through the anycast address.
/// `between` is told how many nodes have been replaced. Returns the number of calls.
///
/// # Panics
/// A call is lost, or a record.
pub fn roll(cluster: &Cluster, replace: impl Fn(u8), mut between: impl FnMut(u8)) -> usize {
    let mut scene = Scene::new();
    let mut calls = 0;
    for node in 0..3u8 {
        let stays = (node + 1) % 3;
        // Its calls would die with it, for nobody takes them over yet: the address moves first.
        cluster.flip(stays);
        let mut lasting = scene.established(unicast(stays));
        replace(node);
        let mut fresh = scene.established(anycast());
        scene.hang_up(&mut fresh, unicast(node));
        scene.hang_up(&mut lasting, unicast(node));
        calls += 2;
        cluster.settled(calls);
        between(node + 1);
    }
    calls
}

/// What each node would tell of all that was: CDRs and events, without what only names a place in a stream.
///
/// # Panics
/// Nodes tell different things.
pub fn replicas_agree(cluster: &Cluster) {
    let told = |node: u8| -> Vec<Vec<Value>> {
        let of = |what: &str, field: &str| list(&cluster.json(&[what, "list", "--endpoint", &grpc(node)]), field);
        let mut events = of("event", "events");
        for event in &mut events {
            event.as_object_mut().expect("an event").remove("resumeToken");
        }
        vec![of("cdr", "cdrs"), events]
    };
    let first = told(0);
    assert!(!first[0].is_empty() && !first[1].is_empty(), "there is something to compare");
    for node in 1..3 {
        wait::until_equal(&format!("what {} tells", NODES[usize::from(node)]), LIMIT, &first, || told(node));
    }
}
