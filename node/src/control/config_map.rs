//! Revisions of the configuration, and findings about one, as `sbc.v1` messages.

use std::sync::Arc;

use sbc_core::replica::Replica;
use sbc_core::routing::Severity;
use sbc_core::store_pb::{ConfigHistory, ConfigPending};
use sbc_proto::v1 as pb;
use tonic::{Code, Status};

use super::error::fault;
use super::map;
use crate::config::Fault;

/// The revision in force; 0 is built in.
pub(super) fn current(replica: &Replica) -> pb::Config {
    let newest = replica.config().2.back();
    newest.map_or_else(|| pb::Config { etag: etag(0), ..pb::Config::default() }, |h| shown(h, replica.config_pending()))
}

/// One of those that are kept.
pub(super) fn revision(replica: &Replica, number: u64) -> Option<&Arc<ConfigHistory>> {
    replica.config().2.iter().find(|h| h.revision == number)
}

pub(super) fn etag(revision: u64) -> String {
    format!("rev-{revision}")
}

pub(super) fn shown(h: &ConfigHistory, pending: Option<ConfigPending>) -> pb::Config {
    pb::Config {
        revision: h.revision,
        etag: etag(h.revision),
        text: h.text.clone(),
        author: h.author.clone(),
        changed_at: map::time(h.unix_ms),
        restores: h.restores,
        confirm_by: pending.filter(|p| p.revision == h.revision).and_then(|p| map::time(p.until_ms)),
        confirmed_by: h.confirmed_by.clone(),
    }
}

pub(super) fn no_revision(number: u64) -> Status {
    let message = format!("there is no revision {number} (any more)");
    fault(Code::NotFound, pb::ErrorReason::RevisionNotFound, message, &[("revision", &number.to_string())])
}

pub(super) fn finding(f: &Fault) -> pb::ConfigFault {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    pb::ConfigFault {
        line: number(f.line),
        column: number(f.column),
        message: if f.path.is_empty() { f.message.clone() } else { format!("{}: {}", f.path, f.message) },
        hint: f.hint.clone(),
        severity: match f.severity {
            Severity::Error => pb::ConfigSeverity::Error,
            Severity::Warning => pb::ConfigSeverity::Warning,
            Severity::Info => pb::ConfigSeverity::Info,
        }
        .into(),
        forceable: f.forceable,
    }
}
