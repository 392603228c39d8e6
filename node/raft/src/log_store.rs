//! The log on disk: `raft-log` behind openraft's storage traits.
//!
//! An append is reported done when its bytes are flushed, by the callback of the flush worker; an error there goes the same
//! way and stops Raft, and is noted as the disk's. Nothing is written after it: the flush worker has ended. At open a record cut short at the end of the newest file is cut off (it was never acknowledged);
//! any other damage is an error.

use std::fmt::Debug;
use std::io;
use std::io::{Read, Write};
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};
use prost::Message;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode};
use raft_log::{Callback, RaftLog, Types};
use sbc_proto::peer as pb;
use tokio::sync::oneshot;

use crate::config::{APPEND_BYTES, MAX_ENTRY};
use crate::convert;
use crate::storage::Storage;
use crate::types::{Entry, LeaderId, LogId, Payload, TypeConfig, Vote};

/// Size of one log file. Small against the snapshot threshold (64 MiB), so that purging frees space.
const FILE_BYTES: usize = 16 << 20;
/// Entries kept in memory beside the newest file, for followers and for applying.
const CACHE_BYTES: usize = 64 << 20;
/// Read at a time when replaying at start.
const READ_BYTES: usize = 1 << 20;
/// How long the flush worker waits for more to write before it calls fsync: short against the fsync itself.
const FLUSH_WAIT: Duration = Duration::from_micros(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LogKey(u64, u64, u64);

impl From<&LogId> for LogKey {
    fn from(id: &LogId) -> Self {
        LogKey(id.leader_id.term, id.leader_id.node_id, id.index)
    }
}

impl From<&LogKey> for LogId {
    fn from(key: &LogKey) -> Self {
        LogId { leader_id: LeaderId { term: key.0, node_id: key.1 }, index: key.2 }
    }
}

impl Encode for LogKey {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        for part in [self.0, self.1, self.2] {
            w.write_all(&part.to_be_bytes())?;
        }
        Ok(24)
    }
}

fn read_u64(r: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    r.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

impl Decode for LogKey {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        Ok(LogKey(read_u64(&mut r)?, read_u64(&mut r)?, read_u64(&mut r)?))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct VoteKey(u64, u64, bool);

impl Encode for VoteKey {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        w.write_all(&self.0.to_be_bytes())?;
        w.write_all(&self.1.to_be_bytes())?;
        w.write_all(&[u8::from(self.2)])?;
        Ok(17)
    }
}

impl Decode for VoteKey {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let (term, node) = (read_u64(&mut r)?, read_u64(&mut r)?);
        let mut committed = [0];
        r.read_exact(&mut committed)?;
        Ok(VoteKey(term, node, committed[0] != 0))
    }
}

/// A payload as stored: length, its complement, protobuf. The complement tells damage from a record cut short: without it a
/// flipped bit in the length would look like a torn tail, and acknowledged entries would be cut off.
#[derive(Clone, Debug)]
struct Stored(Payload);

impl Encode for Stored {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        let bytes = convert::payload_to(&self.0).encode_to_vec();
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        w.write_all(&length.to_be_bytes())?;
        w.write_all(&(!length).to_be_bytes())?;
        w.write_all(&bytes)?;
        Ok(8 + bytes.len())
    }
}

impl Decode for Stored {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        let (mut length, mut complement) = ([0; 4], [0; 4]);
        r.read_exact(&mut length)?;
        r.read_exact(&mut complement)?;
        let length = u32::from_be_bytes(length);
        if u32::from_be_bytes(complement) != !length || length as usize > 2 * MAX_ENTRY {
            return Err(invalid("length of a log entry"));
        }
        let mut bytes = vec![0; length as usize];
        r.read_exact(&mut bytes)?;
        let payload = pb::EntryPayload::decode(bytes::Bytes::from(bytes)).map_err(|error| invalid(&error.to_string()))?;
        convert::payload_from(payload).map(Stored).map_err(|error| invalid(&error.to_string()))
    }
}

/// Who is told of a flush.
enum Flushed {
    Append(IOFlushed<TypeConfig>, Storage),
    Waiter(oneshot::Sender<io::Result<()>>),
}

impl Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        match self {
            Flushed::Append(callback, storage) => callback.io_completed(storage.noted("append", result)),
            Flushed::Waiter(sender) => {
                // The waiter is gone with its runtime.
                let _ = sender.send(result);
            }
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct LogTypes;

impl Types for LogTypes {
    type LogId = LogKey;
    type LogPayload = Stored;
    type Vote = VoteKey;
    type Callback = Flushed;
    type UserData = String;

    fn log_index(log_id: &LogKey) -> u64 {
        log_id.2
    }

    fn payload_size(payload: &Stored) -> u64 {
        payload_size(&payload.0) as u64
    }
}

/// About what an entry weighs.
fn payload_size(payload: &Payload) -> usize {
    match payload {
        openraft::EntryPayload::Normal(batch) => batch.0.len() + 64,
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 1024,
    }
}

/// The log of one node. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: Arc<Mutex<RaftLog<LogTypes>>>,
    storage: Storage,
}

impl LogStore {
    /// Opens or creates the log in a directory that no other process has open.
    pub(crate) fn open(dir: &Path, storage: Storage) -> io::Result<LogStore> {
        std::fs::create_dir_all(dir)?;
        let dir = dir.to_str().ok_or_else(|| io::Error::other("the path of the log is not UTF-8"))?;
        let mut config = raft_log::Config::new(dir);
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.wal.chunk_max_size = Some(FILE_BYTES);
        config.wal.read_buffer_size = Some(READ_BYTES);
        config.wal.flush_batch_wait = Some(FLUSH_WAIT);
        config.wal.truncate_incomplete_record = Some(true);
        Ok(LogStore { log: Arc::new(Mutex::new(RaftLog::open(Arc::new(config))?)), storage })
    }

    /// Whether any copy of it is still held.
    pub(crate) fn held(&self) -> impl Fn() -> bool + Send + 'static {
        let log = Arc::downgrade(&self.log);
        move || log.strong_count() > 0
    }

    /// Cuts off what contradicts the state that has been applied already: entries that were not committed, whose replacement did
    /// not get to the disk before it failed.
    pub(crate) async fn fit(&self, applied: Option<LogId>) -> io::Result<()> {
        let Some(applied) = applied else { return Ok(()) };
        let index = applied.index;
        if self.read(index, index + 1, usize::MAX)?.first().is_none_or(|entry| entry.log_id == applied) {
            return Ok(());
        }
        self.lock().truncate(index)?;
        self.flush().await
    }

    /// Nothing more is begun where the disk has failed.
    fn usable(&self) -> io::Result<()> {
        self.storage.touch()?;
        match self.storage.failed() {
            None => Ok(()),
            Some(why) => Err(io::Error::other(why)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, RaftLog<LogTypes>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False for a log in which nothing was ever written.
    pub(crate) fn has_entries(&self) -> bool {
        self.lock().log_state().last().is_some()
    }

    /// The last entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.lock().log_state().purged().map(LogId::from)
    }

    fn read(&self, start: u64, end: u64, bytes: usize) -> io::Result<Vec<Entry>> {
        let log = self.lock();
        let (mut entries, mut size) = (Vec::new(), 0_usize);
        for item in log.read(start, end) {
            let (key, Stored(payload)) = item?;
            size = size.saturating_add(payload_size(&payload));
            if size > bytes && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: LogId::from(&key), payload });
        }
        Ok(entries)
    }

    async fn save(&self, vote: VoteKey) -> io::Result<()> {
        self.usable()?;
        self.lock().save_vote(vote)?;
        self.flush().await
    }

    fn commit(&self, key: &LogKey) -> io::Result<()> {
        let mut log = self.lock();
        let state = log.log_state();
        if Some(key) > state.committed() && Some(key) <= state.last() {
            log.commit(*key)?;
            log.flush(false, None)?;
        }
        Ok(())
    }

    /// Waits until everything written is on disk.
    async fn flush(&self) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.lock().flush(true, Some(Flushed::Waiter(sender)))?;
        receiver.await.map_err(|_| io::Error::other("the flush worker has stopped"))?
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let entries = self.storage.noted("read", self.read(start, end, usize::MAX))?;
        // What is applied must not have a gap at its beginning.
        match entries.first() {
            Some(first) if first.log_id.index != start && start > 0 => {
                Err(io::Error::other(format!("entry {start} is gone from the log")))
            }
            _ => Ok(entries),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let vote = self.lock().log_state().vote().copied();
        Ok(vote.map(|VoteKey(term, node_id, committed)| Vote { leader_id: LeaderId { term, node_id }, committed }))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.storage.noted("read", self.read(start, end, APPEND_BYTES))?;
        // Purged meanwhile: openraft takes nothing for a heartbeat and comes to the snapshot by itself.
        Ok(if entries.first().is_some_and(|first| first.log_id.index == start) { entries } else { Vec::new() })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.lock();
        let state = log.log_state();
        let last_log_id = state.last().map(LogId::from);
        Ok(LogState { last_purged_log_id: state.purged().map(LogId::from), last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let key = VoteKey(vote.leader_id.term, vote.leader_id.node_id, vote.committed);
        self.storage.noted("vote", self.save(key).await)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Only where replay begins after a restart: not flushed, and left out where the log has not come so far.
        let Some(key) = committed.as_ref().map(LogKey::from) else { return Ok(()) };
        self.storage.noted("commit index", self.commit(&key))
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.lock().log_state().committed().map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(|entry| (LogKey::from(&entry.log_id), Stored(entry.payload)));
        let append = || {
            self.usable()?;
            let mut log = self.lock();
            log.append(entries)?;
            log.flush(true, Some(Flushed::Append(callback, self.storage.clone())))
        };
        self.storage.noted("append", append())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        // The entries that follow are flushed after this record, in order.
        let truncate = || {
            self.usable()?;
            let mut log = self.lock();
            log.truncate(last_log_id.map_or(0, |id| id.index + 1))?;
            log.flush(false, None)
        };
        self.storage.noted("truncate", truncate())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let purged = self.usable().and_then(|()| self.lock().purge(LogKey::from(&log_id)).map(drop));
        let flushed = match purged {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        self.storage.noted("purge", flushed)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bytes::Bytes;
    use openraft::EntryPayload;

    use super::*;
    use crate::types::Batch;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let dir = std::env::temp_dir().join(format!("sbc-raft-log-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Dir(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn open(dir: &Path) -> io::Result<LogStore> {
        LogStore::open(dir, Storage::new(dir, 0))
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 1 }, index }
    }

    fn entry(term: u64, index: u64) -> Entry {
        let text = format!("entry {index} of term {term}");
        Entry { log_id: id(term, index), payload: EntryPayload::Normal(Batch(Bytes::from(text))) }
    }

    async fn append(log: &mut LogStore, entries: Vec<Entry>) {
        let (sender, receiver) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
        log.append(entries, IOFlushed::signal(sender)).await.unwrap();
        receiver.await.unwrap().unwrap();
    }

    const VOTE: Vote = Vote { leader_id: LeaderId { term: 3, node_id: 2 }, committed: true };

    #[tokio::test]
    async fn what_was_written_is_read_again() {
        let dir = Dir::new("reopen");
        let mut log = open(&dir.0).unwrap();
        log.save_vote(&VOTE).await.unwrap();
        append(&mut log, (0..10).map(|index| entry(1, index)).collect()).await;
        log.truncate_after(Some(id(1, 6))).await.unwrap();
        append(&mut log, vec![entry(2, 7), entry(2, 8)]).await;
        log.save_committed(Some(id(1, 5))).await.unwrap();
        log.save_committed(Some(id(2, 99))).await.unwrap();
        log.purge(id(1, 2)).await.unwrap();
        drop(log);
        let mut log = open(&dir.0).unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(VOTE));
        let state = log.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 2)), Some(id(2, 8))));
        assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 5)), "never beyond the log");
        let entries = log.try_get_log_entries(3..).await.unwrap();
        let wanted: Vec<_> = (3..7).map(|index| entry(1, index)).chain([entry(2, 7), entry(2, 8)]).collect();
        assert_eq!(entries, wanted);
        assert!(log.try_get_log_entries(1..5).await.is_err(), "no gap goes unnoticed");
        assert!(log.limited_get_log_entries(1, 5).await.unwrap().is_empty());
        // As after a snapshot from the leader.
        log.purge(id(4, 50)).await.unwrap();
        append(&mut log, vec![entry(4, 51)]).await;
        assert_eq!(log.try_get_log_entries(51..52).await.unwrap(), vec![entry(4, 51)]);
        assert!(open(&dir.0).is_err(), "one process at a time");
    }

    #[tokio::test]
    async fn a_log_cut_anywhere_opens_with_what_is_whole() {
        let dir = Dir::new("torn");
        let source = dir.0.join("source");
        let mut log = open(&source).unwrap();
        log.save_vote(&VOTE).await.unwrap();
        for index in 0..4 {
            append(&mut log, vec![entry(1, index)]).await;
        }
        drop(log);
        let file = std::fs::read_dir(&source).unwrap().map(|file| file.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "wal")).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let mut longest = 0;
        for cut in 0..=bytes.len() {
            let torn = dir.0.join(format!("torn-{cut}"));
            std::fs::create_dir_all(&torn).unwrap();
            std::fs::write(torn.join(file.file_name().unwrap()), &bytes[..cut]).unwrap();
            let mut log = open(&torn).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
            let entries = log.try_get_log_entries(0..).await.unwrap();
            let wanted: Vec<_> = (0..entries.len() as u64).map(|index| entry(1, index)).collect();
            assert_eq!(entries, wanted, "cut at {cut}");
            assert!(entries.len() >= longest, "cut at {cut}");
            longest = entries.len();
            if longest > 0 {
                assert_eq!(log.read_vote().await.unwrap(), Some(VOTE), "cut at {cut}");
            }
            let next = longest as u64;
            append(&mut log, vec![entry(5, next)]).await;
            drop(log);
            let mut log = open(&torn).unwrap();
            assert_eq!(log.try_get_log_entries(next..).await.unwrap(), vec![entry(5, next)], "cut at {cut}");
        }
        assert_eq!(longest, 4);
    }

    #[tokio::test]
    async fn damage_is_no_torn_tail() {
        let dir = Dir::new("damage");
        let source = dir.0.join("source");
        let mut log = open(&source).unwrap();
        append(&mut log, (0..3).map(|index| entry(1, index)).collect()).await;
        drop(log);
        let file = std::fs::read_dir(&source).unwrap().map(|file| file.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|e| e == "wal")).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        let needle = b"entry 1 of";
        let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
        // Within the text, and in the length before it (the protobuf tag and length are two bytes).
        for position in [at, at - 10, at - 9, at - 8, at - 7, at - 6, at - 3] {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x41;
            let target = dir.0.join(format!("damaged-{position}"));
            std::fs::create_dir_all(&target).unwrap();
            std::fs::write(target.join(file.file_name().unwrap()), &damaged).unwrap();
            assert!(open(&target).is_err(), "flipped at {position}");
        }
    }

    #[tokio::test]
    async fn nothing_is_written_after_a_failure_and_what_contradicts_the_state_is_cut_off() {
        let dir = Dir::new("broken");
        let mut log = open(&dir.0).unwrap();
        append(&mut log, (0..3).map(|index| entry(1, index)).collect()).await;
        log.storage.break_disk(true);
        assert!(log.save_vote(&VOTE).await.is_err());
        assert!(log.storage.failed().is_some_and(|why| why.starts_with("vote: ")));
        log.storage.break_disk(false);
        let (sender, _receiver) = <TypeConfig as openraft::type_config::TypeConfigExt>::oneshot();
        assert!(log.append([entry(1, 3)], IOFlushed::signal(sender)).await.is_err(), "until it is opened again");
        let held = log.held();
        assert!(held());
        drop(log);
        assert!(!held());
        let mut log = open(&dir.0).unwrap();
        assert_eq!(log.read_vote().await.unwrap(), None);
        // Entry 2 of term 2 was applied, but its place on the disk has still what it replaced.
        log.fit(Some(id(1, 1))).await.unwrap();
        log.fit(Some(id(9, 30))).await.unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 2)));
        log.fit(Some(id(2, 2))).await.unwrap();
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(1, 1)));
    }
}
