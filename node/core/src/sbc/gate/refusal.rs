//! Why a request is not admitted, and with which answer.

use crate::call::Unusable;
use crate::io::{AuthOutcome, Limit};
use crate::routing;

/// A request goes no further.
#[derive(Debug)]
pub(in crate::sbc) struct Refusal {
    /// Of the answer; 0: it is dropped without one.
    pub(in crate::sbc) status: u16,
    /// Header fields of the answer that say what would be right.
    pub(in crate::sbc) fields: Vec<(&'static str, String)>,
    /// The reason.
    pub(in crate::sbc) why: Why,
}

/// The reason of a refusal. Its text says it to people.
#[derive(Debug)]
pub(in crate::sbc) enum Why {
    /// By the access list: never here.
    Denied,
    /// By a block of the log that takes everything.
    BlockedWhole,
    /// By the access list: it may begin nothing.
    Rejected,
    /// By a block of the log.
    Blocked,
    /// Its User-Agent is a scanner's.
    Scanner,
    /// Its Request-URI cannot be read (RFC 5118 §4.2).
    RequestUri,
    /// An OPTIONS whose Request-URI is of a kind that we do not know (RFC 4475 §3.3.2).
    UriScheme,
    /// It wants extensions of us that we have not: which.
    Extensions(String),
    /// Max-Forwards is used up.
    MaxForwards,
    /// Max-Forwards is no number.
    MaxForwardsUnreadable,
    /// Max-Breadth is used up.
    MaxBreadth,
    /// This cluster has sent it, for the same destination.
    Loop,
    /// The configuration does not let it in.
    Entry(routing::NoEntry),
    /// A Route leads elsewhere (AC-35).
    ForeignRoute,
    /// There are too many.
    Limit(Limit),
    /// Its session interval is too short (RFC 4028 §9).
    SessionInterval,
    /// Its session description cannot be read, hence not be anchored.
    Body(Unusable),
    /// It does not prove who sent it.
    Credentials(Wrong),
    /// Its Replaces names no dialog that can be replaced (RFC 3891 §3): the status that says so.
    Replaces(u16),
    /// Its trunk may not subscribe or publish.
    Events,
    /// It names no event package, or several.
    EventPackage,
}

/// What is wrong with a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sbc) enum Wrong {
    /// It has none.
    Absent,
    /// Unknown user, or another secret.
    Credentials,
    /// They are right, the nonce is not, any more or again.
    Nonce,
}

impl Wrong {
    /// What it is counted as.
    pub(in crate::sbc) fn outcome(self) -> AuthOutcome {
        match self {
            Wrong::Absent => AuthOutcome::Challenged,
            Wrong::Credentials => AuthOutcome::Wrong,
            Wrong::Nonce => AuthOutcome::Stale,
        }
    }
}

impl Why {
    fn status(&self) -> u16 {
        match self {
            Why::Denied | Why::BlockedWhole | Why::Blocked | Why::Scanner => 0,
            Why::RequestUri | Why::MaxForwardsUnreadable => 400,
            // The challenge itself has the status of its kind, 401 or 407.
            Why::Credentials(_) => 401,
            Why::Rejected | Why::ForeignRoute => 403,
            Why::Events => 405,
            Why::UriScheme => 416,
            Why::Extensions(_) => 420,
            Why::SessionInterval => 422,
            Why::MaxBreadth => 440,
            Why::Loop => 482,
            Why::MaxForwards => 483,
            Why::EventPackage => 489,
            Why::Limit(_) => 503,
            Why::Body(fault) => fault.status(),
            Why::Entry(refusal) => refusal.status(),
            Why::Replaces(status) => *status,
        }
    }

    /// True for what is found out of a request that would begin a call, and was not of the first checks: it is a call that was rejected.
    pub(in crate::sbc) fn rejects_call(&self) -> bool {
        matches!(
            self,
            Why::MaxForwards
                | Why::MaxForwardsUnreadable
                | Why::MaxBreadth
                | Why::Loop
                | Why::Entry(_)
                | Why::ForeignRoute
                | Why::Limit(_)
        )
    }

    /// True for what the caller is told whatever else its source has sent: it was admitted, or is to come back.
    pub(in crate::sbc) fn is_told_always(&self) -> bool {
        matches!(self, Why::SessionInterval | Why::Body(_) | Why::Credentials(_) | Why::Replaces(_)) || self.status() == 503
    }
}

impl From<Why> for Refusal {
    fn from(why: Why) -> Refusal {
        Refusal { status: why.status(), fields: Vec::new(), why }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::Denied => "the access list denies its source: dropped without an answer",
            Why::BlockedWhole => "its source is blocked, with everything: dropped without an answer",
            Why::Rejected => "the access list rejects its source",
            Why::Blocked => "its source is blocked: dropped without an answer",
            Why::Scanner => "its User-Agent is a scanner's: dropped without an answer",
            Why::RequestUri => "its Request-URI cannot be read",
            Why::UriScheme => "its Request-URI is of a scheme that we do not know",
            Why::Extensions(which) => return write!(f, "its Proxy-Require asks for {which}"),
            Why::MaxForwards => "its Max-Forwards is used up",
            Why::MaxForwardsUnreadable => "its Max-Forwards is no number",
            Why::MaxBreadth => "its Max-Breadth is used up",
            Why::Loop => "it is a loop: this cluster has sent it, for the same destination",
            Why::Entry(refusal) => return refusal.fmt(f),
            Why::ForeignRoute => "a Route of it leads elsewhere",
            Why::Limit(limit) => return write!(f, "it is over a limit: {}", limit.label()),
            Why::SessionInterval => "its Session-Expires is too short",
            Why::Body(Unusable::Encoded) => "its session description is encoded",
            Why::Body(Unusable::Sdp(error)) => return write!(f, "its session description cannot be read: {error}"),
            Why::Body(Unusable::Hidden) => "its session description cannot be found in its body",
            Why::Credentials(_) => "it does not prove who sent it",
            Why::Replaces(_) => "its Replaces names no dialog that can be replaced",
            Why::Events => "its trunk may not subscribe or publish",
            Why::EventPackage => "it names no event package, or several",
        })
    }
}
