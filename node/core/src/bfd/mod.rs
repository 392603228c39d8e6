//! Bidirectional Forwarding Detection on one hop, sans-IO (RFC 5880, RFC 5881): asynchronous mode, no echo, no authentication.
//!
//! A router that is silent, or to which this node is silent, is noticed within a few packets, where BGP's hold time takes seconds.

mod packet;
mod session;
#[cfg(test)]
mod session_tests;

pub use packet::{Diagnostic, PACKET_LEN, Packet, State};
pub use session::{Output, SLOW, Session, SessionConfig};
