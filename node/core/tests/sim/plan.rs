//! What one simulated call is to do.

/// What a caller does with the Contact that it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContactHabit {
    /// RFC 3261: Request-URI and destination follow Contact and Route.
    Honours,
    /// Broken: everything goes to the anycast address, with the first Request-URI.
    Ignores,
    /// Right Request-URI, but an outbound proxy set to the anycast address (AC-12).
    OutboundProxy,
    /// As `OutboundProxy`, with a Route naming the anycast address (AC-34).
    KeepsRoute,
}

/// What the PSAP does with the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PsapPlan {
    /// 180 after so many ms, 200 after so many.
    Answer { ring: u64, answer: u64 },
    /// 486 after so many ms.
    Busy { after: u64 },
    /// 180, and then nothing: the caller cancels.
    RingOnly,
}

/// Who does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Caller,
    Psap,
}

/// A request within the dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mid {
    Hold,
    Info,
    Options,
    Update,
}

/// What a caller's INVITE says of 100rel (RFC 3262).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rel {
    Silent,
    Supported,
    Required,
}

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// When the caller dials, ms.
    pub(crate) start: u64,
    pub(crate) habit: ContactHabit,
    pub(crate) psap: PsapPlan,
    /// CANCEL so many ms after the INVITE.
    pub(crate) cancel: Option<u64>,
    /// Who hangs up, how many ms after the answer.
    pub(crate) hang_up: (Who, u64),
    /// Both hang up at about the same time.
    pub(crate) both: bool,
    /// Requests in mid-call, ms after the answer.
    pub(crate) mid: Vec<(Who, u64, Mid)>,
    /// The INVITE has no offer: the ACK carries the answer.
    pub(crate) delayed_offer: bool,
    /// The caller and 100rel.
    pub(crate) rel: Rel,
    /// The PSAP rings reliably where it may; and with a description, as an answer.
    pub(crate) psap_rel: Option<bool>,
    /// A proxy before the PSAP rings at another phone too, which never answers.
    pub(crate) psap_forks: bool,
    /// What calls for the caller tries that node's own address, after so many ms without a ring, or a failure that says nothing of the
    /// user: the same request with another branch (RFC 3263 §4.3).
    pub(crate) failover: Option<(u64, usize)>,
}

impl Plan {
    /// A call that rings for a second, talks for three, and is ended by the caller.
    pub(crate) fn plain(start: u64) -> Plan {
        Plan {
            start,
            habit: ContactHabit::Honours,
            psap: PsapPlan::Answer { ring: 100, answer: 1000 },
            cancel: None,
            hang_up: (Who::Caller, 3000),
            both: false,
            mid: Vec::new(),
            delayed_offer: false,
            rel: Rel::Silent,
            psap_rel: None,
            psap_forks: false,
            failover: None,
        }
    }
}
