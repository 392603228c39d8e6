//! Alarms that stand, of all nodes: what an operator sees from any of them, also of one that does not answer.

use std::collections::BTreeMap;

use crate::ids::NodeId;
use crate::store_pb::{Alarm, AlarmState};

/// Alarms of one node that are remembered. Their kinds are an enumeration in the program; a newer version may know more of them.
const OF_ONE_NODE: usize = 64;
/// Octets of the word of an alarm.
const KIND_MAX: usize = 64;
/// Octets of what is said of it.
const DETAIL_MAX: usize = 512;

/// By node and word.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct AlarmLog(BTreeMap<(NodeId, String), AlarmState>);

impl AlarmLog {
    /// From a snapshot; `None` where an entry is malformed or stands twice.
    pub(super) fn restored(states: Vec<AlarmState>) -> Option<AlarmLog> {
        let mut log = BTreeMap::new();
        for state in states {
            let node = NodeId(u16::try_from(state.node).ok()?);
            if log.insert((node, state.kind.clone()), state).is_some() {
                return None;
            }
        }
        Some(AlarmLog(log))
    }

    /// Raises or clears one; false when it stood so already, or says what no node says.
    pub(super) fn change(&mut self, alarm: &Alarm, at: u64) -> bool {
        let Ok(id @ 1..) = u16::try_from(alarm.node) else { return false };
        let key = (NodeId(id), alarm.kind.clone());
        if !alarm.raised {
            return self.0.remove(&key).is_some();
        }
        let of_node = self.0.range((NodeId(id), String::new())..).take_while(|((n, _), _)| n.0 == id).count();
        let fits = (1..=KIND_MAX).contains(&alarm.kind.len()) && alarm.detail.len() <= DETAIL_MAX && of_node < OF_ONE_NODE;
        if !fits || self.0.contains_key(&key) {
            return false;
        }
        let state = AlarmState { node: alarm.node, kind: alarm.kind.clone(), detail: alarm.detail.clone(), since_unix_ms: at };
        self.0.insert(key, state);
        true
    }

    /// The node has started again: what was wrong with it is for it to say.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.retain(|(n, _), _| *n != node);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &AlarmState> {
        self.0.values()
    }
}
