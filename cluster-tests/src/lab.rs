//! Three hosts for phones that want a network: caller, PSAP, and between them one host with all three nodes.
//!
//! Outside 198.18.0.11-13 and 2001:db8::11-13, anycast 198.18.0.100 and 2001:db8::100 (driver `bind`); core side 198.18.1.11-13 and
//! 2001:db8:1::11-13; peers, and where a test starts one the DNS server, on the host's own loopback. The phones are at .2 and ::2, a second desk at .3 and ::3.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::baresip::Baresip;
use crate::cluster::{list, number};
use crate::command::{self, Running, scratch, spawn};
use crate::dnsmasq::DNS;
use crate::netns::Namespace;
use crate::{process, wait, wav};

/// What the caller plays.
pub const CALLER_TONE: u32 = 440;
/// What the PSAP plays.
pub const PSAP_TONE: u32 = 700;
/// A second of speech, as samples.
pub const SECOND: usize = 8000;
/// Longest wait for a step of a call on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The hosts and the nodes; gone with the value.
#[derive(Debug)]
pub struct Lab {
    /// The nodes, in order.
    pub nodes: Vec<Running>,
    /// Their files.
    pub dir: PathBuf,
    /// The PSAP's host. The hosts are last, so that they go last.
    pub psap: Namespace,
    /// The caller's host.
    pub caller: Namespace,
    /// The host of the nodes.
    pub sbc: Namespace,
}

impl Lab {
    /// With the PSAP at its IPv4 address, by UDP.
    ///
    /// # Panics
    /// It does not come up (it needs root).
    pub fn start() -> Lab {
        Lab::with_psap("198.18.1.2:5060;transport=udp")
    }

    /// With this target of the PSAP's trunk, and a second desk for the number 113.
    ///
    /// # Panics
    /// It does not come up (it needs root).
    pub fn with_psap(target: &str) -> Lab {
        Lab::with(target, "")
    }

    /// The same with these settings of the cluster.
    ///
    /// # Panics
    /// It does not come up (it needs root).
    pub fn with(target: &str, settings: &str) -> Lab {
        let (sbc, caller, psap) = (Namespace::new("sbct-sbc"), Namespace::new("sbct-caller"), Namespace::new("sbct-psap"));
        let both = |hosts: &[&str], v4: &str, v6: &str| -> Vec<String> {
            hosts.iter().flat_map(|n| [format!("{v4}.{n}/24"), format!("{v6}::{n}/64")]).collect()
        };
        let (outside, inside) = (("198.18.0", "2001:db8"), ("198.18.1", "2001:db8:1"));
        let nodes = ["11", "12", "13"];
        let own = both(&[&nodes[..], &["100"]].concat(), outside.0, outside.1);
        sbc.link("out0", &own, &caller, "ua0", &both(&["2"], outside.0, outside.1));
        sbc.link("core0", &both(&nodes, inside.0, inside.1), &psap, "ua0", &both(&["2", "3"], inside.0, inside.1));
        let (dir, bin) = (scratch("baresip-lab"), process::bin_dir());
        let path = dir.to_str().expect("scratch paths are UTF-8");
        let nodes = (1..=3).map(|n| {
            let name = char::from(b'`' + n);
            format!("node-{name}=198.18.0.1{n}+2001:db8::1{n},198.18.1.1{n}+2001:db8:1::1{n},127.0.0.1{n}")
        });
        let mut files = Command::new(process::package_file("..").join("deploy/cluster-files.sh"));
        files.arg(bin.join("sbcctl")).arg(&dir).args(nodes);
        files
            .env("ANYCAST", "198.18.0.100+2001:db8::100")
            .env("PSAP", "198.18.1.2:5060")
            .env("DRIVER", "bind")
            .env("AT", path)
            .env("DATA", path);
        command::run(&mut files, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("deploy/cluster-files.sh");
        let file = dir.join("cluster.toml");
        let text = std::fs::read_to_string(&file).expect("it was just written");
        let desk = "[[trunks]]\nname = \"desk\"\nrealm = \"core\"\nsources = [\"198.18.1.3/32\", \"2001:db8:1::3/128\"]\ntargets = [\"198.18.1.3:5060;transport=udp\"]\n\
                    [[routes]]\nname = \"desk\"\nuser = \"113\"\ntrunks = [\"desk\"]\n";
        let text = text
            .replace("198.18.1.2:5060;transport=udp", target)
            .replace("[\"198.18.1.2/32\"]", "[\"198.18.1.2/32\", \"2001:db8:1::2/128\"]");
        std::fs::write(&file, format!("{text}\n{desk}\n[settings]\n{settings}\n")).expect("the directory is writable");
        let mut lab = Lab { nodes: Vec::new(), dir, psap, caller, sbc };
        for name in ["node-a", "node-b", "node-c"] {
            let file = lab.dir.join(format!("{name}.toml"));
            let own = std::fs::read_to_string(&file).expect("it was just written");
            std::fs::write(&file, format!("{own}\n[dns]\nservers = [\"{DNS}\"]\n")).expect("the directory is writable");
            let mut sbcd = lab.sbc.command(bin.join("sbcd").to_str().expect("the build is in a UTF-8 path"));
            sbcd.arg("--config").arg(lab.dir.join(format!("{name}.toml")));
            if name == "node-a" {
                sbcd.arg("--init");
            }
            lab.nodes.push(spawn(&mut sbcd).unwrap_or_else(|e| panic!("{e}")));
        }
        wait::until("three nodes, one at the anycast address, with a configuration", LIMIT, || {
            let nodes = lab.ctl(&["node", "list"]).map(|v| list(&v, "nodes")).unwrap_or_default();
            let count = |field: &str| nodes.iter().filter(|n| n[field] == true).count();
            // The file is proposed once there is a leader: a test that applies another one would meet it on the way.
            let configured = lab.ctl(&["config", "get"]).is_some_and(|c| number(&c["revision"]) > 0);
            if configured && (count("reachable"), count("announced")) == (3, 1) { Ok(()) } else { Err((nodes, lab.logs())) }
        });
        lab
    }

    /// The JSON that `sbcctl` prints; `None`: it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Option<Value> {
        let pki = self.dir.join("pki");
        let file = |name: &str| -> String { Path::new(&pki).join(name).to_string_lossy().into_owned() };
        let mut sbcctl = self.sbc.command(process::bin_dir().join("sbcctl").to_str()?);
        sbcctl.args(["--ca", &file("ca.crt"), "--cert", &file("ops.crt"), "--key", &file("ops.key"), "-o", "json"]);
        sbcctl.args(["--endpoint", "127.0.0.11:7443,127.0.0.12:7443,127.0.0.13:7443"]).args(arguments);
        let done = command::run(&mut sbcctl, LIMIT).unwrap_or_else(|e| panic!("{e}"));
        (done.code == Some(0)).then(|| serde_json::from_str(&done.stdout).unwrap_or(Value::Null))
    }

    /// The live calls.
    pub fn calls(&self) -> Vec<Value> {
        self.ctl(&["call", "list"]).map(|v| list(&v, "calls")).unwrap_or_default()
    }

    /// Moves the anycast addresses to another node; its name.
    ///
    /// # Panics
    /// They do not move.
    pub fn flip(&self) -> String {
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

    /// What the nodes have printed.
    pub fn logs(&self) -> String {
        self.nodes.iter().map(|n| format!("{}{}", n.stdout(), n.stderr())).collect()
    }

    /// A certificate for a phone, as baresip wants it: with its key in one file.
    ///
    /// # Panics
    /// It is not issued.
    pub fn certificate(&self, name: &str, ip: &str) -> PathBuf {
        let pki = self.dir.join("pki");
        let mut issue = Command::new(process::bin_dir().join("sbcctl"));
        issue.args(["pki", "issue", "--kind", "node", "--name", name, "--san", ip, "--dir"]).arg(&pki);
        command::run(&mut issue, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("sbcctl pki issue");
        let both = ["crt", "key"].map(|end| std::fs::read_to_string(pki.join(format!("{name}.{end}"))).expect("it was issued"));
        let file = self.dir.join(format!("{name}.pem"));
        std::fs::write(&file, both.concat()).expect("the directory is writable");
        file
    }

    /// The one call that there has been, and its messages.
    ///
    /// # Panics
    /// There was none.
    pub fn ladder(&self) -> String {
        let cdrs = list(&self.ctl(&["cdr", "list"]).unwrap_or_default(), "cdrs");
        let uid = cdrs.first().and_then(|c| c["call"].as_str()).expect("a record").to_owned();
        self.ctl(&["call", "ladder", &uid]).expect("its ladder").to_string()
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
///
/// # Panics
/// They do not.
pub fn both_hear_each_other(caller: &Baresip, psap: &Baresip, when: &str) {
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

/// Waits until a phone's log says this.
///
/// # Panics
/// It does not.
pub fn says(phone: &Baresip, text: &str, lab: &Lab) {
    wait::until(
        &format!("\"{text}\""),
        LIMIT,
        || if phone.log().contains(text) { Ok(()) } else { Err((phone.log(), lab.logs())) },
    );
}
