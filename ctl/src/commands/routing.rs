//! `route`, `trunk` and `number`: where calls go, and why.

use std::path::Path;

use sbc_proto::v1::routing_service_client::RoutingServiceClient;
use sbc_proto::v1::{self, Realm, RouteOutcome};
use tonic::transport::Channel;

use crate::args::{ExplainArgs, NumberCommand, RouteCommand, Side, TrunkCommand};
use crate::client::Cluster;
use crate::error::Failure;
use crate::files;
use crate::output::{Out, Table, enum_name};

async fn client(cluster: &Cluster) -> Result<RoutingServiceClient<Channel>, Failure> {
    Ok(RoutingServiceClient::new(cluster.connect().await?))
}

pub(super) async fn routes(cluster: &Cluster, out: Out, command: RouteCommand) -> Result<(), Failure> {
    match command {
        RouteCommand::List => {
            let answer = client(cluster).await?.list_routes(v1::RoutingServiceListRoutesRequest {}).await;
            let answer = answer.map_err(|s| Failure::from_status("listing the routes", &s))?.into_inner();
            let name = ("sbc.v1.RoutingServiceListRoutesResponse", &answer);
            out.list(name, "sbc.v1.Route", &answer.routes, route_table, "no routes")
        }
        RouteCommand::Show { name } => {
            let answer = client(cluster).await?.get_route(v1::RoutingServiceGetRouteRequest { name }).await;
            let answer = answer.map_err(|s| Failure::from_status("asking for the route", &s))?.into_inner();
            let route = answer.route.unwrap_or_default();
            out.message("sbc.v1.Route", &route, || route_table(std::slice::from_ref(&route)).to_string())
        }
        RouteCommand::Explain(args) => explain(cluster, out, args).await,
    }
}

fn route_table(routes: &[v1::Route]) -> Table {
    let mut table = Table::new(&["ROUTE", "CONDITIONS", "TRUNKS"]);
    for r in routes {
        let conditions = if r.conditions.is_empty() { "always".to_owned() } else { r.conditions.join(", ") };
        table.row([r.name.clone(), conditions, r.trunks.join(", ")]);
    }
    table
}

async fn explain(cluster: &Cluster, out: Out, args: ExplainArgs) -> Result<(), Failure> {
    let realm = match args.realm {
        Side::External => Realm::External,
        Side::Core => Realm::Core,
    };
    let message = args.message.as_deref().map(read).transpose()?.unwrap_or_default();
    let asked = v1::RoutingServiceExplainRouteRequest {
        message,
        request_uri: args.uri.unwrap_or_default(),
        source: args.source.map(|ip| ip.to_string()).unwrap_or_default(),
        realm: realm.into(),
        trunk: args.trunk.unwrap_or_default(),
    };
    let answer = client(cluster).await?.explain_route(asked).await;
    let answer = answer.map_err(|s| Failure::from_status("explaining the route", &s))?.into_inner();
    out.message("sbc.v1.RoutingServiceExplainRouteResponse", &answer, || explained(&answer))
}

/// A SIP message as people have it in a file: lines that end with LF alone are taken.
pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let text = files::read(path)?;
    if text.contains("\r\n") { Ok(text) } else { Ok(text.replace('\n', "\r\n")) }
}

fn explained(e: &v1::RoutingServiceExplainRouteResponse) -> String {
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let class = if e.service.is_empty() { "ordinary".to_owned() } else { format!("emergency, urn:service:{}", e.service) };
    let mut lines = vec![
        format!("request-uri  {}", e.request_uri),
        format!("number       {}", or_none(&e.dialled)),
        format!("class        {class}"),
        format!("access list  {}", or_none(&e.acl)),
        format!("from trunk   {}", or_none(&e.trunk)),
        String::new(),
    ];
    for r in &e.routes {
        let outcome = enum_name(r.outcome().as_str_name(), "ROUTE_OUTCOME_").replace('-', " ");
        lines.push(format!("route {}: {outcome}", r.name));
        lines.extend(r.reasons.iter().map(|reason| format!("  {reason}")));
        if r.outcome() == RouteOutcome::Taken {
            lines.extend(e.targets.iter().map(|t| format!("  -> {} {}", t.trunk, t.target)));
        }
    }
    match (e.refused, e.status) {
        (false, _) if !e.replaces_trunk.is_empty() => {
            lines.push(format!("dialled: the far end of the call that its Replaces names, of trunk {}", e.replaces_trunk));
        }
        (false, _) => lines.push("dialled".into()),
        (true, 0) => lines.push(format!("dropped: {}", e.reason)),
        (true, status) => lines.push(format!("refused with {status}: {}", e.reason)),
    }
    let shown: Vec<String> = lines.iter().map(|l| l.replace(char::is_control, "\u{fffd}")).collect();
    shown.join("\n")
}

pub(super) async fn trunks(cluster: &Cluster, out: Out, command: TrunkCommand) -> Result<(), Failure> {
    match command {
        TrunkCommand::List => {
            let answer = client(cluster).await?.list_trunks(v1::RoutingServiceListTrunksRequest {}).await;
            let answer = answer.map_err(|s| Failure::from_status("listing the trunks", &s))?.into_inner();
            let name = ("sbc.v1.RoutingServiceListTrunksResponse", &answer);
            out.list(name, "sbc.v1.Trunk", &answer.trunks, trunk_table, "no trunks")
        }
        TrunkCommand::Show { name } => {
            let answer = client(cluster).await?.get_trunk(v1::RoutingServiceGetTrunkRequest { name }).await;
            let answer = answer.map_err(|s| Failure::from_status("asking for the trunk", &s))?.into_inner();
            let trunk = answer.trunk.unwrap_or_default();
            out.message("sbc.v1.Trunk", &trunk, || trunk_table(std::slice::from_ref(&trunk)).to_string())
        }
    }
}

fn trunk_table(trunks: &[v1::Trunk]) -> Table {
    let mut table = Table::new(&[
        "TRUNK", "REALM", "ENABLED", "SOURCES", "TARGETS", "MISROUTE", "AUTH", "TOPOLOGY", "IDENTITY", "CODECS", "LATCHING",
        "ROUTES",
    ]);
    let yes = |b: bool| if b { "yes" } else { "no" }.to_owned();
    for t in trunks {
        table.row([
            t.name.clone(),
            enum_name(t.realm().as_str_name(), "REALM_"),
            yes(t.enabled),
            t.sources.join(", "),
            t.targets.join(", "),
            t.misroute.clone(),
            if t.challenged_as.is_empty() { yes(t.authenticated) } else { format!("as {}", t.challenged_as) },
            t.topology.clone(),
            t.identity.clone(),
            if t.codecs.is_empty() { "all".into() } else { t.codecs.join(", ") },
            yes(t.latching),
            t.routes.join(", "),
        ]);
    }
    table
}

pub(super) async fn numbers(cluster: &Cluster, out: Out, command: NumberCommand) -> Result<(), Failure> {
    match command {
        NumberCommand::List => {
            let answer = client(cluster).await?.list_numbers(v1::RoutingServiceListNumbersRequest {}).await;
            let answer = answer.map_err(|s| Failure::from_status("listing the numbers", &s))?.into_inner();
            let name = ("sbc.v1.RoutingServiceListNumbersResponse", &answer);
            out.list(name, "sbc.v1.Number", &answer.numbers, number_table, "no emergency numbers")
        }
        NumberCommand::Lookup { number } => {
            let answer = client(cluster).await?.lookup_number(v1::RoutingServiceLookupNumberRequest { number }).await;
            let answer = answer.map_err(|s| Failure::from_status("looking up the number", &s))?.into_inner();
            out.message("sbc.v1.RoutingServiceLookupNumberResponse", &answer, || match &answer.number {
                Some(n) if n.name.is_empty() => format!("{}: emergency, urn:service:{}", answer.dialled, n.service),
                Some(n) => format!("{}: emergency, urn:service:{} ({}, {})", answer.dialled, n.service, n.name, n.numbers),
                None => format!("{}: no emergency number", answer.dialled),
            })
        }
    }
}

fn number_table(numbers: &[v1::Number]) -> Table {
    let mut table = Table::new(&["NUMBERS", "SERVICE", "RANGE"]);
    for n in numbers {
        table.row([n.numbers.clone(), n.service.clone(), n.name.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_route_reasons_and_targets() {
        let judged = |name: &str, outcome: RouteOutcome, reasons: &[&str]| v1::JudgedRoute {
            name: name.into(),
            outcome: outcome.into(),
            reasons: reasons.iter().map(ToString::to_string).collect(),
        };
        let mut e = v1::RoutingServiceExplainRouteResponse {
            request_uri: "sip:112@x".into(),
            dialled: "112".into(),
            service: "sos".into(),
            trunk: "callers".into(),
            routes: vec![
                judged("desk", RouteOutcome::NoMatch, &["prefix = \"49\", but"]),
                judged("sos", RouteOutcome::Taken, &[]),
            ],
            targets: vec![v1::RouteTarget { trunk: "psap".into(), target: "192.0.2.1:5060".into() }],
            ..Default::default()
        };
        let text = explained(&e);
        for says in ["route desk: no match\n  prefix = \"49\", but\n", "route sos: taken\n  -> psap 192.0.2.1:5060\ndialled"] {
            assert!(text.contains(says), "{text}");
        }
        e.replaces_trunk = "desk".into();
        assert!(explained(&e).ends_with("dialled: the far end of the call that its Replaces names, of trunk desk"));
        (e.refused, e.status, e.reason) = (true, 403, "it comes from no trunk".into());
        assert!(explained(&e).ends_with("refused with 403: it comes from no trunk"));
        e.status = 0;
        assert!(explained(&e).ends_with("dropped: it comes from no trunk"));
    }
}
