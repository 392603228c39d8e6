//! How much more comes than can be dealt with: judged by how long it waits, as CoDel does (RFC 8289 §3), and not by how busy the node
//! is. A burst waits and is gone; what has not been empty for a whole interval is a standing queue, and makes everybody late.

use std::time::{Duration, Instant};

/// Over how long it is judged: as RFC 8289 §4.3 has it, the time in which a burst must have passed.
const INTERVAL: Duration = Duration::from_millis(100);
/// A wait that means a load of 100 %: a quarter of T1, so that a caller is answered long before its first repetition.
const LATE: Duration = Duration::from_millis(125);

/// Judges one queue.
#[derive(Debug)]
pub(super) struct Judge {
    began: Instant,
    /// It was empty, or nothing of it waited for long, at some time of this interval.
    emptied: bool,
    waited: Duration,
    taken: u32,
    /// What a queue is that stands while nothing is taken: 1 where it is ours to take, 0 where it is another's, which may have failed.
    stuck: f64,
    load: u8,
}

impl Judge {
    /// Of a queue that this node serves.
    pub(super) fn new(now: Instant) -> Judge {
        Judge { began: now, emptied: true, waited: Duration::ZERO, taken: 0, stuck: 1.0, load: 0 }
    }

    /// Of what the cluster's log is to decide: without a quorum it decides nothing, and that is no load.
    pub(super) fn of_log(now: Instant) -> Judge {
        Judge { stuck: 0.0, ..Judge::new(now) }
    }

    /// Something was taken out that had waited so long.
    pub(super) fn took(&mut self, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
        self.taken = self.taken.saturating_add(1);
    }

    /// Nothing is left in it.
    pub(super) fn emptied(&mut self) {
        self.emptied = true;
    }

    /// At the end of an interval: the load in percent, half of it what it was before.
    pub(super) fn at(&mut self, now: Instant) -> Option<u8> {
        if now.saturating_duration_since(self.began) < INTERVAL {
            return None;
        }
        let late = match (self.emptied, self.taken) {
            (true, _) => 0.0,
            (false, 0) => self.stuck,
            (false, taken) => (self.waited.as_secs_f64() / f64::from(taken) / LATE.as_secs_f64()).min(1.0),
        };
        (self.began, self.emptied, self.waited, self.taken) = (now, false, Duration::ZERO, 0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 100")]
        let percent = (late * 100.0).round() as u8;
        self.load = u8::try_from((u16::from(self.load) + u16::from(percent)).div_ceil(2)).unwrap_or(100);
        Some(self.load)
    }

    /// The load as it was last judged.
    pub(super) fn load(&self) -> u8 {
        self.load
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The load after each of some intervals: whether it was empty, and what those that were taken had waited, in ms.
    fn loads(intervals: &[(bool, &[u64])]) -> Vec<u8> {
        let mut now = Instant::now();
        let mut judge = Judge::new(now);
        judge.emptied = false;
        let mut all = Vec::new();
        for (emptied, waited) in intervals {
            for ms in *waited {
                judge.took(Duration::from_millis(*ms));
            }
            if *emptied {
                judge.emptied();
            }
            now += Duration::from_millis(50);
            assert_eq!(judge.at(now), None, "in the middle");
            now += Duration::from_millis(50);
            all.extend(judge.at(now));
        }
        all
    }

    #[test]
    fn a_queue_that_stands_is_load_and_a_burst_is_not() {
        assert_eq!(loads(&[(true, &[]), (true, &[1, 2])]), [0, 0]);
        assert_eq!(loads(&[(true, &[900, 900, 900])]), [0], "a pause, after which all was dealt with");
        assert_eq!(loads(&[(false, &[125, 125]), (false, &[200]), (false, &[300]), (true, &[1])]), [50, 75, 88, 44]);
        assert_eq!(loads(&[(false, &[50, 0]), (false, &[25])]), [10, 15], "it stands, but nobody waits for long");
        assert_eq!(loads(&[(false, &[])]), [50], "nobody got to it");
        let start = Instant::now();
        let mut log = Judge::of_log(start);
        assert_eq!(log.at(start + INTERVAL), Some(0));
        assert_eq!(log.at(start + INTERVAL * 2), Some(0), "it decides nothing");
        log.took(LATE);
        assert_eq!(log.at(start + INTERVAL * 3), Some(50));
    }
}
