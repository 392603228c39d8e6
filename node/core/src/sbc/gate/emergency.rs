//! Whether a request is for an emergency service.

use super::replaces::replaced;
use crate::call::{Context, Replaced};
use crate::routing;
use crate::sbc::calls::Calls;
use crate::sip::{HeaderId, Message, Method, Uri};

/// True for a request to an emergency service, and for an INVITE that takes the place of a call to one.
pub(in crate::sbc) fn is_emergency(cx: &Context, calls: &Calls, request: &Message) -> bool {
    let uri = Uri::parse(request.request_uri().unwrap_or_default());
    uri.is_ok_and(|uri| routing::is_emergency(&cx.config, &uri)) || {
        let other = has_replaces(request).then(|| replaced(cx, calls, request));
        other.is_some_and(|other| service_of(&other).is_some())
    }
}

/// The emergency service of the call that a request is to replace: it takes that one's class with its place.
pub(super) fn replaced_service<'a>(
    request: &Message,
    replaced: impl FnOnce() -> &'a Result<Option<Replaced>, u16>,
) -> Option<Box<str>> {
    has_replaces(request).then(|| service_of(replaced())).flatten()
}

fn has_replaces(request: &Message) -> bool {
    request.method() == &Method::Invite && request.first(HeaderId::Replaces).is_some()
}

fn service_of(replaced: &Result<Option<Replaced>, u16>) -> Option<Box<str>> {
    Some(replaced.as_ref().ok()?.as_ref()?.emergency.as_ref()?.service.as_str().into())
}
