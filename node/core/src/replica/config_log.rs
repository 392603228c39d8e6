//! The cluster's configuration and its history, in the log.
//!
//! What is kept true: a revision that was to be confirmed and is not does not stay in force, whoever has died meanwhile: the log
//! itself takes it back, by its own clock, on every node at the same entry.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store_pb::{ConfigHistory, ConfigPending, ConfigRevision, ConfirmConfig};

/// Revisions kept for rollback and for recognising a repeated Apply: a request id is known for as long, 15 minutes even where somebody changes
/// the configuration each 15 s, and mostly for weeks. Longer than that, by time, would mean texts without a bound.
pub const CONFIG_HISTORY_CAP: usize = 64;
/// Octets of one configuration text: far over what people write, and small enough to stand in one log entry.
pub const CONFIG_TEXT_CAP: usize = 1 << 20;
/// Who takes back what nobody has confirmed.
const AUTHOR: &str = "not confirmed in time";

/// Revisions, the newest last. Revision 0 is the built-in configuration and stands nowhere.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigLog {
    history: VecDeque<Arc<ConfigHistory>>,
    /// Of the newest revision.
    pending: Option<ConfigPending>,
}

/// What became of an Apply.
pub(super) enum Applied {
    New,
    Repeated(u64),
    Refused,
}

impl ConfigLog {
    /// From a snapshot; `None` when its revisions do not rise, or another than the newest waits for its confirmation.
    pub(super) fn restored(history: Vec<ConfigHistory>, pending: Option<ConfigPending>) -> Option<ConfigLog> {
        let rising = history.windows(2).all(|w| w[0].revision < w[1].revision);
        let log = ConfigLog { history: history.into_iter().map(Arc::new).collect(), pending };
        let sound = |p: &ConfigPending| p.revision == log.revision() && log.at(p.back_to).is_some();
        (rising && pending.as_ref().is_none_or(sound)).then_some(log)
    }

    /// `confirmable`: the cluster knows of confirmations.
    pub(super) fn apply(&mut self, command: &ConfigRevision, at_ms: u64, clock_ms: u64, confirmable: bool) -> Applied {
        if let Some(done) = self.repeated(&command.request_id) {
            return Applied::Repeated(done);
        }
        if command.base != self.revision() || command.text.len() > CONFIG_TEXT_CAP {
            return Applied::Refused;
        }
        let (confirm_within_ms, restores) = if confirmable { (command.confirm_within_ms, command.restores) } else { (0, 0) };
        // Over one that nobody has confirmed, the one that stood comes back. Before the first there is nothing to come back.
        let back_to = self.pending.map_or(command.base, |p| p.back_to);
        let revision = command.base + 1;
        self.pending = (confirm_within_ms > 0 && self.at(back_to).is_some()).then(|| ConfigPending {
            revision,
            until_ms: clock_ms.saturating_add(confirm_within_ms.into()),
            back_to,
        });
        self.push(ConfigHistory {
            revision,
            unix_ms: at_ms,
            author: command.author.clone(),
            text: command.text.clone(),
            request_id: command.request_id.clone(),
            confirm_within_ms: self.pending.map_or(0, |_| confirm_within_ms),
            restores,
            ..ConfigHistory::default()
        });
        Applied::New
    }

    /// False: that revision does not wait for a confirmation (any more).
    pub(super) fn confirm(&mut self, command: &ConfirmConfig, at_ms: u64) -> bool {
        if self.pending.is_none_or(|p| p.revision != command.revision) {
            return false;
        }
        self.pending = None;
        if let Some(newest) = self.history.back_mut().map(Arc::make_mut) {
            newest.confirmed_by.clone_from(&command.author);
            newest.confirmed_unix_ms = at_ms;
        }
        true
    }

    /// Takes back what should have been confirmed by now. True: there is a new revision, with the text from before.
    pub(super) fn expire(&mut self, clock_ms: u64) -> bool {
        let Some(pending) = self.pending.filter(|p| p.until_ms <= clock_ms) else { return false };
        self.pending = None;
        let Some(text) = self.at(pending.back_to).map(|h| h.text.clone()) else { return false };
        self.push(ConfigHistory {
            revision: pending.revision + 1,
            unix_ms: clock_ms,
            author: AUTHOR.to_owned(),
            text,
            restores: pending.back_to,
            ..ConfigHistory::default()
        });
        true
    }

    fn push(&mut self, revision: ConfigHistory) {
        self.history.push_back(Arc::new(revision));
        while self.history.len() > CONFIG_HISTORY_CAP {
            // The one that may have to come back stays, however many were tried over it.
            let kept = self.pending.map(|p| p.back_to);
            let Some(oldest) = self.history.iter().position(|h| Some(h.revision) != kept) else { return };
            self.history.remove(oldest);
        }
    }

    fn at(&self, revision: u64) -> Option<&Arc<ConfigHistory>> {
        self.history.iter().find(|h| h.revision == revision)
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

    pub(super) fn pending(&self) -> Option<ConfigPending> {
        self.pending
    }
}
