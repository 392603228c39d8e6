//! Who calls us: the challenge of a trunk with `auth = "digest"` (RFC 3261 §22.1, §22.3, RFC 7616, RFC 8760): 401 as a user agent, or 407 as a proxy
//! where it says `auth_as = "proxy"`.
//!
//! The challenge costs no state, no transaction and no claim; its answer may reach another node (AC-29). An emergency call is never
//! challenged unless the trunk says so. Requests within a dialog are not: our tags and tokens in them were given to the caller alone.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Entrance, Refusal, Sights, Why, Wrong};
use crate::auth::{NonceState, check_nonce, mint_nonce, our_challenge, presented};
use crate::call::{Context, fill_via, finish_response};
use crate::io::{Counter, ReturnPath};
use crate::local::AGENT;
use crate::policy::{Challenger, Trunk};
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
pub(in crate::sbc) struct Uses {
    seen: HashMap<[u8; 16], (u32, u64, Instant, Duration)>,
}

impl Uses {
    /// False: this use was there before, or is too far behind.
    fn is_new(&self, nonce: &[u8; 16], count: u32) -> bool {
        self.seen.get(nonce).is_none_or(|(highest, bits, ..)| {
            let behind = highest.saturating_sub(count);
            count > *highest || (behind < WINDOW && *bits & (1 << behind) == 0)
        })
    }

    /// Notes a use.
    pub(in crate::sbc) fn note(&mut self, now: Instant, proof: Proof) {
        let Proof { nonce, count, life } = proof;
        if self.seen.len() >= MAX_NONCES && !self.seen.contains_key(&nonce) {
            return;
        }
        let (highest, bits, ..) = self.seen.entry(nonce).or_insert((0, 0, now, life.min(LONGEST_LIFE)));
        if count > *highest {
            let by = count - *highest;
            *bits = if by >= WINDOW { 0 } else { *bits << by } | 1;
            *highest = count;
        } else if *highest - count < WINDOW {
            *bits |= 1 << (*highest - count);
        }
    }

    /// Forgets nonces that are stale by now. Twice their life: a fast clock elsewhere may have minted them in our future.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.seen.retain(|_, (_, _, since, life)| now.since(*since) < *life * 2);
    }
}

/// A use of one of our nonces, by right credentials.
#[derive(Clone, Copy, Debug)]
pub(in crate::sbc) struct Proof {
    nonce: [u8; 16],
    count: u32,
    life: Duration,
}

/// Its trunk wants a proof of who sent the request, and has none.
pub(super) fn unproved(at: &Entrance<'_>) -> Option<Refusal> {
    Some(Why::Credentials(*at.proof().as_ref().err()?).into())
}

impl Entrance<'_> {
    /// The proof that the request bears; `None`: none is wanted.
    fn proof(&self) -> &Result<Option<Proof>, Wrong> {
        self.proof.get_or_init(|| {
            let trunk = self.trunk();
            let Some((challenger, trunk)) = trunk.and_then(|t| Some((t.auth.challenger.as_ref()?, &t.name))) else {
                return Ok(None);
            };
            match self.source() {
                Some(source) if !self.is_emergency() || challenger.emergency => {
                    verify(self.sights, challenger, self.request, trunk, source).map(Some)
                }
                _ => Ok(None),
            }
        })
    }
}

fn verify(sights: Sights<'_>, challenger: &Challenger, request: &Message, trunk: &str, source: IpAddr) -> Result<Proof, Wrong> {
    let given = presented(request, challenger.asks, &challenger.realm).ok_or(Wrong::Absent)?;
    let user = challenger.users.iter().find(|u| *u.name == *given.username).ok_or(Wrong::Credentials)?;
    if !given.proves(&user.secret, &challenger.realm, request.method().as_str()) {
        return Err(Wrong::Credentials);
    }
    // RFC 7616 §3.3: only who knows the secret is told that the nonce is stale.
    let (cx, life) = (sights.cx, challenger.nonce_life);
    match check_nonce(&cx.key, cx.now.unix.0, life, given.nonce, trunk, source) {
        NonceState::Fresh(nonce) if sights.gate.nonces.is_new(&nonce, given.count) => {
            Ok(Proof { nonce, count: given.count, life })
        }
        _ => Err(Wrong::Nonce),
    }
}

/// Asks who sent a request. Without state: the answer may reach another node.
pub(in crate::sbc) fn challenge(cx: &mut Context, back: ReturnPath, request: &Message, trunk: &Trunk, wrong: Wrong) {
    let Some(challenger) = &trunk.auth.challenger else { return };
    let salt = u64::from(cx.local.node.0) << 48 | u64::from(cx.local.incarnation.0 & 0xff) << 40 | cx.serial();
    let nonce = mint_nonce(&cx.key, cx.now.unix.0, salt, &trunk.name, back.path.remote.ip());
    let status = challenger.asks.status();
    let mut draft = request.response(status, None);
    let tag = cx.stateless_tag(request);
    finish_response(&mut draft, request, status, &tag, AGENT);
    for hash in challenger.offered() {
        draft.push(challenger.asks.asks(), our_challenge(&challenger.realm, hash, &nonce, wrong == Wrong::Nonce));
    }
    fill_via(&mut draft, &back);
    if let Some(payload) = cx.encode(&draft) {
        cx.count(Counter::ResponseSent(4));
        cx.send(back, None, payload);
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
        let mut note = |nonce, count| {
            let new = uses.is_new(&nonce, count);
            uses.note(at(0), Proof { nonce, count, life: LIFE });
            new
        };
        let counts = [1, 1, 3, 2, 2, 3, 100, 37, 36, 99, 200, 100, 137];
        let outcomes: Vec<bool> = counts.iter().map(|n| note([1; 16], *n)).collect();
        let expected = [true, false, true, true, false, false, true, true, false, true, true, false, true];
        assert_eq!(outcomes, expected);
        assert!(note([2; 16], 1), "another nonce");
    }

    #[test]
    fn memory_is_bounded_and_forgets() {
        let mut uses = Uses::default();
        for n in 0..=u32::try_from(MAX_NONCES).unwrap() {
            let mut nonce = [0; 16];
            nonce[..4].copy_from_slice(&n.to_be_bytes());
            assert!(uses.is_new(&nonce, 1));
            uses.note(at(0), Proof { nonce, count: 1, life: LIFE });
        }
        assert_eq!(uses.seen.len(), MAX_NONCES);
        uses.sweep(at(599));
        assert_eq!(uses.seen.len(), MAX_NONCES);
        uses.sweep(at(600));
        assert!(uses.seen.is_empty());
    }
}
