//! Which nodes live, for the log: the leader declares down whoever has been silent and can have no lease any more, and a node that was
//! declared down and lives says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sbc_core::ids::{Incarnation, NodeId};
use sbc_core::replica::{OWNER_LOST_LEVEL, Replica};
use sbc_core::store_pb::{NodeBack, NodeDown, command::Kind};
use sbc_raft::{LEASE_MARGIN, RaftHandle, Role};

use super::view::log_command;
use crate::driver::Clock;
use crate::peer::PeerLinks;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// A node that came back is not declared down again before: one that hears the leader and is not heard would come and go for ever.
const AGAIN: Duration = Duration::from_secs(15);

/// What it is decided by.
pub(super) struct Life {
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
    /// How long a confirmation counts.
    pub(super) lease: Duration,
    pub(super) members: Vec<NodeId>,
    pub(super) raft: RaftHandle,
    pub(super) peers: PeerLinks,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) clock: Clock,
}

/// Whom this node has declared down since it leads.
#[derive(Default)]
struct Leading {
    term: Option<u64>,
    declared: BTreeMap<NodeId, Instant>,
    /// Of these it is not known whether the log has it. They get no confirmation until it is.
    open: BTreeSet<NodeId>,
}

impl Leading {
    /// Of a term that this node leads with a quorum; `None`: it does not.
    fn look(&mut self, term: Option<u64>) {
        if std::mem::replace(&mut self.term, term) != term {
            self.declared.clear();
            self.open.clear();
        }
    }

    /// True when a node may be dead that was last heard then: it was silent for `after`. That proves nothing, and only says whom to look at.
    fn is_silent(&self, node: NodeId, heard: Option<Instant>, after: Duration, now: Instant) -> bool {
        let lately = self.declared.get(&node).is_some_and(|at| now.saturating_duration_since(*at) < AGAIN);
        let silent = heard.is_none_or(|heard| now.saturating_duration_since(heard) > after);
        self.term.is_some() && (self.open.contains(&node) || (silent && !lately))
    }
}

impl Life {
    /// Until the runtime ends.
    pub(super) async fn run(self) {
        let mut leading = Leading::default();
        loop {
            tokio::time::sleep(LOOK).await;
            let status = self.raft.status();
            let term = (status.role == Role::Leader && status.has_lease).then_some(status.term);
            self.raft.leads(term);
            leading.look(term);
            let (level, down) = self.read(|r| (r.level(), r.down_since(self.node).is_some()));
            if level < OWNER_LOST_LEVEL {
                continue;
            }
            if down && self.read(|r| r.node_incarnation(self.node)) == Some(Incarnation(self.incarnation)) {
                // Tried again with the next look.
                let back = NodeBack { node: u32::from(self.node.0), incarnation: self.incarnation };
                let _ = self.raft.propose(log_command(self.clock, Kind::NodeBack(back))).await;
            }
            for node in self.members.iter().copied().filter(|member| *member != self.node) {
                self.judge(&mut leading, node).await;
            }
        }
    }

    async fn judge(&self, leading: &mut Leading, node: NodeId) {
        let heard = self.peers.last_heard(node).max(self.raft.last_acknowledged(u64::from(node.0)));
        if !leading.is_silent(node, heard, self.lease + LEASE_MARGIN, Instant::now()) {
            return;
        }
        let known = self.read(|r| r.node_incarnation(node).filter(|_| r.down_since(node).is_none()));
        let known = known.or_else(|| self.read(|r| r.node_incarnation(node)).filter(|_| leading.open.contains(&node)));
        let Some(Incarnation(incarnation)) = known else { return };
        let down = NodeDown { node: u32::from(node.0), incarnation, unix_ms: 0 };
        match self.raft.declare_down(u64::from(node.0), log_command(self.clock, Kind::NodeDown(down))).await {
            Ok(Some(_)) => {
                tracing::warn!(%node, incarnation, "the node is down: its lease is over, and it has been silent for as long");
                leading.open.remove(&node);
                leading.declared.insert(node, Instant::now());
            }
            // Its lease may still run, or another leads.
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%node, %error, "it is not known whether the log has it that the node is down");
                leading.open.insert(node);
            }
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Replica) -> T) -> T {
        f(&self.replica.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_millis(2500);

    #[test]
    fn whoever_is_silent_is_looked_at_by_a_leader() {
        let (node, start) = (NodeId(2), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let mut leading = Leading::default();
        assert!(!leading.is_silent(node, Some(start), AFTER, at(9000)), "it does not lead");
        leading.look(Some(4));
        assert!(!leading.is_silent(node, Some(start), AFTER, at(2500)));
        assert!(leading.is_silent(node, Some(start), AFTER, at(2501)));
        assert!(leading.is_silent(node, None, AFTER, start), "never heard");
    }

    #[test]
    fn what_came_back_is_not_declared_down_again_at_once_and_what_is_open_is_tried_again() {
        let (node, other, start) = (NodeId(2), NodeId(3), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        let mut leading = Leading::default();
        leading.look(Some(1));
        leading.declared.insert(node, at(4));
        leading.open.insert(other);
        assert!(!leading.is_silent(node, None, AFTER, at(18)) && leading.is_silent(node, None, AFTER, at(19)));
        assert!(leading.is_silent(other, Some(at(19)), AFTER, at(19)), "heard meanwhile: it needs its confirmations");
        leading.look(Some(1));
        assert!(leading.open.contains(&other), "the same term goes on");
        leading.look(None);
        assert!(leading.open.is_empty() && leading.declared.is_empty());
    }
}
