//! Early dialogs (RFC 3261 §12.1, §13.2.2.4): one of them is answered, and of several a BYE ends one alone.
//!
//! Media follow the last session description, whichever dialog it came from: a called side that tries one phone after the other
//! leaves earlier early dialogs silent without telling, so the newest is the one with something to hear.

use super::outgoing::Purpose;
use super::services::Services;
use super::{Call, CallPhase};
use crate::dialog::{Dialog, DialogRef, PairId};
use crate::io::Side;
use crate::sip::{Message, Method, Sdp};

impl Call {
    /// True when the request's Call-ID and tags are those of a dialog on this leg (RFC 3261 §12.2.2).
    pub fn fits(&self, side: Side, request: &Message) -> bool {
        self.pairs.of_request(side, request).is_some()
    }

    /// The dialog that a request on a leg is of.
    pub fn dialog_for(&self, side: Side, request: &Message) -> &Dialog {
        &self.pairs[self.dialog_of(side, request)].dialog
    }

    pub(super) fn dialog_of(&self, side: Side, request: &Message) -> DialogRef {
        self.pairs.of_request(side, request).unwrap_or(self.pairs.current()).toward(side)
    }

    /// BYE in one of several early dialogs ends that one alone (RFC 3261 §15). False: it is the only one.
    pub(super) fn bye_early(&mut self, cx: &mut Services, at: DialogRef, request: &Message) -> bool {
        if self.phase != CallPhase::Dialling || self.pairs.living() < 2 || !self.pairs.lives(at.pair) {
            return false;
        }
        self.pairs.end_one(cx, at.pair);
        self.refuse_forwards(cx, |pair| pair == at.pair);
        if at.side == Side::Caller {
            let mut bye = self.pairs[at.other()].dialog.request(&Method::Bye);
            self.pass(cx, at, request, &mut bye);
            self.send_on(cx, at.other(), bye, Purpose::Alone);
        }
        true
    }

    /// That pair is answered: the others are over, and whoever waits in them is told.
    pub(super) fn confirm(&mut self, cx: &mut Services, pair: PairId) {
        self.pairs.confirm(cx, pair);
        self.refuse_forwards(cx, |other| other != pair);
        for side in [Side::Caller, Side::Callee] {
            self.pairs[pair.toward(side)].offer = None;
            // Media may still follow another dialog.
            if let Ok(sdp) = Sdp::parse(&self.pairs[pair.toward(side)].remote_sdp) {
                self.offer_answer().described(cx, pair.toward(side), &sdp, None);
            }
        }
    }
}
