//! Transfers: REFER and its notifications (RFC 3515), and INVITEs with Replaces (RFC 3891) at any node.

use super::*;

const X: &str = "198.18.10.7:5060";

fn answered() -> (Rig, Message) {
    let mut s = Rig::calls(&[], Some(7));
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    // Every node knows the dialog.
    s.advance(200);
    (s, ok)
}

fn contact(message: &Message) -> String {
    NameAddr::parse(message.first(HeaderId::Contact).expect("one")).expect("an address").uri.as_str().to_owned()
}

/// The caller's leg of the call, as who transfers names it to another: its own tag is the far end's for us.
fn names(ok: &Message) -> (String, String, String) {
    (ok.call_id().to_owned(), ok.to_tag().expect("ours").to_owned(), ok.from_tag().expect("the caller's").to_owned())
}

#[test]
fn a_refer_to_that_leads_to_us_leads_there_from_the_other_side() {
    let (mut s, ok) = answered();
    let ours = contact(&ok);
    let token = ours.split_once('@').expect("a user").0.to_owned();
    for (given, expected) in [
        (format!("<{ours}?X=1>"), format!("<{token}@198.18.1.1:5060?X=1>")),
        ("\"Desk\" <sip:113@198.18.112.112;x=y>;z".into(), "\"Desk\" <sip:113@198.18.1.1:5060;x=y>;z".into()),
        ("<sip:desk@198.18.20.44>".into(), "<sip:desk@198.18.20.44>".into()),
        ("<tel:113>".into(), "<tel:113>".into()),
        ("nonsense <".into(), "nonsense <".into()),
    ] {
        let crossed = s.asks(&Method::Refer, &ok, &[("Refer-To", &given)], None);
        assert_eq!(crossed[0].0.first(HeaderId::ReferTo), Some(&*expected));
        s.called_answers(&crossed[0], 202, None);
    }
    s.calm();
}

/// An attended transfer: the other side learns nothing of the dialog that it is to replace, and brings its name back to any node.
#[test]
fn a_replaces_in_refer_to_is_wrapped() {
    for node in 0..3 {
        let (mut s, ok) = answered();
        let (invite, _) = s.asked.clone().expect("called");
        let (id, local, remote) = names(&ok);
        let value = format!("{id}%3Bfrom-tag%3D{remote}%3bto-tag%3D{local}%3Bearly-only");
        let refer_to = format!("<{}?Subject=x&replaces={value}>", contact(&ok));
        let crossed = s.asks(&Method::Refer, &ok, &[("Refer-To", &refer_to)], None).pop().expect("passed on");
        let told = crossed.0.first(HeaderId::ReferTo).expect("one").to_owned();
        let header = told.split_once("&replaces=").expect("it stays").1.trim_end_matches('>');
        assert!(!header.starts_with(&format!("{id}%3B")), "{told}");
        for own in [format!("%3D{remote}"), local.clone()] {
            assert!(!header.contains(&own), "{told}");
        }
        s.called_answers(&crossed, 202, None);
        let brought = header.replace("%3B", ";").replace("%3D", "=");
        let (told, got) = replace(&mut s, node, &contact(&ok), "third", &[("Replaces", &*brought)]);
        assert_eq!(told.and_then(|m| m.status()), None);
        let theirs = format!("{};to-tag=a;from-tag={};early-only", invite.call_id(), invite.from_tag().expect("ours"));
        assert_eq!(got[0].first(HeaderId::Replaces), Some(&*theirs));
        s.calm();
    }
}

/// RFC 3515 §2.4.6: the id of a notification is the CSeq number of its REFER, which is another on each leg.
#[test]
fn notifications_name_the_refer_in_the_terms_of_each_leg() {
    let (mut s, ok) = answered();
    s.asks(&Method::Info, &ok, &[], None);
    let refer = s.asks(&Method::Refer, &ok, &[("Refer-To", "<sip:x@198.18.20.4>")], None);
    let (here, there) = (s.cseq, refer[0].0.cseq());
    assert_ne!(here, there, "else this shows nothing");
    assert_eq!(statuses(&s.called_answers(&refer[0], 202, None)), [202]);
    let (invite, from) = s.asked.clone().expect("called");
    let mut notify = |value: &str, cseq: u32| {
        notifies(&mut s, &invite, from, value, "active;expires=60", cseq);
        s.caller.request(&s.w, &Method::Notify).0
    };
    let got = notify(&format!("refer;id={there}"), 50);
    assert_eq!(got.first(HeaderId::Event), Some(&*format!("refer;id={here}")));
    assert_eq!(&got.body()[..], b"SIP/2.0 100 Trying\r\n");
    assert_eq!(notify("refer", 51).first(HeaderId::Event), Some("refer"));
    assert_eq!(notify("refer;id=777", 52).first(HeaderId::Event), Some("refer;id=777"));
    let crossed = s.asks(&Method::Subscribe, &ok, &[("Event", &format!("refer;id={here}")), ("Expires", "0")], None);
    assert_eq!(crossed[0].0.first(HeaderId::Event), Some(&*format!("refer;id={there}")));
}

/// A NOTIFY of the called side, for a REFER of the caller.
fn notifies(s: &mut Rig, invite: &Message, to: SocketAddr, event: &str, state: &str, cseq: u32) {
    let mut draft = Draft::request(&Method::Notify, &contact(invite));
    draft.push(HeaderId::Via, format!("SIP/2.0/UDP 198.18.20.9:5060;branch=z9hG4bKn{cseq};rport"));
    draft.push(HeaderId::From, format!("{};tag=a", invite.to()));
    draft.push(HeaderId::To, invite.from());
    draft.push(HeaderId::CallId, invite.call_id());
    draft.push(HeaderId::CSeq, format!("{cseq} NOTIFY"));
    draft.set_body(Some("message/sipfrag;version=2.0"), Bytes::from_static(b"SIP/2.0 100 Trying\r\n"));
    s.psap.put(&mut s.w, &mut draft, to, &[("Event", event), ("Subscription-State", state)]);
    s.advance(20);
}

/// RFC 5057 §4.2: who refers hangs up, and is still told how the transfer went, for a while and until the last NOTIFY.
#[test]
fn notifications_outlive_the_call() {
    let held = |s: &Rig| s.w.nodes.iter().map(|n| n.sbc.subscription_count()).sum::<usize>();
    for last_before in [true, false] {
        let (mut s, ok) = answered();
        s.asks(&Method::Info, &ok, &[], None);
        let refer = s.asks(&Method::Refer, &ok, &[("Refer-To", "<sip:x@198.18.20.4>")], None);
        let (here, event) = (s.cseq, format!("refer;id={}", refer[0].0.cseq()));
        s.called_answers(&refer[0], 202, None);
        let (invite, from) = s.asked.clone().expect("called");
        let state = if last_before { "terminated;reason=noresource" } else { "active;expires=60" };
        notifies(&mut s, &invite, from, &event, state, 50);
        let got = s.caller.request(&s.w, &Method::Notify);
        s.caller_answers(&got, 200, None);
        let bye = s.asks(&Method::Bye, &ok, &[], None);
        s.called_answers(&bye[0], 200, None);
        assert_eq!(held(&s), usize::from(!last_before));
        s.psap_got();
        let other = s.w.nodes[1].core;
        notifies(&mut s, &invite, other, &event, "active;expires=60", 51);
        if last_before {
            assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
            continue;
        }
        // Also when the call itself is forgotten.
        s.advance(10_000);
        let got = s.caller.request(&s.w, &Method::Notify);
        assert_eq!(got.0.first(HeaderId::Event), Some(&*format!("refer;id={here}")));
        assert!(got.0.cseq() > 1 && got.0.call_id() == ok.call_id() && got.0.from_tag() == ok.to_tag());
        assert_eq!(statuses(&s.caller_answers(&got, 200, None)), [100, 200], "RFC 4320 §4.1: it took a while");
        notifies(&mut s, &invite, from, &event, "terminated;reason=noresource", 52);
        let got = s.caller.request(&s.w, &Method::Notify);
        assert_eq!((statuses(&s.caller_answers(&got, 200, None)), held(&s)), (vec![200], 0));
        notifies(&mut s, &invite, from, &event, "active", 53);
        assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
        s.calm();
    }
    let (mut s, ok) = answered();
    let refer = s.asks(&Method::Refer, &ok, &[("Refer-To", "<sip:x@198.18.20.4>")], None);
    s.called_answers(&refer[0], 202, None);
    let bye = s.asks(&Method::Bye, &ok, &[], None);
    s.called_answers(&bye[0], 200, None);
    assert_eq!(held(&s), 1);
    s.advance(33_000);
    assert_eq!(held(&s), 0, "a NOTIFY that never comes is not waited for");
}

/// Sends an INVITE with Replaces from a third party to a node; what it is told and what the called side gets.
fn replace(s: &mut Rig, node: usize, uri: &str, call_id: &str, fields: &[(&str, &str)]) -> (Option<Message>, Vec<Message>) {
    let mut third = Far::at(X);
    let mut draft = third.initial(&Method::Invite, uri, call_id, 1);
    draft.set_body(Some("application/sdp"), sdp_of(8));
    let to = s.w.nodes[node].unicast;
    third.put(&mut s.w, &mut draft, to, fields);
    s.advance(50);
    let told = third.inbox(&s.w).into_iter().map(|(m, _)| m).rfind(|m| m.call_id() == call_id && m.status() > Some(199));
    (told, s.psap_got().into_iter().map(|(m, _)| m).filter(|m| m.is_request()).collect())
}

/// The transferred party calls any node: the far end gets the name that it has for the dialog itself.
#[test]
fn an_invite_with_replaces_finds_its_dialog_at_any_node() {
    for node in 0..3 {
        let (mut s, ok) = answered();
        let (invite, _) = s.asked.clone().expect("called");
        let (id, local, remote) = names(&ok);
        let value = format!("{id};from-tag={remote};to-tag={local};early-only");
        // The same emergency: nothing sheds it, and nothing else keeps it away.
        s.w.load(node, 100);
        let fields = [("Replaces", &*value), ("Require", "replaces, x-odd"), ("Session-Expires", "30"), ("Min-SE", "30")];
        let (told, got) = replace(&mut s, node, &contact(&ok), "third", &fields);
        assert_eq!(told.and_then(|m| m.status()), None);
        let [new] = &got[..] else { panic!("{got:?}") };
        assert_eq!(new.request_uri(), Some("sip:a@198.18.20.9:5060"), "the far end's Contact");
        let theirs = format!("{};to-tag=a;from-tag={};early-only", invite.call_id(), invite.from_tag().expect("ours"));
        assert_eq!(new.first(HeaderId::Replaces), Some(&*theirs));
        assert_eq!(new.first(HeaderId::Require), Some("replaces, x-odd"));
        assert_ne!(new.call_id(), invite.call_id(), "a call of its own");
        let calls =
            |e: bool| s.w.nodes[0].replica.read().expect("one thread").all_calls(None).filter(|c| c.emergency() == e).count();
        assert_eq!((calls(true), calls(false)), (2, 0));
        let replica = s.w.nodes[0].replica.read().expect("one thread");
        let info: Vec<_> = replica.all_calls(None).filter_map(|c| c.claim().emergency_info.clone()).collect();
        assert_eq!((&info[0].incident_id, &info[0].service), (&info[1].incident_id, &info[1].service));
        assert_ne!(info[0].call_id, info[1].call_id);
        drop(replica);
        s.calm();
    }
}

#[test]
fn replaces_that_fit_nothing() {
    let (mut s, ok) = answered();
    let (id, local, remote) = names(&ok);
    let uri = contact(&ok);
    let table = [
        (format!("{id};to-tag={local};from-tag=other"), Some(481)),
        (format!("other;to-tag={local};from-tag={remote}"), Some(481)),
        (format!("{id};to-tag=other;from-tag={remote}"), Some(481)),
        (format!("{id};to-tag={local}"), Some(400)),
    ];
    for (i, (value, status)) in table.iter().enumerate() {
        let (told, got) = replace(&mut s, i % 3, &uri, &format!("t{i}"), &[("Replaces", value)]);
        assert_eq!((told.and_then(|m| m.status()), got.len()), (*status, 0), "{value}");
    }
    let good = format!("{id};to-tag={local};from-tag={remote}");
    let (told, got) = replace(&mut s, 0, &uri, "two", &[("Replaces", &good), ("Replaces", &good)]);
    assert_eq!((told.and_then(|m| m.status()), got.len()), (Some(400), 0));
    // An emergency call goes on without: somebody may be on fire.
    let (told, got) = replace(&mut s, 1, URI, "fire", &[("Replaces", &table[0].0)]);
    assert_eq!((told.and_then(|m| m.status()), got.len()), (None, 1));
    assert_eq!(got[0].first(HeaderId::Replaces), None);
    // A call that is over is declined (RFC 3891 §3).
    let bye = s.asks(&Method::Bye, &ok, &[], None);
    s.called_answers(&bye[0], 200, None);
    s.advance(2000);
    let (told, _) = replace(&mut s, 2, &uri, "late", &[("Replaces", &good)]);
    assert_eq!(told.and_then(|m| m.status()), Some(603));
    s.calm();
}
