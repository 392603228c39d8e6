//! The layout of a development cluster: its fixed addresses, and where its files lie.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::client::Cluster;
use crate::context::Context;
use crate::dev::args::{DirArg, Setting};
use crate::error::{Exit, Failure};
use crate::files;

/// The address that every node serves.
pub(crate) const ANYCAST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 100);
/// Port of SIP over UDP and TCP.
pub(crate) const SIP_PORT: u16 = 5060;
/// Port of SIP over TLS.
pub(crate) const SIP_TLS_PORT: u16 = 5061;
const GRPC_PORT: u16 = 7443;
const METRICS_PORT: u16 = 9464;
/// Where the built-in PSAP phone listens.
pub(crate) const PSAP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 2, 1)), SIP_PORT);
/// Name of the cluster.
pub(crate) const CLUSTER: &str = "dev";
/// The user whose certificate the context has.
pub(crate) const USER: &str = "admin";
/// Longest wait for one answer of a node on this machine.
const ANSWER: Duration = Duration::from_secs(10);

/// What was asked for; kept in the directory for the commands that come later.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Spec {
    /// 1..=9.
    pub(crate) nodes: u8,
    /// Where calls go; `None`: to the built-in phone.
    pub(crate) psap: Option<SocketAddr>,
    pub(crate) set: Vec<Setting>,
}

/// One node of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeSpec {
    pub(crate) name: String,
    /// 1..=9.
    pub(crate) id: u8,
}

impl NodeSpec {
    pub(crate) fn unicast(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 0, 10 + self.id)
    }

    pub(crate) fn core(&self) -> Ipv4Addr {
        Ipv4Addr::new(127, 0, 1, 10 + self.id)
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        (self.unicast(), GRPC_PORT).into()
    }

    pub(crate) fn metrics(&self) -> SocketAddr {
        (self.unicast(), METRICS_PORT).into()
    }

    /// How long it leaves a free anycast address to the nodes before it, milliseconds.
    pub(crate) fn preference_ms(&self) -> u32 {
        (u32::from(self.id) - 1) * 150
    }
}

/// A development cluster in its directory.
#[derive(Clone, Debug)]
pub(crate) struct Stand {
    pub(crate) dir: PathBuf,
    pub(crate) spec: Spec,
}

impl Stand {
    /// The one that `up` left in the directory.
    pub(crate) fn load(dir: &DirArg) -> Result<Stand, Failure> {
        let dir = directory(dir)?;
        let path = dir.join("stand.toml");
        if !path.exists() {
            return Err(Failure::new(Exit::NotFound, format!("there is no development cluster in {}", dir.display()))
                .hint("`sbcctl dev up` starts one"));
        }
        let spec = toml::from_str(&files::read(&path)?)
            .map_err(|e| Failure::failed(format!("{} is not what `sbcctl dev up` wrote", path.display())).cause(e))?;
        Ok(Stand { dir, spec })
    }

    /// Keeps what was asked for.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let text = toml::to_string(&self.spec).map_err(|e| Failure::failed("the settings cannot be kept").cause(e))?;
        files::write(&self.dir.join("stand.toml"), text.as_bytes())
    }

    /// Its nodes, node-a first.
    pub(crate) fn nodes(&self) -> Vec<NodeSpec> {
        (1..=self.spec.nodes).map(|id| NodeSpec { name: format!("node-{}", char::from(b'a' + id - 1)), id }).collect()
    }

    /// One of its nodes.
    pub(crate) fn node(&self, name: &str) -> Result<NodeSpec, Failure> {
        let nodes = self.nodes();
        nodes.iter().find(|n| n.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
            Failure::new(Exit::NotFound, format!("there is no node {name:?}")).hint(format!("there are: {}", names.join(", ")))
        })
    }

    /// Where calls go.
    pub(crate) fn psap(&self) -> SocketAddr {
        self.spec.psap.unwrap_or(PSAP)
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// Configuration of a node.
    pub(crate) fn config(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.toml"))
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    pub(crate) fn pid(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.pid"))
    }

    /// All that it may have started, in the order of their start.
    pub(crate) fn process_names(&self) -> Vec<String> {
        std::iter::once("psap".to_owned()).chain(self.nodes().into_iter().map(|n| n.name)).collect()
    }

    /// How to reach it over gRPC.
    pub(crate) fn context(&self) -> Context {
        let pki = self.pki();
        Context {
            endpoints: self.nodes().iter().map(|n| n.grpc().to_string()).collect(),
            ca: pki.join("ca.crt"),
            cert: pki.join(format!("{USER}.crt")),
            key: pki.join(format!("{USER}.key")),
        }
    }

    /// A client of it.
    pub(crate) fn cluster(&self) -> Result<Cluster, Failure> {
        Cluster::of(&self.context(), ANSWER)
    }
}

/// The directory that was named, absolute, or the default one.
pub(crate) fn directory(arg: &DirArg) -> Result<PathBuf, Failure> {
    match &arg.dir {
        None => Ok(files::xdg("XDG_STATE_HOME", ".local/state")?.join("sbcctl/dev")),
        Some(dir) => std::path::absolute(dir).map_err(|e| files::failure("find", dir, &e)),
    }
}

/// The daemon beside this program.
pub(crate) fn sbcd() -> Result<PathBuf, Failure> {
    let sbcd = own_path()?.with_file_name("sbcd");
    match sbcd.is_file() {
        true => Ok(sbcd),
        false => {
            Err(Failure::failed(format!("there is no {}", sbcd.display()))
                .hint("sbcd must lie beside sbcctl: build both (`make`)"))
        }
    }
}

/// This program.
pub(crate) fn own_path() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| files::failure("find", Path::new("sbcctl"), &e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::TempDir;

    #[test]
    fn the_addresses_are_fixed() {
        let stand = Stand { dir: "d".into(), spec: Spec { nodes: 3, psap: None, set: Vec::new() } };
        let nodes = stand.nodes();
        let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["node-a", "node-b", "node-c"]);
        assert_eq!(nodes[2].unicast().to_string(), "127.0.0.13");
        assert_eq!(nodes[0].core().to_string(), "127.0.1.11");
        assert_eq!(nodes[1].grpc().to_string(), "127.0.0.12:7443");
        assert_eq!(nodes.iter().map(NodeSpec::preference_ms).collect::<Vec<_>>(), [0, 150, 300]);
        assert_eq!(stand.psap().to_string(), "127.0.2.1:5060");
        assert_eq!(stand.node("node-d").unwrap_err().exit, Exit::NotFound);
    }

    #[test]
    fn what_was_asked_for_is_kept() {
        let dir = TempDir::new();
        let arg = DirArg { dir: Some(dir.0.clone()) };
        assert_eq!(Stand::load(&arg).unwrap_err().exit, Exit::NotFound);
        let spec =
            Spec { nodes: 2, psap: Some("127.0.2.9:5062".parse().unwrap()), set: vec!["log.filter=debug".parse().unwrap()] };
        Stand { dir: dir.0.clone(), spec: spec.clone() }.save().unwrap();
        assert_eq!(Stand::load(&arg).unwrap().spec, spec);
    }
}
