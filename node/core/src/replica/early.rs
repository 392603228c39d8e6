//! What of a node's own calls the log does not have, for those who watch that node: kept beside the replica, and no part of it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::{CallEntry, EarlyEvent, event_id};
use crate::ids::CallUid;

/// Calls kept of which the log will never know more: for who looks, or comes back, a while later.
const MAX_PAST: usize = 1_000;

/// One call.
#[derive(Debug, Default)]
struct EarlyCall {
    entry: Option<Arc<CallEntry>>,
    /// Ids of its events, with their numbers.
    events: Vec<(String, u64)>,
    last: bool,
}

/// Calls and events that are not committed. Events are numbered as they are told, by this start of the node.
#[derive(Debug, Default)]
pub struct EarlyCalls {
    number: u64,
    events: BTreeMap<u64, (CallUid, EarlyEvent)>,
    calls: BTreeMap<CallUid, EarlyCall>,
    past: VecDeque<CallUid>,
}

impl EarlyCalls {
    /// Takes what a call's owner says in the place of what it said before. Nothing: the log has it. `last`: the log never will.
    pub fn set(&mut self, call: CallUid, entry: Option<CallEntry>, events: Vec<EarlyEvent>, last: bool) {
        let before = self.calls.remove(&call).unwrap_or_default();
        let mut told = EarlyCall { entry: entry.map(Arc::new), events: Vec::new(), last };
        for event in events {
            let id = event_id(&event.event);
            let number = before.events.iter().find(|(known, _)| *known == id).map_or(self.number + 1, |(_, number)| *number);
            self.number = self.number.max(number);
            self.events.entry(number).or_insert((call, event));
            told.events.push((id, number));
        }
        for (_, number) in before.events {
            if told.events.iter().all(|(_, kept)| *kept != number) {
                self.events.remove(&number);
            }
        }
        if told.entry.is_none() && told.events.is_empty() {
            return;
        }
        self.calls.insert(call, told);
        if last && !before.last {
            self.past.push_back(call);
            if self.past.len() > MAX_PAST
                && let Some(oldest) = self.past.pop_front()
            {
                self.set(oldest, None, Vec::new(), false);
            }
        }
    }

    /// Such a call.
    pub fn call(&self, call: CallUid) -> Option<&Arc<CallEntry>> {
        self.calls.get(&call)?.entry.as_ref()
    }

    /// Such calls in the order of their identifiers, from the one after `after`.
    pub fn calls(&self, after: Option<CallUid>) -> impl Iterator<Item = &Arc<CallEntry>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.calls.range((from, Bound::Unbounded)).filter_map(|(_, told)| told.entry.as_ref())
    }

    /// The number of the newest event.
    pub fn last_number(&self) -> u64 {
        self.number
    }

    /// Events after a number, oldest first.
    pub fn events(&self, after: u64) -> impl Iterator<Item = (u64, CallUid, &EarlyEvent)> {
        self.events.range((Bound::Excluded(after), Bound::Unbounded)).map(|(number, (call, event))| (*number, *call, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Incarnation, NodeId};
    use crate::store_pb::{Event, EventKind};

    fn uid(serial: u64) -> CallUid {
        CallUid { node: NodeId(1), incarnation: Incarnation(1), serial }
    }

    fn event(call: u64, kind: EventKind) -> EarlyEvent {
        let call = uid(call).to_bytes().to_vec().into();
        EarlyEvent { seq: 0, event: Arc::new(Event { kind: kind.into(), kind_number: 1, epoch: 1, call, ..Event::default() }) }
    }

    fn numbers(early: &EarlyCalls, after: u64) -> Vec<(u64, EventKind)> {
        early.events(after).map(|(number, _, e)| (number, e.event.kind())).collect()
    }

    #[test]
    fn an_event_keeps_its_number_until_the_log_has_it() {
        use EventKind::{Answered, Received, Retracted, Ringing};
        let mut early = EarlyCalls::default();
        early.set(uid(1), None, vec![event(1, Received)], false);
        early.set(uid(2), None, vec![event(2, Received)], false);
        early.set(uid(1), None, vec![event(1, Received), event(1, Ringing)], false);
        assert_eq!(numbers(&early, 0), [(1, Received), (2, Received), (3, Ringing)]);
        assert_eq!(numbers(&early, 2), [(3, Ringing)]);
        early.set(uid(1), None, vec![event(1, Ringing), event(1, Answered)], false);
        assert_eq!(numbers(&early, 0), [(2, Received), (3, Ringing), (4, Answered)]);
        early.set(uid(1), None, Vec::new(), false);
        early.set(uid(2), None, vec![event(2, Retracted)], true);
        assert_eq!(numbers(&early, 0), [(5, Retracted)]);
        assert_eq!(early.last_number(), 5);
    }

    #[test]
    fn what_the_log_will_never_know_is_kept_for_a_while() {
        let mut early = EarlyCalls::default();
        early.set(uid(1), None, vec![event(1, EventKind::Received)], false);
        for call in 2..=MAX_PAST as u64 + 3 {
            early.set(uid(call), None, vec![event(call, EventKind::Received)], true);
            early.set(uid(call), None, vec![event(call, EventKind::Received)], true);
        }
        assert_eq!(early.events(0).count(), MAX_PAST + 1);
        assert_eq!(early.events(0).nth(1).map(|(_, call, _)| call), Some(uid(4)));
    }
}
