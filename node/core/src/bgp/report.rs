//! What a session hands out: what is to be done, what has become of it, and how it is.

use std::time::Duration;

use ipnet::IpNet;

use super::fsm::State;

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// This node.
    Outgoing,
    /// The router.
    Incoming,
}

impl Side {
    pub(super) fn other(self) -> Side {
        if self == Side::Outgoing { Side::Incoming } else { Side::Outgoing }
    }
}

/// What the session's owner is to do, or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Make a connection; answered by `handle_connected` or `handle_disconnected`.
    Connect,
    /// Whole messages, in this order.
    Send(Side, Vec<u8>),
    /// Send what is there, then close; or give up making it. Not answered.
    Close(Side),
    /// For log and metrics.
    Report(Report),
}

/// What became of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It is Established, with that hold time.
    Up {
        /// As agreed.
        hold: Duration,
    },
    /// It is no longer.
    Down {
        /// For people.
        reason: String,
    },
    /// A try came to nothing.
    Failed {
        /// For people.
        reason: String,
    },
    /// The router has been told.
    Announced(IpNet),
    /// The router has been told.
    Withdrawn(IpNet),
    /// It cannot be told: the router does not take the family, or there is no next hop.
    NotAnnounced {
        /// Which.
        prefix: IpNet,
        /// For people.
        reason: &'static str,
    },
}

/// The session, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Of the connection that is further.
    pub state: Option<State>,
    /// As agreed; zero while it is not Established.
    pub hold: Duration,
    /// What the router has been told and holds.
    pub announced: Vec<IpNet>,
    /// UPDATEs of the router that were dropped unread, since the start.
    pub updates_dropped: u64,
    /// Messages that came, since the start.
    pub received: u64,
    /// Messages that went out, since the start.
    pub sent: u64,
    /// Sessions that were Established, since the start.
    pub established: u64,
    /// Sessions that failed in a row.
    pub retries: u32,
    /// Why the last one ended.
    pub last_error: Option<String>,
}
