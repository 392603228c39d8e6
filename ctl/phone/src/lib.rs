//! The SIP phone of `sbcctl dev` and of the process tests: a user agent of its own, so that what it finds out about a node is not the node's own
//! opinion of SIP. It shares no code with the node: it reads by rsip and sdp-types.
//!
//! [`Message`] and [`Dialog`] are what a phone says and hears; a test drives them by hand. [`Psap`] and [`Caller`] act by themselves, on UDP
//! and with PCMU: the one answers, echoes and counts how often it rang, the other places one call at a time, keeps the ladder of all
//! messages and counts the RTP that returns. [`reads_back`] tells whether a message is what rsip reads in it, [`Beyond`] what rsip cannot read.
//!
//! What is kept true: a retransmission is answered from memory and never rings; the same INVITE by another way is 482
//! (RFC 3261 §8.2.2.2); every request of ours ends in a final response or an error within a named time.
//!
//! Absent: TCP, TLS, DNS, digest authentication, 100rel, RTCP reports: a test that wants them has a socket of its own.
//!
//! Files: beyond → message, wire → sdp, body, rtp, dialog, ladder → endpoint (socket, transactions) → caller, psap_report, psap.

mod beyond;
mod body;
mod caller;
mod dialog;
mod endpoint;
mod ladder;
mod message;
mod psap;
mod psap_report;
#[cfg(test)]
mod reading_tests;
pub mod rtp;
pub mod sdp;
#[cfg(test)]
mod tests;
mod wire;

pub use beyond::Beyond;
pub use body::Location;
pub use caller::{CallHandle, CallOptions, Caller, Phase};
pub use dialog::Dialog;
pub use endpoint::{CallError, Reply};
pub use ladder::{LadderDirection, LadderLine};
pub use message::{Message, Via, bracketed, tagged, via};
pub use psap::{Psap, PsapHandle};
pub use psap_report::{Answer, PsapEvent, PsapOptions, PsapStats};
pub use rtp::RtpStats;
pub use sdp::Direction;
pub use wire::reads_back;

/// RFC 3261 §17.1.1.1: the estimate of a round trip.
const T1: std::time::Duration = std::time::Duration::from_millis(500);

/// RFC 3261 §17.1.2.2: the longest pause between retransmissions.
const T2: std::time::Duration = std::time::Duration::from_secs(4);

/// 64 × T1: Timers B, F and H of RFC 3261; who is silent for so long is not there.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(32);

/// A token that nobody else has: 16 hexadecimal digits behind `prefix`.
///
/// # Panics
/// The kernel gives no random octets.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}{:016x}", getrandom::u64().expect("a kernel that runs processes has random octets"))
}

/// The lock, also after a panic elsewhere: the values under these locks are whole after every statement.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
