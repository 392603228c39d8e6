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
    /// The blank line between the two is missing; it is put there with other content.
    joined: bool,
}

/// A multipart body taken apart, one level deep.
#[derive(Clone, Debug)]
pub struct Multipart {
    body: Bytes,
    parts: Vec<Part>,
    /// The last delimiter is there.
    closed: bool,
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
    /// Takes a body apart by the boundary in its Content-Type. Lenient where what is meant is plain: a last delimiter that is missing, a
    /// part without the blank line before an SDP or XML. What is between two delimiters and is no part is left out, and crosses all the same.
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
                parts.extend(part(&body, start, end));
            }
            start = Some(next);
            if last {
                break;
            }
        }
        let closed = start.is_some_and(|start| body[..start].ends_with(b"--"));
        if let Some(start) = start.filter(|_| !closed) {
            parts.extend(part(&body, start, body.len()));
        }
        if parts.is_empty() { Err(MultipartError::Structure) } else { Ok(Multipart { body, parts, closed }) }
    }

    /// It was read other than as RFC 2046 has it, for the sake of this part.
    pub fn is_repaired(&self, index: usize) -> bool {
        self.parts.get(index).is_some_and(|part| part.joined || (!self.closed && index + 1 == self.parts.len()))
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
        out.extend_from_slice(if part.joined { b"\r\n" } else { &self.body[part.head.end..part.content.start] });
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

/// Splits `start..end` into header fields, each with its line break, and content. `None`: it has no content, or none that can be told.
fn part(body: &[u8], start: usize, end: usize) -> Option<Part> {
    let octets = body.get(start..end)?;
    if octets.starts_with(b"\r\n") {
        return Some(Part { head: start..start, content: start + 2..end, joined: false });
    }
    let blank = memchr::memmem::find(octets, b"\r\n\r\n");
    if let Some(at) = content_line(&octets[..blank.map_or(octets.len(), |at| at + 2)]) {
        return Some(Part { head: start..start + at, content: start + at..end, joined: true });
    }
    let head_end = blank?;
    Some(Part { head: start..start + head_end + 2, content: start + head_end + 4..end, joined: false })
}

/// Where among header fields a line stands that is none, but the first of an SDP or of an XML.
fn content_line(head: &[u8]) -> Option<usize> {
    let starts = memchr::memmem::find_iter(head, b"\r\n").map(|at| at + 2);
    starts.into_iter().find(|at| {
        let line = &head[*at..];
        line.starts_with(b"<") || line.starts_with(b"v=0\r") || line.starts_with(b"v=0\n")
    })
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

    /// As some write them, NENA's own examples among them.
    #[test]
    fn repaired() {
        let joined = "--b\r\nContent-Type: application/sdp\r\nv=0\r\no=x\r\n--b\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x>\r\n<?xml?>\r\n--b--\r\n";
        let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from(joined)).expect("read");
        assert_eq!((parts.content(0), parts.content(1)), (Some("v=0\r\no=x".into()), Some("<?xml?>".into())));
        assert!(parts.is_repaired(0) && parts.is_repaired(1));
        assert_eq!(parts.header(1, HeaderId::ContentType), Some("application/pidf+xml"));
        assert_eq!(parts.replace(0, b"NEW"), joined.replace("sdp\r\nv=0\r\no=x", "sdp\r\n\r\nNEW"));
        // The blank line comes later, or the last delimiter never.
        let later = "--b\r\nContent-Type: application/sdp\r\nv=0\r\no=x\r\n\r\n\r\n--b--";
        let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from(later)).expect("read");
        assert_eq!(parts.content(0), Some("v=0\r\no=x\r\n\r\n".into()));
        for end in ["", "\r\n--b"] {
            let open =
                format!("--b\r\nContent-Type: text/plain\r\n\r\nx\r\n--b\r\nContent-Type: application/sdp\r\n\r\nv=0{end}");
            let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from(open.clone())).expect("read");
            assert_eq!((parts.len(), parts.is_repaired(0), parts.is_repaired(1)), (2, false, true), "{open}");
            assert!(parts.content(1).is_some_and(|content| content.starts_with(b"v=0")));
        }
        // What is no part hides none.
        let broken = "--b\r\nContent-Type: text/plain\r\n--b\r\n--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--";
        let parts = Multipart::parse("multipart/mixed;boundary=b", Bytes::from(broken)).expect("read");
        assert_eq!((parts.find("application/sdp"), parts.len()), (Some(0), 1));
        assert_eq!(parts.replace(0, b"NEW"), broken.replace("v=0", "NEW"));
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
            ("multipart/mixed;boundary=x", "--x\r\nA: b\r\n--x--", Structure),
            ("multipart/mixed;boundary=x", "--x\r\n--x--", Structure),
        ] {
            assert_eq!(Multipart::parse(content_type, Bytes::from(body)).err(), Some(error), "{content_type} {body}");
        }
        let many = "--x\r\n\r\na\r\n".repeat(MAX_PARTS + 1) + "--x--";
        assert_eq!(Multipart::parse("multipart/mixed;boundary=x", Bytes::from(many)).err(), Some(TooManyParts));
    }
}
