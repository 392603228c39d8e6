//! INVITE within the call with reliable provisional responses (RFC 3262, RFC 6141), and one of which nothing is heard.

use super::*;

/// The re-INVITE of the caller as the called side has it.
fn asks(s: &mut Rig, ok: &Message, fields: &[(&str, &str)], body: Option<u16>) -> (Message, SocketAddr) {
    let contact = ("Contact", "<sip:far@198.18.10.9:5060>");
    let mut got = s.asks(&Method::Invite, ok, &[&[contact], fields].concat(), body);
    assert_eq!(methods(&got), ["INVITE"]);
    s.caller_got();
    got.remove(0)
}

fn progress(s: &mut Rig, invite: &(Message, SocketAddr), fields: &[(&str, &str)], body: Option<u16>) -> Vec<Message> {
    s.called_says(invite, 183, fields, &body.map(sdp_of).unwrap_or_default())
}

fn pracks(s: &mut Rig, ok: &Message, of: &Message, body: Option<u16>) -> (Message, SocketAddr) {
    let rack = format!("{} {} INVITE", of.first(HeaderId::RSeq).expect("a reliable one"), of.cseq());
    let mut got = s.asks(&Method::Prack, ok, &[("RAck", &rack)], body);
    assert_eq!(methods(&got), ["PRACK"]);
    got.remove(0)
}

/// What one far end requires, the other need not have; then it is sent no response that it may not take.
#[test]
fn one_that_requires_100rel() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let invite = asks(&mut s, &ok, &[("Require", "100rel"), ("Supported", "timer")], Some(8));
    let tags = |id| invite.0.values(id).collect::<Vec<_>>();
    assert_eq!((tags(HeaderId::Require), tags(HeaderId::Supported).contains(&"100rel")), (vec![], true));
    assert!(progress(&mut s, &invite, &[], None).is_empty(), "an unreliable one");
    let got = progress(&mut s, &invite, &[RELIABLE, ("RSeq", "5")], None);
    assert_eq!((statuses(&got), got[0].first(HeaderId::RSeq)), (vec![183], Some("5")));
    let prack = pracks(&mut s, &ok, &got[0], None);
    assert_eq!(statuses(&s.called_answers(&prack, 200, None)), [200]);
    assert_eq!(statuses(&s.called_says(&invite, 200, &[("Contact", "<sip:a@198.18.20.9:5060>")], &sdp_of(12))), [200]);
    s.calm();
}

/// RFC 3311 §5.1: answered reliably, its offer is no longer open, and preconditions of added media can be met.
#[test]
fn an_update_after_a_reliable_answer() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let invite = asks(&mut s, &ok, &[("Supported", "100rel")], Some(8));
    let got = progress(&mut s, &invite, &[RELIABLE, ("RSeq", "5")], Some(11));
    let prack = pracks(&mut s, &ok, &got[0], None);
    s.called_answers(&prack, 200, None);
    let update = s.asks(&Method::Update, &ok, &[], Some(9));
    assert_eq!(methods(&update), ["UPDATE"]);
    assert_eq!(statuses(&s.called_answers(&update[0], 200, Some(12))), [200]);
    assert_eq!(statuses(&s.called_says(&invite, 200, &[("Contact", "<sip:a@198.18.20.9:5060>")], b"")), [200]);
    s.calm();
}

/// RFC 7362 §4: a description that is new opens the latch, though it names the same address; one that is said again does not. Media toward
/// the core side go where it says.
#[test]
fn a_new_description_is_told_to_the_engine() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let last = |s: &Rig, side| s.w.streams.iter().rev().find_map(|(_, of, remote)| (*of == side).then_some(*remote)?);
    let (caller, called) = (last(&s, Side::Caller).expect("told"), last(&s, Side::Callee).expect("told"));
    assert_eq!((caller.latching, called.latching), (true, false));
    let told = s.w.streams.len();
    let same = sdp_of(7);
    let newer = Bytes::from(String::from_utf8_lossy(&same).replace("o=far 7 1 ", "o=far 7 2 "));
    for (offer, news) in [(&same, false), (&newer, true), (&newer, false)] {
        let before = last(&s, Side::Caller).expect("told");
        let asked = s.offers(&Method::Update, &ok, offer).pop().expect("passed on");
        s.called_answers(&asked, 200, Some(10));
        let after = last(&s, Side::Caller).expect("told");
        assert_eq!((after.rtp, after.description != before.description), (before.rtp, news));
    }
    assert_eq!(s.w.streams.len(), told + 1);
    s.calm();
}

/// RFC 3261 §12.2.2, §14.1: what a request would have changed, it changes with its acceptance.
#[test]
fn a_refused_request_changes_nothing() {
    const MOVED: &str = "<sip:moved@198.18.10.7:5070>;isfocus";
    for method in [Method::Invite, Method::Update, Method::Refer] {
        for status in [488, 408, 503, 200] {
            let (mut s, ok) = Rig::answered(&[], &[]);
            let described = (method != Method::Refer).then_some(8);
            let fields = [("Contact", MOVED), ("Refer-To", "<sip:113@198.18.20.44>")];
            let asked = s.asks(&method, &ok, &fields, described).pop().expect("passed on");
            assert!(asked.0.first(HeaderId::Contact).expect("ours").ends_with(";isfocus"), "it crosses");
            let told = s.called_says(
                &asked,
                status,
                &[("Contact", "<sip:a@198.18.20.9:5060>")],
                described.map(sdp_of).as_deref().unwrap_or(b""),
            );
            let taken = status == 200;
            if taken && method == Method::Invite {
                s.acks(told.iter().find(|m| m.status() == Some(200)).expect("told"), None);
            }
            let info = s.asks(&Method::Info, &ok, &[], None).pop().expect("passed on");
            assert!(info.0.first(HeaderId::Contact).is_none());
            let before = s.w.sent.as_ref().expect("recorded").len();
            s.called_asks(&Method::Bye, "a", None);
            let sent = s.w.sent.as_ref().expect("recorded")[before..].iter();
            let bye = sent.filter(|s| s.node.is_some()).find(|s| s.bytes.starts_with(b"BYE ")).expect("passed on");
            let uri = Message::parse(bye.bytes.clone()).expect("ours").request_uri().expect("a request").to_owned();
            let (there, at) = ("sip:moved@198.18.10.7:5070", "198.18.10.7:5070");
            let moved = (uri == there, bye.to.to_string() == at);
            assert_eq!(moved, (taken, taken), "{method} {status}: {uri} at {}", bye.to);
        }
    }
}

/// RFC 3262 §5: without an offer of its own the first reliable response has one, and the PRACK answers: where media go is settled.
#[test]
fn one_without_an_offer() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let invite = asks(&mut s, &ok, &[("Supported", "100rel")], None);
    let got = progress(&mut s, &invite, &[RELIABLE, ("RSeq", "5")], Some(11));
    assert_eq!(made_by(&got[0]), Some(11));
    let prack = pracks(&mut s, &ok, &got[0], Some(21));
    assert_eq!(made_by(&prack.0), Some(21));
    assert_eq!(statuses(&s.called_answers(&prack, 200, None)), [200]);
    let settled = s.media();
    assert_eq!(settled[&(0, Side::Caller)], 21);
    assert_eq!(statuses(&s.called_says(&invite, 200, &[("Contact", "<sip:a@198.18.20.9:5060>")], b"")), [200]);
    assert_eq!(s.media(), settled, "the 200 of the PRACK, and that of the INVITE, take nothing back");
    s.calm();
}

/// The far end said 100 and died: the call is not blocked by it for an hour.
#[test]
fn one_of_which_nothing_more_is_heard() {
    let (mut s, ok) = Rig::answered(&[], &[]);
    let invite = asks(&mut s, &ok, &[], Some(8));
    s.called_says(&invite, 100, &[], b"");
    s.advance(179_000);
    assert!(s.psap_got().is_empty());
    s.advance(2_000);
    assert_eq!(methods(&s.psap_got())[0], "CANCEL");
    s.advance(33_000);
    let mut told = statuses(&s.caller_got());
    told.dedup();
    assert_eq!(told, [487]);
    let again = s.asks(&Method::Invite, &ok, &[("Contact", "<sip:far@198.18.10.9:5060>")], Some(9));
    assert!(methods(&again).contains(&"INVITE"), "the way is free");
    s.calm();
}

/// RFC 3261 §12.2.1.1, §13.2.2.4: the ACK and the BYE for a 2xx that nobody wants go to where its Contact says.
#[test]
fn an_unwanted_2xx_is_ended_at_its_contact() {
    const ELSEWHERE: &str = "198.18.20.66:5060";
    let mut s = Rig::calls(&[], Some(7));
    s.says(180, "a", &[], None);
    s.cancels();
    s.psap_got();
    let (invite, from) = s.asked.clone().expect("it was called");
    let mut ok = invite.response(200, None);
    ok.set(HeaderId::To, format!("{};tag=a", invite.to()));
    ok.push(HeaderId::Contact, format!("<sip:a@{ELSEWHERE}>")).set_body(Some("application/sdp"), sdp_of(10));
    s.psap.put(&mut s.w, &mut ok, from, &[]);
    s.advance(20);
    assert_eq!(methods(&Far::at(ELSEWHERE).inbox(&s.w)), ["ACK", "BYE"]);
    assert!(s.psap_got().is_empty());
}
