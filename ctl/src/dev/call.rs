//! `dev call` and the process of the built-in PSAP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use sbc_phone::{LadderDirection, LadderLine, Location};
use tokio::sync::broadcast::error::RecvError;

use crate::dev::args::CallArgs;
use crate::dev::handset::{Talk, start_phone};
use crate::error::{Exit, Failure};
use crate::files;
use crate::output::{Out, Table, line, note};

/// Longest location: with the rest of its INVITE it fits a datagram.
const LOCATION_MAX: usize = 32 * 1024;

/// One call from this machine to the anycast address.
pub(crate) async fn call(out: Out, args: &CallArgs) -> Result<(), Failure> {
    let location = args.location.as_deref().map(location).transpose()?;
    let talk = Talk::place(IpAddr::V4(Ipv4Addr::LOCALHOST), &args.to, args.rtp, location).await?;
    note(&format!("answered after {} ms, talking for {} s", talk.setup().as_millis(), args.hold));
    tokio::time::sleep(Duration::from_secs(args.hold)).await;
    let hung_up = talk.bye().await;
    let (ladder, rtp) = (talk.ladder(), talk.rtp());
    let value = serde_json::json!({
        "setupMs": u64::try_from(talk.setup().as_millis()).unwrap_or(u64::MAX),
        "messages": ladder.iter().map(json).collect::<Vec<_>>(),
        "rtp": {
            "sent": rtp.sent,
            "received": rtp.received,
            "longestGapMs": u64::try_from(rtp.longest_gap.as_millis()).unwrap_or(u64::MAX),
        },
    });
    out.value(&value, || table(&ladder))?;
    if args.rtp {
        note(&format!(
            "audio: {} packets sent, {} returned, longest gap {} ms",
            rtp.sent,
            rtp.received,
            rtp.longest_gap.as_millis()
        ));
    }
    hung_up.map(|_| ())
}

/// A location as the file has it: whether it is good PIDF-LO is for the cluster to say.
fn location(path: &Path) -> Result<Location, Failure> {
    let pidf = files::read(path)?;
    if pidf.len() > LOCATION_MAX {
        return Err(Failure::new(Exit::Usage, format!("{} is too long for one INVITE by UDP", path.display()))
            .cause(format!("{} octets; the most is {LOCATION_MAX}", pidf.len())));
    }
    Ok(Location::new(pidf))
}

fn json(l: &LadderLine) -> serde_json::Value {
    let direction = if l.direction == LadderDirection::Sent { "sent" } else { "received" };
    serde_json::json!({
        "at": l.at.as_secs_f64(), "direction": direction, "from": l.from, "to": l.to, "summary": l.summary,
    })
}

fn table(ladder: &[LadderLine]) -> Table {
    let mut table = Table::new(&["AT", "CALLER", "", "CLUSTER", "MESSAGE"]);
    for l in ladder {
        let (ours, arrow, theirs) = match l.direction {
            LadderDirection::Sent => (l.from, "-->", l.to),
            LadderDirection::Received => (l.to, "<--", l.from),
        };
        table.row([
            format!("+{:.6}", l.at.as_secs_f64()),
            ours.to_string(),
            arrow.to_owned(),
            theirs.to_string(),
            l.summary.clone(),
        ]);
    }
    table
}

/// The PSAP phone's process: says "ready", then what happens, a line each, until it is stopped.
pub(crate) async fn psap(bind: SocketAddr) -> Result<(), Failure> {
    let phone = start_phone(bind).await?;
    let mut events = phone.events();
    line(&format!("ready {}", phone.local()))?;
    loop {
        match events.recv().await {
            Ok(event) => line(&format!("{event:?}"))?,
            Err(RecvError::Lagged(n)) => line(&format!("{n} events missed"))?,
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}
