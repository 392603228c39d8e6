//! Carries requests within a dialog to a far end, for calls and subscriptions: by the other ways that there are when one fails, again where a
//! far end asks who we are, cancelled and given up. How each stands its [`Crossing`] knows; what that says is done here.

use std::time::Duration;

use super::challenge::{Challenged, set_cseq};
use super::context::Context;
use super::lines::{Lines, OfCall, Owner, Went};
use super::timer::{CallTimer, TimerUser};
use super::two_hundred::{Again, Repeat};
use crate::crossing::{AfterLoss, Cancel, Counts, Crossing, Crossings, Loss, Origin, Out, Purpose, Ways};
use crate::dialog::DialogRef;
use crate::ids::ResolveId;
use crate::io::{ResolveError, Side, Target};
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ClientUser, ResponseAction, ServerTxId};

/// RFC 3261 §9.1: 64 × T1.
const ABANDON: Duration = Duration::from_secs(32);

/// A request came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Failed {
    /// Its number.
    pub id: u64,
    /// The status that stands for it (RFC 3261 §8.1.3.1).
    pub status: u16,
}

/// What a response is to the owner of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum ResponseKind {
    /// Nothing: the request is under way.
    None,
    /// A provisional one.
    Provisional,
    /// The final one.
    Final,
    /// The request was to go out again for it, and could not.
    Failed(Failed),
}

/// What carrying requests touches of a call or subscription.
pub struct Courier<'a, X> {
    /// Those under way.
    pub crossings: &'a mut Crossings<X>,
    /// The two sides.
    pub lines: Lines<'a>,
}

impl<X: Default> Courier<'_, X> {
    /// Sends a request of our own, of which nobody waits for the answer.
    pub fn send_own(&mut self, cx: &mut Context, to: DialogRef, purpose: Purpose, draft: Draft) {
        let mut crossing = Crossing::new(cx.serial(), to, Origin::Own(purpose), X::default());
        crossing.write(0, draft);
        if matches!(self.lines.send(cx, &mut crossing), Went::Out) {
            self.crossings.insert(crossing);
        }
    }

    /// Repeats the ACK for a 2xx that came again, by another way where there is one. False: none was sent for it.
    pub fn repeat_ack(&mut self, cx: &mut Context, side: Side, cseq: u32, remote_tag: Option<&str>) -> bool {
        let Some(OfCall { two_hundred, .. }) = &mut self.lines.of_call else { return false };
        match two_hundred.repeat(cx, side, cseq, remote_tag) {
            Repeat::Unknown => return false,
            Repeat::Done => {}
            Repeat::Anew(to, draft) => self.send_own(cx, to, Purpose::Ack(cseq), draft),
            Repeat::ByOther(to, Again { draft, ways }) => {
                let mut crossing = Crossing::new(cx.serial(), to, Origin::Own(Purpose::Ack(cseq)), X::default());
                crossing.write(0, draft);
                self.lines.transmit(cx, &mut crossing, ways);
            }
        }
        true
    }
}

impl<X> Courier<'_, X> {
    /// Sends a request that is written, now or when its next hop is known.
    pub fn send(&mut self, cx: &mut Context, id: u64) -> Option<Failed> {
        let went = self.lines.send(cx, self.crossings.get_mut(id)?);
        self.settle(id, went)
    }

    fn transmit(&mut self, cx: &mut Context, id: u64, ways: Ways) -> Option<Failed> {
        let went = self.lines.transmit(cx, self.crossings.get_mut(id)?, ways);
        self.settle(id, went)
    }

    fn settle(&mut self, id: u64, went: Went) -> Option<Failed> {
        match went {
            Went::Out => None,
            Went::Done => {
                self.crossings.remove(id);
                None
            }
            Went::Failed(status) => {
                let own = self.crossings.get(id).is_some_and(Crossing::is_own);
                if own {
                    self.crossings.remove(id);
                }
                (!own).then_some(Failed { id, status })
            }
        }
    }

    /// The DNS has answered. `Err`: it was asked for something else.
    pub fn on_resolved(
        &mut self,
        cx: &mut Context,
        question: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) -> Result<Option<Failed>, NotAsked> {
        let (id, host) = self.crossings.resolved(question).ok_or(NotAsked)?;
        let Some(to) = self.crossings.get(id).map(Crossing::to) else { return Err(NotAsked) };
        let ways = self.lines.far(to).ways(cx, &host, result);
        Ok(self.transmit(cx, id, ways))
    }

    /// The first of several addresses has been silent for too long. It is listened to all the same.
    pub fn on_silent(&mut self, cx: &mut Context, tx: ClientTxId) -> Option<Failed> {
        let id = self.crossings.of_client(tx)?;
        let (path, ways) = self.crossings.get_mut(id)?.on_silent(tx)?;
        cx.target_failed(&path, None);
        cx.tx.stop_retransmitting(tx);
        self.transmit(cx, id, ways)
    }

    /// Nothing comes of a request by this transaction.
    pub fn on_lost(&mut self, cx: &mut Context, tx: ClientTxId, loss: Loss) -> Option<Failed> {
        let id = self.crossings.of_client(tx)?;
        let crossing = self.crossings.get_mut(id)?;
        let (lost, to) = (crossing.on_lost(tx, loss)?, crossing.to());
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        cx.after_bye.forget(tx);
        match lost.blamed {
            Some(way) if way.is_connection() => self.lines.forget_flow(to, &way),
            Some(way) => cx.target_failed(&way.back.path, None),
            None => {}
        }
        match lost.next {
            AfterLoss::Wait => None,
            AfterLoss::Transmit(ways) => self.transmit(cx, id, ways),
            AfterLoss::Send => self.send(cx, id),
            AfterLoss::Fail(status) => self.settle(id, Went::Failed(status)),
        }
    }

    /// A response to one of them.
    pub fn on_response(&mut self, cx: &mut Context, tx: ClientTxId, action: ResponseAction, response: &Message) -> ResponseKind {
        let Some(id) = self.crossings.of_client(tx) else { return ResponseKind::None };
        let Some(crossing) = self.crossings.get_mut(id) else { return ResponseKind::None };
        let status = response.status().unwrap_or(500);
        if let Some(path) = crossing.state().chosen(tx) {
            cx.target_responded(&path, status, response);
        }
        let invite = crossing.is(&Method::Invite);
        let Some(said) = crossing.state_mut().on_response(tx, status) else { return ResponseKind::None };
        if let Some(newer) = said.quiet {
            cx.tx.stop_retransmitting(newer);
        }
        if crossing.is_own() {
            if said.counts != Counts::Aside {
                // It has arrived. Whatever else is to be said to that is another's.
                self.take(cx, id, Some(tx));
            }
            return ResponseKind::None;
        }
        if action == ResponseAction::NeedAck {
            self.ack_refusal(cx, id, tx, response);
        }
        match said.counts {
            Counts::Aside => {
                cx.tx.set_client_user(tx, ClientUser::Nobody);
                ResponseKind::None
            }
            Counts::Provisional { cancel } => {
                if cancel {
                    self.say_cancel(cx, id);
                }
                ResponseKind::Provisional
            }
            Counts::Final { again } => {
                if again && matches!(status, 401 | 407) && self.may_answer(cx, id, response) {
                    let ways = self.restart(cx, id, tx);
                    self.renumber(id);
                    return self.transmit(cx, id, ways).map_or(ResponseKind::None, ResponseKind::Failed);
                }
                if !invite {
                    cx.tx.set_client_user(tx, ClientUser::Nobody);
                }
                ResponseKind::Final
            }
        }
    }

    /// The far end asks who we are. True: the request can go out again with the answer.
    fn may_answer(&mut self, cx: &mut Context, id: u64, response: &Message) -> bool {
        let Some(crossing) = self.crossings.get_mut(id) else { return false };
        let peer = self.lines.peer(crossing.to().side);
        peer.known.ask(cx, peer.trunk, response, &mut crossing.challenges) == Challenged::Answered
    }

    /// It has the next CSeq number (RFC 3261 §22.2).
    fn renumber(&mut self, id: u64) {
        let Some(crossing) = self.crossings.get_mut(id) else { return };
        let Some(mut request) = crossing.request().cloned() else { return };
        let dialog = self.lines.dialogs.at_mut(crossing.to());
        dialog.local_cseq += 1;
        set_cseq(&mut request, dialog.local_cseq);
        crossing.write(dialog.local_cseq, request);
    }

    /// A request is to go out again to whoever answered on this transaction: the ways that it has.
    pub fn restart(&mut self, cx: &mut Context, id: u64, tx: ClientTxId) -> Ways {
        let Some(crossing) = self.crossings.get_mut(id) else { return Ways::default() };
        let (ways, outs) = crossing.state_mut().restart(tx);
        let crossing = self.crossings.get(id);
        for out in outs {
            if out.tx == tx {
                cx.tx.set_client_user(tx, ClientUser::Nobody);
            } else if let Some(crossing) = crossing {
                self.leave(cx, crossing, &out);
            }
        }
        ways
    }

    /// Who sent a request other than INVITE has waited for a while: it hears that we have it (RFC 4320 §4.1).
    pub fn on_trying_due(&mut self, cx: &mut Context, server: ServerTxId) {
        let Some(crossing) = self.crossings.of_server(server) else { return };
        let Some(asked) = crossing.asked() else { return };
        let mut draft = asked.request.response(100, None);
        let realm = self.lines.peer(crossing.from().side).realm;
        if let Some(OfCall { ladder, .. }) = &mut self.lines.of_call {
            ladder.sent(cx.now.unix, realm, &asked.back, &draft);
        }
        cx.respond(server, &mut draft);
    }

    /// The far end that asked has cancelled its INVITE. True: that never went out, and is over.
    pub fn on_cancel(&mut self, cx: &mut Context, id: u64, reason: Option<&str>) -> bool {
        let Some(crossing) = self.crossings.get_mut(id) else { return false };
        crossing.cancel_reason = reason.map(Into::into);
        let cancel = crossing.state_mut().on_cancel();
        if cancel == Cancel::Send {
            self.say_cancel(cx, id);
        }
        cancel == Cancel::Drop
    }

    /// An INVITE has been out for long. Where its far end has said nothing but 100 it is cancelled: nothing else could be asked meanwhile, a refresh
    /// neither.
    pub fn on_stale(&mut self, cx: &mut Context, id: u64) {
        if self.crossings.get_mut(id).is_some_and(|crossing| crossing.state_mut().on_stale() == Cancel::Send) {
            self.say_cancel(cx, id);
        }
    }

    fn same_hop(&self, crossing: &Crossing<X>, method: &Method, to: Option<&str>) -> Option<Draft> {
        let mut draft = crossing.same_hop(method, to)?;
        if let Some(OfCall { session_ids, .. }) = &self.lines.of_call {
            session_ids.put(crossing.to().side, &mut draft);
        }
        Some(draft)
    }

    /// CANCEL goes where its INVITE went (RFC 3261 §9.1).
    fn say_cancel(&self, cx: &mut Context, id: u64) {
        let (Some(crossing), Owner::Call(call)) = (self.crossings.get(id), self.lines.owner) else { return };
        let Some(out) = crossing.state().last() else { return };
        let (Some(branch), Some(way)) = (cx.tx.client_branch(out.tx).map(str::to_owned), cx.tx.way(out.tx)) else { return };
        let Some(mut draft) = self.same_hop(crossing, &Method::Cancel, None) else { return };
        draft.insert_first(HeaderId::Via, cx.via(&way.path, &branch));
        if let Some(reason) = &crossing.cancel_reason {
            draft.push(HeaderId::Reason, &**reason);
        }
        if let Some(payload) = cx.encode(&draft) {
            cx.note_sent(call, way, &draft);
            let tls_name = out.way.tls_name.clone();
            if cx.send_after_bye(call, branch.into(), way, tls_name, payload, None).is_some() {
                cx.start_timer(ABANDON, TimerUser::Call(call, CallTimer::AbandonCrossing(id)));
            }
        }
    }

    /// The ACK for a refusal is a part of its INVITE's transaction (RFC 3261 §17.1.1.3).
    fn ack_refusal(&mut self, cx: &mut Context, id: u64, tx: ClientTxId, response: &Message) {
        let Some(crossing) = self.crossings.get(id) else { return };
        let Some(mut ack) = self.same_hop(crossing, &Method::Ack, Some(response.to())) else { return };
        let (Some(branch), Some(way)) = (cx.tx.client_branch(tx).map(str::to_owned), cx.tx.way(tx)) else { return };
        ack.insert_first(HeaderId::Via, cx.via(&way.path, &branch));
        if let Some(payload) = cx.encode(&ack) {
            // Before the request that may follow at once.
            if let Some(OfCall { ladder, .. }) = &mut self.lines.of_call {
                ladder.sent(cx.now.unix, way.path.role.realm(), &way, &ack);
            }
            cx.tx.set_ack(cx.now.mono, tx, payload);
        }
    }

    /// Takes a request that is over. What went other ways than that which was answered is not waited for.
    pub fn take(&mut self, cx: &mut Context, id: u64, answered: Option<ClientTxId>) -> Option<Crossing<X>> {
        let mut crossing = self.crossings.remove(id)?;
        for out in crossing.state_mut().take_outs() {
            if Some(out.tx) != answered {
                self.leave(cx, &crossing, &out);
            }
        }
        Some(crossing)
    }

    fn leave(&self, cx: &mut Context, crossing: &Crossing<X>, out: &Out) {
        if let Owner::Call(call) = self.lines.owner
            && crossing.is(&Method::Invite)
            && let Some(ack) = self.same_hop(crossing, &Method::Ack, None)
        {
            // Should it have arrived all the same, its final response gets an ACK.
            return cx.leave_invite(call, out.tx, ack, out.way.tls_name.clone());
        }
        cx.tx.set_client_user(out.tx, ClientUser::Nobody);
        cx.tx.abandon_client(out.tx);
        cx.after_bye.forget(out.tx);
    }
}

/// The DNS was asked for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAsked;
