//! `dev demo`: shows, and measures, that a call survives the move of the anycast address, and the death of its node. A cluster of its own, which is gone
//! afterwards whatever happened.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sbc_proto::v1::{Call, CallState};

use crate::dev::evidence::{NodesCalls, Witnesses, agree, events_fault};
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
/// How long audio may take to flow on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(6);
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
    let talk = Talk::place(CALLER, "112", true, None).await?;
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
    offered(psap, (1, 0), "hold, by way of node-b", took, report).await?;
    let held = talk.rtp().received;
    tokio::time::sleep(LISTEN).await;
    let leaked = talk.rtp().received - held;
    report.step(leaked <= UNDER_WAY, "silence while held", &format!("{leaked} packets in {LISTEN:?}"))?;
    let took = talk.resume().await?;
    offered(psap, (1, 1), "resume, by way of node-b", took, report).await?;
    audio(&talk, psap, "both sides hear each other again", report).await?;
    owned(&witnesses, "node-a", "node-a still owns it", report).await?;

    let begin = Instant::now();
    run::kill(stand, "node-a").await?;
    let witnesses = witnesses.without("node-a");
    let heir = adopted(&witnesses, &call, begin, report).await?;
    audio(&talk, psap, &format!("both sides hear each other by way of {heir}"), report).await?;

    let took = talk.bye().await?;
    let byes = psap.byes().await?;
    report.step(byes == 1, "BYE, by way of node-b", &format!("200 after {} ms, the PSAP got {byes}", took.as_millis()))?;
    aftermath(&witnesses, &call, report).await
}

/// Every node lists exactly one answered emergency call, the same one, and `owner` owns it.
async fn owned(witnesses: &Witnesses, owner: &str, what: &str, report: &mut Report) -> Result<Call, Failure> {
    let held = |all: &[NodesCalls]| differs(all, owner).is_none();
    let calls = witnesses.calls(held).await?;
    let call = calls.first().and_then(|(_, calls)| calls.first()).cloned();
    let call = call.ok_or_else(|| Failure::failed("no node lists the call"))?;
    let measured = match differs(&calls, owner) {
        None => format!("{} nodes list {}, owner {}, epoch {}", calls.len(), call.uid, call.owner, call.epoch),
        Some(difference) => difference,
    };
    report.step(held(&calls), what, &measured)?;
    Ok(call)
}

/// Every node that is left lists the same call, with another owner: its name.
async fn adopted(witnesses: &Witnesses, call: &Call, killed: Instant, report: &mut Report) -> Result<String, Failure> {
    let heir = |all: &[NodesCalls]| {
        let owner = all.first().and_then(|(_, calls)| calls.first()).map(|c| c.owner.clone())?;
        let theirs = |c: &Call| c.uid == call.uid && c.epoch == call.epoch + 1 && c.owner == owner && owner != call.owner;
        all.iter().all(|(_, calls)| matches!(calls.as_slice(), [c] if theirs(c))).then_some(owner)
    };
    let calls = witnesses.calls_after_death(|all| heir(all).is_some()).await?;
    let (found, took) = (heir(&calls), killed.elapsed().as_secs_f32());
    let measured = match &found {
        Some(owner) => format!("{owner} has it {took:.1} s after kill -9 of {}, epoch {}", call.owner, call.epoch + 1),
        None => format!("after {took:.1} s no node has taken it over"),
    };
    report.step(found.is_some(), "its node dies, and the call goes on", &measured)?;
    found.ok_or_else(|| Failure::failed("the call died with its node"))
}

/// The first node that does not list the one answered emergency call of `owner`, and what it lists instead; `None`: all list it.
fn differs(all: &[NodesCalls], owner: &str) -> Option<String> {
    let good = |c: &Call| c.owner == owner && c.emergency && c.state() == CallState::Answered;
    let wanted = all.iter().flat_map(|(_, calls)| calls).find(|c| good(c)).map(|c| c.uid.as_str());
    let differing = all.iter().find(|(_, calls)| {
        let [call] = calls.as_slice() else { return true };
        !good(call) || Some(call.uid.as_str()) != wanted
    });
    differing.map(|(name, calls)| {
        let one = |c: &Call| {
            let class = if c.emergency { "emergency" } else { "ordinary" };
            let state = c.state().as_str_name().trim_start_matches("CALL_STATE_").to_lowercase();
            format!("{} ({class}, {state}, owner {})", c.uid, c.owner)
        };
        let listed: Vec<String> = calls.iter().map(one).collect();
        let listed = if listed.is_empty() { "no call".to_owned() } else { listed.join(", ") };
        format!("{name} lists {listed}; wanted: {}, answered, owner {owner}", wanted.unwrap_or("one emergency call"))
    })
}

/// The PSAP was asked to hold and to resume that often.
async fn offered(psap: &Psap, wanted: (u64, u64), what: &str, took: Duration, report: &mut Report) -> Result<(), Failure> {
    let (holds, resumes) = psap.offers(wanted).await;
    let measured = format!("200 after {} ms; the PSAP has seen {holds} hold(s), {resumes} resume(s)", took.as_millis());
    report.step((holds, resumes) == wanted, what, &measured)
}

/// Audio both ways for a while, and longer where the machine is busy: what is asked is whether it flows, not how fast.
async fn audio(talk: &Talk, psap: &Psap, what: &str, report: &mut Report) -> Result<(), Failure> {
    let (begin, heard, returned) = (Instant::now(), psap.heard(), talk.rtp().received);
    loop {
        tokio::time::sleep(LISTEN).await;
        let (heard, returned) = (psap.heard() - heard, talk.rtp().received - returned);
        let flows = heard >= AUDIO && returned >= AUDIO;
        if flows || begin.elapsed() > PATIENCE {
            let time = begin.elapsed().as_secs_f32();
            return report.step(flows, what, &format!("in {time:.1} s the PSAP heard {heard} packets, the caller {returned}"));
        }
    }
}

/// What is left of the call: nothing but one record and its events, the same on every node.
async fn aftermath(witnesses: &Witnesses, call: &Call, report: &mut Report) -> Result<(), Failure> {
    let calls = witnesses.calls(|all| all.iter().all(|(_, c)| c.is_empty())).await?;
    let left: Vec<String> = calls.iter().filter(|(_, c)| !c.is_empty()).map(|(n, c)| format!("{n} lists {}", c.len())).collect();
    let measured = if left.is_empty() { format!("0 on {} nodes", calls.len()) } else { left.join(", ") };
    report.step(left.is_empty(), "no call is left over", &measured)?;

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

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(change: impl Fn(&mut Call)) -> Vec<NodesCalls> {
        let call = || Call {
            uid: "1-1-1".into(),
            owner: "node-a".into(),
            emergency: true,
            state: CallState::Answered.into(),
            ..Call::default()
        };
        let mut last = call();
        change(&mut last);
        vec![("node-a".into(), vec![call()]), ("node-b".into(), vec![call()]), ("node-c".into(), vec![last])]
    }

    #[test]
    fn names_the_node_that_differs_and_how() {
        assert_eq!(differs(&nodes(|_| ()), "node-a"), None);
        for (change, says) in [
            (
                Box::new(|c: &mut Call| c.state = CallState::Ringing.into()) as Box<dyn Fn(&mut Call)>,
                "emergency, ringing, owner node-a",
            ),
            (Box::new(|c: &mut Call| c.owner = "node-b".into()), "owner node-b)"),
            (Box::new(|c: &mut Call| c.emergency = false), "ordinary"),
            (Box::new(|c: &mut Call| c.uid = "2-1-1".into()), "lists 2-1-1"),
        ] {
            let found = differs(&nodes(change), "node-a").unwrap();
            assert!(found.starts_with("node-c lists ") && found.contains(says) && found.contains("wanted: 1-1-1"), "{found}");
        }
        let mut all = nodes(|_| ());
        all[1].1.clear();
        assert!(differs(&all, "node-a").unwrap().starts_with("node-b lists no call; wanted: 1-1-1"));
        all.iter_mut().for_each(|(_, calls)| calls.clear());
        assert!(differs(&all, "node-a").unwrap().starts_with("node-a lists no call; wanted: one emergency call"));
    }
}
