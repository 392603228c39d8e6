//! name-addr and addr-spec with header parameters: From, To, Contact, Route, P-Asserted-Identity, ... (RFC 3261 §20.10).

use super::text::{find_outside, params, trim, unquote};
use super::uri::{Uri, UriError};

/// Why a text is no name-addr. The sender's fault: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddrError {
    /// A quoted string or angle bracket that does not close, or text where none belongs.
    #[error("bad display name or brackets")]
    Brackets,
    /// The URI in it.
    #[error(transparent)]
    Uri(#[from] UriError),
}

/// One value: display name, URI, header parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// Display name, quotes off and escapes resolved; `None` where there is none or an empty one.
    pub display: Option<String>,
    /// The URI.
    pub uri: Uri,
    /// `;name=value...` as received.
    params: Box<str>,
}

/// Whether a Contact value is the `*` of RFC 3261 §10.2.2.
pub fn is_star(value: &str) -> bool {
    trim(value) == "*"
}

impl NameAddr {
    /// Reads one value (no list). Without angle brackets the parameters belong to the header, and the URI may hold no `?`
    /// (RFC 3261 §20.10).
    pub fn parse(text: &str) -> Result<NameAddr, AddrError> {
        let text = trim(text);
        let parts = split(text).ok_or(AddrError::Brackets)?;
        if !parts.angled && parts.uri.contains('?') {
            return Err(AddrError::Uri(UriError::Character));
        }
        let display = if is_quoted_string(parts.display) { unquote(parts.display) } else { parts.display.to_owned() };
        let uri = Uri::parse(parts.uri)?;
        Ok(NameAddr { display: (!display.is_empty()).then_some(display), uri, params: parts.params.into() })
    }

    /// The value of a header parameter (name in any case), "" if it has none.
    pub fn param(&self, name: &str) -> Option<&str> {
        params(&self.params).get(name)
    }

    /// The header parameters as received, with their leading `;`.
    pub fn params_str(&self) -> &str {
        &self.params
    }

    /// The tag of a From or To value.
    pub fn tag(&self) -> Option<&str> {
        self.param("tag").filter(|tag| !tag.is_empty())
    }
}

/// The raw parts of a value.
pub(crate) struct NameAddrParts<'a> {
    pub(crate) display: &'a str,
    pub(crate) uri: &'a str,
    /// From the first `;` behind the URI, or empty.
    pub(crate) params: &'a str,
    pub(crate) angled: bool,
}

/// Finds the parts; `None` if quotes or brackets do not balance or something else stands between bracket and parameters.
pub(crate) fn split(text: &str) -> Option<NameAddrParts<'_>> {
    let text = trim(text);
    let Some(open) = find_outside(text, false, |byte| byte == b'<') else {
        if text.starts_with('"') {
            return None;
        }
        let end = text.find(';').unwrap_or(text.len());
        return Some(NameAddrParts { display: "", uri: trim(&text[..end]), params: &text[end..], angled: false });
    };
    let display = trim(&text[..open]);
    let close = open + text[open..].find('>')?;
    let params = trim(&text[close + 1..]);
    if !params.is_empty() && !params.starts_with(';') {
        return None;
    }
    Some(NameAddrParts { display, uri: trim(&text[open + 1..close]), params, angled: true })
}

/// Whether the text is one quoted string and nothing else.
pub(crate) fn is_quoted_string(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    let mut escaped = false;
    for byte in inner.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_names() {
        for (text, display) in [
            ("<sip:a@b>", None),
            ("\"\" <sip:a@b>", None),
            ("Alice <sip:a@b>", Some("Alice")),
            ("A. G. Bell<sip:a@b>", Some("A. G. Bell")),
            ("\"A \\\"q\\\" \\\\ <x>, y\"<sip:a@b>", Some("A \"q\" \\ <x>, y")),
            ("Bob \"Bobby\" Ray <sip:a@b>", Some("Bob \"Bobby\" Ray")),
            ("  Ünï \t<sip:a@b>", Some("Ünï")),
        ] {
            let addr = NameAddr::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((addr.display.as_deref(), addr.uri.as_str()), (display, "sip:a@b"), "{text}");
        }
    }

    #[test]
    fn parameters_belong_to_uri_or_header() {
        let angled = NameAddr::parse("<sip:a@b;lr;tag=uri> ; tag = header ;q=0.5;x").expect("valid");
        assert_eq!(
            (angled.tag(), angled.param("Q"), angled.param("x"), angled.param("lr")),
            (Some("header"), Some("0.5"), Some(""), None)
        );
        assert_eq!(angled.uri.param("tag"), Some("uri"));
        let bare = NameAddr::parse("sip:a@b;tag=header;x=y").expect("valid");
        assert_eq!((bare.uri.as_str(), bare.tag(), bare.params_str()), ("sip:a@b", Some("header"), ";tag=header;x=y"));
        assert_eq!(NameAddr::parse("<tel:+1;ext=2>;tag=").expect("valid").tag(), None);
        assert!(is_star(" * ") && !is_star("*x"));
    }

    #[test]
    fn refused() {
        for text in [
            "",
            "\"open <sip:a@b>",
            "<sip:a@b",
            "Alice sip:a@b",
            "<>",
            "<sip:a@b> junk",
            "sip:a@b?x=y",
            "*",
            "\"x\" sip:a@b",
            ";tag=x",
        ] {
            assert!(NameAddr::parse(text).is_err(), "{text}");
        }
    }
}
