//! The way to the far ends of a subscription: connections that close, at this node or another; names, large documents, sips.

use std::net::SocketAddr;

use bytes::Bytes;
use sbc_core::auth::Secret;
use sbc_core::ids::FlowId;
use sbc_core::io::{AddressRole, HostAndPort, Target, Transport};
use sbc_core::policy::{Credentials, TrunkTarget};
use sbc_core::sip::{Draft, HeaderId, Message, Method, NameAddr, is_keepalive};

use crate::far::{Far, wait};
use crate::world::{Fault, Net, Sent, World, addr};

const NOTIFIER: &str = "198.18.20.8:5060";
/// Where the desk listens, and where it sends from.
const LISTENS: &str = "198.18.10.7:5070";
const SOURCE: &str = "198.18.10.7:40001";
const URI: &str = "sip:112@198.18.112.112";

/// A desk by TCP, TLS or UDP, and the notifier that it watches.
struct Watch {
    w: World,
    transport: Transport,
    source: SocketAddr,
    /// The desk's connection: node and number.
    at: (usize, u64),
    notifier: Far,
    got: Option<(Message, SocketAddr)>,
    ok: Option<Message>,
    cseq: u32,
    read: usize,
}

impl Watch {
    fn new(transport: Transport) -> Watch {
        Watch::toward(transport, Some(Transport::Udp))
    }

    /// `onward`: how the notifier is reached.
    fn toward(transport: Transport, onward: Option<Transport>) -> Watch {
        let mut w = World::new(3, 3, Vec::new(), Net::calm());
        w.sent = Some(Vec::new());
        w.trace = std::env::var_os("SIM_TRACE").is_some();
        w.reconfigure(|config| {
            let at = addr(NOTIFIER);
            let host = HostAndPort { host: at.ip().to_string().into(), port: Some(at.port()) };
            config.trunks[1].targets = vec![TrunkTarget { host, transport: onward }];
            let mut secret = Secret::named("s");
            assert!(secret.fill("hunter2"));
            config.trunks[1].auth.credentials = Some(Credentials { username: "sbc".into(), realm: None, secret });
        });
        w.run_until(100);
        let notifier = Far::at(NOTIFIER);
        Watch { w, transport, source: addr(SOURCE), at: (0, 1), notifier, got: None, ok: None, cseq: 1, read: 0 }
    }

    /// From the desk.
    fn put(&mut self, draft: &Draft) {
        let bytes = draft.encode().expect("well formed");
        let to = self.w.nodes[self.at.0].unicast;
        match self.transport {
            Transport::Udp => self.w.inject(self.source, to, bytes),
            transport => self.w.stream_by(transport, self.at.0, self.at.1, AddressRole::Unicast, self.source, bytes),
        }
        wait(&mut self.w, 30);
    }

    fn via(&self, branch: &str) -> String {
        format!("SIP/2.0/{} {LISTENS};branch=z9hG4bK{branch};rport", self.transport.via_token())
    }

    /// A subscription that stands. `uri` is dialled, `contact` the desk's; the notifier answers with these fields.
    fn begun(mut self, uri: &str, contact: &str, answer: &[(&str, &str)]) -> Watch {
        let mut draft = Far::at(SOURCE).initial(&Method::Subscribe, uri, "s", 1);
        draft.replace_first(HeaderId::Via, self.via("first"));
        draft.set(HeaderId::Contact, contact);
        draft.push_named("Event", "dialog").push_named("Expires", "600");
        self.put(&draft);
        let got = self.notifier.request(&self.w, &Method::Subscribe);
        let mut fields = vec![("Expires", "600"), ("Contact", "<sip:psap@198.18.20.8>")];
        fields.extend_from_slice(answer);
        self.notifier.answer(&mut self.w, &got, 200, &fields);
        wait(&mut self.w, 30);
        let ok = self.desk().into_iter().map(|(m, _)| m).find(|m| m.status() == Some(200)).expect("a 200");
        // Every node knows its owner.
        wait(&mut self.w, 200);
        (self.got, self.ok) = (Some(got), Some(ok));
        self
    }

    fn by_default(transport: Transport) -> Watch {
        let contact = format!("<sip:far@{LISTENS}{}>", transport.contact_parameter());
        Watch::new(transport).begun(URI, &contact, &[])
    }

    /// What the desk's host got since the last look, at whatever port.
    fn desk(&mut self) -> Vec<(Message, Sent)> {
        let sent = self.w.sent.as_ref().expect("recorded");
        let new =
            sent[self.read..].iter().filter(|s| s.node.is_some() && s.to.ip() == self.source.ip() && !is_keepalive(&s.bytes));
        let got = new.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.clone())).collect();
        self.read = sent.len();
        got
    }

    /// A NOTIFY with a document of so many octets; what the desk got of it.
    fn notified(&mut self, octets: usize) -> Vec<(Message, Sent)> {
        let (got, node) = self.got.clone().expect("it was asked");
        let target = NameAddr::parse(got.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned();
        self.cseq += 1;
        let mut draft = Draft::request(&Method::Notify, &target);
        draft.push(HeaderId::Via, format!("SIP/2.0/UDP {NOTIFIER};branch=z9hG4bKn{};rport", self.cseq));
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag=far", got.to()));
        draft.push(HeaderId::To, got.from());
        draft.push(HeaderId::CallId, got.call_id());
        draft.push(HeaderId::CSeq, format!("{} NOTIFY", self.cseq));
        draft.push(HeaderId::Contact, "<sip:psap@198.18.20.8>");
        draft.set_body(Some("application/dialog-info+xml"), Bytes::from(vec![b'x'; octets]));
        let node = SocketAddr::new(node.ip(), 5060);
        self.notifier.put(&mut self.w, &mut draft, node, &[("Event", "dialog"), ("Subscription-State", "active;expires=600")]);
        wait(&mut self.w, 30);
        let got = self.desk();
        got.into_iter().filter(|(m, _)| m.is_request() && m.method() == &Method::Notify).collect()
    }

    /// The one NOTIFY that the desk got, and how.
    #[track_caller]
    fn told(&mut self) -> (Message, Sent) {
        let mut got = self.notified(10);
        assert_eq!(got.len(), 1, "{got:#?}");
        got.remove(0)
    }

    /// The desk answers; what the notifier is told.
    fn answers(&mut self, notify: &Message) -> Option<u16> {
        self.put(&notify.response(200, None));
        self.notifier.response(&self.w, &Method::Notify).status()
    }

    /// The desk refreshes.
    fn refreshes(&mut self) {
        self.cseq += 1;
        let ok = self.ok.as_ref().expect("it stands");
        let (mut draft, _) = Far::at(SOURCE).within(&Method::Subscribe, ok, self.cseq);
        draft.replace_first(HeaderId::Via, self.via(&format!("in{}", self.cseq)));
        draft.push(HeaderId::Contact, format!("<sip:far@{LISTENS}{}>", self.transport.contact_parameter()));
        draft.push_named("Event", "dialog").push_named("Expires", "600");
        self.put(&draft);
    }

    #[track_caller]
    fn at_rest(&mut self) {
        self.w.run_until(self.w.now / 1000 + 800_000);
        let nodes = &self.w.nodes;
        assert_eq!(nodes.iter().map(|n| n.sbc.subscription_count() + n.sbc.transaction_count()).sum::<usize>(), 0);
        assert!(self.w.violations.is_empty(), "{:#?}", self.w.violations);
    }
}

fn flow_of(sent: &Sent) -> Option<u64> {
    sent.stream.as_ref().and_then(|s| s.1).map(|FlowId(flow)| flow)
}

/// RFC 3261 §12.2.1.1: the desk's connection while it lasts, then its Contact; whether the node has heard of its end or not.
#[test]
fn a_connection_that_is_gone_is_no_way() {
    for heard in [true, false] {
        let mut s = Watch::by_default(Transport::Tcp);
        let (notify, sent) = s.told();
        assert_eq!((sent.to, flow_of(&sent)), (addr(SOURCE), Some(1)));
        assert_eq!(s.answers(&notify), Some(200));
        match heard {
            true => s.w.close(0, 1),
            false => s.w.connections.clear(),
        }
        let (notify, sent) = s.told();
        assert_eq!((sent.to, flow_of(&sent)), (addr(LISTENS), None), "{heard}");
        s.at.1 = 2;
        assert_eq!(s.answers(&notify), Some(200));
        // Nobody is there either: the notifier is told that, and that the SBC is well.
        s.w.connections.clear();
        s.w.refusing.push(addr(LISTENS));
        assert!(s.notified(10).is_empty());
        assert_eq!(s.notifier.response(&s.w, &Method::Notify).status(), Some(500));
        s.at_rest();
    }
}

/// AC-31: the desk comes back at another node, whose connection is the way to it from then on.
#[test]
fn ac_31_a_desk_is_followed_to_another_node() {
    let mut s = Watch::by_default(Transport::Tcp);
    s.w.close(0, 1);
    (s.at, s.source) = ((1, 7), addr("198.18.10.7:40007"));
    s.refreshes();
    let got = s.notifier.request(&s.w, &Method::Subscribe);
    s.notifier.answer(&mut s.w, &got, 200, &[("Expires", "600")]);
    wait(&mut s.w, 30);
    s.desk();
    let (notify, sent) = s.told();
    assert_eq!((sent.node, flow_of(&sent), sent.to), (Some(1), Some(7), s.source));
    assert!(notify.first(HeaderId::Contact).is_some_and(|c| c.contains("@198.18.0.1:5060")), "the owner's");
    assert_eq!(s.answers(&notify), Some(200));
    // That node has lost it since: the owner hears of it.
    s.w.connections.clear();
    let (notify, sent) = s.told();
    assert_eq!((sent.node, sent.to), (Some(0), addr(LISTENS)));
    s.at = (0, 9);
    assert_eq!(s.answers(&notify), Some(200));
    s.at_rest();
}

/// RFC 3263 §4.3: a name stands for several addresses, and the first one is dead. Each way has a proof of its own (RFC 7616 §3.4).
#[test]
fn the_next_address_of_a_name() {
    const DEAD: &str = "198.18.20.66:5060";
    const ALIVE: &str = "198.18.20.67:5060";
    let mut s = Watch::new(Transport::Udp);
    s.w.names = [DEAD, ALIVE].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut dead, mut alive) = (Far::at(DEAD), Far::at(ALIVE));
    s.refreshes();
    let first = dead.request(&s.w, &Method::Subscribe);
    assert!(alive.inbox(&s.w).is_empty());
    wait(&mut s.w, 2500);
    let second = alive.request(&s.w, &Method::Subscribe);
    assert_eq!(first.0.cseq(), second.0.cseq(), "the same request");
    alive.answer(&mut s.w, &second, 401, &[("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"n1\", qop=\"auth\"")]);
    wait(&mut s.w, 30);
    let proved = alive.request(&s.w, &Method::Subscribe);
    assert!(proved.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000001")));
    alive.answer(&mut s.w, &proved, 200, &[("Expires", "600")]);
    wait(&mut s.w, 30);
    assert!(s.desk().iter().any(|(m, _)| m.status() == Some(200)));
    // The dead one is held down by now, and asked last.
    dead.inbox(&s.w);
    s.refreshes();
    let third = alive.request(&s.w, &Method::Subscribe);
    assert!(third.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000002")));
    // Nothing comes of it: the other one is asked after all, with a proof of its own.
    wait(&mut s.w, 2500);
    let fourth = dead.request(&s.w, &Method::Subscribe);
    assert!(fourth.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000003")));
    assert_eq!(third.0.cseq(), fourth.0.cseq());
    s.at_rest();
}

/// AC-30, RFC 3261 §18.1.1: a document that is too large for a datagram goes by TCP, and by UDP where nobody takes it.
#[test]
fn ac_30_a_large_document_goes_by_tcp() {
    for (refuses, by_tcp) in [(false, true), (true, false)] {
        let mut s = Watch::by_default(Transport::Udp);
        assert!(s.told().1.stream.is_none(), "a small one stays");
        if refuses {
            s.w.refusing.push(addr(LISTENS));
        }
        let got = s.notified(1400);
        let ways: Vec<_> = got.iter().map(|(m, s)| (s.to, s.stream.is_some(), m.top_via().transport().to_owned())).collect();
        assert_eq!(ways, [(addr(LISTENS), by_tcp, if by_tcp { "TCP" } else { "UDP" }.to_owned())]);
        s.at_rest();
    }
}

/// RFC 3261 §8.1.1.8, §12.1.1: who asks for sips gets a Contact of sips, and stays on its connection.
#[test]
fn a_subscription_by_sips() {
    let contact = format!("<sips:far@{LISTENS}>");
    for (uri, from, sips) in [("sips:112@198.18.112.112", &*contact, true), (URI, &*contact, true), (URI, "<sip:far@h>", false)] {
        let onward = uri.starts_with("sips:");
        let toward = if onward { None } else { Some(Transport::Udp) };
        let mut s = Watch::toward(Transport::Tls, toward).begun(uri, from, &[]);
        let asked = s.got.as_ref().map(|(m, _)| m.clone()).expect("asked");
        assert_eq!(asked.request_uri().is_some_and(|u| u.starts_with("sips:")), onward, "{asked:?}");
        let toward = asked.first(HeaderId::Contact).expect("one");
        assert_eq!((toward.starts_with("<sips:"), toward.contains(":5061")), (onward, onward), "{toward}");
        let ours = s.ok.as_ref().and_then(|ok| ok.first(HeaderId::Contact)).expect("one").to_owned();
        assert_eq!((ours.starts_with("<sips:"), ours.contains("@198.18.0.1:5061")), (sips, true), "{ours}");
        let (notify, sent) = s.told();
        assert_eq!((flow_of(&sent), notify.first(HeaderId::Contact)), (Some(1), Some(&*ours)));
        assert_eq!(s.answers(&notify), Some(200));
        s.at_rest();
    }
}

/// A slow address sounds no other than a dead one: its answer counts, whoever was asked after it.
#[test]
fn a_slow_address_is_heard_after_all() {
    const SLOW: &str = "198.18.20.66:5060";
    const DEAD: &str = "198.18.20.67:5060";
    let mut s = Watch::new(Transport::Udp);
    s.w.names = [SLOW, DEAD].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut slow, mut dead) = (Far::at(SLOW), Far::at(DEAD));
    s.refreshes();
    wait(&mut s.w, 2500);
    let (first, second) = (slow.request(&s.w, &Method::Subscribe), dead.request(&s.w, &Method::Subscribe));
    assert_eq!(first.0.cseq(), second.0.cseq());
    // RFC 4320 §4.1: the desk has waited for long enough to be told.
    wait(&mut s.w, 1500);
    assert_eq!(s.desk().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [100]);
    slow.answer(&mut s.w, &first, 200, &[("Expires", "600")]);
    wait(&mut s.w, 30);
    assert_eq!(s.desk().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [200]);
    slow.inbox(&s.w);
    dead.inbox(&s.w);
    wait(&mut s.w, 40_000);
    assert!(slow.inbox(&s.w).is_empty() && dead.inbox(&s.w).is_empty(), "nothing is repeated any more");
    assert!(s.w.nodes.iter().any(|n| n.sbc.subscription_count() == 1), "and it goes on");
    s.at_rest();
}

/// Where one host has two addresses, the second copy is refused as one: the first is the one that is answered.
#[test]
fn a_copy_that_is_refused_as_one_says_nothing() {
    const SLOW: &str = "198.18.20.66:5060";
    const SAME: &str = "198.18.20.67:5060";
    let mut s = Watch::new(Transport::Udp);
    s.w.names = [SLOW, SAME].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut slow, mut same) = (Far::at(SLOW), Far::at(SAME));
    s.refreshes();
    wait(&mut s.w, 2500);
    let (first, second) = (slow.request(&s.w, &Method::Subscribe), same.request(&s.w, &Method::Subscribe));
    same.answer(&mut s.w, &second, 482, &[]);
    wait(&mut s.w, 30);
    assert!(s.desk().is_empty());
    slow.answer(&mut s.w, &first, 200, &[("Expires", "600")]);
    wait(&mut s.w, 30);
    assert_eq!(s.desk().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [200]);
    s.at_rest();
}

/// A connection that takes no more for now is the way all the same: whoever is behind a NAT has no other.
#[test]
fn a_busy_connection_is_not_forgotten() {
    let mut s = Watch::by_default(Transport::Tcp);
    s.w.congested = true;
    assert!(s.notified(10).is_empty());
    assert_eq!(s.notifier.response(&s.w, &Method::Notify).status(), Some(500));
    s.w.congested = false;
    let (notify, sent) = s.told();
    assert_eq!((sent.to, flow_of(&sent)), (addr(SOURCE), Some(1)));
    assert_eq!(s.answers(&notify), Some(200));
    s.at_rest();
}

/// The node with the desk's connection dies while a NOTIFY is on its way: it goes to the desk's Contact, long before its time is over.
#[test]
fn a_request_through_a_node_that_dies() {
    let mut s = Watch::by_default(Transport::Tcp);
    (s.at, s.source) = ((1, 7), addr("198.18.10.7:40007"));
    s.refreshes();
    let got = s.notifier.request(&s.w, &Method::Subscribe);
    s.notifier.answer(&mut s.w, &got, 200, &[("Expires", "600")]);
    wait(&mut s.w, 30);
    s.desk();
    let (_, sent) = s.told();
    assert_eq!((sent.node, flow_of(&sent)), (Some(1), Some(7)));
    let now = s.w.now / 1000;
    s.w.fault_at(now + 10, Fault::Kill(1));
    wait(&mut s.w, 5000);
    let again: Vec<_> = s.desk().into_iter().filter(|(m, _)| m.method() == &Method::Notify).collect();
    assert_eq!(again.iter().map(|(_, s)| (s.node, s.to)).collect::<Vec<_>>(), [(Some(0), addr(LISTENS))]);
    s.at = (0, 9);
    assert_eq!(s.answers(&again[0].0), Some(200));
}

/// Between two NOTIFYs may be an hour: the NAT before a desk by UDP is to remember it.
#[test]
fn a_desk_behind_a_nat_is_kept_reachable() {
    for (contact, pings) in [("<sip:far@192.168.1.5:5060>", 3), ("<sip:far@198.18.10.7:5070>", 0)] {
        let mut s = Watch::new(Transport::Udp).begun(URI, contact, &[]);
        let kept = |s: &Watch| {
            let sent = s.w.sent.as_ref().expect("recorded");
            sent.iter().filter(|p| p.node.is_some() && p.to == addr(SOURCE) && is_keepalive(&p.bytes)).count()
        };
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), pings);
        s.w.run_until(s.w.now / 1000 + 700_000);
        let after = kept(&s);
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), after, "not after its end");
    }
}
