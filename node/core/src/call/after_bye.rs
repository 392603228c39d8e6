//! What is still said of a dialog after its BYE, or of an INVITE after its CANCEL: the call waits for none of it, and may be forgotten before.
//!
//! A BYE or CANCEL whose far end asks who we are is sent again with credentials. An INVITE within a dialog that a BYE has ended gets the ACK
//! for its final response all the same (RFC 3261 §17.1.1.3, §13.2.2.4), or the far end would repeat that for 32 s.

use std::collections::HashMap;
use std::time::Duration;

use super::authenticated::Authenticated;
use super::context::Context;
use super::timer::TimerUser;
use crate::crossing::Way;
use crate::ids::LocalId;
use crate::io::ReturnPath;
use crate::sip::{Draft, HeaderId, Message};
use crate::transaction::{ClientTxId, ClientUser, NewRequest, ResponseAction};

/// RFC 3261 §9.1: 64 × T1. A far end that has the BYE and says nothing of the INVITE for so long will not.
const GIVE_UP: Duration = Duration::from_secs(32);

/// All such requests of a node, by transaction: bounded as those are.
#[derive(Debug, Default)]
pub struct AfterBye {
    pending: HashMap<ClientTxId, RequestAfterBye>,
    /// How many there are of each call, by its number.
    of_call: HashMap<LocalId, u32>,
}

#[derive(Debug)]
struct RequestAfterBye {
    call: LocalId,
    request: Request,
}

/// What is done with the responses.
#[derive(Debug)]
enum Request {
    /// Nothing.
    Plain,
    /// The final one was there: what is left is that a BYE which crosses ours may still be on its way, until the transaction ends.
    Settled,
    /// It goes again where its far end asks who we are.
    ByeAgain(Box<ByeAgain>),
    /// A final one gets its ACK.
    Invite(Box<AbandonedInvite>),
}

/// A BYE toward a trunk at which we have credentials.
#[derive(Debug)]
pub(super) struct ByeAgain {
    asked: Authenticated,
    way: ReturnPath,
    tls_name: Option<Box<str>>,
}

/// What its ACK is made of.
#[derive(Clone, Debug)]
struct AbandonedInvite {
    /// The ACK, without Via.
    ack: Draft,
    way: ReturnPath,
    tls_name: Option<Box<str>>,
}

impl AfterBye {
    /// A BYE or CANCEL of ours for this call has no final answer yet, or had it just now: a BYE of its far end may have crossed it (RFC 5407
    /// §3.2.1), and by another socket even its answer.
    pub fn is_ending(&self, call: LocalId) -> bool {
        self.of_call.contains_key(&call)
    }

    /// Its final response has come: further ones are copies.
    pub fn is_settled(&self, tx: ClientTxId) -> bool {
        self.pending.get(&tx).is_none_or(|pending| matches!(pending.request, Request::Settled))
    }

    fn insert(&mut self, tx: ClientTxId, call: LocalId, request: Request) {
        self.forget(tx);
        self.pending.insert(tx, RequestAfterBye { call, request });
        *self.of_call.entry(call).or_default() += 1;
    }

    /// Its transaction is over, or it went another way.
    pub fn forget(&mut self, tx: ClientTxId) {
        self.take(tx);
    }

    fn take(&mut self, tx: ClientTxId) -> Option<RequestAfterBye> {
        let pending = self.pending.remove(&tx)?;
        if let Some(count) = self.of_call.get_mut(&pending.call) {
            *count -= 1;
            if *count == 0 {
                self.of_call.remove(&pending.call);
            }
        }
        Some(pending)
    }
}

impl ByeAgain {
    /// It went this way.
    pub(super) fn new(asked: Authenticated, way: &Way) -> ByeAgain {
        ByeAgain { asked, way: way.back, tls_name: way.tls_name.clone() }
    }
}

impl Context {
    /// Sends a BYE or CANCEL of this call, which does not wait for the answer.
    pub(super) fn send_after_bye(
        &mut self,
        call: LocalId,
        branch: Box<str>,
        way: ReturnPath,
        tls_name: Option<Box<str>>,
        payload: bytes::Bytes,
        authenticated: Option<ByeAgain>,
    ) -> Option<ClientTxId> {
        let user = ClientUser::AfterBye { call };
        let tx = self.send_request(NewRequest { user, branch, invite: false, way, tls_name, payload })?;
        self.after_bye.insert(tx, call, authenticated.map_or(Request::Plain, |a| Request::ByeAgain(Box::new(a))));
        Some(tx)
    }

    /// Nobody of this call waits for an INVITE any more; its transaction goes on. `ack`: what its final response gets, without Via.
    pub(super) fn leave_invite(&mut self, call: LocalId, tx: ClientTxId, ack: Draft, tls_name: Option<Box<str>>) {
        let Some(way) = self.tx.way(tx) else { return };
        let invite = AbandonedInvite { ack, way, tls_name };
        self.tx.set_client_user(tx, ClientUser::AfterBye { call });
        self.after_bye.insert(tx, call, Request::Invite(Box::new(invite)));
        self.start_timer(GIVE_UP, TimerUser::AbandonedInvite(tx));
    }

    /// A response to such a request.
    pub fn on_after_bye_response(&mut self, tx: ClientTxId, action: ResponseAction, response: &Message) {
        let status = response.status().unwrap_or(0);
        let Some(RequestAfterBye { call, request }) = self.after_bye.pending.get_mut(&tx) else { return };
        let call = *call;
        if let Request::Invite(invite) = request {
            let invite = invite.clone();
            return self.ack_abandoned(tx, call, *invite, action, response);
        }
        if status < 200 {
            return;
        }
        let settled = std::mem::replace(request, Request::Settled);
        let Request::ByeAgain(mut request) = settled else { return };
        if !matches!(status, 401 | 407) {
            return;
        }
        let cseq = request.asked.next_cseq();
        let Ok(mut draft) = request.asked.answer(self, response, cseq) else { return };
        let branch = self.mint_branch();
        draft.insert_first(HeaderId::Via, self.via(&request.way.path, &branch));
        let Some(payload) = self.encode(&draft) else { return };
        self.note_sent(call, request.way, &draft);
        let (way, tls_name) = (request.way, request.tls_name.clone());
        self.send_after_bye(call, branch.into(), way, tls_name, payload, Some(*request));
    }

    /// The ACK for a refusal belongs to the INVITE's transaction, that for a 2xx is a request of its own.
    fn ack_abandoned(
        &mut self,
        tx: ClientTxId,
        call: LocalId,
        invite: AbandonedInvite,
        action: ResponseAction,
        response: &Message,
    ) {
        let AbandonedInvite { mut ack, way, tls_name } = invite;
        let success = response.status().is_some_and(|s| (200..300).contains(&s));
        let branch = match action {
            ResponseAction::NeedAck => self.tx.client_branch(tx).map(str::to_owned),
            ResponseAction::Deliver if success => Some(self.mint_branch()),
            ResponseAction::Deliver | ResponseAction::Absorb => None,
        };
        let Some(branch) = branch else { return };
        ack.set(HeaderId::To, response.to());
        ack.insert_first(HeaderId::Via, self.via(&way.path, &branch));
        let Some(payload) = self.encode(&ack) else { return };
        self.note_sent(call, way, &ack);
        if success {
            self.send(way, tls_name, payload);
        } else {
            self.tx.set_ack(self.now.mono, tx, payload);
        }
    }

    /// No final response came for an INVITE that was left, or its copies have ended.
    pub fn on_abandoned_invite(&mut self, tx: ClientTxId) {
        if self.after_bye.take(tx).is_some() {
            self.tx.abandon_client(tx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_ending_while_any_of_its_requests_waits() {
        let (mut all, tx) = (AfterBye::default(), crate::transaction::test_ids(3));
        all.insert(tx[0], LocalId(7), Request::Plain);
        all.insert(tx[1], LocalId(7), Request::Plain);
        all.insert(tx[2], LocalId(8), Request::Plain);
        // Known by another kind of request from now on: counted once.
        all.insert(tx[1], LocalId(7), Request::Plain);
        all.forget(tx[0]);
        all.forget(tx[0]);
        assert!(all.is_ending(LocalId(7)) && all.is_ending(LocalId(8)) && !all.is_ending(LocalId(9)));
        all.forget(tx[1]);
        assert!(!all.is_ending(LocalId(7)) && all.is_ending(LocalId(8)));
        all.forget(tx[2]);
        assert!(all.pending.is_empty() && all.of_call.is_empty());
    }
}
