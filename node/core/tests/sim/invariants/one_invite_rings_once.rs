//! Rules B and C: whatever the network does to an INVITE, the PSAP rings once. Every leg that it is asked for has one of the identities
//! that a call may have: the first of its claim; the next one of its claim for each time that the PSAP said 482; and one of the very
//! packet for each way by which the caller asked again, when nobody served it any more.

use std::collections::BTreeSet;

use sbc_core::call::target_number;
use sbc_core::io::{Target, Transport};
use sbc_core::sip::{Message, Method};
use sbc_core::token::{ClaimKey, ClusterKey};

use crate::phone::Leg;
use crate::world::World;

/// How long the news that a leg is over may take: 64 × T1 over a network that loses packets.
const NEWS: u64 = 33_000_000;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (n, caller) in world.phones[0].legs.iter().enumerate() {
        let call = caller.call;
        let legs: Vec<&Leg> = world.phones[1].legs.iter().filter(|l| l.call == call).collect();
        let ids: BTreeSet<&str> = legs.iter().map(|l| &*l.call_id).collect();
        if ids.len() != legs.len() {
            wrong.push(format!("call {call} was dialled twice with one identity: {ids:?}"));
        }
        let allowed = identities(world, n);
        if let Some(other) = ids.iter().find(|id| !allowed.contains(**id)) {
            wrong.push(format!("call {call} was dialled as {other}, of {} that it may be", allowed.len()));
        }
        let answered = legs.iter().filter(|l| l.answered && !l.cancelled).count();
        if answered > 1 && !may_ring_twice(world, call) {
            wrong.push(format!("call {call} was answered {answered} times"));
        }
        no_failure_while_it_rings(world, caller, &legs, wrong);
    }
}

/// A dead owner's leg rings on, and so does that of a node which nobody can reach.
fn may_ring_twice(world: &World, call: usize) -> bool {
    world.was_cut || world.victims.contains(&call)
}

/// Call-IDs that a call's legs may have.
fn identities(world: &World, leg: usize) -> BTreeSet<String> {
    let key = ClusterKey::new(&[7; 32], None);
    let caller = &world.phones[0].legs[leg];
    let claim = key.claim_key(&caller.call_id, &caller.local_tag, 1);
    let target = Target { addr: world.phones[1].addr, transport: Transport::Udp };
    let merged = world.phones[1].merged.iter().filter(|(c, _)| *c == caller.call).count();
    let id = |of: ClaimKey, epoch, tries| key.callee_identity(of, epoch, target_number(&target, tries)).call_id;
    let mut ids: BTreeSet<String> = (0..=merged).map(|tries| id(claim, 1, tries)).collect();
    let invites = || world.phones[0].clients.iter().filter(|c| c.leg == leg && c.method == Method::Invite && c.cseq == 1);
    let failed = invites().any(|c| c.finals.iter().any(|(s, _)| matches!(s, 408 | 480 | 500..=599)));
    if failed || world.victims.contains(&caller.call) || world.was_down {
        for tx in invites() {
            let message = Message::parse(tx.bytes.clone()).expect("a phone's");
            let via = message.top_via();
            let packet_key = key.packet_key(claim, &via.sent_by(), via.branch().unwrap_or_default());
            ids.extend((0..=merged).map(|tries| id(ClaimKey(packet_key.0), 2, tries)));
        }
    }
    ids
}

/// The caller must not be told that it failed, by anything but its own CANCEL, while the PSAP still rings for it, or is answered.
fn no_failure_while_it_rings(world: &World, caller: &Leg, legs: &[&Leg], wrong: &mut Vec<String>) {
    let Some(status) = caller.final_status.filter(|s| *s >= 300 && *s != 487) else { return };
    let Some(failed) = caller.ended_at.filter(|_| !caller.cancelled && !world.victims.contains(&caller.call)) else { return };
    let slack = if world.net.loss > 0 || world.net.late.0 > 0 || world.was_cut { NEWS } else { 1_000_000 };
    let late = |at: Option<u64>| at.is_some_and(|at| at > failed + slack);
    for leg in legs {
        let rings = leg.rang_at.is_some_and(|at| at < failed) && late(leg.ended_at) && !leg.answered;
        if rings || late(leg.answered_at) {
            wrong.push(format!("the caller of call {} was told {status} while the PSAP rang", caller.call));
        }
    }
}
