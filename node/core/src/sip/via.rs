//! Via (RFC 3261 §20.42, RFC 3581): where responses go back to.

use std::net::{IpAddr, SocketAddr};

use super::text::{Span, ends_quoted, params, trim};
use super::uri::{parse_port, split_host_port};

/// Why a text is no Via value. The sender's fault: without a Via there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViaError {
    /// Not `SIP/2.0/<transport>`.
    #[error("bad Via protocol")]
    Protocol,
    /// Host or port malformed.
    #[error("bad Via sent-by")]
    SentBy,
    /// A branch that is no token, a control character, or a quoted string that does not end.
    #[error("bad Via parameter")]
    Param,
}

/// One Via value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    text: Box<str>,
    transport: Span,
    host: Span,
    port: Option<u16>,
    branch: Option<Span>,
}

impl Via {
    /// Reads one value (no list); white space is allowed where RFC 3261 §25.1 has it.
    pub fn parse(text: &str) -> Result<Via, ViaError> {
        let via = Via::parse_any_version(text)?;
        let version = via.text.split('/').nth(1).map(trim);
        if version == Some("2.0") { Ok(via) } else { Err(ViaError::Protocol) }
    }

    /// The same of whatever version: for the 505 to a sender that speaks another one.
    pub fn parse_any_version(text: &str) -> Result<Via, ViaError> {
        let text = trim(text);
        let (protocol, rest) = text.split_once('/').ok_or(ViaError::Protocol)?;
        let (version, rest) = rest.split_once('/').ok_or(ViaError::Protocol)?;
        if !trim(protocol).eq_ignore_ascii_case("SIP") || !super::is_token(trim(version)) {
            return Err(ViaError::Protocol);
        }
        let rest = rest.trim_start_matches([' ', '\t']);
        let (transport, rest) = rest.split_once([' ', '\t']).ok_or(ViaError::Protocol)?;
        if !super::is_token(transport) {
            return Err(ViaError::Protocol);
        }
        let sent_by = trim(rest.split_once(';').map_or(rest, |(sent_by, _)| sent_by));
        let (host, port) = split_sent_by(sent_by).ok_or(ViaError::SentBy)?;
        let branch = params(text).find(|(name, _)| name.eq_ignore_ascii_case("branch")).and_then(|(_, value)| value);
        let odd = |branch: &str| branch.is_empty() || branch.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'"');
        if branch.is_some_and(odd) || ends_quoted(text) {
            return Err(ViaError::Param);
        }
        Ok(Via {
            transport: Span::within(text, transport),
            host: Span::within(text, host),
            port,
            branch: branch.map(|branch| Span::within(text, branch)),
            text: text.into(),
        })
    }

    /// As received.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Transport as received: "UDP", "TCP", "TLS", ...
    pub fn transport(&self) -> &str {
        self.transport.of(&self.text)
    }

    /// Host of sent-by, an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        self.host.of(&self.text)
    }

    /// Port of sent-by.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Branch as received. Transactions are matched by it if it starts with the magic cookie (RFC 3261 §17.2.3).
    pub fn branch(&self) -> Option<&str> {
        self.branch.map(|span| span.of(&self.text))
    }

    /// The value of a parameter (name in any case), "" if it has none.
    pub fn param(&self, name: &str) -> Option<&str> {
        params(&self.text).get(name)
    }

    /// The received parameter, with or without brackets around IPv6 (RFC 5118 §4.5).
    pub fn received(&self) -> Option<IpAddr> {
        unbracket(self.param("received")?).parse().ok()
    }

    /// Whether rport is there, with or without a value: the sender wants its answer where the request came from (RFC 3581 §4).
    pub fn has_rport(&self) -> bool {
        self.param("rport").is_some()
    }

    /// The value of rport, once filled in.
    pub fn rport(&self) -> Option<u16> {
        self.param("rport").and_then(parse_port)
    }

    /// `host[:port]` as matching compares it, IPv6 in brackets, the host in lower case.
    pub fn sent_by(&self) -> String {
        let host = self.host().to_ascii_lowercase();
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// The value with `received` and `rport` as the server fills them in: received if sent-by is no address equal to the source
    /// or rport was asked for (RFC 3261 §18.2.1, RFC 3581 §4); rport only if it was asked for. What the sender put there
    /// is replaced; all other parameters stay in their order.
    pub fn with_received(&self, source: SocketAddr) -> String {
        let source_ip = source.ip().to_canonical();
        let host_ip = self.host().parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        let wants_rport = self.has_rport();
        if host_ip == Some(source_ip) && !wants_rport && self.param("received").is_none() {
            return self.text.to_string();
        }
        let head_end = self.text.find(';').unwrap_or(self.text.len());
        let mut value = self.text[..head_end].trim_end().to_owned();
        for (name, param) in params(&self.text) {
            if name.eq_ignore_ascii_case("received") {
                continue;
            }
            value.push(';');
            value.push_str(name);
            if name.eq_ignore_ascii_case("rport") {
                value.push_str(&format!("={}", source.port()));
            } else if let Some(param) = param {
                value.push('=');
                value.push_str(param);
            }
        }
        if host_ip != Some(source_ip) || wants_rport {
            value.push_str(&format!(";received={source_ip}"));
        }
        value
    }
}

/// `host [:port]`, with white space around the colon (RFC 3261 §25.1 COLON).
fn split_sent_by(text: &str) -> Option<(&str, Option<u16>)> {
    let colon_from = text.rfind(']').unwrap_or(0);
    let (host, port) = match text[colon_from..].find(':') {
        Some(offset) => {
            let at = colon_from + offset;
            (trim(&text[..at]), Some(parse_port(trim(&text[at + 1..]))?))
        }
        None => (text, None),
    };
    match split_host_port(host)? {
        (host, None) => Some((host, port)),
        _ => None,
    }
}

fn unbracket(text: &str) -> &str {
    text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Via {
        Via::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parts() {
        let via = parse("SIP/2.0/UDP Host.example.com:5062;rport;branch=z9hG4bK-1;x=\"a;branch=no\"");
        assert_eq!(
            (via.transport(), via.host(), via.port(), via.branch()),
            ("UDP", "Host.example.com", Some(5062), Some("z9hG4bK-1"))
        );
        assert_eq!((via.has_rport(), via.rport(), via.received()), (true, None, None));
        assert_eq!(via.sent_by(), "host.example.com:5062");
        let odd = parse("SIP  / 2.0  / TCP     spindle.example.com  : 5  ;   branch  =   z9hG4bK9ikj8  ;rport=7");
        assert_eq!(
            (odd.transport(), odd.host(), odd.port(), odd.branch()),
            ("TCP", "spindle.example.com", Some(5), Some("z9hG4bK9ikj8"))
        );
        assert_eq!(odd.rport(), Some(7));
    }

    #[test]
    fn ipv6_with_and_without_brackets() {
        let via = parse("SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111");
        assert_eq!((via.host(), via.port(), via.sent_by()), ("2001:db8::9:1", None, "[2001:db8::9:1]".to_owned()));
        assert_eq!(via.received(), Some("2001:db8::9:255".parse().expect("address")));
        assert_eq!(parse("SIP/2.0/UDP [::1]:9;received=::2").received(), Some("::2".parse().expect("address")));
    }

    #[test]
    fn received_and_rport_are_filled_in() {
        let source: SocketAddr = "10.1.2.3:4444".parse().expect("address");
        for (text, filled) in [
            ("SIP/2.0/UDP 10.1.2.3:5060;branch=b", "SIP/2.0/UDP 10.1.2.3:5060;branch=b"),
            ("SIP/2.0/UDP 10.1.2.3;rport;branch=b", "SIP/2.0/UDP 10.1.2.3;rport=4444;branch=b;received=10.1.2.3"),
            ("SIP/2.0/UDP h.example ; branch=b;a=\"x;y\"", "SIP/2.0/UDP h.example;branch=b;a=\"x;y\";received=10.1.2.3"),
            (
                "SIP/2.0/UDP 10.9.9.9;received=1.1.1.1;rport=1;branch=b",
                "SIP/2.0/UDP 10.9.9.9;rport=4444;branch=b;received=10.1.2.3",
            ),
            ("SIP/2.0/UDP 10.1.2.3;received=1.1.1.1", "SIP/2.0/UDP 10.1.2.3"),
        ] {
            assert_eq!(parse(text).with_received(source), filled);
            parse(filled);
        }
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:1".parse().expect("address");
        assert_eq!(parse("SIP/2.0/UDP 10.1.2.3").with_received(mapped), "SIP/2.0/UDP 10.1.2.3");
    }

    #[test]
    fn refused() {
        use ViaError::*;
        for (text, error) in [
            ("", Protocol),
            ("SIP/2.0/UDP", Protocol),
            ("SIP/3.0/UDP h", Protocol),
            ("HTTP/2.0/UDP h", Protocol),
            ("SIP/2.0/U<P h", Protocol),
            ("SIP/2.0/UDP ;branch=x", SentBy),
            ("SIP/2.0/UDP h:", SentBy),
            ("SIP/2.0/UDP h:99999", SentBy),
            ("SIP/2.0/UDP a b;branch=x", SentBy),
            ("SIP/2.0/UDP [::1;branch=x", SentBy),
            ("SIP/2.0/UDP 2001:db8::1;branch=x", SentBy),
            ("SIP/2.0/UDP h;branch=", Param),
            ("SIP/2.0/UDP h;branch=a b", Param),
            ("SIP/2.0/UDP h;branch=a\"b", Param),
            ("SIP/2.0/UDP h;branch=a;x=\"b", Param),
        ] {
            assert_eq!(Via::parse(text), Err(error), "{text}");
        }
    }
}
