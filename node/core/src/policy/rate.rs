//! How many initial requests one source, or one trunk, may send: a token bucket each.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::Prefix;
use crate::time::Instant;

/// Sources remembered at once; beyond it new ones are let through, for a flood from everywhere is not stopped by source.
const MAX_SOURCES: usize = 65_536;
/// A source may send this many seconds' worth at once.
const BURST_SECONDS: f64 = 2.0;
/// A source that was silent for so long has a full bucket again, whatever the rate.
const FORGET_AFTER: Duration = Duration::from_secs(10);

/// The buckets, by network or by name.
#[derive(Debug)]
pub struct Rates<K> {
    buckets: HashMap<K, (f64, Instant)>,
}

/// By source ([`Prefix::of_source`]).
#[derive(Debug, Default)]
pub struct SourceRates(Rates<IpAddr>);

impl SourceRates {
    /// True when the source may send one more. `rate`: a second; 0: no limit.
    pub fn admit(&mut self, now: Instant, source: IpAddr, rate: u32) -> bool {
        self.0.admit(now, Prefix::of_source(source).addr, rate)
    }

    /// Whether it may, without taking anything of it.
    pub fn has_room(&self, now: Instant, source: IpAddr, rate: u32) -> bool {
        self.0.has_room(now, &Prefix::of_source(source).addr, rate)
    }

    /// Forgets silent sources.
    pub fn sweep(&mut self, now: Instant) {
        self.0.sweep(now);
    }
}

impl<K> Default for Rates<K> {
    fn default() -> Rates<K> {
        Rates { buckets: HashMap::new() }
    }
}

impl<K: Eq + Hash> Rates<K> {
    /// True when the source may send one more. `rate`: a second; 0: no limit.
    pub fn admit(&mut self, now: Instant, source: K, rate: u32) -> bool {
        if rate == 0 {
            return true;
        }
        let full = f64::from(rate) * BURST_SECONDS;
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&source) {
            return true;
        }
        let (tokens, last) = self.buckets.entry(source).or_insert((full, now));
        *tokens = (*tokens + now.since(*last).as_secs_f64() * f64::from(rate)).min(full);
        *last = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    /// Whether it may, without taking anything of it.
    pub fn has_room<Q: Eq + Hash + ?Sized>(&self, now: Instant, source: &Q, rate: u32) -> bool
    where
        K: Borrow<Q>,
    {
        let enough = |(tokens, last): &(f64, Instant)| tokens + now.since(*last).as_secs_f64() * f64::from(rate) >= 1.0;
        rate == 0 || self.buckets.get(source).is_none_or(enough)
    }

    /// Forgets silent sources.
    pub fn sweep(&mut self, now: Instant) {
        self.buckets.retain(|_, (_, last)| now.since(*last) < FORGET_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host with a /64 is one source, as which address of it whatever it sends.
    #[test]
    fn a_source_is_a_line_and_not_an_address() {
        for (first, other, one) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:1:2:3", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("::ffff:198.18.10.1", "198.18.10.1", true),
            ("::ffff:198.18.10.1", "::ffff:198.18.10.2", false),
            ("198.18.10.1", "198.18.10.2", false),
        ] {
            let mut rates = SourceRates::default();
            let now = Instant::from_micros(0);
            let (first, other) = (first.parse().unwrap(), other.parse().unwrap());
            assert_eq!((0..9).filter(|_| rates.admit(now, first, 1)).count(), 2);
            assert_eq!(rates.admit(now, other, 1), !one, "{first} {other}");
        }
    }

    #[test]
    fn a_source_gets_its_rate_and_no_more() {
        let mut rates = SourceRates::default();
        let ip = "127.0.0.1".parse().unwrap();
        let at = |ms: u64| Instant::from_micros(ms * 1000);
        let burst = (0..100).filter(|_| rates.admit(at(0), ip, 10)).count();
        assert_eq!(burst, 20);
        let admit = |rates: &mut SourceRates, at| {
            let room = rates.has_room(at, ip, 10);
            assert_eq!(room, rates.has_room(at, ip, 10), "to look takes nothing");
            assert_eq!(rates.admit(at, ip, 10), room);
            room
        };
        let second = (0..1000).filter(|i| admit(&mut rates, at(1 + i))).count();
        assert!((9..=11).contains(&second), "{second}");
        assert!(rates.admit(at(0), "127.0.0.2".parse().unwrap(), 10), "another source is not concerned");
        assert!((0..100).all(|_| rates.admit(at(5), ip, 0)), "0 is no limit");
        rates.sweep(at(60_000));
        assert!(rates.0.buckets.is_empty());
    }
}
