//! What server and client transactions share: serial numbers, the timer wheel, the outputs.

use std::collections::VecDeque;
use std::time::Duration;

use super::output::{ClientTxId, ServerTxId, TxEvent, TxOutput};
use super::timing::Timer;
use crate::time::Instant;
use crate::timer::{TimerId, TimerWheel};

/// Either kind of transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxId {
    Server(ServerTxId),
    Client(ClientTxId),
}

#[derive(Debug)]
pub(super) struct Shared {
    serial: u64,
    pub(super) timers: TimerWheel<(TxId, Timer)>,
    /// Emptied by the caller after each call; one call adds at most a few outputs for each transaction that it touches.
    pub(super) out: VecDeque<TxOutput>,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared { serial: 0, timers: TimerWheel::new(Instant::default()), out: VecDeque::new() }
    }

    /// A number that no transaction has had, from 1.
    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(super) fn event(&mut self, event: TxEvent) {
        self.out.push_back(TxOutput::Event(event));
    }
}

/// The two timers of a transaction: one that sends a message (A, E, G, Trying), one that ends a state (all others).
#[derive(Debug, Default)]
pub(super) struct TxTimers {
    repeat: Option<TimerId>,
    end: Option<TimerId>,
}

impl TxTimers {
    /// Starts a timer in place of the one of its kind that may run.
    pub(super) fn start(&mut self, shared: &mut Shared, tx: TxId, timer: Timer, at: Instant, after: Duration) {
        self.stop(shared, timer);
        *self.of(timer) = Some(shared.timers.insert(at + after, (tx, timer)));
    }

    pub(super) fn stop(&mut self, shared: &mut Shared, timer: Timer) {
        if let Some(id) = self.of(timer).take() {
            shared.timers.cancel(id);
        }
    }

    pub(super) fn stop_all(&mut self, shared: &mut Shared) {
        for id in [self.repeat.take(), self.end.take()].into_iter().flatten() {
            shared.timers.cancel(id);
        }
    }

    fn of(&mut self, timer: Timer) -> &mut Option<TimerId> {
        if timer.repeats() { &mut self.repeat } else { &mut self.end }
    }
}
