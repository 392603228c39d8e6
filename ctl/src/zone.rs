//! The records by which callers find a cluster (RFC 3263): NAPTR to SRV, SRV to hosts, hosts to addresses.
//!
//! The anycast address comes first; the nodes' own addresses have a worse priority (RFC 2782), for those whom the anycast address does not
//! reach. Nothing is said of the domain's own addresses: they may be somebody else's.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use sbc_proto::v1::Node;

/// Host of the anycast addresses, below the domain.
const ANYCAST: &str = "anycast";
/// SRV priorities: of the anycast address, and of the nodes' own.
const FIRST: u16 = 10;
const FALL_BACK: u16 = 20;
/// SRV weight: all of one priority are alike.
const WEIGHT: u16 = 10;
/// NAPTR service, its SRV name below the domain, whether it is TLS. The order is that of preference: UDP needs no connection that a change
/// of routes would break; TLS is for those who ask for it.
const SERVICES: [(&str, &str, bool); 3] =
    [("SIP+D2U", "_sip._udp", false), ("SIP+D2T", "_sip._tcp", false), ("SIPS+D2T", "_sips._tcp", true)];

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Data {
    /// With flag "s" and without a rewriting.
    Naptr {
        order: u16,
        preference: u16,
        service: String,
        target: String,
    },
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
    /// A or AAAA.
    Address(IpAddr),
}

/// One record. Names are absolute, in lower case, with their last dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) name: String,
    pub(crate) data: Data,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} IN ", self.name)?;
        match &self.data {
            Data::Naptr { order, preference, service, target } => {
                write!(f, "NAPTR {order} {preference} \"s\" \"{service}\" \"\" {target}")
            }
            Data::Srv { priority, weight, port, target } => write!(f, "SRV {priority} {weight} {port} {target}"),
            Data::Address(IpAddr::V4(ip)) => write!(f, "A {ip}"),
            Data::Address(IpAddr::V6(ip)) => write!(f, "AAAA {ip}"),
        }
    }
}

/// A domain as records name it, or why it is none (RFC 1035 §2.3.1).
pub(crate) fn domain(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    // Room for the longest name below it.
    if bare.len() > 180 || bare.parse::<IpAddr>().is_ok() || !bare.split('.').all(label) {
        return Err(format!("{text:?} is no domain"));
    }
    Ok(format!("{bare}."))
}

/// The records of a cluster of these nodes. Order: as they are to be read.
pub(crate) fn records(domain: &str, nodes: &[Node]) -> Vec<Record> {
    let mut hosts: Vec<Host> = vec![Host { name: format!("{ANYCAST}.{domain}"), priority: FIRST, at: BTreeSet::new() }];
    for node in nodes {
        let Some(addresses) = &node.addresses else { continue };
        let tls = u16::try_from(addresses.sip_tls_port).ok().filter(|p| *p != 0);
        hosts[0].add(&addresses.anycast, tls);
        let mut own = Host { name: format!("{}.{domain}", host_label(&node.name)), priority: FALL_BACK, at: BTreeSet::new() };
        own.add(&addresses.unicast, tls);
        hosts.push(own);
    }
    let named = |name: &str| format!("{name}.{domain}");
    let naptr = SERVICES.iter().zip((10..).step_by(10)).map(|((service, name, _), order)| Record {
        name: domain.to_owned(),
        data: Data::Naptr { order, preference: 10, service: (*service).to_owned(), target: named(name) },
    });
    let srv = SERVICES.iter().flat_map(|(_, name, secure)| hosts.iter().flat_map(move |h| h.srv(&named(name), *secure)));
    naptr.chain(srv).chain(hosts.iter().flat_map(Host::addresses)).collect()
}

/// The zone file (RFC 1035 §5).
pub(crate) fn file(domain: &str, ttl: u32, records: &[Record]) -> String {
    let mut out =
        format!("; SIP service of {domain} Compare with what is served: sbcctl dns check {domain}\n$ORIGIN {domain}\n$TTL {ttl}");
    for record in records {
        out.push_str(&format!("\n{record}"));
    }
    out
}

/// What a node's name is as a label (RFC 952): no underscore, no dot.
fn host_label(name: &str) -> String {
    name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-").trim_matches('-').to_owned()
}

/// A name with addresses and the ports of SIP there.
struct Host {
    name: String,
    priority: u16,
    /// Address, port for UDP and TCP, port for TLS.
    at: BTreeSet<(IpAddr, u16, Option<u16>)>,
}

impl Host {
    fn add(&mut self, addresses: &[String], tls: Option<u16>) {
        let read = addresses.iter().filter_map(|a| a.parse::<SocketAddr>().ok());
        self.at.extend(read.map(|a| (a.ip(), a.port(), tls)));
    }

    /// One record for each port: mostly one.
    fn srv(&self, service: &str, secure: bool) -> Vec<Record> {
        let ports: BTreeSet<u16> = self.at.iter().filter_map(|(_, port, tls)| if secure { *tls } else { Some(*port) }).collect();
        let record = |port| Record {
            name: service.to_owned(),
            data: Data::Srv { priority: self.priority, weight: WEIGHT, port, target: self.name.clone() },
        };
        ports.into_iter().map(record).collect()
    }

    fn addresses(&self) -> Vec<Record> {
        let ips: BTreeSet<IpAddr> = self.at.iter().map(|(ip, ..)| *ip).collect();
        ips.into_iter().map(|ip| Record { name: self.name.clone(), data: Data::Address(ip) }).collect()
    }
}

/// How what is served differs from what should be: lines for people, empty where it does not.
pub(crate) fn differences(wanted: &[Record], served: &[Record]) -> Vec<String> {
    let (wanted, served): (BTreeSet<_>, BTreeSet<_>) = (wanted.iter().collect(), served.iter().collect());
    let missing = wanted.difference(&served).map(|r| format!("missing: {r}"));
    missing.chain(served.difference(&wanted).map(|r| format!("wrong: {r}"))).collect()
}

#[cfg(test)]
mod tests {
    use sbc_proto::v1::NodeAddresses;

    use super::*;

    fn node(name: &str, unicast: &[&str]) -> Node {
        let list = |all: &[&str]| all.iter().map(|a| (*a).to_owned()).collect();
        let anycast = list(&["198.18.0.1:5060", "[2001:db8::1]:5060"]);
        let addresses = NodeAddresses { anycast, unicast: list(unicast), sip_tls_port: 5061, ..NodeAddresses::default() };
        Node { name: name.to_owned(), addresses: Some(addresses), ..Node::default() }
    }

    #[test]
    fn anycast_first_and_the_nodes_after_it() {
        let nodes = [node("fra_1", &["198.18.0.11:5060", "[2001:db8::11]:5060"]), node("fra-2", &["198.18.0.12:5070"])];
        let zone = records("sip.example.org.", &nodes);
        let text = file("sip.example.org.", 300, &zone);
        let expected = "\
$ORIGIN sip.example.org.
$TTL 300
sip.example.org. IN NAPTR 10 10 \"s\" \"SIP+D2U\" \"\" _sip._udp.sip.example.org.
sip.example.org. IN NAPTR 20 10 \"s\" \"SIP+D2T\" \"\" _sip._tcp.sip.example.org.
sip.example.org. IN NAPTR 30 10 \"s\" \"SIPS+D2T\" \"\" _sips._tcp.sip.example.org.
_sip._udp.sip.example.org. IN SRV 10 10 5060 anycast.sip.example.org.
_sip._udp.sip.example.org. IN SRV 20 10 5060 fra-1.sip.example.org.
_sip._udp.sip.example.org. IN SRV 20 10 5070 fra-2.sip.example.org.
_sip._tcp.sip.example.org. IN SRV 10 10 5060 anycast.sip.example.org.
_sip._tcp.sip.example.org. IN SRV 20 10 5060 fra-1.sip.example.org.
_sip._tcp.sip.example.org. IN SRV 20 10 5070 fra-2.sip.example.org.
_sips._tcp.sip.example.org. IN SRV 10 10 5061 anycast.sip.example.org.
_sips._tcp.sip.example.org. IN SRV 20 10 5061 fra-1.sip.example.org.
_sips._tcp.sip.example.org. IN SRV 20 10 5061 fra-2.sip.example.org.
anycast.sip.example.org. IN A 198.18.0.1
anycast.sip.example.org. IN AAAA 2001:db8::1
fra-1.sip.example.org. IN A 198.18.0.11
fra-1.sip.example.org. IN AAAA 2001:db8::11
fra-2.sip.example.org. IN A 198.18.0.12";
        assert_eq!(text.split_once('\n').expect("a comment").1, expected);
        assert!(text.starts_with("; "));
    }

    #[test]
    fn what_is_missing_and_what_is_wrong() {
        let wanted = records("a.test.", &[node("n", &["198.18.0.11:5060"])]);
        assert!(differences(&wanted, &wanted).is_empty());
        let mut served = wanted.clone();
        served.retain(|r| r.data != Data::Address("198.18.0.11".parse().unwrap()));
        served.push(Record { name: "n.a.test.".into(), data: Data::Address("198.18.0.99".parse().unwrap()) });
        assert_eq!(differences(&wanted, &served), ["missing: n.a.test. IN A 198.18.0.11", "wrong: n.a.test. IN A 198.18.0.99"]);
    }

    #[test]
    fn domains() {
        assert_eq!(domain("SIP.Example.org"), Ok("sip.example.org.".into()));
        assert_eq!(domain("a."), Ok("a.".into()));
        for bad in ["", ".", "a..b", "a b", "a_b", "198.18.0.1", &"a.".repeat(100)] {
            assert!(domain(bad).is_err(), "{bad}");
        }
    }
}
