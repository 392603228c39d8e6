//! What a watch of calls makes of the journal, and which calls it lets through: each call as it is after each change, its owner's end and
//! return among them.

use sbc_core::ids::{CallUid, NodeId};
use sbc_core::replica::{CallEntry, Replica};
use sbc_core::store_pb;
use sbc_proto::v1 as pb;
use tonic::Status;

use super::map;
use super::shared::Shared;
use super::watch::{WatchMessage, Watcher, token};

/// Entries looked at for one page: a filter that fits nothing must not hold the lock for all calls.
pub(super) const SCAN_MAX: usize = 20_000;

/// Which calls are asked for.
pub(super) struct Filter {
    states: Vec<i32>,
    emergency: Option<bool>,
    node: String,
}

impl Filter {
    /// An error when it names a node that there is not: nothing would ever pass, and nobody would know why.
    pub(super) fn new(filter: Option<pb::CallFilter>, shared: &Shared) -> Result<Filter, Status> {
        let f = filter.unwrap_or_default();
        shared.known_node(&f.node)?;
        Ok(Filter { states: f.states, emergency: f.emergency, node: f.node })
    }

    /// `all`: without states ended calls pass too (a watch must say that a call is over).
    pub(super) fn passes(&self, call: &pb::Call, all: bool) -> bool {
        let ended = call.state == i32::from(pb::CallState::Ended);
        let state = if self.states.is_empty() { all || !ended } else { self.states.contains(&call.state) };
        state && self.emergency.is_none_or(|e| e == call.emergency) && (self.node.is_empty() || self.node == call.owner)
    }
}

/// A watch of one call, or of all that a filter lets through.
pub(super) struct CallWatcher {
    shared: Shared,
    uid: Option<CallUid>,
    filter: Filter,
    pii: bool,
    /// Last call of the snapshot so far.
    after: Option<CallUid>,
    /// A node is down, is back, or has started again: its calls are told of.
    node_changed: Option<NodeChanged>,
}

/// What the end or return of a node means for its calls.
struct NodeChanged {
    node: NodeId,
    revision: u64,
    lost: bool,
    /// Last call that was looked at, and whether there may be more.
    after: Option<CallUid>,
    more: bool,
}

impl CallWatcher {
    pub(super) fn new(shared: Shared, uid: Option<CallUid>, filter: Filter, pii: bool) -> CallWatcher {
        CallWatcher { shared, uid, filter, pii, after: None, node_changed: None }
    }

    /// A call as it is after an event, and whether that is all there is to watch.
    fn changed(
        &self,
        uid: CallUid,
        event: &store_pb::Event,
        mut call: pb::Call,
        resume: String,
    ) -> (Option<pb::CallServiceWatchResponse>, bool) {
        use store_pb::EventKind as K;
        if self.uid.is_some_and(|u| u != uid) {
            return (None, false);
        }
        call.revision = event.revision;
        let over = matches!(event.kind(), K::Ended | K::Abandoned | K::Retracted);
        (self.filter.passes(&call, true).then(|| self.change(call, resume)), over && self.uid.is_some())
    }

    /// The next calls whose owner was lost with a node, or is back.
    fn of_changed_node(&self, changed: &mut NodeChanged, replica: &Replica, limit: usize) -> Vec<pb::CallServiceWatchResponse> {
        let page: Vec<_> = match (self.uid, changed.after) {
            (Some(uid), None) => replica.call(uid).filter(|entry| entry.is_live()).into_iter().collect(),
            (Some(_), Some(_)) => Vec::new(),
            (None, after) => replica.calls(after).take(SCAN_MAX).collect(),
        };
        changed.more = page.len() == SCAN_MAX;
        let mut told = Vec::new();
        for entry in page {
            changed.after = Some(entry.uid);
            if entry.owner() != changed.node || replica.is_owner_lost(entry) != changed.lost {
                continue;
            }
            let call = pb::Call { revision: changed.revision, ..map::call(replica, entry, &self.shared.names, self.pii) };
            if self.filter.passes(&call, true) {
                // Whoever resumes within them begins with the first again.
                told.push(self.change(call, token(changed.revision - 1)));
            }
            if told.len() >= limit {
                changed.more = true;
                break;
            }
        }
        told
    }

    fn change(&self, call: pb::Call, resume_token: String) -> pb::CallServiceWatchResponse {
        let change = pb::CallChange { revision: call.revision, call: Some(call), resume_token };
        pb::CallServiceWatchResponse { kind: Some(pb::call_service_watch_response::Kind::Change(change)) }
    }
}

impl Watcher for CallWatcher {
    type Message = pb::CallServiceWatchResponse;

    fn snapshot(&mut self, replica: &Replica, limit: usize) -> Option<(Vec<Self::Message>, bool)> {
        let page: Vec<_> = match self.uid {
            Some(uid) => replica.call(uid).into_iter().collect(),
            None => replica.calls(self.after).take(limit).collect(),
        };
        let more = self.uid.is_none() && page.len() == limit;
        self.after = page.last().map(|c| c.uid).or(self.after);
        let calls = page.into_iter().map(|c| map::call(replica, c, &self.shared.names, self.pii));
        let calls = calls.filter(|c| self.filter.passes(c, true)).map(|c| {
            let resume = token(c.revision);
            self.change(c, resume)
        });
        Some((calls.collect(), more))
    }

    fn follow_ups(&mut self, replica: &Replica, limit: usize) -> Vec<Self::Message> {
        let Some(mut changed) = self.node_changed.take() else { return Vec::new() };
        let told = self.of_changed_node(&mut changed, replica, limit);
        if changed.more {
            self.node_changed = Some(changed);
        }
        told
    }

    fn event(&mut self, replica: &Replica, event: &store_pb::Event, resume: String) -> (Option<Self::Message>, bool) {
        use store_pb::EventKind as K;
        if let (K::NodeDown | K::NodeBack | K::NodeUp, Ok(node)) = (event.kind(), u16::try_from(event.node)) {
            let lost = event.kind() != K::NodeBack;
            self.node_changed = Some(NodeChanged { node: NodeId(node), revision: event.revision, lost, after: None, more: true });
        }
        let Some(uid) = CallUid::from_bytes(&event.call) else { return (None, false) };
        let call = match replica.call(uid) {
            Some(entry) => map::call(replica, entry, &self.shared.names, self.pii),
            None => map::call_of_event(event, &self.shared.names, self.pii),
        };
        self.changed(uid, event, call, resume)
    }

    fn early(
        &mut self,
        replica: &Replica,
        call: Option<&CallEntry>,
        event: &store_pb::Event,
        resume: String,
    ) -> (Option<Self::Message>, bool) {
        let Some(uid) = CallUid::from_bytes(&event.call) else { return (None, false) };
        let call = match call {
            Some(entry) => map::early_call(replica, entry, &self.shared.names, self.pii),
            None => map::call_of_event(event, &self.shared.names, self.pii),
        };
        self.changed(uid, event, call, resume)
    }
}

impl WatchMessage for pb::CallServiceWatchResponse {
    fn synced(m: pb::WatchSynced) -> Self {
        pb::CallServiceWatchResponse { kind: Some(pb::call_service_watch_response::Kind::Synced(m)) }
    }
    fn progress(m: pb::WatchProgress) -> Self {
        pb::CallServiceWatchResponse { kind: Some(pb::call_service_watch_response::Kind::Progress(m)) }
    }
    fn goodbye(m: pb::WatchGoodbye) -> Self {
        pb::CallServiceWatchResponse { kind: Some(pb::call_service_watch_response::Kind::Goodbye(m)) }
    }
}
