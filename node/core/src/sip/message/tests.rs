//! Messages in the manner of RFC 4475 and RFC 5118: odd but valid ones, and bad ones with the answer they get.

use super::super::limits::{MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_LINE, MAX_URI};
use super::*;

const ODD: &str = "\r\nINVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\nTO :\r\n sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n\
    from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n  ;\r\n  tag = 98asjd8\r\nMaX-fOrWaRdS: 0068\r\n\
    Call-ID: wsinv.ndaksdj@10.0.0.1\r\ncseq: 0009\r\n  INVITE\r\nVia  : SIP  /   2.0\r\n /UDP\r\n    10.0.0.2;branch=390skdjuw\r\ns :\r\n\
    NewFangledHeader:   newfangled value\r\n continued newfangled value\r\nUnknownHeaderWithUnusualValue: ;;,,;;,;\r\n\
    Route:\r\n <sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n\
    v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n  branch  =   z9hG4bK9ikj8  ,\r\n SIP  /    2.0   / UDP  10.168.255.111   ; branch=\r\n z9hG4bK30239\r\n\
    m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n      newvalue ;\r\n  secondparam ; q = 0.33\r\nl: 4\r\n\r\nbodyINVITE sip:second@example.com SIP/2.0\r\n";

const PLAIN: &str = "INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP h.example;branch=z9hG4bK1, SIP/2.0/UDP i;branch=z9hG4bK2\r\nMax-Forwards: 70\r\n\
    From: \"A, B\" <sip:a@b>;tag=f1\r\nTo: <urn:service:sos>\r\nCall-ID: c1@h\r\nCSeq: 4711 INVITE\r\nTimestamp: 5.4\r\n\
    Supported: a, b\r\nk: c\r\nDate: Sat, 13 Nov 2010 23:29:00 GMT\r\nX-Odd:  two  spaces\t\r\nContent-Type: application/sdp\r\nContent-Length: 3\r\n\r\nv=0";

fn parse(text: &str) -> Message {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap_or_else(|error| panic!("{error:?}\n{text:.2000}"))
}

fn fail(text: &str) -> ParseError {
    Message::parse(Bytes::copy_from_slice(text.as_bytes())).err().unwrap_or_else(|| panic!("taken:\n{text:.2000}"))
}

#[test]
fn a_plain_request() {
    let message = parse(PLAIN);
    assert!(message.is_request());
    assert_eq!((message.method(), message.request_uri(), message.status()), (&Method::Invite, Some("urn:service:sos"), None));
    assert_eq!((message.call_id(), message.cseq(), message.from_tag(), message.to_tag()), ("c1@h", 4711, Some("f1"), None));
    assert_eq!((message.from(), message.to()), ("\"A, B\" <sip:a@b>;tag=f1", "<urn:service:sos>"));
    assert_eq!((message.top_via().branch(), message.values(HeaderId::Via).count()), (Some("z9hG4bK1"), 2));
    assert_eq!(message.values(HeaderId::Supported).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(message.all(HeaderId::Supported).collect::<Vec<_>>(), ["a, b", "c"]);
    assert_eq!(message.values(HeaderId::Date).collect::<Vec<_>>(), ["Sat, 13 Nov 2010 23:29:00 GMT"]);
    assert_eq!(
        (message.first_named("x-ODD"), message.first_named("K"), message.first_named("x-no")),
        (Some("two  spaces"), Some("a, b"), None)
    );
    assert_eq!((message.number(HeaderId::MaxForwards), message.number(HeaderId::Date)), (Some(70), None));
    assert_eq!((message.content_type(), message.body()), (Some("application/sdp"), Bytes::from_static(b"v=0")));
    assert_eq!(message.raw(), PLAIN.as_bytes());
}

#[test]
fn white_space_folds_and_compact_forms() {
    let message = parse(ODD);
    assert_eq!((message.call_id(), message.cseq(), message.method()), ("wsinv.ndaksdj@10.0.0.1", 9, &Method::Invite));
    assert_eq!((message.from_tag(), message.to_tag()), (Some("98asjd8"), Some("1918181833n")));
    assert_eq!((message.top_via().transport(), message.top_via().host()), ("UDP", "10.0.0.2"));
    let vias: Vec<Via> = message.values(HeaderId::Via).map(|value| Via::parse(value).expect("valid")).collect();
    assert_eq!(
        vias.iter().map(|via| via.branch()).collect::<Vec<_>>(),
        [Some("390skdjuw"), Some("z9hG4bK9ikj8"), Some("z9hG4bK30239")]
    );
    assert_eq!(message.first_named("newfangledheader"), Some("newfangled value continued newfangled value"));
    assert_eq!((message.first(HeaderId::Subject), message.number(HeaderId::MaxForwards)), (Some(""), Some(68)));
    assert_eq!(message.body(), Bytes::from_static(b"body"), "what follows the body is no part of it");
    assert!(message.raw().starts_with(b"INVITE") && message.raw().ends_with(b"body"));
    assert!(message.headers().all(|field| !field.value.contains(['\r', '\n'])));
}

#[test]
fn an_unchanged_header_leaves_as_it_came() {
    for text in [ODD, PLAIN] {
        let message = parse(text);
        let mut draft = Draft::request(message.method(), message.request_uri().expect("request"));
        message.headers().for_each(|field| {
            draft.push_field(&field);
        });
        draft.set_body(None, message.body());
        let again = Message::parse(draft.encode().expect("encodes")).expect("valid");
        let list = |message: &Message| {
            let kept = message.headers().filter(|field| field.id != HeaderId::ContentLength);
            kept.map(|field| (field.name.to_owned(), field.value.to_owned())).collect::<Vec<_>>()
        };
        assert_eq!((list(&again), again.body()), (list(&message), message.body()));
    }
}

#[test]
fn responses() {
    let response = |start: &str| {
        PLAIN.replace("INVITE urn:service:sos SIP/2.0", start).replace("To: <urn:service:sos>", "To: <sip:x>;tag=t")
    };
    let message = parse(&response("SIP/2.0 200 = 2**3 * 5**2 но"));
    assert!(!message.is_request());
    assert_eq!((message.status(), message.reason(), message.method()), (Some(200), "= 2**3 * 5**2 но", &Method::Invite));
    assert_eq!((message.request_uri(), message.to_tag()), (None, Some("t")));
    for start in ["SIP/2.0 100 ", "sip/2.0 100"] {
        assert_eq!((parse(&response(start)).status(), parse(&response(start)).reason()), (Some(100), ""));
    }
    for start in ["SIP/2.0 4294967301 better", "SIP/2.0 99 x", "SIP/2.0 700 x", "SIP/2.0 +20 x", "SIP/7.0 200 OK", "SIP/2.0"] {
        let error = fail(&response(start));
        assert_eq!((error.status, error.reply()), (None, None), "{start}");
    }
}

#[test]
fn a_response_copies_what_it_must() {
    let message = parse(PLAIN);
    let mut draft = message.response(486, None);
    let copied = "Via: SIP/2.0/UDP h.example;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP i;branch=z9hG4bK2\r\nFrom: \"A, B\" <sip:a@b>;tag=f1\r\n\
        To: <urn:service:sos>\r\nCall-ID: c1@h\r\nCSeq: 4711 INVITE\r\n";
    let encoded = |draft: &Draft| String::from_utf8(draft.encode().expect("encodes").to_vec()).expect("UTF-8");
    assert_eq!(encoded(&draft), format!("SIP/2.0 486 Busy Here\r\n{copied}Content-Length: 0\r\n\r\n"));
    assert_eq!(
        encoded(&message.response(100, Some("Try"))),
        format!("SIP/2.0 100 Try\r\n{copied}Timestamp: 5.4\r\nContent-Length: 0\r\n\r\n")
    );
    draft.replace_first(HeaderId::Via, message.top_via().with_received("10.0.0.1:9".parse().expect("address")));
    let parsed = Message::parse(draft.encode().expect("encodes")).expect("valid");
    assert_eq!(parsed.top_via().received(), Some("10.0.0.1".parse().expect("address")));
    assert_eq!(parsed.values(HeaderId::Via).count(), 2);
}

#[test]
fn bad_requests_are_answered() {
    use ParseErrorKind as Kind;
    let swap = |from: &str, to: &str| {
        assert!(PLAIN.contains(from), "{from}");
        PLAIN.replace(from, to)
    };
    let line = "INVITE urn:service:sos SIP/2.0";
    let long_uri = format!("INVITE sip:{}@h SIP/2.0", "a".repeat(MAX_URI));
    for (text, kind, status) in [
        (swap(line, "INVITE  urn:service:sos SIP/2.0"), Kind::StartLine, 400),
        (swap(line, "INVITE urn:service:sos  SIP/2.0"), Kind::StartLine, 400),
        (swap(line, "INVITE urn:service:sos SIP/2.0 "), Kind::StartLine, 400),
        (swap(line, "INVITE <sip:a@b> SIP/2.0"), Kind::StartLine, 400),
        (swap(line, "INVITE sip:a@b; lr SIP/2.0"), Kind::StartLine, 400),
        (swap(line, "INVITE urn:service:sos SIP/7.0"), Kind::Version, 505),
        (swap(line, &long_uri), Kind::UriTooLong, 414),
        (swap("4711 INVITE", "4711 OPTIONS"), Kind::CSeqMethod, 400),
        (swap("4711 INVITE", "2147483648 INVITE"), Kind::CSeq, 400),
        (swap("4711 INVITE", "36893488147419103232 INVITE"), Kind::CSeq, 400),
        (swap("4711 INVITE", "+1 INVITE"), Kind::CSeq, 400),
        (swap("4711 INVITE", "4711"), Kind::CSeq, 400),
        (swap("From: \"A, B\" <sip:a@b>;tag=f1\r\n", ""), Kind::Missing(HeaderId::From), 400),
        (swap("To: <urn:service:sos>", "To: \"Mr. J. User <sip:j@example.com>"), Kind::To, 400),
        (swap("To: <urn:service:sos>", "To: "), Kind::To, 400),
        (swap("\"A, B\" <sip:a@b>", "<sip:a@b"), Kind::From, 400),
        (swap("c1@h", "c1 @h"), Kind::CallId, 400),
        (swap("Max-Forwards: 70", "Call-ID: c2"), Kind::Duplicate(HeaderId::CallId), 400),
        (swap("Max-Forwards: 70", "l: 3"), Kind::Duplicate(HeaderId::ContentLength), 400),
        (swap("Length: 3", "Length: -3"), Kind::ContentLength, 400),
        (swap("Length: 3", "Length: 3, 3"), Kind::ContentLength, 400),
        (swap("Length: 3", "Length: 4"), Kind::Truncated, 400),
        (swap("Length: 3", "Length: 99999999999999999999999999"), Kind::BodyTooLarge, 413),
        (swap("Max-Forwards: 70", "v SIP/2.0/UDP h.example;branch=z9hG4bK0"), Kind::Header, 400),
        (swap("Max-Forwards: 70", "To <urn:service:sos>"), Kind::Header, 400),
        (swap("Max-Forwards: 70", "Max-Forwards: 70\r\nMax-Forwards: 70"), Kind::Duplicate(HeaderId::MaxForwards), 400),
        (swap("Max-Forwards: 70\r\n", "Max-Forwards: 70\n"), Kind::LineBreak, 400),
        (swap("Max-Forwards: 70", "X: a\rb"), Kind::LineBreak, 400),
        (swap("Max-Forwards: 70", "X: a\0b"), Kind::LineBreak, 400),
        (swap("Max-Forwards: 70", &format!("X: {}", "a".repeat(MAX_LINE))), Kind::LineTooLong, 400),
        (swap("Max-Forwards: 70", &"X: a\r\n".repeat(MAX_HEADERS)[..MAX_HEADERS * 6 - 2]), Kind::TooManyHeaders, 513),
        (swap("Max-Forwards: 70", &"X: a\r\n".repeat(MAX_HEAD / 6)[..MAX_HEAD / 6 * 6 - 2]), Kind::HeadTooLarge, 513),
        (swap("\r\n\r\nv=0", "\r\n"), Kind::Unterminated, 400),
        (swap("Length: 3\r\n\r\nv=0", &format!("Length: {}\r\n\r\nv=0", MAX_BODY + 1)), Kind::BodyTooLarge, 413),
    ] {
        let error = fail(&text);
        assert_eq!((error.kind, error.status), (kind, Some(status)), "{text:.400}");
        assert!(!error.label().is_empty());
        let Some(reply) = error.reply() else { panic!("no reply: {kind:?}") };
        assert_eq!(error.salvaged_via().and_then(Via::branch), Some("z9hG4bK1"));
        let encoded = reply.encode().unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        let sent = String::from_utf8_lossy(&encoded);
        assert!(sent.starts_with(&format!("SIP/2.0 {status} ")) && sent.contains("Via: SIP/2.0/UDP i;branch=z9hG4bK2"), "{sent}");
        assert_eq!(encoded, error.reply().and_then(|reply| reply.encode().ok()).expect("again"), "the same tag again");
    }
}

/// RFC 3261 §8.2.2: what is malformed and not needed is ignored, and does not go on.
#[test]
fn a_line_that_is_no_field_costs_no_call() {
    for line in ["no colon", ": empty", "Max Forwards: 70", "X-Odd\t(comment): 1", "\u{fc}ber: 1"] {
        let message = parse(&PLAIN.replacen("Max-Forwards: 70", line, 1));
        assert_eq!(message.first_named("Max-Forwards"), None, "{line}");
        assert_eq!((message.call_id(), message.headers().count()), ("c1@h", parse(PLAIN).headers().count() - 1), "{line}");
    }
}

/// Found by fuzzing: what has as many fields as are allowed, and no Content-Length, can be read again once it was written with one.
#[test]
fn a_full_head_has_room_for_the_length() {
    let others = PLAIN.matches("\r\n").count() - 3;
    let full = PLAIN.replace("Max-Forwards: 70", &"X: a\r\n".repeat(MAX_HEADERS - others)[..(MAX_HEADERS - others) * 6 - 2]);
    let without = full.replace("Content-Length: 3\r\n", "");
    let count = |text: &str| parse(text).headers().count();
    assert!(count(&without) <= MAX_HEADERS && count(&full) == count(&without) + 1);
    let one_more = without.replace("X: a\r\n", "X: a\r\nX: b\r\n");
    assert_eq!(fail(&one_more).kind, ParseErrorKind::TooManyHeaders);
}

/// A response that its request can be found by is taken: refusing it tells nobody, and loses the call.
#[test]
fn a_response_is_not_lost_for_what_nobody_needs() {
    let ok = PLAIN.replace("INVITE urn:service:sos SIP/2.0", "SIP/2.0 486 Busy Here");
    for odd in [ok.replace("Max-Forwards: 70", "no colon"), ok.replace("Max-Forwards: 70", "Max-Forwards: 70\r\nMax-Forwards: 7")]
    {
        assert_eq!((parse(&odd).status(), parse(&odd).cseq()), (Some(486), 4711));
    }
    let mut octets = ok.clone().into_bytes();
    octets.splice(12..16, *b"Occup\xe9");
    assert_eq!(Message::parse(Bytes::from(octets)).expect("Latin-1 phrase").status(), Some(486));
    assert_eq!(fail(&ok.replace("Max-Forwards: 70", "Call-ID: c2")).kind, ParseErrorKind::Duplicate(HeaderId::CallId));
}

#[test]
fn the_reply_to_a_bad_request_is_a_valid_response() {
    let error = fail(&PLAIN.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"));
    let reply = Message::parse(error.reply().expect("a reply").encode().expect("encodes")).expect("valid");
    assert_eq!((reply.status(), reply.call_id(), reply.cseq(), reply.from_tag()), (Some(505), "c1@h", 4711, Some("f1")));
    assert!(reply.to_tag().is_some());
}

#[test]
fn what_gets_no_answer() {
    for text in [
        "".into(),
        "\r\n\r\n".into(),
        "hello".into(),
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(),
        "INVITE sip:a@b\r\n\r\n".into(),
        PLAIN.replace("INVITE", "ACK").replace("4711 ACK", "x ACK"),
        PLAIN.replace("Via: SIP/2.0/UDP h.example", "Via: SIP/2.0/UDP :"),
        PLAIN.replace("Via", "X-Via"),
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\r\n\r\n".into(),
    ] {
        assert_eq!(fail(&text).reply(), None, "{text}");
    }
}

#[test]
fn octets_that_are_no_utf8() {
    let latin = |from: &str| {
        let at = PLAIN.find(from).expect("there") + from.len();
        let mut octets = PLAIN.as_bytes().to_vec();
        octets.insert(at, 0xe9);
        Message::parse(Bytes::from(octets))
    };
    let message = latin("From: \"A").expect("a Latin-1 display name costs no call");
    assert_eq!(super::super::readable(message.from()), "\"Aé, B\" <sip:a@b>;tag=f1");
    assert_eq!(message.from_tag(), Some("f1"));
    let answer = message.response(180, Some("Klingelt")).encode().expect("encodes");
    assert!(memchr::memmem::find(&answer, b"From: \"A\xe9, B\" <sip:a@b>;tag=f1\r\n").is_some(), "as it came");
    for place in ["Call-ID: c1", "branch=z9hG4bK1", "INVITE urn:"] {
        assert_eq!(latin(place).err().map(|error| error.status), Some(Some(400)), "{place}");
    }
    let utf8 = PLAIN.replace("A, B", "Ünï, 日本");
    assert_eq!(parse(&utf8).from(), "\"Ünï, 日本\" <sip:a@b>;tag=f1");
}

#[test]
fn without_content_length_the_rest_is_the_body() {
    let text = PLAIN.replace("Content-Length: 3\r\n", "").replace("v=0", "v=0\r\n\r\n\0rest");
    assert_eq!(parse(&text).body(), Bytes::from_static(b"v=0\r\n\r\n\0rest"));
    let large = text + &"x".repeat(MAX_BODY);
    assert_eq!(fail(&large).status, Some(413));
    assert_eq!(parse(&PLAIN.replace("Length: 3", "Length: 000000000000000000003")).body().len(), 3);
}

#[test]
fn ipv6_everywhere() {
    let text = PLAIN
        .replace("urn:service:sos SIP", "sip:911@[2001:db8::10] SIP")
        .replace("h.example;", "[2001:db8::9:1]:5061;received=2001:db8::9:255;")
        .replace("c1@h", "c1@[2001:db8::1]");
    let message = parse(&text);
    assert_eq!((message.request_uri(), message.call_id()), (Some("sip:911@[2001:db8::10]"), "c1@[2001:db8::1]"));
    assert_eq!((message.top_via().host(), message.top_via().port()), ("2001:db8::9:1", Some(5061)));
}

#[test]
fn extreme_values_of_the_limits_are_taken() {
    let longest = format!("INVITE sip:{}@h SIP", "a".repeat(MAX_URI - 6));
    let long_line = format!("X: {}", "b".repeat(MAX_LINE - 3));
    let many = "Y: 1\r\n".repeat(MAX_HEADERS - 13);
    let text =
        PLAIN.replace("INVITE urn:service:sos SIP", &longest).replace("Max-Forwards: 70\r\n", &format!("{long_line}\r\n{many}"));
    assert_eq!(parse(&text).headers().count(), MAX_HEADERS);
}
