//! A node is cut off from the others for a minute, and from the log, while its SIP can be reached; copies of INVITEs reach both parts (AC-55).

use sbc_core::io::{Counter, MisrouteAction};

use crate::cases::{callers, repeat_at, responses, world};
use crate::invariants::{self, no_ghost_rings};
use crate::phone::LegState;
use crate::plan::{ContactHabit, Plan, PsapPlan, Who};
use crate::rng::Rng;
use crate::seeds;
use crate::world::{Fault, Net, World, addr};
use sbc_core::sip::Method;

/// When the cut begins and ends, ms.
const CUT: u64 = 2000;
const HEALED: u64 = 62_000;
/// All timers have run by then, ms.
const AT_REST: u64 = 360_000;

/// What is wrong with the world of a seed.
fn wrong_with(seed: u64, trace: bool) -> Vec<String> {
    let world = cut(seed, trace);
    let mut wrong = invariants::check(&world);
    no_ghost_rings::check(&world, &mut wrong);
    wrong
}

fn cut(seed: u64, trace: bool) -> World {
    let mut rng = Rng::new(seed ^ 0xc07);
    let mut net = Net::calm();
    net.delay = rng.pick(&[(500, 2000), (1000, 20_000)]);
    net.commit = rng.pick(&[(1000, 5000), (10_000, 40_000), (30_000, 300_000)]);
    net.apply = rng.pick(&[(100, 2000), (1000, 30_000)]);
    net.loss = rng.pick(&[0, 0, 0, 10]);
    let plans = (0..rng.range(6, 14)).map(|_| plan(&mut rng)).collect();
    let mut w = World::new(seed, 3, plans, net);
    w.trace = trace;
    if rng.per_mille(800) {
        w.raise_level();
    }
    w.copies = Some(rng.pick(&[(100, 2000), (1000, 30_000), (100_000, 600_000), (500_000, 20_000_000)]));
    w.speaking = vec![[Some(addr("198.18.10.1:20000")), Some(addr("198.18.20.1:20000"))]; 3];
    let node = usize::try_from(rng.range(0, 3)).expect("few");
    w.fault_at(CUT, Fault::Cut(node));
    // The leader was cut off: the others elect one.
    if rng.per_mille(600) {
        w.fault_at(CUT, Fault::Leaderless);
        w.fault_at(CUT + rng.range(1000, 4000), Fault::Elected);
    }
    // Links come back before the log, or after it.
    let [links, log] = [0, 0].map(|_| HEALED + rng.range(0, 1500));
    w.fault_at(links, Fault::HealLinks(node));
    w.fault_at(log, Fault::HealLog(node));
    for _ in 0..rng.range(2, 12) {
        let at = rng.range(0, HEALED + 5000);
        w.fault_at(at, Fault::Flip(usize::try_from(rng.range(0, 3)).expect("few")));
    }
    w.run_until(AT_REST);
    w.outlive();
    w
}

fn plan(rng: &mut Rng) -> Plan {
    let mut plan = Plan::plain(rng.range(500, HEALED + 3000));
    plan.habit = rng.pick(&[ContactHabit::Honours, ContactHabit::Honours, ContactHabit::OutboundProxy, ContactHabit::Ignores]);
    let ring = rng.range(10, 800);
    let answer = ring + rng.pick(&[1, 300, 2500, 10_000, 40_000]);
    plan.psap = match rng.range(0, 8) {
        0 => PsapPlan::Busy { after: rng.range(1, 1500) },
        _ => PsapPlan::Answer { ring, answer },
    };
    if rng.per_mille(150) {
        plan.cancel = Some(rng.range(200, 4000));
    }
    plan.hang_up = (rng.pick(&[Who::Caller, Who::Psap]), rng.range(500, 60_000));
    plan
}

#[test]
fn ac_55_cut_seeds_hold() {
    // A world takes as long as several ordinary ones.
    seeds::hold(seeds::count() / 4, "one_cut_seed", |seed| wrong_with(seed, false));
}

/// One seed with its whole trace.
#[test]
fn one_cut_seed() {
    let Some(seed) = seeds::one() else { return };
    let wrong = wrong_with(seed, true);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A copy of each INVITE at either part; the call lasts for so long.
fn copied(talk: u64, answer: u64) -> World {
    let mut w =
        world(Plan { psap: PsapPlan::Answer { ring: 100, answer }, hang_up: (Who::Caller, talk), ..Plan::plain(CUT + 1000) });
    w.copies = Some((1000, 1001));
    w.fault_at(CUT, Fault::Cut(0));
    w
}

/// The PSAP rang for that call so many times.
fn rang(w: &World) -> usize {
    w.phones[1].legs.len()
}

#[test]
fn ac_55_nobody_rings_at_healing_for_a_call_that_is_over() {
    for (routed, no_leader) in [(0, false), (1, false), (0, true), (1, true)] {
        let mut w = copied(3000, 1000);
        w.fault_at(CUT, Fault::Flip(routed));
        if no_leader {
            w.fault_at(CUT, Fault::Leaderless);
            w.fault_at(CUT + 4000, Fault::Elected);
        }
        w.run_until(HEALED - 100);
        let before = rang(&w);
        assert!((1..=2).contains(&before), "{before}");
        w.fault_at(HEALED, Fault::Heal(0));
        w.run_until(AT_REST);
        assert_eq!(rang(&w), before, "at {routed}, a leader is elected: {no_leader}");
        let mut wrong = invariants::check(&w);
        no_ghost_rings::check(&w, &mut wrong);
        assert!(wrong.is_empty(), "at {routed}, a leader is elected: {no_leader}: {wrong:#?}");
    }
}

/// The copy is late: the call is over, or goes on, and only the node at the other side of the cut knows.
#[test]
fn ac_55_a_late_copy_asks_the_node_that_had_the_call() {
    // Begun before the cut and in the log; begun at the node that is cut off; begun at the others.
    for (start, first, other) in [(CUT - 1500, 0, 1), (CUT + 3000, 0, 1), (CUT + 3000, 1, 0)] {
        for (psap, cancel, talk) in [
            (PsapPlan::Answer { ring: 100, answer: 400 }, None, 500),
            (PsapPlan::Answer { ring: 100, answer: 400 }, None, 40_000),
            (PsapPlan::Busy { after: 100 }, None, 0),
            (PsapPlan::RingOnly, Some(600), 0),
        ] {
            for late in [2500, 6000, 20_000] {
                let mut w = world(Plan { psap, cancel, hang_up: (Who::Caller, talk), ..Plan::plain(start) });
                w.raise_level();
                w.fault_at(CUT, Fault::Cut(0));
                w.fault_at(100, Fault::Flip(first));
                w.run_until(start + late);
                let invite = callers(&w, &Method::Invite);
                repeat_at(&mut w, other, invite);
                w.fault_at(HEALED, Fault::Heal(0));
                w.run_until(AT_REST);
                let what = format!("begun at {start} at {first}, {psap:?}, cancelled {cancel:?}, {talk} ms, copied after {late}");
                assert_eq!((rang(&w), w.phones[1].merged.len()), (1, 0), "{what}");
                let mut wrong = invariants::check(&w);
                no_ghost_rings::check(&w, &mut wrong);
                assert!(wrong.is_empty(), "{what}: {wrong:#?}");
            }
        }
    }
}

/// Who cannot be asked is waited for no longer than an owner that is silent: its call rings once more, and not later than that.
#[test]
fn ac_55_a_late_copy_rings_where_nobody_can_be_asked() {
    for (start, first, late, waits) in
        [(CUT - 500, 0, 1000, 3000..5500), (CUT + 3000, 0, 2500, 0..500), (CUT + 3000, 1, 2500, 0..500)]
    {
        let mut w =
            world(Plan { psap: PsapPlan::Answer { ring: 100, answer: 400 }, hang_up: (Who::Caller, 500), ..Plan::plain(start) });
        w.raise_level();
        w.sip_apart = true;
        w.fault_at(CUT, Fault::Cut(0));
        w.fault_at(100, Fault::Flip(first));
        w.run_until(start + late);
        let invite = callers(&w, &Method::Invite);
        repeat_at(&mut w, 1 - first, invite);
        w.run_until(HEALED);
        // This PSAP remembers what it had, and says 482; another one would ring.
        let asked = w.phones[1].legs.iter().skip(1).map(|leg| leg.began_at).chain(w.phones[1].merged.iter().map(|m| m.1));
        let after = asked.min().expect("it was asked once more") / 1000 - (start + late);
        assert!(rang(&w) <= 2 && waits.contains(&after), "begun at {start} at {first}, asked again {after} ms after the copy");
        w.fault_at(HEALED, Fault::Heal(0));
        w.run_until(AT_REST);
        let wrong = invariants::check(&w);
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// Who cannot be asked costs a caller no more than the budget of a claim, once.
#[test]
fn ac_55_a_node_that_is_dead_is_asked_in_vain() {
    let plans = [5000, 6000, 7000].map(Plan::plain);
    let mut w = World::new(1, 3, plans.to_vec(), Net::calm());
    w.fault_at(1000, Fault::Kill(2));
    w.run_until(8000);
    let waited: Vec<u64> = w.phones[1].legs.iter().map(|l| l.began_at / 1000 - (5000 + 1000 * l.call as u64)).collect();
    assert!(matches!(waited[..], [100..160, ..20, ..20]), "{waited:?}");
}

#[test]
fn ac_55_the_log_comes_back_before_the_links() {
    let mut w = copied(3000, 1000);
    w.fault_at(CUT, Fault::Leaderless);
    w.fault_at(CUT + 4000, Fault::Elected);
    w.fault_at(HEALED, Fault::HealLog(0));
    w.fault_at(HEALED + 3000, Fault::HealLinks(0));
    w.run_until(AT_REST);
    let mut wrong = invariants::check(&w);
    no_ghost_rings::check(&w, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ac_55_a_short_cut_rings_nobody_who_has_hung_up() {
    // The cut is over while the INVITE is young: what became of it at the other node decides.
    for heal in [CUT + 8000, CUT + 15_000, CUT + 25_000] {
        let mut w = copied(1500, 1000);
        w.fault_at(CUT, Fault::Leaderless);
        w.fault_at(CUT + 4000, Fault::Elected);
        w.fault_at(heal, Fault::HealLog(0));
        w.fault_at(heal + 2000, Fault::HealLinks(0));
        w.run_until(AT_REST);
        let mut wrong = invariants::check(&w);
        no_ghost_rings::check(&w, &mut wrong);
        assert!(wrong.is_empty(), "healed at {heal}: {wrong:#?}");
    }
}

/// What was answered at the node that was cut off has its CDR, though the others had the claim.
#[test]
fn ac_55_each_answered_call_has_its_cdr() {
    for (talk, cancelled) in [(3000, false), (90_000, false), (3000, true)] {
        let mut w = copied(talk, 1000);
        w.raise_level();
        w.fault_at(CUT, Fault::Leaderless);
        w.fault_at(CUT + 500, Fault::Elected);
        w.fault_at(HEALED, Fault::Heal(0));
        if cancelled {
            // Copies of the INVITE went to a third one too, while the first spoke.
            w.fault_at(CUT + 2000, Fault::Flip(2));
        }
        w.run_until(AT_REST);
        w.outlive();
        let mut wrong = invariants::check(&w);
        no_ghost_rings::check(&w, &mut wrong);
        assert!(wrong.is_empty(), "{talk} ms: {wrong:#?}");
        let cdrs = w.nodes[1].replica.read().expect("one thread").cdrs(0, 10).expect("none was compacted");
        assert_eq!(cdrs.iter().filter(|c| c.answered_unix_ms > 0).count(), 1, "{talk} ms");
    }
}

/// A caller whose ACK goes to a node that is cut off from the one that answered.
fn ack_astray(speaks: bool) -> World {
    let mut w = world(Plan { habit: ContactHabit::Ignores, hang_up: (Who::Caller, 90_000), ..Plan::plain(500) });
    if speaks {
        w.speaking[0][0] = Some(addr("198.18.10.1:20000"));
    }
    w.fault_at(1200, Fault::CutLinks(1));
    w.fault_at(1300, Fault::Flip(1));
    w.run_until(60_000);
    assert!(w.phones[0].legs[0].answered);
    w
}

#[test]
fn ac_55_an_emergency_caller_that_is_heard_is_not_hung_up_on_for_its_ack() {
    let mut w = ack_astray(true);
    assert_eq!(w.phones[0].legs[0].state, LegState::Up);
    assert_eq!(w.phones[1].legs[0].state, LegState::Up);
    assert_eq!(w.counted(Counter::Misrouted("ACK", MisrouteAction::Missing)), 1);
    w.fault_at(61_000, Fault::HealLinks(1));
    crate::cases::at_rest(&mut w);
}

#[test]
fn ac_55_one_that_is_not_heard_is() {
    let w = ack_astray(false);
    assert_eq!(w.phones[1].legs[0].state, LegState::Ended);
    assert_eq!(w.counted(Counter::Misrouted("ACK", MisrouteAction::Missing)), 0);
}

/// Its claim's owner is silent, and the caller gives up at the node that holds a copy.
#[test]
fn ac_55_an_invite_that_waits_for_its_owner_can_be_cancelled() {
    let mut w = world(Plan { psap: PsapPlan::Answer { ring: 100, answer: 30_000 }, cancel: Some(1000), ..Plan::plain(100) });
    w.run_until(130);
    let invite = callers(&w, &Method::Invite);
    w.fault_at(140, Fault::Cut(0));
    w.run_until(150);
    repeat_at(&mut w, 1, invite);
    w.run_until(1200);
    let [told, refused] = [(200, Method::Cancel), (487, Method::Invite)].map(|(status, method)| responses(&w, status, &method));
    assert_eq!((told[0].0, refused[0].0), (1, 1));
    assert_eq!(told[0].1.to_tag(), refused[0].1.to_tag());
    assert!(responses(&w, 481, &Method::Cancel).is_empty());
}

#[test]
fn ac_55_an_invite_that_waited_for_its_whole_life_is_not_dialled() {
    let mut w = world(Plan::plain(100));
    w.run_until(130);
    let invite = callers(&w, &Method::Invite);
    // A node whose owner is silent holds it; but it was paused meanwhile.
    w.fault_at(140, Fault::Cut(0));
    w.run_until(150);
    repeat_at(&mut w, 1, invite);
    w.run_until(160);
    let held = w.nodes[1].counters.get(&Counter::Misrouted("INVITE", MisrouteAction::Hold)).copied();
    assert_eq!(held, Some(1));
    w.freeze(1, 40_000);
    w.fault_at(45_000, Fault::Heal(0));
    w.run_until(60_000);
    assert_eq!(rang(&w), 1, "{:?}", responses(&w, 180, &Method::Invite));
}
