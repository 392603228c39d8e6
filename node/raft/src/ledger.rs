//! Whom this node has confirmed as a leader, and when: what a node may be declared down by (anycast.md, rule I).
//!
//! A lease runs from before its confirmation was asked for, so it is over a lease and a margin after the confirmation was given, whatever
//! the node's links say. A leader knows its own confirmations only. Those of the leader before were acknowledged by a quorum, and none of
//! that quorum has voted for another within `election_max`: so much of the time is over at an election. That holds where each voter
//! remembers its vote's lease, which openraft forgets by a start and gives up for a transfer: whoever has forgotten it grants no vote for
//! `election_max`, and waits the whole time where it is elected itself.
//!
//! The rules are those of the model in `node/core/tests/lease`, by name: NotesConfirmations, Margin, NoConfirmationWhileDeclared,
//! NewLeaderWaits, WholeWaitAfterForgetting, NoVoteAfterForgetting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::boot::BootTime;

/// What a lease may be over by here and not there: half of it for a pause between the look at the lease and the packet, half for clocks
/// that run unevenly.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug)]
struct Book {
    /// Lease and margin.
    whole: Duration,
    /// How long a voter's lease runs.
    vote: Duration,
    /// The leadership that is looked after, and before when it declares nobody down.
    leads: Option<(u64, BootTime)>,
    /// The last one.
    led: Option<u64>,
    noted: BTreeMap<u64, BootTime>,
    declared: BTreeSet<u64>,
    /// When this node last lost its vote's lease.
    forgot: Option<BootTime>,
}

impl Book {
    fn new(lease: Duration, election_max: Duration) -> Book {
        let whole = lease + LEASE_MARGIN;
        Book {
            whole,
            vote: election_max.min(whole),
            leads: None,
            led: None,
            noted: BTreeMap::new(),
            declared: BTreeSet::new(),
            forgot: None,
        }
    }

    fn lead(&mut self, term: Option<u64>, now: BootTime) {
        if self.leads.map(|(term, _)| term) == term {
            return;
        }
        self.declared.clear();
        self.leads = term.map(|term| {
            // One that had lost its quorum and has it again heard nobody meanwhile: it listens anew.
            let wait = if self.led == Some(term) { self.whole } else { self.whole - self.vote };
            let forgot = self.forgot.map(|at| at + self.whole);
            (term, forgot.unwrap_or(now).max(now + wait))
        });
        self.led = term.or(self.led);
    }

    fn confirm(&mut self, node: u64, now: BootTime) -> bool {
        let granted = !self.declared.contains(&node);
        if granted {
            self.noted.insert(node, now);
        }
        granted
    }

    fn declare(&mut self, node: u64, now: BootTime) -> Option<u64> {
        let (term, from) = self.leads?;
        let over = self.noted.get(&node).is_none_or(|at| now >= *at + self.whole);
        if now < from || !over {
            return None;
        }
        self.declared.insert(node);
        Some(term)
    }

    fn may_vote(&self, now: BootTime) -> bool {
        self.forgot.is_none_or(|at| now >= at + self.vote)
    }
}

/// The book, shared by whoever confirms, votes and declares.
#[derive(Clone, Debug)]
pub(crate) struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    pub(crate) fn new(lease: Duration, election_max: Duration) -> Ledger {
        Ledger(Arc::new(Mutex::new(Book::new(lease, election_max))))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The term in which this node leads with a quorum; `None`: it does not.
    pub(crate) fn lead(&self, term: Option<u64>) {
        self.book().lead(term, BootTime::now());
    }

    /// A quorum has acknowledged this leader, and a member is to be told so. False: it is being declared down, and is told nothing.
    pub(crate) fn confirm(&self, node: u64) -> bool {
        self.book().confirm(node, BootTime::now())
    }

    /// Decides that a node is down, in the term that is returned; from here on it gets no confirmation until [`Ledger::lift`], or from
    /// another leader. `None`: its lease may run.
    pub(crate) fn declare(&self, node: u64) -> Option<u64> {
        self.book().declare(node, BootTime::now())
    }

    /// That has been committed: what is confirmed from now on names an index beyond it.
    pub(crate) fn lift(&self, node: u64) {
        self.book().declared.remove(&node);
    }

    /// This node's vote's lease is gone before its time.
    pub(crate) fn forget_vote(&self) {
        self.book().forgot = Some(BootTime::now());
    }

    /// Whether this node may grant a vote that the leader has not itself asked for.
    pub(crate) fn may_vote(&self) -> bool {
        self.book().may_vote(BootTime::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(2);
    const VOTE: Duration = Duration::from_millis(1500);

    fn book() -> (Book, impl Fn(u64) -> BootTime) {
        let start = BootTime::now();
        (Book::new(LEASE, VOTE), move |ms| start + Duration::from_millis(ms))
    }

    #[test]
    fn nobody_is_declared_down_before_lease_and_margin_are_over() {
        let (mut book, at) = book();
        assert_eq!(book.declare(2, at(90_000)), None, "it does not lead");
        book.lead(Some(4), at(0));
        assert_eq!(book.declare(2, at(999)), None, "what the leader before confirmed may still run");
        assert!(book.confirm(2, at(500)));
        assert_eq!(book.declare(3, at(1000)), Some(4), "never confirmed, and the wait is over");
        assert_eq!(book.declare(2, at(2999)), None);
        assert!(book.confirm(2, at(2999)));
        assert_eq!(book.declare(2, at(5498)), None);
        assert_eq!(book.declare(2, at(5499)), Some(4));
    }

    #[test]
    fn whoever_is_being_declared_down_gets_no_confirmation() {
        let (mut book, at) = book();
        book.lead(Some(4), at(0));
        assert_eq!(book.declare(2, at(1000)), Some(4));
        assert!(!book.confirm(2, at(1001)) && book.confirm(3, at(1001)));
        book.declared.remove(&2);
        assert!(book.confirm(2, at(1002)), "it is committed");
        assert_eq!(book.declare(2, at(3501)), None);
        assert_eq!(book.declare(3, at(3501)), Some(4));
        book.lead(None, at(3600));
        assert!(book.confirm(3, at(3601)), "another leader decides now");
    }

    #[test]
    fn a_new_leader_waits_for_leases_that_it_does_not_know() {
        // When its vote's lease was forgotten, when it was elected, when it may declare somebody down.
        for (forgot, elected, from) in [
            (None, 10_000, 11_000),
            (Some(10_000), 10_000, 12_500),
            (Some(9_000), 10_000, 11_500),
            (Some(8_500), 10_000, 11_000),
            (Some(0), 10_000, 11_000),
        ] {
            let (mut book, at) = book();
            book.forgot = forgot.map(&at);
            book.lead(Some(7), at(elected));
            assert_eq!(book.declare(2, at(from - 1)), None, "{forgot:?}");
            assert_eq!(book.declare(2, at(from)), Some(7), "{forgot:?}");
        }
    }

    #[test]
    fn a_leader_that_has_its_quorum_again_listens_for_the_whole_time() {
        let (mut book, at) = book();
        book.lead(Some(7), at(0));
        book.lead(Some(7), at(900));
        assert_eq!(book.declare(2, at(1000)), Some(7), "the same term goes on");
        book.lead(None, at(2000));
        assert_eq!(book.declare(3, at(9000)), None);
        book.lead(Some(7), at(10_000));
        assert_eq!((book.declare(3, at(12_499)), book.declare(3, at(12_500))), (None, Some(7)));
        book.lead(Some(9), at(20_000));
        assert_eq!((book.declare(3, at(20_999)), book.declare(3, at(21_000))), (None, Some(9)), "elected anew");
    }

    #[test]
    fn who_has_forgotten_its_votes_lease_grants_no_vote_for_as_long() {
        let (mut book, at) = book();
        assert!(book.may_vote(at(0)));
        book.forgot = Some(at(0));
        assert!(!book.may_vote(at(1499)) && book.may_vote(at(1500)));
    }
}
