//! `ClusterService.ReadmitMember`: a member whose disk was wiped gets its vote back once it has the log anew.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sbc_core::ids::NodeId;
use sbc_core::store_pb::{self, Readmit, command::Kind};
use sbc_proto::v1 as pb;
use sbc_proto::v1::cluster_service_client::ClusterServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::error::{fault, not_proposed};
use super::nodes::Nodes;
use super::shared::{Place, caller, forwarded, on_behalf};
use super::watch::Answers;

/// For the leader to begin its answer.
const FORWARD_BUDGET: Duration = Duration::from_secs(10);
/// How long the member may take to be started by hand, and to read the log.
const START_LIMIT: Duration = Duration::from_secs(1800);
/// Between two looks whether it is there.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is tried to give it the log.
const TRIES: u32 = 20;

type Progress = Result<pb::ClusterServiceReadmitMemberResponse, Status>;

fn progress(phase: pb::ReadmitPhase) -> Progress {
    Ok(pb::ClusterServiceReadmitMemberResponse { phase: phase.into() })
}

impl Nodes {
    /// Runs at the leader; another node hands it there.
    pub(super) async fn readmit(
        &self,
        request: Request<pb::ClusterServiceReadmitMemberRequest>,
    ) -> Result<Response<Answers<pb::ClusterServiceReadmitMemberResponse>>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let member = self.0.member(&asked.node)?;
        let raft = self.0.node.raft_status();
        let leader = raft.leader.ok_or_else(|| {
            not_proposed(&super::handle::ProposeError::NoLeader, &raft, &self.0.leader_name(), &asked.request_id)
        })?;
        if let Place::There(name, channel) = self.0.place_of(leader, &caller)? {
            let mut client = ClusterServiceClient::new(channel);
            let answer = forwarded(&name, FORWARD_BUDGET, client.readmit_member(on_behalf(asked, &caller))).await?;
            return Ok(Response::new(Box::pin(answer.into_inner())));
        }
        let refuse = |why: &str| {
            fault(Code::FailedPrecondition, pb::ErrorReason::MemberInUse, why.to_owned(), &[("node", member.name.as_str())])
        };
        if self.0.read(|r| r.level()) < 2 {
            return Err(refuse("not every member is of a version that knows how a member is readmitted"));
        }
        if member.id == self.0.me() || self.0.node.peer_is_alive(member.id) {
            return Err(refuse("it is up, with the log that the cluster knows it by: there is nothing to readmit"));
        }
        tracing::info!(by = %caller.display(), node = %member.name, request_id = %asked.request_id, "a member is readmitted");
        let (tx, rx) = mpsc::channel(4);
        let (nodes, id) = (self.clone(), member.id);
        tokio::spawn(async move {
            if let Err(status) = nodes.readmit_here(id, &tx).await {
                let _ = tx.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    /// What was done before is done again to no effect: an operator who was interrupted runs it again.
    async fn readmit_here(&self, id: NodeId, tx: &mpsc::Sender<Progress>) -> Result<(), Status> {
        use pb::ReadmitPhase as P;
        let node = &self.0.node;
        // Without a vote first: from here on its old votes and acknowledgements count for nothing.
        node.remove_member(id).await.map_err(|why| changed(&why))?;
        let _ = tx.send(progress(P::Removed)).await;
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        let command = store_pb::Command { unix_ms, kind: Some(Kind::Readmit(Readmit { node: id.0.into() })) };
        node.propose(command).await.map_err(|e| not_proposed(&e, &node.raft_status(), &self.0.leader_name(), ""))?;
        let _ = tx.send(progress(P::Waiting)).await;
        let there = async {
            while !node.peer_is_alive(id) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(START_LIMIT, there).await.is_err() {
            let message = format!(
                "{} was not started within {} minutes; run this again",
                self.0.names.name(id),
                START_LIMIT.as_secs() / 60
            );
            return Err(fault(Code::DeadlineExceeded, pb::ErrorReason::NodeUnreachable, message, &[]));
        }
        let _ = tx.send(progress(P::CatchingUp)).await;
        let mut last = String::new();
        for _ in 0..TRIES {
            match node.add_member(id).await {
                Ok(()) => {
                    let _ = tx.send(progress(P::Voter)).await;
                    return Ok(());
                }
                Err(why) => last = why,
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(changed(&last))
    }
}

fn changed(why: &str) -> Status {
    fault(Code::Unavailable, pb::ErrorReason::NoQuorum, format!("the members could not be changed: {why}"), &[])
}
