//! One leg of a call: where its far end is, whatever dialogs there are with it, and its session timer.

use super::challenge::KnownChallenges;
use super::context::Context;
use super::headers::contact_params;
use super::lines::Peer;
use super::ways::FarEnd;
use crate::dialog::{Dialog, Half};
use crate::ids::NodeId;
use crate::io::{Path, Realm, ReturnPath, Side};
use crate::sip::{HeaderId, Message};

/// A leg.
#[derive(Debug)]
pub struct Leg {
    /// Toward whom.
    pub side: Side,
    /// On which side of the SBC.
    pub realm: Realm,
    /// Where its far end was last seen, or reached.
    pub path: Path,
    /// The node that `path` is a path of.
    pub ingress: Option<NodeId>,
    /// It was dialled as sips: its Contact is one too.
    pub secure: bool,
    /// TLS name of the far end for new connections.
    pub tls_name: Option<Box<str>>,
    /// Header parameters of our Contact: what the other leg's far end said of itself.
    pub contact_params: Box<str>,
    /// Its trunk.
    pub trunk: Box<str>,
    /// What its far end wants to know of us.
    pub(super) known: KnownChallenges,
    /// Its session timer.
    pub(super) session: super::session_timer::SessionTimer,
    /// The dialog is over on this leg: nothing more is sent on it.
    pub gone: bool,
}

impl Leg {
    /// Where its far end is, for what is said in this dialog.
    pub fn far<'a>(&'a self, dialog: &'a Dialog) -> FarEnd<'a> {
        FarEnd {
            realm: self.realm,
            trunk: &self.trunk,
            dialog,
            path: &self.path,
            ingress: self.ingress,
            tls_name: self.tls_name.as_deref(),
            secure: self.secure,
        }
    }

    /// The Contact value that we give to this leg's far end in a dialog.
    pub fn contact(&self, cx: &Context, half: &Half) -> String {
        format!("{}{}", self.far(&half.dialog).contact(cx, &half.contact_token), self.contact_params)
    }

    /// The same in a message that brings one of the other leg's far end: with what that says of itself.
    pub(super) fn contact_for(&mut self, cx: &Context, half: &Half, message: &Message) -> String {
        self.learn_contact(message);
        self.contact(cx, half)
    }

    /// What the other leg's far end says of itself in its Contact.
    pub(super) fn learn_contact(&mut self, message: &Message) {
        if let Some(contact) = message.values(HeaderId::Contact).next() {
            self.contact_params = contact_params(contact).into();
        }
    }

    /// Takes the way that a request of the far end came, where that tells where it is.
    pub fn learn_path(&mut self, dialog: &Dialog, back: &ReturnPath) {
        (self.path, self.ingress) = self.far(dialog).learnt_path(back);
    }

    /// What a request to it touches here.
    pub(super) fn peer(&mut self) -> Peer<'_> {
        Peer {
            realm: self.realm,
            trunk: &self.trunk,
            path: &mut self.path,
            ingress: &mut self.ingress,
            tls_name: self.tls_name.as_deref(),
            secure: self.secure,
            known: &mut self.known,
        }
    }
}
