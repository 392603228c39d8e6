//! Sources that are blocked for a while, at every node: what the log says, made ready for a look at each packet.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::Prefix;

/// What is dropped of a blocked source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// What would begin something, but for an emergency call. What is under way goes on.
    Ordinary,
    /// Every packet, before it is read.
    Everything,
}

/// All blocks, by length and network.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    /// Lengths that occur, with the address family.
    lengths: BTreeSet<(bool, u8)>,
    by_network: HashMap<(IpAddr, u8), (Blocked, u64)>,
}

impl Blocks {
    /// From prefix, what, and the end in milliseconds since the Unix epoch (0: none).
    pub fn new(blocks: impl Iterator<Item = (Prefix, Blocked, u64)>) -> Blocks {
        let mut all = Blocks::default();
        for (prefix, what, until) in blocks {
            let prefix = prefix.canonical();
            all.lengths.insert((prefix.addr.is_ipv4(), prefix.len));
            all.by_network.insert((prefix.addr, prefix.len), (what, until));
        }
        all
    }

    /// The worst that is said about a source. The end of a block counts by this node's clock too: without a leader the log's stands still.
    pub fn of(&self, source: IpAddr, unix_ms: u64) -> Option<Blocked> {
        let source = source.to_canonical();
        let mut found = None;
        for &(_, len) in self.lengths.iter().filter(|(v4, _)| *v4 == source.is_ipv4()) {
            let network = Prefix { addr: source, len }.canonical();
            match self.by_network.get(&(network.addr, len)).filter(|(_, until)| *until == 0 || unix_ms < *until) {
                Some((Blocked::Everything, _)) => return Some(Blocked::Everything),
                Some((what, _)) => found = Some(*what),
                None => {}
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_is_said_counts_until_its_end() {
        let p = |text: &str| text.parse::<Prefix>().unwrap();
        let blocks = Blocks::new(
            [
                (p("198.18.10.0/24"), Blocked::Ordinary, 0),
                (p("198.18.10.7"), Blocked::Everything, 1000),
                (p("2001:db8::/32"), Blocked::Ordinary, 500),
            ]
            .into_iter(),
        );
        for (source, at, expected) in [
            ("198.18.10.1", 9999, Some(Blocked::Ordinary)),
            ("198.18.10.7", 999, Some(Blocked::Everything)),
            ("::ffff:198.18.10.7", 999, Some(Blocked::Everything)),
            ("198.18.10.7", 1000, Some(Blocked::Ordinary)),
            ("198.18.11.7", 0, None),
            ("2001:db8:1::1", 499, Some(Blocked::Ordinary)),
            ("2001:db8:1::1", 500, None),
            ("2001:db9::1", 0, None),
        ] {
            assert_eq!(blocks.of(source.parse().unwrap(), at), expected, "{source} {at}");
        }
        assert_eq!(Blocks::default().of("198.18.10.1".parse().unwrap(), 0), None);
    }

    #[test]
    fn a_prefix_has_one_text() {
        for (text, canonical) in [
            ("198.18.10.77/24", Some("198.18.10.0/24")),
            ("198.18.10.77", Some("198.18.10.77/32")),
            ("::ffff:198.18.10.77", Some("198.18.10.77/32")),
            ("::ffff:198.18.10.77/120", Some("198.18.10.0/24")),
            ("2001:DB8::1/32", Some("2001:db8::/32")),
            ("198.18.10.77/33", None),
            ("198.18.10.77/", None),
            ("198.18.10.77/+8", None),
            ("host", None),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
        ] {
            let parsed = text.parse::<Prefix>().ok().map(|p| p.canonical().to_string());
            assert_eq!(parsed.as_deref(), canonical, "{text}");
        }
    }
}
