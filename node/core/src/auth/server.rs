//! Our own challenges. A nonce carries its time under a MAC of the cluster key, bound to trunk and source address: each node
//! verifies it from itself alone, so that a request may be challenged by one node and answered at another (AC-29).

use std::net::IpAddr;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use super::client::AuthHeader;
use super::digest::{Algorithm, DigestInputs, Hash, Qop};
use super::fields::Fields;
use super::secret::Secret;
use crate::sip::Message;
use crate::token::ClusterKey;

/// Octets before the MAC: milliseconds since 1970, then a number that makes each nonce another one.
const CLEAR: usize = 16;
/// Octets of a nonce.
const LEN: usize = CLEAR + 16;

/// How a nonce stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceState {
    /// Ours, for this trunk and source, and young enough.
    Fresh([u8; 16]),
    /// Ours once, or not at all: the client is to take a new one.
    Stale,
}

/// A nonce. `salt`: never the same twice for one cluster.
pub fn mint_nonce(key: &ClusterKey, unix_ms: u64, salt: u64, trunk: &str, source: IpAddr) -> String {
    let mut octets = [0; LEN];
    octets[..8].copy_from_slice(&unix_ms.to_be_bytes());
    octets[8..CLEAR].copy_from_slice(&salt.to_be_bytes());
    let mac = mac(key, &octets[..CLEAR], trunk, source);
    octets[CLEAR..].copy_from_slice(&mac);
    HEXLOWER.encode(&octets)
}

/// Whether a nonce is one of ours and not older than `life`. Clocks of nodes may differ: one from the future is as good as one
/// as far in the past.
pub fn check_nonce(key: &ClusterKey, unix_ms: u64, life: Duration, nonce: &str, trunk: &str, source: IpAddr) -> NonceState {
    let Some(octets) = unhex(nonce) else { return NonceState::Stale };
    let mut time = [0; 8];
    time.copy_from_slice(&octets[..8]);
    let expected = mac(key, &octets[..CLEAR], trunk, source);
    let age = Duration::from_millis(u64::from_be_bytes(time).abs_diff(unix_ms));
    if !same(&expected, &octets[CLEAR..]) || age > life {
        return NonceState::Stale;
    }
    NonceState::Fresh(expected)
}

fn mac(key: &ClusterKey, clear: &[u8], trunk: &str, source: IpAddr) -> [u8; 16] {
    let source = source.to_canonical().to_string();
    key.authenticate(&[b"nonce", clear, trunk.as_bytes(), source.as_bytes()])
}

fn unhex(text: &str) -> Option<[u8; LEN]> {
    let mut octets = [0; LEN];
    // The length first: a nonce of a stranger is as long as it likes.
    let fits = text.len() == 2 * LEN;
    (fits && HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut octets).is_ok()).then_some(octets)
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

/// One value of WWW-Authenticate or Proxy-Authenticate.
pub fn our_challenge(realm: &str, hash: Hash, nonce: &str, stale: bool) -> String {
    let stale = if stale { ", stale=true" } else { "" };
    format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", qop=\"auth\", algorithm={}{stale}", hash.name())
}

/// Credentials in a request for our realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Presented<'a> {
    /// Who it claims to be.
    pub username: &'a str,
    /// The nonce it answers.
    pub nonce: &'a str,
    /// Uses of the nonce; 1 where the client does not count.
    pub count: u32,
    response: &'a str,
    uri: &'a str,
    algorithm: Algorithm,
    qop: Option<Qop<'a>>,
}

/// The credentials for `realm`, where the request has any that can be read: for a challenge of this kind, for those for a user agent
/// are none for a proxy (RFC 3261 §22.3).
pub fn presented<'a>(request: &'a Message, asks: AuthHeader, realm: &str) -> Option<Presented<'a>> {
    request.all(asks.answers()).find_map(|value| {
        let fields = Fields::parse(value)?;
        if fields.get("realm") != Some(realm) {
            return None;
        }
        let qop = match (fields.get("qop"), fields.get("cnonce"), fields.get("nc")) {
            (None, _, _) => None,
            (Some(qop), Some(cnonce), Some(nc)) if qop.eq_ignore_ascii_case("auth") => Some(Qop { cnonce, nc }),
            _ => return None,
        };
        let algorithm = match fields.get("algorithm") {
            None => Algorithm { hash: Hash::Md5, session: false },
            Some(name) => Algorithm::parse(name)?,
        };
        Some(Presented {
            username: fields.get("username")?,
            nonce: fields.get("nonce")?,
            // RFC 2069 clients do not count: each of their answers is a first use.
            count: qop.map_or(Some(1), |q| u32::from_str_radix(q.nc, 16).ok())?,
            response: fields.get("response")?,
            uri: fields.get("uri")?,
            algorithm,
            qop,
        })
    })
}

impl Presented<'_> {
    /// Whether the response was made with this secret. `uri` need not be the Request-URI: proxies change that one.
    pub fn proves(&self, secret: &Secret, realm: &str, method: &str) -> bool {
        let Some(ha1) = secret.ha1(self.algorithm.hash, self.username, realm) else { return false };
        let answer =
            DigestInputs { algorithm: self.algorithm, ha1: &ha1, method, uri: self.uri, nonce: self.nonce, qop: self.qop };
        same(answer.response().as_bytes(), self.response.to_ascii_lowercase().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    fn source() -> IpAddr {
        "198.18.10.1".parse().unwrap()
    }

    #[test]
    fn each_node_verifies_what_another_has_minted() {
        let (a, b) = (ClusterKey::new(&[7; 32], None), ClusterKey::new(&[7; 32], None));
        let nonce = mint_nonce(&a, 1_000_000, 5, "callers", source());
        assert!(matches!(check_nonce(&b, 1_299_000, LIFE, &nonce, "callers", source()), NonceState::Fresh(_)));
        assert!(matches!(check_nonce(&b, 999_000, LIFE, &nonce, "callers", source()), NonceState::Fresh(_)), "a slow clock");
        let stale = |key: &ClusterKey, now, nonce: &str, trunk, from: &str| {
            check_nonce(key, now, LIFE, nonce, trunk, from.parse().unwrap()) == NonceState::Stale
        };
        assert!(stale(&b, 1_300_001, &nonce, "callers", "198.18.10.1"), "old");
        assert!(stale(&b, 1_000_000, &nonce, "others", "198.18.10.1"), "another trunk");
        assert!(stale(&b, 1_000_000, &nonce, "callers", "198.18.10.2"), "another source");
        assert!(stale(&ClusterKey::new(&[8; 32], None), 1_000_000, &nonce, "callers", "198.18.10.1"), "another cluster");
        assert_ne!(nonce, mint_nonce(&a, 1_000_000, 6, "callers", source()));
    }

    #[test]
    fn every_mangled_digit_is_noticed() {
        let key = ClusterKey::new(&[7; 32], None);
        let nonce = mint_nonce(&key, 1_000_000, 5, "callers", source());
        for at in 0..nonce.len() {
            let mut other = nonce.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(check_nonce(&key, 1_000_000, LIFE, &other, "callers", source()), NonceState::Stale, "{at}");
        }
        for bad in ["", "zz", &nonce[1..], &format!("{nonce}0"), &"\u{e4}".repeat(32)] {
            assert_eq!(check_nonce(&key, 1_000_000, LIFE, bad, "callers", source()), NonceState::Stale);
        }
    }

    fn request(authorization: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{authorization}Content-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    #[test]
    fn what_a_client_makes_of_our_challenge_proves_the_secret() {
        let mut secret = Secret::named("s");
        assert!(secret.fill("zanzibar"));
        let mut wrong = Secret::named("w");
        assert!(wrong.fill("barzanzi"));
        let kinds = [(AuthHeader::User, AuthHeader::Proxy), (AuthHeader::Proxy, AuthHeader::User)];
        for ((asks, other), hash) in kinds.into_iter().flat_map(|k| [(k, Hash::Md5), (k, Hash::Sha256)]) {
            let challenge = our_challenge("sbc", hash, "abc", false);
            let text = format!(
                "SIP/2.0 {} U\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>;tag=x\r\n\
                 Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{}: {challenge}\r\nContent-Length: 0\r\n\r\n",
                asks.status(),
                asks.asks().name(),
            );
            let response = Message::parse(Bytes::from(text)).unwrap();
            let chosen = super::super::challenges(&response, &secret, None);
            let value = chosen[0].answer("bob", &secret, "INVITE", "sip:112@h", "cn", 0x1f).unwrap();
            let message = request(&format!("{}: {value}\r\n", asks.answers().name()));
            let got = presented(&message, asks, "sbc").unwrap();
            assert_eq!((got.username, got.nonce, got.count), ("bob", "abc", 31));
            assert!(got.proves(&secret, "sbc", "INVITE"));
            assert!(!got.proves(&wrong, "sbc", "INVITE"));
            assert!(!got.proves(&secret, "sbc", "BYE"));
            assert_eq!(presented(&message, asks, "another realm"), None);
            assert_eq!(presented(&message, other, "sbc"), None, "for the other kind of challenge");
        }
    }

    #[test]
    fn unreadable_credentials_are_none() {
        for value in [
            "Digest realm=\"sbc\"",
            "Basic realm=\"sbc\"",
            "Digest realm=\"sbc\", username=\"a\", nonce=\"n\", uri=\"u\", response=\"r\", qop=auth",
            "Digest realm=\"sbc\", username=\"a\", nonce=\"n\", uri=\"u\", response=\"r\", qop=auth, nc=zz, cnonce=\"c\"",
            "Digest realm=\"sbc\", username=\"a\", nonce=\"n\", uri=\"u\", response=\"r\", algorithm=X",
            "Digest realm=\"sbc\", username=\"a\", nonce=\"n\", uri=\"u\", response=\"r\", qop=auth-int, nc=1, cnonce=\"c\"",
        ] {
            assert_eq!(presented(&request(&format!("Authorization: {value}\r\n")), AuthHeader::User, "sbc"), None, "{value}");
        }
        let old = request("Authorization: Digest realm=\"sbc\", username=\"a\", nonce=\"n\", uri=\"u\", response=\"r\"\r\n");
        assert_eq!(presented(&old, AuthHeader::User, "sbc").map(|p| p.count), Some(1));
    }
}
