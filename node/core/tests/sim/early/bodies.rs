//! What lies in bodies beside one good description of RTP: several descriptions, broken ones, media that are no RTP. Where one side is
//! anchored the other is, and nothing of one side shows on the other where the topology is hidden.

use sbc_core::io::{Carries, UnreadOutcome};
use sbc_core::policy::{MediaPolicy, MethodPolicy, Topology};

use super::*;

const MIXED: &str = "multipart/mixed;boundary=b";
/// Where the caller says that its media are.
const HIDDEN: &str = "198.18.10.77";

fn offer(lines: &str) -> String {
    format!("v=0\r\no=far 7 1 IN IP4 {HIDDEN}\r\ns=-\r\nc=IN IP4 {HIDDEN}\r\nt=0 0\r\n{lines}")
}

fn audio() -> String {
    offer("m=audio 7 RTP/AVP 8\r\n")
}

impl Rig {
    /// The caller's INVITE with such a body.
    fn dials_body(mut self, content_type: &str, body: &str) -> Rig {
        let mut draft = self.caller.initial(&Method::Invite, URI, "x", 1);
        draft.set_body(Some(content_type).filter(|t| !t.is_empty()), Bytes::from(body.to_owned()));
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, anycast, &[]);
        self.advance(50);
        self.asked = Some(self.psap.request(&self.w, &Method::Invite));
        self.caller.inbox(&self.w);
        self
    }

    fn at_psap(&self) -> &Message {
        &self.asked.as_ref().expect("it was called").0
    }
}

/// RFC 5621, NENA-STA-010: more than one description, or one whose part lacks the blank line behind its header fields.
#[test]
fn every_description_leads_here() {
    let part = |blank: &str, sdp: &str| format!("--b\r\nContent-Type: application/sdp\r\n{blank}{sdp}\r\n");
    let plain = "--b\r\nContent-Type: text/plain\r\n\r\nhelp\r\n";
    let video = offer("m=audio 9 RTP/AVP 0\r\nm=video 11 RTP/AVP 96\r\n");
    for (content_type, body, odd) in [
        ("", audio() + "a=x:help\r\n", 1),
        (MIXED, format!("{}{plain}{}--b--\r\n", part("\r\n", &audio()), part("\r\n", &video)), 0),
        (MIXED, format!("{plain}{}--b--\r\n", part("", &audio())), 1),
        (MIXED, format!("{plain}{}", part("\r\n", &audio())), 1),
    ] {
        let mut s = Rig::dialling("112").dials_body(content_type, &body);
        let got = text(s.at_psap());
        assert!(!got.contains(HIDDEN) && got.contains("help\r\n"), "{got}");
        assert_eq!(got.matches("c=IN IP4 198.18.").count(), body.matches("c=IN").count(), "{got}");
        let first: Vec<&str> = got.lines().filter(|l| l.starts_with("m=audio ")).collect();
        assert!(first.iter().all(|line| line.split(' ').nth(1) == first[0].split(' ').nth(1)), "of a line the same port: {got}");
        let ok = s.says_one(200, "a", &[], Some(10));
        assert!(anchored(&ok, "198.18.0.1"), "{}", text(&ok));
        assert_eq!(s.media()[&(0, Side::Caller)], 7, "the first one is gone by");
        assert_eq!(s.w.counted(Counter::Unread(UnreadOutcome::Repaired)), odd);
        s.acks(&ok, None);
        s.psap_got();
        s.calm();
    }
}

/// An emergency call is not refused for what nobody can read here; then neither side is anchored, for the two could not hear each other.
#[test]
fn what_cannot_be_read_goes_past_us_both_ways() {
    let quoted = format!(
        "--b\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n{}\r\n--b--",
        audio()
    );
    for (content_type, body) in [
        (MIXED, quoted),
        ("multipart/mixed", format!("--b\r\nContent-Type: application/sdp\r\n\r\n{}\r\n--b--", audio())),
        ("application/sdp", "v=0\r\nm=audio nowhere\r\n".to_owned()),
    ] {
        let mut s = Rig::dialling("112").dials_body(content_type, &body);
        assert_eq!(text(s.at_psap()), body);
        let ok = s.says_one(200, "a", &[], Some(10));
        assert_eq!(text(&ok), String::from_utf8_lossy(&sdp_of(10)), "as the called side said it");
        assert_eq!((s.w.counted(Counter::Unread(UnreadOutcome::Unanchored)), s.w.counted(Counter::Unanchored("sos"))), (1, 1));
        s.acks(&ok, None);
        s.psap_got();
        s.calm();
    }
    // Lines that are none are left out.
    let mut s = Rig::dialling("112").dials_body("application/sdp", &audio().replace("s=-\r\n", "s=-\r\nnonsense\r\n"));
    assert!(!text(s.at_psap()).contains("nonsense") && !text(s.at_psap()).contains(HIDDEN));
    let ok = s.says_one(200, "a", &[], Some(10));
    assert!(anchored(&ok, "198.18.0.1") && s.w.counted(Counter::Unread(UnreadOutcome::Repaired)) > 0);
    s.acks(&ok, None);
    s.psap_got();
    // Within the call there is something to go on with.
    let to = s.caller.within(&Method::Invite, &ok, 1).1;
    let hidden = ("multipart/mixed", Bytes::from("--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--"));
    assert!(s.asks_so(to, &Method::Invite, &ok, &[], Some(hidden)).is_empty());
    assert_eq!(s.caller_got().pop().and_then(|m| m.status()), Some(488));
    s.calm();
}

const MANY: &str = "m=audio 7 UDP/TLS/RTP/SAVP 8\r\na=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\nm=image 20 udptl t38\r\n\
    m=application 30 UDP/BFCP *\r\na=floorctrl:c-s\r\nm=message 40 TCP/MSRP *\r\na=path:msrp://198.18.10.77:40/x;tcp\r\n\
    m=application 50 TCP/BFCP *\r\na=setup:active\r\n";

/// Datagrams of any kind are relayed, what keys them crosses; media over TCP pass, or are refused, as the trunks say.
#[test]
fn media_that_are_no_rtp() {
    use MethodPolicy::{Pass, Refuse};
    use Topology::{Hide, Transparent};
    // Whether MSRP and BFCP over TCP stay.
    for (topology, tcp_media, stay) in [
        (Hide, None, [false, false]),
        (Hide, Some(Pass), [false, true]),
        (Transparent, None, [true, true]),
        (Transparent, Some(Refuse), [false, false]),
    ] {
        let scene = Rig::dialling_with("112", |c| {
            for trunk in &mut c.trunks {
                (trunk.topology, trunk.media) = (topology, MediaPolicy { tcp_media, ..MediaPolicy::default() });
            }
        });
        let mut s = scene.dials_body("application/sdp", &offer(MANY));
        let got = text(s.at_psap());
        assert!(
            got.contains("a=fingerprint:sha-256 AA:BB\r\na=setup:actpass\r\n") && got.contains("a=floorctrl:c-s\r\n"),
            "{got}"
        );
        let places = |got: &str| {
            let described = sbc_core::sip::Sdp::parse(got.as_bytes()).expect("valid");
            described.media().iter().map(|m| (m.port, m.connection.expect("an address").to_string())).collect::<Vec<_>>()
        };
        let to_psap = places(&got);
        assert!(to_psap[..3].iter().all(|(port, ip)| *port >= 10_000 && ip != HIDDEN), "{got}");
        for (line, port, stays) in [(3, 40, stay[0]), (4, 50, stay[1])] {
            let there = (to_psap[line].0, to_psap[line].1 == HIDDEN);
            assert_eq!(there, if stays { (port, true) } else { (0, false) }, "{topology:?} {tcp_media:?} line {line}: {got}");
        }
        assert_eq!(got.contains("a=path:"), stay[0]);
        assert!(stay.contains(&true) || !got.contains(HIDDEN), "{got}");
        // The called side takes all that it was offered.
        let answer = MANY.replace("actpass", "passive").replace("198.18.10.77", "198.18.20.9");
        let answer = format!("v=0\r\no=p 1 1 IN IP4 198.18.20.9\r\ns=-\r\nc=IN IP4 198.18.20.9\r\nt=0 0\r\n{answer}");
        let invite = s.asked.clone().expect("it was called");
        let fields = [("Contact", "<sip:a@198.18.20.9:5060>")];
        let mut draft = invite.0.response(200, None);
        draft.set(HeaderId::To, format!("{};tag=a", invite.0.to()));
        draft.set_body(Some("application/sdp"), Bytes::from(answer));
        s.psap.put(&mut s.w, &mut draft, invite.1, &fields);
        s.advance(20);
        let ok = s.caller_got().pop().expect("answered");
        let told = places(&text(&ok));
        let direct: Vec<bool> = told.iter().map(|(_, ip)| ip == "198.18.20.9").collect();
        assert_eq!(direct, [false, false, false, stay[0], stay[1]], "{}", text(&ok));
        assert_eq!((told[3].0 == 40, told[4].0 == 50), (stay[0], stay[1]), "{}", text(&ok));
        let carried: BTreeMap<u8, Carries> =
            s.w.streams.iter().filter_map(|(line, _, remote)| Some((*line, (*remote)?.carries))).collect();
        let expected = [(0, Carries::DtlsRtp), (1, Carries::Datagrams), (2, Carries::Datagrams)];
        assert_eq!(carried, BTreeMap::from(expected));
        s.acks(&ok, None);
        s.psap_got();
        s.calm();
    }
}
