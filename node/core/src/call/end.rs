//! One side of a dialog usage that is no call (RFC 5057): of a subscription, or of what a call leaves behind.

use super::challenge::KnownChallenges;
use super::context::Context;
use super::leg::Leg;
use super::lines::Peer;
use super::ways::FarEnd;
use crate::crossing::Way;
use crate::dialog::{Dialog, Half};
use crate::ids::NodeId;
use crate::io::{Path, Realm, ReturnPath};

/// That side.
#[derive(Debug)]
pub struct End {
    /// On which side of the SBC.
    pub realm: Realm,
    /// Its trunk.
    pub trunk: Box<str>,
    /// Its dialog.
    pub dialog: Dialog,
    /// Where its far end was last seen, or reached.
    pub path: Path,
    /// The node that `path` is a path of.
    pub ingress: Option<NodeId>,
    /// What was asked for was sips: our Contact is one too.
    pub secure: bool,
    /// TLS name of the far end for new connections.
    pub tls_name: Option<Box<str>>,
    /// User part of our Contact: an owner token.
    pub token: Box<str>,
    /// What its far end wants to know of us.
    pub known: KnownChallenges,
}

impl End {
    /// The same dialog as that of a call's leg.
    pub fn of_leg(leg: &Leg, half: &Half) -> End {
        End {
            realm: leg.realm,
            trunk: leg.trunk.clone(),
            dialog: half.dialog.clone(),
            path: leg.path,
            ingress: leg.ingress,
            secure: leg.secure,
            tls_name: leg.tls_name.clone(),
            token: half.contact_token.clone(),
            known: KnownChallenges::default(),
        }
    }

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

    /// The Contact value that we give to its far end.
    pub fn contact(&self, cx: &Context) -> String {
        self.far().contact(cx, &self.token)
    }

    /// Takes the way that a request of the far end came, where that tells where it is.
    pub fn learn_path(&mut self, back: &ReturnPath) {
        (self.path, self.ingress) = self.far().learnt_path(back);
    }

    /// A request could not be sent over this connection: it is no way any more.
    pub fn forget_flow(&mut self, way: &Way) {
        (self.path, self.ingress) = self.far().path_without(way);
    }

    /// What a request to it touches here, and the dialog.
    pub fn peer(&mut self) -> (Peer<'_>, &mut Dialog) {
        let peer = Peer {
            realm: self.realm,
            trunk: &self.trunk,
            path: &mut self.path,
            ingress: &mut self.ingress,
            tls_name: self.tls_name.as_deref(),
            secure: self.secure,
            known: &mut self.known,
        };
        (peer, &mut self.dialog)
    }
}
