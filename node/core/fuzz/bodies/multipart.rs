//! A multipart body: each part can be replaced by itself, and is found again.

use bytes::Bytes;
use sbc_core::sip::Multipart;

/// The target: the first line is the Content-Type, the rest the body.
pub(crate) fn run(octets: &[u8]) -> bool {
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let Ok(content_type) = std::str::from_utf8(&octets[..end]) else { return false };
    let body = Bytes::copy_from_slice(octets.get(end + 1..).unwrap_or_default());
    let Ok(parts) = Multipart::parse(content_type, body) else { return false };
    check(content_type, &parts);
    true
}

/// Checks one that was taken apart.
pub(crate) fn check(content_type: &str, parts: &Multipart) {
    for index in 0..parts.len() {
        let content = parts.content(index).expect("a part has content");
        let replaced = Multipart::parse(content_type, parts.replace(index, &content)).expect("replaced");
        assert_eq!(replaced.content(index), Some(content));
        assert_eq!(replaced.len(), parts.len());
    }
    let _ = (parts.find("application/sdp"), parts.find("application/pidf+xml"));
}
