//! SIP messages made and read by hand: just enough to be a phone, and to be a wrong one.
//!
//! Independent of the product's own parser on purpose: what both got wrong alike, no test would see.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request or response. Header names are written in full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Names and values, in order. Content-Length is computed, not kept.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A token that no other message of this run has.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}{:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Plain audio toward `at`; `direction` is sendrecv, sendonly, …
pub fn sdp(at: SocketAddr, version: u32, direction: &str) -> Vec<u8> {
    let (ip, port) = (at.ip(), at.port());
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    format!(
        "v=0\r\no=phone 77 {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na={direction}\r\n"
    )
    .into_bytes()
}

/// An address as it stands in a URI: IPv6 in brackets.
pub fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

impl Message {
    /// A request without headers.
    pub fn request(method: &str, uri: &str) -> Message {
        Message { start: format!("{method} {uri} SIP/2.0"), headers: Vec::new(), body: Vec::new() }
    }

    /// An initial INVITE with SDP, from a phone at `from` (Contact, Via and media there).
    pub fn invite(uri: &str, from: SocketAddr, transport: &str) -> Message {
        Message::request("INVITE", uri)
            .with("Via", &format!("SIP/2.0/{transport} {from};branch={};rport", unique("z9hG4bK")))
            .with("Max-Forwards", "70")
            .with("From", &format!("<sip:caller@{from}>;tag={}", unique("f")))
            .with("To", &format!("<{uri}>"))
            .with("Call-ID", &unique("call"))
            .with("CSeq", "1 INVITE")
            .with("Contact", &format!("<sip:caller@{from};transport={}>", transport.to_lowercase()))
            .with_sdp(sdp(SocketAddr::new(from.ip(), 40_000), 1, "sendrecv"))
    }

    /// Reads a whole message; `None` when it is none.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
        // Octets that are no UTF-8 cross as they are, and a phone bears them.
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        if !start.starts_with("SIP/2.0 ") && !start.ends_with(" SIP/2.0") {
            return None;
        }
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let last = headers.last_mut()?;
                last.1.push(' ');
                last.1.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':')?;
            headers.push((full_name(name.trim()).to_owned(), value.trim().to_owned()));
        }
        headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Content-Length"));
        Some(Message { start, headers, body: bytes[end + 4..].to_vec() })
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

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Message {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this header once, with this value.
    #[must_use]
    pub fn replace(mut self, name: &str, value: &str) -> Message {
        match self.headers.iter_mut().find(|(n, _)| n.eq_ignore_ascii_case(name)) {
            Some(header) => value.clone_into(&mut header.1),
            None => return self.with(name, value),
        }
        self
    }

    /// Without this header.
    #[must_use]
    pub fn without(mut self, name: &str) -> Message {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self
    }

    /// With an SDP body.
    #[must_use]
    pub fn with_sdp(mut self, sdp: Vec<u8>) -> Message {
        self = self.replace("Content-Type", "application/sdp");
        self.body = sdp;
        self
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

    /// Status of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        self.start.strip_prefix("SIP/2.0 ").and_then(|s| s.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// First value of a header; empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    /// All values of a header, one a line.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.header("CSeq").split_once(' ').unwrap_or(("0", ""));
        (number.parse().unwrap_or(0), method.trim())
    }

    /// The tag of From or To; empty when there is none.
    pub fn tag(&self, name: &str) -> &str {
        self.header(name).rsplit_once(";tag=").map_or("", |(_, rest)| rest.split(';').next().unwrap_or_default())
    }

    /// The URI of a name-addr header.
    pub fn uri(&self, name: &str) -> &str {
        let value = self.header(name);
        value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri)
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
                let tagged = name.eq_ignore_ascii_case("To") && !to_tag.is_empty() && !value.contains(";tag=");
                response.headers.push((name.clone(), if tagged { format!("{value};tag={to_tag}") } else { value.clone() }));
            }
        }
        response
    }

    /// The ACK for a final response other than 2xx to this INVITE (RFC 3261 §17.1.1.3).
    #[must_use]
    pub fn ack_of(&self, response: &Message) -> Message {
        let uri = self.start.split(' ').nth(1).unwrap_or_default();
        let mut ack = Message::request("ACK", uri).with("Via", self.header("Via")).with("Max-Forwards", "70");
        for route in self.all("Route") {
            ack = ack.with("Route", route);
        }
        ack.with("From", self.header("From"))
            .with("To", response.header("To"))
            .with("Call-ID", self.header("Call-ID"))
            .with("CSeq", &format!("{} ACK", self.cseq().0))
    }

    /// The CANCEL for this INVITE (RFC 3261 §9.1).
    #[must_use]
    pub fn cancel(&self) -> Message {
        let uri = self.start.split(' ').nth(1).unwrap_or_default();
        Message::request("CANCEL", uri)
            .with("Via", self.header("Via"))
            .with("Max-Forwards", "70")
            .with("From", self.header("From"))
            .with("To", self.header("To"))
            .with("Call-ID", self.header("Call-ID"))
            .with("CSeq", &format!("{} CANCEL", self.cseq().0))
    }
}

fn full_name(name: &str) -> &str {
    match name {
        "v" => "Via",
        "f" => "From",
        "t" => "To",
        "i" => "Call-ID",
        "m" => "Contact",
        "l" => "Content-Length",
        "c" => "Content-Type",
        "k" => "Supported",
        _ => name,
    }
}

/// One side of an established dialog (RFC 3261 §12), able to make requests inside it.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// From of our requests, with our tag.
    pub local: String,
    /// To of our requests, with the far end's tag.
    pub remote: String,
    /// Call-ID.
    pub call_id: String,
    /// The far end's Contact URI.
    pub target: String,
    /// Route set in the order of sending.
    pub routes: Vec<String>,
    /// CSeq number of our last request.
    pub cseq: u32,
    /// Our own address, for Via and Contact.
    pub at: SocketAddr,
    /// UDP, TCP or TLS.
    pub transport: String,
}

impl Dialog {
    /// The caller's side, from its INVITE and the 2xx.
    pub fn of_caller(invite: &Message, ok: &Message, at: SocketAddr, transport: &str) -> Dialog {
        let mut routes: Vec<String> = ok.all("Record-Route").map(str::to_owned).collect();
        routes.reverse();
        Dialog {
            local: invite.header("From").to_owned(),
            remote: ok.header("To").to_owned(),
            call_id: invite.header("Call-ID").to_owned(),
            target: ok.uri("Contact").to_owned(),
            routes,
            cseq: invite.cseq().0,
            at,
            transport: transport.to_owned(),
        }
    }

    /// The called side, from the INVITE and its own 2xx.
    pub fn of_callee(invite: &Message, ok: &Message, at: SocketAddr) -> Dialog {
        Dialog {
            local: ok.header("To").to_owned(),
            remote: invite.header("From").to_owned(),
            call_id: invite.header("Call-ID").to_owned(),
            target: invite.uri("Contact").to_owned(),
            routes: invite.all("Record-Route").map(str::to_owned).collect(),
            cseq: 100,
            at,
            transport: "UDP".to_owned(),
        }
    }

    /// The next request of this side.
    pub fn request(&mut self, method: &str) -> Message {
        self.cseq += 1;
        self.numbered(method, self.cseq)
    }

    /// The ACK for a 2xx to the INVITE with this CSeq number (RFC 3261 §13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Message {
        self.numbered("ACK", cseq)
    }

    fn numbered(&self, method: &str, cseq: u32) -> Message {
        let mut request = Message::request(method, &self.target)
            .with("Via", &format!("SIP/2.0/{} {};branch={};rport", self.transport, self.at, unique("z9hG4bK")))
            .with("Max-Forwards", "70");
        for route in &self.routes {
            request = request.with("Route", route);
        }
        request
            .with("From", &self.local)
            .with("To", &self.remote)
            .with("Call-ID", &self.call_id)
            .with("CSeq", &format!("{cseq} {method}"))
            .with("Contact", &format!("<sip:phone@{};transport={}>", self.at, self.transport.to_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let at = "127.0.0.1:5060".parse().unwrap();
        let invite = Message::invite("sip:112@127.0.0.100", at, "UDP");
        assert_eq!(Message::parse(&invite.bytes()).unwrap(), invite);
        assert_eq!(invite.method(), "INVITE");
        assert_eq!(invite.cseq(), (1, "INVITE"));
        let ok = invite.response(200, "OK", "abc");
        assert_eq!((ok.status(), ok.tag("To")), (200, "abc"));
        assert_eq!(ok.response(200, "OK", "other").tag("To"), "abc");
        let ack = invite.ack_of(&invite.response(486, "Busy Here", "abc"));
        assert_eq!((ack.cseq(), ack.tag("To"), ack.header("Via")), ((1, "ACK"), "abc", invite.header("Via")));
        let cancel = invite.cancel();
        assert_eq!((cancel.cseq(), cancel.header("Via"), cancel.body.len()), ((1, "CANCEL"), invite.header("Via"), 0));
    }

    #[test]
    fn rubbish_is_none() {
        assert_eq!(Message::parse(b"hello\r\n\r\n"), None);
        assert_eq!(Message::parse(b"INVITE sip:a SIP/2.0\r\n"), None);
    }

    #[test]
    fn compact_and_folded_headers_are_read() {
        let m = Message::parse(b"BYE sip:a SIP/2.0\r\ni: 1\r\nSubject: a\r\n b\r\n\r\n").unwrap();
        assert_eq!((m.header("Call-ID"), m.header("Subject")), ("1", "a b"));
    }
}
