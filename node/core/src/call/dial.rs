//! Where to dial, and the INVITE toward one target after the other.

use super::address::{is_sips, request_uri, to_value};
use super::attempt::Attempt;
use super::challenge::{Challenged, Known, Retry, raise_cseq};
use super::services::{LOOP_PARAM, Services};
use super::timer::{CallTimer, Timer};
use super::uac::Revived;
use super::{Call, CallPhase, body, headers};
use crate::dialog::Dialog;
use crate::ids::ResolveId;
use crate::io::{ResolveError, ReturnPath, Side, Target};
use crate::policy::Topology;
use crate::routing;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::targets::{AttemptEvent, AttemptState, Candidate, Hop, Next};
use crate::token::ClaimKey;
use crate::transaction::{CallUse, ClientUser, NewRequest, QuestionUser};

/// RFC 5393 §5.3.3: what a request without Max-Breadth gets.
const MAX_BREADTH: &str = "60";

/// RFC 3261 §18.1.1, path MTU unknown: a larger request of ours goes by TCP, if the trunk leaves the transport open.
pub const DATAGRAM_MAX: usize = 1300;

impl Call {
    /// Dials the next target, once claim and ports are decided.
    pub(super) fn try_dial(&mut self, cx: &mut Services) {
        let ready = matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling)
            && self.claim.may_dial()
            && !self.media.is_opening()
            && !self.uac.is_asking();
        if !ready {
            // The DNS need not wait for the rest.
            if self.phase == CallPhase::Preparing
                && let Some(hop) = self.uac.targets.look_ahead()
            {
                self.look_up(cx, hop);
            }
            return;
        }
        loop {
            match self.uac.targets.next(|c| cx.defers(c.realm, &c.target)) {
                Next::Try(candidate) => {
                    if self.dial(cx, candidate) {
                        return;
                    }
                }
                Next::Wait => return,
                Next::LookUp(hop) => self.look_up(cx, hop),
                Next::Exhausted => break,
            }
        }
        if let Some(revived) = self.uac.back_to_the_silent(cx) {
            return self.return_to(cx, revived);
        }
        let there = (self.emergency && !self.uac.has_dialled()) || self.uac.lacks_secure_target();
        let otherwise = routing::unrouted(there);
        self.fail_with_best(cx, otherwise);
    }

    fn look_up(&mut self, cx: &mut Services, hop: Hop) {
        let question = cx.resolve(QuestionUser::Call(self.id), hop.question());
        self.uac.targets.asked(question, hop);
    }

    /// The DNS answered.
    pub fn on_resolved(&mut self, cx: &mut Services, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        if let Ok(failed) = self.courier().on_resolved(cx, id, &result) {
            return self.on_crossing_failed(cx, failed);
        }
        if !self.uac.targets.on_resolved(id, result.as_deref().ok()) {
            return;
        }
        if result.is_err() {
            self.uac.note_failure(480, None);
        }
        self.try_dial(cx);
    }

    /// Ports or the DNS took too long: on without them.
    pub(super) fn on_prepare_limit(&mut self, cx: &mut Services) {
        // A later target may be on another side than the ports, and wait for others.
        let waits = self.phase == CallPhase::Dialling && self.media.is_opening();
        if self.phase != CallPhase::Preparing && !waits {
            return;
        }
        if self.media.is_opening() {
            self.media.on_open_failed();
        }
        if self.uac.targets.stop_waiting() {
            self.uac.note_failure(480, None);
        }
        self.try_dial(cx);
    }

    /// Sends the INVITE to one target. False: it could not even be written.
    fn dial(&mut self, cx: &mut Services, candidate: Candidate) -> bool {
        let Some(index) = self.uac.next_index() else { return false };
        if self.waits_for_ports(cx, &candidate) {
            return true;
        }
        self.uac.prepared(cx);
        self.phase = CallPhase::Dialling;
        let called = self.pairs.begin_invite(cx).callee();
        self.session_ids.forget_callee();
        // Two epochs of identity: a leg dialled beside a dead owner's must not look like that one's. By the exact key, for a caller that
        // tries one node after the other is dialled again each time; copies of one packet are still one request (rule C).
        let (key, epoch) = if self.journal.has_no_key() { (ClaimKey(self.exact), 2) } else { (self.claim_key, 1) };
        let tries = candidate.again.map_or_else(|| self.uac.targets.tries(&candidate.target), |again| again.tries);
        let identity = cx.key.callee_identity(key, epoch, target_number(&candidate.target, tries));
        let cseq = candidate.again.map_or(identity.cseq, |again| again.cseq + 1);
        let uri = request_uri(&self.invite, &candidate);
        let open = cx.config.trunk(&candidate.trunk).is_some_and(|t| t.topology == Topology::Transparent);
        self.callee.secure = is_sips(&uri);
        let dialog = &mut self.pairs[called].dialog;
        dialog.call_id = if open { self.invite.call_id().into() } else { identity.call_id.into() };
        dialog.local_tag = identity.from_tag.into();
        dialog.local_cseq = cseq - 1;
        dialog.remote_tag = None;
        dialog.route_set.clear();
        dialog.remote_uri = to_value(cx, &self.invite, &uri).into();
        dialog.remote_target = uri.into();
        self.callee.realm = candidate.realm;
        self.callee.trunk = candidate.trunk.clone();
        self.callee.path = cx.path_to(candidate.realm, candidate.target.transport, candidate.target.addr);
        if let Some(replaced) = self.replaced.as_deref().filter(|r| candidate.uri.as_ref() == Some(&r.uri)) {
            self.callee.path = replaced.flow_to(cx, &candidate.target).unwrap_or(self.callee.path);
            self.pairs[called].dialog.route_set = replaced.routes.clone();
        }
        self.callee.tls_name = candidate.tls_name();
        self.early_target = format!("{}/{}", self.callee.trunk, candidate.target.addr);
        let mut draft = self.pairs[called].dialog.request(&Method::Invite);
        let forwards = headers::next_max_forwards(&self.invite).unwrap_or(70);
        draft.set(HeaderId::MaxForwards, forwards.to_string());
        if self.invite.first(HeaderId::MaxBreadth).is_none() {
            // RFC 5393 §5.3.3: targets are tried one after the other, so that none of it is used up here.
            draft.push(HeaderId::MaxBreadth, MAX_BREADTH);
        }
        draft.push(HeaderId::Contact, self.callee.contact_for(cx, &self.pairs[called], &self.invite));
        headers::copy_through(&self.invite, &mut draft);
        cx.shape(&self.caller.trunk, &self.callee.trunk, &Method::Invite, self.emergency, &mut draft);
        if let Some(replaced) = &self.replaced {
            draft.push(HeaderId::Replaces, replaced.value.as_str());
        }
        if let Some(info) = &self.emergency_info {
            super::emergency::add_ids(info, &self.invite, &mut draft);
        }
        let invite = self.invite.clone();
        self.offer_100rel(cx, &mut draft);
        self.callee.session.offer(cx, &self.callee.trunk, &mut draft);
        self.offer_answer().put(cx, called.other(), &invite, false, &mut draft);
        self.pairs.begin_offer(body::find_sdp(&self.invite).map(|_| Side::Caller));
        let retry = self.first_retry(cx, &mut draft);
        let path = self.callee.path;
        let branch = cx.mint_branch();
        let via = format!("{};{LOOP_PARAM}={}", cx.via(&path, &branch), cx.loop_cookie(&self.invite));
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return false };
        if payload.len() > DATAGRAM_MAX
            && let Some(by_tcp) = self.uac.targets.by_tcp(&candidate, |c| cx.defers(c.realm, &c.target))
        {
            return self.dial(cx, by_tcp);
        }
        let tls_name = self.callee.tls_name.clone();
        let request = NewRequest {
            user: ClientUser::Call { id: self.id, purpose: CallUse::Dial(index) },
            branch: branch.clone().into(),
            invite: true,
            way: ReturnPath::here(path),
            tls_name: tls_name.clone(),
            payload,
        };
        let Some(tx) = cx.send_request(request) else {
            self.uac.note_failure(503, None);
            return false;
        };
        self.ladder.sent(cx.now.unix, self.callee.realm, &ReturnPath::here(path), &draft);
        let failover = cx.config.failover_after(&self.callee.trunk);
        let timer = Some(cx.start_timer(failover, Timer::Call(self.id, CallTimer::Failover(index))));
        self.ringing.restart(cx, &self.callee.trunk);
        self.ringing.await_word(cx);
        self.pairs.on_invited(index);
        let dialog = &self.pairs[called].dialog;
        self.uac.began(Attempt {
            call: self.id,
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
            timer,
            reason: None,
            session_id: draft.first(HeaderId::SessionId).map(Into::into),
            retry,
        });
        true
    }

    /// The target wants a longer session interval: once more, with it (RFC 4028 §7.3). False: it said nothing of use, or too often.
    pub(super) fn dial_longer(&mut self, index: u32, response: &Message) -> bool {
        let sent = self.uac.attempt(index).map_or(0, |attempt| self.uac.sent_to(&attempt.path));
        if sent > usize::from(super::session_timer::MAX_RAISES) || !self.callee.session.raise(response) {
            return false;
        }
        self.uac.ask_again(index);
        true
    }

    /// The leg toward a target that was passed over is the one that counts again.
    pub(super) fn return_to(&mut self, cx: &mut Services, revived: Revived) {
        let Revived { pair, candidate, path, tls_name, uri } = revived;
        self.pairs.return_to(cx, pair);
        self.early_target = format!("{}/{}", candidate.trunk, candidate.target.addr);
        self.callee.secure = is_sips(&uri);
        (self.callee.realm, self.callee.trunk) = (candidate.realm, candidate.trunk);
        (self.callee.path, self.callee.tls_name) = (path, tls_name);
    }

    /// A 401 or 407 to the first INVITE, which is acknowledged: the INVITE again in the same dialog with the next CSeq number.
    pub(super) fn on_dial_challenge(&mut self, cx: &mut Services, index: u32, response: &Message) -> Challenged {
        let Some(mut retry) = self.uac.attempt_mut(index).and_then(|a| a.retry.take()) else { return Challenged::NotOurs };
        let peer = self.peer(Side::Callee);
        match peer.known.ask(cx, peer.trunk, response, &mut retry.tries) {
            Challenged::Answered => {}
            other => return other,
        }
        let Some(cseq) = raise_cseq(&mut retry.draft) else { return Challenged::Refused };
        let called = self.pairs.begin_again(cx).callee();
        let dialog = &mut self.pairs[called].dialog;
        (dialog.local_cseq, dialog.remote_tag) = (cseq, None);
        dialog.route_set.clear();
        self.pairs.begin_offer(body::find_sdp(&self.invite).map(|_| Side::Caller));
        let mut draft = retry.draft.clone();
        self.peer(Side::Callee).authorize(cx, &mut draft);
        let Some(attempt) = self.uac.attempt_mut(index) else { return Challenged::Refused };
        let (path, tls_name) = (attempt.path, attempt.tls_name.clone());
        let branch = cx.mint_branch();
        let via = cx.via(&path, &branch);
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return Challenged::Refused };
        let user = ClientUser::Call { id: self.id, purpose: CallUse::Dial(index) };
        let (way, invite) = (ReturnPath::here(path), true);
        let sent = cx.send_request(NewRequest { user, branch: branch.clone().into(), invite, way, tls_name, payload });
        let Some(tx) = sent else { return Challenged::Refused };
        self.ladder.sent(cx.now.unix, self.callee.realm, &ReturnPath::here(path), &draft);
        // The old transaction goes on absorbing copies of its 401; what becomes of it says nothing of the new one.
        cx.tx.set_client_user(attempt.tx, ClientUser::Nobody);
        let failover = cx.config.failover_after(&self.callee.trunk);
        let timer = Some(cx.start_timer(failover, Timer::Call(self.id, CallTimer::Failover(index))));
        attempt.dialog.local_cseq = cseq;
        (attempt.tx, attempt.via, attempt.branch, attempt.cseq, attempt.timer) = (tx, via, branch.into(), cseq, timer);
        attempt.state.note(AttemptEvent::Again);
        attempt.retry = Some(retry);
        Challenged::Answered
    }

    /// The INVITE toward a target as it may be repeated; credentials that the caller gave us alone do not go on.
    fn first_retry(&mut self, cx: &Services, draft: &mut Draft) -> Option<Retry> {
        self.auth.callee = Known::default();
        headers::strip_our_credentials(cx, &self.caller.trunk, draft);
        cx.credentials(&self.callee.trunk).map(|_| Retry { draft: draft.clone(), tries: 0 })
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
