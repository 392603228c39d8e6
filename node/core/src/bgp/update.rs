//! UPDATE messages that announce or withdraw one prefix (RFC 4271 §4.3, RFC 4760).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::message::{self, AS_TRANS, Family};

/// How many times the own AS may be put before the path beyond the once that eBGP asks for. Longer paths are refused by many networks.
pub const PREPEND_MAX: u8 = 10;
/// Communities of one route, of each kind. So many of both fit into a message with room to spare.
pub const COMMUNITIES_MAX: usize = 32;

/// Well known and transitive.
const WELL_KNOWN: u8 = 0x40;
/// Optional and transitive.
const OPTIONAL_TRANSITIVE: u8 = 0xc0;
/// Optional, not transitive.
const OPTIONAL: u8 = 0x80;
/// The length has two octets.
const EXTENDED: u8 = 0x10;

/// A prefix, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Host bits are zero.
    pub prefix: IpNet,
    /// How many times more than once the own AS stands in the path: a worse path, for a backup.
    pub prepend: u8,
    /// RFC 1997.
    pub communities: Vec<u32>,
    /// RFC 8092: global administrator, two local parts.
    pub large_communities: Vec<[u32; 3]>,
}

impl Route {
    /// The family of the prefix.
    pub fn family(&self) -> Family {
        family(&self.prefix)
    }
}

pub(super) fn family(prefix: &IpNet) -> Family {
    match prefix {
        IpNet::V4(_) => Family::Ipv4,
        IpNet::V6(_) => Family::Ipv6,
    }
}

/// What a session's UPDATEs have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    /// The own AS.
    pub(super) asn: u32,
    /// The router reads four-octet AS paths (RFC 6793).
    pub(super) four_octet_as: bool,
    /// Where packets for IPv4 prefixes go.
    pub(super) next_hop4: Option<Ipv4Addr>,
    /// Where packets for IPv6 prefixes go.
    pub(super) next_hop6: Option<Ipv6Addr>,
}

impl Writer {
    /// The UPDATE that announces a route; `None`: there is no next hop of its family.
    pub(super) fn announce(&self, route: &Route) -> Option<Vec<u8>> {
        let mut attributes = Vec::new();
        let mut nlri = Vec::new();
        if let IpNet::V6(_) = route.prefix {
            // RFC 7606 §5.1: first, so that what follows can be judged by it.
            let mut value = vec![0, Family::Ipv6.afi(), 1, 16];
            value.extend_from_slice(&self.next_hop6?.octets());
            value.push(0);
            put_prefix(&mut value, &route.prefix);
            put(&mut attributes, OPTIONAL, 14, &value);
        }
        put(&mut attributes, WELL_KNOWN, 1, &[0]); // ORIGIN: IGP.
        self.put_path(&mut attributes, route.prepend);
        if let IpNet::V4(_) = route.prefix {
            put(&mut attributes, WELL_KNOWN, 3, &self.next_hop4?.octets());
            put_prefix(&mut nlri, &route.prefix);
        }
        if !route.communities.is_empty() {
            let value: Vec<u8> = route.communities.iter().flat_map(|c| c.to_be_bytes()).collect();
            put(&mut attributes, OPTIONAL_TRANSITIVE, 8, &value);
        }
        if self.needs_as4_path() {
            put(&mut attributes, OPTIONAL_TRANSITIVE, 17, &self.path(route.prepend, |asn| asn.to_be_bytes().to_vec()));
        }
        if !route.large_communities.is_empty() {
            let value: Vec<u8> = route.large_communities.iter().flatten().flat_map(|c| c.to_be_bytes()).collect();
            put(&mut attributes, OPTIONAL_TRANSITIVE, 32, &value);
        }
        Some(whole(&[], &attributes, &nlri))
    }

    /// The UPDATE that withdraws a prefix.
    pub(super) fn withdraw(&self, prefix: &IpNet) -> Vec<u8> {
        let mut octets = Vec::new();
        if let IpNet::V4(_) = prefix {
            put_prefix(&mut octets, prefix);
            return whole(&octets, &[], &[]);
        }
        let mut value = vec![0, Family::Ipv6.afi(), 1];
        put_prefix(&mut value, prefix);
        put(&mut octets, OPTIONAL, 15, &value);
        whole(&[], &octets, &[])
    }

    /// RFC 6793 §4.2.2: an AS that two octets do not hold goes to an old speaker in AS4_PATH.
    fn needs_as4_path(&self) -> bool {
        !self.four_octet_as && u16::try_from(self.asn).is_err()
    }

    fn path(&self, prepend: u8, octets: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
        let count = 1 + prepend.min(PREPEND_MAX);
        let mut value = vec![2, count]; // AS_SEQUENCE.
        (0..count).for_each(|_| value.extend_from_slice(&octets(self.asn)));
        value
    }

    fn put_path(&self, attributes: &mut Vec<u8>, prepend: u8) {
        let value = if self.four_octet_as {
            self.path(prepend, |asn| asn.to_be_bytes().to_vec())
        } else {
            self.path(prepend, |asn| u16::try_from(asn).unwrap_or(AS_TRANS).to_be_bytes().to_vec())
        };
        put(attributes, WELL_KNOWN, 2, &value);
    }
}

fn whole(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |octets: &[u8]| u16::try_from(octets.len()).expect("one prefix and bounded attributes").to_be_bytes();
    let mut body = Vec::new();
    body.extend_from_slice(&length(withdrawn));
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&length(attributes));
    body.extend_from_slice(attributes);
    body.extend_from_slice(nlri);
    message::update(&body)
}

fn put(attributes: &mut Vec<u8>, flags: u8, kind: u8, value: &[u8]) {
    match u8::try_from(value.len()) {
        Ok(length) => attributes.extend_from_slice(&[flags, kind, length]),
        Err(_) => {
            let length = u16::try_from(value.len()).expect("COMMUNITIES_MAX bounds the longest attribute");
            attributes.extend_from_slice(&[flags | EXTENDED, kind]);
            attributes.extend_from_slice(&length.to_be_bytes());
        }
    }
    attributes.extend_from_slice(value);
}

/// RFC 4271 §4.3: the length in bits, and as many octets as hold them.
fn put_prefix(out: &mut Vec<u8>, prefix: &IpNet) {
    let bits = prefix.prefix_len();
    let octets = match prefix.network() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    out.push(bits);
    out.extend_from_slice(&octets[..usize::from(bits).div_ceil(8)]);
}
