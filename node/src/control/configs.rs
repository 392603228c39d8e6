//! `sbc.v1.ConfigService`: the configuration that the cluster shares, in the log.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sbc_core::replica::{CONFIG_TEXT_CAP, Replica};
use sbc_core::store_pb;
use sbc_proto::v1 as pb;
use sbc_proto::v1::config_service_server::ConfigService;
use tonic::{Code, Request, Response, Status};

use super::error::{fault, invalid, invalid_config, not_proposed};
use super::handle::ProposeError;
use super::map;
use super::shared::{Shared, caller};
use crate::config::{Faults, parse_cluster};

/// For one proposal, or one linearizable read.
const BUDGET: Duration = Duration::from_secs(5);
/// How often an Apply without etag is tried when others change the configuration meanwhile.
const TRIES: usize = 3;
/// Longest request id: it stands in the log.
const REQUEST_ID_MAX: usize = 128;

/// The service.
pub(crate) struct Configs(pub(crate) Shared);

fn current(replica: &Replica) -> pb::Config {
    let (revision, text, history) = replica.config();
    let newest = history.back();
    pb::Config {
        revision,
        etag: etag(revision),
        text: text.to_owned(),
        author: newest.map(|h| h.author.clone()).unwrap_or_default(),
        changed_at: newest.and_then(|h| map::time(h.unix_ms)),
    }
}

fn etag(revision: u64) -> String {
    format!("rev-{revision}")
}

fn mismatch(current: &pb::Config) -> Status {
    let message = format!("the configuration is at {} now", current.etag);
    fault(Code::Aborted, pb::ErrorReason::EtagMismatch, message, &[("etag", &current.etag)])
}

impl Configs {
    fn failed(&self, error: &ProposeError, request_id: &str) -> Status {
        not_proposed(error, &self.0.node.raft_status(), &self.0.leader_name(), request_id)
    }

    /// What is wrong with a text, also that this node has not the secrets that it names.
    fn check(&self, text: &str) -> Result<(), Faults> {
        let mut config = parse_cluster(text, 0)?;
        let missing = self.0.node.config().secrets().fill(&mut config);
        if missing.is_empty() { Ok(()) } else { Err(Faults::of_node(self.0.my_name(), missing)) }
    }

    async fn linearizable(&self) -> Result<(), Status> {
        let done = tokio::time::timeout(BUDGET, self.0.node.linearizable()).await;
        done.unwrap_or(Err(ProposeError::NoQuorum)).map_err(|e| self.failed(&e, ""))
    }

    /// The configuration that an Apply of this id has brought, if it is still remembered.
    fn done(&self, request_id: &str) -> Option<pb::Config> {
        self.0.read(|r| {
            let h = r.config().2.iter().find(|h| h.request_id == request_id)?;
            Some(pb::Config {
                revision: h.revision,
                etag: etag(h.revision),
                text: h.text.clone(),
                author: h.author.clone(),
                changed_at: map::time(h.unix_ms),
            })
        })
    }

    async fn propose(&self, base: u64, text: &str, author: &str, request_id: &str) -> Result<Option<pb::Config>, Status> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        let revision = store_pb::ConfigRevision {
            base,
            text: text.to_owned(),
            author: author.to_owned(),
            request_id: request_id.to_owned(),
        };
        let command = store_pb::Command { unix_ms, kind: Some(store_pb::command::Kind::Config(revision)) };
        let outcome = tokio::time::timeout(BUDGET, self.0.node.propose(command)).await.unwrap_or(Err(ProposeError::Unknown));
        outcome.map_err(|e| self.failed(&e, request_id))?;
        Ok(self.done(request_id))
    }

    /// An id for an Apply that came without one: by it the outcome is found in the log.
    fn own_request_id(&self) -> String {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{}-{}-{n}", self.0.my_name(), self.0.node.incarnation().0)
    }
}

#[tonic::async_trait]
impl ConfigService for Configs {
    async fn get(&self, request: Request<pb::ConfigServiceGetRequest>) -> Result<Response<pb::ConfigServiceGetResponse>, Status> {
        if !request.get_ref().stale {
            self.linearizable().await?;
        }
        Ok(Response::new(pb::ConfigServiceGetResponse { config: Some(self.0.read(current)) }))
    }

    async fn apply(
        &self,
        request: Request<pb::ConfigServiceApplyRequest>,
    ) -> Result<Response<pb::ConfigServiceApplyResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        if asked.text.len() > CONFIG_TEXT_CAP {
            return Err(invalid("text", format!("longer than {CONFIG_TEXT_CAP} octets")));
        }
        if asked.request_id.len() > REQUEST_ID_MAX {
            return Err(invalid("request_id", format!("longer than {REQUEST_ID_MAX} octets")));
        }
        self.check(&asked.text).map_err(|f| invalid_config(&f))?;
        let answer = |config, changed| Ok(Response::new(pb::ConfigServiceApplyResponse { config: Some(config), changed }));
        if let Some(config) = Some(&asked.request_id).filter(|id| !id.is_empty()).and_then(|id| self.done(id)) {
            return answer(config, true);
        }
        self.linearizable().await?;
        let request_id = if asked.request_id.is_empty() { self.own_request_id() } else { asked.request_id.clone() };
        for _ in 0..TRIES {
            let now = self.0.read(current);
            if !asked.etag.is_empty() && asked.etag != now.etag {
                return Err(mismatch(&now));
            }
            if now.text == asked.text && now.revision != 0 {
                return answer(now, false);
            }
            if asked.validate_only {
                return answer(pb::Config { text: asked.text, ..now }, true);
            }
            if let Some(config) = self.propose(now.revision, &asked.text, &caller.display(), &request_id).await? {
                tracing::info!(revision = config.revision, by = %config.author, %request_id, "configuration applied");
                return answer(config, true);
            }
            // Somebody else was first; without an etag that is no conflict.
        }
        Err(mismatch(&self.0.read(current)))
    }

    async fn validate(
        &self,
        request: Request<pb::ConfigServiceValidateRequest>,
    ) -> Result<Response<pb::ConfigServiceValidateResponse>, Status> {
        let text = request.into_inner().text;
        if text.len() > CONFIG_TEXT_CAP {
            return Err(invalid("text", format!("longer than {CONFIG_TEXT_CAP} octets")));
        }
        let faults = self.check(&text).err().map(|f| f.0).unwrap_or_default();
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let faults = faults.into_iter().map(|f| pb::ConfigFault {
            line: number(f.line),
            column: number(f.column),
            message: if f.path.is_empty() { f.message } else { format!("{}: {}", f.path, f.message) },
            hint: f.hint,
        });
        Ok(Response::new(pb::ConfigServiceValidateResponse { faults: faults.collect() }))
    }
}
