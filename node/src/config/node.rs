//! The node's own configuration: what belongs to this machine.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sbc_core::ids::NodeId;
use sbc_core::io::Addresses;
use sbc_core::replica::LEVEL;

use super::announce::AnnounceSection;
use super::fault::Faults;
use super::reader::{Reader, Section};
use super::sip_tls::SipTlsSection;

/// Nodes of one cluster: Raft voters and the peers that each connects to.
const MEMBERS_CAP: usize = 64;

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// Its name, unique in the cluster; the certificate names it too.
    pub name: String,
    /// Its id, never used again after a disk was wiped.
    pub id: NodeId,
    /// The log, snapshots, incarnation.
    pub data_dir: PathBuf,
    /// Where it finds the secrets that the cluster's configuration names.
    pub secrets_dir: Option<PathBuf>,
    /// Whom it belongs to.
    pub cluster: ClusterSection,
    /// Where SIP is served.
    pub sip: SipSection,
    /// Certificate files.
    pub tls: TlsSection,
    /// The control plane and peers.
    pub grpc_listen: SocketAddr,
    /// Announcing the anycast address.
    pub announce: AnnounceSection,
    /// Media.
    pub media: MediaSection,
    /// Where /metrics and /healthz are served, if at all.
    pub metrics_listen: Option<SocketAddr>,
    /// Logging.
    pub log: LogSection,
    /// Raft's timers.
    pub raft: RaftSection,
    /// DNS servers instead of the system's; empty: the system's.
    pub dns_servers: Vec<SocketAddr>,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSection {
    /// The cluster's name: the trust domain of its certificates.
    pub id: String,
    /// 32 secret octets under which owner tokens are minted.
    pub key_file: PathBuf,
    /// Those before the last rotation, and those after the coming one: their tokens are accepted, too.
    pub other_key_files: Vec<PathBuf>,
    /// 32 secret octets that claims and called legs are named by, on all nodes the same at any moment; `None`: those of `key_file`.
    pub identity_key_file: Option<PathBuf>,
    /// The configuration that the first leader proposes when the log has none.
    pub config_file: Option<PathBuf>,
    /// The format level of the log that this node is held at; `None`: the newest that it knows.
    pub format_level: Option<u32>,
    /// All nodes, this one included.
    pub members: Vec<Member>,
}

/// `[[cluster.members]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name.
    pub name: String,
    /// Id.
    pub id: NodeId,
    /// Address of its gRPC listener: peers and control.
    pub peer: SocketAddr,
    /// External unicast address.
    pub unicast: Addresses,
    /// Core-side address.
    pub core: Addresses,
}

/// `[sip]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipSection {
    /// The address that every node serves.
    pub anycast: Addresses,
    /// This node's external address.
    pub unicast: Addresses,
    /// This node's core-side address.
    pub core: Addresses,
    /// UDP and TCP.
    pub port: u16,
    /// TLS.
    pub tls_port: u16,
    /// Certificates for SIP; `None`: those of `[tls]`.
    pub tls: Option<SipTlsSection>,
}

/// `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSection {
    /// The cluster's CA.
    pub ca: PathBuf,
    /// This node's certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Who forwards RTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaEngine {
    /// This process.
    Embedded,
    /// Nobody: SDP passes unchanged.
    None,
}

/// `[media]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSection {
    /// Who.
    pub engine: MediaEngine,
    /// First and last port, even RTP ports with RTCP above each.
    pub ports: [u16; 2],
    /// Forwarding threads; `None`: one a core.
    pub threads: Option<usize>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSection {
    /// As tracing's EnvFilter.
    pub filter: String,
    /// Form.
    pub format: LogFormat,
}

/// `[raft]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftSection {
    /// Between heartbeats of the leader.
    pub heartbeat: Duration,
    /// Election timeout, lowest and highest.
    pub election: [Duration; 2],
    /// How old a quorum's confirmation may be (anycast.md, rule I).
    pub lease: Duration,
    /// Log octets after which a snapshot is written.
    pub snapshot_log_bytes: u64,
}

impl Default for RaftSection {
    fn default() -> RaftSection {
        RaftSection {
            heartbeat: Duration::from_millis(250),
            election: [Duration::from_millis(1000), Duration::from_millis(1500)],
            lease: Duration::from_secs(2),
            snapshot_log_bytes: 64 << 20,
        }
    }
}

impl NodeConfig {
    /// Parses and validates. Relative paths are taken from `base`, the directory of the file. All faults at once.
    pub fn parse(text: &str, base: &Path) -> Result<NodeConfig, Faults> {
        let reader = Reader::new(text);
        let Some(table) = reader.parse() else { return reader.finish(None) };
        let config = {
            let root = reader.root(&table);
            read(&reader, &root, base)
        };
        reader.finish(config)
    }

    /// Where the secrets are: `secrets_dir`, else what systemd has handed over.
    pub fn secrets(&self) -> super::SecretsDir {
        let handed = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        super::SecretsDir::new(self.secrets_dir.as_deref(), handed.as_deref())
    }

    /// This node among the members.
    pub fn this_member(&self) -> &Member {
        self.cluster.members.iter().find(|m| m.id == self.id).expect("validated: the node is a member")
    }
}

fn read(reader: &Reader<'_>, root: &Section<'_>, base: &Path) -> Option<NodeConfig> {
    let path = |p: &str| base.join(p);
    // Each table is read before any `?`, so that faults of all of them are seen.
    let node = root.required_section("node");
    let name = node.as_ref().and_then(|n| n.required("name"));
    let id = node.as_ref().and_then(|n| node_id(n, "id"));
    let data_dir = node.as_ref().and_then(|n| n.required("data_dir"));
    let secrets_dir = node.as_ref().and_then(|n| n.string("secrets_dir"));
    let cluster = root.required_section("cluster").and_then(|s| cluster(reader, &s, base));
    let sip = root.required_section("sip").and_then(|s| sip(reader, &s, base));
    let tls = root.required_section("tls").and_then(|s| {
        let (ca, cert, key) = (s.required("ca"), s.required("cert"), s.required("key"));
        Some(TlsSection { ca: path(ca?.value), cert: path(cert?.value), key: path(key?.value) })
    });
    let grpc = root.required_section("grpc").and_then(|s| s.required_parsed::<SocketAddr>("listen", ADDR_PORT));
    let announce = super::announce::read(reader, root, base, sip.as_ref());
    let media = media(reader, root);
    let metrics = root.section("metrics").and_then(|s| s.parsed::<SocketAddr>("listen", ADDR_PORT));
    let log = log(reader, root);
    let raft = raft(reader, root);
    let mut dns_servers = Vec::new();
    if let Some(dns) = root.section("dns") {
        for server in dns.strings("servers") {
            let parsed = server.value.parse().or_else(|_| server.value.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)));
            match parsed {
                Ok(addr) => dns_servers.push(addr),
                Err(_) => reader.fault_at(&server, format!("expected an address, found \"{}\"", server.value), ""),
            }
        }
    }
    if let (Some(name), Some(id), Some(cluster), Some(sip)) = (&name, id, &cluster, &sip) {
        match cluster.members.iter().find(|m| m.id == id) {
            None => {
                reader.fault_at(name, "this node is not among [[cluster.members]]", format!("add a member with id = {}", id.0))
            }
            Some(m) if m.name != name.value => {
                reader.fault_at(name, format!("the member with id {} is called \"{}\"", id.0, m.name), "");
            }
            Some(m) if m.unicast != sip.unicast || m.core != sip.core => {
                reader.fault_at(name, "[sip] and this node's entry in [[cluster.members]] have different addresses", "");
            }
            Some(_) => {}
        }
    }
    Some(NodeConfig {
        name: name?.value.to_owned(),
        id: id?,
        data_dir: path(data_dir?.value),
        secrets_dir: secrets_dir.map(|d| path(d.value)),
        cluster: cluster?,
        sip: sip?,
        tls: tls?,
        grpc_listen: grpc?.value,
        announce: announce?,
        media: media?,
        metrics_listen: metrics.map(|m| m.value),
        log: log?,
        raft: raft?,
        dns_servers,
    })
}

const ADDR_PORT: &str = "an address with a port, such as \"127.0.0.1:7443\"";

fn node_id(section: &Section<'_>, key: &'static str) -> Option<NodeId> {
    if !section.has(key) {
        section.missing(key);
    }
    section.number(key, 1..=65_535).and_then(|n| u16::try_from(n).ok()).map(NodeId)
}

fn cluster(reader: &Reader<'_>, section: &Section<'_>, base: &Path) -> Option<ClusterSection> {
    let id = section.required("id");
    let key_file = section.required("key_file");
    let others = ["previous_key_file", "next_key_file"].map(|key| section.string(key));
    let identity = section.string("identity_key_file");
    if let Some(other) = others.iter().flatten().next().filter(|_| identity.is_none()) {
        let hint = "write identity_key_file too (at the first time: the present key), and leave it when the others change";
        reader.fault_at(other, "keys cannot be exchanged node by node: claims and called legs are named by key_file", hint);
    }
    let config_file = section.string("config_file");
    let listed = section.sections("members");
    if listed.is_empty() {
        section.missing("members");
    }
    if listed.len() > MEMBERS_CAP {
        reader.fault(section.span.clone(), "cluster.members", format!("more than {MEMBERS_CAP} members"), "");
    }
    let mut members: Vec<Member> = Vec::new();
    for s in &listed {
        let (name, id) = (s.required("name"), node_id(s, "id"));
        let peer = s.required_parsed::<SocketAddr>("peer", ADDR_PORT);
        let (unicast, core) = (s.required_addresses("unicast"), s.required_addresses("core"));
        let (Some(name), Some(id), Some(peer), Some(unicast), Some(core)) = (name, id, peer, unicast, core) else { continue };
        for other in &members {
            if other.id == id || other.name == name.value {
                reader.fault_at(&name, format!("members {} and {} have the same name or id", other.name, name.value), "");
            }
            if other.unicast.overlaps(&unicast.value) {
                reader.fault_at(&unicast, format!("{} is the unicast address of {}", unicast.value, other.name), "");
            }
            if other.peer == peer.value {
                reader.fault_at(&peer, format!("{} is the peer address of {}", peer.value, other.name), "");
            }
        }
        members.push(Member { name: name.value.into(), id, peer: peer.value, unicast: unicast.value, core: core.value });
    }
    Some(ClusterSection {
        id: id?.value.to_owned(),
        key_file: base.join(key_file?.value),
        other_key_files: others.into_iter().flatten().map(|p| base.join(p.value)).collect(),
        identity_key_file: identity.map(|p| base.join(p.value)),
        config_file: config_file.map(|p| base.join(p.value)),
        format_level: section.number("format_level", 1..=LEVEL.into()).and_then(|n| u32::try_from(n).ok()),
        members,
    })
}

fn sip(reader: &Reader<'_>, section: &Section<'_>, base: &Path) -> Option<SipSection> {
    let anycast = section.required_addresses("anycast");
    let unicast = section.required_addresses("unicast");
    let core = section.required_addresses("core");
    let port = |key| section.number(key, 1..=65_535).and_then(|p| u16::try_from(p).ok());
    let (port, tls_port) = (port("port").unwrap_or(5060), port("tls_port").unwrap_or(5061));
    let tls = super::sip_tls::read(section, base);
    let (anycast, unicast, core) = (anycast?, unicast?, core?);
    if anycast.value.overlaps(&unicast.value) || anycast.value.overlaps(&core.value) {
        reader.fault_at(&anycast, "the anycast address must differ from unicast and core", "");
    }
    // A caller must be given a Contact that it can reach, by the family that it came with.
    let lacking = anycast.value.iter().find(|any| unicast.value.of(*any).is_none());
    if let Some(any) = lacking {
        let family = if any.is_ipv4() { "IPv4" } else { "IPv6" };
        reader.fault_at(&unicast, format!("the anycast address {any} needs a unicast address of {family} beside it"), "");
    }
    if unicast.value.overlaps(&core.value) {
        reader.fault_at(&core, "the core address must differ from unicast", "it tells the two realms apart");
    }
    if port == tls_port {
        reader.fault(section.span.clone(), "sip.tls_port", "port and tls_port must differ: both listen on TCP", "");
    }
    Some(SipSection { anycast: anycast.value, unicast: unicast.value, core: core.value, port, tls_port, tls: tls? })
}

fn media(reader: &Reader<'_>, root: &Section<'_>) -> Option<MediaSection> {
    let default = MediaSection { engine: MediaEngine::Embedded, ports: [10_000, 32_767], threads: None };
    let Some(s) = root.section("media") else { return Some(default) };
    let engine = s.word("engine", &[("embedded", MediaEngine::Embedded), ("none", MediaEngine::None)]);
    let pair = s.pair("ports", 1024..=65_535);
    let ports = match pair {
        Some([low, high]) => [u16::try_from(low).ok()?, u16::try_from(high).ok()?],
        None => default.ports,
    };
    if ports[1] - ports[0] < 3 {
        reader.fault(s.span.clone(), "media.ports", "a call needs four ports at least", "");
    }
    let threads = s.number("threads", 1..=256).and_then(|n| usize::try_from(n).ok());
    if engine.is_none() && s.has("engine") {
        return None;
    }
    Some(MediaSection { engine: engine.unwrap_or(default.engine), ports, threads })
}

fn log(reader: &Reader<'_>, root: &Section<'_>) -> Option<LogSection> {
    let default = LogSection { filter: "info".to_owned(), format: LogFormat::Json };
    let Some(s) = root.section("log") else { return Some(default) };
    let format = s.word("format", &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
    let filter = match s.string("filter") {
        None => default.filter,
        Some(f) => {
            if let Err(e) = tracing_subscriber::EnvFilter::builder().parse(f.value) {
                reader.fault_at(&f, format!("no log filter: {e}"), "for example \"info\" or \"info,sbc_node=debug\"");
            }
            f.value.to_owned()
        }
    };
    Some(LogSection { filter, format: format.unwrap_or(default.format) })
}

fn raft(reader: &Reader<'_>, root: &Section<'_>) -> Option<RaftSection> {
    let mut raft = RaftSection::default();
    let Some(s) = root.section("raft") else { return Some(raft) };
    if let Some(ms) = s.number("heartbeat_ms", 10..=10_000) {
        raft.heartbeat = Duration::from_millis(ms);
    }
    if let Some([low, high]) = s.pair("election_ms", 50..=60_000) {
        raft.election = [Duration::from_millis(low), Duration::from_millis(high)];
    }
    if let Some(ms) = s.number("lease_ms", 100..=60_000) {
        raft.lease = Duration::from_millis(ms);
    }
    if let Some(bytes) = s.number("snapshot_log_bytes", 1 << 16..=1 << 34) {
        raft.snapshot_log_bytes = bytes;
    }
    if raft.election[0] < raft.heartbeat * 2 {
        let message = "the election timeout must be at least two heartbeats";
        reader.fault(s.span.clone(), "raft.election_ms", message, "one lost heartbeat would depose a good leader");
    }
    if raft.election[0] == raft.election[1] {
        reader.fault(s.span.clone(), "raft.election_ms", "low and high must differ", "equal timeouts split votes for ever");
    }
    Some(raft)
}
