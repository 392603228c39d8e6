//! The receiving end of links.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_proto::peer::peer_frame::Kind;
use sbc_proto::peer::peer_link_service_server::PeerLinkService;
use sbc_proto::peer::{Hello, PeerFrame, Pong};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::delay::OneWay;
use super::link::frame;
use super::words::{self, Words};
use super::{FromPeer, Myself, convert};

/// Frames that go back to one peer: Hello and Pongs only.
const BACK: usize = 16;

/// The format level that this node's log has reached.
pub type LogLevel = Arc<dyn Fn() -> u32 + Send + Sync>;

/// What peers call.
pub struct LinkService {
    myself: Myself,
    members: Vec<NodeId>,
    /// To the driver; what finds no room is dropped, and retransmitted by its far end.
    sink: mpsc::Sender<FromPeer>,
    level: LogLevel,
    words: Words,
    own: watch::Receiver<NodeState>,
}

impl LinkService {
    /// `members`: who may link; `sink`: the driver's queue; `level`: a node that does not know it is not linked with; `words`: where it is
    /// kept what peers say of themselves; `own`: how this node is.
    pub fn new(
        myself: Myself,
        members: Vec<NodeId>,
        sink: mpsc::Sender<FromPeer>,
        level: LogLevel,
        words: Words,
        own: watch::Receiver<NodeState>,
    ) -> LinkService {
        LinkService { myself, members, sink, level, words, own }
    }

    fn check(&self, hello: &Hello) -> Result<NodeId, Status> {
        if hello.cluster_id != self.myself.cluster_id {
            return Err(Status::permission_denied(format!("this is cluster {}", self.myself.cluster_id)));
        }
        let node = u16::try_from(hello.node).map(NodeId).map_err(|_| Status::invalid_argument("node id"))?;
        if !self.members.contains(&node) {
            return Err(Status::permission_denied(format!("node {node} is no member")));
        }
        let (level, knows) = ((self.level)(), super::level_of(hello));
        if knows < level {
            return Err(Status::failed_precondition(format!(
                "the log of this cluster has reached format level {level}; node {node} takes part in {knows}: upgrade it"
            )));
        }
        Ok(node)
    }
}

#[tonic::async_trait]
impl PeerLinkService for LinkService {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<PeerFrame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.next().await.ok_or_else(|| Status::invalid_argument("no Hello"))??;
        let Some(Kind::Hello(hello)) = first.kind else {
            return Err(Status::invalid_argument("the first frame must be a Hello"));
        };
        let from = self.check(&hello)?;
        let (back, answers) = mpsc::channel(BACK);
        let own = Hello {
            node: u32::from(self.myself.node.0),
            incarnation: self.myself.incarnation,
            cluster_id: self.myself.cluster_id.clone(),
            level: self.myself.level,
            state: Some(words::to_frame(*self.own.borrow())),
        };
        back.try_send(Ok(frame(Kind::Hello(own)))).map_err(|_| Status::internal("no room for Hello"))?;
        let (sink, words, own) = (self.sink.clone(), self.words.clone(), self.own.clone());
        words.note_frame(from, hello.incarnation, hello.state);
        tokio::spawn(async move {
            let mut delays = OneWay::default();
            while let Some(Ok(received)) = frames.next().await {
                let at = Instant::now();
                let waited = delays.excess(at, received.kind.as_ref().map_or(0, sent_us));
                match received.kind {
                    Some(Kind::Ping(ping)) => {
                        words.note_frame(from, hello.incarnation, ping.state);
                        let pong = Pong { nonce: ping.nonce, state: Some(words::to_frame(*own.borrow())) };
                        // A peer that does not read its Pongs has none to miss.
                        let _ = back.try_send(Ok(frame(Kind::Pong(pong))));
                    }
                    Some(kind) => {
                        if let Some(message) = convert::from_kind(from, kind)
                            && let Err(mpsc::error::TrySendError::Closed(_)) =
                                sink.try_send(FromPeer { from, message: message.aged(waited), at })
                        {
                            return;
                        }
                    }
                    None => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

/// The sender's clock when it wrote a frame; 0: it did not say.
fn sent_us(kind: &Kind) -> u64 {
    match kind {
        Kind::Relay(relay) => relay.sent_us,
        Kind::Ping(ping) => ping.sent_us,
        _ => 0,
    }
}
