//! A bounded list of numbered records: events and CDRs. What is dropped at the old end leaves a mark, so that a reader
//! who missed something is told so.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Compacted;
use crate::store_pb::{Cdr, Event};

/// What a history holds.
pub(super) trait Revisioned {
    /// Strictly rising in the history.
    fn revision(&self) -> u64;
    /// About how much memory it takes: the same on every node, for records are the same.
    fn weight(&self) -> usize;
    /// When it happened.
    fn unix_ms(&self) -> u64;
    /// Of an emergency call, or of the cluster itself.
    fn urgent(&self) -> bool;
}

impl Revisioned for Event {
    fn revision(&self) -> u64 {
        self.revision
    }
    fn weight(&self) -> usize {
        256 + self.invite.len() + parties_weight(self.parties.as_ref()) + self.target.len()
    }
    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }
    fn urgent(&self) -> bool {
        self.emergency || self.call.is_empty()
    }
}

impl Revisioned for Cdr {
    fn revision(&self) -> u64 {
        self.revision
    }
    fn weight(&self) -> usize {
        384 + parties_weight(self.parties.as_ref()) + self.target.len() + self.trunk.len()
    }
    fn unix_ms(&self) -> u64 {
        self.ended_unix_ms.max(self.recorded_unix_ms)
    }
    fn urgent(&self) -> bool {
        self.emergency
    }
}

fn parties_weight(p: Option<&crate::store_pb::CallParties>) -> usize {
    p.map_or(0, |p| {
        [&p.from_uri, &p.from_display, &p.to_uri, &p.request_uri, &p.call_id, &p.asserted_identity].iter().map(|s| s.len()).sum()
    })
}

/// The limits of a history.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Records.
    pub(super) count: usize,
    /// Sum of their weights.
    pub(super) weight: usize,
    /// Age against the log's clock.
    pub(super) age_ms: u64,
}

/// The list.
#[derive(Clone, Debug)]
pub(super) struct History<T> {
    limits: Limits,
    records: VecDeque<Arc<T>>,
    weight: usize,
    compacted_to: u64,
}

impl<T: Revisioned> History<T> {
    pub(super) fn new(limits: Limits) -> History<T> {
        History { limits, records: VecDeque::new(), weight: 0, compacted_to: 0 }
    }

    /// Empty, for what comes after this revision.
    pub(super) fn marked(limits: Limits, compacted_to: u64) -> History<T> {
        History { compacted_to, ..History::new(limits) }
    }

    /// From a snapshot's records; `None` when their revisions do not rise.
    pub(super) fn restored(limits: Limits, records: Vec<T>, compacted_to: u64) -> Option<History<T>> {
        let mut history = History { compacted_to, ..History::new(limits) };
        for record in records {
            if record.revision() <= history.last_revision() {
                return None;
            }
            history.weight += record.weight();
            history.records.push_back(Arc::new(record));
        }
        Some(history)
    }

    pub(super) fn push(&mut self, record: Arc<T>) {
        debug_assert!(record.revision() > self.last_revision());
        self.weight += record.weight();
        self.records.push_back(record);
    }

    /// Drops what is over the limits. Of what was dropped before it was old enough: when the last would have been.
    pub(super) fn compact(&mut self, clock_ms: u64) -> Option<u64> {
        let mut young = None;
        while let Some(oldest) = self.records.front() {
            let old_at = oldest.unix_ms().saturating_add(self.limits.age_ms);
            let too_old = old_at <= clock_ms;
            if !too_old && self.records.len() <= self.limits.count && self.weight <= self.limits.weight {
                break;
            }
            self.weight -= oldest.weight();
            self.compacted_to = oldest.revision();
            young = young.max((!too_old).then_some(old_at));
            self.records.pop_front();
        }
        young
    }

    /// Up to `limit` records after a revision, oldest first.
    pub(super) fn after(&self, revision: u64, limit: usize) -> Result<Vec<Arc<T>>, Compacted> {
        if revision < self.compacted_to {
            return Err(Compacted { oldest: self.compacted_to });
        }
        Ok(self.left(revision).take(limit).cloned().collect())
    }

    /// Those after a revision that are still there, oldest first.
    pub(super) fn left(&self, revision: u64) -> impl Iterator<Item = &Arc<T>> {
        let from = self.records.partition_point(|r| r.revision() <= revision);
        self.records.range(from..)
    }

    pub(super) fn last_revision(&self) -> u64 {
        self.records.back().map_or(self.compacted_to, |r| r.revision())
    }

    pub(super) fn compacted_to(&self) -> u64 {
        self.compacted_to
    }

    pub(super) fn records(&self) -> &VecDeque<Arc<T>> {
        &self.records
    }

    #[cfg(test)]
    pub(super) fn weight(&self) -> usize {
        self.weight
    }
}
