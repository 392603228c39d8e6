//! What the engine is started with.

use std::net::IpAddr;
use std::time::Duration;

use sbc_core::io::Addresses;

use super::limits::MAX_THREADS;

/// Which engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaKind {
    /// Packets pass through this process.
    #[default]
    Embedded,
    /// Signalling only: SDP passes unchanged, no order is carried out.
    None,
}

/// Settings of the engine of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaConfig {
    /// Which engine.
    pub kind: MediaKind,
    /// This node's unicast address: ports of [`Realm::External`](sbc_core::io::Realm::External). Never the anycast
    /// address (anycast.md, rule F).
    pub external: Addresses,
    /// This node's core-side address: ports of [`Realm::Core`](sbc_core::io::Realm::Core). May be the same as `external`.
    pub core: Addresses,
    /// First and last port, both included; RTP takes the even ones, RTCP the odd ones (RFC 3550 §11).
    pub port_range: (u16, u16),
    /// Sockets that it may have at the most: its share of the process's descriptors.
    pub sockets: usize,
    /// Event loops, 1..=256; one a core.
    pub threads: usize,
    /// How long after its first packet from elsewhere a stream still prefers its signalled address.
    pub guard_window: Duration,
}

impl MediaConfig {
    /// The default of `guard_window`.
    pub const GUARD_WINDOW: Duration = Duration::from_secs(2);

    /// Sockets for all ports at once.
    pub fn sockets_wanted(&self) -> usize {
        let (first, last) = self.port_range;
        // A pair is bound on each address of its realm, of the same family or not.
        2 * usize::from(even_pairs(first, last)) * (self.external.iter().count() + self.core.iter().count())
    }

    /// Whether the engine can start with it.
    ///
    /// # Errors
    /// Names the setting that the operator must change.
    pub fn validate(&self) -> Result<(), MediaConfigError> {
        let (first, last) = self.port_range;
        if even_pairs(first, last) == 0 || first < 1024 {
            return Err(MediaConfigError::PortRange { first, last });
        }
        if self.threads == 0 || self.threads > MAX_THREADS {
            return Err(MediaConfigError::Threads(self.threads));
        }
        for ip in self.external.iter().chain(self.core.iter()) {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(MediaConfigError::Address(ip));
            }
        }
        Ok(())
    }
}

/// The number of whole pairs (even port and the next) between `first` and `last`, both included.
pub(super) fn even_pairs(first: u16, last: u16) -> u16 {
    let first = u32::from(first).next_multiple_of(2);
    let end = u32::from(last) + 1;
    u16::try_from(end.saturating_sub(first) / 2).unwrap_or(0)
}

/// A setting with which the engine cannot run; the operator's to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaConfigError {
    /// No whole pair in it, or privileged ports.
    #[error("media port range {first}-{last} holds no port pair above 1023")]
    PortRange {
        /// As configured.
        first: u16,
        /// As configured.
        last: u16,
    },
    /// None, or absurdly many.
    #[error("{0} media threads, expected 1 to {max}", max = MAX_THREADS)]
    Threads(usize),
    /// Not an address that a far end can send to.
    #[error("media address {0} is not a unicast address")]
    Address(IpAddr),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_whole() {
        assert_eq!(even_pairs(10_000, 10_001), 1);
        assert_eq!(even_pairs(10_000, 10_000), 0);
        assert_eq!(even_pairs(10_001, 10_002), 0);
        assert_eq!(even_pairs(10_001, 10_003), 1);
        assert_eq!(even_pairs(1_024, 65_535), 32_256);
        assert_eq!(even_pairs(65_535, 65_535), 0);
        assert_eq!(even_pairs(20_000, 10_000), 0);
    }

    #[test]
    fn bad_settings_are_named() {
        let good = MediaConfig {
            kind: MediaKind::Embedded,
            external: IpAddr::from([127, 0, 42, 1]).into(),
            core: IpAddr::from([127, 0, 42, 2]).into(),
            port_range: (20_000, 20_100),
            sockets: 1_000,
            threads: 1,
            guard_window: MediaConfig::GUARD_WINDOW,
        };
        assert_eq!(good.validate(), Ok(()));
        let bad = MediaConfig { port_range: (20_001, 20_002), ..good };
        assert_eq!(bad.validate(), Err(MediaConfigError::PortRange { first: 20_001, last: 20_002 }));
        assert_eq!(MediaConfig { threads: 0, ..good }.validate(), Err(MediaConfigError::Threads(0)));
        let any: IpAddr = [0, 0, 0, 0].into();
        assert_eq!(MediaConfig { core: any.into(), ..good }.validate(), Err(MediaConfigError::Address(any)));
    }
}
