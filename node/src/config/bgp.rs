//! `[announce.bgp]`: the speaker, its prefixes, and the routers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use sbc_core::bgp::{COMMUNITIES_MAX, PREPEND_MAX};
use sbc_core::io::Addresses;

use super::reader::{At, Reader, Section};

/// Routers of one site.
const NEIGHBORS_CAP: usize = 16;
/// Prefixes; an operator announces one or two.
const PREFIXES_CAP: usize = 16;

/// `[announce.bgp]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpSection {
    /// The own AS.
    pub asn: u32,
    /// BGP Identifier.
    pub router_id: Ipv4Addr,
    /// Proposed to the routers.
    pub hold_time: Duration,
    /// Between tries.
    pub connect_retry: Duration,
    /// What is announced.
    pub prefixes: Vec<IpNet>,
    /// How many times more the own AS stands in the path.
    pub prepend: u8,
    /// RFC 1997.
    pub communities: Vec<u32>,
    /// RFC 8092.
    pub large_communities: Vec<[u32; 3]>,
    /// Port 179 is listened to.
    pub listen: bool,
    /// The routers; one at least.
    pub neighbors: Vec<BgpNeighbor>,
}

/// `[[announce.bgp.neighbors]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BgpNeighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its AS.
    pub asn: u32,
    /// From where it is dialled.
    pub local: Option<IpAddr>,
    /// A file with the TCP MD5 key.
    pub password_file: Option<PathBuf>,
    /// GTSM.
    pub ttl_security: bool,
    /// For IPv4 prefixes.
    pub next_hop4: Option<Ipv4Addr>,
    /// For IPv6 prefixes.
    pub next_hop6: Option<Ipv6Addr>,
    /// Between BFD packets, and how many may be missed less one.
    pub bfd: Option<(Duration, u8)>,
}

/// `a:b`, or a name of RFC 1997 and RFC 8326.
struct Community(u32);

impl FromStr for Community {
    type Err = ();
    fn from_str(text: &str) -> Result<Community, ()> {
        Ok(Community(match text {
            "no-export" => 0xffff_ff01,
            "no-advertise" => 0xffff_ff02,
            "no-export-subconfed" => 0xffff_ff03,
            "graceful-shutdown" => 0xffff_0000,
            _ => {
                let (high, low) = text.split_once(':').ok_or(())?;
                let half = |s: &str| s.parse::<u16>().map(u32::from).map_err(drop);
                half(high)? << 16 | half(low)?
            }
        }))
    }
}

/// `a:b:c`.
struct LargeCommunity([u32; 3]);

impl FromStr for LargeCommunity {
    type Err = ();
    fn from_str(text: &str) -> Result<LargeCommunity, ()> {
        let parts: Vec<u32> = text.split(':').map(str::parse).collect::<Result<_, _>>().map_err(drop)?;
        parts.try_into().map(LargeCommunity).map_err(drop)
    }
}

/// The table of that name in `[announce]`; `None`: it has faults.
pub(super) fn read(
    reader: &Reader<'_>,
    s: &Section<'_>,
    base: &Path,
    anycast: Option<Addresses>,
    unicast: Option<Addresses>,
) -> Option<BgpSection> {
    let asn = autonomous_system(s);
    let hold = s.number("hold_time_s", 3..=9).unwrap_or(3);
    let retry = s.number("connect_retry_ms", 100..=60_000).unwrap_or(1000);
    let router_id = s.parsed::<Ipv4Addr>("router_id", "an IPv4 address").filter(|id| {
        let zero = id.value.is_unspecified();
        if zero {
            reader.fault_at(id, "the router id must not be 0.0.0.0", "");
        }
        !zero
    });
    let of_unicast = unicast.and_then(|u| u.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }));
    let router_id = match (router_id, of_unicast) {
        (Some(id), _) => Some(id.value),
        (None, Some(ip)) if !s.has("router_id") => Some(ip),
        (None, None) if !s.has("router_id") && unicast.is_some() => {
            s.missing("router_id");
            None
        }
        _ => None,
    };
    let prefixes = prefixes(reader, s, anycast);
    let prepend = s.number("prepend", 0..=PREPEND_MAX.into()).unwrap_or(0);
    let communities = list::<Community>(reader, s, "communities", "a community such as \"65001:100\" or \"no-export\"");
    let large = list::<LargeCommunity>(reader, s, "large_communities", "a large community such as \"65001:1:2\"");
    let listen = s.boolean("listen").unwrap_or(false);
    let neighbors = neighbors(reader, s, base, asn, &prefixes);
    Some(BgpSection {
        asn: asn?,
        router_id: router_id?,
        hold_time: Duration::from_secs(hold),
        connect_retry: Duration::from_millis(retry),
        prefixes,
        prepend: u8::try_from(prepend).ok()?,
        communities: communities.into_iter().map(|c| c.0).collect(),
        large_communities: large.into_iter().map(|c| c.0).collect(),
        listen,
        neighbors: neighbors?,
    })
}

/// RFC 7607: 0 is nobody's. 23456 stands for others (RFC 6793).
fn autonomous_system(s: &Section<'_>) -> Option<u32> {
    if !s.has("as") {
        s.missing("as");
    }
    let asn = s.number("as", 1..=4_294_967_294).and_then(|n| u32::try_from(n).ok())?;
    if asn == 23_456 {
        s.fault("as", "23456 is AS_TRANS, which stands for any AS of four octets", "");
        return None;
    }
    Some(asn)
}

fn list<T: FromStr>(reader: &Reader<'_>, s: &Section<'_>, key: &'static str, what: &str) -> Vec<T> {
    let given = s.strings(key);
    if given.len() > COMMUNITIES_MAX {
        s.fault(key, format!("more than {COMMUNITIES_MAX}"), "");
    }
    let mut out = Vec::new();
    for item in given {
        match item.value.parse() {
            Ok(value) => out.push(value),
            Err(_) => reader.fault_at(&item, format!("expected {what}, found \"{}\"", item.value), ""),
        }
    }
    out
}

/// What is written, or each anycast address alone. Each anycast address must be in one, and each must have one in it.
fn prefixes(reader: &Reader<'_>, s: &Section<'_>, anycast: Option<Addresses>) -> Vec<IpNet> {
    let given = s.strings("prefixes");
    if !s.has("prefixes") {
        return anycast.iter().flat_map(Addresses::iter).map(IpNet::from).collect();
    }
    if given.len() > PREFIXES_CAP {
        s.fault("prefixes", format!("more than {PREFIXES_CAP}"), "");
    }
    let mut out: Vec<IpNet> = Vec::new();
    for item in &given {
        let Ok(prefix) = item.value.parse::<IpNet>() else {
            reader.fault_at(item, format!("expected a prefix such as \"198.18.112.0/24\", found \"{}\"", item.value), "");
            continue;
        };
        if prefix.trunc() != prefix {
            reader.fault_at(item, format!("{prefix} has bits beyond its length"), format!("write \"{}\"", prefix.trunc()));
        } else if out.contains(&prefix) {
            reader.fault_at(item, format!("{prefix} stands there twice"), "");
        } else if anycast.is_some_and(|any| !any.iter().any(|ip| prefix.contains(&ip))) {
            let hint = "the unicast prefix of a node is its router's to announce: a restart of sbcd would withdraw it";
            reader.fault_at(item, format!("no anycast address is in {prefix}"), hint);
        }
        out.push(prefix);
    }
    for ip in anycast.iter().flat_map(Addresses::iter) {
        if !out.iter().any(|prefix| prefix.contains(&ip)) {
            s.fault("prefixes", format!("the anycast address {ip} is in none of them"), "");
        }
    }
    out
}

fn neighbors(
    reader: &Reader<'_>,
    s: &Section<'_>,
    base: &Path,
    own: Option<u32>,
    prefixes: &[IpNet],
) -> Option<Vec<BgpNeighbor>> {
    let listed = s.sections("neighbors");
    if listed.is_empty() {
        s.missing("neighbors");
    }
    if listed.len() > NEIGHBORS_CAP {
        s.fault("neighbors", format!("more than {NEIGHBORS_CAP} routers"), "");
    }
    let mut out: Vec<BgpNeighbor> = Vec::new();
    let mut whole = !listed.is_empty();
    for section in &listed {
        let Some((address, neighbor)) = neighbor(reader, section, base) else {
            whole = false;
            continue;
        };
        if Some(neighbor.asn) == own {
            section.fault("as", "a router of the own AS: iBGP is not spoken", "give the nodes of the site an AS of their own");
        }
        if out.iter().any(|n| n.address == neighbor.address) {
            reader.fault_at(&address, format!("{} is a neighbour twice", neighbor.address), "");
        }
        let next_hop = |ipv4: bool| {
            let own = if ipv4 { neighbor.next_hop4.is_some() } else { neighbor.next_hop6.is_some() };
            own || neighbor.address.is_ipv4() == ipv4
        };
        for ipv4 in [true, false] {
            if !next_hop(ipv4) && prefixes.iter().any(|p| p.addr().is_ipv4() == ipv4) {
                let (family, example) = if ipv4 { ("IPv4", "198.51.100.2") } else { ("IPv6", "2001:db8:1::2") };
                let message = format!("the {family} prefixes need a next hop, for this session has no {family} address");
                reader.fault_at(&address, message, format!("next_hop = [\"{example}\"]"));
            }
        }
        out.push(neighbor);
    }
    whole.then_some(out)
}

fn neighbor<'a>(reader: &Reader<'_>, s: &Section<'a>, base: &Path) -> Option<(At<IpAddr>, BgpNeighbor)> {
    const ADDRESS: &str = "an IP address";
    let address = s.required_parsed::<IpAddr>("address", ADDRESS);
    let asn = autonomous_system(s);
    let port = s.number("port", 1..=65_535).and_then(|p| u16::try_from(p).ok()).unwrap_or(179);
    let local = s.parsed::<IpAddr>("local_address", ADDRESS);
    let password = s.string("password_file");
    let ttl_security = s.boolean("ttl_security").unwrap_or(false);
    let bfd = s.boolean("bfd").unwrap_or(false);
    let interval = s.number("bfd_interval_ms", 10..=10_000);
    let multiplier = s.number("bfd_multiplier", 2..=50);
    if !bfd && (interval.is_some() || multiplier.is_some()) {
        let key = if interval.is_some() { "bfd_interval_ms" } else { "bfd_multiplier" };
        s.fault(key, "it is for BFD, which is off", "bfd = true");
    }
    let (mut next_hop4, mut next_hop6) = (None, None);
    for hop in s.strings("next_hop") {
        match hop.value.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if next_hop4.is_none() => next_hop4 = Some(ip),
            Ok(IpAddr::V6(ip)) if next_hop6.is_none() && !ip.is_unicast_link_local() => next_hop6 = Some(ip),
            _ => {
                let message = format!("expected one address of IPv4, one of IPv6, or both, found \"{}\"", hop.value);
                reader.fault_at(&hop, message, "");
            }
        }
    }
    let address = address?;
    if let Some(local) = &local
        && local.value.is_ipv4() != address.value.is_ipv4()
    {
        reader.fault_at(local, "local_address and address are of different families", "");
    }
    let neighbor = BgpNeighbor {
        address: address.value,
        port,
        asn: asn?,
        local: local.map(|l| l.value),
        password_file: password.map(|p| base.join(p.value)),
        ttl_security,
        next_hop4,
        next_hop6,
        bfd: bfd.then(|| {
            let multiplier = u8::try_from(multiplier.unwrap_or(3)).unwrap_or(3);
            (Duration::from_millis(interval.unwrap_or(50)), multiplier)
        }),
    };
    Some((address, neighbor))
}
