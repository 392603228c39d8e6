//! Loops and spirals (RFC 3261 §16.3, RFC 5393, AC-45): a request of ours that comes back, and breadth that is used up. Max-Forwards is
//! judged in `initial.rs`; it also ends loops through user agents that leave no trace of us.

use super::Sbc;
use crate::call::{BRANCH_COOKIE, LOOP_PARAM};
use crate::sip::{HeaderId, Message, Via};
use crate::token::TokenKind;

/// Vias looked at: a request has no more hops behind it than Max-Forwards lets it have.
const MAX_VIAS: usize = 70;

impl Sbc {
    /// 482 or 440, where an initial request is not to go on.
    pub(super) fn loop_status(&self, request: &Message) -> Option<u16> {
        // RFC 5393 §5.3.3.1: no breadth is left for even one branch.
        if request.number(HeaderId::MaxBreadth) == Some(0) {
            return Some(440);
        }
        self.is_loop(request).then_some(482)
    }

    /// True when this cluster has sent the request before, for the same destination: our Via says for which. Nobody else can mint
    /// its branch. With another destination it is a spiral, which is allowed (RFC 3261 §16.3 step 4).
    fn is_loop(&self, request: &Message) -> bool {
        let cookie = self.cx.loop_cookie(request);
        request.values(HeaderId::Via).take(MAX_VIAS).any(|value| {
            let Ok(via) = Via::parse(value) else { return false };
            via.param(LOOP_PARAM) == Some(&*cookie)
                && via
                    .branch()
                    .and_then(|b| self.cx.key.open(b.get(BRANCH_COOKIE.len()..)?))
                    .is_some_and(|token| token.kind == TokenKind::Branch)
        })
    }
}
