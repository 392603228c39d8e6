//! Several early dialogs of one INVITE (RFC 3261 §12.1, §13.2.2.4; RFC 6228).

use super::*;
use sbc_core::io::DropReason;

/// RFC 3261 §12.1, §13.2.2.4: each To-tag is a dialog; requests in either direction find theirs; the 2xx takes one.
#[test]
fn each_tag_of_the_called_side_is_an_early_dialog() {
    let mut s = Rig::calls(&[], Some(7));
    let ringing = s.says_one(180, "a", &[], None);
    let progress = s.says_one(183, "b", &[("Record-Route", "<sip:198.18.20.9;lr>")], Some(20));
    let again = s.says_one(180, "a", &[], Some(10));
    s.says_one(180, "b", &[], None);
    assert_ne!(ringing.to_tag(), progress.to_tag());
    assert_eq!(ringing.to_tag(), again.to_tag());
    for m in [&ringing, &progress] {
        let contact = m.first(HeaderId::Contact).expect("a dialog has one");
        assert!(contact.contains(m.to_tag().expect("tagged")), "{contact}");
        assert!(contact.contains("@198.18.0.1:5060"), "rule E: {contact}");
    }
    // From the caller: by our tag, to the right remote target and route.
    let to_b = s.asks(&Method::Info, &progress, &[], None);
    assert_eq!((methods(&to_b), uri_of(&to_b[0]), to_b[0].0.to_tag()), (vec!["INFO"], "sip:b@198.18.20.9:5060", Some("b")));
    assert_eq!(to_b[0].0.first(HeaderId::Route), Some("<sip:198.18.20.9;lr>"));
    let to_a = s.asks(&Method::Info, &ringing, &[], None);
    assert_eq!(
        (uri_of(&to_a[0]), to_a[0].0.to_tag(), to_a[0].0.first(HeaderId::Route)),
        ("sip:a@198.18.20.9:5060", Some("a"), None)
    );
    assert_eq!(to_a[0].0.cseq(), to_b[0].0.cseq(), "each dialog counts for itself");
    // Their answers, the later one first.
    let got = s.called_answers(&to_a[0], 200, None);
    assert_eq!((statuses(&got), got[0].to_tag()), (vec![200], ringing.to_tag()));
    let got = s.called_answers(&to_b[0], 200, None);
    assert_eq!((statuses(&got), got[0].to_tag()), (vec![200], progress.to_tag()));
    // From the called side: by its tag.
    for (tag, dialog) in [("a", &ringing), ("b", &progress)] {
        let got = s.called_asks(&Method::Info, tag, None);
        assert_eq!((methods(&got), got[0].0.from_tag()), (vec!["INFO"], dialog.to_tag()));
        s.caller_answers(&got[0], 200, None);
    }
    assert!(s.called_asks(&Method::Info, "c", None).is_empty(), "no such dialog");
    // The answer is B's.
    let ok = s.says_one(200, "b", &[], Some(20));
    assert_eq!(ok.to_tag(), progress.to_tag());
    assert_eq!(origin(&ok), origin(&progress), "the same description again");
    let got: Vec<_> = s.psap_got().into_iter().filter(|(m, _)| m.is_request()).collect();
    assert_eq!((methods(&got), uri_of(&got[0]), got[0].0.to_tag()), (vec!["ACK"], "sip:b@198.18.20.9:5060", Some("b")));
    assert!(s.acks(&ok, None).is_empty(), "ours went already");
    // A lost early dialog is over; the answered one goes on.
    assert!(s.asks(&Method::Info, &ringing, &[], None).is_empty());
    assert_eq!(statuses(&s.caller_got()), [481]);
    let bye = s.asks(&Method::Bye, &ok, &[], None);
    assert_eq!((methods(&bye), bye[0].0.to_tag()), (vec!["BYE"], Some("b")));
    s.calm();
}

/// RFC 3261 §13.2.2.4: a second 2xx is acknowledged and ended, above the CSeq numbers that its dialog has seen.
#[test]
fn a_second_2xx_is_acknowledged_and_ended() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(180, "a", &[], None);
    s.says_one(180, "b", &[], None);
    let info = s.asks(&Method::Info, &a, &[], None);
    s.called_answers(&info[0], 200, None);
    s.says_one(200, "b", &[], Some(20));
    s.psap_got();
    assert!(s.says(200, "a", &[], Some(10)).is_empty(), "the caller has its answer");
    let got = s.psap_got();
    assert_eq!(methods(&got), ["ACK", "BYE"]);
    assert!(got.iter().all(|(m, _)| m.to_tag() == Some("a") && m.request_uri() == Some("sip:a@198.18.20.9:5060")));
    assert!(got[1].0.cseq() > info[0].0.cseq());
    // A third, of a fork that never rang; and the second again.
    assert!(s.says(200, "c", &[], Some(30)).is_empty());
    assert_eq!(methods(&s.psap_got()), ["ACK", "BYE"]);
    assert!(s.says(200, "a", &[], Some(10)).is_empty());
    let again: Vec<_> = s.psap_got().into_iter().filter(|(m, _)| m.to_tag() == Some("a")).collect();
    assert_eq!(methods(&again), ["ACK"]);
    s.calm();
}

/// More tags than there are tokens: what is too much does not ring, and is answered all the same.
#[test]
fn more_early_dialogs_than_can_be_told_apart() {
    let mut s = Rig::calls(&[], Some(7));
    let mut tags = std::collections::BTreeSet::new();
    for n in 0..32 {
        let ringing = s.says_one(180, &format!("f{n}"), &[], None);
        assert!(tags.insert(ringing.to_tag().expect("tagged").to_owned()), "{n}");
    }
    assert!(s.says(180, "f32", &[], None).is_empty());
    assert_eq!(s.w.counted(Counter::Dropped(DropReason::Forks)), 1);
    let ok = s.says_one(200, "f33", &[], Some(20));
    let bye = s.asks(&Method::Bye, &ok, &[], None);
    assert_eq!((methods(&bye).pop(), bye.last().and_then(|b| b.0.to_tag())), (Some("BYE"), Some("f33")));
    s.calm();
}

/// The newest description has the media, until one is answered: then that one's.
#[test]
fn media_follow_the_last_description_and_then_the_answer() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(183, "a", &[], Some(10));
    let b = s.says_one(183, "b", &[], Some(20));
    assert!(anchored(&a, "198.18.0.1") && anchored(&b, "198.18.0.1"));
    assert_ne!(origin(&a).0, origin(&b).0, "another dialog, another session");
    assert_eq!(s.w.remotes.last(), Some(&(Side::Callee, Some(20))));
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!((origin(&ok), made_by(&ok)), (origin(&a), Some(10)));
    assert_eq!(s.w.remotes.last(), Some(&(Side::Callee, Some(10))));
    s.calm();
}

/// RFC 3261 §15: the caller may give up one early dialog.
#[test]
fn a_bye_in_one_of_two_early_dialogs_ends_that_one() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(180, "a", &[], None);
    let b = s.says_one(180, "b", &[], None);
    let got = s.asks(&Method::Bye, &a, &[], None);
    assert_eq!((methods(&got), got[0].0.to_tag()), (vec!["BYE"], Some("a")));
    assert_eq!(statuses(&s.caller_got()), [200]);
    assert!(s.says(183, "a", &[], None).is_empty());
    assert!(s.says(200, "a", &[], Some(10)).is_empty());
    let got: Vec<_> = s.psap_got().into_iter().filter(|(m, _)| m.is_request()).collect();
    assert_eq!(methods(&got), ["ACK", "BYE"], "the call goes on to ring");
    let ok = s.says_one(200, "b", &[], Some(20));
    assert_eq!(ok.to_tag(), b.to_tag());
    // The last one's BYE would end the call.
    s.calm();
}

/// The same with one: the INVITE goes with it.
#[test]
fn a_bye_in_the_only_early_dialog_ends_the_call() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(180, "a", &[], None);
    let got = s.asks(&Method::Bye, &a, &[], None);
    assert_eq!(methods(&got), ["CANCEL"]);
    let mut got = statuses(&s.caller_got());
    got.sort_unstable();
    assert_eq!(got, [200, 487]);
    s.calm();
}

/// RFC 3263 §4.3: the next target's early dialogs are new ones; those of the first are over.
#[test]
fn early_dialogs_of_a_target_that_failed_are_over() {
    let mut s = Rig::dialling("112");
    s.w.reconfigure(|c| {
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        let again = c.trunks[1].targets[0].clone();
        c.trunks[1].targets.push(again);
    });
    let mut s = s.dials(&[("Supported", "100rel")], Some(7));
    let first = s.says_one(183, "a", &[RELIABLE, ("RSeq", "50")], Some(10));
    assert!(s.says(503, "a", &[], None).is_empty());
    s.asked = Some(s.psap.request(&s.w, &Method::Invite));
    let second = s.says_one(183, "a", &[RELIABLE, ("RSeq", "9")], Some(20));
    assert_ne!(first.to_tag(), second.to_tag());
    assert_eq!(second.first(HeaderId::RSeq), Some("9"));
    assert!(s.pracks(&first, None).is_empty());
    assert_eq!(statuses(&s.caller_got()), [481]);
    let prack = s.pracks(&second, None);
    assert_eq!(methods(&prack), ["PRACK"]);
    s.calm();
}

/// RFC 6228 §4.
#[test]
fn ac_199_reaches_only_who_understands_it() {
    let mut s = Rig::calls(&[("Supported", "199")], Some(7));
    let a = s.says_one(180, "a", &[], None);
    let gone = s.says_one(199, "a", &[], None);
    assert_eq!(gone.to_tag(), a.to_tag());
    let mut s = Rig::calls(&[], Some(7));
    s.says_one(180, "a", &[], None);
    assert!(s.says(199, "a", &[RELIABLE, ("RSeq", "1")], None).is_empty());
    assert_eq!(methods(&s.psap_got()), ["PRACK"], "nobody else would");
    s.calm();
}

/// Broken against RFC 3261 §17.1.1.3, and common: the ACK for a 2xx has the branch of its INVITE.
#[test]
fn an_ack_with_the_branch_of_the_invite() {
    let mut s = Rig::calls(&[], Some(7));
    let ok = s.says_one(200, "a", &[], Some(10));
    let (mut ack, to) = s.caller.within(&Method::Ack, &ok, 1);
    ack.set(HeaderId::Via, ok.first(HeaderId::Via).expect("ours comes back"));
    s.caller.put(&mut s.w, &mut ack, to, &[]);
    s.advance(40_000);
    assert!(s.caller_got().is_empty(), "neither is the 200 repeated nor the call ended");
    s.calm();
}

/// AC-52: of two that ring, each is known by its own Contact, whichever of them spoke last.
#[test]
fn ac_52_a_request_of_the_early_dialog_that_is_not_in_focus() {
    const OTHER: &str = "198.18.33.1:5060";
    let mut s = Rig::calls(&[], Some(7));
    let (invite, from) = s.asked.clone().expect("it was called");
    let mut ringing = invite.response(180, None);
    ringing.set(HeaderId::To, format!("{};tag=b", invite.to()));
    ringing.push(HeaderId::Contact, format!("<sip:b@{OTHER}>"));
    s.psap.put(&mut s.w, &mut ringing, from, &[]);
    s.advance(20);
    s.caller_got();
    s.says_one(183, "a", &[], None);
    let psap = std::mem::replace(&mut s.psap, Far::at(OTHER));
    for (address, heard) in [(OTHER, true), ("198.18.33.2:5060", false)] {
        s.psap = Far::at(address);
        assert_eq!(!s.called_asks(&Method::Info, "b", None).is_empty(), heard, "{address}");
    }
    s.psap = psap;
    s.calm();
}
