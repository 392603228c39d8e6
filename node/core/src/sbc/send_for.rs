//! What this node sends for other nodes: the owner of a call knows the path, this node has the socket (rules E and H).
//!
//! Nothing is kept of it: the id under which a failure comes back holds whose it was.

use crate::call::Context;
use crate::ids::{NodeId, SendId};
use crate::io::{Counter, DropReason, Output, PeerMessage, SendFailure, Transmit};
use crate::transaction::SEND_MARK;

/// Set in the id of what is sent for another node; transactions have the bit above it.
const EMIT_MARK: u64 = 1 << 62;
/// Below it the node, and below that so many bits of the owner's own id: nine years of a thousand transactions a second.
const OWNER_BITS: u32 = 46;

/// The id under which this node sends it. What cannot be reported is not.
fn id_here(owner: NodeId, id: SendId) -> SendId {
    let rest = id.0 & !SEND_MARK;
    if id.0 & SEND_MARK == 0 || rest >> OWNER_BITS != 0 {
        return SendId(0);
    }
    SendId(EMIT_MARK | u64::from(owner.0) << OWNER_BITS | rest)
}

/// The owner and its own id; `None`: it is of this node.
fn id_there(id: SendId) -> Option<(NodeId, SendId)> {
    if id.0 & (SEND_MARK | EMIT_MARK) != EMIT_MARK {
        return None;
    }
    let node = u16::try_from((id.0 & !EMIT_MARK) >> OWNER_BITS).ok()?;
    Some((NodeId(node), SendId(SEND_MARK | (id.0 & ((1 << OWNER_BITS) - 1)))))
}

/// The owner of a call wants something sent.
pub(super) fn send_for(cx: &mut Context, owner: NodeId, mut transmit: Transmit) {
    // Only addresses of this node can be asked for.
    if !cx.local.addresses(transmit.path.role).contains(transmit.path.local.ip()) {
        cx.count(Counter::Dropped(DropReason::EmitAddress));
        return;
    }
    transmit.id = id_here(owner, transmit.id);
    cx.output(Output::Transmit(transmit));
}

/// Something could not be sent: of a transaction here, or at another node.
pub(super) fn on_send_failed(cx: &mut Context, id: SendId, reason: SendFailure) {
    match id_there(id) {
        None => cx.tx.on_send_failed(cx.now.mono, id, reason),
        Some((to, id)) => cx.output(Output::Peer { to, message: PeerMessage::SendForFailed { id, reason } }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_back_to_its_owner() {
        let own = SendId(SEND_MARK | 0x12_3456_789a);
        for node in [1, 9, u16::MAX] {
            let here = id_here(NodeId(node), own);
            assert_eq!(here.0 & SEND_MARK, 0, "no transaction here takes it for its own");
            assert_eq!(id_there(here), Some((NodeId(node), own)));
        }
        assert_eq!(id_here(NodeId(1), SendId(0)), SendId(0), "nobody wants to know");
        assert_eq!(id_here(NodeId(1), SendId(SEND_MARK | 1 << 50)), SendId(0), "it does not fit");
        assert_eq!((id_there(own), id_there(SendId(0))), (None, None));
    }
}
