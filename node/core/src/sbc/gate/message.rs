//! What is judged by the request itself: what it asks of us that we cannot give (RFC 3261 §8.2.2, §8.2.3, §16.3), how far it has come (§16.3, RFC 5393,
//! AC-45), and whether the configuration lets it in. An emergency call is refused for little of it; what is asked of the far end crosses, and it judges.

use super::{Entrance, Refusal, Why};
use crate::call::{
    ALLOW_NO_EVENTS, BRANCH_COOKIE, LOOP_PARAM, MIN_SE, MaxForwardsError, asks_too_little, next_max_forwards, unusable,
};
use crate::io::{Limit, Realm};
use crate::local::AGENT;
use crate::placement;
use crate::policy::{IdentityPolicy, SubscribePolicy};
use crate::sip::{HeaderId, Method, Scheme, Via};
use crate::subscription::Full;
use crate::token::TokenKind;

/// Extensions that an OPTIONS to us may require, and is told of: what a call through us may use.
pub(in crate::sbc) const KNOWN_EXTENSIONS: [&str; 7] =
    ["100rel", "timer", "replaces", "norefersub", "resource-priority", "geolocation-sip", "geolocation-http"];

/// Vias looked at: a request has no more hops behind it than Max-Forwards lets it have.
const MAX_VIAS: usize = 70;

/// 400 to a request whose Request-URI cannot be read, whatever its method, and 416 to an OPTIONS with one of a kind that we do not know; calls are
/// judged with their route.
pub(super) fn request_uri(at: &Entrance<'_>) -> Option<Refusal> {
    match at.uri() {
        None => Some(Why::RequestUri.into()),
        Some(uri) if uri.scheme() == Scheme::Other && at.request.method() == &Method::Options => Some(Why::UriScheme.into()),
        Some(_) => None,
    }
}

/// Proxy-Require is always ours; Require is where we are the end: OPTIONS.
pub(super) fn extensions(at: &Entrance<'_>) -> Option<Refusal> {
    let request = at.request;
    let mut unknown: Vec<&str> = request.values(HeaderId::ProxyRequire).filter(|tag| !tag.is_empty()).collect();
    if request.method() == &Method::Options {
        let known = |tag: &&str| KNOWN_EXTENSIONS.iter().any(|k| k.eq_ignore_ascii_case(tag));
        unknown.extend(request.values(HeaderId::Require).filter(|tag| !tag.is_empty() && !known(tag)));
    }
    if unknown.is_empty() || at.is_emergency() {
        return None;
    }
    let unknown = unknown.join(", ");
    Some(Refusal { fields: vec![("Unsupported", unknown.clone())], ..Why::Extensions(unknown).into() })
}

/// It also ends loops through user agents that leave no trace of us.
pub(super) fn max_forwards(at: &Entrance<'_>) -> Option<Refusal> {
    match next_max_forwards(at.request) {
        Err(MaxForwardsError::Exhausted) => Some(Why::MaxForwards.into()),
        Err(MaxForwardsError::Malformed) => Some(Why::MaxForwardsUnreadable.into()),
        Ok(_) => None,
    }
}

/// RFC 5393 §5.3.3.1: no breadth is left for even one branch.
pub(super) fn max_breadth(at: &Entrance<'_>) -> Option<Refusal> {
    (at.request.number(HeaderId::MaxBreadth) == Some(0)).then(|| Why::MaxBreadth.into())
}

/// This cluster has sent the request before, for the same destination: our Via says for which. Nobody else can mint its branch. With another
/// destination it is a spiral, which is allowed (RFC 3261 §16.3 step 4).
pub(super) fn looped(at: &Entrance<'_>) -> Option<Refusal> {
    let cx = at.sights.cx;
    let cookie = cx.loop_cookie(at.request);
    let ours = |value: &str| {
        let Ok(via) = Via::parse(value) else { return false };
        via.param(LOOP_PARAM) == Some(&*cookie)
            && via
                .branch()
                .and_then(|b| cx.key.open(b.get(BRANCH_COOKIE.len()..)?))
                .is_some_and(|token| token.kind == TokenKind::Branch)
    };
    at.request.values(HeaderId::Via).take(MAX_VIAS).any(ours).then(|| Why::Loop.into())
}

/// Its scheme, and its trunk.
pub(super) fn entry(at: &Entrance<'_>) -> Option<Refusal> {
    match at.entry() {
        None => Some(Why::RequestUri.into()),
        Some(Err(refusal)) => Some(Why::Entry(*refusal).into()),
        Some(Ok(_)) => None,
    }
}

/// An emergency call is not refused for the way that its phone or proxy thought out for it (RFC 6881, 3GPP TS 24.229: Routes to the ESRP and beyond):
/// the configuration routes it, its Routes are left behind, so nothing is relayed for strangers.
pub(super) fn routes(at: &Entrance<'_>) -> Option<Refusal> {
    let cx = at.sights.cx;
    let ours = || placement::routes_are_ours(&cx.local, &cx.view, &cx.config.settings.own_names, at.request);
    (!at.is_emergency() && !ours()).then(|| Why::ForeignRoute.into())
}

/// RFC 4028 §9. An emergency call is taken with whatever it asks for.
pub(super) fn session_interval(at: &Entrance<'_>) -> Option<Refusal> {
    let refused = !at.is_emergency() && asks_too_little(at.request);
    refused.then(|| Refusal { fields: vec![("Min-SE", MIN_SE.to_string())], ..Why::SessionInterval.into() })
}

/// 415 or 488 where the session description cannot be read, hence not be anchored.
pub(super) fn body(at: &Entrance<'_>) -> Option<Refusal> {
    if at.is_emergency() {
        return None;
    }
    let fault = unusable(at.request)?;
    Some(Refusal { fields: vec![fault.field(AGENT)], ..Why::Body(fault).into() })
}

/// A SUBSCRIBE or PUBLISH of a trunk that may send neither.
pub(super) fn events(at: &Entrance<'_>) -> Option<Refusal> {
    let refuses = at.trunk().is_some_and(|t| t.requests.subscribe == SubscribePolicy::Refuse);
    let refused = refuses && at.request.method() != &Method::Message;
    refused.then(|| Refusal { fields: vec![("Allow", ALLOW_NO_EVENTS.to_owned())], ..Why::Events.into() })
}

/// RFC 3903 §6 step 2, RFC 6665 §4.2.1.1: neither is about anything without an event package.
pub(super) fn event_package(at: &Entrance<'_>) -> Option<Refusal> {
    let one = at.request.method() == &Method::Message || at.request.all(HeaderId::Event).count() == 1;
    (!one).then(|| Why::EventPackage.into())
}

/// There are only so many subscriptions.
pub(super) fn room_for_subscription(at: &Entrance<'_>) -> Option<Refusal> {
    let source = at.source().filter(|_| at.request.method() == &Method::Subscribe)?;
    let limit = match at.sights.subscriptions.full(source)? {
        Full::Node => Limit::Subscriptions,
        Full::Source => Limit::SourceSubscriptions,
    };
    Some(Why::Limit(limit).into())
}

impl Entrance<'_> {
    /// True for an ordinary call that is no less urgent than an emergency call, by the word of a core-side trunk whose word counts: a PSAP that
    /// calls back (RFC 7090 §5), and what this network's emergency services mark as theirs (RFC 7135).
    pub(super) fn has_priority(&self) -> bool {
        let psap = || self.request.first_named("Priority").is_some_and(|v| v.trim().eq_ignore_ascii_case("psap-callback"));
        let esnet = |v: &str| v.trim().get(..6).is_some_and(|namespace| namespace.eq_ignore_ascii_case("esnet."));
        let trusted = self.trunk().is_some_and(|t| t.realm == Realm::Core && t.identity == IdentityPolicy::Trust);
        trusted && (psap() || self.request.values(HeaderId::ResourcePriority).any(esnet))
    }
}
