//! Callers and PSAPs by IPv6, beside others by IPv4: each sees addresses of its own family only, by UDP, TCP and TLS.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cluster_tests::baresip::{Baresip, Setup};
use cluster_tests::cluster::list;
use cluster_tests::dnsmasq::Dnsmasq;
use cluster_tests::lab::{CALLER_TONE, LIMIT, Lab, PSAP_TONE, both_hear_each_other, says};
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::sipp::Sipp;
use cluster_tests::stream::StreamPhone;
use cluster_tests::wait;

const CALLER: &str = "2001:db8::2";
const ANYCAST: &str = "2001:db8::100";
const PSAP4: &str = "198.18.1.2:5060";
const PSAP6: &str = "[2001:db8:1::2]:5060";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// The PSAP's phone on its host, ringing and answering by hand.
fn psap(lab: &Lab, address: &str) -> Phone {
    lab.psap.inside(|| Phone::bind(address))
}

/// The INVITE at the PSAP, answered; nothing in it names an address of the family `foreign`.
fn answer(psap: &mut Phone, foreign: &[&str]) -> (Message, Message, SocketAddr) {
    let (invite, from) = psap.expect_request("INVITE");
    let text = String::from_utf8_lossy(&invite.bytes()).into_owned();
    // The caller's own name is evidence and crosses; what leads somewhere is ours.
    let ours: String = text.lines().filter(|l| !l.starts_with("From:")).collect::<Vec<_>>().join("\n");
    assert!(!foreign.iter().any(|f| ours.contains(f)), "{text}");
    let contact = format!("<sip:psap@{}>", psap.at());
    let ok = invite.response(200, "OK", "psap").with("Contact", &contact);
    let ok = ok.with_sdp(sdp(SocketAddr::new(psap.at().ip(), 42_000), 1, "sendrecv"));
    psap.send(&ok, from);
    (invite, ok, from)
}

/// Where a description wants the audio.
fn media(description: &str) -> SocketAddr {
    let ip = description.lines().find_map(|l| l.strip_prefix("c=IN ")?.split(' ').nth(1)?.parse::<IpAddr>().ok());
    let port = description.lines().find_map(|l| l.strip_prefix("m=audio ")?.split(' ').next()?.parse().ok());
    SocketAddr::new(ip.expect("c="), port.expect("m="))
}

fn rtp(sequence: u8) -> Vec<u8> {
    [&[0x80, 0, 0, sequence, 0, 0, 0, 160, 0, 0, 0, 9][..], &[sequence; 160]].concat()
}

/// A packet from one socket arrives at the other.
fn crosses(from: &UdpSocket, to_node: SocketAddr, at: &UdpSocket, sequence: u8) {
    let mut buffer = [0; 400];
    at.set_read_timeout(Some(Duration::from_millis(100))).expect("it is not zero");
    // As phones do, again and again: the media threads may hear of an answer after the far end does.
    wait::until(&format!("RTP {} -> {to_node}", from.local_addr().expect("bound")), LIMIT, || {
        from.send_to(&rtp(sequence), to_node).expect("there is a route");
        at.recv(&mut buffer)
            .map(|n| buffer[..n] == rtp(sequence))
            .map_err(|e| e.to_string())
            .and_then(|same| same.then_some(()).ok_or_else(|| "another packet".into()))
    });
}

/// AC-14, AC-16, AC-33 by UDP over IPv6: each request within the call goes to another node, and audio crosses from family to family.
#[test]
fn a_caller_by_ipv6_whose_requests_go_astray_and_a_psap_by_ipv4() {
    let lab = Lab::start();
    let (mut psap, mut caller) = (psap(&lab, PSAP4), lab.caller.inside(|| Phone::bind(at(CALLER, 5062))));
    let (x, p) = (
        lab.caller.inside(|| UdpSocket::bind(at(CALLER, 40_000)).expect("free")),
        lab.psap.inside(|| UdpSocket::bind(at("198.18.1.2", 42_000)).expect("free")),
    );
    let invite = Message::invite(&format!("sip:112@[{ANYCAST}]"), caller.at(), "UDP");
    caller.send(&invite, at(ANYCAST, 5060));
    let (psap_invite, ..) = answer(&mut psap, &["IP6", "2001:db8", "["]);
    let (ok, from) = caller.expect_response(200, "INVITE");
    assert_eq!(from, at(ANYCAST, 5060), "rule E");
    let owner = (11..=13).find(|n| ok.uri("Contact").contains(&format!("@[2001:db8::{n}]:5060")));
    let owner = owner.unwrap_or_else(|| panic!("Contact is no unicast address: {ok:?}"));
    assert!(ok.text().contains(&format!("IN IP6 2001:db8::{owner}\r")) && !ok.text().contains("IP4"), "{}", ok.text());
    let other = at(if owner == 11 { "2001:db8::12" } else { "2001:db8::11" }, 5060);
    let mut dialog = Dialog::of_caller(&invite, &ok, caller.at(), "UDP");
    caller.send(&dialog.ack(1), other);
    psap.expect_request("ACK");
    crosses(&x, media(&ok.text()), &p, 1);
    crosses(&p, media(&psap_invite.text()), &x, 2);

    let hold = dialog.request("INVITE").with_sdp(sdp(at(CALLER, 40_000), 2, "sendonly"));
    caller.send(&hold, other);
    let (held, back) = psap.expect_request("INVITE");
    assert!(held.text().contains("a=sendonly") && held.text().contains("IN IP4 198.18.1."), "{}", held.text());
    let answer = held.response(200, "OK", "").with("Contact", &format!("<sip:psap@{PSAP4}>"));
    psap.send(&answer.with_sdp(sdp(at("198.18.1.2", 42_000), 2, "recvonly")), back);
    let (ok, from) = caller.expect_final(&hold);
    assert_eq!((ok.status(), from), (200, other), "it leaves where the request came in");
    assert!(ok.uri("Contact").contains(&format!("@[2001:db8::{owner}]:5060")), "healing (rule K): {ok:?}");
    caller.send(&dialog.ack(hold.cseq().0), other);
    psap.expect_request("ACK");

    caller.send(&dialog.request("BYE"), other);
    let (bye, back) = psap.expect_request("BYE");
    psap.send(&bye.response(200, "OK", ""), back);
    assert_eq!(caller.expect_response(200, "BYE").1, other);
    one_record(&lab);
}

fn one_record(lab: &Lab) {
    wait::until("no call, one CDR", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().is_empty() && cdrs.len() == 1 { Ok(()) } else { Err((cdrs, lab.calls())) }
    });
}

/// The other way round, with a BYE of the PSAP.
#[test]
fn a_caller_by_ipv4_and_a_psap_by_ipv6() {
    let lab = Lab::with_psap(&format!("{PSAP6};transport=udp"));
    let (mut psap, mut caller) = (psap(&lab, PSAP6), lab.caller.inside(|| Phone::bind(at("198.18.0.2", 5062))));
    let invite = Message::invite("sip:112@198.18.0.100", caller.at(), "UDP");
    caller.send(&invite, at("198.18.0.100", 5060));
    let (psap_invite, psap_ok, _) = answer(&mut psap, &["IP4", "198.18."]);
    assert!(psap_invite.uri("Contact").contains("@[2001:db8:1::1"), "{psap_invite:?}");
    let (ok, _) = caller.expect_response(200, "INVITE");
    assert!(ok.uri("Contact").contains("@198.18.0.1") && ok.text().contains("IN IP4 198.18.0.1"), "{ok:?}");
    caller.send(&Dialog::of_caller(&invite, &ok, caller.at(), "UDP").ack(1), at("198.18.0.100", 5060));
    let (_, back) = psap.expect_request("ACK");
    let mut dialog = Dialog::of_callee(&psap_invite, &psap_ok, psap.at());
    psap.send(&dialog.request("BYE"), back);
    let (bye, back) = caller.expect_request("BYE");
    caller.send(&bye.response(200, "OK", ""), back);
    psap.expect_response(200, "BYE");
    one_record(&lab);
}

/// RFC 3261 §18 over IPv6 connections: the answers come on them, and Contact names the transport.
#[test]
fn callers_by_tcp_and_tls_over_ipv6() {
    let lab = Lab::start();
    let mut psap = psap(&lab, PSAP4);
    for (n, transport) in ["TCP", "TLS"].into_iter().enumerate() {
        let mut caller = lab.caller.inside(|| match transport {
            "TCP" => StreamPhone::tcp(at(ANYCAST, 5060)),
            _ => StreamPhone::tls(at(ANYCAST, 5061), &lab.dir.join("pki/ca.crt")),
        });
        let invite = Message::invite(&format!("sip:112@[{ANYCAST}]"), caller.at(), transport);
        caller.send(&invite);
        answer(&mut psap, &["IP6", "2001:db8", "["]);
        let ok = caller.expect_response(200, "INVITE");
        let lower = transport.to_lowercase();
        assert!(ok.uri("Contact").contains("@[2001:db8::1") && ok.uri("Contact").contains(&lower), "{ok:?}");
        let mut dialog = Dialog::of_caller(&invite, &ok, caller.at(), transport);
        caller.send(&dialog.ack(1));
        psap.expect_request("ACK");
        caller.send(&dialog.request("BYE"));
        let (bye, back) = psap.expect_request("BYE");
        psap.send(&bye.response(200, "OK", ""), back);
        caller.expect_response(200, "BYE");
        wait::until("its CDR", LIMIT, || {
            let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
            if cdrs.len() == n + 1 { Ok(()) } else { Err(cdrs) }
        });
    }
}

/// A caller that ignores Contact, by IPv6, while the address flips: all its requests go to the anycast address.
#[test]
fn sipp_by_ipv6_while_the_address_flips() {
    let lab = Lab::start();
    let limit = Duration::from_secs(60);
    let uas = Sipp::scenario("uas", at("198.18.1.2", 0).ip(), limit).on(&lab.psap).args(&["-m", "20", "-p", "5060"]).start();
    let uac = Sipp::scenario("uac-ignores-contact", at(CALLER, 0).ip(), limit)
        .on(&lab.caller)
        .args(&["-m", "20", "-r", "4", "-d", "2000", "-key", "ruri", &format!("sip:112@[{ANYCAST}]")])
        .to(at(ANYCAST, 5060))
        .start();
    wait::until("a call is up", LIMIT, || if lab.calls().is_empty() { Err(lab.logs()) } else { Ok(()) });
    lab.flip();
    wait::until("a call after the flip", LIMIT, || if lab.calls().is_empty() { Err(lab.logs()) } else { Ok(()) });
    lab.flip();
    assert_eq!(uac.succeed().successful, 20);
    assert_eq!(uas.succeed().successful, 20);
}

/// RFC 3263 §4.2: a name with A and AAAA. Each address is asked from ours of its family; the one that answers gets the call.
#[test]
fn a_name_of_both_families_is_probed_by_both() {
    let lab = Lab::with_psap("psap.test");
    let _server = Dnsmasq::start_on(&lab.sbc, ["host-record=psap.test,198.18.1.2,2001:db8:1::2"]);
    let file = lab.dir.join("cluster.toml");
    let text = std::fs::read_to_string(&file).expect("the lab wrote it");
    std::fs::write(&file, text.replace("name = \"psap\"", "name = \"psap\"\nprobe_s = 5")).expect("the directory is writable");
    let (mut silent, mut psap) = (psap(&lab, PSAP4), psap(&lab, PSAP6));
    lab.ctl(&["config", "apply", file.to_str().expect("scratch paths are UTF-8"), "--yes"]).expect("it is applied");
    let mut seen = HashSet::new();
    // The third round: by then each node has given the silent address up.
    while seen.len() < 9 {
        let (probe, from) = psap.wait(LIMIT, |m| m.method() == "OPTIONS").expect("a probe");
        assert_eq!(
            (probe.start.as_str(), probe.text().contains("198.18.")),
            ("OPTIONS sip:psap.test SIP/2.0", false),
            "{probe:?}"
        );
        assert!(from.to_string().starts_with("[2001:db8:1::1"), "{from}");
        psap.send(&probe.response(200, "OK", "p"), from);
        seen.insert(probe.header("Call-ID").to_owned());
    }
    let (probe, from) = silent.expect_request("OPTIONS");
    assert!(
        from.to_string().starts_with("198.18.1.1") && !String::from_utf8_lossy(&probe.bytes()).contains("2001:"),
        "{probe:?}"
    );
    let mut caller = lab.caller.inside(|| Phone::bind(at(CALLER, 5062)));
    let (invite, began) = (Message::invite(&format!("sip:112@[{ANYCAST}]"), caller.at(), "UDP"), Instant::now());
    caller.send(&invite, at(ANYCAST, 5060));
    psap.turn_away(invite.uri("From"), 486, &[]);
    assert_eq!(caller.expect_final(&invite).0.status(), 486);
    assert!(began.elapsed() < Duration::from_secs(2), "the silent one was tried first: {:?}", began.elapsed());
}

/// A real phone by TLS over IPv6, and one by IPv4: both hear each other.
#[test]
fn baresip_by_tls_over_ipv6_hears_a_psap_by_ipv4() {
    let lab = Lab::start();
    let mut psap = Baresip::start(&lab.psap, "ua0", "198.18.1.2", "112", PSAP_TONE, None);
    says(&psap, "baresip is ready", &lab);
    let (own, ca) = (lab.certificate("phone", CALLER), lab.dir.join("pki/ca.crt"));
    let mut caller = Baresip::with(&Setup {
        host: &lab.caller,
        device: "ua0",
        ip: CALLER,
        user: "caller",
        hertz: CALLER_TONE,
        dial: Some(&format!("sip:112@[{ANYCAST}]:5061;transport=tls")),
        transport: "tls",
        tls: Some((own.as_path(), ca.as_path())),
    });
    says(&caller, "Call established", &lab);
    says(&psap, "Call established", &lab);
    both_hear_each_other(&caller, &psap, "across the families");
    lab.flip();
    both_hear_each_other(&caller, &psap, "after the flip");
    caller.hang_up();
    says(&psap, "session closed", &lab);
    psap.hang_up();
    one_record(&lab);
}
