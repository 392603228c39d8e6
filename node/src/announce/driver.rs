//! How an announcement is made.

use std::process::Stdio;
use std::time::Duration;

use sbc_core::io::Addresses;
use tokio::process::Command;
use tokio::time::timeout;

use super::bgp::BgpHandle;
use super::machine::Attempt;
use crate::transport::{AnycastProbe, BindError, TransportHandle};

/// How long a command may run: a withdrawal must not hang a drain.
const EXEC_LIMIT: Duration = Duration::from_secs(5);

/// How much of a failed command's stderr goes into the reason.
const STDERR_MAX: usize = 1024;

/// The drivers of this version.
#[derive(Clone)]
pub enum Driver {
    /// Holding the anycast sockets is announcing.
    Bind(TransportHandle),
    /// A command makes the announcement.
    Exec(Exec),
    /// The process itself speaks to the site's routers.
    Bgp(BgpHandle),
    /// Something outside announces; the state only shows whether this node may serve.
    None,
}

/// `program args... announce|withdraw`, with `ANYCAST` in its environment: the address, or both with a space between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Program and leading arguments; never empty.
    pub command: Vec<String>,
    /// The anycast address, one of each family at the most.
    pub anycast: Addresses,
}

impl Driver {
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self, Driver::Bind(_))
    }

    /// Nobody else is heard who would serve.
    pub(super) fn set_last(&self, last: bool) {
        if let Driver::Bgp(bgp) = self {
            bgp.set_last(last);
        }
    }

    pub(super) async fn probe(&self) -> Result<bool, String> {
        match self {
            Driver::Bind(t) => t.probe_anycast().await.map(|p| p == AnycastProbe::Free).map_err(|e| e.to_string()),
            Driver::Exec(_) | Driver::Bgp(_) | Driver::None => Ok(true),
        }
    }

    pub(super) async fn announce(&self) -> Attempt {
        match self {
            Driver::Bind(t) => match t.bind_anycast().await {
                Ok(()) => Attempt::Done,
                Err(BindError::InUse { .. }) => Attempt::InUse,
                Err(e) => Attempt::Failed(e.to_string()),
            },
            Driver::Exec(exec) => exec.run("announce").await.map_or_else(Attempt::Failed, |()| Attempt::Done),
            Driver::Bgp(bgp) => bgp.announce().await.map_or_else(Attempt::Failed, |()| Attempt::Done),
            Driver::None => Attempt::Done,
        }
    }

    pub(super) async fn withdraw(&self) -> Result<(), String> {
        match self {
            Driver::Bind(t) => {
                t.release_anycast().await;
                Ok(())
            }
            Driver::Exec(exec) => exec.run("withdraw").await,
            Driver::Bgp(bgp) => bgp.withdraw().await,
            Driver::None => Ok(()),
        }
    }
}

impl Exec {
    async fn run(&self, verb: &str) -> Result<(), String> {
        let (program, args) = self.command.split_first().ok_or("announce.command is empty")?;
        let mut command = Command::new(program);
        let addresses: Vec<String> = self.anycast.iter().map(|ip| ip.to_string()).collect();
        command.args(args).arg(verb).env("ANYCAST", addresses.join(" "));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let output = match timeout(EXEC_LIMIT, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(e)) => return Err(format!("{program} {verb}: {e}")),
            Err(_) => return Err(format!("{program} {verb}: still running after {} s, killed", EXEC_LIMIT.as_secs())),
        };
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(STDERR_MAX)]).trim().to_owned();
        Err(format!("{program} {verb}: {}: {stderr}", output.status))
    }
}
