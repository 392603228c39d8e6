//! Session timers (RFC 4028), each leg for itself: what one far end agrees with us binds the other in nothing. Where a far end
//! cannot refresh, we do. A refresh that did not come is asked for before a call is given up: the call of a phone that forgot
//! it lives on, that of a far end which is gone ends on both legs. Without a lease nothing of this is begun (rule I).

use std::time::Duration;

use super::forward::Forward;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, Cause, body};
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method, Sdp};
use crate::timer::TimerId;
use crate::transaction::ServerTxId;

/// The shortest interval that we take, in seconds (RFC 4028 §4).
pub const MIN_SE: u32 = 90;
/// The longest that is of any use.
const MAX_SE: u32 = 86_400;
/// How often one request goes out again after 422.
pub(super) const MAX_RAISES: u8 = 2;
/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// Something else is under way in the dialog: the refresh waits for it (RFC 3261 §14.1: 2.1 to 4 s).
const GLARE_WAIT: Duration = Duration::from_secs(3);

/// The session timer of one leg.
#[derive(Debug, Default)]
pub(super) struct SessionTimer {
    /// The agreed interval in seconds; 0: none.
    pub(super) interval: u32,
    /// We refresh.
    pub(super) ours: bool,
    /// The far end has the extension.
    pub(super) known: bool,
    /// The far end takes UPDATE.
    pub(super) update: bool,
    /// The shortest interval that the far end takes, as it said in a 422 or Min-SE.
    pub(super) min: u32,
    timer: Option<TimerId>,
}

/// What a message says of session timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Said {
    /// Session-Expires, seconds.
    interval: Option<u32>,
    /// Its refresher is the UAC.
    uac: Option<bool>,
    /// Min-SE, seconds.
    min: u32,
    /// `timer` is among Supported or Require.
    known: bool,
}

/// What we agree to as the UAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Agreed {
    interval: u32,
    uac: bool,
}

impl Said {
    fn of(message: &Message) -> Said {
        let has = |id| message.values(id).any(|tag| tag.trim().eq_ignore_ascii_case("timer"));
        let (interval, uac) = message.first(HeaderId::SessionExpires).map_or((None, None), session_expires);
        Said {
            interval,
            uac,
            min: message.first(HeaderId::MinSe).and_then(|v| session_expires(v).0).unwrap_or(0),
            known: has(HeaderId::Supported) || has(HeaderId::Require),
        }
    }

    /// RFC 4028 §9, table 2. `own`: the interval that we would have, 0: none.
    fn agree(self, own: u32) -> Option<Agreed> {
        if own == 0 {
            return None;
        }
        let floor = self.min.max(MIN_SE);
        match (self.known, self.interval) {
            // Who asks for a refresher gets that one; else the far end that has the extension refreshes, for its NAT's sake.
            (true, Some(asked)) => Some(Agreed { interval: asked, uac: self.uac.unwrap_or(true) }),
            (true, None) => Some(Agreed { interval: own.max(floor), uac: false }),
            // A proxy on the way may have asked for it.
            (false, asked) => Some(Agreed { interval: asked.unwrap_or(own).max(floor), uac: false }),
        }
    }
}

/// Seconds and "the UAC refreshes" of a Session-Expires value (RFC 4028 §4). An unreadable one says nothing.
fn session_expires(value: &str) -> (Option<u32>, Option<bool>) {
    let mut parts = value.split(';').map(str::trim);
    let interval = parts.next().and_then(|n| n.parse::<u32>().ok()).map(|n| n.min(MAX_SE));
    let refresher = parts.find_map(|p| {
        let (name, value) = p.split_once('=')?;
        name.trim().eq_ignore_ascii_case("refresher").then(|| value.trim())
    });
    let uac = match refresher {
        Some(v) if v.eq_ignore_ascii_case("uac") => Some(true),
        Some(v) if v.eq_ignore_ascii_case("uas") => Some(false),
        _ => None,
    };
    (interval, uac)
}

/// How long after the last refresh something is to be done: a refresher acts at half of the interval, who waits for one a little
/// before its end (RFC 4028 §10).
fn act_after(interval: u32, ours: bool) -> Duration {
    let seconds = if ours { interval / 2 } else { interval - (interval / 3).min(32) };
    Duration::from_secs(u64::from(seconds))
}

/// True when a request asks for a shorter interval than we take: 422 with Min-SE (RFC 4028 §9).
pub fn asks_too_little(request: &Message) -> bool {
    let said = Said::of(request);
    said.known && said.interval.is_some_and(|n| n < MIN_SE)
}

impl Call {
    /// What a far end's message tells about what it can.
    pub(super) fn note_abilities(&mut self, side: Side, message: &Message) {
        let session = &mut self.leg_mut(side).session;
        let mut allow = message.values(HeaderId::Allow).peekable();
        if allow.peek().is_some() {
            session.update = allow.any(|method| method.trim() == "UPDATE");
        }
        let said = Said::of(message);
        session.known |= said.known;
        session.min = session.min.max(said.min);
    }

    /// The interval that the configuration wants on a leg, in seconds; 0: none.
    fn session_wish(&self, cx: &Services, side: Side) -> u32 {
        let trunk = cx.config.trunk(&self.leg(side).trunk).and_then(|t| t.session_expires);
        let wish = trunk.unwrap_or(cx.config.settings.session_expires).as_secs();
        u32::try_from(wish).unwrap_or(MAX_SE).min(MAX_SE)
    }

    /// What an INVITE or UPDATE of ours says of session timers (RFC 4028 §7.1, §7.4).
    pub(super) fn offer_session(&self, cx: &Services, side: Side, draft: &mut Draft) {
        let wish = self.session_wish(cx, side);
        if wish == 0 || (self.phase != CallPhase::Answered && draft.method() == Some(&Method::Update)) {
            return;
        }
        let session = &self.leg(side).session;
        let min = session.min.max(MIN_SE);
        let agreed = session.interval;
        let interval = if agreed == 0 { wish } else { agreed }.max(min);
        let refresher = match (agreed, session.ours) {
            (0, _) => "",
            (_, true) => ";refresher=uac",
            (_, false) => ";refresher=uas",
        };
        draft.push(HeaderId::Supported, "timer");
        draft.push(HeaderId::SessionExpires, format!("{interval}{refresher}"));
        draft.push(HeaderId::MinSe, min.to_string());
    }

    /// A 2xx to an INVITE or UPDATE of ours: what was agreed (RFC 4028 §7.2).
    pub(super) fn on_session_answer(&mut self, cx: &mut Services, side: Side, response: &Message) {
        self.note_abilities(side, response);
        let said = Said::of(response);
        let wish = self.session_wish(cx, side);
        let min = self.leg(side).session.min.max(MIN_SE);
        let (interval, ours) = match said.interval {
            _ if wish == 0 => (0, false),
            Some(interval) => (interval.max(MIN_SE), said.uac != Some(false)),
            None => (wish.max(min), true),
        };
        self.agree_session(cx, side, interval, ours);
    }

    /// What our 2xx to the far end's INVITE or UPDATE says (RFC 4028 §9), and what is then kept.
    pub(super) fn answer_session(&mut self, cx: &mut Services, side: Side, request: &Message, draft: &mut Draft) {
        self.note_abilities(side, request);
        let said = Said::of(request);
        let Some(agreed) = said.agree(self.session_wish(cx, side)) else { return };
        let refresher = if agreed.uac { "uac" } else { "uas" };
        draft.push(HeaderId::SessionExpires, format!("{};refresher={refresher}", agreed.interval));
        if said.known {
            draft.push(HeaderId::Supported, "timer");
        }
        if agreed.uac {
            draft.push(HeaderId::Require, "timer");
        }
        self.agree_session(cx, side, agreed.interval, !agreed.uac);
    }

    fn agree_session(&mut self, cx: &mut Services, side: Side, interval: u32, ours: bool) {
        let session = &mut self.leg_mut(side).session;
        (session.interval, session.ours) = (interval, ours);
        if interval == 0 {
            let mut timer = session.timer.take();
            cx.stop_timer(&mut timer);
        } else {
            self.session_due(cx, side, act_after(interval, ours));
        }
    }

    fn session_due(&mut self, cx: &mut Services, side: Side, after: Duration) {
        let next = cx.start_timer(after, Timer::Call(self.serial, CallTimer::Session(side)));
        let mut old = self.leg_mut(side).session.timer.replace(next);
        cx.stop_timer(&mut old);
    }

    /// A 422 of a far end: the next request offers what it takes (RFC 4028 §7.3). False: nothing is changed by it.
    pub(super) fn raise_session(&mut self, side: Side, response: &Message) -> bool {
        let min = Said::of(response).min;
        let session = &mut self.leg_mut(side).session;
        let raised = min > session.min.max(MIN_SE);
        session.min = session.min.max(min);
        raised
    }

    /// The call is over.
    pub(super) fn stop_sessions(&mut self, cx: &mut Services) {
        for side in [Side::Caller, Side::Callee] {
            cx.stop_timer(&mut self.leg_mut(side).session.timer);
        }
    }

    /// Time to refresh, or to ask a far end that should have done so whether it is still there.
    pub(super) fn on_session_due(&mut self, cx: &mut Services, side: Side) {
        self.leg_mut(side).session.timer = None;
        if self.phase != CallPhase::Answered || self.leg(side).gone {
            return;
        }
        let leg = self.leg(side);
        let busy = leg.inviting
            || leg.pending_2xx.is_some()
            || self.open_offer(side).is_some()
            || self.forwards.iter().any(|f| matches!(f.request.method(), Method::Invite | Method::Update));
        let again = after_lease(cx).or(busy.then_some(GLARE_WAIT));
        if let Some(after) = again {
            self.session_due(cx, side, after);
            return;
        }
        let method = match &leg.session {
            s if s.update => Method::Update,
            _ if !leg.local_sdp.is_empty() => Method::Invite,
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
            fork: None,
            from: side.other(),
            request,
            server_tx: None,
            back: self.back,
            client_tx: None,
            cseq: 0,
            offered,
            cancelled: false,
            cancel_reason: None,
            held: false,
            provisional: false,
            retry: None,
            tries: 0,
            own: true,
            raises: 0,
        });
        self.send_forward(cx, id);
    }

    /// The final response to a refresh of ours: the far end lives, unless it says that there is no such call.
    pub(super) fn on_refreshed(&mut self, cx: &mut Services, side: Side, cseq: u32, response: &Message) {
        let (status, invite) = (response.status().unwrap_or(500), response.method() == &Method::Invite);
        if (200..300).contains(&status) && invite {
            let ack = self.own_ack(side, cseq);
            self.send_on(cx, side, ack, super::outgoing::Purpose::Ack(cseq));
            self.take_refreshed_answer(cx, side, response);
        }
        match status {
            200..=299 if response.method() != &Method::Options => self.on_session_answer(cx, side, response),
            408 | 481 => self.session_lost(cx, side, status),
            491 | 500 => self.session_due(cx, side, GLARE_WAIT),
            _ => {
                let session = &mut self.leg_mut(side).session;
                if matches!(status, 405 | 501) {
                    session.update = false;
                }
                let after = act_after(session.interval.max(MIN_SE), session.ours);
                self.session_due(cx, side, after);
            }
        }
    }

    fn take_refreshed_answer(&mut self, cx: &mut Services, side: Side, response: &Message) {
        let Some(span) = body::find_sdp(response) else { return };
        let bytes = body::sdp_bytes(response, &span);
        if bytes != self.leg(side).remote_sdp
            && let Ok(sdp) = Sdp::parse(&bytes)
        {
            // The far end moved its media with its answer.
            self.media.on_remote_sdp(cx, side, &sdp);
            self.leg_mut(side).remote_sdp = bytes;
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
            self.session_due(cx, side, GLARE_WAIT);
            return;
        }
        let reason = format!("session timer: {}", if status == 481 { "no such call" } else { "no answer" });
        let cause = Cause { origin: "node", status: 200, reason };
        // RFC 4028 §10 names no cause; 408 and 481 are what the far end's silence or answer means (RFC 3326).
        self.hang_up(cx, None, cause, Some(format!("SIP;cause={status};text=\"Session timer expired\"")));
    }

    /// A refresh that changes nothing is answered here: the other far end is none the wiser, and need not have UPDATE.
    pub(super) fn answer_refresh(&mut self, cx: &mut Services, side: Side, tx: ServerTxId, back: &ReturnPath, request: &Message) {
        self.leg_mut(side).dialog.on_target_refresh(request);
        let mut draft = request.response(200, None);
        draft.push(HeaderId::Contact, self.leg(side).contact(cx));
        draft.push(HeaderId::Allow, super::ALLOW);
        self.put_session_id(side, &mut draft);
        self.answer_session(cx, side, request, &mut draft);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
        self.record_refresh(cx);
    }

    /// True for an UPDATE that only refreshes the session of an answered call.
    pub(super) fn is_refresh(&self, request: &Message) -> bool {
        self.phase == CallPhase::Answered
            && request.method() == &Method::Update
            && request.body().is_empty()
            && request.first(HeaderId::SessionExpires).is_some()
    }
}

fn after_lease(cx: &Services) -> Option<Duration> {
    (!cx.has_lease()).then_some(LEASE_WAIT)
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

    #[test]
    fn what_session_expires_says() {
        for (value, interval, uac) in [
            ("1800", Some(1800), None),
            (" 90 ; Refresher = UAC ", Some(90), Some(true)),
            ("90;x=y;refresher=uas", Some(90), Some(false)),
            ("90;refresher=both", Some(90), None),
            ("99999999", Some(MAX_SE), None),
            ("99999999999999", None, None),
            ("soon", None, None),
            ("", None, None),
        ] {
            assert_eq!(session_expires(value), (interval, uac), "{value:?}");
        }
    }

    #[test]
    fn every_request_and_what_we_agree_to() {
        let said = |known, interval, uac, min| Said { known, interval, uac, min };
        let agreed = |interval, uac| Some(Agreed { interval, uac });
        for (said, own, expected) in [
            (said(true, Some(600), Some(true), 0), 0, None),
            (said(true, Some(600), Some(true), 0), 1800, agreed(600, true)),
            (said(true, Some(600), Some(false), 0), 1800, agreed(600, false)),
            (said(true, Some(600), None, 0), 1800, agreed(600, true)),
            (said(true, None, None, 0), 1800, agreed(1800, false)),
            (said(true, None, None, 3600), 1800, agreed(3600, false)),
            (said(false, None, None, 0), 1800, agreed(1800, false)),
            // What has not the extension is never made to refresh.
            (said(false, Some(600), Some(true), 0), 1800, agreed(600, false)),
            (said(false, Some(60), None, 0), 1800, agreed(MIN_SE, false)),
        ] {
            assert_eq!(said.agree(own), expected, "{said:?}, own {own}");
        }
    }

    #[test]
    fn when_something_is_done() {
        for (interval, ours, seconds) in
            [(1800, true, 900), (1800, false, 1768), (90, true, 45), (90, false, 60), (96, false, 64)]
        {
            assert_eq!(act_after(interval, ours).as_secs(), seconds, "{interval} {ours}");
        }
    }

    #[test]
    fn our_own_refresh_is_a_request_that_can_be_read() {
        for method in [Method::Update, Method::Invite, Method::Options] {
            assert_eq!(as_if_received(&method, 7).expect("well formed").method(), &method);
        }
    }
}
