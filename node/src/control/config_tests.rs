//! The configuration service over real mutual TLS, with a node that is only its handle.

use std::sync::Arc;

use sbc_core::store_pb::command::Kind;
use sbc_core::store_pb::{Level, Tick};
use sbc_proto::v1 as pb;
use sbc_proto::v1::config_service_client::ConfigServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::tests::{Fake, Lab, reason, soon};

/// By which 112 is put through; `calls` makes texts differ.
fn good(calls: u32) -> String {
    format!(
        "[settings]\nmax_calls = {calls}\n[[trunks]]\nname = \"psap\"\nrealm = \"core\"\nsources = [\"192.0.2.1\"]\ntargets = [\"192.0.2.1\"]\n\
         [[trunks]]\nname = \"callers\"\nrealm = \"external\"\nsources = [\"0.0.0.0/0\"]\n\
         [[routes]]\nname = \"sos\"\nemergency = true\ntrunks = [\"psap\"]\n"
    )
}

fn apply(text: &str, etag: &str, id: &str) -> pb::ConfigServiceApplyRequest {
    pb::ConfigServiceApplyRequest { text: text.into(), etag: etag.into(), request_id: id.into(), ..Default::default() }
}

/// A node and its clients.
struct Bench {
    lab: Lab,
    at: std::net::SocketAddr,
    node: Arc<Fake>,
    client: ConfigServiceClient<Channel>,
}

impl Bench {
    async fn start() -> Bench {
        let lab = Lab::new();
        let (node, at) = lab.node().await;
        node.commit(vec![Kind::Level(Level { level: 2 })]);
        let client = ConfigServiceClient::new(lab.user(at, "admin"));
        Bench { lab, at, node, client }
    }

    async fn apply(&mut self, request: pb::ConfigServiceApplyRequest) -> Result<pb::ConfigServiceApplyResponse, Status> {
        soon(self.client.apply(request)).await.map(tonic::Response::into_inner)
    }

    /// Of a request that succeeds.
    async fn applied(&mut self, request: pb::ConfigServiceApplyRequest) -> pb::Config {
        self.apply(request).await.unwrap().config.unwrap()
    }

    async fn rollback(&mut self, revision: u64) -> Result<pb::ConfigServiceRollbackResponse, Status> {
        let request = pb::ConfigServiceRollbackRequest { revision, ..Default::default() };
        soon(self.client.rollback(request)).await.map(tonic::Response::into_inner)
    }

    async fn confirm(&mut self, etag: &str) -> Result<pb::Config, Status> {
        let request = pb::ConfigServiceConfirmRequest { etag: etag.into(), request_id: String::new() };
        soon(self.client.confirm(request)).await.map(|c| c.into_inner().config.unwrap())
    }

    async fn get(&mut self, revision: u64) -> Result<pb::Config, Status> {
        let request = pb::ConfigServiceGetRequest { stale: false, revision };
        soon(self.client.get(request)).await.map(|c| c.into_inner().config.unwrap())
    }

    async fn history(&mut self) -> Vec<pb::Config> {
        let request = pb::ConfigServiceListRevisionsRequest::default();
        soon(self.client.list_revisions(request)).await.unwrap().into_inner().revisions
    }

    /// The log's clock goes on: by so much after that of the fake node's commands.
    fn tick(&self, after_ms: u64) {
        self.node.commit_at(1_700_000_000_000 + after_ms, vec![Kind::Tick(Tick {})]);
    }
}

#[tokio::test]
async fn configuration_is_validated_compared_and_deduplicated() {
    let mut b = Bench::start().await;
    let bad = b.apply(apply("[settings]\nmax_cals = 10\n", "", "")).await.unwrap_err();
    assert_eq!((bad.code(), reason(&bad).as_str()), (Code::InvalidArgument, "INVALID_CONFIG"));
    let violations = bad.get_details_bad_request().unwrap().field_violations;
    assert_eq!(violations[0].field, "settings.max_cals");
    assert!(violations[0].description.contains("line 2") && violations[0].description.contains("max_calls"));
    let validate = pb::ConfigServiceValidateRequest { text: "x = 1\ny = 2\n".into() };
    let faults = soon(b.client.validate(validate)).await.unwrap().into_inner().faults;
    assert_eq!(faults.iter().map(|f| (f.severity(), f.forceable)).collect::<Vec<_>>(), [(pb::ConfigSeverity::Error, false); 2]);

    let only = pb::ConfigServiceApplyRequest { validate_only: true, ..apply(&good(1), "", "") };
    assert!(b.apply(only).await.unwrap().changed);
    assert_eq!(b.node.replica.read().unwrap().config().0, 0);
    let first = b.apply(apply(&good(1), "rev-0", "one")).await.unwrap();
    assert!(first.changed && first.findings.is_empty());
    let config = first.config.unwrap();
    assert_eq!((config.revision, config.etag.as_str(), config.author.as_str()), (1, "rev-1", "user/alice"));
    // The same request again, also with its old etag, changes nothing and says what it did.
    assert_eq!(b.applied(apply(&good(1), "rev-0", "one")).await.revision, 1);
    let conflict = b.apply(apply(&good(2), "rev-0", "two")).await.unwrap_err();
    assert_eq!((conflict.code(), reason(&conflict).as_str()), (Code::Aborted, "ETAG_MISMATCH"));
    assert_eq!(conflict.get_details_error_info().unwrap().metadata["etag"], "rev-1");
    assert!(!b.apply(apply(&good(1), "", "")).await.unwrap().changed);
    assert_eq!(b.applied(apply(&good(2), "", "")).await.revision, 2);

    *b.node.quorum.lock().unwrap() = false;
    let lost = b.apply(apply(&good(1), "", "three")).await.unwrap_err();
    assert_eq!((lost.code(), reason(&lost).as_str()), (Code::Unavailable, "NO_LEADER"));
    assert!(lost.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(b.get(0).await.is_err());
    let stale = pb::ConfigServiceGetRequest { stale: true, revision: 0 };
    let stale = soon(b.client.get(stale)).await.unwrap().into_inner().config.unwrap();
    assert_eq!((stale.revision, stale.text), (2, good(2)));
    let mut operator = ConfigServiceClient::new(b.lab.user(b.at, "operator"));
    assert_eq!(reason(&soon(operator.apply(apply(&good(1), "", ""))).await.unwrap_err()), "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_request_id_stands_for_one_change() {
    let mut b = Bench::start().await;
    b.applied(apply(&good(1), "", "one")).await;
    let other = b.apply(apply(&good(2), "", "one")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::Aborted, "REQUEST_ID_REUSED"));
    assert_eq!(other.get_details_error_info().unwrap().metadata["request_id"], "one");
    let waiting = pb::ConfigServiceApplyRequest { confirm_within_ms: 60_000, ..apply(&good(1), "", "one") };
    assert_eq!(reason(&b.apply(waiting).await.unwrap_err()), "REQUEST_ID_REUSED");
    b.applied(apply(&good(2), "", "two")).await;
    let rollback = pb::ConfigServiceRollbackRequest { revision: 1, request_id: "two".into(), ..Default::default() };
    assert_eq!(reason(&soon(b.client.rollback(rollback)).await.unwrap_err()), "REQUEST_ID_REUSED");
    assert_eq!(b.get(0).await.unwrap().text, good(2));
}

#[tokio::test]
async fn what_harms_callers_is_applied_by_force_only() {
    let mut b = Bench::start().await;
    b.applied(apply(&good(1), "", "")).await;
    let shadowed = good(2) + "[[trunks]]\nname = \"second\"\nrealm = \"external\"\nsources = [\"0.0.0.0/0\"]\n";
    for (text, path) in
        [("".to_owned(), "trunks"), (good(2).replace("emergency = true", "user = \"7\""), "trunks[1]"), (shadowed, "trunks[2]")]
    {
        let found =
            soon(b.client.validate(pb::ConfigServiceValidateRequest { text: text.clone() })).await.unwrap().into_inner().faults;
        assert!(found.iter().any(|f| f.severity() != pb::ConfigSeverity::Info), "{text}");
        assert!(found.iter().all(|f| f.forceable));
        for validate_only in [true, false] {
            let refused = b.apply(pb::ConfigServiceApplyRequest { validate_only, ..apply(&text, "", "") }).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "CONFIG_NEEDS_FORCE"));
            let violations = refused.get_details_bad_request().unwrap().field_violations;
            assert!(violations.iter().any(|v| v.field == path), "{violations:?}");
        }
        assert_eq!(b.get(0).await.unwrap().text, good(1));
        let forced = b.apply(pb::ConfigServiceApplyRequest { force: true, ..apply(&text, "", "") }).await.unwrap();
        assert_eq!(forced.findings, found);
        b.applied(apply(&good(1), "", "")).await;
    }
}

#[tokio::test]
async fn revisions_are_kept_compared_and_brought_back() {
    let mut b = Bench::start().await;
    b.applied(apply(&good(1), "", "")).await;
    b.applied(apply(&good(2), "", "")).await;
    assert_eq!((b.get(1).await.unwrap().text, b.get(2).await.unwrap().etag), (good(1), "rev-2".to_owned()));
    let missing = b.get(7).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "REVISION_NOT_FOUND"));
    assert_eq!(reason(&b.rollback(7).await.unwrap_err()), "REVISION_NOT_FOUND");

    use pb::config_service_diff_request::To;
    let mut diff = async |from_revision, to| {
        let request = pb::ConfigServiceDiffRequest { from_revision, to: Some(to) };
        soon(b.client.diff(request)).await.unwrap().into_inner()
    };
    let found = diff(0, To::Revision(1)).await;
    assert_eq!(found.from_revision, 2);
    assert!(found.diff.contains("-max_calls = 2\n+max_calls = 1\n"), "{}", found.diff);
    assert_eq!(diff(1, To::Revision(1)).await.diff, "");
    assert!(diff(1, To::Text(good(3))).await.diff.contains("+max_calls = 3"));

    let back = b.rollback(1).await.unwrap();
    let config = back.config.unwrap();
    assert_eq!((back.changed, config.revision, config.restores, config.text), (true, 3, 1, good(1)));
    assert!(!b.rollback(1).await.unwrap().changed);
    let history = b.history().await;
    assert_eq!(history.iter().map(|c| (c.revision, c.restores)).collect::<Vec<_>>(), [(3, 1), (2, 0), (1, 0)]);
    assert!(history.iter().all(|c| c.text.is_empty() && c.author == "user/alice"));
    let page = |token: &str| pb::ConfigServiceListRevisionsRequest { page_size: 2, page_token: token.into(), stale: false };
    let first = soon(b.client.list_revisions(page(""))).await.unwrap().into_inner();
    let second = soon(b.client.list_revisions(page(&first.next_page_token))).await.unwrap().into_inner();
    assert_eq!((first.revisions.len(), second.revisions[0].revision, second.next_page_token.as_str()), (2, 1, ""));
    assert_eq!(reason(&soon(b.client.list_revisions(page("x"))).await.unwrap_err()), "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn what_is_not_confirmed_goes_and_what_is_stays() {
    let mut b = Bench::start().await;
    b.tick(0);
    let within = |ms, text: &str| pb::ConfigServiceApplyRequest { confirm_within_ms: ms, ..apply(text, "", "") };
    let nothing_before = b.apply(within(60_000, &good(1))).await.unwrap_err();
    assert_eq!(reason(&nothing_before), "INVALID_ARGUMENT");
    b.applied(apply(&good(1), "", "")).await;
    assert_eq!(reason(&b.apply(within(1, &good(2))).await.unwrap_err()), "INVALID_ARGUMENT");
    assert_eq!(reason(&b.confirm("").await.unwrap_err()), "NOTHING_TO_CONFIRM");

    let waits = b.applied(within(60_000, &good(2))).await;
    assert_eq!(waits.confirm_by.unwrap().seconds, 1_700_000_060);
    assert_eq!(b.history().await[0].confirm_by, waits.confirm_by);
    b.tick(60_000);
    let now = b.get(0).await.unwrap();
    assert_eq!((now.revision, now.restores, now.text, now.confirm_by), (3, 1, good(1), None));
    assert_eq!(reason(&b.confirm("").await.unwrap_err()), "NOTHING_TO_CONFIRM");
    assert_eq!(reason(&b.confirm("rev-2").await.unwrap_err()), "ETAG_MISMATCH");

    let waits = b.applied(within(60_000, &good(3))).await;
    let kept = b.confirm(&waits.etag).await.unwrap();
    assert_eq!((kept.revision, kept.confirmed_by.as_str(), kept.confirm_by), (4, "user/alice", None));
    assert_eq!(b.confirm(&waits.etag).await.unwrap(), kept, "once more is no error");
    b.tick(200_000);
    assert_eq!(b.get(0).await.unwrap().text, good(3));
    // The same text without a time is a confirmation.
    b.applied(within(60_000, &good(4))).await;
    let stands = b.apply(apply(&good(4), "", "")).await.unwrap();
    assert!(stands.changed && stands.config.unwrap().confirm_by.is_none());
}

#[tokio::test]
async fn a_node_of_an_older_version_forbids_waiting_for_a_confirmation() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let mut client = ConfigServiceClient::new(lab.user(at, "admin"));
    soon(client.apply(apply(&good(1), "", ""))).await.unwrap();
    let waits = pb::ConfigServiceApplyRequest { confirm_within_ms: 60_000, ..apply(&good(2), "", "") };
    let refused = soon(client.apply(waits.clone())).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "LEVEL_TOO_LOW"));
    // A rollback is an Apply that older nodes understand.
    soon(client.apply(apply(&good(2), "", ""))).await.unwrap();
    let back = pb::ConfigServiceRollbackRequest { revision: 1, ..Default::default() };
    assert_eq!(soon(client.rollback(back)).await.unwrap().into_inner().config.unwrap().text, good(1));
    node.commit(vec![Kind::Level(Level { level: 2 })]);
    assert!(soon(client.apply(waits)).await.is_ok());
}
