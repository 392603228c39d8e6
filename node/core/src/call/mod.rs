//! A call: a back-to-back user agent with one leg toward the caller and one toward the called party.
//!
//! `setup` begins it, `claim` settles whose it is, `dial` decides where to dial, `answer` brings the called side's responses to the caller, `request` passes
//! requests between the legs, `teardown` ends it. What is kept true: the caller's INVITE gets exactly one final answer;
//! whatever ends one leg ends the other; the log is told (`journal`), and nothing here waits for it but the claim.

mod about;
mod acknowledge;
mod address;
mod adopt;
mod after_bye;
mod answer;
mod attempt;
mod authenticated;
mod body;
mod bridge;
mod challenge;
mod claim;
mod context;
mod courier;
mod course;
mod dial;
mod dialling;
mod doubt;
mod due;
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
mod pairs;
mod provisional;
mod reason;
mod record;
mod records;
mod redirect;
mod refresh;
mod reliable;
mod remote;
mod request;
mod respond;
mod restore;
mod session_id;
mod session_timer;
mod setup;
mod sides;
mod takeover;
mod teardown;
mod timer;
mod timer_c;
mod timers;
mod transfer;
mod two_hundred;
mod uac;
mod uas;
mod ways;

pub use about::About;
pub use address::{asks_for_sips, is_sips, to_value, uri_at};
pub use authenticated::Authenticated;
pub use body::{Unusable, find_sdp, sdp_bytes, unusable};
pub use bridge::Exchange;
pub use challenge::{Challenged, KnownChallenges};
pub use claim::{AfterClaim, CallClaim, ClaimEvent, INVITE_LIFE, Then, Winner};
pub use context::{BRANCH_COOKIE, Context};
pub use courier::{Courier, Failed, ResponseKind};
pub use dial::{DATAGRAM_MAX, target_number};
pub use doubt::Doubts;
pub use emergency::{PIDF, carried, is_data};
pub use end::End;
pub use failure::upstream;
pub use headers::{MaxForwardsError, copy_through, next_max_forwards, server_key, strip_our_credentials};
pub use inquiry::{CLAIM_FIELD, InquiryAnswer};
pub use journal::Journal;
pub use ladder::{Ladder, Note};
pub use leg::Leg;
pub use lines::{Dialogs, Lines, OfCall, Owner, Peer};
pub use pairs::Pairs;
pub use record::{recorded_dialog, recorded_path, recorded_way};
pub use records::Records;
pub use respond::{ALLOW, ALLOW_NO_EVENTS, LOOP_PARAM, allowed, fill_via, finish_response};
pub use session_id::SessionIds;
pub use session_timer::{MIN_SE, asks_too_little};
pub use setup::NewCall;
pub use sides::Sides;
pub use timer::{CallTimer, TimerUser};
pub use timers::{Lane, Timers};
pub use transfer::{Refer, Replaced, Usage, map_event_id, unwrapped};
pub use ways::{NextHop, Written, hop_to, keep_alive_after};

use adopt::TakingOver;
use bridge::{Bridge, Underway};
use claim::Budget;
use dial::Dialler;
pub use media::CallMedia;
use provisional::Provisional;
pub use takeover::Takeover;
use uac::Uac;
use uas::Answering;
pub use uas::Uas;

use crate::ids::{CallUid, LocalId, PacketKey};
use crate::io::ClaimStage;
use crate::token::ClaimKey;

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

impl CallPhase {
    /// True once it is over.
    pub fn is_over(self) -> bool {
        self == CallPhase::Over
    }
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

impl Cause {
    /// True of a call that was answered.
    fn is_answered(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// True of a call that has not reached its user.
    fn is_failure(&self) -> bool {
        crate::replica::failed(self.origin, u32::from(self.status))
    }
}

/// One call that this node owns.
pub struct Call {
    /// What it is.
    pub about: About,
    /// Where it stands.
    pub phase: CallPhase,
    /// It is counted as a call of its trunk and its node.
    pub counted: bool,
    /// Both sides of it.
    pub sides: Sides,
    /// What it tells the log.
    pub records: Records,
    /// Whether it is the far end that asks.
    pub doubts: Doubts,
    /// Whose it is.
    pub claim: CallClaim,
    /// The caller's INVITE.
    pub uas: Uas,
    /// The first INVITE toward the called side.
    uac: Uac,
    /// Requests within the dialogs.
    underway: Underway,
    /// Its media.
    pub media: CallMedia,
    budget: Budget,
    /// It was another node's, or an earlier start's, and not both far ends have gone on with this one yet.
    pub takeover: Option<Box<Takeover>>,
    /// The cause of the end as the telephone network knows it (Q.850).
    q850: Option<u8>,
    end: Option<Cause>,
}

/// What several parts of it are lent for one input.
impl Call {
    /// What the responses to the caller's INVITE touch.
    fn answering(&mut self) -> Answering<'_> {
        Answering { about: &self.about, uas: &mut self.uas, sides: &mut self.sides, media: &mut self.media }
    }

    /// What a provisional response of the called side touches.
    fn provisional(&mut self) -> Provisional<'_> {
        let Call { about, uas, uac, sides, media, underway, records, .. } = self;
        Provisional { to: Answering { about, uas, sides, media }, uac, underway, records }
    }

    /// What dialling touches.
    fn dialler(&mut self) -> Dialler<'_> {
        let keyless = self.records.journal.has_no_key();
        let Call { about, uas, uac, sides, media, phase, .. } = self;
        Dialler { to: Answering { about, uas, sides, media }, uac, phase, keyless }
    }

    /// What a request within the call touches.
    fn bridge(&mut self) -> Bridge<'_> {
        self.bridge_and_uac().0
    }

    /// The same, and the first INVITE toward the called side.
    fn bridge_and_uac(&mut self) -> (Bridge<'_>, &mut Uac) {
        let Call { about, phase, sides, media, underway, records, uac, .. } = self;
        (Bridge { about, phase: *phase, sides, media, underway, records }, uac)
    }

    /// What taking it over touches; `None`: it was begun here, or is taken over.
    fn taking_over(&mut self) -> Option<TakingOver<'_>> {
        let Call { about, phase, sides, media, underway, records, uas, takeover, .. } = self;
        let bridge = Bridge { about, phase: *phase, sides, media, underway, records };
        Some(TakingOver { bridge, uas, takeover: takeover.as_deref_mut()? })
    }

    /// What carrying requests touches.
    pub fn courier(&mut self) -> Courier<'_, Exchange> {
        self.underway.courier(self.about.id, &mut self.sides)
    }
}

/// What is asked of it.
impl Call {
    /// True once nothing is left to do but what the log has to hear: all else can be forgotten.
    pub fn is_done(&self) -> bool {
        self.phase == CallPhase::Over && self.records.has_ended() && self.underway.is_done() && self.uac.is_done()
    }

    /// What is to be kept of a call that is over, for the NOTIFYs of its REFERs; only once.
    pub fn take_usage(&mut self) -> Option<Usage> {
        let over = self.phase.is_over() && !self.underway.two_hundred.holds_bye();
        if over { self.underway.refers.take_usage(self.about.emergency, &self.sides) } else { None }
    }

    /// How far it is, as peers are told.
    pub fn stage(&self) -> ClaimStage {
        self.claim.stage(self.phase)
    }

    /// True when it is over and the user has not been reached: who asks again is not asking twice.
    pub fn has_failed(&self) -> bool {
        self.end.as_ref().is_some_and(|end| self.phase.is_over() && end.is_failure())
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
    /// Its packet key.
    pub packet_key: PacketKey,
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

impl Ended {
    /// What the log has still to hear of a call that is done, and its messages.
    pub fn of(call: Call) -> (Ended, Ladder) {
        let (failed, answered) = (call.has_failed(), call.end.as_ref().is_some_and(Cause::is_answered));
        let abandoned = call.claim.is_abandoned();
        let About { id, uid, claim_key, packet_key, emergency, .. } = call.about;
        let journal = call.records.journal;
        (Ended { id, uid, claim_key, packet_key, emergency, failed, answered, abandoned, journal }, call.sides.ladder)
    }
}
