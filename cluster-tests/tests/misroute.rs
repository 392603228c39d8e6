//! The cases of anycast.md at real nodes: packets that reach a node which is not the owner.
//!
//! Calls enter at the first node's unicast address, so it is the owner for certain; a flip is another node's address.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options, PSAP, SETTLE, SIPS_PORT, Shared, anycast, core, list, unicast};
use cluster_tests::command;
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message, sdp, unique};
use cluster_tests::scene::Scene;
use cluster_tests::stream::StreamPhone;
use cluster_tests::wait;

/// Longer than the gap between two retransmissions early in a transaction (500 ms, 1 s): silence for so long is silence.
const QUIET: Duration = Duration::from_millis(2600);

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

const A: u8 = 0;
const B: u8 = 1;
const C: u8 = 2;

/// A test's cluster, phones, and the number of CDRs before it.
fn stage() -> (Shared, Scene, usize) {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    (cluster, Scene::new(), before)
}

#[test]
fn ac01_a_repeated_invite_at_another_node_rings_once() {
    let (cluster, mut scene, before) = stage();
    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, unicast(A));
    scene.caller.settle(unicast(A));
    scene.caller.send(&invite, unicast(B));
    let (again, via) = scene.caller.expect_response(180, "INVITE");
    assert_eq!((via, again.uri("Contact").contains(&unicast(A).to_string())), (unicast(B), true), "relayed, rule E: {again:?}");
    assert!(scene.psap.gather(QUIET, |m| m.method() == "INVITE").is_empty(), "the PSAP rings once");
    let ok = Scene::answer(&at_psap);
    scene.psap.send(&ok, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), unicast(B));
    scene.psap.expect_request("ACK");
    scene.caller.send(&dialog.request("BYE"), unicast(C));
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    cluster.settled(before + 1);
}

/// A far end that mangles our tag names no call: 481, and the call lives.
#[test]
fn ac19_a_mangled_tag_is_refused() {
    let (cluster, mut scene, before) = stage();
    let mut call = scene.established(unicast(A));
    let tag = call.ok.tag("To").to_owned();
    let mangled = format!("{}x", &tag[..tag.len() - 1]);
    for node in [A, B] {
        let mut bye = call.from_caller.clone().request("BYE");
        bye = bye.replace("To", &call.ok.header("To").replace(&tag, &mangled)).to_uri("sip:112@127.0.0.100");
        scene.caller.send(&bye, unicast(node));
        assert_eq!(scene.caller.expect_final(&bye).0.status(), 481);
    }
    for node in [A, B] {
        scene.psap.ping(core(node));
    }
    assert!(scene.psap.gather(Duration::ZERO, |m| m.method() == "BYE").is_empty());
    scene.hang_up(&mut call, unicast(B));
    cluster.settled(before + 1);
}

#[test]
fn ac02_two_copies_at_two_nodes_ring_once() {
    let (cluster, mut scene, before) = stage();
    let mut merged = 0;
    for round in 0..10 {
        let invite = scene.invite();
        scene.caller.send(&invite, unicast(A));
        scene.caller.send(&invite, unicast(B));
        let (at_psap, from) = scene.psap.expect_request("INVITE");
        let others =
            scene.psap.gather(Duration::from_millis(700), |m| m.method() == "INVITE" && m.header("Via") != at_psap.header("Via"));
        // Rule B: where the log takes longer than the budget, both nodes dial; rule C: the PSAP sees one request by two ways, and
        // does not ring for the second (RFC 3261 §8.2.2.2).
        let identity = |m: &Message| (m.header("Call-ID").to_owned(), m.tag("From").to_owned(), m.header("CSeq").to_owned());
        for (other, via) in &others {
            assert_eq!(identity(other), identity(&at_psap), "round {round}: a second call");
            scene.psap.send(&other.response(482, "Loop Detected", "merged"), *via);
        }
        merged += usize::from(!others.is_empty());
        scene.psap.send(&Scene::answer(&at_psap), from);
        let (ok, _) = scene.caller.expect_response(200, "INVITE");
        let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
        scene.caller.send(&dialog.ack(1), unicast(C));
        scene.psap.expect_request("ACK");
        scene.caller.send(&dialog.request("BYE"), unicast(C));
        scene.psap_confirms("BYE");
        scene.caller.expect_response(200, "BYE");
        let rest = scene.caller.gather(Duration::from_millis(200), |m| m.status() >= 200 && m.cseq().1 == "INVITE");
        assert!(rest.iter().all(|(m, _)| m.status() == 200 && m.tag("To") == ok.tag("To")), "one dialog only: {rest:#?}");
        scene.psap.gather(Duration::ZERO, |_| true);
    }
    assert!(merged < 10, "the log never came first");
    cluster.settled(before + 10);
}

#[test]
fn ac04_and_ac09_a_refused_invite_is_repeated_and_acknowledged_at_other_nodes() {
    let (cluster, mut scene, before) = stage();
    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, unicast(A));
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    scene.psap.expect_request("ACK");
    let (busy, _) = scene.caller.expect_response(486, "INVITE");
    // AC-04
    scene.caller.gather(Duration::ZERO, |_| true);
    scene.caller.send(&invite, unicast(B));
    let (again, _) = scene.caller.expect("486 through B", |m| m.status() == 486);
    assert_eq!(again.tag("To"), busy.tag("To"));
    // AC-09, RFC 3261 §17.1.1.3: the ACK has the INVITE's branch.
    let ack = Message::request("ACK", "sip:112@127.0.0.100")
        .with("Via", invite.header("Via"))
        .with("Max-Forwards", "70")
        .with("From", invite.header("From"))
        .with("To", busy.header("To"))
        .with("Call-ID", invite.header("Call-ID"))
        .with("CSeq", "1 ACK");
    scene.caller.send(&ack, unicast(C));
    cluster.settled(before + 1);
    until_acknowledged(&cluster, &ladder::uid_of(&cluster, invite.header("Call-ID")));
    scene.caller.settle(unicast(A));
    let late = scene.caller.gather(QUIET, |m| m.status() == 486);
    assert!(late.is_empty(), "A goes on repeating: {late:#?}");
    cluster.settled(before + 1);
}

/// Waits until the owner of this call has the caller's ACK: nothing answers that.
fn until_acknowledged(cluster: &Cluster, uid: &str) {
    wait::until("the owner has the ACK", SETTLE, || {
        let messages = list(&cluster.json(&["call", "ladder", uid]), "messages");
        let acked = messages.iter().any(|m| m["leg"] == "CALL_LEG_CALLER" && m["summary"] == "ACK");
        if acked { Ok(()) } else { Err(messages) }
    });
}

#[test]
fn ac06_a_cancel_at_another_node_ends_the_ringing() {
    let (cluster, mut scene, before) = stage();
    for to in [B, C] {
        let invite = scene.invite();
        let (at_psap, from) = scene.ring(&invite, unicast(A));
        let cancel = invite.cancel();
        scene.caller.send(&cancel, unicast(to));
        scene.caller.expect_response(200, "CANCEL");
        let (refused, _) = scene.caller.expect_response(487, "INVITE");
        scene.psap_confirms("CANCEL");
        scene.psap.send(&at_psap.response(487, "Request Terminated", "psap"), from);
        scene.psap.expect_request("ACK");
        let ack = cancel.replace("CSeq", "1 ACK").replace("To", refused.header("To"));
        scene.caller.send(&Message { start: "ACK sip:112@127.0.0.100 SIP/2.0".into(), ..ack }, unicast(to));
    }
    cluster.settled(before + 2);
}

/// INVITE and CANCEL leave at once and reach two nodes: whichever is first, the call ends and nothing goes on ringing.
#[test]
fn ac07_a_cancel_at_another_node_that_overtakes_the_claim() {
    let (cluster, mut scene, before) = stage();
    for _ in 0..10 {
        let invite = scene.invite();
        scene.caller.send(&invite, unicast(A));
        scene.caller.send(&invite.cancel(), unicast(B));
        scene.caller.expect_response(200, "CANCEL");
        scene.caller.expect_response(487, "INVITE");
        // It may have rung already: then it is told.
        if let Some((at_psap, from)) = scene.psap.wait(Duration::from_millis(100), |m| m.method() == "INVITE") {
            scene.psap.send(&at_psap.response(180, "Ringing", "psap"), from);
            scene.psap_confirms("CANCEL");
            scene.psap.send(&at_psap.response(487, "Request Terminated", "psap"), from);
            scene.psap.expect_request("ACK");
        }
    }
    cluster.settled(before + 10);
    // A CANCEL of nothing is held for a moment, refused, and remembered: an INVITE that comes later rings nobody.
    let invite = scene.invite();
    scene.caller.send(&invite.cancel(), unicast(B));
    scene.caller.expect_response(481, "CANCEL");
    scene.caller.send(&invite, unicast(B));
    scene.caller.expect_response(487, "INVITE");
    assert!(scene.psap.gather(Duration::from_millis(300), |m| m.method() == "INVITE").is_empty());
    cluster.settled(before + 10);
}

/// A draining node says so to OPTIONS, and takes a call that comes all the same.
#[test]
fn ac40_and_ac43_a_draining_node_takes_a_straggler() {
    let (cluster, mut scene, before) = stage();
    let node = [A, B, C].into_iter().find(|n| *n != cluster.holder()).expect("two of three stand by");
    let name = NODES[usize::from(node)];
    let options = |scene: &Scene| {
        let invite = scene.invite().without("Content-Type").replace("CSeq", "1 OPTIONS");
        Message { start: "OPTIONS sip:127.0.0.100 SIP/2.0".into(), body: Vec::new(), ..invite }
    };
    let answered = |scene: &mut Scene| {
        let ping = options(scene);
        scene.caller.send(&ping, unicast(node));
        scene.caller.expect_final(&ping).0.status()
    };
    assert_eq!(answered(&mut scene), 200);
    let mut standing = scene.established(unicast(node));
    // The call keeps it draining.
    let mut drain = cluster.sbcctl();
    drain.args(["node", "drain", name, "--yes"]);
    let drain = command::spawn(&mut drain).expect("sbcctl starts");
    wait::until("OPTIONS is answered 503", Duration::from_secs(10), || match answered(&mut scene) {
        503 => Ok(()),
        other => Err((other, drain.stderr())),
    });
    let mut straggler = scene.established(unicast(node));
    scene.hang_up(&mut straggler, unicast(node));
    scene.hang_up(&mut standing, unicast(node));
    drain.finish(Duration::from_secs(30)).expect("it ends with the last call").ok("sbcctl node drain");
    cluster.ctl(&["node", "undrain", name]);
    wait::until("OPTIONS is answered 200", Duration::from_secs(10), || match answered(&mut scene) {
        200 => Ok(()),
        other => Err(other),
    });
    cluster.settled(before + 2);
}

/// Rules E and F: the Contact is the owner's own address, by the transport of the leg, at a name in its certificate.
#[test]
fn ac33_the_contact_is_unicast_by_the_transport_of_the_leg() {
    let (cluster, mut scene, before) = stage();
    let ca = cluster.dir().join("pki/ca.crt");
    let owner = unicast(A).ip();
    let sips = SocketAddr::new(owner, SIPS_PORT);
    let mut phones = [StreamPhone::tcp(unicast(A)), StreamPhone::tls(sips, &ca)];
    for (phone, expected) in
        phones.iter_mut().zip([format!("@{owner}:5060;transport=tcp"), format!("@{owner}:5061;transport=tls")])
    {
        let invite = Message::invite("sip:112@127.0.0.100", phone.at(), phone.transport());
        phone.send(&invite);
        let (at_psap, from) = scene.psap.expect_request("INVITE");
        assert!(at_psap.uri("Contact").contains("@127.0.1.11:5060"), "{}", at_psap.header("Contact"));
        scene.psap.send(&Scene::answer(&at_psap), from);
        let ok = phone.expect_response(200, "INVITE");
        let (token, rest) = ok.uri("Contact").split_at("sip:".len() + 26);
        assert_eq!(rest, expected, "{token}");
        let mut dialog = Dialog::of_caller(&invite, &ok, phone.at(), phone.transport());
        phone.send(&dialog.ack(1));
        scene.psap.expect_request("ACK");
        phone.send(&dialog.request("BYE"));
        scene.psap_confirms("BYE");
        phone.expect_response(200, "BYE");
    }
    cluster.settled(before + 2);
}

#[test]
fn ac10_an_ack_nobody_knows_gets_no_answer() {
    let (_cluster, mut scene, _) = stage();
    let ack = Message { start: "ACK sip:112@127.0.0.100 SIP/2.0".into(), ..scene.invite().replace("CSeq", "1 ACK") };
    let ack = ack.replace("To", "<sip:112@127.0.0.100>;tag=nobody");
    for node in [A, B, C] {
        scene.caller.send(&ack, unicast(node));
    }
    let answers = scene.caller.gather(QUIET, |m| m.status() > 0);
    assert!(answers.is_empty(), "{answers:#?}");
}

#[test]
fn ac11_and_ac12_the_ack_for_a_200_at_another_node() {
    let (cluster, mut scene, before) = stage();
    // To the anycast name and to the owner's Contact, both delivered to another node.
    for ignores_contact in [true, false] {
        let mut call = scene.answered(unicast(A));
        let mut ack = call.from_caller.ack(1);
        if ignores_contact {
            ack = ack.to_uri("sip:112@127.0.0.100:5060");
        }
        scene.caller.send(&ack, unicast(B));
        scene.psap.expect_request("ACK");
        let live = cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED");
        until_acknowledged(&cluster, live["uid"].as_str().expect("a call has a uid"));
        scene.caller.settle(unicast(A));
        let again = scene.caller.gather(QUIET, |m| m.status() == 200);
        assert!(again.is_empty(), "the 200 is still repeated");
        scene.hang_up(&mut call, unicast(A));
    }
    cluster.settled(before + 2);
}

#[test]
fn ac14_a_bye_at_another_node() {
    let (cluster, mut scene, before) = stage();
    let mut call = scene.established(unicast(A));
    let (_, from) = scene.hang_up(&mut call, unicast(B));
    assert_eq!(from, unicast(B), "rule E: the 200 goes out through B");
    cluster.settled(before + 1);
}

#[test]
fn ac14_a_bye_over_tcp_at_another_node() {
    let (cluster, mut scene, before) = stage();
    let mut first = StreamPhone::tcp(unicast(A));
    let invite = Message::invite("sip:112@127.0.0.100", first.at(), "TCP");
    first.send(&invite);
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&Scene::answer(&at_psap), from);
    let ok = first.expect_response(200, "INVITE");
    let mut second = StreamPhone::tcp(unicast(B));
    let mut dialog = Dialog::of_caller(&invite, &ok, second.at(), "TCP");
    second.send(&dialog.ack(1));
    scene.psap.expect_request("ACK");
    second.send(&dialog.request("BYE"));
    scene.psap_confirms("BYE");
    second.expect_response(200, "BYE");
    cluster.settled(before + 1);
}

/// AC-31: the route flips in mid-call and resets the caller's connection. It connects again, reaches another node, and the PSAP's
/// BYE reaches it there.
#[test]
fn ac31_the_psaps_bye_follows_the_caller_to_its_new_connection() {
    let (cluster, mut scene, before) = stage();
    let owner = cluster.holder();
    let mut first = StreamPhone::tcp(anycast());
    let invite = Message::invite("sip:112@127.0.0.100", first.at(), "TCP");
    first.send(&invite);
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    let psap_ok = Scene::answer(&at_psap);
    scene.psap.send(&psap_ok, from);
    let ok = first.expect_response(200, "INVITE");
    first.send(&Dialog::of_caller(&invite, &ok, first.at(), "TCP").ack(1));
    scene.psap.expect_request("ACK");
    acknowledged(&cluster, &invite);
    cluster.flip((owner + 1) % 3);
    assert!(first.is_closed_within(Duration::from_secs(10)), "the old holder resets it");
    let mut second = StreamPhone::tcp(anycast());
    let mut dialog = Dialog::of_caller(&invite, &ok, second.at(), "TCP");
    let media = SocketAddr::new(second.at().ip(), 40_000);
    second.send(&dialog.request("INVITE").with_sdp(sdp(media, 2, "sendrecv")));
    let (again, from) = scene.psap.expect_request("INVITE");
    let answer = again.response(200, "OK", "").with("Contact", &format!("<sip:psap@{PSAP}>"));
    scene.psap.send(&answer.with_sdp(sdp(PSAP, 2, "sendrecv")), from);
    second.expect_response(200, "INVITE");
    second.send(&dialog.ack(2));
    scene.psap.expect("ACK of the re-INVITE", |m| m.method() == "ACK" && m.cseq().0 == again.cseq().0);
    scene.psap.send(&Dialog::of_callee(&at_psap, &psap_ok, PSAP).request("BYE"), from);
    let bye = second.expect("the PSAP's BYE", |m| m.method() == "BYE");
    assert!(!bye.header("Via").contains("127.0.0.100"), "rule F: {}", bye.header("Via"));
    second.send(&bye.response(200, "OK", ""));
    scene.psap.expect_response(200, "BYE");
    cluster.settled(before + 1);
}

/// Before the ACK of the call is at its owner, a re-INVITE is glare, and the two go there by different ways.
fn acknowledged(cluster: &Cluster, invite: &Message) {
    let call = cluster.call(invite.header("Call-ID"), "CALL_STATE_ANSWERED");
    let uid = call["uid"].as_str().expect("a call has a uid").to_owned();
    wait::until("the caller's ACK and ours are at the owner", Duration::from_secs(10), || {
        let messages = list(&cluster.json(&["call", "ladder", &uid]), "messages");
        if messages.iter().filter(|m| m["cseq"].as_str().is_some_and(|c| c.ends_with("ACK"))).count() >= 2 {
            Ok(())
        } else {
            Err(messages)
        }
    });
}

#[test]
fn ac16_hold_at_another_node_and_glare() {
    let (cluster, mut scene, before) = stage();
    let mut call = scene.established(unicast(A));
    let media = SocketAddr::new(scene.caller.at().ip(), 40_000);
    acknowledged(&cluster, &call.invite);
    let hold = call.from_caller.request("INVITE").with_sdp(sdp(media, 2, "sendonly"));
    scene.caller.send(&hold, unicast(B));
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    assert!(at_psap.text().contains("a=sendonly"), "{}", at_psap.text());
    // RFC 3261 §14.1: the PSAP's own re-INVITE meets an open one.
    scene.psap.send(&call.from_psap.request("INVITE").with_sdp(sdp(PSAP, 2, "sendrecv")), from);
    let (glare, _) = scene.psap.expect("491", |m| m.status() == 491);
    scene.psap.send(
        &Message {
            start: format!("ACK {} SIP/2.0", call.from_psap.target),
            ..glare.response(491, "", "").replace("CSeq", "101 ACK")
        },
        from,
    );
    let ok = at_psap.response(200, "OK", "").with("Contact", &format!("<sip:psap@{PSAP}>")).with_sdp(sdp(PSAP, 2, "recvonly"));
    scene.psap.send(&ok, from);
    let (ok, _) = scene.caller.expect_final(&hold);
    assert_eq!(ok.status(), 200);
    assert!(ok.uri("Contact").contains(&unicast(A).to_string()), "rule K: {}", ok.header("Contact"));
    assert!(ok.text().contains("a=recvonly"), "{}", ok.text());
    scene.caller.send(&call.from_caller.ack(2), unicast(C));
    scene.psap.expect("ACK of the hold", |m| m.method() == "ACK" && m.cseq().0 == at_psap.cseq().0);
    scene.hang_up(&mut call, unicast(C));
    cluster.settled(before + 1);
}

#[test]
fn ac17_other_requests_in_dialog_at_another_node() {
    let (cluster, mut scene, before) = stage();
    let mut call = scene.established(unicast(A));
    for method in ["INFO", "OPTIONS", "UPDATE", "MESSAGE", "NOTIFY"] {
        let mut request = call.from_caller.request(method);
        if method == "NOTIFY" {
            request = request.with("Event", "refer").with("Subscription-State", "active");
        }
        scene.caller.send(&request, unicast(B));
        scene.psap_confirms(method);
        let (ok, from) = scene.caller.expect_final(&request);
        assert_eq!((ok.status(), from), (200, unicast(B)), "{method}");
    }
    scene.hang_up(&mut call, unicast(C));
    cluster.settled(before + 1);
}

#[test]
fn ac20_an_unknown_dialog_is_denied_under_quorum() {
    let (_cluster, mut scene, _) = stage();
    for method in ["BYE", "INFO", "INVITE"] {
        let invite = scene.invite();
        let request =
            Message { start: format!("{method} sip:112@127.0.0.100 SIP/2.0"), ..invite.replace("CSeq", &format!("7 {method}")) };
        let request = request.replace("To", &format!("<sip:112@127.0.0.100>;tag={}", unique("t")));
        scene.caller.send(&request, unicast(B));
        assert_eq!(scene.caller.expect_final(&request).0.status(), 481, "{method}");
    }
}

#[test]
fn ac34_our_own_route_is_stripped() {
    let (cluster, mut scene, before) = stage();
    let mut call = scene.established(unicast(A));
    for route in ["<sip:127.0.0.100;lr>", "<sip:127.0.0.100:5060;lr>", "<sip:127.0.0.11;lr>", "<sip:127.0.0.13:5060;lr>"] {
        let info = call.from_caller.request("INFO").with("Route", route);
        scene.caller.send(&info, unicast(B));
        let at_psap = scene.psap_confirms("INFO");
        assert_eq!(at_psap.header("Route"), "", "{route}");
        assert_eq!(scene.caller.expect_final(&info).0.status(), 200, "{route}");
    }
    scene.hang_up(&mut call, unicast(B));
    cluster.settled(before + 1);
}

#[test]
fn ac35_a_foreign_route_is_refused_and_left_behind_by_an_emergency_call() {
    let (cluster, mut scene, before) = stage();
    let ordinary = Message::invite("sip:service@127.0.0.100", scene.caller.at(), "UDP").with("Route", "<sip:127.0.9.9;lr>");
    scene.caller.send(&ordinary, unicast(B));
    assert_eq!(scene.caller.expect_final(&ordinary).0.status(), 403);
    // RFC 6881: a phone or proxy that thought out the way itself, by names that nobody here knows.
    let invite = scene.invite().with("Route", "<sip:sbc.example.net;lr>").with("Route", "<sip:psap.example.net;lr>");
    let (at_psap, from) = scene.ring(&invite, unicast(B));
    assert_eq!(at_psap.header("Route"), "", "{at_psap:?}");
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 486);
    // By a name of ours an ordinary call comes in, too.
    let old = cluster.config_text();
    cluster.apply_config(&format!("{old}\n[settings]\nown_names = [\"sbc.example.net\"]\n"));
    let named = Message::invite("sip:service@127.0.0.100", scene.caller.at(), "UDP").with("Route", "<sip:SBC.example.net.;lr>");
    let (at_psap, from) = scene.ring(&named, unicast(B));
    scene.psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    assert_eq!(scene.caller.expect_final(&named).0.status(), 486);
    cluster.apply_config(&old);
    cluster.settled(before + 2);
}

#[test]
fn ac15_a_trunk_set_to_redirect() {
    // Its own cluster configuration, put back at the end.
    let (cluster, mut scene, before) = stage();
    let old = cluster.config_text();
    cluster.apply_config(&redirect_every_trunk(&old));
    let mut call = scene.established(unicast(A));
    let bye = call.from_caller.request("BYE");
    scene.caller.send(&bye, unicast(B));
    let (moved, _) = scene.caller.expect_final(&bye);
    assert_eq!(moved.status(), 302);
    assert!(moved.uri("Contact").contains(&unicast(A).to_string()), "{}", moved.header("Contact"));
    scene.caller.send(&bye, unicast(B));
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    cluster.apply_config(&old);
    cluster.settled(before + 1);
}

/// The configuration with `misroute = "redirect"` in each of its trunks.
fn redirect_every_trunk(text: &str) -> String {
    let kept = text.lines().filter(|l| !l.trim_start().starts_with("misroute"));
    kept.map(|l| if l.trim() == "[[trunks]]" { format!("{l}\nmisroute = \"redirect\"\n") } else { format!("{l}\n") }).collect()
}

/// A call of everything that can go wrong at once, through the real anycast address and two flips.
#[test]
fn every_step_at_another_node_by_real_flips() {
    let (cluster, mut scene, before) = stage();
    let owner = cluster.holder();
    let (second, third) = ((owner + 1) % 3, (owner + 2) % 3);
    let mut call = scene.answered(anycast());
    cluster.flip(second);
    scene.caller.send(&call.from_caller.ack(1).to_uri("sip:112@127.0.0.100:5060"), anycast());
    scene.psap.expect_request("ACK");
    cluster.flip(third);
    let (_, from) = scene.hang_up(&mut call, anycast());
    assert_eq!(from, anycast(), "rule E");
    cluster.settled(before + 1);
}
