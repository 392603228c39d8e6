//! The peer link: how a misrouted packet gets to its owner, and the owner's answers back (anycast.md, rule D).
//!
//! Each node opens one stream to each other node and sends on it; what it receives there is only Hello and Pong. A full
//! queue drops: SIP retransmits. A peer counts as alive while its Pongs come. Pings and Pongs also say how their sender is.

mod convert;
mod delay;
mod link;
mod service;
mod skew;
mod words;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sbc_core::ids::NodeId;
use sbc_core::io::{NodeState, PeerMessage};
use sbc_proto::peer::{Hello, PeerFrame};
use sbc_raft::{Connector, PeerConfig};
use tokio::sync::{mpsc, watch};

pub use service::{Admit, LinkService, LogFacts};
pub use words::{WORD_LIMIT, Word, Words};

/// Frames that wait for one peer: two seconds of a thousand misrouted packets a second.
const QUEUE: usize = 2048;

/// A link that has been down for the lease, within which the node behind it may still act, and so much longer leads to a node that is
/// taken for dead: clocks run unevenly. Counted from when the peer was last heard, or from the start of this node.
const MARGIN: Duration = Duration::from_secs(1);

/// The level that a Hello says: before there were levels, nodes knew the first.
fn level_of(hello: &Hello) -> u32 {
    hello.level.max(1)
}

/// What the driver gets from peers.
#[derive(Clone, Debug)]
pub struct FromPeer {
    /// Who.
    pub from: NodeId,
    /// What.
    pub message: PeerMessage,
    /// When it was read.
    pub at: Instant,
}

/// This node, as it says Hello.
#[derive(Clone, Debug)]
pub struct Myself {
    /// Its id.
    pub node: NodeId,
    /// The number of this start.
    pub incarnation: u32,
    /// Its cluster.
    pub cluster_id: String,
    /// The newest format level of the log that it knows.
    pub level: u32,
}

/// Links to all peers.
#[derive(Clone)]
pub struct PeerLinks {
    links: Arc<HashMap<NodeId, Link>>,
    words: Words,
    changed: watch::Receiver<u64>,
    down_after: Duration,
}

struct Link {
    frames: mpsc::Sender<PeerFrame>,
    state: Arc<LinkState>,
}

/// What is known of the peer behind a link.
struct LinkState {
    alive: AtomicBool,
    /// The format level of its last Hello; 0: it has said none.
    level: AtomicU32,
    /// How far its clock is from ours.
    skew: skew::Skew,
    /// When it was last heard; before that, when the link was first tried.
    heard: Mutex<Instant>,
    down_after: Duration,
}

impl LinkState {
    fn new(lease: Duration) -> LinkState {
        LinkState {
            alive: AtomicBool::new(false),
            level: AtomicU32::new(0),
            skew: skew::Skew::default(),
            heard: Mutex::new(Instant::now()),
            down_after: lease + MARGIN,
        }
    }

    fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    fn is_down(&self, now: Instant) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        !self.is_alive() && now.saturating_duration_since(heard) > self.down_after
    }

    fn note_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl PeerLinks {
    /// Opens a link to each peer on the current runtime, and keeps it open. `lease`: how long a node acts on a quorum's word; `own`: how
    /// this node is, which its peers hear at once when it changes.
    pub fn start(
        myself: &Myself,
        peers: &[PeerConfig],
        connector: &Arc<dyn Connector>,
        lease: Duration,
        own: &watch::Receiver<NodeState>,
    ) -> PeerLinks {
        let (changes, changed) = watch::channel(0u64);
        let changes = Arc::new(changes);
        let words = Words::new(changes.clone());
        let mut links = HashMap::new();
        for peer in peers {
            let Ok(id) = u16::try_from(peer.id) else { continue };
            let (frames, queue) = mpsc::channel(QUEUE);
            let state = Arc::new(LinkState::new(lease));
            let task = link::Task {
                myself: myself.clone(),
                peer: peer.clone(),
                connector: connector.clone(),
                state: state.clone(),
                changes: changes.clone(),
                words: words.clone(),
                own: own.clone(),
            };
            tokio::spawn(task.run(queue));
            links.insert(NodeId(id), Link { frames, state });
        }
        PeerLinks { links: Arc::new(links), words, changed, down_after: lease + MARGIN }
    }

    /// Sends; false when there is no link or its queue is full.
    pub fn send(&self, to: NodeId, message: &PeerMessage) -> bool {
        let Some(link) = self.links.get(&to) else { return false };
        link.state.is_alive() && link.frames.try_send(convert::to_frame(message)).is_ok()
    }

    /// The newest format level of the log that the peer knows, by its last Hello; `None`: it has not been heard.
    pub fn level(&self, node: NodeId) -> Option<u32> {
        let level = self.links.get(&node)?.state.level.load(Ordering::Relaxed);
        (level > 0).then_some(level)
    }

    /// How far the peer's wall clock is ahead of ours, milliseconds; `None`: it is not linked, or has not said.
    pub fn clock_skew_ms(&self, node: NodeId) -> Option<i64> {
        self.links.get(&node).filter(|l| l.state.is_alive())?.state.skew.get()
    }

    /// True while the link to the peer works.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|l| l.state.is_alive())
    }

    /// True once the peer has been silent for longer than its lease and a margin. A link that is not up yet, or blips, is not down.
    pub fn is_down(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|l| l.state.is_down(Instant::now()))
    }

    /// What peers have said of themselves.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// When the peer was last heard on its link; before that, when the link was first tried.
    pub fn last_heard(&self, node: NodeId) -> Option<Instant> {
        self.links.get(&node).map(|l| *l.state.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How long a peer may be silent before it is taken for dead.
    pub fn down_after(&self) -> Duration {
        self.down_after
    }

    /// Changes whenever a link comes or goes, or a peer says something new of itself.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the version before levels writes it: node 2, incarnation 7, cluster "emergency".
    #[test]
    fn a_hello_of_level_1_is_read() {
        use prost::Message;
        let recorded = b"\x0a\x0f\x08\x02\x10\x07\x1a\x09emergency";
        let frame = PeerFrame::decode(&recorded[..]).unwrap();
        let Some(sbc_proto::peer::peer_frame::Kind::Hello(hello)) = frame.kind else { panic!("a Hello") };
        assert_eq!((hello.node, hello.incarnation, hello.cluster_id.as_str(), level_of(&hello)), (2, 7, "emergency", 1));
    }

    #[test]
    fn a_link_that_blips_is_not_down() {
        let state = LinkState::new(Duration::from_secs(2));
        let start = Instant::now();
        assert!(!state.is_alive() && !state.is_down(start), "not up yet");
        let later = start + Duration::from_secs(4);
        assert!(state.is_down(later));
        state.alive.store(true, Ordering::Relaxed);
        assert!(!state.is_down(later));
    }
}
