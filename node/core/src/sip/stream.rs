//! Framing: messages out of a byte stream by Content-Length (RFC 3261 §18.3), and keep-alives (RFC 5626 §3.5.1, §5.4).

use bytes::{Buf, Bytes, BytesMut};

use super::error::{ParseError, ParseErrorKind};
use super::limits::{MAX_BODY, MAX_HEAD};
use super::scan::scan;

/// What the framer holds at most: one message of the largest size, and as much again that was read behind it before the
/// caller polled.
pub const MAX_BUFFER: usize = 2 * (MAX_HEAD + MAX_BODY);

/// What came out of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One message, head and body, for [`Message::parse`](super::Message::parse).
    Message(Bytes),
    /// Double CRLF: to be answered with one CRLF.
    KeepAlivePing,
    /// Single CRLF: the answer to our ping. A ping that arrives in two pieces is a `Pong` and then a `KeepAlivePing`.
    Pong,
    /// Message boundaries are lost: answer if there is a reply, then close. Nothing comes after it.
    Error(FrameError),
}

/// Why the stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameErrorKind {
    /// A head that does not end within the limit.
    HeadTooLarge,
    /// Content-Length missing, repeated or no number.
    ContentLength,
    /// A body beyond the limit.
    BodyTooLarge,
    /// No SIP at all.
    NotSip,
    /// More was pushed than [`MAX_BUFFER`] without polling. The caller's fault.
    Overflow,
}

/// Why the stream cannot go on, with the answer where one can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stream framing: {kind:?}")]
pub struct FrameError {
    /// What is wrong.
    pub kind: FrameErrorKind,
    /// For the answer ([`ParseError::reply`]), where a head was there.
    pub parse: Option<ParseError>,
}

/// Cuts a stream into frames. `push` what was read, then `poll` until `None`; after an error nothing more comes.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: BytesMut,
    /// The head of the buffered message was searched up to here.
    searched: usize,
    /// Length of the message at the start of the buffer, once its head is known.
    message_len: Option<usize>,
    /// Octets of a body beyond the limit that are still to come, and to be thrown away.
    discard: usize,
    /// The octets before the buffer were a single CRLF, given out as `Pong`: another one makes it a ping.
    half_ping: bool,
    overflow: bool,
    dead: bool,
}

impl StreamFramer {
    /// For a new connection.
    pub fn new() -> StreamFramer {
        StreamFramer::default()
    }

    /// Takes what was read.
    pub fn push(&mut self, octets: &[u8]) {
        if self.dead || self.overflow {
            return;
        }
        let octets = &octets[self.skip(octets.len())..];
        if self.buffer.len() + octets.len() > MAX_BUFFER {
            self.overflow = true;
            return;
        }
        self.buffer.extend_from_slice(octets);
    }

    /// How many of so many octets belong to a body that is thrown away.
    fn skip(&mut self, available: usize) -> usize {
        let skipped = self.discard.min(available);
        self.discard -= skipped;
        skipped
    }

    /// Whether a message has begun and not ended: a sender that leaves it so for long is to be closed.
    pub fn is_mid_message(&self) -> bool {
        !self.dead && (!self.buffer.is_empty() || self.discard > 0)
    }

    /// Octets held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// The next frame, if it is complete.
    pub fn poll(&mut self) -> Option<Frame> {
        if self.dead {
            return None;
        }
        if self.message_len.is_none() {
            if let Some(frame) = self.poll_keep_alive() {
                return Some(frame);
            }
            match self.find_message_len() {
                Ok(Some(FoundHead { head, body: Body::Within(body) })) => self.message_len = Some(head + body),
                Ok(Some(FoundHead { head, body: Body::Beyond(body) })) => return Some(self.head_only(head, body)),
                Ok(None) => {}
                Err(error) => return Some(self.fail(error)),
            }
        }
        match self.message_len {
            Some(length) if self.buffer.len() >= length => {
                // A copy: a kept message must not hold the buffer that others were read into.
                let message = Bytes::copy_from_slice(&self.buffer[..length]);
                self.consume(length);
                self.half_ping = false;
                Some(Frame::Message(message))
            }
            _ if self.overflow => Some(self.fail(FrameError { kind: FrameErrorKind::Overflow, parse: None })),
            _ => None,
        }
    }

    fn poll_keep_alive(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(b"\r\n\r\n") && !self.half_ping {
            self.consume(4);
            return Some(Frame::KeepAlivePing);
        }
        if self.buffer.starts_with(b"\r\n") {
            self.consume(2);
            self.half_ping = !self.half_ping;
            return Some(if self.half_ping { Frame::Pong } else { Frame::KeepAlivePing });
        }
        None
    }

    /// A message whose body is too large goes on without it: its head gets its 413, and the connection carries other calls.
    fn head_only(&mut self, head: usize, body: usize) -> Frame {
        let message = Bytes::copy_from_slice(&self.buffer[..head]);
        self.consume(head);
        self.half_ping = false;
        self.discard = body;
        let skipped = self.skip(self.buffer.len());
        self.buffer.advance(skipped);
        Frame::Message(message)
    }

    fn find_message_len(&mut self) -> Result<Option<FoundHead>, FrameError> {
        let window = &self.buffer[..self.buffer.len().min(MAX_HEAD)];
        let from = self.searched.min(window.len());
        let Some(offset) = memchr::memmem::find(&window[from..], b"\r\n\r\n") else {
            if self.buffer.len() > MAX_HEAD {
                let head = Bytes::copy_from_slice(window);
                return Err(frame_error(head, ParseErrorKind::HeadTooLarge));
            }
            // The last three octets may be the beginning of the end.
            self.searched = window.len().saturating_sub(3);
            return Ok(None);
        };
        let head_len = from + offset + 4;
        let head = Bytes::copy_from_slice(&window[..head_len]);
        let scanned = scan(head.clone());
        let body = match (scanned.content_length(), scanned.declared_length()) {
            (Ok(Some(length)), _) => Body::Within(length),
            (Err(ParseErrorKind::BodyTooLarge), Some(length)) => Body::Beyond(length),
            (Ok(None), _) => return Err(frame_error(head, scanned.fault.unwrap_or(ParseErrorKind::ContentLength))),
            (Err(kind), _) => return Err(frame_error(head, kind)),
        };
        Ok(Some(FoundHead { head: head_len, body }))
    }

    fn consume(&mut self, length: usize) {
        self.buffer.advance(length);
        self.searched = 0;
        self.message_len = None;
    }

    fn fail(&mut self, error: FrameError) -> Frame {
        self.dead = true;
        self.buffer = BytesMut::new();
        Frame::Error(error)
    }
}

/// A head that was found, by its length, and its body.
struct FoundHead {
    head: usize,
    body: Body,
}

/// The length of a body.
enum Body {
    Within(usize),
    /// Beyond the limit.
    Beyond(usize),
}

fn frame_error(head: Bytes, kind: ParseErrorKind) -> FrameError {
    let scanned = scan(head);
    let kind = match scanned.fault {
        Some(ParseErrorKind::NotSip) => ParseErrorKind::NotSip,
        _ => kind,
    };
    let frame_kind = match kind {
        ParseErrorKind::NotSip => FrameErrorKind::NotSip,
        ParseErrorKind::HeadTooLarge => FrameErrorKind::HeadTooLarge,
        ParseErrorKind::BodyTooLarge => FrameErrorKind::BodyTooLarge,
        _ => FrameErrorKind::ContentLength,
    };
    FrameError { kind: frame_kind, parse: Some(scanned.error(kind)) }
}

/// Whether a datagram is a keep-alive and no message: nothing but CRLFs, or four NULs (RFC 5626 §4.4.1 and what phones send).
pub fn is_keepalive(datagram: &[u8]) -> bool {
    datagram == [0; 4] || (!datagram.is_empty() && datagram.iter().all(|octet| matches!(octet, b'\r' | b'\n')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(call_id: &str, body: &str) -> String {
        format!(
            "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b>\r\n\
             Call-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\nl:\r\n {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn drain(framer: &mut StreamFramer) -> Vec<Frame> {
        std::iter::from_fn(|| framer.poll()).collect()
    }

    #[test]
    fn messages_in_any_pieces() {
        let (first, second) = (message("1", "body\r\n\r\nwith breaks"), message("2", ""));
        let stream = format!("{first}\r\n\r\n{second}");
        for size in 1..stream.len() {
            let mut framer = StreamFramer::new();
            let mut frames = Vec::new();
            for piece in stream.as_bytes().chunks(size) {
                framer.push(piece);
                frames.extend(drain(&mut framer));
            }
            frames.retain(|frame| *frame != Frame::Pong);
            let expected = [Frame::Message(first.clone().into()), Frame::KeepAlivePing, Frame::Message(second.clone().into())];
            assert_eq!(frames, expected, "pieces of {size}");
            assert!(!framer.is_mid_message());
        }
    }

    #[test]
    fn keep_alives() {
        let mut framer = StreamFramer::new();
        framer.push(b"\r\n");
        assert_eq!(drain(&mut framer), [Frame::Pong]);
        framer.push(b"\r\n\r\n");
        assert_eq!(drain(&mut framer), [Frame::KeepAlivePing, Frame::Pong], "the pong was half a ping");
        framer.push(b"\r");
        assert_eq!(drain(&mut framer), []);
        framer.push(b"\n");
        assert_eq!(drain(&mut framer), [Frame::KeepAlivePing]);
        framer.push(b"\r\n\r\n\r\n\r\n");
        assert_eq!(drain(&mut framer), [Frame::KeepAlivePing, Frame::KeepAlivePing]);
        for (datagram, expected) in
            [(&b"\r\n\r\n"[..], true), (b"\0\0\0\0", true), (b"\r\n", true), (b"", false), (b"\0", false), (b"\r\nX", false)]
        {
            assert_eq!(is_keepalive(datagram), expected, "{datagram:?}");
        }
    }

    fn only_error(octets: &[u8]) -> FrameError {
        let mut framer = StreamFramer::new();
        framer.push(octets);
        let frames = drain(&mut framer);
        let [Frame::Error(error)] = &frames[..] else { panic!("{frames:?}") };
        framer.push(message("3", "").as_bytes());
        assert_eq!((framer.poll(), framer.buffered()), (None, 0), "nothing comes after an error");
        error.clone()
    }

    #[test]
    fn lost_boundaries_end_the_stream() {
        let good = message("1", "");
        for (length, kind, status) in [
            ("", FrameErrorKind::ContentLength, 400),
            ("l: 1\r\nl: 1\r\n", FrameErrorKind::ContentLength, 400),
            ("l: -1\r\n", FrameErrorKind::ContentLength, 400),
            ("l: 0x1\r\n", FrameErrorKind::ContentLength, 400),
            ("l: 99999999999999999999999\r\n", FrameErrorKind::BodyTooLarge, 413),
        ] {
            let error = only_error(good.replace("l:\r\n 0\r\n", length).as_bytes());
            let reply = error.parse.and_then(|parse| parse.reply()).expect("a reply");
            assert_eq!((error.kind, reply.status()), (kind, Some(status)), "{length}");
        }
        assert_eq!(only_error(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").kind, FrameErrorKind::NotSip);
        let endless = format!("OPTIONS sip:a@b SIP/2.0\r\nX: {}", "a".repeat(MAX_HEAD));
        assert_eq!(only_error(endless.as_bytes()).kind, FrameErrorKind::HeadTooLarge);
    }

    /// One bad message does not cost the other calls their connection, as long as its end is known.
    #[test]
    fn the_boundary_is_kept_behind_what_is_too_large() {
        let many = format!("{}l: 4\r\n", "X: y\r\n".repeat(300));
        let large = format!("l: {}\r\n", MAX_BODY + 1);
        for (fields, body, kind) in [
            (many, "body".to_owned(), ParseErrorKind::TooManyHeaders),
            (large, "x".repeat(MAX_BODY + 1), ParseErrorKind::BodyTooLarge),
        ] {
            let bad = format!("{}{body}", message("1", "").replace("l:\r\n 0\r\n", &fields));
            let stream = format!("{bad}{}", message("2", "good"));
            for size in [1000, stream.len()] {
                let mut framer = StreamFramer::new();
                let mut frames = Vec::new();
                for piece in stream.as_bytes().chunks(size) {
                    framer.push(piece);
                    frames.extend(drain(&mut framer));
                }
                let [Frame::Message(first), Frame::Message(second)] = &frames[..] else { panic!("{frames:?}") };
                let error = crate::sip::Message::parse(first.clone()).expect_err("too large");
                assert_eq!(error.kind, kind);
                assert_eq!(second, message("2", "good").as_bytes());
                assert!(!framer.is_mid_message());
            }
        }
    }

    #[test]
    fn a_caller_that_does_not_poll_is_stopped() {
        let mut framer = StreamFramer::new();
        for _ in 0..MAX_BUFFER / 1000 + 2 {
            framer.push(&[b'x'; 1000]);
        }
        assert!(framer.buffered() <= MAX_BUFFER);
        assert!(matches!(framer.poll(), Some(Frame::Error(_))));
    }

    #[test]
    fn a_trickled_head_is_searched_once() {
        // Quadratic search would compare 2^31 octets here.
        let mut framer = StreamFramer::new();
        framer.push(b"OPTIONS sip:a@b SIP/2.0\r\nX: ");
        for _ in 0..MAX_HEAD - 100 {
            framer.push(b"a");
            assert_eq!(framer.poll(), None);
            assert!(framer.buffered() - framer.searched <= 3);
        }
    }
}
