//! OPTIONS probes: a dead target is found before a call pays for it, and dialled again as soon as it answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast, core, grpc, number};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::wait;

/// The preferred target of the trunk: nobody is there at first.
const FIRST: &str = "127.0.2.9:5060";
const LIMIT: Duration = Duration::from_secs(30);

/// Answers every OPTIONS that comes until one of this node has.
fn answer_probe_of(phone: &mut Phone, node: SocketAddr) {
    let until = Instant::now() + LIMIT;
    loop {
        let (request, from) = phone.expect_request("OPTIONS");
        assert!(!request.text().contains("127.0.0.100") && !request.uri("Contact").contains("127.0.0.100"), "rule F");
        phone.send(&request.response(200, "OK", "p"), from);
        if from == node {
            return;
        }
        assert!(Instant::now() < until, "no probe of {node}");
    }
}

#[test]
fn a_dead_target_is_found_and_its_recovery_too() {
    let cluster = Cluster::start(Options::with_own_psap());
    let mut scene = Scene::new();
    let holder = cluster.holder();
    let old = cluster.config_text();
    let literal = format!("\"{PSAP};transport=udp\"");
    assert!(old.contains(&literal), "{old}");
    let both = format!("\"{FIRST};transport=udp\", {literal}");
    cluster.apply_config(&old.replace(&literal, &both).replace("name = \"psap\"", "name = \"psap\"\nprobe_s = 5"));
    answer_probe_of(&mut scene.psap, core(holder));
    let name = format!("node-{}", char::from(b'a' + holder));
    wait::until("the holder has found the dead target", LIMIT, || {
        let shown = cluster.json(&["node", "show", &name, "--endpoint", &grpc(holder)]);
        let held = number(&shown["counters"]["target_changes_total"]);
        if held > 0 { Ok(()) } else { Err(shown) }
    });
    let (before, invite) = (cluster.cdrs().len(), scene.invite());
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(486, "Busy Here", "p"), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 486);
    cluster.settled(before + 1);
    let uid = cluster.cdrs().pop().expect("its record")["call"].as_str().expect("an id").to_owned();
    let ladder = cluster.ctl(&["call", "ladder", &uid]).stdout;
    assert!(ladder.contains("127.0.2.1:5060") && !ladder.contains("127.0.2.9"), "no call pays for it: {ladder}");
    // It comes up, and the next call is its.
    let mut first = Phone::bind(FIRST);
    answer_probe_of(&mut first, core(holder));
    let invite = scene.invite();
    scene.caller.send(&invite, anycast());
    let (at_first, from) = first.expect_request("INVITE");
    first.send(&at_first.response(486, "Busy Here", "f"), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 486);
    cluster.settled(before + 2);
}
