//! What a source may have answered that costs nothing but the answer (`source_rate`), and what one source is.

use bytes::Bytes;
use sbc_core::io::{Counter, DropReason};
use sbc_core::policy::{ClusterConfig, Route, RouteMatch};
use sbc_core::sip::Method;

use crate::plan::{Plan, Who};
use crate::rig::far::Far;
use crate::world::{Net, World, addr};

/// Requests in a row against a limit of two a second: two seconds' worth get through.
const TIMES: u64 = 30;
const THROUGH: usize = 4;
const PROBES: usize = 30;

fn world(net: Net, plans: Vec<Plan>, change: impl Fn(&mut ClusterConfig)) -> World {
    let mut w = World::new(7, 3, plans, net);
    w.sent = Some(Vec::new());
    w.reconfigure(|c| {
        c.settings.source_rate = 2;
        c.settings.emergency_source_rate = 2;
        change(c);
    });
    w.run_until(100);
    w
}

/// Final answers to this address.
fn finals(w: &World, to: &str) -> Vec<u16> {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr(to) && s.node.is_some());
    // By their first lines: what answers an unreadable request may lack what nobody could read.
    let status = |text: &str| text.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok();
    sent.filter_map(|s| status(&String::from_utf8_lossy(&s.bytes))).filter(|s| *s >= 200).collect()
}

fn initial(from: &str, method: &Method, uri: &str, id: &str, fields: &[(&str, &str)]) -> Bytes {
    let mut draft = Far::at(from).initial(method, uri, id, 1);
    for (name, value) in fields {
        draft.push_named(name, *value);
    }
    draft.encode().expect("well formed")
}

/// Each kind of answer without state, to strangers. Silence over the limit; another source, and calls for help, are not concerned.
#[test]
fn what_is_answered_without_state_is_limited_by_source() {
    let (from, uri) = ("198.18.30.1:5060", "sip:x@198.18.112.112");
    let of = |method: &Method, uri: &str, fields: &[(&str, &str)], n: u64| initial(from, method, uri, &format!("x{n}"), fields);
    type Make<'a> = Box<dyn Fn(u64) -> Bytes + 'a>;
    let table: Vec<(u16, Make<'_>)> = vec![
        (200, Box::new(|n| of(&Method::Options, uri, &[], n))),
        (405, Box::new(|n| of(&Method::Register, uri, &[], n))),
        (501, Box::new(|n| of(&Method::Other("FOO".into()), uri, &[], n))),
        (481, Box::new(|n| of(&Method::Bye, uri, &[], n))),
        (420, Box::new(|n| of(&Method::Options, uri, &[("Proxy-Require", "x")], n))),
        (416, Box::new(|n| of(&Method::Options, "http://x", &[], n))),
        (400, Box::new(|n| of(&Method::Options, "sip:@@", &[], n))),
        (403, Box::new(|n| of(&Method::Invite, uri, &[], n))),
        (
            481,
            Box::new(|n| {
                let text = String::from_utf8(of(&Method::Bye, uri, &[], n).to_vec()).expect("text");
                text.replace("To: <sip:x@198.18.112.112>", "To: <sip:x@198.18.112.112>;tag=none").into()
            }),
        ),
        (
            400,
            Box::new(|n| {
                let text = String::from_utf8(of(&Method::Options, uri, &[], n).to_vec()).expect("text");
                text.replace("CSeq: 1 OPTIONS", "CSeq: one").into()
            }),
        ),
    ];
    for (row, (status, make)) in table.into_iter().enumerate() {
        let mut w = world(Net::calm(), Vec::new(), |_| ());
        let to = w.anycast;
        (0..TIMES).for_each(|n| w.inject(addr(from), to, make(n)));
        w.run_until(150);
        assert_eq!(finals(&w, from), [status; THROUGH], "row {row}");
        assert_eq!(w.counted(Counter::Dropped(DropReason::SourceRate)), TIMES - THROUGH as u64, "row {row}");
        let (other, psap) = ("198.18.30.2:5060", "198.18.20.1:5060");
        w.inject(addr(other), to, initial(other, &Method::Options, uri, "other", &[]));
        let hopeless = initial(from, &Method::Invite, "sip:112@198.18.112.112", "urgent", &[]);
        w.inject(addr(from), to, hopeless.clone());
        w.inject(addr(from), to, String::from_utf8_lossy(&hopeless).replace("CSeq: 1", "CSeq: one").into());
        // A neighbour that probes.
        let core = w.nodes[0].core;
        (0..PROBES).for_each(|n| w.inject(addr(psap), core, initial(psap, &Method::Options, uri, &format!("p{n}"), &[])));
        w.run_until(200);
        assert_eq!(finals(&w, other), [200], "row {row}");
        assert_eq!(finals(&w, from)[THROUGH..], [403, 400], "row {row}: a call for help hears what is wrong");
        assert_eq!(finals(&w, psap), [200; PROBES], "row {row}");
    }
}

/// What leads to a call is heard, whatever else its source sends: also at a node that is not its owner.
#[test]
fn a_call_goes_on_while_its_source_is_over_the_limit() {
    let plan = Plan { hang_up: (Who::Caller, 5000), ..Plan::plain(100) };
    let mut w = world(Net::calm(), vec![plan], |_| ());
    let flooder = addr("198.18.10.1:5062");
    for second in 0..8 {
        w.run_until(500 + second * 1000);
        for n in 0..TIMES {
            let ping = initial("198.18.10.1:5062", &Method::Options, "sip:x@198.18.112.112", &format!("f{second}-{n}"), &[]);
            let to = w.nodes[usize::try_from(n % 3).expect("small")].unicast;
            w.inject(flooder, to, ping);
        }
    }
    w.run_until(40_000);
    assert!(w.counted(Counter::Dropped(DropReason::SourceRate)) > 100);
    assert!(w.phones[1].legs[0].bye_received);
    let wrong = crate::invariants::check(&w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A host with a /64 is one source, for calls, emergency calls and answers.
#[test]
fn a_host_with_a_network_is_one_source() {
    for (method, user, refused) in
        [(Method::Invite, "112", Some(503)), (Method::Invite, "49", Some(503)), (Method::Options, "49", None)]
    {
        let mut w = world(Net { ipv6: true, ..Net::calm() }, Vec::new(), |c| {
            c.routes.push(Route {
                name: "others".into(),
                matches: vec![RouteMatch::Prefix("4".into())],
                trunks: vec!["psap".into()],
            });
            // Nobody answers there.
            c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        });
        let to = w.anycast;
        let through = |w: &mut World, network: &str, first: u64| {
            let from: Vec<String> = (1..=TIMES).map(|n| format!("[2001:db8:10:{network}::{n:x}]:5060")).collect();
            for (n, from) in (first..).zip(&from) {
                let bytes = initial(from, &method, &format!("sip:{user}@[2001:db8:112::112]"), &format!("h{n}"), &[]);
                w.inject(addr(from), to, bytes);
            }
            w.run_until(w.now / 1000 + 50);
            let over = |from: &&String| if refused.is_some() { finals(w, from) == [503] } else { finals(w, from).is_empty() };
            from.len() - from.iter().filter(over).count()
        };
        assert_eq!(through(&mut w, "a", 0), THROUGH, "{method} {user}");
        assert_eq!(through(&mut w, "b", 100), THROUGH, "{method} {user}: another line");
    }
}
