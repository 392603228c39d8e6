//! What an emergency call carries for those who dispatch: its service and ids (NENA-STA-010.3 §3.1.5), and what comes later within
//! the call, location and additional data (RFC 6442, RFC 7852). None of it is needed for the call itself.

use super::context::Context;
use crate::sip::parts::leaves;
use crate::sip::{Draft, HeaderId, Message, NameAddr};
use crate::store_pb::EmergencyInfo;
use crate::token::ClaimKey;

/// Ids that the log keeps are no longer: a longer one of the caller's crosses, but is not recorded.
const MAX_ID: usize = 256;
/// Who mints the ids where the configuration names nobody (RFC 2606 §2: a name that nobody has).
const NOBODY: &str = "sbc.invalid";
/// PIDF-LO (RFC 4119).
pub const PIDF: &str = "application/pidf+xml";
/// Blocks of RFC 7852 and RFC 8147, as media types and as purposes.
const DATA: &str = "emergencycalldata.";

/// What of a request is for dispatchers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// PIDF-LO by value, or Geolocation.
    pub location: bool,
    /// A block of additional data, by value or by reference.
    pub data: bool,
}

/// The service and the ids of an emergency call: the caller's where its INVITE brought them, else ours, the same on every node.
/// `incident`: that of the call which this one replaces.
pub(super) fn identify(cx: &Context, invite: &Message, service: &str, key: ClaimKey, incident: Option<&str>) -> EmergencyInfo {
    let mint = |what: &str| {
        let id = cx.key.authenticate(&[b"emergency-id", what.as_bytes(), &key.0]);
        let hex: String = id.iter().map(|octet| format!("{octet:02x}")).collect();
        format!("urn:emergency:uid:{what}:{hex}:{}", cx.config.element_id.as_deref().unwrap_or(NOBODY))
    };
    EmergencyInfo {
        service: service.to_owned(),
        call_id: brought(invite, "callid").unwrap_or_else(|| mint("callid")),
        incident_id: brought(invite, "incidentid").or(incident.map(str::to_owned)).unwrap_or_else(|| mint("incidentid")),
    }
}

/// The id of that kind in a Call-Info, under its present name or that of earlier editions (urn:nena:uid).
fn brought(request: &Message, what: &str) -> Option<String> {
    request.values(HeaderId::CallInfo).find_map(|value| {
        let uri = NameAddr::parse(value).ok()?.uri.as_str().to_owned();
        let name = uri.get(..uri.len().min(64))?.to_ascii_lowercase();
        let fits = ["urn:emergency:uid:", "urn:nena:uid:"]
            .iter()
            .any(|p| name.strip_prefix(p).and_then(|rest| rest.strip_prefix(what)).is_some_and(|rest| rest.starts_with(':')));
        (fits && uri.len() <= MAX_ID).then_some(uri)
    })
}

/// Adds the ids that the INVITE did not bring.
pub(super) fn add_ids(info: &EmergencyInfo, invite: &Message, draft: &mut Draft) {
    for (what, purpose, id) in
        [("callid", "emergency-CallId", &info.call_id), ("incidentid", "emergency-IncidentId", &info.incident_id)]
    {
        if brought(invite, what).is_none() {
            draft.push(HeaderId::CallInfo, format!("<{id}>;purpose={purpose}"));
        }
    }
}

/// What a request carries for dispatchers.
pub fn carried(request: &Message) -> Carried {
    let mut carried = Carried { location: request.first(HeaderId::Geolocation).is_some(), data: false };
    carried.data = request.values(HeaderId::CallInfo).any(|value| {
        let purpose = NameAddr::parse(value).ok().and_then(|n| n.param("purpose").map(str::to_owned));
        purpose.is_some_and(|p| is_data(&p))
    });
    for leaf in leaves(request.content_type().unwrap_or_default(), request.body()) {
        let content_type = leaf.content_type.trim();
        carried.location |= leaf.is(PIDF);
        carried.data |= content_type.get(..12).is_some_and(|t| t.eq_ignore_ascii_case("application/"))
            && is_data(content_type.get(12..).unwrap_or_default());
    }
    carried
}

/// Whether a purpose or a media subtype is one of additional data.
pub fn is_data(name: &str) -> bool {
    name.get(..DATA.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(DATA))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn request(fields: &str, body: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <urn:service:sos>\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )))
        .expect("valid")
    }

    #[test]
    fn ids_that_came_are_kept() {
        let both = "Call-Info: <urn:emergency:uid:callid:1a:a.example>;purpose=emergency-CallId, <urn:nena:uid:incidentid:2b:b.example>;purpose=nena-IncidentId\r\n";
        assert_eq!(brought(&request(both, ""), "callid").as_deref(), Some("urn:emergency:uid:callid:1a:a.example"));
        assert_eq!(brought(&request(both, ""), "incidentid").as_deref(), Some("urn:nena:uid:incidentid:2b:b.example"));
        for none in [
            "",
            "Call-Info: <https://x/icon>;purpose=icon\r\n",
            "Call-Info: <urn:emergency:uid:callidx:1>\r\n",
            "Call-Info: <<\r\n",
        ] {
            assert_eq!(brought(&request(none, ""), "callid"), None, "{none}");
        }
        let long = format!("Call-Info: <urn:emergency:uid:callid:{}:x>\r\n", "a".repeat(MAX_ID));
        assert_eq!(brought(&request(&long, ""), "callid"), None);
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let info = EmergencyInfo { service: "sos".into(), call_id: "urn:c".into(), incident_id: "urn:i".into() };
        let added = |fields: &str| {
            let invite = request(fields, "");
            let mut draft = Draft::request(invite.method(), "sip:x");
            add_ids(&info, &invite, &mut draft);
            draft.headers().map(|f| f.value.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(added(""), ["<urn:c>;purpose=emergency-CallId", "<urn:i>;purpose=emergency-IncidentId"]);
        assert_eq!(
            added("Call-Info: <urn:emergency:uid:callid:1:x>;purpose=emergency-CallId\r\n"),
            ["<urn:i>;purpose=emergency-IncidentId"]
        );
    }

    #[test]
    fn what_is_carried() {
        let part = |t: &str| format!("--b\r\nContent-Type: {t}\r\n\r\nx\r\n--b--");
        let nested = "\r\n--i\r\nContent-Type: application/pidf+xml\r\n\r\nx\r\n--i--\r\n".to_owned();
        let multipart = "Content-Type: multipart/mixed;boundary=b\r\n";
        for (fields, body, location, data) in [
            ("", String::new(), false, false),
            ("Geolocation: <https://lis.example/1>\r\n", String::new(), true, false),
            ("Content-Type: application/pidf+xml\r\n", "x".into(), true, false),
            ("Content-Type: Application/EmergencyCallData.eCall.MSD\r\n", "x".into(), false, true),
            ("Call-Info: <cid:1@x>;purpose=EmergencyCallData.ProviderInfo\r\n", String::new(), false, true),
            ("Call-Info: <https://x/i>;purpose=icon\r\n", String::new(), false, false),
            (multipart, part("application/pidf+xml"), true, false),
            (multipart, part("application/EmergencyCallData.DeviceInfo+xml"), false, true),
            (multipart, part("application/sdp"), false, false),
            (multipart, part("multipart/related;boundary=i").replace("\r\nx\r\n", &nested), true, false),
            (multipart, "no parts".into(), false, false),
        ] {
            assert_eq!(carried(&request(fields, &body)), Carried { location, data }, "{fields}{body}");
        }
    }
}
