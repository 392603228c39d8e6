//! Who may begin something: the admission of a request, as a list of checks that look and change nothing.
//!
//! Each check admits or gives a [`Refusal`]. What follows from it is done by [`Sbc`](super::Sbc) (`refuse.rs`): the answer, what is counted, what is
//! taken of a rate. So `sbcctl route explain` (`explain.rs`) runs the same lists in the same order as a request off the wire, and differs by nothing
//! but the checks that are of the moment.

mod bans;
mod credentials;
mod emergency;
mod entrance;
mod limits;
mod list;
mod message;
mod refusal;
mod replaces;
mod source;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::ids::{FlowId, NodeId};
use crate::io::Path;
use crate::policy::{ClusterConfig, Trunk};
use crate::routing;
use crate::time::Instant;

pub(super) use bans::Bans;
pub(super) use credentials::challenge;
pub(super) use emergency::is_emergency;
pub(super) use entrance::{Arrival, Entrance, Sights};
pub(super) use limits::{RateLimits, Taken};
pub(super) use list::Admitted;
pub(super) use message::KNOWN_EXTENSIONS;
pub(super) use refusal::{Refusal, Why, Wrong};
pub(super) use source::{drops, source_weight};

/// What the gate remembers of those who come.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) bans: Bans,
    pub(super) limits: RateLimits,
    pub(super) nonces: credentials::Uses,
    /// Connections of this node whose far end has proved who it is. As many as the transport has connections.
    proved: HashMap<FlowId, Box<[Box<str>]>>,
}

impl Gate {
    /// The far end of a connection has proved that it is these SIP domains.
    pub(super) fn on_proved(&mut self, flow: FlowId, names: Box<[Box<str>]>) {
        self.proved.insert(flow, names);
    }

    /// A connection is closed.
    pub(super) fn on_closed(&mut self, flow: FlowId) {
        self.proved.remove(&flow);
    }

    /// Forgets what is too old to count.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.bans.sweep(now);
        self.limits.sweep(now);
        self.nonces.sweep(now);
    }

    /// The trunk that a packet came from. What a connection of another node has proved is that node's to judge.
    pub(super) fn trunk_at<'a>(&self, config: &'a ClusterConfig, path: &Path, ingress: Option<NodeId>) -> Option<&'a Trunk> {
        routing::trunk_of(config, path.role.realm(), path.remote.ip(), self.proved_by(path, ingress))
    }

    fn proved_by(&self, path: &Path, ingress: Option<NodeId>) -> Option<&[Box<str>]> {
        let proved = path.flow.and_then(|flow| self.proved.get(&flow)).map_or(&[][..], |names| names);
        ingress.is_none().then_some(proved)
    }
}
