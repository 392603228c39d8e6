//! One replicated call.

use bytes::Bytes;

use super::RestoreError;
use crate::ids::{CallUid, Epoch, Incarnation, NodeId};
use crate::store_pb::{CallParties, CallState, Claim, LegRecord};

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Claimed; the called side has not rung.
    Trying,
    /// A 18x was seen.
    Ringing,
    /// 2xx.
    Answered,
    /// Over; kept for a while so that late copies of its INVITE are recognised.
    Ended,
}

impl Phase {
    /// Its number in [`CallState`].
    pub fn code(self) -> u32 {
        match self {
            Phase::Trying => 1,
            Phase::Ringing => 2,
            Phase::Answered => 3,
            Phase::Ended => 4,
        }
    }

    fn from_code(code: u32) -> Option<Phase> {
        [Phase::Trying, Phase::Ringing, Phase::Answered, Phase::Ended].into_iter().find(|p| p.code() == code)
    }
}

/// One call as every node knows it. Never changed in place once handed out: the replica copies on write.
#[derive(Clone, Debug, PartialEq)]
pub struct CallEntry {
    /// The call.
    pub uid: CallUid,
    /// Its claim key.
    pub claim_key: [u8; 16],
    phase: Phase,
    state: CallState,
}

impl CallEntry {
    /// From a claim whose identifiers were checked. The invite is copied, so that it does not keep a whole batch in memory.
    pub(super) fn claimed(uid: CallUid, claim_key: [u8; 16], claim: &Claim, at_ms: u64) -> CallEntry {
        let mut claim = claim.clone();
        claim.key = Bytes::copy_from_slice(&claim_key);
        claim.packet_key = Bytes::copy_from_slice(&claim.packet_key);
        claim.call = Bytes::copy_from_slice(&uid.to_bytes());
        claim.invite = Bytes::copy_from_slice(&claim.invite);
        let state = CallState {
            claimed_unix_ms: at_ms,
            epoch: claim.epoch,
            owner: claim.owner,
            phase: Phase::Trying.code(),
            claim: Some(claim),
            ..CallState::default()
        };
        CallEntry { uid, claim_key, phase: Phase::Trying, state }
    }

    /// From a snapshot.
    pub(super) fn restored(state: CallState) -> Result<CallEntry, RestoreError> {
        let claim = state.claim.as_ref().ok_or(RestoreError::Damaged("a call has no claim"))?;
        let uid = CallUid::from_bytes(&claim.call).ok_or(RestoreError::Damaged("a call's identifier"))?;
        let claim_key = claim.key[..].try_into().map_err(|_| RestoreError::Damaged("a claim key"))?;
        let phase = Phase::from_code(state.phase).ok_or(RestoreError::Damaged("a call's phase"))?;
        u16::try_from(state.owner).map_err(|_| RestoreError::Damaged("a call's owner"))?;
        Ok(CallEntry { uid, claim_key, phase, state })
    }

    /// The whole record.
    pub fn state(&self) -> &CallState {
        &self.state
    }

    /// For changes by the replica.
    pub(super) fn state_mut(&mut self) -> &mut CallState {
        &mut self.state
    }

    /// Enters a phase.
    pub(super) fn set_phase(&mut self, phase: Phase) {
        self.phase = phase;
        self.state.phase = phase.code();
    }

    /// The node that holds the call.
    pub fn owner(&self) -> NodeId {
        // Checked when the entry was made.
        NodeId(u16::try_from(self.state.owner).unwrap_or(0))
    }

    /// The start of its owner that has it.
    pub fn incarnation(&self) -> Incarnation {
        match self.state.incarnation {
            0 if self.owner() == self.uid.node => self.uid.incarnation,
            // An owner that is not in the id, and adopted nothing: no node does that.
            adopted => Incarnation(adopted),
        }
    }

    /// How often it has changed owners, plus one.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.state.epoch)
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// False once it has ended.
    pub fn is_live(&self) -> bool {
        self.phase != Phase::Ended
    }

    /// True when it ended without an answer, and not by the user's word: whoever asks again, at another node or by another way, is not
    /// asking twice (RFC 3263 §4.3).
    pub fn has_failed(&self) -> bool {
        let cause = self.state.cause.as_ref().filter(|_| !self.is_live() && self.state.answered_unix_ms == 0);
        cause.is_some_and(|c| failed(&c.origin, c.status))
    }

    /// True when its owner has left the caller to another node, which has the called side.
    pub fn was_left(&self) -> bool {
        let cause = self.state.cause.as_ref().filter(|_| !self.is_live() && self.state.answered_unix_ms == 0);
        cause.is_some_and(|c| left(&c.origin, c.status))
    }

    /// True when the caller gave up before the answer.
    pub fn was_abandoned(&self) -> bool {
        let by_caller = self.state.cause.as_ref().is_some_and(|c| c.origin == "caller");
        !self.is_live() && self.state.answered_unix_ms == 0 && by_caller
    }

    /// An emergency call.
    pub fn emergency(&self) -> bool {
        self.claim().emergency
    }

    /// The claim as committed. Its `invite` is empty once the call has ended.
    pub fn claim(&self) -> &Claim {
        self.state.claim.as_ref().expect("both constructors set the claim")
    }

    /// Who calls whom, where the claim said so.
    pub fn parties(&self) -> Option<&CallParties> {
        self.claim().parties.as_ref()
    }

    /// Its packet key, see `PacketKey`.
    pub fn packet_key(&self) -> &[u8] {
        &self.claim().packet_key
    }

    /// The called leg as last recorded.
    pub fn callee(&self) -> Option<&LegRecord> {
        self.state.dialog.as_ref()?.callee.as_ref()
    }

    /// The caller's leg as last recorded.
    pub fn caller(&self) -> Option<&LegRecord> {
        self.state.dialog.as_ref()?.caller.as_ref()
    }
}

/// True for an end that says nothing of the user: a 5xx or a time-out of whoever, a call for which no target was found (480 of ours),
/// an owner that started again (0).
pub fn failed(origin: &str, status: u32) -> bool {
    match origin {
        "node" => matches!(status, 0 | 408 | 480 | 500..=599),
        "callee" => matches!(status, 408 | 500..=599),
        _ => false,
    }
}

/// True for the end of a call that another node serves (rule C).
pub fn left(origin: &str, status: u32) -> bool {
    origin == "node" && status == 482
}
