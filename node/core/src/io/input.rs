//! Everything that can happen to the core.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{MediaEvent, PeerMessage, Realm, Received, ResolveError, SendFailure, Target, View};
use crate::ids::{CallUid, CommandId, FlowId, NodeId, ProposalId, ResolveId, SendId};
use crate::store_pb;

/// One input of [`Sbc::handle_input`](crate::sbc::Sbc::handle_input).
#[derive(Clone, Debug)]
pub enum Input {
    /// A socket of this node read a message.
    Received(Received),
    /// A peer sent something.
    Peer {
        /// Who.
        from: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// The answer to [`Output::Resolve`](super::Output::Resolve).
    Resolved {
        /// Which question.
        id: ResolveId,
        /// Targets in the order to try, never empty.
        result: Result<Vec<Target>, ResolveError>,
    },
    /// The media engine reports.
    Media(MediaEvent),
    /// Committed entries, in log order, none left out: the replicated state changes by these and by nothing else.
    Applied {
        /// Log index of the entry.
        index: u64,
        /// The entry.
        entry: Arc<store_pb::Entry>,
    },
    /// The replicated state was replaced by a snapshot.
    StateReplaced,
    /// A proposal of this node will not commit (no quorum, leader lost, queue full) or its fate is unknown.
    ProposeFailed {
        /// Which.
        id: ProposalId,
    },
    /// The cluster changed.
    ViewChanged(View),
    /// A send failed.
    SendFailed {
        /// Which.
        id: SendId,
        /// Why.
        reason: SendFailure,
    },
    /// The far end of a TLS connection of this node has shown a certificate that is believed. Comes before anything that was
    /// received on the connection, and is forgotten with it.
    FlowProved {
        /// Which.
        flow: FlowId,
        /// The SIP domains in the certificate (RFC 5922 §7.1).
        names: Box<[Box<str>]>,
    },
    /// A connection is gone.
    FlowClosed(FlowId),
    /// The cluster's configuration changed (parsed and validated by the node).
    Reconfigured(Arc<crate::policy::ClusterConfig>),
    /// The control plane wants something.
    Command {
        /// Named in the reply.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// How busy this node's SIP loop is, in percent: 100 is all it can do, and more than that waits.
    Load(u8),
    /// Time passed: the driver sends this when `poll_timeout` is due, and what has come in before then has been dealt with. No other
    /// input makes a timer fire.
    Timeout,
}

/// Requests of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// End a call with BYE (or CANCEL and a failure response) on both legs. Answered by `Done`, or `NotFound`.
    Terminate {
        /// Which call.
        call: CallUid,
        /// For the Reason header field and the CDR.
        reason: Box<str>,
        /// Whether an emergency call may be ended.
        emergency: bool,
    },
    /// The messages of a live or lately ended call of this node. Answered by `Ladder`.
    Ladder {
        /// Which call.
        call: CallUid,
    },
    /// What would happen to an INVITE that begins a call. Nothing does. Answered by `Explained`.
    Explain {
        /// Where it comes from.
        origin: RouteOrigin,
        /// The INVITE.
        message: Bytes,
    },
    /// How many calls this node owns, and its counters. Answered by `Summary`.
    Summary,
}

/// Where a request that is to be explained comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteOrigin {
    /// An address, on a side.
    Address(Realm, IpAddr),
    /// A trunk, whatever its sources are.
    Trunk(Box<str>),
}
