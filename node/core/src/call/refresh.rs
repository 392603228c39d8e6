//! Refreshes of sessions that we begin (RFC 4028 §10), and what their answers mean.

use std::time::Duration;

use super::forward::Forward;
use super::services::Services;
use super::session::{MIN_SE, act_after};
use super::{Call, CallPhase, Cause, body};
use crate::dialog::DialogRef;
use crate::ids::CallUid;
use crate::io::Side;
use crate::sip::{Draft, HeaderId, Message, Method, Sdp};

/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// The shortest time between two refreshes that are refused: a far end is not to be flooded.
const RETRY_LEAST: Duration = Duration::from_secs(5);
/// Refreshes in a row that are tried again at once after a 500: what lasts for longer is no open INVITE.
const MAX_ERRORS: u8 = 3;

impl Call {
    /// Time to refresh, or to ask a far end that should have done so whether it is still there.
    pub(super) fn on_session_due(&mut self, cx: &mut Services, side: Side) {
        self.leg_mut(side).session.timer = None;
        if self.phase != CallPhase::Answered || self.leg(side).gone {
            return;
        }
        let leg = self.leg(side);
        let busy = leg.inviting
            || leg.pending_2xx.is_some()
            || self.open_offer(self.toward(side)).is_some()
            || self.forwards.iter().any(|f| matches!(f.request.method(), Method::Invite | Method::Update));
        let again = after_lease(cx).or_else(|| busy.then(|| self.glare_wait(side)));
        if let Some(after) = again {
            self.session_due(cx, side, after);
            return;
        }
        let to = self.toward(side);
        let method = match &self.leg(side).session {
            s if s.update => Method::Update,
            _ if !self.pairs[to].local_sdp.is_empty() => Method::Invite,
            // Nothing was ever described to it: an INVITE would ask for an offer that nobody answers.
            _ => Method::Options,
        };
        let id = cx.serial();
        let offered = method == Method::Invite;
        let Some(request) = as_if_received(&method, id) else { return };
        if method == Method::Invite {
            self.leg_mut(side).inviting = true;
        }
        self.forwards.push(Forward {
            id,
            from: to.other(),
            request,
            server_tx: None,
            back: self.back,
            client_tx: None,
            earlier: Vec::new(),
            tls_name: None,
            cseq: 0,
            offered,
            answered: false,
            early_offer: false,
            cancelled: false,
            cancel_reason: None,
            held: false,
            provisional: false,
            rang: false,
            retry: None,
            tries: 0,
            own: true,
            before: None,
            raises: 0,
            contacts: None,
        });
        self.send_forward(cx, id);
    }

    /// The final response to a refresh of ours: the far end lives, unless it says that there is no such call.
    pub(super) fn on_refreshed(&mut self, cx: &mut Services, to: DialogRef, cseq: u32, response: &Message) {
        let side = to.side;
        let (status, invite) = (response.status().unwrap_or(500), response.method() == &Method::Invite);
        if (200..300).contains(&status) && invite {
            let ack = self.own_ack(to, cseq);
            self.send_on(cx, to, ack, super::outgoing::Purpose::Ack(cseq));
            self.take_refreshed_answer(cx, to, response);
        }
        match status {
            200..=299 if response.method() != &Method::Options => self.on_session_answer(cx, side, response),
            408 | 481 => self.session_lost(cx, side, status),
            // It refreshes nothing: any answer says that the far end lives, which is all that was asked.
            _ if response.method() == &Method::Options => self.session_due(cx, side, self.usual_wait(side)),
            491 => {
                let after = self.glare_wait(side);
                self.session_due(cx, side, after);
            }
            500 => self.try_again_soon(cx, side),
            // It has not UPDATE, whatever its Allow said: the re-INVITE can still be in time.
            405 | 501 if response.method() == &Method::Update => {
                self.leg_mut(side).session.update = false;
                self.session_due(cx, side, Duration::ZERO);
            }
            _ => self.try_again(cx, side),
        }
    }

    /// A refresh was refused. What it refreshes ends at the agreed time, so that there are several tries before that; after it, the far end
    /// showed that it does not mind.
    fn try_again(&mut self, cx: &mut Services, side: Side) {
        let session = &self.leg(side).session;
        let left = session.until.map(|until| until.since(cx.now.mono)).unwrap_or_default();
        let after = match left > RETRY_LEAST {
            true => (left / 4).max(RETRY_LEAST),
            false => self.usual_wait(side),
        };
        self.session_due(cx, side, after);
    }

    fn usual_wait(&self, side: Side) -> Duration {
        let session = &self.leg(side).session;
        act_after(session.interval.max(MIN_SE), session.ours)
    }

    /// A refresh failed for a reason that may be over in a moment: an INVITE that is still open there (RFC 3261 §14.2), a full queue here.
    fn try_again_soon(&mut self, cx: &mut Services, side: Side) {
        let session = &mut self.leg_mut(side).session;
        session.errors = session.errors.saturating_add(1);
        if session.errors > MAX_ERRORS {
            self.try_again(cx, side);
            return;
        }
        let after = self.glare_wait(side);
        self.session_due(cx, side, after);
    }

    /// RFC 3261 §14.1: who made the Call-ID waits for longer, so that the two do not meet again.
    fn glare_wait(&mut self, side: Side) -> Duration {
        let draws = &mut self.leg_mut(side).session.draws;
        *draws = draws.wrapping_add(1);
        let n = *draws;
        glare_wait(self.uid, side, n)
    }

    fn take_refreshed_answer(&mut self, cx: &mut Services, to: DialogRef, response: &Message) {
        let Some(span) = body::find_sdp(response) else { return };
        let bytes = body::sdp_bytes(&span);
        if bytes != self.pairs[to].remote_sdp
            && let Ok(sdp) = Sdp::parse(&bytes)
        {
            // The far end moved its media with its answer.
            self.described(cx, to, &sdp, None);
        }
    }

    /// No answer to a refresh, or "no such call": both legs end (RFC 4028 §10).
    pub(super) fn session_lost(&mut self, cx: &mut Services, side: Side, status: u16) {
        if let Some(after) = after_lease(cx) {
            self.session_due(cx, side, after);
            return;
        }
        if status == 503 {
            // It could not be sent: that says nothing about the far end.
            self.try_again_soon(cx, side);
            return;
        }
        let reason = format!("session timer: {}", if status == 481 { "no such call" } else { "no answer" });
        let cause = Cause { origin: "node", status: 200, reason };
        // RFC 4028 §10 names no cause; 408 and 481 are what the far end's silence or answer means (RFC 3326).
        self.hang_up(cx, None, cause, Some(format!("SIP;cause={status};text=\"Session timer expired\"")));
    }
}

fn after_lease(cx: &Services) -> Option<Duration> {
    (!cx.has_lease()).then_some(LEASE_WAIT)
}

/// How long to wait after glare, in steps of 10 ms (RFC 3261 §14.1): 2.1 to 4 s where the Call-ID is ours, which it is toward the called
/// side; else 0 to 2 s. The core has no randomness: calls differ by their id, tries by their number.
fn glare_wait(uid: CallUid, side: Side, n: u32) -> Duration {
    let (least, most) = if side == Side::Callee { (210, 400) } else { (0, 200) };
    let octets = uid.to_bytes().into_iter().chain(n.to_be_bytes());
    // FNV-1a, as in `dial`.
    let hash = octets.fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let mixed = hash ^ (hash >> 15);
    Duration::from_millis(10 * u64::from(least + mixed % (most - least + 1)))
}

/// A request of our own goes the way of one that is passed on: this is what the other far end would have sent. None of its fields
/// crosses.
fn as_if_received(method: &Method, number: u64) -> Option<Message> {
    let mut draft = Draft::request(method, "sip:refresh.invalid");
    draft.push(HeaderId::Via, format!("SIP/2.0/UDP refresh.invalid;branch=z9hG4bK{number}"));
    draft.push(HeaderId::MaxForwards, "71");
    draft.push(HeaderId::From, "<sip:refresh.invalid>;tag=1");
    draft.push(HeaderId::To, "<sip:refresh.invalid>;tag=2");
    draft.push(HeaderId::CallId, "refresh.invalid");
    draft.push(HeaderId::CSeq, format!("1 {method}"));
    Message::parse(draft.encode().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    #[test]
    fn waits_after_glare() {
        let waits = |side, serial: u64| {
            let uid = CallUid { node: NodeId(1), incarnation: Incarnation(1), serial };
            (0..200).map(move |n| glare_wait(uid, side, n).as_millis()).collect::<Vec<_>>()
        };
        for (side, least, most) in [(Side::Caller, 0, 2000), (Side::Callee, 2100, 4000)] {
            let drawn = waits(side, 7);
            assert!(drawn.iter().all(|ms| (least..=most).contains(ms) && ms % 10 == 0), "{drawn:?}");
            let spread = drawn.iter().max().unwrap() - drawn.iter().min().unwrap();
            assert!(spread > (most - least) * 3 / 4, "{side:?} {spread}");
            assert_ne!(drawn, waits(side, 8), "two calls differ");
        }
    }

    #[test]
    fn our_own_refresh_is_a_request_that_can_be_read() {
        for method in [Method::Update, Method::Invite, Method::Options] {
            assert_eq!(as_if_received(&method, 7).expect("well formed").method(), &method);
        }
    }
}
