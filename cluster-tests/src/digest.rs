//! Digest authentication (RFC 7616) as a far end does it: what a challenge is answered with, and whether an answer is right.
//!
//! Independent of the product's own arithmetic, as [`crate::message`] is of its parser.

use data_encoding::HEXLOWER;
use md5::Md5;
use sha2::{Digest, Sha256};

/// A field of a challenge or of credentials, without its quotes; empty when there is none.
pub fn field(value: &str, name: &str) -> String {
    let mut quoted = false;
    let fields = value.strip_prefix("Digest ").unwrap_or_default().split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    let of = |field: &str| {
        let (key, value) = field.trim().split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    };
    fields.into_iter().find_map(of).unwrap_or_default()
}

/// The answer of a user to a challenge, first use of its nonce, with qop=auth.
pub fn credentials(challenge: &str, user: &str, password: &str, method: &str, uri: &str) -> String {
    let of = |name| field(challenge, name);
    let head = format!(
        "Digest username=\"{user}\", realm=\"{}\", nonce=\"{}\", uri=\"{uri}\", algorithm={}, qop=auth, nc=00000001, cnonce=\"c0\"",
        of("realm"),
        of("nonce"),
        of("algorithm")
    );
    format!("{head}, response=\"{}\"", response(&head, password, method))
}

/// True when these credentials were made with this password, for a request with this method.
pub fn proves(credentials: &str, password: &str, method: &str) -> bool {
    field(credentials, "response") == response(credentials, password, method)
}

/// RFC 7616 §3.4.1 with qop=auth.
fn response(credentials: &str, password: &str, method: &str) -> String {
    let of = |name| field(credentials, name);
    let hash = |parts: &[&str]| match of("algorithm").as_str() {
        "SHA-256" => HEXLOWER.encode(&Sha256::digest(parts.join(":"))),
        _ => HEXLOWER.encode(&Md5::digest(parts.join(":"))),
    };
    let a1 = hash(&[&of("username"), &of("realm"), password]);
    let a2 = hash(&[method, &of("uri")]);
    hash(&[&a1, &of("nonce"), &of("nc"), &of("cnonce"), &of("qop"), &a2])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 7616 §3.9.1.
    #[test]
    fn the_examples_of_the_rfc() {
        let head = "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
                    nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
                    cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth";
        for (algorithm, right) in [
            ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
            ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let credentials = format!("{head}, algorithm={algorithm}, response=\"{right}\"");
            assert!(proves(&credentials, "Circle of Life", "GET"), "{algorithm}");
            assert!(!proves(&credentials, "circle of life", "GET"));
        }
    }

    #[test]
    fn what_is_answered_is_right() {
        let challenge = "Digest realm=\"a, b\", nonce=\"n\", qop=\"auth,auth-int\", algorithm=SHA-256, stale=true";
        assert_eq!((field(challenge, "realm").as_str(), field(challenge, "stale").as_str()), ("a, b", "true"));
        assert_eq!(field(challenge, "opaque"), "");
        let answer = credentials(challenge, "alice", "x", "INVITE", "sip:bob@h");
        assert!(proves(&answer, "x", "INVITE") && !proves(&answer, "y", "INVITE") && !proves(&answer, "x", "BYE"), "{answer}");
    }
}
