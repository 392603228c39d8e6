//! A call outlives its owner (rule J, AC-22 to 26, 48): a survivor, or a later start of the same node, asks both far ends to go on with it. Both far
//! ends by hand, the call at the first node.

use std::net::SocketAddr;

use sbc_core::ids::NodeId;
use sbc_core::io::Transport;
use sbc_core::sip::{HeaderId, Message, Method};
use sbc_core::store_pb::{Cdr, EventKind, LegRecord};

use crate::invariants::no_call_left_over;
use crate::rig::far::sdp;
use crate::rig::{LISTENS, PSAP, Rig, SOURCE, text};
use crate::world::{World, addr};

/// How long a dead node is waited for: a lease and a margin, and whether its SIP answers.
const GONE: u64 = 6_000;

fn stands() -> Rig {
    let mut s = Rig::by(Transport::Udp);
    s.w.raise_level();
    s.established(|_| (), |_| ())
}

fn records(w: &World, node: usize) -> [LegRecord; 2] {
    let replica = w.nodes[node].replica.read().expect("one thread");
    let call = replica.calls(None).next().expect("a call").clone();
    [call.caller(), call.callee()].map(|leg| leg.expect("recorded").clone())
}

fn owner(w: &World, node: usize) -> (NodeId, u32) {
    let replica = w.nodes[node].replica.read().expect("one thread");
    let call = replica.all_calls(None).next().expect("a call").clone();
    (call.owner(), call.state().epoch)
}

fn cdr(w: &World, node: usize) -> Cdr {
    let cdrs = w.nodes[node].replica.read().expect("one thread").cdrs(0, 10).expect("none is compacted");
    let [cdr] = &cdrs[..] else { panic!("{cdrs:?}") };
    (**cdr).clone()
}

fn kinds(w: &World, node: usize) -> Vec<EventKind> {
    let replica = w.nodes[node].replica.read().expect("one thread");
    replica.events(0, usize::MAX).expect("none is compacted").iter().map(|e| e.kind()).collect()
}

fn requests(all: Vec<(Message, SocketAddr)>, method: &Method) -> Vec<(Message, SocketAddr)> {
    all.into_iter().filter(|(m, _)| m.is_request() && m.method() == method).collect()
}

/// The requests of this method that each far end got since the last look: the caller's, the PSAP's. Copies of one count once.
fn both(s: &mut Rig, method: &Method) -> [Vec<(Message, SocketAddr)>; 2] {
    let caller = s.got().into_iter().map(|(m, sent)| (m, SocketAddr::new(sent.from.ip(), 5060))).collect();
    let psap = s.psap.inbox(&s.w);
    [caller, psap].map(|all| {
        let mut all = requests(all, method);
        all.dedup_by_key(|(m, _)| m.cseq());
        all
    })
}

/// What a far end says to a re-INVITE: a final response, with an answer where it accepts.
fn answers(s: &mut Rig, psap: bool, asked: &(Message, SocketAddr), status: u16) {
    let mut draft = asked.0.response(status, None);
    if (200..300).contains(&status) {
        draft.push(HeaderId::Contact, format!("<sip:far@{}>", if psap { PSAP } else { LISTENS }));
        draft.set_body(Some("application/sdp"), sdp());
    }
    let bytes = draft.encode().expect("well formed");
    let from = if psap { s.psap.addr } else { addr(SOURCE) };
    s.w.inject(from, asked.1, bytes);
    s.advance(50);
}

/// Each far end was asked once: takes it.
#[track_caller]
fn both_take_it(s: &mut Rig) -> [(Message, SocketAddr); 2] {
    let asked = both(s, &Method::Invite);
    let [[caller], [psap]] = [&asked[0][..], &asked[1][..]] else { panic!("{asked:#?}") };
    let (caller, psap) = (caller.clone(), psap.clone());
    answers(s, false, &caller, 200);
    answers(s, true, &psap, 200);
    [caller, psap]
}

/// As [`both_take_it`], after so long that the caller's 200 is not repeated any more.
fn settled() -> Rig {
    let mut s = stands();
    s.advance(40_000);
    s.got();
    s.psap.inbox(&s.w);
    s
}

fn at_rest(s: &mut Rig) {
    for node in 0..3 {
        // Those that are up stay so.
        s.start(node);
    }
    s.advance(110_000);
    let mut wrong = s.w.violations.clone();
    no_call_left_over::check(&s.w, &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn ac_22_a_survivor_goes_on_with_a_call() {
    let mut s = settled();
    let before = records(&s.w, 1);
    s.die(0);
    s.advance(GONE);
    let asked = both_take_it(&mut s);
    let (survivor, epoch) = owner(&s.w, 2);
    assert!(survivor != NodeId(1) && epoch == 2);
    let node = usize::from(survivor.0) - 1;
    for ((invite, from), (record, own)) in asked.iter().zip(before.iter().zip([s.w.nodes[node].unicast, s.w.nodes[node].core])) {
        assert_eq!(*from, own, "from the address that it is to be answered at");
        assert!(invite.first(HeaderId::Contact).expect("one").contains(&own.ip().to_string()), "rule F");
        assert_eq!((invite.call_id(), invite.from_tag()), (&*record.call_id, Some(&*record.local_tag)));
        assert_eq!((invite.to_tag(), invite.request_uri()), (Some(&*record.remote_tag), Some(&*record.remote_target)));
        assert!(invite.cseq() >= record.local_cseq_ceiling + 65_536, "rule J: {} {record:?}", invite.cseq());
        let text = text(invite);
        assert!(text.contains(&format!("c=IN IP4 {}", own.ip())), "{text}");
    }
    // Both sides find each other there.
    let info = s.psap.inbox(&s.w);
    assert_eq!(requests(info, &Method::Ack).len(), 1);
    s.asked = Some(asked[1].clone());
    s.psap_requests(PSAP, &Method::Info, |_| ());
    let (info, _) = s.got_request(&Method::Info);
    let ok = info.response(200, None).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[node].unicast, ok);
    s.advance(50);
    s.psap_requests(PSAP, &Method::Bye, |_| ());
    s.got_request(&Method::Bye);
    at_rest(&mut s);
    for node in 1..3 {
        let cdr = cdr(&s.w, node);
        assert_eq!((cdr.owner, cdr.epoch, &cdr.owners_before[..]), (u32::from(survivor.0), 2, &[1][..]));
        assert_eq!(kinds(&s.w, node).iter().filter(|kind| **kind == EventKind::NodeChanged).count(), 1);
    }
}

#[test]
fn ac_26_a_node_that_starts_again_goes_on_with_its_own_calls() {
    let mut s = settled();
    s.die(0);
    s.start(0);
    s.advance(1500);
    both_take_it(&mut s);
    assert_eq!(owner(&s.w, 1), (NodeId(1), 2));
    s.advance(20_000);
    assert!(both(&mut s, &Method::Bye).iter().all(Vec::is_empty), "nobody hangs up");
    let bye = s.within(&Method::Bye, 9).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[0].unicast, bye);
    s.advance(100);
    s.psap_got_request(&Method::Bye);
    at_rest(&mut s);
}

#[test]
fn ac_23_what_a_far_end_says_meanwhile_waits_for_the_survivor() {
    let mut s = settled();
    s.die(0);
    // Before anybody knows more than that the owner does not answer.
    let bye = s.within(&Method::Bye, 9).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[1].unicast, bye);
    s.advance(1500);
    assert!(s.got().is_empty(), "it waits");
    s.advance(3500);
    assert_eq!(owner(&s.w, 2).0, NodeId(2), "where the far end was heard");
    let got = s.got();
    assert!(got.iter().any(|(m, _)| m.method() == &Method::Bye && m.status() == Some(200)), "{got:#?}");
    s.psap_got_request(&Method::Bye);
    at_rest(&mut s);
}

#[test]
fn ac_48_a_caller_that_lacks_its_200_gets_it_again() {
    let mut s = Rig::by(Transport::Udp);
    s.w.raise_level();
    let invite = s.invite_draft();
    s.dials_draft(&invite);
    let first = s.psap_answers(|_| ()).expect("a 200");
    s.advance(100);
    s.psap.inbox(&s.w);
    s.die(0);
    s.got();
    s.advance(GONE);
    let got = s.got();
    let ok = got.iter().map(|(m, _)| m).find(|m| m.status() == Some(200)).expect("its 200");
    assert_eq!((ok.to_tag(), ok.cseq(), ok.top_via().branch()), (first.to_tag(), 1, first.top_via().branch()));
    let node = usize::from(owner(&s.w, 2).0.0) - 1;
    let text = text(ok);
    assert!(text.contains(&format!("c=IN IP4 {}", s.w.nodes[node].unicast.ip())), "{text}");
    let asked = s.psap.inbox(&s.w);
    let order: Vec<Method> = asked.iter().filter(|(m, _)| m.is_request()).map(|(m, _)| m.method().clone()).collect();
    assert_eq!(order[..2], [Method::Ack, Method::Invite], "its ACK first");
    // The caller takes it; it is asked as the PSAP is, for the old owner's may have come as well.
    s.ok = Some(ok.clone());
    let ack = s.within(&Method::Ack, 1).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[node].unicast, ack);
    s.advance(100);
    let invites = both(&mut s, &Method::Invite);
    assert_eq!(invites[0].len(), 1, "{invites:#?}");
    answers(&mut s, false, &invites[0][0].clone(), 200);
    let bye = s.within(&Method::Bye, 9).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[node].unicast, bye);
    at_rest(&mut s);
}

#[test]
fn every_answer_to_being_asked() {
    // What the caller answers, each time that it is asked; how often it is asked within a minute, and whether the call is over then.
    let table: [(&str, &[u16], usize, bool); 7] = [
        ("it takes it", &[200], 1, false),
        ("glare", &[491, 491, 200], 3, false),
        ("its number was too low", &[500, 500, 200], 3, false),
        ("it is busy", &[503, 200], 2, false),
        ("it cannot take that", &[488, 200], 2, false),
        ("it will not", &[603, 200], 2, false),
        ("there is no such call", &[481], 1, true),
    ];
    for (what, says, times, over) in table {
        let mut s = settled();
        s.die(0);
        let (mut asked, mut byes) = (Vec::new(), 0);
        let mut says = says.iter();
        for _ in 0..700 {
            s.advance(100);
            let caller: Vec<(Message, SocketAddr)> =
                s.got().into_iter().map(|(m, sent)| (m, SocketAddr::new(sent.from.ip(), 5060))).collect();
            let psap = s.psap.inbox(&s.w);
            byes += requests(psap.clone(), &Method::Bye).len();
            for invite in requests(psap, &Method::Invite) {
                answers(&mut s, true, &invite, 200);
            }
            for invite in requests(caller, &Method::Invite) {
                if asked.iter().all(|cseq| *cseq != invite.0.cseq()) {
                    asked.push(invite.0.cseq());
                    answers(&mut s, false, &invite, *says.next().unwrap_or(&200));
                }
            }
        }
        assert_eq!((asked.len(), byes > 0), (times, over), "{what}: {asked:?}");
        assert!(asked.is_sorted(), "{what}: {asked:?}");
        if what == "its number was too low" {
            assert!(asked[2] > asked[1] + (1 << 20), "{what}: {asked:?}");
        }
    }
}

#[test]
fn a_far_end_that_is_silent_is_waited_for() {
    let mut s = settled();
    s.die(0);
    let mut over = None;
    for second in 0..150 {
        s.advance(1000);
        s.got();
        let psap = s.psap.inbox(&s.w);
        if over.is_none() && !requests(psap.clone(), &Method::Bye).is_empty() {
            over = Some(second);
        }
        for invite in requests(psap, &Method::Invite) {
            answers(&mut s, true, &invite, 200);
        }
    }
    // 32 s for its transaction, and the emergency caller's minute after that.
    assert!(over.is_some_and(|second| (90..140).contains(&second)), "{over:?}");
    at_rest(&mut s);
}

#[test]
fn a_node_that_is_cut_off_and_answers_keeps_its_calls() {
    let mut s = settled();
    s.lose_log(0);
    s.advance(60_000);
    assert!(both(&mut s, &Method::Invite).iter().all(Vec::is_empty), "it was never in danger");
    assert_eq!(owner(&s.w, 1), (NodeId(1), 1));
    s.regain_log(0);
    s.advance(10_000);
    assert!(both(&mut s, &Method::Invite).iter().all(Vec::is_empty));
    let bye = s.within(&Method::Bye, 9);
    s.send(&bye);
    s.psap_got_request(&Method::Bye);
    at_rest(&mut s);
}

#[test]
fn an_owner_that_comes_back_too_late_says_nothing() {
    let mut s = settled();
    // Its SIP reaches far ends, and no other node.
    s.w.sip_apart = true;
    s.isolate(0);
    s.advance(GONE);
    let asked = both(&mut s, &Method::Invite);
    let (caller, psap) = (asked[0][0].clone(), asked[1][0].clone());
    answers(&mut s, false, &caller, 200);
    answers(&mut s, true, &psap, 200);
    s.got();
    s.psap.inbox(&s.w);
    s.rejoin(0);
    s.advance(60_000);
    let (mine, others) = (s.w.nodes[0].unicast.ip(), s.w.nodes[0].core.ip());
    assert!(s.got().iter().all(|(_, sent)| sent.from.ip() != mine), "to the caller");
    assert!(s.psap.inbox(&s.w).iter().all(|(_, from)| from.ip() != others), "to the PSAP");
    let survivor = usize::from(owner(&s.w, 0).0.0) - 1;
    assert_ne!(survivor, 0);
    let bye = s.within(&Method::Bye, 9).encode().expect("well formed");
    s.w.inject(addr(SOURCE), s.w.nodes[0].unicast, bye);
    s.advance(100);
    let (_, from) = s.psap_got_request(&Method::Bye);
    assert_eq!(from, s.w.nodes[survivor].core, "relayed by who had it once");
    at_rest(&mut s);
}

#[test]
fn the_second_survivor_begins_above_the_first() {
    let mut s = settled();
    s.die(0);
    s.advance(GONE);
    let first = both_take_it(&mut s);
    let owner_now = usize::from(owner(&s.w, 2).0.0) - 1;
    // It dies before the log has its answers; the other two are there again.
    s.start(0);
    s.advance(3_000);
    s.got();
    s.psap.inbox(&s.w);
    s.die(owner_now);
    s.advance(GONE);
    let second = both_take_it(&mut s);
    for (first, second) in first.iter().zip(&second) {
        assert!(second.0.cseq() >= first.0.cseq() + 65_536, "{} {}", first.0.cseq(), second.0.cseq());
        let version = |m: &Message| {
            let text = text(m);
            let line = text.lines().find(|l| l.starts_with("o=")).expect("one").to_owned();
            line.split(' ').nth(2).and_then(|v| v.parse::<u64>().ok()).expect("a version")
        };
        assert!(version(&second.0) > version(&first.0));
    }
    assert_eq!(owner(&s.w, 0).1, 3);
}
