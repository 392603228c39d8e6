//! Is it the far end that asks, from an address that anybody may have (AC-52)? It is asked at the one where it was last seen, and its media
//! tell.

use std::time::Duration;

use super::outgoing::Purpose;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase};
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
pub(super) struct Doubt {
    until: Instant,
    held: Vec<(ReturnPath, Message)>,
    /// What was heard of the far end when the question was asked.
    heard: Option<SideHeard>,
    looked: bool,
    /// The far end has answered from where it was: it has not moved. Nothing is asked again before the time is over.
    there: bool,
}

impl Call {
    /// Holds a request until it is clear whose it is. One question a leg at a time.
    pub fn doubt(&mut self, cx: &mut Services, side: Side, back: ReturnPath, request: &Message) {
        let at = usize::from(side == Side::Callee);
        if let Some(doubt) = &mut self.doubts[at] {
            let copy = doubt.held.iter().any(|(_, held)| held.raw() == request.raw());
            if doubt.there || (!copy && doubt.held.len() >= MAX_HELD) {
                cx.count(Counter::Dropped(DropReason::Source));
            } else if !copy {
                doubt.held.push((back, request.clone()));
            }
            return;
        }
        cx.count(Counter::Misrouted(request.method().label(), MisrouteAction::Doubt));
        let held = vec![(back, request.clone())];
        self.doubts[at] = Some(Box::new(Doubt { until: cx.after(LONGEST), held, heard: None, looked: false, there: false }));
        cx.start_timer(LOOK, Timer::Call(self.id, CallTimer::Doubt(side)));
        self.media.ask(cx);
        if self.phase != CallPhase::Over && !self.leg(side).gone {
            let to = self.dialog_of(side, request);
            let mut options = self.pairs[to].dialog.request(&Method::Options);
            self.session_ids.put(side, &mut options);
            self.send_on(cx, to, options, Purpose::Question);
        }
    }

    /// True while a question about that leg is open.
    pub fn is_doubted(&self, side: Side) -> bool {
        self.doubts[usize::from(side == Side::Callee)].is_some()
    }

    /// The media engine has said what it hears.
    pub(super) fn on_heard_in_doubt(&mut self, sides: [SideHeard; 2]) {
        for (doubt, heard) in self.doubts.iter_mut().zip(sides) {
            if let Some(doubt) = doubt {
                doubt.heard.get_or_insert(heard);
            }
        }
    }

    /// The far end answered where it was asked. That it knows of no such call is no sign of it.
    pub fn on_doubt_answer(&mut self, cx: &mut Services, side: Side, status: u16) {
        if status >= 200 && !matches!(status, 408 | 481) {
            self.refute(cx, side);
        }
    }

    /// It has not moved: what was held is a forger's.
    fn refute(&mut self, cx: &mut Services, side: Side) {
        let Some(doubt) = &mut self.doubts[usize::from(side == Side::Callee)] else { return };
        doubt.there = true;
        for _ in doubt.held.drain(..) {
            cx.count(Counter::Dropped(DropReason::Source));
        }
    }

    /// Time to look where media come from, or to decide. What is then to go on.
    pub fn on_doubt_due(&mut self, cx: &mut Services, side: Side) -> Vec<(ReturnPath, Message)> {
        let at = usize::from(side == Side::Callee);
        let now = self.media.last_heard(side);
        let Some(doubt) = &mut self.doubts[at] else { return Vec::new() };
        if !std::mem::replace(&mut doubt.looked, true) {
            let rest = doubt.until.since(cx.now.mono);
            self.media.ask(cx);
            cx.start_timer(rest, Timer::Call(self.id, CallTimer::Doubt(side)));
            return Vec::new();
        }
        let before = doubt.heard.unwrap_or_default();
        if before.source.is_some() && before.source == now.source && now.packets > before.packets {
            self.refute(cx, side);
        }
        self.doubts[at].take().map(|doubt| doubt.held).unwrap_or_default()
    }
}
