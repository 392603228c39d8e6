//! From target to target: the DNS, what is sent, and what comes of it.

use super::{GIVE_UP, Messages, Standalone, TriedTarget};
use crate::call::{
    Authenticated, Challenged, Context, DATAGRAM_MAX, KnownChallenges, LOOP_PARAM, TimerUser, copy_through, next_max_forwards,
    strip_our_credentials, target_number, to_value, uri_at,
};
use crate::dialog::fit_to_send;
use crate::ids::{LocalId, ResolveId};
use crate::io::{ResolveError, ReturnPath, Target};
use crate::policy::Topology;
use crate::sip::{Draft, HeaderId, Message};
use crate::subscription::Subscriptions;
use crate::targets::{Candidate, NextTarget};
use crate::transaction::{ClientTxId, ClientUser, NewRequest, QuestionUser};

/// Octets that a request still gets when its size is judged: Via, and a Contact.
const ROOM: usize = 250;

impl Messages {
    /// Sends it to the next target there is.
    pub(super) fn try_next(&mut self, cx: &mut Context, subscriptions: &mut Subscriptions, id: LocalId) {
        let Some(mut standalone) = self.open.remove(&id) else { return };
        standalone.current = None;
        standalone.provisional = false;
        cx.stop_timer(&mut standalone.timer);
        loop {
            match standalone.targets.next(|c| cx.defers(c.realm, &c.target)) {
                NextTarget::Try(candidate) => {
                    if standalone.send(cx, subscriptions, id, &candidate) {
                        break;
                    }
                }
                NextTarget::Wait => break,
                NextTarget::LookUp(hop) => {
                    let question = cx.resolve(QuestionUser::Message(id), hop.question());
                    standalone.targets.asked(question, hop);
                }
                NextTarget::Exhausted => {
                    let failure = standalone.failure.take();
                    return standalone.answer(cx, subscriptions, id, 480, failure.as_ref());
                }
            }
        }
        self.open.insert(id, standalone);
    }

    /// The DNS answered for one of these.
    pub(crate) fn on_resolved(
        &mut self,
        cx: &mut Context,
        subscriptions: &mut Subscriptions,
        id: LocalId,
        question: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) {
        let Some(standalone) = self.open.get_mut(&id) else { return };
        if standalone.targets.on_resolved(question, result.as_deref().ok()) {
            self.try_next(cx, subscriptions, id);
        }
    }

    /// The present target has been silent for a while, or time is up.
    pub(crate) fn on_timer(&mut self, cx: &mut Context, subscriptions: &mut Subscriptions, id: LocalId) {
        let now = cx.now.mono;
        let Some(standalone) = self.open.get_mut(&id) else { return };
        standalone.timer = None;
        let over = now >= standalone.began + GIVE_UP;
        if !over && (standalone.provisional || !standalone.targets.has_untried()) {
            self.wait(cx, id);
            return;
        }
        let subscribes = standalone.subscribes();
        if let Some(sent) = standalone.current.take() {
            cx.target_failed(&sent.path, None);
            if subscribes {
                // The next target's dialog takes the place of this one's.
                cx.tx.abandon_client(sent.tx);
            } else {
                cx.tx.stop_retransmitting(sent.tx);
                standalone.earlier.push(sent);
            }
        }
        if !over {
            return self.try_next(cx, subscriptions, id);
        }
        if let Some(mut standalone) = self.open.remove(&id) {
            let failure = standalone.failure.take();
            standalone.answer(cx, subscriptions, id, 480, failure.as_ref());
        }
    }

    /// Nothing more is done until something comes, or the sender has to be told.
    fn wait(&mut self, cx: &mut Context, id: LocalId) {
        let now = cx.now.mono;
        let Some(standalone) = self.open.get_mut(&id) else { return };
        cx.stop_timer(&mut standalone.timer);
        standalone.timer = Some(cx.start_timer((standalone.began + GIVE_UP).since(now), TimerUser::Message(id)));
    }

    /// A response to one of these.
    pub(crate) fn on_response(
        &mut self,
        cx: &mut Context,
        subscriptions: &mut Subscriptions,
        id: LocalId,
        tx: ClientTxId,
        response: &Message,
    ) {
        let status = response.status().unwrap_or(0);
        let Some(standalone) = self.open.get_mut(&id) else { return };
        if let Some(at) = standalone.earlier.iter().position(|sent| sent.tx == tx) {
            return self.on_earlier_response(cx, subscriptions, id, at, response);
        }
        if status < 200 {
            standalone.provisional = true;
            return;
        }
        cx.tx.set_client_user(tx, ClientUser::Nobody);
        if let Some(sent) = &standalone.current {
            cx.target_responded(&sent.path, status, response);
            standalone.targets.on_answer(sent.path.remote);
        }
        let challenged = if matches!(status, 401 | 407) {
            standalone.prove(cx, subscriptions, id, response)
        } else {
            Some(Challenged::NotOurs)
        };
        let Some(challenged) = challenged else { return };
        let has_peers = has_peers(cx);
        let Some(standalone) = self.open.get_mut(&id) else { return };
        // What the target refuses us for is not the sender's fault, nor a challenge that it could answer.
        let refused = challenged == Challenged::Refused;
        if (refused || (500..600).contains(&status)) && standalone.targets.has_untried() {
            if !refused {
                standalone.failure.get_or_insert_with(|| response.clone());
            }
            self.try_next(cx, subscriptions, id);
        } else if status == 482 && has_peers {
            // Rule C: another node has sent it before, and will answer. Should it not, the sender is told at last.
            standalone.current = None;
            standalone.failure = Some(response.clone());
            standalone.provisional = true;
            standalone.targets.drop_untried();
            self.wait(cx, id);
        } else if let Some(standalone) = self.open.remove(&id) {
            standalone.answer(cx, subscriptions, id, 502, Some(response).filter(|_| !refused));
        }
    }

    /// A target that was passed over speaks: when it has taken the request, that is the answer.
    fn on_earlier_response(
        &mut self,
        cx: &mut Context,
        subscriptions: &mut Subscriptions,
        id: LocalId,
        at: usize,
        response: &Message,
    ) {
        let status = response.status().unwrap_or(0);
        let Some(standalone) = self.open.get_mut(&id).filter(|_| status >= 200) else { return };
        let sent = standalone.earlier.remove(at);
        cx.tx.set_client_user(sent.tx, ClientUser::Nobody);
        cx.target_responded(&sent.path, status, response);
        if !(200..300).contains(&status) {
            return;
        }
        let Some(mut standalone) = self.open.remove(&id) else { return };
        standalone.to_trunk = sent.trunk;
        standalone.earlier.extend(standalone.current.take());
        standalone.answer(cx, subscriptions, id, 200, Some(response));
    }

    /// No response, or it could not be sent.
    pub(crate) fn on_lost(&mut self, cx: &mut Context, subscriptions: &mut Subscriptions, id: LocalId, tx: ClientTxId) {
        let earlier = self.open.get_mut(&id).map(|standalone| &mut standalone.earlier);
        if let Some(earlier) = earlier
            && let Some(at) = earlier.iter().position(|sent| sent.tx == tx)
        {
            earlier.remove(at);
            return;
        }
        if let Some(sent) = self.open.get_mut(&id).and_then(|standalone| standalone.current.take()) {
            cx.target_failed(&sent.path, None);
        }
        self.try_next(cx, subscriptions, id);
    }
}

impl Standalone {
    /// False: it could not be written or sent.
    fn send(&mut self, cx: &mut Context, subscriptions: &mut Subscriptions, id: LocalId, candidate: &Candidate) -> bool {
        let mut draft = self.write(cx, candidate);
        let large = draft.encode().is_ok_and(|octets| octets.len() > DATAGRAM_MAX - ROOM);
        if large && let Some(by_tcp) = self.targets.by_tcp(candidate, |c| cx.defers(c.realm, &c.target)) {
            // RFC 3428 §8, RFC 3261 §18.1.1: what does not fit goes by a transport with congestion control; by UDP, should that fail.
            return self.send(cx, subscriptions, id, &by_tcp);
        }
        let (path, tls_name) =
            (cx.path_to(candidate.realm, candidate.target.transport, candidate.target.addr), candidate.tls_name());
        self.targets.on_tried(candidate.target.clone());
        self.to_trunk = candidate.trunk.clone();
        if self.subscribes() {
            subscriptions.dial(cx, id, &candidate.trunk, path, tls_name.clone(), &mut draft);
        }
        let asked = Authenticated::new(cx, &candidate.trunk, KnownChallenges::default(), &mut draft);
        let Some(tx) = self.transmit(cx, id, &mut draft, path, tls_name.clone()) else { return false };
        let failover = cx.config.failover_after(&candidate.trunk);
        self.current = Some(TriedTarget { tx, trunk: candidate.trunk.clone(), path, tls_name, asked });
        let left = (self.began + GIVE_UP).since(cx.now.mono);
        self.timer = Some(cx.start_timer(failover.min(left), TimerUser::Message(id)));
        true
    }

    /// As it goes to a target, without Via, Contact and credentials.
    fn write(&self, cx: &Context, to: &Candidate) -> Draft {
        let method = self.request.method();
        let number = target_number(&to.target, self.targets.tries(&to.target));
        let identity = cx.key.callee_identity(self.key, 1, number);
        let uri = uri_at(&self.request, &to.host, &to.target);
        let mut draft = Draft::request(method, &uri);
        draft.push(HeaderId::MaxForwards, next_max_forwards(&self.request).unwrap_or(70).to_string());
        draft.push(HeaderId::From, format!("{};tag={}", fit_to_send(self.request.from()), identity.from_tag));
        draft.push(HeaderId::To, to_value(cx, &self.request, &uri));
        let open = cx.config.trunk(&to.trunk).is_some_and(|t| t.topology == Topology::Transparent);
        draft.push(HeaderId::CallId, if open { self.request.call_id().to_owned() } else { identity.call_id });
        draft.push(HeaderId::CSeq, format!("{} {method}", identity.cseq));
        copy_through(&self.request, &mut draft);
        cx.shape(&self.from_trunk, &to.trunk, method, self.emergency, &mut draft);
        strip_our_credentials(cx, &self.from_trunk, &mut draft);
        draft.set_body(self.request.content_type(), self.request.body());
        draft
    }

    fn transmit(
        &self,
        cx: &mut Context,
        id: LocalId,
        draft: &mut Draft,
        path: crate::io::Path,
        tls_name: Option<Box<str>>,
    ) -> Option<ClientTxId> {
        let (branch, loops) = (cx.mint_branch(), cx.loop_cookie(&self.request));
        draft.insert_first(HeaderId::Via, format!("{};{LOOP_PARAM}={loops}", cx.via(&path, &branch)));
        let payload = cx.encode(draft)?;
        let (user, way) = (ClientUser::Message { id }, ReturnPath::here(path));
        cx.send_request(NewRequest { user, branch: branch.into(), invite: false, way, tls_name, payload })
    }

    /// The target asks who we are. `None`: it was told, and asked again; else why not.
    fn prove(
        &mut self,
        cx: &mut Context,
        subscriptions: &mut Subscriptions,
        id: LocalId,
        response: &Message,
    ) -> Option<Challenged> {
        let Some(sent) = self.current.as_mut() else { return Some(Challenged::NotOurs) };
        let Some(asked) = sent.asked.as_mut() else { return Some(Challenged::NotOurs) };
        let cseq = asked.next_cseq();
        let mut draft = match asked.answer(cx, response, cseq) {
            Ok(draft) => draft,
            Err(why) => return Some(why),
        };
        let (path, tls_name, subscribes) = (sent.path, sent.tls_name.clone(), self.subscribes());
        let Some(tx) = self.transmit(cx, id, &mut draft, path, tls_name) else { return Some(Challenged::Refused) };
        // It begins anew: the 100 before the challenge was for what is answered.
        self.provisional = false;
        cx.stop_timer(&mut self.timer);
        let left = (self.began + GIVE_UP).since(cx.now.mono);
        let after = cx.config.failover_after(&self.to_trunk).min(left);
        self.timer = Some(cx.start_timer(after, TimerUser::Message(id)));
        if let Some(sent) = self.current.as_mut() {
            sent.tx = tx;
        }
        if subscribes {
            subscriptions.redial(id, cseq);
        }
        None
    }
}

/// True where another node may have sent the same request.
fn has_peers(cx: &Context) -> bool {
    cx.view.nodes.iter().any(|n| n.alive && n.id != cx.local.node)
}
