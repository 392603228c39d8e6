//! Blocked sources: by an operator, or because a scanner spoke from there. They stand in the log, so that each node knows them.

use std::net::IpAddr;
use std::sync::PoisonError;

use super::Sbc;
use crate::ids::LocalId;
use crate::io::{Counter, Path, Realm};
use crate::policy::{Blocked, Blocks, Prefix, Trunk, TrunkTarget};
use crate::sip::Message;
use crate::store_pb::{Block, command::Kind};

/// Blocks that a node asks for: sources can be forged, and what they write into the log is to stay little.
const BANS_PER_SECOND: u32 = 5;

impl Sbc {
    /// The log has other blocks than before.
    pub(super) fn read_blocks(&mut self) {
        let replica = self.cx.replica.read().unwrap_or_else(PoisonError::into_inner);
        self.blocks = Blocks::new(replica.blocks().filter_map(|b| {
            let what = if b.everything { Blocked::Everything } else { Blocked::Ordinary };
            Some((b.prefix.parse().ok()?, what, b.until_unix_ms))
        }));
    }

    /// What is dropped of the source of this packet.
    pub(super) fn blocked(&self, path: &Path) -> Option<Blocked> {
        self.blocks.of(path.remote.ip(), self.cx.now.unix.0)
    }

    /// True when a request that begins something is of a blocked source, and counted. Emergency calls get through (AC-44).
    pub(super) fn is_blocked(&mut self, path: &Path, request: &Message) -> bool {
        let blocked = self.blocked(path).is_some() && !self.is_emergency(request);
        if blocked {
            self.cx.count(Counter::Dropped("blocked"));
        }
        blocked
    }

    /// A scanner spoke from there: asks the log to block the source, where the configuration wants that. Never one of our peers:
    /// over UDP anybody can write its address on his packets.
    pub(super) fn ban_scanner(&mut self, path: &Path) {
        let (ban, source) = (self.cx.config.settings.scanner_ban, path.remote.ip().to_canonical());
        if ban.is_zero() || path.role.realm() == Realm::Core || self.is_of_a_peer(source) || self.blocked(path).is_some() {
            return;
        }
        // A source that is over the rate is not noted: its next request may ask.
        let network = Prefix::of_source(source);
        if self.bans.contains(self.cx.now.mono, &network.addr) || !self.ban_rate.admit(self.cx.now.mono, (), BANS_PER_SECOND) {
            return;
        }
        if !self.bans.note(self.cx.now.mono, network.addr) {
            return;
        }
        let block = Block {
            prefix: network.to_string(),
            until_unix_ms: self.cx.now.unix.0.saturating_add(u64::try_from(ban.as_millis()).unwrap_or(u64::MAX)),
            everything: false,
            reason: "scanner".to_owned(),
            author: self.cx.local.name.to_string(),
            since_unix_ms: 0,
        };
        self.cx.count(Counter::Banned);
        // Of no call; where it does not commit, the next request of the source asks again.
        self.cx.propose(LocalId(0), self.cx.now.unix, Kind::Block(block));
    }

    /// A trunk that takes calls, or that is in the core, has this address: among its sources, or as a target.
    pub(super) fn is_of_a_peer(&self, source: IpAddr) -> bool {
        let peer = |t: &&Trunk| t.realm == Realm::Core || !t.targets.is_empty();
        let dialled = |t: &TrunkTarget| t.host.host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical() == source);
        let has = |t: &Trunk| t.sources.iter().any(|p| p.contains(source)) || t.targets.iter().any(dialled);
        self.cx.config.trunks.iter().filter(peer).any(has)
    }
}
