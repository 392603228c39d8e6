//! Bodies of several parts (RFC 5621, RFC 2046 §5.1): the session description beside a location.

use std::net::SocketAddr;

use crate::beyond::parameter;
use crate::message::Message;
use crate::sdp::RemoteSdp;
use crate::unique;

/// Parts read of one body; an emergency call has a handful.
const MAX_PARTS: usize = 16;
/// How deep a multipart within a multipart is looked into.
const MAX_DEPTH: usize = 4;

/// A location that a caller sends along, by value (RFC 6442 §4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Content-ID without the angle brackets.
    id: String,
    /// PIDF-LO.
    pidf: String,
}

impl Location {
    /// With an id of its own.
    pub fn new(pidf: String) -> Location {
        Location { id: format!("{}@caller.invalid", unique("l")), pidf }
    }

    /// Puts the description and the location into a request, with the header fields that name the location.
    pub(crate) fn attach(&self, request: &mut Message, description: &[u8]) {
        // RFC 2046 §5.1.1: the boundary occurs in no part.
        let mut boundary = unique("b");
        let description = String::from_utf8_lossy(description);
        while self.pidf.contains(&boundary) || description.contains(&boundary) {
            boundary = unique("b");
        }
        let Location { id, pidf } = self;
        request.add("Geolocation", format!("<cid:{id}>"));
        request.add("Geolocation-Routing", "yes");
        request.add("Supported", "geolocation");
        request.add("MIME-Version", "1.0");
        let body = format!(
            "--{boundary}\r\nContent-Type: application/sdp\r\n\r\n{description}\r\n\
             --{boundary}\r\nContent-Type: application/pidf+xml\r\nContent-ID: <{id}>\r\n\
             Content-Disposition: render;handling=optional\r\n\r\n{pidf}\r\n--{boundary}--\r\n"
        );
        request.add("Content-Type", format!("multipart/mixed;boundary={boundary}"));
        request.body = body.into_bytes();
    }
}

impl Message {
    /// The session description, also where it is a part of the body; `None`: there is none.
    pub fn description(&self) -> Option<&[u8]> {
        // RFC 3261 §20.15 asks for a type; who says none, and has a body all the same, means what everybody sends.
        let content_type = self.all("Content-Type").next().unwrap_or("application/sdp");
        find_sdp(content_type, &self.body, 0).filter(|sdp| !sdp.is_empty())
    }

    /// Where the description says that audio goes; `None`: it says nothing of the kind.
    pub fn audio_target(&self) -> Option<SocketAddr> {
        RemoteSdp::parse(self.description()?)?.audio_target()
    }
}

fn find_sdp<'a>(content_type: &str, body: &'a [u8], depth: usize) -> Option<&'a [u8]> {
    let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type == "application/sdp" {
        return Some(body);
    }
    if !media_type.starts_with("multipart/") || depth == MAX_DEPTH {
        return None;
    }
    let boundary = parameter(content_type, "boundary")?;
    let boundary = boundary.trim_matches('"');
    parts(body, boundary).into_iter().find_map(|part| {
        let (head, content) = split_head(part);
        find_sdp(&part_type(head)?, content, depth + 1)
    })
}

/// What lies between the delimiter lines.
fn parts<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}").into_bytes();
    let (mut found, mut start, mut at) = (Vec::new(), None, 0);
    while at < body.len() && found.len() < MAX_PARTS && !delimiter.is_empty() {
        let end = body[at..].iter().position(|b| *b == b'\n').map_or(body.len(), |n| at + n + 1);
        let line = body[at..end].trim_ascii_end();
        let closes = line.strip_prefix(&delimiter[..]).map(|rest| rest == b"--");
        if line == delimiter || closes == Some(true) {
            if let Some(start) = start.take() {
                // The line break before a delimiter belongs to the delimiter.
                let part: &[u8] = &body[start..at];
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                found.push(part.strip_suffix(b"\r").unwrap_or(part));
            }
            if closes == Some(true) {
                break;
            }
            start = Some(end);
        }
        at = end;
    }
    found
}

fn split_head(part: &[u8]) -> (&[u8], &[u8]) {
    if let Some(content) = part.strip_prefix(b"\r\n") {
        return (b"", content);
    }
    match part.windows(4).position(|w| w == b"\r\n\r\n") {
        Some(end) => (&part[..end], &part[end + 4..]),
        None => (part, b""),
    }
}

fn part_type(head: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(head).replace("\r\n ", " ").replace("\r\n\t", " ");
    head.split("\r\n").find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.43.9\r\ns=-\r\nc=IN IP4 127.0.43.9\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n";

    fn with(content_type: &str, body: &str) -> Option<String> {
        let message = Message::request("INVITE", "sip:112@x").with_body(content_type, body);
        message.description().map(|sdp| String::from_utf8(sdp.to_vec()).unwrap())
    }

    #[test]
    fn a_location_goes_beside_the_description_and_both_are_found_again() {
        let mut invite = Message::request("INVITE", "sip:112@x");
        Location::new("<presence/>".to_owned()).attach(&mut invite, SDP.as_bytes());
        assert_eq!(invite.description(), Some(SDP.as_bytes()));
        let id = invite.header("Geolocation").strip_prefix("<cid:").and_then(|g| g.strip_suffix('>')).unwrap();
        let body = String::from_utf8(invite.body.clone()).unwrap();
        assert!(body.contains(&format!("Content-ID: <{id}>\r\n")) && body.contains("\r\n\r\n<presence/>\r\n--"), "{body}");
    }

    #[test]
    fn the_description_is_found_wherever_it_lies() {
        let sdp = Some(SDP.to_owned());
        assert_eq!(with("application/sdp", SDP), sdp);
        assert_eq!(with("Application/SDP;charset=utf-8", SDP), sdp);
        let last =
            format!("preamble\r\n--a b\r\n\r\nplain\r\n--a b\r\ncontent-type: application/sdp\r\n\r\n{SDP}\r\n--a b--\r\n");
        assert_eq!(with("multipart/mixed; boundary=\"a b\"", &last), sdp);
        let inner = format!("--i\r\nContent-Type:\r\n application/sdp\r\n\r\n{SDP}\r\n--i--\r\n");
        let outer = format!("--o\r\nContent-Type: multipart/alternative;boundary=i\r\n\r\n{inner}\r\n--o--\r\n");
        assert_eq!(with("multipart/mixed;boundary=o", &outer), sdp);
        assert_eq!(with("multipart/mixed;boundary=o", &inner), None, "another boundary");
        assert_eq!(with("multipart/mixed", &inner), None, "no boundary");
        assert_eq!(with("text/plain", SDP), None);
        assert_eq!(with("multipart/mixed;boundary=x", "--x\r\nContent-Type: application/sdp"), None, "cut off");
    }
}
