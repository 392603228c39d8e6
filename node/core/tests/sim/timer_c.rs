//! A called side that rings for long: who is cut off, and what the caller hears meanwhile.

use std::time::Duration;

use sbc_core::sip::{HeaderId, Message, Method};

use crate::dialling::{Desk, first, methods, second};
use crate::far::wait;

/// RFC 3261 §16.6 step 11, §16.7 step 2: whoever is in a queue is not cut off.
#[test]
fn a_queue_is_not_cut_at_three_minutes() {
    for (uri, limit) in [("112", 600), ("4711", 185)] {
        let mut d = Desk::new(|c| {
            c.emergency_numbers = vec![uri.into()];
            c.routes[0].matches.clear();
        });
        d.dials();
        let invite = d.call_first();
        for _ in 0..10 {
            d.says(first, &invite, 182);
            wait(&mut d.w, 170_000);
        }
        assert!(d.told().iter().all(|s| *s == 182));
        d.says(first, &invite, 180);
        d.told();
        wait(&mut d.w, limit * 1000 - 1000);
        let at = d.told();
        assert!(at.iter().all(|s| *s == 180) && methods(&mut d.second, &d.w).is_empty(), "{uri} {at:?}");
        // It rings without an end: the next one, and the first one is hushed.
        wait(&mut d.w, 1000);
        assert!(methods(&mut d.first, &d.w).contains(&"CANCEL".to_owned()));
        let next = d.call_second();
        d.says(first, &invite, 487);
        d.says(second, &next, 180);
        d.says(second, &next, 200);
        assert_eq!(d.told(), [180, 200]);
        d.calm();
    }
}

#[test]
fn a_trunk_may_have_a_ring_time_of_its_own() {
    let mut d = Desk::new(|c| {
        c.trunks[1].timers.ring_timeout = Some(Duration::from_secs(30));
        c.trunks[1].targets.truncate(1);
    });
    d.dials();
    let invite = d.call_first();
    d.says(first, &invite, 180);
    wait(&mut d.w, 29_900);
    assert_eq!(d.told(), [180]);
    wait(&mut d.w, 200);
    assert_eq!(d.told(), [480], "nothing is left to be tried");
    d.calm();
}

/// RFC 3261 §13.3.1.1: the caller hears something each minute, lest a proxy before us ends the call.
#[test]
fn the_caller_hears_of_it_each_minute() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let invite = d.call_first();
    d.says(first, &invite, 100);
    wait(&mut d.w, 60_000);
    assert_eq!(d.told(), [183], "our own where the called side says nothing");
    d.says(first, &invite, 182);
    let queued = d.caller.inbox(&d.w).remove(0).0;
    wait(&mut d.w, 120_000);
    let again: Vec<Message> = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m).collect();
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|m| m.raw() == queued.raw()), "the same again");
    d.says(first, &invite, 200);
    assert_eq!(d.told().first(), Some(&200));
    wait(&mut d.w, 130_000);
    assert!(!d.told().contains(&182));
    d.calm();
}

/// RFC 3262 §3: for a caller that takes reliable ones alone, each with its number.
#[test]
fn the_caller_hears_of_it_reliably_where_it_must() {
    let mut d = Desk::new(|_| ());
    d.dials_with(&[("Require", "100rel")]);
    let invite = d.call_first();
    d.says(first, &invite, 180);
    for minute in 0..3 {
        let all = d.caller.inbox(&d.w);
        let ringing = all.iter().map(|(m, _)| m).find(|m| m.status() == Some(180)).expect("it rings").clone();
        assert!(minute == 0 || ringing.body().is_empty());
        let rack = format!("{} 1 INVITE", ringing.first(HeaderId::RSeq).expect("reliable"));
        let (mut prack, to) = d.caller.within(&Method::Prack, &ringing, 2 + minute);
        d.caller.put(&mut d.w, &mut prack, to, &[("RAck", &rack)]);
        wait(&mut d.w, 20);
        assert_eq!(d.told(), [200], "minute {minute}");
        wait(&mut d.w, 60_000);
    }
    d.calm();
}

/// The target that rang was left for another one. While that one says nothing there is no dialog to say a word in; as soon as it rings, the
/// caller hears of it each minute, in its dialog.
#[test]
fn the_caller_hears_reliably_of_the_target_that_is_tried_next() {
    let mut d = Desk::new(|c| c.trunks[1].timers.ring_timeout = Some(Duration::from_secs(30)));
    d.dials_with(&[("Require", "100rel")]);
    let prack = |d: &mut Desk, response: &Message, cseq: u32| {
        let rack = format!("{} 1 INVITE", response.first(HeaderId::RSeq).expect("reliable"));
        let (mut prack, to) = d.caller.within(&Method::Prack, response, cseq);
        d.caller.put(&mut d.w, &mut prack, to, &[("RAck", &rack)]);
        wait(&mut d.w, 20);
        assert_eq!(d.told(), [200], "PRACK {cseq}");
    };
    let ringing = |d: &mut Desk| {
        let all = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m);
        all.filter(|m| m.status() > Some(100)).collect::<Vec<_>>()
    };
    let left = d.call_first();
    d.says(first, &left, 180);
    let old = ringing(&mut d).remove(0);
    prack(&mut d, &old, 2);
    wait(&mut d.w, 30_000);
    assert!(methods(&mut d.first, &d.w).contains(&"CANCEL".to_owned()));
    d.says(first, &left, 487);
    let next = d.call_second();
    d.says(second, &next, 100);
    assert!(d.told().is_empty());
    // The minute after its last word goes by: nothing in a dialog that is over, nor in one that has not begun.
    wait(&mut d.w, 29_900);
    assert!(d.told().is_empty());
    // Timer C of the silent target is longer than that; now it rings.
    d.says(second, &next, 180);
    let mut word = ringing(&mut d);
    assert_eq!(word.len(), 1);
    assert_ne!(word[0].to_tag(), old.to_tag());
    prack(&mut d, &word[0], 3);
    d.says(second, &next, 200);
    assert_eq!(d.told(), [200]);
    word.clear();
    d.calm();
}
