//! The first INVITE toward the called side: whom it may go to, whom it went to, and what has become of each (RFC 3261 §13.2.2, §16.7;
//! RFC 3263 §4.3).
//!
//! A target is passed over for its silence alone, and silence is also what a slow one and a lost packet sound like. So its INVITE is sent
//! no more, but its responses still count: while nothing else has responded, the one that does has the call. Two that ring
//! at once is the failure that counts: whoever speaks second is cancelled.

use std::time::Duration;

use super::about::About;
use super::attempt::Attempt;
use super::context::Context;
use super::failure::{Failure, Failures};
use super::redirect::{FollowedRedirects, Redirector};
use super::timer::{CallTimer, TimerUser};
use crate::dialog::PairId;
use crate::ids::LocalId;
use crate::io::Path;
use crate::routing;
use crate::sip::{Message, Scheme, Uri};
use crate::targets::{AttemptEvent, AttemptState, Candidate, Hop, Large, Redial, TargetSet};
use crate::timer::TimerId;

/// Targets dialled for one call at the most, over all answers of the DNS.
const MAX_ATTEMPTS: usize = 16;
/// How much longer a silent target has where all others are known to have failed lately: its INVITE is repeated once or twice more (3.5 s
/// and 7.5 s after the first), and the caller does not wait for timer B.
const SPARED_FOR: Duration = Duration::from_secs(6);
/// Longest wait for ports or the DNS before a call is given up or goes on without: the DNS asks for at most 3 s.
const PREPARE_LIMIT: Duration = Duration::from_secs(4);
/// Provisional responses that wait for ports at once.
const MAX_HELD: usize = 8;

/// The user agent client of a call's first INVITE.
#[derive(Debug)]
pub(super) struct Uac {
    call: LocalId,
    /// Whom it may still go to.
    pub(super) targets: TargetSet,
    /// The target that was dialled last, for the log: trunk and address.
    pub(super) target: String,
    attempts: Vec<Attempt>,
    failures: Failures,
    redirects: FollowedRedirects,
    /// A target was left out, for it has no TLS and the call was dialled as sips.
    unsecured: bool,
    /// The limit of the wait for ports and the DNS.
    preparing: Option<TimerId>,
    /// A 2xx that waits for ports, or for a PRACK, with its attempt.
    answer: Option<(u32, Message)>,
    /// Provisional responses that wait for ports, with their attempts.
    provisional: Vec<(u32, Message)>,
}

/// A target that was passed over and counts again: the leg toward it is the call's.
pub(super) struct Revived {
    pub(super) pair: PairId,
    pub(super) candidate: Candidate,
    pub(super) path: Path,
    pub(super) tls_name: Option<Box<str>>,
    /// The Request-URI of its INVITE.
    pub(super) uri: Box<str>,
}

impl Uac {
    pub(super) fn new(call: LocalId) -> Uac {
        Uac {
            call,
            targets: TargetSet::new(MAX_ATTEMPTS),
            target: String::new(),
            attempts: Vec::new(),
            failures: Failures::default(),
            redirects: FollowedRedirects::default(),
            unsecured: false,
            preparing: None,
            answer: None,
            provisional: Vec::new(),
        }
    }

    /// Finds the route of a call from that trunk. A call without one fails when it is dialled.
    pub(super) fn plan(&mut self, cx: &Context, about: &About, trunk: &str) {
        if let Some(replaced) = about.replaced.as_deref() {
            replaced.hops().for_each(|hop| self.targets.push(hop));
            return;
        }
        let Ok(uri) = Uri::parse(about.invite.request_uri().unwrap_or_default()) else { return };
        let Some(route) = routing::route(&cx.config, &uri, about.service(), trunk) else { return };
        let secure = uri.scheme() == Scheme::Sips;
        for (trunk, target) in routing::targets(&cx.config, route) {
            if !routing::carries(target.transport, secure, about.emergency) {
                self.unsecured = true;
                continue;
            }
            self.targets.push(Hop {
                trunk: trunk.name.clone(),
                realm: trunk.realm,
                host: target.host.clone(),
                choice: routing::transport_choice(target.transport, secure),
                uri: None,
            });
        }
    }

    /// Ports and the DNS have so long, from the first that is waited for.
    pub(super) fn limit_preparation(&mut self, cx: &mut Context) {
        if self.preparing.is_none() {
            self.preparing = Some(cx.start_timer(PREPARE_LIMIT, TimerUser::Call(self.call, CallTimer::Prepare)));
        }
    }

    /// They are there, or not waited for any more.
    pub(super) fn prepared(&mut self, cx: &mut Context) {
        cx.stop_timer(&mut self.preparing);
    }

    /// That time is over.
    pub(super) fn preparation_over(&mut self) {
        self.preparing = None;
    }

    /// True where a target was left out that has no TLS, and none was dialled.
    pub(super) fn lacks_secure_target(&self) -> bool {
        self.unsecured && self.attempts.is_empty()
    }

    /// True once an INVITE has gone out.
    pub(super) fn has_dialled(&self) -> bool {
        !self.attempts.is_empty()
    }

    /// True while a target may have the call.
    pub(super) fn is_asking(&self) -> bool {
        self.attempts.iter().any(|a| a.state.is_open())
    }

    /// True once nothing more is to come.
    pub(super) fn is_done(&self) -> bool {
        self.attempts.iter().all(|a| a.state.is_done())
    }

    /// True when another target could be tried, or waited for.
    pub(super) fn has_alternative(&self) -> bool {
        self.targets.has_untried() || self.silent().is_some()
    }

    /// The number of the next attempt.
    pub(super) fn next_index(&self) -> Option<u32> {
        u32::try_from(self.attempts.len()).ok()
    }

    /// An INVITE has gone out.
    pub(super) fn began(&mut self, attempt: Attempt) {
        self.targets.on_tried(attempt.candidate.target.clone());
        self.attempts.push(attempt);
    }

    /// An attempt by its number.
    pub(super) fn attempt(&self, index: u32) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.index == index)
    }

    pub(super) fn attempt_mut(&mut self, index: u32) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.index == index)
    }

    /// Cancels what is under way, without waiting for what becomes of it.
    pub(super) fn cancel(&mut self, cx: &mut Context, reason: Option<&str>) {
        self.attempts.iter_mut().for_each(|attempt| attempt.cancel(cx, reason));
    }

    /// The same, but for the attempt that has the call.
    pub(super) fn cancel_others(&mut self, cx: &mut Context, index: u32, reason: &str) {
        let others = self.attempts.iter_mut().filter(|a| a.index != index);
        others.for_each(|attempt| attempt.cancel(cx, Some(reason)));
    }

    /// No final response to that INVITE will come, or matter, any more.
    pub(super) fn abandon(&mut self, cx: &mut Context, index: u32) {
        if let Some(attempt) = self.attempt_mut(index).filter(|a| !a.state.is_done()) {
            attempt.finish();
            cx.tx.abandon_client(attempt.tx);
        }
    }

    /// The target gave no answer at all, or could not be reached. False: it was not wanted any more.
    pub(super) fn lost(&mut self, cx: &mut Context, index: u32, dialling: bool) -> bool {
        let Some(attempt) = self.attempt_mut(index) else { return false };
        let silent = matches!(attempt.state, AttemptState::Calling { .. });
        attempt.finish();
        cx.stop_timer(&mut attempt.timer);
        let wanted = attempt.state.is_wanted() && dialling;
        if wanted && silent {
            cx.target_failed(&attempt.path, None);
        }
        wanted
    }

    /// The target has been silent for too long. True: it was passed over, and the next one is to be tried.
    pub(super) fn on_silence(&mut self, cx: &mut Context, index: u32) -> bool {
        let better = self.targets.has_better(|realm, target| cx.is_held(realm, target));
        let untried = self.targets.has_untried();
        let call = self.call;
        let Some(attempt) = self.attempt_mut(index) else { return false };
        attempt.timer = None;
        let AttemptState::Calling { spared } = attempt.state else { return false };
        attempt.state.note(AttemptEvent::Spare);
        if !spared {
            cx.target_failed(&attempt.path, None);
        }
        if !better && !spared && untried {
            attempt.timer = Some(cx.start_timer(SPARED_FOR, TimerUser::Call(call, CallTimer::Failover(index))));
        }
        let next = untried && (better || spared);
        if next {
            pass_over(cx, attempt);
        }
        next
    }

    /// A response came while the call dials, before anything is done with it: one of a target that was passed over may bring that back.
    pub(super) fn reconsider(&mut self, cx: &mut Context, index: u32, status: u16) -> Option<Revived> {
        self.attempt(index).filter(|a| a.state == AttemptState::PassedOver)?;
        let others = |which: fn(AttemptState) -> bool| self.attempts.iter().any(|a| which(a.state));
        let too_late = match status {
            // A challenge is a word too, and another try.
            ..200 | 401 | 407 => others(|state| matches!(state, AttemptState::Proceeding { .. })),
            200..300 => self.answer.is_some() || others(|state| state == AttemptState::Proceeding { rang: true }),
            _ => true,
        };
        if too_late { None } else { self.revive(cx, index) }
    }

    /// Nothing is left to dial: what was passed over is waited for after all. `None`: there is no such target.
    pub(super) fn back_to_the_silent(&mut self, cx: &mut Context) -> Option<Revived> {
        let silent = self.silent()?;
        let (index, tx) = (silent.index, silent.tx);
        let revived = self.revive(cx, index);
        cx.tx.resume_retransmitting(cx.now.mono, tx);
        revived
    }

    /// None of the targets that were passed over may have the call back: what they say now is too late.
    pub(super) fn forget_passed_over(&mut self) {
        for attempt in &mut self.attempts {
            attempt.state.note(AttemptEvent::Forget);
        }
    }

    /// The last target that was passed over and may still answer.
    fn silent(&self) -> Option<&Attempt> {
        self.attempts.iter().rfind(|a| a.state == AttemptState::PassedOver)
    }

    fn revive(&mut self, cx: &mut Context, index: u32) -> Option<Revived> {
        for other in self.attempts.iter_mut().filter(|a| a.state.is_open()) {
            match other.state {
                AttemptState::Calling { .. } => pass_over(cx, other),
                _ => other.cancel(cx, None),
            }
        }
        let attempt = self.attempt_mut(index)?;
        attempt.state.note(AttemptEvent::Revive);
        Some(Revived {
            pair: attempt.pair,
            candidate: attempt.candidate.clone(),
            path: attempt.path,
            tls_name: attempt.tls_name.clone(),
            uri: attempt.uri.clone(),
        })
    }

    /// The target of the last attempt once more, as another leg, by the way that it went, whatever that of its size was.
    pub(super) fn repeat_last(&mut self) {
        if let Some(attempt) = self.attempts.last() {
            self.targets.push_front(attempt.another_leg());
        }
    }

    /// The same for the target of any attempt.
    pub(super) fn repeat(&mut self, index: u32) {
        if let Some(candidate) = self.attempt(index).map(Attempt::another_leg) {
            self.targets.push_front(candidate);
        }
    }

    /// How often INVITEs went the way of an attempt.
    pub(super) fn sent_to(&self, path: &Path) -> usize {
        self.attempts.iter().filter(|a| a.path == *path).count()
    }

    /// The target of an attempt is asked again in the same leg, with the next CSeq number.
    pub(super) fn ask_again(&mut self, index: u32) {
        let Some(attempt) = self.attempt(index) else { return };
        let again = Some(Redial { tries: attempt.tries, cseq: attempt.cseq });
        let uri = Some(attempt.uri.clone());
        let candidate = Candidate { uri, again, large: Large::Stay, ..attempt.candidate.clone() };
        self.targets.push_front(candidate);
    }

    /// Notes a failure, if it tells more than what failed before.
    pub(super) fn note_failure(&mut self, status: u16, response: Option<&Message>) {
        self.failures.note(status, response);
    }

    /// What the caller is to be told of all that failed.
    pub(super) fn take_failure(&mut self) -> Option<Failure> {
        self.failures.take()
    }

    /// Puts the targets that a 3xx names before all others (RFC 3261 §8.1.3.4), what was to be tried before after them. False: it names none
    /// that may be followed.
    pub(super) fn follow(&mut self, cx: &Context, from: &Redirector<'_>, response: &Message) -> bool {
        let hops = self.redirects.follow(cx, from, response);
        let found = !hops.is_empty();
        if found {
            self.targets.redirect(hops);
        }
        found
    }

    /// A 2xx waits for ports, or for a PRACK.
    pub(super) fn hold_answer(&mut self, index: u32, response: Message) {
        self.answer = Some((index, response));
    }

    /// The 2xx that waits.
    pub(super) fn held_answer(&self) -> Option<&Message> {
        self.answer.as_ref().map(|(_, response)| response)
    }

    pub(super) fn take_answer(&mut self) -> Option<(u32, Message)> {
        self.answer.take()
    }

    /// A provisional response waits for ports; of many the first ones.
    pub(super) fn hold_provisional(&mut self, index: u32, response: &Message) {
        if self.provisional.len() < MAX_HELD {
            self.provisional.push((index, response.clone()));
        }
    }

    /// Those that wait, of attempts that are still wanted.
    pub(super) fn take_provisional(&mut self) -> Vec<(u32, Message)> {
        let mut held = std::mem::take(&mut self.provisional);
        held.retain(|(index, _)| self.attempt(*index).is_some_and(|a| a.state.is_wanted()));
        held
    }
}

fn pass_over(cx: &mut Context, attempt: &mut Attempt) {
    cx.stop_timer(&mut attempt.timer);
    attempt.state.note(AttemptEvent::PassOver);
    cx.tx.stop_retransmitting(attempt.tx);
}
