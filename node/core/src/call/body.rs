//! Session descriptions in message bodies: alone, or as a part of a multipart body (RFC 5621), which otherwise crosses byte for byte.

use bytes::{Bytes, BytesMut};

use crate::sip::Message;

/// Where a body's session description lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpSpan {
    start: usize,
    end: usize,
}

/// Parts looked at in a multipart body.
const MAX_PARTS: usize = 32;

/// The session description in a message, if it has one.
pub fn find_sdp(message: &Message) -> Option<SdpSpan> {
    let body = message.body();
    if body.is_empty() {
        return None;
    }
    let content_type = message.content_type()?;
    if is_sdp(content_type) {
        return Some(SdpSpan { start: 0, end: body.len() });
    }
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if !media_type.to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    find_part(&body, &boundary(content_type)?)
}

/// The description's bytes.
pub fn sdp_bytes(message: &Message, span: &SdpSpan) -> Bytes {
    message.body().slice(span.start..span.end)
}

/// The body with another description in its place.
pub(super) fn replace_sdp(message: &Message, span: &SdpSpan, sdp: &[u8]) -> Bytes {
    let body = message.body();
    let mut out = BytesMut::with_capacity(body.len() + sdp.len());
    out.extend_from_slice(&body[..span.start]);
    out.extend_from_slice(sdp);
    out.extend_from_slice(&body[span.end..]);
    out.freeze()
}

fn is_sdp(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/sdp")
}

fn boundary(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|p| {
        let (name, value) = p.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    })
}

fn find_part(body: &[u8], boundary: &str) -> Option<SdpSpan> {
    // RFC 2046 §5.1.1: at most 70 characters; without any, every line would be a delimiter.
    if boundary.is_empty() || boundary.len() > 70 {
        return None;
    }
    let delimiter = format!("--{boundary}");
    let starts: Vec<usize> = memchr::memmem::find_iter(body, delimiter.as_bytes())
        .filter(|at| *at == 0 || body[at - 1] == b'\n')
        .take(MAX_PARTS)
        .collect();
    starts.windows(2).find_map(|w| {
        let part_start = w[0] + delimiter.len();
        let head_start = part_start + memchr::memchr(b'\n', body.get(part_start..w[1])?)? + 1;
        let head_len = memchr::memmem::find(body.get(head_start..w[1])?, b"\r\n\r\n")?;
        let head = std::str::from_utf8(&body[head_start..head_start + head_len]).ok()?;
        let sdp = head.split("\r\n").any(|line| {
            line.split_once(':').is_some_and(|(name, value)| name.trim().eq_ignore_ascii_case("content-type") && is_sdp(value))
        });
        let encoded = head.to_ascii_lowercase().contains("content-transfer-encoding: base64");
        let (start, end) = (head_start + head_len + 4, w[1].checked_sub(2)?);
        (sdp && !encoded && start <= end).then_some(SdpSpan { start, end })
    })
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
        assert_eq!(sdp_bytes(&m, &span), "v=0\r\n");
        assert!(find_sdp(&message("text/plain", "v=0\r\n")).is_none());
    }

    #[test]
    fn multipart_keeps_every_other_byte() {
        let body = "--b1\r\nContent-Type: application/pidf+xml\r\nContent-ID: <x>\r\n\r\n<xml/>\r\n--b1\r\ncontent-type: application/sdp\r\n\r\nv=0\r\no=x\r\n\r\n--b1--\r\n";
        let m = message("multipart/mixed; boundary=\"b1\"", body);
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&m, &span), "v=0\r\no=x\r\n");
        let changed = replace_sdp(&m, &span, b"NEW\r\n");
        assert_eq!(changed, body.replace("v=0\r\no=x\r\n", "NEW\r\n"));
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
            assert_eq!(find_sdp(&message(ct, body)).filter(|s| s.start < s.end), None, "{body:?}");
        }
    }
}
