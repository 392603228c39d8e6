//! The cases of anycast.md that this version promises, one directed test each: what is done, and who may answer.

use bytes::Bytes;
use sbc_core::io::{ClaimOutcome, Counter, MisrouteAction};
use sbc_core::policy::MisroutePolicy;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::invariants;
use crate::plan::{ContactHabit, Mid, Plan, PsapPlan, Who};
use crate::world::{Fault, Net, Sent, World, addr};

const START: u64 = 100;

pub(crate) fn world(plan: Plan) -> World {
    let mut world = World::new(3, 3, vec![plan], Net::calm());
    world.sent = Some(Vec::new());
    world.trace = std::env::var_os("SIM_TRACE").is_some();
    world
}

fn with_habit(habit: ContactHabit) -> Plan {
    Plan { habit, ..Plan::plain(START) }
}

pub(crate) fn parsed(sent: &Sent) -> Message {
    Message::parse(sent.bytes.clone()).expect("all sent is well formed")
}

/// What nodes sent, parsed, that fits.
pub(crate) fn by_nodes(world: &World, fits: impl Fn(&Sent, &Message) -> bool) -> Vec<(usize, Message)> {
    let sent = world.sent.as_ref().expect("recorded").iter();
    sent.filter_map(|s| Some((s.node?, s, parsed(s)))).filter(|(_, s, m)| fits(s, m)).map(|(n, _, m)| (n, m)).collect()
}

/// The last request of the caller with this method.
pub(crate) fn callers(world: &World, method: &Method) -> Bytes {
    let sent = world.sent.as_ref().expect("recorded").iter().rev();
    let mut mine = sent.filter(|s| s.node.is_none() && s.from == world.phones[0].addr);
    mine.find(|s| parsed(s).is_request() && parsed(s).method() == method).expect("it was sent").bytes.clone()
}

pub(crate) fn responses(world: &World, status: u16, method: &Method) -> Vec<(usize, Message)> {
    by_nodes(world, |s, m| s.to == world.phones[0].addr && m.status() == Some(status) && m.method() == method)
}

/// The caller's packet arrives at another node than the phone sent it to.
pub(crate) fn repeat_at(world: &mut World, node: usize, bytes: Bytes) {
    world.route = node;
    let (from, to) = (world.phones[0].addr, world.anycast);
    world.inject(from, to, bytes);
}

pub(crate) fn at_rest(world: &mut World) {
    world.run_until(290_000);
    let wrong = invariants::check(world);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

pub(crate) fn relayed(world: &World, method: &'static str) -> u64 {
    world.counted(Counter::Misrouted(method, MisrouteAction::Relay))
}

#[test]
fn ac_01_copy_of_an_invite_at_another_node() {
    let mut w = world(Plan::plain(START));
    w.run_until(400);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.run_until(420);
    let again = responses(&w, 180, &Method::Invite);
    assert_eq!(again.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1], "A's last response is repeated through B");
    assert_eq!(again[0].1.to(), again[1].1.to());
    at_rest(&mut w);
    assert_eq!(w.phones[1].legs.len(), 1);
}

#[test]
fn ac_02_both_copies_at_once() {
    let mut w = world(Plan::plain(START));
    w.run_until(102);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    at_rest(&mut w);
    assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Won)), 1);
    assert_eq!(w.counted(Counter::Claim(ClaimOutcome::Lost)), 1);
    assert_eq!(w.phones[1].legs.len(), 1);
    assert_eq!(w.phones[0].legs[0].final_status, Some(200));
}

#[test]
fn ac_04_copy_after_the_failure() {
    let mut w = world(Plan { psap: PsapPlan::Busy { after: 50 }, ..Plan::plain(START) });
    w.run_until(200);
    assert_eq!(responses(&w, 486, &Method::Invite).len(), 1);
    let invite = callers(&w, &Method::Invite);
    repeat_at(&mut w, 1, invite);
    w.run_until(600);
    at_rest(&mut w);
    assert_eq!(w.phones[1].legs.len(), 1, "no second call");
    assert!(responses(&w, 482, &Method::Invite).is_empty(), "a copy is no merged request");
}

#[test]
fn ac_06_cancel_at_another_node() {
    let mut w = world(Plan { psap: PsapPlan::RingOnly, cancel: Some(1000), ..Plan::plain(START) });
    w.fault_at(500, Fault::Flip(1));
    at_rest(&mut w);
    assert_eq!(responses(&w, 200, &Method::Cancel).first().map(|r| r.0), Some(1), "out through B");
    assert_eq!(w.phones[0].legs[0].final_status, Some(487));
    assert!(w.phones[1].legs[0].cancelled);
    assert_eq!(relayed(&w, "CANCEL"), 1);
}

#[test]
fn ac_07_cancel_before_its_claim() {
    let mut w = world(Plan { psap: PsapPlan::RingOnly, cancel: Some(5), ..Plan::plain(START) });
    w.net.commit = (100_000, 100_001);
    w.fault_at(103, Fault::Flip(1));
    at_rest(&mut w);
    assert_eq!(w.counted(Counter::Misrouted("CANCEL", MisrouteAction::Hold)), 1);
    assert_eq!(w.phones[0].legs[0].final_status, Some(487));
}

#[test]
fn ac_07_cancel_of_nothing_leaves_a_tombstone() {
    let mut w = world(Plan { cancel: None, ..Plan::plain(60_000) });
    let packet = |method: &str| {
        Bytes::from(format!(
            "{method} sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.9:5060;branch=z9hG4bKzz;rport\r\n\
             From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>\r\nCall-ID: tomb\r\nCSeq: 1 {method}\r\n\
             Max-Forwards: 70\r\nContact: <sip:c9@198.18.10.9>\r\nContent-Length: 0\r\n\r\n"
        ))
    };
    let (from, to) = (addr("198.18.10.9:5060"), w.anycast);
    w.run_until(100);
    w.inject(from, to, packet("CANCEL"));
    w.run_until(250);
    assert!(by_nodes(&w, |s, _| s.to == from).is_empty(), "held");
    w.run_until(400);
    w.inject(from, to, packet("INVITE"));
    w.run_until(1000);
    let status: Vec<_> = by_nodes(&w, |s, _| s.to == from).iter().map(|(_, m)| m.status()).collect();
    assert_eq!(status, [Some(481), Some(487)]);
    assert!(w.phones[1].legs.is_empty());
}

#[test]
fn ac_09_ack_for_a_failure_at_another_node() {
    let mut w = world(Plan { psap: PsapPlan::Busy { after: 500 }, ..Plan::plain(START) });
    w.fault_at(300, Fault::Flip(1));
    at_rest(&mut w);
    assert_eq!(relayed(&w, "ACK"), 1);
    assert_eq!(responses(&w, 486, &Method::Invite).len(), 1, "A stops repeating");
}

/// A request within a dialog that nobody has.
fn stranger(method: &str) -> Bytes {
    Bytes::from(format!(
        "{method} sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.9:5060;branch=z9hG4bKyy;rport\r\n\
         From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>;tag=nobody\r\nCall-ID: stranger\r\nCSeq: 2 {method}\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ))
}

fn answers_to_stranger(w: &mut World, method: &str) -> Vec<Message> {
    let (from, to) = (addr("198.18.10.9:5060"), w.anycast);
    let before = w.now / 1000;
    w.inject(from, to, stranger(method));
    w.run_until(before + 300);
    by_nodes(w, |s, _| s.to == from).into_iter().map(|(_, m)| m).collect()
}

#[test]
fn ac_10_ack_that_nobody_knows() {
    let mut w = world(Plan::plain(60_000));
    w.run_until(100);
    assert!(answers_to_stranger(&mut w, "ACK").is_empty());
}

fn ack_for_2xx(habit: ContactHabit) {
    let mut w = world(Plan { hang_up: (Who::Caller, 40_000), ..with_habit(habit) });
    w.fault_at(500, Fault::Flip(1));
    w.run_until(40_500);
    assert_eq!(relayed(&w, "ACK"), 1);
    assert_eq!(responses(&w, 200, &Method::Invite).len(), 1, "A stops repeating, and does not hang up after 32 s");
    assert!(!w.phones[0].legs[0].bye_received);
    at_rest(&mut w);
}

#[test]
fn ac_11_ack_of_a_ua_that_ignores_contact() {
    ack_for_2xx(ContactHabit::Ignores);
}

#[test]
fn ac_12_ack_through_an_outbound_proxy_set_to_anycast() {
    ack_for_2xx(ContactHabit::OutboundProxy);
}

#[test]
fn ac_14_bye_at_another_node() {
    let mut w = world(with_habit(ContactHabit::Ignores));
    w.fault_at(2500, Fault::Flip(1));
    at_rest(&mut w);
    assert_eq!(responses(&w, 200, &Method::Bye).iter().map(|r| r.0).collect::<Vec<_>>(), [1], "out through B");
    assert!(w.phones[1].legs[0].bye_received);
    assert_eq!(relayed(&w, "BYE"), 1);
}

#[test]
fn ac_15_redirect_once_then_relay() {
    let mut w = World::with_policy(3, 3, vec![with_habit(ContactHabit::Ignores)], Net::calm(), MisroutePolicy::Redirect);
    w.sent = Some(Vec::new());
    w.fault_at(2500, Fault::Flip(1));
    w.run_until(4500);
    let redirects = responses(&w, 302, &Method::Bye);
    assert_eq!(redirects.len(), 1);
    let contact = redirects[0].1.first(HeaderId::Contact).expect("a 302 has one").to_owned();
    let token = w.phones[0].legs[0].target.clone();
    assert_eq!(contact, format!("<{token}>"), "the owner's unicast address with the call's token");
    let bye = callers(&w, &Method::Bye);
    repeat_at(&mut w, 1, bye);
    w.run_until(5000);
    assert_eq!(responses(&w, 302, &Method::Bye).len(), 1);
    assert_eq!(responses(&w, 200, &Method::Bye).len(), 1);
    assert!(w.phones[1].legs[0].bye_received);
}

#[test]
fn ac_16_hold_at_another_node() {
    let mut w = world(Plan { mid: vec![(Who::Caller, 1000, Mid::Hold)], ..with_habit(ContactHabit::Ignores) });
    w.fault_at(1500, Fault::Flip(1));
    at_rest(&mut w);
    let answers = responses(&w, 200, &Method::Invite);
    assert_eq!(answers.iter().map(|r| r.0).collect::<Vec<_>>(), [0, 1]);
    assert!(answers[1].1.first(HeaderId::Contact).is_some_and(|c| c.contains("@198.18.0.1:5060>")), "rule K");
    assert!(w.phones[1].legs[0].remote_sdp.as_ref().is_some_and(|s| s.contains("a=sendonly")));
}

#[test]
fn ac_16_glare_is_answered_by_the_owner() {
    let mid = vec![(Who::Caller, 1000, Mid::Hold), (Who::Psap, 1000, Mid::Hold)];
    let mut w = world(Plan { mid, ..with_habit(ContactHabit::Ignores) });
    w.fault_at(1500, Fault::Flip(1));
    at_rest(&mut w);
    let holds = || w.phones.iter().flat_map(|p| &p.clients).filter(|c| c.method == Method::Invite && c.cseq > 1);
    let got: Vec<u16> = holds().flat_map(|c| c.finals.iter().map(|f| f.0)).collect();
    assert!(got.contains(&491), "{got:?}");
}

#[test]
fn ac_17_requests_within_the_dialog_at_another_node() {
    let kinds = [Mid::Info, Mid::Options, Mid::Update];
    let mid = kinds.iter().zip([500, 900, 1300]).map(|(m, at)| (Who::Caller, at, *m)).collect();
    let mut w = world(Plan { mid, ..with_habit(ContactHabit::Ignores) });
    w.fault_at(1300, Fault::Flip(1));
    at_rest(&mut w);
    for method in [Method::Info, Method::Options, Method::Update] {
        assert_eq!(responses(&w, 200, &method).iter().map(|r| r.0).collect::<Vec<_>>(), [1], "{method:?}");
    }
}

#[test]
fn ac_20_unknown_dialog_under_quorum() {
    let mut w = world(Plan::plain(60_000));
    w.run_until(100);
    let answers = answers_to_stranger(&mut w, "BYE");
    assert_eq!(answers.iter().map(Message::status).collect::<Vec<_>>(), [Some(481)]);
}

#[test]
fn ac_21_unknown_dialog_without_quorum() {
    let mut w = world(Plan::plain(60_000));
    w.fault_at(100, Fault::Cut(0));
    w.run_until(4000);
    let answers = answers_to_stranger(&mut w, "BYE");
    assert_eq!(answers.iter().map(Message::status).collect::<Vec<_>>(), [Some(503)]);
    let seconds: u32 = answers[0].number(HeaderId::RetryAfter).expect("Retry-After");
    assert!((1..=3).contains(&seconds));
}

#[test]
fn ac_21_valid_token_without_quorum_is_relayed() {
    let mut w = world(with_habit(ContactHabit::Ignores));
    // Node 2 is gone and node 1 has no quorum of its own, but its link to the owner works.
    w.fault_at(2000, Fault::Flip(1));
    w.no_quorum = true;
    w.run_until(8000);
    assert_eq!(relayed(&w, "BYE"), 1);
    assert!(w.phones[1].legs[0].bye_received);
    w.no_quorum = false;
    at_rest(&mut w);
}

#[test]
fn ac_33_contact_is_unicast_with_token() {
    let mut w = world(Plan::plain(START));
    at_rest(&mut w);
    for (_, m) in by_nodes(&w, |s, m| s.to == w.phones[0].addr && m.method() == &Method::Invite && m.status() > Some(100)) {
        let contact = m.first(HeaderId::Contact).expect("a dialog's response has one");
        let user = contact.strip_prefix("<sip:").and_then(|c| c.strip_suffix("@198.18.0.1:5060>"));
        assert_eq!(user.map(str::len), Some(26), "{contact}");
        assert_eq!(user, m.to_tag());
    }
}

#[test]
fn ac_34_own_route_is_stripped() {
    let mut w = world(with_habit(ContactHabit::KeepsRoute));
    w.fault_at(500, Fault::Flip(2));
    at_rest(&mut w);
    assert_eq!(w.phones[0].legs[0].final_status, Some(200));
    let psap = w.phones[1].addr;
    assert!(by_nodes(&w, |s, m| s.to == psap && m.first(HeaderId::Route).is_some()).is_empty());
    assert!(w.phones[1].legs[0].bye_received);
}
