//! Slow targets, silent ones, and ones that refuse: who is dialled when, who is cancelled, and what the caller is told.

use std::net::SocketAddr;

use sbc_core::io::{HostAndPort, Realm, Transport};
use sbc_core::policy::{ClusterConfig, MisroutePolicy, Settings, Trunk, TrunkTarget};
use sbc_core::sip::{HeaderId, Message, Method};

use crate::far::{Far, sdp, wait};
use crate::world::{Net, World, addr, config};

const URI: &str = "sip:112@198.18.112.112";
const FIRST: &str = "198.18.20.8:5060";
const SECOND: &str = "198.18.20.9:5060";

pub(crate) type Request = (Message, SocketAddr);

pub(crate) struct Desk {
    pub(crate) w: World,
    pub(crate) caller: Far,
    pub(crate) first: Far,
    pub(crate) second: Far,
    calls: u32,
}

impl Desk {
    pub(crate) fn new(change: impl FnOnce(&mut ClusterConfig)) -> Desk {
        let mut config = config(MisroutePolicy::Relay, false);
        config.settings = Settings::default();
        config.trunks[1].targets = [FIRST, SECOND].map(target).to_vec();
        change(&mut config);
        let mut w = World::with_config(3, 1, Vec::new(), Net::calm(), |_| config);
        w.sent = Some(Vec::new());
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.run_until(100);
        Desk { w, caller: Far::at("198.18.10.9:5060"), first: Far::at(FIRST), second: Far::at(SECOND), calls: 0 }
    }

    pub(crate) fn dials(&mut self) {
        self.dials_with(&[]);
    }

    pub(crate) fn dials_with(&mut self, fields: &[(&str, &str)]) {
        self.calls += 1;
        let mut draft = self.caller.initial(&Method::Invite, URI, &format!("x{}", self.calls), 1);
        draft.set_body(Some("application/sdp"), sdp());
        let anycast = self.w.anycast;
        self.caller.put(&mut self.w, &mut draft, anycast, fields);
        wait(&mut self.w, 50);
    }

    /// Statuses that the caller has been sent since the last look, but 100; those that are repeated once.
    pub(crate) fn told(&mut self) -> Vec<u16> {
        let mut got: Vec<u16> = self.caller.inbox(&self.w).iter().filter_map(|(m, _)| m.status()).filter(|s| *s > 100).collect();
        got.dedup();
        got
    }

    pub(crate) fn call_first(&mut self) -> Request {
        self.first.request(&self.w, &Method::Invite)
    }

    pub(crate) fn call_second(&mut self) -> Request {
        self.second.request(&self.w, &Method::Invite)
    }

    pub(crate) fn says(&mut self, far: fn(&Desk) -> &Far, invite: &Request, status: u16) {
        let at = far(self).addr;
        let mut draft = invite.0.response(status, None);
        if status > 100 {
            draft.set(HeaderId::To, format!("{};tag=far", invite.0.to()));
            draft.push(HeaderId::Contact, format!("<sip:far@{at}>"));
        }
        if status == 200 {
            draft.set_body(Some("application/sdp"), sdp());
        }
        self.w.inject(at, invite.1, draft.encode().expect("well formed"));
        wait(&mut self.w, 50);
    }

    #[track_caller]
    pub(crate) fn calm(&self) {
        assert!(self.w.violations.is_empty(), "{:#?}", self.w.violations);
    }
}

fn target(text: &str) -> TrunkTarget {
    let host = HostAndPort { host: addr(text).ip().to_string().into(), port: Some(5060) };
    TrunkTarget { host, transport: Some(Transport::Udp) }
}

pub(crate) fn first(d: &Desk) -> &Far {
    &d.first
}

pub(crate) fn second(d: &Desk) -> &Far {
    &d.second
}

/// Methods of what came, retransmissions once.
pub(crate) fn methods(far: &mut Far, w: &World) -> Vec<String> {
    let mut got: Vec<String> =
        far.inbox(w).iter().filter(|(m, _)| m.is_request()).map(|(m, _)| m.method().as_str().to_owned()).collect();
    got.dedup();
    got
}

/// The second target is on the other side, and the ports that the first was called with are gone: what that one says is too late.
#[test]
fn a_slow_target_whose_ports_are_gone_is_left() {
    for status in [180, 200] {
        let mut d = Desk::new(|config| {
            config.trunks[1].targets.truncate(1);
            let outside = Trunk { sources: config.trunks[1].sources.clone(), ..Trunk::new("outside", Realm::External) };
            config.trunks.push(Trunk { targets: vec![target(SECOND)], ..outside });
            config.routes.iter_mut().for_each(|route| route.trunks.push("outside".into()));
        });
        d.dials();
        let late = d.call_first();
        wait(&mut d.w, 2100);
        let answers = d.call_second();
        d.says(first, &late, status);
        assert!(d.told().is_empty(), "{status}");
        let ended = methods(&mut d.first, &d.w);
        assert!(ended.iter().any(|m| m == if status == 180 { "CANCEL" } else { "BYE" }), "{status}: {ended:?}");
        d.says(second, &answers, 200);
        assert_eq!(d.told(), [200]);
        d.calm();
    }
}

/// One that was passed over for its silence speaks while the other is silent: it has the call.
#[test]
fn a_slow_target_is_taken_back() {
    for said in [&[100, 180, 200][..], &[180, 200], &[200]] {
        let mut d = Desk::new(|_| ());
        d.dials();
        let late = d.call_first();
        wait(&mut d.w, 2000);
        let silent = d.call_second();
        for status in said {
            d.says(first, &late, *status);
        }
        let expected: Vec<u16> = said.iter().copied().filter(|s| *s > 100).collect();
        assert_eq!(d.told(), expected);
        assert!(methods(&mut d.first, &d.w).ends_with(&["ACK".to_owned()]), "its answer wins");
        // The other one rings after all: it is hushed at once.
        d.says(second, &silent, 180);
        assert!(methods(&mut d.second, &d.w).contains(&"CANCEL".to_owned()));
        assert_eq!(d.told().iter().filter(|s| **s != 200).count(), 0);
        d.calm();
    }
}

/// The leg is the first one's again, for what comes later too.
#[test]
fn requests_within_the_call_go_to_the_one_that_was_taken_back() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let late = d.call_first();
    wait(&mut d.w, 2000);
    d.call_second();
    d.says(first, &late, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    for (method, cseq) in [(Method::Ack, 1), (Method::Info, 2), (Method::Bye, 3)] {
        let (mut draft, to) = d.caller.within(&method, &ok, cseq);
        d.caller.put(&mut d.w, &mut draft, to, &[]);
        wait(&mut d.w, 20);
        let (got, from) = d.first.request(&d.w, &method);
        assert_eq!((got.call_id(), got.to_tag(), got.from_tag()), (late.0.call_id(), Some("far"), late.0.from_tag()));
        if method != Method::Ack {
            d.w.inject(d.first.addr, from, got.response(200, None).encode().expect("well formed"));
        }
    }
    assert!(!methods(&mut d.second, &d.w).contains(&"BYE".to_owned()));
    d.calm();
}

/// Two that ring at once is the failure that counts: the second one to speak is cancelled, and its answer is hung up on.
#[test]
fn a_slow_target_is_too_late_where_the_next_one_has_spoken() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let late = d.call_first();
    wait(&mut d.w, 2000);
    let next = d.call_second();
    d.says(second, &next, 180);
    d.says(first, &late, 180);
    assert!(methods(&mut d.first, &d.w).contains(&"CANCEL".to_owned()));
    assert_eq!(d.told(), [180]);
    d.says(first, &late, 200);
    assert!(methods(&mut d.first, &d.w).contains(&"BYE".to_owned()));
    d.says(second, &next, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
}

/// RFC 3261 §16.7: the first 2xx wins, where the next target has said no more than 100.
#[test]
fn an_answer_wins_over_100() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let late = d.call_first();
    wait(&mut d.w, 2000);
    let next = d.call_second();
    d.says(second, &next, 100);
    d.says(first, &late, 200);
    assert_eq!(d.told(), [200]);
    assert!(methods(&mut d.second, &d.w).contains(&"CANCEL".to_owned()));
    d.calm();
}

/// Nothing else is left: the slow one is waited for, and hears the INVITE again.
#[test]
fn the_silent_one_is_waited_for_when_the_others_refuse() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let late = d.call_first();
    wait(&mut d.w, 2000);
    d.first.inbox(&d.w);
    let next = d.call_second();
    d.says(second, &next, 503);
    assert!(d.told().is_empty());
    wait(&mut d.w, 1000);
    assert_eq!(methods(&mut d.first, &d.w), ["INVITE"]);
    d.says(first, &late, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
    // And where it never speaks, the caller is told in the end.
    let mut d = Desk::new(|_| ());
    d.dials();
    wait(&mut d.w, 2000);
    let next = d.call_second();
    d.says(second, &next, 503);
    wait(&mut d.w, 31_000);
    assert_eq!(d.told(), [500], "what was really said");
    d.calm();
}

/// A slow target is not given up after 2 s for one that is known to be dead; for that one is time before timer B.
#[test]
fn a_slow_target_is_spared_where_the_other_one_is_dead() {
    let mut d = Desk::new(|c| c.trunks[1].targets.reverse());
    d.dials();
    wait(&mut d.w, 2000);
    let invite = d.call_first();
    d.says(first, &invite, 486);
    assert_eq!((d.told(), methods(&mut d.second, &d.w)), (vec![486], vec!["INVITE".to_owned()]));
    d.dials();
    let slow = d.call_first();
    wait(&mut d.w, 3500);
    assert!(methods(&mut d.second, &d.w).is_empty(), "it lately failed");
    d.says(first, &slow, 180);
    wait(&mut d.w, 10_000);
    d.says(first, &slow, 486);
    assert!(methods(&mut d.second, &d.w).is_empty());
    d.dials();
    wait(&mut d.w, 9000);
    assert_eq!(methods(&mut d.second, &d.w), ["INVITE"], "both are silent: perhaps that one came back");
    d.calm();
}

/// RFC 4320 §4.1: who asks within a call hears 100 before it is answered late; and so does who sends a text.
#[test]
fn a_slow_answer_to_a_request_is_announced() {
    let mut d = Desk::new(|_| ());
    d.dials();
    let invite = d.call_first();
    d.says(first, &invite, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    let (mut ack, to) = d.caller.within(&Method::Ack, &ok, 1);
    d.caller.put(&mut d.w, &mut ack, to, &[]);
    let (mut info, to) = d.caller.within(&Method::Info, &ok, 2);
    d.caller.put(&mut d.w, &mut info, to, &[]);
    let mut text = d.caller.initial(&Method::Message, URI, "t", 1);
    text.remove(HeaderId::Contact);
    let anycast = d.w.anycast;
    d.caller.put(&mut d.w, &mut text, anycast, &[]);
    wait(&mut d.w, 50);
    let slow = d.first.inbox(&d.w).into_iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message));
    let slow: Vec<Request> = slow.collect();
    for (message, node) in slow.iter().filter(|(m, _)| m.method() == &Method::Message) {
        // It lives; else the text would go on to the next target.
        d.w.inject(d.first.addr, *node, message.response(100, None).encode().expect("well formed"));
    }
    let heard = |d: &mut Desk| {
        let got = d.caller.inbox(&d.w).into_iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message));
        got.map(|(m, _)| (m.status().unwrap_or(0), m.method().as_str().to_owned())).collect::<Vec<_>>()
    };
    wait(&mut d.w, 3400);
    assert!(heard(&mut d).is_empty());
    wait(&mut d.w, 200);
    let mut trying = heard(&mut d);
    trying.sort();
    assert_eq!(trying, [(100, "INFO".to_owned()), (100, "MESSAGE".to_owned())]);
    for (message, node) in &slow {
        d.w.inject(d.first.addr, *node, message.response(200, None).encode().expect("well formed"));
    }
    wait(&mut d.w, 50);
    assert!(heard(&mut d).iter().all(|(status, _)| *status == 200));
    d.calm();
}

/// A target that cannot be reached is no overload of ours (RFC 3261 §16.9): no 503, nor Retry-After.
#[test]
fn a_target_that_cannot_be_reached_is_a_500() {
    let mut d = Desk::new(|c| c.trunks[1].targets.truncate(1));
    d.w.unreachable = Some(addr(FIRST));
    d.dials();
    let told = d.caller.response(&d.w, &Method::Invite);
    assert_eq!((told.status(), told.first(HeaderId::RetryAfter)), (Some(500), None));
    // With one that is slow besides, that one is waited for.
    let mut d = Desk::new(|_| ());
    d.w.unreachable = Some(addr(SECOND));
    d.dials();
    let slow = d.call_first();
    wait(&mut d.w, 2500);
    assert!(d.told().is_empty());
    d.says(first, &slow, 200);
    assert_eq!(d.told(), [200]);
    d.calm();
}

/// Within a call, and of a text: the address that answers is that of all nodes there too.
#[test]
fn a_503_within_a_call_is_a_500() {
    let mut d = Desk::new(|c| c.trunks[1].targets.truncate(1));
    d.dials();
    let invite = d.call_first();
    d.says(first, &invite, 200);
    let ok = d.caller.response(&d.w, &Method::Invite);
    let (mut ack, to) = d.caller.within(&Method::Ack, &ok, 1);
    d.caller.put(&mut d.w, &mut ack, to, &[]);
    let (mut info, to) = d.caller.within(&Method::Info, &ok, 2);
    d.caller.put(&mut d.w, &mut info, to, &[]);
    let mut text = d.caller.initial(&Method::Message, URI, "t", 1);
    text.remove(HeaderId::Contact);
    let anycast = d.w.anycast;
    d.caller.put(&mut d.w, &mut text, anycast, &[]);
    wait(&mut d.w, 50);
    for (message, node) in d.first.inbox(&d.w).iter().filter(|(m, _)| matches!(m.method(), Method::Info | Method::Message)) {
        let mut draft = message.response(503, None);
        draft.push(HeaderId::RetryAfter, "60");
        d.w.inject(d.first.addr, *node, draft.encode().expect("well formed"));
    }
    wait(&mut d.w, 50);
    let finals = d.caller.inbox(&d.w).into_iter().map(|(m, _)| m).filter(|m| m.method() != &Method::Invite);
    let told: Vec<_> = finals.map(|m| (m.status(), m.first(HeaderId::RetryAfter).is_some())).collect();
    assert_eq!(told, [(Some(500), false); 2]);
    d.calm();
}
