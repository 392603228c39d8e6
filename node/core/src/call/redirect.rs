//! 3xx that a call follows itself, where the trunk says so (RFC 3261 §8.1.3.4).

use super::context::Context;
use crate::dialog::without_headers;
use crate::io::{HostAndPort, Realm};
use crate::policy::RedirectPolicy;
use crate::routing;
use crate::sip::{HeaderId, Message, NameAddr, Scheme, Uri};
use crate::targets::Hop;

/// 3xx that one call follows: a redirect server that sends in circles ends here.
const MAX_REDIRECTS: u8 = 5;
/// Contacts of one 3xx that are tried.
const MAX_CONTACTS: usize = 8;

/// 3xx that were followed, and where they led.
#[derive(Debug, Default)]
pub(super) struct FollowedRedirects {
    followed: u8,
    led_to: Vec<Box<str>>,
}

/// Who redirects.
pub(super) struct Redirector<'a> {
    pub(super) trunk: &'a str,
    pub(super) realm: Realm,
    /// What was dialled there: a sips one is followed to sips alone.
    pub(super) dialled: &'a str,
}

impl FollowedRedirects {
    /// Where a 3xx leads, in the order of its q values; nowhere: it goes to the caller.
    pub(super) fn follow(&mut self, cx: &Context, from: &Redirector<'_>, response: &Message) -> Vec<Hop> {
        let wanted = cx.config.trunk(from.trunk).is_some_and(|t| t.requests.redirects == RedirectPolicy::Follow);
        if !wanted || self.followed >= MAX_REDIRECTS {
            return Vec::new();
        }
        let hops = self.contacts(cx, from, response);
        self.followed += u8::from(!hops.is_empty());
        hops
    }

    /// The usable Contacts of a 3xx, the preferred one first: SIP, no downgrade of sips, never ourselves, none twice.
    fn contacts(&mut self, cx: &Context, from: &Redirector<'_>, response: &Message) -> Vec<Hop> {
        let secure = Uri::parse(from.dialled).is_ok_and(|u| u.scheme() == Scheme::Sips);
        let mut found: Vec<(u32, Hop)> = Vec::new();
        for value in response.values(HeaderId::Contact).take(MAX_CONTACTS) {
            let Ok(contact) = NameAddr::parse(value) else { continue };
            let uri = &contact.uri;
            let usable = match uri.scheme() {
                Scheme::Sips => true,
                Scheme::Sip => !secure,
                _ => false,
            };
            let ours = cx.leads_here(uri);
            let text: Box<str> = without_headers(uri).into();
            let Some(host) = uri.host().filter(|_| usable && !ours && !self.led_to.contains(&text)) else { continue };
            self.led_to.push(text.clone());
            let host = HostAndPort { host: host.into(), port: uri.port() };
            let choice = routing::uri_transport(uri);
            let hop = Hop { trunk: from.trunk.into(), realm: from.realm, host, choice, uri: Some(text) };
            found.push((preference(contact.param("q")), hop));
        }
        // Stable: equal ones stay in their order.
        found.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
        found.into_iter().map(|(_, hop)| hop).collect()
    }
}

/// A q value in thousandths; without one, 1 (RFC 3261 §20.10 gives none a place of its own).
fn preference(q: Option<&str>) -> u32 {
    let Some((whole, decimals)) = q.map(|q| q.split_once('.').unwrap_or((q, ""))) else { return 1000 };
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    match (whole, digits) {
        ("0", true) => format!("{decimals:0<3}").parse().unwrap_or(0),
        _ => 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_values() {
        for (q, expected) in [
            (None, 1000),
            (Some("1"), 1000),
            (Some("1.0"), 1000),
            (Some("0.5"), 500),
            (Some("0.25"), 250),
            (Some("0"), 0),
            (Some("x"), 1000),
        ] {
            assert_eq!(preference(q), expected, "{q:?}");
        }
    }
}
