//! INVITEs whose claim belongs to a node that does not answer at the moment (AC-01, AC-25). Begun again at once they might ring a second
//! time beside a call that lives; dropped they might be the only copy, over a stream always. So they wait until that node is reachable,
//! or known to be gone.

use std::collections::HashMap;
use std::time::Duration;

use crate::call::{Context, TimerUser};
use crate::ids::PacketKey;
use crate::io::{Counter, MisrouteAction, Path, ReturnPath};
use crate::sip::Message;
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
    held: HashMap<u64, HeldInvite>,
}

/// What an INVITE has behind it that is placed once more.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waited {
    /// It was held for an owner that did not answer, and waits no longer than that.
    pub(super) until: Option<Instant>,
    /// It was admitted when it came: it is not counted against its source, or the limits, once more.
    pub(super) admitted: bool,
}

/// An INVITE that waits.
#[derive(Debug)]
pub(super) struct HeldInvite {
    packet_key: PacketKey,
    pub(super) path: Path,
    pub(super) back: ReturnPath,
    pub(super) message: Message,
    pub(super) arrived: Instant,
    /// When it waits no longer.
    pub(super) until: Instant,
    /// It was admitted before.
    pub(super) admitted: bool,
}

impl HeldInvites {
    /// Keeps an INVITE until its owner's state is clear. False: it has waited long enough, or too many wait.
    pub(super) fn hold(
        &mut self,
        cx: &mut Context,
        packet_key: PacketKey,
        path: Path,
        back: ReturnPath,
        message: &Message,
        waited: Waited,
    ) -> bool {
        if self.held.values().any(|h| h.packet_key == packet_key) {
            // A copy of one that waits.
            return true;
        }
        let until = waited.until.unwrap_or(cx.now.mono + LONGEST);
        if cx.now.mono >= until || self.held.len() >= MAX_UNDECIDED {
            return false;
        }
        cx.count(Counter::Misrouted("INVITE", MisrouteAction::Hold));
        let id = cx.serial();
        cx.start_timer(LOOK_EVERY, TimerUser::HeldInvite(id));
        let (arrived, admitted) = (cx.arrived, waited.admitted);
        self.held.insert(id, HeldInvite { packet_key, path, back, message: message.clone(), arrived, until, admitted });
        true
    }

    /// Takes one out: its caller has given up.
    pub(super) fn leave(&mut self, packet_key: &PacketKey) -> Option<(ReturnPath, Message)> {
        let id = self.held.iter().find(|(_, held)| held.packet_key == *packet_key).map(|(id, _)| *id)?;
        self.held.remove(&id).map(|held| (held.back, held.message))
    }

    /// Time to look again: takes it out.
    pub(super) fn take(&mut self, id: u64) -> Option<HeldInvite> {
        self.held.remove(&id)
    }
}
