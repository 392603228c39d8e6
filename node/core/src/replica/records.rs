//! What the replica keeps of what a command brought: times, dialogs, the CDR.

use bytes::Bytes;

use crate::store_pb::{CallState, Cdr, DialogRecord, LegRecord, MediaTotals};

/// From this level on a call's times are that of its claim and what its owner's monotonic clock has measured since.
pub(super) const DURATIONS: u32 = 2;

/// When a record of a call arose: so long after its claim, else by the clock of the command.
pub(super) fn moment(level: u32, state: &CallState, after_ms: Option<u64>, at: u64) -> u64 {
    after_ms.filter(|_| level >= DURATIONS).map_or(at, |ms| state.claimed_unix_ms.saturating_add(ms))
}

/// The one record of a call that is over.
pub(super) fn cdr(revision: u64, state: &CallState, media: MediaTotals) -> Cdr {
    let claim = state.claim.as_ref();
    Cdr {
        revision,
        call: claim.map(|c| c.call.clone()).unwrap_or_default(),
        owner: state.owner,
        epoch: state.epoch,
        emergency: claim.is_some_and(|c| c.emergency),
        trunk: claim.map(|c| c.trunk.clone()).unwrap_or_default(),
        target: state.target.clone(),
        parties: claim.and_then(|c| c.parties.clone()),
        received_unix_ms: state.claimed_unix_ms,
        ringing_unix_ms: state.ringing_unix_ms,
        answered_unix_ms: state.answered_unix_ms,
        ended_unix_ms: state.ended_unix_ms,
        cause: state.cause.clone(),
        media: Some(media),
        emergency_info: claim.and_then(|c| c.emergency_info.clone()),
        recorded_unix_ms: 0,
        twin: state.twin.clone(),
        owners_before: state.owners_before.clone(),
    }
}

/// Octet fields of a decoded entry share its whole buffer: what is kept must not.
pub(super) fn detached(dialog: &DialogRecord) -> DialogRecord {
    DialogRecord {
        caller: dialog.caller.as_ref().map(detached_leg),
        callee: dialog.callee.as_ref().map(detached_leg),
        media_profile: dialog.media_profile.clone(),
        refers: dialog.refers.clone(),
    }
}

pub(super) fn detached_leg(leg: &LegRecord) -> LegRecord {
    LegRecord {
        local_sdp: Bytes::copy_from_slice(&leg.local_sdp),
        remote_sdp: Bytes::copy_from_slice(&leg.remote_sdp),
        ..leg.clone()
    }
}
