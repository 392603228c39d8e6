//! Between Raft and the core: committed entries go to the driver in order, snapshots come from the shared replicated state.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use prost::Message;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{Command, Entry, Snapshot};
use sbc_raft::{AppliedEntry, StateMachine};
use tokio::sync::{mpsc, oneshot};

/// What the driver gets from the log.
#[derive(Debug)]
pub enum FromStore {
    /// Committed entries, in order, none left out.
    Entries {
        /// Index and entry.
        entries: Vec<(u64, Arc<Entry>)>,
        /// Answered once they are applied.
        done: oneshot::Sender<()>,
    },
    /// The replicated state was replaced.
    Replaced {
        /// Answered once the core knows.
        done: oneshot::Sender<()>,
    },
}

/// The state machine that Raft sees.
pub struct Store {
    replica: Arc<RwLock<Replica>>,
    sink: mpsc::Sender<FromStore>,
}

impl Store {
    /// `sink`: the driver's queue.
    pub fn new(replica: Arc<RwLock<Replica>>, sink: mpsc::Sender<FromStore>) -> Store {
        Store { replica, sink }
    }

    async fn deliver(&self, message: FromStore, done: oneshot::Receiver<()>) -> io::Result<()> {
        let stopped = || io::Error::other("the SIP core has stopped");
        self.sink.send(message).await.map_err(|_| stopped())?;
        done.await.map_err(|_| stopped())
    }
}

#[tonic::async_trait]
impl StateMachine for Store {
    async fn apply(&self, entries: Vec<AppliedEntry>) -> io::Result<()> {
        let entries = entries
            .into_iter()
            .map(|e| Ok((e.index, Arc::new(Entry::decode(e.entry).map_err(io::Error::other)?))))
            .collect::<io::Result<Vec<_>>>()?;
        let (done, applied) = oneshot::channel();
        self.deliver(FromStore::Entries { entries, done }, applied).await
    }

    async fn snapshot(&self) -> io::Result<Bytes> {
        // Freezing clones counted pointers only; encoding happens outside the lock and off the SIP thread.
        let frozen = self.replica.read().unwrap_or_else(PoisonError::into_inner).freeze();
        tokio::task::spawn_blocking(move || Bytes::from(frozen.to_snapshot().encode_to_vec())).await.map_err(io::Error::other)
    }

    async fn install(&self, _index: u64, state: Bytes) -> io::Result<()> {
        let snapshot = Snapshot::decode(state).map_err(io::Error::other)?;
        let knows = self.replica.read().unwrap_or_else(PoisonError::into_inner).knows();
        let restored = Replica::restore_knowing(snapshot, knows).map_err(io::Error::other)?;
        *self.replica.write().unwrap_or_else(PoisonError::into_inner) = restored;
        let (done, known) = oneshot::channel();
        self.deliver(FromStore::Replaced { done }, known).await
    }
}

/// Makes a log entry of encoded commands. A command that does not decode is a bug of this process and left out.
pub fn encode_entry(node: u32, incarnation: u32, commands: Vec<Bytes>) -> Bytes {
    let commands = commands.into_iter().filter_map(|c| Command::decode(c).ok()).collect();
    let version = sbc_core::replica::ENTRY_VERSION;
    Entry { version, proposer: node, incarnation, commands }.encode_to_vec().into()
}
