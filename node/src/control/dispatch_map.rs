//! What a request carries for dispatchers, as `sbc.v1` messages: locations and additional data, always with the octets that came.

use sbc_core::call::{PIDF, is_data};
use sbc_core::sip::multipart::is_type;
use sbc_core::sip::parts::leaves;
use sbc_core::sip::{HeaderId, Message, NameAddr};
use sbc_proto::v1 as pb;

use super::pidf;

/// Blocks of one message at the most: a multipart body has no more parts.
const MAX_BLOCKS: usize = 64;

/// The bodies of a message: its own, or its parts, decoded for reading; parts within parts, too.
fn bodies(message: &Message) -> Vec<(String, bytes::Bytes)> {
    let leaves = leaves(message.content_type().unwrap_or_default(), message.body());
    leaves.into_iter().map(|leaf| (leaf.content_type, leaf.content)).collect()
}

/// `cid:` names a part of this body, which is there by value.
fn is_elsewhere(uri: &str) -> bool {
    !uri.get(..4).is_some_and(|s| s.eq_ignore_ascii_case("cid:"))
}

/// PIDF-LO documents in the body, and Geolocation values that point elsewhere (RFC 6442 §3-4). What cannot be read holds no event
/// back.
pub(crate) fn locations(message: &bytes::Bytes) -> Vec<pb::Location> {
    let Some(message) = read(message) else { return Vec::new() };
    let mut out = Vec::new();
    for (content_type, octets) in bodies(&message) {
        if is_type(&content_type, PIDF) {
            let read = pidf::read(&octets);
            let kind = Some(pb::location::Kind::Value(octets.to_vec()));
            out.push(pb::Location { kind, parsed: read.locations, parse_error: read.error });
        }
    }
    for reference in message.values(HeaderId::Geolocation) {
        let Ok(address) = NameAddr::parse(reference) else { continue };
        let uri = address.uri.to_string();
        if is_elsewhere(&uri) {
            let kind = Some(pb::location::Kind::ReferenceUri(uri));
            out.push(pb::Location { kind, ..pb::Location::default() });
        }
    }
    out
}

/// Blocks of additional data in the body, and Call-Info values that point elsewhere (RFC 7852 §5, RFC 8147).
pub(crate) fn additional_data(message: &bytes::Bytes) -> Vec<pb::AdditionalData> {
    let Some(message) = read(message) else { return Vec::new() };
    let mut out = Vec::new();
    for (content_type, octets) in bodies(&message) {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let Some((of, name)) = media_type.split_once('/') else { continue };
        if of.eq_ignore_ascii_case("application") && is_data(name) {
            let purpose = name.strip_suffix("+xml").unwrap_or(name).to_owned();
            let kind = Some(pb::additional_data::Kind::Value(octets.to_vec()));
            out.push(pb::AdditionalData { purpose, kind, content_type: content_type.clone() });
        }
    }
    for value in message.values(HeaderId::CallInfo).take(MAX_BLOCKS) {
        let Ok(address) = NameAddr::parse(value) else { continue };
        let purpose = address.param("purpose").unwrap_or_default().to_owned();
        let uri = address.uri.to_string();
        if is_data(&purpose) && is_elsewhere(&uri) {
            let kind = Some(pb::additional_data::Kind::ReferenceUri(uri));
            out.push(pb::AdditionalData { purpose, kind, content_type: String::new() });
        }
    }
    out
}

fn read(message: &bytes::Bytes) -> Option<Message> {
    if message.is_empty() { None } else { Message::parse(message.clone()).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invite(fields: &str, body: &str) -> bytes::Bytes {
        format!(
            "INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.1;branch=z9hG4bKx\r\nFrom: <sip:a@x>;tag=1\r\n\
             To: <sip:112@x>\r\nCall-ID: c@x\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n{fields}\
             Content-Type: multipart/mixed; boundary=b\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into()
    }

    #[test]
    fn locations_by_value_and_by_reference() {
        let body = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n--b\r\nContent-Type: application/pidf+xml\r\n\r\n<p>\u{e9}</p>\r\n--b--\r\n";
        let found = locations(&invite("Geolocation: <cid:t@x>, <https://lis.example/1>\r\n", body));
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].kind, Some(pb::location::Kind::Value("<p>\u{e9}</p>".as_bytes().to_vec())));
        assert_eq!((found[0].parsed.len(), found[0].parse_error.as_str()), (0, "no location-info"));
        assert_eq!(found[1].kind, Some(pb::location::Kind::ReferenceUri("https://lis.example/1".into())));
        assert!(locations(&bytes::Bytes::from_static(b"garbage")).is_empty());
    }

    /// RFC 5621 §3: a document within a part, and one in base64, which is given as it reads.
    #[test]
    fn locations_that_lie_deeper() {
        let body = "--b\r\nContent-Type: multipart/related;boundary=i\r\n\r\n--i\r\nContent-Type: application/pidf+xml\r\n\r\n<p/>\r\n--i--\r\n\
            --b\r\nContent-Type: application/pidf+xml\r\nContent-Transfer-Encoding: base64\r\n\r\nPHEv\r\nPg==\r\n--b--\r\n";
        let value = |octets: &[u8]| Some(pb::location::Kind::Value(octets.to_vec()));
        let found: Vec<_> = locations(&invite("", body)).into_iter().map(|l| l.kind).collect();
        assert_eq!(found, [value(b"<p/>"), value(b"<q/>")]);
    }

    #[test]
    fn additional_data_by_value_and_by_reference() {
        let body = "--b\r\nContent-Type: application/EmergencyCallData.ProviderInfo+xml\r\n\r\n<x/>\r\n\
            --b\r\nContent-Type: application/EmergencyCallData.eCall.MSD\r\n\r\n\u{1}\u{2}\r\n--b--\r\n";
        let fields = "Call-Info: <cid:1@x>;purpose=EmergencyCallData.ProviderInfo, <https://d.example/2>;purpose=EmergencyCallData.DeviceInfo\r\n\
            Call-Info: <https://d.example/i>;purpose=icon\r\n";
        let found = additional_data(&invite(fields, body));
        let purposes: Vec<&str> = found.iter().map(|d| d.purpose.as_str()).collect();
        assert_eq!(purposes, ["EmergencyCallData.ProviderInfo", "EmergencyCallData.eCall.MSD", "EmergencyCallData.DeviceInfo"]);
        assert_eq!(found[1].kind, Some(pb::additional_data::Kind::Value(vec![1, 2])));
        assert_eq!(found[2].kind, Some(pb::additional_data::Kind::ReferenceUri("https://d.example/2".into())));
    }
}
