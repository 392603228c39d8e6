//! The session timer of one leg (RFC 4028): what one far end agrees with us binds the other in nothing. Where a far end cannot refresh, we do.
//! A refresh that did not come is asked for before a call is given up: the call of a phone that forgot it lives on, that of a far end which
//! is gone ends on both legs. Without a lease nothing of this is begun (rule I). When something is due is decided here, what is then sent in
//! `refresh`.

mod terms;

use std::time::Duration;

use terms::{MAX_SE, SessionTimerFields};
pub use terms::{MIN_SE, asks_too_little};

use super::context::Context;
use super::timer::{CallTimer, TimerUser};
use crate::ids::{CallUid, LocalId};
use crate::io::Side;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::store_pb::LegRecord;
use crate::time::Instant;
use crate::timer::TimerId;

/// How often one request goes out again after 422.
pub(super) const MAX_RAISES: u8 = 2;
/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);
/// The shortest time between two refreshes that are refused: a far end is not to be flooded.
const RETRY_LEAST: Duration = Duration::from_secs(5);
/// Refreshes in a row that are tried again at once after a 500: what lasts for longer is no open INVITE.
const MAX_ERRORS: u8 = 3;

/// The session timer of one leg.
#[derive(Debug)]
pub(super) struct SessionTimer {
    call: LocalId,
    uid: CallUid,
    side: Side,
    terms: Option<Terms>,
    /// The far end has the extension.
    known: bool,
    /// The far end takes UPDATE.
    update: bool,
    /// The shortest interval that the far end takes, as it said in a 422 or Min-SE.
    min: u32,
    timer: Option<TimerId>,
    /// Refreshes in a row that failed without a verdict (500, or not sent).
    errors: u8,
    /// Times that something was put off at random.
    draws: u32,
}

/// What is agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    /// Seconds, never 0.
    interval: u32,
    /// We refresh.
    ours: bool,
    /// When the interval is over.
    until: Instant,
}

/// What the answer to a refresh means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refreshed {
    /// The far end lives, and the next refresh is due in its time.
    Going,
    /// There is no such call any more, or nobody who answers: both legs end (RFC 4028 §10).
    Lost,
}

/// How long after the last refresh something is to be done: a refresher acts at half of the interval, who waits for one a little
/// before its end (RFC 4028 §10).
fn act_after(interval: u32, ours: bool) -> Duration {
    let seconds = if ours { interval / 2 } else { interval - (interval / 3).min(32) };
    Duration::from_secs(u64::from(seconds))
}

impl SessionTimer {
    /// Nothing is agreed yet.
    pub(super) fn new(call: LocalId, uid: CallUid, side: Side) -> SessionTimer {
        SessionTimer { call, uid, side, terms: None, known: false, update: false, min: 0, timer: None, errors: 0, draws: 0 }
    }

    /// The far end takes UPDATE.
    pub(super) fn takes_update(&self) -> bool {
        self.update
    }

    /// Puts into a record what it says of it.
    pub(super) fn record(&self, record: &mut LegRecord) {
        record.allow = self.update.then(|| "UPDATE".into()).into_iter().collect();
        record.supported = self.known.then(|| "timer".into()).into_iter().collect();
        (record.session_expires_s, record.session_ours) = self.terms.map_or((0, false), |terms| (terms.interval, terms.ours));
        record.min_se_s = self.min;
    }

    /// Takes what was recorded; what was agreed counts from now on.
    pub(super) fn restore(&mut self, cx: &mut Context, record: &LegRecord) {
        self.update = record.allow.iter().any(|method| method == "UPDATE");
        self.known = record.supported.iter().any(|tag| tag == "timer");
        self.min = record.min_se_s;
        if record.session_expires_s > 0 {
            self.agree(cx, record.session_expires_s, record.session_ours);
        }
    }

    /// What a far end's message tells about what it can.
    fn note_abilities(&mut self, message: &Message) -> SessionTimerFields {
        let mut allow = message.values(HeaderId::Allow).peekable();
        if allow.peek().is_some() {
            self.update = allow.any(|method| method.trim() == "UPDATE");
        }
        let said = SessionTimerFields::of(message);
        self.known |= said.known;
        self.min = self.min.max(said.min);
        said
    }

    /// What an INVITE or UPDATE of ours says (RFC 4028 §7.1, §7.4). `trunk`: that of the leg.
    pub(super) fn offer(&self, cx: &Context, trunk: &str, draft: &mut Draft) {
        let wish = wish(cx, trunk);
        if wish == 0 {
            return;
        }
        let min = self.min.max(MIN_SE);
        let (interval, refresher) = match self.terms {
            None => (wish, ""),
            Some(Terms { interval, ours: true, .. }) => (interval, ";refresher=uac"),
            Some(Terms { interval, ours: false, .. }) => (interval, ";refresher=uas"),
        };
        draft.push(HeaderId::Supported, "timer");
        draft.push(HeaderId::SessionExpires, format!("{}{refresher}", interval.max(min)));
        draft.push(HeaderId::MinSe, min.to_string());
    }

    /// A 2xx to an INVITE or UPDATE of ours: what was agreed (RFC 4028 §7.2).
    pub(super) fn on_accepted(&mut self, cx: &mut Context, trunk: &str, response: &Message) {
        let said = self.note_abilities(response);
        let wish = wish(cx, trunk);
        let (interval, ours) = match said.interval {
            _ if wish == 0 => (0, false),
            Some(interval) => (interval.max(MIN_SE), said.uac != Some(false)),
            None => (wish.max(self.min.max(MIN_SE)), true),
        };
        self.agree(cx, interval, ours);
    }

    /// What our 2xx to the far end's INVITE or UPDATE says (RFC 4028 §9), and what is then kept.
    pub(super) fn accept(&mut self, cx: &mut Context, trunk: &str, request: &Message, draft: &mut Draft) {
        let said = self.note_abilities(request);
        let Some(agreed) = said.agree(wish(cx, trunk)) else { return };
        let refresher = if agreed.uac { "uac" } else { "uas" };
        draft.push(HeaderId::SessionExpires, format!("{};refresher={refresher}", agreed.interval));
        if said.known {
            draft.push(HeaderId::Supported, "timer");
        }
        if agreed.uac {
            draft.push(HeaderId::Require, "timer");
        }
        self.agree(cx, agreed.interval, !agreed.uac);
    }

    /// What is agreed from now on; an interval of 0: nothing.
    fn agree(&mut self, cx: &mut Context, interval: u32, ours: bool) {
        self.errors = 0;
        let until = cx.after(Duration::from_secs(u64::from(interval)));
        self.terms = (interval > 0).then_some(Terms { interval, ours, until });
        match self.terms {
            Some(_) => self.wait(cx, act_after(interval, ours)),
            None => self.stop(cx),
        }
    }

    /// It is due after that time.
    pub(super) fn wait(&mut self, cx: &mut Context, after: Duration) {
        let next = cx.start_timer(after, TimerUser::Call(self.call, CallTimer::Session(self.side)));
        let mut old = self.timer.replace(next);
        cx.stop_timer(&mut old);
    }

    /// The call is over.
    pub(super) fn stop(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.timer);
    }

    /// The time has come. `busy`: something else is open on the leg. False: it is put off, for that or for want of a lease.
    pub(super) fn on_due(&mut self, cx: &mut Context, busy: bool) -> bool {
        self.timer = None;
        if self.waits_for_lease(cx) {
            return false;
        }
        if busy {
            self.wait_after_glare(cx);
        }
        !busy
    }

    /// A 422 of the far end: the next request offers what it takes (RFC 4028 §7.3). False: nothing is changed by it.
    pub(super) fn raise(&mut self, response: &Message) -> bool {
        let min = SessionTimerFields::of(response).min;
        let raised = min > self.min.max(MIN_SE);
        self.min = self.min.max(min);
        raised
    }

    /// The final response to a refresh of ours: the far end lives, unless it says that there is no such call.
    pub(super) fn on_refreshed(&mut self, cx: &mut Context, trunk: &str, response: &Message) -> Refreshed {
        let (status, method) = (response.status().unwrap_or(500), response.method());
        match status {
            200..=299 if method != &Method::Options => self.on_accepted(cx, trunk, response),
            408 | 481 => return self.on_failed(cx, status),
            // It refreshes nothing: any answer says that the far end lives, which is all that was asked.
            _ if method == &Method::Options => self.wait(cx, self.usual_wait()),
            491 => self.wait_after_glare(cx),
            500 => self.try_again_soon(cx),
            // It has not UPDATE, whatever its Allow said: the re-INVITE can still be in time.
            405 | 501 if method == &Method::Update => {
                self.update = false;
                self.wait(cx, Duration::ZERO);
            }
            _ => self.try_again(cx),
        }
        Refreshed::Going
    }

    /// No answer to a refresh, or "no such call".
    pub(super) fn on_failed(&mut self, cx: &mut Context, status: u16) -> Refreshed {
        if self.waits_for_lease(cx) {
            return Refreshed::Going;
        }
        if status == 503 {
            // It could not be sent: that says nothing about the far end.
            self.try_again_soon(cx);
            return Refreshed::Going;
        }
        Refreshed::Lost
    }

    /// A refresh was refused. What it refreshes ends at the agreed time, so that there are several tries before that; after it, the far end
    /// showed that it does not mind.
    fn try_again(&mut self, cx: &mut Context) {
        let left = self.terms.map(|terms| terms.until.since(cx.now.mono)).unwrap_or_default();
        let after = match left > RETRY_LEAST {
            true => (left / 4).max(RETRY_LEAST),
            false => self.usual_wait(),
        };
        self.wait(cx, after);
    }

    /// A refresh failed for a reason that may be over in a moment: an INVITE that is still open there (RFC 3261 §14.2), a full queue here.
    fn try_again_soon(&mut self, cx: &mut Context) {
        self.errors = self.errors.saturating_add(1);
        if self.errors > MAX_ERRORS {
            self.try_again(cx);
        } else {
            self.wait_after_glare(cx);
        }
    }

    fn usual_wait(&self) -> Duration {
        let (interval, ours) = self.terms.map_or((MIN_SE, false), |terms| (terms.interval.max(MIN_SE), terms.ours));
        act_after(interval, ours)
    }

    /// RFC 3261 §14.1: who made the Call-ID waits for longer, so that the two do not meet again.
    fn wait_after_glare(&mut self, cx: &mut Context) {
        self.draws = self.draws.wrapping_add(1);
        self.wait(cx, glare_wait(self.uid, self.side, self.draws));
    }

    fn waits_for_lease(&mut self, cx: &mut Context) -> bool {
        let waits = !cx.has_lease();
        if waits {
            self.wait(cx, LEASE_WAIT);
        }
        waits
    }
}

/// The interval that the configuration wants toward a trunk, in seconds; 0: none.
fn wish(cx: &Context, trunk: &str) -> u32 {
    let trunk = cx.config.trunk(trunk).and_then(|t| t.timers.session_expires);
    let wish = trunk.unwrap_or(cx.config.settings.session_expires).as_secs();
    u32::try_from(wish).unwrap_or(MAX_SE).min(MAX_SE)
}

/// How long to wait after glare, in steps of 10 ms (RFC 3261 §14.1): 2.1 to 4 s where the Call-ID is ours, which it is toward the called
/// side; else 0 to 2 s. The core has no randomness: calls differ by their id, tries by their number.
pub(super) fn glare_wait(uid: CallUid, side: Side, n: u32) -> Duration {
    let (least, most) = if side == Side::Callee { (210, 400) } else { (0, 200) };
    let octets = uid.to_bytes().into_iter().chain(n.to_be_bytes());
    // FNV-1a, as in `dial`.
    let hash = octets.fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let mixed = hash ^ (hash >> 15);
    Duration::from_millis(10 * u64::from(least + mixed % (most - least + 1)))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::timers::Lane;
    use super::*;
    use crate::ids::{Incarnation, NodeId};

    const UID: CallUid = CallUid { node: NodeId(1), incarnation: Incarnation(1), serial: 7 };

    fn response(status: u16, method: &str, fields: &str) -> Message {
        let text = format!(
            "SIP/2.0 {status} x\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:b@h>;tag=t\r\nCall-ID: x\r\n\
             CSeq: 1 {method}\r\n{fields}Content-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).expect("valid")
    }

    /// With an interval of 1,800 s, refreshed by us; the time is 0.
    fn agreed(cx: &mut Context) -> SessionTimer {
        cx.view.lease_until = cx.after(Duration::from_secs(3600));
        let mut timer = SessionTimer::new(LocalId(7), UID, Side::Callee);
        let fields = "Session-Expires: 1800;refresher=uac\r\nAllow: UPDATE\r\nSupported: timer\r\n";
        timer.on_accepted(cx, "", &response(200, "INVITE", fields));
        timer
    }

    /// The seconds until it is due. Nothing can be due earlier from then on.
    fn due(cx: &mut Context) -> Option<u64> {
        let now = cx.now.mono;
        (0..2000).find(|s| cx.timers.pop_expired(Lane::Ordinary, now + Duration::from_secs(*s)).is_some())
    }

    #[test]
    fn every_answer_to_a_refresh() {
        use Refreshed::{Going, Lost};
        // Status and method of the answer; what it means, and in how many seconds something is due.
        let soon = 2..=4;
        for (status, method, meaning, after) in [
            (200, "UPDATE", Going, 900..=900),
            (200, "INVITE", Going, 900..=900),
            (200, "OPTIONS", Going, 900..=900),
            (404, "OPTIONS", Going, 900..=900),
            (405, "UPDATE", Going, 0..=0),
            (501, "UPDATE", Going, 0..=0),
            (405, "INVITE", Going, 450..=450),
            (403, "UPDATE", Going, 450..=450),
            (491, "INVITE", Going, soon.clone()),
            (500, "UPDATE", Going, soon),
            (408, "UPDATE", Lost, 900..=900),
            (481, "INVITE", Lost, 900..=900),
            (481, "OPTIONS", Lost, 900..=900),
        ] {
            let mut cx = Context::for_tests();
            let mut timer = agreed(&mut cx);
            assert_eq!(timer.on_refreshed(&mut cx, "", &response(status, method, "")), meaning, "{status} {method}");
            assert_eq!(timer.takes_update(), !matches!((status, method), (405 | 501, "UPDATE")), "{status} {method}");
            let due = due(&mut cx);
            assert!(due.is_some_and(|s| after.contains(&s)), "{status} {method}: {due:?}");
        }
    }

    #[test]
    fn without_a_lease_nothing_is_begun_and_nothing_ends() {
        for status in [408, 481, 503] {
            let mut cx = Context::for_tests();
            let mut timer = agreed(&mut cx);
            cx.view.lease_until = cx.now.mono;
            assert!(!timer.on_due(&mut cx, false));
            assert_eq!(timer.on_failed(&mut cx, status), Refreshed::Going);
            assert_eq!(due(&mut cx), Some(1));
        }
    }

    #[test]
    fn what_could_not_be_sent_is_tried_again_soon_a_few_times() {
        for failures in 1..6 {
            let mut cx = Context::for_tests();
            let mut timer = agreed(&mut cx);
            for _ in 0..failures {
                assert_eq!(timer.on_failed(&mut cx, 503), Refreshed::Going);
            }
            assert_eq!(due(&mut cx).is_some_and(|s| s < 5), failures <= u32::from(MAX_ERRORS), "{failures}");
        }
    }

    #[test]
    fn while_something_is_open_a_refresh_is_put_off_and_the_end_of_a_call_stops_it() {
        let mut cx = Context::for_tests();
        let mut timer = agreed(&mut cx);
        assert!(timer.on_due(&mut cx, false));
        assert!(!timer.on_due(&mut cx, true));
        timer.stop(&mut cx);
        // The first one has not fired in this test.
        assert_eq!((due(&mut cx), due(&mut cx)), (Some(900), None));
    }

    #[test]
    fn a_far_end_that_wants_longer_gets_it() {
        let mut cx = Context::for_tests();
        let mut timer = agreed(&mut cx);
        for (fields, raised) in [("", false), ("Min-SE: 90\r\n", false), ("Min-SE: 3600\r\n", true), ("Min-SE: 3600\r\n", false)]
        {
            assert_eq!(timer.raise(&response(422, "UPDATE", fields)), raised, "{fields}");
        }
        let mut draft = Draft::request(&Method::Update, "sip:x");
        timer.offer(&cx, "", &mut draft);
        assert_eq!(draft.first(HeaderId::SessionExpires), Some("3600;refresher=uac"));
        assert_eq!(draft.first(HeaderId::MinSe), Some("3600"));
    }

    #[test]
    fn waits_after_glare() {
        let waits = |side, serial: u64| {
            let uid = CallUid { serial, ..UID };
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
    fn when_something_is_done() {
        for (interval, ours, seconds) in
            [(1800, true, 900), (1800, false, 1768), (90, true, 45), (90, false, 60), (96, false, 64)]
        {
            assert_eq!(act_after(interval, ours).as_secs(), seconds, "{interval} {ours}");
        }
    }
}
