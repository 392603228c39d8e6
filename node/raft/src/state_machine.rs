//! The state machine as openraft sees it: hands entries, snapshots and restores to the node's [`StateMachine`].

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::{Notify, watch};

use crate::snapshot::{SnapshotFile, SnapshotStore};
use crate::storage::Storage;
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

/// What has been applied.
#[derive(Debug, Default)]
struct Applied {
    last: Option<LogId>,
    membership: StoredMembership,
    /// Of entries since the last snapshot.
    bytes: u64,
    /// It begins with what is on the disk; from then on it goes on with what it has, whatever becomes of the disk.
    restored: bool,
}

/// See the module. Clones are one machine: each run of openraft has its own, one at a time.
#[derive(Clone)]
pub(crate) struct Machine {
    inner: Arc<dyn StateMachine>,
    snapshots: SnapshotStore,
    storage: Storage,
    current: Arc<std::sync::Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
    state: Arc<std::sync::Mutex<Applied>>,
    applied: Arc<watch::Sender<Option<u64>>>,
    snapshot_bytes: u64,
    snapshot_due: Arc<Notify>,
    /// Counts the clones.
    run: Arc<()>,
}

impl Machine {
    /// A machine that has applied nothing; `snapshot_due` is told whenever entries of `snapshot_bytes` have been applied.
    pub(crate) fn new(
        inner: Arc<dyn StateMachine>,
        snapshots: SnapshotStore,
        storage: Storage,
        snapshot_bytes: u64,
        snapshot_due: Arc<Notify>,
    ) -> Machine {
        Machine {
            inner,
            snapshots,
            storage,
            current: Arc::default(),
            state: Arc::default(),
            applied: Arc::new(watch::Sender::new(None)),
            snapshot_bytes,
            snapshot_due,
            run: Arc::default(),
        }
    }

    /// The index that has been applied, as it rises.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<u64>> {
        self.applied.subscribe()
    }

    /// True while a run of openraft has it.
    pub(crate) fn is_running(&self) -> bool {
        Arc::strong_count(&self.run) > 1
    }

    /// Makes state and disk agree: the first time by restoring the newest snapshot, later by writing one of what has been applied.
    /// The log may lack entries that were applied, for an entry is committed by a quorum, with this disk or without. Returns what
    /// has been applied.
    pub(crate) async fn restore(&mut self) -> io::Result<Option<LogId>> {
        if !lock(&self.state).restored {
            let store = self.snapshots.clone();
            if let Some((file, meta, content)) = blocking(move || store.newest()).await? {
                self.replace(meta, file, content).await?;
            }
            lock(&self.state).restored = true;
        } else if lock(&self.state).last.is_some() {
            self.get_snapshot_builder().await.write().await?;
        }
        Ok(lock(&self.state).last)
    }

    async fn replace(&self, meta: SnapshotMeta, file: SnapshotFile, content: Bytes) -> io::Result<()> {
        let index = meta.last_log_id.as_ref().map(|id| id.index);
        self.inner.install(index.unwrap_or(0), content).await?;
        let (last, membership) = (meta.last_log_id, meta.last_membership.clone());
        *lock(&self.state) = Applied { last, membership, bytes: 0, restored: true };
        *lock(&self.current) = Some((meta, file));
        self.applied.send_replace(index);
        Ok(())
    }

    async fn apply_batch(&self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut entries = Vec::with_capacity(batch.len());
        let mut responders = Vec::with_capacity(batch.len());
        let (mut last, mut membership, mut bytes) = (None, None, 0);
        for (entry, responder) in batch {
            last = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => {
                    bytes += batch.0.len() as u64;
                    entries.push(AppliedEntry { index: entry.log_id.index, entry: batch.0 });
                }
                EntryPayload::Membership(members) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), members));
                }
            }
            responders.extend(responder);
        }
        if !entries.is_empty() {
            self.inner.apply(entries).await?;
        }
        let due = {
            let mut state = lock(&self.state);
            state.last = last.or(state.last);
            if let Some(membership) = membership {
                state.membership = membership;
            }
            state.bytes += bytes;
            state.bytes >= self.snapshot_bytes
        };
        self.applied.send_replace(last.map(|id| id.index));
        for responder in responders {
            responder.send(());
        }
        if due {
            self.snapshot_due.notify_one();
        }
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = lock(&self.state);
        Ok((state.last, state.membership.clone()))
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

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        // One that cannot be written ends Raft; the log goes on without it for as long as there is room.
        let last = lock(&self.current).as_ref().map_or(0, |(_, file)| file.length());
        if !force && !self.storage.has_room_for(last) {
            tracing::warn!("no snapshot is taken: the disk has no room for it");
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The content is taken here, where no entry is being applied; only compressing and writing run beside applying.
        let content = self.inner.snapshot().await;
        let meta = {
            let mut state = lock(&self.state);
            state.bytes = 0;
            SnapshotMeta { last_log_id: state.last, last_membership: state.membership.clone() }
        };
        let (snapshots, storage, current) = (self.snapshots.clone(), self.storage.clone(), self.current.clone());
        Builder { meta, content: Some(content), snapshots, storage, current }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let store = self.snapshots.clone();
        let expected = meta.clone();
        let installed = blocking(move || {
            let (meta, content) = snapshot.load()?;
            if meta.last_log_id != expected.last_log_id {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not the snapshot that was announced"));
            }
            let file = store.adopt(&meta, &snapshot)?;
            Ok((meta, file, content))
        })
        .await;
        let (meta, file, content) = self.storage.noted("snapshot", installed)?;
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
    storage: Storage,
    current: Arc<std::sync::Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let written = self.write().await;
        self.storage.noted("snapshot", written)
    }
}

impl Builder {
    async fn write(&mut self) -> io::Result<Snapshot> {
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
