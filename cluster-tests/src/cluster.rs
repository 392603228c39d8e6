//! A cluster of real nodes: `sbcctl dev up`, and everything else through `sbcctl` too.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::command::{self, Finished};
use crate::guard::Guard;
use crate::{process, wait};

/// The shared address; every node serves it.
pub const ANYCAST: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 100));
/// Where the PSAP phone is.
pub const PSAP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1)), 5060);
/// The nodes of `dev up`, in order.
pub const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// UDP and TCP.
pub const SIP_PORT: u16 = 5060;
/// TLS.
pub const SIPS_PORT: u16 = 5061;

const METRICS_PORT: u16 = 9464;

/// Longest `dev up`: three debug-build nodes, an election (1.5 s at most) and a busy machine.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// Longest other command.
const CTL_LIMIT: Duration = Duration::from_secs(30);
/// How long calls may take to be gone from every list after their end: replication, and a BYE that had to be repeated.
pub const SETTLE: Duration = Duration::from_secs(10);

/// The anycast address for UDP and TCP.
pub fn anycast() -> SocketAddr {
    SocketAddr::new(ANYCAST, SIP_PORT)
}

/// External unicast address of the n-th node (0, 1, 2).
pub fn unicast(node: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11 + node)), SIP_PORT)
}

/// Core-side address of the n-th node.
pub fn core(node: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 11 + node)), SIP_PORT)
}

/// What a cluster is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number of nodes.
    pub nodes: u8,
    /// True: the test itself is the PSAP at [`PSAP`]; false: the built-in phone that answers and echoes.
    pub own_psap: bool,
    /// `--set` settings.
    pub set: Vec<String>,
    /// Where the binaries are that it is started by, when not those of this build; later commands, and nodes that are started again, are of
    /// this build.
    pub first_bin_dir: Option<PathBuf>,
    /// Descriptors that each node may have; `None`: as many as the test itself.
    pub descriptors: Option<u32>,
}

impl Options {
    /// Three nodes and the built-in PSAP phone.
    pub fn with_phone() -> Options {
        Options { nodes: 3, own_psap: false, set: Vec::new(), first_bin_dir: None, descriptors: None }
    }

    /// Three nodes; the test answers the calls.
    pub fn with_own_psap() -> Options {
        Options { own_psap: true, ..Options::with_phone() }
    }
}

/// A running cluster; dropped: taken down.
#[derive(Debug)]
pub struct Cluster {
    options: Options,
    dir: PathBuf,
    guard: Option<Guard>,
}

static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);

/// The one cluster of this test program, idle, for the time that it is held.
#[derive(Debug)]
pub struct Shared(MutexGuard<'static, Option<Cluster>>);

impl std::ops::Deref for Shared {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.0.as_ref().expect("Cluster::shared put it there")
    }
}

impl Cluster {
    /// Starts one of its own, after those of other test programs are gone.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start(options: Options) -> Cluster {
        let dir = command::scratch("cluster");
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let sbcctl = process::bin_dir().join("sbcctl");
        let clean_up =
            "SBCCTL_CONFIG=\"$2/contexts.toml\" timeout 60 \"$1\" dev down --dir \"$2\"; [ -n \"$SBC_KEEP\" ] || rm -rf \"$2\"";
        let guard = Guard::take(clean_up, &[&sbcctl, &dir], &std::env::temp_dir().join("sbc-cluster-tests.log"));
        let cluster = Cluster { options, dir, guard: Some(guard) };
        let mut up = cluster.up();
        up.args(["dev", "up", "--nodes", &cluster.options.nodes.to_string(), "--dir"]).arg(&cluster.dir);
        if cluster.options.own_psap {
            up.args(["--psap", &PSAP.to_string()]);
        }
        for set in &cluster.options.set {
            up.args(["--set", set]);
        }
        match command::run(&mut up, UP_LIMIT) {
            Ok(done) => drop(done.ok("sbcctl dev up")),
            Err(e) => panic!("sbcctl dev up: {e}"),
        }
        cluster
    }

    /// `sbcctl`, whose nodes are those of the options, and have as many descriptors as these say.
    fn up(&self) -> Command {
        let first = self.options.first_bin_dir.clone().unwrap_or_else(process::bin_dir);
        let Some(most) = self.options.descriptors else { return self.sbcctl_of(&first) };
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &most.to_string()]);
        limited.arg(first.join("sbcctl")).env("SBCCTL_CONFIG", self.dir.join("contexts.toml"));
        limited
    }

    /// The cluster that the tests of one program take turns with: started once, replaced when a test left calls behind.
    pub fn shared(options: Options) -> Shared {
        let mut held = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = held.as_ref().is_some_and(|c| c.options == options && c.is_whole_and_idle());
        if !usable {
            *held = None;
            *held = Some(Cluster::start(options));
        }
        Shared(held)
    }

    fn is_whole_and_idle(&self) -> bool {
        self.try_json(&["node", "list"]).is_some_and(|v| {
            list(&v, "nodes").iter().filter(|n| n["reachable"] == true).count() == usize::from(self.options.nodes)
        }) && self.try_json(&["call", "list"]).is_some_and(|v| list(&v, "calls").is_empty())
    }

    /// Its directory: data, certificates, logs.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// `sbcctl`, set to speak to this cluster.
    pub fn sbcctl(&self) -> Command {
        self.sbcctl_of(&process::bin_dir())
    }

    fn sbcctl_of(&self, bin_dir: &std::path::Path) -> Command {
        let mut command = Command::new(bin_dir.join("sbcctl"));
        command.env("SBCCTL_CONFIG", self.dir.join("contexts.toml"));
        command
    }

    /// Runs `sbcctl`, whatever it says.
    ///
    /// # Panics
    /// It cannot be started or hangs.
    pub fn try_ctl(&self, arguments: &[&str]) -> Finished {
        command::run(self.sbcctl().args(arguments), CTL_LIMIT).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Runs `sbcctl`, which must succeed.
    ///
    /// # Panics
    /// It does not.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        self.try_ctl(arguments).ok(&format!("sbcctl {}", arguments.join(" ")))
    }

    /// Runs `sbcctl dev VERB …` on this cluster's directory.
    ///
    /// # Panics
    /// It fails.
    #[track_caller]
    pub fn dev(&self, arguments: &[&str]) -> Finished {
        let dir = self.dir.to_str().expect("scratch paths are UTF-8");
        let all: Vec<&str> = ["dev"].into_iter().chain(arguments.iter().copied()).chain(["--dir", dir]).collect();
        command::run(self.sbcctl().args(&all), UP_LIMIT)
            .unwrap_or_else(|e| panic!("{e}"))
            .ok(&format!("sbcctl {}", all.join(" ")))
    }

    /// One call by `sbcctl dev call`, which hangs up at once; it is over and recorded everywhere when this returns.
    ///
    /// # Panics
    /// It is not answered.
    pub fn dev_call(&self, arguments: &[&str]) {
        let before = self.cdrs().len();
        self.ctl(&[&["dev", "call", "--hold", "0"], arguments].concat());
        self.settled(before + 1);
    }

    /// The JSON that a command prints, or nothing when it fails.
    pub fn try_json(&self, arguments: &[&str]) -> Option<Value> {
        let done = self.try_ctl(&[arguments, &["-o", "json"]].concat());
        (done.code == Some(0)).then(|| serde_json::from_str(&done.stdout).ok()).flatten()
    }

    /// The JSON that a command prints.
    ///
    /// # Panics
    /// It fails, or prints something else.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let done = self.ctl(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|e| panic!("sbcctl {arguments:?} printed no JSON ({e}): {}", done.stdout))
    }

    /// The live calls, as any node tells them.
    pub fn calls(&self) -> Vec<Value> {
        list(&self.json(&["call", "list"]), "calls")
    }

    /// The text of the cluster's configuration.
    pub fn config_text(&self) -> String {
        let config = self.json(&["config", "get"]);
        let text = config["text"].as_str().or_else(|| config["config"]["text"].as_str());
        text.expect("the configuration has a text").to_owned()
    }

    /// Applies a configuration, also one that takes no calls, and returns when every node has it: a read at a node waits for what is
    /// committed.
    pub fn apply_config(&self, text: &str) {
        let file = command::scratch("cluster.toml");
        fs::write(&file, text).expect("the temporary directory is writable");
        self.ctl(&["config", "apply", file.to_str().expect("scratch paths are UTF-8"), "--yes", "--force"]);
        let _ = fs::remove_file(&file);
        for node in 0..3 {
            self.json(&["config", "get", "--endpoint", &grpc(node)]);
        }
    }

    /// Runs with the configuration changed, and puts back what was.
    ///
    /// # Panics
    /// `change` changes nothing.
    pub fn with_config(&self, change: impl FnOnce(&str) -> String, test: impl FnOnce()) {
        let old = self.config_text();
        let new = change(&old);
        assert_ne!(new, old, "the configuration is as the test expects it");
        self.apply_config(&new);
        test();
        self.apply_config(&old);
    }

    /// Runs with other targets of the trunk `psap`, written as in the configuration, and with more of its keys.
    pub fn with_psap(&self, targets: &str, keys: &str, test: impl FnOnce()) {
        let name = "name = \"psap\"";
        let change = |old: &str| {
            let moved = old.replace(&format!("\"{PSAP};transport=udp\""), targets);
            moved.replace(name, &format!("{name}\n{keys}"))
        };
        self.with_config(change, test);
    }

    /// The live calls as the n-th node tells them.
    pub fn calls_at(&self, node: u8) -> Vec<Value> {
        list(&self.json(&["call", "list", "--endpoint", &grpc(node)]), "calls")
    }

    /// The call detail records.
    pub fn cdrs(&self) -> Vec<Value> {
        list(&self.json(&["cdr", "list"]), "cdrs")
    }

    /// The call with this SIP Call-ID on the caller's side, once every node knows it in `state`.
    ///
    /// # Panics
    /// That does not come to pass.
    pub fn call(&self, call_id: &str, state: &str) -> Value {
        wait::until(&format!("call {call_id} in {state}"), SETTLE, || {
            let calls = self.calls();
            let found = calls.iter().find(|c| c["parties"]["sipCallId"] == call_id && c["state"] == state);
            found.cloned().ok_or(calls)
        })
    }

    /// Name of the node that serves the anycast address.
    ///
    /// # Panics
    /// None does for [`SETTLE`].
    pub fn holder(&self) -> u8 {
        wait::until("one node announces", SETTLE, || {
            let nodes = list(&self.json(&["node", "list"]), "nodes");
            let mut holders = nodes.iter().filter(|n| n["announced"] == true);
            match (holders.next().and_then(|n| n["name"].as_str()), holders.next()) {
                (Some(name), None) => NODES.iter().position(|n| *n == name).and_then(|i| u8::try_from(i).ok()).ok_or(nodes),
                _ => Err(nodes),
            }
        })
    }

    /// Moves the anycast address to the n-th node.
    pub fn flip(&self, node: u8) {
        self.dev(&["flip", NODES[usize::from(node)]]);
    }

    /// Kill -9 of the n-th node.
    pub fn kill(&self, node: u8) {
        self.dev(&["kill", NODES[usize::from(node)]]);
    }

    /// Waits until every node lists no call and `wanted` records are there.
    ///
    /// # Panics
    /// A call is left over, or the records are fewer or more.
    #[track_caller]
    pub fn settled(&self, wanted: usize) {
        for node in 0..self.options.nodes {
            wait::until_equal(&format!("no call left at {}", NODES[usize::from(node)]), SETTLE, &Vec::new(), || {
                self.calls_at(node)
            });
        }
        wait::until_equal("number of CDRs", SETTLE, &wanted, || self.cdrs().len());
    }

    /// True when the n-th node's process runs.
    pub fn is_up(&self, node: u8) -> bool {
        self.pid(node).is_some()
    }

    /// Process id of the n-th node.
    pub fn pid(&self, node: u8) -> Option<u32> {
        let dir = self.dir.to_str().expect("scratch paths are UTF-8");
        process::find(&["sbcd", dir, NODES[usize::from(node)]]).into_iter().next()
    }

    /// A counter or gauge of the n-th node, with its labels as they are written; 0 where it is not there.
    ///
    /// # Panics
    /// The node does not serve its metrics.
    pub fn metric(&self, node: u8, name: &str) -> u64 {
        let mut http = TcpStream::connect((unicast(node).ip(), METRICS_PORT)).expect("the node serves metrics");
        http.set_read_timeout(Some(CTL_LIMIT)).expect("it is not zero");
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it reads");
        let mut text = String::new();
        http.read_to_string(&mut text).expect("text");
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    }

    /// The end of every node's log, for a failure report.
    pub fn logs(&self) -> String {
        command::run(Command::new("sh").args(["-c", "find \"$0\" -name '*.log' -exec tail -n 30 {} +"]).arg(&self.dir), CTL_LIMIT)
            .map_or_else(|e| e.to_string(), |d| d.stdout)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- logs of the nodes\n{}", self.logs());
        }
        self.guard = None;
    }
}

/// gRPC address of the n-th node.
pub fn grpc(node: u8) -> String {
    format!("127.0.0.{}:7443", 11 + node)
}

/// A repeated field of proto JSON: absent when empty.
pub fn list(value: &Value, field: &str) -> Vec<Value> {
    value[field].as_array().cloned().unwrap_or_default()
}

/// A number of proto JSON: 64-bit ones are strings, zero may be absent.
pub fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}
