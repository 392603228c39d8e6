//! Requests within a subscription, from one side to the other, and what their answers mean for it.

use super::Subscription;
use super::state::{Told, ends_usage, granted, told};
use crate::call::server_key;
use crate::call::{
    Asked, MaxForwardsError, NextHop, copy_through, finish_response, map_event_id, next_max_forwards, strip_our_credentials,
    upstream,
};
use crate::dialog::{MAX_ROUTES, named_addresses};
use crate::ids::ResolveId;
use crate::io::{Counter, Output, Path, ResolveError, ReturnPath, Side, Target};
use crate::policy::may_act;
use crate::sbc::Sbc;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ServerTxId};

/// Requests of one subscription under way at once: each side has one open (RFC 6665 §4.1.2.2, §4.2.2), and a broken one must not fill
/// memory.
const MAX_PASSING: usize = 8;
/// What may be asked within a subscription.
const ALLOW: &str = "SUBSCRIBE, NOTIFY";

/// One request on its way.
#[derive(Debug)]
pub(super) struct Passing {
    /// Its number.
    id: u64,
    from: Side,
    /// As received.
    request: Message,
    tx: ServerTxId,
    /// Where we have credentials on the other side.
    asked: Option<Asked>,
    /// As it is to be sent, while its next hop is looked up.
    waits: Option<Draft>,
}

impl Subscription {
    /// True when Call-ID and tags are those of the dialog on this side (RFC 3261 §12.2.2). A NOTIFY may come before the 2xx that would
    /// tell the notifier's tag (RFC 6665 §4.4.1).
    fn fits(&self, side: Side, request: &Message) -> bool {
        let d = &self.end(side).dialog;
        let tag = |a: Option<&str>, b: Option<&str>| match (a, b) {
            (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let first = side != self.subscriber
            && self.asking
            && d.remote_tag.is_none()
            && request.from_tag().is_some()
            && request.method() == &Method::Notify;
        *d.call_id == *request.call_id()
            && tag(request.to_tag(), Some(&d.local_tag))
            && (first || tag(request.from_tag(), d.remote_tag.as_deref()))
    }

    /// The status that refuses a request that fits.
    fn judge(&mut self, side: Side, request: &Message) -> Option<u16> {
        let wanted = if side == self.subscriber { Method::Subscribe } else { Method::Notify };
        if self.ended {
            return Some(481);
        }
        if request.method() != &wanted {
            return Some(405);
        }
        if self.end_mut(side).dialog.on_request(request.cseq()).is_err() {
            return Some(500);
        }
        match next_max_forwards(request) {
            Err(MaxForwardsError::Exhausted) => Some(483),
            Err(MaxForwardsError::Malformed) => Some(400),
            // A notifier that has not answered yet cannot be asked again.
            Ok(_) if side == self.subscriber && self.end(side.other()).dialog.remote_tag.is_none() => Some(481),
            Ok(_) if self.passing.len() >= MAX_PASSING => Some(500),
            Ok(_) => None,
        }
    }

    /// The dialog with a notifier whose NOTIFY came before its 2xx.
    fn adopt(&mut self, side: Side, notify: &Message) {
        let dialog = &mut self.end_mut(side).dialog;
        dialog.remote_tag = notify.from_tag().map(Into::into);
        dialog.route_set = notify.values(HeaderId::RecordRoute).take(MAX_ROUTES).map(Into::into).collect();
    }
}

impl Sbc {
    /// A request within a subscription of this node.
    pub(in crate::sbc) fn on_subscription_request(&mut self, id: u64, side: Side, back: ReturnPath, message: &Message) {
        let Some(subscription) = self.subscriptions.open.get(&id) else { return };
        let (end, fits) = (subscription.end(side), subscription.fits(side, message));
        if message.method() == &Method::Ack {
            return;
        }
        let named = named_addresses(&end.dialog.remote_target, end.dialog.route_set.first().map(|route| &**route));
        if fits && !may_act(self.cx.config.trunk(&end.trunk), end.path.remote.ip(), &named, back.path.remote.ip()) {
            // As within a call (AC-52).
            self.cx.count(Counter::Dropped("source"));
            return;
        }
        if !fits || message.method() == &Method::Cancel {
            // RFC 6665 §4.4.1: a further notifier of a SUBSCRIBE that forked is told so too.
            return self.cx.reject_stateless(back, message, 481);
        }
        let key = server_key(message, message.method());
        let Some(tx) = self.cx.tx.create_server(self.cx.now.mono, key, false, back) else {
            return self.cx.reject_stateless(back, message, 503);
        };
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        if let Some(status) = subscription.judge(side, message) {
            return self.refuse_passing(tx, message, status);
        }
        if subscription.end(side).dialog.remote_tag.is_none() {
            subscription.adopt(side, message);
            self.pages.heard_of(id);
        }
        let end = subscription.end_mut(side);
        end.learn_path(&back);
        // RFC 6665 §4.4.1: both methods tell where their sender is to be reached.
        end.dialog.on_target_refresh(message);
        self.cx.drop_own_routes(&mut end.dialog);
        self.pass(id, side, tx, message);
    }

    fn refuse_passing(&mut self, tx: ServerTxId, request: &Message, status: u16) {
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, "", &self.cx.local.name);
        if status == 405 {
            draft.set(HeaderId::Allow, ALLOW);
        }
        self.cx.respond(tx, &mut draft);
    }

    fn pass(&mut self, id: u64, from: Side, tx: ServerTxId, request: &Message) {
        let number = self.cx.serial();
        let cx = &mut self.cx;
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        let trunk = subscription.end(from).trunk.clone();
        let (emergency, refers) = (subscription.emergency, subscription.refers.clone());
        let to = subscription.end_mut(from.other());
        let mut draft = to.dialog.request(request.method());
        draft.set(HeaderId::MaxForwards, next_max_forwards(request).unwrap_or(70).to_string());
        draft.push(HeaderId::Contact, to.contact(cx));
        copy_through(request, &mut draft);
        cx.shape(&trunk, &to.trunk, request.method(), emergency, &mut draft);
        strip_our_credentials(cx, &trunk, &mut draft);
        map_event_id(&refers, from, request.method(), &mut draft);
        draft.set_body(request.content_type(), request.body());
        let asked = Asked::new(cx, &to.trunk, to.known.clone(), &mut draft);
        subscription.passing.push(Passing { id: number, from, request: request.clone(), tx, asked, waits: None });
        self.send_passing(id, number, draft);
    }

    /// Sends it, now or when its next hop is known.
    fn send_passing(&mut self, id: u64, number: u64, draft: Draft) {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return };
        let to = subscription.end(subscription.passing[at].from.other());
        match to.next_hop(&self.cx) {
            NextHop::Known { path, .. } => self.transmit_passing(id, number, draft, path),
            NextHop::Ask(request) => {
                let question = ResolveId(self.cx.serial());
                self.subscriptions.resolving.insert(question, (id, number));
                self.cx.out.push_back(Output::Resolve { id: question, request });
                subscription.passing[at].waits = Some(draft);
            }
        }
    }

    /// The DNS answered for a request within a subscription. False: it was for none.
    pub(in crate::sbc) fn on_subscription_resolved(
        &mut self,
        question: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) -> bool {
        let Some((id, number)) = self.subscriptions.resolving.remove(&question) else { return false };
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return true };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return true };
        let Some(draft) = subscription.passing[at].waits.take() else { return true };
        let to = subscription.end(subscription.passing[at].from.other());
        let path = match result.as_ref().ok().and_then(|targets| targets.first()) {
            Some(target) => self.cx.path_to(to.realm, target.transport, target.addr),
            // No DNS: where the far end was last seen is the best that is left.
            None => self.cx.path_to(to.realm, to.path.transport, to.path.remote),
        };
        self.transmit_passing(id, number, draft, path);
        true
    }

    fn transmit_passing(&mut self, id: u64, number: u64, mut draft: Draft, path: Path) {
        let Some(subscription) = self.subscriptions.open.get(&id) else { return };
        let Some(passing) = subscription.passing.iter().find(|p| p.id == number) else { return };
        let tls_name = subscription.end(passing.from.other()).tls_name.clone();
        let branch = self.cx.mint_branch();
        draft.insert_first(HeaderId::Via, self.cx.via(&path, &branch));
        let payload = self.cx.encode(&draft);
        let now = self.cx.now.mono;
        match payload.and_then(|payload| self.cx.tx.send_request(now, branch.into(), false, path, tls_name, payload)) {
            Some(tx) => {
                self.subscriptions.sent.insert(tx, (id, number));
            }
            None => self.on_passing_failed(id, number, 503),
        }
    }

    /// A response to a request within a subscription. False: it is to none.
    pub(in crate::sbc) fn on_subscription_response(&mut self, tx: ClientTxId, response: &Message) -> bool {
        let Some(&(id, number)) = self.subscriptions.sent.get(&tx) else { return false };
        let status = response.status().unwrap_or(0);
        if status < 200 {
            return true;
        }
        self.subscriptions.sent.remove(&tx);
        if matches!(status, 401 | 407) && self.prove_passing(id, number, response) {
            return true;
        }
        let Some(passing) = self.take_passing(id, number) else { return true };
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return true };
        let far = passing.from.other();
        let (near, to) = (subscription.end(passing.from), subscription.end(far));
        // A far end's 503 is about that far end: the other side would leave all of us alone for it.
        let said = upstream(status);
        let mut draft = passing.request.response(said, (said == status).then(|| response.reason()));
        let refreshed = passing.request.method() == &Method::Subscribe && (200..300).contains(&status);
        if status < 300 && (refreshed || response.first(HeaderId::Contact).is_some()) {
            draft.push(HeaderId::Contact, near.contact(&self.cx));
        }
        copy_through(response, &mut draft);
        if said != status {
            draft.remove(HeaderId::RetryAfter);
        }
        self.cx.shape(&to.trunk, &near.trunk, passing.request.method(), subscription.emergency, &mut draft);
        if !response.body().is_empty() {
            draft.set_body(response.content_type(), response.body());
        }
        let end = subscription.end_mut(far);
        if refreshed {
            end.dialog.on_target_refresh(response);
        }
        if let Some(asked) = &passing.asked {
            end.known = asked.known().clone();
        }
        self.cx.respond(passing.tx, &mut draft);
        self.on_passed(id, &passing.request, status, Some(response));
        true
    }

    /// The far end asks who we are. True: the request went out again.
    fn prove_passing(&mut self, id: u64, number: u64, response: &Message) -> bool {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return false };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return false };
        let far = subscription.passing[at].from.other();
        let cseq = subscription.end(far).dialog.local_cseq + 1;
        let Some(asked) = subscription.passing[at].asked.as_mut() else { return false };
        let Ok(draft) = asked.answer(&mut self.cx, response, cseq) else { return false };
        subscription.end_mut(far).dialog.local_cseq = cseq;
        self.send_passing(id, number, draft);
        true
    }

    /// No response, or it could not be sent. False: it is none of these.
    pub(in crate::sbc) fn on_subscription_lost(&mut self, tx: ClientTxId, status: u16) -> bool {
        let Some((id, number)) = self.subscriptions.sent.remove(&tx) else { return false };
        self.on_passing_failed(id, number, status);
        true
    }

    fn on_passing_failed(&mut self, id: u64, number: u64, status: u16) {
        let Some(passing) = self.take_passing(id, number) else { return };
        // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
        self.refuse_passing(passing.tx, &passing.request, if status == 408 { 504 } else { upstream(status) });
        self.on_passed(id, &passing.request, status, None);
    }

    fn take_passing(&mut self, id: u64, number: u64) -> Option<Passing> {
        let passing = &mut self.subscriptions.open.get_mut(&id)?.passing;
        let at = passing.iter().position(|p| p.id == number)?;
        Some(passing.remove(at))
    }

    /// What the outcome of a request means for the subscription.
    fn on_passed(&mut self, id: u64, request: &Message, status: u16, response: Option<&Message>) {
        let good = (200..300).contains(&status);
        if request.method() == &Method::Notify {
            match told(request) {
                Told::Terminated => self.end_subscription(id, "ended"),
                // RFC 6665 §4.2.2: a notifier drops who does not answer.
                Told::Lasts(_) if status == 408 || ends_usage(status) => self.end_subscription(id, "ended"),
                Told::Lasts(Some(life)) if good => self.prolong(id, life),
                Told::Lasts(_) => {}
            }
        } else if let Some(response) = response.filter(|_| good) {
            self.prolong(id, granted(request, response));
        } else if ends_usage(status) {
            self.end_subscription(id, "ended");
        }
        self.forget_if_done(id);
    }
}
