//! `status`: the cluster in brief.

use sbc_proto::v1::cluster_service_client::ClusterServiceClient;
use sbc_proto::v1::{Alarm, ClusterServiceGetStatusRequest, ClusterServiceGetStatusResponse, ClusterStatus, Member};

use crate::args::Watching;
use crate::client::Cluster;
use crate::error::Failure;
use crate::output::{Out, Table, enum_name, time};

pub(super) async fn run(cluster: &Cluster, out: Out, watching: Watching) -> Result<(), Failure> {
    super::rounds(out, watching, async || {
        let mut client = ClusterServiceClient::new(cluster.connect().await?);
        let answer = client.get_status(ClusterServiceGetStatusRequest {}).await;
        let answer: ClusterServiceGetStatusResponse =
            answer.map_err(|s| Failure::from_status("asking for the status", &s))?.into_inner();
        let status = answer.status.unwrap_or_default();
        out.message("sbc.v1.ClusterStatus", &status, || table(&status))
    })
    .await
}

fn table(status: &ClusterStatus) -> String {
    let quorum = if status.quorum_ok { "ok" } else { "LOST" };
    let leader = if status.leader.is_empty() { "none" } else { &status.leader };
    let mut table =
        Table::new(&["NODE", "ID", "REACHABLE", "ROLE", "APPLIED", "ANYCAST", "DRAINING", "HEALTH", "UNICAST", "CORE", "PEER"]);
    for m in &status.members {
        table.row([
            m.name.clone(),
            m.id.to_string(),
            yes(m.reachable),
            enum_name(m.raft_role().as_str_name(), "RAFT_ROLE_"),
            m.applied_index.to_string(),
            if m.announced { "announced".to_owned() } else { String::new() },
            if m.draining { "draining".to_owned() } else { String::new() },
            m.health.as_ref().filter(|_| m.reachable).map(super::node::health_of).unwrap_or_default(),
            m.unicast_addresses.join(" "),
            m.core_addresses.join(" "),
            m.peer_address.clone(),
        ]);
    }
    let alarms: String = status.members.iter().map(alarms).collect();
    format!(
        "cluster {}  quorum {quorum}  leader {leader}  term {}  committed {}  configuration {}\n\
         calls {}  emergency {}  (as {} sees it)\n{alarms}\n{table}",
        status.cluster_id,
        status.term,
        status.committed_index,
        status.config_revision,
        status.calls,
        status.emergency_calls,
        status.node,
    )
}

/// A line for each alarm of a member.
fn alarms(member: &Member) -> String {
    let line = |a: &Alarm| {
        let text = format!("ALARM {} {} since {}: {}", member.name, a.kind, time(a.since.as_ref()), a.detail);
        text.replace(char::is_control, "\u{fffd}") + "\n"
    };
    member.alarms.iter().map(line).collect()
}

fn yes(b: bool) -> String {
    if b { "yes" } else { "no" }.to_owned()
}
