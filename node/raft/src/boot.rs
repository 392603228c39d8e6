//! The clock of leases: one that counts the time in which the machine was suspended (CLOCK_BOOTTIME). By CLOCK_MONOTONIC, which
//! `std::time::Instant` is, a machine that slept for an hour would wake with the lease that it fell asleep with.

use std::ops::{Add, Sub};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// A moment since this machine was started, suspends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is negative: the clock began at 0.
        let (s, ns) = (u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0));
        BootTime(Duration::new(s, ns))
    }

    /// Time since `earlier`; zero when that is later.
    pub fn since(self, earlier: BootTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for BootTime {
    type Output = BootTime;
    fn add(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for BootTime {
    type Output = BootTime;
    /// No earlier than the start of the machine.
    fn sub(self, time: Duration) -> BootTime {
        BootTime(self.0.saturating_sub(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_and_is_no_earlier_than_the_monotonic_clock() {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let first = BootTime::now();
        assert!(first.0.as_secs() >= u64::try_from(monotonic.tv_sec).unwrap(), "it counts what the other leaves out");
        assert!(BootTime::now() >= first);
        assert_eq!((first + Duration::from_secs(2)).since(first), Duration::from_secs(2));
        assert_eq!((first - Duration::from_secs(1)).since(first), Duration::ZERO);
    }
}
