//! The message corpus (RFC 4475, RFC 5118 and our own) at the parser and at a whole node without a network. Live nodes get the same
//! messages in `cluster-tests/tests/corpus.rs`.

#[path = "corpus/format.rs"]
mod format;
#[path = "../fuzz/bodies/lab.rs"]
#[allow(dead_code, reason = "shared with the fuzz bodies, which use more of it")]
mod lab;

use bytes::Bytes;
use format::{Entry, Seen, entries};
use lab::{ANYCAST, CALLER, CHALLENGED, CORE, Lab, PSAP, at};
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

/// RFC 4475 §3.1-3.4 and RFC 5118 §4: each section that has a message.
const SECTIONS: [(&str, &[&str]); 2] = [
    (
        "rfc4475",
        &[
            "3.1.1.1", "3.1.1.2", "3.1.1.3", "3.1.1.4", "3.1.1.5", "3.1.1.6", "3.1.1.7", "3.1.1.8", "3.1.1.9", "3.1.1.10",
            "3.1.1.11", "3.1.1.12", "3.1.1.13", "3.1.2.1", "3.1.2.2", "3.1.2.3", "3.1.2.4", "3.1.2.5", "3.1.2.6", "3.1.2.7",
            "3.1.2.8", "3.1.2.9", "3.1.2.10", "3.1.2.11", "3.1.2.12", "3.1.2.13", "3.1.2.14", "3.1.2.15", "3.1.2.16", "3.1.2.17",
            "3.1.2.18", "3.1.2.19", "3.2.1", "3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5", "3.3.6", "3.3.7", "3.3.8", "3.3.9",
            "3.3.10", "3.3.11", "3.3.12", "3.3.13", "3.3.14", "3.3.15", "3.4.1",
        ],
    ),
    ("rfc5118", &["4.1", "4.2", "4.3", "4.4", "4.5", "4.6", "4.7", "4.8", "4.9", "4.10"]),
];

/// All entries, for the node of [`Lab`].
fn all() -> Vec<Entry> {
    entries(&at(ANYCAST).ip().to_string())
}

#[test]
fn every_section_is_there() {
    let names: Vec<String> = all().into_iter().map(|entry| entry.name).collect();
    for (rfc, sections) in SECTIONS {
        for section in sections {
            let name = format!("{rfc} {section}");
            assert!(names.iter().any(|n| *n == name || n.starts_with(&format!("{name} "))), "{name} is missing");
        }
    }
}

#[test]
fn the_parser_says_what_is_expected() {
    for entry in all() {
        let said = match Message::parse(Bytes::from(entry.octets.clone())) {
            Ok(message) => match message.status() {
                Some(status) => format!("ok {status}"),
                None => format!("ok {}", message.method().as_str()),
            },
            Err(error) => error.label().to_owned(),
        };
        assert_eq!(said, entry.parse, "{}\n{}", entry.name, String::from_utf8_lossy(&entry.octets));
    }
}

/// The PSAP's final answer to what it got: an INVITE is refused, so that nothing is left over.
fn far_answer(got: &Message) -> Bytes {
    let status = if got.method() == &Method::Invite { 486 } else { 200 };
    let mut draft = got.response(status, None);
    if got.to_tag().is_none() {
        draft.set(HeaderId::To, format!("{};tag=far", got.to()));
    }
    draft.encode().expect("what the node sends can be answered")
}

/// What one message makes a new node do. What is wrong in a request is echoed, so the answers need not be well formed.
fn run(entry: &Entry) -> Seen {
    let from = match entry.trunk.as_str() {
        "" => at(CALLER),
        "challenged" => at(CHALLENGED),
        other => panic!("{}: trunk {other}", entry.name),
    };
    let mut lab = Lab::new();
    lab.receive(from, at(ANYCAST), entry.octets.clone());
    let mut seen = Seen::default();
    let mut looked_at = 0;
    for _ in 0..20 {
        while let Some(transmit) = lab.sent.get(looked_at).cloned() {
            looked_at += 1;
            if transmit.path.remote.ip() == from.ip() {
                seen.note(String::from_utf8_lossy(&transmit.payload).into_owned());
                continue;
            }
            assert_eq!(transmit.path.remote, at(PSAP), "{}: {:?}", entry.name, transmit.payload);
            let message = Message::parse(transmit.payload.clone()).expect("what crosses is well formed");
            if message.is_request() && message.method() != &Method::Ack && !seen.far.contains(&transmit.payload.to_vec()) {
                seen.far.push(transmit.payload.to_vec());
                lab.receive(at(PSAP), at(CORE), far_answer(&message));
            }
        }
        lab.advance(250);
    }
    // Timer H and J are over after 32 s, and what is remembered of a call with them.
    lab.advance(120_000);
    assert_eq!(lab.replicated_calls(), 0, "{}: a call is left over", entry.name);
    seen
}

#[test]
fn a_node_does_what_is_expected() {
    let wrong: Vec<String> = all().iter().filter_map(|entry| entry.fault(false, &run(entry))).collect();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// An INVITE of the caller.
fn invite(id: &str, branch: &str, contact: &str) -> String {
    format!(
        "INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP h.example.net;rport;branch={branch}\r\nMax-Forwards: 70\r\n\
         From: <sip:caller@example.net>;tag={id}\r\nTo: <urn:service:sos>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\n{contact}Content-Length: 0\r\n\r\n"
    )
}

/// Requests that the node sent.
fn requests(lab: &Lab, method: &Method) -> Vec<Message> {
    let parsed = lab.sent.iter().filter_map(|t| Message::parse(t.payload.clone()).ok());
    parsed.filter(|m| m.is_request() && m.method() == method).collect()
}

/// RFC 4475 §3.2.1: two calls of one phone, whose branch is the magic cookie alone, are two; a copy of one is a copy.
#[test]
fn a_branch_that_tells_nothing_apart_costs_no_call() {
    let mut lab = Lab::new();
    for id in ["first", "second", "first", "second"] {
        lab.receive(at(CALLER), at(ANYCAST), invite(id, "z9hG4bK", ""));
    }
    assert_eq!(requests(&lab, &Method::Invite).len(), 2);
}

/// A request of the called side goes to what the caller's Contact names (RFC 3261 §12.2.1.1), where it can be one to go to.
#[test]
fn requests_go_where_a_contact_leads() {
    for (contact, uri) in [
        ("Contact: <sip:a@h.example;x>\r\n", "sip:a@h.example;x"),
        // RFC 4475 §3.3.12 and §3.3.13: whose parameter it is depends on the brackets.
        ("Contact: sip:+1972@gw.example;unknownparam\r\n", "sip:+1972@gw.example"),
        ("m: <sip:+1972@gw.example;unknownparam>\r\n", "sip:+1972@gw.example;unknownparam"),
        // §3.3.14: what is escaped into it is no part of a Request-URI.
        ("Contact: <sip:a@h.example;x=y?Route=%3Csip:x.example%3E>\r\n", "sip:a@h.example;x=y"),
        // §3.1.1.4: three characters each.
        ("Contact: <sip:%00@h.example>\r\n", "sip:%00@h.example"),
        // §3.1.2.13, §3.3.4, and what is for REGISTER alone: none that can be used. From is all there is.
        ("Contact: sip:a@h.example?Route=%3Csip:x.example%3E\r\n", "sip:caller@example.net"),
        ("Contact: <name:John_Smith>\r\n", "sip:caller@example.net"),
        ("Contact: *\r\n", "sip:caller@example.net"),
        ("Contact:\r\n", "sip:caller@example.net"),
        ("Contact: <name:John_Smith>, <sip:a@h.example>\r\n", "sip:a@h.example"),
        ("", "sip:caller@example.net"),
    ] {
        let mut lab = Lab::new();
        lab.receive(at(CALLER), at(ANYCAST), invite("contact", "z9hG4bKcontact", contact));
        let invited = requests(&lab, &Method::Invite).pop().expect("it crossed");
        let mut ok = invited.response(200, None);
        ok.set(HeaderId::To, format!("{};tag=far", invited.to())).push(HeaderId::Contact, format!("<sip:psap@{PSAP}>"));
        lab.receive(at(PSAP), at(CORE), ok.encode().expect("valid"));
        let ours = NameAddr::parse(invited.first(HeaderId::Contact).expect("ours")).expect("valid").uri.as_str().to_owned();
        let mut bye = Draft::request(&Method::Bye, &ours);
        bye.push(HeaderId::Via, format!("SIP/2.0/UDP {PSAP};branch=z9hG4bKbye;rport")).push(HeaderId::MaxForwards, "70");
        bye.push(HeaderId::From, format!("{};tag=far", invited.to())).push(HeaderId::To, invited.from());
        bye.push(HeaderId::CallId, invited.call_id()).push(HeaderId::CSeq, "1 BYE");
        lab.receive(at(PSAP), at(CORE), bye.encode().expect("valid"));
        lab.advance(40_000);
        let byes = requests(&lab, &Method::Bye);
        assert_eq!(byes.first().and_then(|bye| bye.request_uri()), Some(uri), "{contact}");
    }
}

/// Where `FUZZ_SEEDS` names a directory, the corpus goes there, a file a message, for each fuzz target in the form that it reads.
/// Without it the forms are only checked.
#[test]
fn write_fuzz_seeds() {
    let dir = std::env::var_os("FUZZ_SEEDS").map(std::path::PathBuf::from);
    let mut written = 0;
    let mut write = |target: &str, name: &str, octets: &[u8]| {
        written += 1;
        let Some(dir) = &dir else { return };
        let dir = dir.join(target);
        std::fs::create_dir_all(&dir).expect("FUZZ_SEEDS is writable");
        std::fs::write(dir.join(name.replace(' ', "-")), octets).expect("FUZZ_SEEDS is writable");
    };
    for entry in all() {
        write("message", &entry.name, &entry.octets);
        write("stream", &entry.name, &[&[7u8][..], &entry.octets].concat());
        let Ok(message) = Message::parse(Bytes::from(entry.octets.clone())) else { continue };
        write("policy", &entry.name, &[&b"\x35\x02\x02\x64"[..], &entry.octets].concat());
        for (n, id) in [HeaderId::From, HeaderId::To, HeaderId::Contact].into_iter().enumerate() {
            let value = message.first(id).unwrap_or_default();
            write("uri", &format!("{} {n}", entry.name), value.as_bytes());
        }
        let content_type = message.content_type().unwrap_or_default();
        if content_type.starts_with("multipart/") {
            write("multipart", &entry.name, &[content_type.as_bytes(), b"\n", &message.body()].concat());
        } else if content_type == "application/sdp" {
            write("sdp", &entry.name, &message.body());
        }
    }
    // A call that is answered, held and ended; one that is cancelled; one that rings on two forks.
    for (name, octets) in [
        ("answered", &[0u8, 0, 0, 1, 1, 64, 1, 6, 64, 4, 2, 0, 4, 1, 65, 2, 6, 65, 4, 2, 1, 4, 0, 1][..]),
        ("cancelled", &[0, 0, 1, 1, 1, 0, 7, 0, 0, 9, 0, 0]),
        ("forked", &[0, 0, 1, 1, 1, 0, 1, 4, 193, 1, 4, 66, 4, 4, 133, 1, 6, 65, 1, 6, 66, 4, 2, 0, 6, 0, 1]),
    ] {
        write("call", name, octets);
    }
    assert!(written > 150, "only {written} seeds");
}
