//! Which permission an RPC needs, as its .proto says, and what each role holds.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::Message;

use crate::tls::{IdentityKind, Role};

/// What stands in the descriptor of an RPC (sbc/v1/options.proto).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Such as `call.read`.
    pub permission: String,
    /// The answer can carry personal data.
    pub pii: bool,
}

/// Caller data and locations.
pub const PII_READ: &str = "pii.read";

// As much of descriptor.proto as is needed, with our two options: prost_types drops options that it does not know.
#[derive(Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<File>,
}

#[derive(Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    service: Vec<Service>,
}

#[derive(Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    method: Vec<Method>,
}

#[derive(Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    options: Option<Options>,
}

#[derive(Message)]
struct Options {
    #[prost(string, tag = "50101")]
    permission: String,
    #[prost(bool, tag = "50102")]
    pii: bool,
}

static TABLE: LazyLock<BTreeMap<String, Needs>> = LazyLock::new(|| {
    let set = FileSet::decode(sbc_proto::FILE_DESCRIPTOR_SET).expect("the build wrote it");
    let mut table = BTreeMap::new();
    for file in set.file {
        for service in file.service {
            for method in service.method {
                let options = method.options.unwrap_or_default();
                let path = format!("/{}.{}/{}", file.package, service.name, method.name);
                table.insert(path, Needs { permission: options.permission, pii: options.pii });
            }
        }
    }
    table
});

/// What an RPC of `sbc.v1` needs, by its path `/sbc.v1.CallService/List`. An RPC without a permission is not found here, and
/// so never runs.
pub fn needs(path: &str) -> Option<&'static Needs> {
    TABLE.get(path).filter(|n| !n.permission.is_empty())
}

/// Whether a bearer holds a permission. A node by itself only reads: what it does for somebody, it does on behalf.
pub fn allowed(kind: IdentityKind, role: Option<Role>, permission: &str) -> bool {
    let read = permission.ends_with(".read") && permission != PII_READ && permission != "dispatch.read";
    match (kind, role) {
        (IdentityKind::Node, None) => permission.ends_with(".read"),
        (_, None) => false,
        (_, Some(Role::Admin)) => true,
        (_, Some(Role::Viewer)) => read,
        (_, Some(Role::Operator)) => {
            read || matches!(permission, PII_READ | "dispatch.read" | "node.write" | "call.terminate" | "policy.write")
        }
        (_, Some(Role::Dispatcher)) => read || matches!(permission, PII_READ | "dispatch.read"),
        (_, Some(Role::Auditor)) => read || permission == PII_READ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rpc_has_a_permission() {
        assert!(TABLE.len() >= 18, "{}", TABLE.len());
        for (path, needs) in TABLE.iter() {
            assert!(needs.permission.split_once('.').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty()), "{path}");
            assert!(allowed(IdentityKind::User, Some(Role::Admin), &needs.permission));
            assert!(!allowed(IdentityKind::User, None, &needs.permission), "{path}");
        }
        assert_eq!(needs("/sbc.v1.CallService/Terminate"), Some(&Needs { permission: "call.terminate".into(), pii: true }));
        assert_eq!(needs("/sbc.v1.CallService/Nothing"), None);
    }

    #[test]
    fn roles() {
        let may = |role, p| allowed(IdentityKind::User, Some(role), p);
        assert!(may(Role::Viewer, "call.read") && !may(Role::Viewer, PII_READ) && !may(Role::Viewer, "node.write"));
        assert!(!may(Role::Viewer, "dispatch.read") && may(Role::Dispatcher, "dispatch.read"));
        assert!(may(Role::Operator, "policy.write") && !may(Role::Dispatcher, "policy.write"));
        assert!(may(Role::Operator, "call.terminate") && !may(Role::Operator, "config.write"));
        assert!(may(Role::Admin, "config.write") && !may(Role::Auditor, "call.terminate"));
        assert!(allowed(IdentityKind::Node, None, "node.read") && !allowed(IdentityKind::Node, None, "node.write"));
    }
}
