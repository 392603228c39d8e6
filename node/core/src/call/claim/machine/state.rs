//! The words of the claim's machine (`machine.rs`): its states, what it is told, and what it wants done.

use super::super::super::CallPhase;
use super::super::Winner;
use crate::call::context::Context;
use crate::ids::NodeId;
use crate::io::{ClaimOutcome, ClaimStage};

/// How the claim of a call stands. A *rival* is another node that has the same INVITE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::call) enum ClaimState {
    /// Proposed, within its budget.
    Pending,
    /// The key is that of a call which nobody serves. The log has no place for this one; the peers have a budget to say that one of them has it.
    Orphan,
    /// The log gave it to this call.
    Won {
        /// A proposal failed or was late: the called side may have been asked before.
        degraded: bool,
    },
    /// The call goes on without the log.
    Degraded,
    /// A rival serves the called side. The log has not given the claim to this call: it is kept until it does, the rival hands over, or the INVITE is
    /// too old to be dialled.
    Ceded {
        /// The budget is spent, or the proposal failed.
        degraded: bool,
        /// The rival has answered the caller.
        answered: bool,
    },
    /// A rival serves the called side, and the log gave the claim to this call: the rival is told to hand over until it does.
    Reclaiming {
        /// As of a claim that is won.
        degraded: bool,
        /// A rival has said that it has the call, since it was told last.
        heard: bool,
        /// Peers that have said since then that they have it not.
        denied: Vec<NodeId>,
    },
    /// Another node has the call. Its end says nothing of the caller.
    Lost {
        /// The log may have a record of this call beside that one's, which has to end.
        recorded: bool,
    },
    /// A rival has served the caller, or serves it: the record of this call, where the log has one, ends with it.
    Abandoned {
        /// It was ceded before.
        ceded: bool,
    },
}

/// What the claim is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimEvent {
    /// The log gave it to this call.
    Won,
    /// The log gave it to another call.
    Lost(Winner),
    /// Its budget is spent.
    BudgetSpent,
    /// A proposal of this call failed, or its fate is unknown.
    ProposeFailed,
    /// A peer has the call.
    RivalHas {
        /// Which.
        peer: NodeId,
        /// How far it is there.
        stage: ClaimStage,
        /// Its node id is the lower one.
        lower: bool,
        /// It has a link to this node.
        linked: bool,
    },
    /// A peer without a link has it by another way of the caller's INVITE, and answers that one alone.
    RivalHasOtherWay {
        /// Which.
        peer: NodeId,
        /// How far it is there.
        stage: ClaimStage,
        /// Its node id is the lower one.
        lower: bool,
    },
    /// A peer has it not.
    PeerHasNot(NodeId),
    /// It is time to ask the peers.
    AskDue,
    /// The called side knows the leg already (482).
    Merged,
    /// The rivals had time to hand over.
    ReclaimDue {
        /// Each node that may have the call has said that it has not.
        denied: bool,
    },
    /// The rival hands over: its INVITE was relayed here.
    HandedOver,
    /// A copy of the INVITE was relayed here: what that node had dialled, it gives up.
    Yielded,
    /// The INVITE of a rival that had yielded came by another way of a fork, and was refused with 482: this call's is the only one that is left.
    RivalRefused,
    /// The INVITE of a call that is ceded may be too old now.
    Outlived,
    /// The caller has cancelled, or has a rival's answer.
    CallerServed,
    /// There is no server transaction to go on with.
    Unanswerable,
}

impl ClaimEvent {
    /// A peer has the call, and it is that far there. `another_way`: by another way of the caller's INVITE.
    pub fn of_rival(cx: &Context, peer: NodeId, stage: ClaimStage, another_way: bool) -> ClaimEvent {
        let (lower, linked) = (peer < cx.local.node, cx.reachable_peer(peer));
        match another_way && !linked {
            true => ClaimEvent::RivalHasOtherWay { peer, stage, lower },
            false => ClaimEvent::RivalHas { peer, stage, lower, linked },
        }
    }
}

/// What others know when the claim is told something.
#[derive(Clone, Copy, Debug)]
pub(in crate::call) struct ClaimFacts {
    /// Where the call stands.
    pub(in crate::call) phase: CallPhase,
    /// The INVITE's transaction is over by its age.
    pub(in crate::call) old: bool,
    /// The log has no place for the call.
    pub(in crate::call) placeless: bool,
    /// The call is recorded beside the one that has its key.
    pub(in crate::call) beside: bool,
    /// It is over, and the user was not reached.
    pub(in crate::call) failed: bool,
    /// It is or was answered.
    pub(in crate::call) answered: bool,
}

impl ClaimFacts {
    /// Of a call that is over, and of which only its record is left.
    pub(in crate::call) fn over(failed: bool, answered: bool) -> ClaimFacts {
        ClaimFacts { phase: CallPhase::Over, old: false, placeless: false, beside: false, failed, answered }
    }
}

/// What becomes of the record of a call that another node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::call) enum RecordFate {
    /// There is none, and none is written.
    None,
    /// What was proposed may still be committed, and has to end then; nothing is proposed anew.
    Waits,
    /// It ends.
    Ends,
}

/// What the call is to do, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::call) enum ClaimAction {
    /// Count what became of the claim.
    Count(ClaimOutcome),
    /// Go on without the log: stop the budget, count it.
    Degrade,
    /// Dial, where all else is ready.
    Dial,
    /// Ask the peers by their links.
    AskPeers,
    /// The same, where the log should have decided: with a lease only, for without one they were asked before.
    AskPeersOnLease,
    /// Ask those again that are awaited.
    AskAwaited,
    /// Come back to the peers after a while.
    AskLater,
    /// Ask all peers, and give them a budget.
    AwaitPeers,
    /// Tell the peers how far this call is.
    TellPeers,
    /// Leave the caller to a rival for the time being.
    Cede,
    /// Tell the rivals to hand over, and ask who has the call.
    Reclaim,
    /// Take the caller back: a server transaction for its INVITE. Where there is none: `Unanswerable`, and no more of these.
    Reopen,
    /// Refuse the caller's INVITE with 482 (RFC 3261 §8.2.2.2).
    Refuse,
    /// Leave the caller to the other node for good, and take back what was sent to the called side.
    Leave(RecordFate),
    /// The log has no place for this call.
    LeaveLog,
    /// Record the call beside the one that has its key.
    StandBeside,
    /// Nothing of the call is told or recorded any more.
    ForgetLog,
}

/// What whoever told the claim is to do after that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    #[default]
    Nothing,
    /// Relay the INVITE to the winner.
    Relay,
    /// Keep the INVITE until it is clear who has it.
    Hold,
    /// Relay the INVITE to the peer, which goes on with it.
    Yield,
    /// Let the peer know that this call goes on.
    Stay,
    /// Ask the same target again, as another leg.
    Redial,
    /// The 482 is the called side's answer.
    PassOn,
    /// Go on as if the rival had handed over.
    Resume,
}

/// One step of the machine.
#[derive(Debug, Default)]
pub(in crate::call) struct Step {
    /// What the call does.
    pub(in crate::call) actions: Vec<ClaimAction>,
    /// What whoever told does after that.
    pub(in crate::call) then: Then,
}

impl Step {
    pub(super) fn nothing() -> Step {
        Step::default()
    }

    pub(super) fn of<const N: usize>(actions: [ClaimAction; N]) -> Step {
        Step { actions: actions.into(), then: Then::Nothing }
    }

    pub(super) fn then(self, then: Then) -> Step {
        Step { then, ..self }
    }
}

/// The log gave the claim to another call when this one was answered or over. Answered here: the far ends talk through this node, whatever the
/// log says. Cancelled here: the winner must not ring on. What this node told of a call that is another node's, it takes back.
pub(in crate::call) fn after_the_call(winner_left: bool, abandoned: bool, facts: &ClaimFacts) -> Vec<ClaimAction> {
    use ClaimAction::{ForgetLog, LeaveLog, StandBeside, TellPeers};
    let log = match abandoned {
        true => ForgetLog,
        false if facts.answered || (winner_left && !facts.failed) => StandBeside,
        false => LeaveLog,
    };
    let told = (!facts.failed && !abandoned).then_some(TellPeers);
    told.into_iter().chain([log]).collect()
}
