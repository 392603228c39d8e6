//! `[[header_rules]]`: fields that are added, removed or replaced by trunk and direction. What makes dialogs and hops is not for them.

use crate::sip::{Draft, HeaderId};

/// What a rule does with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderAction {
    /// One more, whether or not there is one.
    Add,
    /// All of that name.
    Remove,
    /// All of that name by one, where there is one.
    Replace,
}

/// Which way a message goes, seen from us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleDirection {
    /// What the trunk sends.
    In,
    /// What we send to it.
    Out,
}

/// Which messages a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageKind {
    /// Requests.
    #[default]
    Requests,
    /// Responses.
    Responses,
    /// Both.
    Both,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderRule {
    /// Its name.
    pub name: Box<str>,
    /// The trunk.
    pub trunk: Box<str>,
    /// Which way.
    pub direction: RuleDirection,
    /// Requests, responses or both.
    pub kind: MessageKind,
    /// Only these methods (of a response: its request's); empty: all.
    pub methods: Vec<Box<str>>,
    /// Only emergency calls, or only others; `None`: all.
    pub emergency: Option<bool>,
    /// What it does.
    pub action: HeaderAction,
    /// Name of the field.
    pub header: Box<str>,
    /// What it gets; empty where it is removed.
    pub value: Box<str>,
}

/// A message on its way through.
#[derive(Clone, Copy, Debug)]
pub struct Passing<'a> {
    /// The trunk that sent it.
    pub from: &'a str,
    /// The trunk that gets it.
    pub to: &'a str,
    /// Its method; of a response its request's.
    pub method: &'a str,
    /// It is a response.
    pub response: bool,
    /// It belongs to an emergency call.
    pub emergency: bool,
}

impl HeaderRule {
    fn is_for(&self, way: RuleDirection, passing: &Passing<'_>) -> bool {
        let trunk = if way == RuleDirection::In { passing.from } else { passing.to };
        let kind = match self.kind {
            MessageKind::Requests => !passing.response,
            MessageKind::Responses => passing.response,
            MessageKind::Both => true,
        };
        self.direction == way
            && *self.trunk == *trunk
            && kind
            && (self.methods.is_empty() || self.methods.iter().any(|m| **m == *passing.method))
            && self.emergency.is_none_or(|e| e == passing.emergency)
    }

    /// True when the message is another one now.
    fn apply(&self, draft: &mut Draft) -> bool {
        match self.action {
            HeaderAction::Remove => draft.remove_named(&self.header) > 0,
            HeaderAction::Replace if draft.remove_named(&self.header) == 0 => false,
            HeaderAction::Add | HeaderAction::Replace => {
                draft.push_named(&self.header, &*self.value);
                true
            }
        }
    }
}

/// Applies the rules of the trunk that sent a message, then those of the one that gets it, each in the order of the configuration.
/// Returns the numbers of those that changed it.
pub fn apply_header_rules(rules: &[HeaderRule], passing: &Passing<'_>, draft: &mut Draft) -> Vec<usize> {
    let mut changed = Vec::new();
    for way in [RuleDirection::In, RuleDirection::Out] {
        for (n, rule) in rules.iter().enumerate() {
            if rule.is_for(way, passing) && rule.apply(draft) {
                changed.push(n);
            }
        }
    }
    changed
}

/// True for fields that no rule may touch: each is written by us for one leg, or the body is read by it.
pub fn is_protected(header: &str) -> bool {
    matches!(
        HeaderId::from_name(header),
        HeaderId::Via
            | HeaderId::From
            | HeaderId::To
            | HeaderId::CallId
            | HeaderId::CSeq
            | HeaderId::Contact
            | HeaderId::MaxForwards
            | HeaderId::Route
            | HeaderId::RecordRoute
            | HeaderId::Path
            | HeaderId::RAck
            | HeaderId::RSeq
            | HeaderId::Require
            | HeaderId::Supported
            | HeaderId::ProxyRequire
            | HeaderId::Replaces
            | HeaderId::SessionExpires
            | HeaderId::MinSe
            | HeaderId::ContentLength
            | HeaderId::ContentType
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::Method;

    fn rule(trunk: &str, direction: RuleDirection, action: HeaderAction, header: &str, value: &str) -> HeaderRule {
        HeaderRule {
            name: header.into(),
            trunk: trunk.into(),
            direction,
            kind: MessageKind::Requests,
            methods: Vec::new(),
            emergency: None,
            action,
            header: header.into(),
            value: value.into(),
        }
    }

    const WAY: Passing<'static> = Passing { from: "a", to: "b", method: "INVITE", response: false, emergency: true };

    fn fields(rules: &[HeaderRule], passing: &Passing<'_>) -> (Vec<usize>, String) {
        let mut draft = Draft::request(&Method::Invite, "sip:x");
        draft.push_named("X-Old", "1").push_named("x-old", "2").push_named("Subject", "s");
        let changed = apply_header_rules(rules, passing, &mut draft);
        let fields: Vec<String> = draft.headers().map(|f| format!("{}={}", f.name, f.value)).collect();
        (changed, fields.join(" "))
    }

    #[test]
    fn what_each_action_does() {
        use HeaderAction::{Add, Remove, Replace};
        use RuleDirection::{In, Out};
        for (rules, changed, expected) in [
            (vec![rule("a", In, Remove, "X-OLD", "")], vec![0], "Subject=s"),
            (vec![rule("b", Out, Add, "X-Old", "3")], vec![0], "X-Old=1 x-old=2 Subject=s X-Old=3"),
            (vec![rule("b", Out, Replace, "X-Old", "3")], vec![0], "Subject=s X-Old=3"),
            (vec![rule("b", Out, Replace, "X-New", "3")], vec![], "X-Old=1 x-old=2 Subject=s"),
            // The compact form is the same field.
            (vec![rule("b", Out, Replace, "s", "t")], vec![0], "X-Old=1 x-old=2 s=t"),
            // Of the sender first, whatever the order.
            (vec![rule("b", Out, Add, "X-Old", "3"), rule("a", In, Remove, "X-Old", "")], vec![1, 0], "Subject=s X-Old=3"),
            (vec![rule("b", In, Remove, "X-Old", ""), rule("a", Out, Remove, "X-Old", "")], vec![], "X-Old=1 x-old=2 Subject=s"),
        ] {
            assert_eq!(fields(&rules, &WAY), (changed, expected.to_owned()), "{rules:?}");
        }
    }

    #[test]
    fn what_a_rule_is_for() {
        let base = rule("a", RuleDirection::In, HeaderAction::Remove, "Subject", "");
        let hits = |rule: HeaderRule, passing: Passing<'_>| !fields(&[rule], &passing).0.is_empty();
        let response = Passing { response: true, ..WAY };
        for (kind, on_request, on_response) in
            [(MessageKind::Requests, true, false), (MessageKind::Responses, false, true), (MessageKind::Both, true, true)]
        {
            let rule = HeaderRule { kind, ..base.clone() };
            assert_eq!((hits(rule.clone(), WAY), hits(rule, response)), (on_request, on_response), "{kind:?}");
        }
        for (emergency, expected) in [(None, true), (Some(true), true), (Some(false), false)] {
            assert_eq!(hits(HeaderRule { emergency, ..base.clone() }, WAY), expected);
        }
        for (methods, expected) in [(vec![], true), (vec!["INVITE".into()], true), (vec!["BYE".into()], false)] {
            assert_eq!(hits(HeaderRule { methods, ..base.clone() }, WAY), expected);
        }
    }

    #[test]
    fn what_is_ours_is_protected() {
        for name in ["Via", "v", "Contact", "m", "call-id", "Content-Length", "Session-Expires"] {
            assert!(is_protected(name), "{name}");
        }
        for name in ["Subject", "X-Site", "P-Asserted-Identity", "Geolocation", "User-Agent"] {
            assert!(!is_protected(name), "{name}");
        }
    }
}
