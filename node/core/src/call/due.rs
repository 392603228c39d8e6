//! What a call does when one of its timers fires, and when the media engine reports.

use super::claim::ClaimEvent;
use super::provisional::Repeated;
use super::services::Services;
use super::timer::CallTimer;
use super::two_hundred::Due;
use super::{Call, CallPhase, Cause};
use crate::dialog::PairId;
use crate::io::{CallOutcome, Counter, MediaEvent, MisrouteAction, Side};

impl Call {
    /// A timer of this call.
    pub fn on_timer(&mut self, cx: &mut Services, timer: CallTimer) {
        match timer {
            CallTimer::ClaimBudget => {
                self.budget.spent();
                self.tell_claim(cx, ClaimEvent::BudgetSpent);
            }
            CallTimer::Prepare => self.on_prepare_limit(cx),
            CallTimer::AskPeers => _ = self.tell_claim(cx, ClaimEvent::AskDue),
            CallTimer::Stale(id) => self.courier().on_stale(cx, id),
            CallTimer::KeepAlive(side) if self.phase == CallPhase::Answered => self.sides.keep_alive(cx, self.about.id, side),
            // The owner of the packets that are held asks for itself.
            CallTimer::KeepAlive(_) | CallTimer::Doubt(_) => {}
            CallTimer::Reclaim => self.on_reclaim_due(cx),
            CallTimer::Outlived => _ = self.tell_claim(cx, ClaimEvent::Outlived),
            CallTimer::Failover(index) => self.on_failover(cx, index),
            CallTimer::Abandon(index) => self.on_attempt_gone(cx, index),
            CallTimer::AbandonCrossing(id) => {
                let lost = self.bridge().on_abandoned(cx, id);
                self.on_session_lost(cx, lost);
            }
            CallTimer::Silent(tx) => {
                let lost = self.bridge().on_silent(cx, tx);
                self.on_session_lost(cx, lost);
            }
            CallTimer::Ring => self.on_ring_timeout(cx),
            CallTimer::Progress => {
                self.uas.ringing.word_is_due();
                if self.uas.is_open() && self.phase == CallPhase::Dialling {
                    self.provisional().say_again(cx);
                }
            }
            CallTimer::Repeat2xx(side) => self.on_repeat_2xx(cx, side),
            CallTimer::Session(side) => {
                let mut bridge = self.bridge();
                let due = bridge.on_session_due(cx, side);
                let lost = due.and_then(|crossing| bridge.cross(cx, crossing, true));
                self.on_session_lost(cx, lost);
            }
            CallTimer::Repeat18x(pair) => self.on_repeat_18x(cx, pair),
            CallTimer::Journal => self.records.journal.on_retry(cx),
            CallTimer::Early => self.records.journal.on_early(cx),
            CallTimer::MediaClose => {
                self.media.closing = None;
                if self.media.give_up_closing() {
                    self.on_media_closed(cx);
                }
            }
        }
    }

    /// Time to repeat a 2xx, or to give up waiting for its ACK.
    fn on_repeat_2xx(&mut self, cx: &mut Services, side: Side) {
        match self.underway.two_hundred.on_due(cx, side) {
            Due::Nothing => {}
            Due::Repeated if !self.about.emergency => {}
            Due::Repeated | Due::Waits => self.media.ask(cx),
            Due::GivenUp => self.give_up_2xx(cx, side),
        }
    }

    /// No ACK came. An emergency caller that is heard has the 2xx: its ACK went astray, to a node that is cut off or to an address that
    /// nobody reads, and is no reason to end its call (AC-55). RFC 3261 §13.3.1.4 says SHOULD.
    fn give_up_2xx(&mut self, cx: &mut Services, side: Side) {
        // An answer that it waited for will not come: the other leg's 2xx gets its ACK before the BYE.
        let mut bridge = self.bridge();
        bridge.ack_unanswered(cx);
        bridge.underway.two_hundred.forget(side);
        if bridge.answered && bridge.about.emergency && bridge.media.is_heard(cx.now.mono, side) != Some(false) {
            cx.count(Counter::Misrouted("ACK", MisrouteAction::Missing));
            return bridge.flush_bye(cx, side);
        }
        cx.count(Counter::CallEnded(CallOutcome::NoAck, bridge.about.class()));
        if bridge.answered {
            // RFC 3261 §13.3.1.4: the dialog is confirmed, but the session goes.
            self.hang_up(cx, None, Cause { origin: "node", status: 200, reason: "no ACK".into() }, None);
        }
        self.bridge().flush_bye(cx, side);
    }

    /// Time to repeat a reliable provisional response.
    fn on_repeat_18x(&mut self, cx: &mut Services, pair: PairId) {
        match self.provisional().on_repeat_due(cx, pair) {
            Repeated::Going => {}
            Repeated::NoPrack => self.fail(cx, 504, "no PRACK"),
            Repeated::Acknowledged => {
                self.release_answer(cx);
                self.provisional().send_next(cx, pair);
            }
        }
    }

    /// The media engine reports on this call's session.
    pub fn on_media(&mut self, cx: &mut Services, event: &MediaEvent) {
        match event {
            MediaEvent::Opened { first, ports, .. } => self.media.on_opened(*first, ports),
            MediaEvent::OpenFailed { .. } => {
                cx.count(Counter::Unanchored(self.about.class()));
                self.media.on_open_failed();
            }
            MediaEvent::Latched { .. } => return,
            MediaEvent::Heard { caller, callee, .. } => {
                let sides = [*caller, *callee];
                self.doubts.on_heard(sides);
                return self.media.on_heard(cx.now.mono, sides);
            }
            MediaEvent::Closed { stats, .. } => {
                if self.media.on_closed(*stats) {
                    self.on_media_closed(cx);
                }
                return;
            }
        }
        if self.phase != CallPhase::Over {
            self.on_ports(cx);
        }
    }

    /// The ports are decided: who has waited for them goes on.
    fn on_ports(&mut self, cx: &mut Services) {
        if self.phase == CallPhase::Preparing || self.media.is_awaited() {
            self.try_dial(cx);
        }
        for (index, response) in self.uac.take_provisional() {
            if self.phase == CallPhase::Dialling {
                self.provisional().on_response(cx, index, &response);
            }
        }
        self.release_answer(cx);
        let lost = self.bridge().release(cx);
        self.on_session_lost(cx, lost);
    }
}
