//! What the table hands out, and the names of transactions.

use bytes::Bytes;

use super::user::ClientUser;
use crate::ids::NodeId;
use crate::io::{ReturnPath, SendFailure, Transmit};

/// A server transaction of this node. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTxId(pub(super) u64);

/// A client transaction of this node. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTxId(pub(super) u64);

/// A request of ours to be sent.
#[derive(Clone, Debug)]
pub struct NewRequest {
    /// Who waits for its responses.
    pub user: ClientUser,
    /// The branch of its Via: unique but for a CANCEL, which has its INVITE's.
    pub branch: Box<str>,
    /// Its method is INVITE (never ACK: it has no transaction).
    pub invite: bool,
    /// Where it goes, and through which node.
    pub way: ReturnPath,
    /// The name that the far end's certificate must bear, for a new TLS connection.
    pub tls_name: Option<Box<str>>,
    /// Its octets.
    pub payload: Bytes,
}

/// One output of [`Transactions::poll_output`](super::Transactions::poll_output), to be carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxOutput {
    /// Send from this node.
    Transmit(Transmit),
    /// Send from the node whose socket read the request, or where the far end's connection is:
    /// [`PeerMessage::SendFor`](crate::io::PeerMessage::SendFor).
    SendFor {
        /// That node.
        to: NodeId,
        /// What. Of a response its id is 0; of a request that node reports a failure under it.
        transmit: Transmit,
    },
    /// For the TU.
    Event(TxEvent),
}

/// What the TU is told without having asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxEvent {
    /// No (final) response: timer B or F, or an hour of silence after a 1xx to INVITE. `ClientTerminated` follows.
    ClientTimeout(ClientTxId),
    /// The request, or the ACK to a non-2xx, could not be sent. In the latter case the final response was delivered before.
    /// `ClientTerminated` follows.
    ClientTransportError(ClientTxId, SendFailure),
    /// No ACK to a non-2xx (timer H). `ServerTerminated` follows.
    ServerTimeout(ServerTxId),
    /// A non-INVITE request has waited for so long that a 100 is due (RFC 4320 §4.1).
    ServerTrying(ServerTxId),
    /// The transaction is gone. Without a final response before: the TU gave none in time (non-INVITE 32 s, INVITE an hour
    /// after its last provisional).
    ServerTerminated(ServerTxId),
    /// The transaction is gone.
    ClientTerminated(ClientTxId),
}
