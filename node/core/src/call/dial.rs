//! Where to dial, and the INVITE toward one target after the other.

use std::net::IpAddr;

use super::address::{is_sips, request_uri, to_value};
use super::media::MediaPhase;
use super::services::{LOOP_PARAM, Services};
use super::timer::{CallTimer, Timer};
use super::{Attempt, Call, CallPhase, ClaimState, headers};
use crate::dialog::Dialog;
use crate::ids::ResolveId;
use crate::io::{HostAndPort, Path, Realm, ResolveError, ResolveRequest, ReturnPath, Side, Target, Transport, TransportChoice};
use crate::policy::Topology;
use crate::routing;
use crate::sip::{HeaderId, Message, Method, Scheme, Uri};
use crate::token::ClaimKey;
use crate::transaction::{CallUse, ClientUser, NewRequest, QuestionUser};

/// Targets dialled for one call at the most, over all answers of the DNS.
pub(super) const MAX_ATTEMPTS: usize = 16;

/// RFC 5393 §5.3.3: what a request without Max-Breadth gets.
const MAX_BREADTH: &str = "60";

/// RFC 3261 §18.1.1, path MTU unknown: a larger request of ours goes by TCP, if the trunk leaves the transport open.
pub const DATAGRAM_MAX: usize = 1300;

/// One target of a trunk, not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct Hop {
    pub(super) trunk: Box<str>,
    pub(super) realm: Realm,
    pub(super) host: HostAndPort,
    pub(super) choice: TransportChoice,
    /// The Contact of a 3xx that led here: the Request-URI as it is (RFC 3261 §8.1.3.4).
    pub(super) uri: Option<Box<str>>,
}

impl Hop {
    /// Its address, where no name is to be looked up.
    pub(super) fn literal(&self) -> Option<Target> {
        let ip = self.host.host.parse::<IpAddr>().ok()?;
        let transport = match self.choice {
            TransportChoice::Fixed(t) => t,
            TransportChoice::Secure => Transport::Tls,
            TransportChoice::Any => Transport::Udp,
        };
        let port = self.host.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
        Some(Target { addr: (ip, port).into(), transport })
    }
}

/// One address to dial.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) target: Target,
    pub(super) trunk: Box<str>,
    pub(super) realm: Realm,
    /// What the Request-URI names.
    pub(super) host: Box<str>,
    /// What is done with a request that is too large for a datagram.
    pub(super) large: Large,
    /// The whole Request-URI, where a 3xx named it.
    pub(super) uri: Option<Box<str>>,
    /// The same INVITE with something changed: the leg's identity stays, and the CSeq number goes on (RFC 4028 §7.3).
    pub(super) again: Option<Again>,
}

/// Of an INVITE that goes out again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    /// Which try at its target it was.
    tries: usize,
    /// The CSeq number of the last one.
    cseq: u32,
}

/// UDP and large requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Large {
    /// The transport is as was asked for.
    Stay,
    /// TCP to the same address first.
    ByTcp,
    /// TCP to the same address was tried.
    AfterTcp,
}

impl Call {
    /// Finds the route. A call without one fails in `try_dial`.
    pub(super) fn plan(&mut self, cx: &Services) {
        if let Some(replaced) = &self.replaced {
            self.hops.extend(replaced.hops());
            return;
        }
        let Ok(uri) = Uri::parse(self.invite.request_uri().unwrap_or_default()) else { return };
        let config = cx.config.clone();
        let service = self.emergency_info.as_ref().map(|i| i.service.as_str());
        let Some(route) = routing::route(&config, &uri, service, &self.caller.trunk) else { return };
        let secure = uri.scheme() == Scheme::Sips;
        for (trunk, target) in routing::targets(&config, route) {
            if !routing::carries(target.transport, secure, self.emergency) {
                self.unsecured = true;
                continue;
            }
            self.hops.push_back(Hop {
                trunk: trunk.name.clone(),
                realm: trunk.realm,
                host: target.host.clone(),
                choice: routing::transport_choice(target.transport, secure),
                uri: None,
            });
        }
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
                Some(candidate) if cx.defers(candidate.realm, &candidate.target) => self.deferred.push_back(candidate),
                Some(candidate) => {
                    if self.dial(cx, candidate) {
                        return;
                    }
                }
                None if self.resolving.is_some() => return,
                None if self.hops.is_empty() => {
                    let Some(candidate) = self.deferred.pop_front() else { break };
                    if self.dial(cx, candidate) {
                        return;
                    }
                }
                None => self.look_up_next(cx),
            }
        }
        if self.back_to_the_silent(cx) {
            return;
        }
        let there = self.emergency || self.unsecured;
        let otherwise = routing::unrouted(self.attempts.is_empty() && there);
        self.fail_with_best(cx, otherwise);
    }

    fn look_up_next(&mut self, cx: &mut Services) {
        if !self.candidates.is_empty() || self.resolving.is_some() {
            return;
        }
        let Some(hop) = self.hops.pop_front() else { return };
        match hop.literal() {
            Some(target) => self.add_candidates(&hop, &[target]),
            None => {
                let request = ResolveRequest { target: hop.host.clone(), transport: hop.choice };
                let id = cx.resolve(QuestionUser::Call(self.id), request);
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
                uri: hop.uri.clone(),
                again: None,
                large: if hop.choice == TransportChoice::Any { Large::ByTcp } else { Large::Stay },
            });
        }
    }

    /// The same target by TCP; UDP is next, should that fail. `None`: it is not for this candidate, or TCP failed lately.
    fn by_tcp(&mut self, cx: &mut Services, candidate: &Candidate) -> Option<Candidate> {
        let target = Target { addr: candidate.target.addr, transport: Transport::Tcp };
        if candidate.large != Large::ByTcp || candidate.target.transport != Transport::Udp || cx.defers(candidate.realm, &target)
        {
            return None;
        }
        self.candidates.push_front(Candidate { large: Large::AfterTcp, ..candidate.clone() });
        Some(Candidate { target, large: Large::Stay, ..candidate.clone() })
    }

    /// A target answered by TCP: UDP to it is no alternative any more.
    pub(super) fn tcp_answered(&mut self, path: &Path) {
        self.candidates.retain(|c| c.large != Large::AfterTcp || c.target.addr != path.remote);
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
            self.note_failure(480, None);
        }
        self.try_dial(cx);
    }

    /// Ports or the DNS took too long: on without them.
    pub(super) fn on_prepare_limit(&mut self, cx: &mut Services) {
        // A later target may be on another side than the ports, and wait for others.
        let waits = self.phase == CallPhase::Dialling && self.media.phase == MediaPhase::Opening;
        if self.phase != CallPhase::Preparing && !waits {
            return;
        }
        if self.media.phase == MediaPhase::Opening {
            self.media.on_open_failed();
        }
        if let Some((_, _)) = self.resolving.take() {
            self.note_failure(480, None);
        }
        self.try_dial(cx);
    }

    /// Sends the INVITE to one target. False: it could not even be written.
    fn dial(&mut self, cx: &mut Services, candidate: Candidate) -> bool {
        let Ok(index) = u32::try_from(self.attempts.len()) else { return false };
        if self.waits_for_ports(cx, &candidate) {
            return true;
        }
        cx.stop_timer(&mut self.timers.prepare);
        self.phase = CallPhase::Dialling;
        self.end_forks(cx);
        self.session_ids.forget_callee();
        // Two epochs of identity: a leg dialled beside a dead owner's must not look like that one's. By the exact key, for a caller that
        // tries one node after the other is dialled again each time; copies of one packet are still one request (rule C).
        let (key, epoch) = if self.journal.has_no_key() { (ClaimKey(self.exact), 2) } else { (self.claim_key, 1) };
        let Target { addr, transport } = candidate.target;
        let here = self.attempts.iter().filter(|a| a.path.remote == addr && a.path.transport == transport);
        let tries = candidate.again.map_or_else(|| here.count(), |again| again.tries);
        let identity = cx.key.callee_identity(key, epoch, target_number(&candidate.target, tries));
        let cseq = candidate.again.map_or(identity.cseq, |again| again.cseq + 1);
        let uri = request_uri(&self.invite, &candidate);
        let open = cx.config.trunk(&candidate.trunk).is_some_and(|t| t.topology == Topology::Transparent);
        self.callee.secure = is_sips(&uri);
        let dialog = &mut self.callee.dialog;
        dialog.call_id = if open { self.invite.call_id().into() } else { identity.call_id.into() };
        dialog.local_tag = identity.from_tag.into();
        dialog.local_cseq = cseq - 1;
        dialog.remote_tag = None;
        dialog.route_set.clear();
        dialog.remote_uri = to_value(cx, &self.invite, &uri).into();
        dialog.remote_target = uri.into();
        self.callee.realm = candidate.realm;
        self.callee.trunk = candidate.trunk.clone();
        self.callee.path = cx.path_to(candidate.realm, candidate.target.transport, candidate.target.addr);
        if let Some(replaced) = self.replaced.as_deref().filter(|r| candidate.uri.as_ref() == Some(&r.uri)) {
            self.callee.path = replaced.flow_to(cx, &candidate.target).unwrap_or(self.callee.path);
            self.callee.dialog.route_set = replaced.routes.clone();
        }
        self.callee.tls_name = candidate.host.parse::<IpAddr>().is_err().then(|| candidate.host.clone());
        self.early_target = format!("{}/{}", self.callee.trunk, candidate.target.addr);
        let mut draft = self.callee.dialog.request(&Method::Invite);
        let forwards = headers::next_max_forwards(&self.invite).unwrap_or(70);
        draft.set(HeaderId::MaxForwards, forwards.to_string());
        if self.invite.first(HeaderId::MaxBreadth).is_none() {
            // RFC 5393 §5.3.3: targets are tried one after the other, so that none of it is used up here.
            draft.push(HeaderId::MaxBreadth, MAX_BREADTH);
        }
        draft.push(HeaderId::Contact, self.callee.contact_for(cx, &self.invite));
        headers::copy_through(&self.invite, &mut draft);
        cx.shape(&self.caller.trunk, &self.callee.trunk, &Method::Invite, self.emergency, &mut draft);
        if let Some(replaced) = &self.replaced {
            draft.push(HeaderId::Replaces, replaced.value.as_str());
        }
        if let Some(info) = &self.emergency_info {
            super::emergency::add_ids(info, &self.invite, &mut draft);
        }
        let invite = self.invite.clone();
        self.offer_100rel(cx, &mut draft);
        self.offer_session(cx, Side::Callee, &mut draft);
        self.put_body(cx, Side::Caller, &invite, false, &mut draft);
        let template = self.keep_template();
        let retry = self.first_retry(cx, &mut draft);
        let path = self.callee.path;
        let branch = cx.mint_branch();
        let via = format!("{};{LOOP_PARAM}={}", cx.via(&path, &branch), cx.loop_cookie(&self.invite));
        draft.insert_first(HeaderId::Via, &*via);
        let Some(payload) = cx.encode(&draft) else { return false };
        if payload.len() > DATAGRAM_MAX
            && let Some(by_tcp) = self.by_tcp(cx, &candidate)
        {
            return self.dial(cx, by_tcp);
        }
        let tls_name = self.callee.tls_name.clone();
        let request = NewRequest {
            user: ClientUser::Call { id: self.id, purpose: CallUse::Dial(index) },
            branch: branch.clone().into(),
            invite: true,
            way: ReturnPath::here(path),
            tls_name: tls_name.clone(),
            payload,
        };
        let Some(tx) = cx.send_request(request) else {
            self.note_failure(503, None);
            return false;
        };
        self.ladder.sent(cx.now.unix, self.callee.realm, &ReturnPath::here(path), &draft);
        let failover = cx.config.failover_after(&self.callee.trunk);
        let timer = Some(cx.start_timer(failover, Timer::Call(self.id, CallTimer::Failover(index))));
        self.restart_ring(cx);
        self.await_progress(cx);
        self.attempts.push(Attempt {
            call: self.id,
            index,
            tx,
            dialog: Dialog { local_cseq: cseq, ..self.callee.dialog.clone() },
            uri: self.callee.dialog.remote_target.clone(),
            via,
            branch: branch.into(),
            cseq,
            tries,
            path,
            tls_name,
            candidate,
            template,
            provisional: false,
            rang: false,
            unwanted: false,
            passed_over: false,
            spared: false,
            cancelled: false,
            finished: false,
            timer,
            reason: None,
            session_id: draft.first(HeaderId::SessionId).map(Into::into),
            retry,
        });
        true
    }

    /// The target wants a longer session interval: once more, with it (RFC 4028 §7.3). False: it said nothing of use, or too often.
    pub(super) fn dial_longer(&mut self, at: usize, response: &Message) -> bool {
        let attempt = &self.attempts[at];
        let sent = self.attempts.iter().filter(|a| a.path == attempt.path).count();
        if sent > usize::from(super::session::MAX_RAISES) {
            return false;
        }
        let again = Some(Again { tries: attempt.tries, cseq: attempt.cseq });
        let uri = Some(attempt.uri.clone());
        let candidate = Candidate { uri, again, large: Large::Stay, ..attempt.candidate.clone() };
        if !self.raise_session(Side::Callee, response) {
            return false;
        }
        self.candidates.push_front(candidate);
        true
    }
}

/// The number of a target in the called leg's identity, from 0 tries on. By address, not by place in the list: nodes that hold
/// down different targets, or draw SRV weights differently, dial in different orders, and must still dial the same leg (rule C).
pub fn target_number(target: &Target, tries: usize) -> u32 {
    let text = format!("{}/{}/{tries}", target.transport.via_token(), target.addr);
    // FNV-1a: the same on every node and in every version.
    text.bytes().fold(0x811c_9dc5, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_a_target_is_its_own() {
        let at = |port, transport| Target { addr: ([192, 0, 2, 1], port).into(), transport };
        let number = target_number(&at(5060, Transport::Udp), 0);
        // Nodes of two versions must agree: it never changes.
        assert_eq!(number, 657_454_262);
        let others = [
            target_number(&at(5060, Transport::Udp), 1),
            target_number(&at(5060, Transport::Tcp), 0),
            target_number(&at(5061, Transport::Udp), 0),
        ];
        assert!(!others.contains(&number), "{others:?}");
    }
}
