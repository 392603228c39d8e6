//! How a PSAP is told to behave, and what it tells.

use std::net::SocketAddr;
use std::time::Duration;

use crate::rtp::RtpStats;
use crate::sdp::Direction;

/// What becomes of a call that rang.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// 200.
    #[default]
    Accept,
    /// This code, 300..=699.
    Reject(u16),
    /// Rings until it is cancelled; 480 after three minutes.
    Never,
}

/// How the PSAP behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PsapOptions {
    /// From 180 to the answer.
    pub ring: Duration,
    /// The answer.
    pub answer: Answer,
    /// Return RTP to where it came from; otherwise only count it.
    pub echo: bool,
}

impl Default for PsapOptions {
    fn default() -> PsapOptions {
        PsapOptions { ring: Duration::from_millis(200), answer: Answer::Accept, echo: true }
    }
}

/// What happens at the PSAP. `call` is the Call-ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PsapEvent {
    /// It rings; `rings` counts how often for this Call-ID and From-tag: 1, or the SBC is broken.
    InviteReceived {
        /// Call-ID.
        call: String,
        /// The From value.
        from: String,
        /// Source of the packet.
        source: SocketAddr,
        /// Distinct INVITEs of that call so far.
        rings: u64,
    },
    /// The same INVITE by another way: 482.
    Merged {
        /// Call-ID.
        call: String,
        /// Source of the second.
        source: SocketAddr,
    },
    /// 200 sent.
    Answered {
        /// Call-ID.
        call: String,
    },
    /// 3xx-6xx sent.
    Refused {
        /// Call-ID.
        call: String,
        /// Its code.
        code: u16,
    },
    /// ACK to the 200 received.
    Acked {
        /// Call-ID.
        call: String,
    },
    /// None in 32 s; hung up.
    AckMissing {
        /// Call-ID.
        call: String,
    },
    /// CANCEL received; 487 sent.
    Cancelled {
        /// Call-ID.
        call: String,
    },
    /// Re-INVITE answered; `direction` is what the far end offered.
    ReInvite {
        /// Call-ID.
        call: String,
        /// The offer's direction.
        direction: Direction,
        /// Source of the packet.
        source: SocketAddr,
    },
    /// INFO received.
    Info {
        /// Call-ID.
        call: String,
        /// As far as it is text.
        body: String,
    },
    /// BYE received.
    ByeReceived {
        /// Call-ID.
        call: String,
        /// Source of the packet.
        source: SocketAddr,
    },
    /// BYE sent by us.
    HungUp {
        /// Call-ID.
        call: String,
    },
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PsapStats {
    /// Distinct INVITEs that made it ring.
    pub invites: u64,
    /// Requests repeated with the same branch, answered from memory.
    pub retransmissions: u64,
    /// INVITEs answered 482.
    pub merged: u64,
    /// Calls now.
    pub calls: u64,
    /// RTP, of past and present calls.
    pub rtp: RtpStats,
}
