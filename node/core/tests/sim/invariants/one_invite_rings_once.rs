//! Rule B: whatever the network does to an INVITE, the PSAP rings once. Without quorum rule C's identity makes copies of it
//! one request; only then may a second identity have been dialled.

use std::collections::BTreeSet;

use sbc_core::io::Counter;

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    let degraded = world.counted(Counter::Degraded) > 0;
    for call in 0..world.phones[0].legs.len() {
        let legs = || world.phones[1].legs.iter().filter(move |l| l.call == call);
        let ids: BTreeSet<&str> = legs().map(|l| &*l.call_id).collect();
        if ids.len() > 1 && !degraded {
            wrong.push(format!("call {call} was dialled {} times: {ids:?}", ids.len()));
        }
        let answered = legs().filter(|l| l.answered && !l.cancelled).count();
        if answered > 1 && !degraded {
            wrong.push(format!("call {call} was answered {answered} times"));
        }
    }
}
