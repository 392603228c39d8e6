//! How long a frame has waited on its way: in the sender's queue, in the kernels, in a process that was paused.
//!
//! The clocks of two nodes have nothing in common but their pace. So the sender stamps its own, and the receiver takes the shortest
//! way that it has lately seen as one without waiting: what a frame took longer than that, it has waited (as LEDBAT, RFC 6817 §4.2).

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// How long a shortest way is believed: clocks drift apart, by some milliseconds in this time, and routes change.
const WINDOW: Duration = Duration::from_secs(60);

/// Where this process's stamps begin; above 0, which says nothing.
static ORIGIN: LazyLock<Instant> = LazyLock::new(|| Instant::now() - Duration::from_secs(1));

/// This process's clock, for what it sends.
pub(super) fn sender_us() -> u64 {
    micros(ORIGIN.elapsed())
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The ways of one stream's frames.
#[derive(Debug, Default)]
pub(super) struct OneWay {
    origin: Option<Instant>,
    began: Option<Instant>,
    /// The shortest way of this window and of the one before: receiver's clock less sender's, in microseconds.
    shortest: [Option<i64>; 2],
}

impl OneWay {
    /// What a frame that was stamped with `sent_us` and read at `now` has waited.
    pub(super) fn excess(&mut self, now: Instant, sent_us: u64) -> Duration {
        let origin = *self.origin.get_or_insert(now);
        let (true, Ok(sent)) = (sent_us != 0, i64::try_from(sent_us)) else { return Duration::ZERO };
        let way = i64::try_from(micros(now.duration_since(origin))).unwrap_or(i64::MAX).saturating_sub(sent);
        if now.duration_since(*self.began.get_or_insert(now)) >= WINDOW {
            self.began = Some(now);
            self.shortest = [None, self.shortest[0]];
        }
        self.shortest[0] = Some(self.shortest[0].map_or(way, |shortest| shortest.min(way)));
        let shortest = self.shortest.iter().flatten().min().copied().unwrap_or(way);
        Duration::from_micros(u64::try_from(way.saturating_sub(shortest)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_longer_than_the_shortest_way_has_waited() {
        let start = Instant::now();
        let mut ways = OneWay::default();
        // The sender's clock is an hour ahead of the receiver's, the shortest way takes 2 ms.
        let mut waited = |sent_ms: u64, read_ms: u64| {
            ways.excess(start + Duration::from_millis(read_ms), 3_600_000_000 + sent_ms * 1000).as_millis()
        };
        assert_eq!(waited(0, 5), 0, "the first is the shortest so far");
        assert_eq!(waited(300, 302), 0);
        assert_eq!(waited(600, 605), 3);
        assert_eq!(waited(700, 10_702), 10_000, "the receiver was paused");
        assert_eq!(waited(10_750, 10_752), 0);
        // The receiver's clock loses 10 ms in a minute, two minutes long: the shortest way of long ago is no measure any more.
        assert_eq!(waited(70_000, 69_992), 0);
        assert_eq!(waited(70_100, 70_102), 10);
        assert_eq!(waited(135_000, 135_012), 20, "the window before still counts");
        assert_eq!(waited(200_000, 200_012), 0);
    }

    #[test]
    fn a_sender_that_does_not_say_has_not_waited() {
        let mut ways = OneWay::default();
        let now = Instant::now();
        assert_eq!(ways.excess(now, 0), Duration::ZERO);
        assert_eq!(ways.excess(now + Duration::from_secs(1), sender_us()), Duration::ZERO);
        assert_eq!(ways.excess(now + Duration::from_secs(2), 0), Duration::ZERO);
    }
}
