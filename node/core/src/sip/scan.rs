//! The scanner: one pass over the head of a message, giving the first line and the place of each header field.
//!
//! It never stops at the first fault: the fault is noted and the rest is read, so that an answer can be made.

use bytes::Bytes;

use super::error::{ParseError, ParseErrorKind, Salvage};
use super::header::HeaderId;
use super::limits::{MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_LINE, MAX_URI};
use super::method::Method;
use super::octets;
use super::text::{Span, split_list, trim};
use super::via::Via;

/// Where a field stands in the head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FieldSpan {
    pub(crate) id: HeaderId,
    pub(crate) name: Span,
    pub(crate) value: Span,
}

/// The first line.
#[derive(Clone, Debug)]
pub(crate) enum StartLine {
    Request { method: Method, uri: Span },
    Response { status: u16, reason: Span },
}

/// What one pass found.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The head as UTF-8 with folds undone: a slice of the message where it came like that.
    pub(crate) head: Bytes,
    /// `None` if it cannot be read.
    pub(crate) start: Option<StartLine>,
    /// Whether the first line is that of a request that may be answered, however bad it is.
    pub(crate) answerable: bool,
    pub(crate) fields: Vec<FieldSpan>,
    /// The first fault.
    pub(crate) fault: Option<ParseErrorKind>,
    /// Octets are no UTF-8: characters stand for them.
    pub(crate) escaped: bool,
}

/// Length of the head of `raw` with its empty line, if that is there and within the limit.
pub(crate) fn head_len(raw: &[u8]) -> Result<usize, ParseErrorKind> {
    let window = &raw[..raw.len().min(MAX_HEAD)];
    match memchr::memmem::find(window, b"\r\n\r\n") {
        Some(at) => Ok(at + 4),
        None if raw.len() > MAX_HEAD => Err(ParseErrorKind::HeadTooLarge),
        None => Err(ParseErrorKind::Unterminated),
    }
}

/// Scans a head (with or without its empty line).
pub(crate) fn scan(raw: Bytes) -> Scan {
    let (head, escaped) = normalise(raw);
    let mut scan =
        Scan { head: head.clone(), start: None, answerable: false, fields: Vec::with_capacity(24), fault: None, escaped };
    let text = std::str::from_utf8(&head).unwrap_or("");
    let mut at = 0;
    let mut first = true;
    while at < text.len() {
        let end = memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |offset| at + offset + 1);
        let line = scan.strip_line_end(&text[at..end]);
        let start = at;
        at = end;
        if first {
            first = false;
            scan.start_line(text, line);
        } else if line.is_empty() {
            break;
        } else if scan.fields.len() < MAX_HEADERS {
            scan.field(line, start);
        } else if id_at(line) == HeaderId::ContentLength {
            // It does not count: the writer adds one to what has none, and where the message ends on a stream must be known in any case.
            if scan.fields.len() < MAX_HEADERS + 2 {
                scan.field(line, start);
            }
        } else {
            scan.note(ParseErrorKind::TooManyHeaders);
        }
    }
    scan
}

impl Scan {
    fn note(&mut self, fault: ParseErrorKind) {
        self.fault.get_or_insert(fault);
    }

    /// RFC 3261 §7: lines end in CRLF, and in nothing else.
    fn strip_line_end<'a>(&mut self, line: &'a str) -> &'a str {
        let content = match line.strip_suffix("\r\n") {
            Some(content) => content,
            None => {
                self.note(ParseErrorKind::LineBreak);
                line.trim_end_matches(['\r', '\n'])
            }
        };
        if memchr::memchr2(b'\r', 0, content.as_bytes()).is_some() {
            self.note(ParseErrorKind::LineBreak);
        }
        if content.len() > MAX_LINE {
            self.note(ParseErrorKind::LineTooLong);
        }
        content
    }

    fn start_line(&mut self, text: &str, line: &str) {
        let is_status_line = line.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("SIP/"));
        let parsed = if is_status_line { status_line(text, line) } else { self.request_line(text, line) };
        match parsed {
            Ok(start) => self.start = Some(start),
            Err(fault) => {
                // The fault of the first line goes before one of its line end.
                self.fault = Some(fault);
            }
        }
    }

    /// RFC 3261 §7.1: method, Request-URI and version, one space between.
    fn request_line(&mut self, text: &str, line: &str) -> Result<StartLine, ParseErrorKind> {
        let (method, rest) = line.split_once(' ').ok_or(ParseErrorKind::NotSip)?;
        let (uri, version) = rest.trim_end_matches(' ').rsplit_once(' ').ok_or(ParseErrorKind::NotSip)?;
        let well_known = version.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("SIP/"));
        let method = Method::parse(method).filter(|_| well_known).ok_or(ParseErrorKind::NotSip)?;
        self.answerable = method != Method::Ack;
        if !version.eq_ignore_ascii_case("SIP/2.0") {
            return Err(ParseErrorKind::Version);
        }
        if uri.len() > MAX_URI {
            return Err(ParseErrorKind::UriTooLong);
        }
        let odd = |byte: u8| byte <= b' ' || byte == 0x7f || matches!(byte, b'<' | b'>' | b'"');
        if uri.is_empty() || uri.bytes().any(odd) || rest.ends_with(' ') {
            return Err(ParseErrorKind::StartLine);
        }
        Ok(StartLine::Request { method, uri: Span::within(text, uri) })
    }

    fn field(&mut self, line: &str, start: usize) {
        let colon = memchr::memchr(b':', line.as_bytes());
        // RFC 3261 §7.3.1: white space may stand before the colon.
        let name = colon.map(|colon| (colon, line[..colon].trim_end_matches([' ', '\t'])));
        let Some((colon, name)) = name.filter(|(_, name)| super::is_token(name)) else {
            // RFC 3261 §8.2.2: what is malformed and not needed is ignored; so is what nobody can name. It does not go on.
            if is_needed(id_at(line)) {
                self.note(ParseErrorKind::Header);
            }
            return;
        };
        let raw = &line[colon + 1..];
        let value = trim(raw);
        let value_at = start + colon + 1 + (raw.len() - raw.trim_start_matches([' ', '\t']).len());
        self.fields.push(FieldSpan {
            id: HeaderId::from_name(name),
            name: Span::new(start, start + name.len()),
            value: Span::new(value_at, value_at + value.len()),
        });
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.head).unwrap_or("")
    }

    pub(crate) fn find(&self, id: HeaderId) -> Option<Span> {
        self.fields.iter().find(|field| field.id == id).map(|field| field.value)
    }

    /// The number in Content-Length, if there is one that can be skipped on a stream however large a body it says.
    pub(crate) fn declared_length(&self) -> Option<usize> {
        let digits = self.find(HeaderId::ContentLength)?.of(self.text());
        digits.parse().ok().filter(|_| digits.len() <= 9)
    }

    /// The number in Content-Length, if there is one.
    pub(crate) fn content_length(&self) -> Result<Option<usize>, ParseErrorKind> {
        let mut values = self.fields.iter().filter(|field| field.id == HeaderId::ContentLength);
        let Some(field) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            // Two readers might take different ones: RFC 3261 §7.3.1 allows one.
            return Err(ParseErrorKind::Duplicate(HeaderId::ContentLength));
        }
        let digits = field.value.of(self.text());
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseErrorKind::ContentLength);
        }
        match digits.trim_start_matches('0') {
            "" => Ok(Some(0)),
            // More digits than any body has: the number itself does not matter.
            long if long.len() > 9 => Err(ParseErrorKind::BodyTooLarge),
            short => match short.parse() {
                Ok(length) if length <= MAX_BODY => Ok(Some(length)),
                _ => Err(ParseErrorKind::BodyTooLarge),
            },
        }
    }

    /// The error for a fault, with what an answer needs.
    pub(crate) fn error(&self, kind: ParseErrorKind) -> ParseError {
        let mut salvage = Salvage::default();
        if self.answerable {
            let text = self.text();
            for field in &self.fields {
                let value = field.value.of(text);
                if memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()).is_some() {
                    continue;
                }
                match field.id {
                    HeaderId::Via => {
                        let values = split_list(value).map(|value| (HeaderId::Via, value.to_owned()));
                        salvage.fields.extend(values);
                    }
                    HeaderId::From | HeaderId::To | HeaderId::CallId | HeaderId::CSeq
                        if !salvage.fields.iter().any(|(id, _)| *id == field.id) =>
                    {
                        salvage.fields.push((field.id, value.to_owned()));
                    }
                    _ => {}
                }
            }
            let top = salvage.fields.iter().find(|(id, _)| *id == HeaderId::Via);
            salvage.via = top.and_then(|(_, value)| Via::parse_any_version(value).ok());
        }
        ParseError::new(kind, self.answerable, salvage)
    }
}

/// The field that a line begins with, however it goes on.
fn id_at(line: &str) -> HeaderId {
    let end = line.find(|c: char| !c.is_ascii() || !super::is_token(c.encode_utf8(&mut [0; 4]))).unwrap_or(line.len());
    HeaderId::from_name(&line[..end])
}

/// Without it no message is understood, or answered rightly.
fn is_needed(id: HeaderId) -> bool {
    use HeaderId::{CSeq, CallId, ContentLength, From, To, Via};
    matches!(id, Via | From | To | CallId | CSeq | ContentLength)
}

/// RFC 3261 §7.2. A missing phrase, with or without its space, is let pass.
fn status_line(text: &str, line: &str) -> Result<StartLine, ParseErrorKind> {
    let (version, rest) = line.split_once(' ').ok_or(ParseErrorKind::NotSip)?;
    if !version.eq_ignore_ascii_case("SIP/2.0") {
        return Err(ParseErrorKind::Version);
    }
    let (code, reason) = rest.split_once(' ').unwrap_or((rest, &rest[rest.len()..]));
    let three_digits = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let status =
        code.parse().ok().filter(|status| three_digits && (100..=699).contains(status)).ok_or(ParseErrorKind::StartLine)?;
    Ok(StartLine::Response { status, reason: Span::within(text, reason) })
}

/// The head as UTF-8 on unfolded lines, and whether characters stand for octets that are none. Nothing is copied if it came like that.
fn normalise(raw: Bytes) -> (Bytes, bool) {
    let folded = memchr::memchr_iter(b'\n', &raw).any(|at| matches!(raw.get(at + 1), Some(b' ' | b'\t')));
    let unfolded = if folded { Bytes::from(unfold(&raw)) } else { raw };
    match octets::escape(&unfolded) {
        None => (unfolded, false),
        Some(text) => (Bytes::from(text), true),
    }
}

/// RFC 3261 §7.3.1: a line break with the white space around it is one space.
fn unfold(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len());
    let mut at = 0;
    while at < raw.len() {
        let rest = &raw[at..];
        if rest.starts_with(b"\r\n") && matches!(rest.get(2), Some(b' ' | b'\t')) {
            while matches!(out.last(), Some(b' ' | b'\t')) {
                out.pop();
            }
            out.push(b' ');
            at += 2;
            while matches!(raw.get(at), Some(b' ' | b'\t')) {
                at += 1;
            }
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    out
}
