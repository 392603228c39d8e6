//! Before the answer, through three real nodes: early dialogs, reliable provisional responses, UPDATE, early and delayed offers.
//! Each scenario names its RFC section. After each call: none left, one CDR.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast, unicast};
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::rtp::{media, packet};
use cluster_tests::scene::Scene;
use cluster_tests::wait;

/// Longer than the gaps between the first repetitions of a reliable response (RFC 3262 §3: 0.5, 1, 2 s).
const QUIET: Duration = Duration::from_millis(2600);

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// One call between two scenarios, by way of the anycast address.
fn between(uac: &str, uas: &str, extra: &[&str]) {
    ladder::between(&cluster(), (uac, uas), "sip:112@127.0.0.100:5060", extra);
}

#[test]
fn two_early_dialogs_and_two_answers() {
    between("uac-forks", "uas-forks", &[]);
}

#[test]
fn two_early_dialogs_over_tcp() {
    between("uac-forks", "uas-forks", &["-t", "t1"]);
}

#[test]
fn prack_end_to_end() {
    between("uac-prack", "uas-prack", &[]);
}

#[test]
fn prack_end_to_end_over_tcp() {
    between("uac-prack", "uas-prack", &["-t", "t1"]);
}

#[test]
fn prack_by_us_for_a_caller_that_cannot() {
    between("uac-unreliable", "uas-prack", &[]);
}

#[test]
fn prack_to_us_for_a_psap_that_cannot() {
    between("uac-prack-required", "uas-early-media", &[]);
}

#[test]
fn update_before_and_after_the_answer() {
    between("uac-update", "uas-update", &[]);
}

#[test]
fn a_delayed_offer_answered_in_prack() {
    between("uac-delayed-offer-prack", "uas-delayed-offer-prack", &[]);
}

/// RFC 3262 §3: the 183 is repeated until its PRACK; one that matches nothing gets 481.
#[test]
fn a_caller_that_is_slow_to_acknowledge() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let invite = scene.invite().with("Supported", "100rel");
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    let contact = format!("<sip:psap@{PSAP}>");
    let reliable = |status, reason, rseq: &str| {
        let response = at_psap.response(status, reason, "psap").with("Contact", &contact);
        response.with("Require", "100rel").with("RSeq", rseq)
    };
    scene.psap.send(&reliable(183, "Session Progress", "9").with_sdp(sdp(PSAP, 1, "sendrecv")), from);
    let (early, _) = scene.caller.expect_response(183, "INVITE");
    for _ in 0..2 {
        let (again, _) = scene.caller.expect("the 183 again", |m| m.status() == 183);
        assert_eq!(again.header("RSeq"), early.header("RSeq"));
    }
    let mut dialog = Dialog::of_caller(&invite, &early, scene.caller.at(), "UDP");
    let stray = dialog.request("PRACK").with("RAck", "999999 1 INVITE");
    scene.caller.send(&stray, anycast());
    assert_eq!(scene.caller.expect_final(&stray).0.status(), 481);
    let mut acknowledged = |scene: &mut Scene, response: &Message, rseq: &str| {
        let prack = dialog.request("PRACK").with("RAck", &format!("{} 1 INVITE", response.header("RSeq")));
        scene.caller.send(&prack, anycast());
        assert_eq!(scene.psap_confirms("PRACK").header("RAck"), format!("{rseq} {} INVITE", at_psap.cseq().0));
        assert_eq!(scene.caller.expect_final(&prack).0.status(), 200);
    };
    acknowledged(&mut scene, &early, "9");
    scene.psap.send(&reliable(180, "Ringing", "10"), from);
    let (ringing, _) = scene.caller.expect_response(180, "INVITE");
    acknowledged(&mut scene, &ringing, "10");
    scene.psap.send(&at_psap.response(200, "OK", "psap").with("Contact", &contact), from);
    scene.caller.expect_response(200, "INVITE");
    scene.caller.send(&dialog.ack(1), anycast());
    scene.psap.expect_request("ACK");
    let bye = dialog.request("BYE");
    scene.caller.send(&bye, anycast());
    scene.psap_confirms("BYE");
    assert_eq!(scene.caller.expect_final(&bye).0.status(), 200);
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
}

#[test]
fn reliable_responses_out_of_order() {
    between("uac-prack-three", "uas-prack-gap", &[]);
}

#[test]
fn update_glare() {
    between("uac-update-glare", "uas-update-glare", &[]);
}

#[test]
fn cancel_after_prack() {
    between("uac-prack-cancel", "uas-prack-cancelled", &[]);
}

#[test]
fn ac18_prack_and_update_at_other_nodes() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let invite = scene.invite().with("Supported", "100rel");
    scene.caller.send(&invite, unicast(0));
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    let contact = format!("<sip:psap@{PSAP}>");
    let progress = at_psap
        .response(183, "Session Progress", "psap")
        .with("Contact", &contact)
        .with("Require", "100rel")
        .with("RSeq", "77")
        .with_sdp(sdp(PSAP, 1, "sendrecv"));
    scene.psap.send(&progress, from);
    let (early, _) = scene.caller.expect_response(183, "INVITE");
    assert_eq!((early.header("RSeq"), early.header("Require")), ("77", "100rel"));
    scene.caller.expect("the second copy, of ours", |m| m.status() == 183);
    // AC-18: to the node that has nothing of it.
    let mut dialog = Dialog::of_caller(&invite, &early, scene.caller.at(), "UDP");
    let prack = dialog.request("PRACK").with("RAck", "77 1 INVITE");
    scene.caller.send(&prack, unicast(1));
    let there = scene.psap_confirms("PRACK");
    assert_eq!(there.header("RAck"), format!("77 {} INVITE", at_psap.cseq().0));
    let (ok, via) = scene.caller.expect_final(&prack);
    assert_eq!((ok.status(), via), (200, unicast(1)), "rule E");
    scene.caller.settle(unicast(0));
    assert!(scene.caller.gather(QUIET, |m| m.status() == 183).is_empty(), "the reliable 183 stops");
    // AC-49: what the other far end is to answer, no node does.
    let update =
        dialog.request("UPDATE").with("Contact", invite.header("Contact")).with_sdp(sdp(scene.caller.at(), 2, "sendrecv"));
    scene.caller.send(&update, unicast(2));
    let (there, from) = scene.psap.expect_request("UPDATE");
    scene.psap.send(&there.response(200, "OK", "").with("Contact", &contact).with_sdp(sdp(PSAP, 2, "sendrecv")), from);
    let (ok, via) = scene.caller.expect_final(&update);
    assert_eq!((ok.status(), via), (200, unicast(2)));
    assert!(ok.uri("Contact").contains(&unicast(0).to_string()), "rule K: {}", ok.header("Contact"));
    scene.psap.send(&at_psap.response(200, "OK", "psap").with("Contact", &contact), from);
    scene.caller.expect_final(&invite);
    scene.psap.expect_request("ACK");
    scene.caller.send(&dialog.ack(1), unicast(1));
    let bye: Message = dialog.request("BYE");
    scene.caller.send(&bye, unicast(2));
    scene.psap_confirms("BYE");
    assert_eq!(scene.caller.expect_final(&bye).0.status(), 200);
    // No ladder: ACK and BYE went by two nodes, and the later one may be there first.
    cluster.settled(before + 1);
}

/// Which of these sockets hears what `from` sends to `to`, once one does.
#[track_caller]
fn hears(from: &UdpSocket, to: SocketAddr, sockets: [&UdpSocket; 2]) -> usize {
    // No two packets of this process are alike, so one that comes late is not taken for a later one.
    static SEQUENCE: AtomicU16 = AtomicU16::new(0);
    wait::until("somebody hears the caller", Duration::from_secs(5), || {
        let packet = packet(0, SEQUENCE.fetch_add(1, Ordering::Relaxed));
        from.send_to(&packet, to).expect("loopback");
        let mut buffer = [0; 2048];
        let heard = sockets.iter().position(|s| {
            s.set_read_timeout(Some(Duration::from_millis(50))).expect("not zero");
            while let Ok((len, _)) = s.recv_from(&mut buffer) {
                if buffer[..len] == packet {
                    return true;
                }
            }
            false
        });
        heard.ok_or("nobody")
    })
}

/// The first of these sockets hears it, soon and from then on: the relay is told beside the signalling, not before it.
#[track_caller]
fn turns_to(from: &UdpSocket, to: SocketAddr, sockets: [&UdpSocket; 2]) {
    wait::until("the relay turns", Duration::from_secs(5), || match hears(from, to, sockets) {
        0 => Ok(()),
        _ => Err("the other one"),
    });
    assert_eq!(hears(from, to, sockets), 0, "it turns once");
}

/// RFC 3261 §13.2.2.4 and RTP: early media are those of the newest description; then of the dialog that is answered.
#[test]
fn media_follow_the_newest_early_dialog_and_then_the_answer() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let caller = UdpSocket::bind("127.0.3.1:40000").expect("free");
    let phones = [0, 1].map(|n| UdpSocket::bind(SocketAddr::new(PSAP.ip(), 42_000 + 10 * n)).expect("free"));
    let at = |n: usize| phones[n].local_addr().expect("bound");
    let invite = scene.invite();
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    let response = |status, reason, n: usize| {
        let contact = format!("<sip:phone{n}@{PSAP}>");
        at_psap.response(status, reason, &format!("fork{n}")).with("Contact", &contact).with_sdp(sdp(at(n), 1, "sendrecv"))
    };
    let mut ports = Vec::new();
    for n in [0, 1] {
        scene.psap.send(&response(183, "Session Progress", n), from);
        let (early, _) = scene.caller.expect_response(183, "INVITE");
        ports.push(media(&early));
        turns_to(&caller, ports[n], [&phones[n], &phones[1 - n]]);
    }
    assert_eq!(ports[0], ports[1], "one session of ours, whoever is heard");
    scene.psap.send(&response(200, "OK", 0), from);
    let (ok, _) = scene.caller.expect_response(200, "INVITE");
    scene.psap.expect_request("ACK");
    turns_to(&caller, media(&ok), [&phones[0], &phones[1]]);
    let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
    scene.caller.send(&dialog.ack(1), anycast());
    let bye = dialog.request("BYE");
    scene.caller.send(&bye, anycast());
    scene.psap_confirms("BYE");
    assert_eq!(scene.caller.expect_final(&bye).0.status(), 200);
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
}
