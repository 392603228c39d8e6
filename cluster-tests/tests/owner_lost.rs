//! A node with calls dies, or is only slow: what the others say of it, and what becomes of its calls.

use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, grpc, list, unicast};
use cluster_tests::scene::Scene;
use cluster_tests::{command, upgrade, wait};
use serde_json::Value;

/// A lease, a margin, and a look each; the rest is for a busy machine. A node that was killed and leads costs an election too.
const NOTICED: Duration = Duration::from_secs(20);

fn name(node: u8) -> String {
    format!("node-{}", char::from(b'a' + node))
}

/// The newest event of a kind about a node, as another one tells it.
fn event(cluster: &Cluster, at: u8, kind: &str, of: u8) -> Result<Value, String> {
    let events = list(&cluster.json(&["event", "list", "--endpoint", &grpc(at)]), "events");
    let found = events.iter().rev().find(|e| e["kind"] == kind && e["node"] == name(of).as_str());
    found.cloned().ok_or_else(|| format!("no {kind} of {} among {} events", name(of), events.len()))
}

/// Whether the one call that a node lists is shown as lost.
fn is_lost(cluster: &Cluster, at: u8) -> Result<bool, Vec<Value>> {
    match &cluster.calls_at(at)[..] {
        [call] => Ok(call["ownerLost"] == true),
        calls => Err(calls.to_vec()),
    }
}

#[test]
fn a_node_that_starts_again_tells_both_far_ends_of_its_calls() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    let mut scene = Scene::new();
    let owner = cluster.holder();
    let other = (owner + 1) % 3;
    let call = scene.established(unicast(owner));
    let uid = cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].as_str().expect("a uid").to_owned();
    let watch = |format: &str| {
        let mut watch = cluster.sbcctl();
        watch.args(["call", "watch", &uid, "--from", "snapshot", "--endpoint", &grpc(other), "-o", format]);
        let watch = command::spawn(&mut watch).unwrap_or_else(|e| panic!("{e}"));
        wait::until("the call as it stands", NOTICED, || {
            if watch.stdout().lines().count() == 1 { Ok(()) } else { Err(watch.stderr()) }
        });
        watch
    };
    let (text, jsonl) = (watch("table"), watch("jsonl"));
    cluster.kill(owner);
    let down = wait::until("the node's death is an event", NOTICED, || event(&cluster, other, "EVENT_KIND_NODE_DOWN", owner));
    assert_eq!(is_lost(&cluster, other), Ok(true));
    assert_eq!(is_lost(&cluster, (other + 1) % 3), Ok(true));
    let table = cluster.ctl(&["call", "list", "--endpoint", &grpc(other)]).stdout;
    assert!(table.contains("answered, owner-lost"), "{table}");
    wait::until("the watches say so", NOTICED, || {
        let (text, jsonl) = (text.stdout(), jsonl.stdout());
        let told =
            [text.contains(&format!("{uid} answered, owner-lost owner {}", name(owner))), jsonl.contains("\"ownerLost\":true")];
        if told == [true, true] { Ok(()) } else { Err((text, jsonl)) }
    });

    cluster.dev(&["heal"]);
    let (bye, from) = scene.caller.expect_request("BYE");
    assert_eq!(from, unicast(owner));
    assert!(bye.header("Reason").starts_with("Q.850;cause=41"), "{bye:?}");
    assert!(bye.cseq().0 > 65_536, "above all that the node may have said before: {bye:?}");
    scene.caller.send(&bye.response(200, "OK", ""), from);
    let bye = scene.psap_confirms("BYE");
    assert!(bye.cseq().0 > 65_536 && bye.header("Call-ID") == call.psap_invite.header("Call-ID"), "{bye:?}");
    cluster.settled(1);
    // They went on, to the end of the call.
    for watch in [text, jsonl] {
        assert!(watch.finish(NOTICED * 10).expect("it ends").ok("call watch").stdout.contains("owner restarted"));
    }
    let cdr = &cluster.cdrs()[0];
    assert_eq!(cdr["endedAt"], down["occurredAt"], "the call was over when its node was");
    assert_eq!(
        (cdr["cause"]["origin"].as_str(), cdr["cause"]["reason"].as_str()),
        (Some("CAUSE_ORIGIN_NODE"), Some("owner restarted"))
    );
}

fn signal(cluster: &Cluster, node: u8, what: &str) {
    let pid = cluster.pid(node).expect("it runs").to_string();
    assert!(Command::new("kill").args([what, &pid]).status().expect("kill is there").success());
}

#[test]
fn a_node_that_was_only_slow_keeps_its_calls() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    let mut scene = Scene::new();
    let owner = (cluster.holder() + 1) % 3;
    let other = (owner + 1) % 3;
    let mut call = scene.established(unicast(owner));
    cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    signal(&cluster, owner, "-STOP");
    wait::until("it is declared down", NOTICED, || event(&cluster, other, "EVENT_KIND_NODE_DOWN", owner));
    assert_eq!(is_lost(&cluster, other), Ok(true));
    signal(&cluster, owner, "-CONT");
    wait::until("it says that it lives", NOTICED, || event(&cluster, other, "EVENT_KIND_NODE_BACK", owner));
    wait::until_equal("its call is its own", NOTICED, &Ok(false), || is_lost(&cluster, other));
    scene.hang_up(&mut call, unicast(owner));
    cluster.settled(1);
    assert_eq!(cluster.cdrs()[0]["cause"]["origin"], "CAUSE_ORIGIN_CALLER");
}
