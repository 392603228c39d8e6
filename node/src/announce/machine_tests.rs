//! The machine by itself: its whole table, and what takes time.

use std::time::Duration;

use sbc_core::time::Instant;

use super::leave::Others;
use super::machine::{Action, AnnounceState, Attempt, Health, Machine, Policy};

const GOOD: Health = Health { sip_loop: true, core_side: true, raft: true, quorum: true, disk: true, media: true };

fn ms(n: u64) -> Instant {
    Instant::from_micros(n * 1000)
}

fn policy(preference: u64) -> Policy {
    let preference = Duration::from_millis(preference);
    Policy { exclusive: true, preference, up_after: Duration::ZERO, allow_degraded: false, keeps_last: false }
}

/// Each state by the shortest way.
fn in_state(name: &str) -> Machine {
    let mut m = Machine::new(policy(0), true, ms(0));
    if name == "never" {
        return m;
    }
    m.handle_health(GOOD, ms(0));
    assert_eq!(m.poll_action(ms(0)), Some(Action::Probe));
    if name == "standby" {
        m.on_probe(Ok(false), ms(0));
        return m;
    }
    m.on_probe(Ok(true), ms(0));
    assert_eq!(m.poll_action(ms(0)), Some(Action::Announce));
    if name == "failed" {
        m.on_announced(Attempt::Failed("x".into()), ms(0));
        return m;
    }
    m.on_announced(Attempt::Done, ms(0));
    if name == "withdrawn" {
        m.handle_wanted(false);
        assert_eq!(m.poll_action(ms(0)), Some(Action::Withdraw));
        m.on_withdrawn(Ok(()), ms(0));
    }
    m
}

/// The whole table: (state, event) → the next action, long after.
#[test]
fn table() {
    type Event = (&'static str, fn(&mut Machine));
    let events: [Event; 9] = [
        ("nothing", |_| {}),
        ("wanted", |m| m.handle_wanted(true)),
        ("not wanted", |m| m.handle_wanted(false)),
        ("now", |m| m.handle_now(ms(10_000))),
        ("step back", Machine::handle_step_back),
        ("drain", |m| m.handle_draining(true)),
        ("undrain", |m| m.handle_draining(false)),
        ("healthy", |m| m.handle_health(GOOD, ms(10_000))),
        ("ill", |m| m.handle_health(Health { sip_loop: false, ..GOOD }, ms(10_000))),
    ];
    let (p, a, w) = (Some(Action::Probe), Some(Action::Announce), Some(Action::Withdraw));
    let rows = [
        // nothing, wanted, not wanted, now, step back, drain, undrain, healthy, ill
        ("never", [None, None, None, None, None, None, None, p, None]),
        ("standby", [p, p, None, a, p, None, p, p, None]),
        ("announced", [None, None, w, None, w, w, None, None, w]),
        ("withdrawn", [None, p, None, a, p, None, None, None, None]),
        ("failed", [p, p, None, a, p, None, p, p, None]),
    ];
    for (state, expected) in rows {
        for ((event, apply), expected) in events.iter().zip(expected) {
            let mut m = in_state(state);
            apply(&mut m);
            assert_eq!(m.poll_action(ms(10_000)), expected, "{state} + {event}");
        }
    }
}

/// Runs `m` against an address that is free from `free_at` on; when it announces.
fn takes_at(m: &mut Machine, from: u64, free_at: u64) -> u64 {
    for t in from..from + 20_000 {
        while let Some(action) = m.poll_action(ms(t)) {
            match action {
                Action::Probe => m.on_probe(Ok(t >= free_at), ms(t)),
                Action::Announce if t >= free_at => {
                    m.on_announced(Attempt::Done, ms(t));
                    return t;
                }
                Action::Announce => m.on_announced(Attempt::InUse, ms(t)),
                Action::Withdraw => m.on_withdrawn(Ok(()), ms(t)),
            }
        }
    }
    panic!("never announced");
}

#[test]
fn preferences_order_the_takeover_and_a_flip_lands_on_its_target() {
    let standby = |preference| {
        let mut m = Machine::new(policy(preference), true, ms(0));
        m.handle_health(GOOD, ms(0));
        m
    };
    assert_eq!(takes_at(&mut standby(0), 0, 0), 0);
    let (mut a, mut b, mut c) = (standby(0), standby(150), standby(300));
    let (ta, tb, tc) = (takes_at(&mut a, 0, 1000), takes_at(&mut b, 0, 1000), takes_at(&mut c, 0, 1000));
    assert!((1000..1020).contains(&ta) && (1150..1190).contains(&tb) && (1300..1340).contains(&tc), "{ta} {tb} {tc}");
    // Flip from a (preference 0) to b.
    a.handle_step_back();
    assert_eq!(a.poll_action(ms(5000)), Some(Action::Withdraw));
    a.on_withdrawn(Ok(()), ms(5000));
    let mut b = standby(150);
    b.handle_now(ms(5000));
    assert!(takes_at(&mut b, 5000, 5001) <= 5006);
    // b is killed at 9000: a comes back, a second later than it would else; then it is an ordinary holder.
    let back = takes_at(&mut a, 5000, 9000);
    assert!((10_000..10_040).contains(&back), "{back}");
    assert_eq!(a.poll_action(ms(20_000)), None);
}

#[test]
fn an_order_is_pursued_for_its_limit_only() {
    let mut m = in_state("standby");
    m.handle_now(ms(0));
    let mut last = None;
    for t in 0..10_000 {
        match m.poll_action(ms(t)) {
            Some(Action::Announce) => {
                last = Some(t);
                m.on_announced(Attempt::InUse, ms(t));
            }
            Some(Action::Probe) => m.on_probe(Ok(false), ms(t)),
            _ => {}
        }
    }
    assert_eq!(last, Some(4995));
}

#[test]
fn health_comes_back_after_the_hold() {
    let mut m = Machine::new(Policy { up_after: Duration::from_secs(3), ..policy(0) }, true, ms(0));
    m.handle_health(Health { raft: false, ..GOOD }, ms(0));
    assert!(!m.is_healthy());
    m.handle_health(GOOD, ms(1000));
    assert_eq!((m.poll_action(ms(3999)), m.poll_timeout()), (None, Some(ms(4000))));
    assert_eq!(m.poll_action(ms(4000)), Some(Action::Probe));
    let mut degraded = Machine::new(Policy { allow_degraded: true, ..policy(0) }, true, ms(0));
    degraded.handle_health(Health { raft: false, ..GOOD }, ms(0));
    assert!(degraded.is_healthy());
    for ill in [Health { media: false, ..GOOD }, Health { core_side: false, ..GOOD }, Health { sip_loop: false, ..GOOD }] {
        degraded.handle_health(ill, ms(0));
        assert!(!degraded.is_healthy(), "{ill:?}");
    }
}

#[test]
fn a_holder_that_is_cut_off_leaves_the_address_to_a_standby_that_takes_it_and_else_takes_it_back() {
    let serve_instead = |m: &mut Machine, yes, now| m.handle_others(Others { serve_instead: yes }, now);
    let cut_off = Health { raft: false, quorum: false, ..GOOD };
    let degraded = Policy { allow_degraded: true, ..policy(0) };
    let mut m = Machine::new(degraded, true, ms(0));
    m.handle_health(GOOD, ms(0));
    assert_eq!(takes_at(&mut m, 0, 0), 0);
    m.handle_health(cut_off, ms(1000));
    assert_eq!(m.poll_action(ms(60_000)), None, "it hears of nobody: it may be the last");
    serve_instead(&mut m, true, ms(60_000));
    assert_eq!((m.poll_action(ms(61_999)), m.poll_timeout()), (None, Some(ms(62_000))));
    assert_eq!(m.poll_action(ms(62_000)), Some(Action::Withdraw));
    m.on_withdrawn(Ok(()), ms(62_000));
    assert!(m.has_left());
    // Nobody takes it: it comes back, and stays for a while.
    let back = takes_at(&mut m, 62_000, 0);
    assert!((67_000..67_050).contains(&back), "{back}");
    assert!(!m.has_left());
    assert_eq!(m.poll_action(ms(126_000)), None);
    assert_eq!(m.poll_action(ms(128_000)), Some(Action::Withdraw));
    m.on_withdrawn(Ok(()), ms(128_000));
    // Taken; then the other dies: whoever hears of nobody takes it as ever.
    while m.poll_action(ms(130_000)) == Some(Action::Probe) {
        m.on_probe(Ok(false), ms(130_000));
    }
    serve_instead(&mut m, false, ms(140_000));
    let back = takes_at(&mut m, 140_000, 0);
    assert!((140_000..140_050).contains(&back), "{back}");
}

#[test]
fn where_nodes_announce_side_by_side_who_is_ill_is_silent_while_another_serves() {
    let beside = Policy { exclusive: false, allow_degraded: true, ..policy(0) };
    let mut m = Machine::new(beside, true, ms(0));
    let full = Health { disk: false, ..GOOD };
    m.handle_health(full, ms(0));
    assert_eq!(m.poll_action(ms(0)), Some(Action::Announce), "nobody else serves");
    m.on_announced(Attempt::Done, ms(0));
    m.handle_others(Others { serve_instead: true }, ms(0));
    assert_eq!(m.poll_action(ms(2000)), Some(Action::Withdraw));
    m.on_withdrawn(Ok(()), ms(2000));
    assert_eq!((m.poll_action(ms(60_000)), m.has_left()), (None, true));
    // Well again: after a while. An order counts at once, and for a while.
    m.handle_health(GOOD, ms(60_000));
    assert_eq!((m.poll_action(ms(64_999)), m.poll_timeout()), (None, Some(ms(65_000))));
    m.handle_health(full, ms(64_999));
    m.handle_now(ms(70_000));
    assert_eq!(m.poll_action(ms(70_000)), Some(Action::Announce));
    m.on_announced(Attempt::Done, ms(70_000));
    assert_eq!(m.poll_action(ms(129_999)), None);
    assert_eq!(m.poll_action(ms(130_000)), Some(Action::Withdraw));
}

#[test]
fn a_failed_withdrawal_is_tried_again() {
    let mut m = in_state("announced");
    m.handle_draining(true);
    assert_eq!(m.poll_action(ms(0)), Some(Action::Withdraw));
    m.on_withdrawn(Err("no".into()), ms(0));
    assert_eq!(m.state(), &AnnounceState::Failed { reason: "no".into() });
    assert_eq!((m.poll_action(ms(999)), m.poll_timeout()), (None, Some(ms(1000))));
    assert_eq!(m.poll_action(ms(1000)), Some(Action::Withdraw));
}

#[test]
fn what_the_driver_has_lost_is_no_longer_announced_until_it_has_it_again() {
    let mut m = Machine::new(Policy { exclusive: false, ..policy(0) }, true, ms(0));
    m.handle_told(Err("no session".into()), ms(0));
    assert_eq!(*m.state(), AnnounceState::NeverAnnounced, "nothing was held");
    m.handle_health(GOOD, ms(0));
    assert_eq!(m.poll_action(ms(0)), Some(Action::Announce));
    m.on_announced(Attempt::Done, ms(0));
    m.handle_told(Err("no session".into()), ms(10));
    assert_eq!(*m.state(), AnnounceState::Failed { reason: "no session".into() });
    assert_eq!(m.poll_action(ms(20)), None);
    m.handle_told(Ok(()), ms(30));
    assert_eq!(m.poll_action(ms(30)), Some(Action::Announce), "at once");
    m.on_announced(Attempt::Done, ms(30));
    // Lost, and given up meanwhile: the driver is told, for the session may come back.
    m.handle_told(Err("no session".into()), ms(40));
    m.handle_draining(true);
    m.handle_told(Ok(()), ms(50));
    assert_eq!(m.poll_action(ms(50)), Some(Action::Withdraw));
    m.on_withdrawn(Ok(()), ms(50));
    m.handle_told(Ok(()), ms(60));
    m.handle_told(Err("no session".into()), ms(70));
    assert_eq!(m.poll_action(ms(5000)), None);
    assert_eq!(*m.state(), AnnounceState::Withdrawn);
}

/// (keeps the last, another serves) → what an ill node that announces does.
#[test]
fn the_last_one_stays_in_ill_health_where_the_policy_says_so() {
    for (keeps_last, serve_instead, withdraws) in
        [(false, false, true), (false, true, true), (true, false, false), (true, true, true)]
    {
        let mut m = Machine::new(Policy { exclusive: false, keeps_last, ..policy(0) }, true, ms(0));
        m.handle_health(GOOD, ms(0));
        m.poll_action(ms(0));
        m.on_announced(Attempt::Done, ms(0));
        m.handle_others(Others { serve_instead }, ms(0));
        m.handle_health(Health { media: false, ..GOOD }, ms(10));
        let action = m.poll_action(ms(10));
        assert_eq!(action, withdraws.then_some(Action::Withdraw), "{keeps_last} {serve_instead}");
        if !withdraws {
            m.handle_others(Others { serve_instead: true }, ms(20));
            assert_eq!(m.poll_action(ms(20)), Some(Action::Withdraw), "another one has come");
            m.on_withdrawn(Ok(()), ms(20));
            m.handle_others(Others { serve_instead: false }, ms(30));
            assert_eq!(m.poll_action(ms(30)), None, "an ill node does not begin");
        }
    }
    let mut m = Machine::new(Policy { exclusive: false, keeps_last: true, ..policy(0) }, true, ms(0));
    assert_eq!(m.poll_action(ms(0)), None, "nor does one that was never well");
    m.handle_health(GOOD, ms(0));
    m.poll_action(ms(0));
    m.on_announced(Attempt::Done, ms(0));
    m.handle_health(Health::default(), ms(10));
    m.handle_draining(true);
    assert_eq!(m.poll_action(ms(10)), Some(Action::Withdraw), "an order counts");
}

/// A health that comes and goes every two seconds for a minute: where another serves, the routes change a few times and then rest; the
/// last one is not kept away by it.
#[test]
fn a_flapping_health_check_is_damped() {
    let storm = |serve_instead| {
        let second = Duration::from_secs(1);
        let mut m = Machine::new(Policy { exclusive: false, up_after: second / 2, ..policy(0) }, true, ms(0));
        m.handle_others(Others { serve_instead }, ms(0));
        let (mut changes, mut last) = (0, 0);
        for at in (0..60_000).step_by(100) {
            let good = at / 1000 % 2 == 0;
            m.handle_health(Health { core_side: good, ..GOOD }, ms(at));
            while let Some(action) = m.poll_action(ms(at)) {
                (changes, last) = (changes + 1, at);
                match action {
                    Action::Announce => m.on_announced(Attempt::Done, ms(at)),
                    Action::Withdraw => m.on_withdrawn(Ok(()), ms(at)),
                    Action::Probe => unreachable!("nobody excludes it"),
                }
            }
        }
        // It is over: back within the longest wait, and after a steady minute as fast as ever.
        let mut back = None;
        for at in (60_000..160_000).step_by(100) {
            m.handle_health(GOOD, ms(at));
            if m.poll_action(ms(at)) == Some(Action::Announce) {
                m.on_announced(Attempt::Done, ms(at));
                back = Some(at - 60_000);
            }
        }
        m.handle_health(Health { core_side: false, ..GOOD }, ms(160_000));
        assert_eq!(m.poll_action(ms(160_000)), Some(Action::Withdraw));
        m.on_withdrawn(Ok(()), ms(160_000));
        m.handle_health(GOOD, ms(161_000));
        assert_eq!(m.poll_action(ms(161_500)), Some(Action::Announce));
        (changes, last, back.expect("it comes back"))
    };
    let (changes, last, back) = storm(true);
    assert!(changes <= 4 && last < 10_000, "{changes} changes, the last at {last} ms");
    assert!(back <= 30_000, "{back} ms");
    let (changes, _, back) = storm(false);
    assert!(changes >= 40 && back <= 500, "{changes} changes, back after {back} ms");
}
