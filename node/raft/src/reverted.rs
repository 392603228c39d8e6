//! Followers that lost entries which they had acknowledged: a log cut short behind a crash, an older copy of a disk.
//!
//! Openraft sends them what they lack, without a word. But entries that a follower acknowledged may have been committed by its
//! word alone, so somebody has to look at that disk: the leader notices here, in the follower's own answers, and tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::types::{LogId, Vote};

/// How long a loss is told at least: it may be made good within milliseconds, and the disk is no better for it.
const TOLD: Duration = Duration::from_secs(60);

/// What one follower has said to one leadership of this node.
#[derive(Debug)]
struct Said {
    leadership: Vote,
    acknowledged: Option<LogId>,
    /// Index that it had acknowledged before it lost it.
    lost: Option<u64>,
    noticed: Option<Instant>,
}

/// See the module. Clones share it; members are few.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reverted(Arc<Mutex<HashMap<u64, Said>>>);

impl Reverted {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The follower has all entries up to this one.
    pub(crate) fn acknowledged(&self, follower: u64, leadership: Vote, last: Option<LogId>) {
        let mut all = self.lock();
        let said = all.entry(follower).or_insert(Said { leadership, acknowledged: None, lost: None, noticed: None });
        if said.leadership != leadership {
            (said.leadership, said.acknowledged) = (leadership, None);
        }
        said.acknowledged = said.acknowledged.max(last);
        let reached = last.map(|id| id.index);
        if said.lost.is_some() && reached >= said.lost {
            said.lost = None;
            tracing::warn!(node = follower, index = reached, "the member has got again what it had lost of the log");
        }
    }

    /// The follower does not have this entry. Of another leadership it says nothing: what was not committed then may have been
    /// replaced in between.
    pub(crate) fn lacks(&self, follower: u64, leadership: Vote, entry: Option<LogId>) {
        let mut all = self.lock();
        let Some(said) = all.get_mut(&follower).filter(|said| said.leadership == leadership) else { return };
        if entry.is_none() || entry > said.acknowledged {
            return;
        }
        let lost = said.acknowledged.take().map(|id| id.index);
        if said.lost.is_none() {
            tracing::error!(node = follower, index = lost, "the member has lost entries of the log that it had acknowledged");
        }
        said.lost = said.lost.max(lost);
        said.noticed = Some(Instant::now());
    }

    /// Members that lack what they had acknowledged, or did so a minute ago, ascending.
    pub(crate) fn members(&self, now: Instant) -> Vec<u64> {
        let told = |said: &Said| said.lost.is_some() || said.noticed.is_some_and(|at| now.duration_since(at) < TOLD);
        let mut members: Vec<u64> = self.lock().iter().filter(|(_, said)| told(said)).map(|(id, _)| *id).collect();
        members.sort_unstable();
        members
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderId;

    fn leadership(term: u64) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 1 }, committed: true }
    }

    fn id(term: u64, index: u64) -> Option<LogId> {
        Some(LogId { leader_id: LeaderId { term, node_id: 1 }, index })
    }

    #[test]
    fn only_what_was_acknowledged_to_this_leadership_can_be_lost() {
        let reverted = Reverted::default();
        let members = |after| reverted.members(Instant::now() + after);
        // Looking for where the logs part.
        reverted.lacks(2, leadership(3), id(3, 9));
        reverted.acknowledged(2, leadership(3), id(2, 5));
        reverted.lacks(2, leadership(3), id(3, 9));
        assert_eq!(members(Duration::ZERO), [0; 0]);
        reverted.acknowledged(2, leadership(3), id(3, 9));
        // Said to another leadership.
        reverted.lacks(2, leadership(4), id(3, 9));
        assert_eq!(members(Duration::ZERO), [0; 0]);
        reverted.lacks(2, leadership(3), id(3, 8));
        reverted.lacks(2, leadership(3), id(3, 7));
        reverted.acknowledged(3, leadership(3), id(3, 9));
        assert_eq!(members(Duration::ZERO), [2]);
        reverted.acknowledged(2, leadership(3), id(3, 8));
        assert_eq!(members(TOLD), [2], "not all of it");
        // The next leadership goes on with it.
        reverted.acknowledged(2, leadership(4), id(4, 9));
        assert_eq!((members(Duration::ZERO), members(TOLD)), (vec![2], Vec::new()));
    }
}
