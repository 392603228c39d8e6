//! What is done with the media of a trunk's far ends.

use super::{MethodPolicy, Topology, Trunk};
use crate::io::Realm;

/// Media settings of a trunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaPolicy {
    /// Whether packets go where a far end is heard from (RFC 7362 §4) instead of where its description says (RFC 3264 §5.1); `None`:
    /// as its side needs it.
    pub latching: Option<bool>,
    /// What becomes of media that are no datagrams, and cannot be relayed; `None`: they pass where `topology` is transparent.
    pub tcp_media: Option<MethodPolicy>,
}

/// What becomes of the media of a call that are no datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastUs {
    /// They are refused.
    Refused,
    /// They go from one far end to the other, but for those that are named by their addresses (`a=path`).
    Unnamed,
    /// They go from one far end to the other.
    All,
}

/// By the trunks of both legs. A trunk that is not there hides its topology, as is the default.
pub fn past_us(one: Option<&Trunk>, other: Option<&Trunk>) -> PastUs {
    let hides = |trunk: Option<&Trunk>| trunk.is_none_or(|t| t.topology == Topology::Hide);
    let passes = |trunk: Option<&Trunk>| match trunk.and_then(|t| t.media.tcp_media) {
        Some(policy) => policy == MethodPolicy::Pass,
        None => !hides(trunk),
    };
    match (passes(one) && passes(other), hides(one) || hides(other)) {
        (false, _) => PastUs::Refused,
        (true, true) => PastUs::Unnamed,
        (true, false) => PastUs::All,
    }
}

/// Whether the media of a far end of `trunk` in `realm` are latched. Callers are behind NATs that their descriptions know nothing of; the
/// core side is where it says, and may send from another port than it listens on.
pub fn latches(trunk: Option<&Trunk>, realm: Realm) -> bool {
    trunk.and_then(|t| t.media.latching).unwrap_or(realm == Realm::External)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_past_us_by_topology_and_setting() {
        use MethodPolicy::{Pass, Refuse};
        let trunk = |topology, tcp_media| Trunk {
            topology,
            media: MediaPolicy { tcp_media, ..MediaPolicy::default() },
            ..Trunk::new("t", Realm::Core)
        };
        let open = trunk(Topology::Transparent, None);
        for (topology, setting, expected) in [
            (Topology::Transparent, None, PastUs::All),
            (Topology::Transparent, Some(Pass), PastUs::All),
            (Topology::Transparent, Some(Refuse), PastUs::Refused),
            (Topology::Hide, None, PastUs::Refused),
            (Topology::Hide, Some(Pass), PastUs::Unnamed),
            (Topology::Hide, Some(Refuse), PastUs::Refused),
        ] {
            let one = trunk(topology, setting);
            for (a, b) in [(&one, &open), (&open, &one)] {
                assert_eq!(past_us(Some(a), Some(b)), expected, "{topology:?} {setting:?}");
            }
            assert_eq!(past_us(Some(&one), None), PastUs::Refused);
        }
    }

    #[test]
    fn the_side_decides_where_the_trunk_does_not() {
        for (realm, by_side) in [(Realm::External, true), (Realm::Core, false)] {
            assert_eq!(latches(None, realm), by_side);
            for (latching, expected) in [(None, by_side), (Some(true), true), (Some(false), false)] {
                let trunk = Trunk { media: MediaPolicy { latching, tcp_media: None }, ..Trunk::new("t", realm) };
                assert_eq!(latches(Some(&trunk), realm), expected, "{realm:?} {latching:?}");
            }
        }
    }
}
