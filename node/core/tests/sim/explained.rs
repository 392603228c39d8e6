//! What `sbcctl route explain` says of an INVITE is what then happens to it.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::io::{Counter, Realm, RouteOrigin};
use sbc_core::policy::{AclAction, AclRule, Prefix, Route, RouteMatch, Trunk};
use sbc_core::routing;
use sbc_core::sip::{HeaderId, Message, Method, Uri};
use sbc_core::store_pb::{Block, command::Kind};

use crate::rig::far::{Far, sdp, wait};
use crate::world::{Net, World, addr};

const PSAP: &str = "198.18.20.9:5060";
const URGENT: &str = "sip:112@198.18.112.112";
const ORDINARY: &str = "sip:49@198.18.112.112";
const CALLER: &str = "198.18.10.9:5060";

/// One source is denied, one rejected, one blocked, one blocked with everything; one trunk is off.
fn world() -> World {
    let mut w = World::new(5, 1, Vec::new(), Net::calm());
    w.sent = Some(Vec::new());
    w.reconfigure(|c| {
        let of = |ip: &str| Prefix { addr: ip.parse().expect("an address"), len: 32 };
        let rule = |ip: &str, action| AclRule { prefix: of(ip), realm: None, action };
        let route = |name: &str, user: &str, trunk: &str| Route {
            name: name.into(),
            matches: vec![RouteMatch::User(user.into())],
            trunks: vec![trunk.into()],
        };
        c.acl = vec![rule("198.18.10.66", AclAction::Deny), rule("198.18.10.67", AclAction::Reject)];
        c.routes.extend([route("others", "49", "psap"), route("lost", "7", "off")]);
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        c.trunks.push(Trunk { sources: vec![of("198.18.11.1")], enabled: false, ..Trunk::new("off", Realm::External) });
    });
    w.run_until(100);
    for (prefix, everything) in [("198.18.10.68/32", false), ("198.18.10.69/32", true)] {
        w.commit_all(Kind::Block(Block { prefix: prefix.into(), everything, ..Block::default() }));
    }
    w
}

fn invite(from: &str, uri: &str, fields: &[(&str, &str)], body: Option<&'static str>) -> Bytes {
    let mut draft = Far::at(from).initial(&Method::Invite, uri, "asked", 1);
    for (name, value) in fields {
        draft.remove_named(name);
        draft.push_named(name, *value);
    }
    if let Some(body) = body {
        draft.set_body(Some("application/sdp"), Bytes::from_static(body.as_bytes()));
    }
    draft.encode().expect("well formed")
}

/// The status that refuses it by the explanation, and the trunk whose far end is dialled for its Replaces.
fn explained(w: &mut World, from: SocketAddr, message: &Bytes) -> (Option<u16>, Option<Box<str>>) {
    let before = w.sent.as_ref().expect("recorded").len();
    let gate = w.explain(0, from, message.clone());
    assert_eq!(w.sent.as_ref().expect("recorded").len(), before, "nothing is done");
    let uri = Uri::parse(Message::parse(message.clone()).expect("readable").request_uri().expect("a request")).expect("a URI");
    let config = w.config.clone();
    let found = routing::explain(&config, &RouteOrigin::Address(Realm::External, from.ip()), &uri, &gate);
    (found.refused.map(|(status, _)| status), gate.replaces)
}

/// The status that refuses it in fact: 0 for silence. Whoever hears 100 and no more is dialled.
fn real(w: &mut World, far: &mut Far, message: Bytes) -> Option<u16> {
    let to = w.anycast;
    far.inbox(w);
    w.inject(far.addr, to, message);
    wait(w, 400);
    let heard: Vec<u16> = far.inbox(w).iter().filter_map(|(m, _)| m.status()).collect();
    if heard.is_empty() { Some(0) } else { heard.into_iter().find(|s| *s >= 200) }
}

/// The Via of an INVITE that this cluster sends for the ordinary number.
fn our_via(w: &mut World) -> String {
    let (to, caller) = (w.anycast, Far::at("198.18.10.8:5060"));
    caller.put(w, &mut caller.initial(&Method::Invite, ORDINARY, "first", 1), to, &[]);
    wait(w, 50);
    let (sent, _) = Far::at(PSAP).request(w, &Method::Invite);
    sent.first(HeaderId::Via).expect("a request has one").to_owned()
}

#[test]
fn what_is_explained_is_what_happens() {
    let via = our_via(&mut world());
    let unreadable = Some("v=0\r\nno description\r\n");
    let scanner = [("User-Agent", "friendly-scanner 1")];
    let foreign = [("Route", "<sip:elsewhere.example;lr>")];
    let (short, gzip) = ([("Session-Expires", "30"), ("Supported", "timer")], [("Content-Encoding", "gzip")]);
    let readable =
        Some("v=0\r\no=far 1 1 IN IP4 198.18.10.9\r\ns=-\r\nc=IN IP4 198.18.10.9\r\nt=0 0\r\nm=audio 30000 RTP/AVP 8\r\n");
    let unknown = [("Replaces", "x@y;to-tag=1;from-tag=2")];
    type Row<'a> = (Option<u16>, &'a str, &'a str, &'a [(&'a str, &'a str)], Option<&'static str>);
    let table: &[Row<'_>] = &[
        (None, CALLER, URGENT, &[], None),
        (None, CALLER, ORDINARY, &[], readable),
        (Some(404), CALLER, "sip:5@x", &[], None),
        (Some(404), CALLER, "sip:7@x", &[], None),
        (Some(403), "198.18.30.1:5060", URGENT, &[], None),
        (Some(503), "198.18.11.1:5060", ORDINARY, &[], None),
        (None, "198.18.11.1:5060", URGENT, &[], None),
        (Some(416), CALLER, "http://49", &[], None),
        (Some(480), CALLER, "sips:49@198.18.112.112", &[], None),
        (None, CALLER, "sips:112@198.18.112.112", &[], None),
        (Some(0), "198.18.10.66:5060", URGENT, &[], None),
        (Some(403), "198.18.10.67:5060", URGENT, &[], None),
        (Some(0), "198.18.10.68:5060", ORDINARY, &[], None),
        (None, "198.18.10.68:5060", URGENT, &[], None),
        (Some(0), "198.18.10.69:5060", URGENT, &[], None),
        (Some(0), CALLER, ORDINARY, &scanner, None),
        (None, CALLER, URGENT, &scanner, None),
        (Some(420), CALLER, ORDINARY, &[("Proxy-Require", "x")], None),
        (None, CALLER, URGENT, &[("Proxy-Require", "x")], None),
        (None, CALLER, ORDINARY, &[("Require", "x")], None),
        (Some(483), CALLER, URGENT, &[("Max-Forwards", "0")], None),
        (Some(400), CALLER, ORDINARY, &[("Max-Forwards", "x")], None),
        (Some(440), CALLER, ORDINARY, &[("Max-Breadth", "0")], None),
        (Some(482), CALLER, ORDINARY, &[("v", &via)], None),
        (None, CALLER, URGENT, &[("v", &via)], None),
        (Some(403), CALLER, ORDINARY, &foreign, None),
        (None, CALLER, URGENT, &foreign, None),
        (None, CALLER, ORDINARY, &[("Route", "<sip:198.18.112.112;lr>")], None),
        (Some(422), CALLER, ORDINARY, &short, None),
        (Some(488), CALLER, ORDINARY, &[], unreadable),
        (Some(415), CALLER, ORDINARY, &gzip, readable),
        (None, CALLER, URGENT, &[], unreadable),
        (Some(400), CALLER, ORDINARY, &[("Replaces", "rubbish")], None),
        (Some(481), CALLER, ORDINARY, &unknown, None),
        (None, CALLER, URGENT, &unknown, None),
        // The first of two reasons counts.
        (Some(0), "198.18.10.68:5060", ORDINARY, &[("Proxy-Require", "x")], None),
        (Some(420), CALLER, ORDINARY, &[("Proxy-Require", "x"), ("Max-Forwards", "0")], None),
        (Some(483), "198.18.30.1:5060", ORDINARY, &[("Max-Forwards", "0")], None),
        (Some(403), "198.18.30.1:5060", ORDINARY, &gzip, readable),
        (Some(403), CALLER, ORDINARY, &foreign, unreadable),
        (Some(488), CALLER, "sip:5@x", &[], unreadable),
    ];
    for (row, (expected, from, uri, fields, body)) in table.iter().enumerate() {
        let mut w = world();
        let message = invite(from, uri, fields, *body);
        let found = explained(&mut w, addr(from), &message);
        assert_eq!(found, (*expected, None), "row {row}: {uri} {fields:?}");
        assert_eq!(real(&mut w, &mut Far::at(from), message), *expected, "row {row}: {uri} {fields:?}");
    }
}

/// The dialog that it names is one of ours: its far end is dialled, whatever the Request-URI leads to.
#[test]
fn an_invite_with_replaces_goes_where_the_other_call_is() {
    let mut w = world();
    let (mut caller, mut psap, to) = (Far::at(CALLER), Far::at(PSAP), w.anycast);
    let mut first = caller.initial(&Method::Invite, ORDINARY, "first", 1);
    first.set_body(Some("application/sdp"), sdp());
    caller.put(&mut w, &mut first, to, &[]);
    wait(&mut w, 50);
    let (sent, node) = psap.request(&w, &Method::Invite);
    let mut ok = sent.response(200, None);
    ok.set(HeaderId::To, format!("{};tag=far", sent.to()));
    ok.push(HeaderId::Contact, format!("<sip:far@{PSAP}>"));
    ok.set_body(Some("application/sdp"), sdp());
    psap.put(&mut w, &mut ok, node, &[]);
    wait(&mut w, 20);
    let answered = caller.response(&w, &Method::Invite);
    let (mut ack, at) = caller.within(&Method::Ack, &answered, 1);
    caller.put(&mut w, &mut ack, at, &[]);
    wait(&mut w, 50);
    let value = format!("first;to-tag={};from-tag=ft-first", answered.to_tag().expect("a 2xx has one"));
    let message = invite("198.18.10.10:5060", "sip:nobody@x", &[("Replaces", &value)], None);
    assert_eq!(explained(&mut w, addr("198.18.10.10:5060"), &message), (None, Some("psap".into())));
    psap.inbox(&w);
    assert_eq!(real(&mut w, &mut Far::at("198.18.10.10:5060"), message), None);
    let (there, _) = psap.request(&w, &Method::Invite);
    assert!(there.first(HeaderId::Replaces).is_some_and(|v| v.contains("to-tag=far")));
    assert_eq!(w.counted(Counter::CallReceived("none")), 2);
}
