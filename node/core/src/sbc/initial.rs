//! The first INVITE of a call: admitted, placed by its claim, begun.

use super::Sbc;
use super::held_invites::Waited;
use crate::call::server_key;
use crate::call::{AfterClaim, Call, INVITE_LIFE, MaxForwardsError, NewCall, next_max_forwards};
use crate::ids::{LocalId, NodeId};
use crate::io::{ClaimStage, Counter, Path, PeerMessage, Realm, ReturnPath};
use crate::placement::{self, ClaimPlacement, Facts};
use crate::policy::{IdentityPolicy, Trunk};
use crate::routing;
use crate::sip::{HeaderId, Message, Uri};
use crate::transaction::ServerUser;

impl Sbc {
    /// An INVITE without To-tag that matches no transaction.
    pub(super) fn on_initial_invite(&mut self, path: Path, back: ReturnPath, message: &Message) {
        self.place_invite(path, back, message, Waited::default());
    }

    /// `waited`: what it has behind it, where it is not placed for the first time.
    pub(super) fn place_invite(&mut self, path: Path, back: ReturnPath, message: &Message, waited: Waited) {
        let key = self.cx.key.claim_key(message.call_id(), message.from_tag().unwrap_or_default(), message.cseq());
        let exact = self.exact_key(key, message);
        if self.tombstones.contains(self.cx.now.mono, &exact) {
            self.refuse(back, message, 487);
            return;
        }
        let known = self.calls.of_claim(&key.0).and_then(|id| self.calls.get(id)).filter(|c| !c.is_lost());
        if let Some(id) = known.filter(|c| c.is_ceded() && c.exact == exact).map(|c| c.id) {
            self.on_ceded_copy(id, back, message);
            return;
        }
        let place = match known {
            // The caller tries again where it failed (RFC 3263 §4.3). Its own copies match its transaction, or come too late.
            Some(call) if call.has_failed() && call.exact != exact => ClaimPlacement::Orphan,
            // RFC 3261 §8.2.2.2: the same request by another way.
            Some(_) => ClaimPlacement::Merged,
            None if self.calls.was_here(&key.0, &exact) == Some(true) => ClaimPlacement::Orphan,
            None if self.calls.was_here(&key.0, &exact) == Some(false) => ClaimPlacement::Merged,
            None => self.claim_placement(&key.0, &exact, back.ingress.is_some()),
        };
        let keys = |orphan| NewKeys { key, exact, orphan, admitted: waited.admitted };
        match place {
            ClaimPlacement::Peer(node) => self.relay(node, path, back.ingress, message),
            // The very packet, and its transaction is over: whoever sent it has heard, and a second answer is one too many.
            ClaimPlacement::Merged if self.calls.is_copy(&self.cx, &key.0, &exact) => {
                self.cx.count(Counter::Misrouted("INVITE", "stale"));
            }
            // A rival that has yielded to a call which has ceded itself: neither way is refused before the log has decided.
            ClaimPlacement::Merged if back.ingress.is_some() && known.is_some_and(Call::is_ceded) => {
                self.cx.count(Counter::Dropped("quiet_copy"));
            }
            ClaimPlacement::Merged => {
                self.cx.count(Counter::Claim("merged"));
                let yielded = known.filter(|call| back.ingress.is_some() && call.stage() < ClaimStage::Won).map(|call| call.id);
                self.refuse(back, message, 482);
                if let Some(id) = yielded {
                    // Its call must not come back, should the log give it the key: its caller has its answer, and this call's has none.
                    self.with_call(id, |call, cx| call.on_rival_refused(cx));
                    self.cx.tell_peers(&PeerMessage::Cancelled { key: key.0, exact });
                }
            }
            // A peer that says "yours" about something this node has not: its copy is not the first one.
            ClaimPlacement::New | ClaimPlacement::Unsure if back.ingress.is_some() => {
                self.cx.count(Counter::Misrouted("INVITE", "stale"));
            }
            ClaimPlacement::Unsure => {
                if !self.hold_invite(exact, path, back, message, waited) {
                    self.begin_call(path, back, message, keys(true));
                }
            }
            ClaimPlacement::New => self.begin_call(path, back, message, keys(false)),
            ClaimPlacement::Orphan => self.begin_call(path, back, message, keys(true)),
        }
    }

    /// A copy of an INVITE whose called side another node has: from that node it says "yours", from the caller it says nothing.
    fn on_ceded_copy(&mut self, id: LocalId, back: ReturnPath, message: &Message) {
        if back.ingress.is_none() {
            self.cx.count(Counter::Dropped("quiet_copy"));
            return;
        }
        let key = server_key(message, message.method());
        if self.calls.get(id).is_none_or(|call| call.is_over() || call.is_old(&self.cx)) {
            self.cx.count(Counter::Misrouted("INVITE", "stale"));
            return;
        }
        let Some(tx) = self.cx.create_server(ServerUser::Call(id), key, true, back) else { return };
        self.cx.respond(tx, &mut message.response(100, None));
        self.with_call(id, |call, cx| call.on_handed_over(cx, tx, back));
    }

    fn begin_call(&mut self, path: Path, back: ReturnPath, message: &Message, keys: NewKeys) {
        if self.cx.now.mono.since(self.cx.arrived) >= INVITE_LIFE {
            // Its sender has given up (AC-55): what it would be told, it would not hear.
            self.cx.count(Counter::Dropped("old_invite"));
            return;
        }
        let admitted = match self.admit(&path, back.ingress, message, keys.admitted) {
            Ok(admitted) => admitted,
            Err(status) => {
                self.cx.count(Counter::CallEnded("rejected", self.class_of(message)));
                match status {
                    // Whoever is over a limit is told when to come back.
                    503 => self.cx.reject_stateless(back, message, status),
                    _ => self.refuse(back, message, status),
                }
                return;
            }
        };
        let emergency = admitted.service.is_some();
        if !emergency && crate::call::asks_too_little(message) {
            // RFC 4028 §9. An emergency call is taken with whatever it asks for.
            self.cx.reject_with(back, message, 422, &[("Min-SE", crate::call::MIN_SE.to_string())]);
            return;
        }
        if !emergency && self.refuses_body(back, message) {
            return;
        }
        if !self.authenticate(back, message, &admitted.trunk, emergency) {
            return;
        }
        // An emergency call is not refused for a dialog that is not there.
        let replaced = match self.replaced(message) {
            Err(status) if !emergency => {
                self.cx.reject_stateless(back, message, status);
                return;
            }
            replaced => replaced.unwrap_or_default(),
        };
        let toward = admitted.service.as_deref().and_then(|s| self.crowd_of(&admitted.trunk, Some(s), message));
        if let Some(trunk) = &toward
            && !self.makes_room(trunk, keys.exact, path, back, message)
        {
            return;
        }
        let id = self.cx.local_id();
        let key = server_key(message, message.method());
        let Some(tx) = self.cx.create_server(ServerUser::Call(id), key, true, back) else {
            self.cx.reject_stateless(back, message, 503);
            return;
        };
        self.cx.count(Counter::CallReceived(routing::class_label(admitted.service.as_deref())));
        // RFC 3261 §17.2.1: at once, for the claim and the DNS take their time.
        self.cx.respond(tx, &mut message.response(100, None));
        let call = Call::begin(
            &mut self.cx,
            NewCall {
                id,
                invite: message.clone(),
                tx: Some(tx),
                back,
                trunk: admitted.trunk,
                service: admitted.service,
                claim_key: keys.key,
                exact: keys.exact,
                orphan: keys.orphan,
                replaced,
            },
        );
        if let Some(trunk) = toward {
            self.crowds.enter(id, trunk, path.remote.ip());
        }
        self.calls.insert(&self.cx, call);
        self.with_call(id, |_, _| ());
        // A CANCEL that overtook it.
        self.release_holds(&keys.key.0, self.cx.local.node);
    }

    /// The trunk that a packet came from. What a connection of another node has proved is that node's to judge.
    pub(super) fn trunk_at(&self, path: &Path, ingress: Option<NodeId>) -> Option<&Trunk> {
        let proved = path.flow.and_then(|flow| self.proved.get(&flow)).map_or(&[][..], |names| names);
        let proved = ingress.is_none().then_some(proved);
        routing::trunk_of(&self.cx.config, path.role.realm(), path.remote.ip(), proved)
    }

    /// `before`: it was admitted once, and no limit counts it again.
    pub(super) fn admit(
        &mut self,
        path: &Path,
        ingress: Option<NodeId>,
        message: &Message,
        before: bool,
    ) -> Result<Admitted, u16> {
        if let Some(status) = hops_status(message).or_else(|| self.loop_status(message)) {
            return Err(status);
        }
        let uri = Uri::parse(message.request_uri().unwrap_or_default()).map_err(|_| 400u16)?;
        let (config, realm) = (&self.cx.config, path.role.realm());
        let entered = routing::enter(config, &uri, || self.trunk_at(path, ingress));
        let routing::Entry { trunk, service } = entered.map_err(routing::Refusal::status)?;
        let service = service.or_else(|| self.replaced_service(message));
        let emergency = service.is_some();
        // An emergency call is not refused for the way that its phone or proxy thought out for it (RFC 6881, 3GPP TS 24.229: Routes to the
        // ESRP and beyond): the configuration routes it, its Routes are left behind, so nothing is relayed for strangers.
        if !emergency && !self.routes_are_ours(message) {
            return Err(403);
        }
        let prior = has_priority(trunk, realm, message);
        let trunk = trunk.name.clone();
        if prior || before {
            return Ok(Admitted { trunk, service });
        }
        if let Some(limit) = self.over_limit(&trunk, path.remote.ip(), emergency) {
            self.cx.count(Counter::Limited(limit));
            return Err(503);
        }
        Ok(Admitted { trunk, service })
    }

    /// True when no Route of a request leads elsewhere (AC-35).
    pub(super) fn routes_are_ours(&self, message: &Message) -> bool {
        placement::routes_are_ours(&self.cx.local, &self.cx.view, &self.cx.config.settings.own_names, message)
    }

    pub(super) fn exact_key(&self, key: crate::token::ClaimKey, message: &Message) -> [u8; 16] {
        let via = message.top_via();
        self.cx.key.exact_key(key, &via.sent_by(), via.branch().unwrap_or_default())
    }

    fn claim_placement(&self, key: &[u8; 16], exact: &[u8; 16], relayed: bool) -> ClaimPlacement {
        let replica = self.cx.replica.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let facts = Facts { local: &self.cx.local, view: &self.cx.view, replica: &replica, now: self.cx.now.mono, relayed };
        placement::of_claim(&facts, key, exact)
    }

    /// A call of this node turned out to be another node's, or another call: goes there, and is forgotten here.
    pub(super) fn after_claim(&mut self, id: LocalId, after: AfterClaim) {
        if !matches!(after, AfterClaim::RelayTo(_) | AfterClaim::Hold) {
            return;
        }
        let Some(call) = self.calls.get(id) else { return };
        let (back, exact, invite) = (call.back, call.exact, call.invite.clone());
        self.cx.arrived = call.arrived;
        match after {
            AfterClaim::RelayTo(node) => self.relay(node, back.path, back.ingress, &invite),
            _ if back.ingress.is_some() => self.cx.count(Counter::Misrouted("INVITE", "stale")),
            _ => _ = self.hold_invite(exact, back.path, back, &invite, Waited { until: None, admitted: true }),
        }
    }
}

/// 483 or 400, where Max-Forwards lets a request go no further or says nothing.
pub(super) fn hops_status(message: &Message) -> Option<u16> {
    match next_max_forwards(message) {
        Err(MaxForwardsError::Exhausted) => Some(483),
        Err(MaxForwardsError::Malformed) => Some(400),
        Ok(_) => None,
    }
}

/// True for an ordinary call that is no less urgent than an emergency call, by the word of a core-side trunk whose word counts: a PSAP that
/// calls back (RFC 7090 §5), and what this network's emergency services mark as theirs (RFC 7135).
fn has_priority(trunk: &Trunk, realm: Realm, message: &Message) -> bool {
    let psap = || message.first_named("Priority").is_some_and(|v| v.trim().eq_ignore_ascii_case("psap-callback"));
    let esnet = |v: &str| v.trim().get(..6).is_some_and(|namespace| namespace.eq_ignore_ascii_case("esnet."));
    let trusted = realm == Realm::Core && trunk.identity == IdentityPolicy::Trust;
    trusted && (psap() || message.values(HeaderId::ResourcePriority).any(esnet))
}

struct NewKeys {
    key: crate::token::ClaimKey,
    exact: [u8; 16],
    orphan: bool,
    admitted: bool,
}

pub(super) struct Admitted {
    pub(super) trunk: Box<str>,
    pub(super) service: Option<Box<str>>,
}
