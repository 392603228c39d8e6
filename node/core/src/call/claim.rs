//! The claim of a call: proposed, won, lost, late (anycast.md, rule B).

use super::record::arrival;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{AfterClaim, Call, CallPhase, ClaimState, Ended, Winner};
use crate::ids::CallUid;
use crate::io::{ClaimStage, Counter, PeerMessage};
use crate::policy::IdentityPolicy;
use crate::sip::{HeaderId, NameAddr, readable};
use crate::store_pb;
use crate::token::ClaimKey;

/// The peers are asked when this part of the claim's budget is over: later than nearly all commits, and early enough for their answers.
const ASK_AFTER: u32 = 3;

impl Ended {
    /// The log gave the claim to another call.
    pub fn lose(&mut self, cx: &mut Services, winner: CallUid, was_left: bool) {
        if !self.failed && !self.left {
            tell_answered(cx, self.claim_key, self.uid);
        }
        match self.left {
            true => self.journal.leave(cx),
            false if self.answered || (was_left && !self.failed) => self.journal.stand_beside(cx, winner),
            false => self.journal.abandon(cx),
        }
    }
}

/// Tells the winner of a claim, wherever it is, that the caller has had its answer here: it must not ring on.
fn tell_answered(cx: &mut Services, key: ClaimKey, call: CallUid) {
    cx.tell_peers(&PeerMessage::ClaimIs { key: key.0, call: Some((call, ClaimStage::Answered)) });
}

impl Call {
    pub(super) fn claim_record(&self, cx: &Services) -> store_pb::Claim {
        let parse = |value: &str| NameAddr::parse(value).ok();
        let (from, to) = (parse(self.invite.from()), parse(self.invite.to()));
        store_pb::Claim {
            key: self.claim_key.0.to_vec().into(),
            exact: self.exact.to_vec().into(),
            call: self.uid.to_bytes().to_vec().into(),
            owner: u32::from(self.uid.node.0),
            epoch: self.epoch.0,
            emergency: self.emergency,
            invite: self.invite.raw().clone(),
            arrival: Some(arrival(&self.back.path, self.back.ingress.or(Some(self.uid.node)))),
            trunk: self.caller.trunk.to_string(),
            emergency_info: self.emergency_info.clone(),
            beside: Default::default(),
            parties: Some(store_pb::CallParties {
                from_uri: from.as_ref().map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
                from_display: from.and_then(|n| n.display).map(|name| readable(&name).into_owned()).unwrap_or_default(),
                to_uri: to.map(|n| readable(n.uri.as_str()).into_owned()).unwrap_or_default(),
                request_uri: self.invite.request_uri().unwrap_or_default().to_owned(),
                call_id: self.invite.call_id().to_owned(),
                asserted_identity: readable(self.asserted_identity(cx)).into_owned(),
            }),
        }
    }

    /// What the caller's trunk asserts of the caller; empty: nothing, or it is not believed.
    fn asserted_identity(&self, cx: &Services) -> &str {
        let believed = cx.config.trunk(&self.caller.trunk).is_none_or(|t| t.identity == IdentityPolicy::Trust);
        self.invite.first(HeaderId::PAssertedIdentity).filter(|_| believed).unwrap_or_default()
    }

    /// The claim was proposed: its budget runs, and for most of it the peers may be asked too.
    pub(super) fn await_log(&mut self, cx: &mut Services) {
        let budget = cx.config.settings.claim_budget;
        self.timers.claim = Some(cx.start_timer(budget, Timer::Call(self.id, CallTimer::ClaimBudget)));
        // A leader that died this moment leaves leases behind that say nothing: the log is late, and a peer may know.
        self.inquire(cx);
        if !cx.has_lease() {
            cx.ask_peers(self.claim_key.0);
        }
    }

    /// Asks the peers that only SIP may reach. Each question may get lost: there are some within the claim's budget.
    fn inquire(&mut self, cx: &mut Services) {
        self.inquiries = 0;
        self.awaited = cx.inquire(self.claim_key.0, self.exact);
        let wait = cx.config.settings.claim_budget / ASK_AFTER;
        cx.start_timer(wait, Timer::Call(self.id, CallTimer::AskPeers));
    }

    /// The log has no place for this call: the peers are asked, and have as long as the log would have had.
    pub(super) fn await_peers(&mut self, cx: &mut Services) {
        self.inquire(cx);
        if cx.ask_peers(self.claim_key.0) == 0 && self.awaited.is_empty() {
            self.on_claim_budget(cx);
            return;
        }
        let budget = cx.config.settings.claim_budget;
        self.timers.claim = Some(cx.start_timer(budget, Timer::Call(self.id, CallTimer::ClaimBudget)));
    }

    /// The log is late, or a peer that was asked by SIP.
    pub(super) fn on_ask_peers(&mut self, cx: &mut Services) {
        let waits = self.claim == ClaimState::Pending || !self.awaited.is_empty();
        if self.phase != CallPhase::Preparing || self.quiet || !waits {
            return;
        }
        self.inquiries += 1;
        if self.inquiries >= ASK_AFTER {
            self.awaited.clear();
            return self.try_dial(cx);
        }
        if self.inquiries == 1 && self.claim == ClaimState::Pending && cx.has_lease() {
            cx.ask_peers(self.claim_key.0);
        }
        if !self.awaited.is_empty() {
            cx.inquire(self.claim_key.0, self.exact);
        }
        let wait = cx.config.settings.claim_budget / ASK_AFTER;
        cx.start_timer(wait, Timer::Call(self.id, CallTimer::AskPeers));
    }

    /// The log decided the claim. `winner`: another call, and what is known of it; `None`: this one won.
    pub fn on_claimed(&mut self, cx: &mut Services, winner: Option<(CallUid, Winner)>) -> AfterClaim {
        cx.stop_timer(&mut self.timers.claim);
        let Some((uid, winner)) = winner else {
            if self.claim == ClaimState::Pending {
                cx.count(Counter::Claim("won"));
                self.claim = ClaimState::Won;
                self.try_dial(cx);
            } else if self.claim == ClaimState::Late {
                cx.count(Counter::Claim("late_won"));
                self.claim = ClaimState::Won;
            }
            self.reclaim(cx);
            return AfterClaim::Nothing;
        };
        match self.phase {
            CallPhase::Preparing => self.on_lost(cx, winner),
            CallPhase::Dialling => self.on_lost_late(cx, uid, winner),
            // Answered here: the far ends talk through this node, whatever the log says. Cancelled here: the winner must not ring on.
            CallPhase::Answered | CallPhase::Over => {
                if !self.has_failed() && !self.left {
                    tell_answered(cx, self.claim_key, self.uid);
                }
                // What it told of a call that is another node's, it takes back.
                let served = self.phase == CallPhase::Answered || self.was_answered();
                match self.left {
                    true => self.journal.leave(cx),
                    false if served || (winner == Winner::Left && !self.has_failed()) => {
                        self.journal.stand_beside(cx, uid);
                    }
                    false => self.journal.abandon(cx),
                }
                AfterClaim::Nothing
            }
        }
    }

    /// Nothing was sent to the called side yet.
    fn on_lost(&mut self, cx: &mut Services, winner: Winner) -> AfterClaim {
        match winner {
            Winner::Gone => {
                // Nobody serves it: the caller must not pay for that.
                cx.count(Counter::Claim("orphaned"));
                if !self.speak_again(cx) {
                    return AfterClaim::Nothing;
                }
                self.journal.abandon(cx);
                self.claim = ClaimState::Pending;
                self.await_peers(cx);
                AfterClaim::Nothing
            }
            // It was left to a third one, which serves it.
            Winner::Left => {
                cx.count(Counter::Claim("lost"));
                self.lose(cx);
                AfterClaim::Nothing
            }
            Winner::Unsure => {
                cx.count(Counter::Claim("unsure"));
                // A peer that this call yielded to has the INVITE already.
                let after = if self.quiet { AfterClaim::Nothing } else { AfterClaim::Hold };
                self.lose(cx);
                after
            }
            Winner::At(node) => {
                cx.count(Counter::Claim("lost"));
                self.lose(cx);
                AfterClaim::RelayTo(node)
            }
            Winner::Merged => {
                // RFC 3261 §8.2.2.2, also across nodes (AC-28).
                cx.count(Counter::Claim("merged"));
                self.refuse(cx, 482);
                self.lose(cx);
                AfterClaim::Merged
            }
        }
    }

    /// The called side was asked without the log.
    fn on_lost_late(&mut self, cx: &mut Services, uid: CallUid, winner: Winner) -> AfterClaim {
        match winner {
            // The winner has left the caller to this call.
            Winner::Left if self.quiet => {
                self.lose(cx);
                AfterClaim::Nothing
            }
            Winner::Left | Winner::Gone | Winner::Unsure => {
                // It may ring by now. A node that does not answer is no reason to take that from the caller.
                cx.count(Counter::Claim("late_orphaned"));
                match self.quiet {
                    true => self.journal.abandon(cx),
                    false => self.journal.stand_beside(cx, uid),
                }
                AfterClaim::Nothing
            }
            Winner::At(_) if self.is_old(cx) => {
                // The winner does not dial for an INVITE of that age, and leaves the caller to this call, if it has not answered it.
                self.journal.stand_beside(cx, uid);
                cx.ask_peers(self.claim_key.0);
                AfterClaim::Nothing
            }
            Winner::At(node) => {
                cx.count(Counter::Claim("late_lost"));
                self.lose(cx);
                AfterClaim::RelayTo(node)
            }
            Winner::Merged => {
                cx.count(Counter::Claim("late_lost"));
                self.refuse(cx, 482);
                self.lose(cx);
                AfterClaim::Merged
            }
        }
    }

    /// The budget is spent.
    pub(super) fn on_claim_budget(&mut self, cx: &mut Services) {
        if self.claim == ClaimState::Pending {
            if !self.journal.is_abandoned() {
                cx.count(Counter::Claim("late"));
            }
            self.go_degraded(cx);
        }
    }

    /// A proposal of this call failed.
    pub fn on_propose_failed(&mut self, cx: &mut Services) {
        self.journal.on_failed(cx);
        if self.claim == ClaimState::Pending {
            cx.stop_timer(&mut self.timers.claim);
            cx.count(Counter::Claim("failed"));
            self.go_degraded(cx);
        }
    }

    /// An emergency call is never held for the store's sake (rule B).
    fn go_degraded(&mut self, cx: &mut Services) {
        cx.stop_timer(&mut self.timers.claim);
        cx.count(Counter::Degraded);
        self.claim = ClaimState::Late;
        self.journal.set_degraded();
        if self.journal.is_abandoned() {
            // The key is that of a call which nobody serves: this one goes on beside it.
            self.journal.stand_beside(cx, self.uid);
        }
        self.try_dial(cx);
    }
}
