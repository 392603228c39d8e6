//! Which targets lately failed: they are tried last, never left out (RFC 3263 §4.3 leaves the order after a failure to us).
//!
//! What this node's own calls and probes met is all that is known; nothing is replicated. A target that failed is held
//! down for 30 s, for longer each time that it fails again, or for as long as it said itself by Retry-After (RFC 3261
//! §21.5.4). When the time is over one call tries it first, and the others only once that call had an answer.

use std::collections::HashMap;
use std::time::Duration;

use crate::io::{AddressRole, Target};
use crate::time::Instant;

/// Hold-down after the first failure; doubled with each further one.
const HOLD: Duration = Duration::from_secs(30);

/// The longest hold-down, also where Retry-After asks for more: a target that came back must not idle for hours.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// For how long the call that tries a held target first is the only one.
const TRIAL: Duration = Duration::from_secs(5);

/// Targets remembered; when there are more, new failures are not.
const TARGETS_MAX: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Held {
    until: Instant,
    failures: u32,
}

/// The targets that failed and have not answered since.
#[derive(Debug, Default)]
pub struct Health {
    held: HashMap<(AddressRole, Target), Held>,
}

impl Health {
    /// A target was silent, could not be reached, or said 503 with Retry-After (`asked`). `from`: our own address. True: it
    /// counted as good until now.
    pub fn failed(&mut self, now: Instant, from: AddressRole, target: &Target, asked: Option<Duration>) -> bool {
        let key = (from, target.clone());
        if self.held.len() >= TARGETS_MAX && !self.held.contains_key(&key) {
            return false;
        }
        let held = self.held.entry(key).or_insert(Held { until: now, failures: 0 });
        // Calls that were under way together are one failure, not several. A trial is the next one.
        let counts = held.failures == 0 || now + TRIAL >= held.until;
        held.failures = held.failures.saturating_add(u32::from(counts));
        if counts || asked.is_some() {
            let own = HOLD.saturating_mul(1 << held.failures.saturating_sub(1).min(8));
            held.until = held.until.max(now + asked.unwrap_or(own).min(HOLD_MAX));
        }
        held.failures == 1 && counts
    }

    /// A target answered. True: it was held down.
    pub fn answered(&mut self, from: AddressRole, target: &Target) -> bool {
        !self.held.is_empty() && self.held.remove(&(from, target.clone())).is_some()
    }

    /// True when others should be tried before this target. Asking when its time is over makes the asker the one who tries.
    pub fn defers(&mut self, now: Instant, from: AddressRole, target: &Target) -> bool {
        let Some(held) = self.held.get_mut(&(from, target.clone())) else { return false };
        if now < held.until {
            return true;
        }
        held.until = now + TRIAL;
        false
    }

    /// The same without becoming the one who tries.
    pub fn is_held(&self, now: Instant, from: AddressRole, target: &Target) -> bool {
        self.held.get(&(from, target.clone())).is_some_and(|held| now < held.until)
    }

    /// Forgets targets that nobody has tried for long.
    pub fn sweep(&mut self, now: Instant) {
        self.held.retain(|_, held| now < held.until + HOLD_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Transport;

    const CORE: AddressRole = AddressRole::Core;

    fn at(s: u64) -> Instant {
        Instant::from_micros(1_000_000 * (1000 + s))
    }

    fn target(last: u8, transport: Transport) -> Target {
        Target { addr: ([192, 0, 2, last], 5060).into(), transport }
    }

    #[test]
    fn held_tried_by_one_held_for_longer_and_free() {
        let (mut h, t) = (Health::default(), target(1, Transport::Udp));
        assert!(!h.defers(at(0), CORE, &t));
        assert!(h.failed(at(0), CORE, &t, None));
        assert!(!h.failed(at(1), CORE, &t, None), "another call of the same time");
        assert!(h.defers(at(29), CORE, &t));
        assert!(!h.defers(at(30), CORE, &t), "one tries");
        assert!(h.defers(at(30), CORE, &t), "the others do not");
        assert!(!h.failed(at(32), CORE, &t, None));
        assert!(h.defers(at(91), CORE, &t), "60 s now");
        assert!(!h.defers(at(92), CORE, &t));
        assert!(h.answered(CORE, &t));
        assert!(!h.defers(at(93), CORE, &t));
        assert!(!h.answered(CORE, &t));
        assert!(h.failed(at(93), CORE, &t, None), "from the beginning");
        assert!(!h.defers(at(123), CORE, &t));
    }

    #[test]
    fn a_trial_without_an_end_leads_to_the_next_trial() {
        let (mut h, t) = (Health::default(), target(1, Transport::Udp));
        h.failed(at(0), CORE, &t, None);
        assert!(!h.defers(at(30), CORE, &t));
        assert!(h.defers(at(34), CORE, &t));
        assert!(!h.defers(at(35), CORE, &t), "the caller gave up before anything was known");
    }

    #[test]
    fn by_address_and_transport_and_as_long_as_it_asks() {
        let (mut h, t) = (Health::default(), target(1, Transport::Udp));
        h.failed(at(0), CORE, &t, Some(Duration::from_secs(10)));
        assert!(!h.defers(at(0), CORE, &target(2, Transport::Udp)));
        assert!(!h.defers(at(0), CORE, &target(1, Transport::Tcp)));
        assert!(!h.defers(at(0), AddressRole::Unicast, &t));
        assert!(h.defers(at(9), CORE, &t));
        assert!(!h.defers(at(10), CORE, &t));
        h.failed(at(11), CORE, &t, Some(Duration::from_secs(86_400)));
        assert!(h.defers(at(310), CORE, &t));
        assert!(!h.defers(at(311), CORE, &t), "no longer than five minutes");
    }

    #[test]
    fn bounded_and_forgetful() {
        let mut h = Health::default();
        for n in 0..u16::try_from(TARGETS_MAX + 10).unwrap() {
            let t = Target { addr: ([192, 0, 2, 1], n).into(), transport: Transport::Udp };
            for _ in 0..100 {
                h.failed(at(0), CORE, &t, None);
            }
        }
        assert_eq!(h.held.len(), TARGETS_MAX);
        h.sweep(at(329));
        assert_eq!(h.held.len(), TARGETS_MAX);
        h.sweep(at(330));
        assert!(h.held.is_empty());
    }
}
