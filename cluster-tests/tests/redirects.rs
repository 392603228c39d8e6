//! 3xx of a PSAP by trunk setting, and causes of the telephone network in the record, through three real nodes.

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;

/// Where the PSAP sends calls.
const OTHER: &str = "127.0.2.2:5060";

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// Runs with the PSAP's trunk changed, and puts back what was.
fn with_trunk_key(cluster: &Cluster, key: &str, test: impl FnOnce()) {
    let old = cluster.config_text();
    let name = "name = \"psap\"";
    assert!(old.contains(name), "{old}");
    cluster.apply_config(&old.replace(name, &format!("{name}\n{key}")));
    test();
    cluster.apply_config(&old);
}

#[test]
fn a_302_is_followed_to_another_psap_where_the_trunk_says_so() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    with_trunk_key(&cluster, "redirects = \"follow\"", || {
        let mut scene = Scene::new();
        let mut other = Phone::bind(OTHER);
        let invite = scene.invite();
        scene.caller.send(&invite, anycast());
        let (at_psap, from) = scene.psap.expect_request("INVITE");
        let moved = at_psap.response(302, "Moved Temporarily", "p").with("Contact", &format!("<sip:desk7@{OTHER}>"));
        scene.psap.send(&moved, from);
        scene.psap.expect_request("ACK");
        let (at_other, from) = other.expect_request("INVITE");
        assert_eq!(at_other.start, format!("INVITE sip:desk7@{OTHER} SIP/2.0"));
        other.send(&at_other.response(603, "Decline", "o").with("Reason", "Q.850;cause=21;text=\"rejected\""), from);
        other.expect_request("ACK");
        let (declined, _) = scene.caller.expect_response(603, "INVITE");
        assert_eq!(declined.header("Reason"), "Q.850;cause=21;text=\"rejected\"");
        cluster.settled(before + 1);
        let cdr = cluster.cdrs().pop().expect("its record");
        assert_eq!((&cdr["cause"]["q850"], &cdr["cause"]["sipStatus"]), (&21.into(), &603.into()), "{cdr}");
    });
}

#[test]
fn a_302_is_the_callers_otherwise() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let invite = scene.invite();
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(302, "Moved Temporarily", "p").with("Contact", &format!("<sip:desk7@{PSAP}>")), from);
    let (moved, _) = scene.caller.expect_response(302, "INVITE");
    assert_eq!(moved.header("Contact"), format!("<sip:desk7@{PSAP}>"));
    cluster.settled(before + 1);
}

#[test]
fn the_cause_of_a_bye_is_in_the_record_and_at_the_other_side() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let reason = "Q.850;cause=31;text=\"Normal, unspecified\"";
    scene.caller.send(&call.from_caller.request("BYE").with("Reason", reason), anycast());
    assert_eq!(scene.psap_confirms("BYE").header("Reason"), reason);
    scene.caller.expect_response(200, "BYE");
    cluster.settled(before + 1);
    assert_eq!(cluster.cdrs().pop().expect("its record")["cause"]["q850"], 31);
    let table = cluster.ctl(&["cdr", "list"]).stdout;
    assert!(table.contains("Q.850 31"), "{table}");
}
