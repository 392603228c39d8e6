//! What a command that failed says and which exit code it has: `error`, `cause`, `hint`.

use std::fmt;

use sbc_proto::v1::ErrorReason;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// How a command ended, as its exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    Denied = 4,
    NoQuorum = 5,
    NotFound = 6,
    Conflict = 7,
    OutcomeUnknown = 8,
    DiffFound = 9,
    Interrupted = 130,
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// For scripts.
    pub(crate) exit: Exit,
    /// What did not work. Empty: the exit code says all (a diff was found, Ctrl-C).
    pub(crate) error: String,
    /// Why, in full.
    pub(crate) cause: Option<String>,
    /// What to do about it.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// A failure with nothing but what did not work.
    pub(crate) fn new(exit: Exit, error: impl Into<String>) -> Failure {
        Failure { exit, error: error.into(), cause: None, hint: None }
    }

    /// The plain failure, exit code 1.
    pub(crate) fn failed(error: impl Into<String>) -> Failure {
        Failure::new(Exit::Failed, error)
    }

    /// Nothing to print, only an exit code.
    pub(crate) fn silent(exit: Exit) -> Failure {
        Failure::new(exit, "")
    }

    pub(crate) fn cause(mut self, cause: impl fmt::Display) -> Failure {
        self.cause = Some(cause.to_string());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What a node answered to `what`.
    pub(crate) fn from_status(what: &str, status: &Status) -> Failure {
        let details = status.get_error_details();
        let info = details.error_info().filter(|i| i.domain == sbc_proto::ERROR_DOMAIN);
        let reason = info.and_then(|i| ErrorReason::from_reason(&i.reason));
        let mut cause = match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
        if let Some(info) = info {
            let mut facts: Vec<_> = info.metadata.iter().map(|(k, v)| format!("{k}={v}")).collect();
            facts.sort();
            cause += &format!(" [{}{}{}]", info.reason, if facts.is_empty() { "" } else { " " }, facts.join(" "));
        } else if let Some(source) = std::error::Error::source(status) {
            cause += &format!(": {}", chain(source));
        }
        for violation in details.bad_request().iter().flat_map(|b| &b.field_violations) {
            cause += &format!("\n  {}: {}", violation.field, violation.description);
        }
        let distrust = if info.is_none() { distrust(&cause) } else { None };
        Failure {
            exit: if distrust.is_some() { Exit::Denied } else { exit_of(status.code(), reason) },
            error: format!("{what} failed"),
            hint: distrust
                .or_else(|| Some(reason.map_or_else(|| hint_of_code(status.code()), hint_of)))
                .map(str::to_owned)
                .filter(|h| !h.is_empty()),
            cause: Some(cause),
        }
    }

    /// What a node answered to a changing request: when the answer does not tell whether it happened, says so and
    /// names the id under which it can be repeated safely.
    pub(crate) fn from_change(what: &str, status: &Status, request_id: &str) -> Failure {
        let known = status.get_error_details().error_info().and_then(|i| ErrorReason::from_reason(&i.reason));
        let lost = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown);
        let mut failure = Failure::from_status(what, status);
        if known == Some(ErrorReason::OutcomeUnknown) || known.is_none() && lost && failure.exit != Exit::Denied {
            failure.exit = Exit::OutcomeUnknown;
            failure.error = format!("{what}: no answer; it may or may not have happened (request id {request_id})");
            failure.hint = Some(format!("repeat the command with --request-id {request_id}: it then happens at most once"));
        }
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        for (label, text) in [("cause", &self.cause), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(f, "\n{label}: {}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// What to do where one side does not believe the other's certificate, as the error of the TLS handshake tells; `None`: it is another error.
pub(crate) fn distrust(cause: &str) -> Option<&'static str> {
    // The node's words about ours (RFC 8446 §6.2).
    const ALERTS: [&str; 7] = [
        "UnknownCA",
        "BadCertificate",
        "UnsupportedCertificate",
        "CertificateRevoked",
        "CertificateExpired",
        "CertificateUnknown",
        "CertificateRequired",
    ];
    if ALERTS.iter().any(|alert| cause.contains(&format!("fatal alert: {alert}"))) || cause.contains("fatal alert: DecryptError")
    {
        return Some(
            "the node does not believe --cert: it must be of this cluster's authority and not expired (`sbcctl pki issue`)",
        );
    }
    let theirs = cause.contains("invalid peer certificate");
    theirs.then_some("--ca does not vouch for this node: is it the authority of this cluster, and --endpoint a node of it?")
}

/// An error with all that is behind it, each part said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text += &format!(": {part}");
        }
        next = error.source();
    }
    text
}

fn exit_of(code: Code, reason: Option<ErrorReason>) -> Exit {
    match reason {
        Some(ErrorReason::NoLeader | ErrorReason::NoQuorum) => return Exit::NoQuorum,
        Some(ErrorReason::OutcomeUnknown) => return Exit::OutcomeUnknown,
        // The command was right, the file is not.
        Some(ErrorReason::InvalidConfig) => return Exit::Failed,
        // What was to be changed is not there to be changed any more.
        Some(ErrorReason::CallEnded | ErrorReason::NothingToConfirm) => return Exit::Conflict,
        _ => {}
    }
    match code {
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
        Code::NotFound => Exit::NotFound,
        Code::Aborted | Code::AlreadyExists => Exit::Conflict,
        Code::InvalidArgument => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// What to do about each reason.
fn hint_of(reason: ErrorReason) -> &'static str {
    match reason {
        ErrorReason::Unspecified => "",
        ErrorReason::NoLeader => {
            "an election takes up to 2 s: try again; if it stays, see `sbcctl status` for nodes that are down"
        }
        ErrorReason::NoQuorum => "more than half of the nodes must run and reach each other: see `sbcctl node list`",
        ErrorReason::EtagMismatch => "someone changed the configuration: look at `sbcctl config diff FILE`, then apply again",
        ErrorReason::InvalidConfig => {
            "mend the lines that are named; `sbcctl config validate FILE`, and `sbcd --check-config` on a node, check without applying"
        }
        ErrorReason::EmergencyCall => "this ends an emergency call: repeat with --emergency if that is meant",
        ErrorReason::LastAnnouncer => {
            "no other node would serve the anycast address: announce another one first, or repeat with --force"
        }
        ErrorReason::NotAnnouncing => "`sbcctl node list` shows who announces; --force takes a node out of the standbys",
        ErrorReason::CallNotFound => "`sbcctl call list` shows the live calls, `sbcctl cdr list` those that ended",
        ErrorReason::MemberInUse => "only a member that is down, with its disk lost, is readmitted: see `sbcctl node list`",
        ErrorReason::NodeNotFound => "`sbcctl node list` shows the names",
        ErrorReason::RouteNotFound => "`sbcctl route list` shows the names",
        ErrorReason::TrunkNotFound => "`sbcctl trunk list` shows the names",
        ErrorReason::BlockNotFound => "`sbcctl policy blocks` shows the prefixes that are blocked",
        ErrorReason::NodeUnreachable => "see whether the node runs and the peer network is up: `sbcctl node list`",
        ErrorReason::Compacted => "begin again with --from snapshot: what lies between is no longer kept",
        ErrorReason::InvalidResumeToken => "use a token that a stream of this cluster gave, or --from snapshot",
        ErrorReason::InvalidPageToken => "begin the listing again: the token is not from this listing",
        ErrorReason::InvalidArgument => "mend the fields that are named",
        ErrorReason::NoIdentity => "use a certificate that `sbcctl pki issue --kind user` made with this cluster's authority",
        ErrorReason::PermissionDenied => "ask for a certificate with a role that has the permission that is named",
        ErrorReason::AnnounceFailed => "the announcement driver's own error is above; see [announce] in the node's configuration",
        ErrorReason::NodeUnhealthy => "`sbcctl node show NODE` says which health check fails",
        ErrorReason::NodeDraining => "`sbcctl node undrain NODE` takes it back into service",
        ErrorReason::Overloaded => "wait a moment and try again, or ask another node with --endpoint",
        ErrorReason::OutcomeUnknown => "look whether it happened, or repeat with the same --request-id",
        ErrorReason::CallEnded => "the call is over already: `sbcctl cdr list --call UID` has its record",
        ErrorReason::ShuttingDown => "ask another node with --endpoint",
        ErrorReason::RequestIdReused => "leave --request-id out, or name one that was not used yet",
        ErrorReason::ConfigNeedsForce => {
            "mend what is named; if it is meant so, repeat with --force, and with --confirm-within to have it taken back by itself"
        }
        ErrorReason::NothingToConfirm => "`sbcctl config history` shows what became of each revision",
        ErrorReason::RevisionNotFound => "`sbcctl config history` shows the revisions that are kept",
        ErrorReason::LevelTooLow => "`sbcctl node list` shows the versions: update the older nodes first",
        ErrorReason::LadderNotKept => "`sbcctl cdr list --call UID` has its record; ladders end with the node's process",
        ErrorReason::Internal => "this is a fault of the node: keep its log and report it",
    }
}

fn hint_of_code(code: Code) -> &'static str {
    match code {
        Code::Unavailable => "see whether the node runs, or name another one with --endpoint",
        Code::DeadlineExceeded => "wait longer with --timeout, or ask another node with --endpoint",
        Code::Unauthenticated => "see --cert, --key and --ca",
        Code::PermissionDenied => "the certificate's role does not allow this",
        Code::Unimplemented => "the node's version does not know this request: compare `sbcctl version` with `sbcctl node list`",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: ErrorReason, facts: &[(&str, &str)]) -> Status {
        let facts: HashMap<String, String> = facts.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        Status::with_error_details(
            code,
            "it did not",
            ErrorDetails::with_error_info(reason.reason(), sbc_proto::ERROR_DOMAIN, facts),
        )
    }

    #[test]
    fn every_reason_has_a_hint_of_its_own() {
        let mut hints = HashMap::new();
        // The numbers have gaps.
        for reason in (1..1000).filter_map(|number| ErrorReason::try_from(number).ok()) {
            let shown = Failure::from_status("x", &status(Code::Internal, reason, &[])).hint.unwrap_or_default();
            assert!(shown.len() > 15, "{} has no hint", reason.reason());
            assert_eq!(hints.insert(shown, reason), None, "{} shares its hint", reason.reason());
        }
        assert!(hints.len() >= 23);
    }

    #[test]
    fn prints_error_cause_and_hint() {
        let failure = Failure::from_status(
            "ending call 1-a-2f",
            &status(Code::FailedPrecondition, ErrorReason::EmergencyCall, &[("call", "1-a-2f")]),
        );
        assert_eq!(
            failure.to_string(),
            "error: ending call 1-a-2f failed\ncause: it did not [EMERGENCY_CALL call=1-a-2f]\n\
             hint: this ends an emergency call: repeat with --emergency if that is meant"
        );
    }

    #[test]
    fn exit_codes_tell_the_cases_apart() {
        let exit = |code, reason| Failure::from_status("x", &status(code, reason, &[])).exit;
        assert_eq!(exit(Code::Unavailable, ErrorReason::NoLeader), Exit::NoQuorum);
        assert_eq!(exit(Code::Unavailable, ErrorReason::NodeUnreachable), Exit::Unreachable);
        assert_eq!(exit(Code::PermissionDenied, ErrorReason::PermissionDenied), Exit::Denied);
        assert_eq!(exit(Code::NotFound, ErrorReason::CallNotFound), Exit::NotFound);
        assert_eq!(exit(Code::Aborted, ErrorReason::EtagMismatch), Exit::Conflict);
        assert_eq!(exit(Code::InvalidArgument, ErrorReason::InvalidConfig), Exit::Failed);
        assert_eq!(exit(Code::InvalidArgument, ErrorReason::InvalidArgument), Exit::Usage);
        assert_eq!(exit(Code::InvalidArgument, ErrorReason::InvalidResumeToken), Exit::Usage);
        assert_eq!(exit(Code::FailedPrecondition, ErrorReason::CallEnded), Exit::Conflict);
        assert_eq!(exit(Code::Aborted, ErrorReason::RequestIdReused), Exit::Conflict);
        assert_eq!(exit(Code::DeadlineExceeded, ErrorReason::OutcomeUnknown), Exit::OutcomeUnknown);
    }

    #[test]
    fn a_lost_answer_to_a_change_is_an_unknown_outcome() {
        let failure = Failure::from_change("applying", &Status::unavailable("connection reset"), "r-1");
        assert_eq!(failure.exit, Exit::OutcomeUnknown);
        assert!(failure.to_string().contains("--request-id r-1"));
        let refused = Failure::from_change("applying", &status(Code::Unavailable, ErrorReason::NoLeader, &[]), "r-1");
        assert_eq!(refused.exit, Exit::NoQuorum);
    }

    #[test]
    fn a_certificate_that_is_not_believed_is_no_lost_answer() {
        for (message, about) in
            [("transport error: received fatal alert: UnknownCA", "--cert"), ("invalid peer certificate: UnknownIssuer", "--ca")]
        {
            let failure = Failure::from_change("applying", &Status::unavailable(message), "r-1");
            assert_eq!(failure.exit, Exit::Denied, "{message}");
            assert!(failure.hint.unwrap().contains(about));
        }
        assert_eq!(distrust("connection refused"), None);
    }

    #[test]
    fn violations_are_listed() {
        let details = ErrorDetails::with_bad_request_violation("line 3, column 1", "unknown key `trunk`");
        let status = Status::with_error_details(Code::InvalidArgument, "2 faults", details);
        assert!(Failure::from_status("x", &status).to_string().contains("\n  line 3, column 1: unknown key `trunk`"));
    }
}
