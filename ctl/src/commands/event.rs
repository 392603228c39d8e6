//! `event`: what happened, as it happens or as it is kept.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use sbc_proto::v1::event_service_client::EventServiceClient;
use sbc_proto::v1::{self, Event};
use tonic::transport::Channel;

use crate::args::{EventCommand, StreamArgs};
use crate::client::Cluster;
use crate::error::Failure;
use crate::follow::{self, Seen};
use crate::output::{Out, cause, enum_name, note, party, time};

/// Events that `event list` holds at the most: far above what a node keeps, far below what a machine has.
const MAX_LISTED: usize = 5_000_000;

pub(super) async fn run(cluster: &Cluster, out: Out, command: EventCommand) -> Result<(), Failure> {
    match command {
        EventCommand::Tail { stream, call } => tail(cluster, out, &stream, call).await,
        EventCommand::List { call } => {
            let events = kept(cluster, call).await?;
            if events.is_empty() && out.is_table() {
                note("no events");
            }
            out.items("events", "sbc.v1.Event", &events, text)
        }
    }
}

async fn watch(
    cluster: &Cluster,
    start: &str,
    call: Option<String>,
    sink: impl FnMut(Seen<Event>) -> Result<ControlFlow<()>, Failure>,
) -> Result<(), Failure> {
    let filter = v1::EventFilter { call: call.unwrap_or_default(), ..v1::EventFilter::default() };
    let open = async |channel: Channel, from| {
        let request = v1::EventServiceWatchRequest { filter: Some(filter.clone()), from: Some(from), heartbeat_ms: 0 };
        EventServiceClient::new(channel).watch(request).await.map(tonic::Response::into_inner)
    };
    follow::follow(cluster, "watching events", follow::from(start), open, sink).await
}

async fn tail(cluster: &Cluster, out: Out, stream: &StreamArgs, call: Option<String>) -> Result<(), Failure> {
    let mut left = stream.count;
    watch(cluster, &stream.from, call, |seen| {
        let Seen::Event(event) = seen else { return Ok(ControlFlow::Continue(())) };
        out.event("sbc.v1.Event", &event, || text(&event))?;
        Ok(countdown(&mut left))
    })
    .await
}

/// What the node keeps, by revision. A stream that broke and began again brings some events twice.
async fn kept(cluster: &Cluster, call: Option<String>) -> Result<Vec<Event>, Failure> {
    let (mut events, mut early) = (BTreeMap::new(), BTreeMap::new());
    watch(cluster, "snapshot", call, |seen| {
        let Seen::Event(event) = seen else { return Ok(ControlFlow::Break(())) };
        // What is not committed comes again with its revision once it is.
        if event.committed == Some(false) {
            early.insert(event.event_id.clone(), event);
        } else {
            early.remove(&event.event_id);
            events.insert(event.revision, event);
        }
        if events.len() > MAX_LISTED {
            return Err(Failure::failed(format!("more than {MAX_LISTED} events")).hint("use `sbcctl event tail --from snapshot`"));
        }
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    // They have no revision yet: in the order in which they happened.
    let mut early: Vec<Event> = early.into_values().collect();
    early.sort_by_key(|e| e.occurred_at.as_ref().map(|at| (at.seconds, at.nanos)));
    Ok(events.into_values().chain(early).collect())
}

/// Counts down to the last event that was asked for; 0 at the start: there is none.
pub(super) fn countdown(left: &mut u64) -> ControlFlow<()> {
    match *left {
        0 => ControlFlow::Continue(()),
        1 => ControlFlow::Break(()),
        _ => {
            *left -= 1;
            ControlFlow::Continue(())
        }
    }
}

/// An event's place among those of its call; what is not committed has none.
pub(super) fn number(committed: Option<bool>, sequence: u32) -> String {
    if committed == Some(false) { " (not committed)".to_owned() } else { format!("#{sequence}") }
}

fn text(e: &Event) -> String {
    let kind = enum_name(e.kind().as_str_name(), "EVENT_KIND_");
    let revision = if e.revision > 0 { e.revision.to_string() } else { String::new() };
    let mut parts = vec![time(e.occurred_at.as_ref()), revision, e.node.clone(), kind];
    if !e.call.is_empty() {
        parts.push(format!("{}{}", e.call, number(e.committed, e.call_sequence)));
        parts.push(if e.emergency { "emergency".to_owned() } else { String::new() });
        if let Some(p) = &e.parties {
            parts.push(format!("{} -> {}", party(&p.from_display, &p.from_uri), p.request_uri));
        }
        parts.push(e.target.clone());
        parts.push(cause(e.cause.as_ref()));
        parts.extend(e.retracted.iter().cloned());
    }
    if e.config_revision > 0 {
        parts.push(format!("configuration {}", e.config_revision));
    }
    parts.extend([e.alarm.clone(), e.detail.clone()]);
    parts.retain(|p| !p.is_empty());
    parts.join(" ").replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_down_to_the_last() {
        let mut left = 2;
        assert!(countdown(&mut left).is_continue());
        assert!(countdown(&mut left).is_break());
        let mut forever = 0;
        assert!((0..10).all(|_| countdown(&mut forever).is_continue()));
    }

    #[test]
    fn a_line_says_who_and_what() {
        let event = Event {
            revision: 8192,
            kind: v1::EventKind::Received.into(),
            call: "1-a-2f".into(),
            call_sequence: 1,
            node: "node-a".into(),
            emergency: true,
            parties: Some(v1::CallParties {
                from_uri: "sip:a\x1b@b".into(),
                request_uri: "sip:112@any".into(),
                ..Default::default()
            }),
            ..Event::default()
        };
        assert_eq!(text(&event), "8192 node-a received 1-a-2f#1 emergency sip:a\u{fffd}@b -> sip:112@any");
    }
}
