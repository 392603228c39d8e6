//! The arithmetic of RFC 7616 §3.4, with the hashes of RFC 8760.

use data_encoding::HEXLOWER;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};

/// A hash function (RFC 8760 §2.1), the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hash {
    /// MD5: what most equipment can do.
    Md5,
    /// SHA-256.
    Sha256,
    /// SHA-512/256.
    Sha512,
}

impl Hash {
    /// The name in `algorithm`.
    pub fn name(self) -> &'static str {
        match self {
            Hash::Md5 => "MD5",
            Hash::Sha256 => "SHA-256",
            Hash::Sha512 => "SHA-512-256",
        }
    }

    /// Reads a name, in any case.
    pub fn parse(text: &str) -> Option<Hash> {
        [Hash::Md5, Hash::Sha256, Hash::Sha512].into_iter().find(|h| h.name().eq_ignore_ascii_case(text))
    }

    /// Hexadecimal digits of its result.
    pub fn hex_len(self) -> usize {
        match self {
            Hash::Md5 => 32,
            Hash::Sha256 | Hash::Sha512 => 64,
        }
    }

    /// H() of the parts with a colon between each two, in lower-case hexadecimal digits.
    fn of(self, parts: &[&str]) -> String {
        match self {
            Hash::Md5 => hashed::<Md5>(parts),
            Hash::Sha256 => hashed::<Sha256>(parts),
            Hash::Sha512 => hashed::<Sha512_256>(parts),
        }
    }
}

fn hashed<D: Digest>(parts: &[&str]) -> String {
    let mut hash = D::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            hash.update(b":");
        }
        hash.update(part.as_bytes());
    }
    HEXLOWER.encode(&hash.finalize())
}

/// A value of `algorithm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Algorithm {
    /// The hash.
    pub hash: Hash,
    /// `-sess`: A1 has nonce and cnonce in it.
    pub session: bool,
}

impl Algorithm {
    /// Reads a name, in any case; `None` for one that we have not.
    pub fn parse(text: &str) -> Option<Algorithm> {
        let lower = text.to_ascii_lowercase();
        match lower.strip_suffix("-sess") {
            Some(hash) => Some(Algorithm { hash: Hash::parse(hash)?, session: true }),
            None => Some(Algorithm { hash: Hash::parse(&lower)?, session: false }),
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.hash.name())?;
        if self.session { f.write_str("-sess") } else { Ok(()) }
    }
}

/// H(username:realm:password): what may be stored in place of the password.
pub fn ha1(hash: Hash, username: &str, realm: &str, password: &str) -> String {
    hash.of(&[username, realm, password])
}

/// `qop=auth` with what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qop<'a> {
    /// The client's own nonce.
    pub cnonce: &'a str,
    /// How often the nonce has been used: eight hexadecimal digits.
    pub nc: &'a str,
}

/// All that the response of RFC 7616 §3.4.1 is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestInputs<'a> {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// H(username:realm:password).
    pub ha1: &'a str,
    /// Method of the request.
    pub method: &'a str,
    /// `uri` of the credentials.
    pub uri: &'a str,
    /// The server's nonce, as it stands between its quotes.
    pub nonce: &'a str,
    /// `None`: as in RFC 2069.
    pub qop: Option<Qop<'a>>,
}

impl DigestInputs<'_> {
    /// The value of `response`, without quotes.
    pub fn response(&self) -> String {
        let hash = self.algorithm.hash;
        let session = match (self.algorithm.session, self.qop) {
            (true, Some(qop)) => Some(hash.of(&[self.ha1, self.nonce, qop.cnonce])),
            (true, None) => Some(hash.of(&[self.ha1, self.nonce, ""])),
            (false, _) => None,
        };
        let a1 = session.as_deref().unwrap_or(self.ha1);
        let a2 = hash.of(&[self.method, self.uri]);
        match self.qop {
            Some(Qop { cnonce, nc }) => hash.of(&[a1, self.nonce, nc, cnonce, "auth", &a2]),
            None => hash.of(&[a1, self.nonce, &a2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(hash: Hash) -> Algorithm {
        Algorithm { hash, session: false }
    }

    #[test]
    fn rfc_2617_section_3_5() {
        let ha1 = ha1(Hash::Md5, "Mufasa", "testrealm@host.com", "Circle Of Life");
        let answer = DigestInputs {
            algorithm: plain(Hash::Md5),
            ha1: &ha1,
            method: "GET",
            uri: "/dir/index.html",
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop: Some(Qop { cnonce: "0a4f113b", nc: "00000001" }),
        };
        assert_eq!(ha1, "939e7578ed9e3c518a452acee763bce9");
        assert_eq!(answer.response(), "6629fae49393a05397450978507c4ef1");
        // RFC 2069, as a server without qop wants it.
        assert_eq!(DigestInputs { qop: None, ..answer }.response(), "670fd8c2df070c60b045671b8b24ff02");
    }

    #[test]
    fn rfc_7616_section_3_9_1() {
        for (hash, expected) in [
            (Hash::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Hash::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let ha1 = ha1(hash, "Mufasa", "http-auth@example.org", "Circle of Life");
            let answer = DigestInputs {
                algorithm: plain(hash),
                ha1: &ha1,
                method: "GET",
                uri: "/dir/index.html",
                nonce: "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
                qop: Some(Qop { cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", nc: "00000001" }),
            };
            assert_eq!(answer.response(), expected);
        }
    }

    /// RFC 7616 §3.9.2 with the response of its erratum 4897: the one in the text is no SHA-512/256.
    #[test]
    fn rfc_7616_section_3_9_2() {
        let ha1 = ha1(Hash::Sha512, "J\u{e4}s\u{f8}n Doe", "api@example.org", "Secret, or not?");
        let answer = DigestInputs {
            algorithm: plain(Hash::Sha512),
            ha1: &ha1,
            method: "GET",
            uri: "/doe.json",
            nonce: "5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            qop: Some(Qop { cnonce: "NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v", nc: "00000001" }),
        };
        assert_eq!(answer.response(), "3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5");
    }

    #[test]
    fn a_session_key_has_both_nonces_in_it() {
        let ha1 = ha1(Hash::Md5, "bob", "biloxi.com", "zanzibar");
        let answer = DigestInputs {
            algorithm: Algorithm { hash: Hash::Md5, session: true },
            ha1: &ha1,
            method: "INVITE",
            uri: "sip:bob@biloxi.com",
            nonce: "dcd98b7102dd2f0e8b11d0f600bfb0c093",
            qop: Some(Qop { cnonce: "0a4f113b", nc: "00000001" }),
        };
        // Computed by another implementation of the formula.
        assert_eq!(answer.response(), "e4e4ea61d186d07a92c9e1f6919902e9");
        let plain = DigestInputs { algorithm: plain(Hash::Md5), ..answer };
        assert_eq!(plain.response(), "89eb0059246c02b2f6ee02c7961d5ea3");
    }

    #[test]
    fn algorithm_names() {
        for (text, shown) in
            [("MD5", "MD5"), ("md5-sess", "MD5-sess"), ("SHA-256", "SHA-256"), ("sha-512-256-SESS", "SHA-512-256-sess")]
        {
            assert_eq!(Algorithm::parse(text).map(|a| a.to_string()).as_deref(), Some(shown));
        }
        for unknown in ["", "AKAv1-MD5", "SHA-1", "-sess"] {
            assert_eq!(Algorithm::parse(unknown), None, "{unknown}");
        }
        assert!(Hash::Md5 < Hash::Sha256 && Hash::Sha256 < Hash::Sha512);
    }
}
