//! How a trunk sees what is behind us: topology, asserted identities, codecs.

use super::Trunk;
use crate::io::Realm;
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

/// What asserts who somebody is, or was before a diversion: RFC 3325 §9.1, RFC 6050 §4.1, draft-ietf-sip-privacy-04 (never an RFC, still
/// sent), RFC 7044, RFC 5806. With `Privacy: none` the caller wants them seen (RFC 3325 §7).
const ASSERTED: [&str; 5] = ["P-Asserted-Identity", "P-Asserted-Service", "Remote-Party-ID", "History-Info", "Diversion"];

/// What a user agent tells its own network, or that network itself; outside of it or from outside it is nothing, whatever Privacy says: RFC 3325
/// §9.2 and RFC 6050 §4.2 (a hint for the first proxy, which takes it out), RFC 7315 §4, RFC 5502, RFC 4457, RFC 5002, RFC 7316, RFC 5503.
const INTERNAL: [&str; 16] = [
    "P-Preferred-Identity",
    "P-Preferred-Service",
    "P-Associated-URI",
    "P-Called-Party-ID",
    "P-Visited-Network-ID",
    "P-Charging-Function-Addresses",
    "P-Charging-Vector",
    "P-Served-User",
    "P-User-Database",
    "P-Profile-Key",
    "P-Private-Network-Indication",
    "P-DCS-Trace-Party-ID",
    "P-DCS-OSPS",
    "P-DCS-Billing-Info",
    "P-DCS-LAES",
    "P-DCS-Redirect",
];

/// The cell or line of a caller (RFC 7315 §4.4): INTERNAL, but a dispatcher finds people by it.
const ACCESS: &str = "P-Access-Network-Info";

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
///
/// Of an emergency call the core side, where dispatchers are, gets the access network even of a caller that is not trusted: it is evidence, as
/// From is, and nobody's identity. What asserts one follows the configuration, as does `Privacy` (RFC 3323 §4.2: it is the caller's; RFC
/// 3325 §7: within the trust domain identities cross whatever it says).
pub fn apply_profile(from: Option<&Trunk>, to: Option<&Trunk>, method: &Method, emergency: bool, draft: &mut Draft) {
    let strips = |trunk: Option<&Trunk>| trunk.is_some_and(|t| t.identity == IdentityPolicy::Strip);
    if strips(from) || (strips(to) && !wants_no_privacy(draft)) {
        for name in ASSERTED {
            draft.remove_named(name);
        }
    }
    if strips(from) || strips(to) {
        for name in INTERNAL {
            draft.remove_named(name);
        }
        if !(emergency && to.is_some_and(|t| t.realm == Realm::Core)) {
            draft.remove_named(ACCESS);
        }
    }
    if strips(to) {
        drop_privacy_id(draft);
    }
    let transparent = to.is_some_and(|t| t.topology == Topology::Transparent);
    if transparent && matches!(method, Method::Invite | Method::Update) && !supports(draft, "replaces") {
        draft.push(HeaderId::Supported, "replaces");
    }
}

/// RFC 3323 §5: whoever gave a kind of privacy takes it out of what is asked for, lest it is given again; `critical` asks for nothing alone.
fn drop_privacy_id(draft: &mut Draft) {
    let is_id = |v: &&str| v.eq_ignore_ascii_case("id");
    let values: Vec<String> = draft.headers().filter(|f| f.id == HeaderId::Privacy).map(|f| f.value.to_owned()).collect();
    let all = || values.iter().flat_map(|v| v.split(';')).map(str::trim).filter(|v| !v.is_empty());
    if !all().any(|v| is_id(&v)) {
        return;
    }
    let rest: Vec<&str> = all().filter(|v| !is_id(v)).collect();
    draft.remove(HeaderId::Privacy);
    if rest.iter().any(|v| !v.eq_ignore_ascii_case("critical")) {
        draft.push(HeaderId::Privacy, rest.join(";"));
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

    fn trunk(identity: IdentityPolicy, topology: Topology) -> Trunk {
        Trunk { identity, topology, ..Trunk::new("t", Realm::Core) }
    }

    fn shaped(from: &Trunk, to: &Trunk, fields: &[(&str, &str)]) -> Vec<String> {
        let mut draft = Draft::request(&Method::Invite, "sip:x");
        for (name, value) in fields {
            draft.push_named(name, *value);
        }
        apply_profile(Some(from), Some(to), &Method::Invite, false, &mut draft);
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
            let left = shaped(from, to, fields).iter().filter(|f| !f.starts_with("Privacy")).count();
            let expected = if kept { ASSERTED.len() + 1 } else { 1 };
            assert_eq!(left, expected, "{from:?} {to:?} {fields:?}");
        }
    }

    #[test]
    fn what_is_of_one_network_alone_leaves_and_enters_no_other() {
        let (trust, strip) = (trunk(IdentityPolicy::Trust, Topology::Hide), trunk(IdentityPolicy::Strip, Topology::Hide));
        let outside = Trunk { realm: Realm::External, ..strip.clone() };
        let fields: Vec<(&str, &str)> =
            INTERNAL.iter().map(|name| (*name, "x")).chain([(ACCESS, "x"), ("Privacy", "none")]).collect();
        for (from, to, emergency, left) in [
            (&trust, &trust, false, fields.len()),
            (&trust, &trust, true, fields.len()),
            (&strip, &trust, false, 1),
            (&trust, &strip, false, 1),
            // Where dispatchers are, and nowhere else.
            (&outside, &trust, true, 2),
            (&trust, &strip, true, 2),
            (&trust, &outside, true, 1),
        ] {
            let mut draft = Draft::request(&Method::Invite, "sip:x");
            for (name, value) in &fields {
                draft.push_named(name, *value);
            }
            apply_profile(Some(from), Some(to), &Method::Invite, emergency, &mut draft);
            assert_eq!(draft.headers().count(), left, "{from:?} {to:?} {emergency}");
            assert_eq!(draft.first_named(ACCESS).is_some(), left > 1);
        }
    }

    #[test]
    fn privacy_that_was_given_is_asked_for_no_more() {
        let (trust, strip) = (trunk(IdentityPolicy::Trust, Topology::Hide), trunk(IdentityPolicy::Strip, Topology::Hide));
        for (to, value, left) in [
            (&trust, "id", Some("Privacy: id")),
            (&strip, "id", None),
            (&strip, "ID ; critical", None),
            (&strip, "header; id;critical", Some("Privacy: header;critical")),
            (&strip, "user;critical", Some("Privacy: user;critical")),
            (&strip, "none", Some("Privacy: none")),
        ] {
            let got = shaped(&trust, to, &[("Privacy", value)]);
            assert_eq!(got, left.into_iter().collect::<Vec<_>>(), "{value}");
            // A caller that is not trusted may still want it of those who are.
            assert_eq!(shaped(&strip, &trust, &[("Privacy", "id")]), ["Privacy: id"]);
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
        apply_profile(None, Some(&open), &Method::Bye, false, &mut bye);
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
