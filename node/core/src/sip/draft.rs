//! The writer: a message being put together, and its encoding.

use bytes::{BufMut, Bytes, BytesMut};

use super::header::HeaderId;
use super::limits::{MAX_BODY, MAX_HEAD};
use super::message::Field;
use super::method::Method;
use super::octets::unescape;
use super::status::reason_phrase;

/// Why a draft cannot go out. Our own fault or that of configured header rules: nothing is sent, the caller counts it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// CR, LF or NUL in a value or the start line.
    #[error("line break or NUL in {0}")]
    LineBreak(Box<str>),
    /// A header name that is no token.
    #[error("bad header name")]
    Name,
    /// A Request-URI that is empty or holds white space, or a status outside 100-699.
    #[error("bad start line")]
    StartLine,
    /// Larger than the limits that we accept ourselves.
    #[error("message too large")]
    TooLarge,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Start {
    Request { method: Method, uri: Box<str> },
    Response { status: u16, reason: Box<str> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct DraftField {
    id: HeaderId,
    /// `None`: the canonical name of the id.
    name: Option<Box<str>>,
    value: String,
}

impl DraftField {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(self.id.name())
    }
}

/// A message being put together. Content-Length is never a field of it: the encoder writes the true one, last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    start: Start,
    fields: Vec<DraftField>,
    body: Bytes,
}

impl Draft {
    /// A request without header fields.
    pub fn request(method: &Method, uri: &str) -> Draft {
        Draft::new(Start::Request { method: method.clone(), uri: uri.into() })
    }

    /// A response without header fields; the registered phrase if none is given.
    pub fn response(status: u16, reason: Option<&str>) -> Draft {
        Draft::new(Start::Response { status, reason: reason.unwrap_or(reason_phrase(status)).into() })
    }

    fn new(start: Start) -> Draft {
        Draft { start, fields: Vec::with_capacity(16), body: Bytes::new() }
    }

    /// Appends a field under its canonical name.
    pub fn push(&mut self, id: HeaderId, value: impl Into<String>) -> &mut Draft {
        self.append(id, None, value.into())
    }

    /// Appends a field under the name given.
    pub fn push_named(&mut self, name: &str, value: impl Into<String>) -> &mut Draft {
        self.append(HeaderId::from_name(name), Some(name.into()), value.into())
    }

    /// Appends a received field, name and value as they came.
    pub fn push_field(&mut self, field: &Field<'_>) -> &mut Draft {
        let name = (field.name != field.id.name()).then(|| field.name.into());
        self.append(field.id, name, field.value.to_owned())
    }

    fn append(&mut self, id: HeaderId, name: Option<Box<str>>, value: String) -> &mut Draft {
        if id != HeaderId::ContentLength {
            self.fields.push(DraftField { id, name, value });
        }
        self
    }

    /// Puts a field before the first of the same name, or at the top where there is none: Via, Route, Record-Route.
    pub fn insert_first(&mut self, id: HeaderId, value: impl Into<String>) -> &mut Draft {
        if id != HeaderId::ContentLength {
            let at = self.fields.iter().position(|field| field.id == id).unwrap_or(0);
            self.fields.insert(at, DraftField { id, name: None, value: value.into() });
        }
        self
    }

    /// Makes this the only field of its name, in the place of the first or at the end.
    pub fn set(&mut self, id: HeaderId, value: impl Into<String>) -> &mut Draft {
        self.replace_first(id, value);
        let first = self.fields.iter().position(|field| field.id == id);
        let mut at = 0;
        self.fields.retain(|field| {
            at += 1;
            field.id != id || Some(at - 1) == first
        });
        self
    }

    /// Changes the value of the first field of that name and leaves the others; appends it where there is none. The topmost Via
    /// of a response.
    pub fn replace_first(&mut self, id: HeaderId, value: impl Into<String>) -> &mut Draft {
        match self.fields.iter_mut().find(|field| field.id == id) {
            Some(field) => field.value = value.into(),
            None => return self.append(id, None, value.into()),
        }
        self
    }

    /// Removes all fields of that name; how many there were.
    pub fn remove(&mut self, id: HeaderId) -> usize {
        self.remove_where(|field| field.id == id)
    }

    /// Removes all fields of that name (any case, compact or long); how many there were.
    pub fn remove_named(&mut self, name: &str) -> usize {
        match HeaderId::from_name(name) {
            HeaderId::Other => self.remove_where(|field| field.id == HeaderId::Other && field.name().eq_ignore_ascii_case(name)),
            id => self.remove(id),
        }
    }

    fn remove_where(&mut self, gone: impl Fn(&DraftField) -> bool) -> usize {
        let before = self.fields.len();
        self.fields.retain(|field| !gone(field));
        before - self.fields.len()
    }

    /// Whether there is a field of that name.
    pub fn has(&self, id: HeaderId) -> bool {
        self.first(id).is_some()
    }

    /// The value of the first field of that name.
    pub fn first(&self, id: HeaderId) -> Option<&str> {
        self.fields.iter().find(|field| field.id == id).map(|field| field.value.as_str())
    }

    /// The value of the first field of that name (any case, compact or long).
    pub fn first_named(&self, name: &str) -> Option<&str> {
        match HeaderId::from_name(name) {
            HeaderId::Other => self
                .headers()
                .find(|field| field.id == HeaderId::Other && field.name.eq_ignore_ascii_case(name))
                .map(|field| field.value),
            id => self.first(id),
        }
    }

    /// The fields in order.
    pub fn headers(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter().map(|field| Field { id: field.id, name: field.name(), value: &field.value })
    }

    /// Sets the body, and Content-Type with it; `None` leaves the Content-Type that is there.
    pub fn set_body(&mut self, content_type: Option<&str>, body: Bytes) -> &mut Draft {
        if let Some(content_type) = content_type {
            self.set(HeaderId::ContentType, content_type);
        }
        self.body = body;
        self
    }

    /// Removes the body and what describes it.
    pub fn clear_body(&mut self) -> &mut Draft {
        self.body = Bytes::new();
        self.remove(HeaderId::ContentType);
        self.remove(HeaderId::ContentEncoding);
        self.remove(HeaderId::ContentDisposition);
        self
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Status of a response.
    pub fn status(&self) -> Option<u16> {
        match &self.start {
            Start::Response { status, .. } => Some(*status),
            Start::Request { .. } => None,
        }
    }

    /// Method of a request.
    pub fn method(&self) -> Option<&Method> {
        match &self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// Request-URI of a request.
    pub fn request_uri(&self) -> Option<&str> {
        match &self.start {
            Start::Request { uri, .. } => Some(uri),
            Start::Response { .. } => None,
        }
    }

    /// Writes the message: fields in their order, then Content-Length, then the body as it is.
    pub fn encode(&self) -> Result<Bytes, WriteError> {
        let head: usize = self.fields.iter().map(|field| field.name().len() + field.value.len() + 4).sum();
        if head > MAX_HEAD || self.body.len() > MAX_BODY {
            return Err(WriteError::TooLarge);
        }
        let mut out = BytesMut::with_capacity(head + self.body.len() + 256);
        self.write_start(&mut out)?;
        for field in &self.fields {
            let name = field.name();
            if !super::is_token(name) {
                return Err(WriteError::Name);
            }
            check_line(name, &field.value)?;
            out.put_slice(name.as_bytes());
            out.put_slice(b": ");
            out.put_slice(&unescape(&field.value));
            out.put_slice(b"\r\n");
        }
        out.put_slice(format!("Content-Length: {}\r\n\r\n", self.body.len()).as_bytes());
        if out.len() > MAX_HEAD {
            return Err(WriteError::TooLarge);
        }
        out.put_slice(&self.body);
        Ok(out.freeze())
    }

    fn write_start(&self, out: &mut BytesMut) -> Result<(), WriteError> {
        match &self.start {
            Start::Request { method, uri } => {
                check_line("request line", uri)?;
                if uri.is_empty() || uri.bytes().any(|byte| byte <= b' ') || !super::is_token(method.as_str()) {
                    return Err(WriteError::StartLine);
                }
                out.put_slice(method.as_str().as_bytes());
                out.put_u8(b' ');
                out.put_slice(uri.as_bytes());
                out.put_slice(b" SIP/2.0\r\n");
            }
            Start::Response { status, reason } => {
                check_line("status line", reason)?;
                if !(100..=699).contains(status) {
                    return Err(WriteError::StartLine);
                }
                out.put_slice(&unescape(&format!("SIP/2.0 {status} {reason}\r\n")));
            }
        }
        Ok(())
    }
}

fn check_line(name: &str, value: &str) -> Result<(), WriteError> {
    match memchr::memchr3(b'\r', b'\n', 0, value.as_bytes()) {
        Some(_) => Err(WriteError::LineBreak(name.into())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(draft: &Draft) -> String {
        String::from_utf8(draft.encode().expect("encodes").to_vec()).expect("UTF-8")
    }

    #[test]
    fn fields_keep_their_order_and_length_is_last() {
        let mut draft = Draft::request(&Method::Invite, "sip:a@b");
        draft.push(HeaderId::Via, "v1").push_named("X-One", "1").push_named("l", "999").push(HeaderId::ContentLength, "7");
        draft.push_field(&Field { id: HeaderId::Subject, name: "s", value: "as  it\tcame" });
        draft.insert_first(HeaderId::Via, "v0").insert_first(HeaderId::Route, "r").push(HeaderId::To, "t");
        draft.set_body(Some("application/octet-stream"), Bytes::from_static(b"\x00\r\n\xff"));
        let octets = draft.encode().expect("encodes");
        let head = "INVITE sip:a@b SIP/2.0\r\nRoute: r\r\nVia: v0\r\nVia: v1\r\nX-One: 1\r\ns: as  it\tcame\r\nTo: t\r\n\
                    Content-Type: application/octet-stream\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(&octets[..head.len()], head.as_bytes());
        assert_eq!(&octets[head.len()..], b"\x00\r\n\xff");
    }

    #[test]
    fn set_replace_and_remove() {
        let mut draft = Draft::response(180, None);
        for value in ["a", "b", "c"] {
            draft.push(HeaderId::Via, value).push_named("X-Y", value);
        }
        draft.replace_first(HeaderId::Via, "A");
        assert_eq!(draft.headers().filter(|f| f.id == HeaderId::Via).map(|f| f.value).collect::<Vec<_>>(), ["A", "b", "c"]);
        draft.set(HeaderId::Via, "only").set(HeaderId::Server, "s");
        assert_eq!(
            text(&draft),
            "SIP/2.0 180 Ringing\r\nVia: only\r\nX-Y: a\r\nX-Y: b\r\nX-Y: c\r\nServer: s\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!((draft.remove_named("x-y"), draft.remove_named("v"), draft.remove(HeaderId::Via)), (3, 1, 0));
        assert!(draft.has(HeaderId::Server) && !draft.has(HeaderId::Via));
        assert_eq!(
            (draft.first_named("server"), draft.first_named("x-y"), draft.status(), draft.method()),
            (Some("s"), None, Some(180), None)
        );
        draft.set_body(Some("a/b"), Bytes::from_static(b"x")).clear_body();
        assert!(!draft.has(HeaderId::ContentType) && draft.body().is_empty());
    }

    #[test]
    fn unsafe_text_is_refused() {
        for bad in ["a\r\nX: y", "a\nb", "a\rb", "a\0b"] {
            let mut draft = Draft::response(200, None);
            draft.push(HeaderId::Subject, bad);
            assert_eq!(draft.encode(), Err(WriteError::LineBreak("Subject".into())));
            assert_eq!(Draft::response(200, Some(bad)).encode(), Err(WriteError::LineBreak("status line".into())));
            assert!(Draft::request(&Method::Bye, bad).encode().is_err());
        }
        for name in ["", "a b", "a:b", "a\r\n"] {
            let mut draft = Draft::response(200, None);
            draft.push_named(name, "x");
            assert_eq!(draft.encode(), Err(WriteError::Name), "{name}");
        }
        assert_eq!(Draft::request(&Method::Bye, "").encode(), Err(WriteError::StartLine));
        assert_eq!(Draft::request(&Method::Bye, "sip:a b").encode(), Err(WriteError::StartLine));
        assert_eq!(Draft::response(99, None).encode(), Err(WriteError::StartLine));
        let mut draft = Draft::response(200, None);
        draft.push(HeaderId::Subject, "x".repeat(MAX_HEAD));
        assert_eq!(draft.encode(), Err(WriteError::TooLarge));
    }
}
