//! PEM files: read whole, parsed, checked against each other before anything uses them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{RootCertStore, crypto};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::key_file;

/// Why certificates cannot be used: an error of the operator's files, so each variant names the file.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The file does not hold what it should.
    #[error("{file}: {cause}")]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        cause: String,
    },
}

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemPart {
    /// The chain.
    Cert,
    /// Its key.
    Key,
    /// The authorities.
    Ca,
}

/// All that is wrong with one set of files; never empty.
#[derive(Debug, Error)]
#[error("{}", self.0.iter().map(|(_, e)| e.to_string()).collect::<Vec<_>>().join("; "))]
pub struct PemFaults(pub Vec<(PemPart, TlsError)>);

impl TlsError {
    pub(super) fn content(file: &Path, cause: impl ToString) -> TlsError {
        TlsError::Content { file: file.to_owned(), cause: cause.to_string() }
    }
}

/// Which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PemPaths {
    /// Certificate chain, the end entity's first.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, PKCS#1 or SEC1).
    pub key: PathBuf,
    /// Certificates of the authorities that the other side is checked against.
    pub ca: PathBuf,
}

/// One set of files, read and checked: the key belongs to the certificate, the CA file has at least one certificate.
#[derive(Clone)]
pub struct Pems {
    /// Where they were read from, for messages.
    pub paths: PemPaths,
    /// The chain's file.
    pub cert: Vec<u8>,
    /// The key's file.
    pub key: Vec<u8>,
    /// The CA file.
    pub ca: Vec<u8>,
    certified: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
}

impl std::fmt::Debug for Pems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the key.
        f.debug_struct("Pems").field("paths", &self.paths).finish_non_exhaustive()
    }
}

impl Pems {
    /// Reads and checks the three files; all faults at once.
    pub fn load(paths: &PemPaths) -> Result<Pems, PemFaults> {
        let mut faults = Vec::new();
        let cert = read(&paths.cert).and_then(|pem| Ok((certificates(&pem, &paths.cert)?, pem)));
        let cert = cert.map_err(|e| faults.push((PemPart::Cert, e))).ok();
        let key = read_key(&paths.key).and_then(|pem| Ok((private_key(&pem, &paths.key)?, pem)));
        let key = key.map_err(|e| faults.push((PemPart::Key, e))).ok();
        let ca = read(&paths.ca).and_then(|pem| Ok((roots(&pem, &paths.ca)?, pem)));
        let ca = ca.map_err(|e| faults.push((PemPart::Ca, e))).ok();
        let (Some((chain, cert)), Some((signer, key))) = (cert, key) else { return Err(PemFaults(faults)) };
        let certified = certified_key(chain, signer, paths).map_err(|e| faults.push((PemPart::Key, e))).ok();
        let (Some(certified), Some((roots, ca))) = (certified, ca) else { return Err(PemFaults(faults)) };
        Ok(Pems { paths: paths.clone(), cert, key, ca, certified: Arc::new(certified), roots: Arc::new(roots) })
    }

    /// Chain and key in rustls' form.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// The end entity's certificate (DER).
    pub fn end_entity(&self) -> &[u8] {
        // `load` has refused a file without one.
        self.certified.cert.first().map_or(&[], |c| c)
    }

    /// The authorities in rustls' form.
    pub fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

/// The cryptography: ring, named in every configuration, so that no process-wide default is needed.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(crypto::ring::default_provider())
}

fn read_key(file: &Path) -> Result<Vec<u8>, TlsError> {
    key_file::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::Read { file: file.to_owned(), source })
}

fn certificates(pem: &[u8], file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| TlsError::content(file, e))?;
    if certs.is_empty() {
        return Err(TlsError::content(file, "no certificate in it"));
    }
    Ok(certs)
}

fn private_key(pem: &[u8], file: &Path) -> Result<Arc<dyn SigningKey>, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| TlsError::content(file, e))?;
    provider().key_provider.load_private_key(key).map_err(|e| TlsError::content(file, e))
}

fn certified_key(
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
    paths: &PemPaths,
) -> Result<CertifiedKey, TlsError> {
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err(TlsError::content(&paths.key, format!("the key does not belong to {}", paths.cert.display())))
        }
        Err(e) => Err(TlsError::content(&paths.cert, e)),
    }
}

fn roots(pem: &[u8], file: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for cert in certificates(pem, file)? {
        store.add(cert).map_err(|e| TlsError::content(file, e))?;
    }
    Ok(store)
}
