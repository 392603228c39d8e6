//! What one media thread shares with the handles: its queue of orders, its counters, its end.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sbc_core::ids::MediaId;
use sbc_core::io::{MediaCommand, MediaEvent, MediaStats};

use super::counters::{SessionCounters, ThreadTotals, add};
use super::limits::{COMMAND_QUEUE, MAX_SESSIONS_PER_THREAD};

/// An order that the engine did not take. Its answer is at hand: see [`MediaRefused::into_event`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MediaRefused {
    /// The session.
    pub media: MediaId,
    /// For people.
    pub reason: &'static str,
}

impl MediaRefused {
    /// The report that core waits for; the caller hands it to core as if it had come from the event channel.
    pub fn into_event(self) -> MediaEvent {
        MediaEvent::OpenFailed { media: self.media, reason: self.reason.into() }
    }
}

/// A thread that has not taken a turn for so long after it was asked to is stuck: a turn takes microseconds.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// A question whether the thread takes its turns.
#[derive(Debug, Default)]
struct Pulse {
    /// Turns that the thread has begun.
    turns: AtomicU64,
    /// `turns` when the open question was asked, and when that was.
    asked: Mutex<Option<(u64, Instant)>>,
}

/// The session that an order is for.
pub(super) fn media_of(command: &MediaCommand) -> MediaId {
    match *command {
        MediaCommand::Open { media, .. }
        | MediaCommand::Remote { media, .. }
        | MediaCommand::Ask { media }
        | MediaCommand::Close { media } => media,
    }
}

/// One thread, seen from outside.
#[derive(Debug)]
pub(super) struct Shard {
    queue: Mutex<VecDeque<MediaCommand>>,
    waker: mio::Waker,
    /// Asked to end.
    stop: AtomicBool,
    /// Ended; set by the thread's last act, also when it panics.
    down: AtomicBool,
    pulse: Pulse,
    sessions: RwLock<HashMap<MediaId, Arc<SessionCounters>>>,
    pub(super) totals: ThreadTotals,
}

impl Shard {
    pub(super) fn new(waker: mio::Waker) -> Shard {
        Shard {
            queue: Mutex::default(),
            waker,
            stop: AtomicBool::new(false),
            down: AtomicBool::new(false),
            pulse: Pulse::default(),
            sessions: RwLock::default(),
            totals: ThreadTotals::default(),
        }
    }

    /// Queues an order and wakes the thread if it was the first. Never blocks beyond the queue's short lock.
    pub(super) fn push(&self, command: MediaCommand) -> Result<(), MediaRefused> {
        let refuse = |reason| {
            add(&self.totals.commands_refused, 1);
            Err(MediaRefused { media: media_of(&command), reason })
        };
        // A lost Close would leak ports. Sessions are limited, so Closes are; a flood of repeated ones ends here.
        let limit = match command {
            MediaCommand::Close { .. } => COMMAND_QUEUE + MAX_SESSIONS_PER_THREAD,
            MediaCommand::Open { .. } | MediaCommand::Remote { .. } | MediaCommand::Ask { .. } => COMMAND_QUEUE,
        };
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock: finish() sets it before it empties the queue under the same lock.
        if self.stop.load(Ordering::Acquire) || self.down.load(Ordering::Acquire) {
            return refuse("media engine is down");
        }
        if queue.len() >= limit {
            return refuse("media command queue is full");
        }
        let was_empty = queue.is_empty();
        queue.push_back(command);
        drop(queue);
        if was_empty && let Err(e) = self.waker.wake() {
            tracing::error!(error = %e, "media thread cannot be woken");
        }
        Ok(())
    }

    /// The next order.
    pub(super) fn pop(&self) -> Option<MediaCommand> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// The thread begins a turn.
    pub(super) fn on_turn(&self) {
        self.pulse.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// False when the thread has ended, or has not answered an earlier question within [`TURN_LIMIT`]. Asks the next one.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.is_alive_within(now, TURN_LIMIT)
    }

    /// The same with another limit.
    pub(super) fn is_alive_within(&self, now: Instant, limit: Duration) -> bool {
        if self.is_stopping() || self.down.load(Ordering::Acquire) {
            return false;
        }
        let turns = self.pulse.turns.load(Ordering::Relaxed);
        let mut asked = self.pulse.asked.lock().unwrap_or_else(PoisonError::into_inner);
        match *asked {
            Some((then, at)) if then == turns => now.duration_since(at) < limit,
            _ => {
                *asked = Some((turns, now));
                self.waker.wake().is_ok()
            }
        }
    }

    /// Asks the thread to end.
    pub(super) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        // Fails only if the eventfd is gone, and with it the thread.
        let _ = self.waker.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The thread's last act; returns the orders that nobody will carry out.
    pub(super) fn finish(&self) -> VecDeque<MediaCommand> {
        self.down.store(true, Ordering::Release);
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).clear();
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a session's counters readable from outside.
    pub(super) fn publish(&self, media: MediaId, counters: Arc<SessionCounters>) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(media, counters);
    }

    pub(super) fn withdraw(&self, media: MediaId) {
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&media);
    }

    pub(super) fn stats(&self, media: MediaId) -> Option<MediaStats> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&media).map(|c| c.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_takes_no_turn_is_noticed() {
        let poll = mio::Poll::new().unwrap();
        let shard = Shard::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // (when, turns taken before, alive)
        let table = [
            (0, 0, true),
            (1_900, 0, true),
            (2_000, 0, false),
            (60_000, 0, false),
            (60_100, 1, true),
            (62_000, 0, true),
            (62_100, 0, false),
            (62_200, 5, true),
        ];
        for (ms, turns, alive) in table {
            (0..turns).for_each(|_| shard.on_turn());
            assert_eq!(shard.is_alive(at(ms)), alive, "at {ms} ms");
        }
        shard.finish();
        assert!(!shard.is_alive(at(62_300)), "an ended thread");
    }
}
