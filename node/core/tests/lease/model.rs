//! Three nodes, one call, one log; time in ticks. What Raft itself guarantees is taken as given: committed entries stay, in one order, and a
//! leader confirms nothing once another has been elected. What a network may do is that an action does not happen, or happens later.

use std::collections::BTreeSet;

use stateright::{Model, Property};

use crate::log::{Entry, Incarnation, Known, NODES, Node};
use crate::rules::{Rule, Rules};

/// How long a confirmation counts, in ticks.
const LEASE: u8 = 2;
/// Half of it for a pause between check and send, half for a clock that runs late.
const MARGIN: u8 = 2;
const PAUSE: u8 = MARGIN / 2;
/// How long a voter that has acknowledged a leader votes for nobody else (`election_max`).
const VOTE_LEASE: u8 = 2;

/// How often each of these may happen in one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub(crate) crashes: u8,
    /// Who crashes.
    pub(crate) victim: Node,
    pub(crate) elections: u8,
    pub(crate) transfers: u8,
    pub(crate) suspends: u8,
    /// Ticks that one node's clock misses.
    pub(crate) slips: u8,
    pub(crate) downs: u8,
    pub(crate) backs: u8,
    pub(crate) adopts: u8,
}

/// One node. What runs out counts down.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) alive: bool,
    pub(crate) asleep: bool,
    pub(crate) incarnation: Incarnation,
    /// Entries that it has applied.
    pub(crate) applied: u8,
    /// The newest confirmation: how long it counts by this node's clock, and what had been committed.
    pub(crate) lease: u8,
    pub(crate) confirmed: u8,
    /// Checked, and not sent yet: how long it may still be sent, for which epoch.
    pub(crate) checked: Option<(u8, u8)>,
    /// Its vote's lease.
    pub(crate) vote: u8,
    /// Since when that has been forgotten: counts down from lease and margin.
    pub(crate) forgotten: u8,
}

/// The leadership.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Leader {
    pub(crate) node: Node,
    pub(crate) incarnation: Incarnation,
    /// Before it declares anybody down.
    pub(crate) wait: u8,
    /// By node: how long its newest confirmation may still count there.
    pub(crate) noted: [u8; NODES],
    /// Declared down in this term, not committed yet.
    pub(crate) declared: [Option<Incarnation>; NODES],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: [Process; NODES],
    pub(crate) leader: Leader,
    pub(crate) log: Vec<Entry>,
    /// Proposed, and on the way to whoever leads.
    pub(crate) proposed: BTreeSet<Entry>,
    pub(crate) left: Budget,
    /// Somebody initiated for a call that the log had given to another.
    pub(crate) initiated_late: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Time passes; that node's clock misses it.
    Tick(Option<Node>),
    /// A node has its lease confirmed; that other one acknowledges the leader.
    Confirm(Node, Node),
    Apply(Node),
    /// May I hang up? Yes.
    Check(Node),
    /// The BYE leaves.
    Send(Node),
    Declare(Node),
    CommitDeclared(Node),
    ProposeBack(Node),
    ProposeAdopt(Node),
    Commit(Entry),
    Crash(Node),
    Restart(Node),
    Suspend(Node),
    Wake(Node),
    /// That node is elected by the vote of that other; what the leader before had declared is in its log, or lost.
    Elect(Node, Node, bool),
    /// The leadership is handed over.
    Transfer(Node),
    /// That node is told to take it, and does not.
    TransferFails(Node),
}

pub(crate) struct Cluster {
    pub(crate) rules: Rules,
    pub(crate) budget: Budget,
    /// Who leads at first; the call is node 0's.
    pub(crate) leader: Node,
}

pub(crate) fn at(node: Node) -> usize {
    usize::from(node)
}

impl Cluster {
    pub(crate) fn has(&self, rule: Rule) -> bool {
        self.rules.has(rule)
    }

    pub(crate) fn known(&self, state: &State, applied: u8) -> Known {
        Known::of(&state.log[..usize::from(applied)], self.rules)
    }

    pub(crate) fn committed(&self, state: &State) -> Known {
        Known::of(&state.log, self.rules)
    }

    /// The epoch for which a node takes itself for the owner with a lease.
    pub(crate) fn may_initiate(&self, state: &State, node: Node) -> Option<u8> {
        let process = &state.nodes[at(node)];
        let known = self.known(state, process.applied);
        let own = known.owner.0 == node && (!self.has(Rule::IncarnationOwns) || known.owner.1 == process.incarnation);
        let lease = process.lease > 0
            && (!self.has(Rule::LeaseAsNewAsTheState) || process.applied >= process.confirmed)
            && (!self.has(Rule::DownHasNoLease) || !known.down[at(node)]);
        (own && (lease || !self.has(Rule::Lease))).then_some(known.epoch)
    }

    pub(crate) fn leads(&self, state: &State) -> bool {
        let process = &state.nodes[at(state.leader.node)];
        process.runs() && process.incarnation == state.leader.incarnation
    }

    fn whole(&self) -> u8 {
        LEASE + if self.has(Rule::Margin) { MARGIN } else { MARGIN - 1 }
    }

    pub(crate) fn votes(&self, process: &Process) -> bool {
        let remembers = process.forgotten <= LEASE + MARGIN - VOTE_LEASE;
        process.runs() && process.vote == 0 && (remembers || !self.has(Rule::NoVoteAfterForgetting))
    }

    fn wait(&self, process: &Process) -> u8 {
        let usual = self.whole() - VOTE_LEASE;
        match self.has(Rule::NewLeaderWaits) {
            true if self.has(Rule::WholeWaitAfterForgetting) => usual.max(process.forgotten.min(self.whole())),
            true => usual,
            false => 0,
        }
    }

    fn tick(&self, state: &mut State, late: Option<Node>) {
        for (n, process) in state.nodes.iter_mut().enumerate() {
            let counts = !process.asleep || self.has(Rule::ClockCountsSuspends);
            if counts && late.map(at) != Some(n) {
                process.lease = process.lease.saturating_sub(1);
            }
            if process.lease == 0 {
                process.confirmed = 0;
            }
            process.vote = process.vote.saturating_sub(1);
            process.forgotten = process.forgotten.saturating_sub(1);
            process.checked = match process.checked {
                Some((0, _)) if self.has(Rule::NothingAfterAPause) => None,
                checked => checked.map(|(left, epoch)| (left.saturating_sub(1), epoch)),
            };
        }
        let leader = &mut state.leader;
        leader.wait = leader.wait.saturating_sub(1);
        leader.noted = leader.noted.map(|left| left.saturating_sub(1));
    }

    fn confirm(&self, state: &mut State, node: Node, other: Node) {
        let leader = state.leader.node;
        let process = &mut state.nodes[at(node)];
        process.lease = LEASE;
        process.confirmed = u8::try_from(state.log.len()).expect("short logs");
        for n in [leader, other].into_iter().filter(|_| self.elects()) {
            state.nodes[at(n)].vote = VOTE_LEASE;
        }
        if self.has(Rule::NotesConfirmations) {
            state.leader.noted[at(node)] = self.whole();
        }
    }

    /// What the leader before had declared is on its way to this one, is in its log, or is lost.
    fn lead(&self, state: &mut State, node: Node, inherits: bool) {
        let before = std::mem::replace(&mut state.leader.declared, [None; NODES]);
        for (n, incarnation) in before.iter().enumerate() {
            let Some(incarnation) = *incarnation else { continue };
            let entry = Entry::NodeDown(u8::try_from(n).expect("few nodes"), incarnation);
            if !self.has(Rule::DeclaredInItsTerm) {
                state.proposed.insert(entry);
            } else if inherits {
                state.log.push(entry);
            }
        }
        let process = &state.nodes[at(node)];
        let (incarnation, wait) = (process.incarnation, self.wait(process));
        state.leader = Leader { node, incarnation, wait, noted: [0; NODES], declared: [None; NODES] };
    }

    /// Votes matter in this history.
    pub(crate) fn elects(&self) -> bool {
        self.budget.elections + self.budget.transfers > 0
    }

    /// A node whose lease matters: the owner, or who takes itself for it. The others are left out, for there would be too many histories.
    pub(crate) fn concerns(&self, state: &State, node: Node) -> bool {
        let known = self.known(state, state.nodes[at(node)].applied);
        known.owner.0 == node || self.committed(state).owner.0 == node
    }

    fn forget_votes(state: &mut State, of: &[Node]) {
        for process in of.iter().map(|n| at(*n)) {
            let process = &mut state.nodes[process];
            (process.vote, process.forgotten) = (0, LEASE + MARGIN);
        }
    }
}

impl Process {
    pub(crate) fn runs(&self) -> bool {
        self.alive && !self.asleep
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let node = Process {
            alive: true,
            asleep: false,
            incarnation: 1,
            applied: 0,
            lease: 0,
            confirmed: 0,
            checked: None,
            vote: 0,
            forgotten: 0,
        };
        let leader = Leader { node: self.leader, incarnation: 1, wait: 0, noted: [0; NODES], declared: [None; NODES] };
        vec![State {
            nodes: [node.clone(), node.clone(), node],
            leader,
            log: Vec::new(),
            proposed: BTreeSet::new(),
            left: self.budget,
            initiated_late: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.push(Action::Tick(None));
        let leads = self.leads(state);
        let leader = &state.leader;
        for n in 0..u8::try_from(NODES).expect("few nodes") {
            self.actions_of(state, n, actions);
            if leads {
                self.actions_of_leader(state, n, actions);
            }
        }
        if leads {
            actions.extend(state.proposed.iter().map(|entry| Action::Commit(*entry)));
            if state.left.transfers > 0 {
                let others = (0..3).filter(|n| *n != leader.node && state.nodes[at(*n)].runs());
                actions.extend(others.flat_map(|n| [Action::Transfer(n), Action::TransferFails(n)]));
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick(late) => {
                self.tick(&mut state, late);
                state.left.slips -= u8::from(late.is_some());
            }
            Action::Confirm(node, other) => self.confirm(&mut state, node, other),
            Action::Apply(node) => state.nodes[at(node)].applied += 1,
            Action::Check(node) => {
                let epoch = self.may_initiate(last, node)?;
                state.nodes[at(node)].checked = Some((PAUSE, epoch));
            }
            Action::Send(node) => {
                let (_, epoch) = state.nodes[at(node)].checked.take()?;
                state.initiated_late |= self.committed(last).epoch > epoch;
            }
            Action::Declare(node) => {
                let known = self.known(last, last.nodes[at(last.leader.node)].applied);
                state.leader.declared[at(node)] = Some(known.incarnations[at(node)]);
                state.left.downs -= 1;
            }
            Action::CommitDeclared(node) => {
                let incarnation = state.leader.declared[at(node)].take()?;
                state.log.push(Entry::NodeDown(node, incarnation));
            }
            Action::ProposeBack(node) => {
                state.proposed.insert(Entry::NodeBack(node, last.nodes[at(node)].incarnation));
                state.left.backs -= 1;
            }
            Action::ProposeAdopt(node) => {
                let process = &last.nodes[at(node)];
                let from = self.known(last, process.applied).epoch;
                state.proposed.insert(Entry::Adopt { from, owner: node, incarnation: process.incarnation });
                state.left.adopts -= 1;
            }
            Action::Commit(entry) => {
                state.proposed.remove(&entry);
                state.log.push(entry);
            }
            Action::Crash(node) => {
                let process = &mut state.nodes[at(node)];
                *process = Process { alive: false, lease: 0, confirmed: 0, checked: None, vote: 0, ..process.clone() };
                state.left.crashes -= 1;
            }
            Action::Restart(node) => {
                let process = &mut state.nodes[at(node)];
                (process.alive, process.forgotten) = (true, if self.elects() { LEASE + MARGIN } else { 0 });
                process.incarnation += 1;
                state.proposed.insert(Entry::NodeUp(node, process.incarnation));
            }
            Action::Suspend(node) => {
                state.nodes[at(node)].asleep = true;
                state.left.suspends -= 1;
            }
            Action::Wake(node) => state.nodes[at(node)].asleep = false,
            Action::Elect(node, _, inherits) => {
                self.lead(&mut state, node, inherits);
                state.left.elections -= 1;
            }
            Action::Transfer(node) => {
                Cluster::forget_votes(&mut state, &[0, 1, 2]);
                self.lead(&mut state, node, true);
                state.left.transfers -= 1;
            }
            Action::TransferFails(node) => {
                Cluster::forget_votes(&mut state, &[last.leader.node, node]);
                state.left.transfers -= 1;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Cluster>> {
        vec![
            Property::always("one owner an epoch", |model: &Cluster, state: &State| !model.committed(state).twice),
            Property::always("no lease overlaps an adoption", |model: &Cluster, state: &State| {
                let epoch = model.committed(state).epoch;
                let sure = |n: &Node| state.nodes[at(*n)].runs() && model.may_initiate(state, *n).is_some_and(|own| own < epoch);
                !(0..3).any(|n| sure(&n))
            }),
            Property::always("nothing is initiated for a call that another has", |_: &Cluster, state: &State| {
                !state.initiated_late
            }),
            Property::sometimes("a call is adopted", |model: &Cluster, state: &State| {
                let known = model.committed(state);
                known.epoch > 1 && model.may_initiate(state, known.owner.0) == Some(known.epoch) && known.owner.0 != 0
            }),
            Property::sometimes("a start takes its own calls back", |model: &Cluster, state: &State| {
                let known = model.committed(state);
                known.owner == (0, 2) && model.may_initiate(state, 0) == Some(known.epoch)
            }),
            Property::sometimes("a node that was down goes on with its calls", |model: &Cluster, state: &State| {
                let was_down = state.log.contains(&Entry::NodeDown(0, 1));
                was_down && model.committed(state).epoch == 1 && model.may_initiate(state, 0) == Some(1)
            }),
        ]
    }
}
