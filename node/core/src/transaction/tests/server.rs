//! Server transactions in whole exchanges.

use super::*;
use crate::ids::LocalId;

fn invite(t: &mut Transactions, at: u64, transport: Transport) -> ServerTxId {
    t.create_server(ms(at), ServerUser::Nobody, key("z9hG4bK1", "INVITE"), true, back(transport)).unwrap()
}

fn options(t: &mut Transactions, at: u64, transport: Transport) -> ServerTxId {
    t.create_server(ms(at), ServerUser::Nobody, key("z9hG4bK1", "OPTIONS"), false, back(transport)).unwrap()
}

#[test]
fn rejected_invite_over_udp_repeats_by_g_until_h() {
    let mut t = Transactions::new(10);
    let id = invite(&mut t, 1000, Transport::Udp);
    t.on_request_retransmission(ms(1000), id, back(Transport::Udp));
    assert!(said(&mut t).is_empty(), "nothing to repeat before the first response");
    t.respond(ms(1000), id, 100, text("100"));
    t.respond(ms(1000), id, 180, text("180"));
    t.on_request_retransmission(ms(1500), id, back(Transport::Udp));
    assert_eq!(said(&mut t), ["100", "180", "180"]);
    assert_eq!(t.server_final(id), None);
    t.respond(ms(2000), id, 486, text("486"));
    assert_eq!(t.server_final(id), Some(486));
    t.respond(ms(2000), id, 200, text("200"));
    t.respond(ms(2000), id, 180, text("180"));
    assert_eq!(said(&mut t), ["486"], "one final response");
    let expected = script([
        (2500, "486"),
        (3500, "486"),
        (5500, "486"),
        (9500, "486"),
        (13_500, "486"),
        (17_500, "486"),
        (21_500, "486"),
        (25_500, "486"),
        (29_500, "486"),
        (33_500, "486"),
        (34_000, "server timeout"),
        (34_000, "server terminated"),
    ]);
    assert_eq!(run_until(&mut t, ms(100_000)), expected);
    assert_gone(&t);
}

#[test]
fn ack_stops_g_and_i_absorbs() {
    let mut t = Transactions::new(10);
    let id = invite(&mut t, 0, Transport::Udp);
    t.respond(ms(0), id, 404, text("404"));
    assert_eq!(said(&mut t), ["404"]);
    assert_eq!(run_until(&mut t, ms(600)), script([(500, "404")]));
    let found = t.find_server(&key("z9hG4bK1", "INVITE")).unwrap();
    assert_eq!(found, id);
    assert!(!t.on_ack(ms(700), found));
    assert!(!t.on_ack(ms(800), found));
    t.on_request_retransmission(ms(900), id, back(Transport::Udp));
    assert_eq!(run_until(&mut t, ms(5699)), script([]));
    assert_eq!(run_until(&mut t, ms(5700)), script([(5700, "server terminated")]));
    assert_gone(&t);
    assert_eq!(t.find_server(&key("z9hG4bK1", "INVITE")), None);
}

#[test]
fn over_tcp_nothing_repeats_and_the_ack_ends_it() {
    let mut t = Transactions::new(10);
    let id = invite(&mut t, 0, Transport::Tcp);
    t.respond(ms(0), id, 503, text("503"));
    assert_eq!(said(&mut t), ["503"]);
    assert_eq!(run_until(&mut t, ms(31_999)), script([]));
    t.on_ack(ms(31_999), id);
    assert_eq!(said(&mut t), ["server terminated"]);
    assert_gone(&t);

    let id = invite(&mut t, 0, Transport::Tls);
    t.respond(ms(40_000), id, 503, text("503"));
    assert_eq!(said(&mut t), ["503"]);
    let expected = script([(72_000, "server timeout"), (72_000, "server terminated")]);
    assert_eq!(run_until(&mut t, ms(80_000)), expected);
    assert_gone(&t);
}

#[test]
fn accepted_absorbs_invites_and_passes_2xx_and_ack_until_l() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut t = Transactions::new(10);
        let id = invite(&mut t, 0, transport);
        t.respond(ms(10), id, 200, text("200"));
        t.on_request_retransmission(ms(20), id, back(transport));
        t.respond(ms(510), id, 200, text("200 again"));
        t.respond(ms(520), id, 500, text("500"));
        assert_eq!(said(&mut t), ["200", "200 again"]);
        assert_eq!(t.server_final(id), Some(200));
        assert!(t.on_ack(ms(600), id), "the ACK to a 2xx is the TU's");
        assert_eq!(run_until(&mut t, ms(32_009)), script([]));
        assert_eq!(run_until(&mut t, ms(32_010)), script([(32_010, "server terminated")]));
        assert_gone(&t);
    }
}

#[test]
fn non_invite_over_udp_repeats_on_demand_until_j() {
    let mut t = Transactions::new(10);
    let id = options(&mut t, 0, Transport::Udp);
    t.on_request_retransmission(ms(500), id, back(Transport::Udp));
    t.respond(ms(600), id, 100, text("100"));
    t.respond(ms(600), id, 180, text("180"));
    t.respond(ms(600), id, 408, text("408"));
    assert!(said(&mut t).is_empty(), "RFC 4320");
    t.respond(ms(3500), id, 100, text("100"));
    t.on_request_retransmission(ms(3600), id, back(Transport::Udp));
    t.respond(ms(4000), id, 200, text("200"));
    t.respond(ms(4000), id, 500, text("500"));
    t.on_request_retransmission(ms(7500), id, back(Transport::Udp));
    assert!(!t.on_ack(ms(7500), id));
    assert_eq!(said(&mut t), ["100", "100", "200", "200"]);
    assert_eq!(run_until(&mut t, ms(35_999)), script([]));
    assert_eq!(run_until(&mut t, ms(36_000)), script([(36_000, "server terminated")]));
    assert_gone(&t);
}

/// RFC 4320 §4.1: by any transport.
#[test]
fn a_100_is_due_once_where_a_non_invite_waits() {
    for transport in [Transport::Udp, Transport::Tcp] {
        let mut t = Transactions::new(10);
        let id = options(&mut t, 0, transport);
        assert_eq!(run_until(&mut t, ms(3500)), script([(3500, "server trying")]));
        t.respond(ms(3500), id, 100, text("100"));
        assert_eq!(said(&mut t), ["100"]);
        assert_eq!(run_until(&mut t, ms(31_000)), script([]));
        // Who was answered needs none.
        let mut t = Transactions::new(10);
        let id = options(&mut t, 0, transport);
        t.respond(ms(3400), id, 200, text("200"));
        said(&mut t);
        assert_eq!(run_until(&mut t, ms(4000)), script([]));
    }
}

#[test]
fn non_invite_over_tcp_ends_with_its_final_response() {
    let mut t = Transactions::new(10);
    let id = options(&mut t, 0, Transport::Tcp);
    t.respond(ms(1), id, 100, text("100"));
    t.respond(ms(2), id, 200, text("200"));
    assert_eq!(said(&mut t), ["100", "200", "server terminated"]);
    assert_gone(&t);
}

#[test]
fn a_silent_tu_leaves_nothing_behind() {
    let mut t = Transactions::new(10);
    options(&mut t, 0, Transport::Udp);
    let id = invite(&mut t, 0, Transport::Udp);
    t.respond(ms(60_000), id, 180, text("180"));
    assert_eq!(said(&mut t), ["180"]);
    let expected = script([(3500, "server trying"), (32_000, "server terminated"), (3_660_000, "server terminated")]);
    assert_eq!(run_until(&mut t, ms(4_000_000)), expected);
    assert_gone(&t);
}

#[test]
fn copies_by_two_nodes_are_each_answered_where_they_came() {
    let mut t = Transactions::new(10);
    let id = invite(&mut t, 0, Transport::Udp);
    t.respond(ms(0), id, 180, text("180"));
    t.on_request_retransmission(ms(500), id, through(2, Transport::Udp));
    assert_eq!(said(&mut t), ["180", "180 via 2"]);
    assert_eq!(t.server_back(id), Some(through(2, Transport::Udp)));
    t.respond(ms(600), id, 486, text("486"));
    t.on_request_retransmission(ms(700), id, through(3, Transport::Udp));
    assert_eq!(said(&mut t), ["486 via 2", "486 via 3"]);
    assert_eq!(run_until(&mut t, ms(1100)), script([(1100, "486 via 3")]));
    t.on_request_retransmission(ms(1200), id, back(Transport::Udp));
    assert_eq!(said(&mut t), ["486"]);
}

#[test]
fn a_copy_from_elsewhere_is_answered_but_does_not_turn_the_way() {
    let mut t = Transactions::new(10);
    let id = invite(&mut t, 0, Transport::Udp);
    t.respond(ms(0), id, 180, text("180"));
    let stranger = ReturnPath::through(Some(NodeId(9)), path(Transport::Udp, "127.0.3.66:5060"));
    t.on_request_retransmission(ms(100), id, stranger);
    assert_eq!(said(&mut t), ["180", "180 via 9"]);
    assert_eq!(t.server_back(id), Some(back(Transport::Udp)));
}

#[test]
fn keys_tell_methods_branches_and_senders_apart() {
    let mut t = Transactions::new(10);
    let invite = invite(&mut t, 0, Transport::Udp);
    let cancel = t.create_server(ms(0), ServerUser::Nobody, key("z9hG4bK1", "CANCEL"), false, back(Transport::Udp)).unwrap();
    assert_ne!(invite, cancel);
    assert_eq!(t.find_server(&key("z9hG4bK1", "INVITE")), Some(invite));
    assert_eq!(t.find_server(&key("z9hG4bK1", "CANCEL")), Some(cancel));
    assert_eq!(t.find_server(&key("z9hG4bK2", "INVITE")), None);
    let elsewhere = ServerKey { sent_by: "other.example".into(), ..key("z9hG4bK1", "INVITE") };
    assert_eq!(t.find_server(&elsewhere), None);
    assert_eq!(t.create_server(ms(0), ServerUser::Nobody, key("z9hG4bK1", "INVITE"), true, back(Transport::Udp)), None);
    assert_eq!(t.len(), 2);
}

#[test]
fn who_answers_is_known_while_it_lives() {
    let mut t = Transactions::new(10);
    let user = ServerUser::Subscription(LocalId(1));
    let id = t.create_server(ms(0), user, key("z9hG4bK1", "NOTIFY"), false, back(Transport::Udp)).unwrap();
    assert_eq!(t.server_user(id), user);
    t.drop_server(id);
    assert_eq!(t.server_user(id), ServerUser::Nobody);
}
