//! Handshakes over an in-memory pipe, with certificates made on the spot.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A directory of one test, removed at its end.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sbc-tls-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// An authority under this one.
    pub(crate) fn signed(&self, change: impl FnOnce(&mut CertificateParams)) -> Authority {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Writes cert, key and CA files for the names (DNS or IP) and URIs into `dir`.
    pub(crate) fn issue(&self, dir: &Path, stem: &str, names: &[&str], uris: &[&str]) -> PemPaths {
        self.issue_with(dir, stem, names, uris, |_| {})
    }

    /// The same, with something about the certificate changed.
    pub(crate) fn issue_with(
        &self,
        dir: &Path,
        stem: &str,
        names: &[&str],
        uris: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> PemPaths {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let file = |ext: &str| dir.join(format!("{stem}.{ext}"));
        std::fs::write(file("crt"), cert.pem()).unwrap();
        crate::key_file::write(&file("key"), key.serialize_pem());
        std::fs::write(file("ca"), &self.pem).unwrap();
        PemPaths { cert: file("crt"), key: file("key"), ca: file("ca") }
    }
}

/// SIP's configurations from these files.
pub(crate) fn sip(paths: &PemPaths, auths: ClientAuths) -> SipConfigs {
    SipConfigs::build(&Pems::load(paths).unwrap(), auths).unwrap()
}

pub(crate) fn reloader(paths: &PemPaths) -> Arc<TlsReloader> {
    TlsReloader::new(&Pems::load(paths).unwrap())
}

/// Shakes hands and passes one octet each way; on success the certificates that the server and the client saw.
pub(super) async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<(Option<Vec<u8>>, Vec<u8>), String> {
    let (a, b) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let accept = async {
        let mut s = TlsAcceptor::from(server).accept(a).await.map_err(|e| e.to_string())?;
        let x = s.read_u8().await.map_err(|e| e.to_string())?;
        s.write_u8(x + 1).await.map_err(|e| e.to_string())?;
        s.flush().await.map_err(|e| e.to_string())?;
        Ok::<_, String>(s.get_ref().1.peer_certificates().map(|c| c[0].to_vec()))
    };
    let connect = async {
        let mut s = TlsConnector::from(client).connect(name, b).await.map_err(|e| e.to_string())?;
        s.write_u8(1).await.map_err(|e| e.to_string())?;
        s.flush().await.map_err(|e| e.to_string())?;
        assert_eq!(s.read_u8().await.map_err(|e| e.to_string())?, 2);
        Ok::<_, String>(s.get_ref().1.peer_certificates().unwrap()[0].to_vec())
    };
    let (s, c) = tokio::join!(accept, connect);
    Ok((s?, c?))
}

#[tokio::test]
async fn another_clusters_authority_is_refused() {
    let dir = Dir::new();
    let ours = reloader(&Authority::new().issue(&dir.0, "a", &["sbc.test"], &[]));
    let theirs = reloader(&Authority::new().issue(&dir.0, "b", &["sbc.test"], &[]));
    let server = grpc_server(&ours).unwrap();
    assert!(handshake(server, grpc_client(&theirs).unwrap(), "sbc.test").await.is_err());
}

#[tokio::test]
async fn grpc_is_mutual_and_carries_the_identity() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let node = reloader(&ca.issue(&dir.0, "node", &["node-a"], &["spiffe://lab/node/node-a"]));
    let user = reloader(&ca.issue(&dir.0, "user", &["x"], &["spiffe://lab/user/jane", "sbc-role:operator"]));
    let (seen_by_server, seen_by_client) =
        handshake(grpc_server(&node).unwrap(), grpc_client(&user).unwrap(), "node-a").await.unwrap();
    let jane = peer_identity(&seen_by_server.unwrap()).unwrap();
    assert_eq!(
        jane,
        Identity { kind: IdentityKind::User, name: "jane".into(), cluster: "lab".into(), role: Some(Role::Operator) }
    );
    assert_eq!(peer_identity(&seen_by_client).unwrap().kind, IdentityKind::Node);
    // Without a certificate: refused.
    let bare = ClientConfig::builder_with_provider(pem::provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(node.roots())
        .with_no_client_auth();
    assert!(handshake(grpc_server(&node).unwrap(), Arc::new(bare), "node-a").await.is_err());
    // TLS 1.2: refused.
    let old = ClientConfig::builder_with_provider(pem::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(node.roots())
        .with_client_cert_resolver(user);
    assert!(handshake(grpc_server(&node).unwrap(), Arc::new(old), "node-a").await.is_err());
}

#[test]
fn identities_that_are_not_well_formed_are_nobody() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let of = |uris: &[&str]| peer_identity(reloader(&ca.issue(&dir.0, "x", &["x"], uris)).current().cert[0].as_ref());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&["spiffe://lab/node/a", "spiffe://lab/node/b"]), None);
    assert_eq!(of(&["spiffe://lab/node/a/b"]), None);
    assert_eq!(of(&["spiffe://lab/robot/a"]), None);
    assert_eq!(of(&["spiffe://lab/user/"]), None);
    assert_eq!(of(&["spiffe://lab/user/a", "sbc-role:god"]).unwrap().role, None);
    assert_eq!(of(&["spiffe://lab/user/a", "sbc-role:admin", "sbc-role:viewer"]).unwrap().role, None);
    assert_eq!(of(&["spiffe://lab/system/cad-1"]).unwrap().kind, IdentityKind::System);
    assert_eq!(peer_identity(b"junk"), None);
    for role in [Role::Viewer, Role::Operator, Role::Admin, Role::Dispatcher, Role::Auditor] {
        assert_eq!(Role::from_name(role.name()), Some(role));
    }
}

#[tokio::test]
async fn grpc_swaps_its_certificate() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let paths = ca.issue(&dir.0, "a", &["sbc.test"], &[]);
    let own = reloader(&paths);
    let server = grpc_server(&own).unwrap();
    let before = handshake(Arc::clone(&server), grpc_client(&own).unwrap(), "sbc.test").await.unwrap().1;
    // A new certificate with the old key is no set.
    let fresh = ca.issue(&dir.0, "b", &["sbc.test"], &[]);
    std::fs::copy(&fresh.cert, &paths.cert).unwrap();
    let error = Pems::load(&paths).unwrap_err().to_string();
    assert!(error.contains("a.key") && error.contains("does not belong"), "{error}");
    std::fs::copy(&fresh.key, &paths.key).unwrap();
    assert!(own.swap(&Pems::load(&paths).unwrap()), "the authorities are the same");
    // (A fresh client: a resumed session would show the certificate of its first handshake.)
    assert_ne!(handshake(server, grpc_client(&own).unwrap(), "sbc.test").await.unwrap().1, before);
    let other = Authority::new().issue(&dir.0, "c", &["sbc.test"], &[]);
    assert!(!own.swap(&Pems::load(&other).unwrap()), "other authorities");
}

#[test]
fn errors_name_each_file() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let paths = ca.issue(&dir.0, "a", &["x"], &[]);
    let missing = PemPaths { ca: dir.0.join("nowhere.pem"), ..paths.clone() };
    assert!(Pems::load(&missing).unwrap_err().to_string().contains("nowhere.pem"));
    // All at once.
    let two = PemPaths { cert: dir.0.join("no.crt"), key: paths.cert.clone(), ..missing };
    let parts: Vec<PemPart> = Pems::load(&two).unwrap_err().0.into_iter().map(|(part, _)| part).collect();
    assert_eq!(parts, [PemPart::Cert, PemPart::Key, PemPart::Ca]);
    std::fs::write(&paths.ca, "no pem").unwrap();
    let error = Pems::load(&paths).unwrap_err().to_string();
    assert!(error.contains("a.ca") && error.contains("no certificate"), "{error}");
}

#[test]
fn tonic_takes_the_files() {
    let (dir, ca) = (Dir::new(), Authority::new());
    let pems = Pems::load(&ca.issue(&dir.0, "a", &["node-a"], &[])).unwrap();
    assert!(tonic::transport::Server::builder().tls_config(grpc_server_tls(&pems)).is_ok());
    let endpoint = tonic::transport::Endpoint::from_static("https://127.0.0.1:1");
    assert!(endpoint.tls_config(grpc_client_tls(&pems, "node-a")).is_ok());
    assert!(not_after(&pems.certified().cert[0]).unwrap() > 0);
}
