//! Offers that are refused, or come to nothing: the session goes on as it was (RFC 3261 §14.1, RFC 3264 §8, RFC 6141 §3, RFC 3311 §5.2).
//! What counts is where the media go.

use super::*;

const FAX: &[u8] = b"v=0\r\no=far 8 2 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=image 4000 udptl t38\r\n";
const HELD: &[u8] = b"v=0\r\no=far 8 2 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=audio 7 RTP/AVP 8\r\n";
const VIDEO: &[u8] = b"v=0\r\no=far 8 2 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=audio 7 RTP/AVP 8\r\nm=video 70 RTP/AVP 96\r\n";

/// Both sides where they were, and nothing of a second line.
#[track_caller]
fn as_before(s: &Rig) {
    let mut media = s.media();
    media.retain(|(line, _), port| *line == 0 || *port != 0);
    assert_eq!(media, BTreeMap::from([((0, Side::Caller), 7), ((0, Side::Callee), 10)]));
    let held = |(_, _, remote): &&(u8, Side, Option<sbc_core::io::StreamRemote>)| {
        remote.and_then(|r| r.rtp.addr()).is_some_and(|at| at.ip().is_unspecified())
    };
    let last = s.w.streams.iter().rfind(|(_, side, _)| *side == Side::Caller);
    assert!(!last.as_ref().is_some_and(held), "held: {last:?}");
}

/// What is offered next is the session that stands, under a version that the far end has not seen refused.
#[track_caller]
fn goes_on(s: &mut Rig, ok: &Message, refused: &Message) {
    let again = s.asks(&Method::Invite, ok, &[], Some(7));
    let again = again.iter().find(|(m, _)| m.method() == &Method::Invite).expect("it goes on").clone();
    assert_eq!(made_by(&again.0), Some(7));
    assert_eq!(origin(&again.0).0, origin(refused).0);
    assert!(origin(&again.0).1 > origin(refused).1, "RFC 3264 §8");
    assert!(statuses(&s.called_answers(&again, 200, Some(10))).contains(&200));
    as_before(s);
    s.calm();
}

#[test]
fn an_offer_of_the_caller_that_is_refused() {
    for (method, offer, status) in [
        (Method::Invite, FAX, 488),
        (Method::Invite, HELD, 488),
        (Method::Invite, VIDEO, 606),
        (Method::Invite, HELD, 491),
        (Method::Update, FAX, 488),
        (Method::Update, HELD, 491),
        (Method::Update, VIDEO, 500),
    ] {
        let (mut s, ok) = Rig::answered(&[], &[]);
        as_before(&s);
        let asked = s.offers(&method, &ok, offer).pop().expect("passed on");
        assert_ne!(s.w.streams.len(), 2, "else this shows nothing");
        assert!(statuses(&s.called_answers(&asked, status, None)).contains(&status));
        as_before(&s);
        goes_on(&mut s, &ok, &asked.0);
    }
}

#[test]
fn an_offer_of_the_called_side_that_is_refused() {
    for method in [Method::Invite, Method::Update] {
        let (mut s, _) = Rig::answered(&[], &[]);
        let asked = s.called_asks(&method, "a", Some(30)).pop().expect("passed on");
        assert_eq!(s.media()[&(0, Side::Callee)], 30, "else this shows nothing");
        s.caller_answers(&asked, 488, None);
        as_before(&s);
        s.calm();
    }
}

/// RFC 3261 §9: a re-INVITE that is cancelled; RFC 3261 §17.1.1.2: one that nobody answers.
#[test]
fn an_offer_that_is_cancelled_or_not_answered() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let asked = s.offers(&Method::Invite, &ok, HELD).pop().expect("passed on");
    s.called_answers(&asked, 100, None);
    let (invite, to) = s.caller.within(&Method::Invite, &ok, s.cseq);
    let mut cancel = Draft::request(&Method::Cancel, invite.request_uri().expect("a request"));
    for field in invite.headers().filter(|f| f.id != HeaderId::CSeq) {
        cancel.push_field(&field);
    }
    cancel.push(HeaderId::CSeq, format!("{} CANCEL", s.cseq));
    s.caller.put(&mut s.w, &mut cancel, to, &[]);
    s.advance(20);
    assert!(methods(&s.psap_got()).contains(&"CANCEL"));
    assert!(statuses(&s.called_answers(&asked, 487, None)).contains(&487));
    as_before(&s);
    goes_on(&mut s, &ok, &asked.0);

    let (mut s, ok) = Rig::answered(&[], &[]);
    let asked = s.offers(&Method::Invite, &ok, FAX).pop().expect("passed on");
    s.advance(33_000);
    assert!(statuses(&s.caller_got()).contains(&408));
    as_before(&s);
    s.psap_got();
    goes_on(&mut s, &ok, &asked.0);
}

/// An answer foretold in an unreliable response is none (RFC 3261 §13.2.1); in a reliable one it is, whatever comes then (RFC 6141 §3.4).
#[test]
fn a_provisional_answer_before_the_refusal() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let asked = s.asks(&Method::Invite, &ok, &[], Some(8)).pop().expect("passed on");
    s.called_answers(&asked, 183, Some(30));
    assert_eq!(s.media(), BTreeMap::from([((0, Side::Caller), 8), ((0, Side::Callee), 30)]));
    s.called_answers(&asked, 488, None);
    as_before(&s);

    let (mut s, ok) = Rig::answered(&[("Supported", "100rel")], &[]);
    let asked = s.asks(&Method::Invite, &ok, &[], Some(8)).pop().expect("passed on");
    s.called_says(&asked, 183, &[RELIABLE, ("RSeq", "3")], &sdp_of(30));
    s.called_answers(&asked, 488, None);
    assert_eq!(s.media(), BTreeMap::from([((0, Side::Caller), 8), ((0, Side::Callee), 30)]));
    s.calm();
}

/// RFC 3262 §5: an offer in PRACK that is refused with it.
#[test]
fn an_offer_in_prack_that_is_refused() {
    let mut s = Rig::calls(&[("Supported", "100rel")], Some(7));
    let progress = s.says_one(183, "a", &[RELIABLE, ("RSeq", "5")], Some(10));
    let prack = s.pracks(&progress, Some(8));
    assert_eq!(s.media()[&(0, Side::Caller)], 8, "else this shows nothing");
    assert_eq!(statuses(&s.called_answers(&prack[0], 488, None)), [488]);
    as_before(&s);
    s.calm();
}

/// RFC 4028: our own refresh has the description that stands, not the one that was refused.
#[test]
fn a_refresh_after_a_refusal() {
    // The caller refreshes its leg itself.
    let timer = [("Supported", "timer"), ("Session-Expires", "1800;refresher=uac")];
    let (mut s, ok) = Rig::answered(&timer, &[]);
    let asked = s.offers(&Method::Invite, &ok, HELD).pop().expect("passed on");
    s.called_answers(&asked, 488, None);
    s.psap_got();
    s.w.run_until(902_000);
    let (again, _) = s.psap.request(&s.w, &Method::Invite);
    assert_eq!(made_by(&again), Some(7), "{}", text(&again));
    assert!(origin(&again).1 > origin(&asked.0).1);
}

/// RFC 3264 §9, RFC 3261 §11.2, §21.4.26: what a far end could do is no answer; its Contact there is no target.
#[test]
fn capabilities_are_no_answer() {
    let able = b"v=0\r\no=far 1 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\nm=audio 0 RTP/AVP 8\r\nm=video 0 RTP/AVP 96\r\n";
    let (mut s, ok) = Rig::answered(&[], &[]);
    let asked = s.asks(&Method::Options, &ok, &[], None).pop().expect("passed on");
    let got = s.called_says(&asked, 200, &[("Contact", "<sip:elsewhere@198.18.20.77>")], able).pop().expect("told");
    assert!(anchored(&got, "198.18.0.1"), "{}", text(&got));
    as_before(&s);
    // The same from the other side, and in a 488 to a re-INVITE.
    let asked = s.called_asks(&Method::Options, "a", None).pop().expect("passed on");
    s.caller_answers(&asked, 200, Some(99));
    as_before(&s);
    let asked = s.asks(&Method::Invite, &ok, &[], Some(8)).pop().expect("passed on");
    assert_eq!(asked.0.request_uri(), Some("sip:a@198.18.20.9:5060"), "the target is what it was");
    let told = s.called_says(&asked, 488, &[], able).into_iter().find(|m| m.status() == Some(488)).expect("told");
    assert!(anchored(&told, "198.18.0.1"), "{}", text(&told));
    as_before(&s);
    s.calm();
}

/// RFC 6665 §4.4.1: NOTIFY says where further requests go; OPTIONS and INFO do not.
#[test]
fn which_requests_move_the_target() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    for (method, moves) in [(Method::Options, false), (Method::Info, false), (Method::Notify, true)] {
        let fields = [("Contact", "<sip:moved@198.18.10.9>"), ("Event", "x")];
        let crossed = s.asks(&method, &ok, &fields, None).pop().expect("passed on");
        s.called_answers(&crossed, 200, None);
        let got = s.called_asks(&Method::Info, "a", None);
        let target = got.iter().find(|(m, _)| m.is_request()).and_then(|(m, _)| m.request_uri().map(str::to_owned));
        assert_eq!(target.as_deref() == Some("sip:moved@198.18.10.9"), moves, "{method}: {target:?}");
    }
}
