//! One leg of a call: its dialog, its path, its SDP identity, and the 2xx that waits for an ACK.

use std::time::Duration;

use bytes::Bytes;

use super::headers::contact_params;
use super::services::Services;
use super::ways::{FarEnd, Way};
use crate::dialog::Dialog;
use crate::ids::NodeId;
use crate::io::{Path, Realm, ReturnPath, Side};
use crate::sip::{HeaderId, Message};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::ServerTxId;

/// A leg.
#[derive(Debug)]
pub struct Leg {
    /// Toward whom.
    pub side: Side,
    /// On which side of the SBC.
    pub realm: Realm,
    /// Its dialog.
    pub dialog: Dialog,
    /// Where its far end was last seen, or reached.
    pub path: Path,
    /// The node that `path` is a path of.
    pub ingress: Option<NodeId>,
    /// It was dialled as sips: its Contact is one too.
    pub secure: bool,
    /// TLS name of the far end for new connections.
    pub tls_name: Option<Box<str>>,
    /// User part of our Contact: an owner token.
    pub contact_token: Box<str>,
    /// Header parameters of our Contact: what the other leg's far end said of itself.
    pub contact_params: Box<str>,
    /// Its trunk.
    pub trunk: Box<str>,
    /// Session id of the `o=` lines that we write on this leg.
    pub sdp_id: u64,
    /// Version of the last of them.
    pub sdp_version: u64,
    /// The last session description that we sent.
    pub local_sdp: Bytes,
    /// The last one that the far end sent.
    pub remote_sdp: Bytes,
    /// Our 2xx to an INVITE of the far end, until its ACK comes.
    pub pending_2xx: Option<Pending2xx>,
    /// An INVITE of ours toward the far end is under way.
    pub inviting: bool,
    /// Whose offer is open here since the first INVITE, until its answer; of requests that are passed on, those themselves tell.
    pub offer: Option<Side>,
    /// Its session timer.
    pub(super) session: super::session::SessionTimer,
    /// The dialog is over on this leg: nothing more is sent on it.
    pub gone: bool,
}

/// A 2xx to an INVITE that waits for its ACK.
#[derive(Debug)]
pub struct Pending2xx {
    /// Its transaction.
    pub tx: ServerTxId,
    /// CSeq number of the INVITE.
    pub cseq: u32,
    /// The response.
    pub payload: Bytes,
    /// Present interval.
    pub interval: Duration,
    /// When to give up.
    pub until: Instant,
    /// Running timer.
    pub timer: Option<TimerId>,
    /// Where the request came from.
    pub back: ReturnPath,
    /// The far end's ACK carries the answer to the offer in this 2xx, and goes to the other leg's INVITE with this number.
    pub awaits_answer: Option<u32>,
    /// What stood before that offer.
    pub(super) before: Option<super::describe::Agreed>,
}

impl Leg {
    /// Where its far end is.
    pub fn far(&self) -> FarEnd<'_> {
        FarEnd {
            realm: self.realm,
            trunk: &self.trunk,
            dialog: &self.dialog,
            path: &self.path,
            ingress: self.ingress,
            tls_name: self.tls_name.as_deref(),
            secure: self.secure,
        }
    }

    /// The Contact value that we give to this leg's far end.
    pub fn contact(&self, cx: &Services) -> String {
        format!("{}{}", self.far().contact(cx, &self.contact_token), self.contact_params)
    }

    /// The same in a message that brings one of the other leg's far end: with what that says of itself.
    pub(super) fn contact_for(&mut self, cx: &Services, message: &Message) -> String {
        self.learn_contact(message);
        self.contact(cx)
    }

    /// What the other leg's far end says of itself in its Contact.
    pub(super) fn learn_contact(&mut self, message: &Message) {
        if let Some(contact) = message.values(HeaderId::Contact).next() {
            self.contact_params = contact_params(contact).into();
        }
    }

    /// Takes the way that a request of the far end came, where that tells where it is.
    pub fn learn_path(&mut self, back: &ReturnPath) {
        (self.path, self.ingress) = self.far().learnt_path(back);
    }

    /// A request could not be sent over this connection: it is no way any more.
    pub(super) fn forget_flow(&mut self, way: &Way) {
        (self.path, self.ingress) = self.far().path_without(way);
    }
}
