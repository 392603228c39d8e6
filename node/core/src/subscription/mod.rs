//! Subscriptions (RFC 6665) through this node: a dialog with the subscriber and one with the notifier, each with identifiers of our
//! own, as a call has them. The events and their documents are not looked into.
//!
//! The SUBSCRIBE that begins one goes out as a MESSAGE does (`message`); `crossing` passes what comes within it. It is soft state: nothing of it
//! is in the log. A node that starts again says 481, and the subscriber subscribes anew.
//!
//! Of a SUBSCRIBE that forks downstream, the notifier whose 2xx or NOTIFY comes first has the subscription, the others get 481, which
//! ends theirs (RFC 6665 §4.4.1). A subscriber that knows of one cannot tell two apart by what we would have to invent, and the
//! state of one subscription stays bounded.
//!
//! A call that ends while a REFER waits for its last NOTIFY leaves such a dialog usage behind for a while (RFC 5057 §4.2).

mod crossing;
mod state;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::call::{
    Authenticated, Context, Courier, Dialogs, End, KnownChallenges, Lines, Owner, Refer, TimerUser, Usage, asks_for_sips,
    is_sips, keep_alive_after,
};
use crate::crossing::Crossings;
use crate::dialog::{Dialog, without_tag};
use crate::ids::LocalId;
use crate::io::{Counter, Path, ReturnPath, Side, SubscriptionOutcome, Transport};
use crate::policy::Prefix;
use crate::sip::{Draft, HeaderId, Message};
use crate::timer::TimerId;
use crate::token::{OwnerToken, TokenKind};

use state::MARGIN;

/// Subscriptions of a node: at 3 KB each this bounds them at 150 MB.
const MAX_SUBSCRIPTIONS: usize = 50_000;
/// Of one source: a PBX or a PSAP whose desks each watch all others comes as one address.
const MAX_PER_SOURCE: u32 = 5_000;
/// How long a NOTIFY can make the dialog of a call that ended serve those that follow: as long as a phone rings.
const AFTER_CALL: Duration = Duration::from_secs(180);

/// Why there is no room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// This node has all that it may have.
    Node,
    /// The source has.
    Source,
}

/// All of this node.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    open: HashMap<LocalId, Subscription>,
    by_source: HashMap<IpAddr, u32>,
}

impl Subscriptions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// True when there is one with this id.
    pub(crate) fn has(&self, id: LocalId) -> bool {
        self.open.contains_key(&id)
    }

    /// The limit that one more of this source would be over.
    pub(crate) fn full(&self, source: IpAddr) -> Option<Full> {
        if self.open.len() >= MAX_SUBSCRIPTIONS {
            return Some(Full::Node);
        }
        let of_source = self.by_source.get(&Prefix::of_source(source).addr).copied().unwrap_or(0);
        (of_source >= MAX_PER_SOURCE).then_some(Full::Source)
    }

    fn insert(&mut self, id: LocalId, subscription: Subscription) {
        *self.by_source.entry(Prefix::of_source(subscription.source).addr).or_default() += 1;
        self.open.insert(id, subscription);
    }

    fn remove(&mut self, id: LocalId) {
        let Some(subscription) = self.open.remove(&id) else { return };
        let source = Prefix::of_source(subscription.source).addr;
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

/// One subscription.
#[derive(Debug)]
struct Subscription {
    /// Who asked first.
    source: IpAddr,
    emergency: bool,
    /// The side that subscribes; the other one notifies.
    subscriber: Side,
    caller: End,
    callee: End,
    /// The SUBSCRIBE that begins it has no final response yet.
    asking: bool,
    /// It is over; what is left are answers under way.
    ended: bool,
    /// REFERs of the call that it is left of: their ids differ by leg.
    refers: Vec<Refer>,
    /// Requests within it.
    crossings: Crossings<()>,
    timer: Option<TimerId>,
}

impl Subscription {
    fn end(&self, side: Side) -> &End {
        match side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        }
    }

    fn ends(&self) -> impl Iterator<Item = &End> {
        [&self.caller, &self.callee].into_iter()
    }

    fn end_mut(&mut self, side: Side) -> &mut End {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// What carrying requests touches.
    fn courier(&mut self, id: LocalId) -> Courier<'_, ()> {
        let ((caller, first), (callee, second)) = (self.caller.peer(), self.callee.peer());
        let (owner, dialogs) = (Owner::Subscription(id), Dialogs::Two(first, second));
        Courier { crossings: &mut self.crossings, lines: Lines { owner, caller, callee, dialogs, of_call: None } }
    }

    /// Nothing is left to do.
    fn is_done(&self) -> bool {
        self.ended && !self.asking && self.crossings.is_empty()
    }
}

impl Subscriptions {
    /// A SUBSCRIBE was admitted; nobody was asked yet.
    pub(crate) fn begin(&mut self, cx: &Context, id: LocalId, back: ReturnPath, request: &Message, trunk: &str, emergency: bool) {
        let uid = cx.own_uid(id);
        let token = |kind| cx.key.seal(OwnerToken { kind, uid }).into_boxed_str();
        let (own, other) = (token(TokenKind::CallerLeg), token(TokenKind::CalleeLeg));
        let mut dialog = Dialog::from_request(request, &own);
        cx.drop_own_routes(&mut dialog);
        let realm = back.path.role.realm();
        let secure = asks_for_sips(request);
        let (path, ingress) = (back.path, back.ingress);
        let (trunk, known) = (trunk.into(), KnownChallenges::default());
        let caller = End { realm, trunk, dialog, path, ingress, secure, tls_name: None, token: own, known };
        // Until it is dialled.
        let nowhere = cx.path_to(realm, Transport::Udp, ([0, 0, 0, 0], 0).into());
        let dialog = Dialog { remote_tag: None, call_id: "".into(), local_tag: "".into(), ..caller.dialog.clone() };
        let callee = End {
            realm,
            trunk: "".into(),
            dialog,
            path: nowhere,
            ingress: None,
            secure: false,
            tls_name: None,
            token: other,
            known: KnownChallenges::default(),
        };
        let subscription = Subscription {
            source: back.path.remote.ip(),
            emergency,
            subscriber: Side::Caller,
            caller,
            callee,
            asking: true,
            ended: false,
            refers: Vec::new(),
            crossings: Crossings::default(),
            timer: None,
        };
        self.insert(id, subscription);
    }

    /// It goes to a target: what is sent there makes the dialog on that side, and gets our Contact.
    pub(crate) fn dial(
        &mut self,
        cx: &Context,
        id: LocalId,
        trunk: &str,
        path: Path,
        tls_name: Option<Box<str>>,
        draft: &mut Draft,
    ) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let value = |id| draft.first(id).unwrap_or_default();
        let (local_uri, tag) = value(HeaderId::From).rsplit_once(";tag=").unwrap_or_default();
        let dialog = Dialog {
            call_id: value(HeaderId::CallId).into(),
            local_tag: tag.into(),
            remote_tag: None,
            local_uri: local_uri.into(),
            remote_uri: without_tag(value(HeaderId::To)).into(),
            remote_target: draft.request_uri().unwrap_or_default().into(),
            guessed: false,
            route_set: Vec::new(),
            local_cseq: value(HeaderId::CSeq).split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
            remote_cseq: None,
        };
        let token = subscription.callee.token.clone();
        let (realm, secure) = (path.role.realm(), is_sips(&dialog.remote_target));
        let (trunk, known) = (trunk.into(), KnownChallenges::default());
        subscription.callee = End { realm, trunk, dialog, path, ingress: None, secure, tls_name, token, known };
        draft.push(HeaderId::Contact, subscription.callee.contact(cx));
    }

    /// It went again, with credentials.
    pub(crate) fn redial(&mut self, id: LocalId, cseq: u32) {
        if let Some(subscription) = self.open.get_mut(&id) {
            subscription.callee.dialog.local_cseq = cseq;
        }
    }

    /// The 2xx came: completes the one to the subscriber, `draft`.
    pub(crate) fn confirm(&mut self, cx: &mut Context, id: LocalId, request: &Message, response: &Message, draft: &mut Draft) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        let dialog = &mut subscription.callee.dialog;
        // RFC 6665 §4.4.1: a NOTIFY that overtook it has made the dialog already.
        if dialog.remote_tag.is_none() {
            dialog.on_dialog_response(response);
            cx.drop_own_routes(dialog);
        } else if dialog.remote_tag.as_deref() == response.to_tag() {
            dialog.on_target_refresh(response);
        }
        let caller = &subscription.caller;
        draft.set(HeaderId::To, format!("{};tag={}", request.to(), caller.dialog.local_tag));
        draft.push(HeaderId::Contact, caller.contact(cx));
        // RFC 3261 §12.1.1.
        for route in request.all(HeaderId::RecordRoute) {
            draft.push(HeaderId::RecordRoute, route);
        }
        cx.count(Counter::Subscription(SubscriptionOutcome::Begun));
        self.await_keep_alive(cx, id);
        self.prolong(cx, id, state::granted(request, response));
    }

    /// The SUBSCRIBE that began it has its final answer. `asked`: with what it was accepted.
    pub(crate) fn settle(&mut self, cx: &mut Context, id: LocalId, accepted: bool, asked: Option<&Authenticated>) {
        let Some(subscription) = self.open.get_mut(&id) else { return };
        subscription.asking = false;
        if let Some(asked) = asked {
            subscription.callee.known = asked.known().clone();
        }
        if !accepted {
            self.end(cx, id, SubscriptionOutcome::Refused);
        }
        self.forget_if_done(id);
    }

    /// A call has ended with REFERs that wait for their last NOTIFY.
    pub(crate) fn keep_usage(&mut self, cx: &mut Context, id: LocalId, usage: Usage) {
        let Usage { subscriber, emergency, caller, callee, refers } = usage;
        let source = if subscriber == Side::Caller { &caller } else { &callee }.path.remote.ip();
        if self.full(source).is_some() {
            return;
        }
        let (crossings, timer, asking, ended) = (Crossings::default(), None, false, false);
        let kept = Subscription { source, emergency, subscriber, caller, callee, asking, ended, refers, crossings, timer };
        self.insert(id, kept);
        self.arm(cx, id, MARGIN);
    }

    fn await_keep_alive(&self, cx: &mut Context, id: LocalId) {
        if self.open.get(&id).is_some_and(|s| !s.ended && s.ends().any(|end| end.far().is_behind_nat())) {
            cx.start_timer(keep_alive_after(cx), TimerUser::SubscriptionKeepAlive(id));
        }
    }

    /// The NATs before its far ends are to remember them: between two NOTIFYs may be an hour.
    pub(crate) fn on_keep_alive(&self, cx: &mut Context, id: LocalId) {
        for end in self.open.get(&id).into_iter().flat_map(Subscription::ends) {
            end.far().keep_alive(cx);
        }
        self.await_keep_alive(cx, id);
    }

    /// It lasts for so long from now.
    fn prolong(&mut self, cx: &mut Context, id: LocalId, life: Duration) {
        let of_call = self.open.get(&id).is_some_and(|s| !s.refers.is_empty());
        let life = if of_call { life.min(AFTER_CALL) } else { life };
        self.arm(cx, id, life + MARGIN);
    }

    fn arm(&mut self, cx: &mut Context, id: LocalId, after: Duration) {
        let Some(subscription) = self.open.get_mut(&id).filter(|s| !s.ended) else { return };
        cx.stop_timer(&mut subscription.timer);
        subscription.timer = Some(cx.start_timer(after, TimerUser::Subscription(id)));
    }

    /// Nobody refreshed it in its time.
    pub(crate) fn on_timer(&mut self, cx: &mut Context, id: LocalId) {
        if let Some(subscription) = self.open.get_mut(&id) {
            subscription.timer = None;
            self.end(cx, id, SubscriptionOutcome::Expired);
            self.forget_if_done(id);
        }
    }

    /// Nothing more is passed on within it; what is under way is still answered.
    fn end(&mut self, cx: &mut Context, id: LocalId, how: SubscriptionOutcome) {
        let Some(subscription) = self.open.get_mut(&id).filter(|s| !s.ended) else { return };
        subscription.ended = true;
        cx.stop_timer(&mut subscription.timer);
        cx.count(Counter::Subscription(how));
    }

    fn forget_if_done(&mut self, id: LocalId) {
        if self.open.get(&id).is_some_and(Subscription::is_done) {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{AddressRole, Realm};

    fn subscription(source: IpAddr) -> Subscription {
        let remote = (source, 5060).into();
        let path = Path { role: AddressRole::Unicast, transport: Transport::Udp, local: remote, remote, flow: None };
        let end = || End {
            realm: Realm::External,
            trunk: "t".into(),
            dialog: Dialog {
                call_id: "c".into(),
                local_tag: "l".into(),
                remote_tag: None,
                local_uri: "".into(),
                remote_uri: "".into(),
                remote_target: "".into(),
                guessed: false,
                route_set: Vec::new(),
                local_cseq: 0,
                remote_cseq: None,
            },
            path,
            ingress: None,
            secure: false,
            tls_name: None,
            token: "".into(),
            known: KnownChallenges::default(),
        };
        Subscription {
            source,
            emergency: false,
            subscriber: Side::Caller,
            caller: end(),
            callee: end(),
            asking: false,
            ended: false,
            refers: Vec::new(),
            crossings: Crossings::default(),
            timer: None,
        }
    }

    #[test]
    fn one_source_and_all_of_them_are_bounded() {
        let mut all = Subscriptions::default();
        let source = |n: u32| IpAddr::from(n.to_be_bytes());
        for id in 0..u64::from(MAX_PER_SOURCE) {
            assert_eq!(all.full(source(1)), None);
            all.insert(LocalId(id), subscription(source(1)));
        }
        assert_eq!(all.full(source(1)), Some(Full::Source));
        assert_eq!(all.full(source(2)), None);
        all.remove(LocalId(0));
        assert_eq!(all.full(source(1)), None);
        let room = u32::try_from(MAX_SUBSCRIPTIONS - all.len()).expect("few");
        for n in 0..room {
            all.insert(LocalId(100_000 + u64::from(n)), subscription(source(1000 + n)));
        }
        assert_eq!(all.full(source(2)), Some(Full::Node));
        let ids: Vec<LocalId> = all.open.keys().copied().collect();
        ids.into_iter().for_each(|id| all.remove(id));
        assert!(all.open.is_empty() && all.by_source.is_empty(), "nothing is left of what is gone");
    }

    #[test]
    fn it_is_done_when_all_is_answered() {
        let mut s = subscription(source_of("198.18.0.1"));
        assert!(!s.is_done());
        s.ended = true;
        assert!(s.is_done());
        s.asking = true;
        assert!(!s.is_done(), "its SUBSCRIBE waits for an answer");
    }

    fn source_of(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }
}
