//! A call that is made again from its record alone answers the next request in its dialogs as the original does: message for message, but
//! for the numbers of our requests, which are above all that may have been used (rule J). Who takes over a call has no more than the record.

use std::net::SocketAddr;

use sbc_core::io::Transport;
use sbc_core::sip::{Draft, HeaderId, Message, Method, is_keepalive};

use crate::rig::far::sdp;
use crate::rig::{LISTENS, PSAP, Rig};

/// A call as both far ends asked for it.
type Call = (&'static str, Transport, fn(&mut Draft), fn(&mut Draft));

const CALLS: [Call; 6] = [
    ("plain", Transport::Udp, |_| (), |_| ()),
    ("by TCP", Transport::Tcp, |_| (), |_| ()),
    (
        "through proxies",
        Transport::Udp,
        |invite| record_route(invite, "<sip:p1.example;lr>"),
        |ok| record_route(ok, "<sip:198.18.20.8;lr>"),
    ),
    ("with session timers", Transport::Udp, timers, timers),
    ("with Session-ID", Transport::Udp, |i| session_id(i, 'a'), |o| session_id(o, 'b')),
    ("with parameters of Contacts", Transport::Udp, |i| contact(i, LISTENS), |o| contact(o, PSAP)),
];

fn record_route(draft: &mut Draft, value: &str) {
    draft.push(HeaderId::RecordRoute, value);
}

fn timers(draft: &mut Draft) {
    draft.push(HeaderId::Supported, "timer");
    draft.push(HeaderId::SessionExpires, "1800;refresher=uac");
    draft.push(HeaderId::Allow, "INVITE, ACK, BYE, UPDATE");
}

fn session_id(draft: &mut Draft, digit: char) {
    let uuid = digit.to_string().repeat(32);
    draft.push(HeaderId::SessionId, format!("{uuid};remote={}", "0".repeat(32)));
}

fn contact(draft: &mut Draft, at: &str) {
    draft.set(HeaderId::Contact, format!("<sip:far@{at}>;+sip.instance=\"<urn:uuid:1>\";isfocus"));
}

/// What is asked next, and answered.
type Next = (&'static str, fn(&mut Rig));

const NEXT: [Next; 9] = [
    ("the caller hangs up", |s| answered(s, &Method::Bye, |_| ())),
    ("the PSAP hangs up", |s| answered_to_psap(s, &Method::Bye)),
    ("INFO of the caller", |s| answered(s, &Method::Info, |_| ())),
    ("INFO of the PSAP", |s| answered_to_psap(s, &Method::Info)),
    ("MESSAGE of the caller", |s| answered(s, &Method::Message, text)),
    ("UPDATE of the caller without a description", |s| answered(s, &Method::Update, |_| ())),
    ("re-INVITE of the caller", |s| {
        answered(s, &Method::Invite, |_| ());
        let ack = s.within(&Method::Ack, s.cseq);
        s.send(&ack);
    }),
    ("re-INVITE of the PSAP", |s| answered_to_psap(s, &Method::Invite)),
    ("BYE with another tag", |s| {
        let mut bye = s.within(&Method::Bye, 77);
        bye.set(HeaderId::From, "<sip:far@198.18.10.9:40001>;tag=else");
        s.send(&bye);
    }),
];

fn text(draft: &mut Draft) {
    draft.set_body(Some("text/plain"), "help".into());
}

/// The caller asks, and the PSAP takes whatever comes of it.
fn answered(s: &mut Rig, method: &Method, change: fn(&mut Draft)) {
    let got = s.requests(method, change);
    for request in got.iter().filter(|(m, _)| m.is_request() && m.method() == method) {
        let mut ok = request.0.response(200, None);
        if method == &Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>"));
            ok.set_body(Some("application/sdp"), sdp());
        }
        let to = SocketAddr::new(request.1.ip(), 5060);
        s.psap.put(&mut s.w, &mut ok, to, &[]);
    }
    s.advance(200);
}

/// The PSAP asks, and the caller takes whatever comes of it.
fn answered_to_psap(s: &mut Rig, method: &Method) {
    s.got();
    s.psap_requests(PSAP, method, |_| ());
    let got: Vec<Message> = s.got().into_iter().map(|(m, _)| m).filter(|m| m.is_request() && m.method() == method).collect();
    for request in got {
        let mut ok = request.response(200, None);
        if method == &Method::Invite {
            ok.push(HeaderId::Contact, format!("<sip:far@{LISTENS}>"));
            ok.set_body(Some("application/sdp"), sdp());
        }
        s.send(&ok);
    }
    s.advance(200);
}

/// Everything that nodes sent from there on, a message a line, without what is new in each: branches, and the numbers of our requests.
fn sent(s: &Rig, from: usize) -> Vec<String> {
    let all = s.w.sent.as_ref().expect("recorded");
    let ours = all[from..].iter().filter(|m| m.node.is_some() && !is_keepalive(&m.bytes));
    ours.map(|m| format!("{} > {} by {:?}\n{}", m.from, m.to, m.stream, plain(&m.bytes))).collect()
}

fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").expect("a whole message");
    let request = !head.starts_with("SIP/2.0");
    let lines = head.lines().map(|line| {
        let (name, value) = line.split_once(": ").unwrap_or((line, ""));
        match name {
            "Via" if request => format!("Via: {}", value.split(";branch=").next().unwrap_or_default()),
            "CSeq" if request => format!("CSeq: N {}", value.split(' ').next_back().unwrap_or_default()),
            _ => line.to_owned(),
        }
    });
    format!("{}\n\n{body}", lines.collect::<Vec<_>>().join("\n"))
}

/// The call, once as it is and once made again from its record.
fn both((_, transport, call, answer): Call) -> [Rig; 2] {
    let original = Rig::by(transport).established(call, answer);
    let mut restored = Rig::by(transport).established(call, answer);
    let uid = restored.w.nodes[0].replica.read().expect("no panic while held").calls(None).next().expect("recorded").uid;
    let now = restored.w.time();
    assert!(restored.w.nodes[0].sbc.restore_call(now, uid), "the record is enough");
    [original, restored]
}

#[test]
fn a_call_from_its_record_answers_as_the_original_does() {
    for call in CALLS {
        for (next, act) in NEXT {
            let [original, restored] = both(call).map(|mut stage| {
                let from = stage.w.sent.as_ref().map_or(0, Vec::len);
                act(&mut stage);
                stage.calm();
                sent(&stage, from)
            });
            assert!(!original.is_empty(), "{}: {next}", call.0);
            assert_eq!(restored, original, "{}: {next}", call.0);
        }
    }
}

#[test]
fn what_is_restored_is_counted_and_ends_as_the_original_does() {
    let [_, mut s] = both(CALLS[0]);
    assert_eq!(s.w.nodes[0].sbc.call_count(), 1);
    answered(&mut s, &Method::Bye, |_| ());
    s.advance(40_000);
    s.calm();
    let replica = s.w.nodes[0].replica.read().expect("no panic while held");
    assert!(replica.calls(None).all(|call| !call.is_live()), "the log hears of its end");
    drop(replica);
    assert_eq!(s.w.nodes[0].sbc.call_count(), 0, "and nothing is kept of it");
}

#[test]
fn what_is_not_answered_is_not_restored() {
    let mut s = Rig::by(Transport::Udp);
    let invite = s.invite_draft();
    s.dials_draft(&invite);
    s.advance(100);
    let uid = s.w.nodes[0].replica.read().expect("no panic while held").calls(None).next().expect("claimed").uid;
    let now = s.w.time();
    assert!(!s.w.nodes[0].sbc.restore_call(now, uid));
    assert_eq!(s.w.nodes[0].sbc.call_count(), 1, "the call goes on");
    s.psap_answers(|_| ()).expect("a 200");
}
