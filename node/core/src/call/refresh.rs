//! Refreshes of sessions (RFC 4028 §10): what we send when one is due, and those of far ends that are answered here.

use super::forward::Exchange;
use super::services::Services;
use super::session_timer::Refreshed;
use super::{Call, CallPhase, Cause, body, headers};
use crate::crossing::{Crossing, Origin};
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::sip::{HeaderId, Message, Method, Sdp};
use crate::transaction::ServerTxId;

impl Call {
    /// Time to refresh, or to ask a far end that should have done so whether it is still there.
    pub(super) fn on_session_due(&mut self, cx: &mut Services, side: Side) {
        if self.phase != CallPhase::Answered || self.leg(side).gone {
            return;
        }
        let busy = self.two_hundred.is_pending(side)
            || self.open_offer(self.toward(side)).is_some()
            || self.crossings.iter().any(|c| c.is(&Method::Invite) || c.is(&Method::Update));
        if !self.leg_mut(side).session.on_due(cx, busy) {
            return;
        }
        let to = self.toward(side);
        let method = match self.leg(side).session.takes_update() {
            true => Method::Update,
            false if !self.pairs[to].local_sdp.is_empty() => Method::Invite,
            // Nothing was ever described to it: an INVITE would ask for an offer that nobody answers.
            false => Method::Options,
        };
        let facts = Exchange::of_refresh(method == Method::Invite);
        let crossing = Crossing::new(cx.serial(), to, Origin::Refresh(method), facts);
        self.cross(cx, crossing, true);
    }

    /// The final response to a refresh of ours: the far end lives, unless it says that there is no such call.
    pub(super) fn on_refreshed(&mut self, cx: &mut Services, to: DialogRef, cseq: u32, response: &Message) {
        if response.status().is_some_and(|status| (200..300).contains(&status)) && response.method() == &Method::Invite {
            let ack = self.session_ids.ack(&self.pairs[to].dialog, to.side, cseq);
            self.send_on(cx, to, ack, super::outgoing::Purpose::Ack(cseq));
            self.take_refreshed_answer(cx, to, response);
        }
        let leg = self.leg_mut(to.side);
        if leg.session.on_refreshed(cx, &leg.trunk, response) == Refreshed::Lost {
            self.session_lost(cx, response.status().unwrap_or(500));
        }
    }

    fn take_refreshed_answer(&mut self, cx: &mut Services, to: DialogRef, response: &Message) {
        let Some(span) = body::find_sdp(response) else { return };
        let bytes = body::sdp_bytes(&span);
        if bytes != self.pairs[to].remote_sdp
            && let Ok(sdp) = Sdp::parse(&bytes)
        {
            // The far end moved its media with its answer.
            self.offer_answer().described(cx, to, &sdp, None);
        }
    }

    /// A refresh of ours got no response, or could not be sent.
    pub(super) fn on_refresh_failed(&mut self, cx: &mut Services, side: Side, status: u16) {
        if self.leg_mut(side).session.on_failed(cx, status) == Refreshed::Lost {
            self.session_lost(cx, status);
        }
    }

    fn session_lost(&mut self, cx: &mut Services, status: u16) {
        let reason = format!("session timer: {}", if status == 481 { "no such call" } else { "no answer" });
        let cause = Cause { origin: "node", status: 200, reason };
        // RFC 4028 §10 names no cause; 408 and 481 are what the far end's silence or answer means (RFC 3326).
        self.hang_up(cx, None, cause, Some(format!("SIP;cause={status};text=\"Session timer expired\"")));
    }

    /// A refresh that changes nothing is answered here: the other far end is none the wiser, and need not have UPDATE.
    pub(super) fn answer_refresh(
        &mut self,
        cx: &mut Services,
        at: DialogRef,
        tx: ServerTxId,
        back: &ReturnPath,
        request: &Message,
    ) {
        let side = at.side;
        self.pairs[at].dialog.on_target_refresh(request);
        let mut draft = request.response(200, None);
        draft.push(HeaderId::Contact, self.leg(side).contact(cx, &self.pairs[at]));
        draft.push(HeaderId::Allow, super::ALLOW);
        self.session_ids.put(side, &mut draft);
        let leg = self.leg_mut(side);
        leg.session.accept(cx, &leg.trunk, request, &mut draft);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
        self.record_refresh(cx, at.pair);
    }

    /// True for an UPDATE that refreshes the session of an answered call, and that the other far end cannot take, or need not have: it
    /// tells it nothing. A place, a cell or a new identity do cross.
    pub(super) fn is_refresh(&self, side: Side, request: &Message) -> bool {
        let other = self.leg(side.other());
        self.phase == CallPhase::Answered
            && request.method() == &Method::Update
            && request.body().is_empty()
            && request.first(HeaderId::SessionExpires).is_some()
            && (!other.session.takes_update() || !headers::tells(request, &other.contact_params))
    }
}
