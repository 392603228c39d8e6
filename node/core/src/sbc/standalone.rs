//! A MESSAGE, PUBLISH or first SUBSCRIBE: admitted as a call is, then `message`'s.

use super::Sbc;
use super::message::NewStandalone;
use crate::call::ALLOW_NO_EVENTS;
use crate::io::{Counter, Path, ReturnPath};
use crate::policy::SubscribePolicy;
use crate::routing;
use crate::sip::{HeaderId, Message, Method, Scheme, Uri};
use crate::targets::Hop;

impl Sbc {
    /// A new MESSAGE, PUBLISH or SUBSCRIBE without To-tag.
    pub(super) fn on_standalone(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let admitted = match self.admit(&path, back.ingress, message, false) {
            Ok(admitted) => admitted,
            Err(status) => return self.refuse(back, message, status),
        };
        let service = admitted.service.as_deref();
        if !self.authenticate(back, message, &admitted.trunk, service.is_some()) {
            return;
        }
        if self.refuses_events(back, message, &admitted.trunk) {
            return;
        }
        let config = self.cx.config.clone();
        let Ok(uri) = Uri::parse(message.request_uri().unwrap_or_default()) else { return };
        let secure = uri.scheme() == Scheme::Sips;
        let route = routing::route(&config, &uri, service, &admitted.trunk);
        let targets = route.map(|r| routing::targets(&config, r)).unwrap_or_default().into_iter();
        let mut unsecured = false;
        let hops: Vec<Hop> = targets
            .filter(|(_, target)| {
                let carries = routing::carries(target.transport, secure, service.is_some());
                unsecured |= !carries;
                carries
            })
            .map(|(trunk, target)| Hop {
                trunk: trunk.name.clone(),
                realm: trunk.realm,
                host: target.host.clone(),
                choice: routing::transport_choice(target.transport, secure),
                uri: None,
            })
            .collect();
        let new = NewStandalone { back, request: message, from_trunk: admitted.trunk.clone(), service, hops, unsecured };
        self.messages.begin(&mut self.cx, &mut self.subscriptions, new);
    }

    /// Answers a SUBSCRIBE or PUBLISH that its trunk may not send, or for which there is no room.
    fn refuses_events(&mut self, back: ReturnPath, message: &Message, trunk: &str) -> bool {
        if message.method() == &Method::Message {
            return false;
        }
        if self.cx.config.trunk(trunk).is_some_and(|t| t.subscribe == SubscribePolicy::Refuse) {
            self.refuse_with(back, message, 405, &[("Allow", ALLOW_NO_EVENTS.to_owned())]);
            return true;
        }
        let status = if message.all(HeaderId::Event).count() != 1 {
            // RFC 3903 §6 step 2, RFC 6665 §4.2.1.1: neither is about anything without an event package.
            489
        } else if message.method() == &Method::Subscribe
            && let Some(limit) = self.subscriptions.full(back.path.remote.ip())
        {
            self.cx.count(Counter::Limited(limit));
            503
        } else {
            return false;
        };
        self.refuse(back, message, status);
        true
    }
}
