//! Rule L: one CDR a call, the same in each replica. Of two nodes that had one INVITE while they could not hear each other, each call that was
//! answered has its own (AC-55). Only what a node answered while it had neither the log nor a peer, and until it died, is lost with it; and what
//! it answered so shortly before its death that it could not be committed, for its log had just come back, or goes with it.

use std::sync::Arc;

use sbc_core::replica::BESIDE_LEVEL;
use sbc_core::store_pb::Cdr;

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (i, node) in world.nodes.iter().enumerate() {
        let replica = node.replica.read().expect("no thread of ours panics");
        let cdrs = replica.cdrs(0, 10_000).expect("none was compacted");
        for leg in &world.phones[0].legs {
            let of_call = |c: &&Arc<Cdr>| c.parties.as_ref().is_some_and(|p| p.call_id == leg.call_id);
            let count = cdrs.iter().filter(of_call).count();
            // Of what was dialled without the log, and lost with its node, nobody knows.
            let known = !world.victims.contains(&leg.call) && !world.unrecorded.contains(&leg.call);
            let at_psap = || world.phones[1].legs.iter().filter(|l| l.call == leg.call);
            let dialled = known && at_psap().count() > 0;
            let most = if replica.level() < BESIDE_LEVEL { 1 } else { at_psap().count().max(1) };
            if count > most || (dialled && count == 0) {
                wrong.push(format!("node {i} has {count} CDRs of call {} (dialled: {dialled})", leg.call));
            }
            if replica.level() < BESIDE_LEVEL {
                continue;
            }
            let answered = cdrs.iter().filter(of_call).filter(|c| c.answered_unix_ms > 0).count();
            let expected = known && leg.answered && !world.is_answer_lost(&leg.call_id);
            if (expected && answered == 0) || answered > at_psap().filter(|l| l.answered).count() {
                wrong.push(format!(
                    "node {i} has {answered} CDRs of call {} as answered (by the caller: {})",
                    leg.call, leg.answered
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::invariants;
    use crate::plan::Plan;
    use crate::world::{Fault, Net, World};

    /// The call is answered 1 s after `START` and over 3 s later; its node dies long after that.
    const START: u64 = 5000;
    const DIES: u64 = START + 10_000;
    const CALL: &str = "call-0@198.18.10.1";

    fn world(faults: &[(u64, Fault)]) -> World {
        let mut w = World::new(3, 3, vec![Plan::plain(START)], Net::calm());
        w.raise_level();
        for (at, fault) in faults {
            w.fault_at(*at, *fault);
        }
        w.fault_at(DIES, Fault::Kill(0));
        w.fault_at(DIES + 5000, Fault::Heal(0));
        w.fault_at(DIES + 5000, Fault::Restart(0));
        w.run_until(290_000);
        assert!(w.phones[0].legs[0].answered && w.phones[1].legs[0].bye_received, "the phones had their call");
        w
    }

    #[test]
    fn an_answer_that_its_node_alone_knew_of_is_lost_with_it() {
        let mut w = world(&[(START + 500, Fault::Cut(0))]);
        assert!(w.is_answer_lost(CALL));
        let wrong = invariants::check(&w);
        assert!(wrong.is_empty(), "{wrong:#?}");
        // By nothing else it is excused.
        w.answers.values_mut().for_each(|answered| answered.lost = false);
        let wrong = invariants::check(&w);
        assert!(wrong.len() == 3 && wrong.iter().all(|text| text.contains("has 0 CDRs of call 0 as answered")), "{wrong:#?}");
        // Another node answered the call too, and lives.
        let answered = *w.answers.values().next().expect("the one");
        w.answers.values_mut().for_each(|answered| answered.lost = true);
        w.answers.insert((CALL.to_owned(), 1, 1), answered);
        assert_eq!(invariants::check(&w).len(), 3);
    }

    #[test]
    fn an_answer_that_a_log_just_came_back_for_is_lost_with_its_node() {
        for before in [100, 1900] {
            let w = world(&[(START + 500, Fault::Cut(0)), (DIES - before, Fault::Heal(0))]);
            assert!(w.is_answer_lost(CALL), "{before}");
        }
    }

    /// It had the log when it answered, or again before it died, or a peer all the time.
    #[test]
    fn an_answer_that_others_could_have_known_is_not_excused() {
        for faults in [
            &[][..],
            &[(START + 2000, Fault::Cut(0))],
            &[(START + 500, Fault::Cut(0)), (DIES - 2000, Fault::Heal(0))],
            &[(START + 500, Fault::Cut(0)), (DIES - 2000, Fault::HealLog(0))],
            &[(START + 500, Fault::Cut(0)), (DIES - 2500, Fault::Heal(0)), (DIES - 500, Fault::Cut(0))],
            &[(DIES - 100, Fault::Cut(1))],
            &[(START + 500, Fault::CutLog(0))],
            &[(START + 500, Fault::CutLinks(0))],
        ] {
            assert!(!world(faults).is_answer_lost(CALL), "{faults:?}");
        }
    }
}
