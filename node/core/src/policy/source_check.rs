//! Who may send a request within a call (AC-52): tags and tokens can be overheard, a source address behind a trunk less so.

use std::net::IpAddr;

use super::Trunk;

/// How strictly the source of an in-dialog request is compared with its leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceCheck {
    /// The address where the far end was last seen, one that it named itself, or any of the trunk's `sources`: a far end that moves may.
    #[default]
    Trunk,
    /// Only the address where the far end was last seen.
    Strict,
    /// Any.
    Off,
}

/// True when a request from `source` may act on a leg of `trunk` whose far end was last seen at `seen`, and has `named` addresses of
/// its own for requests to it: behind a proxy that leaves the path, requests come from there (RFC 3261 §16.6 step 4).
///
/// A trunk that is no longer configured, or has no sources, gives nothing to judge by: then the tags have to do.
pub fn may_act(trunk: Option<&Trunk>, seen: IpAddr, named: &[IpAddr], source: IpAddr) -> bool {
    let Some(trunk) = trunk else { return true };
    if seen.to_canonical() == source.to_canonical() {
        return true;
    }
    match trunk.source_check {
        SourceCheck::Off => true,
        SourceCheck::Strict => false,
        SourceCheck::Trunk => {
            let by_name = named.iter().any(|ip| ip.to_canonical() == source.to_canonical());
            by_name || trunk.sources.is_empty() || trunk.sources.iter().any(|p| p.contains(source))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Realm;
    use crate::policy::Prefix;

    #[test]
    fn every_check_and_source() {
        let prefix = Prefix { addr: "198.18.20.0".parse().unwrap(), len: 24 };
        let trunk = |source_check, sources| Trunk { source_check, sources, ..Trunk::new("t", Realm::Core) };
        let (seen, near, far) = ("198.18.20.1", "198.18.20.2", "198.18.30.1");
        for (check, source, listed, unlisted) in [
            (SourceCheck::Trunk, seen, true, true),
            (SourceCheck::Trunk, near, true, true),
            (SourceCheck::Trunk, far, false, true),
            (SourceCheck::Trunk, "198.18.40.1", true, true),
            (SourceCheck::Strict, "198.18.40.1", false, false),
            (SourceCheck::Strict, seen, true, true),
            (SourceCheck::Strict, "::ffff:198.18.20.1", true, true),
            (SourceCheck::Strict, near, false, false),
            (SourceCheck::Strict, far, false, false),
            (SourceCheck::Off, far, true, true),
        ] {
            let ask =
                |t: &Trunk| may_act(Some(t), seen.parse().unwrap(), &["198.18.40.1".parse().unwrap()], source.parse().unwrap());
            assert_eq!(ask(&trunk(check, vec![prefix])), listed, "{check:?} {source}");
            assert_eq!(ask(&trunk(check, vec![])), unlisted, "{check:?} {source}, no sources");
        }
        assert!(may_act(None, seen.parse().unwrap(), &[], far.parse().unwrap()), "the trunk is gone from the configuration");
    }
}
