//! A call: a back-to-back user agent with one leg toward the caller and one toward the called party.
//!
//! `setup` begins it, `claim` settles whose it is, `dial` decides where to dial, `answer` brings the called side's responses to the caller, `request` passes
//! requests between the legs, `teardown` ends it. What is kept true: the caller's INVITE gets exactly one final answer;
//! whatever ends one leg ends the other; the log is told (`journal`), and nothing here waits for it but the claim.

mod acknowledge;
mod address;
mod after_bye;
mod answer;
mod attempt;
mod authenticated;
mod body;
mod challenge;
mod claim;
mod courier;
mod course;
mod dial;
mod doubt;
mod due;
mod early;
mod emergency;
mod end;
mod failure;
mod forward;
mod headers;
mod hearing;
mod hold_down;
mod inquiry;
mod journal;
mod ladder;
mod leg;
mod lines;
mod media;
mod offer;
mod offer_answer;
mod outgoing;
mod pairs;
mod ports;
mod provisional;
mod reason;
mod record;
mod redirect;
mod refresh;
mod reliable;
mod remote;
mod request;
mod restore;
mod services;
mod session_id;
mod session_timer;
mod setup;
mod teardown;
mod timer;
mod timer_c;
mod timers;
mod transfer;
mod two_hundred;
mod uac;
mod ways;

pub use address::{asks_for_sips, is_sips, to_value, uri_at};
pub use authenticated::Authenticated;
pub use body::{Unusable, find_sdp, sdp_bytes, unusable};
pub use challenge::{Challenged, Known};
pub use claim::{AfterClaim, ClaimEvent, INVITE_LIFE, Then, Winner};
pub use courier::{Answer, Courier, Failed};
pub use dial::{DATAGRAM_MAX, target_number};
pub use emergency::{PIDF, carried, is_data};
pub use end::End;
pub use failure::upstream;
pub use headers::{MaxForwardsError, copy_through, next_max_forwards, server_key, strip_our_credentials};
pub use inquiry::{CLAIM_FIELD, Told};
pub use ladder::{Ladder, Note};
pub use leg::Leg;
pub use lines::{Dialogs, Lines, OfCall, Owner, Peer};
pub use pairs::Pairs;
pub use record::{recorded_dialog, recorded_path, recorded_way};
pub use services::{ALLOW, ALLOW_NO_EVENTS, BRANCH_COOKIE, LOOP_PARAM, Services, allowed, fill_via, finish_response};
pub use session_id::SessionIds;
pub use session_timer::{MIN_SE, asks_too_little};
pub use timer::{CallTimer, Timer};
pub use timers::{Lane, Timers};
pub use transfer::{Refer, Replaced, Usage, map_event_id, unwrapped};
use ways::FarEnd;
pub use ways::{NextHop, Written, hop_to, keep_alive_after};

use claim::CallClaim;
pub use forward::Exchange;
pub use journal::Journal;
use media::CallMedia;
use offer_answer::OfferAnswer;
pub use setup::NewCall;

use crate::crossing::Crossings;
use crate::dialog::{DialogRef, Half, PairId};
use crate::ids::{CallUid, Epoch, LocalId};
use crate::io::{ClaimStage, ReturnPath, Side};
use crate::routing;
use crate::sip::Message;
use crate::store_pb;
use crate::store_pb::EmergencyInfo;
use crate::time::Instant;
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
    /// The INVITE's way back.
    pub back: ReturnPath,
    /// The first INVITE toward the called side.
    uac: uac::Uac,
    /// Requests within the dialogs that are under way.
    crossings: Crossings<Exchange>,
    media: CallMedia,
    claim: CallClaim,
    budget: claim::Budget,
    /// What it has told the log.
    pub journal: Journal,
    /// Requests whose location or data went to the log.
    notices: u16,
    /// The dialog that this call replaces at its called side.
    replaced: Option<Box<Replaced>>,
    /// The last re-INVITE of each side.
    reinvites: Vec<provisional::Reinvite>,
    /// REFERs that were passed on.
    refers: Vec<Refer>,
    /// The cause of the end as the telephone network knows it (Q.850).
    q850: Option<u8>,
    /// How long the called side has rung.
    ringing: timer_c::Ringing,
    early_target: String,
    /// What is kept for a 2xx.
    two_hundred: two_hundred::TwoHundred,
    session_ids: SessionIds,
    /// Its dialogs, by pairs.
    pairs: Pairs,
    /// What the far ends want to know of us.
    auth: challenge::CallAuth,
    /// Whether it is the far end that asks, the caller's leg first.
    doubts: [Option<Box<doubt::Doubt>>; 2],
    course: course::Course,
    end: Option<Cause>,
    ended_in_log: bool,
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

    /// The leg of a dialog, and the dialog.
    fn leg_and_half(&mut self, at: DialogRef) -> (&mut Leg, &mut Half) {
        let leg = match at.side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        };
        (leg, &mut self.pairs[at])
    }

    /// The dialog toward a side of the pair that is confirmed; before that, of what the INVITE under way has begun.
    fn toward(&self, side: Side) -> DialogRef {
        self.pairs.current().toward(side)
    }

    /// Where the far end of a dialog is.
    fn far(&self, at: DialogRef) -> FarEnd<'_> {
        self.leg(at.side).far(&self.pairs[at].dialog)
    }

    /// What a description on its way changes.
    fn offer_answer(&mut self) -> OfferAnswer<'_> {
        let class = self.class();
        OfferAnswer { media: &mut self.media, pairs: &mut self.pairs, caller: &self.caller, callee: &self.callee, class }
    }

    /// True once nothing is left to do but what the log has to hear: all else can be forgotten.
    pub fn is_done(&self) -> bool {
        self.phase == CallPhase::Over
            && self.ended_in_log
            && !self.two_hundred.any_pending()
            && self.crossings.is_empty()
            && self.uac.is_done()
    }

    /// What the log has still to hear of a call that is done.
    pub fn into_ended(self) -> (Ended, Ladder) {
        let (failed, answered, abandoned) = (self.has_failed(), self.was_answered(), self.claim.is_abandoned());
        let Call { id, uid, claim_key, exact, emergency, journal, ladder, .. } = self;
        (Ended { id, uid, claim_key, exact, emergency, failed, answered, abandoned, journal }, ladder)
    }

    /// The present media session.
    pub fn media_id(&self) -> crate::ids::MediaId {
        self.media.id()
    }

    /// True for a call that another node has, and of which this one says nothing.
    pub fn is_lost(&self) -> bool {
        self.claim.is_lost()
    }

    /// True while another node has the called side, and this one only its record.
    pub fn is_ceded(&self) -> bool {
        self.claim.is_ceded()
    }

    /// How far it is, as peers are told.
    pub fn stage(&self) -> ClaimStage {
        self.claim.stage(self.phase)
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

    /// Our tag toward the caller, in the dialog that is confirmed; before that, the one that it knows the call by.
    pub fn tag(&self) -> &str {
        &self.pairs[self.toward(Side::Caller)].dialog.local_tag
    }

    /// What this call is counted under.
    pub fn class(&self) -> &'static str {
        routing::class_label(self.emergency_info.as_ref().map(|info| info.service.as_str()))
    }

    /// True once it is over.
    pub fn is_over(&self) -> bool {
        self.phase == CallPhase::Over
    }

    /// Both legs as they are recorded, the caller's first; of several early dialogs, with the one that began last.
    pub fn legs(&self) -> (store_pb::LegRecord, store_pb::LegRecord) {
        let pair = self.pairs.latest();
        let of = |side| self.leg(side).record(&self.pairs[pair.toward(side)], Vec::new());
        (of(Side::Caller), of(Side::Callee))
    }

    /// The record of a pair of dialogs for the log.
    fn record(&self, pair: PairId) -> store_pb::DialogRecord {
        let of = |side| self.leg(side).record(&self.pairs[pair.toward(side)], self.media.ports_toward(side));
        store_pb::DialogRecord {
            caller: Some(of(Side::Caller)),
            callee: Some(of(Side::Callee)),
            media_profile: if self.media.has_ports() { "rtp".into() } else { "none".into() },
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
    pub abandoned: bool,
    /// What the log does not have.
    pub journal: Journal,
}
