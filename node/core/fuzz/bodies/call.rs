//! Operations on calls: what callers and the PSAP do, and what they should not, in any order at any time. The node neither panics
//! nor leaks the anycast address nor sends without end, and serves an emergency call afterwards.

use bytes::Bytes;
use sbc_core::io::Transmit;
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr};

use super::lab::{ANYCAST, CALLER, CORE, Lab, PSAP, UNICAST, at};
use crate::no_anycast_leak;

/// Operations of one run at the most.
const MAX_OPERATIONS: usize = 200;
/// Packets that the node sends for one operation at the most, retransmissions of all timers included.
const MAX_SENT: usize = 4_000;
const STATUSES: [u16; 24] =
    [100, 180, 181, 182, 183, 199, 200, 202, 299, 301, 302, 400, 401, 407, 408, 422, 481, 482, 486, 488, 491, 503, 600, 699];
const METHODS: [Method; 11] = [
    Method::Bye,
    Method::Invite,
    Method::Ack,
    Method::Update,
    Method::Prack,
    Method::Info,
    Method::Refer,
    Method::Notify,
    Method::Options,
    Method::Cancel,
    Method::Message,
];
const SDP: &str = "v=0\r\no=a 1 1 IN IP4 198.18.10.1\r\ns=-\r\nc=IN IP4 198.18.10.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";
const EXTRAS: [&str; 12] = [
    "Supported: 100rel, timer, replaces",
    "Require: 100rel\r\nRSeq: 7",
    "Session-Expires: 90;refresher=uas\r\nSupported: timer",
    "Session-Expires: 1",
    "Record-Route: <sip:198.18.10.9;lr>\r\nRecord-Route: <sip:198.18.112.112;lr>",
    "RAck: 7 1 INVITE",
    "Refer-To: <sip:x@198.18.112.112?Replaces=a%3Bto-tag%3Db%3Bfrom-tag%3Dc>",
    "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\"",
    "Contact: <sip:other@198.18.20.7>, <sip:third@[::1]>",
    "Event: refer\r\nSubscription-State: terminated",
    "Replaces: a;to-tag=b;from-tag=c",
    "Retry-After: 1\r\nMin-SE: 1800\r\nReason: Q.850;cause=16",
];

/// The target: each operation takes three octets.
pub(crate) fn run(octets: &[u8]) {
    let mut play = Play { lab: Lab::new(), seen: 0, at_caller: Vec::new(), at_psap: Vec::new(), sent: Vec::new(), serial: 0 };
    for operation in octets.chunks_exact(3).take(MAX_OPERATIONS) {
        play.operate(operation[0], operation[1], operation[2]);
        play.look();
    }
    // Whatever happened: after the longest timers the node serves.
    play.lab.advance(400_000);
    play.look();
    play.at_psap.clear();
    play.invite(0, 0);
    play.lab.advance(10);
    play.look();
    assert!(play.at_psap.iter().any(|m| m.method() == &Method::Invite), "an emergency call no longer goes through");
}

struct Play {
    lab: Lab,
    seen: usize,
    /// What the node sent to each side.
    at_caller: Vec<Message>,
    at_psap: Vec<Message>,
    /// What the sides sent: for repetition and mutation.
    sent: Vec<(bool, Bytes)>,
    serial: u32,
}

impl Play {
    fn operate(&mut self, kind: u8, a: u8, b: u8) {
        match kind % 12 {
            0 => self.invite(a, b),
            1 | 2 => self.respond(false, a, b),
            3 => self.respond(true, a, b),
            4 | 5 => self.request(true, a, b),
            6 => self.request(false, a, b),
            7 => self.cancel(b),
            8 => self.lab.advance(u64::from(a) * u64::from(b)),
            9 => self.lab.advance(40_000),
            10 => self.repeat(a, None),
            _ => self.repeat(a, Some(b)),
        }
    }

    /// Takes in what the node sent.
    fn look(&mut self) {
        let new: Vec<Transmit> = self.lab.sent.drain(..).collect();
        assert!(new.len() < MAX_SENT, "{} packets for one operation", new.len());
        self.seen += new.len();
        for transmit in new {
            let Ok(message) = Message::parse(transmit.payload.clone()) else {
                // Only an answer that echoes what was wrong may be unreadable.
                assert!(transmit.payload.starts_with(b"SIP/2.0 4"), "{:?}", transmit.payload);
                continue;
            };
            let mut wrong = Vec::new();
            no_anycast_leak::scan(&mut wrong, at(ANYCAST).ip(), &transmit.payload);
            assert!(wrong.is_empty(), "{wrong:?}");
            let side = if transmit.path.remote.ip() == at(PSAP).ip() { &mut self.at_psap } else { &mut self.at_caller };
            side.push(message);
            if side.len() > 64 {
                side.remove(0);
            }
        }
    }

    fn send(&mut self, from_caller: bool, anycast: bool, octets: Bytes) {
        let (from, to) = match (from_caller, anycast) {
            (true, true) => (CALLER, ANYCAST),
            (true, false) => (CALLER, UNICAST),
            (false, _) => (PSAP, CORE),
        };
        self.sent.push((from_caller, octets.clone()));
        self.lab.receive(at(from), at(to), octets);
    }

    fn invite(&mut self, a: u8, b: u8) {
        self.serial += 1;
        let n = self.serial;
        let uri = if a.is_multiple_of(4) { "urn:service:sos" } else { "sip:user@198.18.112.112" };
        let extra = if b == 0 { String::new() } else { format!("{}\r\n", EXTRAS[usize::from(b) % EXTRAS.len()]) };
        let body = if a & 8 == 0 { SDP } else { "" };
        let text = format!(
            "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};branch=z9hG4bKi{n};rport\r\nMax-Forwards: 70\r\nFrom: <sip:a@c>;tag=f{n}\r\n\
             To: <{uri}>\r\nCall-ID: call{n}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{CALLER}>\r\n{extra}Content-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.send(true, a & 16 == 0, text.into());
    }

    /// One side answers a request that it got.
    fn respond(&mut self, by_caller: bool, a: u8, b: u8) {
        let got = if by_caller { &self.at_caller } else { &self.at_psap };
        let requests: Vec<&Message> = got.iter().filter(|m| m.is_request() && m.method() != &Method::Ack).collect();
        let Some(request) = requests.len().checked_sub(1 + usize::from(a >> 6)).and_then(|i| requests.get(i)) else { return };
        let mut draft = request.response(STATUSES[usize::from(a & 63) % STATUSES.len()], None);
        if request.to_tag().is_none() && b & 0x30 != 0x30 {
            draft.set(HeaderId::To, format!("{};tag=t{}", request.to(), b & 3));
        }
        self.complete(&mut draft, by_caller, b);
        let octets = draft.encode().expect("an answer to what the node sent");
        self.send(by_caller, a & 1 == 0, octets);
    }

    /// Contact, body and something extra.
    fn complete(&self, draft: &mut Draft, by_caller: bool, b: u8) {
        draft.push(HeaderId::Contact, format!("<sip:x@{}>", if by_caller { CALLER } else { PSAP }));
        if b & 64 != 0 {
            draft.set_body(Some("application/sdp"), Bytes::from_static(SDP.as_bytes()));
        }
        if b & 128 != 0 {
            for line in EXTRAS[usize::from(b & 15) % EXTRAS.len()].split("\r\n") {
                let (name, value) = line.split_once(": ").expect("an extra is a field");
                draft.push_named(name, value);
            }
        }
    }

    /// One side sends a request within the dialog of the last message that it got (which may be none any more).
    fn request(&mut self, by_caller: bool, a: u8, b: u8) {
        let got = if by_caller { &self.at_caller } else { &self.at_psap };
        let Some(last) = got.iter().rev().find(|m| m.from_tag().is_some() && m.to_tag().is_some() == (a & 32 == 0)) else {
            return;
        };
        self.serial += 1;
        let (local, remote) = if last.is_request() { (last.to(), last.from()) } else { (last.from(), last.to()) };
        let target = last.first(HeaderId::Contact).and_then(|c| NameAddr::parse(c).ok());
        let target = target.map_or_else(|| "sip:112@198.18.112.112".to_owned(), |t| t.uri.as_str().to_owned());
        let method = &METHODS[usize::from(a & 31) % METHODS.len()];
        let mut draft = Draft::request(method, &target);
        let from = if by_caller { CALLER } else { PSAP };
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {from};branch=z9hG4bKr{};rport", self.serial));
        draft.push(HeaderId::MaxForwards, "70");
        let tagged = if local.contains("tag=") { local.to_owned() } else { format!("{local};tag=t{}", b & 3) };
        draft.push(HeaderId::From, tagged);
        draft.push(HeaderId::To, remote);
        draft.push(HeaderId::CallId, last.call_id());
        let number =
            if method == &Method::Ack { last.cseq() } else { last.cseq().saturating_add(u32::from(b & 7)).min(0x7fff_ffff) };
        draft.push(HeaderId::CSeq, format!("{number} {}", method.as_str()));
        self.complete(&mut draft, by_caller, b);
        let octets = draft.encode().expect("a request in a dialog");
        self.send(by_caller, a & 64 == 0, octets);
    }

    /// CANCEL of an INVITE of the caller.
    fn cancel(&mut self, b: u8) {
        let invites: Vec<&Bytes> = self.sent.iter().filter(|s| s.0 && s.1.starts_with(b"INVITE")).map(|s| &s.1).collect();
        let Some(invite) = invites.len().checked_sub(1 + usize::from(b & 3)).and_then(|i| invites.get(i)) else { return };
        let Ok(invite) = Message::parse((*invite).clone()) else { return };
        let mut draft = Draft::request(&Method::Cancel, invite.request_uri().unwrap_or_default());
        for id in [HeaderId::Via, HeaderId::MaxForwards, HeaderId::From, HeaderId::To, HeaderId::CallId] {
            draft.push(id, invite.first(id).unwrap_or_default());
        }
        draft.push(HeaderId::CSeq, format!("{} CANCEL", invite.cseq()));
        if let Ok(octets) = draft.encode() {
            self.send(true, b & 64 == 0, octets);
        }
    }

    /// Something that was sent comes again, as it was or with octets changed.
    fn repeat(&mut self, a: u8, change: Option<u8>) {
        let Some((by_caller, octets)) =
            self.sent.len().checked_sub(1 + usize::from(a >> 4)).and_then(|i| self.sent.get(i)).cloned()
        else {
            return;
        };
        let mut octets = octets.to_vec();
        if let Some(change) = change {
            let place = usize::from(change) * octets.len() / 256;
            octets[place] = octets[place].wrapping_add(a & 15).wrapping_add(1);
        }
        self.send(by_caller, a & 1 == 0, octets.into());
    }
}
