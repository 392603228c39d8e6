//! The sans-IO core of the anycast SBC.
//!
//! No socket, no clock, no randomness of its own: one [`Sbc`](sbc::Sbc) value takes inputs with the time they happened at
//! and hands out outputs. Layers, each importing only those above it:
//! ids, time → token, sip → auth → policy, io → local, timer → {transaction, dialog, routing, replica, placement} → call →
//! {farewell, neighbours, probe, subscription} → message → sbc
//! (`tests/layering.rs` has the exact table).

pub mod auth;
pub mod bfd;
pub mod bgp;
pub mod call;
pub mod crossing;
pub mod dialog;
mod farewell;
pub mod health;
pub mod ids;
pub mod io;
pub mod local;
mod message;
mod neighbours;
pub mod placement;
pub mod policy;
mod probe;
pub mod replica;
pub mod routing;
pub mod sbc;
pub mod sip;
mod subscription;
pub mod targets;
pub mod time;
pub mod timer;
pub mod token;
pub mod transaction;

/// The replicated records, generated from proto/sbc/store/v1.
#[allow(missing_docs, clippy::all)]
pub mod store_pb {
    include!(concat!(env!("OUT_DIR"), "/sbc.store.v1.rs"));
}
