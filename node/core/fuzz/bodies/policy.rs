//! Header rules, trunk profiles and codecs, on a message that crosses: what comes out can be written and read, has all that no rule
//! may touch, and none of what was taken out.

use bytes::Bytes;
use sbc_core::call::copy_through;
use sbc_core::io::Realm;
use sbc_core::policy::{
    Codecs, HeaderAction, HeaderRule, IdentityPolicy, MessageKind, Passing, RuleDirection, Topology, Trunk, apply_header_rules,
    apply_profile, is_protected,
};
use sbc_core::sip::{Draft, HeaderId, Message, Sdp};

/// Fields that rules are made for: known, unknown, compact, lists, and one that no rule may touch.
const NAMES: [&str; 8] = ["X-Odd", "Subject", "s", "Geolocation", "Supported", "P-Asserted-Identity", "Priority", "Via"];
/// Rules of one run at the most.
const MAX_RULES: usize = 6;

/// The target: an octet for the profiles, one for the number of rules, one a rule, then the message. True when it was taken.
pub(crate) fn run(octets: &[u8]) -> bool {
    let Some((&[profile, count], rest)) = octets.split_first_chunk::<2>() else { return false };
    let Some((rules, rest)) = rest.split_at_checked(usize::from(count) % (MAX_RULES + 1)) else { return false };
    let rules: Vec<HeaderRule> = rules.iter().map(|octet| rule(*octet)).filter(|rule| !is_protected(&rule.header)).collect();
    let Ok(message) = Message::parse(Bytes::copy_from_slice(rest)) else { return false };
    let mut draft = crossing(&message);
    let own = written(&draft);
    copy_through(&message, &mut draft);
    let (from, to) = (trunk("from", profile), trunk("to", profile >> 4));
    apply_profile(Some(&from), Some(&to), message.method(), false, &mut draft);
    let passing = Passing {
        from: "from",
        to: "to",
        method: message.method().as_str(),
        response: !message.is_request(),
        emergency: profile & 4 != 0,
    };
    let changed = apply_header_rules(&rules, &passing, &mut draft);
    check(&rules, &changed, &draft);
    draft.set_body(message.content_type(), message.body());
    let again = Message::parse(draft.encode().expect("what crosses can be written")).expect("and read");
    assert_eq!((again.call_id(), again.cseq(), again.body()), (message.call_id(), message.cseq(), message.body()));
    let kept: Vec<String> = written(&draft).into_iter().take(own.len()).collect();
    assert_eq!(kept, own, "what is ours stands first, untouched");
    codecs(profile, &message);
    true
}

/// The start of the copy: what each leg has for itself.
fn crossing(message: &Message) -> Draft {
    let mut draft = match message.request_uri() {
        Some(uri) => Draft::request(message.method(), uri),
        None => Draft::response(message.status().expect("a response has a status"), Some(message.reason())),
    };
    draft.push(HeaderId::Via, message.top_via().as_str()).push(HeaderId::From, message.from()).push(HeaderId::To, message.to());
    draft.push(HeaderId::CallId, message.call_id());
    draft.push(HeaderId::CSeq, format!("{} {}", message.cseq(), message.method().as_str()));
    draft
}

fn written(draft: &Draft) -> Vec<String> {
    draft.headers().map(|field| format!("{}: {}", field.name, field.value)).collect()
}

fn rule(octet: u8) -> HeaderRule {
    let action = match octet & 3 {
        0 => HeaderAction::Add,
        1 => HeaderAction::Replace,
        _ => HeaderAction::Remove,
    };
    let direction = if octet & 4 == 0 { RuleDirection::In } else { RuleDirection::Out };
    HeaderRule {
        name: "rule".into(),
        trunk: if direction == RuleDirection::In { "from".into() } else { "to".into() },
        direction,
        kind: if octet & 8 == 0 { MessageKind::Both } else { MessageKind::Requests },
        methods: if octet & 16 == 0 { Vec::new() } else { vec!["INVITE".into()] },
        emergency: None,
        action,
        header: NAMES[usize::from(octet >> 5)].into(),
        value: if action == HeaderAction::Remove { "".into() } else { "a;b=\"c, d\"".into() },
    }
}

/// What the last rule that changed a field of some name made of it holds.
fn check(rules: &[HeaderRule], changed: &[usize], draft: &Draft) {
    for (at, n) in changed.iter().enumerate() {
        let rule = &rules[*n];
        let same = |name: &str| HeaderId::from_name(name) == HeaderId::from_name(&rule.header);
        if changed[at + 1..].iter().any(|later| same(&rules[*later].header)) {
            continue;
        }
        let found = draft.headers().filter(|field| field.name.eq_ignore_ascii_case(&rule.header)).count();
        match rule.action {
            HeaderAction::Remove => assert_eq!(draft.first_named(&rule.header), None, "{rule:?}"),
            HeaderAction::Replace => assert_eq!(draft.first_named(&rule.header), Some(&*rule.value), "{rule:?}"),
            HeaderAction::Add => assert!(found > 0 || draft.first_named(&rule.header).is_some(), "{rule:?}"),
        }
    }
}

fn trunk(name: &str, bits: u8) -> Trunk {
    Trunk {
        identity: if bits & 1 == 0 { IdentityPolicy::Trust } else { IdentityPolicy::Strip },
        topology: if bits & 2 == 0 { Topology::Hide } else { Topology::Transparent },
        ..Trunk::new(name, Realm::Core)
    }
}

/// With fewer codecs a description has the same media, and each has a format still.
fn codecs(bits: u8, message: &Message) {
    let names = ["PCMU", "opus", "H264", "AMR-WB"];
    let chosen = names.iter().enumerate().filter(|(n, _)| bits >> n & 1 != 0).map(|(_, name)| (*name).to_owned());
    let (Some(codecs), Ok(sdp)) = (Codecs::new(chosen), Sdp::parse(&message.body())) else { return };
    let Some(fewer) = sdp.without_codecs(&|name| codecs.allows(name)) else { return };
    let fewer = Sdp::parse(&fewer).expect("a description with fewer codecs is one");
    assert_eq!(fewer.media().len(), sdp.media().len());
    assert!(fewer.media().iter().all(|media| !media.formats.is_empty()));
    assert_eq!(fewer.without_codecs(&|name| codecs.allows(name)), None, "nothing is left to take out");
}
