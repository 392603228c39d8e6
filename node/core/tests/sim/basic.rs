//! The plain call, without any fault.

use sbc_core::io::Transport;
use sbc_core::sip::Method;

use crate::invariants;
use crate::plan::Plan;
use crate::rig::{PSAP, Rig};
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

/// The caller's network is IPv6, the PSAP's is IPv4: each sees addresses of its own family, and the owner's unicast one.
#[test]
fn a_caller_by_ipv6_and_a_psap_by_ipv4() {
    let mut world = World::new(1, 3, vec![Plan::plain(100)], Net { ipv6: true, ..Net::calm() });
    world.run_until(120_000);
    let wrong = invariants::check(&world);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let (caller, psap) = (&world.phones[0].legs[0], &world.phones[1].legs[0]);
    assert_eq!(caller.final_status, Some(200));
    assert!(psap.acked && psap.bye_received);
    assert!(
        caller.remote_sdp.as_ref().is_some_and(|s| s.contains("IN IP6 2001:db8::1\r") && !s.contains("IP4")),
        "{:?}",
        caller.remote_sdp
    );
    assert!(
        psap.remote_sdp.as_ref().is_some_and(|s| s.contains("IN IP4 198.18.1.1\r") && !s.contains("IP6")),
        "{:?}",
        psap.remote_sdp
    );
    assert!(caller.target.contains("@[2001:db8::1]:5060"), "{}", caller.target);
}

#[test]
fn one_node_carries_a_call() {
    assert_call(&run(1));
}

#[test]
fn three_nodes_carry_a_call() {
    assert_call(&run(3));
}

/// RFC 5407 §3.2.1: both hang up at once. The answer to our BYE may be read before the BYE that it crossed: they take two sockets.
#[test]
fn a_bye_that_crossed_ours_is_answered_after_ours_was() {
    let mut s = Rig::stands(Transport::Udp);
    s.got();
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    let (ours, _) = s.got_request(&Method::Bye);
    s.send(&ours.response(200, None));
    let crossed = s.within(&Method::Bye, 3);
    s.send(&crossed);
    let answer = |s: &mut Rig| s.got().into_iter().find_map(|(m, _)| m.status());
    assert_eq!(answer(&mut s), Some(200));
    // Timer K has run out by then: the dialog is no more.
    s.advance(6000);
    let late = s.within(&Method::Bye, 4);
    s.send(&late);
    assert_eq!(answer(&mut s), Some(481));
    s.calm();
}
