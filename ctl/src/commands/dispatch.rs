//! `dispatch tail`: emergency calls, as a dispatch system sees them.

use std::ops::ControlFlow;

use sbc_proto::v1::dispatch_service_client::DispatchServiceClient;
use sbc_proto::v1::{self, EmergencyCallEvent, location};
use tonic::transport::Channel;

use crate::args::DispatchCommand;
use crate::client::Cluster;
use crate::error::Failure;
use crate::follow::{self, Seen};
use crate::output::{Out, cause, enum_name, party, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: DispatchCommand) -> Result<(), Failure> {
    let DispatchCommand::Tail { stream, call } = command;
    let call = call.unwrap_or_default();
    let mut left = stream.count;
    let open = async |channel: Channel, from| {
        let request = v1::DispatchServiceStreamEmergencyEventsRequest { from: Some(from), heartbeat_ms: 0, call: call.clone() };
        DispatchServiceClient::new(channel).stream_emergency_events(request).await.map(tonic::Response::into_inner)
    };
    follow::follow(cluster, "watching emergency calls", follow::from(&stream.from), open, |seen| {
        let Seen::Event(event) = seen else { return Ok(ControlFlow::Continue(())) };
        out.event("sbc.v1.EmergencyCallEvent", &event, || text(&event))?;
        Ok(super::event::countdown(&mut left))
    })
    .await
}

fn text(e: &EmergencyCallEvent) -> String {
    let kind = enum_name(e.kind().as_str_name(), "EMERGENCY_EVENT_KIND_");
    let mut parts = vec![time(e.occurred_at.as_ref()), e.node.clone(), format!("{}#{}", e.call, e.call_sequence), kind];
    if let Some(c) = &e.caller {
        parts.push(format!("{} -> {}", party(&c.from_display, &c.from_uri), c.request_uri));
    }
    for place in &e.locations {
        match &place.kind {
            Some(location::Kind::Value(v)) => parts.push(format!("location {} octets", v.len())),
            Some(location::Kind::ReferenceUri(uri)) => parts.push(format!("location {uri}")),
            None => {}
        }
    }
    parts.push(e.target.clone());
    parts.push(cause(e.cause.as_ref()));
    parts.retain(|p| !p.is_empty());
    parts.join(" ").replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_call_sequence_and_location() {
        let event = EmergencyCallEvent {
            call: "1-a-2f".into(),
            call_sequence: 3,
            node: "node-a".into(),
            kind: v1::EmergencyEventKind::Ended.into(),
            locations: vec![v1::Location { kind: Some(location::Kind::Value(b"<presence/>".to_vec())) }],
            cause: Some(v1::Cause { origin: v1::CauseOrigin::Callee.into(), sip_status: 200, reason: String::new() }),
            ..EmergencyCallEvent::default()
        };
        assert_eq!(text(&event), "node-a 1-a-2f#3 ended location 11 octets 200 (callee)");
    }
}
