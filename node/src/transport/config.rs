//! Where the transport listens, what it trusts, and how much it takes.

use std::sync::Arc;
use std::time::Duration;

use sbc_core::io::{AddressRole, Addresses, Transport};

/// The ports of one realm. The anycast and the unicast address share those of the external realm: an answer that leaves
/// from the anycast address through the unicast socket can take another address, but no other port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// UDP and TCP.
    pub sip: u16,
    /// TLS.
    pub sips: u16,
}

impl Default for Ports {
    fn default() -> Ports {
        // RFC 3261 §19.1.2: 5060 for UDP and TCP, 5061 for TLS.
        Ports { sip: 5060, sips: 5061 }
    }
}

/// When the anycast address is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnycastMode {
    /// Opened and closed by [`bind_anycast`](super::TransportHandle::bind_anycast) and
    /// [`release_anycast`](super::TransportHandle::release_anycast): holding the sockets is announcing.
    OnDemand,
    /// Bound from the start: the address is on the loopback interface of every node, and routing decides who is reached.
    Always,
}

/// What TLS connections are made with. Without it there are no TLS listeners, and sends over TLS are refused.
#[derive(Clone)]
pub struct TlsConfigs {
    /// For accepted connections (see [`crate::tls::sip_server`]).
    pub server: Arc<rustls::ServerConfig>,
    /// For opened connections (see [`crate::tls::sip_client`]).
    pub client: Arc<rustls::ClientConfig>,
}

/// Limits on connections; each has its reason at its default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Accepted connections in all.
    pub flows: usize,
    /// Connections that we opened, in all.
    pub flows_opened: usize,
    /// Accepted connections from one source: an IPv4 address, an IPv6 /64.
    pub flows_per_source: usize,
    /// Accepted connections of one source that are in the middle of a message.
    pub half_open_per_source: usize,
    /// Messages waiting to be written to one connection.
    pub write_queue: usize,
    /// TLS handshake, either direction.
    pub handshake: Duration,
    /// An accepted connection's first message, and every message from its first byte to its last.
    pub message: Duration,
    /// A connection on which nothing comes in.
    pub idle: Duration,
    /// The same for an accepted one on which there were keep-alives only.
    pub idle_unused: Duration,
    /// Opening a TCP connection.
    pub connect: Duration,
    /// One message to be taken by the far end's window.
    pub write: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            // About 10 KiB each with their buffers: 200 MB in the worst case.
            flows: 20_000,
            // Trunks' targets, and far ends whose own connection is gone.
            flows_opened: 10_000,
            // A peer network with a connection per call stays below; a single host cannot take the table.
            flows_per_source: 1_000,
            // A message comes in one piece or in a few within a round trip: a network of a thousand calls has a handful under way.
            // At 320 KiB each (head and body) a source holds 20 MB at the most.
            half_open_per_source: 64,
            // A message is at most 128 KiB and mostly 1 KiB: the far end has stalled long before 256.
            write_queue: 256,
            handshake: Duration::from_secs(5),
            // Slow senders: a message takes one round trip, ten seconds allow for loss.
            message: Duration::from_secs(10),
            // Longer than a call may be silent: closing the connection of a caller behind a NAT makes it unreachable. Dead
            // ones are found by TCP keep-alive.
            idle: Duration::from_secs(2 * 3600),
            // RFC 5626 §4.4.1: keep-alives come every 120 s at the latest.
            idle_unused: Duration::from_secs(150),
            // The failover time of a target.
            connect: Duration::from_secs(2),
            write: Duration::from_secs(10),
        }
    }
}

/// Everything that [`Transport::start`](super::Transport::start) needs, validated by the caller.
#[derive(Clone)]
pub struct TransportConfig {
    /// This node's own external address.
    pub unicast: Addresses,
    /// The address that every node serves.
    pub anycast: Option<Addresses>,
    /// This node's core-side address.
    pub core: Addresses,
    /// Ports of the external realm.
    pub external_ports: Ports,
    /// Ports of the core realm.
    pub core_ports: Ports,
    /// When the anycast address is open.
    pub anycast_mode: AnycastMode,
    /// TLS, where it is wanted.
    pub tls: Option<TlsConfigs>,
    /// Limits.
    pub limits: Limits,
}

impl TransportConfig {
    /// The addresses of a role; `None` for the anycast address of a node that has none.
    pub fn addresses(&self, role: AddressRole) -> Option<Addresses> {
        match role {
            AddressRole::Anycast => self.anycast,
            AddressRole::Unicast => Some(self.unicast),
            AddressRole::Core => Some(self.core),
        }
    }

    /// The port of a role and transport.
    pub fn port(&self, role: AddressRole, transport: Transport) -> u16 {
        let ports = match role {
            AddressRole::Anycast | AddressRole::Unicast => self.external_ports,
            AddressRole::Core => self.core_ports,
        };
        match transport {
            Transport::Udp | Transport::Tcp => ports.sip,
            Transport::Tls => ports.sips,
        }
    }
}
