//! The cluster's configuration and its history, in the log.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store_pb::{ConfigHistory, ConfigRevision};

/// Revisions kept for rollback and for recognising a repeated Apply.
pub const CONFIG_HISTORY_CAP: usize = 64;
/// Octets of one configuration text: far over what people write, and small enough to stand in one log entry.
pub const CONFIG_TEXT_CAP: usize = 1 << 20;

/// Revisions, the newest last. Revision 0 is the built-in configuration and stands nowhere.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigLog {
    history: VecDeque<Arc<ConfigHistory>>,
}

/// What became of an Apply.
pub(super) enum Applied {
    New,
    Repeated(u64),
    Refused,
}

impl ConfigLog {
    /// From a snapshot; `None` when its revisions do not rise.
    pub(super) fn restored(history: Vec<ConfigHistory>) -> Option<ConfigLog> {
        let rising = history.windows(2).all(|w| w[0].revision < w[1].revision);
        rising.then(|| ConfigLog { history: history.into_iter().map(Arc::new).collect() })
    }

    pub(super) fn apply(&mut self, command: &ConfigRevision, at_ms: u64) -> Applied {
        if let Some(done) = self.repeated(&command.request_id) {
            return Applied::Repeated(done);
        }
        if command.base != self.revision() || command.text.len() > CONFIG_TEXT_CAP {
            return Applied::Refused;
        }
        self.history.push_back(Arc::new(ConfigHistory {
            revision: command.base + 1,
            unix_ms: at_ms,
            author: command.author.clone(),
            text: command.text.clone(),
            request_id: command.request_id.clone(),
        }));
        if self.history.len() > CONFIG_HISTORY_CAP {
            self.history.pop_front();
        }
        Applied::New
    }

    fn repeated(&self, request_id: &str) -> Option<u64> {
        if request_id.is_empty() {
            return None;
        }
        self.history.iter().find(|h| h.request_id == request_id).map(|h| h.revision)
    }

    pub(super) fn revision(&self) -> u64 {
        self.history.back().map_or(0, |h| h.revision)
    }

    /// Empty at revision 0.
    pub(super) fn text(&self) -> &str {
        self.history.back().map_or("", |h| &h.text)
    }

    pub(super) fn history(&self) -> &VecDeque<Arc<ConfigHistory>> {
        &self.history
    }
}
