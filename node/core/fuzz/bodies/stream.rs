//! A stream: however it is cut into pieces, the same messages come out, and each is what a datagram of it would be.

use bytes::Bytes;
use sbc_core::sip::{Frame, Message, StreamFramer};

use super::message::check_refused;

/// Something valid to stand behind a message.
const NEXT: &[u8] =
    b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: x\r\n\
    CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";

/// The target: the first octet seeds the sizes of the pieces, the rest is the stream. Says how many messages were in it.
pub(crate) fn run(octets: &[u8]) -> usize {
    let Some((seed, stream)) = octets.split_first() else { return 0 };
    let whole = frames(stream, |_| stream.len());
    let mut state = u32::from(*seed).wrapping_mul(2_654_435_761) | 1;
    let pieces = frames(stream, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        usize::try_from(state >> 24).unwrap_or(1) % 61 + 1
    });
    assert_eq!(whole, pieces, "cut in pieces it gives something else");
    whole.0.iter().for_each(check_framed);
    whole.0.len()
}

/// The messages, and whether the stream ended in an error.
fn frames(stream: &[u8], mut size: impl FnMut(&[u8]) -> usize) -> (Vec<Bytes>, bool) {
    let mut framer = StreamFramer::new();
    let (mut messages, mut failed) = (Vec::new(), false);
    let mut rest = stream;
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(size(rest).clamp(1, rest.len()));
        rest = tail;
        framer.push(piece);
        while let Some(frame) = framer.poll() {
            match frame {
                Frame::Message(octets) => messages.push(octets),
                Frame::Error(error) => {
                    failed = true;
                    error.parse.iter().for_each(check_refused);
                }
                Frame::KeepAlivePing | Frame::Pong => {}
            }
        }
    }
    (messages, failed)
}

/// The datagram reader finds the same end in the same octets, with anything behind them.
fn check_framed(octets: &Bytes) {
    match Message::parse(octets.clone()) {
        Ok(message) => {
            assert_eq!(message.raw(), octets);
            let followed = [octets, NEXT].concat();
            assert_eq!(Message::parse(followed.into()).expect("valid").raw(), octets);
        }
        Err(error) => check_refused(&error),
    }
}
