//! How far the wall clock of a peer is from ours: records of both are put side by side, and a clock that is wrong makes them wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A longer way to the peer and back says too little.
const LONGEST_WAY: Duration = Duration::from_millis(500);
/// Nothing has been measured.
const UNKNOWN: i64 = i64::MAX;

/// This node's wall clock, milliseconds since the Unix epoch.
pub(super) fn wall_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What was measured last, milliseconds: above 0 where the peer's clock is ahead.
#[derive(Debug)]
pub(super) struct Skew(AtomicI64);

impl Default for Skew {
    fn default() -> Skew {
        Skew(AtomicI64::new(UNKNOWN))
    }
}

impl Skew {
    /// The peer said its clock in answer to a question of `way` ago; `here`: our clock now.
    pub(super) fn measure(&self, way: Duration, there: u64, here: u64) {
        if way > LONGEST_WAY || there == 0 {
            return;
        }
        let half = u64::try_from(way.as_millis() / 2).unwrap_or(0);
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        self.0.store(signed(there).saturating_sub(signed(here.saturating_sub(half))), Ordering::Relaxed);
    }

    /// `None`: nothing is known.
    pub(super) fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|ms| *ms != UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_way_is_taken_off_and_long_ways_say_nothing() {
        let (skew, ms) = (Skew::default(), Duration::from_millis);
        assert_eq!(skew.get(), None);
        skew.measure(ms(40), 0, 10_000);
        skew.measure(ms(600), 99_000, 10_000);
        assert_eq!(skew.get(), None, "a version that does not say, and a long way");
        skew.measure(ms(40), 10_000, 10_020);
        assert_eq!(skew.get(), Some(0));
        skew.measure(ms(40), 7_000, 10_020);
        assert_eq!(skew.get(), Some(-3_000));
        skew.measure(ms(0), 3_610_000, 10_000);
        assert_eq!(skew.get(), Some(3_600_000));
    }
}
