//! SIP messages as a phone needs them: a start line, header fields in their order, a body (RFC 3261 §7).

use std::fmt::Write as _;
use std::net::SocketAddr;

/// Header fields of one message: more are an attack, and a phone needs some twenty.
const MAX_HEADERS: usize = 128;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StartLine {
    /// RFC 3261 §7.1.
    Request {
        /// In upper case, as received.
        method: String,
        /// As received.
        uri: String,
    },
    /// RFC 3261 §7.2.
    Response {
        /// 100..=699.
        code: u16,
        /// For people.
        reason: String,
    },
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The first line.
    pub(crate) start: StartLine,
    /// Names (long form where we know it) and values, unfolded.
    pub(crate) headers: Vec<(String, String)>,
    /// As long as Content-Length says.
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A request without header fields.
    pub(super) fn request(method: &str, uri: &str) -> Message {
        let start = StartLine::Request { method: method.to_owned(), uri: uri.to_owned() };
        Message { start, headers: Vec::new(), body: Vec::new() }
    }

    /// A response to `request`, with the fields that RFC 3261 §8.2.6.2 copies; `tag` goes to the To field if it has none.
    pub(super) fn response(request: &Message, source: SocketAddr, code: u16, reason: &str, tag: &str) -> Message {
        let start = StartLine::Response { code, reason: reason.to_owned() };
        let mut response = Message { start, headers: Vec::new(), body: Vec::new() };
        for (i, via) in request.all("Via").enumerate() {
            response.add("Via", if i == 0 { received(via, source) } else { via.to_owned() });
        }
        for route in request.all("Record-Route") {
            response.add("Record-Route", route);
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            let mut value = request.get(name).unwrap_or_default().to_owned();
            if name == "To" && code > 100 && param(&value, "tag").is_none() {
                let _ = write!(value, ";tag={tag}");
            }
            response.add(name, value);
        }
        response
    }

    /// Reads one datagram. `None`: not SIP, or so broken that nothing can be answered.
    pub(super) fn parse(datagram: &[u8]) -> Option<Message> {
        let end = datagram.windows(4).position(|w| w == b"\r\n\r\n")?;
        let head = std::str::from_utf8(&datagram[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let start = parse_start(lines.next()?)?;
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let (_, value) = headers.last_mut()?;
                value.push(' ');
                value.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':')?;
            if headers.len() == MAX_HEADERS {
                return None;
            }
            headers.push((long_form(name.trim()).to_owned(), value.trim().to_owned()));
        }
        let mut message = Message { start, headers, body: Vec::new() };
        let rest = &datagram[end + 4..];
        // RFC 3261 §18.3: without Content-Length the body is the rest of the datagram; a short one is an error.
        let length = match message.get("Content-Length") {
            Some(length) => length.parse().ok().filter(|&l| l <= rest.len())?,
            None => rest.len(),
        };
        message.body = rest[..length].to_vec();
        let whole = ["Via", "From", "To", "Call-ID"].iter().all(|name| message.get(name).is_some());
        (whole && message.cseq().is_some()).then_some(message)
    }

    /// The bytes to send.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut text = match &self.start {
            StartLine::Request { method, uri } => format!("{method} {uri} SIP/2.0\r\n"),
            StartLine::Response { code, reason } => format!("SIP/2.0 {code} {reason}\r\n"),
        };
        for (name, value) in self.headers.iter().filter(|(name, _)| name != "Content-Length") {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Adds a header field after the others.
    pub(super) fn add(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    /// Sets the body and its type.
    pub(super) fn set_body(&mut self, content_type: &str, body: impl Into<Vec<u8>>) {
        self.add("Content-Type", content_type);
        self.body = body.into();
    }

    /// The first header field of that (long) name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// All values of a list header field, commas split.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).flat_map(|(_, v)| split_commas(v))
    }

    /// Number and method of the CSeq field.
    pub(crate) fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.get("CSeq")?.split_once(' ')?;
        Some((number.parse().ok()?, method.trim()))
    }

    /// The method of a request; `None` for a response.
    pub(crate) fn method(&self) -> Option<&str> {
        match &self.start {
            StartLine::Request { method, .. } => Some(method),
            StartLine::Response { .. } => None,
        }
    }

    /// The status code of a response.
    pub(crate) fn code(&self) -> Option<u16> {
        match self.start {
            StartLine::Response { code, .. } => Some(code),
            StartLine::Request { .. } => None,
        }
    }

    /// The topmost Via's branch and sent-by.
    pub(super) fn branch(&self) -> Option<(&str, &str)> {
        let via = self.all("Via").next()?;
        let sent_by = via.split_once(char::is_whitespace)?.1.split(';').next()?.trim();
        Some((param(via, "branch")?, sent_by))
    }

    pub(crate) fn call_id(&self) -> &str {
        self.get("Call-ID").unwrap_or_default()
    }

    /// The tag of the From or To field.
    pub(super) fn tag(&self, name: &str) -> Option<&str> {
        param(self.get(name)?, "tag")
    }

    /// The URI of the first Contact.
    pub(super) fn contact(&self) -> Option<String> {
        self.all("Contact").next().and_then(addr_uri).map(str::to_owned)
    }

    /// For a ladder: `INVITE sip:112@… (CSeq 1)` or `200 OK (INVITE 1)`, with `+SDP` if there is one.
    pub(super) fn summary(&self) -> String {
        let (number, method) = self.cseq().unwrap_or((0, "?"));
        let mut text = match &self.start {
            StartLine::Request { method, uri } => format!("{method} {uri} (CSeq {number})"),
            StartLine::Response { code, reason } => format!("{code} {reason} ({method} {number})"),
        };
        if self.get("Content-Type").is_some_and(|t| t.eq_ignore_ascii_case("application/sdp")) {
            text.push_str(" +SDP");
        }
        text
    }
}

fn parse_start(line: &str) -> Option<StartLine> {
    if let Some(status) = line.strip_prefix("SIP/2.0 ") {
        let (code, reason) = status.split_once(' ').unwrap_or((status, ""));
        let code = code.parse().ok().filter(|c| (100..700).contains(c))?;
        return Some(StartLine::Response { code, reason: reason.to_owned() });
    }
    let (method, rest) = line.split_once(' ')?;
    let uri = rest.strip_suffix(" SIP/2.0")?;
    Some(StartLine::Request { method: method.to_owned(), uri: uri.to_owned() })
}

/// RFC 3261 §7.3.3: compact forms.
fn long_form(name: &str) -> &str {
    match name.to_ascii_lowercase().as_str() {
        "v" => "Via",
        "f" => "From",
        "t" => "To",
        "i" => "Call-ID",
        "m" => "Contact",
        "l" => "Content-Length",
        "c" => "Content-Type",
        "s" => "Subject",
        "k" => "Supported",
        "e" => "Content-Encoding",
        _ => name,
    }
}

/// RFC 3581 §4 and RFC 3261 §18.2.1: where the request was seen to come from.
fn received(via: &str, source: SocketAddr) -> String {
    let mut parts: Vec<String> = via.split(';').map(|p| p.trim().to_owned()).collect();
    for part in &mut parts {
        if part == "rport" {
            *part = format!("rport={}", source.port());
        }
    }
    if param(via, "received").is_none() {
        parts.push(format!("received={}", source.ip()));
    }
    parts.join(";")
}

/// The value of a parameter behind the address (never one inside `<…>` or quotes).
pub(super) fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let tail = match value.rfind('>') {
        Some(end) => &value[end + 1..],
        None => value,
    };
    tail.split(';').skip(1).find_map(|p| {
        let (n, v) = p.split_once('=').unwrap_or((p, ""));
        n.trim().eq_ignore_ascii_case(name).then(|| v.trim())
    })
}

/// The URI of a name-addr or addr-spec; parameters of an addr-spec are the header field's (RFC 3261 §20).
pub(super) fn addr_uri(value: &str) -> Option<&str> {
    match value.split_once('<') {
        Some((_, rest)) => rest.split_once('>').map(|(uri, _)| uri),
        None => value.split(';').next().map(str::trim),
    }
}

/// The address in a sip URI, if its host is an IP literal.
pub(super) fn uri_address(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let host_port = rest.split([';', '?']).next()?;
    let host_port = host_port.rsplit_once('@').map_or(host_port, |(_, h)| h);
    host_port.parse().ok().or_else(|| {
        let ip = host_port.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        Some(SocketAddr::new(ip, 5060))
    })
}

/// Splits at commas outside of quotes and angle brackets.
fn split_commas(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut angle) = (false, false);
    value
        .split(move |c| {
            match c {
                '"' => quoted = !quoted,
                '<' if !quoted => angle = true,
                '>' if !quoted => angle = false,
                _ => {}
            }
            c == ',' && !quoted && !angle
        })
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_compact_folded_and_listed_fields() {
        let text = "INVITE sip:112@127.0.0.1 SIP/2.0\r\nv: SIP/2.0/UDP 127.0.0.2:5070;branch=z9hG4bK1;rport, SIP/2.0/UDP h;branch=b\r\n\
            f: \"a, <b>\" <sip:x@h;tag=no>;tag=yes\r\nTo: <sip:112@h>\r\ni: id\r\nCSeq: 7 INVITE\r\nSubject: a\r\n b\r\nl: 2\r\n\r\nhi!";
        let m = Message::parse(text.as_bytes()).unwrap();
        assert_eq!(m.method(), Some("INVITE"));
        assert_eq!(m.all("Via").count(), 2);
        assert_eq!(m.branch(), Some(("z9hG4bK1", "127.0.0.2:5070")));
        assert_eq!(m.tag("From"), Some("yes"));
        assert_eq!(m.tag("To"), None);
        assert_eq!(m.get("Subject"), Some("a b"));
        assert_eq!((m.cseq(), m.body.as_slice()), (Some((7, "INVITE")), &b"hi"[..]));
        let source = SocketAddr::from(([127, 0, 0, 9], 999));
        let r = Message::response(&m, source, 200, "OK", "mine");
        assert_eq!(r.all("Via").next(), Some("SIP/2.0/UDP 127.0.0.2:5070;branch=z9hG4bK1;rport=999;received=127.0.0.9"));
        assert_eq!(r.tag("To"), Some("mine"));
        assert_eq!(Message::parse(&r.to_bytes()).unwrap().headers.len(), r.headers.len() + 1);
    }

    #[test]
    fn refuses_what_it_cannot_answer() {
        let good = "OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=b\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:h>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n\r\n";
        assert!(Message::parse(good.as_bytes()).is_some());
        for bad in [
            "",
            "\r\n\r\n",
            "\0\x01\r\n\r\n",
            &good.replace("Call-ID: c\r\n", ""),
            &good.replace("CSeq: 1", "CSeq: x"),
            &good.replace("SIP/2.0\r\nVia", "SIP/3.0\r\nVia"),
            &good.replace("CSeq", "Content-Length: 9\r\nCSeq"),
            &good.replace("CSeq", &format!("{}CSeq", "X: y\r\n".repeat(200))),
        ] {
            assert_eq!(Message::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn addresses_of_uris() {
        let a = |s| uri_address(s).map(|a| a.to_string());
        assert_eq!(a("sip:tok@127.0.0.1:5070;transport=udp").as_deref(), Some("127.0.0.1:5070"));
        assert_eq!(a("sip:127.0.0.1").as_deref(), Some("127.0.0.1:5060"));
        assert_eq!(a("sip:x@[::1]:99").as_deref(), Some("[::1]:99"));
        assert_eq!(a("sip:x@[::1]").as_deref(), Some("[::1]:5060"));
        assert_eq!(a("sip:x@host.example"), None);
        assert_eq!(a("tel:112"), None);
    }
}
