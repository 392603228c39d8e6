//! What a node told of a call before the log had it, the log says in the end under the same id, or the node takes it back; but for calls that
//! the log has no place for, which stay with their node.

use std::collections::BTreeSet;

use sbc_core::replica::event_id;

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (i, node) in world.nodes.iter().enumerate() {
        let replica = node.replica.read().expect("no thread of ours panics");
        let committed = replica.events(0, usize::MAX).expect("none was compacted");
        let mut settled: BTreeSet<String> = committed.iter().map(|e| event_id(e)).collect();
        for (_, call, early) in node.early.events(0) {
            settled.insert(event_id(&early.event));
            settled.extend(early.event.retracted.iter().cloned());
            if node.early.call(call).is_some_and(|entry| entry.is_live()) {
                wrong.push(format!("node {i} tells of call {call}, which is over"));
            }
            if early.is_committed(&replica, call) {
                wrong.push(format!("node {i} tells {} as not committed, and the log has it", event_id(&early.event)));
            }
        }
        let open: Vec<_> = node.told.difference(&settled).collect();
        if !open.is_empty() {
            wrong.push(format!("node {i} told {open:?}, and nobody knows of it"));
        }
    }
}
