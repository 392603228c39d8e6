//! Session timers, transfers and calls that replace another, through three real nodes.

use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast, core, unicast};
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// One call between two scenarios, by way of the anycast address.
fn between(uac: &str, uas: &str, extra: &[&str]) {
    ladder::between(&cluster(), (uac, uas), "sip:112@127.0.0.100:5060", extra);
}

#[test]
fn a_refer_and_its_notification() {
    between("uac-refer", "uas-refer", &[]);
}

#[test]
fn a_refer_over_tcp() {
    between("uac-refer", "uas-refer", &["-t", "t1"]);
}

#[test]
fn a_refer_of_the_psap() {
    between("uac-referred", "uas-refers", &[]);
}

#[test]
fn a_refer_of_the_psap_over_tcp() {
    between("uac-referred", "uas-refers", &["-t", "t1"]);
}

#[test]
fn session_timers_of_each_leg() {
    between("uac-session-timer", "uas-session-timer", &[]);
}

#[test]
fn session_timers_over_tcp() {
    between("uac-session-timer", "uas-session-timer", &["-t", "t1"]);
}

/// An attended transfer: the caller hands its call with the PSAP to a colleague, who reaches another node (RFC 5589 §7, RFC 3891).
#[test]
fn an_attended_transfer_by_way_of_another_node() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let call = scene.established(unicast(0));
    // What the caller tells its colleague of the call, in a REFER that does not come through us.
    let contact = call.ok.uri("Contact");
    let (ours, callers) = (call.ok.tag("To"), call.ok.tag("From"));
    let replaces = format!("{};to-tag={ours};from-tag={callers}", call.ok.header("Call-ID"));
    let mut colleague = Phone::bind("127.0.3.2:0");
    let uid = cluster.call(call.ok.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].clone();
    wait::until("the other node knows of the answer", LIMIT, || {
        let calls = cluster.calls_at(1);
        if calls.iter().any(|c| c["uid"] == uid && c["state"] == "CALL_STATE_ANSWERED") { Ok(()) } else { Err(calls) }
    });
    let invite = Message::invite(contact, colleague.at(), "UDP").with("Replaces", &replaces).with("Require", "replaces");
    colleague.send(&invite, unicast(1));
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    let mut from_psap = call.from_psap.clone();
    let psap_bye = from_psap.request("BYE");
    let (psap_tag, our_tag) = (psap_bye.tag("From"), call.psap_invite.tag("From"));
    let theirs = format!("{};to-tag={psap_tag};from-tag={our_tag}", call.psap_invite.header("Call-ID"));
    assert_eq!(at_psap.header("Replaces"), theirs, "the dialog as the PSAP knows it");
    assert_ne!(at_psap.header("Call-ID"), call.psap_invite.header("Call-ID"));
    let ok =
        at_psap.response(200, "OK", "second").with("Contact", &format!("<sip:psap@{PSAP}>")).with_sdp(sdp(PSAP, 1, "sendrecv"));
    scene.psap.send(&ok, from);
    let (told, _) = colleague.expect_response(200, "INVITE");
    scene.psap.expect_request("ACK");
    let mut dialog = Dialog::of_caller(&invite, &told, colleague.at(), "UDP");
    colleague.send(&dialog.ack(1), unicast(1));
    // RFC 3891 §3: the PSAP ends what was replaced; its BYE takes whatever node.
    scene.psap.send(&psap_bye, core(2));
    scene.psap.expect_response(200, "BYE");
    let (bye, at) = scene.caller.expect_request("BYE");
    scene.caller.send(&bye.response(200, "OK", ""), at);
    let bye = dialog.request("BYE");
    colleague.send(&bye, unicast(2));
    scene.psap_confirms("BYE");
    assert_eq!(colleague.expect_final(&bye).0.status(), 200);
    // Of the ACK to the second node and the BYE to the third the owner may have read either first.
    scene.settled(&cluster, before + 2, (&call.invite, &call.psap_invite));
}

/// A Replaces that names nothing of ours (RFC 3891 §3).
#[test]
fn a_dialog_that_is_not_there_cannot_be_replaced() {
    let (_cluster, mut scene) = (cluster(), Scene::new());
    let value = "nobody@nowhere;to-tag=1;from-tag=2";
    let invite = Message::invite("sip:desk@127.0.0.100", scene.caller.at(), "UDP").with("Replaces", value);
    scene.caller.send(&invite, anycast());
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 481);
}
