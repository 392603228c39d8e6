//! `sbc.v1.ConfigService`: the configuration that the cluster shares, in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sbc_core::replica::{CONFIG_TEXT_CAP, Replica};
use sbc_core::store_pb::command::Kind;
use sbc_core::store_pb::{ConfigHistory, ConfigRevision, ConfirmConfig};
use sbc_proto::v1 as pb;
use sbc_proto::v1::config_service_server::ConfigService;
use tonic::{Code, Request, Response, Status};

use super::blocks::now_ms;
use super::config_map::{current, finding, no_revision, revision, shown};
use super::diff::diff;
use super::error::{fault, invalid, invalid_config, needs_force, request_id_reused};
use super::shared::{Shared, bad_page_token, caller, page_size};
use crate::config::{Fault, Faults, parse_cluster, review_cluster};

/// How often an Apply without etag is tried when others change the configuration meanwhile.
const TRIES: usize = 3;
/// Longest request id: it stands in the log.
const REQUEST_ID_MAX: usize = 128;
/// Less is over before anybody has looked; more is forgotten. Milliseconds.
const CONFIRM_WITHIN: std::ops::RangeInclusive<u32> = 10_000..=86_400_000;
/// The level of the log from which on a configuration can wait for its confirmation.
const CONFIRM_LEVEL: u32 = 2;

/// The service.
pub(crate) struct Configs(pub(crate) Shared);

/// What an Apply, and a Rollback, asks for.
struct Change {
    text: String,
    etag: String,
    request_id: String,
    validate_only: bool,
    force: bool,
    confirm_within_ms: u32,
    restores: u64,
}

/// What became of it.
struct Changed {
    config: pb::Config,
    changed: bool,
    findings: Vec<pb::ConfigFault>,
}

fn mismatch(current: &pb::Config) -> Status {
    let message = format!("the configuration is at {} now", current.etag);
    fault(Code::Aborted, pb::ErrorReason::EtagMismatch, message, &[("etag", &current.etag)])
}

fn nothing_to_confirm(current: &pb::Config) -> Status {
    let message = format!("no revision waits for a confirmation; {} is in force", current.etag);
    fault(Code::FailedPrecondition, pb::ErrorReason::NothingToConfirm, message, &[("etag", &current.etag)])
}

fn within_cap(text: &str) -> Result<(), Status> {
    let fits = text.len() <= CONFIG_TEXT_CAP;
    fits.then_some(()).ok_or_else(|| invalid("text", format!("longer than {CONFIG_TEXT_CAP} octets")))
}

impl Configs {
    /// What is wrong with a text, also that this node has not the secrets that it names; else what it would do to callers.
    fn check(&self, text: &str) -> Result<Vec<Fault>, Faults> {
        let mut config = parse_cluster(text, 0)?;
        let missing = self.0.node.config().secrets().fill(&mut config);
        if missing.is_empty() { Ok(review_cluster(text, &config)) } else { Err(Faults::of_node(self.0.my_name(), missing)) }
    }

    /// The revision that a change of this id has brought, if it is still remembered. An id of another change is an error: a success would say
    /// that this one is in force.
    fn done(&self, change: &Change, request_id: &str) -> Result<Option<pb::Config>, Status> {
        self.0.read(|r| {
            let Some(h) = r.config().2.iter().find(|h| h.request_id == request_id) else { return Ok(None) };
            let same = h.text == change.text && h.confirm_within_ms == change.confirm_within_ms;
            if same { Ok(Some(shown(h, r.config_pending()))) } else { Err(request_id_reused(request_id)) }
        })
    }

    /// An id for a change that came without one: by it the outcome is found in the log.
    fn own_request_id(&self) -> String {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        format!("{}-{}-{}", self.0.my_name(), self.0.node.incarnation().0, NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// What can be said of a request without looking at the log.
    fn well_formed(change: &Change) -> Result<(), Status> {
        within_cap(&change.text)?;
        if change.request_id.len() > REQUEST_ID_MAX {
            return Err(invalid("request_id", format!("longer than {REQUEST_ID_MAX} octets")));
        }
        if change.confirm_within_ms != 0 && !CONFIRM_WITHIN.contains(&change.confirm_within_ms) {
            let (least, most) = (CONFIRM_WITHIN.start() / 1000, CONFIRM_WITHIN.end() / 1000);
            return Err(invalid("confirm_within_ms", format!("from {least} to {most} s")));
        }
        Ok(())
    }

    /// A confirmation needs nodes that all know of it, and something to go back to.
    fn confirmable(&self, change: &Change, now: &pb::Config) -> Result<(), Status> {
        if change.confirm_within_ms == 0 {
            return Ok(());
        }
        self.0.needs_level(CONFIRM_LEVEL)?;
        if now.revision == 0 {
            return Err(invalid("confirm_within_ms", "there is no revision yet to go back to"));
        }
        Ok(())
    }

    async fn change(&self, change: Change, author: &str) -> Result<Changed, Status> {
        Self::well_formed(&change)?;
        let found = self.check(&change.text).map_err(|f| invalid_config(&f))?;
        let answer = |config, changed| Ok(Changed { config, changed, findings: found.iter().map(finding).collect() });
        if !change.request_id.is_empty()
            && let Some(config) = self.done(&change, &change.request_id)?
        {
            return answer(config, true);
        }
        self.0.linearizable().await?;
        let request_id = if change.request_id.is_empty() { self.own_request_id() } else { change.request_id.clone() };
        for _ in 0..TRIES {
            let now = self.0.read(current);
            if !change.etag.is_empty() && change.etag != now.etag {
                return Err(mismatch(&now));
            }
            // Where the one in force waits for its confirmation, the same text once more is a change: it stands then.
            if now.text == change.text && now.revision != 0 && now.confirm_by.is_none() {
                return answer(now, false);
            }
            self.confirmable(&change, &now)?;
            let harms = found.iter().any(Fault::needs_force);
            if harms && !change.force {
                return Err(needs_force(&found));
            }
            if change.validate_only {
                return answer(pb::Config { text: change.text.clone(), ..now }, true);
            }
            let (revision, base) = (&change, now.revision);
            let command = ConfigRevision {
                base,
                text: revision.text.clone(),
                author: author.to_owned(),
                request_id: request_id.clone(),
                confirm_within_ms: revision.confirm_within_ms,
                restores: if self.0.read(Replica::level) >= CONFIRM_LEVEL { revision.restores } else { 0 },
            };
            self.0.commit(now_ms(), Kind::Config(command), &request_id).await?;
            if let Some(config) = self.done(&change, &request_id)? {
                tracing::info!(revision = config.revision, by = %config.author, %request_id, forced = harms, "configuration applied");
                return answer(config, true);
            }
            // Somebody else was first; without an etag that is no conflict.
        }
        Err(mismatch(&self.0.read(current)))
    }

    /// A text that is kept: 0 is the one in force.
    fn kept(&self, number: u64) -> Result<Arc<ConfigHistory>, Status> {
        self.0.read(|r| {
            if number == 0 {
                return Ok(r.config().2.back().cloned().unwrap_or_default());
            }
            revision(r, number).cloned().ok_or_else(|| no_revision(number))
        })
    }
}

#[tonic::async_trait]
impl ConfigService for Configs {
    async fn get(&self, request: Request<pb::ConfigServiceGetRequest>) -> Result<Response<pb::ConfigServiceGetResponse>, Status> {
        let asked = request.into_inner();
        if !asked.stale {
            self.0.linearizable().await?;
        }
        let config = match asked.revision {
            0 => self.0.read(current),
            number => {
                let kept = self.kept(number)?;
                self.0.read(|r| shown(&kept, r.config_pending()))
            }
        };
        Ok(Response::new(pb::ConfigServiceGetResponse { config: Some(config) }))
    }

    async fn apply(
        &self,
        request: Request<pb::ConfigServiceApplyRequest>,
    ) -> Result<Response<pb::ConfigServiceApplyResponse>, Status> {
        let (author, asked) = (caller(&request)?.display(), request.into_inner());
        let change = Change {
            text: asked.text,
            etag: asked.etag,
            request_id: asked.request_id,
            validate_only: asked.validate_only,
            force: asked.force,
            confirm_within_ms: asked.confirm_within_ms,
            restores: 0,
        };
        let Changed { config, changed, findings } = self.change(change, &author).await?;
        Ok(Response::new(pb::ConfigServiceApplyResponse { config: Some(config), changed, findings }))
    }

    async fn rollback(
        &self,
        request: Request<pb::ConfigServiceRollbackRequest>,
    ) -> Result<Response<pb::ConfigServiceRollbackResponse>, Status> {
        let (author, asked) = (caller(&request)?.display(), request.into_inner());
        if asked.revision == 0 {
            return Err(invalid("revision", "name the revision whose text is to come back"));
        }
        self.0.linearizable().await?;
        let change = Change {
            text: self.kept(asked.revision)?.text.clone(),
            etag: asked.etag,
            request_id: asked.request_id,
            validate_only: false,
            force: asked.force,
            confirm_within_ms: asked.confirm_within_ms,
            restores: asked.revision,
        };
        let Changed { config, changed, findings } = self.change(change, &author).await?;
        Ok(Response::new(pb::ConfigServiceRollbackResponse { config: Some(config), changed, findings }))
    }

    async fn confirm(
        &self,
        request: Request<pb::ConfigServiceConfirmRequest>,
    ) -> Result<Response<pb::ConfigServiceConfirmResponse>, Status> {
        let (author, asked) = (caller(&request)?.display(), request.into_inner());
        self.0.linearizable().await?;
        let (now, pending) = self.0.read(|r| (current(r), r.config_pending()));
        if !asked.etag.is_empty() && asked.etag != now.etag {
            return Err(mismatch(&now));
        }
        if let Some(pending) = pending {
            let command = ConfirmConfig { revision: pending.revision, author };
            self.0.commit(now_ms(), Kind::ConfirmConfig(command), &asked.request_id).await?;
        } else if asked.etag.is_empty() || now.confirmed_by.is_empty() {
            return Err(nothing_to_confirm(&now));
        }
        // The time may have been up first.
        let stands = self.0.read(|r| revision(r, now.revision).map(|h| shown(h, r.config_pending())));
        let stands = stands.filter(|c| !c.confirmed_by.is_empty()).ok_or_else(|| nothing_to_confirm(&self.0.read(current)))?;
        tracing::info!(revision = stands.revision, by = %stands.confirmed_by, "configuration confirmed");
        Ok(Response::new(pb::ConfigServiceConfirmResponse { config: Some(stands) }))
    }

    async fn validate(
        &self,
        request: Request<pb::ConfigServiceValidateRequest>,
    ) -> Result<Response<pb::ConfigServiceValidateResponse>, Status> {
        let text = request.into_inner().text;
        within_cap(&text)?;
        let found = self.check(&text).unwrap_or_else(|faults| faults.0);
        Ok(Response::new(pb::ConfigServiceValidateResponse { faults: found.iter().map(finding).collect() }))
    }

    async fn diff(
        &self,
        request: Request<pb::ConfigServiceDiffRequest>,
    ) -> Result<Response<pb::ConfigServiceDiffResponse>, Status> {
        use pb::config_service_diff_request::To;
        let asked = request.into_inner();
        self.0.linearizable().await?;
        let from = self.kept(asked.from_revision)?;
        let to = match asked.to {
            Some(To::Text(text)) => {
                within_cap(&text)?;
                text
            }
            Some(To::Revision(number)) => self.kept(number)?.text.clone(),
            None => return Err(invalid("to", "give a text or a revision")),
        };
        let diff = diff(&from.text, &to).unwrap_or_default();
        Ok(Response::new(pb::ConfigServiceDiffResponse { diff, from_revision: from.revision }))
    }

    async fn list_revisions(
        &self,
        request: Request<pb::ConfigServiceListRevisionsRequest>,
    ) -> Result<Response<pb::ConfigServiceListRevisionsResponse>, Status> {
        let asked = request.into_inner();
        let before = match asked.page_token.as_str() {
            "" => u64::MAX,
            token => token.parse().map_err(|_| bad_page_token())?,
        };
        if !asked.stale {
            self.0.linearizable().await?;
        }
        let size = page_size(asked.page_size);
        let mut revisions: Vec<pb::Config> = self.0.read(|r| {
            let newest_first = r.config().2.iter().rev().filter(|h| h.revision < before);
            newest_first.take(size + 1).map(|h| pb::Config { text: String::new(), ..shown(h, r.config_pending()) }).collect()
        });
        let more = revisions.len() > size;
        revisions.truncate(size);
        let next_page_token = revisions.last().filter(|_| more).map(|c| c.revision.to_string()).unwrap_or_default();
        Ok(Response::new(pb::ConfigServiceListRevisionsResponse { revisions, next_page_token }))
    }
}
