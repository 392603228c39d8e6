//! Where to dial, and the INVITE toward one target after the other.

use bytes::Bytes;

use super::address::{is_sips, request_uri, to_value};
use super::attempt::Attempt;
use super::challenge::{Challenged, KnownChallenges, Retry, raise_cseq};
use super::context::Context;
use super::emergency::add_ids;
use super::failure::Failure;
use super::provisional::offer_100rel;
use super::redirect::Redirector;
use super::respond::LOOP_PARAM;
use super::session_timer::MAX_RAISES;
use super::timer::{CallTimer, TimerUser};
use super::uac::{Revived, Uac};
use super::uas::Answering;
use super::{CallPhase, body, headers};
use crate::dialog::{Dialog, DialogRef};
use crate::io::{Counter, Path, ReturnPath, Side, Target, TargetChange};
use crate::policy::Topology;
use crate::routing;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::targets::{AttemptEvent, AttemptState, Candidate, Hop, NextTarget};
use crate::timer::TimerId;
use crate::token::ClaimKey;
use crate::transaction::{CallUse, ClientTxId, ClientUser, NewRequest, QuestionUser};

/// RFC 5393 §5.3.3: what a request without Max-Breadth gets.
const MAX_BREADTH: &str = "60";

/// RFC 3261 §18.1.1, path MTU unknown: a larger request of ours goes by TCP, if the trunk leaves the transport open.
pub const DATAGRAM_MAX: usize = 1300;

/// What dialling touches.
pub(super) struct Dialler<'a> {
    pub(super) to: Answering<'a>,
    pub(super) uac: &'a mut Uac,
    pub(super) phase: &'a mut CallPhase,
    /// The call has not its key, and another identity toward the called side.
    pub(super) keyless: bool,
}

/// Where dialling stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Dialled {
    /// A target is asked, or something is waited for.
    Going,
    /// Nothing is left to dial. The status that the caller gets where nothing else tells more.
    Exhausted(u16),
}

impl Dialler<'_> {
    /// Looks up a target ahead: the DNS need not wait for the rest.
    pub(super) fn look_ahead(&mut self, cx: &mut Context) {
        if let Some(hop) = self.uac.targets.look_ahead() {
            self.look_up(cx, hop);
        }
    }

    /// Dials the next target.
    pub(super) fn next(&mut self, cx: &mut Context) -> Dialled {
        loop {
            match self.uac.targets.next(|c| cx.defers(c.realm, &c.target)) {
                NextTarget::Try(candidate) => {
                    if self.dial(cx, candidate) {
                        return Dialled::Going;
                    }
                }
                NextTarget::Wait => return Dialled::Going,
                NextTarget::LookUp(hop) => self.look_up(cx, hop),
                NextTarget::Exhausted => break,
            }
        }
        if let Some(revived) = self.uac.back_to_the_silent(cx) {
            self.return_to(cx, revived);
            return Dialled::Going;
        }
        let there = (self.to.about.emergency && !self.uac.has_dialled()) || self.uac.lacks_secure_target();
        Dialled::Exhausted(routing::unrouted(there))
    }

    fn look_up(&mut self, cx: &mut Context, hop: Hop) {
        let question = cx.resolve(QuestionUser::Call(self.to.about.id), hop.question());
        self.uac.targets.asked(question, hop);
    }

    /// True when a target is on another side than the ports: it is dialled when there are others.
    fn waits_for_ports(&mut self, cx: &mut Context, candidate: &Candidate) -> bool {
        let waits = !self.to.media.reach(cx, candidate.realm);
        if waits {
            self.uac.targets.push_front(candidate.clone());
            // What was dialled with the ports that are gone cannot have the call back.
            self.uac.forget_passed_over();
            self.uac.limit_preparation(cx);
        }
        waits
    }

    /// Sends the INVITE to one target. False: it could not even be written.
    fn dial(&mut self, cx: &mut Context, candidate: Candidate) -> bool {
        let Some(index) = self.uac.next_index() else { return false };
        if self.waits_for_ports(cx, &candidate) {
            return true;
        }
        self.uac.prepared(cx);
        *self.phase = CallPhase::Dialling;
        let called = self.to.sides.pairs.begin_invite(cx).callee();
        let tries = candidate.again.map_or_else(|| self.uac.targets.tries(&candidate.target), |again| again.tries);
        let cseq = self.begin_dialog(cx, called, &candidate, tries);
        self.take_target(cx, called, &candidate);
        let mut draft = self.write(cx, called);
        let retry = self.first_retry(cx, &mut draft);
        let callee = &self.to.sides.callee;
        let (path, tls_name) = (callee.path, callee.tls_name.clone());
        let branch = cx.mint_branch();
        let via = format!("{};{LOOP_PARAM}={}", cx.via(&path, &branch), cx.loop_cookie(&self.to.about.invite));
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return false };
        if payload.len() > DATAGRAM_MAX
            && let Some(by_tcp) = self.uac.targets.by_tcp(&candidate, |c| cx.defers(c.realm, &c.target))
        {
            return self.dial(cx, by_tcp);
        }
        let Some((tx, timer)) = self.send(cx, index, (branch.clone().into(), path, tls_name.clone()), payload) else {
            self.uac.note_failure(503, None);
            return false;
        };
        self.to.sides.sent(cx, Side::Callee, &ReturnPath::here(path), &draft);
        self.to.uas.ringing.restart(cx, &self.to.sides.callee.trunk);
        self.to.uas.ringing.await_word(cx);
        self.to.sides.pairs.on_invited(index);
        let dialog = &self.to.sides.pairs[called].dialog;
        self.uac.began(Attempt {
            call: self.to.about.id,
            index,
            tx,
            dialog: Dialog { local_cseq: cseq, ..dialog.clone() },
            uri: dialog.remote_target.clone(),
            via,
            branch: branch.into(),
            cseq,
            tries,
            path,
            tls_name,
            candidate,
            pair: called.pair,
            state: AttemptState::NEW,
            timer: Some(timer),
            reason: None,
            session_id: draft.first(HeaderId::SessionId).map(Into::into),
            retry,
        });
        true
    }

    /// The dialog that the INVITE to a target begins: the CSeq number of that.
    fn begin_dialog(&mut self, cx: &Context, called: DialogRef, candidate: &Candidate, tries: usize) -> u32 {
        let about = self.to.about;
        self.to.sides.session_ids.forget_callee();
        // Two epochs of identity: a leg dialled beside a dead owner's must not look like that one's. By the packet key, for a caller that
        // tries one node after the other is dialled again each time; copies of one packet are still one request (rule C).
        let (key, epoch) = if self.keyless { (ClaimKey(about.packet_key.0), 2) } else { (about.claim_key, 1) };
        let identity = cx.key.callee_identity(key, epoch, target_number(&candidate.target, tries));
        let cseq = candidate.again.map_or(identity.cseq, |again| again.cseq + 1);
        let uri = request_uri(&about.invite, candidate);
        let open = cx.config.trunk(&candidate.trunk).is_some_and(|t| t.topology == Topology::Transparent);
        self.to.sides.callee.secure = is_sips(&uri);
        let dialog = &mut self.to.sides.pairs[called].dialog;
        dialog.call_id = if open { about.invite.call_id().into() } else { identity.call_id.into() };
        dialog.local_tag = identity.from_tag.into();
        dialog.local_cseq = cseq - 1;
        dialog.remote_tag = None;
        dialog.route_set.clear();
        dialog.remote_uri = to_value(cx, &about.invite, &uri).into();
        dialog.remote_target = uri.into();
        cseq
    }

    /// The called side's leg leads to this target.
    fn take_target(&mut self, cx: &Context, called: DialogRef, candidate: &Candidate) {
        let Candidate { realm, trunk, target, .. } = candidate;
        let callee = &mut self.to.sides.callee;
        (callee.realm, callee.trunk) = (*realm, trunk.clone());
        callee.path = cx.path_to(*realm, target.transport, target.addr);
        if let Some(replaced) = self.to.about.replaced.as_deref().filter(|r| candidate.uri.as_ref() == Some(&r.uri)) {
            callee.path = replaced.flow_to(cx, target).unwrap_or(callee.path);
            self.to.sides.pairs[called].dialog.route_set = replaced.routes.clone();
        }
        callee.tls_name = candidate.tls_name();
        self.uac.target = format!("{trunk}/{}", target.addr);
    }

    /// The INVITE in that dialog, without Via and credentials.
    fn write(&mut self, cx: &mut Context, called: DialogRef) -> Draft {
        let about = self.to.about;
        let invite = &about.invite;
        let mut draft = self.to.sides.pairs[called].dialog.request(&Method::Invite);
        let forwards = headers::next_max_forwards(invite).unwrap_or(70);
        draft.set(HeaderId::MaxForwards, forwards.to_string());
        if invite.first(HeaderId::MaxBreadth).is_none() {
            // RFC 5393 §5.3.3: targets are tried one after the other, so that none of it is used up here.
            draft.push(HeaderId::MaxBreadth, MAX_BREADTH);
        }
        let (callee, half) = self.to.sides.leg_and_half(called);
        draft.push(HeaderId::Contact, callee.contact_for(cx, half, invite));
        headers::copy_through(invite, &mut draft);
        let (here, there) = (&self.to.sides.caller.trunk, &self.to.sides.callee.trunk);
        cx.shape(here, there, &Method::Invite, about.emergency, &mut draft);
        if let Some(replaced) = &about.replaced {
            draft.push(HeaderId::Replaces, replaced.value.as_str());
        }
        if let Some(info) = &about.emergency_info {
            add_ids(info, invite, &mut draft);
        }
        offer_100rel(cx, invite, there, &mut draft);
        self.to.sides.callee.session.offer(cx, there, &mut draft);
        self.to.offer_answer().put(cx, called.other(), invite, false, &mut draft);
        self.begin_offer();
        draft
    }

    /// The INVITE's offer is open from now on.
    fn begin_offer(&mut self) {
        let of = body::find_sdp(&self.to.about.invite).map(|_| Side::Caller);
        self.to.sides.pairs.begin_offer(of);
    }

    /// Sends an INVITE: its transaction, and the timer of its target. `None`: there is no room for it.
    fn send(
        &self,
        cx: &mut Context,
        index: u32,
        (branch, path, tls_name): (Box<str>, Path, Option<Box<str>>),
        payload: Bytes,
    ) -> Option<(ClientTxId, TimerId)> {
        let id = self.to.about.id;
        let user = ClientUser::Call { id, purpose: CallUse::Dial(index) };
        let (way, invite) = (ReturnPath::here(path), true);
        let tx = cx.send_request(NewRequest { user, branch, invite, way, tls_name, payload })?;
        let failover = cx.config.failover_after(&self.to.sides.callee.trunk);
        Some((tx, cx.start_timer(failover, TimerUser::Call(id, CallTimer::Failover(index)))))
    }

    /// A target has refused the call: what the caller is told of that. `None`: another target is to be tried.
    pub(super) fn on_refused(&mut self, cx: &mut Context, response: &Message) -> Option<Failure> {
        let status = response.status().unwrap_or(0);
        self.uac.note_failure(status, Some(response));
        let callee = &self.to.sides.callee;
        let dialled = &self.to.sides.pairs[self.to.sides.toward(Side::Callee)].dialog.remote_target;
        let from = Redirector { trunk: &callee.trunk, realm: callee.realm, dialled };
        let followed = (300..400).contains(&status) && self.uac.follow(cx, &from, response);
        if followed {
            cx.count(Counter::Target(TargetChange::Redirected));
        }
        // RFC 3263 §4.3: a 5xx says that this target cannot; another may. 408 is its word that nobody answered there (RFC 3261 §21.4.9),
        // 430 that the way to it is gone (RFC 5626 §5.3). Anything else is the user's answer, a 6xx everywhere.
        let cannot = (500..600).contains(&status) || matches!(status, 408 | 430);
        if followed || (cannot && self.uac.has_alternative()) {
            return None;
        }
        // The user's answer goes at once. What other targets said before tells less.
        let last = Failure { status, response: Some(response.clone()) };
        Some(if cannot { self.uac.take_failure().unwrap_or(last) } else { last })
    }

    /// The target wants a longer session interval: once more, with it (RFC 4028 §7.3). False: it said nothing of use, or too often.
    pub(super) fn may_dial_longer(&mut self, index: u32, response: &Message) -> bool {
        let sent = self.uac.attempt(index).map_or(0, |attempt| self.uac.sent_to(&attempt.path));
        if sent > usize::from(MAX_RAISES) || !self.to.sides.callee.session.raise(response) {
            return false;
        }
        self.uac.ask_again(index);
        true
    }

    /// The leg toward a target that was passed over is the one that counts again.
    pub(super) fn return_to(&mut self, cx: &mut Context, revived: Revived) {
        let Revived { pair, candidate, path, tls_name, uri } = revived;
        self.to.sides.pairs.return_to(cx, pair);
        self.uac.target = format!("{}/{}", candidate.trunk, candidate.target.addr);
        let callee = &mut self.to.sides.callee;
        callee.secure = is_sips(&uri);
        (callee.realm, callee.trunk) = (candidate.realm, candidate.trunk);
        (callee.path, callee.tls_name) = (path, tls_name);
    }

    /// A 401 or 407 to the first INVITE, which is acknowledged: the INVITE again in the same dialog with the next CSeq number.
    pub(super) fn on_challenge(&mut self, cx: &mut Context, index: u32, response: &Message) -> Challenged {
        let Some(mut retry) = self.uac.attempt_mut(index).and_then(|a| a.retry.take()) else { return Challenged::NotOurs };
        let peer = self.to.sides.peer(Side::Callee);
        match peer.known.ask(cx, peer.trunk, response, &mut retry.tries) {
            Challenged::Answered => {}
            other => return other,
        }
        let Some(cseq) = raise_cseq(&mut retry.draft) else { return Challenged::Refused };
        let called = self.to.sides.pairs.begin_again(cx).callee();
        let dialog = &mut self.to.sides.pairs[called].dialog;
        (dialog.local_cseq, dialog.remote_tag) = (cseq, None);
        dialog.route_set.clear();
        self.begin_offer();
        let mut draft = retry.draft.clone();
        self.to.sides.peer(Side::Callee).authorize(cx, &mut draft);
        let Some(attempt) = self.uac.attempt(index) else { return Challenged::Refused };
        let (path, tls_name) = (attempt.path, attempt.tls_name.clone());
        let branch: Box<str> = cx.mint_branch().into();
        let via = cx.via(&path, &branch);
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return Challenged::Refused };
        let Some((tx, timer)) = self.send(cx, index, (branch.clone(), path, tls_name), payload) else {
            return Challenged::Refused;
        };
        self.to.sides.sent(cx, Side::Callee, &ReturnPath::here(path), &draft);
        let Some(attempt) = self.uac.attempt_mut(index) else { return Challenged::Refused };
        // The old transaction goes on absorbing copies of its 401; what becomes of it says nothing of the new one.
        cx.tx.set_client_user(attempt.tx, ClientUser::Nobody);
        attempt.dialog.local_cseq = cseq;
        (attempt.tx, attempt.via, attempt.branch, attempt.cseq, attempt.timer) = (tx, via, branch, cseq, Some(timer));
        attempt.state.note(AttemptEvent::Again);
        attempt.retry = Some(retry);
        Challenged::Answered
    }

    /// The INVITE toward a target as it may be repeated; credentials that the caller gave us alone do not go on.
    fn first_retry(&mut self, cx: &Context, draft: &mut Draft) -> Option<Retry> {
        self.to.sides.callee.known = KnownChallenges::default();
        headers::strip_our_credentials(cx, &self.to.sides.caller.trunk, draft);
        cx.credentials(&self.to.sides.callee.trunk).map(|_| Retry { draft: draft.clone(), tries: 0 })
    }
}

/// The number of a target in the called leg's identity, from 0 tries on. By address, not by place in the list: nodes that hold
/// down different targets, or draw SRV weights differently, dial in different orders, and must still dial the same leg (rule C).
pub fn target_number(target: &Target, tries: usize) -> u32 {
    let text = format!("{}/{}/{tries}", target.transport.via_token(), target.addr);
    // FNV-1a: the same on every node and in every version.
    text.bytes().fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Transport;

    #[test]
    fn the_number_of_a_target_is_its_own() {
        let at = |port, transport| Target { addr: ([192, 0, 2, 1], port).into(), transport };
        let number = target_number(&at(5060, Transport::Udp), 0);
        // Nodes of two versions must agree: it never changes.
        assert_eq!(number, 657_454_262);
        let others = [
            target_number(&at(5060, Transport::Udp), 1),
            target_number(&at(5060, Transport::Tcp), 0),
            target_number(&at(5061, Transport::Udp), 0),
        ];
        assert!(!others.contains(&number), "{others:?}");
    }
}
