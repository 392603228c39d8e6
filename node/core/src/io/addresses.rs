//! The addresses of one role: of one family, or one of each.

use std::net::IpAddr;

/// One address, or an IPv4 and an IPv6 address that serve the same. Packets leave from the one whose family the far end has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    first: IpAddr,
    second: Option<IpAddr>,
}

impl Addresses {
    /// `None`: both are of one family. IPv4-mapped IPv6 addresses count as the IPv4 addresses that they are.
    pub fn pair(first: IpAddr, second: IpAddr) -> Option<Addresses> {
        let (first, second) = (first.to_canonical(), second.to_canonical());
        (first.is_ipv4() != second.is_ipv4()).then_some(Addresses { first, second: Some(second) })
    }

    /// What is meant where no far end decides: the first that was configured.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// All of them, one or two.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.first), self.second].into_iter().flatten()
    }

    /// The address of the family of `other`; `None`: that family is not served.
    pub fn of(&self, other: IpAddr) -> Option<IpAddr> {
        let other = other.to_canonical();
        self.iter().find(|own| own.is_ipv4() == other.is_ipv4())
    }

    /// The address of the family of `other` where there is one, else the first.
    pub fn like(&self, other: IpAddr) -> IpAddr {
        self.of(other).unwrap_or(self.first)
    }

    /// True when `ip` is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.iter().any(|own| own == ip)
    }

    /// True when the two have an address in common.
    pub fn overlaps(&self, other: &Addresses) -> bool {
        self.iter().any(|own| other.contains(own))
    }
}

impl From<IpAddr> for Addresses {
    fn from(ip: IpAddr) -> Addresses {
        Addresses { first: ip.to_canonical(), second: None }
    }
}

impl std::fmt::Display for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.first)?;
        self.second.map_or(Ok(()), |second| write!(f, ", {second}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn the_family_of_the_far_end_decides() {
        let both = Addresses::pair(ip("198.51.100.1"), ip("2001:db8::1")).expect("two families");
        assert_eq!(both.first(), ip("198.51.100.1"));
        assert_eq!((both.like(ip("2001:db8::9")), both.like(ip("10.0.0.1"))), (ip("2001:db8::1"), ip("198.51.100.1")));
        assert_eq!(both.like(ip("::ffff:10.0.0.1")), ip("198.51.100.1"));
        let one = Addresses::from(ip("2001:db8::1"));
        assert_eq!((one.of(ip("10.0.0.1")), one.like(ip("10.0.0.1"))), (None, ip("2001:db8::1")));
        assert_eq!(Addresses::pair(ip("2001:db8::1"), ip("2001:db8::2")), None);
        assert_eq!(Addresses::pair(ip("10.0.0.1"), ip("::ffff:10.0.0.2")), None, "both are IPv4");
    }

    #[test]
    fn what_they_are() {
        let both = Addresses::pair(ip("198.51.100.1"), ip("2001:db8::1")).expect("two families");
        assert!(both.contains(ip("2001:db8::1")) && both.contains(ip("::ffff:198.51.100.1")) && !both.contains(ip("::1")));
        assert!(both.overlaps(&ip("2001:db8::1").into()) && !both.overlaps(&ip("2001:db8::2").into()));
        assert_eq!(both.to_string(), "198.51.100.1, 2001:db8::1");
        assert_eq!(Addresses::from(ip("::1")).iter().collect::<Vec<_>>(), [ip("::1")]);
    }
}
