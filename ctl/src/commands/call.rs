//! `call`: list, show, ladder, watch, terminate.

use std::ops::ControlFlow;

use sbc_proto::v1::call_service_client::CallServiceClient;
use sbc_proto::v1::{self, Call, CallServiceListResponse, CallState, LadderMessage, MessageDirection};
use tonic::transport::Channel;

use crate::args::{CallCommand, CallFilterArgs, Confirm, StateFilter, StreamArgs};
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::follow::{self, Seen};
use crate::output::{Out, Table, cause, enum_name, note, party, span, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: CallCommand) -> Result<(), Failure> {
    match command {
        CallCommand::List { filter, limit, watching } => {
            super::rounds(out, watching, async || {
                let calls = all_calls(cluster.connect().await?, filter_of(&filter), limit).await?;
                let response = CallServiceListResponse { calls, next_page_token: String::new() };
                out.list(("sbc.v1.CallServiceListResponse", &response), "sbc.v1.Call", &response.calls, table, "no calls")
            })
            .await
        }
        CallCommand::Show { uid } => {
            let call = get(cluster, &uid).await?;
            out.message("sbc.v1.Call", &call, || details(&call))
        }
        CallCommand::Ladder { uid } => {
            let mut client = CallServiceClient::new(cluster.connect().await?);
            let answer = client.get_ladder(v1::CallServiceGetLadderRequest { uid: uid.clone() }).await;
            let ladder = answer.map_err(|s| Failure::from_status(&format!("asking for the ladder of {uid}"), &s))?.into_inner();
            if ladder.dropped > 0 && out.is_table() {
                note(&format!("{} messages are missing: the ladder was full", ladder.dropped));
            }
            let response = ("sbc.v1.CallServiceGetLadderResponse", &ladder);
            out.list(response, "sbc.v1.LadderMessage", &ladder.messages, ladder_table, "no messages are kept of this call")
        }
        CallCommand::Watch { uid, filter, stream } => watch(cluster, out, uid.unwrap_or_default(), &filter, &stream).await,
        CallCommand::Terminate { uid, emergency, reason, confirm } => {
            terminate(cluster, out, uid, emergency, reason, confirm).await
        }
    }
}

fn filter_of(args: &CallFilterArgs) -> v1::CallFilter {
    let state = |s: &StateFilter| match s {
        StateFilter::Trying => CallState::Trying.into(),
        StateFilter::Ringing => CallState::Ringing.into(),
        StateFilter::Answered => CallState::Answered.into(),
        StateFilter::Ended => CallState::Ended.into(),
    };
    v1::CallFilter {
        states: args.state.iter().map(state).collect(),
        emergency: args.emergency,
        node: args.node.clone().unwrap_or_default(),
    }
}

/// All calls that the filter lets through (`limit` 0), or the first of them.
pub(crate) async fn all_calls(channel: Channel, filter: v1::CallFilter, limit: usize) -> Result<Vec<Call>, Failure> {
    let client = CallServiceClient::new(channel);
    super::pages("listing the calls", limit, async |page_size, page_token| {
        let request = v1::CallServiceListRequest { filter: Some(filter.clone()), page_size, page_token, uncommitted_only: false };
        let answer = client.clone().list(request).await;
        let answer = answer.map_err(|s| Failure::from_status("listing the calls", &s))?.into_inner();
        Ok((answer.calls, answer.next_page_token))
    })
    .await
}

async fn get(cluster: &Cluster, uid: &str) -> Result<Call, Failure> {
    let mut client = CallServiceClient::new(cluster.connect().await?);
    let answer = client.get(v1::CallServiceGetRequest { uid: uid.to_owned() }).await;
    let answer = answer.map_err(|s| Failure::from_status(&format!("asking for call {uid}"), &s))?;
    Ok(answer.into_inner().call.unwrap_or_default())
}

/// How far it is; whether its owner is down or has started again, and whether only its owner says so.
fn state(c: &Call) -> String {
    let mut state = enum_name(c.state().as_str_name(), "CALL_STATE_");
    for (what, is) in [("owner-lost", c.owner_lost), ("uncommitted", c.committed == Some(false))] {
        if is {
            state = format!("{state}, {what}");
        }
    }
    state
}

fn table(calls: &[Call]) -> Table {
    let mut table = Table::new(&["CALL", "STATE", "EMERGENCY", "OWNER", "EPOCH", "FROM", "TO", "TRUNK", "TARGET", "RECEIVED"]);
    for c in calls {
        let p = c.parties.clone().unwrap_or_default();
        table.row([
            c.uid.clone(),
            state(c),
            super::class(c.emergency, c.emergency_info.as_ref()),
            c.owner.clone(),
            c.epoch.to_string(),
            party(&p.from_display, &p.from_uri),
            p.request_uri,
            c.trunk.clone(),
            c.target.clone(),
            time(c.received_at.as_ref()),
        ]);
    }
    table
}

fn details(c: &Call) -> String {
    let p = c.parties.clone().unwrap_or_default();
    let m = c.media.unwrap_or_default();
    let mut table = Table::new(&["CALL", &c.uid]);
    table.row(["state", &state(c)]);
    table.row(["emergency", if c.emergency { "yes" } else { "no" }]);
    if let Some(info) = &c.emergency_info {
        table.row(["service", &info.service]);
        table.row(["call id", &info.call_id]);
        table.row(["incident id", &info.incident_id]);
    }
    table.row(["owner", &format!("{} (epoch {})", c.owner, c.epoch)]);
    table.row(["from", &party(&p.from_display, &p.from_uri)]);
    table.row(["to", &p.to_uri]);
    table.row(["request uri", &p.request_uri]);
    table.row(["call-id", &p.sip_call_id]);
    table.row(["asserted identity", &p.asserted_identity]);
    table.row(["trunk", &c.trunk]);
    table.row(["target", &c.target]);
    table.row(["received", &time(c.received_at.as_ref())]);
    table.row(["ringing", &time(c.ringing_at.as_ref())]);
    table.row(["answered", &time(c.answered_at.as_ref())]);
    table.row(["ended", &time(c.ended_at.as_ref())]);
    table.row(["talked", &span(c.answered_at.as_ref(), c.ended_at.as_ref())]);
    table.row(["cause", &cause(c.cause.as_ref())]);
    table.row(["rtp from caller", &format!("{} packets, {} octets", m.caller_packets, m.caller_octets)]);
    table.row(["rtp from called side", &format!("{} packets, {} octets", m.callee_packets, m.callee_octets)]);
    table.to_string()
}

/// The SIP messages of a call, times from its first.
fn ladder_table(messages: &[LadderMessage]) -> Table {
    let mut table = Table::new(&["AT", "LEG", "", "MESSAGE", "CSEQ", "NODE", "TRANSPORT", "LOCAL", "REMOTE", "NOTE"]);
    let first = messages.first().and_then(|m| m.at);
    for m in messages {
        let notes: Vec<&str> = [("relayed", m.relayed), ("repeated", m.retransmission)]
            .into_iter()
            .filter_map(|(n, set)| set.then_some(n))
            .collect();
        table.row([
            offset(first, m.at),
            enum_name(m.leg().as_str_name(), "CALL_LEG_"),
            match m.direction() {
                MessageDirection::Received => "-->",
                MessageDirection::Sent => "<--",
                MessageDirection::Unspecified => "",
            }
            .to_owned(),
            m.summary.clone(),
            m.cseq.clone(),
            m.ingress.clone(),
            m.transport.clone(),
            m.local.clone(),
            m.remote.clone(),
            notes.join(" "),
        ]);
    }
    table
}

fn offset(first: Option<prost_types::Timestamp>, at: Option<prost_types::Timestamp>) -> String {
    let (Some(first), Some(at)) = (first, at) else { return String::new() };
    let us = (at.seconds - first.seconds).saturating_mul(1_000_000) + i64::from((at.nanos - first.nanos) / 1000);
    let sign = if us < 0 { '-' } else { '+' };
    format!("{sign}{}.{:06}", us.unsigned_abs() / 1_000_000, us.unsigned_abs() % 1_000_000)
}

async fn watch(cluster: &Cluster, out: Out, uid: String, filter: &CallFilterArgs, stream: &StreamArgs) -> Result<(), Failure> {
    let filter = filter_of(filter);
    let mut left = stream.count;
    let open = async |channel: Channel, from| {
        let request =
            v1::CallServiceWatchRequest { uid: uid.clone(), filter: Some(filter.clone()), from: Some(from), heartbeat_ms: 0 };
        CallServiceClient::new(channel).watch(request).await.map(tonic::Response::into_inner)
    };
    follow::follow(cluster, "watching calls", follow::from(&stream.from), open, |seen| {
        let Seen::Event(change) = seen else { return Ok(ControlFlow::Continue(())) };
        out.event("sbc.v1.CallChange", &change, || {
            let c = change.call.clone().unwrap_or_default();
            let p = c.parties.clone().unwrap_or_default();
            let state = state(&c);
            format!(
                "{} {} {state} owner {} epoch {} {} {}",
                change.revision,
                c.uid,
                c.owner,
                c.epoch,
                p.from_uri,
                cause(c.cause.as_ref())
            )
        })?;
        Ok(super::event::countdown(&mut left))
    })
    .await
}

async fn terminate(
    cluster: &Cluster,
    out: Out,
    uid: String,
    emergency: bool,
    reason: String,
    confirm: Confirm,
) -> Result<(), Failure> {
    let call = get(cluster, &uid).await?;
    if call.emergency && !emergency {
        return Err(Failure::new(Exit::Usage, format!("{uid} is an emergency call"))
            .hint("repeat with --emergency if ending it is meant"));
    }
    let p = call.parties.unwrap_or_default();
    let kind = if call.emergency { "EMERGENCY CALL" } else { "call" };
    super::confirm(
        &format!("This ends {kind} {uid}: {} to {}, owner {}.", party(&p.from_display, &p.from_uri), p.request_uri, call.owner),
        confirm,
    )?;
    let request_id = cluster.request_id()?;
    let request = v1::CallServiceTerminateRequest { uid: uid.clone(), emergency, reason, request_id: request_id.clone() };
    let answer = CallServiceClient::new(cluster.connect().await?).terminate(request).await;
    let answer = answer.map_err(|s| Failure::from_change(&format!("ending call {uid}"), &s, &request_id))?;
    let call = answer.into_inner().call.unwrap_or_default();
    out.message("sbc.v1.Call", &call, || details(&call))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_goes_over_as_typed() {
        let args = CallFilterArgs { state: vec![StateFilter::Ringing], emergency: Some(false), node: Some("node-b".into()) };
        let filter = filter_of(&args);
        assert_eq!(filter.states, [i32::from(CallState::Ringing)]);
        assert_eq!(filter.emergency, Some(false));
        assert_eq!(filter.node, "node-b");
        assert_eq!(filter_of(&CallFilterArgs::default()), v1::CallFilter::default());
    }

    #[test]
    fn what_is_not_as_it_should_be_stands_beside_the_state() {
        let call = Call { state: CallState::Answered.into(), committed: Some(true), ..Call::default() };
        assert_eq!(state(&call), "answered");
        // A node of an earlier version does not say.
        assert_eq!(state(&Call { committed: None, ..call.clone() }), "answered");
        assert_eq!(state(&Call { committed: Some(false), ..call.clone() }), "answered, uncommitted");
        assert_eq!(state(&Call { owner_lost: true, ..call }), "answered, owner-lost");
    }

    #[test]
    fn ladder_times_count_from_the_first_message() {
        let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(offset(at(5, 999_000_000), at(6, 1_500_000)), "+0.002500");
        assert_eq!(offset(at(6, 0), at(5, 500_000_000)), "-0.500000");
        assert_eq!(offset(None, at(1, 0)), "");
    }
}
