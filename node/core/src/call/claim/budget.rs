//! The time that a claim has (rule B), and whom it asks meanwhile.

use super::CallClaim;
use crate::call::context::Context;
use crate::call::timer::{CallTimer, TimerUser};
use crate::ids::{LocalId, PacketKey};
use crate::timer::TimerId;

/// The peers are asked when this part of the claim's budget is over: later than nearly all commits, and early enough for their answers. So
/// often there is time for it.
pub(super) const ASK_AFTER: u32 = 3;

/// The budget of one claim.
#[derive(Debug)]
pub(in crate::call) struct Budget {
    call: LocalId,
    key: [u8; 16],
    packet_key: PacketKey,
    timer: Option<TimerId>,
}

impl Budget {
    /// Of the call with these keys.
    pub(in crate::call) fn new(call: LocalId, key: [u8; 16], packet_key: PacketKey) -> Budget {
        Budget { call, key, packet_key, timer: None }
    }

    /// The claim was proposed: the budget runs, and for most of it the peers may be asked too.
    pub(in crate::call) fn await_log(&mut self, cx: &mut Context, claim: &mut CallClaim) {
        self.start(cx);
        // A leader that died this moment leaves leases behind that say nothing: the log is late, and a peer may know.
        self.inquire(cx, claim);
        if !cx.has_lease() {
            cx.ask_peers(self.key);
        }
    }

    /// The log has no place for this call: the peers are asked, and have as long as the log would have had. False: there is nobody to ask.
    pub(in crate::call) fn await_peers(&mut self, cx: &mut Context, claim: &mut CallClaim) -> bool {
        self.inquire(cx, claim);
        let asked = cx.ask_peers(self.key) > 0 || claim.is_waiting();
        if asked {
            self.start(cx);
        }
        asked
    }

    /// The peers are asked a little later.
    pub(in crate::call) fn ask_later(&self, cx: &mut Context) {
        let wait = cx.config.settings.claim_budget / ASK_AFTER;
        cx.start_timer(wait, TimerUser::Call(self.call, CallTimer::AskPeers));
    }

    /// It is spent.
    pub(in crate::call) fn spent(&mut self) {
        self.timer = None;
    }

    /// Nothing is waited for any more.
    pub(in crate::call) fn stop(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.timer);
    }

    fn start(&mut self, cx: &mut Context) {
        let budget = cx.config.settings.claim_budget;
        self.timer = Some(cx.start_timer(budget, TimerUser::Call(self.call, CallTimer::ClaimBudget)));
    }

    /// Asks the peers that only SIP may reach. Each question may get lost: there are some within the budget.
    fn inquire(&self, cx: &mut Context, claim: &mut CallClaim) {
        let asked = cx.inquire(self.key, self.packet_key);
        claim.wait_for(asked);
        self.ask_later(cx);
    }
}
