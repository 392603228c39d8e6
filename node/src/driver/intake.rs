//! What came in and has not been dealt with: by urgency, and within one by source in turns ([`FairQueue`]).
//!
//! Queues are short. Who is not answered repeats, so a long one would hold copies of what is in it already, and make all of them late.
//! A message keeps its place behind those of its source; one of a connection is never dropped, its connection waits.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sbc_core::ids::FlowId;
use sbc_core::io::DropReason;
use sbc_core::policy::FairQueue;
use sbc_core::sbc::Urgency;

use super::judge::Judge;
use crate::transport::Arrived;

/// A request of which its sender has heard nothing for so long has failed for it (64*T1, RFC 3261 §17.1.1.2).
const OVER: Duration = Duration::from_secs(32);
/// Where the queue stands: what waited longer than this has been repeated by its sender (T1), and the copy waits as well.
const STALE_ORDINARY: Duration = Duration::from_millis(500);
/// The same for an emergency call, after its second repetition: it may be the only copy that got through.
const STALE_EMERGENCY: Duration = Duration::from_secs(2);

/// Datagrams that wait at the most: two seconds of responses at the sizing goal, and a second of calls that begin on a small machine.
const MOST: [usize; QUEUES] = [1024, 1024, 4096, 1024, 1024, 512];
/// One for each [`Urgency`], the most urgent first.
const QUEUES: usize = 6;
/// Of these, what is under way.
const URGENT: usize = 4;

/// What tells the load. What callers send within calls does not: anybody may send ACKs without end, and would have other callers refused.
const JUDGED: [Urgency; 3] = [Urgency::Core, Urgency::Emergency, Urgency::Ordinary];

/// Commands that wait for the log and are no queue: what is under way at once while it keeps up, on a slow disk too.
const FEW_PROPOSALS: usize = 64;

/// The reasons under which what was dropped is counted.
const REASONS: [DropReason; QUEUES] = [
    DropReason::LateEmergencyCall,
    DropReason::LateEmergencyCaller,
    DropReason::LateCore,
    DropReason::LateUnderway,
    DropReason::LateEmergency,
    DropReason::LateOrdinary,
];

/// The queues, most urgent first.
#[derive(Debug)]
pub(super) struct Intake {
    queues: [FairQueue<Arrived>; QUEUES],
    /// Of each queue that says how busy the node is ([`JUDGED`]).
    judges: [Judge; QUEUES],
    /// Of timers: what is late in them is work that nobody got to.
    timers: Judge,
    /// Of what waits for the log: each call has several commands in it, so a log that is late makes every call late.
    log: Judge,
    /// Messages of each connection that wait, and whether it is closed.
    flows: HashMap<FlowId, (u32, bool)>,
    /// Connections that are closed, and of which nothing waits any more.
    closed: Vec<FlowId>,
}

impl Intake {
    pub(super) fn new(now: Instant) -> Intake {
        Intake {
            queues: MOST.map(FairQueue::new),
            judges: std::array::from_fn(|_| Judge::new(now)),
            timers: Judge::new(now),
            log: Judge::of_log(now),
            flows: HashMap::new(),
            closed: Vec::new(),
        }
    }

    /// One more. Returns the reason under which another was dropped for it.
    pub(super) fn push(&mut self, urgency: Urgency, weight: u32, arrived: Arrived) -> Option<DropReason> {
        if let Some(flow) = arrived.path.flow {
            self.flows.entry(flow).or_default().0 += 1;
        }
        let (at, source, lossy) = (place(urgency), arrived.path.remote.ip(), arrived.turn.is_none());
        let dropped = self.queues[at].push(source, weight, lossy, arrived)?;
        self.gone(&dropped);
        Some(REASONS[at])
    }

    /// A connection is gone; [`Intake::closed`] says so when what came on it has been taken.
    pub(super) fn close(&mut self, flow: FlowId) {
        match self.flows.get_mut(&flow) {
            Some((_, closed)) => *closed = true,
            None => self.closed.push(flow),
        }
    }

    /// A connection that is gone, with all that came on it.
    pub(super) fn closed(&mut self) -> Option<FlowId> {
        self.closed.pop()
    }

    /// The next of this urgency; `Err` with the reason: it is too late for it.
    pub(super) fn pop(&mut self, urgency: Urgency, now: Instant) -> Option<Result<Arrived, DropReason>> {
        let at = place(urgency);
        let arrived = self.queues[at].pop()?;
        self.gone(&arrived);
        let waited = now.saturating_duration_since(arrived.at);
        let judge = &mut self.judges[at];
        judge.took(waited);
        let stale = match urgency {
            Urgency::EmergencyCall | Urgency::EmergencyCaller | Urgency::Core | Urgency::Underway => {
                return Some(Ok(arrived));
            }
            Urgency::Emergency => STALE_EMERGENCY,
            Urgency::Ordinary => STALE_ORDINARY,
        };
        let late = waited >= OVER || (waited >= stale && judge.load() >= 100);
        Some(if late && arrived.turn.is_none() { Err(REASONS[at]) } else { Ok(arrived) })
    }

    /// The queues were served for a turn.
    pub(super) fn turned(&mut self) {
        for (queue, judge) in self.queues.iter().zip(&mut self.judges) {
            if queue.is_empty() {
                judge.emptied();
            }
        }
    }

    /// A timer is late by so much; `None`: none is due.
    pub(super) fn timers(&mut self, late: Option<Duration>) {
        match late {
            Some(late) => self.timers.took(late),
            None => self.timers.emptied(),
        }
    }

    /// The log has committed what waited for so long.
    pub(super) fn committed(&mut self, waited: Duration) {
        self.log.took(waited);
    }

    /// So many commands wait for the log.
    pub(super) fn proposed(&mut self, waiting: usize) {
        if waiting < FEW_PROPOSALS {
            self.log.emptied();
        }
    }

    /// The load, when it has been judged again.
    pub(super) fn load(&mut self, now: Instant) -> Option<u8> {
        let mut judged = false;
        let mut load = 0;
        for judge in self.judges.iter_mut().chain([&mut self.timers, &mut self.log]) {
            judged |= judge.at(now).is_some();
        }
        for judge in JUDGED.map(|urgency| &self.judges[place(urgency)]).into_iter().chain([&self.timers, &self.log]) {
            load = load.max(judge.load());
        }
        judged.then_some(load)
    }

    /// True while something that is under way waits.
    pub(super) fn has_urgent(&self) -> bool {
        self.queues[..URGENT].iter().any(|queue| !queue.is_empty())
    }

    /// True while something waits of what the core side says of calls under way.
    pub(super) fn is_behind(&self) -> bool {
        !self.queues[place(Urgency::Core)].is_empty()
    }

    /// True when nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(FairQueue::is_empty) && self.closed.is_empty()
    }

    fn gone(&mut self, arrived: &Arrived) {
        let Some(flow) = arrived.path.flow else { return };
        let Some((waiting, closed)) = self.flows.get_mut(&flow) else { return };
        *waiting -= 1;
        if *waiting == 0 {
            if *closed {
                self.closed.push(flow);
            }
            self.flows.remove(&flow);
        }
    }
}

fn place(urgency: Urgency) -> usize {
    match urgency {
        Urgency::EmergencyCall => 0,
        Urgency::EmergencyCaller => 1,
        Urgency::Core => 2,
        Urgency::Underway => 3,
        Urgency::Emergency => 4,
        Urgency::Ordinary => 5,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sbc_core::io::{AddressRole, DropReason, Path, Transport};

    use super::*;

    fn arrived(source: u8, text: &'static str, at: Instant) -> Arrived {
        let remote = ([198, 51, 100, source], 5060).into();
        let local = ([127, 0, 0, 1], 5060).into();
        let path = Path { role: AddressRole::Anycast, transport: Transport::Udp, local, remote, flow: None };
        Arrived { path, payload: Bytes::from_static(text.as_bytes()), at, turn: None }
    }

    #[test]
    fn the_oldest_of_who_sends_most_is_dropped() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        for n in 0..512 {
            assert_eq!(intake.push(Urgency::Ordinary, 1, arrived(if n < 500 { 1 } else { 2 }, "x", now)), None);
        }
        assert_eq!(intake.push(Urgency::Ordinary, 1, arrived(3, "caller", now)), Some(DropReason::LateOrdinary));
        assert_eq!(intake.push(Urgency::Emergency, 1, arrived(1, "other queue", now)), None);
        let sources = std::iter::from_fn(|| intake.pop(Urgency::Ordinary, now)).map(|m| m.expect("new").path.remote.ip());
        let sources: Vec<_> = sources.collect();
        let of = |n: u8| sources.iter().filter(|ip| **ip == std::net::IpAddr::from([198, 51, 100, n])).count();
        assert_eq!([of(1), of(2), of(3)], [499, 12, 1]);
        assert!(!intake.is_empty() && !intake.has_urgent());
    }

    #[test]
    fn what_is_old_is_dropped_where_the_queue_stands_and_what_is_over_always() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        for (standing, waited, urgency, kept) in [
            (false, 900, Urgency::Ordinary, true),
            (true, 900, Urgency::Ordinary, false),
            (true, 400, Urgency::Ordinary, true),
            (true, 900, Urgency::Emergency, true),
            (true, 2100, Urgency::Emergency, false),
            (false, 10_000, Urgency::Emergency, true),
            (false, 32_000, Urgency::Emergency, false),
            (true, 60_000, Urgency::Core, true),
            (true, 60_000, Urgency::Underway, true),
        ] {
            let mut intake = Intake::new(start);
            let mut now = start;
            for _ in 0..10 {
                now += ms(100);
                intake.timers(None);
                if !standing {
                    intake.turned();
                }
                let load = intake.load(now).expect("an interval is over");
                assert!(load < 100 || standing);
            }
            let now = start + ms(100_000);
            intake.push(urgency, 1, arrived(1, "x", now - ms(waited)));
            assert_eq!(intake.pop(urgency, now).expect("it is there").is_ok(), kept, "{urgency:?} after {waited} ms, {standing}");
        }
    }

    #[test]
    fn a_log_that_is_late_under_many_commands_is_load() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        for (waiting, waited, load) in [(64, 125, 75), (63, 125, 0), (64, 25, 15), (1000, 500, 75)] {
            let mut intake = Intake::new(start);
            for n in 1..=3 {
                if n > 1 {
                    intake.committed(ms(waited));
                    intake.proposed(waiting);
                }
                intake.turned();
                intake.load(start + ms(100) * n);
            }
            assert_eq!(intake.log.load(), load, "{waiting} {waited}");
        }
    }

    /// What the core side says of calls under way tells the load; what callers send within calls does not.
    #[test]
    fn what_is_not_dealt_with_is_load() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let of = |urgency: Option<Urgency>| {
            let (mut intake, mut load) = (Intake::new(start), 0);
            for n in 1..=3 {
                let now = start + ms(100) * n;
                if let Some(urgency) = urgency {
                    intake.push(urgency, 1, arrived(1, "x", now - ms(125)));
                    intake.push(urgency, 1, arrived(1, "y", now - ms(125)));
                    assert!(intake.pop(urgency, now).is_some());
                }
                intake.timers(urgency.is_none().then_some(ms(125)));
                intake.turned();
                load = intake.load(now).expect("an interval is over");
            }
            (load, intake.is_behind(), intake.has_urgent())
        };
        assert_eq!(of(Some(Urgency::EmergencyCall)), (0, false, true));
        assert_eq!(of(Some(Urgency::EmergencyCaller)), (0, false, true));
        assert_eq!(of(Some(Urgency::Underway)), (0, false, true));
        let (load, behind, urgent) = of(Some(Urgency::Core));
        assert!(load > 40 && behind && urgent, "{load}");
        let (load, behind, urgent) = of(None);
        assert!(load > 40 && !behind && !urgent, "timers: {load}");
    }

    #[test]
    fn a_connection_is_closed_behind_what_came_on_it() {
        let now = Instant::now();
        let mut intake = Intake::new(now);
        for (n, text) in ["a", "b"].into_iter().enumerate() {
            let mut message = arrived(1, text, now);
            message.path.flow = Some(FlowId(7));
            intake.push([Urgency::Ordinary, Urgency::Underway][n], 1, message);
        }
        intake.close(FlowId(7));
        intake.close(FlowId(8));
        assert_eq!((intake.closed(), intake.closed()), (Some(FlowId(8)), None), "of that nothing waits");
        assert!(intake.pop(Urgency::Underway, now).is_some());
        assert_eq!(intake.closed(), None);
        assert!(intake.pop(Urgency::Ordinary, now).is_some());
        assert!(!intake.is_empty());
        assert_eq!((intake.closed(), intake.is_empty()), (Some(FlowId(7)), true));
    }
}
