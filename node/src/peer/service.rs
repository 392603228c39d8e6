//! The receiving end of links.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sbc_core::ids::NodeId;
use sbc_core::io::NodeState;
use sbc_proto::peer::peer_frame::Kind;
use sbc_proto::peer::peer_link_service_server::PeerLinkService;
use sbc_proto::peer::{AdmitRequest, AdmitResponse, Hello, PeerFrame, Pong};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::delay::OneWay;
use super::link::frame;
use super::words::{self, Words};
use super::{FromPeer, Myself, convert, skew};
use crate::tls::{Identity, IdentityKind};

/// Frames that go back to one peer: Hello and Pongs only.
const BACK: usize = 16;

/// What is answered to a node that asks whether it may take part with a data id.
pub type Admit = dyn Fn(NodeId, Bytes) -> Pin<Box<dyn Future<Output = AdmitResponse> + Send>> + Send + Sync;

/// What this node's log says of the others.
pub struct LogFacts {
    /// The format level that it has reached.
    pub level: Box<dyn Fn() -> u32 + Send + Sync>,
    /// Whether a node may take part with this data id.
    pub admit: Box<Admit>,
}

/// What peers call.
#[derive(Clone)]
pub struct LinkService {
    myself: Myself,
    members: Vec<(NodeId, String)>,
    /// To the driver; what finds no room is dropped, and retransmitted by its far end.
    sink: mpsc::Sender<FromPeer>,
    facts: Arc<LogFacts>,
    words: Words,
    own: watch::Receiver<NodeState>,
}

impl LinkService {
    /// `members` with their names, which their certificates bear; `sink`: the driver's queue; `words`: where it is kept what peers say of
    /// themselves; `own`: how this node is.
    pub fn new(
        myself: Myself,
        members: Vec<(NodeId, String)>,
        sink: mpsc::Sender<FromPeer>,
        facts: LogFacts,
        words: Words,
        own: watch::Receiver<NodeState>,
    ) -> LinkService {
        LinkService { myself, members, sink, facts: Arc::new(facts), words, own }
    }

    /// Who speaks: a member of this cluster, whose certificate bears its name.
    fn member(&self, node: u32, cluster_id: &str, bearer: Option<&Identity>) -> Result<NodeId, Status> {
        if cluster_id != self.myself.cluster_id {
            return Err(Status::permission_denied(format!("this is cluster {}", self.myself.cluster_id)));
        }
        let node = u16::try_from(node).map(NodeId).map_err(|_| Status::invalid_argument("node id"))?;
        let Some((_, name)) = self.members.iter().find(|(id, _)| *id == node) else {
            return Err(Status::permission_denied(format!("node {node} is no member")));
        };
        match bearer {
            Some(bearer) if bearer.kind == IdentityKind::Node && bearer.name == *name => Ok(node),
            Some(bearer) => {
                Err(Status::permission_denied(format!("the certificate is {}'s, and node {node} is {name}", bearer.name)))
            }
            None => Err(Status::permission_denied("no certificate")),
        }
    }

    fn check(&self, hello: &Hello, bearer: Option<&Identity>) -> Result<NodeId, Status> {
        let node = self.member(hello.node, &hello.cluster_id, bearer)?;
        let (level, knows) = ((self.facts.level)(), super::level_of(hello));
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
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let bearer = request.extensions().get::<Identity>().cloned();
        let asked = request.into_inner();
        let node = self.member(asked.node, &asked.cluster_id, bearer.as_ref())?;
        Ok(Response::new((self.facts.admit)(node, asked.data_id).await))
    }

    type LinkStream = Pin<Box<dyn Stream<Item = Result<PeerFrame, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<PeerFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let bearer = request.extensions().get::<Identity>().cloned();
        let mut frames = request.into_inner();
        let first = frames.next().await.ok_or_else(|| Status::invalid_argument("no Hello"))??;
        let Some(Kind::Hello(hello)) = first.kind else {
            return Err(Status::invalid_argument("the first frame must be a Hello"));
        };
        let from = self.check(&hello, bearer.as_ref())?;
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
                        let pong =
                            Pong { nonce: ping.nonce, unix_ms: skew::wall_ms(), state: Some(words::to_frame(*own.borrow())) };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(level: u32) -> LinkService {
        let myself = Myself { node: NodeId(1), incarnation: 1, cluster_id: "lab".into(), level: 2 };
        let facts =
            LogFacts { level: Box::new(move || level), admit: Box::new(|_, _| Box::pin(async { AdmitResponse::default() })) };
        let members = vec![(NodeId(1), "node-a".into()), (NodeId(3), "node-c".into())];
        let own = watch::Sender::new(NodeState::default()).subscribe();
        let words = Words::new(Arc::new(watch::Sender::new(0)));
        LinkService::new(myself, members, mpsc::channel(1).0, facts, words, own)
    }

    fn bearer(kind: IdentityKind, name: &str) -> Identity {
        Identity { kind, name: name.into(), cluster: "lab".into(), role: None }
    }

    #[test]
    fn a_node_is_who_its_certificate_says() {
        let hello = |node, level| Hello { node, incarnation: 1, cluster_id: "lab".into(), level, state: None };
        let node_c = bearer(IdentityKind::Node, "node-c");
        assert_eq!(service(1).check(&hello(3, 2), Some(&node_c)).unwrap(), NodeId(3));
        for (node, who) in
            [(3, Some(bearer(IdentityKind::Node, "node-a"))), (3, Some(bearer(IdentityKind::User, "node-c"))), (3, None)]
        {
            let refused = service(1).check(&hello(node, 2), who.as_ref()).unwrap_err();
            assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{who:?}");
        }
        assert!(service(1).check(&hello(9, 2), Some(&node_c)).is_err(), "no member");
    }

    #[test]
    fn a_node_that_does_not_know_the_log_is_not_linked_with() {
        let hello = |level| Hello { node: 3, incarnation: 1, cluster_id: "lab".into(), level, state: None };
        let node_c = bearer(IdentityKind::Node, "node-c");
        // 0: of a version that knew no levels.
        assert!(service(1).check(&hello(0), Some(&node_c)).is_ok());
        let refused = service(2).check(&hello(0), Some(&node_c)).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
        assert!(refused.message().contains("format level 2") && refused.message().contains("upgrade"), "{}", refused.message());
    }
}
