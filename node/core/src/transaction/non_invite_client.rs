//! Non-INVITE client transaction: RFC 3261 §17.1.2.
//!
//! RFC 4321 shows that a final response later than timer F finds nobody: a TU does not turn the timeout of this machine
//! into a 408 for somebody else's non-INVITE (RFC 4320 §4.2; `non_invite_server::permitted` would drop it).

use super::action::{Action::*, Actions};
use super::timing::{T1, T1_64, T2, T4, Timer, doubled_to_t2};

/// RFC 3261 figure 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No response yet.
    Trying {
        /// How often timer E has fired.
        repeats: u8,
    },
    /// A 1xx came.
    Proceeding,
    /// The final response came.
    Completed,
    /// Gone.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A 1xx.
    Provisional,
    /// A 2xx-6xx.
    Final,
    /// Time to repeat the request.
    TimerE,
    /// No final response.
    TimerF,
    /// Retransmitted final responses have ceased.
    TimerK,
    /// The request could not be sent.
    TransportError,
}

impl Event {
    /// The event of a timer; `None`: not one of this machine's.
    pub fn of_timer(timer: Timer) -> Option<Event> {
        Some(match timer {
            Timer::E => Event::TimerE,
            Timer::F => Event::TimerF,
            Timer::K => Event::TimerK,
            _ => return None,
        })
    }
}

/// The TU sends a request.
pub fn start(reliable: bool) -> (State, Actions) {
    let actions = Actions::from([SendLast, StartTimer(Timer::F, T1_64)]);
    (State::Trying { repeats: 0 }, actions.and_if(!reliable, StartTimer(Timer::E, T1)))
}

/// One step. `reliable`: the request goes over TCP or TLS.
pub fn on(state: State, event: Event, reliable: bool) -> (State, Actions) {
    use State::{Completed, Proceeding, Terminated, Trying};
    match (state, event) {
        // Timer E goes on as it was set, and is T2 from its next firing.
        (Trying { .. } | Proceeding, Event::Provisional) => (Proceeding, [PassUp].into()),
        // Timer K is zero on reliable transports: Completed ends as it begins.
        (Trying { .. } | Proceeding, Event::Final) if reliable => (Terminated, [PassUp, Terminate].into()),
        (Trying { .. } | Proceeding, Event::Final) => {
            (Completed, [StopTimer(Timer::E), StopTimer(Timer::F), StartTimer(Timer::K, T4), PassUp].into())
        }
        (Trying { repeats }, Event::TimerE) => {
            let repeats = repeats.saturating_add(1);
            (Trying { repeats }, [SendLast, StartTimer(Timer::E, doubled_to_t2(repeats))].into())
        }
        (Proceeding, Event::TimerE) => (state, [SendLast, StartTimer(Timer::E, T2)].into()),
        (Trying { .. } | Proceeding, Event::TimerF) => (Terminated, [InformTimeout, Terminate].into()),
        (Trying { .. } | Proceeding, Event::TransportError) => (Terminated, [InformTransportError, Terminate].into()),
        (Completed, Event::TimerK) => (Terminated, [Terminate].into()),
        _ => (state, Actions::NONE),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::action::Action;
    use super::super::test_table::{Row, by_transport, check, ignored, same};
    use super::{Event as E, State as S, *};

    const STATES: [S; 6] = [
        S::Trying { repeats: 0 },
        S::Trying { repeats: 2 },
        S::Trying { repeats: u8::MAX },
        S::Proceeding,
        S::Completed,
        S::Terminated,
    ];
    const EVENTS: [E; 6] = [E::Provisional, E::Final, E::TimerE, E::TimerF, E::TimerK, E::TransportError];

    fn waiting(s: S, after: S, e: Duration) -> Vec<Row<S, E>> {
        let k: [Action; 4] = [StopTimer(Timer::E), StopTimer(Timer::F), StartTimer(Timer::K, Duration::from_secs(5)), PassUp];
        vec![
            same(s, E::Provisional, S::Proceeding, &[PassUp]),
            by_transport(s, E::Final, (S::Completed, &k), (S::Terminated, &[PassUp, Terminate])),
            same(s, E::TimerE, after, &[SendLast, StartTimer(Timer::E, e)]),
            same(s, E::TimerF, S::Terminated, &[InformTimeout, Terminate]),
            same(s, E::TimerK, s, &[]),
            same(s, E::TransportError, S::Terminated, &[InformTransportError, Terminate]),
        ]
    }

    #[test]
    fn every_state_and_event() {
        let secs = Duration::from_secs;
        let mut rows = waiting(S::Trying { repeats: 0 }, S::Trying { repeats: 1 }, secs(1));
        rows.extend(waiting(S::Trying { repeats: 2 }, S::Trying { repeats: 3 }, secs(4)));
        rows.extend(waiting(S::Trying { repeats: u8::MAX }, S::Trying { repeats: u8::MAX }, secs(4)));
        rows.extend(waiting(S::Proceeding, S::Proceeding, secs(4)));
        rows.push(same(S::Completed, E::TimerK, S::Terminated, &[Terminate]));
        rows.extend(ignored(S::Completed, &[E::Provisional, E::Final, E::TimerE, E::TimerF, E::TransportError]));
        rows.extend(ignored(S::Terminated, &EVENTS));
        check(&STATES, &EVENTS, rows, on);
    }

    #[test]
    fn start_sends_and_times() {
        let (f, e) = (StartTimer(Timer::F, Duration::from_secs(32)), StartTimer(Timer::E, Duration::from_millis(500)));
        assert_eq!(start(false), (S::Trying { repeats: 0 }, [SendLast, f, e].into()));
        assert_eq!(start(true), (S::Trying { repeats: 0 }, [SendLast, f].into()));
    }
}
