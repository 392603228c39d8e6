//! The called side's provisional responses, brought to the caller; reliable on either side, on both or on none (RFC 3262).
//!
//! Reliability is kept on each leg apart: toward the caller we repeat and wait for PRACK ourselves, toward the called side we take each
//! number once. Where both sides are reliable, the caller's PRACK is what acknowledges the called side's response, so that
//! offers and answers in it (§5) pass; where only the called side is, we acknowledge at once.

use std::time::Duration;

use super::challenge::MAX_TRIES;
use super::offer_answer::same_session;
use super::outgoing::Purpose;
use super::reliable::{self, OPTION, Open, Order, RAck, Waiting, Wish};
use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, CallPhase, body};
use crate::crossing::Crossing;
use crate::dialog::{DialogRef, PairId};
use crate::io::{Counter, DropReason, ReturnPath, Side};
use crate::policy::PrackPolicy;
use crate::sip::{Draft, HeaderId, Message, Method, Sdp};
use crate::store_pb::{self, command::Kind};
use crate::time::Instant;
use crate::transaction::ServerTxId;

/// RFC 3262 §3: T1, doubling without a limit, for 64 × T1.
const T1: Duration = Duration::from_millis(500);
const GIVE_UP: Duration = Duration::from_secs(32);
/// An emergency caller whose PRACK does not come through must not lose its call by that: this long before the called side
/// gives up, we acknowledge for it.
const EMERGENCY_GIVE_UP: Duration = Duration::from_secs(16);

impl Call {
    /// A response 101 to 199 to the INVITE of an attempt.
    pub(super) fn on_provisional(&mut self, cx: &mut Services, index: u32, response: &Message) {
        let sdp = body::find_sdp(response);
        let streams = body::Descriptions::of(response).streams();
        if !self.media.ensure(cx, streams) {
            self.uac.hold_provisional(index, response);
            return;
        }
        let Some(pair) = self.pairs.of_response(cx, self.uid, index, response) else { return };
        let theirs = reliable::rseq_of(response);
        if let Some(rseq) = theirs
            && self.pairs.early(pair).heard.hear(rseq) != Order::Next
        {
            cx.count(Counter::Dropped(DropReason::Rseq));
            return;
        }
        self.note_dialog(cx, pair, response);
        self.session_ids.learn(Side::Callee, response);
        let status = response.status().unwrap_or(180);
        // RFC 6228 §4: only for those who understand it.
        let wanted = status != 199 || reliable::has_option(&self.invite, HeaderId::Supported, "199");
        let wish = Wish::of(&self.invite);
        let ours = wanted && response.to_tag().is_some() && wish.is_reliable(theirs.is_some());
        self.note_offers(pair, sdp.is_some(), theirs.is_some(), ours);
        if let Some(rseq) = theirs.filter(|_| !ours) {
            self.say_prack(cx, pair, rseq);
        }
        if !wanted || self.invite_tx.is_none() {
            return;
        }
        let mut draft = self.toward_caller(cx, pair, status, response);
        draft.remove(HeaderId::RSeq);
        reliable::drop_option(&mut draft, HeaderId::Require, OPTION);
        // Made reliable by us, a description would become an offer that the called side never made.
        let delayed = body::find_sdp(&self.invite).is_none();
        let preview = ours && theirs.is_none() && delayed;
        if !preview || sdp.is_none() {
            self.offer_answer().put(cx, pair.callee(), response, !delayed, &mut draft);
        }
        if ours {
            draft.push(HeaderId::Require, OPTION);
            let waiting = Waiting { draft, theirs, sdp: sdp.is_some() && !preview };
            if !self.pairs.early(pair).sender.put(waiting) {
                cx.count(Counter::Dropped(DropReason::Rseq));
            }
            self.send_reliable(cx, pair);
        } else if let Some(tx) = self.invite_tx {
            self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
            cx.respond(tx, &mut draft);
            self.ringing.said(cx, draft, None);
        }
        self.note_ringing(cx, pair, status);
    }

    /// RFC 3261 §12.1.2, §13.2.2.4: the first response makes the route set, and the 2xx makes it anew. Of those between some
    /// have no route.
    fn note_dialog(&mut self, cx: &Services, pair: PairId, response: &Message) {
        let dialog = &mut self.pairs[pair.callee()].dialog;
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

    /// Responses that waited for ports.
    pub(super) fn release_provisional(&mut self, cx: &mut Services) {
        for (index, response) in self.uac.take_provisional() {
            if self.phase == CallPhase::Dialling {
                self.on_provisional(cx, index, &response);
            }
        }
    }

    fn note_ringing(&mut self, cx: &mut Services, pair: PairId, status: u16) {
        if !self.ringing.is_news(status) {
            return;
        }
        let progress = store_pb::Progress {
            call: self.uid.to_bytes().to_vec().into(),
            epoch: self.epoch.0,
            seq: self.journal.next_seq(),
            status: u32::from(status),
            target: self.early_target.clone(),
            callee: Some(self.callee.record(&self.pairs[pair.callee()], self.media.ports_toward(Side::Callee))),
            after_ms: Some(self.course.after_ms(cx.now.mono)),
        };
        self.journal.push(cx, Kind::Progress(progress));
    }

    /// RFC 3262 §5: a description in a reliable response answers the INVITE's offer, or is one.
    fn note_offers(&mut self, pair: PairId, sdp: bool, theirs: bool, ours: bool) {
        if !sdp {
            return;
        }
        // RFC 3261 §13.2.1, RFC 6337 §2.1: once there is an answer, what further responses describe is neither offer nor answer.
        let answered = body::find_sdp(&self.invite).is_some() || self.pairs.early(pair).agreed;
        let next = |offer: Option<Side>| match offer {
            Some(Side::Caller) => None,
            offer if answered => offer,
            _ => Some(Side::Callee),
        };
        if theirs {
            self.pairs[pair.callee()].offer = next(self.pairs[pair.callee()].offer);
        }
        if ours && (theirs || self.pairs[pair.caller()].offer.is_some()) {
            self.pairs[pair.caller()].offer = next(self.pairs[pair.caller()].offer);
        }
        let agreed = theirs && self.pairs[pair.callee()].offer.is_none();
        self.pairs.early(pair).agreed |= agreed;
    }

    /// Acknowledges the called side's response for a caller that cannot.
    fn say_prack(&mut self, cx: &mut Services, pair: PairId, rseq: u32) {
        let Some(cseq) = self.invite_cseq(pair) else { return };
        let called = pair.callee();
        let mut prack = self.pairs[called].dialog.request(&Method::Prack);
        prack.push(HeaderId::RAck, format!("{rseq} {cseq} INVITE"));
        self.session_ids.put(Side::Callee, &mut prack);
        self.send_on(cx, called, prack, Purpose::Alone);
        if cx.credentials(&self.callee.trunk).is_some() {
            // It may be sent again with an answer to a challenge, each time with the next number (RFC 3261 §22.2).
            self.pairs[called].dialog.local_cseq += u32::from(MAX_TRIES);
        }
        // An offer that nobody asked for, and that goes unanswered.
        self.pairs[called].offer.take_if(|by| *by == Side::Callee);
    }

    fn invite_cseq(&mut self, pair: PairId) -> Option<u32> {
        let index = self.pairs.early(pair).attempt()?;
        self.uac.attempt(index).map(|a| a.cseq)
    }

    /// Sends the next reliable response of an early dialog, if none is open there.
    pub(super) fn send_reliable(&mut self, cx: &mut Services, pair: PairId) {
        let Some(tx) = self.invite_tx else { return };
        let first = u32::from_be_bytes([self.claim_key.0[0], self.claim_key.0[1], self.claim_key.0[2], self.claim_key.0[3]]);
        let Some((rseq, waiting)) = self.pairs.early(pair).sender.next(first) else { return };
        let Waiting { mut draft, theirs, sdp } = waiting;
        draft.set(HeaderId::RSeq, rseq.to_string());
        let status = draft.status().unwrap_or(183);
        self.ladder.sent(cx.now.unix, self.caller.realm, &self.back, &draft);
        let Some(payload) = cx.respond(tx, &mut draft) else { return };
        draft.remove(HeaderId::RSeq);
        draft.clear_body();
        self.ringing.said(cx, draft, Some(pair));
        let timer = Some(self.repeat_in(cx, T1, pair));
        let until = cx.after(if self.emergency { EMERGENCY_GIVE_UP } else { GIVE_UP });
        self.pairs.early(pair).sender.open = Some(Open { rseq, theirs, status, payload, sdp, interval: T1, until, timer });
    }

    fn repeat_in(&self, cx: &mut Services, interval: Duration, pair: PairId) -> crate::timer::TimerId {
        cx.start_timer(interval, Timer::Call(self.id, CallTimer::Repeat18x(pair)))
    }

    /// Time to repeat a reliable response, or to give up waiting for its PRACK.
    pub(super) fn on_repeat_18x(&mut self, cx: &mut Services, pair: PairId) {
        let Some(open) = &mut self.pairs.early(pair).sender.open else { return };
        open.timer = None;
        let Some(tx) = self.invite_tx else { return };
        if cx.now.mono >= open.until {
            self.on_no_prack(cx, pair);
            return;
        }
        open.interval *= 2;
        let left = open.until.since(cx.now.mono);
        let (interval, status, payload) = (open.interval.min(left), open.status, open.payload.clone());
        cx.tx.respond(cx.now.mono, tx, status, payload);
        let timer = self.repeat_in(cx, interval, pair);
        if let Some(open) = &mut self.pairs.early(pair).sender.open {
            open.timer = Some(timer);
        }
    }

    fn on_no_prack(&mut self, cx: &mut Services, pair: PairId) {
        cx.count(Counter::Dropped(DropReason::NoPrack));
        if !self.emergency {
            // RFC 3262 §3: the INVITE is to be rejected with a 5xx.
            self.fail(cx, 504, "no PRACK");
            return;
        }
        let Some(open) = self.pairs.early(pair).sender.open.take() else { return };
        if let Some(theirs) = open.theirs {
            self.say_prack(cx, pair, theirs);
        }
        self.release_answer(cx);
        self.send_reliable(cx, pair);
    }

    /// PRACK of either side.
    pub(super) fn on_prack(&mut self, cx: &mut Services, at: DialogRef, tx: ServerTxId, back: ReturnPath, request: &Message) {
        let Some(rack) = RAck::of(request) else {
            self.refuse_request(cx, at.side, tx, &back, request, 400);
            return;
        };
        let first = at.side == Side::Caller && rack.cseq == self.invite.cseq() && &*rack.method == "INVITE";
        if !first {
            // Of a re-INVITE that the other far end was asked: its responses pass as they come.
            let known = self.reinvite_there(cx, at.side, rack.cseq).is_some();
            match known {
                true => self.forward(cx, at, tx, back, request),
                false => self.refuse_request(cx, at.side, tx, &back, request, 481),
            }
            return;
        }
        let Some(mut open) = self.pairs.early(at.pair).sender.acknowledge(rack.rseq) else {
            self.refuse_request(cx, at.side, tx, &back, request, 481);
            return;
        };
        cx.stop_timer(&mut open.timer);
        if open.theirs.is_some() {
            self.forward(cx, at, tx, back, request);
        } else {
            self.answer_prack(cx, at, (tx, &back), request, open.sdp);
        }
        self.release_answer(cx);
        self.send_reliable(cx, at.pair);
    }

    /// The called side sent no such response, and gets no PRACK. An offer in it has no way to go: what was just agreed (`agreed`) is agreed
    /// again where it asks for that (RFC 3262 §5); all else is refused.
    fn answer_prack(
        &mut self,
        cx: &mut Services,
        at: DialogRef,
        (tx, back): (ServerTxId, &ReturnPath),
        request: &Message,
        agreed: bool,
    ) {
        let Some(span) = body::find_sdp(request) else {
            return self.refuse_request(cx, Side::Caller, tx, back, request, 200);
        };
        let half = &self.pairs[at];
        if !agreed || half.offer.is_some() || !same_session(&body::sdp_bytes(&span), &half.remote_sdp) {
            return self.refuse_request(cx, Side::Caller, tx, back, request, 488);
        }
        let mut draft = request.response(200, None);
        draft.set_body(Some("application/sdp"), half.local_sdp.clone());
        if let Ok(sdp) = Sdp::parse(&body::sdp_bytes(&span)) {
            self.offer_answer().described(cx, at, &sdp, None);
        }
        self.ladder.sent(cx.now.unix, self.caller.realm, back, &draft);
        cx.respond(tx, &mut draft);
    }

    /// A re-INVITE that was passed on has its final response: PRACKs for its provisional ones may still come (RFC 3262 §3).
    pub(super) fn keep_reinvite(&mut self, cx: &Services, from: Side, here: u32, there: u32) {
        self.reinvites.retain(|r| r.from != from);
        self.reinvites.push(Reinvite { from, here, there, until: cx.after(GIVE_UP) });
    }

    /// The CSeq number on the other leg of a re-INVITE that is open, or was a while ago.
    fn reinvite_there(&self, cx: &Services, from: Side, cseq: u32) -> Option<u32> {
        let late = |r: &&Reinvite| r.from == from && r.here == cseq && cx.now.mono < r.until;
        let open = self.crossings.invite_of(from, cseq).map(Crossing::cseq);
        open.or_else(|| self.reinvites.iter().find(late).map(|r| r.there))
    }

    /// RAck as the other leg wants it: the response's number and the INVITE's are others there. `None`: they are unknown.
    pub(super) fn map_rack(&mut self, cx: &Services, from: DialogRef, request: &Message) -> Option<String> {
        let rack = RAck::of(request)?;
        if from.side == Side::Caller && rack.cseq == self.invite.cseq() {
            let rseq = self.pairs.early(from.pair).sender.theirs(rack.rseq)?;
            let cseq = self.invite_cseq(from.pair)?;
            return Some(format!("{rseq} {cseq} INVITE"));
        }
        let cseq = self.reinvite_there(cx, from.side, rack.cseq)?;
        Some(format!("{} {cseq} {}", rack.rseq, rack.method))
    }

    /// A 2xx must wait for a PRACK of its dialog (RFC 3262 §3), which it may begin.
    pub(super) fn must_wait_for_prack(&mut self, cx: &mut Services, index: u32, response: &Message) -> bool {
        let pair = self.pairs.of_response(cx, self.uid, index, response);
        pair.is_some_and(|pair| self.pairs.early(pair).sender.holds_2xx())
    }

    /// Puts the call's own Require and Supported into an INVITE to the called side.
    pub(super) fn offer_100rel(&self, cx: &Services, draft: &mut Draft) {
        let may = cx.config.trunk(&self.callee.trunk).is_none_or(|t| t.prack == PrackPolicy::Offer);
        reliable::offer(&self.invite, may && body::find_sdp(&self.invite).is_some(), draft);
    }
}

/// The CSeq numbers of a re-INVITE on both legs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reinvite {
    from: Side,
    here: u32,
    there: u32,
    /// RFC 3262 §3: a response is repeated no longer.
    until: Instant,
}
