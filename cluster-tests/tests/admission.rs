//! What real nodes refuse by where it comes from: the access list, and forged requests within a call (AC-52).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options, Shared, anycast, core, grpc, number, unicast};
use cluster_tests::message::Message;
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::wait;

/// Longer than three gaps between retransmissions (500 ms, 1 s): silence for so long is silence.
const QUIET: Duration = Duration::from_millis(2600);

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

#[test]
fn ac52_a_forged_bye_does_not_end_the_call() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(unicast(0));
    // Knows all that the PSAP's side knows, but is at another address: at the owner, and at a node that relays.
    let mut forger = Phone::bind("127.0.4.1:0");
    let bye = call.from_psap.clone().request("BYE");
    for node in [0, 1] {
        forger.send(&bye, core(node));
    }
    assert!(forger.gather(QUIET, |_| true).is_empty(), "a forger learns nothing");
    assert!(scene.caller.gather(Duration::ZERO, |m| m.method() == "BYE").is_empty(), "the call lives");
    scene.hang_up(&mut call, anycast());
    cluster.settled(before + 1);
}

/// The callers' trunk is everybody's: where a caller was last seen it is asked whether it is still there.
#[test]
fn ac52_a_caller_from_anywhere_is_asked_where_it_was() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(unicast(0));
    let mut elsewhere = Phone::bind("127.0.4.2:0");
    elsewhere.send(&call.from_caller.clone().request("BYE"), unicast(1));
    let (options, from) = scene.caller.expect_request("OPTIONS");
    scene.caller.send(&options.response(405, "Method Not Allowed", "caller"), from);
    assert!(elsewhere.gather(QUIET, |_| true).is_empty(), "a forger learns nothing");
    assert!(scene.psap.gather(Duration::ZERO, |m| m.method() == "BYE").is_empty(), "the call lives");
    // The caller has moved, and is silent where it was.
    let bye = call.from_caller.request("BYE");
    elsewhere.send(&bye, unicast(0));
    scene.caller.expect_request("OPTIONS");
    elsewhere.expect_response(200, "BYE");
    scene.psap_confirms("BYE");
    cluster.settled(before + 1);
}

#[test]
fn the_access_list_denies_and_rejects() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let old = cluster.config_text();
    let rules = "[[acl]]\nprefix = \"127.0.4.5\"\naction = \"deny\"\n[[acl]]\nprefix = \"127.0.4.6/32\"\naction = \"reject\"\n";
    cluster.apply_config(&format!("{old}\n{rules}"));
    let shown = cluster.ctl(&["policy", "acl", "127.0.4.6"]).stdout;
    assert!(shown.contains("127.0.4.6/32") && shown.contains("reject") && !shown.contains("127.0.4.5"), "{shown}");
    let invite = |phone: &Phone| Message::invite("sip:112@127.0.0.100", phone.at(), "UDP");
    let (mut denied, mut rejected) = (Phone::bind("127.0.4.5:0"), Phone::bind("127.0.4.6:0"));
    let mut scene = Scene::new();
    rejected.send(&invite(&rejected), anycast());
    rejected.expect_response(403, "INVITE");
    denied.send(&invite(&denied), anycast());
    denied.send_raw(b"OPTIONS sip:x SIP/2.0\r\n\r\n", anycast());
    assert!(denied.gather(QUIET, |_| true).is_empty(), "dropped without an answer");
    let mut call = scene.established(anycast());
    scene.hang_up(&mut call, anycast());
    cluster.apply_config(&old);
    let again = invite(&denied);
    denied.send(&again, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    denied.expect_response(486, "INVITE");
    cluster.settled(before + 2);
}

#[test]
fn a_blocked_source_is_blocked_at_every_node_but_for_emergencies() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut blocked = Phone::bind("127.0.4.7:0");
    let invite = |phone: &Phone, to: &str| Message::invite(to, phone.at(), "UDP");
    // A call of that source is under way.
    let first = invite(&blocked, "sip:112@127.0.0.100");
    blocked.send(&first, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(180, "Ringing", "psap"), from);
    blocked.expect_response(180, "INVITE");
    let asked = cluster.try_ctl(&["policy", "block", "127.0.4.7"]);
    assert!(asked.stderr.contains("127.0.4.7/32 is blocked at every node") && asked.stderr.contains("--yes"), "{}", asked.stderr);
    let done = cluster.json(&["policy", "block", "127.0.4.7", "--for", "1h", "--reason", "noise", "--yes"]);
    assert_eq!((&done["prefix"], &done["reason"]), (&"127.0.4.7/32".into(), &"noise".into()));
    let listed = cluster.ctl(&["policy", "blocks"]).stdout;
    assert!(listed.contains("127.0.4.7/32") && listed.contains("ordinary") && listed.contains("noise"), "{listed}");
    for node in 0..3 {
        blocked.send(&invite(&blocked, "sip:4711@127.0.0.100"), unicast(node));
    }
    assert!(blocked.gather(QUIET, |m| m.header("Call-ID") != first.header("Call-ID")).is_empty(), "no answer");
    // What was under way goes on, and the next emergency call rings.
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    blocked.expect_response(486, "INVITE");
    let again = invite(&blocked, "sip:112@127.0.0.100");
    blocked.send(&again, unicast(1));
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    blocked.expect_response(486, "INVITE");
    cluster.settled(before + 2);

    cluster.ctl(&["policy", "unblock", "127.0.4.7"]);
    let missing = cluster.try_ctl(&["policy", "unblock", "127.0.4.7"]);
    assert!(missing.stderr.contains("not blocked") && missing.stderr.contains("policy blocks"), "{}", missing.stderr);
    let ordinary = invite(&blocked, "sip:4711@127.0.0.100");
    blocked.send(&ordinary, unicast(2));
    assert_eq!(blocked.expect_final(&ordinary).0.status(), 404, "heard again");
    for (bad, says) in [("0.0.0.0/0", "everybody"), ("10.0.0.0/33", "no address")] {
        let refused = cluster.try_ctl(&["policy", "block", bad, "--yes"]);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
    assert!(cluster.ctl(&["policy", "rate"]).stdout.contains("max_calls"));
    cluster.settled(before + 3);
}

/// A configuration with one more setting.
fn with_setting(text: &str, setting: &str) -> String {
    let table = format!("[settings]\n{setting}\n");
    if text.contains("[settings]") { text.replace("[settings]\n", &table) } else { format!("{text}\n{table}") }
}

/// What one node has counted of calls that were refused for a limit.
fn limited(cluster: &Cluster, node: u8) -> u64 {
    let shown = cluster.json(&["node", "show", NODES[usize::from(node)], "--endpoint", &grpc(node)]);
    number(&shown["counters"]["calls_limited_total"])
}

/// AC-44: one source sends a hundred ordinary calls at once and may send five a second. The others hear 503 with a time to come back, and its
/// own emergency call, amid them, rings.
#[test]
fn ac44_a_flood_of_one_source_is_limited_and_its_emergency_call_is_not() {
    let cluster = cluster();
    let old = cluster.config_text();
    cluster.apply_config(&with_setting(&old, "source_rate = 5"));
    let before = limited(&cluster, 0);
    let (mut scene, mut flooder) = (Scene::new(), Phone::bind("127.0.4.9:0"));
    let ordinary = || Message::invite("sip:4711@127.0.0.100", flooder.at(), "UDP");
    for n in 0..100 {
        flooder.send(&ordinary(), unicast(0));
        if n == 50 {
            flooder.send(&Message::invite("sip:112@127.0.0.100", flooder.at(), "UDP"), unicast(0));
        }
    }
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    flooder.expect_response(486, "INVITE");
    let answers = flooder.gather(QUIET, |m| m.status() >= 300);
    let calls =
        |status: u16| answers.iter().filter(move |(m, _)| m.status() == status).map(|(m, _)| m.header("Call-ID").to_owned());
    let count = |status: u16| calls(status).collect::<std::collections::BTreeSet<_>>().len();
    // Two seconds' worth at once, and what a slow machine's time brings in.
    assert!((10..30).contains(&count(404)) && count(503) >= 70, "{} passed, {} refused", count(404), count(503));
    assert!(answers.iter().filter(|(m, _)| m.status() == 503).all(|(m, _)| !m.header("Retry-After").is_empty()));
    assert!(limited(&cluster, 0) >= before + 70);
    cluster.apply_config(&old);
}

/// AC-44: a node that has more to do than it may refuses ordinary calls, and connects emergency calls.
#[test]
fn ac44_a_busy_node_refuses_ordinary_calls_and_connects_emergency_calls() {
    let cluster = cluster();
    let old = cluster.config_text();
    // So that a little is too much: the test needs a busy node, not a busy machine. And what one source sends is worked on, all of it.
    cluster.apply_config(&with_setting(&old, "shed_at = 1\nsource_rate = 0"));
    let before = limited(&cluster, 0);
    let (mut scene, mut ordinary) = (Scene::new(), Phone::bind("127.0.4.10:0"));
    let stop = AtomicBool::new(false);
    let flood = |address: &str| {
        let flooder = Phone::bind(address);
        let ping = Message::invite("sip:127.0.0.100", flooder.at(), "UDP").replace("CSeq", "1 OPTIONS");
        let ping = Message { start: "OPTIONS sip:127.0.0.100 SIP/2.0".into(), body: Vec::new(), ..ping.without("Content-Type") };
        // More than the node can do, so that a queue stands; bounded: a minute at the most.
        for _ in 0..30_000 {
            for _ in 0..50 {
                flooder.send(&ping, unicast(0));
            }
            std::thread::sleep(Duration::from_millis(1));
            if stop.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| flood("127.0.4.11:0"));
        scope.spawn(|| flood("127.0.4.12:0"));
        let done = StopOnDrop(&stop);
        wait::until("an ordinary call is refused for the load", Duration::from_secs(30), || {
            let invite = Message::invite("sip:4711@127.0.0.100", ordinary.at(), "UDP");
            ordinary.send(&invite, unicast(0));
            match ordinary.expect_final(&invite).0 {
                answer if answer.status() == 503 && !answer.header("Retry-After").is_empty() => Ok(()),
                other => Err(other.start),
            }
        });
        for _ in 0..5 {
            let mut call = scene.established(unicast(0));
            scene.hang_up(&mut call, unicast(0));
        }
        drop(done);
    });
    assert!(limited(&cluster, 0) > before);
    cluster.apply_config(&old);
}

/// Sets the flag when the test is over, also by a panic.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
