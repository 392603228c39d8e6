//! Where requests go: RFC 3263 for a client, on hickory-resolver.
//!
//! A literal address asks nobody. A port means A and AAAA. A given transport means its SRV. Else NAPTR says which SRV names in
//! which order, and without NAPTR the SRV of UDP, then TCP, then TLS are tried; A and AAAA where there is no SRV. The name that
//! a certificate must have is always the one that was asked for (RFC 5922 §7.1), so no answer carries one.
//!
//! Answers are cached here, not in hickory, because they serve on when no server answers. Questions run in tasks of their own,
//! one for all who ask the same: a caller who has an old answer does not wait for a server that hangs.

mod cache;
mod naptr;
mod srv;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig as HickoryConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::NAPTR;
use hickory_resolver::proto::rr::{RData, RecordType};
use sbc_core::io::{HostAndPort, ResolveError, ResolveRequest, Target, Transport, TransportChoice};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use cache::{Cache, Found};
pub use naptr::{Naptr, services};
pub use srv::{Srv, order};

/// A whole look-up, all its rounds: the failover time, after which a call is better off with its next target.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(2);

/// One question, retries included: two rounds (NAPTR and SRV together, then addresses) end within the look-up.
const QUERY_LIMIT: Duration = Duration::from_secs(1);

/// How long one who has an old answer waits for a new one, once; a server that answers at all mostly does within it.
const STALE_WAIT: Duration = Duration::from_millis(150);

/// One server's turn within it, so that the second one is asked too.
const SERVER_LIMIT: Duration = Duration::from_millis(450);

/// Questions under way; more means that servers are down, and waiting longer would not help a call.
pub const QUERIES_MAX: usize = 256;

/// Targets in one answer: more are never tried within a caller's patience.
const TARGETS_MAX: usize = 16;

/// SRV names that one NAPTR answer may lead to; there are three transports.
const SERVICES_MAX: usize = 6;

/// A name that does not exist is not asked for again within this time (RFC 2308 §5 allows hours, a mended zone should not wait).
const NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Bounds on an answer's time to live: below, each call would ask; above, a moved host would be missed for days.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Where to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// Servers; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Questions under way at the most; each may take two sockets.
    pub questions: usize,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig { servers: Vec::new(), questions: QUERIES_MAX }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Naptr,
    Srv,
    Address,
}

#[derive(Clone, Debug)]
enum Records {
    Naptr(Vec<Naptr>),
    Srv(Vec<Srv>),
    Addresses(Vec<IpAddr>),
    Nothing,
}

type Key = (String, Kind);
type Answer = Result<Records, ResolveError>;

/// Answers [`ResolveRequest`]s. Shared by reference; each resolve may run in a task of its own.
pub struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    hickory: TokioResolver,
    questions: usize,
    cache: Mutex<Cache<Key, Records>>,
    /// Questions under way, at most `questions`.
    asking: Mutex<HashMap<Key, watch::Receiver<Option<Answer>>>>,
}

impl Resolver {
    /// Builds the resolver; fails where /etc/resolv.conf is needed and cannot be read, with the reason for people.
    pub fn new(config: &DnsConfig) -> Result<Resolver, String> {
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(|e| format!("/etc/resolv.conf: {e}"))?
        } else {
            let servers = config.servers.iter().map(|s| server(*s)).collect();
            TokioResolver::builder_with_config(HickoryConfig::from_name_servers(servers), TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.timeout = SERVER_LIMIT;
        options.attempts = 1;
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Always;
        let hickory = builder.build().map_err(|e| format!("DNS: {e}"))?;
        let (cache, asking) = (Mutex::new(Cache::new(cache::NAMES_MAX)), Mutex::default());
        Ok(Resolver { shared: Arc::new(Shared { hickory, questions: config.questions, cache, asking }) })
    }

    /// The targets of a request in the order to try, never empty.
    pub async fn resolve(&self, request: ResolveRequest) -> Result<Vec<Target>, ResolveError> {
        let ResolveRequest { target: HostAndPort { host, port }, transport } = request;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![target(ip, port, default_transport(transport))]);
        }
        timeout(LOOK_UP_LIMIT, self.by_name(&host, port, transport)).await.unwrap_or(Err(ResolveError::Unavailable))
    }

    async fn by_name(&self, host: &str, port: Option<u16>, transport: TransportChoice) -> Result<Vec<Target>, ResolveError> {
        let mut failed = None;
        if port.is_none() {
            // For servers that fail at SRV, or a name of the hosts file while they are down: its address is better than nothing
            // (RFC 3263 §4.2), and is there when the other questions have ended in vain.
            self.shared.prefetch(host, Kind::Address);
            match self.by_service(host.trim_end_matches('.'), transport).await {
                Ok(targets) if !targets.is_empty() => return Ok(targets),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        let addresses = self.addresses(host).await.map_err(|error| failed.unwrap_or(error))?;
        if addresses.is_empty() {
            return Err(failed.unwrap_or(ResolveError::NotFound));
        }
        let via = default_transport(transport);
        Ok(addresses.into_iter().map(|ip| target(ip, port, via)).take(TARGETS_MAX).collect())
    }

    /// RFC 3263 §4.1: by NAPTR where the transport is open, else by the SRV names that every domain has.
    async fn by_service(&self, host: &str, transport: TransportChoice) -> Result<Vec<Target>, ResolveError> {
        let usual = usual_services(host, transport);
        if let TransportChoice::Any | TransportChoice::Secure = transport {
            // Together with NAPTR, for domains without it or servers that never answer it.
            for (name, _) in &usual {
                self.shared.prefetch(name, Kind::Srv);
            }
            if let Ok(Records::Naptr(records)) = self.cached(&format!("{host}."), Kind::Naptr).await {
                let targets = self.by_all(services(records, transport == TransportChoice::Secure)).await?;
                if !targets.is_empty() {
                    return Ok(targets);
                }
            }
        }
        // Without NAPTR the first transport that is offered decides: the others may not be meant for us.
        let mut failed = None;
        for (name, via) in usual {
            match self.by_srv(&name, via).await {
                Ok(targets) if !targets.is_empty() => return Ok(targets),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Vec::new()), Err)
    }

    /// The targets of several SRV names, one name after the other; an error only where none has any.
    async fn by_all(&self, services: Vec<(String, Transport)>) -> Result<Vec<Target>, ResolveError> {
        let services = services.into_iter().take(SERVICES_MAX);
        let answers = futures::future::join_all(services.map(|(name, via)| async move { self.by_srv(&name, via).await })).await;
        let unavailable = answers.iter().any(Result::is_err);
        let mut targets: Vec<Target> = answers.into_iter().flatten().flatten().collect();
        if targets.is_empty() && unavailable {
            return Err(ResolveError::Unavailable);
        }
        targets.truncate(TARGETS_MAX);
        Ok(targets)
    }

    /// Targets by SRV; empty where there are no records, or none of their hosts has an address.
    async fn by_srv(&self, name: &str, via: Transport) -> Result<Vec<Target>, ResolveError> {
        let Records::Srv(records) = self.cached(name, Kind::Srv).await? else { return Ok(Vec::new()) };
        let ordered = order(records, |max| {
            // A kernel that gives none leaves the order that the records came in.
            let random = getrandom::u64().unwrap_or(0) % (u64::from(max) + 1);
            u32::try_from(random).expect("at most max")
        });
        let mut targets = Vec::new();
        // RFC 2782: a target of "." means that the service is not offered.
        let offered: Vec<Srv> = ordered.into_iter().filter(|r| r.target != ".").take(TARGETS_MAX).collect();
        let answers = futures::future::join_all(offered.iter().map(|r| self.addresses(&r.target))).await;
        let mut unavailable = false;
        for (record, answer) in offered.iter().zip(answers) {
            match answer {
                Ok(ips) => targets.extend(ips.into_iter().map(|ip| target(ip, Some(record.port), via))),
                Err(_) => unavailable = true,
            }
        }
        if targets.is_empty() && unavailable {
            return Err(ResolveError::Unavailable);
        }
        targets.truncate(TARGETS_MAX);
        Ok(targets)
    }

    async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match self.cached(host, Kind::Address).await? {
            Records::Addresses(ips) => Ok(ips),
            Records::Naptr(_) | Records::Srv(_) | Records::Nothing => Ok(Vec::new()),
        }
    }

    /// From the cache while it is fresh, else from the servers, else from the cache all the same.
    async fn cached(&self, name: &str, kind: Kind) -> Answer {
        let key = (name.to_ascii_lowercase(), kind);
        let found = self.shared.cache().find(&key, Instant::now());
        let mut answer = match &found {
            Found::Fresh { value, due } => {
                if *due {
                    self.shared.ask(&key);
                }
                return Ok(value.clone());
            }
            Found::Stale { .. } | Found::None => match self.shared.ask(&key) {
                Some(answer) => answer,
                None => return found.into_value().ok_or(ResolveError::Unavailable),
            },
        };
        let wait = match &found {
            Found::Stale { outage: true, .. } => Duration::ZERO,
            Found::Stale { .. } => STALE_WAIT,
            _ => QUERY_LIMIT,
        };
        let answered = match timeout(wait, answer.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        match answered {
            Some(Ok(records)) => Ok(records),
            Some(Err(_)) | None => found.into_value().ok_or(ResolveError::Unavailable),
        }
    }
}

impl Shared {
    fn prefetch(self: &Arc<Self>, name: &str, kind: Kind) {
        let key = (name.to_ascii_lowercase(), kind);
        if matches!(self.cache().find(&key, Instant::now()), Found::None) {
            self.ask(&key);
        }
    }

    /// Asks the servers, in a task that goes on when nobody waits, or joins one that does. `None`: too many questions.
    fn ask(self: &Arc<Self>, key: &Key) -> Option<watch::Receiver<Option<Answer>>> {
        let mut asking = self.asking.lock().expect("no panic while held");
        if let Some(answer) = asking.get(key) {
            return Some(answer.clone());
        }
        if asking.len() >= self.questions {
            return None;
        }
        let (tell, answer) = watch::channel(None);
        asking.insert(key.clone(), answer.clone());
        let (shared, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            let answer = shared.ask_servers(&key).await;
            shared.asking.lock().expect("no panic while held").remove(&key);
            tell.send_replace(Some(answer));
        });
        Some(answer)
    }

    async fn ask_servers(&self, key: &Key) -> Answer {
        let (name, kind) = (&key.0, key.1);
        let answer = timeout(QUERY_LIMIT, self.query(name, kind)).await.unwrap_or(Err(NetError::Timeout));
        let now = Instant::now();
        match answer {
            Ok((records, ttl)) => {
                self.cache().put(key.clone(), records.clone(), ttl.clamp(TTL_MIN, TTL_MAX), now);
                Ok(records)
            }
            Err(error) if error.is_no_records_found() => {
                self.cache().put(key.clone(), Records::Nothing, NEGATIVE_TTL, now);
                Ok(Records::Nothing)
            }
            // A name that no DNS message can carry.
            Err(NetError::Proto(_)) => Ok(Records::Nothing),
            Err(error) => {
                let stale = self.cache().hold(key, now);
                tracing::warn!(name, ?kind, %error, stale, "DNS servers do not answer");
                Err(ResolveError::Unavailable)
            }
        }
    }

    async fn query(&self, name: &str, kind: Kind) -> Result<(Records, Duration), NetError> {
        let left = |until: std::time::Instant| until.saturating_duration_since(std::time::Instant::now());
        match kind {
            Kind::Address => {
                let answer = self.hickory.lookup_ip(name).await?;
                Ok((Records::Addresses(answer.iter().collect()), left(answer.valid_until())))
            }
            Kind::Naptr => {
                let answer = self.hickory.lookup(name, RecordType::NAPTR).await?;
                let records = answer.answers().iter().filter_map(|r| match &r.data {
                    RData::NAPTR(n) => Some(naptr(n)),
                    _ => None,
                });
                Ok((Records::Naptr(records.collect()), left(answer.valid_until())))
            }
            Kind::Srv => {
                let answer = self.hickory.lookup(name, RecordType::SRV).await?;
                let records = answer.answers().iter().filter_map(|r| match &r.data {
                    RData::SRV(s) => {
                        Some(Srv { priority: s.priority, weight: s.weight, port: s.port, target: s.target.to_string() })
                    }
                    _ => None,
                });
                Ok((Records::Srv(records.collect()), left(answer.valid_until())))
            }
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache<Key, Records>> {
        self.cache.lock().expect("no panic while held")
    }
}

fn naptr(n: &NAPTR) -> Naptr {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Naptr {
        order: n.order,
        preference: n.preference,
        flags: text(&n.flags),
        service: text(&n.services),
        regexp: text(&n.regexp),
        replacement: n.replacement.to_string(),
    }
}

/// The SRV names of a domain that are asked for without NAPTR, in the order of preference.
fn usual_services(host: &str, transport: TransportChoice) -> Vec<(String, Transport)> {
    let services: &[_] = match transport {
        TransportChoice::Any => &[("_sip._udp", Transport::Udp), ("_sip._tcp", Transport::Tcp), ("_sips._tcp", Transport::Tls)],
        TransportChoice::Fixed(Transport::Udp) => &[("_sip._udp", Transport::Udp)],
        TransportChoice::Fixed(Transport::Tcp) => &[("_sip._tcp", Transport::Tcp)],
        TransportChoice::Fixed(Transport::Tls) | TransportChoice::Secure => &[("_sips._tcp", Transport::Tls)],
    };
    services.iter().map(|(service, via)| (format!("{service}.{host}."), *via)).collect()
}

fn server(addr: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
        c.port = addr.port();
        c
    });
    NameServerConfig::new(addr.ip(), true, connections.into())
}

/// RFC 3263 §4.1: UDP for `sip:`, TLS for `sips:`, where nothing says otherwise.
fn default_transport(choice: TransportChoice) -> Transport {
    match choice {
        TransportChoice::Fixed(t) => t,
        TransportChoice::Secure => Transport::Tls,
        TransportChoice::Any => Transport::Udp,
    }
}

fn target(ip: IpAddr, port: Option<u16>, transport: Transport) -> Target {
    // RFC 3261 §19.1.2.
    let default = if transport == Transport::Tls { 5061 } else { 5060 };
    Target { addr: SocketAddr::new(ip, port.unwrap_or(default)), transport }
}
