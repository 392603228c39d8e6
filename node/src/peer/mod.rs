//! The peer link: how a misrouted packet gets to its owner, and the owner's answers back (anycast.md, rule D).
//!
//! Each node opens one stream to each other node and sends on it; what it receives there is only Hello and Pong. A full
//! queue drops: SIP retransmits. A peer counts as alive while its Pongs come.

mod convert;
mod link;
mod service;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sbc_core::ids::NodeId;
use sbc_core::io::PeerMessage;
use sbc_proto::peer::PeerFrame;
use sbc_raft::{Connector, PeerConfig};
use tokio::sync::{mpsc, watch};

pub use service::LinkService;

/// Frames that wait for one peer: two seconds of a thousand misrouted packets a second.
const QUEUE: usize = 2048;

/// What the driver gets from peers.
#[derive(Clone, Debug)]
pub struct FromPeer {
    /// Who.
    pub from: NodeId,
    /// What.
    pub message: PeerMessage,
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
}

/// Links to all peers.
#[derive(Clone)]
pub struct PeerLinks {
    links: Arc<HashMap<NodeId, Link>>,
    changed: watch::Receiver<u64>,
}

struct Link {
    frames: mpsc::Sender<PeerFrame>,
    alive: Arc<AtomicBool>,
}

impl PeerLinks {
    /// Opens a link to each peer on the current runtime, and keeps it open.
    pub fn start(myself: &Myself, peers: &[PeerConfig], connector: &Arc<dyn Connector>) -> PeerLinks {
        let (changes, changed) = watch::channel(0u64);
        let changes = Arc::new(changes);
        let mut links = HashMap::new();
        for peer in peers {
            let Ok(id) = u16::try_from(peer.id) else { continue };
            let (frames, queue) = mpsc::channel(QUEUE);
            let alive = Arc::new(AtomicBool::new(false));
            let task = link::Task {
                myself: myself.clone(),
                peer: peer.clone(),
                connector: connector.clone(),
                alive: alive.clone(),
                changes: changes.clone(),
            };
            tokio::spawn(task.run(queue));
            links.insert(NodeId(id), Link { frames, alive });
        }
        PeerLinks { links: Arc::new(links), changed }
    }

    /// Sends; false when there is no link or its queue is full.
    pub fn send(&self, to: NodeId, message: &PeerMessage) -> bool {
        let Some(link) = self.links.get(&to) else { return false };
        link.alive.load(Ordering::Relaxed) && link.frames.try_send(convert::to_frame(message)).is_ok()
    }

    /// True while the link to the peer works.
    pub fn is_alive(&self, node: NodeId) -> bool {
        self.links.get(&node).is_some_and(|l| l.alive.load(Ordering::Relaxed))
    }

    /// Changes whenever a link comes or goes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
