//! Nodes die: what is left goes on, and what comes back agrees.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, anycast, unicast};
use cluster_tests::message::{Message, unique};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

/// The bind driver of a survivor takes the address over within a second or two; the rest is margin.
const TAKE_OVER: Duration = Duration::from_secs(15);

#[test]
fn two_of_three_die_and_the_third_connects_calls() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    // A call that lives through everything, on the node that stays.
    let holder = cluster.holder();
    let mut lasting = scene.established(unicast(holder));
    let (second, third) = ((holder + 1) % 3, (holder + 2) % 3);
    cluster.kill(second);
    cluster.kill(third);
    assert!(!cluster.is_up(second) && !cluster.is_up(third));

    // Without quorum: degraded, but connected, at the anycast address.
    let mut call = scene.established(anycast());
    // Rule G, AC-21: without quorum nobody may say 481.
    let unknown = Message { start: "BYE sip:112@127.0.0.100 SIP/2.0".into(), ..scene.invite().replace("CSeq", "9 BYE") };
    let unknown = unknown.replace("To", &format!("<sip:112@127.0.0.100>;tag={}", unique("t")));
    // The lease is 2 s; before it is over, 481 would be right.
    wait::until("503 instead of 481", TAKE_OVER, || {
        let bye =
            unknown.clone().replace("Via", &format!("SIP/2.0/UDP {};branch={};rport", scene.caller.at(), unique("z9hG4bK")));
        scene.caller.send(&bye, unicast(holder));
        let (answer, _) = scene.caller.expect_final(&bye);
        if answer.status() == 503 && !answer.header("Retry-After").is_empty() { Ok(()) } else { Err(answer.start) }
    });
    let mut ended = scene.established(anycast());
    scene.hang_up(&mut ended, anycast());

    cluster.dev(&["heal"]);
    // Both calls, the same at each node.
    let ids = |node: u8| {
        let mut ids: Vec<String> =
            cluster.calls_at(node).iter().filter_map(|c| Some(c["parties"]["sipCallId"].as_str()?.to_owned())).collect();
        ids.sort();
        ids
    };
    let mut wanted = vec![lasting.invite.header("Call-ID").to_owned(), call.invite.header("Call-ID").to_owned()];
    wanted.sort();
    for node in 0..3 {
        wait::until_equal("call list after the heal", TAKE_OVER, &wanted, || ids(node));
    }
    scene.hang_up(&mut call, unicast(second));
    scene.hang_up(&mut lasting, unicast(third));
    cluster.settled(3);
}

#[test]
fn the_holder_dies_and_new_calls_go_through() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    let holder = cluster.holder();
    cluster.kill(holder);
    let survivor = (holder + 1) % 3;
    let mut call = scene.established(unicast(survivor));
    scene.hang_up(&mut call, unicast((holder + 2) % 3));
    // The route moves by itself.
    wait::until("a survivor serves the anycast address", TAKE_OVER, || {
        let invite = scene.invite();
        let options = Message {
            start: "OPTIONS sip:127.0.0.100 SIP/2.0".into(),
            body: Vec::new(),
            ..invite.without("Content-Type").replace("CSeq", "1 OPTIONS")
        };
        scene.caller.send(&options, anycast());
        match scene.caller.wait(Duration::from_millis(500), |m| m.status() == 200 && m.cseq().1 == "OPTIONS") {
            Some(_) => Ok(()),
            None => Err("silence"),
        }
    });
    let mut call = scene.established(anycast());
    scene.hang_up(&mut call, anycast());
    cluster.dev(&["heal"]);
    cluster.settled(2);
}

#[test]
fn a_restarted_node_catches_up() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    let holder = cluster.holder();
    let other = (holder + 1) % 3;
    cluster.kill(other);
    for _ in 0..5 {
        let mut call = scene.established(anycast());
        scene.hang_up(&mut call, anycast());
    }
    cluster.dev(&["heal"]);
    cluster.settled(5);
    let mut call = scene.established(unicast(other));
    scene.hang_up(&mut call, anycast());
    cluster.settled(6);
}
