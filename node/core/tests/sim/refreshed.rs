//! Where a far end is and what it is, by the Contact of its re-INVITE: from its acceptance on, and not before (RFC 3261 §12.2.2, §14.1).

use sbc_core::io::Transport;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::far::sdp;
use crate::rig::{LISTENS, PSAP, Rig};

/// Where the far end says that it is now, and a feature that it says it has.
const MOVED: [&str; 2] = ["198.18.10.9:5099", "198.18.20.9:5099"];
const FEATURE: &str = "+sip.moved";

/// What becomes of the re-INVITE.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Is(u16),
    Silence,
}

/// A call of which the caller has asked to be somewhere else.
fn caller_moves(outcome: Outcome) -> Rig {
    let mut s = Rig::stands(Transport::Udp);
    let asked = s.requests(&Method::Invite, |d| {
        d.set(HeaderId::Contact, format!("<sip:far@{}>;{FEATURE}", MOVED[0]));
    });
    let asked = (asked[0].0.clone(), (asked[0].1.ip(), 5060).into());
    assert!(asked.0.first(HeaderId::Contact).is_some_and(|c| c.contains(FEATURE)), "it is offered");
    match outcome {
        Outcome::Is(status) => s.psap.answer(&mut s.w, &asked, status, &[]),
        Outcome::Silence => s.advance(40_000),
    }
    s.advance(30);
    let told = s.got().iter().filter_map(|(m, _)| m.status()).max();
    match outcome {
        Outcome::Is(status) => assert_eq!(told, Some(status)),
        Outcome::Silence => assert!(told >= Some(400), "{told:?}"),
    }
    if outcome == Outcome::Is(200) {
        let ack = s.within(&Method::Ack, s.cseq);
        s.send(&ack);
    }
    s.psap.inbox(&s.w);
    s
}

#[test]
fn a_callers_contact_counts_from_its_acceptance_on() {
    for outcome in [Outcome::Is(200), Outcome::Is(488), Outcome::Is(603), Outcome::Silence] {
        let moved = outcome == Outcome::Is(200);
        let mut s = caller_moves(outcome);
        // An answer that says nothing new of the caller: our Contact says what is known.
        s.psap_requests(PSAP, &Method::Invite, |_| ());
        let (asked, _) = s.got_request(&Method::Invite);
        let uri = format!("sip:far@{}", if moved { MOVED[0] } else { LISTENS });
        assert_eq!(asked.request_uri(), Some(&*uri), "{outcome:?}");
        let mut ok = asked.response(200, None);
        ok.set_body(Some("application/sdp"), sdp());
        s.send(&ok);
        let answer = s.psap.response(&s.w, &Method::Invite);
        let contact = answer.first(HeaderId::Contact).expect("a 2xx has one");
        assert_eq!((answer.status(), contact.contains(FEATURE)), (Some(200), moved), "{outcome:?}: {contact}");
        s.psap_requests(PSAP, &Method::Bye, |_| ());
        assert_eq!(s.got_request(&Method::Bye).0.request_uri(), Some(&*uri), "{outcome:?}");
        s.calm();
    }
}

#[test]
fn a_psaps_contact_counts_from_its_acceptance_on() {
    for outcome in [Outcome::Is(200), Outcome::Is(488), Outcome::Silence] {
        let moved = outcome == Outcome::Is(200);
        let mut s = Rig::stands(Transport::Udp);
        s.psap_requests(PSAP, &Method::Invite, |d| {
            d.set(HeaderId::Contact, format!("<sip:far@{}>;{FEATURE}", MOVED[1]));
        });
        let (asked, _) = s.got_request(&Method::Invite);
        match outcome {
            Outcome::Silence => s.advance(40_000),
            Outcome::Is(status) => {
                let mut answer = asked.response(status, None);
                if status == 200 {
                    answer.push(HeaderId::Contact, format!("<sip:far@{LISTENS}>"));
                    answer.set_body(Some("application/sdp"), sdp());
                }
                s.send(&answer);
            }
        }
        s.got();
        s.psap.inbox(&s.w);
        s.requests(&Method::Info, |_| ());
        // By its Request-URI, wherever it goes.
        let mut sent = s.w.sent.as_ref().expect("recorded").iter().rev();
        let info = sent.find(|m| m.node.is_some() && m.bytes.starts_with(b"INFO ")).expect("it crosses");
        let info = Message::parse(info.bytes.clone()).expect("well formed");
        assert_eq!(info.request_uri().is_some_and(|uri| uri.contains(":5099")), moved, "{outcome:?}: {:?}", info.request_uri());
        s.calm();
    }
}
