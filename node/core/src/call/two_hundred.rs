//! What RFC 3261 keeps for a 2xx to an INVITE: ours is repeated until its ACK comes (§13.3.1.4), our ACK as often as the far end's 2xx comes
//! (§13.2.2.4), and a BYE waits for the ACK (§15).

use std::time::Duration;

use bytes::Bytes;

use super::context::Context;
use super::offer_answer::AgreedDescriptions;
use super::timer::{CallTimer, TimerUser};
use crate::crossing::{Way, Ways};
use crate::dialog::DialogRef;
use crate::ids::LocalId;
use crate::io::{ReturnPath, Side};
use crate::sip::Draft;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::ServerTxId;

/// RFC 3261 §13.3.1.4: T1, doubling up to T2, for 64 × T1.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);
/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// ACKs kept for repetition: one a side, and some forks.
const MAX_ACKS: usize = 4;

/// Both kinds, of one call.
#[derive(Debug)]
pub(super) struct TwoHundred {
    call: LocalId,
    /// Our 2xx to an INVITE of the caller, and to one of the called side.
    pending: [Option<Unacknowledged>; 2],
    acks: Vec<SentAck>,
    /// To be sent to that side once its ACK has come.
    bye: Option<(Side, Draft)>,
}

/// A 2xx of ours, as it was sent.
#[derive(Debug)]
pub(super) struct Accepted {
    /// The INVITE's transaction.
    pub(super) tx: ServerTxId,
    /// The INVITE's CSeq number.
    pub(super) cseq: u32,
    /// The octets.
    pub(super) payload: Bytes,
    /// Where the INVITE came from.
    pub(super) back: ReturnPath,
    /// The far end's ACK carries the answer to the offer in this 2xx, and goes to the other leg's INVITE with this number.
    pub(super) answers: Option<u32>,
}

#[derive(Debug)]
struct Unacknowledged {
    sent: Accepted,
    /// What stood before the offer in it.
    before: Option<AgreedDescriptions>,
    interval: Duration,
    until: Instant,
    timer: Option<TimerId>,
}

/// The answer that an ACK has to bring.
#[derive(Debug)]
pub(super) struct Owed {
    /// CSeq number of the other leg's INVITE, whose ACK it goes into.
    pub(super) cseq: u32,
    /// What stood before the offer.
    pub(super) before: Option<AgreedDescriptions>,
}

/// What became of a 2xx whose time to be repeated has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepeatOutcome {
    /// It has its ACK.
    Nothing,
    /// It was sent again.
    Repeated,
    /// No ACK came, and without a lease (rule I) that has no consequence yet.
    Waits,
    /// No ACK came.
    GivenUp,
}

/// An ACK of ours for a 2xx.
#[derive(Clone, Debug)]
pub(super) struct SentAck {
    /// In which dialog; of a 2xx that was refused, whose leg it is.
    pub(super) to: DialogRef,
    /// CSeq number of the INVITE.
    pub(super) cseq: u32,
    /// The far end's tag.
    pub(super) remote_tag: Option<Box<str>>,
    /// The way it went.
    pub(super) way: Way,
    /// The octets.
    pub(super) payload: Bytes,
    /// How it may be repeated by another way; `None`: there is none.
    pub(super) again: Option<Box<Again>>,
}

/// An ACK as it was before Via and credentials, and how else it may go.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) draft: Draft,
    pub(super) ways: Ways,
}

/// What became of an ACK that is to be repeated.
#[derive(Debug)]
pub(super) enum Repeat {
    /// None was sent for that 2xx.
    Unknown,
    /// It went out again.
    Done,
    /// Its connection is gone: it is to be sent in this dialog as if for the first time.
    Anew(DialogRef, Draft),
    /// It is to go by the next of the ways that there are.
    ByOther(DialogRef, Again),
}

impl TwoHundred {
    /// Of a call that has none yet.
    pub(super) fn new(call: LocalId) -> TwoHundred {
        TwoHundred { call, pending: [None, None], acks: Vec::new(), bye: None }
    }

    fn of(&mut self, side: Side) -> &mut Option<Unacknowledged> {
        &mut self.pending[usize::from(side == Side::Callee)]
    }

    /// True while a 2xx of ours toward that side waits for its ACK.
    pub(super) fn is_pending(&self, side: Side) -> bool {
        self.pending[usize::from(side == Side::Callee)].is_some()
    }

    /// True while any does.
    pub(super) fn any_pending(&self) -> bool {
        self.pending.iter().any(Option::is_some)
    }

    /// True while an ACK of that side is to bring an answer.
    pub(super) fn awaits_answer(&self, side: Side) -> bool {
        self.pending[usize::from(side == Side::Callee)].as_ref().is_some_and(|p| p.sent.answers.is_some())
    }

    /// A 2xx was sent: it is repeated until its ACK comes.
    pub(super) fn accepted(&mut self, cx: &mut Context, side: Side, sent: Accepted) {
        let timer = Some(self.start(cx, side, T1));
        *self.of(side) = Some(Unacknowledged { sent, before: None, interval: T1, until: cx.after(GIVE_UP), timer });
    }

    fn start(&self, cx: &mut Context, side: Side, after: Duration) -> TimerId {
        cx.start_timer(after, TimerUser::Call(self.call, CallTimer::Repeat2xx(side)))
    }

    /// What stood before the offer in the 2xx toward that side.
    pub(super) fn keep_before(&mut self, side: Side, before: AgreedDescriptions) {
        if let Some(pending) = self.of(side) {
            pending.before = Some(before);
        }
    }

    /// Time to repeat a 2xx, or to give up waiting for its ACK: it is still there then.
    pub(super) fn on_due(&mut self, cx: &mut Context, side: Side) -> RepeatOutcome {
        let Some(pending) = self.of(side) else { return RepeatOutcome::Nothing };
        let over = cx.now.mono >= pending.until;
        let (after, due) = match (over, cx.has_lease()) {
            (true, true) => {
                pending.timer = None;
                return RepeatOutcome::GivenUp;
            }
            // Nobody is hung up on. The ACK may still come; the lease may come back.
            (true, false) => (LEASE_WAIT, RepeatOutcome::Waits),
            (false, _) => {
                pending.interval = (pending.interval * 2).min(T2);
                cx.send(pending.sent.back, None, pending.sent.payload.clone());
                (pending.interval, RepeatOutcome::Repeated)
            }
        };
        let timer = Some(self.start(cx, side, after));
        if let Some(pending) = self.of(side) {
            pending.timer = timer;
        }
        due
    }

    /// Another node has the call: nothing is repeated, and no BYE waits.
    pub(super) fn drop_all(&mut self, cx: &mut Context) {
        for pending in self.pending.iter_mut() {
            if let Some(mut pending) = pending.take() {
                cx.stop_timer(&mut pending.timer);
            }
        }
        self.bye = None;
    }

    /// Nobody waits for that ACK any more.
    pub(super) fn forget(&mut self, side: Side) {
        *self.of(side) = None;
    }

    /// An ACK came, or what is as good, for the INVITE with this CSeq number. `None`: it came before, or the 2xx was given up; else the answer
    /// that it has to bring.
    pub(super) fn acked(&mut self, cx: &mut Context, side: Side, cseq: u32) -> Option<Option<Owed>> {
        let mut pending = self.of(side).take_if(|pending| pending.sent.cseq == cseq)?;
        cx.stop_timer(&mut pending.timer);
        Some(pending.sent.answers.map(|cseq| Owed { cseq, before: pending.before }))
    }

    /// The INVITE toward the other side of `side` whose ACK waits for an answer, which is not waited for any more.
    pub(super) fn take_unanswered(&mut self, side: Side) -> Option<u32> {
        self.of(side).as_mut()?.sent.answers.take()
    }

    /// A copy of the INVITE came by another way: repeats of its 2xx follow it (rule H), from the same address only, as a transaction's other
    /// responses do: a Via can be overheard.
    pub(super) fn on_copy(&mut self, cx: &mut Context, tx: ServerTxId, back: ReturnPath) {
        let same = |p: &&mut Unacknowledged| p.sent.tx == tx && p.sent.back.is_like(&back);
        for pending in self.pending.iter_mut().flatten().filter(same) {
            pending.sent.back = back;
            cx.send(back, None, pending.sent.payload.clone());
        }
    }

    /// A BYE toward that side. `None`: it waits for the ACK (RFC 3261 §15).
    pub(super) fn pass_bye(&mut self, side: Side, bye: Draft) -> Option<Draft> {
        if self.is_pending(side) {
            self.bye = Some((side, bye));
            return None;
        }
        Some(bye)
    }

    /// The ACK came, or will not: the BYE that waited for it.
    pub(super) fn take_bye(&mut self, side: Side) -> Option<Draft> {
        self.bye.take_if(|(of, _)| *of == side).map(|(_, bye)| bye)
    }

    /// True while a BYE waits.
    pub(super) fn holds_bye(&self) -> bool {
        self.bye.is_some()
    }

    /// An ACK was sent within the call.
    pub(super) fn keep(&mut self, ack: SentAck) {
        self.acks.retain(|a| a.to.side != ack.to.side || a.cseq != ack.cseq || a.remote_tag != ack.remote_tag);
        self.acks.push(ack);
        // The last ACK of each side is the only one whose 2xx can still be repeated, besides forks'.
        if self.acks.len() > MAX_ACKS {
            self.acks.remove(0);
        }
    }

    /// An ACK was sent for a 2xx that nobody wants.
    pub(super) fn keep_refused(&mut self, ack: SentAck) {
        self.acks.push(ack);
    }

    fn find(&self, side: Side, cseq: u32, remote_tag: Option<&str>) -> Option<usize> {
        self.acks.iter().position(|a| a.to.side == side && a.cseq == cseq && a.remote_tag.as_deref() == remote_tag)
    }

    /// The ACK for a 2xx that came again.
    pub(super) fn repeat(&mut self, cx: &mut Context, side: Side, cseq: u32, remote_tag: Option<&str>) -> Repeat {
        let Some(at) = self.find(side, cseq, remote_tag) else { return Repeat::Unknown };
        let ack = &mut self.acks[at];
        let closed = ack.way.back.path.flow.is_some_and(|flow| !cx.is_open(flow, ack.way.back.ingress));
        match ack.again.take_if(|again| closed || !again.ways.is_empty()) {
            Some(again) if closed => Repeat::Anew(ack.to, again.draft),
            Some(mut again) => {
                again.ways.push_back(ack.way.clone());
                Repeat::ByOther(ack.to, *again)
            }
            None => {
                cx.send(ack.way.back, ack.way.tls_name.clone(), ack.payload.clone());
                Repeat::Done
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::timers::Lane;
    use super::*;
    use crate::dialog::PairId;
    use crate::io::{AddressRole, Output, Path, Transport};
    use crate::sip::Method;

    const CALLEE: DialogRef = DialogRef { pair: PairId::at(0), side: Side::Callee };

    fn back(host: u8) -> ReturnPath {
        let at = |host: u8| ([192, 0, 2, host], 5060).into();
        ReturnPath::here(Path { role: AddressRole::Core, transport: Transport::Udp, local: at(3), remote: at(host), flow: None })
    }

    fn accepted(cx: &mut Context, answers: Option<u32>) -> TwoHundred {
        let mut state = TwoHundred::new(LocalId(1));
        let tx = crate::transaction::test_server_ids(1)[0];
        state.accepted(cx, Side::Caller, Accepted { tx, cseq: 7, payload: "200".into(), back: back(70), answers });
        state
    }

    fn sent(cx: &mut Context) -> usize {
        std::iter::from_fn(|| cx.poll_output()).filter(|out| matches!(out, Output::Transmit(_))).count()
    }

    #[test]
    fn every_state_of_a_2xx_and_what_its_timer_does() {
        // Seconds since it was sent, whether there is a lease: what becomes of it, and how many copies go out.
        for (after, lease, due, copies) in [
            (1, true, RepeatOutcome::Repeated, 1),
            (31, false, RepeatOutcome::Repeated, 1),
            (32, false, RepeatOutcome::Waits, 0),
            (32, true, RepeatOutcome::GivenUp, 0),
        ] {
            let mut cx = Context::for_tests();
            let mut state = accepted(&mut cx, Some(9));
            cx.now.mono = cx.now.mono + Duration::from_secs(after);
            cx.view.lease_until = if lease { cx.after(Duration::from_secs(1)) } else { cx.now.mono };
            assert_eq!(state.on_due(&mut cx, Side::Callee), RepeatOutcome::Nothing, "of the other side");
            assert_eq!(state.on_due(&mut cx, Side::Caller), due, "{after} {lease}");
            assert_eq!(sent(&mut cx), copies);
            assert!(state.is_pending(Side::Caller) && state.awaits_answer(Side::Caller) && !state.is_pending(Side::Callee));
            assert!(state.acked(&mut cx, Side::Caller, 6).is_none() && state.acked(&mut cx, Side::Callee, 7).is_none());
            let owed = state.acked(&mut cx, Side::Caller, 7).expect("its ACK");
            assert_eq!(owed.map(|owed| owed.cseq), Some(9));
            assert!(!state.any_pending() && state.acked(&mut cx, Side::Caller, 7).is_none(), "once");
            assert_eq!(state.on_due(&mut cx, Side::Caller), RepeatOutcome::Nothing);
        }
    }

    #[test]
    fn intervals_double_up_to_t2() {
        let mut cx = Context::for_tests();
        let mut state = accepted(&mut cx, None);
        let mut times = Vec::new();
        for ms in (0..16_000).step_by(500) {
            let start = Context::for_tests().now.mono;
            cx.now.mono = start + Duration::from_millis(ms);
            while cx.timers.pop_expired(Lane::Ordinary, cx.now.mono).is_some() {
                assert_eq!(state.on_due(&mut cx, Side::Caller), RepeatOutcome::Repeated);
                times.push(ms);
            }
        }
        assert_eq!(times, [500, 1500, 3500, 7500, 11_500, 15_500]);
    }

    #[test]
    fn an_answer_that_is_not_waited_for_is_owed_no_more() {
        let mut cx = Context::for_tests();
        let mut state = accepted(&mut cx, Some(9));
        assert_eq!((state.take_unanswered(Side::Callee), state.take_unanswered(Side::Caller)), (None, Some(9)));
        assert!(!state.awaits_answer(Side::Caller) && state.acked(&mut cx, Side::Caller, 7).expect("its ACK").is_none());
    }

    #[test]
    fn a_bye_waits_for_the_ack_of_its_side() {
        let mut cx = Context::for_tests();
        let mut state = accepted(&mut cx, None);
        let bye = || Draft::request(&Method::Bye, "sip:x");
        assert!(state.pass_bye(Side::Callee, bye()).is_some() && !state.holds_bye());
        assert!(state.pass_bye(Side::Caller, bye()).is_none() && state.holds_bye());
        assert!(state.take_bye(Side::Callee).is_none());
        state.forget(Side::Caller);
        assert!(state.take_bye(Side::Caller).is_some() && !state.holds_bye());
    }

    #[test]
    fn copies_of_the_invite_move_the_2xx_from_their_own_address_only() {
        let mut cx = Context::for_tests();
        let mut state = accepted(&mut cx, None);
        let tx = crate::transaction::test_server_ids(2);
        for (tx, way, copies) in [(tx[0], back(70), 1), (tx[1], back(70), 0), (tx[0], back(71), 0)] {
            state.on_copy(&mut cx, tx, way);
            assert_eq!(sent(&mut cx), copies);
        }
    }

    #[test]
    fn acks_are_known_by_side_number_and_tag() {
        let mut cx = Context::for_tests();
        let mut state = TwoHundred::new(LocalId(1));
        let ack = |cseq, tag: &str| SentAck {
            to: CALLEE,
            cseq,
            remote_tag: Some(tag.into()),
            way: Way { back: back(70), tls_name: None },
            payload: "ACK".into(),
            again: None,
        };
        state.keep(ack(1, "a"));
        state.keep_refused(ack(1, "b"));
        for (side, cseq, tag, known) in [
            (Side::Callee, 1, Some("a"), true),
            (Side::Callee, 1, Some("b"), true),
            (Side::Callee, 1, None, false),
            (Side::Callee, 2, Some("a"), false),
            (Side::Caller, 1, Some("a"), false),
        ] {
            assert_eq!(matches!(state.repeat(&mut cx, side, cseq, tag), Repeat::Done), known, "{side:?} {cseq} {tag:?}");
            assert_eq!(sent(&mut cx), usize::from(known));
        }
        for cseq in 2..8 {
            state.keep(ack(cseq, "a"));
            state.keep(ack(cseq, "a"));
        }
        assert_eq!(state.acks.len(), MAX_ACKS);
    }
}
