//! What a call does when one of its timers fires.

use super::Call;
use super::claim::ClaimEvent;
use super::services::Services;
use super::timer::CallTimer;

impl Call {
    /// A timer of this call.
    pub fn on_timer(&mut self, cx: &mut Services, timer: CallTimer) {
        match timer {
            CallTimer::ClaimBudget => {
                self.budget.spent();
                self.tell_claim(cx, ClaimEvent::BudgetSpent);
            }
            CallTimer::Prepare => {
                self.uac.preparation_over();
                self.on_prepare_limit(cx);
            }
            CallTimer::AskPeers => _ = self.tell_claim(cx, ClaimEvent::AskDue),
            CallTimer::Stale(id) => self.courier().on_stale(cx, id),
            CallTimer::KeepAlive(side) => self.on_keep_alive(cx, side),
            CallTimer::Reclaim => self.on_reclaim_due(cx),
            // The owner of the packets that are held asks for itself.
            CallTimer::Doubt(_) => {}
            CallTimer::Outlived => _ = self.tell_claim(cx, ClaimEvent::Outlived),
            CallTimer::Failover(index) => self.on_failover(cx, index),
            CallTimer::Abandon(index) => self.on_attempt_gone(cx, index),
            CallTimer::AbandonCrossing(id) => self.on_crossing_abandoned(cx, id),
            CallTimer::Silent(tx) => self.on_silent(cx, tx),
            CallTimer::Ring => self.on_ring_timeout(cx),
            CallTimer::Progress => self.on_no_progress(cx),
            CallTimer::Repeat2xx(side) => self.on_repeat_2xx(cx, side),
            CallTimer::Session(side) => self.on_session_due(cx, side),
            CallTimer::Repeat18x(pair) => self.on_repeat_18x(cx, pair),
            CallTimer::Journal => self.journal.on_retry(cx),
            CallTimer::Early => self.journal.on_early(cx),
            CallTimer::MediaClose => {
                self.media.closing = None;
                if self.media.give_up_closing() {
                    self.on_media_closed(cx);
                }
            }
        }
    }
}
