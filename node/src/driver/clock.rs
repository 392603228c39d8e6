//! The two clocks of the core, and the watchdog's pulse.
//!
//! The core's monotonic clock counts the time in which the machine was suspended, for leases and for the length of calls: what std and tokio
//! have does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sbc_core::time::{Instant, Now, UnixMs};
use sbc_raft::BootTime;

/// The driver's loop turns at least this often.
pub(super) const BEAT: Duration = Duration::from_millis(500);
/// The core's clock begins here, so that "a lease in the past" has room below it.
const ORIGIN: Duration = Duration::from_secs(3600);

/// Between this process's clocks and the core's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: BootTime,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { start: BootTime::now() }
    }
}

impl Clock {
    /// Both clocks, now.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.from_boot(BootTime::now()), unix: UnixMs(u64::try_from(unix.as_millis()).unwrap_or(0)) }
    }

    /// A moment on the core's clock.
    pub fn from_boot(&self, at: BootTime) -> Instant {
        let since = (ORIGIN + at.since(self.start)).saturating_sub(self.start.since(at));
        Instant::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// A moment of this process that has just passed, on the core's clock.
    pub(super) fn of_std(self, at: std::time::Instant) -> Instant {
        self.from_boot(BootTime::now()) - at.elapsed()
    }

    /// A moment of the core's clock for tokio.
    pub(super) fn to_tokio(self, at: Instant) -> tokio::time::Instant {
        tokio::time::Instant::now() + at.since(self.from_boot(BootTime::now()))
    }
}

/// Shows that the driver's loop takes its turns.
#[derive(Debug)]
pub(super) struct Pulse {
    start: std::time::Instant,
    last_ms: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { start: std::time::Instant::now(), last_ms: AtomicU64::new(0) }
    }
}

impl Pulse {
    pub(super) fn beat(&self) {
        self.last_ms.store(self.elapsed(), Ordering::Relaxed);
    }

    /// How long ago the loop last turned.
    pub(super) fn age(&self) -> Duration {
        Duration::from_millis(self.elapsed().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_agree() {
        let clock = Clock::default();
        let near = |a: Duration, b: Duration| a.abs_diff(b) < Duration::from_millis(500);
        let now = clock.now().mono;
        let due = clock.to_tokio(now + Duration::from_millis(90_000)).into_std();
        assert!(near(due.saturating_duration_since(std::time::Instant::now()), Duration::from_millis(90_000)));
        let passed = std::time::Instant::now().checked_sub(Duration::from_millis(900)).expect("the machine has run for so long");
        assert!(near(clock.now().mono.since(clock.of_std(passed)), Duration::from_millis(900)));
        let start = clock.from_boot(clock.start);
        assert_eq!((start + Duration::from_secs(2)), clock.from_boot(clock.start + Duration::from_secs(2)));
        assert_eq!((start - Duration::from_secs(1)), clock.from_boot(clock.start - Duration::from_secs(1)));
    }
}
