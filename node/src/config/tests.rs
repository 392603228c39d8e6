//! What is good is read whole; what is bad is shown whole.

use std::path::Path;
use std::time::Duration;

use sbc_core::io::{Realm, Transport};
use sbc_core::policy::{Codecs, IdentityPolicy, MisroutePolicy, PrackPolicy, RouteMatch, Topology};

use super::*;

const NODE: &str = r#"
[node]
name = "node-a"
id = 1
data_dir = "data"
[cluster]
id = "lab"
key_file = "/etc/sbc/cluster.key"
[[cluster.members]]
name = "node-a"
id = 1
peer = "127.0.0.11:7443"
unicast = "127.0.0.11"
core = "127.0.1.11"
[[cluster.members]]
name = "node-b"
id = 2
peer = "127.0.0.12:7443"
unicast = "127.0.0.12"
core = "127.0.1.12"
[sip]
anycast = "127.0.0.100"
unicast = "127.0.0.11"
core = "127.0.1.11"
[tls]
ca = "ca.crt"
cert = "a.crt"
key = "a.key"
[grpc]
listen = "127.0.0.11:7443"
[announce]
driver = "bind"
preference_ms = 100
[media]
engine = "none"
ports = [30000, 30999]
[raft]
heartbeat_ms = 100
election_ms = [500, 900]
[dns]
servers = ["127.0.0.53", "127.0.0.54:5353"]
"#;

const CLUSTER: &str = r#"
[settings]
claim_budget_ms = 200
ring_timeout_s = 60
own_names = ["SBC.example.net", "sos.example.net."]
emergency_ring_timeout_s = 900
session_expires_s = 0
nat_keepalive_s = 0
[emergency]
numbers = ["112", "110"]
[[trunks]]
name = "psap"
realm = "core"
sources = ["127.0.2.1/32"]
targets = ["127.0.2.1:5060;transport=udp", "psap.example.org", "[2001:db8::1]:5070"]
[[trunks]]
name = "callers"
realm = "external"
sources = ["0.0.0.0/0", "::/0"]
misroute = "redirect"
prack = "pass"
session_expires_s = 600
topology = "transparent"
identity = "strip"
codecs = ["PCMA", "opus"]
latching = false
tcp_media = "refuse"
tls_names = ["GW.example.net"]
[[routes]]
name = "emergency"
emergency = true
from_trunk = "callers"
trunks = ["psap"]
"#;

#[test]
fn a_good_node_is_read_whole() {
    let c = NodeConfig::parse(NODE, Path::new("/srv")).unwrap();
    assert_eq!(c.data_dir, Path::new("/srv/data"));
    assert_eq!(c.cluster.key_file, Path::new("/etc/sbc/cluster.key"));
    assert_eq!((c.sip.port, c.sip.tls_port), (5060, 5061));
    assert_eq!(c.this_member().name, "node-a");
    assert_eq!(c.announce.preference, Duration::from_millis(100));
    assert!(c.announce.at_start);
    assert_eq!((c.media.engine, c.media.ports), (MediaEngine::None, [30_000, 30_999]));
    assert_eq!(c.raft.election, [Duration::from_millis(500), Duration::from_millis(900)]);
    assert_eq!(c.raft.lease, Duration::from_secs(2));
    assert_eq!(c.dns_servers, ["127.0.0.53:53".parse().unwrap(), "127.0.0.54:5353".parse().unwrap()]);
}

#[test]
fn a_good_cluster_is_read_whole() {
    let c = parse_cluster(CLUSTER, 7).unwrap();
    assert_eq!((c.revision, c.settings.claim_budget), (7, Duration::from_millis(200)));
    assert_eq!(c.settings.ring_timeout, Duration::from_secs(60));
    assert_eq!(c.settings.emergency_ring_timeout, Duration::from_secs(900));
    assert_eq!((c.settings.session_expires, c.trunks[0].timers.session_expires), (Duration::ZERO, None));
    assert_eq!(c.trunks[1].timers.session_expires, Some(Duration::from_secs(600)));
    assert_eq!(c.settings.nat_keepalive, Duration::ZERO);
    assert_eq!(c.emergency_numbers, ["112".into(), "110".into()]);
    assert_eq!(c.settings.own_names, ["sbc.example.net".into(), "sos.example.net".into()]);
    let psap = &c.trunks[0];
    assert_eq!((psap.realm, psap.misroute, psap.enabled), (Realm::Core, MisroutePolicy::Relay, true));
    assert_eq!(psap.targets[0].transport, Some(Transport::Udp));
    assert_eq!((&*psap.targets[1].host.host, psap.targets[1].host.port), ("psap.example.org", None));
    assert_eq!((&*psap.targets[2].host.host, psap.targets[2].host.port), ("2001:db8::1", Some(5070)));
    assert_eq!(c.trunks[1].misroute, MisroutePolicy::Redirect);
    assert_eq!((psap.prack, c.trunks[1].prack), (PrackPolicy::Offer, PrackPolicy::Pass));
    assert_eq!((psap.topology, c.trunks[1].topology), (Topology::Hide, Topology::Transparent));
    assert_eq!((psap.identity, c.trunks[1].identity), (IdentityPolicy::Trust, IdentityPolicy::Strip));
    assert_eq!((&psap.codecs, &c.trunks[1].codecs), (&None, &Codecs::new(["PCMA".into(), "opus".into()])));
    assert_eq!((psap.media.tcp_media, c.trunks[1].media.tcp_media), (None, Some(sbc_core::policy::MethodPolicy::Refuse)));
    assert_eq!((psap.media.latching, c.trunks[1].media.latching), (None, Some(false)));
    assert_eq!((psap.tls_names.len(), &*c.trunks[1].tls_names), (0, &["gw.example.net".into()][..]));
    assert_eq!(c.settings.shed_at, 90);
    assert_eq!(c.routes[0].matches, [RouteMatch::Emergency(true), RouteMatch::FromTrunk("callers".into())]);
    assert_eq!(parse_cluster("", 0).unwrap(), builtin_cluster());
}

#[test]
fn every_fault_is_shown_at_once() {
    let text = CLUSTER
        .replace("claim_budget_ms = 200", "claim_bugdet_ms = 200")
        .replace("realm = \"core\"", "realm = \"kore\"")
        .replace("127.0.2.1/32", "127.0.2.1/33")
        .replace("psap.example.org", "psap example")
        .replace("trunks = [\"psap\"]", "trunks = [\"spap\"]")
        .replace("\nring_timeout_s = 60", "\nring_timeout_s = 1")
        .replace("session_expires_s = 600", "session_expires_s = 60")
        .replace("codecs = [\"PCMA\", \"opus\"]", "codecs = []")
        .replace("GW.example.net", "*.example.net");
    let faults = parse_cluster(&text, 1).unwrap_err();
    let paths: Vec<&str> = faults.0.iter().map(|f| &*f.path).collect();
    let wanted = [
        "settings.claim_bugdet_ms",
        "settings.ring_timeout_s",
        "trunks[0].realm",
        "trunks[0].sources[0]",
        "trunks[0].targets[1]",
        "trunks[1].session_expires_s",
        "trunks[1].codecs",
        "trunks[1].tls_names[0]",
        "routes[0].trunks[0]",
    ];
    assert_eq!(paths, wanted);
    assert_eq!((faults.0[0].line, faults.0[0].column), (3, 1));
    assert_eq!(faults.0[0].hint, "did you mean `claim_budget_ms`?");
    assert_eq!(faults.0[2].hint, "did you mean `core`?");
    assert_eq!(faults.0[8].hint, "did you mean `psap`?");
    let shown = faults.render("cluster.toml", &text);
    assert!(shown.contains(" --> cluster.toml:3:1\n"), "{shown}");
    assert!(
        shown.contains("3 | claim_bugdet_ms = 200\n  | ^^^^^^^^^^^^^^^\n  = hint: did you mean `claim_budget_ms`?"),
        "{shown}"
    );
    assert!(shown.ends_with("9 faults in the configuration\n"), "{shown}");
}

#[test]
fn node_faults() {
    let faults = |from: &str, to: &str| {
        let text = NODE.replacen(from, to, 1);
        assert_ne!(text, NODE, "{from}");
        let faults = NodeConfig::parse(&text, Path::new("/srv")).unwrap_err();
        faults.0.into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect::<Vec<_>>()
    };
    assert_eq!(faults("name = \"node-a\"", "name = \"node-x\""), ["node.name: the member with id 1 is called \"node-a\""]);
    assert_eq!(faults("[tls]\n", "[tlss]\n"), ["tls: the table [tls] is missing", "tlss: unknown key `tlss`"]);
    assert_eq!(faults("driver = \"bind\"", "driver = \"exec\""), ["announce.command: the driver \"exec\" needs a command"]);
    assert_eq!(faults("ports = [30000, 30999]", "ports = [30999, 30000]"), ["media.ports: 30999 is above 30000"]);
    assert_eq!(faults("anycast = \"127.0.0.100\"", "anycast = \"127.0.0.11\"").len(), 1);
    assert_eq!(faults("election_ms = [500, 900]", "election_ms = [150, 900]").len(), 1);
    assert_eq!(faults("id = 1\ndata", "id = 70000\ndata"), ["node.id: expected a whole number from 1 to 65535, found 70000"]);
    assert_eq!(faults("unicast = \"127.0.0.12\"", "unicast = \"127.0.0.11\"").len(), 1);
    assert_eq!(faults("id = \"lab\"", "id = \"lab\"\nnext_key_file = \"next\"").len(), 1, "without identity_key_file");
    let keys = "id = \"lab\"\nnext_key_file = \"next\"\nidentity_key_file = \"names\"";
    let config = NodeConfig::parse(&NODE.replacen("id = \"lab\"", keys, 1), Path::new("/srv")).unwrap();
    assert_eq!(config.cluster.other_key_files, [Path::new("/srv/next")]);
    assert_eq!(config.cluster.identity_key_file.as_deref(), Some(Path::new("/srv/names")));
}

#[test]
fn addresses_of_both_families() {
    let dual = NODE
        .replace("\"127.0.0.11\"", "[\"127.0.0.11\", \"2001:db8::11\"]")
        .replace("\"127.0.0.100\"", "[\"2001:db8::100\", \"127.0.0.100\"]");
    let config = NodeConfig::parse(&dual, Path::new("/srv")).unwrap();
    assert_eq!(config.sip.anycast.to_string(), "2001:db8::100, 127.0.0.100");
    assert_eq!((config.sip.unicast, config.this_member().unicast), (config.sip.unicast, config.sip.unicast));
    let faults = |from: &str, to: &str| {
        let text = dual.replacen(from, to, 1);
        assert_ne!(text, dual, "{from}");
        let faults = NodeConfig::parse(&text, Path::new("/srv")).unwrap_err();
        faults.0.into_iter().map(|f| format!("{}: {}", f.path, f.message)).collect::<Vec<_>>()
    };
    let anycast = "anycast = [\"2001:db8::100\", \"127.0.0.100\"]";
    let one_of_each = "sip.anycast: expected one address, or one of IPv4 and one of IPv6";
    assert_eq!(faults(anycast, "anycast = [\"127.0.0.99\", \"127.0.0.100\"]"), [one_of_each]);
    assert_eq!(faults(anycast, "anycast = []"), [one_of_each]);
    assert_eq!(faults(anycast, "anycast = [\"x\", 7]").len(), 2);
    assert_eq!(faults(anycast, "anycast = [\"127.0.0.100\", \"2001:db8::11\"]").len(), 1, "it is the unicast address");
    let core = "core = \"127.0.1.12\"\n[sip]";
    assert_eq!(faults(core, "core = \"127.0.1.12\"\n[[cluster.members]]\nname = \"c\"\nid = 3\npeer = \"127.0.0.13:7443\"\nunicast = \"2001:db8::11\"\ncore = \"127.0.1.13\"\n[sip]").len(), 1);
    let single = NODE.replacen("anycast = \"127.0.0.100\"", "anycast = [\"127.0.0.100\", \"2001:db8::100\"]", 1);
    let faults = NodeConfig::parse(&single, Path::new("/srv")).unwrap_err();
    assert_eq!(faults.0[0].message, "the anycast address 2001:db8::100 needs a unicast address of IPv6 beside it");
}

/// `[sip.tls]` after the `[sip]` of [`NODE`].
fn with_sip_tls(table: &str) -> String {
    NODE.replacen("[tls]\n", &format!("[sip.tls]\n{table}[tls]\n"), 1)
}

#[test]
fn sip_may_have_certificates_of_its_own() {
    let read = |table: &str| NodeConfig::parse(&with_sip_tls(table), Path::new("/srv")).map(|c| c.sip.tls);
    assert_eq!(NodeConfig::parse(NODE, Path::new("/srv")).unwrap().sip.tls, None);
    let files = "cert = \"sip.crt\"\nkey = \"/etc/sip.key\"\nca = \"world.crt\"\n";
    let plain = read(files).unwrap().unwrap();
    assert_eq!((&*plain.cert, &*plain.key), (Path::new("/srv/sip.crt"), Path::new("/etc/sip.key")));
    assert_eq!((plain.external, plain.core), (ClientAuth::None, ClientAuth::None));
    let asked = read(&format!("{files}client_auth = {{ external = \"request\", core = \"require\" }}\n")).unwrap().unwrap();
    assert_eq!((asked.external, asked.core), (ClientAuth::Request, ClientAuth::Require));
    let bad = "cert = \"\"\nkeys = \"k\"\nclient_auth = { external = \"required\", cor = \"none\" }\n";
    let faults = read(bad).unwrap_err().0;
    let mut paths: Vec<(&str, &str)> = faults.iter().map(|f| (&*f.path, &*f.hint)).collect();
    paths.sort_unstable();
    let wanted = [
        ("sip.tls.ca", ""),
        ("sip.tls.cert", ""),
        ("sip.tls.client_auth.cor", "did you mean `core`?"),
        ("sip.tls.client_auth.external", "did you mean `require`?"),
        ("sip.tls.key", ""),
        ("sip.tls.keys", "did you mean `key`?"),
    ];
    assert_eq!(paths, wanted);
    assert_eq!(NodeConfig::parse(&NODE.replacen("anycast =", "tls = 1\nanycast =", 1), Path::new("/")).unwrap_err().0.len(), 1);
}

#[test]
fn faults_of_files_stand_at_their_keys() {
    let text = with_sip_tls("cert = \"sip.crt\"\nkey = \"k\"\nca = \"c\"\n");
    let fault = |key| KeyFault { key, message: "no certificate in it".into(), hint: "make one".into() };
    let shown = Faults::at_keys(&text, &[fault("tls.cert"), fault("sip.tls.cert"), fault("no.such.key")]);
    let at = |key: &str| shown.0.iter().find(|f| f.path == key).map(|f| text.lines().nth(f.line - 1).unwrap());
    assert_eq!((at("sip.tls.cert"), at("tls.cert")), (Some("cert = \"sip.crt\""), Some("cert = \"a.crt\"")));
    assert!(shown.render("node.toml", &text).contains("= hint: make one"));
}

#[test]
fn syntax_faults_and_garbage_never_panic() {
    let faults = parse_cluster("[settings\nx = = 1\n", 0).unwrap_err();
    assert_eq!(faults.0[0].line, 1);
    for end in 0..NODE.len() {
        let _ = NodeConfig::parse(&NODE[..end], Path::new("/")).map_err(|f| f.render("x", &NODE[..end]));
    }
    let many: String = (0..1000).map(|i| format!("k{i} = 1\n")).collect();
    assert_eq!(parse_cluster(&many, 0).unwrap_err().0.len(), FAULT_CAP);
}
