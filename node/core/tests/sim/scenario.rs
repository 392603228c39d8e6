//! From a seed to a world: how bad the network is, what the calls do, when routes flip and nodes are cut off.

use crate::plan::{ContactHabit, Mid, Plan, PsapPlan, Rel, Who};
use crate::rng::Rng;
use crate::world::{Fault, Net, World};

/// Faults are over by then, ms.
const HEALED: u64 = 25_000;
/// All timers have run by then, ms: a call whose CANCEL found no owner rings for 180 s, then 64 × T1 for what is open.
const AT_REST: u64 = 290_000;

/// Builds a world from a seed and runs it until all must be at rest.
pub(crate) fn run(seed: u64, trace: bool) -> World {
    let mut rng = Rng::new(seed ^ 0x5eed);
    let nodes = rng.pick(&[1, 3, 3, 3, 3]);
    let net = net(&mut rng);
    let calls = rng.range(1, 6);
    let mut plans: Vec<Plan> = (0..calls).map(|_| plan(&mut rng)).collect();
    // Of a generator of its own: older seeds keep their routes and faults.
    let mut habits = Rng::new(seed ^ 0x100e1);
    for plan in &mut plans {
        plan.rel = habits.pick(&[Rel::Silent, Rel::Silent, Rel::Supported, Rel::Required]);
        plan.psap_forks = habits.per_mille(300);
        plan.psap_rel = habits.pick(&[None, None, Some(false), Some(true)]);
    }
    let net = Net { ipv6: habits.per_mille(300), ..net };
    let mut deaths = Rng::new(seed ^ 0xdead);
    if deaths.per_mille(200) {
        for plan in &mut plans {
            let tries = (deaths.range(200, 9000), usize::try_from(deaths.range(0, nodes as u64)).expect("few"));
            plan.failover = deaths.per_mille(500).then_some(tries);
        }
    }
    let mut world = World::new(seed, nodes, plans, net);
    world.trace = trace;
    // Half of them with a log as the version before wrote it.
    if Rng::new(seed ^ 0x1e7e1).per_mille(500) {
        world.raise_level();
    }
    if nodes > 1 {
        for _ in 0..rng.range(0, 8) {
            let at = rng.range(0, HEALED);
            world.fault_at(at, Fault::Flip(usize::try_from(rng.range(0, 3)).expect("few")));
        }
        if rng.per_mille(300) {
            for _ in 0..rng.range(1, 3) {
                let node = usize::try_from(rng.range(0, 3)).expect("few");
                let at = rng.range(0, HEALED - 2000);
                world.fault_at(at, Fault::Cut(node));
                world.fault_at(rng.range(at + 100, HEALED).min(at + 15_000), Fault::Heal(node));
            }
            for node in 0..3 {
                world.fault_at(HEALED, Fault::Heal(node));
            }
        }
    }
    if nodes > 1 {
        hardships(&mut world, &mut deaths);
    }
    world.run_until(AT_REST);
    world.outlive();
    world
}

/// Nodes that die and start again; links and the log that go and come apart from each other.
fn hardships(world: &mut World, rng: &mut Rng) {
    let node = |rng: &mut Rng| usize::try_from(rng.range(0, 3)).expect("few");
    if rng.per_mille(200) {
        for _ in 0..rng.range(1, 3) {
            let (dies, at) = (node(rng), rng.range(100, HEALED - 4000));
            world.fault_at(at, Fault::Kill(dies));
            world.fault_at(rng.range(at + 100, HEALED).min(at + 12_000), Fault::Restart(dies));
        }
        for dies in 0..3 {
            world.fault_at(HEALED, Fault::Restart(dies));
        }
    }
    if rng.per_mille(150) {
        for _ in 0..rng.range(1, 4) {
            let (of, at) = (node(rng), rng.range(0, HEALED - 2000));
            let (cut, heal): (Fault, Fault) = match rng.per_mille(500) {
                true => (Fault::CutLinks(of), Fault::HealLinks(of)),
                false => (Fault::CutLog(of), Fault::HealLog(of)),
            };
            world.fault_at(at, cut);
            world.fault_at(rng.range(at + 50, HEALED).min(at + 10_000), heal);
        }
        for of in 0..3 {
            world.fault_at(HEALED, Fault::Heal(of));
        }
    }
}

fn net(rng: &mut Rng) -> Net {
    let mut net = Net::calm();
    net.delay = rng.pick(&[(500, 2000), (1000, 20_000), (5000, 60_000)]);
    net.commit = rng.pick(&[(1000, 5000), (10_000, 40_000), (30_000, 300_000)]);
    net.apply = rng.pick(&[(100, 2000), (1000, 30_000)]);
    net.loss = rng.pick(&[0, 0, 10, 50, 80]);
    net.duplicate = rng.pick(&[0, 0, 20, 200]);
    net.late = (rng.pick(&[0, 0, 30]), 400_000);
    net.stray = rng.pick(&[0, 0, 100, 500]);
    net.peer_loss = rng.pick(&[0, 0, 30]);
    net.false_failure = rng.pick(&[0, 0, 50]);
    net
}

fn plan(rng: &mut Rng) -> Plan {
    let mut plan = Plan::plain(rng.range(10, 12_000));
    plan.habit = rng.pick(&[
        ContactHabit::Honours,
        ContactHabit::Honours,
        ContactHabit::Ignores,
        ContactHabit::OutboundProxy,
        ContactHabit::KeepsRoute,
    ]);
    let ring = rng.range(1, 800);
    plan.psap = match rng.range(0, 8) {
        0 => PsapPlan::Busy { after: rng.range(1, 1500) },
        1 => PsapPlan::RingOnly,
        _ => PsapPlan::Answer { ring, answer: ring + rng.pick(&[1, 300, 2500]) },
    };
    if plan.psap == PsapPlan::RingOnly || rng.per_mille(150) {
        plan.cancel = Some(rng.range(1, 4000));
    }
    plan.hang_up = (rng.pick(&[Who::Caller, Who::Psap]), rng.range(1, 9000));
    plan.both = rng.per_mille(100);
    plan.delayed_offer = rng.per_mille(150);
    for _ in 0..rng.pick(&[0, 0, 1, 2, 4]) {
        let who = rng.pick(&[Who::Caller, Who::Psap]);
        let what = rng.pick(&[Mid::Hold, Mid::Hold, Mid::Info, Mid::Options, Mid::Update]);
        plan.mid.push((who, rng.range(50, 6000), what));
    }
    plan
}
