//! Starting the engine, and the handle to it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sbc_core::ids::MediaId;
use sbc_core::io::{MediaCommand, MediaEvent, MediaStats};
use tokio::sync::mpsc;

use super::config::{MediaConfig, MediaConfigError, MediaKind};
use super::counters::MediaTotals;
use super::leg::Supply;
use super::ports::PortPools;
use super::shard::{MediaRefused, Shard, media_of};
use super::sockets::SocketShare;
use super::worker::{Settings, WAKE, Worker};

/// Why the engine did not start; ends the start of the node.
#[derive(Debug, thiserror::Error)]
pub enum MediaStartError {
    /// The operator's to change.
    #[error(transparent)]
    Config(#[from] MediaConfigError),
    /// The kernel gave no epoll, eventfd or thread.
    #[error("media thread: {0}")]
    Thread(#[from] io::Error),
}

/// What an engine has that is off.
const NO_PORTS: (u16, u16) = (1, 0);

/// What is left for further calls; of each first how many there are, then how many are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaRoom {
    /// Port pairs, of the address that has the fewest.
    pub pairs: (usize, usize),
    /// Sockets, by the engine's share of descriptors.
    pub sockets: (usize, usize),
    /// Sessions that there were none for, since the start.
    pub refused: u64,
}

/// The media engine; see the module.
#[derive(Debug)]
pub struct MediaEngine;

impl MediaEngine {
    /// Starts the threads and returns the handle. Reports go to `events`; if it is full, the engine holds its answers back
    /// and carries out no further orders until there is room, while packets flow on.
    ///
    /// # Errors
    /// A bad setting, or a kernel out of descriptors or threads. Addresses are not tried: they may come later (`OpenFailed`).
    pub fn start(config: &MediaConfig, events: &mpsc::Sender<MediaEvent>) -> Result<MediaHandle, MediaStartError> {
        let addresses: Vec<_> = config.external.iter().chain(config.core.iter()).collect();
        let range = if config.kind == MediaKind::Embedded { config.port_range } else { NO_PORTS };
        let supply = Supply {
            pools: Arc::new(Mutex::new(PortPools::new(&addresses, range, Instant::now()))),
            sockets: SocketShare::new(config.sockets),
        };
        let mut engine = Engine { shards: Vec::new(), threads: Mutex::default(), supply: supply.clone() };
        if config.kind == MediaKind::Embedded {
            config.validate()?;
            let settings = Settings { external: config.external, core: config.core, guard: config.guard_window, supply };
            for n in 0..config.threads {
                // On an error `engine` is dropped and ends the threads that run already.
                engine.spawn(n, settings.clone(), events.clone())?;
            }
        }
        Ok(MediaHandle { engine: Arc::new(engine) })
    }
}

/// Threads and what is shared with them; ends them when dropped.
#[derive(Debug)]
struct Engine {
    shards: Vec<Arc<Shard>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    supply: Supply,
}

impl Engine {
    fn spawn(&mut self, n: usize, settings: Settings, events: mpsc::Sender<MediaEvent>) -> Result<(), MediaStartError> {
        let poll = mio::Poll::new()?;
        let shard = Arc::new(Shard::new(mio::Waker::new(poll.registry(), WAKE)?));
        let worker = Worker::new(poll, Arc::clone(&shard), settings, events);
        let thread = std::thread::Builder::new().name(format!("media-{n}")).spawn(move || worker.run())?;
        self.shards.push(shard);
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// The thread of a session: the same for all its orders. Ids count up, and Fibonacci hashing spreads such.
    fn shard(&self, media: MediaId) -> Option<&Shard> {
        let hash = media.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let count = self.shards.len() as u64;
        let index = usize::try_from(hash.checked_rem(count)?).ok()?;
        self.shards.get(index).map(Arc::as_ref)
    }

    fn stop(&self) {
        for shard in &self.shards {
            shard.request_stop();
        }
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("media thread had panicked");
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The way to the engine; clones are the same engine. The last one that is dropped ends it.
#[derive(Clone, Debug)]
pub struct MediaHandle {
    engine: Arc<Engine>,
}

impl MediaHandle {
    /// Queues an order for the session's thread. Does not block. Orders of one session are carried out in their order.
    ///
    /// # Errors
    /// The engine is `none` or down, or the thread's queue is full. For `Open` the caller gives
    /// [`MediaRefused::into_event`] to core, which waits for an answer. A `Close` is refused only by an engine that is down,
    /// or when more wait than there can be sessions.
    pub fn command(&self, command: MediaCommand) -> Result<(), MediaRefused> {
        match self.engine.shard(media_of(&command)) {
            Some(shard) => shard.push(command),
            None => Err(MediaRefused { media: media_of(&command), reason: "media engine is off" }),
        }
    }

    /// The present counters of a session, read beside the packet path; `None`: not open.
    pub fn stats(&self, media: MediaId) -> Option<MediaStats> {
        self.engine.shard(media)?.stats(media)
    }

    /// What is left for further calls.
    pub fn room(&self) -> MediaRoom {
        let supply = &self.engine.supply;
        MediaRoom {
            pairs: supply.pools.lock().unwrap_or_else(PoisonError::into_inner).room(),
            sockets: supply.sockets.room(),
            refused: self.totals().exhausted,
        }
    }

    /// The counters of the whole engine.
    pub fn totals(&self) -> MediaTotals {
        let mut sum = MediaTotals::default();
        for shard in &self.engine.shards {
            sum.add(&shard.totals.read());
        }
        sum
    }

    /// True while every media thread takes its turns; an engine without threads (`none`) has nothing that could fail. Not
    /// for the packet path: each call may wake the threads.
    pub fn is_alive(&self) -> bool {
        let now = Instant::now();
        // All are asked, whatever the first says.
        self.engine.shards.iter().filter(|s| !s.is_alive(now)).count() == 0
    }

    /// The same for who cannot wait as long: each thread must have answered within `limit`.
    pub fn is_alive_within(&self, limit: Duration) -> bool {
        let now = Instant::now();
        self.engine.shards.iter().filter(|s| !s.is_alive_within(now, limit)).count() == 0
    }

    /// Ends the threads and waits for them (some milliseconds: it blocks); closes all sessions without a report each, and
    /// answers the orders that wait. Later orders are refused.
    pub fn shutdown(&self) {
        self.engine.stop();
    }
}
