//! The claim of a call (anycast.md, rules B and C): proposed, won, lost or late; and what becomes of a call that two nodes have.
//!
//! `machine` decides, `Call` carries it out here; `budget` has the time. Each of the log, the peers, the called side and the caller tells the
//! claim what it knows as a [`ClaimEvent`].

mod budget;
mod machine;
mod record;

use std::time::Duration;

pub(super) use budget::Budget;
pub use machine::CallClaim;
use machine::{ClaimAction, ClaimFacts, RecordFate, after_the_call};
pub use machine::{ClaimEvent, Then};
pub(super) use record::claim_record;

use super::context::Context;
use super::timer::{CallTimer, TimerUser};
use super::{Call, CallPhase, Cause, Ended};
use crate::ids::{CallUid, NodeId};
use crate::io::{ClaimStage, Counter, NodeView, PeerMessage, ReturnPath, TakeoverStep};
use crate::token::ClaimKey;
use crate::transaction::ServerTxId;

/// How long an INVITE may be dialled for that nobody serves: 64 × T1, when its sender gives up (RFC 3261 §17.1.1.2, timer B). A sender that
/// has heard 100 waits for longer, but for the node that serves it.
pub const INVITE_LIFE: Duration = Duration::from_secs(32);
/// How long a rival of a call that has won is given to hand over, before it is told again.
const RECLAIM: Duration = Duration::from_secs(1);

/// What is known of the call that has a claim which this node's call lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// It is a copy of the same packet, and at that node, which is reachable.
    At(NodeId),
    /// Another request, which is served, or which the user has answered.
    Merged,
    /// Its owner does not answer at the moment.
    Unsure,
    /// Its node has left the caller to another one that has the called side.
    Left,
    /// Nobody serves it any more.
    Gone,
}

/// What is to be done with the INVITE of a call whose claim the log has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterClaim {
    /// Nothing.
    Nothing,
    /// The claim is another node's: relay the INVITE there, and forget this call.
    RelayTo(NodeId),
    /// The claim is that of a node which does not answer at the moment: keep the INVITE until that is clear, and forget this call.
    Hold,
}

impl Ended {
    /// The log gave the claim to another call. `was_left`: its node has left the caller to another one.
    pub fn lose(&mut self, cx: &mut Context, winner: CallUid, was_left: bool) {
        for action in after_the_call(was_left, self.abandoned, &ClaimFacts::over(self.failed, self.answered)) {
            match action {
                ClaimAction::TellPeers => _ = tell_peers(cx, self.claim_key, self.uid, ClaimStage::Answered),
                ClaimAction::ForgetLog => self.journal.leave(cx),
                ClaimAction::StandBeside => self.journal.stand_beside(cx, winner),
                ClaimAction::LeaveLog => self.journal.give_up(cx),
                other => debug_assert!(false, "{other:?} is for a call that goes on"),
            }
        }
    }
}

/// Tells the peers how far a call is here.
fn tell_peers(cx: &mut Context, key: ClaimKey, call: CallUid, stage: ClaimStage) -> usize {
    cx.tell_peers(&PeerMessage::ClaimIs { key: key.0, call: Some((call, stage)) })
}

/// What the claim is told.
impl Call {
    /// The log decided the claim. `winner`: another call, and what is known of it; `None`: this one won.
    pub fn on_claimed(&mut self, cx: &mut Context, winner: Option<(CallUid, Winner)>) -> AfterClaim {
        self.budget.stop(cx);
        let Some((uid, winner)) = winner else {
            self.tell_claim(cx, ClaimEvent::Won);
            return AfterClaim::Nothing;
        };
        match (self.tell_claim_of(cx, ClaimEvent::Lost(winner), uid), winner) {
            (Then::Relay, Winner::At(node)) => AfterClaim::RelayTo(node),
            (Then::Hold, _) => AfterClaim::Hold,
            _ => AfterClaim::Nothing,
        }
    }

    /// The rivals had time to hand over, and the peers to say what they have.
    pub(super) fn on_reclaim_due(&mut self, cx: &mut Context) {
        // Who did not answer may have it. Where the called side knew this leg (482), and a node cannot be asked, it is that one's: it serves
        // the caller until it can.
        let own = cx.local.node;
        let dialled = self.uac.has_dialled();
        let may_have = |n: &&NodeView| n.id != own && (n.alive || dialled || cx.may_answer_inquiry(n.id));
        let denied = cx.view.nodes.iter().filter(may_have).all(|n| self.claim.has_denied(n.id));
        if self.tell_claim(cx, ClaimEvent::ReclaimDue { denied }) == Then::Resume
            && let Some(tx) = self.uas.transaction_anew(cx, &self.about)
        {
            self.on_handed_over(cx, tx, self.uas.back);
        }
    }

    /// The rival that had the called side hands over, for the claim is this call's: dials the same target again, as another leg. `tx`: of the INVITE
    /// that it has relayed.
    pub fn on_handed_over(&mut self, cx: &mut Context, tx: ServerTxId, back: ReturnPath) {
        if self.tell_claim(cx, ClaimEvent::HandedOver) != Then::Redial {
            return cx.tx.drop_server(tx);
        }
        self.uas.reopen(Some(tx));
        self.uas.back = back;
        self.uac.repeat_last();
        self.try_dial(cx);
    }
}

/// What the claim wants done.
impl Call {
    /// The claim is told something.
    pub fn tell_claim(&mut self, cx: &mut Context, event: ClaimEvent) -> Then {
        self.tell_claim_of(cx, event, self.about.uid)
    }

    /// The same; `winner`: the call that has the key.
    fn tell_claim_of(&mut self, cx: &mut Context, event: ClaimEvent, winner: CallUid) -> Then {
        let facts = ClaimFacts {
            phase: self.phase,
            old: self.about.is_old(cx),
            placeless: self.records.journal.has_no_place(),
            beside: self.records.journal.is_beside(),
            failed: self.has_failed(),
            answered: self.phase == CallPhase::Answered || self.end.as_ref().is_some_and(Cause::is_answered),
        };
        let step = self.claim.on(event, &facts);
        for action in step.actions {
            if action == ClaimAction::Reopen {
                if !self.uas.reopen_anew(cx, &self.about) {
                    return self.tell_claim_of(cx, ClaimEvent::Unanswerable, winner);
                }
            } else {
                self.carry_out(cx, action, winner);
            }
        }
        step.then
    }

    fn carry_out(&mut self, cx: &mut Context, action: ClaimAction, winner: CallUid) {
        let key = self.about.claim_key.0;
        match action {
            ClaimAction::Count(what) => cx.count(Counter::Claim(what)),
            ClaimAction::Degrade => {
                self.budget.stop(cx);
                cx.count(Counter::Degraded);
            }
            ClaimAction::Dial => self.try_dial(cx),
            ClaimAction::AskPeers => _ = cx.ask_peers(key),
            ClaimAction::AskPeersOnLease if cx.has_lease() => _ = cx.ask_peers(key),
            // `tell_claim_of` does it, for it may fail.
            ClaimAction::AskPeersOnLease | ClaimAction::Reopen => {}
            ClaimAction::AskAwaited => _ = cx.inquire(key, self.about.packet_key),
            ClaimAction::AskLater => self.budget.ask_later(cx),
            ClaimAction::AwaitPeers => {
                if !self.budget.await_peers(cx, &mut self.claim) {
                    self.tell_claim(cx, ClaimEvent::BudgetSpent);
                }
            }
            ClaimAction::TellPeers => _ = tell_peers(cx, self.about.claim_key, self.about.uid, self.stage()),
            ClaimAction::Cede => {
                // A rival answers the caller from now on, and is told so by who answers here.
                self.uac.forget_passed_over();
                self.uas.leave(cx);
                self.uas.ringing.stop_timer_c(cx);
                let left = INVITE_LIFE.saturating_sub(cx.now.mono.since(self.about.arrived));
                cx.start_timer(left, TimerUser::Call(self.about.id, CallTimer::Outlived));
            }
            ClaimAction::Reclaim => {
                tell_peers(cx, self.about.claim_key, self.about.uid, self.stage());
                cx.ask_peers(key);
                cx.inquire(key, self.about.packet_key);
                cx.start_timer(RECLAIM, TimerUser::Call(self.about.id, CallTimer::Reclaim));
            }
            ClaimAction::Refuse => self.answering().refuse(cx, 482, false),
            ClaimAction::Leave(record) => self.leave(cx, record),
            ClaimAction::LeaveLog => self.records.journal.give_up(cx),
            ClaimAction::StandBeside => self.records.journal.stand_beside(cx, winner),
            ClaimAction::ForgetLog => self.records.journal.leave(cx),
        }
    }

    /// Another node goes on with the call: nothing more is said from here, to anybody.
    pub fn fence(&mut self, cx: &mut Context) {
        cx.count(Counter::Takeover(TakeoverStep::Ceded, self.about.class()));
        self.underway.drop_all(cx);
        self.leave(cx, RecordFate::None);
    }

    /// Another node has the call: nothing more is said to either side from here, and what was sent to the called side is taken back.
    fn leave(&mut self, cx: &mut Context, record: RecordFate) {
        self.uas.leave(cx);
        self.uac.cancel(cx, None);
        self.sides.leave_both();
        match record {
            RecordFate::None => self.records.leave(cx),
            RecordFate::Waits => self.records.journal.wait(),
            RecordFate::Ends => {}
        }
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }
}
