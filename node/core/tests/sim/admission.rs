//! What is refused by where it comes from: the access list, and forged requests within a call (AC-52).

use bytes::Bytes;
use sbc_core::io::{Counter, Realm};
use sbc_core::policy::{AclAction, AclRule, Prefix, SourceCheck};
use sbc_core::sip::Message;

use crate::invariants;
use crate::plan::{Plan, Who};
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
    assert_eq!(w.counted(Counter::Dropped("source")), 2);
    assert_eq!(w.counted(Counter::Misrouted("BYE", "relay")), 1);
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
        assert_eq!(w.counted(Counter::Dropped("source")), dropped, "{check:?}");
        assert_eq!(w.phones[1].legs[0].bye_received, dropped == 0, "{check:?}");
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
