//! Three hosts with a node each, on one network that can be cut: what a fault of one node does to the others.
//!
//! A node's host has 198.18.0.11-13 outside, 198.18.1.11-13 toward the core, 198.18.2.11-13 for its peers, and 198.18.0.100, the
//! anycast address, on its loopback. The test is on the hub, at .2 of each network, where phones of its own may be.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::cluster::list;
use crate::command::{self, Running, scratch, spawn};
use crate::netns::Namespace;
use crate::{process, wait};

/// Longest wait for a step on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The nodes, in order.
const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// The hosts and the nodes; gone with the value.
#[derive(Debug)]
pub struct Sites {
    nodes: Vec<Option<Running>>,
    /// Their files; the data of a node are in the directory with its name.
    pub dir: PathBuf,
    hosts: Vec<Namespace>,
    /// The test's host. Last, so that it goes last.
    pub hub: Namespace,
}

impl Sites {
    /// Three nodes that are members and caught up. `prepare` is given their directory before they start.
    ///
    /// # Panics
    /// They do not come up (it needs root).
    pub fn start(prepare: impl FnOnce(&Path)) -> Sites {
        let hub = Namespace::new("sbct-hub");
        hub.ip(&["link", "add", "br0", "type", "bridge"]);
        hub.address("br0", &["198.18.0.2/24", "198.18.1.2/24", "198.18.2.2/24"]);
        let hosts: Vec<Namespace> = (1..=3).map(|n| host(&hub, n)).collect();
        let (dir, bin) = (scratch("sites"), process::bin_dir());
        let path = dir.to_str().expect("scratch paths are UTF-8");
        let nodes = (1..=3).map(|n| format!("{}=198.18.0.1{n},198.18.1.1{n},198.18.2.1{n}", NAMES[n - 1]));
        let mut files = Command::new(process::package_file("..").join("deploy/cluster-files.sh"));
        files.arg(bin.join("sbcctl")).arg(&dir).args(nodes);
        files.env("ANYCAST", "198.18.0.100").env("PSAP", "198.18.1.2:5060").env("DRIVER", "bind");
        files.env("AT", path).env("DATA", path);
        command::run(&mut files, LIMIT).unwrap_or_else(|e| panic!("{e}")).ok("deploy/cluster-files.sh");
        prepare(&dir);
        let mut sites = Sites { nodes: vec![None, None, None], dir, hosts, hub };
        for n in 0..3 {
            sites.start_node(n, &["--init"][..usize::from(n == 0)]);
        }
        wait::until("three nodes, caught up", LIMIT, || {
            let nodes = list(&sites.ctl(&["node", "list"]).unwrap_or_default(), "nodes");
            let well = nodes.iter().filter(|n| n["reachable"] == true && n["health"]["raftCaughtUp"] == true).count();
            if well == 3 { Ok(()) } else { Err((nodes, sites.logs())) }
        });
        sites
    }

    /// Starts the n-th node (0, 1, 2).
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start_node(&mut self, n: usize, arguments: &[&str]) {
        let sbcd = process::bin_dir().join("sbcd");
        let mut command = self.hosts[n].command(sbcd.to_str().expect("the build is in a UTF-8 path"));
        command.arg("--config").arg(self.dir.join(format!("{}.toml", NAMES[n]))).args(arguments);
        self.nodes[n] = Some(spawn(&mut command).unwrap_or_else(|e| panic!("{e}")));
    }

    /// The n-th node as it runs.
    ///
    /// # Panics
    /// It has been killed.
    pub fn node(&mut self, n: usize) -> &mut Running {
        self.nodes[n].as_mut().expect("it was started")
    }

    /// Kill -9.
    pub fn kill(&mut self, n: usize) {
        self.nodes[n] = None;
    }

    /// Sends a signal to the n-th node.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal(&mut self, n: usize, signal: Signal) {
        let pid = i32::try_from(self.node(n).pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Takes the n-th node off the network, or gives it back.
    pub fn cut(&self, n: usize, off: bool) {
        self.hub.ip(&["link", "set", &format!("site{n}"), if off { "down" } else { "up" }]);
    }

    /// Cuts the n-th node off from its peers, and from the log, while SIP and media go on at it; or gives them back.
    pub fn cut_peers(&self, n: usize, off: bool) {
        let address = format!("198.18.2.1{}/24", n + 1);
        self.hosts[n].ip(&["addr", if off { "del" } else { "add" }, &address, "dev", "net0"]);
    }

    /// The JSON that `sbcctl` prints, asking the nodes in turn; `None`: it fails.
    pub fn ctl(&self, arguments: &[&str]) -> Option<Value> {
        self.ctl_at("198.18.2.11:7443,198.18.2.12:7443,198.18.2.13:7443", arguments)
    }

    /// The same of the n-th node alone.
    pub fn ctl_of(&self, n: usize, arguments: &[&str]) -> Option<Value> {
        self.ctl_at(&format!("198.18.2.1{}:7443", n + 1), arguments)
    }

    fn ctl_at(&self, endpoint: &str, arguments: &[&str]) -> Option<Value> {
        let pki = self.dir.join("pki");
        let file = |name: &str| -> String { pki.join(name).to_string_lossy().into_owned() };
        let mut sbcctl = self.hub.command(process::bin_dir().join("sbcctl").to_str()?);
        sbcctl.args(["--ca", &file("ca.crt"), "--cert", &file("ops.crt"), "--key", &file("ops.key"), "-o", "json"]);
        sbcctl.args(["--endpoint", endpoint]).args(arguments);
        let done = command::run(&mut sbcctl, LIMIT).unwrap_or_else(|e| panic!("{e}"));
        (done.code == Some(0)).then(|| serde_json::from_str(&done.stdout).unwrap_or(Value::Null))
    }

    /// Which node leads.
    ///
    /// # Panics
    /// None does.
    pub fn leader(&self) -> usize {
        wait::until("a leader", LIMIT, || {
            let status = self.ctl(&["status"]).unwrap_or_default();
            NAMES.iter().position(|name| status["leader"] == *name && status["quorumOk"] == true).ok_or(status)
        })
    }

    /// What the nodes have printed.
    pub fn logs(&self) -> String {
        self.nodes.iter().flatten().map(|n| format!("{}{}", n.stdout(), n.stderr())).collect()
    }
}

/// A host with its cable to the hub.
fn host(hub: &Namespace, n: u8) -> Namespace {
    let (host, port) = (Namespace::new(&format!("sbct-site-{n}")), format!("site{}", n - 1));
    let own: Vec<String> = (0..3).map(|network| format!("198.18.{network}.1{n}/24")).collect();
    host.link("net0", &own, hub, &port, &[""; 0]);
    host.ip(&["addr", "add", "198.18.0.100/32", "dev", "lo"]);
    hub.ip(&["link", "set", &port, "master", "br0"]);
    host
}

impl Drop for Sites {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- logs of the nodes\n{}", self.logs());
        }
        self.nodes.clear();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
