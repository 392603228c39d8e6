//! A node that lost its core side gives the anycast address up: calls that it took could not go on to the PSAP.

use std::process::Command;
use std::time::Duration;

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
}

impl Stand {
    fn start() -> Stand {
        let namespace = Namespace::new("sbc-health");
        namespace.ip(&["addr", "flush", "dev", "lo"]);
        let nodes = (11..=13).flat_map(|n| [format!("127.0.0.{n}"), format!("127.0.1.{n}")]);
        for address in nodes.chain(["127.0.0.1".into(), "127.0.0.100".into(), "127.0.2.1".into()]) {
            namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", "lo"]);
        }
        let stand = Stand { namespace, dir: scratch("health") };
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
