//! Session timers (RFC 4028) through three real nodes: intervals that one side finds too short, refreshes of ours, and a far end that is
//! gone. An emergency call may ask for an interval as short as it likes, which is how a refresh of ours comes within seconds.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, Shared, anycast, core};
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message, unique};
use cluster_tests::scene::{Call, Scene};

/// What no PSAP has: this user has a route, and its calls are no emergency.
const ORDINARY: &str = "sip:service@127.0.0.100";

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// What a message says of its session timer.
fn session(message: &Message) -> (&str, &str) {
    (message.header("Session-Expires"), message.header("Min-SE"))
}

/// A call whose caller asks for this, answered and acknowledged.
#[track_caller]
fn established(scene: &mut Scene, fields: &[(&str, &str)]) -> Call {
    let invite = fields.iter().fold(scene.invite(), |m, (name, value)| m.with(name, value));
    let (psap_invite, from) = scene.ring(&invite, anycast());
    let psap_ok = Scene::answer(&psap_invite);
    scene.psap.send(&psap_ok, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    scene.psap.expect_request("ACK");
    let from_caller = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    let from_psap = Dialog::of_callee(&psap_invite, &psap_ok, scene.psap.at());
    scene.caller.send(&from_caller.ack(1), anycast());
    Call { invite, psap_invite, ok, from_caller, from_psap }
}

/// RFC 4028 §9, §7.3: 422 with the least that we take, to the INVITE and to a refresh; then what was asked for.
#[test]
fn a_caller_that_wants_too_short_an_interval() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let short = Message::invite(ORDINARY, scene.caller.at(), "UDP").with("Supported", "timer").with("Session-Expires", "89");
    scene.caller.send(&short, anycast());
    let refused = scene.caller.final_of(&short);
    assert_eq!((refused.status(), refused.header("Min-SE")), (422, "90"));
    let via = format!("SIP/2.0/UDP {};branch={};rport", scene.caller.at(), unique("z9hG4bK"));
    let again = short.replace("Via", &via).replace("CSeq", "2 INVITE").replace("Session-Expires", "90").with("Min-SE", "90");
    let (at_psap, from) = scene.ring(&again, anycast());
    assert_eq!(session(&at_psap), ("1800", "90"), "each leg has its own");
    scene.psap.send(&Scene::answer(&at_psap), from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    assert_eq!((ok.header("Session-Expires"), ok.header("Require")), ("90;refresher=uac", "timer"));
    scene.psap.expect_request("ACK");
    let mut dialog = Dialog::of_caller(&again, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(2), anycast());
    let update = dialog.request("UPDATE").with("Supported", "timer").with("Session-Expires", "60;refresher=uac");
    scene.caller.send(&update, anycast());
    let (refused, _) = scene.caller.expect_final(&update);
    assert_eq!((refused.status(), refused.header("Min-SE")), (422, "90"));
    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    // No ladder: the INVITE that was refused began no call.
    cluster.settled(before + 1);
    let others = scene.psap.gather(Duration::ZERO, |m| m.method() == "UPDATE" || m.cseq().1 == "INVITE" && *m != at_psap);
    assert!(others.is_empty(), "what was refused did not cross: {others:#?}");
}

/// No emergency call is refused for it.
#[test]
fn an_emergency_call_with_too_short_an_interval_is_taken() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let mut call = established(&mut scene, &[("Supported", "timer"), ("Session-Expires", "30")]);
    assert_eq!(call.ok.header("Session-Expires"), "30;refresher=uac");
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// RFC 4028 §7.3: the PSAP is asked again within the same dialog-to-be, with its own interval, in the INVITE and in a later one. The
/// caller hears nothing of it.
#[test]
fn a_psap_that_wants_a_longer_interval() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let invite = scene.invite();
    scene.caller.send(&invite, anycast());
    let first = scene.psap.turn_away(invite.uri("From"), 422, &[("Min-SE", "3600")]);
    assert_eq!(session(&first), ("1800", "90"));
    let (at_psap, from) = scene.psap.expect("the INVITE again", |m| m.method() == "INVITE" && m.cseq().0 > first.cseq().0);
    assert_eq!(session(&at_psap), ("3600", "3600"));
    assert_eq!((at_psap.header("Call-ID"), at_psap.header("From")), (first.header("Call-ID"), first.header("From")));
    assert_eq!((at_psap.tag("To"), at_psap.cseq().0), ("", first.cseq().0 + 1));
    assert_eq!(at_psap.body, first.body);
    let told = scene.caller.gather(Duration::ZERO, |m| m.status() > 100);
    assert!(told.is_empty(), "{told:#?}");
    let answer = Scene::answer(&at_psap).with("Require", "timer").with("Session-Expires", "3600;refresher=uac");
    scene.psap.send(&answer, from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    scene.psap.expect_request("ACK");
    let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), anycast());

    // What a slow machine had repeated is not taken for what comes next.
    scene.psap.gather(Duration::ZERO, |m| m.method() == "INVITE");
    let hold = dialog.request("INVITE").with_sdp(invite.body.clone());
    scene.caller.send(&hold, anycast());
    let refused = scene.psap.turn_away(invite.uri("From"), 422, &[("Min-SE", "7200")]);
    assert_eq!(session(&refused), ("3600;refresher=uac", "3600"));
    let (again, from) = scene.psap.expect("the re-INVITE again", |m| m.method() == "INVITE" && m.cseq().0 > refused.cseq().0);
    assert_eq!(session(&again), ("7200;refresher=uac", "7200"));
    assert_eq!((again.tag("To"), again.cseq().0), ("psap", refused.cseq().0 + 1));
    scene.psap.send(&Scene::answer(&again).with("Require", "timer").with("Session-Expires", "7200;refresher=uac"), from);
    assert_eq!(scene.caller.expect_final(&hold).0.status(), 200);
    scene.psap.expect_request("ACK");
    scene.caller.send(&dialog.ack(hold.cseq().0), anycast());
    scene.caller.send(&dialog.request("BYE"), anycast());
    scene.psap_confirms("BYE");
    scene.caller.expect_response(200, "BYE");
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
}

/// One that refuses what it asked for ends the call.
#[test]
fn a_psap_that_finds_every_interval_too_short() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let invite = scene.invite();
    scene.caller.send(&invite, anycast());
    for asked in [("1800", "90"), ("3600", "3600")] {
        let at_psap = scene.psap.turn_away(invite.uri("From"), 422, &[("Min-SE", "3600")]);
        assert_eq!(session(&at_psap), asked);
    }
    let refused = scene.caller.final_of(&invite);
    assert_eq!(refused.status(), 422);
    cluster.settled(before + 1);
}

/// RFC 4028 §10: where we are the refresher a far end hears from us at half of its interval, by UPDATE where it allows that, else by
/// re-INVITE with the description that it has. It is no business of the other side.
#[test]
fn we_refresh_a_caller_that_leaves_it_to_us() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let owner = cluster.holder();
    for (allow, method) in [("INVITE, ACK, BYE, CANCEL, UPDATE", "UPDATE"), ("INVITE, ACK, BYE, CANCEL", "INVITE")] {
        let before = cluster.cdrs().len();
        let asks = [("Supported", "timer"), ("Session-Expires", "4;refresher=uas"), ("Allow", allow)];
        let mut call = established(&mut scene, &asks);
        assert_eq!(call.ok.header("Session-Expires"), "4;refresher=uas");
        let (refresh, from) = scene.caller.expect_request(method);
        assert_eq!(session(&refresh), ("90;refresher=uac", "90"), "no refresh of ours asks for less than the least (§4)");
        assert_eq!((refresh.tag("From"), refresh.tag("To")), (call.ok.tag("To"), call.ok.tag("From")));
        let mut answer = refresh.response(200, "OK", "").with("Contact", call.invite.header("Contact"));
        answer = answer.with("Require", "timer").with("Session-Expires", "90;refresher=uac");
        if method == "INVITE" {
            assert_eq!(refresh.body, call.ok.body, "nothing is changed, so that nothing can break");
            answer = answer.with_sdp(call.invite.body.clone());
        } else {
            assert!(refresh.body.is_empty());
        }
        scene.caller.send(&answer, from);
        if method == "INVITE" {
            scene.caller.expect_request("ACK");
        }
        // The answer took another socket than the BYE will.
        scene.caller.ping(from);
        scene.psap.ping(core(owner));
        let first = call.psap_invite.cseq().0;
        let crossed =
            scene.psap.gather(Duration::ZERO, |m| m.method() == "UPDATE" || m.method() == "INVITE" && m.cseq().0 > first);
        assert!(crossed.is_empty(), "{crossed:#?}");
        scene.hang_up(&mut call, anycast());
        scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    }
}

/// RFC 4028 §10, and better: a caller that did not refresh is asked, and one that forgot it lives on. One that knows of no call
/// any more ends it for the PSAP too.
#[test]
fn a_caller_that_did_not_refresh_is_asked_whether_it_is_there() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let asks = [("Supported", "timer"), ("Session-Expires", "4;refresher=uac"), ("Allow", "INVITE, UPDATE")];
    for (n, lives) in [true, false].into_iter().enumerate() {
        let mut call = established(&mut scene, &asks);
        let (asked, from) = scene.caller.expect_request("UPDATE");
        assert_eq!(asked.header("Session-Expires"), "90;refresher=uas", "it is to refresh from now on");
        if lives {
            scene.caller.send(&asked.response(200, "OK", "").with("Contact", call.invite.header("Contact")), from);
            scene.caller.ping(from);
            scene.hang_up(&mut call, anycast());
        } else {
            scene.caller.send(&asked.response(481, "Call/Transaction Does Not Exist", ""), from);
            let (bye, from) = scene.caller.expect_request("BYE");
            scene.caller.send(&bye.response(481, "Call/Transaction Does Not Exist", ""), from);
            assert_eq!(scene.psap_confirms("BYE").header("Reason"), "SIP;cause=481;text=\"Session timer expired\"");
        }
        scene.settled(&cluster, before + n + 1, (&call.invite, &call.psap_invite));
        let cdr = cluster.cdrs().pop().expect("its record");
        let origin = if lives { "CAUSE_ORIGIN_CALLER" } else { "CAUSE_ORIGIN_NODE" };
        assert_eq!(cdr["cause"]["origin"], origin, "{cdr}");
    }
}

/// 422 of ours to an INVITE that begins no call, and the one after it.
#[test]
fn a_caller_of_sipp_that_wants_too_short_an_interval() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    ladder::play(&cluster, ("uac-interval-too-small", "uas"), ORDINARY, &[]);
    cluster.settled(before + 1);
}

#[test]
fn a_psap_of_sipp_that_wants_a_longer_interval() {
    ladder::between(&cluster(), ("uac", "uas-interval-too-small"), "sip:112@127.0.0.100:5060", &[]);
}
