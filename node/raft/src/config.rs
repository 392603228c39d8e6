//! Settings, and what the node brings: connections and the encoding of entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;

use crate::error::StartError;
use crate::types::Member;

/// Longest snapshot file taken from a peer, and longest content: 1 GiB. A million calls of 1 KiB; more is damage.
pub(crate) const MAX_SNAPSHOT: u64 = 1 << 30;
/// Longest command: 1 MiB. A configuration revision is the longest there is; an INVITE has 64 KiB.
pub(crate) const MAX_COMMAND: usize = 1 << 20;
/// Longest entry as encoded: one command of the longest, or a batch, and the encoding around it.
pub(crate) const MAX_ENTRY: usize = MAX_COMMAND + (256 << 10);
/// Bytes of entries in one append request, where more than one entry is in it.
pub(crate) const APPEND_BYTES: usize = 1 << 20;
/// Longest gRPC message: an append request with the longest entry after a nearly full load, twice over.
pub(crate) const MAX_MESSAGE: usize = 2 * (APPEND_BYTES + MAX_ENTRY);

/// Turns commands, as given to [`RaftHandle::propose`](crate::RaftHandle::propose), into one log entry.
pub type EncodeEntry = Arc<dyn Fn(Vec<Bytes>) -> Bytes + Send + Sync>;

/// Opens connections to peers.
pub trait Connector: Send + Sync + 'static {
    /// A channel to the peer that connects when used and again when lost (`Endpoint::connect_lazy`), with mutual TLS.
    /// Give it a connect timeout and HTTP/2 keep-alive below the election timeout: nothing else notices a dead path.
    fn channel(&self, peer: &PeerConfig) -> Channel;
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Node id, 1 or more; never used again for another disk.
    pub id: u64,
    /// Name for people.
    pub name: String,
    /// `host:port` of its peer listener.
    pub addr: String,
}

impl PeerConfig {
    pub(crate) fn member(&self) -> Member {
        Member { name: self.name.clone(), addr: self.addr.clone() }
    }
}

/// Settings of one Raft group on one node.
#[derive(Clone)]
pub struct RaftConfig {
    /// This node, 1 or more.
    pub node_id: u64,
    /// The cluster, 1 to 64 printable ASCII characters; every RPC is checked for it.
    pub cluster_id: String,
    /// The Raft group within the cluster; every RPC is checked for it.
    pub group: u32,
    /// This node's name.
    pub name: String,
    /// `host:port` at which the others reach this node.
    pub advertise: String,
    /// Where log and snapshots are; used by nothing else.
    pub data_dir: PathBuf,
    /// The other members as configured. With this node they are whom `initialize` makes voters.
    pub peers: Vec<PeerConfig>,
    /// How often the leader speaks, and how often a node has its lease confirmed.
    pub heartbeat: Duration,
    /// Shortest silence of the leader after which a node stands for election.
    pub election_min: Duration,
    /// The longest.
    pub election_max: Duration,
    /// How long a quorum's confirmation counts (anycast.md, rule I).
    pub lease: Duration,
    /// A proposal is answered within this time.
    pub propose_timeout: Duration,
    /// A snapshot is taken after as many bytes of entries.
    pub snapshot_log_bytes: u64,
    /// Entries kept behind a snapshot, for followers that lag a little.
    pub keep_entries: u64,
    /// The disk is called low when less is free, in bytes.
    pub disk_low: u64,
    /// Makes an entry of commands.
    pub encode_entry: EncodeEntry,
    /// Until it is set this node answers nothing that a peer asks: it gives no vote and acknowledges no entry. Set by whoever knows that the
    /// data directory is the one that it voted with.
    pub admitted: Arc<AtomicBool>,
}

impl Default for RaftConfig {
    /// Timings of design.md; identity, members and encoding are to be set.
    fn default() -> Self {
        RaftConfig {
            node_id: 0,
            cluster_id: String::new(),
            group: 1,
            name: String::new(),
            advertise: String::new(),
            data_dir: PathBuf::new(),
            peers: Vec::new(),
            heartbeat: Duration::from_millis(250),
            election_min: Duration::from_millis(1000),
            election_max: Duration::from_millis(1500),
            lease: Duration::from_secs(2),
            propose_timeout: Duration::from_secs(2),
            snapshot_log_bytes: 64 << 20,
            keep_entries: 1000,
            // The log's own need: what lies between two snapshots, twice, and two snapshots.
            disk_low: 512 << 20,
            encode_entry: Arc::new(|commands| commands.concat().into()),
            admitted: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl fmt::Debug for RaftConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftConfig")
            .field("node_id", &self.node_id)
            .field("cluster_id", &self.cluster_id)
            .field("group", &self.group)
            .field("data_dir", &self.data_dir)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl RaftConfig {
    /// This node and its peers.
    pub(crate) fn members(&self) -> BTreeMap<u64, Member> {
        let own = Member { name: self.name.clone(), addr: self.advertise.clone() };
        self.peers.iter().map(|peer| (peer.id, peer.member())).chain([(self.node_id, own)]).collect()
    }

    /// Checks what openraft would not.
    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let fail = |why: &str| Err(StartError::Config(why.to_owned()));
        if self.node_id == 0 || self.peers.iter().any(|peer| peer.id == 0) {
            return fail("node ids start at 1");
        }
        let ids: BTreeSet<u64> = self.peers.iter().map(|peer| peer.id).chain([self.node_id]).collect();
        if ids.len() != self.peers.len() + 1 {
            return fail("two members have the same id");
        }
        let printable = self.cluster_id.bytes().all(|byte| byte.is_ascii_graphic());
        if self.cluster_id.is_empty() || self.cluster_id.len() > 64 || !printable {
            return fail("the cluster id has 1 to 64 printable ASCII characters");
        }
        if self.lease < 2 * self.heartbeat {
            return fail("the lease must outlast two heartbeats");
        }
        Ok(())
    }

    /// The same for openraft.
    pub(crate) fn openraft(&self) -> Result<Arc<openraft::Config>, StartError> {
        let config = openraft::Config {
            cluster_name: self.cluster_id.clone(),
            heartbeat_interval: millis(self.heartbeat),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            enable_pre_vote: Some(true),
            // A leader that lost its quorum falls silent, so that its followers may elect another.
            quorum_loss_probe_interval: Some(2 * millis(self.election_max)),
            // By bytes, see `state_machine`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: self.keep_entries,
            // The time for a whole snapshot: 1 GiB within 2 min are 72 Mbit/s.
            install_snapshot_timeout: 120_000,
            // A follower that lost entries which it had acknowledged gets them again. Without it the leader would go on
            // believing that they are there, and send nothing. See `reverted`, which tells of it.
            allow_log_reversion: Some(true),
            // Bytes bound a request (`limited_get_log_entries`); this bounds the work for tiny entries.
            max_payload_entries: 256,
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate().map_err(|error| StartError::Config(error.to_string()))?))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
