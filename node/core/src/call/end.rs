//! One side of a dialog usage that is no call (RFC 5057): of a subscription, or of what a call leaves behind.

use super::challenge::Known;
use super::leg::{Leg, NextHop, contact_value, next_hop};
use super::services::Services;
use crate::dialog::Dialog;
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
    /// Where its far end was last seen, or reached, by a socket of this node.
    pub path: Path,
    /// TLS name of the far end for new connections.
    pub tls_name: Option<Box<str>>,
    /// User part of our Contact: an owner token.
    pub token: Box<str>,
    /// What its far end wants to know of us.
    pub known: Known,
}

impl End {
    /// The same dialog as that of a call's leg.
    pub fn of_leg(leg: &Leg) -> End {
        End {
            realm: leg.realm,
            trunk: leg.trunk.clone(),
            dialog: leg.dialog.clone(),
            path: own_path(leg.path, leg.ingress.is_none()),
            tls_name: leg.tls_name.clone(),
            token: leg.contact_token.clone(),
            known: Known::default(),
        }
    }

    /// The Contact value that we give to its far end.
    pub fn contact(&self, cx: &Services) -> String {
        contact_value(cx, self.realm, &self.path, &self.token)
    }

    /// Where the next request goes.
    pub fn next_hop(&self, cx: &Services) -> NextHop {
        next_hop(cx, self.realm, &self.dialog, &self.path, None)
    }

    /// A connection that the far end uses now is the way to it.
    pub fn learn_path(&mut self, back: &ReturnPath) {
        if back.ingress.is_none() && back.path.transport.is_reliable() && self.path.transport == back.path.transport {
            self.path = back.path;
        }
    }
}

/// A path as this node can use it: the connections of another are not ours.
pub fn own_path(path: Path, here: bool) -> Path {
    Path { flow: path.flow.filter(|_| here), ..path }
}
