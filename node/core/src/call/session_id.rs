//! Session-ID (RFC 7989): one name for a call over all its legs, the UUID of each end. It crosses as it came; what we send
//! on our own account has the UUIDs of both ends, as far as they are known (§7).

use crate::dialog::Dialog;
use crate::io::Side;
use crate::sip::{Draft, HeaderId, Message};

/// An end that is not known (§5).
const NIL: &str = "00000000000000000000000000000000";

/// The UUIDs that the far ends gave themselves.
#[derive(Debug, Default)]
pub struct SessionIds {
    caller: Option<Box<str>>,
    callee: Option<Box<str>>,
}

impl SessionIds {
    /// What a caller's INVITE says.
    pub(super) fn of(invite: &Message) -> SessionIds {
        SessionIds { caller: own_uuid(invite), callee: None }
    }

    /// As they were recorded; empty: not known.
    pub(super) fn restore(&mut self, caller: &str, callee: &str) {
        let known = |uuid: &str| (!uuid.is_empty()).then(|| uuid.into());
        (self.caller, self.callee) = (known(caller).or(self.caller.take()), known(callee));
    }

    /// What the far end of a side gave itself.
    pub(super) fn get(&self, side: Side) -> Option<&str> {
        match side {
            Side::Caller => self.caller.as_deref(),
            Side::Callee => self.callee.as_deref(),
        }
    }

    /// A message of a far end came.
    pub(super) fn learn(&mut self, side: Side, message: &Message) {
        let Some(uuid) = own_uuid(message) else { return };
        match side {
            Side::Caller => self.caller = Some(uuid),
            Side::Callee => self.callee = Some(uuid),
        }
    }

    /// An ACK of our own for the 2xx to the INVITE of ours with this CSeq number.
    pub(super) fn ack(&self, dialog: &Dialog, to: Side, cseq: u32) -> Draft {
        let mut ack = dialog.ack(cseq);
        self.put(to, &mut ack);
        ack
    }

    /// Names the session in a message of our own toward a side.
    pub(super) fn put(&self, side: Side, draft: &mut Draft) {
        let (here, there) = (self.get(side.other()), self.get(side));
        if (here.is_some() || there.is_some()) && !draft.has(HeaderId::SessionId) {
            draft.push(HeaderId::SessionId, format!("{};remote={}", here.unwrap_or(NIL), there.unwrap_or(NIL)));
        }
    }

    /// Another called side: it has not said yet.
    pub(super) fn forget_callee(&mut self) {
        self.callee = None;
    }
}

/// The UUID of whoever sent a message.
fn own_uuid(message: &Message) -> Option<Box<str>> {
    let uuid = message.first(HeaderId::SessionId)?.split(';').next()?.trim();
    let valid = uuid.len() == NIL.len() && uuid.bytes().all(|b| b.is_ascii_hexdigit()) && uuid != NIL;
    valid.then(|| uuid.into())
}
