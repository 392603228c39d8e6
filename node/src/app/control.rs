//! What the control plane may do with this node, and the server that it is reached by.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use prost::Message;
use sbc_core::ids::{CallUid, Incarnation, NodeId};
use sbc_core::io::{Command, CommandReply, MediaStats};
use sbc_core::replica::{EarlyCalls, Replica};
use sbc_core::store_pb;
use sbc_proto::peer::peer_link_service_server::PeerLinkServiceServer;
use sbc_raft::{PeerService, ReadError, Role};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::parts::peer_config;
use super::{Node, grpc};
use crate::announce;
use crate::config::NodeConfig;
use crate::control::{
    self, AnnounceError, AuthLayer, Intents, NodeHandle, NodeStatus, ProposeError, RaftRole, RaftStatus, ReloadError, Reloaded,
    Stopped,
};
use crate::peer::LinkService;
use crate::telemetry::{ActiveAlarm, Metrics};

/// Longest wait for a linearizable read; the asker retries.
const READ_LIMIT: Duration = Duration::from_secs(2);
/// Longest wait for this node to apply what the leader has.
const APPLY_LIMIT: Duration = Duration::from_secs(2);

/// Whether the node drains; clones share it.
#[derive(Clone)]
pub struct Draining {
    value: watch::Sender<bool>,
}

impl Default for Draining {
    fn default() -> Draining {
        Draining { value: watch::Sender::new(false) }
    }
}

impl Draining {
    /// Now.
    pub fn get(&self) -> bool {
        *self.value.borrow()
    }

    /// Sets it.
    pub fn set(&self, draining: bool) {
        self.value.send_replace(draining);
    }

    /// Tells of changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.value.subscribe()
    }
}

/// Serves the control plane and the peers on one listener; the auth layer lets only nodes reach the peers' services.
pub(super) fn serve(
    node: &Arc<Node>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    raft: PeerService,
    links: LinkService,
) {
    let auth = AuthLayer::new(&node.config.cluster.id, &node.config.cluster.members, node.metrics.clone());
    let handle: Arc<dyn NodeHandle> = node.clone();
    let routes = control::routes(handle).add_service(raft.into_server()).add_service(PeerLinkServiceServer::new(links));
    let (shutdown, members) = (node.shutdown.subscribe(), grpc::member_addresses(&node.config));
    let metrics = node.metrics.clone();
    tokio::spawn(async move {
        if let Err(error) = control::serve(listener, tls, auth, routes, &members, metrics, shutdown).await {
            tracing::error!(%error, "the gRPC server has stopped");
        }
    });
}

impl Node {
    async fn applied(&self, index: u64) -> Result<u64, ProposeError> {
        let mut status = self.raft.watch();
        let reached = status.wait_for(|s| s.applied.is_some_and(|applied| applied >= index));
        match tokio::time::timeout(APPLY_LIMIT, reached).await {
            Ok(Ok(_)) => Ok(index),
            _ => Err(ProposeError::Unknown),
        }
    }
}

#[tonic::async_trait]
impl NodeHandle for Node {
    fn config(&self) -> &NodeConfig {
        &self.config
    }

    fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation)
    }

    fn started_unix_ms(&self) -> u64 {
        self.started_unix_ms
    }

    fn replica(&self) -> Arc<RwLock<Replica>> {
        self.replica.clone()
    }

    fn early(&self) -> Arc<RwLock<EarlyCalls>> {
        self.driver.early()
    }

    fn events_changed(&self) -> watch::Receiver<u64> {
        self.driver.events()
    }

    fn status(&self) -> watch::Receiver<NodeStatus> {
        self.status.subscribe()
    }

    fn raft_status(&self) -> RaftStatus {
        let status = self.raft.status();
        let node = |id: u64| u16::try_from(id).ok().map(NodeId);
        RaftStatus {
            leader: status.leader.and_then(node),
            term: status.term,
            committed: status.committed.unwrap_or(0),
            applied: status.applied.unwrap_or(0),
            quorum_ok: status.has_lease,
            role: match status.role {
                Role::Leader => RaftRole::Leader,
                Role::Candidate => RaftRole::Candidate,
                Role::Learner => RaftRole::Learner,
                Role::Follower | Role::Stopped => RaftRole::Follower,
            },
            voters: status.voters.into_iter().filter_map(node).collect(),
        }
    }

    fn alarms(&self) -> Vec<ActiveAlarm> {
        self.alarms.active()
    }

    fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    fn shutdown(&self) -> watch::Receiver<bool> {
        self.shutdown.subscribe()
    }

    async fn command(&self, command: Command) -> Result<CommandReply, Stopped> {
        self.driver.command(command).await.map_err(|_| Stopped)
    }

    async fn media_stats(&self, call: CallUid) -> Option<MediaStats> {
        let media = self.driver.media_of(call).await.ok()??;
        self.media.stats(media)
    }

    async fn propose(&self, command: store_pb::Command) -> Result<u64, ProposeError> {
        let no_leader = self.raft.status().leader.is_none();
        match self.raft.propose(command.encode_to_vec().into()).await {
            Ok(index) => self.applied(index).await,
            Err(sbc_raft::ProposeError::QueueFull | sbc_raft::ProposeError::TooLarge) => Err(ProposeError::NoQuorum),
            Err(_) if no_leader => Err(ProposeError::NoLeader),
            Err(sbc_raft::ProposeError::Timeout) if !self.raft.status().has_lease => Err(ProposeError::NoQuorum),
            Err(_) => Err(ProposeError::Unknown),
        }
    }

    async fn linearizable(&self) -> Result<(), ProposeError> {
        self.raft.read_barrier(READ_LIMIT).await.map(drop).map_err(|e| match e {
            ReadError::NoLeader | ReadError::Unreachable(_) => ProposeError::NoLeader,
            ReadError::Timeout | ReadError::Stopped => ProposeError::NoQuorum,
        })
    }

    async fn announce(&self, now: bool) -> Result<(), AnnounceError> {
        if now {
            return self.announcer.announce_now().await.map_err(announce_error);
        }
        self.announcer.set_wanted(true).await;
        Ok(())
    }

    async fn withdraw(&self) -> Result<(), AnnounceError> {
        // The control plane has asked whether this node is the last one.
        self.announcer.withdraw(true, 0).await.map_err(announce_error)
    }

    fn intents(&self) -> &Intents {
        &self.intents
    }

    async fn set_draining(&self, draining: bool) -> Result<(), Stopped> {
        self.draining.set(draining);
        Ok(())
    }

    fn peer_is_alive(&self, node: NodeId) -> bool {
        self.peers.is_alive(node)
    }

    async fn remove_member(&self, node: NodeId) -> Result<(), String> {
        self.raft.remove(node.0.into()).await.map_err(|e| e.to_string())
    }

    async fn add_member(&self, node: NodeId) -> Result<(), String> {
        let member = self.config.cluster.members.iter().find(|m| m.id == node).ok_or("it is not configured")?;
        self.raft.add_learner(peer_config(member)).await.map_err(|e| e.to_string())?;
        self.raft.promote(node.0.into()).await.map_err(|e| e.to_string())
    }

    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let reload = self.reload.clone();
        let done = tokio::task::spawn_blocking(move || reload.run()).await;
        done.unwrap_or_else(|_| Err(ReloadError("the node stops".into())))
    }

    fn peer(&self, node: NodeId) -> Option<Channel> {
        self.peer_channels.get(&node).cloned()
    }
}

fn announce_error(error: announce::AnnounceError) -> AnnounceError {
    match error {
        announce::AnnounceError::Driver(words) => AnnounceError::Driver(words),
        other => AnnounceError::Unhealthy(other.to_string()),
    }
}

/// Live calls in the replicated state.
pub(super) fn live_calls(replica: &RwLock<Replica>) -> u64 {
    let live = replica.read().unwrap_or_else(PoisonError::into_inner).live_calls();
    u64::try_from(live).unwrap_or(u64::MAX)
}
