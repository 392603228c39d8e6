//! Client transactions in whole exchanges.

use super::*;
use crate::ids::{LocalId, SendId};
use crate::io::SendFailure;

fn send(t: &mut Transactions, at: u64, invite: bool, transport: Transport) -> ClientTxId {
    let to = path(transport, "127.0.2.1:5060");
    let payload = text(if invite { "INVITE" } else { "BYE" });
    t.send_request(ms(at), new("z9hG4bKa".into(), invite, to, None, payload)).unwrap()
}

#[test]
fn unanswered_invite_over_udp_repeats_by_a_until_b() {
    let mut t = Transactions::new(10);
    send(&mut t, 1000, true, Transport::Udp);
    assert_eq!(said(&mut t), ["INVITE"]);
    let expected = script([
        (1500, "INVITE"),
        (2500, "INVITE"),
        (4500, "INVITE"),
        (8500, "INVITE"),
        (16_500, "INVITE"),
        (32_500, "INVITE"),
        (33_000, "client timeout"),
        (33_000, "client terminated"),
    ]);
    assert_eq!(run_until(&mut t, ms(100_000)), expected);
    assert_gone(&t);
}

#[test]
fn unanswered_invite_over_tcp_waits_for_b() {
    let mut t = Transactions::new(10);
    send(&mut t, 0, true, Transport::Tcp);
    assert_eq!(said(&mut t), ["INVITE"]);
    let expected = script([(32_000, "client timeout"), (32_000, "client terminated")]);
    assert_eq!(run_until(&mut t, ms(100_000)), expected);
    assert_gone(&t);
}

#[test]
fn a_provisional_response_stops_a_and_b() {
    let mut t = Transactions::new(10);
    let id = send(&mut t, 0, true, Transport::Udp);
    assert_eq!(said(&mut t), ["INVITE"]);
    assert_eq!(run_until(&mut t, ms(600)), script([(500, "INVITE")]));
    assert_eq!(t.on_response(ms(700), id, 100), ResponseAction::Deliver);
    assert_eq!(t.on_response(ms(60_000), id, 180), ResponseAction::Deliver);
    let expected = script([(3_660_000, "client timeout"), (3_660_000, "client terminated")]);
    assert_eq!(run_until(&mut t, ms(4_000_000)), expected);
    assert_gone(&t);
}

#[test]
fn each_2xx_is_delivered_until_m() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut t = Transactions::new(10);
        let id = send(&mut t, 0, true, transport);
        assert_eq!(t.on_response(ms(5), id, 183), ResponseAction::Deliver);
        assert_eq!(t.on_response(ms(10), id, 200), ResponseAction::Deliver);
        assert_eq!(t.on_response(ms(510), id, 200), ResponseAction::Deliver);
        assert_eq!(t.on_response(ms(600), id, 180), ResponseAction::Absorb);
        assert_eq!(t.on_response(ms(600), id, 486), ResponseAction::Absorb);
        t.set_ack(ms(600), id, text("wrong"));
        assert_eq!(said(&mut t), ["INVITE"]);
        assert_eq!(run_until(&mut t, ms(32_009)), script([]));
        assert_eq!(run_until(&mut t, ms(32_010)), script([(32_010, "client terminated")]));
        assert_gone(&t);
        assert_eq!(t.on_response(ms(32_020), id, 200), ResponseAction::Absorb);
    }
}

#[test]
fn a_refusal_is_acknowledged_each_time_until_d() {
    let mut t = Transactions::new(10);
    let id = send(&mut t, 0, true, Transport::Udp);
    assert_eq!(t.on_response(ms(5), id, 180), ResponseAction::Deliver);
    assert_eq!(t.on_response(ms(10), id, 486), ResponseAction::NeedAck);
    t.set_ack(ms(10), id, text("ACK"));
    assert_eq!(t.on_response(ms(510), id, 486), ResponseAction::Absorb);
    assert_eq!(t.on_response(ms(1510), id, 200), ResponseAction::Absorb);
    assert_eq!(said(&mut t), ["INVITE", "ACK", "ACK"]);
    assert_eq!(run_until(&mut t, ms(32_009)), script([]));
    assert_eq!(run_until(&mut t, ms(32_010)), script([(32_010, "client terminated")]));
    assert_gone(&t);
}

#[test]
fn over_tcp_a_refusal_ends_with_its_ack() {
    let mut t = Transactions::new(10);
    let id = send(&mut t, 0, true, Transport::Tcp);
    assert_eq!(t.on_response(ms(10), id, 503), ResponseAction::NeedAck);
    t.set_ack(ms(10), id, text("ACK"));
    assert_eq!(said(&mut t), ["INVITE", "ACK"]);
    assert_eq!(run_until(&mut t, ms(10)), script([(10, "client terminated")]));
    assert_gone(&t);
}

#[test]
fn unanswered_non_invite_over_udp_repeats_by_e_until_f() {
    let mut t = Transactions::new(10);
    send(&mut t, 0, false, Transport::Udp);
    assert_eq!(said(&mut t), ["BYE"]);
    let expected = script([
        (500, "BYE"),
        (1500, "BYE"),
        (3500, "BYE"),
        (7500, "BYE"),
        (11_500, "BYE"),
        (15_500, "BYE"),
        (19_500, "BYE"),
        (23_500, "BYE"),
        (27_500, "BYE"),
        (31_500, "BYE"),
        (32_000, "client timeout"),
        (32_000, "client terminated"),
    ]);
    assert_eq!(run_until(&mut t, ms(100_000)), expected);
    assert_gone(&t);
}

#[test]
fn non_invite_goes_to_t2_after_a_provisional_and_f_still_ends_it() {
    let mut t = Transactions::new(10);
    let id = send(&mut t, 0, false, Transport::Udp);
    assert_eq!(t.on_response(ms(100), id, 100), ResponseAction::Deliver);
    assert_eq!(said(&mut t), ["BYE"]);
    let expected = script([(500, "BYE"), (4500, "BYE"), (8500, "BYE")]);
    assert_eq!(run_until(&mut t, ms(9000)), expected);
    assert_eq!(t.on_response(ms(9000), id, 200), ResponseAction::Deliver);
    assert_eq!(t.on_response(ms(9100), id, 200), ResponseAction::Absorb);
    assert_eq!(run_until(&mut t, ms(13_999)), script([]));
    assert_eq!(run_until(&mut t, ms(14_000)), script([(14_000, "client terminated")]));
    assert_gone(&t);
}

#[test]
fn non_invite_over_tcp_ends_with_its_final_response() {
    let mut t = Transactions::new(10);
    let id = send(&mut t, 0, false, Transport::Tcp);
    assert_eq!(t.on_response(ms(10), id, 481), ResponseAction::Deliver);
    assert_eq!(said(&mut t), ["BYE", "client terminated"]);
    assert_gone(&t);
}

#[test]
fn cancel_lives_beside_its_invite() {
    let mut t = Transactions::new(10);
    let invite = send(&mut t, 0, true, Transport::Udp);
    t.on_response(ms(100), invite, 180);
    let to = t.way(invite).unwrap().path;
    let branch = t.client_branch(invite).unwrap().into();
    let cancel = t.send_request(ms(200), new(branch, false, to, None, text("CANCEL"))).unwrap();
    assert_eq!(t.find_client("z9hG4bKa", true), Some(invite));
    assert_eq!(t.find_client("z9hG4bKa", false), Some(cancel));
    assert_eq!(t.on_response(ms(300), cancel, 200), ResponseAction::Deliver);
    assert_eq!(said(&mut t), ["INVITE", "CANCEL"]);
    assert_eq!(run_until(&mut t, ms(5300)), script([(5300, "client terminated")]));
    assert_eq!(t.find_client("z9hG4bKa", false), None);
    assert_eq!(t.find_client("z9hG4bKa", true), Some(invite));
    t.abandon_client(invite);
    t.abandon_client(invite);
    assert_eq!(said(&mut t), ["client terminated"]);
    assert_gone(&t);
}

/// The ids of the sends put out.
fn sends(t: &mut Transactions) -> Vec<SendId> {
    let mut ids = Vec::new();
    while let Some(output) = t.poll_output() {
        if let TxOutput::Transmit(x) = output {
            ids.push(x.id);
        }
    }
    ids
}

#[test]
fn a_failed_send_finds_its_transaction() {
    let mut t = Transactions::new(10);
    let invite = send(&mut t, 0, true, Transport::Udp);
    let other =
        t.send_request(ms(0), new("z9hG4bKb".into(), false, path(Transport::Tcp, "127.0.2.2:5060"), None, text("x"))).unwrap();
    t.handle_timeout(ms(500), usize::MAX);
    let ids = sends(&mut t);
    let [first, of_other, repeat] = ids[..] else { panic!("{ids:?}") };
    assert!(first != of_other && first != repeat && of_other != repeat);
    assert!(ids.iter().all(|id| id.0 != 0));
    t.on_send_failed(ms(510), SendId(0), SendFailure::Refused);
    t.on_send_failed(ms(510), SendId(77), SendFailure::Refused);
    t.on_send_failed(ms(510), repeat, SendFailure::Congested);
    assert!(said(&mut t).is_empty(), "not ours, or repaired by timer A");
    t.on_send_failed(ms(510), repeat, SendFailure::Refused);
    assert_eq!(t.poll_output(), Some(TxOutput::Event(TxEvent::ClientTransportError(invite, SendFailure::Refused))));
    assert_eq!(t.poll_output(), Some(TxOutput::Event(TxEvent::ClientTerminated(invite))));
    t.on_send_failed(ms(520), first, SendFailure::Refused);
    t.on_send_failed(ms(520), of_other, SendFailure::Congested);
    assert_eq!(t.poll_output(), Some(TxOutput::Event(TxEvent::ClientTransportError(other, SendFailure::Congested))));
    assert_eq!(said(&mut t), ["client terminated"]);
    assert_gone(&t);
}

#[test]
fn the_tls_name_goes_with_request_and_ack() {
    let mut t = Transactions::new(10);
    let to = path(Transport::Tls, "127.0.2.1:5061");
    let id = t.send_request(ms(0), new("b".into(), true, to, Some("psap.example".into()), text("INVITE"))).unwrap();
    assert_eq!(t.on_response(ms(1), id, 486), ResponseAction::NeedAck);
    t.set_ack(ms(1), id, text("ACK"));
    for expected in ["INVITE", "ACK"] {
        let Some(TxOutput::Transmit(x)) = t.poll_output() else { panic!("no {expected}") };
        assert_eq!((&x.payload[..], x.tls_name.as_deref(), x.path), (expected.as_bytes(), Some("psap.example"), to));
    }
}

#[test]
fn the_limit_holds_for_both_kinds_together() {
    let mut t = Transactions::new(2);
    let id = send(&mut t, 0, false, Transport::Tcp);
    assert!(t.create_server(ms(0), ServerUser::Nobody, key("a", "OPTIONS"), false, back(Transport::Udp)).is_some());
    assert!(t.is_full());
    assert_eq!(t.create_server(ms(0), ServerUser::Nobody, key("b", "OPTIONS"), false, back(Transport::Udp)), None);
    assert_eq!(t.send_request(ms(0), new("c".into(), true, path(Transport::Udp, "127.0.2.1:5060"), None, text("x"))), None);
    assert_eq!(said(&mut t), ["BYE"]);
    t.on_response(ms(1), id, 200);
    assert!(t.create_server(ms(1), ServerUser::Nobody, key("b", "OPTIONS"), false, back(Transport::Udp)).is_some());
}

#[test]
fn messages_that_will_not_be_repeated_are_let_go() {
    let mut t = Transactions::new(10);
    let request = Bytes::from(vec![b'I'; 1000]);
    let to = path(Transport::Udp, "127.0.2.1:5060");
    let client = t.send_request(ms(0), new("b".into(), true, to, None, request.clone())).unwrap();
    said(&mut t);
    assert!(!request.is_unique());
    t.on_response(ms(1), client, 180);
    assert!(request.is_unique());

    let response = Bytes::from(vec![b'2'; 1000]);
    let server = t.create_server(ms(0), ServerUser::Nobody, key("a", "INVITE"), true, back(Transport::Udp)).unwrap();
    t.respond(ms(1), server, 180, response.clone());
    said(&mut t);
    assert!(!response.is_unique());
    t.respond(ms(2), server, 200, text("200"));
    said(&mut t);
    assert!(response.is_unique());
}

#[test]
fn whose_it_is_is_known_until_its_end_was_told() {
    let mut t = Transactions::new(10);
    let to = path(Transport::Tcp, "127.0.2.1:5060");
    let id = t.send_request(ms(0), new("b".into(), false, to, None, text("OPTIONS"))).unwrap();
    assert_eq!(t.client_user(id), ClientUser::Probe);
    let Some(TxOutput::Transmit(sent)) = t.poll_output() else { panic!("it goes out") };
    t.on_send_failed(ms(1), sent.id, SendFailure::Refused);
    assert_eq!(t.len(), 0, "the transaction is gone before anybody has heard of it");
    assert_eq!(t.poll_output(), Some(TxOutput::Event(TxEvent::ClientTransportError(id, SendFailure::Refused))));
    assert_eq!(t.client_user(id), ClientUser::Probe);
    // Who gives it to somebody else at the first word of its end has the second go there.
    t.set_client_user(id, ClientUser::Message { id: LocalId(3) });
    assert_eq!(t.poll_output(), Some(TxOutput::Event(TxEvent::ClientTerminated(id))));
    assert_eq!(t.client_user(id), ClientUser::Message { id: LocalId(3) });
    assert_eq!(t.poll_output(), None);
    assert_eq!(t.client_user(id), ClientUser::Nobody);
    t.set_client_user(id, ClientUser::Neighbour);
    assert_eq!((t.client_user(id), t.held()), (ClientUser::Nobody, (0, 0)), "nothing is kept of what is gone");
}

#[test]
fn half_of_the_room_is_for_what_has_begun() {
    let mut t = Transactions::new(4);
    let one = |t: &mut Transactions, branch: &str| {
        t.create_server(ms(0), ServerUser::Nobody, key(branch, "OPTIONS"), false, back(Transport::Udp)).unwrap()
    };
    let first = one(&mut t, "a");
    assert!(!t.is_half_full());
    one(&mut t, "b");
    assert!(t.is_half_full() && !t.is_full());
    t.drop_server(first);
    assert!(!t.is_half_full());
}
