//! The driver: one task that owns the core, stamps the time on what happens, and has done what the core decides.
//!
//! Everything comes through bounded queues. When they are full, datagrams and peer frames are dropped (SIP retransmits): of datagrams those
//! of whoever sends most (`intake`); streams and the log wait. `turn` has the order in which things are done.

mod clock;
mod handle;
mod intake;
mod judge;
mod pause;
mod turn;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use prost::Message;
use sbc_core::ids::{CallUid, CommandId, MediaId, ProposalId, ResolveId};
use sbc_core::io::{
    AlarmKind, CommandReply, Counter, DropReason, Input, MediaCommand, MediaEvent, MediaStats, Output, PeerMessage, ResolveError,
    SendFailure, Target, View,
};
use sbc_core::policy::ClusterConfig;
use sbc_core::replica::EarlyCalls;
use sbc_core::sbc::Sbc;
use sbc_raft::RaftHandle;
use tokio::sync::{mpsc, oneshot, watch};

pub use clock::Clock;
pub use handle::{DriverHandle, DriverStopped};

use crate::dns::Resolver;
use crate::media::MediaHandle;
use crate::peer::{FromPeer, PeerLinks};
use crate::store::FromStore;
use crate::transport::{TransportEvent, TransportHandle};

/// Proposals whose fate is open; beyond it they fail at once, and calls go on degraded. Two seconds of the sizing goal.
const MAX_PROPOSALS: usize = 20_000;
/// DNS questions at once; beyond it they fail at once, and the next target is tried.
const MAX_QUESTIONS: usize = 2_000;

/// Turns a revision's text into values; the error is for the log.
pub type ParseConfig = Arc<dyn Fn(u64, &str) -> Result<ClusterConfig, String> + Send + Sync>;

/// A DNS question with its answer.
type Answered = (ResolveId, Result<Vec<Target>, ResolveError>);

/// Is told of a trunk: its name, whether one of its targets is up, how long the answer took.
pub type OnProbed = Arc<dyn Fn(&str, bool, Option<Duration>) + Send + Sync>;

/// Is told of an alarm: what is wrong, for people; `None`: it is well.
pub type OnAlarm = Arc<dyn Fn(AlarmKind, Option<String>) + Send + Sync>;

/// What the driver works with.
pub struct Parts {
    /// The core.
    pub sbc: Sbc,
    /// Its clock.
    pub clock: Clock,
    /// Sockets.
    pub transport: TransportHandle,
    /// Names.
    pub resolver: Arc<Resolver>,
    /// Ports and packets.
    pub media: MediaHandle,
    /// The log, once it has started: before that proposals fail, and calls go on degraded.
    pub raft: Arc<OnceLock<RaftHandle>>,
    /// Other nodes.
    pub peers: PeerLinks,
    /// Turns a revision's text into values; an error keeps the old ones.
    pub parse_config: ParseConfig,
    /// Is told what is wrong, and what is well again (`None`).
    pub alarm: OnAlarm,
    /// Counts.
    pub count: Arc<dyn Fn(Counter) + Send + Sync>,
    /// How long a quorum's confirmation counts.
    pub lease: Duration,
    /// Where it is told whether a trunk is up: its name, and how long the answer took.
    pub probed: OnProbed,
}

/// The queues that the driver reads.
pub struct Queues {
    /// From sockets.
    pub transport: mpsc::Receiver<TransportEvent>,
    /// From the engine.
    pub media: mpsc::Receiver<MediaEvent>,
    /// From peers.
    pub peers: mpsc::Receiver<FromPeer>,
    /// From the log.
    pub store: mpsc::Receiver<FromStore>,
    /// From the control plane.
    pub orders: mpsc::Receiver<Order>,
}

/// What the control plane and the node's own tasks ask.
#[derive(Debug)]
pub enum Order {
    /// A command of the core.
    Command(sbc_core::io::Command, oneshot::Sender<CommandReply>),
    /// The cluster changed.
    View(View),
    /// Configuration read at the start.
    Configure(Arc<ClusterConfig>),
    /// The media session of a call that this node owns.
    MediaOf(CallUid, oneshot::Sender<Option<MediaId>>),
}

/// Driver, running.
pub struct Driver {
    parts: Parts,
    proposals: FuturesUnordered<BoxFuture<'static, Result<Duration, ProposalId>>>,
    questions: FuturesUnordered<BoxFuture<'static, Answered>>,
    waiting: HashMap<CommandId, oneshot::Sender<CommandReply>>,
    next_command: u64,
    /// Inputs that outputs gave rise to (a send that failed at once).
    echoes: Vec<Input>,
    events: watch::Sender<u64>,
    halted: watch::Sender<Option<String>>,
    pulse: Arc<clock::Pulse>,
    early: Arc<RwLock<EarlyCalls>>,
    pause: pause::Pause,
}

impl Driver {
    /// Runs until the queues close or the log holds what this version cannot apply.
    pub fn spawn(parts: Parts, queues: Queues, handle: &DriverHandle) -> tokio::task::JoinHandle<()> {
        let driver = Driver {
            pause: pause::Pause::new(parts.lease),
            parts,
            proposals: FuturesUnordered::new(),
            questions: FuturesUnordered::new(),
            waiting: HashMap::new(),
            next_command: 0,
            echoes: Vec::new(),
            events: handle.events.clone(),
            halted: handle.halted.clone(),
            pulse: handle.pulse.clone(),
            early: handle.early.clone(),
        };
        tokio::spawn(driver.run(queues))
    }

    fn dropped(&self, reason: DropReason) {
        (self.parts.count)(Counter::Dropped(reason));
    }

    fn on_store(&mut self, message: FromStore) {
        match message {
            FromStore::Entries { entries, done } => {
                for (index, entry) in entries {
                    self.input(Input::Applied { index, entry });
                }
                // Nobody waits where Raft has stopped meanwhile.
                let _ = done.send(());
            }
            FromStore::Replaced { done } => {
                self.input(Input::StateReplaced);
                let _ = done.send(());
            }
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Command(command, reply) => {
                self.next_command += 1;
                let id = CommandId(self.next_command);
                self.waiting.insert(id, reply);
                self.input(Input::Command { id, command });
            }
            Order::View(view) => {
                let view = self.pause.admit(view);
                self.input(Input::ViewChanged(view));
            }
            Order::Configure(config) => self.input(Input::Reconfigured(config)),
            Order::MediaOf(call, reply) => {
                let _ = reply.send(self.parts.sbc.media_of(call));
            }
        }
    }

    fn input(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            let now = self.parts.clock.now();
            self.parts.sbc.handle_input(now, input);
            while let Some(output) = self.parts.sbc.poll_output() {
                self.output(output);
            }
            self.look_for_pause(now.mono);
            next = self.echoes.pop();
        }
    }

    /// The loop was to go on at that time, and did not.
    fn after_pause(&mut self, since: sbc_core::time::Instant) {
        self.look_for_pause(since);
        if let Some(view) = self.echoes.pop() {
            self.input(view);
        }
    }

    /// The loop has been at something else since then.
    fn look_for_pause(&mut self, since: sbc_core::time::Instant) {
        let now = self.parts.clock.now();
        if let Some(view) = self.pause.look(since, now.mono) {
            let ms = u64::try_from(now.mono.since(since).as_millis()).unwrap_or(u64::MAX);
            tracing::warn!(ms, "the SIP loop stood still: nothing is initiated until a quorum confirms this node again");
            self.echoes.push(Input::ViewChanged(view));
        }
    }

    fn output(&mut self, output: Output) {
        match output {
            Output::Transmit(transmit) => {
                let id = transmit.id;
                if let Err(reason) = self.parts.transport.send(transmit)
                    && id.0 != 0
                {
                    self.echoes.push(Input::SendFailed { id, reason });
                }
            }
            Output::Peer { to, message } => {
                if !self.parts.peers.send(to, &message) {
                    (self.parts.count)(Counter::Dropped(DropReason::PeerLink));
                    if let PeerMessage::SendFor(transmit) = message
                        && transmit.id.0 != 0
                    {
                        // As if that node had said so: its connection is no way while the link is down or full.
                        let message = PeerMessage::SendForFailed { id: transmit.id, reason: SendFailure::Refused };
                        self.echoes.push(Input::Peer { from: to, message });
                    }
                }
            }
            Output::Resolve { id, request } => self.ask(id, request),
            Output::Media(command) => self.order_media(command),
            Output::Propose { id, command } => self.propose(id, &command),
            Output::ConfigChanged { revision, text } => match (self.parts.parse_config)(revision, &text) {
                Ok(config) => self.echoes.push(Input::Reconfigured(Arc::new(config))),
                // Validated before it was proposed: another version of this software thinks otherwise.
                Err(error) => tracing::error!(revision, %error, "configuration refused; the previous one stays"),
            },
            Output::Reply { id, reply } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let _ = waiting.send(reply);
                }
            }
            Output::Count(counter) => (self.parts.count)(counter),
            Output::TrunkProbed { trunk, up, rtt } => (self.parts.probed)(&trunk, up, rtt),
            Output::Halt(reason) => {
                tracing::error!(%reason, "the log cannot be applied");
                self.halted.send_replace(Some(reason));
            }
            Output::Alarm { kind, raised } => (self.parts.alarm)(kind, raised),
            Output::PeerSaid { node, incarnation, state } => self.parts.peers.words().note(node, incarnation.0, state),
            Output::Uncommitted(told) => {
                let told = *told;
                let mut early = self.early.write().unwrap_or_else(PoisonError::into_inner);
                early.set(told.call, told.entry, told.events, told.last);
                drop(early);
                self.events.send_modify(|n| *n += 1);
            }
            Output::EventsChanged => self.events.send_modify(|n| *n += 1),
        }
    }

    fn ask(&mut self, id: ResolveId, request: sbc_core::io::ResolveRequest) {
        if self.questions.len() >= MAX_QUESTIONS {
            self.echoes.push(Input::Resolved { id, result: Err(ResolveError::Unavailable) });
            return;
        }
        let resolver = self.parts.resolver.clone();
        self.questions.push(Box::pin(async move { (id, resolver.resolve(request).await) }));
    }

    fn order_media(&mut self, command: MediaCommand) {
        let close = match &command {
            MediaCommand::Close { media } => Some(*media),
            _ => None,
        };
        let open = matches!(command, MediaCommand::Open { .. });
        if let Err(refused) = self.parts.media.command(command) {
            if let Some(media) = close {
                self.echoes.push(Input::Media(MediaEvent::Closed { media, stats: MediaStats::default() }));
            } else if open {
                self.echoes.push(Input::Media(refused.into_event()));
            }
        }
    }

    fn propose(&mut self, id: ProposalId, command: &sbc_core::store_pb::Command) {
        let Some(raft) = self.parts.raft.get().filter(|_| self.proposals.len() < MAX_PROPOSALS) else {
            self.echoes.push(Input::ProposeFailed { id });
            return;
        };
        let proposal = raft.propose(command.encode_to_vec().into());
        let began = Instant::now();
        self.proposals.push(Box::pin(async move { proposal.await.map(|_| began.elapsed()).map_err(|_| id) }));
    }
}
