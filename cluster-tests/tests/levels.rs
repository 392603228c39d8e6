//! The format level of the log: it rises when every node knows it, and a node that does not know it stays away.

use std::fs;
use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options};
use cluster_tests::{command, process, upgrade};

/// A node that refuses to start says so at once; the rest is a busy machine.
const REFUSAL: Duration = Duration::from_secs(20);

/// The newest level: `sbc_core::replica::LEVEL`.
const NEWEST: u64 = 3;

#[test]
fn the_level_rises_when_the_last_node_is_let_go_and_an_older_one_does_not_start() {
    let set = vec!["cluster.format_level=1".to_owned()];
    let cluster = Cluster::start(Options { set, ..Options::with_own_psap() });
    upgrade::stays(&cluster, 1);
    let config = |node: u8| cluster.dir().join(format!("{}.toml", NODES[usize::from(node)]));
    let held = fs::read_to_string(config(0)).expect("the node's configuration");
    let replace = |node: u8| {
        let text = fs::read_to_string(config(node)).expect("the node's configuration");
        let freed: String = text.lines().filter(|l| !l.starts_with("format_level")).flat_map(|l| [l, "\n"]).collect();
        assert_ne!(text, freed, "it was held");
        fs::write(config(node), freed).expect("writes");
        cluster.kill(node);
        cluster.dev(&["heal"]);
    };
    let calls = upgrade::roll(&cluster, replace, |replaced| {
        let wanted = if replaced == 3 { NEWEST } else { 1 };
        upgrade::stays(&cluster, wanted);
    });
    assert_eq!(cluster.cdrs().len(), calls);
    upgrade::replicas_agree(&cluster);

    // Back to the version before: it would not know what stands in the log.
    cluster.kill(0);
    fs::write(config(0), held).expect("writes");
    let mut sbcd = Command::new(process::bin_dir().join("sbcd"));
    let refused = command::run(sbcd.arg("--config").arg(config(0)), REFUSAL).expect("it ends by itself");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert_ne!(refused.code, Some(0), "{said}");
    assert!(said.contains(&format!("format level {NEWEST}")) && said.contains("upgrade"), "{said}");
}
