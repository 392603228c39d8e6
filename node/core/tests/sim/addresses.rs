//! A name stands for several addresses: within a call too the next one is tried, and whoever was slow is heard after all (RFC 3263 §4.3).

use crate::rig::far::{Far, sdp};
use crate::rig::{LISTENS, PSAP, Rig, sent_to};
use crate::world::addr;
use sbc_core::auth::Secret;
use sbc_core::io::{Target, Transport};
use sbc_core::policy::Credentials;
use sbc_core::sip::{Draft, HeaderId, Method};

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
    let mut s = Rig::by(Transport::Udp);
    s.w.names = vec![udp(DEAD), udp(ALIVE)];
    let mut s = s.established(|_| (), route);
    let to = |s: &Rig, at: &str, method: &Method| {
        let all = sent_to(s.w.sent.as_ref().expect("recorded"), addr(at));
        all.into_iter().filter(|(m, _)| m.is_request() && m.method() == method).map(|(m, _)| m).collect::<Vec<_>>()
    };
    assert_eq!((to(&s, DEAD, &Method::Ack).len(), to(&s, ALIVE, &Method::Ack).len()), (1, 0));
    s.psap_answers(route);
    s.advance(50);
    assert_eq!(to(&s, ALIVE, &Method::Ack).len(), 1, "a repeated 200 says that the ACK was lost");
    s.requests(&Method::Info, |_| ());
    s.advance(3000);
    let tried = [to(&s, DEAD, &Method::Info), to(&s, ALIVE, &Method::Info)];
    assert_eq!((tried[0].is_empty(), tried[1].is_empty()), (false, false), "2 s of silence, then the next");
    assert_eq!(tried[0][0].first(HeaderId::CSeq), tried[1][0].first(HeaderId::CSeq));
    s.requests(&Method::Bye, |_| ());
    s.advance(100);
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
        let mut s = Rig::by(Transport::Udp);
        s.w.names = vec![udp(SLOW), udp(DEAD)];
        let mut s = s.established(|_| (), route);
        let (mut slow, mut dead) = (Far::at(SLOW), Far::at(DEAD));
        slow.inbox(&s.w);
        s.requests(&method, |_| ());
        s.advance(2500);
        let first = slow.request(&s.w, &method);
        dead.request(&s.w, &method);
        s.got();
        let mut ok = first.0.response(200, None);
        if method == Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>")).set_body(Some("application/sdp"), sdp());
        }
        slow.put(&mut s.w, &mut ok, first.1, &[]);
        s.advance(30);
        let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).filter(|s| *s >= 200).collect();
        assert_eq!(told, [200], "{method}");
        if method == Method::Invite {
            let ack = s.within(&Method::Ack, s.cseq);
            s.send(&ack);
            slow.request(&s.w, &Method::Ack);
        }
        dead.inbox(&s.w);
        s.advance(40_000);
        assert!(dead.inbox(&s.w).is_empty(), "{method} is repeated no more");
        let info = s.requests(&Method::Info, |_| ());
        assert!(info.is_empty());
        let at_slow = slow.request(&s.w, &Method::Info);
        slow.answer(&mut s.w, &at_slow, 200, &[]);
        s.advance(30);
        assert!(s.got().iter().any(|(m, _)| m.status() == Some(200)), "and the call goes on");
        s.calm();
    }
}

/// A re-INVITE that is cancelled while its next hop is looked up never goes out (RFC 3261 §9.1), and another one may follow.
#[test]
fn a_reinvite_is_cancelled_before_it_went_out() {
    const PROXY: &str = "198.18.20.66:5060";
    let mut s = Rig::by(Transport::Udp);
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
        s.send_raw(draft.encode().expect("well formed"));
    }
    s.advance(60);
    let told: Vec<_> = s.got().iter().filter_map(|(m, _)| Some((m.status()?, m.method().clone()))).collect();
    assert!(told.contains(&(200, Method::Cancel)) && told.contains(&(487, Method::Invite)), "{told:?}");
    s.send(&ack);
    s.advance(2000);
    assert!(proxy.inbox(&s.w).is_empty(), "nobody was asked");
    s.requests(&Method::Invite, |_| ());
    s.advance(60);
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
        let mut s = Rig::by_with(Transport::Udp, |c| {
            let mut secret = Secret::named("s");
            assert!(secret.fill("hunter2"));
            c.trunks[1].auth.credentials = Some(Credentials { username: "sbc".into(), realm: None, secret });
        });
        s.w.names = vec![udp(SLOW), udp(NEXT)];
        let mut s = s.established(|_| (), route);
        let (mut slow, mut next) = (Far::at(SLOW), Far::at(NEXT));
        slow.inbox(&s.w);
        s.requests(&method, |_| ());
        s.advance(2500);
        let first = slow.request(&s.w, &method);
        let mut second = next.request(&s.w, &method);
        s.got();
        if asked {
            let challenge = ("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"n1\", qop=\"auth\"");
            next.answer(&mut s.w, &second, 401, &[challenge]);
            s.advance(30);
            // By now the first one is held down.
            second = next.inbox(&s.w).into_iter().rfind(|(m, _)| m.method() == &method).expect("with credentials");
            assert_eq!(second.0.cseq(), first.0.cseq() + 1);
        }
        slow.answer(&mut s.w, &first, late, &[]);
        s.advance(30);
        if method == Method::Invite {
            assert_eq!(slow.request(&s.w, &Method::Ack).0.cseq(), first.0.cseq());
        }
        assert!(s.got().iter().all(|(m, _)| m.status() < Some(200)), "{method} {late}");
        let mut ok = second.0.response(200, None);
        if method == Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>")).set_body(Some("application/sdp"), sdp());
        }
        next.put(&mut s.w, &mut ok, second.1, &[]);
        s.advance(30);
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
    let mut s = Rig::by(Transport::Udp);
    s.w.names = vec![udp("198.18.20.66:5060"), udp("198.18.20.67:5060")];
    let mut s = s.established(|_| (), route);
    s.requests(&Method::Info, |_| ());
    s.advance(36_000);
    let told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).collect();
    assert_eq!(told, [100]);
    let got = s.requests(&Method::Options, |_| ());
    assert!(got.is_empty(), "it goes by the name, not to the PSAP's own address");
    s.got();
    s.requests(&Method::Bye, |_| ());
    s.w.run_until(s.w.now / 1000 + 90_000);
    assert_eq!((s.w.nodes[0].sbc.call_count(), s.w.nodes[0].sbc.transaction_count()), (0, 0));
}
