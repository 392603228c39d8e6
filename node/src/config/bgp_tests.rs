//! `[announce.bgp]`: what it comes to, and each fault at its place.

use std::path::Path;
use std::time::Duration;

use super::{AnnounceDriver, NodeConfig};

const NODE: &str = r#"
[node]
name = "node-a"
id = 1
data_dir = "data"
[cluster]
id = "lab"
key_file = "cluster.key"
[[cluster.members]]
name = "node-a"
id = 1
peer = "198.18.2.18:7443"
unicast = ["198.18.2.18", "2001:db8:2::18"]
core = "198.18.2.20"
[sip]
anycast = ["198.18.112.112", "2001:db8:a::53"]
unicast = ["198.18.2.18", "2001:db8:2::18"]
core = "198.18.2.20"
[tls]
ca = "ca.crt"
cert = "a.crt"
key = "a.key"
[grpc]
listen = "198.18.2.18:7443"
[announce]
driver = "bgp"
[announce.bgp]
as = 65001
[[announce.bgp.neighbors]]
address = "198.51.100.1"
as = 65000
next_hop = ["2001:db8:f::2"]
"#;

fn parse(text: &str) -> NodeConfig {
    NodeConfig::parse(text, Path::new("/srv")).unwrap_or_else(|f| panic!("{}", f.render("node.toml", text)))
}

/// The faults, with the line each points at.
fn faults(from: &str, to: &str) -> Vec<String> {
    let text = NODE.replacen(from, to, 1);
    assert_ne!(text, NODE, "{from}");
    let faults = NodeConfig::parse(&text, Path::new("/srv")).expect_err("it has a fault");
    let line = |n: usize| text.lines().nth(n - 1).unwrap_or_default();
    faults.0.iter().map(|f| format!("{} | {}", line(f.line), f.message)).collect()
}

#[test]
fn what_is_left_out_is_sane() {
    let announce = parse(NODE).announce;
    assert_eq!((announce.driver, announce.at_start, announce.up_after), (AnnounceDriver::Bgp, true, Duration::from_secs(1)));
    let bgp = announce.bgp.unwrap();
    let prefixes: Vec<String> = bgp.prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["198.18.112.112/32", "2001:db8:a::53/128"]);
    assert_eq!((bgp.asn, bgp.router_id.to_string(), bgp.hold_time), (65_001, "198.18.2.18".into(), Duration::from_secs(3)));
    assert!(!bgp.listen && bgp.prepend == 0 && bgp.communities.is_empty() && bgp.large_communities.is_empty());
    let router = &bgp.neighbors[0];
    assert_eq!((router.port, router.asn, router.ttl_security, router.bfd), (179, 65_000, false, None));
    assert_eq!((router.next_hop4, router.next_hop6), (None, Some("2001:db8:f::2".parse().unwrap())));
}

#[test]
fn all_that_can_be_said() {
    let text = NODE
        .replace(
            "as = 65001\n",
            "as = 4200000001\nrouter_id = \"10.0.0.1\"\nhold_time_s = 9\nconnect_retry_ms = 500\nprepend = 2\nlisten = true\n\
             prefixes = [\"198.18.112.0/24\", \"2001:db8:a::/48\"]\n\
             communities = [\"65001:100\", \"no-export\", \"graceful-shutdown\"]\nlarge_communities = [\"4200000001:1:2\"]\n",
        )
        .replace(
            "as = 65000\n",
            "as = 65000\nport = 1790\nlocal_address = \"198.51.100.2\"\npassword_file = \"bgp.key\"\nttl_security = true\nbfd = true\n\
             bfd_interval_ms = 100\nbfd_multiplier = 5\n",
        );
    let bgp = parse(&text).announce.bgp.unwrap();
    assert_eq!(bgp.communities, [65_001 << 16 | 100, 0xffff_ff01, 0xffff_0000]);
    assert_eq!(bgp.large_communities, [[4_200_000_001, 1, 2]]);
    assert_eq!((bgp.hold_time.as_secs(), bgp.connect_retry.as_millis(), bgp.prepend, bgp.listen), (9, 500, 2, true));
    let router = &bgp.neighbors[0];
    assert_eq!(router.password_file.as_deref(), Some(Path::new("/srv/bgp.key")));
    assert_eq!(router.bfd, Some((Duration::from_millis(100), 5)));
    assert_eq!((router.port, router.local.unwrap().to_string(), router.ttl_security), (1790, "198.51.100.2".into(), true));
}

#[test]
fn every_fault_points_at_its_place() {
    let first = |from: &str, to: &str| {
        let found = faults(from, to);
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_iter().next().unwrap()
    };
    let a_s = "as = 65001\n";
    let with = |line: &str| format!("{a_s}{line}\n");
    let rows = [
        (a_s, "".to_owned(), "`as` is missing"),
        (a_s, "as = 0\n".into(), "as = 0 | expected a whole number from 1 to"),
        (a_s, "as = 23456\n".into(), "as = 23456 | 23456 is AS_TRANS"),
        (a_s, with("hold_time_s = 30"), "hold_time_s = 30 | expected a whole number from 3 to 9"),
        (a_s, with("router_id = \"0.0.0.0\""), "router_id = \"0.0.0.0\" | the router id must not be"),
        (a_s, with("communities = [\"1:70000\"]"), "expected a community such as"),
        (a_s, with("large_communities = [\"1:2\"]"), "expected a large community such as"),
        (a_s, with("prepend = 11"), "prepend = 11 | expected a whole number from 0 to 10"),
        (a_s, with("prefixes = [\"198.18.112.0/24\"]"), "the anycast address 2001:db8:a::53 is in none of them"),
        (a_s, with("prefixes = [\"198.18.112.112/24\", \"2001:db8:a::/48\"]"), "has bits beyond its length"),
        (
            a_s,
            with("prefixes = [\"198.18.112.0/24\", \"2001:db8:a::/48\", \"198.18.2.18/32\"]"),
            "no anycast address is in 198.18.2.18/32",
        ),
        (a_s, with("communites = []"), "unknown key `communites`"),
        ("as = 65000\n", "as = 65001\n".into(), "as = 65001 | a router of the own AS"),
        ("as = 65000\n", "as = 65000\nbfd_multiplier = 3\n".into(), "bfd_multiplier = 3 | it is for BFD, which is off"),
        ("as = 65000\n", "as = 65000\nlocal_address = \"2001:db8::1\"\n".into(), "are of different families"),
        ("address = \"198.51.100.1\"", "address = \"router\"".into(), "address = \"router\" | expected an IP address"),
        ("next_hop = [\"2001:db8:f::2\"]\n", "".into(), "the IPv6 prefixes need a next hop"),
        ("\"2001:db8:f::2\"", "\"fe80::1\"".into(), "expected one address of IPv4"),
        ("driver = \"bgp\"", "driver = \"bgpd\"".into(), "expected \"bgp\" or"),
    ];
    for (from, to, expected) in rows {
        let found = faults(from, &to);
        assert!(found.iter().any(|f| f.contains(expected)), "{to}: {found:?}");
    }
    assert!(first(a_s, &with("listen = 1")).starts_with("listen = 1 | expected true or false"));
    let twice = "next_hop = [\"2001:db8:f::2\"]\n[[announce.bgp.neighbors]]\naddress = \"198.51.100.1\"\nas = 65000\n\
                 next_hop = [\"2001:db8:f::2\"]";
    assert!(first("next_hop = [\"2001:db8:f::2\"]", twice).contains("198.51.100.1 is a neighbour twice"));
    let none = faults("[[announce.bgp.neighbors]]\naddress = \"198.51.100.1\"\nas = 65000\nnext_hop = [\"2001:db8:f::2\"]\n", "");
    assert!(none[0].contains("`neighbors` is missing"), "{none:?}");
    let (from, _) = NODE.split_at(NODE.find("[announce.bgp]").expect("it has one"));
    let faults = NodeConfig::parse(from, Path::new("/srv")).expect_err("it has no table");
    assert_eq!((faults.0.len(), faults.0[0].path.as_str()), (1, "announce.driver"));
    assert!(faults.0[0].message.contains("needs the table [announce.bgp]"));
}
