//! How a trunk sees what is behind us: topology, asserted identities, codecs.

use super::Trunk;
use crate::sip::{Draft, HeaderId, Method};

/// What of the other side's dialog a trunk sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// Identifiers of our own making.
    #[default]
    Hide,
    /// The Call-ID of the other side, and `Supported: replaces` (NENA-STA-010, border control function). Tags stay ours: by them
    /// a node knows whose a call is.
    Transparent,
}

/// What is made of identities that are asserted rather than proven (RFC 3325).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdentityPolicy {
    /// They cross both ways. By default: a call-back number that is not quite sure beats none.
    #[default]
    Trust,
    /// The trunk is no part of the trust domain: its assertions are taken out, and it gets none (RFC 3325 §5), unless the caller
    /// wants that with `Privacy: none` (§7).
    Strip,
}

/// What asserts who somebody is, or was before a diversion; all of RFC 3325's kind.
const ASSERTED: [&str; 5] = ["P-Asserted-Identity", "P-Asserted-Service", "Remote-Party-ID", "History-Info", "Diversion"];

/// Encoding names (RFC 8866 §6.6) that may be negotiated with a trunk; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Codecs(Vec<Box<str>>);

impl Codecs {
    /// `None` for no names at all, which would silence every call.
    pub fn new(names: impl IntoIterator<Item = String>) -> Option<Codecs> {
        let names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        (!names.is_empty()).then_some(Codecs(names))
    }

    /// Whether this one may be.
    pub fn allows(&self, encoding: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(encoding))
    }

    /// As they are written.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// Makes a message fit for the trunk that gets it: what the trunks' `identity` and `topology` ask for. `method`: of a response its
/// request's.
pub fn apply_profile(from: Option<&Trunk>, to: Option<&Trunk>, method: &Method, draft: &mut Draft) {
    let strips = |trunk: Option<&Trunk>| trunk.is_some_and(|t| t.identity == IdentityPolicy::Strip);
    if strips(from) || (strips(to) && !wants_no_privacy(draft)) {
        for name in ASSERTED {
            draft.remove_named(name);
        }
    }
    let transparent = to.is_some_and(|t| t.topology == Topology::Transparent);
    if transparent && matches!(method, Method::Invite | Method::Update) && !supports(draft, "replaces") {
        draft.push(HeaderId::Supported, "replaces");
    }
}

fn wants_no_privacy(draft: &Draft) -> bool {
    let has = |value: &str| value.split(';').any(|v| v.trim().eq_ignore_ascii_case("none"));
    draft.headers().any(|f| f.id == HeaderId::Privacy && has(f.value))
}

fn supports(draft: &Draft, tag: &str) -> bool {
    let has = |value: &str| value.split(',').any(|v| v.trim().eq_ignore_ascii_case(tag));
    draft.headers().any(|f| f.id == HeaderId::Supported && has(f.value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Realm;

    fn trunk(identity: IdentityPolicy, topology: Topology) -> Trunk {
        Trunk { identity, topology, ..Trunk::new("t", Realm::Core) }
    }

    fn shaped(from: &Trunk, to: &Trunk, fields: &[(&str, &str)]) -> Vec<String> {
        let mut draft = Draft::request(&Method::Invite, "sip:x");
        for (name, value) in fields {
            draft.push_named(name, *value);
        }
        apply_profile(Some(from), Some(to), &Method::Invite, &mut draft);
        draft.headers().map(|f| format!("{}: {}", f.name, f.value)).collect()
    }

    #[test]
    fn assertions_cross_only_between_those_who_are_trusted() {
        let (trust, strip) = (trunk(IdentityPolicy::Trust, Topology::Hide), trunk(IdentityPolicy::Strip, Topology::Hide));
        let all: Vec<(&str, &str)> = ASSERTED.iter().map(|name| (*name, "<sip:x>")).chain([("From", "<sip:a>")]).collect();
        let private = [&all[..], &[("Privacy", "id;critical")]].concat();
        let open = [&all[..], &[("Privacy", "none")]].concat();
        for (from, to, fields, kept) in [
            (&trust, &trust, &all, true),
            (&strip, &trust, &all, false),
            (&trust, &strip, &all, false),
            (&strip, &strip, &all, false),
            (&trust, &trust, &private, true),
            (&trust, &strip, &private, false),
            // Nobody makes an assertion true by asking for no privacy.
            (&strip, &trust, &open, false),
            (&trust, &strip, &open, true),
        ] {
            let left = shaped(from, to, fields).len();
            let expected = if kept { fields.len() } else { fields.len() - ASSERTED.len() };
            assert_eq!(left, expected, "{from:?} {to:?} {fields:?}");
        }
    }

    #[test]
    fn a_transparent_trunk_hears_of_replaces_once() {
        let (hide, open) = (trunk(IdentityPolicy::Trust, Topology::Hide), trunk(IdentityPolicy::Trust, Topology::Transparent));
        assert!(shaped(&open, &hide, &[]).is_empty());
        assert_eq!(shaped(&hide, &open, &[]), ["Supported: replaces"]);
        let already = [("Supported", "100rel, Replaces")];
        assert_eq!(shaped(&hide, &open, &already), ["Supported: 100rel, Replaces"]);
        let mut bye = Draft::request(&Method::Bye, "sip:x");
        apply_profile(None, Some(&open), &Method::Bye, &mut bye);
        assert_eq!(bye.headers().count(), 0);
    }

    #[test]
    fn codecs_by_name() {
        let codecs = Codecs::new(["PCMA".to_owned(), "opus".to_owned()]).unwrap();
        assert!(codecs.allows("pcma") && codecs.allows("OPUS") && !codecs.allows("PCMU"));
        assert_eq!(codecs.names().collect::<Vec<_>>(), ["PCMA", "opus"]);
        assert_eq!(Codecs::new([]), None);
    }
}
