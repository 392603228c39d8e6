//! Requests within a call from where anybody may be (AC-52): they are held while the far end is asked at the address where it was last
//! seen, and while it is looked where its media come from. What a forger sent goes no further; a far end that has moved is followed.

use super::Sbc;
use crate::ids::LocalId;
use crate::io::{ReturnPath, Side};
use crate::sip::Message;

impl Sbc {
    /// A request on that leg may be anybody's.
    pub(super) fn doubt(&mut self, id: LocalId, side: Side, back: ReturnPath, message: &Message) {
        self.with_call(id, |call, cx| call.doubt(cx, side, back, message));
    }

    /// Time to look again: what was held of a far end that has moved goes on.
    pub(super) fn on_doubt_due(&mut self, id: LocalId, side: Side) {
        let held = self.with_call(id, |call, cx| call.on_doubt_due(cx, side));
        for (back, message) in held {
            // The first one may have ended the call.
            let known = self.calls.get(&id).is_some_and(|call| call.fits(side, &message));
            self.on_own_known(id, side, back, &message, known);
        }
    }
}
