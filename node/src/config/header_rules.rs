//! `[[header_rules]]`: fields that are added, removed or replaced by trunk and direction.

use sbc_core::policy::{HeaderAction, HeaderRule, MessageKind, RuleDirection, is_protected};
use sbc_core::sip::{Method, is_token};

use super::cluster::name;
use super::reader::{Reader, Section};

/// Each is looked at for each message.
pub(super) const RULES_CAP: usize = 200;

/// One rule. `trunks`: the names that there are.
pub(super) fn read(reader: &Reader<'_>, section: &Section<'_>, trunks: &[&str], seen: &[HeaderRule]) -> Option<HeaderRule> {
    let name = name(reader, section, seen, |r| &r.name);
    let trunk = section.required("trunk").filter(|t| {
        let known = trunks.contains(&t.value);
        if !known {
            let hint = super::fault::did_you_mean(t.value, trunks.iter().copied());
            reader.fault_at(t, format!("there is no trunk \"{}\"", t.value), hint);
        }
        known
    });
    let direction = section.word("direction", &[("in", RuleDirection::In), ("out", RuleDirection::Out)]);
    let actions = [("add", HeaderAction::Add), ("remove", HeaderAction::Remove), ("replace", HeaderAction::Replace)];
    let action = section.word("action", &actions);
    for key in ["direction", "action"] {
        if !section.has(key) {
            section.missing(key);
        }
    }
    let header = section.required("header").filter(|h| {
        let fault = match h.value {
            v if !is_token(v) => Some("no header field has such a name"),
            v if is_protected(v) => Some("this field makes dialogs and hops: the SBC writes it itself"),
            _ => None,
        };
        if let Some(fault) = fault {
            reader.fault_at(h, fault, "");
        }
        fault.is_none()
    });
    let value = section.string("value").filter(|v| {
        let bad = v.value.chars().any(char::is_control);
        if bad {
            reader.fault_at(v, "a control character", "");
        }
        !bad
    });
    match (action, section.has("value")) {
        (Some(HeaderAction::Add | HeaderAction::Replace), false) => section.missing("value"),
        (Some(HeaderAction::Remove), true) => {
            if let Some(v) = &value {
                reader.fault_at(v, "what is removed gets no value", "take it out, or use action = \"replace\"");
            }
        }
        _ => {}
    }
    let methods = section.strings("methods");
    for method in methods.iter().filter(|m| Method::parse(m.value).is_none()) {
        reader.fault_at(method, "no method has such a name", "");
    }
    let kinds = [("requests", MessageKind::Requests), ("responses", MessageKind::Responses), ("both", MessageKind::Both)];
    Some(HeaderRule {
        name: name?.into(),
        trunk: trunk?.value.into(),
        direction: direction?,
        kind: section.word("messages", &kinds).unwrap_or_default(),
        methods: methods.iter().map(|m| m.value.into()).collect(),
        emergency: section.boolean("emergency"),
        action: action?,
        header: header?.value.into(),
        value: value.map(|v| v.value.into()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::parse_cluster;
    use super::*;

    const GOOD: &str = "[[trunks]]\nname = \"psap\"\nrealm = \"core\"\n\
        [[header_rules]]\nname = \"site\"\ntrunk = \"psap\"\ndirection = \"out\"\naction = \"add\"\nheader = \"X-Site\"\nvalue = \"alpha\"\n\
        [[header_rules]]\nname = \"no-agent\"\ntrunk = \"psap\"\ndirection = \"in\"\naction = \"remove\"\nheader = \"Server\"\n\
        messages = \"responses\"\nmethods = [\"INVITE\"]\nemergency = false\n";

    #[test]
    fn rules_are_read_in_order() {
        let rules = parse_cluster(GOOD, 1).unwrap().header_rules;
        let told: Vec<_> = rules.iter().map(|r| (&*r.name, r.direction, r.action, &*r.header, &*r.value)).collect();
        let wanted = [
            ("site", RuleDirection::Out, HeaderAction::Add, "X-Site", "alpha"),
            ("no-agent", RuleDirection::In, HeaderAction::Remove, "Server", ""),
        ];
        assert_eq!(told, wanted);
        assert_eq!((rules[1].kind, rules[1].emergency, rules[1].methods.len()), (MessageKind::Responses, Some(false), 1));
    }

    #[test]
    fn every_fault_is_shown() {
        for (from, to, path) in [
            ("trunk = \"psap\"\ndirection = \"out\"", "trunk = \"spap\"\ndirection = \"out\"", "header_rules[0].trunk"),
            ("\"add\"", "\"ad\"", "header_rules[0].action"),
            ("X-Site", "Via", "header_rules[0].header"),
            ("X-Site", "X Site", "header_rules[0].header"),
            ("value = \"alpha\"", "value = \"al\\npha\"", "header_rules[0].value"),
            ("value = \"alpha\"\n", "", "header_rules[0].value"),
            ("\"Server\"", "\"Server\"\nvalue = \"x\"", "header_rules[1].value"),
            ("\"INVITE\"", "\"IN VITE\"", "header_rules[1].methods[0]"),
            ("\"no-agent\"", "\"site\"", "header_rules[1].name"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let faults = parse_cluster(&text, 1).expect_err(to);
            assert!(faults.0.iter().any(|f| f.path == path), "{to}: {faults:?}");
        }
    }
}
