//! Errors of the control plane: every one carries its reason and its facts (control.md, Errors).

use std::collections::HashMap;
use std::time::Duration;

use sbc_proto::ERROR_DOMAIN;
use sbc_proto::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::handle::{AnnounceError, ProposeError, RaftStatus, Stopped};
use crate::config::{Fault, Faults};

/// When to try again after UNAVAILABLE: an election is over by then.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// An error with its reason and facts.
pub(crate) fn fault(code: Code, reason: ErrorReason, message: impl Into<String>, facts: &[(&str, &str)]) -> Status {
    let mut details = info(reason, facts);
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        details.set_retry_info(Some(RETRY_AFTER));
    }
    Status::with_error_details(code, message, details)
}

fn info(reason: ErrorReason, facts: &[(&str, &str)]) -> ErrorDetails {
    let facts: HashMap<String, String> = facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    ErrorDetails::with_error_info(reason.reason(), ERROR_DOMAIN, facts)
}

/// A request field is wrong.
pub(crate) fn invalid(field: &str, message: impl Into<String>) -> Status {
    let message = message.into();
    let mut details = info(ErrorReason::InvalidArgument, &[]);
    details.add_bad_request_violation(field, message.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {message}"), details)
}

/// A configuration is wrong: one violation a fault, its path as the field.
pub(crate) fn invalid_config(faults: &Faults) -> Status {
    let mut details = info(ErrorReason::InvalidConfig, &[]);
    details.set_bad_request(
        faults
            .0
            .iter()
            .map(|f| {
                let hint = if f.hint.is_empty() { String::new() } else { format!(" ({})", f.hint) };
                FieldViolation::new(f.path.clone(), format!("line {}, column {}: {}{hint}", f.line, f.column, f.message))
            })
            .collect::<Vec<_>>(),
    );
    let first = faults.0.first().map(|f| format!(": line {}: {}", f.line, f.message)).unwrap_or_default();
    Status::with_error_details(Code::InvalidArgument, format!("{faults}{first}"), details)
}

/// A configuration is right in itself and harms callers: one violation a finding.
pub(crate) fn needs_force(found: &[Fault]) -> Status {
    let harmful: Vec<&Fault> = found.iter().filter(|f| f.needs_force()).collect();
    let mut details = info(ErrorReason::ConfigNeedsForce, &[]);
    let violation = |f: &&Fault| FieldViolation::new(f.path.clone(), format!("line {}: {}: {}", f.line, f.severity, f.message));
    details.set_bad_request(harmful.iter().map(violation).collect::<Vec<_>>());
    let message = match harmful.as_slice() {
        [one] => format!("not applied: {}", one.message),
        all => format!("not applied: {} and {} more", all.first().map_or("", |f| &f.message), all.len().saturating_sub(1)),
    };
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

/// The id was used before, for something else.
pub(crate) fn request_id_reused(request_id: &str) -> Status {
    let message = "this request id stands for another change: nothing was done";
    fault(Code::Aborted, ErrorReason::RequestIdReused, message, &[("request_id", request_id)])
}

/// The log did not take it.
pub(crate) fn not_proposed(error: &ProposeError, raft: &RaftStatus, leader: &str, request_id: &str) -> Status {
    let term = raft.term.to_string();
    match error {
        ProposeError::NoLeader => {
            fault(Code::Unavailable, ErrorReason::NoLeader, error.to_string(), &[("leader", leader), ("term", &term)])
        }
        ProposeError::NoQuorum => {
            fault(Code::Unavailable, ErrorReason::NoQuorum, error.to_string(), &[("leader", leader), ("term", &term)])
        }
        ProposeError::Unknown => fault(
            Code::DeadlineExceeded,
            ErrorReason::OutcomeUnknown,
            "the change may have happened all the same; repeat with the same request_id",
            &[("request_id", request_id)],
        ),
    }
}

/// The announcement did not change.
pub(crate) fn not_announced(error: &AnnounceError, node: &str, driver: &str) -> Status {
    match error {
        AnnounceError::Driver(_) => {
            fault(Code::FailedPrecondition, ErrorReason::AnnounceFailed, error.to_string(), &[("node", node), ("driver", driver)])
        }
        AnnounceError::Unhealthy(_) => {
            fault(Code::FailedPrecondition, ErrorReason::NodeUnhealthy, error.to_string(), &[("node", node)])
        }
    }
}

/// No such call.
pub(crate) fn no_call(uid: &str) -> Status {
    fault(Code::NotFound, ErrorReason::CallNotFound, format!("there is no call {uid}"), &[("call", uid)])
}

/// No such node.
pub(crate) fn no_node(name: &str) -> Status {
    fault(Code::NotFound, ErrorReason::NodeNotFound, format!("there is no node {name}"), &[("node", name)])
}

/// A peer does not answer.
pub(crate) fn unreachable(name: &str, cause: &str) -> Status {
    fault(Code::Unavailable, ErrorReason::NodeUnreachable, format!("node {name} does not answer: {cause}"), &[("node", name)])
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Status {
        fault(Code::Unavailable, ErrorReason::ShuttingDown, stopped.to_string(), &[])
    }
}
