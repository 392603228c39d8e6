//! 3xx of a PSAP by trunk setting, and causes of the telephone network in the record, through three real nodes.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast};
use cluster_tests::ladder;
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::sipp::Sipp;

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

const SIP_112: &str = "sip:112@127.0.0.100:5060";

/// The same in sipp: the caller has a call like any other, and the first desk's leg is told as it was.
#[test]
fn a_302_of_sipp_is_followed() {
    let cluster = cluster();
    with_trunk_key(&cluster, "redirects = \"follow\"", || {
        let other: SocketAddr = OTHER.parse().expect("an address");
        let desk = Sipp::scenario("uas", other.ip(), Duration::from_secs(30)).args(&["-m", "1"]).serve(other);
        ladder::between(&cluster, ("uac", "uas-moved"), SIP_112, &[]);
        assert_eq!(desk.succeed().successful, 1);
    });
}

#[test]
fn a_302_of_sipp_is_passed_on() {
    ladder::between(&cluster(), ("uac-moved", "uas-moved"), SIP_112, &[]);
}

#[test]
fn a_desk_that_is_away_says_when_it_is_back() {
    ladder::between(&cluster(), ("uac-call-later", "uas-call-later"), SIP_112, &[]);
}

#[test]
fn a_call_goes_on_after_what_is_refused_within_it() {
    ladder::between(&cluster(), ("uac-refused-within", "uas-refused-within"), SIP_112, &[]);
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

/// RFC 3326: why the PSAP hung up is told to the caller and stands in the record.
#[test]
fn the_cause_of_the_psaps_bye_reaches_the_caller_and_the_record() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let mut call = scene.established(anycast());
    let reason = "Q.850;cause=19;text=\"No answer from the desk\"";
    let way = call.psap_invite.uri("Contact").split('@').nth(1).and_then(|a| a.split(';').next()?.parse().ok());
    scene.psap.send(&call.from_psap.request("BYE").with("Reason", reason), way.expect("an address"));
    let (bye, from) = scene.caller.expect_request("BYE");
    assert_eq!(bye.header("Reason"), reason);
    scene.caller.send(&bye.response(200, "OK", ""), from);
    scene.psap.expect_response(200, "BYE");
    scene.settled(&cluster, before + 1, (&call.invite, &call.psap_invite));
    let cdr = cluster.cdrs().pop().expect("its record");
    assert_eq!((&cdr["cause"]["q850"], &cdr["cause"]["origin"]), (&19.into(), &"CAUSE_ORIGIN_CALLEE".into()), "{cdr}");
}

/// RFC 3326 §2: a call that was taken elsewhere is no missed call at the desk.
#[test]
fn the_reason_of_a_cancel_reaches_the_psap() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let invite = scene.invite();
    let (at_psap, from) = scene.ring(&invite, anycast());
    let reason = "SIP;cause=200;text=\"Call completed elsewhere\"";
    scene.caller.send(&invite.cancel().with("Reason", reason), anycast());
    assert_eq!(scene.psap_confirms("CANCEL").header("Reason"), reason);
    scene.psap.send(&at_psap.response(487, "Request Terminated", "psap"), from);
    scene.psap.expect_request("ACK");
    scene.caller.expect_response(200, "CANCEL");
    assert_eq!(scene.caller.final_of(&invite).status(), 487);
    scene.settled(&cluster, before + 1, (&invite, &at_psap));
}

/// RFC 3261 §20.33: when to try again is for the caller, where the user says it. A target's 503 is about that target (§16.7 step 6): passed on,
/// it would take the address of all nodes out of service at whoever is before us.
#[test]
fn retry_after_of_the_psap_reaches_the_caller() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let lunch = "120 (lunch);duration=600";
    for (n, (status, value, told)) in [(480, lunch, (480, lunch)), (503, "1", (500, ""))].into_iter().enumerate() {
        let invite = scene.invite();
        scene.caller.send(&invite, anycast());
        let at_psap = scene.psap.turn_away(invite.uri("From"), status, &[("Retry-After", value)]);
        let refused = scene.caller.final_of(&invite);
        assert_eq!((refused.status(), refused.header("Retry-After")), told);
        scene.settled(&cluster, before + n + 1, (&invite, &at_psap));
    }
}
