//! A called side that rings for long: who is cut off, and what the caller hears meanwhile.

use std::time::Duration;

use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::{Rig, first, requests, second};

/// RFC 3261 §16.6 step 11, §16.7 step 2: whoever is in a queue is not cut off.
#[test]
fn a_queue_is_not_cut_at_three_minutes() {
    for (uri, limit) in [("112", 600), ("4711", 185)] {
        let mut d = Rig::two_targets(|c| {
            c.emergency_numbers = vec![uri.into()];
            c.routes[0].matches.clear();
        });
        d.rings_up(&[]);
        let invite = d.psap_call();
        for _ in 0..10 {
            d.replies(first, &invite, 182);
            d.advance(170_000);
        }
        assert!(d.told().iter().all(|s| *s == 182));
        d.replies(first, &invite, 180);
        d.told();
        d.advance(limit * 1000 - 1000);
        let at = d.told();
        assert!(at.iter().all(|s| *s == 180) && requests(&mut d.second, &d.w).is_empty(), "{uri} {at:?}");
        // It rings without an end: the next one, and the first one is hushed.
        d.advance(1000);
        assert!(requests(&mut d.psap, &d.w).contains(&"CANCEL".to_owned()));
        let next = d.second_call();
        d.replies(first, &invite, 487);
        d.replies(second, &next, 180);
        d.replies(second, &next, 200);
        assert_eq!(d.told(), [180, 200]);
        d.calm();
    }
}

#[test]
fn a_trunk_may_have_a_ring_time_of_its_own() {
    let mut d = Rig::two_targets(|c| {
        c.trunks[1].timers.ring_timeout = Some(Duration::from_secs(30));
        c.trunks[1].targets.truncate(1);
    });
    d.rings_up(&[]);
    let invite = d.psap_call();
    d.replies(first, &invite, 180);
    d.advance(29_900);
    assert_eq!(d.told(), [180]);
    d.advance(200);
    assert_eq!(d.told(), [480], "nothing is left to be tried");
    d.calm();
}

/// RFC 3261 §13.3.1.1: the caller hears something each minute, lest a proxy before us ends the call.
#[test]
fn the_caller_hears_of_it_each_minute() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[]);
    let invite = d.psap_call();
    d.replies(first, &invite, 100);
    d.advance(60_000);
    assert_eq!(d.told(), [183], "our own where the called side says nothing");
    d.replies(first, &invite, 182);
    let queued = d.caller.inbox(&d.w).remove(0).0;
    d.advance(120_000);
    let again: Vec<Message> = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m).collect();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|m| m.raw() == queued.raw()), "the same again");
    d.replies(first, &invite, 200);
    assert_eq!(d.told().first(), Some(&200));
    d.advance(130_000);
    assert!(!d.told().contains(&182));
    d.calm();
}

/// RFC 3262 §3: for a caller that takes reliable ones alone, each with its number.
#[test]
fn the_caller_hears_of_it_reliably_where_it_must() {
    let mut d = Rig::two_targets(|_| ());
    d.rings_up(&[("Require", "100rel")]);
    let invite = d.psap_call();
    d.replies(first, &invite, 180);
    for minute in 0..3 {
        let all = d.caller.inbox(&d.w);
        let ringing = all.iter().map(|(m, _)| m).find(|m| m.status() == Some(180)).expect("it rings").clone();
        assert!(minute == 0 || ringing.body().is_empty());
        let rack = format!("{} 1 INVITE", ringing.first(HeaderId::RSeq).expect("reliable"));
        let (mut prack, to) = d.caller.within(&Method::Prack, &ringing, 2 + minute);
        d.caller.put(&mut d.w, &mut prack, to, &[("RAck", &rack)]);
        d.advance(20);
        assert_eq!(d.told(), [200], "minute {minute}");
        d.advance(60_000);
    }
    d.calm();
}

/// What the caller has been sent since the last look, but 100 and copies.
fn heard(d: &mut Rig) -> Vec<Message> {
    let mut got: Vec<Message> = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m).filter(|m| m.status() > Some(100)).collect();
    got.dedup_by(|next, last| next.raw() == last.raw());
    got
}

/// The one reliable response that the caller has been sent, for which it sends its PRACK.
#[track_caller]
fn acknowledged(d: &mut Rig, status: u16) -> Message {
    let mut got = heard(d);
    assert_eq!(got.iter().map(Message::status).collect::<Vec<_>>(), [Some(status)]);
    let response = got.remove(0);
    let rack = format!("{} 1 INVITE", response.first(HeaderId::RSeq).expect("reliable"));
    d.cseq += 1;
    let (mut prack, to) = d.caller.within(&Method::Prack, &response, d.cseq);
    d.caller.put(&mut d.w, &mut prack, to, &[("RAck", &rack)]);
    d.advance(20);
    assert_eq!(d.told(), [200], "the PRACK");
    response
}

/// The target that rang was left for another one. While that one says nothing there is no dialog to say a word in; as soon as it rings, the
/// caller hears of it each minute, in its dialog.
#[test]
fn the_caller_hears_reliably_of_the_target_that_is_tried_next() {
    let mut d = Rig::two_targets(|c| c.trunks[1].timers.ring_timeout = Some(Duration::from_secs(70)));
    d.rings_up(&[("Require", "100rel")]);
    let left = d.psap_call();
    d.replies(first, &left, 180);
    let old = acknowledged(&mut d, 180);
    d.advance(60_000);
    assert_eq!(acknowledged(&mut d, 180).to_tag(), old.to_tag(), "the same again");
    d.advance(10_000);
    assert!(requests(&mut d.psap, &d.w).contains(&"CANCEL".to_owned()));
    d.replies(first, &left, 487);
    let next = d.second_call();
    d.replies(second, &next, 100);
    // The minute after the last word goes by: nothing in a dialog that is over, nor in one that has not begun.
    d.advance(55_000);
    assert!(d.told().is_empty());
    d.replies(second, &next, 180);
    let new = acknowledged(&mut d, 180);
    assert_ne!(new.to_tag(), old.to_tag());
    d.advance(60_000);
    let word = acknowledged(&mut d, 180);
    assert_eq!((word.to_tag(), word.first(HeaderId::Require)), (new.to_tag(), Some("100rel")));
    d.replies(second, &next, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
}
