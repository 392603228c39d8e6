//! The first INVITE of a call: admitted, placed by its claim, begun.

use super::Sbc;
use super::crowd::crowd_of;
use super::held_invites::Waited;
use super::relay::relay;
use super::whose::{keys_of, of_claim};
use crate::call::server_key;
use crate::call::{AfterClaim, Call, ClaimEvent, INVITE_LIFE, NewCall};
use crate::ids::{LocalId, PacketKey};
use crate::io::{ClaimOutcome, ClaimStage, Counter, DropReason, MisrouteAction, Path, PeerMessage, ReturnPath};
use crate::placement::ClaimPlacement;
use crate::routing;
use crate::sip::{Message, Method};
use crate::transaction::ServerUser;

impl Sbc {
    /// An INVITE without To-tag that matches no transaction. `waited`: what it has behind it, where it is not placed for the first time.
    pub(super) fn place_invite(&mut self, path: Path, back: ReturnPath, message: &Message, waited: Waited) {
        let (key, packet_key) = keys_of(&self.cx, message);
        if self.tombstones.contains(self.cx.now.mono, &packet_key) {
            self.refuse(back, message, 487);
            return;
        }
        let known = self.calls.of_claim(&key.0).and_then(|id| self.calls.get(id)).filter(|c| !c.claim.is_lost());
        if let Some(id) = known.filter(|c| c.claim.is_ceded() && c.about.packet_key == packet_key).map(|c| c.about.id) {
            self.on_ceded_copy(id, back, message);
            return;
        }
        let place = match known {
            // The caller tries again where it failed (RFC 3263 §4.3). Its own copies match its transaction, or come too late.
            Some(call) if call.has_failed() && call.about.packet_key != packet_key => ClaimPlacement::Orphan,
            // RFC 3261 §8.2.2.2: the same request by another way.
            Some(_) => ClaimPlacement::Merged,
            None if self.calls.was_here(&key.0, &packet_key) == Some(true) => ClaimPlacement::Orphan,
            None if self.calls.was_here(&key.0, &packet_key) == Some(false) => ClaimPlacement::Merged,
            None => of_claim(&self.cx, &key.0, &packet_key, back.ingress.is_some()),
        };
        let keys = |orphan| NewKeys { key, packet_key, orphan, admitted: waited.admitted };
        match place {
            ClaimPlacement::Peer(node) => relay(&mut self.cx, node, path, back.ingress, message),
            // The very packet, and its transaction is over: whoever sent it has heard, and a second answer is one too many.
            ClaimPlacement::Merged if self.calls.is_copy(&self.cx, &key.0, &packet_key) => {
                self.cx.count(Counter::Misrouted("INVITE", MisrouteAction::Stale));
            }
            // A rival that has yielded to a call which has ceded itself: neither way is refused before the log has decided.
            ClaimPlacement::Merged if back.ingress.is_some() && known.is_some_and(|call| call.claim.is_ceded()) => {
                self.cx.count(Counter::Dropped(DropReason::QuietCopy));
            }
            ClaimPlacement::Merged => {
                self.cx.count(Counter::Claim(ClaimOutcome::Merged));
                let yielded =
                    known.filter(|call| back.ingress.is_some() && call.stage() < ClaimStage::Won).map(|call| call.about.id);
                self.refuse(back, message, 482);
                if let Some(id) = yielded {
                    // Its call must not come back, should the log give it the key: its caller has its answer, and this call's has none.
                    self.with_call(id, |call, cx| call.tell_claim(cx, ClaimEvent::RivalRefused));
                    self.cx.tell_peers(&PeerMessage::Cancelled { key: key.0, packet_key });
                }
            }
            // A peer that says "yours" about something this node has not: its copy is not the first one.
            ClaimPlacement::New | ClaimPlacement::Unsure if back.ingress.is_some() => {
                self.cx.count(Counter::Misrouted("INVITE", MisrouteAction::Stale));
            }
            ClaimPlacement::Unsure => {
                if !self.held_invites.hold(&mut self.cx, packet_key, path, back, message, waited) {
                    self.begin_call(path, back, message, keys(true));
                }
            }
            ClaimPlacement::New => self.begin_call(path, back, message, keys(false)),
            ClaimPlacement::Orphan => self.begin_call(path, back, message, keys(true)),
        }
    }

    /// A copy of an INVITE whose called side another node has: from that node it says "yours", from the caller it says nothing.
    fn on_ceded_copy(&mut self, id: LocalId, back: ReturnPath, message: &Message) {
        if back.ingress.is_none() {
            self.cx.count(Counter::Dropped(DropReason::QuietCopy));
            return;
        }
        let key = server_key(message, message.method());
        if self.calls.get(id).is_none_or(|call| call.phase.is_over() || call.about.is_old(&self.cx)) {
            self.cx.count(Counter::Misrouted("INVITE", MisrouteAction::Stale));
            return;
        }
        let Some(tx) = self.cx.create_server(ServerUser::Call(id), key, true, back) else { return };
        self.cx.respond(tx, &mut message.response(100, None));
        self.with_call(id, |call, cx| call.on_handed_over(cx, tx, back));
    }

    fn begin_call(&mut self, path: Path, back: ReturnPath, message: &Message, keys: NewKeys) {
        if self.cx.now.mono.since(self.cx.arrived) >= INVITE_LIFE {
            // Its sender has given up (AC-55): what it would be told, it would not hear.
            self.cx.count(Counter::Dropped(DropReason::OldInvite));
            return;
        }
        let Some(admitted) = self.admit(&path, back, message, keys.admitted) else { return };
        let toward = admitted.service.as_deref().and_then(|s| crowd_of(&self.cx.config, &admitted.trunk, Some(s), message));
        if let Some(trunk) = &toward
            && !self.crowds.makes_room(&mut self.cx, trunk, keys.packet_key, path, back, message)
        {
            return;
        }
        let id = self.cx.local_id();
        let key = server_key(message, message.method());
        let Some(tx) = self.cx.create_server(ServerUser::Call(id), key, true, back) else {
            self.cx.reject_stateless(back, message, 503);
            return;
        };
        self.cx.count(Counter::CallReceived(routing::class_label(admitted.service.as_deref())));
        // RFC 3261 §17.2.1: at once, for the claim and the DNS take their time.
        self.cx.respond(tx, &mut message.response(100, None));
        let call = Call::begin(
            &mut self.cx,
            NewCall {
                id,
                invite: message.clone(),
                tx: Some(tx),
                back,
                trunk: admitted.trunk,
                service: admitted.service,
                claim_key: keys.key,
                packet_key: keys.packet_key,
                orphan: keys.orphan,
                replaced: admitted.replaced,
            },
        );
        if let Some(trunk) = toward {
            self.crowds.enter(id, trunk, path.remote.ip());
        }
        self.calls.insert(&self.cx, call);
        self.with_call(id, |_, _| ());
        // A CANCEL that overtook it.
        self.release_holds(&keys.key.0, self.cx.local.node);
    }

    /// There may be room for emergency calls that wait.
    pub(super) fn on_crowd_tick(&mut self) {
        for (packet_key, waiting) in self.crowds.on_tick(&mut self.cx) {
            self.cx.arrived = waiting.arrived;
            self.crowds.let_through(Some(packet_key));
            let waited = Waited { until: Some(self.cx.now.mono), admitted: true };
            self.place_invite(waiting.path, waiting.back, &waiting.message, waited);
            self.crowds.let_through(None);
        }
        self.cx.arrived = self.cx.now.mono;
    }

    /// The owner of a held INVITE may have become reachable, or be known to be gone.
    pub(super) fn on_held_invite(&mut self, id: u64) {
        let Some(held) = self.held_invites.take(id) else { return };
        self.cx.arrived = held.arrived;
        if self.cx.tx.find_server(&server_key(&held.message, &Method::Invite)).is_none() {
            let waited = Waited { until: Some(held.until), admitted: held.admitted };
            self.place_invite(held.path, held.back, &held.message, waited);
        }
    }

    /// A call of this node turned out to be another node's, or another call: goes there, and is forgotten here.
    pub(super) fn after_claim(&mut self, id: LocalId, after: AfterClaim) {
        if !matches!(after, AfterClaim::RelayTo(_) | AfterClaim::Hold) {
            return;
        }
        let Some(call) = self.calls.get(id) else { return };
        let (back, packet_key, invite) = (call.uas.back, call.about.packet_key, call.about.invite.clone());
        self.cx.arrived = call.about.arrived;
        match after {
            AfterClaim::RelayTo(node) => relay(&mut self.cx, node, back.path, back.ingress, &invite),
            _ if back.ingress.is_some() => self.cx.count(Counter::Misrouted("INVITE", MisrouteAction::Stale)),
            _ => {
                _ = self.held_invites.hold(
                    &mut self.cx,
                    packet_key,
                    back.path,
                    back,
                    &invite,
                    Waited { until: None, admitted: true },
                )
            }
        }
    }
}

struct NewKeys {
    key: crate::token::ClaimKey,
    packet_key: PacketKey,
    orphan: bool,
    admitted: bool,
}
