//! AC-55: a cluster that was cut in two asks the PSAP for a call once, or once more for as long as the node that has it cannot be asked; and
//! never for one that is over.

use crate::phone::Leg;
use crate::world::World;

/// Timer B: by then the sender of an INVITE has given up (RFC 3261 §17.1.1.2).
const LIFE: u64 = 32_000_000;
/// The news that a call is over takes so long, and the PSAP's INVITE may have been under way.
const NEWS: u64 = 500_000;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for caller in world.phones[0].legs.iter() {
        let call = caller.call;
        // A PSAP may forget a call that is over: what it refuses as merged (482) here, it would ring for.
        let merged = world.phones[1].merged.iter().filter(|(of, _)| *of == call);
        if let Some((_, at)) = merged.clone().find(|(_, at)| caller.ended_at.is_some_and(|ended| *at > ended + NEWS)) {
            wrong.push(format!("call {call} was dialled and refused as merged at {} ms, after its end", at / 1000));
        }
        let legs: Vec<&Leg> = world.phones[1].legs.iter().filter(|l| l.call == call).collect();
        if legs.len() > 2 {
            wrong.push(format!("the PSAP was asked {} times for call {call}", legs.len()));
        }
        for leg in legs {
            if leg.began_at > caller.began_at + LIFE {
                wrong.push(format!("call {call} was dialled {} ms after its INVITE", (leg.began_at - caller.began_at) / 1000));
            }
            if caller.ended_at.is_some_and(|ended| leg.began_at > ended + NEWS) {
                wrong.push(format!("call {call} was dialled at {} ms, after its end", leg.began_at / 1000));
            }
        }
    }
}
