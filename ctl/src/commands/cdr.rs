//! `cdr list`: the call detail records, one a call.

use sbc_proto::v1::event_service_client::EventServiceClient;
use sbc_proto::v1::{self, Cdr, EventServiceListCdrsResponse};
use tonic::transport::Channel;

use crate::args::CdrCommand;
use crate::client::Cluster;
use crate::error::Failure;
use crate::output::{Out, Table, cause, span, time};

pub(super) async fn run(cluster: &Cluster, out: Out, command: CdrCommand) -> Result<(), Failure> {
    let CdrCommand::List { limit, call, watching } = command;
    super::rounds(out, watching, async || {
        let cdrs = all_cdrs(cluster.connect().await?, call.clone().unwrap_or_default(), limit).await?;
        let response = EventServiceListCdrsResponse { cdrs, next_page_token: String::new() };
        out.list(("sbc.v1.EventServiceListCdrsResponse", &response), "sbc.v1.Cdr", &response.cdrs, table, "no records")
    })
    .await
}

/// All records (`limit` 0), or the first of them; `call` empty: of all calls.
pub(crate) async fn all_cdrs(channel: Channel, call: String, limit: usize) -> Result<Vec<Cdr>, Failure> {
    let client = EventServiceClient::new(channel);
    super::pages("listing the records", limit, async |page_size, page_token| {
        let request = v1::EventServiceListCdrsRequest { page_size, page_token, call: call.clone() };
        let answer = client.clone().list_cdrs(request).await;
        let answer = answer.map_err(|s| Failure::from_status("listing the records", &s))?.into_inner();
        Ok((answer.cdrs, answer.next_page_token))
    })
    .await
}

fn table(cdrs: &[Cdr]) -> Table {
    let mut table = Table::new(&[
        "REVISION",
        "CALL",
        "EMERGENCY",
        "OWNER",
        "FROM",
        "TO",
        "RECEIVED",
        "ANSWERED",
        "TALKED",
        "CAUSE",
        "RTP IN/OUT",
    ]);
    for c in cdrs {
        let p = c.parties.clone().unwrap_or_default();
        let m = c.media.unwrap_or_default();
        table.row([
            c.revision.to_string(),
            c.call.clone(),
            super::class(c.emergency, c.emergency_info.as_ref()),
            c.owner.clone(),
            p.from_uri,
            p.request_uri,
            time(c.received_at.as_ref()),
            time(c.answered_at.as_ref()),
            span(c.answered_at.as_ref(), c.ended_at.as_ref()),
            cause(c.cause.as_ref()),
            format!("{}/{}", m.caller_packets, m.callee_packets),
        ]);
    }
    table
}
