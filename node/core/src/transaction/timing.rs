//! The timers of RFC 3261 §17 (table 4) and RFC 6026, and their values.

use std::time::Duration;

/// Round-trip time estimate.
pub const T1: Duration = Duration::from_millis(500);
/// Longest interval between retransmissions of a non-INVITE request or a response to INVITE.
pub const T2: Duration = Duration::from_secs(4);
/// Longest time that a message stays in the network.
pub const T4: Duration = Duration::from_secs(5);
/// 64 × T1: how long an exchange may take (timers B, F, H, J, L, M).
pub const T1_64: Duration = Duration::from_secs(32);
/// Timer D on unreliable transports: at least 32 s.
pub const TIMER_D: Duration = Duration::from_secs(32);
/// How long an INVITE transaction stays in Proceeding without another word: from the far end (client) or from the TU
/// (server). RFC 3261 sets no limit there, and leaves it to timer C (§16.6) and Expires; callers wait in a PSAP's queue for
/// minutes, and a provisional response comes each minute (§13.3.1.1). An hour of silence means that somebody forgot it.
pub const PROCEEDING_LIMIT: Duration = Duration::from_secs(3600);
/// RFC 4320 §4.1: no 100 to a non-INVITE over UDP before the client's timer E is reset to T2 (500 + 1000 + 2000 ms), and by any transport one
/// then, if there was no other response.
pub const NON_INVITE_TRYING_AFTER: Duration = Duration::from_millis(3500);

/// Which timer. A transaction has at most one that sends a message (A, E, G, Trying) and one that ends a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// INVITE retransmission, UDP only.
    A,
    /// INVITE client: no response at all.
    B,
    /// INVITE client: absorbs retransmitted non-2xx finals.
    D,
    /// Non-INVITE retransmission, UDP only.
    E,
    /// Non-INVITE client: no final response.
    F,
    /// Retransmission of a non-2xx final to INVITE, UDP only.
    G,
    /// INVITE server: no ACK.
    H,
    /// INVITE server: absorbs retransmitted ACKs.
    I,
    /// Non-INVITE server: absorbs retransmitted requests.
    J,
    /// Non-INVITE client: absorbs retransmitted responses.
    K,
    /// INVITE server in Accepted (RFC 6026).
    L,
    /// INVITE client in Accepted (RFC 6026).
    M,
    /// Non-INVITE server: the TU has not answered for a while (RFC 4320 §4.1).
    Trying,
    /// Ours: a state that would wait without limit for the TU or the far end ends all the same.
    Guard,
}

impl Timer {
    /// True for the timers that send a message while a state lasts, and do not end it.
    pub fn repeats(self) -> bool {
        matches!(self, Timer::A | Timer::E | Timer::G | Timer::Trying)
    }
}

/// T1 × 2^n, for timer A (RFC 3261 §17.1.1.2). `n` above 6 counts as 6: timer B has fired by then.
pub(super) fn doubled(n: u8) -> Duration {
    T1 * (1 << n.min(6))
}

/// MIN(T1 × 2^n, T2), for timers E and G (RFC 3261 §17.1.2.2, §17.2.1).
pub(super) fn doubled_to_t2(n: u8) -> Duration {
    doubled(n).min(T2)
}
