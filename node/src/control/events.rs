//! `sbc.v1.EventService` and `sbc.v1.DispatchService`: what happened, the same from every node.

use std::sync::Arc;

use sbc_core::ids::CallUid;
use sbc_core::replica::Replica;
use sbc_core::store_pb;
use sbc_proto::v1 as pb;
use sbc_proto::v1::dispatch_service_server::DispatchService;
use sbc_proto::v1::event_service_server::EventService;
use tonic::{Code, Request, Response, Status};

use super::dispatch_map::{additional_data, locations};
use super::error::fault;
use super::map;
use super::permission::PII_READ;
use super::shared::{Shared, bad_page_token, caller, page_size, parse_uid};
use super::watch::{Answers, WatchMessage, Watcher, watch};

/// CDRs looked at for one page.
const SCAN_MAX: usize = 20_000;

/// Both services.
#[derive(Clone)]
pub(crate) struct Events(pub(crate) Shared);

fn uid(text: &str) -> Result<Option<CallUid>, Status> {
    if text.is_empty() { Ok(None) } else { parse_uid(text).map(Some) }
}

#[tonic::async_trait]
impl EventService for Events {
    type WatchStream = Answers<pb::EventServiceWatchResponse>;

    async fn watch(&self, request: Request<pb::EventServiceWatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let pii = caller(&request)?.pii;
        let asked = request.into_inner();
        let filter = asked.filter.unwrap_or_default();
        let call = uid(&filter.call)?;
        let watcher = EventWatcher { shared: self.0.clone(), kinds: filter.kinds, call, emergency: filter.emergency, pii };
        Ok(Response::new(watch(&self.0, asked.from, asked.heartbeat_ms, watcher)?))
    }

    async fn list_cdrs(
        &self,
        request: Request<pb::EventServiceListCdrsRequest>,
    ) -> Result<Response<pb::EventServiceListCdrsResponse>, Status> {
        let pii = caller(&request)?.pii;
        let asked = request.into_inner();
        let (limit, call) = (page_size(asked.page_size), uid(&asked.call)?.map(|u| u.to_bytes()));
        let (after, left) = match asked.page_token.as_str() {
            "" => (0, true),
            // `o`: of what was there when the list began, in which CDRs of ordinary calls may be missing that those of emergency calls outlived.
            t => {
                let (kind, after) = t.split_at_checked(1).ok_or_else(bad_page_token)?;
                let after = u64::from_str_radix(after, 16).map_err(|_| bad_page_token())?;
                match kind {
                    "c" => (after, false),
                    "o" => (after, true),
                    _ => return Err(bad_page_token()),
                }
            }
        };
        let scan = if call.is_some() { SCAN_MAX } else { limit };
        let gaps_to = self.0.read(|r| r.compacted_to().1);
        let left = left && after < gaps_to;
        let page = self.0.read(|r| if left { Ok(r.cdrs_left(after, scan + 1)) } else { r.cdrs(after, scan + 1) });
        let page = page.map_err(|c| fault(Code::OutOfRange, pb::ErrorReason::Compacted, c.to_string(), &[]))?;
        let more = page.len() > scan;
        let (mut cdrs, mut last, mut full) = (Vec::new(), 0, false);
        for c in page.iter().take(scan) {
            if cdrs.len() == limit {
                full = true;
                break;
            }
            last = c.revision;
            if call.is_none_or(|u| c.call[..] == u[..]) {
                cdrs.push(map::cdr(c, &self.0.names, pii));
            }
        }
        let next_page_token =
            if more || full { format!("{}{last:x}", if last < gaps_to { 'o' } else { 'c' }) } else { String::new() };
        Ok(Response::new(pb::EventServiceListCdrsResponse { cdrs, next_page_token }))
    }
}

#[tonic::async_trait]
impl DispatchService for Events {
    type StreamEmergencyEventsStream = Answers<pb::DispatchServiceStreamEmergencyEventsResponse>;

    async fn stream_emergency_events(
        &self,
        request: Request<pb::DispatchServiceStreamEmergencyEventsRequest>,
    ) -> Result<Response<Self::StreamEmergencyEventsStream>, Status> {
        let pii = caller(&request)?.pii;
        let asked = request.into_inner();
        let watcher = EmergencyWatcher { shared: self.0.clone(), call: uid(&asked.call)?, pii };
        Ok(Response::new(watch(&self.0, asked.from, asked.heartbeat_ms, watcher)?))
    }

    async fn get_location(
        &self,
        request: Request<pb::DispatchServiceGetLocationRequest>,
    ) -> Result<Response<pb::DispatchServiceGetLocationResponse>, Status> {
        need_pii(&request)?;
        let messages = self.messages(&request.into_inner().call)?;
        let mut answer = pb::DispatchServiceGetLocationResponse::default();
        for event in messages.iter().rev() {
            let locations = locations(&event.invite);
            if !locations.is_empty() {
                answer = pb::DispatchServiceGetLocationResponse {
                    locations,
                    occurred_at: map::time(event.unix_ms),
                    revision: event.revision,
                };
                break;
            }
        }
        Ok(Response::new(answer))
    }

    async fn get_additional_data(
        &self,
        request: Request<pb::DispatchServiceGetAdditionalDataRequest>,
    ) -> Result<Response<pb::DispatchServiceGetAdditionalDataResponse>, Status> {
        need_pii(&request)?;
        let messages = self.messages(&request.into_inner().call)?;
        let wanted = |e: &&Arc<store_pb::Event>| e.kind() != store_pb::EventKind::LocationUpdated;
        let data = messages.iter().filter(wanted).flat_map(|e| additional_data(&e.invite)).collect();
        Ok(Response::new(pb::DispatchServiceGetAdditionalDataResponse { data }))
    }
}

impl Events {
    /// The events of an emergency call that hold a message, oldest first.
    fn messages(&self, call: &str) -> Result<Vec<Arc<store_pb::Event>>, Status> {
        let uid = parse_uid(call)?;
        let raw = uid.to_bytes();
        let (known, events) = self.0.read(|r| {
            let all = r.emergency_events(r.emergency_events_compacted_to(), usize::MAX).unwrap_or_default();
            let mut of_call: Vec<_> = all.into_iter().filter(|e| e.call[..] == raw[..] && e.emergency).collect();
            of_call.extend(self.0.read_early(|early| {
                let told =
                    early.events(0).filter(|(_, call, told)| *call == uid && told.event.emergency && !told.is_committed(r, uid));
                told.map(|(_, _, told)| Arc::clone(&told.event)).collect::<Vec<_>>()
            }));
            (r.call(uid).is_some_and(|c| c.emergency()) || !of_call.is_empty(), of_call)
        });
        if !known {
            let text = format!("no emergency call {call} is known");
            return Err(fault(Code::NotFound, pb::ErrorReason::CallNotFound, text, &[("call", call)]));
        }
        Ok(events.into_iter().filter(|e| !e.invite.is_empty()).collect())
    }
}

/// What is nothing but personal data is not answered with nothing to who may not see it.
fn need_pii<T>(request: &Request<T>) -> Result<(), Status> {
    let caller = caller(request)?;
    if caller.pii {
        return Ok(());
    }
    let who = caller.display();
    let facts = [("permission", PII_READ), ("identity", who.as_str())];
    Err(fault(Code::PermissionDenied, pb::ErrorReason::PermissionDenied, format!("{who} may not {PII_READ}"), &facts))
}

pub(crate) struct EventWatcher {
    pub(crate) shared: Shared,
    pub(crate) kinds: Vec<i32>,
    pub(crate) call: Option<CallUid>,
    pub(crate) emergency: Option<bool>,
    pub(crate) pii: bool,
}

impl Watcher for EventWatcher {
    type Message = pb::EventServiceWatchResponse;

    fn emergencies(&self) -> bool {
        self.emergency == Some(true)
    }

    fn event(&mut self, _: &Replica, e: &store_pb::Event, resume: String) -> (Option<Self::Message>, bool) {
        let wanted = (self.kinds.is_empty() || self.kinds.contains(&e.kind))
            && self.call.is_none_or(|u| e.call[..] == u.to_bytes()[..])
            && self.emergency.is_none_or(|x| x == e.emergency && !e.call.is_empty());
        let message = || {
            let event = map::event(e, &self.shared.names, self.pii, resume);
            pb::EventServiceWatchResponse { kind: Some(pb::event_service_watch_response::Kind::Event(event)) }
        };
        (wanted.then(message), false)
    }
}

struct EmergencyWatcher {
    shared: Shared,
    call: Option<CallUid>,
    pii: bool,
}

impl Watcher for EmergencyWatcher {
    type Message = pb::DispatchServiceStreamEmergencyEventsResponse;

    fn emergencies(&self) -> bool {
        true
    }

    fn event(&mut self, _: &Replica, e: &store_pb::Event, resume: String) -> (Option<Self::Message>, bool) {
        if !e.emergency || self.call.is_some_and(|u| e.call[..] != u.to_bytes()[..]) {
            return (None, false);
        }
        let event = map::emergency(e, &self.shared.names, self.pii, resume);
        let message = event.map(|e| pb::DispatchServiceStreamEmergencyEventsResponse {
            kind: Some(pb::dispatch_service_stream_emergency_events_response::Kind::Event(e)),
        });
        (message, false)
    }
}

impl WatchMessage for pb::EventServiceWatchResponse {
    fn synced(m: pb::WatchSynced) -> Self {
        pb::EventServiceWatchResponse { kind: Some(pb::event_service_watch_response::Kind::Synced(m)) }
    }
    fn progress(m: pb::WatchProgress) -> Self {
        pb::EventServiceWatchResponse { kind: Some(pb::event_service_watch_response::Kind::Progress(m)) }
    }
    fn goodbye(m: pb::WatchGoodbye) -> Self {
        pb::EventServiceWatchResponse { kind: Some(pb::event_service_watch_response::Kind::Goodbye(m)) }
    }
}

impl WatchMessage for pb::DispatchServiceStreamEmergencyEventsResponse {
    fn synced(m: pb::WatchSynced) -> Self {
        Self { kind: Some(pb::dispatch_service_stream_emergency_events_response::Kind::Synced(m)) }
    }
    fn progress(m: pb::WatchProgress) -> Self {
        Self { kind: Some(pb::dispatch_service_stream_emergency_events_response::Kind::Progress(m)) }
    }
    fn goodbye(m: pb::WatchGoodbye) -> Self {
        Self { kind: Some(pb::dispatch_service_stream_emergency_events_response::Kind::Goodbye(m)) }
    }
}
