//! What waits, served by source in turns: a source that sends little does not wait for one that sends much.
//!
//! As FQ-CoDel does with flows (RFC 8290 §4): who had nothing waiting comes first, the others take turns. The room is bounded, and
//! what finds none costs the source its oldest that has the most waiting, whoever came last.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;

use super::Prefix;

/// Sources with nothing before that are served in a row, before one of the others is: a flood of ever new sources must not starve
/// those that have been waiting.
const FRESH_RUN: u32 = 8;

/// Items that wait, each of a source ([`Prefix::of_source`]).
#[derive(Debug)]
pub struct FairQueue<T> {
    most: usize,
    len: usize,
    lossy: usize,
    lines: HashMap<IpAddr, SourceLine<T>>,
    /// Sources that had nothing waiting when their first one came.
    fresh: VecDeque<IpAddr>,
    /// The others in turn, among them some of which nothing waits any more.
    rounds: VecDeque<IpAddr>,
    fresh_run: u32,
    /// Sources by how much of theirs may be dropped, for their weight; of equals those that have been here longest come last.
    longest: BTreeSet<(u32, Reverse<u64>, IpAddr)>,
    /// Sources of which nothing waits any more.
    idle: usize,
    came: u64,
}

#[derive(Debug)]
struct SourceLine<T> {
    items: VecDeque<(T, bool)>,
    /// How many of them may be dropped.
    lossy: u32,
    weight: u32,
    /// How many more it may have in this round.
    credit: u32,
    /// The how manyth source it is.
    came: u64,
}

impl<T> SourceLine<T> {
    fn length(&self) -> u32 {
        // Finer than whole shares, so that of two neighbours too the one with more is found.
        self.lossy.saturating_mul(64) / self.weight
    }
}

impl<T> FairQueue<T> {
    /// For so many items that may be dropped.
    pub fn new(most: usize) -> FairQueue<T> {
        FairQueue {
            most: most.max(1),
            len: 0,
            lossy: 0,
            lines: HashMap::new(),
            fresh: VecDeque::new(),
            rounds: VecDeque::new(),
            fresh_run: 0,
            longest: BTreeSet::new(),
            idle: 0,
            came: 0,
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many sources have something waiting, or had lately.
    pub fn sources(&self) -> usize {
        self.lines.len()
    }

    /// One more of this source; returns what had to go for it. `weight`: how many sources this one is worth, at least one.
    /// `lossy`: it may be dropped; what may not is bounded by whoever brings it.
    pub fn push(&mut self, source: IpAddr, weight: u32, lossy: bool, item: T) -> Option<T> {
        let key = Prefix::of_source(source).addr;
        let weight = weight.max(1);
        let (fresh, idle, came) = (&mut self.fresh, &mut self.idle, &mut self.came);
        let line = self.lines.entry(key).or_insert_with(|| {
            fresh.push_back(key);
            (*idle, *came) = (*idle + 1, *came + 1);
            SourceLine { items: VecDeque::new(), lossy: 0, weight, credit: weight, came: *came }
        });
        let before = line.length();
        *idle -= usize::from(line.items.is_empty());
        line.items.push_back((item, lossy));
        line.lossy += u32::from(lossy);
        let after = line.length();
        self.len += 1;
        self.lossy += usize::from(lossy);
        let came = line.came;
        self.measure(key, came, before, after);
        if self.idle > self.most {
            self.forget_idle();
        }
        if self.lossy > self.most { self.drop_one() } else { None }
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<T> {
        while self.len > 0 {
            let run = self.fresh_run < FRESH_RUN || self.rounds.is_empty();
            if let Some(key) = self.fresh.front().copied().filter(|_| run) {
                if let Some(item) = self.take(key) {
                    self.fresh_run += 1;
                    return Some(item);
                }
                // It has had its share, or waits for nothing: it goes on in turn, so that coming back is no way to be first again.
                self.fresh.pop_front();
                self.rounds.push_back(key);
                continue;
            }
            self.fresh_run = 0;
            let Some(key) = self.rounds.pop_front() else { continue };
            let Some(line) = self.lines.get_mut(&key) else { continue };
            if line.items.is_empty() {
                self.lines.remove(&key);
                self.idle -= 1;
                continue;
            }
            if line.credit == 0 {
                line.credit = line.weight;
                self.rounds.push_back(key);
                continue;
            }
            self.rounds.push_front(key);
            return self.take(key);
        }
        None
    }

    fn take(&mut self, key: IpAddr) -> Option<T> {
        let line = self.lines.get_mut(&key).filter(|line| line.credit > 0)?;
        let before = line.length();
        let (item, lossy) = line.items.pop_front()?;
        line.credit -= 1;
        line.lossy -= u32::from(lossy);
        let (after, came) = (line.length(), line.came);
        self.idle += usize::from(line.items.is_empty());
        self.len -= 1;
        self.lossy -= usize::from(lossy);
        self.measure(key, came, before, after);
        Some(item)
    }

    /// The oldest of the source that has the most waiting.
    fn drop_one(&mut self) -> Option<T> {
        let &(_, _, key) = self.longest.last()?;
        let line = self.lines.get_mut(&key)?;
        let before = line.length();
        let at = line.items.iter().position(|(_, lossy)| *lossy)?;
        let (item, _) = line.items.remove(at)?;
        line.lossy -= 1;
        let (after, came) = (line.length(), line.came);
        self.idle += usize::from(line.items.is_empty());
        self.len -= 1;
        self.lossy -= 1;
        self.measure(key, came, before, after);
        Some(item)
    }

    fn measure(&mut self, key: IpAddr, came: u64, before: u32, after: u32) {
        if before != after {
            self.longest.remove(&(before, Reverse(came), key));
            if after > 0 {
                self.longest.insert((after, Reverse(came), key));
            }
        }
    }

    /// What is remembered of sources that have nothing waiting.
    fn forget_idle(&mut self) {
        self.lines.retain(|_, line| !line.items.is_empty());
        let lines = &self.lines;
        self.fresh.retain(|key| lines.contains_key(key));
        self.rounds.retain(|key| lines.contains_key(key));
        self.idle = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, n])
    }

    fn rest(queue: &mut FairQueue<&'static str>) -> String {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn sources_take_turns_and_each_keeps_its_order() {
        let mut queue = FairQueue::new(100);
        for (source, item) in [(1, "a"), (1, "b"), (1, "c"), (2, "x"), (2, "y"), (3, "m")] {
            assert_eq!(queue.push(ip(source), 1, true, item), None);
        }
        assert_eq!(queue.len(), 6);
        assert_eq!(rest(&mut queue), "axmbyc");
        assert!(queue.is_empty());
    }

    #[test]
    fn who_had_nothing_waiting_comes_first_but_not_by_coming_back() {
        let mut queue = FairQueue::new(100);
        for item in ["a", "b", "c", "d"] {
            queue.push(ip(1), 1, true, item);
        }
        assert_eq!(queue.pop(), Some("a"));
        assert_eq!(queue.pop(), Some("b"));
        queue.push(ip(2), 1, true, "x");
        assert_eq!(queue.pop(), Some("x"), "new");
        queue.push(ip(2), 1, true, "y");
        assert_eq!(rest(&mut queue), "cyd", "in turn");
    }

    #[test]
    fn a_neighbour_weighs_more() {
        let mut queue = FairQueue::new(100);
        for item in ["a", "b", "c"] {
            queue.push(ip(1), 1, true, item);
        }
        for item in ["1", "2", "3", "4", "5", "6"] {
            queue.push(ip(2), 3, true, item);
        }
        assert_eq!(rest(&mut queue), "a123b456c");
    }

    #[test]
    fn what_finds_no_room_costs_the_heaviest_its_oldest() {
        let mut queue = FairQueue::new(4);
        for item in ["a", "b", "c", "d"] {
            assert_eq!(queue.push(ip(1), 1, true, item), None);
        }
        assert_eq!(queue.push(ip(2), 1, true, "x"), Some("a"), "another source's");
        assert_eq!(queue.push(ip(1), 1, true, "e"), Some("b"), "its own");
        assert_eq!(queue.push(ip(2), 1, true, "y"), Some("c"));
        assert_eq!(queue.push(ip(3), 1, false, "t"), None, "what may not be dropped finds room");
        assert_eq!(rest(&mut queue), "dxtey");
        let mut queue = FairQueue::new(4);
        for item in ["1", "2", "3"] {
            queue.push(ip(1), 8, true, item);
        }
        for (item, dropped) in [("x", None), ("y", Some("x"))] {
            assert_eq!(
                queue.push(ip(2), 1, true, item),
                dropped,
                "a neighbour with three has less for its weight than a caller with one"
            );
        }
    }

    /// A flood of ever new sources: those that wait get their turn all the same, and what is remembered is bounded.
    #[test]
    fn ever_new_sources_starve_nobody_and_cost_no_memory() {
        let mut queue = FairQueue::new(1000);
        for _ in 0..3 {
            queue.push(ip(1), 1, true, 0);
        }
        queue.pop();
        let mut served = 0;
        for n in 1..=100_000u32 {
            queue.push(IpAddr::from(n.to_be_bytes()), 1, true, n);
            if n % 2 == 0 {
                served += u32::from(queue.pop() == Some(0));
            }
            assert!(queue.len() <= 1000 && queue.sources() <= 2100, "{} {}", queue.len(), queue.sources());
        }
        assert_eq!(served, 2);
        while queue.pop().is_some() {}
        queue.push(ip(1), 1, true, 7);
        assert_eq!(queue.pop(), Some(7));
        assert!(queue.longest.is_empty());
    }

    #[test]
    fn a_line_is_one_source() {
        let mut queue = FairQueue::new(100);
        for (source, item) in [("2001:db8::1", "a"), ("2001:db8::2", "b"), ("2001:db8:0:1::1", "x")] {
            queue.push(source.parse().unwrap(), 1, true, item);
        }
        assert_eq!(rest(&mut queue), "axb");
    }
}
