//! `sbcctl route explain` says what then happens to real calls, and the lists show what is configured.

use cluster_tests::cluster::{Cluster, Options, PSAP, SETTLE, Shared, anycast, list, unicast};
use cluster_tests::command::scratch;
use cluster_tests::message::Message;
use cluster_tests::scene::Scene;
use cluster_tests::wait;

fn cluster() -> Shared {
    Cluster::shared(Options::with_own_psap())
}

/// What is said of an INVITE of the scene's caller to this URI.
fn explained(cluster: &Cluster, uri: &str) -> serde_json::Value {
    cluster.json(&["route", "explain", uri, "--source", "127.0.3.1"])
}

#[test]
fn what_is_explained_happens() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let found = explained(&cluster, "sip:112@127.0.0.100");
    assert_eq!((&found["service"], &found["refused"]), (&"sos".into(), &false.into()), "{found}");
    let targets = list(&found, "targets");
    assert!(targets[0]["target"].as_str().is_some_and(|t| t.starts_with(&PSAP.to_string())), "{found}");
    let trunk = found["trunk"].as_str().expect("a trunk").to_owned();
    let mut call = scene.established(anycast());
    let live = cluster.call(call.ok.header("Call-ID"), "CALL_STATE_ANSWERED");
    assert_eq!((&live["trunk"], &live["emergencyInfo"]["service"]), (&trunk.as_str().into(), &"sos".into()));
    scene.hang_up(&mut call, anycast());
    cluster.settled(before + 1);
}

#[test]
fn a_changed_route_is_explained_and_taken() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let before = cluster.cdrs().len();
    let (nowhere, old) = ("sip:+49-89-1@127.0.0.100", cluster.config_text());
    let found = explained(&cluster, nowhere);
    assert_eq!(
        (&found["status"], &found["reason"], &found["dialled"]),
        (&404.into(), &"no route matches".into(), &"+49891".into())
    );
    let invite = scene.invite().to_uri(nowhere);
    scene.caller.send(&invite, anycast());
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 404);
    cluster.settled(before + 1);

    let more = "\n[[routes]]\nname = \"munich\"\nprefix = \"+4989\"\nfrom_trunk = \"office\"\ntrunks = [\"psap\"]\n\
                \n[[routes]]\nname = \"bavaria\"\nprefix = \"+49\"\ntrunks = [\"psap\"]\n\
                \n[[trunks]]\nname = \"office\"\nrealm = \"external\"\nsources = [\"192.0.2.0/24\"]\n";
    cluster.apply_config(&format!("{old}{more}"));
    let shown = cluster.ctl(&["route", "explain", nowhere, "--source", "127.0.3.1"]).stdout;
    for says in
        ["route munich: no match\n  from_trunk = \"office\", but it comes from", "route bavaria: taken\n  -> psap 127.0.2.1:5060"]
    {
        assert!(shown.contains(says), "{shown}");
    }
    // From the office the first one is taken, and the second is never reached.
    let office = cluster.json(&["route", "explain", nowhere, "--trunk", "office"]);
    let outcomes: Vec<_> = list(&office, "routes").iter().rev().take(2).map(|r| r["outcome"].clone()).collect();
    assert_eq!(outcomes, ["ROUTE_OUTCOME_SHADOWED", "ROUTE_OUTCOME_TAKEN"], "{office}");
    // A whole message from a file, its lines as an editor writes them.
    let file = scratch("invite.sip");
    let invite = scene.invite().to_uri(nowhere);
    std::fs::write(&file, String::from_utf8(invite.bytes()).expect("text").replace("\r\n", "\n")).expect("writable");
    let path = file.to_str().expect("scratch paths are UTF-8");
    let found = cluster.json(&["route", "explain", "--message", path, "--source", "127.0.3.1"]);
    assert_eq!((&found["requestUri"], &found["refused"]), (&nowhere.into(), &false.into()));
    std::fs::remove_file(&file).expect("it is ours");
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    scene.psap.send(&at_psap.response(486, "Busy Here", "p"), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 486);
    let trunks = cluster.json(&["trunk", "list"]);
    let psap = list(&trunks, "trunks").into_iter().find(|t| t["name"] == "psap").expect("it is there");
    assert!(list(&psap, "routes").contains(&"bavaria".into()), "{psap}");
    let shown = cluster.ctl(&["route", "show", "munich"]).stdout;
    assert!(shown.contains("prefix = \"+4989\", from_trunk = \"office\""), "{shown}");
    assert_eq!(cluster.json(&["trunk", "show", "office"])["sources"][0], "192.0.2.0/24");
    cluster.apply_config(&old);
    cluster.settled(before + 2);
}

/// What the message itself is refused for, in the order of the entry: the status that is explained is the one that is heard.
#[test]
fn a_whole_message_is_judged_as_the_entry_does() {
    const ORDINARY: &str = "sip:service@127.0.0.100";
    const URGENT: &str = "sip:112@127.0.0.100";
    let (cluster, mut scene) = (cluster(), Scene::new());
    let file = scratch("judged.sip");
    let path = file.to_str().expect("scratch paths are UTF-8");
    let explain = |message: &Message, source: &str| {
        std::fs::write(&file, message.bytes()).expect("writable");
        cluster.json(&["route", "explain", "--message", path, "--source", source])
    };
    let at = scene.caller.at();
    let invite = |uri: &str| Message::invite(uri, at, "UDP");
    let foreign = |uri: &str| invite(uri).with("Route", "<sip:elsewhere.example;lr>");
    for (status, message) in [
        (483, invite(URGENT).replace("Max-Forwards", "0")),
        (420, invite(ORDINARY).with("Proxy-Require", "x").replace("Max-Forwards", "0")),
        (403, foreign(ORDINARY)),
        (422, invite(ORDINARY).with("Supported", "timer").with("Session-Expires", "30")),
        (488, invite(ORDINARY).with_sdp(b"v=0\r\nno description\r\n".to_vec())),
        (415, invite(ORDINARY).with("Content-Encoding", "gzip")),
        (400, invite(ORDINARY).with("Replaces", "rubbish")),
        (481, invite(ORDINARY).with("Replaces", "x@y;to-tag=1;from-tag=2")),
    ] {
        let found = explain(&message, "127.0.3.1");
        assert_eq!((&found["refused"], &found["status"]), (&true.into(), &status.into()), "{found}");
        scene.caller.send(&message, anycast());
        assert_eq!(scene.caller.expect_final(&message).0.status(), status, "{found}");
    }
    // No answer at all: the ping behind it shows that the node had it.
    let scan = invite(ORDINARY).with("User-Agent", "friendly-scanner");
    let found = explain(&scan, "127.0.3.1");
    assert_eq!((&found["refused"], &found["status"]), (&true.into(), &0.into()), "{found}");
    scene.caller.send(&scan, unicast(0));
    scene.caller.ping(unicast(0));
    assert!(!scene.caller.is_answered(&scan));
    // An emergency call is refused for none of it.
    let urgent = foreign(URGENT).with("Proxy-Require", "x").with("User-Agent", "friendly-scanner");
    assert_eq!(explain(&urgent, "127.0.3.1")["refused"], false);
    scene.caller.send(&urgent, anycast());
    scene.psap.turn_away(urgent.uri("From"), 486, &[]);
    assert_eq!(scene.caller.final_of(&urgent).status(), 486);

    cluster.ctl(&["policy", "block", "127.0.3.77", "--yes"]);
    wait::until("the block counts", SETTLE, || {
        let found = explain(&invite(ORDINARY), "127.0.3.77");
        let blocked = found["refused"] == true && found["reason"].as_str().is_some_and(|r| r.contains("blocked"));
        if blocked { Ok(()) } else { Err(found) }
    });
    assert_eq!(explain(&invite(URGENT), "127.0.3.77")["refused"], false);
    cluster.ctl(&["policy", "unblock", "127.0.3.77"]);
    std::fs::write(&file, scene.caller.alone("OPTIONS", unicast(0)).bytes()).expect("writable");
    let options = cluster.try_ctl(&["route", "explain", "--message", path, "--source", "127.0.3.1"]);
    assert!(options.code == Some(2) && options.stderr.contains("only an INVITE"), "{}", options.stderr);
    std::fs::remove_file(&file).expect("it is ours");
}

#[test]
fn numbers_and_names_that_are_not_there() {
    let cluster = cluster();
    assert!(cluster.ctl(&["number", "list"]).stdout.contains("112"));
    let found = cluster.json(&["number", "lookup", "1-1-2"]);
    assert_eq!((&found["dialled"], &found["number"]["service"]), (&"112".into(), &"sos".into()), "{found}");
    assert_eq!(cluster.ctl(&["number", "lookup", "4711"]).stdout, "4711: no emergency number\n");
    for (arguments, code, says) in [
        (&["route", "show", "nowhere"][..], 6, "`sbcctl route list`"),
        (&["trunk", "show", "nowhere"], 6, "`sbcctl trunk list`"),
        (&["route", "explain", "sip:112@x", "--trunk", "nowhere"], 6, "there is no trunk nowhere"),
        (&["route", "explain", "sip:112@x"], 2, "--source"),
        (&["route", "explain", "--source", "127.0.3.1"], 2, "--message"),
        (&["route", "explain", "no uri", "--source", "127.0.3.1"], 2, "request_uri"),
        (&["number", "lookup", "one"], 2, "number"),
    ] {
        let done = cluster.try_ctl(arguments);
        assert_eq!((done.code, done.stdout.as_str()), (Some(code), ""), "{arguments:?}: {}", done.stderr);
        assert!(done.stderr.contains(says), "{arguments:?}: {}", done.stderr);
    }
}

#[test]
fn header_rules_are_tried_and_then_shape_real_messages() {
    let (cluster, mut scene) = (cluster(), Scene::new());
    let (before, old) = (cluster.cdrs().len(), cluster.config_text());
    let rules = "\n[[header_rules]]\nname = \"site\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"add\"\nheader = \"X-Site\"\n\
                 value = \"alpha\"\nmethods = [\"INVITE\"]\n";
    cluster.apply_config(&format!("{old}{rules}"));
    let invite = scene.invite();
    let file = scratch("tried.sip");
    std::fs::write(&file, invite.bytes()).expect("writable");
    let path = file.to_str().expect("scratch paths are UTF-8");
    let shown = cluster.ctl(&["policy", "test-message", path, "--from", "callers", "--to", "psap"]).stdout;
    for says in ["class: emergency\n", "rule site: add X-Site (out of psap)\n", "\nX-Site: alpha\n"] {
        assert!(shown.contains(says), "{shown}");
    }
    let other = cluster.json(&["policy", "test-message", path, "--from", "psap", "--to", "callers"]);
    assert!(list(&other, "applied").is_empty(), "{other}");
    let nowhere = cluster.try_ctl(&["policy", "test-message", path, "--from", "callers", "--to", "nowhere"]);
    assert_eq!(nowhere.code, Some(6), "{}", nowhere.stderr);
    std::fs::remove_file(&file).expect("it is ours");
    scene.caller.send(&invite, anycast());
    let (at_psap, from) = scene.psap.expect_request("INVITE");
    assert_eq!(at_psap.header("X-Site"), "alpha");
    scene.psap.send(&at_psap.response(486, "Busy Here", "p"), from);
    assert_eq!(scene.caller.expect_final(&invite).0.status(), 486);
    cluster.apply_config(&old);
    cluster.settled(before + 1);
}
