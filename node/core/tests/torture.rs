//! The fuzz bodies from a seed, without a fuzzer: mutated messages, streams, session descriptions, multipart bodies, and operations
//! on calls. `TORTURE_SEED` repeats a run, `TORTURE_ROUNDS` lengthens it.

#[path = "../fuzz/bodies/mod.rs"]
#[allow(dead_code, reason = "shared with the fuzz targets and the corpus")]
mod bodies;
#[path = "sim/invariants/no_anycast_leak.rs"]
mod no_anycast_leak;

use bodies::message::Outcome;
use bytes::Bytes;
use sbc_core::sip::{Message, Multipart, Sdp};

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
/// A Content-Type, and a body of it.
const PARTS: &[u8] = b"multipart/mixed;boundary=\"b1\"\n--b1\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--b1\r\n\
    Content-Type: application/pidf+xml\r\nContent-ID: <x@y>\r\n\r\n<presence/>\r\n--b1\r\n\r\n\r\n--b1--\r\n";
/// The same on two levels: what an emergency call brings, its place encoded (RFC 2045 §6.8) and its session description signed.
const NESTED: &[u8] = b"multipart/mixed;boundary=o\n--o\r\nContent-Type: multipart/signed;boundary=\"i i\"\r\n\r\n\
    --i i\r\nContent-Type: application/pidf+xml\r\nContent-Transfer-Encoding: base64\r\nContent-Length: 18\r\n\r\nPHByZXNlbmNl\r\nLz4=\r\n\
    --i i\r\nContent-Type: application/sdp\r\nl: 5\r\n\r\nv=0\r\n\r\n--i i--\r\n\r\n--o\r\nContent-Type: application/EmergencyCallData.Comment+xml\r\n\
    Content-Transfer-Encoding: BASE64\r\n\r\nPGMvPg==\r\n--o--\r\n";
/// Names, URIs, Refer-To and Replaces values.
const NAMES: [&[u8]; 6] = [
    b"\"Bell, \\\"A\\\"\" <sips:a:pw@[2001:db8::1]:5061;transport=tcp;lr?Subject=x&Replaces=a%3Bto-tag%3Db>;tag=1;q=0.5",
    b"A. Caller <tel:+1-(201).555;ext=1>",
    b"sip:1%32@198.18.112.112:5060;user=phone",
    b"<sip:112@198.18.112.112?Replaces={id}%3Bto-tag%3D{ours}%3Bfrom-tag%3D{theirs}>",
    b"{id};to-tag={ours};from-tag={theirs};early-only",
    b"SIP/2.0/UDP [2001:db8::9:1]:5070;rport;received=[::1];branch=z9hG4bK1",
];
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

#[test]
fn mutated_messages() {
    let mut random = Random(seed());
    let (mut taken, mut answered, mut dropped) = (0u32, 0u32, 0u32);
    for round in 0..rounds() {
        let octets = {
            let original = random.pick(&[INVITE, RESPONSE, MULTIPART]);
            random.mutate(original)
        };
        match std::panic::catch_unwind(|| bodies::message::run(&octets)) {
            Ok(Outcome::Taken) => taken += 1,
            Ok(Outcome::Answered) => answered += 1,
            Ok(Outcome::Dropped) => dropped += 1,
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
        bodies::message::check_taken(&message);
    }
    let message = Message::parse(Bytes::from_static(MULTIPART)).expect("valid");
    let parts = Multipart::parse(message.content_type().expect("there"), message.body()).expect("valid");
    assert_eq!((parts.len(), parts.find("application/pidf+xml")), (2, Some(1)));
    assert!(Sdp::parse(&Message::parse(Bytes::from_static(INVITE)).expect("valid").body()).is_ok());
}

#[test]
fn a_stream_cuts_as_a_datagram_does() {
    let mut random = Random(seed() ^ 1);
    let mut framed = 0;
    for _ in 0..rounds() / 10 {
        let mut stream = vec![random.next().to_le_bytes()[0]];
        for _ in 0..3 {
            let original = random.pick(&[INVITE, RESPONSE, MULTIPART, b"\r\n\r\n"]);
            let mutated = random.below(3) == 0;
            stream.extend(if mutated { random.mutate(original) } else { original.to_vec() });
        }
        framed += bodies::stream::run(&stream);
    }
    assert!(framed > 10_000.min(rounds() as usize / 10));
}

#[test]
fn mutated_session_descriptions() {
    let mut random = Random(seed() ^ 2);
    let taken = (0..rounds() / 4).filter(|_| bodies::sdp::run(&random.mutate(SDP))).count();
    assert!(taken > rounds() as usize / 40, "only {taken} were taken");
}

#[test]
fn mutated_multipart_bodies() {
    let mut random = Random(seed() ^ 3);
    let taken = (0..rounds() / 10)
        .filter(|_| {
            let original = random.pick(&[PARTS, NESTED]);
            bodies::multipart::run(&random.mutate(original))
        })
        .count();
    assert!(taken > rounds() as usize / 100, "only {taken} were taken");
}

#[test]
fn mutated_messages_cross_by_rules_and_profiles() {
    let mut random = Random(seed() ^ 5);
    let taken = (0..rounds() / 20).filter(|_| {
        let count = random.below(7);
        let mut octets = vec![random.next().to_le_bytes()[0], u8::try_from(count).expect("below 7")];
        octets.extend((0..count).map(|_| random.next().to_le_bytes()[0]));
        let original = random.pick(&[INVITE, RESPONSE, MULTIPART]);
        octets.extend(random.mutate(original));
        bodies::policy::run(&octets)
    });
    assert!(taken.count() > rounds() as usize / 200, "too few were taken");
}

#[test]
fn mutated_names_and_uris() {
    let mut random = Random(seed() ^ 6);
    let taken = (0..rounds() / 100).filter(|_| {
        let original = random.pick(&NAMES);
        bodies::uri::run(&random.mutate(original))
    });
    assert!(taken.count() > rounds() as usize / 1_000, "too few were taken");
}

/// Nothing else compiles the fuzz targets: each is the frame around a body that runs here, and is built and run by its name.
#[test]
fn every_fuzz_target_has_a_body_that_runs_here() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let read = |file: &str| std::fs::read_to_string(fuzz.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut targets: Vec<String> = std::fs::read_dir(fuzz.join("fuzz_targets"))
        .expect("fuzz_targets is there")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
        .collect();
    targets.sort();
    let (frame, manifest, script) = (read("fuzz_targets/message.rs"), read("Cargo.toml"), read("run.sh"));
    for target in &targets {
        assert_eq!(read(&format!("fuzz_targets/{target}.rs")), frame.replace("message", target), "{target} is another frame");
        assert!(manifest.contains(&format!("name = \"{target}\"\npath = \"fuzz_targets/{target}.rs\"")), "{target}: Cargo.toml");
        assert!(
            script.contains(&format!(" {target} "))
                || script.contains(&format!("({target} "))
                || script.contains(&format!(" {target})")),
            "{target}: run.sh"
        );
        assert!(include_str!("torture.rs").contains(&format!("bodies::{target}::run(")), "{target} does not run here");
    }
    let mut modules: Vec<String> = read("bodies/mod.rs")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub(crate) mod ")?.strip_suffix(';')?.to_owned()))
        .filter(|module| module != "lab")
        .collect();
    modules.sort();
    assert_eq!(modules, targets, "a body without a target, or the other way round");
}

/// Random operations on calls; a run that fails prints its octets, which `bodies::call::run` repeats.
#[test]
fn operations_on_calls() {
    let mut random = Random(seed() ^ 4);
    for round in 0..rounds() / 100 {
        // The first operation is a call, or most would do nothing.
        let mut octets = vec![0, random.next().to_le_bytes()[0], random.next().to_le_bytes()[0]];
        octets.extend((0..random.below(40) * 3).map(|_| random.next().to_le_bytes()[0]));
        if std::panic::catch_unwind(|| bodies::call::run(&octets)).is_err() {
            panic!("round {round}: {octets:?}");
        }
    }
}
