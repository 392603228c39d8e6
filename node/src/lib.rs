//! The node of the anycast SBC: the sockets, names, certificates and announcements around the sans-IO core.

pub mod announce;
pub mod dns;
pub mod tls;
pub mod transport;
