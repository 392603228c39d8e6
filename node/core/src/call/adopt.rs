//! Going on with a call that another node had, or an earlier start of this one (rule J): what `takeover` decides of each leg is carried out here.

use std::time::Duration;

use super::Call;
use super::bridge::{Bridge, Exchange, Outcome};
use super::context::Context;
use super::takeover::{LegEvent, LegFacts, Takeover, TakeoverAction};
use super::timer::{CallTimer, TimerUser};
use super::uas::{Answering, Uas};
use crate::crossing::{Crossing, Origin};
use crate::dialog::DialogRef;
use crate::io::{Counter, Side, TakeoverStep};
use crate::replica::CSEQ_MAX;
use crate::sip::{Method, Sdp};

/// How often a node without a lease looks whether it has one again.
const LEASE_WAIT: Duration = Duration::from_secs(1);

/// What taking a call over touches.
pub(super) struct TakingOver<'a> {
    pub(super) bridge: Bridge<'a>,
    pub(super) uas: &'a mut Uas,
    pub(super) takeover: &'a mut Takeover,
}

impl TakingOver<'_> {
    /// The ports are decided: both far ends are asked at once. A call that was answered lately may lack its ACK there, and its 200 here.
    pub(super) fn on_ports(&mut self, cx: &mut Context) -> Option<Outcome> {
        for side in [Side::Caller, Side::Callee] {
            // Both are described before either is asked: an answer may come at once. And before ours is written, which goes by the family of theirs.
            let at = self.bridge.sides.toward(side);
            if let Ok(sdp) = Sdp::parse(&self.bridge.sides.pairs[at].remote_sdp) {
                self.bridge.offer_answer().described(cx, at, &sdp, None);
            }
        }
        for side in [Side::Caller, Side::Callee] {
            self.bridge.offer_own(cx, side);
        }
        let lately = self.takeover.invite_cseq();
        if let Some(cseq) = lately {
            self.bridge.acknowledge(cx, self.bridge.sides.toward(Side::Callee), cseq);
        }
        let answer = |side| lately.is_some() && side == Side::Caller;
        let ends = [Side::Caller, Side::Callee].map(|side| self.on(cx, side, LegEvent::Ports { answer: answer(side) }));
        ends.into_iter().flatten().next()
    }

    /// Something happens to a leg. What is left for the call to do.
    pub(super) fn on(&mut self, cx: &mut Context, side: Side, event: LegEvent) -> Option<Outcome> {
        let bridge = &mut self.bridge;
        if !cx.has_lease() && !matches!(event, LegEvent::Said { status: 200..=299, .. }) {
            // Rule I: the log may have given the call to another node meanwhile. What was said without a lease is asked for once more.
            self.takeover.leg_mut(side).put_off();
            cx.start_timer(LEASE_WAIT, TimerUser::Call(bridge.about.id, CallTimer::Takeover(side)));
            return None;
        }
        let leg = bridge.sides.leg(side);
        let facts = LegFacts {
            now: cx.now.mono,
            emergency: bridge.about.emergency,
            takes_update: leg.session.takes_update(),
            heard: bridge.media.is_heard(cx.now.mono, side) == Some(true),
            uid: bridge.about.uid,
            side,
        };
        let action = self.takeover.leg_mut(side).on(event, &facts);
        match action {
            TakeoverAction::Nothing => None,
            TakeoverAction::Answer(wait) => {
                let Bridge { about, sides, media, underway, .. } = bridge;
                let accepted = Answering { about, uas: self.uas, sides, media }.accept_again(cx);
                if let Some(accepted) = accepted {
                    underway.two_hundred.accepted(cx, Side::Caller, accepted);
                }
                cx.start_timer(wait, TimerUser::Call(about.id, CallTimer::Takeover(side)));
                None
            }
            TakeoverAction::Ask { leap } => {
                let to = bridge.sides.toward(side);
                let dialog = &mut bridge.sides.pairs[to].dialog;
                dialog.local_cseq = dialog.local_cseq.saturating_add(leap).min(CSEQ_MAX - 1);
                bridge.ask(cx, to, Method::Invite)
            }
            TakeoverAction::Update => bridge.ask(cx, bridge.sides.toward(side), Method::Update),
            TakeoverAction::Wait(after) => {
                // Whether media come from it is asked now, and known by then.
                bridge.media.ask(cx);
                cx.start_timer(after, TimerUser::Call(bridge.about.id, CallTimer::Takeover(side)));
                None
            }
            TakeoverAction::Done => {
                cx.count(Counter::Takeover(TakeoverStep::Stands, bridge.about.class()));
                None
            }
            TakeoverAction::MediaLost(after) => {
                cx.count(Counter::Takeover(TakeoverStep::Refused, bridge.about.class()));
                cx.start_timer(after, TimerUser::Call(bridge.about.id, CallTimer::Takeover(side)));
                None
            }
            TakeoverAction::End(status) => {
                cx.count(Counter::Takeover(TakeoverStep::Over, bridge.about.class()));
                Some(Outcome::LegOver(status))
            }
        }
    }
}

impl Bridge<'_> {
    /// What was last said to that side, with our address and ports in it: what is said next.
    fn offer_own(&mut self, cx: &Context, side: Side) {
        let at = self.sides.toward(side);
        let other = self.sides.pairs[at.other()].remote_sdp.clone();
        let (leg, half) = self.sides.leg_and_half(at);
        self.media.readdress(cx, (leg, half), &other, self.about.epoch);
    }

    /// A request of ours with that description goes out.
    fn ask(&mut self, cx: &mut Context, to: DialogRef, method: Method) -> Option<Outcome> {
        let described = !self.sides.pairs[to].local_sdp.is_empty();
        // Nothing was ever described to it: an INVITE would ask for an offer that nobody answers.
        let method = if described { method } else { Method::Options };
        let facts = Exchange { offered: described, ..Exchange::of_takeover() };
        let crossing = Crossing::new(cx.serial(), to, Origin::Refresh(method), facts);
        self.cross(cx, crossing, true)
    }
}

impl Call {
    /// What comes of a request of ours within the dialogs, if anything does.
    pub(super) fn settle(&mut self, cx: &mut Context, outcome: Option<Outcome>) {
        match outcome {
            None => {}
            Some(Outcome::SessionLost(status)) => self.lose(cx, "session timer", "Session timer expired", status),
            Some(Outcome::LegOver(status)) => self.lose(cx, "takeover", "The other party was lost with its node", status),
            Some(Outcome::Asked { side, status, retry_after }) => {
                self.on_takeover(cx, side, LegEvent::Said { status, retry_after });
            }
        }
    }

    /// Something happens to a leg of a call that is taken over.
    pub(super) fn on_takeover(&mut self, cx: &mut Context, side: Side, event: LegEvent) {
        let outcome = self.taking_over().and_then(|mut taking| taking.on(cx, side, event));
        self.takeover.take_if(|takeover| takeover.is_done());
        self.settle(cx, outcome);
    }
}
