//! The targets of a request, one after the other (RFC 3263 §4.3): one name looked up at a time, those that failed lately last, by TCP first
//! what is too large for a datagram (RFC 3261 §18.1.1). Calls and messages walk the same way; each sends in its own.
//!
//! What it keeps true: no more targets are tried than the limit says, whatever the DNS answers; none is left out for having failed; UDP is
//! no alternative for a target that has answered by TCP.

mod attempt;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

pub use attempt::{AttemptEvent, AttemptState};

use crate::ids::ResolveId;
use crate::io::{HostAndPort, Realm, ResolveRequest, Target, Transport, TransportChoice};

/// One target of a trunk, not looked up yet.
#[derive(Clone, Debug)]
pub struct Hop {
    /// The trunk.
    pub trunk: Box<str>,
    /// The side that it is on.
    pub realm: Realm,
    /// An address, or a name to look up.
    pub host: HostAndPort,
    /// What its URI and its trunk say of the transport.
    pub choice: TransportChoice,
    /// The Contact of a 3xx that led here: the Request-URI as it is (RFC 3261 §8.1.3.4).
    pub uri: Option<Box<str>>,
}

impl Hop {
    /// Its address, where no name is to be looked up (RFC 3263 §4.2).
    pub fn literal(&self) -> Option<Target> {
        let ip = self.host.host.parse::<IpAddr>().ok()?;
        let transport = match self.choice {
            TransportChoice::Fixed(t) => t,
            TransportChoice::Secure => Transport::Tls,
            TransportChoice::Any => Transport::Udp,
        };
        let port = self.host.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
        Some(Target { addr: (ip, port).into(), transport })
    }

    /// The question whose answer are its addresses.
    pub fn question(&self) -> ResolveRequest {
        ResolveRequest { target: self.host.clone(), transport: self.choice }
    }
}

/// One address to try.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where.
    pub target: Target,
    /// Of which trunk.
    pub trunk: Box<str>,
    /// On which side.
    pub realm: Realm,
    /// What the Request-URI names.
    pub host: Box<str>,
    /// What is done with a request that is too large for a datagram.
    pub large: Large,
    /// The whole Request-URI, where a 3xx named it.
    pub uri: Option<Box<str>>,
    /// The same INVITE with something changed: the leg's identity stays, and the CSeq number goes on (RFC 4028 §7.3).
    pub again: Option<Redial>,
}

impl Candidate {
    /// The name that a certificate there must bear (RFC 5922 §7.1).
    pub fn tls_name(&self) -> Option<Box<str>> {
        self.host.parse::<IpAddr>().is_err().then(|| self.host.clone())
    }
}

/// Of an INVITE that goes out again.
#[derive(Clone, Copy, Debug)]
pub struct Redial {
    /// Which try at its target it was.
    pub tries: usize,
    /// The CSeq number of the last one.
    pub cseq: u32,
}

/// UDP and large requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Large {
    /// The transport is as was asked for.
    Stay,
    /// TCP to the same address first.
    ByTcp,
    /// TCP to the same address was tried.
    AfterTcp,
}

/// What comes next.
#[derive(Clone, Debug)]
pub enum NextTarget {
    /// This one.
    Try(Candidate),
    /// Its name is to be looked up: [`TargetSet::asked`].
    LookUp(Hop),
    /// The DNS has not answered yet.
    Wait,
    /// None is left.
    Exhausted,
}

/// The targets of one request.
#[derive(Debug)]
pub struct TargetSet {
    limit: usize,
    hops: VecDeque<Hop>,
    asking: Option<(ResolveId, Hop)>,
    candidates: VecDeque<Candidate>,
    /// Candidates that failed lately: the last to be tried.
    deferred: VecDeque<Candidate>,
    tried: Vec<Target>,
}

impl TargetSet {
    /// Of which at most `limit` are tried, over all answers of the DNS.
    pub fn new(limit: usize) -> TargetSet {
        TargetSet {
            limit,
            hops: VecDeque::new(),
            asking: None,
            candidates: VecDeque::new(),
            deferred: VecDeque::new(),
            tried: Vec::new(),
        }
    }

    /// One more, the last.
    pub fn push(&mut self, hop: Hop) {
        self.hops.push_back(hop);
    }

    /// A 3xx names these: they come before all others (RFC 3261 §8.1.3.4).
    pub fn redirect(&mut self, hops: Vec<Hop>) {
        self.deferred.append(&mut self.candidates);
        for hop in hops.into_iter().rev() {
            self.hops.push_front(hop);
        }
    }

    /// The first one that is not looked up.
    pub fn first_hop(&self) -> Option<&Hop> {
        self.hops.front()
    }

    /// What comes next. `defers`: it failed lately, and is to be tried after all others.
    pub fn next(&mut self, mut defers: impl FnMut(&Candidate) -> bool) -> NextTarget {
        while self.tried.len() < self.limit {
            match self.candidates.pop_front() {
                Some(candidate) if defers(&candidate) => self.deferred.push_back(candidate),
                Some(candidate) => return NextTarget::Try(candidate),
                None if self.asking.is_some() => return NextTarget::Wait,
                None => match self.look_ahead() {
                    Some(hop) => return NextTarget::LookUp(hop),
                    None if !self.candidates.is_empty() => {}
                    None => return self.deferred.pop_front().map_or(NextTarget::Exhausted, NextTarget::Try),
                },
            }
        }
        NextTarget::Exhausted
    }

    /// The name that can be looked up now, before its turn has come. `None`: none is to be, or not yet.
    pub fn look_ahead(&mut self) -> Option<Hop> {
        if !self.candidates.is_empty() || self.asking.is_some() {
            return None;
        }
        let hop = self.hops.pop_front()?;
        match hop.literal() {
            Some(target) => {
                self.add(&hop, &[target]);
                None
            }
            None => Some(hop),
        }
    }

    /// The DNS was asked for this one.
    pub fn asked(&mut self, question: ResolveId, hop: Hop) {
        self.asking = Some((question, hop));
    }

    /// The DNS answered; `None`: it failed. False: nobody waits for that.
    pub fn on_resolved(&mut self, question: ResolveId, targets: Option<&[Target]>) -> bool {
        let Some((_, hop)) = self.asking.take_if(|(asked, _)| *asked == question) else { return false };
        self.add(&hop, targets.unwrap_or_default());
        true
    }

    /// The DNS is not waited for any longer. False: it was not.
    pub fn stop_waiting(&mut self) -> bool {
        self.asking.take().is_some()
    }

    fn add(&mut self, hop: &Hop, targets: &[Target]) {
        let large = if hop.choice == TransportChoice::Any { Large::ByTcp } else { Large::Stay };
        self.candidates.extend(targets.iter().take(self.limit).map(|target| Candidate {
            target: target.clone(),
            trunk: hop.trunk.clone(),
            realm: hop.realm,
            host: hop.host.host.clone(),
            large,
            uri: hop.uri.clone(),
            again: None,
        }));
    }

    /// The next one, whatever else there is.
    pub fn push_front(&mut self, candidate: Candidate) {
        self.candidates.push_front(candidate);
    }

    /// The same target by TCP, for a request that is too large; UDP is next, should that fail. `None`: it is not for this one, or TCP
    /// failed there lately.
    pub fn by_tcp(&mut self, candidate: &Candidate, mut defers: impl FnMut(&Candidate) -> bool) -> Option<Candidate> {
        if candidate.large != Large::ByTcp || candidate.target.transport != Transport::Udp {
            return None;
        }
        let target = Target { addr: candidate.target.addr, transport: Transport::Tcp };
        let by_tcp = Candidate { target, large: Large::Stay, ..candidate.clone() };
        if defers(&by_tcp) {
            return None;
        }
        self.candidates.push_front(Candidate { large: Large::AfterTcp, ..candidate.clone() });
        Some(by_tcp)
    }

    /// A target has answered: where it was asked by TCP for its size, UDP is no alternative any more.
    pub fn on_answer(&mut self, from: SocketAddr) {
        self.candidates.retain(|c| c.large != Large::AfterTcp || c.target.addr != from);
    }

    /// A request went to this target.
    pub fn on_tried(&mut self, target: Target) {
        self.tried.push(target);
    }

    /// How often a request went to this target.
    pub fn tries(&self, target: &Target) -> usize {
        self.tried.iter().filter(|tried| *tried == target).count()
    }

    /// True when another one could be tried.
    pub fn has_untried(&self) -> bool {
        let waiting = !self.candidates.is_empty() || !self.deferred.is_empty();
        self.tried.len() < self.limit && (waiting || !self.hops.is_empty() || self.asking.is_some())
    }

    /// True when another one could be tried that is not `held`: known to have failed lately.
    pub fn has_better(&self, held: impl Fn(Realm, &Target) -> bool) -> bool {
        let unknown = self.asking.is_some()
            || self.candidates.iter().any(|c| !held(c.realm, &c.target))
            || self.hops.iter().any(|h| h.literal().is_none_or(|target| !held(h.realm, &target)));
        self.tried.len() < self.limit && unknown
    }

    /// No other one is tried but those that failed lately.
    pub fn drop_untried(&mut self) {
        self.candidates.clear();
        self.hops.clear();
    }
}

#[cfg(test)]
mod tests;
