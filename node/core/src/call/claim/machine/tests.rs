//! The claim's machine: its whole table, and what holds on all ways through it.

use std::collections::HashSet;

use super::super::super::CallPhase::{self, Answered, Dialling, Over, Preparing};
use super::super::Winner;
use super::super::budget::ASK_AFTER;
use super::CallClaim;
use super::state::ClaimState::{Abandoned, Ceded, Degraded, Lost, Orphan, Pending, Reclaiming, Won};
use super::state::{ClaimAction, ClaimEvent, ClaimFacts, ClaimState, Step, Then};
use crate::ids::NodeId;
use crate::io::ClaimStage;

const PEER: NodeId = NodeId(7);

/// Each state, as the table calls it: `d` degraded, `a` answered, `h` heard, `r` recorded, `c` ceded before.
fn states() -> Vec<(&'static str, ClaimState)> {
    let ceded = |degraded, answered| Ceded { degraded, answered };
    let reclaiming = |degraded, heard| Reclaiming { degraded, heard, denied: Vec::new() };
    vec![
        ("P", Pending),
        ("O", Orphan),
        ("W", Won { degraded: false }),
        ("Wd", Won { degraded: true }),
        ("D", Degraded),
        ("C", ceded(false, false)),
        ("Cd", ceded(true, false)),
        ("Ca", ceded(false, true)),
        ("Cda", ceded(true, true)),
        ("R", reclaiming(false, false)),
        ("Rd", reclaiming(true, false)),
        ("Rh", reclaiming(false, true)),
        ("Rdh", reclaiming(true, true)),
        ("L", Lost { recorded: false }),
        ("Lr", Lost { recorded: true }),
        ("A", Abandoned { ceded: false }),
        ("Ac", Abandoned { ceded: true }),
    ]
}

fn facts(phase: CallPhase) -> ClaimFacts {
    ClaimFacts { phase, old: false, placeless: false, beside: false, failed: false, answered: phase == Answered }
}

fn rival(stage: ClaimStage, lower: bool, linked: bool) -> ClaimEvent {
    ClaimEvent::RivalHas { peer: PEER, stage, lower, linked }
}

fn other_way(stage: ClaimStage, lower: bool) -> ClaimEvent {
    ClaimEvent::RivalHasOtherWay { peer: PEER, stage, lower }
}

/// The columns: an event, and what else is known.
fn events() -> Vec<(&'static str, ClaimEvent, ClaimFacts)> {
    let (prep, dial) = (facts(Preparing), facts(Dialling));
    let old = |facts| ClaimFacts { old: true, ..facts };
    vec![
        ("won", ClaimEvent::Won, prep),
        ("won-over", ClaimEvent::Won, facts(Over)),
        ("gone", ClaimEvent::Lost(Winner::Gone), prep),
        ("gone-old", ClaimEvent::Lost(Winner::Gone), old(prep)),
        ("gone-late", ClaimEvent::Lost(Winner::Gone), dial),
        ("left", ClaimEvent::Lost(Winner::Left), prep),
        ("left-late", ClaimEvent::Lost(Winner::Left), dial),
        ("unsure", ClaimEvent::Lost(Winner::Unsure), prep),
        ("at", ClaimEvent::Lost(Winner::At(PEER)), prep),
        ("at-late", ClaimEvent::Lost(Winner::At(PEER)), dial),
        ("at-late-old", ClaimEvent::Lost(Winner::At(PEER)), old(dial)),
        ("at-beside", ClaimEvent::Lost(Winner::At(PEER)), ClaimFacts { beside: true, ..dial }),
        ("merged", ClaimEvent::Lost(Winner::Merged), prep),
        ("merged-late", ClaimEvent::Lost(Winner::Merged), dial),
        ("at-answered", ClaimEvent::Lost(Winner::At(PEER)), facts(Answered)),
        ("at-over", ClaimEvent::Lost(Winner::At(PEER)), facts(Over)),
        ("at-failed", ClaimEvent::Lost(Winner::At(PEER)), ClaimFacts { failed: true, ..facts(Over) }),
        ("left-over", ClaimEvent::Lost(Winner::Left), facts(Over)),
        ("budget", ClaimEvent::BudgetSpent, prep),
        ("failed", ClaimEvent::ProposeFailed, prep),
        ("prepares-lower", rival(ClaimStage::Preparing, true, true), prep),
        ("prepares-higher", rival(ClaimStage::Preparing, false, true), prep),
        ("dials", rival(ClaimStage::Dialling, false, true), prep),
        ("dials-unlinked", rival(ClaimStage::Dialling, false, false), prep),
        ("dials-old", rival(ClaimStage::Dialling, false, true), old(prep)),
        ("dials-placeless", rival(ClaimStage::Dialling, false, true), ClaimFacts { placeless: true, ..prep }),
        ("dials-too", rival(ClaimStage::Dialling, true, false), dial),
        ("has-won", rival(ClaimStage::Won, false, true), prep),
        ("has-won-late", rival(ClaimStage::Won, false, true), dial),
        ("has-won-late-old", rival(ClaimStage::Won, false, true), old(dial)),
        ("answered", rival(ClaimStage::Answered, false, true), prep),
        ("answered-late", rival(ClaimStage::Answered, false, true), old(dial)),
        ("answered-too", rival(ClaimStage::Answered, true, true), facts(Answered)),
        ("answered-over", rival(ClaimStage::Answered, true, true), facts(Over)),
        ("other-way-prepares-lower", other_way(ClaimStage::Preparing, true), prep),
        ("other-way-prepares-higher", other_way(ClaimStage::Preparing, false), prep),
        ("other-way-dials", other_way(ClaimStage::Dialling, false), prep),
        ("other-way-dials-too", other_way(ClaimStage::Dialling, true), dial),
        ("other-way-answered", other_way(ClaimStage::Answered, false), dial),
        ("other-way-placeless", other_way(ClaimStage::Dialling, false), ClaimFacts { placeless: true, ..prep }),
        ("other-way-over", other_way(ClaimStage::Answered, true), facts(Over)),
        ("482", ClaimEvent::Merged, dial),
        ("482-old", ClaimEvent::Merged, old(dial)),
        ("denied", ClaimEvent::ReclaimDue { denied: true }, prep),
        ("not-denied", ClaimEvent::ReclaimDue { denied: false }, prep),
        ("denied-old", ClaimEvent::ReclaimDue { denied: true }, old(prep)),
        ("hands-over", ClaimEvent::HandedOver, prep),
        ("hands-over-old", ClaimEvent::HandedOver, old(prep)),
        ("outlived", ClaimEvent::Outlived, old(prep)),
        ("outlived-early", ClaimEvent::Outlived, prep),
        ("served", ClaimEvent::CallerServed, prep),
        ("served-placeless", ClaimEvent::CallerServed, ClaimFacts { placeless: true, ..prep }),
        ("served-over", ClaimEvent::CallerServed, facts(Over)),
        ("unanswerable", ClaimEvent::Unanswerable, prep),
        ("ask", ClaimEvent::AskDue, prep),
        ("ask-late", ClaimEvent::AskDue, dial),
    ]
}

fn machine(state: ClaimState) -> CallClaim {
    CallClaim { state, ..CallClaim::new(false) }
}

fn said(step: &Step) -> String {
    let action = |action: &ClaimAction| match action {
        ClaimAction::Count(what) => format!("#{}", what.label()),
        other => format!("{other:?}"),
    };
    let then = (step.then != Then::Nothing).then(|| format!("=> {:?}", step.then));
    step.actions.iter().map(action).chain(then).collect::<Vec<_>>().join(" ")
}

/// Each line: the event, the states, `->`, the next state (`=`: as it was), the actions (`#`: counted as), `=>` what follows. What is not here
/// is not heeded.
const TABLE: &str = "
    won: P O -> W  #won Dial
    won: D -> Wd  #late_won
    won: C -> R  #won Reclaim
    won: Cd -> Rd  #late_won Reclaim
    won: Ca -> Ac  #won #answered_elsewhere Leave(Ends)
    won: Cda -> Ac  #late_won #answered_elsewhere Leave(Ends)
    won: R Rd -> =  Reclaim
    won: Rh -> R  Reclaim
    won: Rdh -> Rd  Reclaim
    won-over: P O -> W  #won Dial
    won-over: D -> Wd  #late_won
    won-over: C Ca -> =  #won
    won-over: Cd Cda -> =  #late_won
    gone: P W Wd D -> O  #orphaned LeaveLog AwaitPeers
    gone: O -> =  #orphaned LeaveLog AwaitPeers
    gone: C Cd R Rd Rh Rdh -> O  #orphaned Reopen LeaveLog AwaitPeers
    gone: Ca Cda -> L  #orphaned Leave(None)
    gone: L -> =  TellPeers LeaveLog
    gone: Lr A Ac -> =  ForgetLog
    gone-old: P W Wd D -> O  #orphaned LeaveLog AwaitPeers
    gone-old: O -> =  #orphaned LeaveLog AwaitPeers
    gone-old: C Cd Ca Cda R Rd Rh Rdh -> L  #orphaned Leave(None)
    gone-old: L -> =  TellPeers LeaveLog
    gone-old: Lr A Ac -> =  ForgetLog
    gone-late: P O W Wd D -> =  #late_orphaned StandBeside
    gone-late: C Cd Ca Cda R Rd Rh Rdh -> =  #late_orphaned LeaveLog
    gone-late: L -> =  TellPeers LeaveLog
    gone-late: Lr A Ac -> =  ForgetLog
    left: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> L  #lost Leave(None)
    left: L -> =  TellPeers StandBeside
    left: Lr A Ac -> =  ForgetLog
    left-late: P O W Wd D -> =  #late_orphaned StandBeside
    left-late: C Cd Ca Cda R Rd Rh Rdh -> L  Leave(None)
    left-late: L -> =  TellPeers StandBeside
    left-late: Lr A Ac -> =  ForgetLog
    unsure: P O W Wd D -> L  #unsure Leave(None) => Hold
    unsure: C Cd Ca Cda R Rd Rh Rdh -> L  #unsure Leave(None)
    unsure: L -> =  TellPeers LeaveLog
    unsure: Lr A Ac -> =  ForgetLog
    at: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> L  #lost Leave(None) => Relay
    at: L -> =  TellPeers LeaveLog
    at: Lr A Ac -> =  ForgetLog
    at-late: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> L  #late_lost Leave(None) => Relay
    at-late: L -> =  TellPeers LeaveLog
    at-late: Lr A Ac -> =  ForgetLog
    at-late-old: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> =  StandBeside AskPeers
    at-late-old: L -> =  TellPeers LeaveLog
    at-late-old: Lr A Ac -> =  ForgetLog
    at-beside: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> Lr  #late_lost Leave(Waits) => Relay
    at-beside: L -> =  TellPeers LeaveLog
    at-beside: Lr A Ac -> =  ForgetLog
    merged: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> L  #merged Refuse Leave(None)
    merged: L -> =  TellPeers LeaveLog
    merged: Lr A Ac -> =  ForgetLog
    merged-late: P O W Wd D C Cd Ca Cda R Rd Rh Rdh -> L  #late_lost Refuse Leave(None)
    merged-late: L -> =  TellPeers LeaveLog
    merged-late: Lr A Ac -> =  ForgetLog
    at-answered: P O W Wd D C Cd Ca Cda R Rd Rh Rdh L -> =  TellPeers StandBeside
    at-answered: Lr A Ac -> =  ForgetLog
    at-over: P O W Wd D C Cd Ca Cda R Rd Rh Rdh L -> =  TellPeers LeaveLog
    at-over: Lr A Ac -> =  ForgetLog
    at-failed: P O W Wd D C Cd Ca Cda R Rd Rh Rdh L -> =  LeaveLog
    at-failed: Lr A Ac -> =  ForgetLog
    left-over: P O W Wd D C Cd Ca Cda R Rd Rh Rdh L -> =  TellPeers StandBeside
    left-over: Lr A Ac -> =  ForgetLog
    budget: P -> D  #late Degrade Dial
    budget: O -> D  Degrade StandBeside Dial
    budget: C -> Cd  #late Degrade
    budget: Ca -> Cda  #late Degrade
    failed: P -> D  #failed Degrade Dial
    failed: O -> D  #failed Degrade StandBeside Dial
    failed: W -> Wd
    failed: C -> Cd  #failed Degrade
    failed: Ca -> Cda  #failed Degrade
    failed: R -> Rd
    failed: Rh -> Rdh
    prepares-lower: P O -> C  #lost Cede => Yield
    prepares-lower: W Wd -> =  => Stay
    prepares-lower: D -> Cd  #lost Cede => Yield
    prepares-lower: R -> Rh
    prepares-lower: Rd -> Rdh
    prepares-higher: P O W Wd D -> =  => Stay
    prepares-higher: R -> Rh
    prepares-higher: Rd -> Rdh
    dials: P O -> C  #lost Cede => Yield
    dials: W Wd -> =  => Stay
    dials: D -> Cd  #lost Cede => Yield
    dials: R -> Rh
    dials: Rd -> Rdh
    dials-unlinked: P O -> C  #lost Cede => Yield
    dials-unlinked: W -> R  #lost Cede Reclaim => Yield
    dials-unlinked: Wd -> Rd  #lost Cede Reclaim => Yield
    dials-unlinked: D -> Cd  #lost Cede => Yield
    dials-unlinked: R -> Rh
    dials-unlinked: Rd -> Rdh
    dials-old: P O D -> Ac  #lost #answered_elsewhere Leave(Waits) => Yield
    dials-old: W Wd -> =  => Stay
    dials-old: R -> Rh
    dials-old: Rd -> Rdh
    dials-placeless: P O D -> L  #lost Leave(None) => Yield
    dials-placeless: W Wd -> =  => Stay
    dials-placeless: R -> Rh
    dials-placeless: Rd -> Rdh
    dials-too: P O W Wd D -> =  => Stay
    dials-too: R -> Rh
    dials-too: Rd -> Rdh
    has-won: P O D -> L  #lost Leave(None) => Yield
    has-won: W Wd -> =  => Stay
    has-won: R -> Rh
    has-won: Rd -> Rdh
    has-won-late: P O D -> L  #late_lost Leave(None) => Yield
    has-won-late: W Wd -> =  => Stay
    has-won-late: R -> Rh
    has-won-late: Rd -> Rdh
    has-won-late-old: P O W Wd D -> =  => Stay
    has-won-late-old: R -> Rh
    has-won-late-old: Rd -> Rdh
    answered: P O -> Ca  #lost Cede => Yield
    answered: W Wd -> A  #answered_elsewhere Leave(Ends) => Yield
    answered: D -> Cda  #lost Cede => Yield
    answered: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    answered: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    answered-late: P O D -> L  #late_lost Leave(None) => Yield
    answered-late: W Wd -> A  #answered_elsewhere Leave(Ends) => Yield
    answered-late: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    answered-late: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    answered-too: P O W Wd D -> =  => Stay
    answered-too: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    answered-too: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    other-way-prepares-lower: P O D -> A  #merged Refuse #answered_elsewhere Leave(Waits)
    other-way-prepares-lower: W Wd -> =  => Stay
    other-way-prepares-lower: R -> Rh
    other-way-prepares-lower: Rd -> Rdh
    other-way-prepares-higher: P O W Wd D -> =  => Stay
    other-way-prepares-higher: R -> Rh
    other-way-prepares-higher: Rd -> Rdh
    other-way-dials: P O D -> A  #merged Refuse #answered_elsewhere Leave(Waits)
    other-way-dials: W Wd -> A  #merged Refuse #answered_elsewhere Leave(Ends)
    other-way-dials: R -> Rh
    other-way-dials: Rd -> Rdh
    other-way-dials-too: P O W Wd D -> =  => Stay
    other-way-dials-too: R -> Rh
    other-way-dials-too: Rd -> Rdh
    other-way-answered: P O D -> A  #merged Refuse #answered_elsewhere Leave(Waits)
    other-way-answered: W Wd -> A  #merged Refuse #answered_elsewhere Leave(Ends)
    other-way-answered: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    other-way-answered: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    other-way-placeless: P O D W Wd -> A  #merged Refuse #answered_elsewhere Leave(None)
    other-way-placeless: R -> Rh
    other-way-placeless: Rd -> Rdh
    482: P O -> C  #merged_late Cede
    482: W -> =  #twin TellPeers => Redial
    482: Wd -> Rd  #merged_late Cede Reclaim
    482: D -> Cd  #merged_late Cede
    482-old: P O D -> Ac  #merged_late #answered_elsewhere Leave(Waits)
    482-old: W -> =  #twin TellPeers => Redial
    482-old: Wd -> Ac  #merged_late #answered_elsewhere Leave(Ends)
    denied: R Rd -> =  => Resume
    denied: Rh -> R  Reclaim
    denied: Rdh -> Rd  Reclaim
    not-denied: R Rd -> =  Reclaim
    not-denied: Rh -> R  Reclaim
    not-denied: Rdh -> Rd  Reclaim
    denied-old: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    hands-over: C Ca -> P  => Redial
    hands-over: Cd Cda -> D  => Redial
    hands-over: R Rh -> W  => Redial
    hands-over: Rd Rdh -> Wd  => Redial
    outlived: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    outlived: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    served: C Cd Ca Cda -> Ac  #answered_elsewhere Leave(Waits)
    served: R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(Ends)
    served-placeless: C Cd Ca Cda R Rd Rh Rdh -> Ac  #answered_elsewhere Leave(None)
    unanswerable: O -> L  Leave(None)
    ask: P O -> =  AskPeersOnLease AskLater
";

/// What the table says of a state and an event: the next state, and what is done.
fn expected(row: &str, column: &str) -> Option<(&'static str, &'static str)> {
    let mut found = TABLE.lines().filter_map(|line| {
        let (event, rest) = line.trim().split_once(": ")?;
        let (from, to) = rest.split_once(" -> ")?;
        let (next, done) = to.split_once("  ").unwrap_or((to, ""));
        (event == column && from.split(' ').any(|state| state == row)).then_some((next, done))
    });
    let line = found.next();
    assert!(found.next().is_none(), "{row} on {column} stands there twice");
    line
}

#[test]
fn every_state_and_event() {
    let mut heeded = 0;
    for (column, event, facts) in events() {
        for (row, state) in states() {
            let mut claim = machine(state.clone());
            let step = claim.on(event, &facts);
            let next = states().into_iter().find(|(_, known)| *known == claim.state).map(|(name, _)| name);
            let next = if claim.state == state { Some("=") } else { next };
            let line = expected(row, column);
            heeded += usize::from(line.is_some());
            let done = said(&step);
            assert_eq!((next, done.as_str()), (Some(line.map_or("=", |l| l.0)), line.map_or("", |l| l.1)), "{row} on {column}");
        }
    }
    let written: usize = TABLE.lines().filter_map(|l| Some(l.split_once(": ")?.1.split_once(" -> ")?.0.split(' ').count())).sum();
    assert_eq!(heeded, written, "a line of the table is of no event or state");
}

#[test]
fn the_482_of_a_claim_that_is_won_is_a_rivals_once() {
    let mut claim = machine(Won { degraded: false });
    let facts = facts(Dialling);
    assert_eq!(claim.on(ClaimEvent::Merged, &facts).then, Then::Redial);
    assert_eq!(claim.on(ClaimEvent::Merged, &facts).then, Then::PassOn, "the second one is a loop");
    // Had something been sent before, it is the rival's; unless that has handed over.
    let _ = claim.on(ClaimEvent::ProposeFailed, &facts);
    let mut other = claim.clone();
    assert_eq!(said(&claim.on(ClaimEvent::Merged, &facts)), "#merged_late Cede Reclaim");
    let _ = other.on(ClaimEvent::Yielded, &facts);
    assert_eq!(said(&other.on(ClaimEvent::Merged, &facts)), "#merged_late => Redial");
    let _ = claim.on(ClaimEvent::HandedOver, &facts);
    assert_eq!(said(&claim.on(ClaimEvent::Merged, &facts)), "#merged_late => Redial");
}

/// AC-28: of a fork whose other ways were refused one is left, and that one serves the caller whoever has the key.
#[test]
fn the_only_way_that_is_left_goes_on() {
    let (prep, dial) = (facts(Preparing), facts(Dialling));
    for winner in [Winner::Merged, Winner::Left] {
        for (state, phase, done, next) in [
            (Pending, prep, "#orphaned Degrade StandBeside Dial", Degraded),
            (Degraded, prep, "#orphaned Degrade StandBeside Dial", Degraded),
            (Degraded, dial, "#late_orphaned StandBeside", Degraded),
        ] {
            let mut claim = machine(state);
            let _ = claim.on(ClaimEvent::RivalRefused, &phase);
            assert_eq!((said(&claim.on(ClaimEvent::Lost(winner), &phase)), &claim.state), (done.to_owned(), &next), "{winner:?}");
        }
    }
    let mut claim = machine(Degraded);
    let _ = claim.on(ClaimEvent::RivalRefused, &dial);
    for stage in [ClaimStage::Preparing, ClaimStage::Dialling, ClaimStage::Won] {
        assert_eq!(said(&claim.on(rival(stage, true, true), &dial)), "", "that rival leaves");
    }
    assert_eq!(said(&claim.on(rival(ClaimStage::Answered, true, true), &dial)), "#late_lost Leave(None) => Yield");
    // A call that has ceded itself is not the last.
    let mut ceded = machine(Ceded { degraded: false, answered: false });
    let _ = ceded.on(ClaimEvent::RivalRefused, &prep);
    assert_eq!(said(&ceded.on(ClaimEvent::Lost(Winner::Merged), &prep)), "#merged Refuse Leave(None)");
}

#[test]
fn who_has_no_link_is_waited_for() {
    let facts = facts(Preparing);
    let mut claim = machine(Won { degraded: false });
    claim.wait_for(vec![PEER, NodeId(8)]);
    assert!(!claim.may_dial());
    assert_eq!(said(&claim.on(ClaimEvent::AskDue, &facts)), "AskAwaited AskLater");
    assert_eq!(said(&claim.on(ClaimEvent::PeerHasNot(PEER), &facts)), "Dial");
    assert_eq!(said(&claim.on(ClaimEvent::PeerHasNot(PEER), &facts)), "", "said twice");
    assert!(!claim.may_dial(), "one is left");
    let mut late = claim.clone();
    let preparing = ClaimEvent::RivalHas { peer: NodeId(8), stage: ClaimStage::Preparing, lower: true, linked: false };
    assert_eq!(said(&claim.on(preparing, &facts)), "Dial => Stay");
    assert!(claim.may_dial());
    for _ in 2..ASK_AFTER {
        assert_eq!(said(&late.on(ClaimEvent::AskDue, &facts)), "AskAwaited AskLater");
    }
    assert_eq!(said(&late.on(ClaimEvent::AskDue, &facts)), "Dial", "as long as the budget, and no longer");
    assert!(late.may_dial());
    // Whose claim is open, too, and what the budget decides is not lost for it.
    let mut open = machine(Pending);
    open.wait_for(vec![PEER]);
    assert_eq!(said(&open.on(ClaimEvent::AskDue, &facts)), "AskPeersOnLease AskAwaited AskLater");
    assert_eq!(said(&open.on(ClaimEvent::AskDue, &facts)), "AskAwaited AskLater", "peers with a link are asked once");
    let _ = open.on(ClaimEvent::BudgetSpent, &facts);
    assert!(!open.may_dial());
    assert_eq!(said(&open.on(ClaimEvent::PeerHasNot(PEER), &facts)), "Dial");
    assert!(open.may_dial());
}

#[test]
fn silence_is_no_word_that_the_call_is_not_there() {
    let facts = facts(Preparing);
    let mut claim = machine(Reclaiming { degraded: false, heard: false, denied: Vec::new() });
    assert!(!claim.has_denied(PEER));
    let _ = claim.on(ClaimEvent::PeerHasNot(PEER), &facts);
    let _ = claim.on(ClaimEvent::PeerHasNot(PEER), &facts);
    assert!(claim.has_denied(PEER) && !claim.has_denied(NodeId(8)));
    assert_eq!(claim.on(ClaimEvent::ReclaimDue { denied: true }, &facts).then, Then::Resume);
    let _ = claim.on(ClaimEvent::ReclaimDue { denied: false }, &facts);
    assert!(!claim.has_denied(PEER), "told again, they are asked again");
}

/// What a way through the machine has come by.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    claim: CallClaim,
    /// The INVITE's transaction is over by its age.
    old: bool,
    /// The caller's INVITE is this call's to answer.
    answers: bool,
    /// It was left for good.
    left: bool,
}

/// All that can be said to the machine, with all that can be known then but the age.
fn everything(old: bool) -> Vec<(ClaimEvent, ClaimFacts)> {
    let stages = [ClaimStage::Preparing, ClaimStage::Dialling, ClaimStage::Won, ClaimStage::Answered];
    let winners = [Winner::At(PEER), Winner::Merged, Winner::Unsure, Winner::Left, Winner::Gone];
    let flags = [(false, false), (false, true), (true, false), (true, true)];
    let mut all: Vec<ClaimEvent> = winners.into_iter().map(ClaimEvent::Lost).collect();
    all.extend(stages.into_iter().flat_map(|stage| flags.map(|(lower, linked)| rival(stage, lower, linked))));
    all.extend(stages.into_iter().flat_map(|stage| [true, false].map(|lower| other_way(stage, lower))));
    all.extend([true, false].map(|denied| ClaimEvent::ReclaimDue { denied }));
    all.extend([ClaimEvent::Won, ClaimEvent::BudgetSpent, ClaimEvent::ProposeFailed, ClaimEvent::PeerHasNot(PEER)]);
    all.extend([ClaimEvent::AskDue, ClaimEvent::Merged, ClaimEvent::HandedOver, ClaimEvent::Yielded]);
    all.extend([ClaimEvent::Outlived, ClaimEvent::CallerServed, ClaimEvent::RivalRefused]);
    let known = [Preparing, Dialling, Answered, Over]
        .into_iter()
        .flat_map(|phase| flags.map(|(placeless, beside)| ClaimFacts { placeless, beside, old, ..facts(phase) }));
    known.flat_map(|facts| all.iter().map(move |event| (*event, facts))).collect()
}

/// What has to hold of every step.
fn check(before: &Place, event: ClaimEvent, facts: &ClaimFacts, step: &Step) -> Place {
    let what = format!("{:?} on {event:?} with {facts:?}: {step:?}", before.claim);
    let mut after = before.clone();
    for action in &step.actions {
        match action {
            ClaimAction::Cede => after.answers = false,
            ClaimAction::Reopen => after.answers = true,
            ClaimAction::Leave(_) => {
                assert!(!after.left, "{what}: left twice");
                (after.answers, after.left) = (false, true);
            }
            ClaimAction::Refuse => {
                let leaves = step.actions.iter().any(|action| matches!(action, ClaimAction::Leave(_)));
                assert!(before.answers || before.claim.is_ceded(), "{what}");
                assert!(leaves, "{what}: refused, and not left")
            }
            _ => {}
        }
    }
    if event == ClaimEvent::HandedOver && step.then == Then::Redial {
        after.answers = true;
    }
    after
}

#[test]
fn on_all_ways() {
    let mut seen: HashSet<Place> = HashSet::new();
    let awaiting = |orphan| {
        let mut claim = CallClaim::new(orphan);
        claim.wait_for(vec![PEER]);
        claim
    };
    let begun = [CallClaim::new(false), CallClaim::new(true), awaiting(false), awaiting(true)];
    let mut ways: Vec<Place> = begun.into_iter().map(|claim| Place { claim, old: false, answers: true, left: false }).collect();
    for _ in 0..8 {
        let mut longer = Vec::new();
        for place in ways.into_iter().filter(|place| seen.insert(place.clone())) {
            if !place.old {
                longer.push(Place { old: true, ..place.clone() });
            }
            for (event, facts) in everything(place.old) {
                let mut claim = place.claim.clone();
                let step = claim.on(event, &facts);
                let what = format!("{:?} on {event:?} with {facts:?}: {step:?}, {:?}", place.claim, claim.state);
                let after = Place { claim, ..check(&place, event, &facts, &step) };
                let (before, now) = (&place.claim, &after.claim);
                let asks = step.actions.contains(&ClaimAction::Dial) || step.then == Then::Redial;
                // Rule B, and the caller's one final answer: only who answers the caller dials, and hands the INVITE to nobody then.
                assert!(!now.may_dial() || after.answers, "{what}");
                assert!(!matches!(step.then, Then::Relay | Then::Hold | Then::Yield) || !now.may_dial(), "{what}");
                assert_eq!(now.is_ceded() || after.left, !after.answers, "{what}");
                // Ceded, it dials nothing but what it has been handed over, or what nobody serves, and is not too old (AC-55).
                assert!(!(now.is_ceded() && asks), "{what}");
                assert!(!(before.is_ceded() && place.old && after.answers), "{what}");
                assert!(!(before.is_ceded() && now.may_dial()) || event == ClaimEvent::HandedOver, "{what}");
                // Lost and abandoned are for good, and say nothing more of the call but to the log.
                assert!(!after.left || !(asks || now.may_dial()), "{what}");
                assert!(!place.left || (before.state == now.state && step.then == Then::Nothing), "{what}");
                assert_eq!(after.left, matches!(now.state, Lost { .. } | Abandoned { .. }), "{what}");
                longer.push(after);
            }
        }
        ways = longer;
    }
    assert!(seen.len() > 100, "{}", seen.len());
    // Rule B: nobody is held for the store's sake. Whatever came before, the budget and the peers' time end the wait.
    for place in seen.iter().filter(|place| place.answers) {
        let mut claim = place.claim.clone();
        let mut asked = claim.on(ClaimEvent::BudgetSpent, &facts(Preparing)).actions.contains(&ClaimAction::Dial);
        for _ in 0..ASK_AFTER {
            asked |= claim.on(ClaimEvent::AskDue, &facts(Preparing)).actions.contains(&ClaimAction::Dial);
        }
        assert!(claim.may_dial(), "{:?}", place.claim);
        assert!(asked || place.claim.may_dial(), "{:?}", place.claim);
    }
}
