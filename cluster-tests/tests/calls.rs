//! Calls through three real nodes with sipp and hand-made phones at both ends. After each: no call left, one CDR.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::cluster::{ANYCAST, Cluster, Options, PSAP, SIPS_PORT, Shared, anycast, core, list, number, unicast};
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message};
use cluster_tests::phone::Phone;
use cluster_tests::rtp::{heard, media};
use cluster_tests::scene::Scene;
use cluster_tests::stream::StreamPhone;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// One call between two scenarios, by way of the anycast address.
fn between(uac: &str, uas: &str, ruri: &str, extra: &[&str]) {
    ladder::between(&cluster(), (uac, uas), ruri, extra);
}

const SIP_112: &str = "sip:112@127.0.0.100:5060";

#[test]
fn a_call_over_udp() {
    between("uac", "uas", SIP_112, &[]);
}

#[test]
fn a_call_over_tcp() {
    between("uac", "uas", SIP_112, &["-t", "t1"]);
}

#[test]
fn a_caller_that_ignores_contact() {
    between("uac-ignores-contact", "uas", SIP_112, &[]);
}

#[test]
fn a_caller_that_ignores_contact_over_tcp() {
    between("uac-ignores-contact", "uas", SIP_112, &["-t", "t1"]);
}

#[test]
fn the_emergency_service_urn() {
    between("uac", "uas", "urn:service:sos", &[]);
}

#[test]
fn a_telephone_number() {
    between("uac", "uas", "tel:112", &[]);
}

#[test]
fn the_user_that_sipp_calls() {
    between("uac", "uas", "sip:service@127.0.0.100:5060", &[]);
}

/// RFC 3261 §13.3.1.1: a target that rings is not left, however long. That the time for silent ones has passed, a later call shows,
/// which nobody rings for at the first target.
#[test]
fn a_psap_that_answers_late() {
    const BACKUP: &str = "127.0.2.8:5060";
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let targets = format!("\"{PSAP};transport=udp\", \"{BACKUP};transport=udp\"");
    cluster.with_psap(&targets, "failover_after_ms = 300", || {
        let (mut scene, mut backup) = (Scene::new(), Phone::bind(BACKUP));
        let invite = scene.invite();
        let (at_psap, from) = scene.ring(&invite, anycast());
        let mut other = Phone::bind("127.0.3.1:0");
        let unheard = Message::invite("sip:112@127.0.0.100", other.at(), "UDP");
        other.send(&unheard, anycast());
        backup.turn_away(unheard.uri("From"), 486, &[]);
        assert_eq!(other.final_of(&unheard).status(), 486);
        let left = backup.gather(Duration::ZERO, |m| m.method() == "INVITE");
        assert!(left.is_empty(), "the first call went on to the second target: {left:#?}");
        let psap_ok = Scene::answer(&at_psap);
        scene.psap.send(&psap_ok, from);
        let (ok, _) = scene.caller.expect_response(200, "INVITE");
        let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
        scene.caller.send(&dialog.ack(1), anycast());
        scene.psap.expect_request("ACK");
        let bye = dialog.request("BYE");
        scene.caller.send(&bye, anycast());
        scene.psap_confirms("BYE");
        assert_eq!(scene.caller.expect_final(&bye).0.status(), 200);
        scene.settled(&cluster, before + 2, (&invite, &at_psap));
    });
}

#[test]
fn early_media() {
    between("uac", "uas-early-media", SIP_112, &[]);
}

#[test]
fn a_busy_psap() {
    between("uac-busy", "uas-busy", SIP_112, &[]);
}

#[test]
fn a_psap_that_is_unavailable() {
    between("uac-unavailable", "uas-unavailable", SIP_112, &[]);
}

/// RFC 3263 §4.3 with the 2 s of `failover_after`: nobody is at the first target.
#[test]
fn a_dead_first_target() {
    let cluster = cluster();
    let began = std::time::Instant::now();
    cluster.with_psap(&format!("\"127.0.2.9:5060;transport=udp\", \"{PSAP};transport=udp\""), "", || {
        ladder::between(&cluster, ("uac", "uas"), SIP_112, &[]);
    });
    assert!(began.elapsed() >= Duration::from_secs(2), "the dead target was not tried: {:?}", began.elapsed());
    let uid = cluster.cdrs().pop().expect("its record")["call"].as_str().expect("an id").to_owned();
    let tried = list(&cluster.json(&["call", "ladder", &uid]), "messages");
    assert!(tried.iter().any(|m| m["remote"] == "127.0.2.9:5060" && m["summary"] == "INVITE"), "{tried:#?}");
}

#[test]
fn a_cancelled_call() {
    between("uac-cancel", "uas-cancelled", SIP_112, &[]);
}

#[test]
fn a_cancelled_call_over_tcp() {
    between("uac-cancel", "uas-cancelled", SIP_112, &["-t", "t1"]);
}

#[test]
fn hold_by_the_caller() {
    between("uac-hold", "uas-reinvited", SIP_112, &[]);
}

#[test]
fn video_comes_and_goes() {
    between("uac-media-come-and-go", "uas-media-come-and-go", SIP_112, &[]);
}

#[test]
fn new_codecs_of_the_caller() {
    between("uac-new-codecs", "uas-new-codecs", SIP_112, &[]);
}

#[test]
fn new_codecs_of_the_caller_over_tcp() {
    between("uac-new-codecs", "uas-new-codecs", SIP_112, &["-t", "t1"]);
}

#[test]
fn new_codecs_of_the_psap() {
    between("uac-asked-for-codecs", "uas-asks-for-codecs", SIP_112, &[]);
}

#[test]
fn new_codecs_of_the_psap_over_tcp() {
    between("uac-asked-for-codecs", "uas-asks-for-codecs", SIP_112, &["-t", "t1"]);
}

#[test]
fn hold_by_the_psap() {
    between("uac-held", "uas-holds", SIP_112, &[]);
}

#[test]
fn hold_over_tcp() {
    between("uac-hold", "uas-reinvited", SIP_112, &["-t", "t1"]);
}

#[test]
fn info_and_options_in_dialog() {
    between("uac-info-options", "uas-info-options", SIP_112, &[]);
}

#[test]
fn a_delayed_offer() {
    between("uac-delayed-offer", "uas-delayed-offer", SIP_112, &[]);
}

#[test]
fn the_psap_hangs_up() {
    between("uac-waits-for-bye", "uas-hangs-up", SIP_112, &[]);
}

#[test]
fn the_psap_hangs_up_on_tcp() {
    between("uac-waits-for-bye", "uas-hangs-up", SIP_112, &["-t", "t1"]);
}

/// AC-33: the certificate is for the address asked (checked by the handshake) and Contact stays on TLS, at unicast.
#[test]
fn a_call_over_tls() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let ca = find_ca(&cluster);
    let mut psap = Phone::bind(PSAP);
    for (n, to) in [SocketAddr::new(ANYCAST, SIPS_PORT), SocketAddr::new(unicast(1).ip(), SIPS_PORT)].into_iter().enumerate() {
        let mut caller = StreamPhone::tls(to, &ca);
        let invite = Message::invite("sips:112@127.0.0.100", caller.at(), "TLS")
            .replace("Contact", &format!("<sips:caller@{}>", caller.at()));
        caller.send(&invite);
        let (at_psap, from) = psap.expect_request("INVITE");
        psap.send(&Scene::answer(&at_psap), from);
        let ok = caller.expect_response(200, "INVITE");
        assert!(!ok.uri("Contact").contains(&ANYCAST.to_string()), "rule F: {}", ok.header("Contact"));
        assert!(ok.uri("Contact").starts_with("sips:"), "RFC 3261 §12.1.1: {}", ok.header("Contact"));
        // The PSAP has UDP alone: an emergency call goes there all the same.
        assert!(at_psap.bytes().starts_with(b"INVITE sip:112@"), "{}", String::from_utf8_lossy(&at_psap.bytes()));
        let mut dialog = Dialog::of_caller(&invite, &ok, caller.at(), "TLS");
        caller.send(&dialog.ack(1));
        psap.expect_request("ACK");
        caller.send(&dialog.request("BYE"));
        let (bye, from) = psap.expect_request("BYE");
        psap.send(&bye.response(200, "OK", ""), from);
        caller.expect_response(200, "BYE");
        ladder::settled(&cluster, before + n + 1, (&mut caller, &invite), (&mut psap, &at_psap));
    }
}

fn find_ca(cluster: &Cluster) -> std::path::PathBuf {
    let mut dirs = vec![cluster.dir().to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("dev up made it").flatten() {
            match entry.path() {
                path if path.is_dir() => dirs.push(path),
                path if path.file_name().is_some_and(|n| n == "ca.crt") => return path,
                _ => {}
            }
        }
    }
    panic!("no ca.crt under {}", cluster.dir().display());
}

/// RFC 3261 §13.3.1.4: the 200 comes again until the ACK, and the PSAP's repeated 200 gets the ACK again.
#[test]
fn the_200_is_repeated_until_the_ack() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.answered(anycast());
    let again = scene.caller.expect_response(200, "INVITE").0;
    assert_eq!(again.tag("To"), call.ok.tag("To"));
    scene.caller.send(&call.from_caller.ack(1), anycast());
    scene.psap.expect_request("ACK");
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// Rules A, E, F and topology hiding, seen on every message of a call at both ends.
#[test]
fn nothing_of_one_side_is_seen_on_the_other() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let owner = cluster.holder();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let text = String::from_utf8_lossy(&call.psap_invite.bytes()).into_owned();
    // From is who calls, not how: the PSAP calls back by it, so it crosses as it is.
    let text: String = text.lines().filter(|l| !l.starts_with("From:")).map(|l| format!("{l}\n")).collect();
    assert!(text.contains(&core(owner).to_string()), "the called leg comes from the core side:\n{text}");
    for hidden in
        [ANYCAST.to_string(), unicast(owner).to_string(), scene.caller.at().to_string(), call.invite.header("Call-ID").to_owned()]
    {
        assert!(!text.replace(call.psap_invite.start.as_str(), "").contains(&hidden), "{hidden} leaks to the core:\n{text}");
    }
    assert_eq!(call.psap_invite.header("Max-Forwards"), "69");
    let ok = String::from_utf8_lossy(&call.ok.bytes()).into_owned();
    assert!(call.ok.uri("Contact").contains(&unicast(owner).to_string()), "{ok}");
    for hidden in [PSAP.to_string(), core(owner).ip().to_string()] {
        assert!(!ok.contains(&hidden), "{hidden} leaks to the caller:\n{ok}");
    }
    assert!(
        call.ok.text().contains(&format!("c=IN IP4 {}", unicast(owner).ip())),
        "media is anchored at unicast: {}",
        call.ok.text()
    );
    // The BYE takes another socket than the ACK, and may be read first: the ladder is whole when the ACK has been.
    scene.caller.ping(anycast());
    scene.hang_up(&mut call, unicast(owner));
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// Headers and bodies that we know nothing of pass as they are.
#[test]
fn unknown_headers_and_bodies_pass() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let mut info = call.from_caller.request("INFO").with("X-Odd", "a;b=\"c, d\" , e").with("Content-Type", "application/x-odd");
    info.body = (0..=255).collect();
    scene.caller.send(&info, anycast());
    let at_psap = scene.psap_confirms("INFO");
    assert_eq!((at_psap.header("X-Odd"), &at_psap.body), ("a;b=\"c, d\" , e", &info.body));
    scene.caller.expect_response(200, "INFO");
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// What an operator and a dispatcher see of a call while it lasts and after.
#[test]
fn a_call_is_listed_shown_and_recorded() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let id = call.invite.header("Call-ID").to_owned();
    let listed = cluster.call(&id, "CALL_STATE_ANSWERED");
    assert_eq!(listed["emergency"], true);
    let uid = listed["uid"].as_str().expect("a call has a uid").to_owned();
    let ladder = list(&cluster.json(&["call", "ladder", &uid]), "messages");
    assert!(ladder.len() >= 8, "INVITE, 100, 180, 200 and ACK on the caller's leg and as much on the other: {ladder:?}");
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    let cdr = cluster.cdrs().into_iter().find(|c| c["call"] == uid.as_str()).expect("its CDR");
    assert_eq!(cdr["cause"]["origin"], "CAUSE_ORIGIN_CALLER");
    let kinds: Vec<String> = list(&cluster.json(&["event", "list", "--call", &uid]), "events")
        .iter()
        .filter_map(|e| Some(e["kind"].as_str()?.to_owned()))
        .collect();
    for kind in ["RECEIVED", "RINGING", "ANSWERED", "ENDED"] {
        assert_eq!(kinds.iter().filter(|k| k.ends_with(kind)).count(), 1, "{kind} in {kinds:?}");
    }
}

/// An operator ends it: BYE to both, and only with --emergency.
#[test]
fn an_operator_ends_a_call() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let call = scene.established(anycast());
    let uid =
        cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].as_str().expect("a call has a uid").to_owned();
    assert_ne!(cluster.try_ctl(&["call", "terminate", &uid, "--yes"]).code, Some(0), "an emergency call needs --emergency");
    cluster.ctl(&["call", "terminate", &uid, "--emergency", "--yes"]);
    scene.psap_confirms("BYE");
    let (bye, from) = scene.caller.expect_request("BYE");
    scene.caller.send(&bye.response(200, "OK", ""), from);
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
}

/// The media path counts what it carries, in both directions.
#[test]
fn audio_crosses_both_ways() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let (caller, psap) = (std::net::UdpSocket::bind("127.0.3.1:40000"), std::net::UdpSocket::bind("127.0.2.1:42000"));
    let (caller, psap) = (caller.expect("free"), psap.expect("free"));
    for (from, to, there) in [(&caller, media(&call.ok), &psap), (&psap, media(&call.psap_invite), &caller)] {
        let heard = heard(from, to, there, 0);
        assert!(heard >= 45, "{heard} of 50 packets crossed to {there:?}");
    }
    let uid =
        cluster.call(call.invite.header("Call-ID"), "CALL_STATE_ANSWERED")["uid"].as_str().expect("a call has a uid").to_owned();
    scene.hang_up(&mut call, anycast());
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    let cdr = cluster.cdrs().into_iter().find(|c| c["call"] == uid.as_str()).expect("its CDR");
    assert!(number(&cdr["media"]["callerPackets"]) >= 45 && number(&cdr["media"]["calleePackets"]) >= 45, "{cdr}");
}

/// AC-40: OPTIONS to a node, on every address and transport, by datagram and stream.
#[test]
fn options_are_answered() {
    let _cluster = cluster();
    let mut phone = Phone::bind("127.0.3.1:0");
    for to in [anycast(), unicast(0), unicast(1), unicast(2)] {
        let options = Message::invite("sip:127.0.0.100", phone.at(), "UDP").to_uri("sip:127.0.0.100");
        let options = Message {
            start: "OPTIONS sip:127.0.0.100 SIP/2.0".into(),
            body: Vec::new(),
            ..options.without("Content-Type").replace("CSeq", "1 OPTIONS")
        };
        phone.send(&options, to);
        let (answer, from) = phone.expect_final(&options);
        assert_eq!((answer.status(), from), (200, to), "rule E");
        let mut stream = StreamPhone::tcp(to);
        stream.send(&options.replace("Via", &format!("SIP/2.0/TCP {};branch=z9hG4bKopt", stream.at())));
        stream.expect_response(200, "OPTIONS");
    }
}
