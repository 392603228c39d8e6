//! The way to the far ends of a subscription: connections that close, at this node or another; names, large documents, sips.

use sbc_core::io::{Target, Transport};
use sbc_core::sip::{HeaderId, Method, is_keepalive};

use crate::rig::{DESK_LISTENS, DESK_SOURCE, Far, Rig, URI, flow_of};
use crate::world::{Fault, addr};

/// RFC 3261 §12.2.1.1: the desk's connection while it lasts, then its Contact; whether the node has heard of its end or not.
#[test]
fn a_connection_that_is_gone_is_no_way() {
    for heard in [true, false] {
        let mut s = Rig::watching(Transport::Tcp);
        let (notify, sent) = s.notified_once();
        assert_eq!((sent.to, flow_of(&sent)), (addr(DESK_SOURCE), Some(1)));
        assert_eq!(s.answers_notify(&notify), Some(200));
        match heard {
            true => s.w.close(0, 1),
            false => s.w.connections.clear(),
        }
        let (notify, sent) = s.notified_once();
        assert_eq!((sent.to, flow_of(&sent)), (addr(DESK_LISTENS), None), "{heard}");
        s.caller.at.1 = 2;
        assert_eq!(s.answers_notify(&notify), Some(200));
        // Nobody is there either: the notifier is told that, and that the SBC is well.
        s.w.connections.clear();
        s.w.refusing.push(addr(DESK_LISTENS));
        assert!(s.notified(10).is_empty());
        assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(500));
        s.rests(800_000);
    }
}

/// AC-31: the desk comes back at another node, whose connection is the way to it from then on.
#[test]
fn ac_31_a_desk_is_followed_to_another_node() {
    let mut s = Rig::watching(Transport::Tcp);
    s.w.close(0, 1);
    (s.caller.at, s.caller.addr) = ((1, 7), addr("198.18.10.7:40007"));
    s.renews();
    let got = s.psap.request(&s.w, &Method::Subscribe);
    s.psap.answer(&mut s.w, &got, 200, &[("Expires", "600")]);
    s.advance(30);
    s.got();
    let (notify, sent) = s.notified_once();
    assert_eq!((sent.node, flow_of(&sent), sent.to), (Some(1), Some(7), s.caller.addr));
    assert!(notify.first(HeaderId::Contact).is_some_and(|c| c.contains("@198.18.0.1:5060")), "the owner's");
    assert_eq!(s.answers_notify(&notify), Some(200));
    // That node has lost it since: the owner hears of it.
    s.w.connections.clear();
    let (notify, sent) = s.notified_once();
    assert_eq!((sent.node, sent.to), (Some(0), addr(DESK_LISTENS)));
    s.caller.at = (0, 9);
    assert_eq!(s.answers_notify(&notify), Some(200));
    s.rests(800_000);
}

/// RFC 3263 §4.3: a name stands for several addresses, and the first one is dead. Each way has a proof of its own (RFC 7616 §3.4).
#[test]
fn the_next_address_of_a_name() {
    const DEAD: &str = "198.18.20.66:5060";
    const ALIVE: &str = "198.18.20.67:5060";
    let mut s = Rig::watches(Transport::Udp, Some(Transport::Udp));
    s.w.names = [DEAD, ALIVE].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{DESK_LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut dead, mut alive) = (Far::at(DEAD), Far::at(ALIVE));
    s.renews();
    let first = dead.request(&s.w, &Method::Subscribe);
    assert!(alive.inbox(&s.w).is_empty());
    s.advance(2500);
    let second = alive.request(&s.w, &Method::Subscribe);
    assert_eq!(first.0.cseq(), second.0.cseq(), "the same request");
    alive.answer(&mut s.w, &second, 401, &[("WWW-Authenticate", "Digest realm=\"psap\", nonce=\"n1\", qop=\"auth\"")]);
    s.advance(30);
    let proved = alive.request(&s.w, &Method::Subscribe);
    assert!(proved.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000001")));
    alive.answer(&mut s.w, &proved, 200, &[("Expires", "600")]);
    s.advance(30);
    assert!(s.got().iter().any(|(m, _)| m.status() == Some(200)));
    // The dead one is held down by now, and asked last.
    dead.inbox(&s.w);
    s.renews();
    let third = alive.request(&s.w, &Method::Subscribe);
    assert!(third.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000002")));
    // Nothing comes of it: the other one is asked after all, with a proof of its own.
    s.advance(2500);
    let fourth = dead.request(&s.w, &Method::Subscribe);
    assert!(fourth.0.first(HeaderId::Authorization).is_some_and(|a| a.contains("nc=00000003")));
    assert_eq!(third.0.cseq(), fourth.0.cseq());
    s.rests(800_000);
}

/// AC-30, RFC 3261 §18.1.1: a document that is too large for a datagram goes by TCP, and by UDP where nobody takes it.
#[test]
fn ac_30_a_large_document_goes_by_tcp() {
    for (refuses, by_tcp) in [(false, true), (true, false)] {
        let mut s = Rig::watching(Transport::Udp);
        assert!(s.notified_once().1.stream.is_none(), "a small one stays");
        if refuses {
            s.w.refusing.push(addr(DESK_LISTENS));
        }
        let got = s.notified(1400);
        let ways: Vec<_> = got.iter().map(|(m, s)| (s.to, s.stream.is_some(), m.top_via().transport().to_owned())).collect();
        assert_eq!(ways, [(addr(DESK_LISTENS), by_tcp, if by_tcp { "TCP" } else { "UDP" }.to_owned())]);
        s.rests(800_000);
    }
}

/// RFC 3261 §8.1.1.8, §12.1.1: who asks for sips gets a Contact of sips, and stays on its connection.
#[test]
fn a_subscription_by_sips() {
    let contact = format!("<sips:far@{DESK_LISTENS}>");
    for (uri, from, sips) in [("sips:112@198.18.112.112", &*contact, true), (URI, &*contact, true), (URI, "<sip:far@h>", false)] {
        let onward = uri.starts_with("sips:");
        let toward = if onward { None } else { Some(Transport::Udp) };
        let mut s = Rig::watches(Transport::Tls, toward).begun(uri, from, &[]);
        let asked = s.asked.as_ref().map(|(m, _)| m.clone()).expect("asked");
        assert_eq!(asked.request_uri().is_some_and(|u| u.starts_with("sips:")), onward, "{asked:?}");
        let toward = asked.first(HeaderId::Contact).expect("one");
        assert_eq!((toward.starts_with("<sips:"), toward.contains(":5061")), (onward, onward), "{toward}");
        let ours = s.ok.as_ref().and_then(|ok| ok.first(HeaderId::Contact)).expect("one").to_owned();
        assert_eq!((ours.starts_with("<sips:"), ours.contains("@198.18.0.1:5061")), (sips, true), "{ours}");
        let (notify, sent) = s.notified_once();
        assert_eq!((flow_of(&sent), notify.first(HeaderId::Contact)), (Some(1), Some(&*ours)));
        assert_eq!(s.answers_notify(&notify), Some(200));
        s.rests(800_000);
    }
}

/// A slow address sounds no other than a dead one: its answer counts, whoever was asked after it.
#[test]
fn a_slow_address_is_heard_after_all() {
    const SLOW: &str = "198.18.20.66:5060";
    const DEAD: &str = "198.18.20.67:5060";
    let mut s = Rig::watches(Transport::Udp, Some(Transport::Udp));
    s.w.names = [SLOW, DEAD].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{DESK_LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut slow, mut dead) = (Far::at(SLOW), Far::at(DEAD));
    s.renews();
    s.advance(2500);
    let (first, second) = (slow.request(&s.w, &Method::Subscribe), dead.request(&s.w, &Method::Subscribe));
    assert_eq!(first.0.cseq(), second.0.cseq());
    // RFC 4320 §4.1: the desk has waited for long enough to be told.
    s.advance(1500);
    assert_eq!(s.got().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [100]);
    slow.answer(&mut s.w, &first, 200, &[("Expires", "600")]);
    s.advance(30);
    assert_eq!(s.got().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [200]);
    slow.inbox(&s.w);
    dead.inbox(&s.w);
    s.advance(40_000);
    assert!(slow.inbox(&s.w).is_empty() && dead.inbox(&s.w).is_empty(), "nothing is repeated any more");
    assert!(s.w.nodes.iter().any(|n| n.sbc.subscription_count() == 1), "and it goes on");
    s.rests(800_000);
}

/// Where one host has two addresses, the second copy is refused as one: the first is the one that is answered.
#[test]
fn a_copy_that_is_refused_as_one_says_nothing() {
    const SLOW: &str = "198.18.20.66:5060";
    const SAME: &str = "198.18.20.67:5060";
    let mut s = Rig::watches(Transport::Udp, Some(Transport::Udp));
    s.w.names = [SLOW, SAME].map(|at| Target { addr: addr(at), transport: Transport::Udp }).into();
    let mut s = s.begun(URI, &format!("<sip:far@{DESK_LISTENS}>"), &[("Record-Route", "<sip:proxy.test;lr>")]);
    let (mut slow, mut same) = (Far::at(SLOW), Far::at(SAME));
    s.renews();
    s.advance(2500);
    let (first, second) = (slow.request(&s.w, &Method::Subscribe), same.request(&s.w, &Method::Subscribe));
    same.answer(&mut s.w, &second, 482, &[]);
    s.advance(30);
    assert!(s.got().is_empty());
    slow.answer(&mut s.w, &first, 200, &[("Expires", "600")]);
    s.advance(30);
    assert_eq!(s.got().iter().filter_map(|(m, _)| m.status()).collect::<Vec<_>>(), [200]);
    s.rests(800_000);
}

/// A connection that takes no more for now is the way all the same: whoever is behind a NAT has no other.
#[test]
fn a_busy_connection_is_not_forgotten() {
    let mut s = Rig::watching(Transport::Tcp);
    s.w.congested = true;
    assert!(s.notified(10).is_empty());
    assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(500));
    s.w.congested = false;
    let (notify, sent) = s.notified_once();
    assert_eq!((sent.to, flow_of(&sent)), (addr(DESK_SOURCE), Some(1)));
    assert_eq!(s.answers_notify(&notify), Some(200));
    s.rests(800_000);
}

/// The node with the desk's connection dies while a NOTIFY is on its way: it goes to the desk's Contact, long before its time is over.
#[test]
fn a_request_through_a_node_that_dies() {
    let mut s = Rig::watching(Transport::Tcp);
    (s.caller.at, s.caller.addr) = ((1, 7), addr("198.18.10.7:40007"));
    s.renews();
    let got = s.psap.request(&s.w, &Method::Subscribe);
    s.psap.answer(&mut s.w, &got, 200, &[("Expires", "600")]);
    s.advance(30);
    s.got();
    let (_, sent) = s.notified_once();
    assert_eq!((sent.node, flow_of(&sent)), (Some(1), Some(7)));
    let now = s.w.now / 1000;
    s.w.fault_at(now + 10, Fault::Kill(1));
    s.advance(5000);
    let again: Vec<_> = s.got().into_iter().filter(|(m, _)| m.method() == &Method::Notify).collect();
    assert_eq!(again.iter().map(|(_, s)| (s.node, s.to)).collect::<Vec<_>>(), [(Some(0), addr(DESK_LISTENS))]);
    s.caller.at = (0, 9);
    assert_eq!(s.answers_notify(&again[0].0), Some(200));
}

/// Between two NOTIFYs may be an hour: the NAT before a desk by UDP is to remember it.
#[test]
fn a_desk_behind_a_nat_is_kept_reachable() {
    for (contact, pings) in [("<sip:far@192.168.1.5:5060>", 3), ("<sip:far@198.18.10.7:5070>", 0)] {
        let mut s = Rig::watches(Transport::Udp, Some(Transport::Udp)).begun(URI, contact, &[]);
        let kept = |s: &Rig| {
            let sent = s.w.sent.as_ref().expect("recorded");
            sent.iter().filter(|p| p.node.is_some() && p.to == addr(DESK_SOURCE) && is_keepalive(&p.bytes)).count()
        };
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), pings);
        s.w.run_until(s.w.now / 1000 + 700_000);
        let after = kept(&s);
        s.w.run_until(s.w.now / 1000 + 80_000);
        assert_eq!(kept(&s), after, "not after its end");
    }
}
