//! Blocked sources: by an operator, or because a scanner spoke from there. They stand in the log, so that each node knows them.

use std::net::IpAddr;

use super::source::is_of_a_peer;
use crate::call::Context;
use crate::ids::LocalId;
use crate::io::{Counter, Path, Realm};
use crate::policy::{Blocked, Blocks, Prefix, Rates};
use crate::sbc::memory::Recent;
use crate::store_pb::{Block, command::Kind};
use crate::time::Instant;

/// Blocks that a node asks for: sources can be forged, and what they write into the log is to stay little.
const BANS_PER_SECOND: u32 = 5;

/// What is blocked, and what this node has asked to be.
#[derive(Debug, Default)]
pub(in crate::sbc) struct Bans {
    blocks: Blocks,
    /// Sources for whose block this node has asked lately.
    asked: Recent<IpAddr>,
    rate: Rates<()>,
}

impl Bans {
    /// The log has other blocks than before.
    pub(in crate::sbc) fn read(&mut self, cx: &Context) {
        let replica = cx.replica();
        self.blocks = Blocks::new(replica.blocks().filter_map(|b| {
            let what = if b.everything { Blocked::Everything } else { Blocked::Ordinary };
            Some((b.prefix.parse().ok()?, what, b.until_unix_ms))
        }));
    }

    /// What is dropped of a source.
    pub(super) fn of(&self, cx: &Context, source: IpAddr) -> Option<Blocked> {
        self.blocks.of(source, cx.now.unix.0)
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.asked.sweep(now);
    }

    /// A scanner spoke from there: asks the log to block the source, where the configuration wants that. Never one of our peers:
    /// over UDP anybody can write its address on his packets.
    pub(in crate::sbc) fn ban_scanner(&mut self, cx: &mut Context, path: &Path) {
        let (ban, source) = (cx.config.settings.scanner_ban, path.remote.ip().to_canonical());
        let core = path.role.realm() == Realm::Core;
        if ban.is_zero() || core || is_of_a_peer(&cx.config, source) || self.of(cx, path.remote.ip()).is_some() {
            return;
        }
        // A source that is over the rate is not noted: its next request may ask.
        let network = Prefix::of_source(source);
        if self.asked.contains(cx.now.mono, &network.addr) || !self.rate.admit(cx.now.mono, (), BANS_PER_SECOND) {
            return;
        }
        if !self.asked.note(cx.now.mono, network.addr) {
            return;
        }
        let block = Block {
            prefix: network.to_string(),
            until_unix_ms: cx.now.unix.0.saturating_add(u64::try_from(ban.as_millis()).unwrap_or(u64::MAX)),
            everything: false,
            reason: "scanner".to_owned(),
            author: cx.local.name.to_string(),
            since_unix_ms: 0,
        };
        cx.count(Counter::Banned);
        // Of no call; where it does not commit, the next request of the source asks again.
        cx.propose(LocalId(0), cx.now.unix, Kind::Block(block));
    }
}
