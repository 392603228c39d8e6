//! The two clocks of the core, and the watchdog's pulse.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sbc_core::time::{Instant, Now, UnixMs};

/// The driver's loop turns at least this often.
pub(super) const BEAT: Duration = Duration::from_millis(500);
/// The core's clock begins here, so that "a lease in the past" has room below it.
const ORIGIN: Duration = Duration::from_secs(3600);

/// Between this process's clocks and the core's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Default for Clock {
    fn default() -> Clock {
        Clock { start: std::time::Instant::now() }
    }
}

impl Clock {
    /// Both clocks, now.
    pub fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: self.from_std(std::time::Instant::now()), unix: UnixMs(u64::try_from(unix.as_millis()).unwrap_or(0)) }
    }

    /// A moment of this process on the core's clock.
    pub fn from_std(&self, at: std::time::Instant) -> Instant {
        let since = match at.checked_duration_since(self.start) {
            Some(after) => ORIGIN + after,
            None => ORIGIN.saturating_sub(self.start.duration_since(at)),
        };
        Instant::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    /// A moment of the core's clock for tokio.
    pub(super) fn to_tokio(self, at: Instant) -> tokio::time::Instant {
        let since = Duration::from_micros(at.as_micros()).saturating_sub(ORIGIN);
        tokio::time::Instant::from_std(self.start + since)
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
        let at = std::time::Instant::now() + Duration::from_millis(1500);
        assert_eq!(clock.to_tokio(clock.from_std(at)).into_std().duration_since(at).as_millis(), 0);
        let before = clock.start.checked_sub(Duration::from_secs(1)).expect("an hour of room");
        assert!(clock.from_std(before) < clock.from_std(clock.start));
    }
}
