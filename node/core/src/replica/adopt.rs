//! A call changes owners (rule J): compare-and-set by its epoch, of a call whose owner is lost alone. What the old owner may still have used without a
//! record is skipped here, so that a second adopter does not repeat the first one's numbers.

use std::sync::Arc;

use super::apply::Run;
use super::{Effect, Phase, Replica, StaleReason};
use crate::ids::{CallUid, Incarnation, NodeId};
use crate::store_pb::{Adopt, EventKind, LegRecord};

/// CSeq numbers are recorded in steps, so that not each request of ours needs a record.
pub const CSEQ_STEP: u32 = 64;
/// Rule J: whoever goes on with a recorded leg begins so far above its ceiling, for there may be records that were not committed.
pub const CSEQ_JUMP: u32 = 65_536;
/// The greatest CSeq number (RFC 3261 §8.1.1.5).
pub const CSEQ_MAX: u32 = (1 << 31) - 1;

impl Replica {
    pub(super) fn on_adopt(&mut self, run: &mut Run, adopt: &Adopt, at: u64) {
        let owner = u16::try_from(adopt.owner).ok().filter(|node| *node > 0).map(NodeId);
        let (Some(uid), Some(owner)) = (CallUid::from_bytes(&adopt.call), owner) else {
            return run.stale(None, StaleReason::Malformed);
        };
        let incarnation = Incarnation(adopt.incarnation);
        let Some(entry) = self.call(uid) else { return run.stale(Some(uid), StaleReason::UnknownCall) };
        let refused = match entry.phase() {
            Phase::Ended => Some(StaleReason::Ended),
            _ if entry.state().epoch != adopt.from_epoch => Some(StaleReason::Fenced),
            _ if self.node_incarnation(owner) != Some(incarnation) || self.down_since(owner).is_some() => {
                Some(StaleReason::OldIncarnation)
            }
            _ if !self.is_owner_lost(entry) => Some(StaleReason::OwnerLives),
            _ => None,
        };
        if let Some(reason) = refused {
            return run.stale(Some(uid), reason);
        }
        self.orphans.remove(&uid);
        let Some(entry) = self.calls.get_mut(&uid).map(Arc::make_mut) else { return };
        let state = entry.state_mut();
        state.owners_before.push(state.owner);
        (state.owner, state.incarnation) = (adopt.owner, adopt.incarnation);
        state.epoch += 1;
        (state.seq, state.lost_unix_ms) = (0, 0);
        if let Some(dialog) = &mut state.dialog {
            dialog.caller.iter_mut().chain(&mut dialog.callee).for_each(skip_used);
        }
        run.effects.push(Effect::Adopted { call: uid, owner, incarnation });
        self.call_event(run, uid, (EventKind::NodeChanged, 1), at);
    }
}

/// The numbers that the old owner may have used, and the new one's first.
fn skip_used(leg: &mut LegRecord) {
    leg.local_cseq_ceiling = leg.local_cseq_ceiling.saturating_add(CSEQ_JUMP + CSEQ_STEP).min(CSEQ_MAX);
}
