//! The ladder of a call: every message, when and between whom.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock;
use crate::message::Message;

/// Lines kept of one call; a test call has some tens, and a loop must not eat the memory.
const MAX_LINES: usize = 10_000;

/// Seen from the phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LadderDirection {
    /// By us.
    Sent,
    /// By the far end.
    Received,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LadderLine {
    /// Since the ladder began.
    pub at: Duration,
    /// Sent or received.
    pub direction: LadderDirection,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Start line, CSeq, and whether it has SDP.
    pub summary: String,
}

/// Collects the lines.
#[derive(Debug)]
pub(crate) struct Ladder {
    start: Instant,
    lines: Mutex<Vec<LadderLine>>,
}

impl Ladder {
    pub(crate) fn new() -> Ladder {
        Ladder { start: Instant::now(), lines: Mutex::default() }
    }

    pub(crate) fn record(&self, direction: LadderDirection, from: SocketAddr, to: SocketAddr, message: &Message) {
        let mut lines = lock(&self.lines);
        if lines.len() < MAX_LINES {
            lines.push(LadderLine { at: self.start.elapsed(), direction, from, to, summary: summary(message) });
        }
    }

    pub(crate) fn lines(&self) -> Vec<LadderLine> {
        lock(&self.lines).clone()
    }
}

/// `INVITE sip:112@… (CSeq 1)` or `200 OK (INVITE 1)`, with `+SDP` if there is one.
fn summary(message: &Message) -> String {
    let (number, method) = message.cseq();
    let mut text = match message.status() {
        0 => format!("{method} {} (CSeq {number})", message.request_uri()),
        code => format!("{code} {} ({method} {number})", message.reason()),
    };
    if message.header("Content-Type").eq_ignore_ascii_case("application/sdp") {
        text.push_str(" +SDP");
    }
    text
}
