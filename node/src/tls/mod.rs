//! TLS of the node: SIP over TLS, and mutual TLS between nodes and toward operators.
//!
//! All configurations come from PEM files that were read and checked before (see [`Pems`]), and use ring. Certificates are
//! swapped without closing a connection: those of gRPC in a [`TlsReloader`], those of SIP, with the authorities, in a [`SipTls`].

mod identity;
mod names;
mod pem;
mod reload;
mod sip;
#[cfg(test)]
mod sip_tests;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

pub use identity::{Identity, IdentityKind, Role, not_after, peer_identity};
pub use names::SipNames;
pub use pem::{PemFaults, PemPart, PemPaths, Pems, TlsError};
pub use reload::TlsReloader;
pub use sip::{ClientAuth, ClientAuths, SipConfigs, SipTls};

/// HTTP/2, the only protocol of gRPC.
const ALPN_H2: &[u8] = b"h2";

/// gRPC, accepting side: TLS 1.3, clients need a certificate of the cluster's CA. For an incoming stream of
/// `tokio_rustls::server::TlsStream`s given to tonic's `serve_with_incoming`: swaps certificates hot.
pub fn grpc_server(own: &Arc<TlsReloader>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server(own)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// gRPC, opening side: TLS 1.3, with our certificate.
pub fn grpc_client(own: &Arc<TlsReloader>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client(own)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// The same for tonic's own acceptor: client certificates are required, but tonic also speaks TLS 1.2 and does not swap
/// certificates.
pub fn grpc_server_tls(pems: &Pems) -> tonic::transport::ServerTlsConfig {
    tonic::transport::ServerTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&pems.cert, &pems.key))
        .client_ca_root(tonic::transport::Certificate::from_pem(&pems.ca))
}

/// For tonic's own connector: the server's certificate must come from the CA and bear `name` (DNS name or IP address).
pub fn grpc_client_tls(pems: &Pems, name: &str) -> tonic::transport::ClientTlsConfig {
    tonic::transport::ClientTlsConfig::new()
        .identity(tonic::transport::Identity::from_pem(&pems.cert, &pems.key))
        .ca_certificate(tonic::transport::Certificate::from_pem(&pems.ca))
        .domain_name(name)
}

fn server(own: &Arc<TlsReloader>) -> Result<ServerConfig, TlsError> {
    let provider = pem::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::content(own.cert_file(), e))?;
    let verifier = WebPkiClientVerifier::builder_with_provider(own.roots(), provider)
        .build()
        .map_err(|e| TlsError::content(own.ca_file(), e))?;
    let resolver: Arc<TlsReloader> = Arc::clone(own);
    Ok(builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver))
}

fn client(own: &Arc<TlsReloader>) -> Result<ClientConfig, TlsError> {
    let resolver: Arc<TlsReloader> = Arc::clone(own);
    Ok(ClientConfig::builder_with_provider(pem::provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| TlsError::content(own.cert_file(), e))?
        .with_root_certificates(own.roots())
        .with_client_cert_resolver(resolver))
}
