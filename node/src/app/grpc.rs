//! The gRPC listener and the connections to peers: mutual TLS 1.3 under the cluster's CA.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sbc_raft::{Connector, PeerConfig};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::config::NodeConfig;
use crate::tls::{self, Pems};

/// A connection that is silent for so long is asked whether its far end is there, three times.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Binds the listener.
pub(super) async fn bind(listen: SocketAddr) -> Result<TcpListener, std::io::Error> {
    TcpListener::bind(listen).await
}

/// Addresses from which members connect: those that they listen on.
pub(super) fn member_addresses(config: &NodeConfig) -> Vec<IpAddr> {
    config.cluster.members.iter().map(|m| m.peer.ip()).collect()
}

/// Opens channels to peers.
pub(super) struct PeerConnector {
    pub(super) pems: Pems,
    /// The address that we listen on, by which peers know a member before it has shown its certificate; `None`: the kernel chooses.
    pub(super) from: Option<IpAddr>,
}

impl PeerConnector {
    pub(super) fn new(pems: Pems, config: &NodeConfig) -> PeerConnector {
        PeerConnector { pems, from: Some(config.grpc_listen.ip()).filter(|ip| !ip.is_unspecified()) }
    }
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
            // HTTP/2 asks nothing before the TLS handshake is over: a peer whose machine dies within it would be waited for
            // for ever.
            .tcp_keepalive(Some(KEEP_ALIVE))
            .tcp_keepalive_interval(Some(KEEP_ALIVE))
            .tcp_keepalive_retries(Some(3))
            .http2_keep_alive_interval(Duration::from_millis(500))
            .keep_alive_timeout(Duration::from_millis(800))
            .keep_alive_while_idle(true)
            .local_address(self.from)
            .connect_lazy()
    }
}
