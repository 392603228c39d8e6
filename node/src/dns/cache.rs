//! Answers kept beyond their time: when no server answers, an old answer is better than a lost call (sip.md, RFC 3263 client).

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Names kept. About 300 octets each.
pub(super) const NAMES_MAX: usize = 10_000;

/// How long an answer that no server refreshes may still be used.
const STALE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// After servers did not answer, the old answer serves for this long before they are asked again: a call does not pay for
/// the outage with a timeout each time.
const STALE_HOLD: Duration = Duration::from_secs(5);

/// What the cache has for a key.
pub(super) enum Found<V> {
    /// Within its time to live; `due`: so near its end that it is asked for anew in the background.
    Fresh { value: V, due: bool },
    /// Past its time; `outage`: when last asked, no server answered.
    Stale { value: V, outage: bool },
    /// Nothing that may be used.
    None,
}

impl<V> Found<V> {
    pub(super) fn into_value(self) -> Option<V> {
        match self {
            Found::Fresh { value, .. } | Found::Stale { value, .. } => Some(value),
            Found::None => None,
        }
    }
}

struct Kept<V> {
    value: V,
    due: Instant,
    fresh_until: Instant,
    stale_until: Instant,
    used: Instant,
    outage: bool,
}

/// A bounded cache with fresh and stale answers.
pub(super) struct Cache<K, V> {
    kept: HashMap<K, Kept<V>>,
    max: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    pub(super) fn new(max: usize) -> Cache<K, V> {
        Cache { kept: HashMap::new(), max }
    }

    pub(super) fn find(&mut self, key: &K, now: Instant) -> Found<V> {
        let Some(kept) = self.kept.get_mut(key).filter(|k| now < k.stale_until) else { return Found::None };
        kept.used = now;
        let value = kept.value.clone();
        if now < kept.fresh_until {
            Found::Fresh { value, due: now >= kept.due }
        } else {
            Found::Stale { value, outage: kept.outage }
        }
    }

    /// No server answered: the old answer, if there is one, counts as fresh for a little.
    pub(super) fn hold(&mut self, key: &K, now: Instant) -> bool {
        let Some(kept) = self.kept.get_mut(key).filter(|k| now < k.stale_until) else { return false };
        kept.outage = true;
        kept.fresh_until = kept.fresh_until.max((now + STALE_HOLD).min(kept.stale_until));
        kept.due = kept.fresh_until;
        true
    }

    pub(super) fn put(&mut self, key: K, value: V, ttl: Duration, now: Instant) {
        if self.kept.len() >= self.max && !self.kept.contains_key(&key) {
            self.evict();
        }
        let fresh_until = now + ttl;
        let (due, stale_until) = (now + ttl * 3 / 4, fresh_until + STALE_LIMIT);
        self.kept.insert(key, Kept { value, due, fresh_until, stale_until, used: now, outage: false });
    }

    /// Drops the tenth that was used longest ago: one pass pays for a thousand inserts.
    fn evict(&mut self) {
        let mut used: Vec<Instant> = self.kept.values().map(|k| k.used).collect();
        used.sort_unstable();
        let Some(limit) = used.get(self.max / 10).copied() else { return };
        self.kept.retain(|_, k| k.used > limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(c: &mut Cache<&'static str, u8>, at: Instant) -> &'static str {
        match c.find(&"a", at) {
            Found::Fresh { due: false, .. } => "fresh",
            Found::Fresh { due: true, .. } => "due",
            Found::Stale { outage: false, .. } => "stale",
            Found::Stale { outage: true, .. } => "outage",
            Found::None => "none",
        }
    }

    #[test]
    fn fresh_due_stale_held_gone() {
        let (t, s) = (Instant::now(), Duration::from_secs);
        let mut c = Cache::new(10);
        assert!(!c.hold(&"a", t), "nothing to hold");
        c.put("a", 1, s(12), t);
        let states = [0, 8, 9, 11, 12, 20].map(|n| state(&mut c, t + s(n)));
        assert_eq!(states, ["fresh", "fresh", "due", "due", "stale", "stale"]);
        assert!(c.hold(&"a", t + s(20)));
        let states = [20, 24, 25].map(|n| state(&mut c, t + s(n)));
        assert_eq!(states, ["fresh", "fresh", "outage"], "held without asking, then asked again without waiting");
        let end = t + STALE_LIMIT + s(12);
        assert!(c.hold(&"a", end - s(1)));
        assert_eq!(state(&mut c, end), "none", "holding does not make it live for ever");
        c.put("a", 2, s(12), end);
        assert_eq!(state(&mut c, end + s(12)), "stale", "the outage is over");
    }

    #[test]
    fn bounded_and_drops_the_least_used() {
        let t = Instant::now();
        let mut c = Cache::new(100);
        for i in 0..1000u64 {
            let now = t + Duration::from_millis(i);
            c.put(i, i, Duration::from_secs(60), now);
            assert!(c.find(&0, now).into_value().is_some(), "used all the time");
            assert!(c.kept.len() <= 100);
        }
    }
}
