//! `cluster`: who belongs to it.

use sbc_proto::v1::cluster_service_client::ClusterServiceClient;
use sbc_proto::v1::{ClusterServiceReadmitMemberRequest, ReadmitPhase};
use tokio_stream::StreamExt;

use crate::args::ClusterCommand;
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::output::{Out, enum_name};

pub(super) async fn run(cluster: &Cluster, out: Out, command: ClusterCommand) -> Result<(), Failure> {
    match command {
        ClusterCommand::Readmit { node, confirm } => {
            let what = format!("{node} loses its vote, and what its old disk has acknowledged, until it has the log anew.");
            super::confirm(&what, confirm)?;
            readmit(cluster, out, node).await
        }
    }
}

async fn readmit(cluster: &Cluster, out: Out, node: String) -> Result<(), Failure> {
    let request_id = cluster.request_id()?;
    let what = format!("readmitting {node}");
    let failed = |s: &tonic::Status| Failure::from_change(&what, s, &request_id);
    let request = ClusterServiceReadmitMemberRequest { node: node.clone(), request_id: request_id.clone() };
    let mut client = ClusterServiceClient::new(cluster.connect().await?);
    let mut stream = client.readmit_member(request).await.map_err(|s| failed(&s))?.into_inner();
    while let Some(message) = stream.next().await {
        let message = message.map_err(|s| failed(&s))?;
        let phase = message.phase();
        out.event("sbc.v1.ClusterServiceReadmitMemberResponse", &message, || match phase {
            ReadmitPhase::Waiting => format!("start {node} now, with an empty data directory"),
            ReadmitPhase::CatchingUp => format!("{node} is there and gets the log"),
            ReadmitPhase::Voter => format!("{node} has the log, and its vote"),
            ReadmitPhase::Removed => format!("{node} has no vote any more"),
            ReadmitPhase::Unspecified => enum_name(phase.as_str_name(), "READMIT_PHASE_"),
        })?;
        if phase == ReadmitPhase::Voter {
            return Ok(());
        }
    }
    Err(Failure::new(Exit::OutcomeUnknown, format!("{what}: the answer ended early"))
        .hint("run it again: what is done already stays done"))
}
