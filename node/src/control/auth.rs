//! Who asks, and whether they may: before any RPC runs, for every path alike.
//!
//! The bearer is read from the client certificate, whose chain TLS has checked. A node that forwards an RPC names the asker
//! in `sbc-on-behalf-of`; only a node's certificate is believed there, and what it names is authorised again here.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use sbc_proto::v1::ErrorReason;
use tonic::body::Body;
use tonic::codegen::http::{Extensions, Request, Response};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::error::fault;
use super::permission::{PII_READ, allowed, needs};
use crate::config::Member;
use crate::telemetry::Metrics;
use crate::tls::{Identity, IdentityKind, Role, peer_identity};

/// Metadata of a forwarded RPC: `user/alice;operator`.
pub const ON_BEHALF_OF: &str = "sbc-on-behalf-of";

/// Who asks: found in the extensions of every request that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Kind, for whom it was asked.
    pub kind: IdentityKind,
    /// Name.
    pub name: String,
    /// Role.
    pub role: Option<Role>,
    /// May see personal data.
    pub pii: bool,
    /// A node has forwarded this RPC: it is not forwarded again.
    pub forwarded: bool,
}

impl Caller {
    /// The value of [`ON_BEHALF_OF`].
    pub fn on_behalf(&self) -> String {
        format!("{}/{};{}", kind_name(self.kind), self.name, self.role.map_or("", Role::name))
    }

    /// For records: `user/alice`.
    pub fn display(&self) -> String {
        format!("{}/{}", kind_name(self.kind), self.name)
    }
}

fn kind_name(kind: IdentityKind) -> &'static str {
    match kind {
        IdentityKind::Node => "node",
        IdentityKind::User => "user",
        IdentityKind::System => "system",
    }
}

fn parse_on_behalf(text: &str) -> Option<(IdentityKind, String, Option<Role>)> {
    let (who, role) = text.split_once(';')?;
    let (kind, name) = who.split_once('/')?;
    let kind = match kind {
        "node" => IdentityKind::Node,
        "user" => IdentityKind::User,
        "system" => IdentityKind::System,
        _ => return None,
    };
    let role = if role.is_empty() { None } else { Some(Role::from_name(role)?) };
    (!name.is_empty() && name.len() <= 128).then(|| (kind, name.to_owned(), role))
}

/// Puts the check before all services of a server.
#[derive(Clone)]
pub struct AuthLayer {
    cluster: Arc<str>,
    /// Ids as Raft's requests name them, with the names that the certificates bear.
    members: Arc<HashMap<String, String>>,
    metrics: Metrics,
}

impl AuthLayer {
    /// For bearers of this cluster, and its members.
    pub fn new(cluster: &str, members: &[Member], metrics: Metrics) -> AuthLayer {
        let members = members.iter().map(|m| (m.id.to_string(), m.name.clone())).collect();
        AuthLayer { cluster: cluster.into(), members: Arc::new(members), metrics }
    }

    /// A node speaks for itself only: what is said in the name of another is of a node whose key is lost, or set up wrong.
    fn speaks_for_itself(&self, request: &Request<Body>, bearer: &str) -> bool {
        let said = request.headers().get("sbc-from").and_then(|id| id.to_str().ok());
        said.is_none_or(|id| self.members.get(id).is_some_and(|name| name == bearer))
    }

    fn check(&self, request: &Request<Body>) -> Result<Caller, Status> {
        let identity = identity(request.extensions()).filter(|i| *i.cluster == *self.cluster).ok_or_else(|| {
            let message = format!("the certificate names nobody of the cluster {}", self.cluster);
            fault(Code::Unauthenticated, ErrorReason::NoIdentity, message, &[])
        })?;
        let mut caller = Caller { kind: identity.kind, name: identity.name, role: identity.role, pii: false, forwarded: false };
        let path = request.uri().path();
        let denied = |caller: &Caller, permission: &str| {
            let who = caller.display();
            let message = format!("{who} may not {permission}");
            fault(
                Code::PermissionDenied,
                ErrorReason::PermissionDenied,
                message,
                &[("permission", permission), ("identity", &who)],
            )
        };
        if let Some(value) = request.headers().get(ON_BEHALF_OF) {
            let named = value.to_str().ok().and_then(parse_on_behalf);
            let (true, Some((kind, name, role))) = (caller.kind == IdentityKind::Node, named) else {
                return Err(denied(&caller, "on-behalf-of"));
            };
            caller = Caller { kind, name, role, pii: false, forwarded: true };
        }
        if path.starts_with("/sbc.peer.") {
            return if caller.kind == IdentityKind::Node && !caller.forwarded && self.speaks_for_itself(request, &caller.name) {
                Ok(caller)
            } else {
                Err(denied(&caller, "peer"))
            };
        }
        if path.starts_with("/grpc.health.") || path.starts_with("/grpc.reflection.") {
            return Ok(caller);
        }
        let permission = needs(path).map_or("unknown", |n| &n.permission);
        if permission == "unknown" || !allowed(caller.kind, caller.role, permission) {
            return Err(denied(&caller, permission));
        }
        caller.pii = allowed(caller.kind, caller.role, PII_READ);
        Ok(caller)
    }
}

/// The bearer of the client certificate of a connection.
fn identity(extensions: &Extensions) -> Option<Identity> {
    let info = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
    peer_identity(info.peer_certs()?.first()?)
}

impl<S> Layer<S> for AuthLayer {
    type Service = AuthService<S>;
    fn layer(&self, inner: S) -> AuthService<S> {
        AuthService { auth: self.clone(), inner }
    }
}

/// See [`AuthLayer`].
#[derive(Clone)]
pub struct AuthService<S> {
    auth: AuthLayer,
    inner: S,
}

impl<S> Service<Request<Body>> for AuthService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.auth.check(&request) {
            Ok(caller) => {
                if let Some(bearer) = identity(request.extensions()) {
                    request.extensions_mut().insert(bearer);
                }
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(status) => {
                let denied = status.code() == Code::PermissionDenied;
                self.auth.metrics.rpc_failed(if denied { "permission_denied" } else { "unauthenticated" });
                Either::Right(ready(Ok(status.into_http())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_speaks_for_itself_only() {
        let members = [("1".to_owned(), "node-a".to_owned()), ("3".to_owned(), "node-c".to_owned())].into();
        let auth = AuthLayer { cluster: "lab".into(), members: Arc::new(members), metrics: Metrics::new() };
        let request = |from: &str| Request::builder().header("sbc-from", from).body(Body::empty()).expect("a request");
        assert!(auth.speaks_for_itself(&request("1"), "node-a") && auth.speaks_for_itself(&request("3"), "node-c"));
        for (from, bearer) in [("3", "node-a"), ("1", "node-c"), ("9", "node-a"), ("", "node-a"), ("one", "node-a")] {
            assert!(!auth.speaks_for_itself(&request(from), bearer), "{from} by {bearer}");
        }
        // A link names its node in its Hello, which is compared there.
        assert!(auth.speaks_for_itself(&Request::new(Body::empty()), "node-a"));
    }

    #[test]
    fn on_behalf_round_trips() {
        let caller =
            Caller { kind: IdentityKind::User, name: "alice".into(), role: Some(Role::Operator), pii: true, forwarded: false };
        assert_eq!(caller.on_behalf(), "user/alice;operator");
        assert_eq!(parse_on_behalf("user/alice;operator"), Some((IdentityKind::User, "alice".into(), Some(Role::Operator))));
        for bad in ["", "alice", "user/;admin", "user/a;king", "cat/a;admin", "user/a"] {
            assert_eq!(parse_on_behalf(bad), None, "{bad}");
        }
    }
}
