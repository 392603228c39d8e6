//! How busy the SIP loop is: what ordinary calls are refused by when it is more than it can do (AC-44).

use std::time::{Duration, Instant};

/// Over how long it is measured: long enough that one burst is no overload, short enough to meet one within a retransmission or two.
const WINDOW: Duration = Duration::from_millis(500);

/// Measures; the loop tells it when it begins to wait and when it goes on.
#[derive(Debug)]
pub(super) struct LoadMeter {
    began: Instant,
    busy: Duration,
    woke: Instant,
    load: u8,
}

impl LoadMeter {
    pub(super) fn new(now: Instant) -> LoadMeter {
        LoadMeter { began: now, busy: Duration::ZERO, woke: now, load: 0 }
    }

    /// The loop has something to do.
    pub(super) fn wakes(&mut self, now: Instant) {
        self.woke = now;
    }

    /// The loop has done it. `waiting`: how full its fullest queue is, 0 to 1. At the end of a window: the load in percent, half of it
    /// what it was before.
    pub(super) fn rests(&mut self, now: Instant, waiting: f32) -> Option<u8> {
        self.busy += now.saturating_duration_since(self.woke);
        let window = now.saturating_duration_since(self.began);
        if window < WINDOW {
            return None;
        }
        let share = (self.busy.as_secs_f32() / window.as_secs_f32()).max(waiting).clamp(0.0, 1.0);
        (self.began, self.busy) = (now, Duration::ZERO);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 100")]
        let percent = (share * 100.0).round() as u8;
        self.load = u8::try_from((u16::from(self.load) + u16::from(percent)).div_ceil(2)).unwrap_or(100);
        Some(self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The load after each of some windows, busy for so many of their 500 ms.
    fn loads(busy_ms: &[u64], waiting: f32) -> Vec<u8> {
        let mut now = Instant::now();
        let mut meter = LoadMeter::new(now);
        let mut all = Vec::new();
        for busy in busy_ms {
            now += Duration::from_millis(500 - busy);
            meter.wakes(now);
            now += Duration::from_millis(*busy);
            all.extend(meter.rests(now, waiting));
        }
        all
    }

    #[test]
    fn busy_time_and_full_queues_are_load() {
        assert_eq!(loads(&[0, 0], 0.0), [0, 0]);
        assert_eq!(loads(&[500, 500, 500, 0, 0], 0.0), [50, 75, 88, 44, 22]);
        assert_eq!(loads(&[100, 100], 0.9), [45, 68], "what waits counts too");
        let mut meter = LoadMeter::new(Instant::now());
        assert_eq!(meter.rests(meter.began + Duration::from_millis(499), 1.0), None);
    }
}
