//! What a call does when one of its timers fires, and when the media engine reports.

use super::claim::ClaimEvent;
use super::context::Context;
use super::provisional::Repeated;
use super::takeover::LegEvent;
use super::timer::CallTimer;
use super::{Call, CallPhase, Cause};
use crate::io::{Counter, MediaEvent, Side};

impl Call {
    /// A timer of this call.
    pub fn on_timer(&mut self, cx: &mut Context, timer: CallTimer) {
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
            CallTimer::Failover(index) => {
                if self.uac.on_silence(cx, index) {
                    self.try_another(cx, 480);
                }
            }
            CallTimer::Abandon(index) => self.on_attempt_gone(cx, index),
            CallTimer::AbandonCrossing(id) => {
                let lost = self.bridge().on_abandoned(cx, id);
                self.settle(cx, lost);
            }
            CallTimer::Silent(tx) => {
                let lost = self.bridge().on_silent(cx, tx);
                self.settle(cx, lost);
            }
            CallTimer::Ring => self.on_ring_timeout(cx),
            CallTimer::Progress => {
                self.uas.ringing.word_is_due();
                if self.uas.is_open() && self.phase == CallPhase::Dialling {
                    self.provisional().say_again(cx);
                }
            }
            CallTimer::Repeat2xx(side) => {
                if self.bridge().on_repeat_due(cx, side) {
                    self.on_no_ack(cx, side);
                }
            }
            CallTimer::Session(side) => {
                let mut bridge = self.bridge();
                let due = bridge.on_session_due(cx, side);
                let lost = due.and_then(|crossing| bridge.cross(cx, crossing, true));
                self.settle(cx, lost);
            }
            CallTimer::Takeover(side) => self.on_takeover(cx, side, LegEvent::Due),
            CallTimer::Repeat18x(pair) => match self.provisional().on_repeat_due(cx, pair) {
                Repeated::Going => {}
                Repeated::NoPrack => self.fail(cx, 504, "no PRACK"),
                Repeated::Acknowledged => {
                    self.release_answer(cx);
                    self.provisional().send_next(cx, pair);
                }
            },
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

    /// A far end has not acknowledged our 2xx: RFC 3261 §13.3.1.4, the dialog is confirmed, but the session goes.
    fn on_no_ack(&mut self, cx: &mut Context, side: Side) {
        if self.phase == CallPhase::Answered {
            self.hang_up(cx, None, Cause { origin: "node", status: 200, reason: "no ACK".into() }, None);
        }
        self.bridge().flush_bye(cx, side);
    }

    /// The media engine reports on this call's session.
    pub fn on_media(&mut self, cx: &mut Context, event: &MediaEvent) {
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
        if self.phase == CallPhase::Over {
            return;
        }
        // The ports are decided: who has waited for them goes on.
        if self.phase == CallPhase::Preparing || self.media.is_awaited() {
            self.try_dial(cx);
        }
        for (index, response) in self.uac.take_provisional() {
            if self.phase == CallPhase::Dialling {
                self.provisional().on_response(cx, index, &response);
            }
        }
        self.release_answer(cx);
        if self.takeover.as_ref().is_some_and(|takeover| takeover.awaits_ports()) && !self.media.is_opening() {
            let outcome = self.taking_over().and_then(|mut taking| taking.on_ports(cx));
            self.settle(cx, outcome);
        }
        let lost = self.bridge().release(cx);
        self.settle(cx, lost);
    }
}
