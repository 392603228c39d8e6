//! What is judged by the source of a request: the access list, blocks of the log, scanners, and for how many callers it stands.

use std::net::IpAddr;

use super::{Entrance, Gate, Refusal, Why};
use crate::call::Context;
use crate::io::Realm;
use crate::policy::{AclAction, Blocked, ClusterConfig, Prefix, Trunk, TrunkTarget, acl_of};
use crate::sip::HeaderId;

/// How many callers a neighbour stands for, where callers take turns.
const NEIGHBOUR_WEIGHT: u32 = 64;

/// Why a packet is dropped before it is parsed, at the node whose socket read it. This takes emergency calls too.
pub(in crate::sbc) fn drops(cx: &Context, gate: &Gate, realm: Realm, source: IpAddr) -> Option<Why> {
    if acl(cx, realm, source) == Some(AclAction::Deny) {
        return Some(Why::Denied);
    }
    (gate.bans.of(cx, source) == Some(Blocked::Everything)).then_some(Why::BlockedWhole)
}

fn acl(cx: &Context, realm: Realm, source: IpAddr) -> Option<AclAction> {
    acl_of(&cx.config.acl, realm, source).map(|(_, action)| action)
}

pub(super) fn rejected(at: &Entrance<'_>) -> Option<Refusal> {
    let (realm, source) = at.own_source()?;
    (acl(at.sights.cx, realm, source) == Some(AclAction::Reject)).then(|| Why::Rejected.into())
}

/// Emergency calls get through (AC-44).
pub(super) fn blocked(at: &Entrance<'_>) -> Option<Refusal> {
    let (_, source) = at.own_source()?;
    let blocked = at.sights.gate.bans.of(at.sights.cx, source).is_some() && !at.is_emergency();
    blocked.then(|| Why::Blocked.into())
}

/// A scanner gets no answer, hence learns nothing.
pub(super) fn scanner(at: &Entrance<'_>) -> Option<Refusal> {
    let scanners = &at.sights.cx.config.settings.scanners;
    let says = |agent: &str| {
        let agent = agent.to_ascii_lowercase();
        scanners.iter().any(|s| agent.contains(&**s))
    };
    let scans = !scanners.is_empty() && at.request.first(HeaderId::UserAgent).is_some_and(says) && !at.is_emergency();
    scans.then(|| Why::Scanner.into())
}

/// A trunk that takes calls, or that is in the core, has this address: among its sources, or as a target.
pub(super) fn is_of_a_peer(config: &ClusterConfig, source: IpAddr) -> bool {
    let peer = |t: &&Trunk| t.realm == Realm::Core || !t.targets.is_empty();
    let dialled = |t: &TrunkTarget| t.host.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == source);
    let has = |t: &Trunk| t.sources.iter().any(|p| p.contains(source)) || t.targets.iter().any(dialled);
    config.trunks.iter().filter(peer).any(has)
}

/// True for a source that many callers may stand behind: a peer, or a trunk whose `sources` name it, and not a network in which callers are.
pub(super) fn is_neighbour(config: &ClusterConfig, source: IpAddr) -> bool {
    let named = |p: &Prefix| p.contains(source) && p.len >= if p.addr.is_ipv4() { 28 } else { 64 };
    is_of_a_peer(config, source) || config.trunks.iter().any(|t| t.sources.iter().any(named))
}

/// How many callers stand behind a source.
pub(in crate::sbc) fn source_weight(config: &ClusterConfig, source: IpAddr) -> u32 {
    if is_neighbour(config, source.to_canonical()) { NEIGHBOUR_WEIGHT } else { 1 }
}
