//! BGP-4 toward the site's routers (RFC 4271, RFC 4760, RFC 6793), sans-IO: a speaker that announces a few prefixes and imports nothing.
//!
//! [`Peer`] is a session with one router: `handle_*` takes connections, octets, orders and time, `poll_output` hands out what to connect,
//! send and close, `poll_timeout` says when time matters. It is in the process for the sake of its death: when the process dies, so does
//! the TCP connection, and the router takes the routes away at once.
//!
//! Absent on purpose: import of any route, graceful restart (RFC 4724: a dead node is to lose its routes), extended messages, iBGP.

mod adj_rib_out;
mod fsm;
#[cfg(test)]
mod fsm_tests;
mod message;
mod notification;
#[cfg(test)]
mod pair_tests;
mod peer;
#[cfg(test)]
mod peer_tests;
#[cfg(test)]
mod random_tests;
mod report;
mod update;
#[cfg(test)]
mod wire_tests;

pub use fsm::{IDLE_HOLD_MAX, OPEN_LIMIT, STABLE_AFTER, State};
pub use message::{Family, Open};
pub use notification::{Notification, SHUTDOWN_WORDS_MAX};
pub use peer::{Peer, PeerConfig};
pub use report::{Output, Report, Side, Status};
pub use update::{COMMUNITIES_MAX, PREPEND_MAX, Route};
