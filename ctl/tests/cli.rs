//! The binary against a server that answers as a node would: mutual TLS with certificates that `sbcctl pki` made, output, exit
//! codes, paging, resuming.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sbc_proto::v1::call_service_server::{CallService, CallServiceServer};
use sbc_proto::v1::call_service_watch_response::Kind;
use sbc_proto::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use sbc_proto::v1::{self, ErrorReason, watch_from::Start};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Calls that the fake node has: more than two pages.
const CALLS: u32 = 2500;

#[derive(Clone, Default)]
struct FakeNode {
    watches: Arc<AtomicU32>,
}

fn refuse(code: Code, reason: ErrorReason, message: &str) -> Status {
    let info = ErrorDetails::with_error_info(reason.reason(), sbc_proto::ERROR_DOMAIN, HashMap::new());
    Status::with_error_details(code, message, info)
}

fn call(n: u32) -> v1::Call {
    v1::Call {
        uid: format!("1-1-{n:x}"),
        owner: "node-a".into(),
        state: v1::CallState::Answered.into(),
        emergency: n == 1,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ClusterService for FakeNode {
    type ReadmitMemberStream =
        std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::ClusterServiceReadmitMemberResponse, Status>> + Send>>;

    async fn readmit_member(
        &self,
        _: Request<v1::ClusterServiceReadmitMemberRequest>,
    ) -> Result<Response<Self::ReadmitMemberStream>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn get_status(
        &self,
        _: Request<v1::ClusterServiceGetStatusRequest>,
    ) -> Result<Response<v1::ClusterServiceGetStatusResponse>, Status> {
        Err(refuse(Code::Unavailable, ErrorReason::NoLeader, "no leader in term 7"))
    }

    async fn list_members(
        &self,
        _: Request<v1::ClusterServiceListMembersRequest>,
    ) -> Result<Response<v1::ClusterServiceListMembersResponse>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

type Stream = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<v1::CallServiceWatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl CallService for FakeNode {
    type WatchStream = Stream;

    async fn list(&self, request: Request<v1::CallServiceListRequest>) -> Result<Response<v1::CallServiceListResponse>, Status> {
        let request = request.into_inner();
        if request.filter.unwrap_or_default().node == "node-z" {
            return Ok(Response::new(v1::CallServiceListResponse::default()));
        }
        let from: u32 = request.page_token.parse().unwrap_or(0);
        let to = (from + request.page_size.min(1000)).min(CALLS);
        let next_page_token = if to < CALLS { to.to_string() } else { String::new() };
        Ok(Response::new(v1::CallServiceListResponse { calls: (from..to).map(call).collect(), next_page_token }))
    }

    async fn get(&self, request: Request<v1::CallServiceGetRequest>) -> Result<Response<v1::CallServiceGetResponse>, Status> {
        match request.into_inner().uid.as_str() {
            "1-1-1" => Ok(Response::new(v1::CallServiceGetResponse { call: Some(call(1)) })),
            _ => Err(refuse(Code::NotFound, ErrorReason::CallNotFound, "no such call")),
        }
    }

    async fn watch(&self, request: Request<v1::CallServiceWatchRequest>) -> Result<Response<Stream>, Status> {
        let change =
            |n: u32| Kind::Change(v1::CallChange { revision: n.into(), call: Some(call(n)), resume_token: format!("t{n}") });
        // The first stream breaks off after two changes; the second must be asked to go on from there.
        let kinds = match self.watches.fetch_add(1, Ordering::SeqCst) {
            0 => vec![change(1), change(2), Kind::Progress(v1::WatchProgress { resume_token: "t2".into(), quorum: None })],
            _ => match request.into_inner().from.and_then(|f| f.start) {
                Some(Start::ResumeToken(token)) if token == "t2" => vec![change(3), change(4)],
                other => return Err(Status::invalid_argument(format!("resumed with {other:?}"))),
            },
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            for kind in kinds {
                // Longer in all than the one second that an answer may take: a stream is not an answer.
                tokio::time::sleep(Duration::from_millis(400)).await;
                let _ = sender.send(Ok(v1::CallServiceWatchResponse { kind: Some(kind) })).await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))))
    }

    async fn terminate(
        &self,
        request: Request<v1::CallServiceTerminateRequest>,
    ) -> Result<Response<v1::CallServiceTerminateResponse>, Status> {
        let request = request.into_inner();
        if request.request_id.is_empty() || !request.emergency {
            return Err(Status::invalid_argument("request id or emergency flag missing"));
        }
        // As if the connection had been lost under way.
        Err(Status::unavailable("connection reset"))
    }

    async fn get_ladder(
        &self,
        _: Request<v1::CallServiceGetLadderRequest>,
    ) -> Result<Response<v1::CallServiceGetLadderResponse>, Status> {
        Err(refuse(Code::PermissionDenied, ErrorReason::PermissionDenied, "call.read is not granted"))
    }
}

struct Stand {
    dir: PathBuf,
    address: SocketAddr,
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Stand {
    async fn start() -> Stand {
        let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().with_nodelay(Some(true));
        let address = incoming.local_addr().unwrap();
        let dir = std::env::temp_dir().join(format!("sbcctl-cli-{}-{}", std::process::id(), address.port()));
        let stand = Stand { dir, address };
        let dir = stand.dir.to_str().unwrap();
        for line in [
            format!("pki init --cluster test --dir {dir}"),
            format!("pki issue --kind node --name node-a --san 127.0.0.1 --dir {dir}"),
            format!("pki issue --kind user --name ann --role admin --dir {dir}"),
        ] {
            let output = stand.bare(&line).await;
            assert!(output.status.success(), "{line}: {}", err(&output));
        }
        let read = |name: &str| std::fs::read_to_string(stand.dir.join(name)).unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(read("node-a.crt"), read("node-a.key")))
            .client_ca_root(Certificate::from_pem(read("ca.crt")));
        let node = FakeNode::default();
        let server = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(CallServiceServer::new(node.clone()))
            .add_service(ClusterServiceServer::new(node))
            .serve_with_incoming(incoming);
        tokio::spawn(server);
        stand
    }

    /// Runs the binary without a terminal and without any context of the machine.
    async fn bare(&self, line: &str) -> Output {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sbcctl"));
        command.args(line.split_whitespace()).stdin(Stdio::null()).env("SBCCTL_CONFIG", self.dir.join("contexts.toml"));
        tokio::time::timeout(Duration::from_secs(30), command.output()).await.expect("ends in time").unwrap()
    }

    async fn run(&self, line: &str) -> Output {
        let dir = self.dir.display();
        let access = format!("--endpoint {} --ca {dir}/ca.crt --cert {dir}/ann.crt --key {dir}/ann.key", self.address);
        self.bare(&format!("{line} {access}")).await
    }
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_all_pages_and_empty_lists() {
    let stand = Stand::start().await;
    let all = stand.run("call list -o json").await;
    let json: serde_json::Value = serde_json::from_str(&out(&all)).unwrap();
    assert_eq!(json["calls"].as_array().unwrap().len(), CALLS as usize);
    assert_eq!(json["calls"][1]["emergency"], true);

    let limited = stand.run("call list -o jsonl --limit 1200").await;
    assert_eq!(out(&limited).lines().count(), 1200);
    assert!(out(&stand.run("call list --limit 2").await).starts_with("CALL"));

    let empty = stand.run("call list --node node-z").await;
    assert_eq!((out(&empty).as_str(), err(&empty).as_str(), empty.status.code()), ("", "no calls\n", Some(0)));
    let empty = stand.run("call list --node node-z -o json").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out(&empty)).unwrap()["calls"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_the_next_endpoint() {
    let stand = Stand::start().await;
    let output = stand.run("call list --limit 1 --endpoint 127.0.0.1:1").await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_and_hints() {
    let stand = Stand::start().await;
    for (line, code, says) in [
        ("status", 5, "hint: an election"),
        ("call show 9-9-9", 6, "[CALL_NOT_FOUND]"),
        ("call ladder 1-1-1", 4, "hint: ask for a certificate"),
        ("call terminate 1-1-1 --yes", 2, "--emergency"),
        ("call terminate 1-1-1 --emergency", 2, "--yes"),
        ("call terminate 1-1-1 --emergency --yes --request-id r7", 8, "--request-id r7"),
        ("node list", 1, "does not know this request"),
        ("call lst", 2, "Usage"),
    ] {
        let output = stand.run(line).await;
        assert_eq!(output.status.code(), Some(code), "{line}: {}", err(&output));
        assert!(err(&output).contains(says), "{line}: {}", err(&output));
        assert_eq!(out(&output), "", "{line}");
    }
    let nobody = stand.bare("call list").await;
    assert_eq!(nobody.status.code(), Some(2));
    assert!(err(&nobody).contains("sbcctl dev up"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_cluster_is_no_way_in() {
    let (ours, theirs) = (Stand::start().await, Stand::start().await);
    let (own, other) = (ours.dir.display(), theirs.dir.display());
    for (ca, cert, says) in
        [(&other, &other, "--ca does not vouch"), (&other, &own, "--ca does not vouch"), (&own, &other, "believe --cert")]
    {
        let line = format!("call list --endpoint {} --ca {ca}/ca.crt --cert {cert}/ann.crt --key {cert}/ann.key", ours.address);
        let output = ours.bare(&line).await;
        assert_eq!(output.status.code(), Some(4), "{}", err(&output));
        assert!(err(&output).contains("cause:") && err(&output).contains(says), "{}", err(&output));
    }
    // Nobody there is another matter.
    let line = format!("call list --endpoint 127.0.0.1:1 --ca {own}/ca.crt --cert {own}/ann.crt --key {own}/ann.key");
    assert_eq!(ours.bare(&line).await.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn global_options_stand_under_a_heading_of_their_own() {
    let stand = Stand::start().await;
    for line in ["--help", "call list --help", "config apply --help"] {
        let help = out(&stand.bare(line).await);
        let (own, global) = help.split_once("Global options:").unwrap_or_else(|| panic!("{line}: {help}"));
        assert!(global.contains("--endpoint") && global.contains("--request-id"), "{help}");
        assert!(!own.contains("--endpoint") && !global.contains("--force"), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_where_it_broke_off() {
    let stand = Stand::start().await;
    let output = stand.run("call watch --from snapshot --count 4 -o json --timeout 1").await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let uids: Vec<String> = out(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["call"]["uid"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(uids, ["1-1-1", "1-1-2", "1-1-3", "1-1-4"]);
}
