//! INVITEs whose claim belongs to a node that does not answer at the moment (AC-01, AC-25). Begun again at once they might ring a second
//! time beside a call that lives; dropped they might be the only copy, over a stream always. So they wait until that node is reachable,
//! or known to be gone.

use std::collections::HashMap;
use std::time::Duration;

use super::Sbc;
use crate::call::Timer;
use crate::call::server_key;
use crate::io::{Counter, Path, ReturnPath};
use crate::sip::{Message, Method};
use crate::time::Instant;

/// INVITEs held at once: the calls of some seconds of a node that died. Beyond it they are dialled at once, for no call is refused.
const MAX_UNDECIDED: usize = 1000;
/// How often it is looked whether the owner is there, or gone.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A node is taken for gone after a lease and a margin; one that flaps for longer than that is of no use to the caller.
const LONGEST: Duration = Duration::from_secs(5);

/// What waits.
#[derive(Debug, Default)]
pub(super) struct HeldInvites {
    held: HashMap<u64, Held>,
}

/// What an INVITE has behind it that is placed once more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waited {
    /// It was held for an owner that did not answer, and waits no longer than that.
    pub(super) until: Option<Instant>,
    /// It was admitted when it came: it is not counted against its source, or the limits, once more.
    pub(super) admitted: bool,
}

#[derive(Debug)]
struct Held {
    exact: [u8; 16],
    path: Path,
    back: ReturnPath,
    message: Message,
    arrived: Instant,
    until: Instant,
    admitted: bool,
}

impl Sbc {
    /// Keeps an INVITE until its owner's state is clear. False: it has waited long enough, or too many wait.
    pub(super) fn hold_invite(
        &mut self,
        exact: [u8; 16],
        path: Path,
        back: ReturnPath,
        message: &Message,
        waited: Waited,
    ) -> bool {
        if self.held_invites.held.values().any(|h| h.exact == exact) {
            // A copy of one that waits.
            return true;
        }
        let until = waited.until.unwrap_or(self.cx.now.mono + LONGEST);
        if self.cx.now.mono >= until || self.held_invites.held.len() >= MAX_UNDECIDED {
            return false;
        }
        self.cx.count(Counter::Misrouted("INVITE", "hold"));
        let id = self.cx.serial();
        self.cx.start_timer(LOOK_EVERY, Timer::HeldInvite(id));
        let (arrived, admitted) = (self.cx.arrived, waited.admitted);
        self.held_invites.held.insert(id, Held { exact, path, back, message: message.clone(), arrived, until, admitted });
        true
    }

    /// Takes one out: its caller has given up.
    pub(super) fn leave_held_invite(&mut self, exact: &[u8; 16]) -> Option<(ReturnPath, Message)> {
        let id = self.held_invites.held.iter().find(|(_, held)| held.exact == *exact).map(|(id, _)| *id)?;
        self.held_invites.held.remove(&id).map(|held| (held.back, held.message))
    }

    /// Time to look again.
    pub(super) fn on_held_invite(&mut self, id: u64) {
        let Some(held) = self.held_invites.held.remove(&id) else { return };
        self.cx.arrived = held.arrived;
        if self.cx.tx.find_server(&server_key(&held.message, &Method::Invite)).is_none() {
            let waited = Waited { until: Some(held.until), admitted: held.admitted };
            self.place_invite(held.path, held.back, &held.message, waited);
        }
    }
}
