//! Limits by source and trunk, scanners and loops, as real nodes meet them. Which calls come through is seen at the PSAP.

use cluster_tests::cluster::{Cluster, Options, SETTLE, Shared, anycast, core, grpc, list, unicast};
use cluster_tests::message::{Dialog, Message, unique};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::{scrape, wait};

const EMERGENCY: &str = "sip:112@127.0.0.100";
/// Calls in a row against a limit of two a second.
const CALLS: u64 = 30;
/// A user that has a route and is no emergency.
const ORDINARY: &str = "sip:service@127.0.0.100";

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// The configuration with these keys of the trunk of callers.
fn callers(old: &str, keys: &str) -> String {
    old.replace("name = \"callers\"", &format!("name = \"callers\"\n{keys}"))
}

/// The configuration with a setting.
fn settings(old: &str, setting: &str) -> String {
    assert!(!old.contains("[settings]"), "{old}");
    format!("{old}\n[settings]\n{setting}\n")
}

/// An INVITE whose From no other has.
fn invite(caller: &Phone, uri: &str) -> Message {
    let from = format!("<sip:{}@{}>;tag=1", unique("c"), caller.at());
    Message::invite(uri, caller.at(), "UDP").replace("From", &from)
}

/// Calls at the first node; the PSAP turns away what comes through. The final response.
#[track_caller]
fn attempt(caller: &mut Phone, psap: &mut Phone, uri: &str) -> Message {
    let invite = invite(caller, uri);
    caller.send(&invite, unicast(0));
    let call_id = invite.header("Call-ID");
    let (first, from) = caller.expect("an answer", |m| m.status() > 0 && m.header("Call-ID") == call_id);
    if first.status() >= 300 {
        caller.send(&invite.ack_of(&first), from);
        return first;
    }
    // RFC 3261 §17.2.1: 100 is what an admitted call hears at once.
    psap.turn_away(invite.uri("From"), 486, &[]);
    caller.final_of(&invite)
}

/// How many of [`CALLS`] calls in a row come through. The others hear 503 and when to come back.
#[track_caller]
fn come_through(caller: &mut Phone, psap: &mut Phone, uri: &str) -> u64 {
    let passes = |_: &u64| {
        let answer = attempt(caller, psap, uri);
        assert!(matches!(answer.status(), 486 | 503), "{answer:?}");
        assert!(answer.status() == 486 || !answer.header("Retry-After").is_empty(), "{answer:?}");
        answer.status() == 486
    };
    (0..CALLS).filter(passes).count().try_into().expect("at most 30")
}

fn limited(limit: &str) -> u64 {
    scrape::value(0, &format!("sbc_calls_limited_total{{limit=\"{limit}\"}}"))
}

/// AC-44: the one limit for emergency calls is against a source that does nothing else. Another source has its own.
#[test]
fn emergency_calls_of_one_source_are_limited_where_the_cluster_says_so() {
    let cluster = cluster();
    cluster.with_config(
        |old| settings(old, "emergency_source_rate = 2"),
        || {
            let before = limited("emergency_source_rate");
            let Scene { mut caller, mut psap } = Scene::new();
            let mut flooder = Phone::bind("127.0.4.20:0");
            let passed = come_through(&mut flooder, &mut psap, EMERGENCY);
            // Two seconds' worth at once, and what comes in while 30 calls are made.
            assert!((4..15).contains(&passed), "{passed} of 30");
            assert_eq!(limited("emergency_source_rate") - before, CALLS - passed);
            assert_eq!(attempt(&mut caller, &mut psap, EMERGENCY).status(), 486);
        },
    );
}

/// What is answered without a call takes of what its source may begin. A neighbour that probes is answered each time, and so is the flooder's
/// own call for help, and what is within it.
#[test]
fn answers_without_a_call_are_limited_by_source_and_calls_are_not() {
    let cluster = cluster();
    cluster.with_config(
        |old| settings(old, "source_rate = 2"),
        || {
            let dropped = || scrape::value(0, "sbc_sip_dropped_total{reason=\"source_rate\"}");
            let before = dropped();
            let Scene { caller: mut other, mut psap } = Scene::new();
            let mut flooder = Phone::bind("127.0.4.22:0");
            let sent: Vec<Message> = (0..CALLS)
                .map(|n| {
                    let method = ["OPTIONS", "REGISTER", "FOO"][usize::try_from(n % 3).expect("small")];
                    let request = flooder.alone(method, unicast(0));
                    flooder.send(&request, unicast(0));
                    request
                })
                .collect();
            // It serves one after the other: all was served when this is answered.
            other.ping(unicast(0));
            let answered = sent.iter().filter(|request| flooder.is_answered(request)).count();
            assert!((4..15).contains(&answered), "{answered} of 30");
            assert_eq!(dropped() - before, CALLS - u64::try_from(answered).expect("at most 30"));
            (0..CALLS).for_each(|_| psap.ping(core(0)));

            let urgent = invite(&flooder, EMERGENCY);
            flooder.send(&urgent, unicast(0));
            let (at_psap, from) = psap.expect_request("INVITE");
            psap.send(&Scene::answer(&at_psap), from);
            let (ok, _) = flooder.expect_response(200, "INVITE");
            psap.expect_request("ACK");
            let mut dialog = Dialog::of_caller(&urgent, &ok, flooder.at(), "UDP");
            // By another node, which hands it on.
            flooder.send(&dialog.ack(1), unicast(1));
            flooder.send(&dialog.request("BYE"), unicast(1));
            flooder.expect_response(200, "BYE");
            let (bye, from) = psap.expect_request("BYE");
            psap.send(&bye.response(200, "OK", ""), from);
        },
    );
}

/// `max_rate` and `max_calls` of a trunk are for ordinary calls of that trunk; a call that ends makes room for the next.
#[test]
fn a_trunk_has_a_rate_and_a_number_of_calls() {
    let cluster = cluster();
    let Scene { mut caller, mut psap } = Scene::new();
    cluster.with_config(
        |old| callers(old, "max_rate = 2"),
        || {
            let before = limited("trunk_max_rate");
            let passed = come_through(&mut caller, &mut psap, ORDINARY);
            assert!((4..15).contains(&passed), "{passed} of 30");
            assert_eq!(limited("trunk_max_rate") - before, CALLS - passed);
            assert_eq!(attempt(&mut caller, &mut psap, EMERGENCY).status(), 486);
        },
    );
    cluster.with_config(
        |old| callers(old, "max_calls = 2"),
        || {
            let before = limited("trunk_max_calls");
            let held: Vec<(Message, _)> = (0..2)
                .map(|_| {
                    let invite = invite(&caller, ORDINARY);
                    caller.send(&invite, unicast(0));
                    let from = invite.uri("From").to_owned();
                    (invite, psap.expect("the INVITE", |m| m.method() == "INVITE" && m.uri("From") == from))
                })
                .collect();
            let full = attempt(&mut caller, &mut psap, ORDINARY);
            assert_eq!((full.status(), full.header("Retry-After").is_empty()), (503, false));
            assert_eq!(limited("trunk_max_calls"), before + 1);
            assert_eq!(attempt(&mut caller, &mut psap, EMERGENCY).status(), 486);
            for (invite, (at_psap, from)) in &held {
                psap.send(&at_psap.response(486, "Busy Here", "p"), *from);
                assert_eq!(caller.final_of(invite).status(), 486);
            }
            wait::until("there is room again", SETTLE, || {
                let answer = attempt(&mut caller, &mut psap, ORDINARY);
                if answer.status() == 486 { Ok(()) } else { Err(answer.start) }
            });
        },
    );
}

/// An INVITE that says that a known scanner made it.
fn scan(phone: &Phone, uri: &str) -> Message {
    invite(phone, uri).with("User-Agent", "Friendly-Scanner 0.3")
}

#[test]
fn a_scanner_hears_nothing_and_is_banned_at_every_node_where_the_cluster_says_so() {
    let cluster = cluster();
    let Scene { caller: mut other, mut psap } = Scene::new();
    let mut scanner = Phone::bind("127.0.4.21:0");
    let dropped = |node| scrape::value(node, "sbc_sip_dropped_total{reason=\"scanner\"}");
    let before = dropped(0);
    let silent = scan(&scanner, ORDINARY);
    scanner.send(&silent, unicast(0));
    // What is otherwise asked by the same source is answered, so that the node had the scan: no bans unless they are wanted.
    scanner.ping(unicast(0));
    assert!(!scanner.is_answered(&silent));
    assert_eq!(dropped(0), before + 1);
    assert!(list(&cluster.json(&["policy", "blocks"]), "blocks").is_empty());
    // A call for help is one, whatever made it.
    let urgent = scan(&scanner, EMERGENCY);
    scanner.send(&urgent, unicast(0));
    psap.turn_away(urgent.uri("From"), 486, &[]);
    assert_eq!(scanner.final_of(&urgent).status(), 486);

    cluster.with_config(
        |old| settings(old, "scanner_ban_s = 600"),
        || {
            scanner.send(&scan(&scanner, ORDINARY), unicast(0));
            for node in 0..3 {
                wait::until("each node has the block", SETTLE, || {
                    let blocks = list(&cluster.json(&["policy", "blocks", "--endpoint", &grpc(node)]), "blocks");
                    let ours = blocks.iter().any(|b| b["prefix"] == "127.0.4.21/32" && b["reason"] == "scanner");
                    if ours { Ok(()) } else { Err(blocks) }
                });
                // Whatever it calls itself now. The ping of another behind it shows that the node had it.
                let silent = invite(&scanner, ORDINARY);
                scanner.send(&silent, unicast(node));
                other.ping(unicast(node));
                assert!(!scanner.is_answered(&silent), "node {node}");
                let urgent = invite(&scanner, EMERGENCY);
                scanner.send(&urgent, unicast(node));
                psap.turn_away(urgent.uri("From"), 486, &[]);
                assert_eq!(scanner.final_of(&urgent).status(), 486, "AC-44 at node {node}");
            }
        },
    );
    cluster.ctl(&["policy", "unblock", "127.0.4.21"]);
}

/// AC-45, RFC 3261 §16.3: the core sends our INVITE back as it is: 482. For another user it is a spiral, which goes on.
#[test]
fn ac45_an_invite_that_comes_back_is_a_loop_and_for_another_user_a_spiral() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let Scene { mut caller, mut psap } = Scene::new();
    let first = invite(&caller, EMERGENCY);
    caller.send(&first, anycast());
    let from_uri = first.uri("From").to_owned();
    let ours = |m: &Message| m.method() == "INVITE" && m.uri("From") == from_uri;
    let (at_psap, node) = psap.expect("the INVITE", ours);
    // As a proxy does: its Via before ours, one hop less.
    let back = |uri: &str| {
        let hops: u32 = at_psap.header("Max-Forwards").parse().expect("a number");
        let mut back = at_psap.clone().to_uri(uri).replace("Max-Forwards", &(hops - 1).to_string());
        let via = format!("SIP/2.0/UDP {};branch={};rport", psap.at(), unique("z9hG4bK"));
        back.headers.insert(0, ("Via".to_owned(), via));
        back
    };
    let uri = at_psap.start.split(' ').nth(1).expect("a Request-URI");
    // To the owner, and to another node: the cookie is the cluster's.
    let loops = [(back(uri), node), (back(uri), core(1)), (back(uri), core(2))];
    let spiral = back(&uri.replace("112", "911"));
    for (looped, to) in &loops {
        psap.send(looped, *to);
        assert_eq!(psap.expect_final(looped).0.status(), 482, "at {to}");
    }
    psap.send(&spiral, node);
    let (again, way) = psap.expect("the spiral's INVITE", ours);
    assert!(again.start.starts_with("INVITE sip:911@"), "{}", again.start);
    assert_eq!(again.header("Max-Forwards"), "67", "each hop counts");
    psap.send(&again.response(486, "Busy Here", "two"), way);
    assert_eq!(psap.final_of(&spiral).status(), 486);
    psap.send(&at_psap.response(486, "Busy Here", "one"), node);
    assert_eq!(caller.final_of(&first).status(), 486);
    cluster.settled(before + 2);
}
