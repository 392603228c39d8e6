//! The server side of `RaftService`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{BoxStream, FuturesUnordered};
use futures::{Stream, StreamExt};
use openraft::async_runtime::watch::WatchReceiver;
use sbc_proto::peer as pb;
use sbc_proto::peer::raft_service_server::{RaftService, RaftServiceServer};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::config::{MAX_ENTRY, MAX_MESSAGE, MAX_SNAPSHOT};
use crate::convert::{self, Malformed};
use crate::error::ReadError;
use crate::ledger::Ledger;
use crate::monitor;
use crate::network::Identity;
use crate::proposer::{self, Outcome};
use crate::snapshot::{Incoming, SnapshotFile, SnapshotStore};
use crate::state_machine::blocking;
use crate::types::{Raft, Snapshot, SnapshotMeta, Vote};

/// Entries of one forwarding peer that are not yet answered: as many as a peer sends, see `proposer`.
const MAX_FORWARDED: usize = proposer::MAX_IN_FLIGHT;

/// What the peers call; mount it on the gRPC server that checks their certificates.
#[derive(Clone)]
pub struct PeerService {
    running: watch::Receiver<Option<Raft>>,
    identity: Identity,
    snapshots: SnapshotStore,
    /// One snapshot is received at a time: the only leader there is sends one.
    receiving: Arc<tokio::sync::Semaphore>,
    admitted: Arc<AtomicBool>,
    ledger: Ledger,
}

impl PeerService {
    pub(crate) fn new(
        running: watch::Receiver<Option<Raft>>,
        identity: Identity,
        snapshots: SnapshotStore,
        admitted: Arc<AtomicBool>,
        ledger: Ledger,
    ) -> PeerService {
        PeerService { running, identity, snapshots, receiving: Arc::new(tokio::sync::Semaphore::new(1)), admitted, ledger }
    }

    /// The tonic service with its message limits set: use this, not `RaftServiceServer::new`, whose 4 MiB are too few.
    pub fn into_server(self) -> RaftServiceServer<PeerService> {
        RaftServiceServer::new(self).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)
    }

    /// Refuses while the log cannot be written: no vote, no acknowledgement.
    fn raft(&self) -> Result<Raft, Status> {
        self.running.borrow().clone().ok_or_else(|| Status::unavailable("this node takes no part in raft: its log has failed"))
    }

    fn check<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        if !self.admitted.load(Ordering::Acquire) {
            return Err(Status::unavailable("this node has a new log directory, and is not admitted yet"));
        }
        self.identity.check(request.metadata())
    }

    /// Refuses a vote while this node's own vote may have acknowledged a leader that it has forgotten (see `ledger`). One for a transfer the
    /// leader itself has asked for.
    fn check_vote(&self, transfer: bool) -> Result<(), Status> {
        if transfer {
            self.ledger.forget_vote();
            return Ok(());
        }
        match self.ledger.may_vote() {
            true => Ok(()),
            false => Err(Status::unavailable("this node does not know yet whether a leader counts on its vote")),
        }
    }

    /// For what only members may ask. A node that was removed would else be told of a lease, and no more of entries.
    fn check_member<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let from = self.check(request)?;
        let member = self.raft()?.metrics().borrow_watched().membership_config.get_node(&from).is_some();
        if member { Ok(from) } else { Err(Status::permission_denied("no member")) }
    }

    /// Takes the chunks into a file and checks it.
    async fn receive(&self, mut chunks: Streaming<pb::SnapshotChunk>) -> Result<(Vote, SnapshotMeta, SnapshotFile), Status> {
        let first = chunks.message().await?.ok_or_else(|| Status::invalid_argument("no snapshot"))?;
        let header = first.header.ok_or_else(|| Status::invalid_argument("no header"))?;
        let (vote, meta) = convert::snapshot_header_from(&header).map_err(malformed)?;
        if header.length > MAX_SNAPSHOT {
            return Err(Status::resource_exhausted("snapshot too long"));
        }
        let mut incoming = self.snapshots.receive().map_err(disk)?;
        incoming.append(&first.data).map_err(disk)?;
        let mut received = first.data.len() as u64;
        while let Some(chunk) = chunks.message().await? {
            received += chunk.data.len() as u64;
            incoming = blocking(move || write(incoming, &chunk.data)).await.map_err(disk)?;
        }
        if received != header.length {
            return Err(Status::data_loss("snapshot incomplete"));
        }
        let (file, found) = blocking(move || {
            let file = incoming.finish()?;
            let (meta, _) = file.load()?;
            Ok((file, meta))
        })
        .await
        .map_err(|error| Status::data_loss(error.to_string()))?;
        if found != meta {
            return Err(Status::data_loss("the snapshot is not the one announced"));
        }
        Ok((vote, meta, file))
    }
}

fn write(mut incoming: Incoming, data: &[u8]) -> std::io::Result<Incoming> {
    incoming.append(data)?;
    Ok(incoming)
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn disk(error: std::io::Error) -> Status {
    tracing::error!(%error, "snapshot cannot be stored");
    Status::unavailable("the snapshot cannot be stored")
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("raft has stopped: {error}"))
}

/// Inbound messages, checked one by one; ends at the first that is broken or malformed.
fn requests<M, T>(inbound: Streaming<M>, convert: fn(M) -> Result<T, Malformed>) -> impl Stream<Item = T> + Send + 'static
where
    M: Send + 'static,
    T: Send + 'static,
{
    futures::stream::unfold(inbound, move |mut inbound| async move {
        let message = inbound.message().await.ok()??;
        match convert(message) {
            Ok(request) => Some((request, inbound)),
            Err(error) => {
                tracing::warn!(%error, "stream of a peer ended");
                None
            }
        }
    })
}

#[tonic::async_trait]
impl RaftService for PeerService {
    type AppendEntriesStream = BoxStream<'static, Result<pb::AppendReply, Status>>;
    type ForwardStream = ReceiverStream<Result<pb::ForwardReply, Status>>;

    async fn append_entries(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        self.check(&request)?;
        let replies = self.raft()?.stream_append(requests(request.into_inner(), convert::append_from));
        let replies = replies.map(|result| match result {
            Ok(result) => Ok(convert::append_reply_to(&result)),
            Err(fatal) => Err(stopped(fatal)),
        });
        Ok(Response::new(replies.boxed()))
    }

    async fn append_once(&self, request: Request<pb::AppendRequest>) -> Result<Response<pb::AppendReply>, Status> {
        self.check(&request)?;
        let request = convert::append_from(request.into_inner()).map_err(malformed)?;
        let mut replies = self.raft()?.stream_append(futures::stream::iter([request])).boxed();
        let result = replies.next().await.ok_or_else(|| stopped("no reply"))?.map_err(stopped)?;
        Ok(Response::new(convert::append_reply_to(&result)))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        self.check(&request)?;
        let request = convert::vote_request_from(request.get_ref()).map_err(malformed)?;
        self.check_vote(request.leadership_transfer)?;
        let reply = self.raft()?.vote(request).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_reply_to(&reply)))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        self.check(&request)?;
        let request = convert::vote_request_from(request.get_ref()).map_err(malformed)?;
        self.check_vote(false)?;
        let reply = self.raft()?.pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_reply_to(&reply)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        self.check(&request)?;
        let _one = self.receiving.try_acquire().map_err(|_| Status::unavailable("a snapshot is being received"))?;
        let (vote, meta, snapshot) = self.receive(request.into_inner()).await?;
        let reply = self.raft()?.install_full_snapshot(vote, Snapshot { meta, snapshot }).await.map_err(stopped)?;
        Ok(Response::new(pb::SnapshotReply { ballot: Some(convert::vote_to(&reply.vote)) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderReply>, Status> {
        self.check(&request)?;
        let request = convert::transfer_from(request.get_ref()).map_err(malformed)?;
        self.ledger.forget_vote();
        let reply = self.raft()?.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(Response::new(convert::transfer_reply_to(&reply)))
    }

    async fn forward(&self, request: Request<Streaming<pb::ForwardRequest>>) -> Result<Response<Self::ForwardStream>, Status> {
        self.check_member(&request)?;
        let (replies, receiver) = mpsc::channel(MAX_FORWARDED);
        tokio::spawn(serve_forward(self.raft()?, request.into_inner(), replies));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn read_index(&self, request: Request<pb::ReadIndexRequest>) -> Result<Response<pb::ReadIndexReply>, Status> {
        let from = self.check_member(&request)?;
        match monitor::read_index(&self.raft()?).await {
            Ok(_) if !self.ledger.confirm(from) => Err(Status::unavailable("this member is being declared down")),
            Ok(index) => Ok(Response::new(pb::ReadIndexReply { index })),
            Err(ReadError::NoLeader) => Err(Status::failed_precondition("not the leader")),
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// Appends what a peer forwards, in order, and answers as entries are committed. Ends with the stream or with Raft.
async fn serve_forward(
    raft: Raft,
    mut inbound: Streaming<pb::ForwardRequest>,
    replies: mpsc::Sender<Result<pb::ForwardReply, Status>>,
) {
    let mut pending = FuturesUnordered::new();
    let mut open = true;
    while open || !pending.is_empty() {
        tokio::select! {
            // Not read when full: HTTP/2 flow control holds the peer back.
            message = inbound.message(), if open && pending.len() < MAX_FORWARDED => match message {
                Ok(Some(request)) if request.entry.len() <= MAX_ENTRY => {
                    let outcome = proposer::submit(&raft, request.entry).await;
                    pending.push(async move { (request.sequence, outcome.await) });
                }
                Ok(Some(_)) => {
                    let _ = replies.send(Err(Status::invalid_argument("entry too long"))).await;
                    return;
                }
                Ok(None) | Err(_) => open = false,
            },
            Some((sequence, outcome)) = pending.next(), if !pending.is_empty() => {
                let result = match outcome {
                    Outcome::Index(index) => pb::forward_reply::Result::Index(index),
                    Outcome::NotLeader(leader) => pb::forward_reply::Result::NotLeader(leader.unwrap_or(0)),
                    Outcome::Stopped => {
                        let _ = replies.send(Err(Status::unavailable("raft has stopped"))).await;
                        return;
                    }
                };
                if replies.send(Ok(pb::ForwardReply { sequence, result: Some(result) })).await.is_err() {
                    return;
                }
            }
            () = replies.closed() => return,
        }
    }
}
