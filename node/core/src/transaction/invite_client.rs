//! INVITE client transaction: RFC 3261 §17.1.1 with the Accepted state of RFC 6026 §7.2.
//!
//! The ACK to a 2xx is the TU's work; the ACK to a 3xx-6xx is built by the TU once and kept and repeated here.

use std::time::Duration;

use super::action::{Action::*, Actions};
use super::timing::{PROCEEDING_LIMIT, T1, T1_64, TIMER_D, Timer, doubled};

/// RFC 6026 figure 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No response yet.
    Calling {
        /// How often timer A has fired.
        repeats: u8,
    },
    /// A 1xx came.
    Proceeding,
    /// A 2xx came.
    Accepted,
    /// A 3xx-6xx came.
    Completed,
    /// Gone.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A 1xx.
    Provisional,
    /// A 2xx.
    Success,
    /// A 3xx-6xx.
    Failure,
    /// Time to repeat the INVITE.
    TimerA,
    /// No response.
    TimerB,
    /// Retransmitted final responses have ceased.
    TimerD,
    /// 2xx have ceased.
    TimerM,
    /// Nothing heard for [`PROCEEDING_LIMIT`] after a 1xx.
    Guard,
    /// INVITE or ACK could not be sent.
    TransportError,
}

impl Event {
    /// The event of a timer; `None`: not one of this machine's.
    pub fn of_timer(timer: Timer) -> Option<Event> {
        Some(match timer {
            Timer::A => Event::TimerA,
            Timer::B => Event::TimerB,
            Timer::D => Event::TimerD,
            Timer::M => Event::TimerM,
            Timer::Guard => Event::Guard,
            _ => return None,
        })
    }
}

/// The TU sends an INVITE.
pub fn start(reliable: bool) -> (State, Actions) {
    let actions = Actions::from([SendLast, StartTimer(Timer::B, T1_64)]);
    (State::Calling { repeats: 0 }, actions.and_if(!reliable, StartTimer(Timer::A, T1)))
}

/// One step. `reliable`: the INVITE goes over TCP or TLS.
pub fn on(state: State, event: Event, reliable: bool) -> (State, Actions) {
    match (state, event) {
        (State::Calling { repeats }, Event::TimerA) => {
            let repeats = repeats.saturating_add(1);
            (State::Calling { repeats }, [SendLast, StartTimer(Timer::A, doubled(repeats))].into())
        }
        (State::Calling { .. }, Event::TimerB) | (State::Proceeding, Event::Guard) => {
            (State::Terminated, [InformTimeout, Terminate].into())
        }
        // §17.1.4. In Completed it is the ACK that failed. In Proceeding and Accepted nothing is sent: a late report.
        (State::Calling { .. } | State::Completed, Event::TransportError) => {
            (State::Terminated, [InformTransportError, Terminate].into())
        }
        (State::Calling { .. }, Event::Provisional) => {
            let guard = StartTimer(Timer::Guard, PROCEEDING_LIMIT);
            (State::Proceeding, [StopTimer(Timer::A), StopTimer(Timer::B), guard, PassUp].into())
        }
        (State::Proceeding, Event::Provisional) => (state, [StartTimer(Timer::Guard, PROCEEDING_LIMIT), PassUp].into()),
        (State::Calling { .. }, Event::Success) => {
            (State::Accepted, [StopTimer(Timer::A), StopTimer(Timer::B), StartTimer(Timer::M, T1_64), PassUp].into())
        }
        (State::Proceeding, Event::Success) => {
            (State::Accepted, [StopTimer(Timer::Guard), StartTimer(Timer::M, T1_64), PassUp].into())
        }
        (State::Calling { .. }, Event::Failure) => {
            let d = StartTimer(Timer::D, timer_d(reliable));
            (State::Completed, [StopTimer(Timer::A), StopTimer(Timer::B), d, SendAck, PassUp].into())
        }
        (State::Proceeding, Event::Failure) => {
            (State::Completed, [StopTimer(Timer::Guard), StartTimer(Timer::D, timer_d(reliable)), SendAck, PassUp].into())
        }
        // RFC 6026 §7.2: each 2xx passes, those of other branches of a fork and the repeated ones.
        (State::Accepted, Event::Success) => (state, [PassUp].into()),
        (State::Completed, Event::Failure) => (state, [SendAck].into()),
        (State::Accepted, Event::TimerM) | (State::Completed, Event::TimerD) => (State::Terminated, [Terminate].into()),
        _ => (state, Actions::NONE),
    }
}

/// Zero on reliable transports, but a timer all the same: the TU hands in the ACK after this step and before the next.
fn timer_d(reliable: bool) -> Duration {
    if reliable { Duration::ZERO } else { TIMER_D }
}

#[cfg(test)]
mod tests {
    use super::super::test_table::{Row, by_transport, check, ignored, same};
    use super::{Event as E, State as S, *};

    const STATES: [S; 7] = [
        S::Calling { repeats: 0 },
        S::Calling { repeats: 4 },
        S::Calling { repeats: u8::MAX },
        S::Proceeding,
        S::Accepted,
        S::Completed,
        S::Terminated,
    ];
    const EVENTS: [E; 9] =
        [E::Provisional, E::Success, E::Failure, E::TimerA, E::TimerB, E::TimerD, E::TimerM, E::Guard, E::TransportError];
    const HOUR: super::super::action::Action = StartTimer(Timer::Guard, Duration::from_secs(3600));
    const M: super::super::action::Action = StartTimer(Timer::M, Duration::from_secs(32));
    const D_UDP: super::super::action::Action = StartTimer(Timer::D, Duration::from_secs(32));
    const D_TCP: super::super::action::Action = StartTimer(Timer::D, Duration::ZERO);

    fn calling(repeats: u8, after: u8, a: Duration) -> Vec<Row<S, E>> {
        let s = S::Calling { repeats };
        let (stop_a, stop_b) = (StopTimer(Timer::A), StopTimer(Timer::B));
        let failure = |d| [stop_a, stop_b, d, SendAck, PassUp];
        let mut rows = vec![
            same(s, E::Provisional, S::Proceeding, &[stop_a, stop_b, HOUR, PassUp]),
            same(s, E::Success, S::Accepted, &[stop_a, stop_b, M, PassUp]),
            by_transport(s, E::Failure, (S::Completed, &failure(D_UDP)), (S::Completed, &failure(D_TCP))),
            same(s, E::TimerA, S::Calling { repeats: after }, &[SendLast, StartTimer(Timer::A, a)]),
            same(s, E::TimerB, S::Terminated, &[InformTimeout, Terminate]),
            same(s, E::TransportError, S::Terminated, &[InformTransportError, Terminate]),
        ];
        rows.extend(ignored(s, &[E::TimerD, E::TimerM, E::Guard]));
        rows
    }

    #[test]
    fn every_state_and_event() {
        let failure = |d| [StopTimer(Timer::Guard), d, SendAck, PassUp];
        let mut rows = vec![
            same(S::Proceeding, E::Provisional, S::Proceeding, &[HOUR, PassUp]),
            same(S::Proceeding, E::Success, S::Accepted, &[StopTimer(Timer::Guard), M, PassUp]),
            by_transport(S::Proceeding, E::Failure, (S::Completed, &failure(D_UDP)), (S::Completed, &failure(D_TCP))),
            same(S::Proceeding, E::Guard, S::Terminated, &[InformTimeout, Terminate]),
            same(S::Accepted, E::Success, S::Accepted, &[PassUp]),
            same(S::Accepted, E::TimerM, S::Terminated, &[Terminate]),
            same(S::Completed, E::Failure, S::Completed, &[SendAck]),
            same(S::Completed, E::TimerD, S::Terminated, &[Terminate]),
            same(S::Completed, E::TransportError, S::Terminated, &[InformTransportError, Terminate]),
        ];
        rows.extend(calling(0, 1, Duration::from_secs(1)));
        rows.extend(calling(4, 5, Duration::from_secs(16)));
        rows.extend(calling(u8::MAX, u8::MAX, Duration::from_secs(32)));
        rows.extend(ignored(S::Proceeding, &[E::TimerA, E::TimerB, E::TimerD, E::TimerM, E::TransportError]));
        let in_accepted = [E::Provisional, E::Failure, E::TimerA, E::TimerB, E::TimerD, E::Guard, E::TransportError];
        rows.extend(ignored(S::Accepted, &in_accepted));
        rows.extend(ignored(S::Completed, &[E::Provisional, E::Success, E::TimerA, E::TimerB, E::TimerM, E::Guard]));
        rows.extend(ignored(S::Terminated, &EVENTS));
        check(&STATES, &EVENTS, rows, on);
    }

    #[test]
    fn start_sends_and_times() {
        let (b, a) = (StartTimer(Timer::B, Duration::from_secs(32)), StartTimer(Timer::A, Duration::from_millis(500)));
        assert_eq!(start(false), (S::Calling { repeats: 0 }, [SendLast, b, a].into()));
        assert_eq!(start(true), (S::Calling { repeats: 0 }, [SendLast, b].into()));
    }
}
