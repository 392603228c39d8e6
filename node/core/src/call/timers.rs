//! The timers that run: those of emergency calls, and the node's own, in a lane apart, so that in a flood of ordinary calls an emergency call
//! does not wait for the end of its claim's budget behind thousands of theirs.

use std::collections::HashSet;

use super::timer::TimerUser;
use crate::ids::LocalId;
use crate::time::Instant;
use crate::timer::{TimerId, TimerWheel};

/// All timers of calls and of the core itself.
pub struct Timers {
    /// What is urgent, and ordinary calls.
    lanes: [TimerWheel<TimerUser>; 2],
    /// This node's emergency calls.
    emergency: HashSet<LocalId>,
}

/// Which timers to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Those of emergency calls, and of no call.
    Urgent,
    /// Those of other calls.
    Ordinary,
}

impl Timers {
    /// None. Deadlines before `origin` count as `origin`.
    pub fn new(origin: Instant) -> Timers {
        Timers { lanes: [TimerWheel::new(origin), TimerWheel::new(origin)], emergency: HashSet::new() }
    }

    /// What this emergency call will wait for is urgent.
    pub fn add_emergency(&mut self, call: LocalId) {
        self.emergency.insert(call);
    }

    /// A call is over; nothing that it waits for is urgent any more.
    pub fn remove_call(&mut self, call: LocalId) {
        self.emergency.remove(&call);
    }

    /// Sets a timer.
    pub fn insert(&mut self, deadline: Instant, timer: TimerUser) -> TimerId {
        let ordinary = matches!(timer, TimerUser::Call(call, _) if !self.emergency.contains(&call));
        let lane = usize::from(ordinary);
        self.lanes[lane].insert(deadline, timer).in_lane(lane)
    }

    /// Takes a timer back, if it has not fired.
    pub fn cancel(&mut self, id: TimerId) {
        let (lane, id) = id.lane();
        self.lanes[lane].cancel(id);
    }

    /// The next one of a lane that is due at `now`.
    pub fn pop_expired(&mut self, lane: Lane, now: Instant) -> Option<TimerUser> {
        self.lanes[match lane {
            Lane::Urgent => 0,
            Lane::Ordinary => 1,
        }]
        .pop_expired(now)
    }

    /// When the next one is due, at the earliest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(TimerWheel::next_deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::super::timer::CallTimer;
    use super::*;

    #[test]
    fn emergency_calls_do_not_wait_behind_others() {
        let at = Instant::from_micros;
        let mut timers = Timers::new(at(0));
        timers.add_emergency(LocalId(2));
        let of = |call| TimerUser::Call(LocalId(call), CallTimer::ClaimBudget);
        let ids: Vec<TimerId> = [1, 2, 3].map(|call| timers.insert(at(1000 * call), of(call))).to_vec();
        timers.insert(at(4000), TimerUser::Crowd);
        assert_eq!(timers.next_deadline(), Some(at(1000)));
        timers.cancel(ids[2]);
        timers.cancel(ids[2]);
        let all =
            |timers: &mut Timers, lane| -> Vec<TimerUser> { std::iter::from_fn(|| timers.pop_expired(lane, at(9000))).collect() };
        assert_eq!(all(&mut timers, Lane::Urgent), [of(2), TimerUser::Crowd]);
        assert_eq!(all(&mut timers, Lane::Ordinary), [of(1)]);
        timers.remove_call(LocalId(2));
        timers.insert(at(10_000), of(2));
        assert_eq!(timers.pop_expired(Lane::Urgent, at(20_000)), None);
        assert_eq!(timers.pop_expired(Lane::Ordinary, at(20_000)), Some(of(2)));
    }
}
