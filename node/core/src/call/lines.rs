//! The two sides of a call or subscription as requests go out on them: next hop, Via, credentials, transaction.

use super::after_bye::ByeAgain;
use super::authenticated::Authenticated;
use super::challenge::{KnownChallenges, Retry};
use super::context::Context;
use super::ladder::Ladder;
use super::pairs::Pairs;
use super::session_id::SessionIds;
use super::timer::{CallTimer, TimerUser};
use super::two_hundred::{Again, SentAck, TwoHundred};
use super::ways::{FarEnd, NextHop, Written};
use crate::crossing::{Crossing, Origin, Out, Purpose, Way, Ways};
use crate::dialog::{Dialog, DialogRef};
use crate::ids::{LocalId, NodeId};
use crate::io::{Path, Realm, Side};
use crate::sip::{Draft, Method};
use crate::transaction::{CallUse, ClientTxId, ClientUser, NewRequest, QuestionUser};

/// Whose the requests are.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    /// A call's.
    Call(LocalId),
    /// A subscription's.
    Subscription(LocalId),
}

impl Owner {
    pub(super) fn client<X>(self, crossing: &Crossing<X>) -> ClientUser {
        match (self, crossing.origin()) {
            (Owner::Subscription(id), _) => ClientUser::Subscription { id, request: crossing.id() },
            (Owner::Call(call), Origin::Own(Purpose::Alone | Purpose::Ack(_))) => ClientUser::AfterBye { call },
            (Owner::Call(id), Origin::Own(Purpose::Question)) => {
                ClientUser::Call { id, purpose: CallUse::Doubt(crossing.to().side) }
            }
            (Owner::Call(id), _) => ClientUser::Call { id, purpose: CallUse::Crossing(crossing.id()) },
        }
    }

    fn silence(self, tx: ClientTxId) -> TimerUser {
        match self {
            Owner::Call(id) => TimerUser::Call(id, CallTimer::Silent(tx)),
            Owner::Subscription(id) => TimerUser::SubscriptionSilent(id, tx),
        }
    }

    pub(super) fn question(self) -> QuestionUser {
        match self {
            Owner::Call(id) => QuestionUser::Call(id),
            Owner::Subscription(id) => QuestionUser::Subscription(id),
        }
    }
}

/// A side that requests go out on: what is touched there, whatever the dialog.
pub struct Peer<'a> {
    /// On which side of the SBC.
    pub realm: Realm,
    /// Its trunk.
    pub trunk: &'a str,
    /// Where it was last seen, or reached.
    pub path: &'a mut Path,
    /// The node that `path` is a path of.
    pub ingress: &'a mut Option<NodeId>,
    /// The name that its certificate must bear, for new TLS connections.
    pub tls_name: Option<&'a str>,
    /// What was asked for was sips.
    pub secure: bool,
    /// What it wants to know of us.
    pub known: &'a mut KnownChallenges,
}

impl Peer<'_> {
    /// Puts credentials into a request to it, where it has asked for them before.
    pub(super) fn authorize(&mut self, cx: &mut Context, draft: &mut Draft) {
        self.known.authorize(cx, self.trunk, draft);
    }
}

/// The dialogs that requests go out in.
pub enum Dialogs<'a> {
    /// Those of a call.
    Pairs(&'a mut Pairs),
    /// Those of a subscription: toward the caller, toward the called side.
    Two(&'a mut Dialog, &'a mut Dialog),
}

impl Dialogs<'_> {
    fn at(&self, at: DialogRef) -> &Dialog {
        match (self, at.side) {
            (Dialogs::Pairs(pairs), _) => &pairs[at].dialog,
            (Dialogs::Two(caller, _), Side::Caller) => caller,
            (Dialogs::Two(_, callee), Side::Callee) => callee,
        }
    }

    pub(super) fn at_mut(&mut self, at: DialogRef) -> &mut Dialog {
        match (self, at.side) {
            (Dialogs::Pairs(pairs), _) => &mut pairs[at].dialog,
            (Dialogs::Two(caller, _), Side::Caller) => caller,
            (Dialogs::Two(_, callee), Side::Callee) => callee,
        }
    }
}

/// The two sides of a call or subscription.
pub struct Lines<'a> {
    /// Whose they are.
    pub owner: Owner,
    /// Toward the caller.
    pub caller: Peer<'a>,
    /// Toward the called party.
    pub callee: Peer<'a>,
    /// The dialogs with them.
    pub dialogs: Dialogs<'a>,
    /// What a call has besides.
    pub of_call: Option<OfCall<'a>>,
}

/// What a call keeps of what goes to its sides.
pub struct OfCall<'a> {
    /// Its messages.
    pub(super) ladder: &'a mut Ladder,
    /// Its ACKs for 2xx, among others.
    pub(super) two_hundred: &'a mut TwoHundred,
    /// The names that its far ends gave the session.
    pub(super) session_ids: &'a SessionIds,
}

/// What became of a request that was to go out.
pub(super) enum Went {
    /// It is under way.
    Out,
    /// It is out, and nothing more is to be done about it.
    Done,
    /// It came to nothing.
    Failed(u16),
}

impl<'a> Lines<'a> {
    pub(super) fn peer(&mut self, side: Side) -> &mut Peer<'a> {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// Where the far end of a dialog is.
    pub(super) fn far(&self, at: DialogRef) -> FarEnd<'_> {
        let Peer { realm, trunk, path, ingress, tls_name, secure, .. } = match at.side {
            Side::Caller => &self.caller,
            Side::Callee => &self.callee,
        };
        let dialog = self.dialogs.at(at);
        FarEnd { realm: *realm, trunk, dialog, path, ingress: **ingress, tls_name: *tls_name, secure: *secure }
    }

    /// A request could not be sent over this connection: it is no way any more.
    pub(super) fn forget_flow(&mut self, at: DialogRef, way: &Way) {
        let (path, ingress) = self.far(at).path_without(way);
        let peer = self.peer(at.side);
        (*peer.path, *peer.ingress) = (path, ingress);
    }

    /// Sends it, now or when its next hop is known.
    pub(super) fn send<X>(&mut self, cx: &mut Context, crossing: &mut Crossing<X>) -> Went {
        let far = self.far(crossing.to());
        match far.next_hop(cx) {
            NextHop::Known { path, ingress } => {
                let ways = Ways::one(far.way(path, ingress));
                self.transmit(cx, crossing, ways)
            }
            NextHop::Ask(request) => {
                let host = request.target.host.clone();
                let question = cx.resolve(self.owner.question(), request);
                crossing.state_mut().resolving(question, host);
                Went::Out
            }
        }
    }

    /// Sends it by the best of these ways.
    pub(super) fn transmit<X>(&mut self, cx: &mut Context, crossing: &mut Crossing<X>, mut ways: Ways) -> Went {
        let not_sent = |crossing: &Crossing<X>| crossing.state().on_not_sent().map_or(Went::Out, Went::Failed);
        let Some(mut draft) = crossing.request().cloned() else { return not_sent(crossing) };
        let (owner, to) = (self.owner, crossing.to());
        let peer = self.peer(to.side);
        peer.authorize(cx, &mut draft);
        let (realm, failover) = (peer.realm, cx.config.failover_after(peer.trunk));
        // Too large, or with a line break in a value: who asked is told.
        let Some(Written { way, branch, payload }) = self.far(to).write(cx, &mut ways, &mut draft) else {
            return not_sent(crossing);
        };
        if let Some(OfCall { ladder, .. }) = &mut self.of_call {
            ladder.sent(cx.now.unix, realm, &way.back, &draft);
        }
        if let Origin::Own(Purpose::Ack(cseq)) = *crossing.origin() {
            self.keep_ack(cx, crossing, cseq, way, payload, ways);
            return Went::Done;
        }
        let (back, tls_name, told) = (way.back, way.tls_name.clone(), matches!(crossing.origin(), Origin::Own(Purpose::Alone)));
        let sent = match owner {
            Owner::Call(call) if told => {
                let asked = self.peer(to.side).authenticated(cx, crossing.request(), &way);
                cx.send_after_bye(call, branch, back, tls_name, payload, asked)
            }
            _ => {
                let (user, invite) = (owner.client(crossing), draft.method() == Some(&Method::Invite));
                cx.send_request(NewRequest { user, branch, invite, way: back, tls_name, payload })
            }
        };
        let Some(tx) = sent else { return not_sent(crossing) };
        // A stream tells by itself that nobody is there.
        if !ways.is_empty() && !back.path.transport.is_reliable() {
            cx.start_timer(failover, owner.silence(tx));
        }
        let out = Out::new(tx, way, ways);
        if crossing.is_own() && crossing.state().last().is_none() && out.is_last_resort() {
            return Went::Done;
        }
        crossing.state_mut().sent(out);
        Went::Out
    }

    fn keep_ack<X>(&mut self, cx: &mut Context, crossing: &Crossing<X>, cseq: u32, way: Way, payload: bytes::Bytes, ways: Ways) {
        let to = crossing.to();
        let remote_tag = self.dialogs.at(to).remote_tag.clone();
        cx.send(way.back, way.tls_name.clone(), payload.clone());
        if let Some(OfCall { two_hundred, .. }) = &mut self.of_call {
            let more = way.is_connection() || !ways.is_empty();
            let again = crossing.request().filter(|_| more).map(|draft| Box::new(Again { draft: draft.clone(), ways }));
            two_hundred.keep(SentAck { to, cseq, remote_tag, way, payload, again });
        }
    }
}

impl Peer<'_> {
    /// A BYE or PRACK with which its far end's challenge can be answered after the call is forgotten.
    pub(super) fn authenticated(&self, cx: &Context, request: Option<&Draft>, way: &Way) -> Option<ByeAgain> {
        cx.credentials(self.trunk)?;
        let retry = Retry { draft: request?.clone(), tries: 0 };
        Some(ByeAgain::new(Authenticated::from_retry(self.trunk.into(), retry, self.known.clone()), way))
    }
}
