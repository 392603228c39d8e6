//! Requests outside of a dialog that are no call: MESSAGE (RFC 3428), PUBLISH (RFC 3903) and the SUBSCRIBE that begins a
//! subscription (RFC 6665). They go where a call would, to one target after the other (`send`).
//!
//! There is no claim for one: a copy at another node is sent on as well, but with the same Call-ID, From-tag and CSeq (rule C), so
//! that the far end knows it for one.

mod send;

use std::collections::HashMap;
use std::time::Duration;

use crate::call::server_key;
use crate::call::{Authenticated, Context, copy_through, finish_response, upstream};
use crate::ids::LocalId;
use crate::io::{Counter, Path, ReturnPath};
use crate::local::AGENT;
use crate::routing;
use crate::sip::{HeaderId, Message, Method};
use crate::subscription::Subscriptions;
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
pub(crate) struct Messages {
    open: HashMap<LocalId, Standalone>,
}

impl Messages {
    /// A request that this one began has come: its target is there, and no other is to be asked.
    pub(crate) fn heard_of(&mut self, id: LocalId) {
        if let Some(standalone) = self.open.get_mut(&id) {
            standalone.provisional = true;
        }
    }
}

/// A request that begins, and was admitted.
pub(crate) struct NewStandalone<'a> {
    pub(crate) back: ReturnPath,
    pub(crate) request: &'a Message,
    /// The trunk that it comes from.
    pub(crate) from_trunk: Box<str>,
    /// The emergency service that it is for.
    pub(crate) service: Option<&'a str>,
    /// Where it may go, in order.
    pub(crate) hops: Vec<Hop>,
    /// There were targets, of which none has the TLS that sips asks for.
    pub(crate) unsecured: bool,
}

/// What went to the present target.
#[derive(Debug)]
struct TriedTarget {
    tx: ClientTxId,
    trunk: Box<str>,
    path: Path,
    tls_name: Option<Box<str>>,
    /// Where we have credentials there.
    asked: Option<Authenticated>,
}

/// One request.
#[derive(Debug)]
struct Standalone {
    tx: ServerTxId,
    request: Message,
    key: ClaimKey,
    from_trunk: Box<str>,
    /// Of the present target.
    to_trunk: Box<str>,
    emergency: bool,
    targets: TargetSet,
    current: Option<TriedTarget>,
    /// Targets that were passed over for their silence: what they took late, they took.
    earlier: Vec<TriedTarget>,
    provisional: bool,
    began: Instant,
    timer: Option<TimerId>,
    /// What the first target said that failed.
    failure: Option<Message>,
}

impl Standalone {
    fn subscribes(&self) -> bool {
        self.request.method() == &Method::Subscribe
    }

    /// The final response to the sender: the far end's, or our own.
    fn answer(
        mut self,
        cx: &mut Context,
        subscriptions: &mut Subscriptions,
        id: LocalId,
        status: u16,
        response: Option<&Message>,
    ) {
        cx.stop_timer(&mut self.timer);
        for sent in self.earlier.drain(..) {
            cx.tx.abandon_client(sent.tx);
        }
        let said = response.and_then(Message::status).unwrap_or(status);
        let status = upstream(said);
        let mut draft = self.request.response(status, response.filter(|_| status == said).map(Message::reason));
        let tag = cx.stateless_tag(&self.request);
        let accepted = (200..300).contains(&status);
        if let Some(response) = response {
            draft.set(HeaderId::To, format!("{};tag={tag}", self.request.to()));
            if self.subscribes() && accepted {
                subscriptions.confirm(cx, id, &self.request, response, &mut draft);
            }
            copy_through(response, &mut draft);
            if status != said {
                draft.remove(HeaderId::RetryAfter);
            }
            cx.shape(&self.to_trunk, &self.from_trunk, self.request.method(), self.emergency, &mut draft);
            if !response.body().is_empty() {
                draft.set_body(response.content_type(), response.body());
            }
        } else {
            finish_response(&mut draft, &self.request, status, &tag, AGENT);
        }
        cx.respond(self.tx, &mut draft);
        if self.subscribes() {
            let asked = self.current.as_ref().and_then(|sent| sent.asked.as_ref());
            subscriptions.settle(cx, id, accepted, asked);
        }
    }
}

impl Messages {
    /// A new request, with where it may go: to the first of these targets.
    pub(crate) fn begin(&mut self, cx: &mut Context, subscriptions: &mut Subscriptions, new: NewStandalone<'_>) {
        let NewStandalone { back, request, from_trunk, service, hops, unsecured } = new;
        let id = cx.local_id();
        let key = server_key(request, request.method());
        let Some(tx) = cx.create_server(ServerUser::Message(id), key, false, back) else {
            return cx.reject_stateless(back, request, 503);
        };
        let emergency = service.is_some();
        if request.method() == &Method::Message {
            cx.count(Counter::MessageReceived(routing::class_label(service)));
        }
        if hops.is_empty() {
            let tag = cx.stateless_tag(request);
            return cx.reject(tx, request, routing::unrouted(emergency || unsecured), &tag);
        }
        let key = cx.key.claim_key(request.call_id(), request.from_tag().unwrap_or_default(), request.cseq());
        let mut targets = TargetSet::new(MAX_TRIES);
        hops.into_iter().for_each(|hop| targets.push(hop));
        let standalone = Standalone {
            tx,
            request: request.clone(),
            key,
            emergency,
            from_trunk,
            to_trunk: Default::default(),
            targets,
            current: None,
            earlier: Vec::new(),
            provisional: false,
            began: cx.now.mono,
            timer: None,
            failure: None,
        };
        if standalone.subscribes() {
            subscriptions.begin(cx, id, back, request, &standalone.from_trunk, emergency);
        }
        self.open.insert(id, standalone);
        self.try_next(cx, subscriptions, id);
    }

    /// The sender of a request has waited for a while (RFC 4320 §4.1).
    pub(crate) fn on_trying(&self, cx: &mut Context, id: LocalId, tx: ServerTxId) {
        if let Some(standalone) = self.open.get(&id) {
            cx.respond(tx, &mut standalone.request.response(100, None));
        }
    }
}
