//! The rules of lease, death and adoption, each of which can be left out.

/// One rule. What it prevents is what the model finds without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Nothing is initiated without a lease (anycast.md, rule I).
    Lease,
    /// A lease counts when the node has applied all that was committed when it was confirmed.
    LeaseAsNewAsTheState,
    /// A node that is down by its own applied state has no lease.
    DownHasNoLease,
    /// The leader notes whom it confirmed, and declares nobody down before lease and margin are over.
    NotesConfirmations,
    /// The margin: for a pause between check and send, and for clocks that run unevenly.
    Margin,
    /// From the decision on that a node is down until that is committed, the leader confirms it nothing.
    NoConfirmationWhileDeclared,
    /// NodeDown is appended in the term of the leader that decided it, or not at all.
    DeclaredInItsTerm,
    /// A new leader waits for leases that its predecessor may have confirmed.
    NewLeaderWaits,
    /// It waits the whole where it has itself forgotten its vote's lease: by a start, or for a transfer.
    WholeWaitAfterForgetting,
    /// Whoever has forgotten its vote's lease grants no vote for as long as that may have run.
    NoVoteAfterForgetting,
    /// Adopt counts for the epoch that it names only.
    AdoptComparesEpochs,
    /// Adopt counts while the owner is down or has started again: one that comes late finds an owner with a lease.
    AdoptNeedsADeadOwner,
    /// A call is that start's of its owner that took it, not the node's.
    IncarnationOwns,
    /// What was checked longer than half the margin ago is not sent.
    NothingAfterAPause,
    /// The lease runs on a clock that counts suspends.
    ClockCountsSuspends,
}

impl Rule {
    pub(crate) const ALL: [Rule; 15] = [
        Rule::Lease,
        Rule::LeaseAsNewAsTheState,
        Rule::DownHasNoLease,
        Rule::NotesConfirmations,
        Rule::Margin,
        Rule::NoConfirmationWhileDeclared,
        Rule::DeclaredInItsTerm,
        Rule::NewLeaderWaits,
        Rule::WholeWaitAfterForgetting,
        Rule::NoVoteAfterForgetting,
        Rule::AdoptComparesEpochs,
        Rule::AdoptNeedsADeadOwner,
        Rule::IncarnationOwns,
        Rule::NothingAfterAPause,
        Rule::ClockCountsSuspends,
    ];
}

/// All rules, or all but one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules(pub(crate) Option<Rule>);

impl Rules {
    pub(crate) fn has(self, rule: Rule) -> bool {
        self.0 != Some(rule)
    }
}
