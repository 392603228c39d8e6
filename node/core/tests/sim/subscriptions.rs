//! Subscriptions (RFC 6665) through the cluster: a desk watches the PSAP's queue; its requests and the notifications reach any node.

use sbc_core::io::{Counter, DropReason, MisrouteAction, SubscriptionOutcome};
use sbc_core::policy::{Prefix, SubscribePolicy};
use sbc_core::sip::{HeaderId, Message, Method};
use sbc_core::store_pb::{NodeUp, command::Kind};

use crate::rig::far::Far;
use crate::rig::{QUEUE, Rig, URI};
use crate::world::addr;

fn contact(message: &Message) -> String {
    message.first(HeaderId::Contact).expect("one").to_owned()
}

#[test]
fn a_subscription_from_its_beginning_to_its_end() {
    let mut s = Rig::desk();
    let ((got, from), ok) = s.subscribed("600");
    let text = String::from_utf8_lossy(got.raw()).into_owned();
    assert_eq!((got.request_uri(), from), (Some("sip:112@198.18.20.8:5060"), addr("198.18.1.1:5060")));
    for kept in ["X-Odd: kept\r\n", "Accept: application/queue+json\r\n", "Expires: 600\r\n", "Event: emergency-QueueState\r\n"] {
        assert!(text.contains(kept), "{kept} in {text}");
    }
    assert!(contact(&got).contains("@198.18.1.1:5060") && got.call_id() != "s", "{text}");
    assert!(contact(&ok).contains("@198.18.0.1:5060"), "rule F");
    assert_eq!((ok.first(HeaderId::Expires), ok.call_id()), (Some("600"), "s"));
    let token = ok.to_tag().expect("ours").to_owned();
    assert!(contact(&ok).contains(&token), "rule A: the owner stands in both");

    s.notifies(&got, "far", 1, "active;expires=600", None);
    let (notify, told) = s.passes_notify(200);
    assert_eq!((told, notify.call_id(), notify.from_tag()), (Some(200), "s", Some(&*token)));
    assert_eq!(notify.to_tag(), ok.from_tag());
    assert_eq!(&notify.body()[..], b"{\"queue\":\xe2\x82\xac}\r\n", "byte for byte");
    assert_eq!(notify.first(HeaderId::SubscriptionState), Some("active;expires=600"));
    assert!(contact(&notify).contains(&token));

    let refresh = s.resubscribes(&ok, 2, "300", None).expect("passed on");
    assert_eq!((refresh.0.cseq(), refresh.0.call_id()), (got.cseq() + 1, got.call_id()));
    assert_eq!((refresh.0.to_tag(), refresh.0.request_uri()), (Some("far"), Some("sip:far@198.18.20.8:5060")), "its new Contact");
    s.psap.answer(&mut s.w, &refresh, 200, &[("Expires", "300")]);
    s.advance(20);
    let again = s.caller.response(&s.w, &Method::Subscribe);
    assert_eq!((again.status(), again.first(HeaderId::Expires), contact(&again)), (Some(200), Some("300"), contact(&ok)));

    let end = s.resubscribes(&ok, 3, "0", None).expect("passed on");
    s.psap.answer(&mut s.w, &end, 200, &[("Expires", "0")]);
    s.advance(20);
    assert_eq!(s.subscriptions_held(), 1, "its last NOTIFY is still to come");
    s.notifies(&got, "far", 2, "terminated;reason=timeout", None);
    assert_eq!(s.passes_notify(200).1, Some(200));
    assert_eq!(s.subscriptions_held(), 0);
    s.notifies(&got, "far", 3, "active", None);
    assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
    let count = |how| s.w.counted(Counter::Subscription(how));
    assert_eq!(
        (count(SubscriptionOutcome::Begun), count(SubscriptionOutcome::Ended), count(SubscriptionOutcome::Expired)),
        (1, 1, 0)
    );
    s.rests(70_000);
}

/// AC-17: by the token in our tag, and in our Contact.
#[test]
fn requests_within_it_at_another_node() {
    let mut s = Rig::desk();
    let ((got, _), ok) = s.subscribed("600");
    s.notifies(&got, "far", 1, "active", Some(2));
    assert_eq!(s.passes_notify(200).1, Some(200));
    let refresh = s.resubscribes(&ok, 2, "600", Some(1)).expect("relayed and passed on");
    assert_eq!(refresh.1, addr("198.18.1.1:5060"), "by the owner");
    s.psap.answer(&mut s.w, &refresh, 200, &[("Expires", "600")]);
    s.advance(20);
    let sent = s.caller.inbox(&s.w);
    let (again, from) = sent.iter().find(|(m, _)| m.status().is_some()).expect("an answer");
    assert_eq!((again.status(), *from), (Some(200), s.w.nodes[1].unicast), "rule E");
    assert!(contact(again).contains("@198.18.0.1:5060"), "rule K");
    assert_eq!(s.w.counted(Counter::Misrouted("SUBSCRIBE", MisrouteAction::Relay)), 1);
    assert_eq!(s.w.counted(Counter::Misrouted("NOTIFY", MisrouteAction::Relay)), 1);
    assert_eq!(s.subscriptions_held(), 1);
}

/// RFC 6665 §4.4.1: it makes the dialog; the other notifiers of a fork are refused, whichever 2xx comes.
#[test]
fn a_notify_before_the_2xx_and_a_fork() {
    let mut s = Rig::desk();
    s.subscribes("s", &[("Event", "dialog"), ("Expires", "600")]);
    let got = s.psap.request(&s.w, &Method::Subscribe);
    s.notifies(&got.0, "one", 1, "active;expires=600", None);
    assert_eq!(s.passes_notify(200).1, Some(200));
    s.notifies(&got.0, "two", 1, "active;expires=600", None);
    assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
    // The target has shown that it is there: the next one is not asked, however long the 2xx takes.
    s.advance(5000);
    assert!(s.second.inbox(&s.w).is_empty());
    s.psap.answer(&mut s.w, &got, 202, &[("Expires", "600"), ("Contact", "<sip:proxy@198.18.20.8>")]);
    s.advance(20);
    let ok = s.caller.response(&s.w, &Method::Subscribe);
    assert_eq!(ok.status(), Some(202));
    let refresh = s.resubscribes(&ok, 2, "600", None).expect("passed on").0;
    assert_eq!((refresh.to_tag(), refresh.request_uri()), (Some("one"), Some("sip:one@198.18.20.8:5060")));
    assert!(s.w.violations.is_empty());
}

/// A fetch (RFC 6665 §4.4.3) whose only NOTIFY overtakes the 2xx.
#[test]
fn a_fetch_leaves_nothing() {
    let mut s = Rig::desk();
    s.subscribes("s", &[("Event", "presence"), ("Expires", "0")]);
    let got = s.psap.request(&s.w, &Method::Subscribe);
    s.notifies(&got.0, "far", 1, "terminated;reason=timeout", None);
    assert_eq!(s.passes_notify(200).1, Some(200));
    assert_eq!(s.subscriptions_held(), 1, "its SUBSCRIBE has no answer yet");
    s.psap.answer(&mut s.w, &got, 200, &[("Expires", "0"), ("Contact", "<sip:psap@198.18.20.8>")]);
    s.advance(20);
    assert_eq!((s.heard(), s.subscriptions_held()), (vec![200], 0));
    s.rests(70_000);
}

#[test]
fn what_is_not_refreshed_is_forgotten() {
    for state in ["", "active;expires=30"] {
        let mut s = Rig::desk();
        let ((got, _), _) = s.subscribed("60");
        if !state.is_empty() {
            s.notifies(&got, "far", 1, state, None);
            s.passes_notify(200);
        }
        // RFC 6665 §4.1.2.4: 64 × T1 beyond its end.
        let end = if state.is_empty() { 92_000 } else { 62_000 };
        let left = end - 500;
        s.advance(left);
        assert_eq!(s.subscriptions_held(), 1, "{state}");
        s.advance(1000);
        assert_eq!(s.subscriptions_held(), 0, "{state}");
        s.notifies(&got, "far", 2, "active", None);
        assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
        assert_eq!(s.w.counted(Counter::Subscription(SubscriptionOutcome::Expired)), 1);
        s.rests(70_000);
    }
}

/// RFC 6665 §4.2.2, §4.1.2.2: which answers end it; the subscriber that is gone, and the notifier that has forgotten.
#[test]
fn answers_that_end_it_and_answers_that_do_not() {
    for (status, left) in [(481, 0), (489, 0), (500, 1), (503, 1)] {
        let mut s = Rig::desk();
        let ((got, _), _) = s.subscribed("600");
        s.notifies(&got, "far", 1, "active", None);
        // A far end's 503 is no word of ours (RFC 3261 §16.7 step 6).
        assert_eq!(s.passes_notify(status).1, Some(if status == 503 { 500 } else { status }));
        assert_eq!(s.subscriptions_held(), left, "NOTIFY {status}");
    }
    for (status, left) in [(481, 0), (405, 0), (423, 1), (500, 1)] {
        let mut s = Rig::desk();
        let (_, ok) = s.subscribed("600");
        let refresh = s.resubscribes(&ok, 2, "600", None).expect("passed on");
        s.psap.answer(&mut s.w, &refresh, status, &[("Min-Expires", "700")]);
        s.advance(20);
        let told = s.caller.response(&s.w, &Method::Subscribe);
        assert_eq!((told.status(), told.first(HeaderId::MinExpires)), (Some(status), Some("700")));
        assert_eq!(s.subscriptions_held(), left, "SUBSCRIBE {status}");
    }
    let mut s = Rig::desk();
    let ((got, _), _) = s.subscribed("600");
    s.notifies(&got, "far", 1, "active", None);
    s.rests(70_000);
}

/// Refusals of the first SUBSCRIBE cross with what they say, and leave nothing.
#[test]
fn refusals_cross() {
    for (status, name, value) in
        [(489, "Allow-Events", "presence"), (423, "Min-Expires", "700"), (403, "X-Why", "no"), (480, "Retry-After", "9")]
    {
        let mut s = Rig::desk();
        s.subscribes("s", &[("Event", QUEUE), ("Expires", "1")]);
        let got = s.psap.request(&s.w, &Method::Subscribe);
        s.psap.answer(&mut s.w, &got, status, &[(name, value)]);
        s.advance(20);
        let told = s.caller.response(&s.w, &Method::Subscribe);
        assert_eq!((told.status(), told.first_named(name)), (Some(status), Some(value)));
        assert_eq!((s.subscriptions_held(), s.w.counted(Counter::Subscription(SubscriptionOutcome::Refused))), (0, 1));
        s.rests(70_000);
    }
}

/// A silent target, then one that is there: its NOTIFY is the one that fits.
#[test]
fn from_target_to_target() {
    let mut s = Rig::desk();
    s.subscribes("s", &[("Event", QUEUE), ("Expires", "600")]);
    let silent = s.psap.request(&s.w, &Method::Subscribe);
    s.advance(2500);
    let got = s.second.request(&s.w, &Method::Subscribe);
    assert_ne!(got.0.call_id(), silent.0.call_id());
    s.notifies(&silent.0, "late", 1, "active", None);
    assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481), "too late");
    s.second.answer(&mut s.w, &got, 200, &[("Expires", "600"), ("Contact", "<sip:psap@198.18.20.9>")]);
    s.advance(20);
    assert_eq!(s.caller.response(&s.w, &Method::Subscribe).status(), Some(200));
    s.notifies(&got.0, "far", 1, "active", None);
    assert_eq!(s.passes_notify(200).1, Some(200));
}

/// Rule C: copies at two nodes are one request for the far end, whose 482 for the second says nothing to the desk.
#[test]
fn copies_at_two_nodes_are_one_subscription() {
    let mut s = Rig::desk();
    let mut draft = s.caller.initial(&Method::Subscribe, URI, "s", 1);
    let nodes = [s.w.nodes[0].unicast, s.w.nodes[1].unicast];
    s.caller.put(&mut s.w, &mut draft, nodes[0], &[("Event", QUEUE), ("Expires", "600")]);
    s.caller.put(&mut s.w, &mut draft, nodes[1], &[]);
    s.advance(50);
    let got: Vec<_> = s.psap.inbox(&s.w);
    let same = |m: &Message| (m.call_id().to_owned(), m.from_tag().map(str::to_owned), m.cseq());
    assert_eq!(got.len(), 2);
    assert_eq!(same(&got[0].0), same(&got[1].0));
    s.psap.answer(&mut s.w, &got[1], 482, &[]);
    s.advance(50);
    assert!(s.heard().is_empty(), "the other node answers");
    s.psap.answer(&mut s.w, &got[0], 200, &[("Expires", "600"), ("Contact", "<sip:psap@198.18.20.8>")]);
    s.advance(50);
    let ok = s.caller.response(&s.w, &Method::Subscribe);
    assert_eq!(ok.status(), Some(200));
    s.notifies(&got[0].0, "far", 1, "active", None);
    assert_eq!(s.passes_notify(200).1, Some(200));
    s.advance(30_000);
    assert_eq!(s.subscriptions_held(), 1, "the quiet copy is forgotten");
}

/// A node that starts again has no subscriptions: rule G has it say so, and the others once the log tells them.
#[test]
fn after_a_restart_it_is_481() {
    let mut s = Rig::desk();
    let ((got, _), ok) = s.subscribed("600");
    s.w.start_again(0, 2);
    s.advance(20);
    assert!(s.resubscribes(&ok, 2, "600", None).is_none());
    assert_eq!(s.heard(), [481]);
    s.notifies(&got, "far", 1, "active", None);
    assert_eq!(s.psap.response(&s.w, &Method::Notify).status(), Some(481));
    s.w.commit_all(Kind::NodeUp(NodeUp { node: 1, incarnation: 2, ..Default::default() }));
    s.advance(20);
    assert!(s.resubscribes(&ok, 3, "600", Some(1)).is_none());
    assert_eq!(s.heard(), [481]);
    assert_eq!(s.w.counted(Counter::Misrouted("SUBSCRIBE", MisrouteAction::Relay)), 0);
    // It subscribes anew.
    s.subscribes("anew", &[("Event", QUEUE), ("Expires", "600")]);
    let again = s.psap.request(&s.w, &Method::Subscribe);
    assert_ne!(again.0.call_id(), got.call_id());
}

/// Rule G: without quorum nobody says that it is not there.
#[test]
fn without_quorum_an_unknown_one_is_503() {
    let mut s = Rig::desk();
    let (_, ok) = s.subscribed("600");
    s.w.start_again(0, 2);
    s.w.no_quorum = true;
    s.advance(4000);
    assert!(s.resubscribes(&ok, 2, "600", None).is_none());
    let told = s.caller.response(&s.w, &Method::Subscribe);
    assert!(told.status() == Some(503) && told.first(HeaderId::RetryAfter).is_some());
    // A new one needs no quorum.
    s.subscribes("anew", &[("Event", QUEUE), ("Expires", "600")]);
    s.psap.request(&s.w, &Method::Subscribe);
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut s = Rig::desk();
    // No event package, two of them, no route.
    s.subscribes("a", &[("Expires", "600")]);
    s.subscribes("b", &[("Event", "presence"), ("Event", "dialog")]);
    assert_eq!(s.heard(), [489, 489]);
    let mut draft = s.caller.initial(&Method::Subscribe, "sip:49@198.18.112.112", "c", 1);
    let to = s.w.anycast;
    s.caller.put(&mut s.w, &mut draft, to, &[("Event", "presence")]);
    s.advance(50);
    assert_eq!((s.heard(), s.subscriptions_held()), (vec![404], 0));
    let ((got, _), ok) = s.subscribed("600");
    // Old CSeq, other tags, another's address, other methods, Max-Forwards that is used up.
    assert!(s.resubscribes(&ok, 0, "600", None).is_none());
    s.notifies(&got, "stranger", 1, "active", None);
    assert_eq!((s.heard(), s.psap.response(&s.w, &Method::Notify).status()), (vec![500], Some(481)));
    let mut spoofer = Far::at("198.18.30.1:5060");
    let (mut draft, to) = s.caller.within(&Method::Subscribe, &ok, 9);
    spoofer.put(&mut s.w, &mut draft, to, &[("Event", QUEUE), ("Expires", "0")]);
    s.advance(20);
    assert_eq!(s.w.counted(Counter::Dropped(DropReason::Source)), 1);
    // Where a trunk's sources are everybody's it may be the far end, from where it is now: it is told to subscribe anew.
    let before = s.subscriptions_held();
    s.w.reconfigure(|config| config.trunks[0].sources = vec![Prefix { addr: addr("0.0.0.0:0").ip(), len: 0 }]);
    let (mut draft, to) = s.caller.within(&Method::Subscribe, &ok, 10);
    spoofer.put(&mut s.w, &mut draft, to, &[("Event", QUEUE), ("Expires", "0")]);
    s.advance(20);
    assert_eq!((spoofer.response(&s.w, &Method::Subscribe).status(), s.subscriptions_held()), (Some(481), before));
    for (cseq, method) in (20..).zip([Method::Invite, Method::Bye, Method::Info, Method::Notify, Method::Message]) {
        let (mut draft, to) = s.caller.within(&method, &ok, cseq);
        s.caller.put(&mut s.w, &mut draft, to, &[]);
        s.advance(20);
        let told = s.caller.response(&s.w, &method);
        assert_eq!((told.status(), told.first(HeaderId::Allow)), (Some(405), Some("SUBSCRIBE, NOTIFY")), "{method}");
    }
    let (mut draft, to) = s.caller.within(&Method::Subscribe, &ok, 30);
    draft.set(HeaderId::MaxForwards, "0");
    s.caller.put(&mut s.w, &mut draft, to, &[("Event", QUEUE)]);
    s.advance(20);
    assert_eq!(s.caller.response(&s.w, &Method::Subscribe).status(), Some(483));
    assert!(s.psap.inbox(&s.w).iter().all(|(m, _)| m.status().is_some()), "nothing of it has crossed");
    assert_eq!(s.subscriptions_held(), 1);
    // Nor does an avalanche of refreshes without answers fill memory.
    for cseq in 40..60 {
        s.resubscribes(&ok, cseq, "600", None);
    }
    let full = s.heard();
    assert!(full.len() >= 12 && full.iter().all(|status| *status == 500), "{full:?}");
}

#[test]
fn a_trunk_that_may_not() {
    let mut s = Rig::desk();
    s.w.reconfigure(|config| config.trunks[0].requests.subscribe = SubscribePolicy::Refuse);
    for method in [Method::Subscribe, Method::Publish] {
        let mut draft = s.caller.initial(&method, URI, "s", 1);
        let to = s.w.anycast;
        s.caller.put(&mut s.w, &mut draft, to, &[("Event", "presence")]);
        s.advance(50);
        let told = s.caller.response(&s.w, &method);
        assert_eq!(told.status(), Some(405));
        let allowed: Vec<&str> = told.values(HeaderId::Allow).collect();
        assert!(allowed.contains(&"MESSAGE") && !allowed.contains(&"SUBSCRIBE") && !allowed.contains(&"PUBLISH"), "{allowed:?}");
        assert_eq!(told.all(HeaderId::Allow).count(), 1);
    }
    assert_eq!(s.subscriptions_held(), 0);
}
