//! A description that names our address names a port that is open on it: else nobody hears anybody (RFC 3264 §5.1).

use std::net::IpAddr;

use bytes::Bytes;
use sbc_core::call::{find_sdp, sdp_bytes};
use sbc_core::io::Realm;
use sbc_core::sip::{Message, Sdp};

/// Where the ports of a side begin: they never meet.
pub(crate) fn first_port(realm: Realm) -> u16 {
    match realm {
        Realm::External => 10_000,
        Realm::Core => 40_000,
    }
}

pub(crate) fn scan(violations: &mut Vec<String>, ours: &[(IpAddr, Realm)], bytes: &Bytes) {
    let Ok(message) = Message::parse(bytes.clone()) else { return };
    let Some(sdp) = find_sdp(&message).and_then(|span| Sdp::parse(&sdp_bytes(&span)).ok()) else { return };
    for line in sdp.media().iter().filter(|line| line.port != 0 && line.is_rtp()) {
        let Some((ip, realm)) = ours.iter().find(|(ip, _)| Some(*ip) == line.connection) else { continue };
        let first = first_port(*realm);
        if !(first..first + 20_000).contains(&line.port) {
            violations.push(format!("{ip} is on the {realm:?} side, and has no port {} open", line.port));
        }
    }
}
