//! Session descriptions in message bodies: alone, or as a part of a multipart body (RFC 5621), which otherwise crosses byte for byte.

use bytes::Bytes;

use crate::sip::parts::{self, Leaf};
use crate::sip::{HeaderId, Message, Sdp, SdpError};

/// Where a body's session description lies.
#[derive(Clone, Debug)]
pub struct SdpSpan(Leaf);

/// The session description in a message, if it has one.
pub fn find_sdp(message: &Message) -> Option<SdpSpan> {
    let body = message.body();
    if body.is_empty() {
        return None;
    }
    parts::find(message.content_type()?, body, "application/sdp").map(SdpSpan)
}

/// The description's bytes.
pub fn sdp_bytes(span: &SdpSpan) -> Bytes {
    span.0.content.clone()
}

/// The body with another description in its place.
pub(super) fn replace_sdp(span: &SdpSpan, sdp: Bytes) -> Bytes {
    span.0.replace(sdp)
}

/// Why the session description of an offer cannot be anchored. The sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is compressed (RFC 3261 §20.12), and we read none of that: 415.
    Encoded,
    /// It cannot be read: 488.
    Sdp(SdpError),
}

impl Unusable {
    /// RFC 3261 §21.4.13, §21.4.26.
    pub fn status(self) -> u16 {
        match self {
            Unusable::Encoded => 415,
            Unusable::Sdp(_) => 488,
        }
    }

    /// The header field that fits the problem; `agent` names us in a Warning.
    pub fn field(self, agent: &str) -> (&'static str, String) {
        match self {
            Unusable::Encoded => ("Accept-Encoding", "identity".to_owned()),
            // As it may stand in a quoted string.
            Unusable::Sdp(error) => {
                let error = error.to_string().replace(['"', '\\'], "'");
                ("Warning", format!("399 {agent} \"session description: {error}\""))
            }
        }
    }
}

/// What keeps the session description of a request, if it has one, from being anchored.
pub fn unusable(request: &Message) -> Option<Unusable> {
    let span = find_sdp(request)?;
    let identity = |coding: &str| coding.trim().eq_ignore_ascii_case("identity");
    if request.values(HeaderId::ContentEncoding).any(|coding| !identity(coding)) {
        return Some(Unusable::Encoded);
    }
    Sdp::parse(&sdp_bytes(&span)).err().map(Unusable::Sdp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content_type: &str, body: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )))
        .expect("valid")
    }

    #[test]
    fn plain() {
        let m = message("application/SDP;charset=utf-8", "v=0\r\n");
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&span), "v=0\r\n");
        assert!(find_sdp(&message("text/plain", "v=0\r\n")).is_none());
    }

    #[test]
    fn multipart_keeps_every_other_byte() {
        let body = "--b1\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x>\r\n\r\n<xml/>\r\n--b1\r\ncontent-type: application/sdp\r\n\r\nv=0\r\no=x\r\n\r\n--b1--\r\n";
        let m = message("multipart/mixed; boundary=\"b1\"", body);
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&span), "v=0\r\no=x\r\n");
        let changed = replace_sdp(&span, Bytes::from_static(b"NEW\r\n"));
        assert_eq!(changed, body.replace("v=0\r\no=x\r\n", "NEW\r\n"));
    }

    #[test]
    fn a_part_as_few_write_it() {
        let body = "preamble\r\n--b1  \r\nc: Application/SDP; x=y\r\nl: 5\r\n\r\nv=0\r\n\r\n--b1--\r\n";
        let m = message("multipart/mixed;boundary=b1", body);
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&span), "v=0\r\n");
        let changed = replace_sdp(&span, Bytes::from_static(b"v=0\r\nlonger\r\n"));
        assert_eq!(changed, body.replace("v=0\r\n", "v=0\r\nlonger\r\n").replace("l: 5", "Content-Length: 13"));
        for (encoding, found) in [("base64", false), ("BINARY", true), ("8bit", true), ("quoted-printable", false)] {
            let body = body.replace("l: 5", &format!("Content-Transfer-Encoding: {encoding}"));
            assert_eq!(find_sdp(&message("multipart/mixed;boundary=b1", &body)).is_some(), found, "{encoding}");
        }
    }

    /// RFC 5621 §3.1, §8: a signed or related part in a mixed one, and a description in base64.
    #[test]
    fn deep_and_encoded() {
        let inner = "--i\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: base64\r\n\r\ndj0wDQo=\r\n--i--";
        let body = format!(
            "--o\r\nContent-Type: text/plain\r\n\r\nx\r\n--o\r\nContent-Type: multipart/related;boundary=i\r\n\r\n{inner}\r\n--o--"
        );
        let m = message("multipart/mixed;boundary=o", &body);
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&span), "v=0\r\n");
        assert_eq!(replace_sdp(&span, Bytes::from_static(b"v=0\r\no=x")), body.replace("dj0wDQo=", "dj0wDQpvPXg="));
    }

    #[test]
    fn broken_multipart_is_left_alone() {
        for (ct, body) in [
            ("multipart/mixed", "--b\r\n\r\n"),
            ("multipart/mixed;boundary=", "--\r\n"),
            ("multipart/mixed;boundary=b", "--b\r\nContent-Type: application/sdp\r\n\r\nv=0"),
            ("multipart/mixed;boundary=b", "--b"),
            ("multipart/mixed;boundary=b", "--b\r\n--b"),
            ("multipart/mixed;boundary=b", "--b\r\nContent-Type: application/sdp\r\n\r\n--b"),
        ] {
            assert!(find_sdp(&message(ct, body)).is_none(), "{body:?}");
        }
    }
}
