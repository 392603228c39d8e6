//! The transactions of requests that were passed on: by which way an answer may still come, and how they are cancelled and given up.

use std::time::Duration;

use super::Call;
use super::forward::Forward;
use super::services::Services;
use super::timer::{CallTimer, Timer};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ClientUser, ServerTxId};

/// RFC 3261 §9.1: 64 × T1.
const ABANDON: Duration = Duration::from_secs(32);

impl Call {
    /// A response to what went an earlier way: that one counts from now on.
    pub(super) fn turn_to(&mut self, cx: &mut Services, at: usize, tx: ClientTxId, response: &Message) {
        let f = &mut self.forwards[at];
        let Some(n) = f.earlier.iter().position(|e| *e == tx) else { return };
        f.earlier.remove(n);
        let newer = f.client_tx.replace(tx);
        f.earlier.extend(newer);
        if let Some(way) = cx.tx.way(tx).filter(|way| way.path.flow.is_none()) {
            cx.target_responded(&way.path, response.status().unwrap_or(500), response);
        }
        if let Some(newer) = newer {
            cx.tx.stop_retransmitting(newer);
            self.on_way_settled(cx, newer, None);
        }
    }

    /// Nothing more comes of a request by this way. True: an answer may still come by another.
    pub fn has_other_ways(&mut self, cx: &mut Services, id: u64, tx: ClientTxId) -> bool {
        let Some(f) = self.forwards.iter_mut().find(|f| f.id == id) else { return false };
        if f.client_tx == Some(tx) {
            let Some(other) = f.earlier.pop() else { return false };
            f.client_tx = Some(other);
        } else {
            let Some(n) = f.earlier.iter().position(|e| *e == tx) else { return false };
            f.earlier.remove(n);
        }
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        true
    }

    /// A request is answered, or given up: what went other ways is not waited for.
    pub(super) fn leave_earlier(&self, cx: &mut Services, forward: &Forward) {
        for tx in &forward.earlier {
            self.leave_client(cx, forward, *tx);
        }
    }

    /// A request goes again with another CSeq number: answers to the last one are none to it.
    pub(super) fn forget_earlier(&mut self, cx: &mut Services, at: usize) {
        let earlier = std::mem::take(&mut self.forwards[at].earlier);
        for tx in earlier {
            self.leave_client(cx, &self.forwards[at], tx);
        }
    }

    pub(super) fn leave_client(&self, cx: &mut Services, forward: &Forward, tx: ClientTxId) {
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        if forward.request.method() == &Method::Invite {
            // Should it have arrived all the same, its final response gets an ACK.
            self.leave_invite(cx, forward.from.other(), tx, forward.cseq);
        } else {
            cx.tx.abandon_client(tx);
        }
    }

    /// CANCEL for a re-INVITE under way. False: it is none of this call's.
    pub(super) fn on_cancel_forward(&mut self, cx: &mut Services, invite: ServerTxId, request: &Message) -> bool {
        let Some(f) = self.forwards.iter_mut().find(|f| f.server_tx == Some(invite)) else { return false };
        f.cancelled = true;
        f.cancel_reason = super::reason::reasons(request).map(Into::into);
        let id = f.id;
        self.cancel_forward(cx, id);
        true
    }

    pub(super) fn cancel_forward(&self, cx: &mut Services, id: u64) {
        let Some(f) = self.forwards.iter().find(|f| f.id == id && f.provisional) else { return };
        let Some(tx) = f.client_tx else { return };
        let (Some(branch), Some(way)) = (cx.tx.client_branch(tx).map(str::to_owned), cx.tx.way(tx)) else { return };
        let mut cancel = self.own_ack(f.from.other(), f.cseq);
        cancel.set(HeaderId::CSeq, format!("{} CANCEL", f.cseq));
        let Some(uri) = cancel.request_uri().map(str::to_owned) else { return };
        let mut draft = Draft::request(&Method::Cancel, &uri);
        for field in cancel.headers() {
            draft.push_field(&field);
        }
        draft.insert_first(HeaderId::Via, cx.via(&way.path, &branch));
        if let Some(reason) = &f.cancel_reason {
            draft.push(HeaderId::Reason, &**reason);
        }
        if let Some(payload) = cx.encode(&draft) {
            cx.note_sent(self.id, way, &draft);
            let tls_name = f.tls_name.clone();
            if cx.send_after_bye(self.id, branch.into(), way, tls_name, payload, None).is_some() {
                cx.start_timer(ABANDON, Timer::Call(self.id, CallTimer::AbandonForward(id)));
            }
        }
    }

    /// A re-INVITE has been open for long. Where its far end has said nothing but 100, it is cancelled: nothing else could be asked meanwhile,
    /// a refresh neither.
    pub(super) fn on_stale(&mut self, cx: &mut Services, id: u64) {
        let Some(f) = self.forwards.iter_mut().find(|f| f.id == id && !f.cancelled && !f.rang) else { return };
        f.cancelled = true;
        self.cancel_forward(cx, id);
    }

    /// RFC 3261 §9.1: 64 × T1 after its CANCEL a re-INVITE is given up, so that another can be sent.
    pub(super) fn on_forward_abandoned(&mut self, cx: &mut Services, id: u64) {
        let Some(f) = self.forwards.iter_mut().find(|f| f.id == id && f.cancelled) else { return };
        if let Some(tx) = f.client_tx.take() {
            cx.tx.set_client_user(tx, ClientUser::Nobody);
            cx.tx.abandon_client(tx);
        }
        self.on_forward_failed(cx, id, 487);
    }

    /// Final answers to whatever is still open, when the call ends.
    pub(super) fn refuse_open_forwards(&mut self, cx: &mut Services) {
        self.refuse_forwards(cx, |_| true);
        self.caller.inviting = false;
        self.callee.inviting = false;
    }

    /// Final answers to those of the open requests that are not waited for any more.
    pub(super) fn refuse_forwards(&mut self, cx: &mut Services, which: impl Fn(&Forward) -> bool) {
        let (refused, kept) = std::mem::take(&mut self.forwards).into_iter().partition(which);
        self.forwards = kept;
        let refused: Vec<Forward> = refused;
        for forward in refused {
            if let Some(client) = forward.client_tx {
                self.on_way_settled(cx, client, None);
                self.leave_client(cx, &forward, client);
            }
            self.leave_earlier(cx, &forward);
            if let Some(tx) = forward.server_tx {
                let status = if forward.request.method() == &Method::Invite { 487 } else { 481 };
                self.refuse_request(cx, forward.from.side, tx, &forward.back, &forward.request, status);
            }
        }
    }
}
