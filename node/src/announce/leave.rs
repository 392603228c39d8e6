//! Whether a node that is not well leaves the address to one that is.
//!
//! The rule: who is not well (it is cut off from the quorum, or its disk has failed) leaves the address to a peer that says that it is
//! well and announces, or stands by for an address that one node holds at a time; and to nobody else. Who is well leaves it to nobody. So no
//! two nodes ever leave it to each other, and where no peer says so, for all are cut off, or dead, or their disks are full too, the address
//! stays: this node may be the last. What changes fast is let pass: the address goes after a while, and comes back after a longer one; but at
//! once when nobody is heard any more who would serve instead.

use std::time::Duration;

use sbc_core::time::Instant;

/// How long a node must be ill, and hear one that serves instead, before it leaves the address to it: an election gives the lease back in less.
pub const LEAVE_AFTER: Duration = Duration::from_secs(2);

/// How long it must be well before it comes back.
pub const RETURN_AFTER: Duration = Duration::from_secs(5);

/// Where one node holds the address: how long it must lie free, beyond the preference, before the one that left it takes it again. Longer
/// than a standby needs.
pub const TAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long the address is not left again after nobody else was heard, or took it, or after an order to take it.
pub const STAY: Duration = Duration::from_secs(60);

/// What peers that are well say, as far as it is fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// One of them serves instead of this node: it announces, or takes the address as soon as it is free.
    pub serve_instead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It holds the address, or would. `reason_since`: since when there has been a reason to leave it.
    Stays { reason_since: Option<Instant>, not_before: Instant },
    /// It has left the address to another.
    Left { well_since: Option<Instant> },
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaving {
    state: State,
    well: bool,
    others: Others,
}

impl Leaving {
    pub(super) fn new(now: Instant) -> Leaving {
        let state = State::Stays { reason_since: None, not_before: now };
        Leaving { state, well: false, others: Others::default() }
    }

    pub(super) fn has_left(&self) -> bool {
        matches!(self.state, State::Left { .. })
    }

    pub(super) fn handle_well(&mut self, well: bool, now: Instant) {
        self.well = well;
        self.on_change(now);
    }

    pub(super) fn others(&self) -> Others {
        self.others
    }

    pub(super) fn handle_others(&mut self, others: Others, now: Instant) {
        self.others = others;
        self.on_change(now);
    }

    /// It has the address again because nobody else took it, or is to have it: that lasts for a while.
    pub(super) fn stay(&mut self, now: Instant) {
        self.state = State::Stays { reason_since: None, not_before: now + STAY };
        self.on_change(now);
    }

    /// The operator orders it to take the address: who is ill at that moment is meant as it is.
    pub(super) fn ordered(&mut self, now: Instant) {
        let meant = match self.state {
            State::Stays { reason_since, .. } => reason_since.is_some(),
            State::Left { .. } => true,
        };
        if meant {
            self.stay(now);
        }
    }

    fn on_change(&mut self, now: Instant) {
        let reason = !self.well && self.others.serve_instead;
        match &mut self.state {
            State::Stays { reason_since, .. } => {
                *reason_since = reason.then(|| reason_since.unwrap_or(now));
            }
            // Nobody else serves: back at once, and not away again for every word that is late.
            State::Left { .. } if !self.others.serve_instead => {
                self.state = State::Stays { reason_since: None, not_before: now + STAY };
            }
            State::Left { well_since } => {
                *well_since = self.well.then(|| well_since.unwrap_or(now));
            }
        }
    }

    /// Time has passed.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.state = match self.state {
            State::Stays { .. } => State::Left { well_since: None },
            State::Left { .. } => State::Stays { reason_since: None, not_before: now },
        };
        self.on_change(now);
    }

    /// When something changes if nothing else happens.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Stays { reason_since, not_before } => reason_since.map(|since| (since + LEAVE_AFTER).max(not_before)),
            State::Left { well_since } => well_since.map(|since| since + RETURN_AFTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_micros(n * 1000)
    }

    fn leaving(well: bool, serve_instead: bool) -> Leaving {
        let mut l = Leaving::new(ms(0));
        l.handle_well(well, ms(0));
        l.handle_others(Others { serve_instead }, ms(0));
        l
    }

    /// The whole table: (has left, well, another serves) → has left, at once, after 2 s, after 5 s and after a minute.
    #[test]
    fn table() {
        let rows = [
            // has left, well, another serves: at 0, 2, 5, 60 s
            ((false, true, true), [false, false, false, false]),
            ((false, true, false), [false, false, false, false]),
            ((false, false, true), [false, true, true, true]),
            ((false, false, false), [false, false, false, false]),
            ((true, true, true), [true, true, false, false]),
            ((true, true, false), [false, false, false, false]),
            ((true, false, true), [true, true, true, true]),
            ((true, false, false), [false, false, false, false]),
        ];
        for ((left, well, serve_instead), expected) in rows {
            let mut l = leaving(false, left);
            l.handle_timeout(ms(10_000));
            assert_eq!(l.has_left(), left);
            l.handle_well(well, ms(10_000));
            l.handle_others(Others { serve_instead }, ms(10_000));
            for (after, expected) in [0, 2000, 5000, 60_000].into_iter().zip(expected) {
                l.handle_timeout(ms(10_000 + after));
                assert_eq!(l.has_left(), expected, "{left} {well} {serve_instead} after {after} ms");
            }
        }
    }

    #[test]
    fn what_changes_fast_is_let_pass() {
        // Ill for a second and a half, again and again: nothing happens.
        let mut l = leaving(true, true);
        for n in 0..100 {
            l.handle_well(false, ms(n * 2000));
            l.handle_timeout(ms(n * 2000 + 1500));
            l.handle_well(true, ms(n * 2000 + 1500));
            assert!(!l.has_left());
        }
        // Well for four seconds, again and again: it stays away.
        let mut l = leaving(false, true);
        l.handle_timeout(ms(2000));
        for n in 1..100 {
            l.handle_well(true, ms(n * 5000));
            l.handle_timeout(ms(n * 5000 + 4000));
            l.handle_well(false, ms(n * 5000 + 4000));
            assert!(l.has_left());
        }
    }

    #[test]
    fn an_order_is_for_a_while_where_it_is_about_a_node_that_is_ill() {
        let mut l = leaving(true, true);
        l.ordered(ms(0));
        l.handle_well(false, ms(100));
        assert_eq!(l.poll_timeout(), Some(ms(2100)), "what happens later was not meant");
        l.ordered(ms(200));
        assert_eq!(l.poll_timeout(), Some(ms(60_200)));
        l.handle_timeout(ms(60_200));
        assert!(l.has_left());
        l.ordered(ms(70_000));
        assert_eq!((l.has_left(), l.poll_timeout()), (false, Some(ms(130_000))));
    }

    #[test]
    fn what_nobody_took_is_not_left_again_soon() {
        let mut l = leaving(false, true);
        l.handle_timeout(ms(2000));
        assert!(l.has_left());
        l.stay(ms(9000));
        assert_eq!((l.has_left(), l.poll_timeout()), (false, Some(ms(69_000))));
        l.handle_timeout(ms(68_999));
        assert!(!l.has_left());
        l.handle_timeout(ms(69_000));
        assert!(l.has_left());
    }
}
