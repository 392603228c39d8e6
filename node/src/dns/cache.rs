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

struct Kept<V> {
    value: V,
    fresh_until: Instant,
    stale_until: Instant,
    used: Instant,
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

    /// An answer within its time to live.
    pub(super) fn fresh(&mut self, key: &K, now: Instant) -> Option<V> {
        let kept = self.kept.get_mut(key).filter(|k| now < k.fresh_until)?;
        kept.used = now;
        Some(kept.value.clone())
    }

    /// An answer past its time, for when servers do not answer; it then counts as fresh for a little.
    pub(super) fn stale(&mut self, key: &K, now: Instant) -> Option<V> {
        let kept = self.kept.get_mut(key).filter(|k| now < k.stale_until)?;
        kept.used = now;
        kept.fresh_until = kept.fresh_until.max(now + STALE_HOLD);
        Some(kept.value.clone())
    }

    pub(super) fn put(&mut self, key: K, value: V, ttl: Duration, now: Instant) {
        if self.kept.len() >= self.max && !self.kept.contains_key(&key) {
            self.evict();
        }
        let fresh_until = now + ttl;
        self.kept.insert(key, Kept { value, fresh_until, stale_until: fresh_until + STALE_LIMIT, used: now });
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

    #[test]
    fn fresh_stale_gone() {
        let (t, s) = (Instant::now(), Duration::from_secs);
        let mut c = Cache::new(10);
        c.put("a", 1, s(10), t);
        assert_eq!(c.fresh(&"a", t + s(9)), Some(1));
        assert_eq!(c.fresh(&"a", t + s(10)), None);
        assert_eq!(c.stale(&"a", t + s(20)), Some(1));
        assert_eq!(c.fresh(&"a", t + s(24)), Some(1), "held without asking again");
        assert_eq!(c.fresh(&"a", t + s(25)), None);
        assert_eq!(c.stale(&"a", t + STALE_LIMIT + s(10)), None);
    }

    #[test]
    fn bounded_and_drops_the_least_used() {
        let t = Instant::now();
        let mut c = Cache::new(100);
        for i in 0..1000u64 {
            let now = t + Duration::from_millis(i);
            c.put(i, i, Duration::from_secs(60), now);
            assert!(c.fresh(&0, now).is_some(), "used all the time");
            assert!(c.kept.len() <= 100);
        }
    }
}
