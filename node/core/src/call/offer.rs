//! Offers of requests that are passed on (RFC 3264, RFC 6337): who has one open, and the glare rules of UPDATE (RFC 3311 §5.2); when one stands,
//! and when it is taken back.

use super::bridge::{Bridge, Exchange};
use super::context::Context;
use super::{body, reliable};
use crate::crossing::Crossing;
use crate::dialog::{DialogRef, PairId};
use crate::io::Side;
use crate::sip::{Message, Method};

/// What stands in the way of an UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InTheWay {
    /// An UPDATE of the same far end in the same dialog has no final response yet.
    update: bool,
    /// Whose offer is open on its own leg.
    here: Option<Side>,
    /// An offer is open on the other leg, where the UPDATE is to go.
    there: bool,
}

/// The status that refuses an UPDATE; `None`: it goes on.
fn verdict(from: Side, offers: bool, way: InTheWay) -> Option<u16> {
    if way.update {
        return Some(500);
    }
    match way.here {
        _ if !offers => None,
        Some(by) if by == from => Some(500),
        Some(_) => Some(491),
        // Ours to that far end, which cannot take a second one now: for the one that asks it is the same glare.
        None if way.there => Some(491),
        None => None,
    }
}

impl Bridge<'_> {
    /// A request is about to cross: keeps what stands, should it bring an offer, or a 2xx with one. True: it does.
    pub(super) fn keep_agreed(&mut self, id: u64) -> bool {
        let Some(crossing) = self.underway.crossings.get(id) else { return false };
        let offers = crossing.facts.offered || crossing.is(&Method::Invite);
        // One that goes out again brings what it brought before.
        if offers && crossing.facts.before.is_none() {
            let pair = crossing.to().pair;
            let agreed = self.offer_answer().agreed(pair);
            if let Some(crossing) = self.underway.crossings.get_mut(id) {
                crossing.facts.before = Some(agreed);
            }
        }
        offers
    }

    /// A provisional response to a re-INVITE: a reliable one with the answer settles it, whatever the final response is (RFC 6141 §3.4).
    pub(super) fn note_early_answer(&mut self, id: u64, response: &Message) {
        let described = reliable::rseq_of(response).is_some() && body::find_sdp(response).is_some();
        let Some(crossing) = self.underway.crossings.get_mut(id).filter(|_| described) else { return };
        if crossing.facts.offered {
            crossing.facts.answered = true;
            let pair = crossing.to().pair;
            self.settled(pair);
        } else {
            crossing.facts.early_offer = true;
        }
    }

    /// An exchange of offer and answer came to its end in that pair: requests that are still open there do not take it back
    /// (RFC 6141 §3.3).
    fn settled(&mut self, pair: PairId) {
        for crossing in self.underway.crossings.iter_mut().filter(|c| c.to().pair == pair) {
            crossing.facts.before = None;
        }
    }

    /// The final response to a request that was passed on: its offer stands, waits for an answer in the ACK, or is taken back
    /// (RFC 3261 §14.1, RFC 3311 §5.2; RFC 3262 §5 for PRACK).
    pub(super) fn conclude(&mut self, cx: &mut Context, crossing: &mut Crossing<Exchange>, response: &Message) {
        let accepted = response.status().is_some_and(|status| (200..300).contains(&status));
        let described = body::find_sdp(response).is_some();
        let from = crossing.from();
        let Some(before) = crossing.facts.before.take() else {
            let prack = crossing.asked().filter(|asked| asked.request.method() == &Method::Prack);
            if accepted && prack.is_some_and(|asked| body::find_sdp(&asked.request).is_some()) {
                self.settled(from.pair);
            }
            return;
        };
        match (accepted, crossing.facts.offered, described) {
            (true, true, true) => self.settled(from.pair),
            (true, false, true) => self.underway.two_hundred.keep_before(from.side, before),
            (true, false, false) => {}
            // A 2xx without an answer, too: nobody knows what was agreed.
            (true, true, false) | (false, ..) => self.offer_answer().take_back(cx, before),
        }
    }

    /// Whose offer is open in a dialog.
    pub(super) fn open_offer(&self, at: DialogRef) -> Option<Side> {
        // A refresh of ours (RFC 4028) has an offer on the leg where it goes, and nobody on the other who waits for its answer.
        let concerns = |c: &Crossing<Exchange>| if c.is_refresh() { c.to().side == at.side } else { c.to().pair == at.pair };
        let crosses = |c: &&Crossing<Exchange>| c.facts.offered && !c.facts.answered && concerns(c);
        let in_2xx = |side| self.underway.two_hundred.awaits_answer(side);
        self.sides.pairs[at]
            .offer
            .or_else(|| self.underway.crossings.iter().find(crosses).map(|c| c.from().side))
            .or_else(|| in_2xx(Side::Caller).then_some(Side::Callee))
            .or_else(|| in_2xx(Side::Callee).then_some(Side::Caller))
    }

    /// What refuses an UPDATE of a far end in that dialog; `None`: it goes on.
    pub(super) fn refuse_update(&self, at: DialogRef, request: &Message) -> Option<u16> {
        let open = |c: &Crossing<Exchange>| c.from() == at && c.is(&Method::Update) && !c.is_refresh();
        let way = InTheWay {
            update: self.underway.crossings.iter().any(open),
            here: self.open_offer(at),
            there: self.open_offer(at.other()).is_some(),
        };
        verdict(at.side, body::find_sdp(request).is_some(), way)
    }

    /// What refuses a re-INVITE of a far end in that dialog (RFC 3261 §14.2); `None`: it goes on.
    pub(super) fn refuse_reinvite(&self, at: DialogRef) -> Option<u16> {
        let open = self.underway.crossings.refuse_invite(at.side);
        let early = !self.is_answered();
        if open == Some(500) || (early && at.side == Side::Caller) {
            // An INVITE of the same far end is still open.
            return Some(500);
        }
        let glare = open.is_some() || self.underway.two_hundred.any_pending() || early || self.open_offer(at).is_some();
        glare.then_some(491)
    }

    /// A PRACK that is passed on has a description: an answer, or an offer. True: an offer.
    pub(super) fn prack_offers(&mut self, at: DialogRef) -> bool {
        let of_reinvite = |c: &&mut Crossing<Exchange>| c.from().side == at.side && c.facts.early_offer && c.is(&Method::Invite);
        if let Some(c) = self.underway.crossings.iter_mut().find(of_reinvite) {
            c.facts.early_offer = false;
            return false;
        }
        let answers = at.side == Side::Caller && self.sides.pairs[at.other()].offer == Some(Side::Callee);
        if answers {
            (self.sides.pairs[at].offer, self.sides.pairs[at.other()].offer) = (None, None);
            self.sides.pairs.early(at.pair).agreed = true;
        }
        !answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_update_and_what_is_open() {
        use Side::{Callee, Caller};
        let way = |update, here, there| InTheWay { update, here, there };
        for (from, other) in [(Caller, Callee), (Callee, Caller)] {
            let table = [
                // (an UPDATE of its own is open, whose offer is open on its leg, one is open on the other leg): without and
                // with an offer.
                (way(false, None, false), None, None),
                (way(false, None, true), None, Some(491)),
                (way(false, Some(from), false), None, Some(500)),
                (way(false, Some(from), true), None, Some(500)),
                (way(false, Some(other), false), None, Some(491)),
                (way(false, Some(other), true), None, Some(491)),
                (way(true, None, false), Some(500), Some(500)),
                (way(true, None, true), Some(500), Some(500)),
                (way(true, Some(from), false), Some(500), Some(500)),
                (way(true, Some(from), true), Some(500), Some(500)),
                (way(true, Some(other), false), Some(500), Some(500)),
                (way(true, Some(other), true), Some(500), Some(500)),
            ];
            for (way, without, with) in table {
                assert_eq!(verdict(from, false, way), without, "{from:?} {way:?}");
                assert_eq!(verdict(from, true, way), with, "{from:?} {way:?}");
            }
        }
    }
}
