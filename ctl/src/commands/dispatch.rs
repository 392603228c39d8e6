//! `dispatch tail|location|data`: emergency calls, as a dispatch system sees them.

use std::ops::ControlFlow;

use sbc_proto::v1::dispatch_service_client::DispatchServiceClient;
use sbc_proto::v1::geodetic::Shape;
use sbc_proto::v1::{self, EmergencyCallEvent, additional_data, location};
use tonic::transport::Channel;

use crate::args::DispatchCommand;
use crate::client::Cluster;
use crate::error::Failure;
use crate::follow::{self, Seen};
use crate::output::{Out, Table, cause, enum_name, party, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: DispatchCommand) -> Result<(), Failure> {
    let (stream, call) = match command {
        DispatchCommand::Tail { stream, call } => (stream, call),
        DispatchCommand::Location { call } => return location_of(cluster, out, call).await,
        DispatchCommand::Data { call } => return data_of(cluster, out, call).await,
    };
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
    let number = super::event::number(e.committed, e.call_sequence);
    let mut parts = vec![time(e.occurred_at.as_ref()), e.node.clone(), format!("{}{number}", e.call), kind];
    if let Some(c) = &e.caller {
        parts.push(format!("{} -> {}", party(&c.from_display, &c.from_uri), c.request_uri));
    }
    parts.extend(e.emergency_info.iter().filter(|_| e.kind() == v1::EmergencyEventKind::Received).map(|i| i.service.clone()));
    parts.extend(e.locations.iter().map(|place| format!("location {}", place_text(place))));
    parts.extend(e.additional_data.iter().map(|data| format!("data {}", data.purpose)));
    parts.push(e.target.clone());
    parts.push(cause(e.cause.as_ref()));
    parts.extend(e.retracted.iter().cloned());
    parts.retain(|p| !p.is_empty());
    parts.join(" ").replace(char::is_control, "\u{fffd}")
}

async fn location_of(cluster: &Cluster, out: Out, call: String) -> Result<(), Failure> {
    let asked = v1::DispatchServiceGetLocationRequest { call };
    let answer = DispatchServiceClient::new(cluster.connect().await?).get_location(asked).await;
    let answer = answer.map_err(|s| Failure::from_status("asking for the location", &s))?.into_inner();
    let name = ("sbc.v1.DispatchServiceGetLocationResponse", &answer);
    let when = time(answer.occurred_at.as_ref());
    let table = |places: &[v1::Location]| {
        let mut table = Table::new(&["CAME", "PLACE", "METHOD", "AS OF"]);
        for place in places {
            let read = place.parsed.first().cloned().unwrap_or_default();
            table.row([when.clone(), place_text(place), read.method, read.timestamp]);
        }
        table
    };
    out.list(name, "sbc.v1.Location", &answer.locations, table, "the call brought no location")
}

async fn data_of(cluster: &Cluster, out: Out, call: String) -> Result<(), Failure> {
    let asked = v1::DispatchServiceGetAdditionalDataRequest { call };
    let answer = DispatchServiceClient::new(cluster.connect().await?).get_additional_data(asked).await;
    let answer = answer.map_err(|s| Failure::from_status("asking for the additional data", &s))?.into_inner();
    let name = ("sbc.v1.DispatchServiceGetAdditionalDataResponse", &answer);
    let table = |blocks: &[v1::AdditionalData]| {
        let mut table = Table::new(&["PURPOSE", "TYPE", "CONTENT"]);
        for block in blocks {
            let content = match &block.kind {
                Some(additional_data::Kind::Value(v)) => format!("{} octets", v.len()),
                Some(additional_data::Kind::ReferenceUri(uri)) => uri.clone(),
                None => String::new(),
            };
            table.row([block.purpose.clone(), block.content_type.clone(), content]);
        }
        table
    };
    out.list(name, "sbc.v1.AdditionalData", &answer.data, table, "the call brought no additional data")
}

/// What was read of a location, else what came.
fn place_text(place: &v1::Location) -> String {
    let read: Vec<String> = place.parsed.iter().map(read_text).collect();
    match &place.kind {
        _ if !read.is_empty() => read.join("; "),
        Some(location::Kind::Value(v)) => format!("{} octets ({})", v.len(), place.parse_error),
        Some(location::Kind::ReferenceUri(uri)) => uri.clone(),
        None => String::new(),
    }
}

fn read_text(place: &v1::ParsedLocation) -> String {
    let at = |p: &Option<v1::Point>| p.as_ref().map(|p| format!("{:.6},{:.6}", p.latitude, p.longitude)).unwrap_or_default();
    let shape = place.geodetic.as_ref().and_then(|g| g.shape.as_ref()).map(|shape| match shape {
        Shape::Point(p) => at(&Some(*p)),
        Shape::Circle(c) => format!("{} within {} m", at(&c.center), c.radius_m),
        Shape::Ellipse(e) => format!("{} within {} m by {} m", at(&e.center), e.semi_major_m, e.semi_minor_m),
        Shape::ArcBand(a) => format!("{} at {} to {} m", at(&a.center), a.inner_radius_m, a.outer_radius_m),
        Shape::Polygon(p) => {
            format!("polygon of {} corners from {}", p.points.len().saturating_sub(1), at(&p.points.first().copied()))
        }
    });
    let civic: Vec<&str> = place.civic.iter().map(|e| e.value.as_str()).filter(|v| !v.is_empty()).collect();
    let civic = (!civic.is_empty()).then(|| civic.join(", "));
    shape.into_iter().chain(civic).collect::<Vec<_>>().join(" ")
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
            locations: vec![v1::Location {
                kind: Some(location::Kind::Value(b"<presence/>".to_vec())),
                parse_error: "no location-info".into(),
                ..v1::Location::default()
            }],
            cause: Some(v1::Cause { origin: v1::CauseOrigin::Callee.into(), sip_status: 200, ..v1::Cause::default() }),
            ..EmergencyCallEvent::default()
        };
        assert_eq!(text(&event), "node-a 1-a-2f#3 ended location 11 octets (no location-info) 200 (callee)");
    }
}
