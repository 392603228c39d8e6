//! A node with calls dies, is started again, or is only slow: its calls go on, with whoever takes them over, and both far ends hear of it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, core, grpc, list, unicast};
use cluster_tests::message::Message;
use cluster_tests::phone::Phone;
use cluster_tests::scene::{Call, Scene};
use cluster_tests::{command, upgrade, wait};
use serde_json::Value;

/// A lease, a margin, and a look each; the rest is for a busy machine. A node that was killed and leads costs an election too.
const NOTICED: Duration = Duration::from_secs(20);
/// The format level from which on calls are adopted.
const ADOPTED: u64 = 3;

fn name(node: u8) -> String {
    format!("node-{}", char::from(b'a' + node))
}

/// The newest event of a kind about a node, as another one tells it.
fn event(cluster: &Cluster, at: u8, kind: &str, of: u8) -> Result<Value, String> {
    let events = list(&cluster.json(&["event", "list", "--endpoint", &grpc(at)]), "events");
    let found = events.iter().rev().find(|e| e["kind"] == kind && e["node"] == name(of).as_str());
    found.cloned().ok_or_else(|| format!("no {kind} of {} among {} events", name(of), events.len()))
}

/// Who has the one call that a node lists, and how often it has changed owners.
fn owner(cluster: &Cluster, at: u8) -> Result<(String, u64), Vec<Value>> {
    match &cluster.calls_at(at)[..] {
        [call] => Ok((call["owner"].as_str().unwrap_or_default().to_owned(), call["epoch"].as_u64().unwrap_or_default())),
        calls => Err(calls.to_vec()),
    }
}

/// A far end is asked by a re-INVITE from this address, and goes on with it. What it was asked.
#[track_caller]
fn goes_on(phone: &mut Phone, within: &str, from: SocketAddr) -> Message {
    let asked = wait::until("it is asked to go on", NOTICED, || {
        phone.wait(Duration::from_millis(200), |m| m.method() == "INVITE" && m.header("Call-ID") == within).ok_or("silence")
    });
    let (invite, at) = asked;
    assert_eq!(at, from, "{invite:?}");
    assert!(invite.cseq().0 > 65_536, "above all that the node may have said before: {invite:?}");
    assert!(invite.text().contains(&format!("c=IN IP4 {}", from.ip())), "{}", invite.text());
    let contact = format!("<sip:far@{}>", phone.at());
    phone.send(&invite.response(200, "OK", "").with("Contact", &contact).with_sdp(invite.body.clone()), at);
    phone.expect_request("ACK");
    invite
}

/// Both far ends of a call go on with that node.
#[track_caller]
fn both_go_on(scene: &mut Scene, call: &Call, with: u8) {
    goes_on(&mut scene.psap, call.psap_invite.header("Call-ID"), core(with));
    goes_on(&mut scene.caller, call.invite.header("Call-ID"), unicast(with));
}

/// The call stands at the node, as all see it that are there.
#[track_caller]
fn adopted(cluster: &Cluster, by: u8, seen_at: &[u8]) {
    for at in seen_at {
        wait::until_equal("its owner", NOTICED, &Ok((name(by), 2)), || owner(cluster, *at));
    }
}

/// The node that took the call over, of those that are there.
#[track_caller]
fn heir(cluster: &Cluster, at: u8) -> u8 {
    let found = wait::until("somebody has the call", NOTICED, || match owner(cluster, at) {
        Ok((owner, 2)) => Ok(owner),
        other => Err(other),
    });
    found.as_bytes()[found.len() - 1] - b'a'
}

#[test]
fn a_call_outlives_its_node() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, ADOPTED);
    let mut scene = Scene::new();
    let owner = cluster.holder();
    let other = (owner + 1) % 3;
    let mut call = scene.established(unicast(owner));
    let uid = cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].as_str().expect("a uid").to_owned();
    let mut watch = cluster.sbcctl();
    watch.args(["call", "watch", &uid, "--from", "snapshot", "--endpoint", &grpc(other), "-o", "jsonl"]);
    let watch = command::spawn(&mut watch).unwrap_or_else(|e| panic!("{e}"));
    wait::until(
        "the call as it stands",
        NOTICED,
        || if watch.stdout().lines().count() == 1 { Ok(()) } else { Err(watch.stderr()) },
    );
    cluster.kill(owner);
    let survivor = heir(&cluster, other);
    assert_ne!(survivor, owner);
    both_go_on(&mut scene, &call, survivor);
    adopted(&cluster, survivor, &[(owner + 1) % 3, (owner + 2) % 3]);
    event(&cluster, other, "EVENT_KIND_NODE_DOWN", owner).expect("it is an event");
    let taken = |step: &str| cluster.metric(survivor, &format!("sbc_takeovers_total{{step=\"{step}\",class=\"sos\"}}"));
    assert_eq!((taken("adopted"), taken("stands")), (1, 2), "the call, and both legs");
    scene.hang_up(&mut call, unicast(survivor));
    wait::until("the watch says so, to the end", NOTICED, || {
        let told = watch.stdout();
        if told.contains(&format!("\"owner\":\"{}\"", name(survivor))) && told.contains("CALL_STATE_ENDED") {
            Ok(())
        } else {
            Err(told)
        }
    });
    cluster.dev(&["heal"]);
    cluster.settled(1);
    let cdr = &cluster.cdrs()[0];
    assert_eq!((cdr["owner"].as_str(), &cdr["ownersBefore"]), (Some(&*name(survivor)), &Value::from(vec![name(owner)])));
    assert_eq!(cdr["cause"]["origin"], "CAUSE_ORIGIN_CALLER");
}

#[test]
fn a_call_outlives_the_restart_of_its_node() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, ADOPTED);
    let mut scene = Scene::new();
    let owner = cluster.holder();
    let mut call = scene.established(unicast(owner));
    cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    cluster.kill(owner);
    cluster.dev(&["heal"]);
    both_go_on(&mut scene, &call, owner);
    adopted(&cluster, owner, &[0, 1, 2]);
    scene.hang_up(&mut call, unicast(owner));
    cluster.settled(1);
}

fn signal(cluster: &Cluster, node: u8, what: &str) {
    let pid = cluster.pid(node).expect("it runs").to_string();
    assert!(Command::new("kill").args([what, &pid]).status().expect("kill is there").success());
}

#[test]
fn a_node_that_was_silent_for_too_long_says_nothing_of_its_calls() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, ADOPTED);
    let mut scene = Scene::new();
    let owner = (cluster.holder() + 1) % 3;
    let other = (owner + 1) % 3;
    let mut call = scene.established(unicast(owner));
    cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    signal(&cluster, owner, "-STOP");
    let survivor = heir(&cluster, other);
    both_go_on(&mut scene, &call, survivor);
    signal(&cluster, owner, "-CONT");
    wait::until("it says that it lives", NOTICED, || event(&cluster, other, "EVENT_KIND_NODE_BACK", owner));
    adopted(&cluster, survivor, &[0, 1, 2]);
    // By the node that had it once, to the one that has it.
    scene.hang_up(&mut call, unicast(owner));
    cluster.settled(1);
    assert_eq!(cluster.cdrs()[0]["cause"]["origin"], "CAUSE_ORIGIN_CALLER");
}

/// Lease, margin and a second, with the defaults of the configuration.
const DECLARED: Duration = Duration::from_millis(2000 + 500 + 1000);

#[test]
fn a_death_is_in_the_log_a_lease_a_margin_and_a_second_later() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    let leader = wait::until("a leader", NOTICED, || {
        let status = cluster.json(&["status"]);
        (0..3).find(|n| status["leader"] == name(*n).as_str()).ok_or(status)
    });
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let incarnation = |node: u8| {
        let nodes = list(&cluster.json(&["node", "list", "--endpoint", &grpc(other)]), "nodes");
        let found = nodes.iter().find(|n| n["name"] == name(node).as_str());
        found.and_then(|n| n["incarnation"].as_u64()).ok_or_else(|| format!("{nodes:?}"))
    };
    let first = wait::until("the node's start is known", NOTICED, || incarnation(dead));
    cluster.kill(dead);
    let killed = Instant::now();
    wait::until("its death is an event", NOTICED, || event(&cluster, other, "EVENT_KIND_NODE_DOWN", dead));
    let took = killed.elapsed();
    assert!(took > Duration::from_millis(2000), "its lease ran: {took:?}");
    assert!(took < DECLARED, "{took:?}");
    println!("declared down {took:?} after kill -9");
    cluster.dev(&["heal"]);
    wait::until("its next start is known", NOTICED, || match incarnation(dead) {
        Ok(second) if second > first => Ok(()),
        seen => Err(seen),
    });
    assert!(event(&cluster, other, "EVENT_KIND_NODE_BACK", dead).is_err(), "a start is no return");
}
