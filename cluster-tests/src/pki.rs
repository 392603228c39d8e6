//! Certificate authorities of the world outside, and what they issue.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// A certificate's files.
#[derive(Clone, Debug)]
pub struct CertFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl CertFiles {
    /// The certificate itself (DER).
    ///
    /// # Panics
    /// The file does not hold one.
    pub fn der(&self) -> Vec<u8> {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        CertificateDer::from_pem_file(&self.cert).expect("a certificate's file").to_vec()
    }
}

/// One authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// The library refuses.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("its own signature").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Its certificate (PEM).
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `stem.crt` and `stem.key` into `dir`, for names (DNS or addresses) and URIs.
    ///
    /// # Panics
    /// The directory is not there, or a name cannot stand in a certificate.
    pub fn issue(&self, dir: &Path, stem: &str, names: &[&str], uris: &[&str]) -> CertFiles {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names of hosts");
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("ASCII")));
        }
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a signature");
        let files = CertFiles { cert: dir.join(format!("{stem}.crt")), key: dir.join(format!("{stem}.key")) };
        fs::write(&files.cert, cert.pem()).expect("the directory is writable");
        fs::write(&files.key, key.serialize_pem()).expect("the directory is writable");
        // A node refuses a key that others can read.
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).expect("it is ours");
        files
    }
}
