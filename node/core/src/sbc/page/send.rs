//! From target to target: the DNS, what is sent, and what comes of it.

use super::{GIVE_UP, Page, Sent};
use crate::call::{
    Authenticated, Challenged, DATAGRAM_MAX, Known, LOOP_PARAM, Timer, copy_through, next_max_forwards, strip_our_credentials,
    target_number, to_value, uri_at,
};
use crate::dialog::fit_to_send;
use crate::ids::{LocalId, ResolveId};
use crate::io::{ResolveError, ReturnPath, Target};
use crate::policy::Topology;
use crate::sbc::Sbc;
use crate::sip::{Draft, HeaderId, Message};
use crate::targets::{Candidate, Next};
use crate::transaction::{ClientTxId, ClientUser, NewRequest, QuestionUser};

/// Octets that a request still gets when its size is judged: Via, and a Contact.
const ROOM: usize = 250;

impl Sbc {
    /// Sends it to the next target there is.
    pub(super) fn try_page(&mut self, id: LocalId) {
        let Some(mut page) = self.pages.open.remove(&id) else { return };
        page.current = None;
        page.provisional = false;
        self.cx.stop_timer(&mut page.timer);
        loop {
            match page.targets.next(|c| self.cx.defers(c.realm, &c.target)) {
                Next::Try(candidate) => {
                    if self.send_page(id, &mut page, &candidate) {
                        break;
                    }
                }
                Next::Wait => break,
                Next::LookUp(hop) => {
                    let question = self.cx.resolve(QuestionUser::Message(id), hop.question());
                    page.targets.asked(question, hop);
                }
                Next::Exhausted => {
                    let failure = page.failure.take();
                    return self.answer_page(id, page, 480, failure.as_ref());
                }
            }
        }
        self.pages.open.insert(id, page);
    }

    /// The DNS answered for one of these.
    pub(in crate::sbc) fn on_page_resolved(
        &mut self,
        id: LocalId,
        question: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) {
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        if page.targets.on_resolved(question, result.as_deref().ok()) {
            self.try_page(id);
        }
    }

    /// False: it could not be written or sent.
    fn send_page(&mut self, id: LocalId, page: &mut Page, candidate: &Candidate) -> bool {
        let mut draft = self.write_page(page, candidate);
        let large = draft.encode().is_ok_and(|octets| octets.len() > DATAGRAM_MAX - ROOM);
        if large && let Some(by_tcp) = page.targets.by_tcp(candidate, |c| self.cx.defers(c.realm, &c.target)) {
            // RFC 3428 §8, RFC 3261 §18.1.1: what does not fit goes by a transport with congestion control; by UDP, should that fail.
            return self.send_page(id, page, &by_tcp);
        }
        let (path, tls_name) =
            (self.cx.path_to(candidate.realm, candidate.target.transport, candidate.target.addr), candidate.tls_name());
        page.targets.on_tried(candidate.target.clone());
        page.to_trunk = candidate.trunk.clone();
        if page.subscribes() {
            self.dial_subscription(id, &candidate.trunk, path, tls_name.clone(), &mut draft);
        }
        let asked = Authenticated::new(&mut self.cx, &candidate.trunk, Known::default(), &mut draft);
        let loops = self.cx.loop_cookie(&page.request);
        let Some(tx) = self.transmit_page(id, &mut draft, path, tls_name.clone(), &loops) else { return false };
        let failover = self.cx.config.failover_after(&candidate.trunk);
        page.current = Some(Sent { tx, trunk: candidate.trunk.clone(), path, tls_name, asked });
        let left = (page.began + GIVE_UP).since(self.cx.now.mono);
        page.timer = Some(self.cx.start_timer(failover.min(left), Timer::Page(id)));
        true
    }

    /// As it goes to a target, without Via, Contact and credentials.
    fn write_page(&self, page: &Page, to: &Candidate) -> Draft {
        let (cx, method) = (&self.cx, page.request.method());
        let number = target_number(&to.target, page.targets.tries(&to.target));
        let identity = cx.key.callee_identity(page.key, 1, number);
        let uri = uri_at(&page.request, &to.host, &to.target);
        let mut draft = Draft::request(method, &uri);
        draft.push(HeaderId::MaxForwards, next_max_forwards(&page.request).unwrap_or(70).to_string());
        draft.push(HeaderId::From, format!("{};tag={}", fit_to_send(page.request.from()), identity.from_tag));
        draft.push(HeaderId::To, to_value(cx, &page.request, &uri));
        let open = cx.config.trunk(&to.trunk).is_some_and(|t| t.topology == Topology::Transparent);
        draft.push(HeaderId::CallId, if open { page.request.call_id().to_owned() } else { identity.call_id });
        draft.push(HeaderId::CSeq, format!("{} {method}", identity.cseq));
        copy_through(&page.request, &mut draft);
        cx.shape(&page.from_trunk, &to.trunk, method, page.emergency, &mut draft);
        strip_our_credentials(cx, &page.from_trunk, &mut draft);
        draft.set_body(page.request.content_type(), page.request.body());
        draft
    }

    fn transmit_page(
        &mut self,
        id: LocalId,
        draft: &mut Draft,
        path: crate::io::Path,
        tls_name: Option<Box<str>>,
        loops: &str,
    ) -> Option<ClientTxId> {
        let branch = self.cx.mint_branch();
        draft.insert_first(HeaderId::Via, format!("{};{LOOP_PARAM}={loops}", self.cx.via(&path, &branch)));
        let payload = self.cx.encode(draft)?;
        let (user, way) = (ClientUser::Message { id }, ReturnPath::here(path));
        self.cx.send_request(NewRequest { user, branch: branch.into(), invite: false, way, tls_name, payload })
    }

    /// The present target has been silent for a while, or time is up.
    pub(in crate::sbc) fn on_page_timer(&mut self, id: LocalId) {
        let now = self.cx.now.mono;
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        page.timer = None;
        let over = now >= page.began + GIVE_UP;
        if !over && (page.provisional || !page.targets.has_untried()) {
            self.wait_page(id);
            return;
        }
        let subscribes = page.subscribes();
        if let Some(sent) = page.current.take() {
            self.cx.target_failed(&sent.path, None);
            if subscribes {
                // The next target's dialog takes the place of this one's.
                self.cx.tx.abandon_client(sent.tx);
            } else {
                self.cx.tx.stop_retransmitting(sent.tx);
                page.earlier.push(sent);
            }
        }
        if !over {
            return self.try_page(id);
        }
        if let Some(mut page) = self.pages.open.remove(&id) {
            let failure = page.failure.take();
            self.answer_page(id, page, 480, failure.as_ref());
        }
    }

    /// Nothing more is done until something comes, or the sender has to be told.
    fn wait_page(&mut self, id: LocalId) {
        let now = self.cx.now.mono;
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        self.cx.stop_timer(&mut page.timer);
        page.timer = Some(self.cx.start_timer((page.began + GIVE_UP).since(now), Timer::Page(id)));
    }

    /// A response to one of these.
    pub(in crate::sbc) fn on_page_response(&mut self, id: LocalId, tx: ClientTxId, response: &Message) {
        let status = response.status().unwrap_or(0);
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        if let Some(at) = page.earlier.iter().position(|sent| sent.tx == tx) {
            return self.on_earlier_response(id, at, status, response);
        }
        if status < 200 {
            page.provisional = true;
            return;
        }
        self.cx.tx.set_client_user(tx, ClientUser::Nobody);
        if let Some(sent) = &page.current {
            self.cx.target_responded(&sent.path, status, response);
            page.targets.on_answer(sent.path.remote);
        }
        let challenged = if matches!(status, 401 | 407) { self.prove_page(id, response) } else { Some(Challenged::NotOurs) };
        let Some(challenged) = challenged else { return };
        let has_peers = self.has_peers();
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        // What the target refuses us for is not the sender's fault, nor a challenge that it could answer.
        let refused = challenged == Challenged::Refused;
        if (refused || (500..600).contains(&status)) && page.targets.has_untried() {
            if !refused {
                page.failure.get_or_insert_with(|| response.clone());
            }
            self.try_page(id);
        } else if status == 482 && has_peers {
            // Rule C: another node has sent it before, and will answer. Should it not, the sender is told at last.
            page.current = None;
            page.failure = Some(response.clone());
            page.provisional = true;
            page.targets.drop_untried();
            self.wait_page(id);
        } else if let Some(page) = self.pages.open.remove(&id) {
            self.answer_page(id, page, 502, Some(response).filter(|_| !refused));
        }
    }

    /// A target that was passed over speaks: when it has taken the request, that is the answer.
    fn on_earlier_response(&mut self, id: LocalId, at: usize, status: u16, response: &Message) {
        let Some(page) = self.pages.open.get_mut(&id).filter(|_| status >= 200) else { return };
        let sent = page.earlier.remove(at);
        self.cx.tx.set_client_user(sent.tx, ClientUser::Nobody);
        self.cx.target_responded(&sent.path, status, response);
        if !(200..300).contains(&status) {
            return;
        }
        let Some(mut page) = self.pages.open.remove(&id) else { return };
        page.to_trunk = sent.trunk;
        page.earlier.extend(page.current.take());
        self.answer_page(id, page, 200, Some(response));
    }

    /// The target asks who we are. `None`: it was told, and asked again; else why not.
    fn prove_page(&mut self, id: LocalId, response: &Message) -> Option<Challenged> {
        let Some(page) = self.pages.open.get_mut(&id) else { return Some(Challenged::NotOurs) };
        let Some(sent) = page.current.as_mut() else { return Some(Challenged::NotOurs) };
        let Some(asked) = sent.asked.as_mut() else { return Some(Challenged::NotOurs) };
        let cseq = asked.next_cseq();
        let mut draft = match asked.answer(&mut self.cx, response, cseq) {
            Ok(draft) => draft,
            Err(why) => return Some(why),
        };
        let (path, tls_name, subscribes) = (sent.path, sent.tls_name.clone(), page.subscribes());
        let loops = self.cx.loop_cookie(&page.request);
        let Some(tx) = self.transmit_page(id, &mut draft, path, tls_name, &loops) else { return Some(Challenged::Refused) };
        let Some(page) = self.pages.open.get_mut(&id) else { return Some(Challenged::Refused) };
        // It begins anew: the 100 before the challenge was for what is answered.
        page.provisional = false;
        self.cx.stop_timer(&mut page.timer);
        let left = (page.began + GIVE_UP).since(self.cx.now.mono);
        let after = self.cx.config.failover_after(&page.to_trunk).min(left);
        page.timer = Some(self.cx.start_timer(after, Timer::Page(id)));
        if let Some(sent) = page.current.as_mut() {
            sent.tx = tx;
        }
        if subscribes {
            self.redial_subscription(id, cseq);
        }
        None
    }

    /// True where another node may have sent the same request.
    fn has_peers(&self) -> bool {
        self.cx.view.nodes.iter().any(|n| n.alive && n.id != self.cx.local.node)
    }

    /// No response, or it could not be sent.
    pub(in crate::sbc) fn on_page_lost(&mut self, id: LocalId, tx: ClientTxId) {
        let earlier = self.pages.open.get_mut(&id).map(|page| &mut page.earlier);
        if let Some(earlier) = earlier
            && let Some(at) = earlier.iter().position(|sent| sent.tx == tx)
        {
            earlier.remove(at);
            return;
        }
        if let Some(sent) = self.pages.open.get_mut(&id).and_then(|page| page.current.take()) {
            self.cx.target_failed(&sent.path, None);
        }
        self.try_page(id);
    }
}
