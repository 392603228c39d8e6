//! Both far ends on one side of the SBC, and targets on either: the ports are where the descriptions say (invariant
//! `media_where_it_is_open`, asked of each packet; RFC 3264 §5.1).

use sbc_core::io::Realm;
use sbc_core::policy::{ClusterConfig, Trunk};

use super::*;

/// A trunk beside the PSAP's, at an address of its own.
fn second(config: &mut ClusterConfig, realm: Realm) {
    let mut targets = config.trunks[1].targets.clone();
    targets[0].host.host = "198.18.20.8".into();
    config.trunks.push(Trunk { sources: config.trunks[1].sources.clone(), targets, ..Trunk::new("second", realm) });
    for route in &mut config.routes {
        route.trunks.push("second".into());
    }
}

/// External caller, external called side: a transfer, or a route from trunk to trunk.
#[test]
fn both_on_the_outside() {
    for number in ["112", "113"] {
        let mut s = Rig::dialling_with(number, |config| config.trunks[1].realm = Realm::External).dials(&[], Some(7));
        let (invite, from) = s.asked.clone().expect("called");
        assert_eq!(from.to_string(), "198.18.0.1:5060");
        assert!(anchored(&invite, "198.18.0.1"));
        let ok = s.says_one(200, "a", &[], Some(10));
        assert!(anchored(&ok, "198.18.0.1"));
        s.acks(&ok, None);
        s.psap_got();
        // A medium more, later.
        let more = [&sdp_of(7)[..], b"m=video 70 RTP/AVP 96\r\n"].concat();
        let asked = s.offers(&Method::Invite, &ok, &more).pop().expect("passed on");
        assert!(anchored(&asked.0, "198.18.0.1"));
        s.calm();
    }
}

#[test]
fn both_on_the_inside() {
    let mut s = Rig::dialling_with("112", |config| config.trunks[0].realm = Realm::Core);
    let core = s.w.nodes[0].core;
    let mut draft = s.caller.initial(&Method::Invite, URI, "x", 1);
    draft.set_body(Some("application/sdp"), sdp_of(7));
    s.caller.put(&mut s.w, &mut draft, core, &[]);
    s.advance(50);
    s.asked = Some(s.psap.request(&s.w, &Method::Invite));
    s.caller.inbox(&s.w);
    assert!(anchored(&s.asked.as_ref().expect("called").0, "198.18.1.1"));
    let ok = s.says_one(200, "a", &[], Some(10));
    assert!(anchored(&ok, "198.18.1.1"));
    s.calm();
}

/// The first target is silent or refuses; the second is on the other side. The ports move there before it is called, and what was heard
/// before is counted.
#[test]
fn a_second_target_on_the_other_side() {
    for (first, other) in [(Realm::Core, Realm::External), (Realm::External, Realm::Core)] {
        let mut s = Rig::dialling_with("112", |config| {
            config.trunks[1].realm = first;
            second(config, other);
        })
        .dials(&[], Some(7));
        assert_eq!(statuses(&s.says(183, "x", &[], Some(90))), [183]);
        s.says(503, "x", &[], None);
        s.psap = Far::at("198.18.20.8:5060");
        s.advance(50);
        s.asked = Some(s.psap.request(&s.w, &Method::Invite));
        let host = if other == Realm::Core { "198.18.1.1" } else { "198.18.0.1" };
        assert!(anchored(&s.asked.as_ref().expect("called").0, host));
        let ok = s.says_one(200, "b", &[], Some(10));
        assert!(anchored(&ok, "198.18.0.1"));
        s.acks(&ok, None);
        assert_eq!(s.media(), BTreeMap::from([((0, Side::Caller), 7), ((0, Side::Callee), 10)]));
        s.psap = Far::at("198.18.20.9:5060");
        let bye = s.asks(&Method::Bye, &ok, &[], None).pop().expect("passed on");
        s.called_answers(&bye, 200, None);
        s.advance(500);
        let replica = s.w.nodes[0].replica.read().expect("one thread");
        assert_eq!(replica.live_calls(), 0, "the end is in the log");
        drop(replica);
        s.calm();
    }
}
