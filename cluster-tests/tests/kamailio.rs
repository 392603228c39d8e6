//! Kamailio before and behind the cluster: a proxy that records its route and forks (RFC 3261 §16.6, §16.12, AC-28).

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast};
use cluster_tests::kamailio::Kamailio;
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;

/// Longer than three gaps between retransmissions: silence for so long is silence.
const QUIET: Duration = Duration::from_millis(2600);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Both branches of its fork reach the cluster, at two nodes: one rings, the other is told 482 (RFC 3261 §8.2.2.2).
#[test]
fn ac28_an_upstream_proxy_that_forks_to_anycast_and_unicast_rings_once() {
    let cluster = Cluster::shared(Options::with_own_psap());
    let before = cluster.cdrs().len();
    let proxy_at = address("127.0.5.1:5060");
    let _proxy = Kamailio::start(proxy_at, &["sip:112@127.0.0.100:5060", "sip:112@127.0.0.12:5060"]);
    let mut scene = Scene::new();
    let invite = Message::invite("sip:112@127.0.5.1", scene.caller.at(), "UDP");
    let (at_psap, from) = scene.ring(&invite, proxy_at);
    assert!(at_psap.header("Record-Route").is_empty(), "the other leg's route is hidden");
    let again = scene.psap.gather(QUIET, |m| m.method() == "INVITE" && m.header("Call-ID") != at_psap.header("Call-ID"));
    assert!(again.is_empty(), "one call rings once: {again:?}");
    let psap_ok = Scene::answer(&at_psap);
    scene.psap.send(&psap_ok, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    assert!(ok.header("Record-Route").contains("127.0.5.1"), "{}", ok.text());
    let mut from_caller = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&from_caller.ack(1), proxy_at);
    scene.psap.expect_request("ACK");
    // Requests within the dialog go the proxy's way in both directions.
    scene.caller.send(&from_caller.request("INFO"), proxy_at);
    scene.psap_confirms("INFO");
    scene.caller.expect_response(200, "INFO");
    let mut from_psap = Dialog::of_callee(&at_psap, &psap_ok, PSAP);
    scene.psap.send(&from_psap.request("BYE"), from);
    let (bye, way) = scene.caller.expect_request("BYE");
    assert_eq!(way, proxy_at, "by the recorded route");
    scene.caller.send(&bye.response(200, "OK", ""), way);
    scene.psap.expect_response(200, "BYE");
    cluster.settled(before + 1);
    let uid = cluster.cdrs().pop().expect("its record")["call"].as_str().expect("an id").to_owned();
    let ladder = cluster.ctl(&["call", "ladder", &uid]).stdout;
    let at = |text: &str| ladder.find(text).unwrap_or_else(|| panic!("no {text} in\n{ladder}"));
    // With their reasons: a time of the ladder may have any digits.
    assert!(
        at("INVITE") < at("180 Ringing") && at("180 Ringing") < at("200 OK") && at("INFO") < at("BYE"),
        "in their order:\n{ladder}"
    );
    assert!(ladder.contains("127.0.5.1:5060") && ladder.contains("127.0.2.1:5060"), "both legs:\n{ladder}");
}

/// Two desks ring behind a proxy on the core side; one answers, and the proxy cancels the other.
#[test]
fn a_downstream_proxy_that_forks_gives_two_early_dialogs_and_one_call() {
    let cluster = Cluster::shared(Options::with_own_psap());
    let before = cluster.cdrs().len();
    let _proxy = Kamailio::start(PSAP, &["sip:112@127.0.2.5:5060", "sip:112@127.0.2.6:5060"]);
    let (mut caller, mut first, mut second) =
        (Phone::bind("127.0.3.1:0"), Phone::bind("127.0.2.5:5060"), Phone::bind("127.0.2.6:5060"));
    let invite = Message::invite("sip:112@127.0.0.100", caller.at(), "UDP");
    caller.send(&invite, anycast());
    let mut rung = Vec::new();
    for (desk, tag) in [(&mut first, "one"), (&mut second, "two")] {
        let (at_desk, from) = desk.expect_request("INVITE");
        desk.send(&at_desk.response(180, "Ringing", tag).with("Contact", &format!("<sip:{tag}@{}>", desk.at())), from);
        rung.push((at_desk, from));
    }
    let (ring_a, _) = caller.expect_response(180, "INVITE");
    let ring_b = caller.expect("the other early dialog", |m| m.status() == 180 && m.tag("To") != ring_a.tag("To")).0;
    assert_ne!(ring_a.tag("To"), ring_b.tag("To"), "RFC 3261 §12.1: one dialog for each");
    let (at_second, from) = rung.pop().expect("two rang");
    let ok = at_second.response(200, "OK", "two").with("Contact", &format!("<sip:two@{}>", second.at()));
    second.send(&ok.with("Record-Route", at_second.header("Record-Route")).with_sdp(sdp(second.at(), 1, "sendrecv")), from);
    let (answer, _) = caller.expect_response(200, "INVITE");
    let (cancel, way) = first.expect_request("CANCEL");
    first.send(&cancel.response(200, "OK", "one"), way);
    first.send(&rung[0].0.response(487, "Request Terminated", "one"), way);
    first.expect_request("ACK");
    let mut from_caller = Dialog::of_caller(&invite, &answer, caller.at(), "UDP");
    caller.send(&from_caller.ack(1), anycast());
    second.expect_request("ACK");
    caller.send(&from_caller.request("BYE"), anycast());
    let (bye, way) = second.expect_request("BYE");
    assert_eq!(way, PSAP, "by the recorded route");
    second.send(&bye.response(200, "OK", ""), way);
    caller.expect_response(200, "BYE");
    assert!(first.gather(Duration::ZERO, |m| m.method() == "BYE").is_empty());
    cluster.settled(before + 1);
}
