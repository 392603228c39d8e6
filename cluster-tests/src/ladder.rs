//! The ladder of a call beside what the far ends saw: each message of each leg, in its order and direction, and nothing else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, PSAP, SETTLE, anycast, list, number};
use crate::message::Message;
use crate::sipp::Sipp;
use crate::wait;

/// Where callers are.
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
/// Longest call between two scenarios: sipp's last wait, and a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

/// One message on the wire between a far end and the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// True: the far end sent it.
    pub theirs: bool,
    /// Method, or status.
    pub what: String,
    /// "1 INVITE".
    pub cseq: String,
    /// Call-ID on its leg; empty in a ladder.
    pub call_id: String,
}

impl Step {
    /// From a start line.
    pub fn new(theirs: bool, start: &str, cseq: &str, call_id: &str) -> Step {
        let start = start.strip_prefix("SIP/2.0 ").unwrap_or(start);
        let what = start.split(' ').next().unwrap_or_default().to_owned();
        Step { theirs, what, cseq: cseq.to_owned(), call_id: call_id.to_owned() }
    }

    fn is(&self, other: &Step) -> bool {
        (self.theirs, &self.what, &self.cseq) == (other.theirs, &other.what, &other.cseq)
    }

    fn text(&self) -> String {
        format!("{}{} ({})", if self.theirs { "-> " } else { "<- " }, self.what, self.cseq)
    }
}

/// The messages of sipp's short message trace.
pub fn of_sipp(trace: &str) -> Vec<Step> {
    let step = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, _, way, call_id, cseq, start] = fields[..] else { return None };
        Some(Step::new(way == "S", start, cseq.trim_start_matches("CSeq:").trim(), call_id))
    };
    trace.lines().filter_map(step).collect()
}

/// The messages of a ladder's leg (`CALLER`, `CALLEE`) that this far end should have seen.
fn of_leg(ladder: &Value, leg: &str, at: IpAddr) -> Vec<Step> {
    let of_leg = list(ladder, "messages").into_iter().filter(|m| {
        let remote = m["remote"].as_str().and_then(|r| r.parse::<SocketAddr>().ok());
        m["leg"] == format!("CALL_LEG_{leg}").as_str() && remote.is_some_and(|r| r.ip() == at)
    });
    let step = |m: Value| {
        let theirs = m["direction"] == "MESSAGE_DIRECTION_RECEIVED";
        Step::new(theirs, m["summary"].as_str().unwrap_or_default(), m["cseq"].as_str().unwrap_or_default(), "")
    };
    of_leg.map(step).collect()
}

/// Whether a ladder tells what a far end saw. Of messages that cross each other on the wire each side may see its own first; what
/// the far end said once it had something is told after that. A repetition by the cluster need not be told again.
fn compare(told: &[Step], seen: &[Step]) -> Result<(), String> {
    let mut places = Vec::new();
    for theirs in [true, false] {
        let mut left = told.iter().enumerate().filter(|(_, t)| t.theirs == theirs).peekable();
        for (n, step) in seen.iter().enumerate().filter(|(_, s)| s.theirs == theirs) {
            match left.next_if(|(_, t)| t.is(step)) {
                Some((place, _)) => places.push((n, place)),
                None if seen[..n].iter().any(|s| s.is(step)) => {}
                None => return Err(format!("{} is missing or not in its order", step.text())),
            }
        }
        if let Some((_, more)) = left.next() {
            return Err(format!("{} was never on the wire", more.text()));
        }
    }
    places.sort_unstable();
    for (n, place) in places.iter().filter(|(n, _)| seen[*n].theirs) {
        if let Some((before, _)) = places.iter().find(|(m, p)| m < n && p > place) {
            return Err(format!("{} is told before {}", seen[*n].text(), seen[*before].text()));
        }
    }
    Ok(())
}

/// A far end that remembers what went over its wire.
pub trait Witness {
    /// Where the ladder has it.
    fn ip(&self) -> IpAddr;

    /// What went over the wire with this Call-ID, also what is here and was not asked for yet.
    fn wire(&mut self, call_id: &str) -> Vec<Step>;
}

/// Nothing is left of any call but `records` records, and the ladder of the one with these INVITEs (the caller's, the PSAP's) is what
/// both far ends saw.
///
/// # Panics
/// That does not come to pass.
#[track_caller]
pub fn settled(cluster: &Cluster, records: usize, caller: (&mut dyn Witness, &Message), psap: (&mut dyn Witness, &Message)) {
    cluster.settled(records);
    let ((caller, invite), (psap, psap_invite)) = (caller, psap);
    let (ours, theirs) = (invite.header("Call-ID"), psap_invite.header("Call-ID"));
    let uid = uid_of(cluster, ours);
    wait::until("the ladder tells all", SETTLE, || {
        let (ours, theirs) = (caller.wire(ours), psap.wire(theirs));
        check(cluster, &uid, (caller.ip(), &ours), (psap.ip(), &theirs))
    });
}

/// Whether the ladder of a call tells what its far ends saw: the caller and the PSAP, each at its address.
///
/// # Errors
/// What is wrong, with both lists.
fn check(cluster: &Cluster, uid: &str, caller: (IpAddr, &[Step]), psap: (IpAddr, &[Step])) -> Result<(), String> {
    let ladder = cluster.try_json(&["call", "ladder", uid]).ok_or("no ladder")?;
    if number(&ladder["dropped"]) > 0 {
        return Err("the ladder is full".to_owned());
    }
    for (leg, (at, seen)) in [("CALLER", caller), ("CALLEE", psap)] {
        let told = of_leg(&ladder, leg, at);
        let lines = |steps: &[Step]| steps.iter().map(Step::text).collect::<Vec<_>>().join("\n");
        compare(&told, seen).map_err(|e| format!("{leg}: {e}\ntold:\n{}\nseen:\n{}\n", lines(&told), lines(seen)))?;
    }
    Ok(())
}

/// The uid of the ended call with this Call-ID on the caller's side.
///
/// # Panics
/// No record has it.
pub fn uid_of(cluster: &Cluster, call_id: &str) -> String {
    let cdrs = cluster.cdrs();
    let cdr = cdrs.iter().find(|c| c["parties"]["sipCallId"] == call_id);
    let cdr = cdr.unwrap_or_else(|| panic!("no record of {call_id}: {:#?}", cdrs.last()));
    cdr["call"].as_str().expect("a record names its call").to_owned()
}

/// One call between two of sipp's scenarios (caller, PSAP), by way of the anycast address, without a pause. Both run to their end,
/// nothing is left of the call but its record, and its ladder is what they saw.
///
/// # Panics
/// Any of it is not so.
#[track_caller]
pub fn between(cluster: &Cluster, (uac, uas): (&str, &str), ruri: &str, extra: &[&str]) {
    let before = cluster.cdrs().len();
    let (caller, callee) = play(cluster, (uac, uas), ruri, extra);
    cluster.settled(before + 1);
    let uid = uid_of(cluster, &caller[0].call_id);
    wait::until("the ladder tells all", SETTLE, || check(cluster, &uid, (CALLER, &caller), (PSAP.ip(), &callee)));
}

/// Two scenarios, run to their end, whatever the cluster makes of it. Returns what both saw.
///
/// # Panics
/// One fails.
#[track_caller]
pub fn play(cluster: &Cluster, (uac, uas): (&str, &str), ruri: &str, extra: &[&str]) -> (Vec<Step>, Vec<Step>) {
    let psap = Sipp::scenario(uas, PSAP.ip(), LIMIT).traced().args(&["-m", "1"]).serve(PSAP);
    let caller =
        Sipp::scenario(uac, CALLER, LIMIT).traced().args(&["-m", "1", "-key", "ruri", ruri]).args(extra).to(anycast()).start();
    let caller = caller.succeed();
    assert_eq!(caller.successful, 1, "{}", cluster.logs());
    let callee = psap.succeed();
    assert_eq!(callee.successful, 1);
    (of_the_call(&caller.wire), of_the_call(&callee.wire))
}

/// The messages of the Call-ID that has the most: of an earlier call something may still be repeated.
fn of_the_call(wire: &[Step]) -> Vec<Step> {
    let of = |id: &str| wire.iter().filter(|s| s.call_id == id).cloned().collect::<Vec<_>>();
    wire.iter().map(|s| of(&s.call_id)).max_by_key(Vec::len).expect("sipp saw something")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Step> {
        text.split_whitespace().map(|t| Step::new(t.starts_with('>'), &t[1..], "1 X", "")).collect()
    }

    #[test]
    fn a_trace_is_read() {
        let trace = "2026-11-28\t15:47:00.98\t1795.98\tS\t1-2@h\tCSeq:1 INVITE\tINVITE sip:a@h SIP/2.0\n\
                     2026-11-28\t15:47:00.99\t1795.99\tR\t1-2@h\tCSeq:1 INVITE\tSIP/2.0 180 Ringing\n";
        let expected = [Step::new(true, "INVITE", "1 INVITE", "1-2@h"), Step::new(false, "180", "1 INVITE", "1-2@h")];
        assert_eq!(of_sipp(trace), expected);
    }

    #[test]
    fn order_direction_and_number_are_compared() {
        let seen = steps(">INVITE <180 <200 >ACK >BYE <200");
        for (told, fits) in [
            (">INVITE <180 <200 >ACK >BYE <200", true),
            (">INVITE <180 <200 >BYE >ACK <200", false),
            (">INVITE <180 >ACK <200 >BYE <200", false),
            (">INVITE <200 <180 >ACK >BYE <200", false),
            (">INVITE <180 <200 >ACK >BYE", true),
            (">INVITE <180 <200 >ACK <200", false),
            (">INVITE <180 <200 >ACK >BYE <200 <200", false),
            (">INVITE <180 <200 >ACK >BYE >BYE <200", false),
        ] {
            assert_eq!(compare(&steps(told), &seen).is_ok(), fits, "{told}");
        }
        // Both spoke at once.
        assert!(compare(&steps("<UPDATE >INFO"), &steps(">INFO <UPDATE")).is_ok());
        assert!(compare(&steps(">INFO <UPDATE"), &steps("<UPDATE >INFO")).is_err(), "it had ours when it spoke");
        assert!(compare(&steps(">INVITE <200"), &steps(">INVITE <200 <200")).is_ok(), "repeated by us");
    }
}
