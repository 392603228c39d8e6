//! The plain call, without any fault.

use crate::invariants;
use crate::plan::Plan;
use crate::world::{Net, World};

fn run(nodes: usize) -> World {
    let mut world = World::new(1, nodes, vec![Plan::plain(100)], Net::calm());
    world.trace = std::env::var_os("SIM_TRACE").is_some();
    world.run_until(120_000);
    world
}

fn assert_call(world: &World) {
    let wrong = invariants::check(world);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (caller, psap) = (&world.phones[0].legs[0], &world.phones[1].legs[0]);
    assert_eq!(caller.final_status, Some(200));
    assert!(caller.rang && psap.acked && psap.bye_received);
    assert!(caller.remote_sdp.as_ref().is_some_and(|s| s.contains("c=IN IP4 198.18.0.1")), "{:?}", caller.remote_sdp);
    assert!(psap.remote_sdp.as_ref().is_some_and(|s| s.contains("c=IN IP4 198.18.1.1")), "{:?}", psap.remote_sdp);
}

#[test]
fn one_node_carries_a_call() {
    assert_call(&run(1));
}

#[test]
fn three_nodes_carry_a_call() {
    assert_call(&run(3));
}
