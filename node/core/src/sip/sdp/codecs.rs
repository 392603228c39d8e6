//! Which codecs a description names, and a description without some of them.

use bytes::Bytes;

use super::{Sdp, SdpLine, value};

/// Payload types that need no rtpmap (RFC 3551 §6).
const STATIC: [(&str, &str); 20] = [
    ("0", "PCMU"),
    ("3", "GSM"),
    ("4", "G723"),
    ("5", "DVI4"),
    ("6", "DVI4"),
    ("7", "LPC"),
    ("8", "PCMA"),
    ("9", "G722"),
    ("10", "L16"),
    ("11", "L16"),
    ("12", "QCELP"),
    ("13", "CN"),
    ("14", "MPA"),
    ("15", "G728"),
    ("18", "G729"),
    ("26", "JPEG"),
    ("31", "H261"),
    ("32", "MPV"),
    ("33", "MP2T"),
    ("34", "H263"),
];

/// Formats that go with a codec and are none: tones, comfort noise, retransmission, redundancy.
const COMPANIONS: [&str; 5] = ["telephone-event", "CN", "rtx", "red", "ulpfec"];

impl Sdp {
    /// The description without the audio and video codecs that `allowed` refuses by their encoding names, nor what was said of
    /// them. Tones and comfort noise stay; retransmission (RFC 4588) stays with the codec that it is for. A medium that would have
    /// no codec left stays whole: who would offer or answer nothing could not speak at all. `None`: there is nothing to take out.
    pub fn without_codecs(&self, allowed: &dyn Fn(&str) -> bool) -> Option<Bytes> {
        let dropped: Vec<Vec<&str>> = (0..self.media.len()).map(|index| self.refused(index, allowed)).collect();
        if dropped.iter().all(Vec::is_empty) {
            return None;
        }
        let mut out = Vec::with_capacity(self.raw.len());
        for line in &self.lines {
            let gone = line.media.and_then(|index| dropped.get(index)).map_or(&[][..], Vec::as_slice);
            if line.letter == b'm' && !gone.is_empty() {
                out.extend_from_slice(b"m=");
                out.extend_from_slice(self.shorter(line, gone).as_bytes());
                out.extend_from_slice(&self.raw[line.content..line.end]);
            } else if !format_of(value(&self.raw, line)).is_some_and(|format| line.letter == b'a' && gone.contains(&format)) {
                out.extend_from_slice(&self.raw[line.start..line.end]);
            }
        }
        Some(Bytes::from(out))
    }

    /// The formats of a medium that go.
    fn refused(&self, index: usize, allowed: &dyn Fn(&str) -> bool) -> Vec<&str> {
        let media = &self.media[index];
        if !media.is_rtp() || !matches!(&*media.kind, "audio" | "video") {
            return Vec::new();
        }
        let companion = |name: &str| COMPANIONS.iter().any(|c| c.eq_ignore_ascii_case(name));
        let name = |format: &str| self.encoding(index, format);
        let codecs = media.formats.iter().map(|f| (&**f, name(f))).filter(|(_, name)| !companion(name));
        let (kept, gone): (Vec<_>, Vec<_>) = codecs.partition(|(_, name)| allowed(name));
        if kept.is_empty() || gone.is_empty() {
            return Vec::new();
        }
        let mut refused: Vec<&str> = gone.iter().map(|(format, _)| *format).collect();
        for format in &media.formats {
            let name = name(format);
            let orphan = name.eq_ignore_ascii_case("rtx") && self.apt(index, format).is_some_and(|apt| refused.contains(&apt));
            // Redundancy names the formats that it repeats (RFC 2198): with one of them gone it would lie.
            let unsure = ["red", "ulpfec"].iter().any(|n| n.eq_ignore_ascii_case(name)) && !allowed(name);
            if orphan || unsure {
                refused.push(format);
            }
        }
        refused
    }

    /// The encoding name of a format; empty: it says none.
    fn encoding(&self, index: usize, format: &str) -> &str {
        let mapped = self.attributes(index, "rtpmap:").find(|(f, _)| *f == format);
        let known = || STATIC.iter().find(|(f, _)| *f == format).map_or("", |(_, name)| name);
        mapped.map_or_else(known, |(_, rest)| rest.split('/').next().unwrap_or_default().trim())
    }

    /// The format that a retransmission format is for.
    fn apt(&self, index: usize, format: &str) -> Option<&str> {
        let (_, parameters) = self.attributes(index, "fmtp:").find(|(f, _)| *f == format)?;
        parameters.split(';').find_map(|p| p.trim().strip_prefix("apt="))
    }

    /// Attributes of a medium that begin so, as format and rest.
    fn attributes<'a>(&'a self, index: usize, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of_medium = self.lines.iter().filter(move |line| line.media == Some(index) && line.letter == b'a');
        of_medium.filter_map(move |line| {
            let text = std::str::from_utf8(value(&self.raw, line)).ok()?.strip_prefix(name)?;
            text.trim_start().split_once([' ', '\t']).map(|(format, rest)| (format, rest.trim_start()))
        })
    }

    /// The value of an m-line without these formats.
    fn shorter(&self, line: &SdpLine, gone: &[&str]) -> String {
        let text = String::from_utf8_lossy(value(&self.raw, line)).into_owned();
        let words = text.split([' ', '\t']).filter(|word| !word.is_empty()).enumerate();
        words.filter(|(n, word)| *n < 3 || !gone.contains(word)).map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    }
}

/// The format that an attribute is about.
fn format_of(attribute: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(attribute).ok()?;
    let rest = ["rtpmap:", "fmtp:", "rtcp-fb:"].iter().find_map(|name| text.strip_prefix(name))?;
    rest.split([' ', '\t']).find(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=a 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";

    fn without(media: &str, allowed: &[&str]) -> Option<String> {
        let sdp = Sdp::parse(format!("{HEAD}{media}").as_bytes()).expect("valid");
        let out = sdp.without_codecs(&|name| allowed.iter().any(|a| a.eq_ignore_ascii_case(name)))?;
        Sdp::parse(&out).expect("still valid");
        let text = String::from_utf8(out.to_vec()).expect("text");
        Some(text.strip_prefix(HEAD).expect("the session's lines stay").to_owned())
    }

    #[test]
    fn codecs_go_with_all_that_is_said_of_them() {
        let offer = "m=audio 4000/2 RTP/AVP 96 8  0 101 13\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\n\
            a=rtcp-fb:96 nack\r\na=rtcp-fb:* nack\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\n\
            m=text 4002 RTP/AVP 98\r\na=rtpmap:98 t140/1000\r\n";
        let expected = "m=audio 4000/2 RTP/AVP 8 101 13\r\na=rtcp-fb:* nack\r\na=rtpmap:101 telephone-event/8000\r\n\
            a=fmtp:101 0-16\r\na=ptime:20\r\nm=text 4002 RTP/AVP 98\r\na=rtpmap:98 t140/1000\r\n";
        assert_eq!(without(offer, &["pcma"]).as_deref(), Some(expected));
        assert_eq!(without(offer, &["pcma", "pcmu", "OPUS"]), None, "all are allowed");
    }

    #[test]
    fn a_medium_without_a_codec_left_stays_whole() {
        for offer in ["m=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\n", "m=audio 4000 RTP/AVP 13\r\n"] {
            assert_eq!(without(offer, &["G729"]), None, "{offer}");
        }
        // Of two media only the one is poorer.
        let two = "m=audio 4000 RTP/AVP 0 8\r\nm=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";
        assert_eq!(without(two, &["PCMU"]).as_deref(), Some(&*two.replace("0 8", "0")));
    }

    #[test]
    fn retransmission_goes_with_its_codec() {
        let offer = "m=video 4000 RTP/AVPF 97 98 99 100 120\r\na=rtpmap:97 VP8/90000\r\na=rtpmap:98 rtx/90000\r\na=fmtp:98 apt=97\r\n\
            a=rtpmap:99 H264/90000\r\na=fmtp:99 profile-level-id=42e01f\r\na=rtpmap:100 rtx/90000\r\na=fmtp:100 rtx-time=3;apt=99\r\n\
            a=rtpmap:120 red/90000\r\n";
        let expected = "m=video 4000 RTP/AVPF 99 100\r\na=rtpmap:99 H264/90000\r\na=fmtp:99 profile-level-id=42e01f\r\n\
            a=rtpmap:100 rtx/90000\r\na=fmtp:100 rtx-time=3;apt=99\r\n";
        assert_eq!(without(offer, &["H264"]).as_deref(), Some(expected));
    }

    #[test]
    fn what_is_no_rtp_or_says_no_name() {
        assert_eq!(without("m=audio 4000 RTP/AVP 8 77\r\n", &["PCMA"]).as_deref(), Some("m=audio 4000 RTP/AVP 8\r\n"));
        assert_eq!(without("m=image 4000 udptl t38\r\nm=message 7000 TCP/MSRP *\r\n", &["PCMA"]), None);
        // The last line is cut off.
        assert_eq!(
            without("m=audio 4000 RTP/AVP 8 0\r\na=rtpmap:0 PCMU/8000", &["PCMA"]).as_deref(),
            Some("m=audio 4000 RTP/AVP 8\r\n")
        );
    }
}
