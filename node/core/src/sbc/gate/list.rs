//! The checks in their order.

use super::credentials::Proof;
use super::{Entrance, Refusal, Taken, Why, credentials, limits, message, replaces, source};
use crate::call::Replaced;
use crate::routing;
use crate::sip::Method;

/// A check: why the request goes no further, if so.
type LookFn = fn(&Entrance<'_>) -> Option<Refusal>;

struct Check {
    look: LookFn,
    /// What it says of a request it says of that one now, and perhaps not of the next one like it: a limit, a challenge.
    of_the_moment: bool,
}

const fn lasting(look: LookFn) -> Check {
    Check { look, of_the_moment: false }
}

const fn momentary(look: LookFn) -> Check {
    Check { look, of_the_moment: true }
}

/// Before it is known what becomes of its method and its claim.
const FIRST: [Check; 5] = [
    lasting(source::rejected),
    lasting(source::blocked),
    lasting(source::scanner),
    lasting(message::request_uri),
    lasting(message::extensions),
];

/// Before it begins something new.
const ENTRY: [Check; 5] = [
    lasting(message::max_forwards),
    lasting(message::max_breadth),
    lasting(message::looped),
    lasting(message::entry),
    lasting(message::routes),
];

/// What it is counted against, unless it has been admitted before.
const LIMITS: [Check; 1] = [momentary(limits::over_limit)];

/// Before a call begins.
const INVITE: [Check; 4] =
    [lasting(message::session_interval), lasting(message::body), momentary(credentials::unproved), lasting(replaces::replaces)];

/// Before a MESSAGE, PUBLISH or first SUBSCRIBE goes on.
const STANDALONE: [Check; 4] = [
    momentary(credentials::unproved),
    lasting(message::events),
    lasting(message::event_package),
    momentary(message::room_for_subscription),
];

/// What may begin.
#[derive(Debug)]
pub(in crate::sbc) struct Admitted {
    /// The trunk that it comes from.
    pub(in crate::sbc) trunk: Box<str>,
    /// The emergency service that it is for.
    pub(in crate::sbc) service: Option<Box<str>>,
    /// The far end of another call that it is for (RFC 3891).
    pub(in crate::sbc) replaced: Option<Replaced>,
}

/// What having looked costs, to be settled whatever came of it.
#[derive(Debug, Default)]
pub(in crate::sbc) struct Charges {
    /// Of the limits.
    pub(in crate::sbc) taken: Option<Taken>,
    /// Of the uses of a nonce.
    pub(in crate::sbc) proof: Option<Proof>,
}

impl Entrance<'_> {
    /// Looked at as soon as it is clear that it belongs to nothing.
    pub(in crate::sbc) fn first(&self) -> Option<Refusal> {
        self.pass(&FIRST)
    }

    /// Whether it may begin something. `before`: it has been admitted once, and is counted against nothing again.
    pub(in crate::sbc) fn admit(&self, before: bool) -> (Result<Admitted, Refusal>, Charges) {
        let mut due = Charges::default();
        let mut refused = self.pass(&ENTRY);
        if refused.is_none() && !before && !self.has_priority() {
            refused = self.pass(&LIMITS);
            due.taken = self.taken(refused.as_ref());
        }
        if refused.is_none() {
            refused = self.pass(if self.request.method() == &Method::Invite { &INVITE } else { &STANDALONE });
            due.proof = self.proof.get().and_then(|proof| *proof.as_ref().ok()?);
        }
        let admitted = match (refused, self.trunk()) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(trunk)) => {
                Ok(Admitted { trunk: trunk.name.clone(), service: self.service().map(Into::into), replaced: self.other() })
            }
            (None, None) => Err(Why::Entry(routing::NoEntry::NoTrunk).into()),
        };
        (admitted, due)
    }

    /// Why an INVITE like this one would be refused, and the trunk of the far end whose dialog it would replace.
    pub(in crate::sbc) fn explain(&self) -> (Option<Refusal>, Option<Box<str>>) {
        let lists: [&[Check]; 4] = [&FIRST, &ENTRY, &LIMITS, &INVITE];
        let mut checks = lists.into_iter().flatten().filter(|check| !check.of_the_moment);
        (checks.find_map(|check| (check.look)(self)), self.other().map(|other| other.trunk))
    }

    fn pass(&self, checks: &[Check]) -> Option<Refusal> {
        checks.iter().find_map(|check| (check.look)(self))
    }
}
