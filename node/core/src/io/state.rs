//! What a node says of itself to its peers: over the links, and sealed in its answer to their OPTIONS.

/// As the node that says it sees itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeState {
    /// It can serve calls: SIP loop, media engine and core side work.
    pub healthy: bool,
    /// A quorum has confirmed it within the lease.
    pub quorum: bool,
    /// It is to announce the anycast address: by configuration or order, and it does not drain.
    pub wants: bool,
    /// It announces the address.
    pub announces: bool,
    /// It takes the address as soon as whoever holds it lets go (an address that one node holds at a time).
    pub stands_by: bool,
    /// It drains.
    pub draining: bool,
    /// Its disk does not take the log any more.
    pub disk_failed: bool,
}

impl NodeState {
    /// Nothing is wrong with it. Who is not well may leave the address to who is, and to nobody else: so no two nodes ever leave it to each
    /// other.
    pub fn is_well(self) -> bool {
        self.healthy && self.quorum && !self.disk_failed && !self.draining
    }

    /// Whoever is not well may leave the address to it: it is well, and announces, or will.
    pub fn serves_instead(self) -> bool {
        self.is_well() && (self.announces || self.stands_by)
    }

    /// One bit a field.
    pub fn to_bits(self) -> u8 {
        let NodeState { healthy, quorum, wants, announces, stands_by, draining, disk_failed } = self;
        let fields = [healthy, quorum, wants, announces, stands_by, draining, disk_failed];
        fields.iter().rev().fold(0, |bits, field| bits << 1 | u8::from(*field))
    }

    /// The inverse of [`NodeState::to_bits`].
    pub fn from_bits(bits: u8) -> NodeState {
        let is = |n: u8| bits >> n & 1 == 1;
        NodeState {
            healthy: is(0),
            quorum: is(1),
            wants: is(2),
            announces: is(3),
            stands_by: is(4),
            draining: is(5),
            disk_failed: is(6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_the_fields() {
        for bits in 0..128 {
            assert_eq!(NodeState::from_bits(bits).to_bits(), bits);
        }
        assert_eq!(NodeState { healthy: true, ..NodeState::default() }.to_bits(), 1);
        assert_eq!(NodeState { disk_failed: true, ..NodeState::default() }.to_bits(), 64);
    }

    #[test]
    fn who_serves_instead_is_well() {
        for bits in 0..128 {
            let state = NodeState::from_bits(bits);
            assert!(!state.serves_instead() || state.is_well(), "{state:?}");
        }
        let well = NodeState { healthy: true, quorum: true, ..NodeState::default() };
        assert!(well.is_well() && !well.serves_instead());
        assert!(NodeState { announces: true, ..well }.serves_instead());
        assert!(NodeState { stands_by: true, ..well }.serves_instead());
        for ill in [
            NodeState { healthy: false, ..well },
            NodeState { quorum: false, ..well },
            NodeState { draining: true, ..well },
            NodeState { disk_failed: true, ..well },
        ] {
            assert!(!ill.is_well(), "{ill:?}");
        }
    }
}
