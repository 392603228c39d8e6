//! Non-INVITE server transaction: RFC 3261 §17.2.2, with what RFC 4320 forbids to send.
//!
//! No transport error event, for the reason given in [`super::invite_server`].

use std::time::Duration;

use super::action::{Action::*, Actions};
use super::timing::{NON_INVITE_TRYING_AFTER, T1_64, Timer};

/// RFC 3261 figure 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No response yet.
    Trying,
    /// A 100 was sent.
    Proceeding,
    /// The final response was sent.
    Completed,
    /// Gone.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The request again.
    Request,
    /// The TU sends a 1xx.
    Provisional,
    /// The TU sends a 2xx-6xx.
    Final,
    /// No response yet, and the client's timer E is at T2: a 100 is due.
    Trying,
    /// Request retransmissions have ceased.
    TimerJ,
    /// The TU gave no final response while the client waited (its timer F): RFC 4320 §4.2 has none sent any more.
    Guard,
}

impl Event {
    /// The event of a timer; `None`: not one of this machine's.
    pub fn of_timer(timer: Timer) -> Option<Event> {
        Some(match timer {
            Timer::Trying => Event::Trying,
            Timer::J => Event::TimerJ,
            Timer::Guard => Event::Guard,
            _ => return None,
        })
    }
}

/// Whether RFC 4320 lets this response go: no 408 (§4.2), of the 1xx only 100, and that over UDP only once the request is
/// [`NON_INVITE_TRYING_AFTER`] old (§4.1), because it would slow the client's retransmissions.
pub fn permitted(status: u16, age: Duration, reliable: bool) -> bool {
    match status {
        100 => reliable || age >= NON_INVITE_TRYING_AFTER,
        101..=199 | 408 => false,
        _ => true,
    }
}

/// The request has come.
pub fn start() -> (State, Actions) {
    (State::Trying, [StartTimer(Timer::Guard, T1_64), StartTimer(Timer::Trying, NON_INVITE_TRYING_AFTER)].into())
}

/// One step. `reliable`: the request came over TCP or TLS.
pub fn on(state: State, event: Event, reliable: bool) -> (State, Actions) {
    match (state, event) {
        (State::Proceeding | State::Completed, Event::Request) => (state, [SendLast].into()),
        (State::Trying, Event::Trying) => (state, [InformTrying].into()),
        (State::Trying, Event::Provisional) => (State::Proceeding, [Send, StopTimer(Timer::Trying)].into()),
        (State::Proceeding, Event::Provisional) => (state, [Send].into()),
        // Timer J is zero on reliable transports: Completed ends as it begins.
        (State::Trying | State::Proceeding, Event::Final) if reliable => (State::Terminated, [Send, Terminate].into()),
        (State::Trying | State::Proceeding, Event::Final) => {
            let j = StartTimer(Timer::J, T1_64);
            (State::Completed, [Send, StopTimer(Timer::Trying), StopTimer(Timer::Guard), j].into())
        }
        (State::Trying | State::Proceeding, Event::Guard) => (State::Terminated, [Terminate].into()),
        (State::Completed, Event::TimerJ) => (State::Terminated, [Terminate].into()),
        _ => (state, Actions::NONE),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_table::{by_transport, check, ignored, same};
    use super::{Event as E, State as S, *};

    const STATES: [S; 4] = [S::Trying, S::Proceeding, S::Completed, S::Terminated];
    const EVENTS: [E; 6] = [E::Request, E::Provisional, E::Final, E::Trying, E::TimerJ, E::Guard];

    #[test]
    fn every_state_and_event() {
        let end_j = StartTimer(Timer::J, Duration::from_secs(32));
        let final_udp = [Send, StopTimer(Timer::Trying), StopTimer(Timer::Guard), end_j];
        let rows = vec![
            same(S::Trying, E::Request, S::Trying, &[]),
            same(S::Trying, E::Provisional, S::Proceeding, &[Send, StopTimer(Timer::Trying)]),
            same(S::Trying, E::Trying, S::Trying, &[InformTrying]),
            by_transport(S::Trying, E::Final, (S::Completed, &final_udp), (S::Terminated, &[Send, Terminate])),
            same(S::Trying, E::TimerJ, S::Trying, &[]),
            same(S::Trying, E::Guard, S::Terminated, &[Terminate]),
            same(S::Proceeding, E::Request, S::Proceeding, &[SendLast]),
            same(S::Proceeding, E::Provisional, S::Proceeding, &[Send]),
            by_transport(S::Proceeding, E::Final, (S::Completed, &final_udp), (S::Terminated, &[Send, Terminate])),
            same(S::Proceeding, E::Trying, S::Proceeding, &[]),
            same(S::Proceeding, E::TimerJ, S::Proceeding, &[]),
            same(S::Proceeding, E::Guard, S::Terminated, &[Terminate]),
            same(S::Completed, E::Request, S::Completed, &[SendLast]),
            same(S::Completed, E::Provisional, S::Completed, &[]),
            same(S::Completed, E::Final, S::Completed, &[]),
            same(S::Completed, E::Trying, S::Completed, &[]),
            same(S::Completed, E::TimerJ, S::Terminated, &[Terminate]),
            same(S::Completed, E::Guard, S::Completed, &[]),
        ];
        let rows = rows.into_iter().chain(ignored(S::Terminated, &EVENTS)).collect();
        check(&STATES, &EVENTS, rows, on);
        let trying = StartTimer(Timer::Trying, Duration::from_millis(3500));
        assert_eq!(start(), (S::Trying, [StartTimer(Timer::Guard, Duration::from_secs(32)), trying].into()));
    }

    #[test]
    fn rfc_4320_responses() {
        let ms = Duration::from_millis;
        for (status, age, reliable, expected) in [
            (100, ms(0), true, true),
            (100, ms(3499), false, false),
            (100, ms(3500), false, true),
            (180, ms(9000), true, false),
            (183, ms(9000), false, false),
            (200, ms(0), false, true),
            (408, ms(31_000), true, false),
            (408, ms(31_000), false, false),
            (481, ms(0), false, true),
        ] {
            assert_eq!(permitted(status, age, reliable), expected, "{status} after {age:?}, reliable {reliable}");
        }
    }
}
