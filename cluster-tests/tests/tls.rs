//! SIP over TLS with certificates of other authorities than the cluster's: who is dialled, who may dial, and what happens when a
//! certificate is replaced under a call.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use cluster_tests::cluster::{ANYCAST, Cluster, Options, PSAP, SIPS_PORT, anycast, core, unicast};
use cluster_tests::command::{self, Running};
use cluster_tests::gateway::Gateway;
use cluster_tests::ladder;
use cluster_tests::message::{Dialog, Message, sdp};
use cluster_tests::phone::Phone;
use cluster_tests::pki::{Authority, CertFiles};
use cluster_tests::scene::Scene;
use cluster_tests::stream::StreamPhone;
use cluster_tests::wait;

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 53)), 5353);
/// The PSAP's gateway, and who would like to be it.
const GATEWAY: SocketAddr = SocketAddr::new(PSAP.ip(), SIPS_PORT);
const IMPOSTOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 9)), SIPS_PORT);
/// A host behind the gateway.
const INSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 5)), SIPS_PORT);
/// For a node to have done what a signal or a handshake asks, and to have told its metrics, which are renewed each second.
const SOON: Duration = Duration::from_secs(10);

/// The world outside: an authority that the nodes believe, and their certificate from it.
struct World {
    authority: Authority,
    dir: PathBuf,
    ca: PathBuf,
}

impl World {
    fn new() -> World {
        let dir = command::scratch("world");
        fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let (authority, ca) = (Authority::new("the world's authority"), dir.join("ca.crt"));
        // With another authority before it: the file has several.
        fs::write(&ca, [Authority::new("some other authority").pem(), authority.pem()].concat()).expect("a file");
        let world = World { authority, dir, ca };
        world.node("node");
        world
    }

    /// A certificate for all nodes' addresses.
    fn node(&self, stem: &str) -> CertFiles {
        let ips: Vec<String> = (0..3).map(|n| unicast(n).ip().to_string()).chain([ANYCAST.to_string()]).collect();
        let cores: Vec<String> = (0..3).map(|n| core(n).ip().to_string()).collect();
        let names: Vec<&str> = ips.iter().chain(&cores).map(String::as_str).collect();
        self.authority.issue(&self.dir, stem, &names, &[])
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// To be called before anything is bound: it waits for the tests of other programs to be gone. Nodes with `[sip.tls]`: the core side wants certificates, the external side asks for them. Trunk `psap` has this target.
fn cluster(world: &World, target: &str) -> Cluster {
    let at = |name: &str| world.dir.join(name).display().to_string();
    let set = vec![
        format!("sip.tls.cert={}", at("node.crt")),
        format!("sip.tls.key={}", at("node.key")),
        format!("sip.tls.ca={}", at("ca.crt")),
        "sip.tls.client_auth.external=request".to_owned(),
        "sip.tls.client_auth.core=require".to_owned(),
        format!("dns.servers=[\"{DNS}\"]"),
    ];
    let cluster = Cluster::start(Options { set, ..Options::with_own_psap() });
    let config = cluster.config_text();
    let literal = format!("\"{}\"", by_udp());
    assert!(config.contains(&literal), "{config}");
    cluster.apply_config(&config.replace(&literal, &format!("\"{target}\"")));
    cluster
}

fn sips(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(to.ip(), SIPS_PORT)
}

fn by_udp() -> String {
    format!("{PSAP};transport=udp")
}

/// How many handshakes of all nodes ended so.
fn handshakes(cluster: &Cluster, direction: &str, outcome: &str) -> u64 {
    let name = format!("sbc_tls_handshakes_total{{direction=\"{direction}\",outcome=\"{outcome}\"}}");
    (0..3).map(|node| cluster.metric(node, &name)).sum()
}

/// The SIP domain psap.test is served, says its NAPTR, by hosts of another domain: first one that is not PSAP's, then its own.
fn dns_server() -> Running {
    let mut dnsmasq = Command::new("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--no-resolv", "--no-hosts"]);
    dnsmasq.args(["--local=/test/", "--local=/example/", "--bind-interfaces", "--except-interface=none", "--local-ttl=60"]);
    dnsmasq.arg(format!("--listen-address={}", DNS.ip())).arg(format!("--port={}", DNS.port()));
    dnsmasq.arg("--naptr-record=psap.test,10,10,s,SIPS+D2T,,_sips._tcp.desk.example");
    dnsmasq.arg(format!("--srv-host=_sips._tcp.desk.example,impostor.example,{},10,0", IMPOSTOR.port()));
    dnsmasq.arg(format!("--srv-host=_sips._tcp.desk.example,gateway.example,{},20,0", GATEWAY.port()));
    dnsmasq.arg(format!("--host-record=impostor.example,{}", IMPOSTOR.ip()));
    dnsmasq.arg(format!("--host-record=gateway.example,{}", GATEWAY.ip()));
    dnsmasq.arg(format!("--host-record=psap.test,{}", GATEWAY.ip())).arg(format!("--host-record=inside.example,{}", INSIDE.ip()));
    let mut server = command::spawn(&mut dnsmasq).expect("dnsmasq is there: deploy/setup.sh test installs it");
    wait::until("dnsmasq serves", Duration::from_secs(10), || {
        assert!(server.is_running(), "{}", server.stderr());
        UdpSocket::bind(DNS).map_or(Ok(()), |_| Err("the port is free"))
    });
    server
}

/// Answers the INVITE that comes on a connection, with a Contact at `host`. Returns it, and the dialogs of both.
fn answered(gateway: &mut StreamPhone, caller: &mut Phone, invite: &Message, host: &str) -> (Message, Dialog, Dialog) {
    let at_psap = gateway.expect("the INVITE", |m| m.method() == "INVITE");
    assert!(at_psap.header("Via").starts_with("SIP/2.0/TLS "), "{at_psap:?}");
    assert!(at_psap.start.starts_with("INVITE sip:112@psap.test "), "the domain, no host of it: {}", at_psap.start);
    let answer = at_psap.response(200, "OK", "psap").with("Contact", &format!("<sip:psap@{host};transport=tls>"));
    let answer = answer.with_sdp(sdp(SocketAddr::new(PSAP.ip(), 42_000), 1, "sendrecv"));
    gateway.send(&answer);
    let (ok, _) = caller.expect_response(200, "INVITE");
    let from_caller = Dialog::of_caller(invite, &ok, caller.at(), "UDP");
    caller.send(&from_caller.ack(1), anycast());
    let from_psap = Dialog::of_callee(&at_psap, &answer, GATEWAY).over("TLS");
    (at_psap, from_caller, from_psap)
}

/// A whole call that the PSAP answers and ends, on its connection. Returns the INVITE of the caller and what the PSAP got.
fn call_at(gateway: &mut StreamPhone, caller: &mut Phone, host: &str) -> (Message, Message) {
    let invite = Message::invite("sip:112@127.0.0.100", caller.at(), "UDP");
    caller.send(&invite, anycast());
    let (at_psap, _, mut dialog) = answered(gateway, caller, &invite, host);
    gateway.expect("the ACK on the same connection", |m| m.method() == "ACK");
    gateway.send(&dialog.request("BYE"));
    let (bye, from) = caller.expect_request("BYE");
    caller.send(&bye.response(200, "OK", ""), from);
    gateway.expect_response(200, "BYE");
    (invite, at_psap)
}

/// RFC 5922 §7, RFC 3263 §4: the certificate must bear the domain that the trunk names, whatever the DNS makes of it.
#[test]
fn a_trunk_by_name_is_who_its_certificate_says() {
    let world = World::new();
    let cluster = cluster(&world, "psap.test");
    let _dns = dns_server();
    // Believed, and with all the names but the right one; a wildcard is none.
    let names = ["impostor.example", "desk.example", "*.test", "127.0.2.9"];
    let impostor = Gateway::bind(IMPOSTOR, &world.authority.issue(&world.dir, "impostor", &names, &["sip:desk.example"]));
    // The domain stands only in the URI.
    let own = world.authority.issue(&world.dir, "gateway", &["gateway.example"], &["sip:psap.test"]);
    let gateway = Gateway::bind(GATEWAY, &own);
    let mut caller = Phone::bind("127.0.3.1:0");

    let invite = Message::invite("sip:112@127.0.0.100", caller.at(), "UDP");
    caller.send(&invite, anycast());
    let refused = impostor.accept().map(|(_, name)| name);
    assert!(refused.is_err(), "the node took the wrong name: {refused:?}");
    let (mut phone, name) = gateway.accept().expect("the right name");
    assert_eq!(name.as_deref(), Some("psap.test"));
    let (at_psap, mut dialog, _) = answered(&mut phone, &mut caller, &invite, &GATEWAY.to_string());
    phone.expect("the ACK on the same connection", |m| m.method() == "ACK");
    caller.send(&dialog.request("BYE"), anycast());
    let bye = phone.expect("the BYE", |m| m.method() == "BYE");
    phone.send(&bye.response(200, "OK", ""));
    caller.expect_response(200, "BYE");
    ladder::settled(&cluster, 1, (&mut caller, &invite), (&mut phone, &at_psap));
    wait::until_equal("counted", SOON, &(1, 1), || {
        (handshakes(&cluster, "opened", "certificate"), handshakes(&cluster, "opened", "identified"))
    });
    let log = log(&cluster);
    let line = log.lines().find(|l| l.contains("TLS handshake failed: the far end's certificate")).expect("it is logged");
    assert!(line.contains("psap.test") && line.contains("DNS:desk.example") && line.contains("wildcard"), "{line}");

    // The next call: the impostor is held down, and the connection is there, whatever the host is called in Contact.
    let (invite, at_psap) = call_at(&mut phone, &mut caller, &format!("gateway.example:{SIPS_PORT}"));
    ladder::settled(&cluster, 2, (&mut caller, &invite), (&mut phone, &at_psap));
}

/// RFC 3261 §12.2.1.1, RFC 5922 §7.1: a Contact that names another host is a next hop of its own, and proves its own name.
#[test]
fn a_contact_at_another_host_proves_that_hosts_name() {
    let world = World::new();
    let cluster = cluster(&world, &format!("psap.test:{SIPS_PORT};transport=tls"));
    let _dns = dns_server();
    let gateway = Gateway::bind(GATEWAY, &world.authority.issue(&world.dir, "gateway", &["psap.test"], &[]));
    let inside = Gateway::bind(INSIDE, &world.authority.issue(&world.dir, "inside", &["inside.example"], &[]));
    let mut caller = Phone::bind("127.0.3.1:0");
    let invite = Message::invite("sip:112@127.0.0.100", caller.at(), "UDP");
    caller.send(&invite, anycast());
    let (mut first, _) = gateway.accept().expect("the right name");
    let (at_psap, mut dialog, _) = answered(&mut first, &mut caller, &invite, &format!("inside.example:{SIPS_PORT}"));
    let (mut phone, name) = inside.accept().expect("its own name");
    assert_eq!(name.as_deref(), Some("inside.example"));
    phone.expect("the ACK", |m| m.method() == "ACK");
    caller.send(&dialog.request("BYE"), anycast());
    let bye = phone.expect("the BYE", |m| m.method() == "BYE");
    phone.send(&bye.response(200, "OK", ""));
    caller.expect_response(200, "BYE");
    for host in [&mut first, &mut phone] {
        ladder::settled(&cluster, 1, (&mut caller, &invite), (host, &at_psap));
    }
}

/// The whole log of all nodes.
fn log(cluster: &Cluster) -> String {
    let mut cat = Command::new("sh");
    cat.args(["-c", "find \"$0\" -name '*.log' -exec cat {} +"]).arg(cluster.dir());
    command::run(&mut cat, SOON).expect("logs are files").stdout
}

/// SIGHUP to the first node, and how often it has then read its certificates again.
fn hang_up_on(cluster: &Cluster, outcome: &str, wanted: u64) {
    let pid = cluster.pid(0).expect("the node runs").to_string();
    command::run(Command::new("kill").args(["-HUP", &pid]), SOON).expect("kill").ok("kill -HUP");
    let name = format!("sbc_certificate_reloads_total{{outcome=\"{outcome}\"}}");
    wait::until_equal(&name, SOON, &wanted, || cluster.metric(0, &name));
}

/// The node answers on a connection: OPTIONS, whatever the answer.
fn is_served(phone: &mut StreamPhone) -> bool {
    let options = Message::invite("sip:127.0.0.100", phone.at(), "TLS");
    let options = Message { start: options.start.replacen("INVITE", "OPTIONS", 1), ..options };
    let options = options.replace("CSeq", "1 OPTIONS");
    phone.try_send_raw(&options.bytes()).is_ok() && phone.wait(Duration::from_secs(5), |m| m.status() >= 200).is_some()
}

/// All or nothing, bad → good works, and who talks meanwhile notices nothing.
#[test]
fn a_certificate_is_replaced_under_a_call() {
    let world = World::new();
    let cluster = cluster(&world, &by_udp());
    let to = sips(unicast(0));
    let mut psap = Phone::bind(PSAP);
    let mut caller = StreamPhone::tls(to, &world.ca);
    let invite = Message::invite("sip:112@127.0.0.100", caller.at(), "TLS");
    caller.send(&invite);
    let (at_psap, from) = psap.expect_request("INVITE");
    let answer = Scene::answer(&at_psap);
    psap.send(&answer, from);
    let ok = caller.expect_response(200, "INVITE");
    let mut dialog = Dialog::of_caller(&invite, &ok, caller.at(), "TLS");
    caller.send(&dialog.ack(1));
    psap.expect_request("ACK");

    let first = caller.certificate().expect("a node has one").to_vec();
    let fresh = world.node("fresh");
    // The certificate without its key.
    fs::copy(&fresh.cert, world.dir.join("node.crt")).expect("a file");
    hang_up_on(&cluster, "refused", 1);
    let mut other = StreamPhone::tls(to, &world.ca);
    assert_eq!(other.certificate(), Some(&*first), "a bad set changes nothing");
    assert!(is_served(&mut other));
    fs::copy(&fresh.key, world.dir.join("node.key")).expect("a file");
    hang_up_on(&cluster, "swapped", 1);
    let mut other = StreamPhone::tls(to, &world.ca);
    assert_eq!(other.certificate(), Some(&*fresh.der()), "the new one");
    assert!(is_served(&mut other));

    // The call goes on, both ways, over the connection of before.
    let mut from_psap = Dialog::of_callee(&at_psap, &answer, PSAP);
    psap.send(&from_psap.request("INFO"), from);
    let info = caller.expect("INFO", |m| m.method() == "INFO");
    caller.send(&info.response(200, "OK", ""));
    psap.expect_response(200, "INFO");
    caller.send(&dialog.request("BYE"));
    let (bye, from) = psap.expect_request("BYE");
    psap.send(&bye.response(200, "OK", ""), from);
    caller.expect_response(200, "BYE");
    ladder::settled(&cluster, 1, (&mut caller, &invite), (&mut psap, &at_psap));
    assert!(log(&cluster).contains("nothing is read again"), "the reason is logged");
}

/// `client_auth`: the core side will have nobody without a certificate, the external side takes whom it gets.
#[test]
fn clients_show_certificates_where_they_must() {
    let world = World::new();
    let cluster = cluster(&world, &by_udp());
    let known = world.authority.issue(&world.dir, "known", &["gw.example"], &["sip:psap.test"]);
    let stranger = Authority::new("nobody").issue(&world.dir, "stranger", &["gw.example"], &[]);
    let served = |to, own: Option<&CertFiles>| StreamPhone::tls_as(to, &world.ca, own).is_ok_and(|mut p| is_served(&mut p));
    let (inside, outside) = (sips(core(0)), sips(unicast(0)));
    assert!(served(inside, Some(&known)));
    assert!(!served(inside, None));
    assert!(!served(inside, Some(&stranger)));
    assert!(served(outside, Some(&known)));
    assert!(served(outside, None));
    assert!(!served(outside, Some(&stranger)));
    wait::until_equal("each is counted", SOON, &[2, 1, 3], || {
        ["identified", "anonymous", "certificate"].map(|outcome| handshakes(&cluster, "accepted", outcome))
    });
}

/// `tls_names`: a trunk's source is not enough, its connection must have proved one of its names.
#[test]
fn a_trunk_may_be_known_by_its_certificate() {
    let world = World::new();
    let cluster = cluster(&world, &by_udp());
    let named = "name = \"callers\"\n";
    let config = cluster.config_text();
    assert!(config.contains(named), "{config}");
    cluster.apply_config(&config.replace(named, &format!("{named}tls_names = [\"partner.example\"]\n")));
    let partner = world.authority.issue(&world.dir, "partner", &["sbc7.example"], &["sip:partner.example"]);
    let other = world.authority.issue(&world.dir, "other", &["sbc8.example"], &["sip:else.example"]);
    let mut psap = Phone::bind(PSAP);

    let mut plain = Phone::bind("127.0.3.1:0");
    let invite = Message::invite("sip:112@127.0.0.100", plain.at(), "UDP");
    plain.send(&invite, unicast(0));
    assert_eq!(plain.expect_final(&invite).0.status(), 403);
    for own in [None, Some(&other)] {
        let mut phone = StreamPhone::tls_as(sips(unicast(0)), &world.ca, own).expect("asked for, not needed");
        phone.send(&Message::invite("sip:112@127.0.0.100", phone.at(), "TLS"));
        phone.expect_response(403, "INVITE");
    }
    let mut phone = StreamPhone::tls_as(sips(unicast(0)), &world.ca, Some(&partner)).expect("believed");
    phone.send(&Message::invite("sip:112@127.0.0.100", phone.at(), "TLS"));
    let (at_psap, from) = psap.expect_request("INVITE");
    psap.send(&at_psap.response(486, "Busy Here", "psap"), from);
    phone.expect_response(486, "INVITE");
}
