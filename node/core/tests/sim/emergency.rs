//! What an emergency call carries for dispatchers: its ids, and what comes within the call, the same on every node.

use bytes::Bytes;
use sbc_core::sip::{HeaderId, Message, Method};
use sbc_core::store_pb::{Event, EventKind};

use crate::invariants;
use crate::plan::{Plan, Who};
use crate::world::{Net, World, addr};

const STANDS: u64 = 5000;
/// Of the caller's trunk: what is sent from here is allowed, and its answers are no phone's.
const HELPER: &str = "198.18.10.7:5060";

fn world() -> World {
    let mut world = World::new(3, 3, vec![Plan { hang_up: (Who::Caller, 20_000), ..Plan::plain(100) }], Net::calm());
    world.sent = Some(Vec::new());
    world.trace = std::env::var_os("SIM_TRACE").is_some();
    world
}

fn at_rest(w: &mut World) {
    w.run_until(290_000);
    let wrong = invariants::check(w);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn events(w: &World, node: usize) -> Vec<Event> {
    let replica = w.nodes[node].replica.read().expect("one thread");
    replica.events(0, usize::MAX).expect("nothing is compacted").iter().map(|e| (**e).clone()).collect()
}

/// An INFO of the caller within its dialog, made of its ACK.
fn info(w: &World, fields: &str, body: &str) -> Bytes {
    let sent = w.sent.as_ref().expect("recorded").iter();
    let texts = sent.filter(|s| s.from == w.phones[0].addr).map(|s| String::from_utf8_lossy(&s.bytes).into_owned());
    let ack = texts.filter(|t| t.starts_with("ACK ")).last().expect("the call was acknowledged");
    let head = ack.split("\r\n\r\n").next().expect("a head").replacen("ACK ", "INFO ", 1).replace("CSeq: 1 ACK", "CSeq: 1 INFO");
    let head = head.replace("branch=z9hG4bK", "branch=z9hG4bKx");
    let kept: Vec<&str> = head.split("\r\n").filter(|l| !l.starts_with("Content-Length")).collect();
    Bytes::from(format!("{}\r\n{fields}Content-Length: {}\r\n\r\n{body}", kept.join("\r\n"), body.len()))
}

#[test]
fn the_ids_at_the_called_side_are_those_of_the_record_on_every_node() {
    let mut w = world();
    at_rest(&mut w);
    let sent = w.sent.as_ref().expect("recorded").iter().filter(|s| s.node.is_some() && s.to == w.phones[1].addr);
    let invite = sent.map(|s| Message::parse(s.bytes.clone()).expect("valid")).find(|m| m.method() == &Method::Invite);
    let invite = invite.expect("the PSAP was called");
    let ids: Vec<&str> = invite.values(HeaderId::CallInfo).collect();
    for node in 0..3 {
        let received = events(&w, node).into_iter().find(|e| e.kind() == EventKind::Received).expect("it was recorded");
        let kept = received.emergency_info.expect("an emergency call");
        assert_eq!(kept.service, "sos");
        assert_eq!(
            ids,
            [
                format!("<{}>;purpose=emergency-CallId", kept.call_id),
                format!("<{}>;purpose=emergency-IncidentId", kept.incident_id)
            ]
        );
    }
}

#[test]
fn what_comes_within_the_call_is_an_event_on_every_node() {
    let mut w = world();
    w.run_until(STANDS);
    let both = "Call-Info: <https://d.example/1>;purpose=EmergencyCallData.DeviceInfo\r\nContent-Type: application/pidf+xml\r\n";
    let octets = info(&w, both, "<presence/>");
    // At another node than the owner, which relays it.
    let (from, to) = (addr(HELPER), w.nodes[1].unicast);
    w.inject(from, to, octets.clone());
    w.run_until(STANDS + 1000);
    // The same again is a retransmission, and no second event.
    w.inject(from, to, octets.clone());
    at_rest(&mut w);
    for node in 0..3 {
        let all = events(&w, node);
        let kinds: Vec<EventKind> = all.iter().filter(|e| !e.call.is_empty()).map(Event::kind).collect();
        let expected = [
            EventKind::Received,
            EventKind::Ringing,
            EventKind::Answered,
            EventKind::LocationUpdated,
            EventKind::AdditionalData,
            EventKind::Ended,
        ];
        assert_eq!(kinds, expected, "node {node}");
        let sequence: Vec<u32> = all.iter().filter(|e| !e.call.is_empty()).map(|e| e.call_sequence).collect();
        assert_eq!(sequence, [1, 2, 3, 4, 5, 6]);
        assert_eq!(all.iter().find(|e| e.kind() == EventKind::LocationUpdated).expect("there").invite, octets);
    }
}

#[test]
fn an_ordinary_info_is_no_event() {
    let mut w = world();
    w.run_until(STANDS);
    let octets = info(&w, "Content-Type: application/dtmf-relay\r\n", "Signal=1\r\n");
    let (from, to) = (addr(HELPER), w.nodes[0].unicast);
    w.inject(from, to, octets);
    at_rest(&mut w);
    assert!(events(&w, 0).iter().all(|e| !matches!(e.kind(), EventKind::LocationUpdated | EventKind::AdditionalData)));
}
