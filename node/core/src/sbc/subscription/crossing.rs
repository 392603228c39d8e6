//! Requests within a subscription, from one side to the other, and what their answers mean for it.

use super::Subscription;
use super::state::{Told, ends_usage, granted, told};
use crate::call::server_key;
use crate::call::{
    Authenticated, Loss, MaxForwardsError, NextHop, Timer, Way, Ways, Written, copy_through, finish_response, map_event_id,
    next_max_forwards, strip_our_credentials, upstream,
};
use crate::ctx::AGENT;
use crate::dialog::{MAX_ROUTES, named_addresses};
use crate::ids::LocalId;
use crate::io::{Counter, ResolveError, ReturnPath, Side, Target};
use crate::policy::{Standing, standing};
use crate::sbc::Sbc;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::timer::TimerId;
use crate::transaction::{ClientTxId, ClientUser, NewRequest, QuestionUser, ServerTxId, ServerUser};

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
    asked: Option<Authenticated>,
    /// As it is sent, without Via and credentials.
    draft: Draft,
    /// The host that is looked up for it.
    looked_up: Option<Box<str>>,
    /// What went out, the last one last: one that was passed over for its silence may still be the first to answer.
    outs: Vec<Out>,
}

/// A request that went out.
#[derive(Debug)]
struct Out {
    tx: ClientTxId,
    way: Way,
    /// How else it may go.
    ways: Ways,
    silence: Option<TimerId>,
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
        dialog.on_target_refresh(notify);
    }
}

impl Sbc {
    /// A request within a subscription of this node.
    pub(in crate::sbc) fn on_subscription_request(&mut self, id: LocalId, side: Side, back: ReturnPath, message: &Message) {
        let Some(subscription) = self.subscriptions.open.get(&id) else { return };
        let (end, fits) = (subscription.end(side), subscription.fits(side, message));
        if message.method() == &Method::Ack {
            return;
        }
        let named = named_addresses(&end.dialog.remote_target, end.dialog.route_set.first().map(|route| &**route));
        let from = standing(self.cx.config.trunk(&end.trunk), end.path.remote.ip(), &named, back.path.remote.ip());
        if fits && from == Standing::Foreign {
            // As within a call (AC-52).
            self.cx.count(Counter::Dropped("source"));
            return;
        }
        if !fits || message.method() == &Method::Cancel || from == Standing::Doubtful {
            // RFC 6665 §4.4.1: a further notifier of a SUBSCRIBE that forked is told so too. A far end that has moved to where anybody may be
            // subscribes anew (§4.1.2.2): soft state is not worth the question that a call is.
            return self.cx.reject_stateless(back, message, 481);
        }
        let key = server_key(message, message.method());
        let number = self.cx.serial();
        let user = ServerUser::Subscription { id, request: number };
        let Some(tx) = self.cx.create_server(user, key, false, back) else {
            return self.cx.reject_stateless(back, message, 503);
        };
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        if let Some(status) = subscription.judge(side, message) {
            return self.refuse_passing(tx, message, status);
        }
        if subscription.end(side).dialog.remote_tag.is_none() {
            subscription.adopt(side, message);
            self.messages.heard_of(id);
        }
        let end = subscription.end_mut(side);
        end.learn_path(&back);
        self.cx.drop_own_routes(&mut end.dialog);
        self.pass(id, number, side, tx, message);
    }

    fn refuse_passing(&mut self, tx: ServerTxId, request: &Message, status: u16) {
        let mut draft = request.response(status, None);
        finish_response(&mut draft, request, status, "", AGENT);
        if status == 405 {
            draft.set(HeaderId::Allow, ALLOW);
        }
        self.cx.respond(tx, &mut draft);
    }

    fn pass(&mut self, id: LocalId, number: u64, from: Side, tx: ServerTxId, request: &Message) {
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
        let asked = Authenticated::of(cx, &to.trunk, to.known.clone(), &draft);
        let request = request.clone();
        subscription.passing.push(Passing { id: number, from, request, tx, asked, draft, looked_up: None, outs: Vec::new() });
        self.send_passing(id, number);
    }

    /// Who sent a request has waited for a while: it hears that we have it (RFC 4320 §4.1).
    pub(in crate::sbc) fn on_passing_trying(&mut self, id: LocalId, number: u64, tx: ServerTxId) {
        if let Some(mut draft) = self.passing_mut(id, number).map(|p| p.request.response(100, None)) {
            self.cx.respond(tx, &mut draft);
        }
    }

    /// Sends it, now or when its next hop is known.
    fn send_passing(&mut self, id: LocalId, number: u64) {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return };
        let far = subscription.end(subscription.passing[at].from.other()).far();
        match far.next_hop(&self.cx) {
            NextHop::Known { path, ingress } => {
                let ways = Ways::one(far.way(path, ingress));
                self.transmit_passing(id, number, ways);
            }
            NextHop::Ask(request) => {
                subscription.passing[at].looked_up = Some(request.target.host.clone());
                self.cx.resolve(QuestionUser::Subscription { id, request: number }, request);
            }
        }
    }

    /// The DNS answered for a request within a subscription.
    pub(in crate::sbc) fn on_subscription_resolved(
        &mut self,
        id: LocalId,
        number: u64,
        result: &Result<Vec<Target>, ResolveError>,
    ) {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return };
        let Some(host) = subscription.passing[at].looked_up.take() else { return };
        let far = subscription.end(subscription.passing[at].from.other()).far();
        let ways = far.ways(&mut self.cx, &host, result);
        self.transmit_passing(id, number, ways);
    }

    /// Sends it by the best of these ways.
    fn transmit_passing(&mut self, id: LocalId, number: u64, mut ways: Ways) {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return };
        let (cx, passing) = (&mut self.cx, &mut subscription.passing[at]);
        let mut draft = match &passing.asked {
            Some(asked) => asked.again(cx),
            None => passing.draft.clone(),
        };
        let far = subscription.end(subscription.passing[at].from.other());
        let failover = cx.config.failover_after(&far.trunk);
        let written = ways.write(cx, far.far(), &mut draft);
        let user = ClientUser::Subscription { id, request: number };
        let sent = written.and_then(|Written { way, branch, payload }| {
            let tls_name = way.tls_name.clone();
            let tx = cx.send_request(NewRequest { user, branch, invite: false, way: way.back, tls_name, payload })?;
            Some((tx, way))
        });
        let Some((tx, way)) = sent else { return self.on_passing_failed(id, number, 503) };
        // A stream tells by itself that nobody is there.
        let waits = !ways.is_empty() && !way.back.path.transport.is_reliable();
        let silence = waits.then(|| self.cx.start_timer(failover, Timer::SubscriptionSilent(tx)));
        if let Some(passing) = self.passing_mut(id, number) {
            passing.outs.push(Out { tx, way, ways, silence });
        }
    }

    fn passing_mut(&mut self, id: LocalId, number: u64) -> Option<&mut Passing> {
        self.subscriptions.open.get_mut(&id)?.passing.iter_mut().find(|p| p.id == number)
    }

    /// One of the things that it went out as: that one waits for nothing any more.
    fn take_out(&mut self, id: LocalId, number: u64, tx: ClientTxId) -> Option<Out> {
        let outs = &mut self.passing_mut(id, number)?.outs;
        let at = outs.iter().position(|out| out.tx == tx)?;
        let mut out = outs.remove(at);
        self.cx.tx.set_client_user(tx, ClientUser::Nobody);
        self.cx.stop_timer(&mut out.silence);
        Some(out)
    }

    /// The first of several addresses has been silent for too long. It is listened to all the same.
    pub(in crate::sbc) fn on_passing_silent(&mut self, tx: ClientTxId) {
        let ClientUser::Subscription { id, request: number } = self.cx.tx.client_user(tx) else { return };
        let out = self.passing_mut(id, number).and_then(|p| p.outs.iter_mut().find(|out| out.tx == tx));
        let Some(out) = out else { return };
        out.silence = None;
        let (path, ways) = (out.way.back.path, std::mem::take(&mut out.ways));
        self.cx.target_failed(&path, None);
        self.cx.tx.stop_retransmitting(tx);
        self.transmit_passing(id, number, ways);
    }

    /// Nothing comes of a request within a subscription by this way.
    pub(in crate::sbc) fn on_subscription_lost(&mut self, id: LocalId, number: u64, tx: ClientTxId, loss: Loss) {
        let Some(Out { way, ways, .. }) = self.take_out(id, number, tx) else { return };
        let Some(passing) = self.passing_mut(id, number) else { return };
        let (from, others) = (passing.from, !passing.outs.is_empty());
        // Who waits for the answer to what was in vain for 32 s does so no longer; and a connection that is busy is one.
        let over = matches!(loss, Loss::TimedOut | Loss::Congested);
        if !way.is_connection() {
            self.cx.target_failed(&way.back.path, None);
            if !over && !ways.is_empty() {
                return self.transmit_passing(id, number, ways);
            }
        } else if loss != Loss::Congested
            && let Some(subscription) = self.subscriptions.open.get_mut(&id)
        {
            subscription.end_mut(from.other()).forget_flow(&way);
            if !over {
                return self.send_passing(id, number);
            }
        }
        if !others {
            self.on_passing_failed(id, number, loss.status());
        }
    }

    /// A response to a request within a subscription.
    pub(in crate::sbc) fn on_subscription_response(&mut self, id: LocalId, number: u64, tx: ClientTxId, response: &Message) {
        let status = response.status().unwrap_or(0);
        if status < 200 {
            // It is there: no other way is looked for.
            let outs = self.passing_mut(id, number).map(|p| p.outs.iter_mut());
            let silences: Vec<_> = outs.into_iter().flatten().filter_map(|out| out.silence.take()).collect();
            silences.into_iter().for_each(|silence| self.cx.stop_timer(&mut Some(silence)));
            return;
        }
        let last = self.passing_mut(id, number).and_then(|p| p.outs.last().map(|out| out.tx)) == Some(tx);
        let way = self.take_out(id, number, tx).map(|out| out.way);
        if let Some(way) = way.as_ref().filter(|way| !way.is_connection()) {
            self.cx.target_responded(&way.back.path, status, response);
        }
        // One that was left for its silence, and cannot, says nothing of whoever was asked after it; nor does a copy that the far end
        // has by another way already (RFC 3261 §8.2.2.2).
        if (matches!(status, 482 | 500) || (!last && status >= 300))
            && self.passing_mut(id, number).is_some_and(|p| !p.outs.is_empty())
        {
            return;
        }
        if matches!(status, 401 | 407) && self.prove_passing(id, number, way, response) {
            return;
        }
        let Some(passing) = self.take_passing(id, number) else { return };
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return };
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
        // RFC 3261 §12.2.1.2, RFC 6665 §4.4.1: both methods refresh a target.
        if (200..300).contains(&status) {
            end.dialog.on_target_refresh(response);
        }
        if let Some(asked) = &passing.asked {
            end.known = asked.known().clone();
        }
        self.cx.respond(passing.tx, &mut draft);
        self.on_passed(id, &passing.request, status, Some(response));
    }

    /// The far end asks who we are. True: the request went out again.
    fn prove_passing(&mut self, id: LocalId, number: u64, way: Option<Way>, response: &Message) -> bool {
        let Some(subscription) = self.subscriptions.open.get_mut(&id) else { return false };
        let Some(at) = subscription.passing.iter().position(|p| p.id == number) else { return false };
        let far = subscription.passing[at].from.other();
        let cseq = subscription.end(far).dialog.local_cseq + 1;
        let Some(asked) = subscription.passing[at].asked.as_mut() else { return false };
        if asked.learn(&mut self.cx, response, cseq).is_err() {
            return false;
        }
        // Answers to the last number are none to the next.
        for mut out in std::mem::take(&mut subscription.passing[at].outs) {
            self.cx.stop_timer(&mut out.silence);
            self.cx.tx.abandon_client(out.tx);
        }
        subscription.end_mut(far).dialog.local_cseq = cseq;
        match way {
            // Who asked is the one that gets the answer.
            Some(way) => self.transmit_passing(id, number, Ways::one(way)),
            None => self.send_passing(id, number),
        }
        true
    }

    fn on_passing_failed(&mut self, id: LocalId, number: u64, status: u16) {
        let Some(passing) = self.take_passing(id, number) else { return };
        // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
        self.refuse_passing(passing.tx, &passing.request, if status == 408 { 504 } else { upstream(status) });
        self.on_passed(id, &passing.request, status, None);
    }

    fn take_passing(&mut self, id: LocalId, number: u64) -> Option<Passing> {
        let passing = &mut self.subscriptions.open.get_mut(&id)?.passing;
        let at = passing.iter().position(|p| p.id == number)?;
        let mut passing = passing.remove(at);
        for mut out in passing.outs.drain(..) {
            self.cx.stop_timer(&mut out.silence);
            self.cx.tx.abandon_client(out.tx);
        }
        Some(passing)
    }

    /// What the outcome of a request means for the subscription.
    fn on_passed(&mut self, id: LocalId, request: &Message, status: u16, response: Option<&Message>) {
        let good = (200..300).contains(&status);
        if let Some(subscription) = self.subscriptions.open.get_mut(&id).filter(|_| good) {
            // RFC 6665 §4.4.1: both methods tell where their sender is to be reached; one that is refused changes nothing (RFC 3261 §12.2.2).
            let by_notifier = request.method() == &Method::Notify;
            let side = if by_notifier { subscription.subscriber.other() } else { subscription.subscriber };
            subscription.end_mut(side).dialog.on_target_refresh(request);
        }
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
