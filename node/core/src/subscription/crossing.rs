//! Requests within a subscription, from one side to the other, and what their answers mean for it.

use super::state::{NotifyState, ends_usage, granted, told};
use super::{Subscription, Subscriptions};
use crate::call::{
    Context, Failed, MaxForwardsError, ResponseKind, copy_through, finish_response, map_event_id, next_max_forwards, server_key,
    strip_our_credentials, upstream,
};
use crate::crossing::{Asked, Crossing, Loss, Origin};
use crate::dialog::{MAX_ROUTES, PairId, named_addresses};
use crate::ids::{LocalId, ResolveId};
use crate::io::{Counter, DropReason, ResolveError, ReturnPath, Side, SubscriptionOutcome, Target};
use crate::local::AGENT;
use crate::policy::{SourceStanding, standing};
use crate::sip::{HeaderId, Message, Method};
use crate::transaction::{ClientTxId, ResponseAction, ServerTxId, ServerUser};

/// Requests of one subscription under way at once: each side has one open (RFC 6665 §4.1.2.2, §4.2.2), and a broken one must not fill
/// memory.
const MAX_CROSSINGS: usize = 8;
/// Its dialogs are the only ones.
const PAIR: PairId = PairId::at(0);
/// What may be asked within a subscription.
const ALLOW: &str = "SUBSCRIBE, NOTIFY";

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
            Ok(_) if self.crossings.count() >= MAX_CROSSINGS => Some(500),
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

impl Subscriptions {
    /// A request within a subscription of this node. True: it is a NOTIFY that came before the 2xx, so that its notifier is known to be there.
    pub(crate) fn on_request(&mut self, cx: &mut Context, id: LocalId, side: Side, back: ReturnPath, message: &Message) -> bool {
        let Some(subscription) = self.open.get_mut(&id) else { return false };
        let (end, fits) = (subscription.end(side), subscription.fits(side, message));
        if message.method() == &Method::Ack {
            return false;
        }
        let named = named_addresses(&end.dialog.remote_target, end.dialog.route_set.first().map(|route| &**route));
        let from = standing(cx.config.trunk(&end.trunk), end.path.remote.ip(), &named, back.path.remote.ip());
        if fits && from == SourceStanding::Foreign {
            // As within a call (AC-52).
            cx.count(Counter::Dropped(DropReason::Source));
            return false;
        }
        if !fits || message.method() == &Method::Cancel || from == SourceStanding::Doubtful {
            // RFC 6665 §4.4.1: a further notifier of a SUBSCRIBE that forked is told so too. A far end that has moved to where anybody may be
            // subscribes anew (§4.1.2.2): soft state is not worth the question that a call is.
            cx.reject_stateless(back, message, 481);
            return false;
        }
        let key = server_key(message, message.method());
        let Some(tx) = cx.create_server(ServerUser::Subscription(id), key, false, back) else {
            cx.reject_stateless(back, message, 503);
            return false;
        };
        if let Some(status) = subscription.judge(side, message) {
            refuse(cx, tx, message, status);
            return false;
        }
        let first = subscription.end(side).dialog.remote_tag.is_none();
        if first {
            subscription.adopt(side, message);
        }
        let end = subscription.end_mut(side);
        end.learn_path(&back);
        cx.drop_own_routes(&mut end.dialog);
        self.pass(cx, id, side, (tx, back), message);
        first
    }

    fn pass(&mut self, cx: &mut Context, id: LocalId, from: Side, (tx, back): (ServerTxId, ReturnPath), request: &Message) {
        let number = cx.serial();
        let Some(subscription) = self.open.get_mut(&id) else { return };
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
        let cseq = to.dialog.local_cseq;
        let asked = Asked { request: request.clone(), server: tx, back };
        let mut crossing = Crossing::new(number, PAIR.toward(from.other()), Origin::FarEnd(asked), ());
        crossing.write(cseq, draft);
        subscription.crossings.insert(crossing);
        let failed = subscription.courier(id).send(cx, number);
        self.on_failed(cx, id, failed);
    }

    /// Who sent a request has waited for a while: it hears that we have it (RFC 4320 §4.1).
    pub(crate) fn on_trying(&mut self, cx: &mut Context, id: LocalId, tx: ServerTxId) {
        if let Some(subscription) = self.open.get_mut(&id) {
            subscription.courier(id).on_trying_due(cx, tx);
        }
    }

    /// The DNS answered for a request within a subscription.
    pub(crate) fn on_resolved(
        &mut self,
        cx: &mut Context,
        id: LocalId,
        question: ResolveId,
        result: &Result<Vec<Target>, ResolveError>,
    ) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        if let Ok(failed) = subscription.courier(id).on_resolved(cx, question, result) {
            self.on_failed(cx, id, failed);
        }
    }

    /// The first of several addresses has been silent for too long.
    pub(crate) fn on_silent(&mut self, cx: &mut Context, id: LocalId, tx: ClientTxId) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let failed = subscription.courier(id).on_silent(cx, tx);
        self.on_failed(cx, id, failed);
    }

    /// Nothing comes of a request within a subscription by this way.
    pub(crate) fn on_lost(&mut self, cx: &mut Context, id: LocalId, tx: ClientTxId, loss: Loss) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let failed = subscription.courier(id).on_lost(cx, tx, loss);
        self.on_failed(cx, id, failed);
    }

    /// A response to a request within a subscription.
    pub(crate) fn on_response(
        &mut self,
        cx: &mut Context,
        id: LocalId,
        number: u64,
        (tx, action): (ClientTxId, ResponseAction),
        response: &Message,
    ) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        match subscription.courier(id).on_response(cx, tx, action, response) {
            ResponseKind::None | ResponseKind::Provisional => {}
            ResponseKind::Failed(failed) => self.on_failed(cx, id, Some(failed)),
            ResponseKind::Final => self.answer(cx, id, number, tx, response),
        }
    }

    fn answer(&mut self, cx: &mut Context, id: LocalId, number: u64, tx: ClientTxId, response: &Message) {
        let status = response.status().unwrap_or(0);
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let Some(crossing) = subscription.courier(id).take(cx, number, Some(tx)) else { return };
        let (from, far) = (crossing.from().side, crossing.to().side);
        let Some(Asked { request, server, .. }) = crossing.into_asked() else { return };
        let (near, to) = (subscription.end(from), subscription.end(far));
        // A far end's 503 is about that far end: the other side would leave all of us alone for it.
        let said = upstream(status);
        let mut draft = request.response(said, (said == status).then(|| response.reason()));
        let refreshed = request.method() == &Method::Subscribe && (200..300).contains(&status);
        if status < 300 && (refreshed || response.first(HeaderId::Contact).is_some()) {
            draft.push(HeaderId::Contact, near.contact(cx));
        }
        copy_through(response, &mut draft);
        if said != status {
            draft.remove(HeaderId::RetryAfter);
        }
        cx.shape(&to.trunk, &near.trunk, request.method(), subscription.emergency, &mut draft);
        if !response.body().is_empty() {
            draft.set_body(response.content_type(), response.body());
        }
        // RFC 3261 §12.2.1.2, RFC 6665 §4.4.1: both methods refresh a target.
        if (200..300).contains(&status) {
            subscription.end_mut(far).dialog.on_target_refresh(response);
        }
        cx.respond(server, &mut draft);
        self.on_passed(cx, id, &request, status, Some(response));
    }

    fn on_failed(&mut self, cx: &mut Context, id: LocalId, failed: Option<Failed>) {
        let Some(Failed { id: number, status }) = failed else { return };
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let taken = subscription.courier(id).take(cx, number, None);
        let Some(Asked { request, server, .. }) = taken.and_then(Crossing::into_asked) else { return };
        // RFC 4320 §4.1: a 408 to a non-INVITE request comes too late to be of use.
        refuse(cx, server, &request, if status == 408 { 504 } else { upstream(status) });
        self.on_passed(cx, id, &request, status, None);
    }

    /// What the outcome of a request means for the subscription.
    fn on_passed(&mut self, cx: &mut Context, id: LocalId, request: &Message, status: u16, response: Option<&Message>) {
        let good = (200..300).contains(&status);
        if let Some(subscription) = self.open.get_mut(&id).filter(|_| good) {
            // RFC 6665 §4.4.1: both methods tell where their sender is to be reached; one that is refused changes nothing (RFC 3261 §12.2.2).
            let by_notifier = request.method() == &Method::Notify;
            let side = if by_notifier { subscription.subscriber.other() } else { subscription.subscriber };
            subscription.end_mut(side).dialog.on_target_refresh(request);
        }
        if request.method() == &Method::Notify {
            match told(request) {
                NotifyState::Terminated => self.end(cx, id, SubscriptionOutcome::Ended),
                // RFC 6665 §4.2.2: a notifier drops who does not answer.
                NotifyState::Lasts(_) if status == 408 || ends_usage(status) => self.end(cx, id, SubscriptionOutcome::Ended),
                NotifyState::Lasts(Some(life)) if good => self.prolong(cx, id, life),
                NotifyState::Lasts(_) => {}
            }
        } else if let Some(response) = response.filter(|_| good) {
            self.prolong(cx, id, granted(request, response));
        } else if ends_usage(status) {
            self.end(cx, id, SubscriptionOutcome::Ended);
        }
        self.forget_if_done(id);
    }
}

fn refuse(cx: &mut Context, tx: ServerTxId, request: &Message, status: u16) {
    let mut draft = request.response(status, None);
    finish_response(&mut draft, request, status, "", AGENT);
    if status == 405 {
        draft.set(HeaderId::Allow, ALLOW);
    }
    cx.respond(tx, &mut draft);
}
