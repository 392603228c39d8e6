//! Certificates that can be swapped while the listeners run: new handshakes use the new ones, living connections stay.

use std::path::Path;
use std::sync::{Arc, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};

use super::pem::{PemPaths, Pems};

/// Holds the certificate in use and where it comes from. One for each pair of certificate and key.
///
/// The authorities are read at the start only: adding one needs a restart, as each configuration embeds its verifier.
#[derive(Debug)]
pub struct TlsReloader {
    paths: PemPaths,
    current: RwLock<Arc<CertifiedKey>>,
    roots: Arc<RootCertStore>,
}

impl TlsReloader {
    /// Starts with a checked set of files.
    pub fn new(pems: &Pems) -> Arc<TlsReloader> {
        Arc::new(TlsReloader { paths: pems.paths.clone(), current: RwLock::new(pems.certified()), roots: pems.roots() })
    }

    /// Handshakes that begin from now on use this certificate. False: its authorities are other ones than at the start, which
    /// needs a restart.
    pub fn swap(&self, fresh: &Pems) -> bool {
        *self.current.write().expect("no panic while held") = fresh.certified();
        fresh.roots().roots == self.roots.roots
    }

    /// The certificate in use.
    pub fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read().expect("no panic while held"))
    }

    pub(super) fn cert_file(&self) -> &Path {
        &self.paths.cert
    }

    pub(super) fn ca_file(&self) -> &Path {
        &self.paths.ca
    }

    /// The authorities read at the start.
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl ResolvesServerCert for TlsReloader {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for TlsReloader {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
