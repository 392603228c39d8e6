//! Every reason for which the gate refuses, and that the explanation of an INVITE is what a real one meets.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;

use super::list::Admitted;
use super::*;
use crate::auth::{AuthHeader, Hash, Secret};
use crate::call::{Context, LOOP_PARAM};
use crate::ids::{Incarnation, LocalId, NodeId};
use crate::io::{Addresses, Limit, Realm, ReturnPath, Transport};
use crate::local::LocalConfig;
use crate::policy::{
    AclAction, AclRule, Challenger, Prefix, RequestPolicies, SubscribePolicy, Trunk, TrunkAuth, TrunkLimits, User,
};
use crate::replica::Replica;
use crate::sbc::calls::Calls;
use crate::sip::{Message, Method};
use crate::store_pb::{Block, Command, Entry as LogEntry, command::Kind};
use crate::subscription::Subscriptions;
use crate::time::Now;
use crate::token::ClusterKey;
use crate::transaction::{ServerKey, ServerUser};

const CALLER: &str = "198.18.10.9";
const ORDINARY: &str = "sip:49@198.18.112.112";
const URGENT: &str = "sip:112@198.18.112.112";

struct Scene {
    cx: Context,
    gate: Gate,
    calls: Calls,
    subscriptions: Subscriptions,
}

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

fn config() -> ClusterConfig {
    let trunk = |name: &str, net: &str| Trunk { sources: vec![prefix(net)], ..Trunk::new(name, Realm::External) };
    let rule = |ip: &str, action| AclRule { prefix: prefix(ip), realm: None, action };
    let bob = User { name: "bob".into(), secret: Secret::named("bob") };
    let challenger = Challenger {
        realm: "sbc".into(),
        asks: AuthHeader::User,
        users: vec![bob],
        algorithms: vec![Hash::Md5],
        emergency: false,
        nonce_life: Duration::from_secs(60),
    };
    ClusterConfig {
        trunks: vec![
            trunk("callers", "198.18.10.0/24"),
            Trunk { enabled: false, ..trunk("off", "198.18.11.0/24") },
            Trunk { auth: TrunkAuth { challenger: Some(challenger), ..Default::default() }, ..trunk("asks", "198.18.12.0/24") },
            Trunk {
                requests: RequestPolicies { subscribe: SubscribePolicy::Refuse, ..Default::default() },
                ..trunk("mute", "198.18.13.0/24")
            },
            Trunk { limits: TrunkLimits { max_rate: 1, max_calls: 1, ..Default::default() }, ..trunk("slow", "198.18.14.0/24") },
        ],
        acl: vec![rule("198.18.10.66", AclAction::Deny), rule("198.18.10.67", AclAction::Reject)],
        emergency_numbers: vec!["112".into()],
        ..ClusterConfig::default()
    }
}

impl Scene {
    fn new() -> Scene {
        let at = |n: u8| Addresses::from(IpAddr::from([192, 0, 2, n]));
        let local = LocalConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            name: "n1".into(),
            anycast: at(1),
            unicast: at(2),
            core: at(3),
            port: 5060,
            tls_port: 5061,
            anchored: true,
        };
        let mut replica = Replica::new();
        for (index, (ip, everything)) in (1..).zip([("198.18.10.68/32", false), ("198.18.10.69/32", true)]) {
            let block = Block { prefix: ip.into(), everything, ..Block::default() };
            let command = Command { unix_ms: 1, kind: Some(Kind::Block(block)) };
            replica
                .apply(index, &LogEntry { version: 1, commands: vec![command], ..LogEntry::default() })
                .expect("of a known kind");
        }
        let key = ClusterKey::new(&[7; 32], None);
        let cx = Context::new(Now::default(), local, key, Arc::new(config()), Arc::new(RwLock::new(replica)));
        let mut gate = Gate::default();
        gate.bans.read(&cx);
        Scene { cx, gate, calls: Calls::default(), subscriptions: Subscriptions::default() }
    }

    fn sights(&self) -> Sights<'_> {
        Sights { cx: &self.cx, gate: &self.gate, calls: &self.calls, subscriptions: &self.subscriptions }
    }

    fn path(&self, source: &str) -> Path {
        let source: IpAddr = source.parse().expect("an address");
        self.cx.path_to(Realm::External, Transport::Udp, (source, 5060).into())
    }

    /// All that a real request meets, in its order.
    fn meets(&mut self, source: &str, request: &Message) -> Result<Admitted, Refusal> {
        let path = self.path(source);
        if let Some(why) = drops(&self.cx, &self.gate, Realm::External, path.remote.ip()) {
            return Err(why.into());
        }
        let entrance = Entrance::by_path(self.sights(), &path, None, request);
        if let Some(refusal) = entrance.first() {
            return Err(refusal);
        }
        let (admitted, due) = entrance.admit(false);
        if let Some(taken) = due.taken {
            self.gate.limits.take(&self.cx, taken);
        }
        admitted
    }

    /// What an operator is told of the same.
    fn explained(&self, source: &str, request: &Message) -> Option<Refusal> {
        let ip: IpAddr = source.parse().expect("an address");
        if let Some(why) = drops(&self.cx, &self.gate, Realm::External, ip) {
            return Some(why.into());
        }
        let arrival = Arrival::Address { realm: Realm::External, ip, relayed: false, proved: None };
        Entrance::new(self.sights(), arrival, request).explain().0
    }

    fn configure(&mut self, change: impl FnOnce(&mut ClusterConfig)) {
        let mut config = config();
        change(&mut config);
        self.cx.config = Arc::new(config);
    }
}

fn request(method: &str, uri: &str, fields: &str, body: &str) -> Message {
    let text = format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 198.18.10.9;branch=z9hG4bKx\r\nFrom: <sip:a@x>;tag=f\r\nTo: <{uri}>\r\n\
         Call-ID: c\r\nCSeq: 1 {method}\r\nContact: <sip:a@198.18.10.9>\r\n{fields}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Message::parse(Bytes::from(text)).expect("readable")
}

/// Each reason, by a number; the compiler knows when one is missing.
fn number(why: &Why) -> usize {
    match why {
        Why::Denied => 0,
        Why::BlockedWhole => 1,
        Why::Rejected => 2,
        Why::Blocked => 3,
        Why::Scanner => 4,
        Why::RequestUri => 5,
        Why::UriScheme => 6,
        Why::Extensions(_) => 7,
        Why::MaxForwards => 8,
        Why::MaxForwardsUnreadable => 9,
        Why::MaxBreadth => 10,
        Why::Loop => 11,
        Why::Entry(routing::NoEntry::Scheme) => 12,
        Why::Entry(routing::NoEntry::NoTrunk) => 13,
        Why::Entry(routing::NoEntry::Disabled) => 14,
        Why::ForeignRoute => 15,
        Why::SessionInterval => 16,
        Why::Body(_) => 17,
        Why::Credentials(_) => 18,
        Why::Replaces(_) => 19,
        Why::Events => 20,
        Why::EventPackage => 21,
        Why::Limit(Limit::EmergencySourceRate) => 22,
        Why::Limit(Limit::Load) => 23,
        Why::Limit(Limit::Transactions) => 24,
        Why::Limit(Limit::MaxCalls) => 25,
        Why::Limit(Limit::TrunkMaxCalls) => 26,
        Why::Limit(Limit::SourceRate) => 27,
        Why::Limit(Limit::TrunkMaxRate) => 28,
        Why::Limit(Limit::EmergencyWaits | Limit::EmergencyCrowd) => unreachable!("they are of the crowd before a trunk"),
        Why::Limit(Limit::Subscriptions | Limit::SourceSubscriptions) => 29,
    }
}

const REASONS: usize = 30;
const UNREADABLE: &str = "v=0\r\nno description\r\n";

type Row<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, Option<(usize, u16)>);

/// Source, method, Request-URI, fields, body; the number of the reason and the status.
fn lasting_rows(looped: &str) -> Vec<Row<'_>> {
    let sdp = "Content-Type: application/sdp\r\n";
    let event = "Event: presence\r\n";
    vec![
        (CALLER, "INVITE", ORDINARY, "", "", None),
        (CALLER, "INVITE", URGENT, "", "", None),
        (CALLER, "MESSAGE", ORDINARY, "", "", None),
        (CALLER, "SUBSCRIBE", ORDINARY, event, "", None),
        ("198.18.10.66", "INVITE", URGENT, "", "", Some((0, 0))),
        ("198.18.10.69", "INVITE", URGENT, "", "", Some((1, 0))),
        ("198.18.10.67", "INVITE", URGENT, "", "", Some((2, 403))),
        ("198.18.10.68", "INVITE", ORDINARY, "", "", Some((3, 0))),
        ("198.18.10.68", "INVITE", URGENT, "", "", None),
        (CALLER, "INVITE", ORDINARY, "User-Agent: Friendly-Scanner\r\n", "", Some((4, 0))),
        (CALLER, "INVITE", URGENT, "User-Agent: friendly-scanner\r\n", "", None),
        (CALLER, "INVITE", "sip:a@[x", "", "", Some((5, 400))),
        (CALLER, "OPTIONS", "nobody:x", "", "", Some((6, 416))),
        (CALLER, "INVITE", ORDINARY, "Proxy-Require: x\r\n", "", Some((7, 420))),
        (CALLER, "INVITE", URGENT, "Proxy-Require: x\r\n", "", None),
        (CALLER, "INVITE", ORDINARY, "Require: x\r\n", "", None),
        (CALLER, "OPTIONS", ORDINARY, "Require: x, timer\r\n", "", Some((7, 420))),
        (CALLER, "INVITE", URGENT, "Max-Forwards: 0\r\n", "", Some((8, 483))),
        (CALLER, "INVITE", ORDINARY, "Max-Forwards: x\r\n", "", Some((9, 400))),
        (CALLER, "INVITE", ORDINARY, "Max-Breadth: 0\r\n", "", Some((10, 440))),
        (CALLER, "INVITE", ORDINARY, looped, "", Some((11, 482))),
        (CALLER, "INVITE", URGENT, looped, "", None),
        (CALLER, "INVITE", "nobody:x", "", "", Some((12, 416))),
        ("198.18.30.1", "INVITE", URGENT, "", "", Some((13, 403))),
        ("198.18.11.1", "INVITE", ORDINARY, "", "", Some((14, 503))),
        ("198.18.11.1", "INVITE", URGENT, "", "", None),
        (CALLER, "INVITE", ORDINARY, "Route: <sip:elsewhere.example;lr>\r\n", "", Some((15, 403))),
        (CALLER, "INVITE", URGENT, "Route: <sip:elsewhere.example;lr>\r\n", "", None),
        (CALLER, "INVITE", ORDINARY, "Supported: timer\r\nSession-Expires: 30\r\n", "", Some((16, 422))),
        (CALLER, "INVITE", URGENT, "Supported: timer\r\nSession-Expires: 30\r\n", "", None),
        (CALLER, "INVITE", ORDINARY, sdp, UNREADABLE, Some((17, 488))),
        (CALLER, "INVITE", URGENT, sdp, UNREADABLE, None),
        (CALLER, "INVITE", ORDINARY, "Replaces: rubbish\r\n", "", Some((19, 400))),
        (CALLER, "INVITE", URGENT, "Replaces: rubbish\r\n", "", None),
        ("198.18.13.1", "PUBLISH", ORDINARY, event, "", Some((20, 405))),
        ("198.18.13.1", "MESSAGE", ORDINARY, "", "", None),
        (CALLER, "SUBSCRIBE", ORDINARY, "", "", Some((21, 489))),
        (CALLER, "PUBLISH", ORDINARY, "Event: a\r\nEvent: b\r\n", "", Some((21, 489))),
        // The first of two reasons counts.
        ("198.18.30.1", "INVITE", ORDINARY, "Max-Forwards: 0\r\n", "", Some((8, 483))),
        ("198.18.30.1", "INVITE", ORDINARY, sdp, UNREADABLE, Some((13, 403))),
        (CALLER, "INVITE", ORDINARY, "Proxy-Require: x\r\nMax-Forwards: 0\r\n", "", Some((7, 420))),
    ]
}

/// A preparation, source and request; the number of the reason and the status.
type MomentaryRow = (fn(&mut Scene), &'static str, Message, usize, u16);

/// What a limit or a challenge refuses.
fn momentary_rows() -> Vec<MomentaryRow> {
    let ordinary = || request("INVITE", ORDINARY, "", "");
    vec![
        (|_| (), "198.18.12.1", ordinary(), 18, 401),
        (
            |s| {
                s.configure(|c| c.settings.emergency_source_rate = 1);
                (0..2).for_each(|_| assert!(s.meets(CALLER, &request("INVITE", URGENT, "", "")).is_ok()));
            },
            CALLER,
            request("INVITE", URGENT, "", ""),
            22,
            503,
        ),
        (|s| s.gate.limits.on_load(100), CALLER, ordinary(), 23, 503),
        (fill_half, CALLER, ordinary(), 24, 503),
        (|s| s.configure(|c| c.settings.max_calls = 0), CALLER, ordinary(), 25, 503),
        (|s| s.calls.pretend("slow"), "198.18.14.1", ordinary(), 26, 503),
        (
            |s| {
                s.configure(|c| c.settings.source_rate = 1);
                (0..2).for_each(|_| assert!(s.meets(CALLER, &request("INVITE", ORDINARY, "", "")).is_ok()));
            },
            CALLER,
            ordinary(),
            27,
            503,
        ),
        (
            |s| {
                for source in ["198.18.14.1", "198.18.14.2"] {
                    assert!(s.meets(source, &request("INVITE", ORDINARY, "", "")).is_ok());
                }
            },
            "198.18.14.3",
            ordinary(),
            28,
            503,
        ),
        (fill_subscriptions, CALLER, request("SUBSCRIBE", ORDINARY, "Event: presence\r\n", ""), 29, 503),
    ]
}

/// A flood of ordinary calls that are never ended must not take the room in which an emergency call begins and others end.
fn fill_half(s: &mut Scene) {
    let back = ReturnPath::here(s.path(CALLER));
    let mut n = 0u32;
    while !s.cx.tx.is_half_full() {
        n += 1;
        let key = ServerKey { branch: n.to_string().into(), sent_by: "".into(), method: "INVITE".into() };
        s.cx.create_server(ServerUser::Nobody, key, true, back).expect("there is room");
    }
}

fn fill_subscriptions(s: &mut Scene) {
    let (back, subscribe) = (ReturnPath::here(s.path(CALLER)), request("SUBSCRIBE", ORDINARY, "Event: presence\r\n", ""));
    let mut id = 0;
    while s.subscriptions.full(back.path.remote.ip()).is_none() {
        id += 1;
        s.subscriptions.begin(&s.cx, LocalId(id), back, &subscribe, "callers", false);
    }
}

fn found(refusal: Option<&Refusal>) -> Option<(usize, u16)> {
    refusal.map(|refusal| (number(&refusal.why), refusal.status))
}

#[test]
fn every_reason_and_its_explanation() {
    let mut scene = Scene::new();
    let (branch, cookie) = (scene.cx.mint_branch(), scene.cx.loop_cookie(&request("INVITE", ORDINARY, "", "")));
    let looped = format!("Via: SIP/2.0/UDP 192.0.2.2;branch={branch};{LOOP_PARAM}={cookie}\r\n");
    let mut seen = std::collections::BTreeSet::new();
    for (source, method, uri, fields, body, expected) in lasting_rows(&looped) {
        let what = format!("{source} {method} {uri} {fields}");
        let message = request(method, uri, fields, body);
        let met = scene.meets(source, &message).err();
        assert_eq!(found(met.as_ref()), expected, "{what}");
        if method == "INVITE" {
            assert_eq!(found(scene.explained(source, &message).as_ref()), expected, "explained: {what}");
        }
        seen.extend(expected.map(|(number, _)| number));
    }
    for (prepare, source, message, reason, status) in momentary_rows() {
        let mut scene = Scene::new();
        prepare(&mut scene);
        assert_eq!(found(scene.meets(source, &message).err().as_ref()), Some((reason, status)));
        // An emergency call begins all the same, but for the limit that is its own.
        let urgent = scene.meets(source, &request("INVITE", URGENT, "", ""));
        assert_eq!(urgent.is_ok(), reason != 22, "{reason}");
        let explained = (message.method() == &Method::Invite).then(|| scene.explained(source, &message));
        assert!(explained.flatten().is_none(), "what is of the moment is not explained: {reason}");
        seen.insert(reason);
    }
    assert_eq!(seen, (0..REASONS).collect(), "a reason is not tried");
}

#[test]
fn looking_takes_nothing_and_what_was_admitted_before_is_not_counted() {
    let mut scene = Scene::new();
    scene.configure(|c| c.settings.source_rate = 1);
    let (path, message) = (scene.path(CALLER), request("INVITE", ORDINARY, "", ""));
    for _ in 0..9 {
        let (admitted, due) = Entrance::by_path(scene.sights(), &path, None, &message).admit(false);
        assert!(admitted.is_ok() && due.taken.is_some());
    }
    (0..2).for_each(|_| assert!(scene.meets(CALLER, &message).is_ok()));
    assert_eq!(found(scene.meets(CALLER, &message).err().as_ref()), Some((27, 503)));
    let (again, due) = Entrance::by_path(scene.sights(), &path, None, &message).admit(true);
    assert!(again.is_ok() && due.taken.is_none());
}
