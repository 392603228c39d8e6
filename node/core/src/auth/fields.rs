//! `Digest name=value, name="value", …`: the form of challenges and credentials (RFC 7616 §3.3, §3.4).

use crate::sip::split_list;

/// Parameters looked at; the standard ones are a dozen.
const MAX_PARAMS: usize = 32;

/// The parameters of a value whose scheme is Digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    /// Reads a value; `None` for another scheme.
    pub(super) fn parse(value: &'a str) -> Option<Fields<'a>> {
        let (scheme, rest) = value.trim().split_once([' ', '\t'])?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let pairs = split_list(rest).take(MAX_PARAMS).filter_map(|element| {
            let (name, value) = element.split_once('=')?;
            Some((name.trim(), strip(value.trim())))
        });
        Some(Fields(pairs.collect()))
    }

    /// A value without its quotes, escapes as they are: it is hashed like that (RFC 7616 §3.4.2, unq).
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// The realm of a challenge or of credentials.
pub fn realm_of(value: &str) -> Option<&str> {
    Fields::parse(value)?.get("realm")
}

fn strip(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_bare_values() {
        let f = Fields::parse("Digest realm=\"a, \\\"b\\\"\",nonce = \"n\" , qop=auth, stale=TRUE,x").unwrap();
        assert_eq!(f.get("realm"), Some("a, \\\"b\\\""));
        assert_eq!((f.get("NONCE"), f.get("qop"), f.get("stale")), (Some("n"), Some("auth"), Some("TRUE")));
        assert_eq!(f.get("x"), None);
    }

    #[test]
    fn other_schemes_and_rubbish() {
        for text in ["", "Digest", "Basic abc", "Bearer x=\"y\"", "digestrealm=\"x\""] {
            assert_eq!(Fields::parse(text), None, "{text}");
        }
        let open = Fields::parse("digest realm=\"never closed, nonce=x").unwrap();
        assert_eq!(open.get("nonce"), None);
        let many = format!("Digest {}", "a=b,".repeat(1000));
        assert_eq!(Fields::parse(&many).unwrap().0.len(), MAX_PARAMS);
    }
}
