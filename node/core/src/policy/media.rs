//! What is done with the media of a trunk's far ends.

use super::Trunk;
use crate::io::Realm;

/// Media settings of a trunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaPolicy {
    /// Whether packets go where a far end is heard from (RFC 7362 §4) instead of where its description says (RFC 3264 §5.1); `None`:
    /// as its side needs it.
    pub latching: Option<bool>,
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
    fn the_side_decides_where_the_trunk_does_not() {
        for (realm, by_side) in [(Realm::External, true), (Realm::Core, false)] {
            assert_eq!(latches(None, realm), by_side);
            for (latching, expected) in [(None, by_side), (Some(true), true), (Some(false), false)] {
                let trunk = Trunk { media: MediaPolicy { latching }, ..Trunk::new("t", realm) };
                assert_eq!(latches(Some(&trunk), realm), expected, "{realm:?} {latching:?}");
            }
        }
    }
}
