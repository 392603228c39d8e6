//! The pairs of dialogs of a call: which there are, which a message belongs to, and which one is confirmed.
//!
//! Each INVITE to the called side has one, as it left both sides: there is no dialog with the called side yet. From it each To-tag of the
//! called side begins an early dialog (RFC 3261 §12.1, §13.2.2.4), with a dialog of its own toward the caller: the first has the tag that the
//! caller knows the call by, the others a token of their own. What they share they have from there: the caller's Call-ID and route set,
//! the called side's Call-ID and our tag in it.

use std::ops::{Index, IndexMut};

use super::context::Context;
use super::reliable::{RseqSoFar, Sender};
use crate::dialog::{DialogRef, Half, Pair, PairId};
use crate::ids::CallUid;
use crate::io::{Counter, DropReason, Side};
use crate::sip::Message;
use crate::token::{MAX_FORK, OwnerToken, TokenKind};

/// What a pair stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// What an INVITE has begun: both sides as it left them.
    Invited,
    /// The dialog that a response with this To-tag has begun.
    Early(Box<str>),
    /// The same after a BYE in it: whatever still comes with this tag is nobody's.
    Ended(Box<str>),
    /// The same of an INVITE that is done with.
    Past,
}

/// What a pair has until one is confirmed.
#[derive(Debug)]
pub(super) struct Early {
    stage: Stage,
    /// The INVITE that it is of, by attempt; `None`: that was not sent.
    attempt: Option<u32>,
    /// An offer of the INVITE or to it was answered in it before the 2xx.
    pub(super) agreed: bool,
    /// Reliable responses from the called side.
    pub(super) heard: RseqSoFar,
    /// Reliable responses to the caller.
    pub(super) sender: Sender,
}

impl Early {
    fn new(stage: Stage, attempt: Option<u32>) -> Early {
        Early { stage, attempt, agreed: false, heard: RseqSoFar::default(), sender: Sender::default() }
    }

    /// The INVITE that it is of, by attempt.
    pub(super) fn attempt(&self) -> Option<u32> {
        self.attempt
    }

    fn tag(&self) -> Option<&str> {
        match &self.stage {
            Stage::Early(tag) | Stage::Ended(tag) => Some(tag),
            Stage::Invited | Stage::Past => None,
        }
    }
}

/// All of them. There is always one.
#[derive(Debug)]
pub struct Pairs {
    all: Vec<(Pair, Early)>,
    /// The one that is confirmed; before that, what the INVITE under way has begun.
    current: PairId,
    confirmed: bool,
    /// Early dialogs that have begun.
    forks: u8,
}

impl Pairs {
    /// What the caller's INVITE begins.
    pub(super) fn new(pair: Pair) -> Pairs {
        Pairs { all: vec![(pair, Early::new(Stage::Invited, None))], current: PairId::at(0), confirmed: false, forks: 0 }
    }

    /// The one that is confirmed; before that, what the INVITE under way has begun.
    pub(super) fn current(&self) -> PairId {
        self.current
    }

    /// What it has of its own before one is confirmed.
    pub(super) fn early(&mut self, pair: PairId) -> &mut Early {
        &mut self.all[pair.place()].1
    }

    /// Something may still be said in that early dialog.
    pub(super) fn lives(&self, pair: PairId) -> bool {
        matches!(self.all[pair.place()].1.stage, Stage::Early(_))
    }

    /// How many early dialogs there are.
    pub(super) fn living(&self) -> usize {
        self.all.iter().filter(|(_, early)| matches!(early.stage, Stage::Early(_))).count()
    }

    /// The one that is confirmed, else the early dialog that began last, else what the INVITE has begun.
    pub(super) fn latest(&self) -> PairId {
        let living = |(_, early): &(Pair, Early)| matches!(early.stage, Stage::Early(_));
        let last = self.all.iter().rposition(living).filter(|_| !self.confirmed);
        last.map_or(self.current, PairId::at)
    }

    /// Another INVITE is to be written: the early dialogs of those before are over, and it begins with what the last one left.
    pub(super) fn begin_invite(&mut self, cx: &mut Context) -> PairId {
        self.end_early(cx);
        let (pair, early) = &self.all[self.current.place()];
        if early.attempt.is_some() {
            let pair = pair.clone();
            self.current = PairId::at(self.all.len());
            self.all.push((pair, Early::new(Stage::Invited, None)));
        }
        self.current
    }

    /// The INVITE under way is to be sent again, and begins all anew.
    pub(super) fn begin_again(&mut self, cx: &mut Context) -> PairId {
        self.end_early(cx);
        self.current
    }

    /// The INVITE is written: its offer is open on both sides, and in each early dialog.
    pub(super) fn begin_offer(&mut self, of: Option<Side>) {
        let pair = &mut self.all[self.current.place()].0;
        (pair.caller.offer, pair.callee.offer) = (of, of);
    }

    /// The INVITE was sent.
    pub(super) fn on_invited(&mut self, attempt: u32) {
        self.early(self.current).attempt = Some(attempt);
    }

    /// An earlier INVITE is the one that counts after all.
    pub(super) fn return_to(&mut self, cx: &mut Context, pair: PairId) {
        self.end_early(cx);
        self.current = pair;
    }

    /// The INVITE is done with, and so are its early dialogs.
    fn end_early(&mut self, cx: &mut Context) {
        self.close_senders(cx);
        for (_, early) in &mut self.all {
            if early.tag().is_some() {
                early.stage = Stage::Past;
            }
        }
    }

    /// No more reliable responses; what was sent can still be acknowledged.
    pub(super) fn close_senders(&mut self, cx: &mut Context) {
        for (_, early) in &mut self.all {
            cx.stop_timer(&mut early.sender.close());
        }
    }

    /// BYE ends one early dialog of several.
    pub(super) fn end_one(&mut self, cx: &mut Context, pair: PairId) {
        let early = self.early(pair);
        cx.stop_timer(&mut early.sender.close());
        if let Stage::Early(tag) = &mut early.stage {
            early.stage = Stage::Ended(std::mem::take(tag));
        }
    }

    /// It is answered, and the only one from now on.
    pub(super) fn confirm(&mut self, cx: &mut Context, pair: PairId) {
        self.close_senders(cx);
        (self.current, self.confirmed) = (pair, true);
    }

    /// The pair of a response to the INVITE of an attempt, which may begin it. Without a tag it is of the latest. `None`: its dialog is over, or
    /// there are too many.
    pub(super) fn of_response(&mut self, cx: &mut Context, uid: CallUid, attempt: u32, response: &Message) -> Option<PairId> {
        let Some(tag) = response.to_tag().filter(|_| !self.confirmed) else { return Some(self.latest()) };
        if let Some(pair) = self.find(attempt, tag) {
            return self.lives(pair).then_some(pair);
        }
        if self.forks > MAX_FORK && response.status().is_none_or(|status| status < 200) {
            cx.count(Counter::Dropped(DropReason::Forks));
            return None;
        }
        Some(self.begin(cx, uid, attempt, tag))
    }

    fn begin(&mut self, cx: &mut Context, uid: CallUid, attempt: u32, tag: &str) -> PairId {
        let mut pair = self.all[self.current.place()].0.clone();
        let fork = self.forks.min(MAX_FORK);
        if fork > 0 {
            let token = cx.key.seal(OwnerToken { kind: TokenKind::CallerFork(fork), uid });
            (pair.caller.dialog.local_tag, pair.caller.contact_token) = (token.clone().into(), token.into());
            // Another dialog is another session (RFC 8866 §5.2): a phone that knows one session only sees that this is news.
            pair.caller.sdp_id ^= u64::from(fork) << 1;
        }
        let begun = (pair, Early::new(Stage::Early(tag.into()), Some(attempt)));
        let last = self.all.iter().rposition(|(_, early)| early.stage != Stage::Invited);
        if let Some(last) = last.filter(|_| self.forks > MAX_FORK) {
            // An answer is worth more than the last of so many early dialogs.
            cx.stop_timer(&mut self.all[last].1.sender.close());
            self.all[last] = begun;
            return PairId::at(last);
        }
        self.forks += 1;
        self.all.push(begun);
        PairId::at(self.all.len() - 1)
    }

    fn find(&self, attempt: u32, tag: &str) -> Option<PairId> {
        let is = |(_, early): &(Pair, Early)| {
            early.attempt == Some(attempt) && early.tag().is_some_and(|known| known.eq_ignore_ascii_case(tag))
        };
        self.all.iter().position(is).map(PairId::at)
    }

    /// The pair that a request of a far end is of.
    pub(super) fn of_request(&self, side: Side, request: &Message) -> Option<PairId> {
        let fits = |pair: &Pair| {
            let dialog = &pair.half(side).dialog;
            dialog.fits(request, dialog.remote_tag.as_deref())
        };
        if !self.confirmed {
            let of_early = |(pair, early): &(Pair, Early)| match &early.stage {
                // The called side's first one may be on its way before what it has said of itself was taken.
                Stage::Early(tag) if side == Side::Callee => pair.callee.dialog.fits(request, Some(tag)),
                Stage::Early(_) => fits(pair),
                Stage::Invited | Stage::Ended(_) | Stage::Past => false,
            };
            if let Some(place) = self.all.iter().position(of_early) {
                return Some(PairId::at(place));
            }
            // A response of ours alone may have begun an early dialog with the caller.
            if side == Side::Callee || self.forks > 0 {
                return None;
            }
        }
        fits(&self.all[self.current.place()].0).then_some(self.current)
    }

    /// The dialog that a request of a far end is of, or stands for.
    pub(super) fn at_request(&self, side: Side, request: &Message) -> DialogRef {
        self.of_request(side, request).unwrap_or(self.current).toward(side)
    }

    /// The CSeq number of our latest request in the dialog that a response to an INVITE of ours belongs to.
    pub(super) fn cseq_of(&self, attempt: u32, tag: Option<&str>) -> Option<u32> {
        let pair = self.find(attempt, tag?)?;
        Some(self[pair.callee()].dialog.local_cseq)
    }
}

impl Index<DialogRef> for Pairs {
    type Output = Half;

    fn index(&self, at: DialogRef) -> &Half {
        self.all[at.pair.place()].0.half(at.side)
    }
}

impl IndexMut<DialogRef> for Pairs {
    fn index_mut(&mut self, at: DialogRef) -> &mut Half {
        self.all[at.pair.place()].0.half_mut(at.side)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::dialog::Dialog;
    use crate::ids::{Incarnation, NodeId};
    use crate::io::Output;

    const UID: CallUid = CallUid { node: NodeId(1), incarnation: Incarnation(1), serial: 1 };

    fn message(start: &str, from: &str, to: &str, cseq: &str) -> Message {
        let tag = |tag: &str| if tag.is_empty() { String::new() } else { format!(";tag={tag}") };
        let (from, to) = (tag(from), tag(to));
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>{from}\r\nTo: <sip:b@h>{to}\r\nCall-ID: x\r\nCSeq: 1 {cseq}\r\n\
             Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).expect("valid")
    }

    fn response(status: u16, tag: &str) -> Message {
        message(&format!("SIP/2.0 {status} x"), "ours", tag, "INVITE")
    }

    fn request(from: &str, to: &str) -> Message {
        message("UPDATE sip:x@h SIP/2.0", from, to, "UPDATE")
    }

    /// Toward a caller whose tag is `caller`, and a called side that knows us by `ours`; the INVITE of attempt 0 was sent.
    fn invited(cx: &mut Context) -> Pairs {
        let invite = message("INVITE sip:b@h SIP/2.0", "caller", "", "INVITE");
        let callee = Dialog { remote_tag: None, local_tag: "ours".into(), ..Dialog::from_request(&invite, "ours") };
        let pair = Pair {
            caller: Half::new(Dialog::from_request(&invite, "known"), "known".into(), 1 << 8),
            callee: Half::new(callee, "contact".into(), 2),
        };
        let mut pairs = Pairs::new(pair);
        pairs.begin_invite(cx);
        pairs.on_invited(0);
        pairs
    }

    #[test]
    fn every_stage_and_what_belongs_there() {
        // What has happened in the early dialog `p`; then the pair of a response with its tag, of its far end's requests toward the called side, and
        // of the caller's in it.
        type Step = fn(&mut Pairs, &mut Context, PairId);
        let table: [(&str, Step, [Option<usize>; 3]); 6] = [
            ("early", |_, _, _| (), [Some(1), Some(1), Some(1)]),
            ("ended by BYE", |pairs, cx, p| pairs.end_one(cx, p), [None, None, None]),
            ("confirmed", |pairs, cx, p| pairs.confirm(cx, p), [Some(1), None, Some(1)]),
            ("the INVITE is sent again", |pairs, cx, _| _ = pairs.begin_again(cx), [Some(2), None, None]),
            (
                "another INVITE is sent",
                |pairs, cx, _| {
                    assert_eq!(pairs.begin_invite(cx), PairId::at(2), "the first is another target's");
                    assert_eq!(pairs.begin_invite(cx), PairId::at(2), "it was not sent yet");
                },
                [Some(3), None, None],
            ),
            (
                "the first INVITE counts again",
                |pairs, cx, _| {
                    pairs.begin_invite(cx);
                    pairs.on_invited(1);
                    pairs.return_to(cx, PairId::at(0));
                },
                [Some(3), None, None],
            ),
        ];
        for (what, step, expected) in table {
            let mut cx = Context::for_tests();
            let mut pairs = invited(&mut cx);
            let p = pairs.of_response(&mut cx, UID, 0, &response(183, "p")).expect("begun");
            assert_eq!(p, PairId::at(1));
            step(&mut pairs, &mut cx, p);
            let of_requests = [
                pairs.of_request(Side::Callee, &request("p", "ours")).map(PairId::place),
                pairs.of_request(Side::Caller, &request("caller", "known")).map(PairId::place),
            ];
            let of_response = pairs.of_response(&mut cx, UID, 0, &response(200, "P")).map(PairId::place);
            assert_eq!([of_response, of_requests[0], of_requests[1]], expected, "{what}");
        }
    }

    #[test]
    fn each_early_dialog_is_another_one_toward_the_caller() {
        let mut cx = Context::for_tests();
        let mut pairs = invited(&mut cx);
        assert_eq!(
            pairs.of_request(Side::Caller, &request("caller", "known")),
            Some(PairId::at(0)),
            "by a response of ours alone"
        );
        assert_eq!(pairs.of_request(Side::Callee, &request("p", "ours")), None);
        assert_eq!(pairs.of_response(&mut cx, UID, 0, &response(180, "")), Some(PairId::at(0)), "without a tag it begins none");
        let first = pairs.of_response(&mut cx, UID, 0, &response(180, "p")).expect("begun");
        let second = pairs.of_response(&mut cx, UID, 0, &response(180, "q")).expect("begun");
        let tags = [first, second].map(|pair| pairs[pair.caller()].dialog.local_tag.clone());
        assert_eq!(&*tags[0], "known");
        assert_eq!(cx.key.open(&tags[1]).expect("a token").kind, TokenKind::CallerFork(1));
        assert_ne!(pairs[first.caller()].sdp_id, pairs[second.caller()].sdp_id);
        assert_eq!(pairs.of_request(Side::Caller, &request("caller", &tags[1])), Some(second));
        assert_eq!((pairs.latest(), pairs.living(), pairs.current()), (second, 2, PairId::at(0)));
        assert_eq!(pairs.of_response(&mut cx, UID, 0, &response(200, "")), Some(second), "the latest");
        pairs[second.callee()].dialog.local_cseq = 7;
        assert_eq!(
            (pairs.cseq_of(0, Some("q")), pairs.cseq_of(0, Some("r")), pairs.cseq_of(1, Some("q"))),
            (Some(7), None, None)
        );
        pairs.confirm(&mut cx, first);
        assert_eq!((pairs.latest(), pairs.current()), (first, first));
        assert_eq!(pairs.of_request(Side::Caller, &request("caller", &tags[1])), None);
    }

    #[test]
    fn an_answer_is_worth_more_than_the_last_of_too_many() {
        let mut cx = Context::for_tests();
        let mut pairs = invited(&mut cx);
        for n in 0..=MAX_FORK {
            assert!(pairs.of_response(&mut cx, UID, 0, &response(180, &format!("p{n}"))).is_some());
        }
        while cx.poll_output().is_some() {}
        assert_eq!(pairs.of_response(&mut cx, UID, 0, &response(180, "more")), None);
        assert!(
            std::iter::from_fn(|| cx.poll_output()).any(|out| matches!(out, Output::Count(Counter::Dropped(DropReason::Forks))))
        );
        let last = pairs.of_response(&mut cx, UID, 0, &response(180, &format!("p{MAX_FORK}")));
        assert_eq!(pairs.of_response(&mut cx, UID, 0, &response(200, "more")), last);
        assert_eq!(
            pairs.of_response(&mut cx, UID, 0, &response(200, &format!("p{MAX_FORK}"))),
            last,
            "and of answers the newest"
        );
    }
}
