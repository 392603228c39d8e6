//! Rule H: every request of a phone gets exactly one final answer; copies of it are the same in status and To-tag.

use sbc_core::io::Counter;
use sbc_core::sip::Method;

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    let degraded = world.counted(Counter::Degraded) > 0;
    for phone in &world.phones {
        for tx in &phone.clients {
            let what = || format!("{:?}'s {} {} of call {}", phone.who, tx.cseq, tx.method.as_str(), phone.legs[tx.leg].call);
            // Two nodes that dialled without a quorum are a fork for the caller, who then may see two 2xx (RFC 3261 §13.2.2.4).
            let forked = degraded && tx.method == Method::Invite && tx.cseq == 1;
            // A copy of the request at a node that is cut off from the owner: 503 by rule G, beside the owner's own answer.
            let known = tx.finals.iter().filter(|(status, _)| !(world.was_cut && matches!(status, 503 | 481))).count();
            if known > 1 && !forked || tx.finals.len() > 1 && !world.was_cut && !forked {
                wrong.push(format!("{} got {:?}", what(), tx.finals));
            }
            if tx.finals.is_empty() {
                wrong.push(format!("{} got no final answer (timed out: {})", what(), tx.timed_out));
            }
        }
    }
}
