//! The disk under the log: whether it has room, whether writing has failed, whether it can be written again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::status::StorageState;

/// A disk is low when this share of it is free, where that is less than the configured limit: a small disk has no 512 MiB.
const LOW_SHARE: u64 = 10;
/// What must be free before a log that has failed is opened again: two of its files, so that it does not fail at once.
const REJOIN_BYTES: u64 = 32 << 20;
/// The same on a small disk: half of what it is called low with.
const REJOIN_SHARE: u64 = 2 * LOW_SHARE;
/// Octets that are written, flushed and removed again to see whether the disk takes them: more than a file system keeps in its
/// metadata, and than the first records of a log.
const PROBE_BYTES: usize = 64 << 10;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// For whoever is not root.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What has failed.
#[derive(Debug, Default)]
struct Failure {
    /// In this run of Raft, or in the try to begin one.
    now: Option<String>,
    /// Told until a run has begun.
    told: Option<String>,
}

/// The disk of one node's log. Clones share what has failed.
#[derive(Clone, Debug)]
pub(crate) struct Storage {
    dir: Arc<PathBuf>,
    low: u64,
    failure: Arc<Mutex<Failure>>,
    /// As `look` last found it.
    seen: Arc<Mutex<Option<Space>>>,
    #[cfg(test)]
    broken: Arc<AtomicBool>,
}

impl Storage {
    pub(crate) fn new(dir: &Path, low: u64) -> Storage {
        Storage {
            dir: Arc::new(dir.to_owned()),
            low,
            failure: Arc::default(),
            seen: Arc::default(),
            #[cfg(test)]
            broken: Arc::default(),
        }
    }

    /// Asked before anything is written: an error where a test has broken the disk.
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(crate) fn touch(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.broken.load(Ordering::Relaxed) {
            return Err(rustix::io::Errno::IO.into());
        }
        Ok(())
    }

    /// What a broken disk does.
    #[cfg(test)]
    pub(crate) fn break_disk(&self, broken: bool) {
        self.broken.store(broken, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Failure> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file system says; `None`: it does not say, as where the directory is not there yet.
    pub(crate) fn space(&self) -> Option<Space> {
        let dir = self.dir.ancestors().find(|dir| dir.is_dir())?;
        let stat = rustix::fs::statvfs(dir).ok()?;
        Some(Space { free: stat.f_bavail.saturating_mul(stat.f_frsize), total: stat.f_blocks.saturating_mul(stat.f_frsize) })
    }

    pub(crate) fn state(&self) -> StorageState {
        let failure = self.lock();
        if let Some(why) = failure.told.as_ref().or(failure.now.as_ref()) {
            return StorageState::Failed { why: why.clone() };
        }
        let low = |space: Space| space.free < self.low.min(space.total / LOW_SHARE);
        if self.seen().is_some_and(low) { StorageState::Low } else { StorageState::Good }
    }

    /// Asks the file system for its free space.
    pub(crate) fn look(&self) {
        let space = self.space();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = space;
    }

    /// Its space as of the last look.
    pub(crate) fn seen(&self) -> Option<Space> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes the result of a read or write on. The first failure is kept: what follows from it says less.
    pub(crate) fn noted<T>(&self, what: &str, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.fail(format!("{what}: {error}"));
        }
        result
    }

    pub(crate) fn fail(&self, why: String) {
        let mut failure = self.lock();
        if failure.now.is_none() {
            tracing::error!(%why, "the log has failed: this node takes no part in Raft until its disk can be written again");
            *failure = Failure { now: Some(why.clone()), told: Some(why) };
        }
    }

    /// It could not be opened again. The newest reason counts: something may have been done about the first.
    pub(crate) fn still_failing(&self, why: String) {
        *self.lock() = Failure { now: Some(why.clone()), told: Some(why) };
    }

    /// What has failed in this run of Raft.
    pub(crate) fn failed(&self) -> Option<String> {
        self.lock().now.clone()
    }

    /// A run is begun. Until it has, the failure is told.
    pub(crate) fn begin(&self) {
        self.lock().now = None;
    }

    /// The run has begun.
    pub(crate) fn mended(&self) {
        let mut failure = self.lock();
        failure.told = failure.now.clone();
    }

    /// Whether a log can be written here: tries it. `again`: the log has failed before, so there must be some room.
    pub(crate) fn probe(&self, again: bool) -> io::Result<()> {
        if let Some(space) = self.space().filter(|_| again)
            && space.free < REJOIN_BYTES.min(space.total / REJOIN_SHARE)
        {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("only {} bytes are free", space.free)));
        }
        self.touch()?;
        let path = self.dir.join("probe.tmp");
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(&[0x5b; PROBE_BYTES])?;
            file.sync_all()
        };
        let written = write();
        // Where it cannot be removed it is overwritten next time.
        let _ = fs::remove_file(&path);
        written
    }

    /// Whether a snapshot about as long as the last one may be written without need.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        self.space()
            .is_none_or(|space| space.free > bytes.saturating_mul(2).saturating_add(REJOIN_BYTES.min(space.total / REJOIN_SHARE)))
    }
}

/// True for what a disk does when it is full, broken or mounted read-only: no fault of what is written on it.
pub(crate) fn is_disk_trouble(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_kept_until_mended() {
        let storage = Storage::new(&std::env::temp_dir(), 0);
        assert_eq!(storage.state(), StorageState::Good);
        let fail = |text: &str| storage.noted::<()>("append", Err(io::Error::other(text.to_owned())));
        assert!(fail("first").is_err() && fail("second").is_err());
        assert_eq!(storage.state(), StorageState::Failed { why: "append: first".into() });
        storage.begin();
        assert!(storage.failed().is_none() && storage.state() != StorageState::Good, "it is told until it works");
        storage.mended();
        assert_eq!(storage.state(), StorageState::Good);
        assert!(storage.probe(false).is_ok());
        let all = Storage::new(&std::env::temp_dir().join("not/there/yet"), u64::MAX);
        all.look();
        let space = all.space().expect("an ancestor is there");
        assert!(space.free <= space.total);
        assert_eq!(all.state() == StorageState::Low, space.free < space.total / LOW_SHARE);
        assert!(all.probe(false).is_err(), "no directory");
    }

    #[test]
    fn a_disk_in_trouble_is_told_from_damage() {
        for (errno, wanted) in [
            (rustix::io::Errno::NOSPC, true),
            (rustix::io::Errno::IO, true),
            (rustix::io::Errno::ROFS, true),
            (rustix::io::Errno::ACCESS, false),
        ] {
            assert_eq!(is_disk_trouble(&io::Error::from(errno)), wanted, "{errno}");
        }
        assert!(!is_disk_trouble(&io::Error::new(io::ErrorKind::InvalidData, "checksum")));
    }
}
