//! The order in which the driver does things: what is here is taken first, then what the log and the peers say, then what is under way,
//! then timers, and what would begin comes last.
//!
//! A timer means that something has not come. It fires only when the sockets have been read, else a busy node repeats requests whose
//! answers it holds, and is busier for it.

use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use sbc_core::ids::ProposalId;
use sbc_core::io::{Input, Received};
use sbc_core::sbc::Urgency;
use tokio::sync::mpsc::error::TryRecvError;

use super::intake::Intake;
use super::{Driver, Queues, clock, pause};
use crate::peer::FromPeer;
use crate::transport::{Arrived, TransportEvent};

/// Events taken from the sockets' queue in one turn: all that it holds.
const TAKEN: usize = 4096;
/// Inputs taken from one of the other queues before the others get their turn.
const BATCH: usize = 64;
/// Messages of each urgency that are dealt with in one turn. What begins something is work for a hundred later messages, so it is taken
/// in small bites; but each urgency has its share of each turn, so that a flood of one does not stop the others.
const BITES: [(Urgency, usize); 6] = [
    (Urgency::EmergencyCall, 64),
    (Urgency::EmergencyCaller, 64),
    (Urgency::Core, 64),
    (Urgency::Underway, 64),
    (Urgency::Emergency, 8),
    (Urgency::Ordinary, 4),
];
/// What is under way, of these.
const URGENT: usize = 4;
/// Messages that would begin something ordinary, while what the core side says of calls under way is not dealt with in a turn: each of them
/// brings a dozen more.
const BEHIND: usize = 1;
/// A timer waits no longer for messages than this, whatever comes: a fifth of T1.
const OVERDUE: Duration = Duration::from_millis(100);

/// One of the queues has lost its other end: the node is stopping.
pub(super) struct Stopped;

impl Driver {
    pub(super) async fn run(mut self, mut queues: Queues) {
        let mut intake = Intake::new(Instant::now());
        while self.halted.borrow().is_none() {
            self.pulse.beat();
            match self.turn(&mut queues, &mut intake) {
                // The sockets' own tasks run on this thread too.
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => {
                    if self.wait(&mut queues, &mut intake).await.is_err() {
                        return;
                    }
                }
                Err(Stopped) => return,
            }
        }
    }

    /// Does what there is to do, without waiting. False: there was nothing, or nothing is left.
    fn turn(&mut self, queues: &mut Queues, intake: &mut Intake) -> Result<bool, Stopped> {
        let mut busy = self.take_in(queues, intake)?;
        busy |= self.hear(queues, intake)?;
        if let Some(percent) = intake.load(Instant::now()) {
            self.input(Input::Load(percent));
        }
        for (urgency, most) in &BITES[..URGENT] {
            busy |= self.deal_with(intake, *urgency, *most);
        }
        busy |= self.fire_timers(intake);
        let behind = intake.is_behind();
        for (urgency, most) in &BITES[URGENT..] {
            let most = if behind && *urgency == Urgency::Ordinary { BEHIND } else { *most };
            busy |= self.deal_with(intake, *urgency, most);
        }
        while let Some(flow) = intake.closed() {
            self.input(Input::FlowClosed(flow));
        }
        intake.turned();
        Ok(busy || !intake.is_empty())
    }

    /// Reads the sockets, and sorts what they had.
    fn take_in(&mut self, queues: &mut Queues, intake: &mut Intake) -> Result<bool, Stopped> {
        self.parts.transport.read_all();
        for taken in 0..TAKEN {
            match queues.transport.try_recv() {
                Ok(event) => self.sort(intake, event),
                Err(TryRecvError::Empty) => return Ok(taken > 0),
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
        }
        Ok(true)
    }

    fn sort(&mut self, intake: &mut Intake, event: TransportEvent) {
        match event {
            TransportEvent::Received(arrived) => {
                let (urgency, weight) = self.parts.sbc.urgency(&arrived.path, &arrived.payload);
                if let Some(reason) = intake.push(urgency, weight, arrived) {
                    self.dropped(reason);
                }
            }
            TransportEvent::SendFailed { id, reason } => self.input(Input::SendFailed { id, reason }),
            TransportEvent::FlowProved { flow, names } => self.input(Input::FlowProved { flow, names }),
            TransportEvent::FlowClosed(flow) => intake.close(flow),
        }
    }

    /// What the log, the peers, the engine and the operators say.
    fn hear(&mut self, queues: &mut Queues, intake: &mut Intake) -> Result<bool, Stopped> {
        let mut busy = false;
        for _ in 0..BATCH {
            match queues.store.try_recv() {
                Ok(message) => self.on_store(message),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
            busy = true;
        }
        for _ in 0..BATCH {
            let Ok(frame) = queues.peers.try_recv() else { break };
            self.on_peer(frame);
            busy = true;
        }
        for _ in 0..BATCH {
            let Ok(event) = queues.media.try_recv() else { break };
            self.input(Input::Media(event));
            busy = true;
        }
        for _ in 0..BATCH {
            match queues.orders.try_recv() {
                Ok(order) => self.on_order(order),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
            busy = true;
        }
        for _ in 0..BATCH {
            let Some(Some(proposed)) = self.proposals.next().now_or_never() else { break };
            self.on_proposed(intake, proposed);
            busy = true;
        }
        intake.proposed(self.proposals.len());
        for _ in 0..BATCH {
            let Some(Some((id, result))) = self.questions.next().now_or_never() else { break };
            self.input(Input::Resolved { id, result });
            busy = true;
        }
        Ok(busy)
    }

    fn on_proposed(&mut self, intake: &mut Intake, proposed: Result<Duration, ProposalId>) {
        match proposed {
            Ok(waited) => intake.committed(waited),
            Err(id) => self.input(Input::ProposeFailed { id }),
        }
    }

    fn on_peer(&mut self, FromPeer { from, message, at }: FromPeer) {
        self.input(Input::Peer { from, message: message.aged(at.elapsed()) });
    }

    fn deal_with(&mut self, intake: &mut Intake, urgency: Urgency, most: usize) -> bool {
        for done in 0..most {
            match intake.pop(urgency, Instant::now()) {
                Some(Ok(Arrived { path, payload, at, turn })) => {
                    drop(turn);
                    let at = self.parts.clock.of_std(at);
                    self.input(Input::Received(Received { path, payload, at }));
                }
                Some(Err(reason)) => self.dropped(reason),
                None => return done > 0,
            }
        }
        true
    }

    /// Fires some of what is due. While messages wait that it may be about, only what is overdue.
    fn fire_timers(&mut self, intake: &mut Intake) -> bool {
        let now = self.parts.clock.now().mono;
        let grace = if intake.has_urgent() { OVERDUE } else { Duration::ZERO };
        let late = self.parts.sbc.poll_timeout().filter(|at| *at <= now).map(|at| now.since(at));
        // What is left waiting on purpose says nothing of how busy the node is.
        let overdue = late.and_then(|late| late.checked_sub(grace));
        intake.timers(overdue);
        if overdue.is_some() {
            self.input(Input::Timeout);
        }
        overdue.is_some()
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, queues: &mut Queues, intake: &mut Intake) -> Result<(), Stopped> {
        let due = self.parts.sbc.poll_timeout().map(|at| self.parts.clock.to_tokio(at));
        let alarm = tokio::time::Instant::now() + clock::BEAT;
        let wake = due.map_or(alarm, |due| due.min(alarm));
        tokio::select! {
            event = queues.transport.recv() => self.sort(intake, event.ok_or(Stopped)?),
            message = queues.store.recv() => self.on_store(message.ok_or(Stopped)?),
            Some(frame) = queues.peers.recv() => self.on_peer(frame),
            Some(event) = queues.media.recv() => self.input(Input::Media(event)),
            order = queues.orders.recv() => self.on_order(order.ok_or(Stopped)?),
            Some(proposed) = self.proposals.next(), if !self.proposals.is_empty() => self.on_proposed(intake, proposed),
            Some((id, result)) = self.questions.next(), if !self.questions.is_empty() => {
                self.input(Input::Resolved { id, result });
            }
            () = tokio::time::sleep_until(wake) => {}
        }
        // Nobody waits for longer than a beat: who does has been stopped.
        let late = tokio::time::Instant::now().saturating_duration_since(wake);
        if late > pause::LONGEST {
            let since = self.parts.clock.now().mono - late;
            self.after_pause(since);
        }
        Ok(())
    }
}
