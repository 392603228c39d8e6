//! Which port pairs are free, one pool an address.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use super::config::even_pairs;
use super::limits::{PORT_REST, reserve_of};

/// The pools of all addresses. Two realms on one address share a pool.
#[derive(Debug)]
pub(super) struct PortPools {
    pools: HashMap<IpAddr, PortPool>,
}

impl PortPools {
    /// A pool of `range` (both ends included) for each of `addresses`.
    pub(super) fn new(addresses: &[IpAddr], range: (u16, u16), now: Instant) -> PortPools {
        // A start that others know is a start all the same.
        let pool = || PortPool::new(range, getrandom::u64().unwrap_or(0), now);
        PortPools { pools: addresses.iter().map(|ip| (*ip, pool())).collect() }
    }

    /// An even port of `ip` that nobody of ours has, and the next one with it; `None`: all taken or resting, or the rest is kept for
    /// `urgent` ones.
    pub(super) fn take(&mut self, ip: IpAddr, urgent: bool, now: Instant) -> Option<u16> {
        self.pools.get_mut(&ip)?.take(urgent, now)
    }

    /// Gives a pair back; it rests for [`PORT_REST`].
    pub(super) fn release(&mut self, ip: IpAddr, port: u16, now: Instant) {
        if let Some(pool) = self.pools.get_mut(&ip) {
            pool.release(port, now);
        }
    }

    /// Pairs of the address that has the fewest free: how many there are, and how many are not taken.
    pub(super) fn room(&self) -> (usize, usize) {
        let all = self.pools.values().map(|pool| (pool.taken.len(), pool.free.len()));
        all.min_by_key(|(_, free)| *free).unwrap_or_default()
    }
}

/// The pairs of one address. Whoever was given back first is taken first, from a random start, so that a pair comes back as late as
/// possible; nothing is looked for.
#[derive(Debug)]
struct PortPool {
    first: u16,
    /// By pair.
    taken: Vec<bool>,
    /// The others, and from when on each has rested. Times rise.
    free: VecDeque<(Instant, u16)>,
}

impl PortPool {
    fn new((first, last): (u16, u16), seed: u64, now: Instant) -> PortPool {
        let count = even_pairs(first, last);
        let start = u16::try_from(seed % u64::from(count.max(1))).unwrap_or(0);
        let first = first.checked_next_multiple_of(2).unwrap_or(0);
        let free = (start..count).chain(0..start).map(|index| (now, index)).collect();
        PortPool { first, taken: vec![false; usize::from(count)], free }
    }

    fn take(&mut self, urgent: bool, now: Instant) -> Option<u16> {
        if !urgent && self.free.len() <= reserve_of(self.taken.len()) {
            return None;
        }
        // Late packets of the old call are the smaller evil for one that has no other port.
        let (_, index) = *self.free.front().filter(|(from, _)| *from <= now || urgent)?;
        self.free.pop_front();
        self.taken[usize::from(index)] = true;
        Some(self.first + 2 * index)
    }

    fn release(&mut self, port: u16, now: Instant) {
        let index = port.wrapping_sub(self.first) / 2;
        if let Some(taken) = self.taken.get_mut(usize::from(index))
            && std::mem::take(taken)
        {
            self.free.push_back((now + PORT_REST, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    /// All that one who is urgent gets.
    fn all(pool: &mut PortPool, now: Instant) -> BTreeSet<u16> {
        std::iter::from_fn(|| pool.take(true, now)).collect()
    }

    #[test]
    fn every_pair_once_then_none() {
        for seed in 0..7 {
            let now = Instant::now();
            let mut pool = PortPool::new((20_001, 20_012), seed, now);
            assert_eq!(all(&mut pool, now), BTreeSet::from([20_002, 20_004, 20_006, 20_008, 20_010]));
            assert_eq!(pool.take(true, now), None);
        }
    }

    #[test]
    fn the_seed_moves_the_start() {
        let now = Instant::now();
        let starts: BTreeSet<_> =
            (0..50).filter_map(|seed| PortPool::new((20_000, 20_099), seed, now).take(false, now)).collect();
        assert_eq!(starts.len(), 50);
    }

    #[test]
    fn a_released_pair_rests_unless_it_is_urgent() {
        let t0 = Instant::now();
        let mut pool = PortPool::new((20_000, 20_003), 0, t0);
        assert_eq!((pool.take(false, t0), pool.take(false, t0)), (Some(20_000), Some(20_002)));
        pool.release(20_002, t0);
        pool.release(20_002, t0); // twice is once
        assert_eq!(pool.take(false, t0 + PORT_REST - Duration::from_millis(1)), None);
        assert_eq!(pool.take(false, t0 + PORT_REST), Some(20_002));
        assert_eq!(pool.take(true, t0 + 2 * PORT_REST), None);
        pool.release(20_000, t0 + 2 * PORT_REST);
        assert_eq!(pool.take(false, t0 + 2 * PORT_REST), None);
        assert_eq!(pool.take(true, t0 + 2 * PORT_REST), Some(20_000));
    }

    /// However fast calls come and go, a pair comes back only when all others had their turn.
    #[test]
    fn the_one_that_rested_longest_is_next() {
        let mut now = Instant::now();
        let mut pool = PortPool::new((20_000, 20_199), 5, now);
        let mut last: HashMap<u16, usize> = HashMap::new();
        for turn in 0..1_000 {
            now += PORT_REST;
            let port = pool.take(false, now).expect("one is free");
            assert!(last.insert(port, turn).is_none_or(|before| turn - before == 100), "{port}");
            pool.release(port, now);
        }
    }

    #[test]
    fn the_last_pairs_are_kept_for_emergency_calls() {
        let now = Instant::now();
        let mut pool = PortPool::new((20_000, 20_159), 9, now);
        let ordinary = std::iter::from_fn(|| pool.take(false, now)).count();
        assert_eq!((ordinary, reserve_of(80)), (70, 10));
        assert_eq!(all(&mut pool, now).len(), 10);
    }

    #[test]
    fn the_whole_range_fits() {
        let now = Instant::now();
        let mut pool = PortPool::new((1_024, 65_535), 3, now);
        let got = all(&mut pool, now);
        assert_eq!(got.len(), 32_256);
        assert_eq!(got.last(), Some(&65_534));
    }

    #[test]
    fn one_address_in_both_realms_has_one_pool() {
        let ip: IpAddr = [127, 0, 42, 1].into();
        let now = Instant::now();
        let mut pools = PortPools::new(&[ip, ip], (20_000, 20_001), now);
        assert_eq!(pools.room(), (1, 1));
        assert_eq!(pools.take(ip, false, now), Some(20_000));
        assert_eq!((pools.take(ip, true, now), pools.room()), (None, (1, 0)));
        assert_eq!(pools.take([127, 0, 42, 9].into(), true, now), None);
    }
}
