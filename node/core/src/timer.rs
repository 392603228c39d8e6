//! Timers: a hierarchical wheel at a granularity of one millisecond.
//!
//! Ten levels of 64 slots, each slot of a level as long as the whole level below it, so that every instant of the 64-bit
//! microsecond clock has its slot and nothing is ever clamped. Level 0 holds single milliseconds. A timer sits at the level
//! of the highest 6-bit group in which its tick differs from the wheel's position; when the position enters a slot of a higher
//! level, the timers in it move down. Each timer moves at most nine times; insertion and cancellation are O(1).
//!
//! What it keeps true: no timer fires before its deadline; timers fire in the order of their deadlines rounded up to
//! milliseconds, those of one millisecond in the order of insertion; a [`TimerId`] that fired or was cancelled is never
//! mistaken for a later timer. How many timers there may be is the owner's limit: each one belongs to something that is limited.

use crate::time::Instant;

/// Bits of the tick that one level resolves.
const LEVEL_BITS: usize = 6;
/// Slots of a level: one bit each in a `u64`.
const SLOTS: usize = 1 << LEVEL_BITS;
/// 10 levels resolve 60 bits; `u64::MAX` microseconds are fewer than 2^55 ticks.
const LEVELS: usize = 10;
/// Microseconds in a tick.
const TICK_US: u64 = 1000;
/// "No node" in the links.
const NIL: u32 = u32::MAX;

/// Names one inserted timer. Stale ids are harmless: the generation tells them from a later timer in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerId {
    index: u32,
    generation: u32,
}

impl TimerId {
    /// The same timer, where two wheels give out ids: `lane` is 0 or 1.
    pub(crate) fn in_lane(self, lane: usize) -> TimerId {
        TimerId { index: self.index << 1 | u32::from(lane != 0), ..self }
    }

    /// What [`TimerId::in_lane`] was given: the lane, and the id in its wheel.
    pub(crate) fn lane(self) -> (usize, TimerId) {
        (usize::from(self.index & 1 == 1), TimerId { index: self.index >> 1, ..self })
    }
}

#[derive(Debug)]
struct Node<K> {
    /// `None`: the node is free.
    key: Option<K>,
    tick: u64,
    generation: u32,
    prev: u32,
    /// The next node of the slot, or of the free list.
    next: u32,
    slot: SlotAt,
}

#[derive(Clone, Copy, Debug)]
struct SlotAt {
    level: usize,
    slot: usize,
}

/// A list of nodes in the order of insertion.
#[derive(Clone, Copy, Debug)]
struct Slot {
    head: u32,
    tail: u32,
    /// No tick in the slot is below it; the lowest one unless that was cancelled.
    earliest: u64,
}

const EMPTY_SLOT: Slot = Slot { head: NIL, tail: NIL, earliest: u64::MAX };

/// Timers, each with a payload that is handed back when it fires.
#[derive(Debug)]
pub struct TimerWheel<K> {
    origin: Instant,
    /// The wheel's position: no timer's tick is below it.
    elapsed: u64,
    nodes: Vec<Node<K>>,
    free: u32,
    len: usize,
    slots: Box<[[Slot; SLOTS]]>,
    /// One bit for each slot that has timers.
    occupied: [u64; LEVELS],
}

impl<K> TimerWheel<K> {
    /// An empty wheel. Instants before `origin` count as `origin`.
    pub fn new(origin: Instant) -> TimerWheel<K> {
        TimerWheel {
            origin,
            elapsed: 0,
            nodes: Vec::new(),
            free: NIL,
            len: 0,
            slots: vec![[EMPTY_SLOT; SLOTS]; LEVELS].into_boxed_slice(),
            occupied: [0; LEVELS],
        }
    }

    /// Live timers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where no timer is set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets a timer. A deadline that has passed is due at once, after those already due.
    pub fn insert(&mut self, deadline: Instant, key: K) -> TimerId {
        let micros = deadline.as_micros().saturating_sub(self.origin.as_micros());
        let tick = micros.div_ceil(TICK_US).max(self.elapsed);
        let index = self.allocate(tick, key);
        self.link(index);
        self.len += 1;
        TimerId { index, generation: self.node(index).generation }
    }

    /// Takes a timer back. `None`: it has fired or was cancelled before.
    pub fn cancel(&mut self, id: TimerId) -> Option<K> {
        let node = self.nodes.get(id.index as usize)?;
        if node.generation != id.generation {
            return None;
        }
        self.take(id.index)
    }

    /// The next timer that is due at `now`; call until `None`. After `None`, [`Self::next_deadline`] is later than `now`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<K> {
        let now = now.as_micros().saturating_sub(self.origin.as_micros()) / TICK_US;
        loop {
            let first = self.first_slot().map(|at| (at, self.start_of(at)));
            let Some((at, start)) = first.filter(|&(_, start)| start <= now) else {
                self.elapsed = self.elapsed.max(now);
                return None;
            };
            self.elapsed = start;
            if at.level == 0 {
                return self.take(self.slots[0][at.slot].head);
            }
            self.cascade(at);
        }
    }

    /// When [`Self::pop_expired`] is next worth calling: the earliest deadline, rounded up to a millisecond. It may be earlier
    /// than that where the earliest timer was cancelled, never later. Changes with every call that takes `&mut self`.
    pub fn next_deadline(&self) -> Option<Instant> {
        let at = self.first_slot()?;
        let micros = self.slots[at.level][at.slot].earliest.saturating_mul(TICK_US);
        Some(Instant::from_micros(self.origin.as_micros().saturating_add(micros)))
    }

    /// The slot with the earliest timers. Those of a lower level are all before those of a higher one, because all of them
    /// share the groups above their level with the position.
    fn first_slot(&self) -> Option<SlotAt> {
        let level = self.occupied.iter().position(|&bits| bits != 0)?;
        Some(SlotAt { level, slot: self.occupied[level].trailing_zeros() as usize })
    }

    /// The first tick of a slot in the present turn of its level.
    fn start_of(&self, at: SlotAt) -> u64 {
        let turn = (1u64 << (LEVEL_BITS * (at.level + 1))) - 1;
        (self.elapsed & !turn) | ((at.slot as u64) << (LEVEL_BITS * at.level))
    }

    /// Moves the timers of a slot that the position has entered to lower levels, keeping their order.
    fn cascade(&mut self, at: SlotAt) {
        let mut index = self.slots[at.level][at.slot].head;
        self.clear(at);
        while index != NIL {
            let next = self.node(index).next;
            self.link(index);
            index = next;
        }
    }

    fn clear(&mut self, at: SlotAt) {
        self.slots[at.level][at.slot] = EMPTY_SLOT;
        self.occupied[at.level] &= !(1 << at.slot);
    }

    /// Appends a node to the slot of its tick.
    fn link(&mut self, index: u32) {
        let tick = self.node(index).tick;
        let differ = tick ^ self.elapsed;
        let level = (63 - (differ | 1).leading_zeros() as usize) / LEVEL_BITS;
        let at = SlotAt { level, slot: ((tick >> (LEVEL_BITS * level)) & 63) as usize };
        let tail = self.slots[at.level][at.slot].tail;
        let node = self.node_mut(index);
        (node.prev, node.next, node.slot) = (tail, NIL, at);
        if tail != NIL {
            self.node_mut(tail).next = index;
        }
        let slot = &mut self.slots[at.level][at.slot];
        if tail == NIL {
            slot.head = index;
        }
        slot.tail = index;
        slot.earliest = slot.earliest.min(tick);
        self.occupied[at.level] |= 1 << at.slot;
    }

    /// Unlinks and frees a node. `None`: it is free already.
    fn take(&mut self, index: u32) -> Option<K> {
        let free = self.free;
        let node = self.node_mut(index);
        let key = node.key.take()?;
        let (prev, next, at) = (node.prev, node.next, node.slot);
        node.generation = node.generation.wrapping_add(1);
        node.next = free;
        self.free = index;
        self.len -= 1;
        if prev == NIL {
            self.slots[at.level][at.slot].head = next;
        } else {
            self.node_mut(prev).next = next;
        }
        if next == NIL {
            self.slots[at.level][at.slot].tail = prev;
        } else {
            self.node_mut(next).prev = prev;
        }
        if self.slots[at.level][at.slot].head == NIL {
            self.clear(at);
        }
        Some(key)
    }

    fn allocate(&mut self, tick: u64, key: K) -> u32 {
        if self.free != NIL {
            let index = self.free;
            let node = self.node_mut(index);
            let next_free = node.next;
            (node.key, node.tick) = (Some(key), tick);
            self.free = next_free;
            return index;
        }
        let index = u32::try_from(self.nodes.len()).ok().filter(|&i| i != NIL).expect("owners hold far fewer than 2^32 timers");
        let slot = SlotAt { level: 0, slot: 0 };
        self.nodes.push(Node { key: Some(key), tick, generation: 0, prev: NIL, next: NIL, slot });
        index
    }

    fn node(&self, index: u32) -> &Node<K> {
        &self.nodes[index as usize]
    }

    fn node_mut(&mut self, index: u32) -> &mut Node<K> {
        &mut self.nodes[index as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn us(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    fn ms(ms: u64) -> Instant {
        us(ms * 1000)
    }

    /// splitmix64.
    struct Rng(u64);

    impl Rng {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
    }

    #[test]
    fn never_early_and_at_most_a_millisecond_late() {
        let mut wheel = TimerWheel::new(us(17));
        wheel.insert(us(5018), "a");
        assert_eq!(wheel.next_deadline(), Some(us(6017)));
        assert_eq!(wheel.pop_expired(us(5018)), None);
        assert_eq!(wheel.pop_expired(us(6016)), None);
        assert_eq!(wheel.pop_expired(us(6017)), Some("a"));
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn one_millisecond_keeps_the_order_of_insertion() {
        let mut wheel = TimerWheel::new(ms(0));
        wheel.insert(ms(5000), 1);
        wheel.insert(ms(5000), 2);
        assert_eq!(wheel.pop_expired(ms(4990)), None);
        wheel.insert(ms(5000), 3);
        wheel.insert(ms(4995), 0);
        for expected in 0..4 {
            assert_eq!(wheel.pop_expired(ms(9000)), Some(expected));
        }
        assert_eq!(wheel.pop_expired(ms(9000)), None);
    }

    #[test]
    fn a_past_deadline_is_due_at_once() {
        let mut wheel = TimerWheel::new(ms(0));
        assert_eq!(wheel.pop_expired(ms(100_000)), None);
        wheel.insert(ms(3), "late");
        assert_eq!(wheel.next_deadline(), Some(ms(100_000)));
        assert_eq!(wheel.pop_expired(ms(100_000)), Some("late"));
    }

    #[test]
    fn a_clock_that_steps_back_is_borne() {
        let mut wheel = TimerWheel::new(ms(0));
        wheel.insert(ms(110), "later");
        assert_eq!(wheel.pop_expired(ms(100)), None);
        assert_eq!(wheel.pop_expired(ms(50)), None);
        wheel.insert(ms(70), "late");
        assert_eq!(wheel.next_deadline(), Some(ms(100)));
        assert_eq!(wheel.pop_expired(ms(99)), None);
        assert_eq!(wheel.pop_expired(ms(110)), Some("late"));
        assert_eq!(wheel.pop_expired(ms(110)), Some("later"));
    }

    #[test]
    fn stale_ids_touch_nothing() {
        let mut wheel = TimerWheel::new(ms(0));
        let old = wheel.insert(ms(1), "old");
        assert_eq!(wheel.cancel(old), Some("old"));
        assert_eq!(wheel.cancel(old), None);
        let fresh = wheel.insert(ms(2), "fresh");
        assert_eq!(fresh.index, old.index);
        assert_eq!(wheel.cancel(old), None);
        assert_eq!(wheel.len(), 1);
        assert_eq!(wheel.pop_expired(ms(2)), Some("fresh"));
        assert_eq!(wheel.cancel(fresh), None);
    }

    #[test]
    fn the_far_ends_of_the_clock_are_held() {
        let mut wheel = TimerWheel::new(ms(0));
        wheel.insert(us(u64::MAX), "end");
        wheel.insert(us(1 << 60), "far");
        wheel.insert(us(0), "now");
        assert_eq!(wheel.pop_expired(us(0)), Some("now"));
        assert_eq!(wheel.pop_expired(us((1 << 60) - 1000)), None);
        assert_eq!(wheel.pop_expired(us((1 << 60) + 1000)), Some("far"));
        assert_eq!(wheel.pop_expired(us(u64::MAX - 2000)), None);
        assert_eq!(wheel.next_deadline(), Some(us(u64::MAX)));
        assert_eq!(wheel.len(), 1);
    }

    /// What the wheel should do, by the plainest means.
    #[derive(Default)]
    struct Model {
        floor: u64,
        live: BTreeMap<(u64, u64), TimerId>,
    }

    fn run_against_model(seed: u64) {
        let origin = us(seed % 5000);
        let mut rng = Rng(seed);
        let mut wheel = TimerWheel::new(origin);
        let mut model = Model::default();
        let mut now = origin.as_micros();
        let mut ids: Vec<(TimerId, (u64, u64))> = Vec::new();
        let mut cancelled = false;
        for serial in 0..3000 {
            match rng.below(10) {
                0..=4 => {
                    let span = 1 << rng.below(38);
                    let deadline = (now + rng.below(span)).saturating_sub(rng.below(3000));
                    let tick = deadline.saturating_sub(origin.as_micros()).div_ceil(1000).max(model.floor);
                    let id = wheel.insert(us(deadline), (tick, serial));
                    model.live.insert((tick, serial), id);
                    ids.push((id, (tick, serial)));
                }
                5..=6 if !ids.is_empty() => {
                    let (id, key) = ids[usize::try_from(rng.next()).unwrap() % ids.len()];
                    assert_eq!(wheel.cancel(id), model.live.remove(&key).map(|_| key), "seed {seed}");
                    cancelled = true;
                }
                7 => {
                    let due = model.live.keys().next().copied().filter(|&(tick, _)| tick <= (now - origin.as_micros()) / 1000);
                    assert_eq!(wheel.pop_expired(us(now)), due, "seed {seed}");
                    model.floor = due.map_or(model.floor.max((now - origin.as_micros()) / 1000), |(tick, _)| tick);
                    due.map(|key| model.live.remove(&key));
                }
                _ => {
                    let span = 1 << rng.below(34);
                    now += rng.below(span);
                    drain(&mut wheel, &mut model, origin, now, seed);
                }
            }
            assert_eq!(wheel.len(), model.live.len(), "seed {seed}");
            let earliest = model.live.keys().next().map(|&(tick, _)| us(origin.as_micros() + tick * 1000));
            if cancelled {
                assert!(wheel.next_deadline() <= earliest && wheel.next_deadline().is_some() == earliest.is_some());
            } else {
                assert_eq!(wheel.next_deadline(), earliest, "seed {seed}");
            }
        }
        drain(&mut wheel, &mut model, origin, u64::MAX / 2, seed);
        assert!(wheel.is_empty() && model.live.is_empty());
        assert!(wheel.occupied.iter().all(|&bits| bits == 0));
    }

    fn drain(wheel: &mut TimerWheel<(u64, u64)>, model: &mut Model, origin: Instant, now: u64, seed: u64) {
        let tick = (now - origin.as_micros()) / 1000;
        while let Some(key) = wheel.pop_expired(us(now)) {
            assert!(key.0 <= tick, "early, seed {seed}");
            assert_eq!(model.live.pop_first().map(|(k, _)| k), Some(key), "seed {seed}");
        }
        assert!(model.live.keys().next().is_none_or(|&(t, _)| t > tick), "left behind, seed {seed}");
        assert!(wheel.next_deadline().is_none_or(|at| at > us(now)), "seed {seed}");
        model.floor = model.floor.max(tick);
    }

    #[test]
    fn agrees_with_an_ordered_map() {
        for seed in 0..60 {
            run_against_model(seed);
        }
    }
}
