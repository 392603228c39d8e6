//! The types that Raft is instantiated with.

use std::fmt;

use bytes::Bytes;
use openraft::type_config::alias;

/// An entry's content: opaque.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Batch(pub(crate) Bytes);

// Never the bytes: they hold callers' data, and openraft logs its entries.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What the log knows of a member beside its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Name for people.
    pub(crate) name: String,
    /// `host:port` of its peer listener.
    pub(crate) addr: String,
}

openraft::declare_raft_types!(
    /// Raft as this crate uses it.
    pub(crate) TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = Member,
);

pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Payload = alias::PayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = alias::SnapshotOf<TypeConfig, crate::snapshot::SnapshotFile>;
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::state_machine::Machine>;
