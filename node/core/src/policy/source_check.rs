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

/// What the source of a request says of who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStanding {
    /// The far end, as far as a source can tell.
    Known,
    /// Anybody: the trunk's `sources` are everybody's. The far end may have moved there.
    Doubtful,
    /// Somebody else.
    Foreign,
}

/// Whether a request from `source` may act on a leg of `trunk` whose far end was last seen at `seen`, and has `named` addresses of
/// its own for requests to it: behind a proxy that leaves the path, requests come from there (RFC 3261 §16.6 step 4).
///
/// A trunk that is no longer configured, or has no sources, gives nothing to judge by: then the tags have to do.
pub fn standing(trunk: Option<&Trunk>, seen: IpAddr, named: &[IpAddr], source: IpAddr) -> SourceStanding {
    let Some(trunk) = trunk else { return SourceStanding::Known };
    if seen.to_canonical() == source.to_canonical() {
        return SourceStanding::Known;
    }
    match trunk.source_check {
        SourceCheck::Off => SourceStanding::Known,
        SourceCheck::Strict => SourceStanding::Foreign,
        SourceCheck::Trunk => {
            let by_name = named.iter().any(|ip| ip.to_canonical() == source.to_canonical());
            let of_trunk = |anybody| trunk.sources.iter().any(|p| p.is_anybody() == anybody && p.contains(source));
            if by_name || trunk.sources.is_empty() || of_trunk(false) {
                SourceStanding::Known
            } else if of_trunk(true) {
                SourceStanding::Doubtful
            } else {
                SourceStanding::Foreign
            }
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
            let named = ["198.18.40.1".parse().unwrap()];
            let ask = |t: &Trunk| standing(Some(t), seen.parse().unwrap(), &named, source.parse().unwrap());
            let of = |known| if known { SourceStanding::Known } else { SourceStanding::Foreign };
            assert_eq!(ask(&trunk(check, vec![prefix])), of(listed), "{check:?} {source}");
            assert_eq!(ask(&trunk(check, vec![])), of(unlisted), "{check:?} {source}, no sources");
            // Everybody's network says nothing.
            let anybody = Prefix { addr: "198.0.0.0".parse().unwrap(), len: 7 };
            let doubtful = if check == SourceCheck::Trunk && !listed { SourceStanding::Doubtful } else { of(listed) };
            assert_eq!(ask(&trunk(check, vec![anybody, prefix])), doubtful, "{check:?} {source}, everybody");
        }
        let gone = standing(None, seen.parse().unwrap(), &[], far.parse().unwrap());
        assert_eq!(gone, SourceStanding::Known, "the trunk is gone from the configuration");
    }
}
