//! Tells the log whether this node announces, or would, and is well: by that the log judges whether another one may withdraw.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{NodeReport, command::Kind};
use sbc_raft::RaftHandle;
use tokio::sync::watch;

use super::control::Draining;
use super::view::log_command;
use crate::announce::AnnouncerHandle;
use crate::control::Intents;
use crate::driver::Clock;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long something must differ from what the log has: what comes and goes faster, as a flip of the address does, is not worth a record.
const DAMP: Duration = Duration::from_millis(500);

/// This node, as it speaks of itself in the log.
pub(super) struct Reports {
    pub(super) raft: RaftHandle,
    pub(super) clock: Clock,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) intents: Arc<Intents>,
    pub(super) announcer: AnnouncerHandle,
    pub(super) draining: Draining,
    pub(super) own: watch::Receiver<NodeState>,
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
}

impl Reports {
    /// As long as the node runs. What could not be said is said again: the log is compared with what is.
    pub(super) async fn run(self) {
        let mut since: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.raft.status().caught_up || !self.differs() {
                since = None;
                continue;
            }
            // An order is under way: what it comes to is not known yet.
            let Some(held) = self.intents.try_hold() else {
                since = None;
                continue;
            };
            if since.get_or_insert_with(Instant::now).elapsed() < DAMP {
                continue;
            }
            let (wants, healthy) = self.is();
            let (node, incarnation) = (u32::from(self.node.0), self.incarnation);
            let report = NodeReport { node, incarnation, seq: self.intents.next(), wants, healthy };
            let _ = self.raft.propose(log_command(self.clock, Kind::NodeReport(report))).await;
            drop(held);
            since = None;
        }
    }

    /// Whether it announces or would, and is well.
    fn is(&self) -> (bool, bool) {
        let wants = self.announcer.wish().borrow().wanted && !self.draining.get();
        (wants, self.own.borrow().is_well())
    }

    /// The log does not know how it is; nothing to say before the log has reached the level, and before it knows this start of the node.
    fn differs(&self) -> bool {
        let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
        let knows_us = replica.node_incarnation(self.node).is_some_and(|known| known.0 == self.incarnation);
        replica.level() >= 2 && knows_us && replica.announcer(self.node) != Some(self.is())
    }
}
