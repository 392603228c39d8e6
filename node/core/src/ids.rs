//! Identifiers, each its own type.

use std::fmt;

/// A node of the cluster, 1..=65535. Assigned once; a node with a wiped disk joins under a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The number of one start of a node; each start has a higher one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u32);

/// How often a call has changed owners; the first owner's epoch is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

impl Epoch {
    /// Of the node that began the call.
    pub const FIRST: Epoch = Epoch(1);
}

/// A call, unique in the cluster for ever: who created it, in which start, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallUid {
    /// The node that created the call (not necessarily its present owner).
    pub node: NodeId,
    /// The creating node's incarnation.
    pub incarnation: Incarnation,
    /// 40-bit serial within the incarnation.
    pub serial: u64,
}

impl CallUid {
    /// 11 bytes: node, incarnation, serial, big-endian. The key in replicated records.
    pub fn to_bytes(self) -> [u8; 11] {
        let mut b = [0; 11];
        b[..2].copy_from_slice(&self.node.0.to_be_bytes());
        b[2..6].copy_from_slice(&self.incarnation.0.to_be_bytes());
        b[6..].copy_from_slice(&self.serial.to_be_bytes()[3..]);
        b
    }

    /// The inverse of [`CallUid::to_bytes`]; `None` for any other length.
    pub fn from_bytes(b: &[u8]) -> Option<CallUid> {
        let b: &[u8; 11] = b.try_into().ok()?;
        let mut serial = [0; 8];
        serial[3..].copy_from_slice(&b[6..]);
        Some(CallUid {
            node: NodeId(u16::from_be_bytes([b[0], b[1]])),
            incarnation: Incarnation(u32::from_be_bytes([b[2], b[3], b[4], b[5]])),
            serial: u64::from_be_bytes(serial),
        })
    }
}

impl fmt::Display for CallUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}-{:x}", self.node, self.incarnation.0, self.serial)
    }
}

impl std::str::FromStr for CallUid {
    type Err = ();
    fn from_str(s: &str) -> Result<CallUid, ()> {
        let mut parts = s.split('-');
        let (Some(n), Some(i), Some(x), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else { return Err(()) };
        let serial = u64::from_str_radix(x, 16).map_err(|_| ())?;
        if serial >= 1 << 40 {
            return Err(());
        }
        Ok(CallUid {
            node: NodeId(n.parse().map_err(|_| ())?),
            incarnation: Incarnation(u32::from_str_radix(i, 16).map_err(|_| ())?),
            serial,
        })
    }
}

/// A call, subscription or message by its place in this node's tables: given once in a start of the node. Of a call that this node began it is
/// the serial of its [`CallUid`]; one that it took over from another node has a place here like any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalId(pub u64);

/// What tells a retransmission of an initial INVITE from a merged request (RFC 3261 §8.2.2.2): keyed hash of the claim key with the top Via's
/// sent-by and branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketKey(pub [u8; 16]);

/// A TCP or TLS connection of one node. Never reused within an incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u64);

/// One send that the core wants to hear about if it fails; 0 means it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendId(pub u64);

/// One DNS question of the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResolveId(pub u64);

/// One media session: the streams of one call on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MediaId(pub u64);

/// One proposal to the replicated log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProposalId(pub u64);

/// A request of the control plane that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_uid_round_trips() {
        let uid = CallUid { node: NodeId(3), incarnation: Incarnation(77), serial: 0xab_cdef_0123 };
        assert_eq!(CallUid::from_bytes(&uid.to_bytes()), Some(uid));
        assert_eq!(uid.to_string().parse(), Ok(uid));
        assert_eq!("1-2".parse::<CallUid>(), Err(()));
        assert_eq!("1-2-fffffffffff".parse::<CallUid>(), Err(()));
    }
}
