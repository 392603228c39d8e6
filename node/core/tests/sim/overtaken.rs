//! Requests that a CANCEL, a BYE or the death of a node overtakes, and what still becomes of them.

use crate::rig::far::Far;
use crate::rig::{Rig, sent_to};
use crate::world::addr;
use sbc_core::io::{Target, Transport};
use sbc_core::sip::{Draft, HeaderId, Message, Method};
use std::net::SocketAddr;

/// A re-INVITE of the caller that the PSAP has only said 100 to.
fn pending_reinvite(s: &mut Rig) -> (Message, SocketAddr) {
    let got = s.requests(&Method::Invite, |_| ());
    let [reinvite] = &got[..] else { panic!("{got:?}") };
    let reinvite = (reinvite.0.clone(), (reinvite.1.ip(), 5060).into());
    s.psap.answer(&mut s.w, &reinvite, 100, &[]);
    s.advance(20);
    reinvite
}

/// RFC 3261 §9.1: a CANCEL goes the way of its INVITE, and what it cannot end is given up after 64 × T1.
#[test]
fn a_cancelled_reinvite_is_given_up() {
    const NAMED: &str = "198.18.20.9:5061";
    let mut s = Rig::by_with(Transport::Udp, |c| {
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
    let via = s.caller.via(&format!("in{}INVITE", s.cseq));
    draft.replace_first(HeaderId::Via, via);
    s.send(&draft);
    let sent = sent_to(s.w.sent.as_ref().expect("recorded"), addr(NAMED));
    let cancel = sent.iter().find(|(m, _)| m.method() == &Method::Cancel && m.is_request()).expect("a CANCEL");
    assert_eq!(cancel.1.stream.as_ref().and_then(|s| s.2.as_deref()), Some("psap.test"));
    s.got();
    s.advance(33_000);
    let mut told: Vec<_> = s.got().iter().filter_map(|(m, _)| m.status()).collect();
    told.dedup();
    assert_eq!(told, [487]);
    s.calm();
}

/// RFC 3261 §17.1.1.3: the final answer to an INVITE of ours is acknowledged, though a BYE has ended its dialog.
#[test]
fn a_reinvite_that_a_bye_overtook_is_acknowledged() {
    for status in [487, 200] {
        let mut s = Rig::stands(Transport::Udp);
        let reinvite = pending_reinvite(&mut s);
        let bye = s.requests(&Method::Bye, |_| ());
        s.psap.answer(&mut s.w, &bye[0], 200, &[]);
        s.advance(500);
        s.psap.inbox(&s.w);
        s.psap.answer(&mut s.w, &reinvite, status, &[]);
        s.advance(20);
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
    let mut s = Rig::by(Transport::Udp);
    let mut invite = s.invite_draft();
    invite.clear_body();
    s.dials_draft(&invite);
    s.psap_answers(|_| ()).expect("a 200 with the offer");
    s.psap.inbox(&s.w);
    s.advance(37_000);
    let got = s.psap.inbox(&s.w);
    let methods: Vec<_> = got.iter().filter(|(m, _)| m.is_request()).map(|(m, _)| m.method().as_str()).collect();
    assert_eq!(methods[..2], ["ACK", "BYE"], "{methods:?}");
    s.calm();
}

/// Who has overheard an INVITE draws its 2xx neither once nor for good.
#[test]
fn an_overheard_invite_does_not_divert_the_answer() {
    let mut s = Rig::by(Transport::Udp);
    let invite = s.invite_draft();
    s.dials_draft(&invite);
    s.psap_answers(|_| ()).expect("a 200");
    let (thief, at) = (addr("198.18.10.66:5060"), s.w.nodes[0].unicast);
    s.w.inject(thief, at, invite.encode().expect("well formed"));
    s.advance(3000);
    assert!(sent_to(s.w.sent.as_ref().expect("recorded"), thief).is_empty());
    assert!(s.got().iter().filter(|(m, _)| m.status() == Some(200)).count() >= 2, "repeated where it was asked for");
}

/// Rule E: the node that relayed a request died, and its answer leaves from here.
#[test]
fn an_answer_does_not_stick_to_a_node_that_died() {
    let mut s = Rig::stands(Transport::Udp);
    let anycast = s.w.anycast;
    s.w.route = 1;
    s.cseq += 1;
    let info = s.within(&Method::Info, s.cseq);
    s.w.inject(s.caller.addr, anycast, info.encode().expect("well formed"));
    s.advance(30);
    let asked = s.psap.request(&s.w, &Method::Info);
    s.isolate(1);
    s.advance(10);
    s.got();
    s.psap.answer(&mut s.w, &asked, 200, &[]);
    s.advance(20);
    let got = s.got();
    assert_eq!(got.iter().map(|(m, s)| (m.status(), s.node, s.from)).collect::<Vec<_>>(), [(Some(200), Some(0), anycast)]);
    s.calm();
}
