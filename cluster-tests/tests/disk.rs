//! A node whose disk is lost: it has forgotten its votes, and must not take part as if it had not.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, NODES, Options, grpc, list, unicast};
use cluster_tests::scene::Scene;
use cluster_tests::{command, process, upgrade, wait};

/// The others answer at once; the rest is a busy machine.
const REFUSAL: Duration = Duration::from_secs(20);
/// An election, a snapshot, two changes of the members.
const BACK: Duration = Duration::from_secs(30);

#[test]
fn a_wiped_disk_is_refused_until_an_operator_takes_the_node_back() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    upgrade::reaches(&cluster, 2);
    let (kept, lost) = (cluster.holder(), (cluster.holder() + 2) % 3);
    let name = NODES[usize::from(lost)];
    let mut ended = scene.established(unicast(kept));
    scene.hang_up(&mut ended, unicast(kept));
    cluster.settled(1);
    // The log knows the node by its directory: said with its first start, or once the level was reached.
    wait::until_equal("every node's start is in the log", BACK, &3, || {
        list(&cluster.json(&["event", "list"]), "events").iter().filter(|e| e["kind"] == "EVENT_KIND_NODE_UP").count()
    });

    cluster.kill(lost);
    fs::remove_dir_all(cluster.dir().join(name)).expect("its data");
    let config = cluster.dir().join(format!("{name}.toml"));
    let mut sbcd = Command::new(process::bin_dir().join("sbcd"));
    let refused = command::run(sbcd.arg("--config").arg(&config), REFUSAL).expect("it ends by itself");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert_ne!(refused.code, Some(0), "{said}");
    assert!(said.contains(&format!("sbcctl cluster readmit {name}")), "{said}");
    // It has lost nothing for the others.
    let mut meanwhile = scene.established(unicast(kept));

    let up = cluster.try_ctl(&["cluster", "readmit", NODES[usize::from(kept)], "--yes"]);
    assert_eq!(up.code, Some(1), "a member that is up: {}", up.stderr);
    let mut readmit = cluster.sbcctl();
    let readmit = readmit.args(["cluster", "readmit", name, "--yes", "--endpoint", &grpc(kept), "-o", "jsonl"]);
    let output = command::scratch("readmit");
    let file = fs::File::create(&output).expect("the temporary directory is writable");
    let mut readmit = readmit.stdin(Stdio::null()).stdout(file).spawn().expect("sbcctl starts");
    wait::until("the operator is told to start it", BACK, || {
        let told = fs::read_to_string(&output).unwrap_or_default();
        if told.contains("READMIT_PHASE_WAITING") { Ok(()) } else { Err(told) }
    });
    cluster.dev(&["heal"]);
    wait::until("it has its vote again", BACK, || match readmit.try_wait().expect("ours") {
        Some(status) if status.success() => Ok(()),
        other => Err((other, fs::read_to_string(&output))),
    });
    let _ = fs::remove_file(&output);
    scene.hang_up(&mut meanwhile, unicast(lost));
    cluster.settled(2);
    upgrade::replicas_agree(&cluster);
    // Its vote counts: with it and one other there is a quorum.
    cluster.kill((kept + 1) % 3);
    wait::until("a quorum of the two", BACK, || {
        let status = cluster.try_json(&["status", "--endpoint", &grpc(lost)]).unwrap_or_default();
        if status["quorumOk"] == true { Ok(()) } else { Err(status) }
    });
}

/// Two disks are lost while the third node, which has the log, is down: what was acknowledged must not be forgotten, though each of the two
/// finds the other one as new as itself, and one is told to make a cluster.
#[test]
fn two_wiped_disks_make_no_cluster_without_the_third() {
    let cluster = Cluster::start(Options::with_own_psap());
    upgrade::reaches(&cluster, 2);
    wait::until_equal("every node's start is in the log", BACK, &3, || {
        list(&cluster.json(&["event", "list"]), "events").iter().filter(|e| e["kind"] == "EVENT_KIND_NODE_UP").count()
    });
    for node in 0..3 {
        cluster.kill(node);
    }
    let start = |node: usize, wipe: bool| {
        if wipe {
            fs::remove_dir_all(cluster.dir().join(NODES[node])).expect("its data");
        }
        let mut sbcd = Command::new(process::bin_dir().join("sbcd"));
        sbcd.arg("--config").arg(cluster.dir().join(format!("{}.toml", NODES[node]))).arg("--init");
        command::spawn(&mut sbcd).expect("sbcd starts")
    };
    let mut wiped = [0, 1].map(|node| start(node, true));
    // It asks four times a second, and says so every ten.
    wait::until("each has asked the other for a while", BACK, || {
        let asked =
            wiped.each_ref().map(|node| format!("{}{}", node.stdout(), node.stderr()).matches("log directory is new").count());
        if asked.iter().all(|times| *times >= 2) { Ok(()) } else { Err(asked) }
    });
    let status = [0, 1].map(|node| cluster.try_json(&["status", "--endpoint", &grpc(node)]).unwrap_or_default());
    assert!(status.iter().all(|s| s["quorumOk"] != true), "{status:?}");
    // The third one knows both by other disks.
    let kept = start(2, false);
    wait::until("both are refused", BACK, || {
        let running = wiped.each_mut().map(command::Running::is_running);
        if running == [false, false] { Ok(()) } else { Err((running, kept.stderr())) }
    });
    for (node, name) in wiped.iter().zip(NODES) {
        let said = format!("{}{}", node.stdout(), node.stderr());
        assert!(said.contains(&format!("sbcctl cluster readmit {name}")), "{said}");
    }
}
