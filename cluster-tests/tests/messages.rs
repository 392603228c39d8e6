//! A text to an emergency service (RFC 3428) from real clients, sipsak and sipp, to the PSAP.

use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast};
use cluster_tests::command;
use cluster_tests::ladder;
use cluster_tests::message::{Message, unique};
use cluster_tests::phone::Phone;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn sipsak_texts_the_psap() {
    let _cluster = Cluster::shared(Options::with_own_psap());
    let mut psap = Phone::bind(PSAP);
    let to = format!("sip:112@{}", anycast());
    let text = Message::request("MESSAGE", &to)
        .with("Via", "SIP/2.0/UDP 127.0.3.1:5998;branch=z9hG4bKtext;rport")
        .with("Max-Forwards", "70")
        .with("From", "<sip:caller@127.0.3.1>;tag=1")
        .with("To", &format!("<{to}>"))
        .with("Call-ID", &unique("text"))
        .with("CSeq", "1 MESSAGE")
        .with("Content-Type", "text/plain");
    let head = String::from_utf8(text.bytes()).expect("text").replace("Content-Length: 0\r\n", "");
    let head = head.strip_suffix("\r\n").expect("an empty line");
    let file = command::scratch("message.sip");
    std::fs::write(&file, format!("{head}Content-Length: 15\r\n\r\nThere is a fire"))
        .expect("the temporary directory is writable");
    let mut sipsak = Command::new("sipsak");
    sipsak.arg("-f").arg(&file).args(["-s", &to]);
    let running = command::spawn(&mut sipsak).expect("sipsak is there: deploy/setup.sh test installs it");
    let (message, from) = psap.expect_request("MESSAGE");
    assert_eq!(message.text(), "There is a fire");
    assert!(message.start.contains(&PSAP.to_string()), "{}", message.start);
    assert!(!String::from_utf8_lossy(&message.bytes()).contains("127.0.0.100"), "rule F");
    psap.send(&message.response(200, "OK", "p"), from);
    let done = running.finish(LIMIT).unwrap_or_else(|e| panic!("{e}"));
    std::fs::remove_file(&file).expect("it is ours");
    assert_eq!(done.code, Some(0), "sipsak has its answer: {}{}", done.stdout, done.stderr);
}

/// Two scenarios that are no call, and leave no record.
fn between(uac: &str, uas: &str, extra: &[&str]) {
    let cluster = Cluster::shared(Options::with_own_psap());
    let before = cluster.cdrs().len();
    ladder::play(&cluster, (uac, uas), "sip:112@127.0.0.100:5060", extra);
    cluster.settled(before);
}

#[test]
fn a_text_crosses_as_it_is() {
    between("uac-message", "uas-message", &[]);
}

#[test]
fn a_text_over_tcp() {
    between("uac-message", "uas-message", &["-t", "t1"]);
}

#[test]
fn a_text_that_the_psap_does_not_read() {
    between("uac-message-refused", "uas-message-refused", &[]);
}

#[test]
fn sipsak_finds_the_cluster_alive() {
    let cluster = Cluster::shared(Options::with_own_psap());
    let to = format!("sip:ping@{}", anycast());
    let done = command::run(Command::new("sipsak").args(["-s", &to]), LIMIT).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(done.code, Some(0), "{}{}{}", done.stdout, done.stderr, cluster.logs());
}
