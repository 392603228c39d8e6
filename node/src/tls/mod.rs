//! TLS of the node: SIP over TLS, and mutual TLS between nodes and toward operators.
//!
//! All configurations come from PEM files that were read and checked before (see [`Pems`]), use ring, and take their own
//! certificate through a [`TlsReloader`], so that it can be swapped without closing a connection.

mod identity;
mod pem;
mod reload;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig};

pub use identity::{Identity, IdentityKind, Role, not_after, peer_identity};
pub use pem::{PemPaths, Pems, TlsError};
pub use reload::TlsReloader;

/// HTTP/2, the only protocol of gRPC.
const ALPN_H2: &[u8] = b"h2";

/// What a SIP TLS server asks of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// No certificate: phones have none.
    #[default]
    None,
    /// A certificate of the CA file: a trunk with mutual TLS.
    Required,
}

/// SIP over TLS, accepting side: TLS 1.2 (RFC 3261 peers are old) and 1.3.
pub fn sip_server(own: &Arc<TlsReloader>, auth: ClientAuth) -> Result<Arc<ServerConfig>, TlsError> {
    server(own, &[&TLS13, &TLS12], auth).map(Arc::new)
}

/// SIP over TLS, opening side. The far end's certificate must come from the CA file and bear the name that the send asks for
/// ([`Transmit::tls_name`](sbc_core::io::Transmit::tls_name)), or its IP address. Our certificate is shown where it is asked for.
pub fn sip_client(own: &Arc<TlsReloader>) -> Result<Arc<ClientConfig>, TlsError> {
    client(own, &[&TLS13, &TLS12]).map(Arc::new)
}

/// gRPC, accepting side: TLS 1.3, clients need a certificate of the cluster's CA. For an incoming stream of
/// `tokio_rustls::server::TlsStream`s given to tonic's `serve_with_incoming`: swaps certificates hot.
pub fn grpc_server(own: &Arc<TlsReloader>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = server(own, &[&TLS13], ClientAuth::Required)?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// gRPC, opening side: TLS 1.3, with our certificate.
pub fn grpc_client(own: &Arc<TlsReloader>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client(own, &[&TLS13])?;
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

type Versions = [&'static rustls::SupportedProtocolVersion];

fn server(own: &Arc<TlsReloader>, versions: &Versions, auth: ClientAuth) -> Result<ServerConfig, TlsError> {
    let provider = pem::provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::content(own.cert_file(), e))?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required => {
            let verifier = WebPkiClientVerifier::builder_with_provider(own.roots(), provider)
                .build()
                .map_err(|e| TlsError::content(own.ca_file(), e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let resolver: Arc<TlsReloader> = Arc::clone(own);
    Ok(builder.with_cert_resolver(resolver))
}

fn client(own: &Arc<TlsReloader>, versions: &Versions) -> Result<ClientConfig, TlsError> {
    let resolver: Arc<TlsReloader> = Arc::clone(own);
    Ok(ClientConfig::builder_with_provider(pem::provider())
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::content(own.cert_file(), e))?
        .with_root_certificates(own.roots())
        .with_client_cert_resolver(resolver))
}
