//! What the phones of the tests say and hear: messages of the shared phone, and the check that each one heard passes.
//!
//! Independent of the product's own parser on purpose: what both got wrong alike, no test would see.

pub use sbc_phone::sdp::audio as sdp;
pub use sbc_phone::{Dialog, Message, bracketed, tagged, unique, via};

/// A message that a cluster has sent. `None`: it is none; two line ends keep a connection alive.
///
/// # Panics
/// rsip reads in it something else than what stands there.
#[track_caller]
pub fn heard(bytes: &[u8]) -> Option<Message> {
    if bytes.trim_ascii().is_empty() {
        return None;
    }
    let message = Message::parse(bytes);
    // 400 repeats what was wrong in the request (RFC 3261 §8.2.6.2): what it is about is not the cluster's word.
    let repeats = message.as_ref().is_some_and(|m| m.status() == 400);
    if !repeats && let Err(why) = sbc_phone::reads_back(bytes) {
        panic!("rsip reads something else in what a cluster sent: {why}\n{}", String::from_utf8_lossy(bytes));
    }
    message
}
