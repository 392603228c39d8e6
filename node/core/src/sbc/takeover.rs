//! Calls whose owner is gone (rule J): who goes on with them, in what order, how many at once, and what far ends say meanwhile.
//!
//! Kept true: nothing is adopted but by the log, under a lease and with an applied state as new as that (rule I); of a node that is cut off from the log,
//! and whose SIP answers, no call is taken from which nobody has been heard here: it was never in danger.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::calls::Calls;
use crate::call::{Call, Context, TimerUser};
use crate::ids::{CallUid, Epoch, Incarnation, LocalId, NodeId, ProposalId};
use crate::io::{Counter, DropReason, Output, ReturnPath, TakeoverStep};
use crate::neighbours::Neighbours;
use crate::replica::{ADOPT_LEVEL, CallEntry, Phase, Replica};
use crate::routing::class_label;
use crate::sip::Message;
use crate::store_pb::{self, command::Kind};
use crate::time::Instant;

/// How often it is looked.
const PACE: Duration = Duration::from_millis(100);
/// Calls at once whose far ends are being asked: doubled while all goes well, halved when far ends are silent.
const WINDOW: usize = 50;
const WINDOW_MOST: usize = 1_600;
const WINDOW_LEAST: usize = 10;
/// An Adopt that had no effect is proposed again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// A node that has started again has so long to take its own calls.
const OWN_TURN: Duration = Duration::from_secs(10);
/// How long a far end's request waits for its call: a transaction's sender waits for 32 s, a person for less.
const HOLD: Duration = Duration::from_secs(4);
/// Such requests, of all calls and of one.
const MOST_HELD: usize = 1_000;
const MOST_HELD_OF_CALL: usize = 4;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Takeovers {
    /// Calls that this node has asked the log for.
    proposed: BTreeMap<CallUid, Instant>,
    /// Calls whose far ends are being asked.
    asking: BTreeSet<LocalId>,
    waiting: VecDeque<CallUid>,
    /// When nodes were declared down, or started again.
    since: BTreeMap<NodeId, Instant>,
    held: Vec<HeldWithin>,
    window: usize,
    ticking: bool,
}

/// A far end's request within a call whose owner is gone.
#[derive(Debug)]
struct HeldWithin {
    call: CallUid,
    back: ReturnPath,
    message: Message,
    until: Instant,
}

/// A request that goes on.
pub(super) type Released = (ReturnPath, Message);

/// What was held of far ends and is not any more.
pub(super) struct Ticked {
    /// For too long.
    pub(super) late: Vec<Released>,
    /// Its owner is there again.
    pub(super) served: Vec<Released>,
}

fn released(held: Vec<HeldWithin>) -> Vec<Released> {
    held.into_iter().map(|held| (held.back, held.message)).collect()
}

impl Takeovers {
    /// Something has changed: begins to look, where there may be such calls.
    pub(super) fn look(&mut self, cx: &mut Context) {
        if !self.ticking && (self.is_busy() || self.refill(cx)) {
            self.ticking = true;
            cx.start_timer(PACE, TimerUser::Takeover);
        }
    }

    fn is_busy(&self) -> bool {
        !self.proposed.is_empty() || !self.asking.is_empty() || !self.held.is_empty()
    }

    /// The log says that a node is down, or has started again.
    pub(super) fn on_node(&mut self, cx: &mut Context, node: NodeId) {
        self.since.insert(node, cx.now.mono);
        self.look(cx);
    }

    /// Calls that lost their owner: emergency calls first, then the oldest. False: there are none.
    fn refill(&mut self, cx: &Context) -> bool {
        let replica = cx.replica();
        if replica.level() < ADOPT_LEVEL || !cx.view.knows_all(cx.now.mono) || !replica.has_lost_calls() {
            return false;
        }
        let lost = replica.calls(None).filter(|entry| is_adoptable(&replica, entry));
        let mut found: Vec<_> = lost.map(|entry| (!entry.emergency(), entry.state().claimed_unix_ms, entry.uid)).collect();
        found.sort_unstable();
        self.waiting = found.into_iter().map(|(_, _, uid)| uid).collect();
        !self.waiting.is_empty()
    }

    /// Time to ask the log for some more.
    pub(super) fn on_tick(&mut self, cx: &mut Context, calls: &Calls, neighbours: &Neighbours) -> Ticked {
        self.ticking = false;
        let now = cx.now.mono;
        self.count_asking(calls);
        let all = std::mem::take(&mut self.held).into_iter();
        let (over, held): (Vec<HeldWithin>, Vec<HeldWithin>) = all.partition(|held| now >= held.until);
        let (back, held) = held.into_iter().partition(|held: &HeldWithin| self.is_served(cx, held.call));
        self.held = held;
        if cx.view.knows_all(now) {
            self.proposed.retain(|_, at| now.since(*at) < AGAIN);
            if self.waiting.is_empty() {
                self.refill(cx);
            }
            self.propose(cx, neighbours);
        }
        if self.is_busy() || !self.waiting.is_empty() {
            self.ticking = true;
            cx.start_timer(PACE, TimerUser::Takeover);
        }
        Ticked { late: released(over), served: released(back) }
    }

    /// True for a call that nobody need take over: what was held of it finds it.
    fn is_served(&self, cx: &Context, uid: CallUid) -> bool {
        let replica = cx.replica();
        replica.call(uid).is_none_or(|entry| !may_be_lost(cx, &replica, entry))
    }

    /// Far ends that have spoken make room for the next ones.
    fn count_asking(&mut self, calls: &Calls) {
        let before = self.asking.len();
        let asks = |id: &LocalId| calls.get(*id).is_some_and(|call| call.takeover.as_ref().is_some_and(|t| !t.is_settled()));
        self.asking.retain(asks);
        let settled = before - self.asking.len();
        let window = if self.window == 0 { WINDOW } else { self.window };
        self.window = match settled {
            0 if before >= window => (window / 2).max(WINDOW_LEAST),
            settled => (window + settled).min(WINDOW_MOST),
        };
    }

    fn propose(&mut self, cx: &mut Context, neighbours: &Neighbours) {
        // What another node is to take stays, in its place, and costs no room.
        let mut later = VecDeque::new();
        while self.asking.len() + self.proposed.len() < self.window {
            let Some(uid) = self.waiting.pop_front() else { break };
            if !self.adopt(cx, neighbours, uid) {
                later.push_back(uid);
            }
        }
        later.append(&mut self.waiting);
        self.waiting = later;
    }

    /// Asks the log for a call. False: it is not this node's turn.
    fn adopt(&mut self, cx: &mut Context, neighbours: &Neighbours, uid: CallUid) -> bool {
        if self.proposed.contains_key(&uid) {
            return true;
        }
        let found = {
            let replica = cx.replica();
            let entry = replica.call(uid).filter(|entry| is_adoptable(&replica, entry));
            let Some(entry) = entry else { return true };
            let asked = self.held.iter().any(|held| held.call == uid);
            self.is_my_turn(cx, neighbours, &replica, entry, asked).then(|| entry.state().epoch)
        };
        let Some(from_epoch) = found else { return false };
        let (owner, incarnation) = (u32::from(cx.local.node.0), cx.local.incarnation.0);
        let adopt = store_pb::Adopt { call: uid.to_bytes().to_vec().into(), from_epoch, owner, incarnation };
        let command = store_pb::Command { unix_ms: cx.now.unix.0, kind: Some(Kind::Adopt(adopt)) };
        // No call of this start has that number.
        cx.output(Output::Propose { id: ProposalId(0), command: Box::new(command) });
        self.proposed.insert(uid, cx.now.mono);
        true
    }

    /// `asked`: a far end of the call has been heard here.
    fn is_my_turn(&self, cx: &Context, neighbours: &Neighbours, replica: &Replica, entry: &CallEntry, asked: bool) -> bool {
        let (me, owner, now) = (cx.local.node, entry.owner(), cx.now.mono);
        if owner == me {
            return true;
        }
        if replica.down_since(owner).is_none() {
            // It has started again, and has the addresses that the far ends know.
            let own_turn = self.since.get(&owner).is_some_and(|since| now.since(*since) < OWN_TURN);
            return !own_turn && (asked || is_elected(cx, replica, entry.uid));
        }
        if asked {
            return true;
        }
        neighbours.is_silent(now, owner) && is_elected(cx, replica, entry.uid)
    }

    /// The log has given a call to a node: what was held of its far ends goes on, here or there.
    pub(super) fn on_adopted(
        &mut self,
        cx: &mut Context,
        calls: &mut Calls,
        uid: CallUid,
        by: (NodeId, Incarnation),
    ) -> Vec<Released> {
        self.proposed.remove(&uid);
        if let Some(id) = calls.unrecorded_place(cx, uid) {
            calls.with_unrecorded(cx, id, |ended, cx| ended.journal.leave(cx));
        }
        // What an earlier start of this node adopted is read again from the log, and begun by nobody.
        if by == (cx.local.node, cx.local.incarnation) {
            self.begin(cx, calls, uid);
        }
        let (of_call, held) = std::mem::take(&mut self.held).into_iter().partition(|held: &HeldWithin| held.call == uid);
        self.held = held;
        released(of_call)
    }

    /// A snapshot took the place of the state, and says of owners what no entry has said: calls here that another epoch has, which are to be fenced, and
    /// calls that this start has adopted, which are to be begun.
    pub(super) fn after_snapshot(cx: &Context, calls: &Calls) -> (Vec<LocalId>, Vec<CallUid>) {
        let me = (cx.local.node, cx.local.incarnation);
        let (mut lost, mut won) = (Vec::new(), Vec::new());
        {
            let replica = cx.replica();
            for entry in replica.calls(None).filter(|entry| entry.epoch() > Epoch::FIRST) {
                let open = calls.own(cx, entry.uid).map(|call| (call.about.id, call.about.epoch));
                let old = open.filter(|(_, epoch)| *epoch < entry.epoch());
                lost.extend(old.map(|(id, _)| id));
                let here = (open.is_some() && old.is_none()) || calls.unrecorded_place(cx, entry.uid).is_some();
                if !here && is_adopted_by(entry, me) {
                    won.push(entry.uid);
                }
            }
        }
        (lost, won)
    }

    /// This node goes on with it.
    pub(super) fn begin(&mut self, cx: &mut Context, calls: &mut Calls, uid: CallUid) {
        let me = (cx.local.node, cx.local.incarnation);
        let entry = cx.replica().call(uid).filter(|entry| is_adopted_by(entry, me)).cloned();
        let Some(entry) = entry else { return };
        let class = class_label(entry.claim().emergency_info.as_ref().map(|info| info.service.as_str()));
        let id = if cx.is_own(uid) { LocalId(uid.serial) } else { cx.local_id() };
        let Some(call) = Call::restore(cx, id, &entry, true) else {
            // The log has it as this node's, which tells its far ends as it does for a call that it lost itself.
            cx.count(Counter::Takeover(TakeoverStep::Unread, class));
            return;
        };
        cx.count(Counter::Takeover(TakeoverStep::Adopted, class));
        calls.insert(cx, call);
        self.asking.insert(id);
        self.look(cx);
    }

    /// A far end's request within a call whose owner is gone waits here until somebody has it. False: it is no such call, or too many wait.
    pub(super) fn hold(&mut self, cx: &mut Context, uid: CallUid, back: ReturnPath, message: &Message) -> bool {
        let adoptable = {
            let replica = cx.replica();
            let lost = replica.call(uid).is_some_and(|entry| may_be_lost(cx, &replica, entry));
            lost && replica.level() >= ADOPT_LEVEL
        };
        if !adoptable {
            return false;
        }
        if self.held.iter().any(|held| held.call == uid && held.message.raw() == message.raw()) {
            return true;
        }
        let of_call = self.held.iter().filter(|held| held.call == uid).count();
        if of_call >= MOST_HELD_OF_CALL || self.held.len() >= MOST_HELD {
            cx.count(Counter::Dropped(DropReason::HeldRequest));
            return true;
        }
        self.held.push(HeldWithin { call: uid, back, message: message.clone(), until: cx.after(HOLD) });
        // A far end waits: this call before all others.
        self.waiting.retain(|waiting| *waiting != uid);
        self.waiting.push_front(uid);
        self.look(cx);
        true
    }
}

/// An answered call that nobody serves.
fn is_adoptable(replica: &Replica, entry: &CallEntry) -> bool {
    entry.phase() == Phase::Answered && replica.is_owner_lost(entry)
}

/// An answered call that this start of a node has.
fn is_adopted_by(entry: &CallEntry, by: (NodeId, Incarnation)) -> bool {
    entry.phase() == Phase::Answered && (entry.owner(), entry.incarnation()) == by
}

/// The same, or one whose owner does not answer and may soon be known to be gone.
fn may_be_lost(cx: &Context, replica: &Replica, entry: &CallEntry) -> bool {
    let owner = entry.owner();
    let silent = owner != cx.local.node && cx.view.node(owner).is_some_and(|node| !node.alive);
    entry.phase() == Phase::Answered && (silent || replica.is_owner_lost(entry))
}

/// Of the nodes that live, one has the call: the same for all that see the same nodes, and another one for another call (rendezvous hashing).
fn is_elected(cx: &Context, replica: &Replica, uid: CallUid) -> bool {
    let lives = |node: &NodeId| {
        let linked = *node == cx.local.node || cx.view.node(*node).is_some_and(|view| view.alive);
        linked && replica.down_since(*node).is_none()
    };
    let nodes = cx.view.nodes.iter().map(|node| node.id).filter(lives);
    nodes.max_by_key(|node| (weight(uid, *node), node.0)) == Some(cx.local.node)
}

/// FNV-1a, mixed: the same on every node and in every version.
fn weight(uid: CallUid, node: NodeId) -> u64 {
    let octets = uid.to_bytes().into_iter().chain(node.0.to_be_bytes());
    let hash = octets.fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_dead_node_are_shared_out() {
        let nodes = [NodeId(1), NodeId(2), NodeId(4), NodeId(5)];
        let mut shares = [0_u32; 4];
        for serial in 0..4_000 {
            let uid = CallUid { node: NodeId(3), incarnation: Incarnation(1), serial };
            let elected = (0..4).max_by_key(|n| (weight(uid, nodes[*n]), nodes[*n].0)).expect("some");
            shares[elected] += 1;
            // Whoever else is there or not, the others keep what they have.
            let without = (0..3).max_by_key(|n| (weight(uid, nodes[*n]), nodes[*n].0)).expect("some");
            assert!(elected == 3 || without == elected);
        }
        assert!(shares.iter().all(|share| (850..1_150).contains(share)), "{shares:?}");
    }
}
