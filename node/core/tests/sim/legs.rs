//! The way to a far end: connections that close, that are opened anew, at this node or another; NATs, names, large requests; and far
//! ends that leave out what RFC 3261 wants of them.

use std::time::Duration;

use bytes::Bytes;
use sbc_core::io::{Counter, DropReason, Transport};
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr, is_keepalive};

use crate::rig::far::{Far, sdp};
use crate::rig::{LISTENS, PSAP, Rig, SOURCE, URI, flow_of, sent_to};
use crate::world::{Sent, addr};

/// RFC 3261 §12.2.1.1, §18.1.1: without its connection the caller is where its Contact says, not at its source port.
#[test]
fn a_closed_connection_is_no_way_to_a_far_end() {
    let mut s = Rig::stands(Transport::Tcp);
    s.psap_requests(PSAP, &Method::Info, |_| ());
    let (_, info) = s.got_request(&Method::Info);
    assert_eq!((info.to, flow_of(&info)), (addr(SOURCE), Some(1)));
    s.w.close(0, 1);
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (bye, sent) = s.got_request(&Method::Bye);
    assert_eq!((sent.to, flow_of(&sent)), (addr(LISTENS), None));
    assert!(bye.first(HeaderId::Via).is_some_and(|v| v.starts_with("SIP/2.0/TCP 198.18.0.1:5060;")));
    s.calm();
}

/// The transport finds the connection gone when it is to be used: the BYE goes the other way, though its call is over by then.
#[test]
fn a_bye_that_a_connection_did_not_take_goes_another_way() {
    let mut s = Rig::stands(Transport::Tcp);
    s.w.connections.clear();
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (bye, sent) = s.got_request(&Method::Bye);
    assert_eq!(sent.to, addr(LISTENS));
    // Nobody is there either: that is the end of it.
    let mut s = Rig::stands(Transport::Tcp);
    s.w.connections.clear();
    s.w.refusing.push(addr(LISTENS));
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    assert!(s.got().is_empty());
    s.w.run_until(s.w.now / 1000 + 40_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
    drop(bye);
}

/// A request over a connection that is still unanswered when the call ends keeps nothing of the call.
#[test]
fn a_call_that_ends_amid_a_request_over_a_connection_leaves_nothing() {
    let mut s = Rig::stands(Transport::Tcp);
    s.psap_requests(PSAP, &Method::Info, |_| ());
    s.got_request(&Method::Info);
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (bye, _) = s.got_request(&Method::Bye);
    s.send(&bye.response(200, None));
    s.w.run_until(s.w.now / 1000 + 100_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
}

/// The ACK too: its 2xx is repeated, and the next one finds the way.
#[test]
fn a_request_passed_on_and_an_ack_go_another_way_too() {
    let mut s = Rig::stands(Transport::Tcp);
    s.w.connections.clear();
    s.psap_requests(PSAP, &Method::Invite, |_| ());
    let (reinvite, sent) = s.got_request(&Method::Invite);
    assert_eq!(sent.to, addr(LISTENS));
    assert_eq!(reinvite.cseq(), 1, "not another request");
    s.calm();
    // The ACK for the caller's 2xx is lost with the connection, of whose end the node has not heard.
    let mut s = Rig::stands(Transport::Tcp);
    s.psap_requests(PSAP, &Method::Invite, |_| ());
    let (reinvite, _) = s.got_request(&Method::Invite);
    s.w.connections.clear();
    s.caller.at.1 = 2;
    let mut ok = reinvite.response(200, None);
    ok.push(HeaderId::Contact, format!("<sip:far@{LISTENS};transport=tcp>")).set_body(Some("application/sdp"), sdp());
    s.send(&ok);
    assert!(!s.got().iter().any(|(m, _)| m.method() == &Method::Ack));
    s.w.close(0, 1);
    s.send(&ok);
    let (_, sent) = s.got_request(&Method::Ack);
    assert_eq!(sent.to, addr(LISTENS));
    s.calm();
}

/// AC-32, RFC 3261 §18.2.2: the response goes to where the Via says that its sender listens.
#[test]
fn ac_32_a_response_outlives_its_connection() {
    let mut s = Rig::by(Transport::Tcp);
    let invite = s.invite_draft();
    s.dials_draft(&invite);
    s.w.close(0, 1);
    s.got();
    let ok = s.psap_answers(|_| ());
    assert!(ok.is_some());
    let sent = s.w.sent.as_ref().expect("recorded");
    let to: Vec<_> =
        sent.iter().filter(|m| m.bytes.starts_with(b"SIP/2.0 200") && m.to.ip() == s.caller.addr.ip()).map(|m| m.to).collect();
    assert_eq!(to, [addr(LISTENS)]);
    s.calm();
}

/// AC-31: the caller comes back at another node, and its requests and ours go over its new connection there.
#[test]
fn ac_31_requests_follow_a_far_end_to_another_node() {
    let mut s = Rig::stands(Transport::Tcp);
    s.w.close(0, 1);
    (s.caller.at, s.caller.addr) = ((1, 7), addr("198.18.10.9:40007"));
    let info = s.requests(&Method::Info, |_| ());
    assert_eq!(info.len(), 1);
    s.psap.answer(&mut s.w, &info[0], 200, &[]);
    s.got();
    s.psap_requests(PSAP, &Method::Info, |_| ());
    let (info, sent) = s.got_request(&Method::Info);
    assert_eq!((sent.node, flow_of(&sent), sent.to), (Some(1), Some(7), s.caller.addr));
    // Its answer comes back by that connection, and is relayed.
    let draft = info.response(200, None);
    s.send(&draft);
    assert!(s.psap.inbox(&s.w).iter().any(|(m, _)| m.status() == Some(200)));
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (_, sent) = s.got_request(&Method::Bye);
    assert_eq!((sent.node, flow_of(&sent)), (Some(1), Some(7)));
    s.calm();
}

/// That connection is gone, or its node: the Contact is what is left.
#[test]
fn ac_31_a_connection_of_another_node_that_is_gone() {
    for dead in [false, true] {
        let mut s = Rig::stands(Transport::Tcp);
        (s.caller.at, s.caller.addr) = ((1, 7), addr("198.18.10.9:40007"));
        s.requests(&Method::Info, |_| ());
        s.got();
        match dead {
            true => s.isolate(1),
            false => s.w.connections.clear(),
        }
        s.advance(10);
        s.psap_requests(PSAP, &Method::Bye, |_| ());
        let (_, sent) = s.got_request(&Method::Bye);
        assert_eq!((sent.node, sent.to), (Some(0), addr(LISTENS)), "dead: {dead}");
        s.calm();
    }
}

/// A NAT gave the caller another port: requests of ours follow (RFC 3581).
#[test]
fn a_udp_far_end_behind_a_nat_is_followed() {
    for (contact, followed) in [("<sip:far@192.168.1.5:5060>", true), ("<sip:far@198.18.10.9:5070>", false)] {
        let mut s = Rig::by(Transport::Udp).established(
            |d| {
                d.set(HeaderId::Contact, contact);
            },
            |_| (),
        );
        s.caller.addr = addr("198.18.10.9:40002");
        s.requests(&Method::Info, |_| ());
        // Another address is not believed, though its trunk may send.
        s.caller.addr = addr("198.18.10.77:40003");
        s.requests(&Method::Info, |_| ());
        s.caller.addr = addr(SOURCE);
        s.got();
        s.psap_requests(PSAP, &Method::Bye, |_| ());
        let (_, sent) = s.got_request(&Method::Bye);
        assert_eq!(sent.to, addr(if followed { "198.18.10.9:40002" } else { LISTENS }));
    }
}

/// The NAT before a far end is kept awake while its call stands, for the BYE of the other one: on either side, and where it is wanted.
#[test]
fn a_far_end_behind_a_nat_is_kept_reachable() {
    let (natted, open) = ("<sip:far@192.168.1.5:5060>", "<sip:far@198.18.10.9:5070>");
    for (caller, callee, seconds, expected) in [
        (natted, open, 25, (3, 0)),
        (open, natted, 25, (0, 3)),
        (natted, natted, 10, (8, 8)),
        (open, open, 25, (0, 0)),
        (natted, natted, 0, (0, 0)),
    ] {
        let with = |contact: &'static str| {
            move |d: &mut Draft| {
                d.set(HeaderId::Contact, contact);
            }
        };
        let stage = Rig::by_with(Transport::Udp, |c| c.settings.nat_keepalive = Duration::from_secs(seconds));
        let mut s = stage.established(with(caller), with(callee));
        let kept = |s: &Rig| {
            let sent = s.w.sent.as_ref().expect("kept");
            let to = |at: &str| sent.iter().filter(|p| p.node.is_some() && p.to == addr(at) && is_keepalive(&p.bytes)).count();
            (to(SOURCE), to(PSAP))
        };
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), expected, "{caller} {callee} {seconds}");
        s.psap_requests(PSAP, &Method::Bye, |_| ());
        let (bye, _) = s.got_request(&Method::Bye);
        s.send(&bye.response(200, None));
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), expected, "not after its end");
    }
}

/// It may be turned on while calls stand.
#[test]
fn keep_alives_begin_when_they_are_wanted() {
    let stage = Rig::by_with(Transport::Udp, |c| c.settings.nat_keepalive = Duration::ZERO);
    let mut s = stage.established(
        |d| {
            d.set(HeaderId::Contact, "<sip:far@192.168.1.5:5060>");
        },
        |_| (),
    );
    let pings = |s: &Rig| s.w.sent.as_ref().map_or(0, |sent| sent.iter().filter(|p| is_keepalive(&p.bytes)).count());
    s.w.run_until(s.w.now / 1000 + 60_000);
    assert_eq!(pings(&s), 0);
    s.w.reconfigure(|c| c.settings.nat_keepalive = Duration::from_secs(5));
    s.w.run_until(s.w.now / 1000 + 25_000);
    assert!(pings(&s) > 0);
}

/// A request that cannot be written for the other leg is answered, and the next one goes.
#[test]
fn what_grows_too_large_is_refused() {
    let mut s = Rig::stands(Transport::Udp);
    s.requests(&Method::Invite, |d| {
        let head = d.encode().expect("well formed").len() - sdp().len();
        let mut left = 64 * 1024 - head - 20;
        while left > 0 {
            let value = left.min(4000);
            d.push_named("X-Long", "x".repeat(value));
            left = left.saturating_sub(value + 10);
        }
    });
    let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).filter(|s| *s >= 200).collect();
    assert!(matches!(told[..], [500 | 503]), "{told:?}");
    assert_eq!(s.requests(&Method::Invite, |_| ()).len(), 1);
    s.calm();
}

/// AC-30, RFC 3261 §18.1.1: what is too large for a datagram goes by TCP, and by UDP where nobody takes it.
#[test]
fn ac_30_a_large_request_within_a_call_goes_by_tcp() {
    let large = |d: &mut Draft| {
        d.set_body(Some("text/plain"), Bytes::from(vec![b'x'; 1400]));
    };
    let by_tcp = |got: &[(Message, Sent)]| got.iter().map(|(_, s)| s.stream.is_some()).collect::<Vec<_>>();
    let to_psap = |s: &Rig| {
        let all = sent_to(s.w.sent.as_ref().expect("recorded"), addr(PSAP));
        all.into_iter().filter(|(m, _)| m.is_request() && m.method() == &Method::Info).collect::<Vec<_>>()
    };
    for (fixed, refuses, expected) in [(false, false, vec![true]), (false, true, vec![false]), (true, false, vec![false])] {
        let s = Rig::by_with(Transport::Udp, |c| c.trunks[1].targets[0].transport = fixed.then_some(Transport::Udp));
        let mut s = s.established(|_| (), |_| ());
        if refuses {
            s.w.refusing.push(addr(PSAP));
        }
        s.requests(&Method::Info, large);
        assert_eq!(by_tcp(&to_psap(&s)), expected, "{fixed} {refuses}");
        let vias: Vec<_> = to_psap(&s).iter().map(|(m, _)| m.top_via().transport().to_owned()).collect();
        assert_eq!(vias, [if expected[0] { "TCP" } else { "UDP" }]);
        s.calm();
    }
    // Small ones stay.
    let mut s = Rig::by_with(Transport::Udp, |c| c.trunks[1].targets[0].transport = None).established(|_| (), |_| ());
    s.requests(&Method::Info, |_| ());
    assert_eq!(by_tcp(&to_psap(&s)), [false]);
}

/// RFC 3261 §12.1.1, §12.1.2: a far end of RFC 2543 has no tag.
#[test]
fn a_null_tag_makes_a_dialog() {
    let untagged = |d: &mut Draft| {
        d.set(HeaderId::From, format!("<sip:far@{SOURCE}>"));
    };
    let mut s = Rig::by(Transport::Udp).established(untagged, |_| ());
    s.psap_requests(PSAP, &Method::Invite, |_| ());
    let (reinvite, _) = s.got_request(&Method::Invite);
    assert_eq!(reinvite.to_tag(), None);
    let mut s = Rig::by(Transport::Udp).established(
        |_| (),
        |d| {
            let to = d.first(HeaderId::To).expect("one").replace(";tag=far", "");
            d.set(HeaderId::To, to);
        },
    );
    let info = s.requests(&Method::Info, |_| ());
    assert_eq!(info.len(), 1);
    assert_eq!(info[0].0.to_tag(), None);
}

/// A proxy that does not record-route leaves the path: then the far end asks from the address that it named (AC-52).
#[test]
fn ac_52_a_far_end_is_heard_from_its_contact() {
    const PHONE: &str = "198.18.33.1:5060";
    for (named, dropped) in [(PHONE, 0), (PSAP, 1)] {
        let contact = format!("<sip:far@{named}>");
        let mut s = Rig::by(Transport::Udp).established(
            |_| (),
            |d| {
                d.set(HeaderId::Contact, contact);
            },
        );
        s.psap_requests(PHONE, &Method::Bye, |_| ());
        assert_eq!(s.w.counted(Counter::Dropped(DropReason::Source)), dropped);
        assert_eq!(s.got().iter().filter(|(m, _)| m.method() == &Method::Bye).count(), usize::from(dropped == 0));
    }
}

/// RFC 3581 did not reach everybody: a private sent-by without rport is behind a NAT.
#[test]
fn an_answer_goes_through_the_nat_of_a_via_without_rport() {
    for (sent_by, to) in
        [("192.168.1.5:5060", SOURCE), (LISTENS, LISTENS), ("[fd00::5]:5060", SOURCE), ("host.invalid", "198.18.10.9:5060")]
    {
        let mut s = Rig::by(Transport::Udp);
        let mut draft = Far::at(SOURCE).initial(&Method::Options, URI, "o", 1);
        draft.replace_first(HeaderId::Via, format!("SIP/2.0/UDP {sent_by};branch=z9hG4bKo"));
        s.send(&draft);
        let got = s.got();
        assert_eq!(got.iter().map(|(m, s)| (m.status(), s.to)).collect::<Vec<_>>(), [(Some(200), addr(to))], "{sent_by}");
    }
}

/// RFC 3891: the call of the transferred party goes over the connection that the far end has, or to where it says that it is.
#[test]
fn replaces_goes_over_the_connection_of_the_far_end() {
    for open in [true, false] {
        let mut s = Rig::stands(Transport::Tcp);
        let (invite, node) = s.asked.clone().expect("called");
        if !open {
            s.w.close(0, 1);
        }
        s.got();
        let third = Far::at("198.18.20.77:5060");
        let uri = NameAddr::parse(invite.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned();
        let mut draft = third.initial(&Method::Invite, &uri, "third", 1);
        draft.set_body(Some("application/sdp"), sdp());
        let value = format!("{};to-tag={};from-tag=far", invite.call_id(), invite.from_tag().expect("ours"));
        third.put(&mut s.w, &mut draft, node, &[("Replaces", &value)]);
        s.advance(50);
        let (new, sent) = s.got_request(&Method::Invite);
        assert_eq!(new.request_uri(), Some("sip:far@198.18.10.9:5070;transport=tcp"));
        assert!(new.first(HeaderId::Replaces).is_some());
        let expected = if open { (addr(SOURCE), Some(1)) } else { (addr(LISTENS), None) };
        assert_eq!((sent.to, flow_of(&sent)), expected);
        s.calm();
    }
}

/// Without Contact and route there is nothing but where it was seen: the host of its From says who it is.
#[test]
fn a_caller_without_contact_is_where_it_was_seen() {
    let mut s = Rig::by(Transport::Udp).established(
        |d| {
            d.remove(HeaderId::Contact);
            d.set(HeaderId::From, "<sip:far@198.18.10.200>;tag=ft-x");
        },
        |_| (),
    );
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (_, sent) = s.got_request(&Method::Bye);
    assert_eq!(sent.to, addr(SOURCE));
}
