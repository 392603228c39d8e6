//! What calls meet at targets, told to [`Health`](crate::health::Health).

use std::time::Duration;

use super::context::Context;
use crate::io::{Counter, Path, Realm, Target, TargetChange};
use crate::local::LocalConfig;
use crate::sip::{HeaderId, Message};

impl Context {
    /// True when other targets should be dialled before this one.
    pub fn defers(&mut self, realm: Realm, target: &Target) -> bool {
        self.health.defers(self.now.mono, LocalConfig::own_role(realm), target)
    }

    /// True while a target is known to have failed lately.
    pub(super) fn is_held(&self, realm: Realm, target: &Target) -> bool {
        self.health.is_held(self.now.mono, LocalConfig::own_role(realm), target)
    }

    /// The far end of a path was silent or could not be reached; `asked`: it wants to be left alone for that long.
    pub fn target_failed(&mut self, path: &Path, asked: Option<Duration>) {
        if self.health.failed(self.now.mono, path.role, &target_of(path), asked) {
            self.count(Counter::Target(TargetChange::Held));
        }
    }

    /// The far end of a path responded. RFC 3261 §21.5.4: 503 holds it down when it says for how long; without Retry-After it
    /// is about this call only.
    pub fn target_responded(&mut self, path: &Path, status: u16, response: &Message) {
        let asked = (status == 503).then(|| response.first(HeaderId::RetryAfter).and_then(retry_after)).flatten();
        if asked.is_some() {
            self.target_failed(path, asked);
        } else if self.health.answered(path.role, &target_of(path)) {
            self.count(Counter::Target(TargetChange::Answered));
        }
    }
}

fn target_of(path: &Path) -> Target {
    Target { addr: path.remote, transport: path.transport }
}

/// Seconds of a Retry-After value (RFC 3261 §20.33), whatever follows them. None for 0.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim_start();
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    // What does not fit is longer than any limit.
    let seconds = if digits > 9 { u64::from(u32::MAX) } else { value[..digits].parse().ok()? };
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_values() {
        let s = |n| Some(Duration::from_secs(n));
        let table = [
            ("120", s(120)),
            (" 18000;duration=3600", s(18_000)),
            ("5 (in a meeting)", s(5)),
            ("0", None),
            ("", None),
            ("soon", None),
            ("99999999999999999999999", s(u64::from(u32::MAX))),
        ];
        for (value, expected) in table {
            assert_eq!(retry_after(value), expected, "{value:?}");
        }
    }
}
