//! On canonical messages the scanner and rsip read the same: four by hand, and thousands made from a seed (`RSIP_SEED` repeats a run).
//! Where they differ (URNs, IPv6, folding, compact forms) rsip is wrong, see ARCHITECTURE.md; those messages are in `torture.rs` and
//! the corpus.

use bytes::Bytes;
use rsip::headers::ToTypedHeader;
use rsip::message::HasHeaders;
use rsip::prelude::{HeadersExt, UntypedHeader};
use sbc_core::sip::{HeaderId, Message, NameAddr, Uri};

/// Messages made in one run.
const MADE: u32 = 4_000;
const SEED: u64 = 0x5bc0_2026_1124_0003;

const MESSAGES: [&str; 4] = [
    "INVITE sip:112@psap.example.org SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKnashds8\r\nMax-Forwards: 70\r\n\
     From: \"Ann\" <sip:ann@example.org>;tag=1928301774\r\nTo: <sip:112@psap.example.org>\r\nCall-ID: a84b4c76e66710@198.51.100.7\r\n\
     CSeq: 314159 INVITE\r\nContact: <sip:ann@198.51.100.7:5060>\r\nContent-Length: 0\r\n\r\n",
    "BYE sip:ann@198.51.100.7:5060 SIP/2.0\r\nVia: SIP/2.0/TCP 198.51.100.9:5060;branch=z9hG4bK77;rport\r\nMax-Forwards: 69\r\n\
     From: <sip:112@psap.example.org>;tag=abc\r\nTo: <sip:ann@example.org>;tag=def\r\nCall-ID: 1@x\r\nCSeq: 2 BYE\r\n\
     Content-Length: 0\r\n\r\n",
    "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 198.51.100.7:5060;branch=z9hG4bKnashds8\r\nFrom: <sip:ann@example.org>;tag=1\r\n\
     To: <sip:112@psap.example.org>;tag=2\r\nCall-ID: 2@x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/TLS psap.example.org:5061;branch=z9hG4bKq\r\nFrom: <sips:ann@example.org>;tag=1\r\n\
     To: <sips:112@psap.example.org>;tag=2\r\nCall-ID: 3@x\r\nCSeq: 2147483647 INVITE\r\nContent-Length: 0\r\n\r\n",
];

fn compare(text: &str) {
    let ours = Message::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap_or_else(|error| panic!("{error:?}: {text}"));
    let theirs = rsip::SipMessage::try_from(text).unwrap_or_else(|error| panic!("rsip: {error}: {text}"));
    match &theirs {
        rsip::SipMessage::Request(request) => {
            assert_eq!(ours.method().as_str(), request.method.to_string());
            assert_eq!(ours.request_uri(), Some(request.uri.to_string().as_str()));
            same_uri(ours.request_uri().unwrap(), &request.uri);
        }
        rsip::SipMessage::Response(response) => assert_eq!(ours.status(), Some(response.status_code.code())),
    }
    assert_eq!(ours.call_id(), theirs.call_id_header().unwrap().value());
    let cseq = theirs.cseq_header().unwrap().typed().unwrap();
    assert_eq!((ours.cseq(), ours.method().as_str().to_owned()), (cseq.seq, cseq.method.to_string()));
    let via = theirs.via_header().unwrap().typed().unwrap();
    assert_eq!(ours.top_via().branch(), via.branch().map(|b| b.value()));
    assert_eq!(ours.top_via().transport(), via.transport.to_string());
    assert_eq!(ours.top_via().port(), via.uri.host_with_port.port.as_ref().map(|p| *p.value()));
    assert_eq!(ours.top_via().host(), via.uri.host_with_port.host.to_string());
    let from = theirs.from_header().unwrap().typed().unwrap();
    assert_eq!(NameAddr::parse(ours.from()).unwrap().uri.as_str(), from.uri.to_string());
    same_uri(NameAddr::parse(ours.from()).unwrap().uri.as_str(), &from.uri);
    assert_eq!(ours.from_tag(), from.tag().map(|t| t.value()));
    let to = theirs.to_header().unwrap().typed().unwrap();
    assert_eq!(ours.to_tag(), to.tag().map(|t| t.value()));
    if let Ok(forwards) = theirs.max_forwards_header() {
        assert_eq!(ours.number(HeaderId::MaxForwards), forwards.num().ok());
    }
    if let Some(contact) = theirs.contact_header().ok().and_then(|c| c.typed().ok()) {
        same_uri(NameAddr::parse(ours.first(HeaderId::Contact).unwrap()).unwrap().uri.as_str(), &contact.uri);
    }
    assert_eq!(&ours.body()[..], theirs.body().as_slice());
    // Every field, its name and its value, in order.
    let lines: Vec<String> = ours.headers().map(|field| format!("{}: {}", field.name, field.value)).collect();
    let their_lines: Vec<String> = theirs.headers().iter().map(ToString::to_string).collect();
    assert_eq!(lines, their_lines);
}

fn same_uri(ours: &str, theirs: &rsip::Uri) {
    let ours = Uri::parse(ours).expect("canonical");
    assert_eq!(ours.user(), theirs.user());
    assert_eq!(ours.host(), Some(theirs.host().to_string().as_str()));
    assert_eq!(ours.port(), theirs.port().map(|p| *p.value()));
}

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound as u64).expect("below a usize")
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    fn word(&mut self, characters: &str, longest: usize) -> String {
        let characters: Vec<char> = characters.chars().collect();
        (0..=self.below(longest)).map(|_| characters[self.below(characters.len())]).collect()
    }
}

const WORD: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

fn uri(random: &mut Random) -> String {
    let host = match random.below(2) {
        0 => format!("{}.example", random.word("abcdefghijklmnopqrstuvwxyz", 12)),
        _ => format!("198.51.100.{}", random.below(256)),
    };
    // rsip loses the user part where it has more than these.
    let user = random.word(&format!("{WORD}-_"), 16);
    let port = if random.below(2) == 0 { format!(":{}", 1 + random.below(65_535)) } else { String::new() };
    let parameter = random.pick(&["", ";lr", ";transport=TCP", ";x=y", ";user=phone"]);
    format!("{}:{user}@{host}{port}{parameter}", random.pick(&["sip", "sips"]))
}

fn address(random: &mut Random, tag: bool) -> String {
    let name = match random.below(3) {
        0 => String::new(),
        1 => format!("\"{}\" ", random.word(&format!("{WORD} .,;:"), 20)),
        _ => format!("{} ", random.word(WORD, 10)),
    };
    let tag = if tag { format!(";tag={}", random.word(WORD, 20)) } else { String::new() };
    format!("{name}<{}>{tag}", uri(random))
}

fn made(random: &mut Random) -> String {
    let method = random.pick(&["INVITE", "BYE", "OPTIONS", "INFO", "UPDATE", "MESSAGE", "NOTIFY", "REFER", "PRACK", "SUBSCRIBE"]);
    let request = random.below(3) > 0;
    let mut text = match request {
        true => format!("{method} {} SIP/2.0\r\n", uri(random)),
        false => format!("SIP/2.0 {}\r\n", random.pick(&["100 Trying", "180 Ringing", "200 OK", "404 Not Found", "603 Decline"])),
    };
    for _ in 0..=random.below(3) {
        let (transport, host) = (random.pick(&["UDP", "TCP", "TLS"]), random.word("abcdefghijklmnopqrstuvwxyz", 8));
        let branch = random.word(WORD, 24);
        text += &format!("Via: SIP/2.0/{transport} {host}.example:{};branch=z9hG4bK{branch}\r\n", 1 + random.below(65_535));
    }
    text += &format!("Max-Forwards: {}\r\n", random.below(256));
    text += &format!("From: {}\r\nTo: {}\r\n", address(random, true), address(random, !request));
    text += &format!("Call-ID: {}@{}\r\n", random.word(WORD, 30), random.word(WORD, 8));
    text += &format!("CSeq: {} {method}\r\n", random.below(1 << 31));
    if random.below(2) == 0 {
        text += &format!("Contact: {}\r\n", address(random, false));
    }
    for _ in 0..random.below(4) {
        text += &format!("X-{}: {}\r\n", random.word(WORD, 8), random.word(&format!("{WORD}-;=,<>\"/"), 40));
    }
    let body = if random.below(2) == 0 { random.word(&format!("{WORD}\r\n=:"), 200) } else { String::new() };
    text + &format!("Content-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn canonical_messages_read_the_same() {
    MESSAGES.iter().for_each(|text| compare(text));
}

#[test]
fn made_messages_read_the_same() {
    let seed = std::env::var("RSIP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("RSIP_SEED={seed}");
    let mut random = Random(seed);
    for _ in 0..MADE {
        let text = made(&mut random);
        if std::panic::catch_unwind(|| compare(&text)).is_err() {
            panic!("they differ on:\n{text}");
        }
    }
}
