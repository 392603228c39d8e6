//! The editor: our address, ports and identity into a session description, and nothing else.

use std::net::IpAddr;

use bytes::Bytes;

use super::{Sdp, SdpLine, connection_address, value};

/// What to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpRewrite {
    /// User name, session id and version of our o-line, which then also gets the address; `None` leaves it as it is.
    pub origin: Option<(String, u64, u64)>,
    /// Our media address.
    pub address: IpAddr,
    /// What is done with each m-line; those beyond the end are kept.
    pub lines: Vec<LineRewrite>,
}

/// What is done with an m-line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineRewrite {
    /// Nothing, but the address is ours: it is refused already.
    #[default]
    Keep,
    /// Our address and this port of ours.
    Port(u16),
    /// Refused: port 0.
    Refuse,
    /// Neither address nor port is ours: the far ends reach each other without us.
    Direct,
}

impl Sdp {
    /// Writes the description with our addresses and ports. All else stays byte for byte, except for what cannot survive
    /// a relay: ICE (RFC 8839) goes, since its candidates lead past us; BUNDLE (RFC 9143) goes, since each m-line gets its
    /// own port. A connection address of zeros stays one: it means held (RFC 3264 §8.4).
    pub fn rewrite(&self, rewrite: &SdpRewrite) -> Bytes {
        let mut out = Vec::with_capacity(self.raw.len() + 128);
        for (at, line) in self.lines.iter().enumerate() {
            self.rewrite_line(line, rewrite, &mut out);
            if let Some(connection) = self.connection_behind(at, rewrite) {
                if !out.ends_with(b"\n") {
                    // A last line cut off in the middle of its line break is made whole.
                    out.pop_if(|octet| *octet == b'\r');
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"c=");
                out.extend_from_slice(&connection);
                out.extend_from_slice(b"\r\n");
            }
        }
        Bytes::from(out)
    }

    /// Writes the description with another o-line, and nothing else.
    pub fn with_origin(&self, user: &str, id: u64, version: u64) -> Bytes {
        let mut out = Vec::with_capacity(self.raw.len() + 16);
        for line in &self.lines {
            if line.letter == b'o' {
                let words = value(&self.raw, line).split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty());
                out.extend_from_slice(format!("o={user} {id} {version}").as_bytes());
                for word in words.skip(3) {
                    out.push(b' ');
                    out.extend_from_slice(word);
                }
                out.extend_from_slice(&self.raw[line.content..line.end]);
            } else {
                out.extend_from_slice(&self.raw[line.start..line.end]);
            }
        }
        Bytes::from(out)
    }

    /// RFC 8866 §5.7: a medium without c= needs one of the session. Who left both out gets ours, behind m= and its i=; who does not
    /// pass through us keeps that of the session, which becomes ours.
    fn connection_behind(&self, at: usize, rewrite: &SdpRewrite) -> Option<Vec<u8>> {
        let line = self.lines[at];
        let letter_at = |at: Option<usize>| at.and_then(|at| self.lines.get(at)).map(|line| line.letter);
        let place = match line.letter {
            b'm' => letter_at(Some(at + 1)) != Some(b'i'),
            b'i' => letter_at(at.checked_sub(1)) == Some(b'm'),
            _ => false,
        };
        let connection = |media| self.lines.iter().rfind(|other| other.letter == b'c' && other.media == media);
        if !place || connection(line.media).is_some() {
            return None;
        }
        match (rewrite.line(line.media?), connection(None)) {
            (LineRewrite::Direct, Some(session)) => Some(value(&self.raw, session).to_vec()),
            (LineRewrite::Port(_), None) => Some(format!("IN {}", family_and(rewrite.address)).into_bytes()),
            _ => None,
        }
    }

    fn rewrite_line(&self, line: &SdpLine, rewrite: &SdpRewrite, out: &mut Vec<u8>) {
        let changed = match line.letter {
            b'o' => rewrite.origin.as_ref().map(|(user, id, version)| {
                let user = if user.is_empty() { "-" } else { user };
                Some(format!("o={user} {id} {version} IN {}", family_and(rewrite.address)))
            }),
            b'c' if rewrite.is_direct(line.media) => None,
            b'c' => self.rewrite_connection(line, rewrite),
            b'm' => line.media.and_then(|index| self.rewrite_media(index, rewrite)).map(Some),
            b'a' if rewrite.is_direct(line.media) => None,
            b'a' => self.rewrite_attribute(line, rewrite),
            _ => None,
        };
        match changed {
            None => out.extend_from_slice(&self.raw[line.start..line.end]),
            Some(None) => {}
            Some(Some(text)) => {
                out.extend_from_slice(text.as_bytes());
                out.extend_from_slice(&self.raw[line.content..line.end]);
            }
        }
    }

    fn rewrite_connection(&self, line: &SdpLine, rewrite: &SdpRewrite) -> Option<Option<String>> {
        let held = connection_address(value(&self.raw, line)).filter(IpAddr::is_unspecified);
        match (held, rewrite.address) {
            (None, ours) => Some(Some(format!("c=IN {}", family_and(ours)))),
            // Held, said in the family of the far end.
            (Some(IpAddr::V4(_)), IpAddr::V6(_)) => Some(Some("c=IN IP6 ::".into())),
            (Some(IpAddr::V6(_)), IpAddr::V4(_)) => Some(Some("c=IN IP4 0.0.0.0".into())),
            (Some(_), _) => None,
        }
    }

    /// The port count goes with the port: we have one pair.
    fn rewrite_media(&self, index: usize, rewrite: &SdpRewrite) -> Option<String> {
        let port = match rewrite.line(index) {
            LineRewrite::Keep | LineRewrite::Direct => return None,
            LineRewrite::Port(port) => port,
            LineRewrite::Refuse => 0,
        };
        let media = self.media.get(index)?;
        let mut text = format!("m={} {port} {}", media.kind, media.proto);
        for format in &media.formats {
            text.push(' ');
            text.push_str(format);
        }
        Some(text)
    }

    /// `None`: as it is; `Some(None)`: removed.
    fn rewrite_attribute(&self, line: &SdpLine, rewrite: &SdpRewrite) -> Option<Option<String>> {
        let value = value(&self.raw, line);
        let name_end = value.iter().position(|octet| *octet == b':').unwrap_or(value.len());
        let (name, argument) = (&value[..name_end], value.get(name_end + 1..).unwrap_or(b""));
        match name {
            b"candidate" | b"remote-candidates" | b"end-of-candidates" => Some(None),
            _ if name.starts_with(b"ice-") => Some(None),
            b"group" if argument.starts_with(b"BUNDLE") => Some(None),
            // RFC 4975: where its sender is, and of no use for a medium that is refused or passes through us.
            b"path" => line.media.map(|_| None),
            b"rtcp" => {
                let index = line.media?;
                let muxed = self.media.get(index).is_some_and(|media| media.rtcp_mux);
                match rewrite.line(index) {
                    LineRewrite::Port(port) if !muxed => Some(port.checked_add(1).map(|port| format!("a=rtcp:{port}"))),
                    // Of a rejected medium nobody needs it, and it may hold an address.
                    _ => Some(None),
                }
            }
            _ => None,
        }
    }
}

impl SdpRewrite {
    fn line(&self, index: usize) -> LineRewrite {
        self.lines.get(index).copied().unwrap_or_default()
    }

    fn is_direct(&self, media: Option<usize>) -> bool {
        media.is_some_and(|index| self.line(index) == LineRewrite::Direct)
    }
}

fn family_and(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("IP4 {address}"),
        IpAddr::V6(address) => format!("IP6 {address}"),
    }
}
