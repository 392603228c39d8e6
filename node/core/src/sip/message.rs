//! A received message: immutable, cheap to clone, its fields as they came.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::draft::Draft;
use super::error::{ParseError, ParseErrorKind};
use super::header::HeaderId;
use super::method::Method;
use super::name_addr;
use super::octets::has_escapes;
use super::scan::{FieldSpan, Scan, StartLine, head_len, scan};
use super::text::{Span, has_hole, params, split_list};
use super::via::Via;

/// One header field: name and value as received, a folded value on one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Which.
    pub id: HeaderId,
    /// Name as received.
    pub name: &'a str,
    /// Value as received, without the white space around it.
    pub value: &'a str,
}

/// A received message that has its mandatory fields: Via, From, To, Call-ID and a CSeq that fits (RFC 3261 §8.1.1).
#[derive(Clone, Debug)]
pub struct Message {
    raw: Bytes,
    body: Bytes,
    parts: Arc<MessageParts>,
}

#[derive(Debug)]
struct MessageParts {
    head: Bytes,
    fields: Vec<FieldSpan>,
    method: Method,
    start: StartLine,
    cseq: u32,
    call_id: Span,
    from: Span,
    to: Span,
    from_tag: Option<Span>,
    to_tag: Option<Span>,
    via: Via,
}

impl Message {
    /// Reads a datagram or one framed message. Empty lines before it are skipped; what follows Content-Length octets of body is
    /// cut off; without Content-Length the rest is the body (RFC 3261 §18.3). Octets that are no UTF-8 stay what they are
    /// (`octets`), except in the first line, Via, Call-ID and CSeq, where they are an error.
    pub fn parse(raw: Bytes) -> Result<Message, ParseError> {
        // RFC 3261 §7.5: CRLFs before the first line are ignored.
        let mut raw = raw;
        while raw.starts_with(b"\r\n") {
            raw.advance(2);
        }
        let head_len = match head_len(&raw) {
            Ok(length) => length,
            Err(kind) => return Err(unframed(&raw, kind)),
        };
        let scan = scan(raw.slice(..head_len));
        let (parts, length) = match MessageParts::from_scan(&scan) {
            Ok(found) => found,
            Err(kind) => return Err(scan.error(kind)),
        };
        let available = raw.len() - head_len;
        let length = length.unwrap_or(available);
        if length > available {
            return Err(scan.error(ParseErrorKind::Truncated));
        }
        if length > super::limits::MAX_BODY {
            return Err(scan.error(ParseErrorKind::BodyTooLarge));
        }
        raw.truncate(head_len + length);
        let body = raw.slice(head_len..);
        Ok(Message { raw, body, parts: Arc::new(parts.with(scan)) })
    }

    /// The whole message as received.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// Whether this is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.parts.start, StartLine::Request { .. })
    }

    /// Method of the request, or the one in the CSeq of a response.
    pub fn method(&self) -> &Method {
        &self.parts.method
    }

    /// Request-URI as received, of whatever scheme.
    pub fn request_uri(&self) -> Option<&str> {
        match self.parts.start {
            StartLine::Request { uri, .. } => Some(self.parts.text(uri)),
            StartLine::Response { .. } => None,
        }
    }

    /// Status of a response, 100-699.
    pub fn status(&self) -> Option<u16> {
        match self.parts.start {
            StartLine::Response { status, .. } => Some(status),
            StartLine::Request { .. } => None,
        }
    }

    /// Reason phrase of a response; empty for a request.
    pub fn reason(&self) -> &str {
        match self.parts.start {
            StartLine::Response { reason, .. } => self.parts.text(reason),
            StartLine::Request { .. } => "",
        }
    }

    /// Call-ID.
    pub fn call_id(&self) -> &str {
        self.parts.text(self.parts.call_id)
    }

    /// CSeq number, below 2^31.
    pub fn cseq(&self) -> u32 {
        self.parts.cseq
    }

    /// From as received.
    pub fn from(&self) -> &str {
        self.parts.text(self.parts.from)
    }

    /// To as received.
    pub fn to(&self) -> &str {
        self.parts.text(self.parts.to)
    }

    /// Tag of From; `None` if there is none (RFC 2543 peers).
    #[expect(clippy::wrong_self_convention, reason = "the tag of the From field")]
    pub fn from_tag(&self) -> Option<&str> {
        self.parts.from_tag.map(|span| self.parts.text(span))
    }

    /// Tag of To; `None` outside a dialog.
    pub fn to_tag(&self) -> Option<&str> {
        self.parts.to_tag.map(|span| self.parts.text(span))
    }

    /// The topmost Via value.
    pub fn top_via(&self) -> &Via {
        &self.parts.via
    }

    /// The fields in order.
    pub fn headers(&self) -> impl Iterator<Item = Field<'_>> {
        let parts = &*self.parts;
        parts.fields.iter().map(|field| Field { id: field.id, name: parts.text(field.name), value: parts.text(field.value) })
    }

    /// The value of the first field of that name.
    pub fn first(&self, id: HeaderId) -> Option<&str> {
        self.all(id).next()
    }

    /// The values of all fields of that name, each whole.
    pub fn all(&self, id: HeaderId) -> impl Iterator<Item = &str> {
        let parts = &*self.parts;
        parts.fields.iter().filter(move |field| field.id == id).map(|field| parts.text(field.value))
    }

    /// The elements of all fields of that name, in order: lists are split at their commas, quoted strings and angle brackets
    /// respected; a header that is no list ([`HeaderId::is_list`]) is not split.
    pub fn values(&self, id: HeaderId) -> impl Iterator<Item = &str> {
        let list = id.is_list();
        self.all(id).flat_map(move |value| {
            let elements = list.then(|| split_list(value)).into_iter().flatten();
            elements.chain((!list).then_some(value))
        })
    }

    /// The value of the first field of that name (any case, compact or long).
    pub fn first_named(&self, name: &str) -> Option<&str> {
        match HeaderId::from_name(name) {
            HeaderId::Other => {
                let found = self.headers().find(|field| field.id == HeaderId::Other && field.name.eq_ignore_ascii_case(name));
                found.map(|field| field.value)
            }
            id => self.first(id),
        }
    }

    /// The first value of that name as a number without sign: Max-Forwards, Expires, RSeq. `None` if there is none or it is no
    /// number below 2^32.
    pub fn number(&self, id: HeaderId) -> Option<u32> {
        let digits = self.first(id)?.split([';', ' ', '\t', '(']).next()?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        digits.parse().ok()
    }

    /// The body, byte for byte.
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// Content-Type as received.
    pub fn content_type(&self) -> Option<&str> {
        self.first(HeaderId::ContentType)
    }

    /// A response to this request with what RFC 3261 §8.2.6.2 copies: Via, From, To, Call-ID, CSeq in the order of the
    /// request (Via lists as one field a value, so that the topmost can be replaced), and Timestamp in a 100 (§8.2.6.1).
    /// The To tag is the caller's.
    pub fn response(&self, status: u16, reason: Option<&str>) -> Draft {
        let mut draft = Draft::response(status, reason);
        for field in self.headers() {
            match field.id {
                HeaderId::Via => split_list(field.value).for_each(|value| {
                    draft.push(HeaderId::Via, value);
                }),
                HeaderId::From | HeaderId::To | HeaderId::CallId | HeaderId::CSeq => {
                    draft.push(field.id, field.value);
                }
                HeaderId::Timestamp if status == 100 => {
                    draft.push(field.id, field.value);
                }
                _ => {}
            }
        }
        draft
    }
}

/// The error of a head that does not end within what arrived.
fn unframed(raw: &Bytes, kind: ParseErrorKind) -> ParseError {
    let head = raw.slice(..raw.len().min(super::limits::MAX_HEAD));
    let scan = scan(head);
    let kind = match scan.fault {
        Some(ParseErrorKind::NotSip) => ParseErrorKind::NotSip,
        _ => kind,
    };
    scan.error(kind)
}

impl MessageParts {
    /// Checks what every message must have; the Content-Length, where there is one, beside it.
    fn from_scan(scan: &Scan) -> Result<(MessageParts, Option<usize>), ParseErrorKind> {
        let fault = scan.fault;
        let Some(start) = scan.start.clone() else { return Err(fault.unwrap_or(ParseErrorKind::NotSip)) };
        if let Some(fault) = fault {
            return Err(fault);
        }
        let text = scan.text();
        check_single(scan, &start)?;
        let need = |id| scan.find(id).ok_or(ParseErrorKind::Missing(id));
        let via = need(HeaderId::Via)?.of(text);
        // RFC 4475 §3.1.2.1: whose answer goes where is not to be guessed.
        if has_hole(via) {
            return Err(ParseErrorKind::Via);
        }
        let via = Via::parse(split_list(via).next().unwrap_or("")).map_err(|_| ParseErrorKind::Via)?;
        let from = need(HeaderId::From)?;
        let to = need(HeaderId::To)?;
        let call_id = need(HeaderId::CallId)?;
        let (cseq, cseq_method) = parse_cseq(need(HeaderId::CSeq)?.of(text)).ok_or(ParseErrorKind::CSeq)?;
        let from_tag = address_tag(text, from).ok_or(ParseErrorKind::From)?;
        let to_tag = address_tag(text, to).ok_or(ParseErrorKind::To)?;
        let id = call_id.of(text);
        if id.is_empty() || id.bytes().any(|byte| byte <= b' ') {
            return Err(ParseErrorKind::CallId);
        }
        if scan.escaped {
            check_octets(scan)?;
        }
        let method = match &start {
            // RFC 4475 §3.1.2.18: that the method is unknown says more.
            StartLine::Request { method, .. } if *method != cseq_method => {
                let unknown = matches!(method, Method::Other(_));
                return Err(if unknown { ParseErrorKind::UnknownMethod } else { ParseErrorKind::CSeqMethod });
            }
            _ => cseq_method,
        };
        let length = scan.content_length()?;
        let (head, fields) = (Bytes::new(), Vec::new());
        Ok((MessageParts { head, fields, method, start, cseq, call_id, from, to, from_tag, to_tag, via }, length))
    }

    fn with(mut self, scan: Scan) -> MessageParts {
        self.head = scan.head;
        self.fields = scan.fields;
        self
    }

    /// The head was made UTF-8 by the scanner and spans lie between ASCII characters, so this never falls back.
    fn text(&self, span: Span) -> &str {
        self.head.get(span.range()).and_then(|octets| std::str::from_utf8(octets).ok()).unwrap_or("")
    }
}

/// In a response only what it is matched by must be single: of the rest the first counts, lest a call be lost for it.
fn check_single(scan: &Scan, start: &StartLine) -> Result<(), ParseErrorKind> {
    let request = matches!(start, StartLine::Request { .. });
    let counts = |id: HeaderId| {
        use HeaderId::{CSeq, CallId, ContentLength, From, To};
        id.is_single() && (request || matches!(id, From | To | CallId | CSeq | ContentLength))
    };
    let mut seen = 0u64;
    for field in scan.fields.iter().filter(|field| counts(field.id)) {
        let bit = 1u64 << (field.id as u32);
        if seen & bit != 0 {
            return Err(ParseErrorKind::Duplicate(field.id));
        }
        seen |= bit;
    }
    Ok(())
}

/// Identifiers and the request line must be what was sent, or answers would not match. A reason phrase is for people.
fn check_octets(scan: &Scan) -> Result<(), ParseErrorKind> {
    let text = scan.text();
    let is_request = matches!(scan.start, Some(StartLine::Request { .. }));
    let first = text.lines().next().filter(|_| is_request).unwrap_or("");
    let ids = scan.fields.iter().filter(|field| matches!(field.id, HeaderId::Via | HeaderId::CallId | HeaderId::CSeq));
    let mut values = ids.map(|field| field.value.of(text)).chain([first]);
    if values.any(has_escapes) { Err(ParseErrorKind::Encoding) } else { Ok(()) }
}

/// RFC 3261 §20.16: a number below 2^31 and a method.
fn parse_cseq(value: &str) -> Option<(u32, Method)> {
    let (number, method) = value.split_once([' ', '\t'])?;
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok().filter(|number: &u32| *number < 1 << 31)?;
    Some((number, Method::parse(super::text::trim(method))?))
}

/// The tag of a From or To value, if any; `None` outside if the value is no address.
fn address_tag(text: &str, span: Span) -> Option<Option<Span>> {
    let parts = name_addr::split(span.of(text))?;
    if parts.uri.is_empty() {
        return None;
    }
    let tag = params(parts.params).get("tag").filter(|tag| !tag.is_empty());
    Some(tag.map(|tag| Span::within(text, tag)))
}
