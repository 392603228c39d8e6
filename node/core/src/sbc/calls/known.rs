//! What this node knows of the call of a claim when another copy of its INVITE comes, or a peer asks (AC-01, AC-55).

use super::Calls;
use crate::call::Context;
use crate::ids::{CallUid, PacketKey};
use crate::io::ClaimStage;

impl Calls {
    /// What this node tells a peer of the call of a claim: one that it serves, or one that it has served lately. Of one that it has left to
    /// another node, or that reached nobody, it says nothing.
    pub(in crate::sbc) fn what_it_has(&self, cx: &Context, key: &[u8; 16]) -> Option<(CallUid, ClaimStage)> {
        let id = self.of_claim(key);
        let known = id.and_then(|s| self.get(s));
        let known =
            known.filter(|c| !c.claim.is_lost() && !c.claim.is_ceded() && !c.has_failed()).map(|c| (c.about.uid, c.stage()));
        let ended = || id.and_then(|s| self.unrecorded.get(s)).filter(|e| !e.failed && !e.abandoned).map(|e| e.uid);
        let served = || ended().or_else(|| self.served.get(cx.now.mono, key)).or_else(|| recorded(cx, key));
        known.or_else(|| served().map(|uid| (uid, ClaimStage::Answered)))
    }

    /// True for the very packet of a call of this node that reached nobody.
    pub(in crate::sbc) fn has_failed_here(&self, cx: &Context, key: &[u8; 16], packet_key: &PacketKey) -> bool {
        let id = self.of_claim(key);
        let call = || id.and_then(|s| self.get(s)).is_some_and(|c| c.has_failed() && c.about.packet_key == *packet_key);
        let ended = || id.and_then(|s| self.unrecorded.get(s)).is_some_and(|e| e.failed && e.packet_key == *packet_key);
        let recorded = || {
            let replica = cx.replica();
            let entry = replica.claim(key).filter(|e| e.has_failed() && *e.packet_key() == packet_key.0);
            entry.is_some_and(|e| cx.is_own(e.uid))
        };
        call() || ended() || recorded()
    }

    /// True where this node has the call of that claim from another packet: the caller's INVITE by another way (RFC 3261 §8.2.2.2).
    pub(in crate::sbc) fn has_another_way(&self, cx: &Context, key: &[u8; 16], packet_key: &PacketKey) -> bool {
        let recorded = || {
            let replica = cx.replica();
            replica.claim(key).is_some_and(|entry| cx.is_own(entry.uid) && *entry.packet_key() != packet_key.0)
        };
        self.own_packet(key).map_or_else(recorded, |own| own != *packet_key)
    }

    /// Of a call that is up, or over and not recorded.
    fn own_packet(&self, key: &[u8; 16]) -> Option<PacketKey> {
        let id = self.of_claim(key)?;
        self.get(id).map(|call| call.about.packet_key).or_else(|| self.unrecorded.get(id).map(|ended| ended.packet_key))
    }

    /// True for the very packet that this node, or the log, has a call of.
    pub(in crate::sbc) fn is_copy(&self, cx: &Context, key: &[u8; 16], packet_key: &PacketKey) -> bool {
        self.own_packet(key).is_some_and(|own| own == *packet_key) || {
            let replica = cx.replica();
            replica.claim(key).is_some_and(|entry| *entry.packet_key() == packet_key.0)
        }
    }

    /// Whether the call of that claim is over here while the log does not know it: true for one that may be begun again.
    pub(in crate::sbc) fn was_here(&self, key: &[u8; 16], packet_key: &PacketKey) -> Option<bool> {
        let ended = self.unrecorded.get(self.of_claim(key)?)?;
        Some(ended.failed && ended.packet_key != *packet_key)
    }
}

/// The call of this node that has ended, by the log.
fn recorded(cx: &Context, key: &[u8; 16]) -> Option<CallUid> {
    let replica = cx.replica();
    let entry = replica.claim(key).filter(|e| !e.is_live() && !e.has_failed() && !e.was_left())?;
    cx.is_own(entry.uid).then_some(entry.uid)
}
