//! The media engine: port pairs, RTP and RTCP forwarding, symmetric-RTP latching.
//!
//! [`MediaEngine::start`] gives a [`MediaHandle`]; orders and reports are core's plain values ([`MediaCommand`],
//! [`MediaEvent`]). `embedded` runs dedicated OS threads, each with its own epoll loop (mio); a session's sockets live on
//! one thread, chosen by its id, so packets take no lock. `none` is signalling only.
//!
//! What is kept true:
//! - a packet that arrives on one side's socket leaves from the other side's socket, never from another;
//! - nothing is sent to an address that was neither signalled nor latched;
//! - every `Open` is answered once by `Opened` or `OpenFailed`, every `Close` by `Closed`, in the order of the orders;
//! - a port pair is bound by one stream at a time and rests before it is used again, unless an emergency call has no other;
//! - there are never more sockets than the engine's share of descriptors, and the last of them and of the ports are emergency calls'.
//!
//! Absent: keys of SRTP (they cross, and their handshakes do), ICE, transcoding, DTMF, quality figures, time-outs of silent streams.
//!
//! Layers, each using only those before it: limits, config, counters, packet, latch, ports, sockets → leg → stream → shard → worker → engine → pressure.
//!
//! [`MediaCommand`]: sbc_core::io::MediaCommand
//! [`MediaEvent`]: sbc_core::io::MediaEvent

mod config;
mod counters;
mod engine;
mod latch;
mod leg;
mod limits;
mod packet;
mod ports;
mod pressure;
mod shard;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;
mod worker;

pub use config::{MediaConfig, MediaConfigError, MediaKind};
pub use counters::MediaTotals;
pub use engine::{MediaEngine, MediaHandle, MediaRoom, MediaStartError};
pub use limits::{COMMAND_QUEUE, MAX_SESSIONS_PER_THREAD, MAX_STREAMS, MAX_THREADS};
pub use pressure::PortsWatch;
pub use shard::MediaRefused;
