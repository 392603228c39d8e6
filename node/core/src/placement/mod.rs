//! Whose packet is this? Own calls, then the token, then the replicated index, then rule G (anycast.md).

use crate::ctx::LocalConfig;
use crate::ids::{CallUid, NodeId};
use crate::io::{Side, View};
use crate::replica::Replica;
use crate::sip::{HeaderId, Message, NameAddr, Uri};
use crate::time::Instant;
use crate::token::{ClusterKey, TokenKind};

/// What is known at the moment of deciding.
pub struct Facts<'a> {
    /// This node.
    pub local: &'a LocalConfig,
    /// The cluster.
    pub view: &'a View,
    /// The replicated state.
    pub replica: &'a Replica,
    /// The time.
    pub now: Instant,
    /// The packet came from a peer: it is never relayed again (rule D).
    pub relayed: bool,
}

/// Where a request within a dialog belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Here.
    Mine,
    /// At that node, which is reachable.
    Peer(NodeId),
    /// Nowhere, and this node may say so: 481.
    Nowhere,
    /// This node cannot say (rule G): 503 with Retry-After.
    Unsure,
}

/// Where an initial INVITE belongs, by its claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimPlacement {
    /// Nobody has claimed it.
    New,
    /// That node has, and this is a copy of the same packet.
    Peer(NodeId),
    /// The same request by another way (RFC 3261 §8.2.2.2), or one that is over: 482.
    Merged,
    /// Its owner is gone while it was being set up.
    Orphan,
}

/// The call that a request within a dialog names, and the leg it is on.
pub fn named_call(key: &ClusterKey, replica: &Replica, request: &Message) -> Option<(CallUid, Side)> {
    let side = |kind| match kind {
        TokenKind::CallerLeg | TokenKind::CallerFork(_) => Some(Side::Caller),
        TokenKind::CalleeLeg => Some(Side::Callee),
        TokenKind::Branch => None,
    };
    let from_tag = request.to_tag().and_then(|t| key.open(t));
    let from_uri = || {
        let uri = Uri::parse(request.request_uri()?).ok()?;
        key.open(uri.user()?)
    };
    from_tag
        .or_else(from_uri)
        .and_then(|t| Some((t.uid, side(t.kind)?)))
        .or_else(|| Some((replica.by_leg(request.call_id(), request.to_tag()?)?, Side::Callee)))
}

/// Where a request within a dialog of that call belongs. `mine`: this node holds the call now.
pub fn of_call(facts: &Facts<'_>, uid: CallUid, mine: bool) -> Placement {
    if mine {
        return Placement::Mine;
    }
    let entry = facts.replica.call(uid);
    let owner = entry.map_or(uid.node, |e| e.owner());
    let knows = facts.view.knows_all(facts.now);
    let unknown = if knows { Placement::Nowhere } else { Placement::Unsure };
    if owner == facts.local.node {
        // Ours once, and not here: over, or of an earlier start of this node.
        return unknown;
    }
    let restarted = facts.replica.node_incarnation(owner).is_some_and(|i| i > uid.incarnation);
    if restarted && entry.is_none_or(|e| !e.is_live()) && owner == uid.node {
        return unknown;
    }
    if facts.relayed {
        return Placement::Unsure;
    }
    match facts.view.node(owner) {
        Some(node) if node.alive => Placement::Peer(owner),
        Some(_) => Placement::Unsure,
        None => unknown,
    }
}

/// Where a request within a dialog belongs that names no call at all.
pub fn of_nothing(facts: &Facts<'_>) -> Placement {
    if facts.view.knows_all(facts.now) { Placement::Nowhere } else { Placement::Unsure }
}

/// Where an initial INVITE belongs that this node has no transaction and no call for.
pub fn of_claim(facts: &Facts<'_>, key: &[u8; 16], exact: &[u8; 16]) -> ClaimPlacement {
    let Some(entry) = facts.replica.claim(key) else { return ClaimPlacement::New };
    let same = entry.exact() == exact;
    let owner = entry.owner();
    let reachable = owner != facts.local.node && facts.view.node(owner).is_some_and(|n| n.alive);
    match (same, entry.is_live()) {
        (false, _) => ClaimPlacement::Merged,
        (true, _) if reachable && !facts.relayed => ClaimPlacement::Peer(owner),
        (true, true) if !reachable => ClaimPlacement::Orphan,
        (true, _) => ClaimPlacement::Merged,
    }
}

/// The node that a CANCEL belongs to, by the claim of its INVITE.
pub fn of_cancel(facts: &Facts<'_>, key: &[u8; 16]) -> Option<NodeId> {
    let owner = facts.replica.claim(key)?.owner();
    let reachable = owner != facts.local.node && facts.view.node(owner).is_some_and(|n| n.alive);
    (reachable && !facts.relayed).then_some(owner)
}

/// True when every Route of a request names this cluster: the anycast address, any node's own, or one of `names` (AC-34, AC-35).
pub fn routes_are_ours(local: &LocalConfig, view: &View, names: &[Box<str>], request: &Message) -> bool {
    let ours = |value: &str| NameAddr::parse(value).is_ok_and(|route| local.is_our_host(view, names, &route.uri));
    request.values(HeaderId::Route).all(ours)
}
