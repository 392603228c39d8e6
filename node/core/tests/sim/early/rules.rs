//! Header rules on the way of real messages: requests and responses, both ways, and within the call.

use sbc_core::policy::{HeaderAction, HeaderRule, MessageKind, RuleDirection};

use super::*;

#[test]
fn header_rules_shape_what_passes() {
    let rule = |name: &str, trunk: &str, direction, kind, action, header: &str, value: &str| HeaderRule {
        name: name.into(),
        trunk: trunk.into(),
        direction,
        kind,
        methods: Vec::new(),
        emergency: Some(true),
        action,
        header: header.into(),
        value: value.into(),
    };
    let mut s = Rig::dialling("112");
    s.w.reconfigure(|c| {
        c.trunks[1].targets[0].host.host = "198.18.20.9".into();
        c.header_rules = vec![
            rule("site", "psap", RuleDirection::Out, MessageKind::Requests, HeaderAction::Add, "X-Site", "alpha"),
            rule("agent", "callers", RuleDirection::In, MessageKind::Requests, HeaderAction::Remove, "User-Agent", ""),
            rule("server", "callers", RuleDirection::Out, MessageKind::Responses, HeaderAction::Replace, "Server", "psap"),
            HeaderRule {
                methods: vec!["INFO".into()],
                ..rule("info", "psap", RuleDirection::Out, MessageKind::Requests, HeaderAction::Add, "X-Info", "yes")
            },
        ];
    });
    let mut s = s.dials(&[("User-Agent", "phone"), ("X-Kept", "1")], Some(7));
    let invite = s.asked.clone().expect("called").0;
    assert_eq!((invite.first_named("X-Site"), invite.first(HeaderId::UserAgent)), (Some("alpha"), None));
    assert_eq!((invite.first_named("X-Kept"), invite.first_named("X-Info")), (Some("1"), None));
    let ok = s.says_one(200, "a", &[("Server", "desk 7 in the cellar")], Some(10));
    assert_eq!(ok.all(HeaderId::Server).collect::<Vec<_>>(), ["psap"]);
    s.acks(&ok, None);
    s.psap_got();
    let info = s.asks(&Method::Info, &ok, &[("User-Agent", "phone")], None);
    assert_eq!((info[0].0.first_named("X-Info"), info[0].0.first(HeaderId::UserAgent)), (Some("yes"), None));
    s.calm();
}

/// RFC 4412, RFC 7135: what a caller claims is scrubbed, and emergency calls get the priority of this network; ordinary ones none.
#[test]
fn resource_priority_is_scrubbed_and_set() {
    let rule = |name: &str, trunk: &str, direction, action, emergency, value: &str| HeaderRule {
        name: name.into(),
        trunk: trunk.into(),
        direction,
        kind: MessageKind::Requests,
        methods: vec!["INVITE".into()],
        emergency,
        action,
        header: "Resource-Priority".into(),
        value: value.into(),
    };
    for (number, expected) in [("112", Some("esnet.1")), ("4711", None)] {
        let s = Rig::dialling_with(number, |c| {
            c.header_rules = vec![
                rule("scrub", "callers", RuleDirection::In, HeaderAction::Remove, None, ""),
                rule("set", "psap", RuleDirection::Out, HeaderAction::Add, Some(true), "esnet.1"),
            ];
        });
        let s = s.dials(&[("Resource-Priority", "esnet.4, wps.0")], Some(7));
        let invite = s.asked.as_ref().expect("called").0.clone();
        assert_eq!(
            invite.all(HeaderId::ResourcePriority).collect::<Vec<_>>(),
            expected.into_iter().collect::<Vec<_>>(),
            "{number}"
        );
    }
}
