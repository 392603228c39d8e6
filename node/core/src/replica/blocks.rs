//! Blocked sources, in the log.

use std::collections::BTreeMap;

use crate::store_pb::Block;

/// Blocks at once. An attacker with more addresses is no matter of addresses.
pub const BLOCK_CAP: usize = 10_000;
/// Longest texts: a prefix with an IPv6 address, and what people say about it.
const PREFIX_MAX: usize = 64;
const WORDS_MAX: usize = 256;

/// By prefix, as text.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockLog {
    blocks: BTreeMap<String, Block>,
}

impl BlockLog {
    /// From a snapshot; `None` when a prefix stands twice.
    pub(super) fn restored(blocks: Vec<Block>) -> Option<BlockLog> {
        let count = blocks.len();
        let blocks: BTreeMap<_, _> = blocks.into_iter().map(|b| (b.prefix.clone(), b)).collect();
        (blocks.len() == count).then_some(BlockLog { blocks })
    }

    /// False: it is not taken, for there are too many or one of its texts is too long.
    pub(super) fn block(&mut self, block: &Block, at_ms: u64) -> bool {
        let full = self.blocks.len() >= BLOCK_CAP && !self.blocks.contains_key(&block.prefix);
        let long = block.prefix.len() > PREFIX_MAX || block.reason.len() > WORDS_MAX || block.author.len() > WORDS_MAX;
        if full || long || block.prefix.is_empty() {
            return false;
        }
        self.blocks.insert(block.prefix.clone(), Block { since_unix_ms: at_ms, ..block.clone() });
        true
    }

    /// False: there is no such block.
    pub(super) fn unblock(&mut self, prefix: &str) -> bool {
        self.blocks.remove(prefix).is_some()
    }

    /// Drops what is over. True when something was.
    pub(super) fn expire(&mut self, clock_ms: u64) -> bool {
        let before = self.blocks.len();
        self.blocks.retain(|_, b| b.until_unix_ms == 0 || b.until_unix_ms > clock_ms);
        self.blocks.len() != before
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Block> {
        self.blocks.values()
    }
}
