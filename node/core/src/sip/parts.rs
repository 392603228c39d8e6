//! The bodies in a body: multiparts within multiparts (RFC 2046 §5.1, RFC 5621 §3), each read as its encoding says (RFC 2045 §6). One of them
//! can be exchanged; all else stays byte for byte.

use bytes::Bytes;
use data_encoding::{BASE64, BASE64_MIME_PERMISSIVE};

use super::header::HeaderId;
use super::multipart::{self, Multipart};

/// Multiparts within each other: a signed or alternative part in a mixed one, and one to spare. Bounds the recursion.
pub const MAX_DEPTH: usize = 4;
/// Bodies of one message that are looked at, on all levels.
pub const MAX_LEAVES: usize = 64;
/// Encoded lines are no longer (RFC 2045 §6.8).
const LINE: usize = 76;

/// A body that is not a multipart itself.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// Its Content-Type, as it stands there; a part without is text/plain (RFC 2046 §5.2).
    pub content_type: String,
    /// Its octets, decoded where they were encoded.
    pub content: Bytes,
    /// It was read other than as it should be written.
    pub repaired: bool,
    base64: bool,
    /// The multiparts that it is in, the outermost first, with its place in each.
    within: Vec<(Multipart, usize)>,
}

impl Leaf {
    /// Whether its Content-Type is that one (any case, parameters aside).
    pub fn is(&self, wanted: &str) -> bool {
        multipart::is_type(&self.content_type, wanted)
    }

    /// The whole body with other content in this place, encoded as the old one was.
    pub fn replace(&self, content: Bytes) -> Bytes {
        let encoded = if self.base64 { encode(&content).into() } else { content };
        self.within.iter().rev().fold(encoded, |content, (parts, at)| parts.replace(*at, &content))
    }
}

/// The bodies in a body, in their order; a multipart that cannot be taken apart has none. An encoding that we do not read, or that is not
/// what it says, hides the body that has it.
pub fn leaves(content_type: &str, body: Bytes) -> Vec<Leaf> {
    let mut found = FoundParts::default();
    collect(content_type, body, false, &[], &mut found);
    found.leaves
}

/// All bodies of that type, and whether there is, or seems to be, another that cannot be read.
pub fn all(content_type: &str, body: Bytes, wanted: &str) -> (Vec<Leaf>, bool) {
    let mut found = FoundParts::default();
    collect(content_type, body, false, &[], &mut found);
    let hides = |(content_type, content): &(String, Bytes)| {
        let multipart = multipart::is_multipart(content_type);
        multipart::is_type(content_type, wanted) || (multipart && mentions(content, wanted))
    };
    let hidden = found.hidden.iter().any(hides);
    found.leaves.retain(|leaf| leaf.is(wanted));
    (found.leaves, hidden)
}

fn mentions(content: &[u8], wanted: &str) -> bool {
    memchr::memmem::find(&content.to_ascii_lowercase(), wanted.as_bytes()).is_some()
}

/// What was found in a body.
#[derive(Default)]
struct FoundParts {
    leaves: Vec<Leaf>,
    /// What cannot be read: its Content-Type, its octets.
    hidden: Vec<(String, Bytes)>,
}

/// The first body of that type.
pub fn find(content_type: &str, body: Bytes, wanted: &str) -> Option<Leaf> {
    leaves(content_type, body).into_iter().find(|leaf| leaf.is(wanted))
}

fn collect(content_type: &str, content: Bytes, base64: bool, within: &[(Multipart, usize)], found: &mut FoundParts) {
    if found.leaves.len() >= MAX_LEAVES {
        if found.hidden.len() < MAX_LEAVES {
            found.hidden.push((content_type.to_owned(), content));
        }
        return;
    }
    if !multipart::is_multipart(content_type) {
        let (content_type, within) = (content_type.to_owned(), within.to_vec());
        let repaired = within.iter().any(|(parts, at)| parts.is_repaired(*at));
        found.leaves.push(Leaf { content_type, content, repaired, base64, within });
        return;
    }
    let parts = if within.len() < MAX_DEPTH { Multipart::parse(content_type, content.clone()).ok() } else { None };
    let Some(parts) = parts else {
        found.hidden.push((content_type.to_owned(), content));
        return;
    };
    for at in 0..parts.len() {
        let inner_type = parts.header(at, HeaderId::ContentType).unwrap_or("text/plain");
        let Some(content) = parts.content(at) else { continue };
        let base64 = match parts.encoding(at).map(str::to_ascii_lowercase).as_deref() {
            None | Some("7bit" | "8bit" | "binary") => false,
            // RFC 2045 §6.4: a multipart is never encoded itself.
            Some("base64") if !multipart::is_multipart(inner_type) => true,
            _ => {
                found.hidden.push((inner_type.to_owned(), content));
                continue;
            }
        };
        let decoded = if base64 { decode(&content).map(Bytes::from) } else { Some(content.clone()) };
        let Some(content) = decoded else {
            found.hidden.push((inner_type.to_owned(), content));
            continue;
        };
        let inner_type = inner_type.to_owned();
        let within: Vec<_> = within.iter().cloned().chain([(parts.clone(), at)]).collect();
        collect(&inner_type, content, base64, &within, found);
    }
}

/// RFC 2045 §6.8. Line breaks and white space are let pass, and bits left over in the last character; `None`: it is something else, or cut off.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let text: Vec<u8> = text.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
    // Padding ends a body; data-encoding takes concatenated ones too.
    let padding = text.iter().rev().take_while(|octet| **octet == b'=').count();
    if text[..text.len() - padding].contains(&b'=') {
        return None;
    }
    BASE64_MIME_PERMISSIVE.decode(&text).ok()
}

fn encode(octets: &[u8]) -> Vec<u8> {
    let lines: Vec<String> = octets.chunks(LINE / 4 * 3).map(|line| BASE64.encode(line)).collect();
    lines.join("\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NESTED: &str = "--o\r\nContent-Type: multipart/related; boundary=i\r\n\r\n--i\r\nContent-Type: application/pidf+xml\r\n\r\n<x/>\r\n--i\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--i--\r\n\r\n--o\r\nContent-Type: text/plain\r\n\r\nhi\r\n--o--\r\n";

    #[test]
    fn bodies_within_bodies() {
        let found = leaves("multipart/mixed;boundary=o", Bytes::from(NESTED));
        let seen: Vec<_> = found.iter().map(|leaf| (&*leaf.content_type, &leaf.content[..])).collect();
        assert_eq!(seen, [("application/pidf+xml", &b"<x/>"[..]), ("application/sdp", b"v=0\r\n"), ("text/plain", b"hi")]);
        let changed = found[1].replace(Bytes::from_static(b"v=0\r\no=x\r\n"));
        assert_eq!(changed, NESTED.replace("v=0\r\n", "v=0\r\no=x\r\n"));
        assert_eq!(leaves("application/sdp", Bytes::from_static(b"v=0"))[0].replace(Bytes::from_static(b"x")), "x");
        assert!(leaves("multipart/mixed;boundary=o", Bytes::from_static(b"no parts")).is_empty());
    }

    #[test]
    fn encoded_bodies() {
        let body = |encoding: &str, content: &str| {
            Bytes::from(format!(
                "--o\r\nContent-Type: application/sdp\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{content}\r\n--o--\r\n"
            ))
        };
        let find = |encoding: &str, content: &str| find("multipart/mixed;boundary=o", body(encoding, content), "application/sdp");
        let leaf = find("BASE64", "dj0wDQo=").expect("read");
        assert_eq!(leaf.content, "v=0\r\n");
        assert_eq!(leaf.replace(Bytes::from_static(b"v=0\r\no=x")), body("BASE64", "dj0wDQpvPXg="));
        assert!(find("binary", "v=0").is_some());
        assert!(find("base64", "v=0").is_none() && find("quoted-printable", "v=3D0").is_none());
    }

    #[test]
    fn all_of_a_type_and_what_is_hidden() {
        let all = |body: &str| {
            let (found, hidden) = all("multipart/mixed;boundary=o", Bytes::from(body.to_owned()), "application/sdp");
            (found.len(), hidden)
        };
        let sdp = "Content-Type: application/sdp";
        let part = |head: &str| format!("--o\r\n{head}\r\n\r\nv=0\r\n");
        let two = [part(sdp), part(sdp)].concat();
        assert_eq!(all(&format!("{two}--o--")), (2, false));
        let quoted = part(&format!("{sdp}\r\nContent-Transfer-Encoding: quoted-printable"));
        assert_eq!(all(&format!("{two}{quoted}--o--")), (2, true));
        let location = part("Content-Type: application/pidf+xml\r\nContent-Transfer-Encoding: quoted-printable");
        assert_eq!(all(&format!("{two}{location}--o--")), (2, false));
        let inner =
            part("Content-Type: multipart/mixed").replace("v=0", "--i\r\ncontent-type: Application/SDP\r\n\r\nv=0\r\n--i--");
        assert_eq!(all(&format!("{two}{inner}--o--")), (2, true), "a multipart without its boundary");
        assert_eq!(all("no parts, application/sdp"), (0, true));
        assert_eq!(all("no parts"), (0, false));
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let mut body = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b--".to_owned();
        for depth in 1..=MAX_DEPTH {
            assert_eq!(leaves("multipart/mixed;boundary=b", Bytes::from(body.clone())).len(), 1, "{depth}");
            let inner = body.replace("--b", &format!("--c{depth}"));
            body = format!("--b\r\nContent-Type: multipart/mixed;boundary=c{depth}\r\n\r\n{inner}\r\n--b--");
        }
        assert!(leaves("multipart/mixed;boundary=b", Bytes::from(body)).is_empty());
        let many = |boundary: &str, part: &str| {
            format!("{}--{boundary}--", format!("--{boundary}\r\n{part}\r\n").repeat(multipart::MAX_PARTS))
        };
        let inner = format!("Content-Type: multipart/mixed;boundary=i\r\n\r\n{}", many("i", "\r\nx"));
        assert_eq!(leaves("multipart/mixed;boundary=o", Bytes::from(many("o", &inner))).len(), MAX_LEAVES);
    }

    #[test]
    fn base64_both_ways() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(plain.as_bytes()), coded.as_bytes());
            assert_eq!(decode(coded.as_bytes()).as_deref(), Some(plain.as_bytes()), "{coded}");
        }
        let long: Vec<u8> = (0..=255).collect();
        let coded = encode(&long);
        assert!(coded.split(|o| *o == b'\n').all(|line| line.len() <= LINE + 1));
        assert_eq!(decode(&coded), Some(long));
        for bad in ["Zg=", "Zg", "=Zg=", "Z===", "Zg==Zg==", "Zm9v!", "Zm8=x"] {
            assert_eq!(decode(bad.as_bytes()), None, "{bad}");
        }
    }
}
