//! A node that lost its core side gives the anycast address up: calls that it took could not go on to the PSAP. One that is cut off leaves it to
//! another that is well, and to nobody else.

use std::io::{Read, Write};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster_tests::command::{self, Finished, scratch};
use cluster_tests::netns::Namespace;
use cluster_tests::{process, wait};
use serde_json::Value;

/// Three debug-build nodes and an election, on a busy machine.
const UP_LIMIT: Duration = Duration::from_secs(60);
/// A health check goes round in 200 ms, a standby takes the address within a second; the rest is margin.
const SEEN: Duration = Duration::from_secs(15);

/// A cluster of its own in a namespace, where addresses can be taken away: the kernel lends all of 127/8 to an ordinary
/// loopback interface.
struct Stand {
    namespace: Namespace,
    dir: std::path::PathBuf,
    /// One at a time: they have one name.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

impl Stand {
    fn start() -> Stand {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let namespace = Namespace::new("sbc-health");
        namespace.ip(&["addr", "flush", "dev", "lo"]);
        let nodes = (11..=13).flat_map(|n| [format!("127.0.0.{n}"), format!("127.0.1.{n}")]);
        for address in nodes.chain(["127.0.0.1".into(), "127.0.0.100".into(), "127.0.2.1".into()]) {
            namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let stand = Stand { namespace, dir: scratch("health"), _turn: turn };
        stand.run(&["dev", "up", "--dir", stand.dir.to_str().expect("it is ASCII")]).ok("sbcctl dev up");
        stand
    }

    fn run(&self, arguments: &[&str]) -> Finished {
        let sbcctl = process::bin_dir().join("sbcctl");
        let mut command = self.namespace.command(sbcctl.to_str().expect("it is ASCII"));
        command.args(arguments).env("SBCCTL_CONFIG", self.dir.join("contexts.toml"));
        command::run(&mut command, UP_LIMIT).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The names of the nodes that announce, and the health of node `n`.
    fn nodes(&self) -> Vec<Value> {
        let done = self.run(&["node", "list", "-o", "json"]);
        let value: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
        value["nodes"].as_array().cloned().unwrap_or_default()
    }

    fn holder_is(&self, wanted: impl Fn(&str) -> bool) -> Result<String, Vec<Value>> {
        let nodes = self.nodes();
        let holders: Vec<&str> = nodes.iter().filter(|n| n["announced"] == true).filter_map(|n| n["name"].as_str()).collect();
        match holders[..] {
            [one] if wanted(one) => Ok(one.to_owned()),
            _ => Err(nodes),
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = self.run(&["dev", "down", "--dir", self.dir.to_str().unwrap_or_default()]);
        let _ = command::run(Command::new("rm").arg("-rf").arg(&self.dir), SEEN);
    }
}

#[test]
fn a_node_without_its_core_address_withdraws_and_comes_back() {
    let stand = Stand::start();
    let holder = wait::until("one node announces", SEEN, || stand.holder_is(|_| true));
    let n = match holder.as_str() {
        "node-a" => 11,
        "node-b" => 12,
        _ => 13,
    };
    let core = format!("127.0.1.{n}/32");
    stand.namespace.ip(&["addr", "del", &core, "dev", "lo"]);
    let next = wait::until("another node announces", SEEN, || stand.holder_is(|name| name != holder));
    let healths =
        |name: &str| stand.nodes().into_iter().find(|n| n["name"] == name).map(|n| n["health"]["coreReachable"] == true);
    assert_eq!(healths(&holder), Some(false), "its health says so");
    assert_eq!(healths(&next), Some(true));
    // One call by the new way: the cluster serves.
    stand.run(&["dev", "call"]).ok("sbcctl dev call");
    stand.namespace.ip(&["addr", "add", &core, "dev", "lo"]);
    wait::until("it is well again", SEEN, || if healths(&holder) == Some(true) { Ok(()) } else { Err(stand.nodes()) });
}

/// The group under which a node is started that is to be told from the others by a packet filter.
const APART: &str = "47100";

impl Stand {
    /// Starts what is dead, as this group.
    fn heal_as(&self, group: &str) {
        let sbcctl = process::bin_dir().join("sbcctl");
        // A process that was killed holds its sockets until its last thread is gone.
        wait::until("the node starts", UP_LIMIT, || {
            let mut command = self.namespace.command("setpriv");
            command.args(["--regid", group, "--clear-groups"]).arg(&sbcctl).args(["dev", "heal", "--dir"]).arg(&self.dir);
            command.env("SBCCTL_CONFIG", self.dir.join("contexts.toml"));
            let done = command::run(&mut command, UP_LIMIT).unwrap_or_else(|e| panic!("{e}"));
            if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
        });
    }

    fn nft(&self, rules: &str) {
        let mut nft = self.namespace.command("nft");
        command::run(nft.arg(rules), SEEN).unwrap_or_else(|e| panic!("{e}")).ok("nft (needs root)");
    }

    /// A page of a node's HTTP listener: status line, and the whole.
    fn page(&self, node: u8, path: &str) -> (String, String) {
        self.namespace.inside(|| {
            let at = std::net::SocketAddr::from(([127, 0, 0, node], 9464));
            let mut tcp = std::net::TcpStream::connect(at).expect("the node serves HTTP");
            tcp.set_read_timeout(Some(SEEN)).expect("not zero");
            let mut text = String::new();
            tcp.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).expect("it reads");
            tcp.read_to_string(&mut text).expect("text");
            (text.lines().next().unwrap_or_default().to_owned(), text)
        })
    }

    fn announces(&self, node: u8) -> bool {
        self.page(node, "/metrics").1.contains("\nsbc_anycast_announced 1\n")
    }
}

#[test]
fn a_node_that_is_cut_off_lets_go_while_another_serves_and_stays_where_it_hears_of_none() {
    let stand = Stand::start();
    let dir = stand.dir.to_str().expect("it is ASCII");
    wait::until("one node announces", SEEN, || stand.holder_is(|_| true));
    stand.run(&["dev", "kill", "node-a", "--dir", dir]).ok("sbcctl dev kill");
    stand.heal_as(APART);
    stand.run(&["dev", "flip", "node-a", "--dir", dir]).ok("sbcctl dev flip");
    // Gauges are a second old at the most.
    wait::until_equal("node-a announces", SEEN, &[true, false, false], || [11, 12, 13].map(|n| stand.announces(n)));
    assert_eq!(stand.page(11, "/healthz"), stand.page(11, "/healthz/ok"));
    assert!(stand.page(11, "/healthz").1.ends_with("\r\n\r\nok\n"));

    // Its links and its part in the log are cut, silently; its SIP addresses work: it hears by OPTIONS that the others are well.
    let cut = |group: &str| {
        format!(
            "add table inet cut; add chain inet cut out {{ type filter hook output priority 0; policy accept; }}; \
             add rule inet cut out {group} tcp dport 7443 drop; add rule inet cut out {group} tcp sport 7443 drop"
        )
    };
    stand.nft(&cut(&format!("meta skgid {APART}")));
    wait::until("it lets go, and another node serves", SEEN, || {
        let now = [11, 12, 13].map(|n| stand.announces(n));
        if !now[0] && now[1] != now[2] { Ok(()) } else { Err(now) }
    });
    // It serves calls, and is not well.
    let (status, text) = stand.page(11, "/healthz");
    assert!(status.contains(" 200 ") && text.contains("\r\n\r\ndegraded: ") && text.contains("no quorum"), "{text}");
    assert!(stand.page(11, "/healthz/ok").0.contains(" 503 "));
    stand.nft("delete table inet cut");
    wait::until("it is well again", SEEN, || {
        let (status, text) = stand.page(11, "/healthz/ok");
        if status.contains(" 200 ") { Ok(()) } else { Err(text) }
    });

    // All are cut off from each other: whoever announces may be the last, and goes on.
    let holder = [11, 12, 13].into_iter().find(|n| stand.announces(*n)).expect("one announces");
    stand.nft(&cut(""));
    for node in [11, 12, 13] {
        wait::until("no quorum", SEEN, || {
            let (status, text) = stand.page(node, "/healthz");
            if status.contains(" 200 ") && text.contains("no quorum") { Ok(()) } else { Err(text) }
        });
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        assert!(stand.announces(holder), "it let go, and nobody is there");
        std::thread::sleep(Duration::from_millis(200));
    }
    stand.nft("delete table inet cut");
}
