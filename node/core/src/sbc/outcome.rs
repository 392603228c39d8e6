//! What came of a request or a question, to whoever began it: a response, silence, the end of its transaction, the answer of the DNS.

use super::Sbc;
use crate::call::{ClaimEvent, InquiryAnswer};
use crate::crossing::Loss;
use crate::ids::{LocalId, ResolveId};
use crate::io::{ResolveError, ReturnPath, SendFailure, Target};
use crate::sip::Message;
use crate::transaction::{CallUse, ClientTxId, ClientUser, QuestionUser, ResponseAction, ServerTxId, ServerUser, TxEvent};

impl Sbc {
    /// A response that found its transaction.
    pub(super) fn on_outcome(&mut self, tx: ClientTxId, action: ResponseAction, back: ReturnPath, response: &Message) {
        match self.cx.tx.client_user(tx) {
            ClientUser::Nobody => {}
            ClientUser::Call { id, purpose } => self.on_call_response(id, purpose, (tx, action), back, response),
            ClientUser::AfterBye { .. } if self.cx.after_bye.is_settled(tx) => {}
            ClientUser::AfterBye { call } => {
                self.cx.note_received(call, back, response);
                self.with_call(call, |call, cx| _ = call.courier().on_response(cx, tx, action, response));
                self.cx.on_after_bye_response(tx, action, response);
            }
            ClientUser::Message { id } => {
                self.messages.on_response(&mut self.cx, &mut self.subscriptions, id, tx, response);
            }
            ClientUser::Subscription { id, request } => {
                self.subscriptions.on_response(&mut self.cx, id, request, (tx, action), response)
            }
            ClientUser::Farewell { call, side } => self.farewells.on_response(&mut self.cx, call, side, tx, response),
            ClientUser::Probe => self.probes.on_response(&mut self.cx, tx, response),
            ClientUser::Neighbour => self.neighbours.on_response(&mut self.cx, tx, response),
            ClientUser::Inquiry => self.on_inquiry_response(tx, response),
        }
    }

    /// A member without a link says what it has of a call.
    fn on_inquiry_response(&mut self, tx: ClientTxId, response: &Message) {
        let Some(inquiry) = self.cx.inquiries.take(tx) else { return };
        let Some(told) = self.cx.open_told(&inquiry, response) else { return };
        self.cx.inquiries.on_heard(inquiry.node);
        match told {
            InquiryAnswer::Has(stage) => self.on_claim_found(inquiry.node, inquiry.key, stage, false),
            InquiryAnswer::HasByAnotherWay(stage) => self.on_claim_found(inquiry.node, inquiry.key, stage, true),
            InquiryAnswer::Cancelled => self.on_cancelled_elsewhere(&inquiry.key, inquiry.packet_key),
            InquiryAnswer::Nothing => {
                if let Some(id) = self.calls.of_claim(&inquiry.key) {
                    self.with_call(id, |call, cx| call.tell_claim(cx, ClaimEvent::PeerHasNot(inquiry.node)));
                }
            }
        }
    }

    fn on_call_response(
        &mut self,
        id: LocalId,
        purpose: CallUse,
        (tx, action): (ClientTxId, ResponseAction),
        back: ReturnPath,
        response: &Message,
    ) {
        self.with_call(id, |call, cx| match purpose {
            CallUse::Dial(index) => call.on_dial_response(cx, index, action, &back, response),
            CallUse::Crossing(number) => call.on_crossing_response(cx, number, (tx, action), &back, response),
            CallUse::Doubt(side) => {
                _ = call.courier().on_response(cx, tx, action, response);
                call.doubts.on_answer(cx, side, response.status().unwrap_or(0));
            }
        });
        let done = response.status().is_some_and(|s| s >= 200) && action != ResponseAction::Absorb;
        if done && response.method() != &crate::sip::Method::Invite {
            self.cx.tx.set_client_user(tx, ClientUser::Nobody);
        }
    }

    /// What a transaction tells without having been asked.
    pub(super) fn on_tx_event(&mut self, event: TxEvent) {
        match event {
            TxEvent::ClientTimeout(tx) => self.on_client_lost(tx, Loss::TimedOut),
            TxEvent::ClientTransportError(tx, SendFailure::Congested) => self.on_client_lost(tx, Loss::Congested),
            TxEvent::ClientTransportError(tx, _) => self.on_client_lost(tx, Loss::NotSent),
            TxEvent::ServerTrying(tx) => self.on_trying_due(tx),
            TxEvent::ServerTimeout(_) | TxEvent::ServerTerminated(_) => {}
            TxEvent::ClientTerminated(tx) => self.on_client_gone(tx),
        }
    }

    /// No response will come, or the request could not be sent.
    fn on_client_lost(&mut self, tx: ClientTxId, loss: Loss) {
        match self.cx.tx.client_user(tx) {
            ClientUser::Nobody => {}
            ClientUser::Call { id, purpose: CallUse::Dial(index) } => {
                self.with_call(id, |call, cx| call.on_dial_lost(cx, index, loss.status()));
            }
            // Of a question to a far end in doubt: its time tells.
            ClientUser::Call { id, .. } | ClientUser::AfterBye { call: id } => {
                self.with_call(id, |call, cx| call.on_lost(cx, tx, loss));
            }
            ClientUser::Message { id } => self.messages.on_lost(&mut self.cx, &mut self.subscriptions, id, tx),
            ClientUser::Subscription { id, .. } => self.subscriptions.on_lost(&mut self.cx, id, tx, loss),
            ClientUser::Farewell { call, side } => self.farewells.on_lost(&mut self.cx, call, side, loss),
            ClientUser::Probe => self.probes.on_lost(&mut self.cx, tx),
            ClientUser::Neighbour => self.neighbours.on_lost(tx),
            ClientUser::Inquiry => drop(self.cx.inquiries.take(tx)),
        }
    }

    /// A client transaction is gone, whatever came of it.
    fn on_client_gone(&mut self, tx: ClientTxId) {
        match self.cx.tx.client_user(tx) {
            ClientUser::Call { id, purpose: CallUse::Dial(index) } => {
                self.with_call(id, |call, cx| call.on_attempt_gone(cx, index));
            }
            ClientUser::AfterBye { .. } => self.cx.after_bye.forget(tx),
            _ => {}
        }
    }

    /// Who sent a request other than INVITE has waited so long that it is to hear that we have it (RFC 4320 §4.1).
    fn on_trying_due(&mut self, tx: ServerTxId) {
        match self.cx.tx.server_user(tx) {
            ServerUser::Nobody => {}
            ServerUser::Call(id) => self.with_call(id, |call, cx| call.courier().on_trying_due(cx, tx)),
            ServerUser::Message(id) => self.messages.on_trying(&mut self.cx, id, tx),
            ServerUser::Subscription(id) => self.subscriptions.on_trying(&mut self.cx, id, tx),
        }
    }

    /// The DNS answered.
    pub(super) fn on_resolved(&mut self, user: QuestionUser, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        match user {
            QuestionUser::Call(call) => self.with_call(call, |call, cx| call.on_resolved(cx, id, result)),
            QuestionUser::Message(request) => {
                self.messages.on_resolved(&mut self.cx, &mut self.subscriptions, request, id, &result);
            }
            QuestionUser::Subscription(subscription) => self.subscriptions.on_resolved(&mut self.cx, subscription, id, &result),
            QuestionUser::Farewell { call, side } => self.farewells.on_resolved(&mut self.cx, call, side, &result),
            QuestionUser::Probe => self.probes.on_resolved(&mut self.cx, id, result),
        }
    }
}
