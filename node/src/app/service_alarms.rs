//! Alarms that tell how the node serves: without a quorum, with calls that went on without the store, with more to do than it can.

use std::time::{Duration, Instant};

use sbc_core::io::AlarmKind;

use crate::telemetry::Alarms;

/// An election takes less; a node that starts has no quorum for so long either.
const NO_QUORUM_FOR: Duration = Duration::from_secs(4);
/// After the last degraded call the alarm stands on for so long: an operator should see that there was one.
const DEGRADED_FOR: Duration = Duration::from_secs(60);
/// At this load, in percent, ordinary calls are refused where `shed_at` is not set otherwise.
const OVERLOAD: u8 = 90;
/// And below this one, for [`CALM`], it is over.
const NO_OVERLOAD: u8 = 50;
const CALM: Duration = Duration::from_secs(10);

/// What one look sees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// A quorum has confirmed within the lease.
    pub(super) quorum: bool,
    /// Calls that went on without the store, since the start.
    pub(super) degraded: u64,
    /// How long messages wait, in percent of what is too long.
    pub(super) load: u8,
}

/// What was seen before.
#[derive(Debug, Default)]
pub(super) struct ServiceAlarms {
    lost: Option<Instant>,
    degraded: u64,
    degraded_at: Option<Instant>,
    busy_at: Option<Instant>,
}

impl ServiceAlarms {
    /// Raises and clears.
    pub(super) fn look(&mut self, alarms: &Alarms, now: Instant, seen: Seen) {
        let for_long = |since: &Instant, limit| now.saturating_duration_since(*since) >= limit;
        if seen.quorum {
            self.lost = None;
        }
        let lost = !seen.quorum && for_long(self.lost.get_or_insert(now), NO_QUORUM_FOR);
        let said = "no quorum confirms the log: calls go on without it, and configuration cannot be changed";
        alarms.set(AlarmKind::NoQuorum, lost.then(|| said.to_owned()));

        if seen.degraded > self.degraded {
            (self.degraded, self.degraded_at) = (seen.degraded, Some(now));
        }
        self.degraded_at = self.degraded_at.filter(|at| !for_long(at, DEGRADED_FOR));
        let said = format!("{} calls since the start went on before the log had them", seen.degraded);
        alarms.set(AlarmKind::CallsDegraded, self.degraded_at.map(|_| said));

        let busy = seen.load >= if self.busy_at.is_some() { NO_OVERLOAD } else { OVERLOAD };
        if busy {
            self.busy_at = Some(now);
        }
        self.busy_at = self.busy_at.filter(|at| !for_long(at, CALM));
        let said = format!("messages wait too long (load {} %): ordinary calls are refused", seen.load);
        alarms.set(AlarmKind::Overload, self.busy_at.map(|_| said));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn each_is_raised_when_it_lasts_and_cleared_when_it_is_over() {
        use AlarmKind::{CallsDegraded, NoQuorum, Overload};
        let alarms = Alarms::new(&Metrics::new());
        let (start, mut look) = (Instant::now(), ServiceAlarms::default());
        let mut at = |seconds: u64, quorum, degraded, load| {
            look.look(&alarms, start + Duration::from_secs(seconds), Seen { quorum, degraded, load });
            alarms.active().into_iter().map(|a| a.kind).collect::<Vec<_>>()
        };
        let table: [(u64, bool, u64, u8, &[AlarmKind]); 14] = [
            (0, false, 0, 0, &[]),
            (3, false, 0, 0, &[]),
            (4, false, 0, 0, &[NoQuorum]),
            (5, false, 2, 0, &[CallsDegraded, NoQuorum]),
            (6, true, 2, 89, &[CallsDegraded]),
            (7, false, 2, 0, &[CallsDegraded]),
            (8, true, 2, 90, &[CallsDegraded, Overload]),
            (64, true, 3, 0, &[CallsDegraded]),
            (70, true, 3, 100, &[CallsDegraded, Overload]),
            (79, true, 3, 50, &[CallsDegraded, Overload]),
            (88, true, 3, 49, &[CallsDegraded, Overload]),
            (89, true, 3, 49, &[CallsDegraded]),
            (123, true, 3, 0, &[CallsDegraded]),
            (124, true, 3, 0, &[]),
        ];
        for (second, quorum, degraded, load, wanted) in table {
            assert_eq!(at(second, quorum, degraded, load), wanted, "at {second} s");
        }
    }
}
