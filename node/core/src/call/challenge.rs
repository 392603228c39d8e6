//! A far end asks who we are (401, 407): the request again, with the trunk's credentials (RFC 3261 §22.2).
//!
//! The first INVITE never has credentials before it is asked for them, so that its CSeq numbers are the same on each node that
//! dials the same leg (rule C): n without, n + 1 with. Later requests of the dialog have them at once, for what was
//! learnt is kept by leg; a nonce is counted by node, whichever calls use it.

use std::collections::{HashMap, VecDeque};

use super::context::Context;
use super::headers;
use crate::auth::{AuthHeader, Challenge, challenges};
use crate::io::{AuthOutcome, Counter};
use crate::policy::Credentials;
use crate::sip::{Draft, HeaderId, Message, Method};

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
pub struct KnownChallenges {
    challenges: Vec<(Challenge, String)>,
    /// Credentials of the last INVITE: the ACK for its 2xx has the same (RFC 3261 §13.2.2.4).
    invite: Option<(u32, Vec<(HeaderId, String)>)>,
}

/// How often nonces of others were used.
#[derive(Debug, Default)]
pub(super) struct NonceCounts {
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

impl KnownChallenges {
    /// Takes what a response asks for. False: it asks again for what it was given, and not for a newer nonce.
    fn learn(&mut self, cx: &Context, fresh: Vec<Challenge>, tries: u8) -> bool {
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

    /// Puts credentials into a request toward a trunk, where its far end has asked for them before.
    pub(super) fn authorize(&mut self, cx: &mut Context, trunk: &str, draft: &mut Draft) {
        let Some(credentials) = cx.credentials(trunk) else { return };
        if draft.method() == Some(&Method::Ack) {
            if let Some((_, fields)) = self.invite.as_ref().filter(|(cseq, _)| cseq_of(draft) == Some(*cseq)) {
                put(draft, fields.clone(), self);
            }
            return;
        }
        let fields = self.fields(cx, &credentials, draft);
        if draft.method() == Some(&Method::Invite) {
            self.invite = cseq_of(draft).map(|cseq| (cseq, fields.clone()));
        }
        put(draft, fields, self);
    }

    /// A far end of that trunk asks, in answer to a request that went again `tries` times for that. `Answered`: it may go again.
    pub(super) fn ask(&mut self, cx: &mut Context, trunk: &str, response: &Message, tries: &mut u8) -> Challenged {
        let Some(credentials) = cx.credentials(trunk) else { return Challenged::NotOurs };
        let fresh = challenges(response, &credentials.secret, credentials.realm.as_deref());
        if fresh.is_empty() && *tries == 0 {
            // Another realm than ours, or no secret here: the other side may know more.
            return Challenged::NotOurs;
        }
        if !self.learn(cx, fresh, *tries) {
            cx.count(Counter::Auth(AuthOutcome::Refused));
            return Challenged::Refused;
        }
        cx.count(Counter::Auth(AuthOutcome::Answered));
        *tries += 1;
        Challenged::Answered
    }

    /// The fields for one request.
    fn fields(&self, cx: &mut Context, credentials: &Credentials, draft: &Draft) -> Vec<(HeaderId, String)> {
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

impl Context {
    /// What we answer a trunk's challenges with.
    pub(super) fn credentials(&self, trunk: &str) -> Option<Credentials> {
        self.config.trunk(trunk)?.auth.credentials.clone()
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

/// Puts credentials in; those of the other side for the same realm go, for they were made for another request.
pub(super) fn put(draft: &mut Draft, fields: Vec<(HeaderId, String)>, known: &KnownChallenges) {
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

pub(super) fn raise_cseq(draft: &mut Draft) -> Option<u32> {
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
