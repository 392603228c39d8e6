//! Lease, death and adoption (anycast.md, rules I and J), every order in which things can happen: three nodes, confirmations, NodeDown,
//! NodeBack, NodeUp, Adopt, elections, transfers, crashes, suspends, a pause between check and send. Each rule left out is found.
//!
//! A history has few faults, else there would be too many: each of [`HISTORIES`] has those that one kind of trouble needs.

mod actions;
mod log;
mod model;
mod rules;

use log::Node;
use model::{Budget, Cluster};
use rules::{Rule, Rules};
use stateright::{Checker, HasDiscoveries, Model, Path};

/// The owner is declared down once and adopted once.
const ONCE: Budget =
    Budget { crashes: 0, victim: 0, elections: 0, transfers: 0, suspends: 0, slips: 0, downs: 1, backs: 0, adopts: 1 };

const BACK: History = (1, Budget { backs: 1, ..ONCE });
const LATE: History = (1, Budget { slips: 1, ..ONCE });
const ELECTED: History = (1, Budget { elections: 1, ..ONCE });
const OWNER_LED: History = (0, Budget { elections: 1, ..ONCE });
const TRANSFERRED: History = (1, Budget { transfers: 1, ..ONCE });
const RESTARTED: History = (1, Budget { crashes: 1, downs: 0, ..ONCE });
const LEADER_RESTARTED: History = (1, Budget { crashes: 1, victim: 1, elections: 1, ..ONCE });
const SUSPENDED: History = (1, Budget { suspends: 1, ..ONCE });
const TWICE: History = (1, Budget { downs: 2, adopts: 2, ..ONCE });

/// Who leads at first, and what may happen in one history, together. The call is node 0's.
type History = (Node, Budget);

const HISTORIES: [History; 9] = [BACK, LATE, ELECTED, OWNER_LED, TRANSFERRED, RESTARTED, LEADER_RESTARTED, SUSPENDED, TWICE];

/// What must never be.
const ALWAYS: [&str; 3] =
    ["one owner an epoch", "no lease overlaps an adoption", "nothing is initiated for a call that another has"];

type Found = Vec<(&'static str, Path<model::State, model::Action>)>;

/// All that is found in the histories of a budget: what must never be, and how it came to it; and what can be.
fn explore(rules: Rules, (leader, budget): History) -> (Found, Found) {
    let model = Cluster { rules, budget, leader };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    checker.discoveries().into_iter().partition(|(name, _)| ALWAYS.contains(name))
}

#[test]
fn the_rules_hold_in_every_history() {
    let mut seen = Vec::new();
    for history in HISTORIES {
        let (wrong, can_be) = explore(Rules(None), history);
        let wrong: Vec<_> = wrong.into_iter().map(|(name, path)| (name, path.into_actions())).collect();
        assert!(wrong.is_empty(), "with {history:?}: {wrong:?}");
        seen.extend(can_be.into_iter().map(|(name, _)| name));
    }
    for wanted in ["a call is adopted", "a start takes its own calls back", "a node that was down goes on with its calls"] {
        assert!(seen.contains(&wanted), "never: {wanted}");
    }
}

/// The history in which it shows that a rule is needed.
fn shown_by(rule: Rule) -> History {
    match rule {
        Rule::Lease
        | Rule::LeaseAsNewAsTheState
        | Rule::DownHasNoLease
        | Rule::NotesConfirmations
        | Rule::NoConfirmationWhileDeclared
        | Rule::AdoptNeedsADeadOwner
        | Rule::NothingAfterAPause => BACK,
        Rule::Margin => LATE,
        Rule::DeclaredInItsTerm | Rule::NewLeaderWaits => ELECTED,
        Rule::WholeWaitAfterForgetting => TRANSFERRED,
        Rule::NoVoteAfterForgetting => LEADER_RESTARTED,
        Rule::AdoptComparesEpochs => TWICE,
        Rule::IncarnationOwns => RESTARTED,
        Rule::ClockCountsSuspends => SUSPENDED,
    }
}

#[test]
fn each_rule_left_out_is_found() {
    for rule in Rule::ALL {
        let (wrong, _) = explore(Rules(Some(rule)), shown_by(rule));
        assert!(!wrong.is_empty(), "nothing is wrong without {rule:?}");
    }
}
