//! Whose packet is this? Own calls, then the token, then the replicated index, then rule G (anycast.md).

use crate::ids::{CallUid, NodeId, PacketKey};
use crate::io::{Side, View};
use crate::local::LocalConfig;
use crate::replica::{CallEntry, Replica};
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
    /// The same request by another way while the first is served (RFC 3261 §8.2.2.2), or one that the user has answered: 482.
    Merged,
    /// Nobody serves it any more: its owner is gone, or could not reach the user. It is dialled again.
    Orphan,
    /// Its owner does not answer, and is not known to be gone: a moment will tell.
    Unsure,
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
        // Ours once, and not here: over, or of an earlier start of this node, which has still to tell its far ends.
        let untold = entry.is_some_and(|e| facts.replica.is_owner_lost(e));
        return if untold { Placement::Unsure } else { unknown };
    }
    let restarted =
        facts.replica.node_incarnation(owner).is_some_and(|now| now > entry.map_or(uid.incarnation, |e| e.incarnation()));
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
pub fn of_claim(facts: &Facts<'_>, key: &[u8; 16], packet_key: &PacketKey) -> ClaimPlacement {
    facts.replica.claim(key).map_or(ClaimPlacement::New, |entry| of_winner(facts, entry, *entry.packet_key() == packet_key.0))
}

/// Where an INVITE belongs whose claim that call has. `same`: it is a copy of the very packet.
///
/// 482 is for a request that is being served, or that the user has answered. Where the owner is gone, or has given up without having
/// reached the user, a caller that tries another node must not be told that it asks twice (RFC 3263 §4.3, AC-28, AC-47).
pub fn of_winner(facts: &Facts<'_>, entry: &CallEntry, same: bool) -> ClaimPlacement {
    let (owner, dialled_again) = (entry.owner(), entry.is_live() || entry.has_failed());
    match standing(facts, entry) {
        OwnerStanding::Gone if dialled_again => ClaimPlacement::Orphan,
        OwnerStanding::Gone => ClaimPlacement::Merged,
        // A copy hears what its first one heard: a late one must not ring anybody.
        _ if entry.has_failed() && !same => ClaimPlacement::Orphan,
        OwnerStanding::Reachable if same => ClaimPlacement::Peer(owner),
        OwnerStanding::Silent if same || entry.is_live() => ClaimPlacement::Unsure,
        OwnerStanding::Here | OwnerStanding::Reachable | OwnerStanding::Silent => ClaimPlacement::Merged,
    }
}

/// What is known of a call's owner.
enum OwnerStanding {
    /// This node, in its present life.
    Here,
    Reachable,
    /// It does not answer at the moment.
    Silent,
    /// Dead, removed, or started again since: the call is not there.
    Gone,
}

fn standing(facts: &Facts<'_>, entry: &CallEntry) -> OwnerStanding {
    let owner = entry.owner();
    if owner == facts.local.node {
        return if entry.incarnation() == facts.local.incarnation { OwnerStanding::Here } else { OwnerStanding::Gone };
    }
    let restarted = facts.replica.node_incarnation(owner).is_some_and(|now| now > entry.incarnation());
    if restarted || facts.view.is_gone(owner) {
        return OwnerStanding::Gone;
    }
    if facts.view.node(owner).is_some_and(|n| n.alive) { OwnerStanding::Reachable } else { OwnerStanding::Silent }
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
