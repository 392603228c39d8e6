//! What messages say of how long a subscription lasts (RFC 6665).

use std::time::Duration;

use crate::sip::{HeaderId, Message};

/// RFC 6665 §4.1.2.4, timer N: so long after its last moment a subscription may still have a NOTIFY under way.
pub(super) const MARGIN: Duration = Duration::from_secs(32);
/// What neither end has spoken of for so long is forgotten, whatever was granted: a notifier may grant a century.
const MAX_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Where neither the SUBSCRIBE nor its 2xx says for how long, which RFC 6665 §4.2.1.1 demands: as most packages have it.
const DEFAULT_LIFE: u32 = 3600;

/// For how long the 2xx to a SUBSCRIBE grants it, at the most.
pub(super) fn granted(request: &Message, response: &Message) -> Duration {
    let seconds = response.number(HeaderId::Expires).or_else(|| request.number(HeaderId::Expires));
    life(seconds.unwrap_or(DEFAULT_LIFE))
}

fn life(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into()).min(MAX_LIFE)
}

/// What a NOTIFY says (RFC 6665 §4.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotifyState {
    /// It was the last.
    Terminated,
    /// It goes on, for so long where it is said.
    Lasts(Option<Duration>),
}

/// Reads Subscription-State. Without one, or with one that cannot be read, nothing changes.
pub(super) fn told(notify: &Message) -> NotifyState {
    let mut parts = notify.first(HeaderId::SubscriptionState).unwrap_or_default().split(';').map(str::trim);
    if parts.next().is_some_and(|state| state.eq_ignore_ascii_case("terminated")) {
        return NotifyState::Terminated;
    }
    let expires = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("expires").then(|| value.trim().parse().ok()).flatten()
    });
    NotifyState::Lasts(expires.map(life))
}

/// Whether a response to a SUBSCRIBE or NOTIFY within a subscription ends it (RFC 6665 §4.1.2.2, §4.2.2; RFC 5057 §5.1). Other
/// failures concern the request alone.
pub(super) fn ends_usage(status: u16) -> bool {
    matches!(status, 404 | 405 | 410 | 416 | 480..=485 | 489 | 501 | 604)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(start: &str, fields: &str) -> Message {
        let method = if start.contains("NOTIFY") { "NOTIFY" } else { "SUBSCRIBE" };
        let text = format!(
            "{start}\r\nVia: SIP/2.0/UDP c;branch=z9hG4bK1\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:b@c>;tag=t\r\nCall-ID: x\r\n\
             CSeq: 1 {method}\r\n{fields}\r\n"
        );
        Message::parse(Bytes::from(text)).expect("valid")
    }

    #[test]
    fn subscription_states() {
        let secs = |n| NotifyState::Lasts(Some(Duration::from_secs(n)));
        for (value, expected) in [
            ("Subscription-State: active;expires=60\r\n", secs(60)),
            ("Subscription-State: Pending ; x=1 ; Expires = 5 ; expires=9\r\n", secs(5)),
            ("Subscription-State: active\r\n", NotifyState::Lasts(None)),
            ("Subscription-State: active;expires=soon\r\n", NotifyState::Lasts(None)),
            ("Subscription-State: active;expires=4294967295\r\n", NotifyState::Lasts(Some(MAX_LIFE))),
            ("Subscription-State: TERMINATED;reason=timeout\r\n", NotifyState::Terminated),
            ("Subscription-State: ;\r\n", NotifyState::Lasts(None)),
            ("", NotifyState::Lasts(None)),
        ] {
            assert_eq!(told(&message("NOTIFY sip:a@c SIP/2.0", value)), expected, "{value}");
        }
    }

    #[test]
    fn the_response_says_for_how_long() {
        let asks = |fields: &str| message("SUBSCRIBE sip:a@c SIP/2.0", fields);
        let says = |fields: &str| message("SIP/2.0 200 OK", fields);
        for (request, response, seconds) in [
            ("Expires: 600\r\n", "Expires: 60\r\n", 60),
            ("Expires: 600\r\n", "", 600),
            ("Expires: 600\r\n", "Expires: never\r\n", 600),
            ("", "", 3600),
            ("Expires: 0\r\n", "Expires: 0\r\n", 0),
            ("", "Expires: 4000000000\r\n", 7 * 86_400),
        ] {
            assert_eq!(granted(&asks(request), &says(response)).as_secs(), seconds, "{request}{response}");
        }
    }

    #[test]
    fn which_failures_end_it() {
        let ends: Vec<u16> = (300..700).filter(|status| ends_usage(*status)).collect();
        assert_eq!(ends, [404, 405, 410, 416, 480, 481, 482, 483, 484, 485, 489, 501, 604]);
    }
}
