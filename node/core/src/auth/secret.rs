//! A secret by its name: the cluster shares the name, each node finds the value in a directory of its own.

use std::sync::Arc;

use super::digest::{Hash, ha1};

/// A password, or what is stored in its place. Nothing formats the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    name: Box<str>,
    value: Option<Arc<Value>>,
}

#[derive(PartialEq, Eq)]
enum Value {
    Password(Box<str>),
    /// H(username:realm:password) by hash.
    Ha1(Vec<(Hash, Box<str>)>),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = if self.is_known() { "known" } else { "missing" };
        write!(f, "Secret({}, {known})", self.name)
    }
}

impl Secret {
    /// A name whose value is not known (yet).
    pub fn named(name: &str) -> Secret {
        Secret { name: name.into(), value: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// False: this node has not found it.
    pub fn is_known(&self) -> bool {
        self.value.is_some()
    }

    /// Takes the content of its file: a password, or lines `HA1 <algorithm> <hexadecimal digits>`. False: it is neither.
    pub fn fill(&mut self, content: &str) -> bool {
        let mut lines = content.lines().map(str::trim).filter(|l| !l.is_empty()).peekable();
        let Some(first) = lines.peek().copied() else { return false };
        if !first.starts_with("HA1 ") {
            // A password may begin or end with a blank; a line break is the editor's.
            let password = content.trim_matches(['\r', '\n']);
            let single = !password.contains(['\r', '\n']);
            self.value = single.then(|| Arc::new(Value::Password(password.into())));
            return single;
        }
        let read = |line: &str| {
            let mut words = line.split_whitespace();
            let (Some("HA1"), Some(hash), Some(hex), None) = (words.next(), words.next(), words.next(), words.next()) else {
                return None;
            };
            let hash = Hash::parse(hash)?;
            let right = hex.len() == hash.hex_len() && hex.bytes().all(|b| b.is_ascii_hexdigit());
            right.then(|| (hash, hex.to_ascii_lowercase().into_boxed_str()))
        };
        let read: Option<Vec<_>> = lines.map(read).collect();
        self.value = read.map(|stored| Arc::new(Value::Ha1(stored)));
        self.is_known()
    }

    /// H(username:realm:password), where the value allows this hash. A stored HA1 is taken as that of this user and realm.
    pub fn ha1(&self, hash: Hash, username: &str, realm: &str) -> Option<String> {
        match self.value.as_deref()? {
            Value::Password(password) => Some(ha1(hash, username, realm, password)),
            Value::Ha1(stored) => stored.iter().find(|(h, _)| *h == hash).map(|(_, hex)| hex.to_string()),
        }
    }

    /// Whether [`Secret::ha1`] has this hash.
    pub fn allows(&self, hash: Hash) -> bool {
        match self.value.as_deref() {
            None => false,
            Some(Value::Password(_)) => true,
            Some(Value::Ha1(stored)) => stored.iter().any(|(h, _)| *h == hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_and_stored_hashes() {
        let mut secret = Secret::named("x");
        assert!(!secret.allows(Hash::Md5) && secret.ha1(Hash::Md5, "a", "r").is_none());
        assert!(secret.fill("zanzibar\n"));
        let hex = secret.ha1(Hash::Md5, "bob", "biloxi.com").unwrap();
        assert_eq!(hex, ha1(Hash::Md5, "bob", "biloxi.com", "zanzibar"));
        assert!(secret.fill(&format!("HA1 md5 {}\n", hex.to_ascii_uppercase())));
        assert_eq!(secret.ha1(Hash::Md5, "bob", "biloxi.com"), Some(hex));
        assert!(secret.allows(Hash::Md5) && !secret.allows(Hash::Sha256));
    }

    #[test]
    fn what_is_no_secret() {
        for content in ["", "\n\n", "two\nlines", "HA1 MD5 12", "HA1 SHA-1 00", "HA1 MD5", "HA1 MD5 zz\nHA1"] {
            let mut secret = Secret::named("x");
            assert!(!secret.fill(content) && !secret.is_known(), "{content:?}");
        }
    }

    #[test]
    fn nothing_shows_the_value() {
        let mut secret = Secret::named("psap");
        assert!(secret.fill("hunter2"));
        assert_eq!(format!("{secret:?} {secret:#?}"), "Secret(psap, known) Secret(psap, known)");
    }
}
