//! The control plane: `sbc.v1` over gRPC with mutual TLS. It sees the node only through [`NodeHandle`].

mod auth;
mod blocks;
mod call_watch;
mod calls;
mod cluster;
mod config_map;
#[cfg(test)]
mod config_tests;
mod configs;
mod diff;
mod dispatch_map;
mod door;
mod early;
mod error;
mod events;
mod handle;
mod health;
mod intents;
mod map;
mod nodes;
mod permission;
mod pidf;
mod policy;
mod readmit;
mod reload;
mod routing;
mod server;
mod shared;
#[cfg(test)]
mod tests;
mod watch;
mod withdrawal;

pub use auth::{AuthLayer, AuthService, Caller, ON_BEHALF_OF};
pub use handle::{
    AnnounceError, AnnounceState, NodeHandle, NodeStatus, ProposeError, RaftRole, RaftStatus, ReloadError, Reloaded, Stopped,
};
pub use health::HealthState;
pub use intents::Intents;
pub use permission::{Needs, PII_READ, allowed, needs};
pub use server::{routes, serve};
