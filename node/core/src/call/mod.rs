//! A call: a back-to-back user agent with one leg toward the caller and one toward the called party.
//!
//! `setup` begins it, `claim` settles whose it is, `dial` decides where to dial, `answer` brings the called side's responses to the caller, `in_dialog` passes
//! requests between the legs, `teardown` ends it. What is kept true: the caller's INVITE gets exactly one final answer;
//! whatever ends one leg ends the other; the log is told (`journal`), and nothing here waits for it but the claim.

mod address;
mod after_bye;
mod answer;
mod asked;
mod attempt;
mod body;
mod challenge;
mod claim;
mod course;
mod describe;
mod dial;
mod doubt;
mod early;
mod emergency;
mod end;
mod failover;
mod failure;
mod forward;
mod headers;
mod hearing;
mod held;
mod in_dialog;
mod inquiry;
mod journal;
mod ladder;
mod leg;
mod media;
mod offer;
mod outgoing;
mod patience;
mod provisional;
mod record;
mod refresh;
mod reliable;
mod remote;
mod restore;
mod services;
mod session;
mod session_id;
mod setup;
mod teardown;
mod timer;
mod transfer;
mod twin;
mod unacked;
mod underway;
mod ways;

pub use address::{asks_for_sips, is_sips, to_value, uri_at};
pub use asked::Asked;
pub use body::{Unusable, find_sdp, sdp_bytes, unusable};
pub use challenge::{Challenged, Known};
pub use dial::{DATAGRAM_MAX, target_number};
pub use emergency::{PIDF, carried, is_data};
pub use end::End;
pub use failure::upstream;
pub use headers::{MaxForwardsError, copy_through, next_max_forwards, server_key, strip_our_credentials};
pub use inquiry::{CLAIM_FIELD, Told};
pub use ladder::{Ladder, Note};
pub use leg::Leg;
pub use record::{recorded_dialog, recorded_path, recorded_way};
pub use services::{ALLOW, ALLOW_NO_EVENTS, BRANCH_COOKIE, LOOP_PARAM, Services, allowed, fill_via, finish_response};
pub use session::{MIN_SE, asks_too_little};
pub use timer::{CallTimer, Timer};
pub use transfer::{Refer, Replaced, Usage, map_event_id, unwrapped};
pub use twin::INVITE_LIFE;
pub use ways::{NextHop, Way, Ways, Written, hop_to, keep_alive_after};

use attempt::Attempt;
use forward::Forward;
pub use journal::Journal;
use media::CallMedia;
pub use outgoing::Loss;
use outgoing::{Again, PendingSend, Within};
pub use setup::NewCall;

use crate::ids::{CallUid, Epoch, LocalId, NodeId};
use crate::io::{ClaimStage, ReturnPath, Side};
use crate::sip::{Draft, Message};
use crate::store_pb;
use crate::store_pb::EmergencyInfo;
use crate::targets::TargetSet;
use crate::time::Instant;
use crate::timer::TimerId;
use crate::token::ClaimKey;
use crate::transaction::ServerTxId;

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallPhase {
    /// Before the first packet to the called side: claim, DNS and ports are under way.
    Preparing,
    /// The called side was asked.
    Dialling,
    /// 2xx came.
    Answered,
    /// Over; what is left is to be told the far ends and the log.
    Over,
}

/// How the claim stands (rule B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// Proposed, within its budget.
    Pending,
    /// Committed as ours.
    Won,
    /// The budget ran out or it failed: the call went on without.
    Late,
    /// Another node has the call.
    Lost,
}

/// Who ended a call, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// caller, callee, operator, node.
    pub origin: &'static str,
    /// Final status toward the caller; 200 once answered.
    pub status: u16,
    /// For people.
    pub reason: String,
}

/// One call that this node owns.
pub struct Call {
    /// Its place in this node's tables.
    pub id: LocalId,
    /// Its id in the cluster: who began it.
    pub uid: CallUid,
    /// How often it has changed owners.
    pub epoch: Epoch,
    /// Call-ID, From-tag and CSeq of its first INVITE, hashed.
    pub claim_key: ClaimKey,
    /// The same with its top Via.
    pub exact: [u8; 16],
    /// Decided once, at the first INVITE.
    pub emergency: bool,
    /// Service and ids of an emergency call.
    pub emergency_info: Option<EmergencyInfo>,
    /// Where it stands.
    pub phase: CallPhase,
    /// How its claim stands.
    pub claim: ClaimState,
    /// The caller's first INVITE.
    pub invite: Message,
    /// When a kernel had it, here or at its ingress.
    pub arrived: Instant,
    /// Toward the caller.
    pub caller: Leg,
    /// Toward the called party.
    pub callee: Leg,
    /// Its messages, for people.
    pub ladder: Ladder,
    /// It is counted as a call of its trunk and its node.
    pub counted: bool,
    invite_tx: Option<ServerTxId>,
    back: ReturnPath,
    targets: TargetSet,
    attempts: Vec<Attempt>,
    forwards: Vec<Forward>,
    sends: Vec<PendingSend>,
    /// Requests under way that could go another way.
    within: Vec<Within>,
    media: CallMedia,
    journal: Journal,
    /// Requests whose location or data went to the log.
    notices: u16,
    failure: Option<failure::Failure>,
    /// 3xx that were followed, and where they led.
    redirects: u8,
    /// A target was left out, for it has no TLS and the call was dialled as sips.
    unsecured: bool,
    /// The dialog that this call replaces at its called side.
    replaced: Option<Box<Replaced>>,
    /// The last re-INVITE of each side.
    reinvites: Vec<provisional::Reinvite>,
    /// REFERs that were passed on.
    refers: Vec<Refer>,
    redirected_to: Vec<Box<str>>,
    /// The cause of the end as the telephone network knows it (Q.850).
    q850: Option<u8>,
    ringing: bool,
    /// Another node dialled the same leg first (482, rule C): nothing is said until that node yields, or the log decides.
    quiet: bool,
    /// While quiet: a peer has said lately that it has the call.
    twin_heard: bool,
    /// Peers without a link that were asked whether they have the call, and have still a moment to say so: nobody is dialled before.
    awaited: Vec<NodeId>,
    /// How often they were asked.
    inquiries: u32,
    /// Peers that have said since they were asked last that they have not the call.
    twin_denied: Vec<NodeId>,
    /// A peer has answered the caller.
    twin_answered: bool,
    /// A node relayed the INVITE here after this call was begun: what it had dialled, it gives up.
    twin_yielded: bool,
    /// Another node has served the caller, or serves it: this call's end says nothing of the caller.
    left: bool,
    /// The called side said 482 although the claim is this call's: the other nodes were told so, and it was asked once more.
    twin_told: bool,
    early_target: String,
    /// What the caller last heard of the called side before the answer.
    progress: Option<patience::Progress>,
    /// An ACK that we sent for a 2xx, by side: repeated when the 2xx is.
    acks: Vec<SentAck>,
    /// BYE is to be sent to that side once its ACK has come (RFC 3261 §15).
    bye_when_acked: Option<(Side, Draft)>,
    session_ids: session_id::SessionIds,
    /// A 2xx that waits for ports, or for a PRACK.
    held_answer: Option<(u32, Message)>,
    /// Provisional responses that wait for ports, by attempt.
    held_provisional: Vec<(u32, Message)>,
    /// Early dialogs.
    early: early::Early,
    /// What the far ends want to know of us.
    auth: challenge::CallAuth,
    /// Whether it is the far end that asks, the caller's leg first.
    doubts: [Option<Box<doubt::Doubt>>; 2],
    course: course::Course,
    end: Option<Cause>,
    ended_in_log: bool,
    timers: CallTimers,
}

#[derive(Default)]
struct CallTimers {
    claim: Option<TimerId>,
    prepare: Option<TimerId>,
    ring: Option<TimerId>,
    progress: Option<TimerId>,
    media: Option<TimerId>,
}

/// An ACK for a 2xx.
#[derive(Clone, Debug)]
struct SentAck {
    side: Side,
    cseq: u32,
    remote_tag: Option<Box<str>>,
    way: Way,
    payload: bytes::Bytes,
    /// How it may be repeated by another way; `None`: there is none.
    again: Option<Box<Again>>,
}

impl Call {
    /// The leg of a side.
    pub fn leg(&self, side: Side) -> &Leg {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    fn leg_mut(&mut self, side: Side) -> &mut Leg {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// True once nothing is left to do but what the log has to hear: all else can be forgotten.
    pub fn is_done(&self) -> bool {
        self.phase == CallPhase::Over
            && self.ended_in_log
            && self.caller.pending_2xx.is_none()
            && self.callee.pending_2xx.is_none()
            && self.sends.is_empty()
            && self.within.is_empty()
            && self.attempts.iter().all(|a| a.state.is_done())
    }

    /// What the log has still to hear of a call that is done.
    pub fn into_ended(self) -> (Ended, Ladder) {
        let (failed, answered) = (self.has_failed(), self.was_answered());
        let Call { id, uid, claim_key, exact, emergency, left, journal, ladder, .. } = self;
        (Ended { id, uid, claim_key, exact, emergency, failed, answered, left, journal }, ladder)
    }

    /// The present media session.
    pub fn media_id(&self) -> crate::ids::MediaId {
        self.media.id
    }

    /// The node that owns the claim, where that is another one.
    pub fn lost_to(&self) -> bool {
        self.claim == ClaimState::Lost
    }

    /// True while another node has the called side, and this one only its record.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// How far it is, as peers are told.
    pub fn stage(&self) -> ClaimStage {
        match (self.phase, self.claim) {
            (CallPhase::Answered | CallPhase::Over, _) => ClaimStage::Answered,
            (_, ClaimState::Won) => ClaimStage::Won,
            (CallPhase::Dialling, _) => ClaimStage::Dialling,
            (CallPhase::Preparing, _) => ClaimStage::Preparing,
        }
    }

    /// True when it is over and the user has not been reached: who asks again is not asking twice.
    pub fn has_failed(&self) -> bool {
        let end = self.end.as_ref().filter(|_| self.phase == CallPhase::Over);
        end.is_some_and(|end| crate::replica::failed(end.origin, u32::from(end.status)))
    }

    /// True once it is over and was answered.
    fn was_answered(&self) -> bool {
        self.end.as_ref().is_some_and(|end| (200..300).contains(&end.status))
    }

    /// The INVITE's way back.
    pub fn arrival(&self) -> ReturnPath {
        self.back
    }

    fn tag(&self) -> &str {
        &self.caller.dialog.local_tag
    }

    /// True once it is over.
    pub fn is_over(&self) -> bool {
        self.phase == CallPhase::Over
    }

    /// Both legs as they are recorded, the caller's first.
    pub fn legs(&self) -> (store_pb::LegRecord, store_pb::LegRecord) {
        (self.caller.record(Vec::new()), self.callee.record(Vec::new()))
    }

    /// The dialog record for the log.
    fn record(&self) -> store_pb::DialogRecord {
        store_pb::DialogRecord {
            caller: Some(self.caller.record(self.media.ports_toward(Side::Caller))),
            callee: Some(self.callee.record(self.media.ports_toward(Side::Callee))),
            media_profile: if self.media.ports.is_empty() { "none".into() } else { "rtp".into() },
        }
    }
}

/// A call that is over, as far as the log and late copies of its INVITE are concerned.
#[derive(Debug)]
pub struct Ended {
    /// Its place in this node's tables.
    pub id: LocalId,
    /// Its id.
    pub uid: CallUid,
    /// Its claim key.
    pub claim_key: ClaimKey,
    /// Its exact key.
    pub exact: [u8; 16],
    /// It was an emergency call.
    pub emergency: bool,
    /// It ended without having reached the user.
    pub failed: bool,
    /// It was answered.
    pub answered: bool,
    /// It was left to another node.
    pub left: bool,
    /// What the log does not have.
    pub journal: Journal,
}

/// What a call wants done with another node's packet or its own bookkeeping after an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AfterClaim {
    /// Nothing.
    Nothing,
    /// The claim is another node's: relay the INVITE there, and forget this call.
    RelayTo(NodeId),
    /// The claim is another call's with the same key but another branch: 482 was sent.
    Merged,
    /// The claim is that of a node which does not answer at the moment: keep the INVITE until that is clear, and forget this call.
    Hold,
}

/// What is known of the call that has a claim which this node's call lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// It is a copy of the same packet, and at that node, which is reachable.
    At(NodeId),
    /// Another request, which is served, or which the user has answered.
    Merged,
    /// Its owner does not answer at the moment.
    Unsure,
    /// Its node has left the caller to another one that has the called side.
    Left,
    /// Nobody serves it any more.
    Gone,
}

/// What a call does that hears from a peer about its own claim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// Nothing.
    #[default]
    Nothing,
    /// The peer goes on with it: relay the INVITE there.
    Yields,
    /// It goes on itself: the peer should know.
    Stays,
}
