//! Session descriptions in message bodies: alone, or as a part of a multipart body (RFC 5621), which otherwise crosses byte for byte.

use bytes::Bytes;

use crate::sip::parts::{self, Leaf};
use crate::sip::{HeaderId, Message, Sdp, SdpError};

const SDP: &str = "application/sdp";

/// What a body is. Without a Content-Type (RFC 3261 §20.15 wants one) it is what it begins as.
fn type_of(message: &Message) -> Option<&str> {
    message.content_type().or_else(|| message.body().starts_with(b"v=0").then_some(SDP))
}

/// Where a body's session description lies.
#[derive(Clone, Debug)]
pub struct SdpSpan(Leaf);

/// The session description in a message, if it has one.
pub fn find_sdp(message: &Message) -> Option<SdpSpan> {
    let body = message.body();
    if body.is_empty() {
        return None;
    }
    parts::find(type_of(message)?, body, SDP).map(SdpSpan)
}

/// The session descriptions of a message. Mostly there is one; who sends more means that any of them may be taken (RFC 5621 §3, NENA-STA-010's
/// examples), and the first is what is gone by.
#[derive(Debug, Default)]
pub(super) struct Descriptions {
    /// In their order. `None`: it cannot be read.
    pub(super) all: Vec<Option<Sdp>>,
    /// Something was not as it should be, and can be read all the same.
    pub(super) repaired: bool,
    /// There seems to be another one that cannot be found or decoded.
    pub(super) hidden: bool,
}

/// Descriptions of one message that are anchored.
const MAX_DESCRIPTIONS: usize = 8;

impl Descriptions {
    /// Reads all of them, and mends what can be mended.
    pub(super) fn of(message: &Message) -> Descriptions {
        let Some(content_type) = type_of(message).filter(|_| !message.body().is_empty()) else {
            return Descriptions::default();
        };
        let (leaves, hidden) = parts::all(content_type, message.body(), SDP);
        let encoded = is_encoded(message) && !leaves.is_empty();
        let mut repaired = message.content_type().is_none();
        let read = |leaf: &Leaf| {
            let strict = Sdp::parse(&leaf.content).ok();
            repaired |= leaf.repaired || strict.is_none();
            strict.or_else(|| Sdp::repair(&leaf.content)).filter(|_| !encoded)
        };
        let hidden = hidden || leaves.len() > MAX_DESCRIPTIONS;
        Descriptions { all: leaves.iter().take(MAX_DESCRIPTIONS).map(read).collect(), repaired, hidden }
    }

    /// The one that is gone by, and its place.
    pub(super) fn first(&self) -> Option<(usize, &Sdp)> {
        self.all.iter().enumerate().find_map(|(at, sdp)| Some((at, sdp.as_ref()?)))
    }

    /// True when one of them goes past us, and nobody knows what it says.
    pub(super) fn is_unread(&self) -> bool {
        self.hidden || self.all.iter().any(Option::is_none)
    }

    /// Streams for all of them: of each line the same.
    pub(super) fn streams(&self) -> usize {
        self.all.iter().flatten().map(|sdp| sdp.media().len()).max().unwrap_or(0)
    }
}

/// The body with each description exchanged for that in its place; `None` leaves it.
pub(super) fn exchange(message: &Message, descriptions: &[Option<Bytes>]) -> Bytes {
    let mut body = message.body();
    let Some(content_type) = type_of(message) else { return body };
    for (at, new) in descriptions.iter().enumerate() {
        let Some(new) = new else { continue };
        // Each exchange moves what is behind it.
        if let Some(leaf) = parts::all(content_type, body.clone(), SDP).0.get(at) {
            body = leaf.replace(new.clone());
        }
    }
    body
}

fn is_encoded(message: &Message) -> bool {
    message.values(HeaderId::ContentEncoding).any(|coding| !coding.trim().eq_ignore_ascii_case("identity"))
}

/// The description's bytes.
pub fn sdp_bytes(span: &SdpSpan) -> Bytes {
    span.0.content.clone()
}

/// Why the session description of an offer cannot be anchored. The sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is compressed (RFC 3261 §20.12), and we read none of that: 415.
    Encoded,
    /// It cannot be read: 488.
    Sdp(SdpError),
    /// There seems to be one in the body that cannot be taken out: 488.
    Hidden,
}

impl Unusable {
    /// RFC 3261 §21.4.13, §21.4.26.
    pub fn status(self) -> u16 {
        match self {
            Unusable::Encoded => 415,
            Unusable::Sdp(_) | Unusable::Hidden => 488,
        }
    }

    /// The header field that fits the problem; `agent` names us in a Warning.
    pub fn field(self, agent: &str) -> (&'static str, String) {
        match self {
            Unusable::Encoded => ("Accept-Encoding", "identity".to_owned()),
            Unusable::Hidden => ("Warning", format!("399 {agent} \"session description: it cannot be found in the body\"")),
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
    let (leaves, _) = parts::all(request.content_type()?, request.body(), SDP);
    if is_encoded(request) && !leaves.is_empty() {
        return Some(Unusable::Encoded);
    }
    leaves.iter().find_map(|leaf| Sdp::parse(&leaf.content).err()).map(Unusable::Sdp)
}

/// The same for a request within a call, which has descriptions that stand: there it is refused rather than let past us.
pub(super) fn unusable_within(request: &Message) -> Option<Unusable> {
    let hides = || parts::all(request.content_type()?, request.body(), SDP).1.then_some(Unusable::Hidden);
    unusable(request).or_else(hides)
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
        let changed = exchange(&m, &[Some(Bytes::from_static(b"NEW\r\n"))]);
        assert_eq!(changed, body.replace("v=0\r\no=x\r\n", "NEW\r\n"));
    }

    #[test]
    fn a_part_as_few_write_it() {
        let body = "preamble\r\n--b1  \r\nc: Application/SDP; x=y\r\nl: 5\r\n\r\nv=0\r\n\r\n--b1--\r\n";
        let m = message("multipart/mixed;boundary=b1", body);
        let span = find_sdp(&m).unwrap();
        assert_eq!(sdp_bytes(&span), "v=0\r\n");
        let changed = exchange(&m, &[Some(Bytes::from_static(b"v=0\r\nlonger\r\n"))]);
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
        assert_eq!(exchange(&m, &[Some(Bytes::from_static(b"v=0\r\no=x"))]), body.replace("dj0wDQo=", "dj0wDQpvPXg="));
    }

    #[test]
    fn several_descriptions() {
        let sdp = |port| format!("v=0\r\no=- 1 1 IN IP4 h\r\ns=-\r\nm=audio {port} RTP/AVP 0\r\n");
        let part = |content: &str| format!("--b\r\nContent-Type: application/sdp\r\n\r\n{content}\r\n");
        let two = sdp(5) + "m=video 7 RTP/AVP 1\r\n";
        let body =
            format!("{}--b\r\nContent-Type: text/plain\r\n\r\nx\r\n{}{}--b--", part(&sdp(4)), part(&two), part("nonsense"));
        let m = message("multipart/mixed;boundary=b", &body);
        let found = Descriptions::of(&m);
        assert_eq!((found.all.len(), found.streams(), found.first().map(|(at, _)| at)), (3, 2, Some(0)));
        assert!(found.is_unread() && found.repaired && !found.hidden);
        assert_eq!(unusable(&m), Some(Unusable::Sdp(SdpError::Line)));
        let changed = exchange(&m, &[Some("one, and longer".into()), Some("two".into()), None]);
        assert_eq!(changed, body.replace(&sdp(4), "one, and longer").replace(&two, "two"));
        let whole = Descriptions::of(&message("multipart/mixed;boundary=b", &format!("{}{}--b--", part(&sdp(4)), part(&two))));
        assert!(!whole.is_unread() && !whole.repaired);
        let joined = format!("{}--b--", part(&sdp(4))).replace("sdp\r\n\r\n", "sdp\r\n");
        let found = Descriptions::of(&message("multipart/mixed;boundary=b", &joined));
        assert!(found.first().is_some() && found.repaired && !found.is_unread());
        let lost = message("multipart/mixed", &body);
        assert!(Descriptions::of(&lost).is_unread());
        assert_eq!((unusable(&lost), unusable_within(&lost)), (None, Some(Unusable::Hidden)));
        assert!(!Descriptions::of(&message("text/plain", &body)).is_unread());
    }

    #[test]
    fn broken_multipart_is_left_alone() {
        for (ct, body) in [
            ("multipart/mixed", "--b\r\n\r\n"),
            ("multipart/mixed;boundary=", "--\r\n"),
            ("multipart/mixed;boundary=b", "--b"),
            ("multipart/mixed;boundary=b", "--b\r\n--b"),
        ] {
            assert!(find_sdp(&message(ct, body)).is_none(), "{body:?}");
        }
    }
}
