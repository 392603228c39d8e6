//! Client transactions: branches, stored requests and ACKs, send numbers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::action::{Action, Actions};
use super::output::{ClientTxId, NewRequest, TxEvent, TxOutput};
use super::shared::{Shared, TxId, TxTimers};
use super::timing::{T1, Timer};
use super::user::ClientUser;
use super::{invite_client, non_invite_client};
use crate::ids::{NodeId, SendId};
use crate::io::{ReturnPath, SendFailure, Transmit};
use crate::time::Instant;

/// Set in every [`SendId`] made here, so that the caller may number sends of its own below it.
pub const SEND_MARK: u64 = 1 << 63;
/// The low bits count the sends of one transaction, modulo 256: a failure ends the transaction, whichever send it was.
const SEND_COUNT_BITS: u32 = 8;

/// What to do with a response that found its client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseAction {
    /// Hand it to the TU.
    Deliver,
    /// It says nothing new; the machine has done what is due.
    Absorb,
    /// The first non-2xx final response to an INVITE: hand it to the TU, and before the next call of `handle_timeout` hand the
    /// ACK to [`Transactions::set_ack`](super::Transactions::set_ack).
    NeedAck,
}

#[derive(Clone, Copy, Debug)]
enum ClientMachine {
    Invite(invite_client::State),
    NonInvite(non_invite_client::State),
}

/// What happens to a client transaction of either kind.
#[derive(Clone, Copy, Debug)]
enum ClientEvent {
    Response(u16),
    Timer(Timer),
    TransportError,
}

impl ClientMachine {
    fn start(invite: bool, reliable: bool) -> (ClientMachine, Actions) {
        if invite {
            let (state, actions) = invite_client::start(reliable);
            (ClientMachine::Invite(state), actions)
        } else {
            let (state, actions) = non_invite_client::start(reliable);
            (ClientMachine::NonInvite(state), actions)
        }
    }

    fn on(&mut self, event: ClientEvent, reliable: bool) -> Actions {
        match self {
            ClientMachine::Invite(state) => {
                use invite_client::Event as E;
                let event = match event {
                    ClientEvent::Response(..200) => Some(E::Provisional),
                    ClientEvent::Response(200..300) => Some(E::Success),
                    ClientEvent::Response(300..) => Some(E::Failure),
                    ClientEvent::Timer(timer) => E::of_timer(timer),
                    ClientEvent::TransportError => Some(E::TransportError),
                };
                let Some(event) = event else { return Actions::NONE };
                let (next, actions) = invite_client::on(*state, event, reliable);
                *state = next;
                actions
            }
            ClientMachine::NonInvite(state) => {
                use non_invite_client::Event as E;
                let event = match event {
                    ClientEvent::Response(..200) => Some(E::Provisional),
                    ClientEvent::Response(200..) => Some(E::Final),
                    ClientEvent::Timer(timer) => E::of_timer(timer),
                    ClientEvent::TransportError => Some(E::TransportError),
                };
                let Some(event) = event else { return Actions::NONE };
                let (next, actions) = non_invite_client::on(*state, event, reliable);
                *state = next;
                actions
            }
        }
    }

    fn is_invite(self) -> bool {
        matches!(self, ClientMachine::Invite(_))
    }

    /// False where the stored request is not needed any more.
    fn may_repeat(self) -> bool {
        use non_invite_client::State::{Proceeding, Trying};
        matches!(
            self,
            ClientMachine::Invite(invite_client::State::Calling { .. }) | ClientMachine::NonInvite(Trying { .. } | Proceeding)
        )
    }
}

#[derive(Debug)]
struct ClientTx {
    user: ClientUser,
    branch: Arc<str>,
    machine: ClientMachine,
    way: ReturnPath,
    tls_name: Option<Box<str>>,
    /// Empty once it will not be repeated.
    request: Bytes,
    ack: Option<Bytes>,
    /// How many sends there were, modulo 256.
    sends: u8,
    timers: TxTimers,
}

impl ClientTx {
    fn reliable(&self) -> bool {
        self.way.path.transport.is_reliable()
    }

    fn send(&mut self, shared: &mut Shared, id: ClientTxId, payload: Bytes) {
        let send = SendId(SEND_MARK | (id.0 << SEND_COUNT_BITS) | u64::from(self.sends));
        self.sends = self.sends.wrapping_add(1);
        let transmit = Transmit { path: self.way.path, reopen: None, tls_name: self.tls_name.clone(), payload, id: send };
        shared.out.push_back(match self.way.ingress {
            None => TxOutput::Transmit(transmit),
            Some(to) => TxOutput::SendFor { to, transmit },
        });
    }
}

/// The transactions of one branch: a CANCEL has the branch of its INVITE (RFC 3261 §9.1).
#[derive(Debug, Default)]
struct OfBranch {
    invite: Option<ClientTxId>,
    other: Option<ClientTxId>,
}

impl OfBranch {
    fn slot(&mut self, invite: bool) -> &mut Option<ClientTxId> {
        if invite { &mut self.invite } else { &mut self.other }
    }
}

/// The maps are for lookups, and what is iterated is put in order: their random seeds do not show.
#[derive(Debug, Default)]
pub(super) struct ClientTable {
    by_id: HashMap<ClientTxId, ClientTx>,
    by_branch: HashMap<Arc<str>, OfBranch>,
    /// Users of transactions that are gone, until they have been told so.
    ended: HashMap<ClientTxId, ClientUser>,
}

impl ClientTable {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn find(&self, branch: &str, invite: bool) -> Option<ClientTxId> {
        let of_branch = self.by_branch.get(branch)?;
        if invite { of_branch.invite } else { of_branch.other }
    }

    pub(super) fn way(&self, id: ClientTxId) -> Option<ReturnPath> {
        Some(self.by_id.get(&id)?.way)
    }

    pub(super) fn branch(&self, id: ClientTxId) -> Option<&str> {
        Some(&self.by_id.get(&id)?.branch)
    }

    pub(super) fn user(&self, id: ClientTxId) -> ClientUser {
        self.by_id.get(&id).map(|tx| tx.user).or_else(|| self.ended.get(&id).copied()).unwrap_or_default()
    }

    pub(super) fn set_user(&mut self, id: ClientTxId, user: ClientUser) {
        if let Some(known) = self.by_id.get_mut(&id).map(|tx| &mut tx.user).or_else(|| self.ended.get_mut(&id)) {
            *known = user;
        }
    }

    /// Its user has been told that it is gone.
    pub(super) fn forget_user(&mut self, id: ClientTxId) {
        self.ended.remove(&id);
    }

    /// `None`: the branch is taken.
    pub(super) fn create(&mut self, shared: &mut Shared, now: Instant, request: NewRequest) -> Option<ClientTxId> {
        let NewRequest { user, branch, invite, way, tls_name, payload } = request;
        if self.find(&branch, invite).is_some() {
            return None;
        }
        let id = ClientTxId(shared.next_serial());
        let branch: Arc<str> = branch.into();
        *self.by_branch.entry(branch.clone()).or_default().slot(invite) = Some(id);
        let (machine, actions) = ClientMachine::start(invite, way.path.transport.is_reliable());
        let timers = TxTimers::default();
        let tx = ClientTx { user, branch, machine, way, tls_name, request: payload, ack: None, sends: 0, timers };
        self.by_id.insert(id, tx);
        self.run(shared, now, id, actions, SendFailure::Refused);
        Some(id)
    }

    pub(super) fn on_response(&mut self, shared: &mut Shared, now: Instant, id: ClientTxId, status: u16) -> ResponseAction {
        let Some(tx) = self.by_id.get_mut(&id) else { return ResponseAction::Absorb };
        let actions = tx.machine.on(ClientEvent::Response(status), tx.reliable());
        let first_failure = tx.machine.is_invite() && status >= 300;
        match self.run(shared, now, id, actions, SendFailure::Refused) {
            true if first_failure => ResponseAction::NeedAck,
            true => ResponseAction::Deliver,
            false => ResponseAction::Absorb,
        }
    }

    pub(super) fn set_ack(&mut self, shared: &mut Shared, id: ClientTxId, ack: Bytes) {
        let Some(tx) = self.by_id.get_mut(&id) else { return };
        if matches!(tx.machine, ClientMachine::Invite(invite_client::State::Completed)) {
            tx.ack = Some(ack.clone());
            tx.send(shared, id, ack);
        }
    }

    pub(super) fn on_timer(&mut self, shared: &mut Shared, now: Instant, id: ClientTxId, timer: Timer) {
        self.drive(shared, now, id, ClientEvent::Timer(timer), SendFailure::Refused);
    }

    /// `from`: the node that could not send it; `None`: this one.
    pub(super) fn on_send_failed(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        from: Option<NodeId>,
        send: SendId,
        reason: SendFailure,
    ) {
        if send.0 & SEND_MARK == 0 {
            return;
        }
        let id = ClientTxId((send.0 & !SEND_MARK) >> SEND_COUNT_BITS);
        // What another node reports is about a transaction that goes through it, or one of an earlier start of this node.
        if self.by_id.get(&id).is_some_and(|tx| tx.way.ingress != from) {
            return;
        }
        // A datagram that found no room in the queue is as lost as one that the network dropped: the next copy repairs it.
        if reason == SendFailure::Congested && self.by_id.get(&id).is_some_and(|tx| !tx.reliable()) {
            return;
        }
        self.drive(shared, now, id, ClientEvent::TransportError, reason);
    }

    pub(super) fn on_node_gone(&mut self, shared: &mut Shared, now: Instant, node: NodeId) {
        let mut gone: Vec<ClientTxId> =
            self.by_id.iter().filter(|(_, tx)| tx.way.ingress == Some(node)).map(|(id, _)| *id).collect();
        // In the order of their beginning, whatever the map's is.
        gone.sort_unstable();
        for id in gone {
            self.drive(shared, now, id, ClientEvent::TransportError, SendFailure::Refused);
        }
    }

    pub(super) fn stop_retransmitting(&mut self, shared: &mut Shared, id: ClientTxId) {
        if let Some(tx) = self.by_id.get_mut(&id) {
            tx.timers.stop(shared, Timer::A);
            tx.timers.stop(shared, Timer::E);
        }
    }

    pub(super) fn resume_retransmitting(&mut self, shared: &mut Shared, now: Instant, id: ClientTxId) {
        if let Some(tx) = self.by_id.get_mut(&id)
            && matches!(tx.machine, ClientMachine::Invite(invite_client::State::Calling { .. }))
            && !tx.reliable()
        {
            tx.timers.start(shared, TxId::Client(id), Timer::A, now, T1);
        }
    }

    pub(super) fn abandon(&mut self, shared: &mut Shared, id: ClientTxId) {
        let Some(mut tx) = self.by_id.remove(&id) else { return };
        tx.timers.stop_all(shared);
        if let Some(of_branch) = self.by_branch.get_mut(&tx.branch) {
            *of_branch.slot(tx.machine.is_invite()) = None;
            if of_branch.invite.is_none() && of_branch.other.is_none() {
                self.by_branch.remove(&tx.branch);
            }
        }
        self.ended.insert(id, tx.user);
        shared.event(TxEvent::ClientTerminated(id));
    }

    fn drive(&mut self, shared: &mut Shared, now: Instant, id: ClientTxId, event: ClientEvent, reason: SendFailure) {
        let Some(tx) = self.by_id.get_mut(&id) else { return };
        let actions = tx.machine.on(event, tx.reliable());
        self.run(shared, now, id, actions, reason);
    }

    /// Does what a step ordered; `reason` is for a transport error. True: the response is for the TU.
    fn run(&mut self, shared: &mut Shared, now: Instant, id: ClientTxId, actions: Actions, reason: SendFailure) -> bool {
        let Some(tx) = self.by_id.get_mut(&id) else { return false };
        let mut passed_up = false;
        let mut ended = false;
        for action in actions.iter() {
            match action {
                Action::SendLast => {
                    let request = tx.request.clone();
                    tx.send(shared, id, request);
                }
                // Not there yet at the first final response: `set_ack` sends it.
                Action::SendAck => {
                    if let Some(ack) = tx.ack.clone() {
                        tx.send(shared, id, ack);
                    }
                }
                Action::PassUp => passed_up = true,
                Action::StartTimer(timer, after) => tx.timers.start(shared, TxId::Client(id), timer, now, after),
                Action::StopTimer(timer) => tx.timers.stop(shared, timer),
                Action::InformTimeout => shared.event(TxEvent::ClientTimeout(id)),
                Action::InformTransportError => shared.event(TxEvent::ClientTransportError(id, reason)),
                Action::Terminate => ended = true,
                // Server machines only.
                Action::Send | Action::InformTrying => {}
            }
        }
        if !tx.machine.may_repeat() {
            tx.request = Bytes::new();
        }
        if ended {
            self.abandon(shared, id);
        }
        passed_up
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.by_branch.len() + self.ended.len()
    }
}
