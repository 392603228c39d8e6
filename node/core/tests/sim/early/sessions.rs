//! Session timers (RFC 4028) of each leg: both refreshers, 422 both ways, and what ends a call.

use super::*;
use crate::world::addr;
use sbc_core::store_pb::EventKind;

const UAC: (&str, &str) = ("Session-Expires", "600;refresher=uac");
const KNOWS: (&str, &str) = ("Supported", "timer");

/// An answered call: the caller's 2xx.
fn answered(fields: &[(&str, &str)], psap: &[(&str, &str)]) -> (Rig, Message) {
    let mut s = Rig::calls(fields, Some(7));
    let ok = s.says_one(200, "a", psap, Some(10));
    assert_eq!(methods(&s.psap_got()), ["ACK"]);
    assert!(s.acks(&ok, None).is_empty());
    (s, ok)
}

fn field(message: &Message, id: HeaderId) -> &str {
    message.first(id).unwrap_or_default()
}

/// Runs to a second of virtual time, counted from the world's beginning.
fn until(s: &mut Rig, second: u64) {
    s.w.run_until(second * 1000);
}

#[test]
fn the_invite_offers_a_session_timer_and_the_caller_gets_what_it_asked_for() {
    let (s, ok) = answered(&[KNOWS, UAC], &[]);
    let invite = &s.asked.as_ref().expect("called").0;
    assert_eq!(field(invite, HeaderId::SessionExpires), "1800", "each leg has its own");
    assert_eq!(field(invite, HeaderId::MinSe), "90");
    assert_eq!(invite.values(HeaderId::Supported).filter(|tag| *tag == "timer").count(), 1);
    assert_eq!(field(&ok, HeaderId::SessionExpires), "600;refresher=uac");
    assert_eq!(field(&ok, HeaderId::Require), "timer");
}

#[test]
fn a_caller_without_the_extension_is_not_made_to_refresh() {
    let (_, ok) = answered(&[], &[]);
    assert_eq!(field(&ok, HeaderId::SessionExpires), "1800;refresher=uas");
    assert_eq!(ok.first(HeaderId::Require), None);
}

/// The called side cannot: we refresh it, by re-INVITE without UPDATE, with the description that it has.
#[test]
fn we_refresh_a_far_end_that_cannot() {
    let (mut s, ok) = answered(&[KNOWS, UAC], &[]);
    let first = s.asked.clone().expect("called").0;
    until(&mut s, 570);
    // The caller has been silent beyond its interval, and was asked whether it lives; it answers.
    let asked = s.caller.inbox(&s.w).into_iter().find(|(m, _)| m.is_request()).expect("asked");
    assert_eq!((asked.0.method(), field(&asked.0, HeaderId::SessionExpires)), (&Method::Invite, "600;refresher=uas"));
    let answers = s.caller_answers(&asked, 200, Some(7));
    assert!(answers.is_empty(), "it is no business of the other side");
    until(&mut s, 902);
    let (again, from) = s.psap.request(&s.w, &Method::Invite);
    assert_eq!(text(&again), text(&first), "nothing is changed, so that nothing can break");
    assert_eq!(field(&again, HeaderId::SessionExpires), "1800;refresher=uac");
    // Meanwhile the far end's own re-INVITE is glare (RFC 3261 §14.2), and so is an UPDATE with an offer (RFC 3311 §5.2).
    s.called_asks(&Method::Update, "a", Some(10));
    let refused = s.psap_got().into_iter().map(|(m, _)| m).find(|m| m.status() > Some(199)).expect("an answer");
    assert_eq!(refused.status(), Some(491));
    s.called_asks(&Method::Invite, "a", Some(10));
    let refused = s.psap_got().into_iter().map(|(m, _)| m).find(|m| m.status() > Some(199)).expect("an answer");
    assert_eq!(refused.status(), Some(491));
    // For the caller it is the same glare: its offer could go no further now.
    let crossed = s.asks(&Method::Update, &ok, &[], Some(8));
    assert!(!methods(&crossed).contains(&"UPDATE"));
    assert_eq!(s.caller_got().pop().and_then(|m| m.status()), Some(491));
    s.called_answers(&(again, from), 200, Some(10));
    assert!(methods(&s.psap_got()).contains(&"ACK"));
    until(&mut s, 1000);
    assert!(s.psap_got().iter().all(|(m, _)| m.method() != &Method::Bye));
    s.calm();
}

/// UPDATE where it is allowed; a far end that has the extension and is the refresher is answered here.
#[test]
fn refreshes_by_update() {
    let fields =
        [("Supported", "timer"), ("Require", "timer"), ("Session-Expires", "200;refresher=uac"), ("Allow", "INVITE, UPDATE")];
    let (mut s, ok) = answered(&[KNOWS, UAC], &fields);
    until(&mut s, 101);
    let update = s.psap.request(&s.w, &Method::Update);
    assert!(update.0.body().is_empty());
    assert_eq!(field(&update.0, HeaderId::SessionExpires), "200;refresher=uac");
    s.called_answers(&update, 200, None);
    let crossed = s.asks(&Method::Update, &ok, &[KNOWS, UAC], None);
    assert!(crossed.is_empty(), "a refresh is answered here");
    let answer = s.caller_got().pop().expect("an answer");
    assert_eq!((answer.status(), field(&answer, HeaderId::SessionExpires)), (Some(200), "600;refresher=uac"));
    assert!(field(&answer, HeaderId::Contact).contains("@198.18.0.1:"), "rules F and K");
    until(&mut s, 120);
    assert!(s.psap_got().is_empty());
    s.calm();
}

#[test]
fn a_called_side_that_wants_a_longer_interval() {
    let mut s = Rig::calls(&[], Some(7));
    let told = s.says(422, "a", &[("Min-SE", "3600")], None);
    assert!(told.is_empty(), "the caller hears nothing of it");
    let got = s.psap_got();
    assert_eq!(methods(&got), ["ACK", "INVITE"]);
    assert_eq!(field(&got[1].0, HeaderId::SessionExpires), "3600");
    assert_eq!(field(&got[1].0, HeaderId::MinSe), "3600");
    // RFC 4028 §7.3: the same Call-ID and From, the next CSeq number.
    let (first, again) = (&s.asked.as_ref().expect("called").0, &got[1].0);
    assert_eq!((again.call_id(), again.from_tag(), again.to_tag()), (first.call_id(), first.from_tag(), None));
    assert_eq!(again.cseq(), first.cseq() + 1);
    // One that says 422 to whatever it gets ends the call in the end.
    s.asked = got.last().cloned();
    let told = s.says(422, "b", &[("Min-SE", "3600")], None);
    assert_eq!(statuses(&told), [422]);
    s.calm();
}

#[test]
fn a_caller_that_wants_too_short_an_interval() {
    let short = [KNOWS, ("Session-Expires", "30")];
    // Taken as it is where it is an emergency call.
    let (_, ok) = answered(&short, &[]);
    assert_eq!(field(&ok, HeaderId::SessionExpires), "30;refresher=uac");
    // And goes on so: its refreshes are taken too.
    let (mut s, ok) = answered(&short, &[]);
    for second in [15, 30, 45, 60] {
        until(&mut s, second);
        s.asks(&Method::Update, &ok, &[KNOWS, ("Session-Expires", "30;refresher=uac")], None);
        let answer = s.caller.response(&s.w, &Method::Update);
        assert_eq!((answer.status(), field(&answer, HeaderId::SessionExpires)), (Some(200), "30;refresher=uac"));
    }
    until(&mut s, 75);
    assert!(s.caller_got().is_empty(), "nobody asked whether it lives");
    s.calm();
    let mut s = Rig::dialling("110");
    let mut draft = s.caller.initial(&Method::Invite, URI, "y", 1);
    let anycast = s.w.anycast;
    s.caller.put(&mut s.w, &mut draft, anycast, &short);
    s.advance(50);
    let told = s.caller.response(&s.w, &Method::Invite);
    assert_eq!((told.status(), told.first(HeaderId::MinSe)), (Some(422), Some("90")));
    assert!(s.psap_got().is_empty());
}

/// A far end that is gone: both legs end, with a lease (rule I).
#[test]
fn a_far_end_that_is_gone_ends_the_call_but_not_without_a_lease() {
    for (silent, cut) in [(false, false), (true, false), (false, true)] {
        let (mut s, _) = answered(&[KNOWS, ("Session-Expires", "90;refresher=uac")], &[]);
        if cut {
            s.w.fault_at(30_000, Fault::Cut(0));
            s.w.fault_at(200_000, Fault::Heal(0));
        }
        until(&mut s, 62);
        if cut {
            assert!(s.caller.inbox(&s.w).iter().all(|(m, _)| !m.is_request()), "nothing is begun without a lease");
            until(&mut s, 203);
        }
        let asked = s.caller.inbox(&s.w).into_iter().find(|(m, _)| m.is_request()).expect("asked");
        assert!(s.psap_got().is_empty(), "not before it is known");
        if !silent {
            s.caller_answers(&asked, 481, None);
        }
        let end = s.w.now / 1_000_000 + 40;
        until(&mut s, end);
        let bye = s.psap.request(&s.w, &Method::Bye).0;
        let cause = if silent { "SIP;cause=408" } else { "SIP;cause=481" };
        assert!(field(&bye, HeaderId::Reason).starts_with(cause), "{bye:?}");
        assert!(s.caller.inbox(&s.w).iter().any(|(m, _)| m.method() == &Method::Bye), "RFC 4028 §10");
        s.calm();
    }
}

/// A phone that does not know what it is asked lives: whatever it says, it said something.
#[test]
fn a_refusal_is_a_sign_of_life() {
    let (mut s, _) = answered(&[KNOWS, ("Session-Expires", "90;refresher=uac"), ("Allow", "UPDATE")], &[]);
    let asked = |s: &mut Rig, second| {
        until(s, second);
        let mut all = s.caller.inbox(&s.w).into_iter().filter(|(m, _)| m.is_request() && m.method() != &Method::Ack);
        all.next().unwrap_or_else(|| panic!("nothing is asked at {second}"))
    };
    let update = asked(&mut s, 61);
    assert_eq!(update.0.method(), &Method::Update);
    // What the far end refuses is asked in another way at once, and then several times before the session is over there.
    s.caller_answers(&update, 501, None);
    let mut at = s.w.now / 1000;
    for (status, wait_ms) in
        [(488, 100), (403, 7500), (606, 5700), (401, 5200), (488, 5200), (488, 5200), (488, 60_100), (488, 60_100)]
    {
        at += wait_ms;
        s.w.run_until(at);
        let again = s.caller.inbox(&s.w).into_iter().find(|(m, _)| m.is_request() && m.method() == &Method::Invite);
        let again = again.unwrap_or_else(|| panic!("nothing before {status} at {at}"));
        s.caller_answers(&again, status, None);
    }
    assert!(s.psap_got().is_empty());
    s.calm();
}

#[test]
fn no_session_timers_where_the_trunk_has_none() {
    let mut s = Rig::dialling("112");
    s.w.reconfigure(|c| {
        for trunk in &mut c.trunks {
            trunk.timers.session_expires = Some(std::time::Duration::ZERO);
        }
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
    });
    let mut s = s.dials(&[KNOWS, UAC], Some(7));
    assert_eq!(s.asked.as_ref().expect("called").0.first(HeaderId::SessionExpires), None);
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!((ok.first(HeaderId::SessionExpires), ok.first(HeaderId::Require)), (None, None));
    s.acks(&ok, None);
    s.psap_got();
    until(&mut s, 1000);
    assert!(s.psap_got().is_empty() && s.caller_got().is_empty());
    assert_eq!(s.psap.addr, addr("198.18.20.9:5060"));
}

/// RFC 3261 §14.1: after glare, 2.1 to 4 s where the Call-ID is ours, and up to 2 s where it is not.
#[test]
fn refreshes_are_put_off_by_glare() {
    for (to_caller, least, most) in [(true, 0, 2000), (false, 2100, 4000)] {
        let shorter = if to_caller { 0 } else { 1 };
        let mut s = Rig::dialling_with("112", move |c| {
            let seconds = |n| Some(std::time::Duration::from_secs(n));
            c.trunks[shorter].timers.session_expires = seconds(200);
            c.trunks[1 - shorter].timers.session_expires = seconds(0);
        });
        s = s.dials(&[], Some(7));
        let ok = s.says_one(200, "a", &[], Some(10));
        s.acks(&ok, None);
        s.psap_got();
        until(&mut s, 101);
        let mut waits = Vec::new();
        for status in [491, 491, 491, 491, 500, 500, 500, 500] {
            let began = s.w.now / 1000;
            let far = if to_caller { &mut s.caller } else { &mut s.psap };
            let asked = far.request(&s.w, &Method::Invite);
            let answers = if to_caller { s.caller_answers(&asked, status, None).len() } else { 0 };
            if !to_caller {
                s.called_answers(&asked, status, None);
            }
            assert_eq!(answers, 0);
            let far = if to_caller { &mut s.caller } else { &mut s.psap };
            far.inbox(&s.w);
            let sent = |w: &World| w.sent.as_ref().expect("recorded").len();
            let before = sent(&s.w);
            while sent(&s.w) == before && s.w.now / 1000 < began + 60_000 {
                let next = s.w.now / 1000 + 10;
                s.w.run_until(next);
            }
            waits.push(s.w.now / 1000 - began);
        }
        let last = waits.pop().expect("eight");
        assert!(waits.iter().all(|ms| (least..=most + 30).contains(ms)), "{waits:?}");
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 3, "at random: {waits:?}");
        assert!(last > 15_000, "three are enough: {last}");
        s.calm();
    }
}

/// An UPDATE that refreshes and tells something crosses, where the other far end has UPDATE; what it tells dispatch is kept in any case.
#[test]
fn a_refresh_that_tells_something_crosses() {
    let place = ("Geolocation", "<https://lis.example/1>");
    for (allow, crosses) in [("INVITE, UPDATE", true), ("INVITE", false)] {
        let (mut s, ok) = answered(&[KNOWS, UAC], &[("Supported", "timer"), ("Allow", allow)]);
        for (fields, tells) in [(vec![KNOWS, UAC, place], true), (vec![KNOWS, UAC, ("User-Agent", "x")], false)] {
            let got = s.asks(&Method::Update, &ok, &fields, None);
            assert_eq!(!got.is_empty(), tells && crosses, "{allow} {fields:?}");
            let told = match got.first() {
                Some(update) => {
                    assert_eq!(update.0.first(HeaderId::Geolocation), Some(place.1));
                    s.called_answers(update, 200, None)
                }
                None => s.caller_got(),
            };
            let [answer] = &told[..] else { panic!("{told:?}") };
            assert_eq!((answer.status(), field(answer, HeaderId::SessionExpires)), (Some(200), "600;refresher=uac"));
        }
        s.advance(100);
        let replica = s.w.nodes[0].replica.read().expect("one thread");
        let events = replica.events(0, usize::MAX).expect("nothing is compacted");
        let places = events.iter().filter(|e| e.kind() == EventKind::LocationUpdated).count();
        assert_eq!(places, 1, "the new place is in the log, {allow}");
    }
}
