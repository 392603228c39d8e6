//! Server transactions: keys, stored responses, ways back.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::action::{Action, Actions};
use super::output::{ServerTxId, TxEvent, TxOutput};
use super::shared::{Shared, TxId, TxTimers};
use super::timing::Timer;
use super::user::ServerUser;
use super::{invite_server, non_invite_server};
use crate::ids::SendId;
use crate::io::{ReturnPath, Transmit};
use crate::time::Instant;

/// RFC 3261 §17.2.3: what a request has in common with its retransmissions, its ACK and (but for the method) its CANCEL.
/// The caller normalises it: `sent_by` in lower case, with the port where there is one. For a request without a branch that
/// begins with `z9hG4bK`, the caller packs the older rule's fields (Request-URI, tags, Call-ID, CSeq, top Via) into `branch`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerKey {
    /// The top Via's branch.
    pub branch: Box<str>,
    /// The top Via's sent-by.
    pub sent_by: Box<str>,
    /// The method; `INVITE` for ACK.
    pub method: Box<str>,
}

#[derive(Clone, Copy, Debug)]
enum ServerMachine {
    Invite(invite_server::State),
    NonInvite(non_invite_server::State),
}

/// What happens to a server transaction of either kind.
#[derive(Clone, Copy, Debug)]
enum ServerEvent {
    Request,
    Ack,
    Respond(u16),
    Timer(Timer),
}

impl ServerMachine {
    fn start(invite: bool) -> (ServerMachine, Actions) {
        if invite {
            let (state, actions) = invite_server::start();
            (ServerMachine::Invite(state), actions)
        } else {
            let (state, actions) = non_invite_server::start();
            (ServerMachine::NonInvite(state), actions)
        }
    }

    fn on(&mut self, event: ServerEvent, reliable: bool) -> Actions {
        match self {
            ServerMachine::Invite(state) => {
                use invite_server::Event as E;
                let event = match event {
                    ServerEvent::Request => E::Request,
                    ServerEvent::Ack => E::Ack,
                    ServerEvent::Respond(..200) => E::Provisional,
                    ServerEvent::Respond(200..300) => E::Success,
                    ServerEvent::Respond(300..) => E::Failure,
                    ServerEvent::Timer(timer) => match E::of_timer(timer) {
                        Some(event) => event,
                        None => return Actions::NONE,
                    },
                };
                let (next, actions) = invite_server::on(*state, event, reliable);
                *state = next;
                actions
            }
            ServerMachine::NonInvite(state) => {
                use non_invite_server::Event as E;
                let event = match event {
                    ServerEvent::Request => Some(E::Request),
                    ServerEvent::Ack => None,
                    ServerEvent::Respond(..200) => Some(E::Provisional),
                    ServerEvent::Respond(200..) => Some(E::Final),
                    ServerEvent::Timer(timer) => E::of_timer(timer),
                };
                let Some(event) = event else { return Actions::NONE };
                let (next, actions) = non_invite_server::on(*state, event, reliable);
                *state = next;
                actions
            }
        }
    }

    /// False where the stored response is not needed any more.
    fn may_repeat(self) -> bool {
        !matches!(self, ServerMachine::Invite(invite_server::State::Accepted | invite_server::State::Confirmed))
    }
}

#[derive(Debug)]
struct ServerTx {
    user: ServerUser,
    key: Arc<ServerKey>,
    machine: ServerMachine,
    back: ReturnPath,
    reliable: bool,
    created: Instant,
    /// The last response, as long as it may be repeated.
    last: Option<Bytes>,
    final_status: Option<u16>,
    timers: TxTimers,
}

/// The maps are for lookups only and are never iterated: their random seeds do not show.
#[derive(Debug, Default)]
pub(super) struct ServerTable {
    by_id: HashMap<ServerTxId, ServerTx>,
    by_key: HashMap<Arc<ServerKey>, ServerTxId>,
}

impl ServerTable {
    pub(super) fn len(&self) -> usize {
        debug_assert_eq!(self.by_id.len(), self.by_key.len());
        self.by_id.len()
    }

    pub(super) fn find(&self, key: &ServerKey) -> Option<ServerTxId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn final_status(&self, id: ServerTxId) -> Option<u16> {
        self.by_id.get(&id)?.final_status
    }

    pub(super) fn back(&self, id: ServerTxId) -> Option<ReturnPath> {
        Some(self.by_id.get(&id)?.back)
    }

    pub(super) fn user(&self, id: ServerTxId) -> ServerUser {
        self.by_id.get(&id).map(|tx| tx.user).unwrap_or_default()
    }

    /// `None`: the key is taken.
    pub(super) fn create(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        user: ServerUser,
        key: ServerKey,
        invite: bool,
        back: ReturnPath,
    ) -> Option<ServerTxId> {
        if self.by_key.contains_key(&key) {
            return None;
        }
        let id = ServerTxId(shared.next_serial());
        let key = Arc::new(key);
        let (machine, actions) = ServerMachine::start(invite);
        self.by_key.insert(key.clone(), id);
        let tx = ServerTx {
            user,
            key,
            machine,
            back,
            reliable: back.path.transport.is_reliable(),
            created: now,
            last: None,
            final_status: None,
            timers: TxTimers::default(),
        };
        self.by_id.insert(id, tx);
        self.run(shared, now, id, actions, None, back);
        Some(id)
    }

    pub(super) fn on_request(&mut self, shared: &mut Shared, now: Instant, id: ServerTxId, copy: ReturnPath) {
        let Some(tx) = self.by_id.get_mut(&id) else { return };
        // The newest copy shows the way that is open now. The address must be the same, so that nobody who has seen the key
        // draws the responses to himself.
        if tx.back.is_like(&copy) {
            tx.back = copy;
        }
        let actions = tx.machine.on(ServerEvent::Request, tx.reliable);
        self.run(shared, now, id, actions, None, copy);
    }

    pub(super) fn on_ack(&mut self, shared: &mut Shared, now: Instant, id: ServerTxId) -> bool {
        self.drive(shared, now, id, ServerEvent::Ack, None)
    }

    pub(super) fn on_timer(&mut self, shared: &mut Shared, now: Instant, id: ServerTxId, timer: Timer) {
        self.drive(shared, now, id, ServerEvent::Timer(timer), None);
    }

    pub(super) fn respond(&mut self, shared: &mut Shared, now: Instant, id: ServerTxId, status: u16, payload: Bytes) {
        let Some(tx) = self.by_id.get(&id) else { return };
        let non_invite = matches!(tx.machine, ServerMachine::NonInvite(_));
        if non_invite && !non_invite_server::permitted(status, now.since(tx.created), tx.reliable) {
            return;
        }
        self.drive(shared, now, id, ServerEvent::Respond(status), Some((status, payload)));
    }

    /// One step with the way back that the transaction has. True: the message is for the TU.
    fn drive(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        id: ServerTxId,
        event: ServerEvent,
        response: Option<(u16, Bytes)>,
    ) -> bool {
        let Some(tx) = self.by_id.get_mut(&id) else { return false };
        let actions = tx.machine.on(event, tx.reliable);
        let back = tx.back;
        self.run(shared, now, id, actions, response, back)
    }

    /// Does what a step ordered. True: the message is for the TU.
    fn run(
        &mut self,
        shared: &mut Shared,
        now: Instant,
        id: ServerTxId,
        actions: Actions,
        response: Option<(u16, Bytes)>,
        back: ReturnPath,
    ) -> bool {
        let Some(tx) = self.by_id.get_mut(&id) else { return false };
        let mut passed_up = false;
        let mut ended = false;
        for action in actions.iter() {
            match action {
                Action::Send => {
                    if let Some((status, payload)) = &response {
                        if *status >= 200 {
                            tx.final_status.get_or_insert(*status);
                        }
                        tx.last = Some(payload.clone());
                        send(shared, back, payload.clone());
                    }
                }
                Action::SendLast => {
                    if let Some(last) = &tx.last {
                        send(shared, back, last.clone());
                    }
                }
                Action::PassUp => passed_up = true,
                Action::StartTimer(timer, after) => tx.timers.start(shared, TxId::Server(id), timer, now, after),
                Action::StopTimer(timer) => tx.timers.stop(shared, timer),
                Action::InformTimeout => shared.event(TxEvent::ServerTimeout(id)),
                Action::InformTrying => shared.event(TxEvent::ServerTrying(id)),
                Action::Terminate => ended = true,
                // Client machines only.
                Action::SendAck | Action::InformTransportError => {}
            }
        }
        if !tx.machine.may_repeat() {
            tx.last = None;
        }
        if ended {
            self.drop_silently(shared, id);
        }
        passed_up
    }

    pub(super) fn drop_silently(&mut self, shared: &mut Shared, id: ServerTxId) {
        let Some(mut tx) = self.by_id.remove(&id) else { return };
        tx.timers.stop_all(shared);
        self.by_key.remove(&tx.key);
        shared.event(TxEvent::ServerTerminated(id));
    }
}

/// A response goes out where its request came in (anycast.md, rule E).
fn send(shared: &mut Shared, back: ReturnPath, payload: Bytes) {
    let transmit = Transmit { path: back.path, reopen: back.reopen, tls_name: None, payload, id: SendId(0) };
    shared.out.push_back(match back.ingress {
        None => TxOutput::Transmit(transmit),
        Some(to) => TxOutput::SendFor { to, transmit },
    });
}
