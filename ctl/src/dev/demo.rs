//! `dev demo`: shows, and measures, that a call survives the move of the anycast address. A cluster of its own, which is gone
//! afterwards whatever happened.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sbc_proto::v1::{Call, CallState};

use crate::dev::evidence::{Witnesses, agree, events_fault};
use crate::dev::handset::{Psap, Talk};
use crate::dev::report::Report;
use crate::dev::stand::{ANYCAST, PSAP, SIP_PORT, Spec, Stand};
use crate::dev::{flip, ready, run};
use crate::error::Failure;
use crate::files;
use crate::output::note;

/// Where the caller is.
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
/// How long audio is watched at a stretch.
const LISTEN: Duration = Duration::from_millis(1500);
/// Packets that a second and a half of 20 ms audio must bring at the least: 75, less what a busy machine delays.
const AUDIO: u64 = 50;
/// Packets under way: as many may still come after a hold, or may not have come yet.
const UNDER_WAY: u64 = 5;

/// Removes the cluster when the demonstration ends, by success, failure or Ctrl-C.
struct CleanUp(PathBuf);

impl Drop for CleanUp {
    fn drop(&mut self) {
        run::kill_all(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it. An error: something did not hold.
pub(crate) async fn demo() -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("sbcctl-demo-{}", files::hex(&files::random::<6>()?)));
    let stand = Stand { dir: dir.clone(), spec: Spec { nodes: 3, psap: Some(PSAP), set: Vec::new() } };
    let _clean_up = CleanUp(dir);
    let mut report = Report::new();
    let psap = Psap::start(PSAP).await?;
    let begin = Instant::now();
    run::raise(&stand).await?;
    report.step(
        ready::announcers(&stand).await? == ["node-a"],
        "three nodes, one address",
        &format!("ready after {:.1} s, node-a serves {ANYCAST}", begin.elapsed().as_secs_f32()),
    )?;
    let told = tell(&stand, &psap, &mut report).await;
    if let Err(failure) = &told {
        report.broken("the story ended early", failure)?;
    }
    drop(psap);
    let verdict = report.end();
    if verdict.is_err() {
        for node in stand.nodes() {
            note(&format!("--- {}\n{}", stand.log(&node.name).display(), files::tail(&stand.log(&node.name), 15)));
        }
    }
    run::stop(&stand).await?;
    verdict
}

/// The story.
async fn tell(stand: &Stand, psap: &Psap, report: &mut Report) -> Result<(), Failure> {
    let witnesses = Witnesses::of(stand)?;
    let talk = Talk::place(CALLER, "112", true).await?;
    report.step(
        psap.rang() == 1,
        "112 is answered",
        &format!("after {} ms, the PSAP rang {} time(s)", talk.setup().as_millis(), psap.rang()),
    )?;
    let contact = talk.contact();
    report.step(
        contact == Some((stand.node("node-a")?.unicast(), SIP_PORT).into()),
        "Contact is node-a's own address",
        &contact.map_or_else(|| "none".to_owned(), |c| c.to_string()),
    )?;
    let call = owned(&witnesses, "node-a", "every node knows the call", report).await?;
    audio(&talk, psap, "both sides hear each other", report).await?;

    let target = stand.node("node-b")?;
    let (before, missing) = (talk.rtp().received, talk.rtp().missing());
    let took = flip::flip(stand, &target).await?;
    report.step(true, "the address moves in mid-call", &format!("node-b serves {ANYCAST} after {} ms", took.as_millis()))?;
    audio(&talk, psap, "the audio goes on", report).await?;
    // What is under way counts as missing, so the number before is subtracted and a few may differ.
    let lost = talk.rtp().missing().saturating_sub(missing);
    report.step(
        lost <= UNDER_WAY,
        "nothing of it is lost",
        &format!("{} packets returned since, {lost} missing", talk.rtp().received - before),
    )?;

    let took = talk.hold().await?;
    report.step(psap.offers() == (1, 0), "hold, by way of node-b", &format!("200 after {} ms", took.as_millis()))?;
    let held = talk.rtp().received;
    tokio::time::sleep(LISTEN).await;
    let leaked = talk.rtp().received - held;
    report.step(leaked <= UNDER_WAY, "silence while held", &format!("{leaked} packets in {LISTEN:?}"))?;
    let took = talk.resume().await?;
    report.step(psap.offers() == (1, 1), "resume, by way of node-b", &format!("200 after {} ms", took.as_millis()))?;
    audio(&talk, psap, "both sides hear each other again", report).await?;
    owned(&witnesses, "node-a", "node-a still owns it", report).await?;

    let took = talk.bye().await?;
    let byes = psap.byes().await?;
    report.step(byes == 1, "BYE, by way of node-b", &format!("200 after {} ms, the PSAP got {byes}", took.as_millis()))?;
    aftermath(&witnesses, &call, report).await
}

/// Every node lists exactly one answered emergency call, and `owner` owns it.
async fn owned(witnesses: &Witnesses, owner: &str, what: &str, report: &mut Report) -> Result<Call, Failure> {
    let calls = witnesses.calls(1).await?;
    let good = |c: &Call| c.owner == owner && c.emergency && c.state() == CallState::Answered;
    let held =
        calls.iter().all(|(_, calls)| matches!(calls.as_slice(), [call] if good(call))) && agree(&calls, |c| c.uid.clone());
    let call = calls.first().and_then(|(_, calls)| calls.first()).cloned();
    let call = call.ok_or_else(|| Failure::failed("no node lists the call"))?;
    report.step(held, what, &format!("{} nodes list {}, owner {}, epoch {}", calls.len(), call.uid, call.owner, call.epoch))?;
    Ok(call)
}

/// Audio both ways for a while.
async fn audio(talk: &Talk, psap: &Psap, what: &str, report: &mut Report) -> Result<(), Failure> {
    let (heard, returned) = (psap.heard(), talk.rtp().received);
    tokio::time::sleep(LISTEN).await;
    let (heard, returned) = (psap.heard() - heard, talk.rtp().received - returned);
    report.step(
        heard >= AUDIO && returned >= AUDIO,
        what,
        &format!("in {LISTEN:?} the PSAP heard {heard} packets, the caller {returned}"),
    )
}

/// What is left of the call: nothing but one record and its events, the same on every node.
async fn aftermath(witnesses: &Witnesses, call: &Call, report: &mut Report) -> Result<(), Failure> {
    let calls = witnesses.calls(0).await?;
    let left: usize = calls.iter().map(|(_, c)| c.len()).sum();
    report.step(left == 0, "no call is left over", &format!("{left} on {} nodes", calls.len()))?;

    let cdrs = witnesses.cdrs().await?;
    let one = cdrs.iter().all(|(_, c)| matches!(c.as_slice(), [cdr] if cdr.call == call.uid)) && agree(&cdrs, Clone::clone);
    let media = cdrs.first().and_then(|(_, c)| c.first()).and_then(|c| c.media).unwrap_or_default();
    let counts: Vec<String> = cdrs.iter().map(|(name, c)| format!("{name} {}", c.len())).collect();
    report.step(
        one && media.caller_packets > AUDIO && media.callee_packets > AUDIO,
        "one record, the same on every node",
        &format!(
            "{}; {} packets from the caller, {} from the PSAP",
            counts.join(", "),
            media.caller_packets,
            media.callee_packets
        ),
    )?;

    let events = witnesses.events(&call.uid).await?;
    let faults: Vec<String> = events.iter().filter_map(|(name, e)| events_fault(e).map(|f| format!("{name}: {f}"))).collect();
    let same = agree(&events, |e| (e.event_id.clone(), e.call_sequence, e.revision));
    let measured = match faults.is_empty() {
        true => format!("1..{} from each node", events.first().map_or(0, |(_, e)| e.len())),
        false => faults.join("; "),
    };
    report.step(faults.is_empty() && same, "dispatch events without a gap", &measured)
}
