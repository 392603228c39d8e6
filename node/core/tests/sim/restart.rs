//! A node dies and is started again: its calls are shown as lost, both far ends of each get a BYE from it, and the log has the time at
//! which it was declared down.

use sbc_core::ids::{CallUid, NodeId};
use sbc_core::io::Transport;
use sbc_core::replica::OWNER_LOST_LEVEL;
use sbc_core::sip::{Draft, HeaderId, Message, Method};
use sbc_core::store_pb::{Cdr, EventKind, LegRecord};

use crate::invariants::no_call_left_over;
use crate::rig::{PSAP, Rig};
use crate::world::{Sent, UNIX, World};

/// A call that stands at the first node, in a log of a version that adopted no calls: later ones do so with what rang alone.
fn stands(transport: Transport) -> Rig {
    let mut s = Rig::by(transport);
    s.w.raise_level_to(OWNER_LOST_LEVEL);
    s.established(|_| (), |_| ())
}

fn now_ms(w: &World) -> u64 {
    w.now / 1000
}

fn kill(s: &mut Rig) {
    s.die(0);
    s.advance(9);
    s.got();
    s.psap.inbox(&s.w);
}

fn events(w: &World, node: usize) -> Vec<(EventKind, u64)> {
    let replica = w.nodes[node].replica.read().expect("one thread");
    replica.events(0, usize::MAX).expect("none is compacted").iter().map(|e| (e.kind(), e.unix_ms)).collect()
}

/// The call, and whether it is shown as lost.
fn lost(w: &World, node: usize) -> (CallUid, bool) {
    let replica = w.nodes[node].replica.read().expect("one thread");
    let call = replica.all_calls(None).next().expect("a call").clone();
    (call.uid, replica.is_owner_lost(&call))
}

fn records(w: &World, node: usize) -> [LegRecord; 2] {
    let replica = w.nodes[node].replica.read().expect("one thread");
    let call = replica.calls(None).next().expect("a call").clone();
    [call.caller(), call.callee()].map(|leg| leg.expect("recorded").clone())
}

fn cdr(w: &World, node: usize) -> Cdr {
    let cdrs = w.nodes[node].replica.read().expect("one thread").cdrs(0, 10).expect("none is compacted");
    let [cdr] = &cdrs[..] else { panic!("{cdrs:?}") };
    (**cdr).clone()
}

fn at_rest(s: &mut Rig) {
    s.advance(70_000);
    let mut wrong = s.w.violations.clone();
    no_call_left_over::check(&s.w, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Within the call as recorded, above all that was said before, and why.
#[track_caller]
fn is_farewell(bye: &Message, leg: &LegRecord) {
    assert_eq!(bye.cseq(), leg.local_cseq_ceiling + 65_536);
    assert_eq!(bye.call_id(), leg.call_id);
    assert_eq!(bye.from_tag(), Some(leg.local_tag.as_str()));
    assert_eq!(bye.to_tag(), Some(leg.remote_tag.as_str()));
    assert_eq!(bye.request_uri(), Some(leg.remote_target.as_str()));
    assert!(bye.first(HeaderId::Reason).is_some_and(|r| r.starts_with("Q.850;cause=41")), "{bye:?}");
}

#[test]
fn both_far_ends_get_a_bye_and_the_record_the_time_of_the_death() {
    let mut s = stands(Transport::Udp);
    let [caller, callee] = records(&s.w, 1);
    kill(&mut s);
    s.advance(5000);
    let down = events(&s.w, 1).into_iter().filter(|(kind, _)| *kind == EventKind::NodeDown).collect::<Vec<_>>();
    let [(_, down)] = down[..] else { panic!("{down:?}") };
    assert!(down > UNIX + now_ms(&s.w) - 2500, "at once");
    assert!(lost(&s.w, 1).1 && lost(&s.w, 2).1, "its calls are shown so");
    s.advance(20_000);
    assert!(s.got().is_empty() && s.psap.inbox(&s.w).is_empty(), "nobody else speaks for it");
    s.start(0);
    s.advance(1500);
    let (bye, _) = callers_bye(&mut s);
    is_farewell(&bye, &caller);
    let (bye, from) = s.psap_got_request(&Method::Bye);
    is_farewell(&bye, &callee);
    assert_eq!(from, s.w.nodes[0].core);
    s.psap.answer(&mut s.w, &(bye, from), 200, &[]);
    assert!(lost(&s.w, 1).1, "until the far ends know");
    at_rest(&mut s);
    for node in 0..3 {
        assert_eq!(cdr(&s.w, node).ended_unix_ms, down);
        assert_eq!(cdr(&s.w, node).cause.map(|c| c.reason).as_deref(), Some("owner restarted"));
    }
}

#[test]
fn one_that_is_back_at_once_does_the_same() {
    let mut s = stands(Transport::Tcp);
    kill(&mut s);
    let died = UNIX + now_ms(&s.w);
    s.start(0);
    s.advance(1500);
    assert!(!events(&s.w, 1).iter().any(|(kind, _)| *kind == EventKind::NodeDown));
    // The caller's connection is gone with the process: by its Contact.
    let (bye, sent) = callers_bye(&mut s);
    assert_eq!((sent.to.port(), sent.stream.map(|(transport, flow, _)| (transport, flow))), (5070, Some((Transport::Tcp, None))));
    assert!(bye.first(HeaderId::Reason).is_some());
    s.psap_got_request(&Method::Bye);
    at_rest(&mut s);
    let ended = cdr(&s.w, 2).ended_unix_ms;
    assert!((died..died + 40_000).contains(&ended));
}

#[test]
fn nothing_is_said_before_the_log_has_said_whose_it_is() {
    let mut s = stands(Transport::Udp);
    kill(&mut s);
    s.advance(5000);
    s.lose_log(0);
    s.advance(10);
    s.start(0);
    s.advance(10_000);
    assert!(s.got().is_empty() && s.psap.inbox(&s.w).is_empty());
    s.regain_log(0);
    s.advance(3000);
    callers_bye(&mut s);
    s.psap_got_request(&Method::Bye);
    at_rest(&mut s);
}

#[test]
fn a_node_that_was_cut_off_keeps_its_calls() {
    let mut s = stands(Transport::Udp);
    s.isolate(0);
    s.advance(6000);
    assert!(lost(&s.w, 1).1);
    s.rejoin(0);
    s.advance(3000);
    let kinds: Vec<EventKind> = events(&s.w, 1).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds[kinds.len() - 2..], [EventKind::NodeDown, EventKind::NodeBack]);
    assert!(!lost(&s.w, 0).1 && !lost(&s.w, 1).1);
    assert!(s.got().is_empty() && s.psap.inbox(&s.w).is_empty());
    // Its end is its own, with its own time.
    let bye = s.within(&Method::Bye, 2);
    s.send(&bye);
    let (bye, from) = s.psap_got_request(&Method::Bye);
    s.psap.answer(&mut s.w, &(bye, from), 200, &[]);
    let ended = UNIX + now_ms(&s.w);
    at_rest(&mut s);
    assert!(cdr(&s.w, 1).ended_unix_ms.abs_diff(ended) < 200);
}

/// The first of the BYEs that the caller got, which repeat themselves.
#[track_caller]
fn callers_bye(s: &mut Rig) -> (Message, Sent) {
    s.got().into_iter().find(|(m, _)| m.is_request() && m.method() == &Method::Bye).expect("a BYE to the caller")
}

/// From the PSAP, within the call as it was recorded.
fn from_psap(leg: &LegRecord, method: &Method, cseq: u32) -> Draft {
    let mut draft = Draft::request(method, "sip:x@198.18.1.1");
    draft.push(HeaderId::Via, format!("SIP/2.0/UDP {PSAP};branch=z9hG4bKp{cseq}"));
    draft.push(HeaderId::MaxForwards, "70");
    draft.push(HeaderId::From, format!("{};tag={}", leg.remote_uri, leg.remote_tag));
    draft.push(HeaderId::To, format!("{};tag={}", leg.local_uri, leg.local_tag));
    draft.push(HeaderId::CallId, &*leg.call_id);
    draft.push(HeaderId::CSeq, format!("{cseq} {method}"));
    draft
}

#[test]
fn a_far_end_that_speaks_meanwhile_hears_503_and_then_481() {
    let mut s = stands(Transport::Udp);
    let [_, callee] = records(&s.w, 1);
    kill(&mut s);
    s.advance(5000);
    for (node, cseq) in [(1, 10), (2, 11)] {
        let to = s.w.nodes[node].core;
        s.psap.put(&mut s.w, &mut from_psap(&callee, &Method::Info, cseq), to, &[]);
        s.advance(50);
        assert_eq!(s.psap.response(&s.w, &Method::Info).status(), Some(503));
    }
    s.start(0);
    // The log has it, and the far ends are about to be told.
    s.advance(500);
    for (node, cseq) in [(0, 12), (1, 13)] {
        let to = s.w.nodes[node].core;
        s.psap.put(&mut s.w, &mut from_psap(&callee, &Method::Info, cseq), to, &[]);
        s.advance(50);
        assert_eq!(s.psap.response(&s.w, &Method::Info).status(), Some(503), "node {node}");
    }
    at_rest(&mut s);
    s.psap.inbox(&s.w);
    for (node, cseq) in [(0, 14), (1, 15)] {
        let to = s.w.nodes[node].core;
        s.psap.put(&mut s.w, &mut from_psap(&callee, &Method::Info, cseq), to, &[]);
        s.advance(50);
        assert_eq!(s.psap.response(&s.w, &Method::Info).status(), Some(481), "node {node}");
    }
}

#[test]
fn a_far_end_that_hangs_up_meanwhile_is_believed_and_the_other_one_told() {
    let mut s = stands(Transport::Udp);
    let [_, callee] = records(&s.w, 1);
    kill(&mut s);
    s.advance(5000);
    s.start(0);
    s.advance(1000);
    // Who has not both tags is not believed.
    let [caller, _] = records(&s.w, 1);
    for (node, wrong) in [
        (0, LegRecord { remote_tag: "x".into(), ..callee.clone() }),
        (2, LegRecord { call_id: caller.call_id, ..callee.clone() }),
    ] {
        let to = s.w.nodes[node].core;
        s.psap.put(&mut s.w, &mut from_psap(&wrong, &Method::Bye, 8 + u32::try_from(node).expect("few")), to, &[]);
        s.advance(20);
        assert_ne!(s.psap.response(&s.w, &Method::Bye).status(), Some(200), "node {node}");
    }
    let to = s.w.nodes[2].core;
    s.psap.put(&mut s.w, &mut from_psap(&callee, &Method::Bye, 10), to, &[]);
    s.advance(200);
    assert_eq!(s.psap.response(&s.w, &Method::Bye).status(), Some(200));
    callers_bye(&mut s);
    at_rest(&mut s);
    assert_eq!(lost_owner(&s.w), NodeId(1));
}

fn lost_owner(w: &World) -> NodeId {
    NodeId(u16::try_from(cdr(w, 1).owner).expect("few nodes"))
}
