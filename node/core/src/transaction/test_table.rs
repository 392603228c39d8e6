//! Checks a machine against its whole table, written out.

use std::fmt::Debug;

use super::action::{Action, Actions};

/// What is expected of one (state, event) pair: over UDP, and over TCP or TLS.
pub(super) struct Row<S, E> {
    state: S,
    event: E,
    unreliable: (S, Vec<Action>),
    reliable: (S, Vec<Action>),
}

/// The same over every transport.
pub(super) fn same<S: Copy, E>(state: S, event: E, next: S, actions: &[Action]) -> Row<S, E> {
    by_transport(state, event, (next, actions), (next, actions))
}

/// UDP first, then TCP and TLS.
pub(super) fn by_transport<S, E>(state: S, event: E, unreliable: (S, &[Action]), reliable: (S, &[Action])) -> Row<S, E> {
    Row { state, event, unreliable: (unreliable.0, unreliable.1.to_vec()), reliable: (reliable.0, reliable.1.to_vec()) }
}

/// Events that change nothing.
pub(super) fn ignored<S: Copy, E: Copy>(state: S, events: &[E]) -> Vec<Row<S, E>> {
    events.iter().map(|&event| same(state, event, state, &[])).collect()
}

/// Fails unless `rows` names every pair exactly once and `on` does as it says.
pub(super) fn check<S, E>(states: &[S], events: &[E], rows: Vec<Row<S, E>>, on: fn(S, E, bool) -> (S, Actions))
where
    S: Copy + PartialEq + Debug,
    E: Copy + PartialEq + Debug,
{
    for &state in states {
        for &event in events {
            let found: Vec<_> = rows.iter().filter(|r| r.state == state && r.event == event).collect();
            let [row] = found[..] else { panic!("{} rows for {state:?}, {event:?}", found.len()) };
            for (reliable, expected) in [(false, &row.unreliable), (true, &row.reliable)] {
                let (next, actions) = on(state, event, reliable);
                assert_eq!(&(next, actions.iter().collect()), expected, "{state:?}, {event:?}, reliable {reliable}");
            }
        }
    }
    assert_eq!(rows.len(), states.len() * events.len(), "rows for pairs that are not there");
}
