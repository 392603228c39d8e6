//! A 2xx that is repeated until its ACK comes (RFC 3261 §13.3.1.4).

use std::time::Duration;

use bytes::Bytes;

use super::leg::Pending2xx;
use super::outgoing::Purpose;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, Cause, body};
use crate::io::{Counter, ReturnPath, Side};
use crate::sip::Message;
use crate::transaction::ServerTxId;

/// RFC 3261 §13.3.1.4: T1, doubling up to T2, for 64 × T1.
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
const GIVE_UP: Duration = Duration::from_secs(32);
/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);

impl Call {
    /// Keeps a 2xx, and repeats it until its ACK comes.
    #[expect(clippy::too_many_arguments, reason = "the facts of a response, each of its own type")]
    pub(super) fn await_ack(
        &mut self,
        cx: &mut Services,
        side: Side,
        tx: ServerTxId,
        cseq: u32,
        payload: Bytes,
        back: ReturnPath,
        awaits_answer: Option<u32>,
    ) {
        let timer = Some(cx.start_timer(T1, Timer::Call(self.id, CallTimer::Repeat2xx(side))));
        let until = cx.after(GIVE_UP);
        self.leg_mut(side).pending_2xx =
            Some(Pending2xx { tx, cseq, payload, interval: T1, until, timer, back, awaits_answer, before: None });
    }

    /// Time to repeat a 2xx, or to give up waiting for its ACK.
    pub(super) fn on_repeat_2xx(&mut self, cx: &mut Services, side: Side) {
        let id = self.id;
        let Some(pending) = self.leg_mut(side).pending_2xx.as_mut() else { return };
        pending.timer = None;
        let over = cx.now.mono >= pending.until;
        if over && !cx.has_lease() {
            // Rule I: without a lease nobody is hung up on. The ACK may still come; the lease may come back.
            pending.timer = Some(cx.start_timer(LEASE_WAIT, Timer::Call(id, CallTimer::Repeat2xx(side))));
            self.ask_media(cx);
            return;
        }
        if over {
            return self.give_up_2xx(cx, side);
        }
        pending.interval = (pending.interval * 2).min(T2);
        let (interval, payload, back) = (pending.interval, pending.payload.clone(), pending.back);
        let timer = cx.start_timer(interval, Timer::Call(id, CallTimer::Repeat2xx(side)));
        pending.timer = Some(timer);
        cx.send(back, None, payload);
        if self.emergency {
            self.ask_media(cx);
        }
    }

    /// No ACK came. An emergency caller that is heard has the 2xx: its ACK went astray, to a node that is cut off or to an address that
    /// nobody reads, and is no reason to end its call (AC-55). RFC 3261 §13.3.1.4 says SHOULD.
    fn give_up_2xx(&mut self, cx: &mut Services, side: Side) {
        // An answer that it waited for will not come: the other leg's 2xx gets its ACK before the BYE.
        self.ack_unanswered(cx);
        self.leg_mut(side).pending_2xx = None;
        if self.phase == CallPhase::Answered && self.emergency && self.is_heard(cx, side) != Some(false) {
            cx.count(Counter::Misrouted("ACK", "missing"));
            return self.flush_bye(cx, side);
        }
        cx.count(Counter::CallEnded("no_ack", self.class()));
        if self.phase == CallPhase::Answered {
            // RFC 3261 §13.3.1.4: the dialog is confirmed, but the session goes.
            self.hang_up(cx, None, Cause { origin: "node", status: 200, reason: "no ACK".into() }, None);
        }
        self.flush_bye(cx, side);
    }

    /// The far end's ACK for a 2xx. `message` may carry the answer.
    pub fn on_ack(&mut self, cx: &mut Services, side: Side, back: &ReturnPath, message: &Message) {
        self.ladder.received(cx.now.unix, self.leg(side).realm, back, message);
        self.learn_session_id(side, message);
        let at = self.toward(side);
        let (leg, half) = self.leg_and_half(at);
        leg.learn_path(&half.dialog, back);
        if leg.pending_2xx.as_ref().is_none_or(|p| p.cseq != message.cseq()) {
            return; // A repeated ACK, or one for a 2xx that was given up.
        }
        let Some(mut pending) = leg.pending_2xx.take() else { return };
        cx.stop_timer(&mut pending.timer);
        if let Some(cseq) = pending.awaits_answer.filter(|_| !self.leg(side.other()).gone) {
            let mut ack = self.pairs[at.other()].dialog.ack(cseq);
            self.pass(cx, at, message, &mut ack);
            self.send_on(cx, at.other(), ack, Purpose::Ack(cseq));
            if let Some(before) = pending.before.filter(|_| body::find_sdp(message).is_none()) {
                // RFC 3261 §13.2.2.4 wants an answer here. Without one the offer came to nothing.
                self.take_back(cx, before);
            }
        }
        self.flush_bye(cx, side);
    }
}
