//! INVITE server transaction: RFC 3261 §17.2.1 with the Accepted state of RFC 6026 §7.1.
//!
//! The TU sends 100 itself and at once. 2xx are retransmitted by the TU until their ACK (§13.3.1.4). There is no transport
//! error event: responses are sent untracked, because RFC 6026 (its text for §17.2.4) leaves the transaction in its state then, and the transport
//! has by that time tried the ways of §18.2.2.

use super::action::{Action::*, Actions};
use super::timing::{PROCEEDING_LIMIT, T1, T1_64, T4, Timer, doubled_to_t2};

/// RFC 6026 figure 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No final response yet.
    Proceeding,
    /// A 2xx was sent.
    Accepted,
    /// A 3xx-6xx was sent, its ACK is awaited.
    Completed {
        /// How often timer G has fired.
        repeats: u8,
    },
    /// The ACK came.
    Confirmed,
    /// Gone.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The INVITE again.
    Request,
    /// An ACK with the INVITE's branch.
    Ack,
    /// The TU sends a 1xx.
    Provisional,
    /// The TU sends a 2xx.
    Success,
    /// The TU sends a 3xx-6xx.
    Failure,
    /// Time to repeat the final response.
    TimerG,
    /// No ACK.
    TimerH,
    /// ACK retransmissions have ceased.
    TimerI,
    /// INVITE and 2xx retransmissions have ceased.
    TimerL,
    /// The TU has said nothing for [`PROCEEDING_LIMIT`].
    Guard,
}

impl Event {
    /// The event of a timer; `None`: not one of this machine's.
    pub fn of_timer(timer: Timer) -> Option<Event> {
        Some(match timer {
            Timer::G => Event::TimerG,
            Timer::H => Event::TimerH,
            Timer::I => Event::TimerI,
            Timer::L => Event::TimerL,
            Timer::Guard => Event::Guard,
            _ => return None,
        })
    }
}

/// The INVITE has come.
pub fn start() -> (State, Actions) {
    (State::Proceeding, [StartTimer(Timer::Guard, PROCEEDING_LIMIT)].into())
}

/// One step. `reliable`: the INVITE came over TCP or TLS.
pub fn on(state: State, event: Event, reliable: bool) -> (State, Actions) {
    match (state, event) {
        // "If a request retransmission is received while in the Proceeding state, the most recent provisional response ..."
        (State::Proceeding | State::Completed { .. }, Event::Request) => (state, [SendLast].into()),
        (State::Proceeding, Event::Provisional) => (state, [Send, StartTimer(Timer::Guard, PROCEEDING_LIMIT)].into()),
        (State::Proceeding, Event::Success) => {
            (State::Accepted, [Send, StopTimer(Timer::Guard), StartTimer(Timer::L, T1_64)].into())
        }
        (State::Proceeding, Event::Failure) => {
            let actions = Actions::from([Send, StopTimer(Timer::Guard), StartTimer(Timer::H, T1_64)]);
            (State::Completed { repeats: 0 }, actions.and_if(!reliable, StartTimer(Timer::G, T1)))
        }
        (State::Proceeding, Event::Guard) => (State::Terminated, [Terminate].into()),
        // RFC 6026 §7.1: INVITEs are absorbed, an ACK and further 2xx pass.
        (State::Accepted, Event::Ack) => (state, [PassUp].into()),
        (State::Accepted, Event::Success) => (state, [Send].into()),
        (State::Accepted, Event::TimerL) => (State::Terminated, [Terminate].into()),
        (State::Completed { repeats }, Event::TimerG) => {
            let repeats = repeats.saturating_add(1);
            (State::Completed { repeats }, [SendLast, StartTimer(Timer::G, doubled_to_t2(repeats))].into())
        }
        (State::Completed { .. }, Event::TimerH) => (State::Terminated, [InformTimeout, Terminate].into()),
        // Timer I is zero on reliable transports: Confirmed ends as it begins.
        (State::Completed { .. }, Event::Ack) if reliable => (State::Terminated, [Terminate].into()),
        (State::Completed { .. }, Event::Ack) => {
            (State::Confirmed, [StopTimer(Timer::G), StopTimer(Timer::H), StartTimer(Timer::I, T4)].into())
        }
        (State::Confirmed, Event::TimerI) => (State::Terminated, [Terminate].into()),
        _ => (state, Actions::NONE),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::test_table::{Row, by_transport, check, ignored, same};
    use super::{Event as E, State as S, *};

    const STATES: [S; 7] = [
        S::Proceeding,
        S::Accepted,
        S::Completed { repeats: 0 },
        S::Completed { repeats: 2 },
        S::Completed { repeats: u8::MAX },
        S::Confirmed,
        S::Terminated,
    ];
    const EVENTS: [E; 10] =
        [E::Request, E::Ack, E::Provisional, E::Success, E::Failure, E::TimerG, E::TimerH, E::TimerI, E::TimerL, E::Guard];

    fn completed(repeats: u8, after: u8, g: Duration) -> Vec<Row<S, E>> {
        let s = S::Completed { repeats };
        let confirm = [StopTimer(Timer::G), StopTimer(Timer::H), StartTimer(Timer::I, Duration::from_secs(5))];
        let mut rows = vec![
            same(s, E::Request, s, &[SendLast]),
            by_transport(s, E::Ack, (S::Confirmed, &confirm), (S::Terminated, &[Terminate])),
            same(s, E::TimerG, S::Completed { repeats: after }, &[SendLast, StartTimer(Timer::G, g)]),
            same(s, E::TimerH, S::Terminated, &[InformTimeout, Terminate]),
        ];
        rows.extend(ignored(s, &[E::Provisional, E::Success, E::Failure, E::TimerI, E::TimerL, E::Guard]));
        rows
    }

    #[test]
    fn every_state_and_event() {
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        let hour = StartTimer(Timer::Guard, s(3600));
        let h = [Send, StopTimer(Timer::Guard), StartTimer(Timer::H, s(32))];
        let hg = [h[0], h[1], h[2], StartTimer(Timer::G, ms(500))];
        let done = S::Completed { repeats: 0 };
        let mut rows = vec![
            same(S::Proceeding, E::Request, S::Proceeding, &[SendLast]),
            same(S::Proceeding, E::Provisional, S::Proceeding, &[Send, hour]),
            same(S::Proceeding, E::Success, S::Accepted, &[Send, StopTimer(Timer::Guard), StartTimer(Timer::L, s(32))]),
            by_transport(S::Proceeding, E::Failure, (done, &hg), (done, &h)),
            same(S::Proceeding, E::Guard, S::Terminated, &[Terminate]),
            same(S::Accepted, E::Ack, S::Accepted, &[PassUp]),
            same(S::Accepted, E::Success, S::Accepted, &[Send]),
            same(S::Accepted, E::TimerL, S::Terminated, &[Terminate]),
            same(S::Confirmed, E::TimerI, S::Terminated, &[Terminate]),
        ];
        rows.extend(ignored(S::Proceeding, &[E::Ack, E::TimerG, E::TimerH, E::TimerI, E::TimerL]));
        let in_accepted = [E::Request, E::Provisional, E::Failure, E::TimerG, E::TimerH, E::TimerI, E::Guard];
        rows.extend(ignored(S::Accepted, &in_accepted));
        rows.extend(completed(0, 1, s(1)));
        rows.extend(completed(2, 3, s(4)));
        rows.extend(completed(u8::MAX, u8::MAX, s(4)));
        let in_confirmed: Vec<E> = EVENTS.into_iter().filter(|&e| e != E::TimerI).collect();
        rows.extend(ignored(S::Confirmed, &in_confirmed));
        rows.extend(ignored(S::Terminated, &EVENTS));
        check(&STATES, &EVENTS, rows, on);
        assert_eq!(start(), (S::Proceeding, [hour].into()));
    }
}
