//! Targets that are dead: each call gets through, and the next ones do not pay for it again.

use std::time::Duration;

use sbc_core::io::{Counter, HostAndPort, ProbeOutcome, Realm, Target, TargetChange, Transport};
use sbc_core::policy::{Trunk, TrunkTarget};
use sbc_core::sip::{Message, Method};

use crate::invariants;
use crate::plan::Plan;
use crate::world::{Net, World, addr};

const DEAD: &str = "198.18.20.9:5060";
const ALIVE: &str = "198.18.20.1:5060";

/// Calls that begin at these times, ms, toward these targets.
fn world(starts: &[u64], targets: &[&str]) -> World {
    let mut world = World::new(3, 1, starts.iter().map(|at| Plan::plain(*at)).collect(), Net::calm());
    world.sent = Some(Vec::new());
    world.reconfigure(|config| {
        config.trunks[1].targets = targets
            .iter()
            .map(|target| {
                let at = addr(target);
                let host = HostAndPort { host: at.ip().to_string().into(), port: Some(at.port()) };
                TrunkTarget { host, transport: Some(Transport::Udp) }
            })
            .collect();
    });
    world
}

/// Each target that was dialled, in order, with how often its INVITE was sent left out.
fn dialled(world: &World) -> Vec<(String, String)> {
    let mut dialled: Vec<(String, String)> = Vec::new();
    for sent in world.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some()) {
        let Ok(message) = Message::parse(sent.bytes.clone()) else { continue };
        if message.is_request() && message.method() == &Method::Invite {
            let entry = (message.call_id().to_owned(), sent.to.to_string());
            if !dialled.contains(&entry) {
                dialled.push(entry);
            }
        }
    }
    dialled
}

fn targets(world: &World) -> Vec<String> {
    dialled(world).into_iter().map(|(_, to)| to).collect()
}

#[test]
fn a_dead_target_is_paid_for_once() {
    let mut w = world(&[100, 6000, 12_000, 40_000], &[DEAD, ALIVE]);
    w.run_until(5000);
    assert_eq!(targets(&w), [DEAD, ALIVE], "2 s of silence, then the next");
    w.run_until(20_000);
    assert_eq!(targets(&w), [DEAD, ALIVE, ALIVE, ALIVE], "held down");
    w.run_until(290_000);
    assert_eq!(targets(&w)[4..], [DEAD, ALIVE], "after its time one call tries it again");
    let wrong = invariants::check(&w);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(w.phones[0].legs.iter().all(|l| l.final_status == Some(200)));
    assert_eq!(w.phones[0].legs.len(), 4);
    assert_eq!(w.counted(Counter::Target(TargetChange::Held)), 1);
}

#[test]
fn held_down_is_not_left_out() {
    let mut w = world(&[100, 35_000], &[DEAD]);
    w.run_until(290_000);
    assert_eq!(targets(&w), [DEAD, DEAD], "the only target there is");
    assert!(w.phones[0].legs.iter().all(|l| l.final_status.is_some_and(|s| s >= 400)));
}

#[test]
fn a_trunk_may_have_a_time_of_its_own() {
    let mut w = world(&[100], &[DEAD, ALIVE]);
    w.reconfigure(|config| {
        let host = |text: &str| HostAndPort { host: addr(text).ip().to_string().into(), port: Some(5060) };
        let target = |text| TrunkTarget { host: host(text), transport: Some(Transport::Udp) };
        config.trunks[1].targets = vec![target(DEAD), target(ALIVE)];
        config.trunks[1].timers.failover_after = Some(Duration::from_millis(400));
    });
    w.run_until(1000);
    assert_eq!(targets(&w), [DEAD, ALIVE], "not after the 2 s of the settings");
}

/// What nodes sent of OPTIONS to an address.
fn probes(w: &World, to: &str) -> Vec<(Message, std::net::SocketAddr)> {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some() && s.to == addr(to));
    let messages = sent.filter_map(|s| Some((Message::parse(s.bytes.clone()).ok()?, s.from)));
    messages.filter(|(m, _)| m.is_request() && m.method() == &Method::Options).collect()
}

/// The same targets, asked every so many seconds.
fn probing(w: &mut World, targets: &[&str], every: Option<u64>) {
    w.reconfigure(|config| {
        config.trunks[1].timers.probe = every.map(Duration::from_secs);
        let target = |text: &&str| {
            let host = HostAndPort { host: addr(text).ip().to_string().into(), port: Some(addr(text).port()) };
            TrunkTarget { host, transport: Some(Transport::Udp) }
        };
        config.trunks[1].targets = targets.iter().map(target).collect();
    });
}

/// OPTIONS find a dead target before a call pays for it, and its recovery at once.
#[test]
fn a_dead_target_is_found_by_a_probe_and_so_is_its_recovery() {
    let mut w = world(&[20_000, 90_000], &[DEAD, ALIVE]);
    probing(&mut w, &[DEAD, ALIVE], Some(10));
    w.run_until(15_000);
    let (dead, alive) = (probes(&w, DEAD), probes(&w, ALIVE));
    let asked = &alive[0].0;
    assert_eq!(asked.request_uri(), Some("sip:198.18.20.1:5060"));
    let leaks = |m: &Message| String::from_utf8_lossy(m.raw()).contains("198.18.112.112");
    assert!(dead.iter().chain(&alive).all(|(m, _)| !leaks(m)), "rule F");
    assert!(dead.len() > alive.len(), "a silent one is asked again within its time");
    let last = w.probed.last().expect("it asked");
    assert_eq!((&*last.1, last.2), ("psap", true), "one of two targets is up");
    w.run_until(30_000);
    assert_eq!(targets(&w), [ALIVE], "no call pays for it");
    // It comes back: whoever has its next OPTIONS answered dials it again.
    w.run_until(60_000);
    let mut until = w.now / 1000;
    for _ in 0..20 {
        until += 1000;
        let before = probes(&w, DEAD).len();
        w.run_until(until);
        for (request, from) in &probes(&w, DEAD)[before..] {
            let mut draft = request.response(405, None);
            draft.set(sbc_core::sip::HeaderId::To, format!("{};tag=x", request.to()));
            w.inject(addr(DEAD), *from, draft.encode().expect("valid"));
        }
    }
    w.run_until(91_000);
    assert_eq!(targets(&w), [ALIVE, DEAD], "whatever it says, it is there");
    assert!(w.counted(Counter::Probe(ProbeOutcome::Down)) > 0 && w.counted(Counter::Probe(ProbeOutcome::Up)) > 0);
}

#[test]
fn probes_end_with_the_configuration_that_asked_for_them() {
    let mut w = world(&[], &[DEAD]);
    w.run_until(5000);
    assert!(probes(&w, DEAD).is_empty(), "nobody asked for them");
    probing(&mut w, &[DEAD], Some(5));
    w.run_until(20_000);
    assert!(w.probed.iter().all(|p| !p.2 && p.3.is_none()) && !w.probed.is_empty(), "{:?}", w.probed);
    probing(&mut w, &[DEAD], None);
    w.run_until(30_000);
    let count = probes(&w, DEAD).len();
    w.run_until(60_000);
    assert_eq!(probes(&w, DEAD).len(), count);
}

/// These trunks have one name as their target, which stands for what the world's `names` say, and are asked every so many seconds.
fn probing_name(w: &mut World, trunks: &[(&str, u64)]) {
    w.reconfigure(|config| {
        let host = HostAndPort { host: "psap.example.net".into(), port: None };
        config.trunks.retain(|t| &*t.name != "psap");
        config.trunks.extend(trunks.iter().map(|(name, every)| Trunk {
            timers: sbc_core::policy::TrunkTimers { probe: Some(Duration::from_secs(*every)), ..Default::default() },
            targets: vec![TrunkTarget { host: host.clone(), transport: None }],
            ..Trunk::new(name, Realm::Core)
        }));
    });
}

/// OPTIONS of one node to an address, a copy that is sent again left out.
fn asked_by(w: &World, node: usize, to: &str) -> Vec<String> {
    let from = w.nodes[node].core;
    let mut asked: Vec<String> = probes(w, to).iter().filter(|(_, f)| *f == from).map(|(m, _)| m.call_id().to_owned()).collect();
    asked.dedup();
    asked
}

/// RFC 3263 §4.2: each address of a name is asked, by the name; the call goes to the one that answers.
#[test]
fn each_address_of_a_name_is_asked() {
    let mut w = world(&[20_000], &[]);
    let udp = |at: &str| Target { addr: addr(at), transport: Transport::Udp };
    w.names = vec![udp(DEAD), udp(ALIVE)];
    probing_name(&mut w, &[("psap", 10)]);
    w.run_until(15_000);
    for at in [DEAD, ALIVE] {
        let found = probes(&w, at);
        assert!(!found.is_empty() && found.iter().all(|(m, _)| m.request_uri() == Some("sip:psap.example.net")), "{at}");
        assert_eq!(asked_by(&w, 0, at).len(), 2, "at once and after ten seconds");
    }
    assert!(w.probed.last().is_some_and(|p| p.2), "one of two addresses is up");
    w.run_until(30_000);
    assert_eq!(targets(&w), [ALIVE], "no call pays for the other");
    // The DNS takes the dead one out: it is asked no more, and what was found of it counts no longer.
    let before = asked_by(&w, 0, DEAD).len();
    w.names = vec![udp(ALIVE)];
    w.run_until(90_000);
    assert!(asked_by(&w, 0, DEAD).len() <= before + 1 && asked_by(&w, 0, ALIVE).len() >= 8);
}

/// RFC 5922 §7.2: what TLS proves is the name of the target, not what the DNS made of it.
#[test]
fn a_probe_by_tls_asks_for_the_targets_name() {
    let mut w = world(&[], &[]);
    w.names = vec![Target { addr: addr("198.18.20.1:5061"), transport: Transport::Tls }];
    probing_name(&mut w, &[("psap", 10)]);
    w.run_until(5000);
    let sent = w.sent.as_ref().expect("recorded");
    let opened: Vec<_> = sent.iter().filter(|s| s.to == addr("198.18.20.1:5061")).map(|s| s.stream.clone()).collect();
    assert!(opened.contains(&Some((Transport::Tls, None, Some("psap.example.net".into())))), "{opened:?}");
}

/// A target of several trunks is asked once, as often as the most eager one wants; each trunk hears of it.
#[test]
fn a_target_that_trunks_share_is_asked_once() {
    let told = |w: &World, trunk: &str, up: bool| w.probed.iter().filter(|p| &*p.1 == trunk && p.2 == up).count();
    for (at, up) in [(ALIVE, true), (DEAD, false)] {
        let mut w = world(&[], &[]);
        w.names = vec![Target { addr: addr(at), transport: Transport::Udp }];
        probing_name(&mut w, &[("psap", 10), ("desk", 25)]);
        w.run_until(59_000);
        assert_eq!(asked_by(&w, 0, at).len(), 6, "each ten seconds, not each 25 besides");
        for trunk in ["psap", "desk"] {
            assert!(told(&w, trunk, up) >= 5, "{trunk}");
            assert_eq!(told(&w, trunk, !up), 0, "{trunk}");
        }
        // Its first trunk is gone: the other asks for itself.
        probing_name(&mut w, &[("desk", 25)]);
        let before = asked_by(&w, 0, at).len();
        w.run_until(120_000);
        let after = asked_by(&w, 0, at).len() - before;
        assert!((2..=3).contains(&after), "{after}");
    }
}
