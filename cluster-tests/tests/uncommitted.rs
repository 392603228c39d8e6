//! Two of three nodes are gone: the third tells of its calls itself, lets an operator end them, and the log confirms what it told.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, grpc, list, number, unicast};
use cluster_tests::message::Dialog;
use cluster_tests::scene::Scene;
use cluster_tests::{upgrade, wait};
use serde_json::Value;

/// A lease that runs out, nodes that are found dead or alive again, on a busy machine.
const SETTLED: Duration = Duration::from_secs(30);
/// RECEIVED is told at once: what an event costs on a busy machine, and far less than any time-out of a proposal.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// The events of calls at a node: id, kind and sequence.
fn events(cluster: &Cluster, node: u8) -> Vec<(String, String, u64)> {
    let all = list(&cluster.json(&["event", "list", "--endpoint", &grpc(node)]), "events");
    let text = |e: &Value, key: &str| e[key].as_str().unwrap_or_default().to_owned();
    let of_calls = all.iter().filter(|e| !text(e, "call").is_empty());
    of_calls.map(|e| (text(e, "eventId"), text(e, "kind"), number(&e["callSequence"]))).collect()
}

#[test]
fn without_quorum_a_live_emergency_call_is_seen_and_ended() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    let mut scene = Scene::new();
    let holder = cluster.holder();
    let endpoint = grpc(holder);
    let ctl = |arguments: &[&str]| cluster.ctl(&[arguments, &["--endpoint", &endpoint]].concat());
    for gone in (0..3).filter(|n| *n != holder) {
        cluster.kill(gone);
    }
    wait::until_equal("the quorum is lost", SETTLED, &0, || cluster.metric(holder, "sbc_raft_quorum"));

    wait::until_equal("the alarm of it", SETTLED, &1, || cluster.metric(holder, "sbc_alarm{alarm=\"no-quorum\"}"));
    assert!(ctl(&["status"]).stdout.contains("no-quorum"), "an operator sees it");

    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, unicast(holder));
    wait::until("the dispatcher hears of it at once", AT_ONCE, || match &events(&cluster, holder)[..] {
        [(id, kind, 0), ..] if kind == "EVENT_KIND_RECEIVED" && id.ends_with(".1.received.1") => Ok(()),
        other => Err(other.to_vec()),
    });
    wait::until_equal("a call went on without the log", SETTLED, &1, || {
        cluster.metric(holder, "sbc_alarm{alarm=\"calls-degraded\"}")
    });
    scene.psap.send(&Scene::answer(&at_psap), from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    // Without it the caller is sent no BYE (RFC 3261 §15).
    let dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), unicast(holder));

    let call = wait::until("it is listed as answered", SETTLED, || match &cluster.calls_at(holder)[..] {
        [call] if call["state"] == "CALL_STATE_ANSWERED" => Ok(call.clone()),
        other => Err(other.to_vec()),
    });
    assert_eq!((&call["committed"], &call["emergency"]), (&Value::Bool(false), &Value::Bool(true)));
    assert_eq!(call["parties"]["sipCallId"], invite.header("Call-ID"));
    let uid = call["uid"].as_str().expect("a call has a uid");
    assert!(ctl(&["call", "show", uid]).stdout.contains("answered, uncommitted"));
    let tail = ctl(&["dispatch", "tail", "--from", "snapshot", "--count", "3"]);
    let lines: Vec<&str> = tail.stdout.lines().collect();
    for (line, kind) in lines.iter().zip(["received", "ringing", "answered"]) {
        assert!(line.contains(&format!("{uid} (not committed) {kind}")), "{lines:?}");
    }
    let watched = ctl(&["call", "watch", uid, "--from", "snapshot", "--count", "1"]);
    assert!(watched.stdout.contains("uncommitted"), "{}", watched.stdout);

    ctl(&["call", "terminate", uid, "--emergency", "--yes", "--reason", "test"]);
    scene.psap_confirms("BYE");
    let (bye, from) = scene.caller.expect_request("BYE");
    scene.caller.send(&bye.response(200, "OK", ""), from);
    let told = wait::until("its end is told", SETTLED, || {
        let told = events(&cluster, holder);
        if told.len() == 4 && told[3].1 == "EVENT_KIND_ENDED" { Ok(told) } else { Err(told) }
    });

    cluster.dev(&["heal"]);
    cluster.settled(1);
    wait::until_equal("the quorum is back", SETTLED, &0, || cluster.metric(holder, "sbc_alarm{alarm=\"no-quorum\"}"));
    // It stands for a minute after the last such call, so the log hears of it once there is one.
    wait::until("the log has the alarm", SETTLED, || {
        let all = list(&cluster.json(&["event", "list", "--endpoint", &grpc(holder)]), "events");
        let raised = |e: &Value| e["kind"] == "EVENT_KIND_ALARM_RAISED" && e["alarm"] == "calls-degraded";
        if all.iter().any(raised) { Ok(()) } else { Err(all) }
    });
    for node in 0..3 {
        let ids = |events: &[(String, String, u64)]| events.iter().map(|(id, _, _)| id.clone()).collect::<Vec<_>>();
        let log = wait::until("the log confirms what was told", SETTLED, || {
            let log = events(&cluster, node);
            if log.iter().all(|(_, _, sequence)| *sequence > 0) { Ok(log) } else { Err(log) }
        });
        assert_eq!(ids(&log), ids(&told), "under the same ids, in the same order");
        assert_eq!(log.iter().map(|(_, _, sequence)| *sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
    assert_eq!(cluster.cdrs()[0]["cause"]["origin"], "CAUSE_ORIGIN_OPERATOR");
}
