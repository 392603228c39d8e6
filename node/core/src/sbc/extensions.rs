//! What a request asks of us that we cannot give: addresses (RFC 3261 §8.2.2.1, §16.3), extensions (RFC 3261 §8.2.2.3, §16.3) and bodies (§8.2.3, §21.4.26). An emergency
//! call is never refused for either; what is asked of the far end crosses, and it judges.

use super::Sbc;
use crate::call::unusable;
use crate::ctx::AGENT;
use crate::io::ReturnPath;
use crate::routing;
use crate::sip::{HeaderId, Message, Method, Scheme, Uri};

/// Extensions that an OPTIONS to us may require, and is told of: what a call through us may use.
pub(super) const KNOWN: [&str; 7] =
    ["100rel", "timer", "replaces", "norefersub", "resource-priority", "geolocation-sip", "geolocation-http"];

impl Sbc {
    /// Answers 420 to a request that begins something and wants extensions of us that we have not. Proxy-Require is always ours;
    /// Require is where we are the end: OPTIONS.
    pub(super) fn refuses_extensions(&mut self, back: ReturnPath, request: &Message) -> bool {
        let unknown = self.refused_extensions(request);
        if unknown.is_empty() {
            return false;
        }
        let fields = [("Unsupported", unknown.join(", "))];
        self.refuse_with(back, request, 420, &fields);
        true
    }

    /// Those for which it is refused.
    pub(super) fn refused_extensions<'a>(&self, request: &'a Message) -> Vec<&'a str> {
        let mut unknown: Vec<&str> = request.values(HeaderId::ProxyRequire).filter(|tag| !tag.is_empty()).collect();
        if request.method() == &Method::Options {
            let known = |tag: &&str| KNOWN.iter().any(|k| k.eq_ignore_ascii_case(tag));
            unknown.extend(request.values(HeaderId::Require).filter(|tag| !tag.is_empty() && !known(tag)));
        }
        if unknown.is_empty() || self.is_emergency(request) { Vec::new() } else { unknown }
    }

    /// Answers 400 to a request that begins something and whose Request-URI cannot be read, whatever its method (RFC 5118 §4.2), and
    /// 416 to an OPTIONS with one of a kind that we do not know (RFC 4475 §3.3.2); calls are judged with their route.
    pub(super) fn refuses_uri(&mut self, back: ReturnPath, request: &Message) -> bool {
        let status = match Uri::parse(request.request_uri().unwrap_or_default()) {
            Err(_) => 400,
            Ok(uri) if uri.scheme() == Scheme::Other && request.method() == &Method::Options => 416,
            Ok(_) => return false,
        };
        self.refuse(back, request, status);
        true
    }

    /// Answers 415 or 488 to an INVITE whose session description cannot be read, hence not be anchored.
    pub(super) fn refuses_body(&mut self, back: ReturnPath, request: &Message) -> bool {
        let Some(fault) = unusable(request) else { return false };
        let fields = [fault.field(AGENT)];
        self.cx.reject_with(back, request, fault.status(), &fields);
        true
    }

    pub(super) fn is_emergency(&self, request: &Message) -> bool {
        let uri = Uri::parse(request.request_uri().unwrap_or_default());
        uri.is_ok_and(|uri| routing::is_emergency(&self.cx.config, &uri)) || self.replaced_service(request).is_some()
    }

    /// The emergency service of the call that a request is to replace: it takes that one's class with its place.
    pub(super) fn replaced_service(&self, request: &Message) -> Option<Box<str>> {
        request.first(HeaderId::Replaces).filter(|_| request.method() == &Method::Invite)?;
        Some(self.replaced(request).ok()??.emergency?.service.as_str().into())
    }

    /// What a request that began nothing is counted under.
    pub(super) fn class_of(&self, request: &Message) -> &'static str {
        let uri = Uri::parse(request.request_uri().unwrap_or_default()).ok();
        routing::class_label(uri.and_then(|uri| routing::classify(&self.cx.config, &uri)).as_deref())
    }
}
