//! The services over real mutual TLS on loopback, with a node that is only its handle.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use sbc_core::ids::{CallUid, Incarnation, NodeId};
use sbc_core::io::{Command, CommandReply, MediaStats, StreamStats};
use sbc_core::replica::{EarlyCalls, Replica};
use sbc_core::store_pb::{self, command::Kind};
use sbc_proto::v1 as pb;
use sbc_proto::v1::call_service_client::CallServiceClient;
use sbc_proto::v1::cluster_service_client::ClusterServiceClient;
use sbc_proto::v1::dispatch_service_client::DispatchServiceClient;
use sbc_proto::v1::event_service_client::EventServiceClient;
use sbc_proto::v1::node_service_client::NodeServiceClient;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use super::events::EventWatcher;
use super::shared::Shared;
use super::watch::watch_with;
use super::*;
use crate::config::NodeConfig;
use crate::telemetry::Metrics;
use crate::tls::tests::{Authority, Dir, reloader};
use crate::tls::{Pems, grpc_client_tls, grpc_server};

/// A node that is only its handle: the log is a counter, the core a switch.
pub(super) struct Fake {
    config: NodeConfig,
    pub(super) replica: Arc<RwLock<Replica>>,
    early: Arc<RwLock<EarlyCalls>>,
    events: watch::Sender<u64>,
    status: watch::Sender<NodeStatus>,
    shutdown: watch::Sender<bool>,
    metrics: Metrics,
    /// Without a quorum proposals fail.
    pub(super) quorum: Mutex<bool>,
    commands: Mutex<Vec<Command>>,
    peers: Mutex<BTreeMap<NodeId, Channel>>,
    intents: Intents,
}

impl Fake {
    fn new(id: u16, others: &[(u16, SocketAddr)], own: SocketAddr) -> Arc<Fake> {
        let member = |id: u16, peer: SocketAddr| {
            format!(
                "[[cluster.members]]\nname = \"n{id}\"\nid = {id}\npeer = \"{peer}\"\nunicast = \"127.9.0.{id}\"\ncore = \"127.9.1.{id}\"\n"
            )
        };
        let mut text = format!(
            "[node]\nname = \"n{id}\"\nid = {id}\ndata_dir = \"d\"\n[sip]\nanycast = \"127.9.9.9\"\nunicast = \"127.9.0.{id}\"\n\
             core = \"127.9.1.{id}\"\n[tls]\nca = \"a\"\ncert = \"b\"\nkey = \"c\"\n[grpc]\nlisten = \"{own}\"\n\
             [cluster]\nid = \"lab\"\nkey_file = \"k\"\n{}",
            member(id, own)
        );
        others.iter().for_each(|(id, at)| text.push_str(&member(*id, *at)));
        let config = NodeConfig::parse(&text, Path::new("/")).unwrap_or_else(|f| panic!("{}", f.render("t", &text)));
        let status = NodeStatus {
            announce: AnnounceState::Announced,
            sip_loop: true,
            caught_up: true,
            quorum: true,
            core_reachable: true,
            media: true,
            ..Default::default()
        };
        Arc::new(Fake {
            config,
            replica: Arc::default(),
            early: Arc::default(),
            events: watch::channel(0).0,
            status: watch::channel(status).0,
            shutdown: watch::channel(false).0,
            metrics: Metrics::new(),
            quorum: Mutex::new(true),
            commands: Mutex::default(),
            peers: Mutex::default(),
            intents: Intents::default(),
        })
    }

    pub(super) fn commit(&self, kinds: Vec<Kind>) -> u64 {
        self.commit_at(1_700_000_000_000, kinds)
    }

    pub(super) fn commit_at(&self, unix_ms: u64, kinds: Vec<Kind>) -> u64 {
        let commands = kinds.into_iter().map(|k| store_pb::Command { unix_ms, kind: Some(k) }).collect();
        let mut r = self.replica.write().unwrap();
        let index = r.applied_index() + 1;
        r.apply(index, &store_pb::Entry { version: 1, proposer: 1, incarnation: 1, commands }).unwrap();
        self.events.send_replace(r.last_event_revision());
        index
    }
}

#[tonic::async_trait]
impl NodeHandle for Fake {
    fn config(&self) -> &NodeConfig {
        &self.config
    }
    fn incarnation(&self) -> Incarnation {
        Incarnation(3)
    }
    fn started_unix_ms(&self) -> u64 {
        1_700_000_000_000
    }
    fn replica(&self) -> Arc<RwLock<Replica>> {
        Arc::clone(&self.replica)
    }
    fn early(&self) -> Arc<RwLock<EarlyCalls>> {
        Arc::clone(&self.early)
    }
    fn events_changed(&self) -> watch::Receiver<u64> {
        self.events.subscribe()
    }
    fn status(&self) -> watch::Receiver<NodeStatus> {
        self.status.subscribe()
    }
    fn raft_status(&self) -> RaftStatus {
        RaftStatus { leader: Some(NodeId(1)), term: 4, quorum_ok: true, voters: vec![NodeId(1)], ..Default::default() }
    }
    fn peer_is_alive(&self, _: NodeId) -> bool {
        false
    }
    async fn remove_member(&self, _: NodeId) -> Result<(), String> {
        Ok(())
    }
    async fn add_member(&self, _: NodeId) -> Result<(), String> {
        Ok(())
    }
    fn alarms(&self) -> Vec<crate::telemetry::ActiveAlarm> {
        Vec::new()
    }

    fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }
    fn shutdown(&self) -> watch::Receiver<bool> {
        self.shutdown.subscribe()
    }
    async fn command(&self, command: Command) -> Result<CommandReply, Stopped> {
        self.commands.lock().unwrap().push(command.clone());
        let replica = self.replica.read().unwrap();
        Ok(match command {
            Command::Terminate { call, emergency, .. } => match replica.call(call) {
                None => CommandReply::NotFound,
                Some(c) if c.emergency() && !emergency => CommandReply::EmergencyRefused,
                Some(_) => CommandReply::Done,
            },
            Command::Explain { .. } => CommandReply::Explained(Default::default()),
            Command::Ladder { call } if replica.call(call).is_none() => CommandReply::NotFound,
            Command::Ladder { .. } => CommandReply::Ladder { entries: vec![], dropped: 0 },
            Command::Summary => {
                let calls = replica.calls(None).filter(|c| c.owner() == self.config.id).count() as u64;
                CommandReply::Summary { calls, by_class: vec![("none", calls)], transactions: 0, load: 0 }
            }
        })
    }
    async fn media_stats(&self, _: CallUid) -> Option<MediaStats> {
        Some(MediaStats { caller: StreamStats { rtp_packets: 11, ..Default::default() }, ..Default::default() })
    }
    async fn propose(&self, command: store_pb::Command) -> Result<u64, ProposeError> {
        if !*self.quorum.lock().unwrap() {
            return Err(ProposeError::NoLeader);
        }
        Ok(self.commit(vec![command.kind.unwrap()]))
    }
    async fn linearizable(&self) -> Result<(), ProposeError> {
        if *self.quorum.lock().unwrap() { Ok(()) } else { Err(ProposeError::NoLeader) }
    }
    async fn announce(&self, _now: bool) -> Result<(), AnnounceError> {
        self.status.send_modify(|s| s.announce = AnnounceState::Announced);
        Ok(())
    }
    async fn withdraw(&self) -> Result<(), AnnounceError> {
        self.status.send_modify(|s| s.announce = AnnounceState::Withdrawn);
        Ok(())
    }
    async fn set_draining(&self, draining: bool) -> Result<(), Stopped> {
        self.status.send_modify(|s| s.draining = draining);
        Ok(())
    }
    async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let changed = vec!["log.filter".to_owned()];
        match self.config.id.0 {
            1 => Ok(Reloaded { changed, needs_restart: vec!["sip.port".to_owned()], warnings: Vec::new() }),
            _ => Err(ReloadError("n.toml: line 3".into())),
        }
    }
    fn intents(&self) -> &Intents {
        &self.intents
    }
    fn peer(&self, node: NodeId) -> Option<Channel> {
        self.peers.lock().unwrap().get(&node).cloned()
    }
}

/// One authority, servers and clients.
pub(super) struct Lab {
    dir: Dir,
    authority: Authority,
}

impl Lab {
    pub(super) fn new() -> Lab {
        Lab { dir: Dir::new(), authority: Authority::new() }
    }

    async fn serve(&self, node: &Arc<Fake>, listener: TcpListener) {
        let stem = node.config.name.clone();
        let uri = format!("spiffe://lab/node/{stem}");
        let paths = self.authority.issue(&self.dir.0, &stem, &["127.0.0.1"], &[&uri]);
        let tls = grpc_server(&reloader(&paths)).unwrap();
        let handle: Arc<dyn NodeHandle> = Arc::clone(node) as _;
        let auth = AuthLayer::new("lab", &node.config.cluster.members, node.metrics());
        let shutdown = node.shutdown();
        tokio::spawn(async move { serve(listener, tls, auth, routes(handle), &[], Metrics::new(), shutdown).await });
    }

    /// One node that serves alone.
    pub(super) async fn node(&self) -> (Arc<Fake>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let node = Fake::new(1, &[], at);
        self.serve(&node, listener).await;
        (node, at)
    }

    fn channel(&self, at: SocketAddr, uris: &[&str]) -> Channel {
        let paths = self.authority.issue(&self.dir.0, &format!("client{}", uris.join("").replace(['/', ':'], "-")), &["c"], uris);
        let tls = grpc_client_tls(&Pems::load(&paths).unwrap(), "127.0.0.1");
        Endpoint::from_shared(format!("https://{at}")).unwrap().tls_config(tls).unwrap().connect_lazy()
    }

    pub(super) fn user(&self, at: SocketAddr, role: &str) -> Channel {
        self.channel(at, &["spiffe://lab/user/alice", &format!("sbc-role:{role}")])
    }
}

pub(super) fn reason(s: &Status) -> String {
    s.get_details_error_info().map(|i| i.reason).unwrap_or_else(|| format!("no ErrorInfo: {s:?}"))
}

fn uid(node: u16, serial: u64) -> CallUid {
    CallUid { node: NodeId(node), incarnation: Incarnation(1), serial }
}

fn claim(call: CallUid, emergency: bool) -> Kind {
    let mut key = [0; 16];
    key[..11].copy_from_slice(&call.to_bytes());
    Kind::Claim(store_pb::Claim {
        key: Bytes::copy_from_slice(&key),
        packet_key: Bytes::copy_from_slice(&key),
        call: Bytes::copy_from_slice(&call.to_bytes()),
        owner: call.node.0.into(),
        epoch: 1,
        emergency,
        invite: Bytes::from_static(
            b"INVITE urn:service:sos SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nFrom: <sip:a@x>;tag=1\r\nTo: <sip:112@x>\r\n\
              Call-ID: c\r\nCSeq: 1 INVITE\r\nGeolocation: <https://lis.example/7>\r\nContent-Length: 0\r\n\r\n",
        ),
        parties: Some(store_pb::CallParties { from_uri: "sip:a@x".into(), ..Default::default() }),
        ..Default::default()
    })
}

fn end(call: CallUid, origin: &str) -> Kind {
    let cause = store_pb::EndCause { origin: origin.into(), status: 487, reason: "gone".into(), q850: 0 };
    Kind::End(store_pb::End {
        call: Bytes::copy_from_slice(&call.to_bytes()),
        epoch: 1,
        cause: Some(cause),
        ..store_pb::End::default()
    })
}

/// A bound for every wait: a test that would hang fails.
pub(super) async fn soon<T>(f: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), f).await.expect("in time")
}

async fn next<T>(s: &mut Streaming<T>) -> T {
    soon(s.message()).await.unwrap().expect("the stream goes on")
}

fn from(start: pb::watch_from::Start) -> Option<pb::WatchFrom> {
    Some(pb::WatchFrom { start: Some(start) })
}

fn snapshot() -> Option<pb::WatchFrom> {
    from(pb::watch_from::Start::Snapshot(pb::WatchSnapshot {}))
}

#[tokio::test]
async fn roles_decide_and_strangers_are_nobody() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let call = uid(1, 1);
    node.commit(vec![claim(call, true)]);
    let list = pb::CallServiceListRequest::default;
    for (uris, code, why) in [
        (vec!["spiffe://other/user/eve", "sbc-role:admin"], Code::Unauthenticated, "NO_IDENTITY"),
        (vec!["sbc-role:admin"], Code::Unauthenticated, "NO_IDENTITY"),
        (vec!["spiffe://lab/user/bob"], Code::PermissionDenied, "PERMISSION_DENIED"),
    ] {
        let denied = soon(CallServiceClient::new(lab.channel(at, &uris)).list(list())).await.unwrap_err();
        assert_eq!((denied.code(), reason(&denied).as_str()), (code, why), "{uris:?}");
    }
    // A viewer sees calls, but not who calls, and changes nothing.
    let mut viewer = CallServiceClient::new(lab.user(at, "viewer"));
    let calls = soon(viewer.list(list())).await.unwrap().into_inner().calls;
    assert_eq!((calls.len(), calls[0].parties.is_none(), calls[0].emergency), (1, true, true));
    let terminate = pb::CallServiceTerminateRequest { uid: call.to_string(), emergency: true, ..Default::default() };
    let denied = soon(viewer.terminate(terminate.clone())).await.unwrap_err();
    assert_eq!(reason(&denied), "PERMISSION_DENIED");
    assert_eq!(denied.get_details_error_info().unwrap().metadata["permission"], "call.terminate");
    // A user that claims to ask for somebody else is refused.
    let mut request = Request::new(list());
    request.metadata_mut().insert(ON_BEHALF_OF, "user/root;admin".parse().unwrap());
    assert_eq!(reason(&soon(viewer.list(request)).await.unwrap_err()), "PERMISSION_DENIED");
    // A node may; what it names is authorised again.
    let mut peer = CallServiceClient::new(lab.channel(at, &["spiffe://lab/node/n2"]));
    let mut request = Request::new(terminate.clone());
    request.metadata_mut().insert(ON_BEHALF_OF, "user/alice;viewer".parse().unwrap());
    assert_eq!(reason(&soon(peer.terminate(request)).await.unwrap_err()), "PERMISSION_DENIED");
    assert_eq!(reason(&soon(peer.terminate(terminate.clone())).await.unwrap_err()), "PERMISSION_DENIED");
    assert!(node.commands.lock().unwrap().is_empty());
    // An operator sees all and ends calls.
    let mut operator = CallServiceClient::new(lab.user(at, "operator"));
    let got = soon(operator.get(pb::CallServiceGetRequest { uid: call.to_string() })).await.unwrap().into_inner().call.unwrap();
    assert_eq!((got.parties.unwrap().from_uri.as_str(), got.media.unwrap().caller_packets), ("sip:a@x", 11));
    let refused = soon(operator.terminate(pb::CallServiceTerminateRequest { emergency: false, ..terminate.clone() })).await;
    assert_eq!(reason(&refused.unwrap_err()), "EMERGENCY_CALL");
    soon(operator.terminate(terminate.clone())).await.unwrap();
    node.commit(vec![end(call, "operator")]);
    assert_eq!(reason(&soon(operator.terminate(terminate)).await.unwrap_err()), "CALL_ENDED");
    let missing = pb::CallServiceGetRequest { uid: "1-1-ff".into() };
    assert_eq!(reason(&soon(operator.get(missing)).await.unwrap_err()), "CALL_NOT_FOUND");
    let bad = pb::CallServiceGetRequest { uid: "x".into() };
    assert_eq!(reason(&soon(operator.get(bad)).await.unwrap_err()), "INVALID_ARGUMENT");
}

#[tokio::test]
async fn lists_page_through_everything_once() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    for n in 0..25 {
        node.commit(vec![claim(uid(1, n), n % 5 == 0)]);
    }
    node.commit((0..10).map(|n| end(uid(1, n), "caller")).collect());
    let mut client = CallServiceClient::new(lab.user(at, "operator"));
    let mut all = async |filter: Option<pb::CallFilter>| {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let asked =
                pb::CallServiceListRequest { filter: filter.clone(), page_size: 4, page_token: token, uncommitted_only: false };
            let page = soon(client.list(asked)).await.unwrap().into_inner();
            assert!(page.calls.len() <= 4);
            seen.extend(page.calls.into_iter().map(|c| c.uid));
            token = page.next_page_token;
            if token.is_empty() {
                return seen;
            }
        }
    };
    assert_eq!(all(None).await, (10..25).map(|n| uid(1, n).to_string()).collect::<Vec<_>>());
    let ended = pb::CallFilter { states: vec![pb::CallState::Ended.into()], ..Default::default() };
    assert_eq!(all(Some(ended)).await.len(), 10);
    assert_eq!(all(Some(pb::CallFilter { emergency: Some(true), ..Default::default() })).await.len(), 3);
    assert_eq!(all(Some(pb::CallFilter { node: "n1".into(), ..Default::default() })).await.len(), 15);
    // One that was a member once is known by its number only.
    assert_eq!(all(Some(pb::CallFilter { node: "node 7".into(), ..Default::default() })).await.len(), 0);
    let mut events = EventServiceClient::new(lab.user(at, "auditor"));
    let (mut cdrs, mut token) = (Vec::new(), String::new());
    loop {
        let asked = pb::EventServiceListCdrsRequest { page_size: 3, page_token: token, call: String::new() };
        let page = soon(events.list_cdrs(asked)).await.unwrap().into_inner();
        cdrs.extend(page.cdrs.into_iter().map(|c| c.call));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(cdrs, (0..10).map(|n| uid(1, n).to_string()).collect::<Vec<_>>());
    let one = pb::EventServiceListCdrsRequest { call: uid(1, 7).to_string(), ..Default::default() };
    assert_eq!(soon(events.list_cdrs(one)).await.unwrap().into_inner().cdrs.len(), 1);
    let bad = pb::EventServiceListCdrsRequest { page_token: "zz".into(), ..Default::default() };
    assert_eq!(reason(&soon(events.list_cdrs(bad)).await.unwrap_err()), "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn dispatch_events_resume_without_gap_or_repetition() {
    use pb::dispatch_service_stream_emergency_events_response::Kind as D;
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let mut client = DispatchServiceClient::new(lab.user(at, "dispatcher"));
    let asked = |from| pb::DispatchServiceStreamEmergencyEventsRequest { from, heartbeat_ms: 100, call: String::new() };
    node.commit(vec![claim(uid(1, 1), true), claim(uid(1, 2), false)]);
    let mut stream = soon(client.stream_emergency_events(asked(snapshot()))).await.unwrap().into_inner();
    let Some(D::Event(first)) = next(&mut stream).await.kind else { panic!("an event") };
    assert_eq!((first.kind(), first.call_sequence, first.node.as_str()), (pb::EmergencyEventKind::Received, 1, "n1"));
    assert_eq!(first.caller.unwrap().from_uri, "sip:a@x");
    let wanted = pb::location::Kind::ReferenceUri("https://lis.example/7".into());
    assert_eq!(first.locations.into_iter().map(|l| l.kind.unwrap()).collect::<Vec<_>>(), [wanted]);
    assert!(matches!(next(&mut stream).await.kind, Some(D::Synced(_))));
    assert!(matches!(next(&mut stream).await.kind, Some(D::Progress(_))), "a heartbeat");
    drop(stream);
    node.commit(vec![end(uid(1, 1), "caller")]);
    let resume = from(pb::watch_from::Start::ResumeToken(first.resume_token));
    let mut stream = soon(client.stream_emergency_events(asked(resume))).await.unwrap().into_inner();
    let Some(D::Event(second)) = next(&mut stream).await.kind else { panic!("an event") };
    assert_eq!((second.kind(), second.call_sequence), (pb::EmergencyEventKind::Abandoned, 2));
    assert_eq!(second.cause.unwrap().sip_status, 487);
    // The node stops: the stream says so, with its token.
    node.shutdown.send_replace(true);
    let bye = loop {
        if let Some(D::Goodbye(bye)) = next(&mut stream).await.kind {
            break bye;
        }
    };
    assert_eq!(bye.reason(), pb::WatchGoodbyeReason::Shutdown);
    assert!(!bye.resume_token.is_empty());
}

#[tokio::test]
async fn compacted_and_bad_tokens_are_errors_before_the_stream() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    node.commit(vec![claim(uid(1, 1), true)]);
    // A day and more later the first event is gone.
    let later = store_pb::Command { unix_ms: 1_700_000_000_000 + 25 * 3_600_000, kind: Some(Kind::Tick(store_pb::Tick {})) };
    let entry = store_pb::Entry { version: 1, proposer: 1, incarnation: 1, commands: vec![later] };
    node.replica.write().unwrap().apply(2, &entry).unwrap();
    let mut client = EventServiceClient::new(lab.user(at, "operator"));
    let asked = |token: &str| pb::EventServiceWatchRequest {
        from: from(pb::watch_from::Start::ResumeToken(token.into())),
        ..Default::default()
    };
    let gone = soon(client.watch(asked("r1"))).await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::OutOfRange, "COMPACTED"));
    let oldest = gone.get_details_error_info().unwrap().metadata["oldest"].clone();
    soon(client.watch(asked(&oldest))).await.unwrap();
    let bad = soon(client.watch(asked("what"))).await.unwrap_err();
    assert_eq!((bad.code(), reason(&bad).as_str()), (Code::InvalidArgument, "INVALID_RESUME_TOKEN"));
}

#[tokio::test]
async fn a_slow_reader_is_told_where_to_resume() {
    use tokio_stream::StreamExt as _;
    let node = Fake::new(1, &[], "127.0.0.1:1".parse().unwrap());
    let shared = Shared::new(Arc::clone(&node) as _);
    for n in 0..500 {
        node.commit(vec![claim(uid(1, n), true)]);
    }
    let watcher = EventWatcher { shared: shared.clone(), kinds: vec![], call: None, emergency: None, pii: true };
    let stream = watch_with(&shared, snapshot(), 0, watcher, Duration::from_millis(50)).unwrap();
    // Nothing is read until the watch has given up.
    let metrics = node.metrics();
    soon(async {
        while metrics.gauges.event_watchers.get() == 0 {
            tokio::task::yield_now().await;
        }
        while metrics.gauges.event_watchers.get() == 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let all: Vec<_> = soon(stream.collect()).await;
    assert!(all.len() < 100, "the queue is bounded");
    let mut last = String::new();
    for message in &all[..all.len() - 1] {
        let Some(pb::event_service_watch_response::Kind::Event(e)) = &message.as_ref().unwrap().kind else { panic!() };
        last.clone_from(&e.resume_token);
    }
    let Some(pb::event_service_watch_response::Kind::Goodbye(bye)) = &all.last().unwrap().as_ref().unwrap().kind else {
        panic!()
    };
    assert_eq!((bye.reason(), &bye.resume_token), (pb::WatchGoodbyeReason::SlowReader, &last));
}

#[tokio::test]
async fn a_watch_of_one_call_ends_with_it() {
    use pb::call_service_watch_response::Kind as W;
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let (mine, other) = (uid(1, 1), uid(1, 2));
    node.commit(vec![claim(mine, false), claim(other, false)]);
    let mut client = CallServiceClient::new(lab.user(at, "operator"));
    let asked = pb::CallServiceWatchRequest { uid: mine.to_string(), from: snapshot(), ..Default::default() };
    let mut stream = soon(client.watch(asked)).await.unwrap().into_inner();
    let Some(W::Change(c)) = next(&mut stream).await.kind else { panic!("the call as it is") };
    assert_eq!(c.call.unwrap().state(), pb::CallState::Trying);
    assert!(matches!(next(&mut stream).await.kind, Some(W::Synced(_))));
    node.commit(vec![end(other, "caller"), end(mine, "callee")]);
    let Some(W::Change(c)) = next(&mut stream).await.kind else { panic!("its end") };
    let call = c.call.unwrap();
    assert_eq!((call.uid, call.cause.unwrap().origin()), (mine.to_string(), pb::CauseOrigin::Callee));
    let Some(W::Goodbye(bye)) = next(&mut stream).await.kind else { panic!("goodbye") };
    assert_eq!(bye.reason(), pb::WatchGoodbyeReason::Finished);
}

#[tokio::test]
async fn watches_tell_of_calls_whose_owner_is_lost_and_is_back() {
    use pb::call_service_watch_response::Kind as W;
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let up = |node| Kind::NodeUp(store_pb::NodeUp { node, incarnation: 1, ..Default::default() });
    node.commit(vec![Kind::Level(store_pb::Level { level: sbc_core::replica::LEVEL }), up(1), up(2)]);
    // More than are told at a time.
    let theirs: Vec<CallUid> = (1..=600).map(|serial| uid(2, serial)).collect();
    let calls = theirs.iter().copied().chain([uid(1, 1)]).map(|call| claim(call, true));
    node.commit(calls.collect());
    let mut client = CallServiceClient::new(lab.user(at, "operator"));
    let watch = |call: Option<CallUid>| pb::CallServiceWatchRequest {
        uid: call.map(|call| call.to_string()).unwrap_or_default(),
        from: from(pb::watch_from::Start::Now(pb::WatchNow {})),
        ..Default::default()
    };
    let mut one = soon(client.watch(watch(Some(theirs[7])))).await.unwrap().into_inner();
    let mut all = soon(client.watch(watch(None))).await.unwrap().into_inner();
    for stream in [&mut one, &mut all] {
        assert!(matches!(next(stream).await.kind, Some(W::Synced(_))));
    }
    let change = async |stream: &mut Streaming<pb::CallServiceWatchResponse>| {
        let Some(W::Change(change)) = next(stream).await.kind else { panic!("a change") };
        let call = change.call.unwrap();
        (call.uid, call.owner_lost, change.resume_token)
    };
    node.commit(vec![Kind::NodeDown(store_pb::NodeDown { node: 2, incarnation: 1, unix_ms: 0 })]);
    // Whoever resumes hears of the node once more.
    let resume = super::watch::token(node.replica.read().unwrap().last_event_revision() - 1);
    assert_eq!(change(&mut one).await, (theirs[7].to_string(), true, resume.clone()));
    for call in &theirs {
        assert_eq!(change(&mut all).await, (call.to_string(), true, resume.clone()));
    }
    // A call of another node, and then the return of this one.
    node.commit(vec![end(uid(1, 1), "caller")]);
    assert_eq!(change(&mut all).await.0, uid(1, 1).to_string());
    node.commit(vec![Kind::NodeBack(store_pb::NodeBack { node: 2, incarnation: 1 })]);
    assert!(!change(&mut one).await.1);
    for call in &theirs {
        let told = change(&mut all).await;
        assert_eq!((told.0, told.1), (call.to_string(), false));
    }
    node.commit(vec![end(theirs[7], "caller")]);
    assert_eq!(change(&mut one).await.0, theirs[7].to_string());
    assert!(matches!(next(&mut one).await.kind, Some(W::Goodbye(_))));
}

#[tokio::test]
async fn what_is_not_there_is_said_to_be_missing() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let mut client = CallServiceClient::new(lab.user(at, "operator"));
    let known = uid(1, 1);
    node.commit(vec![claim(known, false)]);
    let watch = |uid: String, start| pb::CallServiceWatchRequest { uid, from: from(start), ..Default::default() };
    let now = || pb::watch_from::Start::Now(pb::WatchNow {});
    let missing = soon(client.watch(watch(uid(1, 9).to_string(), now()))).await.unwrap_err();
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::NotFound, "CALL_NOT_FOUND"));
    assert!(soon(client.watch(watch(known.to_string(), now()))).await.is_ok());
    // What is resumed may have the call's end behind it.
    let token = super::watch::token(node.replica.read().unwrap().last_event_revision());
    let resumed = watch(uid(1, 9).to_string(), pb::watch_from::Start::ResumeToken(token));
    assert!(soon(client.watch(resumed)).await.is_ok());

    let filter = Some(pb::CallFilter { node: "n9".into(), ..Default::default() });
    let list = pb::CallServiceListRequest { filter: filter.clone(), ..Default::default() };
    let watch = pb::CallServiceWatchRequest { filter, ..Default::default() };
    assert_eq!(reason(&soon(client.list(list)).await.unwrap_err()), "NODE_NOT_FOUND");
    assert_eq!(reason(&soon(client.watch(watch)).await.unwrap_err()), "NODE_NOT_FOUND");

    let mut ladder = async |uid: CallUid| {
        let answer = soon(client.get_ladder(pb::CallServiceGetLadderRequest { uid: uid.to_string() })).await;
        answer.map_err(|s| (s.code(), reason(&s)))
    };
    assert!(ladder(known).await.is_ok());
    // This node is at its third start.
    assert_eq!(ladder(uid(1, 9)).await.unwrap_err(), (Code::NotFound, "LADDER_NOT_KEPT".to_owned()));
    let never = CallUid { incarnation: Incarnation(3), ..uid(1, 9) };
    assert_eq!(ladder(never).await.unwrap_err(), (Code::NotFound, "CALL_NOT_FOUND".to_owned()));
}

#[tokio::test]
async fn a_reload_tells_what_it_did_at_the_node_that_is_meant() {
    let lab = Lab::new();
    let (_node, at) = lab.node().await;
    let mut client = NodeServiceClient::new(lab.user(at, "operator"));
    let done = soon(client.reload(pb::NodeServiceReloadRequest::default())).await.unwrap().into_inner();
    assert_eq!((done.changed, done.needs_restart), (vec!["log.filter".to_owned()], vec!["sip.port".to_owned()]));
    let missing = pb::NodeServiceReloadRequest { node: "n9".into(), ..Default::default() };
    assert_eq!(reason(&soon(client.reload(missing)).await.unwrap_err()), "NODE_NOT_FOUND");
    let mut viewer = NodeServiceClient::new(lab.user(at, "viewer"));
    let denied = soon(viewer.reload(pb::NodeServiceReloadRequest::default())).await.unwrap_err();
    assert_eq!(reason(&denied), "PERMISSION_DENIED");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    lab.serve(&Fake::new(2, &[], at), listener).await;
    let mut client = NodeServiceClient::new(lab.user(at, "operator"));
    let refused = soon(client.reload(pb::NodeServiceReloadRequest::default())).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::InvalidArgument, "INVALID_CONFIG"));
    assert!(refused.message().contains("line 3"), "{}", refused.message());
}

#[tokio::test]
async fn connections_that_say_nothing_shut_nobody_out() {
    let lab = Lab::new();
    let (_node, at) = lab.node().await;
    // From one address, and from as many as there are places for handshakes.
    let open = |n: u8| async move {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 44, n % 100], 0))).unwrap();
        socket.connect(at).await.unwrap()
    };
    let mut silent = Vec::new();
    for n in 0..200 {
        silent.push(open(if n < 100 { 1 } else { n }).await);
    }
    let begin = std::time::Instant::now();
    let mut client = NodeServiceClient::new(lab.user(at, "viewer"));
    soon(client.list(pb::NodeServiceListRequest::default())).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3), "it did not wait for a handshake to time out");
    drop(silent);
}

#[tokio::test]
async fn reflection_is_there_by_both_names() {
    use tonic_reflection::pb::{v1, v1alpha};
    let lab = Lab::new();
    let (_node, at) = lab.node().await;
    let (mut new, mut old) = (
        v1::server_reflection_client::ServerReflectionClient::new(lab.user(at, "viewer")),
        v1alpha::server_reflection_client::ServerReflectionClient::new(lab.user(at, "viewer")),
    );
    let asked = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut answers = soon(new.server_reflection_info(tokio_stream::once(ask))).await.unwrap().into_inner();
    assert!(format!("{:?}", next(&mut answers).await).contains("sbc.v1.ConfigService"));
    let asked = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(asked) };
    let mut answers = soon(old.server_reflection_info(tokio_stream::once(ask))).await.unwrap().into_inner();
    assert!(format!("{:?}", next(&mut answers).await).contains("sbc.v1.ConfigService"));
}

#[tokio::test]
async fn any_node_answers_for_any_node_and_for_any_call() {
    let lab = Lab::new();
    let (la, lb) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (aa, ab) = (la.local_addr().unwrap(), lb.local_addr().unwrap());
    let dead: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let (a, b) = (Fake::new(1, &[(2, ab), (3, dead)], aa), Fake::new(2, &[(1, aa), (3, dead)], ab));
    b.status.send_modify(|s| s.announce = AnnounceState::Standby);
    for (node, listener) in [(&a, la), (&b, lb)] {
        lab.serve(node, listener).await;
    }
    let link = |own: &str, at| lab.channel(at, &[&format!("spiffe://lab/node/{own}")]);
    a.peers.lock().unwrap().extend([(NodeId(2), link("n1", ab)), (NodeId(3), link("n1", dead))]);
    b.peers.lock().unwrap().extend([(NodeId(1), link("n2", aa)), (NodeId(3), link("n2", dead))]);

    let mut nodes = NodeServiceClient::new(lab.user(ab, "operator"));
    let list = soon(nodes.list(pb::NodeServiceListRequest::default())).await.unwrap().into_inner().nodes;
    let seen: Vec<_> = list.iter().map(|n| (n.name.as_str(), n.reachable, n.announced)).collect();
    assert_eq!(seen, [("n1", true, true), ("n2", true, false), ("n3", false, false)]);
    let mut cluster = ClusterServiceClient::new(lab.user(ab, "viewer"));
    let status = soon(cluster.get_status(pb::ClusterServiceGetStatusRequest {})).await.unwrap().into_inner().status.unwrap();
    assert_eq!((status.leader.as_str(), status.members.len(), status.node.as_str()), ("n1", 3, "n2"));

    // Control of a call goes to its owner, and says for whom.
    let call = uid(1, 5);
    for node in [&a, &b] {
        node.commit(vec![claim(call, false)]);
    }
    let mut calls = CallServiceClient::new(lab.user(ab, "operator"));
    let terminate = pb::CallServiceTerminateRequest { uid: call.to_string(), reason: "test".into(), ..Default::default() };
    let done = soon(calls.terminate(terminate)).await.unwrap().into_inner().call.unwrap();
    assert_eq!(done.owner, "n1");
    let of_a = a.commands.lock().unwrap().clone();
    assert!(of_a.contains(&Command::Terminate { call, reason: "test".into(), emergency: false }), "{of_a:?}");
    assert!(!b.commands.lock().unwrap().iter().any(|c| matches!(c, Command::Terminate { .. })));
    let of_dead = pb::CallServiceTerminateRequest { uid: "3-1-1".into(), ..Default::default() };
    assert_eq!(reason(&soon(calls.terminate(of_dead)).await.unwrap_err()), "NODE_UNREACHABLE");

    // The anycast address moves to b, asked through a.
    let mut through_a = NodeServiceClient::new(lab.user(aa, "operator"));
    let take = pb::NodeServiceAnnounceRequest { node: "n2".into(), exclusive: true, ..Default::default() };
    assert!(soon(through_a.announce(take)).await.unwrap().into_inner().node.unwrap().announced);
    assert_eq!(b.status.borrow().announce, AnnounceState::Announced);

    // The last one that serves it keeps it, unless forced.
    let withdraw = |node: &str, force| pb::NodeServiceWithdrawRequest { node: node.into(), force, ..Default::default() };
    soon(nodes.withdraw(withdraw("n1", false))).await.unwrap();
    let kept = soon(nodes.withdraw(withdraw("n2", false))).await.unwrap_err();
    assert_eq!((kept.code(), reason(&kept).as_str()), (Code::FailedPrecondition, "LAST_ANNOUNCER"));
    soon(nodes.withdraw(withdraw("", true))).await.unwrap();
    assert_eq!(b.status.borrow().announce, AnnounceState::Withdrawn);
    assert_eq!(reason(&soon(nodes.withdraw(withdraw("n9", false))).await.unwrap_err()), "NODE_NOT_FOUND");
}

#[tokio::test]
async fn of_two_that_withdraw_at_once_the_log_keeps_one() {
    let lab = Lab::new();
    let (la, lb) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (aa, ab) = (la.local_addr().unwrap(), lb.local_addr().unwrap());
    let (a, mut b) = (Fake::new(1, &[(2, ab)], aa), Fake::new(2, &[(1, aa)], ab));
    // One log.
    Arc::get_mut(&mut b).unwrap().replica = Arc::clone(&a.replica);
    for (node, listener) in [(&a, la), (&b, lb)] {
        lab.serve(node, listener).await;
    }
    let link = |own: &str, at| lab.channel(at, &[&format!("spiffe://lab/node/{own}")]);
    a.peers.lock().unwrap().insert(NodeId(2), link("n1", ab));
    b.peers.lock().unwrap().insert(NodeId(1), link("n2", aa));
    a.commit(vec![Kind::Level(store_pb::Level { level: 2 })]);
    let report = |node: u32, seq| store_pb::NodeReport { node, incarnation: 3, seq, wants: true, healthy: true };
    for (node, of) in [(1, &a), (2, &b)] {
        let up = store_pb::NodeUp { node, incarnation: 3, ..Default::default() };
        a.commit(vec![Kind::NodeUp(up), Kind::NodeReport(report(node, of.intents.next()))]);
    }
    let clients = [aa, ab].map(|at| NodeServiceClient::new(lab.user(at, "operator")));
    let withdraw = |force| pb::NodeServiceWithdrawRequest { force, request_id: "w1".into(), ..Default::default() };
    let [mut ca, mut cb] = clients.clone();
    let (at_a, at_b) = soon(async { tokio::join!(ca.withdraw(withdraw(false)), cb.withdraw(withdraw(false))) }).await;
    let announced = [&a, &b].map(|n| n.status.borrow().announce == AnnounceState::Announced);
    assert_eq!([at_a.is_err(), at_b.is_err()], announced);
    let (gone, kept, refused) = if at_a.is_ok() { (0, 1, at_b) } else { (1, 0, at_a) };
    assert_eq!(reason(&refused.expect_err("one of the two")), "LAST_ANNOUNCER");
    let [mut gone_client, mut kept_client] = [gone, kept].map(|i| clients[i].clone());
    // The order whose answer was lost is no error; another one has nothing to do.
    soon(gone_client.withdraw(withdraw(false))).await.unwrap();
    let other = pb::NodeServiceWithdrawRequest { request_id: "w2".into(), ..Default::default() };
    assert_eq!(reason(&soon(gone_client.withdraw(other)).await.unwrap_err()), "NOT_ANNOUNCING");
    // A drain is decided in the same way, also of a node that stands by.
    let drain = pb::NodeServiceDrainRequest::default();
    assert_eq!(reason(&soon(kept_client.drain(drain.clone())).await.unwrap_err()), "LAST_ANNOUNCER");
    let nodes = [&a, &b];
    nodes[kept].status.send_modify(|s| s.announce = AnnounceState::Standby);
    assert_eq!(reason(&soon(kept_client.drain(drain)).await.unwrap_err()), "LAST_ANNOUNCER");
    assert_eq!(reason(&soon(kept_client.withdraw(withdraw(false))).await.unwrap_err()), "NOT_ANNOUNCING");
    // One that is well and wants counts; one that has lost its quorum meanwhile does not.
    nodes[kept].status.send_modify(|s| s.announce = AnnounceState::Announced);
    nodes[gone].status.send_modify(|s| (s.announce, s.quorum) = (AnnounceState::Announced, false));
    a.commit(vec![Kind::NodeReport(report(u32::from(nodes[gone].config.id.0), nodes[gone].intents.next()))]);
    assert_eq!(reason(&soon(kept_client.withdraw(withdraw(false))).await.unwrap_err()), "LAST_ANNOUNCER");
    nodes[gone].status.send_modify(|s| s.quorum = true);
    soon(kept_client.withdraw(withdraw(false))).await.unwrap();
    // Without a quorum nobody can say; a forced order needs nobody.
    let last = nodes[gone];
    *last.quorum.lock().unwrap() = false;
    let unsaid = soon(gone_client.withdraw(pb::NodeServiceWithdrawRequest::default())).await.unwrap_err();
    assert_eq!((unsaid.code(), reason(&unsaid).as_str()), (Code::Unavailable, "NO_LEADER"));
    assert!(unsaid.message().contains("forced"), "{}", unsaid.message());
    soon(gone_client.withdraw(withdraw(true))).await.unwrap();
    assert_eq!(last.status.borrow().announce, AnnounceState::Withdrawn);
}

#[tokio::test]
async fn drain_reports_until_the_last_call_or_the_time_is_over() {
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let call = uid(1, 1);
    node.commit(vec![claim(call, true)]);
    let mut client = NodeServiceClient::new(lab.user(at, "operator"));
    let drain = |timeout_ms, force| pb::NodeServiceDrainRequest { timeout_ms, force, ..Default::default() };
    let last = soon(client.drain(drain(0, false))).await.unwrap_err();
    assert_eq!(reason(&last), "LAST_ANNOUNCER");
    assert!(!node.status.borrow().draining);

    let mut short = soon(client.drain(drain(1, true))).await.unwrap().into_inner();
    let mut phases = Vec::new();
    while let Some(m) = soon(short.message()).await.unwrap() {
        phases.push((m.phase(), m.calls, m.emergency_calls));
    }
    assert_eq!(phases.first(), Some(&(pb::DrainPhase::Withdrawing, 1, 1)));
    assert_eq!(phases.last(), Some(&(pb::DrainPhase::TimedOut, 1, 1)));
    assert!(node.status.borrow().draining);

    let mut long = soon(client.drain(drain(0, true))).await.unwrap().into_inner();
    assert_eq!(next(&mut long).await.phase(), pb::DrainPhase::Withdrawing);
    assert_eq!(next(&mut long).await.phase(), pb::DrainPhase::Waiting);
    node.commit(vec![end(call, "caller")]);
    assert_eq!(next(&mut long).await.phase(), pb::DrainPhase::Drained);
    assert!(soon(long.message()).await.unwrap().is_none());
    let announce = pb::NodeServiceAnnounceRequest::default();
    assert_eq!(reason(&soon(client.announce(announce)).await.unwrap_err()), "NODE_DRAINING");
    soon(client.undrain(pb::NodeServiceUndrainRequest::default())).await.unwrap();
    assert!(!node.status.borrow().draining);
}

#[tokio::test]
async fn health_follows_the_node() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let lab = Lab::new();
    let (node, at) = lab.node().await;
    let mut client = HealthClient::new(lab.user(at, "viewer"));
    let mut is = async |service: &str, wanted: ServingStatus| {
        let until = async {
            loop {
                let asked = HealthCheckRequest { service: service.into() };
                if client.check(asked).await.is_ok_and(|a| a.into_inner().status() == wanted) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon(until).await;
    };
    for service in ["", "sbc.sip", "sbc.raft", "sbc.anycast", "sbc.ok"] {
        is(service, ServingStatus::Serving).await;
    }
    node.status.send_modify(|s| {
        s.quorum = false;
        s.announce = AnnounceState::Withdrawn;
    });
    is("sbc.raft", ServingStatus::NotServing).await;
    is("sbc.anycast", ServingStatus::NotServing).await;
    is("sbc.ok", ServingStatus::NotServing).await;
    // Degraded is serving: nobody is to be sent elsewhere for the store's sake.
    is("sbc.sip", ServingStatus::Serving).await;
    is("", ServingStatus::Serving).await;
    node.status.send_modify(|s| s.media = false);
    is("", ServingStatus::NotServing).await;
    node.status.send_modify(|s| (s.media, s.quorum) = (true, true));
    is("sbc.ok", ServingStatus::Serving).await;
    node.status.send_modify(|s| s.disk_failed = true);
    is("sbc.ok", ServingStatus::NotServing).await;
    is("sbc.raft", ServingStatus::NotServing).await;
}
