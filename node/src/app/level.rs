//! The format level of the log: a node that does not know what its own log holds does not start, and the leader lifts the level when
//! every member knows the next one (`sbc_core::replica::LEVEL`).

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sbc_core::ids::NodeId;
use sbc_core::replica::Replica;
use sbc_core::store_pb::{Level, command::Kind};
use sbc_raft::{RaftHandle, Role};

use super::disk::{self, DiskError};
use super::view::log_command;
use crate::driver::Clock;
use crate::peer::PeerLinks;

/// How often the leader looks whether everybody knows a newer level, and a node whether its log has reached one.
const EVERY: Duration = Duration::from_secs(1);

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("format-level")
}

/// Refuses a data directory whose log has reached a level that this node does not know.
pub(super) fn check(data_dir: &Path, knows: u32) -> Result<(), DiskError> {
    let path = file(data_dir);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(DiskError::Io { path, source }),
    };
    match text.trim().parse::<u32>() {
        Ok(level) if level <= knows => Ok(()),
        Ok(level) => Err(DiskError::NewerLevel { path, level, knows }),
        Err(_) => Err(DiskError::Content { path, what: "must hold a number" }),
    }
}

/// What the two tasks work with.
pub(super) struct Levels {
    pub(super) raft: RaftHandle,
    pub(super) clock: Clock,
    pub(super) replica: Arc<RwLock<Replica>>,
    pub(super) peers: PeerLinks,
    pub(super) others: Vec<NodeId>,
    pub(super) data_dir: PathBuf,
}

impl Levels {
    /// As long as the node runs.
    pub(super) async fn run(self) {
        let mut noted = 1;
        loop {
            tokio::time::sleep(EVERY).await;
            let (level, knows) = {
                let replica = self.replica.read().unwrap_or_else(PoisonError::into_inner);
                (replica.level(), replica.knows())
            };
            if level > noted {
                tracing::info!(level, "the log has reached a format level");
                match disk::replace(&file(&self.data_dir), level.to_string().as_bytes()) {
                    Ok(()) => noted = level,
                    // The log says the same; the file only says it sooner.
                    Err(error) => tracing::debug!(%error, "the format level could not be noted"),
                }
            }
            let status = self.raft.status();
            if status.role != Role::Leader || !status.caught_up {
                continue;
            }
            if let Some(next) = next_level(level, knows, self.others.iter().map(|n| self.peers.level(*n))) {
                // A lost one is followed by the next.
                let _ = self.raft.propose(log_command(self.clock, Kind::Level(Level { level: next }))).await;
            }
        }
    }
}

/// The level that everybody knows, if it is above the log's. `others`: the level of each other member's last Hello; of one that has not
/// been heard since this node started nothing is known, and nothing is lifted.
fn next_level(level: u32, knows: u32, mut others: impl Iterator<Item = Option<u32>>) -> Option<u32> {
    let lowest = others.try_fold(knows, |lowest, other| Some(lowest.min(other?)))?;
    (lowest > level).then_some(lowest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_rises_when_everybody_knows_it() {
        let next = |level, knows, others: &[Option<u32>]| next_level(level, knows, others.iter().copied());
        assert_eq!(next(1, 2, &[Some(2), Some(2)]), Some(2));
        assert_eq!(next(1, 2, &[Some(2), Some(1)]), None, "one is of the version before");
        assert_eq!(next(1, 2, &[Some(2), None]), None, "one has not been heard");
        assert_eq!(next(2, 2, &[Some(2), Some(3)]), None);
        assert_eq!(next(1, 3, &[Some(2), Some(3)]), Some(2), "as far as all go");
        assert_eq!(next(1, 2, &[]), Some(2), "a cluster of one");
        assert_eq!(next(2, 1, &[Some(2)]), None, "it is never lowered");
    }

    #[test]
    fn a_directory_of_a_newer_level_is_refused() {
        let dir = std::env::temp_dir().join(format!("sbc-level-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert!(check(&dir, 1).is_ok(), "none is noted");
        disk::replace(&file(&dir), b"2").unwrap();
        assert!(check(&dir, 2).is_ok());
        let error = check(&dir, 1).unwrap_err().to_string();
        assert!(error.contains("format level 2") && error.contains("upgrade"), "{error}");
        std::fs::write(file(&dir), "x").unwrap();
        assert!(check(&dir, 2).is_err());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
