//! What rsip 0.4 cannot read: the one list of it, and how it is told.
//!
//! It is told from the text alone, not from rsip's failing: what is not listed here and fails is a fault of who sent it.

use std::str::FromStr;

use rsip::{Header, Method};

/// Why a message, or a value in it, is read by the wrapper of this crate and not by rsip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Beyond {
    /// A header field folded over lines (RFC 3261 §7.3.1): refused.
    Folded,
    /// A compact form (RFC 3261 §7.3.3): taken for a header field of that name.
    Compact,
    /// Octets that are not UTF-8, as some far ends write in display names: refused. A body may have them.
    NotText,
    /// White space before the colon, or a name that has other characters than rsip allows: refused.
    Name,
    /// A method that is none of rsip's fourteen: refused.
    Method,
    /// `urn:service:sos`, `tel:112` and all schemes but sip and sips: refused, or a host `tel` with the port 112.
    Scheme,
    /// An IPv6 literal as host, or anything in brackets: refused.
    Ipv6,
    /// A user part with a dot or a question mark: taken for the host. A password: taken for a port.
    User,
    /// Header fields in a URI: taken for a part of the host or of a parameter, or lost.
    UriHeaders,
    /// A transport that rsip does not have: refused.
    Transport,
    /// A parameter whose value is quoted, an IPv6 address or anything that is no token, or which rsip writes otherwise: refused or lost.
    Parameter,
    /// A quoted display name with a bracket in it: cut there.
    DisplayName,
    /// White space between parameters, before them or within brackets: refused, or what follows is lost, the branch of a Via too.
    Space,
}

/// Whether rsip has this method.
pub(crate) fn method(method: &str) -> Option<Beyond> {
    let known = Method::all().iter().any(|known| known.to_string() == method);
    (!known && !method.is_empty() && method.chars().all(is_token)).then_some(Beyond::Method)
}

/// Whether rsip reads a header field of this name.
pub(crate) fn name(name: &str) -> Option<Beyond> {
    (name.is_empty() || !name.chars().all(is_token)).then_some(Beyond::Name)
}

/// Whether rsip reads this URI.
pub(crate) fn uri(uri: &str) -> Option<Beyond> {
    let (scheme, rest) = uri.split_once(':')?;
    if !["sip", "sips"].contains(&scheme) {
        return (!scheme.is_empty() && scheme.chars().all(is_token)).then_some(Beyond::Scheme);
    }
    if rest.contains('?') {
        return Some(Beyond::UriHeaders);
    }
    let (user, rest) = rest.split_once('@').map_or(("", rest), |(user, rest)| (user, rest));
    if user.contains(['.', ':', ';']) || rest.contains('@') {
        return Some(Beyond::User);
    }
    let (host, rest) = rest.find(';').map_or((rest, ""), |at| rest.split_at(at));
    if host.contains('[') {
        return Some(Beyond::Ipv6);
    }
    parameters(rest)
}

/// Whether rsip has this transport.
fn transport(name: &str) -> Option<Beyond> {
    let known = rsip::Transport::from_str(name).is_ok();
    (!known && !name.is_empty() && name.chars().all(is_token)).then_some(Beyond::Transport)
}

/// Whether rsip reads parameters: `;a=b;c`.
pub(crate) fn parameters(text: &str) -> Option<Beyond> {
    if text.contains(char::is_whitespace) {
        return Some(Beyond::Space);
    }
    text.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=').map_or((parameter, None), |(name, value)| (name, Some(value)));
        let lower = name.to_ascii_lowercase();
        let known = match lower.as_str() {
            "transport" if value.is_some_and(|v| transport(v).is_some()) => return value.and_then(transport),
            "method" => value.is_none_or(|v| method(v).is_none()),
            // Written by rsip in small letters, whatever they were.
            "lr" | "user" | "ttl" | "maddr" | "branch" | "received" | "tag" | "expires" | "q" => name == lower,
            _ => true,
        };
        let token = name.chars().all(is_token) && value.is_none_or(|v| v.chars().all(is_token));
        (!known || !token).then_some(Beyond::Parameter)
    })
}

/// Whether rsip reads this name-addr or addr-spec with its parameters.
pub(crate) fn address(value: &str) -> Option<Beyond> {
    let Parts { display, uri: at, parameters: rest } = Parts::of(value)?;
    if display.contains(['<', '>']) {
        return Some(Beyond::DisplayName);
    }
    if at != at.trim() {
        return Some(Beyond::Space);
    }
    uri(at).or_else(|| parameters(rest))
}

/// Whether rsip reads this Via.
pub(crate) fn via(value: &str) -> Option<Beyond> {
    let (head, rest) = value.find(';').map_or((value, ""), |at| value.split_at(at));
    if head.contains('[') {
        return Some(Beyond::Ipv6);
    }
    let spaces = head.chars().filter(|c| c.is_whitespace()).count();
    if spaces != 1 {
        return Some(Beyond::Space);
    }
    let protocol = head.split_once(char::is_whitespace).map_or("", |(protocol, _)| protocol);
    protocol.strip_prefix("SIP/2.0/").and_then(transport).or_else(|| parameters(rest))
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-.!%*_+`'~".contains(c)
}

/// A name-addr or addr-spec in its parts, as they stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts<'a> {
    /// With its quotes; empty where there is none.
    pub(crate) display: &'a str,
    /// With the white space around it.
    pub(crate) uri: &'a str,
    /// From the first semicolon on. Those of an addr-spec are the header field's (RFC 3261 §20.10).
    pub(crate) parameters: &'a str,
}

impl<'a> Parts<'a> {
    /// `None`: a bracket or a quote is never closed.
    pub(crate) fn of(value: &'a str) -> Option<Parts<'a>> {
        let value = value.trim();
        let open = match value.strip_prefix('"') {
            Some(rest) => {
                let end = 2 + end_of_quoted(rest)?;
                end + value[end..].find('<')?
            }
            None => match value.find('<') {
                Some(open) => open,
                None => {
                    let (uri, parameters) = value.find(';').map_or((value, ""), |at| value.split_at(at));
                    return Some(Parts { display: "", uri, parameters });
                }
            },
        };
        let close = open + value[open..].find('>')?;
        Some(Parts { display: value[..open].trim(), uri: &value[open + 1..close], parameters: value[close + 1..].trim_start() })
    }

    /// The value of a parameter, by hand; of one without: empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&'a str> {
        parameter(self.parameters, name)
    }
}

/// The same of any parameters.
pub(crate) fn parameter<'a>(parameters: &'a str, name: &str) -> Option<&'a str> {
    parameters.split(';').skip(1).find_map(|p| {
        let (n, v) = p.split_once('=').unwrap_or((p, ""));
        n.trim().eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// Where the quote that closes stands, behind the one that opens.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    })
}

/// Splits at commas outside of quotes and angle brackets.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    value
        .split(move |c| {
            match c {
                '"' if !escaped => quoted = !quoted,
                '<' if !quoted => angle = true,
                '>' if !quoted => angle = false,
                _ => {}
            }
            escaped = c == '\\' && quoted && !escaped;
            c == ',' && !quoted && !angle
        })
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// RFC 3261 §7.3.3: the long form of a compact one.
pub(crate) fn long_form(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "a" => "Accept-Contact",
        "b" => "Referred-By",
        "c" => "Content-Type",
        "d" => "Request-Disposition",
        "e" => "Content-Encoding",
        "f" => "From",
        "i" => "Call-ID",
        "j" => "Reject-Contact",
        "k" => "Supported",
        "l" => "Content-Length",
        "m" => "Contact",
        "o" => "Event",
        "r" => "Refer-To",
        "s" => "Subject",
        "t" => "To",
        "u" => "Allow-Events",
        "v" => "Via",
        "x" => "Session-Expires",
        _ => return None,
    })
}

/// Name and value of a header field that rsip has read, as it writes them.
pub(crate) fn field(header: &Header) -> (String, String) {
    let line = header.to_string();
    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
    (name.to_owned(), value.trim().to_owned())
}
