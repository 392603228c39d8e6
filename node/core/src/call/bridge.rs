//! What joins the two sides of a call once there are dialogs: whatever a request within it touches on its way from one to the other. `forward`
//! carries requests over, `offer` has what their descriptions mean, `refresh` our own, `acknowledge` the ACKs and BYEs of either side.

use super::CallPhase;
use super::about::About;
use super::context::Context;
use super::courier::Courier;
use super::headers;
use super::media::CallMedia;
use super::offer_answer::{AgreedDescriptions, OfferAnswer};
use super::records::{Records, dialog_record};
use super::sides::Sides;
use super::transfer::Refers;
use super::two_hundred::TwoHundred;
use crate::crossing::{Crossing, Crossings, Purpose};
use crate::dialog::{DialogRef, PairId};
use crate::ids::LocalId;
use crate::io::Side;
use crate::sip::{Draft, HeaderId, Message, Method, Sdp};
use crate::time::Instant;
use crate::transaction::ClientUser;

/// What a request that crosses means for offers and answers, and what is taken back should it come to nothing.
#[derive(Debug, Default)]
pub struct Exchange {
    /// It has an offer.
    pub(super) offered: bool,
    /// A reliable provisional response has answered that offer (RFC 3262 §5).
    pub(super) answered: bool,
    /// It has none, and a reliable provisional response has: the PRACK for that answers.
    pub(super) early_offer: bool,
    /// It is ours, and asks a far end to go on with this node.
    pub(super) takes_over: bool,
    /// What stood before its offer; `None`: nothing is to be taken back.
    pub(super) before: Option<AgreedDescriptions>,
    /// Of a PRACK: which response it acknowledges, in the numbers of the leg where it goes.
    pub(super) rack: Option<String>,
    /// How often it was sent again with a longer interval (422).
    pub(super) raises: u8,
    /// What our Contacts said of the far ends before it came, the caller's leg first; `None`: it changed nothing of that.
    pub(super) contacts: Option<[Box<str>; 2]>,
}

impl Exchange {
    /// Of a refresh.
    pub(super) fn of_refresh(offered: bool) -> Exchange {
        Exchange { offered, ..Exchange::default() }
    }

    /// Of a request that takes a leg over.
    pub(super) fn of_takeover() -> Exchange {
        Exchange { offered: true, takes_over: true, ..Exchange::default() }
    }
}

/// The requests within the dialogs of a call that are under way, and what is kept of those that were.
pub(super) struct Underway {
    pub(super) crossings: Crossings<Exchange>,
    /// What is kept for a 2xx.
    pub(super) two_hundred: TwoHundred,
    /// The last re-INVITE of each side.
    pub(super) reinvites: Reinvites,
    /// REFERs that were passed on.
    pub(super) refers: Refers,
}

impl Underway {
    /// Of a call that has none.
    pub(super) fn new(call: LocalId) -> Underway {
        Underway {
            crossings: Crossings::default(),
            two_hundred: TwoHundred::new(call),
            reinvites: Reinvites::default(),
            refers: Refers::default(),
        }
    }

    /// Forgets all of it, without a word to those who wait: another node has the call, and hears them.
    pub(super) fn drop_all(&mut self, cx: &mut Context) {
        for mut crossing in self.crossings.take_all() {
            for out in crossing.state_mut().take_outs() {
                cx.tx.set_client_user(out.tx, ClientUser::Nobody);
                cx.tx.abandon_client(out.tx);
            }
            if let Some(asked) = crossing.into_asked() {
                cx.tx.drop_server(asked.server);
            }
        }
        self.two_hundred.drop_all(cx);
    }

    /// Nothing more is to come.
    pub(super) fn is_done(&self) -> bool {
        !self.two_hundred.any_pending() && self.crossings.is_empty()
    }

    /// What carrying requests touches, of the call with this number.
    pub(super) fn courier<'a>(&'a mut self, call: LocalId, sides: &'a mut Sides) -> Courier<'a, Exchange> {
        Courier { crossings: &mut self.crossings, lines: sides.lines(call, &mut self.two_hundred) }
    }

    /// The CSeq number on the other leg of a re-INVITE that is open, or was a while ago.
    pub(super) fn reinvite_there(&self, now: Instant, from: Side, cseq: u32) -> Option<u32> {
        self.crossings.invite_of(from, cseq).map(Crossing::cseq).or_else(|| self.reinvites.there(now, from, cseq))
    }
}

/// Re-INVITEs that have their final response: PRACKs for their provisional ones may still come (RFC 3262 §3).
#[derive(Debug, Default)]
pub(super) struct Reinvites(Vec<Reinvite>);

/// The CSeq numbers of a re-INVITE on both legs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reinvite {
    pub(super) from: Side,
    pub(super) here: u32,
    pub(super) there: u32,
    /// RFC 3262 §3: a response is repeated no longer.
    pub(super) until: Instant,
}

impl Reinvites {
    /// One of that side is over: the last one is kept.
    pub(super) fn keep(&mut self, reinvite: Reinvite) {
        self.0.retain(|r| r.from != reinvite.from);
        self.0.push(reinvite);
    }

    fn there(&self, now: Instant, from: Side, cseq: u32) -> Option<u32> {
        let late = |r: &&Reinvite| r.from == from && r.here == cseq && now < r.until;
        self.0.iter().find(late).map(|r| r.there)
    }
}

/// What comes of a request of ours within the dialogs that is the call's to decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Outcome {
    /// A refresh of ours found nobody: both legs end (RFC 4028 §10). What it got, or what stands for it.
    SessionLost(u16),
    /// A leg that was taken over is no more: the call ends. The status that says so.
    LegOver(u16),
    /// What the far end of that leg said to being taken over; `retry_after` in seconds.
    Asked { side: Side, status: u16, retry_after: Option<u32> },
}

/// What a request within a call touches.
pub(super) struct Bridge<'a> {
    pub(super) about: &'a About,
    /// Where the call stands.
    pub(super) phase: CallPhase,
    pub(super) sides: &'a mut Sides,
    pub(super) media: &'a mut CallMedia,
    pub(super) underway: &'a mut Underway,
    pub(super) records: &'a mut Records,
}

impl Bridge<'_> {
    /// The call is answered, and not over.
    pub(super) fn is_answered(&self) -> bool {
        self.phase == CallPhase::Answered
    }

    /// What carrying requests touches.
    pub(super) fn courier(&mut self) -> Courier<'_, Exchange> {
        self.underway.courier(self.about.id, self.sides)
    }

    /// What a description on its way changes.
    pub(super) fn offer_answer(&mut self) -> OfferAnswer<'_> {
        OfferAnswer { media: self.media, sides: self.sides, class: self.about.class() }
    }

    /// Sends a request of our own in a dialog, now or when its next hop is known.
    pub(super) fn send_own(&mut self, cx: &mut Context, to: DialogRef, draft: Draft, purpose: Purpose) {
        self.courier().send_own(cx, to, purpose, draft);
    }

    /// What crosses of a message that ends something, or acknowledges it: fields, header rules, body.
    pub(super) fn pass(&mut self, cx: &mut Context, from: DialogRef, message: &Message, draft: &mut Draft) {
        if let Ok(n) = headers::next_max_forwards(message) {
            draft.set(HeaderId::MaxForwards, n.to_string());
        }
        headers::copy_through(message, draft);
        let (here, there) = (&self.sides.leg(from.side).trunk, &self.sides.leg(from.side.other()).trunk);
        cx.shape(here, there, message.method(), self.about.emergency, draft);
        headers::strip_our_credentials(cx, here, draft);
        // Only the answer to a delayed offer says anything of media here.
        self.offer_answer().put(cx, from, message, message.method() == &Method::Ack, draft);
    }

    /// That pair is answered: the others are over, and whoever waits in them is told.
    pub(super) fn confirm(&mut self, cx: &mut Context, pair: PairId) {
        self.sides.pairs.confirm(cx, pair);
        self.refuse_open(cx, |other| other != pair);
        for side in [Side::Caller, Side::Callee] {
            self.sides.pairs[pair.toward(side)].offer = None;
            // Media may still follow another dialog.
            if let Ok(sdp) = Sdp::parse(&self.sides.pairs[pair.toward(side)].remote_sdp) {
                self.offer_answer().described(cx, pair.toward(side), &sdp, None);
            }
        }
    }

    /// BYE in one of several early dialogs ends that one alone (RFC 3261 §15). False: it is the only one.
    pub(super) fn end_early(&mut self, cx: &mut Context, at: DialogRef, request: &Message) -> bool {
        if self.sides.pairs.living() < 2 || !self.sides.pairs.lives(at.pair) {
            return false;
        }
        self.sides.pairs.end_one(cx, at.pair);
        self.refuse_open(cx, |pair| pair == at.pair);
        if at.side == Side::Caller {
            let mut bye = self.sides.pairs[at.other()].dialog.request(&Method::Bye);
            self.pass(cx, at, request, &mut bye);
            self.send_own(cx, at.other(), bye, Purpose::Alone);
        }
        true
    }

    /// Final answers to the open requests of those pairs of dialogs: they are not waited for any more.
    pub(super) fn refuse_open(&mut self, cx: &mut Context, which: impl Fn(PairId) -> bool) {
        let refused = |c: &&Crossing<Exchange>| !c.is_own() && which(c.to().pair);
        let refused: Vec<u64> = self.underway.crossings.iter().filter(refused).map(Crossing::id).collect();
        for id in refused {
            let Some(crossing) = self.courier().take(cx, id, None) else { continue };
            let (from, invite) = (crossing.from(), crossing.is(&Method::Invite));
            if let Some(asked) = crossing.into_asked() {
                self.sides.refuse(cx, from.side, &asked, if invite { 487 } else { 481 });
            }
        }
    }

    /// The log hears that the session of a pair of dialogs has changed.
    pub(super) fn record_refresh(&mut self, cx: &mut Context, pair: PairId) {
        let mut record = dialog_record(self.sides, self.media, pair);
        record.refers = self.underway.refers.record();
        self.records.refresh(cx, self.about, record);
    }
}
