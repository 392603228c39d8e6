//! Tells the log of this node's alarms, so that every node knows them, and events say when they were raised and cleared.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sbc_core::ids::NodeId;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{Alarm, command::Kind};
use sbc_raft::RaftHandle;

use super::view::log_command;
use crate::driver::Clock;
use crate::telemetry::Alarms;

/// Between two looks at what stands here and what stands in the log: what comes and goes faster is not worth a record.
const EVERY: Duration = Duration::from_secs(1);
/// Octets of detail that go into the log; the replicated state takes up to 512.
const DETAIL: usize = 500;

/// This node, as it speaks of itself in the log.
pub(super) struct Reporter {
    pub(super) raft: RaftHandle,
    pub(super) clock: Clock,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) alarms: Alarms,
    pub(super) node: NodeId,
    pub(super) incarnation: u32,
}

impl Reporter {
    /// As long as the node runs. What could not be said is said again: the log is compared with what stands.
    pub(super) async fn run(self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if !self.raft.status().caught_up {
                continue;
            }
            for alarm in self.differences() {
                let _ = self.raft.propose(log_command(self.clock, Kind::Alarm(alarm))).await;
            }
        }
    }

    /// What the log does not know yet; nothing before the log has reached the level of alarms, and before it knows this start of the node.
    fn differences(&self) -> Vec<Alarm> {
        let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
        if replica.level() < 2 || replica.node_incarnation(self.node).is_none_or(|known| known.0 != self.incarnation) {
            return Vec::new();
        }
        let own = u32::from(self.node.0);
        let logged: Vec<&str> = replica.alarms().filter(|a| a.node == own).map(|a| a.kind.as_str()).collect();
        let standing: BTreeMap<&str, String> =
            self.alarms.active().into_iter().map(|a| (a.kind.as_str(), shortened(a.detail))).collect();
        let alarm =
            |kind: &str, raised, detail| Alarm { node: own, incarnation: self.incarnation, kind: kind.into(), raised, detail };
        let raised = standing.iter().filter(|(kind, _)| !logged.contains(kind)).map(|(k, d)| alarm(k, true, d.clone()));
        let cleared = logged.iter().filter(|kind| !standing.contains_key(*kind)).map(|k| alarm(k, false, String::new()));
        raised.chain(cleared).collect()
    }
}

fn shortened(mut detail: String) -> String {
    let mut end = detail.len().min(DETAIL);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail.truncate(end);
    detail
}
