//! Which port pairs are free, one pool an address.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::Instant;

use super::config::even_pairs;
use super::limits::PORT_REST;

/// The pools of all addresses. Two realms on one address share a pool.
#[derive(Debug)]
pub(super) struct PortPools {
    pools: HashMap<IpAddr, PortPool>,
}

impl PortPools {
    /// A pool of `range` (both ends included) for each of `addresses`.
    pub(super) fn new(addresses: &[IpAddr], range: (u16, u16)) -> PortPools {
        let pools = addresses.iter().map(|&ip| (ip, PortPool::new(range, RandomState::new().hash_one(ip)))).collect();
        PortPools { pools }
    }

    /// An even port of `ip` that nobody of ours has, and the next one with it; `None`: all taken or resting.
    pub(super) fn take(&mut self, ip: IpAddr, now: Instant) -> Option<u16> {
        self.pools.get_mut(&ip)?.take(now)
    }

    /// Gives a pair back; it rests for [`PORT_REST`].
    pub(super) fn release(&mut self, ip: IpAddr, port: u16, now: Instant) {
        if let Some(pool) = self.pools.get_mut(&ip) {
            pool.release(port, now);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairState {
    Free,
    Taken,
    Resting,
}

/// The pairs of one address. Taken round robin from a random start, so that a pair comes back as late as possible.
#[derive(Debug)]
struct PortPool {
    first: u16,
    pairs: Vec<PairState>,
    resting: VecDeque<(Instant, u16)>,
    next: usize,
}

impl PortPool {
    fn new((first, last): (u16, u16), seed: u64) -> PortPool {
        let count = even_pairs(first, last);
        let next = usize::try_from(seed % u64::from(count.max(1))).unwrap_or(0);
        let first = first.checked_next_multiple_of(2).unwrap_or(0);
        PortPool { first, pairs: vec![PairState::Free; usize::from(count)], resting: VecDeque::new(), next }
    }

    fn take(&mut self, now: Instant) -> Option<u16> {
        while let Some(&(until, index)) = self.resting.front()
            && until <= now
        {
            self.resting.pop_front();
            self.pairs[usize::from(index)] = PairState::Free;
        }
        let count = self.pairs.len();
        let index = (0..count).map(|i| (self.next + i) % count).find(|&i| self.pairs[i] == PairState::Free)?;
        self.pairs[index] = PairState::Taken;
        self.next = (index + 1) % count;
        u16::try_from(index).ok().map(|i| self.first + 2 * i)
    }

    fn release(&mut self, port: u16, now: Instant) {
        let index = port.wrapping_sub(self.first) / 2;
        if let Some(pair) = self.pairs.get_mut(usize::from(index))
            && *pair == PairState::Taken
        {
            *pair = PairState::Resting;
            self.resting.push_back((now + PORT_REST, index));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Duration;

    #[test]
    fn every_pair_once_then_none() {
        for seed in 0..7 {
            let now = Instant::now();
            let mut pool = PortPool::new((20_001, 20_012), seed);
            let got: BTreeSet<u16> = std::iter::from_fn(|| pool.take(now)).collect();
            assert_eq!(got, BTreeSet::from([20_002, 20_004, 20_006, 20_008, 20_010]));
            assert_eq!(pool.take(now), None);
        }
    }

    #[test]
    fn the_seed_moves_the_start() {
        let now = Instant::now();
        let starts: BTreeSet<_> = (0..50).filter_map(|seed| PortPool::new((20_000, 20_099), seed).take(now)).collect();
        assert_eq!(starts.len(), 50);
    }

    #[test]
    fn a_released_pair_rests() {
        let t0 = Instant::now();
        let mut pool = PortPool::new((20_000, 20_003), 0);
        assert_eq!((pool.take(t0), pool.take(t0)), (Some(20_000), Some(20_002)));
        pool.release(20_002, t0);
        pool.release(20_002, t0); // twice is once
        assert_eq!(pool.take(t0 + PORT_REST - Duration::from_millis(1)), None);
        assert_eq!(pool.take(t0 + PORT_REST), Some(20_002));
        assert_eq!(pool.take(t0 + 2 * PORT_REST), None);
    }

    #[test]
    fn the_whole_range_fits() {
        let now = Instant::now();
        let mut pool = PortPool::new((1_024, 65_535), 3);
        let got: BTreeSet<u16> = std::iter::from_fn(|| pool.take(now)).collect();
        assert_eq!(got.len(), 32_256);
        assert_eq!(got.last(), Some(&65_534));
    }

    #[test]
    fn one_address_in_both_realms_has_one_pool() {
        let ip: IpAddr = [127, 0, 42, 1].into();
        let now = Instant::now();
        let mut pools = PortPools::new(&[ip, ip], (20_000, 20_001));
        assert_eq!(pools.take(ip, now), Some(20_000));
        assert_eq!(pools.take(ip, now), None);
        assert_eq!(pools.take([127, 0, 42, 9].into(), now), None);
    }
}
