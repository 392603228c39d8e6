//! Requests within the dialogs of a call, given to the [`Courier`]: what this call lends it, and what it hands back.

use super::Call;
use super::courier::Courier;
use super::forward::Exchange;
use super::lines::{Dialogs, Lines, OfCall, Owner, Peer};
use super::services::Services;
pub(super) use crate::crossing::Purpose;
use crate::dialog::DialogRef;
use crate::io::Side;
use crate::sip::Draft;

impl Call {
    /// What carrying requests touches.
    pub fn courier(&mut self) -> Courier<'_, Exchange> {
        let Call { id, crossings, two_hundred, ladder, session_ids, pairs, caller, callee, auth, .. } = self;
        let (caller, callee) = (caller.peer(&mut auth.caller), callee.peer(&mut auth.callee));
        let of_call = Some(OfCall { ladder, two_hundred, session_ids });
        Courier { crossings, lines: Lines { owner: Owner::Call(*id), caller, callee, dialogs: Dialogs::Pairs(pairs), of_call } }
    }

    /// What a request to that side touches.
    pub(super) fn peer(&mut self, side: Side) -> Peer<'_> {
        match side {
            Side::Caller => self.caller.peer(&mut self.auth.caller),
            Side::Callee => self.callee.peer(&mut self.auth.callee),
        }
    }

    /// Sends a request of our own in a dialog, now or when its next hop is known.
    pub(super) fn send_on(&mut self, cx: &mut Services, to: DialogRef, draft: Draft, purpose: Purpose) {
        self.courier().send_own(cx, to, purpose, draft);
    }
}
