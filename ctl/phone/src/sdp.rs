//! Session descriptions with one PCMU stream (RFC 8866, offer and answer of RFC 3264), read and written by sdp-types.

use std::net::SocketAddr;

use sdp_types::{Connection, Media, MediaType, Origin, Session, Time, TransportProto};

/// m-lines read of one description; a phone answers each, so they are limited.
const MAX_LINES: usize = 32;

/// Who sends, seen from the side whose description says it (RFC 8866 §6.7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
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
    pub fn answer(self) -> Direction {
        match self {
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            Direction::SendRecv | Direction::Inactive => self,
        }
    }

    /// Whether the side that says it sends.
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// The attribute's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// The last that the attributes name.
    fn of(attributes: &[sdp_types::Attribute]) -> Option<Direction> {
        let all = [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive];
        attributes.iter().rev().find_map(|a| all.into_iter().find(|d| d.as_str() == a.attribute))
    }
}

/// Plain audio toward `at`, as a phone at this version of its description says it; `direction` is sendrecv, sendonly, …
pub fn audio(at: SocketAddr, version: u32, direction: &str) -> Vec<u8> {
    let mut origin = Origin::with_ip_addr(77, version.into(), at.ip());
    origin.set_username("phone");
    let mut session = head(origin, at);
    session.add_media(pcmu(at.port(), direction));
    written(&session)
}

/// The far end's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RemoteSdp(Session);

/// The stream of a far end that a phone takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RemoteAudio {
    /// Where its RTP is to go; `None`: nowhere (0.0.0.0 is the old hold).
    pub(crate) target: Option<SocketAddr>,
    /// As its description says it.
    pub(crate) direction: Direction,
}

impl RemoteSdp {
    /// `None`: not a description, or one of too many streams.
    pub(crate) fn parse(body: &[u8]) -> Option<RemoteSdp> {
        Session::parse(body).ok().filter(|session| session.medias.len() <= MAX_LINES).map(RemoteSdp)
    }

    /// The stream that this phone takes part in.
    pub(crate) fn audio(&self) -> Option<RemoteAudio> {
        let media = self.0.medias.iter().find(|m| is_pcmu(m))?;
        let target = target(&self.0, media).filter(|target| !target.ip().is_unspecified());
        Some(RemoteAudio { target, direction: self.direction(media) })
    }

    /// Where the first line for audio of any kind says that it goes.
    pub(crate) fn audio_target(&self) -> Option<SocketAddr> {
        self.0.medias.iter().find(|m| m.media == "audio").and_then(|m| target(&self.0, m))
    }

    fn direction(&self, media: &Media) -> Direction {
        Direction::of(&media.attributes).or_else(|| Direction::of(&self.0.attributes)).unwrap_or_default()
    }
}

/// Audio over plain RTP with payload type 0 (PCMU, RFC 3551 §6), not switched off.
fn is_pcmu(media: &Media) -> bool {
    let plain = media.media == "audio" && media.proto == "RTP/AVP";
    plain && media.port != 0 && media.fmt.split_ascii_whitespace().any(|f| f == "0")
}

fn target(session: &Session, media: &Media) -> Option<SocketAddr> {
    let connection = media.connections.first().or(session.connection.as_ref())?;
    Some(SocketAddr::new(connection.try_address().ok()?.ip, media.port))
}

/// Our side: one stream, one origin.
#[derive(Debug)]
pub(crate) struct LocalSdp {
    rtp: SocketAddr,
    session: u64,
    version: u64,
    /// The direction that we said last.
    pub(crate) direction: Direction,
}

impl LocalSdp {
    pub(crate) fn new(rtp: SocketAddr) -> LocalSdp {
        // RFC 8866 §5.2: numeric; half of the digits are enough.
        let session = getrandom::u32().unwrap_or(1).into();
        LocalSdp { rtp, session, version: 0, direction: Direction::SendRecv }
    }

    /// An offer; each is a new version (RFC 3264 §8).
    pub(crate) fn offer(&mut self, direction: Direction) -> Vec<u8> {
        self.direction = direction;
        let mut session = self.next();
        session.add_media(self.line());
        written(&session)
    }

    /// The answer: PCMU accepted on the first line that has it, the others refused with port 0. `None`: nothing in common.
    pub(crate) fn answer(&mut self, offer: &RemoteSdp) -> Option<Vec<u8>> {
        let chosen = offer.0.medias.iter().position(is_pcmu)?;
        self.direction = offer.direction(&offer.0.medias[chosen]).answer();
        let mut session = self.next();
        for (at, media) in offer.0.medias.iter().enumerate() {
            let first = media.fmt.split_ascii_whitespace().next().unwrap_or_default();
            let refused = || Media { port: 0, num_ports: None, ..bare(&media.media, &media.proto, first) };
            session.add_media(if at == chosen { self.line() } else { refused() });
        }
        Some(written(&session))
    }

    fn next(&mut self) -> Session {
        self.version += 1;
        head(Origin::with_ip_addr(self.session, self.version, self.rtp.ip()), self.rtp)
    }

    fn line(&self) -> Media {
        let mut media = pcmu(self.rtp.port(), self.direction.as_str());
        media.attributes.insert(1, sdp_types::Attribute::with_value("ptime", 20));
        media
    }
}

fn head(origin: Origin, at: SocketAddr) -> Session {
    let mut session = Session::new(origin, "-");
    session.set_connection(Connection::from_ip_addr(at.ip()));
    session.add_time(Time::new(0, 0));
    session
}

fn pcmu(port: u16, direction: &str) -> Media {
    let mut media = Media::new(MediaType::Audio, port, TransportProto::RtpAvp, 0);
    media.add_attribute_with_value("rtpmap", "0 PCMU/8000");
    media.add_attribute_from_str(direction);
    media
}

fn bare(media: &str, proto: &str, fmt: &str) -> Media {
    let plain = Media::new(MediaType::Audio, 0, TransportProto::RtpAvp, fmt);
    Media { media: media.to_owned(), proto: proto.to_owned(), ..plain }
}

fn written(session: &Session) -> Vec<u8> {
    let mut out = Vec::new();
    session.write(&mut out).expect("a vector takes all");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> LocalSdp {
        LocalSdp::new("127.0.43.1:4000".parse().unwrap())
    }

    fn text(body: &[u8]) -> &str {
        std::str::from_utf8(body).unwrap()
    }

    #[test]
    fn a_description_is_written_as_phones_write_it() {
        let expected = "v=0\r\no=phone 77 3 IN IP4 127.0.43.1\r\ns=-\r\nc=IN IP4 127.0.43.1\r\nt=0 0\r\n\
            m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\n";
        let goes = |body: &[u8]| RemoteSdp::parse(body).and_then(|remote| remote.audio_target());
        let at = "127.0.43.1:4000".parse().unwrap();
        assert_eq!((text(&audio(at, 3, "sendonly")), goes(expected.as_bytes())), (expected, Some(at)));
        let at = "[2001:db8::1]:4000".parse().unwrap();
        assert!(text(&audio(at, 1, "sendrecv")).contains("\r\nc=IN IP6 2001:db8::1\r\n"));
        assert_eq!(goes(&audio(at, 1, "sendrecv")), Some(at));
    }

    #[test]
    fn answers_line_by_line() {
        let offer = "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nc=IN IP4 127.0.43.9\r\nt=0 0\r\na=inactive\r\n\
            m=video 6000 RTP/AVP 31 34\r\nm=audio 5000 RTP/AVP 8 0\r\nc=IN IP4 127.0.43.8\r\na=sendonly\r\n";
        let offer = RemoteSdp::parse(offer.as_bytes()).unwrap();
        let audio = offer.audio().unwrap();
        assert_eq!((audio.target, audio.direction), ("127.0.43.8:5000".parse().ok(), Direction::SendOnly));
        assert_eq!(offer.direction(&offer.0.medias[0]), Direction::Inactive);
        let answer = ours().answer(&offer).unwrap();
        assert!(text(&answer).contains("m=video 0 RTP/AVP 31\r\nm=audio 4000 RTP/AVP 0\r\n"), "{}", text(&answer));
        assert!(text(&answer).contains("a=recvonly"));
    }

    #[test]
    fn old_hold_has_no_target_and_no_common_codec_no_answer() {
        let mut body = text(&ours().offer(Direction::SendRecv)).replace("127.0.43.1", "0.0.0.0");
        let held = RemoteSdp::parse(body.as_bytes()).unwrap();
        assert_eq!(held.audio().unwrap().target, None);
        body = body.replace("RTP/AVP 0", "RTP/AVP 8");
        assert_eq!(ours().answer(&RemoteSdp::parse(body.as_bytes()).unwrap()), None);
        assert_eq!(RemoteSdp::parse(b"hello"), None);
        body += &"m=audio 1 RTP/AVP 0\r\n".repeat(40);
        assert_eq!(RemoteSdp::parse(body.as_bytes()), None);
    }
}
