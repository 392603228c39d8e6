//! Records with a budget for what is urgent and one for the rest: a flood of ordinary calls takes the place of ordinary calls.
//!
//! Of emergency calls, and of the cluster itself, is what is urgent. Before level 2 of the log there is one budget for all.

use std::sync::Arc;

use super::Compacted;
use super::history::{History, Limits, Revisioned};

/// A history in one part, or in two.
#[derive(Clone, Debug)]
pub(super) struct Budgets<T> {
    /// Everything; in two parts, what is ordinary.
    ordinary: History<T>,
    urgent: Option<History<T>>,
    /// Until when, by the log's clock, urgent records are missing that should be there.
    short_until_ms: u64,
}

/// What a snapshot says beside the records themselves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Marks {
    pub(super) ordinary: u64,
    pub(super) urgent: u64,
    pub(super) short_until_ms: u64,
}

impl<T: Revisioned> Budgets<T> {
    /// In one part.
    pub(super) fn new(limits: Limits) -> Budgets<T> {
        Budgets { ordinary: History::new(limits), urgent: None, short_until_ms: 0 }
    }

    /// In two parts from now on.
    pub(super) fn split(&mut self, ordinary: Limits, urgent: Limits) {
        if self.urgent.is_some() {
            return;
        }
        let all = std::mem::replace(&mut self.ordinary, History::new(ordinary));
        let mark = all.compacted_to();
        let mut urgent = History::marked(urgent, mark);
        self.ordinary = History::marked(ordinary, mark);
        for record in all.records() {
            let part = if record.urgent() { &mut urgent } else { &mut self.ordinary };
            part.push(record.clone());
        }
        self.urgent = Some(urgent);
    }

    /// From a snapshot's records, in one part; `None` when their revisions do not rise.
    pub(super) fn restored(limits: Limits, records: Vec<T>, mark: u64) -> Option<Budgets<T>> {
        Some(Budgets { ordinary: History::restored(limits, records, mark)?, urgent: None, short_until_ms: 0 })
    }

    /// The same in two.
    pub(super) fn restored_split(limits: [Limits; 2], records: Vec<T>, marks: Marks) -> Option<Budgets<T>> {
        if !records.is_sorted_by(|a, b| a.revision() < b.revision()) {
            return None;
        }
        let (urgent, ordinary) = records.into_iter().partition(Revisioned::urgent);
        Some(Budgets {
            ordinary: History::restored(limits[0], ordinary, marks.ordinary)?,
            urgent: Some(History::restored(limits[1], urgent, marks.urgent)?),
            short_until_ms: marks.short_until_ms,
        })
    }

    pub(super) fn push(&mut self, record: T) {
        match &mut self.urgent {
            Some(urgent) if record.urgent() => urgent.push(Arc::new(record)),
            _ => self.ordinary.push(Arc::new(record)),
        }
    }

    /// Drops what is over the limits.
    pub(super) fn compact(&mut self, clock_ms: u64) {
        self.ordinary.compact(clock_ms);
        if let Some(young) = self.urgent.as_mut().and_then(|urgent| urgent.compact(clock_ms)) {
            self.short_until_ms = self.short_until_ms.max(young);
        }
    }

    /// True while urgent records have been dropped that were younger than they should become.
    pub(super) fn is_short(&self, clock_ms: u64) -> bool {
        clock_ms < self.short_until_ms
    }

    /// Up to `limit` records after a revision, oldest first; of the urgent ones alone, or of all.
    pub(super) fn after(&self, revision: u64, limit: usize, urgent_only: bool) -> Result<Vec<Arc<T>>, Compacted> {
        match &self.urgent {
            None => self.ordinary.after(revision, limit),
            Some(urgent) if urgent_only => urgent.after(revision, limit),
            Some(urgent) => {
                let (a, b) = (self.ordinary.after(revision, limit), urgent.after(revision, limit));
                if a.is_err() || b.is_err() {
                    return Err(Compacted { oldest: self.compacted_to() });
                }
                Ok(merged(a?.iter(), b?.iter()).take(limit).cloned().collect())
            }
        }
    }

    /// Up to `limit` of those after a revision that are still there, oldest first.
    pub(super) fn left(&self, revision: u64, limit: usize) -> Vec<Arc<T>> {
        let urgent = self.urgent.iter().flat_map(|urgent| urgent.left(revision));
        merged(self.ordinary.left(revision), urgent).take(limit).cloned().collect()
    }

    /// All records, oldest first.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<T>> {
        let urgent = self.urgent.iter().flat_map(|urgent| urgent.records().iter());
        merged(self.ordinary.records().iter(), urgent)
    }

    pub(super) fn last_revision(&self) -> u64 {
        self.ordinary.last_revision().max(self.urgent.as_ref().map_or(0, History::last_revision))
    }

    /// The lowest revision after which all is still there.
    pub(super) fn compacted_to(&self) -> u64 {
        self.ordinary.compacted_to().max(self.urgent_compacted_to())
    }

    /// The same of the urgent ones.
    pub(super) fn urgent_compacted_to(&self) -> u64 {
        self.urgent.as_ref().map_or_else(|| self.ordinary.compacted_to(), History::compacted_to)
    }

    pub(super) fn marks(&self) -> Marks {
        let urgent = self.urgent.as_ref().map_or(0, History::compacted_to);
        Marks { ordinary: self.ordinary.compacted_to(), urgent, short_until_ms: self.short_until_ms }
    }
}

/// Two sequences of rising revisions as one.
fn merged<'a, T: Revisioned + 'a>(
    a: impl Iterator<Item = &'a Arc<T>>,
    b: impl Iterator<Item = &'a Arc<T>>,
) -> impl Iterator<Item = &'a Arc<T>> {
    let (mut a, mut b) = (a.peekable(), b.peekable());
    std::iter::from_fn(move || {
        let first = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => x.revision() < y.revision(),
            (x, _) => x.is_some(),
        };
        if first { a.next() } else { b.next() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store_pb::Event;

    const LIMITS: Limits = Limits { count: 100, weight: 1 << 20, age_ms: 10_000 };
    const FEW: Limits = Limits { count: 5, ..LIMITS };

    fn event(revision: u64, emergency: bool) -> Event {
        Event { revision, emergency, call: vec![1].into(), unix_ms: revision, ..Event::default() }
    }

    fn revisions(budgets: &Budgets<Event>) -> Vec<u64> {
        budgets.records().map(|r| r.revision).collect()
    }

    #[test]
    fn ordinary_records_take_the_place_of_ordinary_ones() {
        let mut budgets = Budgets::new(FEW);
        for n in 1..=8 {
            budgets.push(event(n, n % 4 == 0));
            budgets.compact(0);
        }
        assert_eq!((revisions(&budgets), budgets.compacted_to()), (vec![4, 5, 6, 7, 8], 3), "in one part, as ever");
        budgets.split(FEW, LIMITS);
        assert_eq!((revisions(&budgets), budgets.compacted_to()), (vec![4, 5, 6, 7, 8], 3));
        for n in 9..=1000 {
            budgets.push(event(n, n == 10));
            budgets.compact(0);
        }
        assert_eq!(revisions(&budgets), [4, 8, 10, 996, 997, 998, 999, 1000]);
        assert_eq!((budgets.compacted_to(), budgets.urgent_compacted_to(), budgets.last_revision()), (995, 3, 1000));
        // Who wants all is told that some are gone; who wants those of emergency calls misses none.
        assert_eq!(budgets.after(4, 9, false).unwrap_err(), Compacted { oldest: 995 });
        let after = |revision, urgent| {
            let records = budgets.after(revision, 2, urgent).unwrap();
            records.iter().map(|r| r.revision).collect::<Vec<_>>()
        };
        assert_eq!((after(4, true), after(995, false), after(10, true)), (vec![8, 10], vec![996, 997], vec![]));
        assert_eq!(budgets.after(2, 9, true).unwrap_err(), Compacted { oldest: 3 });
        assert!(!budgets.is_short(0));
        let all: Vec<Event> = budgets.records().map(|r| (**r).clone()).collect();
        let again = Budgets::restored_split([FEW, LIMITS], all.clone(), budgets.marks()).unwrap();
        assert_eq!((revisions(&again), again.compacted_to(), again.urgent_compacted_to()), (revisions(&budgets), 995, 3));
        let wrong = all.into_iter().rev().collect();
        assert!(Budgets::restored_split([FEW, LIMITS], wrong, budgets.marks()).is_none());
    }

    #[test]
    fn it_is_short_while_urgent_records_are_missing_that_should_be_there() {
        let mut budgets = Budgets::new(LIMITS);
        budgets.split(LIMITS, FEW);
        for n in 1..=7 {
            budgets.push(event(1000 * n, true));
            budgets.compact(1000 * n);
        }
        for (clock, short) in [(7000, true), (11_999, true), (12_000, false)] {
            assert_eq!(budgets.is_short(clock), short, "those of 1000 and 2000 should be there until 12000: at {clock}");
        }
        budgets.compact(20_000);
        assert!(!budgets.is_short(20_000), "what is old goes without a word");
        assert_eq!(revisions(&budgets), Vec::<u64>::new());
    }
}
