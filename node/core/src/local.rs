//! What every layer above needs to know about this node.

use std::net::{IpAddr, SocketAddr};

use crate::ids::{Incarnation, NodeId};
use crate::io::{AddressRole, Addresses, Realm, Transport, View};
use crate::sip::Uri;

/// What we call ourselves in SIP (Server, User-Agent, the agent of a Warning): the product, and nothing of node, version or site. A far end
/// need not know which of several nodes it speaks to, and an attacker must not.
pub const AGENT: &str = "AnycastSBC";

/// This node: fixed for one start.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// Its id.
    pub node: NodeId,
    /// The number of this start.
    pub incarnation: Incarnation,
    /// Its name, for records and people.
    pub name: Box<str>,
    /// The address that all nodes serve.
    pub anycast: Addresses,
    /// Its own external address.
    pub unicast: Addresses,
    /// Its own core-side address.
    pub core: Addresses,
    /// SIP over UDP and TCP, on each address.
    pub port: u16,
    /// SIP over TLS, on each address.
    pub tls_port: u16,
    /// Media is anchored by an engine (`embedded`); false: SDP passes as it is (`none`).
    pub anchored: bool,
}

impl LocalConfig {
    /// Our addresses of a role.
    pub fn addresses(&self, role: AddressRole) -> Addresses {
        match role {
            AddressRole::Anycast => self.anycast,
            AddressRole::Unicast => self.unicast,
            AddressRole::Core => self.core,
        }
    }

    /// Our address of a role toward `far`, with the port of the transport. Where the family of `far` is not served, nothing can be sent
    /// from it: the transport says so at once.
    pub fn address(&self, role: AddressRole, transport: Transport, far: IpAddr) -> SocketAddr {
        SocketAddr::new(self.addresses(role).like(far), self.port_of(transport))
    }

    /// Our port of a transport.
    pub fn port_of(&self, transport: Transport) -> u16 {
        if transport == Transport::Tls { self.tls_port } else { self.port }
    }

    /// The address that requests of ours leave from, and that Contact and SDP name: never the anycast address (rule F).
    pub fn own_role(realm: Realm) -> AddressRole {
        match realm {
            Realm::External => AddressRole::Unicast,
            Realm::Core => AddressRole::Core,
        }
    }

    /// True for the anycast address and every address of every node: a Route to it comes back to this cluster (AC-34).
    pub fn is_ours(&self, view: &View, ip: IpAddr) -> bool {
        let own = [self.anycast, self.unicast, self.core].into_iter();
        own.chain(view.nodes.iter().flat_map(|n| [n.unicast, n.core])).any(|o| o.contains(ip))
    }

    /// The same of the host of a URI, which may be one of the cluster's `names` (without a dot at their end), too.
    pub fn is_our_host(&self, view: &View, names: &[Box<str>], uri: &Uri) -> bool {
        match (uri.host_ip(), uri.host()) {
            (Some(ip), _) => self.is_ours(view, ip),
            (None, Some(host)) => names.iter().any(|name| host.trim_end_matches('.').eq_ignore_ascii_case(name)),
            (None, None) => false,
        }
    }

    /// Our own address in a realm toward `far`: what Contact and SDP name there.
    pub fn own_address(&self, realm: Realm, far: IpAddr) -> IpAddr {
        self.addresses(LocalConfig::own_role(realm)).like(far)
    }
}

/// `host`, in brackets where it is an IPv6 literal.
pub fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// Addresses that only mean something behind a NAT (RFC 1918, RFC 6598, RFC 3927, RFC 4193).
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let o = v4.octets();
            v4.is_private() || v4.is_link_local() || (o[0] == 100 && o[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
