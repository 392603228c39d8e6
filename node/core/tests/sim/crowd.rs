//! More emergency calls than a PSAP takes: who has none there is put through, the others wait in turn, and nobody is refused who need not be.

use std::collections::BTreeSet;

use bytes::Bytes;
use sbc_core::io::{Counter, DropReason, Limit};
use sbc_core::policy::{Prefix, Settings};
use sbc_core::sip::{Message, Method};

use crate::world::{Net, World, addr};

const FLOOD: &str = "198.18.10.7:5060";
const OTHER: &str = "198.18.10.8:5060";
/// The PSAP: nobody answers there, so what begins stays.
const SILENT: &str = "198.18.20.9:5060";

fn world(most: u32) -> World {
    let mut w = World::new(5, 1, Vec::new(), Net::calm());
    w.sent = Some(Vec::new());
    w.reconfigure(|c| {
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        c.trunks[1].limits.max_emergency_calls = most;
        c.settings.emergency_source_rate = 0;
    });
    w.run_until(100);
    w
}

fn request(method: &str, from: &str, id: &str) -> Bytes {
    Bytes::from(format!(
        "{method} sip:112@198.18.112.112 SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{id};rport\r\n\
         From: <sip:c9@x>;tag=9\r\nTo: <sip:112@198.18.112.112>\r\nCall-ID: {id}\r\nCSeq: 1 {method}\r\n\
         Max-Forwards: 70\r\nContact: <sip:c9@{from}>\r\nContent-Length: 0\r\n\r\n"
    ))
}

fn calls(w: &mut World, from: &str, ids: std::ops::Range<u32>) {
    let to = w.anycast;
    for n in ids {
        w.inject(addr(from), to, request("INVITE", from, &format!("{}n{n}x", &from[..12])));
    }
}

/// Calls that the PSAP was asked for.
fn rung(w: &World) -> usize {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr(SILENT) && s.bytes.starts_with(b"INVITE "));
    let ids = sent.map(|s| Message::parse(s.bytes.clone()).expect("well formed").call_id().to_owned());
    ids.collect::<BTreeSet<_>>().len()
}

/// Answers to requests of this method.
fn answers(w: &World, to: &str, method: &Method) -> Vec<Message> {
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.to == addr(to) && s.node.is_some());
    let answers = sent.map(|s| Message::parse(s.bytes.clone()).expect("well formed"));
    answers.filter(|m| !m.is_request() && m.method() == method).collect()
}

/// Answers of this status; a final one, which is repeated, counts once.
fn heard(w: &World, to: &str, status: u16) -> usize {
    let all = answers(w, to, &Method::Invite).into_iter().filter(|m| m.status() == Some(status));
    let ids: Vec<String> = all.map(|m| m.call_id().to_owned()).collect();
    if status < 200 { ids.len() } else { ids.into_iter().collect::<BTreeSet<_>>().len() }
}

#[test]
fn who_has_no_call_there_is_put_through_and_the_others_wait() {
    let mut w = world(4);
    calls(&mut w, FLOOD, 0..10);
    w.run_until(1000);
    assert_eq!((rung(&w), heard(&w, FLOOD, 100), heard(&w, FLOOD, 503)), (4, 10, 0), "six wait, and know it");
    assert_eq!(w.counted(Counter::Limited(Limit::EmergencyWaits)), 6);
    calls(&mut w, OTHER, 0..1);
    w.run_until(1100);
    assert_eq!(rung(&w), 5);
    // A copy of one that waits is one that waits.
    calls(&mut w, FLOOD, 9..10);
    w.run_until(1500);
    assert_eq!((rung(&w), heard(&w, FLOOD, 100), w.counted(Counter::Limited(Limit::EmergencyWaits))), (5, 11, 6));
    // One that ends makes room, for one.
    for id in [FLOOD, OTHER].map(|from| format!("{}n0x", &from[..12])) {
        let from = if id.contains("10.7") { FLOOD } else { OTHER };
        let to = w.anycast;
        w.inject(addr(from), to, request("CANCEL", from, &id));
    }
    w.run_until(12_000);
    assert_eq!((rung(&w), heard(&w, FLOOD, 503)), (6, 0), "four of five were there, and one of those is over");
    w.run_until(20_000);
    assert_eq!((heard(&w, FLOOD, 503), w.counted(Counter::Limited(Limit::EmergencyCrowd))), (5, 5), "it has waited for 16 s");
    assert_eq!(heard(&w, OTHER, 503), 0);
}

/// RFC 3261 §9.2: 200 to the CANCEL of an INVITE that waits, and 487 to the INVITE, until it is acknowledged; it makes room in the line.
#[test]
fn who_gives_up_waiting_hears_that_it_was_cancelled() {
    let mut w = world(1);
    calls(&mut w, FLOOD, 0..3);
    w.run_until(300);
    let (to, id) = (w.anycast, format!("{}n2x", &FLOOD[..12]));
    w.inject(addr(FLOOD), to, request("CANCEL", FLOOD, &id));
    w.run_until(400);
    let told = answers(&w, FLOOD, &Method::Cancel);
    let refused: Vec<Message> = answers(&w, FLOOD, &Method::Invite).into_iter().filter(|m| m.status() == Some(487)).collect();
    assert_eq!((told.len(), told[0].status(), refused.len(), refused[0].call_id()), (1, Some(200), 1, &*id));
    assert_eq!(told[0].to_tag(), refused[0].to_tag(), "of one transaction user");
    w.run_until(2000);
    let repeated = |w: &World| answers(w, FLOOD, &Method::Invite).iter().filter(|m| m.status() == Some(487)).count();
    assert_eq!(repeated(&w), 3, "at 0, 500 and 1500 ms: its sender, which had its 100, repeats nothing");
    let tag = refused[0].to_tag().expect("has one");
    let ack = String::from_utf8(request("ACK", FLOOD, &id).to_vec()).expect("text");
    w.inject(addr(FLOOD), to, Bytes::from(ack.replace("112>\r\n", &format!("112>;tag={tag}\r\n"))));
    w.run_until(20_000);
    assert_eq!((repeated(&w), rung(&w)), (3, 1));
    assert_eq!(heard(&w, FLOOD, 503), 1, "the other one has waited to no end");
    // A late copy of the INVITE is not dialled either.
    calls(&mut w, FLOOD, 2..3);
    w.run_until(21_000);
    assert_eq!(rung(&w), 1);
}

#[test]
fn who_waits_without_a_call_there_is_never_refused() {
    let mut w = world(2);
    // More sources than twice the limit, each with one call: the last wait.
    let sources: Vec<String> = (20..26).map(|n| format!("198.18.10.{n}:5060")).collect();
    for source in &sources {
        calls(&mut w, source, 0..1);
    }
    w.run_until(1000);
    assert_eq!(rung(&w), 4);
    w.run_until(18_000);
    assert_eq!(rung(&w), 6, "dialled anyway");
    assert!(sources.iter().all(|s| heard(&w, s, 503) == 0));
}

#[test]
fn what_finds_no_room_to_wait_costs_the_source_that_has_most_waiting() {
    let mut w = world(1);
    calls(&mut w, FLOOD, 0..250);
    w.run_until(600);
    calls(&mut w, OTHER, 0..8);
    w.run_until(1000);
    // One of each source is up; 249 + 7 wait, as many as there is room for.
    assert_eq!((rung(&w), heard(&w, FLOOD, 503), heard(&w, OTHER, 503)), (2, 0, 0));
    calls(&mut w, OTHER, 8..20);
    w.run_until(1500);
    assert_eq!((heard(&w, FLOOD, 503), heard(&w, OTHER, 503)), (12, 0));
}

#[test]
fn a_flood_of_one_source_is_cut_by_default_and_a_neighbour_is_not_one_caller() {
    let rate = Settings::default().emergency_source_rate;
    assert!(rate > 0 && Settings::default().source_rate > 0);
    let all = rate * 3;
    for (neighbour, refused) in [(false, all - 2 * rate), (true, 0)] {
        let mut w = world(0);
        w.reconfigure(|c| {
            c.settings.emergency_source_rate = rate;
            if neighbour {
                c.trunks[0].sources.push(Prefix { addr: addr(FLOOD).ip(), len: 32 });
            }
        });
        calls(&mut w, FLOOD, 0..all);
        w.run_until(200);
        let counted = w.counted(Counter::Limited(Limit::EmergencySourceRate));
        assert!(counted.abs_diff(refused.into()) <= 20, "{counted} of {all}, {neighbour}");
    }
}

/// An INVITE that waited counts once against its source: what it comes to when its place is free is not what the flood has left over.
#[test]
fn what_has_waited_is_not_counted_against_its_source_again() {
    let mut w = world(4);
    w.reconfigure(|c| {
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        c.trunks[1].limits.max_emergency_calls = 4;
        c.settings.emergency_source_rate = 5;
    });
    // A source may begin twice its rate at once.
    calls(&mut w, FLOOD, 0..10);
    w.run_until(200);
    assert_eq!((rung(&w), w.counted(Counter::Limited(Limit::EmergencyWaits))), (4, 6));
    w.reconfigure(|c| {
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        c.settings.emergency_source_rate = 5;
    });
    w.run_until(300);
    assert_eq!((rung(&w), heard(&w, FLOOD, 503), w.counted(Counter::Limited(Limit::EmergencySourceRate))), (10, 0, 0));
}

/// AC-55: one whose place comes when its sender has given up is not dialled. A node that was paused finds it so.
#[test]
fn what_has_waited_for_longer_than_its_sender_is_not_dialled() {
    for (paused, dialled) in [(15_000, 2), (40_000, 1)] {
        let mut w = world(1);
        calls(&mut w, FLOOD, 0..1);
        w.run_until(300);
        calls(&mut w, FLOOD, 1..2);
        w.run_until(400);
        assert_eq!((rung(&w), w.counted(Counter::Limited(Limit::EmergencyWaits))), (1, 1));
        // There is room when it goes on.
        w.freeze(0, 400 + paused);
        w.reconfigure(|c| {
            c.trunks[1].targets[0].host.host = "198.18.20.9".into();
            c.settings.emergency_source_rate = 0;
        });
        w.run_until(400 + paused + 500);
        assert_eq!(rung(&w), dialled, "paused for {paused} ms");
        assert_eq!(w.counted(Counter::Dropped(DropReason::OldInvite)), 2 - dialled as u64, "paused for {paused} ms");
    }
}
