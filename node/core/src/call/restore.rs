//! A call made again from its record alone, as whoever takes it over has to.

use std::time::Duration;

use super::body;
use super::claim::{CallClaim, INVITE_LIFE};
use super::context::Context;
use super::media::CallMedia;
use super::setup::NewCall;
use super::takeover::Takeover;
use super::{Call, CallPhase, recorded_way};
use crate::ids::{LocalId, PacketKey};
use crate::io::{ReturnPath, Side, StreamPorts};
use crate::replica::{CallEntry, Phase};
use crate::sip::Message;
use crate::store_pb::LegRecord;
use crate::token::ClaimKey;

impl Call {
    /// An answered call as the log has it, at this place in the tables. `anew`: it was another node's, or an earlier start's, and its far ends are asked
    /// to go on with this one, on other ports; else nothing is sent for it. `None`: it is not answered, or its record says too little.
    pub fn restore(cx: &mut Context, id: LocalId, entry: &CallEntry, anew: bool) -> Option<Call> {
        let (claim, state) = (entry.claim(), entry.state());
        let records = (entry.caller()?, entry.callee()?);
        if entry.phase() != Phase::Answered {
            return None;
        }
        let same_start = cx.is_own(entry.uid);
        let (path, ingress) = recorded_way(cx, claim.arrival.as_ref()?, entry.owner(), same_start)?;
        let new = NewCall {
            id,
            invite: Message::parse(claim.invite.clone()).ok()?,
            tx: None,
            back: ReturnPath::through(ingress, path),
            trunk: claim.trunk.as_str().into(),
            service: claim.emergency_info.as_ref().map(|info| info.service.as_str().into()),
            claim_key: ClaimKey(entry.claim_key),
            packet_key: PacketKey(claim.packet_key[..].try_into().ok()?),
            orphan: false,
            replaced: None,
        };
        let mut call = Call::make(cx, new, entry.uid);
        call.about.emergency = claim.emergency;
        call.about.emergency_info = claim.emergency_info.clone();
        call.about.epoch = entry.epoch();
        (call.phase, call.claim) = (CallPhase::Answered, CallClaim::restored());
        call.uas.ringing.restored();
        call.uac.target = state.target.clone();
        let pair = call.sides.pairs.current();
        for (side, record) in [(Side::Caller, records.0), (Side::Callee, records.1)] {
            let (leg, half) = call.sides.leg_and_half(pair.toward(side));
            leg.restore(half, cx, record, (entry.owner(), same_start))?;
        }
        call.sides.session_ids.restore(&records.0.session_id, &records.1.session_id);
        call.underway.refers.restore(state.dialog.as_ref().map(|dialog| &dialog.refers[..]).unwrap_or_default());
        call.sides.pairs.confirm(cx, pair);
        let ports = ports(records.0, records.1);
        let streams = ports.len();
        if !anew {
            call.media = CallMedia::restored(call.media, ports);
        }
        call.records.journal.continue_after(state.seq);
        let now = cx.now;
        let ago = |unix_ms: u64| Duration::from_millis(now.unix.0.saturating_sub(unix_ms));
        call.sides.begin_keep_alive(cx, id);
        call.records.course = super::course::Course::resumed(now.mono, ago(state.claimed_unix_ms), ago(state.answered_unix_ms));
        if anew {
            // RFC 3261 §13.3.1.4: an owner repeats its 200 for so long. An offer of the called side's waits for the caller's answer in its ACK.
            let lately = ago(state.answered_unix_ms) < INVITE_LIFE && body::find_sdp(&call.about.invite).is_some();
            let invite_cseq = Some(records.1.invite_cseq).filter(|cseq| lately && *cseq > 0);
            call.takeover = Some(Box::new(Takeover::begun(invite_cseq)));
            call.media.expect_callee_in(call.sides.callee.realm);
            if call.media.ensure(cx, streams) {
                let outcome = call.taking_over().and_then(|mut taking| taking.on_ports(cx));
                call.settle(cx, outcome);
            }
        }
        Some(call)
    }
}

/// Our ports toward both legs, by stream.
fn ports(caller: &LegRecord, callee: &LegRecord) -> Vec<StreamPorts> {
    let port = |port: &u32| u16::try_from(*port).unwrap_or(0);
    let pairs = caller.media_ports.iter().map(port).zip(callee.media_ports.iter().map(port));
    pairs.map(|(caller, callee)| StreamPorts { caller, callee }).collect()
}
