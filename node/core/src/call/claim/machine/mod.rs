//! Whose a call is (anycast.md, rules B and C), as one machine: what the log, the peers and the called side say of its claim goes in, what the
//! call is to do comes out.
//!
//! What is kept true, over all ways (`tests.rs`): a call dials nobody before its claim is decided, nor while it is ceded, lost or abandoned;
//! once ceded it dials for no INVITE whose transaction is over by its age (AC-55); lost and abandoned are for good.

mod state;
#[cfg(test)]
mod tests;

pub(in crate::call) use state::RecordFate;
pub(super) use state::{ClaimAction, ClaimFacts, after_the_call};
pub use state::{ClaimEvent, Then};
use state::{ClaimState, Step};

use super::super::CallPhase;
use super::Winner;
use super::budget::ASK_AFTER;
use crate::ids::NodeId;
use crate::io::{ClaimOutcome, ClaimStage};

/// The claim of one call, and what it has heard of its rivals.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CallClaim {
    state: ClaimState,
    /// A rival has handed over: the target is asked as another leg, should it still know this one.
    yielded: bool,
    /// The other ways that the caller's INVITE took were refused: whoever has the key, this call alone can answer the caller (AC-28).
    sole: bool,
    /// The rivals were told whose the claim is, for the called side said 482, and it was asked once more.
    told: bool,
    /// Peers without a link that were asked whether they have the call, and have still a moment to say so: nobody is dialled before.
    awaited: Vec<NodeId>,
    /// How often they were asked.
    rounds: u32,
}

impl CallClaim {
    /// Of a call that begins. `orphan`: under the key of one that nobody serves.
    pub(in crate::call) fn new(orphan: bool) -> CallClaim {
        let state = if orphan { ClaimState::Orphan } else { ClaimState::Pending };
        CallClaim { state, yielded: false, sole: false, told: false, awaited: Vec::new(), rounds: 0 }
    }

    /// Of a call that was answered, as the log has it.
    pub(in crate::call) fn restored() -> CallClaim {
        CallClaim { state: ClaimState::Won { degraded: false }, ..CallClaim::new(false) }
    }

    /// These peers were asked, and are waited for.
    pub(in crate::call) fn wait_for(&mut self, peers: Vec<NodeId>) {
        (self.awaited, self.rounds) = (peers, 0);
    }

    /// True while an answer of a peer without a link may come.
    pub(in crate::call) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// True when the claim is decided, and no peer is waited for.
    pub(in crate::call) fn may_dial(&self) -> bool {
        matches!(self.state, ClaimState::Won { .. } | ClaimState::Degraded) && self.awaited.is_empty()
    }

    /// True for a call that another node has, and of which this one says nothing.
    pub fn is_lost(&self) -> bool {
        matches!(self.state, ClaimState::Lost { .. })
    }

    /// True while a rival has the called side.
    pub fn is_ceded(&self) -> bool {
        use ClaimState::{Abandoned, Ceded, Reclaiming};
        matches!(self.state, Ceded { .. } | Reclaiming { .. } | Abandoned { ceded: true })
    }

    /// True for a call whose caller was left to another node.
    pub(in crate::call) fn is_abandoned(&self) -> bool {
        matches!(self.state, ClaimState::Abandoned { .. } | ClaimState::Lost { recorded: true })
    }

    /// True for a node that has said, since the rivals were told last, that it has not the call.
    pub(in crate::call) fn has_denied(&self, node: NodeId) -> bool {
        matches!(&self.state, ClaimState::Reclaiming { denied, .. } if denied.contains(&node))
    }

    /// How far the call is, as peers are told.
    pub(in crate::call) fn stage(&self, phase: CallPhase) -> ClaimStage {
        match (phase, &self.state) {
            (CallPhase::Answered | CallPhase::Over, _) => ClaimStage::Answered,
            (_, ClaimState::Won { .. } | ClaimState::Reclaiming { .. }) => ClaimStage::Won,
            (CallPhase::Dialling, _) => ClaimStage::Dialling,
            (CallPhase::Preparing, _) => ClaimStage::Preparing,
        }
    }

    /// One step.
    pub(in crate::call) fn on(&mut self, event: ClaimEvent, facts: &ClaimFacts) -> Step {
        let left = self.is_lost() || matches!(self.state, ClaimState::Abandoned { .. });
        match event {
            ClaimEvent::Lost(winner) => match facts.phase {
                CallPhase::Preparing if !left => self.on_lost(winner, facts),
                CallPhase::Dialling if !left => self.on_lost_late(winner, facts),
                _ => Step { actions: after_the_call(winner == Winner::Left, self.is_abandoned(), facts), then: Then::Nothing },
            },
            _ if left => Step::nothing(),
            ClaimEvent::Won => self.on_won(facts),
            ClaimEvent::BudgetSpent => self.on_late(ClaimOutcome::Late),
            ClaimEvent::ProposeFailed => self.on_late(ClaimOutcome::Failed),
            ClaimEvent::RivalHas { .. } if facts.phase == CallPhase::Over => Step::nothing(),
            ClaimEvent::RivalHas { peer, stage, lower, linked } => self.on_rival((peer, stage), lower, linked, facts),
            ClaimEvent::RivalHasOtherWay { .. } if facts.phase == CallPhase::Over => Step::nothing(),
            ClaimEvent::RivalHasOtherWay { peer, stage, lower } => self.on_other_way((peer, stage), lower, facts),
            ClaimEvent::PeerHasNot(peer) => {
                if let ClaimState::Reclaiming { denied, .. } = &mut self.state
                    && !denied.contains(&peer)
                {
                    denied.push(peer);
                }
                self.on_heard(peer)
            }
            ClaimEvent::AskDue => self.on_ask_due(facts),
            ClaimEvent::Merged => self.on_merged(facts),
            ClaimEvent::ReclaimDue { denied } => self.on_reclaim_due(denied, facts),
            ClaimEvent::HandedOver => self.on_handed_over(facts),
            ClaimEvent::Yielded => {
                self.yielded = true;
                Step::nothing()
            }
            ClaimEvent::RivalRefused => {
                self.sole |= !self.is_ceded();
                Step::nothing()
            }
            ClaimEvent::Outlived if facts.old => self.on_served(facts),
            ClaimEvent::Outlived => Step::nothing(),
            ClaimEvent::CallerServed => self.on_served(facts),
            ClaimEvent::Unanswerable => match self.state {
                ClaimState::Orphan => self.lose(facts, []),
                _ => Step::nothing(),
            },
        }
    }

    fn on_won(&mut self, facts: &ClaimFacts) -> Step {
        use ClaimAction::{Count, Dial, Reclaim};
        use ClaimState::{Abandoned, Ceded, Degraded, Lost, Orphan, Pending, Reclaiming, Won};
        match self.state {
            Pending | Orphan => {
                self.state = Won { degraded: false };
                Step::of([Count(ClaimOutcome::Won), Dial])
            }
            Degraded => {
                self.state = Won { degraded: true };
                Step::of([Count(ClaimOutcome::LateWon)])
            }
            Ceded { degraded, answered } => {
                let count = Count(if degraded { ClaimOutcome::LateWon } else { ClaimOutcome::Won });
                if facts.phase == CallPhase::Over {
                    return Step::of([count]);
                }
                self.state = Reclaiming { degraded, heard: false, denied: Vec::new() };
                match answered {
                    true => self.leave(facts, [count]),
                    false => Step::of([count, Reclaim]),
                }
            }
            Reclaiming { .. } if facts.phase != CallPhase::Over => self.reclaim(),
            Won { .. } | Reclaiming { .. } | Lost { .. } | Abandoned { .. } => Step::nothing(),
        }
    }

    /// Nothing was sent to the called side yet.
    fn on_lost(&mut self, winner: Winner, facts: &ClaimFacts) -> Step {
        use ClaimAction::{AwaitPeers, Count, Degrade, Dial, LeaveLog, Refuse, Reopen, StandBeside};
        let ceded = self.is_ceded();
        match winner {
            Winner::Merged | Winner::Left if self.sole => {
                self.state = ClaimState::Degraded;
                Step::of([Count(ClaimOutcome::Orphaned), Degrade, StandBeside, Dial])
            }
            // The call that was ceded asks that node once more, and goes on if there is no answer: its caller must not pay for that.
            Winner::Gone if ceded && (facts.old || matches!(self.state, ClaimState::Ceded { answered: true, .. })) => {
                self.lose(facts, [Count(ClaimOutcome::Orphaned)])
            }
            Winner::Gone => {
                self.state = ClaimState::Orphan;
                match ceded {
                    true => Step::of([Count(ClaimOutcome::Orphaned), Reopen, LeaveLog, AwaitPeers]),
                    false => Step::of([Count(ClaimOutcome::Orphaned), LeaveLog, AwaitPeers]),
                }
            }
            // It was left to a third one, which serves it.
            Winner::Left => self.lose(facts, [Count(ClaimOutcome::Lost)]),
            // A rival that this call was ceded to has the INVITE already.
            Winner::Unsure => {
                self.lose(facts, [Count(ClaimOutcome::Unsure)]).then(if ceded { Then::Nothing } else { Then::Hold })
            }
            Winner::At(_) => self.lose(facts, [Count(ClaimOutcome::Lost)]).then(Then::Relay),
            // RFC 3261 §8.2.2.2, also across nodes (AC-28).
            Winner::Merged => self.lose(facts, [Count(ClaimOutcome::Merged), Refuse]),
        }
    }

    /// The called side was asked without the log.
    fn on_lost_late(&mut self, winner: Winner, facts: &ClaimFacts) -> Step {
        use ClaimAction::{AskPeers, Count, LeaveLog, Refuse, StandBeside};
        match winner {
            Winner::Merged | Winner::Left if self.sole => Step::of([Count(ClaimOutcome::LateOrphaned), StandBeside]),
            // The winner has left the caller to this call's rival.
            Winner::Left if self.is_ceded() => self.lose(facts, []),
            // It may ring by now. A node that does not answer is no reason to take that from the caller.
            Winner::Left | Winner::Gone | Winner::Unsure => {
                Step::of([Count(ClaimOutcome::LateOrphaned), if self.is_ceded() { LeaveLog } else { StandBeside }])
            }
            // The winner does not dial for an INVITE of that age, and leaves the caller to this call, if it has not answered it.
            Winner::At(_) if facts.old => Step::of([StandBeside, AskPeers]),
            Winner::At(_) => self.lose(facts, [Count(ClaimOutcome::LateLost)]).then(Then::Relay),
            Winner::Merged => self.lose(facts, [Count(ClaimOutcome::LateLost), Refuse]),
        }
    }

    /// The log does not decide in time. An emergency call is never held for the store's sake (rule B).
    fn on_late(&mut self, why: ClaimOutcome) -> Step {
        use ClaimAction::{Count, Degrade, Dial, StandBeside};
        match &mut self.state {
            ClaimState::Pending => {
                self.state = ClaimState::Degraded;
                Step::of([Count(why), Degrade, Dial])
            }
            // The key is that of a call which nobody serves: this one goes on beside it. That its budget ends is as it should be.
            ClaimState::Orphan => {
                self.state = ClaimState::Degraded;
                match why {
                    ClaimOutcome::Late => Step::of([Degrade, StandBeside, Dial]),
                    _ => Step::of([Count(why), Degrade, StandBeside, Dial]),
                }
            }
            ClaimState::Ceded { degraded, .. } if !*degraded => {
                *degraded = true;
                Step::of([Count(why), Degrade])
            }
            ClaimState::Won { degraded } | ClaimState::Reclaiming { degraded, .. } => {
                *degraded |= why == ClaimOutcome::Failed;
                Step::nothing()
            }
            _ => Step::nothing(),
        }
    }

    /// A rival has the call (AC-03). Exactly one of two goes on: the one that is further, and of two that have asked nobody yet the one with the
    /// lower node id, however their questions and answers cross.
    fn on_rival(&mut self, (peer, stage): (NodeId, ClaimStage), lower: bool, linked: bool, facts: &ClaimFacts) -> Step {
        use ClaimAction::Count;
        let answered = stage == ClaimStage::Answered;
        if self.is_ceded() {
            if answered {
                return self.leave(facts, []);
            }
            if let ClaimState::Reclaiming { heard, .. } = &mut self.state {
                *heard = true;
            }
            return Step::nothing();
        }
        let own = self.stage(facts.phase);
        match (facts.phase, own) {
            (_, ClaimStage::Won) if answered => self.leave(facts, []).then(Then::Yield),
            // The rival has left, or is told to.
            (CallPhase::Preparing | CallPhase::Dialling, ClaimStage::Preparing | ClaimStage::Dialling)
                if self.sole && !answered =>
            {
                self.on_heard(peer)
            }
            (CallPhase::Preparing, ClaimStage::Preparing) if stage > own || lower => {
                match stage == ClaimStage::Won || facts.placeless {
                    true => self.lose(facts, [Count(ClaimOutcome::Lost)]).then(Then::Yield),
                    // The log may still say otherwise.
                    false => self.cede(ClaimOutcome::Lost, answered, facts).then(Then::Yield),
                }
            }
            // It serves the caller, and cannot be told whose the claim is before it has a link again.
            (CallPhase::Preparing, ClaimStage::Won) if stage > ClaimStage::Preparing && !linked => {
                self.cede(ClaimOutcome::Lost, answered, facts).then(Then::Yield)
            }
            // One that is answered has the caller; one that has only won would have to dial, which it does not for an INVITE of that age.
            (CallPhase::Dialling, ClaimStage::Dialling) if answered || (stage == ClaimStage::Won && !facts.old) => {
                self.lose(facts, [Count(ClaimOutcome::LateLost)]).then(Then::Yield)
            }
            _ => self.on_heard(peer).then(Then::Stay),
        }
    }

    /// The same of a rival without a link that has the caller's INVITE by another way, and answers that one alone. Who yields to it refuses its own
    /// way as a merged request (RFC 3261 §8.2.2.2, AC-28): nobody else ever answers that.
    fn on_other_way(&mut self, rival: (NodeId, ClaimStage), lower: bool, facts: &ClaimFacts) -> Step {
        let mut yielding = self.clone();
        let step = yielding.on_rival(rival, lower, false, facts);
        if self.is_ceded() || step.then != Then::Yield {
            *self = yielding;
            return step;
        }
        self.leave(facts, [ClaimAction::Count(ClaimOutcome::Merged), ClaimAction::Refuse])
    }

    fn on_heard(&mut self, peer: NodeId) -> Step {
        let before = self.awaited.len();
        self.awaited.retain(|awaited| *awaited != peer);
        match self.awaited.len() < before {
            true => Step::of([ClaimAction::Dial]),
            false => Step::nothing(),
        }
    }

    /// The log is late, or a peer that was asked by SIP.
    fn on_ask_due(&mut self, facts: &ClaimFacts) -> Step {
        use ClaimAction::{AskAwaited, AskLater, AskPeersOnLease, Dial};
        let undecided = matches!(self.state, ClaimState::Pending | ClaimState::Orphan);
        if facts.phase != CallPhase::Preparing || self.is_ceded() || !(undecided || self.is_waiting()) {
            return Step::nothing();
        }
        self.rounds += 1;
        if self.rounds >= ASK_AFTER {
            self.awaited.clear();
            return Step::of([Dial]);
        }
        let mut actions = Vec::with_capacity(3);
        actions.extend((self.rounds == 1 && undecided).then_some(AskPeersOnLease));
        actions.extend(self.is_waiting().then_some(AskAwaited));
        actions.push(AskLater);
        Step { actions, then: Then::Nothing }
    }

    /// The called side knows the leg. Where something of this call may have been sent before, or a rival dials without the log, it is the
    /// rival's, which answers the caller (rule C). Where nothing was, a node without quorum dialled it, or a network behind us sends in
    /// circles: the others are told whose it is, and the target is asked once more, for the caller must not hear 482 while it rings there.
    fn on_merged(&mut self, facts: &ClaimFacts) -> Step {
        use ClaimAction::{Count, TellPeers};
        use ClaimState::{Abandoned, Ceded, Degraded, Lost, Orphan, Pending, Reclaiming, Won};
        match self.state {
            Won { degraded: false } if std::mem::replace(&mut self.told, true) => Step::nothing().then(Then::PassOn),
            Won { degraded: false } => Step::of([Count(ClaimOutcome::Twin), TellPeers]).then(Then::Redial),
            Pending | Orphan | Degraded | Won { degraded: true } => match self.yielded {
                true => Step::of([Count(ClaimOutcome::MergedLate)]).then(Then::Redial),
                false => self.cede(ClaimOutcome::MergedLate, false, facts),
            },
            Ceded { .. } | Reclaiming { .. } | Lost { .. } | Abandoned { .. } => Step::nothing(),
        }
    }

    /// The rivals had time to answer. What they say can be lost, and the caller, who had its 100, repeats nothing.
    fn on_reclaim_due(&mut self, denied: bool, facts: &ClaimFacts) -> Step {
        match self.state {
            ClaimState::Reclaiming { .. } if facts.phase == CallPhase::Over => Step::nothing(),
            ClaimState::Reclaiming { .. } if facts.old => self.leave(facts, []),
            ClaimState::Reclaiming { heard, .. } if heard || !denied => self.reclaim(),
            ClaimState::Reclaiming { .. } => Step::nothing().then(Then::Resume),
            _ => Step::nothing(),
        }
    }

    fn on_handed_over(&mut self, facts: &ClaimFacts) -> Step {
        if facts.old || facts.phase == CallPhase::Over {
            return Step::nothing();
        }
        self.state = match self.state {
            ClaimState::Ceded { degraded: false, .. } => ClaimState::Pending,
            ClaimState::Ceded { degraded: true, .. } => ClaimState::Degraded,
            ClaimState::Reclaiming { degraded, .. } => ClaimState::Won { degraded },
            _ => return Step::nothing(),
        };
        self.yielded = true;
        Step::nothing().then(Then::Redial)
    }

    /// The INVITE of a call that is ceded is dialled by nobody any more.
    fn on_served(&mut self, facts: &ClaimFacts) -> Step {
        match self.state {
            ClaimState::Ceded { .. } | ClaimState::Reclaiming { .. } if facts.phase != CallPhase::Over => self.leave(facts, []),
            _ => Step::nothing(),
        }
    }

    fn cede(&mut self, why: ClaimOutcome, answered: bool, facts: &ClaimFacts) -> Step {
        use ClaimAction::{Cede, Count, Reclaim};
        self.awaited.clear();
        self.sole = false;
        let degraded = self.state == ClaimState::Degraded;
        let won = match self.state {
            ClaimState::Won { degraded } => Some(degraded),
            _ => None,
        };
        self.state = match won {
            Some(degraded) => ClaimState::Reclaiming { degraded, heard: false, denied: Vec::new() },
            None => ClaimState::Ceded { degraded, answered },
        };
        match won {
            _ if facts.old => self.leave(facts, [Count(why)]),
            Some(_) => Step::of([Count(why), Cede, Reclaim]),
            None => Step::of([Count(why), Cede]),
        }
    }

    fn reclaim(&mut self) -> Step {
        if let ClaimState::Reclaiming { heard, denied, .. } = &mut self.state {
            *heard = false;
            denied.clear();
        }
        Step::of([ClaimAction::Reclaim])
    }

    /// Another node has the call.
    fn lose<const N: usize>(&mut self, facts: &ClaimFacts, first: [ClaimAction; N]) -> Step {
        let recorded = facts.beside;
        self.state = ClaimState::Lost { recorded };
        let record = if recorded { RecordFate::Waits } else { RecordFate::None };
        let actions = first.into_iter().chain([ClaimAction::Leave(record)]).collect();
        Step { actions, then: Then::Nothing }
    }

    /// A rival has served the caller, or serves it still.
    fn leave<const N: usize>(&mut self, facts: &ClaimFacts, first: [ClaimAction; N]) -> Step {
        let record = match self.state {
            _ if facts.placeless => RecordFate::None,
            ClaimState::Won { .. } | ClaimState::Reclaiming { .. } => RecordFate::Ends,
            _ => RecordFate::Waits,
        };
        self.state = ClaimState::Abandoned { ceded: self.is_ceded() };
        let last = [ClaimAction::Count(ClaimOutcome::AnsweredElsewhere), ClaimAction::Leave(record)];
        Step { actions: first.into_iter().chain(last).collect(), then: Then::Nothing }
    }
}
