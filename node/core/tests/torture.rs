//! Mutated messages and session descriptions from a seed: nothing panics, what is taken survives being written and read
//! again, and a stream cuts as a datagram does. `TORTURE_SEED` repeats a run, `TORTURE_ROUNDS` lengthens it.

use bytes::Bytes;
use sbc_core::sip::{
    Draft, Frame, HeaderId, Message, Multipart, NameAddr, ParseError, Sdp, SdpRewrite, StreamFramer, Uri, Via, split_list,
};

/// Mutated messages of one run: seconds at opt-level 1.
const ROUNDS: u32 = 200_000;
const SEED: u64 = 0x5bc0_9110_1120_2026;

const INVITE: &[u8] = b"INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP [2001:db8::1]:5061;rport;branch=z9hG4bK74b43, SIP/2.0/TCP h;branch=z9hG4bKx\r\n\
    Max-Forwards: 70\r\nRoute: <sip:10.0.0.1;lr>, \"a, b\" <sip:p@[::1]:5070;lr>\r\nFrom: \"B\\\"ell, A\" <sip:a@b.example>;tag=9fxced76sl\r\n\
    To: <urn:service:sos>\r\nCall-ID: 3848276298220188511@b.example\r\nCSeq: 31862 INVITE\r\nContact: <sip:a@10.0.0.9;transport=tcp>;q=0.5\r\n\
    Geolocation: <cid:x@y>\r\nX-Folded: one\r\n  two\r\nSupported: replaces, timer\r\nk: 100rel\r\nContent-Type: application/sdp\r\nContent-Length: 107\r\n\r\n\
    v=0\r\no=- 1 2 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\nm=audio 49172 RTP/AVP 0 8\r\na=rtcp:49173\r\na=x\r\n";
const RESPONSE: &[u8] =
    b"SIP/2.0 183 Session  Progress\r\nv: SIP/2.0/TLS h.example:5061;branch=z9hG4bK1;received=10.0.0.1\r\nf: sip:a@b;tag=1\r\n\
    t: <tel:+1-911;ext=2>;tag=2\r\ni: x@y\r\nCSeq: 1\tINVITE\r\nRSeq: 7\r\nWarning: 399 h \"a, b\"\r\nl: 4\r\n\r\n\0\r\n\xff";
const MULTIPART: &[u8] = b"MESSAGE sip:911@h SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bKm\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:911@h>\r\nCall-ID: m@y\r\n\
    CSeq: 2 MESSAGE\r\nContent-Type: multipart/mixed;boundary=b1\r\nContent-Length: 111\r\n\r\n\
    --b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--b1\r\nContent-Type: application/pidf+xml\r\n\r\n<presence/>\r\n--b1--\r\n";
const SDP: &[u8] = b"v=0\r\no=alice 2890844526 2890844527 IN IP4 10.0.0.1\r\ns=\xe9\r\nc=IN IP6 2001:db8::1\r\nt=0 0\r\na=group:BUNDLE 1 2\r\na=inactive\r\n\
    m=audio 49170/2 RTP/AVP 0 8 101\r\ni=x\r\na=rtcp:53020 IN IP4 10.0.0.2\r\na=candidate:1 1 UDP 2130706431 10.0.0.1 49170 typ host\r\n\
    m=video 0 RTP/AVP 31\r\nc=IN IP4 0.0.0.0\r\na=sendonly\r\nm=text 6000 UDP/TLS/RTP/SAVPF 98\r\na=rtcp-mux\r\na=rtcp:6001\r\n";
/// What breaks parsers.
const SPLICES: [&[u8]; 30] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\n",
    b"\r",
    b"\0",
    b"\"",
    b"\\",
    b"\\\"",
    b"<",
    b">",
    b",",
    b";",
    b"=",
    b":",
    b"@",
    b"%",
    b"[",
    b"]",
    b"\xff",
    b"\xc3\xa9",
    b"  ",
    b"\t",
    b"99999999999999999999",
    b"-1",
    b"SIP/2.0",
    b"\r\nContent-Length: 3\r\n",
    b"\r\nVia: x\r\n",
    b";tag=",
    b"*",
];

/// xorshift64* (Vigna 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    fn pick<'a>(&mut self, choices: &[&'a [u8]]) -> &'a [u8] {
        choices[self.below(choices.len())]
    }

    fn mutate(&mut self, original: &[u8]) -> Vec<u8> {
        let mut octets = original.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(octets.len() + 1);
            let end = (at + self.below(12)).min(octets.len());
            match self.below(6) {
                0 => drop(octets.splice(at..end, [])),
                1 | 2 => drop(octets.splice(at..at, self.pick(&SPLICES).iter().copied())),
                3 if at < octets.len() => octets[at] = self.next().to_le_bytes()[0],
                4 => drop(octets.splice(at..end, self.pick(&SPLICES).iter().copied())),
                _ => {
                    let copy = octets[at..end].to_vec();
                    let to = self.below(octets.len() + 1);
                    drop(octets.splice(to..to, copy));
                }
            }
        }
        octets
    }
}

fn seed() -> u64 {
    let seed = std::env::var("TORTURE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("TORTURE_SEED={seed}");
    seed
}

fn rounds() -> u32 {
    std::env::var("TORTURE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

/// All fields but Content-Length, which the writer moves.
fn fields(message: &Message) -> Vec<(String, String)> {
    let kept = message.headers().filter(|field| field.id != HeaderId::ContentLength);
    kept.map(|field| (field.name.to_owned(), field.value.to_owned())).collect()
}

fn rewritten(message: &Message) -> Draft {
    let mut draft = match message.request_uri() {
        Some(uri) => Draft::request(message.method(), uri),
        None => Draft::response(message.status().expect("a response has a status"), Some(message.reason())),
    };
    message.headers().for_each(|field| {
        draft.push_field(&field);
    });
    draft.set_body(None, message.body());
    draft
}

/// Everything that is read from a message on its way.
fn touch(message: &Message) {
    message.top_via().with_received("10.0.0.1:5060".parse().expect("address"));
    for field in message.headers() {
        for element in message.values(field.id).chain([field.value]) {
            let _ = (Uri::parse(element), Via::parse(element), message.number(field.id));
            if let Ok(addr) = NameAddr::parse(element) {
                let _ = (addr.tag(), addr.uri.user_decoded(), addr.uri.param("x"), addr.uri.is_service_sos());
            }
        }
        assert!(split_list(field.value).map(str::len).sum::<usize>() <= field.value.len());
    }
    if let Some(Ok(parts)) = message.content_type().map(|value| Multipart::parse(value, message.body())) {
        for index in 0..parts.len() {
            let content = parts.content(index).expect("a part has content");
            let replaced =
                Multipart::parse(message.content_type().expect("seen"), parts.replace(index, &content)).expect("replaced");
            assert_eq!(replaced.content(index), Some(content));
        }
    }
}

fn check_taken(message: &Message) {
    touch(message);
    let encoded = rewritten(message).encode().expect("what was taken can be written");
    let again = Message::parse(encoded.clone()).expect("what we write we read");
    assert_eq!(fields(&again), fields(message));
    assert_eq!(again.body(), message.body());
    assert_eq!((again.call_id(), again.cseq(), again.method()), (message.call_id(), message.cseq(), message.method()));
    assert_eq!((again.from_tag(), again.to_tag(), again.top_via()), (message.from_tag(), message.to_tag(), message.top_via()));
    assert_eq!(rewritten(&again).encode().expect("again"), encoded, "writing is stable");
    if message.is_request() {
        let response = message.response(500, None).encode().expect("a response to what was taken");
        let response = Message::parse(response).expect("our response is valid");
        assert_eq!((response.call_id(), response.top_via().branch()), (message.call_id(), message.top_via().branch()));
    }
}

fn check_refused(error: &ParseError) {
    if let Some(reply) = error.reply() {
        let encoded = reply.encode().expect("an answer can be written");
        assert!(encoded.starts_with(b"SIP/2.0 ") && encoded.windows(5).any(|octets| octets.eq_ignore_ascii_case(b"\nVia:")));
    }
}

#[test]
fn mutated_messages() {
    let mut random = Random(seed());
    let (mut taken, mut answered, mut dropped) = (0u32, 0u32, 0u32);
    for round in 0..rounds() {
        let octets = Bytes::from({
            let original = random.pick(&[INVITE, RESPONSE, MULTIPART]);
            random.mutate(original)
        });
        let outcome = std::panic::catch_unwind(|| match Message::parse(octets.clone()) {
            Ok(message) => {
                check_taken(&message);
                None
            }
            Err(error) => {
                check_refused(&error);
                Some(error.reply().is_some())
            }
        });
        match outcome {
            Ok(None) => taken += 1,
            Ok(Some(true)) => answered += 1,
            Ok(Some(false)) => dropped += 1,
            Err(_) => panic!("round {round}: {:?}", String::from_utf8_lossy(&octets)),
        }
    }
    println!("taken {taken}, answered {answered}, dropped {dropped}");
    let tenth = rounds() / 10;
    assert!(taken > tenth && answered > tenth && dropped > 0, "the mutations no longer reach all outcomes");
}

#[test]
fn the_originals_are_taken() {
    for original in [INVITE, RESPONSE, MULTIPART] {
        let message = Message::parse(Bytes::from_static(original)).expect("valid");
        assert_eq!(message.raw(), original, "Content-Length is right");
        check_taken(&message);
    }
    let message = Message::parse(Bytes::from_static(MULTIPART)).expect("valid");
    let parts = Multipart::parse(message.content_type().expect("there"), message.body()).expect("valid");
    assert_eq!((parts.len(), parts.find("application/pidf+xml")), (2, Some(1)));
    assert!(Sdp::parse(&Message::parse(Bytes::from_static(INVITE)).expect("valid").body()).is_ok());
}

/// Frames that carry messages, and whether the stream ended in an error; the pieces are of random size.
fn frames(stream: &[u8], largest: usize, random: &mut Random) -> (Vec<Bytes>, bool) {
    let mut framer = StreamFramer::new();
    let (mut messages, mut failed) = (Vec::new(), false);
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at((1 + random.below(largest)).min(rest.len()));
        rest = tail;
        framer.push(piece);
        while let Some(frame) = framer.poll() {
            match frame {
                Frame::Message(octets) => messages.push(octets),
                Frame::Error(error) => {
                    failed = true;
                    error.parse.iter().for_each(check_refused);
                }
                Frame::KeepAlivePing | Frame::Pong => {}
            }
        }
    }
    (messages, failed)
}

#[test]
fn a_stream_cuts_as_a_datagram_does() {
    let mut random = Random(seed() ^ 1);
    let mut framed = 0;
    for _ in 0..rounds() / 10 {
        let mut stream = Vec::new();
        for _ in 0..3 {
            let original = random.pick(&[INVITE, RESPONSE, MULTIPART, b"\r\n\r\n"]);
            let mutated = random.below(3) == 0;
            stream.extend(if mutated { random.mutate(original) } else { original.to_vec() });
        }
        let (messages, failed) = frames(&stream, stream.len(), &mut random);
        let largest = 1 + random.below(200);
        assert_eq!(frames(&stream, largest, &mut random), (messages.clone(), failed), "{stream:?}");
        framed += messages.len();
        for octets in messages {
            match Message::parse(octets.clone()) {
                // The datagram reader finds the same end in the same octets, with anything behind them.
                Ok(message) => {
                    assert_eq!(message.raw(), &octets);
                    let mut followed = octets.to_vec();
                    followed.extend_from_slice(RESPONSE);
                    assert_eq!(Message::parse(followed.into()).expect("valid").raw(), &octets);
                }
                Err(error) => check_refused(&error),
            }
        }
    }
    assert!(framed > 10_000.min(rounds() as usize / 10));
}

#[test]
fn mutated_session_descriptions() {
    let mut random = Random(seed() ^ 2);
    let mut taken = 0u32;
    for _ in 0..rounds() / 4 {
        let octets = random.mutate(SDP);
        let Ok(sdp) = Sdp::parse(&octets) else { continue };
        taken += 1;
        let ports: Vec<Option<u16>> = sdp.media().iter().map(|media| (media.port != 0).then_some(30_000)).collect();
        let rewrite = SdpRewrite { origin: Some(("-".into(), 1, 2)), address: "127.0.0.1".parse().expect("address"), ports };
        let out = sdp.rewrite(&rewrite);
        let ours = Sdp::parse(&out).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&octets)));
        assert_eq!(ours.media().len(), sdp.media().len());
        for (before, after) in sdp.media().iter().zip(ours.media()) {
            assert_eq!(after.port, if before.port == 0 { 0 } else { 30_000 });
            assert_eq!((&after.kind, &after.formats, after.direction), (&before.kind, &before.formats, before.direction));
        }
        assert_eq!(ours.rewrite(&rewrite), out, "rewriting is stable");
        assert!(!out.windows(13).any(|octets| octets == b"\na=candidate:"));
    }
    assert!(taken > rounds() / 40, "only {taken} were taken");
}
