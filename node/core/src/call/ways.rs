//! Finds the ways to the far end of a dialog, of a call or of a subscription: its connection, its URI, where it was seen last; of each name
//! all its addresses, and TCP before UDP for what is too large.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;

use super::context::Context;
use super::dial::DATAGRAM_MAX;
use crate::crossing::{Way, Ways};
use crate::dialog::Dialog;
use crate::ids::NodeId;
use crate::io::{HostAndPort, Path, Realm, ResolveError, ResolveRequest, ReturnPath, Target, Transport, TransportChoice};
use crate::local::{bracketed, is_private};
use crate::policy::{Settings, Trunk};
use crate::routing;
use crate::sip::{Draft, HeaderId, Uri};

/// Addresses of one name that are tried: each costs the time of a failover.
const MAX_WAYS: usize = 8;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// There, at once.
    Known {
        /// The path.
        path: Path,
        /// Of which node.
        ingress: Option<NodeId>,
    },
    /// Ask first.
    Ask(ResolveRequest),
}

/// A request as it goes out.
pub struct Written {
    /// Where.
    pub way: Way,
    /// The branch of its Via.
    pub branch: Box<str>,
    /// Its octets.
    pub payload: Bytes,
}

/// What is known of where a far end is.
#[derive(Clone, Copy)]
pub struct FarEnd<'a> {
    /// On which side of the SBC.
    pub realm: Realm,
    /// Its trunk.
    pub trunk: &'a str,
    /// The dialog with it.
    pub dialog: &'a Dialog,
    /// Where it was last seen, or reached.
    pub path: &'a Path,
    /// The node that `path` is a path of.
    pub ingress: Option<NodeId>,
    /// The name that its certificate must bear, for new TLS connections.
    pub tls_name: Option<&'a str>,
    /// What was asked for was sips.
    pub secure: bool,
}

impl FarEnd<'_> {
    /// The Contact value that we give to it: this node's own address, never the anycast one (rules E, F), with an owner token.
    pub fn contact(&self, cx: &Context, token: &str) -> String {
        let (transport, ip) = (self.path.transport, bracketed(cx.local.own_address(self.realm, self.path.remote.ip())));
        let port = cx.local.port_of(transport);
        if self.secure && transport == Transport::Tls {
            // RFC 3261 §8.1.1.8, §12.1.1. A far end that says sips without TLS is reached as it reaches us.
            return format!("<sips:{token}@{ip}:{port}>");
        }
        format!("<sip:{token}@{ip}:{port}{}>", transport.contact_parameter())
    }

    /// Where the next request in its dialog goes (RFC 3261 §8.1.2, §12.2.1.1).
    pub fn next_hop(&self, cx: &Context) -> NextHop {
        // A connection that the far end opened is the way to it while it lasts, whatever its Contact says: most callers do not listen.
        if self.path.transport.is_reliable() && self.path.flow.is_some_and(|flow| cx.is_open(flow, self.ingress)) {
            return NextHop::Known { path: *self.path, ingress: self.ingress };
        }
        if self.dialog.guessed && self.dialog.route_set.is_empty() {
            return observed(cx, self.realm, self.path);
        }
        hop_to(cx, self.realm, self.path, &self.dialog.next_hop())
    }

    /// The way to a next hop that is known.
    pub fn way(&self, path: Path, ingress: Option<NodeId>) -> Way {
        Way { back: ReturnPath::through(ingress, path), tls_name: self.tls_name.map(Into::into) }
    }

    /// The ways to this host, after the DNS has answered.
    pub fn ways(&self, cx: &mut Context, host: &str, result: &Result<Vec<Target>, ResolveError>) -> Ways {
        let targets = result.as_deref().unwrap_or_default();
        let targets = &targets[..targets.len().min(MAX_WAYS)];
        if targets.is_empty() {
            // No DNS: where the far end was last seen is the best that is left, and mostly right.
            return Ways::one(self.way(self.own_path(cx, self.path.transport), None));
        }
        // RFC 3263 §4.3: those that failed lately come last.
        let first = targets.iter().position(|target| !cx.defers(self.realm, target)).unwrap_or(0);
        let way = |target: &Target| {
            // The dialled domain has proved itself there: its connection serves on, whatever its Contact calls the host.
            let proved = self.tls_name.filter(|_| target.addr == self.path.remote);
            let back = ReturnPath::here(cx.path_to(self.realm, target.transport, target.addr));
            Way { back, tls_name: Some(proved.unwrap_or(host).into()) }
        };
        targets[first..].iter().chain(&targets[..first]).map(way).collect()
    }

    /// Takes the best of these ways, and writes a request for it: Via and octets. By TCP where they are too many for a datagram. `None`:
    /// there is no way, or it cannot be written.
    pub fn write(&self, cx: &mut Context, ways: &mut Ways, draft: &mut Draft) -> Option<Written> {
        let mut way = ways.take()?;
        let branch = cx.mint_branch();
        draft.insert_first(HeaderId::Via, cx.via(&way.back.path, &branch));
        let mut payload = cx.encode(draft)?;
        if payload.len() > DATAGRAM_MAX
            && !ways.has_tcp_first()
            && let Some(by_tcp) = self.by_tcp_first(cx, &way)
        {
            ways.put_tcp_first(std::mem::replace(&mut way, by_tcp));
            draft.replace_first(HeaderId::Via, cx.via(&way.back.path, &branch));
            payload = cx.encode(draft)?;
        }
        Some(Written { way, branch: branch.into(), payload })
    }

    /// The path back to where the far end was seen, from our own address.
    pub fn own_path(&self, cx: &Context, transport: Transport) -> Path {
        cx.path_to(self.realm, transport, self.path.remote)
    }

    /// The same hop by TCP. `None`: it is not for this far end, or TCP failed there lately.
    fn by_tcp_first(&self, cx: &mut Context, way: &Way) -> Option<Way> {
        let path = way.back.path;
        let target = Target { addr: path.remote, transport: Transport::Tcp };
        if path.transport != Transport::Udp || !self.takes_tcp(cx) || cx.defers(self.realm, &target) {
            return None;
        }
        Some(Way { back: ReturnPath::here(cx.path_to(self.realm, Transport::Tcp, path.remote)), tls_name: None })
    }

    /// Whether a request that is too large for a datagram may go by TCP to the same address (RFC 3261 §18.1.1): the far end's URI and
    /// its trunk leave the transport open, and no NAT is in between.
    fn takes_tcp(&self, cx: &Context) -> bool {
        let fixed = |trunk: &Trunk| trunk.targets.iter().any(|t| t.transport == Some(Transport::Udp));
        let uri = self.dialog.next_hop();
        let Ok(uri) = Uri::parse(&uri) else { return false };
        let open = routing::uri_transport(&uri) == TransportChoice::Any && !cx.config.trunk(self.trunk).is_some_and(fixed);
        let known = !self.dialog.guessed || !self.dialog.route_set.is_empty();
        open && known && uri.host_ip().is_none_or(|ip| !is_natted(ip, self.path))
    }

    /// True for a far end by UDP whose own address is another, private one than that which is seen.
    pub fn is_behind_nat(&self) -> bool {
        self.path.transport == Transport::Udp && self.own_ip().is_some_and(|ip| is_natted(ip, self.path))
    }

    /// Reminds the NAT before it of us: two CRLFs, the ping of RFC 5626 §3.5.1.
    pub fn keep_alive(&self, cx: &mut Context) {
        if !cx.config.settings.nat_keepalive.is_zero() && self.is_behind_nat() {
            let way = ReturnPath::here(self.own_path(cx, Transport::Udp));
            cx.send(way, None, Bytes::from_static(b"\r\n\r\n"));
        }
    }

    /// How the path to it stands after a request of its came by `back`: a connection, at whatever node, or the port that a NAT has
    /// given it lately.
    pub fn learnt_path(&self, back: &ReturnPath) -> (Path, Option<NodeId>) {
        let known = (*self.path, self.ingress);
        if self.path.transport != back.path.transport {
            return known;
        }
        if self.path.transport.is_reliable() {
            return (back.path, back.ingress);
        }
        let seen = self.path.remote.ip();
        let other = |ip: IpAddr| ip.to_canonical() != seen.to_canonical() || is_private(ip);
        let natted = self.dialog.guessed || self.own_ip().is_some_and(other);
        let remote: SocketAddr = if natted && seen == back.path.remote.ip() { back.path.remote } else { self.path.remote };
        (Path { remote, ..*self.path }, self.ingress)
    }

    /// The same without this connection, over which a request could not be sent.
    pub fn path_without(&self, way: &Way) -> (Path, Option<NodeId>) {
        if self.path.flow == way.back.path.flow && self.ingress == way.back.ingress {
            return (Path { flow: None, ..*self.path }, None);
        }
        (*self.path, self.ingress)
    }

    /// The address that it gives as its own.
    fn own_ip(&self) -> Option<IpAddr> {
        Uri::parse(&self.dialog.remote_target).ok().and_then(|uri| uri.host_ip())
    }
}

/// When the next keep-alive is due.
pub fn keep_alive_after(cx: &Context) -> Duration {
    let every = cx.config.settings.nat_keepalive;
    // Where there are none, they may be turned on.
    if every.is_zero() { Settings::default().nat_keepalive } else { every }
}

/// Back to where a far end was seen last.
fn observed(cx: &Context, realm: Realm, seen: &Path) -> NextHop {
    NextHop::Known { path: cx.path_to(realm, seen.transport, seen.remote), ingress: None }
}

/// RFC 3581 and plain sense: a private address of a far end that shows another one is behind a NAT.
fn is_natted(ip: IpAddr, seen: &Path) -> bool {
    ip != seen.remote.ip() && is_private(ip) && !is_private(seen.remote.ip())
}

/// The next hop to a URI of a far end that was seen there.
pub fn hop_to(cx: &Context, realm: Realm, seen: &Path, uri: &str) -> NextHop {
    let Ok(uri) = Uri::parse(uri) else { return observed(cx, realm, seen) };
    let Some(host) = uri.host() else { return observed(cx, realm, seen) };
    let choice = match routing::uri_transport(&uri) {
        TransportChoice::Any => TransportChoice::Fixed(seen.transport),
        other => other,
    };
    let transport = match choice {
        TransportChoice::Fixed(t) => t,
        TransportChoice::Secure => Transport::Tls,
        TransportChoice::Any => seen.transport,
    };
    match uri.host_ip() {
        Some(ip) if is_natted(ip, seen) => observed(cx, realm, seen),
        Some(ip) => {
            let port = uri.port().unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
            NextHop::Known { path: cx.path_to(realm, transport, (ip, port).into()), ingress: None }
        }
        None => NextHop::Ask(ResolveRequest { target: HostAndPort { host: host.into(), port: uri.port() }, transport: choice }),
    }
}
