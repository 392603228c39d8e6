//! Whether the addresses that are announced, and those that calls need, are still this machine's, family by family: an interface that went
//! away takes its address along, and sockets do not notice. What is lost of one family takes away that family's routes only.

use std::io::ErrorKind;
use std::net::UdpSocket;

use sbc_core::io::Addresses;

/// Which families can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Families {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

impl Families {
    pub(super) fn has(self, ipv4: bool) -> bool {
        if ipv4 { self.ipv4 } else { self.ipv6 }
    }
}

/// Looks at each address. Other failures than that it is not there (no port left) say nothing about it.
pub(super) fn look(addresses: &[Addresses]) -> Families {
    let mut families = Families { ipv4: true, ipv6: true };
    for ip in addresses.iter().flat_map(Addresses::iter) {
        let gone = UdpSocket::bind((ip, 0)).is_err_and(|e| e.kind() == ErrorKind::AddrNotAvailable);
        let family = if ip.is_ipv4() { &mut families.ipv4 } else { &mut families.ipv6 };
        *family &= !gone;
    }
    families
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn what_is_lost_of_one_family_leaves_the_other() {
        let of = |v4: &str, v6: &str| {
            let [v4, v6]: [IpAddr; 2] = [v4, v6].map(|a| a.parse().unwrap());
            Addresses::pair(v4, v6).expect("one of each")
        };
        let good = of("127.0.0.1", "::1");
        for (addresses, ipv4, ipv6) in [
            (vec![], true, true),
            (vec![good, good], true, true),
            // 2001:db8::/32 and 198.18.0.0/15 are nobody's.
            (vec![good, of("127.0.0.2", "2001:db8:ffff::1")], true, false),
            (vec![of("198.19.255.254", "::1"), good], false, true),
        ] {
            assert_eq!(look(&addresses), Families { ipv4, ipv6 });
        }
    }
}
