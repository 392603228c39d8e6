//! One leg of a call: its dialog, its path, its SDP identity, and the 2xx that waits for an ACK.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::headers::contact_params;
use super::services::Services;
use crate::ctx::{bracketed, is_private};
use crate::dialog::Dialog;
use crate::ids::NodeId;
use crate::io::{HostAndPort, Path, Realm, ResolveRequest, ReturnPath, Side, Transport, TransportChoice};
use crate::routing;
use crate::sip::{HeaderId, Message, Uri};
use crate::store_pb;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::ServerTxId;

/// CSeq numbers are recorded in steps, so that not each request of ours needs a record (rule J leaves room above).
pub(super) const CSEQ_STEP: u32 = 64;

/// A leg.
#[derive(Debug)]
pub struct Leg {
    /// Toward whom.
    pub side: Side,
    /// On which side of the SBC.
    pub realm: Realm,
    /// Its dialog.
    pub dialog: Dialog,
    /// Where its far end was last seen, or reached.
    pub path: Path,
    /// The node that `path` is a path of.
    pub ingress: Option<NodeId>,
    /// It was dialled as sips: its Contact is one too.
    pub secure: bool,
    /// TLS name of the far end for new connections.
    pub tls_name: Option<Box<str>>,
    /// User part of our Contact: an owner token.
    pub contact_token: Box<str>,
    /// Header parameters of our Contact: what the other leg's far end said of itself.
    pub contact_params: Box<str>,
    /// Its trunk.
    pub trunk: Box<str>,
    /// Session id of the `o=` lines that we write on this leg.
    pub sdp_id: u64,
    /// Version of the last of them.
    pub sdp_version: u64,
    /// The last session description that we sent.
    pub local_sdp: Bytes,
    /// The last one that the far end sent.
    pub remote_sdp: Bytes,
    /// Our 2xx to an INVITE of the far end, until its ACK comes.
    pub pending_2xx: Option<Pending2xx>,
    /// An INVITE of ours toward the far end is under way.
    pub inviting: bool,
    /// Whose offer is open here since the first INVITE, until its answer; of requests that are passed on, those themselves tell.
    pub offer: Option<Side>,
    /// Its session timer.
    pub(super) session: super::session::SessionTimer,
    /// The dialog is over on this leg: nothing more is sent on it.
    pub gone: bool,
}

/// A 2xx to an INVITE that waits for its ACK.
#[derive(Debug)]
pub struct Pending2xx {
    /// Its transaction.
    pub tx: ServerTxId,
    /// CSeq number of the INVITE.
    pub cseq: u32,
    /// The response.
    pub payload: Bytes,
    /// Present interval.
    pub interval: Duration,
    /// When to give up.
    pub until: Instant,
    /// Running timer.
    pub timer: Option<TimerId>,
    /// Where the request came from.
    pub back: ReturnPath,
    /// The far end's ACK carries the answer to the offer in this 2xx, and goes to the other leg's INVITE with this number.
    pub awaits_answer: Option<u32>,
    /// What stood before that offer.
    pub(super) before: Option<super::describe::Agreed>,
}

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

impl Leg {
    /// The Contact value that we give to this leg's far end.
    pub fn contact(&self, cx: &Services) -> String {
        let value = if self.secure && self.path.transport == Transport::Tls {
            // RFC 3261 §8.1.1.8, §12.1.1. A far end that says sips without TLS is reached as it reaches us.
            let ip = cx.local.own_address(self.realm, self.path.remote.ip());
            format!("<sips:{}@{}:{}>", self.contact_token, bracketed(ip), cx.local.port_of(Transport::Tls))
        } else {
            contact_value(cx, self.realm, &self.path, &self.contact_token)
        };
        format!("{value}{}", self.contact_params)
    }

    /// The same in a message that brings one of the other leg's far end: with what that says of itself.
    pub(super) fn contact_for(&mut self, cx: &Services, message: &Message) -> String {
        self.learn_contact(message);
        self.contact(cx)
    }

    /// What the other leg's far end says of itself in its Contact.
    pub(super) fn learn_contact(&mut self, message: &Message) {
        if let Some(contact) = message.values(HeaderId::Contact).next() {
            self.contact_params = contact_params(contact).into();
        }
    }

    /// Where the next request on this leg goes.
    pub fn next_hop(&self, cx: &Services) -> NextHop {
        next_hop(cx, self.realm, &self.dialog, &self.path, self.ingress)
    }

    /// Whether a request that is too large for a datagram may go by TCP to the same address (RFC 3261 §18.1.1): the far end's URI and
    /// its trunk leave the transport open, and no NAT is in between.
    pub fn takes_tcp(&self, cx: &Services) -> bool {
        let fixed = |trunk: &crate::policy::Trunk| trunk.targets.iter().any(|t| t.transport == Some(Transport::Udp));
        let uri = self.dialog.next_hop();
        let Ok(uri) = Uri::parse(&uri) else { return false };
        let open = routing::uri_transport(&uri) == TransportChoice::Any && !cx.config.trunk(&self.trunk).is_some_and(fixed);
        let known = !self.dialog.guessed || !self.dialog.route_set.is_empty();
        open && known && uri.host_ip().is_none_or(|ip| !is_natted(ip, &self.path))
    }

    /// True for a far end by UDP whose own address is another, private one than that which is seen.
    pub fn is_behind_nat(&self) -> bool {
        let target = Uri::parse(&self.dialog.remote_target).ok().and_then(|uri| uri.host_ip());
        self.path.transport == Transport::Udp && target.is_some_and(|ip| is_natted(ip, &self.path))
    }

    /// Takes the way that a request of the far end came: a connection, at whatever node, and the port that a NAT has given it lately.
    pub fn learn_path(&mut self, back: &ReturnPath) {
        if self.path.transport != back.path.transport {
            return;
        }
        if self.path.transport.is_reliable() {
            (self.path, self.ingress) = (back.path, back.ingress);
            return;
        }
        let target = Uri::parse(&self.dialog.remote_target).ok().and_then(|uri| uri.host_ip());
        let seen = self.path.remote.ip();
        let natted = self.dialog.guessed || target.is_some_and(|ip| ip.to_canonical() != seen.to_canonical() || is_private(ip));
        if natted && seen == back.path.remote.ip() {
            self.path.remote = back.path.remote;
        }
    }

    /// A request could not be sent over this connection: it is no way any more.
    pub fn forget_flow(&mut self, way: &ReturnPath) {
        if self.path.flow == way.path.flow && self.ingress == way.ingress {
            (self.path.flow, self.ingress) = (None, None);
        }
    }

    /// The path back to where the far end was seen, from our own address.
    pub fn own_path(&self, cx: &Services, transport: Transport) -> Path {
        cx.path_to(self.realm, transport, self.path.remote)
    }

    /// What is replicated of the leg.
    pub fn record(&self, ports: Vec<u32>) -> store_pb::LegRecord {
        let d = &self.dialog;
        store_pb::LegRecord {
            call_id: d.call_id.to_string(),
            local_tag: d.local_tag.to_string(),
            remote_tag: d.remote_tag.as_deref().unwrap_or_default().to_owned(),
            local_uri: d.local_uri.to_string(),
            remote_uri: d.remote_uri.to_string(),
            remote_target: d.remote_target.to_string(),
            route_set: d.route_set.iter().map(ToString::to_string).collect(),
            local_cseq_ceiling: (d.local_cseq / CSEQ_STEP + 1) * CSEQ_STEP,
            remote_cseq: d.remote_cseq.unwrap_or(0),
            path: Some(arrival(&self.path, self.ingress)),
            allow: self.session.update.then(|| "UPDATE".into()).into_iter().collect(),
            supported: self.session.known.then(|| "timer".into()).into_iter().collect(),
            local_sdp: self.local_sdp.clone(),
            remote_sdp: self.remote_sdp.clone(),
            media_ports: ports,
            trunk: self.trunk.to_string(),
            session_expires_s: self.session.interval,
            session_ours: self.session.ours,
        }
    }
}

/// A Contact of ours: this node's own address, never the anycast one (rules E, F), with an owner token.
pub fn contact_value(cx: &Services, realm: Realm, path: &Path, token: &str) -> String {
    let (transport, ip) = (path.transport, cx.local.own_address(realm, path.remote.ip()));
    format!("<sip:{token}@{}:{}{}>", bracketed(ip), cx.local.port_of(transport), transport.contact_parameter())
}

/// Where the next request in a dialog goes (RFC 3261 §8.1.2, §12.2.1.1), whose far end was last seen at `path`, a path of the node
/// `ingress`.
pub fn next_hop(cx: &Services, realm: Realm, dialog: &Dialog, path: &Path, ingress: Option<NodeId>) -> NextHop {
    // A connection that the far end opened is the way to it while it lasts, whatever its Contact says: most callers do not listen.
    if path.transport.is_reliable() && path.flow.is_some_and(|flow| cx.is_open(flow, ingress)) {
        return NextHop::Known { path: *path, ingress };
    }
    if dialog.guessed && dialog.route_set.is_empty() {
        return observed(cx, realm, path);
    }
    hop_to(cx, realm, path, &dialog.next_hop())
}

/// Back to where a far end was seen last.
fn observed(cx: &Services, realm: Realm, seen: &Path) -> NextHop {
    NextHop::Known { path: cx.path_to(realm, seen.transport, seen.remote), ingress: None }
}

/// RFC 3581 and plain sense: a private address of a far end that shows another one is behind a NAT.
fn is_natted(ip: IpAddr, seen: &Path) -> bool {
    ip != seen.remote.ip() && is_private(ip) && !is_private(seen.remote.ip())
}

/// The next hop to a URI of a far end that was seen there.
pub fn hop_to(cx: &Services, realm: Realm, seen: &Path, uri: &str) -> NextHop {
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

/// A path as a record.
pub(super) fn arrival(path: &Path, ingress: Option<NodeId>) -> store_pb::Arrival {
    use crate::io::AddressRole;
    store_pb::Arrival {
        ingress: ingress.map_or(0, |n| u32::from(n.0)),
        role: match path.role {
            AddressRole::Anycast => 1,
            AddressRole::Unicast => 2,
            AddressRole::Core => 3,
        },
        transport: match path.transport {
            Transport::Udp => 1,
            Transport::Tcp => 2,
            Transport::Tls => 3,
        },
        local: path.local.to_string(),
        remote: path.remote.to_string(),
        flow: path.flow.map_or(0, |f| f.0),
    }
}
