//! The way to a far end: connections that close, that are opened anew, at this node or another; NATs, names, large requests; and far
//! ends that leave out what RFC 3261 wants of them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sbc_core::auth::Secret;
use sbc_core::io::{Counter, DropReason, Target, Transport};
use sbc_core::policy::Credentials;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr, is_keepalive};

use crate::far::{Far, sdp, wait};
use crate::stage::{LISTENS, PSAP, SOURCE, Stage, URI, flow_of, sent_to};
use crate::world::{Fault, Sent, addr};

/// RFC 3261 §12.2.1.1, §18.1.1: without its connection the caller is where its Contact says, not at its source port.
#[test]
fn a_closed_connection_is_no_way_to_a_far_end() {
    let mut s = Stage::stands(true);
    s.psap_asks(PSAP, &Method::Info, |_| ());
    let (_, info) = s.got_request(&Method::Info);
    assert_eq!((info.to, flow_of(&info)), (addr(SOURCE), Some(1)));
    s.w.close(0, 1);
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    let (bye, sent) = s.got_request(&Method::Bye);
    assert_eq!((sent.to, flow_of(&sent)), (addr(LISTENS), None));
    assert!(bye.first(HeaderId::Via).is_some_and(|v| v.starts_with("SIP/2.0/TCP 198.18.0.1:5060;")));
    s.calm();
}

/// The transport finds the connection gone when it is to be used: the BYE goes the other way, though its call is over by then.
#[test]
fn a_bye_that_a_connection_did_not_take_goes_another_way() {
    let mut s = Stage::stands(true);
    s.w.connections.clear();
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    let (bye, sent) = s.got_request(&Method::Bye);
    assert_eq!(sent.to, addr(LISTENS));
    // Nobody is there either: that is the end of it.
    let mut s = Stage::stands(true);
    s.w.connections.clear();
    s.w.refusing.push(addr(LISTENS));
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    assert!(s.got().is_empty());
    s.w.run_until(s.w.now / 1000 + 40_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
    drop(bye);
}

/// A request over a connection that is still unanswered when the call ends keeps nothing of the call.
#[test]
fn a_call_that_ends_amid_a_request_over_a_connection_leaves_nothing() {
    let mut s = Stage::stands(true);
    s.psap_asks(PSAP, &Method::Info, |_| ());
    s.got_request(&Method::Info);
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    let (bye, _) = s.got_request(&Method::Bye);
    s.put(&bye.response(200, None));
    s.w.run_until(s.w.now / 1000 + 100_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
}

/// The ACK too: its 2xx is repeated, and the next one finds the way.
#[test]
fn a_request_passed_on_and_an_ack_go_another_way_too() {
    let mut s = Stage::stands(true);
    s.w.connections.clear();
    s.psap_asks(PSAP, &Method::Invite, |_| ());
    let (reinvite, sent) = s.got_request(&Method::Invite);
    assert_eq!(sent.to, addr(LISTENS));
    assert_eq!(reinvite.cseq(), 1, "not another request");
    s.calm();
    // The ACK for the caller's 2xx is lost with the connection, of whose end the node has not heard.
    let mut s = Stage::stands(true);
    s.psap_asks(PSAP, &Method::Invite, |_| ());
    let (reinvite, _) = s.got_request(&Method::Invite);
    s.w.connections.clear();
    s.at.1 = 2;
    let mut ok = reinvite.response(200, None);
    ok.push(HeaderId::Contact, format!("<sip:far@{LISTENS};transport=tcp>")).set_body(Some("application/sdp"), sdp());
    s.put(&ok);
    assert!(!s.got().iter().any(|(m, _)| m.method() == &Method::Ack));
    s.w.close(0, 1);
    s.put(&ok);
    let (_, sent) = s.got_request(&Method::Ack);
    assert_eq!(sent.to, addr(LISTENS));
    s.calm();
}

/// AC-32, RFC 3261 §18.2.2: the response goes to where the Via says that its sender listens.
#[test]
fn ac_32_a_response_outlives_its_connection() {
    let mut s = Stage::new(true);
    let invite = s.initial();
    s.dials(&invite);
    s.w.close(0, 1);
    s.got();
    let ok = s.answers(|_| ());
    assert!(ok.is_some());
    let sent = s.w.sent.as_ref().expect("recorded");
    let to: Vec<_> =
        sent.iter().filter(|m| m.bytes.starts_with(b"SIP/2.0 200") && m.to.ip() == s.source.ip()).map(|m| m.to).collect();
    assert_eq!(to, [addr(LISTENS)]);
    s.calm();
}

/// AC-31: the caller comes back at another node, and its requests and ours go over its new connection there.
#[test]
fn ac_31_requests_follow_a_far_end_to_another_node() {
    let mut s = Stage::stands(true);
    s.w.close(0, 1);
    (s.at, s.source) = ((1, 7), addr("198.18.10.9:40007"));
    let info = s.asks(&Method::Info, |_| ());
    assert_eq!(info.len(), 1);
    s.psap.answer(&mut s.w, &info[0], 200, &[]);
    s.got();
    s.psap_asks(PSAP, &Method::Info, |_| ());
    let (info, sent) = s.got_request(&Method::Info);
    assert_eq!((sent.node, flow_of(&sent), sent.to), (Some(1), Some(7), s.source));
    // Its answer comes back by that connection, and is relayed.
    let draft = info.response(200, None);
    s.put(&draft);
    assert!(s.psap.inbox(&s.w).iter().any(|(m, _)| m.status() == Some(200)));
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    let (_, sent) = s.got_request(&Method::Bye);
    assert_eq!((sent.node, flow_of(&sent)), (Some(1), Some(7)));
    s.calm();
}

/// That connection is gone, or its node: the Contact is what is left.
#[test]
fn ac_31_a_connection_of_another_node_that_is_gone() {
    for dead in [false, true] {
        let mut s = Stage::stands(true);
        (s.at, s.source) = ((1, 7), addr("198.18.10.9:40007"));
        s.asks(&Method::Info, |_| ());
        s.got();
        match dead {
            true => s.w.fault_at(s.w.now / 1000, Fault::Cut(1)),
            false => s.w.connections.clear(),
        }
        wait(&mut s.w, 10);
        s.psap_asks(PSAP, &Method::Bye, |_| ());
        let (_, sent) = s.got_request(&Method::Bye);
        assert_eq!((sent.node, sent.to), (Some(0), addr(LISTENS)), "dead: {dead}");
        s.calm();
    }
}

/// A NAT gave the caller another port: requests of ours follow (RFC 3581).
#[test]
fn a_udp_far_end_behind_a_nat_is_followed() {
    for (contact, followed) in [("<sip:far@192.168.1.5:5060>", true), ("<sip:far@198.18.10.9:5070>", false)] {
        let mut s = Stage::new(false).established(
            |d| {
                d.set(HeaderId::Contact, contact);
            },
            |_| (),
        );
        s.source = addr("198.18.10.9:40002");
        s.asks(&Method::Info, |_| ());
        // Another address is not believed, though its trunk may send.
        s.source = addr("198.18.10.77:40003");
        s.asks(&Method::Info, |_| ());
        s.source = addr(SOURCE);
        s.got();
        s.psap_asks(PSAP, &Method::Bye, |_| ());
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
        let stage = Stage::with(false, |c| c.settings.nat_keepalive = Duration::from_secs(seconds));
        let mut s = stage.established(with(caller), with(callee));
        let kept = |s: &Stage| {
            let sent = s.w.sent.as_ref().expect("kept");
            let to = |at: &str| sent.iter().filter(|p| p.node.is_some() && p.to == addr(at) && is_keepalive(&p.bytes)).count();
            (to(SOURCE), to(PSAP))
        };
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), expected, "{caller} {callee} {seconds}");
        s.psap_asks(PSAP, &Method::Bye, |_| ());
        let (bye, _) = s.got_request(&Method::Bye);
        s.put(&bye.response(200, None));
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), expected, "not after its end");
    }
}

/// It may be turned on while calls stand.
#[test]
fn keep_alives_begin_when_they_are_wanted() {
    let stage = Stage::with(false, |c| c.settings.nat_keepalive = Duration::ZERO);
    let mut s = stage.established(
        |d| {
            d.set(HeaderId::Contact, "<sip:far@192.168.1.5:5060>");
        },
        |_| (),
    );
    let pings = |s: &Stage| s.w.sent.as_ref().map_or(0, |sent| sent.iter().filter(|p| is_keepalive(&p.bytes)).count());
    s.w.run_until(s.w.now / 1000 + 60_000);
    assert_eq!(pings(&s), 0);
    s.w.reconfigure(|c| c.settings.nat_keepalive = Duration::from_secs(5));
    s.w.run_until(s.w.now / 1000 + 25_000);
    assert!(pings(&s) > 0);
}

fn udp(text: &str) -> Target {
    Target { addr: addr(text), transport: Transport::Udp }
}

/// RFC 3263 §4.3: a name stands for several addresses, and the first one is dead.
#[test]
fn requests_within_a_call_go_on_to_the_next_address_of_a_name() {
    const DEAD: &str = "198.18.20.66:5060";
    const ALIVE: &str = "198.18.20.67:5060";
    let route = |d: &mut Draft| {
        d.push(HeaderId::RecordRoute, "<sip:proxy.test;lr>");
    };
    let mut s = Stage::new(false);
    s.w.names = vec![udp(DEAD), udp(ALIVE)];
    let mut s = s.established(|_| (), route);
    let to = |s: &Stage, at: &str, method: &Method| {
        let all = sent_to(s.w.sent.as_ref().expect("recorded"), addr(at));
        all.into_iter().filter(|(m, _)| m.is_request() && m.method() == method).map(|(m, _)| m).collect::<Vec<_>>()
    };
    assert_eq!((to(&s, DEAD, &Method::Ack).len(), to(&s, ALIVE, &Method::Ack).len()), (1, 0));
    s.answers(route);
    wait(&mut s.w, 50);
    assert_eq!(to(&s, ALIVE, &Method::Ack).len(), 1, "a repeated 200 says that the ACK was lost");
    s.asks(&Method::Info, |_| ());
    wait(&mut s.w, 3000);
    let tried = [to(&s, DEAD, &Method::Info), to(&s, ALIVE, &Method::Info)];
    assert_eq!((tried[0].is_empty(), tried[1].is_empty()), (false, false), "2 s of silence, then the next");
    assert_eq!(tried[0][0].first(HeaderId::CSeq), tried[1][0].first(HeaderId::CSeq));
    s.asks(&Method::Bye, |_| ());
    wait(&mut s.w, 100);
    assert_eq!((to(&s, DEAD, &Method::Bye).len(), to(&s, ALIVE, &Method::Bye).len()), (0, 1), "held down");
    s.w.run_until(s.w.now / 1000 + 70_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
    s.calm();
}

/// A slow address sounds no other than a dead one: while none has answered, it may still be the first, also to an INVITE.
#[test]
fn a_slow_address_within_a_call_is_heard_after_all() {
    const SLOW: &str = "198.18.20.66:5060";
    const DEAD: &str = "198.18.20.67:5060";
    let route = |d: &mut Draft| {
        d.push(HeaderId::RecordRoute, "<sip:proxy.test;lr>");
    };
    for method in [Method::Info, Method::Invite] {
        let mut s = Stage::new(false);
        s.w.names = vec![udp(SLOW), udp(DEAD)];
        let mut s = s.established(|_| (), route);
        let (mut slow, mut dead) = (Far::at(SLOW), Far::at(DEAD));
        slow.inbox(&s.w);
        s.asks(&method, |_| ());
        wait(&mut s.w, 2500);
        let first = slow.request(&s.w, &method);
        dead.request(&s.w, &method);
        s.got();
        let mut ok = first.0.response(200, None);
        if method == Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>")).set_body(Some("application/sdp"), sdp());
        }
        slow.put(&mut s.w, &mut ok, first.1, &[]);
        wait(&mut s.w, 30);
        let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).filter(|s| *s >= 200).collect();
        assert_eq!(told, [200], "{method}");
        if method == Method::Invite {
            let ack = s.within(&Method::Ack, s.cseq);
            s.put(&ack);
            slow.request(&s.w, &Method::Ack);
        }
        dead.inbox(&s.w);
        wait(&mut s.w, 40_000);
        assert!(dead.inbox(&s.w).is_empty(), "{method} is repeated no more");
        let info = s.asks(&Method::Info, |_| ());
        assert!(info.is_empty());
        let at_slow = slow.request(&s.w, &Method::Info);
        slow.answer(&mut s.w, &at_slow, 200, &[]);
        wait(&mut s.w, 30);
        assert!(s.got().iter().any(|(m, _)| m.status() == Some(200)), "and the call goes on");
        s.calm();
    }
}

/// A re-INVITE that is cancelled while its next hop is looked up never goes out (RFC 3261 §9.1), and another one may follow.
#[test]
fn a_reinvite_is_cancelled_before_it_went_out() {
    const PROXY: &str = "198.18.20.66:5060";
    let mut s = Stage::new(false);
    s.w.names = vec![udp(PROXY)];
    let mut s = s.established(
        |_| (),
        |d| {
            d.push(HeaderId::RecordRoute, "<sip:proxy.test;lr>");
        },
    );
    let mut proxy = Far::at(PROXY);
    proxy.inbox(&s.w);
    s.got();
    s.cseq += 1;
    let invite = s.within(&Method::Invite, s.cseq);
    let same = |method: &Method| {
        let mut draft = Draft::request(method, invite.request_uri().expect("a request"));
        for field in invite.headers().filter(|f| f.id != HeaderId::CSeq) {
            draft.push_field(&field);
        }
        draft.push(HeaderId::CSeq, format!("{} {method}", s.cseq));
        draft
    };
    let (cancel, ack) = (same(&Method::Cancel), same(&Method::Ack));
    let mut offer = invite.clone();
    offer.push(HeaderId::Contact, format!("<sip:far@{LISTENS}>")).set_body(Some("application/sdp"), sdp());
    for draft in [&offer, &cancel] {
        s.put_raw(draft.encode().expect("well formed"));
    }
    wait(&mut s.w, 60);
    let told: Vec<_> = s.got().iter().filter_map(|(m, _)| Some((m.status()?, m.method().clone()))).collect();
    assert!(told.contains(&(200, Method::Cancel)) && told.contains(&(487, Method::Invite)), "{told:?}");
    s.put(&ack);
    wait(&mut s.w, 2000);
    assert!(proxy.inbox(&s.w).is_empty(), "nobody was asked");
    s.asks(&Method::Invite, |_| ());
    wait(&mut s.w, 60);
    proxy.request(&s.w, &Method::Invite);
    s.calm();
}

/// What was left for its silence and then refuses says nothing of whoever was asked after it; nor does an answer to what went again
/// with credentials, under another number.
#[test]
fn a_late_refusal_of_a_slow_address_is_no_answer() {
    const SLOW: &str = "198.18.20.66:5060";
    const NEXT: &str = "198.18.20.67:5060";
    let route = |d: &mut Draft| {
        d.push(HeaderId::RecordRoute, "<sip:proxy.test;lr>");
    };
    for (method, late, asked) in [(Method::Info, 503, false), (Method::Invite, 486, false), (Method::Invite, 200, true)] {
        let mut s = Stage::with(false, |c| {
            let mut secret = Secret::named("s");
            assert!(secret.fill("hunter2"));
            c.trunks[1].auth.credentials = Some(Credentials { username: "sbc".into(), realm: None, secret });
        });
        s.w.names = vec![udp(SLOW), udp(NEXT)];
        let mut s = s.established(|_| (), route);
        let (mut slow, mut next) = (Far::at(SLOW), Far::at(NEXT));
        slow.inbox(&s.w);
        s.asks(&method, |_| ());
        wait(&mut s.w, 2500);
        let first = slow.request(&s.w, &method);
        let mut second = next.request(&s.w, &method);
        s.got();
        if asked {
            let challenge = ("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"n1\", qop=\"auth\"");
            next.answer(&mut s.w, &second, 401, &[challenge]);
            wait(&mut s.w, 30);
            // By now the first one is held down.
            second = next.inbox(&s.w).into_iter().rfind(|(m, _)| m.method() == &method).expect("with credentials");
            assert_eq!(second.0.cseq(), first.0.cseq() + 1);
        }
        slow.answer(&mut s.w, &first, late, &[]);
        wait(&mut s.w, 30);
        if method == Method::Invite {
            assert_eq!(slow.request(&s.w, &Method::Ack).0.cseq(), first.0.cseq());
        }
        assert!(s.got().iter().all(|(m, _)| m.status() < Some(200)), "{method} {late}");
        let mut ok = second.0.response(200, None);
        if method == Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>")).set_body(Some("application/sdp"), sdp());
        }
        next.put(&mut s.w, &mut ok, second.1, &[]);
        wait(&mut s.w, 30);
        let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).collect();
        assert_eq!(told, [200], "{method} {late}");
        s.calm();
    }
}

/// Where nobody answers by any way, nothing is left of it; whoever asked has given up by then (RFC 4320 §4.1).
#[test]
fn all_addresses_of_a_name_are_silent() {
    let route = |d: &mut Draft| {
        d.push(HeaderId::RecordRoute, "<sip:proxy.test;lr>");
    };
    let mut s = Stage::new(false);
    s.w.names = vec![udp("198.18.20.66:5060"), udp("198.18.20.67:5060")];
    let mut s = s.established(|_| (), route);
    s.asks(&Method::Info, |_| ());
    wait(&mut s.w, 36_000);
    let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).collect();
    assert_eq!(told, [100]);
    let got = s.asks(&Method::Options, |_| ());
    assert!(got.is_empty(), "it goes by the name, not to the PSAP's own address");
    s.got();
    s.asks(&Method::Bye, |_| ());
    s.w.run_until(s.w.now / 1000 + 90_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
}

/// A request that cannot be written for the other leg is answered, and the next one goes.
#[test]
fn what_grows_too_large_is_refused() {
    let mut s = Stage::stands(false);
    s.asks(&Method::Invite, |d| {
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
    assert_eq!(s.asks(&Method::Invite, |_| ()).len(), 1);
    s.calm();
}

/// AC-30, RFC 3261 §18.1.1: what is too large for a datagram goes by TCP, and by UDP where nobody takes it.
#[test]
fn ac_30_a_large_request_within_a_call_goes_by_tcp() {
    let large = |d: &mut Draft| {
        d.set_body(Some("text/plain"), Bytes::from(vec![b'x'; 1400]));
    };
    let by_tcp = |got: &[(Message, Sent)]| got.iter().map(|(_, s)| s.stream.is_some()).collect::<Vec<_>>();
    let to_psap = |s: &Stage| {
        let all = sent_to(s.w.sent.as_ref().expect("recorded"), addr(PSAP));
        all.into_iter().filter(|(m, _)| m.is_request() && m.method() == &Method::Info).collect::<Vec<_>>()
    };
    for (fixed, refuses, expected) in [(false, false, vec![true]), (false, true, vec![false]), (true, false, vec![false])] {
        let s = Stage::with(false, |c| c.trunks[1].targets[0].transport = fixed.then_some(Transport::Udp));
        let mut s = s.established(|_| (), |_| ());
        if refuses {
            s.w.refusing.push(addr(PSAP));
        }
        s.asks(&Method::Info, large);
        assert_eq!(by_tcp(&to_psap(&s)), expected, "{fixed} {refuses}");
        let vias: Vec<_> = to_psap(&s).iter().map(|(m, _)| m.top_via().transport().to_owned()).collect();
        assert_eq!(vias, [if expected[0] { "TCP" } else { "UDP" }]);
        s.calm();
    }
    // Small ones stay.
    let mut s = Stage::with(false, |c| c.trunks[1].targets[0].transport = None).established(|_| (), |_| ());
    s.asks(&Method::Info, |_| ());
    assert_eq!(by_tcp(&to_psap(&s)), [false]);
}

/// RFC 3261 §12.1.1, §12.1.2: a far end of RFC 2543 has no tag.
#[test]
fn a_null_tag_makes_a_dialog() {
    let untagged = |d: &mut Draft| {
        d.set(HeaderId::From, format!("<sip:far@{SOURCE}>"));
    };
    let mut s = Stage::new(false).established(untagged, |_| ());
    s.psap_asks(PSAP, &Method::Invite, |_| ());
    let (reinvite, _) = s.got_request(&Method::Invite);
    assert_eq!(reinvite.to_tag(), None);
    let mut s = Stage::new(false).established(
        |_| (),
        |d| {
            let to = d.first(HeaderId::To).expect("one").replace(";tag=far", "");
            d.set(HeaderId::To, to);
        },
    );
    let info = s.asks(&Method::Info, |_| ());
    assert_eq!(info.len(), 1);
    assert_eq!(info[0].0.to_tag(), None);
}

/// A proxy that does not record-route leaves the path: then the far end asks from the address that it named (AC-52).
#[test]
fn ac_52_a_far_end_is_heard_from_its_contact() {
    const PHONE: &str = "198.18.33.1:5060";
    for (named, dropped) in [(PHONE, 0), (PSAP, 1)] {
        let contact = format!("<sip:far@{named}>");
        let mut s = Stage::new(false).established(
            |_| (),
            |d| {
                d.set(HeaderId::Contact, contact);
            },
        );
        s.psap_asks(PHONE, &Method::Bye, |_| ());
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
        let mut s = Stage::new(false);
        let mut draft = Far::at(SOURCE).initial(&Method::Options, URI, "o", 1);
        draft.replace_first(HeaderId::Via, format!("SIP/2.0/UDP {sent_by};branch=z9hG4bKo"));
        s.put(&draft);
        let got = s.got();
        assert_eq!(got.iter().map(|(m, s)| (m.status(), s.to)).collect::<Vec<_>>(), [(Some(200), addr(to))], "{sent_by}");
    }
}

/// RFC 3891: the call of the transferred party goes over the connection that the far end has, or to where it says that it is.
#[test]
fn replaces_goes_over_the_connection_of_the_far_end() {
    for open in [true, false] {
        let mut s = Stage::stands(true);
        let (invite, node) = s.invite.clone().expect("called");
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
        wait(&mut s.w, 50);
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
    let mut s = Stage::new(false).established(
        |d| {
            d.remove(HeaderId::Contact);
            d.set(HeaderId::From, "<sip:far@198.18.10.200>;tag=ft-x");
        },
        |_| (),
    );
    s.psap_asks(PSAP, &Method::Bye, |_| ());
    let (_, sent) = s.got_request(&Method::Bye);
    assert_eq!(sent.to, addr(SOURCE));
}

/// A re-INVITE of the caller that the PSAP has only said 100 to.
fn pending_reinvite(s: &mut Stage) -> (Message, SocketAddr) {
    let got = s.asks(&Method::Invite, |_| ());
    let [reinvite] = &got[..] else { panic!("{got:?}") };
    let reinvite = (reinvite.0.clone(), (reinvite.1.ip(), 5060).into());
    s.psap.answer(&mut s.w, &reinvite, 100, &[]);
    wait(&mut s.w, 20);
    reinvite
}

/// RFC 3261 §9.1: a CANCEL goes the way of its INVITE, and what it cannot end is given up after 64 × T1.
#[test]
fn a_cancelled_reinvite_is_given_up() {
    const NAMED: &str = "198.18.20.9:5061";
    let mut s = Stage::with(false, |c| {
        c.trunks[1].targets[0].host.host = "psap.test".into();
        c.trunks[1].targets[0].transport = Some(Transport::Tls);
    });
    s.w.names = vec![Target { addr: addr(NAMED), transport: Transport::Tls }];
    s.psap = Far::at(NAMED);
    let contact = |d: &mut Draft| {
        d.set(HeaderId::Contact, format!("<sip:far@{NAMED};transport=tls>"));
    };
    let mut s = s.established(|_| (), contact);
    pending_reinvite(&mut s);
    let cancel = s.within(&Method::Cancel, s.cseq);
    let mut draft = Draft::request(&Method::Cancel, cancel.request_uri().expect("one"));
    for field in cancel.headers() {
        draft.push_field(&field);
    }
    let via = s.via(&format!("in{}INVITE", s.cseq));
    draft.replace_first(HeaderId::Via, via);
    s.put(&draft);
    let sent = sent_to(s.w.sent.as_ref().expect("recorded"), addr(NAMED));
    let cancel = sent.iter().find(|(m, _)| m.method() == &Method::Cancel && m.is_request()).expect("a CANCEL");
    assert_eq!(cancel.1.stream.as_ref().and_then(|s| s.2.as_deref()), Some("psap.test"));
    s.got();
    wait(&mut s.w, 33_000);
    let mut told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).collect();
    told.dedup();
    assert_eq!(told, [487]);
    s.calm();
}

/// RFC 3261 §17.1.1.3: the final answer to an INVITE of ours is acknowledged, though a BYE has ended its dialog.
#[test]
fn a_reinvite_that_a_bye_overtook_is_acknowledged() {
    for status in [487, 200] {
        let mut s = Stage::stands(false);
        let reinvite = pending_reinvite(&mut s);
        let bye = s.asks(&Method::Bye, |_| ());
        s.psap.answer(&mut s.w, &bye[0], 200, &[]);
        wait(&mut s.w, 500);
        s.psap.inbox(&s.w);
        s.psap.answer(&mut s.w, &reinvite, status, &[]);
        wait(&mut s.w, 20);
        let (ack, _) = s.psap.request(&s.w, &Method::Ack);
        assert_eq!(ack.cseq(), reinvite.0.cseq());
        assert_eq!(ack.top_via().branch() == reinvite.0.top_via().branch(), status == 487);
        s.w.run_until(s.w.now / 1000 + 70_000);
        assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
        s.calm();
    }
}

/// RFC 3261 §15: the called side of a delayed offer gets its ACK before the BYE, though the caller's never came.
#[test]
fn an_answer_that_never_came_is_acknowledged_before_the_bye() {
    let mut s = Stage::new(false);
    let mut invite = s.initial();
    invite.clear_body();
    s.dials(&invite);
    s.answers(|_| ()).expect("a 200 with the offer");
    s.psap.inbox(&s.w);
    wait(&mut s.w, 37_000);
    let got = s.psap.inbox(&s.w);
    let methods: Vec<_> = got.iter().filter(|(m, _)| m.is_request()).map(|(m, _)| m.method().as_str()).collect();
    assert_eq!(methods[..2], ["ACK", "BYE"], "{methods:?}");
    s.calm();
}

/// Who has overheard an INVITE draws its 2xx neither once nor for good.
#[test]
fn an_overheard_invite_does_not_divert_the_answer() {
    let mut s = Stage::new(false);
    let invite = s.initial();
    s.dials(&invite);
    s.answers(|_| ()).expect("a 200");
    let (thief, at) = (addr("198.18.10.66:5060"), s.w.nodes[0].unicast);
    s.w.inject(thief, at, invite.encode().expect("well formed"));
    wait(&mut s.w, 3000);
    assert!(sent_to(s.w.sent.as_ref().expect("recorded"), thief).is_empty());
    assert!(s.got().iter().filter(|(m, _)| m.status() == Some(200)).count() >= 2, "repeated where it was asked for");
}

/// Rule E: the node that relayed a request died, and its answer leaves from here.
#[test]
fn an_answer_does_not_stick_to_a_node_that_died() {
    let mut s = Stage::stands(false);
    let anycast = s.w.anycast;
    s.w.route = 1;
    s.cseq += 1;
    let info = s.within(&Method::Info, s.cseq);
    s.w.inject(s.source, anycast, info.encode().expect("well formed"));
    wait(&mut s.w, 30);
    let asked = s.psap.request(&s.w, &Method::Info);
    s.w.fault_at(s.w.now / 1000, Fault::Cut(1));
    wait(&mut s.w, 10);
    s.got();
    s.psap.answer(&mut s.w, &asked, 200, &[]);
    wait(&mut s.w, 20);
    let got = s.got();
    assert_eq!(got.iter().map(|(m, s)| (m.status(), s.node, s.from)).collect::<Vec<_>>(), [(Some(200), Some(0), anycast)]);
    s.calm();
}
