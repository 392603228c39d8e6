//! Which nodes live, for the log: the leader declares down what has been silent for too long, and a node that was declared down and lives
//! says so.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sbc_core::ids::{Incarnation, NodeId};
use sbc_core::replica::{OWNER_LOST_LEVEL, Replica};
use sbc_core::store_pb::{NodeBack, NodeDown, command::Kind};
use sbc_raft::{RaftHandle, Role};

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
    pub(super) members: Vec<NodeId>,
    pub(super) raft: RaftHandle,
    pub(super) peers: PeerLinks,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) clock: Clock,
}

/// Since when this node leads, and whom it has declared down in that time.
#[derive(Default)]
struct Leading {
    since: Option<(u64, Instant)>,
    declared: BTreeMap<NodeId, Instant>,
}

impl Leading {
    /// Of a term that this node leads with a quorum; `None`: it does not.
    fn look(&mut self, term: Option<u64>, now: Instant) {
        if self.since.map(|(of, _)| of) != term {
            self.since = term.map(|term| (term, now));
            self.declared.clear();
        }
    }

    /// True when a node is to be declared down that was last heard then: it was silent for `after`, and this leader has listened for as
    /// long.
    fn is_silent(&self, node: NodeId, heard: Option<Instant>, after: Duration, now: Instant) -> bool {
        let Some((_, since)) = self.since else { return false };
        let heard = heard.map_or(since, |heard| heard.max(since));
        let lately = self.declared.get(&node).is_some_and(|at| now.saturating_duration_since(*at) < AGAIN);
        !lately && now.saturating_duration_since(heard) > after
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
            leading.look(term, Instant::now());
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
        if !leading.is_silent(node, heard, self.peers.down_after(), Instant::now()) {
            return;
        }
        let known = self.read(|r| r.node_incarnation(node).filter(|_| r.down_since(node).is_none()));
        let Some(Incarnation(incarnation)) = known else { return };
        let down = NodeDown { node: u32::from(node.0), incarnation, unix_ms: 0 };
        if self.raft.propose(log_command(self.clock, Kind::NodeDown(down))).await.is_ok() {
            tracing::warn!(%node, incarnation, "the node is down: it has been silent for longer than a lease and a margin");
            leading.declared.insert(node, Instant::now());
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Replica) -> T) -> T {
        f(&self.replica.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_listens_for_as_long_itself() {
        let (node, after) = (NodeId(2), Duration::from_secs(3));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut leading = Leading::default();
        assert!(!leading.is_silent(node, Some(start), after, at(9000)), "it does not lead");
        leading.look(Some(4), at(10_000));
        assert!(!leading.is_silent(node, Some(start), after, at(13_000)), "it has only just begun to listen");
        assert!(leading.is_silent(node, Some(start), after, at(13_001)));
        assert!(leading.is_silent(node, None, after, at(13_001)), "never heard");
        assert!(!leading.is_silent(node, Some(at(12_000)), after, at(14_000)));
        leading.look(Some(4), at(14_000));
        assert!(leading.is_silent(node, None, after, at(14_000)), "the same term goes on");
        leading.look(None, at(14_500));
        leading.look(Some(4), at(15_000));
        assert!(!leading.is_silent(node, None, after, at(16_000)), "without a quorum it heard nobody");
    }

    #[test]
    fn what_came_back_is_not_declared_down_again_at_once() {
        let (node, after) = (NodeId(2), Duration::from_secs(3));
        let start = Instant::now();
        let mut leading = Leading::default();
        leading.look(Some(1), start);
        leading.declared.insert(node, start + Duration::from_secs(4));
        assert!(!leading.is_silent(node, None, after, start + Duration::from_secs(18)));
        assert!(leading.is_silent(node, None, after, start + Duration::from_secs(19)));
        assert!(leading.is_silent(NodeId(3), None, after, start + Duration::from_secs(18)));
    }
}
