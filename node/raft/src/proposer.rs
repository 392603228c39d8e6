//! The batcher: commands into entries, entries to the leader.
//!
//! One task owns all. A lone command leaves at once; while entries are in flight, commands gather until 256 of them, 64 KiB
//! or 2 ms. Entries go to the leader in order, here or over one stream to it, many in flight. When the leader changes or the
//! stream breaks, what is not acknowledged is sent again, to whoever leads then, until its time is over.
//! So an entry may stand in the log twice, but never for good before one of this node that was proposed earlier and is in it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResponse;
use sbc_proto::peer as pb;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use crate::config::{EncodeEntry, MAX_COMMAND, MAX_ENTRY};
use crate::error::ProposeError;
use crate::monitor::leader;
use crate::network::Peers;
use crate::types::{Batch, LeaderId, Member, Raft, TypeConfig};

/// Commands in one entry.
const BATCH_COMMANDS: usize = 256;
/// Bytes in one entry, unless one command alone is longer.
const BATCH_BYTES: usize = 64 << 10;
/// How long a command waits for others while entries are in flight.
const BATCH_WAIT: Duration = Duration::from_millis(2);
/// Entries not acknowledged: at 2 ms each this covers 500 ms to the leader and back.
pub(crate) const MAX_IN_FLIGHT: usize = 256;
/// Commands that wait: sixteen full entries. Beyond, the cluster does not keep up and the caller has to go on without.
const MAX_QUEUED: usize = 4096;
/// Pause before a leader that refused, or could not be reached, is tried again; doubled each time that it could not be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Longest such pause. Without quorum a dead leader stays the one that is known, for as long as there are proposals.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(400);
/// Doublings after which the longest pause is reached in any case.
const MAX_DOUBLINGS: u32 = 8;
/// How often deadlines are looked at while entries are in flight.
const TICK: Duration = Duration::from_millis(20);

/// The outcome of one command, to come.
#[derive(Debug)]
pub struct Proposal(Result<oneshot::Receiver<Result<u64, ProposeError>>, ProposeError>);

impl Proposal {
    fn failed(error: ProposeError) -> Proposal {
        Proposal(Err(error))
    }
}

impl Future for Proposal {
    /// Log index of the entry that holds the command, committed and applied at the leader. This node may apply it later.
    type Output = Result<u64, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(receiver) => Pin::new(receiver).poll(context).map(|result| result.unwrap_or(Err(ProposeError::Stopped))),
            Err(error) => Poll::Ready(Err(*error)),
        }
    }
}

/// How it went with an entry at the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Committed and applied there.
    Index(u64),
    /// Not appended, or not known whether.
    NotLeader(Option<u64>),
    /// Raft has stopped.
    Stopped,
}

/// Hands an entry to this node's Raft; order is kept between calls. The future tells the outcome.
pub(crate) async fn submit(raft: &Raft, entry: Bytes) -> impl Future<Output = Outcome> + Send + 'static {
    let (responder, done) = ProgressResponder::<TypeConfig, _>::complete_only();
    let sent = raft.client_write_ff(Batch(entry), Some(responder)).await.is_ok();
    async move {
        if !sent {
            return Outcome::Stopped;
        }
        outcome(done.await)
    }
}

/// The same in that leadership of this node alone: where another has begun, the entry stands in no log for it.
pub(crate) async fn append_in_term(raft: &Raft, leader: LeaderId, entry: Bytes) -> Outcome {
    let (responder, done) = ProgressResponder::<TypeConfig, _>::complete_only();
    match raft.write(Batch(entry)).with_leader(leader).responder(responder).await {
        Ok(()) => outcome(done.await),
        Err(_) => Outcome::Stopped,
    }
}

fn outcome<E>(done: Result<Result<ClientWriteResponse<TypeConfig>, ClientWriteError<TypeConfig>>, E>) -> Outcome {
    match done {
        Ok(Ok(response)) => Outcome::Index(response.log_id.index),
        Ok(Err(
            ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, .. })
            | ClientWriteError::LogEntryDiscarded(ForwardToLeader { leader_id, .. }),
        )) => Outcome::NotLeader(leader_id),
        Ok(Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_))) => Outcome::NotLeader(None),
        Err(_) => Outcome::Stopped,
    }
}

type Waiter = oneshot::Sender<Result<u64, ProposeError>>;

struct Command {
    bytes: Bytes,
    deadline: Instant,
    waiter: Waiter,
}

/// Where commands come out.
pub(crate) struct Commands(mpsc::Receiver<Command>);

impl Commands {
    /// The two ends of a queue whose commands are answered within `timeout`.
    pub(crate) fn channel(timeout: Duration) -> (Queue, Commands) {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        (Queue { sender, timeout }, Commands(receiver))
    }

    /// Fails all that comes, at once: a call that waits for its claim goes on without it.
    pub(crate) async fn refuse(&mut self) {
        while let Some(command) = self.0.recv().await {
            let _ = command.waiter.send(Err(ProposeError::Stopped));
        }
    }
}

/// Where commands are put in; clones share the queue.
#[derive(Clone)]
pub(crate) struct Queue {
    sender: mpsc::Sender<Command>,
    timeout: Duration,
}

impl Queue {
    pub(crate) fn propose(&self, bytes: Bytes) -> Proposal {
        if bytes.len() > MAX_COMMAND {
            return Proposal::failed(ProposeError::TooLarge);
        }
        let (waiter, receiver) = oneshot::channel();
        match self.sender.try_send(Command { bytes, deadline: Instant::now() + self.timeout, waiter }) {
            Ok(()) => Proposal(Ok(receiver)),
            Err(mpsc::error::TrySendError::Full(_)) => Proposal::failed(ProposeError::QueueFull),
            Err(mpsc::error::TrySendError::Closed(_)) => Proposal::failed(ProposeError::Stopped),
        }
    }
}

/// An entry that is not acknowledged.
struct Flight {
    entry: Bytes,
    /// Of its first command, the earliest.
    deadline: Instant,
    waiters: Vec<Waiter>,
    /// On the present route.
    sent: bool,
}

/// The way to the present leader.
struct Route {
    leader: u64,
    entries: mpsc::Sender<(u64, Bytes)>,
    task: AbortHandle,
}

impl Drop for Route {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a route reports, with the route's number.
enum Report {
    Outcome(u64, Outcome),
    /// The route is broken.
    Broken,
}

/// See the module.
pub(crate) struct Proposer {
    raft: Raft,
    peers: Peers,
    node: u64,
    encode: EncodeEntry,
    queue: Commands,
    batch: Vec<Command>,
    batch_bytes: usize,
    batch_begun: Instant,
    flights: BTreeMap<u64, Flight>,
    next: u64,
    route: Option<Route>,
    /// As the metrics last said.
    leader: Option<u64>,
    /// Number of the present route: reports of an older one are void.
    generation: u64,
    retry_at: Option<Instant>,
    /// Routes to this leader that broke without an outcome, one after the other.
    broken: u32,
    reports: mpsc::Receiver<(u64, Report)>,
    reporter: mpsc::Sender<(u64, Report)>,
}

impl Proposer {
    pub(crate) fn new(raft: Raft, peers: Peers, node: u64, encode: EncodeEntry, queue: Commands) -> Proposer {
        let (reporter, reports) = mpsc::channel(MAX_IN_FLIGHT);
        Proposer {
            raft,
            peers,
            node,
            encode,
            queue,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_begun: Instant::now(),
            flights: BTreeMap::new(),
            next: 1,
            route: None,
            leader: None,
            generation: 0,
            retry_at: None,
            broken: 0,
            reports,
            reporter,
        }
    }

    /// Runs until every queue handle is dropped, or Raft stops; the queue is for the next run. What is not answered fails.
    pub(crate) async fn run(mut self) -> Commands {
        self.serve().await;
        self.queue
    }

    async fn serve(&mut self) {
        let mut metrics = self.raft.metrics();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let linger = self.batch.first().map(|_| self.batch_due());
            tokio::select! {
                biased;
                Some((generation, report)) = self.reports.recv() => self.on_report(generation, report),
                changed = metrics.changed() => {
                    if changed.is_err() || metrics.borrow_and_update().running_state.is_err() {
                        return;
                    }
                    self.on_leader();
                }
                _ = tick.tick(), if !self.flights.is_empty() || !self.batch.is_empty() => self.on_tick(),
                () = tokio::time::sleep_until(linger.unwrap_or_else(Instant::now)),
                    if linger.is_some() && self.flights.len() < MAX_IN_FLIGHT => self.seal(),
                command = self.queue.0.recv(), if !self.batch_full() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
            }
            if !self.batch.is_empty() && (self.flights.is_empty() || (self.batch_full() && self.flights.len() < MAX_IN_FLIGHT)) {
                self.seal();
            }
        }
    }

    fn batch_full(&self) -> bool {
        self.batch.len() >= BATCH_COMMANDS || self.batch_bytes >= BATCH_BYTES
    }

    /// When the batch at hand leaves; it was begun when its first command came off the queue.
    fn batch_due(&self) -> Instant {
        self.batch_begun + BATCH_WAIT
    }

    fn on_command(&mut self, command: Command) {
        self.take(command);
        // Whatever waits already goes along.
        while !self.batch_full() {
            match self.queue.0.try_recv() {
                Ok(command) => self.take(command),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, command: Command) {
        if self.batch.is_empty() {
            self.batch_begun = Instant::now();
        }
        if command.deadline <= Instant::now() {
            let _ = command.waiter.send(Err(ProposeError::Timeout));
            return;
        }
        self.batch_bytes += command.bytes.len();
        self.batch.push(command);
    }

    /// Makes an entry of the batch and sends it.
    fn seal(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let Some(deadline) = batch.iter().map(|command| command.deadline).min() else { return };
        let (commands, waiters): (Vec<_>, Vec<_>) = batch.into_iter().map(|c| (c.bytes, c.waiter)).unzip();
        let entry = (self.encode)(commands);
        if entry.len() > MAX_ENTRY {
            answer(waiters, Err(ProposeError::TooLarge));
            return;
        }
        self.flights.insert(self.next, Flight { entry, deadline, waiters, sent: false });
        self.next += 1;
        self.pump();
    }

    /// Puts on the route what is not there yet, in order.
    fn pump(&mut self) {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.retry_at = None;
        if self.route.is_none() {
            self.open_route();
        }
        let Some(route) = &self.route else { return };
        for (sequence, flight) in self.flights.iter_mut().filter(|(_, flight)| !flight.sent) {
            // Full only when a route is stuck; the rest follows with a report or a tick.
            if route.entries.try_send((*sequence, flight.entry.clone())).is_err() {
                return;
            }
            flight.sent = true;
        }
    }

    fn open_route(&mut self) {
        let Some((leader, member)) = leader(&self.raft) else { return };
        let (entries, receiver) = mpsc::channel(MAX_IN_FLIGHT);
        self.generation += 1;
        let (generation, reporter) = (self.generation, self.reporter.clone());
        let task = if leader == self.node {
            tokio::spawn(local_route(self.raft.clone(), receiver, generation, reporter))
        } else if let Some(member) = member {
            tokio::spawn(remote_route(self.peers.clone(), leader, member, receiver, generation, reporter))
        } else {
            return;
        };
        self.route = Some(Route { leader, entries, task: task.abort_handle() });
    }

    fn close_route(&mut self) {
        self.route = None;
        self.generation += 1;
        for flight in self.flights.values_mut() {
            flight.sent = false;
        }
    }

    fn on_leader(&mut self) {
        let now = leader(&self.raft).map(|(leader, _)| leader);
        if self.leader != now {
            // Another one is tried at once.
            (self.leader, self.broken, self.retry_at) = (now, 0, None);
        }
        if self.route.as_ref().is_some_and(|route| Some(route.leader) != now) {
            self.close_route();
        }
        if now.is_some() && self.route.is_none() {
            self.pump();
        }
    }

    fn on_report(&mut self, generation: u64, report: Report) {
        // Of an older route: its entries are sent again, the acknowledged ones too, so that the order holds.
        if generation != self.generation {
            return;
        }
        match report {
            Report::Outcome(sequence, Outcome::Index(index)) => {
                self.broken = 0;
                if let Some(flight) = self.flights.remove(&sequence) {
                    answer(flight.waiters, Ok(index));
                }
            }
            // What follows the refused entry may have been taken: all of it is sent again, behind that entry.
            Report::Outcome(_, Outcome::NotLeader(_) | Outcome::Stopped) => self.retry_after(RETRY_PAUSE),
            Report::Broken => {
                let pause = RETRY_PAUSE.saturating_mul(1 << self.broken.min(MAX_DOUBLINGS));
                self.broken += 1;
                self.retry_after(pause.min(MAX_RETRY_PAUSE));
            }
        }
    }

    fn retry_after(&mut self, pause: Duration) {
        self.close_route();
        self.retry_at = Some(Instant::now() + pause);
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let over: Vec<u64> =
            self.flights.iter().filter(|(_, flight)| flight.deadline <= now).map(|(sequence, _)| *sequence).collect();
        for sequence in over {
            if let Some(flight) = self.flights.remove(&sequence) {
                answer(flight.waiters, Err(ProposeError::Timeout));
            }
        }
        // What waits behind a full pipe has its deadline too.
        for command in self.batch.extract_if(.., |command| command.deadline <= now) {
            let _ = command.waiter.send(Err(ProposeError::Timeout));
        }
        self.batch_bytes = self.batch.iter().map(|command| command.bytes.len()).sum();
        self.pump();
    }
}

/// Who does not wait any more is not told.
fn answer(waiters: Vec<Waiter>, result: Result<u64, ProposeError>) {
    for waiter in waiters {
        let _ = waiter.send(result);
    }
}

/// This node leads.
async fn local_route(
    raft: Raft,
    mut entries: mpsc::Receiver<(u64, Bytes)>,
    generation: u64,
    reports: mpsc::Sender<(u64, Report)>,
) {
    let mut pending = FuturesUnordered::new();
    loop {
        let report = tokio::select! {
            entry = entries.recv() => {
                let Some((sequence, entry)) = entry else { return };
                let outcome = submit(&raft, entry).await;
                pending.push(async move { (sequence, outcome.await) });
                continue;
            }
            Some((sequence, outcome)) = pending.next(), if !pending.is_empty() => Report::Outcome(sequence, outcome),
        };
        if reports.send((generation, report)).await.is_err() {
            return;
        }
    }
}

/// Another node leads.
async fn remote_route(
    peers: Peers,
    leader: u64,
    member: Member,
    entries: mpsc::Receiver<(u64, Bytes)>,
    generation: u64,
    reports: mpsc::Sender<(u64, Report)>,
) {
    let requests = ReceiverStream::new(entries).map(|(sequence, entry)| pb::ForwardRequest { sequence, entry });
    match peers.client(leader, &member).forward(requests).await {
        Ok(mut replies) => {
            while let Ok(Some(reply)) = replies.message().await {
                let outcome = match reply.result {
                    Some(pb::forward_reply::Result::Index(index)) => Outcome::Index(index),
                    Some(pb::forward_reply::Result::NotLeader(leader)) => {
                        Outcome::NotLeader(Some(leader).filter(|leader| *leader != 0))
                    }
                    None => break,
                };
                if reports.send((generation, Report::Outcome(reply.sequence, outcome))).await.is_err() {
                    return;
                }
            }
        }
        Err(error) => tracing::debug!(leader, %error, "leader cannot be reached"),
    }
    // The proposer is gone if it does not listen.
    let _ = reports.send((generation, Report::Broken)).await;
}
