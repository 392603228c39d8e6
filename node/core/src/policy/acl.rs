//! Which sources may speak to the cluster at all: `[[acl]]`, ordered, the first rule that fits decides.

use std::net::IpAddr;

use super::Prefix;
use crate::io::Realm;

/// What a rule does with what comes from its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclAction {
    /// Go on; what the source may do is then decided by the trunks.
    Allow,
    /// Drop every packet before it is parsed, without an answer. This takes emergency calls too.
    Deny,
    /// 403 to a request that would begin something; what is under way goes on.
    Reject,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclRule {
    /// Sources that it is about.
    pub prefix: Prefix,
    /// The side on which they are; `None`: both.
    pub realm: Option<Realm>,
    /// What happens to them.
    pub action: AclAction,
}

/// The number of the first rule that fits, from 0, and what it says. `None`: no rule is about this source, it is let through.
pub fn acl_of(rules: &[AclRule], realm: Realm, source: IpAddr) -> Option<(usize, AclAction)> {
    let fits = |r: &AclRule| r.realm.is_none_or(|of| of == realm) && r.prefix.contains(source);
    rules.iter().position(fits).map(|at| (at, rules[at].action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rule = |net: &str, len, realm, action| AclRule { prefix: Prefix { addr: net.parse().unwrap(), len }, realm, action };
        let rules = [
            rule("198.18.10.7", 32, None, AclAction::Allow),
            rule("198.18.10.0", 24, Some(Realm::External), AclAction::Deny),
            rule("198.18.10.0", 24, None, AclAction::Reject),
            rule("2001:db8::", 32, None, AclAction::Deny),
        ];
        for (realm, source, expected) in [
            (Realm::External, "198.18.10.7", Some((0, AclAction::Allow))),
            (Realm::External, "198.18.10.8", Some((1, AclAction::Deny))),
            (Realm::External, "::ffff:198.18.10.8", Some((1, AclAction::Deny))),
            (Realm::Core, "198.18.10.8", Some((2, AclAction::Reject))),
            (Realm::Core, "2001:db8:7::1", Some((3, AclAction::Deny))),
            (Realm::External, "198.18.11.1", None),
            (Realm::External, "2001:db9::1", None),
        ] {
            assert_eq!(acl_of(&rules, realm, source.parse().unwrap()), expected, "{realm:?} {source}");
        }
        assert_eq!(acl_of(&[], Realm::External, "198.18.10.8".parse().unwrap()), None);
    }
}
