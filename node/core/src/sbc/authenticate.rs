//! Who calls us: the challenge of a trunk with `auth = "digest"` (RFC 3261 §22.1, §22.3, RFC 7616, RFC 8760): 401 as a user agent, or 407 as a proxy
//! where it says `auth_as = "proxy"`.
//!
//! The challenge costs no state, no transaction and no claim; its answer may reach another node (AC-29). An emergency call is never
//! challenged unless the trunk says so. Requests within a dialog are not: our tags and tokens in them were given to the caller alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Sbc;
use crate::auth::{NonceState, check_nonce, mint_nonce, our_challenge, presented};
use crate::ctx::AGENT;
use crate::io::{Counter, ReturnPath};
use crate::policy::Challenger;
use crate::sip::Message;
use crate::time::Instant;

/// Nonces with counted uses at once; beyond it a replay within their life is not noticed at this node.
const MAX_NONCES: usize = 65_536;
/// Counts that may arrive late: a caller with as many requests under way.
const WINDOW: u32 = 64;
/// As long as the configuration lets a nonce live.
const LONGEST_LIFE: Duration = Duration::from_secs(86_400);

/// The uses of our nonces that this node has seen: the highest count, and which of the [`WINDOW`] below it.
#[derive(Debug, Default)]
pub(super) struct Uses {
    seen: HashMap<[u8; 16], (u32, u64, Instant, Duration)>,
}

impl Uses {
    /// Notes a use. False: it was there before, or is too far behind.
    fn note(&mut self, now: Instant, life: Duration, nonce: [u8; 16], count: u32) -> bool {
        if self.seen.len() >= MAX_NONCES && !self.seen.contains_key(&nonce) {
            return true;
        }
        let (highest, bits, ..) = self.seen.entry(nonce).or_insert((0, 0, now, life.min(LONGEST_LIFE)));
        if count > *highest {
            let by = count - *highest;
            *bits = if by >= WINDOW { 0 } else { *bits << by } | 1;
            *highest = count;
            return true;
        }
        let behind = *highest - count;
        if behind >= WINDOW || *bits & (1 << behind) != 0 {
            return false;
        }
        *bits |= 1 << behind;
        true
    }

    /// Forgets nonces that are stale by now. Twice their life: a fast clock elsewhere may have minted them in our future.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.seen.retain(|_, (_, _, since, life)| now.since(*since) < *life * 2);
    }
}

/// What is wrong with a request's credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    /// It has none.
    Absent,
    /// Unknown user, or another secret.
    Credentials,
    /// They are right, the nonce is not, any more or again.
    Nonce,
}

impl Sbc {
    /// True: the request may go on. False: it was challenged.
    pub(super) fn authenticate(&mut self, back: ReturnPath, request: &Message, trunk: &str, emergency: bool) -> bool {
        let config = self.cx.config.clone();
        let Some(challenger) = config.trunk(trunk).and_then(|t| t.challenger.as_ref()) else { return true };
        if emergency && !challenger.emergency {
            return true;
        }
        let source = back.path.remote.ip();
        let (wrong, label) = match self.verify(challenger, request, trunk, source) {
            Ok(()) => {
                self.cx.count(Counter::Auth("accepted"));
                return true;
            }
            Err(Wrong::Absent) => (Wrong::Absent, "challenged"),
            Err(Wrong::Credentials) => (Wrong::Credentials, "wrong"),
            Err(Wrong::Nonce) => (Wrong::Nonce, "stale"),
        };
        self.cx.count(Counter::Auth(label));
        self.challenge(challenger, back, request, trunk, wrong == Wrong::Nonce);
        false
    }

    fn verify(&mut self, challenger: &Challenger, request: &Message, trunk: &str, source: IpAddr) -> Result<(), Wrong> {
        let given = presented(request, challenger.asks, &challenger.realm).ok_or(Wrong::Absent)?;
        let user = challenger.users.iter().find(|u| *u.name == *given.username).ok_or(Wrong::Credentials)?;
        if !given.proves(&user.secret, &challenger.realm, request.method().as_str()) {
            return Err(Wrong::Credentials);
        }
        // RFC 7616 §3.3: only who knows the secret is told that the nonce is stale.
        let (now, life) = (self.cx.now, challenger.nonce_life);
        match check_nonce(&self.cx.key, now.unix.0, life, given.nonce, trunk, source) {
            NonceState::Fresh(nonce) if self.uses.note(now.mono, life, nonce, given.count) => Ok(()),
            _ => Err(Wrong::Nonce),
        }
    }

    fn challenge(&mut self, challenger: &Challenger, back: ReturnPath, request: &Message, trunk: &str, stale: bool) {
        let salt = u64::from(self.cx.local.node.0) << 48 | u64::from(self.cx.local.incarnation.0 & 0xff) << 40 | self.cx.serial();
        let nonce = mint_nonce(&self.cx.key, self.cx.now.unix.0, salt, trunk, back.path.remote.ip());
        let status = challenger.asks.status();
        let mut draft = request.response(status, None);
        let tag = self.cx.stateless_tag(request);
        crate::call::finish_response(&mut draft, request, status, &tag, AGENT);
        for hash in challenger.offered() {
            draft.push(challenger.asks.asks(), our_challenge(&challenger.realm, hash, &nonce, stale));
        }
        crate::call::fill_via(&mut draft, &back);
        if let Some(payload) = self.cx.encode(&draft) {
            self.cx.count(Counter::ResponseSent(4));
            self.cx.send(back, None, payload);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn each_count_serves_once_and_may_come_late() {
        let mut uses = Uses::default();
        let outcomes: Vec<bool> =
            [1, 1, 3, 2, 2, 3, 100, 37, 36, 99, 200, 100, 137].iter().map(|n| uses.note(at(0), LIFE, [1; 16], *n)).collect();
        let expected = [true, false, true, true, false, false, true, true, false, true, true, false, true];
        assert_eq!(outcomes, expected);
        assert!(uses.note(at(0), LIFE, [2; 16], 1), "another nonce");
    }

    #[test]
    fn memory_is_bounded_and_forgets() {
        let mut uses = Uses::default();
        for n in 0..=u32::try_from(MAX_NONCES).unwrap() {
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&n.to_be_bytes());
            assert!(uses.note(at(0), LIFE, nonce, 1));
        }
        assert_eq!(uses.seen.len(), MAX_NONCES);
        uses.sweep(at(599));
        assert_eq!(uses.seen.len(), MAX_NONCES);
        uses.sweep(at(600));
        assert!(uses.seen.is_empty());
    }
}
