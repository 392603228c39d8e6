//! Offers and answers that are not as RFC 3264 wants them: the call goes on, and nothing of them sticks.

use sbc_core::io::Place;

use super::*;

fn lines(ports: &[u16]) -> Vec<u8> {
    let mut text = "v=0\r\no=far 1 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\n".to_owned();
    for port in ports {
        text.push_str(&format!("m=audio {port} RTP/AVP 8\r\na=rtcp:{}\r\n", port + 1));
    }
    text.into_bytes()
}

fn ports(message: &Message) -> Vec<u16> {
    sbc_core::sip::Sdp::parse(&message.body()).expect("a description").media().iter().map(|m| m.port).collect()
}

/// RFC 3261 §14.2: a re-INVITE that cannot be read is refused here, with the reason, and the call goes on: an emergency, too.
#[test]
fn a_reinvite_that_nobody_can_read() {
    for number in ["112", "113"] {
        for method in [Method::Invite, Method::Update] {
            let mut s = Rig::dialling(number).dials(&[], Some(7));
            let ok = s.says_one(200, "a", &[], Some(10));
            s.acks(&ok, None);
            s.psap_got();
            let media = s.media();
            assert!(s.offers(&method, &ok, b"nonsense").is_empty());
            let told = s.caller_got().pop().expect("told");
            assert_eq!(told.status(), Some(488));
            assert!(
                told.first(HeaderId::Warning).is_some_and(|w| w.starts_with("399 AnycastSBC ")),
                "{:?}",
                told.first(HeaderId::Warning)
            );
            let to = s.caller.within(&method, &ok, 1).1;
            let zipped = Some(("application/sdp", Bytes::from_static(b"zipped")));
            assert!(s.asks_so(to, &method, &ok, &[("Content-Encoding", "gzip")], zipped).is_empty());
            let told = s.caller_got().pop().expect("told");
            let encodings = told.headers().find(|f| f.name.eq_ignore_ascii_case("accept-encoding")).map(|f| f.value);
            assert_eq!((told.status(), encodings), (Some(415), Some("identity")));
            assert_eq!(s.media(), media);
            let asked = s.asks(&method, &ok, &[], Some(8)).pop().expect("the call goes on");
            assert!(statuses(&s.called_answers(&asked, 200, Some(10))).contains(&200));
            s.calm();
        }
    }
}

/// RFC 3264 §6: as many lines in the answer as in the offer, and nothing for those that were refused by the offer.
#[test]
fn answers_with_other_lines_than_the_offer() {
    for (offer, answer, told, media) in [
        // Fewer: what is missing is refused.
        (&[7, 70][..], &[10][..], &[true][..], &[(0, 7, 10), (1, 70, 0)][..]),
        // More: there is nothing that they answer.
        (&[7], &[10, 90], &[true, false], &[(0, 7, 10)]),
        // To a line that the offer refused.
        (&[7, 0], &[10, 90], &[true, false], &[(0, 7, 10)]),
    ] {
        let (mut s, ok) = Rig::answered(&[], &[]);
        let asked = s.offers(&Method::Invite, &ok, &lines(offer)).pop().expect("passed on");
        let got = s.called_says(&asked, 200, &[], &lines(answer)).into_iter().find(|m| m.status() == Some(200)).expect("told");
        assert_eq!(ports(&got).iter().map(|port| *port != 0).collect::<Vec<_>>(), told);
        assert!(!text(&got).contains("a=rtcp:1\r\n") && !ports(&got).contains(&90), "{}", text(&got));
        let now = s.media();
        let at = |line, side| now.get(&(line, side)).copied().unwrap_or(0);
        for (line, caller, callee) in media {
            assert_eq!((at(*line, Side::Caller), at(*line, Side::Callee)), (*caller, *callee), "{offer:?} {answer:?} {line}");
        }
        assert_eq!(at(1, Side::Callee), 0);
        s.calm();
    }
}

/// A 2xx without an answer leaves the session as it was, and nobody's offer open.
#[test]
fn a_2xx_without_an_answer() {
    for method in [Method::Invite, Method::Update] {
        let (mut s, ok) = Rig::answered(&[], &[]);
        let media = s.media();
        let asked = s.offers(&method, &ok, &lines(&[30])).pop().expect("passed on");
        let told = s.called_answers(&asked, 200, None).pop().expect("told");
        assert_eq!(s.media(), media);
        s.acks(&told, None);
        let asked = s.called_asks(&method, "a", Some(40)).pop().expect("nothing is open");
        assert!(asked.0.is_request());
        s.caller_answers(&asked, 200, Some(7));
        assert_eq!(s.media()[&(0, Side::Callee)], 40);
        s.calm();
    }
    // The same for the first one: a call without a description of the called side, which may follow.
    let mut s = Rig::calls(&[], Some(7));
    let ok = s.says_one(200, "a", &[], None);
    assert_eq!(methods(&s.psap_got()), ["ACK"]);
    s.acks(&ok, None);
    let asked = s.called_asks(&Method::Invite, "a", Some(40)).pop().expect("nothing is open");
    s.caller_answers(&asked, 200, Some(7));
    assert_eq!(s.media(), BTreeMap::from([((0, Side::Caller), 7), ((0, Side::Callee), 40)]));
    s.calm();
}

/// RFC 3261 §13.2.2.4: the offer in a 2xx wants its answer in the ACK. Without one, the ACK goes on, and the offer has come to nothing.
#[test]
fn an_ack_without_the_answer() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let media = s.media();
    let asked = s.asks(&Method::Invite, &ok, &[], None).pop().expect("passed on");
    let told = s.called_answers(&asked, 200, Some(40)).pop().expect("told");
    assert_eq!(s.media()[&(0, Side::Callee)], 40);
    let got = s.acks(&told, None);
    assert_eq!((got[0].method(), got[0].body().len()), (&Method::Ack, 0));
    assert_eq!(s.media(), media);
    let asked = s.called_asks(&Method::Update, "a", Some(41)).pop().expect("nothing is open");
    assert!(asked.0.is_request());
    s.calm();
    // BYE instead: both legs end, and the called side has its ACK first (RFC 3261 §15).
    let mut s = Rig::calls(&[], None);
    let ok = s.says_one(200, "a", &[], Some(10));
    assert!(s.psap_got().is_empty(), "its ACK waits for the answer");
    let got = s.asks(&Method::Bye, &ok, &[], None);
    assert_eq!(methods(&got), ["ACK", "BYE"]);
    assert!(got[0].0.body().is_empty());
    s.calm();
}

/// RFC 3262 §3: the PRACK of a re-INVITE's response that crosses its 200.
#[test]
fn a_prack_that_crosses_the_200() {
    let (mut s, ok) = Rig::answered(&[("Supported", "100rel")], &[]);
    let asked = s.asks(&Method::Invite, &ok, &[], Some(8)).pop().expect("passed on");
    let cseq = s.cseq;
    s.called_says(&asked, 183, &[RELIABLE, ("RSeq", "3")], &sdp_of(10));
    let told = s.called_answers(&asked, 200, None).pop().expect("told");
    s.acks(&told, None);
    let rack = format!("3 {cseq} INVITE");
    let prack = s.asks(&Method::Prack, &ok, &[("RAck", &rack)], None);
    let prack = prack.iter().find(|(m, _)| m.method() == &Method::Prack).expect("it goes on").clone();
    assert_eq!(prack.0.first(HeaderId::RAck), Some(&*format!("3 {} INVITE", asked.0.cseq())));
    assert_eq!(statuses(&s.called_answers(&prack, 200, None)), [200]);
    // Never after its response would be repeated no more, and never for another.
    for (after, number) in [(0, cseq + 7), (33_000, cseq)] {
        s.advance(after);
        let rack = format!("3 {number} INVITE");
        assert!(s.asks(&Method::Prack, &ok, &[("RAck", &rack)], None).iter().all(|(m, _)| m.method() != &Method::Prack));
        assert_eq!(statuses(&s.caller_got()), [481]);
    }
    s.calm();
}

/// RFC 3262 §5: an offer in the PRACK for a response that only we made reliable. The called side cannot be asked, for the INVITE's own
/// offer is still open there; what was just agreed is agreed again.
#[test]
fn the_same_offer_in_the_prack_for_our_own_response() {
    let mut s = Rig::calls(&[("Require", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[], Some(10));
    assert!(s.pracks(&progress, Some(7)).is_empty());
    let told = s.caller_got();
    assert_eq!((statuses(&told), text(&told[0])), (vec![200], text(&progress)));
    s.calm();
}

/// RFC 8866 §5.7: a host name in `c=`, or none at all, is no refusal. Nobody looks it up; the media are told by their source.
#[test]
fn a_name_for_an_address() {
    for connection in ["c=IN IP4 phone.example.net\r\n", ""] {
        let offer =
            format!("v=0\r\no=far 7 1 IN IP4 phone.example.net\r\ns=-\r\n{connection}t=0 0\r\nm=audio 7000 RTP/AVP 8\r\n");
        let mut s = Rig::dialling("112").dials_with(Bytes::from(offer));
        let invite = s.asked.clone().expect("called").0;
        assert!(anchored(&invite, "198.18.1.1") && !text(&invite).contains("example"), "{}", text(&invite));
        let (line, side, remote) = s.w.streams[0];
        let remote = remote.expect("not refused");
        assert_eq!((line, side, remote.rtp, remote.rtcp), (0, Side::Caller, Place::Named(7000), Place::Named(7001)));
        let ok = s.says_one(200, "a", &[], Some(10));
        assert!(anchored(&ok, "198.18.0.1"));
        s.calm();
    }
}

/// RFC 3840 §4, RFC 4579 §4: what a far end says of itself beside its Contact crosses, both ways; what speaks of a registration does not.
#[test]
fn features_of_a_contact_cross() {
    let features = ";isfocus;+sip.instance=\"<urn:uuid:1>\"";
    let contact = |uri: &str| format!("<{uri}>{features};expires=60;q=0.5;reg-id=1");
    let ours = |message: &Message| {
        let contact = message.first(HeaderId::Contact).expect("one").to_owned();
        contact.split_once('>').expect("angled").1.to_owned()
    };
    let mut s = Rig::dialling("112");
    let mut draft = s.caller.initial(&Method::Invite, URI, "x", 1);
    draft.set(HeaderId::Contact, contact("sip:far@198.18.10.9:5060"));
    draft.set_body(Some("application/sdp"), sdp_of(7));
    let anycast = s.w.anycast;
    s.caller.put(&mut s.w, &mut draft, anycast, &[]);
    s.advance(50);
    s.asked = Some(s.psap.request(&s.w, &Method::Invite));
    s.caller.inbox(&s.w);
    assert_eq!(ours(&s.asked.as_ref().expect("called").0), features);
    for status in [180, 200] {
        let (invite, from) = s.asked.clone().expect("called");
        let mut draft = invite.response(status, None);
        draft.set(HeaderId::To, format!("{};tag=a", invite.to()));
        draft.set_body(Some("application/sdp"), sdp_of(10));
        s.psap.put(&mut s.w, &mut draft, from, &[("Contact", &contact("sip:a@198.18.20.9:5060"))]);
        s.advance(20);
        let told = s.caller_got().pop().expect("told");
        assert_eq!((told.status(), &*ours(&told)), (Some(status), features));
    }
    let ok =
        Message::parse(s.w.sent.as_ref().expect("recorded").iter().rfind(|m| m.to == s.caller.addr).expect("told").bytes.clone());
    let ok = ok.expect("well formed");
    s.acks(&ok, None);
    s.psap_got();
    // A later one says what it says: no focus any more.
    let fields = [("Contact", "<sip:far@198.18.10.9:5060>;audio")];
    let asked = s.asks(&Method::Invite, &ok, &fields, Some(7)).pop().expect("passed on");
    assert_eq!(ours(&asked.0), ";audio");
    let told = s.called_says(&asked, 200, &[("Contact", "<sip:a@198.18.20.9:5060>")], &sdp_of(10)).pop().expect("told");
    assert_eq!(ours(&told), "");
    s.calm();
}
