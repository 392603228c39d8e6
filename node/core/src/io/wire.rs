//! Packets: where they came from, where they go.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::ids::{FlowId, NodeId, SendId};
use crate::time::Instant;

/// The two sides of the SBC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Realm {
    /// Callers' networks: the anycast and the external unicast address.
    External,
    /// The emergency service's network: the core-side address.
    Core,
}

/// Which of this node's addresses a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressRole {
    /// The address that every node serves.
    Anycast,
    /// This node's own external address.
    Unicast,
    /// This node's own core-side address.
    Core,
}

impl AddressRole {
    /// The realm that the address belongs to.
    pub fn realm(self) -> Realm {
        match self {
            AddressRole::Anycast | AddressRole::Unicast => Realm::External,
            AddressRole::Core => Realm::Core,
        }
    }
}

/// SIP transports (RFC 3261 §18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Datagrams; the sender retransmits.
    Udp,
    /// A stream.
    Tcp,
    /// A stream under TLS.
    Tls,
}

impl Transport {
    /// True where the transport itself delivers: no retransmission timers (RFC 3261 §17).
    pub fn is_reliable(self) -> bool {
        !matches!(self, Transport::Udp)
    }

    /// The token in a Via header field, upper case (RFC 3261 §20.42).
    pub fn via_token(self) -> &'static str {
        match self {
            Transport::Udp => "UDP",
            Transport::Tcp => "TCP",
            Transport::Tls => "TLS",
        }
    }

    /// The parameter that a Contact of ours has for it; none for UDP, which is what a URI means without one.
    pub fn contact_parameter(self) -> &'static str {
        match self {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        }
    }
}

/// One way between this node and a far end: enough to send there, and to know where something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// Which kind of address of ours.
    pub role: AddressRole,
    /// UDP, TCP or TLS.
    pub transport: Transport,
    /// Our address and port: what the packet was sent to, or is to leave from. For an outgoing TCP/TLS connection the
    /// address to bind; its port is the listener's, for naming only.
    pub local: SocketAddr,
    /// The far end's address and port.
    pub remote: SocketAddr,
    /// The connection (TCP/TLS). `None` on UDP, and where a connection is still to be found or opened.
    pub flow: Option<FlowId>,
}

/// One SIP message (a datagram, or one message framed out of a stream), as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// How it came.
    pub path: Path,
    /// The message's bytes, never empty. CRLF keep-alives are answered in the transport and do not come here.
    pub payload: Bytes,
    /// When the kernel had it, which is long ago where this node was busy, or paused. Never later than the input's time.
    pub at: Instant,
}

/// Bytes to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From where, to where. Without `flow` on TCP/TLS, the transport uses a connection to `path.remote` that it has, or opens one.
    /// With `flow` set and that connection gone, a request fails, for the far end's source port leads nowhere; a response goes
    /// by `reopen`.
    pub path: Path,
    /// A response by TCP/TLS: where a connection is opened when there is none to `path.remote` any more (RFC 3261 §18.2.2).
    pub reopen: Option<SocketAddr>,
    /// For a new TLS connection: the name that the far end's certificate must bear (`None`: its IP address).
    pub tls_name: Option<Box<str>>,
    /// One whole SIP message.
    pub payload: Bytes,
    /// Named in [`Input::SendFailed`](super::Input::SendFailed); `SendId(0)`: do not report.
    pub id: SendId,
}

/// Why bytes could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// Connection refused, unreachable, reset, TLS handshake or name failure.
    Refused,
    /// No connection within the connect timeout.
    TimedOut,
    /// The queue to this destination is full.
    Congested,
}

/// The way back for the responses to a request (anycast.md, rules E and H).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReturnPath {
    /// The node whose socket read the request; `None`: this one.
    pub ingress: Option<NodeId>,
    /// The path at that node, `remote` being where the response goes (RFC 3261 §18.2.2, RFC 3581 §4).
    pub path: Path,
    /// Of a request by TCP/TLS: where its sender listens by its Via. Responses go there when its connection is gone
    /// (RFC 3261 §18.2.2).
    pub reopen: Option<SocketAddr>,
}

impl ReturnPath {
    /// True for a way from the same address, by the same transport, to the same kind of address of ours.
    pub fn is_like(&self, other: &ReturnPath) -> bool {
        let (a, b) = (&self.path, &other.path);
        a.remote.ip() == b.remote.ip() && a.transport == b.transport && a.role == b.role
    }

    /// A way of this node's own that no Via told of.
    pub fn here(path: Path) -> ReturnPath {
        ReturnPath::through(None, path)
    }

    /// A way that no Via told of, at this node or another.
    pub fn through(ingress: Option<NodeId>, path: Path) -> ReturnPath {
        ReturnPath { ingress, path, reopen: None }
    }
}
