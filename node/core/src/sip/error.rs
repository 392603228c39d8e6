//! What is wrong with a message, what its sender is told, and the stateless answer from what could be read of it.

use super::draft::Draft;
use super::header::HeaderId;
use super::via::Via;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseErrorKind {
    /// The first line is that of no SIP message.
    NotSip,
    /// A line of the head ends in a bare CR or LF, or a NUL is in it.
    LineBreak,
    /// No empty line after the header fields.
    Unterminated,
    /// Beyond [`MAX_HEAD`](super::limits::MAX_HEAD).
    HeadTooLarge,
    /// Beyond [`MAX_HEADERS`](super::limits::MAX_HEADERS).
    TooManyHeaders,
    /// Beyond [`MAX_LINE`](super::limits::MAX_LINE).
    LineTooLong,
    /// Method, Request-URI or spaces of the request line, or the status.
    StartLine,
    /// Not SIP/2.0.
    Version,
    /// Beyond [`MAX_URI`](super::limits::MAX_URI).
    UriTooLong,
    /// A header field without colon or with a name that is no token.
    Header,
    /// Not UTF-8 where octets decide: first line, Via, Call-ID, CSeq.
    Encoding,
    /// A mandatory field is not there.
    Missing(HeaderId),
    /// A field that may be there once is there twice.
    Duplicate(HeaderId),
    /// The topmost Via.
    Via,
    /// From.
    From,
    /// To.
    To,
    /// Call-ID.
    CallId,
    /// CSeq number or method name.
    CSeq,
    /// The method of CSeq is not that of the request.
    CSeqMethod,
    /// The same, and nobody knows the method of the request.
    UnknownMethod,
    /// Content-Length is no number, or missing on a stream.
    ContentLength,
    /// Fewer octets than Content-Length says.
    Truncated,
    /// Beyond [`MAX_BODY`](super::limits::MAX_BODY).
    BodyTooLarge,
}

impl ParseErrorKind {
    /// For counters: a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            ParseErrorKind::NotSip => "not_sip",
            ParseErrorKind::LineBreak => "line_break",
            ParseErrorKind::Unterminated => "unterminated",
            ParseErrorKind::HeadTooLarge => "head_too_large",
            ParseErrorKind::TooManyHeaders => "too_many_headers",
            ParseErrorKind::LineTooLong => "line_too_long",
            ParseErrorKind::StartLine => "start_line",
            ParseErrorKind::Version => "version",
            ParseErrorKind::UriTooLong => "uri_too_long",
            ParseErrorKind::Header => "header",
            ParseErrorKind::Encoding => "encoding",
            ParseErrorKind::Missing(_) => "missing",
            ParseErrorKind::Duplicate(_) => "duplicate",
            ParseErrorKind::Via => "via",
            ParseErrorKind::From => "from",
            ParseErrorKind::To => "to",
            ParseErrorKind::CallId => "call_id",
            ParseErrorKind::CSeq => "cseq",
            ParseErrorKind::CSeqMethod => "cseq_method",
            ParseErrorKind::UnknownMethod => "unknown_method",
            ParseErrorKind::ContentLength => "content_length",
            ParseErrorKind::Truncated => "truncated",
            ParseErrorKind::BodyTooLarge => "body_too_large",
        }
    }

    /// Status that a request with this fault gets, and its phrase (RFC 3261 §21.4.1: the phrase should name the problem).
    const fn answer(self) -> (u16, &'static str) {
        match self {
            ParseErrorKind::HeadTooLarge | ParseErrorKind::TooManyHeaders => (513, "Message Too Large"),
            ParseErrorKind::Version => (505, "Version Not Supported"),
            ParseErrorKind::UriTooLong => (414, "Request-URI Too Long"),
            ParseErrorKind::BodyTooLarge => (413, "Request Entity Too Large"),
            ParseErrorKind::UnknownMethod => (501, "Not Implemented"),
            ParseErrorKind::NotSip | ParseErrorKind::StartLine => (400, "Bad Request Line"),
            ParseErrorKind::LineBreak => (400, "Bad Line Break"),
            ParseErrorKind::Unterminated => (400, "No End Of Header"),
            ParseErrorKind::LineTooLong => (400, "Header Field Too Long"),
            ParseErrorKind::Header => (400, "Bad Header Field"),
            ParseErrorKind::Encoding => (400, "Not UTF-8"),
            ParseErrorKind::Missing(HeaderId::Via) => (400, "Missing Via"),
            ParseErrorKind::Missing(HeaderId::From) => (400, "Missing From"),
            ParseErrorKind::Missing(HeaderId::To) => (400, "Missing To"),
            ParseErrorKind::Missing(HeaderId::CallId) => (400, "Missing Call-ID"),
            ParseErrorKind::Missing(HeaderId::CSeq) => (400, "Missing CSeq"),
            ParseErrorKind::Missing(_) => (400, "Missing Header Field"),
            ParseErrorKind::Duplicate(_) => (400, "Repeated Header Field"),
            ParseErrorKind::Via => (400, "Bad Via"),
            ParseErrorKind::From => (400, "Bad From"),
            ParseErrorKind::To => (400, "Bad To"),
            ParseErrorKind::CallId => (400, "Bad Call-ID"),
            ParseErrorKind::CSeq => (400, "Bad CSeq"),
            ParseErrorKind::CSeqMethod => (400, "CSeq Method Mismatch"),
            ParseErrorKind::ContentLength => (400, "Bad Content-Length"),
            ParseErrorKind::Truncated => (400, "Body Shorter Than Content-Length"),
        }
    }
}

/// What of a bad message its answer needs.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Salvage {
    /// Via, From, To, Call-ID, CSeq and Timestamp in their order, Via lists split.
    pub(crate) fields: Vec<(HeaderId, String)>,
    /// The topmost Via, if it can be read.
    pub(crate) via: Option<Via>,
}

/// A message that cannot be taken. The sender's fault: answer with [`ParseError::reply`] if there is one, count it by
/// [`ParseError::label`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
    /// What to answer. `None`: drop and count, since this is a response, an ACK or nothing that can be told to be a request.
    pub status: Option<u16>,
    /// Reason phrase of the answer.
    pub reason: &'static str,
    salvage: Box<Salvage>,
}

impl ParseError {
    pub(crate) fn new(kind: ParseErrorKind, answerable: bool, salvage: Salvage) -> ParseError {
        let (status, reason) = kind.answer();
        ParseError { kind, status: answerable.then_some(status), reason, salvage: Box::new(salvage) }
    }

    /// For counters: a closed set.
    pub fn label(&self) -> &'static str {
        self.kind.label()
    }

    /// The topmost Via, where it could be read: with the source address it says where the answer goes.
    pub fn salvaged_via(&self) -> Option<&Via> {
        self.salvage.via.as_ref()
    }

    /// The stateless answer (RFC 3261 §8.2.7), with what could be read of Via, From, To, Call-ID and CSeq; `None` if none is due
    /// or nobody could match it. The caller fills in the topmost Via ([`Via::with_received`], [`Draft::replace_first`]).
    pub fn reply(&self) -> Option<Draft> {
        let status = self.status?;
        self.salvage.via.as_ref()?;
        let mut draft = Draft::response(status, Some(self.reason));
        for (id, value) in &self.salvage.fields {
            let untagged = *id == HeaderId::To && super::params(value).get("tag").is_none();
            if untagged {
                draft.push(*id, format!("{value};tag={:016x}", self.tag()));
            } else {
                draft.push(*id, value.as_str());
            }
        }
        Some(draft)
    }

    /// RFC 3261 §8.2.7: a stateless server gives a retransmission the same tag. FNV-1a over all that is echoed.
    fn tag(&self) -> u64 {
        let octets = self.salvage.fields.iter().flat_map(|(_, value)| value.bytes());
        octets.fold(0xcbf2_9ce4_8422_2325, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3))
    }
}
