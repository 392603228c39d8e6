//! The node of the anycast SBC: the sockets, names, certificates and announcements around the sans-IO core.

pub mod config;
pub mod control;
pub mod telemetry;
pub mod tls;
pub mod transport;
