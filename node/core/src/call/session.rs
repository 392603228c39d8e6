//! Session timers (RFC 4028), each leg for itself: what one far end agrees with us binds the other in nothing. Where a far end
//! cannot refresh, we do. A refresh that did not come is asked for before a call is given up: the call of a phone that forgot
//! it lives on, that of a far end which is gone ends on both legs. Without a lease nothing of this is begun (rule I). What is agreed is
//! here, what is done about it in `refresh`.

use std::time::Duration;

use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, headers};
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::ServerTxId;

/// The shortest interval that we take, in seconds (RFC 4028 §4).
pub const MIN_SE: u32 = 90;
/// The longest that is of any use.
const MAX_SE: u32 = 86_400;
/// How often one request goes out again after 422.
pub(super) const MAX_RAISES: u8 = 2;
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
    pub(super) timer: Option<TimerId>,
    /// When the agreed interval is over.
    pub(super) until: Option<Instant>,
    /// Refreshes in a row that failed without a verdict (500, or not sent).
    pub(super) errors: u8,
    /// Times that something was put off at random.
    pub(super) draws: u32,
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
pub(super) fn act_after(interval: u32, ours: bool) -> Duration {
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

    /// What is agreed from now on.
    pub(super) fn agree_session(&mut self, cx: &mut Services, side: Side, interval: u32, ours: bool) {
        let session = &mut self.leg_mut(side).session;
        (session.interval, session.ours, session.errors) = (interval, ours, 0);
        session.until = (interval > 0).then(|| cx.after(Duration::from_secs(u64::from(interval))));
        if interval == 0 {
            let mut timer = session.timer.take();
            cx.stop_timer(&mut timer);
        } else {
            self.session_due(cx, side, act_after(interval, ours));
        }
    }

    pub(super) fn session_due(&mut self, cx: &mut Services, side: Side, after: Duration) {
        let next = cx.start_timer(after, Timer::Call(self.id, CallTimer::Session(side)));
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
        self.put_session_id(side, &mut draft);
        self.answer_session(cx, side, request, &mut draft);
        let realm = self.leg(side).realm;
        self.ladder.sent(cx.now.unix, realm, back, &draft);
        cx.respond(tx, &mut draft);
        self.record_refresh(cx);
    }

    /// True for an UPDATE that refreshes the session of an answered call, and that the other far end cannot take, or need not have: it
    /// tells it nothing. A place, a cell or a new identity do cross.
    pub(super) fn is_refresh(&self, side: Side, request: &Message) -> bool {
        let other = self.leg(side.other());
        self.phase == CallPhase::Answered
            && request.method() == &Method::Update
            && request.body().is_empty()
            && request.first(HeaderId::SessionExpires).is_some()
            && (!other.session.update || !headers::tells(request, &other.contact_params))
    }
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
}
