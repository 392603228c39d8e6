//! The state machine as openraft sees it: hands entries, snapshots and restores to the node's [`StateMachine`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{Notify, watch};

use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::types::{LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Entries handed over at once: a batch of 64 entries of 64 KiB is 4 MiB.
const APPLY_BATCH: usize = 64;

/// A committed entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Place in the log. Strictly rising, with gaps (Raft's own entries).
    pub index: u64,
    /// As encoded by [`RaftConfig::encode_entry`](crate::RaftConfig::encode_entry) on the node that proposed it.
    pub entry: Bytes,
}

/// The replicated state; the node bridges this to its core. Calls come one at a time, except that none of them waits for
/// the disk. An error ends Raft ([`RaftStatus::fatal`](crate::RaftStatus::fatal)): return one rather than skip an entry.
#[tonic::async_trait]
pub trait StateMachine: Send + Sync + 'static {
    /// Applies entries in order. What they changed is visible when this returns: `caught_up` counts on it. After a restart
    /// entries come again from the last snapshot on.
    async fn apply(&self, entries: Vec<AppliedEntry>) -> io::Result<()>;
    /// The whole state as of all entries applied so far, encoded.
    async fn snapshot(&self) -> io::Result<Bytes>;
    /// Replaces the whole state by a snapshot whose last entry is `index`.
    async fn install(&self, index: u64, state: Bytes) -> io::Result<()>;
}

/// See the module.
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
    snapshots: SnapshotStore,
    current: Arc<std::sync::Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
    last: Option<LogId>,
    membership: StoredMembership,
    applied: watch::Sender<Option<u64>>,
    bytes: u64,
    snapshot_bytes: u64,
    snapshot_due: Arc<Notify>,
}

impl Machine {
    /// Restores the newest snapshot. Returns the machine and the index that has been applied, as it rises.
    pub(crate) async fn restore(
        inner: Arc<dyn StateMachine>,
        snapshots: SnapshotStore,
        snapshot_bytes: u64,
        snapshot_due: Arc<Notify>,
    ) -> io::Result<(Machine, watch::Receiver<Option<u64>>)> {
        let (applied, receiver) = watch::channel(None);
        let store = snapshots.clone();
        let newest = blocking(move || store.newest()).await?;
        let mut machine = Machine {
            inner,
            snapshots,
            current: Arc::default(),
            last: None,
            membership: StoredMembership::default(),
            applied,
            bytes: 0,
            snapshot_bytes,
            snapshot_due,
        };
        if let Some((file, meta, content)) = newest {
            machine.replace(meta, file, content).await?;
        }
        Ok((machine, receiver))
    }

    async fn replace(&mut self, meta: SnapshotMeta, file: SnapshotFile, content: Bytes) -> io::Result<()> {
        let index = meta.last_log_id.as_ref().map(|id| id.index);
        self.inner.install(index.unwrap_or(0), content).await?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *lock(&self.current) = Some((meta, file));
        self.bytes = 0;
        self.applied.send_replace(index);
        Ok(())
    }

    async fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut entries = Vec::with_capacity(batch.len());
        let mut responders = Vec::with_capacity(batch.len());
        for (entry, responder) in batch {
            self.last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => {
                    self.bytes += batch.0.len() as u64;
                    entries.push(AppliedEntry { index: entry.log_id.index, entry: batch.0 });
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            responders.extend(responder);
        }
        if !entries.is_empty() {
            self.inner.apply(entries).await?;
        }
        self.applied.send_replace(self.last.as_ref().map(|id| id.index));
        for responder in responders {
            responder.send(());
        }
        if self.bytes >= self.snapshot_bytes {
            self.snapshot_due.notify_one();
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(APPLY_BATCH);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<_>>()?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The content is taken here, where no entry is being applied; only compressing and writing run beside applying.
        let content = self.inner.snapshot().await;
        self.bytes = 0;
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        Builder { meta, content: Some(content), snapshots: self.snapshots.clone(), current: self.current.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let store = self.snapshots.clone();
        let expected = meta.clone();
        let (meta, file, content) = blocking(move || {
            let (meta, content) = snapshot.load()?;
            if meta.last_log_id != expected.last_log_id {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not the snapshot that was announced"));
            }
            let file = store.adopt(&meta, &snapshot)?;
            Ok((meta, file, content))
        })
        .await?;
        self.replace(meta, file, content).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(lock(&self.current).clone().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Writes one snapshot.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    content: Option<io::Result<Bytes>>,
    snapshots: SnapshotStore,
    current: Arc<std::sync::Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let content = self.content.take().ok_or_else(|| io::Error::other("the snapshot was built already"))??;
        let (store, meta) = (self.snapshots.clone(), self.meta.clone());
        let file = blocking(move || store.write(&meta, &content)).await?;
        let mut current = lock(&self.current);
        // One that was installed meanwhile is newer.
        if current.as_ref().is_none_or(|(meta, _)| meta.last_log_id <= self.meta.last_log_id) {
            *current = Some((self.meta.clone(), file.clone()));
        }
        Ok(Snapshot { meta: self.meta.clone(), snapshot: file })
    }
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Runs file work off the runtime's workers.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
