//! Session descriptions (RFC 8866): an editor that keeps every line it need not change.

mod codecs;
mod edit;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use bytes::Bytes;

use crate::sip::limits::{MAX_MEDIA, MAX_SDP};

pub use edit::{LineRewrite, SdpRewrite};

/// Why a body is no session description. The sender's fault: 400, or 488 in an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// Beyond [`MAX_SDP`].
    #[error("session description too large")]
    TooLarge,
    /// Beyond [`MAX_MEDIA`].
    #[error("too many media")]
    TooManyMedia,
    /// Does not begin with `v=0`, or a line is not `letter=value`.
    #[error("bad line")]
    Line,
    /// `o=` missing, repeated or malformed.
    #[error("bad origin")]
    Origin,
    /// An m-line that is not `media port[/n] proto fmt...`.
    #[error("bad media description")]
    Media,
}

/// The o-line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpOrigin {
    /// User name, "-" for none.
    pub username: Box<str>,
    /// Session id: a number, but peers send anything.
    pub sess_id: Box<str>,
    /// Version of the session: `None` if it is no number below 2^64.
    pub sess_version: Option<u64>,
    /// Address, where it is one and no name.
    pub addr: Option<IpAddr>,
}

/// Direction of a medium, as its sender sees it (RFC 3264 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    /// Both ways: also if nothing is said.
    #[default]
    SendRecv,
    /// Held by its sender.
    SendOnly,
    /// Listening.
    RecvOnly,
    /// Neither.
    Inactive,
}

/// One media description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaLine {
    /// "audio", "video", "text", ...
    pub kind: Box<str>,
    /// Port; 0 is rejected (or bundled).
    pub port: u16,
    /// Port pairs from there on: `/n`, else 1.
    pub port_count: u16,
    /// Transport protocol as received.
    pub proto: Box<str>,
    /// Payload types or formats, in the order of preference.
    pub formats: Vec<Box<str>>,
    /// Where it is sent to: of this medium, else of the session. `None` for none or a name.
    pub connection: Option<IpAddr>,
    /// Port and address of RTCP where they are given (RFC 3605).
    pub rtcp: Option<(u16, Option<IpAddr>)>,
    /// RTP and RTCP on one port, offered or accepted (RFC 5761).
    pub rtcp_mux: bool,
    /// Of this medium, else of the session.
    pub direction: Direction,
    /// It has an `a=path` (RFC 4975): the addresses of who speaks MSRP.
    pub path: bool,
}

/// What a medium is carried by, as far as a relay must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Carrier {
    /// RTP over UDP, in the clear or keyed by the description (RFC 3711).
    Rtp,
    /// The same keyed by DTLS on its own ports (RFC 5764).
    DtlsRtp,
    /// Other datagrams on one port: T.38, BFCP, data channels.
    Datagrams,
    /// No datagrams: TCP, and what is not known.
    Other,
}

impl MediaLine {
    /// By its transport protocol.
    pub fn carrier(&self) -> Carrier {
        let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(&self.proto));
        if is(&["RTP/AVP", "RTP/AVPF", "RTP/SAVP", "RTP/SAVPF"]) {
            Carrier::Rtp
        } else if is(&["UDP/TLS/RTP/SAVP", "UDP/TLS/RTP/SAVPF"]) {
            Carrier::DtlsRtp
        } else if is(&["udptl", "UDP"]) || self.proto.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("UDP/")) {
            Carrier::Datagrams
        } else {
            Carrier::Other
        }
    }

    /// Whether this is RTP, plain or secured.
    pub fn is_rtp(&self) -> bool {
        matches!(self.carrier(), Carrier::Rtp | Carrier::DtlsRtp)
    }
}

/// A session description: the lines as received, with what was understood of them.
#[derive(Clone, Debug)]
pub struct Sdp {
    raw: Bytes,
    lines: Vec<SdpLine>,
    origin: SdpOrigin,
    media: Vec<MediaLine>,
}

#[derive(Clone, Copy, Debug)]
struct SdpLine {
    letter: u8,
    /// Of the whole line.
    start: usize,
    /// Before the line end.
    content: usize,
    /// Behind the line end.
    end: usize,
    /// Which m-line it belongs to; `None`: the session.
    media: Option<usize>,
}

impl Sdp {
    /// Reads a session description. Lines may end in CRLF or LF; empty lines at its end are let pass.
    pub fn parse(raw: &[u8]) -> Result<Sdp, SdpError> {
        if raw.len() > MAX_SDP {
            return Err(SdpError::TooLarge);
        }
        let lines = split_lines(raw)?;
        if lines.first().is_none_or(|line| &raw[line.start..line.content] != b"v=0") {
            return Err(SdpError::Line);
        }
        let mut origins = lines.iter().filter(|line| line.letter == b'o');
        let origin = match (origins.next(), origins.next()) {
            (Some(line), None) => parse_origin(value(raw, line)).ok_or(SdpError::Origin)?,
            _ => return Err(SdpError::Origin),
        };
        let media = read_media(raw, &lines)?;
        Ok(Sdp { raw: Bytes::copy_from_slice(raw), lines, origin, media })
    }

    /// Reads one that [`parse`](Sdp::parse) refuses, without what nobody can read: lines that are none, and o-lines but one. `None` where
    /// the media cannot be read, or there are none.
    pub fn repair(raw: &[u8]) -> Option<Sdp> {
        let lines = raw.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let good: Vec<&[u8]> = lines.filter(|line| is_line(line) && !line.starts_with(b"v=")).collect();
        let origin = good.iter().copied().find(|line| line[0] == b'o' && parse_origin(&line[2..]).is_some());
        let rest = good.iter().copied().filter(|line| line[0] != b'o');
        // The address is written over.
        let head = [b"v=0".as_slice(), origin.unwrap_or(b"o=- 0 0 IN IP4 0.0.0.0")];
        let text: Vec<u8> = head.into_iter().chain(rest).flat_map(|line| [line, b"\r\n"].concat()).collect();
        Sdp::parse(&text).ok().filter(|sdp| !sdp.media.is_empty())
    }

    /// As received.
    pub fn raw(&self) -> &Bytes {
        &self.raw
    }

    /// The o-line.
    pub fn origin(&self) -> &SdpOrigin {
        &self.origin
    }

    /// The media descriptions in order.
    pub fn media(&self) -> &[MediaLine] {
        &self.media
    }
}

fn value<'a>(raw: &'a [u8], line: &SdpLine) -> &'a [u8] {
    raw.get(line.start + 2..line.content).unwrap_or(b"")
}

fn split_lines(raw: &[u8]) -> Result<Vec<SdpLine>, SdpError> {
    let mut lines = Vec::with_capacity(32);
    let (mut start, mut media) = (0, None);
    while start < raw.len() {
        let end = memchr::memchr(b'\n', &raw[start..]).map_or(raw.len(), |offset| start + offset + 1);
        let text = &raw[start..end];
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            let rest_is_empty = raw[start..].iter().all(|octet| matches!(octet, b'\r' | b'\n'));
            return if rest_is_empty { Ok(lines) } else { Err(SdpError::Line) };
        }
        if !is_line(text) {
            return Err(SdpError::Line);
        }
        if text[0] == b'm' {
            let index = media.map_or(0, |index: usize| index + 1);
            if index == MAX_MEDIA {
                return Err(SdpError::TooManyMedia);
            }
            media = Some(index);
        }
        lines.push(SdpLine { letter: text[0], start, content: start + text.len(), end, media });
        start = end;
    }
    Ok(lines)
}

/// `letter=value`, without its line break.
fn is_line(text: &[u8]) -> bool {
    text.len() >= 2 && text[0].is_ascii_lowercase() && text[1] == b'=' && memchr::memchr2(b'\r', 0, text).is_none()
}

fn words(value: &[u8]) -> Option<impl Iterator<Item = &str>> {
    Some(std::str::from_utf8(value).ok()?.split([' ', '\t']).filter(|word| !word.is_empty()))
}

fn parse_origin(value: &[u8]) -> Option<SdpOrigin> {
    let words: Vec<&str> = words(value)?.take(7).collect();
    let [username, sess_id, sess_version, _net, _family, addr] = words[..] else { return None };
    Some(SdpOrigin {
        username: username.into(),
        sess_id: sess_id.into(),
        sess_version: sess_version.parse().ok(),
        addr: addr.parse().ok(),
    })
}

/// The address of `IN IP4 addr[/ttl[/n]]`.
fn connection_address(value: &[u8]) -> Option<IpAddr> {
    let addr = words(value)?.nth(2)?;
    addr.split('/').next()?.parse().ok()
}

fn read_media(raw: &[u8], lines: &[SdpLine]) -> Result<Vec<MediaLine>, SdpError> {
    let mut media: Vec<MediaLine> = Vec::new();
    let (mut connection, mut direction) = (None, Direction::default());
    for line in lines {
        let value = value(raw, line);
        let Some(index) = line.media else {
            match line.letter {
                b'c' => connection = connection_address(value),
                b'a' => direction = parse_direction(value).unwrap_or(direction),
                _ => {}
            }
            continue;
        };
        if line.letter == b'm' {
            media.push(parse_media(value, connection, direction).ok_or(SdpError::Media)?);
            continue;
        }
        let Some(current) = media.get_mut(index) else { continue };
        match line.letter {
            b'c' => current.connection = connection_address(value),
            b'a' => read_attribute(current, value),
            _ => {}
        }
    }
    Ok(media)
}

fn parse_media(value: &[u8], connection: Option<IpAddr>, direction: Direction) -> Option<MediaLine> {
    let mut words = words(value)?;
    let (kind, port, proto) = (words.next()?, words.next()?, words.next()?);
    let (port, count) = port.split_once('/').unwrap_or((port, "1"));
    let formats: Vec<Box<str>> = words.map(Into::into).collect();
    if formats.is_empty() {
        return None;
    }
    Some(MediaLine {
        kind: kind.into(),
        port: crate::sip::uri::parse_port(port)?,
        port_count: crate::sip::uri::parse_port(count)?,
        proto: proto.into(),
        formats,
        connection,
        rtcp: None,
        rtcp_mux: false,
        direction,
        path: false,
    })
}

fn read_attribute(media: &mut MediaLine, value: &[u8]) {
    if let Some(direction) = parse_direction(value) {
        media.direction = direction;
    } else if value == b"rtcp-mux" {
        media.rtcp_mux = true;
    } else if let Some(argument) = value.strip_prefix(b"rtcp:") {
        media.rtcp = parse_rtcp(argument);
    } else if value.starts_with(b"path:") {
        media.path = true;
    }
}

/// RFC 3605 §2.1: `port [IN IP4 addr]`.
fn parse_rtcp(argument: &[u8]) -> Option<(u16, Option<IpAddr>)> {
    let mut words = words(argument)?;
    let port = crate::sip::uri::parse_port(words.next()?)?;
    Some((port, words.nth(2).and_then(|addr| addr.parse().ok())))
}

fn parse_direction(value: &[u8]) -> Option<Direction> {
    Some(match value {
        b"sendrecv" => Direction::SendRecv,
        b"sendonly" => Direction::SendOnly,
        b"recvonly" => Direction::RecvOnly,
        b"inactive" => Direction::Inactive,
        _ => return None,
    })
}
