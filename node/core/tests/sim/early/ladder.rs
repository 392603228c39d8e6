//! An operator's view of calls that were set up in roundabout ways: each message of both legs once, in order.

use sbc_core::ids::{CallUid, Incarnation, NodeId};
use sbc_core::io::Realm;
use sbc_core::token::ClusterKey;

use super::*;

/// `E` the caller's leg, `C` the called one, with the direction as we see it.
fn ladder(s: &mut Rig, of: &Message) -> Vec<String> {
    let key = ClusterKey::new(&[7; 32], None);
    let uid: CallUid = key.open(of.to_tag().expect("tagged")).expect("our tag").uid;
    assert_eq!((uid.node, uid.incarnation), (NodeId(1), Incarnation(1)));
    let line = |e: sbc_core::io::LadderEntry| {
        let arrow = if e.inbound { '<' } else { '>' };
        let realm = if e.realm == Realm::External { 'E' } else { 'C' };
        let method = e.cseq.split(' ').nth(1).unwrap_or_default();
        let what = e.summary.split(' ').next().unwrap_or_default();
        if what == method { format!("{realm}{arrow}{what}") } else { format!("{realm}{arrow}{what} {method}") }
    };
    s.w.ladder(0, uid).into_iter().map(line).collect()
}

/// The ACK of a refused INVITE leaves before the next one.
#[test]
fn an_invite_that_is_refused_and_sent_again() {
    let mut s = Rig::calls(&[], Some(7));
    s.says(422, "a", &[("Min-SE", "3600")], None);
    s.asked = s.psap_got().pop();
    let ok = s.says_one(200, "b", &[], Some(10));
    s.acks(&ok, None);
    let all = ladder(&mut s, &ok);
    let called: Vec<&str> = all.iter().filter(|l| l.starts_with('C')).map(String::as_str).collect();
    assert_eq!(called[..6], ["C>INVITE", "C<422 INVITE", "C>ACK", "C>INVITE", "C<200 INVITE", "C>ACK"], "{all:?}");
}

#[test]
fn a_forked_call_that_we_acknowledge_ourselves() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(183, "a", &[RELIABLE, ("RSeq", "1")], Some(10));
    let prack = s.psap_got().pop().expect("ours");
    s.called_answers(&prack, 200, None);
    let ok = s.says_one(200, "b", &[], Some(20));
    s.acks(&ok, None);
    s.says(200, "a", &[], Some(10));
    let bye = s.psap_got().pop().expect("for a");
    s.called_answers(&bye, 200, None);
    let bye = s.asks(&Method::Bye, &ok, &[], None).pop().expect("for b");
    s.called_answers(&bye, 200, None);
    let expected = [
        "E<INVITE",
        "E>100 INVITE",
        "C>INVITE",
        "C<183 INVITE",
        "C>PRACK",
        "E>183 INVITE",
        "C<200 PRACK",
        "C<200 INVITE",
        "E>200 INVITE",
        "C>ACK",
        "E<ACK",
        "C<200 INVITE",
        "C>ACK",
        "C>BYE",
        "C<200 BYE",
        "E<BYE",
        "E>200 BYE",
        "C>BYE",
        "C<200 BYE",
    ];
    assert_eq!(ladder(&mut s, &a), expected);
}

#[test]
fn a_cancelled_call() {
    let mut s = Rig::calls(&[], Some(7));
    let a = s.says_one(180, "a", &[], None);
    s.cancels();
    let cancel = s.psap_got().pop().expect("cancelled");
    s.called_answers(&cancel, 200, None);
    s.says(487, "a", &[], None);
    let invite = s.caller.initial(&Method::Invite, URI, "x", 1);
    let mut ack = Draft::request(&Method::Ack, URI);
    for field in invite.headers() {
        match field.id {
            HeaderId::CSeq => ack.push(HeaderId::CSeq, "1 ACK"),
            HeaderId::To => ack.push(HeaderId::To, a.to()),
            HeaderId::Contact => &mut ack,
            _ => ack.push_field(&field),
        };
    }
    let anycast = s.w.anycast;
    s.caller.put(&mut s.w, &mut ack, anycast, &[]);
    s.advance(20);
    let expected = [
        "E<INVITE",
        "E>100 INVITE",
        "C>INVITE",
        "C<180 INVITE",
        "E>180 INVITE",
        "E<CANCEL",
        "E>200 CANCEL",
        "E>487 INVITE",
        "C>CANCEL",
        "C<200 CANCEL",
        "C<487 INVITE",
        "C>ACK",
        "E<ACK",
    ];
    assert_eq!(ladder(&mut s, &a), expected);
}

/// A copy of a request and a response that comes again are there, and said to be what they are; the node that they came through, too.
#[test]
fn what_is_repeated_is_marked() {
    let mut s = Rig::calls(&[], Some(7));
    let mut invite = s.caller.initial(&Method::Invite, URI, "x", 1);
    invite.set_body(Some("application/sdp"), sdp_of(7));
    let anycast = s.w.anycast;
    s.caller.put(&mut s.w, &mut invite, anycast, &[]);
    let elsewhere = s.w.nodes[1].unicast;
    s.caller.put(&mut s.w, &mut invite, elsewhere, &[]);
    s.advance(20);
    s.caller_got();
    let ok = s.says_one(200, "a", &[], Some(10));
    s.says(200, "a", &[], Some(10));
    let uid: CallUid = ClusterKey::new(&[7; 32], None).open(ok.to_tag().expect("tagged")).expect("our tag").uid;
    let entries = s.w.ladder(0, uid);
    let invites: Vec<_> = entries.iter().filter(|e| e.inbound && &*e.summary == "INVITE").collect();
    assert_eq!(
        invites.iter().map(|e| (e.repeated, e.through)).collect::<Vec<_>>(),
        [(false, None), (true, None), (true, Some(NodeId(2)))]
    );
    let answers: Vec<bool> = entries.iter().filter(|e| e.inbound && e.summary.starts_with("200")).map(|e| e.repeated).collect();
    assert_eq!(answers, [false, true]);
    assert!(entries.iter().all(|e| e.transport == sbc_core::io::Transport::Udp && (e.inbound || !e.repeated)));
}
