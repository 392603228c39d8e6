//! Configuration: parsed and validated before a port is bound. All faults at once, each with line, caret and hint.

mod admission;
mod announce;
mod bgp;
#[cfg(test)]
mod bgp_tests;
mod changes;
mod cluster;
mod emergency;
mod fault;
mod header_rules;
mod node;
mod profile;
mod reader;
#[cfg(test)]
mod samples;
mod secrets;
mod sip_tls;
#[cfg(test)]
mod tests;
mod trunk_auth;

pub use announce::{AnnounceDriver, AnnounceSection};
pub use bgp::{BgpNeighbor, BgpSection};
pub use changes::{changed_keys, is_live};
pub use cluster::{builtin_cluster, parse_cluster};
pub use fault::{FAULT_CAP, Fault, Faults, KeyFault, review_cluster};
pub use node::{
    ClusterSection, LogFormat, LogSection, MediaEngine, MediaSection, Member, NodeConfig, RaftSection, SipSection, TlsSection,
};
pub use secrets::SecretsDir;
pub use sip_tls::{ClientAuth, SipTlsSection};
