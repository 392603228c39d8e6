//! Calls that are over, and of which the log does not know it yet: their records only. While there is no quorum they grow in number by
//! every call, so they hold nothing else, count as no call, and are bounded.

use std::collections::BTreeMap;

use crate::call::Ended;
use crate::ids::LocalId;

/// Calls kept: an outage of hours at a country's load, some 100 MB at 5 KB each. Beyond it the oldest ordinary call's records go first.
const MAX_UNRECORDED: usize = 20_000;

/// What waits for the log, by id: the order in which the calls began.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    emergency: BTreeMap<LocalId, Ended>,
    ordinary: BTreeMap<LocalId, Ended>,
}

impl Unrecorded {
    pub(super) fn len(&self) -> usize {
        self.emergency.len() + self.ordinary.len()
    }

    pub(super) fn get(&self, id: LocalId) -> Option<&Ended> {
        self.ordinary.get(&id).or_else(|| self.emergency.get(&id))
    }

    pub(super) fn get_mut(&mut self, id: LocalId) -> Option<&mut Ended> {
        self.ordinary.get_mut(&id).or_else(|| self.emergency.get_mut(&id))
    }

    pub(super) fn ids(&self) -> Vec<LocalId> {
        self.emergency.keys().chain(self.ordinary.keys()).copied().collect()
    }

    pub(super) fn remove(&mut self, id: LocalId) -> Option<Ended> {
        self.ordinary.remove(&id).or_else(|| self.emergency.remove(&id))
    }

    /// Keeps a call's records. The call whose records went for them, if the list was full.
    pub(super) fn keep(&mut self, id: LocalId, ended: Ended) -> Option<Ended> {
        let list = if ended.emergency { &mut self.emergency } else { &mut self.ordinary };
        list.insert(id, ended);
        if self.len() <= MAX_UNRECORDED {
            return None;
        }
        self.ordinary.pop_first().or_else(|| self.emergency.pop_first()).map(|(_, ended)| ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::CallUid;
    use crate::ids::PacketKey;
    use crate::token::ClaimKey;

    #[test]
    fn the_oldest_ordinary_call_goes_first() {
        let mut list = Unrecorded::default();
        let uid = |serial| CallUid { node: crate::ids::NodeId(1), incarnation: crate::ids::Incarnation(1), serial };
        let ended = |serial, emergency| Ended {
            id: LocalId(serial),
            uid: uid(serial),
            claim_key: ClaimKey([0; 16]),
            packet_key: PacketKey([0; 16]),
            emergency,
            failed: false,
            answered: false,
            abandoned: false,
            journal: crate::call::Journal::new(LocalId(serial), uid(serial)),
        };
        assert!(list.keep(LocalId(1), ended(1, true)).is_none());
        for id in 2..=MAX_UNRECORDED as u64 {
            assert!(list.keep(LocalId(id), ended(id, id > 10)).is_none());
        }
        for (id, dropped) in (20_001..).zip((2..=10).chain([1, 11])) {
            assert_eq!(list.keep(LocalId(id), ended(id, true)).map(|e| e.uid.serial), Some(dropped));
        }
        assert_eq!(list.len(), MAX_UNRECORDED);
    }
}
