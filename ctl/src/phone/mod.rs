//! A small SIP phone: the PSAP and the test caller of `sbcctl dev`.
//!
//! A user agent of its own (UDP, PCMU, IP literals only), so that what it finds out about a node is not the node's own
//! opinion of SIP. It shares no code with the node. [`Psap`] answers, echoes and counts how often it rang; [`Caller`]
//! places one call at a time, keeps the ladder of all messages and counts the RTP that returns.
//!
//! What is kept true: a retransmission is answered from memory and never rings; the same INVITE by another way is 482
//! (RFC 3261 §8.2.2.2); every request of ours ends in a final response or an error within a named time.
//!
//! Absent: TCP, TLS, DNS, digest authentication, 100rel, RTCP reports.
//!
//! Files: message, sdp, body, rtp, ladder → endpoint (socket, transactions) → dialog → caller, psap_report, psap.

#![cfg_attr(not(test), allow(dead_code, reason = "the tests use all of a phone, `sbcctl dev` a part"))]
#![allow(unused_imports, reason = "every type that the handles' methods name can be named")]

mod body;
mod caller;
mod dialog;
mod endpoint;
mod ladder;
mod message;
mod psap;
mod psap_report;
mod rtp;
mod sdp;
#[cfg(test)]
mod tests;

pub(crate) use body::Location;
pub(crate) use caller::{CallHandle, CallOptions, Caller, Phase};
pub(crate) use endpoint::{CallError, Reply};
pub(crate) use ladder::{LadderDirection, LadderLine};
pub(crate) use psap::{Psap, PsapHandle};
pub(crate) use psap_report::{Answer, PsapEvent, PsapOptions, PsapStats};
pub(crate) use rtp::RtpStats;
pub(crate) use sdp::Direction;

/// RFC 3261 §17.1.1.1: the estimate of a round trip.
const T1: std::time::Duration = std::time::Duration::from_millis(500);

/// RFC 3261 §17.1.2.2: the longest pause between retransmissions.
const T2: std::time::Duration = std::time::Duration::from_secs(4);

/// 64 × T1: Timers B, F and H of RFC 3261; who is silent for so long is not there.
const TIMEOUT: std::time::Duration = std::time::Duration::from_secs(32);

/// A text that no other call of this machine has: 16 hexadecimal digits from the process's hash seed.
fn unique() -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}", RandomState::new().hash_one(n))
}

/// The lock, also after a panic elsewhere: the values under these locks are whole after every statement.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
