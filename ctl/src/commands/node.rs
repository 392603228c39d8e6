//! `node`: list, show, drain, undrain, announce, withdraw, reload.

use std::time::Duration;

use sbc_proto::v1::node_service_client::NodeServiceClient;
use sbc_proto::v1::{self, DrainPhase, Node, NodeServiceListResponse};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use crate::args::NodeCommand;
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::output::{Out, Table, enum_name, note, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: NodeCommand) -> Result<(), Failure> {
    match command {
        NodeCommand::List(watching) => super::rounds(out, watching, async || list(cluster, out).await).await,
        NodeCommand::Show { node } => {
            let mut client = client(cluster).await?;
            let what = format!("asking for {node}");
            let answer = client.get(v1::NodeServiceGetRequest { node }).await;
            show(out, &answer.map_err(|s| Failure::from_status(&what, &s))?.into_inner().node.unwrap_or_default())
        }
        NodeCommand::Drain { node, wait, force, confirm } => {
            super::confirm(&format!("{node} withdraws the anycast address and takes no new calls."), confirm)?;
            drain(cluster, out, node, wait, force).await
        }
        NodeCommand::Undrain { node } => {
            let request_id = cluster.request_id()?;
            let what = format!("taking {node} back into service");
            let request = v1::NodeServiceUndrainRequest { node, request_id: request_id.clone() };
            let answer = client(cluster).await?.undrain(request).await;
            show(out, &answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner().node.unwrap_or_default())
        }
        NodeCommand::Announce { node, exclusive } => {
            let request_id = cluster.request_id()?;
            let what = format!("announcing from {node}");
            let request = v1::NodeServiceAnnounceRequest { node, exclusive, request_id: request_id.clone() };
            let answer = client(cluster).await?.announce(request).await;
            show(out, &answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner().node.unwrap_or_default())
        }
        NodeCommand::Reload { node } => reload(cluster, out, node).await,
        NodeCommand::Withdraw { node, force, confirm } => {
            super::confirm(&format!("{node} stops serving the anycast address."), confirm)?;
            let request_id = cluster.request_id()?;
            let what = format!("withdrawing from {node}");
            let request = v1::NodeServiceWithdrawRequest { node, force, request_id: request_id.clone() };
            let answer = client(cluster).await?.withdraw(request).await;
            show(out, &answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner().node.unwrap_or_default())
        }
    }
}

async fn client(cluster: &Cluster) -> Result<NodeServiceClient<Channel>, Failure> {
    Ok(NodeServiceClient::new(cluster.connect().await?))
}

/// All nodes of the cluster.
pub(crate) async fn all_nodes(cluster: &Cluster) -> Result<Vec<Node>, Failure> {
    let client = client(cluster).await?;
    super::pages("listing the nodes", 0, async |page_size, page_token| {
        let answer = client.clone().list(v1::NodeServiceListRequest { page_size, page_token }).await;
        let answer = answer.map_err(|s| Failure::from_status("listing the nodes", &s))?.into_inner();
        Ok((answer.nodes, answer.next_page_token))
    })
    .await
}

async fn list(cluster: &Cluster, out: Out) -> Result<(), Failure> {
    let nodes = all_nodes(cluster).await?;
    let response = NodeServiceListResponse { nodes, next_page_token: String::new() };
    out.list(("sbc.v1.NodeServiceListResponse", &response), "sbc.v1.Node", &response.nodes, table, "no nodes")
}

fn table(nodes: &[Node]) -> Table {
    let mut table =
        Table::new(&["NODE", "ID", "STATE", "ANYCAST", "ROLE", "CALLS", "APPLIED", "HEALTH", "VERSION", "START", "UNICAST"]);
    for n in nodes {
        table.row([
            n.name.clone(),
            n.id.to_string(),
            state(n).to_owned(),
            enum_name(n.announce_state().as_str_name(), "ANNOUNCE_STATE_"),
            enum_name(n.raft_role().as_str_name(), "RAFT_ROLE_"),
            n.calls.to_string(),
            n.applied_index.to_string(),
            health(n),
            n.version.clone(),
            n.incarnation.to_string(),
            n.addresses.as_ref().map(|a| a.unicast.join(",")).unwrap_or_default(),
        ]);
    }
    table
}

fn state(n: &Node) -> &'static str {
    match (n.reachable, n.draining) {
        (false, _) => "unreachable",
        (true, true) => "draining",
        (true, false) => "up",
    }
}

/// "ok", or how it is and what is not good.
pub(super) fn health(n: &Node) -> String {
    n.health.as_ref().filter(|_| n.reachable).map(health_of).unwrap_or_default()
}

/// The same of a health that came.
pub(super) fn health_of(h: &v1::NodeHealth) -> String {
    // A version that does not say has no such parts either.
    let says = h.state() != v1::HealthState::Unspecified;
    let bad: Vec<&str> = [
        ("sip-loop", h.sip_loop),
        ("raft", h.raft_caught_up),
        ("quorum", h.quorum),
        ("core", h.core_reachable),
        ("media", h.media),
        ("disk", h.storage || !says),
        ("apply", h.applying || !says),
    ]
    .into_iter()
    .filter_map(|(name, good)| (!good).then_some(name))
    .collect();
    let word = match h.state() {
        v1::HealthState::Unspecified => "bad",
        v1::HealthState::Ok | v1::HealthState::Degraded => "degraded",
        v1::HealthState::NotServing => "not serving",
    };
    match (bad.is_empty(), h.reason.is_empty()) {
        (true, true) => "ok".to_owned(),
        (true, false) => format!("{word}: {}", h.reason),
        (false, _) => format!("{word}: {}", bad.join(",")),
    }
}

fn show(out: Out, node: &Node) -> Result<(), Failure> {
    out.message("sbc.v1.Node", node, || {
        let mut text = table(std::slice::from_ref(node)).to_string();
        let addresses = node.addresses.clone().unwrap_or_default();
        text += &format!(
            "\n\nstarted  {}\nanycast  {}\nunicast  {}\ncore     {}\ngrpc     {}",
            time(node.started_at.as_ref()),
            addresses.anycast.join(" "),
            addresses.unicast.join(" "),
            addresses.core.join(" "),
            addresses.grpc
        );
        if !node.counters.is_empty() {
            let mut counters = Table::new(&["COUNTER", "VALUE"]);
            for (name, value) in &node.counters {
                counters.row([name.clone(), value.to_string()]);
            }
            text += &format!("\n\n{counters}");
        }
        text
    })
}

async fn reload(cluster: &Cluster, out: Out, node: String) -> Result<(), Failure> {
    let request_id = cluster.request_id()?;
    let what = format!("reloading {node}");
    let request = v1::NodeServiceReloadRequest { node: node.clone(), request_id: request_id.clone() };
    let answer = client(cluster).await?.reload(request).await;
    let answer = answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner();
    answer.warnings.iter().for_each(|w| note(&format!("warning: {w}")));
    out.message("sbc.v1.NodeServiceReloadResponse", &answer, || reloaded(&node, &answer))
}

fn reloaded(node: &str, answer: &v1::NodeServiceReloadResponse) -> String {
    let changed = if answer.changed.is_empty() { "no key has changed".to_owned() } else { answer.changed.join(", ") };
    let mut text = format!("{node} has read its configuration and certificates; in use now: {changed}");
    if !answer.needs_restart.is_empty() {
        text += &format!("\nneeds a restart: {}", answer.needs_restart.join(", "));
    }
    text
}

async fn drain(cluster: &Cluster, out: Out, node: String, wait: u32, force: bool) -> Result<(), Failure> {
    let request_id = cluster.request_id()?;
    let what = format!("draining {node}");
    let request = v1::NodeServiceDrainRequest {
        node: node.clone(),
        timeout_ms: wait.saturating_mul(1000),
        force,
        request_id: request_id.clone(),
    };
    let answer = client(cluster).await?.drain(request).await;
    let mut stream = answer.map_err(|s| Failure::from_change(&what, &s, &request_id))?.into_inner();
    // The node ends the stream when its time is up; the margin is for a node that does not.
    let limit = Duration::from_secs(u64::from(wait)) + cluster.timeout();
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        let message = match tokio::time::timeout_at(deadline, stream.next()).await {
            Ok(Some(message)) => message.map_err(|s| Failure::from_change(&what, &s, &request_id))?,
            Ok(None) | Err(_) => {
                return Err(Failure::new(
                    Exit::OutcomeUnknown,
                    format!("{what}: the node stopped reporting (request id {request_id})"),
                )
                .hint(format!("`sbcctl node show {node}` tells whether it drains")));
            }
        };
        out.event("sbc.v1.NodeServiceDrainResponse", &message, || {
            let phase = enum_name(message.phase().as_str_name(), "DRAIN_PHASE_");
            format!("{node}: {phase}, {} calls left ({} emergency)", message.calls, message.emergency_calls)
        })?;
        match message.phase() {
            DrainPhase::Drained => return Ok(()),
            DrainPhase::TimedOut => {
                note(&format!("{node} goes on draining"));
                return Err(Failure::failed(format!("{node} still has {} calls after {wait} s", message.calls))
                    .hint("run the command again to wait on, or `sbcctl node undrain` to take it back"));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_names_what_is_bad() {
        let good = v1::NodeHealth {
            sip_loop: true,
            raft_caught_up: true,
            quorum: true,
            core_reachable: true,
            media: true,
            storage: true,
            applying: true,
            state: v1::HealthState::Ok.into(),
            reason: String::new(),
        };
        let mut node = Node { reachable: true, health: Some(good.clone()), ..Node::default() };
        assert_eq!(health(&node), "ok");
        let as_said = |state: v1::HealthState| v1::NodeHealth { state: state.into(), ..good.clone() };
        let degraded = v1::NodeHealth { quorum: false, storage: false, ..as_said(v1::HealthState::Degraded) };
        node.health = Some(degraded);
        assert_eq!(health(&node), "degraded: quorum,disk");
        node.health = Some(v1::NodeHealth { quorum: false, media: false, ..as_said(v1::HealthState::NotServing) });
        assert_eq!(health(&node), "not serving: quorum,media");
        node.health = Some(v1::NodeHealth { reason: "disk low".into(), ..as_said(v1::HealthState::Degraded) });
        assert_eq!(health(&node), "degraded: disk low");
        // Of a version without the newer parts.
        let old = v1::NodeHealth { storage: false, applying: false, ..as_said(v1::HealthState::Unspecified) };
        node.health = Some(old.clone());
        assert_eq!(health(&node), "ok");
        node.health = Some(v1::NodeHealth { media: false, ..old });
        assert_eq!(health(&node), "bad: media");
        node.reachable = false;
        assert_eq!(health(&node), "");
        assert_eq!(state(&node), "unreachable");
    }
}
