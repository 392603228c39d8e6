//! A request before the gate, with what the checks look at.

use std::cell::OnceCell;
use std::net::IpAddr;

use super::credentials::Proof;
use super::replaces::replaced;
use super::{Gate, Wrong, emergency};
use crate::call::{Context, Replaced};
use crate::ids::NodeId;
use crate::io::{Path, Realm};
use crate::policy::Trunk;
use crate::routing::{self, Entry};
use crate::sbc::calls::Calls;
use crate::sip::{Message, Uri};
use crate::subscription::Subscriptions;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(in crate::sbc) enum Arrival<'a> {
    /// An address. `relayed`: its ingress has looked at that. `proved`: the SIP domains of its connection, where these are to be judged here.
    Address { realm: Realm, ip: IpAddr, relayed: bool, proved: Option<&'a [Box<str>]> },
    /// Somewhere from which a trunk sends.
    Trunk(&'a str),
}

/// What a check may look at.
#[derive(Clone, Copy)]
pub(in crate::sbc) struct Sights<'a> {
    pub(in crate::sbc) cx: &'a Context,
    pub(in crate::sbc) gate: &'a Gate,
    pub(in crate::sbc) calls: &'a Calls,
    pub(in crate::sbc) subscriptions: &'a Subscriptions,
}

/// A request without a To-tag before the gate. What is worked out of it is kept for the next check.
pub(in crate::sbc) struct Entrance<'a> {
    pub(super) sights: Sights<'a>,
    pub(super) arrival: Arrival<'a>,
    pub(super) request: &'a Message,
    uri: OnceCell<Option<Uri>>,
    replaced: OnceCell<Result<Option<Replaced>, u16>>,
    service: OnceCell<Option<Box<str>>>,
    entry: OnceCell<Result<Entry<'a>, routing::NoEntry>>,
    pub(super) proof: OnceCell<Result<Option<Proof>, Wrong>>,
}

impl<'a> Entrance<'a> {
    /// A request that came by this path.
    pub(in crate::sbc) fn by_path(
        sights: Sights<'a>,
        path: &Path,
        ingress: Option<NodeId>,
        request: &'a Message,
    ) -> Entrance<'a> {
        let (realm, ip, relayed) = (path.role.realm(), path.remote.ip(), ingress.is_some());
        let proved = sights.gate.proved_by(path, ingress);
        Entrance::new(sights, Arrival::Address { realm, ip, relayed, proved }, request)
    }

    pub(in crate::sbc) fn new(sights: Sights<'a>, arrival: Arrival<'a>, request: &'a Message) -> Entrance<'a> {
        let (uri, replaced, service, entry, proof) = Default::default();
        Entrance { sights, arrival, request, uri, replaced, service, entry, proof }
    }

    pub(super) fn source(&self) -> Option<IpAddr> {
        match self.arrival {
            Arrival::Address { ip, .. } => Some(ip),
            Arrival::Trunk(_) => None,
        }
    }

    /// Its source, where this node is the one to judge by it.
    pub(super) fn own_source(&self) -> Option<(Realm, IpAddr)> {
        match self.arrival {
            Arrival::Address { realm, ip, relayed: false, .. } => Some((realm, ip)),
            Arrival::Address { .. } | Arrival::Trunk(_) => None,
        }
    }

    pub(super) fn uri(&self) -> Option<&Uri> {
        self.uri.get_or_init(|| Uri::parse(self.request.request_uri().unwrap_or_default()).ok()).as_ref()
    }

    pub(super) fn replaced(&self) -> &Result<Option<Replaced>, u16> {
        self.replaced.get_or_init(|| replaced(self.sights.cx, self.sights.calls, self.request))
    }

    /// The far end that it is for by its Replaces. An emergency call is not refused for a dialog that is not there.
    pub(super) fn other(&self) -> Option<Replaced> {
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

    pub(super) fn is_emergency(&self) -> bool {
        self.service().is_some()
    }

    /// Whether the configuration lets it in.
    pub(super) fn entry(&self) -> Option<&Result<Entry<'a>, routing::NoEntry>> {
        let config = &self.sights.cx.config;
        let uri = self.uri()?;
        let trunk = || match self.arrival {
            Arrival::Address { realm, ip, proved, .. } => routing::trunk_of(config, realm, ip, proved),
            Arrival::Trunk(name) => config.trunk(name),
        };
        Some(self.entry.get_or_init(|| routing::enter(config, uri, trunk)))
    }

    pub(super) fn trunk(&self) -> Option<&'a Trunk> {
        self.entry().and_then(|entry| Some(entry.as_ref().ok()?.trunk))
    }
}
