//! Rule L: one CDR a call, the same in each replica.

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (i, node) in world.nodes.iter().enumerate() {
        let cdrs = node.replica.read().expect("no thread of ours panics").cdrs(0, 10_000).expect("none was compacted");
        for leg in &world.phones[0].legs {
            let of_call =
                |c: &&std::sync::Arc<sbc_core::store_pb::Cdr>| c.parties.as_ref().is_some_and(|p| p.call_id == leg.call_id);
            let count = cdrs.iter().filter(of_call).count();
            // Of what was dialled without the log, and lost with its node, nobody knows.
            let known = !world.victims.contains(&leg.call) && !world.unrecorded.contains(&leg.call);
            let dialled = known && world.phones[1].legs.iter().any(|l| l.call == leg.call);
            if count > 1 || (dialled && count == 0) {
                wrong.push(format!("node {i} has {count} CDRs of call {} (dialled: {dialled})", leg.call));
            }
        }
    }
}
