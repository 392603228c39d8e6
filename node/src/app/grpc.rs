//! The gRPC listener and the connections to peers: mutual TLS 1.3 under the cluster's CA.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use sbc_raft::{Connector, PeerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::tls::{self, IdentityKind, Pems};

/// Handshakes under way at once.
const HANDSHAKES: usize = 64;
/// Longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Connections that wait for the server to take them.
const ACCEPTED: usize = 64;
/// Pause after a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the listener.
pub(super) async fn bind(listen: SocketAddr) -> Result<TcpListener, std::io::Error> {
    TcpListener::bind(listen).await
}

/// Accepted connections after their handshake, which no slow client holds up for the others.
pub(super) fn incoming(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
) -> impl Stream<Item = Result<TlsStream<TcpStream>, std::io::Error>> {
    let (ready, accepted) = mpsc::channel(ACCEPTED);
    let acceptor = TlsAcceptor::from(config);
    let slots = Arc::new(Semaphore::new(HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            // A commit waits for each of these packets: without this it takes 40 ms more.
            let _ = stream.set_nodelay(true);
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    let _ = ready.send(Ok(stream)).await;
                }
                drop(slot);
            });
        }
    });
    ReceiverStream::new(accepted)
}

/// Opens channels to peers.
pub(super) struct PeerConnector {
    pub(super) pems: Pems,
}

impl Connector for PeerConnector {
    fn channel(&self, peer: &PeerConfig) -> Channel {
        let host = peer.addr.rsplit_once(':').map_or(peer.addr.as_str(), |(h, _)| h).trim_matches(['[', ']']).to_owned();
        let endpoint = Endpoint::from_shared(format!("https://{}", peer.addr))
            .and_then(|e| e.tls_config(tls::grpc_client_tls(&self.pems, &host)))
            .unwrap_or_else(|_| Endpoint::from_static("https://127.0.0.1:9"));
        endpoint
            .connect_timeout(Duration::from_millis(800))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_millis(500))
            .keep_alive_timeout(Duration::from_millis(800))
            .keep_alive_while_idle(true)
            .connect_lazy()
    }
}

/// Lets only nodes of this cluster call the services between nodes.
#[expect(clippy::result_large_err, reason = "tonic's own type")]
pub(super) fn only_nodes(cluster: &str, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
    let certs = request.peer_certs();
    let identity = certs.as_deref().and_then(|c| c.first()).and_then(|c| tls::peer_identity(c));
    match identity {
        Some(id) if id.kind == IdentityKind::Node && id.cluster == cluster => Ok(request),
        Some(id) => Err(Status::permission_denied(format!("{} is no node of {cluster}", id.name))),
        None => Err(Status::unauthenticated("no certificate of the cluster")),
    }
}
