//! Plain values of the cluster's configuration.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::trust::{Challenger, Credentials, MethodPolicy, RedirectPolicy, ReferPolicy, SubscribePolicy};
use super::{AclRule, Codecs, HeaderRule, IdentityPolicy, MediaPolicy, NumberRange, PrackPolicy, SourceCheck, Topology};
use crate::io::{HostAndPort, Realm, Transport};

/// What all nodes share; changed by `sbcctl config apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Its revision in the log; 0: built in.
    pub revision: u64,
    /// The peers, in the order of the file. The first whose realm and sources match a packet is its trunk.
    pub trunks: Vec<Trunk>,
    /// In the order of the file; the first that matches decides.
    pub routes: Vec<Route>,
    /// User parts and `tel:` numbers that are emergency calls, besides `urn:service:sos`.
    pub emergency_numbers: Vec<Box<str>>,
    /// Further numbers that are emergency calls, in the order of the file.
    pub numbers: Vec<NumberRange>,
    /// Who we are in the emergency call and incident ids that we mint (NENA-STA-010: an element identifier, a host name).
    pub element_id: Option<Box<str>>,
    /// Budgets and timers.
    pub settings: Settings,
    /// Who may speak to the cluster; empty: everybody.
    pub acl: Vec<AclRule>,
    /// What is done with header fields, in the order of the file.
    pub header_rules: Vec<HeaderRule>,
}

impl ClusterConfig {
    /// How long a target of this trunk may stay silent before the next is tried.
    pub fn failover_after(&self, trunk: &str) -> Duration {
        self.trunk(trunk).and_then(|t| t.timers.failover_after).unwrap_or(self.settings.failover_after)
    }

    /// The trunk of that name.
    pub fn trunk(&self, name: &str) -> Option<&Trunk> {
        self.trunks.iter().find(|t| *t.name == *name)
    }

    /// Every secret that is named, each place once.
    pub fn secrets_mut(&mut self) -> impl Iterator<Item = &mut crate::auth::Secret> {
        self.trunks.iter_mut().flat_map(|t| {
            let own = t.auth.credentials.iter_mut().map(|c| &mut c.secret);
            own.chain(t.auth.challenger.iter_mut().flat_map(|c| c.users.iter_mut().map(|u| &mut u.secret)))
        })
    }
}

/// Emergency calls toward one trunk that a node has at once where nothing is said: more than the PSAPs of a large city have lines.
const MAX_EMERGENCY_CALLS: u32 = 1000;

/// A peer, or a group of peers that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Its name.
    pub name: Box<str>,
    /// On which side it is.
    pub realm: Realm,
    /// Source prefixes of its packets; empty: it never sends us initial requests.
    pub sources: Vec<Prefix>,
    /// Where calls to it go, in order; empty: it takes no calls.
    pub targets: Vec<TrunkTarget>,
    /// What a node does with its misrouted in-dialog requests.
    pub misroute: MisroutePolicy,
    /// False: its calls get 503 and it is left out of routes.
    pub enabled: bool,
    /// Who it is to us, and we to it.
    pub auth: TrunkAuth,
    /// What is done with some of what it says.
    pub requests: RequestPolicies,
    /// How long things may take with it.
    pub timers: TrunkTimers,
    /// How much a node takes from it, or has toward it.
    pub limits: TrunkLimits,
    /// Whether requests within its calls may come from another address.
    pub source_check: SourceCheck,
    /// Whether it is offered 100rel where the caller cannot.
    pub prack: PrackPolicy,
    /// What of the other side's dialog it sees.
    pub topology: Topology,
    /// Whether asserted identities cross to and from it.
    pub identity: IdentityPolicy,
    /// The codecs that may be negotiated with it; `None`: all.
    pub codecs: Option<Codecs>,
    /// What is done with its media.
    pub media: MediaPolicy,
    /// Initial requests are its own only on a TLS connection whose certificate bears one of these SIP domains; empty: its
    /// sources are enough.
    pub tls_names: Vec<Box<str>>,
}

/// How a trunk and we prove who we are (RFC 3261 §22).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrunkAuth {
    /// How we answer its challenges; `None`: they go to the other side.
    pub credentials: Option<Credentials>,
    /// How we challenge its callers; `None`: not at all.
    pub challenger: Option<Challenger>,
}

/// What is done with some of what a trunk says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestPolicies {
    /// What is done with its 3xx.
    pub redirects: RedirectPolicy,
    /// What is done with its REFER.
    pub refer: ReferPolicy,
    /// What is done with its requests of methods that we do not know.
    pub unknown_methods: MethodPolicy,
    /// What is done with its SUBSCRIBE and PUBLISH outside of a call.
    pub subscribe: SubscribePolicy,
}

/// How long things may take with a trunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrunkTimers {
    /// How long a target of it may stay silent before the next is tried; `None`: as in the settings.
    pub failover_after: Option<Duration>,
    /// How long it may ring without another word; `None`: as in the settings.
    pub ring_timeout: Option<Duration>,
    /// The session interval that we offer it (RFC 4028); zero: no session timers; `None`: as in the settings.
    pub session_expires: Option<Duration>,
    /// Every how long its targets are asked whether they are there; `None`: not at all.
    pub probe: Option<Duration>,
}

/// How much a node takes from a trunk, or has toward it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrunkLimits {
    /// Calls from it that a node holds at the most; 0: no limit. Emergency calls count, and are not refused.
    pub max_calls: u32,
    /// Calls a second that a node takes from it; 0: no limit. Not for emergency calls.
    pub max_rate: u32,
    /// Emergency calls toward it that a node has at once, beyond which only sources with none there begin one, and others wait; 0: no limit.
    pub max_emergency_calls: u32,
}

impl Default for TrunkLimits {
    fn default() -> TrunkLimits {
        TrunkLimits { max_calls: 0, max_rate: 0, max_emergency_calls: MAX_EMERGENCY_CALLS }
    }
}

impl Trunk {
    /// An enabled trunk that sends nothing, takes nothing, and has every option at its default.
    pub fn new(name: &str, realm: Realm) -> Trunk {
        Trunk {
            name: name.into(),
            realm,
            sources: Vec::new(),
            targets: Vec::new(),
            misroute: MisroutePolicy::default(),
            enabled: true,
            auth: TrunkAuth::default(),
            requests: RequestPolicies::default(),
            timers: TrunkTimers::default(),
            limits: TrunkLimits::default(),
            source_check: SourceCheck::default(),
            prack: PrackPolicy::default(),
            topology: Topology::default(),
            identity: IdentityPolicy::default(),
            codecs: None,
            media: MediaPolicy::default(),
            tls_names: Vec::new(),
        }
    }

    /// True when who sends has proved one of [`tls_names`](Trunk::tls_names), or need not. `None`: another node has the
    /// connection and passed the packet on.
    pub fn is_proved(&self, proved: Option<&[Box<str>]>) -> bool {
        let is_own = |name: &str| self.tls_names.iter().any(|own| own.eq_ignore_ascii_case(name));
        self.tls_names.is_empty() || proved.is_none_or(|names| names.iter().any(|n| is_own(n)))
    }
}

/// One way to reach a trunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkTarget {
    /// Host and port.
    pub host: HostAndPort,
    /// The transport; `None`: found by RFC 3263, UDP without SRV.
    pub transport: Option<Transport>,
}

/// Relay or redirect (anycast.md, "Why relay is the default").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MisroutePolicy {
    /// Hand the packet to the owner.
    #[default]
    Relay,
    /// 302 to the owner's unicast address, once per request.
    Redirect,
}

/// An address prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The network address.
    pub addr: IpAddr,
    /// Prefix length in bits, at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The network address with all bits after the prefix zero; an IPv4-mapped one as IPv4.
    pub fn canonical(self) -> Prefix {
        let net = self.net();
        Prefix { addr: net.network(), len: net.prefix_len() }
    }

    /// The two networks that this one is made of; `None`: it is one address.
    pub fn halves(self) -> Option<[Prefix; 2]> {
        let net = self.net();
        let mut halves = net.subnets(net.prefix_len() + 1).ok()?.map(|half| Prefix { addr: half.addr(), len: half.prefix_len() });
        Some([halves.next()?, halves.next()?])
    }

    /// A length beyond the address's own is one address.
    fn net(self) -> IpNet {
        let most = |addr: IpAddr| if addr.is_ipv4() { 32 } else { 128 };
        let (addr, len) = match (self.addr, self.addr.to_canonical()) {
            (IpAddr::V6(_), addr @ IpAddr::V4(_)) if self.len >= 96 => (addr, self.len - 96),
            (addr, _) => (addr, self.len),
        };
        IpNet::new_assert(addr, len.min(most(addr)))
    }

    /// What counts as one source wherever sources are counted or blocked: an IPv4 address, or the network that one IPv6 host has to
    /// itself (RFC 6177 §2: a subscriber's line has a /64 at the least), each address of which would have a share of its own.
    pub fn of_source(ip: IpAddr) -> Prefix {
        let addr = ip.to_canonical();
        Prefix { addr, len: if addr.is_ipv4() { 32 } else { 64 } }.canonical()
    }

    /// True for one of so many addresses that it says nothing about who has one: below /8, or /16 of IPv6.
    pub fn is_anybody(&self) -> bool {
        let net = self.net();
        net.prefix_len() < if net.addr().is_ipv4() { 8 } else { 16 }
    }

    /// True when the two have an address in common.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        let (a, b) = (self.net(), other.net());
        a.contains(&b) || b.contains(&a)
    }

    /// True when `ip` lies in the prefix. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.net().contains(&ip.to_canonical())
    }
}

impl std::str::FromStr for Prefix {
    type Err = ();

    /// An address, or an address and a length.
    fn from_str(text: &str) -> Result<Prefix, ()> {
        let (addr, len) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
        let addr: IpAddr = addr.parse().map_err(|_| ())?;
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let number = |l: &str| l.bytes().all(|b| b.is_ascii_digit()).then(|| l.parse().ok()).flatten().filter(|l| *l <= most);
        let len = match len {
            None => most,
            Some(l) => number(l).ok_or(())?,
        };
        Ok(Prefix { addr, len })
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

/// Where calls go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: Box<str>,
    /// All conditions must hold.
    pub matches: Vec<RouteMatch>,
    /// Trunk names, tried in order.
    pub trunks: Vec<Box<str>>,
}

/// One condition of a route, on the Request-URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteMatch {
    /// The call is an emergency call.
    Emergency(bool),
    /// The user part (or `tel:` number) is this.
    User(Box<str>),
    /// The user part (or `tel:` number) begins with this.
    Prefix(Box<str>),
    /// The request came from this trunk.
    FromTrunk(Box<str>),
    /// The emergency service is this one, or a part of it: "sos.police" is one of "sos".
    Service(Box<str>),
    /// The host of the Request-URI, in any case.
    Host(Box<str>),
}

/// Budgets and timers, with their defaults in `Default`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long an INVITE waits for its claim before it goes on degraded (rule B).
    pub claim_budget: Duration,
    /// How long a target may stay silent before the next is tried.
    pub failover_after: Duration,
    /// How often the NAT before a far end of an answered call is reminded of it; zero: never.
    pub nat_keepalive: Duration,
    /// How long a CANCEL waits for a claim that is not applied yet (AC-07).
    pub cancel_hold: Duration,
    /// How long the called side may ring without another word (timer C of RFC 3261 §16.6).
    pub ring_timeout: Duration,
    /// The same for emergency calls.
    pub emergency_ring_timeout: Duration,
    /// The session interval that we offer (RFC 4028); zero: no session timers.
    pub session_expires: Duration,
    /// Calls that a node holds at the most.
    pub max_calls: u32,
    /// The load in percent from which on a node refuses ordinary calls, more of them the nearer it is to 100; 0: never.
    pub shed_at: u8,
    /// Initial requests a second that one node takes from one source that is no neighbour, or answers without state; 0: no limit.
    pub source_rate: u32,
    /// The same for emergency calls: what no caller in distress comes near; 0: no limit.
    pub emergency_source_rate: u32,
    /// For how long a source that a scanner spoke from may begin nothing but emergency calls, at any node; zero: it may.
    pub scanner_ban: Duration,
    /// Host names by which this cluster is known: a Route or a To with one of them leads here.
    pub own_names: Vec<Box<str>>,
    /// Parts of User-Agent values, in lower case, by which scanners are known: dropped without an answer, but for emergency calls.
    pub scanners: Vec<Box<str>>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            claim_budget: Duration::from_millis(150),
            failover_after: Duration::from_secs(2),
            // Below what a NAT may keep an idle UDP mapping for: two minutes by RFC 4787 §4.3, half a minute in many.
            nat_keepalive: Duration::from_secs(25),
            cancel_hold: Duration::from_millis(200),
            // RFC 3261 §16.6 step 11 wants more than three minutes.
            ring_timeout: Duration::from_secs(185),
            // Whoever waits for a dispatcher is better off waiting than told to call again.
            emergency_ring_timeout: Duration::from_secs(600),
            session_expires: Duration::from_secs(1800),
            max_calls: 200_000,
            shed_at: 90,
            // An address with 10,000 subscribers behind it makes ten calls a second in its busiest hour; a neighbour has no such limit.
            source_rate: 100,
            // As many as a country makes in its worst minute.
            emergency_source_rate: 100,
            // A source of UDP can be forged: whoever wants bans says so.
            scanner_ban: Duration::ZERO,
            own_names: Vec::new(),
            // What they call themselves, unless they take care not to.
            scanners: ["friendly-scanner", "sipvicious", "sundayddr", "sip-scan", "sipcli"].map(Into::into).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let p = |a: &str, len| Prefix { addr: a.parse().unwrap(), len };
        assert!(p("127.0.0.0", 8).contains("127.9.9.9".parse().unwrap()));
        assert!(!p("127.0.0.0", 8).contains("128.0.0.1".parse().unwrap()));
        assert!(p("0.0.0.0", 0).contains("8.8.8.8".parse().unwrap()));
        assert!(p("127.0.0.1", 32).contains("::ffff:127.0.0.1".parse().unwrap()));
        assert!(p("2001:db8::", 32).contains("2001:db8:1::1".parse().unwrap()));
        assert!(!p("2001:db8::", 32).contains("2001:db9::1".parse().unwrap()));
    }
}
