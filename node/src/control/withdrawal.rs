//! Taking the anycast address from a node: never from the last one that serves it, unless forced.
//!
//! The log decides, from format level 2 on: of several nodes that are withdrawn or drained at once, one stays. What counts is what the log has
//! of the others (they want to announce, and are well) and what they answer at this moment: who died a moment ago still stands in the log.

use sbc_core::replica::Replica;
use sbc_core::store_pb;
use sbc_core::store_pb::command::Kind;
use sbc_proto::v1 as pb;
use tokio::sync::OwnedMutexGuard;
use tonic::{Code, Status};

use super::auth::Caller;
use super::error::{fault, not_announced, not_proposed};
use super::handle::{AnnounceState, ProposeError};
use super::nodes::Nodes;

impl Nodes {
    pub(super) async fn withdraw_here(&self, caller: &Caller, force: bool, request_id: &str) -> Result<(), Status> {
        let announce = self.0.node.status().borrow().announce;
        let nothing_to_take = match announce {
            AnnounceState::Announced | AnnounceState::Blocked => None,
            AnnounceState::Standby => Some("stands by for the anycast address and does not serve it"),
            AnnounceState::Left => Some("has left the anycast address to a node that is well"),
            AnnounceState::Withdrawn => Some("does not serve the anycast address"),
        };
        if let Some(why) = nothing_to_take.filter(|_| !force) {
            let me = self.0.me();
            // The same order again, whose answer was lost, is no error.
            if announce == AnnounceState::Withdrawn && self.0.read(|r| r.withdrawal_of(me, request_id)) == Some(true) {
                return Ok(());
            }
            let message = format!("{} {why}", self.0.my_name());
            let facts = [("node", self.0.my_name())];
            return Err(fault(Code::FailedPrecondition, pb::ErrorReason::NotAnnouncing, message, &facts));
        }
        let held = self.may_withdraw(caller, force, request_id).await?;
        let done = self.0.node.withdraw().await;
        drop(held);
        done.map_err(|e| not_announced(&e, self.0.my_name(), self.driver()))?;
        self.settled(|s| s.announce != AnnounceState::Announced, "still serves").await
    }

    /// Refuses to take the address from the last node that serves it. The grant counts while its guard lives: until then it is to be carried out.
    pub(super) async fn may_withdraw(
        &self,
        caller: &Caller,
        force: bool,
        request_id: &str,
    ) -> Result<OwnedMutexGuard<()>, Status> {
        let held = self.0.node.intents().hold().await;
        let announce = self.0.node.status().borrow().announce;
        if force || announce == AnnounceState::Withdrawn {
            return Ok(held);
        }
        let heard = self.others_that_serve(caller).await;
        if self.0.read(Replica::level) < 2 {
            // Who merely stands by takes nothing away that is served.
            if announce == AnnounceState::Announced && heard.is_empty() {
                return Err(self.last_announcer());
            }
            return Ok(held);
        }
        let (me, seq) = (self.0.me(), self.0.node.intents().next());
        let withdraw = store_pb::Withdraw {
            node: me.0.into(),
            incarnation: self.0.node.incarnation().0,
            seq,
            heard,
            request_id: request_id.to_owned(),
        };
        let command = store_pb::Command { unix_ms: super::blocks::now_ms(), kind: Some(Kind::Withdraw(withdraw)) };
        if let Err(error) = self.0.node.propose(command).await {
            return Err(self.undecided(&error, request_id));
        }
        match self.0.read(|r| r.withdrawal(me, seq)) {
            Some(true) => Ok(held),
            Some(false) => Err(self.last_announcer()),
            None => Err(self.undecided(&ProposeError::Unknown, request_id)),
        }
    }

    /// Members that answer at this moment that they are well and serve the address, or would.
    async fn others_that_serve(&self, caller: &Caller) -> Vec<u32> {
        // A forwarded request's hop is used up; peers answer this node's own question.
        let own = Caller { forwarded: false, ..caller.clone() };
        let me = u32::from(self.0.me().0);
        let serves = |n: &pb::Node| {
            let state = n.announce_state();
            let well = n.health.as_ref().is_none_or(|h| {
                let old = h.state() == pb::HealthState::Unspecified;
                h.sip_loop && h.core_reachable && h.media && h.quorum && (h.storage || old)
            });
            n.reachable && !n.draining && well && matches!(state, pb::AnnounceState::Announced | pb::AnnounceState::Standby)
        };
        self.all(&own).await.iter().filter(|n| n.id != me && serves(n)).map(|n| n.id).collect()
    }

    fn last_announcer(&self) -> Status {
        let message = "no other node that is well would serve the anycast address";
        fault(Code::FailedPrecondition, pb::ErrorReason::LastAnnouncer, message, &[("node", self.0.my_name())])
    }

    /// The log did not say.
    fn undecided(&self, error: &ProposeError, request_id: &str) -> Status {
        let (raft, leader) = (self.0.node.raft_status(), self.0.leader_name());
        let reason = match error {
            ProposeError::NoLeader => pb::ErrorReason::NoLeader,
            ProposeError::NoQuorum => pb::ErrorReason::NoQuorum,
            ProposeError::Unknown => return not_proposed(error, &raft, &leader, request_id),
        };
        let message = format!("the log cannot say whether another node stays: {error}; only a forced order goes without it");
        fault(Code::Unavailable, reason, message, &[("leader", &leader), ("term", &raft.term.to_string())])
    }
}
