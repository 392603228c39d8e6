//! The message corpus (RFC 4475, RFC 5118 and our own) at the parser and at a whole node without a network. Live nodes get the same
//! messages in `cluster-tests/tests/corpus.rs`.

#[path = "corpus/format.rs"]
mod format;
#[path = "../fuzz/bodies/lab.rs"]
#[allow(dead_code, reason = "shared with the fuzz bodies, which use more of it")]
mod lab;

use std::net::SocketAddr;

use bytes::Bytes;
use format::{Entry, entries};
use lab::{ANYCAST, CALLER, CORE, Lab, PSAP, at};
use sbc_core::sip::{HeaderId, Message, Method};

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

#[test]
fn every_section_is_there() {
    let names: Vec<String> = entries().into_iter().map(|entry| entry.name).collect();
    for (rfc, sections) in SECTIONS {
        for section in sections {
            let name = format!("{rfc} {section}");
            assert!(names.iter().any(|n| *n == name || n.starts_with(&format!("{name} "))), "{name} is missing");
        }
    }
}

#[test]
fn the_parser_says_what_is_expected() {
    for entry in entries() {
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

/// What one message makes a new node do: the last final answer to its sender as text (what is wrong in a request is echoed, so
/// it need not be well formed), and what the called side got.
fn run(entry: &Entry, from: SocketAddr) -> (Option<String>, Option<Message>) {
    let mut lab = Lab::new();
    lab.receive(from, at(ANYCAST), entry.octets.clone());
    let (mut answer, mut far) = (None, None);
    let mut seen = 0;
    for _ in 0..20 {
        while let Some(transmit) = lab.sent.get(seen).cloned() {
            seen += 1;
            if transmit.path.remote.ip() == from.ip() {
                let text = String::from_utf8_lossy(&transmit.payload).into_owned();
                answer = Some(text).filter(|t| !t.starts_with("SIP/2.0 100")).or(answer);
                continue;
            }
            let message = Message::parse(transmit.payload.clone()).expect("what crosses is well formed");
            if transmit.path.remote == at(PSAP) && message.is_request() && message.method() != &Method::Ack {
                lab.receive(at(PSAP), at(CORE), far_answer(&message));
                far = far.or(Some(message));
            }
        }
        lab.advance(250);
    }
    // Timer H and J are over after 32 s, and what is remembered of a call with them.
    lab.advance(120_000);
    assert_eq!(lab.replicated_calls(), 0, "{}: a call is left over", entry.name);
    (answer, far)
}

#[test]
fn a_node_does_what_is_expected() {
    let mut wrong = Vec::new();
    for entry in entries() {
        let (answer, far) = run(&entry, at(CALLER));
        let status = answer.as_ref().and_then(|text| text.get(8..11)?.parse::<u16>().ok());
        let fits = entry.node.split('|').any(|wanted| match wanted {
            "none" => answer.is_none() && far.is_none(),
            "cross" => far.is_some() && matches!(status, Some(486 | 200)),
            status_wanted => status.map(|s| s.to_string()).as_deref() == Some(status_wanted),
        });
        let answer = answer.unwrap_or_default();
        let far = far.map(|m| String::from_utf8_lossy(m.raw()).into_owned()).unwrap_or_default();
        let has = entry.has.iter().all(|t| answer.contains(t.as_str()));
        let crossed = entry.far.iter().all(|t| far.contains(t.as_str())) && !entry.not.iter().any(|t| far.contains(t.as_str()));
        if !fits || !has || !crossed {
            wrong.push(format!("{}: wanted {}\nanswer: {answer}\nfar side: {far}", entry.name, entry.node));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
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
    for entry in entries() {
        write("message", &entry.name, &entry.octets);
        write("stream", &entry.name, &[&[7u8][..], &entry.octets].concat());
        let Ok(message) = Message::parse(Bytes::from(entry.octets.clone())) else { continue };
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
