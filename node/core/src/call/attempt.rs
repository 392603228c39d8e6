//! One INVITE toward the called side: enough of it to acknowledge, cancel and give up.

use std::time::Duration;

use super::challenge::Retry;
use super::context::Context;
use super::ladder::Ladder;
use super::timer::{CallTimer, TimerUser};
use crate::dialog::{Dialog, PairId};
use crate::ids::LocalId;
use crate::io::{Path, ReturnPath, Target};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::targets::{AttemptEvent, AttemptState, Candidate, Large};
use crate::timer::TimerId;
use crate::transaction::ClientTxId;

/// RFC 3261 §9.1: an INVITE without a final response 64 × T1 after its CANCEL is given up.
const ABANDON: Duration = Duration::from_secs(32);

/// One target that was dialled.
#[derive(Debug)]
pub(super) struct Attempt {
    /// The call.
    pub call: LocalId,
    /// Its number in the call; part of the leg's identity (rule C).
    pub index: u32,
    /// Its transaction.
    pub tx: ClientTxId,
    /// The dialog as the INVITE had it: no remote tag.
    pub dialog: Dialog,
    /// The INVITE's Request-URI.
    pub uri: Box<str>,
    /// The INVITE's Via value.
    pub via: String,
    /// The branch in it.
    pub branch: Box<str>,
    /// CSeq number of the INVITE.
    pub cseq: u32,
    /// Which try at its target it is; part of the leg's identity (rule C).
    pub tries: usize,
    /// Where it went.
    pub path: Path,
    /// TLS name there.
    pub tls_name: Option<Box<str>>,
    /// What was dialled.
    pub candidate: Candidate,
    /// Both sides as its INVITE left them.
    pub pair: PairId,
    /// What has become of it.
    pub state: AttemptState,
    /// The failover timer.
    pub timer: Option<TimerId>,
    /// Why it is to be cancelled: a CANCEL that waits has it too.
    pub reason: Option<Box<str>>,
    /// The INVITE's Session-ID (RFC 7989 §6: CANCEL and ACK have the same).
    pub session_id: Option<Box<str>>,
    /// The INVITE, where the target may ask who we are.
    pub retry: Option<Retry>,
}

impl Attempt {
    /// CANCEL, once something has come back (RFC 3261 §9.1); before that it waits for it.
    pub(super) fn cancel(&mut self, cx: &mut Context, reason: Option<&str>) {
        cx.stop_timer(&mut self.timer);
        if let Some(reason) = reason {
            self.reason = Some(reason.into());
        }
        if self.state.on(AttemptEvent::Cancel) {
            self.send_cancel(cx);
        }
    }

    /// A provisional response: one that is not wanted is cancelled now.
    pub(super) fn on_provisional(&mut self, cx: &mut Context, status: u16) {
        if self.state.on(AttemptEvent::Provisional(status)) {
            self.send_cancel(cx);
        }
    }

    /// Its target once more, as another leg: by the way that it went, whatever that of its size was.
    pub(super) fn another_leg(&self) -> Candidate {
        let target = Target { addr: self.path.remote, transport: self.path.transport };
        Candidate { target, uri: Some(self.uri.clone()), again: None, large: Large::Stay, ..self.candidate.clone() }
    }

    /// A final response came, or none will.
    pub(super) fn finish(&mut self) {
        self.state.note(AttemptEvent::Final);
    }

    fn send_cancel(&self, cx: &mut Context) {
        let mut draft = self.same_hop(&Method::Cancel, &self.dialog.remote_uri);
        if let Some(reason) = &self.reason {
            draft.push(HeaderId::Reason, &**reason);
        }
        if let Some(payload) = cx.encode(&draft) {
            let (branch, path, tls) = (self.branch.clone(), self.path, self.tls_name.clone());
            // Its responses need no one: the INVITE's final response tells how it went.
            cx.note_sent(self.call, ReturnPath::here(path), &draft);
            cx.send_after_bye(self.call, branch, ReturnPath::here(path), tls, payload, None);
            cx.start_timer(ABANDON, TimerUser::Call(self.call, CallTimer::Abandon(self.index)));
        }
    }

    /// The ACK for a final response other than 2xx (RFC 3261 §17.1.1.3).
    pub(super) fn ack_failure(&self, cx: &mut Context, ladder: &mut Ladder, response: &Message) {
        let draft = self.same_hop(&Method::Ack, response.to());
        if let Some(payload) = cx.encode(&draft) {
            // Before the INVITE that may follow at once.
            ladder.sent(cx.now.unix, self.path.role.realm(), &ReturnPath::here(self.path), &draft);
            cx.tx.set_ack(cx.now.mono, self.tx, payload);
        }
    }

    fn same_hop(&self, method: &Method, to: &str) -> Draft {
        let mut draft = Draft::request(method, &self.uri);
        draft.push(HeaderId::Via, &*self.via);
        for route in &self.dialog.route_set {
            draft.push(HeaderId::Route, &**route);
        }
        draft.push(HeaderId::MaxForwards, "70");
        draft.push(HeaderId::From, format!("{};tag={}", self.dialog.local_uri, self.dialog.local_tag));
        draft.push(HeaderId::To, to);
        draft.push(HeaderId::CallId, &*self.dialog.call_id);
        draft.push(HeaderId::CSeq, format!("{} {}", self.cseq, method.as_str()));
        if let Some(id) = &self.session_id {
            draft.push(HeaderId::SessionId, &**id);
        }
        draft
    }
}
