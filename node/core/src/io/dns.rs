//! Questions to the DNS (RFC 3263) and their answers.

use std::net::SocketAddr;

use super::Transport;

/// A host with an optional port, as a SIP URI or a trunk's target names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostAndPort {
    /// A domain name, or an IP literal without brackets.
    pub host: Box<str>,
    /// The port, where given: then no SRV is asked for (RFC 3263 §4.2).
    pub port: Option<u16>,
}

/// What is known about the transport before asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportChoice {
    /// Given by the URI or the trunk.
    Fixed(Transport),
    /// `sips:` without a transport: TLS only.
    Secure,
    /// To be found: UDP where nothing says otherwise.
    Any,
}

/// One question: where do requests to this host go?
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ResolveRequest {
    /// The target of RFC 3263 §4.
    pub target: HostAndPort,
    /// Its transport.
    pub transport: TransportChoice,
}

/// One place to try, in the order of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Address and port.
    pub addr: SocketAddr,
    /// Transport.
    pub transport: Transport,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name does not exist or has no address.
    NotFound,
    /// No server answered, and nothing is cached.
    Unavailable,
}
