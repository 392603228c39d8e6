//! Challenges of others (RFC 3261 §22.2, §22.3): which to answer, and the answer.

use super::digest::{Algorithm, DigestInputs, Hash, Qop};
use super::fields::Fields;
use super::secret::Secret;
use crate::sip::{HeaderId, Message};

/// Realms answered in one request: a proxy may gather the challenges of a fork (RFC 3261 §22.3).
const MAX_REALMS: usize = 4;
/// Challenges looked at in one response.
const MAX_CHALLENGES: usize = 16;
/// Longest nonce, realm or opaque that is taken: it is kept for the dialog and returned with each request.
const MAX_TEXT: usize = 1024;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthHeader {
    /// 401, WWW-Authenticate: a user agent.
    User,
    /// 407, Proxy-Authenticate: a proxy.
    Proxy,
}

impl AuthHeader {
    /// The status of a challenge.
    pub fn status(self) -> u16 {
        match self {
            AuthHeader::User => 401,
            AuthHeader::Proxy => 407,
        }
    }

    /// The header field of a challenge.
    pub fn asks(self) -> HeaderId {
        match self {
            AuthHeader::User => HeaderId::WwwAuthenticate,
            AuthHeader::Proxy => HeaderId::ProxyAuthenticate,
        }
    }

    /// The header field of the answer.
    pub fn answers(self) -> HeaderId {
        match self {
            AuthHeader::User => HeaderId::Authorization,
            AuthHeader::Proxy => HeaderId::ProxyAuthorization,
        }
    }
}

/// One challenge that we can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Who asks.
    pub header: AuthHeader,
    /// Its protection domain.
    pub realm: Box<str>,
    /// Its nonce.
    pub nonce: Box<str>,
    /// To be returned as it is.
    pub opaque: Option<Box<str>>,
    /// MD5 where none is named.
    pub algorithm: Algorithm,
    /// `qop=auth` is offered.
    pub qop: bool,
    /// The credentials were right, the nonce was too old.
    pub stale: bool,
}

/// The challenges of a 401 or 407 to answer: of each realm the strongest algorithm that we and the secret have, the topmost
/// of equal ones (RFC 8760 §2.4). `realm`: only this one.
pub fn challenges(response: &Message, secret: &Secret, realm: Option<&str>) -> Vec<Challenge> {
    let mut chosen: Vec<Challenge> = Vec::new();
    for header in [AuthHeader::User, AuthHeader::Proxy] {
        for value in response.all(header.asks()).take(MAX_CHALLENGES) {
            let Some(challenge) = read(header, value) else { continue };
            if realm.is_some_and(|r| r != &*challenge.realm) || !secret.allows(challenge.algorithm.hash) {
                continue;
            }
            match chosen.iter().position(|c| c.header == header && c.realm == challenge.realm) {
                Some(at) if challenge.algorithm.hash > chosen[at].algorithm.hash => chosen[at] = challenge,
                None if chosen.len() < MAX_REALMS => chosen.push(challenge),
                _ => {}
            }
        }
    }
    chosen
}

fn read(header: AuthHeader, value: &str) -> Option<Challenge> {
    let fields = Fields::parse(value)?;
    let text = |name| fields.get(name).filter(|v| v.len() <= MAX_TEXT);
    let algorithm = match fields.get("algorithm") {
        None => Algorithm { hash: Hash::Md5, session: false },
        Some(name) => Algorithm::parse(name)?,
    };
    let qop = match fields.get("qop") {
        None => false,
        // Only auth-int: not ours to promise, for others on the way may change the body.
        Some(offered) if !offered.split(',').any(|q| q.trim().eq_ignore_ascii_case("auth")) => return None,
        Some(_) => true,
    };
    Some(Challenge {
        header,
        realm: text("realm")?.into(),
        nonce: text("nonce")?.into(),
        opaque: match fields.get("opaque") {
            None => None,
            Some(_) => Some(text("opaque")?.into()),
        },
        algorithm,
        qop,
        stale: fields.get("stale").is_some_and(|s| s.eq_ignore_ascii_case("true")),
    })
}

impl Challenge {
    /// The value of [`AuthHeader::answers`] for one request. `count`: uses of this nonce with this one. `None`: the secret does
    /// not have the hash.
    pub fn answer(&self, username: &str, secret: &Secret, method: &str, uri: &str, cnonce: &str, count: u32) -> Option<String> {
        let ha1 = secret.ha1(self.algorithm.hash, username, &self.realm)?;
        let nc = format!("{count:08x}");
        let response = DigestInputs {
            algorithm: self.algorithm,
            ha1: &ha1,
            method,
            uri,
            nonce: &self.nonce,
            qop: self.qop.then_some(Qop { cnonce, nc: &nc }),
        }
        .response();
        let (realm, nonce, algorithm) = (&self.realm, &self.nonce, self.algorithm);
        let mut value = format!(
            "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", algorithm={algorithm}"
        );
        if let Some(opaque) = &self.opaque {
            value.push_str(&format!(", opaque=\"{opaque}\""));
        }
        if self.qop {
            value.push_str(&format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\""));
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn response(fields: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>;tag=x\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{fields}Content-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    fn secret() -> Secret {
        let mut secret = Secret::named("s");
        assert!(secret.fill("zanzibar"));
        secret
    }

    #[test]
    fn the_strongest_of_each_realm() {
        let r = response(
            "WWW-Authenticate: Digest realm=\"a\", nonce=\"1\", algorithm=MD5\r\n\
             WWW-Authenticate: Digest realm=\"a\", nonce=\"2\", algorithm=SHA-256, qop=\"auth,auth-int\", opaque=\"o\"\r\n\
             WWW-Authenticate: Digest realm=\"a\", nonce=\"3\", algorithm=SHA-256-sess\r\n\
             WWW-Authenticate: Digest realm=\"a\", nonce=\"4\", algorithm=AKAv1-MD5\r\n\
             WWW-Authenticate: Basic realm=\"a\"\r\n\
             Proxy-Authenticate: Digest realm=\"a\", nonce=\"5\", stale=true\r\n\
             Proxy-Authenticate: Digest realm=\"b\", nonce=\"6\", qop=\"auth-int\"\r\n",
        );
        let chosen = challenges(&r, &secret(), None);
        let seen: Vec<_> = chosen.iter().map(|c| (c.header, &*c.nonce, c.qop, c.stale)).collect();
        assert_eq!(seen, [(AuthHeader::User, "2", true, false), (AuthHeader::Proxy, "5", false, true)]);
        assert_eq!(challenges(&r, &secret(), Some("b")), []);
        // A stored HA1 decides what we can do.
        let mut md5 = Secret::named("m");
        assert!(md5.fill(&format!("HA1 MD5 {}", "0".repeat(32))));
        assert_eq!(&*challenges(&r, &md5, None)[0].nonce, "1");
        assert_eq!(challenges(&r, &Secret::named("missing"), None), []);
    }

    #[test]
    fn the_answer_has_all_that_was_asked_for() {
        let r = response(
            "WWW-Authenticate: Digest realm=\"biloxi.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", qop=\"auth\", opaque=\"5ccc\"\r\n",
        );
        let chosen = challenges(&r, &secret(), Some("biloxi.com"));
        let value = chosen[0].answer("bob", &secret(), "INVITE", "sip:bob@biloxi.com", "0a4f113b", 1).unwrap();
        assert_eq!(
            value,
            "Digest username=\"bob\", realm=\"biloxi.com\", nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"sip:bob@biloxi.com\", \
             response=\"89eb0059246c02b2f6ee02c7961d5ea3\", algorithm=MD5, opaque=\"5ccc\", qop=auth, nc=00000001, cnonce=\"0a4f113b\""
        );
        let tenth = chosen[0].answer("bob", &secret(), "BYE", "sip:bob@biloxi.com", "0a4f113b", 10).unwrap();
        assert!(tenth.contains("nc=0000000a"), "{tenth}");
    }

    #[test]
    fn what_nobody_should_send() {
        let long = "x".repeat(MAX_TEXT + 1);
        let many: String = (0..100).map(|n| format!("WWW-Authenticate: Digest realm=\"{n}\", nonce=\"n\"\r\n")).collect();
        assert_eq!(challenges(&response(&many), &secret(), None).len(), MAX_REALMS);
        for bad in [
            "Digest realm=\"a\"".to_owned(),
            "Digest nonce=\"a\"".to_owned(),
            format!("Digest realm=\"a\", nonce=\"{long}\""),
            format!("Digest realm=\"a\", nonce=\"n\", opaque=\"{long}\""),
        ] {
            assert_eq!(challenges(&response(&format!("WWW-Authenticate: {bad}\r\n")), &secret(), None), []);
        }
    }
}
