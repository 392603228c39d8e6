//! What can happen next.

use crate::log::Node;
use crate::model::{Action, Cluster, State, at};
use crate::rules::Rule;

impl Cluster {
    /// What a node may do, or what may happen to it.
    pub(crate) fn actions_of(&self, state: &State, n: Node, actions: &mut Vec<Action>) {
        let (process, left) = (&state.nodes[at(n)], &state.left);
        if process.asleep {
            return actions.push(Action::Wake(n));
        }
        if !process.alive {
            return actions.push(Action::Restart(n));
        }
        let known = self.known(state, process.applied);
        if left.slips > 0 && process.lease > 0 {
            actions.push(Action::Tick(Some(n)));
        }
        if usize::from(process.applied) < state.log.len() {
            actions.push(Action::Apply(n));
        }
        if process.checked.is_none() && self.may_initiate(state, n).is_some() {
            actions.push(Action::Check(n));
        }
        if process.checked.is_some() {
            actions.push(Action::Send(n));
        }
        if left.backs > 0 && known.down[at(n)] && known.incarnations[at(n)] == process.incarnation {
            actions.push(Action::ProposeBack(n));
        }
        if left.adopts > 0 && known.is_lost() && known.incarnations[at(n)] == process.incarnation && !known.down[at(n)] {
            actions.push(Action::ProposeAdopt(n));
        }
        if left.crashes > 0 && left.victim == n {
            actions.push(Action::Crash(n));
        }
        if left.suspends > 0 && self.concerns(state, n) {
            actions.push(Action::Suspend(n));
        }
        let leads = self.leads(state) && state.leader.node == n;
        // For itself a node asks by its vote's lease alone.
        if left.elections > 0 && !leads && process.vote == 0 {
            for other in (0..3).filter(|other| *other != n && self.votes(&state.nodes[at(*other)])) {
                let declared = state.leader.declared.iter().any(Option::is_some);
                actions.push(Action::Elect(n, other, false));
                if declared && self.has(Rule::DeclaredInItsTerm) {
                    actions.push(Action::Elect(n, other, true));
                }
            }
        }
    }

    /// What the leader may do about a node.
    pub(crate) fn actions_of_leader(&self, state: &State, n: Node, actions: &mut Vec<Action>) {
        let (leader, process) = (&state.leader, &state.nodes[at(n)]);
        if leader.declared[at(n)].is_some() {
            actions.push(Action::CommitDeclared(n));
        } else if n != leader.node && state.left.downs > 0 && leader.wait == 0 && leader.noted[at(n)] == 0 {
            let known = self.known(state, state.nodes[at(leader.node)].applied);
            if !known.down[at(n)] && known.owner.0 == n {
                actions.push(Action::Declare(n));
            }
        }
        let barred = leader.declared[at(n)].is_some() && self.has(Rule::NoConfirmationWhileDeclared);
        if process.runs() && !barred && self.concerns(state, n) {
            let mut others = (0..3).filter(|other| *other != leader.node && state.nodes[at(*other)].runs());
            if self.elects() {
                actions.extend(others.map(|other| Action::Confirm(n, other)));
            } else {
                // Whoever it is.
                actions.extend(others.next().map(|other| Action::Confirm(n, other)));
            }
        }
    }
}
