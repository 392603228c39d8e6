//! Rule H: every request of a phone gets exactly one final answer; copies of it are the same in status and To-tag. And no caller that
//! tries another node is told that it asks twice (482) when nobody serves it.

use sbc_core::sip::Method;

use crate::phone::{ClientTx, Phone};
use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for phone in &world.phones {
        for tx in &phone.clients {
            let call = phone.legs[tx.leg].call;
            if world.victims.contains(&call) {
                // What a dead node was to answer, nobody does.
                continue;
            }
            let what = || format!("{:?}'s {} {} of call {call}", phone.who, tx.cseq, tx.method.as_str());
            // Two nodes that dialled without a quorum are a fork for the caller, who then may see two 2xx (RFC 3261 §13.2.2.4).
            let initial = tx.method == Method::Invite && tx.cseq == 1;
            // And two that cannot hear each other: the one where it was cancelled, and the one that rings.
            let apart = world.was_cut && phone.legs[tx.leg].cancelled;
            let forked = initial && (legs_at_the_psap(world, call) > 1 || apart);
            // A copy of the request at a node that is cut off from the owner, or has just started and has no links: 503 by rule G, beside the
            // owner's own answer.
            let unlinked = |status| matches!(status, 503 | 481) && world.was_cut || status == 503 && !world.killed_at.is_empty();
            if tx.finals.iter().filter(|(status, _)| !unlinked(*status)).count() > 1 && !forked {
                wrong.push(format!("{} got {:?}", what(), tx.finals));
            }
            // Of two ways the one that was answered counts.
            let moot = tx.given_up || initial && phone.legs[tx.leg].answered && phone.legs[tx.leg].failed_over;
            if tx.finals.is_empty() && !moot {
                wrong.push(format!("{} got no final answer (timed out: {})", what(), tx.timed_out));
            }
        }
    }
    served_once_asked(world, &world.phones[0], wrong);
}

/// How often the PSAP was asked for this call.
fn legs_at_the_psap(world: &World, call: usize) -> usize {
    world.phones[1].legs.iter().filter(|l| l.call == call).count()
}

/// A second way that is refused with 482 is a promise: the first one is served.
fn served_once_asked(world: &World, caller: &Phone, wrong: &mut Vec<String>) {
    for (n, leg) in caller.legs.iter().enumerate() {
        let invites = || caller.clients.iter().filter(|c| c.leg == n && c.method == Method::Invite && c.cseq == 1);
        let merged = |tx: &ClientTx| tx.finals.iter().any(|(status, _)| *status == 482);
        let first_failed = |tx: &ClientTx| tx.finals.iter().any(|(status, _)| matches!(status, 408 | 480 | 500..=599));
        let gone = world.victims.contains(&leg.call) && !leg.answered && invites().all(|tx| tx.finals.is_empty() || merged(tx));
        if invites().any(merged)
            && !leg.cancelled
            && !leg.answered
            && (gone && !died_after(world, n) || invites().any(first_failed))
        {
            wrong.push(format!("the caller of call {} was told 482 though nobody served it", leg.call));
        }
    }
}

/// The owner died after the caller had been told 482: it was being served.
fn died_after(world: &World, leg: usize) -> bool {
    let told = world.phones[0].clients.iter().filter(|c| c.leg == leg).filter_map(|c| c.merged_at).min();
    world.killed_at.iter().any(|killed| told.is_some_and(|told| told <= *killed + 200_000))
}
