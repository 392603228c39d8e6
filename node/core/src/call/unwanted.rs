//! A 2xx to the first INVITE that nobody wants: cancelled, late, or of a second fork (RFC 3261 §13.2.2.4).

use super::Call;
use super::services::Services;
use super::two_hundred::SentAck;
use super::ways::{FarEnd, NextHop, Way};
use crate::dialog::Dialog;
use crate::io::{ReturnPath, Side};
use crate::sip::{HeaderId, Message, Method};

impl Call {
    /// A 2xx that still waits when the call ends.
    pub(super) fn drop_held_answer(&mut self, cx: &mut Services) {
        if let Some((index, response)) = self.uac.take_answer() {
            self.reject_answer(cx, index, &response);
        }
    }

    /// A 2xx that nobody wants any more (cancelled, late, or from a second fork): ACK and BYE at once.
    pub(super) fn reject_answer(&mut self, cx: &mut Services, index: u32, response: &Message) {
        let Some(attempt) = self.uac.attempt(index) else { return };
        let mut dialog: Dialog = attempt.dialog.clone();
        dialog.on_dialog_response(response);
        cx.drop_own_routes(&mut dialog);
        dialog.local_cseq = dialog.local_cseq.max(self.pairs.cseq_of(attempt.index, response.to_tag()).unwrap_or(0));
        let (tls_name, cseq) = (attempt.tls_name.clone(), attempt.cseq);
        let candidate = &attempt.candidate;
        let far = FarEnd {
            realm: candidate.realm,
            trunk: &candidate.trunk,
            dialog: &dialog,
            path: &attempt.path,
            ingress: None,
            tls_name: tls_name.as_deref(),
            secure: false,
        };
        // RFC 3261 §12.2.1.1. A name is not waited for: where the INVITE went is nearly always right.
        let path = match far.next_hop(cx) {
            NextHop::Known { path, .. } => path,
            NextHop::Ask(_) => attempt.path,
        };
        let back = ReturnPath::here(path);
        if self.repeat_ack(cx, Side::Callee, cseq, dialog.remote_tag.as_deref()) {
            return;
        }
        let mut ack = dialog.ack(cseq);
        self.put_session_id(Side::Callee, &mut ack);
        self.authorize(cx, Side::Callee, &mut ack);
        let branch = cx.mint_branch();
        ack.insert_first(HeaderId::Via, cx.via(&path, &branch));
        if let Some(payload) = cx.encode(&ack) {
            let (to, remote_tag) = (self.toward(Side::Callee), dialog.remote_tag.clone());
            let way = Way { back, tls_name: tls_name.clone() };
            let sent = SentAck { to, cseq, remote_tag, way, payload: payload.clone(), again: None };
            self.two_hundred.keep_refused(sent);
            self.ladder.sent(cx.now.unix, self.callee.realm, &back, &ack);
            cx.send(back, tls_name.clone(), payload);
        }
        let mut bye = dialog.request(&Method::Bye);
        self.put_session_id(Side::Callee, &mut bye);
        let retry = self.authorize(cx, Side::Callee, &mut bye);
        let branch = cx.mint_branch();
        bye.insert_first(HeaderId::Via, cx.via(&path, &branch));
        self.ladder.sent(cx.now.unix, self.callee.realm, &back, &bye);
        if let Some(payload) = cx.encode(&bye) {
            let way = Way { back, tls_name };
            let authenticated = retry.map(|retry| self.authenticated(Side::Callee, retry, &way));
            cx.send_after_bye(self.id, branch.into(), way.back, way.tls_name, payload, authenticated);
        }
    }
}
