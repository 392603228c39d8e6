//! One media thread: its epoll loop, its sessions.
//!
//! Sockets are edge-triggered: one that was not read to its end stays in `ready` and is read again in the next round, after
//! all others had their turn. Orders are carried out between rounds, and not while an answer waits for room in the event
//! channel: a reader that stands still stops new orders, never packets.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use sbc_core::ids::MediaId;
use sbc_core::io::{Addresses, MediaCommand, MediaEvent, MediaStats, Realm, Side, SideHeard, StreamPorts};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::counters::{SessionCounters, add};
use super::leg::{BindError, Leg, Supply};
use super::limits::{
    BACKLOG_RETRY, COMMANDS_PER_WAKE, LATCHED_BACKLOG, MAX_DATAGRAM, MAX_SESSIONS_PER_THREAD, MAX_STREAMS, POLL_EVENTS,
};
use super::shard::Shard;
use super::stream::{Buffer, SocketIndex, Stream};

/// The waker's token; no socket reaches it.
pub(super) const WAKE: Token = Token(usize::MAX);

/// What all threads of an engine have in common.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) external: Addresses,
    pub(super) core: Addresses,
    pub(super) guard: Duration,
    pub(super) supply: Supply,
}

impl Settings {
    fn addresses(&self, realm: Realm) -> Addresses {
        match realm {
            Realm::External => self.external,
            Realm::Core => self.core,
        }
    }
}

/// Why an `Open` failed.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error("streams {0:?} are none, or more than {MAX_STREAMS}")]
    Streams(Range<u8>),
    #[error("{MAX_SESSIONS_PER_THREAD} media sessions on one thread")]
    Sessions,
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("media socket cannot be watched: {0}")]
    Register(io::Error),
}

impl OpenError {
    /// There is too little of something that comes back when calls end.
    fn is_exhaustion(&self) -> bool {
        match self {
            OpenError::Streams(_) | OpenError::Register(_) => false,
            OpenError::Sessions => true,
            OpenError::Bind(e) => e.is_exhaustion(),
        }
    }
}

#[derive(Debug, Default)]
struct Session {
    /// m-line index → place in `Worker::streams`.
    streams: BTreeMap<u8, usize>,
    counters: Arc<SessionCounters>,
}

/// One media thread's state.
pub(super) struct Worker {
    poll: Poll,
    shard: Arc<Shard>,
    settings: Settings,
    events: mpsc::Sender<MediaEvent>,
    /// Reports that found the event channel full, oldest first.
    backlog: VecDeque<MediaEvent>,
    sessions: HashMap<MediaId, Session>,
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    /// Sockets to read: place in `streams` and which of its four.
    ready: VecDeque<(usize, SocketIndex)>,
    /// There may be orders in the queue.
    commands: bool,
}

impl Worker {
    pub(super) fn new(poll: Poll, shard: Arc<Shard>, settings: Settings, events: mpsc::Sender<MediaEvent>) -> Worker {
        Worker {
            poll,
            shard,
            settings,
            events,
            backlog: VecDeque::new(),
            sessions: HashMap::new(),
            streams: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            commands: false,
        }
    }

    /// Runs until it is told to stop or epoll fails.
    pub(super) fn run(mut self) {
        let mut events = Events::with_capacity(POLL_EVENTS);
        let mut buffer = [0; MAX_DATAGRAM + 1];
        while !self.shard.is_stopping() {
            self.shard.on_turn();
            let timeout = self.poll_timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    tracing::error!(error = %e, "media thread ends: epoll failed");
                    break;
                }
            }
            for event in &events {
                self.on_event(event.token());
            }
            self.pump(&mut buffer);
            self.flush();
            self.carry_out();
        }
        // Drop for Worker releases the sessions and answers what is queued.
    }

    /// How long epoll may sleep. Nothing to do: until a packet or an order comes.
    fn poll_timeout(&self) -> Option<Duration> {
        if !self.ready.is_empty() || (self.commands && self.backlog.is_empty()) {
            Some(Duration::ZERO)
        } else if !self.backlog.is_empty() {
            Some(BACKLOG_RETRY)
        } else {
            None
        }
    }

    fn on_event(&mut self, token: Token) {
        if token == WAKE {
            self.commands = true;
            return;
        }
        let (place, socket) = (token.0 / SocketIndex::COUNT, SocketIndex(token.0 % SocketIndex::COUNT));
        if let Some(Some(stream)) = self.streams.get_mut(place)
            && stream.enqueue(socket)
        {
            self.ready.push_back((place, socket));
        }
    }

    /// One turn for every socket that has something to read.
    fn pump(&mut self, buffer: &mut Buffer) {
        let now = Instant::now();
        for _ in 0..self.ready.len() {
            let Some((place, socket)) = self.ready.pop_front() else { break };
            let Some(Some(stream)) = self.streams.get_mut(place) else { continue };
            let pumped = stream.pump(socket, buffer, now, &self.shard.totals);
            if pumped.more && stream.enqueue(socket) {
                self.ready.push_back((place, socket));
            }
            if let Some((side, source)) = pumped.latched {
                let event = MediaEvent::Latched { media: stream.media, stream: stream.index, side, source };
                self.report(event);
            }
        }
    }

    /// Hands a report out, or keeps it until there is room.
    fn report(&mut self, event: MediaEvent) {
        if self.backlog.is_empty() {
            match self.events.try_send(event) {
                // Nobody is left who could want it.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(event)) => self.backlog.push_back(event),
            }
        } else if matches!(event, MediaEvent::Latched { .. }) && self.backlog.len() >= LATCHED_BACKLOG {
            add(&self.shard.totals.events_dropped, 1);
        } else {
            self.backlog.push_back(event);
        }
    }

    fn flush(&mut self) {
        while let Some(event) = self.backlog.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.backlog.push_front(event);
                return;
            }
        }
    }

    fn carry_out(&mut self) {
        for _ in 0..COMMANDS_PER_WAKE {
            if !self.commands || !self.backlog.is_empty() {
                return;
            }
            match self.shard.pop() {
                Some(command) => self.on_command(command),
                // The next push finds the queue empty and wakes us.
                None => self.commands = false,
            }
        }
    }

    fn on_command(&mut self, command: MediaCommand) {
        match command {
            MediaCommand::Open { media, first, count, realms, urgent } => {
                let event = match self.open(media, first..first.saturating_add(count), realms, urgent) {
                    Ok(ports) => MediaEvent::Opened { media, first, ports },
                    Err(e) => {
                        add(&self.shard.totals.open_failed, 1);
                        if e.is_exhaustion() {
                            // The alarm tells; a line for each call of a flood would be one more.
                            add(&self.shard.totals.exhausted, 1);
                            tracing::debug!(media = media.0, error = %e, "media ports not opened");
                        } else {
                            tracing::warn!(media = media.0, error = %e, "media ports not opened");
                        }
                        MediaEvent::OpenFailed { media, reason: e.to_string().into() }
                    }
                };
                self.report(event);
            }
            MediaCommand::Remote { media, stream, side, remote } => {
                let place = self.sessions.get(&media).and_then(|s| s.streams.get(&stream)).copied();
                match place.and_then(|p| self.streams.get_mut(p)) {
                    Some(Some(stream)) => stream.leg_mut(side).signal(remote),
                    _ => add(&self.shard.totals.remote_ignored, 1),
                }
            }
            MediaCommand::Ask { media } => {
                let [caller, callee] = [Side::Caller, Side::Callee].map(|side| self.heard(media, side));
                self.report(MediaEvent::Heard { media, caller, callee });
            }
            MediaCommand::Close { media } => {
                let stats = self.close(media);
                self.report(MediaEvent::Closed { media, stats });
            }
        }
    }

    /// What came from one side of a session; nothing from one that is not there.
    fn heard(&self, media: MediaId, side: Side) -> SideHeard {
        let Some(session) = self.sessions.get(&media) else { return SideHeard::default() };
        let streams = session.streams.values().filter_map(|place| self.streams.get(*place)?.as_ref());
        SideHeard { packets: session.counters.side(side).taken(), source: streams.filter_map(|s| s.leg(side).source()).next() }
    }

    /// Opens what of `streams` is not open; all or nothing. `urgent`: also with what is kept for emergency calls.
    fn open(
        &mut self,
        media: MediaId,
        streams: Range<u8>,
        realms: [Realm; 2],
        urgent: bool,
    ) -> Result<Vec<StreamPorts>, OpenError> {
        if streams.is_empty() || streams.end > MAX_STREAMS {
            return Err(OpenError::Streams(streams));
        }
        let mut session = match self.sessions.remove(&media) {
            Some(session) => session,
            None if self.sessions.len() >= MAX_SESSIONS_PER_THREAD => return Err(OpenError::Sessions),
            None => {
                let session = Session::default();
                self.shard.publish(media, Arc::clone(&session.counters));
                session
            }
        };
        let mut opened = Vec::new();
        let mut result = Ok(());
        for index in streams.clone() {
            if session.streams.contains_key(&index) {
                continue;
            }
            match self.open_stream(media, index, realms, urgent, &session.counters) {
                Ok(place) => {
                    session.streams.insert(index, place);
                    opened.push(index);
                }
                Err(e) => {
                    result = Err(e);
                    break;
                }
            }
        }
        if result.is_err() {
            for place in opened.iter().filter_map(|index| session.streams.remove(index)) {
                self.drop_stream(place);
            }
        }
        let places = session.streams.range(streams).map(|(_, &place)| place);
        let ports = places.filter_map(|p| self.streams[p].as_ref().map(Stream::ports)).collect();
        if session.streams.is_empty() {
            self.shard.withdraw(media);
        } else {
            self.sessions.insert(media, session);
        }
        self.shard.totals.sessions.store(self.sessions.len() as u64, Relaxed);
        result.map(|()| ports)
    }

    fn open_stream(
        &mut self,
        media: MediaId,
        index: u8,
        [caller, callee]: [Realm; 2],
        urgent: bool,
        counters: &Arc<SessionCounters>,
    ) -> Result<usize, OpenError> {
        let bind = |realm| Leg::bind(self.settings.addresses(realm), &self.settings.supply, urgent, self.settings.guard);
        let mut stream = Stream::new(media, index, bind(caller)?, bind(callee)?, Arc::clone(counters));
        let place = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        let registry = self.poll.registry();
        if let Err(e) = stream.register(registry, |socket| Token(place * SocketIndex::COUNT + socket.0)) {
            stream.deregister(registry);
            self.free.push(place);
            return Err(OpenError::Register(e));
        }
        self.streams[place] = Some(stream);
        add(&self.shard.totals.streams, 1);
        Ok(place)
    }

    /// Closes all streams of a session; its last counters, or zeros if there is none.
    fn close(&mut self, media: MediaId) -> MediaStats {
        let Some(session) = self.sessions.remove(&media) else { return MediaStats::default() };
        for place in session.streams.into_values() {
            self.drop_stream(place);
        }
        self.shard.withdraw(media);
        self.shard.totals.sessions.store(self.sessions.len() as u64, Relaxed);
        session.counters.read()
    }

    fn drop_stream(&mut self, place: usize) {
        if let Some(mut stream) = self.streams[place].take() {
            stream.deregister(self.poll.registry());
            self.free.push(place);
            self.shard.totals.streams.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Worker {
    /// However the thread ends: whoever waits for an answer gets one, and whoever comes later is refused.
    fn drop(&mut self) {
        self.flush();
        for command in self.shard.finish() {
            let event = match command {
                MediaCommand::Open { media, .. } => MediaEvent::OpenFailed { media, reason: "media engine is down".into() },
                MediaCommand::Close { media } => MediaEvent::Closed { media, stats: self.close(media) },
                MediaCommand::Remote { .. } | MediaCommand::Ask { .. } => continue,
            };
            self.report(event);
        }
        self.shard.totals.sessions.store(0, Relaxed);
        self.shard.totals.streams.store(0, Relaxed);
    }
}
