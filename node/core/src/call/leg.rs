//! One leg of a call: its dialog, its path, its SDP identity, and the 2xx that waits for an ACK.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::services::Services;
use crate::ctx::bracketed;
use crate::dialog::Dialog;
use crate::ids::NodeId;
use crate::io::{HostAndPort, Path, Realm, ResolveRequest, ReturnPath, Side, Transport, TransportChoice};
use crate::routing;
use crate::sip::Uri;
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
    /// The Contact value that we give to this leg's far end: this node's own address, never the anycast one (rules E, F).
    pub fn contact(&self, cx: &Services) -> String {
        let transport = self.path.transport;
        let ip = cx.local.own_address(self.realm, self.path.remote.ip());
        let port = cx.local.port_of(transport);
        // RFC 3261 §8.1.1.8, §12.1.1. A far end that says sips without TLS is reached as it reaches us.
        if self.secure && transport == Transport::Tls {
            return format!("<sips:{}@{}:{port}>", self.contact_token, bracketed(ip));
        }
        let parameter = match transport {
            Transport::Udp => "",
            Transport::Tcp => ";transport=tcp",
            Transport::Tls => ";transport=tls",
        };
        format!("<sip:{}@{}:{port}{parameter}>", self.contact_token, bracketed(ip))
    }

    /// Where the next request on this leg goes (RFC 3261 §8.1.2, §12.2.1.1).
    pub fn next_hop(&self, cx: &Services) -> NextHop {
        // A connection that the far end opened is the way to it, whatever its Contact says: most callers do not listen.
        if self.path.transport.is_reliable() && self.path.flow.is_some() {
            return NextHop::Known { path: self.path, ingress: self.ingress };
        }
        let observed = NextHop::Known { path: Path { flow: None, ..self.own_path(cx, self.path.transport) }, ingress: None };
        let Ok(uri) = Uri::parse(&self.dialog.next_hop()) else { return observed };
        let Some(host) = uri.host() else { return observed };
        let choice = match routing::uri_transport(&uri) {
            TransportChoice::Any => TransportChoice::Fixed(self.path.transport),
            other => other,
        };
        let transport = match choice {
            TransportChoice::Fixed(t) => t,
            TransportChoice::Secure => Transport::Tls,
            TransportChoice::Any => self.path.transport,
        };
        match uri.host_ip() {
            // RFC 3581 and plain sense: a private address of a far end that shows another one is behind a NAT.
            Some(ip) if ip != self.path.remote.ip() && is_private(ip) && !is_private(self.path.remote.ip()) => observed,
            Some(ip) => {
                let port = uri.port().unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
                NextHop::Known { path: cx.path_to(self.realm, transport, (ip, port).into()), ingress: None }
            }
            None => {
                NextHop::Ask(ResolveRequest { target: HostAndPort { host: host.into(), port: uri.port() }, transport: choice })
            }
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

/// Addresses that only mean something behind a NAT (RFC 1918, RFC 6598, RFC 3927, RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let o = v4.octets();
            v4.is_private() || v4.is_link_local() || (o[0] == 100 && o[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}
