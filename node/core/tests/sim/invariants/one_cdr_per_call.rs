//! Rule L: one CDR a call, the same in each replica. Of two nodes that had one INVITE while they could not hear each other, each call that was
//! answered has its own (AC-55).

use std::sync::Arc;

use sbc_core::replica::BESIDE_LEVEL;
use sbc_core::store_pb::Cdr;

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (i, node) in world.nodes.iter().enumerate() {
        let replica = node.replica.read().expect("no thread of ours panics");
        let cdrs = replica.cdrs(0, 10_000).expect("none was compacted");
        for leg in &world.phones[0].legs {
            let of_call = |c: &&Arc<Cdr>| c.parties.as_ref().is_some_and(|p| p.call_id == leg.call_id);
            let count = cdrs.iter().filter(of_call).count();
            // Of what was dialled without the log, and lost with its node, nobody knows.
            let known = !world.victims.contains(&leg.call) && !world.unrecorded.contains(&leg.call);
            let at_psap = || world.phones[1].legs.iter().filter(|l| l.call == leg.call);
            let dialled = known && at_psap().count() > 0;
            let most = if replica.level() < BESIDE_LEVEL { 1 } else { at_psap().count().max(1) };
            if count > most || (dialled && count == 0) {
                wrong.push(format!("node {i} has {count} CDRs of call {} (dialled: {dialled})", leg.call));
            }
            if replica.level() < BESIDE_LEVEL {
                continue;
            }
            let answered = cdrs.iter().filter(of_call).filter(|c| c.answered_unix_ms > 0).count();
            if (known && leg.answered && answered == 0) || answered > at_psap().filter(|l| l.answered).count() {
                wrong.push(format!(
                    "node {i} has {answered} CDRs of call {} as answered (by the caller: {})",
                    leg.call, leg.answered
                ));
            }
        }
    }
}
