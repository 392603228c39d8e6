//! A far end asks who we are (401, 407): the request again, with the trunk's credentials (RFC 3261 §22.2).
//!
//! The first INVITE never has credentials before it is asked for them, so that its CSeq numbers are the same on each node that
//! dials the same leg (rule C): n without, n + 1 with. Later requests of the dialog have them at once, for what was
//! learnt is kept by leg; a nonce is counted by node, whichever calls use it.

use std::collections::{HashMap, VecDeque};

use super::services::Services;
use super::timer::{CallTimer, Timer};
use super::{Call, headers};
use crate::auth::{AuthHeader, Challenge, challenges};
use crate::io::{Counter, ReturnPath, Side};
use crate::policy::Credentials;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::targets::AttemptEvent;
use crate::transaction::{CallUse, ClientUser, NewRequest, ResponseAction};

/// Times that one request is sent again: a proxy and a user agent may ask in turn, and each nonce may be too old once.
pub(super) const MAX_TRIES: u8 = 4;
/// Realms remembered for one leg.
const MAX_KNOWN: usize = 4;
/// Nonces whose uses are counted. A nonce that fell out is counted from 1 again, which costs one more challenge.
const MAX_NONCES: usize = 4096;

/// A request as it was before credentials were put in, without Via: what is needed to send it again.
#[derive(Clone, Debug)]
pub(super) struct Retry {
    pub(super) draft: Draft,
    pub(super) tries: u8,
}

/// What a far end wants to see in each request.
#[derive(Clone, Debug, Default)]
pub struct Known {
    challenges: Vec<(Challenge, String)>,
}

/// Of one leg.
#[derive(Debug, Default)]
struct SideAuth {
    known: Known,
    /// Credentials of the last INVITE: the ACK for its 2xx has the same (RFC 3261 §13.2.2.4).
    invite: Option<(u32, Vec<(HeaderId, String)>)>,
}

/// What a call has learnt on its two legs.
#[derive(Debug, Default)]
pub(super) struct CallAuth {
    caller: SideAuth,
    callee: SideAuth,
}

impl CallAuth {
    fn of(&mut self, side: Side) -> &mut SideAuth {
        match side {
            Side::Caller => &mut self.caller,
            Side::Callee => &mut self.callee,
        }
    }

    /// What the far end of that side has asked for.
    pub(super) fn known(&self, side: Side) -> &Known {
        match side {
            Side::Caller => &self.caller.known,
            Side::Callee => &self.callee.known,
        }
    }

    /// Another target is dialled: it has asked for nothing yet.
    pub(super) fn forget(&mut self, side: Side) {
        *self.of(side) = SideAuth::default();
    }
}

/// How often nonces of others were used.
#[derive(Debug, Default)]
pub struct NonceCounts {
    uses: HashMap<Box<str>, u32>,
    order: VecDeque<Box<str>>,
}

impl NonceCounts {
    /// The number of the next use of a nonce, from 1.
    fn next(&mut self, nonce: &str) -> u32 {
        if let Some(uses) = self.uses.get_mut(nonce) {
            *uses = uses.saturating_add(1);
            return *uses;
        }
        if self.order.len() >= MAX_NONCES
            && let Some(old) = self.order.pop_front()
        {
            self.uses.remove(&old);
        }
        self.uses.insert(nonce.into(), 1);
        self.order.push_back(nonce.into());
        1
    }
}

impl Known {
    /// Takes what a response asks for. False: it asks again for what it was given, and not for a newer nonce.
    pub(super) fn learn(&mut self, cx: &Services, fresh: Vec<Challenge>, tries: u8) -> bool {
        let answered = |c: &Challenge| self.challenges.iter().any(|(k, _)| k.header == c.header && k.realm == c.realm);
        if fresh.is_empty() || tries >= MAX_TRIES || (tries > 0 && fresh.iter().any(|c| !c.stale && answered(c))) {
            return false;
        }
        for challenge in fresh {
            // One cnonce for a nonce's whole life: with -sess it is a part of the key (RFC 7616 §3.4.2).
            let cnonce = cx.cnonce(&challenge);
            match self.challenges.iter().position(|(k, _)| k.header == challenge.header && k.realm == challenge.realm) {
                Some(at) => self.challenges[at] = (challenge, cnonce),
                None if self.challenges.len() < MAX_KNOWN => self.challenges.push((challenge, cnonce)),
                None => {}
            }
        }
        true
    }

    /// The fields for one request.
    pub(super) fn fields(&self, cx: &mut Services, credentials: &Credentials, draft: &Draft) -> Vec<(HeaderId, String)> {
        let (Some(method), Some(uri)) = (draft.method(), draft.request_uri()) else { return Vec::new() };
        let answer = |(challenge, cnonce): &(Challenge, String)| {
            let count = cx.nonces.next(&challenge.nonce);
            let value = challenge.answer(&credentials.username, &credentials.secret, method.as_str(), uri, cnonce, count)?;
            Some((challenge.header.answers(), value))
        };
        self.challenges.iter().filter_map(answer).collect()
    }

    fn realms(&self) -> impl Iterator<Item = (AuthHeader, &str)> {
        self.challenges.iter().map(|(c, _)| (c.header, &*c.realm))
    }
}

impl Services {
    /// What we answer a trunk's challenges with.
    pub(super) fn credentials(&self, trunk: &str) -> Option<Credentials> {
        self.config.trunk(trunk)?.credentials.clone()
    }

    /// Unguessable, and the same each time for one nonce.
    fn cnonce(&self, challenge: &Challenge) -> String {
        let octets = self.key.authenticate(&[b"cnonce", challenge.realm.as_bytes(), challenge.nonce.as_bytes()]);
        octets.iter().map(|o| format!("{o:02x}")).collect()
    }
}

/// What became of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenged {
    /// The request went out again.
    Answered,
    /// What we gave was refused: the target does not serve us.
    Refused,
    /// We have nothing to answer with: it is for the other side.
    NotOurs,
}

impl Call {
    /// Puts credentials into a request of ours, where this leg's far end has asked for them before. What it was before that
    /// is handed back where the request may have to be repeated.
    pub(super) fn authorize(&mut self, cx: &mut Services, side: Side, draft: &mut Draft) -> Option<Retry> {
        let credentials = cx.credentials(&self.leg(side).trunk)?;
        if draft.method() == Some(&Method::Ack) {
            if let Some((cseq, fields)) = &self.auth.of(side).invite
                && cseq_of(draft) == Some(*cseq)
            {
                let fields = fields.clone();
                put(draft, fields, &self.auth.of(side).known);
            }
            return None;
        }
        let retry = Retry { draft: draft.clone(), tries: 0 };
        self.give(cx, side, &credentials, draft);
        Some(retry)
    }

    fn give(&mut self, cx: &mut Services, side: Side, credentials: &Credentials, draft: &mut Draft) {
        let auth = self.auth.of(side);
        let fields = auth.known.fields(cx, credentials, draft);
        if draft.method() == Some(&Method::Invite) {
            auth.invite = cseq_of(draft).map(|cseq| (cseq, fields.clone()));
        }
        put(draft, fields, &auth.known);
    }

    /// A far end asks, in answer to a request that was made of `retry`. Afterwards `retry` is what to send, but for credentials.
    fn learn(&mut self, cx: &mut Services, side: Side, retry: &mut Retry, response: &Message) -> Challenged {
        let Some(credentials) = cx.credentials(&self.leg(side).trunk) else { return Challenged::NotOurs };
        let fresh = challenges(response, &credentials.secret, credentials.realm.as_deref());
        if fresh.is_empty() && retry.tries == 0 {
            // Another realm than ours, or no secret here: the caller may know more.
            return Challenged::NotOurs;
        }
        if !self.auth.of(side).known.learn(cx, fresh, retry.tries) {
            cx.count(Counter::Auth("refused"));
            return Challenged::Refused;
        }
        cx.count(Counter::Auth("answered"));
        retry.tries += 1;
        Challenged::Answered
    }

    /// A 401 or 407 to the first INVITE, which is acknowledged: the INVITE again in the same dialog with the next CSeq number.
    pub(super) fn on_dial_challenge(&mut self, cx: &mut Services, index: u32, response: &Message) -> Challenged {
        let Some(mut retry) = self.uac.attempt_mut(index).and_then(|a| a.retry.take()) else { return Challenged::NotOurs };
        match self.learn(cx, Side::Callee, &mut retry, response) {
            Challenged::Answered => {}
            other => return other,
        }
        let Some(cseq) = raise_cseq(&mut retry.draft) else { return Challenged::Refused };
        let called = self.pairs.begin_again(cx).callee();
        let dialog = &mut self.pairs[called].dialog;
        (dialog.local_cseq, dialog.remote_tag) = (cseq, None);
        dialog.route_set.clear();
        self.open_first_offer();
        let mut draft = retry.draft.clone();
        let Some(credentials) = cx.credentials(&self.callee.trunk) else { return Challenged::Refused };
        self.give(cx, Side::Callee, &credentials, &mut draft);
        let Some(attempt) = self.uac.attempt_mut(index) else { return Challenged::Refused };
        let (path, tls_name) = (attempt.path, attempt.tls_name.clone());
        let branch = cx.mint_branch();
        let via = cx.via(&path, &branch);
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return Challenged::Refused };
        let user = ClientUser::Call { id: self.id, purpose: CallUse::Dial(index) };
        let (way, invite) = (ReturnPath::here(path), true);
        let sent = cx.send_request(NewRequest { user, branch: branch.clone().into(), invite, way, tls_name, payload });
        let Some(tx) = sent else { return Challenged::Refused };
        self.ladder.sent(cx.now.unix, self.callee.realm, &ReturnPath::here(path), &draft);
        // The old transaction goes on absorbing copies of its 401; what becomes of it says nothing of the new one.
        cx.tx.set_client_user(attempt.tx, ClientUser::Nobody);
        let failover = cx.config.failover_after(&self.callee.trunk);
        let timer = Some(cx.start_timer(failover, Timer::Call(self.id, CallTimer::Failover(index))));
        attempt.dialog.local_cseq = cseq;
        (attempt.tx, attempt.via, attempt.branch, attempt.cseq, attempt.timer) = (tx, via, branch.into(), cseq, timer);
        attempt.state.note(AttemptEvent::Again);
        attempt.retry = Some(retry);
        Challenged::Answered
    }

    /// A 401 or 407 to a request that was passed on. True: it went out again.
    pub(super) fn on_forward_challenge(&mut self, cx: &mut Services, at: usize, response: &Message) -> bool {
        let f = &mut self.forwards[at];
        let (id, to) = (f.id, f.from.other());
        let Some(mut retry) = f.retry.take().filter(|_| !f.cancelled) else { return false };
        if self.learn(cx, to.side, &mut retry, response) != Challenged::Answered {
            return false;
        }
        self.forget_earlier(cx, at);
        let dialog = &mut self.pairs[to].dialog;
        dialog.local_cseq += 1;
        let cseq = dialog.local_cseq;
        set_cseq(&mut retry.draft, cseq);
        let old = {
            let f = &mut self.forwards[at];
            (f.cseq, f.provisional, f.tries) = (cseq, false, retry.tries);
            f.client_tx.take()
        };
        if let Some(old) = old {
            cx.tx.set_client_user(old, ClientUser::Nobody);
        }
        self.send_on(cx, to, retry.draft, super::outgoing::Purpose::Use(CallUse::Forward(id)));
        true
    }

    /// Keeps what a forwarded request was before its credentials.
    pub(super) fn keep_forward(&mut self, id: u64, mut retry: Retry) {
        if let Some(f) = self.forwards.iter_mut().find(|f| f.id == id) {
            retry.tries = f.tries;
            f.retry = Some(retry);
        }
    }

    /// A 401 or 407 that we answer. True: nothing more is to be done with it.
    pub(super) fn is_challenge(&self, action: ResponseAction, status: u16) -> bool {
        action != ResponseAction::Absorb && matches!(status, 401 | 407)
    }

    /// The INVITE toward a target as it may be repeated; credentials that the caller gave us alone do not go on.
    pub(super) fn first_retry(&mut self, cx: &Services, draft: &mut Draft) -> Option<Retry> {
        self.auth.forget(Side::Callee);
        headers::strip_our_credentials(cx, &self.caller.trunk, draft);
        cx.credentials(&self.callee.trunk).map(|_| Retry { draft: draft.clone(), tries: 0 })
    }
}

/// Puts credentials in; those of the other side for the same realm go, for they were made for another request.
pub(super) fn put(draft: &mut Draft, fields: Vec<(HeaderId, String)>, known: &Known) {
    for (header, realm) in known.realms() {
        headers::drop_credentials(draft, header.answers(), realm);
    }
    for (id, value) in fields {
        draft.push(id, value);
    }
}

pub(super) fn cseq_of(draft: &Draft) -> Option<u32> {
    draft.first(HeaderId::CSeq)?.split(' ').next()?.parse().ok()
}

pub(super) fn set_cseq(draft: &mut Draft, cseq: u32) {
    let method = draft.method().map(|m| m.as_str().to_owned()).unwrap_or_default();
    draft.set(HeaderId::CSeq, format!("{cseq} {method}"));
}

fn raise_cseq(draft: &mut Draft) -> Option<u32> {
    let cseq = cseq_of(draft)? + 1;
    set_cseq(draft, cseq);
    Some(cseq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_of_a_nonce_are_counted_and_the_oldest_is_forgotten() {
        let mut counts = NonceCounts::default();
        assert_eq!((counts.next("a"), counts.next("a"), counts.next("b")), (1, 2, 1));
        for n in 0..MAX_NONCES {
            counts.next(&format!("n{n}"));
        }
        assert_eq!(counts.uses.len(), MAX_NONCES);
        assert_eq!(counts.next("a"), 1);
    }

    #[test]
    fn cseq_is_raised_and_the_method_stays() {
        let mut draft = Draft::request(&Method::Bye, "sip:a@b");
        draft.push(HeaderId::CSeq, "41 BYE");
        assert_eq!(raise_cseq(&mut draft), Some(42));
        assert_eq!(draft.first(HeaderId::CSeq), Some("42 BYE"));
    }
}
