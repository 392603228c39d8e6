//! A real user agent calls through the cluster, and both sides hear each other, also after a flip.
//!
//! baresip refuses a loopback interface, so three hosts are made (see `lab`).

use std::time::{Duration, Instant};

use cluster_tests::baresip::{Baresip, Setup};
use cluster_tests::cluster::{list, number};
use cluster_tests::lab::{CALLER_TONE, LIMIT, Lab, PSAP_TONE, SECOND, both_hear_each_other, says};
use cluster_tests::linphone::Linphone;
use cluster_tests::netns::Namespace;
use cluster_tests::{wait, wav};

/// A second of speech, as RTP packets of 20 ms.
const PACKETS_A_SECOND: u64 = 50;

#[test]
fn both_sides_hear_each_other_also_after_a_flip() {
    let lab = Lab::start();
    let mut psap = Baresip::start(&lab.psap, "ua0", "198.18.1.2", "112", PSAP_TONE, None);
    wait::until("the PSAP is ready", LIMIT, || if psap.log().contains("baresip is ready") { Ok(()) } else { Err(psap.log()) });
    let mut caller = Baresip::start(&lab.caller, "ua0", "198.18.0.2", "caller", CALLER_TONE, Some("sip:112@198.18.0.100"));
    wait::until("the call is up at both", LIMIT, || {
        if caller.is_in_call() && psap.is_in_call() { Ok(()) } else { Err((caller.log(), psap.log(), lab.logs())) }
    });
    both_hear_each_other(&caller, &psap, "before the flip");

    lab.flip();
    both_hear_each_other(&caller, &psap, "after the flip");
    let calls = lab.calls();
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0]["state"], "CALL_STATE_ANSWERED");

    let (sent, received) = caller.hang_up();
    let (psap_sent, psap_received) = {
        wait::until("the PSAP's call is over", LIMIT, || {
            if psap.log().contains("terminated") || psap.log().contains("session closed") { Ok(()) } else { Err(psap.log()) }
        });
        psap.hang_up()
    };
    // Four seconds and more were heard; what is lost on the way is under one in a hundred.
    for (from, to) in [(sent, psap_received), (psap_sent, received)] {
        assert!(to >= 4 * PACKETS_A_SECOND && to * 100 >= from.saturating_sub(PACKETS_A_SECOND) * 99, "{to} of {from} packets");
    }
    wait::until("no call, one CDR", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().is_empty() && cdrs.len() == 1 { Ok(cdrs[0].clone()) } else { Err(cdrs) }
    });
    let cdr = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs").remove(0);
    for side in ["callerPackets", "calleePackets"] {
        assert!(number(&cdr["media"][side]) >= 4 * PACKETS_A_SECOND, "{side} in {cdr}");
    }
}

/// How many re-INVITEs of a ladder were answered with 200: INVITE transactions but the first, on both legs.
fn reinvites(ladder: &str) -> usize {
    ladder.matches("\"summary\":\"INVITE").count().saturating_sub(2)
}

/// Waits until the packets of some second at both phones are as wanted: speech both ways is 50, silence a few of RTCP and SIP.
///
/// By the packets, not by what is heard: this baresip's player does not start again after a hold, on a plain cable neither.
fn until_packets(lab: &Lab, what: &str, wanted: impl Fn(u64, u64) -> bool) {
    let count = || (lab.caller.received("ua0"), lab.psap.received("ua0"));
    let (mut before, mut began) = (count(), Instant::now());
    wait::until(what, LIMIT, || {
        if began.elapsed() < Duration::from_secs(1) {
            return Err("the second is not over".to_owned());
        }
        let (after, millis) = (count(), u64::try_from(began.elapsed().as_millis()).unwrap_or(1000));
        let rate = |after: u64, before: u64| (after - before) * 1000 / millis;
        let (caller, psap) = (rate(after.0, before.0), rate(after.1, before.1));
        (before, began) = (after, Instant::now());
        if wanted(caller, psap) { Ok(()) } else { Err(format!("{caller} {psap} {}", lab.logs())) }
    });
}

fn is_speech(caller: u64, psap: u64) -> bool {
    caller.min(psap) > PACKETS_A_SECOND * 4 / 5
}

fn is_silence(packets: u64) -> bool {
    packets < PACKETS_A_SECOND / 4
}

/// A call by this transport on both sides, held and resumed by either, over with a BYE.
fn held_and_resumed(transport: &str) {
    let port = if transport == "tls" { 5061 } else { 5060 };
    let lab = Lab::with_psap(&format!("198.18.1.2:{port};transport={transport}"));
    let ca = lab.dir.join("pki/ca.crt");
    let (own, desk) = (lab.certificate("phone", "198.18.0.2"), lab.certificate("desk", "198.18.1.2"));
    let setup = |host, ip, user, hertz, dial, own| Setup {
        host,
        device: "ua0",
        ip,
        user,
        hertz,
        dial,
        transport,
        tls: (transport == "tls").then_some((own, ca.as_path())),
    };
    let mut psap = Baresip::with(&setup(&lab.psap, "198.18.1.2", "112", PSAP_TONE, None, desk.as_path()));
    says(&psap, "baresip is ready", &lab);
    let uri = format!("sip:112@198.18.0.100:{port};transport={transport}");
    let mut caller = Baresip::with(&setup(&lab.caller, "198.18.0.2", "caller", CALLER_TONE, Some(&uri), own.as_path()));
    says(&caller, "Call established", &lab);
    says(&psap, "Call established", &lab);
    both_hear_each_other(&caller, &psap, "at first");
    for (holder, name) in [(&caller, "caller"), (&psap, "PSAP")] {
        holder.command("hold", "");
        until_packets(&lab, &format!("silence, held by the {name}"), |caller, psap| is_silence(caller) && is_silence(psap));
        holder.command("resume", "");
        until_packets(&lab, &format!("speech both ways, resumed by the {name}"), is_speech);
    }
    caller.hang_up();
    says(&psap, "session closed", &lab);
    psap.hang_up();
    wait::until("no call, one CDR", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().is_empty() && cdrs.len() == 1 { Ok(()) } else { Err(cdrs) }
    });
    let ladder = lab.ladder();
    assert!(ladder.contains(&format!("198.18.1.2:{port}")), "{ladder}");
    assert!(ladder.contains(&format!("\"transport\":\"{transport}\"")), "{ladder}");
    assert!(reinvites(&ladder) >= 8, "four re-INVITEs on two legs: {ladder}");
}

#[test]
fn hold_and_resume_by_udp() {
    held_and_resumed("udp");
}

#[test]
fn hold_and_resume_by_tcp() {
    held_and_resumed("tcp");
}

#[test]
fn hold_and_resume_by_tls() {
    held_and_resumed("tls");
}

/// Another make of phone, by UDP, TCP and TLS: it calls, pauses, resumes and hangs up.
#[test]
fn linphone_calls_pauses_and_resumes() {
    let lab = Lab::start();
    lab.caller.ip(&["route", "add", "default", "via", "198.18.0.100"]);
    let mut psap = Baresip::start(&lab.psap, "ua0", "198.18.1.2", "112", PSAP_TONE, None);
    says(&psap, "baresip is ready", &lab);
    let caller = Linphone::start(&lab.caller, "198.18.0.2", CALLER_TONE, &lab.dir.join("pki/ca.crt"));
    for (n, transport) in ["udp", "tcp", "tls"].into_iter().enumerate() {
        let port = if transport == "tls" { 5061 } else { 5060 };
        caller.command(&format!("call sip:112@198.18.0.100:{port};transport={transport}"));
        wait::until(&format!("the call by {transport} is up at the PSAP"), LIMIT, || {
            if psap.log().matches("Call established").count() == n + 1 {
                Ok(())
            } else {
                Err((psap.log(), caller.log(), lab.logs()))
            }
        });
        until_packets(&lab, &format!("speech both ways by {transport}"), is_speech);
        let heard = psap.heard();
        assert!(wav::share_of(&heard[heard.len().saturating_sub(SECOND / 2)..], CALLER_TONE) > 0.8, "the PSAP hears the caller");
        caller.command("pause");
        // It plays on while it holds (sendonly), and hears nothing.
        until_packets(&lab, "silence at the caller, paused", |caller, _| is_silence(caller));
        caller.command(&format!("resume {}", n + 1));
        until_packets(&lab, "speech, resumed", is_speech);
        caller.command("terminate");
        wait::until("no call, its CDR", LIMIT, || {
            let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
            if lab.calls().is_empty() && cdrs.len() == n + 1 { Ok(()) } else { Err((cdrs, caller.log())) }
        });
    }
    psap.hang_up();
}

/// Another make of phone at the dispatcher's desk: it answers, holds, resumes, and hears that the caller hangs up.
#[test]
fn linphone_answers_as_the_psap() {
    let lab = Lab::start();
    lab.psap.ip(&["route", "add", "default", "via", "198.18.1.11"]);
    let psap = Linphone::answering(&lab.psap, "198.18.1.2", PSAP_TONE);
    let mut caller = Baresip::start(&lab.caller, "ua0", "198.18.0.2", "caller", CALLER_TONE, Some("sip:112@198.18.0.100"));
    says(&caller, "Call established", &lab);
    until_packets(&lab, "speech both ways", is_speech);
    wait::until("the caller hears the PSAP", LIMIT, || {
        let heard = caller.heard();
        let share = wav::share_of(&heard[heard.len().saturating_sub(SECOND / 2)..], PSAP_TONE);
        if share > 0.8 { Ok(()) } else { Err((share, psap.log())) }
    });
    psap.command("pause");
    until_packets(&lab, "silence at the PSAP, which holds", |_, psap| is_silence(psap));
    psap.command("resume 1");
    until_packets(&lab, "speech, resumed", is_speech);
    caller.hang_up();
    wait::until("no call, one CDR, and the PSAP knows", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        let over = lab.calls().is_empty() && cdrs.len() == 1 && psap.log().contains("ended");
        if over { Ok(()) } else { Err((cdrs, psap.log())) }
    });
}

/// RFC 3515, RFC 5589 §6: the PSAP sends the caller to another desk, and the caller calls there through the cluster. The desk is called by UDP.
fn transferred(transport: &str) {
    let port = if transport == "tls" { 5061 } else { 5060 };
    let lab = Lab::with_psap(&format!("198.18.1.2:{port};transport={transport}"));
    let ca = lab.dir.join("pki/ca.crt");
    let (own, theirs) = (lab.certificate("phone", "198.18.0.2"), lab.certificate("psap-phone", "198.18.1.2"));
    let setup = |host, ip, user, hertz, dial, own| Setup {
        host,
        device: "ua0",
        ip,
        user,
        hertz,
        dial,
        transport,
        tls: (transport == "tls").then_some((own, ca.as_path())),
    };
    let psap = Baresip::with(&setup(&lab.psap, "198.18.1.2", "112", PSAP_TONE, None, theirs.as_path()));
    let desk = Baresip::start(&lab.psap, "ua0", "198.18.1.3", "113", PSAP_TONE, None);
    says(&psap, "baresip is ready", &lab);
    says(&desk, "baresip is ready", &lab);
    let uri = format!("sip:112@198.18.0.100:{port};transport={transport}");
    let mut caller = Baresip::with(&setup(&lab.caller, "198.18.0.2", "caller", CALLER_TONE, Some(&uri), own.as_path()));
    says(&psap, "Call established", &lab);
    both_hear_each_other(&caller, &psap, "at first");
    // The number at the address that the PSAP knows of the cluster.
    psap.command("transfer", &format!("sip:113@198.18.1.11:{port};transport={transport}"));
    says(&desk, "Call established", &lab);
    both_hear_each_other(&caller, &desk, "transferred");
    wait::until("the first call is over", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().len() == 1 && cdrs.len() == 1 { Ok(()) } else { Err((cdrs, psap.log(), caller.log())) }
    });
    caller.hang_up();
    wait::until("both calls have their record", LIMIT, || {
        let cdrs = list(&lab.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        if lab.calls().is_empty() && cdrs.len() == 2 { Ok(()) } else { Err(cdrs) }
    });
}

#[test]
fn the_psap_transfers_the_caller_by_udp() {
    transferred("udp");
}

#[test]
fn the_psap_transfers_the_caller_by_tcp() {
    transferred("tcp");
}

#[test]
fn the_psap_transfers_the_caller_by_tls() {
    transferred("tls");
}

/// The stage itself, without the product: two phones on one cable. When this fails the test above says nothing.
#[test]
fn two_phones_on_a_cable_hear_each_other() {
    let (caller_host, psap_host) = (Namespace::new("sbct-caller"), Namespace::new("sbct-psap"));
    caller_host.link("ua0", &["198.18.0.2/24"], &psap_host, "ua0", &["198.18.0.3/24"]);
    let mut psap = Baresip::start(&psap_host, "ua0", "198.18.0.3", "112", PSAP_TONE, None);
    wait::until("the PSAP is ready", LIMIT, || if psap.log().contains("baresip is ready") { Ok(()) } else { Err(psap.log()) });
    let mut caller = Baresip::start(&caller_host, "ua0", "198.18.0.2", "caller", CALLER_TONE, Some("sip:112@198.18.0.3"));
    wait::until("the call is up at both", LIMIT, || {
        if caller.is_in_call() && psap.is_in_call() { Ok(()) } else { Err((caller.log(), psap.log())) }
    });
    both_hear_each_other(&caller, &psap, "on a cable");
    let (sent, received) = caller.hang_up();
    assert!(sent >= PACKETS_A_SECOND && received >= PACKETS_A_SECOND, "{sent} {received}");
    wait::until("the PSAP's call is over", LIMIT, || {
        if psap.log().contains("terminated") || psap.log().contains("session closed") { Ok(()) } else { Err(psap.log()) }
    });
    let (sent, received) = psap.hang_up();
    assert!(sent >= PACKETS_A_SECOND && received >= PACKETS_A_SECOND, "{sent} {received}");
}
