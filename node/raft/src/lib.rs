//! Raft for the anycast SBC: the replicated log that the call records and the configuration stand in.
//!
//! A leaf crate, so that openraft's generics are compiled once, and generic about content: an entry is opaque bytes (an
//! encoded `sbc.store.v1.Entry`). What it keeps true:
//!
//! - [`RaftHandle::propose`] never blocks and is answered within [`RaftConfig::propose_timeout`]. A proposal may stand in
//!   the log more than once (records carry epoch and sequence), and one that failed may still be applied.
//! - [`RaftStatus::caught_up`] is said only of a node that has applied everything that was committed at a moment within
//!   the last [`RaftConfig::lease`], as a quorum confirmed *after* that moment (see `monitor`). Rule G builds on it.
//! - Nothing is acknowledged before it is flushed. When the disk fails (full, broken, read-only) Raft ends, shows it in
//!   [`RaftStatus::storage`], and begins again when the disk can be written (see `engine`): no vote, acknowledgement or lease in
//!   between. Any other error ends Raft for good and shows in [`RaftStatus::fatal`], upon which the process has to end.
//!
//! Absent: TLS (the [`Connector`] and the gRPC server bring it), the meaning of entries, the choice of members. A node
//! whose disk is lost joins under a new id; the old one is removed.

mod boot;
mod config;
mod convert;
mod engine;
mod error;
mod handle;
mod ledger;
mod log_store;
mod monitor;
mod network;
mod proposer;
mod reverted;
mod service;
mod snapshot;
mod state_machine;
mod status;
mod storage;
mod types;

pub use boot::BootTime;
pub use config::{Connector, EncodeEntry, PeerConfig, RaftConfig};
pub use error::{AdminError, ProposeError, ReadError, StartError};
pub use handle::{RaftHandle, start};
pub use ledger::LEASE_MARGIN;
pub use monitor::STUCK_AFTER;
pub use proposer::Proposal;
pub use service::PeerService;
pub use state_machine::{AppliedEntry, StateMachine};
pub use status::{RaftStatus, Role, StorageState};
pub use storage::Space;
