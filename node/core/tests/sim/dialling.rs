//! Slow targets, silent ones, and ones that refuse: who is dialled when, who is cancelled, and what the caller is told.

use sbc_core::io::Realm;
use sbc_core::policy::Trunk;
use sbc_core::sip::{HeaderId, Method};

use crate::rig::{FIRST, Request, Rig, SECOND, URI, first, requests, second, target};
use crate::world::addr;

/// The second target is on the other side, and the ports that the first was called with are gone: what that one says is too late.
#[test]
fn a_slow_target_whose_ports_are_gone_is_left() {
    for status in [180, 200] {
        let mut d = Rig::two_targets(|config| {
            config.trunks[1].targets.truncate(1);
            let outside = Trunk { sources: config.trunks[1].sources.clone(), ..Trunk::new("outside", Realm::External) };
            config.trunks.push(Trunk { targets: vec![target(SECOND)], ..outside });
            config.routes.iter_mut().for_each(|route| route.trunks.push("outside".into()));
        });
        d.rings_up(&[]);
        let late = d.psap_call();
        d.advance(2100);
        let answers = d.second_call();
        d.replies(first, &late, status);
        assert!(d.told().is_empty(), "{status}");
        let ended = requests(&mut d.psap, &d.w);
        assert!(ended.iter().any(|m| m == if status == 180 { "CANCEL" } else { "BYE" }), "{status}: {ended:?}");
        d.replies(second, &answers, 200);
        assert_eq!(d.told(), [200]);
        d.calm();
    }
}

/// One that was passed over for its silence speaks while the other is silent: it has the call.
#[test]
fn a_slow_target_is_taken_back() {
    for said in [&[100, 180, 200][..], &[180, 200], &[200]] {
        let mut d = Rig::two_targets(|_| ());
        d.rings_up(&[]);
        let late = d.psap_call();
        d.advance(2000);
        let silent = d.second_call();
        for status in said {
            d.replies(first, &late, *status);
        }
        let expected: Vec<u16> = said.iter().copied().filter(|s| *s > 100).collect();
        assert_eq!(d.told(), expected);
        assert!(requests(&mut d.psap, &d.w).ends_with(&["ACK".to_owned()]), "its answer wins");
        // The other one rings after all: it is hushed at once.
        d.replies(second, &silent, 180);
        assert!(requests(&mut d.second, &d.w).contains(&"CANCEL".to_owned()));
        assert_eq!(d.told().iter().filter(|s| **s != 200).count(), 0);
        d.calm();
    }
}

/// The leg is the first one's again, for what comes later too.
#[test]
fn requests_within_the_call_go_to_the_one_that_was_taken_back() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let late = d.psap_call();
    d.advance(2000);
    d.second_call();
    d.replies(first, &late, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    for (method, cseq) in [(Method::Ack, 1), (Method::Info, 2), (Method::Bye, 3)] {
        let (mut draft, to) = d.caller.within(&method, &ok, cseq);
        d.caller.put(&mut d.w, &mut draft, to, &[]);
        d.advance(20);
        let (got, from) = d.psap.request(&d.w, &method);
        assert_eq!((got.call_id(), got.to_tag(), got.from_tag()), (late.0.call_id(), Some("far"), late.0.from_tag()));
        if method != Method::Ack {
            d.w.inject(d.psap.addr, from, got.response(200, None).encode().expect("well formed"));
        }
    }
    assert!(!requests(&mut d.second, &d.w).contains(&"BYE".to_owned()));
    d.calm();
}

/// Two that ring at once is the failure that counts: the second one to speak is cancelled, and its answer is hung up on.
#[test]
fn a_slow_target_is_too_late_where_the_next_one_has_spoken() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let late = d.psap_call();
    d.advance(2000);
    let next = d.second_call();
    d.replies(second, &next, 180);
    d.replies(first, &late, 180);
    assert!(requests(&mut d.psap, &d.w).contains(&"CANCEL".to_owned()));
    assert_eq!(d.told(), [180]);
    d.replies(first, &late, 200);
    assert!(requests(&mut d.psap, &d.w).contains(&"BYE".to_owned()));
    d.replies(second, &next, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
}

/// RFC 3261 §16.7: the first 2xx wins, where the next target has said no more than 100.
#[test]
fn an_answer_wins_over_100() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let late = d.psap_call();
    d.advance(2000);
    let next = d.second_call();
    d.replies(second, &next, 100);
    d.replies(first, &late, 200);
    assert_eq!(d.told(), [200]);
    assert!(requests(&mut d.second, &d.w).contains(&"CANCEL".to_owned()));
    d.calm();
}

/// Nothing else is left: the slow one is waited for, and hears the INVITE again.
#[test]
fn the_silent_one_is_waited_for_when_the_others_refuse() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let late = d.psap_call();
    d.advance(2000);
    d.psap.inbox(&d.w);
    let next = d.second_call();
    d.replies(second, &next, 503);
    assert!(d.told().is_empty());
    d.advance(1000);
    assert_eq!(requests(&mut d.psap, &d.w), ["INVITE"]);
    d.replies(first, &late, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
    // And where it never speaks, the caller is told in the end.
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    d.advance(2000);
    let next = d.second_call();
    d.replies(second, &next, 503);
    d.advance(31_000);
    assert_eq!(d.told(), [500], "what was really said");
    d.calm();
}

/// A slow target is not given up after 2 s for one that is known to be dead; for that one is time before timer B.
#[test]
fn a_slow_target_is_spared_where_the_other_one_is_dead() {
    let mut d = Rig::two_targets(|c| c.trunks[1].targets.reverse());
    d.rings_up(&[]);
    d.advance(2000);
    let invite = d.psap_call();
    d.replies(first, &invite, 486);
    assert_eq!((d.told(), requests(&mut d.second, &d.w)), (vec![486], vec!["INVITE".to_owned()]));
    d.rings_up(&[]);
    let slow = d.psap_call();
    d.advance(3500);
    assert!(requests(&mut d.second, &d.w).is_empty(), "it lately failed");
    d.replies(first, &slow, 180);
    d.advance(10_000);
    d.replies(first, &slow, 486);
    assert!(requests(&mut d.second, &d.w).is_empty());
    d.rings_up(&[]);
    d.advance(9000);
    assert_eq!(requests(&mut d.second, &d.w), ["INVITE"], "both are silent: perhaps that one came back");
    d.calm();
}

/// RFC 4320 §4.1: who asks within a call hears 100 before it is answered late; and so does who sends a text.
#[test]
fn a_slow_answer_to_a_request_is_announced() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let invite = d.psap_call();
    d.replies(first, &invite, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    let (mut ack, to) = d.caller.within(&Method::Ack, &ok, 1);
    d.caller.put(&mut d.w, &mut ack, to, &[]);
    let (mut info, to) = d.caller.within(&Method::Info, &ok, 2);
    d.caller.put(&mut d.w, &mut info, to, &[]);
    let mut text = d.caller.initial(&Method::Message, URI, "t", 1);
    text.remove(HeaderId::Contact);
    let anycast = d.w.anycast;
    d.caller.put(&mut d.w, &mut text, anycast, &[]);
    d.advance(50);
    let slow = d.psap.inbox(&d.w).into_iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message));
    let slow: Vec<Request> = slow.collect();
    for (message, node) in slow.iter().filter(|(m, _)| m.method() == &Method::Message) {
        // It lives; else the text would go on to the next target.
        d.w.inject(d.psap.addr, *node, message.response(100, None).encode().expect("well formed"));
    }
    let heard = |d: &mut Rig| {
        let got = d.caller.inbox(&d.w).into_iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message));
        got.map(|(m, _)| (m.status().unwrap_or(0), m.method().as_str().to_owned())).collect::<Vec<_>>()
    };
    d.advance(3400);
    assert!(heard(&mut d).is_empty());
    d.advance(200);
    let mut trying = heard(&mut d);
    trying.sort();
    assert_eq!(trying, [(100, "INFO".to_owned()), (100, "MESSAGE".to_owned())]);
    for (message, node) in &slow {
        d.w.inject(d.psap.addr, *node, message.response(200, None).encode().expect("well formed"));
    }
    d.advance(50);
    assert!(heard(&mut d).iter().all(|(status, _)| *status == 200));
    d.calm();
}

/// A target that cannot be reached is no overload of ours (RFC 3261 §16.9): no 503, nor Retry-After.
#[test]
fn a_target_that_cannot_be_reached_is_a_500() {
    let mut d = Rig::two_targets(|c| c.trunks[1].targets.truncate(1));
    d.w.unreachable = Some(addr(FIRST));
    d.rings_up(&[]);
    let told = d.caller.response(&d.w, &Method::Invite);
    assert_eq!((told.status(), told.first(HeaderId::RetryAfter)), (Some(500), None));
    // With one that is slow besides, that one is waited for.
    let mut d = Rig::two_targets(|_| ());
    d.w.unreachable = Some(addr(SECOND));
    d.rings_up(&[]);
    let slow = d.psap_call();
    d.advance(2500);
    assert!(d.told().is_empty());
    d.replies(first, &slow, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
}

/// Within a call, and of a text: the address that answers is that of all nodes there too.
#[test]
fn a_503_within_a_call_is_a_500() {
    let mut d = Rig::two_targets(|c| c.trunks[1].targets.truncate(1));
    d.rings_up(&[]);
    let invite = d.psap_call();
    d.replies(first, &invite, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    let (mut ack, to) = d.caller.within(&Method::Ack, &ok, 1);
    d.caller.put(&mut d.w, &mut ack, to, &[]);
    let (mut info, to) = d.caller.within(&Method::Info, &ok, 2);
    d.caller.put(&mut d.w, &mut info, to, &[]);
    let mut text = d.caller.initial(&Method::Message, URI, "t", 1);
    text.remove(HeaderId::Contact);
    let anycast = d.w.anycast;
    d.caller.put(&mut d.w, &mut text, anycast, &[]);
    d.advance(50);
    for (message, node) in d.psap.inbox(&d.w).iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message)) {
        let mut draft = message.response(503, None);
        draft.push(HeaderId::RetryAfter, "60");
        d.w.inject(d.psap.addr, *node, draft.encode().expect("well formed"));
    }
    d.advance(50);
    let finals = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m).filter(|m| m.method() != &Method::Invite);
    let told: Vec<_> = finals.map(|m| (m.status(), m.first(HeaderId::RetryAfter).is_some())).collect();
    assert_eq!(told, [(Some(500), false); 2]);
    d.calm();
}
