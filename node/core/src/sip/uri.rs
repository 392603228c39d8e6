//! URIs as SIP uses them: sip, sips (RFC 3261 §19.1), tel (RFC 3966), urn (RFC 5031), and any other as text (answered 416).

use std::borrow::Cow;
use std::net::IpAddr;

use super::limits::MAX_URI;
use super::text::Span;

/// The schemes that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// sip.
    Sip,
    /// sips.
    Sips,
    /// tel.
    Tel,
    /// urn.
    Urn,
    /// Anything else.
    Other,
}

/// Why a text is no URI. The sender's fault: 400 for a Request-URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Longer than [`MAX_URI`].
    #[error("URI too long")]
    TooLong,
    /// No scheme, or one with characters that no scheme has.
    #[error("bad URI scheme")]
    Scheme,
    /// White space, angle bracket, quote or control character.
    #[error("bad character in URI")]
    Character,
    /// User part empty.
    #[error("bad user part")]
    User,
    /// Host missing or malformed.
    #[error("bad host")]
    Host,
    /// Port not 0-65535.
    #[error("bad port")]
    Port,
    /// No telephone number (RFC 3966 §3).
    #[error("bad telephone number")]
    Number,
}

/// A URI: the text as received, with its parts found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    text: Box<str>,
    scheme: Scheme,
    user: Option<Span>,
    host: Option<Span>,
    port: Option<u16>,
    /// After the first `;` behind the host or number, up to the headers.
    params: Span,
    /// After `?`.
    headers: Option<Span>,
}

impl Uri {
    /// Reads a URI; the text is kept as it is.
    pub fn parse(text: &str) -> Result<Uri, UriError> {
        if text.len() > MAX_URI {
            return Err(UriError::TooLong);
        }
        let (name, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        let scheme = scheme_of(name).ok_or(UriError::Scheme)?;
        if rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f || matches!(byte, b'<' | b'>' | b'"')) {
            return Err(UriError::Character);
        }
        let mut uri =
            Uri { text: text.into(), scheme, user: None, host: None, port: None, params: Span::default(), headers: None };
        match scheme {
            Scheme::Sip | Scheme::Sips => uri.find_sip_parts(name.len() + 1)?,
            Scheme::Tel => uri.find_tel_parts(name.len() + 1)?,
            Scheme::Urn | Scheme::Other if rest.is_empty() => return Err(UriError::Host),
            Scheme::Urn | Scheme::Other => {}
        }
        Ok(uri)
    }

    fn find_sip_parts(&mut self, start: usize) -> Result<(), UriError> {
        let text = &*self.text;
        let mut at = start;
        if let Some(length) = text[at..].find('@') {
            let userinfo = &text[at..at + length];
            let user = userinfo.split_once(':').map_or(userinfo, |(user, _password)| user);
            if user.is_empty() {
                return Err(UriError::User);
            }
            self.user = Some(Span::within(text, user));
            at += length + 1;
        }
        let tail_at = text[at..].find([';', '?']).map_or(text.len(), |offset| at + offset);
        let (host, port) = split_host_port(&text[at..tail_at]).ok_or(UriError::Host)?;
        self.host = Some(Span::within(text, host));
        self.port = port.map(|port| parse_port(port).ok_or(UriError::Port)).transpose()?;
        let headers_at = text[tail_at..].find('?').map(|offset| tail_at + offset);
        let params_end = headers_at.unwrap_or(text.len());
        if tail_at < params_end {
            self.params = Span::new(tail_at + 1, params_end);
        }
        self.headers = headers_at.map(|at| Span::new(at + 1, text.len()));
        Ok(())
    }

    fn find_tel_parts(&mut self, start: usize) -> Result<(), UriError> {
        let text = &*self.text;
        let end = text[start..].find(';').map_or(text.len(), |offset| start + offset);
        let number = &text[start..end];
        let allowed = |byte: u8| byte.is_ascii_hexdigit() || b"+*#-.()".contains(&byte);
        if !number.bytes().all(allowed) || !number.bytes().any(|byte| byte.is_ascii_hexdigit() || b"*#".contains(&byte)) {
            return Err(UriError::Number);
        }
        self.user = Some(Span::within(text, number));
        if end < text.len() {
            self.params = Span::new(end + 1, text.len());
        }
        Ok(())
    }

    /// As received.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// User part without password, as received; of a tel URI the number with its visual separators.
    pub fn user(&self) -> Option<&str> {
        self.user.map(|span| span.of(&self.text))
    }

    /// User part with %-escapes resolved. An escape that is none, or that makes no UTF-8, stays as it is.
    pub fn user_decoded(&self) -> Option<Cow<'_, str>> {
        self.user().map(unescape)
    }

    /// Host of a sip or sips URI, an IPv6 address without its brackets.
    pub fn host(&self) -> Option<&str> {
        self.host.map(|span| span.of(&self.text))
    }

    /// The host where it is an address.
    pub fn host_ip(&self) -> Option<IpAddr> {
        self.host().and_then(|host| host.parse().ok().or_else(|| ipv6(host).map(IpAddr::V6)))
    }

    /// Port of a sip or sips URI.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Parameters in order: name, value if any.
    pub fn params(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let params = self.params.of(&self.text).split(';').filter(|param| !param.is_empty());
        params.map(|param| param.split_once('=').map_or((param, None), |(name, value)| (name, Some(value))))
    }

    /// The value of a parameter (name in any case), "" if it has none.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.unwrap_or(""))
    }

    /// The transport parameter (RFC 3261 §19.1.1).
    pub fn transport_param(&self) -> Option<&str> {
        self.param("transport")
    }

    /// What stands after `?` (RFC 3261 §19.1.1 "headers"): to be ignored in a Request-URI, meant in a Refer-To.
    pub fn headers(&self) -> Option<&str> {
        self.headers.map(|span| span.of(&self.text))
    }

    /// Whether this is `urn:service:sos` or one of its sub-services (RFC 5031 §4.2).
    pub fn is_service_sos(&self) -> bool {
        const SOS: &str = "urn:service:sos";
        let Some(head) = self.text.get(..SOS.len()) else { return false };
        head.eq_ignore_ascii_case(SOS) && matches!(self.text.as_bytes().get(SOS.len()), None | Some(b'.'))
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Uri, UriError> {
        Uri::parse(text)
    }
}

fn scheme_of(name: &str) -> Option<Scheme> {
    let well_formed = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !well_formed {
        return None;
    }
    let known = [("sip", Scheme::Sip), ("sips", Scheme::Sips), ("tel", Scheme::Tel), ("urn", Scheme::Urn)];
    Some(known.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map_or(Scheme::Other, |(_, scheme)| *scheme))
}

/// Splits `host[:port]`: an IPv6 reference loses its brackets. `None` if the host is neither name nor address.
pub(crate) fn split_host_port(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        ipv6(host)?;
        return match tail.strip_prefix(':') {
            Some(port) => Some((host, Some(port))),
            None if tail.is_empty() => Some((host, None)),
            None => None,
        };
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    // Underscores are no part of RFC 3261 §25.1 hostname, but of names in use.
    let named = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    named.then_some((host, port))
}

/// An IPv6 address; with three colons before an IPv4 part, as the grammar of RFC 3261 let it be written, it is the one with two
/// (RFC 5118 §4.10).
fn ipv6(text: &str) -> Option<std::net::Ipv6Addr> {
    text.parse().ok().or_else(|| text.contains('.').then(|| text.replacen(":::", "::", 1).parse().ok()).flatten())
}

pub(crate) fn parse_port(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 5 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A text of a URI with its escapes undone (RFC 3261 §19.1.2); one that would then be no UTF-8 stays as it is.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| Some((hex(*tail.first()?)?, hex(*tail.get(1)?)?))).flatten();
        match escape {
            Some((high, low)) => {
                octets.push(high << 4 | low);
                rest = &tail[2..];
            }
            None => {
                octets.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(octets).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Uri {
        let uri = Uri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(uri.as_str(), text);
        uri
    }

    #[test]
    fn sip_parts() {
        let uri = parse("sip:alice:secret@Example.COM:5080;transport=TCP;lr;Method=x?subject=a;b&c=d");
        assert_eq!(
            (uri.scheme(), uri.user(), uri.host(), uri.port()),
            (Scheme::Sip, Some("alice"), Some("Example.COM"), Some(5080))
        );
        assert_eq!((uri.transport_param(), uri.param("LR"), uri.param("method")), (Some("TCP"), Some(""), Some("x")));
        assert_eq!((uri.param("subject"), uri.headers()), (None, Some("subject=a;b&c=d")));
        let bare = parse("SIPS:host");
        assert_eq!(
            (bare.scheme(), bare.user(), bare.host(), bare.port(), bare.headers()),
            (Scheme::Sips, None, Some("host"), None, None)
        );
        assert_eq!(parse("sip:a@b?x=y").headers(), Some("x=y"));
        assert_eq!(parse("sip:a@b;x=c@d").param("x"), Some("c@d"));
    }

    #[test]
    fn odd_but_valid_users() {
        let odd =
            parse("sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com");
        assert_eq!((odd.user(), odd.host()), (Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"), Some("example.com")));
        assert_eq!(parse("sip:user;par=u%40example.net@example.com").user_decoded().as_deref(), Some("user;par=u@example.net"));
        assert_eq!(parse("sip:%41%zz%4@h").user_decoded().as_deref(), Some("A%zz%4"));
        assert_eq!(parse("sip:%ff@h").user_decoded().as_deref(), Some("%ff"));
        assert_eq!(parse("sip:n%00l@h").user_decoded().as_deref(), Some("n\0l"));
    }

    #[test]
    fn addresses() {
        let six = parse("sip:911@[2001:db8::10]:5070;x=1");
        assert_eq!((six.host(), six.port()), (Some("2001:db8::10"), Some(5070)));
        assert_eq!(six.host_ip(), Some("2001:db8::10".parse().expect("address")));
        assert_eq!(parse("sip:[::ffff:192.0.2.1]").host(), Some("::ffff:192.0.2.1"));
        let three = parse("sip:911@[2001:db8:::192.0.2.1]:5070");
        assert_eq!((three.host_ip(), three.port()), (Some("2001:db8::192.0.2.1".parse().expect("address")), Some(5070)));
        assert_eq!(parse("sip:10.0.0.1:0").port(), Some(0));
        assert_eq!(parse("sip:h").host_ip(), None);
    }

    #[test]
    fn tel_urn_and_others() {
        let tel = parse("tel:+1-(201).555;phone-context=example.com;ext=1");
        assert_eq!(
            (tel.scheme(), tel.user(), tel.host(), tel.param("ext")),
            (Scheme::Tel, Some("+1-(201).555"), None, Some("1"))
        );
        assert_eq!(parse("tel:911").user(), Some("911"));
        for (text, sos) in [
            ("urn:service:sos", true),
            ("URN:Service:SOS.police", true),
            ("urn:service:sos.ecall.automatic", true),
            ("urn:service:sosx", false),
            ("urn:service:counseling", false),
            ("sip:sos@example.com", false),
        ] {
            assert_eq!(parse(text).is_service_sos(), sos, "{text}");
        }
        assert_eq!(parse("nobodyKnowsThisScheme:totallyopaquecontent").scheme(), Scheme::Other);
        assert_eq!(parse("http://example.com/a?b@c").host(), None);
    }

    #[test]
    fn refused() {
        use UriError::*;
        for (text, error) in [
            ("", Scheme),
            ("alice", Scheme),
            (":x", Scheme),
            ("1sip:x", Scheme),
            ("sip:", Host),
            ("sip:@host", User),
            ("sip::pw@host", User),
            ("sip:a@", Host),
            ("sip:a@b@c", Host),
            ("sip:a@[::1", Host),
            ("sip:a@[zz]", Host),
            ("sip:a@[2001:db8:::1]", Host),
            ("sip:a@[2001:db8::::192.0.2.1]", Host),
            ("sip:a@[::1]x", Host),
            ("sip:a@::1", Host),
            ("sip:a@h:", Port),
            ("sip:a@h:65536", Port),
            ("sip:a@h:+1", Port),
            ("sip:a b@h", Character),
            ("<sip:a@h>", Scheme),
            ("sip:a@h>", Character),
            ("sip:a@h\r\nX: y", Character),
            ("tel:", Number),
            ("tel:+", Number),
            ("tel:alice", Number),
            ("urn:", Host),
        ] {
            assert_eq!(Uri::parse(text), Err(error), "{text}");
        }
        assert_eq!(Uri::parse(&format!("sip:{}@h", "a".repeat(MAX_URI))), Err(TooLong));
    }
}
