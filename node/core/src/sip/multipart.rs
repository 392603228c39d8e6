//! Multipart bodies (RFC 2046 §5.1, RFC 5621): finding the session description beside the location, and putting ours in its place.

use bytes::Bytes;

use super::header::HeaderId;
use super::text::{params, trim};

/// Parts of one body: SDP, PIDF-LO, and a few blocks of additional data (RFC 7852).
pub const MAX_PARTS: usize = 32;
/// Longest boundary (RFC 2046 §5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Why a body cannot be taken apart. The sender's fault: 400, or 415 where a part was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// The type is not multipart, or names no usable boundary.
    #[error("no multipart boundary")]
    Boundary,
    /// The boundary does not stand where it must, or does not close.
    #[error("bad multipart structure")]
    Structure,
    /// More than [`MAX_PARTS`].
    #[error("too many parts")]
    TooManyParts,
}

/// One part: its header fields and content, as places in the body.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    head: std::ops::Range<usize>,
    content: std::ops::Range<usize>,
}

/// A multipart body taken apart, one level deep.
#[derive(Clone, Debug)]
pub struct Multipart {
    body: Bytes,
    parts: Vec<Part>,
}

/// Whether a Content-Type is that type (any case, parameters aside): `is_type(value, "application/sdp")`.
pub fn is_type(content_type: &str, wanted: &str) -> bool {
    trim(content_type.split(';').next().unwrap_or("")).eq_ignore_ascii_case(wanted)
}

/// Whether a Content-Type is multipart of any kind.
pub fn is_multipart(content_type: &str) -> bool {
    trim(content_type).get(..10).is_some_and(|prefix| prefix.eq_ignore_ascii_case("multipart/"))
}

impl Multipart {
    /// Takes a body apart by the boundary in its Content-Type.
    pub fn parse(content_type: &str, body: Bytes) -> Result<Multipart, MultipartError> {
        let boundary =
            params(content_type).get("boundary").filter(|boundary| !boundary.is_empty() && boundary.len() <= MAX_BOUNDARY);
        let boundary = boundary.filter(|_| is_multipart(content_type)).ok_or(MultipartError::Boundary)?;
        let delimiter = format!("--{boundary}");
        let mut parts: Vec<Part> = Vec::new();
        let mut start = None;
        for at in memchr::memmem::find_iter(&body, delimiter.as_bytes()) {
            // RFC 2046 §5.1.1: the line break before a delimiter belongs to it.
            let line_start = if at == 0 { Some(0) } else { body[..at].ends_with(b"\r\n").then(|| at - 2) };
            let Some(end) = line_start else { continue };
            let Some((last, next)) = delimiter_end(&body, at + delimiter.len()) else { continue };
            if let Some(start) = start {
                if parts.len() == MAX_PARTS {
                    return Err(MultipartError::TooManyParts);
                }
                parts.push(part(&body, start, end)?);
            }
            if last {
                return if parts.is_empty() { Err(MultipartError::Structure) } else { Ok(Multipart { body, parts }) };
            }
            start = Some(next);
        }
        Err(MultipartError::Structure)
    }

    /// How many parts, at least one.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Never: a multipart without parts does not parse.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The content of a part; `None` beyond the last.
    pub fn content(&self, index: usize) -> Option<Bytes> {
        self.parts.get(index).map(|part| self.body.slice(part.content.clone()))
    }

    /// A header field of a part; folded values and those that are no UTF-8 are not found.
    pub fn header(&self, index: usize, id: HeaderId) -> Option<&str> {
        let head = std::str::from_utf8(&self.body[self.parts.get(index)?.head.clone()]).ok()?;
        let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| HeaderId::from_name(trim(name)) == id).map(|(_, value)| trim(value))
    }

    /// How a part is encoded (RFC 2045 §6.1), where it says so.
    pub fn encoding(&self, index: usize) -> Option<&str> {
        let head = std::str::from_utf8(&self.body[self.parts.get(index)?.head.clone()]).ok()?;
        let mut fields = head.split("\r\n").filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| trim(name).eq_ignore_ascii_case("content-transfer-encoding")).map(|(_, value)| trim(value))
    }

    /// The first part of that type. A part without Content-Type is text/plain (RFC 2046 §5.2).
    pub fn find(&self, wanted: &str) -> Option<usize> {
        (0..self.parts.len()).find(|&index| is_type(self.header(index, HeaderId::ContentType).unwrap_or("text/plain"), wanted))
    }

    /// The body with other content in one part; all else byte for byte. A Content-Length in the part is corrected.
    pub fn replace(&self, index: usize, content: &[u8]) -> Bytes {
        let Some(part) = self.parts.get(index) else { return self.body.clone() };
        let mut out = Vec::with_capacity(self.body.len() + content.len());
        out.extend_from_slice(&self.body[..part.head.start]);
        let mut head = &self.body[part.head.clone()];
        // A line ends in CRLF: a bare LF within one is part of it, and must not become a line break of ours.
        while let Some(end) = memchr::memmem::find(head, b"\r\n") {
            let (line, rest) = head.split_at(end + 2);
            head = rest;
            let name = line.split(|octet| *octet == b':').next().filter(|name| name.len() < line.len());
            let name = name.and_then(|name| std::str::from_utf8(name).ok()).unwrap_or("");
            if HeaderId::from_name(trim(name)) == HeaderId::ContentLength {
                out.extend_from_slice(format!("Content-Length: {}\r\n", content.len()).as_bytes());
            } else {
                out.extend_from_slice(line);
            }
        }
        out.extend_from_slice(head);
        out.extend_from_slice(&self.body[part.head.end..part.content.start]);
        out.extend_from_slice(content);
        out.extend_from_slice(&self.body[part.content.end..]);
        Bytes::from(out)
    }
}

/// What follows the delimiter: `--` for the last, white space, line break. Gives whether it is the last, and what is behind.
fn delimiter_end(body: &[u8], at: usize) -> Option<(bool, usize)> {
    if body[at..].starts_with(b"--") {
        return Some((true, at + 2));
    }
    let space = body[at..].iter().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    body[at + space..].starts_with(b"\r\n").then_some((false, at + space + 2))
}

/// Splits `start..end` into header fields, each with its line break, and content.
fn part(body: &[u8], start: usize, end: usize) -> Result<Part, MultipartError> {
    let octets = body.get(start..end).ok_or(MultipartError::Structure)?;
    if octets.starts_with(b"\r\n") {
        return Ok(Part { head: start..start, content: start + 2..end });
    }
    let head_end = memchr::memmem::find(octets, b"\r\n\r\n").ok_or(MultipartError::Structure)?;
    Ok(Part { head: start..start + head_end + 2, content: start + head_end + 4..end })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "Multipart/mixed; boundary=\"b--1\"";
    /// Found by fuzzing: a line that a bare LF cuts is one line.
    #[test]
    fn a_bare_line_feed_is_no_line_break() {
        let body = b"--b\r\nX: a\nl: 2\r\rY: b\r\n\r\nhi\r\n--b--".as_slice();
        let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from_static(body)).unwrap();
        assert_eq!(parts.replace(0, b"hi"), body);
        let short = b"--b\r\nl\n\r\n\r\nhi\r\n--b--".as_slice();
        let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from_static(short)).unwrap();
        assert_eq!(parts.replace(0, b"hi"), short);
    }

    const BODY: &[u8] = b"preamble --b--1\r\n--b--1\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x@y>\r\n\r\n<a>\xff\0--b--1</a>\r\n--b--1  \r\n\
        c:  Application/SDP;x=y\r\nl: 5\r\nX: kept\r\n\r\nv=0\r\n\r\n--b--1\r\n\r\nplain\r\n--b--1--\r\nepilogue";

    #[test]
    fn parts_are_found_and_replaced() {
        let multipart = Multipart::parse(TYPE, Bytes::from_static(BODY)).expect("valid");
        assert_eq!(
            (multipart.len(), multipart.find("application/sdp"), multipart.find("text/plain"), multipart.find("a/b")),
            (3, Some(1), Some(2), None)
        );
        assert_eq!(multipart.content(0), Some(Bytes::from_static(b"<a>\xff\0--b--1</a>")));
        assert_eq!(multipart.content(1), Some(Bytes::from_static(b"v=0\r\n")));
        assert_eq!((multipart.content(2), multipart.content(3)), (Some(Bytes::from_static(b"plain")), None));
        assert_eq!(multipart.header(1, HeaderId::ContentType), Some("Application/SDP;x=y"));
        assert_eq!(multipart.replace(0, b"<a>\xff\0--b--1</a>"), BODY);
        let replaced = multipart.replace(1, b"other body");
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        assert_eq!(text(&replaced), text(BODY).replace("l: 5", "Content-Length: 10").replace("v=0\r\n", "other body"));
        assert_eq!(multipart.replace(9, b"x"), BODY);
    }

    #[test]
    fn refused() {
        use MultipartError::*;
        for (content_type, body, error) in [
            ("application/sdp;boundary=x", "--x\r\n\r\na\r\n--x--", Boundary),
            ("multipart/mixed", "--x\r\n\r\na\r\n--x--", Boundary),
            ("multipart/mixed;boundary=", "", Boundary),
            ("multipart/mixed;boundary=x", "", Structure),
            ("multipart/mixed;boundary=x", "--x--", Structure),
            ("multipart/mixed;boundary=x", "--x\r\n\r\na\r\n--x", Structure),
            ("multipart/mixed;boundary=x", "--x\r\nA: b\r\n--x--", Structure),
            ("multipart/mixed;boundary=x", "--x\r\n--x--", Structure),
        ] {
            assert_eq!(Multipart::parse(content_type, Bytes::from(body)).err(), Some(error), "{content_type} {body}");
        }
        let many = "--x\r\n\r\na\r\n".repeat(MAX_PARTS + 1) + "--x--";
        assert_eq!(Multipart::parse("multipart/mixed;boundary=x", Bytes::from(many)).err(), Some(TooManyParts));
    }
}
