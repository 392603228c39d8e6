//! A final response of the called side that is no answer: the next target, the targets that a 3xx names, or the best of all failures
//! to the caller (RFC 3261 §8.1.3.4, §16.7).

use super::challenge::Challenged;
use super::claim::{ClaimEvent, Then};
use super::services::Services;
use super::{Call, CallPhase, Cause};
use crate::dialog::without_headers;
use crate::io::{Counter, HostAndPort, Side};
use crate::policy::RedirectPolicy;
use crate::routing;
use crate::sip::{HeaderId, Message, NameAddr, Scheme, Uri, readable};
use crate::targets::{AttemptState, Hop};
use crate::transaction::ResponseAction;

/// 3xx that one call follows: a redirect server that sends in circles ends here.
const MAX_REDIRECTS: u8 = 5;
/// Contacts of one 3xx that are tried.
const MAX_CONTACTS: usize = 8;

/// What failed, the best so far: what the caller is told if nothing succeeds.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Status toward the caller.
    pub(super) status: u16,
    /// What the called side sent; `None`: our own finding.
    pub(super) response: Option<Message>,
}

/// How much a status tells the caller, the least first (RFC 3261 §16.7 step 6): a 6xx before all, else the lowest class, and in it
/// first what the caller can do something about.
fn rank(status: u16) -> (u16, u16) {
    let class = if status >= 600 { 0 } else { status / 100 };
    let helps = matches!(status, 401 | 407 | 415 | 420 | 484);
    (class, u16::from(!helps))
}

/// What a caller is told of a failure. RFC 3261 §16.7 step 6, §21.5.4: by a 503 an upstream element takes the address that said it out of
/// service, which here is the address of all nodes, for as long as Retry-After says; but it was one target that cannot. 500 is the
/// same for this call: who has another way tries it (RFC 3263 §4.3 for a 5xx in general; in the telephone network cause 41,
/// temporary failure, as 503 is: RFC 3398 §8.2.6.1). 480 would be the user's answer there (cause 18), after which nobody tries another way;
/// so emergency calls get 500 too. 503 is for our own overload and for rule G.
pub fn upstream(status: u16) -> u16 {
    if status == 503 { 500 } else { status }
}

impl Call {
    /// Notes a failure, if it tells more than what failed before. One that the called side sent tells more than one of ours.
    pub(super) fn note_failure(&mut self, status: u16, response: Option<&Message>) {
        let worth = |status: u16, real: bool| (!real, rank(status));
        let known = self.failure.as_ref().map(|f| worth(f.status, f.response.is_some()));
        if known.is_none_or(|known| worth(status, response.is_some()) < known) {
            self.failure = Some(Failure { status, response: response.cloned() });
        }
    }

    /// A final response other than 2xx to the INVITE of an attempt.
    pub(super) fn on_failure(&mut self, cx: &mut Services, at: usize, status: u16, action: ResponseAction, response: &Message) {
        if action == ResponseAction::NeedAck {
            self.attempts[at].ack_failure(cx, &mut self.ladder, response);
        }
        let passed_over = self.attempts[at].state == AttemptState::PassedOver;
        self.attempts[at].finish();
        if self.phase != CallPhase::Dialling || !self.attempts[at].state.is_wanted() {
            // Of a target that was passed over: should nothing better come, the caller hears of it.
            if passed_over && status >= 400 && !matches!(status, 401 | 407 | 482) {
                self.note_failure(status, Some(response));
            }
            return;
        }
        if self.is_challenge(action, status) {
            match self.on_dial_challenge(cx, at, response) {
                Challenged::Answered => return,
                Challenged::Refused => {
                    // Our own fault, which the caller cannot mend with a password: another target may know us.
                    self.note_failure(502, None);
                    self.try_dial(cx);
                    return;
                }
                Challenged::NotOurs => {}
            }
        }
        if status == 482 {
            match self.tell_claim(cx, ClaimEvent::Merged) {
                Then::PassOn => {}
                Then::Redial => return self.redial(cx, at),
                _ => return,
            }
        }
        if status == 422 && self.dial_longer(at, response) {
            self.try_dial(cx);
            return;
        }
        self.note_failure(status, Some(response));
        let followed = (300..400).contains(&status) && self.follow(cx, response);
        // RFC 3263 §4.3: a 5xx says that this target cannot; another may. 408 is its word that nobody answered there (RFC 3261 §21.4.9),
        // 430 that the way to it is gone (RFC 5626 §5.3). Anything else is the user's answer, a 6xx everywhere.
        let cannot = (500..600).contains(&status) || matches!(status, 408 | 430);
        if followed || (cannot && self.has_alternative()) {
            self.try_dial(cx);
            return;
        }
        // The user's answer goes at once. What other targets said before tells less.
        let last = Failure { status, response: Some(response.clone()) };
        let failure = if cannot { self.failure.take().unwrap_or(last) } else { last };
        self.pass_failure(cx, &failure);
    }

    /// Nothing is left to dial: the caller is told the best of what failed.
    pub(super) fn fail_with_best(&mut self, cx: &mut Services, otherwise: u16) {
        match self.failure.take() {
            Some(failure) if failure.response.is_some() && self.invite_tx.is_some() => self.pass_failure(cx, &failure),
            Some(failure) => self.fail(cx, upstream(failure.status), "no target"),
            None => self.fail(cx, otherwise, "no target"),
        }
    }

    fn pass_failure(&mut self, cx: &mut Services, failure: &Failure) {
        let (Some(response), Some(tx)) = (&failure.response, self.invite_tx.take()) else { return };
        let status = upstream(failure.status);
        let pair = self.pairs.current();
        let mut draft = self.toward_caller(cx, pair, status, response);
        draft.remove(HeaderId::Contact);
        if status != failure.status {
            draft.remove(HeaderId::RetryAfter);
        }
        if (300..400).contains(&status) {
            for contact in response.all(HeaderId::Contact) {
                draft.push(HeaderId::Contact, contact);
            }
        }
        self.put_body(cx, pair.callee(), response, false, &mut draft);
        self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
        cx.respond(tx, &mut draft);
        self.note_reason(response);
        self.caller.gone = true;
        self.callee.gone = true;
        self.finish(cx, Cause { origin: "callee", status, reason: readable(response.reason()).into_owned() });
    }

    /// Puts the targets that a 3xx names before all others, where the trunk says so. False: the 3xx goes to the caller.
    fn follow(&mut self, cx: &mut Services, response: &Message) -> bool {
        let wanted = cx.config.trunk(&self.callee.trunk).is_some_and(|t| t.redirects == RedirectPolicy::Follow);
        if !wanted || self.redirects >= MAX_REDIRECTS {
            return false;
        }
        let hops = self.contacts(cx, response);
        if hops.is_empty() {
            return false;
        }
        self.redirects += 1;
        cx.count(Counter::Target("redirected"));
        // RFC 3261 §8.1.3.4: in the order of their q; what was to be tried before comes after.
        self.targets.redirect(hops);
        true
    }

    /// The usable Contacts of a 3xx, the preferred one first: SIP, no downgrade of sips, never ourselves, none twice.
    fn contacts(&mut self, cx: &Services, response: &Message) -> Vec<Hop> {
        let secure =
            Uri::parse(&self.pairs[self.toward(Side::Callee)].dialog.remote_target).is_ok_and(|u| u.scheme() == Scheme::Sips);
        let mut found: Vec<(u32, Hop)> = Vec::new();
        for value in response.values(HeaderId::Contact).take(MAX_CONTACTS) {
            let Ok(contact) = NameAddr::parse(value) else { continue };
            let uri = &contact.uri;
            let usable = match uri.scheme() {
                Scheme::Sips => true,
                Scheme::Sip => !secure,
                _ => false,
            };
            let ours = cx.leads_here(uri);
            let text: Box<str> = without_headers(uri).into();
            let Some(host) = uri.host().filter(|_| usable && !ours && !self.redirected_to.contains(&text)) else { continue };
            self.redirected_to.push(text.clone());
            let host = HostAndPort { host: host.into(), port: uri.port() };
            let choice = routing::uri_transport(uri);
            let hop = Hop { trunk: self.callee.trunk.clone(), realm: self.callee.realm, host, choice, uri: Some(text) };
            found.push((preference(contact.param("q")), hop));
        }
        // Stable: equal ones stay in their order.
        found.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
        found.into_iter().map(|(_, hop)| hop).collect()
    }

    /// All that a message gives as its reason, in one value (RFC 3326 §2: a list).
    pub(super) fn reasons(message: &Message) -> Option<String> {
        let all: Vec<&str> = message.all(HeaderId::Reason).collect();
        (!all.is_empty()).then(|| all.join(", "))
    }

    /// Keeps the Q.850 cause of a Reason (RFC 3326 §2, RFC 6432) for the record.
    pub(super) fn note_reason(&mut self, message: &Message) {
        let cause = message.values(HeaderId::Reason).find_map(q850);
        self.q850 = cause.or(self.q850);
    }
}

/// `Q.850;cause=16;text="..."`: the cause, 1 to 127.
fn q850(reason: &str) -> Option<u8> {
    let protocol = reason.split(';').next()?.trim();
    let cause = crate::sip::params(reason).get("cause")?.parse::<u8>().ok()?;
    (protocol.eq_ignore_ascii_case("Q.850") && (1..=127).contains(&cause)).then_some(cause)
}

/// A q value in thousandths; without one, 1 (RFC 3261 §20.10 gives none a place of its own).
fn preference(q: Option<&str>) -> u32 {
    let Some((whole, decimals)) = q.map(|q| q.split_once('.').unwrap_or((q, ""))) else { return 1000 };
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    match (whole, digits) {
        ("0", true) => format!("{decimals:0<3}").parse().unwrap_or(0),
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_of_failures() {
        let mut order = [503, 486, 404, 401, 302, 603, 480, 500, 407, 484, 408];
        order.sort_by_key(|s| rank(*s));
        assert_eq!(order, [603, 302, 401, 407, 484, 486, 404, 480, 408, 503, 500]);
    }

    #[test]
    fn q_values() {
        for (q, expected) in [
            (None, 1000),
            (Some("1"), 1000),
            (Some("1.0"), 1000),
            (Some("0.5"), 500),
            (Some("0.25"), 250),
            (Some("0"), 0),
            (Some("x"), 1000),
        ] {
            assert_eq!(preference(q), expected, "{q:?}");
        }
    }

    #[test]
    fn causes() {
        for (reason, expected) in [
            ("Q.850;cause=16;text=\"Terminated\"", Some(16)),
            ("q.850 ; cause=31", Some(31)),
            ("SIP;cause=200;text=\"Call completed elsewhere\"", None),
            ("Q.850;cause=0", None),
            ("Q.850;cause=128", None),
            ("Q.850", None),
            ("Q.850;cause=x", None),
        ] {
            assert_eq!(q850(reason), expected, "{reason}");
        }
    }
}
