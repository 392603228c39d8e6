//! A real user agent calls through the cluster, and both sides hear each other, also after a flip.
//!
//! baresip refuses a loopback interface, so three hosts are made: caller, PSAP, and between them one host with all three nodes
//! (unicast 198.18.0.11-13, anycast 198.18.0.100 by the `bind` driver, core side 198.18.1.11-13, peers on its own loopback).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cluster_tests::baresip::Baresip;
use cluster_tests::cluster::{list, number};
use cluster_tests::command::{self, Running, scratch, spawn};
use cluster_tests::netns::Namespace;
use cluster_tests::{process, wait, wav};
use serde_json::Value;

const CALLER_TONE: u32 = 440;
const PSAP_TONE: u32 = 700;
/// A second of speech, as samples and as RTP packets of 20 ms.
const SECOND: usize = 8000;
const PACKETS_A_SECOND: u64 = 50;
const LIMIT: Duration = Duration::from_secs(30);

struct Lab {
    nodes: Vec<Running>,
    dir: PathBuf,
    // Last, so that they go last.
    psap: Namespace,
    caller: Namespace,
    sbc: Namespace,
}

impl Lab {
    fn start() -> Lab {
        let (sbc, caller, psap) = (Namespace::new("sbct-sbc"), Namespace::new("sbct-caller"), Namespace::new("sbct-psap"));
        let outside = ["198.18.0.11/24", "198.18.0.12/24", "198.18.0.13/24", "198.18.0.100/24"];
        sbc.link("out0", &outside, &caller, "ua0", &["198.18.0.2/24"]);
        sbc.link("core0", &["198.18.1.11/24", "198.18.1.12/24", "198.18.1.13/24"], &psap, "ua0", &["198.18.1.2/24"]);
        let (dir, bin) = (scratch("baresip-lab"), process::bin_dir());
        let path = dir.to_str().expect("scratch paths are UTF-8");
        let nodes = (1..=3).map(|n| format!("node-{}=198.18.0.1{n},198.18.1.1{n},127.0.0.1{n}", char::from(b'`' + n)));
        let mut files = Command::new(process::package_file("..").join("deploy/cluster-files.sh"));
        files.arg(bin.join("sbcctl")).arg(&dir).args(nodes);
        files
            .env("ANYCAST", "198.18.0.100")
            .env("PSAP", "198.18.1.2:5060")
            .env("DRIVER", "bind")
            .env("AT", path)
            .env("DATA", path);
        command::run(&mut files, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("deploy/cluster-files.sh");
        let mut lab = Lab { nodes: Vec::new(), dir, psap, caller, sbc };
        for name in ["node-a", "node-b", "node-c"] {
            let mut sbcd = lab.sbc.command(bin.join("sbcd").to_str().expect("the build is in a UTF-8 path"));
            sbcd.arg("--config").arg(lab.dir.join(format!("{name}.toml")));
            if name == "node-a" {
                sbcd.arg("--init");
            }
            lab.nodes.push(spawn(&mut sbcd).unwrap_or_else(|e| panic!("{e}")));
        }
        wait::until("three nodes, one at the anycast address", LIMIT, || {
            let nodes = lab.ctl(&["node", "list"]).map(|v| list(&v, "nodes")).unwrap_or_default();
            let count = |field: &str| nodes.iter().filter(|n| n[field] == true).count();
            if (count("reachable"), count("announced")) == (3, 1) { Ok(()) } else { Err((nodes, lab.logs())) }
        });
        lab
    }

    fn ctl(&self, arguments: &[&str]) -> Option<Value> {
        let pki = self.dir.join("pki");
        let file = |name: &str| -> String { Path::new(&pki).join(name).to_string_lossy().into_owned() };
        let mut sbcctl = self.sbc.command(process::bin_dir().join("sbcctl").to_str()?);
        sbcctl.args(["--ca", &file("ca.crt"), "--cert", &file("ops.crt"), "--key", &file("ops.key"), "-o", "json"]);
        sbcctl.args(["--endpoint", "127.0.0.11:7443,127.0.0.12:7443,127.0.0.13:7443"]).args(arguments);
        let done = command::run(&mut sbcctl, LIMIT).unwrap_or_else(|e| panic!("{e}"));
        (done.code == Some(0)).then(|| serde_json::from_str(&done.stdout).unwrap_or(Value::Null))
    }

    fn calls(&self) -> Vec<Value> {
        self.ctl(&["call", "list"]).map(|v| list(&v, "calls")).unwrap_or_default()
    }

    fn flip(&self) -> String {
        let nodes = list(&self.ctl(&["node", "list"]).expect("a node answers"), "nodes");
        let other = nodes
            .iter()
            .find(|n| n["announced"] != true)
            .and_then(|n| n["name"].as_str())
            .expect("two of three stand by")
            .to_owned();
        self.ctl(&["node", "announce", &other, "--exclusive"]).expect("the address moves");
        wait::until("the other node announces", LIMIT, || {
            let nodes = list(&self.ctl(&["node", "list"]).unwrap_or_default(), "nodes");
            if nodes.iter().any(|n| n["name"] == other.as_str() && n["announced"] == true) { Ok(()) } else { Err(nodes) }
        });
        other
    }

    fn logs(&self) -> String {
        self.nodes.iter().map(|n| format!("{}{}", n.stdout(), n.stderr())).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- logs of the nodes\n{}", self.logs());
        }
        self.nodes.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Both hear the other's tone in the second that begins now.
fn both_hear_each_other(caller: &Baresip, psap: &Baresip, when: &str) {
    let (began_caller, began_psap) = (caller.heard().len(), psap.heard().len());
    for (phone, began, tone, own, name) in
        [(caller, began_caller, PSAP_TONE, CALLER_TONE, "caller"), (psap, began_psap, CALLER_TONE, PSAP_TONE, "PSAP")]
    {
        wait::until(&format!("two more seconds of audio at the {name}, {when}"), LIMIT, || {
            let heard = phone.heard();
            if heard.len() >= began + 2 * SECOND { Ok(()) } else { Err((began, heard.len())) }
        });
        let heard = phone.heard();
        let last = &heard[heard.len() - SECOND..];
        assert!(wav::share_of(last, tone) > 0.8, "{when}: the {name} hears {} of {tone} Hz", wav::share_of(last, tone));
        assert!(wav::share_of(last, own) < 0.1, "{when}: the {name} hears itself");
    }
}

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
