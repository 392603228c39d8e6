//! Who may begin something: the admission of a request, as a list of checks that look and change nothing.
//!
//! Each check admits or gives a [`Refusal`]. What follows from it is done by [`Sbc`](super::Sbc) (`refuse.rs`): the answer, what is counted, what is
//! taken of a rate. So `sbcctl route explain` (`explain.rs`) runs the same lists in the same order as a request off the wire, and differs by nothing
//! but the checks that are of the moment.

mod bans;
mod credentials;
mod emergency;
mod limits;
mod message;
mod refusal;
mod replaces;
mod source;
#[cfg(test)]
mod tests;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::net::IpAddr;

use super::calls::Calls;
use super::subscription::Subscriptions;
use crate::call::{Replaced, Services};
use crate::ids::{FlowId, NodeId};
use crate::io::{Path, Realm};
use crate::policy::{ClusterConfig, Trunk};
use crate::routing::{self, Entry};
use crate::sip::{Message, Method, Uri};
use crate::time::Instant;

pub(super) use bans::Bans;
pub(super) use credentials::{Proof, challenge};
pub(super) use emergency::is_emergency;
pub(super) use limits::{Limits, Taken};
pub(super) use message::KNOWN_EXTENSIONS;
pub(super) use refusal::{Limit, Refusal, Why, Wrong};
pub(super) use source::{drops, source_weight};

/// What the gate remembers of those who come.
#[derive(Debug, Default)]
pub(super) struct Gate {
    pub(super) bans: Bans,
    pub(super) limits: Limits,
    pub(super) nonces: credentials::Uses,
    /// Connections of this node whose far end has proved who it is. As many as the transport has connections.
    proved: HashMap<FlowId, Box<[Box<str>]>>,
}

impl Gate {
    /// The far end of a connection has proved that it is these SIP domains.
    pub(super) fn on_proved(&mut self, flow: FlowId, names: Box<[Box<str>]>) {
        self.proved.insert(flow, names);
    }

    /// A connection is closed.
    pub(super) fn on_closed(&mut self, flow: FlowId) {
        self.proved.remove(&flow);
    }

    /// Forgets what is too old to count.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.bans.sweep(now);
        self.limits.sweep(now);
        self.nonces.sweep(now);
    }

    /// The trunk that a packet came from. What a connection of another node has proved is that node's to judge.
    pub(super) fn trunk_at<'a>(&self, config: &'a ClusterConfig, path: &Path, ingress: Option<NodeId>) -> Option<&'a Trunk> {
        routing::trunk_of(config, path.role.realm(), path.remote.ip(), self.proved_by(path, ingress))
    }

    fn proved_by(&self, path: &Path, ingress: Option<NodeId>) -> Option<&[Box<str>]> {
        let proved = path.flow.and_then(|flow| self.proved.get(&flow)).map_or(&[][..], |names| names);
        ingress.is_none().then_some(proved)
    }
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin<'a> {
    /// An address. `relayed`: its ingress has looked at that. `proved`: the SIP domains of its connection, where these are to be judged here.
    Address { realm: Realm, ip: IpAddr, relayed: bool, proved: Option<&'a [Box<str>]> },
    /// Somewhere from which a trunk sends.
    Trunk(&'a str),
}

/// What a check may look at.
#[derive(Clone, Copy)]
pub(super) struct Sights<'a> {
    pub(super) cx: &'a Services,
    pub(super) gate: &'a Gate,
    pub(super) calls: &'a Calls,
    pub(super) subscriptions: &'a Subscriptions,
}

/// A request without a To-tag before the gate. What is worked out of it is kept for the next check.
pub(super) struct Entrance<'a> {
    sights: Sights<'a>,
    origin: Origin<'a>,
    request: &'a Message,
    uri: OnceCell<Option<Uri>>,
    replaced: OnceCell<Result<Option<Replaced>, u16>>,
    service: OnceCell<Option<Box<str>>>,
    entry: OnceCell<Result<Entry<'a>, routing::Refusal>>,
    proof: OnceCell<Result<Option<Proof>, Wrong>>,
}

/// A check: why the request goes no further, if so.
type Look = fn(&Entrance<'_>) -> Option<Refusal>;

struct Check {
    look: Look,
    /// What it says of a request it says of that one now, and perhaps not of the next one like it: a limit, a challenge.
    of_the_moment: bool,
}

const fn lasting(look: Look) -> Check {
    Check { look, of_the_moment: false }
}

const fn momentary(look: Look) -> Check {
    Check { look, of_the_moment: true }
}

/// Before it is known what becomes of its method and its claim.
const FIRST: [Check; 5] = [
    lasting(source::rejected),
    lasting(source::blocked),
    lasting(source::scanner),
    lasting(message::request_uri),
    lasting(message::extensions),
];

/// Before it begins something new.
const ENTRY: [Check; 5] = [
    lasting(message::max_forwards),
    lasting(message::max_breadth),
    lasting(message::looped),
    lasting(message::entry),
    lasting(message::routes),
];

/// What it is counted against, unless it has been admitted before.
const LIMITS: [Check; 1] = [momentary(limits::over_limit)];

/// Before a call begins.
const INVITE: [Check; 4] =
    [lasting(message::session_interval), lasting(message::body), momentary(credentials::unproved), lasting(replaces::replaces)];

/// Before a MESSAGE, PUBLISH or first SUBSCRIBE goes on.
const STANDALONE: [Check; 4] = [
    momentary(credentials::unproved),
    lasting(message::events),
    lasting(message::event_package),
    momentary(message::room_for_subscription),
];

/// What may begin.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The trunk that it comes from.
    pub(super) trunk: Box<str>,
    /// The emergency service that it is for.
    pub(super) service: Option<Box<str>>,
    /// The far end of another call that it is for (RFC 3891).
    pub(super) replaced: Option<Replaced>,
}

/// What having looked costs, to be settled whatever came of it.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Of the limits.
    pub(super) taken: Option<Taken>,
    /// Of the uses of a nonce.
    pub(super) proof: Option<Proof>,
}

impl<'a> Entrance<'a> {
    /// A request that came by this path.
    pub(super) fn by_path(sights: Sights<'a>, path: &Path, ingress: Option<NodeId>, request: &'a Message) -> Entrance<'a> {
        let (realm, ip, relayed) = (path.role.realm(), path.remote.ip(), ingress.is_some());
        let proved = sights.gate.proved_by(path, ingress);
        Entrance::new(sights, Origin::Address { realm, ip, relayed, proved }, request)
    }

    pub(super) fn new(sights: Sights<'a>, origin: Origin<'a>, request: &'a Message) -> Entrance<'a> {
        let (uri, replaced, service, entry, proof) = Default::default();
        Entrance { sights, origin, request, uri, replaced, service, entry, proof }
    }

    /// Looked at as soon as it is clear that it belongs to nothing.
    pub(super) fn first(&self) -> Option<Refusal> {
        self.pass(&FIRST)
    }

    /// Whether it may begin something. `before`: it has been admitted once, and is counted against nothing again.
    pub(super) fn admit(&self, before: bool) -> (Result<Admitted, Refusal>, Due) {
        let mut due = Due::default();
        let mut refused = self.pass(&ENTRY);
        if refused.is_none() && !before && !self.has_priority() {
            refused = self.pass(&LIMITS);
            due.taken = self.taken(refused.as_ref());
        }
        if refused.is_none() {
            refused = self.pass(if self.request.method() == &Method::Invite { &INVITE } else { &STANDALONE });
            due.proof = self.proof.get().and_then(|proof| proof.as_ref().ok()?.clone());
        }
        let admitted = match (refused, self.trunk()) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(trunk)) => {
                Ok(Admitted { trunk: trunk.name.clone(), service: self.service().map(Into::into), replaced: self.other() })
            }
            (None, None) => Err(Why::Entry(routing::Refusal::NoTrunk).into()),
        };
        (admitted, due)
    }

    /// Why an INVITE like this one would be refused, and the trunk of the far end whose dialog it would replace.
    pub(super) fn explain(&self) -> (Option<Refusal>, Option<Box<str>>) {
        let lists: [&[Check]; 4] = [&FIRST, &ENTRY, &LIMITS, &INVITE];
        let mut checks = lists.into_iter().flatten().filter(|check| !check.of_the_moment);
        (checks.find_map(|check| (check.look)(self)), self.other().map(|other| other.trunk))
    }

    fn pass(&self, checks: &[Check]) -> Option<Refusal> {
        checks.iter().find_map(|check| (check.look)(self))
    }

    fn source(&self) -> Option<IpAddr> {
        match self.origin {
            Origin::Address { ip, .. } => Some(ip),
            Origin::Trunk(_) => None,
        }
    }

    /// Its source, where this node is the one to judge by it.
    fn own_source(&self) -> Option<(Realm, IpAddr)> {
        match self.origin {
            Origin::Address { realm, ip, relayed: false, .. } => Some((realm, ip)),
            Origin::Address { .. } | Origin::Trunk(_) => None,
        }
    }

    fn uri(&self) -> Option<&Uri> {
        self.uri.get_or_init(|| Uri::parse(self.request.request_uri().unwrap_or_default()).ok()).as_ref()
    }

    fn replaced(&self) -> &Result<Option<Replaced>, u16> {
        self.replaced.get_or_init(|| replaces::replaced(self.sights.cx, self.sights.calls, self.request))
    }

    /// The far end that it is for by its Replaces. An emergency call is not refused for a dialog that is not there.
    fn other(&self) -> Option<Replaced> {
        self.replaced().as_ref().ok().cloned().flatten()
    }

    /// The emergency service that it is for: its own, or that of the call that it is to replace.
    pub(super) fn service(&self) -> Option<&str> {
        let service = || {
            let own = self.uri().and_then(|uri| routing::classify(&self.sights.cx.config, uri));
            own.or_else(|| emergency::replaced_service(self.request, || self.replaced()))
        };
        self.service.get_or_init(service).as_deref()
    }

    fn is_emergency(&self) -> bool {
        self.service().is_some()
    }

    /// Whether the configuration lets it in.
    fn entry(&self) -> Option<&Result<Entry<'a>, routing::Refusal>> {
        let config = &self.sights.cx.config;
        let uri = self.uri()?;
        let trunk = || match self.origin {
            Origin::Address { realm, ip, proved, .. } => routing::trunk_of(config, realm, ip, proved),
            Origin::Trunk(name) => config.trunk(name),
        };
        Some(self.entry.get_or_init(|| routing::enter(config, uri, trunk)))
    }

    fn trunk(&self) -> Option<&'a Trunk> {
        self.entry().and_then(|entry| Some(entry.as_ref().ok()?.trunk))
    }
}
