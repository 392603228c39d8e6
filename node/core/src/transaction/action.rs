//! What a machine wants done: a short list without allocation.

use std::time::Duration;

use super::timing::Timer;

/// One order of a machine to the table that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Server: send the response that the TU just gave, and keep it as the last.
    Send,
    /// Send the last message again: the request (client), the last response, if any (server).
    SendLast,
    /// INVITE client: send the ACK to a non-2xx final response.
    SendAck,
    /// Hand the message to the TU.
    PassUp,
    /// Start, or start anew.
    StartTimer(Timer, Duration),
    /// Stop, if it runs.
    StopTimer(Timer),
    /// Tell the TU that a 100 is due.
    InformTrying,
    /// Tell the TU that the exchange timed out.
    InformTimeout,
    /// Tell the TU that the transport failed.
    InformTransportError,
    /// Remove the transaction and its timers. Always the last action.
    Terminate,
}

/// The most that any transition does: stop two timers, start one, send, pass up; one to spare.
const MAX_ACTIONS: usize = 6;

/// Actions in the order to do them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions([Option<Action>; MAX_ACTIONS]);

impl Actions {
    /// Nothing to do.
    pub const NONE: Actions = Actions([None; MAX_ACTIONS]);

    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = Action> + use<> {
        self.0.into_iter().flatten()
    }

    /// With one more at the end, where `condition` holds.
    pub(super) fn and_if(mut self, condition: bool, action: Action) -> Actions {
        if condition {
            let free = self.0.iter_mut().find(|slot| slot.is_none());
            *free.expect("no transition has more than MAX_ACTIONS; the tables of the machines test each one") = Some(action);
        }
        self
    }
}

impl<const N: usize> From<[Action; N]> for Actions {
    fn from(actions: [Action; N]) -> Actions {
        const { assert!(N <= MAX_ACTIONS) }
        let mut list = Actions::NONE;
        for (slot, action) in list.0.iter_mut().zip(actions) {
            *slot = Some(action);
        }
        list
    }
}
