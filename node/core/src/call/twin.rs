//! Two nodes have one call (anycast.md, rules B and C): which of them goes on, and what the other one does.
//!
//! What is kept true: a node that is quiet dials nothing for an INVITE whose transaction is over (AC-55): its age says so, the caller's
//! CANCEL or ACK, or what became of it at the other node.

use std::time::Duration;

use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, Cause, ClaimState, Heard};
use crate::ids::NodeId;
use crate::io::{ClaimStage, Counter, NodeView, PeerMessage, ReturnPath, Target};
use crate::sip::Method;
use crate::targets::{Candidate, Large};
use crate::transaction::{ServerTxId, ServerUser};

/// How long an INVITE may be dialled for that nobody serves: 64 × T1, when its sender gives up (RFC 3261 §17.1.1.2, timer B). A sender that
/// has heard 100 waits for longer, but for the node that serves it.
pub const INVITE_LIFE: Duration = Duration::from_secs(32);
/// How long a node that has the called side of another's call is given to hand it over, before it is told again.
const RECLAIM: Duration = Duration::from_secs(1);

impl Call {
    /// The transaction of its INVITE is over by its age.
    pub fn is_old(&self, cx: &Services) -> bool {
        cx.now.mono.since(self.arrived) >= INVITE_LIFE
    }

    /// Another node answers the caller. The claim may still turn out to be this call's: it is kept until the log has decided,
    /// that node yields, or the INVITE is too old to be dialled.
    pub(super) fn fall_quiet(&mut self, cx: &mut Services) {
        self.quiet = true;
        self.awaited.clear();
        // The caller is another node's: who answers now is told so.
        self.forget_passed_over();
        if let Some(tx) = self.invite_tx.take() {
            cx.tx.drop_server(tx);
        }
        cx.stop_timer(&mut self.timers.ring);
        if self.is_old(cx) {
            return self.leave_to_twin(cx);
        }
        let left = INVITE_LIFE.saturating_sub(cx.now.mono.since(self.arrived));
        cx.start_timer(left, Timer::Call(self.id, CallTimer::Outlived));
        self.reclaim(cx);
    }

    /// The INVITE of a quiet call is too old to be dialled. What is left of it is the other node's.
    pub(super) fn on_outlived(&mut self, cx: &mut Services) {
        if self.quiet && self.phase != CallPhase::Over && self.is_old(cx) {
            self.leave_to_twin(cx);
        }
    }

    /// A quiet call whose caller has cancelled, or has acknowledged another node's answer: it is dialled by nobody any more.
    pub fn on_caller_served(&mut self, cx: &mut Services) {
        if self.quiet && self.phase != CallPhase::Over {
            self.leave_to_twin(cx);
        }
    }

    /// Where the log gave this call the claim while another node has the called side: that one is to hand over (`resume`), and is told so
    /// until it has.
    pub(super) fn reclaim(&mut self, cx: &mut Services) {
        if !self.quiet || self.claim != ClaimState::Won || self.phase == CallPhase::Over {
            return;
        }
        if self.twin_answered {
            return self.leave_to_twin(cx);
        }
        self.twin_heard = false;
        self.twin_denied.clear();
        cx.tell_peers(&PeerMessage::ClaimIs { key: self.claim_key.0, call: Some((self.uid, self.stage())) });
        cx.ask_peers(self.claim_key.0);
        cx.inquire(self.claim_key.0, self.exact);
        cx.start_timer(RECLAIM, Timer::Call(self.id, CallTimer::Quiet));
    }

    /// The peers had time to answer. What they say can be lost, and the caller, who had its 100, repeats nothing.
    pub(super) fn on_quiet(&mut self, cx: &mut Services) {
        if !self.quiet || self.claim != ClaimState::Won || self.phase == CallPhase::Over {
            return;
        }
        // Who did not answer may have it. Where the called side knew this leg (482), and a node cannot be asked, it is that one's: it serves
        // the caller until it can.
        let own = cx.local.node;
        let dialled = !self.attempts.is_empty();
        let may_have = |n: &&NodeView| n.id != own && (n.alive || dialled || cx.may_answer_inquiry(n.id));
        let mut asked = cx.view.nodes.iter().filter(may_have);
        let told = asked.all(|n| self.twin_denied.contains(&n.id));
        if self.is_old(cx) {
            return self.leave_to_twin(cx);
        }
        if self.twin_heard || !told {
            return self.reclaim(cx);
        }
        if let Some(tx) = self.server_again(cx) {
            self.resume(cx, tx, self.back);
        }
    }

    /// A server transaction for the INVITE of a quiet call, whose own was left to another node.
    fn server_again(&self, cx: &mut Services) -> Option<ServerTxId> {
        let key = super::server_key(&self.invite, &Method::Invite);
        cx.create_server(ServerUser::Call(self.id), key, true, self.back)
    }

    /// The log has the claim as that of a node which is gone, as far as is known here. A call that was quiet for that node's sake asks it
    /// once more, and goes on if there is no answer. False: its time is over.
    pub(super) fn speak_again(&mut self, cx: &mut Services) -> bool {
        if self.quiet {
            let over = self.is_old(cx) || self.twin_answered;
            self.invite_tx = if over { None } else { self.server_again(cx) };
            if self.invite_tx.is_none() {
                self.lose(cx);
                return false;
            }
            self.quiet = false;
        }
        true
    }

    /// A peer says that it has not this call.
    pub fn on_peer_has_not(&mut self, cx: &mut Services, peer: NodeId) {
        if self.quiet && !self.twin_denied.contains(&peer) {
            self.twin_denied.push(peer);
        }
        self.on_awaited(cx, peer);
    }

    /// A peer says that it has this call, and how far it is (AC-03). Exactly one of two goes on: the one that is further, and of two that
    /// have asked nobody yet the one with the lower node id, however their questions and answers cross.
    pub fn on_peer_has_it(&mut self, cx: &mut Services, peer: NodeId, stage: ClaimStage) -> Heard {
        if self.lost_to() || self.phase == CallPhase::Over {
            return Heard::Nothing;
        }
        let heard = self.weigh_peer(cx, peer, stage);
        if heard == Heard::Stays {
            self.on_awaited(cx, peer);
        }
        heard
    }

    /// An awaited peer has said what it has, and this call goes on.
    fn on_awaited(&mut self, cx: &mut Services, peer: NodeId) {
        if self.awaited.contains(&peer) {
            self.awaited.retain(|awaited| *awaited != peer);
            self.try_dial(cx);
        }
    }

    fn weigh_peer(&mut self, cx: &mut Services, peer: NodeId, stage: ClaimStage) -> Heard {
        self.twin_answered |= stage == ClaimStage::Answered;
        if self.quiet {
            self.twin_heard = true;
            if stage == ClaimStage::Answered {
                self.leave_to_twin(cx);
            }
            return Heard::Nothing;
        }
        let settled = stage >= ClaimStage::Won;
        let own = self.stage();
        match self.phase {
            _ if own == ClaimStage::Won && stage == ClaimStage::Answered => {
                self.leave_to_twin(cx);
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
            // It serves the caller, and cannot be told whose the claim is before it has a link again (`reclaim`).
            CallPhase::Preparing if own == ClaimStage::Won && stage > ClaimStage::Preparing && !cx.reachable_peer(peer) => {
                cx.count(Counter::Claim("lost"));
                self.twin_heard = true;
                self.fall_quiet(cx);
                Heard::Yields
            }
            // One that is answered has the caller; one that has only won would have to dial, which it does not for an INVITE of that age.
            CallPhase::Dialling if own == ClaimStage::Dialling && settled && (stage > ClaimStage::Won || !self.is_old(cx)) => {
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

    /// Another node has the call: nothing more is said to either side from here.
    pub(super) fn lose(&mut self, cx: &mut Services) {
        self.claim = ClaimState::Lost;
        self.leave(cx);
        if self.journal.is_beside() {
            // What was proposed of it may be in the log by now, and has to end there.
            self.journal.wait();
            self.left = true;
        } else {
            self.journal.leave(cx);
            self.ended_in_log = true;
        }
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// Another node has served the caller, or serves it still: this call's record, where the log has one, ends with it.
    fn leave_to_twin(&mut self, cx: &mut Services) {
        cx.count(Counter::Claim("answered_elsewhere"));
        if self.journal.is_abandoned() {
            self.journal.leave(cx);
            self.ended_in_log = true;
        } else if self.claim != ClaimState::Won {
            self.journal.wait();
        }
        self.left = true;
        self.leave(cx);
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// Leaves the caller to another node, and takes back what was sent to the called side.
    fn leave(&mut self, cx: &mut Services) {
        if let Some(tx) = self.invite_tx.take() {
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
            self.targets.push_front(candidate);
        }
        self.try_dial(cx);
    }
}
