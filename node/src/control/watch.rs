//! The one shape of every watch: events of the replica's journal from a revision on, each with a token to resume after it.
//!
//! What the log does not have of this node's calls comes between, with the token of the last that it has: who resumes gets it again, or what
//! has become of it.
//!
//! A reader holds no memory of ours but a short queue: what it has not read yet stands in the journal. One that does not
//! read is told Goodbye with its token; what the journal no longer has is said to be gone.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sbc_core::replica::{CallEntry, EarlyCalls, Replica};
use sbc_core::store_pb;
use sbc_proto::v1::{ErrorReason, WatchFrom, WatchGoodbye, WatchGoodbyeReason, WatchProgress, WatchSynced, watch_from};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::error::fault;
use super::shared::Shared;

/// Messages between the journal and the connection.
const QUEUE: usize = 64;
/// How long the queue may be full before the reader is slow.
const SLOW: Duration = Duration::from_secs(10);
/// Events read under one lock.
const BATCH: usize = 256;
/// Heartbeat unless asked otherwise, and its bounds, milliseconds.
const HEARTBEAT: (u32, u32, u32) = (100, 5_000, 60_000);

/// A stream of answers.
pub(crate) type Answers<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// An answer of a watch.
pub(crate) trait WatchMessage: Send + 'static {
    fn synced(m: WatchSynced) -> Self;
    fn progress(m: WatchProgress) -> Self;
    fn goodbye(m: WatchGoodbye) -> Self;
}

/// What a watch makes of the journal.
pub(crate) trait Watcher: Send + Sync + 'static {
    /// Its answers.
    type Message: WatchMessage;
    /// A page of what stands before the journal for `from: snapshot`, and whether there is more. Without such a thing a
    /// snapshot is the whole journal.
    fn snapshot(&mut self, _replica: &Replica, _limit: usize) -> Option<(Vec<Self::Message>, bool)> {
        None
    }
    /// Whether it wants nothing but events of emergency calls, which last longer than others.
    fn emergencies(&self) -> bool {
        false
    }
    /// An event, if it is asked for, and whether the watch is finished with it. `resume`: the token that resumes after it.
    fn event(&mut self, replica: &Replica, event: &store_pb::Event, resume: String) -> (Option<Self::Message>, bool);
    /// What the last event means for others than whom it is about: not many more than `limit` at a time, until there are none.
    fn follow_ups(&mut self, _replica: &Replica, _limit: usize) -> Vec<Self::Message> {
        Vec::new()
    }
    /// The same of one that is not committed, with its call as its owner has it.
    fn early(
        &mut self,
        replica: &Replica,
        _call: Option<&CallEntry>,
        event: &store_pb::Event,
        resume: String,
    ) -> (Option<Self::Message>, bool) {
        self.event(replica, event, resume)
    }
}

/// The token that resumes after a revision.
pub(crate) fn token(revision: u64) -> String {
    format!("r{revision:x}")
}

fn parse_token(text: &str) -> Result<u64, Status> {
    let revision = text.strip_prefix('r').and_then(|t| u64::from_str_radix(t, 16).ok());
    revision.ok_or_else(|| {
        fault(Code::InvalidArgument, ErrorReason::InvalidResumeToken, format!("\"{text}\" is no resume token"), &[])
    })
}

enum Begin {
    Now { revision: u64, early: u64 },
    After(u64),
    Snapshot,
}

/// Starts a watch. Errors that are known at once (a bad or compacted token) end the RPC before the stream begins.
pub(crate) fn watch<W: Watcher>(
    shared: &Shared,
    from: Option<WatchFrom>,
    heartbeat_ms: u32,
    watcher: W,
) -> Result<Answers<W::Message>, Status> {
    watch_with(shared, from, heartbeat_ms, watcher, SLOW)
}

pub(crate) fn watch_with<W: Watcher>(
    shared: &Shared,
    from: Option<WatchFrom>,
    heartbeat_ms: u32,
    watcher: W,
    slow: Duration,
) -> Result<Answers<W::Message>, Status> {
    let begin = match from.and_then(|f| f.start) {
        None | Some(watch_from::Start::Now(_)) => {
            let early = shared.read_early(EarlyCalls::last_number);
            Begin::Now { revision: shared.read(Replica::last_event_revision), early }
        }
        Some(watch_from::Start::Snapshot(_)) => Begin::Snapshot,
        Some(watch_from::Start::ResumeToken(t)) => {
            let after = parse_token(&t)?;
            let emergencies = watcher.emergencies();
            shared.read(|r| if emergencies { r.emergency_events(after, 1) } else { r.events(after, 1) }).map_err(|c| {
                let facts = [("oldest", token(c.oldest))];
                fault(Code::OutOfRange, ErrorReason::Compacted, c.to_string(), &[(facts[0].0, &facts[0].1)])
            })?;
            Begin::After(after)
        }
    };
    let (low, default, high) = HEARTBEAT;
    let heartbeat = if heartbeat_ms == 0 { default } else { heartbeat_ms.clamp(low, high) };
    let (tx, rx) = mpsc::channel(QUEUE);
    let heartbeat = Duration::from_millis(heartbeat.into());
    let task = Task { shared: shared.clone(), watcher, tx, cursor: 0, gaps_to: 0, early: 0, heartbeat, slow };
    tokio::spawn(task.run(begin));
    Ok(Box::pin(ReceiverStream::new(rx)))
}

struct Task<W: Watcher> {
    shared: Shared,
    watcher: W,
    tx: mpsc::Sender<Result<W::Message, Status>>,
    /// Everything up to this revision has been sent.
    cursor: u64,
    /// Up to this revision it was asked for what is there, not for everything.
    gaps_to: u64,
    /// The same of what is not committed, by its number.
    early: u64,
    heartbeat: Duration,
    slow: Duration,
}

/// An answer, the revision that has then been sent, and whether the watch is finished.
type Next<M> = (Option<u64>, Option<M>, bool);

/// Why a watch ends; `None`: the reader is gone.
type Over = Option<WatchGoodbyeReason>;

impl<W: Watcher> Task<W> {
    async fn run(mut self, begin: Begin) {
        let gauge = self.shared.node.metrics().gauges.event_watchers;
        gauge.inc();
        // Kept for the last message: a slow reader's queue is full.
        if let Ok(last) = self.tx.clone().reserve_owned().await
            && let Err(Some(reason)) = self.follow(begin).await
        {
            let bye = WatchGoodbye { reason: reason.into(), resume_token: token(self.cursor) };
            last.send(Ok(W::Message::goodbye(bye)));
        }
        gauge.dec();
    }

    async fn follow(&mut self, begin: Begin) -> Result<(), Over> {
        let mut changed = self.shared.node.events_changed();
        let mut shutdown = self.shared.node.shutdown();
        let mut status = self.shared.node.status();
        (self.cursor, self.early) = match begin {
            Begin::Now { revision, early } => (revision, early),
            Begin::After(revision) => (revision, 0),
            Begin::Snapshot => (self.snapshot().await?, 0),
        };
        let mut synced = false;
        let mut quorum = status.borrow_and_update().quorum;
        loop {
            changed.borrow_and_update();
            if self.batch().await? {
                continue;
            }
            if !synced {
                synced = true;
                self.send(W::Message::synced(WatchSynced { resume_token: token(self.cursor), quorum: Some(quorum) })).await?;
            }
            tokio::select! {
                r = changed.changed() => if r.is_err() { return Err(Some(WatchGoodbyeReason::Shutdown)) },
                () = super::shared::stopping(&mut shutdown) => return Err(Some(WatchGoodbyeReason::Shutdown)),
                () = self.tx.closed() => return Err(None),
                Ok(()) = status.changed() => {
                    let now = status.borrow_and_update().quorum;
                    if std::mem::replace(&mut quorum, now) != now {
                        self.progress(now).await?;
                    }
                }
                () = tokio::time::sleep(self.heartbeat) => self.progress(quorum).await?,
            }
        }
    }

    async fn progress(&self, quorum: bool) -> Result<(), Over> {
        self.send(W::Message::progress(WatchProgress { resume_token: token(self.cursor), quorum: Some(quorum) })).await
    }

    /// Sends what stands before the journal; gives the revision to follow from.
    async fn snapshot(&mut self) -> Result<u64, Over> {
        let mut from = None;
        loop {
            let replica = self.shared.node.replica();
            let page = {
                let guard = replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
                // The first page's revision: what changes meanwhile is sent again as an event.
                from.get_or_insert_with(|| guard.last_event_revision());
                match self.watcher.snapshot(&guard, BATCH) {
                    Some(page) => page,
                    None => {
                        self.gaps_to = guard.compacted_to().0;
                        return Ok(0);
                    }
                }
            };
            for message in page.0 {
                self.send(message).await?;
            }
            if !page.1 {
                return Ok(from.unwrap_or(0));
            }
        }
    }

    /// Sends the next events; false: there are none.
    async fn batch(&mut self) -> Result<bool, Over> {
        let replica = self.shared.node.replica();
        let mut out: Vec<Next<W::Message>> = Vec::new();
        {
            let guard = replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !self.follow_ups(&guard, &mut out) {
                self.events(&guard, &mut out)?;
            }
        }
        let any = !out.is_empty();
        for (revision, message, finished) in out {
            if let Some(message) = message {
                self.send(message).await?;
            }
            self.cursor = revision.unwrap_or(self.cursor);
            if finished {
                return Err(Some(WatchGoodbyeReason::Finished));
            }
        }
        Ok(any)
    }

    /// What the last event means for others, before the next one. False: nothing, or no more.
    fn follow_ups(&mut self, replica: &Replica, out: &mut Vec<Next<W::Message>>) -> bool {
        let messages = self.watcher.follow_ups(replica, BATCH);
        let any = !messages.is_empty();
        out.extend(messages.into_iter().map(|message| (None, Some(message), false)));
        any
    }

    fn events(&mut self, replica: &Replica, out: &mut Vec<Next<W::Message>>) -> Result<(), Over> {
        let events: Vec<Arc<store_pb::Event>> =
            if self.watcher.emergencies() && self.cursor >= replica.emergency_events_compacted_to() {
                replica.emergency_events(self.cursor, BATCH)
            } else if self.cursor < self.gaps_to {
                Ok(replica.events_left(self.cursor, BATCH))
            } else {
                replica.events(self.cursor, BATCH)
            }
            .map_err(|_| Some(WatchGoodbyeReason::Compacted))?;
        for e in &events {
            let (message, finished) = self.watcher.event(replica, e, token(e.revision));
            out.push((Some(e.revision), message, finished));
            if self.follow_ups(replica, out) {
                return Ok(());
            }
        }
        if events.is_empty() {
            self.early(replica, out);
        }
        Ok(())
    }

    /// The next of what the log does not have, while it has nothing more itself.
    fn early(&mut self, replica: &Replica, out: &mut Vec<Next<W::Message>>) {
        let early = self.shared.node.early();
        let early = early.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (number, call, told) in early.events(self.early).take(BATCH) {
            self.early = number;
            if !told.is_committed(replica, call) {
                let entry = early.call(call).map(|entry| &**entry);
                let (message, finished) = self.watcher.early(replica, entry, &told.event, token(self.cursor));
                out.push((None, message, finished));
            }
        }
    }

    async fn send(&self, message: W::Message) -> Result<(), Over> {
        match tokio::time::timeout(self.slow, self.tx.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(None),
            Err(_) => Err(Some(WatchGoodbyeReason::SlowReader)),
        }
    }
}
