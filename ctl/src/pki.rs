//! A cluster's certificate authority and what it issues. An identity is a URI in the certificate:
//! `spiffe://CLUSTER/node/NAME` or `spiffe://CLUSTER/user/NAME`, and a user's role is a second one, `sbc-role:ROLE`.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use crate::error::{Exit, Failure};
use crate::files;

/// How long an authority lasts.
const CA_DAYS: u32 = 3650;
/// Certificates are valid from this long ago, so that a clock that lags does not refuse them.
const BACKDATED: Duration = Duration::from_secs(3600);
/// Longest name of a cluster, node or user: that of a DNS label, since names stand in host names, too.
const MAX_NAME: usize = 63;

/// A certificate's holder, with what it needs besides the name.
pub(crate) enum Subject<'a> {
    /// A node, with the addresses that it serves (SIP over TLS, gRPC).
    Node { name: &'a str, addresses: &'a [IpAddr] },
    /// A person or a program that uses gRPC.
    User { name: &'a str, role: Role },
}

/// Whom a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum IdentityKind {
    Node,
    User,
}

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    Viewer,
    Operator,
    Admin,
    Dispatcher,
    Auditor,
}

impl Role {
    /// As it stands in a certificate.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Dispatcher => "dispatcher",
            Role::Auditor => "auditor",
        }
    }
}

/// Signs certificates.
pub(crate) struct Authority {
    cluster: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new one: `ca.crt` and `ca.key` in `dir`.
    pub(crate) fn create(dir: &Path, cluster: &str, force: bool) -> Result<Authority, Failure> {
        check_name("cluster", cluster)?;
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        keep(&[&cert_path, &key_path], force)?;
        let mut params = params(CA_DAYS, &format!("{cluster} SBC authority"))?;
        // The name of the cluster travels in the authority's certificate, so that `issue` need not be told.
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fault)?;
        let cert = params.self_signed(&key).map_err(fault)?;
        files::make_dir(dir)?;
        files::write_secret(&key_path, key.serialize_pem().as_bytes())?;
        files::write(&cert_path, cert.pem().as_bytes())?;
        Ok(Authority { cluster: cluster.to_owned(), issuer: Issuer::new(params, key) })
    }

    /// The one in `dir`.
    pub(crate) fn load(dir: &Path) -> Result<Authority, Failure> {
        let pem = files::read(&dir.join("ca.crt"))?;
        let key = KeyPair::from_pem(&files::read(&dir.join("ca.key"))?).map_err(fault)?;
        let cluster = cluster_of(&pem)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).map_err(fault)?;
        Ok(Authority { cluster, issuer })
    }

    /// Issues `NAME.crt` and `NAME.key` into `dir`.
    pub(crate) fn issue(&self, dir: &Path, subject: &Subject<'_>, days: u32, force: bool) -> Result<(), Failure> {
        let (kind, name) = match subject {
            Subject::Node { name, .. } => ("node", *name),
            Subject::User { name, .. } => ("user", *name),
        };
        check_name(kind, name)?;
        if name == "ca" {
            return Err(Failure::new(Exit::Usage, "\"ca\" is the authority's own name"));
        }
        let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        keep(&[&cert_path, &key_path], force)?;
        let mut params = params(days, name)?;
        params.subject_alt_names.push(uri(&format!("spiffe://{}/{kind}/{name}", self.cluster))?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        match subject {
            Subject::Node { addresses, .. } => {
                params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
                params.subject_alt_names.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
            }
            Subject::User { role, .. } => params.subject_alt_names.push(uri(&format!("sbc-role:{}", role.name()))?),
        }
        let key = KeyPair::generate().map_err(fault)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(fault)?;
        files::make_dir(dir)?;
        files::write_secret(&key_path, key.serialize_pem().as_bytes())?;
        files::write(&cert_path, cert.pem().as_bytes())
    }
}

fn params(days: u32, common_name: &str) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::default();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(|e| Failure::failed("the clock stands before 1970").cause(e))?;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let mut serial = files::random::<16>()?;
    // RFC 5280 §4.1.2.2: positive.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

fn uri(text: &str) -> Result<SanType, Failure> {
    text.try_into().map(SanType::URI).map_err(|e| Failure::failed(format!("{text} cannot stand in a certificate")).cause(e))
}

fn fault(error: rcgen::Error) -> Failure {
    Failure::failed("the certificate cannot be made").cause(error)
}

/// Names stand in URIs and file names.
fn check_name(kind: &str, name: &str) -> Result<(), Failure> {
    let good = !name.is_empty()
        && name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_'));
    match good {
        true => Ok(()),
        false => Err(Failure::new(Exit::Usage, format!("{name:?} is no name of a {kind}"))
            .hint(format!("at most {MAX_NAME} lower-case letters, digits, '-', '.', '_', beginning with a letter or digit"))),
    }
}

/// Refuses to overwrite.
fn keep(paths: &[&Path], force: bool) -> Result<(), Failure> {
    match paths.iter().find(|p| !force && p.exists()) {
        None => Ok(()),
        Some(path) => Err(Failure::new(Exit::Conflict, format!("{} exists", path.display())).hint("--force overwrites it")),
    }
}

/// The cluster that an authority belongs to: the organization in its subject.
fn cluster_of(pem: &str) -> Result<String, Failure> {
    let wrong = || Failure::failed("ca.crt is not an authority that `sbcctl pki init` made");
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| wrong().cause(e))?;
    let cert = pem.parse_x509().map_err(|e| wrong().cause(e))?;
    let cluster = cert.subject().iter_organization().next().and_then(|o| o.as_str().ok()).ok_or_else(wrong)?;
    check_name("cluster", cluster)?;
    Ok(cluster.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::files::TempDir;

    fn names(path: &Path) -> Vec<String> {
        let text = files::read(path).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(text.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let san = cert.subject_alternative_name().unwrap().unwrap();
        san.value
            .general_names
            .iter()
            .map(|n| match n {
                GeneralName::URI(uri) => uri.to_string(),
                GeneralName::IPAddress(octets) => format!("{octets:?}"),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn issues_identities_and_keeps_keys_secret() {
        let dir = TempDir::new();
        Authority::create(&dir.0, "dev", false).unwrap();
        let authority = Authority::load(&dir.0).unwrap();
        let node = Subject::Node { name: "node-a", addresses: &["127.0.0.11".parse().unwrap()] };
        authority.issue(&dir.0, &node, 30, false).unwrap();
        authority.issue(&dir.0, &Subject::User { name: "ann", role: Role::Operator }, 30, false).unwrap();
        assert_eq!(names(&dir.0.join("node-a.crt")), ["spiffe://dev/node/node-a", "[127, 0, 0, 11]"]);
        assert_eq!(names(&dir.0.join("ann.crt")), ["spiffe://dev/user/ann", "sbc-role:operator"]);
        for key in ["ca.key", "node-a.key", "ann.key"] {
            assert_eq!(std::fs::metadata(dir.0.join(key)).unwrap().permissions().mode() & 0o777, 0o600, "{key}");
        }
    }

    #[test]
    fn what_it_issues_verifies_under_the_authority() {
        let dir = TempDir::new();
        let authority = Authority::create(&dir.0, "dev", false).unwrap();
        authority.issue(&dir.0, &Subject::User { name: "ann", role: Role::Admin }, 30, false).unwrap();
        let read = |name: &str| x509_parser::pem::parse_x509_pem(files::read(&dir.0.join(name)).unwrap().as_bytes()).unwrap().1;
        let (ca, user) = (read("ca.crt"), read("ann.crt"));
        let (ca, user) = (ca.parse_x509().unwrap(), user.parse_x509().unwrap());
        assert_eq!(user.issuer(), ca.subject());
        assert!(ca.is_ca() && !user.is_ca() && user.validity().is_valid());
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = TempDir::new();
        Authority::create(&dir.0, "dev", false).unwrap();
        assert_eq!(Authority::create(&dir.0, "dev", false).err().map(|e| e.exit), Some(Exit::Conflict));
        assert!(Authority::create(&dir.0, "dev", true).is_ok());
    }

    #[test]
    fn names_that_would_leave_their_place_are_refused() {
        let dir = TempDir::new();
        let authority = Authority::create(&dir.0, "dev", false).unwrap();
        for name in ["", "../x", "a/b", "UPPER", "a b", "ca", ".hidden", &"x".repeat(64)] {
            let subject = Subject::User { name, role: Role::Viewer };
            assert_eq!(authority.issue(&dir.0, &subject, 1, true).err().map(|e| e.exit), Some(Exit::Usage), "{name:?}");
        }
    }
}
