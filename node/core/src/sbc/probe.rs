//! OPTIONS to the targets of trunks that want it: which of them are up is then known before a call pays for it (RFC 3261 §11,
//! design.md). What is found goes the way of what calls find: into the hold-down of targets, never out of the list.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Sbc;
use crate::call::Timer;
use crate::ctx::{LocalConfig, bracketed};
use crate::ids::ResolveId;
use crate::io::{Counter, Output, Path, Realm, ResolveError, ResolveRequest, Target, Transport, TransportChoice};
use crate::policy::Trunk;
use crate::routing;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::ClientTxId;

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a target may take: by UDP it has had four copies by then (RFC 3261 §17.1.2.2: 0, 0.5, 1.5, 3.5 s).
const LIMIT: Duration = Duration::from_secs(4);
/// Addresses of one trunk that are asked.
const MAX_TARGETS: usize = 16;

/// What is under way, and what was found last.
#[derive(Debug, Default)]
pub(super) struct Probes {
    /// Set while a trunk wants probes.
    timer: Option<TimerId>,
    /// When a trunk is asked again.
    next: HashMap<Box<str>, Instant>,
    sent: HashMap<ClientTxId, Probe>,
    resolving: HashMap<ResolveId, Asked>,
    /// Whether each target answered last, and when that was. The DNS may name others later.
    found: HashMap<(Box<str>, Target), (bool, Instant)>,
}

/// One OPTIONS under way.
#[derive(Debug)]
struct Probe {
    trunk: Box<str>,
    path: Path,
    at: Instant,
    /// Every how long it is asked.
    every: Duration,
}

/// One target of a trunk, by name.
#[derive(Clone, Debug)]
struct Asked {
    trunk: Box<str>,
    realm: Realm,
    host: Box<str>,
    every: Duration,
}

impl Sbc {
    /// The configuration is new: probes begin, end or go on by it.
    pub(super) fn plan_probes(&mut self) {
        let config = self.cx.config.clone();
        let wanted: HashSet<&str> = config.trunks.iter().filter(|t| every(t).is_some()).map(|t| &*t.name).collect();
        let (now, probes) = (self.cx.now.mono, &mut self.probes);
        probes.next.retain(|name, _| wanted.contains(&**name));
        probes.found.retain(|(name, _), _| wanted.contains(&**name));
        probes.resolving.retain(|_, asked| wanted.contains(&*asked.trunk));
        let cx = &mut self.cx;
        probes.sent.retain(|tx, probe| {
            let kept = wanted.contains(&*probe.trunk);
            if !kept {
                cx.tx.abandon_client(*tx);
            }
            kept
        });
        for name in &wanted {
            probes.next.entry((*name).into()).or_insert(now);
        }
        if wanted.is_empty() {
            let mut timer = probes.timer.take();
            self.cx.stop_timer(&mut timer);
        } else if probes.timer.is_none() {
            probes.timer = Some(self.cx.start_timer(Duration::ZERO, Timer::Probe));
        }
    }

    /// Asks whoever is due, and gives up whoever was silent for too long.
    pub(super) fn on_probe_tick(&mut self) {
        let now = self.cx.now.mono;
        self.probes.timer = Some(self.cx.start_timer(TICK, Timer::Probe));
        let silent: Vec<ClientTxId> = self.probes.sent.iter().filter(|(_, p)| now >= p.at + LIMIT).map(|(tx, _)| *tx).collect();
        for tx in silent {
            self.cx.tx.abandon_client(tx);
            self.on_probe_lost(tx);
        }
        let config = self.cx.config.clone();
        for trunk in &config.trunks {
            let Some(every) = every(trunk) else { continue };
            if self.probes.next.get(&trunk.name).is_none_or(|at| now < *at) {
                continue;
            }
            self.probes.next.insert(trunk.name.clone(), now + every);
            for target in trunk.targets.iter().take(MAX_TARGETS) {
                let asked = Asked { trunk: trunk.name.clone(), realm: trunk.realm, host: target.host.host.clone(), every };
                match target.host.host.parse::<IpAddr>() {
                    Ok(ip) => {
                        let transport = target.transport.unwrap_or(Transport::Udp);
                        let port = target.host.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
                        self.probe(&asked, &Target { addr: (ip, port).into(), transport }, None);
                    }
                    Err(_) => {
                        let id = ResolveId(self.cx.serial());
                        let transport: TransportChoice = routing::transport_choice(target.transport, false);
                        self.probes.resolving.insert(id, asked);
                        let request = ResolveRequest { target: target.host.clone(), transport };
                        self.cx.out.push_back(Output::Resolve { id, request });
                    }
                }
            }
        }
    }

    /// The DNS answered for a probe, if it was one.
    pub(super) fn on_probe_resolved(&mut self, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        let Some(asked) = self.probes.resolving.remove(&id) else { return };
        for target in result.unwrap_or_default().iter().take(MAX_TARGETS) {
            self.probe(&asked, target, Some(asked.host.clone()));
        }
    }

    fn probe(&mut self, asked: &Asked, target: &Target, tls_name: Option<Box<str>>) {
        let path = self.cx.path_to(asked.realm, target.transport, target.addr);
        if self.probes.sent.values().any(|p| p.path == path && p.trunk == asked.trunk) {
            return; // Named twice, or still under way.
        }
        let cx = &mut self.cx;
        let host = if tls_name.is_some() { asked.host.to_string() } else { target.addr.to_string() };
        let (branch, serial) = (cx.mint_branch(), cx.serial());
        let own = bracketed(cx.local.own_address(asked.realm, target.addr.ip()));
        let mut draft = Draft::request(&Method::Options, &format!("sip:{host}"));
        draft.push(HeaderId::Via, cx.via(&path, &branch));
        // A proxy answers itself and asks nobody further (RFC 3261 §11).
        draft.push(HeaderId::MaxForwards, "1");
        draft.push(HeaderId::From, format!("<sip:probe@{own}>;tag={serial}"));
        draft.push(HeaderId::To, format!("<sip:{host}>"));
        draft.push(HeaderId::CallId, format!("{}@{own}", &branch[crate::call::BRANCH_COOKIE.len()..]));
        draft.push(HeaderId::CSeq, "1 OPTIONS");
        draft.push(HeaderId::Contact, format!("<sip:{own}:{}>", cx.local.port_of(target.transport)));
        draft.push(HeaderId::Accept, "application/sdp");
        draft.push(HeaderId::UserAgent, &*cx.local.name);
        let Some(payload) = cx.encode(&draft) else { return };
        let probe = Probe { trunk: asked.trunk.clone(), path, at: cx.now.mono, every: asked.every };
        match cx.tx.send_request(cx.now.mono, branch.into(), false, path, tls_name, payload) {
            Some(tx) => {
                self.probes.sent.insert(tx, probe);
            }
            None => cx.count(Counter::Probe("unsent")),
        }
    }

    /// A response to a probe. False: it is none.
    pub(super) fn on_probe_response(&mut self, tx: ClientTxId, response: &Message) -> bool {
        let status = response.status().unwrap_or(0);
        if status < 200 {
            return self.probes.sent.contains_key(&tx);
        }
        let Some(probe) = self.probes.sent.remove(&tx) else { return false };
        // Whatever it says, it is there; but for "not now" (RFC 3261 §21.5.4), and a proxy that tells of somebody behind it.
        let up = !matches!(status, 408 | 503 | 504);
        self.on_probed(&probe, up);
        true
    }

    /// No response, or the probe could not be sent. False: it is no probe.
    pub(super) fn on_probe_lost(&mut self, tx: ClientTxId) -> bool {
        let Some(probe) = self.probes.sent.remove(&tx) else { return false };
        self.on_probed(&probe, false);
        true
    }

    fn on_probed(&mut self, probe: &Probe, up: bool) {
        let (now, role) = (self.cx.now.mono, LocalConfig::own_role(probe.path.role.realm()));
        let target = Target { addr: probe.path.remote, transport: probe.path.transport };
        self.cx.count(Counter::Probe(if up { "up" } else { "down" }));
        if up {
            if self.cx.health.answered(role, &target) {
                self.cx.count(Counter::Target("answered"));
            }
        } else if self.cx.health.failed(now, role, &target, Some(probe.every * 2 + LIMIT)) {
            // Held until the next probe has told: no call need try it.
            self.cx.count(Counter::Target("held"));
        }
        if !self.probes.next.contains_key(&probe.trunk) {
            return; // It was taken out meanwhile.
        }
        self.probes.found.retain(|(trunk, _), (_, at)| *trunk != probe.trunk || now.since(*at) < probe.every * 3);
        self.probes.found.insert((probe.trunk.clone(), target), (up, now));
        let any = self.probes.found.iter().any(|((trunk, _), (up, _))| *trunk == probe.trunk && *up);
        let rtt = up.then(|| now.since(probe.at));
        self.cx.out.push_back(Output::TrunkProbed { trunk: probe.trunk.clone(), up: any, rtt });
    }
}

/// Every how long a trunk's targets are asked; `None`: it takes no calls, or wants no probes.
fn every(trunk: &Trunk) -> Option<Duration> {
    trunk.probe.filter(|_| trunk.enabled && !trunk.targets.is_empty())
}
