//! CANCEL: the one request besides a repeated INVITE that carries nothing of ours (rule A).

use std::collections::HashMap;

use super::Sbc;
use super::crowd::{Crowds, refuse_waiting};
use super::held_invites::HeldInvites;
use super::relay::relay;
use super::whose::{keys_of, of_cancel};
use crate::call::{ClaimEvent, Context, Then, TimerUser, server_key};
use crate::ids::{NodeId, PacketKey};
use crate::io::{ClaimStage, Counter, DropReason, MisrouteAction, Output, Path, PeerMessage, ReturnPath};
use crate::policy::SourceStanding;
use crate::sip::{HeaderId, Message, Method};
use crate::time::Instant;
use crate::transaction::{ServerKey, ServerUser};

/// CANCELs held at once; beyond it they are answered 481 at once.
const MAX_HOLDS: usize = 1000;

/// CANCELs that wait for their claim (AC-07).
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: HashMap<u64, Hold>,
}

#[derive(Debug)]
struct Hold {
    key: [u8; 16],
    packet_key: PacketKey,
    path: Path,
    back: ReturnPath,
    message: Message,
    arrived: Instant,
}

impl Holds {
    fn is_full(&self) -> bool {
        self.held.len() >= MAX_HOLDS
    }

    /// Keeps a CANCEL for a while, and asks the peers whose it is.
    fn keep(&mut self, cx: &mut Context, hold: Hold) {
        cx.count(Counter::Misrouted("CANCEL", MisrouteAction::Hold));
        let id = cx.serial();
        cx.start_timer(cx.config.settings.cancel_hold, TimerUser::Hold(id));
        cx.ask_peers(hold.key);
        self.held.insert(id, hold);
    }

    fn take(&mut self, id: u64) -> Option<Hold> {
        self.held.remove(&id)
    }

    /// Takes those of a claim.
    fn take_of(&mut self, key: &[u8; 16]) -> Vec<Hold> {
        let ids: Vec<u64> = self.held.iter().filter(|(_, h)| h.key == *key).map(|(id, _)| *id).collect();
        ids.into_iter().filter_map(|id| self.held.remove(&id)).collect()
    }
}

/// Takes out an INVITE that waits here, for room at its target or for its claim's owner.
fn take_waiting(crowds: &mut Crowds, held: &mut HeldInvites, packet_key: &PacketKey) -> Option<(ReturnPath, Message)> {
    crowds.leave_line(packet_key).or_else(|| held.leave(packet_key))
}

impl Sbc {
    pub(super) fn on_cancel(&mut self, path: Path, back: ReturnPath, message: &Message, key: &ServerKey) {
        if let Some(tx) = self.cx.tx.find_server(key) {
            self.cx.tx.on_request_retransmission(self.cx.now.mono, tx, back);
            return;
        }
        let invite = self.cx.tx.find_server(&server_key(message, &Method::Invite));
        if let Some(invite) = invite {
            self.cancel_own(invite, back, message, key);
            return;
        }
        let (claim, packet_key) = keys_of(&self.cx, message);
        if let Some((waits, invite)) = take_waiting(&mut self.crowds, &mut self.held_invites, &packet_key) {
            return self.cancel_waiting((waits, &invite), (claim.0, packet_key), back, message, key);
        }
        if let Some(node) = of_cancel(&self.cx, &claim.0, back.ingress.is_some()) {
            relay(&mut self.cx, node, path, back.ingress, message);
            return;
        }
        if message.to_tag().is_some() {
            // CANCEL for a re-INVITE: it has the dialog's tokens.
            return self.on_in_dialog(path, back, message);
        }
        if back.ingress.is_some() || self.holds.is_full() {
            self.refuse(back, message, 481);
            return;
        }
        let arrived = self.cx.arrived;
        self.holds.keep(&mut self.cx, Hold { key: claim.0, packet_key, path, back, message: message.clone(), arrived });
    }

    /// RFC 3261 §9.2: 200 to the CANCEL whatever becomes of the INVITE, with the INVITE's own To-tag.
    fn cancel_own(&mut self, invite: crate::transaction::ServerTxId, back: ReturnPath, message: &Message, key: &ServerKey) {
        let id = match self.cx.tx.server_user(invite) {
            ServerUser::Call(id) => Some(id),
            ServerUser::Nobody | ServerUser::Message(_) | ServerUser::Subscription(_) => None,
        };
        let fits = |id| {
            let source = back.path.remote.ip();
            let sides = [crate::io::Side::Caller, crate::io::Side::Callee];
            // Of a re-INVITE the transaction alone does not tell the side.
            // What can come from anybody is judged by its key, which found the INVITE: top Via and branch.
            sides
                .into_iter()
                .any(|side| self.calls.source_standing(&self.cx, id, side, source, message) != SourceStanding::Foreign)
        };
        if id.is_some_and(|id| !fits(id)) {
            // As for every request that acts on a call (AC-52): no answer, and the call goes on.
            self.cx.count(Counter::Dropped(DropReason::Source));
            return;
        }
        let tag = id.and_then(|s| self.calls.get(s)).map(|c| c.sides.tag().to_owned());
        let tag = tag.unwrap_or_else(|| self.cx.stateless_tag(message));
        if let Some(tx) = self.cx.create_server(ServerUser::Nobody, key.clone(), false, back) {
            let mut draft = message.response(200, None);
            if message.to_tag().is_none() {
                draft.set(HeaderId::To, format!("{};tag={tag}", message.to()));
            }
            self.cx.respond(tx, &mut draft);
            if let Some(id) = id {
                self.cx.note_received(id, back, message);
                self.cx.note_sent(id, back, &draft);
                self.calls.file(&mut self.cx);
            }
        }
        if let Some(id) = id {
            self.with_call(id, |call, cx| call.on_cancel(cx, invite, message));
        }
    }

    /// RFC 3261 §9.2: 200 to the CANCEL of one that waits, and 487 to the INVITE. Another node may have a copy of it.
    fn cancel_waiting(
        &mut self,
        (waits, invite): (ReturnPath, &Message),
        (claim, packet_key): ([u8; 16], PacketKey),
        back: ReturnPath,
        cancel: &Message,
        key: &ServerKey,
    ) {
        if let Some(tx) = self.cx.create_server(ServerUser::Nobody, key.clone(), false, back) {
            let mut draft = cancel.response(200, None);
            let tag = self.cx.stateless_tag(cancel);
            draft.set(HeaderId::To, format!("{};tag={tag}", cancel.to()));
            self.cx.respond(tx, &mut draft);
        }
        refuse_waiting(&mut self.cx, waits, invite, 487);
        self.note_cancelled(claim, packet_key);
    }

    /// Nobody dials that INVITE any more, should it come here or to another node.
    fn note_cancelled(&mut self, key: [u8; 16], packet_key: PacketKey) {
        self.tombstones.note(self.cx.now.mono, packet_key);
        self.on_caller_served(&key, Some(&packet_key));
        self.cx.tell_peers(&PeerMessage::Cancelled { key, packet_key });
    }

    /// The wait is over: nobody knows the INVITE. Should it still come, it is answered 487.
    pub(super) fn on_hold_over(&mut self, id: u64) {
        let Some(hold) = self.holds.take(id) else { return };
        self.cx.arrived = hold.arrived;
        if self.cx.tx.find_server(&server_key(&hold.message, &Method::Invite)).is_some() {
            let key = server_key(&hold.message, &Method::Cancel);
            return self.on_cancel(hold.path, hold.back, &hold.message, &key);
        }
        self.note_cancelled(hold.key, hold.packet_key);
        self.refuse(hold.back, &hold.message, 481);
    }

    /// A peer could not find the INVITE of a CANCEL, whose caller was told so: it is dialled nowhere. It may have come here since that peer asked.
    pub(super) fn on_cancelled_elsewhere(&mut self, key: &[u8; 16], packet_key: PacketKey) {
        self.tombstones.note(self.cx.now.mono, packet_key);
        if let Some((waits, invite)) = take_waiting(&mut self.crowds, &mut self.held_invites, &packet_key) {
            refuse_waiting(&mut self.cx, waits, &invite, 487);
        }
        self.on_caller_served(key, Some(&packet_key));
        let Some(id) = self.calls.of_claim(key) else { return };
        if self.calls.get(id).is_some_and(|call| call.about.packet_key == packet_key) {
            self.with_call(id, |call, cx| call.on_cancelled_elsewhere(cx));
        }
    }

    /// A claim was applied, or a peer answered: CANCELs that waited for it go on.
    pub(super) fn release_holds(&mut self, key: &[u8; 16], owner: NodeId) {
        for hold in self.holds.take_of(key) {
            let in_hand = std::mem::replace(&mut self.cx.arrived, hold.arrived);
            if owner == self.cx.local.node {
                let key = server_key(&hold.message, &Method::Cancel);
                self.on_cancel(hold.path, hold.back, &hold.message, &key);
            } else {
                relay(&mut self.cx, owner, hold.path, hold.back.ingress, &hold.message);
            }
            self.cx.arrived = in_hand;
        }
    }

    /// A peer says that it has the call of this claim, and how far it is. `another_way`: by another way of the caller's INVITE; a peer with a
    /// link is told of this one, and sees for itself.
    pub(super) fn on_claim_found(&mut self, peer: NodeId, key: [u8; 16], stage: ClaimStage, another_way: bool) {
        let linked = self.cx.reachable_peer(peer);
        if linked {
            self.release_holds(&key, peer);
        }
        let Some(id) = self.calls.of_claim(&key) else { return };
        let Some(call) = self.calls.get(id) else { return };
        let (back, invite, uid, arrived) = (call.uas.back, call.about.invite.clone(), call.about.uid, call.about.arrived);
        let rival = ClaimEvent::of_rival(&self.cx, peer, stage, another_way);
        match self.with_call(id, |call, cx| call.tell_claim(cx, rival)) {
            // It has a copy of its own, and the INVITE cannot go there.
            Then::Yield if !linked => self.cx.count(Counter::Misrouted("INVITE", MisrouteAction::Stale)),
            Then::Yield => {
                self.cx.arrived = arrived;
                relay(&mut self.cx, peer, back.path, back.ingress, &invite);
            }
            // It may have asked before this node had the call, or its answer crossed this one's: it must know to yield.
            Then::Stay if linked && stage == ClaimStage::Preparing => {
                let own = self.calls.get(id).map(|call| (uid, call.stage()));
                self.cx.output(Output::Peer { to: peer, message: PeerMessage::ClaimIs { key, call: own } });
            }
            _ => {}
        }
    }
}
