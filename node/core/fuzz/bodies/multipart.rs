//! A multipart body: each part can be replaced by itself, and is found again; so can each body on any level, and all else stays as it was.

use bytes::Bytes;
use sbc_core::sip::parts::{Leaf, MAX_LEAVES, all, find, leaves};
use sbc_core::sip::{HeaderId, Multipart};

/// What is put in place of a body: octets that stand in no encoding of anything else, and no delimiter.
const OTHER: &[u8] = b"\x01other\x02\r\n\xff";

/// The target: the first line is the Content-Type, the rest the body.
pub(crate) fn run(octets: &[u8]) -> bool {
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let Ok(content_type) = std::str::from_utf8(&octets[..end]) else { return false };
    let body = Bytes::copy_from_slice(octets.get(end + 1..).unwrap_or_default());
    let Ok(parts) = Multipart::parse(content_type, body.clone()) else { return false };
    check(content_type, &parts);
    check_leaves(content_type, &body);
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

/// Checks the bodies on all levels, as an emergency call's are read and exchanged.
pub(crate) fn check_leaves(content_type: &str, body: &Bytes) {
    let found = leaves(content_type, body.clone());
    assert!(found.len() <= MAX_LEAVES);
    let (described, _) = all(content_type, body.clone(), "application/sdp");
    assert_eq!(described.len(), found.iter().filter(|leaf| leaf.is("application/sdp")).count());
    let sdp = find(content_type, body.clone(), "application/sdp").map(|leaf| leaf.content);
    assert_eq!(sdp, found.iter().find(|leaf| leaf.is("application/sdp")).map(|leaf| leaf.content.clone()));
    // A boundary with a line feed within may be found elsewhere when what is before it changes, and a head that is no text for its length
    // alone becomes one.
    let bare = |(at, octet): (usize, &u8)| *octet == b'\n' && (at == 0 || body[at - 1] != b'\r');
    let comparable = std::str::from_utf8(&without_lengths(body).1).is_ok() && !body.iter().enumerate().any(bare);
    for (index, leaf) in found.iter().enumerate() {
        // What was mended is written as it should have been.
        if !leaf.repaired {
            outside_is_untouched(body, leaf);
        }
        if comparable {
            others_are_found_again(content_type, &found, index);
        }
    }
}

/// Emptied, the body lacks one run of octets; filled, it has one more. Those of a plain body are its own.
fn outside_is_untouched(body: &Bytes, leaf: &Leaf) {
    let plain = |body: &[u8]| without_lengths(body).0;
    let (whole, emptied, filled) =
        (plain(body), plain(&leaf.replace(Bytes::new())), plain(&leaf.replace(Bytes::from_static(OTHER))));
    assert!(differ_by_a_run(&whole, &emptied) && differ_by_a_run(&filled, &emptied), "{leaf:?}");
    // What was not decoded lies in the body itself.
    let Some(at) = (leaf.content.as_ptr() as usize).checked_sub(body.as_ptr() as usize).filter(|at| *at < body.len()) else {
        return;
    };
    let end = at + leaf.content.len();
    if leaf.content.is_empty() || body.get(at..end) != Some(&leaf.content[..]) {
        return;
    }
    assert_eq!(plain(&leaf.replace(leaf.content.clone())), whole, "replaced by itself");
    if whole.len() == body.len() {
        assert_eq!(filled, [&body[..at], OTHER, &body[end..]].concat());
    }
}

fn others_are_found_again(content_type: &str, found: &[Leaf], index: usize) {
    let again = leaves(content_type, found[index].replace(Bytes::from_static(OTHER)));
    assert_eq!(again.len(), found.len());
    for (at, (before, after)) in found.iter().zip(&again).enumerate() {
        let wanted = if at == index { OTHER } else { &before.content[..] };
        assert_eq!((&before.content_type, wanted), (&after.content_type, &after.content[..]));
    }
}

/// Without the lines, but for their ends, that say how long a part is, for they follow what is in it; and those lines.
fn without_lengths(body: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (mut kept, mut lengths) = (Vec::with_capacity(body.len()), Vec::new());
    let mut rest = body;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").map_or(rest.len(), |at| if at == 0 { 2 } else { at });
        let (line, next) = rest.split_at(end);
        rest = next;
        let name = line.iter().position(|octet| *octet == b':').and_then(|colon| std::str::from_utf8(&line[..colon]).ok());
        let is_length = name.is_some_and(|n| HeaderId::from_name(n.trim_matches([' ', '\t'])) == HeaderId::ContentLength);
        if is_length { &mut lengths } else { &mut kept }.extend_from_slice(line);
    }
    (kept, lengths)
}

/// Whether the longer one is the other with one run of octets put in somewhere.
fn differ_by_a_run(longer: &[u8], shorter: &[u8]) -> bool {
    let same = longer.iter().zip(shorter).take_while(|(a, b)| a == b).count();
    let behind = longer.iter().rev().zip(shorter.iter().rev()).take_while(|(a, b)| a == b).count();
    longer.len() >= shorter.len() && same + behind >= shorter.len()
}
