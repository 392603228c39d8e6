//! What the control plane sees of the node: handles, nothing of its machinery.

use std::sync::{Arc, RwLock};

use sbc_core::ids::{CallUid, Incarnation, NodeId};
use sbc_core::io::{Command, CommandReply, MediaStats};
use sbc_core::replica::{EarlyCalls, Replica};
use sbc_core::store_pb;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::intents::Intents;
use crate::config::NodeConfig;
use crate::telemetry::{ActiveAlarm, Metrics};

/// Where the anycast address stands with this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnnounceState {
    /// Not wanted here.
    #[default]
    Withdrawn,
    /// Wanted; another node holds it.
    Standby,
    /// Served here.
    Announced,
    /// Wanted; the driver failed or health forbids it.
    Blocked,
    /// Wanted; the node is not well, and has left the address to one that is.
    Left,
}

/// This node's part in Raft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftRole {
    /// Leads.
    Leader,
    /// Follows.
    #[default]
    Follower,
    /// Stands for election.
    Candidate,
    /// Does not vote.
    Learner,
}

/// Raft as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// The leader, where known.
    pub leader: Option<NodeId>,
    /// Term.
    pub term: u64,
    /// Highest index known to be committed.
    pub committed: u64,
    /// Highest index applied here.
    pub applied: u64,
    /// A quorum has confirmed within the lease.
    pub quorum_ok: bool,
    /// This node's part.
    pub role: RaftRole,
    /// Voting members.
    pub voters: Vec<NodeId>,
}

/// What changes about a node; [`NodeStatus::health`] judges it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// The anycast address.
    pub announce: AnnounceState,
    /// It drains.
    pub draining: bool,
    /// The core task ticks.
    pub sip_loop: bool,
    /// Applied all that was committed.
    pub caught_up: bool,
    /// A quorum has confirmed within the lease.
    pub quorum: bool,
    /// The core network is reachable.
    pub core_reachable: bool,
    /// The media engine works.
    pub media: bool,
    /// The log cannot be applied, and waiting does not help.
    pub stuck: bool,
    /// The disk does not take the log any more.
    pub disk_failed: bool,
    /// The disk that the log is on is nearly full.
    pub disk_low: bool,
}

/// Why a proposal is not known to be committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not proposed: nobody leads.
    #[error("no leader is known")]
    NoLeader,
    /// It will not commit now: the leader has no majority.
    #[error("the leader reaches no majority")]
    NoQuorum,
    /// It may commit yet.
    #[error("the outcome is unknown")]
    Unknown,
}

/// Why the announcement did not change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// The driver failed; its words.
    #[error("the announcement driver failed: {0}")]
    Driver(String),
    /// The node is not fit to serve; why.
    #[error("the node is not healthy: {0}")]
    Unhealthy(String),
}

/// The node does not answer: it stops, or its loop hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node stops")]
pub struct Stopped;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys of the node's configuration whose other values are in use now.
    pub changed: Vec<String>,
    /// Keys whose other values are taken at the next start.
    pub needs_restart: Vec<String>,
    /// What is no reason to refuse it, for people.
    pub warnings: Vec<String>,
}

/// A reload has done nothing: what is wrong with which file, for people, with places.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReloadError(pub String);

/// The node, for the control plane. Implemented by the app.
#[tonic::async_trait]
pub trait NodeHandle: Send + Sync + 'static {
    /// Its configuration.
    fn config(&self) -> &NodeConfig;
    /// This start.
    fn incarnation(&self) -> Incarnation;
    /// When it started, milliseconds since the Unix epoch.
    fn started_unix_ms(&self) -> u64;
    /// The replicated state. Locked for short reads only: the node applies entries under the write lock.
    fn replica(&self) -> Arc<RwLock<Replica>>;
    /// What the log does not have of this node's calls.
    fn early(&self) -> Arc<RwLock<EarlyCalls>>;
    /// Changes after the replica, or what stands beside it, has new events.
    fn events_changed(&self) -> watch::Receiver<u64>;
    /// The node's state.
    fn status(&self) -> watch::Receiver<NodeStatus>;
    /// Raft's.
    fn raft_status(&self) -> RaftStatus;
    /// What is wrong with it.
    fn alarms(&self) -> Vec<ActiveAlarm>;
    /// Metrics.
    fn metrics(&self) -> Metrics;
    /// True once the node stops: streams end with Goodbye.
    fn shutdown(&self) -> watch::Receiver<bool>;
    /// A command for the core of this node.
    async fn command(&self, command: Command) -> Result<CommandReply, Stopped>;
    /// Counters of a call that this node owns.
    async fn media_stats(&self, call: CallUid) -> Option<MediaStats>;
    /// Puts a command into the log, through the leader. Returns when the entry is applied to [`NodeHandle::replica`]: its log
    /// index. Bounded by the implementation.
    async fn propose(&self, command: store_pb::Command) -> Result<u64, ProposeError>;
    /// Returns when the replica has everything that was committed at the time of the call.
    async fn linearizable(&self) -> Result<(), ProposeError>;
    /// From now on this node wants the anycast address: `now` takes it at once and returns when this node serves it, else it
    /// stands by until the address is free.
    async fn announce(&self, now: bool) -> Result<(), AnnounceError>;
    /// From now on it does not. Returns when it no longer serves it.
    async fn withdraw(&self) -> Result<(), AnnounceError>;
    /// Orders about the announcement, one at a time.
    fn intents(&self) -> &Intents;
    /// Starts or ends draining; the announcement is ordered apart from it.
    async fn set_draining(&self, draining: bool) -> Result<(), Stopped>;
    /// True while the link to a peer works.
    fn peer_is_alive(&self, node: NodeId) -> bool;
    /// At the leader: it is no member of Raft any more. The error is for people.
    async fn remove_member(&self, node: NodeId) -> Result<(), String>;
    /// At the leader: gives a configured node the log, then its vote.
    async fn add_member(&self, node: NodeId) -> Result<(), String>;
    /// Reads the node's configuration and the files that it names again, all or nothing.
    async fn reload(&self) -> Result<Reloaded, ReloadError>;
    /// A channel to a peer's gRPC listener with the node's own certificate; connects when used.
    fn peer(&self, node: NodeId) -> Option<Channel>;
}
