//! Whose a packet is, by what this node knows at the moment (`placement`).

use crate::call::Context;
use crate::ids::{NodeId, PacketKey};
use crate::placement::{self, ClaimPlacement, Facts};
use crate::replica::Replica;
use crate::sip::Message;
use crate::token::ClaimKey;

/// Asks with the replicated state and all else that counts. `relayed`: by a peer, whose map may be another.
pub(super) fn by_facts<R>(cx: &Context, relayed: bool, ask: impl FnOnce(&Facts<'_>, &Replica) -> R) -> R {
    let replica = cx.replica();
    let facts = Facts { local: &cx.local, view: &cx.view, replica: &replica, now: cx.now.mono, relayed };
    ask(&facts, &replica)
}

/// Where the INVITE of a claim belongs, of which this node has no call.
pub(super) fn of_claim(cx: &Context, key: &[u8; 16], packet_key: &PacketKey, relayed: bool) -> ClaimPlacement {
    by_facts(cx, relayed, |facts, _| placement::of_claim(facts, key, packet_key))
}

/// Where the CANCEL of a claim belongs.
pub(super) fn of_cancel(cx: &Context, key: &[u8; 16], relayed: bool) -> Option<NodeId> {
    by_facts(cx, relayed, |facts, _| placement::of_cancel(facts, key))
}

/// The claim of an INVITE or CANCEL, and the key of the very packet (rule B).
pub(super) fn keys_of(cx: &Context, message: &Message) -> (ClaimKey, PacketKey) {
    let key = cx.key.claim_key(message.call_id(), message.from_tag().unwrap_or_default(), message.cseq());
    let via = message.top_via();
    (key, cx.key.packet_key(key, &via.sent_by(), via.branch().unwrap_or_default()))
}
