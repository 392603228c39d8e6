//! What the log knows of the nodes: which start of each is the newest, which are down, and the calls that lost their owner by it.
//!
//! `NodeDown` ends nothing: a node that was only cut off takes its calls back by `NodeBack`. One that has started again finds them here
//! (`orphans_of`), tells their far ends, and ends them (`farewell.rs`).

use std::sync::Arc;

use bytes::Bytes;

use super::apply::Run;
use super::{CallEntry, Effect, Replica, StaleReason};
use crate::ids::{CallUid, Incarnation, NodeId};
use crate::store_pb::{Event, EventKind, NodeBack, NodeDown, NodeUp};

/// From this level on nodes are declared down, and a call that lost its owner lives until that owner has told its far ends.
pub const OWNER_LOST_LEVEL: u32 = 2;

impl Replica {
    /// The newest incarnation that a node has reported.
    pub fn node_incarnation(&self, node: NodeId) -> Option<Incarnation> {
        self.nodes.get(&node).map(|n| Incarnation(n.incarnation))
    }

    /// What the log knows of a node: its newest start and its data id.
    pub fn node(&self, node: NodeId) -> Option<&NodeUp> {
        self.nodes.get(&node)
    }

    /// Since when a node is down, by the log's word.
    pub fn down_since(&self, node: NodeId) -> Option<u64> {
        self.down.get(&node).copied()
    }

    /// True for a live call whose owner is down, or has started again and not ended it yet.
    pub fn is_owner_lost(&self, entry: &CallEntry) -> bool {
        self.level() >= OWNER_LOST_LEVEL && entry.is_live() && (entry.state().lost_unix_ms > 0 || self.is_orphan(entry))
    }

    /// Whether there may be calls whose owner is lost: a node is down, or has started again.
    pub fn has_lost_calls(&self) -> bool {
        !self.down.is_empty() || !self.orphans.is_empty()
    }

    /// Live calls that a node had before it started again.
    pub fn orphans_of(&self, node: NodeId) -> impl Iterator<Item = &Arc<CallEntry>> {
        self.orphans.iter().filter_map(|uid| self.calls.get(uid)).filter(move |entry| entry.owner() == node)
    }

    /// True when the call's owner has started again since it took the call.
    pub(super) fn is_orphan(&self, entry: &CallEntry) -> bool {
        self.node_incarnation(entry.owner()).is_some_and(|now| entry.incarnation() < now)
    }

    pub(super) fn on_node_up(&mut self, run: &mut Run, up: &NodeUp, at: u64) {
        let Some((node, incarnation)) = named(up.node, up.incarnation) else {
            return run.stale(None, StaleReason::Malformed);
        };
        let data_id = if self.level >= 2 { Bytes::copy_from_slice(&up.data_id) } else { Bytes::new() };
        if let Some(known) = self.nodes.get_mut(&node) {
            if !known.vacant && !known.data_id.is_empty() && known.data_id != data_id {
                return run.stale(None, StaleReason::OtherData);
            }
            if known.incarnation == incarnation.0 && known.data_id.is_empty() && !data_id.is_empty() && !known.vacant {
                // It started before the log had reached the level of data ids.
                known.data_id = data_id;
                return;
            }
            if known.incarnation >= incarnation.0 {
                return run.stale(None, StaleReason::OldIncarnation);
            }
        }
        self.nodes.insert(node, NodeUp { node: up.node, incarnation: up.incarnation, data_id, vacant: false });
        self.down.remove(&node);
        self.alarms.forget(node);
        self.announcers.forget(node);
        let orphans: Vec<CallUid> =
            self.calls.values().filter(|c| c.is_live() && c.owner() == node && self.is_orphan(c)).map(|c| c.uid).collect();
        self.orphans.extend(orphans);
        run.effects.push(Effect::NodeUp { node, incarnation });
        self.event(run, Event { kind: EventKind::NodeUp.into(), unix_ms: at, node: up.node, ..Event::default() });
    }

    /// The node's next start brings a new log directory.
    pub(super) fn on_readmit(&mut self, run: &mut Run, node: u32) {
        let known = u16::try_from(node).ok().and_then(|n| self.nodes.get_mut(&NodeId(n)));
        let Some(known) = known else { return run.stale(None, StaleReason::Malformed) };
        known.vacant = true;
        known.data_id = Bytes::new();
    }

    pub(super) fn on_node_down(&mut self, run: &mut Run, down: NodeDown, at: u64) {
        let Some((node, incarnation)) = self.present(run, down.node, down.incarnation) else { return };
        if self.down.contains_key(&node) {
            return run.stale(None, StaleReason::Replay);
        }
        self.down.insert(node, at.max(1));
        self.set_lost(node, at.max(1));
        // What it said of itself is over: who withdraws must not count on it. One that is back says it again.
        self.announcers.forget(node);
        run.effects.push(Effect::NodeDown { node, incarnation });
        self.event(run, Event { kind: EventKind::NodeDown.into(), unix_ms: at, node: down.node, ..Event::default() });
    }

    pub(super) fn on_node_back(&mut self, run: &mut Run, back: NodeBack, at: u64) {
        let Some((node, _)) = self.present(run, back.node, back.incarnation) else { return };
        if self.down.remove(&node).is_none() {
            return run.stale(None, StaleReason::Replay);
        }
        self.set_lost(node, 0);
        self.event(run, Event { kind: EventKind::NodeBack.into(), unix_ms: at, node: back.node, ..Event::default() });
    }

    /// The node that is meant, if that start of it is its newest.
    fn present(&self, run: &mut Run, node: u32, incarnation: u32) -> Option<(NodeId, Incarnation)> {
        let meant = named(node, incarnation).filter(|_| self.level() >= OWNER_LOST_LEVEL);
        match meant {
            None => run.stale(None, StaleReason::Malformed),
            Some((node, incarnation)) if self.node_incarnation(node) != Some(incarnation) => {
                run.stale(None, StaleReason::OldIncarnation);
            }
            meant => return meant,
        }
        None
    }

    /// Marks the live calls of a node, orphans of an earlier start apart: those keep the time at which they were lost.
    fn set_lost(&mut self, node: NodeId, at: u64) {
        let of_node = |c: &&mut Arc<CallEntry>| c.is_live() && c.owner() == node;
        let orphans = &self.orphans;
        for entry in self.calls.values_mut().filter(of_node).filter(|c| !orphans.contains(&c.uid)) {
            Arc::make_mut(entry).state_mut().lost_unix_ms = at;
        }
    }
}

fn named(node: u32, incarnation: u32) -> Option<(NodeId, Incarnation)> {
    let node = u16::try_from(node).ok().filter(|node| *node > 0)?;
    (incarnation > 0).then_some((NodeId(node), Incarnation(incarnation)))
}
