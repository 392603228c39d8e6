//! `sbc.v1.ClusterService`: the cluster as a whole, and its members as Raft has them.

use sbc_proto::v1 as pb;
use sbc_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use super::auth::Caller;
use super::nodes::{Nodes, number, page, texts};
use super::shared::caller;
use super::watch::Answers;

#[tonic::async_trait]
impl ClusterService for Nodes {
    async fn get_status(
        &self,
        request: Request<pb::ClusterServiceGetStatusRequest>,
    ) -> Result<Response<pb::ClusterServiceGetStatusResponse>, Status> {
        let caller = caller(&request)?;
        let members = self.members(&caller).await;
        let raft = self.0.node.raft_status();
        let (config_revision, calls, emergency_calls, format_level) = self.0.read(|r| {
            let emergency = r.calls(None).filter(|c| c.emergency()).count();
            (r.config().0, number(r.live_calls()), number(emergency), r.level())
        });
        let status = pb::ClusterStatus {
            cluster_id: self.0.node.config().cluster.id.clone(),
            node: self.0.my_name().to_owned(),
            leader: self.0.leader_name(),
            term: raft.term,
            committed_index: raft.committed,
            quorum_ok: raft.quorum_ok,
            members,
            config_revision,
            calls,
            emergency_calls,
            format_level,
        };
        Ok(Response::new(pb::ClusterServiceGetStatusResponse { status: Some(status) }))
    }

    type ReadmitMemberStream = Answers<pb::ClusterServiceReadmitMemberResponse>;

    async fn readmit_member(
        &self,
        request: Request<pb::ClusterServiceReadmitMemberRequest>,
    ) -> Result<Response<Self::ReadmitMemberStream>, Status> {
        self.readmit(request).await
    }

    async fn list_members(
        &self,
        request: Request<pb::ClusterServiceListMembersRequest>,
    ) -> Result<Response<pb::ClusterServiceListMembersResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let (members, next_page_token) = page(self.members(&caller).await, asked.page_size, &asked.page_token, |m| m.id)?;
        Ok(Response::new(pb::ClusterServiceListMembersResponse { members, next_page_token }))
    }
}

impl Nodes {
    async fn members(&self, caller: &Caller) -> Vec<pb::Member> {
        let voters = self.0.node.raft_status().voters;
        let config = self.0.node.config();
        let member = |n: pb::Node| {
            let m = config.cluster.members.iter().find(|m| u32::from(m.id.0) == n.id);
            pb::Member {
                voter: voters.iter().any(|v| u32::from(v.0) == n.id),
                peer_address: m.map(|m| m.peer.to_string()).unwrap_or_default(),
                unicast_addresses: m.map(|m| texts(m.unicast)).unwrap_or_default(),
                core_addresses: m.map(|m| texts(m.core)).unwrap_or_default(),
                reachable: n.reachable,
                raft_role: n.raft_role,
                applied_index: n.applied_index,
                announced: n.announced,
                announce_state: n.announce_state,
                health: n.health,
                draining: n.draining,
                alarms: n.alarms,
                name: n.name,
                id: n.id,
            }
        };
        self.all(caller).await.into_iter().map(member).collect()
    }
}
