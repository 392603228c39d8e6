//! MESSAGE and PUBLISH outside of a dialog (RFC 3428, RFC 3903): from target to target, and copies of them.

use bytes::Bytes;
use sbc_core::io::Counter;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::{Rig, URI};

/// A sender, and two targets.
fn sender() -> Rig {
    Rig::toward_two(3, "198.18.10.7:5060", |_| ())
}

impl Rig {
    /// A text to the anycast address, or to a node's own.
    fn texts(&mut self, uri: &str, node: Option<usize>) {
        let mut draft = self.caller.initial(&Method::Message, uri, "t", 1);
        draft.remove(HeaderId::Contact);
        draft.set_body(Some("text/plain;charset=UTF-8"), Bytes::from_static("Feuer! \u{1f525}".as_bytes()));
        let to = node.map_or(self.w.anycast, |n| self.w.nodes[n].unicast);
        self.caller.put(&mut self.w, &mut draft, to, &[("X-Odd", "kept"), ("Geolocation", "<cid:here>")]);
        self.advance(50);
    }
}

#[test]
fn a_text_reaches_the_psap_and_its_answer_the_sender() {
    let mut s = sender();
    s.texts(URI, None);
    let got = s.psap.request(&s.w, &Method::Message);
    let text = String::from_utf8_lossy(got.0.raw()).into_owned();
    assert_eq!(got.0.request_uri(), Some("sip:112@198.18.20.8:5060"));
    assert_eq!(&got.0.body()[..], "Feuer! \u{1f525}".as_bytes());
    for kept in
        ["X-Odd: kept\r\n", "Geolocation: <cid:here>\r\n", "Content-Type: text/plain;charset=UTF-8\r\n", "Max-Forwards: 69\r\n"]
    {
        assert!(text.contains(kept), "{kept} in {text}");
    }
    assert!(!text.contains("198.18.112.112") && got.0.call_id() != "t", "rule F, and no dialog of the sender's");
    s.psap.answer(&mut s.w, &got, 202, &[("X-Desk", "7")]);
    s.advance(50);
    let told = s.caller_got();
    let [ok] = &told[..] else { panic!("{told:?}") };
    assert_eq!((ok.status(), ok.first_named("X-Desk"), ok.call_id()), (Some(202), Some("7"), "t"));
    assert!(ok.to_tag().is_some_and(|tag| tag != "far"));
    assert_eq!(s.w.counted(Counter::MessageReceived("sos")), 1);
    // The same again is answered from memory.
    s.texts(URI, None);
    assert_eq!(s.caller_got().iter().map(Message::status).collect::<Vec<_>>(), [Some(202)]);
    assert!(s.psap.inbox(&s.w).is_empty());
}

#[test]
fn from_target_to_target() {
    // Silence, a 503, and the user's own answer.
    for (status, second) in [(0, true), (503, true), (404, false)] {
        let mut s = sender();
        s.texts(URI, None);
        let got = s.psap.request(&s.w, &Method::Message);
        if status > 0 {
            s.psap.answer(&mut s.w, &got, status, &[]);
        }
        s.advance(2500);
        let at_second = s.second.inbox(&s.w);
        assert_eq!(!at_second.is_empty(), second, "{status}");
        if second {
            s.second.answer(&mut s.w, &at_second[0], 200, &[]);
            s.advance(50);
        }
        let expected = if second { 200 } else { status };
        assert_eq!(s.caller_got().iter().filter_map(Message::status).collect::<Vec<_>>(), [expected], "{status}");
    }
}

/// What a slow target took, it took, whoever was asked after it.
#[test]
fn a_slow_target_is_heard_after_all() {
    let mut s = sender();
    s.texts(URI, None);
    let got = s.psap.request(&s.w, &Method::Message);
    s.advance(2500);
    s.second.request(&s.w, &Method::Message);
    s.psap.answer(&mut s.w, &got, 200, &[]);
    s.advance(50);
    assert_eq!(s.caller_got().iter().filter_map(Message::status).collect::<Vec<_>>(), [200]);
    s.second.inbox(&s.w);
    s.w.run_until(90_000);
    assert!(s.second.inbox(&s.w).is_empty() && s.caller_got().is_empty());
    assert_eq!(s.w.nodes.iter().map(|n| n.sbc.transaction_count()).sum::<usize>(), 0);
}

#[test]
fn nobody_there_is_told_in_time() {
    let mut s = sender();
    s.texts(URI, None);
    s.w.run_until(25_000);
    let trying: Vec<u16> = s.caller_got().iter().filter_map(Message::status).collect();
    assert_eq!(trying, [100], "RFC 4320 §4.1");
    s.w.run_until(31_000);
    let told = s.caller_got();
    assert_eq!(told.iter().filter_map(Message::status).collect::<Vec<_>>(), [480], "before the sender's own timer");
    s.w.run_until(90_000);
    assert!(s.caller_got().is_empty());
}

/// A copy that BGP brought to another node: the far end knows it for the same request (rule C).
#[test]
fn copies_at_two_nodes_are_one_request() {
    let mut s = sender();
    s.texts(URI, Some(0));
    let one = s.psap.request(&s.w, &Method::Message).0;
    s.texts(URI, Some(1));
    let two = s.psap.inbox(&s.w).into_iter().map(|(m, _)| m).find(|m| m.top_via().branch() != one.top_via().branch());
    let two = two.expect("the other node's");
    let same = |m: &Message| (m.call_id().to_owned(), m.from_tag().map(str::to_owned), m.cseq());
    assert_eq!(same(&one), same(&two));
}

#[test]
fn what_has_no_route_is_refused() {
    let mut s = sender();
    s.texts("sip:49@198.18.112.112", None);
    assert_eq!(s.caller_got().iter().filter_map(Message::status).collect::<Vec<_>>(), [404]);
    assert!(s.psap.inbox(&s.w).is_empty());
}

/// RFC 3903: the entity tag and what conditions it cross both ways, as does a refusal with what it says.
#[test]
fn a_publication_crosses() {
    for (status, name, value) in
        [(200, "SIP-ETag", "dx200xyz"), (412, "X-Why", "gone"), (423, "Min-Expires", "3600"), (489, "Allow-Events", "presence")]
    {
        let mut s = sender();
        let mut draft = s.caller.initial(&Method::Publish, URI, "p", 1);
        draft.remove(HeaderId::Contact);
        draft.set_body(Some("application/pidf+xml"), Bytes::from_static(b"<presence/>\r\n"));
        let to = s.w.anycast;
        s.caller.put(&mut s.w, &mut draft, to, &[("Event", "presence"), ("SIP-If-Match", "kwj449x"), ("Expires", "1800")]);
        s.advance(50);
        let got = s.psap.request(&s.w, &Method::Publish);
        let text = String::from_utf8_lossy(got.0.raw()).into_owned();
        for kept in ["SIP-If-Match: kwj449x\r\n", "Event: presence\r\n", "Expires: 1800\r\n", "\r\n\r\n<presence/>\r\n"] {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        s.psap.answer(&mut s.w, &got, status, &[(name, value), ("Expires", "1700")]);
        s.advance(50);
        let told = s.caller_got();
        let [answer] = &told[..] else { panic!("{told:?}") };
        assert_eq!((answer.status(), answer.first_named(name)), (Some(status), Some(value)));
        assert_eq!(answer.first(HeaderId::Expires), Some("1700"));
        assert_eq!(s.w.counted(Counter::MessageReceived("sos")), 0, "it is no text");
        assert!(s.w.violations.is_empty());
    }
}
