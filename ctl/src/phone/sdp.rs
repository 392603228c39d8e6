//! Session descriptions with one PCMU stream (RFC 8866, offer and answer of RFC 3264).

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// m-lines read of one description; a phone answers each, so they are limited.
const MAX_LINES: usize = 32;

/// Who sends, seen from the side whose description says it (RFC 8866 §6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Both.
    #[default]
    SendRecv,
    /// This side only: it put the other on hold.
    SendOnly,
    /// The other side only.
    RecvOnly,
    /// Nobody.
    Inactive,
}

impl Direction {
    /// The answer of a side that agrees to everything (RFC 3264 §6.1).
    pub(crate) fn answer(self) -> Direction {
        match self {
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            Direction::SendRecv | Direction::Inactive => self,
        }
    }

    /// Whether the side that says it sends.
    pub(crate) fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// The attribute's name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn from_attribute(name: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|d| d.as_str() == name)
    }
}

/// One m-line of the far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MediaLine {
    /// `m=` value: kind, port, protocol, formats.
    line: String,
    ip: Option<IpAddr>,
    pub(super) direction: Direction,
}

impl MediaLine {
    fn field(&self, n: usize) -> &str {
        self.line.split_ascii_whitespace().nth(n).unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.field(1).split('/').next().and_then(|p| p.parse().ok()).unwrap_or(0)
    }

    /// Audio over plain RTP with payload type 0 (PCMU, RFC 3551 §6), not switched off.
    fn is_pcmu(&self) -> bool {
        let formats = self.line.split_ascii_whitespace().skip(3);
        self.field(0) == "audio" && self.field(2) == "RTP/AVP" && self.port() != 0 && formats.into_iter().any(|f| f == "0")
    }

    /// Where its RTP is to go; `None`: nowhere (0.0.0.0 is the old hold).
    pub(super) fn target(&self) -> Option<SocketAddr> {
        self.ip.filter(|ip| !ip.is_unspecified()).map(|ip| SocketAddr::new(ip, self.port()))
    }
}

/// The far end's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteSdp {
    lines: Vec<MediaLine>,
}

impl RemoteSdp {
    /// `None`: not a description.
    pub(super) fn parse(body: &[u8]) -> Option<RemoteSdp> {
        let text = std::str::from_utf8(body).ok().filter(|t| t.starts_with("v=0"))?;
        let (mut ip, mut direction) = (None, Direction::SendRecv);
        let mut lines: Vec<MediaLine> = Vec::new();
        for line in text.lines() {
            let Some((kind, value)) = line.split_once('=') else { continue };
            match kind {
                "m" if lines.len() == MAX_LINES => return None,
                "m" => lines.push(MediaLine { line: value.to_owned(), ip, direction }),
                "c" => {
                    let address = value.split_ascii_whitespace().nth(2)?.parse().ok();
                    *lines.last_mut().map_or(&mut ip, |m| &mut m.ip) = address;
                }
                "a" => {
                    if let Some(d) = Direction::from_attribute(value) {
                        *lines.last_mut().map_or(&mut direction, |m| &mut m.direction) = d;
                    }
                }
                _ => {}
            }
        }
        Some(RemoteSdp { lines })
    }

    /// The stream that this phone takes part in.
    pub(super) fn audio(&self) -> Option<&MediaLine> {
        self.lines.iter().find(|m| m.is_pcmu())
    }
}

/// Our side: one stream, one origin.
#[derive(Debug)]
pub(super) struct LocalSdp {
    rtp: SocketAddr,
    session: u64,
    version: u64,
    /// The direction that we said last.
    pub(super) direction: Direction,
}

impl LocalSdp {
    pub(super) fn new(rtp: SocketAddr) -> LocalSdp {
        let session = u64::from_str_radix(&super::unique(), 16).unwrap_or(1) >> 16;
        LocalSdp { rtp, session, version: 0, direction: Direction::SendRecv }
    }

    /// An offer; each is a new version (RFC 3264 §8).
    pub(super) fn offer(&mut self, direction: Direction) -> String {
        self.direction = direction;
        let mut text = self.head();
        self.audio_line(&mut text);
        text
    }

    /// The answer: PCMU accepted on the first line that has it, the others refused with port 0. `None`: nothing in common.
    pub(super) fn answer(&mut self, offer: &RemoteSdp) -> Option<String> {
        let chosen = offer.lines.iter().position(MediaLine::is_pcmu)?;
        self.direction = offer.lines[chosen].direction.answer();
        let mut text = self.head();
        for (i, m) in offer.lines.iter().enumerate() {
            if i == chosen {
                self.audio_line(&mut text);
            } else {
                let _ = write!(text, "m={} 0 {} {}\r\n", m.field(0), m.field(2), m.field(3));
            }
        }
        Some(text)
    }

    fn head(&mut self) -> String {
        self.version += 1;
        let (ip, session, version) = (self.rtp.ip(), self.session, self.version);
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        format!("v=0\r\no=- {session} {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n")
    }

    fn audio_line(&self, text: &mut String) {
        let (port, direction) = (self.rtp.port(), self.direction.as_str());
        let _ = write!(text, "m=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na={direction}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> LocalSdp {
        LocalSdp::new("127.0.43.1:4000".parse().unwrap())
    }

    #[test]
    fn answers_line_by_line() {
        let offer = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nc=IN IP4 127.0.43.9\r\na=inactive\r\nt=0 0\r\n\
            m=video 6000 RTP/AVP 31\r\nm=audio 5000 RTP/AVP 8 0\r\nc=IN IP4 127.0.43.8\r\na=sendonly\r\n";
        let offer = RemoteSdp::parse(offer.as_bytes()).unwrap();
        let audio = offer.audio().unwrap();
        assert_eq!((audio.target(), audio.direction), ("127.0.43.8:5000".parse().ok(), Direction::SendOnly));
        assert_eq!(offer.lines[0].direction, Direction::Inactive);
        let answer = ours().answer(&offer).unwrap();
        assert!(answer.contains("m=video 0 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0\r\n"), "{answer}");
        assert!(answer.contains("a=recvonly"));
    }

    #[test]
    fn old_hold_has_no_target_and_no_common_codec_no_answer() {
        let mut body = ours().offer(Direction::SendRecv).replace("127.0.43.1", "0.0.0.0");
        let held = RemoteSdp::parse(body.as_bytes()).unwrap();
        assert_eq!(held.audio().unwrap().target(), None);
        body = body.replace("RTP/AVP 0", "RTP/AVP 8");
        assert_eq!(ours().answer(&RemoteSdp::parse(body.as_bytes()).unwrap()), None);
        assert_eq!(RemoteSdp::parse(b"hello"), None);
        assert_eq!(RemoteSdp::parse(format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(40)).as_bytes()), None);
    }
}
