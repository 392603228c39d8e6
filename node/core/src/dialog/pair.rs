//! Two dialogs that a back-to-back user agent joins: one toward the caller, one toward the called side.
//!
//! A called side that forks makes several (RFC 3261 §12.1, §13.2.2.4), and each of them has a dialog of its own toward the caller. Whoever
//! speaks names the dialog that it speaks in ([`DialogRef`]): there is none that everybody means.

use bytes::Bytes;

use super::Dialog;
use crate::io::Side;

/// A pair of dialogs: its place among those of its call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairId(usize);

/// One dialog of a call: that of a pair toward a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialogRef {
    /// Of which pair.
    pub pair: PairId,
    /// Toward whom.
    pub side: Side,
}

impl PairId {
    /// The pair at this place.
    pub const fn at(place: usize) -> PairId {
        PairId(place)
    }

    /// Its place.
    pub fn place(self) -> usize {
        self.0
    }

    /// Its dialog toward a side.
    pub fn toward(self, side: Side) -> DialogRef {
        DialogRef { pair: self, side }
    }

    /// Its dialog toward the caller.
    pub fn caller(self) -> DialogRef {
        self.toward(Side::Caller)
    }

    /// Its dialog toward the called side.
    pub fn callee(self) -> DialogRef {
        self.toward(Side::Callee)
    }
}

impl DialogRef {
    /// The other dialog of its pair.
    pub fn other(self) -> DialogRef {
        self.pair.toward(self.side.other())
    }
}

/// One dialog of a pair, with the session that is described in it.
#[derive(Clone, Debug)]
pub struct Half {
    /// The dialog.
    pub dialog: Dialog,
    /// User part of our Contact: an owner token.
    pub contact_token: Box<str>,
    /// Session id of the `o=` lines that we write in it.
    pub sdp_id: u64,
    /// Version of the last of them.
    pub sdp_version: u64,
    /// The last session description that we sent.
    pub local_sdp: Bytes,
    /// The last one that the far end sent.
    pub remote_sdp: Bytes,
    /// Whose offer is open here since the first INVITE, until its answer; of requests that are passed on, those themselves tell.
    pub offer: Option<Side>,
}

impl Half {
    /// With nothing described yet.
    pub fn new(dialog: Dialog, contact_token: Box<str>, sdp_id: u64) -> Half {
        let (local_sdp, remote_sdp) = (Bytes::new(), Bytes::new());
        Half { dialog, contact_token, sdp_id, sdp_version: 0, local_sdp, remote_sdp, offer: None }
    }
}

/// Both dialogs.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Toward the caller.
    pub caller: Half,
    /// Toward the called side.
    pub callee: Half,
}

impl Pair {
    /// That toward a side.
    pub fn half(&self, side: Side) -> &Half {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    /// The same, to be changed.
    pub fn half_mut(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }
}
