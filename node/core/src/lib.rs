//! The sans-IO core of the anycast SBC.
//!
//! No socket, no clock, no randomness of its own: one [`Sbc`](sbc::Sbc) value takes inputs with the time they happened at
//! and hands out outputs. Layers, each importing only those above it:
//! ids, time, pii → token → sip → io → ctx (timers) → {transaction, dialog, routing, media, replica, placement, policy} → call → sbc.

pub mod ids;
pub mod io;
pub mod policy;
pub mod replica;
pub mod sip;
pub mod time;
pub mod timer;
pub mod token;

/// The replicated records, generated from proto/sbc/store/v1.
#[allow(missing_docs, clippy::all)]
pub mod store_pb {
    include!(concat!(env!("OUT_DIR"), "/sbc.store.v1.rs"));
}
