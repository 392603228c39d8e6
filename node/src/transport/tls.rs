//! TLS handshakes of connections, either direction: what they are made with, how they ended, and who the far end is.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::ServerName;
use sbc_core::io::{AddressRole, SendFailure};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Shared;
use super::table::OpenKey;
use crate::tls::{SipNames, SipTls};

/// Domains of one far end that are kept with its connection: a gateway has a few.
const PROVED_MAX: usize = 16;

/// Takes the handshake of a connection that came to an address of `role`. `None`: it failed, or `reset` fired.
pub(super) async fn accept(
    shared: &Shared,
    tls: &SipTls,
    role: AddressRole,
    remote: SocketAddr,
    tcp: TcpStream,
    reset: &mut oneshot::Receiver<()>,
) -> Option<TlsStream<TcpStream>> {
    let configs = tls.current();
    let config = match role {
        AddressRole::Anycast | AddressRole::Unicast => &configs.external,
        AddressRole::Core => &configs.core,
    };
    // The handshake owns the socket: with linger 0 set before it, dropping it at any point of it resets.
    let acceptor = TlsAcceptor::from(Arc::clone(config));
    let reset_if_dropped = SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).is_ok();
    let handshake = timeout(shared.config.limits.handshake, acceptor.accept(tcp).into_fallible());
    let done = tokio::select! {
        done = handshake => done.ok(),
        _ = reset => None,
    };
    let done = done.map(|d| {
        d.map(TlsStream::Server).map_err(|(error, tcp)| {
            if is_about_certificate(&error) {
                // Its operator is to read our alert, which a reset would overtake.
                let _ = SockRef::from(&tcp).set_linger(None);
            }
            error
        })
    });
    let stream = shared.ended(false, remote, done).ok()?;
    if reset_if_dropped {
        let _ = SockRef::from(stream.get_ref().0).set_linger(None);
    }
    Some(stream)
}

/// Opens TLS on a connection of ours, toward the name in `key`, else the address.
pub(super) async fn connect(
    shared: &Shared,
    tls: &SipTls,
    key: &OpenKey,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, SendFailure> {
    let name = match &key.tls_name {
        Some(name) => ServerName::try_from(name.to_string()).map_err(|_| SendFailure::Refused)?,
        None => ServerName::IpAddress(key.remote.ip().into()),
    };
    let connector = TlsConnector::from(Arc::clone(&tls.current().client));
    let done = timeout(shared.config.limits.handshake, connector.connect(name, tcp)).await.ok();
    shared.ended(true, key.remote, done.map(|d| d.map(TlsStream::Client)))
}

impl Shared {
    /// Counts and logs how a handshake ended; `None`: it did not, in time.
    fn ended(
        &self,
        opened: bool,
        remote: SocketAddr,
        done: Option<io::Result<TlsStream<TcpStream>>>,
    ) -> Result<TlsStream<TcpStream>, SendFailure> {
        let counts = if opened { &self.stats.tls_opened } else { &self.stats.tls_accepted };
        let error = match done {
            None => {
                counts.given_up.inc();
                return Err(SendFailure::TimedOut);
            }
            Some(Ok(stream)) => {
                match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
                    None => counts.anonymous.inc(),
                    Some(certificate) => {
                        counts.identified.inc();
                        let names = SipNames::of(certificate).shown();
                        tracing::debug!(%remote, opened, ?names, "TLS with a far end that has proved who it is");
                    }
                }
                return Ok(stream);
            }
            Some(Err(error)) => error,
        };
        if is_about_certificate(&error) {
            counts.certificate.inc();
            tracing::info!(%remote, opened, %error, "TLS handshake failed: the far end's certificate");
        } else if opened {
            counts.failed.inc();
            tracing::info!(%remote, opened, %error, "TLS handshake failed");
        } else {
            counts.failed.inc();
            // Scanners end so all the time.
            tracing::debug!(%remote, opened, %error, "TLS handshake failed");
        }
        Err(SendFailure::Refused)
    }
}

/// The SIP domains that the far end has proved to be.
pub(super) fn proved(stream: &TlsStream<TcpStream>) -> Box<[Box<str>]> {
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    certificate.map(|c| SipNames::of(c).domains().take(PROVED_MAX).map(Box::from).collect()).unwrap_or_default()
}

/// True where it is the far end's certificate that ended the handshake.
fn is_about_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}
