//! Reliable provisional responses (RFC 3262): numbers and who has seen what, toward either side. No message is sent here.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use crate::sip::{Draft, HeaderId, Message};
use crate::time::Instant;
use crate::timer::TimerId;

/// The option tag.
pub(super) const OPTION: &str = "100rel";
/// RFC 3262 §3: T1, doubling without a limit, for 64 × T1.
pub(super) const T1: Duration = Duration::from_millis(500);
pub(super) const GIVE_UP: Duration = Duration::from_secs(32);
/// RFC 3262 §3: the highest first RSeq number.
const MAX_FIRST: u32 = 0x7fff_ffff;
/// Responses that wait for the PRACK of an earlier one: a phone rings, is forwarded, rings elsewhere.
const MAX_WAITING: usize = 16;

/// What a caller's INVITE says of 100rel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Nothing: it gets unreliable ones.
    None,
    /// It gets reliable ones where the called side sends such.
    Supported,
    /// It gets no others (§3: MUST).
    Required,
}

impl Wish {
    /// Of an INVITE.
    pub(super) fn of(invite: &Message) -> Wish {
        if has_option(invite, HeaderId::Require, OPTION) {
            Wish::Required
        } else if has_option(invite, HeaderId::Supported, OPTION) {
            Wish::Supported
        } else {
            Wish::None
        }
    }

    /// Whether a response goes to the caller reliably.
    pub(super) fn is_reliable(self, reliable_from_called: bool) -> bool {
        match self {
            Wish::None => false,
            Wish::Supported => reliable_from_called,
            Wish::Required => true,
        }
    }
}

/// True when an option tag stands in that header field.
pub(super) fn has_option(message: &Message, header: HeaderId, option: &str) -> bool {
    message.values(header).any(|v| v.trim().eq_ignore_ascii_case(option))
}

/// Takes an option tag out; other tags of the field stay.
pub(super) fn drop_option(draft: &mut Draft, header: HeaderId, option: &str) {
    let is_it = |v: &str| v.trim().eq_ignore_ascii_case(option);
    let fields: Vec<String> = draft.headers().filter(|f| f.id == header).map(|f| f.value.to_owned()).collect();
    if !fields.iter().any(|f| f.split(',').any(is_it)) {
        return;
    }
    draft.remove(header);
    for field in fields {
        let rest: Vec<&str> = field.split(',').map(str::trim).filter(|v| !is_it(v)).collect();
        if !rest.is_empty() {
            draft.push(header, rest.join(", "));
        }
    }
}

/// What the called side is offered. What the caller requires, we can do for it: required is made supported, lest a called side
/// that cannot refuses (420). What the caller cannot, we offer all the same, so that a called side that insists (421) is
/// served; but not with a delayed offer, for a reliable response could carry the offer, whose answer only the caller has.
/// `ours`: the trunk lets us, and there is an offer.
pub(super) fn offer(invite: &Message, ours: bool, draft: &mut Draft) {
    drop_option(draft, HeaderId::Require, OPTION);
    let offered = has_option(invite, HeaderId::Supported, OPTION);
    if !offered && (ours || Wish::of(invite) == Wish::Required) {
        draft.push(HeaderId::Supported, OPTION);
    }
}

/// A re-INVITE as it goes to the other leg, whose far end may not have what this one's requires: required is made supported.
pub(super) fn bridge(draft: &mut Draft) {
    let has = |draft: &Draft, id| {
        draft.headers().any(|f| f.id == id && f.value.split(',').any(|v| v.trim().eq_ignore_ascii_case(OPTION)))
    };
    if has(draft, HeaderId::Require) {
        drop_option(draft, HeaderId::Require, OPTION);
        if !has(draft, HeaderId::Supported) {
            draft.push(HeaderId::Supported, OPTION);
        }
    }
}

/// The RSeq number of a response that is reliable.
pub(super) fn rseq_of(response: &Message) -> Option<u32> {
    let reliable = has_option(response, HeaderId::Require, OPTION) && response.to_tag().is_some();
    response.number(HeaderId::RSeq).filter(|n| reliable && *n > 0)
}

/// What a RAck field names (§7.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RAck {
    /// Number of the response.
    pub(super) rseq: u32,
    /// CSeq number of its request.
    pub(super) cseq: u32,
    /// CSeq method of its request.
    pub(super) method: Box<str>,
}

impl RAck {
    /// Of a PRACK. `None`: there is none, or it cannot be read.
    pub(super) fn of(request: &Message) -> Option<RAck> {
        let mut parts = request.first(HeaderId::RAck)?.split_ascii_whitespace();
        let rack = RAck { rseq: parts.next()?.parse().ok()?, cseq: parts.next()?.parse().ok()?, method: parts.next()?.into() };
        parts.next().is_none().then_some(rack)
    }
}

/// A response of the called side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// In order.
    Next,
    /// Had that.
    Again,
    /// One before it is missing: neither acknowledged nor processed (§4).
    Gap,
}

/// Reliable responses of the called side in one dialog.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RseqSoFar(Option<u32>);

impl RseqSoFar {
    /// One came.
    pub(super) fn hear(&mut self, rseq: u32) -> Order {
        match self.0 {
            None => {}
            Some(last) if rseq == last.saturating_add(1) => {}
            Some(last) if rseq <= last => return Order::Again,
            Some(_) => return Order::Gap,
        }
        self.0 = Some(rseq);
        Order::Next
    }
}

/// A response to the caller that waits for its PRACK.
#[derive(Debug)]
pub(super) struct Open {
    /// Its number.
    pub(super) rseq: u32,
    /// The called side's number, where that was reliable too: the PRACK goes on to it.
    pub(super) theirs: Option<u32>,
    /// As sent.
    pub(super) status: u16,
    /// As sent.
    pub(super) payload: Bytes,
    /// It has a session description: a 2xx must wait (§3).
    pub(super) sdp: bool,
    /// Present interval.
    pub(super) interval: Duration,
    /// When to give up.
    pub(super) until: Instant,
    /// Running timer.
    pub(super) timer: Option<TimerId>,
}

/// A response to the caller that waits for the PRACK of an earlier one (§3: only one is open).
#[derive(Debug)]
pub(super) struct Waiting {
    /// Without RSeq.
    pub(super) draft: Draft,
    /// The called side's number.
    pub(super) theirs: Option<u32>,
    /// It has a session description.
    pub(super) sdp: bool,
}

/// Reliable responses to the caller in one dialog.
#[derive(Debug, Default)]
pub(super) struct Sender {
    /// Sent, not acknowledged.
    pub(super) open: Option<Open>,
    last: Option<u32>,
    waiting: VecDeque<Waiting>,
}

impl Sender {
    /// Puts a response in line. False: too many wait already.
    pub(super) fn put(&mut self, waiting: Waiting) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(waiting);
        }
        room
    }

    /// The next response to send, with its number; `first` is that of the first one, where the called side gave none.
    pub(super) fn next(&mut self, first: u32) -> Option<(u32, Waiting)> {
        if self.open.is_some() {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        let rseq = match self.last {
            Some(last) => last.saturating_add(1),
            None => waiting.theirs.filter(|n| *n <= MAX_FIRST).unwrap_or((first & MAX_FIRST).max(1)),
        };
        self.last = Some(rseq);
        Some((rseq, waiting))
    }

    /// A PRACK came. `None`: it matches no open response (§3: 481).
    pub(super) fn acknowledge(&mut self, rseq: u32) -> Option<Open> {
        self.open.take_if(|o| o.rseq == rseq)
    }

    /// §3: true while a 2xx must wait. A response that is not even sent needs no PRACK.
    pub(super) fn holds_2xx(&self) -> bool {
        self.open.as_ref().is_some_and(|o| o.sdp)
    }

    /// A final response was sent: what waits is not sent any more.
    pub(super) fn close(&mut self) -> Option<TimerId> {
        self.waiting.clear();
        self.open.as_mut().and_then(|o| o.timer.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Method;

    fn invite(extra: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{extra}Content-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    #[test]
    fn what_the_called_side_is_offered_and_the_caller_gets() {
        // INVITE, with an offer; what goes on; whether a response that is (un)reliable there is reliable toward the caller.
        let table: [(&str, bool, &[&str], bool, bool); 7] = [
            ("", true, &["Supported: 100rel"], false, false),
            ("", false, &[], false, false),
            ("Supported: 100rel, timer\r\n", true, &["Supported: 100rel"], true, false),
            ("k: 100REL\r\n", false, &["k: 100REL"], true, false),
            ("Require: 100rel\r\n", false, &["Supported: 100rel"], true, true),
            (
                "Require: precondition, 100rel\r\nSupported: 100rel\r\n",
                true,
                &["Require: precondition", "Supported: 100rel"],
                true,
                true,
            ),
            ("Supported: timer, path\r\n", true, &["Supported: path", "Supported: 100rel"], false, false),
        ];
        for (fields, has_offer, expected, reliable, unreliable) in table {
            let invite = invite(fields);
            let mut draft = Draft::request(&Method::Invite, "sip:x");
            super::super::headers::copy_through(&invite, &mut draft);
            offer(&invite, has_offer, &mut draft);
            let text = String::from_utf8(draft.encode().expect("plain").to_vec()).expect("plain");
            let mut got: Vec<&str> =
                text.lines().filter(|l| ["Supported:", "k:", "Require:"].iter().any(|n| l.starts_with(n))).collect();
            got.sort_unstable();
            let mut expected = expected.to_vec();
            expected.sort_unstable();
            assert_eq!(got, expected, "{fields}");
            let wish = Wish::of(&invite);
            assert_eq!((wish.is_reliable(true), wish.is_reliable(false)), (reliable, unreliable), "{fields}");
        }
    }

    #[test]
    fn racks() {
        let rack = |rseq, cseq| Some(RAck { rseq, cseq, method: "INVITE".into() });
        for (value, expected) in [
            ("776656 1 INVITE", rack(776_656, 1)),
            ("1  \t 2   INVITE", rack(1, 2)),
            ("1 2", None),
            ("1 2 INVITE more", None),
            ("4294967296 2 INVITE", None),
            ("x 2 INVITE", None),
        ] {
            assert_eq!(RAck::of(&invite(&format!("RAck: {value}\r\n"))), expected, "{value:?}");
        }
        assert_eq!(RAck::of(&invite("")), None);
    }

    #[test]
    fn numbers_of_the_called_side() {
        use Order::{Again, Gap, Next};
        // RFC 3262 §4: any first one, then one by one.
        for (heard, expected) in [
            (&[9, 10, 11][..], &[Next, Next, Next][..]),
            (&[9, 9, 10, 9], &[Next, Again, Next, Again]),
            (&[9, 11, 10, 11], &[Next, Gap, Next, Next]),
        ] {
            let mut state = RseqSoFar::default();
            assert_eq!(heard.iter().map(|n| state.hear(*n)).collect::<Vec<_>>(), expected);
        }
    }

    fn open(rseq: u32, theirs: Option<u32>, sdp: bool) -> Open {
        let (interval, until) = (Duration::ZERO, Instant::from_micros(0));
        Open { rseq, theirs, status: 183, payload: Bytes::new(), sdp, interval, until, timer: None }
    }

    #[test]
    fn one_is_open_at_a_time() {
        let waiting = |theirs, sdp| Waiting { draft: Draft::response(183, None), theirs, sdp };
        let mut s = Sender::default();
        assert!(s.put(waiting(Some(40), true)) && s.put(waiting(None, false)) && s.put(waiting(Some(41), false)));
        let (rseq, first) = s.next(7).expect("the first");
        assert_eq!((rseq, first.theirs), (40, Some(40)), "the called side's own number where we begin with it");
        s.open = Some(open(rseq, first.theirs, first.sdp));
        assert!(s.next(7).is_none(), "not before its PRACK");
        assert!(s.holds_2xx());
        assert!(s.acknowledge(41).is_none(), "never sent");
        assert!(s.acknowledge(40).is_some());
        assert!(s.acknowledge(40).is_none(), "acknowledged already");
        assert!(!s.holds_2xx());
        let (rseq, second) = s.next(7).expect("the second");
        assert_eq!((rseq, second.theirs), (41, None));
        s.open = Some(open(rseq, second.theirs, second.sdp));
        assert!(!s.holds_2xx(), "without a description it does not hold the answer");
        assert!(s.acknowledge(41).is_some());
        let (rseq, third) = s.next(7).expect("the third");
        assert_eq!((rseq, third.theirs), (42, Some(41)));
        s.open = Some(open(rseq, third.theirs, third.sdp));
        assert_eq!(s.acknowledge(42).and_then(|open| open.theirs), Some(41), "whose PRACK goes on to the called side");
    }

    #[test]
    fn first_numbers_and_limits() {
        let waiting = |theirs| Waiting { draft: Draft::response(183, None), theirs, sdp: false };
        for (theirs, first, expected) in
            [(None, 7, 7), (None, 0, 1), (None, 0x8000_0005, 5), (Some(0xffff_ffff), 7, 7), (Some(3), 7, 3)]
        {
            let mut s = Sender::default();
            assert!(s.put(waiting(theirs)));
            assert_eq!(s.next(first).map(|n| n.0), Some(expected));
        }
        let mut s = Sender::default();
        for n in 0..=MAX_WAITING {
            assert_eq!(s.put(waiting(None)), n < MAX_WAITING);
        }
        s.close();
        assert!(s.next(1).is_none());
    }
}
