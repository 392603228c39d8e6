//! Reads the node's configuration again, on SIGHUP and by RPC: all or nothing.
//!
//! What is kept true: the file, and all files that it names, are read by the code of a start; with one fault in any of them nothing changes.
//! What a running node cannot take is named and left as it is until the next start.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::certificates::Certificates;
use super::checked::{Checked, Keys, read};
use crate::config::{changed_keys, is_live};
use crate::control::{ReloadError, Reloaded};
use crate::telemetry;

/// What the process runs with, and the way to other values.
pub(crate) struct Reload {
    path: PathBuf,
    /// The text of the start: what needs a restart differs from it.
    started: String,
    keys: Keys,
    certificates: Arc<Certificates>,
    /// The text whose live values are in use; held for one reload at a time.
    current: Mutex<String>,
}

impl Reload {
    pub(super) fn new(path: PathBuf, text: String, keys: Keys, certificates: Arc<Certificates>) -> Reload {
        Reload { path, started: text.clone(), keys, certificates, current: Mutex::new(text) }
    }

    /// Reads all of it again. Reads files: not for a thread that serves.
    pub(crate) fn run(&self) -> Result<Reloaded, ReloadError> {
        // A reload that panicked has changed nothing that this text does not say.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let done = read(&self.path).map_err(ReloadError).and_then(|fresh| self.take(&current, fresh));
        match done {
            Ok((text, reloaded)) => {
                *current = text;
                let Reloaded { changed, needs_restart, warnings } = &reloaded;
                for warning in warnings {
                    tracing::warn!(%warning, "of this node's configuration");
                }
                if !needs_restart.is_empty() {
                    tracing::warn!(?needs_restart, "these have changed, and are taken at the next start");
                }
                tracing::info!(?changed, "configuration and certificates read again: new handshakes use them, connections stay");
                Ok(reloaded)
            }
            Err(error) => {
                self.certificates.refused();
                tracing::error!(%error, "nothing is read again: all stays as it was");
                Err(error)
            }
        }
    }

    /// Everything that can fail comes first.
    fn take(&self, current: &str, fresh: Checked) -> Result<(String, Reloaded), ReloadError> {
        let failed = |e: super::AppError| ReloadError(format!("{}: {e}", self.path.display()));
        let next = self.certificates.prepare(&fresh.config, &fresh.pems).map_err(failed)?;
        telemetry::set_log_filter(&fresh.config.log.filter)
            .map_err(|e| ReloadError(format!("{}: log.filter: {e}", self.path.display())))?;
        let same_authorities = self.certificates.swap(&fresh.pems, next);

        let changed = changed_keys(current, &fresh.text).into_iter().filter(|key| is_live(key)).collect();
        let mut needs_restart = changed_keys(&self.started, &fresh.text);
        needs_restart.retain(|key| !is_live(key));
        needs_restart.extend(self.keys.differ(&fresh.keys).map(|key| format!("{key} (its content)")));
        if !same_authorities {
            needs_restart.push("tls.ca (its content, for gRPC)".to_owned());
        }
        let warnings = fresh.warnings();
        Ok((fresh.text, Reloaded { changed, needs_restart, warnings }))
    }
}
