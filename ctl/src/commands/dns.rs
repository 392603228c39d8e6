//! `dns zone|check`: how callers find the cluster, as it should be and as the DNS has it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use crate::args::DnsCommand;
use crate::client::Cluster;
use crate::error::{Exit, Failure};
use crate::output::{line, note};
use crate::zone::{self, Data, Record};

/// One question to one server.
const QUESTION: Duration = Duration::from_secs(2);
/// A lost datagram is asked for again.
const ATTEMPTS: usize = 2;

pub(super) async fn run(cluster: &Cluster, command: DnsCommand) -> Result<(), Failure> {
    let (name, ttl, server) = match command {
        DnsCommand::Zone { domain, ttl } => (domain, Some(ttl), None),
        DnsCommand::Check { domain, server } => (domain, None, server),
    };
    let domain = zone::domain(&name).map_err(|e| Failure::new(Exit::Usage, e).hint("for example sip.example.org"))?;
    let wanted = zone::records(&domain, &super::node::all_nodes(cluster).await?);
    match ttl {
        Some(ttl) => line(&zone::file(&domain, ttl, &wanted)),
        None => check(&domain, server, &wanted).await,
    }
}

async fn check(domain: &str, server: Option<SocketAddr>, wanted: &[Record]) -> Result<(), Failure> {
    let served = served(&resolver(server)?, wanted).await?;
    let differences = zone::differences(wanted, &served);
    if differences.is_empty() {
        note(&format!("{domain}: all {} records are served", wanted.len()));
        return Ok(());
    }
    differences.iter().try_for_each(|d| line(d))?;
    Err(Failure::silent(Exit::DiffFound))
}

fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, Failure> {
    let failed = |e: &dyn std::fmt::Display| Failure::failed("the DNS cannot be asked").cause(e);
    let mut builder = match server {
        None => TokioResolver::builder_tokio().map_err(|e| failed(&e).hint("name a server by --server"))?,
        Some(at) => {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut c| {
                c.port = at.port();
                c
            });
            let servers = vec![NameServerConfig::new(at.ip(), true, connections.into())];
            TokioResolver::builder_with_config(ResolverConfig::from_name_servers(servers), TokioRuntimeProvider::default())
        }
    };
    let options = builder.options_mut();
    options.timeout = QUESTION;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    // What this machine says of itself is not what callers see.
    options.use_hosts_file = ResolveHosts::Never;
    builder.build().map_err(|e| failed(&e))
}

/// What the DNS has under the names of the zone, of the types that the zone is about.
async fn served(resolver: &TokioResolver, wanted: &[Record]) -> Result<Vec<Record>, Failure> {
    let mut questions: BTreeSet<(&str, RecordType)> = BTreeSet::new();
    for record in wanted {
        let types: &[RecordType] = match record.data {
            Data::Naptr { .. } => &[RecordType::NAPTR],
            Data::Srv { .. } => &[RecordType::SRV],
            // Also the family that the host does not have: an address that nobody has would be tried.
            Data::Address(_) => &[RecordType::A, RecordType::AAAA],
        };
        questions.extend(types.iter().map(|t| (record.name.as_str(), *t)));
    }
    let mut served = Vec::new();
    for (name, kind) in questions {
        match resolver.lookup(name, kind).await {
            Ok(answer) => served
                .extend(answer.answers().iter().filter_map(|r| data(&r.data)).map(|data| Record { name: name.to_owned(), data })),
            Err(error) if error.is_no_records_found() => {}
            Err(error) => {
                return Err(Failure::new(Exit::Unreachable, format!("no answer about {name} {kind}"))
                    .cause(error)
                    .hint("name a server that serves the domain by --server"));
            }
        }
    }
    Ok(served)
}

/// What of an answer is compared. NAPTR of other services than SIP (RFC 3263 §4.1) are not ours.
fn data(data: &RData) -> Option<Data> {
    match data {
        RData::A(a) => Some(Data::Address(a.0.into())),
        RData::AAAA(a) => Some(Data::Address(a.0.into())),
        RData::SRV(s) => {
            let target = s.target.to_string().to_ascii_lowercase();
            Some(Data::Srv { priority: s.priority, weight: s.weight, port: s.port, target })
        }
        RData::NAPTR(n) => {
            let service = String::from_utf8_lossy(&n.services).to_ascii_uppercase();
            let usable = n.flags.eq_ignore_ascii_case(b"s") && n.regexp.is_empty();
            let target = n.replacement.to_string().to_ascii_lowercase();
            (usable && (service.starts_with("SIP+") || service.starts_with("SIPS+"))).then_some(Data::Naptr {
                order: n.order,
                preference: n.preference,
                service,
                target,
            })
        }
        _ => None,
    }
}
