//! What an operator does to three real nodes, and does wrong: configurations that would take no calls, request ids used twice, reloads.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{Cluster, NODES, Options, grpc, list};
use cluster_tests::command::{self, Finished, scratch};
use cluster_tests::{process, wait};

/// For what follows from an order: a proposal, a Tick of the leader, an election.
const SEEN: Duration = Duration::from_secs(30);
/// A command that nobody holds up; process start and TLS on a busy machine included.
const PROMPT: Duration = Duration::from_secs(4);

/// The cluster of this program: a test leaves it with the configuration that it found.
fn cluster() -> impl std::ops::Deref<Target = Cluster> {
    Cluster::shared(Options::with_phone())
}

/// Runs `sbcctl config VERB FILE ...` with a text.
fn config(cluster: &Cluster, verb: &str, text: &str, more: &[&str]) -> Finished {
    let file = scratch("cluster.toml");
    fs::write(&file, text).expect("the temporary directory is writable");
    let done = cluster.try_ctl(&[&["config", verb, file.to_str().expect("scratch paths are UTF-8")], more].concat());
    let _ = fs::remove_file(&file);
    done
}

#[track_caller]
fn fails(done: &Finished, code: i32, says: &str) {
    assert_eq!(done.code, Some(code), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains(says), "{says:?} is not in: {}", done.stderr);
}

fn second_trunk(text: &str) -> String {
    format!("{text}\n[[trunks]]\nname = \"second\"\nrealm = \"external\"\nsources = [\"0.0.0.0/0\"]\n")
}

#[test]
fn a_configuration_that_silences_112_is_applied_by_force_only() {
    let cluster = cluster();
    let good = cluster.config_text();
    // 112 and 911 still have routes by their user part, whom they reach by name has none.
    let unrouted = good.replace("emergency = true", "user = \"nobody\"");
    assert_ne!(unrouted, good, "the configuration is as the test expects it");
    for (text, says) in [
        (String::new(), "no trunk has sources"),
        (unrouted, "urn:service:sos"),
        (second_trunk(&good), "\"second\" never matches"),
    ] {
        let validated = config(&cluster, "validate", &text, &[]);
        assert_eq!(validated.code, Some(1), "{text}");
        assert!(validated.stdout.contains(says), "{}", validated.stdout);
        fails(&config(&cluster, "apply", &text, &["--yes"]), 1, "CONFIG_NEEDS_FORCE");
        fails(&config(&cluster, "apply", &text, &["--yes", "--validate-only"]), 1, says);
    }
    assert_eq!(cluster.config_text(), good);
    config(&cluster, "validate", &good, &[]).ok("the development configuration is good");
    config(&cluster, "apply", &second_trunk(&good), &["--yes", "--force"]).ok("config apply --force");
    cluster.apply_config(&good);
}

#[test]
fn what_nobody_confirms_is_taken_back_though_the_node_that_took_the_order_is_dead() {
    let cluster = cluster();
    let good = cluster.config_text();
    // The node that is asked, which may lead as well, is gone before the time is up.
    config(&cluster, "apply", "", &["--yes", "--force", "--confirm-within", "12s", "--endpoint", &grpc(0)]).ok("config apply");
    cluster.kill(0);
    let other = ["--endpoint", &grpc(1)];
    let text = || {
        cluster.try_json(&[&["config", "get"], &other[..]].concat()).map(|c| c["text"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(text().unwrap_or_default(), "", "it is in force until then");
    wait::until_equal("the text from before", SEEN, &Some(good.clone()), text);
    let history = list(&cluster.json(&[&["config", "history"], &other[..]].concat()), "revisions");
    assert_eq!(history[0]["author"], "not confirmed in time");
    let events = cluster.ctl(&[&["event", "list"], &other[..]].concat());
    assert!(events.stdout.contains("config-rolled-back"), "{}", events.stdout);
    fails(&cluster.try_ctl(&[&["config", "confirm"], &other[..]].concat()), 7, "NOTHING_TO_CONFIRM");
    cluster.dev(&["heal"]);

    // And what is confirmed stays; a rollback brings back what was.
    let other = format!("{good}\n# a remark\n");
    config(&cluster, "apply", &other, &["--yes", "--confirm-within", "10s"]).ok("config apply");
    cluster.ctl(&["config", "confirm"]);
    let confirmed = list(&cluster.json(&["config", "history"]), "revisions")[0].clone();
    assert_eq!(confirmed["confirmedBy"], "user/admin");
    let revision = confirmed["revision"].as_str().expect("a number").parse::<u64>().expect("a number");
    let before = (revision - 1).to_string();
    assert_eq!(cluster.try_ctl(&["config", "diff", "--revision", &before]).code, Some(9));
    cluster.ctl(&["config", "rollback", &before, "--yes"]);
    assert_eq!(cluster.config_text(), good);
    assert_eq!(cluster.json(&["config", "get", "--revision", &revision.to_string()])["text"], other.as_str());
    assert_eq!(cluster.try_ctl(&["config", "diff", "--revision", &before]).code, Some(0));
}

#[test]
fn a_request_id_that_stands_for_another_change_is_refused() {
    let cluster = cluster();
    let good = cluster.config_text();
    let (one, two) = (format!("{good}\n# one\n"), format!("{good}\n# two\n"));
    let id = ["--yes", "--request-id", "process-test"];
    config(&cluster, "apply", &one, &id).ok("config apply");
    config(&cluster, "apply", &one, &id).ok("the same once more");
    fails(&config(&cluster, "apply", &two, &id), 7, "REQUEST_ID_REUSED");
    assert_eq!(cluster.config_text(), one);
    cluster.apply_config(&good);
}

#[test]
fn a_node_reads_its_own_file_again_all_or_nothing() {
    let cluster = cluster();
    let path = cluster.dir().join("node-b.toml");
    let good = fs::read_to_string(&path).expect("`dev up` has written it");
    let write = |text: &str| fs::write(&path, text).expect("it is ours");
    let reload = || cluster.try_ctl(&["node", "reload", "node-b"]);
    let bad = good.replace("filter = \"info\"", "filtr = \"info\"");
    let other = good.replace("filter = \"info\"", "filter = \"debug\"").replace("preference_ms = 150", "preference_ms = 170");
    assert_ne!(other, good, "the file is as the test expects it");

    write(&bad);
    fails(&reload(), 1, "did you mean `filter`");
    write(&other);
    let done = reload().ok("node reload");
    assert!(done.stdout.contains("log.filter"), "{}", done.stdout);
    assert!(done.stdout.contains("needs a restart: announce.preference_ms"), "{}", done.stdout);
    write(&good.replace("pki/node-b.crt", "pki/nobody.crt"));
    fails(&reload(), 1, "tls.cert");
    write(&good);
    let done = reload().ok("node reload");
    assert!(done.stdout.contains("log.filter") && !done.stdout.contains("restart"), "{}", done.stdout);

    // The signal does the same, and says so in the log.
    let log = cluster.dir().join("node-b.log");
    let hup = |says: &str| {
        let before = fs::read_to_string(&log).unwrap_or_default().len();
        let pid = cluster.pid(1).expect("it runs").to_string();
        command::run(Command::new("kill").args(["-HUP", &pid]), PROMPT).expect("it can be sent").ok("kill -HUP");
        wait::until(says, SEEN, || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            if text[before..].contains(says) { Ok(()) } else { Err(text[before..].to_owned()) }
        });
    };
    write(&bad);
    hup("nothing is read again");
    write(&other);
    hup("announce.preference_ms");
    write(&good);
    hup("configuration and certificates read again");
    assert!(cluster.is_up(1));
}

#[test]
fn wrong_words_are_answered() {
    let cluster = cluster();
    fails(&cluster.try_ctl(&["call", "watch", "1-1-ffff"]), 6, "CALL_NOT_FOUND");
    fails(&cluster.try_ctl(&["call", "list", "--node", "node-x"]), 6, "NODE_NOT_FOUND");
    fails(&cluster.try_ctl(&["call", "show", "nonsense"]), 2, "INVALID_ARGUMENT");
    // The certificate of another cluster: the node does not believe it, though we believe the node.
    let pki = scratch("foreign");
    let pki = pki.to_str().expect("scratch paths are UTF-8");
    for arguments in [
        vec!["pki", "init", "--cluster", "other", "--dir", pki],
        vec!["pki", "issue", "--kind", "user", "--name", "ann", "--role", "admin", "--dir", pki],
    ] {
        cluster.ctl(&arguments);
    }
    let (cert, key) = (format!("{pki}/ann.crt"), format!("{pki}/ann.key"));
    fails(&cluster.try_ctl(&["status", "--cert", &cert, "--key", &key]), 4, "sbcctl pki issue");
    fails(&cluster.try_ctl(&["status", "--ca", &format!("{pki}/ca.crt")]), 4, "--ca");
    let _ = fs::remove_dir_all(pki);
}

#[test]
fn a_ladder_of_before_a_restart_is_told_to_be_gone() {
    let cluster = cluster();
    cluster.dev_call(&[]);
    let record = cluster.cdrs().pop().expect("the call has a record");
    let (uid, owner) = (record["call"].as_str().expect("a uid"), record["owner"].as_str().expect("an owner"));
    cluster.ctl(&["call", "ladder", uid]);
    let n = NODES.iter().position(|name| *name == owner).and_then(|n| u8::try_from(n).ok()).expect("a node");
    cluster.kill(n);
    cluster.dev(&["heal"]);
    fails(&cluster.try_ctl(&["call", "ladder", uid]), 6, "LADDER_NOT_KEPT");
}

#[test]
fn connections_that_say_nothing_shut_nobody_out() {
    let cluster = cluster();
    for port in [7443, 9464] {
        let at = SocketAddr::from(([127, 0, 0, 11], port));
        let silent: Vec<TcpStream> = (0..150).map(|_| TcpStream::connect(at).expect("the node listens")).collect();
        let begin = Instant::now();
        match port {
            7443 => drop(cluster.ctl(&["status", "--endpoint", &grpc(0)])),
            _ => assert!(cluster.metric(0, "sbc_raft_term") > 0),
        }
        assert!(begin.elapsed() < PROMPT, "{:?} at port {port}", begin.elapsed());
        drop(silent);
    }
    // Members have places of their own: nobody has lost the leader.
    let nodes = list(&cluster.json(&["node", "list"]), "nodes");
    assert!(nodes.iter().all(|n| n["health"]["quorum"] == true), "{nodes:?}");
}

#[test]
fn a_location_reaches_the_dispatcher() {
    let cluster = cluster();
    let file = scratch("place.xml");
    let pidf = "<presence xmlns=\"urn:ietf:params:xml:ns:pidf\" xmlns:gp=\"urn:ietf:params:xml:ns:pidf:geopriv10\" \
        xmlns:gml=\"http://www.opengis.net/gml\" entity=\"pres:ann@example.com\"><tuple id=\"t\"><status><gp:geopriv><gp:location-info>\
        <gml:Point srsName=\"urn:ogc:def:crs:EPSG::4326\"><gml:pos>47.123987 8.765432</gml:pos></gml:Point></gp:location-info>\
        <gp:usage-rules/></gp:geopriv></status></tuple></presence>";
    fs::write(&file, pidf).expect("the temporary directory is writable");
    cluster.dev_call(&["--location", file.to_str().expect("scratch paths are UTF-8")]);
    let record = cluster.cdrs().pop().expect("the call has a record");
    let location = cluster.ctl(&["dispatch", "location", record["call"].as_str().expect("a uid"), "-o", "json"]);
    assert!(location.stdout.contains("47.123987"), "{}", location.stdout);
    let _ = fs::remove_file(&file);
}

#[test]
fn daemons_inherit_no_descriptors() {
    let cluster = cluster();
    let own = |n: u8| {
        let pid = cluster.pid(n).expect("it runs");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is ours").flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).map(|to| to.display().to_string()).collect::<Vec<_>>()
    };
    // The lock of the tests, which `flock` hands on to all that it starts, is one of those that `dev up` was given.
    let lock = std::env::temp_dir().join("sbc-cluster-tests.lock").display().to_string();
    for n in 0..3 {
        assert!(!own(n).contains(&lock), "{:?}", own(n));
    }
    assert!(process::bin_dir().join("sbcd").exists());
}
