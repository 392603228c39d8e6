//! Loops and spirals (AC-45), and what a node without a lease does not begin (rule I).

use std::time::Duration;

use bytes::Bytes;
use sbc_core::ids::NodeId;
use sbc_core::io::{
    AddressRole, Counter, Envelope, Input, MisrouteAction, Output, Path, PeerMessage, Realm, Received, Transport,
};
use sbc_core::policy::Route;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::plan::{Plan, PsapPlan, Who};
use crate::world::{Net, World, addr};

/// Of the caller's trunk, where no phone is.
const UPSTREAM: &str = "198.18.10.7:5060";

fn world() -> World {
    let plan = Plan { psap: PsapPlan::Answer { ring: 100, answer: 20_000 }, hang_up: (Who::Caller, 20_000), ..Plan::plain(100) };
    let mut w = World::new(3, 2, vec![plan], Net::calm());
    w.sent = Some(Vec::new());
    w.reconfigure(|config| {
        config.routes.push(Route { name: "all".into(), matches: vec![], trunks: vec!["psap".into()] });
        assert_eq!(config.trunks[0].realm, Realm::External);
    });
    w
}

/// The INVITE as the called side has it.
fn crossed(w: &World) -> Message {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some() && s.to == w.phones[1].addr);
    let found = sent.filter_map(|s| Message::parse(s.bytes.clone()).ok()).find(|m| m.method() == &Method::Invite);
    found.expect("the PSAP was called")
}

/// A proxy beyond sends it back to the cluster, to this user, at this node; the status it gets.
fn returned(w: &mut World, node: usize, user: &str, fields: &str) -> Option<u16> {
    let invite = crossed(w);
    let mut draft = sbc_core::sip::Draft::request(&Method::Invite, user);
    draft.push(HeaderId::Via, format!("SIP/2.0/UDP {UPSTREAM};branch=z9hG4bKproxy{};rport", w.now));
    for field in invite.headers().filter(|f| f.id != HeaderId::MaxBreadth && f.id != HeaderId::ContentLength) {
        draft.push_field(&field);
    }
    for line in fields.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        draft.push_named(name, value);
    }
    draft.set_body(None, invite.body());
    let to = w.nodes[node].unicast;
    w.inject(addr(UPSTREAM), to, draft.encode().expect("valid"));
    let end = w.now / 1000 + 200;
    w.run_until(end);
    let answers = w.sent.as_ref().expect("recorded").iter().rev().filter(|s| s.node.is_some() && s.to == addr(UPSTREAM));
    answers.filter_map(|s| Message::parse(s.bytes.clone()).ok()?.status()).next()
}

#[test]
fn ac_45_a_request_that_comes_back_is_a_loop_at_every_node() {
    let mut w = world();
    w.run_until(1000);
    assert_eq!(crossed(&w).first(HeaderId::MaxBreadth), Some("60"));
    assert_eq!(returned(&mut w, 0, "sip:112@198.18.0.1", ""), Some(482));
    assert_eq!(returned(&mut w, 1, "sip:112@198.18.112.112", ""), Some(482));
}

#[test]
fn ac_45_a_spiral_goes_on() {
    let mut w = world();
    w.run_until(1000);
    let status = returned(&mut w, 1, "sip:someone-else@198.18.0.2", "");
    assert!(matches!(status, Some(100..=199)), "{status:?}");
}

#[test]
fn ac_45_breadth_that_is_used_up() {
    let mut w = world();
    w.run_until(1000);
    assert_eq!(returned(&mut w, 0, "sip:someone-else@198.18.0.1", "Max-Breadth: 0"), Some(440));
}

/// The caller's ACK is lost for good: 64 × T1 later the call ends, but not by a node without a lease.
#[test]
fn rule_i_without_a_lease_nobody_is_hung_up_on() {
    let ends = |no_quorum: bool| {
        let mut w = World::new(3, 3, vec![], Net::calm());
        w.sent = Some(Vec::new());
        let invite = "INVITE sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.7:5060;branch=z9hG4bKx;rport\r\n\
            Max-Forwards: 70\r\nFrom: <sip:a@c>;tag=f\r\nTo: <sip:112@c>\r\nCall-ID: lost-ack\r\nCSeq: 1 INVITE\r\n\
            Contact: <sip:a@198.18.10.7:5060>\r\nContent-Length: 0\r\n\r\n";
        let to = w.anycast;
        w.inject(addr(UPSTREAM), to, Bytes::from_static(invite.as_bytes()));
        w.run_until(500);
        let got = crossed(&w);
        let mut ok = got.response(200, None);
        ok.set(HeaderId::To, format!("{};tag=far", got.to()));
        ok.push(HeaderId::Contact, "<sip:p@198.18.20.1:5060>");
        let core = w.nodes[0].core;
        let psap = w.phones[1].addr;
        w.inject(psap, core, ok.encode().expect("valid"));
        w.run_until(1000);
        w.no_quorum = no_quorum;
        w.run_until(60_000);
        let byes = |w: &World| {
            let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some());
            sent.filter(|s| s.bytes.starts_with(b"BYE ")).count()
        };
        let before = byes(&w);
        w.no_quorum = false;
        w.run_until(70_000);
        (before > 0, byes(&w) > 0)
    };
    assert_eq!(ends(false), (true, true));
    assert_eq!(ends(true), (false, true), "it waits for the lease");
}

/// By a stale map a relay reaches a node that is not the owner: it goes no further, and is counted (rule D).
#[test]
fn ac_46_a_relay_is_not_relayed_again() {
    let mut w = World::new(3, 3, vec![Plan { hang_up: (Who::Caller, 20_000), ..Plan::plain(100) }], Net::calm());
    w.sent = Some(Vec::new());
    w.run_until(5000);
    let sent = w.sent.as_ref().expect("recorded").iter();
    let texts = sent.filter(|s| s.from == w.phones[0].addr).map(|s| String::from_utf8_lossy(&s.bytes).into_owned());
    let ack = texts.filter(|t| t.starts_with("ACK ")).last().expect("the call was acknowledged");
    let bye = ack.replacen("ACK ", "BYE ", 1).replace("CSeq: 1 ACK", "CSeq: 2 BYE").replace("branch=z9hG4bK", "branch=z9hG4bKx");
    let path = Path {
        role: AddressRole::Unicast,
        transport: Transport::Udp,
        local: w.nodes[2].unicast,
        remote: w.phones[0].addr,
        flow: None,
    };
    // From a socket the same is relayed, with the time that it has waited there.
    let waited = Duration::from_millis(1700);
    let received = Received { path, payload: Bytes::from(bye.clone()), at: w.time().mono - waited };
    let now = w.time();
    w.nodes[2].sbc.handle_input(now, Input::Received(received));
    let outputs: Vec<Output> = std::iter::from_fn(|| w.nodes[2].sbc.poll_output()).collect();
    let ages = outputs.iter().filter_map(|output| match output {
        Output::Peer { message: PeerMessage::Relay(envelope), .. } => Some(envelope.age),
        _ => None,
    });
    assert_eq!(ages.collect::<Vec<_>>(), [waited]);
    w.tell(2, 1, PeerMessage::Relay(Envelope { ingress: NodeId(3), path, payload: Bytes::from(bye), age: Duration::ZERO }));
    w.run_until(6000);
    assert_eq!(w.counted(Counter::Misrouted("BYE", MisrouteAction::Hop)), 1);
    assert_eq!(w.counted(Counter::Misrouted("BYE", MisrouteAction::Relay)), 0);
    assert!(!w.phones[1].legs[0].bye_received, "and nothing has happened");
}
