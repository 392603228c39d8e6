//! What messages say of session timers (RFC 4028 §4), and what we agree to (§9).

use crate::sip::{HeaderId, Message};

/// The shortest interval that we take, in seconds (RFC 4028 §4).
pub const MIN_SE: u32 = 90;
/// The longest that is of any use.
pub(super) const MAX_SE: u32 = 86_400;

/// What a message says of session timers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SessionTimerFields {
    /// Session-Expires, seconds.
    pub(super) interval: Option<u32>,
    /// Its refresher is the UAC.
    pub(super) uac: Option<bool>,
    /// Min-SE, seconds.
    pub(super) min: u32,
    /// `timer` is among Supported or Require.
    pub(super) known: bool,
}

/// What we agree to as the UAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionTerms {
    pub(super) interval: u32,
    pub(super) uac: bool,
}

impl SessionTimerFields {
    pub(super) fn of(message: &Message) -> SessionTimerFields {
        let has = |id| message.values(id).any(|tag| tag.trim().eq_ignore_ascii_case("timer"));
        let (interval, uac) = message.first(HeaderId::SessionExpires).map_or((None, None), session_expires);
        SessionTimerFields {
            interval,
            uac,
            min: message.first(HeaderId::MinSe).and_then(|v| session_expires(v).0).unwrap_or(0),
            known: has(HeaderId::Supported) || has(HeaderId::Require),
        }
    }

    /// RFC 4028 §9, table 2. `own`: the interval that we would have, 0: none.
    pub(super) fn agree(self, own: u32) -> Option<SessionTerms> {
        if own == 0 {
            return None;
        }
        let floor = self.min.max(MIN_SE);
        match (self.known, self.interval) {
            // Who asks for a refresher gets that one; else the far end that has the extension refreshes, for its NAT's sake.
            (true, Some(asked)) => Some(SessionTerms { interval: asked, uac: self.uac.unwrap_or(true) }),
            (true, None) => Some(SessionTerms { interval: own.max(floor), uac: false }),
            // A proxy on the way may have asked for it.
            (false, asked) => Some(SessionTerms { interval: asked.unwrap_or(own).max(floor), uac: false }),
        }
    }
}

/// Seconds and "the UAC refreshes" of a Session-Expires value (RFC 4028 §4). An unreadable one says nothing.
fn session_expires(value: &str) -> (Option<u32>, Option<bool>) {
    let mut parts = value.split(';').map(str::trim);
    let interval = parts.next().and_then(|n| n.parse::<u32>().ok()).map(|n| n.min(MAX_SE));
    let refresher = parts.find_map(|p| {
        let (name, value) = p.split_once('=')?;
        name.trim().eq_ignore_ascii_case("refresher").then(|| value.trim())
    });
    let uac = match refresher {
        Some(v) if v.eq_ignore_ascii_case("uac") => Some(true),
        Some(v) if v.eq_ignore_ascii_case("uas") => Some(false),
        _ => None,
    };
    (interval, uac)
}

/// True when a request asks for a shorter interval than we take: 422 with Min-SE (RFC 4028 §9).
pub fn asks_too_little(request: &Message) -> bool {
    let said = SessionTimerFields::of(request);
    said.known && said.interval.is_some_and(|n| n < MIN_SE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_session_expires_says() {
        for (value, interval, uac) in [
            ("1800", Some(1800), None),
            (" 90 ; Refresher = UAC ", Some(90), Some(true)),
            ("90;x=y;refresher=uas", Some(90), Some(false)),
            ("90;refresher=both", Some(90), None),
            ("99999999", Some(MAX_SE), None),
            ("99999999999999", None, None),
            ("soon", None, None),
            ("", None, None),
        ] {
            assert_eq!(session_expires(value), (interval, uac), "{value:?}");
        }
    }

    #[test]
    fn every_request_and_what_we_agree_to() {
        let said = |known, interval, uac, min| SessionTimerFields { known, interval, uac, min };
        let agreed = |interval, uac| Some(SessionTerms { interval, uac });
        for (said, own, expected) in [
            (said(true, Some(600), Some(true), 0), 0, None),
            (said(true, Some(600), Some(true), 0), 1800, agreed(600, true)),
            (said(true, Some(600), Some(false), 0), 1800, agreed(600, false)),
            (said(true, Some(600), None, 0), 1800, agreed(600, true)),
            (said(true, None, None, 0), 1800, agreed(1800, false)),
            (said(true, None, None, 3600), 1800, agreed(3600, false)),
            (said(false, None, None, 0), 1800, agreed(1800, false)),
            // What has not the extension is never made to refresh.
            (said(false, Some(600), Some(true), 0), 1800, agreed(600, false)),
            (said(false, Some(60), None, 0), 1800, agreed(MIN_SE, false)),
        ] {
            assert_eq!(said.agree(own), expected, "{said:?}, own {own}");
        }
    }
}
