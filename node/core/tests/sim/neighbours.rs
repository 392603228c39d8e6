//! A node that is cut off asks its peers how they are, at their addresses, and only then; nobody else is told.

use std::net::SocketAddr;

use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_core::sip::{HeaderId, Message, Method};

use crate::rig::far::{Far, wait};
use crate::world::{Fault, Net, World};

const STATE: &str = "X-SBC-State";

fn world() -> World {
    let mut w = World::new(1, 3, Vec::new(), Net::calm());
    w.sent = Some(Vec::new());
    w
}

/// The questions that a node has sent, and where.
fn questions(w: &World, node: usize) -> Vec<(Message, SocketAddr, SocketAddr)> {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.node == Some(node));
    let parsed = sent.map(|s| (Message::parse(s.bytes.clone()).expect("well formed"), s.from, s.to));
    parsed.filter(|(m, ..)| m.is_request() && m.method() == &Method::Options).collect()
}

fn said(w: &World, to: usize, of: u16) -> Option<NodeState> {
    w.said.iter().rev().find(|(node, peer, _)| *node == to && *peer == NodeId(of)).map(|(.., state)| *state)
}

#[test]
fn who_is_cut_off_hears_by_options_how_its_peers_are() {
    let mut w = world();
    w.run_until(10_000);
    assert!((0..3).all(|n| questions(&w, n).is_empty()), "nobody asks while all is well");
    w.fault_at(10_000, Fault::Cut(0));
    w.run_until(20_000);
    for peer in [2, 3] {
        let state = said(&w, 0, peer).expect("it has answered");
        assert!(state.is_well() && !state.announces, "{state:?}");
    }
    // Those with a quorum ask it alone: does it have its calls? How it is, they make nothing of.
    let cut_off = [w.nodes[0].unicast, w.nodes[0].core];
    for node in [1, 2] {
        let asked = questions(&w, node);
        assert!(!asked.is_empty() && asked.iter().all(|(.., to)| cut_off.contains(to)), "{asked:?}");
        assert!(said(&w, node, 1).is_none());
    }
    // At both addresses of each, from our own of that side, twice a second at the most and one at a time.
    let asked = questions(&w, 0);
    for peer in [1, 2] {
        for (from, to) in [(w.nodes[0].unicast, w.nodes[peer].unicast), (w.nodes[0].core, w.nodes[peer].core)] {
            let count = asked.iter().filter(|q| (q.1, q.2) == (from, to)).count();
            assert!((14..=22).contains(&count), "{count} questions to {to} in 10 s");
        }
    }
    // Healed: no more.
    w.fault_at(20_000, Fault::Heal(0));
    w.run_until(21_000);
    let before = questions(&w, 0).len();
    w.run_until(40_000);
    assert_eq!(questions(&w, 0).len(), before);
}

#[test]
fn who_has_links_is_not_asked_and_dead_peers_cost_little() {
    let mut w = world();
    w.fault_at(1000, Fault::CutLog(0));
    w.run_until(10_000);
    assert!(questions(&w, 0).is_empty(), "its peers tell it over their links");
    w.fault_at(10_000, Fault::Kill(1));
    w.fault_at(10_000, Fault::Kill(2));
    w.run_until(11_000);
    let before = questions(&w, 0).len();
    w.run_until(71_000);
    // Four addresses, each asked anew when two seconds of silence are over, in three copies.
    let sent = questions(&w, 0).len() - before;
    assert!(sent <= 4 * 31 * 3, "{sent} packets in a minute");
    assert!(w.said.is_empty());
}

#[test]
fn no_stranger_is_told_and_no_answer_serves_twice() {
    let mut w = world();
    w.fault_at(1000, Fault::Cut(0));
    w.run_until(6000);
    let (question, from, to) = questions(&w, 0).into_iter().next_back().expect("it has asked");
    let answers: Vec<Message> = {
        let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.from == to && s.to == from);
        sent.map(|s| Message::parse(s.bytes.clone()).expect("well formed")).collect()
    };
    let sealed = |m: &Message| m.first_named(STATE).map(str::to_owned);
    let tokens: Vec<String> = answers.iter().filter_map(sealed).collect();
    assert!(tokens.len() >= 2 && tokens.windows(2).all(|pair| pair[0] != pair[1]), "one a question: {tokens:?}");
    // A stranger who has seen the question asks it again: an ordinary answer.
    let mut far = Far::at("198.18.10.66:5060");
    w.inject(far.addr, to, question.raw().clone());
    wait(&mut w, 100);
    let answer = far.response(&w, &Method::Options);
    assert_eq!((answer.status(), sealed(&answer)), (Some(200), None));
    // Or asks with a branch of its own, and an address that it forges.
    let mut own = far.initial(&Method::Options, "sip:198.18.0.2", "own", 1);
    far.put(&mut w, &mut own, to, &[]);
    wait(&mut w, 100);
    assert_eq!(sealed(&far.response(&w, &Method::Options)), None);
    // An old answer to a new question, faster than the right one, says nothing.
    w.said.clear();
    let before = questions(&w, 0).len();
    while questions(&w, 0).len() == before {
        wait(&mut w, 1);
    }
    let (question, from, to) = questions(&w, 0).into_iter().next_back().expect("it goes on asking");
    let mut forged = question.response(200, None);
    forged.set(HeaderId::To, format!("{};tag=x", question.to()));
    forged.push_named(STATE, tokens[0].as_str());
    let forger = Far::at(&to.to_string());
    w.inject(forger.addr, from, forged.encode().expect("well formed"));
    wait(&mut w, 100);
    assert_eq!(w.said.len(), 3, "of four questions: {:?}", w.said);
}
