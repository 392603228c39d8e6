//! What the log is going to say of a call, as far as its owner knows: the same records through the same rules, on a copy that nobody else sees.

use std::sync::Arc;

use super::{CallEntry, ENTRY_VERSION, REVISIONS_PER_ENTRY, Replica};
use crate::ids::CallUid;
use crate::store_pb::command::Kind;
use crate::store_pb::{Command, Entry, Event, EventKind};

/// From this level on events have ids of their own, and owners tell what is not committed.
pub const UNCOMMITTED_LEVEL: u32 = 2;

/// An event that the log does not have, and the number of the record that makes it.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyEvent {
    /// The record's number in its call.
    pub seq: u32,
    /// Without revision and sequence.
    pub event: Arc<Event>,
}

impl EarlyEvent {
    /// True when the log has it by now.
    pub fn is_committed(&self, replica: &Replica, call: CallUid) -> bool {
        let over = matches!(self.event.kind(), EventKind::Ended | EventKind::Abandoned);
        // What takes others back is said by their node alone.
        let own = self.event.kind() == EventKind::Retracted;
        !own && replica.call(call).is_some_and(|entry| !entry.is_live() || (!over && entry.state().seq >= self.seq))
    }
}

/// A call as its owner has it, with what of it the log has not.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// As it would stand in the log.
    pub entry: CallEntry,
    /// In order.
    pub events: Vec<EarlyEvent>,
}

/// The id of a call's event: the same before and after its commit, and on every node. Empty: it is not about a call.
pub fn event_id(event: &Event) -> String {
    let Some(call) = CallUid::from_bytes(&event.call) else { return String::new() };
    if event.kind_number == 0 {
        // Of a log below level 2.
        return format!("{call}.{}", event.call_sequence);
    }
    let kind = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_ascii_lowercase();
    format!("{call}.{}.{kind}.{}", event.epoch, event.kind_number)
}

impl Replica {
    /// What would become of a call by these records, each with its number and time, in order. `None`: nothing.
    pub fn preview<'a>(&self, call: CallUid, records: impl Iterator<Item = (u32, u64, &'a Kind)>) -> Option<Preview> {
        let mut copy = Replica { level: self.level, ..Replica::new() };
        if let Some(entry) = self.calls.get(&call) {
            copy.live += usize::from(entry.is_live());
            copy.by_key.insert(entry.claim_key, call);
            copy.calls.insert(call, entry.clone());
        }
        let mut events = Vec::new();
        for (index, (seq, unix_ms, kind)) in (1..).zip(records) {
            let commands = vec![Command { unix_ms, kind: Some(kind.clone()) }];
            copy.apply(index, &Entry { version: ENTRY_VERSION, proposer: 0, incarnation: 0, commands }).ok()?;
            let made = copy.events(index * REVISIONS_PER_ENTRY - 1, usize::MAX).unwrap_or_default();
            events.extend(made.into_iter().map(|event| EarlyEvent { seq, event: Arc::new(uncommitted(&event, kind)) }));
        }
        let entry = copy.calls.remove(&call)?;
        Some(Preview { entry: Arc::unwrap_or_clone(entry), events })
    }
}

/// The message is that of the record, not one more copy.
fn uncommitted(event: &Event, kind: &Kind) -> Event {
    let invite = match (event.kind(), kind) {
        (EventKind::Received, Kind::Claim(claim)) => claim.invite.clone(),
        (EventKind::LocationUpdated | EventKind::AdditionalData, Kind::Notice(notice)) => notice.message.clone(),
        _ => event.invite.clone(),
    };
    Event { revision: 0, call_sequence: 0, invite, ..event.clone() }
}
