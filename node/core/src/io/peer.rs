//! What nodes say to each other about packets, over the peer link (anycast.md, rule D).

use std::time::Duration;

use bytes::Bytes;

use super::{Path, SendFailure, Transmit};
use crate::ids::{CallUid, NodeId, PacketKey, SendId};

/// A packet handed to its owner, as received. The hop count is one by construction: an enveloped packet is never relayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The node whose socket read it.
    pub ingress: NodeId,
    /// How it came there. `path.flow` is a flow of the ingress node.
    pub path: Path,
    /// The message, byte for byte.
    pub payload: Bytes,
    /// How long ago the kernel of the ingress node had it.
    pub age: Duration,
}

/// Messages on the peer link. Unordered and unreliable by contract: a lost one is repaired by SIP's retransmission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// A misrouted packet, to its owner.
    Relay(Envelope),
    /// From the owner to the ingress: send this from your socket (rules E and H).
    SendFor(Transmit),
    /// From the ingress to the owner: an `SendFor` with an id could not be sent.
    SendForFailed {
        /// The owner's id of it.
        id: SendId,
        /// Why.
        reason: SendFailure,
    },
    /// Do you own this initial INVITE? Asked when the log cannot tell (AC-03, AC-07).
    AskClaim {
        /// The claim key, see `token::ClaimKey`.
        key: [u8; 16],
    },
    /// The caller has cancelled this initial INVITE, of which nobody knew (AC-07): should it still come, it is answered 487.
    Cancelled {
        /// The key asked for.
        key: [u8; 16],
        /// Its packet key.
        packet_key: PacketKey,
    },
    /// The answer to `AskClaim`; without a question too, from a node that finds another one at work on its call.
    ClaimIs {
        /// The key asked for.
        key: [u8; 16],
        /// The call, where the answering node owns it, and how far it is.
        call: Option<(CallUid, ClaimStage)>,
    },
}

impl PeerMessage {
    /// The same after it has waited, or travelled, for so long.
    #[must_use]
    pub fn aged(mut self, by: Duration) -> PeerMessage {
        if let PeerMessage::Relay(envelope) = &mut self {
            envelope.age = envelope.age.saturating_add(by);
        }
        self
    }
}

/// How far a node is with a call: what decides which of two nodes goes on that have the same one (AC-03). The later the stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClaimStage {
    /// Nobody was asked yet.
    Preparing,
    /// The called side was asked.
    Dialling,
    /// The log gave it the claim.
    Won,
    /// Answered, or over.
    Answered,
}
