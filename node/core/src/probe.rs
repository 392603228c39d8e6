//! OPTIONS to the targets of trunks that want it: which of them are up is then known before a call pays for it (RFC 3261 §11,
//! design.md). What is found goes the way of what calls find: into the hold-down of targets, never out of the list. A target that several
//! trunks have is asked once, as often as the most eager of them wants, and what it says counts for all.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::call::{Context, TimerUser};
use crate::ids::ResolveId;
use crate::io::{
    AddressRole, Counter, Output, ProbeOutcome, Realm, ResolveError, ResolveRequest, ReturnPath, Target, TargetChange, Transport,
    TransportChoice,
};
use crate::local::{AGENT, LocalConfig, bracketed};
use crate::policy::Trunk;
use crate::routing;
use crate::sip::{Draft, HeaderId, Message, Method};
use crate::time::Instant;
use crate::timer::TimerId;
use crate::transaction::{ClientTxId, ClientUser, NewRequest, QuestionUser};

/// How often it is looked whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How long a target may take: by UDP it has had four copies by then (RFC 3261 §17.1.2.2: 0, 0.5, 1.5, 3.5 s).
const LIMIT: Duration = Duration::from_secs(4);
/// Addresses of one trunk that are asked.
const MAX_TARGETS: usize = 16;

/// What is under way, and what was found last.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    /// Set while a trunk wants probes.
    timer: Option<TimerId>,
    /// When a trunk is asked again.
    next: HashMap<Box<str>, Instant>,
    sent: HashMap<ClientTxId, Probe>,
    resolving: HashMap<ResolveId, NamedTarget>,
    /// What is known of each target that a trunk has, or lately had: the DNS may name others.
    targets: HashMap<Key, Probed>,
}

/// What a probe reaches: from where, to where, and by TLS the name that is proved there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    role: AddressRole,
    target: Target,
    tls_name: Option<Box<str>>,
}

/// One target, of one trunk or of several.
#[derive(Debug, Default)]
struct Probed {
    /// When the trunk was due for which it was asked last.
    asked: Option<Instant>,
    /// Whether it answered, after how long, and when that was known.
    found: Option<(bool, Option<Duration>, Instant)>,
    trunks: Vec<ProbingTrunk>,
}

/// A trunk that names a target: every how long it wants to know, and when it named it last.
#[derive(Debug)]
struct ProbingTrunk {
    trunk: Box<str>,
    every: Duration,
    at: Instant,
}

/// One OPTIONS under way.
#[derive(Debug)]
struct Probe {
    key: Key,
    at: Instant,
}

/// One target of a trunk, by name.
#[derive(Clone, Debug)]
struct NamedTarget {
    trunk: Box<str>,
    realm: Realm,
    host: Box<str>,
    every: Duration,
    /// When the trunk was due.
    due: Instant,
}

impl Probed {
    /// The trunks that have named it within three of their intervals.
    fn expire(&mut self, now: Instant) {
        self.trunks.retain(|named| now.since(named.at) < named.every * 3);
    }
}

impl Probes {
    /// The configuration is new: probes begin, end or go on by it.
    pub(crate) fn plan(&mut self, cx: &mut Context) {
        let config = cx.config.clone();
        let wanted: HashSet<&str> = config.trunks.iter().filter(|t| every(t).is_some()).map(|t| &*t.name).collect();
        let now = cx.now.mono;
        self.next.retain(|name, _| wanted.contains(&**name));
        self.targets.retain(|_, shared| {
            shared.trunks.retain(|named| wanted.contains(&*named.trunk));
            !shared.trunks.is_empty()
        });
        self.resolving.retain(|_, asked| wanted.contains(&*asked.trunk));
        self.sent.retain(|tx, probe| {
            let kept = self.targets.contains_key(&probe.key);
            if !kept {
                cx.tx.abandon_client(*tx);
            }
            kept
        });
        for name in &wanted {
            self.next.entry((*name).into()).or_insert(now);
        }
        if wanted.is_empty() {
            let mut timer = self.timer.take();
            cx.stop_timer(&mut timer);
        } else if self.timer.is_none() {
            self.timer = Some(cx.start_timer(Duration::ZERO, TimerUser::Probe));
        }
    }

    /// Asks whoever is due, and gives up whoever was silent for too long.
    pub(crate) fn on_tick(&mut self, cx: &mut Context) {
        let now = cx.now.mono;
        self.timer = Some(cx.start_timer(TICK, TimerUser::Probe));
        let silent: Vec<ClientTxId> = self.sent.iter().filter(|(_, p)| now >= p.at + LIMIT).map(|(tx, _)| *tx).collect();
        for tx in silent {
            cx.tx.abandon_client(tx);
            self.on_lost(cx, tx);
        }
        self.targets.retain(|_, shared| {
            shared.expire(now);
            !shared.trunks.is_empty()
        });
        let config = cx.config.clone();
        for trunk in &config.trunks {
            let Some(every) = every(trunk) else { continue };
            if self.next.get(&trunk.name).is_none_or(|at| now < *at) {
                continue;
            }
            self.next.insert(trunk.name.clone(), now + every);
            for target in trunk.targets.iter().take(MAX_TARGETS) {
                let host = target.host.host.clone();
                let asked = NamedTarget { trunk: trunk.name.clone(), realm: trunk.realm, host, every, due: now };
                match target.host.host.parse::<IpAddr>() {
                    Ok(ip) => {
                        let transport = target.transport.unwrap_or(Transport::Udp);
                        let port = target.host.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 });
                        self.probe(cx, &asked, &Target { addr: (ip, port).into(), transport }, None);
                    }
                    Err(_) => {
                        let transport: TransportChoice = routing::transport_choice(target.transport, false);
                        let request = ResolveRequest { target: target.host.clone(), transport };
                        let id = cx.resolve(QuestionUser::Probe, request);
                        self.resolving.insert(id, asked);
                    }
                }
            }
        }
    }

    /// The DNS answered for a probe, if it was one.
    pub(crate) fn on_resolved(&mut self, cx: &mut Context, id: ResolveId, result: Result<Vec<Target>, ResolveError>) {
        let Some(asked) = self.resolving.remove(&id) else { return };
        for target in result.unwrap_or_default().iter().take(MAX_TARGETS) {
            self.probe(cx, &asked, target, Some(asked.host.clone()));
        }
    }

    fn probe(&mut self, cx: &mut Context, asked: &NamedTarget, target: &Target, tls_name: Option<Box<str>>) {
        let (now, role) = (cx.now.mono, LocalConfig::own_role(asked.realm));
        let proved = tls_name.clone().filter(|_| target.transport == Transport::Tls);
        let key = Key { role, target: target.clone(), tls_name: proved };
        let shared = self.targets.entry(key.clone()).or_default();
        shared.trunks.retain(|named| named.trunk != asked.trunk);
        shared.trunks.push(ProbingTrunk { trunk: asked.trunk.clone(), every: asked.every, at: now });
        if shared.asked.is_some_and(|last| asked.due < last + asked.every) {
            // ProbingTrunk twice, or another trunk has asked: what was found is told, what is under way will be.
            if let Some((_, rtt, _)) = shared.found {
                self.tell(cx, &asked.trunk, rtt);
            }
            return;
        }
        let path = cx.path_to(asked.realm, target.transport, target.addr);
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
        draft.push(HeaderId::UserAgent, AGENT);
        let Some(payload) = cx.encode(&draft) else { return };
        let (user, way) = (ClientUser::Probe, ReturnPath::here(path));
        match cx.send_request(NewRequest { user, branch: branch.into(), invite: false, way, tls_name, payload }) {
            Some(tx) => {
                if let Some(shared) = self.targets.get_mut(&key) {
                    shared.asked = Some(asked.due);
                }
                self.sent.insert(tx, Probe { key, at: now });
            }
            None => cx.count(Counter::Probe(ProbeOutcome::Unsent)),
        }
    }

    /// A response to a probe.
    pub(crate) fn on_response(&mut self, cx: &mut Context, tx: ClientTxId, response: &Message) {
        let status = response.status().unwrap_or(0);
        if status < 200 {
            return;
        }
        let Some(probe) = self.sent.remove(&tx) else { return };
        // Whatever it says, it is there; but for "not now" (RFC 3261 §21.5.4), and a proxy that tells of somebody behind it.
        let up = !matches!(status, 408 | 503 | 504);
        self.on_probed(cx, &probe, up);
    }

    /// No response, or the probe could not be sent.
    pub(crate) fn on_lost(&mut self, cx: &mut Context, tx: ClientTxId) {
        if let Some(probe) = self.sent.remove(&tx) {
            self.on_probed(cx, &probe, false);
        }
    }

    fn on_probed(&mut self, cx: &mut Context, probe: &Probe, up: bool) {
        let (now, Key { role, target, .. }) = (cx.now.mono, &probe.key);
        cx.count(Counter::Probe(if up { ProbeOutcome::Up } else { ProbeOutcome::Down }));
        let rtt = up.then(|| now.since(probe.at));
        let mut named = Vec::new();
        if let Some(shared) = self.targets.get_mut(&probe.key) {
            shared.expire(now);
            shared.found = Some((up, rtt, now));
            named.extend(shared.trunks.iter().map(|n| (n.trunk.clone(), n.every)));
        }
        if up {
            if cx.health.answered(*role, target) {
                cx.count(Counter::Target(TargetChange::Answered));
            }
        } else if let Some(every) = named.iter().map(|(_, every)| *every).min()
            && cx.health.failed(now, *role, target, Some(every * 2 + LIMIT))
        {
            // Held until the next probe has told: no call need try it.
            cx.count(Counter::Target(TargetChange::Held));
        }
        for (trunk, _) in named {
            self.tell(cx, &trunk, rtt);
        }
    }

    /// Tells whether one of a trunk's targets is up.
    fn tell(&self, cx: &mut Context, trunk: &str, rtt: Option<Duration>) {
        let now = cx.now.mono;
        let up = |shared: &Probed| {
            let named = shared.trunks.iter().find(|named| *named.trunk == *trunk);
            shared.found.zip(named).is_some_and(|((up, _, at), named)| up && now.since(at) < named.every * 3)
        };
        let up = self.targets.values().any(up);
        cx.output(Output::TrunkProbed { trunk: trunk.into(), up, rtt });
    }
}

/// Every how long a trunk's targets are asked; `None`: it takes no calls, or wants no probes.
fn every(trunk: &Trunk) -> Option<Duration> {
    trunk.timers.probe.filter(|_| trunk.enabled && !trunk.targets.is_empty())
}
