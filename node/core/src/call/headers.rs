//! Which header fields cross from one leg to the other. Topology is hidden: what names hops, dialogs and us does not cross.

use super::context::Context;
use crate::auth::{self, AuthHeader};
use crate::sip::{Draft, Field, HeaderId, Message, Method, NameAddr, params};
use crate::transaction::ServerKey;

/// Fields that belong to one leg, written anew for the other.
fn is_own(id: HeaderId) -> bool {
    matches!(
        id,
        HeaderId::Via
            | HeaderId::From
            | HeaderId::To
            | HeaderId::CallId
            | HeaderId::CSeq
            | HeaderId::Contact
            | HeaderId::MaxForwards
            | HeaderId::Route
            | HeaderId::RecordRoute
            | HeaderId::Path
            // It speaks to the proxies before us (RFC 3261 §20.29); what it asks of us was judged by `sbc::gate`.
            | HeaderId::ProxyRequire
            | HeaderId::ContentLength
            | HeaderId::ContentType
            | HeaderId::RAck
            // It names a dialog of one leg; `sbc::gate::replaces` maps it.
            | HeaderId::Replaces
            // Each leg has a session timer of its own (RFC 4028); `session` writes it.
            | HeaderId::SessionExpires
            | HeaderId::MinSe
    )
}

/// Copies what crosses, byte for byte and in its order. Content-Type goes with the body, which the caller sets.
pub fn copy_through(from: &Message, to: &mut Draft) {
    for field in from.headers() {
        if is_own(field.id) {
            continue;
        }
        match without_timer(&field) {
            None => {
                to.push_field(&field);
            }
            Some(rest) if rest.is_empty() => {}
            Some(rest) => {
                to.push(field.id, rest);
            }
        }
    }
}

/// True when a request within the dialog tells the other far end something: by a field that crosses and is more than what its sender
/// is able to do, or by a Contact with other parameters than these, known ones.
pub(super) fn tells(request: &Message, known: &str) -> bool {
    const ABLE: [&str; 14] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "allow",
        "allow-events",
        "authorization",
        "date",
        "k",
        "organization",
        "proxy-authorization",
        "require",
        "session-id",
        "supported",
        "user-agent",
    ];
    let told = |field: Field<'_>| !is_own(field.id) && !ABLE.iter().any(|name| name.eq_ignore_ascii_case(field.name));
    let contact = request.values(HeaderId::Contact).next();
    request.headers().any(told) || contact.is_some_and(|contact| contact_params(contact) != known)
}

/// Supported and Require without the option tag that concerns one leg alone; `None`: it is not in it.
fn without_timer(field: &Field<'_>) -> Option<String> {
    let is_timer = |tag: &&str| tag.eq_ignore_ascii_case("timer");
    if !matches!(field.id, HeaderId::Supported | HeaderId::Require)
        || !field.value.split(',').map(str::trim).any(|t| is_timer(&t))
    {
        return None;
    }
    let rest: Vec<&str> = field.value.split(',').map(str::trim).filter(|t| !is_timer(t)).collect();
    Some(rest.join(", "))
}

/// Header parameters of a Contact that cross: features and what a far end is (RFC 3840 §4, RFC 4579 §4), its instance (RFC 5626 §4.1). Not
/// those that speak of a registration or of an order of targets (RFC 3261 §20.10, RFC 5626 §4.2), or name an address (RFC 5627 §3.2).
pub(super) fn contact_params(contact: &str) -> String {
    const OF_ONE_HOP: [&str; 5] = ["expires", "q", "reg-id", "pub-gruu", "temp-gruu"];
    let Ok(contact) = NameAddr::parse(contact) else { return String::new() };
    let mut out = String::new();
    for (name, value) in params(contact.params_str()).filter(|(name, _)| !OF_ONE_HOP.iter().any(|n| n.eq_ignore_ascii_case(name)))
    {
        out.push(';');
        out.push_str(name);
        if let Some(value) = value {
            out.push('=');
            out.push_str(value);
        }
    }
    out
}

/// Takes out credentials for a realm: the others of that name stay as they came.
pub(super) fn drop_credentials(draft: &mut Draft, id: HeaderId, realm: &str) {
    let kept: Vec<String> =
        draft.headers().filter(|f| f.id == id && auth::realm_of(f.value) != Some(realm)).map(|f| f.value.to_owned()).collect();
    if kept.len() < draft.headers().filter(|f| f.id == id).count() {
        draft.remove(id);
        for value in kept {
            draft.push(id, value);
        }
    }
}

/// Takes out what a caller told us alone: its answers to our own challenges. Of both kinds, for a phone may still give what it was asked
/// for before the configuration was changed.
pub fn strip_our_credentials(cx: &Context, from_trunk: &str, draft: &mut Draft) {
    if let Some(challenger) = cx.config.trunk(from_trunk).and_then(|t| t.auth.challenger.as_ref()) {
        for kind in [AuthHeader::User, AuthHeader::Proxy] {
            drop_credentials(draft, kind.answers(), &challenger.realm);
        }
    }
}

/// The Max-Forwards value for the next hop; `Err` when this request may go no further (RFC 3261 §16.3, 16.6).
pub fn next_max_forwards(request: &Message) -> Result<u32, MaxForwardsError> {
    match request.first(HeaderId::MaxForwards) {
        None => Ok(70),
        Some(text) if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) => Err(MaxForwardsError::Malformed),
        Some(digits) => match digits.trim_start_matches('0') {
            "" => Err(MaxForwardsError::Exhausted),
            // RFC 4475 §3.1.2.4: a number beyond 255 is as one that is not there.
            number => Ok(number.parse::<u8>().map_or(70, |n| u32::from(n) - 1)),
        },
    }
}

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxForwardsError {
    /// 483.
    Exhausted,
    /// 400.
    Malformed,
}

/// What matches a request to its server transaction, `method` being that of the transaction.
///
/// RFC 3261 §17.2.3. A branch without the cookie is made unique by what a pre-3261 sender keeps the same.
pub fn server_key(message: &Message, method: &Method) -> ServerKey {
    let via = message.top_via();
    let branch = match via.branch() {
        // RFC 4475 §3.2.1: the cookie alone tells nothing apart, so a second call would be taken for a copy of the first.
        Some(b) if b.len() > 7 && b.get(..7).is_some_and(|c| c.eq_ignore_ascii_case("z9hG4bK")) => b.to_owned(),
        other => format!(
            "{}|{}|{}|{}",
            other.unwrap_or_default(),
            message.call_id(),
            message.from_tag().unwrap_or_default(),
            message.cseq()
        ),
    };
    let method = if method == &Method::Ack { "INVITE" } else { method.as_str() };
    ServerKey { branch: branch.into(), sent_by: via.sent_by().into(), method: method.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Method;
    use bytes::Bytes;

    fn request(extra: &str) -> Message {
        Message::parse(Bytes::from(format!(
            "INVITE sip:112@h SIP/2.0\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=ft\r\nTo: <sip:112@h>\r\n\
             Call-ID: x@c\r\nCSeq: 7 INVITE\r\n{extra}Content-Length: 0\r\n\r\n"
        )))
        .expect("valid")
    }

    #[test]
    fn unknown_fields_cross_and_hop_fields_do_not() {
        let m = request(
            "X-Odd:  a ;b\r\nRoute: <sip:r;lr>\r\nRecord-Route: <sip:rr;lr>\r\nContact: <sip:a@c>\r\nGeolocation: <cid:x>\r\nP-Asserted-Identity: <tel:1>\r\n",
        );
        let mut d = Draft::request(&Method::Invite, "sip:x");
        copy_through(&m, &mut d);
        let t = String::from_utf8(d.encode().unwrap().to_vec()).unwrap();
        // White space around a value is not part of it (RFC 3261 §7.3.1).
        for kept in ["X-Odd: a ;b\r\n", "Geolocation: <cid:x>\r\n", "P-Asserted-Identity: <tel:1>\r\n"] {
            assert!(t.contains(kept), "{t}");
        }
        for gone in ["Route", "Contact", "Via", "Call-ID"] {
            assert!(!t.contains(gone), "{gone} in {t}");
        }
    }

    #[test]
    fn what_a_contact_says_of_its_owner() {
        for (contact, expected) in [
            ("<sip:a@c;transport=tcp>", ""),
            ("<sip:a@c>;isfocus", ";isfocus"),
            (
                "\"A;b\" <sip:a@c;x=y> ; +sip.instance=\"<urn:uuid:1;2>\";q=0.5;expires=60;reg-id=1;audio",
                ";+sip.instance=\"<urn:uuid:1;2>\";audio",
            ),
            ("sip:a@c;+g.3gpp.icsi-ref=\"urn%3Aurn-7%3Ax\"", ";+g.3gpp.icsi-ref=\"urn%3Aurn-7%3Ax\""),
            ("<sip:a@c>;pub-gruu=\"sip:a@h;gr=1\";methods=\"INVITE,BYE\"", ";methods=\"INVITE,BYE\""),
            ("<<", ""),
        ] {
            assert_eq!(contact_params(contact), expected, "{contact}");
        }
    }

    #[test]
    fn credentials_of_one_realm_go() {
        let m = request(
            "Authorization: Digest realm=\"ours\", nonce=\"1\"\r\nAuthorization: Digest nonce=\"2\", realm=\"theirs\"\r\n",
        );
        let mut d = Draft::request(&Method::Invite, "sip:x");
        copy_through(&m, &mut d);
        drop_credentials(&mut d, HeaderId::Authorization, "nobody's");
        assert_eq!(d.headers().count(), 2);
        drop_credentials(&mut d, HeaderId::Authorization, "ours");
        assert_eq!(d.headers().map(|f| f.value).collect::<Vec<_>>(), ["Digest nonce=\"2\", realm=\"theirs\""]);
    }

    #[test]
    fn max_forwards() {
        assert_eq!(next_max_forwards(&request("")), Ok(70));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 70\r\n")), Ok(69));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 0\r\n")), Err(MaxForwardsError::Exhausted));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 255\r\n")), Ok(254));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 256\r\n")), Ok(70));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 99999999999999999999\r\n")), Ok(70));
        assert_eq!(next_max_forwards(&request("Max-Forwards: 007\r\n")), Ok(6));
        for malformed in ["x", "+7", "-1", "7 7", "", "7;x"] {
            let request = request(&format!("Max-Forwards: {malformed}\r\n"));
            assert_eq!(next_max_forwards(&request), Err(MaxForwardsError::Malformed), "{malformed}");
        }
    }
}
