//! From the caller's INVITE to the first packet toward the called side: claim, ports and targets, all at once.

use std::net::IpAddr;

use super::about::About;
use super::address::asks_for_sips;
use super::bridge::Underway;
use super::challenge::KnownChallenges;
use super::claim::{Budget, CallClaim, ClaimEvent, claim_record};
use super::context::Context;
use super::doubt::Doubts;
use super::emergency::identify;
use super::journal::Journal;
use super::ladder::Ladder;
use super::leg::Leg;
use super::media::CallMedia;
use super::pairs::Pairs;
use super::records::Records;
use super::session_id::SessionIds;
use super::session_timer::SessionTimer;
use super::sides::Sides;
use super::timer_c::Ringing;
use super::uac::Uac;
use super::uas::Uas;
use super::{Call, CallPhase, body};
use crate::dialog::{Dialog, Half, Pair, fit_to_send};
use crate::ids::{CallUid, Epoch, LocalId, PacketKey};
use crate::io::{Realm, ReturnPath, Side, Transport};
use crate::sip::Message;
use crate::store_pb::command::Kind;
use crate::token::{ClaimKey, OwnerToken, TokenKind};
use crate::transaction::ServerTxId;

/// What a new call is made of.
pub struct NewCall {
    /// Its number on this node.
    pub id: LocalId,
    /// The INVITE.
    pub invite: Message,
    /// Its transaction; 100 was sent. `None`: it was answered before this node had the call.
    pub tx: Option<ServerTxId>,
    /// Its way back.
    pub back: ReturnPath,
    /// The trunk it came from.
    pub trunk: Box<str>,
    /// The emergency service that it calls, without `urn:service:`; `None`: an ordinary call.
    pub service: Option<Box<str>>,
    /// Its claim key.
    pub claim_key: ClaimKey,
    /// Its packet key.
    pub packet_key: PacketKey,
    /// The claim is that of a call which nobody serves: claim nothing, and use another identity toward the called side.
    pub orphan: bool,
    /// It replaces a dialog of another call (RFC 3891).
    pub replaced: Option<super::Replaced>,
}

impl Call {
    /// Begins a call: claims it, asks for ports and for its first target.
    pub fn begin(cx: &mut Context, new: NewCall) -> Call {
        let orphan = new.orphan;
        let uid = cx.own_uid(new.id);
        let mut call = Call::make(cx, new, uid);
        call.sides.ladder.received(cx.now.unix, call.sides.caller.realm, &call.uas.back, &call.about.invite);
        call.sides.ladder.sent(cx.now.unix, call.sides.caller.realm, &call.uas.back, &call.about.invite.response(100, None));
        call.uac.plan(cx, &call.about, &call.sides.caller.trunk);
        if let Some(hop) = call.uac.targets.first_hop() {
            // The ports are asked for before the called side is known for good; it nearly always is the first one.
            call.media.expect_callee_in(hop.realm);
        }
        // Before anything that may dial: an INVITE without ports of ours has a description that leads nowhere.
        // A delayed offer nearly always has one stream: have it ready.
        let streams = body::Descriptions::of(&call.about.invite).streams().max(1);
        call.media.ensure(cx, streams);
        if orphan {
            // The log has no place for a second call under the claim; its owner knows it all the same.
            call.records.journal.give_up(cx);
        }
        let claim = claim_record(cx, &call.about, &call.sides.caller.trunk, &call.uas.back);
        call.records.journal.push(cx, Kind::Claim(claim));
        if !orphan {
            call.budget.await_log(cx, &mut call.claim);
        } else if !call.budget.await_peers(cx, &mut call.claim) {
            call.tell_claim(cx, ClaimEvent::BudgetSpent);
        }
        call.uac.limit_preparation(cx);
        call.try_dial(cx);
        call
    }

    /// With nothing done for it.
    pub(super) fn make(cx: &mut Context, new: NewCall, uid: CallUid) -> Call {
        let token = |kind| cx.key.seal(OwnerToken { kind, uid }).into_boxed_str();
        let (caller_token, callee_token) = (token(TokenKind::CallerLeg), token(TokenKind::CalleeLeg));
        if new.service.is_some() {
            cx.timers.add_emergency(new.id);
        }
        let (caller, dialog) = caller_leg(cx, &new, uid, &caller_token);
        let realm = caller.realm;
        let callee_realm = if realm == Realm::External { Realm::Core } else { Realm::External };
        let (callee, callee_dialog) = callee_leg(cx, &new, uid, callee_realm);
        let pair = Pair {
            caller: Half::new(dialog, caller_token, sdp_id(uid, 0)),
            callee: Half::new(callee_dialog, callee_token, sdp_id(uid, 1)),
        };
        let service = new.service.as_deref();
        let incident = new.replaced.as_ref().and_then(|r| r.emergency.as_ref()).map(|old| old.incident_id.as_str());
        let emergency_info = service.map(|s| identify(cx, &new.invite, s, new.claim_key, incident));
        let session_ids = SessionIds::of(&new.invite);
        let emergency = new.service.is_some();
        Call {
            about: About {
                id: new.id,
                uid,
                epoch: Epoch::FIRST,
                claim_key: new.claim_key,
                packet_key: new.packet_key,
                emergency,
                emergency_info,
                invite: new.invite,
                arrived: cx.arrived,
                replaced: new.replaced.map(Box::new),
            },
            phase: CallPhase::Preparing,
            counted: true,
            sides: Sides { caller, callee, ladder: Ladder::default(), pairs: Pairs::new(pair), session_ids },
            uas: Uas::new(new.tx, new.back, Ringing::new(new.id, emergency)),
            uac: Uac::new(new.id),
            underway: Underway::new(new.id),
            media: CallMedia::new(cx, [realm, callee_realm], emergency),
            records: Records::new(Journal::new(new.id, uid), cx.now.mono),
            claim: CallClaim::new(new.orphan),
            budget: Budget::new(new.id, new.claim_key.0, new.packet_key),
            takeover: None,
            doubts: Doubts::default(),
            q850: None,
            end: None,
        }
    }
}

/// The leg toward the caller, and the dialog that its INVITE begins there.
fn caller_leg(cx: &Context, new: &NewCall, uid: CallUid, token: &str) -> (Leg, Dialog) {
    let mut dialog = Dialog::from_request(&new.invite, token);
    cx.drop_own_routes(&mut dialog);
    let leg = Leg {
        side: Side::Caller,
        realm: new.back.path.role.realm(),
        path: new.back.path,
        ingress: new.back.ingress,
        secure: asks_for_sips(&new.invite),
        tls_name: None,
        trunk: new.trunk.clone(),
        known: KnownChallenges::default(),
        contact_params: "".into(),
        session: SessionTimer::new(new.id, uid, Side::Caller),
        gone: false,
    };
    (leg, dialog)
}

/// The leg toward the called side and its dialog, as they are before it is known where that is.
fn callee_leg(cx: &Context, new: &NewCall, uid: CallUid, realm: Realm) -> (Leg, Dialog) {
    let dialog = Dialog {
        call_id: "".into(),
        local_tag: "".into(),
        remote_tag: None,
        local_uri: fit_to_send(new.invite.from()).into(),
        remote_uri: fit_to_send(new.invite.to()).into(),
        remote_target: "".into(),
        guessed: false,
        route_set: Vec::new(),
        local_cseq: 0,
        remote_cseq: None,
    };
    let leg = Leg {
        side: Side::Callee,
        realm,
        path: cx.path_to(realm, Transport::Udp, (IpAddr::from([0, 0, 0, 0]), 0).into()),
        ingress: None,
        secure: false,
        tls_name: None,
        trunk: "".into(),
        known: KnownChallenges::default(),
        contact_params: "".into(),
        session: SessionTimer::new(new.id, uid, Side::Callee),
        gone: false,
    };
    (leg, dialog)
}

/// A session id for `o=` lines: unique by call and side, and within the 62 bits that every parser takes.
fn sdp_id(uid: CallUid, side: u64) -> u64 {
    (u64::from(uid.node.0) << 46 | (uid.serial & 0x1f_ffff_ffff) << 8 | u64::from(uid.incarnation.0 & 0x7f) << 1 | side)
        & ((1 << 62) - 1)
}
