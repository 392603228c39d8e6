//! Octets that are no UTF-8, carried through text as they came: a display name in Latin-1 must not cost the call, nor its umlauts.
//!
//! Each such octet stands in text as one character of the last private plane, and leaves as that octet. The characters themselves, should a
//! message have them, are carried by their octets, so that whatever came goes out the same.

use std::borrow::Cow;

/// The character of octet 0x80 is this plus 0x80; the last of Unicode is that of 0xff.
const BASE: u32 = 0x10_ff00;

fn standing_for(octet: u8) -> char {
    char::from_u32(BASE + u32::from(octet)).expect("within the private plane")
}

/// The octet that a character stands for.
fn octet_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(BASE)?).ok().filter(|octet| *octet >= 0x80)
}

/// Received octets as text. `None`: they are text as they are.
pub(crate) fn escape(octets: &[u8]) -> Option<String> {
    if std::str::from_utf8(octets).is_ok_and(|text| !has_escapes(text)) {
        return None;
    }
    let mut out = String::with_capacity(octets.len() * 2);
    for chunk in octets.utf8_chunks() {
        for c in chunk.valid().chars() {
            match octet_of(c) {
                None => out.push(c),
                Some(_) => out.extend(c.encode_utf8(&mut [0; 4]).bytes().map(standing_for)),
            }
        }
        out.extend(chunk.invalid().iter().copied().map(standing_for));
    }
    Some(out)
}

/// True for text in which characters stand for octets.
pub(crate) fn has_escapes(text: &str) -> bool {
    // They all begin with the octet 0xf4.
    memchr::memchr(0xf4, text.as_bytes()).is_some() && text.chars().any(|c| octet_of(c).is_some())
}

/// Text as the octets that it goes out as.
pub(crate) fn unescape(text: &str) -> Cow<'_, [u8]> {
    if !has_escapes(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match octet_of(c) {
            Some(octet) => out.push(octet),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

/// Text for people: what is no UTF-8 is nearly always Latin-1.
pub fn readable(text: &str) -> Cow<'_, str> {
    if !has_escapes(text) {
        return Cow::Borrowed(text);
    }
    // Controls of the upper half are no letters.
    let latin = |octet: u8| if octet < 0xa0 { char::REPLACEMENT_CHARACTER } else { char::from(octet) };
    Cow::Owned(text.chars().map(|c| octet_of(c).map_or(c, latin)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_goes_out() {
        for octets in [
            b"plain".as_slice(),
            "Jörg \u{fffd} 😀".as_bytes(),
            b"J\xf6rg",
            b"\xff\xfe\x80",
            b"\xc3 cut",
            "\u{10fff6} is taken".as_bytes(),
            b"\xf4\x8f\xbf",
        ] {
            let text = escape(octets).unwrap_or_else(|| String::from_utf8(octets.to_vec()).unwrap());
            assert_eq!(&*unescape(&text), octets, "{octets:?}");
        }
        assert_eq!(escape("Jörg".as_bytes()), None);
    }

    #[test]
    fn people_read_latin_1() {
        assert_eq!(readable(&escape(b"J\xf6rg \x85").unwrap()), "Jörg \u{fffd}");
        assert_eq!(readable("Jörg"), "Jörg");
    }
}
