//! What stands in the log of the model, and what a node knows that has applied so much of it.

use crate::rules::{Rule, Rules};

/// Nodes of the cluster.
pub(crate) const NODES: usize = 3;

/// A node by its place.
pub(crate) type Node = u8;
/// The number of one start of a node.
pub(crate) type Incarnation = u8;

/// One command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    /// That start of the node is down: its lease is over, and it gets none before it has applied this.
    NodeDown(Node, Incarnation),
    /// It lives.
    NodeBack(Node, Incarnation),
    /// A start of a node.
    NodeUp(Node, Incarnation),
    /// The call is that start's of that node, from the next epoch on.
    Adopt { from: u8, owner: Node, incarnation: Incarnation },
}

/// The replicated state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) incarnations: [Incarnation; NODES],
    pub(crate) down: [bool; NODES],
    /// Whose the call is.
    pub(crate) owner: (Node, Incarnation),
    pub(crate) epoch: u8,
    /// An epoch has had two owners.
    pub(crate) twice: bool,
}

impl Known {
    /// By the entries of a log from its beginning.
    pub(crate) fn of(entries: &[Entry], rules: Rules) -> Known {
        let mut known = Known { incarnations: [1; NODES], down: [false; NODES], owner: (0, 1), epoch: 1, twice: false };
        for entry in entries {
            known.apply(*entry, rules);
        }
        known
    }

    fn apply(&mut self, entry: Entry, rules: Rules) {
        match entry {
            Entry::NodeDown(n, incarnation) if self.incarnations[usize::from(n)] == incarnation => {
                self.down[usize::from(n)] = true;
            }
            Entry::NodeBack(n, incarnation) if self.incarnations[usize::from(n)] == incarnation => {
                self.down[usize::from(n)] = false;
            }
            Entry::NodeUp(n, incarnation) if self.incarnations[usize::from(n)] < incarnation => {
                (self.incarnations[usize::from(n)], self.down[usize::from(n)]) = (incarnation, false);
            }
            Entry::Adopt { from, owner, incarnation } => {
                let stale = rules.has(Rule::AdoptComparesEpochs) && from != self.epoch;
                let early = rules.has(Rule::AdoptNeedsADeadOwner) && !self.is_lost();
                if !stale && !early {
                    self.twice |= from < self.epoch;
                    (self.owner, self.epoch) = ((owner, incarnation), from + 1);
                }
            }
            Entry::NodeDown(..) | Entry::NodeBack(..) | Entry::NodeUp(..) => {}
        }
    }

    /// The call's owner is down, or has started again.
    pub(crate) fn is_lost(&self) -> bool {
        let (node, incarnation) = self.owner;
        self.down[usize::from(node)] || self.incarnations[usize::from(node)] > incarnation
    }
}
