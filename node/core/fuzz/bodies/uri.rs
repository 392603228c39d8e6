//! A URI or a name with one, by itself and where it decides something: as a Refer-To and as a Replaces in a call that is up.

use bytes::Bytes;
use sbc_core::dialog::fit_to_send;
use sbc_core::policy::ClusterConfig;
use sbc_core::routing;
use sbc_core::sip::{HeaderId, Message, Method, NameAddr, Uri, Via, split_list};

use super::lab::{ANYCAST, CALLER, CORE, Lab, PSAP, at};

/// Longer texts make a header line that the parser refuses, which `message` is for.
const MAX_TEXT: usize = 4_000;

/// The target: text of one line; in it `{id}`, `{ours}` and `{theirs}` are the Call-ID and the tags of the call. True when it is a URI
/// or a name with one.
pub(crate) fn run(octets: &[u8]) -> bool {
    let text = String::from_utf8_lossy(&octets[..octets.len().min(MAX_TEXT)]).into_owned();
    // The scanner lets no header field through that has one of these.
    if text.bytes().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
        return Uri::parse(&text).inspect(check_uri).is_ok();
    }
    transfer(&text);
    check(&text)
}

fn check(text: &str) -> bool {
    let uri = Uri::parse(text).inspect(check_uri);
    let name = NameAddr::parse(text).inspect(|name| {
        check_uri(&name.uri);
        let sent = fit_to_send(text);
        assert_eq!(fit_to_send(&sent), sent, "mended once is mended");
        let again = NameAddr::parse(&sent).unwrap_or_else(|error| panic!("{sent:?}: {error}"));
        assert_eq!((again.uri.as_str(), again.tag(), &again.display), (name.uri.as_str(), None, &name.display), "{text:?}");
    });
    if let Ok(via) = Via::parse(text) {
        let filled = via.with_received(at(CALLER));
        let again = Via::parse(&filled).unwrap_or_else(|error| panic!("{filled:?}: {error}"));
        assert_eq!((again.branch(), again.sent_by()), (via.branch(), via.sent_by()));
    }
    assert!(split_list(text).map(str::len).sum::<usize>() <= text.len());
    uri.is_ok() || name.is_ok()
}

fn check_uri(uri: &Uri) {
    let text = uri.as_str();
    assert_eq!(Uri::parse(text).as_ref(), Ok(uri));
    for part in [uri.user(), uri.host(), uri.headers(), uri.transport_param()].into_iter().flatten() {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    let _ = (uri.user_decoded(), uri.host_ip(), uri.port(), uri.params().count(), routing::dialled(uri));
    let config = ClusterConfig { emergency_numbers: vec!["112".into()], ..ClusterConfig::default() };
    let service = routing::classify(&config, uri);
    assert!(service.is_none_or(|service| service.starts_with("sos") && service.len() <= 64), "{text:?}");
    if !text.contains(['<', '>']) {
        let name = NameAddr::parse(&format!("<{text}>;tag=1")).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((&name.uri, name.tag()), (uri, Some("1")));
    }
}

/// A call is up; the caller refers the PSAP to the text, and another call replaces what the text names.
fn transfer(text: &str) {
    let mut lab = Lab::new();
    lab.receive(at(CALLER), at(ANYCAST), request("INVITE", "urn:service:sos", "<urn:service:sos>", "Content-Length: 0"));
    let invite = latest(&lab, PSAP).expect("an emergency call crosses");
    let mut ok = invite.response(200, None);
    ok.set(HeaderId::To, format!("{};tag=far", invite.to())).push(HeaderId::Contact, format!("<sip:psap@{PSAP}>"));
    lab.receive(at(PSAP), at(CORE), ok.encode().expect("valid"));
    let answer = latest(&lab, CALLER).expect("it is answered");
    let target = answer.first(HeaderId::Contact).expect("ours").trim_matches(['<', '>']).to_owned();
    lab.receive(at(CALLER), at(ANYCAST), request("ACK", &target, answer.to(), "Content-Length: 0"));
    let ours = answer.to_tag().expect("ours");
    let text = text.replace("{id}", "transfer").replace("{ours}", ours).replace("{theirs}", "caller");
    lab.receive(at(CALLER), at(ANYCAST), request("REFER", &target, answer.to(), &format!("Refer-To: {text}")));
    check_refer(&lab, &text);
    let replacing = request("INVITE", "sip:user@example.com", "<sip:user@example.com>", &format!("Replaces: {text}"));
    lab.receive(at(PSAP), at(CORE), Bytes::from(String::from_utf8_lossy(&replacing).replace("transfer\r\n", "other\r\n")));
    lab.advance(40_000);
}

/// A Refer-To that crossed does not lead to the anycast address.
fn check_refer(lab: &Lab, text: &str) {
    let Some(refer) = latest(lab, PSAP).filter(|m| m.method() == &Method::Refer) else { return };
    let Some(Ok(to)) = refer.first(HeaderId::ReferTo).map(NameAddr::parse) else { return };
    assert_ne!(to.uri.host_ip(), Some(at(ANYCAST).ip()), "{text:?}");
}

/// A request of the caller; `more`: header fields.
fn request(method: &str, uri: &str, to: &str, more: &str) -> Bytes {
    let number = if method == "REFER" { 2 } else { 1 };
    let text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {CALLER};rport;branch=z9hG4bK{method}\r\nMax-Forwards: 70\r\nFrom: <sip:a@c>;tag=caller\r\n\
         To: {to}\r\nCall-ID: transfer\r\nCSeq: {number} {method}\r\nContact: <sip:a@{CALLER}>\r\n{more}\r\n\r\n"
    );
    Bytes::from(text)
}

/// The latest message that was sent there and can be read.
fn latest(lab: &Lab, there: &str) -> Option<Message> {
    let sent = lab.sent.iter().rev().filter(|transmit| transmit.path.remote == at(there));
    sent.filter_map(|transmit| Message::parse(transmit.payload.clone()).ok()).next()
}
