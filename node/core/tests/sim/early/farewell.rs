//! What ends a call crosses whole: BYE, CANCEL and ACK with their fields and bodies. Session-ID (RFC 7989) on every message of both legs.

use sbc_core::policy::{HeaderAction, HeaderRule, MessageKind, RuleDirection, Topology};

use super::*;

const CALLER: &str = "ab30317f1a784dc48ff824d0d3715d86";
const CALLED: &str = "47755a9de7794ba387653f2099600ef2";
const NIL: &str = "00000000000000000000000000000000";

fn id(local: &str, remote: &str) -> String {
    format!("{local};remote={remote}")
}

fn session_id(message: &Message) -> &str {
    message.first(HeaderId::SessionId).unwrap_or_default()
}

/// A call that was answered; both ends name the session.
fn answered(s: Rig) -> (Rig, Message) {
    let mut s = s.dials(&[("Session-ID", &id(CALLER, NIL))], Some(7));
    let ok = s.says_one(200, "a", &[("Session-ID", &id(CALLED, CALLER))], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    (s, ok)
}

/// A request with a body that is no description.
fn with_body(s: &mut Rig, method: &Method, ok: &Message, fields: &[(&str, &str)]) -> Vec<(Message, SocketAddr)> {
    s.cseq += 1;
    let (mut draft, to) = s.caller.within(method, ok, s.cseq);
    draft.set_body(Some("application/isup;version=itu-t92+"), Bytes::from_static(&[0x0c, 0x02, 0x00, 0x02, 0x83, 0x90]));
    s.caller.put(&mut s.w, &mut draft, to, fields);
    s.advance(20);
    s.psap.inbox(&s.w)
}

/// RFC 3372 §5: the REL is in the BYE; RFC 3326 §2: one Reason for each protocol.
#[test]
fn a_bye_crosses_whole() {
    let (mut s, ok) = answered(Rig::dialling_with("112", |c| {
        c.header_rules = vec![HeaderRule {
            name: "site".into(),
            trunk: "psap".into(),
            direction: RuleDirection::Out,
            kind: MessageKind::Requests,
            methods: vec!["BYE".into()],
            emergency: None,
            action: HeaderAction::Add,
            header: "X-Site".into(),
            value: "alpha".into(),
        }];
    }));
    let fields = [
        ("Reason", "Q.850;cause=16;text=\"Terminated\""),
        ("Reason", "SIP;cause=200"),
        ("User-to-User", "56a390f3d2b7310023a2;encoding=hex"),
        ("P-Charging-Vector", "icid-value=1"),
        ("Session-ID", &id(CALLER, CALLED)),
    ];
    let got = with_body(&mut s, &Method::Bye, &ok, &fields);
    assert_eq!(methods(&got), ["BYE"]);
    let bye = &got[0].0;
    for (name, value) in fields {
        assert!(bye.headers().any(|f| f.name == name && f.value == value), "{name}: {bye:?}");
    }
    assert_eq!((bye.first_named("X-Site"), bye.first(HeaderId::MaxForwards)), (Some("alpha"), Some("69")));
    assert_eq!(bye.content_type(), Some("application/isup;version=itu-t92+"));
    assert_eq!(&bye.body()[..], [0x0c, 0x02, 0x00, 0x02, 0x83, 0x90]);
    let answer = s.caller.response(&s.w, &Method::Bye);
    assert_eq!((answer.status(), session_id(&answer)), (Some(200), &*id(CALLED, CALLER)));
    s.called_answers(&got[0], 200, None);
    s.calm();
}

/// The same of the called side; and what ends one of several early dialogs.
#[test]
fn a_bye_of_the_called_side_and_one_before_the_answer() {
    let (mut s, _) = answered(Rig::dialling("112"));
    let bye = s.called_asks(&Method::Bye, "a", Some(10));
    assert_eq!((methods(&bye), made_by(&bye[0].0)), (vec!["BYE"], Some(10)));
    s.caller_answers(&bye[0], 200, None);
    let mut s = Rig::calls(&[], Some(7));
    let first = s.says_one(180, "a", &[], None);
    s.says_one(180, "b", &[], None);
    let got = with_body(&mut s, &Method::Bye, &first, &[("Reason", "Q.850;cause=17"), ("Reason", "SIP;cause=486")]);
    assert_eq!(methods(&got), ["BYE"]);
    assert_eq!(got[0].0.all(HeaderId::Reason).count(), 2);
    assert_eq!(got[0].0.body().len(), 6);
    s.calm();
}

/// RFC 3261 §17.1.2.2: so long a transaction takes copies of its answer, and somewhat more. Milliseconds.
const TIMER_K: u64 = 5500;

/// RFC 5407 §3.2.1: both hang up at once. Until the transaction of our own BYE is over one that crosses it is right; after that it finds nothing.
#[test]
fn a_bye_that_crosses_ours() {
    let status = |got: Vec<(Message, SocketAddr)>| got.into_iter().find_map(|(m, _)| m.status()).expect("an answer");
    let (mut s, ok) = answered(Rig::dialling("112"));
    let ours = s.asks(&Method::Bye, &ok, &[], None).pop().expect("the called side hears of it");
    s.called_asks(&Method::Bye, "a", None);
    assert_eq!(status(s.psap_got()), 200);
    s.called_answers(&ours, 200, None);
    s.advance(TIMER_K);
    s.called_asks(&Method::Bye, "a", None);
    assert_eq!(status(s.psap_got()), 481);
    s.calm();

    let (mut s, ok) = answered(Rig::dialling("112"));
    let ours = s.called_asks(&Method::Bye, "a", None).pop().expect("the caller hears of it");
    assert!(s.asks(&Method::Bye, &ok, &[], None).iter().all(|(m, _)| !m.is_request()), "it has ended already");
    assert_eq!(s.caller.response(&s.w, &Method::Bye).status(), Some(200));
    s.caller_answers(&ours, 200, None);
    s.advance(TIMER_K);
    s.asks(&Method::Bye, &ok, &[], None);
    assert_eq!(s.caller.response(&s.w, &Method::Bye).status(), Some(481));
    s.calm();
}

/// The ACK that answers a delayed offer has more than the answer.
#[test]
fn an_ack_crosses_whole() {
    let mut s = Rig::calls(&[], None);
    let ok = s.says_one(200, "a", &[], Some(10));
    let (mut ack, to) = s.caller.within(&Method::Ack, &ok, 1);
    ack.set_body(Some("application/sdp"), sdp_of(7));
    s.caller.put(&mut s.w, &mut ack, to, &[("X-Odd", "yes"), ("Session-ID", &id(CALLER, CALLED))]);
    s.advance(20);
    let (got, _) = s.psap.request(&s.w, &Method::Ack);
    assert_eq!((got.first_named("X-Odd"), session_id(&got), made_by(&got)), (Some("yes"), &*id(CALLER, CALLED), Some(7)));
    assert!(anchored(&got, "198.18.1.1"));
    s.calm();
}

fn cancels_with(s: &mut Rig, reasons: &[&str]) {
    let invite = s.caller.initial(&Method::Invite, URI, "x", 1);
    let mut cancel = Draft::request(&Method::Cancel, URI);
    for field in invite.headers().filter(|f| !matches!(f.id, HeaderId::CSeq | HeaderId::Contact)) {
        cancel.push_field(&field);
    }
    cancel.push(HeaderId::CSeq, "1 CANCEL");
    let fields: Vec<_> = reasons.iter().map(|r| ("Reason", *r)).collect();
    let anycast = s.w.anycast;
    s.caller.put(&mut s.w, &mut cancel, anycast, &fields);
    s.advance(20);
}

/// RFC 3326 §2, also where the CANCEL must wait for a provisional response (RFC 3261 §9.1).
#[test]
fn a_cancel_has_its_reasons_at_once_and_later() {
    for waits in [false, true] {
        let mut s = Rig::calls(&[("Session-ID", &id(CALLER, NIL))], Some(7));
        if !waits {
            s.says(180, "a", &[("Session-ID", &id(CALLED, CALLER))], None);
        }
        cancels_with(&mut s, &["Q.850;cause=26", "SIP;cause=200;text=\"Call completed elsewhere\""]);
        let told = s.caller.response(&s.w, &Method::Invite);
        assert_eq!((told.status(), session_id(&told)), (Some(487), &*id(if waits { NIL } else { CALLED }, CALLER)));
        if waits {
            assert!(!methods(&s.psap_got()).contains(&"CANCEL"));
            s.says(180, "a", &[], None);
        }
        let (cancel, _) = s.psap.request(&s.w, &Method::Cancel);
        let reasons: Vec<&str> = cancel.values(HeaderId::Reason).collect();
        assert_eq!(reasons, ["Q.850;cause=26", "SIP;cause=200;text=\"Call completed elsewhere\""]);
        assert_eq!(session_id(&cancel), id(CALLER, NIL), "as its INVITE");
        s.says(487, "a", &[], None);
        assert_eq!(session_id(&s.psap.request(&s.w, &Method::Ack).0), id(CALLER, NIL));
        s.calm();
    }
}

#[test]
fn a_reinvite_is_cancelled_with_its_reason() {
    let (mut s, ok) = answered(Rig::dialling("112"));
    let hold = s.asks(&Method::Invite, &ok, &[], Some(8));
    let mut ringing = hold[0].0.response(180, None);
    s.psap.put(&mut s.w, &mut ringing, hold[0].1, &[]);
    s.advance(20);
    let (invite, to) = s.caller.within(&Method::Invite, &ok, s.cseq);
    let mut cancel = Draft::request(&Method::Cancel, invite.request_uri().expect("a request"));
    for field in invite.headers().filter(|f| f.id != HeaderId::CSeq) {
        cancel.push_field(&field);
    }
    cancel.push(HeaderId::CSeq, format!("{} CANCEL", s.cseq));
    s.caller.put(&mut s.w, &mut cancel, to, &[("Reason", "SIP;cause=487")]);
    s.advance(20);
    let (cancel, _) = s.psap.request(&s.w, &Method::Cancel);
    assert_eq!((cancel.first(HeaderId::Reason), session_id(&cancel)), (Some("SIP;cause=487"), &*id(CALLER, CALLED)));
    s.calm();
}

/// RFC 7989 §6, §7: as it came, in requests and responses, both ways; and on what is our own.
#[test]
fn the_session_id_is_the_same_on_both_legs() {
    for topology in [Topology::Hide, Topology::Transparent] {
        let s = Rig::dialling_with("112", move |c| {
            c.trunks[1].topology = topology;
            c.trunks[1].timers.session_expires = Some(std::time::Duration::from_secs(200));
        });
        let mut s = s.dials(&[("Session-ID", &id(CALLER, NIL))], Some(7));
        assert_eq!(session_id(&s.asked.as_ref().expect("called").0), id(CALLER, NIL));
        let there = id(CALLED, CALLER);
        let ringing = s.says_one(180, "a", &[("Session-ID", &there)], None);
        let ok = s.says_one(200, "a", &[("Session-ID", &there)], Some(10));
        assert_eq!([&ringing, &ok].map(session_id), [&*there; 2]);
        // The ACK is ours: the caller's may never come.
        assert_eq!(session_id(&s.psap.request(&s.w, &Method::Ack).0), id(CALLER, CALLED));
        s.acks(&ok, None);
        let info = s.asks(&Method::Info, &ok, &[("Session-ID", &id(CALLER, CALLED))], None);
        assert_eq!(session_id(&info[0].0), id(CALLER, CALLED));
        let mut answer = info[0].0.response(200, None);
        s.psap.put(&mut s.w, &mut answer, info[0].1, &[("Session-ID", &there)]);
        s.advance(20);
        assert_eq!(session_id(&s.caller.response(&s.w, &Method::Info)), there);
        // The session timer is ours too (the called side has none), and so is the end where it does not answer.
        s.w.run_until(101_000);
        assert_eq!(session_id(&s.psap.request(&s.w, &Method::Invite).0), id(CALLER, CALLED));
        s.w.run_until(140_000);
        assert_eq!(session_id(&s.psap.request(&s.w, &Method::Bye).0), id(CALLER, CALLED));
        assert_eq!(session_id(&s.caller.request(&s.w, &Method::Bye).0), there);
        s.calm();
    }
}

/// A call whose ends name no session has none made up.
#[test]
fn no_session_id_where_nobody_has_one() {
    let mut s = Rig::calls(&[], Some(7));
    let ok = s.says_one(200, "a", &[], Some(10));
    assert_eq!(session_id(&s.psap.request(&s.w, &Method::Ack).0), "");
    s.acks(&ok, None);
    let bye = s.asks(&Method::Bye, &ok, &[], None);
    assert_eq!(session_id(&bye[0].0), "");
    assert_eq!(session_id(&s.caller.response(&s.w, &Method::Bye)), "");
}
