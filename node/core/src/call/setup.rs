//! From the caller's INVITE to the first packet toward the called side: claim, ports and targets, all at once.

use std::net::IpAddr;
use std::time::Duration;

use super::leg::{Leg, arrival};
use super::media::{CallMedia, MediaPhase};
use super::services::{ClientUse, Services};
use super::timer::{CallTimer, Timer};
use super::{AfterClaim, Attempt, Call, CallPhase, CallTimers, Cause, ClaimState, body, headers};
use crate::dialog::{Dialog, without_tag};
use crate::ids::{CallUid, NodeId, ResolveId};
use crate::io::{Counter, HostAndPort, Realm, ResolveError, ResolveRequest, ReturnPath, Side, Target, TransportChoice};
use crate::routing;
use crate::sip::{HeaderId, Message, Method, NameAddr, Scheme, Sdp, Uri};
use crate::store_pb::{self, command::Kind};
use crate::token::{ClaimKey, OwnerToken, TokenKind};
use crate::transaction::ServerTxId;

/// Longest wait for ports or the DNS before a call is given up or goes on without: the DNS asks for at most 3 s.
const PREPARE_LIMIT: Duration = Duration::from_secs(4);
/// Targets dialled for one call at the most, over all answers of the DNS.
const MAX_ATTEMPTS: usize = 16;

/// One target of a trunk, not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    trunk: Box<str>,
    realm: Realm,
    host: HostAndPort,
    choice: TransportChoice,
}

/// One address to dial.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    target: Target,
    trunk: Box<str>,
    realm: Realm,
    /// What the Request-URI names.
    host: Box<str>,
}

/// What a new call is made of.
pub struct NewCall {
    /// Its number on this node.
    pub serial: u64,
    /// The INVITE.
    pub invite: Message,
    /// Its transaction; 100 was sent.
    pub tx: ServerTxId,
    /// Its way back.
    pub back: ReturnPath,
    /// The trunk it came from.
    pub trunk: Box<str>,
    /// Its class.
    pub emergency: bool,
    /// Its claim key.
    pub claim_key: ClaimKey,
    /// Its exact key.
    pub exact: [u8; 16],
    /// A dead node holds the claim: claim nothing, and use another identity toward the called side.
    pub orphan: bool,
}

impl Call {
    /// Begins a call: claims it, asks for ports and for its first target.
    pub fn begin(cx: &mut Services, new: NewCall) -> Call {
        let mut call = Call::make(cx, new);
        call.ladder.received(cx.now.unix, call.caller.realm, &call.back, &call.invite);
        call.plan(cx);
        if call.claim == ClaimState::Late {
            // A dead node's call holds the claim.
            call.journal.abandon();
        }
        if call.claim == ClaimState::Pending {
            let claim = call.claim_record();
            call.journal.push(cx, call.serial, Kind::Claim(claim));
            let budget = cx.config.settings.claim_budget;
            call.timers.claim = Some(cx.start_timer(budget, Timer::Call(call.serial, CallTimer::ClaimBudget)));
        }
        let streams = call.offered_streams();
        call.media.ensure(cx, streams);
        call.timers.prepare = Some(cx.start_timer(PREPARE_LIMIT, Timer::Call(call.serial, CallTimer::Prepare)));
        call.try_dial(cx);
        call
    }

    fn make(cx: &mut Services, new: NewCall) -> Call {
        let uid = cx.own_uid(new.serial);
        let token = |kind| cx.key.seal(OwnerToken { kind, uid }).into_boxed_str();
        let (caller_token, callee_token) = (token(TokenKind::CallerLeg), token(TokenKind::CalleeLeg));
        let realm = new.back.path.role.realm();
        let caller = Leg {
            side: Side::Caller,
            realm,
            dialog: Dialog::from_request(&new.invite, &caller_token),
            path: new.back.path,
            ingress: new.back.ingress,
            tls_name: None,
            contact_token: caller_token,
            trunk: new.trunk.clone(),
            sdp_id: sdp_id(uid, 0),
            sdp_version: 0,
            local_sdp: Default::default(),
            remote_sdp: Default::default(),
            pending_2xx: None,
            inviting: false,
            gone: false,
        };
        let callee_realm = if realm == Realm::External { Realm::Core } else { Realm::External };
        let callee_dialog = Dialog {
            call_id: "".into(),
            local_tag: "".into(),
            remote_tag: None,
            local_uri: without_tag(new.invite.from()).into(),
            remote_uri: without_tag(new.invite.to()).into(),
            remote_target: "".into(),
            route_set: Vec::new(),
            local_cseq: 0,
            remote_cseq: None,
        };
        let callee = Leg {
            side: Side::Callee,
            realm: callee_realm,
            dialog: callee_dialog,
            path: cx.path_to(callee_realm, crate::io::Transport::Udp, (IpAddr::from([0, 0, 0, 0]), 0).into()),
            ingress: None,
            tls_name: None,
            contact_token: callee_token,
            trunk: "".into(),
            sdp_id: sdp_id(uid, 1),
            sdp_version: 0,
            local_sdp: Default::default(),
            remote_sdp: Default::default(),
            pending_2xx: None,
            inviting: false,
            gone: false,
        };
        Call {
            serial: new.serial,
            uid,
            claim_key: new.claim_key,
            exact: new.exact,
            emergency: new.emergency,
            phase: CallPhase::Preparing,
            claim: if new.orphan { ClaimState::Late } else { ClaimState::Pending },
            media: CallMedia::new(cx, [realm, callee_realm]),
            invite: new.invite,
            caller,
            callee,
            ladder: Default::default(),
            invite_tx: Some(new.tx),
            back: new.back,
            hops: Default::default(),
            candidates: Default::default(),
            resolving: None,
            attempts: Vec::new(),
            forwards: Vec::new(),
            sends: Vec::new(),
            journal: Default::default(),
            last_failure: None,
            ringing: false,
            quiet: false,
            twin_yielded: false,
            early_target: String::new(),
            acks: Vec::new(),
            bye_when_acked: None,
            held_answer: None,
            end: None,
            ended_in_log: false,
            timers: CallTimers::default(),
        }
    }

    /// Finds the route. A call without one fails in `try_dial`.
    fn plan(&mut self, cx: &Services) {
        let Ok(uri) = Uri::parse(self.invite.request_uri().unwrap_or_default()) else { return };
        let config = cx.config.clone();
        let Some(route) = routing::route(&config, &uri, self.emergency, &self.caller.trunk) else { return };
        for (trunk, target) in routing::targets(&config, route) {
            self.hops.push_back(Hop {
                trunk: trunk.name.clone(),
                realm: trunk.realm,
                host: target.host.clone(),
                choice: routing::transport_choice(target.transport, uri.scheme() == Scheme::Sips),
            });
        }
    }

    fn offered_streams(&self) -> usize {
        let lines = body::find_sdp(&self.invite)
            .and_then(|span| Sdp::parse(&body::sdp_bytes(&self.invite, &span)).ok())
            .map_or(0, |sdp| sdp.media().len());
        // A delayed offer nearly always has one stream: have it ready.
        lines.max(1)
    }

    fn claim_record(&self) -> store_pb::Claim {
        let parse = |value: &str| NameAddr::parse(value).ok();
        let (from, to) = (parse(self.invite.from()), parse(self.invite.to()));
        store_pb::Claim {
            key: self.claim_key.0.to_vec().into(),
            exact: self.exact.to_vec().into(),
            call: self.uid.to_bytes().to_vec().into(),
            owner: u32::from(self.uid.node.0),
            epoch: 1,
            emergency: self.emergency,
            invite: self.invite.raw().clone(),
            arrival: Some(arrival(&self.back.path, self.back.ingress.or(Some(self.uid.node)))),
            trunk: self.caller.trunk.to_string(),
            parties: Some(store_pb::CallParties {
                from_uri: from.as_ref().map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                from_display: from.and_then(|n| n.display).unwrap_or_default(),
                to_uri: to.map(|n| n.uri.as_str().to_owned()).unwrap_or_default(),
                request_uri: self.invite.request_uri().unwrap_or_default().to_owned(),
                call_id: self.invite.call_id().to_owned(),
                asserted_identity: self.invite.first(HeaderId::PAssertedIdentity).unwrap_or_default().to_owned(),
            }),
        }
    }

    /// The log decided the claim.
    pub fn on_claimed(&mut self, cx: &mut Services, won: bool, winner: CallUid, winner_owner: NodeId, exact: bool) -> AfterClaim {
        cx.stop_timer(&mut self.timers.claim);
        if won {
            if self.claim == ClaimState::Pending {
                cx.count(Counter::Claim("won"));
                self.claim = ClaimState::Won;
                self.try_dial(cx);
            } else if self.claim == ClaimState::Late {
                cx.count(Counter::Claim("late_won"));
                self.claim = ClaimState::Won;
            }
            return AfterClaim::Nothing;
        }
        if winner == self.uid {
            return AfterClaim::Nothing;
        }
        match self.phase {
            CallPhase::Preparing if exact && !cx.reachable_peer(winner_owner) && winner_owner != cx.local.node => {
                // Its owner is dead: the caller must not pay for it.
                cx.count(Counter::Claim("orphaned"));
                self.journal.abandon();
                self.go_degraded(cx);
                AfterClaim::Nothing
            }
            CallPhase::Preparing if exact => {
                cx.count(Counter::Claim("lost"));
                self.lose(cx);
                AfterClaim::RelayTo(winner_owner)
            }
            CallPhase::Preparing => {
                // RFC 3261 §8.2.2.2, also across nodes (AC-28).
                cx.count(Counter::Claim("merged"));
                self.refuse(cx, 482);
                self.lose(cx);
                AfterClaim::Merged
            }
            CallPhase::Dialling => {
                cx.count(Counter::Claim("late_lost"));
                self.lose(cx);
                AfterClaim::RelayTo(winner_owner)
            }
            // Answered here: the far ends talk through this node, whatever the log says.
            CallPhase::Answered | CallPhase::Over => {
                self.journal.abandon();
                AfterClaim::Nothing
            }
        }
    }

    /// Another node answers the caller. The claim may still turn out to be this call's: it is kept until the log has decided,
    /// that node yields, or the ring timeout ends it.
    pub(super) fn fall_quiet(&mut self, cx: &mut Services) {
        self.quiet = true;
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        if self.timers.ring.is_none() {
            let ring = cx.config.settings.ring_timeout;
            self.timers.ring = Some(cx.start_timer(ring, Timer::Call(self.serial, CallTimer::Ring)));
        }
    }

    /// A peer says that it has this call, and the log cannot tell (AC-03).
    pub fn on_peer_has_it(&mut self, cx: &mut Services) -> bool {
        if self.quiet || self.phase != CallPhase::Preparing || self.claim != ClaimState::Pending {
            return false;
        }
        cx.count(Counter::Claim("lost"));
        self.fall_quiet(cx);
        true
    }

    /// The budget is spent.
    pub(super) fn on_claim_budget(&mut self, cx: &mut Services) {
        if self.claim == ClaimState::Pending {
            cx.count(Counter::Claim("late"));
            self.go_degraded(cx);
        }
    }

    /// A proposal of this call failed.
    pub fn on_propose_failed(&mut self, cx: &mut Services) {
        self.journal.on_failed(cx, self.serial, self.uid);
        if self.claim == ClaimState::Pending {
            cx.stop_timer(&mut self.timers.claim);
            cx.count(Counter::Claim("failed"));
            self.go_degraded(cx);
        }
    }

    /// An emergency call is never held for the store's sake (rule B).
    fn go_degraded(&mut self, cx: &mut Services) {
        cx.stop_timer(&mut self.timers.claim);
        cx.count(Counter::Degraded);
        self.claim = ClaimState::Late;
        self.journal.set_degraded();
        self.try_dial(cx);
    }

    /// Another node has the call: nothing more is said to either side from here.
    fn lose(&mut self, cx: &mut Services) {
        self.claim = ClaimState::Lost;
        self.journal.abandon();
        if let Some(tx) = self.invite_tx.take() {
            cx.server_use.remove(&tx);
            cx.tx.drop_server(tx);
        }
        for attempt in &mut self.attempts {
            attempt.cancel(cx, None);
        }
        self.caller.gone = true;
        self.callee.gone = true;
        self.ended_in_log = true;
        self.finish(cx, Cause { origin: "node", status: 482, reason: "another node has the call".into() });
    }

    /// The node that had the called side yields, for the claim is this call's: dials the same target again, as another leg.
    pub fn resume(&mut self, cx: &mut Services, tx: ServerTxId, back: ReturnPath) {
        self.quiet = false;
        self.invite_tx = Some(tx);
        self.back = back;
        self.redial(cx);
    }

    /// The last target once more, as another leg.
    pub(super) fn redial(&mut self, cx: &mut Services) {
        if let Some(last) = self.attempts.last() {
            let host = last.tls_name.clone().unwrap_or_else(|| last.path.remote.ip().to_string().into());
            let target = Target { addr: last.path.remote, transport: last.path.transport };
            let (trunk, realm) = (self.callee.trunk.clone(), self.callee.realm);
            self.candidates.push_front(Candidate { target, trunk, realm, host });
        }
        self.try_dial(cx);
    }

    /// Dials the next target, once claim and ports are decided.
    pub(super) fn try_dial(&mut self, cx: &mut Services) {
        let ready = matches!(self.phase, CallPhase::Preparing | CallPhase::Dialling)
            && !self.quiet
            && self.claim != ClaimState::Pending
            && self.media.phase != MediaPhase::Opening
            && self.attempts.iter().all(|a| a.finished || a.unwanted);
        if !ready {
            // The DNS need not wait for the rest.
            if self.phase == CallPhase::Preparing {
                self.look_up_next(cx);
            }
            return;
        }
        while self.attempts.len() < MAX_ATTEMPTS {
            match self.candidates.pop_front() {
                Some(candidate) => {
                    if self.dial(cx, candidate) {
                        return;
                    }
                }
                None if self.resolving.is_some() => return,
                None if self.hops.is_empty() => break,
                None => self.look_up_next(cx),
            }
        }
        let status = self.last_failure.unwrap_or(if self.attempts.is_empty() && self.emergency { 480 } else { 404 });
        self.fail(cx, status, "no target");
    }

    /// True when another target could be tried.
    pub(super) fn has_alternative(&self) -> bool {
        self.attempts.len() < MAX_ATTEMPTS && (!self.candidates.is_empty() || !self.hops.is_empty() || self.resolving.is_some())
    }

    fn look_up_next(&mut self, cx: &mut Services) {
        if !self.candidates.is_empty() || self.resolving.is_some() {
            return;
        }
        let Some(hop) = self.hops.pop_front() else { return };
        match hop.host.host.parse::<IpAddr>() {
            Ok(ip) => {
                let transport = match hop.choice {
                    TransportChoice::Fixed(t) => t,
                    TransportChoice::Secure => crate::io::Transport::Tls,
                    TransportChoice::Any => crate::io::Transport::Udp,
                };
                let port = hop.host.port.unwrap_or(if transport == crate::io::Transport::Tls { 5061 } else { 5060 });
                self.add_candidates(&hop, &[Target { addr: (ip, port).into(), transport }]);
            }
            Err(_) => {
                let request = ResolveRequest { target: hop.host.clone(), transport: hop.choice };
                let id = cx.resolve(self.serial, request);
                self.resolving = Some((id, hop));
            }
        }
    }

    fn add_candidates(&mut self, hop: &Hop, targets: &[Target]) {
        for target in targets.iter().take(MAX_ATTEMPTS) {
            self.candidates.push_back(Candidate {
                target: target.clone(),
                trunk: hop.trunk.clone(),
                realm: hop.realm,
                host: hop.host.host.clone(),
            });
        }
    }

    /// The DNS answered.
    pub fn on_resolved(&mut self, cx: &mut Services, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        if self.on_send_resolved(cx, id, &result) {
            return;
        }
        let Some((_, hop)) = self.resolving.take_if(|(r, _)| *r == id) else { return };
        if let Ok(targets) = result {
            self.add_candidates(&hop, &targets);
        } else {
            self.last_failure.get_or_insert(480);
        }
        self.try_dial(cx);
    }

    /// Ports or the DNS took too long: on without them.
    pub(super) fn on_prepare_limit(&mut self, cx: &mut Services) {
        if self.phase != CallPhase::Preparing {
            return;
        }
        if self.media.phase == MediaPhase::Opening {
            self.media.on_open_failed();
        }
        if let Some((_, _)) = self.resolving.take() {
            self.last_failure.get_or_insert(480);
        }
        self.try_dial(cx);
    }

    /// Sends the INVITE to one target. False: it could not even be written.
    fn dial(&mut self, cx: &mut Services, candidate: Candidate) -> bool {
        let Ok(index) = u32::try_from(self.attempts.len()) else { return false };
        cx.stop_timer(&mut self.timers.prepare);
        self.phase = CallPhase::Dialling;
        // Two epochs of identity: a leg dialled beside a dead owner's must not look like that one's.
        let epoch = if self.journal.is_abandoned() { 2 } else { 1 };
        let identity = cx.key.callee_identity(self.claim_key, epoch, index);
        let uri = request_uri(&self.invite, &candidate);
        let dialog = &mut self.callee.dialog;
        dialog.call_id = identity.call_id.into();
        dialog.local_tag = identity.from_tag.into();
        dialog.local_cseq = identity.cseq - 1;
        dialog.remote_tag = None;
        dialog.route_set.clear();
        dialog.remote_uri = to_value(cx, &self.invite, &uri).into();
        dialog.remote_target = uri.into();
        self.callee.realm = candidate.realm;
        self.callee.trunk = candidate.trunk;
        self.callee.path = cx.path_to(candidate.realm, candidate.target.transport, candidate.target.addr);
        self.callee.tls_name = candidate.host.parse::<IpAddr>().is_err().then(|| candidate.host.clone());
        self.early_target = format!("{}/{}", self.callee.trunk, candidate.target.addr);
        let mut draft = self.callee.dialog.request(&Method::Invite);
        let forwards = headers::next_max_forwards(&self.invite).unwrap_or(70);
        draft.set(HeaderId::MaxForwards, forwards.to_string());
        draft.push(HeaderId::Contact, self.callee.contact(cx));
        headers::copy_through(&self.invite, &mut draft);
        let invite = self.invite.clone();
        self.put_body(cx, Side::Caller, &invite, &mut draft);
        let path = self.callee.path;
        let branch = cx.mint_branch();
        let via = cx.via(&path, &branch);
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return false };
        let tls_name = self.callee.tls_name.clone();
        let Some(tx) = cx.tx.send_request(cx.now.mono, branch.clone().into(), true, path, tls_name.clone(), payload) else {
            self.last_failure = Some(503);
            return false;
        };
        self.ladder.sent(cx.now.unix, self.callee.realm, &ReturnPath { ingress: None, path }, &draft);
        cx.client_use.insert(tx, (self.serial, ClientUse::Dial(index)));
        let failover = cx.config.settings.failover_after;
        let timer = Some(cx.start_timer(failover, Timer::Call(self.serial, CallTimer::Failover(index))));
        if self.timers.ring.is_none() {
            let ring = cx.config.settings.ring_timeout;
            self.timers.ring = Some(cx.start_timer(ring, Timer::Call(self.serial, CallTimer::Ring)));
        }
        self.attempts.push(Attempt {
            call: self.serial,
            index,
            tx,
            dialog: Dialog { local_cseq: identity.cseq, ..self.callee.dialog.clone() },
            uri: self.callee.dialog.remote_target.clone(),
            via,
            branch: branch.into(),
            cseq: identity.cseq,
            path,
            tls_name,
            provisional: false,
            unwanted: false,
            cancelled: false,
            finished: false,
            timer,
        });
        true
    }

    /// The target has been silent for too long: the next one, if there is one.
    pub(super) fn on_failover(&mut self, cx: &mut Services, index: u32) {
        if !self.has_alternative() {
            return;
        }
        let Some(attempt) = self.attempts.iter_mut().find(|a| a.index == index) else { return };
        attempt.timer = None;
        if attempt.provisional || attempt.finished || attempt.unwanted {
            return;
        }
        attempt.unwanted = true;
        let tx = attempt.tx;
        cx.tx.stop_retransmitting(tx);
        self.last_failure = Some(480);
        self.try_dial(cx);
    }
}

/// The Request-URI toward a target: the number or name as dialled, at the target's host; other schemes as they are.
fn request_uri(invite: &Message, candidate: &Candidate) -> String {
    let text = invite.request_uri().unwrap_or_default();
    let Ok(uri) = Uri::parse(text) else { return text.to_owned() };
    if !matches!(uri.scheme(), Scheme::Sip | Scheme::Sips) {
        return text.to_owned();
    }
    let scheme = if uri.scheme() == Scheme::Sips { "sips" } else { "sip" };
    let user = uri.user().map(|u| format!("{u}@")).unwrap_or_default();
    let host = match candidate.host.parse::<IpAddr>() {
        Ok(_) => candidate.target.addr.to_string(),
        Err(_) => candidate.host.to_string(),
    };
    let phone = if uri.param("user").is_some_and(|v| v.eq_ignore_ascii_case("phone")) { ";user=phone" } else { "" };
    format!("{scheme}:{user}{host}{phone}")
}

/// The To value toward a target. A caller that dials our own address names it there; the called side must not see it.
fn to_value(cx: &Services, invite: &Message, uri: &str) -> String {
    let as_received = without_tag(invite.to());
    let Ok(to) = NameAddr::parse(&as_received) else { return as_received };
    let Some(ip) = to.uri.host_ip().map(|ip| ip.to_canonical()) else { return as_received };
    let local = &cx.local;
    let ours = [local.anycast, local.unicast, local.core].iter().any(|own| own.to_canonical() == ip)
        || cx.view.nodes.iter().any(|n| n.unicast.to_canonical() == ip || n.core.to_canonical() == ip);
    match (ours, &to.display) {
        (false, _) => as_received,
        (true, Some(display)) => format!("{} <{uri}>", crate::sip::quote(display)),
        (true, None) => format!("<{uri}>"),
    }
}

/// A session id for `o=` lines: unique by call and side, and within the 62 bits that every parser takes.
fn sdp_id(uid: CallUid, side: u64) -> u64 {
    (u64::from(uid.node.0) << 46 | (uid.serial & 0x1f_ffff_ffff) << 8 | u64::from(uid.incarnation.0 & 0x7f) << 1 | side)
        & ((1 << 62) - 1)
}
