//! 3xx of the called side, several failures, causes: what is tried next, and what the caller and the record are told.

use bytes::Bytes;
use sbc_core::io::{HostAndPort, Transport};
use sbc_core::policy::{MethodPolicy, RedirectPolicy, ReferPolicy, TrunkTarget};
use sbc_core::sip::{HeaderId, Message, Method};
use sbc_core::store_pb::Cdr;

use crate::invariants;
use crate::plan::{Plan, Who};
use crate::world::{Net, World, addr};

/// Targets that the tests themselves answer for.
const FIRST: &str = "198.18.20.8:5060";
const SECOND: &str = "198.18.20.9:5060";
/// The phone.
const PSAP: &str = "198.18.20.1:5060";

fn world(targets: &[&str], redirects: RedirectPolicy) -> World {
    let mut world = World::new(3, 1, vec![Plan::plain(100)], Net::calm());
    world.sent = Some(Vec::new());
    world.trace = std::env::var_os("SIM_TRACE").is_some();
    world.reconfigure(|config| {
        config.trunks[1].requests.redirects = redirects;
        let target = |t: &&str| TrunkTarget {
            host: HostAndPort { host: addr(t).ip().to_string().into(), port: Some(addr(t).port()) },
            transport: Some(Transport::Udp),
        };
        config.trunks[1].targets = targets.iter().map(target).collect();
    });
    world
}

/// The last INVITE that a node sent to this address.
fn invite_to(w: &World, to: &str) -> Option<Message> {
    let sent = w.sent.as_ref().expect("recorded").iter().rev().filter(|s| s.node.is_some() && s.to == addr(to));
    sent.filter_map(|s| Message::parse(s.bytes.clone()).ok()).find(|m| m.is_request() && m.method() == &Method::Invite)
}

/// That target answers the last INVITE that it got.
fn answer(w: &mut World, at: &str, status: u16, fields: &[(&str, &str)]) {
    let invite = invite_to(w, at).unwrap_or_else(|| panic!("{at} was not dialled"));
    let mut draft = invite.response(status, None);
    draft.set(HeaderId::To, format!("{};tag=far", invite.to()));
    for (name, value) in fields {
        draft.push_named(name, *value);
    }
    let to = w.nodes[0].core;
    w.inject(addr(at), to, draft.encode().expect("valid"));
    let end = w.now / 1000 + 50;
    w.run_until(end);
}

/// The final response at the caller.
fn told(w: &World) -> Option<Message> {
    let caller = w.phones[0].addr;
    let sent = w.sent.as_ref().expect("recorded").iter().rev().filter(|s| s.node.is_some() && s.to == caller);
    let finals = sent.filter_map(|s| Message::parse(s.bytes.clone()).ok());
    finals.filter(|m| m.method() == &Method::Invite).find(|m| m.status().is_some_and(|s| s >= 200))
}

fn at_rest(w: &mut World) {
    w.run_until(290_000);
    let wrong = invariants::check(w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn cdr(w: &World) -> Cdr {
    let replica = w.nodes[0].replica.read().expect("one thread");
    (*replica.cdrs(0, 10).expect("nothing is compacted")[0]).clone()
}

#[test]
fn a_3xx_is_followed_in_the_order_of_its_q() {
    let mut w = world(&[FIRST], RedirectPolicy::Follow);
    w.run_until(150);
    let contacts = format!(
        "<sip:slow@{SECOND}>;q=0.1, <sip:psap@{PSAP};x=y?Diversion=%3Csip:a@b%3E>;q=0.7, <tel:112>, <sip:loop@198.18.112.112>;q=0.9"
    );
    answer(&mut w, FIRST, 302, &[("Contact", &contacts)]);
    let invite = invite_to(&w, PSAP).expect("the preferred one was dialled");
    assert_eq!(
        invite.request_uri(),
        Some(&*format!("sip:psap@{PSAP};x=y")),
        "RFC 3261 §19.1.1: the Contact, without its headers"
    );
    assert!(invite_to(&w, SECOND).is_none());
    at_rest(&mut w);
    assert_eq!(told(&w).and_then(|m| m.status()), Some(200));
}

#[test]
fn a_3xx_is_passed_where_the_trunk_says_so() {
    let mut w = world(&[FIRST], RedirectPolicy::Pass);
    w.run_until(150);
    answer(&mut w, FIRST, 302, &[("Contact", "<sip:psap@198.18.20.1>")]);
    let told = told(&w).expect("the caller is told");
    assert_eq!((told.status(), told.first(HeaderId::Contact)), (Some(302), Some("<sip:psap@198.18.20.1>")));
    assert!(invite_to(&w, PSAP).is_none());
    at_rest(&mut w);
}

#[test]
fn redirects_in_circles_end() {
    let mut w = world(&[FIRST], RedirectPolicy::Follow);
    w.run_until(150);
    let (to_first, to_second) = (format!("<sip:a@{FIRST}>"), format!("<sip:b@{SECOND}>"));
    answer(&mut w, FIRST, 302, &[("Contact", &to_second)]);
    answer(&mut w, SECOND, 302, &[("Contact", &to_first)]);
    answer(&mut w, FIRST, 302, &[("Contact", &to_second)]);
    assert_eq!(told(&w).and_then(|m| m.status()), Some(302), "where both were tried, the caller is told");
    at_rest(&mut w);
}

#[test]
fn the_next_target_after_a_5xx_and_the_best_of_failures_at_the_end() {
    let mut w = world(&[FIRST, SECOND], RedirectPolicy::Pass);
    w.run_until(150);
    answer(&mut w, FIRST, 500, &[("Reason", "Q.850;cause=41"), ("X-First", "yes")]);
    assert!(told(&w).is_none(), "another target is left");
    answer(&mut w, SECOND, 503, &[("Retry-After", "7")]);
    let told = told(&w).expect("nothing is left");
    assert_eq!((told.status(), told.first_named("X-First")), (Some(500), Some("yes")), "of two 5xx the first");
    assert_eq!(told.first(HeaderId::Reason), Some("Q.850;cause=41"));
    at_rest(&mut w);
    assert_eq!(cdr(&w).cause.expect("a cause").q850, 41);
}

/// RFC 3261 §16.7 step 6, §21.5.4: by a 503 upstream elements would take the address of all nodes out of service.
#[test]
fn a_targets_503_is_a_500_for_the_caller() {
    let mut w = world(&[FIRST], RedirectPolicy::Pass);
    w.run_until(150);
    answer(&mut w, FIRST, 503, &[("Retry-After", "7"), ("Reason", "Q.850;cause=42")]);
    let told = told(&w).expect("nothing is left");
    assert_eq!((told.status(), told.reason(), told.first(HeaderId::RetryAfter)), (Some(500), "Server Internal Error", None));
    assert_eq!(told.first(HeaderId::Reason), Some("Q.850;cause=42"), "all else crosses");
    at_rest(&mut w);
    assert_eq!(cdr(&w).cause.expect("a cause").status, 500);
}

#[test]
fn retry_after_of_a_user_reaches_the_caller() {
    for status in [404, 413, 480, 486, 500, 600, 603] {
        let mut w = world(&[FIRST], RedirectPolicy::Pass);
        w.run_until(150);
        answer(&mut w, FIRST, status, &[("Retry-After", "7")]);
        let told = told(&w).expect("nothing is left");
        assert_eq!((told.status(), told.first(HeaderId::RetryAfter)), (Some(status), Some("7")));
    }
}

#[test]
fn the_users_answer_goes_at_once() {
    let mut w = world(&[FIRST, SECOND], RedirectPolicy::Follow);
    w.run_until(150);
    answer(&mut w, FIRST, 603, &[("Reason", "Q.850;cause=21;text=\"rejected\"")]);
    assert_eq!(told(&w).and_then(|m| m.status()), Some(603));
    assert!(invite_to(&w, SECOND).is_none());
    at_rest(&mut w);
    assert_eq!(cdr(&w).cause.expect("a cause").q850, 21);
}

/// 408 is a proxy's word that nobody answered there, 430 that the way to it is gone: neither is the user's.
#[test]
fn a_target_where_nobody_answered_is_left() {
    for status in [408, 430] {
        let mut w = world(&[FIRST, SECOND], RedirectPolicy::Pass);
        w.run_until(150);
        answer(&mut w, FIRST, status, &[]);
        assert!(told(&w).is_none(), "another target is left");
        answer(&mut w, SECOND, 486, &[]);
        assert_eq!(told(&w).and_then(|m| m.status()), Some(486));
        at_rest(&mut w);
        let mut w = world(&[FIRST], RedirectPolicy::Pass);
        w.run_until(150);
        answer(&mut w, FIRST, status, &[]);
        assert_eq!(told(&w).and_then(|m| m.status()), Some(status), "where nothing is left, the caller is told that");
    }
}

/// A request of the caller within its dialog, made of its ACK.
fn within(w: &World, method: &str, fields: &str) -> Bytes {
    let sent = w.sent.as_ref().expect("recorded").iter();
    let texts = sent.filter(|s| s.from == w.phones[0].addr).map(|s| String::from_utf8_lossy(&s.bytes).into_owned());
    let ack = texts.filter(|t| t.starts_with("ACK ")).last().expect("the call was acknowledged");
    let head = ack.split("\r\n\r\n").next().expect("a head").replacen("ACK ", &format!("{method} "), 1);
    let head =
        head.replace("CSeq: 1 ACK", &format!("CSeq: 1 {method}")).replace("branch=z9hG4bK", &format!("branch=z9hG4bK{method}"));
    Bytes::from(format!("{head}\r\n{fields}\r\n"))
}

#[test]
fn refer_and_unknown_methods_by_trunk() {
    let status = |method: &str, refer, unknown_methods| {
        let plan = Plan { hang_up: (Who::Caller, 20_000), ..Plan::plain(100) };
        let mut w = World::new(3, 1, vec![plan], Net::calm());
        w.sent = Some(Vec::new());
        w.reconfigure(|config| {
            (config.trunks[0].requests.refer, config.trunks[0].requests.unknown_methods) = (refer, unknown_methods)
        });
        w.run_until(5000);
        let (octets, to) = (within(&w, method, "Refer-To: <sip:x@198.18.20.4>\r\n"), w.nodes[0].unicast);
        w.inject(addr("198.18.10.7:5060"), to, octets);
        w.run_until(6000);
        let crossed =
            w.sent.as_ref().expect("recorded").iter().any(|s| s.to == addr(PSAP) && s.bytes.starts_with(method.as_bytes()));
        let answers = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr("198.18.10.7:5060"));
        let refused = answers.filter_map(|s| Message::parse(s.bytes.clone()).ok()?.status()).find(|s| *s >= 400);
        (crossed, refused)
    };
    assert_eq!(status("REFER", ReferPolicy::Reject, MethodPolicy::Refuse), (false, Some(403)));
    assert!(status("REFER", ReferPolicy::Pass, MethodPolicy::Refuse).0);
    assert_eq!(status("FLY", ReferPolicy::Pass, MethodPolicy::Refuse), (false, Some(501)));
    assert!(status("FLY", ReferPolicy::Pass, MethodPolicy::Pass).0);
}
