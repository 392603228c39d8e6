//! `[[acl]]`: which sources may speak to the cluster.

use sbc_core::io::Realm;
use sbc_core::policy::{AclAction, AclRule};

use super::cluster::prefix;
use super::reader::{Reader, Section};

/// Each rule has a counter of its own, and is looked at for each packet.
pub(super) const ACL_CAP: usize = 200;

/// One rule of the list.
pub(super) fn acl_rule(reader: &Reader<'_>, section: &Section<'_>) -> Option<AclRule> {
    let prefix = section.required("prefix").and_then(|p| prefix(reader, &p));
    let realm = section.word("realm", &[("external", Realm::External), ("core", Realm::Core)]);
    let words = [("allow", AclAction::Allow), ("deny", AclAction::Deny), ("reject", AclAction::Reject)];
    let action = section.word("action", &words);
    if !section.has("action") {
        section.missing("action");
    }
    Some(AclRule { prefix: prefix?, realm, action: action? })
}

#[cfg(test)]
mod tests {
    use super::super::parse_cluster;
    use super::*;
    use sbc_core::policy::{Prefix, SourceCheck};

    #[test]
    fn rules_are_read_in_order_and_faults_shown() {
        let good = "[[acl]]\nprefix = \"198.18.10.7\"\naction = \"allow\"\n\
                    [[acl]]\nprefix = \"198.18.10.0/24\"\nrealm = \"external\"\naction = \"deny\"\n\
                    [[trunks]]\nname = \"a\"\nrealm = \"core\"\nsource_check = \"strict\"\n\
                    [[trunks]]\nname = \"b\"\nrealm = \"core\"\n";
        let config = parse_cluster(good, 1).unwrap();
        let at = |text: &str, len| Prefix { addr: text.parse().unwrap(), len };
        let wanted = [
            AclRule { prefix: at("198.18.10.7", 32), realm: None, action: AclAction::Allow },
            AclRule { prefix: at("198.18.10.0", 24), realm: Some(Realm::External), action: AclAction::Deny },
        ];
        assert_eq!(config.acl, wanted);
        assert_eq!(config.trunks.iter().map(|t| t.source_check).collect::<Vec<_>>(), [SourceCheck::Strict, SourceCheck::Trunk]);

        let bad = good.replace("\"deny\"", "\"drop\"").replace("198.18.10.7", "198.18.10.7/33").replace("strict", "strickt");
        let paths: Vec<String> = parse_cluster(&bad, 1).unwrap_err().0.into_iter().map(|f| f.path).collect();
        assert_eq!(paths, ["acl[0].prefix", "acl[1].action", "trunks[0].source_check"]);
        let bare = parse_cluster("[[acl]]\n", 1).unwrap_err().0;
        assert_eq!(bare.len(), 2, "prefix and action: {bare:?}");
        let many = "[[acl]]\nprefix = \"198.18.0.1\"\naction = \"deny\"\n".repeat(ACL_CAP + 1);
        assert_eq!(parse_cluster(&many, 1).unwrap_err().0.len(), 1);
    }
}
