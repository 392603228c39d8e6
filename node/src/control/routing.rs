//! `sbc.v1.RoutingService`: where calls go, and why, by the code that decides for real ones: the core judges the message, `routing` the rest.

use std::net::IpAddr;

use sbc_core::auth::AuthHeader;
use sbc_core::io::{Command, CommandReply, Explanation, Realm, RouteOrigin, Transport};
use sbc_core::policy::{
    ClusterConfig, IdentityPolicy, MisroutePolicy, Numbers, PastUs, Prefix, Route, RouteMatch, Topology, Trunk, TrunkTarget,
    latches, past_us,
};
use sbc_core::routing::{self, Routed};
use sbc_core::sip::{Message, Method, Uri};
use sbc_proto::v1 as pb;
use sbc_proto::v1::routing_service_server::RoutingService;
use tonic::{Code, Request, Response, Status};

use super::error::{fault, invalid};
use super::shared::Shared;
use crate::config::parse_cluster;

/// Longest request that is explained: what a node takes off the wire.
pub(super) const MESSAGE_MAX: usize = 64 * 1024;

/// The service.
pub(crate) struct Routing(pub(crate) Shared);

/// The newest configuration that this node has: the one that its calls follow.
pub(super) fn current(shared: &Shared) -> Result<ClusterConfig, Status> {
    let (revision, text) = shared.read(|r| {
        let (revision, text, _) = r.config();
        (revision, text.to_owned())
    });
    parse_cluster(&text, revision).map_err(|faults| {
        let message = format!("this node cannot read the configuration in the log: {faults}");
        fault(Code::Internal, pb::ErrorReason::Internal, message, &[])
    })
}

impl Routing {
    fn config(&self) -> Result<ClusterConfig, Status> {
        current(&self.0)
    }
}

fn realm(realm: Realm) -> pb::Realm {
    match realm {
        Realm::External => pb::Realm::External,
        Realm::Core => pb::Realm::Core,
    }
}

fn prefix(p: &Prefix) -> String {
    format!("{}/{}", p.addr, p.len)
}

fn target(t: &TrunkTarget) -> String {
    let host = if t.host.host.contains(':') { format!("[{}]", t.host.host) } else { t.host.host.to_string() };
    let port = t.host.port.map(|p| format!(":{p}")).unwrap_or_default();
    let transport = match t.transport {
        None => "",
        Some(Transport::Udp) => ";transport=udp",
        Some(Transport::Tcp) => ";transport=tcp",
        Some(Transport::Tls) => ";transport=tls",
    };
    format!("{host}{port}{transport}")
}

fn condition(condition: &RouteMatch) -> String {
    match condition {
        RouteMatch::Emergency(e) => format!("emergency = {e}"),
        RouteMatch::User(v) => format!("user = {v:?}"),
        RouteMatch::Prefix(v) => format!("prefix = {v:?}"),
        RouteMatch::FromTrunk(v) => format!("from_trunk = {v:?}"),
        RouteMatch::Service(v) => format!("service = {v:?}"),
        RouteMatch::Host(v) => format!("host = {v:?}"),
    }
}

fn route(route: &Route) -> pb::Route {
    pb::Route {
        name: route.name.to_string(),
        conditions: route.matches.iter().map(condition).collect(),
        trunks: route.trunks.iter().map(ToString::to_string).collect(),
    }
}

fn trunk(config: &ClusterConfig, trunk: &Trunk) -> pb::Trunk {
    pb::Trunk {
        name: trunk.name.to_string(),
        realm: realm(trunk.realm).into(),
        enabled: trunk.enabled,
        sources: trunk.sources.iter().map(prefix).collect(),
        targets: trunk.targets.iter().map(target).collect(),
        misroute: match trunk.misroute {
            MisroutePolicy::Relay => "relay".into(),
            MisroutePolicy::Redirect => "redirect".into(),
        },
        routes: config.routes.iter().filter(|r| r.trunks.contains(&trunk.name)).map(|r| r.name.to_string()).collect(),
        authenticated: trunk.auth.credentials.is_some() || trunk.auth.challenger.is_some(),
        topology: match trunk.topology {
            Topology::Hide => "hide".into(),
            Topology::Transparent => "transparent".into(),
        },
        identity: match trunk.identity {
            IdentityPolicy::Trust => "trust".into(),
            IdentityPolicy::Strip => "strip".into(),
        },
        codecs: trunk.codecs.iter().flat_map(|c| c.names()).map(Into::into).collect(),
        latching: latches(Some(trunk), trunk.realm),
        tcp_media: if past_us(Some(trunk), Some(trunk)) == PastUs::Refused { "refuse".into() } else { "pass".into() },
        tls_names: trunk.tls_names.iter().map(ToString::to_string).collect(),
        challenged_as: match trunk.auth.challenger.as_ref().map(|c| c.asks) {
            None => String::new(),
            Some(AuthHeader::User) => "server".into(),
            Some(AuthHeader::Proxy) => "proxy".into(),
        },
    }
}

fn numbers(config: &ClusterConfig) -> impl Iterator<Item = pb::Number> {
    let single = config.emergency_numbers.iter();
    let single = single.map(|n| pb::Number { name: String::new(), numbers: n.to_string(), service: "sos".into() });
    let ranges = config.numbers.iter().map(|range| pb::Number {
        name: range.name.to_string(),
        numbers: match &range.numbers {
            Numbers::Prefix(p) => format!("{p}*"),
            Numbers::Span(first, last) if first == last => first.to_string(),
            Numbers::Span(first, last) => format!("{first}-{last}"),
        },
        service: range.service.to_string(),
    });
    single.chain(ranges)
}

fn explained(found: &Routed<'_>, uri: &Uri, gate: Explanation, revision: u64) -> pb::RoutingServiceExplainRouteResponse {
    let taken = found.taken();
    let judged = found.routes.iter().enumerate().map(|(n, judged)| pb::JudgedRoute {
        name: judged.route.name.to_string(),
        outcome: match judged.failed.is_empty() {
            true if taken == Some(n) => pb::RouteOutcome::Taken,
            true => pb::RouteOutcome::Shadowed,
            false => pb::RouteOutcome::NoMatch,
        }
        .into(),
        reasons: judged.failed.clone(),
    });
    let dialled = found.targets.iter().map(|(t, at)| pb::RouteTarget { trunk: t.name.to_string(), target: target(at) });
    let (status, reason) = found.refused.clone().unwrap_or_default();
    pb::RoutingServiceExplainRouteResponse {
        request_uri: uri.as_str().to_owned(),
        dialled: found.dialled.clone().unwrap_or_default(),
        service: found.service.as_deref().unwrap_or_default().to_owned(),
        acl: found.acl.map(|(n, action)| format!("rule {}: {action:?}", n + 1).to_lowercase()).unwrap_or_default(),
        trunk: found.trunk.map(|t| t.name.to_string()).unwrap_or_default(),
        routes: judged.collect(),
        targets: if found.refused.is_some() || gate.replaces.is_some() { Vec::new() } else { dialled.collect() },
        refused: found.refused.is_some(),
        status: status.into(),
        reason,
        revision,
        replaces_trunk: gate.replaces.filter(|_| found.refused.is_none()).unwrap_or_default().into_string(),
    }
}

/// The INVITE that is asked about: for a Request-URI alone, one in which there is nothing else to judge.
fn asked_invite(asked: &pb::RoutingServiceExplainRouteRequest) -> Result<(Uri, Message), Status> {
    let (field, text) = match (asked.message.is_empty(), asked.request_uri.is_empty()) {
        (true, false) => {
            Uri::parse(&asked.request_uri).map_err(|e| invalid("request_uri", e.to_string()))?;
            ("request_uri", bare_invite(&asked.request_uri))
        }
        (false, true) if asked.message.len() > MESSAGE_MAX => {
            return Err(invalid("message", format!("longer than {MESSAGE_MAX} octets")));
        }
        (false, true) => ("message", asked.message.clone()),
        _ => return Err(invalid("request_uri", "give either a message or a Request-URI")),
    };
    let message = Message::parse(text.into()).map_err(|e| invalid(field, e.to_string()))?;
    if message.method() != &Method::Invite || message.to_tag().is_some() || !message.is_request() {
        return Err(invalid("message", "only an INVITE that begins a call is explained"));
    }
    let uri = Uri::parse(message.request_uri().unwrap_or_default()).map_err(|e| invalid("request_uri", e.to_string()))?;
    Ok((uri, message))
}

fn bare_invite(uri: &str) -> String {
    format!(
        "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP explained.invalid;branch=z9hG4bKexplained\r\nMax-Forwards: 70\r\n\
         From: <sip:explained.invalid>;tag=1\r\nTo: <sip:explained.invalid>\r\nCall-ID: explained\r\nCSeq: 1 INVITE\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn asked_origin(asked: &pb::RoutingServiceExplainRouteRequest, config: &ClusterConfig) -> Result<RouteOrigin, Status> {
    match (asked.source.is_empty(), asked.trunk.is_empty()) {
        (false, true) => {
            let ip: IpAddr = asked.source.parse().map_err(|_| invalid("source", "no IP address"))?;
            let side = if asked.realm() == pb::Realm::Core { Realm::Core } else { Realm::External };
            Ok(RouteOrigin::Address(side, ip))
        }
        (true, false) if config.trunk(&asked.trunk).is_none() => Err(no_trunk(&asked.trunk)),
        (true, false) => Ok(RouteOrigin::Trunk(asked.trunk.as_str().into())),
        _ => Err(invalid("source", "give either the address that it comes from or a trunk")),
    }
}

pub(super) fn no_trunk(name: &str) -> Status {
    fault(Code::NotFound, pb::ErrorReason::TrunkNotFound, format!("there is no trunk {name}"), &[("trunk", name)])
}

#[tonic::async_trait]
impl RoutingService for Routing {
    async fn explain_route(
        &self,
        request: Request<pb::RoutingServiceExplainRouteRequest>,
    ) -> Result<Response<pb::RoutingServiceExplainRouteResponse>, Status> {
        let asked = request.into_inner();
        let (config, (uri, invite)) = (self.config()?, asked_invite(&asked)?);
        let origin = asked_origin(&asked, &config)?;
        let command = Command::Explain { origin: origin.clone(), message: invite.raw().clone() };
        let gate = match self.0.node.command(command).await? {
            CommandReply::Explained(gate) => gate,
            other => return Err(fault(Code::Internal, pb::ErrorReason::Internal, format!("core answered {other:?}"), &[])),
        };
        let found = routing::explain(&config, &origin, &uri, &gate);
        Ok(Response::new(explained(&found, &uri, gate, config.revision)))
    }

    async fn list_routes(
        &self,
        _: Request<pb::RoutingServiceListRoutesRequest>,
    ) -> Result<Response<pb::RoutingServiceListRoutesResponse>, Status> {
        let routes = self.config()?.routes.iter().map(route).collect();
        Ok(Response::new(pb::RoutingServiceListRoutesResponse { routes }))
    }

    async fn get_route(
        &self,
        request: Request<pb::RoutingServiceGetRouteRequest>,
    ) -> Result<Response<pb::RoutingServiceGetRouteResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.config()?.routes.iter().find(|r| *r.name == *name).map(route);
        let found = found.ok_or_else(|| {
            fault(Code::NotFound, pb::ErrorReason::RouteNotFound, format!("there is no route {name}"), &[("route", &name)])
        })?;
        Ok(Response::new(pb::RoutingServiceGetRouteResponse { route: Some(found) }))
    }

    async fn list_trunks(
        &self,
        _: Request<pb::RoutingServiceListTrunksRequest>,
    ) -> Result<Response<pb::RoutingServiceListTrunksResponse>, Status> {
        let config = self.config()?;
        let trunks = config.trunks.iter().map(|t| trunk(&config, t)).collect();
        Ok(Response::new(pb::RoutingServiceListTrunksResponse { trunks }))
    }

    async fn get_trunk(
        &self,
        request: Request<pb::RoutingServiceGetTrunkRequest>,
    ) -> Result<Response<pb::RoutingServiceGetTrunkResponse>, Status> {
        let (name, config) = (request.into_inner().name, self.config()?);
        let found = config.trunk(&name).map(|t| trunk(&config, t)).ok_or_else(|| no_trunk(&name))?;
        Ok(Response::new(pb::RoutingServiceGetTrunkResponse { trunk: Some(found) }))
    }

    async fn list_numbers(
        &self,
        _: Request<pb::RoutingServiceListNumbersRequest>,
    ) -> Result<Response<pb::RoutingServiceListNumbersResponse>, Status> {
        let numbers = numbers(&self.config()?).collect();
        Ok(Response::new(pb::RoutingServiceListNumbersResponse { numbers }))
    }

    async fn lookup_number(
        &self,
        request: Request<pb::RoutingServiceLookupNumberRequest>,
    ) -> Result<Response<pb::RoutingServiceLookupNumberResponse>, Status> {
        let (number, config) = (request.into_inner().number, self.config()?);
        let number: String = number.chars().filter(|c| !c.is_whitespace()).collect();
        let uri = Uri::parse(&format!("tel:{number}")).map_err(|e| invalid("number", e.to_string()))?;
        let dialled = routing::dialled(&uri).unwrap_or_default();
        let found = routing::emergency_number(&config, &dialled).and_then(|n| numbers(&config).nth(n));
        Ok(Response::new(pb::RoutingServiceLookupNumberResponse { dialled, number: found }))
    }
}
