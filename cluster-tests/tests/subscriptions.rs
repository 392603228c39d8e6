//! Subscriptions and publications (RFC 6665, RFC 3903) through three real nodes: sipp on both sides, and packets that reach a node
//! which is not the owner.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast, core, unicast};
use cluster_tests::message::{Dialog, Message, unique};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::sipp::Sipp;
use cluster_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);
const DESK: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// Two scenarios, by way of the anycast address. None of it is a call.
fn between(uac: &str, uas: &str, extra: &[&str]) {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let psap = Sipp::scenario(uas, PSAP.ip(), LIMIT).args(&["-m", "1"]).serve(PSAP);
    let desk = Sipp::scenario(uac, DESK, LIMIT)
        .args(&["-m", "1", "-key", "ruri", "sip:112@127.0.0.100:5060"])
        .args(extra)
        .to(anycast())
        .start();
    assert_eq!(desk.succeed().successful, 1, "{}", cluster.logs());
    assert_eq!(psap.succeed().successful, 1);
    assert_eq!(cluster.cdrs().len(), before);
}

#[test]
fn a_subscription_is_notified_refreshed_and_ended() {
    between("uac-subscribe", "uas-subscribe", &[]);
}

#[test]
fn a_subscription_over_tcp() {
    between("uac-subscribe", "uas-subscribe", &["-t", "t1"]);
}

#[test]
fn a_notify_before_the_2xx() {
    between("uac-notified-first", "uas-notifies-first", &[]);
}

#[test]
fn a_publication() {
    between("uac-publish", "uas-publish", &[]);
}

/// A SUBSCRIBE that is not sent yet.
fn subscribe(from: &Phone) -> Message {
    let at = from.at();
    Message::request("SUBSCRIBE", "sip:112@127.0.0.100")
        .with("Via", &format!("SIP/2.0/UDP {at};branch={};rport", unique("z9hG4bK")))
        .with("Max-Forwards", "70")
        .with("From", &format!("<sip:desk@{at}>;tag={}", unique("d")))
        .with("To", "<sip:112@127.0.0.100>")
        .with("Call-ID", &unique("sub"))
        .with("CSeq", "1 SUBSCRIBE")
        .with("Contact", &format!("<sip:desk@{at}>"))
        .with("Event", "emergency-QueueState")
        .with("Expires", "600")
}

/// Both sides of a subscription that a node owns.
fn subscribed(scene: &mut Scene, node: u8) -> (Dialog, Dialog) {
    let asked = subscribe(&scene.caller);
    scene.caller.send(&asked, unicast(node));
    let (at_psap, from) = scene.psap.expect_request("SUBSCRIBE");
    assert_eq!(from, core(node));
    let granted = at_psap.response(200, "OK", "psap").with("Contact", &format!("<sip:psap@{PSAP}>")).with("Expires", "600");
    scene.psap.send(&granted, from);
    let (ok, _) = scene.caller.expect_response(200, "SUBSCRIBE");
    assert!(ok.uri("Contact").contains(&unicast(node).to_string()), "rule F: {}", ok.header("Contact"));
    let desk = Dialog::of_caller(&asked, &ok, scene.caller.at(), "UDP");
    (desk, Dialog::of_callee(&at_psap, &granted, PSAP))
}

fn notify(psap: &mut Dialog, state: &str) -> Message {
    psap.request("NOTIFY").with("Event", "emergency-QueueState").with("Subscription-State", state)
}

/// AC-17: every step at another node than the one before.
#[test]
fn ac17_a_subscription_whose_every_step_is_at_another_node() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (mut desk, mut psap) = subscribed(&mut scene, A);
    for (node, state) in [(B, "active;expires=600"), (C, "active;expires=590")] {
        let told = notify(&mut psap, state);
        scene.psap.send(&told, core(node));
        let (got, from) = scene.caller.expect_request("NOTIFY");
        assert_eq!((got.header("Subscription-State"), from), (state, unicast(A)), "the owner tells the desk");
        scene.caller.send(&got.response(200, "OK", ""), from);
        assert_eq!(scene.psap.expect_final(&told).1, core(node), "rule E");
    }
    for (node, seconds) in [(C, "300"), (B, "0")] {
        let refresh = desk.request("SUBSCRIBE").with("Event", "emergency-QueueState").with("Expires", seconds);
        scene.caller.send(&refresh, unicast(node));
        let (got, from) = scene.psap.expect_request("SUBSCRIBE");
        assert_eq!((got.header("Expires"), from), (seconds, core(A)));
        scene.psap.send(&got.response(200, "OK", "").with("Expires", seconds), from);
        let (ok, from) = scene.caller.expect_final(&refresh);
        assert_eq!((ok.status(), from), (200, unicast(node)));
        assert!(ok.uri("Contact").contains(&unicast(A).to_string()), "rule K: {}", ok.header("Contact"));
    }
    let last = notify(&mut psap, "terminated;reason=timeout");
    scene.psap.send(&last, core(B));
    let (got, from) = scene.caller.expect_request("NOTIFY");
    scene.caller.send(&got.response(200, "OK", ""), from);
    assert_eq!(scene.psap.expect_final(&last).0.status(), 200);
    // It is over at each node, as one that never was.
    for node in [A, B, C] {
        let late = notify(&mut psap, "active");
        scene.psap.send(&late, core(node));
        assert_eq!(scene.psap.expect_final(&late).0.status(), 481, "{}", cluster.logs());
    }
}

/// RFC 3261 §21.4.6: what a trunk may not send is not in Allow either.
#[test]
fn a_trunk_that_refuses_events() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let old = cluster.config_text();
    let refuse = |l: &str| if l.trim() == "[[trunks]]" { format!("{l}\nsubscribe = \"refuse\"\n") } else { format!("{l}\n") };
    cluster.apply_config(&old.lines().map(refuse).collect::<String>());
    let asked = subscribe(&scene.caller);
    scene.caller.send(&asked, unicast(A));
    let (told, _) = scene.caller.expect_final(&asked);
    assert_eq!(told.status(), 405);
    assert!(told.header("Allow").contains("MESSAGE") && !told.header("Allow").contains("SUBSCRIBE"), "{}", told.header("Allow"));
    cluster.apply_config(&old);
    subscribed(&mut scene, A);
}

/// Rule G: while its node is away nobody says that a subscription is not there; when it has started again, all do. The desk
/// subscribes anew.
#[test]
fn after_a_restart_the_desk_subscribes_anew() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let owner = (cluster.holder() + 1) % 3;
    let other = (owner + 1) % 3;
    let (mut desk, _) = subscribed(&mut scene, owner);
    let mut refreshed = |scene: &mut Scene, node: u8| {
        let refresh = desk.request("SUBSCRIBE").with("Event", "emergency-QueueState").with("Expires", "600");
        scene.caller.send(&refresh, unicast(node));
        let ours = |m: &Message| m.status() >= 200 && m.cseq() == refresh.cseq();
        scene.caller.wait(Duration::from_millis(500), ours).map(|(m, _)| m.status())
    };
    cluster.kill(owner);
    wait::until("the node is missed", LIMIT, || match refreshed(&mut scene, other) {
        Some(503) => Ok(()),
        // 481 would be wrong, and is final.
        Some(status) => panic!("{status}"),
        none => Err(none),
    });
    cluster.dev(&["heal"]);
    for node in [other, owner] {
        wait::until("it is known to be gone", LIMIT, || match refreshed(&mut scene, node) {
            Some(481) => Ok(()),
            wrong => Err(wrong),
        });
    }
    subscribed(&mut scene, owner);
}
