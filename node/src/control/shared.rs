//! What all services use: the node's handle, names, paging tokens, the way to another node.

use std::sync::{Arc, PoisonError, RwLockReadGuard};
use std::time::Duration;

use sbc_core::ids::{CallUid, NodeId};
use sbc_core::replica::{EarlyCalls, Replica};
use sbc_core::store_pb;
use sbc_core::store_pb::command::Kind;
use sbc_proto::v1::ErrorReason;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::auth::{Caller, ON_BEHALF_OF};
use super::error::{fault, no_node, not_proposed, unreachable};
use super::handle::{NodeHandle, ProposeError};
use super::map::Names;
use crate::config::Member;

/// Entries of one page: the default and the limit.
pub(crate) const PAGE_MAX: usize = 1000;
/// For one proposal, or one linearizable read.
const BUDGET: Duration = Duration::from_secs(5);
/// For an RPC that is forwarded to another node.
pub(crate) const FORWARD_BUDGET: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) node: Arc<dyn NodeHandle>,
    pub(crate) names: Arc<Names>,
}

/// Where an RPC is to be carried out.
pub(crate) enum Place {
    Here,
    There(String, Channel),
}

impl Shared {
    pub(crate) fn new(node: Arc<dyn NodeHandle>) -> Shared {
        let names = Arc::new(Names::of(node.config()));
        Shared { node, names }
    }

    /// Reads the replicated state; not across an await.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Replica) -> T) -> T {
        let replica = self.node.replica();
        // A writer that panicked has stopped the process; reads in between see the last good state.
        let guard: RwLockReadGuard<'_, Replica> = replica.read().unwrap_or_else(PoisonError::into_inner);
        f(&guard)
    }

    /// Puts a command into the log.
    pub(crate) async fn commit(&self, unix_ms: u64, kind: Kind, request_id: &str) -> Result<(), Status> {
        let command = store_pb::Command { unix_ms, kind: Some(kind) };
        let outcome = tokio::time::timeout(BUDGET, self.node.propose(command)).await.unwrap_or(Err(ProposeError::Unknown));
        outcome.map(drop).map_err(|e| not_proposed(&e, &self.node.raft_status(), &self.leader_name(), request_id))
    }

    /// Returns when this node knows all that was committed at the time of the call.
    pub(crate) async fn linearizable(&self) -> Result<(), Status> {
        let done = tokio::time::timeout(BUDGET, self.node.linearizable()).await.unwrap_or(Err(ProposeError::NoQuorum));
        done.map_err(|e| not_proposed(&e, &self.node.raft_status(), &self.leader_name(), ""))
    }

    /// An error while a node of an older version is a member: it could not read what this would write into the log.
    pub(crate) fn needs_level(&self, needed: u32) -> Result<(), Status> {
        let level = self.read(Replica::level);
        if level >= needed {
            return Ok(());
        }
        let message = format!("the log is at level {level}, this needs {needed}: a node of an older version is a member");
        let facts = [("level", level.to_string()), ("needed", needed.to_string())];
        let facts: Vec<(&str, &str)> = facts.iter().map(|(k, v)| (*k, v.as_str())).collect();
        Err(fault(Code::FailedPrecondition, ErrorReason::LevelTooLow, message, &facts))
    }

    /// Reads what the log does not have of this node's calls; not across an await.
    pub(crate) fn read_early<T>(&self, f: impl FnOnce(&EarlyCalls) -> T) -> T {
        f(&self.node.early().read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn me(&self) -> NodeId {
        self.node.config().id
    }

    pub(crate) fn my_name(&self) -> &str {
        &self.node.config().name
    }

    pub(crate) fn leader_name(&self) -> String {
        self.node.raft_status().leader.map(|l| self.names.name(l)).unwrap_or_default()
    }

    /// An error when a filter names a node that there is not; empty: any. One that is a member no more goes by its number.
    pub(crate) fn known_node(&self, name: &str) -> Result<(), Status> {
        let gone = name.strip_prefix("node ").is_some_and(|id| id.parse::<u16>().is_ok());
        let known = gone || name.is_empty() || self.node.config().cluster.members.iter().any(|m| m.name == name);
        if known { Ok(()) } else { Err(no_node(name)) }
    }

    /// The place of a node named in a request; empty: this one. One hop: what was forwarded is done here or fails.
    pub(crate) fn place(&self, name: &str, caller: &Caller) -> Result<Place, Status> {
        if name.is_empty() || name == self.my_name() {
            return Ok(Place::Here);
        }
        self.place_of(self.member(name)?.id, caller)
    }

    /// The member of that name.
    pub(crate) fn member(&self, name: &str) -> Result<&Member, Status> {
        self.node.config().cluster.members.iter().find(|m| m.name == name).ok_or_else(|| no_node(name))
    }

    /// The same by id.
    pub(crate) fn place_of(&self, id: NodeId, caller: &Caller) -> Result<Place, Status> {
        if id == self.me() {
            return Ok(Place::Here);
        }
        let name = self.names.name(id);
        if caller.forwarded {
            return Err(unreachable(&name, "the request was forwarded once already"));
        }
        let channel = self.node.peer(id).ok_or_else(|| unreachable(&name, "no link"))?;
        Ok(Place::There(name, channel))
    }
}

/// Who asks: put there by the auth layer before any service runs.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let missing = || fault(Code::Unauthenticated, ErrorReason::NoIdentity, "nobody has authorised this request", &[]);
    request.extensions().get::<Caller>().cloned().ok_or_else(missing)
}

/// A request to another node for the same asker.
pub(crate) fn on_behalf<T>(message: T, caller: &Caller) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::try_from(caller.on_behalf());
    // A name from a certificate is letters, digits, dot, dash, underscore: always a value.
    if let Ok(value) = value {
        request.metadata_mut().insert(ON_BEHALF_OF, value);
    }
    request
}

/// Waits for another node's answer, within a budget.
pub(crate) async fn forwarded<T>(
    name: &str,
    budget: Duration,
    answer: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(budget, answer).await {
        Err(_) => Err(unreachable(name, "no answer in time")),
        // The transport's own errors come as UNAVAILABLE or UNKNOWN without details.
        Ok(Err(s)) if s.details().is_empty() => Err(unreachable(name, s.message())),
        Ok(other) => other,
    }
}

pub(crate) fn page_size(asked: u32) -> usize {
    match usize::try_from(asked).unwrap_or(PAGE_MAX) {
        0 => PAGE_MAX,
        n => n.min(PAGE_MAX),
    }
}

/// A call's identifier in a request.
pub(crate) fn parse_uid(text: &str) -> Result<CallUid, Status> {
    text.parse().map_err(|()| super::error::invalid("uid", format!("\"{text}\" is no call; for example 1-a-2f")))
}

pub(crate) fn bad_page_token() -> Status {
    fault(Code::InvalidArgument, ErrorReason::InvalidPageToken, "this page token is not from this list", &[])
}

/// Returns once the node stops.
pub(crate) async fn stopping(shutdown: &mut tokio::sync::watch::Receiver<bool>) {
    // A sender that is gone has stopped, too.
    drop(shutdown.wait_for(|s| *s).await);
}
