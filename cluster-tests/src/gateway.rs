//! A gateway that nodes open TLS connections to.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::phone::ANSWER;
use crate::pki::CertFiles;
use crate::stream::{READ, StreamPhone};
use crate::wait;

/// Listens at one address.
#[derive(Debug)]
pub struct Gateway {
    listener: TcpListener,
    config: Arc<ServerConfig>,
}

impl Gateway {
    /// With this certificate; it asks for none.
    ///
    /// # Panics
    /// The address is taken, or the files are not good.
    pub fn bind(at: SocketAddr, own: &CertFiles) -> Gateway {
        let listener = TcpListener::bind(at).unwrap_or_else(|e| panic!("cannot bind {at}: {e}"));
        listener.set_nonblocking(true).expect("a socket");
        let chain = vec![CertificateDer::from_pem_file(&own.cert).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(&own.key).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring supports the default versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("the key is the certificate's");
        Gateway { listener, config: Arc::new(config) }
    }

    /// The next connection, and the name that it was asked for by (SNI).
    ///
    /// # Errors
    /// The handshake failed: why.
    ///
    /// # Panics
    /// Nobody connects.
    pub fn accept(&self) -> std::io::Result<(StreamPhone, Option<String>)> {
        let (mut tcp, _) = wait::until("a connection to the gateway", ANSWER, || self.listener.accept());
        let at = tcp.local_addr()?;
        tcp.set_nonblocking(false)?;
        tcp.set_read_timeout(Some(ANSWER))?;
        tcp.set_write_timeout(Some(ANSWER))?;
        let mut session = ServerConnection::new(self.config.clone()).map_err(std::io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut tcp)?;
        }
        tcp.set_read_timeout(Some(READ))?;
        let name = session.server_name().map(str::to_owned);
        Ok((StreamPhone::over(Box::new(StreamOwned::new(session, tcp)), at, "TLS"), name))
    }
}
