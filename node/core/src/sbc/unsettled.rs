//! Calls that are over, and of which the log does not know it yet: their records only. While there is no quorum they grow in number by
//! every call, so they hold nothing else, count as no call, and are bounded.

use std::collections::BTreeMap;

use super::Sbc;
use crate::call::Ended;
use crate::ids::CallUid;
use crate::io::Counter;

/// Calls kept: an outage of hours at a country's load, some 100 MB at 5 KB each. Beyond it the oldest ordinary call's records go first.
const MAX_UNSETTLED: usize = 20_000;

/// What waits for the log, by serial: the order in which the calls began.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    emergency: BTreeMap<u64, Ended>,
    ordinary: BTreeMap<u64, Ended>,
}

impl Unsettled {
    pub(super) fn len(&self) -> usize {
        self.emergency.len() + self.ordinary.len()
    }

    pub(super) fn get(&self, serial: u64) -> Option<&Ended> {
        self.ordinary.get(&serial).or_else(|| self.emergency.get(&serial))
    }

    fn get_mut(&mut self, serial: u64) -> Option<&mut Ended> {
        self.ordinary.get_mut(&serial).or_else(|| self.emergency.get_mut(&serial))
    }

    pub(super) fn serials(&self) -> Vec<u64> {
        self.ordinary.keys().chain(self.emergency.keys()).copied().collect()
    }

    fn remove(&mut self, serial: u64) -> Option<Ended> {
        self.ordinary.remove(&serial).or_else(|| self.emergency.remove(&serial))
    }

    /// Keeps a call's records. The call whose records went for them, if the list was full.
    fn keep(&mut self, serial: u64, ended: Ended) -> Option<Ended> {
        let list = if ended.emergency { &mut self.emergency } else { &mut self.ordinary };
        list.insert(serial, ended);
        if self.len() <= MAX_UNSETTLED {
            return None;
        }
        self.ordinary.pop_first().or_else(|| self.emergency.pop_first()).map(|(_, ended)| ended)
    }
}

impl Sbc {
    /// Keeps what the log has still to hear of a call that is over.
    pub(super) fn keep_unsettled(&mut self, serial: u64, ended: Ended) {
        if let Some(mut dropped) = self.unsettled.keep(serial, ended) {
            dropped.journal.drop_records(&mut self.cx, dropped.uid.serial);
            self.cx.count(Counter::Dropped("unsettled_call"));
            if self.by_claim.get(&dropped.claim_key.0) == Some(&dropped.uid.serial) {
                self.by_claim.remove(&dropped.claim_key.0);
            }
        }
    }

    /// Works on the records of a call that is over, and forgets them when the log has them.
    pub(super) fn with_unsettled(&mut self, serial: u64, f: impl FnOnce(&mut Ended, &mut crate::call::Services)) {
        let Some(ended) = self.unsettled.get_mut(serial) else { return };
        f(ended, &mut self.cx);
        if ended.journal.is_settled()
            && let Some(ended) = self.unsettled.remove(serial)
            && self.by_claim.get(&ended.claim_key.0) == Some(&serial)
        {
            self.by_claim.remove(&ended.claim_key.0);
        }
    }

    /// The call that is over and has that id.
    pub(super) fn is_unsettled(&self, uid: CallUid) -> bool {
        self.unsettled.get(uid.serial).is_some_and(|ended| ended.uid == uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::ClaimKey;

    #[test]
    fn the_oldest_ordinary_call_goes_first() {
        let mut list = Unsettled::default();
        let ended = |serial, emergency| Ended {
            uid: CallUid { node: crate::ids::NodeId(1), incarnation: crate::ids::Incarnation(1), serial },
            claim_key: ClaimKey([0; 16]),
            exact: [0; 16],
            emergency,
            failed: false,
            answered: false,
            left: false,
            journal: Default::default(),
        };
        assert!(list.keep(1, ended(1, true)).is_none());
        for serial in 2..=MAX_UNSETTLED as u64 {
            assert!(list.keep(serial, ended(serial, serial > 10)).is_none());
        }
        for (serial, dropped) in (20_001..).zip((2..=10).chain([1, 11])) {
            assert_eq!(list.keep(serial, ended(serial, true)).map(|e| e.uid.serial), Some(dropped));
        }
        assert_eq!(list.len(), MAX_UNSETTLED);
    }
}
