//! A MESSAGE, PUBLISH or first SUBSCRIBE: admitted as a call is, then `message`'s.

use super::Sbc;
use crate::io::{Path, ReturnPath};
use crate::message::NewStandalone;
use crate::routing;
use crate::sip::{Message, Scheme, Uri};
use crate::targets::Hop;

impl Sbc {
    /// A new MESSAGE, PUBLISH or SUBSCRIBE without To-tag.
    pub(super) fn on_standalone(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let Some(admitted) = self.admit(&path, back, message, false) else { return };
        let service = admitted.service.as_deref();
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
}
