//! The table of all transactions of a node: the one type that the layers above use.

use bytes::Bytes;

use super::client_table::{ClientTable, ResponseAction};
use super::output::{ClientTxId, NewRequest, ServerTxId, TxEvent, TxOutput};
use super::server_table::{ServerKey, ServerTable};
use super::shared::{Shared, TxId};
use super::user::{ClientUser, ServerUser};
use crate::ids::{NodeId, SendId};
use crate::io::{ReturnPath, SendFailure};
use crate::time::Instant;

/// Live transactions. After each call that takes `now`: [`Self::poll_output`] until `None`, then [`Self::poll_timeout`].
/// Calls for a transaction that is gone do nothing.
#[derive(Debug)]
pub struct Transactions {
    limit: usize,
    shared: Shared,
    servers: ServerTable,
    clients: ClientTable,
    /// Whose end was the last output.
    told: Option<ClientTxId>,
}

impl Transactions {
    /// An empty table for at most `limit` live transactions, servers and clients together.
    pub fn new(limit: usize) -> Transactions {
        Transactions {
            limit,
            shared: Shared::new(),
            servers: ServerTable::default(),
            clients: ClientTable::default(),
            told: None,
        }
    }

    /// Live transactions.
    pub fn len(&self) -> usize {
        self.servers.len() + self.clients.len()
    }

    /// True where no transaction is live.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True where no further transaction can be created.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// True where half of the room is taken. What has begun needs more of it, to be ended at the least, and emergency calls need theirs.
    pub fn is_half_full(&self) -> bool {
        self.len() * 2 >= self.limit
    }

    /// The server transaction that a request (a retransmission, an ACK, a CANCEL under its INVITE's key) belongs to.
    pub fn find_server(&self, key: &ServerKey) -> Option<ServerTxId> {
        self.servers.find(key)
    }

    /// For a new request other than ACK. `invite`: the method is INVITE. `None`: the table is full, or the key is taken
    /// (look with [`Self::find_server`] first).
    pub fn create_server(
        &mut self,
        now: Instant,
        user: ServerUser,
        key: ServerKey,
        invite: bool,
        back: ReturnPath,
    ) -> Option<ServerTxId> {
        if self.is_full() {
            return None;
        }
        self.servers.create(&mut self.shared, now, user, key, invite, back)
    }

    /// The request again, by whatever way. The last response, if there is one, is repeated the way that this copy came.
    /// That way also serves from then on, if the copy came from the same IP address by the same transport and kind of address.
    pub fn on_request_retransmission(&mut self, now: Instant, id: ServerTxId, back: ReturnPath) {
        self.servers.on_request(&mut self.shared, now, id, back);
    }

    /// An ACK with the key of an INVITE. True: it acknowledges a 2xx (a UA that gave it the INVITE's branch) and is the TU's.
    pub fn on_ack(&mut self, now: Instant, id: ServerTxId) -> bool {
        self.servers.on_ack(&mut self.shared, now, id)
    }

    /// Sends a response of the TU: any number of provisional ones, then one final one; what comes after it is ignored, but that
    /// 2xx to INVITE are sent as often as the TU gives them. To a non-INVITE, 101-199, 408 and an early 100 are ignored (RFC 4320).
    pub fn respond(&mut self, now: Instant, id: ServerTxId, status: u16, payload: Bytes) {
        self.servers.respond(&mut self.shared, now, id, status, payload);
    }

    /// The status of the final response that was sent, while the transaction lives.
    pub fn server_final(&self, id: ServerTxId) -> Option<u16> {
        self.servers.final_status(id)
    }

    /// The way that the next response goes.
    pub fn server_back(&self, id: ServerTxId) -> Option<ReturnPath> {
        self.servers.back(id)
    }

    /// Sends a request and waits for its responses. `None`: the table is full, or the branch is taken.
    pub fn send_request(&mut self, now: Instant, request: NewRequest) -> Option<ClientTxId> {
        if self.is_full() {
            return None;
        }
        self.clients.create(&mut self.shared, now, request)
    }

    /// Who waits for the responses to a request, until the output that follows its `ClientTerminated` is polled.
    pub fn client_user(&self, id: ClientTxId) -> ClientUser {
        self.clients.user(id)
    }

    /// From now on it is this one who waits for them.
    pub fn set_client_user(&mut self, id: ClientTxId, user: ClientUser) {
        self.clients.set_user(id, user);
    }

    /// Who answers a request; nobody where its transaction is gone.
    pub fn server_user(&self, id: ServerTxId) -> ServerUser {
        self.servers.user(id)
    }

    /// The client transaction of a response: its top Via's branch, and whether its CSeq method is INVITE (RFC 3261 §17.1.3).
    pub fn find_client(&self, branch: &str, invite: bool) -> Option<ClientTxId> {
        self.clients.find(branch, invite)
    }

    /// A response came. In Accepted each 2xx is delivered (RFC 6026): the TU repeats its ACK.
    pub fn on_response(&mut self, now: Instant, id: ClientTxId, status: u16) -> ResponseAction {
        self.clients.on_response(&mut self.shared, now, id, status)
    }

    /// The ACK to a non-2xx (RFC 3261 §17.1.1.3), after [`ResponseAction::NeedAck`]: sent now, and again for each repeated final.
    pub fn set_ack(&mut self, _now: Instant, id: ClientTxId, ack: Bytes) {
        self.clients.set_ack(&mut self.shared, id, ack);
    }

    /// A send failed. Ids that are not of this table are ignored, and so is a full queue on UDP.
    pub fn on_send_failed(&mut self, now: Instant, send: SendId, reason: SendFailure) {
        self.clients.on_send_failed(&mut self.shared, now, None, send, reason);
    }

    /// Another node could not send what was to go through it.
    pub fn on_send_for_failed(&mut self, now: Instant, from: NodeId, send: SendId, reason: SendFailure) {
        self.clients.on_send_failed(&mut self.shared, now, Some(from), send, reason);
    }

    /// A node is gone, and the connections of far ends with it: what went out through it could not be sent.
    pub fn on_node_gone(&mut self, now: Instant, node: NodeId) {
        self.clients.on_node_gone(&mut self.shared, now, node);
    }

    /// Ends a client transaction: an INVITE that got no final response within 64 × T1 after its CANCEL (RFC 3261 §9.1).
    pub fn abandon_client(&mut self, id: ClientTxId) {
        self.clients.abandon(&mut self.shared, id);
    }

    /// Ends a server transaction without a word: another node answers the request (anycast.md, rules B and H).
    pub fn drop_server(&mut self, id: ServerTxId) {
        self.servers.drop_silently(&mut self.shared, id);
    }

    /// Sends the request no more, and still takes its responses: another target is tried meanwhile.
    pub fn stop_retransmitting(&mut self, id: ClientTxId) {
        self.clients.stop_retransmitting(&mut self.shared, id);
    }

    /// An INVITE that was stopped so and has no response yet is repeated again, until its timer B.
    pub fn resume_retransmitting(&mut self, now: Instant, id: ClientTxId) {
        self.clients.resume_retransmitting(&mut self.shared, now, id);
    }

    /// Where the request went, with the node that it went through.
    pub fn way(&self, id: ClientTxId) -> Option<ReturnPath> {
        self.clients.way(id)
    }

    /// The request's branch, for its CANCEL and ACK.
    pub fn client_branch(&self, id: ClientTxId) -> Option<&str> {
        self.clients.branch(id)
    }

    /// Fires what is due, `most` timers at the most.
    pub fn handle_timeout(&mut self, now: Instant, most: usize) {
        for _ in 0..most {
            let Some((tx, timer)) = self.shared.timers.pop_expired(now) else { return };
            match tx {
                TxId::Server(id) => self.servers.on_timer(&mut self.shared, now, id, timer),
                TxId::Client(id) => self.clients.on_timer(&mut self.shared, now, id, timer),
            }
        }
    }

    /// When to call [`Self::handle_timeout`]; may change with every call that takes `&mut self`. After it has fired all that was due, it is
    /// later than that `now`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.shared.timers.next_deadline()
    }

    /// The next output; `None` until something happens.
    pub fn poll_output(&mut self) -> Option<TxOutput> {
        if let Some(id) = self.told.take() {
            self.clients.forget_user(id);
        }
        let output = self.shared.out.pop_front();
        if let Some(TxOutput::Event(TxEvent::ClientTerminated(id))) = output {
            self.told = Some(id);
        }
        output
    }

    /// Timers held, and branches and users of what is gone, to see that nothing leaks.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.shared.timers.len(), self.clients.held())
    }
}
