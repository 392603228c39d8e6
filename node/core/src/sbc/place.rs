//! Requests within a dialog: to the call, to its owner, or an answer that is safe to give.

use super::Sbc;
use super::relay::relay;
use super::whose::by_facts;
use crate::call::server_key;
use crate::ids::{CallUid, LocalId};
use crate::io::{Counter, DropReason, MisrouteAction, Path, ReturnPath, Side};
use crate::placement::{self, Placement};
use crate::policy::SourceStanding;
use crate::sip::{Message, Method};
use crate::transaction::ServerUser;

impl Sbc {
    /// A request with a To-tag, or an ACK that no transaction took.
    pub(super) fn on_in_dialog(&mut self, path: Path, back: ReturnPath, message: &Message) {
        if message.method() == &Method::Ack && message.to_tag().is_some_and(|tag| self.cx.key.open(tag).is_some()) {
            // It tells what has become of its INVITE, wherever that was answered (AC-55).
            let key = self.cx.key.claim_key(message.call_id(), message.from_tag().unwrap_or_default(), message.cseq());
            self.on_caller_served(&key.0, None);
        }
        let (named, place) = by_facts(&self.cx, back.ingress.is_some(), |facts, replica| {
            let named = placement::named_call(&self.cx.key, replica, message);
            let of_events = |uid| self.calls.place(&self.cx, uid).is_some_and(|id| self.subscriptions.has(id));
            let place = match named {
                // Over, whatever the log knows of it; but for what it left behind (RFC 5057).
                Some((uid, _)) if self.calls.unrecorded_place(&self.cx, uid).is_some() && !of_events(uid) => Placement::Nowhere,
                Some((uid, _)) => placement::of_call(facts, uid, self.calls.own(&self.cx, uid).is_some() || of_events(uid)),
                None => placement::of_nothing(facts),
            };
            (named, place)
        });
        let label = message.method().label();
        match (place, named) {
            (Placement::Mine, Some((uid, side))) => self.on_own(uid, side, back, message),
            (Placement::Peer(node), Some((uid, side))) => {
                if back.ingress.is_none() && self.gate.limits.over_relay_rate(&self.cx, uid, side, path.remote.ip()) {
                    self.cx.count(Counter::Misrouted(label, MisrouteAction::Stranger));
                    return;
                }
                let config = self.cx.config.clone();
                let trunk = self.gate.trunk_at(&config, &path, back.ingress);
                if !self.redirects.redirect(&mut self.cx, trunk, node, (uid, side), back, message) {
                    relay(&mut self.cx, node, path, back.ingress, message);
                }
            }
            _ if message.method() == &Method::Ack => self.cx.count(Counter::Misrouted(label, MisrouteAction::Drop)),
            (Placement::Nowhere, Some((uid, _)))
                if message.method() == &Method::Bye
                    && self.calls.place(&self.cx, uid).is_some_and(|id| self.cx.after_bye.is_ending(id)) =>
            {
                // RFC 5407 §3.2.1: it crosses ours, for which the dialog is there until that is answered.
                if let Some(id) = self.calls.place(&self.cx, uid) {
                    self.cx.note_received(id, back, message);
                    self.cx.note_sent(id, back, &message.response(200, None));
                }
                self.cx.answer_crossed_bye(back, message);
            }
            (Placement::Unsure, Some((uid, _))) if self.takeovers.hold(&mut self.cx, uid, back, message) => {
                self.cx.count(Counter::Misrouted(label, MisrouteAction::Hold));
            }
            (Placement::Nowhere | Placement::Unsure, Some((uid, side)))
                if self.farewells.on_bye(&mut self.cx, uid, side, back, message) => {}
            (Placement::Nowhere, _) => {
                self.cx.count(Counter::Misrouted(label, MisrouteAction::NoDialog));
                self.refuse(back, message, 481);
            }
            (Placement::Unsure | Placement::Mine | Placement::Peer(_), _) => {
                // Relayed here by a map that is not ours: it goes no further (AC-46).
                let why = if back.ingress.is_some() { MisrouteAction::Hop } else { MisrouteAction::Unsure };
                self.cx.count(Counter::Misrouted(label, why));
                // What names a call of the cluster is answered; anybody can make up what names none.
                if named.is_some() || self.gate.limits.may_answer(&mut self.cx, &back) {
                    self.cx.reject_stateless(back, message, 503);
                }
            }
        }
    }

    fn on_own(&mut self, uid: CallUid, side: Side, back: ReturnPath, message: &Message) {
        let Some(id) = self.calls.place(&self.cx, uid) else { return };
        let of_events = matches!(message.method(), Method::Subscribe | Method::Notify);
        if self.subscriptions.has(id) && (of_events || self.calls.get(id).is_none()) {
            if self.subscriptions.on_request(&mut self.cx, id, side, back, message) {
                self.messages.heard_of(id);
            }
            return;
        }
        let known = self.calls.get(id).is_some_and(|c| c.sides.fits(side, message));
        let standing = self.calls.source_standing(&self.cx, id, side, back.path.remote.ip(), message);
        match standing {
            _ if !known => {}
            SourceStanding::Known => {}
            SourceStanding::Doubtful if self.doubted.open(id, side) => {
                return self.with_call(id, |call, cx| call.doubt(cx, side, back, message));
            }
            // One that has moved repeats it.
            SourceStanding::Doubtful => return self.cx.count(Counter::Dropped(DropReason::Source)),
            SourceStanding::Foreign => {
                // No answer: to the far end a lost packet, to a forger no news. The call lives (AC-52).
                self.cx.count(Counter::Dropped(DropReason::Source));
                return;
            }
        }
        self.on_own_known(id, side, back, message, known);
    }

    /// Time to look again: what was held of a far end that has moved goes on.
    pub(super) fn on_doubt_due(&mut self, id: LocalId, side: Side) {
        let held = self.with_call(id, |call, cx| call.on_doubt_due(cx, side));
        if !self.calls.get(id).is_some_and(|call| call.doubts.is_open(side)) {
            self.doubted.close(id, side);
        }
        for (back, message) in held {
            // The first one may have ended the call.
            let known = self.calls.get(id).is_some_and(|call| call.sides.fits(side, &message));
            self.on_own_known(id, side, back, &message, known);
        }
    }

    /// A request of the far end itself. `known`: it fits its leg.
    fn on_own_known(&mut self, id: LocalId, side: Side, back: ReturnPath, message: &Message, known: bool) {
        if message.method() == &Method::Ack {
            self.with_call(id, |call, cx| {
                if call.sides.fits(side, message) {
                    call.on_ack(cx, side, &back, message);
                }
            });
            return;
        }
        // RFC 3261 §9.2: a CANCEL finds its INVITE by transaction, or nothing; it never crosses as a request of its own.
        if !known || message.method() == &Method::Cancel {
            self.refuse(back, message, 481);
            return;
        }
        let key = server_key(message, message.method());
        let invite = message.method() == &Method::Invite;
        let Some(tx) = self.cx.create_server(ServerUser::Call(id), key, invite, back) else {
            self.cx.reject_stateless(back, message, 503);
            return;
        };
        self.with_call(id, |call, cx| call.on_request(cx, side, tx, back, message));
    }
}
