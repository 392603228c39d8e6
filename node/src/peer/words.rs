//! What each peer last said of itself, and when it was heard.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_proto::peer as pb;
use tokio::sync::watch;

/// How long a word counts: six pings over a link, four questions by OPTIONS. Who is silent for longer may be dead.
pub const WORD_LIMIT: Duration = Duration::from_secs(2);

/// What a peer said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// How it is.
    pub state: NodeState,
    /// Its incarnation.
    pub incarnation: u32,
    /// When that was heard.
    pub at: Instant,
}

/// By peer. Clones share it.
#[derive(Clone, Debug)]
pub struct Words {
    heard: Arc<Mutex<HashMap<NodeId, Word>>>,
    changes: Arc<watch::Sender<u64>>,
}

impl Words {
    /// Nobody has said anything. `changes` counts when somebody says something new.
    pub(super) fn new(changes: Arc<watch::Sender<u64>>) -> Words {
        Words { heard: Arc::default(), changes }
    }

    /// A peer said how it is. What an earlier incarnation says late counts for nothing.
    pub fn note(&self, from: NodeId, incarnation: u32, state: NodeState) {
        let word = Word { state, incarnation, at: Instant::now() };
        let old = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.get(&from).is_some_and(|old| old.incarnation > incarnation) {
                return;
            }
            heard.insert(from, word)
        };
        if old.is_none_or(|old| old.state != state) {
            tracing::debug!(node = from.0, ?state, "a peer says how it is");
            self.changes.send_modify(|n| *n += 1);
        }
    }

    /// The same as a frame has it; a peer of an older version says nothing.
    pub(super) fn note_frame(&self, from: NodeId, incarnation: u32, state: Option<pb::NodeState>) {
        if let Some(state) = state {
            self.note(from, incarnation, from_frame(state));
        }
    }

    /// What a peer said within [`WORD_LIMIT`].
    pub fn of(&self, node: NodeId) -> Option<Word> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&node).copied().filter(|word| word.at.elapsed() < WORD_LIMIT)
    }

    /// The same of all peers.
    pub fn fresh(&self) -> Vec<(NodeId, Word)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.iter().filter(|(_, word)| word.at.elapsed() < WORD_LIMIT).map(|(node, word)| (*node, *word)).collect()
    }
}

pub(super) fn to_frame(state: NodeState) -> pb::NodeState {
    let NodeState { healthy, quorum, wants, announces, stands_by, draining, disk_failed } = state;
    pb::NodeState { healthy, quorum, wants, announces, stands_by, draining, disk_failed }
}

fn from_frame(state: pb::NodeState) -> NodeState {
    let pb::NodeState { healthy, quorum, wants, announces, stands_by, draining, disk_failed } = state;
    NodeState { healthy, quorum, wants, announces, stands_by, draining, disk_failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_kept_by_peer_and_incarnation_and_grows_old() {
        let (changes, seen) = watch::channel(0);
        let words = Words::new(Arc::new(changes));
        let (a, b) = (NodeId(1), NodeId(2));
        let well = NodeState { healthy: true, quorum: true, ..NodeState::default() };
        assert!(words.of(a).is_none());
        words.note_frame(a, 1, None);
        assert!(words.of(a).is_none(), "an old version says nothing");
        words.note_frame(a, 3, Some(to_frame(well)));
        assert_eq!(words.of(a).map(|w| (w.state, w.incarnation)), Some((well, 3)));
        assert!(words.of(b).is_none());
        words.note(a, 3, well);
        assert_eq!(*seen.borrow(), 1, "nothing new");
        words.note(a, 2, NodeState::default());
        assert_eq!(words.of(a).map(|w| w.state), Some(well), "it has started again since");
        words.note(a, 4, NodeState::default());
        assert_eq!((words.of(a).map(|w| w.state), *seen.borrow()), (Some(NodeState::default()), 2));
        let old = words.heard.lock().unwrap().get(&a).copied().unwrap();
        words.heard.lock().unwrap().insert(a, Word { at: old.at.checked_sub(WORD_LIMIT).unwrap(), ..old });
        assert!(words.of(a).is_none() && words.fresh().is_empty());
    }

    #[test]
    fn every_state_survives_the_link() {
        for bits in 0..128 {
            let state = NodeState::from_bits(bits);
            assert_eq!(from_frame(to_frame(state)), state);
        }
    }
}
