//! Blocked sources: written to the log by any node, read from its own state.

use std::time::{SystemTime, UNIX_EPOCH};

use sbc_core::policy::Prefix;
use sbc_core::store_pb;
use sbc_core::store_pb::command::Kind;
use sbc_proto::v1 as pb;
use tonic::{Code, Status};

use super::auth::Caller;
use super::error::{fault, invalid};
use super::map;
use super::routing::current;
use super::shared::{Shared, bad_page_token, page_size};

/// What is meant to stay longer belongs into the access list.
const LONGEST_S: u32 = 366 * 86_400;
const REASON_MAX: usize = 200;

fn shown(block: &store_pb::Block) -> pb::Block {
    pb::Block {
        prefix: block.prefix.clone(),
        everything: block.everything,
        reason: block.reason.clone(),
        author: block.author.clone(),
        since: map::time(block.since_unix_ms),
        until: map::time(block.until_unix_ms).filter(|_| block.until_unix_ms > 0),
    }
}

fn prefix(text: &str) -> Result<Prefix, Status> {
    let parsed = text.parse::<Prefix>();
    parsed.map(Prefix::canonical).map_err(|()| invalid("prefix", format!("\"{text}\" is no address and no prefix")))
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0))
}

impl Shared {
    fn block_of(&self, prefix: &str) -> Option<store_pb::Block> {
        self.read(|r| r.blocks().find(|b| b.prefix == prefix).cloned())
    }

    pub(super) async fn block(
        &self,
        caller: &Caller,
        asked: pb::PolicyServiceBlockSourceRequest,
    ) -> Result<pb::PolicyServiceBlockSourceResponse, Status> {
        let prefix = prefix(&asked.prefix)?;
        if prefix.len == 0 {
            return Err(invalid("prefix", "this is everybody; to take no calls, withdraw the node".to_owned()));
        }
        if asked.duration_s > LONGEST_S {
            return Err(invalid("duration_s", format!("longer than {LONGEST_S} s")));
        }
        if asked.reason.len() > REASON_MAX {
            return Err(invalid("reason", format!("longer than {REASON_MAX} octets")));
        }
        let config = current(self)?;
        let hit = config.trunks.iter().filter(|t| t.sources.iter().any(|s| s.overlaps(&prefix)));
        let trunks = hit.map(|t| t.name.to_string()).collect();
        let unix_ms = now_ms();
        let block = store_pb::Block {
            prefix: prefix.to_string(),
            until_unix_ms: if asked.duration_s == 0 { 0 } else { unix_ms + u64::from(asked.duration_s) * 1000 },
            everything: asked.everything,
            reason: asked.reason,
            author: caller.display(),
            since_unix_ms: unix_ms,
        };
        if asked.validate_only {
            return Ok(pb::PolicyServiceBlockSourceResponse { block: Some(shown(&block)), trunks });
        }
        self.commit(unix_ms, Kind::Block(block.clone()), &asked.request_id).await?;
        let stands = self.block_of(&block.prefix).filter(|b| b.until_unix_ms == block.until_unix_ms);
        let Some(stands) = stands else {
            let message = format!("{} was not blocked: there are too many blocks, or it was taken back meanwhile", block.prefix);
            return Err(fault(Code::ResourceExhausted, pb::ErrorReason::Overloaded, message, &[("prefix", &block.prefix)]));
        };
        tracing::info!(prefix = %stands.prefix, everything = stands.everything, by = %stands.author, request_id = %asked.request_id, "source blocked");
        Ok(pb::PolicyServiceBlockSourceResponse { block: Some(shown(&stands)), trunks })
    }

    pub(super) async fn unblock(
        &self,
        caller: &Caller,
        asked: pb::PolicyServiceUnblockRequest,
    ) -> Result<pb::PolicyServiceUnblockResponse, Status> {
        let prefix = prefix(&asked.prefix)?.to_string();
        let Some(block) = self.block_of(&prefix) else {
            let message = format!("{prefix} is not blocked");
            return Err(fault(Code::NotFound, pb::ErrorReason::BlockNotFound, message, &[("prefix", &prefix)]));
        };
        self.commit(now_ms(), Kind::Unblock(store_pb::Unblock { prefix: prefix.clone() }), &asked.request_id).await?;
        tracing::info!(%prefix, by = %caller.display(), request_id = %asked.request_id, "block taken back");
        Ok(pb::PolicyServiceUnblockResponse { block: Some(shown(&block)) })
    }

    pub(super) fn list_blocks(
        &self,
        asked: &pb::PolicyServiceListBlocksRequest,
    ) -> Result<pb::PolicyServiceListBlocksResponse, Status> {
        let size = page_size(asked.page_size);
        let after = asked.page_token.as_str();
        if !after.is_empty() && after.parse::<Prefix>().is_err() {
            return Err(bad_page_token());
        }
        let mut blocks: Vec<pb::Block> =
            self.read(|r| r.blocks().filter(|b| b.prefix.as_str() > after).take(size + 1).map(shown).collect());
        let more = blocks.len() > size;
        blocks.truncate(size);
        let next_page_token = blocks.last().filter(|_| more).map(|b| b.prefix.clone()).unwrap_or_default();
        Ok(pb::PolicyServiceListBlocksResponse { blocks, next_page_token })
    }
}
