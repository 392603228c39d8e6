//! The ladder of a call: every message, when and between whom.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use super::message::Message;

/// Lines kept of one call; a test call has some tens, and a loop must not eat the memory.
const MAX_LINES: usize = 10_000;

/// Seen from the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LadderDirection {
    /// By us.
    Sent,
    /// By the far end.
    Received,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LadderLine {
    /// Since the ladder began.
    pub(crate) at: Duration,
    /// Sent or received.
    pub(crate) direction: LadderDirection,
    /// Its source.
    pub(crate) from: SocketAddr,
    /// Its destination.
    pub(crate) to: SocketAddr,
    /// Start line, CSeq, and whether it has SDP.
    pub(crate) summary: String,
}

/// Collects the lines.
#[derive(Debug)]
pub(super) struct Ladder {
    start: Instant,
    lines: Mutex<Vec<LadderLine>>,
}

impl Ladder {
    pub(super) fn new() -> Ladder {
        Ladder { start: Instant::now(), lines: Mutex::default() }
    }

    pub(super) fn record(&self, direction: LadderDirection, from: SocketAddr, to: SocketAddr, message: &Message) {
        let mut lines = lock(&self.lines);
        if lines.len() < MAX_LINES {
            lines.push(LadderLine { at: self.start.elapsed(), direction, from, to, summary: message.summary() });
        }
    }

    pub(super) fn lines(&self) -> Vec<LadderLine> {
        lock(&self.lines).clone()
    }
}
