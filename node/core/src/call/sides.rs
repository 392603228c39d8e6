//! Both sides of a call, as its messages come from them and go to them: legs, dialogs, the names that the far ends gave the session, and the
//! ladder of what was said.

use bytes::Bytes;

use super::ALLOW;
use super::context::Context;
use super::ladder::Ladder;
use super::leg::Leg;
use super::lines::{Dialogs, Lines, OfCall, Owner, Peer};
use super::pairs::Pairs;
use super::session_id::SessionIds;
use super::session_timer::MIN_SE;
use super::timer::{CallTimer, TimerUser};
use super::two_hundred::TwoHundred;
use super::ways::{FarEnd, keep_alive_after};
use crate::crossing::Asked;
use crate::dialog::{Dialog, DialogRef, Half};
use crate::ids::LocalId;
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message};
use crate::store_pb::LegRecord;
use crate::transaction::ServerTxId;

/// Both sides of a call.
pub struct Sides {
    /// Toward the caller.
    pub caller: Leg,
    /// Toward the called party.
    pub callee: Leg,
    /// Its messages, for people.
    pub ladder: Ladder,
    /// Its dialogs, by pairs.
    pub(super) pairs: Pairs,
    pub(super) session_ids: SessionIds,
}

impl Sides {
    /// The leg of a side.
    pub fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    pub(super) fn leg_mut(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// The leg of a dialog, and the dialog.
    pub(super) fn leg_and_half(&mut self, at: DialogRef) -> (&mut Leg, &mut Half) {
        let leg = match at.side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        };
        (leg, &mut self.pairs[at])
    }

    /// The dialog toward a side of the pair that is confirmed; before that, of what the INVITE under way has begun.
    pub(super) fn toward(&self, side: Side) -> DialogRef {
        self.pairs.current().toward(side)
    }

    /// Our tag toward the caller, in the dialog that is confirmed; before that, the one that it knows the call by.
    pub fn tag(&self) -> &str {
        &self.pairs[self.toward(Side::Caller)].dialog.local_tag
    }

    /// True when the request's Call-ID and tags are those of a dialog on this leg (RFC 3261 §12.2.2).
    pub fn fits(&self, side: Side, request: &Message) -> bool {
        self.pairs.of_request(side, request).is_some()
    }

    /// The dialog that a request on a leg is of.
    pub fn dialog_for(&self, side: Side, request: &Message) -> &Dialog {
        &self.pairs[self.pairs.at_request(side, request)].dialog
    }

    /// Where the far end of a dialog is.
    pub(super) fn far(&self, at: DialogRef) -> FarEnd<'_> {
        self.leg(at.side).far(&self.pairs[at].dialog)
    }

    /// Nothing more is sent on either leg.
    pub(super) fn leave_both(&mut self) {
        self.caller.gone = true;
        self.callee.gone = true;
    }

    /// Both legs as they are recorded, the caller's first; of several early dialogs, with the one that began last.
    pub fn legs(&self) -> (LegRecord, LegRecord) {
        let pair = self.pairs.latest();
        let of = |side| self.leg(side).record(&self.pairs[pair.toward(side)], Vec::new());
        (of(Side::Caller), of(Side::Callee))
    }

    /// A message of that side's far end came.
    pub(super) fn received(&mut self, cx: &Context, side: Side, back: &ReturnPath, message: &Message) {
        self.ladder.received(cx.now.unix, self.leg(side).realm, back, message);
        self.session_ids.learn(side, message);
    }

    /// A message went to that side's far end.
    pub(super) fn sent(&mut self, cx: &Context, side: Side, back: &ReturnPath, draft: &Draft) {
        self.ladder.sent(cx.now.unix, self.leg(side).realm, back, draft);
    }

    /// Answers a request of that side's far end: the octets, where they could be written.
    pub(super) fn respond(
        &mut self,
        cx: &mut Context,
        side: Side,
        tx: ServerTxId,
        back: &ReturnPath,
        draft: &mut Draft,
    ) -> Option<Bytes> {
        self.sent(cx, side, back, draft);
        cx.respond(tx, draft)
    }

    /// Answers a request within the call with a final response of our own.
    pub(super) fn refuse(&mut self, cx: &mut Context, side: Side, asked: &Asked, status: u16) {
        let mut draft = asked.request.response(status, None);
        match status {
            501 => _ = draft.push(HeaderId::Allow, ALLOW),
            422 => _ = draft.push(HeaderId::MinSe, MIN_SE.to_string()),
            500 => _ = draft.push(HeaderId::RetryAfter, (1 + asked.request.cseq() % 9).to_string()),
            _ => {}
        }
        self.session_ids.put(side, &mut draft);
        self.respond(cx, side, asked.server, &asked.back, &mut draft);
    }

    /// What a request to that side touches.
    pub(super) fn peer(&mut self, side: Side) -> Peer<'_> {
        self.leg_mut(side).peer()
    }

    /// What requests to both sides touch, of the call with this number.
    pub(super) fn lines<'a>(&'a mut self, call: LocalId, two_hundred: &'a mut TwoHundred) -> Lines<'a> {
        let Sides { caller, callee, pairs, ladder, session_ids } = self;
        let of_call = Some(OfCall { ladder, two_hundred, session_ids });
        let (caller, callee, dialogs) = (caller.peer(), callee.peer(), Dialogs::Pairs(pairs));
        Lines { owner: Owner::Call(call), caller, callee, dialogs, of_call }
    }

    /// A far end behind a NAT that forgets UDP soon: two CRLFs (the ping of RFC 5626 §3.5.1) now and then, lest the BYE of the other one be lost
    /// after minutes in which only media flowed. `call`: by its number.
    pub(super) fn keep_alive(&self, cx: &mut Context, call: LocalId, side: Side) {
        let far = self.far(self.toward(side));
        if !self.leg(side).gone && far.is_behind_nat() {
            far.keep_alive(cx);
            await_keep_alive(cx, call, side);
        }
    }

    /// Begins to remind the NATs before the far ends of that pair's dialogs.
    pub(super) fn begin_keep_alive(&self, cx: &mut Context, call: LocalId) {
        for side in [Side::Caller, Side::Callee] {
            if self.far(self.toward(side)).is_behind_nat() {
                await_keep_alive(cx, call, side);
            }
        }
    }
}

fn await_keep_alive(cx: &mut Context, call: LocalId, side: Side) {
    cx.start_timer(keep_alive_after(cx), TimerUser::Call(call, CallTimer::KeepAlive(side)));
}
