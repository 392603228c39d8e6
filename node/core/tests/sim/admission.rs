//! What is refused by where it comes from: the access list, and forged requests within a call (AC-52).

use bytes::Bytes;
use sbc_core::io::{AddressRole, Counter, DropReason, Input, Limit, MisrouteAction, Output, Path, Realm, Transport};
use sbc_core::policy::{AclAction, AclRule, Prefix, Route, SourceCheck};
use sbc_core::sbc::Urgency;
use sbc_core::sip::{Message, Method};
use sbc_core::store_pb::command::Kind;
use sbc_core::store_pb::{Block, Unblock};

use crate::invariants;
use crate::phone::LegState;
use crate::plan::{Plan, Who};
use crate::rig::far::{Far, sdp};
use crate::rig::{Rig, SOURCE, URI};
use crate::world::{Net, World, addr};

/// The call stands by then, ms; it ends at 20 s.
const STANDS: u64 = 5000;

fn world() -> World {
    let mut world = World::new(3, 3, vec![Plan { hang_up: (Who::Caller, 20_000), ..Plan::plain(100) }], Net::calm());
    world.sent = Some(Vec::new());
    world
}

fn at_rest(mut w: World) {
    w.run_until(290_000);
    let wrong = invariants::check(&w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A BYE with all that the caller's ACK has: tags, Call-ID and the owner's token in its Request-URI.
fn forged_bye(w: &World) -> Bytes {
    let sent = w.sent.as_ref().expect("recorded").iter();
    let texts = sent.filter(|s| s.from == w.phones[0].addr).map(|s| String::from_utf8_lossy(&s.bytes).into_owned());
    let ack = texts.filter(|t| t.starts_with("ACK ")).last().expect("the call was acknowledged");
    let bye = ack.replacen("ACK ", "BYE ", 1).replace("CSeq: 1 ACK", "CSeq: 7 BYE").replace("branch=z9hG4bK", "branch=z9hG4bKx");
    assert!(bye.contains("7 BYE") && bye.contains("z9hG4bKx"), "{bye}");
    Bytes::from(bye)
}

/// Status codes that nodes sent to this address.
fn answers(w: &World, to: &str) -> Vec<Option<u16>> {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr(to) && s.node.is_some());
    sent.map(|s| Message::parse(s.bytes.clone()).expect("all sent is well formed").status()).collect()
}

#[test]
fn ac_52_a_forged_bye_does_not_end_the_call() {
    let mut w = world();
    w.run_until(STANDS);
    let (forger, bye) = ("198.18.30.1:5060", forged_bye(&w));
    // At the owner, and at another node, which relays it with its source.
    for node in [0, 1] {
        let to = w.nodes[node].unicast;
        w.inject(addr(forger), to, bye.clone());
    }
    w.run_until(STANDS + 1000);
    assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), 2);
    assert_eq!(w.counted(Counter::Misrouted("BYE", MisrouteAction::Relay)), 1);
    assert!(answers(&w, forger).is_empty(), "a forger learns nothing");
    assert!(!w.phones[1].legs[0].bye_received);
    at_rest(w);
}

#[test]
fn ac_52_a_far_end_that_moved_within_its_trunk_is_heard() {
    for (check, dropped) in [(SourceCheck::Trunk, 0), (SourceCheck::Strict, 1), (SourceCheck::Off, 0)] {
        let mut w = world();
        w.reconfigure(|c| c.trunks[0].source_check = check);
        w.run_until(STANDS);
        let (to, bye) = (w.nodes[0].unicast, forged_bye(&w));
        w.inject(addr("198.18.10.77:5060"), to, bye);
        w.run_until(STANDS + 1000);
        assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), dropped, "{check:?}");
        assert_eq!(w.phones[1].legs[0].bye_received, dropped == 0, "{check:?}");
    }
}

/// A trunk whose sources are everybody's: a BYE from elsewhere ends a call of it only where its far end is no more where it was.
#[test]
fn ac_52_of_everybody_the_far_end_is_asked_first() {
    const FORGER: &str = "198.18.30.1:5060";
    let [old, new] = ["198.18.10.1:20000", "198.18.30.1:30000"].map(|at| Some(addr(at)));
    // Whether the far end answers at its old address, where its media come from before and after, and whether the request counts.
    for (answers_there, before, after, counts) in [
        (true, None, None, false),
        (true, old, new, false),
        (false, None, None, true),
        (false, old, old, false),
        (false, old, new, true),
        (false, old, None, true),
        (false, None, new, true),
    ] {
        let mut w = world();
        w.reconfigure(|c| c.trunks[0].sources = vec![Prefix { addr: addr("0.0.0.0:0").ip(), len: 0 }]);
        w.run_until(STANDS);
        w.speaking[0][0] = before;
        let bye = forged_bye(&w);
        w.unreachable = Some(w.phones[0].addr).filter(|_| !answers_there);
        // At another node, which relays it, and a copy at the owner.
        for node in [1, 0] {
            let to = w.nodes[node].unicast;
            w.inject(addr(FORGER), to, bye.clone());
        }
        w.run_until(STANDS + 1000);
        assert!(!w.phones[1].legs[0].bye_received && answers(&w, FORGER).is_empty(), "held");
        w.speaking[0][0] = after;
        w.run_until(STANDS + 2500);
        let what = format!("answers {answers_there}, media {before:?} {after:?}");
        assert_eq!(w.phones[1].legs[0].bye_received, counts, "{what}");
        assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), u64::from(!counts), "{what}");
        assert_eq!(answers(&w, FORGER).contains(&Some(200)), counts, "{what}");
        assert_eq!(w.counted(Counter::Misrouted("BYE", MisrouteAction::Doubt)), 1, "{what}");
    }
}

/// A far end that answers 481 where it was knows of no such call there, which is no sign that it has not moved.
#[test]
fn ac_52_of_everybody_481_at_the_old_address_is_no_word_against_a_move() {
    let mut w = world();
    w.reconfigure(|c| c.trunks[0].sources = vec![Prefix { addr: addr("0.0.0.0:0").ip(), len: 0 }]);
    w.run_until(STANDS);
    let (to, bye) = (w.nodes[0].unicast, forged_bye(&w));
    w.phones[0].legs[0].state = LegState::Ended;
    w.inject(addr("198.18.30.1:5060"), to, bye);
    w.run_until(STANDS + 2500);
    assert!(w.phones[1].legs[0].bye_received);
    assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), 0);
}

/// One question a leg at a time, however many requests come.
#[test]
fn ac_52_a_flood_of_forged_requests_asks_one_question_in_two_seconds() {
    let mut w = world();
    w.reconfigure(|c| c.trunks[0].sources = vec![Prefix { addr: addr("0.0.0.0:0").ip(), len: 0 }]);
    w.run_until(STANDS);
    let (to, bye) = (w.nodes[0].unicast, String::from_utf8(forged_bye(&w).to_vec()).expect("text"));
    for n in 0..200u64 {
        let other = bye.replace("branch=z9hG4bKx", &format!("branch=z9hG4bKx{n}"));
        w.inject(addr("198.18.30.1:5060"), to, Bytes::from(other));
        w.run_until(STANDS + n * 20);
    }
    w.run_until(STANDS + 6000);
    let asked =
        w.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some() && s.bytes.starts_with(b"OPTIONS ")).count();
    assert!((2..=3).contains(&asked), "{asked}");
    assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), 200);
    assert!(!w.phones[1].legs[0].bye_received);
    at_rest(w);
}

/// A CANCEL has no dialog to ask in: it is heard where it has the branch and the Via of its INVITE, which are no tags.
#[test]
fn ac_52_of_everybody_a_cancel_is_judged_by_its_key() {
    for (branch, heard) in [("a", true), ("other", false)] {
        let mut w = limited(|c| c.trunks[0].sources = vec![Prefix { addr: addr("0.0.0.0:0").ip(), len: 0 }]);
        let (from, to) = ("198.18.10.7:5060", w.anycast);
        w.inject(addr(from), to, call(from, "a", "112", ""));
        w.run_until(200);
        let cancel = String::from_utf8(call(from, "a", "112", "").to_vec()).expect("text");
        let cancel = cancel.replacen("INVITE ", "CANCEL ", 1).replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL");
        let cancel = cancel.replace("branch=z9hG4bKa", &format!("branch=z9hG4bK{branch}"));
        assert!(cancel.contains(&format!("z9hG4bK{branch};")), "{cancel}");
        w.inject(addr("198.18.30.66:5060"), to, Bytes::from(cancel));
        w.run_until(900);
        assert_eq!(answers(&w, from).contains(&Some(487)), heard, "{branch}");
    }
}

fn invite(from: &str, id: &str) -> Bytes {
    Bytes::from(format!(
        "INVITE sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id};rport\r\n\
         From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>\r\nCall-ID: {id}\r\nCSeq: 1 INVITE\r\n\
         Max-Forwards: 70\r\nContact: <sip:c9@{from}>\r\nContent-Length: 0\r\n\r\n"
    ))
}

#[test]
fn the_access_list_denies_rejects_and_allows() {
    let mut w = world();
    w.reconfigure(|c| {
        let rule = |net: &str, realm, action| AclRule { prefix: Prefix { addr: addr(net).ip(), len: 32 }, realm, action };
        c.acl = vec![
            rule("198.18.10.5:0", None, AclAction::Deny),
            rule("198.18.10.6:0", Some(Realm::External), AclAction::Reject),
            rule("198.18.10.7:0", Some(Realm::Core), AclAction::Deny),
        ];
    });
    w.run_until(STANDS);
    let (denied, rejected, free) = ("198.18.10.5:5060", "198.18.10.6:5060", "198.18.10.7:5060");
    for source in [denied, rejected, free] {
        let to = w.anycast;
        w.inject(addr(source), to, invite(source, &format!("acl{}", &source[10..11])));
    }
    let to = w.anycast;
    w.inject(addr(denied), to, Bytes::from_static(b"no SIP at all"));
    w.run_until(STANDS + 30);
    assert!(answers(&w, denied).is_empty());
    assert_eq!(answers(&w, rejected), [Some(403)]);
    assert_eq!(answers(&w, free).first(), Some(&Some(100)), "a rule of the other realm is not about it");
    assert_eq!((w.counted(Counter::Acl(0)), w.counted(Counter::Acl(1)), w.counted(Counter::Acl(2))), (2, 1, 0));
}

#[test]
fn a_rejected_source_ends_the_call_that_it_has() {
    let mut w = world();
    w.run_until(STANDS);
    w.reconfigure(|c| {
        let prefix = Prefix { addr: addr("198.18.10.0:0").ip(), len: 24 };
        c.acl = vec![AclRule { prefix, realm: None, action: AclAction::Reject }];
    });
    w.run_until(40_000);
    assert!(w.phones[1].legs[0].bye_received, "a BYE is within the call");
    assert_eq!(w.counted(Counter::Acl(0)), 0);
    at_rest(w);
}

/// An INVITE to this user of the `others` route, or an emergency call.
fn call(from: &str, id: &str, user: &str, fields: &str) -> Bytes {
    let text = String::from_utf8(invite(from, id).to_vec()).expect("text");
    let text = text.replace("sip:112@", &format!("sip:{user}@"));
    Bytes::from(text.replace("Content-Length", &format!("{fields}Content-Length")))
}

/// How many of these calls were refused with 503.
fn refused(w: &World, from: &str) -> usize {
    answers(w, from).iter().filter(|s| **s == Some(503)).count()
}

fn limited(change: impl Fn(&mut sbc_core::policy::ClusterConfig)) -> World {
    let mut w = World::new(5, 1, Vec::new(), Net::calm());
    w.sent = Some(Vec::new());
    w.reconfigure(|c| {
        c.routes.push(Route {
            name: "others".into(),
            matches: vec![sbc_core::policy::RouteMatch::Prefix("4".into())],
            trunks: vec!["psap".into()],
        });
        // Nobody answers there: what begins stays.
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        change(c);
    });
    w.run_until(100);
    w
}

/// Ten calls at once, by each limit; emergency calls pass all but their own.
#[test]
fn ac_44_limits_are_for_ordinary_calls() {
    use sbc_core::policy::ClusterConfig;
    type Change = fn(&mut ClusterConfig);
    let table: [(Limit, Change, usize); 4] = [
        (Limit::MaxCalls, |c| c.settings.max_calls = 4, 6),
        (Limit::TrunkMaxCalls, |c| c.trunks[0].limits.max_calls = 3, 7),
        (Limit::SourceRate, |c| c.settings.source_rate = 2, 6),
        (Limit::TrunkMaxRate, |c| c.trunks[0].limits.max_rate = 1, 8),
    ];
    let from = "198.18.10.7:5060";
    for (limit, change, over) in table {
        let mut w = limited(change);
        let to = w.anycast;
        for n in 0..10 {
            w.inject(addr(from), to, call(from, &format!("x{n}"), "49", ""));
        }
        w.run_until(200);
        assert_eq!((refused(&w, from), w.counted(Counter::Limited(limit))), (over, over as u64), "{limit:?}");
        let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr(from) && s.node.is_some());
        let first = sent.filter_map(|s| Message::parse(s.bytes.clone()).ok()).find(|m| m.status() == Some(503)).expect("one");
        assert!(first.first(sbc_core::sip::HeaderId::RetryAfter).is_some(), "when to try again");
        for n in 0..10 {
            w.inject(addr(from), to, call(from, &format!("sos{n}"), "112", ""));
        }
        w.run_until(300);
        assert_eq!(refused(&w, from), over, "{limit:?}: no emergency call is refused for it");
    }
    let mut w = limited(|c| c.settings.emergency_source_rate = 2);
    let to = w.anycast;
    for n in 0..10 {
        w.inject(addr(from), to, call(from, &format!("sos{n}"), "112", ""));
        w.inject(addr("198.18.10.8:5060"), to, call("198.18.10.8:5060", &format!("one{n}"), "49", ""));
    }
    w.run_until(200);
    assert_eq!((refused(&w, from), refused(&w, "198.18.10.8:5060")), (6, 0), "only the source that does nothing else");
}

/// A call that is over makes room.
#[test]
fn the_calls_of_a_trunk_are_counted_up_and_down() {
    let mut w = limited(|c| c.trunks[0].limits.max_calls = 1);
    let (from, to) = ("198.18.10.7:5060", w.anycast);
    w.inject(addr(from), to, call(from, "a", "49", ""));
    w.run_until(150);
    w.inject(addr(from), to, call(from, "b", "49", ""));
    w.run_until(200);
    assert_eq!(refused(&w, from), 1);
    let cancel = String::from_utf8(call(from, "a", "49", "").to_vec()).expect("text");
    let cancel = cancel.replacen("INVITE ", "CANCEL ", 1).replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL");
    w.inject(addr(from), to, Bytes::from(cancel));
    w.run_until(80_000);
    w.inject(addr(from), to, call(from, "c", "49", ""));
    w.run_until(80_100);
    assert_eq!(refused(&w, from), 1);
}

#[test]
fn scanners_hear_nothing_unless_they_are_on_fire() {
    let mut w = limited(|_| ());
    let (from, to) = ("198.18.10.7:5060", w.anycast);
    let agent = "User-Agent: Friendly-Scanner 1.0\r\n";
    w.inject(addr(from), to, call(from, "a", "49", agent));
    let options = String::from_utf8(call(from, "o", "49", agent).to_vec()).expect("text").replace("INVITE", "OPTIONS");
    w.inject(addr(from), to, Bytes::from(options));
    w.run_until(200);
    assert!(answers(&w, from).is_empty());
    assert_eq!(w.counted(Counter::Dropped(DropReason::Scanner)), 2);
    w.inject(addr(from), to, call(from, "sos", "112", agent));
    w.run_until(300);
    assert_eq!(answers(&w, from).first(), Some(&Some(100)));
}

/// AC-52 for CANCEL: it carries nothing of ours, but comes from where its INVITE came.
#[test]
fn ac_52_a_forged_cancel_does_not_end_the_call() {
    let mut w = limited(|c| c.trunks[0].source_check = SourceCheck::Strict);
    let (from, to) = ("198.18.10.7:5060", w.anycast);
    w.inject(addr(from), to, call(from, "a", "112", ""));
    w.run_until(200);
    let cancel = String::from_utf8(call(from, "a", "112", "").to_vec()).expect("text");
    let cancel = Bytes::from(cancel.replacen("INVITE ", "CANCEL ", 1).replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL"));
    w.inject(addr("198.18.10.66:5060"), to, cancel.clone());
    w.run_until(300);
    assert!(!answers(&w, from).contains(&Some(487)) && answers(&w, "198.18.10.66:5060").is_empty());
    assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), 1);
    w.inject(addr(from), to, cancel);
    w.run_until(400);
    assert!(answers(&w, from).contains(&Some(487)), "its own is heard");
}

/// A block as an operator asks for it, taken by the log of all nodes.
fn block(w: &mut World, prefix: &str, everything: bool, until_unix_ms: u64) {
    let block = Block { prefix: prefix.into(), everything, until_unix_ms, ..Block::default() };
    w.commit_all(Kind::Block(block));
}

#[test]
fn a_blocked_source_begins_nothing_but_emergency_calls() {
    let mut w = world();
    w.run_until(STANDS);
    block(&mut w, "198.18.10.0/24", false, 0);
    block(&mut w, "198.18.11.9/32", true, 0);
    let (ordinary, emergency, everything, free) =
        ("198.18.10.5:5060", "198.18.10.6:5060", "198.18.11.9:5060", "198.18.12.5:5060");
    let call = |from: &str, number: &str, id: &str| {
        Bytes::from(String::from_utf8_lossy(&invite(from, id)).replacen("sip:112@", &format!("sip:{number}@"), 1))
    };
    let at = w.anycast;
    w.inject(addr(ordinary), at, call(ordinary, "4711", "blk1"));
    w.inject(addr(emergency), at, call(emergency, "112", "blk2"));
    w.inject(addr(everything), at, call(everything, "112", "blk3"));
    w.inject(addr(free), at, call(free, "4711", "blk4"));
    w.run_until(STANDS + 30);
    assert!(answers(&w, ordinary).is_empty());
    assert_eq!(answers(&w, emergency).first(), Some(&Some(100)), "AC-44: an emergency call is not refused for its neighbours");
    assert!(answers(&w, everything).is_empty());
    assert!(!answers(&w, free).is_empty());
    assert_eq!(w.counted(Counter::Dropped(DropReason::Blocked)), 2);
    w.commit_all(Kind::Unblock(Unblock { prefix: "198.18.10.0/24".into() }));
    w.inject(addr(ordinary), at, call(ordinary, "4711", "blk5"));
    w.run_until(STANDS + 60);
    assert!(!answers(&w, ordinary).is_empty(), "taken back");
    // The call of the first phone stood under the block, and ends as planned.
    w.run_until(40_000);
    assert!(w.phones[1].legs[0].bye_received);
}

#[test]
fn a_scanner_at_one_node_is_blocked_at_all_until_its_time_is_over() {
    let mut w = world();
    w.reconfigure(|c| c.settings.scanner_ban = std::time::Duration::from_secs(60));
    w.run_until(STANDS);
    let scan = |from: &str, id: &str, agent: &str| {
        let text = String::from_utf8_lossy(&invite(from, id)).replacen("sip:112@", "sip:4711@", 1);
        Bytes::from(text.replacen("Content-Length", &format!("User-Agent: {agent}\r\nContent-Length"), 1))
    };
    let scanner = "198.18.10.5:5060";
    let nodes: Vec<_> = w.nodes.iter().map(|n| n.unicast).collect();
    w.inject(addr(scanner), nodes[0], scan(scanner, "ban1", "friendly-scanner"));
    w.run_until(STANDS + 1000);
    assert_eq!((w.counted(Counter::Dropped(DropReason::Scanner)), w.counted(Counter::Banned)), (1, 1));
    for (n, node) in nodes.iter().enumerate() {
        w.inject(addr(scanner), *node, scan(scanner, &format!("ban2{n}"), "an ordinary phone"));
    }
    w.run_until(STANDS + 2000);
    assert!(answers(&w, scanner).is_empty());
    assert_eq!(w.counted(Counter::Dropped(DropReason::Blocked)), 3, "at every node");
    w.run_until(STANDS + 62_000);
    w.inject(addr(scanner), nodes[1], scan(scanner, "ban3", "an ordinary phone"));
    w.run_until(STANDS + 63_000);
    assert!(!answers(&w, scanner).is_empty(), "its time is over");
    assert_eq!(w.counted(Counter::Banned), 1);
    // Scanners from everywhere at once write little into the log: the burst of one node.
    for n in 0..100 {
        let from = format!("198.18.11.{n}:5060");
        w.inject(addr(&from), nodes[0], scan(&from, &format!("ban4{n}"), "friendly-scanner"));
    }
    w.run_until(STANDS + 63_050);
    assert_eq!(w.counted(Counter::Banned), 11);
}

/// AC-44: the busier a node is, the more ordinary calls it refuses, with 503 and a time to come back; emergency calls it takes.
#[test]
fn ac_44_ordinary_calls_are_shed_by_load_and_emergency_calls_are_not() {
    for (load, expected) in [(10, 0), (90, 0), (95, 5), (100, 10)] {
        let mut w = limited(|c| c.emergency_numbers = vec!["112".into()]);
        w.load(0, load);
        let to = w.anycast;
        for n in 0..10 {
            w.inject(addr("198.18.10.5:5060"), to, call("198.18.10.5:5060", &format!("o{n}"), "47", ""));
            w.inject(addr("198.18.10.6:5060"), to, call("198.18.10.6:5060", &format!("e{n}"), "112", ""));
        }
        w.run_until(150);
        assert_eq!(refused(&w, "198.18.10.5:5060"), expected, "at {load} %");
        assert_eq!(refused(&w, "198.18.10.6:5060"), 0, "at {load} %");
        assert_eq!(w.counted(Counter::Limited(Limit::Load)), u64::try_from(expected).expect("small"));
        let sent = w.sent.as_ref().expect("recorded").iter().map(|s| String::from_utf8_lossy(&s.bytes).into_owned());
        assert!(sent.filter(|t| t.starts_with("SIP/2.0 503")).all(|t| t.contains("\r\nRetry-After: ")));
    }
}

/// A far end that moved is relayed, a flood with overheard tags is not: two seconds' worth, and then so many a second.
#[test]
fn ac_52_what_strangers_have_relayed_is_limited() {
    // Nobody but the caller's own address may act on its leg.
    let mut w = world();
    w.reconfigure(|c| c.trunks[0].sources.clear());
    w.reconfigure(|c| c.trunks[0].source_check = SourceCheck::Strict);
    w.run_until(STANDS);
    let bye = String::from_utf8(forged_bye(&w).to_vec()).expect("text");
    let info = |n: u32| {
        Bytes::from(
            bye.replace("BYE ", "INFO ")
                .replace("7 BYE", &format!("{} INFO", n + 7))
                .replace("z9hG4bKx", &format!("z9hG4bKy{n}")),
        )
    };
    let elsewhere = w.nodes[1].unicast;
    for n in 0..100 {
        w.inject(addr("198.18.30.1:5060"), elsewhere, info(n));
        w.inject(w.phones[0].addr, elsewhere, info(1000 + n));
    }
    w.run_until(STANDS + 500);
    assert_eq!(w.counted(Counter::Misrouted("INFO", MisrouteAction::Stranger)), 60);
    assert_eq!(w.counted(Counter::Misrouted("INFO", MisrouteAction::Relay)), 140, "the caller itself is not limited");
    assert_eq!(w.counted(Counter::Dropped(DropReason::Source)), 40, "the owner judges what came through");
    assert!(answers(&w, "198.18.30.1:5060").is_empty());
}

/// RFC 7090, RFC 7135: a PSAP that calls back is no ordinary call; the same words from outside, or from a trunk whose word does not count,
/// are only words.
#[test]
fn ac_44_a_psap_that_calls_back_is_not_shed() {
    const CALLBACK: &str = "Priority: psap-callback\r\n";
    const ESNET: &str = "Resource-Priority: wps.1, esnet.2\r\n";
    let psap = "198.18.20.1:5060";
    let outside = "198.18.10.5:5060";
    for (from, fields, trust, refusals) in [
        (psap, "", true, 1),
        (psap, CALLBACK, true, 0),
        (psap, ESNET, true, 0),
        (psap, "Resource-Priority: wps.1\r\n", true, 1),
        (psap, CALLBACK, false, 1),
        (outside, CALLBACK, true, 1),
        (outside, ESNET, true, 1),
    ] {
        let mut w = limited(|c| {
            if !trust {
                c.trunks[1].identity = sbc_core::policy::IdentityPolicy::Strip;
            }
        });
        w.load(0, 100);
        let to = if from == psap { w.nodes[0].core } else { w.nodes[0].unicast };
        w.inject(addr(from), to, call(from, "back", "47", fields));
        w.run_until(150);
        assert_eq!(refused(&w, from), refusals, "{from} {fields} {trust}");
    }
}

/// What waits is dealt with by urgency: an emergency call comes before the others, and what is under way before both.
#[test]
fn ac_44_emergency_invites_wait_apart_from_the_others() {
    let w = world();
    let (from, to) = ("198.18.10.7:5060", w.anycast);
    let urgency = |role, payload: &Bytes| {
        let path = Path { role, transport: Transport::Udp, local: to, remote: addr(from), flow: None };
        w.nodes[0].sbc.urgency(&path, payload).0
    };
    let (emergency, ordinary) = (call(from, "a", "112", ""), call(from, "a", "5551234", ""));
    assert_eq!(urgency(AddressRole::Anycast, &emergency), Urgency::Emergency);
    assert_eq!(urgency(AddressRole::Anycast, &ordinary), Urgency::Ordinary);
    let within = Bytes::from(String::from_utf8(ordinary.to_vec()).expect("text").replace("112.112>\r\n", "112.112>;tag=1\r\n"));
    assert_eq!(urgency(AddressRole::Anycast, &within), Urgency::Underway);
    assert_eq!(urgency(AddressRole::Core, &within), Urgency::Core);
}

/// What an emergency call waits for comes before everything else, at the owner and at the node that relays it: in a flood of ordinary
/// calls the PSAP's 200 is one response among thousands.
#[test]
fn ac_44_what_belongs_to_an_emergency_call_waits_apart() {
    for (uri, apart) in [(URI, true), ("sip:5551234@198.18.112.112", false)] {
        let mut s = Rig::by_with(Transport::Udp, |config| {
            let trunks = config.routes[0].trunks.clone();
            config.routes.push(Route { name: "others".into(), matches: Vec::new(), trunks });
        });
        let mut invite = Far::at(SOURCE).initial(&Method::Invite, uri, "x", 1);
        invite.set_body(Some("application/sdp"), sdp());
        s.dials_draft(&invite);
        let (asked, _) = s.asked.clone().expect("dialled");
        let ok = asked.response(200, None).encode().expect("well formed");
        let urgency = |s: &Rig, node: usize, role, payload: &Bytes| {
            let path = Path { role, transport: Transport::Udp, local: s.w.anycast, remote: addr(SOURCE), flow: None };
            s.w.nodes[node].sbc.urgency(&path, payload).0
        };
        let core = if apart { Urgency::EmergencyCall } else { Urgency::Core };
        let access = if apart { Urgency::EmergencyCaller } else { Urgency::Underway };
        assert_eq!(urgency(&s, 0, AddressRole::Core, &ok), core, "{uri}");
        assert_eq!(urgency(&s, 1, AddressRole::Core, &ok), Urgency::Core, "no request of that node");
        s.psap_answers(|_| ()).expect("a 200");
        let ack = s.within(&Method::Ack, 1).encode().expect("well formed");
        assert_eq!(urgency(&s, 0, AddressRole::Unicast, &ack), access, "{uri}");
        s.acknowledges();
        s.advance(200);
        let bye = s.within(&Method::Bye, 2).encode().expect("well formed");
        assert_eq!(urgency(&s, 1, AddressRole::Anycast, &bye), access, "{uri}: the log knows it");
        let reinvite = s.within(&Method::Invite, 3).encode().expect("well formed");
        assert_eq!(urgency(&s, 0, AddressRole::Core, &reinvite), core, "{uri}");
    }
}

/// A thousand timers that are due at once do not keep what comes in meanwhile waiting: they fire a few at a time.
#[test]
fn timers_fire_in_bites() {
    let mut s = Rig::by_with(Transport::Udp, |config| config.settings.emergency_source_rate = 0);
    for n in 0..2000 {
        let call_id = format!("many{n}");
        let invite = Far::at(SOURCE).initial(&Method::Invite, URI, &call_id, 1);
        s.send_raw(invite.encode().expect("well formed"));
    }
    s.advance(50);
    let node = &mut s.w.nodes[0].sbc;
    let late = sbc_core::time::Now { mono: sbc_core::time::Instant::from_micros(60_000_000), ..Default::default() };
    let mut fired = Vec::new();
    while node.poll_timeout().is_some_and(|due| due <= late.mono) {
        node.handle_input(late, Input::Timeout);
        fired.push(std::iter::from_fn(|| node.poll_output()).filter(|o| matches!(o, Output::Transmit(_))).count());
    }
    let (most, all) = (fired.iter().copied().max(), fired.iter().sum::<usize>());
    assert!(most <= Some(256 + 64 + 64) && all >= 2000, "{fired:?}");
}
