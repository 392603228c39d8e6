//! The client side of `RaftService`: openraft's network traits over gRPC.
//!
//! What fails takes [`PAUSE`] to fail. Openraft's own pause lies in the stream of requests, which tonic does not poll
//! where connecting fails at once: without ours, one dead peer has the leader try again as fast as it can.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use sbc_proto::peer as pb;
use sbc_proto::peer::raft_service_client::RaftServiceClient;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::config::{Connector, MAX_MESSAGE, PeerConfig};
use crate::convert::{self, Malformed};
use crate::error::StartError;
use crate::reverted::Reverted;
use crate::snapshot::SnapshotFile;
use crate::types::{LogId, Member, Snapshot, TypeConfig, Vote};

/// Bytes of a snapshot in one message.
const SNAPSHOT_CHUNK: usize = 256 << 10;

/// Shortest time for an RPC to fail: four tries a second are noticed by nobody, and a peer that is back gets its entries
/// as soon as it would notice that it lacks them.
const PAUSE: Duration = Duration::from_millis(250);

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

/// Who speaks: the metadata of every RPC.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) cluster: MetadataValue<Ascii>,
    pub(crate) group: u32,
    pub(crate) node: u64,
}

impl Identity {
    pub(crate) fn new(cluster_id: &str, group: u32, node: u64) -> Result<Identity, StartError> {
        let cluster = cluster_id.parse().map_err(|_| StartError::Config("the cluster id is not ASCII".into()))?;
        Ok(Identity { cluster, group, node })
    }

    /// A request that says who speaks and to whom.
    pub(crate) fn request<T>(&self, to: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("sbc-cluster", self.cluster.clone());
        metadata.insert("sbc-group", MetadataValue::from(self.group));
        metadata.insert("sbc-from", MetadataValue::from(self.node));
        metadata.insert("sbc-to", MetadataValue::from(to));
        request
    }

    /// Checks the metadata of a request; returns who speaks.
    pub(crate) fn check(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        let number = |key| metadata.get(key).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if metadata.get("sbc-cluster") != Some(&self.cluster) {
            return Err(Status::permission_denied("another cluster"));
        }
        if number("sbc-group") != Some(u64::from(self.group)) {
            return Err(Status::not_found("no such raft group"));
        }
        if number("sbc-to") != Some(self.node) {
            return Err(Status::permission_denied("meant for another node"));
        }
        match number("sbc-from") {
            Some(from) if from != 0 && from != self.node => Ok(from),
            _ => Err(Status::permission_denied("no node id")),
        }
    }
}

/// Connections to the other members, one each, shared by everything but snapshots.
#[derive(Clone)]
pub(crate) struct Peers {
    identity: Identity,
    connector: Arc<dyn Connector>,
    channels: Arc<Mutex<HashMap<u64, (PeerConfig, Channel)>>>,
    pub(crate) reverted: Reverted,
}

impl Peers {
    pub(crate) fn new(identity: Identity, connector: Arc<dyn Connector>) -> Peers {
        Peers { identity, connector, channels: Arc::default(), reverted: Reverted::default() }
    }

    pub(crate) fn client(&self, id: u64, member: &Member) -> Client {
        let peer = PeerConfig { id, name: member.name.clone(), addr: member.addr.clone() };
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let known = channels.get(&id).filter(|(known, _)| *known == peer).map(|(_, channel)| channel.clone());
        let channel = known.unwrap_or_else(|| {
            let channel = self.connector.channel(&peer);
            channels.insert(id, (peer, channel.clone()));
            channel
        });
        self.over(id, channel)
    }

    fn over(&self, id: u64, channel: Channel) -> Client {
        let rpc = RaftServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE);
        Client { identity: self.identity.clone(), to: id, rpc, reverted: self.reverted.clone() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &Member) -> Client {
        self.client(target, node)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Member) -> Client {
        // A connection of its own: a snapshot must not stand in the way of heartbeats.
        let peer = PeerConfig { id: target, name: node.name.clone(), addr: node.addr.clone() };
        self.over(target, self.connector.channel(&peer))
    }
}

/// RPCs to one member.
#[derive(Clone)]
pub(crate) struct Client {
    identity: Identity,
    to: u64,
    rpc: RaftServiceClient<Channel>,
    reverted: Reverted,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        self.identity.request(self.to, message)
    }

    /// Asks the leader to confirm that it leads, see `ReadIndex`.
    pub(crate) async fn read_index(&mut self) -> Result<u64, Status> {
        let request = self.request(pb::ReadIndexRequest {});
        Ok(self.rpc.read_index(request).await?.into_inner().index)
    }

    /// Opens the stream on which entries are forwarded to the leader.
    pub(crate) async fn forward<S>(&mut self, entries: S) -> Result<tonic::Streaming<pb::ForwardReply>, Status>
    where
        S: Stream<Item = pb::ForwardRequest> + Send + 'static,
    {
        let request = self.request(entries);
        Ok(self.rpc.forward(request).await?.into_inner())
    }

    async fn send_snapshot(&mut self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<TypeConfig>, Status> {
        let header = pb::SnapshotHeader {
            leader: Some(convert::vote_to(&vote)),
            meta: Some(convert::meta_to(&snapshot.meta)),
            length: snapshot.snapshot.length(),
        };
        let first = pb::SnapshotChunk { header: Some(header), data: Bytes::new() };
        let rest = chunks(snapshot.snapshot).map(|data| pb::SnapshotChunk { header: None, data });
        let request = self.request(futures::stream::once(async { first }).chain(rest));
        let reply = self.rpc.install_snapshot(request).await?.into_inner();
        let vote = convert::vote_from(reply.ballot.as_ref()).map_err(refused)?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// The file in pieces. Where it cannot be read the stream ends short, and the receiver refuses it by its length.
fn chunks(file: SnapshotFile) -> impl Stream<Item = Bytes> + Send + 'static {
    futures::stream::unfold((file, 0_u64), |(file, offset)| async move {
        if offset >= file.length() {
            return None;
        }
        let source = file.clone();
        let read = crate::state_machine::blocking(move || source.chunk(offset, SNAPSHOT_CHUNK)).await;
        match read {
            Ok(data) => {
                let next = offset + data.len() as u64;
                Some((data, (file, next)))
            }
            Err(error) => {
                tracing::error!(%error, "snapshot cannot be read");
                None
            }
        }
    })
}

fn refused(malformed: Malformed) -> Status {
    Status::internal(malformed.to_string())
}

/// A peer that cannot be reached, or refuses, is asked again after a pause; anything else at once.
fn rpc_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Cancelled | Code::Aborted => RPCError::Network(NetworkError::from_string(status)),
        _ => RPCError::Unreachable(Unreachable::from_string(status)),
    }
}

fn malformed(error: Malformed) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(error))
}

/// The answer to an RPC that may take `limit`; a failure comes after [`PAUSE`] at the earliest.
async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Rpc<T> {
    let begun = Instant::now();
    let error = match timeout(limit, call).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(status)) => rpc_error(&status),
        Err(_) => RPCError::Unreachable(Unreachable::from_string("no answer in time")),
    };
    sleep_until(begun + PAUSE).await;
    Err(error)
}

/// A request sent and not yet answered.
struct Sent {
    at: Instant,
    leadership: Vote,
    /// The entry before its own.
    previous: Option<LogId>,
}

/// Requests sent and not yet answered, in order.
type Outstanding = Arc<Mutex<VecDeque<Sent>>>;

fn lock(outstanding: &Outstanding) -> std::sync::MutexGuard<'_, VecDeque<Sent>> {
    outstanding.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next reply. Fails when the oldest outstanding request has waited for longer than `limit`; idling is no failure.
async fn next_reply(
    replies: &mut tonic::Streaming<pb::AppendReply>,
    outstanding: &Outstanding,
    limit: Duration,
    heard: impl Fn(&Sent, &StreamAppendResult<TypeConfig>),
) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
    loop {
        let wait = lock(outstanding).front().map_or(limit, |sent| limit.saturating_sub(sent.at.elapsed()));
        match timeout(wait, replies.message()).await {
            Ok(Ok(Some(reply))) => {
                let sent = lock(outstanding).pop_front();
                let reply = convert::append_reply_from(&reply);
                if let (Some(sent), Ok(reply)) = (&sent, &reply) {
                    heard(sent, reply);
                }
                return Some(reply.map_err(malformed));
            }
            Ok(Ok(None)) => return None,
            Ok(Err(status)) => return Some(Err(rpc_error(&status))),
            Err(_) if lock(outstanding).front().is_some_and(|sent| sent.at.elapsed() >= limit) => {
                return Some(Err(RPCError::Unreachable(Unreachable::from_string("no answer in time"))));
            }
            Err(_) => {}
        }
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let sent = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        let request = self.request(convert::append_to(&rpc));
        let reply = within(option.soft_ttl(), self.rpc.append_once(request)).await?.into_inner();
        Ok(match convert::append_reply_from(&reply).map_err(malformed)? {
            Ok(last) if last == sent => AppendEntriesResponse::Success,
            Ok(last) => AppendEntriesResponse::PartialSuccess(last),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let outstanding = Outstanding::default();
            let sent = outstanding.clone();
            let requests = input.map(move |request| {
                let (leadership, previous) = (request.vote, request.prev_log_id);
                lock(&sent).push_back(Sent { at: Instant::now(), leadership, previous });
                convert::append_to(&request)
            });
            let limit = option.soft_ttl();
            let begun = Instant::now();
            let request = self.request(requests);
            let replies = within(limit, self.rpc.append_entries(request)).await?.into_inner();
            let (reverted, to) = (self.reverted.clone(), self.to);
            let stream = futures::stream::unfold(Some((replies, false)), move |state| {
                let (outstanding, reverted) = (outstanding.clone(), reverted.clone());
                async move {
                    let (mut replies, answered) = state?;
                    let heard = |sent: &Sent, reply: &StreamAppendResult<TypeConfig>| match reply {
                        Ok(last) => reverted.acknowledged(to, sent.leadership, *last),
                        Err(StreamAppendError::Conflict(_)) => reverted.lacks(to, sent.leadership, sent.previous),
                        Err(StreamAppendError::HigherVote(_)) => {}
                    };
                    let reply = next_reply(&mut replies, &outstanding, limit, heard).await;
                    // A peer that ends the stream without an answer, or in the midst of it, has failed as well.
                    let ended_well = reply.is_none() && answered && lock(&outstanding).is_empty();
                    if !ended_well && !matches!(reply, Some(Ok(_))) {
                        sleep_until(begun + PAUSE).await;
                    }
                    let reply = reply?;
                    let go_on = matches!(&reply, Ok(Ok(_)));
                    Some((reply, go_on.then_some((replies, true))))
                }
            });
            Ok(stream.boxed())
        })
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = self.request(convert::vote_request_to(&rpc));
        let reply = within(option.soft_ttl(), self.rpc.vote(request)).await?;
        convert::vote_reply_from(reply.get_ref()).map_err(malformed)
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        let request = self.request(convert::vote_request_to(&rpc));
        let reply = within(option.soft_ttl(), self.rpc.pre_vote(request)).await?;
        convert::vote_reply_from(reply.get_ref()).map_err(malformed)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = within(option.soft_ttl(), self.send_snapshot(vote, snapshot)) => Ok(sent?),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let request = self.request(convert::transfer_to(&req));
        let reply = within(option.soft_ttl(), self.rpc.transfer_leader(request)).await?;
        convert::transfer_reply_from(&req, reply.get_ref()).map_err(malformed)
    }
}
