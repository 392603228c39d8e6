//! Whom a request of ours names: the Request-URI and To toward a target.

use std::net::IpAddr;

use super::context::Context;
use crate::dialog::fit_to_send;
use crate::io::{Target, Transport};
use crate::sip::{HeaderId, Message, NameAddr, Scheme, Uri};
use crate::targets::Candidate;

/// The Request-URI toward a target: the number or name as dialled, at the target's host; other schemes as they are.
pub(super) fn request_uri(invite: &Message, candidate: &Candidate) -> String {
    if let Some(uri) = &candidate.uri {
        return uri.to_string();
    }
    uri_at(invite, &candidate.host, &candidate.target)
}

/// True for a request whose dialog is to be one of sips on the side of its sender (RFC 3261 §12.1.1): sips in the Request-URI or the
/// topmost Record-Route, else in Contact.
pub fn asks_for_sips(request: &Message) -> bool {
    let sips = |value: &str| NameAddr::parse(value).is_ok_and(|n| n.uri.scheme() == Scheme::Sips);
    let hop = request.values(HeaderId::RecordRoute).next().or_else(|| request.values(HeaderId::Contact).next());
    request.request_uri().is_some_and(is_sips) || hop.is_some_and(sips)
}

/// True for a sips URI.
pub fn is_sips(uri: &str) -> bool {
    Uri::parse(uri).is_ok_and(|uri| uri.scheme() == Scheme::Sips)
}

/// The Request-URI of a request that goes to this host, by this target. Only over TLS it can be sips (RFC 3261 §26.2.2).
pub fn uri_at(request: &Message, host: &str, target: &Target) -> String {
    let text = request.request_uri().unwrap_or_default();
    let Ok(uri) = Uri::parse(text) else { return text.to_owned() };
    if !matches!(uri.scheme(), Scheme::Sip | Scheme::Sips) {
        return text.to_owned();
    }
    let scheme = if uri.scheme() == Scheme::Sips && target.transport == Transport::Tls { "sips" } else { "sip" };
    let user = uri.user().map(|u| format!("{u}@")).unwrap_or_default();
    let host = match host.parse::<IpAddr>() {
        Ok(_) => target.addr.to_string(),
        Err(_) => host.to_owned(),
    };
    let phone = if uri.param("user").is_some_and(|v| v.eq_ignore_ascii_case("phone")) { ";user=phone" } else { "" };
    format!("{scheme}:{user}{host}{phone}")
}

/// The To value toward a target. A caller that dials our own address names it there; the called side must not see it.
pub fn to_value(cx: &Context, invite: &Message, uri: &str) -> String {
    let as_received = fit_to_send(invite.to());
    let Ok(to) = NameAddr::parse(&as_received) else { return as_received };
    match (cx.leads_here(&to.uri), &to.display) {
        // Dialled as sips, and gone on without: a far end by UDP would refuse what it cannot be.
        (false, _) if to.uri.scheme() == Scheme::Sips && uri.starts_with("sip:") => {
            let secure = to.uri.as_str();
            as_received.replacen(secure, &format!("sip:{}", &secure["sips:".len()..]), 1)
        }
        (false, _) => as_received,
        (true, Some(display)) => format!("{} <{uri}>", crate::sip::quote(display)),
        (true, None) => format!("<{uri}>"),
    }
}
