//! Is it the far end that asks, from an address that anybody may have (AC-52)? It is asked at the one where it was last seen, and its media
//! tell.

use std::time::Duration;

use super::context::Context;
use super::timer::{CallTimer, TimerUser};
use super::{Call, CallPhase};
use crate::crossing::Purpose;
use crate::io::{Counter, DropReason, MisrouteAction, ReturnPath, Side, SideHeard};
use crate::sip::{Message, Method};
use crate::time::Instant;

/// A request is held for so long at the most: a far end that has moved repeats a BYE for 32 s, and a caller waits for no more than that.
const LONGEST: Duration = Duration::from_secs(2);
/// Before it is over it is looked where media come from now; the engine answers in microseconds.
const LOOK: Duration = Duration::from_millis(1800);
/// Requests of one leg that are held: a far end that has moved has one or two under way.
const MAX_HELD: usize = 4;

/// One question about a leg.
#[derive(Debug)]
struct Doubt {
    until: Instant,
    held: Vec<(ReturnPath, Message)>,
    /// What was heard of the far end when the question was asked.
    heard: Option<SideHeard>,
    looked: bool,
    /// The far end has answered from where it was: it has not moved. Nothing is asked again before the time is over.
    there: bool,
}

/// The questions about both legs, the caller's first.
#[derive(Debug, Default)]
pub struct Doubts([Option<Box<Doubt>>; 2]);

impl Doubts {
    fn of(&mut self, side: Side) -> &mut Option<Box<Doubt>> {
        &mut self.0[usize::from(side == Side::Callee)]
    }

    /// True while a question about that leg is open.
    pub fn is_open(&self, side: Side) -> bool {
        self.0[usize::from(side == Side::Callee)].is_some()
    }

    /// Holds a request until it is clear whose it is. One question a leg at a time. True: it is the first, and the question is to be asked.
    fn hold(&mut self, cx: &mut Context, side: Side, back: ReturnPath, request: &Message) -> bool {
        if let Some(doubt) = self.of(side) {
            let copy = doubt.held.iter().any(|(_, held)| held.raw() == request.raw());
            if doubt.there || (!copy && doubt.held.len() >= MAX_HELD) {
                cx.count(Counter::Dropped(DropReason::Source));
            } else if !copy {
                doubt.held.push((back, request.clone()));
            }
            return false;
        }
        cx.count(Counter::Misrouted(request.method().label(), MisrouteAction::Doubt));
        let held = vec![(back, request.clone())];
        *self.of(side) = Some(Box::new(Doubt { until: cx.after(LONGEST), held, heard: None, looked: false, there: false }));
        true
    }

    /// The media engine has said what it hears.
    pub(super) fn on_heard(&mut self, sides: [SideHeard; 2]) {
        for (doubt, heard) in self.0.iter_mut().zip(sides) {
            if let Some(doubt) = doubt {
                doubt.heard.get_or_insert(heard);
            }
        }
    }

    /// The far end answered where it was asked. That it knows of no such call is no sign of it.
    pub fn on_answer(&mut self, cx: &mut Context, side: Side, status: u16) {
        if status >= 200 && !matches!(status, 408 | 481) {
            self.refute(cx, side);
        }
    }

    /// It has not moved: what was held is a forger's.
    fn refute(&mut self, cx: &mut Context, side: Side) {
        let Some(doubt) = self.of(side) else { return };
        doubt.there = true;
        for _ in doubt.held.drain(..) {
            cx.count(Counter::Dropped(DropReason::Source));
        }
    }

    /// Time to look where media come from: how much is left until it is decided. `None`: that is now.
    fn look(&mut self, cx: &Context, side: Side) -> Option<Duration> {
        let doubt = self.of(side).as_mut()?;
        let first = !std::mem::replace(&mut doubt.looked, true);
        first.then(|| doubt.until.since(cx.now.mono))
    }

    /// What is then to go on. `now`: what is heard of the far end.
    fn decide(&mut self, cx: &mut Context, side: Side, now: SideHeard) -> Vec<(ReturnPath, Message)> {
        let Some(doubt) = self.of(side) else { return Vec::new() };
        let before = doubt.heard.unwrap_or_default();
        if before.source.is_some() && before.source == now.source && now.packets > before.packets {
            self.refute(cx, side);
        }
        self.of(side).take().map(|doubt| doubt.held).unwrap_or_default()
    }
}

impl Call {
    /// Holds a request until it is clear whose it is.
    pub fn doubt(&mut self, cx: &mut Context, side: Side, back: ReturnPath, request: &Message) {
        if !self.doubts.hold(cx, side, back, request) {
            return;
        }
        cx.start_timer(LOOK, TimerUser::Call(self.about.id, CallTimer::Doubt(side)));
        self.media.ask(cx);
        if self.phase != CallPhase::Over && !self.sides.leg(side).gone {
            let to = self.sides.pairs.at_request(side, request);
            let mut options = self.sides.pairs[to].dialog.request(&Method::Options);
            self.sides.session_ids.put(side, &mut options);
            self.courier().send_own(cx, to, Purpose::Question, options);
        }
    }

    /// Time to look where media come from, or to decide. What is then to go on.
    pub fn on_doubt_due(&mut self, cx: &mut Context, side: Side) -> Vec<(ReturnPath, Message)> {
        let Some(rest) = self.doubts.look(cx, side) else {
            return self.doubts.decide(cx, side, self.media.last_heard(side));
        };
        self.media.ask(cx);
        cx.start_timer(rest, TimerUser::Call(self.about.id, CallTimer::Doubt(side)));
        Vec::new()
    }
}
