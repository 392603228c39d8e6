//! Replicated records as `sbc.v1` messages. Personal data only where the asker may see it.

use sbc_core::ids::{CallUid, NodeId};
use sbc_core::replica::{CallEntry, Phase, Replica, event_id};
use sbc_core::store_pb;
use sbc_proto::v1 as pb;

use super::dispatch_map::{additional_data, locations};
use crate::telemetry::ActiveAlarm;

/// Names of nodes by id.
#[derive(Clone, Debug)]
pub(crate) struct Names(Vec<(NodeId, String)>);

impl Names {
    pub(crate) fn of(config: &crate::config::NodeConfig) -> Names {
        Names(config.cluster.members.iter().map(|m| (m.id, m.name.clone())).collect())
    }

    /// The name; a node that is no member any more by its number.
    pub(crate) fn name(&self, id: NodeId) -> String {
        self.0.iter().find(|(i, _)| *i == id).map_or_else(|| format!("node {id}"), |(_, n)| n.clone())
    }

    fn number(&self, id: u32) -> String {
        u16::try_from(id).ok().filter(|id| *id != 0).map(|id| self.name(NodeId(id))).unwrap_or_default()
    }
}

/// A time of a record; 0 is none.
pub(crate) fn time(unix_ms: u64) -> Option<prost_types::Timestamp> {
    if unix_ms == 0 {
        return None;
    }
    let nanos = i32::try_from(unix_ms % 1000 * 1_000_000).unwrap_or(0);
    Some(prost_types::Timestamp { seconds: i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX), nanos })
}

/// A call's identifier as people write it; empty where there is none.
pub(crate) fn uid_text(raw: &[u8]) -> String {
    CallUid::from_bytes(raw).map(|u| u.to_string()).unwrap_or_default()
}

pub(crate) fn state(phase: Phase) -> pb::CallState {
    match phase {
        Phase::Trying => pb::CallState::Trying,
        Phase::Ringing => pb::CallState::Ringing,
        Phase::Answered => pb::CallState::Answered,
        Phase::Ended => pb::CallState::Ended,
    }
}

fn parties(p: Option<&store_pb::CallParties>, pii: bool) -> Option<pb::CallParties> {
    let p = p.filter(|_| pii)?;
    Some(pb::CallParties {
        from_uri: p.from_uri.clone(),
        from_display: p.from_display.clone(),
        to_uri: p.to_uri.clone(),
        request_uri: p.request_uri.clone(),
        sip_call_id: p.call_id.clone(),
        asserted_identity: p.asserted_identity.clone(),
    })
}

fn emergency_info(info: Option<&store_pb::EmergencyInfo>) -> Option<pb::EmergencyInfo> {
    info.map(|i| pb::EmergencyInfo { service: i.service.clone(), call_id: i.call_id.clone(), incident_id: i.incident_id.clone() })
}

fn cause(c: Option<&store_pb::EndCause>) -> Option<pb::Cause> {
    let c = c?;
    let origin = match c.origin.as_str() {
        "caller" => pb::CauseOrigin::Caller,
        "callee" => pb::CauseOrigin::Callee,
        "operator" => pb::CauseOrigin::Operator,
        "node" => pb::CauseOrigin::Node,
        _ => pb::CauseOrigin::Unspecified,
    };
    Some(pb::Cause { origin: origin.into(), sip_status: c.status, reason: c.reason.clone(), q850: c.q850 })
}

pub(crate) fn call(replica: &Replica, entry: &CallEntry, names: &Names, pii: bool) -> pb::Call {
    let s = entry.state();
    pb::Call {
        uid: entry.uid.to_string(),
        owner: names.name(entry.owner()),
        epoch: s.epoch,
        state: state(entry.phase()).into(),
        emergency: entry.emergency(),
        trunk: entry.claim().trunk.clone(),
        target: s.target.clone(),
        parties: parties(entry.parties(), pii),
        received_at: time(s.claimed_unix_ms),
        ringing_at: time(s.ringing_unix_ms),
        answered_at: time(s.answered_unix_ms),
        ended_at: time(s.ended_unix_ms),
        cause: cause(s.cause.as_ref()),
        media: None,
        revision: s.revision,
        emergency_info: emergency_info(entry.claim().emergency_info.as_ref()),
        owner_lost: replica.is_owner_lost(entry),
        committed: Some(true),
    }
}

/// A call as its owner has it, before the log has all of it.
pub(crate) fn early_call(replica: &Replica, entry: &CallEntry, names: &Names, pii: bool) -> pb::Call {
    pb::Call { committed: Some(false), ..call(replica, entry, names, pii) }
}

/// A call that is no longer kept, as far as one of its events tells.
pub(crate) fn call_of_event(event: &store_pb::Event, names: &Names, pii: bool) -> pb::Call {
    use store_pb::EventKind as K;
    let state = match event.kind() {
        K::Received => pb::CallState::Trying,
        K::Ringing => pb::CallState::Ringing,
        K::Answered | K::Updated | K::LocationUpdated | K::AdditionalData => pb::CallState::Answered,
        _ => pb::CallState::Ended,
    };
    pb::Call {
        uid: uid_text(&event.call),
        owner: names.number(event.node),
        epoch: event.epoch,
        state: state.into(),
        emergency: event.emergency,
        target: event.target.clone(),
        parties: parties(event.parties.as_ref(), pii),
        ended_at: if state == pb::CallState::Ended { time(event.unix_ms) } else { None },
        cause: cause(event.cause.as_ref()),
        revision: event.revision,
        committed: Some(event.revision > 0),
        emergency_info: emergency_info(event.emergency_info.as_ref()),
        ..pb::Call::default()
    }
}

pub(crate) fn event(e: &store_pb::Event, names: &Names, pii: bool, resume_token: String) -> pb::Event {
    pb::Event {
        revision: e.revision,
        // The two enumerations have the same numbers (tested).
        kind: e.kind,
        occurred_at: time(e.unix_ms),
        call: uid_text(&e.call),
        call_sequence: e.call_sequence,
        node: names.number(e.node),
        epoch: e.epoch,
        emergency: e.emergency,
        parties: parties(e.parties.as_ref(), pii),
        cause: cause(e.cause.as_ref()),
        target: e.target.clone(),
        config_revision: e.config_revision,
        resume_token,
        emergency_info: emergency_info(e.emergency_info.as_ref()),
        alarm: e.alarm.clone(),
        detail: e.detail.clone(),
        committed: Some(e.revision > 0),
        event_id: event_id(e),
        retracted: e.retracted.clone(),
    }
}

/// An alarm as the log has it.
pub(crate) fn alarm(a: &store_pb::AlarmState) -> pb::Alarm {
    pb::Alarm { kind: a.kind.clone(), detail: a.detail.clone(), since: time(a.since_unix_ms) }
}

/// One of this node.
pub(crate) fn active_alarm(a: ActiveAlarm) -> pb::Alarm {
    pb::Alarm { kind: a.kind.as_str().to_owned(), detail: a.detail, since: time(a.since_unix_ms) }
}

pub(crate) fn cdr(c: &store_pb::Cdr, names: &Names, pii: bool) -> pb::Cdr {
    let media = c.media.unwrap_or_default();
    pb::Cdr {
        revision: c.revision,
        call: uid_text(&c.call),
        owner: names.number(c.owner),
        epoch: c.epoch,
        emergency: c.emergency,
        trunk: c.trunk.clone(),
        target: c.target.clone(),
        parties: parties(c.parties.as_ref(), pii),
        received_at: time(c.received_unix_ms),
        ringing_at: time(c.ringing_unix_ms),
        answered_at: time(c.answered_unix_ms),
        ended_at: time(c.ended_unix_ms),
        cause: cause(c.cause.as_ref()),
        media: Some(pb::MediaCounters {
            caller_packets: media.caller_packets,
            caller_octets: media.caller_octets,
            callee_packets: media.callee_packets,
            callee_octets: media.callee_octets,
        }),
        emergency_info: emergency_info(c.emergency_info.as_ref()),
        twin: if c.twin.is_empty() { String::new() } else { uid_text(&c.twin) },
        owners_before: c.owners_before.iter().map(|node| names.number(*node)).collect(),
    }
}

/// `None` for an event that is not about a call.
pub(crate) fn emergency(e: &store_pb::Event, names: &Names, pii: bool, resume_token: String) -> Option<pb::EmergencyCallEvent> {
    use pb::EmergencyEventKind as D;
    use store_pb::EventKind as K;
    let kind = match e.kind() {
        K::Received => D::Received,
        K::Ringing => D::Ringing,
        K::Answered => D::Answered,
        K::Ended => D::Ended,
        K::Abandoned => D::Abandoned,
        K::Updated => D::Updated,
        K::LocationUpdated => D::LocationUpdated,
        K::AdditionalData => D::AdditionalData,
        K::Retracted => D::Retracted,
        K::NodeChanged => D::NodeChanged,
        K::Unspecified | K::Config | K::ConfigRolledBack | K::AlarmRaised | K::AlarmCleared => return None,
        K::NodeUp | K::NodeDown | K::NodeBack => return None,
    };
    let call = uid_text(&e.call);
    let caller = parties(e.parties.as_ref(), pii).map(|p| pb::CallerIdentity {
        from_uri: p.from_uri,
        from_display: p.from_display,
        asserted_identity: p.asserted_identity,
        request_uri: p.request_uri,
        sip_call_id: p.sip_call_id,
    });
    Some(pb::EmergencyCallEvent {
        event_id: event_id(e),
        call,
        call_sequence: e.call_sequence,
        revision: e.revision,
        occurred_at: time(e.unix_ms),
        node: names.number(e.node),
        kind: kind.into(),
        caller,
        locations: if pii && kind != D::AdditionalData { locations(&e.invite) } else { Vec::new() },
        additional_data: if pii && kind != D::LocationUpdated { additional_data(&e.invite) } else { Vec::new() },
        emergency_info: emergency_info(e.emergency_info.as_ref()),
        cause: cause(e.cause.as_ref()),
        target: e.target.clone(),
        resume_token,
        committed: Some(e.revision > 0),
        retracted: e.retracted.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_kinds_have_the_same_numbers() {
        for n in 0..100 {
            let (ours, theirs) = (store_pb::EventKind::try_from(n), pb::EventKind::try_from(n));
            assert_eq!(ours.ok().map(|k| k.as_str_name()), theirs.ok().map(|k| k.as_str_name()));
        }
    }
}
