//! The gRPC interfaces of the cluster, generated from the .proto files beside this crate's source.
//!
//! Module paths follow the protobuf packages below `sbc`, so that generated code finds its neighbours: `sbc.v1` is
//! [`v1`], `sbc.peer.v1` is [`peer`].

/// Control, for people and dispatch systems.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/sbc.v1.rs"));
}

/// Node to node.
pub mod peer {
    /// The package `sbc.peer.v1`.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
        include!(concat!(env!("OUT_DIR"), "/sbc.peer.v1.rs"));
    }
    #[allow(unused_imports, unreachable_pub)]
    pub use v1::*;
}

/// Encoded `google.protobuf.FileDescriptorSet` of `sbc.v1` with its imports and options: for gRPC reflection, for
/// proto JSON, and for reading the permission of an RPC.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// `google.rpc.ErrorInfo.domain` of every error.
pub const ERROR_DOMAIN: &str = "sbc.v1";

impl v1::ErrorReason {
    /// The reason as it stands in `google.rpc.ErrorInfo`: UPPER_SNAKE without the enum's prefix.
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix("ERROR_REASON_").unwrap_or(name)
    }

    /// The inverse of [`v1::ErrorReason::reason`]; `None` for a reason that this version does not know.
    pub fn from_reason(reason: &str) -> Option<v1::ErrorReason> {
        v1::ErrorReason::from_str_name(&format!("ERROR_REASON_{reason}"))
    }
}
