//! What the control plane may do with this node.

use std::sync::Arc;

use sbc_proto::peer::peer_link_service_server::PeerLinkServiceServer;
use sbc_raft::PeerService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::interceptor::InterceptedService;

use super::{AppError, Node, grpc};
use crate::peer::LinkService;

/// Serves the control plane and the peers on one listener.
pub(super) fn serve(
    node: &Arc<Node>,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    raft: PeerService,
    links: LinkService,
) -> Result<(), AppError> {
    let cluster = node.config.cluster.id.clone();
    let nodes_only = {
        let cluster = cluster.clone();
        move |request| grpc::only_nodes(&cluster, request)
    };
    let server = tonic::transport::Server::builder()
        .add_service(InterceptedService::new(raft.into_server(), nodes_only.clone()))
        .add_service(InterceptedService::new(PeerLinkServiceServer::new(links), nodes_only));
    let incoming = grpc::incoming(listener, tls);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(incoming).await {
            tracing::error!(%error, "the gRPC server has stopped");
        }
    });
    Ok(())
}

/// Whether the node drains; clones share it.
#[derive(Clone)]
pub struct Draining {
    value: watch::Sender<bool>,
}

impl Default for Draining {
    fn default() -> Draining {
        Draining { value: watch::Sender::new(false) }
    }
}

impl Draining {
    /// Now.
    pub fn get(&self) -> bool {
        *self.value.borrow()
    }

    /// Sets it.
    pub fn set(&self, draining: bool) {
        self.value.send_replace(draining);
    }

    /// Tells of changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.value.subscribe()
    }
}
