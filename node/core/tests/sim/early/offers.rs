//! Offers and answers before the 2xx, and UPDATE (RFC 3262 §5, RFC 3311, RFC 6337).

use super::*;
use sbc_core::io::MisrouteAction;

/// RFC 3262 §5: a new offer in PRACK, its answer in the 200; `o=` goes on in each dialog.
#[test]
fn an_offer_in_prack() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let invite = s.asked.clone().expect("called").0;
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    let prack = s.pracks(&progress, Some(8));
    assert!(anchored(&prack[0].0, "198.18.1.1"));
    assert_eq!(made_by(&prack[0].0), Some(8));
    assert_eq!(origin(&prack[0].0), (origin(&invite).0, origin(&invite).1 + 1), "RFC 3264 §8");
    // Until it is answered neither side may offer.
    assert!(s.called_asks(&Method::Update, "a", Some(11)).iter().all(|(m, _)| !m.is_request()));
    let refused = s.psap_got().pop().expect("an answer").0;
    assert_eq!(refused.status(), Some(491));
    let got = s.called_answers(&prack[0], 200, Some(12));
    assert_eq!((statuses(&got), made_by(&got[0])), (vec![200], Some(12)));
    assert!(anchored(&got[0], "198.18.0.1"));
    assert_eq!(origin(&got[0]), (origin(&progress).0, origin(&progress).1 + 1));
    let ok = s.says_one(200, "a", &[], None);
    assert!(ok.body().is_empty(), "all is agreed");
    s.calm();
}

/// To a response that only we made reliable a PRACK can carry no offer: the called side is not asked.
#[test]
fn an_offer_in_the_prack_for_our_own_response_is_refused() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[], Some(10));
    assert!(s.pracks(&progress, Some(8)).is_empty());
    assert_eq!(statuses(&s.caller_got()), [488]);
    s.advance(3000);
    assert!(s.caller_got().is_empty(), "it acknowledges all the same");
    s.calm();
}

/// RFC 3262 §5, RFC 6337 §2: the offer in the first reliable response, the answer in its PRACK.
#[test]
fn a_delayed_offer_with_100rel() {
    let mut s = Rig::calls(&[("Supported", "100rel")], None);
    let offer = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    assert!(anchored(&offer, "198.18.0.1"));
    let prack = s.pracks(&offer, Some(7));
    assert!(anchored(&prack[0].0, "198.18.1.1"));
    assert_eq!(made_by(&prack[0].0), Some(7));
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    // UPDATE from either side, now that nothing is open.
    let update = s.called_asks(&Method::Update, "a", Some(11));
    assert_eq!((methods(&update), made_by(&update[0].0)), (vec!["UPDATE"], Some(11)));
    assert_eq!(origin(&update[0].0), (origin(&offer).0, origin(&offer).1 + 1));
    let answer = s.caller_answers(&update[0], 200, Some(9));
    assert_eq!((made_by(&answer[0]), origin(&answer[0])), (Some(9), (origin(&prack[0].0).0, origin(&prack[0].0).1 + 1)));
    let ok = s.says_one(200, "a", &[], None);
    let got = s.psap_got();
    assert_eq!(methods(&got), ["ACK"], "at once: the caller's ACK carries nothing");
    assert!(got[0].0.body().is_empty());
    assert!(s.acks(&ok, None).is_empty());
    s.calm();
}

/// RFC 3261 §13.2.1 without 100rel: a description in an unreliable response is no offer, that in the 200 is.
#[test]
fn a_delayed_offer_without_100rel() {
    let mut s = Rig::calls(&[], None);
    assert!(
        s.asked.as_ref().is_some_and(|i| i.0.values(HeaderId::Supported).all(|tag| tag != "100rel")),
        "an offer in a reliable one is the caller's"
    );
    let early = s.says_one(183, "a", &[], Some(10));
    assert!(anchored(&early, "198.18.0.1"));
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!(origin(&ok), origin(&early));
    assert!(s.psap_got().is_empty(), "its ACK waits for the answer");
    let got = s.acks(&ok, Some(7));
    assert_eq!((got[0].method().as_str(), made_by(&got[0])), ("ACK", Some(7)));
    assert!(anchored(&got[0], "198.18.1.1"));
    // A caller that requires 100rel does not get that description made into an offer by us.
    let mut s = Rig::calls(&[("Require", "100rel")], None);
    let early = s.says_one(183, "a", &[], Some(10));
    assert!(early.first(HeaderId::RSeq).is_some() && early.body().is_empty());
    assert!(s.pracks(&early, None).is_empty());
    s.caller_got();
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!((made_by(&ok), made_by(&s.acks(&ok, Some(7))[0])), (Some(10), Some(7)));
    s.calm();
}

/// More m-lines in an early offer than there are ports for: the response waits for them, and each line is anchored.
#[test]
fn a_delayed_offer_of_two_streams_is_anchored() {
    let mut s = Rig::calls(&[("Supported", "100rel")], None);
    let (invite, from) = s.asked.clone().expect("called");
    let mut draft = invite.response(183, None);
    draft.set(HeaderId::To, format!("{};tag=a", invite.to()));
    draft.push(HeaderId::Contact, "<sip:a@198.18.20.9:5060>");
    let body = [&sdp_of(10)[..], b"m=video 30 RTP/AVP 96\r\n"].concat();
    draft.set_body(Some("application/sdp"), Bytes::from(body));
    s.psap.put(&mut s.w, &mut draft, from, &[RELIABLE, ("RSeq", "5")]);
    s.advance(50);
    let got = s.caller_got();
    assert_eq!(statuses(&got), [183]);
    let ports: Vec<String> = text(&got[0]).lines().filter(|l| l.starts_with("m=")).map(str::to_owned).collect();
    assert!(ports.len() == 2 && !ports[0].contains(" 10 ") && !ports[1].contains(" 30 "), "{ports:?}");
    assert_eq!(methods(&s.pracks(&got[0], Some(7))), ["PRACK"]);
    s.calm();
}

/// RFC 3311 §5.2, before the answer: UPDATEs that cross, and that overlap.
#[test]
fn updates_before_the_answer() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    // The INVITE's own offer is open in an early dialog that has not answered it.
    let ringing = s.says_one(180, "a", &[], None);
    assert!(s.asks(&Method::Update, &ringing, &[], Some(8)).is_empty());
    let got = s.caller_got();
    assert_eq!(statuses(&got), [500]);
    assert!(got[0].number(HeaderId::RetryAfter).is_some_and(|n| n <= 10));
    assert!(s.called_asks(&Method::Update, "a", Some(11)).is_empty());
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    let prack = s.pracks(&progress, None);
    s.called_answers(&prack[0], 200, None);
    // Crossing.
    let update = s.asks(&Method::Update, &progress, &[], Some(8));
    assert_eq!((methods(&update), made_by(&update[0].0)), (vec!["UPDATE"], Some(8)));
    assert!(update[0].0.first(HeaderId::Contact).is_some_and(|c| c.contains("@198.18.1.1:5060")));
    assert!(s.called_asks(&Method::Update, "a", Some(11)).is_empty());
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    // Overlapping, with an offer or without.
    for body in [Some(9), None] {
        assert!(s.asks(&Method::Update, &progress, &[], body).is_empty());
        let got = s.caller_got();
        assert_eq!(statuses(&got), [500]);
        assert!(got[0].number(HeaderId::RetryAfter).is_some_and(|n| n <= 10));
    }
    let got = s.called_answers(&update[0], 200, Some(12));
    assert_eq!((statuses(&got), made_by(&got[0])), (vec![200], Some(12)));
    assert!(got[0].first(HeaderId::Contact).is_some_and(|c| c.contains("@198.18.0.1:5060")), "rule K");
    // Free again, the other way; refused, and free again.
    for _ in 0..2 {
        let update = s.called_asks(&Method::Update, "a", Some(11));
        assert_eq!(methods(&update), ["UPDATE"]);
        assert_eq!(s.caller_answers(&update[0], 488, None).iter().map(Message::status).collect::<Vec<_>>(), [Some(488)]);
    }
    // Another early dialog has its own.
    let other = s.says_one(183, "b", &[RELIABLE, ("RSeq", "5")], Some(20));
    let prack = s.pracks(&other, None);
    s.called_answers(&prack[0], 200, None);
    let (of_a, of_b) = (s.asks(&Method::Update, &progress, &[], Some(8)), s.asks(&Method::Update, &other, &[], Some(8)));
    assert_eq!((of_a[0].0.to_tag(), of_b[0].0.to_tag()), (Some("a"), Some("b")));
    // A's answer ends B: its UPDATE will have no other.
    assert_eq!(s.called_answers(&of_a[0], 200, Some(10))[0].to_tag(), progress.to_tag());
    let got = s.says(200, "a", &[], None);
    let mut got: Vec<_> =
        got.iter().map(|m| (m.method().as_str().to_owned(), m.status(), m.to_tag() == progress.to_tag())).collect();
    got.sort();
    assert_eq!(got, [("INVITE".into(), Some(200), true), ("UPDATE".into(), Some(481), false)]);
    s.calm();
}

/// The same after the answer.
#[test]
fn updates_after_the_answer() {
    let mut s = Rig::calls(&[], Some(7));
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    let update = s.asks(&Method::Update, &ok, &[], Some(8));
    assert_eq!(methods(&update[update.len() - 1..]), ["UPDATE"]);
    assert!(s.called_asks(&Method::Update, "a", Some(11)).is_empty());
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    // A re-INVITE is a request for the same.
    assert!(s.called_asks(&Method::Invite, "a", Some(11)).is_empty());
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    // Without an offer an UPDATE is in nobody's way.
    let probe = s.called_asks(&Method::Update, "a", None);
    assert_eq!(methods(&probe), ["UPDATE"]);
    s.caller_answers(&probe[0], 200, None);
    let update = update.last().expect("sent").clone();
    assert_eq!(statuses(&s.called_answers(&update, 200, Some(12))), [200]);
    let update = s.called_asks(&Method::Update, "a", Some(11));
    assert_eq!(methods(&update), ["UPDATE"]);
    assert!(s.asks(&Method::Update, &ok, &[], Some(8)).iter().all(|(m, _)| m.method() != &Method::Update));
    assert_eq!(statuses(&s.caller_got()), [491]);
    s.caller_answers(&update[0], 200, Some(9));
    // UPDATE while a re-INVITE is open: glare for the one that was asked, out of turn for the one that asks (RFC 3311 §5.2).
    let (invite, _) = s.asks(&Method::Invite, &ok, &[], Some(8)).pop().expect("it goes on");
    assert_eq!(invite.method(), &Method::Invite);
    assert!(s.called_asks(&Method::Update, "a", Some(11)).iter().all(|(m, _)| !m.is_request()));
    assert_eq!(s.psap_got().pop().and_then(|m| m.0.status()), Some(491));
    assert!(s.asks(&Method::Update, &ok, &[], Some(8)).iter().all(|(m, _)| m.method() != &Method::Update));
    assert!(statuses(&s.caller_got()).contains(&500));
    s.calm();
}

/// AC-49: 100rel, preconditions (RFC 3312) and UPDATE, while the route flips: all of it is the owner's.
#[test]
fn ac_49_flip_amid_preconditions() {
    let wishes = [("Supported", "100rel, precondition"), ("Require", "precondition")];
    let mut s = Rig::calls(&wishes, Some(7));
    assert!(s.asked.as_ref().is_some_and(|i| i.0.first(HeaderId::Require) == Some("precondition")), "not ours to answer");
    let progress = s.says_one(183, "a", &[("Require", "100rel, precondition"), ("RSeq", "5")], Some(10));
    let anycast = s.w.anycast;
    s.route_to(1);
    let prack = s.asks_at(anycast, &Method::Prack, &progress, &[("RAck", "5 1 INVITE")], None);
    assert_eq!(methods(&prack), ["PRACK"]);
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    s.route_to(2);
    let update = s.asks_at(anycast, &Method::Update, &progress, &[("Require", "precondition")], Some(8));
    assert_eq!((methods(&update), made_by(&update[0].0)), (vec!["UPDATE"], Some(8)));
    assert!(s.caller_got().is_empty(), "no answer of ours");
    assert_eq!(statuses(&s.called_answers(&update[0], 200, Some(12))), [200]);
    let ringing = s.says_one(180, "a", &[RELIABLE, ("RSeq", "6")], None);
    let prack = s.asks_at(anycast, &Method::Prack, &ringing, &[("RAck", "6 1 INVITE")], None);
    assert_eq!(statuses(&s.called_answers(&prack[0], 200, None)), [200]);
    assert_eq!(s.w.counted(Counter::Misrouted("PRACK", MisrouteAction::Relay)), 2);
    assert_eq!(s.w.counted(Counter::Misrouted("UPDATE", MisrouteAction::Relay)), 1);
    let ok = s.says_one(200, "a", &[], None);
    assert_eq!(ok.to_tag(), progress.to_tag());
    s.calm();
}

/// A description of several media, each with a port of its own: `(kind, port)`, port 0 for one that is gone.
fn media(lines: &[(&str, u16)]) -> Bytes {
    let mut text = "v=0\r\no=far 1 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\n".to_owned();
    for (kind, port) in lines {
        text.push_str(&format!("m={kind} {port} RTP/AVP 96\r\na=rtpmap:96 x/8000\r\n"));
    }
    Bytes::from(text)
}

/// Kinds and ports of a description.
fn lines(message: &Message) -> Vec<(String, u16)> {
    let sdp = sbc_core::sip::Sdp::parse(&message.body()).expect("a description");
    sdp.media().iter().map(|m| (m.kind.to_string(), m.port)).collect()
}

/// RFC 3264 §8.1, §8.2: a medium is added, another is refused, one is taken out by port 0, and its place is used again. Each way,
/// and every medium that stands keeps the port that we gave it.
#[test]
fn media_come_and_go_in_the_call() {
    let mut s = Rig::dialling("112").dials_with(media(&[("audio", 7000)]));
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    let first = lines(&s.asked.clone().expect("called").0)[0].1;
    let reinvite = |s: &mut Rig, offer: &[(&str, u16)], answer: &[(&str, u16)]| {
        s.cseq += 1;
        let (mut draft, to) = s.caller.within(&Method::Invite, &ok, s.cseq);
        draft.set_body(Some("application/sdp"), media(offer));
        s.caller.put(&mut s.w, &mut draft, to, &[]);
        s.advance(50);
        let asked = s.psap.request(&s.w, &Method::Invite);
        let mut draft = asked.0.response(200, None);
        draft.push(HeaderId::Contact, "<sip:a@198.18.20.9:5060>");
        draft.set_body(Some("application/sdp"), media(answer));
        s.psap.put(&mut s.w, &mut draft, asked.1, &[]);
        s.advance(20);
        let told = s.caller.response(&s.w, &Method::Invite);
        s.acks(&told, None);
        (lines(&asked.0), lines(&told))
    };
    // Video is added, text is refused.
    let three = [("audio", 7000), ("video", 7002), ("text", 7004)];
    let (asked, told) = reinvite(&mut s, &three, &[("audio", 9000), ("video", 9002), ("text", 0)]);
    assert_eq!(asked.iter().map(|l| &*l.0).collect::<Vec<_>>(), ["audio", "video", "text"]);
    assert_eq!(asked[0].1, first);
    assert!(asked.iter().all(|(_, port)| *port != 0 && ![7000, 7002, 7004].contains(port)), "anchored: {asked:?}");
    assert_eq!(told[2].1, 0, "refused is refused");
    assert!(told[..2].iter().all(|(_, port)| *port != 0 && ![9000, 9002].contains(port)), "anchored: {told:?}");
    // Video goes; the lines stay.
    let (gone, told_gone) =
        reinvite(&mut s, &[("audio", 7000), ("video", 0), ("text", 0)], &[("audio", 9000), ("video", 0), ("text", 0)]);
    assert_eq!(gone, [("audio".into(), first), ("video".into(), 0), ("text".into(), 0)]);
    assert_eq!((told_gone[0].clone(), told_gone[1].1, told_gone[2].1), (told[0].clone(), 0, 0));
    // Another medium takes a place that is free.
    let (again, told_again) =
        reinvite(&mut s, &[("audio", 7000), ("video", 0), ("video", 7008)], &[("audio", 9000), ("video", 0), ("video", 9008)]);
    assert_eq!((again[0].1, again[1].1, again[2].clone()), (first, 0, ("video".into(), asked[2].1)));
    assert_ne!(told_again[2].1, 0);
    // The called side offers more, too: by UPDATE and by re-INVITE; each line that stands keeps its port.
    for (method, text_port) in [(Method::Update, 9006), (Method::Invite, 9008)] {
        let offer = media(&[("audio", 9000), ("text", text_port), ("video", 9008)]);
        let update = s.called_asks_so(&method, "a", Some(offer)).pop().expect("passed on");
        let asked = lines(&update.0);
        assert_eq!(asked.iter().map(|l| &*l.0).collect::<Vec<_>>(), ["audio", "text", "video"]);
        assert_eq!((asked[0].1, asked[2].1), (told[0].1, told_again[2].1));
        assert!(asked[1].1 != 0 && asked[1].1 != text_port, "anchored: {asked:?}");
        let mut draft = update.0.response(200, None);
        draft.push(HeaderId::Contact, "<sip:far@198.18.10.9:5060>");
        draft.set_body(Some("application/sdp"), media(&[("audio", 7000), ("text", 7006), ("video", 0)]));
        s.psap_got();
        s.caller.put(&mut s.w, &mut draft, update.1, &[]);
        s.advance(20);
        let answer = lines(&s.psap.response(&s.w, &method));
        assert_eq!((answer[0].1, answer[2].1), (first, 0));
        assert!(answer[1].1 != 0 && answer[1].1 != 7006, "anchored: {answer:?}");
        let now = s.media();
        assert_eq!((now[&(1, Side::Caller)], now[&(1, Side::Callee)]), (7006, text_port));
        assert_eq!(now[&(2, Side::Caller)], 0);
    }
    s.calm();
}

/// What the log has of a call that rings is the early dialog in which something was agreed, and not the INVITE's, in which nobody has
/// answered yet: should the owner die, that phone gets its BYE by it.
#[test]
fn an_update_before_the_answer_is_recorded_in_its_dialog() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    let prack = s.pracks(&progress, None);
    s.called_answers(&prack[0], 200, None);
    let update = s.asks(&Method::Update, &progress, &[], Some(8));
    assert_eq!(statuses(&s.called_answers(&update[0], 200, Some(12))), [200]);
    s.advance(300);
    let replica = s.w.nodes[1].replica.read().expect("no panic while held");
    let entry = replica.all_calls(None).next().expect("it was claimed");
    let called = entry.callee().expect("it rings");
    let agreed = String::from_utf8_lossy(&called.remote_sdp).into_owned();
    assert_eq!(called.remote_tag, "a");
    assert!(agreed.contains(" 12 "), "{agreed}");
}
