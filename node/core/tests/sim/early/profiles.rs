//! Trunk profiles: topology, asserted identities, codecs.

use sbc_core::policy::{Codecs, IdentityPolicy, Topology};

use super::*;

const ASSERTED: (&str, &str) = ("P-Asserted-Identity", "<tel:+4912>");

fn with_psap(change: impl FnOnce(&mut sbc_core::policy::Trunk) + Clone + 'static) -> Rig {
    Rig::dialling_with("112", move |c| change(&mut c.trunks[1]))
}

/// NENA-STA-010: the Call-ID is kept, unknown fields too, and `Supported: replaces` says what we can. The tags stay ours, so that any node
/// knows the call; all of it works as with the topology hidden.
#[test]
fn a_transparent_trunk_sees_the_call_id() {
    let s = with_psap(|t| t.topology = Topology::Transparent);
    let mut s = s.dials(&[("X-Unknown", "kept"), ("Supported", "100rel")], Some(7));
    let (invite, _) = s.asked.clone().expect("called");
    assert_eq!((invite.call_id(), invite.first(HeaderId::CSeq).is_some()), ("x", true));
    assert_ne!(invite.from_tag(), Some("ft-x"));
    let supported: Vec<&str> = invite.values(HeaderId::Supported).collect();
    assert!(supported.contains(&"replaces") && supported.contains(&"100rel"), "{supported:?}");
    assert!(String::from_utf8_lossy(invite.raw()).contains("X-Unknown: kept\r\n"));
    let ringing = s.says_one(180, "a", &[], None);
    assert!(!ringing.values(HeaderId::Supported).any(|tag| tag == "replaces"), "the caller's trunk hides");
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    // Both legs have one Call-ID now: each way and through another node.
    let hold = s.asks(&Method::Invite, &ok, &[], Some(8));
    assert_eq!((methods(&hold), hold[0].0.call_id()), (vec!["INVITE"], "x"));
    let held = s.called_answers(&hold[0], 200, Some(11));
    let held = held.iter().find(|m| m.status() == Some(200)).expect("answered").clone();
    assert_eq!(s.acks(&held, None).iter().map(|m| m.method().as_str()).collect::<Vec<_>>(), ["ACK"]);
    let back = s.called_asks(&Method::Info, "a", None);
    assert_eq!(methods(&back), ["INFO"]);
    assert_eq!(statuses(&s.caller_answers(&back[0], 200, None)), [200]);
    let elsewhere = s.w.nodes[1].unicast;
    let info = s.asks_at(elsewhere, &Method::Info, &ok, &[], None);
    assert_eq!(methods(&info), ["INFO"], "relayed by the tag");
    s.called_answers(&info[0], 200, None);
    let bye = s.called_asks(&Method::Bye, "a", None);
    assert_eq!(methods(&bye), ["BYE"]);
    s.caller_answers(&bye[0], 200, None);
    s.advance(1000);
    s.calm();
}

#[test]
fn assertions_of_an_untrusted_caller_go_no_further() {
    for (policy, passes) in [(IdentityPolicy::Trust, true), (IdentityPolicy::Strip, false)] {
        let mut s = Rig::dialling_with("112", move |c| c.trunks[0].identity = policy);
        s = s.dials(&[ASSERTED, ("History-Info", "<sip:x>;index=1")], Some(7));
        let (invite, _) = s.asked.clone().expect("called");
        let has = |id| invite.first(id).is_some();
        assert_eq!((has(HeaderId::PAssertedIdentity), has(HeaderId::HistoryInfo)), (passes, passes));
        // Nor does it hear who answers.
        let ok = s.says_one(200, "a", &[ASSERTED], Some(10));
        assert_eq!(ok.first(HeaderId::PAssertedIdentity).is_some(), passes);
        s.acks(&ok, None);
        s.advance(500);
        let replica = s.w.nodes[1].replica.read().expect("no panic");
        let call = replica.calls(None).next().expect("the call");
        assert_eq!(call.parties().is_some_and(|p| !p.asserted_identity.is_empty()), passes);
    }
}

fn offer(formats: &str) -> Bytes {
    let text = String::from_utf8_lossy(&sdp_of(7))
        .replace("RTP/AVP 8\r\n", &format!("RTP/AVP {formats}\r\na=rtpmap:96 opus/48000/2\r\n"));
    Bytes::from(text)
}

/// RFC 7315 §4.4: not from one who is not trusted; but of an emergency call a dispatcher gets the cell.
#[test]
fn the_access_network_of_an_emergency_call_reaches_dispatchers() {
    for (number, passes) in [("112", true), ("110", false)] {
        let mut s = Rig::dialling_with(number, |c| c.trunks[0].identity = IdentityPolicy::Strip);
        let access = ("P-Access-Network-Info", "3GPP-E-UTRAN-FDD;utran-cell-id-3gpp=262011234");
        s = s.dials(&[access, ("P-Preferred-Identity", "<tel:+4912>"), ("P-Charging-Vector", "icid-value=1")], Some(7));
        let invite = s.asked.clone().expect("called").0;
        assert_eq!(invite.first_named(access.0).is_some(), passes, "{number}");
        assert_eq!((invite.first(HeaderId::PPreferredIdentity), invite.first_named("P-Charging-Vector")), (None, None));
        // What the core says of itself stays there.
        let ok = s.says_one(200, "a", &[access], Some(10));
        assert_eq!(ok.first_named(access.0), None);
    }
}

#[test]
fn codecs_that_one_of_the_trunks_does_not_allow_do_not_cross() {
    let s = Rig::dialling_with("112", |c| {
        c.trunks[0].codecs = Codecs::new(["PCMA", "opus"].map(String::from));
        c.trunks[1].codecs = Codecs::new(["PCMA", "PCMU"].map(String::from));
    });
    let mut s = s.dials_with(offer("96 0 8 13"));
    let (invite, _) = s.asked.clone().expect("called");
    assert!(text(&invite).contains("RTP/AVP 8 13\r\n") && !text(&invite).contains("opus"), "{}", text(&invite));
    assert!(anchored(&invite, "198.18.1.1"));
    let ok = s.says_one(200, "a", &[], Some(10));
    s.acks(&ok, None);
    s.psap_got();
    // Nothing would be left: better all than a call without sound.
    s.cseq += 1;
    let (mut draft, to) = s.caller.within(&Method::Update, &ok, s.cseq);
    draft.set_body(Some("application/sdp"), offer("96"));
    s.caller.put(&mut s.w, &mut draft, to, &[]);
    s.advance(20);
    let got = s.psap_got();
    assert!(text(&got[0].0).contains("RTP/AVP 96\r\n") && text(&got[0].0).contains("opus"), "{}", text(&got[0].0));
    s.calm();
}
