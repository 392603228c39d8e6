//! One node's fault costs the others next to nothing: neither a core nor a disk full of log lines.

use std::time::Duration;

use cluster_tests::cluster::list;
use cluster_tests::sites::{LIMIT, Sites};
use cluster_tests::{process, wait};
use rustix::process::Signal;

/// How long is measured. Openraft's own pause, which did not work, is half a second, an election timeout 1.5 s.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines of a node in the window, with the change itself.
const LINES: usize = 15;
/// Octets of log in the window: those lines.
const OCTETS: usize = LINES * 400;
/// CPU in the window that a node may take beyond twice what it takes with all nodes there: 2 % of a core, in a debug build.
const MARGIN: Duration = Duration::from_millis(200);

struct Used {
    cpu: Duration,
    log: String,
}

/// What each of `nodes` uses in the window, what it says included.
fn used(sites: &mut Sites, nodes: &[usize]) -> Vec<Used> {
    let now = |sites: &mut Sites, n: usize| {
        let node = sites.node(n);
        assert!(node.is_running(), "node {n}: {}", node.stderr());
        (process::cpu_time(node.pid()).expect("it runs"), node.stderr())
    };
    let before: Vec<_> = nodes.iter().map(|n| now(sites, *n)).collect();
    // A window to measure in, not a wait for something.
    std::thread::sleep(WINDOW);
    let after = nodes.iter().map(|n| now(sites, *n)).collect::<Vec<_>>();
    let used = |((cpu, log), (cpu_before, log_before)): ((Duration, String), (Duration, String))| Used {
        cpu: cpu.saturating_sub(cpu_before),
        log: log[log_before.len()..].to_owned(),
    };
    after.into_iter().zip(before).map(used).collect()
}

fn reachable(sites: &Sites, wanted: usize) {
    wait::until(&format!("{wanted} nodes are reachable"), LIMIT, || {
        let nodes = list(&sites.ctl(&["node", "list"]).unwrap_or_default(), "nodes");
        let count = nodes.iter().filter(|n| n["reachable"] == true && n["health"]["raftCaughtUp"] == true).count();
        if count == wanted { Ok(()) } else { Err((nodes, sites.logs())) }
    });
}

#[test]
fn a_node_that_is_dead_stopped_or_cut_off_costs_the_others_nothing() {
    let mut sites = Sites::start(|_| {});
    let leader = sites.leader();
    let victim = (leader + 1) % 3;
    let others = [leader, (leader + 2) % 3];
    let idle = used(&mut sites, &others);
    let frugal = |sites: &mut Sites, what: &str, nodes: &[usize]| {
        for (n, (used, idle)) in nodes.iter().zip(used(sites, nodes).iter().zip(&idle)) {
            let (cpu, log) = (used.cpu, &used.log);
            eprintln!(
                "{what}: node {n} took {cpu:?} (idle {:?}), {} octets in {} lines",
                idle.cpu,
                log.len(),
                log.lines().count()
            );
            assert!(cpu <= 2 * idle.cpu + MARGIN, "{what}: node {n} took {cpu:?}, idle {:?}", idle.cpu);
            assert!(log.lines().count() <= LINES && log.len() <= OCTETS, "{what}: node {n} says {log}");
        }
    };

    sites.cut(victim, true);
    frugal(&mut sites, "cut off", &others);
    frugal(&mut sites, "cut off itself", &[victim]);
    sites.cut(victim, false);
    reachable(&sites, 3);

    sites.signal(victim, Signal::STOP);
    frugal(&mut sites, "stopped", &others);
    sites.signal(victim, Signal::CONT);
    reachable(&sites, 3);

    sites.kill(victim);
    frugal(&mut sites, "dead", &others);
    sites.start_node(victim, &[]);
    reachable(&sites, 3);

    // The leader itself: the others elect another, and no more.
    let leader = sites.leader();
    let left: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    sites.kill(leader);
    frugal(&mut sites, "leader dead", &left);
    // Without quorum a node looks for one for ever.
    sites.kill(left[0]);
    frugal(&mut sites, "alone", &left[1..]);
}
