//! The sending end of one link.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_proto::peer::peer_frame::Kind;
use sbc_proto::peer::peer_link_service_client::PeerLinkServiceClient;
use sbc_proto::peer::{Hello, PeerFrame, Ping};
use sbc_raft::{Connector, PeerConfig};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::words::{self, Words};
use super::{LinkState, Myself, delay, skew};

/// How often a peer is asked whether it is there.
const PING_EVERY: Duration = Duration::from_millis(300);
/// A peer that has been silent for so long is not relayed to: four pings, and below the lease.
const SILENCE: Duration = Duration::from_millis(1200);
/// Pause before a lost link is opened again.
const RETRY: Duration = Duration::from_millis(200);
/// Longest time for a link to come up.
const CONNECT: Duration = Duration::from_secs(2);
/// Frames between this task and the stream.
const IN_FLIGHT: usize = 256;

pub(super) struct Task {
    pub(super) myself: Myself,
    pub(super) peer: PeerConfig,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) state: Arc<LinkState>,
    pub(super) changes: Arc<watch::Sender<u64>>,
    pub(super) words: Words,
    /// How this node is.
    pub(super) own: watch::Receiver<NodeState>,
}

impl Task {
    /// Until the queue's senders are gone.
    pub(super) async fn run(self, mut queue: mpsc::Receiver<PeerFrame>) {
        loop {
            match self.serve(&mut queue).await {
                Ok(()) => return,
                Err(why) => tracing::debug!(peer = %self.peer.name, %why, "peer link down"),
            }
            self.set_alive(false);
            // What waited is stale: its senders have retransmitted, or given up.
            while queue.try_recv().is_ok() {}
            sleep(RETRY).await;
        }
    }

    async fn serve(&self, queue: &mut mpsc::Receiver<PeerFrame>) -> Result<(), String> {
        let channel = self.connector.channel(&self.peer);
        let (frames, outgoing) = mpsc::channel(IN_FLIGHT);
        let hello = Hello {
            node: u32::from(self.myself.node.0),
            incarnation: self.myself.incarnation,
            cluster_id: self.myself.cluster_id.clone(),
            level: self.myself.level,
            state: Some(words::to_frame(*self.own.borrow())),
        };
        frames.send(frame(Kind::Hello(hello))).await.map_err(|e| e.to_string())?;
        let mut client = PeerLinkServiceClient::new(channel);
        let mut incoming = match timeout(CONNECT, client.link(ReceiverStream::new(outgoing))).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                if status.code() == tonic::Code::FailedPrecondition {
                    tracing::warn!(peer = %self.peer.name, why = status.message(), "the peer refuses the link");
                }
                return Err(status.to_string());
            }
            Err(_) => return Err("connecting took too long".into()),
        };
        let mut pings = interval(PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let (mut nonce, mut incarnation) = (0u64, 0);
        let mut own = self.own.clone();
        let mut asked = Instant::now();
        loop {
            tokio::select! {
                received = incoming.next() => match received {
                    Some(Ok(received)) => {
                        if let Some(Kind::Hello(hello)) = &received.kind {
                            self.state.level.store(super::level_of(hello), Ordering::Relaxed);
                        }
                        if let Some(Kind::Pong(pong)) = &received.kind
                            && pong.nonce == nonce
                        {
                            self.state.skew.measure(asked.elapsed(), pong.unix_ms, skew::wall_ms());
                        }
                        heard = Instant::now();
                        self.state.note_heard();
                        self.set_alive(true);
                        self.note_word(&mut incarnation, received);
                    }
                    Some(Err(status)) => return Err(status.to_string()),
                    None => return Err("closed by the peer".into()),
                },
                next = queue.recv() => match next {
                    Some(next) => frames.send(next).await.map_err(|e| e.to_string())?,
                    None => return Ok(()),
                },
                _ = pings.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Err("no answer to pings".into());
                    }
                    nonce += 1;
                    asked = Instant::now();
                    frames.try_send(self.ping(nonce)).map_err(|e| e.to_string())?;
                }
                // Said at once; one that finds no room is said by the next ping. A sender that is gone is a node that stops.
                Ok(()) = own.changed() => drop(frames.try_send(self.ping(nonce))),
            }
        }
    }

    fn ping(&self, nonce: u64) -> PeerFrame {
        frame(Kind::Ping(Ping { nonce, sent_us: delay::sender_us(), state: Some(words::to_frame(*self.own.borrow())) }))
    }

    /// What the peer says of itself.
    fn note_word(&self, incarnation: &mut u32, received: PeerFrame) {
        let Ok(from) = u16::try_from(self.peer.id).map(NodeId) else { return };
        let state = match received.kind {
            Some(Kind::Hello(hello)) => {
                *incarnation = hello.incarnation;
                hello.state
            }
            Some(Kind::Pong(pong)) => pong.state,
            _ => None,
        };
        self.words.note_frame(from, *incarnation, state);
    }

    fn set_alive(&self, alive: bool) {
        if self.state.alive.swap(alive, Ordering::Relaxed) != alive {
            tracing::info!(peer = %self.peer.name, alive, "peer link changed");
            self.changes.send_modify(|n| *n += 1);
        }
    }
}

pub(super) fn frame(kind: Kind) -> PeerFrame {
    PeerFrame { kind: Some(kind) }
}
