//! The node of the anycast SBC: the sockets, names, certificates, media and announcements around the sans-IO core.

pub mod announce;
pub mod app;
pub mod config;
pub mod control;
pub mod dns;
pub mod driver;
pub mod gate;
pub mod key_file;
pub mod media;
pub mod peer;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod transport;
