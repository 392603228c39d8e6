//! `sbc.v1.NodeService`: the members, and what an operator does with one.

use std::time::Duration;

use futures::future::join_all;
use sbc_core::ids::NodeId;
use sbc_core::io::Addresses;
use sbc_core::replica::Replica;
use sbc_proto::v1 as pb;
use sbc_proto::v1::node_service_client::NodeServiceClient;
use sbc_proto::v1::node_service_server::NodeService;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::auth::Caller;
use super::error::{fault, not_announced};
use super::handle::{AnnounceState, NodeStatus, RaftRole};
use super::health::HealthState;
use super::map;
use super::shared::{FORWARD_BUDGET, Place, Shared, bad_page_token, caller, forwarded, on_behalf, page_size};
use super::watch::Answers;
use crate::config::{AnnounceDriver, Member};

/// For asking one peer about itself: lists are asked for by people who wait.
pub(crate) const PEER_BUDGET: Duration = Duration::from_millis(500);
/// For the anycast address to arrive at, or leave, a node.
const ANNOUNCE_BUDGET: Duration = Duration::from_secs(5);
/// Longest Drain.
const DRAIN_MAX: Duration = Duration::from_secs(3600);
/// Between two looks at the calls that are left.
const DRAIN_LOOK: Duration = Duration::from_millis(200);

/// This and `ClusterService` (`cluster.rs`).
#[derive(Clone)]
pub(crate) struct Nodes(pub(crate) Shared);

fn announce_state(s: AnnounceState) -> pb::AnnounceState {
    match s {
        AnnounceState::Withdrawn => pb::AnnounceState::Withdrawn,
        AnnounceState::Standby => pb::AnnounceState::Standby,
        AnnounceState::Announced => pb::AnnounceState::Announced,
        AnnounceState::Blocked => pb::AnnounceState::Blocked,
        AnnounceState::Left => pb::AnnounceState::Left,
    }
}

fn health_state(s: HealthState) -> pb::HealthState {
    match s {
        HealthState::Ok => pb::HealthState::Ok,
        HealthState::Degraded => pb::HealthState::Degraded,
        HealthState::NotServing => pb::HealthState::NotServing,
    }
}

fn raft_role(r: RaftRole) -> pb::RaftRole {
    match r {
        RaftRole::Leader => pb::RaftRole::Leader,
        RaftRole::Follower => pb::RaftRole::Follower,
        RaftRole::Candidate => pb::RaftRole::Candidate,
        RaftRole::Learner => pb::RaftRole::Learner,
    }
}

pub(super) fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

pub(super) fn texts(addresses: Addresses) -> Vec<String> {
    addresses.iter().map(|ip| ip.to_string()).collect()
}

fn owned(replica: &Replica, node: NodeId) -> (u32, u32) {
    let (mut calls, mut emergency) = (0, 0);
    for c in replica.calls(None).filter(|c| c.owner() == node) {
        calls += 1;
        emergency += usize::from(c.emergency());
    }
    (number(calls), number(emergency))
}

impl Nodes {
    fn configured(&self, m: &Member) -> pb::Node {
        let sip = &self.0.node.config().sip;
        let at = |a: Addresses| a.iter().map(|ip| std::net::SocketAddr::new(ip, sip.port).to_string()).collect();
        let addresses = pb::NodeAddresses {
            anycast: at(sip.anycast),
            unicast: at(m.unicast),
            core: at(m.core),
            grpc: m.peer.to_string(),
            sip_tls_port: sip.tls_port.into(),
        };
        let alarms = self.0.read(|r| r.alarms().filter(|a| a.node == u32::from(m.id.0)).map(map::alarm).collect());
        pb::Node { name: m.name.clone(), id: m.id.0.into(), addresses: Some(addresses), alarms, ..pb::Node::default() }
    }

    /// This node as it is now. Its calls are counted by the core, which also knows those that the log does not have.
    async fn here(&self) -> pb::Node {
        let node = &self.0.node;
        let status: NodeStatus = node.status().borrow().clone();
        let raft = node.raft_status();
        let (state, reason) = status.health();
        let calls = match node.command(sbc_core::io::Command::Summary).await {
            Ok(sbc_core::io::CommandReply::Summary { calls, .. }) => u32::try_from(calls).unwrap_or(u32::MAX),
            _ => self.0.read(|r| owned(r, self.0.me())).0,
        };
        pb::Node {
            reachable: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            incarnation: node.incarnation().0,
            started_at: map::time(node.started_unix_ms()),
            announce_state: announce_state(status.announce).into(),
            announced: status.announce == AnnounceState::Announced,
            draining: status.draining,
            health: Some(pb::NodeHealth {
                sip_loop: status.sip_loop,
                raft_caught_up: status.caught_up,
                quorum: status.quorum,
                core_reachable: status.core_reachable,
                media: status.media,
                storage: !status.disk_failed,
                applying: !status.stuck,
                state: health_state(state).into(),
                reason,
            }),
            calls,
            raft_role: raft_role(raft.role).into(),
            applied_index: self.0.read(Replica::applied_index).max(raft.applied),
            counters: node.metrics().totals(),
            alarms: node.alarms().into_iter().map(map::active_alarm).collect(),
            format_level: self.0.read(Replica::knows),
            ..self.configured(node.config().this_member())
        }
    }

    /// A member as it says it is, within a budget; what is configured when it does not say.
    async fn ask(&self, m: &Member, caller: &Caller) -> pb::Node {
        if m.id == self.0.me() {
            return self.here().await;
        }
        let Ok(Place::There(name, channel)) = self.0.place_of(m.id, caller) else { return self.configured(m) };
        let mut client = NodeServiceClient::new(channel);
        let asked = pb::NodeServiceGetRequest { node: m.name.clone() };
        let answer = forwarded(&name, PEER_BUDGET, client.get(on_behalf(asked, caller))).await;
        answer.ok().and_then(|a| a.into_inner().node).unwrap_or_else(|| self.configured(m))
    }

    pub(super) async fn all(&self, caller: &Caller) -> Vec<pb::Node> {
        let mut nodes = join_all(self.0.node.config().cluster.members.iter().map(|m| self.ask(m, caller))).await;
        nodes.sort_by_key(|n| n.id);
        nodes
    }

    pub(super) fn driver(&self) -> &'static str {
        match self.0.node.config().announce.driver {
            AnnounceDriver::Bind => "bind",
            AnnounceDriver::Exec => "exec",
            AnnounceDriver::Bgp => "bgp",
            AnnounceDriver::None => "none",
        }
    }

    async fn announce_here(&self, exclusive: bool) -> Result<(), Status> {
        if self.0.node.status().borrow().draining {
            let message = "a draining node does not announce";
            return Err(fault(Code::FailedPrecondition, pb::ErrorReason::NodeDraining, message, &[("node", self.0.my_name())]));
        }
        self.0.node.announce(exclusive).await.map_err(|e| not_announced(&e, self.0.my_name(), self.driver()))?;
        let good =
            move |s: &NodeStatus| s.announce == AnnounceState::Announced || (!exclusive && s.announce == AnnounceState::Standby);
        self.settled(good, "does not serve").await
    }

    pub(super) async fn settled(&self, good: impl FnMut(&NodeStatus) -> bool, what: &str) -> Result<(), Status> {
        let mut status = self.0.node.status();
        let done = tokio::time::timeout(ANNOUNCE_BUDGET, status.wait_for(good)).await;
        if matches!(done, Ok(Ok(_))) {
            return Ok(());
        }
        let message = format!("{} {what} the anycast address after {} s", self.0.my_name(), ANNOUNCE_BUDGET.as_secs());
        let facts = [("node", self.0.my_name()), ("driver", self.driver())];
        Err(fault(Code::FailedPrecondition, pb::ErrorReason::AnnounceFailed, message, &facts))
    }

    /// Moves the address here: every other node lets go of it, this one takes it, the others stand by again. A node that
    /// does not answer is left out: it may be dead.
    async fn take(&self, caller: &Caller, request_id: &str) -> Result<(), Status> {
        let own = Caller { forwarded: false, ..caller.clone() };
        let me = self.0.me();
        let others: Vec<&Member> = self.0.node.config().cluster.members.iter().filter(|m| m.id != me).collect();
        let nodes = join_all(others.iter().map(|m| self.ask(m, &own))).await;
        let wants = |n: &pb::Node| {
            matches!(n.announce_state(), pb::AnnounceState::Announced | pb::AnnounceState::Standby | pb::AnnounceState::Left)
        };
        let holders: Vec<&Member> =
            others.into_iter().zip(&nodes).filter(|(_, n)| n.reachable && wants(n)).map(|(m, _)| m).collect();
        let let_go = join_all(holders.iter().map(|m| async {
            let Place::There(name, channel) = self.0.place_of(m.id, &own)? else { return Ok(()) };
            let asked = pb::NodeServiceWithdrawRequest { node: m.name.clone(), force: true, request_id: request_id.to_owned() };
            forwarded(&name, FORWARD_BUDGET, NodeServiceClient::new(channel).withdraw(on_behalf(asked, &own))).await.map(drop)
        }))
        .await;
        let taken = match let_go.into_iter().collect::<Result<Vec<()>, Status>>() {
            Ok(_) => self.announce_here(true).await,
            Err(e) => Err(e),
        };
        // Also after a failure: nobody is left without the wish for the address.
        let stand_by = join_all(holders.iter().map(|m| async {
            let Place::There(name, channel) = self.0.place_of(m.id, &own)? else { return Ok(()) };
            let asked =
                pb::NodeServiceAnnounceRequest { node: m.name.clone(), exclusive: false, request_id: request_id.to_owned() };
            forwarded(&name, FORWARD_BUDGET, NodeServiceClient::new(channel).announce(on_behalf(asked, &own))).await.map(drop)
        }))
        .await;
        for failed in stand_by.into_iter().filter_map(Result::err) {
            tracing::warn!(error = failed.message(), "a node does not stand by for the anycast address");
        }
        taken
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn list(&self, request: Request<pb::NodeServiceListRequest>) -> Result<Response<pb::NodeServiceListResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let (nodes, next_page_token) = page(self.all(&caller).await, asked.page_size, &asked.page_token, |n| n.id)?;
        Ok(Response::new(pb::NodeServiceListResponse { nodes, next_page_token }))
    }

    async fn get(&self, request: Request<pb::NodeServiceGetRequest>) -> Result<Response<pb::NodeServiceGetResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        match self.0.place(&asked.node, &caller)? {
            Place::Here => Ok(Response::new(pb::NodeServiceGetResponse { node: Some(self.here().await) })),
            Place::There(name, channel) => {
                let mut client = NodeServiceClient::new(channel);
                forwarded(&name, FORWARD_BUDGET, client.get(on_behalf(asked, &caller))).await
            }
        }
    }

    type DrainStream = Answers<pb::NodeServiceDrainResponse>;

    async fn drain(&self, request: Request<pb::NodeServiceDrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        if let Place::There(name, channel) = self.0.place(&asked.node, &caller)? {
            let mut client = NodeServiceClient::new(channel);
            let answer = forwarded(&name, FORWARD_BUDGET * 2, client.drain(on_behalf(asked, &caller))).await?;
            return Ok(Response::new(Box::pin(answer.into_inner())));
        }
        let held = self.may_withdraw(&caller, asked.force, &asked.request_id).await?;
        let limit = match asked.timeout_ms {
            0 => DRAIN_MAX,
            ms => Duration::from_millis(ms.into()).min(DRAIN_MAX),
        };
        tracing::info!(by = %caller.display(), request_id = %asked.request_id, "drain begins");
        // Two messages fit; progress beyond that waits for the reader.
        let (tx, rx) = mpsc::channel(2);
        let nodes = self.clone();
        self.0.node.set_draining(true).await?;
        drop(held);
        tokio::spawn(async move { nodes.drain_here(&caller, limit, tx).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn undrain(
        &self,
        request: Request<pb::NodeServiceUndrainRequest>,
    ) -> Result<Response<pb::NodeServiceUndrainResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        match self.0.place(&asked.node, &caller)? {
            Place::Here => {
                self.0.node.set_draining(false).await?;
                // The status follows within a turn of its loop, and what may be announced is judged by it.
                let mut status = self.0.node.status();
                let _ = tokio::time::timeout(ANNOUNCE_BUDGET, status.wait_for(|s| !s.draining)).await;
                tracing::info!(by = %caller.display(), request_id = %asked.request_id, "drain ends");
                if self.0.node.config().announce.at_start {
                    self.announce_here(false).await?;
                }
                Ok(Response::new(pb::NodeServiceUndrainResponse { node: Some(self.here().await) }))
            }
            Place::There(name, channel) => {
                let mut client = NodeServiceClient::new(channel);
                forwarded(&name, FORWARD_BUDGET * 2, client.undrain(on_behalf(asked, &caller))).await
            }
        }
    }

    async fn announce(
        &self,
        request: Request<pb::NodeServiceAnnounceRequest>,
    ) -> Result<Response<pb::NodeServiceAnnounceResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        match self.0.place(&asked.node, &caller)? {
            Place::Here => {
                if asked.exclusive {
                    self.take(&caller, &asked.request_id).await?;
                } else {
                    self.announce_here(false).await?;
                }
                tracing::info!(by = %caller.display(), exclusive = asked.exclusive, request_id = %asked.request_id, "announced");
                Ok(Response::new(pb::NodeServiceAnnounceResponse { node: Some(self.here().await) }))
            }
            Place::There(name, channel) => {
                let mut client = NodeServiceClient::new(channel);
                forwarded(&name, FORWARD_BUDGET * 4, client.announce(on_behalf(asked, &caller))).await
            }
        }
    }

    async fn reload(
        &self,
        request: Request<pb::NodeServiceReloadRequest>,
    ) -> Result<Response<pb::NodeServiceReloadResponse>, Status> {
        self.0.reload(&caller(&request)?, request.into_inner()).await
    }

    async fn withdraw(
        &self,
        request: Request<pb::NodeServiceWithdrawRequest>,
    ) -> Result<Response<pb::NodeServiceWithdrawResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        match self.0.place(&asked.node, &caller)? {
            Place::Here => {
                self.withdraw_here(&caller, asked.force, &asked.request_id).await?;
                tracing::info!(by = %caller.display(), request_id = %asked.request_id, "withdrawn");
                Ok(Response::new(pb::NodeServiceWithdrawResponse { node: Some(self.here().await) }))
            }
            Place::There(name, channel) => {
                let mut client = NodeServiceClient::new(channel);
                forwarded(&name, FORWARD_BUDGET * 2, client.withdraw(on_behalf(asked, &caller))).await
            }
        }
    }
}

impl Nodes {
    async fn drain_here(&self, caller: &Caller, limit: Duration, tx: mpsc::Sender<Result<pb::NodeServiceDrainResponse, Status>>) {
        let deadline = Instant::now() + limit;
        let say = |phase: pb::DrainPhase, (calls, emergency_calls): (u32, u32)| {
            tx.send(Ok(pb::NodeServiceDrainResponse { phase: phase.into(), calls, emergency_calls }))
        };
        let left = || self.0.read(|r| owned(r, self.0.me()));
        let mut said = left();
        // A reader that has left does not end the draining: the address is withdrawn all the same.
        let _ = say(pb::DrainPhase::Withdrawing, said).await;
        if let Err(e) = self.withdraw_here(caller, true, "").await {
            let _ = tx.send(Err(e)).await;
            return;
        }
        let mut first = true;
        let mut shutdown = self.0.node.shutdown();
        loop {
            // The core knows calls that the log does not have.
            let (in_log, emergency) = left();
            let calls = self.here().await.calls.max(in_log);
            if calls == 0 {
                let _ = say(pb::DrainPhase::Drained, (0, 0)).await;
                return;
            }
            if Instant::now() >= deadline {
                let _ = say(pb::DrainPhase::TimedOut, (calls, emergency)).await;
                return;
            }
            if std::mem::take(&mut first) || said != (calls, emergency) {
                said = (calls, emergency);
                if say(pb::DrainPhase::Waiting, said).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(DRAIN_LOOK) => {}
                () = tx.closed() => return,
                () = super::shared::stopping(&mut shutdown) => return,
            }
        }
    }
}

/// A page of a list that is sorted by id.
pub(super) fn page<T>(all: Vec<T>, size: u32, token: &str, id: impl Fn(&T) -> u32) -> Result<(Vec<T>, String), Status> {
    let after: u32 = if token.is_empty() { 0 } else { token.parse().map_err(|_| bad_page_token())? };
    let mut rest: Vec<T> = all.into_iter().filter(|t| id(t) > after).collect();
    let more = rest.len() > page_size(size);
    rest.truncate(page_size(size));
    let next = rest.last().filter(|_| more).map(|t| id(t).to_string()).unwrap_or_default();
    Ok((rest, next))
}
