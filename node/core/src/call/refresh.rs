//! Refreshes of sessions (RFC 4028 §10): what we send when one is due, and those of far ends that are answered here.

use super::bridge::{Bridge, Exchange, Outcome};
use super::context::Context;
use super::session_timer::Refreshed;
use super::{body, headers};
use crate::crossing::{Asked, Crossing, Origin};
use crate::dialog::DialogRef;
use crate::io::Side;
use crate::sip::{HeaderId, Message, Method, Sdp};

impl Bridge<'_> {
    /// Time to refresh, or to ask a far end that should have done so whether it is there: the request that does it.
    pub(super) fn on_session_due(&mut self, cx: &mut Context, side: Side) -> Option<Crossing<Exchange>> {
        if !self.is_answered() || self.sides.leg(side).gone {
            return None;
        }
        let busy = self.underway.two_hundred.is_pending(side)
            || self.open_offer(self.sides.toward(side)).is_some()
            || self.underway.crossings.iter().any(|c| c.is(&Method::Invite) || c.is(&Method::Update));
        if !self.sides.leg_mut(side).session.on_due(cx, busy) {
            return None;
        }
        let to = self.sides.toward(side);
        let method = match self.sides.leg(side).session.takes_update() {
            true => Method::Update,
            false if !self.sides.pairs[to].local_sdp.is_empty() => Method::Invite,
            // Nothing was ever described to it: an INVITE would ask for an offer that nobody answers.
            false => Method::Options,
        };
        let facts = Exchange::of_refresh(method == Method::Invite);
        Some(Crossing::new(cx.serial(), to, Origin::Refresh(method), facts))
    }

    /// The final response to a refresh of ours: the far end lives, unless it says that there is no such call.
    pub(super) fn on_refreshed(&mut self, cx: &mut Context, to: DialogRef, cseq: u32, response: &Message) -> Option<Outcome> {
        if response.status().is_some_and(|status| (200..300).contains(&status)) && response.method() == &Method::Invite {
            self.acknowledge(cx, to, cseq);
            self.take_refreshed_answer(cx, to, response);
        }
        let leg = self.sides.leg_mut(to.side);
        let lost = leg.session.on_refreshed(cx, &leg.trunk, response) == Refreshed::Lost;
        lost.then(|| Outcome::SessionLost(response.status().unwrap_or(500)))
    }

    /// The final response to a request that takes a leg over (`takeover`).
    pub(super) fn on_taken_over(&mut self, cx: &mut Context, to: DialogRef, cseq: u32, response: &Message) -> Option<Outcome> {
        let status = response.status().unwrap_or(500);
        if !matches!(status, 408 | 481 | 503) {
            // Who answers within the dialog has its 200: the ACK went to the node that is gone.
            self.underway.two_hundred.acked(cx, to.side, self.about.invite.cseq());
        }
        if (200..300).contains(&status) && response.method() != &Method::Options {
            if response.method() == &Method::Invite {
                self.acknowledge(cx, to, cseq);
            }
            self.take_refreshed_answer(cx, to, response);
            let leg = self.sides.leg_mut(to.side);
            leg.session.on_accepted(cx, &leg.trunk, response);
        }
        Some(Outcome::Asked { side: to.side, status, retry_after: response.number(HeaderId::RetryAfter) })
    }

    fn take_refreshed_answer(&mut self, cx: &mut Context, to: DialogRef, response: &Message) {
        let Some(span) = body::find_sdp(response) else { return };
        let bytes = body::sdp_bytes(&span);
        if bytes != self.sides.pairs[to].remote_sdp
            && let Ok(sdp) = Sdp::parse(&bytes)
        {
            // The far end moved its media with its answer.
            self.offer_answer().described(cx, to, &sdp, None);
        }
    }

    /// A refresh of ours got no response, or could not be sent.
    pub(super) fn on_refresh_failed(&mut self, cx: &mut Context, side: Side, status: u16) -> Option<Outcome> {
        let lost = self.sides.leg_mut(side).session.on_failed(cx, status) == Refreshed::Lost;
        lost.then_some(Outcome::SessionLost(status))
    }

    /// A refresh that changes nothing is answered here: the other far end is none the wiser, and need not have UPDATE.
    pub(super) fn answer_refresh(&mut self, cx: &mut Context, at: DialogRef, asked: &Asked) {
        let Asked { request, server, back } = asked;
        self.records.notice(cx, self.about, request);
        self.sides.pairs[at].dialog.on_target_refresh(request);
        let mut draft = request.response(200, None);
        draft.push(HeaderId::Contact, self.sides.leg(at.side).contact(cx, &self.sides.pairs[at]));
        draft.push(HeaderId::Allow, super::ALLOW);
        self.sides.session_ids.put(at.side, &mut draft);
        let leg = self.sides.leg_mut(at.side);
        leg.session.accept(cx, &leg.trunk, request, &mut draft);
        self.sides.respond(cx, at.side, *server, back, &mut draft);
        self.record_refresh(cx, at.pair);
    }

    /// True for an UPDATE that refreshes the session of an answered call, and that the other far end cannot take, or need not have: it
    /// tells it nothing. A place, a cell or a new identity do cross.
    pub(super) fn is_refresh(&self, side: Side, request: &Message) -> bool {
        let other = self.sides.leg(side.other());
        self.is_answered()
            && request.method() == &Method::Update
            && request.body().is_empty()
            && request.first(HeaderId::SessionExpires).is_some()
            && (!other.session.takes_update() || !headers::tells(request, &other.contact_params))
    }
}
