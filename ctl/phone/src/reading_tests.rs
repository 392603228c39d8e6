//! What is read, what is beyond rsip, and what does not pass.

use rsip::SipMessage;
use rsip::headers::ToTypedHeader;
use rsip::headers::untyped::{self, UntypedHeader};

use super::beyond::{self, Parts};
use super::*;

const GOOD: &str = "INVITE sip:112@psap.example:5070;transport=tcp SIP/2.0\r\n\
    Via: SIP/2.0/UDP 127.0.0.2:5070;branch=z9hG4bK1;rport\r\nVia: SIP/2.0/TCP h.example;branch=z9hG4bK2;received=127.0.0.3\r\n\
    Max-Forwards: 70\r\nRoute: <sip:p1.example;lr>,<sip:p2.example;lr>\r\nFrom: \"A, b\" <sip:x@h.example>;tag=yes\r\n\
    To: <sip:112@psap.example>\r\nCall-ID: id@h\r\nCSeq: 7 INVITE\r\nContact: <sip:x@127.0.0.2:5070;transport=udp>;expires=60\r\n\
    Content-Type: text/plain\r\nContent-Length: 3\r\n\r\nhi!";

fn parse(text: &str) -> Message {
    Message::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
}

/// GOOD with one text in place of another.
fn with(old: &str, new: &str) -> String {
    assert!(GOOD.contains(old), "{old}");
    GOOD.replacen(old, new, 1)
}

#[test]
fn a_canonical_message_is_read_by_rsip() {
    assert_eq!(reads_back(GOOD.as_bytes()), Ok(vec![]));
    assert_eq!(reads_back(with("CSeq: 7 ", "CSeq: 007 ").as_bytes()), Ok(vec![]));
    let m = parse(GOOD);
    assert_eq!((m.method(), m.status(), m.request_uri()), ("INVITE", 0, "sip:112@psap.example:5070;transport=tcp"));
    assert_eq!((m.cseq(), m.tag("From"), m.tag("To"), m.text().as_str()), ((7, "INVITE"), "yes", "", "hi!"));
    assert_eq!((m.uri("From"), m.uri("Contact")), ("sip:x@h.example", "sip:x@127.0.0.2:5070;transport=udp"));
    assert_eq!((m.list("Via").count(), m.list("Route").count()), (2, 2));
    let via = Via { sent_by: "127.0.0.2:5070".to_owned(), branch: "z9hG4bK1".to_owned(), rport: true };
    assert_eq!(m.via(), Some(via));
    assert_eq!(Message::parse(&m.bytes()), Some(m));
}

#[test]
fn what_a_phone_makes_is_canonical() {
    for at in ["127.0.0.1:5060", "[2001:db8::1]:5060"] {
        let at = at.parse().unwrap();
        let invite = Message::invite("sip:112@127.0.0.100", at, "UDP");
        let ok = invite.response(200, "OK", "abc").with("Contact", &message::contact("psap", at, None));
        let bye = Dialog::of_caller(&invite, &ok, at, "TLS").whole().unwrap().request("BYE");
        for made in [&invite, &ok, &bye, &invite.cancel(), &invite.ack_of(&ok), &ok.clone().seen_from(at)] {
            let beyond = reads_back(&made.bytes()).unwrap();
            assert!(at.is_ipv6() || beyond.is_empty(), "{made:?}: {beyond:?}");
            assert_eq!(Message::parse(&made.bytes()).as_ref(), Some(made));
            assert!(made.is_answerable());
        }
        assert_eq!((ok.status(), ok.tag("To"), ok.response(200, "OK", "other").tag("To")), (200, "abc", "abc"));
        let (ack, cancel) = (invite.ack_of(&ok), invite.cancel());
        assert_eq!((ack.cseq(), ack.tag("To"), ack.header("Via")), ((1, "ACK"), "abc", invite.header("Via")));
        assert_eq!((cancel.cseq(), cancel.header("Via"), cancel.body.len()), ((1, "CANCEL"), invite.header("Via"), 0));
        assert_eq!((bye.request_uri(), message::uri_address(bye.request_uri())), (ok.uri("Contact"), Some(at)));
    }
    assert_eq!(message::cseq(3, "FOO"), "3 FOO");
}

/// A reason, a message that has it, and whether that is read right.
type Case = (Beyond, String, fn(&Message) -> bool);

/// Each reason with a message that has it: it is told, rsip alone fails or reads something else, and the phone reads it all the same.
#[test]
fn what_is_beyond_rsip_is_read_by_the_wrapper() {
    let refuses = |text: &str| SipMessage::try_from(text).is_err();
    let cases: [Case; 16] = [
        (Beyond::Folded, with("70\r\n", "70\r\nSubject: a\r\n\t b\r\n"), |m| m.header("Subject") == "a b"),
        (Beyond::Compact, with("Call-ID:", "i:"), |m| m.header("Call-ID") == "id@h"),
        (Beyond::Name, with("Max-Forwards:", "Max-Forwards :"), |m| m.header("Max-Forwards") == "70"),
        (Beyond::Method, GOOD.replace("INVITE", "FOO"), |m| m.method() == "FOO" && m.cseq() == (7, "FOO")),
        (Beyond::Scheme, with("sip:112@psap.example:5070;transport=tcp", "urn:service:sos"), |m| {
            m.request_uri() == "urn:service:sos"
        }),
        (Beyond::Scheme, with("<sip:112@psap.example>", "<tel:+112>;tag=t"), |m| m.uri("To") == "tel:+112" && m.tag("To") == "t"),
        (Beyond::Ipv6, with("x@127.0.0.2:5070", "x@[::1]:5070"), |m| {
            message::uri_address(m.uri("Contact")) == "[::1]:5070".parse().ok()
        }),
        (Beyond::Ipv6, with("127.0.0.2:5070;branch", "[::1]:99;branch"), |m| {
            m.via().is_some_and(|v| v.sent_by == "[::1]:99" && v.branch == "z9hG4bK1" && v.rport)
        }),
        (Beyond::User, with("sip:x@h.example", "sip:a.b@h.example"), |m| {
            m.uri("From") == "sip:a.b@h.example" && m.tag("From") == "yes"
        }),
        (Beyond::UriHeaders, with("transport=udp>", "transport=udp?Replaces=a>"), |m| m.uri("Contact").ends_with("?Replaces=a")),
        (Beyond::DisplayName, with("\"A, b\"", "\"A <b>;tag=no\""), |m| {
            m.uri("From") == "sip:x@h.example" && m.tag("From") == "yes"
        }),
        (Beyond::Space, with("<sip:112@psap.example>", "< sip:112@psap.example >"), |m| m.uri("To") == "sip:112@psap.example"),
        (Beyond::Space, with("<sip:112@psap.example>", "sip:112@psap.example ;tag=t"), |m| m.tag("To") == "t"),
        (Beyond::Transport, with("SIP/2.0/UDP", "SIP/2.0/DCCP"), |m| m.via().is_some_and(|v| v.branch == "z9hG4bK1")),
        (Beyond::Transport, with("transport=udp", "transport=dccp"), |m| m.uri("Contact").ends_with(";transport=dccp")),
        (Beyond::Space, with(";branch=z9hG4bK1", " ; branch=z9hG4bK1"), |m| m.via().is_some_and(|v| v.branch == "z9hG4bK1")),
    ];
    for (reason, text, right) in cases {
        assert_eq!(reads_back(text.as_bytes()), Ok(vec![reason]), "{text}");
        assert!(right(&parse(&text)), "{text}");
        let typed = |name: &str| {
            let read = SipMessage::try_from(text.as_str()).ok();
            let header =
                read.and_then(|m| rsip::message::HasHeaders::headers(&m).iter().map(beyond::field).find(|(n, _)| n == name));
            header.map(|(_, value)| value).unwrap_or_default()
        };
        let from = untyped::From::new(typed("From")).typed();
        let wrong = match reason {
            // Not one that we ask for by its name.
            Beyond::Compact => typed("Call-ID").is_empty(),
            Beyond::Ipv6 | Beyond::UriHeaders => {
                let contact = untyped::Contact::new(typed("Contact")).typed();
                let via = untyped::Via::new(typed("Via")).typed();
                contact.is_err() || via.is_err() || !text.contains(&contact.unwrap().to_string())
            }
            Beyond::User => from.is_ok_and(|from| from.uri.user() != Some("a.b")),
            Beyond::DisplayName => from.is_err() || from.is_ok_and(|from| from.to_string() != typed("From")),
            Beyond::Transport => {
                let contact = untyped::Contact::new(typed("Contact")).typed();
                contact.is_err() || untyped::Via::new(typed("Via")).typed().is_err()
            }
            Beyond::Space if !text.contains(" ; branch") => {
                let to = untyped::To::new(typed("To")).typed();
                to.is_ok_and(|to| to.uri.host_with_port.to_string() != "psap.example" || to.to_string() != typed("To"))
            }
            Beyond::Space => untyped::Via::new(typed("Via")).typed().is_ok_and(|via| via.branch().is_none()),
            Beyond::Scheme => {
                refuses(&text) || untyped::To::new(typed("To")).typed().is_ok_and(|to| to.uri.user() != Some("+112"))
            }
            _ => refuses(&text),
        };
        assert!(wrong, "rsip reads it: {reason:?}");
    }
    let octets = [with("\"A, b\"", "\"A\"").replace('A', "\u{1}").into_bytes()].concat();
    let octets: Vec<u8> = octets.into_iter().map(|b| if b == 1 { 0xe9 } else { b }).collect();
    assert_eq!(reads_back(&octets), Ok(vec![Beyond::NotText]));
    assert!(SipMessage::try_from(octets.as_slice()).is_err() && Message::parse(&octets).is_some_and(|m| m.tag("From") == "yes"));
    let quoted = with(";expires=60", ";+sip.instance=\"<urn:uuid:1>\"");
    assert_eq!(reads_back(quoted.as_bytes()), Ok(vec![Beyond::Parameter]));
    assert_eq!(parse(&quoted).uri("Contact"), "sip:x@127.0.0.2:5070;transport=udp");
}

/// rsip writes a body of octets as text; nobody asks it to.
#[test]
fn a_body_of_octets_comes_out_as_it_went_in() {
    let body: Vec<u8> = (0..=255).collect();
    let message = parse(GOOD).with_body("application/octet-stream", body.clone());
    assert_eq!(
        (reads_back(&message.bytes()), Message::parse(&message.bytes()).map(|m| m.body)),
        (Ok(vec![]), Some(body.clone()))
    );
    let read = SipMessage::try_from(message.bytes()).unwrap();
    assert!(read.body() == &body && !read.to_string().into_bytes().ends_with(&body));
}

/// What the check is for: each of these is a fault of who sent it.
#[test]
fn what_nobody_should_send_does_not_pass() {
    for (old, new, why) in [
        ("Length: 3", "Length: 4", "Content-Length"),
        ("Length: 3", "Length: three", "Content-Length"),
        ("Call-ID: id@h\r\n", "", "no Call-ID"),
        ("Call-ID: id@h", "Call-ID:", "no Call-ID"),
        ("CSeq: 7 INVITE", "CSeq: 7", "CSeq"),
        ("CSeq: 7 INVITE", "CSeq: 4294967296 INVITE", "CSeq"),
        ("CSeq: 7 INVITE", "CSeq: +7 INVITE", "CSeq"),
        ("Max-Forwards: 70", "Max-Forwards 70", "lines with a colon"),
        ("INVITE sip", " INVITE sip", "refuses"),
        ("tcp SIP/2.0", "tcp SIP/3.0", "refuses"),
        ("psap.example:5070", "psap.example:66000", "refuses"),
        ("psap.example:5070", "psap.example:", "refuses"),
        ("sip:112@psap.example:5070", "sip:112@:5070", "sip:112@:5070"),
        ("x@127.0.0.2:5070", "x@127.0.0.2:66000", "Contact"),
        ("SIP/2.0/UDP", "SIP/2.0-UDP", "Via"),
        ("SIP/2.0/UDP", "SIP/2.0/", "Via"),
        ("SIP/2.0/UDP", "SIP/3.0/UDP", "Via"),
        ("<sip:112@psap.example>", "<sip:112@psap.example", "To"),
        ("example>;tag=yes", "example>tag=yes", "From"),
        ("<sip:p2.example;lr>", "<>", "Route"),
    ] {
        let text = with(old, new);
        let error = reads_back(text.as_bytes()).expect_err(&text);
        assert!(error.contains(why), "{new}: {error}");
    }
    for text in ["", "hello\r\n\r\n", "\r\n\r\n", "SIP/2.0 200\r\n\r\n", "SIP/2.0 abc OK\r\nVia: x\r\n\r\n"] {
        assert!(reads_back(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_message_is_none() {
    assert_eq!(Message::parse(b"hello\r\n\r\n"), None);
    assert_eq!(Message::parse(b"INVITE sip:a SIP/2.0\r\n"), None);
    assert_eq!(Message::parse(with("Length: 3", "Length: 4").as_bytes()), None, "cut short");
    assert_eq!(Message::parse(with("70\r\n", &format!("70\r\n{}", "X: y\r\n".repeat(300))).as_bytes()), None);
    assert_eq!(parse(&with("Length: 3", "Length: 2")).text(), "hi", "what follows is not its body");
    assert!(!parse(&with("CSeq: 7 ", "CSeq: x ")).is_answerable() && !parse(&with("Call-ID: id@h\r\n", "")).is_answerable());
    assert!(parse("SIP/2.0 299 \r\nSubject: x\r\n\r\n").status() == 299, "an empty reason");
}

#[test]
fn where_the_request_was_seen_to_come_from() {
    let answer = parse(GOOD).response(200, "OK", "mine").seen_from(([127, 0, 0, 9], 999).into());
    let vias: Vec<&str> = answer.list("Via").collect();
    assert_eq!(vias[0], "SIP/2.0/UDP 127.0.0.2:5070;branch=z9hG4bK1;rport=999;received=127.0.0.9");
    assert_eq!(vias[1], "SIP/2.0/TCP h.example;branch=z9hG4bK2;received=127.0.0.3");
    let listed = parse(&GOOD.replace("\r\nVia: SIP/2.0/TCP", ", SIP/2.0/TCP"))
        .response(200, "OK", "")
        .seen_from(([127, 0, 0, 9], 999).into());
    assert_eq!(listed.list("Via").collect::<Vec<_>>(), vias);
}

#[test]
fn addresses_of_uris() {
    let address = |uri| message::uri_address(uri).map(|a| a.to_string());
    assert_eq!(address("sip:tok@127.0.0.1:5070;transport=udp").as_deref(), Some("127.0.0.1:5070"));
    assert_eq!(address("sip:127.0.0.1").as_deref(), Some("127.0.0.1:5060"));
    assert_eq!(address("sip:a.b@127.0.0.1:5070").as_deref(), Some("127.0.0.1:5070"));
    assert_eq!(address("sip:x@[::1]:99").as_deref(), Some("[::1]:99"));
    assert_eq!(address("sip:x@[::1]").as_deref(), Some("[::1]:5060"));
    assert_eq!((address("sip:x@host.example"), address("tel:112")), (None, None));
    assert_eq!(Parts::of("\"never closed <sip:a@h>"), None);
    let parts = Parts { display: "\"a \\\" <b>\"", uri: "sip:a@h", parameters: ";x" };
    assert_eq!(Parts::of("\"a \\\" <b>\" <sip:a@h> ;x"), Some(parts));
}
