//! The called side's provisional responses, brought to the caller; reliable on either side, on both or on none (RFC 3262).
//!
//! Reliability is kept on each leg apart: toward the caller we repeat and wait for PRACK ourselves, toward the called side we take each
//! number once. Where both sides are reliable, the caller's PRACK is what acknowledges the called side's response, so that
//! offers and answers in it (§5) pass; where only the called side is, we acknowledge at once.

use std::time::Duration;

use super::bridge::Underway;
use super::challenge::MAX_TRIES;
use super::context::Context;
use super::offer_answer::same_session;
use super::records::Records;
use super::reliable::{self, GIVE_UP, OPTION, Open, Order, T1, Waiting, Wish};
use super::timer::{CallTimer, TimerUser};
use super::uac::Uac;
use super::{body, uas};
use crate::crossing::{Asked, Purpose};
use crate::dialog::{DialogRef, PairId};
use crate::io::{Counter, DropReason, Side};
use crate::policy::PrackPolicy;
use crate::sip::{Draft, HeaderId, Message, Method, Sdp};

/// An emergency caller whose PRACK does not come through must not lose its call by that: this long before the called side
/// gives up, we acknowledge for it.
const EMERGENCY_GIVE_UP: Duration = Duration::from_secs(16);

/// What a provisional response touches on its way to the caller, and the PRACK for it.
pub(super) struct Provisional<'a> {
    pub(super) to: uas::Answering<'a>,
    pub(super) uac: &'a mut Uac,
    pub(super) underway: &'a mut Underway,
    pub(super) records: &'a mut Records,
}

/// What becomes of a reliable response whose time to be repeated has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Repeated {
    /// It was sent again, or has its PRACK.
    Going,
    /// No PRACK came: RFC 3262 §3, the INVITE is to be rejected with a 5xx.
    NoPrack,
    /// No PRACK came from an emergency caller: we have acknowledged it, and what waited for that goes on.
    Acknowledged,
}

/// What becomes of a PRACK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Pracked {
    /// It was refused.
    Refused,
    /// It was answered here, and what waited for it goes on.
    Answered,
    /// It goes to the called side, with this RAck, and what waited for it goes on.
    PassOn(String),
}

impl Provisional<'_> {
    /// A response 101 to 199 to the INVITE of an attempt.
    pub(super) fn on_response(&mut self, cx: &mut Context, index: u32, response: &Message) {
        let sdp = body::find_sdp(response);
        let streams = body::Descriptions::of(response).streams();
        if !self.to.media.ensure(cx, streams) {
            self.uac.hold_provisional(index, response);
            return;
        }
        let Some(pair) = self.to.sides.pairs.of_response(cx, self.to.about.uid, index, response) else { return };
        let theirs = reliable::rseq_of(response);
        if let Some(rseq) = theirs
            && self.to.sides.pairs.early(pair).heard.hear(rseq) != Order::Next
        {
            cx.count(Counter::Dropped(DropReason::Rseq));
            return;
        }
        self.note_dialog(cx, pair, response);
        self.to.sides.session_ids.learn(Side::Callee, response);
        let status = response.status().unwrap_or(180);
        let invite = &self.to.about.invite;
        // RFC 6228 §4: only for those who understand it.
        let wanted = status != 199 || reliable::has_option(invite, HeaderId::Supported, "199");
        let ours = wanted && response.to_tag().is_some() && Wish::of(invite).is_reliable(theirs.is_some());
        self.note_offers(pair, sdp.is_some(), theirs.is_some(), ours);
        if let Some(rseq) = theirs.filter(|_| !ours) {
            self.say_prack(cx, pair, rseq);
        }
        if !wanted || !self.to.uas.is_open() {
            return;
        }
        self.bring(cx, pair, response, (theirs, ours));
        self.note_ringing(cx, pair, status);
    }

    /// The response goes to the caller. `theirs`: the called side's number, where it is reliable there; `ours`: it is reliable here.
    fn bring(&mut self, cx: &mut Context, pair: PairId, response: &Message, (theirs, ours): (Option<u32>, bool)) {
        let sdp = body::find_sdp(response).is_some();
        let mut draft = self.to.passed_on(cx, pair, response.status().unwrap_or(180), response);
        draft.remove(HeaderId::RSeq);
        reliable::drop_option(&mut draft, HeaderId::Require, OPTION);
        // Made reliable by us, a description would become an offer that the called side never made.
        let delayed = body::find_sdp(&self.to.about.invite).is_none();
        let preview = ours && theirs.is_none() && delayed;
        if !preview || !sdp {
            self.to.offer_answer().put(cx, pair.callee(), response, !delayed, &mut draft);
        }
        if ours {
            draft.push(HeaderId::Require, OPTION);
            let waiting = Waiting { draft, theirs, sdp: sdp && !preview };
            if !self.to.sides.pairs.early(pair).sender.put(waiting) {
                cx.count(Counter::Dropped(DropReason::Rseq));
            }
            self.send_next(cx, pair);
        } else if self.to.uas.is_open() {
            self.to.say(cx, &mut draft);
            self.to.uas.ringing.said(cx, draft, None);
        }
    }

    /// RFC 3261 §12.1.2, §13.2.2.4: the first response makes the route set, and the 2xx makes it anew. Of those between some
    /// have no route.
    fn note_dialog(&mut self, cx: &Context, pair: PairId, response: &Message) {
        let dialog = &mut self.to.sides.pairs[pair.callee()].dialog;
        let known = dialog.remote_tag.as_deref() == response.to_tag();
        if response.to_tag().is_none() {
            return;
        }
        if known && response.first(HeaderId::RecordRoute).is_none() {
            dialog.on_target_refresh(response);
        } else {
            dialog.on_dialog_response(response);
            cx.drop_own_routes(dialog);
        }
    }

    fn note_ringing(&mut self, cx: &mut Context, pair: PairId, status: u16) {
        if self.to.uas.ringing.is_news(status) {
            let half = &self.to.sides.pairs[pair.callee()];
            let callee = self.to.sides.callee.record(half, self.to.media.ports_toward(Side::Callee));
            self.records.progress(cx, self.to.about, status, &self.uac.target, callee);
        }
    }

    /// RFC 3262 §5: a description in a reliable response answers the INVITE's offer, or is one.
    fn note_offers(&mut self, pair: PairId, sdp: bool, theirs: bool, ours: bool) {
        if !sdp {
            return;
        }
        let pairs = &mut self.to.sides.pairs;
        // RFC 3261 §13.2.1, RFC 6337 §2.1: once there is an answer, what further responses describe is neither offer nor answer.
        let answered = body::find_sdp(&self.to.about.invite).is_some() || pairs.early(pair).agreed;
        let next = |offer: Option<Side>| match offer {
            Some(Side::Caller) => None,
            offer if answered => offer,
            _ => Some(Side::Callee),
        };
        if theirs {
            pairs[pair.callee()].offer = next(pairs[pair.callee()].offer);
        }
        if ours && (theirs || pairs[pair.caller()].offer.is_some()) {
            pairs[pair.caller()].offer = next(pairs[pair.caller()].offer);
        }
        let agreed = theirs && pairs[pair.callee()].offer.is_none();
        pairs.early(pair).agreed |= agreed;
    }

    /// Acknowledges the called side's response for a caller that cannot.
    fn say_prack(&mut self, cx: &mut Context, pair: PairId, rseq: u32) {
        let Some(cseq) = self.invite_cseq(pair) else { return };
        let called = pair.callee();
        let mut prack = self.to.sides.pairs[called].dialog.request(&Method::Prack);
        prack.push(HeaderId::RAck, format!("{rseq} {cseq} INVITE"));
        self.to.sides.session_ids.put(Side::Callee, &mut prack);
        self.underway.courier(self.to.about.id, self.to.sides).send_own(cx, called, Purpose::Alone, prack);
        let half = &mut self.to.sides.pairs[called];
        if cx.credentials(&self.to.sides.callee.trunk).is_some() {
            // It may be sent again with an answer to a challenge, each time with the next number (RFC 3261 §22.2).
            half.dialog.local_cseq += u32::from(MAX_TRIES);
        }
        // An offer that nobody asked for, and that goes unanswered.
        half.offer.take_if(|by| *by == Side::Callee);
    }

    fn invite_cseq(&mut self, pair: PairId) -> Option<u32> {
        let index = self.to.sides.pairs.early(pair).attempt()?;
        self.uac.attempt(index).map(|a| a.cseq)
    }

    /// Sends the next reliable response of an early dialog, if none is open there.
    pub(super) fn send_next(&mut self, cx: &mut Context, pair: PairId) {
        if !self.to.uas.is_open() {
            return;
        }
        let about = self.to.about;
        let first = u32::from_be_bytes([about.claim_key.0[0], about.claim_key.0[1], about.claim_key.0[2], about.claim_key.0[3]]);
        let Some((rseq, waiting)) = self.to.sides.pairs.early(pair).sender.next(first) else { return };
        let Waiting { mut draft, theirs, sdp } = waiting;
        draft.set(HeaderId::RSeq, rseq.to_string());
        let status = draft.status().unwrap_or(183);
        let Some(payload) = self.to.say(cx, &mut draft) else { return };
        draft.remove(HeaderId::RSeq);
        draft.clear_body();
        self.to.uas.ringing.said(cx, draft, Some(pair));
        let timer = Some(self.repeat_in(cx, T1, pair));
        let until = cx.after(if about.emergency { EMERGENCY_GIVE_UP } else { GIVE_UP });
        self.to.sides.pairs.early(pair).sender.open =
            Some(Open { rseq, theirs, status, payload, sdp, interval: T1, until, timer });
    }

    fn repeat_in(&self, cx: &mut Context, interval: Duration, pair: PairId) -> crate::timer::TimerId {
        cx.start_timer(interval, TimerUser::Call(self.to.about.id, CallTimer::Repeat18x(pair)))
    }

    /// Time to repeat a reliable response, or to give up waiting for its PRACK.
    pub(super) fn on_repeat_due(&mut self, cx: &mut Context, pair: PairId) -> Repeated {
        let Some(open) = &mut self.to.sides.pairs.early(pair).sender.open else { return Repeated::Going };
        open.timer = None;
        let Some(tx) = self.to.uas.tx() else { return Repeated::Going };
        if cx.now.mono >= open.until {
            return self.on_no_prack(cx, pair);
        }
        open.interval *= 2;
        let left = open.until.since(cx.now.mono);
        let (interval, status, payload) = (open.interval.min(left), open.status, open.payload.clone());
        cx.tx.respond(cx.now.mono, tx, status, payload);
        let timer = self.repeat_in(cx, interval, pair);
        if let Some(open) = &mut self.to.sides.pairs.early(pair).sender.open {
            open.timer = Some(timer);
        }
        Repeated::Going
    }

    fn on_no_prack(&mut self, cx: &mut Context, pair: PairId) -> Repeated {
        cx.count(Counter::Dropped(DropReason::NoPrack));
        if !self.to.about.emergency {
            return Repeated::NoPrack;
        }
        let Some(open) = self.to.sides.pairs.early(pair).sender.open.take() else { return Repeated::Going };
        if let Some(theirs) = open.theirs {
            self.say_prack(cx, pair, theirs);
        }
        Repeated::Acknowledged
    }

    /// The caller's PRACK for a response of ours to its INVITE.
    pub(super) fn on_prack(&mut self, cx: &mut Context, at: DialogRef, asked: &Asked, rseq: u32) -> Pracked {
        let Some(mut open) = self.to.sides.pairs.early(at.pair).sender.acknowledge(rseq) else {
            self.to.sides.refuse(cx, at.side, asked, 481);
            return Pracked::Refused;
        };
        cx.stop_timer(&mut open.timer);
        let cseq = self.invite_cseq(at.pair);
        if let (Some(theirs), Some(cseq)) = (open.theirs, cseq) {
            return Pracked::PassOn(format!("{theirs} {cseq} INVITE"));
        }
        self.answer_prack(cx, at, asked, open.sdp);
        Pracked::Answered
    }

    /// The called side sent no such response, and gets no PRACK. An offer in it has no way to go: what was just agreed (`agreed`) is agreed
    /// again where it asks for that (RFC 3262 §5); all else is refused.
    fn answer_prack(&mut self, cx: &mut Context, at: DialogRef, asked: &Asked, agreed: bool) {
        let Asked { request, server, back } = asked;
        let Some(span) = body::find_sdp(request) else {
            return self.to.sides.refuse(cx, Side::Caller, asked, 200);
        };
        let half = &self.to.sides.pairs[at];
        if !agreed || half.offer.is_some() || !same_session(&body::sdp_bytes(&span), &half.remote_sdp) {
            return self.to.sides.refuse(cx, Side::Caller, asked, 488);
        }
        let mut draft = request.response(200, None);
        draft.set_body(Some("application/sdp"), half.local_sdp.clone());
        if let Ok(sdp) = Sdp::parse(&body::sdp_bytes(&span)) {
            self.to.offer_answer().described(cx, at, &sdp, None);
        }
        self.to.sides.respond(cx, Side::Caller, *server, back, &mut draft);
    }

    /// A 2xx must wait for a PRACK of its dialog (RFC 3262 §3), which it may begin.
    pub(super) fn holds_2xx(&mut self, cx: &mut Context, index: u32, response: &Message) -> bool {
        let pairs = &mut self.to.sides.pairs;
        let pair = pairs.of_response(cx, self.to.about.uid, index, response);
        pair.is_some_and(|pair| pairs.early(pair).sender.holds_2xx())
    }

    /// The caller has heard nothing for a minute: the last word again, or one of our own.
    pub(super) fn say_again(&mut self, cx: &mut Context) {
        self.to.uas.ringing.await_word(cx);
        let pairs = &self.to.sides.pairs;
        let mut draft = match self.to.uas.ringing.last_word(|pair| pairs.lives(pair)) {
            Some((draft, Some(pair))) => {
                // RFC 3262 §3: with a number of its own; while one waits for its PRACK, its copies are word enough.
                let sender = &mut self.to.sides.pairs.early(pair).sender;
                if sender.open.is_none() {
                    sender.put(Waiting { draft, theirs: None, sdp: false });
                    self.send_next(cx, pair);
                }
                return;
            }
            Some((draft, None)) => draft,
            None if Wish::of(&self.to.about.invite) == Wish::Required => return self.say_anew(cx),
            None => {
                let mut draft = self.to.own_response(cx, pairs.current(), 183, None);
                self.to.sides.session_ids.put(Side::Caller, &mut draft);
                draft
            }
        };
        self.to.say(cx, &mut draft);
    }

    /// The same for a caller that takes reliable ones alone, and whose last word was of a dialog that is over: in the one that began last. Where
    /// none has begun, there is none to say it in.
    fn say_anew(&mut self, cx: &mut Context) {
        let pair = self.to.sides.pairs.latest();
        if !self.to.sides.pairs.lives(pair) || self.to.sides.pairs.early(pair).sender.open.is_some() {
            return;
        }
        let mut draft = self.to.own_response(cx, pair, 183, None);
        self.to.sides.session_ids.put(Side::Caller, &mut draft);
        draft.push(HeaderId::Require, OPTION);
        self.to.sides.pairs.early(pair).sender.put(Waiting { draft, theirs: None, sdp: false });
        self.send_next(cx, pair);
    }
}

/// Puts the call's own Require and Supported into an INVITE to the called side, on that trunk.
pub(super) fn offer_100rel(cx: &Context, invite: &Message, trunk: &str, draft: &mut Draft) {
    let may = cx.config.trunk(trunk).is_none_or(|t| t.prack == PrackPolicy::Offer);
    reliable::offer(invite, may && body::find_sdp(invite).is_some(), draft);
}
