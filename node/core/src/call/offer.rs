//! Who has an offer open (RFC 3264, RFC 6337): the glare rules of UPDATE (RFC 3311 §5.2).

use super::forward::Exchange;
use super::services::Services;
use super::{Call, body};
use crate::crossing::Crossing;
use crate::dialog::DialogRef;
use crate::io::{ReturnPath, Side};
use crate::sip::{Message, Method};
use crate::transaction::ServerTxId;

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

impl Call {
    /// The INVITE is written: its offer is open on both sides, and in each early dialog.
    pub(super) fn open_first_offer(&mut self) {
        let offer = body::find_sdp(&self.invite).map(|_| Side::Caller);
        for side in [Side::Caller, Side::Callee] {
            let at = self.toward(side);
            self.pairs[at].offer = offer;
        }
    }

    /// Whose offer is open in a dialog.
    pub(super) fn open_offer(&self, at: DialogRef) -> Option<Side> {
        // A refresh of ours (RFC 4028) has an offer on the leg where it goes, and nobody on the other who waits for its answer.
        let concerns = |c: &Crossing<Exchange>| if c.is_refresh() { c.to().side == at.side } else { c.to().pair == at.pair };
        let crosses = |c: &&Crossing<Exchange>| c.facts.offered && !c.facts.answered && concerns(c);
        let in_2xx = |side| self.two_hundred.awaits_answer(side);
        self.pairs[at]
            .offer
            .or_else(|| self.crossings.iter().find(crosses).map(|c| c.from().side))
            .or_else(|| in_2xx(Side::Caller).then_some(Side::Callee))
            .or_else(|| in_2xx(Side::Callee).then_some(Side::Caller))
    }

    /// UPDATE of either side.
    pub(super) fn on_update(&mut self, cx: &mut Services, at: DialogRef, tx: ServerTxId, back: ReturnPath, request: &Message) {
        if self.is_refresh(at.side, request) {
            self.note_for_dispatch(cx, request);
            return self.answer_refresh(cx, at, tx, &back, request);
        }
        let open = |c: &Crossing<Exchange>| c.from() == at && c.is(&Method::Update) && !c.is_refresh();
        let way = InTheWay {
            update: self.crossings.iter().any(open),
            here: self.open_offer(at),
            there: self.open_offer(at.other()).is_some(),
        };
        match verdict(at.side, body::find_sdp(request).is_some(), way) {
            Some(status) => self.refuse_request(cx, at.side, tx, &back, request, status),
            None => self.forward(cx, at, tx, back, request),
        }
    }

    /// A PRACK that is passed on has a description: an answer, or an offer. True: an offer.
    pub(super) fn prack_offers(&mut self, at: DialogRef) -> bool {
        let of_reinvite = |c: &&mut Crossing<Exchange>| c.from().side == at.side && c.facts.early_offer && c.is(&Method::Invite);
        if let Some(c) = self.crossings.iter_mut().find(of_reinvite) {
            c.facts.early_offer = false;
            return false;
        }
        let answers = at.side == Side::Caller && self.pairs[at.other()].offer == Some(Side::Callee);
        if answers {
            (self.pairs[at].offer, self.pairs[at.other()].offer) = (None, None);
            self.pairs.early(at.pair).agreed = true;
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
