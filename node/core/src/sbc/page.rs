//! MESSAGE outside of a dialog (RFC 3428): a text to an emergency service goes where a call would, to one target after the other.
//!
//! There is no claim for it: a copy at another node is sent on as well, but with the same Call-ID, From-tag and CSeq (rule C), so that
//! the far end knows it for one.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::Sbc;
use super::receive::server_key;
use crate::call::{
    DATAGRAM_MAX, Timer, copy_through, finish_response, next_max_forwards, strip_our_credentials, target_number, to_value,
    upstream, uri_at,
};
use crate::dialog::without_tag;
use crate::ids::ResolveId;
use crate::io::{
    Counter, HostAndPort, Output, Path, Realm, ResolveError, ResolveRequest, ReturnPath, Target, Transport, TransportChoice,
};
use crate::routing;
use crate::sip::{Draft, HeaderId, Message, Method, Scheme, Uri};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::token::ClaimKey;
use crate::transaction::{ClientTxId, ServerTxId};

/// The sender gives up after 32 s (RFC 3261 §17.1.2.2, timer F): it is told before.
const GIVE_UP: Duration = Duration::from_secs(28);
/// Targets of one message.
const MAX_TRIES: usize = 8;

/// All messages under way.
#[derive(Debug, Default)]
pub(super) struct Pages {
    open: HashMap<u64, Page>,
    sent: HashMap<ClientTxId, u64>,
    resolving: HashMap<ResolveId, u64>,
}

#[derive(Clone, Debug)]
struct Hop {
    trunk: Box<str>,
    realm: Realm,
    host: HostAndPort,
    choice: TransportChoice,
}

#[derive(Debug)]
struct Page {
    tx: ServerTxId,
    request: Message,
    key: ClaimKey,
    from_trunk: Box<str>,
    /// Of the present target.
    to_trunk: Box<str>,
    emergency: bool,
    hops: VecDeque<Hop>,
    asking: Option<(ResolveId, Hop)>,
    candidates: VecDeque<(Hop, Target)>,
    /// Held down: the last to be tried.
    deferred: VecDeque<(Hop, Target)>,
    current: Option<(ClientTxId, Path)>,
    provisional: bool,
    tries: Vec<Target>,
    began: Instant,
    timer: Option<TimerId>,
    /// What the first target said that failed.
    failure: Option<Message>,
}

impl Page {
    fn has_alternative(&self) -> bool {
        let left = !self.candidates.is_empty() || !self.deferred.is_empty() || !self.hops.is_empty() || self.asking.is_some();
        left && self.tries.len() < MAX_TRIES
    }
}

impl Sbc {
    /// A new MESSAGE without To-tag.
    pub(super) fn on_page(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let admitted = match self.admit(&path, message) {
            Ok(admitted) => admitted,
            Err(status) => return self.cx.reject_stateless(back, message, status),
        };
        let service = admitted.service.as_deref();
        if !self.authenticate(back, message, &admitted.trunk, service.is_some()) {
            return;
        }
        let config = self.cx.config.clone();
        let Ok(uri) = Uri::parse(message.request_uri().unwrap_or_default()) else { return };
        let secure = uri.scheme() == Scheme::Sips;
        let route = routing::route(&config, &uri, service, &admitted.trunk);
        let targets = route.map(|r| routing::targets(&config, r)).unwrap_or_default().into_iter();
        let mut unsecured = false;
        let hops: VecDeque<Hop> = targets
            .filter(|(_, target)| {
                let carries = routing::carries(target.transport, secure, service.is_some());
                unsecured |= !carries;
                carries
            })
            .map(|(trunk, target)| Hop {
                trunk: trunk.name.clone(),
                realm: trunk.realm,
                host: target.host.clone(),
                choice: routing::transport_choice(target.transport, secure),
            })
            .collect();
        let Some(tx) = self.cx.tx.create_server(self.cx.now.mono, server_key(message, message.method()), false, back) else {
            return self.cx.reject_stateless(back, message, 503);
        };
        self.cx.count(Counter::MessageReceived(routing::class_label(service)));
        let key = self.cx.key.claim_key(message.call_id(), message.from_tag().unwrap_or_default(), message.cseq());
        if hops.is_empty() {
            let tag = self.cx.stateless_tag(message);
            return self.cx.reject(tx, message, routing::unrouted(service.is_some() || unsecured), &tag);
        }
        let id = self.cx.serial();
        let page = Page {
            tx,
            request: message.clone(),
            key,
            emergency: admitted.service.is_some(),
            from_trunk: admitted.trunk,
            to_trunk: Default::default(),
            hops,
            asking: None,
            candidates: VecDeque::new(),
            deferred: VecDeque::new(),
            current: None,
            provisional: false,
            tries: Vec::new(),
            began: self.cx.now.mono,
            timer: None,
            failure: None,
        };
        self.pages.open.insert(id, page);
        self.try_page(id);
    }

    /// Sends it to the next target there is.
    fn try_page(&mut self, id: u64) {
        let Some(mut page) = self.pages.open.remove(&id) else { return };
        page.current = None;
        page.provisional = false;
        self.cx.stop_timer(&mut page.timer);
        while page.tries.len() < MAX_TRIES {
            let candidate = page.candidates.pop_front();
            let held = candidate.as_ref().is_some_and(|(hop, target)| self.cx.defers(hop.realm, target));
            match (candidate, held) {
                (Some(candidate), true) => page.deferred.push_back(candidate),
                (Some((hop, target)), false) => {
                    if self.send_page(id, &mut page, &hop, target) {
                        self.pages.open.insert(id, page);
                        return;
                    }
                }
                (None, _) if page.asking.is_some() => {
                    self.pages.open.insert(id, page);
                    return;
                }
                (None, _) => match page.hops.pop_front() {
                    Some(hop) => self.look_up(id, &mut page, hop),
                    None => {
                        let Some((hop, target)) = page.deferred.pop_front() else { break };
                        if self.send_page(id, &mut page, &hop, target) {
                            self.pages.open.insert(id, page);
                            return;
                        }
                    }
                },
            }
        }
        let failure = page.failure.take();
        self.answer_page(&page, 480, failure.as_ref());
    }

    fn look_up(&mut self, id: u64, page: &mut Page, hop: Hop) {
        if let Ok(ip) = hop.host.host.parse::<IpAddr>() {
            let transport = match hop.choice {
                TransportChoice::Fixed(t) => t,
                TransportChoice::Secure => Transport::Tls,
                TransportChoice::Any => Transport::Udp,
            };
            let port = hop.host.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
            page.candidates.push_back((hop, Target { addr: (ip, port).into(), transport }));
            return;
        }
        let question = ResolveId(self.cx.serial());
        let request = ResolveRequest { target: hop.host.clone(), transport: hop.choice };
        self.pages.resolving.insert(question, id);
        self.cx.out.push_back(Output::Resolve { id: question, request });
        page.asking = Some((question, hop));
    }

    /// The DNS answered for a message. False: it was for none.
    pub(super) fn on_page_resolved(&mut self, question: ResolveId, result: &Result<Vec<Target>, ResolveError>) -> bool {
        let Some(id) = self.pages.resolving.remove(&question) else { return false };
        if let Some(page) = self.pages.open.get_mut(&id)
            && let Some((_, hop)) = page.asking.take()
        {
            let targets = result.as_deref().unwrap_or_default().iter().take(MAX_TRIES);
            page.candidates.extend(targets.map(|target| (hop.clone(), target.clone())));
            self.try_page(id);
        }
        true
    }

    /// False: it could not be written or sent.
    fn send_page(&mut self, id: u64, page: &mut Page, hop: &Hop, mut target: Target) -> bool {
        let cx = &mut self.cx;
        let tries = page.tries.iter().filter(|t| **t == target).count();
        page.tries.push(target.clone());
        page.to_trunk = hop.trunk.clone();
        let identity = cx.key.callee_identity(page.key, 1, target_number(&target, tries));
        let uri = uri_at(&page.request, &hop.host.host, &target);
        let mut draft = Draft::request(&Method::Message, &uri);
        draft.push(HeaderId::MaxForwards, next_max_forwards(&page.request).unwrap_or(70).to_string());
        draft.push(HeaderId::From, format!("{};tag={}", without_tag(page.request.from()), identity.from_tag));
        draft.push(HeaderId::To, to_value(cx, &page.request, &uri));
        let open = cx.config.trunk(&hop.trunk).is_some_and(|t| t.topology == crate::policy::Topology::Transparent);
        draft.push(HeaderId::CallId, if open { page.request.call_id().to_owned() } else { identity.call_id });
        draft.push(HeaderId::CSeq, format!("{} MESSAGE", identity.cseq));
        copy_through(&page.request, &mut draft);
        cx.shape(&page.from_trunk, &hop.trunk, &Method::Message, page.emergency, &mut draft);
        strip_our_credentials(cx, &page.from_trunk, &mut draft);
        draft.set_body(page.request.content_type(), page.request.body());
        let large = draft.encode().is_ok_and(|octets| octets.len() > DATAGRAM_MAX - 150);
        if large && hop.choice == TransportChoice::Any && target.transport == Transport::Udp {
            // RFC 3428 §8: what does not fit goes by a transport with congestion control; by UDP, should that fail.
            page.candidates.push_front((Hop { choice: TransportChoice::Fixed(Transport::Udp), ..hop.clone() }, target.clone()));
            target.transport = Transport::Tcp;
        }
        let path = cx.path_to(hop.realm, target.transport, target.addr);
        let branch = cx.mint_branch();
        let via = format!("{};{}={}", cx.via(&path, &branch), crate::call::LOOP_PARAM, cx.loop_cookie(&page.request));
        draft.insert_first(HeaderId::Via, via);
        let tls_name = hop.host.host.parse::<IpAddr>().is_err().then(|| hop.host.host.clone());
        let Some(payload) = cx.encode(&draft) else { return false };
        let Some(tx) = cx.tx.send_request(cx.now.mono, branch.into(), false, path, tls_name, payload) else { return false };
        let failover = cx.config.trunk(&hop.trunk).and_then(|t| t.failover_after).unwrap_or(cx.config.settings.failover_after);
        page.current = Some((tx, path));
        page.timer = Some(cx.start_timer(failover, Timer::Page(id)));
        self.pages.sent.insert(tx, id);
        true
    }

    /// The present target has been silent for a while.
    pub(super) fn on_page_timer(&mut self, id: u64) {
        let now = self.cx.now.mono;
        let Some(page) = self.pages.open.get_mut(&id) else { return };
        page.timer = None;
        let over = now >= page.began + GIVE_UP;
        if !over && (page.provisional || !page.has_alternative()) {
            let left = (page.began + GIVE_UP).since(now);
            page.timer = Some(self.cx.start_timer(left, Timer::Page(id)));
            return;
        }
        let Some((tx, path)) = page.current.take() else { return };
        self.pages.sent.remove(&tx);
        self.cx.tx.abandon_client(tx);
        self.cx.target_failed(&path, None);
        if !over {
            return self.try_page(id);
        }
        if let Some(page) = self.pages.open.remove(&id) {
            self.answer_page(&page, 480, page.failure.as_ref());
        }
    }

    /// A response to a message. False: it is to none.
    pub(super) fn on_page_response(&mut self, tx: ClientTxId, response: &Message) -> bool {
        let Some(&id) = self.pages.sent.get(&tx) else { return false };
        let status = response.status().unwrap_or(0);
        let Some(page) = self.pages.open.get_mut(&id) else { return true };
        if status < 200 {
            page.provisional = true;
            return true;
        }
        self.pages.sent.remove(&tx);
        if let Some((_, path)) = page.current.take() {
            self.cx.target_responded(&path, status, response);
        }
        if (500..600).contains(&status) && page.has_alternative() {
            page.failure.get_or_insert_with(|| response.clone());
            self.try_page(id);
            return true;
        }
        if let Some(mut page) = self.pages.open.remove(&id) {
            self.cx.stop_timer(&mut page.timer);
            self.answer_page(&page, status, Some(response));
        }
        true
    }

    /// No response, or it could not be sent. False: it is no message.
    pub(super) fn on_page_lost(&mut self, tx: ClientTxId) -> bool {
        let Some(id) = self.pages.sent.remove(&tx) else { return false };
        if let Some((_, path)) = self.pages.open.get_mut(&id).and_then(|page| page.current.take()) {
            self.cx.target_failed(&path, None);
        }
        self.try_page(id);
        true
    }

    /// The sender of a message has waited for a while (RFC 4320 §4.1). Of the few that are open at a time.
    pub(super) fn on_page_trying(&mut self, tx: ServerTxId) {
        if let Some(page) = self.pages.open.values().find(|page| page.tx == tx) {
            self.cx.respond(tx, &mut page.request.response(100, None));
        }
    }

    /// The final response to the sender: the far end's, or our own.
    fn answer_page(&mut self, page: &Page, status: u16, response: Option<&Message>) {
        let said = response.and_then(Message::status).unwrap_or(status);
        let status = upstream(said);
        let reason = response.filter(|_| status == said).map(Message::reason);
        let mut draft = page.request.response(status, reason);
        let tag = self.cx.stateless_tag(&page.request);
        if let Some(response) = response {
            draft.set(HeaderId::To, format!("{};tag={tag}", page.request.to()));
            copy_through(response, &mut draft);
            if status != said {
                draft.remove(HeaderId::RetryAfter);
            }
            self.cx.shape(&page.to_trunk, &page.from_trunk, &Method::Message, page.emergency, &mut draft);
            if !response.body().is_empty() {
                draft.set_body(response.content_type(), response.body());
            }
        } else {
            finish_response(&mut draft, &page.request, status, &tag, &self.cx.local.name);
        }
        self.cx.respond(page.tx, &mut draft);
    }
}
