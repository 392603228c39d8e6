//! What follows from what the gate says: the answer to what is refused, what is counted, and what is taken of rates.

use super::Sbc;
use super::calls::Calls;
use super::gate::{Admitted, Entrance, Gate, Refusal, Sights, Why, challenge, is_emergency};
use crate::call::Context;
use crate::io::{AuthOutcome, CallOutcome, Counter, DropReason, Path, ReturnPath};
use crate::policy::acl_of;
use crate::routing;
use crate::sip::{Message, Method, Uri};

impl Sbc {
    /// What the gate's checks look at.
    pub(super) fn sights(&self) -> Sights<'_> {
        Sights { cx: &self.cx, gate: &self.gate, calls: &self.calls, subscriptions: &self.subscriptions }
    }

    /// Whether a request that begins something may go on. `None`: it was turned away. `before`: it has been admitted once.
    pub(super) fn admit(&mut self, path: &Path, back: ReturnPath, request: &Message, before: bool) -> Option<Admitted> {
        let (admitted, due) = Entrance::by_path(self.sights(), path, back.ingress, request).admit(before);
        if let Some(taken) = due.taken {
            self.gate.limits.take(&self.cx, taken);
        }
        if let Some(proof) = due.proof {
            self.cx.count(Counter::Auth(AuthOutcome::Accepted));
            self.gate.nonces.note(self.cx.now.mono, proof);
        }
        admitted.map_err(|refusal| self.turn_away(path, back, request, &refusal)).ok()
    }

    /// A request goes no further.
    pub(super) fn turn_away(&mut self, path: &Path, back: ReturnPath, request: &Message, refusal: &Refusal) {
        note(&mut self.cx, &mut self.gate, path, &refusal.why);
        let invite = request.method() == &Method::Invite;
        if invite && refusal.why.rejects_call() {
            self.cx.count(Counter::CallEnded(CallOutcome::Rejected, class_of(&self.cx, request)));
        }
        if let Why::Credentials(wrong) = refusal.why {
            let config = self.cx.config.clone();
            if let Some(trunk) = self.gate.trunk_at(&config, path, back.ingress) {
                challenge(&mut self.cx, back, request, trunk, wrong);
            }
        } else if refusal.status > 0
            && ((invite && refusal.why.is_told_always()) || may_refuse(&mut self.cx, &mut self.gate, &self.calls, &back, request))
        {
            self.cx.reject_with(back, request, refusal.status, &refusal.fields);
        }
    }

    /// Refuses a request without state, as long as its source may be answered.
    pub(super) fn refuse(&mut self, back: ReturnPath, request: &Message, status: u16) {
        if may_refuse(&mut self.cx, &mut self.gate, &self.calls, &back, request) {
            self.cx.reject_stateless(back, request, status);
        }
    }
}

/// A call for help hears what is wrong with it, whatever else its source sent.
fn may_refuse(cx: &mut Context, gate: &mut Gate, calls: &Calls, back: &ReturnPath, request: &Message) -> bool {
    let urgent = request.method() == &Method::Invite && is_emergency(cx, calls, request);
    urgent || gate.limits.may_answer(cx, back)
}

/// Counts a refusal. A scanner's source is blocked for a while.
pub(super) fn note(cx: &mut Context, gate: &mut Gate, path: &Path, why: &Why) {
    match why {
        Why::Denied | Why::Rejected => {
            if let Some((rule, _)) = acl_of(&cx.config.acl, path.role.realm(), path.remote.ip()) {
                cx.count(Counter::Acl(u8::try_from(rule).unwrap_or(u8::MAX)));
            }
        }
        Why::BlockedWhole | Why::Blocked => cx.count(Counter::Dropped(DropReason::Blocked)),
        Why::Scanner => {
            cx.count(Counter::Dropped(DropReason::Scanner));
            gate.bans.ban_scanner(cx, path);
        }
        Why::Limit(limit) => cx.count(Counter::Limited(*limit)),
        Why::Credentials(wrong) => cx.count(Counter::Auth(wrong.outcome())),
        _ => {}
    }
}

/// What a request that began nothing is counted under.
fn class_of(cx: &Context, request: &Message) -> &'static str {
    let uri = Uri::parse(request.request_uri().unwrap_or_default()).ok();
    routing::class_label(uri.and_then(|uri| routing::classify(&cx.config, &uri)).as_deref())
}
