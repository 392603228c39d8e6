//! Where requests go: RFC 3263 for a client, on hickory-resolver.
//!
//! A literal address asks nobody. A port means A and AAAA. Else SRV of the transport (of UDP, then TCP, then TLS where nothing
//! is known; NAPTR, §4.1, goes before these: `Resolver::services` is its place), and A and AAAA where there is no SRV. Answers
//! are cached here, not in hickory, because they serve on when no server answers.

mod cache;
mod srv;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig as HickoryConfig,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use sbc_core::io::{HostAndPort, ResolveError, ResolveRequest, Target, Transport, TransportChoice};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use cache::Cache;
pub use srv::{Srv, order};

/// One question, retries included: two rounds (SRV, then addresses) end within the failover time of 2 s.
const QUERY_LIMIT: Duration = Duration::from_secs(1);

/// One server's turn within it, so that the second one is asked too.
const SERVER_LIMIT: Duration = Duration::from_millis(450);

/// Questions under way; more means that servers are down, and waiting longer would not help a call.
const QUERIES_MAX: usize = 256;

/// Targets in one answer: more are never tried within a caller's patience.
const TARGETS_MAX: usize = 16;

/// A name that does not exist is not asked for again within this time (RFC 2308 §5 allows hours, a mended zone should not wait).
const NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Bounds on an answer's time to live: below, each call would ask; above, a moved host would be missed for days.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(3600);

/// Where to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Servers; empty: those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Srv,
    Address,
}

#[derive(Clone, Debug)]
enum Records {
    Srv(Vec<Srv>),
    Addresses(Vec<IpAddr>),
    Nothing,
}

/// Answers [`ResolveRequest`]s. Shared by reference; each resolve may run in a task of its own.
pub struct Resolver {
    hickory: TokioResolver,
    cache: Mutex<Cache<(String, Kind), Records>>,
    queries: Semaphore,
    seed: RandomState,
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
        Ok(Resolver {
            hickory,
            cache: Mutex::new(Cache::new(cache::NAMES_MAX)),
            queries: Semaphore::new(QUERIES_MAX),
            seed: RandomState::new(),
        })
    }

    /// The targets of a request in the order to try, never empty.
    pub async fn resolve(&self, request: ResolveRequest) -> Result<Vec<Target>, ResolveError> {
        let ResolveRequest { target: HostAndPort { host, port }, transport } = request;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(&host);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Ok(vec![target(ip, port, default_transport(transport))]);
        }
        if port.is_none() {
            for (service, via) in Self::services(transport) {
                let targets = self.by_srv(&format!("{service}.{}.", host.trim_end_matches('.')), *via).await?;
                if !targets.is_empty() {
                    return Ok(targets);
                }
            }
        }
        let addresses = self.addresses(&host).await?;
        if addresses.is_empty() {
            return Err(ResolveError::NotFound);
        }
        let via = default_transport(transport);
        Ok(addresses.into_iter().map(|ip| target(ip, port, via)).take(TARGETS_MAX).collect())
    }

    /// RFC 3263 §4.1: the SRV services to ask for, in the order of preference. The first that has targets decides.
    fn services(transport: TransportChoice) -> &'static [(&'static str, Transport)] {
        match transport {
            TransportChoice::Any => {
                &[("_sip._udp", Transport::Udp), ("_sip._tcp", Transport::Tcp), ("_sips._tcp", Transport::Tls)]
            }
            TransportChoice::Fixed(Transport::Udp) => &[("_sip._udp", Transport::Udp)],
            TransportChoice::Fixed(Transport::Tcp) => &[("_sip._tcp", Transport::Tcp)],
            TransportChoice::Fixed(Transport::Tls) | TransportChoice::Secure => &[("_sips._tcp", Transport::Tls)],
        }
    }

    /// Targets by SRV; empty where there are no records, or none of their hosts has an address.
    async fn by_srv(&self, name: &str, via: Transport) -> Result<Vec<Target>, ResolveError> {
        let Records::Srv(records) = self.cached(name, Kind::Srv).await? else { return Ok(Vec::new()) };
        let mut draw = 0u64;
        let stamp = Instant::now();
        let ordered = order(records, |max| {
            draw += 1;
            let random = self.seed.hash_one((stamp, draw)) % (u64::from(max) + 1);
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
            Records::Srv(_) | Records::Nothing => Ok(Vec::new()),
        }
    }

    /// From the cache while it is fresh, else from the servers, else from the cache all the same.
    async fn cached(&self, name: &str, kind: Kind) -> Result<Records, ResolveError> {
        let key = (name.to_ascii_lowercase(), kind);
        if let Some(records) = self.lock().fresh(&key, Instant::now()) {
            return Ok(records);
        }
        let answer = match self.queries.try_acquire() {
            Ok(_permit) => timeout(QUERY_LIMIT, self.query(name, kind)).await.unwrap_or(Err(NetError::Timeout)),
            Err(_) => Err(NetError::Busy),
        };
        let now = Instant::now();
        match answer {
            Ok((records, ttl)) => {
                self.lock().put(key, records.clone(), ttl.clamp(TTL_MIN, TTL_MAX), now);
                Ok(records)
            }
            Err(error) if error.is_no_records_found() => {
                self.lock().put(key, Records::Nothing, NEGATIVE_TTL, now);
                Ok(Records::Nothing)
            }
            // A name that no DNS message can carry.
            Err(NetError::Proto(_)) => Ok(Records::Nothing),
            Err(error) => {
                let stale = self.lock().stale(&key, now);
                tracing::warn!(name, %error, stale = stale.is_some(), "DNS servers do not answer");
                stale.ok_or(ResolveError::Unavailable)
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

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache<(String, Kind), Records>> {
        self.cache.lock().expect("no panic while held")
    }
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
