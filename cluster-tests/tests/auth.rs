//! Digest authentication (RFC 7616, RFC 8760) in both directions, with sipp and hand-made phones as those who answer and those who ask.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, Shared, anycast, unicast};
use cluster_tests::command;
use cluster_tests::digest::{credentials, field, proves};
use cluster_tests::message::{Dialog, Message};
use cluster_tests::phone::Phone;
use cluster_tests::scene::Scene;
use cluster_tests::sipp::Sipp;

const LIMIT: Duration = Duration::from_secs(30);
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
const SECRET: &str = "wonderland";
const OWN_SECRET: &str = "looking-glass";
const RURI: &str = "sip:bob@127.0.0.100:5060";

/// The files with the nodes' secrets.
static SECRETS: LazyLock<PathBuf> = LazyLock::new(|| {
    let secrets = command::scratch("secrets");
    fs::create_dir_all(&secrets).expect("the temporary directory is writable");
    command::write_secret(&secrets.join("alice.sip"), SECRET);
    command::write_secret(&secrets.join("own.sip"), OWN_SECRET);
    secrets
});

fn cluster() -> Shared {
    let set = format!("node.secrets_dir={}", SECRETS.display());
    Cluster::shared(Options { set: vec![set], ..Options::with_own_psap() })
}

/// Callers are challenged, also with `more`, and the PSAP may challenge the cluster. Everything has a route.
fn with_auth(cluster: &Cluster, more: &str, test: impl FnOnce()) {
    let (callers, psap) = ("name = \"callers\"", "name = \"psap\"");
    let users = format!("auth = \"digest\"\n{more}users = [{{ name = \"alice\", secret = \"alice.sip\" }}]");
    let own = "credentials = { username = \"sbc\", secret = \"own.sip\" }";
    let change = |old: &str| {
        assert!(old.contains(callers) && old.contains(psap), "{old}");
        let text = old.replace(callers, &format!("{callers}\n{users}")).replace(psap, &format!("{psap}\n{own}"));
        format!("{text}\n[[routes]]\nname = \"all\"\ntrunks = [\"psap\"]\n")
    };
    cluster.with_config(change, test);
}

/// No secret is in a log.
fn no_secret_is_logged(cluster: &Cluster) {
    let logs = cluster.logs();
    assert!(!logs.contains(SECRET) && !logs.contains(OWN_SECRET));
}

/// sipp knows MD5 only, and takes the first challenge that it sees. Both ways in one call: it proves that it is alice, the cluster that
/// it is sbc.
#[test]
fn callers_and_the_cluster_prove_who_they_are() {
    let cluster = cluster();
    let before = cluster.cdrs().len();
    with_auth(&cluster, "auth_algorithms = [\"MD5\"]\n", || {
        let psap = Sipp::scenario("uas-challenges", PSAP.ip(), LIMIT).args(&["-m", "1"]).serve(PSAP);
        let caller = Sipp::scenario("uac-auth", CALLER, LIMIT).args(&["-m", "1", "-key", "ruri", RURI]).to(anycast()).start();
        assert_eq!(caller.succeed().successful, 1, "{}", cluster.logs());
        assert_eq!(psap.succeed().successful, 1);
        cluster.settled(before + 1);
        let cdr = cluster.cdrs().pop().expect("its record");
        assert_eq!(cdr["cause"]["sipStatus"], 200, "{cdr}");
    });
    no_secret_is_logged(&cluster);
}

/// The same INVITE again with credentials.
fn again(invite: &Message, header: &str, credentials: &str) -> Message {
    let contact = invite.header("Contact").to_owned();
    let second = Message::invite(RURI, contact.split(['@', ';']).nth(1).and_then(|a| a.parse().ok()).expect("an address"), "UDP");
    second
        .replace("Call-ID", invite.header("Call-ID"))
        .replace("From", invite.header("From"))
        .replace("CSeq", &format!("{} INVITE", invite.cseq().0 + 1))
        .with(header, credentials)
}

/// AC-29: what one node asks is answered at another, with each algorithm that is offered: as a server, and as a proxy (RFC 3261 §22.3). A
/// wrong answer is told nothing, a right one for a nonce that no node made that it is stale (RFC 7616 §3.3).
#[test]
fn ac29_a_challenge_of_one_node_is_answered_at_another() {
    let cluster = cluster();
    for (more, status, asks, answers) in [
        ("", 401, "WWW-Authenticate", "Authorization"),
        ("auth_as = \"proxy\"\n", 407, "Proxy-Authenticate", "Proxy-Authorization"),
    ] {
        with_auth(&cluster, more, || asked_at_one_answered_at_another(&cluster, status, asks, answers));
    }
    no_secret_is_logged(&cluster);
}

fn asked_at_one_answered_at_another(cluster: &Cluster, status: u16, asks: &str, answers: &str) {
    let before = cluster.cdrs().len();
    let mut scene = Scene::new();
    let Scene { caller, psap } = &mut scene;
    let challenged = |caller: &mut Phone| {
        let invite = Message::invite(RURI, caller.at(), "UDP");
        caller.send(&invite, unicast(0));
        let challenge = caller.final_of(&invite);
        assert_eq!(challenge.status(), status);
        let offered: Vec<String> = challenge.all(asks).map(str::to_owned).collect();
        assert!(offered.iter().all(|c| field(c, "stale").is_empty()), "{offered:?}");
        let algorithms: Vec<String> = offered.iter().map(|c| field(c, "algorithm")).collect();
        assert_eq!(algorithms, ["SHA-256", "MD5"], "the strongest first (RFC 8760 §2.4)");
        (invite, offered)
    };
    for (n, node) in [(0, 1), (1, 2)] {
        let (invite, offered) = challenged(caller);
        let right = again(&invite, answers, &credentials(&offered[n], "alice", SECRET, "INVITE", RURI));
        caller.send(&right, unicast(node));
        let there = psap.turn_away(invite.uri("From"), 486, &[]);
        assert_eq!(there.header(answers), "", "it is for us alone");
        assert_eq!(caller.final_of(&right).status(), 486, "it rings");
    }

    let (invite, offered) = challenged(caller);
    let answer = |password| credentials(&offered[0], "alice", password, "INVITE", RURI);
    let wrong = again(&invite, answers, &answer("looking-glass"));
    let foreign = offered[0].replace(&field(&offered[0], "nonce"), &"0123456789abcdef".repeat(4));
    let stale = again(&wrong, answers, &credentials(&foreign, "alice", SECRET, "INVITE", RURI));
    for (request, says) in [(&wrong, ""), (&stale, "true")] {
        caller.send(request, unicast(1));
        let refused = caller.final_of(request);
        assert_eq!((refused.status(), field(refused.header(asks), "stale").as_str()), (status, says));
    }

    // An emergency call is not asked for a password.
    let urgent = Message::invite("urn:service:sos", caller.at(), "UDP");
    caller.send(&urgent, anycast());
    let there = psap.turn_away(urgent.uri("From"), 486, &[]);
    assert_eq!(there.header(answers), "");
    assert_eq!(caller.final_of(&urgent).status(), 486);
    // The others were challenged where no call is, and have no ladder of it.
    scene.settled(cluster, before + 3, (&urgent, &there));
}

const PROXY: &str = "Digest realm=\"core-proxy\", nonce=\"p1\", qop=\"auth\", algorithm=SHA-256";
const PROXY_MD5: &str = "Digest realm=\"core-proxy\", nonce=\"p2\", qop=\"auth\", algorithm=MD5";
const DESK: &str = "Digest realm=\"desk\", nonce=\"d1\", qop=\"auth,auth-int\", algorithm=SHA-256";

/// The credentials of a request for this realm, which must be right.
#[track_caller]
fn proven<'a>(request: &'a Message, header: &str, realm: &str, algorithm: &str) -> &'a str {
    let of_realm = |c: &&str| field(c, "realm") == realm;
    let given = request.all(header).find(of_realm).unwrap_or_else(|| panic!("no {header} for {realm}: {request:#?}"));
    assert_eq!((field(given, "algorithm").as_str(), field(given, "username").as_str()), (algorithm, "sbc"), "{given}");
    let uri = request.start.split(' ').nth(1).unwrap_or_default();
    assert_eq!(field(given, "uri"), uri, "{given}");
    assert!(proves(given, OWN_SECRET, request.method()), "{given}");
    given
}

/// A proxy of the core asks (407), by SHA-256 and by MD5, then the desk behind it (401): RFC 3261 §22.3, RFC 8760 §2.4. A call whose
/// proxy gathers both in one response, and one that is asked by one after the other.
#[test]
fn a_proxy_and_the_desk_behind_it_ask_together_and_in_turn() {
    let cluster = cluster();
    for rounds in [
        &[(401, &[("Proxy-Authenticate", PROXY_MD5), ("Proxy-Authenticate", PROXY), ("WWW-Authenticate", DESK)][..])][..],
        &[(407, &[("Proxy-Authenticate", PROXY_MD5), ("Proxy-Authenticate", PROXY)]), (401, &[("WWW-Authenticate", DESK)])],
    ] {
        let before = cluster.cdrs().len();
        with_auth(&cluster, "", || {
            let mut scene = Scene::new();
            let invite = scene.invite();
            scene.caller.send(&invite, anycast());
            let mut cseq = 0;
            for (status, challenges) in rounds {
                let asked = scene.psap.turn_away(invite.uri("From"), *status, challenges);
                assert!(asked.cseq().0 > cseq, "a new transaction each time (RFC 3261 §22.2)");
                cseq = asked.cseq().0;
            }
            let (at_psap, from) = scene.psap.expect_request("INVITE");
            assert!(at_psap.cseq().0 > cseq);
            proven(&at_psap, "Proxy-Authorization", "core-proxy", "SHA-256");
            proven(&at_psap, "Authorization", "desk", "SHA-256");
            scene.psap.send(&Scene::answer(&at_psap), from);
            let (ok, _) = scene.caller.expect_response(200, "INVITE");
            let ack = scene.psap.expect_request("ACK").0;
            // RFC 3261 §22.1: an ACK has the credentials of its INVITE.
            assert_eq!(ack.header("Proxy-Authorization"), at_psap.header("Proxy-Authorization"));
            let mut dialog = Dialog::of_caller(&invite, &ok, scene.caller.at(), "UDP");
            scene.caller.send(&dialog.ack(1), anycast());
            // What was asked once is given at once from then on, with a count of its own.
            scene.caller.send(&dialog.request("BYE"), anycast());
            let bye = scene.psap_confirms("BYE");
            for (header, realm) in [("Proxy-Authorization", "core-proxy"), ("Authorization", "desk")] {
                let count = field(proven(&bye, header, realm, "SHA-256"), "nc");
                assert!(u32::from_str_radix(&count, 16).is_ok_and(|n| n >= 2), "{count}");
            }
            scene.caller.expect_response(200, "BYE");
            scene.settled(&cluster, before + 1, (&invite, &at_psap));
            assert_eq!(cluster.cdrs().pop().expect("its record")["cause"]["sipStatus"], 200);
        });
    }
    no_secret_is_logged(&cluster);
}
