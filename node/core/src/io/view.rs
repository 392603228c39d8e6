//! What this node knows about the cluster at a moment: handed in whole whenever it changes.

use super::{Addresses, NodeState};
use crate::ids::NodeId;
use crate::time::Instant;

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name, as configured.
    pub name: Box<str>,
    /// Its external unicast address: what a redirect names.
    pub unicast: Addresses,
    /// Its core-side address.
    pub core: Addresses,
    /// The peer link to it works, as far as this node knows. True for this node itself.
    pub alive: bool,
    /// The link has been down for longer than a lease and a margin (rule I): a node that lives has lost its quorum or its links by
    /// then. A link that blips, or is not up yet after a start, says nothing of the node behind it.
    pub down: bool,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All members, this node included.
    pub nodes: Vec<NodeView>,
    /// The leader of the log, where known.
    pub leader: Option<NodeId>,
    /// Until when this node may initiate (rules G and I): a quorum has confirmed it, its applied state has all that was committed then, and
    /// the log does not say that it is down. In the past: it may not.
    pub lease_until: Instant,
    /// This node's applied state has all that was committed when the lease was last confirmed.
    pub caught_up: bool,
    /// This node announces the anycast address.
    pub announced: bool,
    /// This node drains: OPTIONS is answered 503, new calls are still accepted (AC-40, AC-43).
    pub draining: bool,
    /// This node, as it tells its peers.
    pub own: NodeState,
}

impl View {
    /// The member with that id.
    pub fn node(&self, id: NodeId) -> Option<&NodeView> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// True when that node is taken for dead: no member, or down. Its calls may be begun again elsewhere.
    pub fn is_gone(&self, id: NodeId) -> bool {
        !self.nodes.is_empty() && self.node(id).is_none_or(|n| n.down && !n.alive)
    }

    /// True when this node may say that something does not exist (rule G).
    pub fn knows_all(&self, now: Instant) -> bool {
        self.caught_up && now < self.lease_until
    }
}
