//! The claim of a call: proposed, won, lost, late, and what a call does that met its twin (anycast.md, rules B and C).

use super::dial::{Candidate, Large};
use super::leg::arrival;
use super::services::Services;
use super::{AfterClaim, Call, CallPhase, Cause, ClaimState};
use crate::ids::{CallUid, NodeId};
use crate::io::{Counter, ReturnPath, Target};
use crate::policy::IdentityPolicy;
use crate::sip::{HeaderId, NameAddr};
use crate::store_pb;
use crate::transaction::ServerTxId;

impl Call {
    pub(super) fn claim_record(&self, cx: &Services) -> store_pb::Claim {
        let parse = |value: &str| NameAddr::parse(value).ok();
        let (from, to) = (parse(self.invite.from()), parse(self.invite.to()));
        store_pb::Claim {
            key: self.claim_key.0.to_vec().into(),
            exact: self.exact.to_vec().into(),
            call: self.uid.to_bytes().to_vec().into(),
            owner: u32::from(self.uid.node.0),
            epoch: 1,
            emergency: self.emergency,
            invite: self.invite.raw().clone(),
            arrival: Some(arrival(&self.back.path, self.back.ingress.or(Some(self.uid.node)))),
            trunk: self.caller.trunk.to_string(),
            emergency_info: self.emergency_info.clone(),
            parties: Some(store_pb::CallParties {
                from_uri: from.as_ref().map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                from_display: from.and_then(|n| n.display).unwrap_or_default(),
                to_uri: to.map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                request_uri: self.invite.request_uri().unwrap_or_default().to_owned(),
                call_id: self.invite.call_id().to_owned(),
                asserted_identity: self.asserted_identity(cx).to_owned(),
            }),
        }
    }

    /// What the caller's trunk asserts of the caller; empty: nothing, or it is not believed.
    fn asserted_identity(&self, cx: &Services) -> &str {
        let believed = cx.config.trunk(&self.caller.trunk).is_none_or(|t| t.identity == IdentityPolicy::Trust);
        self.invite.first(HeaderId::PAssertedIdentity).filter(|_| believed).unwrap_or_default()
    }

    /// The log decided the claim.
    pub fn on_claimed(&mut self, cx: &mut Services, won: bool, winner: CallUid, winner_owner: NodeId, exact: bool) -> AfterClaim {
        cx.stop_timer(&mut self.timers.claim);
        if won {
            if self.claim == ClaimState::Pending {
                cx.count(Counter::Claim("won"));
                self.claim = ClaimState::Won;
                self.try_dial(cx);
            } else if self.claim == ClaimState::Late {
                cx.count(Counter::Claim("late_won"));
                self.claim = ClaimState::Won;
            }
            return AfterClaim::Nothing;
        }
        if winner == self.uid {
            return AfterClaim::Nothing;
        }
        match self.phase {
            CallPhase::Preparing if exact && !cx.reachable_peer(winner_owner) && winner_owner != cx.local.node => {
                // Its owner is dead: the caller must not pay for it.
                cx.count(Counter::Claim("orphaned"));
                self.journal.abandon();
                self.go_degraded(cx);
                AfterClaim::Nothing
            }
            CallPhase::Preparing if exact => {
                cx.count(Counter::Claim("lost"));
                self.lose(cx);
                AfterClaim::RelayTo(winner_owner)
            }
            CallPhase::Preparing => {
                // RFC 3261 §8.2.2.2, also across nodes (AC-28).
                cx.count(Counter::Claim("merged"));
                self.refuse(cx, 482);
                self.lose(cx);
                AfterClaim::Merged
            }
            CallPhase::Dialling => {
                cx.count(Counter::Claim("late_lost"));
                self.lose(cx);
                AfterClaim::RelayTo(winner_owner)
            }
            // Answered here: the far ends talk through this node, whatever the log says.
            CallPhase::Answered | CallPhase::Over => {
                self.journal.abandon();
                AfterClaim::Nothing
            }
        }
    }

    /// Another node answers the caller. The claim may still turn out to be this call's: it is kept until the log has decided,
    /// that node yields, or the ring timeout ends it.
    pub(super) fn fall_quiet(&mut self, cx: &mut Services) {
        self.quiet = true;
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        if self.timers.ring.is_none() {
            self.restart_ring(cx);
        }
    }

    /// A peer says that it has this call, and the log cannot tell (AC-03).
    pub fn on_peer_has_it(&mut self, cx: &mut Services) -> bool {
        if self.quiet || self.phase != CallPhase::Preparing || self.claim != ClaimState::Pending {
            return false;
        }
        cx.count(Counter::Claim("lost"));
        self.fall_quiet(cx);
        true
    }

    /// The budget is spent.
    pub(super) fn on_claim_budget(&mut self, cx: &mut Services) {
        if self.claim == ClaimState::Pending {
            cx.count(Counter::Claim("late"));
            self.go_degraded(cx);
        }
    }

    /// A proposal of this call failed.
    pub fn on_propose_failed(&mut self, cx: &mut Services) {
        self.journal.on_failed(cx, self.serial, self.uid);
        if self.claim == ClaimState::Pending {
            cx.stop_timer(&mut self.timers.claim);
            cx.count(Counter::Claim("failed"));
            self.go_degraded(cx);
        }
    }

    /// An emergency call is never held for the store's sake (rule B).
    fn go_degraded(&mut self, cx: &mut Services) {
        cx.stop_timer(&mut self.timers.claim);
        cx.count(Counter::Degraded);
        self.claim = ClaimState::Late;
        self.journal.set_degraded();
        self.try_dial(cx);
    }

    /// Another node has the call: nothing more is said to either side from here.
    fn lose(&mut self, cx: &mut Services) {
        self.claim = ClaimState::Lost;
        self.journal.abandon();
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        for attempt in &mut self.attempts {
            attempt.cancel(cx, None);
        }
        self.caller.gone = true;
        self.callee.gone = true;
        self.ended_in_log = true;
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// The node that had the called side yields, for the claim is this call's: dials the same target again, as another leg.
    pub fn resume(&mut self, cx: &mut Services, tx: ServerTxId, back: ReturnPath) {
        self.quiet = false;
        self.invite_tx = Some(tx);
        self.back = back;
        self.redial(cx);
    }

    /// The last target once more, as another leg.
    pub(super) fn redial(&mut self, cx: &mut Services) {
        if let Some(last) = self.attempts.last() {
            let host = last.tls_name.clone().unwrap_or_else(|| last.path.remote.ip().to_string().into());
            let target = Target { addr: last.path.remote, transport: last.path.transport };
            let (trunk, realm, uri) = (self.callee.trunk.clone(), self.callee.realm, Some(last.uri.clone()));
            self.candidates.push_front(Candidate { target, trunk, realm, host, large: Large::Stay, uri, again: None });
        }
        self.try_dial(cx);
    }
}
