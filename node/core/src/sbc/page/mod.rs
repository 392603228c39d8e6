//! Requests outside of a dialog that are no call: MESSAGE (RFC 3428), PUBLISH (RFC 3903) and the SUBSCRIBE that begins a
//! subscription (RFC 6665). They go where a call would, to one target after the other (`send`).
//!
//! There is no claim for one: a copy at another node is sent on as well, but with the same Call-ID, From-tag and CSeq (rule C), so
//! that the far end knows it for one.

mod send;

use std::collections::HashMap;
use std::time::Duration;

use super::Sbc;
use crate::call::server_key;
use crate::call::{ALLOW_NO_EVENTS, Authenticated, copy_through, finish_response, upstream};
use crate::ctx::AGENT;
use crate::ids::LocalId;
use crate::io::{Counter, Path, ReturnPath};
use crate::policy::SubscribePolicy;
use crate::routing;
use crate::sip::{HeaderId, Message, Method, Scheme, Uri};
use crate::targets::{Hop, TargetSet};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::token::ClaimKey;
use crate::transaction::{ClientTxId, ServerTxId, ServerUser};

/// The sender gives up after 32 s (RFC 3261 §17.1.2.2, timer F): it is told before.
const GIVE_UP: Duration = Duration::from_secs(28);
/// Targets of one request.
const MAX_TRIES: usize = 8;

/// All of them that are under way.
#[derive(Debug, Default)]
pub(super) struct Pages {
    open: HashMap<LocalId, Page>,
}

impl Pages {
    /// A request that this one began has come: its target is there, and no other is to be asked.
    pub(super) fn heard_of(&mut self, id: LocalId) {
        if let Some(page) = self.open.get_mut(&id) {
            page.provisional = true;
        }
    }
}

/// What went to the present target.
#[derive(Debug)]
struct Sent {
    tx: ClientTxId,
    trunk: Box<str>,
    path: Path,
    tls_name: Option<Box<str>>,
    /// Where we have credentials there.
    asked: Option<Authenticated>,
}

/// One request.
#[derive(Debug)]
struct Page {
    tx: ServerTxId,
    request: Message,
    key: ClaimKey,
    from_trunk: Box<str>,
    /// Of the present target.
    to_trunk: Box<str>,
    emergency: bool,
    targets: TargetSet,
    current: Option<Sent>,
    /// Targets that were passed over for their silence: what they took late, they took.
    earlier: Vec<Sent>,
    provisional: bool,
    began: Instant,
    timer: Option<TimerId>,
    /// What the first target said that failed.
    failure: Option<Message>,
}

impl Page {
    fn subscribes(&self) -> bool {
        self.request.method() == &Method::Subscribe
    }
}

impl Sbc {
    /// A new MESSAGE, PUBLISH or SUBSCRIBE without To-tag.
    pub(super) fn on_page(&mut self, path: Path, back: ReturnPath, message: &Message) {
        let admitted = match self.admit(&path, back.ingress, message, false) {
            Ok(admitted) => admitted,
            Err(status) => return self.refuse(back, message, status),
        };
        let service = admitted.service.as_deref();
        if !self.authenticate(back, message, &admitted.trunk, service.is_some()) {
            return;
        }
        if self.refuses_events(back, message, &admitted.trunk) {
            return;
        }
        let config = self.cx.config.clone();
        let Ok(uri) = Uri::parse(message.request_uri().unwrap_or_default()) else { return };
        let secure = uri.scheme() == Scheme::Sips;
        let route = routing::route(&config, &uri, service, &admitted.trunk);
        let targets = route.map(|r| routing::targets(&config, r)).unwrap_or_default().into_iter();
        let mut unsecured = false;
        let hops: Vec<Hop> = targets
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
                uri: None,
            })
            .collect();
        let id = self.cx.local_id();
        let key = server_key(message, message.method());
        let Some(tx) = self.cx.create_server(ServerUser::Message(id), key, false, back) else {
            return self.cx.reject_stateless(back, message, 503);
        };
        if message.method() == &Method::Message {
            self.cx.count(Counter::MessageReceived(routing::class_label(service)));
        }
        if hops.is_empty() {
            let tag = self.cx.stateless_tag(message);
            return self.cx.reject(tx, message, routing::unrouted(service.is_some() || unsecured), &tag);
        }
        let key = self.cx.key.claim_key(message.call_id(), message.from_tag().unwrap_or_default(), message.cseq());
        let mut targets = TargetSet::new(MAX_TRIES);
        hops.into_iter().for_each(|hop| targets.push(hop));
        let page = Page {
            tx,
            request: message.clone(),
            key,
            emergency: admitted.service.is_some(),
            from_trunk: admitted.trunk,
            to_trunk: Default::default(),
            targets,
            current: None,
            earlier: Vec::new(),
            provisional: false,
            began: self.cx.now.mono,
            timer: None,
            failure: None,
        };
        if page.subscribes() {
            self.begin_subscription(id, back, message, &page.from_trunk, page.emergency);
        }
        self.pages.open.insert(id, page);
        self.try_page(id);
    }

    /// Answers a SUBSCRIBE or PUBLISH that its trunk may not send, or for which there is no room.
    fn refuses_events(&mut self, back: ReturnPath, message: &Message, trunk: &str) -> bool {
        if message.method() == &Method::Message {
            return false;
        }
        if self.cx.config.trunk(trunk).is_some_and(|t| t.subscribe == SubscribePolicy::Refuse) {
            self.refuse_with(back, message, 405, &[("Allow", ALLOW_NO_EVENTS.to_owned())]);
            return true;
        }
        let status = if message.all(HeaderId::Event).count() != 1 {
            // RFC 3903 §6 step 2, RFC 6665 §4.2.1.1: neither is about anything without an event package.
            489
        } else if message.method() == &Method::Subscribe
            && let Some(limit) = self.subscriptions.full(back.path.remote.ip())
        {
            self.cx.count(Counter::Limited(limit));
            503
        } else {
            return false;
        };
        self.refuse(back, message, status);
        true
    }

    /// The sender of a request has waited for a while (RFC 4320 §4.1).
    pub(super) fn on_page_trying(&mut self, id: LocalId, tx: ServerTxId) {
        if let Some(page) = self.pages.open.get(&id) {
            self.cx.respond(tx, &mut page.request.response(100, None));
        }
    }

    /// The final response to the sender: the far end's, or our own.
    fn answer_page(&mut self, id: LocalId, mut page: Page, status: u16, response: Option<&Message>) {
        self.cx.stop_timer(&mut page.timer);
        for sent in page.earlier.drain(..) {
            self.cx.tx.abandon_client(sent.tx);
        }
        let said = response.and_then(Message::status).unwrap_or(status);
        let status = upstream(said);
        let mut draft = page.request.response(status, response.filter(|_| status == said).map(Message::reason));
        let tag = self.cx.stateless_tag(&page.request);
        let accepted = (200..300).contains(&status);
        if let Some(response) = response {
            draft.set(HeaderId::To, format!("{};tag={tag}", page.request.to()));
            if page.subscribes() && accepted {
                self.confirm_subscription(id, &page.request, response, &mut draft);
            }
            copy_through(response, &mut draft);
            if status != said {
                draft.remove(HeaderId::RetryAfter);
            }
            self.cx.shape(&page.to_trunk, &page.from_trunk, page.request.method(), page.emergency, &mut draft);
            if !response.body().is_empty() {
                draft.set_body(response.content_type(), response.body());
            }
        } else {
            finish_response(&mut draft, &page.request, status, &tag, AGENT);
        }
        self.cx.respond(page.tx, &mut draft);
        if page.subscribes() {
            let asked = page.current.as_ref().and_then(|sent| sent.asked.as_ref());
            self.settle_subscription(id, accepted, asked);
        }
    }
}
