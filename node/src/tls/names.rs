//! What a certificate calls its bearer, in SIP's terms (RFC 5922).
//!
//! §7.1: a SIP domain is a URI SAN `sip:domain` without a user part, or a DNS SAN; the common name counts for nothing. By the
//! letter a DNS SAN counts only where there is no `sip:` URI. Here either will do: an authority has vouched for both, and a
//! gateway that is dialled by its host name, with its operator's domain as URI, is no impostor. §7.2: names are compared whole;
//! a wildcard is no SIP domain and matches nothing.

use std::net::IpAddr;

use rustls_pki_types::ServerName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names of one certificate that are looked at: a certificate of a content network has a hundred, a gateway's a few.
const NAMES_MAX: usize = 128;
/// Names that a log line shows.
const SHOWN_MAX: usize = 8;
/// Longest name (RFC 1035 §2.3.4); a longer one is no domain.
const NAME_MAX: usize = 255;

/// The names in a certificate that mean something to SIP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SipNames {
    /// Hosts of `sip:` URIs, lower case.
    uris: Vec<Box<str>>,
    /// DNS names, lower case.
    dns: Vec<Box<str>>,
    /// Addresses.
    addresses: Vec<IpAddr>,
}

impl SipNames {
    /// Those of a certificate (DER); none where it, or its list of names, is not well formed.
    pub fn of(cert_der: &[u8]) -> SipNames {
        let mut names = SipNames::default();
        let Ok((_, cert)) = X509Certificate::from_der(cert_der) else { return names };
        let Ok(Some(san)) = cert.subject_alternative_name() else { return names };
        for name in san.value.general_names.iter().take(NAMES_MAX) {
            match name {
                GeneralName::URI(uri) => names.uris.extend(sip_domain(uri)),
                GeneralName::DNSName(dns) if dns.len() <= NAME_MAX => names.dns.push(dns.to_ascii_lowercase().into()),
                GeneralName::IPAddress(octets) => names.addresses.extend(address(octets)),
                _ => {}
            }
        }
        names
    }

    /// True when the bearer is who was asked for: a SIP domain, or an address.
    pub fn bears(&self, wanted: &ServerName<'_>) -> bool {
        match wanted {
            ServerName::DnsName(name) => self.is_domain(name.as_ref()),
            ServerName::IpAddress(ip) => self.has_address(IpAddr::from(*ip)),
            _ => false,
        }
    }

    /// True for an address that stands in it as one.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.addresses.iter().any(|a| a.to_canonical() == ip.to_canonical())
    }

    /// RFC 5922 §7.2: whole, whatever the case. A name in a certificate never equals one with `*` in it by being longer.
    fn is_domain(&self, wanted: &str) -> bool {
        let wanted = wanted.strip_suffix('.').unwrap_or(wanted);
        self.domains().any(|d| d.eq_ignore_ascii_case(wanted))
    }

    /// The SIP domains, `sip:` URIs first, without wildcards.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.uris.iter().chain(&self.dns).map(|d| &**d).filter(|d| !d.contains('*'))
    }

    /// For people: each with its kind, the first few.
    pub fn shown(&self) -> Vec<String> {
        let uris = self.uris.iter().map(|u| format!("URI:sip:{u}"));
        let dns = self.dns.iter().map(|d| match d.contains('*') {
            true => format!("DNS:{d} (a wildcard is no SIP domain)"),
            false => format!("DNS:{d}"),
        });
        let addresses = self.addresses.iter().map(|ip| format!("IP:{ip}"));
        uris.chain(dns).chain(addresses).take(SHOWN_MAX).collect()
    }
}

/// The domain of a URI SAN (RFC 5922 §7.1): scheme `sip` only, and nobody's user part.
fn sip_domain(uri: &str) -> Option<Box<str>> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    let host = rest.split([';', '?']).next().unwrap_or(rest);
    // An address in brackets is no domain.
    let host = host.split(':').next().unwrap_or(host);
    let good = !host.is_empty() && host.len() <= NAME_MAX && !host.starts_with('[');
    good.then(|| host.to_ascii_lowercase().into())
}

/// RFC 5280 §4.2.1.6: four octets or sixteen.
fn address(octets: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(octets).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sip_uri_without_a_user_is_a_domain() {
        for (uri, domain) in [
            ("sip:Example.NET", Some("example.net")),
            ("SIP:example.net:5061;transport=tls", Some("example.net")),
            ("sip:alice@example.net", None),
            ("sips:example.net", None),
            ("spiffe://lab/node/a", None),
            ("sip:", None),
            ("sip:[2001:db8::1]", None),
            ("example.net", None),
        ] {
            assert_eq!(sip_domain(uri).as_deref(), domain, "{uri}");
        }
        assert_eq!(sip_domain(&format!("sip:{}", "x".repeat(300))), None);
    }

    #[test]
    fn names_are_compared_whole() {
        let names = SipNames {
            uris: vec!["example.net".into()],
            dns: vec!["gw.example.net".into(), "*.example.org".into()],
            addresses: vec!["192.0.2.1".parse().unwrap()],
        };
        let bears = |name: &'static str| names.bears(&ServerName::try_from(name).unwrap());
        assert!(bears("example.net") && bears("EXAMPLE.net") && bears("gw.example.net") && bears("gw.example.net."));
        assert!(bears("192.0.2.1") && !bears("192.0.2.2"));
        assert!(!bears("a.example.org") && !bears("example.org") && !bears("x.gw.example.net") && !bears("net"));
        assert!(names.shown()[2].contains("wildcard"), "{:?}", names.shown());
        assert_eq!(names.domains().collect::<Vec<_>>(), ["example.net", "gw.example.net"]);
        assert_eq!(SipNames::of(b"junk"), SipNames::default());
    }
}
