//! Rule F: the anycast address never stands where a far end would send to it again.

use std::net::IpAddr;

use bytes::Bytes;
use sbc_core::sip::{HeaderId, Message, NameAddr, Via};

/// Scans one packet that a node sends.
pub(crate) fn scan(wrong: &mut Vec<String>, anycast: IpAddr, bytes: &Bytes) {
    if sbc_core::sip::is_keepalive(bytes) {
        return;
    }
    let message = match Message::parse(bytes.clone()) {
        Ok(message) => message,
        Err(error) => return wrong.push(format!("a node sent what nobody can read: {error}")),
    };
    let mut leak = |what: &str| wrong.push(format!("anycast leak in {what} of {}", String::from_utf8_lossy(bytes)));
    for id in [HeaderId::Contact, HeaderId::Route, HeaderId::Path] {
        for value in message.values(id) {
            if NameAddr::parse(value).is_ok_and(|n| n.uri.host_ip() == Some(anycast)) {
                leak("an address field");
            }
        }
    }
    // A response returns the caller's own Record-Route; ours never has one.
    if message.is_request() {
        if message.values(HeaderId::RecordRoute).any(|v| v.contains(&anycast.to_string())) {
            leak("Record-Route");
        }
        if message
            .values(HeaderId::Via)
            .any(|v| Via::parse(v).is_ok_and(|v| v.host().trim_matches(['[', ']']).parse() == Ok(anycast)))
        {
            leak("Via");
        }
    }
    let body = message.body();
    for line in String::from_utf8_lossy(&body).lines() {
        let named = ["c=", "o=", "a=rtcp"].iter().any(|p| line.starts_with(p));
        if named && line.split([' ', ':']).any(|w| w == anycast.to_string()) {
            leak("SDP");
        }
    }
}
