//! Reliable provisional responses (RFC 3262), on both sides or on one, and CANCEL amid them.

use sbc_core::io::MisrouteAction;
use sbc_core::policy::PrackPolicy;

use super::*;

/// RFC 3262 end to end: the caller's PRACK acknowledges the called side's response, with its own numbers; AC-18.
#[test]
fn ac_18_prack_at_another_node() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    assert!(s.asked.as_ref().is_some_and(|i| i.0.first(HeaderId::Supported) == Some("100rel")));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "50")], Some(10));
    assert_eq!((progress.first(HeaderId::Require), progress.first(HeaderId::RSeq)), (Some("100rel"), Some("50")));
    // Not acknowledged: repeated by us, at T1.
    assert!(s.says(183, "a", &[RELIABLE, ("RSeq", "50")], Some(10)).is_empty(), "taken once");
    s.advance(1600);
    assert_eq!(statuses(&s.caller_got()), [183, 183], "after 0.5 s and 1 s more");
    s.route_to(1);
    let rack = ("RAck", "50 1 INVITE");
    let anycast = s.w.anycast;
    let prack = s.asks_at(anycast, &Method::Prack, &progress, &[rack], None);
    let cseq = s.asked.as_ref().expect("called").0.cseq();
    assert_eq!(methods(&prack), ["PRACK"]);
    assert_eq!(prack[0].0.first(HeaderId::RAck), Some(&*format!("50 {cseq} INVITE")));
    assert_eq!(s.w.counted(Counter::Misrouted("PRACK", MisrouteAction::Relay)), 1);
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    let sent = s.w.sent.as_ref().expect("recorded").iter().rev().find(|p| p.to == s.caller.addr).expect("the answer");
    assert_eq!((sent.node, sent.from), (Some(1), anycast), "out through B, from where it was asked");
    s.advance(40_000);
    assert!(s.caller_got().is_empty(), "the reliable response stops");
    // The next number, and PRACKs that match nothing (§3).
    let next = s.says_one(180, "a", &[RELIABLE, ("RSeq", "51")], None);
    for rack in ["50 1 INVITE", "52 1 INVITE", "51 2 INVITE", "51 1 UPDATE"] {
        assert!(s.asks(&Method::Prack, &next, &[("RAck", rack)], None).is_empty(), "{rack}");
        assert_eq!(statuses(&s.caller_got()), [481], "{rack}");
    }
    assert!(s.asks(&Method::Prack, &next, &[("RAck", "51 INVITE")], None).is_empty());
    assert_eq!(statuses(&s.caller_got()), [400]);
    let prack = s.pracks(&next, None);
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    // A gap is neither passed on nor acknowledged (§4).
    assert!(s.says(180, "a", &[RELIABLE, ("RSeq", "53")], None).is_empty());
    assert!(s.psap_got().is_empty());
    assert_eq!(s.says_one(180, "a", &[RELIABLE, ("RSeq", "52")], None).first(HeaderId::RSeq), Some("52"));
    s.calm();
}

/// Each early dialog has numbers of its own, and its PRACK goes to its far end.
#[test]
fn pracks_of_two_early_dialogs() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let a = s.says_one(183, "a", &[RELIABLE, ("RSeq", "1")], Some(10));
    let b = s.says_one(183, "b", &[RELIABLE, ("RSeq", "1")], Some(20));
    let to_b = s.pracks(&b, None);
    assert_eq!((methods(&to_b), to_b[0].0.to_tag()), (vec!["PRACK"], Some("b")));
    let to_a = s.pracks(&a, None);
    assert_eq!((methods(&to_a), to_a[0].0.to_tag()), (vec!["PRACK"], Some("a")));
    assert_eq!(s.called_answers(&to_b[0], 200, None)[0].to_tag(), b.to_tag());
    assert_eq!(s.called_answers(&to_a[0], 200, None)[0].to_tag(), a.to_tag());
    assert_eq!(s.says_one(200, "a", &[], None).to_tag(), a.to_tag());
    s.calm();
}

/// The called side is reliable, the caller cannot: we acknowledge.
#[test]
fn reliable_only_on_the_called_side() {
    let mut s = Rig::calls(&[], Some(7));
    assert!(s.asked.as_ref().is_some_and(|i| i.0.first(HeaderId::Supported) == Some("100rel")), "we can");
    let cseq = s.asked.as_ref().expect("called").0.cseq();
    let progress = s.says_one(183, "a", &[("Require", "100rel, precondition"), ("RSeq", "7")], Some(10));
    assert_eq!((progress.first(HeaderId::Require), progress.first(HeaderId::RSeq)), (Some("precondition"), None));
    let prack = s.psap_got();
    assert_eq!((methods(&prack), prack[0].0.first(HeaderId::RAck)), (vec!["PRACK"], Some(&*format!("7 {cseq} INVITE"))));
    assert_eq!((prack[0].0.to_tag(), prack[0].0.cseq()), (Some("a"), cseq + 1));
    assert!(s.called_answers(&prack[0], 200, None).is_empty());
    assert!(s.says(183, "a", &[RELIABLE, ("RSeq", "7")], Some(10)).is_empty(), "again");
    assert!(s.psap_got().is_empty(), "acknowledged once");
    s.says_one(180, "a", &[RELIABLE, ("RSeq", "8")], None);
    assert_eq!(methods(&s.psap_got()), ["PRACK"]);
    // To the called side all is agreed; the caller has no answer yet, and can take no offer before it has.
    assert!(s.called_asks(&Method::Update, "a", Some(11)).is_empty());
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    // §3: the description was in the reliable response, and is in the 2xx again or not: the caller needs it.
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!(made_by(&ok), Some(10));
    s.calm();
}

/// Unless its trunk is set to what the caller says.
#[test]
fn a_trunk_that_is_not_offered_100rel() {
    for (fields, expected) in
        [(&[][..], None), (&[("Supported", "100rel")], Some("100rel")), (&[("Require", "100rel")], Some("100rel"))]
    {
        let mut s = Rig::dialling("112");
        s.w.reconfigure(|c| {
            c.trunks[1].targets[0].host.host = "198.18.20.9".into();
            c.trunks[1].prack = PrackPolicy::Pass;
        });
        let s = s.dials(fields, Some(7));
        let invite = &s.asked.as_ref().expect("called").0;
        assert_eq!(invite.values(HeaderId::Supported).find(|tag| *tag != "timer"), expected);
    }
}

/// A called side that does not repeat its answer, which the caller had in an unreliable response only.
#[test]
fn a_2xx_without_description_gets_that_of_the_reliable_response() {
    let mut s = Rig::calls(&[], Some(7));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "7")], Some(10));
    let ok = s.says_one(200, "a", &[], None);
    assert_eq!((made_by(&ok), origin(&ok)), (Some(10), origin(&progress)));
    s.calm();
}

/// The caller insists, the called side cannot: we number, repeat, and hold the answer until PRACK (§3).
#[test]
fn reliable_only_on_the_callers_side() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    let invite = s.asked.clone().expect("called").0;
    assert_eq!((invite.first(HeaderId::Require), invite.first(HeaderId::Supported)), (None, Some("100rel")));
    let progress = s.says_one(183, "a", &[], Some(10));
    assert_eq!(progress.first(HeaderId::Require), Some("100rel"));
    let first: u32 = progress.number(HeaderId::RSeq).expect("a number");
    assert!((1..=0x7fff_ffff).contains(&first));
    // One at a time.
    assert!(s.says(180, "a", &[], None).is_empty());
    // The answer waits, for the description in the first is not acknowledged.
    assert!(s.says(200, "a", &[], Some(10)).is_empty());
    assert_eq!(methods(&s.pracks(&progress, None)), ["ACK"], "of the PRACK the called side knows nothing");
    let got = s.caller_got();
    assert_eq!(
        got.iter().map(|m| (m.status(), m.method().as_str())).collect::<Vec<_>>(),
        [(Some(200), "PRACK"), (Some(200), "INVITE")]
    );
    assert_eq!((made_by(&got[1]), origin(&got[1])), (Some(10), origin(&progress)));
    s.calm();
}

/// RFC 3262 §3: nobody acknowledges. Any call but an emergency call is refused.
#[test]
fn without_prack_a_call_is_refused() {
    let mut s = Rig::dialling("911").dials(&[("Require", "100rel")], Some(7));
    s.says_one(183, "a", &[], None);
    s.advance(31_900);
    assert_eq!(statuses(&s.caller_got()), [183; 6], "0.5, 1, 2, 4, 8, 16 s apart");
    s.advance(200);
    assert_eq!(statuses(&s.caller_got()), [504]);
    assert_eq!(methods(&s.psap_got()), ["CANCEL"]);
    s.calm();
}

/// The same with an emergency call: it goes on.
#[test]
fn without_prack_an_emergency_call_goes_on() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    s.says_one(183, "a", &[], Some(10));
    assert!(s.says(200, "a", &[], Some(10)).is_empty(), "held");
    s.advance(15_800);
    assert_eq!(statuses(&s.caller_got()), [183; 5]);
    s.advance(300);
    let got = s.caller_got();
    assert_eq!((statuses(&got), made_by(&got[0])), (vec![200], Some(10)));
    // Where the called side waits for the PRACK too, it gets ours before it gives up.
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    s.advance(15_900);
    assert!(s.psap_got().is_empty());
    s.advance(300);
    assert_eq!(methods(&s.psap_got()), ["PRACK"]);
    let ok = s.says(200, "a", &[], None).pop().expect("the answer");
    assert_eq!(ok.status(), Some(200));
    s.calm();
}

/// RFC 3262 §3: a 2xx waits only for a description; what waits for its turn is left out; a late PRACK still has its answer.
#[test]
fn a_2xx_does_not_wait_for_a_prack_of_a_response_without_description() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let ringing = s.says_one(180, "a", &[RELIABLE, ("RSeq", "5")], None);
    assert!(s.says(183, "a", &[RELIABLE, ("RSeq", "6")], None).is_empty(), "one at a time");
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    let prack = s.pracks(&ringing, None);
    assert_eq!(methods(&prack), ["PRACK"]);
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    s.advance(5000);
    assert!(s.caller_got().is_empty(), "nothing is repeated");
    s.calm();
}

/// CANCEL amid all this: what is open is answered, repeated no more, and a 2xx that was held is ended.
#[test]
fn cancel_before_the_prack() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[], Some(10));
    assert!(s.says(200, "a", &[], Some(10)).is_empty(), "held");
    s.cancels();
    let mut got: Vec<_> = s.caller_got().iter().map(|m| (m.method().as_str().to_owned(), m.status())).collect();
    got.sort();
    assert_eq!(got, [("CANCEL".into(), Some(200)), ("INVITE".into(), Some(487))]);
    assert_eq!(methods(&s.psap_got()), ["ACK", "BYE"]);
    assert!(s.pracks(&progress, None).is_empty());
    assert!(statuses(&s.caller_got()).contains(&481));
    s.calm();
}

/// CANCEL while a PRACK is on its way.
#[test]
fn cancel_amid_a_prack() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    assert_eq!(methods(&s.pracks(&progress, None)), ["PRACK"]);
    s.cancels();
    let mut got: Vec<_> = s.caller_got().iter().map(|m| (m.method().as_str().to_owned(), m.status())).collect();
    got.sort();
    assert_eq!(got, [("CANCEL".into(), Some(200)), ("INVITE".into(), Some(487)), ("PRACK".into(), Some(481))]);
    assert_eq!(methods(&s.psap_got()), ["CANCEL"]);
    s.calm();
}

/// RFC 3261 §13.2.1, RFC 6337 §2.1: a description that is said again after the answer is no offer; preconditions (RFC 3312) go on.
#[test]
fn a_description_that_is_said_again() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let mut last = None;
    for (status, rseq) in [(183, "7"), (180, "8")] {
        let response = s.says_one(status, "a", &[RELIABLE, ("RSeq", rseq)], Some(10));
        let prack = s.pracks(&response, None);
        assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
        last = Some(response);
    }
    let ringing = last.expect("two of them");
    let update = s.asks(&Method::Update, &ringing, &[], Some(8));
    assert_eq!((methods(&update), made_by(&update[0].0)), (vec!["UPDATE"], Some(8)));
    let got = s.called_answers(&update[0], 200, Some(11));
    assert_eq!((statuses(&got), made_by(&got[0])), (vec![200], Some(11)));
    let update = s.called_asks(&Method::Update, "a", Some(12));
    assert_eq!((methods(&update), made_by(&update[0].0)), (vec!["UPDATE"], Some(12)));
    assert_eq!(statuses(&s.caller_answers(&update[0], 200, Some(9))), [200]);
    let ok = s.says_one(200, "a", &[], None);
    assert!(s.acks(&ok, None).iter().all(|m| m.body().is_empty()));
    s.calm();
}

/// RFC 3372: the 2xx of a gateway has ISUP alone, and the caller never had the answer reliably.
#[test]
fn the_answer_comes_before_another_body() {
    let mut s = Rig::calls(&[], Some(7));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "7")], Some(10));
    let (invite, from) = s.asked.clone().expect("it was called");
    let mut draft = invite.response(200, None);
    draft.set(HeaderId::To, format!("{};tag=a", invite.to()));
    draft.push(HeaderId::Contact, "<sip:a@198.18.20.9:5060>");
    draft.set_body(Some("application/isup;version=itu-t92+"), Bytes::from_static(&[9, 0, 1]));
    s.psap.put(&mut s.w, &mut draft, from, &[]);
    s.advance(20);
    let got = s.caller_got();
    assert_eq!((statuses(&got), made_by(&got[0]), origin(&got[0])), (vec![200], Some(10), origin(&progress)));
    s.calm();
}

/// An early dialog that a response of ours made, or one of a far end without a tag: the caller's requests are of it.
#[test]
fn requests_within_an_early_dialog_of_ours() {
    let untagged = |s: &mut Rig| {
        let (invite, from) = s.asked.clone().expect("it was called");
        let mut ringing = invite.response(180, None);
        s.psap.put(&mut s.w, &mut ringing, from, &[]);
        s.advance(20);
        s.caller_got().pop().expect("a 180 with a tag of ours")
    };
    let mut s = Rig::calls(&[], Some(7));
    let mut ringing = untagged(&mut s);
    if ringing.first(HeaderId::Contact).is_none() {
        // RFC 3261 §12.1.1 wants one; where there is none, the caller has the address that it called.
        let mut draft = ringing.response(180, None);
        draft.push(HeaderId::Contact, format!("<sip:x@{}>", s.w.nodes[0].unicast));
        draft.set(HeaderId::To, ringing.to());
        ringing = Message::parse(draft.encode().expect("well formed")).expect("well formed");
    }
    assert!(s.asks(&Method::Info, &ringing, &[], None).is_empty());
    let got = s.caller_got();
    assert_eq!(statuses(&got), [500], "not yet, and the call lives");
    assert!(got[0].number(HeaderId::RetryAfter).is_some());
    let cancel = s.asks(&Method::Bye, &ringing, &[], None);
    assert_eq!(methods(&cancel), ["CANCEL"]);
    let mut told = statuses(&s.caller_got());
    told.sort_unstable();
    assert_eq!(told, [200, 487], "RFC 3261 §15: the BYE ends it");
}

/// The caller's PRACK for a response that is reliable on its side alone: we answer it.
#[track_caller]
fn acknowledged(s: &mut Rig, response: &Message) {
    assert!(s.pracks(response, None).is_empty(), "the called side knows of no such response");
    assert_eq!(statuses(&s.caller_got()), [200]);
}

/// RFC 3261 §13.3.1.1 with RFC 3262 §3: of two forks the one that spoke last is over, and the other one rings. A caller that takes
/// reliable responses alone hears of it each minute, in the dialog that is left and by its numbers.
#[test]
fn the_minutes_word_comes_in_the_dialog_that_is_left() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    let rings = s.says_one(180, "a", &[], None);
    acknowledged(&mut s, &rings);
    let last = s.says_one(183, "b", &[], None);
    acknowledged(&mut s, &last);
    // RFC 3261 §15: the caller may end an early dialog.
    let bye = s.asks(&Method::Bye, &last, &[], None);
    assert_eq!((methods(&bye), bye[0].0.to_tag()), (vec!["BYE"], Some("b")));
    assert_eq!(statuses(&s.called_answers(&bye[0], 200, None)), [200]);
    let mut number: u32 = rings.first(HeaderId::RSeq).and_then(|n| n.parse().ok()).expect("a number");
    for minute in 0..2 {
        s.advance(59_700);
        assert!(s.caller_got().is_empty(), "minute {minute}: not before its time");
        s.advance(280);
        let word = s.caller_got();
        assert_eq!(statuses(&word), [183], "minute {minute}");
        let (word, tag) = (&word[0], rings.to_tag());
        number += 1;
        assert_eq!((word.first(HeaderId::Require), word.to_tag()), (Some("100rel"), tag), "minute {minute}");
        assert_eq!(word.first(HeaderId::RSeq), Some(&*number.to_string()), "minute {minute}");
        assert!(word.body().is_empty());
        acknowledged(&mut s, word);
    }
    // What it was told of is the call that is answered.
    assert_eq!(s.says_one(200, "a", &[], Some(10)).to_tag(), rings.to_tag());
    s.calm();
}

/// No word is said while the response before it waits for its PRACK: its copies are word enough.
#[test]
fn the_minutes_word_waits_for_the_prack_of_the_one_before() {
    let mut s = Rig::dialling("110").dials(&[("Require", "100rel")], Some(7));
    let rings = s.says_one(180, "a", &[], None);
    s.advance(30_500);
    let copies = s.caller_got();
    assert!(copies.iter().all(|m| m.raw() == rings.raw()), "copies alone");
    let last = s.says_one(183, "b", &[], None);
    acknowledged(&mut s, &last);
    let bye = s.asks(&Method::Bye, &last, &[], None);
    s.called_answers(&bye[0], 200, None);
    // RFC 3262 §3: 64 x T1 without a PRACK.
    s.advance(3000);
    let told = s.caller_got();
    assert!(told.iter().filter_map(Message::status).all(|status| status == 180 || status >= 500), "{told:#?}");
    s.calm();
}
