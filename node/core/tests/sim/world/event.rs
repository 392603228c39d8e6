//! What can happen in a world, and to its network.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::ids::{ProposalId, ResolveId, SendId};
use sbc_core::io::{MediaEvent, PeerMessage};
use sbc_core::store_pb;

/// What the network does to packets, per mille and microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) loss: u64,
    pub(crate) duplicate: u64,
    pub(crate) delay: (u64, u64),
    /// Rarely, a packet takes this much longer.
    pub(crate) late: (u64, u64),
    /// Packets to the anycast address that reach a node of their own choice.
    pub(crate) stray: u64,
    /// The caller's network is IPv6; the PSAP's is IPv4.
    pub(crate) ipv6: bool,
    /// Loss on the peer links.
    pub(crate) peer_loss: u64,
    /// From proposal to commit.
    pub(crate) commit: (u64, u64),
    /// From commit to a node's apply.
    pub(crate) apply: (u64, u64),
    /// A commit is reported as failed all the same.
    pub(crate) false_failure: u64,
}

impl Net {
    /// Nothing goes wrong.
    pub(crate) fn calm() -> Net {
        Net {
            loss: 0,
            ipv6: false,
            duplicate: 0,
            delay: (1000, 1001),
            late: (0, 1000),
            stray: 0,
            peer_loss: 0,
            commit: (5000, 5001),
            apply: (1000, 1001),
            false_failure: 0,
        }
    }
}

/// What is due.
#[derive(Debug)]
pub(super) enum Event {
    Packet {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// A copy of what came to the anycast address, and was read by that node, at a node of the other part.
    Copy {
        read_by: usize,
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    Peer {
        from: usize,
        to: usize,
        message: PeerMessage,
    },
    NodeTimer(usize),
    PhoneTimer(usize),
    Commit {
        node: usize,
        life: u32,
        id: ProposalId,
        command: Box<store_pb::Command>,
    },
    Apply(usize),
    ProposeFailed {
        node: usize,
        life: u32,
        id: ProposalId,
    },
    Media {
        node: usize,
        life: u32,
        event: MediaEvent,
    },
    Resolved {
        node: usize,
        life: u32,
        id: ResolveId,
        port: u16,
    },
    SendFailed {
        node: usize,
        id: SendId,
    },
    Lease(usize),
    /// A node that was started has its links, and tells the log.
    Started {
        node: usize,
        life: u32,
    },
    Fault(Fault),
}

/// Something that happens to the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The anycast address reaches this node now.
    Flip(usize),
    /// The node loses its peers and the log; its SIP sockets work.
    Cut(usize),
    /// It has them again.
    Heal(usize),
    /// The node loses its peers only.
    CutLinks(usize),
    /// It has them again.
    HealLinks(usize),
    /// The node loses the log only.
    CutLog(usize),
    /// It has it again.
    HealLog(usize),
    /// The log has no quorum anywhere: a leader is being elected.
    Leaderless,
    /// There is one.
    Elected,
    /// The node is gone, and the anycast address reaches another one.
    Kill(usize),
    /// It is started again, with what the log has.
    Restart(usize),
}

/// An event with its time and its number, by which they are ordered.
pub(super) struct Queued(pub(super) u64, pub(super) u64, pub(super) Event);
impl PartialEq for Queued {
    fn eq(&self, o: &Queued) -> bool {
        (self.0, self.1) == (o.0, o.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, o: &Queued) -> Option<std::cmp::Ordering> {
        Some(self.cmp(o))
    }
}
impl Ord for Queued {
    fn cmp(&self, o: &Queued) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(o.0, o.1))
    }
}
