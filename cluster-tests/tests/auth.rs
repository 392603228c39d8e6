//! Digest authentication (RFC 7616, RFC 8760) in both directions, with sipp as the one who answers and the one who asks.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use cluster_tests::cluster::{Cluster, Options, PSAP, anycast, unicast};
use cluster_tests::command;
use cluster_tests::message::Message;
use cluster_tests::phone::Phone;
use cluster_tests::sipp::Sipp;

const LIMIT: Duration = Duration::from_secs(30);
const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1));
const SECRET: &str = "wonderland";
const OWN_SECRET: &str = "looking-glass";

/// A cluster whose nodes have secrets, whose callers are challenged, and whose PSAP may challenge it. Everything has a route.
fn cluster() -> Cluster {
    let secrets = command::scratch("secrets");
    fs::create_dir_all(&secrets).expect("the temporary directory is writable");
    fs::write(secrets.join("alice.sip"), SECRET).expect("written");
    fs::write(secrets.join("own.sip"), OWN_SECRET).expect("written");
    let set = format!("node.secrets_dir={}", secrets.display());
    let cluster = Cluster::start(Options { set: vec![set], ..Options::with_own_psap() });
    let old = cluster.config_text();
    let (callers, psap) = ("name = \"callers\"", "name = \"psap\"");
    assert!(old.contains(callers) && old.contains(psap), "{old}");
    // sipp knows MD5 only, and takes the first challenge that it sees.
    let users = "auth = \"digest\"\nauth_algorithms = [\"MD5\"]\nusers = [{ name = \"alice\", secret = \"alice.sip\" }]";
    let own = "credentials = { username = \"sbc\", secret = \"own.sip\" }";
    let text = old.replace(callers, &format!("{callers}\n{users}")).replace(psap, &format!("{psap}\n{own}"));
    cluster.apply_config(&format!("{text}\n[[routes]]\nname = \"all\"\ntrunks = [\"psap\"]\n"));
    cluster
}

#[test]
fn callers_and_the_cluster_prove_who_they_are() {
    let cluster = cluster();
    let ruri = "sip:bob@127.0.0.100:5060";

    // Both ways in one call: sipp proves that it is alice, the cluster that it is sbc.
    let psap = Sipp::scenario("uas-challenges", PSAP.ip(), LIMIT).args(&["-m", "1"]).serve(PSAP);
    let caller =
        Sipp::scenario("uac-auth", CALLER, LIMIT).args(&["-m", "1", "-d", "500", "-key", "ruri", ruri]).to(anycast()).start();
    assert_eq!(caller.succeed().successful, 1, "{}", cluster.logs());
    assert_eq!(psap.succeed().successful, 1);
    cluster.settled(1);
    let cdr = cluster.cdrs().pop().expect("its record");
    assert_eq!(cdr["cause"]["sipStatus"], 200, "{cdr}");

    cluster.apply_config(&cluster.config_text().replace("auth_algorithms = [\"MD5\"]\n", ""));
    // The challenge of one node is answered at another with a wrong password: challenged again, nobody rings.
    let mut phone = Phone::bind("127.0.3.1:0");
    let invite = Message::invite(ruri, phone.at(), "UDP");
    phone.send(&invite, unicast(0));
    let (challenge, _) = phone.expect_final(&invite);
    assert_eq!(challenge.status(), 401);
    let offered: Vec<&str> = challenge.all("WWW-Authenticate").collect();
    assert!(offered[0].contains("SHA-256") && offered[1].contains("MD5"), "{offered:?}");
    let nonce = offered[1].split("nonce=\"").nth(1).and_then(|n| n.split('"').next()).expect("a nonce");
    let realm = offered[1].split("realm=\"").nth(1).and_then(|n| n.split('"').next()).expect("a realm");
    let wrong = format!(
        "Digest username=\"alice\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{ruri}\", algorithm=MD5, \
         response=\"00000000000000000000000000000000\", qop=auth, nc=00000001, cnonce=\"c\""
    );
    let second = Message::invite(ruri, phone.at(), "UDP")
        .replace("Call-ID", invite.header("Call-ID"))
        .replace("From", invite.header("From"))
        .replace("CSeq", "2 INVITE")
        .with("Authorization", &wrong);
    phone.send(&second, unicast(1));
    assert_eq!(phone.expect_final(&second).0.status(), 401);

    // An emergency call is not asked for a password.
    let mut psap = Phone::bind(PSAP);
    let urgent = Message::invite("urn:service:sos", phone.at(), "UDP");
    phone.send(&urgent, anycast());
    let (at_psap, from) = psap.expect_request("INVITE");
    assert_eq!(at_psap.header("Authorization"), "");
    psap.send(&at_psap.response(486, "Busy Here", "p"), from);
    assert_eq!(phone.expect_final(&urgent).0.status(), 486);
    cluster.settled(2);
    // No secret is in a log.
    let logs = cluster.logs();
    assert!(!logs.contains(SECRET) && !logs.contains(OWN_SECRET));
}
