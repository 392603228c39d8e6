//! Bounded memories: what happened lately.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::call::{Ladder, Note};
use crate::ids::{CallUid, LocalId};
use crate::time::Instant;

/// 64 × T1: as long as a far end may repeat itself.
const KEEP: Duration = Duration::from_secs(32);
/// Entries at once; beyond it new ones are not remembered, which costs a 302 or a 481 more, and no call.
const MAX_RECENT: usize = 100_000;
/// Ladders of ended calls: some megabytes, and hours at a country's load.
const MAX_LADDERS: usize = 1000;

/// Keys seen in the last 32 s, and what is known of each.
#[derive(Debug)]
pub(super) struct Recent<K, V = ()> {
    seen: HashMap<K, (Instant, V)>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Recent<K, V> {
        Recent { seen: HashMap::new() }
    }
}

impl<K: Eq + Hash> Recent<K> {
    /// Notes a key. True when it is new.
    pub(super) fn note(&mut self, now: Instant, key: K) -> bool {
        if self.contains(now, &key) {
            return false;
        }
        self.keep(now, key, ());
        true
    }

    pub(super) fn contains(&self, now: Instant, key: &K) -> bool {
        self.get(now, key).is_some()
    }
}

impl<K: Eq + Hash, V: Copy> Recent<K, V> {
    /// Notes what is known of a key, from now on for 32 s.
    pub(super) fn keep(&mut self, now: Instant, key: K, value: V) {
        if self.seen.len() < MAX_RECENT {
            self.seen.insert(key, (now, value));
        }
    }

    pub(super) fn get(&self, now: Instant, key: &K) -> Option<V> {
        self.seen.get(key).filter(|(at, _)| now.since(*at) < KEEP).map(|(_, value)| *value)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.seen.retain(|_, (at, _)| now.since(*at) < KEEP);
    }
}

/// Ladders of calls that ended lately.
#[derive(Debug, Default)]
pub(super) struct PastLadders {
    order: VecDeque<LocalId>,
    by_id: HashMap<LocalId, (CallUid, Ladder)>,
    by_uid: HashMap<CallUid, LocalId>,
}

impl PastLadders {
    pub(super) fn keep(&mut self, id: LocalId, uid: CallUid, ladder: Ladder) {
        if self.by_id.insert(id, (uid, ladder)).is_none() {
            self.order.push_back(id);
        }
        self.by_uid.insert(uid, id);
        while self.order.len() > MAX_LADDERS {
            let oldest = self.order.pop_front().and_then(|old| self.by_id.remove_entry(&old));
            // The same call may have come back since to another place.
            if let Some((old, (uid, _))) = oldest
                && self.by_uid.get(&uid) == Some(&old)
            {
                self.by_uid.remove(&uid);
            }
        }
    }

    /// Adds a message to the ladder of its call, if that is kept.
    pub(super) fn add(&mut self, note: Note) {
        if let Some((_, ladder)) = self.by_id.get_mut(&note.call) {
            ladder.add(note);
        }
    }

    pub(super) fn get(&self, uid: CallUid) -> Option<&Ladder> {
        Some(&self.by_id.get(self.by_uid.get(&uid)?)?.1)
    }
}
