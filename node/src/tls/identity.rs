//! Who a certificate speaks for.
//!
//! A URI SAN `spiffe://<cluster>/{node,user,system}/<name>` names the bearer, exactly one in a certificate. A user's role is a
//! second URI SAN, `sbc-role:<role>`: in the certificate, so that a node without quorum still knows what the bearer may do. A
//! user without it has no role and is refused; role bindings in the configuration may later override it.

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest cluster or bearer name: it goes into logs and audit lines.
const NAME_MAX: usize = 128;

/// What kind of bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// A node of the cluster.
    Node,
    /// A person, or a program acting for one.
    User,
    /// A system beside the cluster, such as a dispatch system.
    System,
}

/// What a bearer may do; what each role holds is the control plane's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sees state.
    Viewer,
    /// Moves traffic, ends calls.
    Operator,
    /// Changes configuration and access.
    Admin,
    /// Gets emergency events with caller data.
    Dispatcher,
    /// Reads the audit log.
    Auditor,
}

impl Role {
    /// The role of that name, lower case.
    pub fn from_name(name: &str) -> Option<Role> {
        Some(match name {
            "viewer" => Role::Viewer,
            "operator" => Role::Operator,
            "admin" => Role::Admin,
            "dispatcher" => Role::Dispatcher,
            "auditor" => Role::Auditor,
            _ => return None,
        })
    }

    /// Its name, lower case.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::Dispatcher => "dispatcher",
            Role::Auditor => "auditor",
        }
    }
}

/// The bearer of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What kind.
    pub kind: IdentityKind,
    /// Its name within the cluster and kind.
    pub name: String,
    /// The cluster: the trust domain.
    pub cluster: String,
    /// From `sbc-role:`, where there is exactly one such SAN and it names a role.
    pub role: Option<Role>,
}

/// The identity in a certificate (DER) whose chain has been checked already. `None`: it has none, more than one, or one that
/// is not well formed; the bearer is then nobody.
pub fn peer_identity(cert_der: &[u8]) -> Option<Identity> {
    let (_, cert) = X509Certificate::from_der(cert_der).ok()?;
    let san = cert.subject_alternative_name().ok()??;
    let uris: Vec<&str> =
        san.value.general_names.iter().filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None }).collect();
    let ids: Vec<&str> = uris.iter().filter_map(|u| u.strip_prefix("spiffe://")).collect();
    let [id] = ids[..] else { return None };
    let mut parts = id.split('/');
    let (Some(cluster), Some(kind), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let kind = match kind {
        "node" => IdentityKind::Node,
        "user" => IdentityKind::User,
        "system" => IdentityKind::System,
        _ => return None,
    };
    if !is_name(cluster) || !is_name(name) {
        return None;
    }
    let roles: Vec<&str> = uris.iter().filter_map(|u| u.strip_prefix("sbc-role:")).collect();
    let role = if let [role] = roles[..] { Role::from_name(role) } else { None };
    Some(Identity { kind, name: name.to_owned(), cluster: cluster.to_owned(), role })
}

/// The end of a certificate's validity, in seconds since the Unix epoch; for the expiry metric.
pub fn not_after(cert_der: &[u8]) -> Option<i64> {
    let (_, cert) = X509Certificate::from_der(cert_der).ok()?;
    Some(cert.validity().not_after.timestamp())
}

/// SPIFFE-ID §2: letters, digits, dot, dash, underscore.
fn is_name(s: &str) -> bool {
    !s.is_empty() && s.len() <= NAME_MAX && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
