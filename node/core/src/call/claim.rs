//! The claim of a call: proposed, won, lost, late, and what a call does that met its twin (anycast.md, rules B and C).

use std::time::Duration;

use super::dial::{Candidate, Large};
use super::leg::arrival;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{AfterClaim, Call, CallPhase, Cause, ClaimState, Ended, Heard, Winner};
use crate::ids::{CallUid, NodeId};
use crate::io::{ClaimStage, Counter, PeerMessage, ReturnPath, Target};
use crate::policy::IdentityPolicy;
use crate::sip::{HeaderId, Method, NameAddr};
use crate::store_pb;
use crate::token::ClaimKey;
use crate::transaction::ServerTxId;

/// The peers are asked when this part of the claim's budget is over: later than nearly all commits, and early enough for their answers.
const ASK_AFTER: u32 = 3;
/// How long a node that has the called side of another's call is given to hand it over, before it is told again.
const RECLAIM: Duration = Duration::from_secs(1);

impl Ended {
    /// The log gave the claim to another call.
    pub fn lose(&mut self, cx: &mut Services) {
        if !self.failed {
            tell_answered(cx, self.claim_key, self.uid);
        }
        self.journal.abandon();
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
            epoch: 1,
            emergency: self.emergency,
            invite: self.invite.raw().clone(),
            arrival: Some(arrival(&self.back.path, self.back.ingress.or(Some(self.uid.node)))),
            trunk: self.caller.trunk.to_string(),
            emergency_info: self.emergency_info.clone(),
            parties: Some(store_pb::CallParties {
                from_uri: from.as_ref().map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                from_display: from.and_then(|n| n.display).unwrap_or_default(),
                to_uri: to.map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                request_uri: self.invite.request_uri().unwrap_or_default().to_owned(),
                call_id: self.invite.call_id().to_owned(),
                asserted_identity: self.asserted_identity(cx).to_owned(),
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
        self.timers.claim = Some(cx.start_timer(budget, Timer::Call(self.serial, CallTimer::ClaimBudget)));
        if cx.has_lease() {
            // A leader that died this moment leaves leases behind that say nothing: the log is late, and a peer may know.
            cx.start_timer(budget / ASK_AFTER, Timer::Call(self.serial, CallTimer::AskPeers));
        } else {
            cx.ask_peers(self.claim_key.0);
        }
    }

    /// The log has no place for this call: the peers are asked, and have as long as the log would have had.
    pub(super) fn await_peers(&mut self, cx: &mut Services) {
        if cx.ask_peers(self.claim_key.0) == 0 {
            self.on_claim_budget(cx);
            return;
        }
        let budget = cx.config.settings.claim_budget;
        self.timers.claim = Some(cx.start_timer(budget, Timer::Call(self.serial, CallTimer::ClaimBudget)));
    }

    /// The log is late.
    pub(super) fn on_ask_peers(&self, cx: &mut Services) {
        if self.phase == CallPhase::Preparing && self.claim == ClaimState::Pending && !self.quiet {
            cx.ask_peers(self.claim_key.0);
        }
    }

    /// The log decided the claim. `winner`: another call, and what is known of it; `None`: this one won.
    pub fn on_claimed(&mut self, cx: &mut Services, winner: Option<Winner>) -> AfterClaim {
        cx.stop_timer(&mut self.timers.claim);
        let Some(winner) = winner else {
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
            CallPhase::Dialling => self.on_lost_late(cx, winner),
            // Answered here: the far ends talk through this node, whatever the log says. Cancelled here: the winner must not ring on.
            CallPhase::Answered | CallPhase::Over => {
                if !self.has_failed() {
                    tell_answered(cx, self.claim_key, self.uid);
                }
                self.journal.abandon();
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
                self.journal.abandon();
                self.claim = ClaimState::Pending;
                self.await_peers(cx);
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
    fn on_lost_late(&mut self, cx: &mut Services, winner: Winner) -> AfterClaim {
        match winner {
            Winner::Gone | Winner::Unsure => {
                // It may ring by now. A node that does not answer is no reason to take that from the caller.
                cx.count(Counter::Claim("late_orphaned"));
                self.journal.abandon();
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

    /// Another node answers the caller. The claim may still turn out to be this call's: it is kept until the log has decided,
    /// that node yields, or the ring timeout ends it.
    pub(super) fn fall_quiet(&mut self, cx: &mut Services) {
        self.quiet = true;
        // The caller is another node's: who answers now is told so.
        self.forget_passed_over();
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        if self.timers.ring.is_none() {
            self.restart_ring(cx);
        }
        self.reclaim(cx);
    }

    /// Where the log gave this call the claim while another node has the called side: that one is to hand over (`resume`), and is told so
    /// until it has.
    fn reclaim(&mut self, cx: &mut Services) {
        if !self.quiet || self.claim != ClaimState::Won || self.phase == CallPhase::Over {
            return;
        }
        if self.twin_answered {
            return self.leave_answered(cx);
        }
        self.twin_heard = false;
        cx.tell_peers(&PeerMessage::ClaimIs { key: self.claim_key.0, call: Some((self.uid, self.stage())) });
        cx.ask_peers(self.claim_key.0);
        cx.start_timer(RECLAIM, Timer::Call(self.serial, CallTimer::Quiet));
    }

    /// The peers had time to answer. What they say can be lost, and the caller, who had its 100, repeats nothing.
    pub(super) fn on_quiet(&mut self, cx: &mut Services) {
        if !self.quiet || self.claim != ClaimState::Won || self.phase == CallPhase::Over {
            return;
        }
        // Where the called side knew this leg (482), and a node cannot be asked, it is that one's: it serves the caller until it can.
        let told = self.attempts.is_empty() || cx.view.nodes.iter().all(|n| n.alive);
        if self.twin_heard || !told {
            return self.reclaim(cx);
        }
        let key = super::server_key(&self.invite, &Method::Invite);
        if let Some(tx) = cx.tx.create_server(cx.now.mono, key, true, self.back) {
            cx.server_use.insert(tx, self.serial);
            self.resume(cx, tx, self.back);
        }
    }

    /// A peer says that it has this call, and how far it is (AC-03). Exactly one of two goes on: the one that is further, and of two that
    /// have asked nobody yet the one with the lower node id, however their questions and answers cross.
    pub fn on_peer_has_it(&mut self, cx: &mut Services, peer: NodeId, stage: ClaimStage) -> Heard {
        if self.lost_to() || self.phase == CallPhase::Over {
            return Heard::Nothing;
        }
        self.twin_answered |= stage == ClaimStage::Answered;
        if self.quiet && !(self.claim == ClaimState::Won && stage == ClaimStage::Answered) {
            self.twin_heard = true;
            return Heard::Nothing;
        }
        let settled = stage >= ClaimStage::Won;
        let own = self.stage();
        match self.phase {
            _ if own == ClaimStage::Won && stage == ClaimStage::Answered => {
                self.leave_answered(cx);
                Heard::Yields
            }
            CallPhase::Preparing if own == ClaimStage::Preparing && (stage > own || peer < cx.local.node) => {
                cx.count(Counter::Claim("lost"));
                if stage == ClaimStage::Won || self.journal.is_abandoned() {
                    self.lose(cx);
                } else {
                    // The log may still say otherwise.
                    self.fall_quiet(cx);
                }
                Heard::Yields
            }
            CallPhase::Dialling if own == ClaimStage::Dialling && settled => {
                cx.count(Counter::Claim("late_lost"));
                self.lose(cx);
                Heard::Yields
            }
            _ => Heard::Stays,
        }
    }

    /// The called side knows this leg (482), though the claim is this call's and nothing of it was sent before: a node without quorum
    /// dialled it (rule C), or a network behind us sends in circles. The others are told whose it is, and the target is asked once more,
    /// as another leg: the caller must not hear 482 while it rings there. True: do so. False: the 482 is the answer.
    pub(super) fn tell_twin(&mut self, cx: &mut Services) -> bool {
        if std::mem::replace(&mut self.twin_told, true) {
            return false;
        }
        cx.count(Counter::Claim("twin"));
        let mine = PeerMessage::ClaimIs { key: self.claim_key.0, call: Some((self.uid, self.stage())) };
        cx.tell_peers(&mine);
        true
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
        self.journal.on_failed(cx, self.serial, self.uid);
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
        self.try_dial(cx);
    }

    /// Another node has the call: nothing more is said to either side from here.
    fn lose(&mut self, cx: &mut Services) {
        self.claim = ClaimState::Lost;
        self.journal.abandon();
        self.leave(cx);
        self.ended_in_log = true;
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// The caller has its answer from another node, or has cancelled there. The record of the claim is this call's, and ends with it.
    fn leave_answered(&mut self, cx: &mut Services) {
        cx.count(Counter::Claim("answered_elsewhere"));
        self.leave(cx);
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// Leaves the caller to another node, and takes back what was sent to the called side.
    fn leave(&mut self, cx: &mut Services) {
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        for attempt in &mut self.attempts {
            attempt.cancel(cx, None);
        }
        self.caller.gone = true;
        self.callee.gone = true;
    }

    /// The node that had the called side yields, for the claim is this call's: dials the same target again, as another leg.
    pub fn resume(&mut self, cx: &mut Services, tx: ServerTxId, back: ReturnPath) {
        self.quiet = false;
        // It may have asked the same target: should that still know the leg, it is asked as another one.
        self.twin_yielded = true;
        self.invite_tx = Some(tx);
        self.back = back;
        self.redial(cx, self.attempts.len().saturating_sub(1));
    }

    /// The target of an attempt once more, as another leg.
    pub(super) fn redial(&mut self, cx: &mut Services, at: usize) {
        if let Some(attempt) = self.attempts.get(at) {
            // By the way that it went, whatever that of its size was.
            let target = Target { addr: attempt.path.remote, transport: attempt.path.transport };
            let (uri, again) = (Some(attempt.uri.clone()), None);
            let candidate = Candidate { target, uri, again, large: Large::Stay, ..attempt.candidate.clone() };
            self.candidates.push_front(candidate);
        }
        self.try_dial(cx);
    }
}
