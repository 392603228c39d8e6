//! Three nodes in containers FROM scratch, a real router between them: one is killed, one is cut off.

use std::time::Duration;

use cluster_tests::cluster::list;
use cluster_tests::compose::Compose;
use cluster_tests::wait;

/// Replication after a heal: an election and a catch-up.
const HEAL: Duration = Duration::from_secs(30);
/// Milliseconds of a call that sees two flips: five docker-compose commands, 2 s each on a busy machine, and as much again.
const LONG_CALL: u32 = 20_000;

#[test]
fn calls_go_on_when_one_node_is_killed_and_one_is_cut_off() {
    let lab = Compose::up();
    let records = |site| list(&lab.ctl(site, &["cdr", "list"]), "cdrs").len();
    let up_at = |site, wanted| {
        let calls = list(&lab.ctl(site, &["call", "list"]), "calls").len();
        if calls == wanted { Ok(()) } else { Err(calls) }
    };

    // All three sites, the route at each in turn; a UA that ignores Contact while the route moves.
    for site in ['a', 'b', 'c'] {
        lab.route_to(site);
        lab.calls(2, 300, "uac");
    }
    // Their BYEs come to c, which owns none of them: they are still up when the last flip is done.
    lab.route_to('a');
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| lab.calls(5, LONG_CALL, "uac-ignores-contact"));
        wait::until("the calls are up", HEAL, || up_at('a', 5));
        lab.route_to('b');
        up_at('b', 5).expect("the first flip ended no call");
        lab.route_to('c');
        up_at('c', 5).expect("the calls outlive both flips");
        calls.join().expect("all calls succeed");
    });
    wait::until_equal("CDRs at each node", HEAL, &[11; 3], || [records('a'), records('b'), records('c')]);

    // Killed: the route moves (here the test is the router's BGP), the others have quorum.
    lab.compose(&["kill", "-s", "KILL", "node-a"]).ok("docker-compose kill");
    lab.route_to('b');
    lab.calls(3, 300, "uac");
    wait::until_equal("CDRs at the survivors", HEAL, &[14; 2], || [records('b'), records('c')]);

    // Cut off from the other nodes, by a silent filter: without quorum it still connects calls.
    let cut = "add table inet cut; add chain inet cut in { type filter hook input priority -300; policy accept; }; \
               add rule inet cut in ip saddr { 198.18.2.16/28, 198.18.2.32/28 } tcp dport 7443 drop; \
               add rule inet cut in ip saddr { 198.18.2.16/28, 198.18.2.32/28 } tcp sport 7443 drop";
    lab.exec("site-c", &["nft", cut]);
    lab.route_to('c');
    lab.calls(2, 300, "uac");
    lab.route_to('b');
    lab.calls(2, 300, "uac");

    // Healed: every node tells the same.
    lab.exec("site-c", &["nft", "delete table inet cut"]);
    lab.compose(&["start", "node-a"]).ok("docker-compose start");
    wait::until_equal("CDRs at each node after the heal", HEAL, &[18; 3], || [records('a'), records('b'), records('c')]);
    for site in ['a', 'b', 'c'] {
        assert!(list(&lab.ctl(site, &["call", "list"]), "calls").is_empty(), "calls left at {site}");
    }
    lab.route_to('a');
    lab.calls(2, 300, "uac");
}
