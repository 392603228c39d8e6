//! SIP messages as a phone makes and reads them: a start line, header fields in their order, a body (RFC 3261 §7).
//!
//! A field's text is kept as it came; what it says is read by rsip, and what a phone says of itself is written by rsip. What a test wants to
//! be wrong it writes as text: nothing here corrects it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use rsip::headers::ToTypedHeader;
use rsip::headers::untyped::{self, UntypedHeader};
use rsip::param::{OtherParam, OtherParamValue, Param};
use rsip::typed;

use crate::beyond::{self, Parts};
use crate::{sdp, unique, wire};

/// A request or response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Long names and values, in order, unfolded. Content-Length is computed, not kept.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// The top Via of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Host and port, as they stand.
    pub sent_by: String,
    /// Empty: there is none.
    pub branch: String,
    /// RFC 3581: the response is wanted where the request came from.
    pub rport: bool,
}

impl Message {
    /// A request without header fields.
    pub fn request(method: &str, uri: &str) -> Message {
        Message { start: format!("{method} {uri} SIP/2.0"), headers: Vec::new(), body: Vec::new() }
    }

    /// An initial INVITE from a phone at `from` (Contact and Via there) that offers audio at port 40,000 of the same host.
    pub fn invite(uri: &str, from: SocketAddr, transport: &str) -> Message {
        Message::request("INVITE", uri)
            .with("Via", &via(from, transport))
            .with("Max-Forwards", "70")
            .with("From", &tagged("caller", from, &unique("f")))
            .with("To", &format!("<{uri}>"))
            .with("Call-ID", &unique("call"))
            .with("CSeq", &cseq(1, "INVITE"))
            .with("Contact", &contact("caller", from, Some(transport)))
            .with_sdp(sdp::audio(SocketAddr::new(from.ip(), 40_000), 1, "sendrecv"))
    }

    /// Reads a whole message; `None` when it is none, or shorter than its Content-Length says.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        wire::read(bytes)
    }

    /// As it goes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
        out.push_str(&format!("Content-Length: {}\r\n\r\n", self.body.len()));
        let mut out = out.into_bytes();
        out.extend_from_slice(&self.body);
        out
    }

    /// Adds a header field after the others.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    /// With one more header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Message {
        self.add(name, value);
        self
    }

    /// With the first header field of this name set, or with one more.
    #[must_use]
    pub fn replace(mut self, name: &str, value: &str) -> Message {
        match self.headers.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(header) => value.clone_into(&mut header.1),
            None => return self.with(name, value),
        }
        self
    }

    /// Without this header field.
    #[must_use]
    pub fn without(mut self, name: &str) -> Message {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Message {
        self = self.replace("Content-Type", content_type);
        self.body = body.into();
        self
    }

    /// With an SDP body.
    #[must_use]
    pub fn with_sdp(self, sdp: Vec<u8>) -> Message {
        self.with_body("application/sdp", sdp)
    }

    /// The same to another Request-URI.
    #[must_use]
    pub fn to_uri(mut self, uri: &str) -> Message {
        self.start = format!("{} {uri} SIP/2.0", self.method());
        self
    }

    /// Method of a request; empty for a response.
    pub fn method(&self) -> &str {
        if self.status() == 0 { self.start.split(' ').next().unwrap_or_default() } else { "" }
    }

    /// Request-URI of a request; for a response its status code.
    pub fn request_uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// Status of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        self.start.strip_prefix("SIP/2.0 ").and_then(|s| s.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// What a response says for people; empty for a request.
    pub fn reason(&self) -> &str {
        self.start.strip_prefix("SIP/2.0 ").and_then(|s| s.get(4..)).unwrap_or_default()
    }

    /// First value of a header field; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// All values of a header field, one a line.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a header field that is a list, however they stand in lines.
    pub fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.all(name).flat_map(beyond::list)
    }

    /// Number and method of CSeq; 0 when there is none.
    pub fn cseq(&self) -> (u32, &str) {
        let value = self.header("CSeq");
        let (number, method) = value.split_once(' ').unwrap_or(("", ""));
        match untyped::CSeq::new(value).typed() {
            Ok(read) => (read.seq, method.trim()),
            // A method that rsip does not have.
            Err(_) => (number.parse().unwrap_or(0), method.trim()),
        }
    }

    /// The tag of From or To; empty when there is none.
    pub fn tag(&self, name: &str) -> &str {
        let value = self.header(name);
        if beyond::address(value).is_some() {
            return Parts::of(value).and_then(|parts| parts.parameter("tag")).unwrap_or_default();
        }
        let read = untyped::From::new(value).typed().ok();
        let tag = read.and_then(|from| from.tag().map(ToString::to_string)).unwrap_or_default();
        value.rfind(&tag).map_or("", |at| &value[at..at + tag.len()])
    }

    /// The URI of a header field that has an address, the first of a list; empty when there is none.
    pub fn uri(&self, name: &str) -> &str {
        let single = ["From", "To"].iter().any(|known| known.eq_ignore_ascii_case(name));
        let first = if single { self.all(name).next() } else { self.list(name).next() };
        first.map_or("", uri_of)
    }

    /// Its topmost Via; `None` where it has none that can be read.
    pub fn via(&self) -> Option<Via> {
        let value = self.list("Via").next()?;
        if beyond::via(value).is_some() {
            let (_, rest) = value.split_once(char::is_whitespace)?;
            let (sent_by, parameters) = rest.find(';').map_or((rest, ""), |at| rest.split_at(at));
            let of = |name| beyond::parameter(parameters, name);
            let branch = of("branch").unwrap_or_default().to_owned();
            return Some(Via { sent_by: sent_by.trim().to_owned(), branch, rport: of("rport").is_some() });
        }
        let read = untyped::Via::new(value).typed().ok()?;
        let rport = |p: &Param| matches!(p, Param::Other(name, _) if name.value().eq_ignore_ascii_case("rport"));
        Some(Via {
            sent_by: read.uri.host_with_port.to_string(),
            branch: read.branch().map(ToString::to_string).unwrap_or_default(),
            rport: read.params.iter().any(rport),
        })
    }

    /// Whether it has all that an answer to it needs (RFC 3261 §8.2.6.2).
    pub fn is_answerable(&self) -> bool {
        ["From", "To", "Call-ID"].iter().all(|name| !self.header(name).is_empty()) && self.via().is_some() && self.cseq().0 > 0
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A response to this request, with a To-tag where one is given (RFC 3261 §8.2.6).
    pub fn response(&self, status: u16, reason: &str, to_tag: &str) -> Message {
        let mut response = Message { start: format!("SIP/2.0 {status} {reason}"), headers: Vec::new(), body: Vec::new() };
        for (name, value) in &self.headers {
            let kept = ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"].iter().any(|k| k.eq_ignore_ascii_case(name));
            if kept {
                let tagged = name.eq_ignore_ascii_case("To") && !to_tag.is_empty() && self.tag("To").is_empty();
                response.add(name, if tagged { format!("{value};tag={to_tag}") } else { value.clone() });
            }
        }
        response
    }

    /// The same as it leaves a phone that saw the request come from `source` (RFC 3261 §18.2.1, RFC 3581 §4).
    #[must_use]
    pub fn seen_from(mut self, source: SocketAddr) -> Message {
        if let Some((_, value)) = self.headers.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case("Via")) {
            let top = beyond::list(value).next().unwrap_or_default().to_owned();
            let rest = value[value.find(&top).map_or(0, |at| at + top.len())..].to_owned();
            *value = received(&top, source) + &rest;
        }
        self
    }

    /// The ACK for a final response other than 2xx to this INVITE (RFC 3261 §17.1.1.3).
    #[must_use]
    pub fn ack_of(&self, response: &Message) -> Message {
        self.same_transaction("ACK").replace("To", response.header("To"))
    }

    /// The CANCEL for this INVITE (RFC 3261 §9.1).
    #[must_use]
    pub fn cancel(&self) -> Message {
        self.same_transaction("CANCEL")
    }

    fn same_transaction(&self, method: &str) -> Message {
        let top = self.list("Via").next().unwrap_or_default();
        let mut request = Message::request(method, self.request_uri()).with("Via", top).with("Max-Forwards", "70");
        for name in ["Route", "From", "To", "Call-ID"] {
            for value in self.all(name) {
                request.add(name, value);
            }
        }
        request.with("CSeq", &cseq(self.cseq().0, method))
    }
}

/// `method` with a number.
pub(crate) fn cseq(seq: u32, method: &str) -> String {
    match rsip::Method::from_str(method) {
        Ok(known) if beyond::method(method).is_none() => typed::CSeq { seq, method: known }.to_string(),
        _ => format!("{seq} {method}"),
    }
}

/// A topmost Via of a phone at `at`, with a branch of its own.
pub fn via(at: SocketAddr, transport: &str) -> String {
    let branch = Param::Branch(unique("z9hG4bK").into());
    let rport = Param::Other(OtherParam::from("rport"), None);
    let sent_by = rsip::Uri { host_with_port: host(at), ..bare() };
    let transport = rsip::Transport::from_str(transport).unwrap_or_default();
    typed::Via { version: rsip::Version::V2, transport, uri: sent_by, params: vec![branch, rport] }.to_string()
}

/// The Contact of a phone at `at`; by UDP where no transport is named.
pub(crate) fn contact(user: &str, at: SocketAddr, transport: Option<&str>) -> String {
    // Param::Transport is written in capitals.
    let name = |t: &str| Param::Other(OtherParam::from("transport"), Some(OtherParamValue::from(t.to_lowercase())));
    let uri = rsip::Uri { params: transport.map(name).into_iter().collect(), ..address(user, host(at)) };
    typed::Contact { display_name: None, uri, params: Vec::new() }.to_string()
}

/// From of a phone at `at`, with its tag.
pub fn tagged(user: &str, at: SocketAddr, tag: &str) -> String {
    typed::From { display_name: None, uri: address(user, host(at)), params: vec![Param::Tag(tag.into())] }.to_string()
}

fn address(user: &str, host_with_port: rsip::HostWithPort) -> rsip::Uri {
    let auth = Some(rsip::Auth { user: user.to_owned(), password: None });
    rsip::Uri { scheme: Some(rsip::Scheme::Sip), auth, host_with_port, ..bare() }
}

fn bare() -> rsip::Uri {
    rsip::Uri { scheme: None, auth: None, host_with_port: rsip::HostWithPort::default(), params: Vec::new(), headers: Vec::new() }
}

/// rsip writes an IPv6 address without its brackets.
fn host(at: SocketAddr) -> rsip::HostWithPort {
    let host = match at.ip() {
        IpAddr::V4(ip) => rsip::Host::IpAddr(ip.into()),
        IpAddr::V6(_) => rsip::Host::Domain(bracketed(&at.ip().to_string()).into()),
    };
    rsip::HostWithPort { host, port: Some(at.port().into()) }
}

/// An address as it stands in a URI: IPv6 in brackets.
pub fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// The URI of a name-addr or addr-spec.
pub(crate) fn uri_of(value: &str) -> &str {
    Parts::of(value).map_or("", |parts| parts.uri.trim())
}

/// The address in a sip URI, if its host is an IP literal; the port is 5060 where it says none.
pub(crate) fn uri_address(uri: &str) -> Option<SocketAddr> {
    if beyond::uri(uri).is_none() {
        return rsip::Uri::try_from(uri).ok()?.host_with_port.try_into().ok();
    }
    let rest = uri.strip_prefix("sip:")?.split([';', '?']).next()?;
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host_address(host)
}

/// The same of host and port alone.
pub(crate) fn host_address(host: &str) -> Option<SocketAddr> {
    let bare = || host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>().ok();
    host.parse().ok().or_else(|| Some(SocketAddr::new(bare()?, 5060)))
}

fn received(via: &str, source: SocketAddr) -> String {
    let mut parts: Vec<String> = via.split(';').map(|p| p.trim().to_owned()).collect();
    for part in parts.iter_mut().filter(|p| *p == "rport") {
        *part = format!("rport={}", source.port());
    }
    if !parts.iter().any(|p| p.starts_with("received=")) {
        parts.push(format!("received={}", source.ip()));
    }
    parts.join(";")
}
